//! Reads the files of a configuration as of one moment, and remembers what was read: [`Inputs`].
//!
//! Kubernetes changes all files of a ConfigMap at once by swapping one link, `..data`, through which every file is
//! reached. So a `Reader` looks at each link once: whatever is swapped meanwhile, all files are read from the same
//! directory behind it. Afterwards [`Inputs::is_unchanged`] tells whether that is still what the names lead to.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use super::bundle::Bundle;
use super::load::FILE_MAX;

/// How many names a directory that a pattern looks into may have.
pub const NAMES_MAX: usize = 10_000;
/// How many links one path may lead through. The kernel's own bound.
const LINKS_MAX: usize = 40;

/// Everything that a configuration was read from, as it was when it was read.
#[derive(Clone, Debug)]
pub struct Inputs {
    stamps: Vec<Stamp>,
    listings: Vec<Listing>,
    bundle: Bundle,
    content_hash: String,
    fingerprint: Fingerprint,
    is_starved: bool,
}

/// What names and patterns lead to at one time. Equal: nothing was changed in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    stamps: Vec<Stamp>,
    /// `None`: a directory that cannot be listed.
    listings: Vec<Option<Listing>>,
}

/// A file when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its path, as the configuration names it.
    pub path: PathBuf,
    /// Where that leads, all links followed.
    pub resolved: PathBuf,
    /// Which file that is, and since when it has been as it is. `None`: there is none.
    pub identity: Option<FileIdentity>,
    /// Directories that hold the links on the way.
    links: Vec<PathBuf>,
}

/// Tells a file from another, and from itself after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// The file system.
    pub device: u64,
    /// The file in it.
    pub inode: u64,
    /// Bytes. 0 of what is no regular file, as are the times: a pipe changes by being read.
    pub size: u64,
    /// When its content was last written: seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
    /// When its content, owner or mode was last written: unlike `modified`, nobody can set it back.
    pub changed: (i64, i64),
}

/// A directory that a pattern looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The directory, as the configuration names it.
    pub directory: PathBuf,
    /// Where that leads, all links followed.
    pub resolved: PathBuf,
    /// What names had to fit.
    pub pattern: String,
    /// Those that did, sorted. Empty also of a directory that is not there.
    pub names: Vec<OsString>,
    links: Vec<PathBuf>,
}

/// A digest of all that was read, the values of `${file:…}` included. Equal: the same was read.
///
/// It has a key of this process's own and shows nothing of itself, since a short secret could be guessed from it.
#[derive(Clone, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

impl Inputs {
    /// Whether each name still leads to the same file, unchanged since it was opened, and each pattern to the same names.
    ///
    /// `false`: what was read may be half of one configuration and half of another, or is no longer the present one.
    pub fn is_unchanged(&self) -> bool {
        let now = self.look_again();
        let is_same = |(then, now): (&Listing, &Option<Listing>)| match now {
            Some(now) => now == then,
            None => then.names.is_empty(),
        };
        now.stamps == self.stamps && self.listings.iter().zip(&now.listings).all(is_same)
    }

    /// Whether reading every file again gives the same bytes: a file that is written in place twice within one tick of the
    /// file system's clock shows it in nothing else.
    pub fn has_same_content(&self) -> bool {
        // A pipe gives its content once.
        let is_pipe = |stamp: &Stamp| stamp.identity.is_some_and(|identity| identity.changed == (0, 0));
        if self.stamps.iter().any(is_pipe) {
            return true;
        }
        let mut reader = Reader::new();
        for stamp in &self.stamps {
            // What cannot be read is part of the comparison too.
            let _ = reader.read(&stamp.path, FILE_MAX);
        }
        // What could not be looked at is looked at again.
        reader.is_starved || reader.fingerprint() == self.fingerprint
    }

    /// Whether something was not read since this process, or the machine, has no file descriptor left: what was read says
    /// nothing of the files.
    pub fn is_starved(&self) -> bool {
        self.is_starved
    }

    /// What the same names and patterns lead to now.
    pub fn look_again(&self) -> Sight {
        let mut reader = Reader::new();
        let stamp = |stamp: &Stamp| {
            let (resolved, links) = reader.resolve(&stamp.path);
            let identity = fs::metadata(&resolved).ok().map(|metadata| FileIdentity::of(&metadata));
            Stamp { path: stamp.path.clone(), resolved, identity, links }
        };
        let stamps = self.stamps.iter().map(stamp).collect();
        let listing = |listing: &Listing| reader.list(&listing.directory, &listing.pattern).ok();
        Sight { stamps, listings: self.listings.iter().map(listing).collect() }
    }

    /// Whether a file was empty or not there: somebody may be about to write it.
    pub fn is_incomplete(&self) -> bool {
        self.stamps.iter().any(|stamp| stamp.identity.is_none_or(|identity| identity.size == 0))
    }

    /// Every directory in which a change may be a change of the configuration, sorted: where the files are named, where
    /// links on the way stand (`..data`), where the files are in truth, and where patterns look. Of one that is not there,
    /// the nearest that is.
    pub fn watched(&self) -> Vec<PathBuf> {
        let parent = |path: &Path| absolute(path).parent().unwrap_or(Path::new("/")).to_owned();
        let mut watched = BTreeSet::new();
        for stamp in &self.stamps {
            watched.extend([parent(&stamp.path), parent(&stamp.resolved)]);
            watched.extend(stamp.links.iter().cloned());
        }
        for listing in &self.listings {
            watched.extend([absolute(&listing.directory), listing.resolved.clone()]);
            watched.extend(listing.links.iter().cloned());
        }
        let there = |mut path: PathBuf| {
            while !path.is_dir() && path.pop() {}
            path
        };
        watched.into_iter().map(there).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Every file that was read or should have been: the configuration, what it includes, and what `${file:…}` names.
    pub fn files(&self) -> &[Stamp] {
        &self.stamps
    }

    /// Every directory that a pattern looked into.
    pub fn listings(&self) -> &[Listing] {
        &self.listings
    }

    /// The SHA-256 of the YAML files, as 64 hexadecimal digits. The same for the same files wherever they lie, in every
    /// process; nothing from outside them counts.
    pub fn content_hash(&self) -> &str {
        &self.content_hash
    }

    /// Of everything that was read. Compares with those of this process only.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The YAML files themselves.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }
}

impl FileIdentity {
    fn of(metadata: &Metadata) -> Self {
        let identity =
            Self { device: metadata.dev(), inode: metadata.ino(), size: 0, modified: (0, 0), changed: (0, 0) };
        if !metadata.is_file() {
            return identity;
        }
        Self {
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            ..identity
        }
    }
}

/// Reads files for one load of a configuration.
pub(crate) struct Reader {
    /// Where each link led when it was first met. `None`: it is no link.
    links: HashMap<PathBuf, Option<PathBuf>>,
    stamps: Vec<Stamp>,
    listings: Vec<Listing>,
    /// One per text, whose order does not matter.
    digests: Vec<[u8; 32]>,
    /// Something was not read for want of a file descriptor.
    is_starved: bool,
}

/// Drawn once and never changed, so that fingerprints of one process compare.
static KEY: LazyLock<[u8; 32]> = LazyLock::new(|| {
    let mut key = [0; 32];
    for (position, part) in key.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&RandomState::new().hash_one(position).to_le_bytes());
    }
    key
});

impl Reader {
    pub(crate) fn new() -> Self {
        Self { links: HashMap::new(), stamps: Vec::new(), listings: Vec::new(), digests: Vec::new(), is_starved: false }
    }

    /// The content of a file, up to one byte more than `most`.
    pub(crate) fn read(&mut self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        let (resolved, links) = self.resolve(path);
        let mut identity = None;
        let content = File::open(&resolved).and_then(|file| {
            identity = Some(FileIdentity::of(&file.metadata()?));
            let mut bytes = Vec::new();
            file.take(most as u64 + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        // Of a file that is there and may not be opened, a change of its mode counts.
        let identity = identity.or_else(|| fs::metadata(&resolved).ok().map(|metadata| FileIdentity::of(&metadata)));
        self.stamps.push(Stamp { path: path.to_owned(), resolved, identity, links });
        self.is_starved |= content.as_ref().is_err_and(is_starvation);
        match &content {
            Ok(bytes) => self.note(path, bytes),
            Err(error) => self.note(path, format!("unreadable: {:?}", error.kind()).as_bytes()),
        }
        content
    }

    /// Counts a text as read.
    pub(crate) fn note(&mut self, path: &Path, content: &[u8]) {
        let mut digest = Sha256::new_with_prefix(*KEY);
        framed(&mut digest, path.as_os_str().as_bytes());
        framed(&mut digest, content);
        self.digests.push(digest.finalize().into());
    }

    /// What kind of thing a path leads to.
    pub(crate) fn metadata(&mut self, path: &Path) -> io::Result<Metadata> {
        fs::metadata(self.resolve(path).0)
    }

    /// Remembers what a path leads to without reading it.
    pub(crate) fn pass_over(&mut self, path: &Path) {
        let (resolved, links) = self.resolve(path);
        let identity = fs::metadata(&resolved).ok().map(|metadata| FileIdentity::of(&metadata));
        self.stamps.push(Stamp { path: path.to_owned(), resolved, identity, links });
    }

    /// The names of a directory that fit a pattern.
    ///
    /// # Errors
    /// The directory cannot be listed, or has more than [`NAMES_MAX`] names (`FileTooLarge`). One that is not there is
    /// empty.
    pub(crate) fn matches(&mut self, directory: &Path, pattern: &str) -> io::Result<Vec<OsString>> {
        let listed = self.list(directory, pattern);
        let listing = match &listed {
            Ok(listing) => listing.clone(),
            // To be watched all the same.
            Err(_) => {
                let (resolved, links) = self.resolve(directory);
                let (directory, pattern) = (directory.to_owned(), pattern.to_owned());
                Listing { directory, resolved, pattern, names: Vec::new(), links }
            }
        };
        self.listings.push(listing);
        listed.map(|listing| listing.names)
    }

    fn list(&mut self, directory: &Path, pattern: &str) -> io::Result<Listing> {
        let (resolved, links) = self.resolve(directory);
        let fits =
            glob::Pattern::new(pattern).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.msg))?;
        let mut names = Vec::new();
        match fs::read_dir(&resolved) {
            Ok(entries) => {
                for (count, entry) in entries.enumerate() {
                    if count == NAMES_MAX {
                        return Err(io::ErrorKind::FileTooLarge.into());
                    }
                    let name = entry?.file_name();
                    let text = name.to_string_lossy();
                    if !is_hidden(&text) && fits.matches(&text) {
                        names.push(name);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                self.is_starved |= is_starvation(&error);
                return Err(error);
            }
        }
        names.sort();
        Ok(Listing { directory: directory.to_owned(), resolved, pattern: pattern.to_owned(), names, links })
    }

    /// Where a path leads, and the directories that hold the links on the way.
    ///
    /// As the kernel does it, but for a link that is met again: it leads where it led before.
    pub(crate) fn resolve(&mut self, path: &Path) -> (PathBuf, Vec<PathBuf>) {
        let steps = |path: &Path| path.components().rev().map(|step| step.as_os_str().to_owned()).collect::<Vec<_>>();
        let mut ahead = steps(&absolute(path));
        let mut at = PathBuf::from("/");
        let mut links = Vec::new();
        while let Some(step) = ahead.pop() {
            match Path::new(&step).components().next() {
                None | Some(Component::CurDir | Component::Prefix(_)) => {}
                Some(Component::RootDir) => at = PathBuf::from("/"),
                Some(Component::ParentDir) => {
                    at.pop();
                }
                Some(Component::Normal(name)) => {
                    let next = at.join(name);
                    match self.link(&next) {
                        Some(target) if links.len() < LINKS_MAX => {
                            ahead.extend(steps(&target));
                            links.push(at.clone());
                        }
                        _ => at = next,
                    }
                }
            }
        }
        links.sort();
        links.dedup();
        (at, links)
    }

    fn link(&mut self, path: &Path) -> Option<PathBuf> {
        // What its links say is no path: `pipe:[4711]`.
        if path.starts_with("/proc") {
            return None;
        }
        self.links.entry(path.to_owned()).or_insert_with(|| fs::read_link(path).ok()).clone()
    }

    /// What was read. `bundle`: the YAML among it.
    pub(crate) fn finish(mut self, bundle: Bundle) -> Inputs {
        let fingerprint = self.fingerprint();
        let Self { stamps, listings, is_starved, .. } = self;
        Inputs { stamps, listings, content_hash: bundle.content_hash(), bundle, fingerprint, is_starved }
    }

    fn fingerprint(&mut self) -> Fingerprint {
        self.digests.sort_unstable();
        Fingerprint(Sha256::digest(self.digests.concat()).into())
    }
}

/// Whether no file descriptor was left.
fn is_starvation(error: &io::Error) -> bool {
    // errno(3): ENFILE and EMFILE have no `ErrorKind` of their own.
    matches!(error.raw_os_error(), Some(23 | 24))
}

/// Adds bytes so that no others give the same digest by standing beside each other.
pub(super) fn framed(digest: &mut Sha256, bytes: &[u8]) {
    digest.update((bytes.len() as u64).to_be_bytes());
    digest.update(bytes);
}

/// Names that no pattern means: hidden files, Kubernetes' `..data`, and what editors leave beside a file.
fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '#']) || [".swp", ".swo", "~"].iter().any(|end| name.ends_with(end))
}

fn absolute(path: &Path) -> PathBuf {
    // Fails for an empty path, which stands for the working directory.
    std::path::absolute(path).or_else(|_| std::env::current_dir()).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory as the kubelet makes it: files are links through `..data`.
    fn mounted() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        generation(at, "..1", "one");
        symlink("..1", at.join("..data")).unwrap();
        symlink("..data/a.yaml", at.join("a.yaml")).unwrap();
        symlink("..data/b.yaml", at.join("b.yaml")).unwrap();
        directory
    }

    fn generation(at: &Path, name: &str, content: &str) {
        fs::create_dir(at.join(name)).unwrap();
        fs::write(at.join(name).join("a.yaml"), content).unwrap();
        fs::write(at.join(name).join("b.yaml"), content).unwrap();
    }

    fn swap(at: &Path, to: &str) {
        symlink(to, at.join("..data_tmp")).unwrap();
        fs::rename(at.join("..data_tmp"), at.join("..data")).unwrap();
    }

    fn finish(reader: Reader) -> Inputs {
        reader.finish(Bundle::default())
    }

    #[test]
    fn files_behind_one_link_are_read_from_where_it_first_led() {
        let mount = mounted();
        let at = mount.path();
        let mut reader = Reader::new();
        assert_eq!(reader.read(&at.join("a.yaml"), 10).unwrap(), b"one");
        generation(at, "..2", "two");
        swap(at, "..2");
        assert_eq!(reader.read(&at.join("b.yaml"), 10).unwrap(), b"one");
        assert!(!finish(reader).is_unchanged(), "both names lead elsewhere now");
    }

    #[test]
    fn a_file_that_went_with_the_old_directory_is_no_file_of_the_new_one() {
        let mount = mounted();
        let at = mount.path();
        let mut reader = Reader::new();
        reader.read(&at.join("a.yaml"), 10).unwrap();
        generation(at, "..2", "two");
        swap(at, "..2");
        fs::remove_dir_all(at.join("..1")).unwrap();
        assert_eq!(reader.read(&at.join("b.yaml"), 10).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!finish(reader).is_unchanged());
    }

    #[test]
    fn every_way_to_change_a_file_is_noticed() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 8] = [
            ("written", |at| fs::write(at.join("plain"), "n").unwrap()),
            ("replaced", |at| {
                fs::write(at.join("new"), "o").unwrap();
                fs::rename(at.join("new"), at.join("plain")).unwrap();
            }),
            ("removed", |at| fs::remove_file(at.join("plain")).unwrap()),
            ("created", |at| fs::write(at.join("missing"), "").unwrap()),
            ("a new name", |at| fs::write(at.join("c.yaml"), "").unwrap()),
            ("a name less", |at| fs::remove_file(at.join("b.yaml")).unwrap()),
            ("swapped", |at| swap(at, "..2")),
            ("the directory is gone", |at| fs::remove_dir_all(at).unwrap()),
        ];
        for (what, change) in changes {
            let mount = mounted();
            let at = mount.path();
            generation(at, "..2", "one");
            fs::write(at.join("plain"), "o").unwrap();
            let mut reader = Reader::new();
            reader.read(&at.join("plain"), 10).unwrap();
            reader.read(&at.join("a.yaml"), 10).unwrap();
            reader.read(&at.join("missing"), 10).unwrap_err();
            assert_eq!(reader.matches(at, "*.yaml").unwrap(), ["a.yaml", "b.yaml"]);
            let inputs = finish(reader);
            assert!(inputs.is_unchanged(), "before: {what}");
            // A clock of the file system may stand still for some milliseconds.
            let old = |path: &Path| fs::metadata(path).map(|metadata| metadata.ctime_nsec()).ok();
            let before = old(&at.join("plain"));
            change(at);
            while what == "written" && old(&at.join("plain")) == before {
                change(at);
            }
            assert!(!inputs.is_unchanged(), "{what}");
        }
    }

    #[test]
    fn what_must_be_watched_is_where_names_links_and_files_are() {
        let mount = mounted();
        let at = mount.path().canonicalize().unwrap();
        fs::create_dir(at.join("conf.d")).unwrap();
        let mut reader = Reader::new();
        reader.read(&at.join("a.yaml"), 10).unwrap();
        reader.read(&at.join("none/at/all"), 10).unwrap_err();
        reader.matches(&at.join("conf.d"), "*").unwrap();
        let inputs = finish(reader);
        assert_eq!(inputs.watched(), [at.clone(), at.join("..1"), at.join("conf.d")]);
        assert_eq!(inputs.files()[0].resolved, at.join("..1/a.yaml"));
        assert_eq!(inputs.listings()[0].directory, at.join("conf.d"));
    }

    #[test]
    fn a_path_leads_where_the_kernel_says() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        fs::create_dir_all(at.join("x/y")).unwrap();
        fs::write(at.join("x/f"), "").unwrap();
        symlink("x/y", at.join("deep")).unwrap();
        symlink(at.join("x"), at.join("whole")).unwrap();
        symlink("round", at.join("round")).unwrap();
        for path in ["x/f", "deep/../f", "./whole/y/../f", "whole/./f"] {
            let named = at.join(path);
            assert_eq!(Reader::new().resolve(&named).0, named.canonicalize().unwrap(), "{path}");
        }
        assert!(Reader::new().read(&at.join("round"), 10).is_err(), "a link to itself leads nowhere");
    }

    #[test]
    fn patterns_pass_over_what_is_hidden() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b", "a", ".h", "..data", "a~", ".a.swp", "a.swp", "#a#", "c"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let mut reader = Reader::new();
        assert_eq!(reader.matches(directory.path(), "*").unwrap(), ["a", "b", "c"]);
        assert_eq!(reader.matches(directory.path(), "[ab]").unwrap(), ["a", "b"]);
        assert!(reader.matches(&directory.path().join("none"), "*").unwrap().is_empty());
        assert_eq!(reader.matches(directory.path(), "[a").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn content_that_changed_without_a_trace_is_found_by_reading() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plain");
        fs::write(&path, "one").unwrap();
        let mut reader = Reader::new();
        reader.read(&path, 10).unwrap();
        reader.read(&directory.path().join("missing"), 10).unwrap_err();
        let inputs = finish(reader);
        assert!(inputs.has_same_content());
        fs::write(&path, "two").unwrap();
        assert!(!inputs.has_same_content());
        fs::write(&path, "one").unwrap();
        assert!(inputs.has_same_content());
    }

    #[test]
    fn a_fingerprint_is_of_names_and_contents_and_shows_nothing() {
        let of = |reads: &[(&str, &str)]| {
            let mut reader = Reader::new();
            reads.iter().for_each(|(path, content)| reader.note(Path::new(path), content.as_bytes()));
            finish(reader).fingerprint().clone()
        };
        let one = of(&[("a", "1"), ("b", "2")]);
        assert_eq!(one, of(&[("a", "1"), ("b", "2")]));
        assert_eq!(one, of(&[("b", "2"), ("a", "1")]), "whatever the order they were read in");
        for other in
            [&[("a", "1"), ("b", "3")][..], &[("a", "1")], &[("a", "2"), ("b", "1")], &[("a1", ""), ("b", "2")]]
        {
            assert_ne!(one, of(other));
        }
        assert_eq!(format!("{one:?}"), "Fingerprint(…)");
    }
}
