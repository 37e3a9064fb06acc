//! The log: batches of commands on disk, one `fdatasync` each.
//!
//! ```text
//! log-<first sequence number>: header │ batch │ batch │ … │ zeros (preallocated)
//! header  16 bytes of mark │ first u64 │ chain u64 │ xxh3 u64
//! batch   mark u32 │ bytes u32 │ first u64 │ count u32 │ 0 u32 │ chain u64 │ xxh3 u64 │ count × (length u32 │ command)
//! ```
//!
//! All little endian. `chain` is the checksum of the batch before, so a batch from elsewhere or from an earlier life does not fit.
//! The next batch is written only when the one before is on disk. So a batch that is not whole, with a whole one somewhere after it, was
//! acknowledged: that is damage, and recovery refuses. With nothing whole after it, it is a torn tail that nobody was told of, and is cut.
//! It does not know what a command means.

use crate::{Error, Result, format};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::{fd::AsRawFd, unix::fs::FileExt, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::xxh3_64;

const MARK: &[u8; 16] = b"cloudskin meta 1";
const BATCH: u32 = 0x6265_4743;
const HEADER: usize = 40;
const HEAD: usize = 40;
/// The longest batch.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Disk taken at a time: appending to what is there already saves the file system most of its own journal.
const AHEAD: u64 = 4 << 20;

/// Where a log's bytes go. The tests have one that fails and forgets.
pub trait Storage: Send {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes sure that there is room up to this length; what is new reads as zeros.
    fn extend(&mut self, len: u64) -> io::Result<()>;
    fn cut(&mut self, len: u64) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
}

impl Storage for File {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }
    fn extend(&mut self, len: u64) -> io::Result<()> {
        let len = i64::try_from(len).map_err(io::Error::other)?;
        // SAFETY: only numbers are passed, and the descriptor is this file's own.
        match unsafe { libc::fallocate(self.as_raw_fd(), 0, 0, len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Why nothing can be appended.
#[derive(Debug)]
pub enum Failed {
    /// Nothing of it is in the log; the log goes on.
    Refused(io::Error),
    /// Nobody knows what is on disk; only a recovery does.
    Broken(io::Error),
}

/// Commands that will be one batch.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

impl Batch {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(HEAD, 0);
        self.count = 0;
    }
    pub fn push(&mut self, write: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        if self.count == 0 {
            self.clear();
        }
        let at = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes = write(std::mem::take(&mut self.bytes));
        let len = (self.bytes.len() - at - 4) as u32;
        self.bytes[at..at + 4].copy_from_slice(&len.to_le_bytes());
        self.count += 1;
    }
    /// Bytes on disk.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
    /// As they are on disk, after [`Log::append`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A log file to append to.
pub struct Log {
    storage: Box<dyn Storage>,
    /// Of the next command.
    next: u64,
    chain: u64,
    len: u64,
    room: u64,
}

fn header(first: u64, chain: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..16].copy_from_slice(MARK);
    bytes[16..24].copy_from_slice(&first.to_le_bytes());
    bytes[24..32].copy_from_slice(&chain.to_le_bytes());
    let sum = xxh3_64(&bytes[..32]);
    bytes[32..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn file_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { action, path: path.clone(), source }
}

pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(file_error("sync", folder))
}

pub fn name_of(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("log-{first:020}"))
}

/// Log files with the sequence number that each begins with, in order.
pub fn files(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    numbered(folder, "log-")
}

/// Files whose name is a word and a number, in the order of the numbers.
pub fn numbered(folder: &Path, word: &str) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(file_error("read", folder))? {
        let path = entry.map_err(file_error("read", folder))?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix(word)?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

impl Log {
    /// Makes a new file, which is there as a whole or not at all.
    pub fn create(folder: &Path, first: u64, chain: u64) -> Result<Log> {
        let (path, temp) = (name_of(folder, first), folder.join("log.new"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&temp);
        let file = file.map_err(file_error("create", &temp))?;
        file.write_all_at(&header(first, chain), 0).and_then(|()| file.sync_all()).map_err(file_error("write", &temp))?;
        std::fs::rename(&temp, &path).map_err(file_error("create", &path))?;
        sync_folder(folder)?;
        Ok(Log::on(Box::new(file), first, chain, HEADER as u64))
    }

    fn on(storage: Box<dyn Storage>, next: u64, chain: u64, len: u64) -> Log {
        Log { storage, next, chain, len, room: len }
    }

    pub fn next(&self) -> u64 {
        self.next
    }
    pub fn chain(&self) -> u64 {
        self.chain
    }
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Appends a batch; when it returns, the batch is on disk.
    pub fn append(&mut self, batch: &mut Batch) -> Result<(), Failed> {
        assert!(batch.count > 0 && batch.len() <= BATCH_BYTES_MAX, "batches are bounded where they are made");
        let bytes = &mut batch.bytes;
        let body = (bytes.len() - HEAD) as u32;
        bytes[0..4].copy_from_slice(&BATCH.to_le_bytes());
        bytes[4..8].copy_from_slice(&body.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.next.to_le_bytes());
        bytes[16..20].copy_from_slice(&batch.count.to_le_bytes());
        bytes[20..24].fill(0);
        bytes[24..32].copy_from_slice(&self.chain.to_le_bytes());
        let sum = sum_of(bytes);
        bytes[32..40].copy_from_slice(&sum.to_le_bytes());
        let end = self.len + bytes.len() as u64;
        if end > self.room {
            let room = end + AHEAD;
            match self.storage.extend(room) {
                Ok(()) => self.room = room,
                // Not every file system can; and a full disk may still take the batch itself.
                Err(_) => self.room = end,
            }
        }
        if let Err(e) = self.storage.write_at(self.len, bytes) {
            // A part of it may be there: it must not be taken for a torn tail with a whole batch after it.
            return match self.storage.cut(self.len).and_then(|()| self.storage.sync()) {
                Ok(()) => {
                    self.room = self.len;
                    Err(Failed::Refused(e))
                }
                Err(_) => Err(Failed::Broken(e)),
            };
        }
        self.storage.sync().map_err(Failed::Broken)?;
        self.len = end;
        self.next += u64::from(batch.count);
        self.chain = sum;
        Ok(())
    }

    /// Appends a batch as another log has it, and gives its commands; when it returns, the batch is on disk. On an error nothing more may be appended.
    pub fn append_from<'a>(&mut self, bytes: &'a [u8]) -> Result<Vec<&'a [u8]>, String> {
        let found = whole(bytes).filter(|(.., commands)| HEAD + commands.len() == bytes.len());
        let Some((first, count, chain, sum, commands)) = found else { return Err("it is not a whole batch".into()) };
        if (first, chain) != (self.next, self.chain) {
            return Err(format!("it begins with {first}, {} is due", self.next));
        }
        let (mut left, mut each) = (commands, Vec::with_capacity(count as usize));
        for _ in 0..count {
            let len = if left.len() < 4 { usize::MAX } else { u32_at(left, 0) as usize };
            let command = left.get(4..).and_then(|rest| rest.get(..len)).ok_or("a command is cut short")?;
            each.push(command);
            left = &left[4 + len..];
        }
        let end = self.len + bytes.len() as u64;
        if end > self.room {
            let room = end + AHEAD;
            self.room = if self.storage.extend(room).is_ok() { room } else { end };
        }
        self.storage.write_at(self.len, bytes).and_then(|()| self.storage.sync()).map_err(|e| e.to_string())?;
        self.len = end;
        self.next += u64::from(count);
        self.chain = sum;
        Ok(each)
    }

    /// Gives back what was preallocated. To be called when the next file is there.
    pub fn close(mut self) -> io::Result<()> {
        self.storage.cut(self.len)?;
        self.storage.sync()
    }
}

fn sum_of(batch: &[u8]) -> u64 {
    xxh3_64(&batch[..32]) ^ xxh3_64(&batch[HEAD..]).rotate_left(1)
}

/// The batch that begins here, if it is whole: its first number, count, chain, checksum and commands.
fn whole(bytes: &[u8]) -> Option<(u64, u32, u64, u64, &[u8])> {
    if bytes.len() < HEAD || u32_at(bytes, 0) != BATCH {
        return None;
    }
    let body = u32_at(bytes, 4) as usize;
    if body + HEAD > BATCH_BYTES_MAX || bytes.len() < HEAD + body {
        return None;
    }
    let sum = u64_at(bytes, 32);
    let batch = &bytes[..HEAD + body];
    (sum_of(batch) == sum).then(|| (u64_at(bytes, 8), u32_at(bytes, 16), u64_at(bytes, 24), sum, &batch[HEAD..]))
}

/// Gives each command from `first` on to `each` and opens the log for more. What is torn is cut; what is damaged is refused.
///
/// `first` is one more than the snapshot's last. `Ok(None)`: there is no file, so a new one has to be made.
pub fn recover(folder: &Path, first: u64, mut each: impl FnMut(u64, &[u8]) -> Result<(), String>) -> Result<Option<Log>> {
    let mut files = files(folder)?;
    // The last file that begins at or before `first` and all after it; older ones are a leftover of a snapshot.
    let start = files.iter().rposition(|(number, _)| *number <= first);
    match start {
        Some(start) => drop(files.drain(..start)),
        None => {
            if let Some((number, path)) = files.first() {
                let found = format!("it begins with {number}, and what is from {first} on is missing");
                return Err(Error::DamagedLog { path: path.clone(), offset: 0, found });
            }
        }
    }
    // All of them before the first is cut.
    for (_, path) in &files {
        let mut mark = Vec::new();
        File::open(path).and_then(|file| file.take(MARK.len() as u64).read_to_end(&mut mark)).map_err(file_error("read", path))?;
        format::check(path, &mark, MARK)?;
    }
    let last = files.len();
    let mut log: Option<Log> = None;
    for (n, (number, path)) in files.into_iter().enumerate() {
        let damaged = |offset: usize, found: String| Error::DamagedLog { path: path.clone(), offset: offset as u64, found };
        let bytes = std::fs::read(&path).map_err(file_error("read", &path))?;
        let head = bytes.get(..HEADER).filter(|head| **head == header(number, u64_at(head, 24)));
        let Some(head) = head else { return Err(damaged(0, "it has no valid header".into())) };
        let (mut next, mut chain, mut at) = (number, u64_at(head, 24), HEADER);
        if let Some(before) = &log {
            if (before.next, before.chain) != (next, chain) {
                return Err(damaged(0, format!("it goes on at {next}, the file before ends at {}", before.next)));
            }
        }
        while at < bytes.len() {
            let rest = &bytes[at..];
            match whole(rest) {
                Some((number, count, before, sum, commands)) if number == next && before == chain => {
                    let mut left = commands;
                    for k in 0..u64::from(count) {
                        let len = if left.len() < 4 { usize::MAX } else { u32_at(left, 0) as usize };
                        let Some(command) = left.get(4..).and_then(|rest| rest.get(..len)) else {
                            return Err(damaged(at, format!("command {} is cut short in a batch that is whole", next + k)));
                        };
                        if next + k >= first {
                            // It is as it was written.
                            each(next + k, command).map_err(|e| format::newer(&path, format!("command {}, which this version can't read ({e})", next + k)))?;
                        }
                        left = &left[4 + len..];
                    }
                    at += HEAD + commands.len();
                    next += u64::from(count);
                    chain = sum;
                }
                Some((number, ..)) => return Err(damaged(at, format!("a batch that begins with {number} lies where {next} is due"))),
                None => {
                    if rest.iter().all(|byte| *byte == 0) {
                        break;
                    }
                    if let Some((later, number)) = later(rest, next) {
                        return Err(damaged(at, format!("a batch is broken, and batch {number} after it, at byte {}, is whole", at + later)));
                    }
                    if n + 1 < last {
                        return Err(damaged(at, "a batch is broken, and another log follows".into()));
                    }
                    tracing::warn!(path = %path.display(), offset = at, bytes = rest.len(), "the log's torn tail is cut: nobody was told of it");
                    break;
                }
            }
        }
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(file_error("open", &path))?;
        file.cut(at as u64).and_then(|()| file.sync_all()).map_err(file_error("cut", &path))?;
        log = Some(Log::on(Box::new(file), next, chain, at as u64));
    }
    Ok(log)
}

/// A whole batch with a later number somewhere behind a broken one.
fn later(bytes: &[u8], next: u64) -> Option<(usize, u64)> {
    let mark = BATCH.to_le_bytes();
    let mut at = 1;
    while let Some(found) = bytes[at.min(bytes.len())..].windows(4).position(|four| four == mark) {
        at += found;
        if let Some((number, ..)) = whole(&bytes[at..]) {
            if number > next {
                return Some((at, number));
            }
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use std::sync::{Arc, Mutex};

    /// A disk that forgets what was not synced, in pieces of 512 bytes, as it likes.
    #[derive(Default)]
    struct Disk {
        synced: Vec<u8>,
        now: Vec<u8>,
        /// Calls until one fails.
        fuse: Option<u32>,
    }

    #[derive(Clone, Default)]
    struct Faulty(Arc<Mutex<Disk>>);

    impl Faulty {
        fn step(disk: &mut Disk) -> io::Result<()> {
            match &mut disk.fuse {
                Some(0) => Err(io::Error::other("the disk is gone")),
                Some(n) => {
                    *n -= 1;
                    Ok(())
                }
                None => Ok(()),
            }
        }
        /// What is found after a power cut.
        fn cut_power(&self, random: &mut StdRng) -> Vec<u8> {
            let disk = self.0.lock().unwrap();
            let mut image = disk.now.clone();
            image.resize(if random.random() { disk.now.len() } else { disk.synced.len() }, 0);
            for at in (0..image.len()).step_by(512) {
                if random.random() {
                    for i in at..(at + 512).min(image.len()) {
                        image[i] = disk.synced.get(i).copied().unwrap_or(0);
                    }
                }
            }
            image
        }
    }

    impl Storage for Faulty {
        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            let mut disk = self.0.lock().unwrap();
            let done = Self::step(&mut disk);
            let take = if done.is_ok() { bytes.len() } else { bytes.len() / 2 };
            let end = offset as usize + take;
            if disk.now.len() < end {
                disk.now.resize(end, 0);
            }
            disk.now[offset as usize..end].copy_from_slice(&bytes[..take]);
            done
        }
        fn extend(&mut self, len: u64) -> io::Result<()> {
            let mut disk = self.0.lock().unwrap();
            let len = disk.now.len().max(len as usize - (AHEAD as usize) + 5000);
            disk.now.resize(len, 0);
            Ok(())
        }
        fn cut(&mut self, len: u64) -> io::Result<()> {
            let mut disk = self.0.lock().unwrap();
            Self::step(&mut disk)?;
            disk.now.truncate(len as usize);
            Ok(())
        }
        fn sync(&mut self) -> io::Result<()> {
            let mut disk = self.0.lock().unwrap();
            Self::step(&mut disk)?;
            disk.synced = disk.now.clone();
            Ok(())
        }
    }

    fn command(n: u64) -> Vec<u8> {
        let mut bytes = n.to_le_bytes().to_vec();
        bytes.resize(8 + (n as usize * 37) % 700, n as u8);
        bytes
    }

    fn batch(first: u64, count: u64) -> Batch {
        let mut batch = Batch::default();
        for n in first..first + count {
            batch.push(|mut bytes| {
                bytes.extend(command(n));
                bytes
            });
        }
        batch
    }

    /// Reads all; each must be what was written.
    fn read(folder: &Path) -> Result<(u64, Log)> {
        let mut next = 1;
        let log = recover(folder, 1, |n, bytes| {
            assert_eq!((n, bytes), (next, &command(n)[..]));
            next += 1;
            Ok(())
        })?;
        Ok((next, log.expect("a file is there")))
    }

    #[test]
    fn what_was_acknowledged_outlives_power_cuts_and_failures() {
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..400 {
            let folder = tempfile::tempdir().unwrap();
            let mut acknowledged = 1;
            for _life in 0..3 {
                let disk = Faulty::default();
                let path = name_of(folder.path(), 1);
                let start = if path.exists() {
                    let (next, log) = read(folder.path()).unwrap();
                    assert!(next >= acknowledged, "seed {seed}: {acknowledged} were acknowledged, {next} are left");
                    let bytes = std::fs::read(&path).unwrap();
                    *disk.0.lock().unwrap() = Disk { synced: bytes.clone(), now: bytes, fuse: None };
                    (next, log.chain, log.len)
                } else {
                    let bytes = header(1, 0).to_vec();
                    *disk.0.lock().unwrap() = Disk { synced: bytes.clone(), now: bytes, fuse: None };
                    (1, 0, HEADER as u64)
                };
                let mut log = Log::on(Box::new(disk.clone()), start.0, start.1, start.2);
                let mut tried = 0;
                if random.random_bool(0.7) {
                    disk.0.lock().unwrap().fuse = Some(random.random_range(0..20));
                }
                for _ in 0..random.random_range(0..12) {
                    let count = random.random_range(1..9);
                    match log.append(&mut batch(log.next, count)) {
                        Ok(()) => acknowledged = log.next,
                        Err(Failed::Refused(_)) => disk.0.lock().unwrap().fuse = None,
                        Err(Failed::Broken(_)) => {
                            tried = count;
                            break;
                        }
                    }
                }
                // Also in the middle of a batch that was never synced.
                if tried == 0 && random.random() {
                    disk.0.lock().unwrap().fuse = Some(1);
                    let _ = log.append(&mut batch(log.next, 3));
                }
                std::fs::write(&path, disk.cut_power(&mut random)).unwrap();
            }
            let (next, _) = read(folder.path()).unwrap();
            assert!(next >= acknowledged, "seed {seed}");
        }
    }

    #[test]
    fn a_command_that_nobody_here_knows_is_left_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::create(folder.path(), 1, 0).unwrap();
        log.append(&mut batch(1, 3)).unwrap();
        let path = name_of(folder.path(), 1);
        let before = std::fs::read(&path).unwrap();
        let error = recover(folder.path(), 1, |n, _| if n < 3 { Ok(()) } else { Err("no such sort".into()) }).err().expect("it is refused");
        assert!(matches!(&error, Error::Newer { path: named, .. } if *named == path), "{error}");
        assert!(error.to_string().contains("command 3"), "{error}");
        assert!(std::fs::read(&path).unwrap() == before);
    }

    #[test]
    fn damage_in_the_middle_is_refused_and_changes_nothing() {
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::create(folder.path(), 1, 0).unwrap();
        let mut last = 0;
        for _ in 0..20 {
            last = log.len;
            log.append(&mut batch(log.next, 5)).unwrap();
        }
        let (chain, next) = (log.chain, log.next);
        log.close().unwrap();
        let path = name_of(folder.path(), 1);
        let good = std::fs::read(&path).unwrap();
        for _ in 0..300 {
            let at = random.random_range(0..last as usize);
            let mut bytes = good.clone();
            bytes[at] ^= 1 << random.random_range(0..8);
            std::fs::write(&path, &bytes).unwrap();
            let error = recover(folder.path(), 1, |_, _| Ok(())).err().unwrap_or_else(|| panic!("byte {at}, seed {seed}"));
            // A number at the end of the mark that has become another one is that of another version.
            let newer = at < MARK.len() && matches!(error, Error::Newer { .. });
            assert!(newer || matches!(error, Error::DamagedLog { .. }) && error.kind() == base::Kind::DataLoss, "byte {at}, seed {seed}: {error}");
            assert!(std::fs::read(&path).unwrap() == bytes, "it was left as it was");
        }
        // The end is another matter: it may be a batch that nobody was told of.
        for cut in [1, 7, 39, 40, 41] {
            std::fs::write(&path, &good[..last as usize + cut]).unwrap();
            assert_eq!(read(folder.path()).unwrap().0, next - 5);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), last, "cut");
        }
        // Unless another file follows, or one is missing.
        std::fs::write(&path, &good[..last as usize + 9]).unwrap();
        let mut second = Log::create(folder.path(), next, chain).unwrap();
        second.append(&mut batch(next, 2)).unwrap();
        assert!(recover(folder.path(), 1, |_, _| Ok(())).is_err());
        std::fs::write(&path, &good).unwrap();
        assert_eq!(read(folder.path()).unwrap().0, next + 2);
        std::fs::remove_file(&path).unwrap();
        assert!(recover(folder.path(), 1, |_, _| Ok(())).is_err());
        assert!(recover(folder.path(), next, |_, _| Ok(())).unwrap().is_some(), "a snapshot has what was before");
    }
}
