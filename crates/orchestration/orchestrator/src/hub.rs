//! The hub's one truth in memory and what it does with it.
//!
//! All that changes goes through one lock, [`Hub::world`]: decide, write to SQLite, then tell. So what an agent hears is
//! always on disk already, and two orders for one rank can't cross.

use crate::{
    Error, Options,
    events::Events,
    jobs::{Job, JobState, Rank, RankState},
    migrations::{Migration, MigrationState},
    placement::{self, Room},
    proto::{self, ToAgent, to_agent::Body},
    state::State,
};
use base::{Kind, clock::now_ms, identity::Authority};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::{Mutex, mpsc, watch};

/// Orders that wait for one agent. Beyond it an order is dropped and [`World::tell`] says so; nothing sends it again yet.
pub const ORDERS_MAX: usize = 1024;

/// An agent with an open session.
pub struct Site {
    pub session: u64,
    pub orders: mpsc::Sender<Result<ToAgent, tonic::Status>>,
    pub hello: proto::Hello,
    pub telemetry: proto::Telemetry,
    pub last_seen_ms: u64,
}

#[derive(Default)]
pub struct World {
    pub sites: BTreeMap<String, Site>,
    pub jobs: BTreeMap<u64, Job>,
    pub migrations: BTreeMap<u64, Migration>,
    pub sessions: u64,
}

impl World {
    pub fn address(&self, site: &str) -> String {
        self.sites.get(site).map(|s| s.hello.data_address.clone()).unwrap_or_default()
    }

    /// Sends an order, if the agent is there and keeps up.
    pub fn tell(&self, site: &str, body: Body) -> bool {
        self.sites.get(site).is_some_and(|s| s.orders.try_send(Ok(ToAgent { body: Some(body) })).is_ok())
    }

    fn tell_routes(&self, job: &Job) {
        let places = job.routes(|s| self.address(s));
        for site in job.involved() {
            self.tell(&site, Body::Routes(proto::Routes { job: job.id.clone(), places: places.clone() }));
        }
    }

    fn cancel(&self, job: &Job, reason: &str) {
        for site in job.involved() {
            self.tell(&site, Body::Cancel(proto::Cancel { job: job.id.clone(), reason: reason.into() }));
        }
    }

    pub fn job(&self, id: &str) -> Result<&Job, Error> {
        let n: Option<u64> = id.strip_prefix("job-").and_then(|n| n.parse().ok());
        n.and_then(|n| self.jobs.get(&n)).ok_or_else(|| Error::new(Kind::NotFound, format!("there is no job {id:?}")))
    }
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
    pub heartbeat: std::time::Duration,
    pub stop: watch::Sender<bool>,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, message)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Hub {
    pub async fn open(options: &Options) -> Result<Arc<Hub>, Error> {
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
        Ok(Arc::new(Hub {
            world: Mutex::new(World { jobs, migrations, ..World::default() }),
            events: Events::new(state.clone()),
            state,
            authority,
            token,
            instance: hex(&rand::random::<[u8; 8]>()),
            heartbeat: options.heartbeat,
            stop: watch::channel(false).0,
        }))
    }

    /// A token that lets an agent join as `site`, once, until it expires.
    pub async fn mint(&self, site: &str, ttl: std::time::Duration) -> Result<(String, u64), Error> {
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
        if ask.module.len() != 64 || !ask.module.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid(format!("module {:?} is not a SHA-256 in hexadecimal", ask.module)));
        }
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
        let rooms: Vec<Room> = world
            .sites
            .iter()
            .map(|(name, site)| Room {
                site: name.clone(),
                slots: site.hello.slots,
                held: world
                    .jobs
                    .values()
                    .filter(|j| !j.state.ended())
                    .flat_map(|j| &j.ranks)
                    .filter(|r| r.site == *name && matches!(r.state, RankState::Pending | RankState::Running))
                    .count() as u32,
            })
            .collect();
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
        let routes = job.routes(|s| world.address(s));
        for site in job.involved() {
            let start = routes.iter().filter(|p| p.site == site).cloned().collect();
            world.tell(&site, Body::Start(proto::StartRanks { spec: Some(job.spec()), start, routes: routes.clone(), from_checkpoint: String::new() }));
        }
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
        world.cancel(&job, reason);
        world.jobs.insert(job.n, job.clone());
        self.events.add("job.cancelling", id, reason).await;
        Ok(job)
    }

    /// Begins to move ranks of a job; all that still run when none are named. They must be at one site.
    pub async fn migrate(&self, id: &str, to: &str, ranks: Option<Vec<u32>>, recommendation: Option<u64>) -> Result<Migration, Error> {
        let refuse = |message: String| Error::new(Kind::FailedPrecondition, message);
        let mut world = self.world.lock().await;
        let job = world.job(id)?.clone();
        if job.state != JobState::Running || job.cancelling.is_some() {
            return Err(refuse(format!("job {id} is not running; only running ranks can move")));
        }
        if !world.sites.contains_key(to) {
            let ready: Vec<_> = world.sites.keys().cloned().collect();
            return Err(refuse(format!("site {to:?} is not ready; ready sites: {}", ready.join(", "))));
        }
        let ranks = ranks.unwrap_or_else(|| {
            job.ranks.iter().filter(|r| r.state == RankState::Running && r.site != to).map(|r| r.rank).collect()
        });
        if let Some(bad) = ranks.iter().find(|r| job.ranks.get(**r as usize).is_none_or(|r| r.state != RankState::Running)) {
            return Err(refuse(format!("rank {bad} of job {id} is not running")));
        }
        let from = match ranks.first() {
            Some(first) => job.ranks[*first as usize].site.clone(),
            None => return Err(refuse(format!("job {id} has no running rank away from site {to:?}"))),
        };
        if ranks.iter().any(|r| job.ranks[*r as usize].site != from) {
            return Err(refuse("the ranks are at several sites; name ranks of one site at a time".into()));
        }
        if from == to {
            return Err(refuse(format!("the ranks are at site {to:?} already")));
        }
        if let Some(other) = world.migrations.values().find(|m| m.job == job.id && m.open()) {
            return Err(refuse(format!("migration {} of job {id} is still under way", other.id)));
        }
        let migration = Migration {
            id: world.migrations.last_key_value().map_or(1, |(n, _)| n + 1),
            job: job.id.clone(),
            ranks: ranks.clone(),
            from: from.clone(),
            to: to.into(),
            state: MigrationState::Running,
            reason: String::new(),
            recommendation,
            started_ms: now_ms(),
            ended_ms: None,
            downtime_ms: 0.0,
            state_bytes: 0,
            moved_bytes: 0,
            moved_stopped_bytes: 0,
            rounds: 0,
            total_ms: 0.0,
        };
        self.state.save(None, Some(&migration)).await?;
        world.migrations.insert(migration.id, migration.clone());
        let order = proto::Migrate {
            migration: migration.id,
            job: job.id.clone(),
            ranks,
            to_site: to.into(),
            to_address: world.address(to),
            module_sha256: job.module.clone(),
        };
        self.events.add("migration.started", &job.id, format!("migration {}: {from} to {to}", migration.id)).await;
        if !world.tell(&from, Body::Migrate(order)) {
            self.fail_migration(&mut world, migration.id, &format!("site {from:?} is not connected")).await?;
        }
        Ok(world.migrations[&migration.id].clone())
    }

    /// Ends a migration that is not committed, and tells the source to go on.
    pub async fn fail_migration(&self, world: &mut World, id: u64, reason: &str) -> Result<(), Error> {
        let Some(mut m) = world.migrations.get(&id).cloned().filter(|m| m.state == MigrationState::Running) else { return Ok(()) };
        (m.state, m.reason, m.ended_ms) = (MigrationState::Failed, reason.into(), Some(now_ms()));
        self.state.save(None, Some(&m)).await?;
        world.migrations.insert(id, m.clone());
        self.send_verdict(world, &m);
        self.events.add("migration.failed", &m.job, format!("migration {id}: {reason}")).await;
        Ok(())
    }

    fn send_verdict(&self, world: &World, m: &Migration) {
        let Some(commit) = m.verdict() else { return };
        let places = match world.job(&m.job) {
            Ok(job) => job.routes(|s| world.address(s)).into_iter().filter(|p| m.ranks.contains(&p.rank)).collect(),
            Err(_) => Vec::new(),
        };
        world.tell(&m.from, Body::Verdict(proto::MigrationVerdict { migration: m.id, commit, places, reason: m.reason.clone() }));
    }

    /// The source asks for the verdict. Decided once, in one transaction; asked again, the same answer.
    pub async fn ready(&self, world: &mut World, site: &str, ready: &proto::MigrationReady) -> Result<(), Error> {
        let Some(mut m) = world.migrations.get(&ready.migration).cloned().filter(|m| m.from == site) else {
            let reason = "the hub knows no such migration of this site".to_string();
            world.tell(site, Body::Verdict(proto::MigrationVerdict { migration: ready.migration, commit: false, places: Vec::new(), reason }));
            return Ok(());
        };
        if m.state == MigrationState::Running {
            let mut job = world.job(&m.job)?.clone();
            let here = m.ranks.iter().all(|r| job.ranks[*r as usize].site == m.from);
            let refusal = if !world.sites.contains_key(&m.to) {
                Some(format!("site {:?} is not connected", m.to))
            } else if job.state.ended() || job.cancelling.is_some() || !here {
                Some(format!("job {} has ended or restarted meanwhile", job.id))
            } else {
                None
            };
            if let Some(reason) = refusal {
                return self.fail_migration(world, m.id, &reason).await;
            }
            for rank in &m.ranks {
                job.put(*rank, &m.to, now_ms());
            }
            m.state = MigrationState::Committed;
            self.state.save(Some(&job), Some(&m)).await?;
            world.jobs.insert(job.n, job.clone());
            world.migrations.insert(m.id, m.clone());
            world.tell_routes(&job);
            self.events.add("migration.committed", &m.job, format!("migration {}: {} to {}", m.id, m.from, m.to)).await;
        }
        self.send_verdict(world, &m);
        Ok(())
    }

    /// Takes in the source's last word on a migration.
    pub async fn end(&self, world: &mut World, site: &str, end: &proto::MigrationEnd) -> Result<(), Error> {
        let Some(mut m) = world.migrations.get(&end.migration).cloned().filter(|m| m.from == site && m.open()) else { return Ok(()) };
        if !end.ok {
            // A commit stands, whatever the source says afterwards: the ranks belong to the destination.
            return self.fail_migration(world, m.id, &end.reason).await;
        }
        if m.state != MigrationState::Committed {
            tracing::warn!(migration = m.id, site, "migration reported as done before its verdict; ignored");
            return Ok(());
        }
        m.state = MigrationState::Done;
        m.ended_ms = Some(now_ms());
        (m.downtime_ms, m.total_ms, m.rounds) = (end.downtime_ms, end.total_ms, end.rounds);
        (m.state_bytes, m.moved_bytes, m.moved_stopped_bytes) = (end.state_bytes, end.moved_bytes, end.moved_stopped_bytes);
        self.state.save(None, Some(&m)).await?;
        self.events.add("migration.done", &m.job, format!("migration {}: stood still for {:.0} ms", m.id, m.downtime_ms)).await;
        world.migrations.insert(m.id, m);
        Ok(())
    }

    /// Takes in what an agent says of a rank.
    pub async fn rank(&self, world: &mut World, site: &str, event: &proto::RankEvent) -> Result<(), Error> {
        let Ok(job) = world.job(&event.job) else { return Ok(()) };
        let mut job = job.clone();
        let Some(failed) = job.rank_event(site, event) else { return Ok(()) };
        let ended = job.settle(now_ms());
        self.state.save(Some(&job), None).await?;
        if ended {
            for site in job.involved() {
                world.tell(&site, Body::Forget(proto::Forget { job: job.id.clone() }));
            }
            self.events.add("job.ended", &job.id, format!("{:?} {}", job.state, job.reason).to_lowercase()).await;
        } else if failed {
            world.cancel(&job, &job.cancelling.as_ref().map_or(String::new(), |c| c.1.clone()));
        }
        world.jobs.insert(job.n, job);
        Ok(())
    }

    /// A site's session is over: its ranks are lost at once (there is no time to come back yet) and its moves end. Restart from a checkpoint is not built yet, so a job
    /// that lost ranks fails with the reason.
    pub async fn lose(&self, world: &mut World, site: &str, why: &str) -> Result<(), Error> {
        let open: Vec<u64> = world
            .migrations
            .values()
            .filter(|m| m.state == MigrationState::Running && (m.from == site || m.to == site))
            .map(|m| m.id)
            .collect();
        for id in open {
            self.fail_migration(world, id, &format!("site {site:?} was lost: {why}")).await?;
        }
        let jobs: Vec<Job> = world.jobs.values().filter(|j| !j.state.ended()).cloned().collect();
        for mut job in jobs {
            let mut lost = Vec::new();
            for r in job.ranks.iter_mut().filter(|r| r.site == site && matches!(r.state, RankState::Pending | RankState::Running)) {
                r.state = RankState::Lost;
                lost.push(r.rank);
            }
            if lost.is_empty() {
                continue;
            }
            let reason = format!("site {site:?} was lost ({why}) with ranks {lost:?}");
            job.cancelling.get_or_insert((JobState::Failed, reason.clone()));
            let ended = job.settle(now_ms());
            self.state.save(Some(&job), None).await?;
            if !ended {
                world.cancel(&job, &reason);
            }
            self.events.add(if ended { "job.ended" } else { "job.cancelling" }, &job.id, reason).await;
            world.jobs.insert(job.n, job);
        }
        Ok(())
    }
}
