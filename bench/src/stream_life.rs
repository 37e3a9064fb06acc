//! Streams over their life: cameras, scaling, history out of S3, an outage of long-term storage, and what a server costs.
//!
//! The published figures beside ours come from other machines (Pravega's, as issue and reference give them); they are goals, not peers in the same run.

use crate::{
    figure,
    streams::{Clock, Running, at, fresh, runtime, serve},
};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, atomic::{AtomicBool, AtomicU64, Ordering::Relaxed}},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use streams::{Client, catalog::Scaling, client::{From, Reader, Writer}, proto::ScalingPolicy};
use tokio::{runtime::Runtime, time::sleep};

fn folder() -> Result<tempfile::TempDir> {
    Ok(tempfile::tempdir_in(crate::root().join("target"))?)
}

/// Memory of a process, bytes: now (`VmRSS`) or at most (`VmHWM`).
fn memory(process: &Running, line: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id()))?;
    let kb = status.lines().find_map(|l| l.strip_prefix(line)?.trim_start_matches(':').trim().strip_suffix(" kB")?.parse::<f64>().ok());
    Ok(kb.context("memory of a process")? * 1024.0)
}

/// Cameras of 720p at 30 pictures/s and 5 Mbit/s: each picture is durable before a reader at the tail gets it.
pub fn video() -> Result<Vec<Value>> {
    const SECONDS: u64 = 10;
    const RATE: u64 = 30;
    const PICTURE: usize = 5_000_000 / 8 / 30;
    let (runtime, mut out) = (runtime()?, Vec::new());
    for (cameras, goal) in [(1u32, 8.0), (10, 20.0)] {
        let folder = folder()?;
        // Every picture's way leads over the disk, so that is told beside it.
        let raw = crate::streams::device(folder.path())?;
        let (_server, address) = serve(&folder.path().join("ours"), &[])?;
        let sorted = runtime.block_on(async {
            let clock = Clock::new(Instant::now());
            let mut tasks = Vec::new();
            for camera in 0..cameras {
                let stream = format!("camera-{camera}");
                let client = fresh(&address, &stream).await?;
                let mut reader = Reader::open(&client, "bench", &stream, From::Head).await?;
                let mut writer = Writer::open(&client, "bench", &stream, None).await?;
                let (clock, start) = (clock.clone(), clock.start);
                tasks.push(tokio::spawn(async move {
                    // Cameras are not in step.
                    let first = u64::from(camera) * 1_000_000 / RATE / u64::from(cameras);
                    for n in 0..RATE * (SECONDS + crate::streams::WARM) {
                        let due = first + n * 1_000_000 / RATE;
                        sleep(Duration::from_micros(due).saturating_sub(start.elapsed())).await;
                        // One in thirty stands for itself and is larger.
                        let mut picture = vec![7; if n % RATE == 0 { 4 * PICTURE } else { PICTURE * 9 / 10 }];
                        picture[..8].copy_from_slice(&due.to_be_bytes());
                        writer.append("video", &picture, 0).await?;
                    }
                    writer.flush().await?;
                    anyhow::Ok(())
                }));
                tasks.push(tokio::spawn(async move {
                    for _ in 0..RATE * (SECONDS + crate::streams::WARM) {
                        let event = reader.next().await?.context("the stream goes on")?;
                        clock.note(u64::from_be_bytes(event.data[..8].try_into()?));
                    }
                    anyhow::Ok(())
                }));
            }
            for task in tasks {
                task.await??;
            }
            anyhow::Ok(clock.sorted())
        })?;
        for (part, name) in [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")] {
            let (found, told) = (at(&sorted, part), if name == "p95" { format!("<= {goal}") } else { "reported".into() });
            out.push(figure(&format!("stream-video.{cameras}.{name}"), "ms", &told, found, Some(at(&raw, part)), sorted.len(), name != "p95" || found <= goal));
            out.last_mut().and_then(Value::as_object_mut).map(|f| f.insert("peer_is".into(), "a 4 KiB write to the disk".into()));
        }
    }
    out.extend(camera(&runtime)?);
    Ok(out)
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// A camera that GStreamer plays, through the ingester to a reader: how long after the sensor and after the encoder had a picture the reader has all of it.
fn camera(runtime: &Runtime) -> Result<Vec<Value>> {
    const PICTURES: usize = 300;
    let folder = folder()?;
    let (_server, address) = serve(&folder.path().join("ours"), &[])?;
    let times = folder.path().join("times");
    let program = crate::root().join("bench/programs/camera.py");
    let mut gst = Command::new("/usr/bin/python3");
    let gst = gst.arg(program).arg(PICTURES.to_string()).arg(&times).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut camera = Running(gst.context("start /usr/bin/python3")?);
    let from = camera.0.stdout.take().context("what the camera sends")?;
    let cloudskin = std::env::current_exe()?.with_file_name("cloudskin");
    let mut ingest = Running(Command::new(cloudskin).args(["stream", "ingest", "bench/real", "--server", &address]).stdin(from).stdout(Stdio::null()).spawn()?);
    let arrived = runtime.block_on(async {
        let client = fresh(&address, "real").await?;
        let mut reader = Reader::open(&client, "bench", "real", From::Head).await?;
        // By the picture's own time: one whose packets came with a pause between them is several events.
        let mut arrived: Vec<(u64, u64)> = Vec::new();
        loop {
            // The last one's rest comes at once, or it was whole.
            let wait = Duration::from_secs(if arrived.len() < PICTURES { 30 } else { 1 });
            let Ok(event) = tokio::time::timeout(wait, reader.next()).await else { break };
            let event = event?.context("the stream goes on")?;
            let (time, now) = (u64::from_be_bytes(event.data[4..12].try_into()?), now_ns());
            match arrived.last_mut().filter(|(last, _)| *last == time) {
                Some((_, at)) => *at = now,
                None => arrived.push((time, now)),
            }
        }
        anyhow::Ok(arrived)
    })?;
    if !camera.0.wait()?.success() || !ingest.0.wait()?.success() {
        return Ok(vec![json!({"name": "stream-video.camera", "not_run": "GStreamer's camera did not play; setup/setup.sh test installs it"})]);
    }
    let left: Vec<[u64; 2]> = std::fs::read_to_string(&times)?.lines().filter_map(|l| l.split_once(' ').and_then(|(a, b)| Some([a.parse().ok()?, b.parse().ok()?]))).collect();
    if arrived.len() != PICTURES || left.len() != PICTURES {
        bail!("{} pictures were read of {} that the camera made", arrived.len(), left.len());
    }
    let mut out = Vec::new();
    for (i, name) in ["sensor", "encoder"].into_iter().enumerate() {
        // Not the first second: programs start.
        let mut all: Vec<u64> = left.iter().zip(&arrived).skip(30).map(|(left, (_, at))| at.saturating_sub(left[i]) / 1000).collect();
        all.sort_unstable();
        for (part, of) in [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")] {
            out.push(figure(&format!("stream-video.camera.{name}-to-reader.{of}"), "ms", "reported", at(&all, part), None, all.len(), true));
        }
    }
    Ok(out)
}

/// Keys of [`load`], in turn.
const KEYS: u64 = 100;

/// Reads what [`load`] wrote, over all scales: each event once, and those of a key in their order.
async fn in_order(client: &Client, stream: &str, count: u64) -> Result<()> {
    let mut reader = Reader::open(client, "bench", stream, From::Head).await?;
    let mut next: Vec<u64> = (0..KEYS).collect();
    for _ in 0..count {
        let event = tokio::time::timeout(Duration::from_secs(60), reader.next()).await.context("events are missing")??.context("the stream goes on")?;
        let n = u64::from_be_bytes(event.data[..8].try_into()?);
        let want = &mut next[(n % KEYS) as usize];
        if n != *want {
            bail!("event {n} of {stream} came where {want} belongs");
        }
        *want += KEYS;
    }
    Ok(())
}

/// Writes events of `bytes` at a rate until it is told to stop, and notes how long each took.
async fn load(client: &Client, stream: &str, rate: u64, bytes: usize, clock: Clock, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut writer = Writer::open(client, "bench", stream, Some(Arc::new({
        let clock = clock.clone();
        move |due| clock.note(due)
    })))
    .await?;
    let (mut event, mut n) = (vec![7; bytes], 0u64);
    while !stop.load(Relaxed) {
        let now = clock.start.elapsed().as_micros() as u64;
        while n * 1_000_000 / rate <= now && !stop.load(Relaxed) {
            event[..8].copy_from_slice(&n.to_be_bytes());
            writer.append(&(n % KEYS).to_string(), &event, n * 1_000_000 / rate).await?;
            n += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
    writer.flush().await?;
    Ok(n)
}

/// From one segment to four, by hand and by rate, under load.
pub fn scale() -> Result<Vec<Value>> {
    const RATE: u64 = 2000;
    let (runtime, mut out) = (runtime()?, Vec::new());
    let folder = folder()?;
    let device = crate::streams::beside_device("stream-scale", folder.path())?;
    let (_server, address) = serve(&folder.path().join("ours"), &["--scale-fast"])?;
    runtime.block_on(async {
        let client = fresh(&address, "by-hand").await?;
        let run = async |clock: &Clock, seconds: u64, stream: &str| {
            let (stop, c, client, stream) = (Arc::new(AtomicBool::new(false)), clock.clone(), client.clone(), stream.to_string());
            let s = stop.clone();
            let task = tokio::spawn(async move { load(&client, &stream, RATE, 100, c, s).await });
            sleep(Duration::from_secs(seconds)).await;
            (stop, task)
        };
        // One that is not measured: the first scale runs code that nothing has run before, and its p99 was missed in four of five runs for that, as it seems.
        client.create_stream("bench", "before", ScalingPolicy { min_num_segments: 1, ..ScalingPolicy::default() }).await?;
        let (stop, task) = run(&Clock::new(Instant::now()), 1, "before").await;
        client.scale("bench", "before", 4).await?;
        sleep(Duration::from_millis(200)).await;
        stop.store(true, Relaxed);
        task.await??;
        // The clock leaves the first seconds out.
        let clock = Clock::new(Instant::now());
        let (stop, task) = run(&clock, crate::streams::WARM + 5, "by-hand").await;
        let steady = clock.sorted();
        let began = Instant::now();
        let new = client.scale("bench", "by-hand", 4).await?;
        while client.segment("bench", "by-hand", new[0].segment).await?.1 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let visible = began.elapsed().as_secs_f64() * 1000.0;
        sleep(Duration::from_secs(1)).await;
        stop.store(true, Relaxed);
        let written = task.await??;
        let meanwhile = clock.sorted();
        in_order(&client, "by-hand", written).await?;
        out.push(figure("stream-scale.by-hand", "ms", "<= 200", visible, None, 1, visible <= 200.0));
        let (a, b) = (at(&meanwhile, 0.99), at(&steady, 0.99));
        out.push(figure("stream-scale.p99-meanwhile", "ms", "ratio <= 2", a, Some(b), meanwhile.len(), a <= 2.0 * b));

        let policy = ScalingPolicy { scale_type: Scaling::BY_EVENTS, target_rate: 500, scale_factor: 4, min_num_segments: 1 };
        client.create_stream("bench", "by-rate", policy).await?;
        let (began, clock) = (Instant::now(), Clock::new(Instant::now()));
        let (stop, task) = run(&clock, 0, "by-rate").await;
        // From a moment before each scale is seen until a second behind it, and apart from that.
        let (mut segments, mut took, mut last) = (1, None, None::<Instant>);
        let (mut lately, mut meanwhile, mut steady) = (VecDeque::new(), Vec::new(), Vec::new());
        while (segments < 4 || last.is_some_and(|at| at.elapsed() < Duration::from_secs(1))) && began.elapsed() < Duration::from_secs(60) {
            sleep(Duration::from_millis(50)).await;
            let found = client.current("bench", "by-rate").await?.len();
            lately.push_back(clock.sorted());
            if found != std::mem::replace(&mut segments, found) {
                last = Some(Instant::now());
                took = Some(began.elapsed().as_secs_f64());
            }
            if last.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
                meanwhile.extend(lately.drain(..).flatten());
            } else if lately.len() > 6 {
                steady.extend(lately.pop_front().into_iter().flatten());
            }
        }
        let took = took.filter(|_| segments >= 4).unwrap_or(f64::INFINITY);
        stop.store(true, Relaxed);
        in_order(&client, "by-rate", task.await??).await?;
        meanwhile.sort_unstable();
        steady.sort_unstable();
        out.push(device);
        out.push(figure("stream-scale.by-rate", "s", "<= 30", took, None, 1, took <= 30.0));
        let (a, b) = (at(&meanwhile, 0.99), at(&steady, 0.99));
        out.push(figure("stream-scale.by-rate.p99-meanwhile", "ms", "ratio <= 2", a, Some(b), meanwhile.len(), a <= 2.0 * b));
        anyhow::Ok(())
    })?;
    Ok(out)
}

/// An S3 server that can be stopped and started again, with what it has.
pub struct S3 {
    command: Command,
    pub endpoint: String,
    running: Running,
}

impl S3 {
    /// Kills it, as an outage would: connections break, and no new one is taken.
    pub fn stop(&mut self) -> Result<()> {
        self.running.0.kill()?;
        self.running.0.wait()?;
        Ok(())
    }

    pub fn start_again(&mut self) -> Result<()> {
        self.running = Running(self.command.spawn()?);
        self.wait()
    }

    /// Until it has the bucket, which it makes if it must.
    fn wait(&self) -> Result<()> {
        let signed = ["-fsS", "--noproxy", "*", "-m", "5", "-o", "/dev/null", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "benchkey:benchsecret"];
        let end = Instant::now() + Duration::from_secs(60);
        let ask = |method: &str| Ok::<bool, anyhow::Error>(Command::new("curl").args(signed).args(["-X", method]).arg(format!("{}/bench", self.endpoint)).stderr(Stdio::null()).status()?.success());
        while !ask("PUT")? && !ask("GET")? {
            if Instant::now() > end {
                bail!("the S3 server is not up");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// An S3 server with an empty bucket `bench`, and what a program must have in its environment for it. Who shows no key may write, too.
pub fn s3(folder: &Path) -> Result<Option<(S3, Vec<(String, String)>)>> {
    let weed = crate::root().join(".setup/venv/bin/weed");
    if !weed.exists() {
        return Ok(None);
    }
    let held = [(); 8].map(|()| std::net::TcpListener::bind("127.0.0.1:0"));
    let mut ports = Vec::new();
    for listener in held {
        ports.push(listener?.local_addr()?.port());
    }
    std::fs::create_dir_all(folder.join("data"))?;
    let users = json!({"identities": [{"name": "bench", "credentials": [{"accessKey": "benchkey", "secretKey": "benchsecret"}], "actions": ["Admin", "Read", "List", "Tagging", "Write"]},
        {"name": "anonymous", "actions": ["Read", "List", "Write"]}]});
    std::fs::write(folder.join("users.json"), users.to_string())?;
    let path = |name: &str| folder.join(name).display().to_string();
    // It stands for another machine.
    let core = (cores() - 1).to_string();
    let mut command = Command::new("chrt");
    command.args(["--idle", "0", "taskset", "-c", &core]).arg(weed);
    command.args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-master.volumeSizeLimitMB=256", "-volume.max=64"]);
    command.args([format!("-dir={}", path("data")), format!("-s3.config={}", path("users.json")), format!("-filer.localSocket={}", path("filer")), format!("-s3.localSocket={}", path("s3"))]);
    for (i, name) in ["master.port", "volume.port", "filer.port", "s3.port", "master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc"].iter().enumerate() {
        command.arg(format!("-{name}={}", ports[i]));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(command.spawn()?);
    let server = S3 { command, endpoint: format!("http://127.0.0.1:{}", ports[3]), running };
    server.wait()?;
    let of = |name: &str, value: &str| (format!("CLOUDSKIN_GEDS__S3_{name}"), value.to_string());
    let environment = vec![of("ENDPOINT", &server.endpoint), of("ACCESS_KEY", "benchkey"), of("SECRET_KEY", "benchsecret"), of("ALLOW_HTTP", "true"), of("PATH_STYLE", "true")];
    Ok(Some((server, environment)))
}

/// What the server in this folder says of itself and its streams. It is asked while others are measured: to start a program for that keeps a processor for 9 ms.
fn told(folder: &Path) -> Result<Value> {
    let ready: Value = serde_json::from_slice(&std::fs::read(folder.join("ready.json"))?)?;
    let address = ready["http"].as_str().context("the server's HTTP address")?;
    let (mut stream, mut told) = (TcpStream::connect(address)?, String::new());
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /v1/streams HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    stream.read_to_string(&mut told)?;
    let (head, body) = told.split_once("\r\n\r\n").with_context(|| format!("the server said {told:?}"))?;
    serde_json::from_str(body).with_context(|| head.to_string())
}

/// Bytes of a stream that only the log has, in what was told.
fn log_bytes(all: &Value, stream: &str) -> Result<u64> {
    let found = all["streams"].as_array().and_then(|s| s.iter().find(|s| s["stream"] == stream));
    found.and_then(|s| s["log_bytes"].as_u64()).with_context(|| format!("{stream} in {all}"))
}

/// How many processors there are, also for who may not use all of them.
fn cores() -> usize {
    // SAFETY: it takes a number and gives one.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).map_or(1, |n| n.max(1))
}

/// Keeps all threads of these processes, and those that they begin, off the processor of what is [`elsewhere`], or lets them go everywhere again. Without that the system wakes them there by preference,
/// since whoever has it gives way; but he does so only when he comes back from the kernel, which may be milliseconds.
fn apart(processes: &[u32], apart: bool) -> Result<()> {
    for process in processes {
        for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let thread: i32 = thread?.file_name().to_string_lossy().parse()?;
            // SAFETY: the set is plain numbers, for which zero is a value. A thread that has ended meanwhile needs no processor.
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                let most = if apart { (cores() - 1).max(1) } else { cores() };
                (0..most).for_each(|n| libc::CPU_SET(n, &mut set));
                libc::sched_setaffinity(thread, size_of_val(&set), &set);
            }
        }
    }
    Ok(())
}

/// Makes the calling thread one of another machine, as far as that goes on this one: it has the last processor, and what others leave of it.
fn elsewhere() {
    // SAFETY: both structures are plain numbers, for which zero is a value; `cores() - 1` is a processor's number; 0 is the calling thread. Who fails measures worse.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cores() - 1, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &std::mem::zeroed());
    }
}

/// What a process is called with that is the reader of [`catchup`].
pub const READER: &str = "stream-catchup-reader";
/// What it reads, in events of so many bytes.
const HISTORY: u64 = 600_000_000;
const HISTORY_EVENT: usize = 10_000;

/// The reader of [`catchup`], of the server at this address.
pub fn read_history(address: &str) -> Result<()> {
    elsewhere();
    // Threads inherit where their maker is.
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(async {
        let client = Client::connect(address).await?;
        let mut reader = Reader::open(&client, "bench", "history", From::Head).await?;
        for n in 0..HISTORY / HISTORY_EVENT as u64 {
            let event = reader.next().await?.context("the stream goes on")?;
            if event.data[..8] != n.to_be_bytes() || event.data[HISTORY_EVENT - 1] != n as u8 {
                bail!("event {n} is another one");
            }
        }
        Ok(())
    })
}

/// Names of all objects of an S3 server's bucket `bench` with this in them, and their bytes together.
fn objects(endpoint: &str, with: &str) -> Result<(Vec<String>, u64)> {
    let told = Command::new("curl").args(["-fsS", "--noproxy", "*", "-m", "10"]).arg(format!("{endpoint}/bench?list-type=2&max-keys=1000")).output()?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let field = |object: &str, name: &str| Some(object.split_once(&format!("<{name}>"))?.1.split_once('<')?.0.to_string());
    let found = told.split("<Contents>").skip(1).filter_map(|o| Some((field(o, "Key")?, field(o, "Size")?.parse::<u64>().ok()?))).filter(|(key, _)| key.contains(with));
    let (names, sizes): (Vec<String>, Vec<u64>) = found.unzip();
    if names.is_empty() || told.contains("<IsTruncated>true") {
        bail!("not all of what the S3 server has is known: {told}");
    }
    Ok((names, sizes.iter().sum()))
}

/// A plain pull of these objects by curl, four at a time, where the reader is. MB/s.
fn pull(endpoint: &str, (names, bytes): &(Vec<String>, u64)) -> Result<f64> {
    let core = (cores() - 1).to_string();
    let mut curl = Command::new("chrt");
    curl.args(["--idle", "0", "taskset", "-c", &core, "curl", "-fsS", "--noproxy", "*", "-Z", "--parallel-max", "4", "-w", "%{size_download}\n"]);
    for name in names {
        curl.args(["-o", "/dev/null"]).arg(format!("{endpoint}/bench/{name}"));
    }
    let began = Instant::now();
    let told = curl.output()?;
    let pulled: u64 = String::from_utf8_lossy(&told.stdout).lines().filter_map(|line| line.parse::<u64>().ok()).sum();
    if pulled != *bytes {
        bail!("curl has read {pulled} of {bytes} bytes from the S3 server: {}", String::from_utf8_lossy(&told.stderr));
    }
    Ok(*bytes as f64 / 1e6 / began.elapsed().as_secs_f64())
}

/// A reader from the beginning, out of S3, while a writer goes on. The reader, a process of its own, and the S3 server are [`elsewhere`], as they would be, and the server and the tail's clients [`apart`] from them:
/// a pull from that server by anyone, on the same processors, makes the tail slower by up to three quarters, which is measured beside it with all on all processors. Beside it a [`pull`] of the same chunks, in turns: what the machine and the S3 server give.
pub fn catchup() -> Result<Vec<Value>> {
    const TURNS: u64 = 6;
    let (runtime, folder) = (runtime()?, folder()?);
    let Some((s3, environment)) = s3(folder.path())? else {
        return Ok(vec![json!({"name": "stream-catchup", "not_run": "the S3 server is missing; setup/setup.sh test installs it"})]);
    };
    let ours = folder.path().join("ours");
    let device = crate::streams::beside_device("stream-catchup", folder.path())?;
    let (server, address) = crate::streams::serve_with(&ours, &["--long-term", "s3:bench", "--http", "127.0.0.1:0"], &environment)?;
    runtime.block_on(async {
        let client = fresh(&address, "history").await?;
        let mut writer = Writer::open(&client, "bench", "history", None).await?;
        for n in 0..HISTORY / HISTORY_EVENT as u64 {
            let mut event = vec![n as u8; HISTORY_EVENT];
            event[..8].copy_from_slice(&n.to_be_bytes());
            writer.append("key", &event, n).await?;
        }
        writer.flush().await?;
        // What the log has is read from there: until long-term storage has all of it, this would measure the log.
        let end = Instant::now() + Duration::from_secs(180);
        loop {
            let left = log_bytes(&told(&ours)?, "bench/history")?;
            if left == 0 {
                break;
            }
            if Instant::now() > end {
                bail!("{left} bytes of history are still in the log alone");
            }
            sleep(Duration::from_millis(500)).await;
        }
        crate::calm();
        client.create_stream("bench", "tail", ScalingPolicy { min_num_segments: 1, ..ScalingPolicy::default() }).await?;
        let (stop, clock) = (Arc::new(AtomicBool::new(false)), Clock::new(Instant::now()));
        let (s, c, writing) = (stop.clone(), clock.clone(), client.clone());
        let tail = tokio::spawn(async move { load(&writing, "tail", 1000, 1000, c, s).await });
        sleep(Duration::from_secs(crate::streams::WARM)).await;
        let chunks = objects(&s3.endpoint, "/chunks/")?;
        let ours = [server.0.id(), std::process::id()];
        let (mut samples, mut read, mut pulled): ([[Vec<u64>; 3]; 2], _, _) = (<_>::default(), Vec::new(), Vec::new());
        // In turns, because the machine is not the same from one second to the next.
        for turn in 0..2 * TURNS as usize {
            let is_apart = turn % 2 == 0;
            apart(&ours, is_apart)?;
            let [alone, beside, beside_pull] = &mut samples[usize::from(!is_apart)];
            clock.sorted();
            sleep(Duration::from_secs(2)).await;
            alone.extend(clock.sorted());
            let began = Instant::now();
            let mut reader = Command::new(std::env::current_exe()?);
            let reader = reader.args([READER, &address]);
            if !tokio::task::block_in_place(|| reader.status())?.success() {
                bail!("the reader of history has failed");
            }
            let rate = HISTORY as f64 / 1e6 / began.elapsed().as_secs_f64();
            beside.extend(clock.sorted());
            let plain = tokio::task::block_in_place(|| pull(&s3.endpoint, &chunks))?;
            beside_pull.extend(clock.sorted());
            if is_apart {
                read.push(rate);
                pulled.push(plain);
            }
        }
        stop.store(true, Relaxed);
        tail.await??;
        samples.iter_mut().flatten().for_each(|some| some.sort_unstable());
        let (rate, plain) = (crate::median(read), crate::median(pulled));
        let [[alone, beside, beside_pull], [alone_together, beside_together, _]] = &samples;
        let (a, b) = (at(beside, 0.99), at(alone, 0.99));
        let mut catchup = figure("stream-catchup", "MB/s", ">= 300 (95 published)", rate, Some(plain), (TURNS * HISTORY / HISTORY_EVENT as u64) as usize, rate >= 300.0);
        catchup["peer_is"] = "a plain pull of all chunks by curl, where the reader is".into();
        Ok(vec![
            catchup,
            device,
            figure("stream-catchup.tail-p99", "ms", "ratio < 1.25", a, Some(b), beside.len(), a < 1.25 * b),
            // What the pull alone does to the tail, by whoever reads: the server has no part in it.
            figure("stream-catchup.tail-p99-beside-curl", "ms", "reported", at(beside_pull, 0.99), Some(b), beside_pull.len(), true),
            // With the reader and the S3 server on processors that the server and its clients use, too.
            figure("stream-catchup.tail-p99-together", "ms", "reported", at(beside_together, 0.99), Some(at(alone_together, 0.99)), beside_together.len(), true),
        ])
    })
}

/// [`outage_of`] a tenth of the published sizes.
pub fn outage() -> Result<Vec<Value>> {
    outage_of("stream-outage", 1)
}

/// [`outage_of`] the published sizes.
pub fn outage_full() -> Result<Vec<Value>> {
    outage_of("stream-outage-full", 10)
}

/// S3 stopped at 15 MB/s, at so many tenths of the published sizes: how long writers go on in the log and the overflow, and
/// whether all is there afterwards. When it is back, the log and the overflow drain beside another writer's events: that must not hold those up.
fn outage_of(bench: &str, times: u64) -> Result<Vec<Value>> {
    const RATE: u64 = 1500;
    const EVENT: usize = 10_000;
    /// For how long events are written while nothing else is, s.
    const ALONE: u64 = 10;
    const DRAIN_MAX: Duration = Duration::from_secs(900);
    let (runtime, folder) = (runtime()?, folder()?);
    // The S3 server stands for another machine, whose disk is not that of the log and the overflow.
    let elsewhere = tempfile::tempdir_in("/dev/shm").context("memory for what the S3 server keeps")?;
    let Some((mut s3, environment)) = s3(elsewhere.path())? else {
        return Ok(vec![json!({"name": bench, "not_run": "the S3 server is missing; setup/setup.sh test installs it"})]);
    };
    let (beside, log, limit) = (folder.path().join("overflow").display().to_string(), format!("{}MB", 150 * times), format!("{}MB", 500 * times));
    let options = ["--long-term", "s3:bench", "--backlog", log.as_str(), "--overflow", beside.as_str(), "--overflow-limit", limit.as_str(), "--http", "127.0.0.1:0"];
    let ours = folder.path().join("ours");
    let (server, address) = crate::streams::serve_with(&ours, &options, &environment)?;
    let device = crate::streams::beside_device(bench, folder.path())?;
    runtime.block_on(async {
        let client = fresh(&address, "outage").await?;
        // Another writer's few events, all the time: each is a block of the log of its own, and a thousand a second would take a quarter of it.
        client.create_stream("bench", "beside", ScalingPolicy { min_num_segments: 1, ..ScalingPolicy::default() }).await?;
        let (stop, clock) = (Arc::new(AtomicBool::new(false)), Clock::new(Instant::now()));
        let (s, c, writing) = (stop.clone(), clock.clone(), client.clone());
        let other = tokio::spawn(async move { load(&writing, "beside", 200, 100, c, s).await });
        sleep(Duration::from_secs(crate::streams::WARM + ALONE)).await;
        let alone = clock.sorted();
        s3.stop()?;
        let acknowledged = Arc::new(AtomicU64::new(0));
        let count = acknowledged.clone();
        let mut writer = Writer::open(&client, "bench", "outage", Some(Arc::new(move |_| { count.fetch_add(1, Relaxed); }))).await?;
        let (start, mut n, mut held) = (Instant::now(), 0u64, None);
        // Until nothing has been acknowledged for a second.
        let mut last = (0, Instant::now());
        while held.is_none() && start.elapsed() < Duration::from_secs(120 * times) {
            let due = start.elapsed().as_micros() as u64 * RATE / 1_000_000;
            while n < due {
                let mut event = vec![n as u8; EVENT];
                event[..8].copy_from_slice(&n.to_be_bytes());
                if tokio::time::timeout(Duration::from_secs(1), writer.append("key", &event, n)).await.is_err() {
                    break;
                }
                n += 1;
            }
            let now = acknowledged.load(Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            } else if last.1.elapsed() > Duration::from_secs(1) {
                held = Some(start.elapsed().as_secs_f64() - last.1.elapsed().as_secs_f64());
            }
            sleep(Duration::from_millis(5)).await;
        }
        let held = held.context("writers were never held up")?;
        let memory = memory(&server, "VmHWM")?;
        s3.start_again()?;
        let back = Instant::now();
        writer.flush().await?;
        // Both writers had to wait until something had left the log; what of that is still under way is no matter of draining.
        let waited = back.elapsed().as_secs_f64();
        sleep(Duration::from_millis(500)).await;
        clock.sorted();
        let left = || {
            let all = told(&ours)?;
            Ok::<u64, anyhow::Error>(log_bytes(&all, "bench/outage")? + all["long_term"]["overflow_bytes"].as_u64().context("bytes in the overflow")?)
        };
        while left()? > 0 {
            if back.elapsed() > DRAIN_MAX {
                bail!("{} bytes are not in long-term storage {DRAIN_MAX:?} after that is back", left()?);
            }
            sleep(Duration::from_millis(200)).await;
        }
        let (drained, draining) = (back.elapsed().as_secs_f64(), clock.sorted());
        stop.store(true, Relaxed);
        other.await??;
        let mut reader = Reader::open(&client, "bench", "outage", From::Head).await?;
        for want in 0..n {
            let event = reader.next().await?.context("the stream goes on")?;
            if event.data[..8] != want.to_be_bytes() || event.data[8..].iter().any(|b| *b != want as u8) {
                bail!("event {want} is another one");
            }
        }
        let (a, b) = (at(&draining, 0.99), at(&alone, 0.99));
        Ok(vec![
            match times {
                1 => figure(&format!("{bench}.tenth"), "s", ">= 40 (29.2 published, at a tenth)", held, None, n as usize, held >= 40.0),
                _ => figure(bench, "s", ">= 400 (292 published)", held, None, n as usize, held >= 400.0),
            },
            // The published run has 1.5 GB, and a tenth of it a tenth.
            figure(&format!("{bench}.memory"), "MB", &format!("<= {}", 150 * times), memory / 1e6, None, 1, memory <= 150e6 * times as f64),
            figure(&format!("{bench}.writers-go-on-after"), "s", "reported", waited, None, 1, true),
            figure(&format!("{bench}.drained-after"), "s", "reported; no write failed, every byte equal", drained, None, n as usize, true),
            device,
            figure(&format!("{bench}.p99-while-draining"), "ms", "ratio <= 2", a, Some(b), draining.len(), a <= 2.0 * b),
        ])
    })
}

/// What a server costs: memory, its start, and its start with a gigabyte of log.
pub fn footprint() -> Result<Vec<Value>> {
    const BYTES: u64 = 1_000_000_000;
    let (runtime, folder) = (runtime()?, folder()?);
    let began = Instant::now();
    let (server, address) = serve(&folder.path().join("idle"), &[])?;
    let start = began.elapsed().as_secs_f64() * 1000.0;
    std::thread::sleep(Duration::from_secs(2));
    let idle = memory(&server, "VmRSS")? / 1e6;
    drop((server, address));
    // Nothing leaves for long-term storage, so all of it is in the log.
    let there = folder.path().join("there");
    let options = ["--long-term", &format!("file:{}", there.display())];
    std::fs::create_dir(&there)?;
    let ours = folder.path().join("full");
    let (server, address) = serve(&ours, &options)?;
    std::fs::remove_dir_all(&there)?;
    std::fs::write(&there, "")?;
    runtime.block_on(async {
        let client = fresh(&address, "log").await?;
        let mut writer = Writer::open(&client, "bench", "log", None).await?;
        let event = vec![7; 10_000];
        for n in 0..BYTES / 10_000 {
            writer.append("key", &event, n).await?;
        }
        anyhow::Ok(writer.flush().await?)
    })?;
    drop(server);
    std::fs::remove_file(&there)?;
    let began = Instant::now();
    let (_server, _) = serve(&ours, &options)?;
    let restart = began.elapsed().as_secs_f64();
    Ok(vec![
        figure("stream-footprint.idle", "MB", "<= 60", idle, None, 1, idle <= 60.0),
        figure("stream-footprint.start", "ms", "<= 300", start, None, 1, start <= 300.0),
        figure("stream-footprint.restart-1GB", "s", "<= 3", restart, None, 1, restart <= 3.0),
    ])
}
