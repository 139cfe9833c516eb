//! Files as operators, editors and Kubernetes change them.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder of files that lives as long as this.
pub struct Files {
    folder: TempDir,
}

impl Files {
    /// A folder with nothing in it.
    pub fn none() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// A folder with this `config.yaml`.
    pub fn of(yaml: impl Display) -> Self {
        let files = Self::none();
        files.write("config.yaml", yaml);
        files
    }

    /// Where a file of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where `config.yaml` is, for a command line.
    pub fn config(&self) -> String {
        self.path("config.yaml").to_str().expect("the temporary folder has a name of text").to_owned()
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// As `nano` and `cat >` save: the file is cut to nothing and written.
    pub fn write(&self, name: &str, text: impl Display) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file stands in a folder"))
            .expect("a temporary folder takes folders");
        fs::write(path, text.to_string()).expect("a temporary folder takes files");
    }

    /// As `vim` and `sed -i` save: another file is renamed over it.
    pub fn replace(&self, name: &str, text: impl Display) {
        let new = format!("{name}.new");
        self.write(&new, text);
        fs::rename(self.path(&new), self.path(name)).expect("a temporary folder takes files");
    }

    /// As some tools save: the file is deleted and made again.
    pub fn recreate(&self, name: &str, text: impl Display) {
        fs::remove_file(self.path(name)).expect("there is a file");
        self.write(name, text);
    }

    /// Takes a file away.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("there is a file");
    }

    /// As the kubelet updates a ConfigMap: a new folder of a new name, `..data` renamed to point to it, the old folder
    /// removed. The files that programs see are links through `..data`.
    pub fn swap(&self, generation: usize, files: &[(&str, String)]) {
        let folder = format!("..generation_{generation}");
        fs::create_dir(self.path(&folder)).expect("a generation comes once");
        for (name, text) in files {
            fs::write(self.path(&folder).join(name), text).expect("a temporary folder takes files");
        }
        let before = fs::read_link(self.path("..data")).ok();
        symlink(&folder, self.path("..data_tmp")).expect("a temporary folder takes links");
        fs::rename(self.path("..data_tmp"), self.path("..data")).expect("a temporary folder takes links");
        for (name, _) in files {
            if before.is_none() {
                symlink(format!("..data/{name}"), self.path(name)).expect("a temporary folder takes links");
            }
        }
        if let Some(before) = before {
            fs::remove_dir_all(self.path(&before.to_string_lossy())).expect("the old folder is there");
        }
    }
}
