//! The ranks of this agent: from the order to start them to their end.
//!
//! ```text
//!  Starting ─▶ Running ◀─────▶ Stopped ─▶ (taken by a move or a checkpoint)
//!                 │              ▲
//!                 ▼              └ Waiting: restored here by a move, not decided yet
//!               Ended: kept, with its last event, until the hub says `Forget`
//! ```
//!
//! A running rank is a thread with its cell. A stop ends the thread and leaves the cell in [`Phase::Stopped`] for whoever asked for it; another
//! thread takes it up again. Only who set [`Held::halt`] may take the cell.

use super::{Agent, background, load::Meter, lock, printer::{Late, Printer}};
use anyhow::Context;
use base::clock::now_ms;
use cells::{Bucket, Cell, Control, DOING, Ended, Program, Spec, engine, link::{At, Interrupt, Route}, snapshot::Chain, wasi::Mounts};
use mpi::{Fabric, Rank, Traffic};
use orchestrator::proto::{self, JobSpec, Place, RankEvent, rank_event::State};
use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, atomic::{AtomicBool, AtomicU64, Ordering}},
    time::{Duration, Instant},
};

/// Memory of a rank whose job says nothing.
const MEMORY_DEFAULT: u64 = 1 << 30;
/// Ranks stand behind the agent itself when both want a core, so that a full site still answers and moves.
const NICE: i32 = 5;
/// For memory to be given back that a job started again needs.
const ROOM_MAX: Duration = Duration::from_secs(5);
/// Peers of a rank of which the hub is told.
const PEERS_MAX: usize = 64;
/// How often who waits for a rank to stop looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// Bucket of the snapshots.
pub const CHECKPOINTS: &str = "checkpoints";

/// A snapshot can't be read, or not be gone on with.
#[derive(Debug)]
struct Unusable {
    rank: u32,
    /// Of the checkpoint that is at fault, which may be one on which the wanted one stands.
    prefix: String,
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the snapshot of rank {} in checkpoint {} can't be used", self.rank, self.prefix)
    }
}

/// A job that has, or had, ranks here.
pub struct Job {
    pub spec: JobSpec,
    pub fabric: Arc<Fabric>,
    pub route: Arc<Route>,
    pub ranks: Mutex<BTreeMap<u32, Arc<Held>>>,
    /// The hub has been told that it does not run in the tier that it asked for.
    told: AtomicBool,
}

/// A rank here.
pub struct Held {
    pub rank: u32,
    epoch: AtomicU64,
    pub control: Arc<Control>,
    pub printer: Arc<Printer>,
    state: Mutex<Standing>,
    changed: Condvar,
    meter: Mutex<Meter>,
    /// Of its last snapshots, by which the next may be an increment. They do not move with the rank: the site to which it goes writes a complete one first.
    pub known: Mutex<Vec<Arc<cells::draft::Known>>>,
    /// Of its program's code, once it runs.
    tier: OnceLock<cells::Tier>,
}

struct Standing {
    phase: Phase,
    /// Somebody has asked for the cell and will take care of it.
    halt: bool,
    /// It is not this agent's any more: nothing is said of it.
    gone: bool,
}

pub enum Phase {
    Starting,
    Running,
    Stopped(Box<Cell>),
    /// Its cell is with who halted it.
    Taken,
    /// Restored here; a verdict decides.
    Waiting,
    Ended,
}

impl Standing {
    /// The cell of a rank that stands still.
    fn take(&mut self) -> Option<Box<Cell>> {
        match std::mem::replace(&mut self.phase, Phase::Taken) {
            Phase::Stopped(cell) => Some(cell),
            other => {
                self.phase = other;
                None
            }
        }
    }
}

impl Held {
    pub fn new(job: &str, rank: u32, epoch: u64, phase: Phase, late: &Late) -> Held {
        Held {
            rank,
            epoch: AtomicU64::new(epoch),
            control: Arc::default(),
            printer: Printer::new(job, rank, late),
            state: Mutex::new(Standing { phase, halt: false, gone: false }),
            changed: Condvar::new(),
            meter: Mutex::default(),
            known: Mutex::default(),
            tier: OnceLock::new(),
        }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    pub fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::SeqCst);
    }

    pub fn waiting(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Waiting)
    }

    pub fn running(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Running)
    }

    fn ended(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Ended)
    }

    /// Asks the rank to stop for the caller, who must call [`Agent::unhalt`] or [`Held::drop_it`] afterwards. Does not wait.
    ///
    /// # Errors
    /// Somebody else has asked, or it does not run.
    pub fn halt(&self, fabric: &Fabric) -> anyhow::Result<()> {
        let mut state = lock(&self.state);
        let obstacle = match state.phase {
            Phase::Ended => Some("has ended"),
            _ if state.gone => Some("was given up"),
            Phase::Starting => Some("is starting"),
            Phase::Waiting => Some("is arriving"),
            Phase::Running if !state.halt => None,
            Phase::Running | Phase::Stopped(_) | Phase::Taken => Some("stands still already, for a checkpoint or a migration"),
        };
        if let Some(obstacle) = obstacle {
            anyhow::bail!("rank {} {obstacle}", self.rank);
        }
        state.halt = true;
        self.control.stop();
        drop(state);
        fabric.mailbox(Rank(self.rank)).bell.ring();
        Ok(())
    }

    /// Waits until a halted rank stands still, and leaves its cell where it is.
    pub fn stand_still(&self, until: Instant) -> anyhow::Result<()> {
        self.wait(until, &Interrupt::default()).map(drop)
    }

    /// Waits until a halted rank stands still and gives its cell. Fails soon after the interrupt is raised, too.
    pub fn stopped(&self, until: Instant, interrupt: &Interrupt) -> anyhow::Result<Box<Cell>> {
        Ok(self.wait(until, interrupt)?.take().expect("`wait` found it so, and the lock is still held"))
    }

    fn wait(&self, until: Instant, interrupt: &Interrupt) -> anyhow::Result<MutexGuard<'_, Standing>> {
        let mut state = lock(&self.state);
        let mut meter = Meter::default();
        meter.look(&self.control.threads());
        loop {
            match &state.phase {
                Phase::Stopped(_) => return Ok(state),
                Phase::Ended => anyhow::bail!("rank {} ended meanwhile", self.rank),
                _ if state.gone => anyhow::bail!("rank {} was given up meanwhile", self.rank),
                _ if !state.halt => anyhow::bail!("rank {} was told to go on meanwhile", self.rank),
                _ => {}
            }
            if let Some(why) = interrupt.raised() {
                anyhow::bail!(why);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Calls that wait for messages come back for a stop. So who sleeps all the same is in a call that doesn't.
                let (_, wanted) = meter.look(&self.control.threads());
                let why = match wanted > 0.5 {
                    true => "it is in a long innermost loop, which can't be stopped",
                    false => "it waits for a file, or has ended its program and waits until its last messages are taken; try again later",
                };
                anyhow::bail!("rank {} did not come to a safe point in time: {why}", self.rank);
            }
            state = self.changed.wait_timeout(state, left.min(LOOK)).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// Gives up the rank, whatever it does; nothing more is said of it.
    pub fn drop_it(&self, why: &str) {
        let mut state = lock(&self.state);
        state.gone = true;
        self.control.kill(why);
        let cell = state.take();
        if !matches!(state.phase, Phase::Running | Phase::Starting) {
            state.phase = Phase::Ended;
        }
        self.changed.notify_all();
        drop(state);
        drop(cell); // giving back a large memory takes a while
    }
}

impl Job {
    pub fn held(&self, rank: u32) -> Option<Arc<Held>> {
        lock(&self.ranks).get(&rank).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Held>> {
        lock(&self.ranks).values().cloned().collect()
    }

    /// Takes in where ranks are.
    pub fn learn(&self, places: &[Place]) {
        self.route.learn(places.iter().map(|p| (Rank(p.rank), At { site: p.site.clone(), address: p.address.clone(), epoch: p.epoch })));
    }

    fn event(&self, held: &Held, state: State) -> RankEvent {
        RankEvent { job: self.spec.job.clone(), rank: held.rank, epoch: held.epoch(), state: state as i32, at_ms: now_ms(), ..RankEvent::default() }
    }
}

impl Agent {
    pub fn job(&self, id: &str) -> Option<Arc<Job>> {
        lock(&self.jobs).get(id).cloned()
    }

    /// The job of this specification, with what is known of its ranks' places. An older life of it ends.
    pub fn open_job(&self, spec: &JobSpec, places: &[Place]) -> Arc<Job> {
        let mut jobs = lock(&self.jobs);
        if let Some(old) = jobs.get(&spec.job) {
            if old.spec.life >= spec.life {
                let job = old.clone();
                drop(jobs);
                job.learn(places);
                return job;
            }
            self.end_job(old, "the job was started again");
        }
        let (fabric, route) = self.link.open((spec.job.clone(), spec.life), spec.size);
        let job = Arc::new(Job { spec: spec.clone(), fabric, route, ranks: Mutex::default(), told: AtomicBool::new(false) });
        jobs.insert(spec.job.clone(), job.clone());
        drop(jobs);
        job.learn(places);
        job
    }

    fn end_job(&self, job: &Job, why: &str) {
        for held in job.all() {
            held.drop_it(why);
            job.fabric.mailbox(Rank(held.rank)).bell.ring();
        }
        self.settle(&job.spec.job, why);
        self.link.close(&(job.spec.job.clone(), job.spec.life));
    }

    /// `StartRanks`. Each rank starts on a thread of its own.
    pub fn start(self: &Arc<Self>, order: proto::StartRanks) {
        let Some(spec) = order.spec else { return };
        let job = self.open_job(&spec, &order.routes);
        if job.spec.life != spec.life {
            return; // of a life that is over
        }
        let mut from = order.from_parents;
        if !order.from_checkpoint.is_empty() {
            from.insert(0, order.from_checkpoint);
        }
        for place in order.start {
            let held = Arc::new(Held::new(&spec.job, place.rank, place.epoch, Phase::Starting, &self.late));
            {
                let mut ranks = lock(&job.ranks);
                match ranks.get(&place.rank) {
                    Some(old) if old.epoch() >= place.epoch => continue,
                    Some(old) => old.drop_it("the rank was started again"),
                    None => {}
                }
                ranks.insert(place.rank, held.clone());
            }
            // From here on the rank's messages are kept.
            job.fabric.hold(Rank(place.rank));
            self.outbox.attach(&held.printer);
            let (agent, job_, held_, from) = (self.clone(), job.clone(), held.clone(), from.clone());
            let spawned = background("rank's start", move || {
                if let Err(e) = agent.begin(&job_, &held_, &from) {
                    let bad = e.downcast_ref::<Unusable>();
                    let failed = RankEvent { bad_checkpoint: bad.is_some(), bad_prefix: bad.map_or_else(String::new, |u| u.prefix.clone()), ..Agent::failed(&job_, &held_, crate::failure::line(&e)) };
                    agent.end(&job_, &held_, failed);
                }
            });
            if let Err(e) = spawned {
                self.fail(&job, &held, crate::failure::line(&e));
            }
        }
    }

    /// The rank can't run, which isn't its program's doing.
    fn fail(&self, job: &Job, held: &Held, message: String) {
        self.end(job, held, Self::failed(job, held, message));
    }

    fn failed(job: &Job, held: &Held, message: String) -> RankEvent {
        RankEvent { exit_code: 1, message, ..job.event(held, State::Failed) }
    }

    /// Makes a rank's cell, new or from a checkpoint, and runs it.
    /// `from`: the checkpoint's prefix and those of the ones on which it stands, the newest first.
    fn begin(self: &Arc<Self>, job: &Arc<Job>, held: &Arc<Held>, from: &[String]) -> anyhow::Result<()> {
        let program = self.program(&job.spec, &|| held.control.killed())?;
        let spec = self.spec(job, held)?;
        let cell = if from.is_empty() {
            let cell = Cell::new(&self.engine, &program, &spec, held.control.clone())?;
            job.fabric.arrive(Rank(held.rank), Vec::new());
            cell
        } else {
            self.thaw(held, &program, &spec, from)?
        };
        self.launch(job, held, Box::new(cell));
        Ok(())
    }

    /// A rank's cell from the checkpoint with the first of these prefixes, of which there is one at least, and as many of the others as its snapshot stands on.
    /// Fails with [`Unusable`] when another checkpoint may do better.
    fn thaw(&self, held: &Held, program: &Arc<Program>, spec: &Spec, from: &[String]) -> anyhow::Result<Cell> {
        let at_fault = |i: usize| Unusable { rank: held.rank, prefix: from[i].clone() };
        let bucket = geds::BucketName::new(CHECKPOINTS)?;
        // The chain borrows from what is opened for it.
        let objects: Vec<OnceCell<geds::Object>> = from.iter().map(|_| OnceCell::new()).collect();
        let file = |i: usize| -> anyhow::Result<&[u8]> {
            let key = geds::Key::new(format!("{}/rank-{}", from[i], held.rank))?;
            let object = self.node.blocking().open(&bucket, &key).with_context(|| at_fault(i))?;
            Ok(objects[i].get_or_init(|| object).bytes())
        };
        let mut snapshot = Chain::begin(file(0)?).with_context(|| at_fault(0))?;
        for i in 1..from.len() {
            if snapshot.missing().is_none() {
                break;
            }
            // Damaged, or another one than was written: whatever stands on it can't be used.
            snapshot.add(file(i)?).with_context(|| at_fault(i))?;
        }
        let until = within(ROOM_MAX);
        let mut cell = loop {
            match snapshot.thaw(&self.engine, program, spec, held.control.clone()) {
                // Ranks of the job's older life may still be on their way out, with their memory.
                Err(cells::Error::Resources(_)) if Instant::now() < until => std::thread::sleep(LOOK),
                Err(e @ (cells::Error::Resources(_) | cells::Error::Killed(_))) => return Err(e.into()),
                thawed => break thawed.with_context(|| at_fault(0))?,
            }
        };
        cell.arrive(snapshot.frozen());
        Ok(cell)
    }

    /// What a rank's cell is made of.
    pub fn spec(&self, job: &Job, held: &Held) -> anyhow::Result<Spec> {
        let ours = &job.spec;
        let mut mounts = Mounts::default();
        for name in &ours.buckets {
            let bucket = geds::BucketName::new(name.as_str())?;
            let lease = (self.node.policy(&bucket).lifetime == geds::Lifetime::Job).then(|| ours.job.clone());
            mounts.folders.push((name.clone(), Arc::new(Bucket { store: self.node.blocking(), name: bucket, lease })));
        }
        let mut steps = ours.workdir.split('/').filter(|s| !s.is_empty());
        if let Some(at) = steps.next().and_then(|first| ours.buckets.iter().position(|b| b == first)) {
            mounts.workdir = Some((at, steps.collect::<Vec<_>>().join("/")));
        }
        Ok(Spec {
            rank: Rank(held.rank),
            size: ours.size,
            args: ours.args.clone(),
            env: ours.env.clone(),
            memory_max: if ours.memory_max_bytes == 0 { MEMORY_DEFAULT } else { ours.memory_max_bytes },
            budget: self.budget.clone(),
            mounts,
            output: held.printer.clone(),
            fabric: job.fabric.clone(),
            place: self.site.to_string(),
            spin: cells::spin(self.living(), self.cores.len()),
        })
    }

    /// Ranks here that have not ended: those that have a cell, or are about to.
    pub fn living(&self) -> usize {
        lock(&self.jobs).values().map(|j| lock(&j.ranks).values().filter(|h| !h.ended()).count()).sum()
    }

    /// Runs a cell that is here on a thread of its own, until it ends or is taken.
    pub fn launch(self: &Arc<Self>, job: &Arc<Job>, held: &Arc<Held>, cell: Box<Cell>) {
        let tier = *held.tier.get_or_init(|| cell.program().tier());
        // Who has asked for a tier by hand is told; what a site has chosen for all is a matter of its log.
        let instead = cell.program().instead().filter(|_| !job.spec.tier.is_empty() && !job.told.swap(true, Ordering::Relaxed));
        let message = instead.map_or_else(String::new, |why| format!("it runs in the {tier} tier and not in the {} one: {why}", job.spec.tier));
        lock(&held.state).phase = Phase::Running;
        held.printer.event(RankEvent { message, ..job.event(held, State::Running) });
        let (agent, job_, held_) = (self.clone(), job.clone(), held.clone());
        // Of a thread's name 15 bytes are seen from outside, where `top -H` shows which job takes a core.
        let thread = std::thread::Builder::new().name(format!("r{} {}", held.rank, job.spec.job)).stack_size(engine::THREAD_STACK);
        let spawned = thread.spawn(move || {
            // SAFETY: setpriority has no memory effects; 0 means the calling thread here (Linux takes a thread's number for PRIO_PROCESS).
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
            if let Err(error) = cells::fence::rank() {
                tracing::debug!(%error, "a rank runs without a filter of its own");
            }
            agent.run(&job_, &held_, cell);
        });
        if let Err(e) = spawned {
            self.fail(job, held, format!("no thread for rank {}: {e}; start fewer ranks", held.rank));
        }
    }

    fn run(self: &Arc<Self>, job: &Arc<Job>, held: &Arc<Held>, mut cell: Box<Cell>) {
        let ended = loop {
            // A panic is a fault of ours, and must not leave a rank that never ends. It is safe to go on after one: this cell is not run or looked
            // at again, only dropped (its control has let go of its memory already), and what others see as well (mailboxes, printer, files) is
            // behind locks that are held for whole steps only.
            match catch_unwind(AssertUnwindSafe(|| cell.run())) {
                Ok(Ended::Stopped) => {
                    let mut state = lock(&held.state);
                    if state.gone {
                        return;
                    }
                    if state.halt {
                        state.phase = Phase::Stopped(cell);
                        held.changed.notify_all();
                        return;
                    }
                    // Whoever asked has changed their mind.
                }
                ended => break ended,
            }
        };
        drop(cell);
        let ended = match ended {
            Ok(ended) => ended,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
                tracing::error!(job = job.spec.job, rank = held.rank, why = text, "internal error in a rank's cell");
                return self.fail(job, held, format!("rank {}: internal error at site {}, not of the program: {text}", held.rank, self.site));
            }
        };
        let event = match ended {
            Ended::Exited(exit_code) => RankEvent { exit_code, ..job.event(held, State::Exited) },
            Ended::Failed { message, backtrace, code } => RankEvent { exit_code: code.unwrap_or(1), message, backtrace, ..job.event(held, State::Failed) },
            Ended::Killed(message) => RankEvent { exit_code: 1, message, ..job.event(held, State::Cancelled) },
            Ended::Stopped => unreachable!("the loop goes on"),
        };
        self.end(job, held, event);
    }

    fn end(&self, job: &Job, held: &Held, event: RankEvent) {
        {
            let mut state = lock(&held.state);
            state.phase = Phase::Ended;
            held.changed.notify_all();
            if state.gone {
                return;
            }
        }
        if event.state() == State::Failed {
            tracing::info!(job = job.spec.job, rank = held.rank, why = event.message, "rank failed");
        }
        held.printer.event(event);
    }

    /// Lets a halted rank go on: `cell` if the caller had taken it.
    pub fn unhalt(self: &Arc<Self>, job: &Arc<Job>, held: &Arc<Held>, cell: Option<Box<Cell>>) {
        job.fabric.acknowledge_all(Rank(held.rank), false);
        let cell = {
            let mut state = lock(&held.state);
            state.halt = false;
            held.changed.notify_all(); // who waits for it to stand still needn't any more
            if state.gone {
                return;
            }
            held.control.clear();
            cell.or_else(|| state.take())
        };
        if let Some(cell) = cell {
            self.launch(job, held, cell);
        }
    }

    /// Works on the cell of a stopped rank, whose messages are held meanwhile. Afterwards the rank stands still again, unless it was told to go on or
    /// was given up in the meantime. No lock is held during `work`, which may take seconds. `None`: it doesn't stand still, or somebody has its cell.
    pub fn with_stopped<T>(self: &Arc<Self>, job: &Arc<Job>, held: &Arc<Held>, work: impl FnOnce(&mut Cell) -> T) -> Option<T> {
        let mut cell = {
            let mut state = lock(&held.state);
            let cell = state.take()?;
            job.fabric.hold(Rank(held.rank));
            cell
        };
        let done = work(&mut cell);
        let mut state = lock(&held.state);
        if !state.gone {
            job.fabric.release(Rank(held.rank)); // a rank that was given up has departed from the fabric, or is about to
        }
        if state.halt && !state.gone && !held.control.killed() {
            state.phase = Phase::Stopped(cell);
            held.changed.notify_all();
        } else {
            drop(state);
            self.unhalt(job, held, Some(cell));
        }
        Some(done)
    }

    /// `Cancel`.
    pub fn cancel(self: &Arc<Self>, order: &proto::Cancel) {
        let Some(job) = self.job(&order.job) else { return };
        for held in job.all() {
            held.control.kill(&order.reason);
            // A rank that stands still for a checkpoint must run to notice; one that moves notices wherever it goes on.
            let stopped = matches!(lock(&held.state).phase, Phase::Stopped(_));
            if stopped {
                self.unhalt(&job, &held, None);
            }
            job.fabric.mailbox(Rank(held.rank)).bell.ring();
        }
    }

    /// `Forget`.
    pub fn forget(&self, id: &str) {
        let job = lock(&self.jobs).remove(id);
        if let Some(job) = job {
            self.end_job(&job, "the job has ended");
        }
        self.no_moves_of(id);
    }

    /// Drops what is known of a job, if no rank of it is here and nothing of it is under way: ranks that were to come did not, or all have left. Should
    /// they come after all, the hub says again what is needed; messages for them that come here meanwhile are sent again where they are.
    pub fn let_go(&self, id: &str) {
        let mut jobs = lock(&self.jobs);
        // Who else has the job may be about to put a rank into it.
        let idle = |job: &Arc<Job>| Arc::strong_count(job) == 1 && lock(&job.ranks).is_empty() && self.moving(id).is_empty();
        if let Some(job) = jobs.get(id).filter(|job| idle(job)).cloned() {
            jobs.remove(id);
            self.link.close(&(job.spec.job.clone(), job.spec.life));
            drop(jobs);
            self.no_moves_of(id);
        }
    }

    /// Jobs here that have no rank here.
    pub fn empty(&self) -> BTreeSet<String> {
        lock(&self.jobs).iter().filter(|(_, job)| lock(&job.ranks).is_empty()).map(|(id, _)| id.clone()).collect()
    }

    /// `Routes`: ranks that are elsewhere by now, in a later epoch, are not ours.
    pub fn routes(&self, order: &proto::Routes) {
        let Some(job) = self.job(&order.job) else { return };
        job.learn(&order.places);
        let moving = self.moving(&order.job);
        for place in order.places.iter().filter(|p| p.site != self.site.as_str() && !moving.contains(&p.rank)) {
            let stale = job.held(place.rank).filter(|h| h.epoch() < place.epoch && !h.waiting());
            if let Some(held) = stale {
                tracing::warn!(job = order.job, rank = place.rank, at = place.site, "this rank is elsewhere by now and is dropped here");
                held.drop_it("the rank is elsewhere by now");
                lock(&job.ranks).remove(&place.rank);
                job.fabric.depart(Rank(place.rank));
            }
        }
    }

    /// Every rank that is here, for the hub.
    pub fn running(&self) -> Vec<proto::RankRef> {
        let mut refs = Vec::new();
        for (id, job) in lock(&self.jobs).iter() {
            for held in job.all() {
                refs.push(proto::RankRef { job: id.clone(), rank: held.rank, epoch: held.epoch(), restored_waiting: held.waiting() });
            }
        }
        refs
    }

    /// What the ranks use. For plain threads: it asks the kernel of each.
    pub fn telemetry(&self) -> proto::Telemetry {
        let mut telemetry = proto::Telemetry { at_ms: now_ms(), store_bytes: self.node.used_bytes(), ..Default::default() };
        let jobs: Vec<Arc<Job>> = lock(&self.jobs).values().cloned().collect();
        for job in jobs {
            for held in job.all().into_iter().filter(|h| !h.ended()) {
                let control = &held.control;
                let figures = control.figures();
                let ((cpu_used, cpu_wanted), waiting) = {
                    let mut meter = lock(&held.meter);
                    (meter.look(&control.threads()), meter.waiting(figures.waited))
                };
                let mut peers = job.fabric.traffic(Rank(held.rank));
                let total = |of: fn(&Traffic) -> u64| peers.iter().map(of).fold(0, u64::wrapping_add);
                let (sent, received) = (total(|t| t.sent), total(|t| t.received));
                let (sent_bytes, received_bytes) = (total(|t| t.sent_bytes), total(|t| t.received_bytes));
                peers.sort_by_key(|t| std::cmp::Reverse((t.bytes(), t.messages())));
                peers.truncate(PEERS_MAX);
                let peer = |t: Traffic| proto::Traffic { rank: t.peer.0, sent: t.sent, received: t.received, sent_bytes: t.sent_bytes, received_bytes: t.received_bytes };
                let doing = match lock(&held.state).phase {
                    Phase::Running => DOING.get(control.doing.load(Ordering::Relaxed) as usize).copied().unwrap_or("compute"),
                    Phase::Starting => "starting",
                    Phase::Waiting => "arriving",
                    Phase::Stopped(_) | Phase::Taken => "paused",
                    Phase::Ended => continue,
                };
                telemetry.cpu_used += cpu_used;
                telemetry.cpu_wanted += cpu_wanted;
                let memory_bytes = control.memory_bytes.load(Ordering::Relaxed);
                telemetry.memory_bytes += memory_bytes;
                telemetry.ranks.push(proto::RankLoad {
                    job: job.spec.job.clone(),
                    rank: held.rank,
                    cpu_used,
                    cpu_wanted,
                    memory_bytes,
                    sent,
                    received,
                    sent_bytes,
                    received_bytes,
                    doing: doing.into(),
                    peers: peers.into_iter().map(peer).collect(),
                    tier: held.tier.get().map_or_else(String::new, cells::Tier::to_string),
                    waiting,
                    stopped_after_ms: figures.stopped_after.map_or(0.0, |time| time.as_secs_f64() * 1e3),
                    written_bytes_per_second: figures.written.unwrap_or(0.0),
                });
            }
        }
        telemetry
    }
}

/// Until now plus this.
pub fn within(time: Duration) -> Instant {
    Instant::now() + time
}
