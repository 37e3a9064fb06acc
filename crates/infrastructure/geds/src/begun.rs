//! Uploads that were begun and are not recorded yet: what may lie in the persistency tier without anybody knowing.
//!
//! An upload is written, compared and then recorded. A kill in between, or an answer that is lost, leaves it there, and if its object is deleted before the next try nobody removes it. So the
//! node makes an empty file with the id as its name before the first byte goes, and takes it away when somebody who lasts knows of the upload: the catalog, or the log of an appendable object for
//! one of its parts. What is left is looked after by the collector (`collect.rs`). A crash costs at most a look too many.

use crate::{ObjectId, Result, local::file};
use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

pub(crate) struct Begun {
    folder: PathBuf,
    ids: Mutex<HashSet<ObjectId>>,
}

impl Begun {
    pub fn open(folder: &Path) -> Result<Begun> {
        crate::private::folder(folder).map_err(file("create", folder))?;
        let mut ids = HashSet::new();
        for entry in fs::read_dir(folder).map_err(file("list", folder))? {
            let name = entry.map_err(file("list", folder))?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<ObjectId>().ok()));
        }
        Ok(Begun { folder: folder.into(), ids: Mutex::new(ids) })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<ObjectId>> {
        // Each use is a single operation of a set, so a panic elsewhere leaves it whole.
        self.ids.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn path(&self, id: ObjectId) -> PathBuf {
        self.folder.join(id.to_string())
    }

    /// To be called before an upload. Twice is the same.
    pub fn begin(&self, id: ObjectId) -> Result<()> {
        if self.lock().contains(&id) {
            return Ok(());
        }
        let path = self.path(id);
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).map_err(file("create", &path))?;
        self.lock().insert(id);
        Ok(())
    }

    /// Somebody knows of it, or it is gone.
    pub fn end(&self, id: ObjectId) {
        if self.lock().remove(&id) {
            let path = self.path(id);
            if let Err(error) = fs::remove_file(&path) {
                // The next start looks after it again, which does no harm.
                tracing::warn!(path = %path.display(), %error, "the mark of an upload stays");
            }
        }
    }

    pub fn ids(&self) -> Vec<ObjectId> {
        self.lock().iter().copied().collect()
    }
}
