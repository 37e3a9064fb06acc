//! `geds-meta`: the namenode in a process of its own, asked over its UNIX socket.
//!
//! A million durable creates and as many lookups, pipelined by tasks that each wait for their answer; the memory of the process before and after; one lookup at a
//! time, by a thread that waits and by a task, against a bare round trip of as many bytes over a socket of the same process, alternately. Then both are started again: the namenode, and a node with a million objects.

use crate::{figure, median};
use anyhow::{Context, Result, ensure};
use base::{
    SiteId,
    identity::{Authority, site_name},
    unit::Bytes,
};
use geds::{BucketName, Caller, Catalog, Key, Namenode, NewObject, Node, ObjectId, Options, RemoteCatalog};
use serde_json::Value;
use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// How this program is called to be the namenode.
pub const SERVER: &str = "geds-meta-server";
const KEYS: usize = 1_000_000;
/// Creates and lookups on their way at a time.
const CREATING: usize = 4096;
const LOOKING: usize = 1024;
const ROUND_TRIPS: usize = 20_000;
/// Bytes of a lookup's question and answer with its frame, about.
const QUESTION: usize = 48;
const ANSWER: usize = 110;

/// The namenode in `folder`, and a thread that answers bytes with bytes. Until it is killed.
pub fn serve(folder: &Path) -> Result<()> {
    let bare = UnixListener::bind(folder.join("bare"))?;
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = bare.accept() {
            let mut question = [0; QUESTION];
            while stream.read_exact(&mut question).is_ok() && stream.write_all(&[1; ANSWER]).is_ok() {}
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let namenode = Namenode::open(folder.join("names")).await?;
        namenode.listen(&folder.join("socket"), Caller::Hub).await?;
        Ok(())
    })
}

struct Server(Child);

impl Server {
    fn start(folder: &Path) -> Result<Server> {
        for socket in ["socket", "bare"] {
            let _ = std::fs::remove_file(folder.join(socket));
        }
        Ok(Server(Command::new(std::env::current_exe()?).arg(SERVER).arg(folder).stdout(Stdio::null()).spawn()?))
    }
    /// Bytes that the process has in memory.
    fn memory(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? * 1024.0)
    }
}
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn name(n: usize) -> Key {
    // 30 bytes, not in order.
    let n = n.wrapping_mul(7_368_787) % KEYS;
    Key::new(format!("shuffle/stage-{:04}/part-{n:07}", n % 512)).expect("a valid key")
}

async fn meet(catalog: &RemoteCatalog) -> Result<()> {
    let start = Instant::now();
    loop {
        match catalog.create_bucket(&BucketName::new("data")?).await {
            Ok(_) => return Ok(()),
            Err(e) if start.elapsed() > Duration::from_secs(60) => return Err(e.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// `tasks` tasks that share `n` calls. Calls per second; a call that fails is no figure.
async fn pipelined<F: Future<Output = Result<()>> + 'static>(tasks: usize, n: usize, call: impl Fn(usize) -> F + Clone + 'static) -> Result<f64> {
    let local = tokio::task::LocalSet::new();
    let start = Instant::now();
    let all: Vec<_> = (0..tasks)
        .map(|task| {
            let call = call.clone();
            local.spawn_local(async move {
                for k in (task..n).step_by(tasks) {
                    call(k).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    local
        .run_until(async {
            for task in all {
                task.await??;
            }
            anyhow::Ok(())
        })
        .await?;
    Ok(n as f64 / start.elapsed().as_secs_f64())
}

pub fn geds_meta() -> Result<Vec<Value>> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(folder.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let catalog = RemoteCatalog::local(folder.path().join("socket"));
    let mut figures = Vec::new();
    runtime.block_on(meet(&catalog))?;
    let before = server.memory()?;

    let creating = catalog.clone();
    let creates = runtime.block_on(pipelined(CREATING, KEYS, move |n| {
        let catalog = creating.clone();
        async move {
            let site = SiteId::new("edge")?;
            let id = ObjectId((n as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835));
            let new = NewObject { id, size: 4096, checksum: n as u64, site, if_absent: true };
            catalog.seal(&BucketName::new("data")?, &name(n), new).await?;
            Ok(())
        }
    }))?;
    figures.push(figure("geds-meta.creates", "1/s", ">= 50000", creates, None, KEYS, creates >= 50_000.0));
    let per_key = (server.memory()? - before) / KEYS as f64;
    figures.push(figure("geds-meta.memory-per-key", "B", "<= 200", per_key, None, KEYS, per_key <= 200.0));

    let looking = catalog.clone();
    let lookups = runtime.block_on(pipelined(LOOKING, KEYS, move |n| {
        let catalog = looking.clone();
        async move {
            catalog.lookup(&BucketName::new("data")?, &name(n.wrapping_mul(31))).await?;
            Ok(())
        }
    }))?;
    figures.push(figure("geds-meta.lookups", "1/s", ">= 300000", lookups, None, KEYS, lookups >= 300_000.0));
    let many = catalog.clone();
    let batched = 100.0
        * runtime.block_on(pipelined(16, KEYS / 100, move |n| {
            let catalog = many.clone();
            async move {
                let bucket = BucketName::new("data")?;
                let keys: Vec<_> = (0..100).map(|k| (bucket.clone(), name(n * 100 + k))).collect();
                ensure!(catalog.lookups(&keys).await?.iter().all(Option::is_some), "a key that was created is not found");
                Ok(())
            }
        }))?;
    figures.push(figure("geds-meta.lookups-in-hundreds", "1/s", ">= 300000", batched, None, KEYS, batched >= 300_000.0));

    let mut bare = UnixStream::connect(folder.path().join("bare"))?;
    let (mut ours, mut threads, mut peer) = (Vec::new(), Vec::new(), Vec::new());
    let bucket = BucketName::new("data")?;
    for round in 0..ROUND_TRIPS / 500 {
        runtime.block_on(async {
            for n in 0..500 {
                let key = name(round * 500 + n);
                let start = Instant::now();
                catalog.lookup(&bucket, &key).await?;
                ours.push(start.elapsed().as_secs_f64() * 1e6);
            }
            anyhow::Ok(())
        })?;
        for n in 0..500 {
            let key = name(round * 500 + n);
            let start = Instant::now();
            // One that goes another way for once is no figure.
            if let Some(answer) = catalog.lookup_blocking(&bucket, &key) {
                answer?;
                threads.push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
        let mut answer = [0; ANSWER];
        for _ in 0..500 {
            let start = Instant::now();
            bare.write_all(&[1; QUESTION])?;
            bare.read_exact(&mut answer)?;
            peer.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    ensure!(threads.len() * 10 > ROUND_TRIPS * 9, "only {} of {ROUND_TRIPS} lookups were a thread's own", threads.len());
    let (asked, threads, ours, peer) = (threads.len(), median(threads), median(ours), median(peer));
    figures.push(figure("geds-meta.lookup.p50", "µs", "ratio <= 1.3", ours, Some(peer), ROUND_TRIPS, ours / peer <= 1.3));
    figures.push(figure("geds-meta.lookup-by-thread.p50", "µs", "ratio <= 1.3", threads, Some(peer), asked, threads / peer <= 1.3));

    drop(server);
    let start = Instant::now();
    server = Server::start(folder.path())?;
    runtime.block_on(meet(&catalog))?;
    let restart = start.elapsed().as_secs_f64();
    figures.push(figure("geds-meta.restart-after-kill", "s", "<= 3", restart, None, 1, restart <= 3.0));
    drop(server);
    figures.push(node_restart()?);
    Ok(figures)
}

/// A node with as many small objects is started again: its journal, and what the namenode says of each of them, are read before it answers.
fn node_restart() -> Result<Value> {
    let folder = tempfile::tempdir_in(crate::root().join("target"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (bucket, site) = (BucketName::new("data")?, SiteId::new("edge")?);
    let dialer = Authority::open(&folder.path().join("ca"))?.issue(&site_name(&site))?.dialer()?;
    let open = |namenode: &Namenode| {
        let options = Options {
            site: site.clone(),
            folder: folder.path().join("edge"),
            limit: Bytes(4 << 30),
            dialer: dialer.clone(),
            catalog: Arc::new(namenode.clone()),
            persist: None,
            address: String::new(),
        };
        runtime.block_on(Node::open(options))
    };
    let namenode = runtime.block_on(Namenode::open(folder.path().join("names")))?;
    runtime.block_on(namenode.create_bucket(&bucket))?;
    let node = open(&namenode)?;
    let blocking = node.blocking();
    for n in 0..KEYS {
        let mut writer = blocking.create(&bucket, &name(n))?;
        writer.write_at(0, &(n as u64).to_le_bytes())?;
        drop(writer.seal_here()?); // published behind this
    }
    runtime.block_on(node.settle());
    drop((node, blocking));
    // The tasks of the one before end a moment after it.
    let end = Instant::now() + Duration::from_secs(60);
    let (node, restart) = loop {
        let start = Instant::now();
        match open(&namenode) {
            Err(geds::Error::BadValue { what: "folder", .. }) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            opened => break (opened?, start.elapsed().as_secs_f64()),
        }
    };
    let last = node.blocking().open(&bucket, &name(KEYS - 1))?;
    ensure!(last.bytes() == (KEYS as u64 - 1).to_le_bytes(), "an object is another after the restart");
    Ok(figure("geds-meta.node-restart", "s", "<= 3", restart, None, KEYS, restart <= 3.0))
}
