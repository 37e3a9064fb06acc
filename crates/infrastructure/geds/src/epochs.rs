//! The newest epoch that a node has seen, so that an older catalog frees nothing.
//!
//! A catalog that was restored from a backup doesn't know what was sealed since, and what a catalog doesn't know is freed: each site would lose, within minutes, what nobody else has. So the
//! newest epoch is kept in the node's folder, as text in the file `epoch`. A catalog that has not come so far frees nothing here, also when it has gone on since, until somebody removes the file.

use crate::{Result, local::file};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

/// Behind the epoch, once an older catalog was met.
const OLDER: &str = "older";

pub(crate) struct Epochs {
    path: PathBuf,
    seen: AtomicU64,
    older: AtomicBool,
    /// What the file says.
    written: Mutex<(u64, bool)>,
}

impl Epochs {
    pub fn open(folder: &Path) -> Result<Epochs> {
        let path = folder.join("epoch");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(file("read", &path)(e)),
        };
        let mut words = text.split_whitespace();
        // It is replaced as a whole; what can't be read is no epoch, and the next one is written over it.
        let seen = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        let older = words.next() == Some(OLDER);
        Ok(Epochs { path, seen: AtomicU64::new(seen), older: AtomicBool::new(older), written: Mutex::new((seen, older)) })
    }

    pub fn seen(&self) -> u64 {
        self.seen.load(SeqCst)
    }

    pub fn saw(&self, epoch: u64) {
        self.seen.fetch_max(epoch, SeqCst);
    }

    /// Whether a catalog whose last epoch is `now` may free. `before`: what was seen before it was asked.
    pub fn may_free(&self, before: u64, now: Option<u64>) -> bool {
        // One that doesn't tell has no backups either.
        let Some(now) = now else { return true };
        if now < before && !self.older.swap(true, SeqCst) {
            let path = self.path.display();
            tracing::error!(seen = before, catalog = now, "the catalog is older than one that this node has worked with: what it doesn't know is kept; restore a newer one, or remove {path} and start again to let it go");
        }
        if self.older.load(SeqCst) {
            return false;
        }
        self.saw(now);
        true
    }

    /// Writes down what is new. Blocks.
    pub fn save(&self) -> Result<()> {
        let mut written = self.written.lock().unwrap_or_else(|e| e.into_inner());
        let now = (self.seen(), self.older.load(SeqCst));
        if *written == now {
            return Ok(());
        }
        let new = self.path.with_extension("new");
        let text = if now.1 { format!("{} {OLDER}\n", now.0) } else { format!("{}\n", now.0) };
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_data()?;
            fs::rename(&new, &self.path)
        };
        write().map_err(file("write", &self.path))?;
        *written = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_catalog_frees_nothing_until_somebody_says_so() {
        let temp = tempfile::tempdir().unwrap();
        let open = || Epochs::open(temp.path()).unwrap();
        let epochs = open();
        assert!(epochs.may_free(epochs.seen(), Some(5)) && epochs.may_free(epochs.seen(), None));
        // Something is sealed while the catalog answers: that makes it no older.
        let before = epochs.seen();
        epochs.saw(9);
        assert!(epochs.may_free(before, Some(7)));
        epochs.save().unwrap();
        let epochs = open();
        assert_eq!(epochs.seen(), 9);
        assert!(!epochs.may_free(9, Some(8)));
        assert!(!epochs.may_free(9, Some(100)), "it has gone on since, and still lacks what it lacks");
        epochs.save().unwrap();
        assert!(!open().may_free(9, Some(100)), "after a restart, too");
        fs::remove_file(temp.path().join("epoch")).unwrap();
        assert!(open().may_free(0, Some(1)));
    }
}
