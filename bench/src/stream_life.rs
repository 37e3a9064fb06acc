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
    collections::HashMap,
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, atomic::{AtomicBool, AtomicU64, Ordering::Relaxed}},
    time::{Duration, Instant},
};
use streams::{Client, client::{From, Reader, Writer}, proto::ScalingPolicy};
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
            out.push(figure(&format!("stream-video.{cameras}.{name}"), "ms", &told, found, None, sorted.len(), name != "p95" || found <= goal));
        }
    }
    out.extend(camera(&runtime)?);
    Ok(out)
}

/// From an encoder's output to a reader, with the ingester and the disk in between: GStreamer's test picture at 720p30. A picture's time begins when its last packet
/// has left the encoder; what the encoder itself takes is not in it.
fn camera(runtime: &Runtime) -> Result<Vec<Value>> {
    const SECONDS: u64 = 10;
    const PACKET: usize = 188;
    const PIPELINE: &str = "videotestsrc is-live=true ! video/x-raw,width=1280,height=720,framerate=30/1 ! openh264enc gop-size=30 bitrate=5000000 ! h264parse ! mpegtsmux ! fdsink";
    let folder = folder()?;
    let (_server, address) = serve(&folder.path().join("ours"), &[])?;
    let Ok(encoder) = Command::new("gst-launch-1.0").arg("-q").args(PIPELINE.split(' ')).stdout(Stdio::piped()).spawn() else {
        return Ok(vec![json!({"name": "stream-video.encoder", "not_run": "GStreamer's tools are missing; setup/setup.sh test installs them"})]);
    };
    let mut encoder = Running(encoder);
    let mut video = encoder.0.stdout.take().context("its output")?;
    let program = std::env::current_exe()?.with_file_name("cloudskin");
    let mut ingest = Running(Command::new(program).args(["stream", "ingest", "bench/camera", "--server", &address]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?);
    let mut input = ingest.0.stdin.take().context("its input")?;
    // When each packet passed. They count themselves, so hardly two are the same.
    let passed: Arc<Mutex<HashMap<Vec<u8>, Instant>>> = Arc::default();
    let noted = passed.clone();
    std::thread::spawn(move || {
        let (mut buffer, mut rest) = (vec![0; 64 << 10], Vec::new());
        while let Ok(n @ 1..) = video.read(&mut buffer) {
            rest.extend_from_slice(&buffer[..n]);
            let (whole, now) = (rest.len() / PACKET * PACKET, Instant::now());
            noted.lock().unwrap_or_else(|e| e.into_inner()).extend(rest[..whole].chunks(PACKET).map(|p| (p.to_vec(), now)));
            rest.drain(..whole);
            if input.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    });
    let mut sorted = runtime.block_on(async {
        let client = Client::connect(&address).await?;
        let mut reader = loop {
            match Reader::open(&client, "bench", "camera", From::Head).await {
                Ok(reader) => break reader,
                // The ingester makes it.
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        };
        let (mut latencies, end) = (Vec::new(), Instant::now() + Duration::from_secs(crate::streams::WARM + SECONDS));
        while Instant::now() < end {
            let event = tokio::time::timeout(Duration::from_secs(20), reader.next()).await.context("the camera sends nothing")??.context("the stream goes on")?;
            let (now, last) = (Instant::now(), &event.data[event.data.len() - PACKET..]);
            if let Some(left) = passed.lock().unwrap_or_else(|e| e.into_inner()).get(last) {
                latencies.push(now.duration_since(*left).as_micros() as u64);
            }
        }
        anyhow::Ok(latencies.split_off(latencies.len().min(30 * crate::streams::WARM as usize)))
    })?;
    sorted.sort_unstable();
    let figures = [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")];
    Ok(figures.map(|(part, name)| figure(&format!("stream-video.encoder.{name}"), "ms", "reported", at(&sorted, part), None, sorted.len(), true)).into())
}

/// Writes events of `bytes` at a rate until it is told to stop, and notes how long each took.
async fn load(client: &Client, stream: &str, rate: u64, bytes: usize, clock: Clock, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut writer = Writer::open(client, "bench", stream, Some(Arc::new({
        let clock = clock.clone();
        move |due| clock.note(due)
    })))
    .await?;
    let (event, mut n) = (vec![7; bytes], 0);
    while !stop.load(Relaxed) {
        let now = clock.start.elapsed().as_micros() as u64;
        while n * 1_000_000 / rate <= now && !stop.load(Relaxed) {
            writer.append(&(n % 100).to_string(), &event, n * 1_000_000 / rate).await?;
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
        task.await??;
        let meanwhile = clock.sorted();
        out.push(figure("stream-scale.by-hand", "ms", "<= 200", visible, None, 1, visible <= 200.0));
        let (a, b) = (at(&meanwhile, 0.99), at(&steady, 0.99));
        out.push(figure("stream-scale.p99-meanwhile", "ms", "ratio <= 2", a, Some(b), meanwhile.len(), a <= 2.0 * b));

        let policy = ScalingPolicy { scale_type: 2, target_rate: 500, scale_factor: 4, min_num_segments: 1 };
        client.create_stream("bench", "by-rate", policy).await?;
        let (began, clock) = (Instant::now(), Clock::new(Instant::now()));
        let (stop, task) = run(&clock, 0, "by-rate").await;
        while client.current("bench", "by-rate").await?.len() < 4 && began.elapsed() < Duration::from_secs(60) {
            sleep(Duration::from_millis(50)).await;
        }
        let took = began.elapsed().as_secs_f64();
        stop.store(true, Relaxed);
        task.await??;
        out.push(figure("stream-scale.by-rate", "s", "<= 30", took, None, 1, took <= 30.0));
        anyhow::Ok(())
    })?;
    Ok(out)
}

/// An S3 server with an empty bucket, and what a stream server must have in its environment for it.
fn s3(folder: &Path) -> Result<Option<(Running, Vec<(String, String)>)>> {
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
    let users = json!({"identities": [{"name": "bench", "credentials": [{"accessKey": "benchkey", "secretKey": "benchsecret"}], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}]});
    std::fs::write(folder.join("users.json"), users.to_string())?;
    let path = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new(weed);
    command.args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-master.volumeSizeLimitMB=256", "-volume.max=16"]);
    command.args([format!("-dir={}", path("data")), format!("-s3.config={}", path("users.json")), format!("-filer.localSocket={}", path("filer")), format!("-s3.localSocket={}", path("s3"))]);
    for (i, name) in ["master.port", "volume.port", "filer.port", "s3.port", "master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc"].iter().enumerate() {
        command.arg(format!("-{name}={}", ports[i]));
    }
    let server = Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let endpoint = format!("http://127.0.0.1:{}", ports[3]);
    let signed = ["-fsS", "--noproxy", "*", "-m", "5", "-o", "/dev/null", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "benchkey:benchsecret", "-X", "PUT"];
    let end = Instant::now() + Duration::from_secs(60);
    while !Command::new("curl").args(signed).arg(format!("{endpoint}/bench")).stderr(Stdio::null()).status()?.success() {
        if Instant::now() > end {
            bail!("the S3 server is not up");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let of = |name: &str, value: &str| (format!("CLOUDSKIN_GEDS__S3_{name}"), value.to_string());
    Ok(Some((server, vec![of("ENDPOINT", &endpoint), of("ACCESS_KEY", "benchkey"), of("SECRET_KEY", "benchsecret"), of("ALLOW_HTTP", "true"), of("PATH_STYLE", "true")])))
}

/// A reader from the beginning, out of S3, while a writer goes on.
pub fn catchup() -> Result<Vec<Value>> {
    const BYTES: u64 = 600_000_000;
    const EVENT: usize = 10_000;
    let (runtime, folder) = (runtime()?, folder()?);
    let Some((_s3, environment)) = s3(folder.path())? else {
        return Ok(vec![json!({"name": "stream-catchup", "not_run": "the S3 server is missing; setup/setup.sh test installs it"})]);
    };
    let (_server, address) = crate::streams::serve_with(&folder.path().join("ours"), &["--long-term", "s3:bench"], &environment)?;
    runtime.block_on(async {
        let client = fresh(&address, "history").await?;
        let mut writer = Writer::open(&client, "bench", "history", None).await?;
        for n in 0..BYTES / EVENT as u64 {
            let mut event = vec![n as u8; EVENT];
            event[..8].copy_from_slice(&n.to_be_bytes());
            writer.append("key", &event, n).await?;
        }
        writer.flush().await?;
        // What the log has is read from there: until long-term storage has it, this measures nothing.
        sleep(Duration::from_secs(45)).await;
        client.create_stream("bench", "tail", ScalingPolicy { min_num_segments: 1, ..ScalingPolicy::default() }).await?;
        let run = async |reading: bool| {
            let (stop, clock) = (Arc::new(AtomicBool::new(false)), Clock::new(Instant::now()));
            let (s, c, writing) = (stop.clone(), clock.clone(), client.clone());
            let task = tokio::spawn(async move { load(&writing, "tail", 1000, 1000, c, s).await });
            sleep(Duration::from_secs(crate::streams::WARM)).await;
            let began = Instant::now();
            let mut n = 0u64;
            if reading {
                let mut reader = Reader::open(&client, "bench", "history", From::Head).await?;
                while n < BYTES / EVENT as u64 {
                    let event = reader.next().await?.context("the stream goes on")?;
                    if event.data[..8] != n.to_be_bytes() || event.data[EVENT - 1] != n as u8 {
                        bail!("event {n} is another one");
                    }
                    n += 1;
                }
            } else {
                sleep(Duration::from_secs(5)).await;
            }
            let took = began.elapsed().as_secs_f64();
            stop.store(true, Relaxed);
            task.await??;
            anyhow::Ok((BYTES as f64 / 1e6 / took, clock.sorted()))
        };
        let (_, alone) = run(false).await?;
        let (rate, beside) = run(true).await?;
        let (a, b) = (at(&beside, 0.99), at(&alone, 0.99));
        Ok(vec![
            figure("stream-catchup", "MB/s", ">= 300 (95 published)", rate, None, (BYTES / EVENT as u64) as usize, rate >= 300.0),
            figure("stream-catchup.tail-p99", "ms", "ratio < 1.25", a, Some(b), beside.len(), a < 1.25 * b),
        ])
    })
}

/// Long-term storage away at 15 MB/s, at a tenth of the published sizes: how long writers go on, and whether all is there afterwards.
pub fn outage() -> Result<Vec<Value>> {
    const RATE: u64 = 1500;
    const EVENT: usize = 10_000;
    let (runtime, folder) = (runtime()?, folder()?);
    // A file where the folder was stands for a storage that does not answer.
    let long_term = format!("file:{}", folder.path().join("there").display());
    std::fs::create_dir(folder.path().join("there"))?;
    let (server, address) = serve(&folder.path().join("ours"), &["--long-term", &long_term, "--backlog", "650MB"])?;
    std::fs::remove_dir_all(folder.path().join("there"))?;
    std::fs::write(folder.path().join("there"), "")?;
    runtime.block_on(async {
        let client = fresh(&address, "outage").await?;
        let acknowledged = Arc::new(AtomicU64::new(0));
        let count = acknowledged.clone();
        let mut writer = Writer::open(&client, "bench", "outage", Some(Arc::new(move |_| { count.fetch_add(1, Relaxed); }))).await?;
        let (start, mut n, mut held) = (Instant::now(), 0u64, None);
        // Until nothing has been acknowledged for a second.
        let mut last = (0, Instant::now());
        while held.is_none() && start.elapsed() < Duration::from_secs(120) {
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
        std::fs::remove_file(folder.path().join("there"))?;
        std::fs::create_dir(folder.path().join("there"))?;
        let back = Instant::now();
        writer.flush().await?;
        let mut reader = Reader::open(&client, "bench", "outage", From::Head).await?;
        for want in 0..n {
            let event = reader.next().await?.context("the stream goes on")?;
            if event.data[..8] != want.to_be_bytes() || event.data[8..].iter().any(|b| *b != want as u8) {
                bail!("event {want} is another one");
            }
        }
        let caught_up = back.elapsed().as_secs_f64();
        Ok(vec![
            figure("stream-outage.tenth", "s", ">= 40 (29.2 published, at a tenth)", held, None, n as usize, held >= 40.0),
            figure("stream-outage.memory", "MB", "<= 150", memory / 1e6, None, 1, memory <= 150e6),
            figure("stream-outage.all-read-after", "s", "reported; no write failed, every byte equal", caught_up, None, n as usize, true),
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
