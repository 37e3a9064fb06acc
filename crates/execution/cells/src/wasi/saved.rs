//! A cell's open files as they travel: plain data, from which another agent opens them again.
//!
//! A file that is read is a name and a version. One that is written is nobody else's yet, so all of it goes along, in memory and while the rank
//! stands still: that has a bound ([`UNSEALED_MAX`]), beyond which the rank stays where it is until the file is closed. Pipes go along with what is in them;
//! a rank with other processes that run stays where it is, too (`docs/design/processes.md`).

use super::listing::{self, Listing};
use super::pipes::{Ends, Pipe, SavedPipe};
use super::written::Written;
use super::{Descriptor, FDS_MAX, Fd, Folders, State, lock, normal};
use crate::control::Control;
use crate::processes::{self, Process};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};

/// Bytes of all files together that a rank has open for writing when it moves or is written down.
const UNSEALED_MAX: u64 = 256 << 20;

/// `mount` is the folder's name: another agent may list the job's folders in another order.
#[derive(Serialize, Deserialize)]
enum SavedFd {
    Standard(u8),
    Folder { mount: String, path: String, preopened: Option<String>, listing: Option<listing::Saved> },
    Reading { mount: String, path: String, at: u64, version: u64 },
    Writing { mount: String, path: String, at: u64, append: bool, write: bool, content: Content },
    /// Numbers of pipes: that which it reads, and that which it writes.
    Stream { from: Option<u32>, into: Option<u32>, nonblocking: bool },
    /// The same as an earlier descriptor.
    Same(u32),
}

#[derive(Serialize, Deserialize)]
enum Content {
    Bytes { data: Vec<u8>, unlinked: bool },
    /// That of an earlier descriptor.
    Same(u32),
}

/// A cell's open files as they travel.
#[derive(Serialize, Deserialize)]
pub struct Saved {
    fds: Vec<Option<SavedFd>>,
    folders: Vec<(String, String)>,
    printed: u64,
    pipes: Vec<SavedPipe>,
    process: Option<processes::Saved>,
}

/// The content of a file that is being written. `None`: it can't be read.
fn all_of(file: &Written) -> Option<Vec<u8>> {
    let (mut data, mut done) = (vec![0; file.len() as usize], 0);
    while done < data.len() {
        match file.read_at(done as u64, &mut data[done..]) {
            Ok(n) if n > 0 => done += n,
            _ => return None,
        }
    }
    Some(data)
}

impl State {
    pub fn save(&self) -> std::result::Result<Saved, String> {
        let name = |mount: usize| self.mounts.folders[mount].0.clone();
        let mut pipes: Vec<Arc<Pipe>> = Vec::new();
        let mut number = |end: Option<&Arc<Pipe>>| {
            end.map(|pipe| {
                let known = pipes.iter().position(|p| Arc::ptr_eq(p, pipe));
                known.unwrap_or_else(|| {
                    pipes.push(pipe.clone());
                    pipes.len() - 1
                }) as u32
            })
        };
        // By the descriptors that came first with them.
        let mut written: Vec<(u32, Written)> = Vec::new();
        let mut save = |n: usize, fd: &Fd| -> std::result::Result<SavedFd, String> {
            Ok(match fd {
                Fd::Standard(n) => SavedFd::Standard(*n),
                Fd::Folder { mount, path, preopened, listing } => {
                    SavedFd::Folder { mount: name(*mount), path: path.clone(), preopened: preopened.clone(), listing: listing.as_ref().map(|listing| listing.save()) }
                }
                Fd::Reading { mount, path, at, file } => {
                    SavedFd::Reading { mount: name(*mount), path: path.clone(), at: *at, version: file.version() }
                }
                Fd::Writing { mount, path, at, append, write, file } => {
                    let content = match written.iter().find(|(_, other)| other.is(file)) {
                        Some((earlier, _)) => Content::Same(*earlier),
                        None => {
                            written.push((n as u32, file.clone()));
                            let data = all_of(file).ok_or_else(|| format!("file /{}/{path}, which is being written, can't be read back", name(*mount)))?;
                            Content::Bytes { data, unlinked: file.is_unlinked() }
                        }
                    };
                    SavedFd::Writing { mount: name(*mount), path: path.clone(), at: *at, append: *append, write: *write, content }
                }
                Fd::Stream(ends) => SavedFd::Stream { from: number(ends.from()), into: number(ends.into()), nonblocking: ends.nonblocking },
            })
        };
        let process = self.process.as_ref().map(|process| process.save(self.rank)).transpose()?;
        self.unsealed()?;
        let mut fds: Vec<Option<SavedFd>> = Vec::with_capacity(self.fds.len());
        for (n, fd) in self.fds.iter().enumerate() {
            let same = |fd: &Descriptor| self.fds[..n].iter().position(|other| other.as_ref().is_some_and(|other| Arc::ptr_eq(other, fd)));
            fds.push(match fd {
                None => None,
                // Descriptors are shared by few programs: without `dup` the count is one.
                Some(fd) if Arc::strong_count(fd) > 1 && let Some(earlier) = same(fd) => Some(SavedFd::Same(earlier as u32)),
                Some(fd) => Some(save(n, &lock(fd))?),
            });
        }
        let folders = lock(&self.folders).iter().map(|(mount, path)| (name(mount), path.to_string())).collect();
        Ok(Saved { fds, folders, printed: *lock(&self.printed), pipes: pipes.iter().map(|pipe| pipe.save()).collect(), process })
    }

    /// Refuses when files that are being written are too much to take along, before anything of them is read.
    fn unsealed(&self) -> std::result::Result<(), String> {
        let mut counted: Vec<Written> = Vec::new();
        let mut files: Vec<(u64, usize, String)> = Vec::new();
        for fd in self.fds.iter().flatten() {
            if let Fd::Writing { mount, path, file, .. } = &*lock(fd)
                && !counted.iter().any(|other| other.is(file))
            {
                counted.push(file.clone());
                files.push((file.len(), *mount, path.clone()));
            }
        }
        let all = files.iter().fold(0u64, |sum, (bytes, ..)| sum.saturating_add(*bytes));
        match files.iter().max_by_key(|(bytes, ..)| *bytes) {
            Some((bytes, mount, path)) if all > UNSEALED_MAX => Err(format!(
                "file /{}/{path} has {bytes} bytes and is still being written ({all} with others); a rank takes at most {UNSEALED_MAX} bytes of such \
                 files along, so it can move, or be written down, when it has closed some; let it write several smaller files, or close them earlier",
                self.mounts.folders[*mount].0
            )),
            _ => Ok(()),
        }
    }

    /// `control`: of the cell that goes on, and `bytes` its memory.
    pub(crate) fn restore(&mut self, saved: &Saved, control: &Arc<Control>, bytes: u64) -> std::result::Result<(), String> {
        if saved.fds.len() > FDS_MAX.max(self.fds.len()) {
            return Err(format!("it has {} descriptors, more than the {FDS_MAX} of a cell", saved.fds.len()));
        }
        self.process = saved.process.as_ref().map(|process| Process::restore(process, control, self.memory_max, bytes)).transpose()?;
        let pipes = self.pipes(saved)?;
        let mut fds: Vec<Option<Descriptor>> = Vec::with_capacity(saved.fds.len());
        for fd in &saved.fds {
            fds.push(match fd {
                None => None,
                Some(SavedFd::Same(earlier)) => {
                    let same = fds.get(*earlier as usize).cloned().flatten();
                    Some(same.ok_or_else(|| format!("a descriptor is said to be the same as descriptor {earlier}, which is not there"))?)
                }
                Some(SavedFd::Stream { from, into, nonblocking }) => Some(Arc::new(Mutex::new(Fd::Stream(Ends::restore(&pipes, *from, *into, *nonblocking)?)))),
                Some(fd) => Some(Arc::new(Mutex::new(self.reopen(fd, &fds)?))),
            });
        }
        let mut folders = Folders::default();
        for (name, path) in &saved.folders {
            folders.add(self.mount(name, path)?, path.clone()).map_err(|_| "it has made more folders than a cell may".to_string())?;
        }
        if saved.printed > i64::MAX as u64 {
            return Err(format!("the rank is said to have printed {} bytes", saved.printed));
        }
        self.fds = fds;
        self.folders = Arc::new(Mutex::new(folders));
        self.printed = Arc::new(Mutex::new(saved.printed));
        Ok(())
    }

    /// Pipes of a snapshot, whose ends nobody has yet.
    fn pipes(&self, saved: &Saved) -> std::result::Result<Vec<Arc<Pipe>>, String> {
        if saved.pipes.is_empty() {
            return Ok(Vec::new());
        }
        let process = self.process.as_ref().ok_or("it has pipes, and is no process that could have made some")?;
        process.family.reserve(saved.pipes.len()).map_err(|_| format!("it has {} pipes, more than the {} of a rank", saved.pipes.len(), processes::PIPES_MAX))?;
        saved.pipes.iter().map(|pipe| Pipe::restore(pipe, &process.family)).collect()
    }

    /// Where a folder of this name is here. `path`: what is wanted of it.
    fn mount(&self, name: &str, path: &str) -> std::result::Result<usize, String> {
        // A mount is promised normalised paths, and a snapshot's bytes are foreign.
        if normal("", path).as_deref() != Ok(path) {
            return Err(format!("the rank has /{name}/{path} open, which is no path below /{name}"));
        }
        let found = self.mounts.folders.iter().position(|(n, _)| n == name);
        found.ok_or_else(|| format!("the rank has /{name}/{path} open, and the job has no bucket {name} here"))
    }

    /// `earlier`: the descriptors before this one.
    fn reopen(&self, fd: &SavedFd, earlier: &[Option<Descriptor>]) -> std::result::Result<Fd, String> {
        Ok(match fd {
            SavedFd::Standard(n) => Fd::Standard(*n),
            SavedFd::Folder { mount, path, preopened, listing } => {
                let listing = listing.as_ref().map(|listing| Listing::restore(listing, &self.room).map(Box::new)).transpose()?;
                Fd::Folder { mount: self.mount(mount, path)?, path: path.clone(), preopened: preopened.clone(), listing }
            }
            SavedFd::Reading { mount: name, path, at, version } => {
                let mount = self.mount(name, path)?;
                let file = self.mounts.folders[mount].1.open_version(path, *version);
                let file = file.map_err(|e| format!("/{name}/{path}, which the rank reads, can't be opened where it is to go on: {e}"))?;
                Fd::Reading { mount, path: path.clone(), at: *at, file }
            }
            SavedFd::Writing { mount: name, path, at, append, write, content } => {
                let mount = self.mount(name, path)?;
                let file = match content {
                    Content::Same(number) => {
                        let same = earlier.get(*number as usize).and_then(Option::as_ref).and_then(|fd| match &*lock(fd) {
                            Fd::Writing { mount: m, path: p, file, .. } if *m == mount && p == path => Some(file.clone()),
                            _ => None,
                        });
                        same.ok_or_else(|| format!("/{name}/{path} is said to be written by descriptor {number}, too, which does not"))?
                    }
                    Content::Bytes { data, unlinked } => {
                        let lost = |e| format!("/{name}/{path}, which the rank writes, can't be written where it is to go on ({e:?}, {} bytes)", data.len());
                        let file = Written::new(self.mounts.folders[mount].1.create(path, false).map_err(lost)?);
                        file.write_at(0, data).map_err(lost)?;
                        if *unlinked {
                            file.unlink();
                        }
                        file
                    }
                };
                Fd::Writing { mount, path: path.clone(), at: *at, append: *append, write: *write, file }
            }
            SavedFd::Stream { .. } | SavedFd::Same(_) => unreachable!("`restore` has taken them"),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cell::Spec;
    use crate::wasi::{Discard, Mount, Mounts, Sink};
    use std::sync::Arc;

    struct Nowhere;
    impl mpi::Wire for Nowhere {
        fn send(&self, _: mpi::Message) {}
        fn acknowledge(&self, _: mpi::Rank, _: mpi::Rank, _: u64) {}
    }

    /// A cell with one folder, `/data`.
    pub(in crate::wasi) fn spec(mount: impl Mount + 'static) -> Spec {
        Spec {
            rank: mpi::Rank(0),
            size: 1,
            args: Vec::new(),
            env: Vec::new(),
            memory_max: 1 << 20,
            budget: Arc::default(),
            mounts: Mounts { folders: vec![("data".into(), Arc::new(mount))], workdir: None },
            output: Arc::new(Discard),
            fabric: Arc::new(mpi::Fabric::new(1, Box::new(Nowhere))),
            place: String::new(),
            spin: 0,
        }
    }

    #[test]
    fn a_snapshot_can_not_lead_out_of_its_mounts() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(outside.path().join("mount")).unwrap();
        for name in ["secret", "mount/own"] {
            std::fs::write(outside.path().join(name), name).unwrap();
        }
        let spec = spec(crate::folder::Folder { root: outside.path().join("mount") });
        let saved = |fds| Saved { fds, folders: Vec::new(), printed: 0, pipes: Vec::new(), process: None };
        let restore = |path: &str| {
            let reading = SavedFd::Reading { mount: "data".into(), path: path.into(), at: 0, version: 0 };
            State::new(&spec, true).restore(&saved(vec![Some(reading)]), &Arc::default(), 0)
        };
        assert_eq!(restore("own"), Ok(()));
        for path in ["../secret", "/../secret", "./own", "a/../../secret"] {
            assert!(restore(path).unwrap_err().contains("no path below /data"), "{path}");
        }
        let many = saved((0..5000).map(|_| None).collect());
        assert!(State::new(&spec, true).restore(&many, &Arc::default(), 0).unwrap_err().contains("5000 descriptors"));
    }

    /// A file of so many bytes, none of which may be read.
    struct Sparse(u64);
    impl Sink for Sparse {
        fn len(&self) -> u64 {
            self.0
        }
        fn set_len(&mut self, len: u64) -> crate::wasi::Result<()> {
            self.0 = len;
            Ok(())
        }
        fn read_at(&self, _: u64, into: &mut [u8]) -> crate::wasi::Result<usize> {
            assert!(self.0 < 1 << 20, "{} bytes are read for a rank that is refused", self.0);
            Ok(into.len())
        }
        fn write_at(&mut self, _: u64, _: &[u8]) -> crate::wasi::Result<()> {
            Ok(())
        }
        fn commit(self: Box<Self>) -> crate::wasi::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn files_too_large_to_travel_are_named_and_not_read() {
        let spec = spec(crate::folder::Folder { root: "/nowhere".into() });
        let saved = |sizes: &[u64]| {
            let mut state = State::new(&spec, true);
            for (i, size) in sizes.iter().enumerate() {
                let file = Written::new(Box::new(Sparse(*size)));
                state.add(Fd::Writing { mount: 0, path: format!("out/{i}"), at: 0, append: false, write: true, file }).unwrap();
            }
            state.save().map(|_| ())
        };
        assert_eq!(saved(&[5, 7]), Ok(()));
        let e = saved(&[5, 9 << 30, 100]).unwrap_err();
        assert!(e.contains("file /data/out/1 has 9663676416 bytes") && e.contains("at most 268435456 bytes"), "{e}");
        let e = saved(&[UNSEALED_MAX - 10, 11]).unwrap_err();
        assert!(e.contains("file /data/out/0") && e.contains("268435457 with others"), "{e}");
        assert!(saved(&[u64::MAX, u64::MAX]).is_err());
    }
}
