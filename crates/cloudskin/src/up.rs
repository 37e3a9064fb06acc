//! `cloudskin up`: a hub, two agents and a stream server on this machine, each a process of its own, watched until the end.
//!
//! ```text
//! up ── hub          <data>/hub     writes hub/ready.json when its ports are open
//!    ├─ agent edge   <data>/edge    joins once with a token, afterwards with its certificate
//!    ├─ agent cloud  <data>/cloud
//!    └─ streams      <data>/streams the edge's stream server; it needs nobody, so it starts first
//! ```
//!
//! A process that dies is started again after a second, with the same folder and ports; one that dies again and again
//! ends everything. `up.json` tells other commands where the hub is. The children die with `up`, however it dies.
//! Nothing here knows about jobs: what a restarted process finds again is its own matter.

use crate::{
    api::Site,
    args,
    client::{Call, Client},
    failure::{fail, kind, line},
    place::{self, Place, Ready, Running, StreamsReady},
    share::{self, Cores},
    table,
};
use anyhow::Context;
use base::{Kind, unit::Bytes};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, io::Write, net::SocketAddr, os::unix::fs::PermissionsExt, path::{Path, PathBuf}, process::Stdio, time::Duration};
use tokio::{process::{Child, Command}, signal::unix::{SignalKind, signal}, time::{Instant, sleep}};

/// Within this time everything is up or `up` gives up.
const START_MAX: Duration = Duration::from_secs(30);
/// Between a death and the next start.
const PAUSE: Duration = Duration::from_secs(1);
/// A process that dies this often, each time sooner than `STEADY` after its start, stays dead.
const DEATHS_MAX: u32 = 5;
const STEADY: Duration = Duration::from_secs(10);
/// For a clean end; afterwards a process is killed.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Who has the namenode's standby, if that is wanted.
const STANDBY: &str = "cloud";
const TICK: Duration = Duration::from_millis(50);
/// For the hub's answer when all is about to stop.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

/// One process: how to start it, and how it does.
struct Part {
    name: &'static str,
    args: Vec<String>,
    /// Environment: not on the command line, where every user of the machine could read it.
    secrets: Vec<(&'static str, String)>,
    log: PathBuf,
    child: Option<Child>,
    started: Instant,
    deaths: u32,
}

impl Part {
    fn new(name: &'static str, data: &Path, args: Vec<String>) -> Part {
        let log = data.join("logs").join(format!("{name}.log"));
        Part { name, args, secrets: Vec::new(), log, child: None, started: Instant::now(), deaths: 0 }
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).with_context(|| format!("open log {}", self.log.display()))?;
        let mut command = Command::new(executable()?);
        command.args(&self.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        command.envs(self.secrets.iter().map(|(k, v)| (*k, v)));
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "info");
        }
        // Its own group: Ctrl-C reaches `up` alone, which ends the others in order.
        command.process_group(0);
        die_with_parent(&mut command);
        self.child = Some(command.spawn().with_context(|| format!("start {}", self.name))?);
        self.started = Instant::now();
        Ok(())
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).unwrap_or(0)
    }

    /// How it died, if it did.
    fn dead(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        // Who was killed had no time to say why.
        let killed = std::os::unix::process::ExitStatusExt::signal(&status).is_some();
        Some(if killed { status.to_string() } else { format!("{status}: {}", self.last_words()) })
    }

    /// The last line that it wrote, which says why it ended.
    fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(8192)..]).into_owned();
        let last = text.lines().map(str::trim).rfind(|l| !l.is_empty()).unwrap_or("it wrote nothing");
        table::safe(last.strip_prefix("error: ").unwrap_or(last))
    }

    async fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(pid) = child.id() {
            // SAFETY: kill has no memory effects; the child has not been waited for, so the number is still its own.
            unsafe { libc::kill(pid as i32, libc::SIGTERM) };
        }
        if tokio::time::timeout(STOP_MAX, child.wait()).await.is_err() {
            tracing::warn!(part = self.name, "did not end in time and is killed");
            let _ = child.kill().await;
        }
    }
}

/// This program: also when another version has been installed in its place meanwhile.
fn executable() -> anyhow::Result<PathBuf> {
    let named = std::env::current_exe().context("find this executable")?;
    Ok(if named.exists() { named } else { "/proc/self/exe".into() })
}

/// Asks the kernel to end the child when the thread that started it ends. `up` starts children from its main thread only.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl, getppid, and an error without allocation.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            if libc::getppid() as u32 != parent {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

fn unwritable(data: &Path, e: std::io::Error) -> anyhow::Error {
    fail(Kind::PermissionDenied, format!("the data folder {} can't be written: {e}; name another with --data", data.display()))
}

/// By one of these a data folder is known as such: what the platform writes first, or what may be there before.
const OURS: [&str; 7] = ["up.lock", "hub", "identity", "objects", "streams", "cloudskin.toml", "up.json"];

/// Refuses a folder that others may enter and that has things in it (more than a new file system has), none of which is by a name of `ours`: it is another one than was meant, perhaps. `what` and `option` are what
/// it would be, and how another is named.
pub fn not_foreign(folder: &Path, ours: &[&str], what: &str, option: &str) -> anyhow::Result<()> {
    let mode = fs::metadata(folder).map_or(0o700, |about| about.permissions().mode() & 0o7777);
    let other = fs::read_dir(folder).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lost+found"))) && !ours.iter().any(|name| folder.join(name).exists());
    if mode & 0o077 != 0 && other {
        let why = format!("other users may enter {what} {} (mode {mode:o}), and it has other things in it", folder.display());
        return Err(fail(Kind::PermissionDenied, format!("{why}; `chmod 700` it, or name an empty one with {option}")));
    }
    Ok(())
}

/// Makes a data folder that is this user's alone, or says at once that nothing can be written there. It has a token, keys and users' data in it.
pub fn writable(data: &Path) -> anyhow::Result<()> {
    if fs::metadata(data).is_ok_and(|about| !about.is_dir()) {
        return Err(unwritable(data, std::io::ErrorKind::NotADirectory.into()));
    }
    not_foreign(data, &OURS, "the data folder", "--data")?;
    let probe = data.join(".writable");
    let tried = base::identity::private_folder(data).and_then(|()| fs::write(&probe, b"")).and_then(|()| fs::remove_file(&probe));
    tried.map_err(|e| unwritable(data, e))
}

/// Holds the data folder for this process; the lock ends with it, however it ends.
fn lock(data: &Path) -> anyhow::Result<fs::File> {
    writable(data)?;
    let refuse = |e| unwritable(data, e);
    fs::create_dir_all(data.join("logs")).map_err(refuse)?;
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(data.join("up.lock")).map_err(refuse)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(fail(Kind::AlreadyExists, format!("`cloudskin up` is running in {} already; `cloudskin down` stops it, or name another folder with --data", data.display())))
        }
        Err(fs::TryLockError::Error(e)) => Err(refuse(e)),
    }
}

/// Says at once that a port is taken, instead of letting a child die of it.
pub fn free(what: &str, option: &str, address: SocketAddr) -> anyhow::Result<()> {
    let bound = std::net::TcpListener::bind(address);
    bound.map(drop).map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => fail(Kind::FailedPrecondition, format!("{address} is taken, so {what} can't listen there; choose another with {option}, or port 0 for any")),
        _ => fail(Kind::FailedPrecondition, format!("{what} can't listen on {address}: {e}; choose another with {option}")),
    })
}

pub async fn up(place: &Place, options: args::Up) -> anyhow::Result<u8> {
    fs::create_dir_all(&place.data).ok();
    let data = fs::canonicalize(&place.data).unwrap_or_else(|_| place.data.clone());
    let held = lock(&data)?;
    free("HTTP", "--http", options.http)?;
    free("the hub", "--grpc", options.grpc)?;
    if let Some(address) = options.streams {
        free("the stream server", "--streams", address)?;
    }
    if options.detach {
        drop(held);
        return detach(&data, &options).await;
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let _ = fs::remove_file(data.join("up.json"));
    let mut parts = Vec::new();
    let outcome = tokio::select! {
        outcome = watch(&data, &options, &mut parts) => outcome,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    if outcome.is_ok() {
        farewell(&Place::folder(data.clone())).await;
    }
    let _ = fs::remove_file(data.join("up.json"));
    for part in parts.iter_mut().rev() {
        part.stop().await;
    }
    if outcome.is_ok() {
        table::say("stopped\n")?;
    }
    drop(held);
    outcome.map(|()| 0)
}

/// Tells the hub that all is about to stop, so that it gives the true reason afterwards, and the user what becomes of the jobs that run.
async fn farewell(place: &Place) {
    let Ok(client) = place.client() else { return };
    let asked = client.post::<Value>(Call::to("stopping"), &Value::Null, Some(FAREWELL_MAX)).await;
    match asked {
        Ok(told) => drop(table::say(&left(&told))),
        Err(e) => tracing::debug!(why = line(&e), "the hub was not told of the stop"),
    }
}

/// What becomes of the jobs that run when all is stopped.
fn left(told: &Value) -> String {
    let names = |kept: bool| {
        let jobs = told.as_array().into_iter().flatten().filter(|j| j["checkpoint"] == kept);
        jobs.filter_map(|j| j["job"].as_str()).collect::<Vec<_>>()
    };
    let mut text = String::new();
    for (jobs, one, many) in [
        (names(true), "runs; at the next start it goes on from its last checkpoint", "run; at the next start they go on from their last checkpoints"),
        (names(false), "runs and has no checkpoint: it will have failed at the next start", "run and have no checkpoint: they will have failed at the next start"),
    ] {
        match jobs.len() {
            0 => {}
            1 => text += &format!("{} {one}\n", jobs[0]),
            n => text += &format!("{n} jobs ({}) {many}\n", jobs.join(", ")),
        }
    }
    text
}

async fn watch(data: &Path, options: &args::Up, parts: &mut Vec<Part>) -> anyhow::Result<()> {
    let text = data.display().to_string();
    let streams = if options.no_streams { None } else { Some(stream_server(data, options.streams).await?) };
    let told = streams.as_ref().and_then(|(_, ready)| ready.http.clone());
    let hub_args = |http: &str, grpc: &str| {
        let mut args = ["hub", "--data", &text, "--http", http, "--grpc", grpc].map(String::from).to_vec();
        args.extend(told.iter().flat_map(|http| ["--streams".to_string(), http.clone()]));
        if options.standby {
            args.extend(["--standby".into(), STANDBY.into(), "--referee".into(), format!("file:{text}/leader")]);
        }
        args
    };
    parts.push(Part::new("hub", data, hub_args(&options.http.to_string(), &options.grpc.to_string())));
    parts[0].start()?;
    let ready = hub_ready(data, &mut parts[0]).await?;
    // A restarted hub must be found where it was.
    parts[0].args = hub_args(&ready.http, &ready.grpc);
    let token_file = data.join("hub/token");
    let token = fs::read_to_string(&token_file).with_context(|| format!("read {}", token_file.display()))?;
    let client = Client::new(&ready.http, token.trim())?;
    table::say(&format!("hub      ready  pid {}  agents dial {}\n", parts[0].pid(), ready.grpc))?;

    let all = share::allowed()?;
    let (edge, cloud) = share::split(&all);
    let memory = Bytes(share::memory());
    for (name, cores) in [("edge", &edge), ("cloud", &cloud)] {
        let part = agent(name, data, cores, memory, options.slots, &ready.grpc, &client).await?;
        parts.push(part);
        parts.last_mut().expect("pushed in the line before").start()?;
    }
    agents_ready(&client, parts).await?;
    for (part, cores) in parts[1..].iter().zip([&edge, &cloud]) {
        table::say(&format!("{:7}  ready  pid {}  core{} {cores} of {} (one machine, shared by affinity)\n", part.name, part.pid(), if cores.0.len() > 1 { "s" } else { "" }, all.0.len()))?;
    }
    if edge == cloud {
        table::say("this machine has one core, so edge and cloud share it: filling the edge slows the cloud too\n")?;
    }
    let mut controller = None;
    if let Some((part, ready)) = streams {
        table::say(&format!("streams  ready  pid {}  Pravega's controller {}, segment store {}\n", part.pid(), ready.controller, ready.segments))?;
        controller = Some(ready.controller);
        parts.push(part);
    }
    let running = Running { http: ready.http, grpc: ready.grpc, token_file, streams: controller, pids: BTreeMap::new() };
    note(data, &running, parts)?;
    table::say(&format!("dashboard  {}\n", client.dashboard()))?;
    loop {
        sleep(TICK).await;
        for i in 0..parts.len() {
            if let Some(status) = parts[i].dead() {
                revive(&mut parts[i], &status).await?;
                note(data, &running, parts)?;
            }
        }
    }
}

async fn revive(part: &mut Part, status: &str) -> anyhow::Result<()> {
    part.deaths = if part.started.elapsed() < STEADY { part.deaths + 1 } else { 1 };
    if part.deaths >= DEATHS_MAX {
        return Err(fail(Kind::Unavailable, format!("{} died {DEATHS_MAX} times in a row: {status}; its log is {}", part.name, part.log.display())));
    }
    eprintln!("{} died: {status}; it starts again in {} s; its log is {}", part.name, PAUSE.as_secs(), part.log.display());
    sleep(PAUSE).await;
    part.start()?;
    eprintln!("{} started again, pid {}", part.name, part.pid());
    Ok(())
}

async fn hub_ready(data: &Path, hub: &mut Part) -> anyhow::Result<Ready> {
    let end = Instant::now() + START_MAX;
    loop {
        if let Some(status) = hub.dead() {
            return Err(fail(Kind::FailedPrecondition, format!("the hub did not start: {status}")));
        }
        // The file of an earlier hub has another process id.
        if let Some(ready) = place::read::<Ready>(&data.join("hub/ready.json"))?.filter(|r| r.pid == hub.pid()) {
            return Ok(ready);
        }
        if Instant::now() > end {
            return Err(fail(Kind::DeadlineExceeded, format!("the hub was not ready within {START_MAX:?}; its log is {}", hub.log.display())));
        }
        sleep(TICK).await;
    }
}

/// Starts the stream server and waits until it has said where it listens; a restarted one is told to listen there again.
async fn stream_server(data: &Path, at: Option<SocketAddr>) -> anyhow::Result<(Part, StreamsReady)> {
    const USUAL: &str = "127.0.0.1:9090";
    let folder = data.join("streams");
    let args = |controller: &str, segments: &str, http: &str| {
        let folder = folder.display().to_string();
        ["stream", "serve", "--folder", &folder, "--controller", controller, "--segments", segments, "--http", http].map(String::from).to_vec()
    };
    let taken = || std::net::TcpListener::bind(USUAL).is_err();
    let controller = at.map_or_else(|| if taken() { "127.0.0.1:0".into() } else { USUAL.to_string() }, |a| a.to_string());
    let mut part = Part::new("streams", data, args(&controller, "127.0.0.1:0", "127.0.0.1:0"));
    part.start()?;
    let end = Instant::now() + START_MAX;
    loop {
        if let Some(status) = part.dead() {
            return Err(fail(Kind::FailedPrecondition, format!("the stream server did not start: {status}")));
        }
        if let Some(ready) = place::read::<StreamsReady>(&folder.join("ready.json"))?.filter(|r| r.pid == part.pid()) {
            part.args = args(&ready.controller, &ready.segments, ready.http.as_deref().unwrap_or("127.0.0.1:0"));
            return Ok((part, ready));
        }
        if Instant::now() > end {
            return Err(fail(Kind::DeadlineExceeded, format!("the stream server was not ready within {START_MAX:?}; its log is {}", part.log.display())));
        }
        sleep(TICK).await;
    }
}

async fn agent(name: &'static str, data: &Path, cores: &Cores, memory: Bytes, slots: u32, grpc: &str, client: &Client) -> anyhow::Result<Part> {
    let folder = data.join(name);
    let args = [
        "agent", "--data", &folder.display().to_string(), "--site", name, "--hub", grpc, "--cores", &cores.to_string(), "--memory", &String::from(memory),
        "--slots", &slots.to_string(), "--listen", "127.0.0.1:0",
    ];
    let mut part = Part::new(name, data, args.map(String::from).to_vec());
    // A folder stands in for S3, unless the user has named something else.
    if std::env::var_os("CLOUDSKIN_GEDS__PERSIST").is_none() {
        part.secrets.push(("CLOUDSKIN_GEDS__PERSIST", format!("file:{}", data.join("bucket-store").display())));
    }
    // Once it has a certificate it needs no token. The names of `up`'s agents are its own: who has removed such a folder has ended that agent for good.
    if !folder.join("identity/cert.pem").exists() {
        let told: Value = client.post(Call::to("join-tokens"), &json!({"site": name, "ttl": "10m", "replace": true}), None).await?;
        let text = |key: &str| told[key].as_str().map(str::to_string).with_context(|| format!("the hub's answer to a join token has no {key}"));
        part.secrets.extend([("CLOUDSKIN_JOIN_TOKEN", text("token")?), ("CLOUDSKIN_CA_SHA256", text("ca_sha256")?)]);
    }
    Ok(part)
}

async fn agents_ready(client: &Client, parts: &mut [Part]) -> anyhow::Result<()> {
    let end = Instant::now() + START_MAX;
    loop {
        for part in parts.iter_mut() {
            if let Some(status) = part.dead() {
                return Err(fail(Kind::FailedPrecondition, format!("{} did not start: {status}", part.name)));
            }
        }
        let sites: Vec<Site> = match client.get(Call::to("sites")).await {
            Ok(sites) => sites,
            Err(e) if kind(&e) == Kind::Unavailable => Vec::new(),
            Err(e) => return Err(e),
        };
        let ready = |name: &str| sites.iter().any(|s| s.name == name && s.state == "ready");
        let missing: Vec<&str> = parts[1..].iter().map(|p| p.name).filter(|n| !ready(n)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(fail(Kind::DeadlineExceeded, format!("{} did not join within {START_MAX:?}; see the logs in {}", missing.join(" and "), parts[0].log.parent().unwrap_or(Path::new(".")).display())));
        }
        sleep(TICK).await;
    }
}

fn note(data: &Path, running: &Running, parts: &[Part]) -> anyhow::Result<()> {
    let mut pids: BTreeMap<String, u32> = parts.iter().map(|p| (p.name.to_string(), p.pid())).collect();
    pids.insert("up".into(), std::process::id());
    let up = Running { pids, ..running.clone() };
    write(&data.join("up.json"), &serde_json::to_value(up)?)
}

/// A JSON file, whole or not at all.
pub fn write(path: &Path, value: &Value) -> anyhow::Result<()> {
    let context = || format!("write {}", path.display());
    let part = path.with_extension("part");
    let mut file = fs::File::create(&part).with_context(context)?;
    file.write_all(&serde_json::to_vec_pretty(value)?).and_then(|()| file.write_all(b"\n")).with_context(context)?;
    fs::rename(&part, path).with_context(context)
}

async fn detach(data: &Path, options: &args::Up) -> anyhow::Result<u8> {
    let log = data.join("logs/up.log");
    // What is told there has the token in it, so it is not left to the mode of an older file.
    let private = fs::Permissions::from_mode(0o600);
    let made = fs::File::create(&log).and_then(|out| out.set_permissions(private).map(|()| out));
    let out = made.with_context(|| format!("write {}", log.display()))?;
    let mut command = std::process::Command::new(std::env::current_exe().context("find this executable")?);
    command.arg("up").arg("--data").arg(data);
    command.args(["--http", &options.http.to_string(), "--grpc", &options.grpc.to_string(), "--slots", &options.slots.to_string()]);
    command.args(options.streams.iter().flat_map(|a| ["--streams".to_string(), a.to_string()]));
    command.args(options.no_streams.then_some("--no-streams"));
    command.args(options.standby.then_some("--standby"));
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().context("start in the background")?;
    let end = Instant::now() + START_MAX * 2;
    loop {
        if let Some(status) = child.try_wait()? {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().rfind(|l| l.starts_with("error: ")).map(|l| l.trim_start_matches("error: ").to_string());
            return Err(fail(Kind::FailedPrecondition, last.unwrap_or_else(|| format!("it ended with {status}; see {}", log.display()))));
        }
        if place::read::<Running>(&data.join("up.json"))?.is_some_and(|up| up.pids.get("up") == Some(&child.id())) {
            table::say(&fs::read_to_string(&log).unwrap_or_default())?;
            table::say(&format!("in the background; stop it with `cloudskin down --data {}`\n", data.display()))?;
            return Ok(0);
        }
        if Instant::now() > end {
            return Err(fail(Kind::DeadlineExceeded, format!("it was not ready in time; see {}, or stop it with `cloudskin down`", log.display())));
        }
        sleep(TICK).await;
    }
}

pub async fn down(place: &Place) -> anyhow::Result<u8> {
    let nothing = || fail(Kind::NotFound, format!("`cloudskin up` is not running in {}; name another folder with --data", place.data.display()));
    let running = place.running()?.ok_or_else(nothing)?;
    let pid = *running.pids.get("up").ok_or_else(nothing)?;
    // The lock, not the number, says whether it lives: a number may have gone to another process.
    match lock(&place.data) {
        Ok(_) => {
            let _ = fs::remove_file(place.data.join("up.json"));
            return Err(nothing());
        }
        Err(e) if kind(&e) != Kind::AlreadyExists => return Err(e),
        Err(e) => tracing::debug!(why = line(&e), "it runs"),
    }
    farewell(place).await;
    // SAFETY: kill has no memory effects; the lock says that the process of this number, which wrote it, is alive.
    if unsafe { libc::kill(pid as i32, libc::SIGTERM) } != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("stop process {pid}"));
    }
    let end = Instant::now() + STOP_MAX * 4;
    while Instant::now() < end {
        if lock(&place.data).is_ok() {
            table::say("stopped\n")?;
            return Ok(0);
        }
        sleep(TICK).await;
    }
    Err(fail(Kind::DeadlineExceeded, format!("process {pid} has not ended yet; see {}", place.data.join("logs").display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_once_and_must_be_writable() {
        let folder = crate::files::tests::temp("up");
        let held = lock(&folder).unwrap();
        assert_eq!(kind(&lock(&folder).unwrap_err()), Kind::AlreadyExists);
        drop(held);
        lock(&folder).unwrap();
        let file = folder.join("file");
        fs::write(&file, "").unwrap();
        let e = lock(&file).unwrap_err();
        assert!(e.to_string().contains("can't be written") && e.to_string().contains("--data"), "{e}");
    }

    #[test]
    fn who_stops_all_is_told_what_becomes_of_the_jobs() {
        let told = json!([{"job": "job-1", "checkpoint": true}, {"job": "job-2", "checkpoint": false}, {"job": "job-4", "checkpoint": false}]);
        let text = left(&told);
        assert!(text.contains("job-1 runs; at the next start it goes on from its last checkpoint\n") && text.contains("2 jobs (job-2, job-4) run and have no"), "{text}");
        assert_eq!(left(&json!([])), "");
    }

    #[test]
    fn a_taken_port_is_one_clear_line() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let e = free("HTTP", "--http", address).unwrap_err();
        assert!(e.to_string().contains(&format!("{address} is taken")), "{e}");
        assert_eq!(kind(&e).exit(), 73);
        free("HTTP", "--http", "127.0.0.1:0".parse().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn down_finds_nothing_to_stop() {
        let folder = crate::files::tests::temp("down");
        assert_eq!(kind(&down(&Place::folder(folder.clone())).await.unwrap_err()), Kind::NotFound);
        let stale = Running { http: "127.0.0.1:1".into(), grpc: String::new(), token_file: folder.join("t"), streams: None, pids: [("up".into(), 1)].into() };
        write(&folder.join("up.json"), &serde_json::to_value(stale).unwrap()).unwrap();
        assert_eq!(kind(&down(&Place::folder(folder.clone())).await.unwrap_err()), Kind::NotFound, "a stale number is not signalled");
        assert!(!folder.join("up.json").exists());
    }
}
