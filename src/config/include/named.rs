//! Which files the main file names.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use super::super::bundle::TOTAL_MAX;
use super::super::files::NAMES_MAX;
use super::super::issue::{Issue, KeyPath, quote};
use super::super::load::FILE_MAX;
use super::super::yaml::tree::{Content, Entry, Node, Scalar};
use super::{Assembly, Text, is_pattern, utf8};

/// How many files a configuration may include.
pub const FILES_MAX: usize = 200;

impl Assembly<'_, '_> {
    /// Reads the files that the main file names.
    pub(super) fn named(&mut self, root: &Node, main: &Path, may_include: bool) -> Vec<Text> {
        let Some(Entry { key, value: Node { content: Content::List(items), .. } }) = root.entry("include") else {
            return Vec::new();
        };
        if !may_include && !items.is_empty() {
            self.is_partial = true;
            self.issues.push(
                Issue::new(KeyPath::root().key("include"), "a text that is no file cannot include others")
                    .span(key.span.clone())
                    .hint("put it into a file, and start from that"),
            );
            return Vec::new();
        }
        let mut seen = HashSet::from([self.reader.resolve(main).0]);
        let mut texts = Vec::new();
        let mut total = self.text.len();
        for (position, item) in items.iter().enumerate() {
            let Some(scalar) = item.scalar().filter(|_| !self.lost.contains(&item.id)) else { continue };
            let at = |message: String, hint: &str| {
                Issue::new(KeyPath::root().key("include").index(position), message)
                    .span(item.span.clone())
                    .hint(hint.to_owned())
            };
            let paths = match self.paths(scalar) {
                Ok(paths) => paths,
                Err((message, hint)) => {
                    self.refuse(at(message, hint));
                    continue;
                }
            };
            for path in paths {
                if !seen.insert(self.reader.resolve(&path).0) {
                    continue;
                }
                if texts.len() == FILES_MAX {
                    self.refuse(at(
                        format!("there are more than {FILES_MAX} files to include"),
                        "see that the pattern means what it should, or join some of the files",
                    ));
                    return texts;
                }
                let bytes = match self.bytes(&path, is_pattern(&scalar.text)) {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => continue,
                    Err((what, hint)) => {
                        self.refuse(at(format!("cannot read {}: {what}", quote(&path.to_string_lossy())), hint));
                        continue;
                    }
                };
                total += bytes.len();
                if total > TOTAL_MAX {
                    self.refuse(at(
                        format!("with this the configuration is larger than {} MiB", TOTAL_MAX >> 20),
                        "split the work among several armigers",
                    ));
                    return texts;
                }
                let name = path.display().to_string();
                let (content, wrong) = match utf8(bytes) {
                    Ok(content) => (content, None),
                    Err(wrong) => (wrong.0, Some(wrong.1)),
                };
                texts.push(Text { name, path, content, wrong });
            }
        }
        texts
    }

    /// The files that an entry of `include` stands for.
    fn paths(&mut self, entry: &Scalar) -> Result<Vec<PathBuf>, (String, &'static str)> {
        if entry.is_outside() {
            return Err((
                "which files are read cannot come from outside".into(),
                "write the path out, so that the file alone says what the configuration is",
            ));
        }
        if entry.text.is_empty() {
            return Err(("names no file".into(), "write a path or a pattern, such as `conf.d/*.yaml`"));
        }
        let path = self.directory.join(&entry.text);
        if !is_pattern(&entry.text) {
            return Ok(vec![path]);
        }
        let Some((directory, name)) = path.parent().zip(path.file_name()) else {
            return Err((format!("{} names no file", quote(&entry.text)), "write a pattern such as `conf.d/*.yaml`"));
        };
        let name = name.to_string_lossy();
        if entry.text.ends_with('/') || !is_pattern(&name) || is_pattern(parent_of(&entry.text)) || name.contains("**")
        {
            return Err((
                format!("{} has a `*`, `?` or `[` that is not in the name of a file", quote(&entry.text)),
                "a pattern looks into one directory: write one per directory, such as `conf.d/*.yaml`",
            ));
        }
        let names = self.reader.matches(directory, &name).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => {
                (format!("{} is no pattern: {error}", quote(&entry.text)), "close the `[`, or write `[[]` for a `[`")
            }
            io::ErrorKind::FileTooLarge => (
                format!("the directory of {} has more than {NAMES_MAX} names", quote(&entry.text)),
                "give the configuration a directory of its own",
            ),
            io::ErrorKind::PermissionDenied => (
                format!("cannot list the directory of {}: permission denied", quote(&entry.text)),
                "let the user that armiger runs as list it",
            ),
            _ => (
                format!("cannot list the directory of {}: {error}", quote(&entry.text)),
                "see that it is a readable directory",
            ),
        })?;
        Ok(names.into_iter().map(|name| directory.join(name)).collect())
    }

    /// The content of a file to include, or why there is none. `None`: a directory whose name happens to fit a pattern.
    fn bytes(&mut self, path: &Path, by_pattern: bool) -> Result<Option<Vec<u8>>, (String, &'static str)> {
        // Whoever opens a named pipe waits for someone to write into it.
        if let Ok(metadata) = self.reader.metadata(path)
            && !metadata.is_file()
        {
            if metadata.is_dir() && by_pattern {
                return Ok(None);
            }
            self.reader.pass_over(path);
            return match metadata.is_dir() {
                true => Err(("it is a directory".into(), "name the files in it, such as `conf.d/*.yaml`")),
                false => Err(("it is no regular file".into(), "include plain files only")),
            };
        }
        match self.reader.read(path, FILE_MAX) {
            Ok(bytes) if bytes.len() > FILE_MAX => {
                Err((format!("it is larger than {} MiB", FILE_MAX >> 20), "split it into several files"))
            }
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::NotFound if by_pattern => {
                    ("its link leads to no file".into(), "remove the link, or create what it leads to")
                }
                io::ErrorKind::NotFound => (
                    "no such file".into(),
                    "create it, or mend the path, which starts from the directory of this file; a pattern may fit nothing",
                ),
                io::ErrorKind::PermissionDenied => {
                    ("permission denied".into(), "let the user that armiger runs as read it")
                }
                _ => (error.to_string(), "see that it is a readable file"),
            }),
        }
    }
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
