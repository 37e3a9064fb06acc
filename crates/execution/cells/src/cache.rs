//! Compiled code that is kept: in a folder of the agent's, and, where it shares, with the other agents of its installation.
//!
//! Code is machine code, and who can write it decides what an agent does. So the folder is its user's alone, and what comes from elsewhere comes through [`Shared`], whose business it is that
//! it was made by one who may. A name says all on which code depends: module, version, settings, kind of machine (`engine`, `native::compile`); behind it lies the same whoever has made it.
//! A checksum finds what the disk has lost.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// Where other agents of the installation keep what they have compiled.
pub trait Shared: Send + Sync {
    /// What another agent has made and that can be believed; `None` otherwise, for whatever reason.
    fn get(&self, name: &str) -> Option<Vec<u8>>;
    /// Gives to the others what was made here. Does not wait for it.
    fn put(&self, name: &str, code: Vec<u8>);
}

#[derive(Clone)]
pub struct Cache {
    folder: PathBuf,
    shared: Option<Arc<dyn Shared>>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("folder", &self.folder).field("shared", &self.shared.is_some()).finish()
    }
}

impl From<PathBuf> for Cache {
    fn from(folder: PathBuf) -> Cache {
        Cache { folder, shared: None }
    }
}

impl Cache {
    /// The same, with what other agents have made.
    pub fn shared(self, with: Arc<dyn Shared>) -> Cache {
        Cache { shared: Some(with), ..self }
    }

    /// Makes the folder, and makes it this user's alone.
    pub(crate) fn open(&self) -> Result<()> {
        base::identity::private_folder(&self.folder).map_err(Error::io(format!("make cache folder {} this user's alone", self.folder.display())))
    }

    /// Checksum and code in one file.
    pub(crate) fn file(code: &[u8]) -> Vec<u8> {
        [&xxh3_128(code).to_le_bytes(), code].concat()
    }

    /// Code of this folder.
    pub(crate) fn own(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.folder.join(name);
        let mut file = std::fs::read(&path).ok()?;
        let (sum, code) = file.split_at_checked(16)?;
        if xxh3_128(code).to_le_bytes() != sum {
            tracing::warn!(path = %path.display(), "cached code is damaged and is compiled again");
            return None;
        }
        file.drain(..16);
        Some(file)
    }

    /// Code of another agent's, which is this folder's too from now on.
    pub(crate) fn others(&self, name: &str) -> Option<Vec<u8>> {
        let code = self.shared.as_ref()?.get(name)?;
        self.keep(name, &code);
        Some(code)
    }

    /// Keeps what was made here, for all.
    pub(crate) fn put(&self, name: &str, code: Vec<u8>) {
        self.keep(name, &code);
        if let Some(shared) = &self.shared {
            shared.put(name, code);
        }
    }

    /// Keeps it for this folder alone. Not being able to costs time at the next load and nothing else.
    pub(crate) fn keep(&self, name: &str, code: &[u8]) {
        if let Err(e) = base::identity::write_private(&self.folder.join(name), &Self::file(code)) {
            tracing::warn!(error = %e, "compiled code not cached");
        }
    }

    /// A library of this folder or another agent's, as a file that can be loaded as it is; its checksum is in one beside it.
    pub(crate) fn library(&self, name: &str) -> Option<PathBuf> {
        let path = self.folder.join(name);
        if is_whole(&path) {
            return Some(path);
        }
        let bytes = self.shared.as_ref()?.get(name)?;
        self.keep_library(&path, &bytes).inspect_err(|error| tracing::warn!(%error, "native code not cached")).ok()?;
        Some(path)
    }

    /// Keeps a library that was made here, for all.
    pub(crate) fn put_library(&self, name: &str, bytes: Vec<u8>) -> Result<PathBuf> {
        let path = self.folder.join(name);
        self.keep_library(&path, &bytes)?;
        if let Some(shared) = &self.shared {
            shared.put(name, bytes);
        }
        Ok(path)
    }

    fn keep_library(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let sum = xxh3_128(bytes).to_le_bytes();
        let kept = base::identity::write_private(path, bytes).and_then(|()| base::identity::write_private(&path.with_extension("sum"), &sum));
        kept.map_err(|e| Error::Resources(format!("native code can't be kept: {e}")))
    }
}

fn is_whole(path: &Path) -> bool {
    let (Ok(bytes), Ok(sum)) = (std::fs::read(path), std::fs::read(path.with_extension("sum"))) else { return false };
    xxh3_128(&bytes).to_le_bytes() == *sum
}
