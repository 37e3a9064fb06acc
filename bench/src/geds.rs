//! The object store's node against what a program would use instead, alternately in one run: files on the same disk, Redis over a UNIX socket, a plain mapping,
//! `pread` and `pwrite`.
//!
//! The namenode is the hub's, in this process; its database lies in memory where it can (`/dev/shm`), because the figures here are the node's and a hundred thousand
//! seals would otherwise wait for as many commits. Objects and files lie below `target/`, on the disk that the project is on.

use crate::{figure, root};
use anyhow::{Context, Result, bail};
use base::{SiteId, identity::{Authority, site_name}, unit::Bytes};
use geds::{Blocking, BucketName, Key, Namenode, Node, Options, SealedHere, Tuning};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const OBJECTS: usize = 100_000;
const SMALL: usize = 4096;
const LARGE: usize = 512 << 20;
/// Ours and its peers take turns so often.
const ROUNDS: usize = 8;

struct Store {
    node: Blocking,
    bucket: BucketName,
    runtime: tokio::runtime::Runtime,
    /// On the disk.
    folder: tempfile::TempDir,
    _database: tempfile::TempDir,
}

impl Store {
    fn open() -> Result<Store> {
        let target = root().join("target");
        fs::create_dir_all(&target)?;
        let folder = tempfile::Builder::new().prefix("bench-geds").tempdir_in(target)?;
        let database = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let node = runtime.block_on(async {
            let site = SiteId::new("edge")?;
            let dialer = Authority::open(&database.path().join("ca"))?.issue(&site_name(&site))?.dialer()?;
            let options = Options {
                folder: folder.path().join("objects"),
                limit: Bytes(4 << 30),
                dialer,
                catalog: Arc::new(Namenode::open(database.path().join("names")).await?),
                persist: None,
                address: String::new(),
                site,
            };
            anyhow::Ok(Node::open_with(options, Tuning::default()).await?)
        })?;
        let bucket = BucketName::new("bench")?;
        runtime.block_on(node.create_bucket(&bucket))?;
        Ok(Store { node: node.blocking(), bucket, runtime, folder, _database: database })
    }

    fn create(&self, key: &Key, data: &[u8]) -> Result<SealedHere> {
        let mut writer = self.node.create(&self.bucket, key)?;
        writer.write_at(0, data)?;
        Ok(writer.seal_here()?)
    }

    fn published(&self, sealed: Vec<SealedHere>) -> Result<()> {
        for sealed in sealed {
            self.runtime.block_on(sealed.everywhere())?;
        }
        Ok(())
    }
}

/// A generator that is the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Numbers below `n` of which the first are wanted most (exponent 0.99), spread over all.
fn zipf(n: usize, count: usize) -> Vec<usize> {
    let mut sums = Vec::with_capacity(n);
    let mut sum = 0.0;
    for rank in 1..=n {
        sum += 1.0 / (rank as f64).powf(0.99);
        sums.push(sum);
    }
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    (0..count)
        .map(|_| {
            let wanted = random.next() as f64 / u64::MAX as f64 * sum;
            let rank = sums.partition_point(|s| *s < wanted).min(n - 1);
            rank.wrapping_mul(7919) % n
        })
        .collect()
}

pub fn data(seed: usize, len: usize) -> Vec<u8> {
    let mut random = Random(seed as u64 * 2 + 1);
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        out.extend_from_slice(&random.next().to_le_bytes());
    }
    out.truncate(len);
    out
}

/// The value that `share` of the samples stay below.
pub fn quantile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[((samples.len() - 1) as f64 * share) as usize]
}

/// Microseconds of each call. What it is called with is made before the clock starts: who asks has the name at hand.
fn timed<T>(samples: &mut Vec<f64>, count: usize, with: impl Fn(usize) -> T, mut call: impl FnMut(&T) -> Result<()>) -> Result<()> {
    for n in 0..count {
        let with = with(n);
        let start = Instant::now();
        call(&with)?;
        samples.push(start.elapsed().as_nanos() as f64 / 1e3);
    }
    Ok(())
}

/// A Redis of this benchmark's own, on a socket in its folder.
struct Redis {
    child: Child,
    stream: BufReader<UnixStream>,
}

impl Redis {
    /// `None`: it is not installed.
    fn start(folder: &Path) -> Result<Option<Redis>> {
        let socket = folder.join("redis.sock");
        let spawned = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(folder)
            .stdout(Stdio::null())
            .spawn();
        let Ok(mut child) = spawned else { return Ok(None) };
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => return Ok(Some(Redis { child, stream: BufReader::with_capacity(64 << 10, stream) })),
                Err(e) if Instant::now() > end || child.try_wait()?.is_some() => {
                    let _ = child.kill(); // the error below says what matters
                    return Err(e).context("redis-server does not answer");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let mut ask = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), value.len()).into_bytes();
        ask.extend_from_slice(value);
        ask.extend_from_slice(b"\r\n");
        self.stream.get_mut().write_all(&ask)?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line != "+OK\r\n" {
            bail!("redis answers {line:?} to SET");
        }
        Ok(())
    }

    fn get(&mut self, key: &str, into: &mut [u8]) -> Result<()> {
        self.stream.get_mut().write_all(format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len()).as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.trim_end() != format!("${}", into.len()) {
            bail!("redis answers {line:?} to GET");
        }
        self.stream.read_exact(into)?;
        self.stream.read_exact(&mut [0; 2])?;
        Ok(())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may be gone
        let _ = self.child.wait();
    }
}

/// Opens and reads objects of 4 KiB that are here and whose names are leased; files and Redis beside it.
pub fn read() -> Result<Vec<Value>> {
    const OURS: usize = 40_000;
    const FILES: usize = 10_000;
    const GETS: usize = 4_000;
    let store = Store::open()?;
    let files = store.folder.path().join("files");
    fs::create_dir(&files)?;
    let mut redis = Redis::start(store.folder.path())?;
    let names: Vec<(Key, PathBuf, String)> = (0..OBJECTS)
        .map(|n| {
            let name = format!("shuffle/part-{n:06}");
            Ok((Key::new(name.as_str())?, files.join(format!("{n:06}")), name))
        })
        .collect::<Result<_>>()?;
    let mut sealed = Vec::with_capacity(OBJECTS);
    for (n, (key, path, name)) in names.iter().enumerate() {
        let content = data(n, SMALL);
        sealed.push(store.create(key, &content)?);
        fs::write(path, &content)?;
        if let Some(redis) = &mut redis {
            redis.set(name, &content)?;
        }
    }
    store.published(sealed)?;
    let mut buf = vec![0u8; SMALL];
    // Warm: each name has been asked for once, and is what it should be.
    for (n, (key, _, _)) in names.iter().enumerate() {
        if store.node.open(&store.bucket, key)?.bytes() != data(n, SMALL) {
            bail!("object {key} is not what was written");
        }
    }
    let wanted = zipf(OBJECTS, ROUNDS * OURS);
    // The least that a read can be: a copy of the same bytes, at a place that is known.
    let bytes: Vec<_> = names.iter().map(|(key, _, _)| store.node.open(&store.bucket, key)).collect::<Result<_, _>>()?;
    let (mut ours, mut file, mut gets, mut copies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let wanted = &wanted[round * OURS..(round + 1) * OURS];
        timed(&mut ours, OURS, |n| names[wanted[n]].0.clone(), |key| {
            let object = store.node.open(&store.bucket, key)?;
            buf.copy_from_slice(object.bytes());
            std::hint::black_box(&buf);
            Ok(())
        })?;
        timed(&mut copies, OURS, |n| wanted[n], |n| {
            buf.copy_from_slice(bytes[*n].bytes());
            std::hint::black_box(&buf);
            Ok(())
        })?;
        timed(&mut file, FILES, |n| names[wanted[n]].1.clone(), |path| {
            File::open(path)?.read_exact(&mut buf)?;
            std::hint::black_box(&buf);
            Ok(())
        })?;
        if let Some(redis) = &mut redis {
            timed(&mut gets, GETS, |n| names[wanted[n]].2.clone(), |name| redis.get(name, &mut buf))?;
        }
    }
    let (samples, p50, p99) = (ours.len(), quantile(&mut ours, 0.5), quantile(&mut ours, 0.99));
    let by_file = quantile(&mut file, 0.5);
    let mut out = vec![
        figure("geds-read.p50", "µs", "<= 1.0", p50, None, samples, p50 <= 1.0),
        figure("geds-read.p99", "µs", "<= 5.0", p99, Some(quantile(&mut file, 0.99)), samples, p99 <= 5.0),
        figure("geds-read.copy.p50", "µs", "reported", p50, Some(quantile(&mut copies, 0.5)), samples, true),
        figure("geds-read.file.p50", "µs", "ratio <= 0.333", p50, Some(by_file), samples, p50 / by_file <= 1.0 / 3.0),
    ];
    if gets.is_empty() {
        out.push(json!({"name": "geds-read.redis.p50", "not_run": "redis-server is missing; setup/setup.sh test installs it"}));
    } else {
        let by_redis = quantile(&mut gets, 0.5);
        out.push(figure("geds-read.redis.p50", "µs", "ratio <= 0.067", p50, Some(by_redis), samples, p50 / by_redis <= 1.0 / 15.0));
    }
    Ok(out)
}

fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let tail = words.remainder();
    let sum = words.fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(word.try_into().unwrap_or_default())));
    tail.iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

/// A program in another language that sums an object each time that it is told to.
struct Summer {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Summer {
    /// Attached to the agent of a folder.
    fn start(command: &mut Command, folder: &Path, bucket: &BucketName, key: &Key) -> Result<Summer> {
        let library = std::env::current_exe()?.with_file_name("libcloudskin_geds.so");
        anyhow::ensure!(library.exists(), "{} is missing; cargo build --release --workspace makes it", library.display());
        let ask = command.arg(folder).args([bucket.as_str(), key.as_str()]).env("CLOUDSKIN_GEDS_LIBRARY", &library);
        let mut child = ask.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = BufReader::new(child.stdout.take().context("it has a pipe")?);
        Ok(Summer { child, answers })
    }

    /// Through an array over the mapping. `Err`: why there is none on this machine.
    fn python(folder: &Path, bucket: &BucketName, key: &Key) -> Result<Result<Summer, String>> {
        let python = root().join(".setup/venv/bin/python");
        if !Command::new(&python).args(["-c", "import numpy"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {
            return Ok(Err("numpy is missing; setup/setup.sh test installs it".into()));
        }
        let mut command = Command::new(python);
        command.env("PYTHONPATH", root().join("bindings/python")).arg(root().join("bench/programs/scan.py"));
        Summer::start(&mut command, folder, bucket, key).map(Ok)
    }

    /// Through a direct buffer.
    fn java(folder: &Path, bucket: &BucketName, key: &Key) -> Result<Result<Summer, String>> {
        if Command::new("javac").arg("-version").output().is_err() {
            return Ok(Err("javac is missing; setup/setup.sh test installs it".into()));
        }
        let (jar, classes) = (folder.join("geds.jar"), folder.join("classes"));
        let done = |command: &mut Command| -> Result<()> {
            let out = command.output()?;
            anyhow::ensure!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
            Ok(())
        };
        done(Command::new(root().join("bindings/java/build.sh")).arg(&jar))?;
        done(Command::new("javac").arg("-cp").arg(&jar).arg("-d").arg(&classes).arg(root().join("bench/programs/Scan.java")))?;
        let path = format!("{}:{}", jar.display(), classes.display());
        Summer::start(Command::new("java").args(["-cp", &path, "Scan"]), folder, bucket, key).map(Ok)
    }

    /// Seconds, and the sum.
    fn sum(&mut self) -> Result<(f64, u64)> {
        self.child.stdin.as_mut().context("it has a pipe")?.write_all(b"\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let (ns, sum) = line.trim().split_once(' ').context("the program has ended")?;
        // Java has no numbers without a sign.
        let sum = sum.parse::<u64>().or_else(|_| sum.parse::<i64>().map(|sum| sum as u64))?;
        Ok((ns.parse::<f64>()? / 1e9, sum))
    }
}

impl Drop for Summer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sums an object of 512 MiB through its mapping; a plain mapping of a file and `pread` beside it, and programs in Python and Java that are attached to the store.
pub fn scan() -> Result<Vec<Value>> {
    let store = Store::open()?;
    let key = Key::new("large")?;
    let path = store.folder.path().join("plain");
    let mut writer = store.node.create(&store.bucket, &key)?;
    let mut plain = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    let chunk = data(1, 1 << 20);
    for at in (0..LARGE).step_by(chunk.len()) {
        writer.write_at(at as u64, &chunk)?;
        plain.write_all(&chunk)?;
    }
    let meta = writer.seal_blocking()?;
    plain.sync_all()?;
    let object = store.node.open(&store.bucket, &key)?;
    // SAFETY: the file was made above in a folder of this process's own, and nobody changes it any more.
    let mapping = unsafe { memmap(&plain)? };
    let expected = sum(&mapping);
    if sum(object.bytes()) != expected || meta.size != LARGE as u64 {
        bail!("the object is not what was written");
    }
    let socket = geds::Shared::socket(store.folder.path());
    let shared = (store.node.node().clone(), socket.clone());
    let sharing = store.runtime.spawn(async move { shared.0.share(&shared.1).await });
    while UnixStream::connect(&socket).is_err() {
        anyhow::ensure!(!sharing.is_finished(), "the store can't be shared at {}", socket.display());
        std::thread::yield_now();
    }
    let mut others = [("python", Summer::python(store.folder.path(), &store.bucket, &key)?, Vec::new()), ("java", Summer::java(store.folder.path(), &store.bucket, &key)?, Vec::new())];
    for (language, summer, _) in &mut others {
        let Ok(summer) = summer else { continue };
        // The first rounds are the interpreter's and its compiler's.
        for _ in 0..ROUNDS {
            anyhow::ensure!(summer.sum()?.1 == expected, "{language} reads something else");
        }
    }
    let mut buf = vec![0u8; 1 << 20];
    // Memory that is no file's, and pread without looking at what came: what bounds both.
    let memory = mapping.to_vec();
    let (mut ours, mut by_map, mut by_pread, mut by_memory, mut copied) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let rate = |start: Instant| LARGE as f64 / start.elapsed().as_secs_f64() / 1e9;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        std::hint::black_box(sum(object.bytes()));
        ours.push(rate(start));
        for (_, summer, rates) in &mut others {
            if let Ok(summer) = summer {
                rates.push(LARGE as f64 / summer.sum()?.0 / 1e9);
            }
        }
        let start = Instant::now();
        std::hint::black_box(sum(&mapping));
        by_map.push(rate(start));
        let start = Instant::now();
        let mut total = 0u64;
        for at in (0..LARGE).step_by(buf.len()) {
            plain.read_exact_at(&mut buf, at as u64)?;
            total = total.wrapping_add(sum(&buf));
        }
        std::hint::black_box(total);
        by_pread.push(rate(start));
        let start = Instant::now();
        std::hint::black_box(sum(&memory));
        by_memory.push(rate(start));
        let start = Instant::now();
        for at in (0..LARGE).step_by(buf.len()) {
            plain.read_exact_at(&mut buf, at as u64)?;
        }
        copied.push(rate(start));
    }
    let (in_memory, by_copy) = (quantile(&mut by_memory, 0.5), quantile(&mut copied, 0.5));
    let (o, m, p) = (quantile(&mut ours, 0.5), quantile(&mut by_map, 0.5), quantile(&mut by_pread, 0.5));
    let mut out = vec![
        figure("geds-scan.mapping", "GB/s", "ratio >= 0.9", o, Some(m), ROUNDS, o / m >= 0.9),
        figure("geds-scan.pread", "GB/s", "ratio >= 3.0", o, Some(p), ROUNDS, o / p >= 3.0),
        figure("geds-scan.memory", "GB/s", "reported", o, Some(in_memory), ROUNDS, true),
        figure("geds-scan.pread-alone", "GB/s", "reported", o, Some(by_copy), ROUNDS, true),
    ];
    for (language, summer, mut rates) in others {
        let name = format!("geds-scan.{language}");
        out.push(match summer {
            Ok(_) => {
                let rate = quantile(&mut rates, 0.5);
                figure(&name, "GB/s", "ratio >= 0.95", rate, Some(o), ROUNDS, rate / o >= 0.95)
            }
            Err(why) => json!({"name": name, "not_run": why}),
        });
    }
    Ok(out)
}

/// A read-only mapping of a whole file.
///
/// # Safety
/// Nobody may change the file while it is mapped.
pub unsafe fn memmap(file: &File) -> Result<impl std::ops::Deref<Target = [u8]> + Send + use<>> {
    struct Mapping(*mut libc::c_void, usize);
    // SAFETY: it is read only, and belongs to no thread.
    unsafe impl Send for Mapping {}
    impl std::ops::Deref for Mapping {
        type Target = [u8];
        fn deref(&self) -> &[u8] {
            // SAFETY: the mapping is there until this is dropped, and by `memmap`'s condition it doesn't change.
            unsafe { std::slice::from_raw_parts(self.0.cast(), self.1) }
        }
    }
    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: this very mapping; what borrowed it is gone.
            unsafe { libc::munmap(self.0, self.1) };
        }
    }
    use std::os::fd::AsRawFd;
    let len = file.metadata()?.len() as usize;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error()).context("map the plain file");
    }
    Ok(Mapping(start, len))
}

/// Creates, writes and seals objects of 4 KiB, visible on this node; and writes large ones. Files on the same disk beside it.
pub fn write() -> Result<Vec<Value>> {
    const SEALS: usize = 2_000;
    const BYTES: usize = 256 << 20;
    let store = Store::open()?;
    let files = store.folder.path().join("files");
    fs::create_dir(&files)?;
    let content = data(3, SMALL);
    let (mut ours, mut file) = (Vec::new(), Vec::new());
    let mut all = 0.0;
    for round in 0..ROUNDS {
        let keys: Vec<Key> = (0..SEALS).map(|n| Key::new(format!("{round}/{n}"))).collect::<Result<_, _>>()?;
        let mut sealed = Vec::with_capacity(SEALS);
        let start = Instant::now();
        timed(&mut ours, SEALS, |n| keys[n].clone(), |key| {
            sealed.push(store.create(key, &content)?);
            Ok(())
        })?;
        all += start.elapsed().as_secs_f64();
        // The catalog's turn: it is not what is measured here.
        store.published(sealed)?;
        timed(&mut file, SEALS, |n| files.join(format!("{round}-{n}")), |path| {
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(&content)?;
            Ok(())
        })?;
    }
    let samples = ours.len();
    let per_second = samples as f64 / all;
    let (p50, p99) = (quantile(&mut ours, 0.5), quantile(&mut ours, 0.99));
    let (by_file, by_file99) = (quantile(&mut file, 0.5), quantile(&mut file, 0.99));
    let mut out = vec![
        figure("geds-write.4KiB.p50", "µs", "<= 10.0", p50, Some(by_file), samples, p50 <= 10.0),
        figure("geds-write.4KiB.p99", "µs", "reported", p99, Some(by_file99), samples, true),
        figure("geds-write.4KiB.rate", "1/s", "reported", per_second, None, samples, true),
    ];
    // Large ones: into the page cache, where the checksum is all that the node adds, and down to the disk.
    let chunk = data(4, 1 << 20);
    for (name, goal, synced) in [("geds-write.large.cached", 0.0, false), ("geds-write.large", 0.95, true)] {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        let rate = |start: Instant| BYTES as f64 / start.elapsed().as_secs_f64() / 1e6;
        for round in 0..ROUNDS {
            for turn in [round % 2, (round + 1) % 2] {
                if turn == 0 {
                    let key = Key::new("large")?;
                    let mut writer = store.node.create(&store.bucket, &key)?;
                    writer.reserve(BYTES as u64)?;
                    let start = Instant::now();
                    for at in (0..BYTES).step_by(chunk.len()) {
                        writer.write_at(at as u64, &chunk)?;
                    }
                    if synced {
                        writer.seal_blocking()?;
                        ours.push(rate(start));
                        store.node.delete(&store.bucket, &key)?;
                    } else {
                        ours.push(rate(start));
                    }
                } else {
                    let path = files.join("large");
                    let new = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
                    let start = Instant::now();
                    for at in (0..BYTES).step_by(chunk.len()) {
                        new.write_all_at(&chunk, at as u64)?;
                    }
                    if synced {
                        new.sync_all()?;
                    }
                    plain.push(rate(start));
                    fs::remove_file(&path)?;
                }
            }
        }
        let (o, p) = (quantile(&mut ours, 0.5), quantile(&mut plain, 0.5));
        let text = if synced { "ratio >= 0.95" } else { "reported" };
        out.push(figure(name, "MB/s", text, o, Some(p), ROUNDS, o / p >= goal));
    }
    Ok(out)
}
