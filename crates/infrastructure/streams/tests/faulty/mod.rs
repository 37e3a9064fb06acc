//! A disk in memory that does what disks do on bad days. Sectors of 512 bytes are written whole; a write that the power failure hits leaves any
//! subset of its sectors.

use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    sync::{Arc, Mutex},
    time::Duration,
};
use streams::disk::{Disk, DiskFile, Pace};

const SECTOR: usize = 512;
/// As fast as a good disk.
const WRITE: Duration = Duration::from_micros(400);
/// A new file is filled in so many pieces.
#[allow(dead_code)] // Not every test counts them.
pub const PIECES: u32 = 4;

struct State {
    files: BTreeMap<String, Arc<Mutex<Vec<u8>>>>,
    small: BTreeMap<String, Vec<u8>>,
    rng: StdRng,
    /// Writes until the power fails.
    writes_left: Option<u32>,
    off: bool,
    refuses: bool,
    files_max: usize,
    /// No read that covers this byte of any file succeeds.
    unreadable: Option<u64>,
    /// How long it tries before it says so.
    slow: Duration,
    /// How long a piece of a new file takes.
    piece: Duration,
    /// A write takes up to this long.
    write: Duration,
    /// How much longer the next write takes than others.
    late: Duration,
}

pub struct Faulty {
    state: Arc<Mutex<State>>,
}

#[allow(dead_code)] // Not every test uses every fault.
impl Faulty {
    pub fn new(seed: u64) -> Faulty {
        let state = State {
            files: BTreeMap::new(),
            small: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            writes_left: None,
            off: false,
            refuses: false,
            files_max: usize::MAX,
            unreadable: None,
            slow: Duration::ZERO,
            piece: Duration::ZERO,
            write: WRITE,
            late: Duration::ZERO,
        };
        Faulty { state: Arc::new(Mutex::new(state)) }
    }
    /// Another disk with what this one has.
    pub fn copy(&self) -> Faulty {
        let state = self.state.lock().unwrap();
        let files = state.files.iter().map(|(n, f)| (n.clone(), Arc::new(Mutex::new(f.lock().unwrap().clone())))).collect();
        let state = State { files, small: state.small.clone(), rng: StdRng::seed_from_u64(1), writes_left: None, off: false, refuses: false, files_max: state.files_max, unreadable: None, slow: Duration::ZERO, piece: Duration::ZERO, write: state.write, late: Duration::ZERO };
        Faulty { state: Arc::new(Mutex::new(state)) }
    }
    /// The power fails in the `n`th write from now; writes that are under way beside it are hit as well.
    pub fn fail_after(&self, n: u32) {
        self.state.lock().unwrap().writes_left = Some(n);
    }
    pub fn power_on(&self) {
        let mut state = self.state.lock().unwrap();
        (state.off, state.refuses, state.writes_left) = (false, false, None);
    }
    pub fn refuse_to_write(&self) {
        self.state.lock().unwrap().refuses = true;
    }
    pub fn unreadable(&self, at: Option<u64>) {
        self.state.lock().unwrap().unreadable = at;
    }
    pub fn slow(&self, to_fail: Duration) {
        self.state.lock().unwrap().slow = to_fail;
    }
    pub fn pieces_take(&self, time: Duration) {
        self.state.lock().unwrap().piece = time;
    }
    /// From now on a write takes up to this long. Where that is some milliseconds, several are under way at a time.
    pub fn writes_take(&self, time: Duration) {
        self.state.lock().unwrap().write = time;
    }
    pub fn next_write_is_late(&self, by: Duration) {
        self.state.lock().unwrap().late = by;
    }
    /// How many files there are.
    pub fn files(&self) -> usize {
        self.state.lock().unwrap().files.len()
    }
    pub fn space_for(&self, files: usize) {
        self.state.lock().unwrap().files_max = files;
    }
    pub fn flip(&self, name: &str, bit: u64) {
        self.state.lock().unwrap().files[name].lock().unwrap()[bit as usize / 8] ^= 1 << (bit % 8);
    }
    /// The slot whose first block says that it is file `no`.
    pub fn slot_of(&self, no: u64) -> String {
        let state = self.state.lock().unwrap();
        let found = state.files.iter().find(|(_, f)| f.lock().unwrap()[24..32] == no.to_le_bytes());
        found.unwrap_or_else(|| panic!("no slot has file {no}")).0.clone()
    }
}

fn broken() -> io::Error {
    io::Error::other("input/output error")
}

impl Disk for Faulty {
    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state.lock().unwrap();
        Ok(state.files.keys().chain(state.small.keys()).cloned().collect())
    }
    fn create(&self, name: &str, bytes: u64, pace: &Pace) -> io::Result<Arc<dyn DiskFile>> {
        let piece = self.state.lock().unwrap().piece;
        for _ in 0..PIECES {
            std::thread::sleep(piece);
            // As before the next piece.
            pace(bytes as usize / PIECES as usize, piece)?;
        }
        let mut state = self.state.lock().unwrap();
        if state.off {
            return Err(broken());
        }
        if state.files.len() >= state.files_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let content = Arc::new(Mutex::new(vec![0; bytes as usize]));
        state.files.insert(name.into(), content.clone());
        Ok(Arc::new(FaultyFile { content, disk: self.state.clone() }))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.state.lock().unwrap().files.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(FaultyFile { content, disk: self.state.clone() }))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.files.remove(name);
        state.small.remove(name);
        Ok(())
    }
    fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.off || state.refuses {
            return Err(broken());
        }
        if state.files.len() > state.files_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.small.insert(name.into(), content.to_vec());
        Ok(())
    }
    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state.lock().unwrap().small.get(name).cloned())
    }
    fn free(&self) -> io::Result<u64> {
        let state = self.state.lock().unwrap();
        // All files are of one size.
        let size = state.files.values().next().map_or(1 << 40, |f| f.lock().unwrap().len() as u64);
        Ok(state.files_max.saturating_sub(state.files.len()).min(1 << 20) as u64 * size)
    }
}

impl State {
    /// How long it takes to say that these bytes can't be read, if they can't.
    fn fails(&self, at: u64, bytes: usize) -> Option<Duration> {
        self.unreadable.filter(|bad| (at..at + bytes as u64).contains(bad)).map(|_| self.slow)
    }
}

struct FaultyFile {
    content: Arc<Mutex<Vec<u8>>>,
    disk: Arc<Mutex<State>>,
}

impl DiskFile for FaultyFile {
    fn bytes(&self) -> u64 {
        self.content.lock().unwrap().len() as u64
    }
    fn write(&self, at: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
        let (pause, late) = {
            let mut disk = self.disk.lock().unwrap();
            let time = disk.write;
            (disk.rng.random_range(Duration::ZERO..time), std::mem::take(&mut disk.late))
        };
        std::thread::sleep(pause + late);
        let mut disk = self.disk.lock().unwrap();
        if disk.refuses {
            return Err(broken());
        }
        if let Some(left) = &mut disk.writes_left {
            *left = left.saturating_sub(1);
            disk.off |= *left == 0;
        }
        let mut content = self.content.lock().unwrap();
        let (at, off) = (at as usize, disk.off);
        assert_eq!(at % 4096, 0, "writes are aligned");
        assert_eq!(bytes.len() % 4096, 0, "whole pages are written");
        for (i, sector) in bytes.chunks(SECTOR).enumerate() {
            if !off || disk.rng.random_bool(0.7) {
                content[at + i * SECTOR..][..sector.len()].copy_from_slice(sector);
            }
        }
        if off { Err(broken()) } else { Ok(()) }
    }
    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let fails = self.disk.lock().unwrap().fails(at, buffer.len());
        if let Some(slow) = fails {
            std::thread::sleep(slow);
            return Err(broken());
        }
        buffer.copy_from_slice(&self.content.lock().unwrap()[at as usize..][..buffer.len()]);
        Ok(())
    }
    fn read_now(&self, at: u64, buffer: &mut [u8]) -> bool {
        self.disk.lock().unwrap().fails(at, buffer.len()).is_none() && self.read(at, buffer).is_ok()
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
