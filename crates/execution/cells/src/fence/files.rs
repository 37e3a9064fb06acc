//! Which files a process reaches: Landlock, by which the kernel refuses to open what lies below none of the folders that were named. As with [`super::process`], it can't be taken off, and what
//! the process starts has it too.
//!
//! What is open already stays so, and the network is not restricted but for who asks for that. A kernel knows more or less of it: each restricts as much as it can, and [`Reach::restrict`] says
//! how much that was.

use landlock::{ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, path_beneath_rules};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The newest version of the kernel's interface of which all rights on files are asked for. Later ones are about more than files.
const VERSION: ABI = ABI::V5;

/// What may be done below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// Files and folders are read.
    Read,
    /// They are read, and programs are started.
    Run,
    /// A file or device is read and written, and nothing is made or removed.
    Write,
    /// Everything but to start programs.
    All,
}

impl May {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            May::Read => AccessFs::ReadFile | AccessFs::ReadDir,
            May::Run => AccessFs::from_read(VERSION),
            May::Write => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev,
            May::All => AccessFs::from_all(VERSION) & !BitFlags::from(AccessFs::Execute),
        }
    }
}

/// How much of what was asked for the kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restricted {
    Wholly,
    /// An older kernel: what its version of Landlock does not know is not restricted.
    Partly,
    /// The kernel has no Landlock, or it is off.
    Not,
}

impl fmt::Display for Restricted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Restricted::Wholly => "all of it",
            Restricted::Partly => "what this kernel's version of Landlock knows of it",
            Restricted::Not => "nothing: this kernel has no Landlock, or has it off",
        })
    }
}

/// What a process will reach.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    paths: Vec<(PathBuf, May)>,
    /// It neither listens for TCP connections nor makes any.
    offline: bool,
}

impl Reach {
    /// Files below a path, as far as it is there when the process is restricted: what is made later in place of it is not meant.
    pub fn below(mut self, path: impl AsRef<Path>, may: May) -> Reach {
        self.paths.push((path.as_ref().into(), may));
        self
    }

    /// Without TCP.
    pub(crate) fn offline(self) -> Reach {
        Reach { offline: true, ..self }
    }

    /// What each program on a Linux machine may have to read while it runs: libraries that are loaded when they are needed, time zones, what the kernel tells of itself, the processors and the
    /// process, and the system's configuration: names of machines, certificates. And what devices everybody may write to.
    ///
    /// `/etc` as a whole, since files in it are replaced while a program runs, and a rule for a file is one for what was there then.
    pub fn of_any_program() -> Reach {
        let read = [
            "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/etc", "/run/systemd/resolve",
            "/run/NetworkManager", "/run/resolvconf", "/proc", "/sys/devices/system", "/sys/fs/cgroup", "/sys/kernel/mm", "/dev/urandom", "/dev/random",
        ];
        let reach = read.into_iter().fold(Reach::default(), |reach, path| reach.below(path, May::Read));
        ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty"].into_iter().fold(reach, |reach, path| reach.below(path, May::Write))
    }

    fn ruleset(&self) -> Result<RulesetCreated, RulesetError> {
        let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(VERSION))?;
        if self.offline {
            ruleset = ruleset.handle_access(AccessNet::from_all(VERSION))?;
        }
        let mut ruleset = ruleset.create()?;
        for (path, may) in &self.paths {
            // A path that is not there is left out: it need not be reached.
            ruleset = ruleset.add_rules(path_beneath_rules([path], may.rights()))?;
        }
        Ok(ruleset)
    }

    /// Restricts the thread that calls it and those that it starts from then on: the whole process, if it has one thread.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn restrict(&self) -> io::Result<Restricted> {
        let status = self.ruleset().and_then(RulesetCreated::restrict_self).map_err(io::Error::other)?;
        Ok(match (status.ruleset, status.landlock) {
            (RulesetStatus::FullyEnforced, _) => Restricted::Wholly,
            (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { .. }) => Restricted::Partly,
            _ => Restricted::Not,
        })
    }

    /// A descriptor for a child to take on by `landlock_restrict_self`; `None` where the kernel has no Landlock.
    pub(crate) fn descriptor(&self) -> io::Result<Option<OwnedFd>> {
        self.ruleset().map(Into::into).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Whether an error is the fence's.
    fn refused<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|e| e.raw_os_error() == Some(libc::EACCES))
    }

    /// In a thread: the test's other threads are not to be restricted.
    #[test]
    fn what_was_not_named_is_out_of_reach() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (inside, outside) = (inside.path(), outside.path());
        fs::write(outside.join("secret"), "x").unwrap();
        fs::write(inside.join("mine"), "y").unwrap();
        fs::create_dir(outside.join("read")).unwrap();
        fs::write(outside.join("read/book"), "z").unwrap();
        let open_before = fs::File::open(outside.join("secret")).unwrap();
        let body = || {
            let reach = Reach::of_any_program().below(inside, May::All).below(outside.join("read"), May::Read).below("/there/is/no/such/folder", May::All);
            if reach.restrict().unwrap() == Restricted::Not {
                return println!("this kernel has no Landlock: nothing was tried");
            }
            assert!(refused(fs::read(outside.join("secret"))) && refused(fs::write(outside.join("new"), "")) && refused(fs::read_dir(outside)));
            assert!(refused(fs::write("/etc/cloudskin", "")) && refused(fs::read_dir("/")));
            assert!(refused(fs::read_dir("/home")) || !Path::new("/home").exists());
            let up = fs::read(inside.join("..").join(outside.file_name().unwrap()).join("secret"));
            assert!(refused(up), "by way of what is within reach");
            std::os::unix::fs::symlink(outside.join("secret"), inside.join("link")).unwrap();
            assert!(refused(fs::read(inside.join("link"))));
            assert!(refused(std::process::Command::new("/bin/true").status().map(drop)), "a program that nobody named");
            fs::copy("/usr/bin/true", inside.join("true")).expect_err("it can't be read either");
            // Inside everything goes, and what may be read can't be written.
            fs::create_dir(inside.join("folder")).unwrap();
            fs::rename(inside.join("mine"), inside.join("folder/mine")).unwrap();
            assert_eq!(fs::read_to_string(inside.join("folder/mine")).unwrap(), "y");
            assert_eq!(fs::read_to_string(outside.join("read/book")).unwrap(), "z");
            assert!(refused(fs::write(outside.join("read/book"), "")) && refused(fs::remove_file(outside.join("read/book"))));
            assert_eq!(open_before.metadata().unwrap().len(), 1, "what is open stays open");
            // What a process needs of the system is there.
            assert!(std::net::ToSocketAddrs::to_socket_addrs("localhost:1").is_ok());
            fs::write("/dev/null", "gone").unwrap();
            let memory = fs::File::open("/proc/self/mem").unwrap();
            let word = 77u64;
            let mut read = [0; 8];
            std::os::unix::fs::FileExt::read_exact_at(&memory, &mut read, (&raw const word) as u64).unwrap();
            assert_eq!(u64::from_ne_bytes(read), word);
            assert!(fs::read_to_string("/proc/meminfo").is_ok() && fs::File::open("/proc/self/pagemap").is_ok());
            std::thread::spawn({
                let secret = outside.join("secret");
                move || assert!(refused(fs::read(secret)), "what it starts has the same fence")
            })
            .join()
            .unwrap();
            let refused = std::net::TcpStream::connect("127.0.0.1:1").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "the network is as before");
        };
        std::thread::scope(|scope| scope.spawn(body).join().unwrap());
        assert!(fs::read(outside.join("secret")).is_ok(), "others are as before");
    }
}
