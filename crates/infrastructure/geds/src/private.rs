//! Files and folders that nobody but this process's user may open, whatever its umask says: a program that links the library has its own.
//!
//! One that is there already stays as it is: whoever made it had a reason.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Makes a folder, and those above it, if it isn't there.
pub(crate) fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => io::Error::new(io::ErrorKind::NotADirectory, "a file has that name, and it is to be a folder: name another one, or move the file away"),
        _ => e,
    })
}

/// A file that is there to be locked: whoever may open it, if only to read, could lock all others out.
pub(crate) fn lock(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use crate::{Namenode, Persist, Referee, Shared, SharedOptions};
    use base::{SiteId, unit::Bytes};
    use std::{os::unix::fs::PermissionsExt, path::Path};

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_others_could_read_or_lock_is_ones_own() {
        // SAFETY: it touches no memory. What other tests make meanwhile is open to others, as with most programs.
        unsafe { libc::umask(0o022) };
        let temp = tempfile::tempdir().unwrap();
        let place = |name: &str| temp.path().join(name);
        Persist::folder(place("tier/deep")).unwrap();
        assert_eq!((mode(&place("tier")), mode(&place("tier/deep"))), (0o700, 0o700));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let namenode = Namenode::open(place("names")).await.unwrap();
            assert!(Referee::folder(place("referee")).read().await.unwrap().is_none());
            drop(namenode);
        });
        let options = SharedOptions { folder: place("shared"), site: SiteId::new("a").unwrap(), limit: Bytes(16 << 20), memory: None };
        let shared = Shared::agent(options, None).unwrap();
        for folder in ["names", "shared"] {
            assert_eq!(mode(&place(folder)), 0o700, "{folder}");
        }
        for lock in ["names/lock", "shared/lock", "shared/agent.sock.lock", "shared/agent.sock"] {
            assert_eq!(mode(&place(lock)), 0o600, "{lock}");
        }
        drop(shared);
        std::fs::write(place("file"), "").unwrap();
        assert!(Persist::folder(place("file")).unwrap_err().to_string().contains("a file has that name"));
        // What is there stays as it is.
        std::fs::create_dir(place("open")).unwrap();
        std::fs::set_permissions(place("open"), std::fs::Permissions::from_mode(0o755)).unwrap();
        Persist::folder(place("open")).unwrap();
        assert_eq!(mode(&place("open")), 0o755);
    }
}
