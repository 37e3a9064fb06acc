//! How an object comes into a folder: under a name that no listing shows, then all at once under its own, and on disk before anyone hears of it. Its bytes go there
//! [`piecewise`], or they would hold up others.

use base::piecewise;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

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
        piecewise::write_at(&self.file, bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Gives it its name, unless something has that: `false` then.
    pub fn create(mut self) -> io::Result<bool> {
        self.file.sync_all()?;
        match fs::hard_link(&self.staged, &self.path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                // Who made it may not have come as far.
                sync_folder_of(&self.path)?;
                return Ok(false);
            }
            Err(e) => return Err(e),
        }
        sync_folder_of(&self.path)?;
        // The object is there, whether its first name can be removed or not.
        self.named = true;
        let _ = fs::remove_file(&self.staged);
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

/// Removes what is staged below a folder: of uploads that a crash has ended. Nobody may be writing there. Gives how many there were.
pub(crate) fn forget(below: &Path) -> io::Result<u64> {
    let mut forgotten = 0;
    let entries = match fs::read_dir(below) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forgotten += forget(&entry.path())?;
        } else if entry.file_name().to_str().and_then(|name| name.rsplit_once('#')).is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())) {
            fs::remove_file(entry.path())?;
            forgotten += 1;
        }
    }
    Ok(forgotten)
}

/// Makes the folders above a path, and what shows each of them is on disk.
fn folders(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let new: Vec<&Path> = parent.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(parent)?;
    new.into_iter().rev().try_for_each(sync_folder_of)
}

/// Syncs the folder that has this name in it.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
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
        let content: Vec<u8> = (0..piecewise::PIECE * 2 + 5).map(|i| i as u8).collect();
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

        // What a crash has left there.
        std::mem::forget(Laid::begin(path.clone()).unwrap());
        fs::write(path.with_file_name("a#b"), "").unwrap();
        assert_eq!(forget(temp.path()).unwrap(), 1);
        assert_eq!(names(path.parent().unwrap()), ["a#b", "object"]);
        assert_eq!(forget(&temp.path().join("none")).unwrap(), 0);
    }
}
