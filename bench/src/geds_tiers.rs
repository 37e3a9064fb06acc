//! The object store between its tiers: another node beside a bare socket and `sendfile`, a spill that must not be felt, an outage of the store behind it, and what encryption costs.
//!
//! All is on one machine: the "network" is loopback, the two nodes and their peers share its processors, and the persistency tier is a folder in memory (`/dev/shm`) where there is one, so that
//! it does not share the disk. The outage is the published experiment at 1:10 (161 MB of cache and 537 MB of store, here as one limit of the disk; 15 MB/s), and at its full size, with SeaweedFS as the
//! store, which has what processor time others leave of one core.

use crate::{
    figure,
    geds::{data, memmap, quantile},
    root,
};
use anyhow::{Context, Result, bail, ensure};
use base::{
    SiteId,
    identity::{Authority, peer_name, site_name},
    unit::Bytes,
};
use geds::{ALPN, Blocking, BucketName, BucketPolicy, Catalog, Key, Mode, Namenode, Node, Options, PeerClient, Persist, Range, RestKey, S3Options, Secret, SpillOptions, Tuning};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

const MB: u64 = 1_000_000;
/// What the published experiment writes.
const INGEST: u64 = 15 * MB;

/// An authority, a namenode and a bucket.
struct Ground {
    runtime: tokio::runtime::Runtime,
    disk: tempfile::TempDir,
    memory: tempfile::TempDir,
    authority: Authority,
    namenode: Namenode,
    bucket: BucketName,
}

impl Ground {
    fn new() -> Result<Ground> {
        let target = root().join("target");
        fs::create_dir_all(&target)?;
        let disk = tempfile::Builder::new().prefix("bench-geds").tempdir_in(target)?;
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let namenode = runtime.block_on(Namenode::open(memory.path().join("names")))?;
        let bucket = BucketName::new("bench")?;
        runtime.block_on(namenode.create_bucket(&bucket))?;
        Ok(Ground { authority: Authority::open(&memory.path().join("ca"))?, runtime, disk, memory, namenode, bucket })
    }

    fn store(&self) -> PathBuf {
        self.memory.path().join("store")
    }

    /// A node that serves peers, and its address.
    fn node(&self, name: &str, limit: u64, persist: bool, tuning: Tuning) -> Result<(Node, String)> {
        let persist = persist.then(|| Persist::folder(self.store())).transpose()?;
        self.node_with(name, limit, persist, tuning)
    }

    fn node_with(&self, name: &str, limit: u64, persist: Option<Persist>, tuning: Tuning) -> Result<(Node, String)> {
        let site = SiteId::new(name)?;
        let own = self.authority.issue(&site_name(&site))?;
        let (dialer, acceptor) = (own.dialer()?, own.acceptor(&[ALPN])?);
        self.runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?.to_string();
            let options = Options {
                site,
                folder: self.disk.path().join(name),
                limit: Bytes(limit),
                dialer,
                catalog: Arc::new(self.namenode.clone()),
                persist,
                address: address.clone(),
            };
            let node = Node::open_with(options, tuning).await?;
            let serving = node.clone();
            tokio::spawn(async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    let (acceptor, node) = (acceptor.clone(), serving.clone());
                    let _ = tcp.set_nodelay(true);
                    tokio::spawn(async move {
                        let Ok(stream) = acceptor.accept(tcp).await else { return };
                        let stream = stream.into();
                        let peer = peer_name(&stream).unwrap_or_default();
                        // It ends when the benchmark's client does.
                        let _ = node.serve_peer(stream, &peer).await;
                    });
                }
            });
            anyhow::Ok((node, address))
        })
    }
}

fn put(node: &Blocking, bucket: &BucketName, key: &Key, content: &[u8]) -> Result<()> {
    let mut writer = node.create(bucket, key)?;
    writer.write_at(0, content)?;
    node.seal(writer)?;
    Ok(())
}

/// Sends a file through a socket without a copy in this process.
fn send_file(file: &File, socket: &TcpStream, len: u64) -> Result<()> {
    let mut offset: libc::off_t = 0;
    while (offset as u64) < len {
        // SAFETY: both descriptors are open as long as they are borrowed, and the offset is ours.
        let sent = unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &mut offset, (len - offset as u64) as usize) };
        if sent <= 0 {
            bail!("sendfile: {}", std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Answers each byte with a part of the file as long as the number that follows it.
fn bare_server(path: &Path) -> Result<std::net::SocketAddr> {
    let (listener, file) = (TcpListener::bind("127.0.0.1:0")?, File::open(path)?);
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { return };
            let _ = socket.set_nodelay(true);
            let mut ask = [0; 8];
            while socket.read_exact(&mut ask).is_ok() {
                if send_file(&file, &socket, u64::from_le_bytes(ask)).is_err() {
                    break;
                }
            }
        }
    });
    Ok(address)
}

/// The same through mutual TLS and nothing else: what encrypting costs by itself. Threads that block, as the bare server's.
fn bare_tls(ground: &Ground, path: &Path) -> Result<rustls::StreamOwned<rustls::ClientConnection, TcpStream>> {
    let file = File::open(path)?;
    // SAFETY: the file was made by this benchmark, in a folder of its own, and nobody changes it any more.
    let mapping = unsafe { memmap(&file)? };
    let name = site_name(&SiteId::new("edge")?);
    let own = ground.authority.issue(&name)?;
    let (accepted, dialled) = ground.runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let (address, acceptor, dialer) = (listener.local_addr()?.to_string(), own.acceptor(&[ALPN])?, own.dialer()?);
        let accepting = async {
            let (tcp, _) = listener.accept().await?;
            tcp.set_nodelay(true)?;
            anyhow::Ok(acceptor.accept(tcp).await?)
        };
        let dialling = async { anyhow::Ok(dialer.dial(&name, &address, ALPN).await?) };
        tokio::try_join!(accepting, dialling)
    })?;
    let blocking = |tcp: tokio::net::TcpStream| -> Result<TcpStream> {
        let tcp = tcp.into_std()?;
        tcp.set_nonblocking(false)?;
        Ok(tcp)
    };
    let (tcp, session) = accepted.into_inner();
    let mut server = rustls::StreamOwned::new(session, blocking(tcp)?);
    thread::spawn(move || {
        let mut ask = [0; 8];
        while server.read_exact(&mut ask).is_ok() {
            let len = u64::from_le_bytes(ask) as usize;
            if server.write_all(&mapping[..len]).and_then(|()| server.flush()).is_err() {
                break;
            }
        }
    });
    let tokio_rustls::TlsStream::Client(dialled) = dialled else { bail!("who dials is the client") };
    let (tcp, session) = dialled.into_inner();
    Ok(rustls::StreamOwned::new(session, blocking(tcp)?))
}

/// Asks for so many bytes, and takes them.
fn ask(socket: &mut (impl Read + Write), len: usize, into: &mut [u8]) -> Result<()> {
    socket.write_all(&(len as u64).to_le_bytes())?;
    let mut rest = len;
    while rest > 0 {
        let most = rest.min(into.len());
        match socket.read(&mut into[..most])? {
            0 => bail!("the bare server hung up"),
            n => rest -= n,
        }
    }
    Ok(())
}

/// 4 KiB and 1 GiB from another node, beside a bare socket that sends the same bytes of a file, and beside TLS alone.
pub fn peer() -> Result<Vec<Value>> {
    const SMALL: usize = 4096;
    const LARGE: usize = 1 << 30;
    const ASKS: usize = 4000;
    const ROUNDS: usize = 5;
    let ground = Ground::new()?;
    let (edge, address) = ground.node("edge", 3 << 30, false, Tuning::default())?;
    let (cloud, _) = ground.node("cloud", 3 << 30, false, Tuning::default())?;
    let (small, large) = (Key::new("small")?, Key::new("large")?);
    put(&edge.blocking(), &ground.bucket, &small, &data(1, SMALL))?;
    let content = data(2, LARGE);
    put(&edge.blocking(), &ground.bucket, &large, &content)?;
    let plain = ground.disk.path().join("plain");
    fs::write(&plain, &content)?;
    drop(content);
    let server = bare_server(&plain)?;
    let mut socket = TcpStream::connect(server)?;
    socket.set_nodelay(true)?;
    let dialer = ground.authority.issue(&site_name(&SiteId::new("cloud")?))?.dialer()?;
    // Who asks is another program, with a thread and a runtime of its own.
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut client = own.block_on(PeerClient::dial(&dialer, &SiteId::new("edge")?, &address))?;
    let mut tls = bare_tls(&ground, &plain)?;
    let mut into = vec![0; 256 << 10];
    let mut ours = |key: &Key, len: usize| -> Result<()> {
        own.block_on(async {
            let (_, mut download) = client.get(&ground.bucket, key, Range::default()).await?;
            let mut got = 0;
            while let Some(chunk) = download.chunk().await? {
                got += chunk.len();
            }
            ensure!(got == len, "{got} bytes of {len} came");
            Ok(())
        })
    };
    let (mut o, mut p, mut t) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ASKS / 100 {
        for (n, samples) in [&mut o, &mut p, &mut t].into_iter().enumerate() {
            for _ in 0..100 {
                let start = Instant::now();
                match n {
                    0 => ours(&small, SMALL)?,
                    1 => ask(&mut socket, SMALL, &mut into)?,
                    _ => ask(&mut tls, SMALL, &mut into)?,
                }
                samples.push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    let (by_us, by_socket, by_tls) = (quantile(&mut o, 0.5), quantile(&mut p, 0.5), quantile(&mut t, 0.5));
    let mut out = vec![
        figure("geds-peer.4KiB.p50", "µs", "ratio <= 1.5", by_us, Some(by_socket), o.len(), by_us / by_socket <= 1.5),
        figure("geds-peer.4KiB.tls.p50", "µs", "reported", by_us, Some(by_tls), o.len(), true),
    ];
    let (mut o, mut p, mut t, mut kept) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let rate = |start: Instant| LARGE as f64 / start.elapsed().as_secs_f64() / 1e6;
    for round in 0..ROUNDS {
        for turn in 0..3 {
            let start = Instant::now();
            match (round + turn) % 3 {
                0 => {
                    ours(&large, LARGE)?;
                    o.push(rate(start));
                }
                1 => {
                    ask(&mut socket, LARGE, &mut into)?;
                    p.push(rate(start));
                }
                _ => {
                    ask(&mut tls, LARGE, &mut into)?;
                    t.push(rate(start));
                }
            }
        }
        // What a reader on another node waits for: fetched in ranges, checked, durable and recorded.
        let start = Instant::now();
        drop(cloud.blocking().open(&ground.bucket, &large)?);
        kept.push(rate(start));
        let id = cloud.blocking().stat(&ground.bucket, &large)?.id;
        let own = ground.authority.issue(base::identity::HUB)?.dialer()?;
        let there = ground.runtime.block_on(ground.namenode.lookup(&ground.bucket, &large))?;
        let holder = there.sites.iter().find(|holder| holder.site.as_str() == "cloud").context("the cloud holds a copy")?;
        ground.runtime.block_on(async { PeerClient::dial(&own, &holder.site, &holder.address).await?.free(id).await })?;
    }
    let (by_us, by_sendfile) = (quantile(&mut o, 0.5), quantile(&mut p, 0.5));
    out.push(figure("geds-peer.large", "MB/s", "ratio >= 0.9", by_us, Some(by_sendfile), ROUNDS, by_us / by_sendfile >= 0.9));
    let by_tls = quantile(&mut t, 0.5);
    out.push(figure("geds-peer.large.tls", "MB/s", "reported", by_us, Some(by_tls), ROUNDS, true));
    let kept = quantile(&mut kept, 0.5);
    out.push(figure("geds-peer.large.kept", "MB/s", "reported", kept, Some(by_sendfile), ROUNDS, true));
    Ok(out)
}

fn spilling(on: bool) -> Tuning {
    Tuning { spill: SpillOptions { automatic: on, high: 0.3, low: 0.2, bandwidth: None }, ..Tuning::default() }
}

/// Writes objects of 1 MiB at a rate for a while. Bytes per second, and the seconds that each write took.
fn ingest(node: &Blocking, bucket: &BucketName, run: &str, rate: Option<u64>, time: Duration) -> Result<(f64, Vec<f64>)> {
    let content = data(5, 1 << 20);
    let (start, mut samples, mut n) = (Instant::now(), Vec::new(), 0u64);
    while start.elapsed() < time {
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64((n * content.len() as u64) as f64 / rate as f64);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
        let began = Instant::now();
        put(node, bucket, &Key::new(format!("{run}/{n}"))?, &content)?;
        samples.push(began.elapsed().as_secs_f64());
        n += 1;
    }
    Ok(((n * content.len() as u64) as f64 / start.elapsed().as_secs_f64(), samples))
}

/// Waits until what was deleted has left the disk. Its files go behind the call, and a file system that discards freed blocks lets the next `fdatasync` pay for it: 60 ms for
/// a segment of 64 MB, seen under the turn that came next.
fn settle(node: &Node) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while node.disk().charged > node.segment_bytes() {
        ensure!(Instant::now() < end, "{} bytes are still on the disk 30 s after they were deleted", node.disk().charged);
        thread::sleep(Duration::from_millis(10));
    }
    crate::calm();
    Ok(())
}

/// Ingest with spilling on against off, in turns: at 15 MB/s and at 80 % of what goes at most.
pub fn spill() -> Result<Vec<Value>> {
    const ROUNDS: usize = 4;
    let ground = Ground::new()?;
    // The one that spills has to all the time; the other has room for all.
    let (on, _) = ground.node("on", 200 * MB, true, spilling(true))?;
    let (off, _) = ground.node("off", 8 << 30, true, spilling(false))?;
    let time = Duration::from_secs(4);
    let most = ingest(&off.blocking(), &ground.bucket, "most", None, time)?.0;
    ground.runtime.block_on(off.delete_prefix(&ground.bucket, "most"))?;
    settle(&off)?;
    let mut out = Vec::new();
    for (name, rate) in [("15MBps", INGEST), ("80percent", (most * 0.8) as u64)] {
        let (mut rates, mut times) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for round in 0..ROUNDS {
            for turn in [round % 2, (round + 1) % 2] {
                let node = [&on, &off][turn].blocking();
                let run = format!("{name}-{turn}-{round}");
                let (got, mut took) = ingest(&node, &ground.bucket, &run, Some(rate), time)?;
                rates[turn].push(got / 1e6);
                times[turn].append(&mut took);
                ground.runtime.block_on(node.node().delete_prefix(&ground.bucket, &run))?;
                settle(node.node())?;
            }
        }
        let [mut on, mut off] = rates;
        let (with, without) = (quantile(&mut on, 0.5), quantile(&mut off, 0.5));
        out.push(figure(&format!("geds-spill.{name}.rate"), "MB/s", "ratio > 0.99", with, Some(without), ROUNDS, with / without > 0.99));
        let [mut on, mut off] = times;
        let (with, without) = (quantile(&mut on, 0.99) * 1e3, quantile(&mut off, 0.99) * 1e3);
        out.push(figure(&format!("geds-spill.{name}.write.p99"), "ms", "ratio < 1.05", with, Some(without), on.len(), with / without < 1.05));
    }
    Ok(out)
}

/// PUTs of the same bytes by plain HTTP over so many connections. Bytes per second.
fn bare_puts(endpoint: &str, objects: u64, content: &[u8], connections: u64) -> Result<f64> {
    let address = endpoint.strip_prefix("http://").context("the server speaks plain HTTP")?;
    let call = |socket: &mut TcpStream, head: String, body: &[u8], into: &mut Vec<u8>| -> Result<()> {
        socket.write_all(head.as_bytes())?;
        socket.write_all(body)?;
        into.clear();
        let mut piece = [0; 64 << 10];
        let mut end: Option<(usize, usize)> = None;
        loop {
            if let Some((at, len)) = end
                && into.len() >= at + len
            {
                return Ok(());
            }
            match socket.read(&mut piece)? {
                0 => bail!("the S3 server hung up"),
                n => into.extend_from_slice(&piece[..n]),
            }
            if end.is_none()
                && let Some(at) = into.windows(4).position(|w| w == b"\r\n\r\n")
            {
                let head = String::from_utf8_lossy(&into[..at]).to_lowercase();
                ensure!(head.starts_with("http/1.1 200"), "the S3 server said: {head}");
                let len = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
                end = Some((at + 4, len));
            }
        }
    };
    let start = Instant::now();
    thread::scope(|scope| {
        let all: Vec<_> = (0..connections)
            .map(|first| {
                scope.spawn(move || -> Result<()> {
                    let (mut socket, mut answer) = (TcpStream::connect(address)?, Vec::new());
                    socket.set_nodelay(true)?;
                    for n in (first..objects).step_by(connections as usize) {
                        let head = format!("PUT /bench/puts/{n} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", content.len());
                        call(&mut socket, head, content, &mut answer)?;
                    }
                    Ok(())
                })
            })
            .collect();
        all.into_iter().try_for_each(|one| one.join().expect("a thread of the benchmark panicked"))
    })?;
    Ok((objects * content.len() as u64) as f64 / start.elapsed().as_secs_f64())
}

/// [`outage_of`] a tenth of the published sizes.
pub fn outage() -> Result<Vec<Value>> {
    outage_of("geds-outage", 1)
}

/// [`outage_of`] the published sizes.
pub fn outage_full() -> Result<Vec<Value>> {
    outage_of("geds-outage-full", 10)
}

/// A real S3 server is killed while 15 MB/s come in, at so many tenths of the published sizes: how long until a writer is refused, how fast all of it goes there when the server is back, and what becomes of it. At a tenth also how long
/// on a node that is three quarters full of what had been brought there before.
fn outage_of(bench: &str, times: u64) -> Result<Vec<Value>> {
    const OBJECT: usize = 1 << 20;
    const CONNECTIONS: u64 = 4;
    let limit = (161 + 537) * MB * times;
    let ground = Ground::new()?;
    let there = if times > 1 { ground.disk.path() } else { ground.memory.path() }.join("s3");
    fs::create_dir(&there)?;
    let Some((mut s3, _)) = crate::stream_life::s3(&there)? else {
        return Ok(vec![json!({"name": bench, "not_run": "the S3 server is missing; setup/setup.sh test installs it"})]);
    };
    let options = S3Options {
        endpoint: Some(s3.endpoint.clone()),
        bucket: "bench".into(),
        access_key: Secret::new("benchkey"),
        secret_key: Secret::new("benchsecret"),
        path_style: true,
        allow_http: true,
        ..S3Options::default()
    };
    let policy = BucketPolicy { mode: Mode::WriteBehind, ..BucketPolicy::default() };
    let tuning = Tuning { wait: Duration::ZERO, policy, ..Tuning::default() };
    let (edge, _) = ground.node_with("edge", limit, Some(Persist::s3(options.clone())?), tuning.clone())?;
    let node = edge.blocking();
    s3.stop()?;
    let content = data(6, OBJECT);
    // Each differs, so that none can be taken for another. False: there is no room for it.
    let seal = |node: &Blocking, prefix: &str, n: u64| -> Result<bool> {
        let mut writer = node.create(&ground.bucket, &Key::new(format!("{prefix}/{n}"))?)?;
        match writer.write_at(0, &content).and_then(|()| writer.write_at(0, &n.to_le_bytes())) {
            Ok(()) => node.seal(writer)?,
            Err(e) if e.kind() == base::Kind::ResourceExhausted => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        Ok(true)
    };
    // Seconds until there is no room, and how many objects that were.
    let ingest = |node: &Blocking, prefix: &str| -> Result<(f64, u64)> {
        let (start, mut n) = (Instant::now(), 0u64);
        loop {
            thread::sleep(Duration::from_secs_f64((n * OBJECT as u64) as f64 / INGEST as f64).saturating_sub(start.elapsed()));
            if !seal(node, prefix, n)? {
                return Ok((start.elapsed().as_secs_f64(), n));
            }
            n += 1;
        }
    };
    let (stall, n) = ingest(&node, "k")?;
    let capacity = limit as f64 / INGEST as f64;
    let mut out = vec![figure(&format!("{bench}.stall"), "s", "ratio >= 0.95", stall, Some(capacity), 1, stall / capacity >= 0.95)];
    s3.start_again()?;
    let start = Instant::now();
    ground.runtime.block_on(edge.flush(&ground.bucket, "", Duration::from_secs(300 * times)))?;
    let ours = (n * OBJECT as u64) as f64 / start.elapsed().as_secs_f64() / 1e6;
    let puts = bare_puts(&s3.endpoint, n, &content, CONNECTIONS)? / 1e6;
    out.push(figure(&format!("{bench}.drain"), "MB/s", "ratio >= 0.9", ours, Some(puts), n as usize, ours / puts >= 0.9));
    // Every byte is what it was, here and from the store alone.
    ground.runtime.block_on(edge.spill(&ground.bucket, ""))?;
    let mut equal = 0;
    for n in 0..n {
        let object = node.open(&ground.bucket, &Key::new(format!("k/{n}"))?)?;
        equal += usize::from(object.bytes()[..8] == n.to_le_bytes() && object.bytes()[8..] == content[8..]);
    }
    out.push(figure(&format!("{bench}.equal"), "objects", "all", equal as f64, Some(n as f64), n as usize, equal == n as usize));
    if times > 1 {
        return Ok(out);
    }
    drop(node);
    let (full, _) = ground.node_with("full", limit, Some(Persist::s3(options)?), tuning)?;
    let node = full.blocking();
    for n in 0..limit * 3 / 4 / OBJECT as u64 {
        ensure!(seal(&node, "before", n)?, "there is room for object {n}");
    }
    ground.runtime.block_on(full.flush(&ground.bucket, "before", Duration::from_secs(300 * times)))?;
    s3.stop()?;
    let (stall, _) = ingest(&node, "after")?;
    out.push(figure(&format!("{bench}.stall-with-copies"), "s", "ratio >= 0.95", stall, Some(capacity), 1, stall / capacity >= 0.95));
    Ok(out)
}

/// What encryption at rest costs: a node with a key beside one without.
pub fn at_rest() -> Result<Vec<Value>> {
    const SMALL: usize = 4096;
    const SEALS: usize = 3000;
    const LARGE: usize = 64 << 20;
    const ROUNDS: usize = 5;
    let ground = Ground::new()?;
    let key = Some(RestKey::new(&[7; 32]));
    let (with, _) = ground.node("with", 4 << 30, false, Tuning { key, decrypted: 0, ..Tuning::default() })?;
    let (without, _) = ground.node("without", 4 << 30, false, Tuning::default())?;
    let nodes = [with.blocking(), without.blocking()];
    let (small, large) = (data(7, SMALL), data(8, LARGE));
    let (mut sealed, mut opened, mut warm) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let (mut written, mut read) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..ROUNDS {
        for turn in [round % 2, (round + 1) % 2] {
            let node = &nodes[turn];
            let key = |n: usize| Key::new(format!("{turn}/{round}/{n}"));
            let mut wait = Vec::new();
            for n in 0..SEALS {
                let key = key(n)?;
                let start = Instant::now();
                let mut writer = node.create(&ground.bucket, &key)?;
                writer.write_at(0, &small)?;
                wait.push(writer.seal_here()?);
                sealed[turn].push(start.elapsed().as_secs_f64() * 1e6);
            }
            for sealed in wait {
                ground.runtime.block_on(sealed.everywhere())?;
            }
            let mut held = Vec::new();
            for n in 0..SEALS {
                let key = key(n)?;
                // The second open is of one that somebody has open.
                for samples in [&mut opened, &mut warm] {
                    let start = Instant::now();
                    let object = node.open(&ground.bucket, &key)?;
                    samples[turn].push(start.elapsed().as_secs_f64() * 1e6);
                    held.push(object);
                }
            }
            let rate = |start: Instant| LARGE as f64 / start.elapsed().as_secs_f64() / 1e6;
            let key = Key::new(format!("{turn}/{round}/large"))?;
            let start = Instant::now();
            put(node, &ground.bucket, &key, &large)?;
            written[turn].push(rate(start));
            let start = Instant::now();
            let object = node.open(&ground.bucket, &key)?;
            ensure!(object.bytes() == large, "{key} is not what was written");
            read[turn].push(rate(start));
        }
    }
    let mut out = Vec::new();
    let names = [("seal.4KiB.p50", "µs"), ("open.4KiB.p50", "µs"), ("open-again.4KiB.p50", "µs"), ("write.large", "MB/s"), ("read.large", "MB/s")];
    for ((name, unit), [mut with, mut without]) in names.into_iter().zip([sealed, opened, warm, written, read]) {
        let samples = with.len();
        let (with, without) = (quantile(&mut with, 0.5), quantile(&mut without, 0.5));
        out.push(figure(&format!("geds-at-rest.{name}"), unit, "reported", with, Some(without), samples, true));
    }
    Ok(out)
}
