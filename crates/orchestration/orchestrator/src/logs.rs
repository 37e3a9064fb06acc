//! What ranks print: `<data>/hub/logs/<job>/<rank>.log`, and `all.log` in order of arrival.
//!
//! An agent may send the same output twice (it can't know what a cut session carried), so each rank's bytes are numbered and the
//! length of its file says what is there already: also after a restart of the hub. Bytes that never came leave a line that
//! says so; `<rank>.skew` then keeps the difference between the number and the length.
//!
//! Which bytes of `all.log` were printed on standard error is in `all.err`, as pairs of numbers. It is written first, so who reads bytes of the log finds
//! there what they are.
//!
//! Nothing here is synced to disk: output is for people, and a crash of the machine may cost its last second.

use crate::Error;
use base::Kind;
use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::sync::watch;

/// Bytes of output kept of one job; what comes beyond is dropped, which the log says once.
pub const OUTPUT_MAX: u64 = 1 << 30;
/// Bytes of `all.err`: a million pairs. What a job prints on standard error beyond them counts as standard output.
const ERRORS_MAX: u64 = 16 << 20;

/// A stretch of `all.log` that was printed on standard error: its first byte, and the one after its last.
pub type Span = (u64, u64);

/// The spans in bytes of `all.err`, as far as they are whole, which are taken from `bytes`.
pub fn spans(bytes: &mut Vec<u8>) -> Vec<Span> {
    let whole = bytes.len() / 16 * 16;
    let number = |b: &[u8]| u64::from_le_bytes(b.try_into().expect("eight bytes"));
    let spans = bytes[..whole].chunks(16).map(|pair| (number(&pair[..8]), number(&pair[8..]))).collect();
    bytes.drain(..whole);
    spans
}

/// `bytes` of `all.log`, the first of which is number `at`, in pieces of one stream each: `o` for standard output or `e` for standard error, the length in
/// four bytes, little end first, and so many bytes. Spans that lie before it all are dropped.
pub fn marked(bytes: &[u8], at: u64, spans: &mut VecDeque<Span>) -> Vec<u8> {
    let (mut marked, end) = (Vec::with_capacity(bytes.len() + 10), at + bytes.len() as u64);
    let mut put = |letter, from: u64, to: u64| {
        if from < to {
            marked.push(letter);
            marked.extend(((to - from) as u32).to_le_bytes());
            marked.extend(&bytes[(from - at) as usize..(to - at) as usize]);
        }
    };
    let mut done = at;
    while let Some(&(first, last)) = spans.front().filter(|s| s.0 < end) {
        let (first, stop) = (first.max(done), last.min(end));
        put(b'o', done, first);
        put(b'e', first, stop);
        done = stop.max(first);
        if last > end {
            return marked;
        }
        spans.pop_front();
    }
    put(b'o', done, end);
    marked
}

#[derive(Default)]
struct Open {
    /// The next byte's number, by job and rank; of jobs that have not ended.
    next: BTreeMap<(u64, u32), u64>,
    /// Bytes in `all.log`, and who wants to know.
    jobs: BTreeMap<u64, (u64, watch::Sender<u64>)>,
}

/// The logs of all jobs. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    folder: PathBuf,
    open: Arc<Mutex<Open>>,
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map(|m| m.len()).unwrap_or(0)
}

impl Logs {
    pub fn new(folder: PathBuf) -> Logs {
        Logs { folder, open: Arc::default() }
    }

    /// The file of a rank, or that of all.
    pub fn path(&self, job: u64, rank: Option<u32>) -> PathBuf {
        let name = rank.map_or("all.log".to_string(), |rank| format!("{rank}.log"));
        self.folder.join(format!("job-{job}")).join(name)
    }

    /// The file that says what of all is standard error.
    pub fn errors(&self, job: u64) -> PathBuf {
        self.path(job, None).with_extension("err")
    }

    fn start(&self, job: u64, rank: u32) -> u64 {
        let path = self.path(job, Some(rank));
        let skew = fs::read_to_string(path.with_extension("skew")).ok().and_then(|s| s.trim().parse().ok()).unwrap_or(0i64);
        length(&path).saturating_add_signed(skew)
    }

    /// The number of the first byte of this rank that is not here yet.
    pub fn next(&self, job: u64, rank: u32) -> u64 {
        let open = self.open.lock().expect("no panic while it is held");
        open.next.get(&(job, rank)).copied().unwrap_or_else(|| self.start(job, rank))
    }

    /// Appends what is new of `data`, whose first byte is number `offset`. Returns the bytes of the job's output so far.
    pub async fn append(&self, job: u64, rank: u32, stderr: bool, offset: u64, data: Vec<u8>) -> Result<u64, Error> {
        let logs = self.clone();
        tokio::task::spawn_blocking(move || logs.write(job, rank, stderr, offset, &data)).await.map_err(Error::internal)?
    }

    fn write(&self, job: u64, rank: u32, stderr: bool, offset: u64, data: &[u8]) -> Result<u64, Error> {
        let path = self.path(job, Some(rank));
        let fail = |e: std::io::Error| Error::new(Kind::Internal, format!("write the log {}: {e}", path.display()));
        let mut open = self.open.lock().expect("no panic while it is held");
        let open = &mut *open;
        let next = open.next.entry((job, rank)).or_insert_with(|| self.start(job, rank));
        let all = self.path(job, None);
        let (written, tell) = open.jobs.entry(job).or_insert_with(|| (length(&all), watch::channel(0).0));
        let end = offset.saturating_add(data.len() as u64);
        if end <= *next || *written >= OUTPUT_MAX {
            return Ok(*written);
        }
        let mut bytes = Vec::new();
        if offset > *next {
            let missing = offset - *next;
            let note = match *next {
                0 => format!("[the first {missing} bytes of rank {rank}'s output are not here: printed before the checkpoint that this job began with, or lost]\n"),
                _ => format!("\n[{missing} bytes of output of rank {rank} were lost]\n"),
            };
            bytes.extend(note.into_bytes());
        }
        bytes.extend(&data[next.saturating_sub(offset) as usize..]);
        if *written + bytes.len() as u64 > OUTPUT_MAX {
            bytes.truncate((OUTPUT_MAX - *written) as usize);
            bytes.extend(format!("\n[output beyond {} MiB is not kept]\n", OUTPUT_MAX >> 20).into_bytes());
        }
        fs::create_dir_all(self.folder.join(format!("job-{job}"))).map_err(fail)?;
        let append = |path: &Path, bytes: &[u8]| OpenOptions::new().create(true).append(true).open(path).and_then(|mut f| f.write_all(bytes));
        append(&path, &bytes).map_err(fail)?;
        let errors = self.errors(job);
        if stderr && length(&errors) < ERRORS_MAX {
            let at = length(&all);
            append(&errors, &[at, at + bytes.len() as u64].map(u64::to_le_bytes).concat()).map_err(fail)?;
        }
        append(&all, &bytes).map_err(fail)?;
        *next = end;
        *written += bytes.len() as u64;
        let skew = end as i64 - length(&path) as i64;
        if skew != 0 {
            fs::write(path.with_extension("skew"), skew.to_string()).map_err(fail)?;
        }
        tell.send_replace(*written);
        Ok(*written)
    }

    /// Tells of new output. To be asked for only while the job has not ended and the caller holds [`crate::hub::Hub::world`].
    pub fn listen(&self, job: u64) -> watch::Receiver<u64> {
        let mut open = self.open.lock().expect("no panic while it is held");
        let all = self.path(job, None);
        open.jobs.entry(job).or_insert_with(|| (length(&all), watch::channel(0).0)).1.subscribe()
    }

    /// The job has ended: wakes who listens for the last time.
    pub fn close(&self, job: u64) {
        let mut open = self.open.lock().expect("no panic while it is held");
        open.jobs.remove(&job);
        open.next.retain(|(n, _), _| *n != job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_comes_once_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::new(folder.path().into());
        let text = |rank| fs::read_to_string(logs.path(1, rank)).unwrap();
        for (rank, offset, data) in [(0, 0, "ab"), (1, 0, "x"), (0, 0, "ab"), (0, 1, "bc"), (1, 1, "y"), (0, 3, "d")] {
            logs.append(1, rank, false, offset, data.into()).await.unwrap();
        }
        assert_eq!((text(Some(0)), text(Some(1)), text(None)), ("abcd".into(), "xy".into(), "abxcyd".into()));
        // Another hub goes on where this one was.
        let logs = Logs::new(folder.path().into());
        assert_eq!(logs.next(1, 0), 4);
        logs.append(1, 0, false, 2, "cdef".into()).await.unwrap();
        assert_eq!(text(Some(0)), "abcdef");
        // A gap is said, and the count goes on after it, also for the next hub.
        logs.append(1, 0, false, 1000, "z".into()).await.unwrap();
        assert!(text(Some(0)).contains("[994 bytes of output of rank 0 were lost]"));
        let logs = Logs::new(folder.path().into());
        assert_eq!(logs.next(1, 0), 1001);
        assert_eq!(logs.append(1, 0, false, 1000, "z".into()).await.unwrap(), length(&logs.path(1, None)));
        assert!(text(Some(0)).ends_with("\nz"));
    }

    #[tokio::test]
    async fn what_was_printed_on_standard_error_is_marked_however_the_log_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::new(folder.path().into());
        let mut at = 0;
        for (stderr, data) in [(false, "out"), (true, "err"), (true, "or"), (false, "put\n"), (true, "!")] {
            logs.append(1, 0, stderr, at, data.into()).await.unwrap();
            at += data.len() as u64;
        }
        let (all, index) = (fs::read(logs.path(1, None)).unwrap(), fs::read(logs.errors(1)).unwrap());
        for size in [1, 2, 3, 5, 100] {
            let (mut at, mut read, mut part) = (0, VecDeque::new(), index.clone());
            read.extend(spans(&mut part));
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for piece in all.chunks(size) {
                let text = marked(piece, at, &mut read);
                at += piece.len() as u64;
                let mut rest = &text[..];
                while let [letter, a, b, c, d, tail @ ..] = rest {
                    let (bytes, tail) = tail.split_at(u32::from_le_bytes([*a, *b, *c, *d]) as usize);
                    if *letter == b'e' { err.extend(bytes) } else { out.extend(bytes) }
                    rest = tail;
                }
                assert!(rest.is_empty());
            }
            assert_eq!((out.as_slice(), err.as_slice()), (b"output\n".as_slice(), b"error!".as_slice()), "read by {size}");
        }
    }
}
