//! The hub's one truth in memory and what it does with it.
//!
//! All that changes goes through one lock, [`Hub::world`]: decide, write to SQLite, then tell. So what an agent hears is
//! always on disk already, and two orders for one rank can't cross.
//!
//! Here: the parts, submitting, cancelling, the end of a job. [`crate::moves`] has the migrations, [`crate::presence`] what
//! happens when agents come, go and are late.

use crate::{
    Error, Options,
    advice::Advice,
    archive::ArchiveFormat,
    checkpoints::{Checkpoint, Making},
    events::Events,
    jobs::{Job, JobState, RankState, Work},
    logs::Logs,
    migrations::{Migration, MigrationState},
    modules::{self, Modules},
    objects::Objects,
    placement::{self, Room},
    proto::{self, ToAgent, to_agent::Body},
    state::{JOBS_KEPT, State},
};
use base::{Kind, clock::now_ms, identity::Authority};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::{File, TryLockError},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, watch};

/// Orders that wait for one agent. Beyond it the session is cut; the agent comes back and hears what is still open.
pub const ORDERS_MAX: usize = 1024;

/// What a heartbeat may be: agents and hub keep the same one.
const HEARTBEAT_MIN: Duration = Duration::from_millis(50);
const HEARTBEAT_MAX: Duration = Duration::from_secs(10);
/// How long the start waits for one of two namenodes to lead, and how often it looks.
const LEADER_WAIT: Duration = Duration::from_secs(2);
const LEADER_LOOK: Duration = Duration::from_millis(20);
/// How often it is looked who leads, for the events.
const STORY_EVERY: Duration = Duration::from_millis(500);
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
    /// From where its agent has dialled, since the hub's start.
    pub from: Option<std::net::SocketAddr>,
    /// It was away for too long, and its ranks were given up.
    pub lost: bool,
    /// (Unix ms, cores wanted per core), oldest first, at most [`HISTORY`].
    pub history: VecDeque<(u64, f64)>,
}

impl Site {
    pub fn connected(&self) -> bool {
        self.orders.is_some()
    }

    /// Cores that its ranks may use; one if the agent said nothing sensible.
    pub fn cores(&self) -> f64 {
        if self.hello.cores.is_finite() && self.hello.cores > 0.0 { self.hello.cores } else { 1.0 }
    }
}

/// A rank at a place: the job's number, the rank, the epoch.
pub type Held = (u64, u32, u64);

#[derive(Default)]
pub struct World {
    pub sites: BTreeMap<String, Site>,
    /// SHA-256 of the certificate of each site's agent; empty for a site that was removed. See [`crate::agents`].
    pub agents: BTreeMap<String, String>,
    pub jobs: BTreeMap<u64, Job>,
    pub migrations: BTreeMap<u64, Migration>,
    /// Those that count.
    pub checkpoints: BTreeMap<u64, Checkpoint>,
    pub making: BTreeMap<u64, Making>,
    /// Prefixes of checkpoints from which a job, by its number, could not be started again.
    pub unusable: BTreeMap<u64, BTreeSet<String>>,
    /// Numbers of jobs whose snapshots are being written from a file.
    pub restoring: BTreeSet<u64>,
    /// When a job's last checkpoint of those it asked for was begun (Unix ms).
    pub tried: BTreeMap<u64, u64>,
    /// Since when a job's ranks are told to stop (Unix ms).
    pub stopping: BTreeMap<u64, u64>,
    pub sessions: u64,
    /// Since when the whole platform is being stopped (Unix ms).
    pub closing: Option<u64>,
    /// Ranks that an agent should hold and has not spoken of since the hub started or the agent came back.
    pub unconfirmed: BTreeSet<Held>,
    /// Migrations whose source waits for a verdict that waits for the destination's return.
    pub asked: BTreeSet<u64>,
    /// Migrations that are done, and ranks at other sites are to follow.
    pub followed: BTreeSet<u64>,
}

impl World {
    /// Whether there is such a job that has not ended.
    pub fn alive(&self, job: &str) -> bool {
        self.job(job).is_ok_and(|job| !job.state.ended())
    }

    /// Of the jobs that hold leases on objects, those of the hub's own whose leases were left behind, by a hub that ended between the end of a job and the end of its lease. What programs have begun under
    /// names of their own is theirs to end.
    fn ended(&self, leased: Vec<String>) -> Vec<String> {
        leased.into_iter().filter(|job| number(job).is_some() && !self.alive(job)).collect()
    }

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
                let order = proto::StartRanks { spec: Some(job.spec()), start, routes: routes.clone(), from_checkpoint: job.from_checkpoint.clone(), from_parents: job.from_parents.clone() };
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

    /// The site of each of `np` ranks: the named one, or where there is room.
    pub fn place(&self, np: u32, site: Option<&str>) -> Result<Vec<String>, Error> {
        site.map(|name| self.site(name)).transpose()?;
        placement::place(np, site, &self.rooms()).map_err(|why| Error::new(Kind::FailedPrecondition, why))
    }

    /// A number that no job has, nor one that is being restored.
    pub fn new_job(&self) -> u64 {
        1 + self.jobs.last_key_value().map_or(0, |(n, _)| *n).max(self.restoring.last().copied().unwrap_or(0))
    }

    /// A site that has ever had a session.
    pub fn site(&self, name: &str) -> Result<&Site, Error> {
        self.sites.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.sites.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none has joined yet".into() } else { format!("sites: {}", known.join(", ")) };
            Error::new(Kind::NotFound, format!("there is no site {name:?}; {known}; `cloudskin site join {name}` makes one"))
        })
    }

    pub fn checkpoint(&self, id: u64) -> Result<&Checkpoint, Error> {
        let missing = || Error::new(Kind::NotFound, format!("there is no checkpoint {id}; `cloudskin get checkpoints` lists those that there are"));
        self.checkpoints.get(&id).ok_or_else(missing)
    }

    pub fn job(&self, id: &str) -> Result<&Job, Error> {
        number(id).and_then(|n| self.jobs.get(&n)).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no job {id:?}; `cloudskin get jobs` lists those that there are"))
        })
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
    /// What is to make the program's code: `quick`, `fast` or `interpreter`. None: what each site has chosen.
    pub tier: Option<String>,
}

impl Submit {
    /// What is asked for with its defaults, if it can be understood.
    fn work(self) -> Result<Work, Error> {
        let ms = |text: &Option<String>| match text {
            None => Ok(0),
            Some(t) => t.parse::<base::unit::Span>().map(|s| s.ms()).map_err(|e| invalid(e.to_string())),
        };
        let memory_max_bytes = match &self.memory_max {
            None => 0,
            Some(t) => t.parse::<base::unit::Bytes>().map_err(|e| invalid(e.to_string()))?.0,
        };
        let work = Work {
            time_max_ms: ms(&self.time_max)?,
            checkpoint_every_ms: ms(&self.checkpoint_every)?,
            memory_max_bytes,
            tenant: self.tenant.unwrap_or_else(|| "default".into()),
            np: self.np,
            args: if self.args.is_empty() { vec![self.name.clone()] } else { self.args },
            name: self.name,
            env: self.env,
            buckets: self.buckets,
            module: self.module.to_ascii_lowercase(),
            pinned: self.pinned,
            workdir: self.workdir.unwrap_or_else(|| "/out".into()),
            tier: self.tier.unwrap_or_default(),
        };
        work.check()?;
        Ok(work)
    }
}

pub struct Hub {
    /// The file by which the folder is this hub's alone; closed when the hub has been shut down.
    pub lock: std::sync::Mutex<Option<File>>,
    pub world: Mutex<World>,
    pub state: State,
    pub events: Events,
    pub authority: Authority,
    pub token: String,
    pub instance: String,
    pub logs: Logs,
    pub modules: Modules,
    pub advice: Advice,
    pub objects: Objects,
    pub archive: Option<ArchiveFormat>,
    /// Files of checkpoints in memory: one.
    pub archiving: Semaphore,
    /// Wakes who removes what nobody needs of checkpoints.
    pub sweep: Notify,
    /// The platform was stopped as a whole before this start, not killed.
    pub was_stopped: bool,
    /// No namenode led when this hub began.
    unsettled: bool,
    /// The hub's own: for its port, and to dial agents.
    pub identity: base::identity::Identity,
    pub heartbeat: Duration,
    /// How long an agent may be silent before its site is lost.
    pub patience: Duration,
    /// How long agents may take to come back after the hub was started.
    pub grace: Duration,
    pub stop: watch::Sender<bool>,
}

pub fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, message)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Two hubs on one folder would each believe in what the other doesn't know of.
fn lock_folder(folder: &Path) -> Result<File, Error> {
    let path = folder.join("lock");
    let cannot = |e| Error::new(Kind::FailedPrecondition, format!("data folder {} can't be locked: {e}", folder.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let message = format!("another hub runs on the data folder {}; stop it, or give this one another folder with --data", folder.display());
            Err(Error::new(Kind::FailedPrecondition, message))
        }
        Err(TryLockError::Error(e)) => Err(cannot(e)),
    }
}

impl Hub {
    pub async fn open(options: Options) -> Result<Arc<Hub>, Error> {
        let folder = options.data.join("hub");
        base::identity::private_folder(&folder)
            .map_err(|e| Error::new(Kind::FailedPrecondition, format!("data folder {} can't be written: {e}", folder.display())))?;
        let lock = lock_folder(&folder)?;
        let authority = Authority::open(&folder.join("ca")).map_err(Error::internal)?;
        let identity = authority.issue(base::identity::HUB).map_err(Error::internal)?;
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
        let mut world = World { jobs, migrations, checkpoints: state.checkpoints().await?, agents: state.agents().await?, ..World::default() };
        for (name, hello, last_seen_ms) in state.sites().await? {
            let site = Site {
                session: 0,
                orders: None,
                behind: Arc::default(),
                hello,
                telemetry: Default::default(),
                last_seen_ms,
                from: None,
                lost: false,
                history: VecDeque::new(),
            };
            world.sites.insert(name, site);
        }
        world.followed.extend(world.migrations.values().filter(|m| m.followed()).map(|m| m.id));
        for job in world.jobs.values().filter(|j| !j.state.ended()) {
            world.unconfirmed.extend(job.ranks.iter().filter(|r| r.state.alive()).map(|r| (job.n, r.rank, r.epoch)));
        }
        let address = options.standby.as_ref().map(|standby| world.address(standby.site.as_str())).unwrap_or_default();
        let objects = Objects::open(&folder, &identity, options.standby, address).await?;
        let end = tokio::time::Instant::now() + LEADER_WAIT;
        let unsettled = loop {
            match objects.settle().await {
                Ok(jobs) => {
                    for job in world.ended(jobs) {
                        objects.catalog.drop_job(&job).await?;
                    }
                    break false;
                }
                // The other one may lead, and not be back yet; it may even wait for this hub.
                Err(e) if objects.names.has_standby() && matches!(e.kind(), Kind::Unavailable | Kind::DeadlineExceeded) => {
                    if tokio::time::Instant::now() > end {
                        tracing::warn!(error = %e, "no namenode leads yet; the hub begins without");
                        break true;
                    }
                    tokio::time::sleep(LEADER_LOOK).await;
                }
                Err(e) => return Err(e),
            }
        };
        let was_stopped = state.take_stop().await?;
        Ok(Arc::new(Hub {
            was_stopped,
            unsettled,
            lock: std::sync::Mutex::new(Some(lock)),
            world: Mutex::new(world),
            events: Events::new(state.clone()),
            state,
            objects,
            archive: options.archive,
            archiving: Semaphore::new(1),
            sweep: Notify::new(),
            identity,
            authority,
            token,
            instance: hex(&rand::random::<[u8; 8]>()),
            logs: Logs::new(folder.join("logs")),
            modules: Modules::new(folder.join("modules"), options.check_module.unwrap_or_else(modules::header_only)),
            advice: Advice::new(options.learning, options.advise),
            heartbeat: options.heartbeat.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX),
            patience: options.patience,
            grace: options.grace,
            stop: watch::channel(false).0,
        }))
    }

    /// Does for a pair of namenodes what could not be done at the start, and writes down who leads whenever that changes.
    pub fn keep_names(self: &Arc<Hub>) {
        if !self.objects.names.has_standby() {
            return;
        }
        let hub = self.clone();
        let mut stop = self.stop.subscribe();
        tokio::spawn(async move {
            let (mut unsettled, mut told) = (hub.unsettled, None);
            loop {
                let story = hub.objects.names.story();
                if story != told {
                    hub.events.add("namenode.leader", "names", story.clone().unwrap_or_default()).await;
                    told = story;
                }
                if unsettled {
                    unsettled = hub.settle().await.is_err();
                }
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(STORY_EVERY) => {}
                }
            }
        });
    }

    async fn settle(&self) -> Result<(), Error> {
        // Who is asked first: a job that begins meanwhile is known by the time that it is looked for.
        let jobs = self.objects.settle().await?;
        let ended = self.world.lock().await.ended(jobs);
        for job in ended {
            self.objects.catalog.drop_job(&job).await?;
        }
        Ok(())
    }

    pub async fn submit(&self, ask: Submit) -> Result<Job, Error> {
        let site = ask.site.clone();
        let work = ask.work()?;
        self.modules.find(&work.module)?;
        let mut world = self.world.lock().await;
        let places = world.place(work.np, site.as_deref())?;
        let n = world.new_job();
        self.admit(&mut world, n, work, &places, String::new()).await
    }

    /// Writes a job down and tells the agents to start it; `places` has the site of each rank.
    pub async fn admit(&self, world: &mut World, n: u64, work: Work, places: &[String], from_checkpoint: String) -> Result<Job, Error> {
        let now = now_ms();
        let mut job = Job::new(n, work, from_checkpoint, now);
        for (rank, site) in places.iter().enumerate() {
            job.put(rank as u32, site, now);
        }
        // Before anyone can write for it. A lease whose job is never written down ends at the next start.
        self.objects.catalog.keep_job(&job.id, 0).await?;
        self.state.save(Some(&job), None).await?;
        world.tell_start(&job, &(0..job.np).collect::<Vec<_>>());
        world.jobs.insert(n, job.clone());
        let old: Vec<u64> = world.jobs.range(..=n.saturating_sub(JOBS_KEPT)).filter(|(_, j)| j.state.ended()).map(|(n, _)| *n).collect();
        old.iter().for_each(|n| drop(world.jobs.remove(n)));
        self.events.add("job.submitted", &job.id, format!("{} with {} at {}", job.name, base::unit::count(u64::from(job.np), "rank"), job.involved().join(", "))).await;
        Ok(job)
    }

    /// A job, also one that ended so long ago that it is in memory no more.
    pub async fn job(&self, world: &World, id: &str) -> Result<Job, Error> {
        match (world.job(id), number(id)) {
            (Ok(job), _) => Ok(job.clone()),
            (Err(missing), None) => Err(missing),
            (Err(missing), Some(n)) => self.state.jobs(n.saturating_sub(1), 1).await?.remove(&n).ok_or(missing),
        }
    }

    pub async fn cancel(&self, id: &str, reason: &str, end: JobState) -> Result<Job, Error> {
        let mut world = self.world.lock().await;
        let mut job = self.job(&world, id).await?;
        if job.state.ended() || job.cancelling.is_some() {
            return Ok(job);
        }
        job.cancelling = Some((end, reason.into()));
        self.state.save(Some(&job), None).await?;
        world.jobs.insert(job.n, job.clone());
        self.call_off_moves_of(&mut world, id, reason).await?;
        world.tell_cancel(&job);
        self.events.add("job.cancelling", id, reason).await;
        Ok(job)
    }

    /// Takes in what an agent says of a rank.
    pub async fn rank(&self, world: &mut World, site: &str, event: &proto::RankEvent) -> Result<(), Error> {
        let Ok(job) = world.job(&event.job) else { return Ok(()) };
        let (mut job, mut event) = (job.clone(), event.clone());
        let own = job.holds(event.rank, event.epoch) && job.ranks[event.rank as usize].site == site;
        if own && event.bad_checkpoint && event.state() == proto::rank_event::State::Failed && job.cancelling.is_none() {
            match self.fall_back(world, job.clone(), &event.bad_prefix, &event.message).await? {
                Ok(()) => return Ok(()),
                Err(not) => event.message = format!("{}; {not}", event.message),
            }
        }
        let exited = |job: &Job| job.ranks.iter().filter(|r| r.state == RankState::Exited).count();
        let before = exited(&job);
        let Some(failed) = job.rank_event(site, &event, now_ms()) else { return Ok(()) };
        world.unconfirmed.remove(&(job.n, event.rank, event.epoch));
        let begun = job.started_ms.is_some() && world.jobs[&job.n].started_ms.is_none();
        let no_more = before == 0 && exited(&job) == 1 && job.checkpoint_every_ms > 0 && job.cancelling.is_none() && job.np > 1;
        self.keep(world, job, failed).await?;
        if begun {
            self.events.add("job.started", &event.job, format!("at {site}")).await;
        }
        if event.state() == proto::rank_event::State::Running && !event.message.is_empty() {
            let message: String = event.message.chars().take(1000).collect();
            self.events.add("job.tier", &event.job, format!("at {site} {message}")).await;
        }
        if no_more {
            let message = format!("rank {} has exited, so no further checkpoint of the job is made: it goes on from the last one if ranks are lost", event.rank);
            self.events.add("checkpoint.over", &event.job, message).await;
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
            self.end_checkpoints_of(world, &job.id).await;
            world.tried.remove(&job.n);
            world.stopping.remove(&job.n);
            // Also where ranks of it were to come and didn't.
            let mut sites: BTreeSet<String> = job.involved().into_iter().collect();
            sites.extend(world.migrations.values().filter(|m| m.job == job.id).map(|m| m.to.clone()));
            for site in sites {
                world.tell(&site, Body::Forget(proto::Forget { job: job.id.clone() }));
            }
            world.unusable.remove(&job.n);
            if let Err(error) = self.objects.catalog.drop_job(&job.id).await {
                tracing::warn!(job = job.id, %error, "the objects that were to go with the job stay until the hub's next start");
            }
            self.logs.close(job.n);
            self.sweep.notify_one();
            self.events.add("job.ended", &job.id, format!("{} {}", job.state, job.reason).trim_end()).await;
        } else if cancel {
            let why = job.cancelling.as_ref().map_or("", |c| &c.1);
            self.call_off_moves_of(world, &job.id, why).await?;
            world.tell_cancel(&job);
            self.events.add("job.cancelling", &job.id, job.cancelling.map_or(String::new(), |c| c.1)).await;
        }
        Ok(())
    }
}
