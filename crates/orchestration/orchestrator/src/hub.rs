//! The hub's one truth in memory and what it does with it.
//!
//! All that changes goes through one lock, [`Hub::world`]: decide, write to SQLite, then tell. So what an agent hears is
//! always on disk already, and two orders for one rank can't cross.
//!
//! Here: the parts, submitting, cancelling, the end of a job. [`crate::moves`] has the migrations, [`crate::presence`] what
//! happens when agents come, go and are late.

use crate::{
    Error, Options,
    checkpoints::{Checkpoint, Making},
    events::Events,
    jobs::{Job, JobState, Rank, RankState},
    logs::Logs,
    migrations::{Migration, MigrationState},
    modules::{self, Modules},
    placement::{self, Room},
    proto::{self, ToAgent, to_agent::Body},
    state::State,
};
use base::{Kind, clock::now_ms, identity::Authority};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Mutex, Notify, mpsc, watch};

/// Orders that wait for one agent. Beyond it the session is cut; the agent comes back and hears what is still open.
pub const ORDERS_MAX: usize = 1024;

/// What a heartbeat may be: agents and hub keep the same one.
const HEARTBEAT_MIN: Duration = Duration::from_millis(50);
const HEARTBEAT_MAX: Duration = Duration::from_secs(10);
/// Samples of a site's history: two minutes at two a second.
pub const HISTORY: usize = 240;

/// A site that has joined: its agent as it was last heard.
pub struct Site {
    /// Counts up over all sites; tells an agent's session from the one that replaced it.
    pub session: u64,
    /// The way to the agent; `None` while its session is cut.
    pub orders: Option<mpsc::Sender<Result<ToAgent, tonic::Status>>>,
    /// Orders don't fit any more: the session has to end.
    pub behind: Arc<Notify>,
    pub hello: proto::Hello,
    pub telemetry: proto::Telemetry,
    pub last_seen_ms: u64,
    /// It was away for too long, and its ranks were given up.
    pub lost: bool,
    /// (Unix ms, cores wanted per core), oldest first, at most [`HISTORY`].
    pub history: VecDeque<(u64, f64)>,
}

impl Site {
    pub fn connected(&self) -> bool {
        self.orders.is_some()
    }
}

/// A rank at a place: the job's number, the rank, the epoch.
pub type Held = (u64, u32, u64);

#[derive(Default)]
pub struct World {
    pub sites: BTreeMap<String, Site>,
    pub jobs: BTreeMap<u64, Job>,
    pub migrations: BTreeMap<u64, Migration>,
    /// Those that count.
    pub checkpoints: BTreeMap<u64, Checkpoint>,
    pub making: BTreeMap<u64, Making>,
    /// When a job's last checkpoint of those it asked for was begun (Unix ms).
    pub tried: BTreeMap<u64, u64>,
    /// Since when a job's ranks are told to stop (Unix ms).
    pub stopping: BTreeMap<u64, u64>,
    pub sessions: u64,
    /// Ranks that an agent should hold and has not spoken of since the hub started or the agent came back.
    pub unconfirmed: BTreeSet<Held>,
    /// Migrations whose source waits for a verdict that waits for the destination's return.
    pub asked: BTreeSet<u64>,
}

impl World {
    pub fn address(&self, site: &str) -> String {
        self.sites.get(site).map(|s| s.hello.data_address.clone()).unwrap_or_default()
    }

    /// Sends an order, if the agent is there and keeps up.
    pub fn tell(&self, site: &str, body: Body) -> bool {
        let Some((here, orders)) = self.sites.get(site).and_then(|s| Some((s, s.orders.as_ref()?))) else { return false };
        let sent = orders.try_send(Ok(ToAgent { body: Some(body) })).is_ok();
        if !sent {
            here.behind.notify_one();
        }
        sent
    }

    pub fn tell_routes(&self, job: &Job) {
        let places = job.routes(|s| self.address(s));
        for site in job.involved() {
            self.tell(&site, Body::Routes(proto::Routes { job: job.id.clone(), places: places.clone() }));
        }
    }

    /// Tells the sites of a job that its ranks have to stop.
    pub fn tell_cancel(&self, job: &Job) {
        let reason = job.cancelling.as_ref().map_or(String::new(), |c| c.1.clone());
        for site in job.involved() {
            self.tell(&site, Body::Cancel(proto::Cancel { job: job.id.clone(), reason: reason.clone() }));
        }
    }

    /// Sends the order to start these ranks of a job at the sites where they are.
    pub fn tell_start(&self, job: &Job, ranks: &[u32]) {
        let routes = job.routes(|s| self.address(s));
        for site in job.involved() {
            let start: Vec<_> = routes.iter().filter(|p| p.site == site && ranks.contains(&p.rank)).cloned().collect();
            if !start.is_empty() {
                let order = proto::StartRanks { spec: Some(job.spec()), start, routes: routes.clone(), from_checkpoint: job.from_checkpoint.clone() };
                self.tell(&site, Body::Start(order));
            }
        }
    }

    /// The sites that can take ranks now. A move under way holds its slots at the destination already.
    pub fn rooms(&self) -> Vec<Room> {
        let held = |site: &str| {
            let ranks = self.jobs.values().filter(|j| !j.state.ended()).flat_map(|j| &j.ranks);
            let coming = self.migrations.values().filter(|m| m.state == MigrationState::Running && m.to == site).map(|m| m.ranks.len());
            (ranks.filter(|r| r.site == site && r.state.alive()).count() + coming.sum::<usize>()) as u32
        };
        let there = self.sites.iter().filter(|(_, site)| site.connected());
        there.map(|(name, site)| Room { site: name.clone(), slots: site.hello.slots, held: held(name) }).collect()
    }

    pub fn job(&self, id: &str) -> Result<&Job, Error> {
        number(id).and_then(|n| self.jobs.get(&n)).ok_or_else(|| Error::new(Kind::NotFound, format!("there is no job {id:?}")))
    }
}

/// The number in `job-7`.
pub fn number(job: &str) -> Option<u64> {
    job.strip_prefix("job-")?.parse().ok()
}

/// A number from an agent that may be stored: JSON knows no infinity.
pub fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// What a user asks for.
#[derive(Clone, Debug, Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    pub module: String,
    pub name: String,
    pub np: u32,
    pub site: Option<String>,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default)]
    pub buckets: Vec<String>,
    pub tenant: Option<String>,
    pub memory_max: Option<String>,
    pub time_max: Option<String>,
    pub checkpoint_every: Option<String>,
    #[serde(default)]
    pub pinned: bool,
    pub workdir: Option<String>,
}

pub struct Hub {
    pub world: Mutex<World>,
    pub state: State,
    pub events: Events,
    pub authority: Authority,
    pub token: String,
    pub instance: String,
    pub logs: Logs,
    pub modules: Modules,
    pub heartbeat: Duration,
    /// How long agents may take to come back after the hub was started.
    pub grace: Duration,
    pub stop: watch::Sender<bool>,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, message)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Hub {
    pub async fn open(options: Options) -> Result<Arc<Hub>, Error> {
        let folder = options.data.join("hub");
        std::fs::create_dir_all(&folder)
            .map_err(|e| Error::new(Kind::FailedPrecondition, format!("data folder {} can't be written: {e}", folder.display())))?;
        let authority = Authority::open(&folder.join("ca")).map_err(Error::internal)?;
        let path = folder.join("token");
        let token = match std::fs::read_to_string(&path) {
            Ok(token) if !token.trim().is_empty() => token.trim().to_string(),
            _ => {
                let token = hex(&rand::random::<[u8; 32]>());
                base::identity::write_private(&path, token.as_bytes()).map_err(Error::internal)?;
                token
            }
        };
        let state = State::open(&folder.join("hub.sqlite")).await?;
        let (jobs, migrations) = state.load().await?;
        let mut world = World { jobs, migrations, checkpoints: state.checkpoints().await?, ..World::default() };
        for (name, hello, last_seen_ms) in state.sites().await? {
            let site = Site {
                session: 0,
                orders: None,
                behind: Arc::default(),
                hello,
                telemetry: Default::default(),
                last_seen_ms,
                lost: false,
                history: VecDeque::new(),
            };
            world.sites.insert(name, site);
        }
        for job in world.jobs.values().filter(|j| !j.state.ended()) {
            world.unconfirmed.extend(job.ranks.iter().filter(|r| r.state.alive()).map(|r| (job.n, r.rank, r.epoch)));
        }
        Ok(Arc::new(Hub {
            world: Mutex::new(world),
            events: Events::new(state.clone()),
            state,
            authority,
            token,
            instance: hex(&rand::random::<[u8; 8]>()),
            logs: Logs::new(folder.join("logs")),
            modules: Modules::new(folder.join("modules"), options.check_module.unwrap_or_else(modules::header_only)),
            heartbeat: options.heartbeat.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX),
            grace: options.grace,
            stop: watch::channel(false).0,
        }))
    }

    /// A token that lets an agent join as `site`, once, until it expires.
    pub async fn mint(&self, site: &str, ttl: Duration) -> Result<(String, u64), Error> {
        let site = base::SiteId::new(site).map_err(|e| invalid(e.to_string()))?;
        let (token, expires_ms) = (hex(&rand::random::<[u8; 24]>()), now_ms() + ttl.as_millis() as u64);
        self.state.add_token(&hex(&Sha256::digest(&token)), site.as_str(), expires_ms).await?;
        Ok((token, expires_ms))
    }

    pub async fn submit(&self, ask: Submit) -> Result<Job, Error> {
        if !(1..=1024).contains(&ask.np) {
            return Err(invalid(format!("np is {}; use 1 to 1024", ask.np)));
        }
        if ask.name.is_empty() || ask.name.len() > 200 {
            return Err(invalid("name must have 1 to 200 bytes"));
        }
        self.modules.find(&ask.module)?;
        let ms = |text: &Option<String>| match text {
            None => Ok(0),
            Some(t) => t.parse::<base::unit::Span>().map(|s| s.ms()).map_err(|e| invalid(e.to_string())),
        };
        let (time_max_ms, checkpoint_every_ms) = (ms(&ask.time_max)?, ms(&ask.checkpoint_every)?);
        let memory_max_bytes = match &ask.memory_max {
            None => 0,
            Some(t) => t.parse::<base::unit::Bytes>().map_err(|e| invalid(e.to_string()))?.0,
        };
        let mut world = self.world.lock().await;
        let rooms = world.rooms();
        let places = placement::place(ask.np, ask.site.as_deref(), &rooms).map_err(|m| Error::new(Kind::FailedPrecondition, m))?;
        let n = world.jobs.last_key_value().map_or(1, |(n, _)| n + 1);
        let now = now_ms();
        let mut job = Job {
            n,
            id: format!("job-{n}"),
            tenant: ask.tenant.unwrap_or_else(|| "default".into()),
            state: JobState::Pending,
            reason: String::new(),
            np: ask.np,
            args: if ask.args.is_empty() { vec![ask.name.clone()] } else { ask.args },
            name: ask.name,
            env: ask.env,
            buckets: ask.buckets,
            module: ask.module.to_ascii_lowercase(),
            pinned: ask.pinned,
            workdir: ask.workdir.unwrap_or_else(|| "/out".into()),
            memory_max_bytes,
            time_max_ms,
            checkpoint_every_ms,
            created_ms: now,
            started_ms: None,
            ended_ms: None,
            exit_code: None,
            backtrace: String::new(),
            restarts: 0,
            from_checkpoint: String::new(),
            ranks: (0..ask.np)
                .map(|rank| Rank { rank, site: String::new(), epoch: 0, state: RankState::Pending, doing: String::new(), cpu_used: 0.0, memory_bytes: 0, sent: 0, received: 0 })
                .collect(),
            placements: Vec::new(),
            output_bytes: 0,
            cancelling: None,
        };
        for (rank, site) in places.iter().enumerate() {
            job.put(rank as u32, site, now);
        }
        self.state.save(Some(&job), None).await?;
        world.tell_start(&job, &(0..job.np).collect::<Vec<_>>());
        world.jobs.insert(n, job.clone());
        self.events.add("job.submitted", &job.id, format!("{} with {} ranks at {}", job.name, job.np, job.involved().join(", "))).await;
        Ok(job)
    }

    pub async fn cancel(&self, id: &str, reason: &str, end: JobState) -> Result<Job, Error> {
        let mut world = self.world.lock().await;
        let mut job = world.job(id)?.clone();
        if job.state.ended() || job.cancelling.is_some() {
            return Ok(job);
        }
        job.cancelling = Some((end, reason.into()));
        self.state.save(Some(&job), None).await?;
        world.tell_cancel(&job);
        world.jobs.insert(job.n, job.clone());
        self.events.add("job.cancelling", id, reason).await;
        Ok(job)
    }

    /// Takes in what an agent says of a rank.
    pub async fn rank(&self, world: &mut World, site: &str, event: &proto::RankEvent) -> Result<(), Error> {
        let Ok(job) = world.job(&event.job) else { return Ok(()) };
        let mut job = job.clone();
        let Some(failed) = job.rank_event(site, event, now_ms()) else { return Ok(()) };
        world.unconfirmed.remove(&(job.n, event.rank, event.epoch));
        let begun = job.started_ms.is_some() && world.jobs[&job.n].started_ms.is_none();
        self.keep(world, job, failed).await?;
        if begun {
            self.events.add("job.started", &event.job, format!("at {site}")).await;
        }
        Ok(())
    }

    /// Stores a job whose ranks have changed, ends it if none is left, and tells the agents: to forget it, or to stop the
    /// rest of it if `cancel`.
    pub async fn keep(&self, world: &mut World, mut job: Job, cancel: bool) -> Result<(), Error> {
        let ended = job.settle(now_ms());
        self.state.save(Some(&job), None).await?;
        world.jobs.insert(job.n, job.clone());
        if ended {
            self.end_moves_of(world, &job.id).await?;
            self.fail_checkpoints(world, None, Some(&job.id), "the job ended").await;
            world.tried.remove(&job.n);
            world.stopping.remove(&job.n);
            for site in job.involved() {
                world.tell(&site, Body::Forget(proto::Forget { job: job.id.clone() }));
            }
            self.logs.close(job.n);
            self.events.add("job.ended", &job.id, format!("{:?} {}", job.state, job.reason).to_lowercase().trim_end()).await;
        } else if cancel {
            world.tell_cancel(&job);
            self.events.add("job.cancelling", &job.id, job.cancelling.map_or(String::new(), |c| c.1)).await;
        }
        Ok(())
    }
}
