//! Streams: latency of durable events at a fixed rate, and throughput, beside peers that sync every write and beside the disk itself.
//!
//! Load is open: an event's time begins when it should have been sent, whether or not the one before it was acknowledged. Servers are processes
//! of their own on this machine, with their files in one folder, one after the other. Peers that are not installed are said to be missing.

use crate::figure;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Write as _},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use streams::{Client, client::Writer, proto::ScalingPolicy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};

/// Length of a run that counts, and what goes before it.
const SECONDS: u64 = 10;
pub const WARM: u64 = 2;

/// A server process. Dropped, it ends.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Latencies in µs, sorted.
pub type Latencies = Vec<u64>;

/// The latency below which this part of them lies, ms.
pub fn at(sorted: &Latencies, part: f64) -> f64 {
    sorted.get(((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1))).copied().unwrap_or(u64::MAX) as f64 / 1000.0
}

/// Calls `send` for each event when it is due, with its due time in µs since `start`. The thread that calls sleeps between them, since a runtime's own
/// timers count milliseconds, and events would come by twenties: whatever answers them has its work on the runtime's other threads.
async fn paced(start: Instant, rate: u64, mut send: impl AsyncFnMut(u64) -> Result<()>) -> Result<()> {
    let count = rate * (WARM + SECONDS);
    let mut n = 0;
    while n < count {
        let now = start.elapsed().as_micros() as u64;
        while n < count && n * 1_000_000 / rate <= now {
            send(n * 1_000_000 / rate).await?;
            n += 1;
        }
        std::thread::sleep(Duration::from_micros((n * 1_000_000 / rate).saturating_sub(start.elapsed().as_micros() as u64)));
    }
    Ok(())
}

/// Notes how long after its due time an event was durable.
#[derive(Clone)]
pub struct Clock {
    pub start: Instant,
    seen: Arc<Mutex<Latencies>>,
}

impl Clock {
    pub fn new(start: Instant) -> Clock {
        Clock { start, seen: Arc::default() }
    }
    pub fn note(&self, due_us: u64) {
        if due_us >= WARM * 1_000_000 {
            let took = (self.start.elapsed().as_micros() as u64).saturating_sub(due_us);
            self.seen.lock().unwrap_or_else(|e| e.into_inner()).push(took);
        }
    }
    /// What was noted since the last call.
    pub fn sorted(&self) -> Latencies {
        let mut all = std::mem::take(&mut *self.seen.lock().unwrap_or_else(|e| e.into_inner()));
        all.sort_unstable();
        all
    }
}

/// A stream server with its log in `folder`, and its controller's address.
pub fn serve(folder: &Path, options: &[&str]) -> Result<(Running, String)> {
    serve_with(folder, options, &[])
}

/// [`serve`], with more in its environment.
pub fn serve_with(folder: &Path, options: &[&str], environment: &[(String, String)]) -> Result<(Running, String)> {
    let program = std::env::current_exe()?.with_file_name("cloudskin");
    if !program.exists() {
        bail!("{} is not there; build it first", program.display());
    }
    let mut child = Command::new(program)
        .args(["stream", "serve", "--controller", "127.0.0.1:0", "--segments", "127.0.0.1:0", "--folder"])
        .arg(folder)
        .args(options)
        .envs(environment.iter().cloned())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
    let running = Running(child);
    let address = line.split("controller on ").nth(1).and_then(|l| l.split(',').next()).with_context(|| format!("it said {line:?}"))?;
    Ok((running, address.to_string()))
}

pub async fn fresh(address: &str, stream: &str) -> Result<Client> {
    let client = Client::connect(address).await?;
    client.create_scope("bench").await?;
    client.create_stream("bench", stream, ScalingPolicy { min_num_segments: 1, ..ScalingPolicy::default() }).await?;
    Ok(client)
}

fn ours(runtime: &Runtime, folder: &Path, options: &[&str], rate: u64, bytes: usize) -> Result<Latencies> {
    let (_server, address) = serve(folder, options)?;
    runtime.block_on(async {
        let client = fresh(&address, "latency").await?;
        let clock = Clock::new(Instant::now());
        let noting = clock.clone();
        let mut writer = Writer::open(&client, "bench", "latency", Some(Arc::new(move |due| noting.note(due)))).await?;
        let event = vec![7; bytes];
        paced(clock.start, rate, async |due| Ok(writer.append("key", &event, due).await?)).await?;
        writer.flush().await?;
        Ok(clock.sorted())
    })
}

fn port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn dial(port: u16) -> Result<TcpStream> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) if Instant::now() > end => return Err(e.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Redis streams, with a sync before each answer.
fn redis(runtime: &Runtime, folder: &Path, rate: u64, bytes: usize) -> Result<Latencies> {
    let (port, data) = (port()?, folder.join("redis"));
    std::fs::create_dir_all(&data)?;
    let arguments = ["--bind", "127.0.0.1", "--port", &port.to_string(), "--appendonly", "yes", "--appendfsync", "always", "--save", ""];
    let _server = Running(Command::new("redis-server").args(arguments).arg("--dir").arg(&data).stdout(Stdio::null()).spawn().context("redis-server")?);
    runtime.block_on(async {
        let (mut read, mut write) = dial(port).await?.into_split();
        let clock = Clock::new(Instant::now());
        let due: Arc<Mutex<VecDeque<u64>>> = Arc::default();
        let (noting, waiting) = (clock.clone(), due.clone());
        // Each answer is an id: a line with its length, and a line with the id.
        let reading = tokio::spawn(async move {
            let (mut buffer, mut lines) = (vec![0; 64 << 10], 0u64);
            while lines < 2 * rate * (WARM + SECONDS) {
                let n = read.read(&mut buffer).await?;
                if n == 0 {
                    bail!("redis-server closed the connection");
                }
                for _ in buffer[..n].iter().filter(|b| **b == b'\n') {
                    lines += 1;
                    if lines % 2 == 0
                        && let Some(due) = waiting.lock().unwrap_or_else(|e| e.into_inner()).pop_front()
                    {
                        noting.note(due);
                    }
                }
            }
            Ok(())
        });
        let payload = vec![b'x'; bytes];
        let command = [format!("*5\r\n$4\r\nXADD\r\n$1\r\ns\r\n$1\r\n*\r\n$1\r\nd\r\n${bytes}\r\n").as_bytes(), &payload, b"\r\n"].concat();
        paced(clock.start, rate, async |d| {
            due.lock().unwrap_or_else(|e| e.into_inner()).push_back(d);
            Ok(write.write_all(&command).await?)
        })
        .await?;
        reading.await??;
        Ok(clock.sorted())
    })
}

/// NATS JetStream, with a sync before each acknowledgement.
fn nats(runtime: &Runtime, folder: &Path, rate: u64, bytes: usize) -> Result<Latencies> {
    let (port, data) = (port()?, folder.join("nats"));
    std::fs::create_dir_all(&data)?;
    let config = data.join("nats.conf");
    let text = format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\", sync_interval: always }}\n", data.display());
    std::fs::File::create(&config)?.write_all(text.as_bytes())?;
    let own = crate::root().join(".setup/venv/bin/nats-server");
    let program = if own.exists() { own } else { "nats-server".into() };
    let _server = Running(Command::new(program).arg("-c").arg(&config).stderr(Stdio::null()).spawn().context("nats-server")?);
    runtime.block_on(async {
        let (mut read, mut write) = dial(port).await?.into_split();
        write.write_all(b"CONNECT {\"verbose\":false}\r\nSUB _I.> 1\r\n").await?;
        let stream = r#"{"name":"B","subjects":["b"],"storage":"file"}"#;
        write.write_all(format!("PUB $JS.API.STREAM.CREATE.B _I.made {}\r\n{stream}\r\n", stream.len()).as_bytes()).await?;
        let clock = Clock::new(Instant::now());
        let noting = clock.clone();
        let (made, is_made) = tokio::sync::oneshot::channel();
        let reading = tokio::spawn(async move {
            let (mut buffer, mut text, mut left, mut made) = (vec![0; 64 << 10], Vec::new(), rate * (WARM + SECONDS), Some(made));
            while left > 0 {
                let n = read.read(&mut buffer).await?;
                if n == 0 {
                    bail!("nats-server closed the connection");
                }
                text.extend_from_slice(&buffer[..n]);
                let mut done = 0;
                while let Some(end) = text[done..].iter().position(|b| *b == b'\n') {
                    let line = String::from_utf8_lossy(&text[done..done + end]).into_owned();
                    done += end + 1;
                    match line.strip_prefix("MSG _I.").and_then(|l| l.split(' ').next()) {
                        Some("made") => drop(made.take().map(|m| m.send(()))),
                        Some(due) => {
                            noting.note(due.parse()?);
                            left -= 1;
                        }
                        None if line.contains("\"error\"") => bail!("nats-server: {line}"),
                        None => {}
                    }
                }
                text.drain(..done);
            }
            Ok(())
        });
        is_made.await.context("nats-server did not make a stream")?;
        // The run begins now; the clock began a little before.
        let shift = clock.start.elapsed().as_micros() as u64;
        let payload = vec![b'x'; bytes];
        let start = Instant::now();
        paced(start, rate, async |due| {
            let head = format!("PUB b _I.{} {bytes}\r\n", due + shift);
            Ok(write.write_all(&[head.as_bytes(), &payload, b"\r\n"].concat()).await?)
        })
        .await?;
        reading.await??;
        Ok(clock.sorted())
    })
}

/// Latencies of 4 KiB writes that are on the disk when they return, in a file that is filled already.
pub fn device(folder: &Path) -> Result<Latencies> {
    let path = folder.join("device");
    let file = std::fs::File::create(&path)?;
    file.write_all_at(&vec![0; 8 << 20], 0)?;
    file.sync_all()?;
    let file = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(&path)?;
    let mut all = Vec::new();
    for n in 0..500u64 {
        let start = Instant::now();
        file.write_all_at(&[n as u8; 4096], n % 2048 * 4096)?;
        all.push(start.elapsed().as_micros() as u64);
    }
    all.sort_unstable();
    Ok(all)
}

/// MB/s of 4 MiB writes that are on the disk when they return.
fn device_bandwidth(folder: &Path) -> Result<f64> {
    const PIECES: u64 = 32;
    let path = folder.join("bandwidth");
    let file = std::fs::File::create(&path)?;
    let piece = vec![1; 4 << 20];
    for n in 0..PIECES {
        file.write_all_at(&piece, n * (4 << 20))?;
    }
    file.sync_all()?;
    let file = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(&path)?;
    let start = Instant::now();
    for n in 0..PIECES {
        file.write_all_at(&piece, n * (4 << 20))?;
    }
    Ok((PIECES * (4 << 20)) as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// Beside a figure what the disk alone does: a row of its own with the p99 of [`device`].
pub fn beside_device(name: &str, folder: &Path) -> Result<Value> {
    let raw = device(folder)?;
    let mut row = figure(&format!("{name}.device-p99"), "ms", "reported", at(&raw, 0.99), None, raw.len(), true);
    row["ours_is"] = "a 4 KiB write to the disk".into();
    Ok(row)
}

pub fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

pub fn latency() -> Result<Vec<Value>> {
    const RATE: u64 = 10_000;
    const TURNS: usize = 3;
    type Run = fn(&Runtime, &Path, u64, usize) -> Result<Latencies>;
    const PEERS: [(&str, usize, Run); 2] = [("nats", 1, nats), ("redis", TURNS, redis)];
    let runtime = runtime()?;
    let mut out = Vec::new();
    for (bytes, goal_p95, goal_p99) in [(1000, 6.0, 12.0), (100, f64::INFINITY, 8.0)] {
        let folder = tempfile::tempdir_in(crate::root().join("target"))?;
        let raw = device(folder.path())?;
        // Peers bring nothing to long-term storage. Where that is not the log's disk, its bytes go another way: memory stands for that.
        let (mut here, mut elsewhere, mut theirs) = (Vec::new(), Vec::new(), [Ok(Vec::new()), Ok(Vec::new())]);
        // In turns, because the machine is not the same from one to the next. NATS once: it falls behind for so long.
        for turn in 0..TURNS {
            let folder = tempfile::tempdir_in(folder.path())?;
            here.push(ours(&runtime, &folder.path().join("ours"), &[], RATE, bytes)?);
            let memory = tempfile::tempdir_in("/dev/shm")?;
            elsewhere.push(ours(&runtime, &folder.path().join("elsewhere"), &["--long-term", &format!("file:{}", memory.path().display())], RATE, bytes)?);
            for ((_, turns, run), all) in PEERS.iter().zip(&mut theirs) {
                if turn < *turns
                    && let Ok(runs) = all
                {
                    match run(&runtime, folder.path(), RATE, bytes) {
                        Ok(found) => runs.push(found),
                        Err(e) => *all = Err(e),
                    }
                }
            }
        }
        let size = if bytes == 1000 { "1kB" } else { "100B" };
        let mut all = here.concat();
        all.sort_unstable();
        for (part, name, goal) in [(0.5, "p50", f64::INFINITY), (0.95, "p95", goal_p95), (0.99, "p99", goal_p99)] {
            let found = at(&all, part);
            let goal_text = if goal.is_finite() { format!("<= {goal}") } else { "reported".into() };
            out.push(figure(&format!("stream-latency.{size}.{name}"), "ms", &goal_text, found, Some(at(&raw, part)), all.len(), found <= goal));
            out.last_mut().and_then(Value::as_object_mut).map(|f| f.insert("peer_is".into(), "a 4 KiB write to the disk".into()));
        }
        let p99 = |runs: &[Latencies]| crate::median(runs.iter().map(|run| at(run, 0.99)).collect());
        for ((peer, ..), theirs) in PEERS.iter().zip(theirs) {
            match theirs {
                Ok(theirs) => {
                    for (name, ours) in [("", &here), ("-long-term-elsewhere", &elsewhere)] {
                        let (a, b) = (p99(ours), p99(&theirs));
                        out.push(figure(&format!("stream-latency.{size}.p99-{peer}{name}"), "ms", "ratio < 1", a, Some(b), theirs.iter().map(Vec::len).sum(), a < b));
                    }
                }
                Err(e) => out.push(json!({"name": format!("stream-latency.{size}.p99-{peer}"), "not_run": format!("{e:#}")})),
            }
        }
    }
    Ok(out)
}

pub fn throughput() -> Result<Vec<Value>> {
    let runtime = runtime()?;
    let mut out = Vec::new();
    for (bytes, count) in [(100usize, 3_000_000u64), (10_000, 60_000)] {
        let folder = tempfile::tempdir_in(crate::root().join("target"))?;
        let raw = device_bandwidth(folder.path())?;
        let (_server, address) = serve(&folder.path().join("ours"), &[])?;
        let seconds = runtime.block_on(async {
            let client = fresh(&address, "throughput").await?;
            let mut writer = Writer::open(&client, "bench", "throughput", None).await?;
            let event = vec![7; bytes];
            for n in 0..count / 10 {
                writer.append("key", &event, n).await?;
            }
            writer.flush().await?;
            let start = Instant::now();
            for n in 0..count {
                writer.append("key", &event, n).await?;
            }
            writer.flush().await?;
            anyhow::Ok(start.elapsed().as_secs_f64())
        })?;
        let (events, megabytes) = (count as f64 / seconds, (count * bytes as u64) as f64 / 1e6 / seconds);
        if bytes == 100 {
            out.push(figure("stream-throughput.100B", "events/s", ">= 300000", events, None, count as usize, events >= 300_000.0));
            out.push(beside_device("stream-throughput.100B", folder.path())?);
        } else {
            let met = megabytes >= 150.0 || megabytes >= 0.85 * raw;
            out.push(figure("stream-throughput.10kB", "MB/s", ">= 150, or ratio >= 0.85", megabytes, Some(raw), count as usize, met));
        }
    }
    Ok(out)
}
