//! Whether the disk has done each sync that it was asked for.
//!
//! Linux tells of a failed one once and takes the pages for clean, so the next sync says yes to bytes that never came. Nobody here can write them again: so after the
//! first failure nothing counts as durable any more, and nothing new is taken, until the node is started again and looks at what is there. What was durable before stays so.

use super::{file, step};
use crate::{Error, Result};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

#[derive(Default)]
pub(crate) struct Sound {
    failed: OnceLock<(PathBuf, String)>,
}

impl Sound {
    /// No sync has failed.
    pub fn check(&self) -> Result<()> {
        let Some((path, why)) = self.failed.get() else { return Ok(()) };
        let why = format!("{why}; nothing more is written to this disk until the node is started again");
        Err(Error::File { action: "sync", path: path.clone(), source: io::Error::other(why) })
    }

    pub fn is_lost(&self) -> bool {
        self.failed.get().is_some()
    }

    /// Makes a file's bytes durable. Who shares a file with others must not let two do it at the same time: only one of them hears of a failure.
    pub fn sync(&self, of: &File, path: &Path) -> Result<()> {
        self.tries(path, || of.sync_data())
    }

    /// The same for the names in a folder, or for all that the system knows of a file.
    pub fn sync_all(&self, of: &File, path: &Path) -> Result<()> {
        self.tries(path, || of.sync_all())
    }

    /// The same for the names in a folder that nobody has open.
    pub fn sync_folder(&self, path: &Path) -> Result<()> {
        self.sync_all(&File::open(path).map_err(file("open", path))?, path)
    }

    fn tries(&self, path: &Path, sync: impl FnOnce() -> io::Result<()>) -> Result<()> {
        self.check()?;
        #[cfg(test)]
        let asked = super::tests::syncs(path);
        #[cfg(not(test))]
        let asked = Ok(());
        asked.and_then(|()| step()).and_then(|()| sync()).map_err(|e: io::Error| {
            let _ = self.failed.set((path.into(), e.to_string())); // the first counts
            file("sync", path)(e)
        })
    }
}
