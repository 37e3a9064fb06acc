//! The agent: runs a site's ranks, keeps its objects, and does what the hub says.
//!
//! ```text
//!  join ──▶ session with the hub ◀──── telemetry, events, output up; orders down         session.rs
//!              │
//!              ├─▶ jobs.rs         ranks: each a thread with its cell
//!              ├─▶ moves.rs        migrations: this end and that end
//!              └─▶ checkpoints.rs  copy, stop, go on, write
//!  data port ──┬─▶ geds/1          objects, for other sites and the hub
//!              ├─▶ cells/1         messages of ranks, and cells that move here
//!              └─▶ geds-meta/1     names, while this site has the standby of the namenode and that leads     standby.rs
//!  agent.sock ───▶ geds            the site's tier, for programs of the same user on this machine that are no cells
//! ```
//!
//! It decides nothing about where things run: a rank starts, moves and ends when the hub has said so. When the hub is away, ranks go on; when
//! the agent dies, its ranks are lost and its sealed objects are not.

mod checkpoints;
mod code;
mod join;
mod jobs;
mod load;
mod moves;
mod printer;
pub mod reach;
mod session;
mod standby;
#[cfg(test)]
mod tests;

use crate::{args, failure::fail, place::Place, share, table, up};
use anyhow::Context;
use base::{Kind, SiteId, identity};
use cells::{Budget, Engine, Link, Program};
use orchestrator::proto::{self, hub_client::HubClient};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, TryLockError},
    time::Duration,
};
use tokio::{net::TcpListener, signal::unix::{SignalKind, signal}};
use tonic::transport::Channel;

/// What an agent is; shared by its tasks and threads.
pub struct Agent {
    site: SiteId,
    /// host:port that other agents dial.
    address: String,
    /// New at each start: what an older process held is lost.
    instance: String,
    cores: Vec<usize>,
    affinity: String,
    memory_bytes: u64,
    /// Of the ranks' memory, all together at most `memory_bytes`.
    budget: Arc<Budget>,
    slots: u32,
    engine: Engine,
    link: Link,
    node: geds::Node,
    standby: Arc<standby::Standby>,
    /// How long the end may be put off by objects that are to be uploaded first.
    drain: Duration,
    dialer: identity::Dialer,
    hub: HubClient<Channel>,
    runtime: tokio::runtime::Handle,
    outbox: session::Outbox,
    late: printer::Late,
    tier: cells::Tier,
    /// Those that it allows.
    tiers: Vec<cells::Tier>,
    /// By SHA-256 and tier. Who needs one first makes it, and the others wait for it at its lock.
    programs: Mutex<HashMap<(String, cells::Tier), Arc<Mutex<Option<Arc<Program>>>>>>,
    jobs: Mutex<BTreeMap<String, Arc<jobs::Job>>>,
    moves: Mutex<BTreeMap<u64, moves::Move>>,
    /// Of what they send ahead.
    pace: Arc<base::Pace>,
    /// Checkpoints that are being made, by their number, and bytes of the copies for all of them.
    taking: Mutex<BTreeMap<u64, checkpoints::Taking>>,
    copies_bytes: Arc<std::sync::atomic::AtomicU64>,
    /// Ranks that other agents offer and that are not among `jobs` yet.
    expected: Mutex<usize>,
}

/// The configuration of an agent: `cloudskin.toml` in its folder, if there is one, and the environment.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Config {
    geds: geds::Config,
    cells: CellsConfig,
}

/// `[cells]`: how programs are compiled at this site.
#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CellsConfig {
    /// In which tier programs run of whose job nothing else was said.
    tier: cells::Tier,
    /// In which tiers they may run; nothing: in all, or only in the interpreter where that is the site's.
    tiers: Option<Vec<cells::Tier>>,
    /// Compiled code is taken from the installation's other agents and given to them.
    share: bool,
    /// `perf` is told what the functions of programs are called.
    perf_map: bool,
    /// What moves away from here may send per second, all together, while their ranks still run.
    move_bandwidth: Option<base::unit::Bytes>,
    /// `false`: the agent may open each file that its user may. Otherwise the kernel lets it open those that it needs ([`reach`]).
    confine: Option<bool>,
    /// Files and folders that it may read beside these.
    reads: Vec<PathBuf>,
}

impl Config {
    fn load(data: &Path) -> anyhow::Result<Config> {
        let file = data.join("cloudskin.toml");
        base::config::load(file.exists().then_some(file.as_path()), std::env::vars_os()).map_err(|e| fail(Kind::InvalidArgument, e.to_string()))
    }
}

impl CellsConfig {
    /// The tiers in which programs run here.
    ///
    /// # Errors
    /// The site's own tier is not among them.
    fn allowed(&self) -> anyhow::Result<Vec<cells::Tier>> {
        let all: &[cells::Tier] = if self.tier == cells::Tier::Interpreter { &[cells::Tier::Interpreter] } else { &cells::Tier::ALL };
        let tiers = self.tiers.clone().unwrap_or_else(|| all.to_vec());
        anyhow::ensure!(tiers.contains(&self.tier), "[cells] in cloudskin.toml: tier = {:?} is not among tiers; add it there", self.tier.to_string());
        Ok(tiers)
    }

    /// # Errors
    /// The bandwidth is one with which no move would end.
    fn pace(&self) -> anyhow::Result<base::Pace> {
        /// Bytes per second.
        const LEAST: u64 = 64 << 10;
        if let Some(bytes) = self.move_bandwidth {
            anyhow::ensure!(bytes.0 >= LEAST, "[cells] in cloudskin.toml: move_bandwidth = \"{bytes}\" per second is too little for a move to end; give at least 64KiB, or leave it out");
        }
        Ok(base::Pace::new(self.move_bandwidth.map(|bytes| bytes.0)))
    }
}

/// Between attempts to reach the hub at the start.
const RETRY: Duration = Duration::from_millis(300);
/// For a TLS handshake on the data port.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How often it is looked for what nobody needs any more.
const SWEEP: Duration = Duration::from_secs(60);
/// Programs that are kept ready.
const PROGRAMS_MAX: usize = 64;
/// How often who waits for a program that another one compiles looks whether it is there.
const PROGRAM_LOOK: Duration = Duration::from_millis(5);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here is a few steps on a map or a state; a panic elsewhere leaves them whole.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Cells at once: a move holds a second one for a rank, and a restart holds old and new ones for a moment.
fn cells_max(slots: u32) -> u32 {
    slots.saturating_mul(2).max(16)
}

/// Runs what takes its time on a thread of its own. Fails when the system gives no thread; then `work` is dropped.
fn background(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
    spawned.map(drop).with_context(|| format!("no thread for {name}; give this site fewer --slots, or raise its limit of threads (`ulimit -u`)"))
}

pub async fn run(place: &Place, ask: args::Agent) -> anyhow::Result<u8> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let agent = tokio::select! {
        agent = start(place, ask) => agent?,
        _ = interrupt.recv() => return Ok(0),
        _ = terminate.recv() => return Ok(0),
    };
    table::say(&format!("agent {} ready: {} slots, {}, other agents dial {}\n", agent.site, agent.slots, agent.affinity, agent.address))?;
    let (node, drain) = (agent.node.clone(), agent.drain);
    tokio::select! {
        e = session::keep(agent) => return Err(e),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    // Who has no time for it asks a second time.
    tokio::select! {
        drained = node.drain(drain) => if let Err(error) = drained {
            tracing::warn!(%error, "not everything was brought away; what lies on this disk is there at the next start");
        },
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(0)
}

async fn start(place: &Place, ask: args::Agent) -> anyhow::Result<Arc<Agent>> {
    let data = &place.data;
    up::writable(data)?;
    let config = Config::load(data)?;
    let listener = TcpListener::bind(ask.listen)
        .await
        .map_err(|e| fail(Kind::FailedPrecondition, format!("other agents can't be heard on {}: {e}; choose another address with --listen", ask.listen)))?;
    let identity = join::identity(data, &ask).await?;
    let dialer = identity.dialer()?;
    let acceptor = identity.acceptor(&[geds::ALPN, cells::link::ALPN, geds::META_ALPN, geds::STANDBY_ALPN])?;
    let channel = join::channel(&dialer, &ask.hub)?;
    let address = match &ask.advertise {
        Some(address) => address.clone(),
        None => listener.local_addr()?.to_string(),
    };
    let standby = standby::Standby::new(ask.site.clone(), ask.hub.clone(), dialer.clone(), data.join("names"), config.geds.clone());
    let catalog = Arc::new(standby.catalog());
    // Before it is recognised it must not tell the namenode what it holds. Again with each attempt: the standby may have moved, and be the one who leads.
    let node = loop {
        match HubClient::new(channel.clone()).recognise(proto::RecogniseRequest {}).await {
            Ok(reply) => {
                if let Some(told) = reply.into_inner().standby {
                    standby.learn(told);
                }
            }
            Err(status) if matches!(status.code(), tonic::Code::PermissionDenied | tonic::Code::Unauthenticated) => {
                return Err(fail(Kind::Unauthenticated, format!("the hub refuses this agent: {}", status.message())));
            }
            Err(status) => {
                join::meet(&dialer, data, &ask).await?;
                tracing::warn!(error = status.message(), hub = ask.hub, "the hub can't be reached yet");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        let options = geds::Options {
            site: ask.site.clone(),
            folder: data.join("objects"),
            limit: config.geds.limit,
            dialer: dialer.clone(),
            catalog: catalog.clone(),
            persist: config.geds.persist()?,
            address: address.clone(),
        };
        match geds::Node::open_with(options, config.geds.tuning()?).await {
            Ok(node) => break node,
            // No namenode leads: that of the hub may still be on its way, or its standby.
            Err(e) if e.kind() == Kind::Unavailable => {
                join::meet(&dialer, data, &ask).await?;
                tracing::warn!(error = %e, hub = ask.hub, "no namenode can be reached yet");
                tokio::time::sleep(RETRY).await;
            }
            Err(e) => return Err(fail(e.kind(), format!("the object store in {} can't be opened: {e}", data.join("objects").display()))),
        }
    };
    let all = share::allowed()?;
    let cores = ask.cores.as_ref().map_or(all.0, |c| c.0.clone());
    let affinity = format!("core{} {} of this machine", if cores.len() > 1 { "s" } else { "" }, share::Cores(cores.clone()));
    let mut cache = cells::Cache::from(data.join("cache"));
    if config.cells.share {
        cache = cache.shared(Arc::new(code::Code::new(node.clone(), identity.signer()?)));
    }
    let engine = Engine::new(&cells::engine::Options { cache: Some(cache), cells_max: cells_max(ask.slots), tier: config.cells.tier, perf_map: config.cells.perf_map })?;
    let memory_bytes = ask.memory.map_or_else(share::memory, |m| m.0);
    let agent = Arc::new(Agent {
        link: Link::new(ask.site.clone(), dialer.clone()),
        site: ask.site,
        address,
        instance: format!("{:016x}", rand::random::<u64>()),
        cores,
        affinity,
        memory_bytes,
        budget: Arc::new(Budget::new(memory_bytes)),
        slots: ask.slots,
        engine,
        tier: config.cells.tier,
        tiers: config.cells.allowed()?,
        node,
        standby,
        drain: config.geds.drain.0,
        dialer,
        hub: HubClient::new(channel),
        runtime: tokio::runtime::Handle::current(),
        outbox: session::Outbox::default(),
        late: printer::Late::start()?,
        programs: Mutex::default(),
        jobs: Mutex::default(),
        moves: Mutex::default(),
        pace: Arc::new(config.cells.pace()?),
        taking: Mutex::default(),
        copies_bytes: Arc::default(),
        expected: Mutex::default(),
    });
    tokio::spawn(listen(agent.clone(), listener, acceptor));
    tokio::spawn(sweep(agent.clone()));
    tokio::spawn(share_tier(agent.node.clone(), geds::Shared::socket(data)));
    Ok(agent)
}

/// Lets other programs of this user on this machine read and write the site's objects in place. The site does all its other work without.
async fn share_tier(node: geds::Node, socket: PathBuf) {
    if let Err(error) = node.share(&socket).await {
        tracing::warn!(%error, socket = %socket.display(), "programs of this machine can't attach to this site's objects; a socket's path has room for 107 bytes, so --data may have to be shorter");
    }
}

/// Drops from time to time what nobody needs: copies of objects, and jobs that have no rank here since the last time.
async fn sweep(agent: Arc<Agent>) {
    let mut before = BTreeSet::new();
    loop {
        tokio::time::sleep(SWEEP).await;
        if let Err(error) = agent.node.sweep().await {
            tracing::debug!(%error, "copies that nobody needs were not looked for");
        }
        let empty = agent.empty();
        empty.intersection(&before).for_each(|job| agent.let_go(job));
        before = empty;
    }
}

/// Takes in connections of other sites and the hub, each served by a task of its own.
async fn listen(agent: Arc<Agent>, listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor) {
    loop {
        let (tcp, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Too many open files, for instance: better later than never.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let (agent, acceptor) = (agent.clone(), acceptor.clone());
        tokio::spawn(async move {
            let _ = tcp.set_nodelay(true);
            let stream: tokio_rustls::TlsStream<_> = match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(tcp)).await {
                Ok(Ok(stream)) => stream.into(),
                Ok(Err(error)) => return tracing::warn!(%from, %error, "a connection was refused"),
                Err(_) => return tracing::warn!(%from, "a connection said nothing and was closed"),
            };
            let peer = identity::peer_name(&stream).unwrap_or_default();
            match identity::protocol(&stream).as_deref() {
                Some(geds::ALPN) => {
                    if let Err(error) = agent.node.serve_peer(stream, &peer).await {
                        tracing::debug!(peer, %error, "objects");
                    }
                }
                Some(geds::META_ALPN) => {
                    if let Some(own) = agent.standby.own() {
                        if let Err(error) = own.serve(stream, geds::Caller::of(Some(&peer))).await {
                            tracing::debug!(peer, %error, "a client of the namenode");
                        }
                    }
                }
                Some(geds::STANDBY_ALPN) if peer == identity::HUB => {
                    if let Some(own) = agent.standby.own() {
                        if let Err(error) = own.serve_standby(stream).await {
                            tracing::info!(%error, "the hub as the namenode's standby");
                        }
                    }
                }
                Some(cells::link::ALPN) if identity::site_of(&peer).is_some() => match agent.link.serve(stream).await {
                    Ok(None) => {}
                    Ok(Some(arrival)) => {
                        // Without a thread the connection closes, which the other end takes as a refusal.
                        if let Err(e) = background("migration", move || agent.arrive(arrival)) {
                            tracing::warn!(peer, error = crate::failure::line(&e), "a migration was refused");
                        }
                    }
                    Err(error) => tracing::warn!(peer, %error, "messages of ranks"),
                },
                protocol => tracing::warn!(peer, ?protocol, "this peer may not speak this protocol here"),
            }
        });
    }
}

impl Agent {
    /// A job's program in the tier that it asks for, or else in this site's, fetched from the hub and compiled by the first who needs it. For plain threads: compiling takes its
    /// time, and so does waiting for who does it already. Both end when it is `given_up`; who waits besides begins anew.
    fn program(&self, spec: &proto::JobSpec, given_up: &cells::GivenUp) -> anyhow::Result<Arc<Program>> {
        let tier = match spec.tier.as_str() {
            "" => self.tier,
            asked => asked.parse().map_err(|e: String| anyhow::anyhow!("this agent does not know the job's tier: {e}"))?,
        };
        self.allows(tier)?;
        let key = (spec.module_sha256.clone(), tier);
        let slot = {
            let mut programs = lock(&self.programs);
            if programs.len() >= PROGRAMS_MAX && !programs.contains_key(&key) {
                // A slot that somebody waits for has a second owner; a program that a cell or a job's thread has, too.
                programs.retain(|_, slot| Arc::strong_count(slot) > 1 || lock(slot).as_ref().is_some_and(|p| Arc::strong_count(p) > 1));
            }
            programs.entry(key).or_default().clone()
        };
        let mut program = loop {
            match slot.try_lock() {
                Ok(program) => break program,
                Err(TryLockError::Poisoned(e)) => break e.into_inner(),
                Err(TryLockError::WouldBlock) if given_up() => anyhow::bail!("nobody waits for the program any more"),
                Err(TryLockError::WouldBlock) => std::thread::sleep(PROGRAM_LOOK),
            }
        };
        if let Some(program) = &*program {
            return Ok(program.clone());
        }
        let made = self.make_program(&spec.module_sha256, tier, given_up)?;
        *program = Some(made.clone());
        Ok(made)
    }

    fn make_program(&self, sha256: &str, tier: cells::Tier, given_up: &cells::GivenUp) -> anyhow::Result<Arc<Program>> {
        let wasm = self.runtime.block_on(async {
            let ask = proto::ModuleRequest { sha256: sha256.into() };
            let mut chunks = self.hub.clone().module(ask).await.map_err(|s| anyhow::anyhow!("{}", s.message()))?.into_inner();
            let mut wasm = Vec::new();
            while let Some(chunk) = chunks.message().await.map_err(|s| anyhow::anyhow!("{}", s.message()))? {
                if wasm.len() + chunk.data.len() > cells::engine::MODULE_MAX {
                    anyhow::bail!("the hub sends more than {} bytes", cells::engine::MODULE_MAX);
                }
                wasm.extend_from_slice(&chunk.data);
            }
            Ok(wasm)
        });
        let wasm = wasm.with_context(|| format!("fetch module {sha256} from the hub"))?;
        let sum: String = Sha256::digest(&wasm).iter().map(|b| format!("{b:02x}")).collect();
        anyhow::ensure!(sum == sha256, "the hub sent module {sum} for {sha256}");
        let program = self.engine.load_unless(&wasm, tier, given_up)?;
        // It may be one that the tier does not take.
        self.allows(program.tier()).with_context(|| program.instead().unwrap_or_default().to_string())?;
        Ok(program)
    }

    fn allows(&self, tier: cells::Tier) -> anyhow::Result<()> {
        let all: Vec<String> = self.tiers.iter().map(cells::Tier::to_string).collect();
        anyhow::ensure!(self.tiers.contains(&tier), "site {} runs programs in these tiers: {}; not in the {tier} one", self.site, all.join(", "));
        Ok(())
    }
}
