//! How an object comes into a folder: under a name that no listing shows, then all at once under its own, and on disk before anyone hears of it.
//!
//! Its bytes go to the disk piece by piece. Synced as a whole they would hold up whoever syncs a few bytes to the same disk meanwhile, such as the log of streams, for all of
//! them: 10 ms for 4 MiB, where a write of the log takes 0.2 ms. Behind a piece it waits for less than one of these 10 ms, and the whole takes no longer.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

/// What goes to the disk at a time.
const PIECE: usize = 256 << 10;

/// An object that is not there yet. Dropped, it never was.
pub(crate) struct Laid {
    file: File,
    /// `object_store` takes such a name for an upload under way: no listing has it, and no object can be called so.
    staged: PathBuf,
    /// The name that it was staged under is somebody else's by now, perhaps.
    named: bool,
    path: PathBuf,
    /// Bytes written.
    at: u64,
}

impl Laid {
    /// Begins one that will be at `path`, and makes the folders above it.
    pub fn begin(path: PathBuf) -> io::Result<Laid> {
        for number in 1.. {
            let mut staged = path.clone().into_os_string();
            staged.push(format!("#{number}"));
            let staged = PathBuf::from(staged);
            match File::options().write(true).create_new(true).open(&staged) {
                Ok(file) => return Ok(Laid { file, staged, named: false, path, at: 0 }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound && number == 1 => folders(&path)?,
                Err(e) => return Err(e),
            }
        }
        unreachable!("numbers don't end")
    }

    /// Adds some bytes, which are on disk when it returns, but for what the file system knows of them.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.file.write_all_at(piece, self.at)?;
            out(&self.file, self.at, piece.len())?;
            self.at += piece.len() as u64;
        }
        Ok(())
    }

    /// Gives it its name, unless something has that: `false` then.
    pub fn create(mut self) -> io::Result<bool> {
        self.file.sync_all()?;
        match fs::hard_link(&self.staged, &self.path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(e) => return Err(e),
        }
        self.named = true;
        fs::remove_file(&self.staged)?;
        sync_folder_of(&self.path)?;
        Ok(true)
    }

    /// Gives it its name, whatever has had that.
    pub fn replace(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.staged, &self.path)?;
        self.named = true;
        sync_folder_of(&self.path)
    }
}

impl Drop for Laid {
    fn drop(&mut self) {
        if !self.named {
            let _ = fs::remove_file(&self.staged);
        }
    }
}

/// Starts the write of a piece and waits until the device has it. It is `sync_all` that makes it safe; where this can't be done, all of the work is left to that.
fn out(file: &File, at: u64, len: usize) -> io::Result<()> {
    let (Ok(at), Ok(len)) = (at.try_into(), len.try_into()) else { return Ok(()) };
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: it takes numbers only, and the descriptor is open.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, flags) } == 0 {
        return Ok(());
    }
    // An error of the disk must not be passed over: it is told once, and `sync_all` would not hear of it.
    let e = io::Error::last_os_error();
    match e.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE | libc::EOPNOTSUPP) => Ok(()),
        _ => Err(e),
    }
}

/// Makes the folders above a path, and what shows each of them is on disk.
fn folders(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let new: Vec<&Path> = parent.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(parent)?;
    new.into_iter().rev().try_for_each(sync_folder_of)
}

/// Syncs the folder that has this name in it.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_object_is_there_as_a_whole_or_not_at_all() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("deep/er/object");
        let content: Vec<u8> = (0..PIECE * 2 + 5).map(|i| i as u8).collect();
        let mut laid = Laid::begin(path.clone()).unwrap();
        laid.write(&content[..7]).unwrap();
        laid.write(&content[7..]).unwrap();
        assert!(!path.exists());
        // Another one of the same name, at the same time.
        let mut second = Laid::begin(path.clone()).unwrap();
        second.write(b"second").unwrap();
        assert!(laid.create().unwrap());
        assert_eq!(fs::read(&path).unwrap(), content);
        assert!(!second.create().unwrap());
        assert_eq!(fs::read(&path).unwrap(), content);

        let mut given_up = Laid::begin(path.clone()).unwrap();
        given_up.write(b"never").unwrap();
        drop(given_up);
        assert_eq!(names(path.parent().unwrap()), ["object"]);

        let mut third = Laid::begin(path.clone()).unwrap();
        third.write(b"third").unwrap();
        third.replace().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        assert_eq!(names(path.parent().unwrap()), ["object"]);
    }
}
