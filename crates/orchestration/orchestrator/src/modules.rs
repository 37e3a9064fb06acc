//! Modules as files of the hub, `<data>/hub/modules/<sha256>.wasm`, named after their content.
//!
//! What a module must be is not known here: [`Options::check_module`](crate::Options) says it. Agents fetch them with the gRPC call
//! `Module`. They are no objects of GEDS: an object's bytes are at a site, and a module comes before any site has to be there.

use crate::{Error, hub::hex};
use base::Kind;
use sha2::{Digest, Sha256};
use std::{fs, io::Write, path::PathBuf};

/// The largest module that is taken, in bytes.
pub const MODULE_MAX: usize = 256 << 20;
/// Bytes of a module in one message to an agent.
pub const CHUNK: usize = 256 << 10;

/// What the check of a module found.
#[derive(Clone, Debug, Default)]
pub struct ModuleInfo {
    /// Its ranks can be moved and checkpointed.
    pub movable: bool,
    /// `module.name` of what it imports.
    pub imports: Vec<String>,
}

/// Says what a module is, or why it can't run here.
pub type Check = Box<dyn Fn(&[u8]) -> Result<ModuleInfo, String> + Send + Sync>;

/// Without a better one: only whether it is a WebAssembly module at all.
pub fn header_only() -> Check {
    Box::new(|bytes| match bytes.get(..8) {
        Some(b"\0asm\x01\0\0\0") => Ok(ModuleInfo::default()),
        _ => Err("it does not begin like a WebAssembly module, version 1".into()),
    })
}

/// A module as it is kept.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Module {
    pub sha256: String,
    pub bytes: u64,
    /// Its ranks can be moved and checkpointed.
    pub movable: bool,
    /// `module.name` of what it imports.
    pub imports: Vec<String>,
}

/// The modules of a hub.
pub struct Modules {
    folder: PathBuf,
    check: Check,
}

impl Modules {
    pub fn new(folder: PathBuf, check: Check) -> Modules {
        Modules { folder, check }
    }

    /// Where the module is or would be; `sha256` has to be 64 hexadecimal digits.
    pub fn path(&self, sha256: &str) -> Result<PathBuf, Error> {
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            let shown: String = sha256.chars().take(80).collect();
            return Err(Error::new(Kind::InvalidArgument, format!("module {shown:?} is not a SHA-256 in hexadecimal")));
        }
        Ok(self.folder.join(format!("{}.wasm", sha256.to_ascii_lowercase())))
    }

    /// The path of a module that is here.
    pub fn find(&self, sha256: &str) -> Result<PathBuf, Error> {
        let path = self.path(sha256)?;
        if !path.is_file() {
            return Err(Error::new(Kind::NotFound, format!("module {sha256} is not here; send it with `POST /v1/modules` first")));
        }
        Ok(path)
    }

    /// Checks a module that is here again. Takes its time, as [`Modules::add`] does.
    pub fn inspect(&self, sha256: &str) -> Result<ModuleInfo, Error> {
        let path = self.find(sha256)?;
        let bytes = fs::read(&path).map_err(|e| Error::internal(format!("read the module {}: {e}", path.display())))?;
        (self.check)(&bytes).map_err(|why| Error::internal(format!("the kept module {sha256} is refused now: {why}")))
    }

    /// Checks and keeps a module. Takes its time: to be called on a thread that may compute.
    pub fn add(&self, bytes: &[u8]) -> Result<Module, Error> {
        if bytes.len() > MODULE_MAX {
            return Err(Error::new(Kind::InvalidArgument, format!("the module has {} bytes; {MODULE_MAX} are the most", bytes.len())));
        }
        let info = (self.check)(bytes).map_err(|why| Error::new(Kind::InvalidArgument, format!("the module is refused: {why}")))?;
        let sha256 = hex(&Sha256::digest(bytes));
        let path = self.path(&sha256)?;
        if !path.is_file() {
            // Under another name first, so that a module that has its name is whole.
            let part = self.folder.join(format!("{sha256}.{}.part", hex(&rand::random::<[u8; 8]>())));
            let write = || -> std::io::Result<()> {
                fs::create_dir_all(&self.folder)?;
                let mut file = fs::File::create(&part)?;
                file.write_all(bytes)?;
                file.sync_all()?;
                fs::rename(&part, &path)?;
                fs::File::open(&self.folder)?.sync_all()
            };
            if let Err(e) = write() {
                let _ = fs::remove_file(&part);
                return Err(Error::internal(format!("keep the module {}: {e}", path.display())));
            }
        }
        Ok(Module { sha256, bytes: bytes.len() as u64, movable: info.movable, imports: info.imports })
    }
}
