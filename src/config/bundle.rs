//! The YAML of a configuration as it was read, to go back to: [`Bundle`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::files::framed;

/// The most bytes that all files of a configuration may have together.
pub const TOTAL_MAX: usize = 8 * 1024 * 1024;
/// What a bundle is called in the directory that it is saved to.
pub const FILE_NAME: &str = "last-good.json";

/// What is written while the new one is not whole.
const UNFINISHED: &str = ".last-good.json.new";
/// The form of the file. Another number is another form.
const FORMAT: u32 = 1;
/// JSON writes a line break as two characters; the rest is names.
const SAVED_MAX: usize = 2 * TOTAL_MAX + 1024 * 1024;

/// The texts of the files that a configuration was read from, with nothing filled in: where a file says `${env:…}` or
/// `${file:…}`, so does this, so it holds no secret that came from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// The directory of the main file: what relative paths start from.
    pub(super) directory: PathBuf,
    /// The main file, then those that it includes, in the order they were read in.
    pub(super) files: Vec<BundledFile>,
}

/// One of the files of a [`Bundle`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledFile {
    /// What messages call it.
    pub name: String,
    /// Where it was, relative to the directory of the main file if it was below that.
    pub path: PathBuf,
    /// What it said.
    pub text: Arc<str>,
}

/// As a bundle is saved.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    format: u32,
    content_hash: String,
    directory: PathBuf,
    files: Vec<BundledFile>,
}

/// Why a saved bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not what was saved.
    #[error("{path} is not what armiger saved: {what}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl Bundle {
    /// The directory of the main file: what relative paths start from.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The main file, then those that it includes, in the order they were read in.
    pub fn files(&self) -> &[BundledFile] {
        &self.files
    }

    /// Bytes of all texts.
    pub fn len(&self) -> usize {
        self.files.iter().map(|file| file.text.len()).sum()
    }

    /// Whether there is nothing in it: nothing could be read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The SHA-256 of paths and texts, as 64 hexadecimal digits. The directory does not count, nor does the name of the
    /// main file.
    pub fn content_hash(&self) -> String {
        let mut digest = Sha256::new();
        for (position, file) in self.files.iter().enumerate() {
            let path = if position == 0 { Path::new("") } else { &file.path };
            framed(&mut digest, path.as_os_str().as_encoded_bytes());
            framed(&mut digest, file.text.as_bytes());
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes it into a directory, as [`FILE_NAME`], which only its owner may read. Whoever reads that file, at any time
    /// and after any crash, finds all of this bundle or all of the one before.
    ///
    /// # Errors
    /// The directory is not there or cannot be written to; the bundle is empty or larger than [`TOTAL_MAX`]; a path in it is
    /// not UTF-8.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if self.is_empty() {
            return refuse("there is no configuration to save");
        }
        if self.len() > TOTAL_MAX {
            return refuse("the configuration is too large to be saved");
        }
        let saved = Saved {
            format: FORMAT,
            content_hash: self.content_hash(),
            // Whoever starts from it may do so elsewhere.
            directory: std::path::absolute(&self.directory).or_else(|_| std::env::current_dir())?,
            files: self.files.clone(),
        };
        let json = serde_json::to_vec(&saved)?;
        if json.len() > SAVED_MAX {
            return refuse("the configuration is too large to be saved");
        }
        let unfinished = directory.join(UNFINISHED);
        let written = write(&unfinished, &json).and_then(|()| fs::rename(&unfinished, directory.join(FILE_NAME)));
        if written.is_err() {
            // Best effort: the next one removes it too.
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        File::open(directory)?.sync_all()
    }

    /// Reads what was saved to a directory. `None`: nothing was.
    ///
    /// # Errors
    /// It cannot be read, or it is not what [`save`](Self::save) writes.
    pub fn open(directory: &Path) -> Result<Option<Self>, BundleError> {
        let path = directory.join(FILE_NAME);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(SAVED_MAX as u64 + 1).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BundleError::Unreadable { path, error }),
            Ok(_) => {}
        }
        match Self::decode(&bytes) {
            Ok(bundle) => Ok(Some(bundle)),
            Err(what) => Err(BundleError::Broken { path, what }),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > SAVED_MAX {
            return Err("it is too large".into());
        }
        let saved: Saved = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if saved.format != FORMAT {
            return Err(format!("it has the form {}, and this armiger knows {FORMAT}", saved.format));
        }
        let bundle = Self { directory: saved.directory, files: saved.files };
        match bundle.len() {
            0 => Err("there is nothing in it".into()),
            length if length > TOTAL_MAX => Err("the configuration in it is too large".into()),
            _ if bundle.content_hash() != saved.content_hash => Err("its content was changed".into()),
            _ => Ok(bundle),
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // One that a crash left behind. Made anew rather than written over: it may be a link, or have another mode.
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn bundle(texts: &[(&str, &str)]) -> Bundle {
        let files = texts
            .iter()
            .map(|(path, text)| BundledFile { name: format!("/x/{path}"), path: path.into(), text: (*text).into() })
            .collect();
        Bundle { directory: "/x".into(), files }
    }

    #[test]
    fn what_is_saved_is_what_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        assert_eq!(Bundle::open(at).unwrap(), None);
        for texts in [&[("a.yaml", "a: \"é\\n\"\n")][..], &[("a.yaml", "x"), ("conf.d/b.yaml", "${env:SECRET}")]] {
            let bundle = bundle(texts);
            bundle.save(at).unwrap();
            assert_eq!(Bundle::open(at).unwrap(), Some(bundle));
        }
        let mode = fs::metadata(at.join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(at).unwrap().count(), 1, "nothing unfinished stays");
    }

    #[test]
    fn what_a_crash_left_is_no_hindrance() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join(UNFINISHED)).unwrap();
        bundle(&[("a", "x")]).save(directory.path()).unwrap();
        assert_eq!(fs::read_to_string(victim).unwrap(), "mine");
        assert!(Bundle::open(directory.path()).unwrap().is_some());
    }

    #[test]
    fn what_cannot_be_saved_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let good = bundle(&[("a", "x")]);
        good.save(directory.path()).unwrap();
        let large = "x".repeat(TOTAL_MAX + 1);
        for bad in [bundle(&[]), bundle(&[("a", "")]), bundle(&[("a", &large)])] {
            assert_eq!(bad.save(directory.path()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(Bundle::open(directory.path()).unwrap(), Some(good.clone()));
        assert!(good.save(&directory.path().join("none")).is_err());
    }

    #[test]
    fn what_was_not_saved_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        bundle(&[("a", "text")]).save(directory.path()).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        for (content, reason) in [
            (String::new(), "EOF"),
            (good[..good.len() / 2].to_owned(), "EOF"),
            (good.replace("text\"}", "texd\"}"), "was changed"),
            (good.replace("\"format\":1", "\"format\":9"), "form 9"),
            (" ".repeat(SAVED_MAX + 1), "too large"),
        ] {
            fs::write(&path, content).unwrap();
            let error = Bundle::open(directory.path()).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(FILE_NAME), "{error}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(Bundle::open(directory.path()), Err(BundleError::Unreadable { .. })));
    }

    #[test]
    fn the_hash_is_of_texts_and_relative_paths() {
        let one = bundle(&[("a", "x"), ("b", "y")]);
        let elsewhere = Bundle { directory: "/other".into(), ..bundle(&[("main", "x"), ("b", "y")]) };
        assert_eq!(one.content_hash(), elsewhere.content_hash());
        assert_eq!(one.content_hash().len(), 64);
        for other in
            [&[("a", "x"), ("b", "z")][..], &[("a", "x"), ("c", "y")], &[("a", "x")], &[("a", "xb"), ("", "y")]]
        {
            assert_ne!(one.content_hash(), bundle(other).content_hash());
        }
    }
}
