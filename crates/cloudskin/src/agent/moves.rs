//! Migrations: the source's end ([`Agent::depart`]) and the destination's ([`Agent::arrive`]).
//!
//! ```text
//!  source                                        hub                       destination
//!  Migrate ◀──────────────────────────────────── decides ──────────────▶ Expect
//!  pages go ahead ───────────────────────────────────────────────────────▶ writes them into new cells
//!  ranks stop, the rest goes ────────────────────────────────────────────▶ holds the ranks, restored
//!  Ready ──────────────────────────────────────▶ places in SQLite
//!  Verdict ◀──────────────────────────────────── 
//!  "go" ─────────────────────────────────────────────────────────────────▶ runs them
//!  End, with figures ──────────────────────────▶
//! ```
//!
//! Until the verdict the ranks are the source's: whatever goes wrong, they go on here. After `Ready` only the verdict counts, at both ends, however
//! long it takes. When the source can't say "go" any more, the hub says it. Before `Ready` nobody but the source knows that its ranks stand still, so
//! whatever it waits for then ends soon: with a time limit when the destination hangs, at once when the hub calls the move off, as it does also when the job is cancelled.

use super::{Agent, background, cells_max, jobs::{Held, Job, Phase, within}, lock};
use anyhow::Context;
use base::SiteId;
use cells::{Cell, link::{At, Interrupt}, transfer::{Arrival, Departure, Figures, Offer, Word}};
use mpi::Rank;
use orchestrator::proto::{Expect, Migrate, MigrationEnd, MigrationReady, MigrationVerdict, from_agent::Body};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

/// For all ranks of a move to come to a safe point.
const STOP_MAX: Duration = Duration::from_secs(10);
/// For the hub's `Expect`, which may come a little later than the source's offer.
const EXPECT_MAX: Duration = Duration::from_secs(5);
/// For a restored rank to be seen at work, before the source is told so anyway.
const BACK_MAX: Duration = Duration::from_secs(1);

/// A migration that this agent takes part in.
pub enum Move {
    /// The hub has said that these ranks will come here, and from where. Nothing of them is here yet.
    Expected(Expect),
    /// `interrupt` ends its waits as long as it is not `ready`.
    Leaving { job: String, ranks: Vec<u32>, ready: bool, verdict: mpsc::Sender<MigrationVerdict>, interrupt: Interrupt },
    /// Restored here; the hub may decide instead of the source.
    Arriving { job: String, ranks: Vec<u32>, verdict: Option<tokio::sync::oneshot::Sender<MigrationVerdict>> },
    /// Ended; the source's last word, if this was the source.
    Over { job: String, end: Option<Box<MigrationEnd>> },
}

impl Move {
    pub fn job(&self) -> &str {
        match self {
            Move::Expected(Expect { job, .. }) | Move::Leaving { job, .. } | Move::Arriving { job, .. } | Move::Over { job, .. } => job,
        }
    }

    /// Whether a thread is at work on it.
    pub fn open(&self) -> bool {
        matches!(self, Move::Leaving { .. } | Move::Arriving { .. })
    }

    /// Tells who waits for it here. The first verdict counts.
    fn decide(&mut self, verdict: MigrationVerdict) {
        match self {
            // The hub commits nothing before it was asked: what comes earlier calls the move off.
            Move::Leaving { ready: false, interrupt, .. } if !verdict.commit => interrupt.raise(&verdict.reason),
            Move::Leaving { verdict: to, .. } => drop(to.send(verdict)),
            Move::Arriving { verdict: to, .. } => {
                if let Some(to) = to.take() {
                    let _ = to.send(verdict);
                }
            }
            Move::Expected(_) | Move::Over { .. } => {}
        }
    }
}

/// What the destination has made ready for an offer.
struct Prepared<'a> {
    job: Arc<Job>,
    held: Vec<Arc<Held>>,
    /// Empty ones, by rank.
    cells: BTreeMap<u32, Cell>,
    room: Room<'a>,
}

/// Room kept for ranks that are offered, until they are among the agent's ranks or are given up.
struct Room<'a> {
    expected: &'a Mutex<usize>,
    ranks: usize,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        *lock(self.expected) -= self.ranks;
    }
}

/// How a move ended at the source.
struct Outcome {
    figures: Figures,
    /// `Err`: it stayed, or the destination could not be told.
    done: anyhow::Result<()>,
}

impl Agent {
    /// Ranks of a job that take part in a migration now.
    pub fn moving(&self, job: &str) -> Vec<u32> {
        let moves = lock(&self.moves);
        let ranks = moves.values().filter(|m| m.job() == job).flat_map(|m| match m {
            Move::Leaving { ranks, .. } | Move::Arriving { ranks, .. } => ranks.clone(),
            Move::Expected(_) | Move::Over { .. } => Vec::new(),
        });
        ranks.collect()
    }

    /// Forgets the job's moves. Those that are open end soon, and take themselves away.
    pub fn no_moves_of(&self, job: &str) {
        lock(&self.moves).retain(|_, m| m.job() != job || m.open());
    }

    /// Moves whose verdict is awaited, for the hub.
    pub fn ready(&self) -> Vec<MigrationReady> {
        let moves = lock(&self.moves);
        let ready = moves.iter().filter_map(|(id, m)| match m {
            Move::Leaving { job, ranks, ready: true, .. } => Some(MigrationReady { migration: *id, job: job.clone(), ranks: ranks.clone() }),
            _ => None,
        });
        ready.collect()
    }

    /// `MigrationVerdict`, to the source or to the destination.
    pub fn verdict(&self, verdict: MigrationVerdict) {
        let mut moves = lock(&self.moves);
        match moves.get_mut(&verdict.migration) {
            Some(Move::Over { end: Some(end), .. }) => {
                let end = Body::MigrationEnd((**end).clone());
                drop(moves);
                self.outbox.send(end);
            }
            Some(Move::Expected(_)) if !verdict.commit => drop(moves.remove(&verdict.migration)),
            Some(open) => open.decide(verdict),
            None => {}
        }
    }

    /// `Expect`. It may come twice, also when the ranks are here already.
    pub fn expect(&self, order: Expect) {
        lock(&self.moves).entry(order.migration).or_insert(Move::Expected(order));
    }

    /// The session is cut: what is still to come is said again in the next one, and what was called off meanwhile is not.
    pub fn expect_nothing(&self) {
        lock(&self.moves).retain(|_, m| !matches!(m, Move::Expected(_)));
    }

    /// What the hub has said of a move that another site offers: nobody else may put ranks here.
    fn expected(&self, offer: &Offer, peer: &str) -> anyhow::Result<Expect> {
        let until = within(EXPECT_MAX);
        let expect = loop {
            match lock(&self.moves).get(&offer.migration) {
                Some(Move::Expected(expect)) => break expect.clone(),
                Some(_) => anyhow::bail!("site {} knows migration {} already", self.site, offer.migration),
                None => {}
            }
            anyhow::ensure!(Instant::now() < until, "the hub has not told site {} of migration {}", self.site, offer.migration);
            std::thread::sleep(Duration::from_millis(5));
        };
        let source = SiteId::new(&expect.from_site).ok();
        anyhow::ensure!(source.is_some() && base::identity::site_of(peer) == source, "migration {} comes from site {}, not from {peer}", offer.migration, expect.from_site);
        let life = expect.spec.as_ref().map(|s| s.life);
        anyhow::ensure!(
            expect.job == offer.job && life == Some(offer.life) && expect.ranks == offer.ranks,
            "migration {} is of ranks {:?} of job {}, not of ranks {:?} of job {}, life {}",
            offer.migration,
            expect.ranks,
            expect.job,
            offer.ranks,
            offer.job,
            offer.life
        );
        Ok(expect)
    }

    /// The job has ended, or begins a new life: no verdict will come for its moves, so who waits for one gives up.
    pub fn settle(&self, job: &str, why: &str) {
        for (migration, open) in lock(&self.moves).iter_mut().filter(|(_, m)| m.job() == job) {
            open.decide(MigrationVerdict { migration: *migration, commit: false, reason: why.into(), ..Default::default() });
        }
    }

    /// From here on only the hub knows whose the ranks are. Fails if the move was called off before.
    fn begin_to_ask(&self, migration: u64, interrupt: &Interrupt) -> anyhow::Result<()> {
        let mut moves = lock(&self.moves);
        if let Some(why) = interrupt.raised() {
            anyhow::bail!(why);
        }
        if let Some(Move::Leaving { ready, .. }) = moves.get_mut(&migration) {
            *ready = true;
        }
        Ok(())
    }

    /// Remembers how a move ended, as long as its job is known here.
    fn over(&self, migration: u64, job: &str, end: Option<MigrationEnd>) {
        lock(&self.moves).insert(migration, Move::Over { job: job.into(), end: end.map(Box::new) });
        if self.job(job).is_none() {
            lock(&self.moves).remove(&migration); // `Forget` has come before, and does not come again
        }
    }

    /// `Migrate`: begins to move ranks away, on a thread of its own.
    pub fn depart(self: &Arc<Self>, order: Migrate) {
        let (verdict, verdicts) = mpsc::channel();
        let interrupt = Interrupt::default();
        {
            let mut moves = lock(&self.moves);
            match moves.get(&order.migration) {
                None => {}
                // The hub has not heard how it ended.
                Some(Move::Over { end: Some(end), .. }) => {
                    let end = Body::MigrationEnd((**end).clone());
                    drop(moves);
                    return self.outbox.send(end);
                }
                Some(_) => return,
            }
            let leaving = Move::Leaving { job: order.job.clone(), ranks: order.ranks.clone(), ready: false, verdict, interrupt: interrupt.clone() };
            moves.insert(order.migration, leaving);
        }
        let (agent, asked, began) = (self.clone(), order.clone(), Instant::now());
        let spawned = background("migration", move || {
            let outcome = agent.leave(&asked, &verdicts, &interrupt);
            agent.left(&asked, began, outcome);
        });
        if let Err(e) = spawned {
            self.left(&order, began, Outcome { figures: Figures::default(), done: Err(e) });
        }
    }

    /// Tells the hub how a move ended, and keeps that for when it asks again.
    fn left(&self, order: &Migrate, began: Instant, outcome: Outcome) {
        let f = outcome.figures;
        let end = MigrationEnd {
            migration: order.migration,
            ok: outcome.done.is_ok(),
            reason: outcome.done.as_ref().err().map_or(String::new(), crate::failure::line),
            state_bytes: f.state_bytes,
            moved_bytes: f.moved_bytes,
            moved_stopped_bytes: f.moved_stopped_bytes,
            downtime_ms: f.downtime.as_secs_f64() * 1e3,
            total_ms: began.elapsed().as_secs_f64() * 1e3,
            rounds: f.rounds,
            job: order.job.clone(),
            ranks: order.ranks.clone(),
        };
        self.over(order.migration, &order.job, Some(end.clone()));
        self.outbox.send(Body::MigrationEnd(end));
    }

    fn leave(self: &Arc<Self>, order: &Migrate, verdicts: &mpsc::Receiver<MigrationVerdict>, interrupt: &Interrupt) -> Outcome {
        let mut figures = Figures::default();
        let done = self.try_leave(order, verdicts, interrupt, &mut figures);
        Outcome { figures, done }
    }

    fn try_leave(
        self: &Arc<Self>,
        order: &Migrate,
        verdicts: &mpsc::Receiver<MigrationVerdict>,
        interrupt: &Interrupt,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        let job = self.job(&order.job).context("this agent holds no rank of the job")?;
        let held = |rank: &u32| job.held(*rank).filter(|h| h.running()).with_context(|| format!("rank {rank} is not running here"));
        let ranks: Vec<Arc<Held>> = order.ranks.iter().map(held).collect::<anyhow::Result<_>>()?;
        let program = self.program(&job.spec, &|| false)?;
        let offer = Offer {
            migration: order.migration,
            job: order.job.clone(),
            life: job.spec.life,
            program_sha256: program.sha256.clone(),
            ranks: order.ranks.clone(),
        };
        let to = SiteId::new(&order.to_site)?;
        let mut departure = Departure::open(&self.link, &to, &order.to_address, &offer, &self.engine, &program, &self.pace, interrupt)?;

        let controls: Vec<_> = ranks.iter().map(|h| (Rank(h.rank), h.control.clone())).collect();
        let running = || ranks.iter().all(|h| h.running());
        departure.ahead(&controls, running)?;

        let mut halted: Vec<(Arc<Held>, Option<Box<Cell>>)> = Vec::new();
        let stopped = self.stop_and_send(&job, &ranks, &mut departure, &mut halted, interrupt);
        let held = stopped.and_then(|()| Ok(departure.restored()?)).and_then(|()| self.begin_to_ask(order.migration, interrupt));
        let verdict = match held {
            Err(e) => MigrationVerdict { commit: false, reason: crate::failure::line(&e), ..Default::default() },
            Ok(()) => {
                // With what they printed unsaid, the session asks when it is said.
                if ranks.iter().all(|h| h.printer.flushed()) {
                    self.outbox.send(Body::MigrationReady(MigrationReady { migration: order.migration, job: order.job.clone(), ranks: order.ranks.clone() }));
                }
                // However long it takes: from here on only the hub knows whose the ranks are.
                verdicts.recv().context("the agent is stopping")?
            }
        };
        if !verdict.commit {
            for (held, cell) in halted {
                job.fabric.release(Rank(held.rank));
                self.unhalt(&job, &held, cell);
            }
            // Only now: a destination that hangs takes its time to hear it.
            departure.abandon(&verdict.reason);
            *figures = departure.figures.clone();
            anyhow::bail!("{}", verdict.reason);
        }
        let epochs: Vec<(u32, u64)> = verdict.places.iter().map(|p| (p.rank, p.epoch)).collect();
        // What comes for them here is passed on from now on.
        job.learn(&verdict.places);
        let told = departure.go(&epochs, || {
            for (held, _) in &halted {
                held.drop_it("the rank has moved");
                let mut ranks = lock(&job.ranks);
                if ranks.get(&held.rank).is_some_and(|h| Arc::ptr_eq(h, held)) {
                    ranks.remove(&held.rank);
                }
                drop(ranks);
                job.fabric.depart(Rank(held.rank));
            }
        });
        *figures = departure.figures.clone();
        Ok(told?)
    }

    fn stop_and_send(
        &self,
        job: &Job,
        ranks: &[Arc<Held>],
        departure: &mut Departure,
        halted: &mut Vec<(Arc<Held>, Option<Box<Cell>>)>,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        for held in ranks {
            held.halt(&job.fabric)?;
            halted.push((held.clone(), None));
        }
        let until = within(STOP_MAX);
        // All stand still before the first is written down: what a rank that still runs sends to one that is written down already would be in
        // the state of neither, and lost if this agent dies after the verdict.
        for (held, cell) in halted.iter_mut() {
            *cell = Some(held.stopped(until, interrupt)?);
        }
        for cell in halted.iter_mut().filter_map(|(_, cell)| cell.as_mut()) {
            departure.rest(cell)?;
        }
        Ok(())
    }

    /// The destination's end of a migration, on a thread of its own.
    pub fn arrive(self: &Arc<Self>, mut arrival: Arrival) {
        let offer = arrival.offer.clone();
        let source = arrival.peer();
        match self.prepare(&arrival) {
            Ok(prepared) => {
                if let Err(e) = self.receive(&mut arrival, prepared) {
                    tracing::warn!(migration = offer.migration, job = offer.job, source, error = crate::failure::line(&e), "ranks did not come here");
                }
            }
            Err(e) => {
                let why = crate::failure::line(&e);
                tracing::warn!(migration = offer.migration, job = offer.job, source, why, "a migration was refused");
                arrival.refuse(&why);
            }
        }
        // Nothing of a job stays where none of its ranks came to.
        self.let_go(&offer.job);
    }

    /// Keeps room for this many more ranks, before anything is made for them: offers that come at once share what there is.
    fn reserve(&self, ranks: usize) -> anyhow::Result<Room<'_>> {
        let mut expected = lock(&self.expected);
        let (here, max) = (self.living(), cells_max(self.slots) as usize);
        anyhow::ensure!(
            here + *expected + ranks <= max,
            "site {} has no room for {ranks} more ranks: it holds {here}, expects {expected}, and takes at most {max}; give its agent more --slots",
            self.site
        );
        *expected += ranks;
        Ok(Room { expected: &self.expected, ranks })
    }

    fn prepare(&self, arrival: &Arrival) -> anyhow::Result<Prepared<'_>> {
        let offer = &arrival.offer;
        let expect = self.expected(offer, &arrival.peer())?;
        let spec = expect.spec.context("the hub has told nothing of the job")?;
        anyhow::ensure!(offer.ranks.iter().all(|r| *r < spec.size), "it offers ranks that the job doesn't have");
        let mut seen = BTreeSet::new();
        if let Some(twice) = offer.ranks.iter().find(|r| !seen.insert(**r)) {
            anyhow::bail!("it offers rank {twice} twice");
        }
        let room = self.reserve(offer.ranks.len())?;
        let program = self.program(&spec, &|| false)?;
        let job = self.open_job(&spec, &expect.routes);
        anyhow::ensure!(job.spec.life == spec.life, "site {} knows a later life of job {}", self.site, spec.job);
        let (mut held, mut cells) = (Vec::new(), BTreeMap::new());
        for rank in &offer.ranks {
            anyhow::ensure!(job.held(*rank).is_none(), "rank {rank} is at site {} already", self.site);
            let new = Arc::new(Held::new(&spec.job, *rank, 0, Phase::Waiting, &self.late));
            let cell = Cell::new(&self.engine, &program, &self.spec(&job, &new)?, new.control.clone())?;
            cells.insert(*rank, cell);
            held.push(new);
        }
        Ok(Prepared { job, held, cells, room })
    }

    fn receive(self: &Arc<Self>, arrival: &mut Arrival, prepared: Prepared) -> anyhow::Result<()> {
        let Prepared { job, held, mut cells, room } = prepared;
        let offer = arrival.offer.clone();
        let frozen = arrival.receive(&mut cells)?;
        let (decide, mut decided) = tokio::sync::oneshot::channel();
        lock(&self.moves).insert(offer.migration, Move::Arriving { job: offer.job.clone(), ranks: offer.ranks.clone(), verdict: Some(decide) });
        for held in &held {
            lock(&job.ranks).insert(held.rank, held.clone());
        }
        drop(room); // they count among the ranks here
        let known = self.job(&offer.job).is_some_and(|known| Arc::ptr_eq(&known, &job));
        let word = match known.then(|| arrival.restored()) {
            Some(Ok(())) => arrival.word(async { (&mut decided).await.ok() }),
            Some(Err(e)) => Ok(Word::Silent(e.to_string())),
            // `settle` came before there was something to settle.
            None => Ok(Word::Drop("the job has ended, or was started again, meanwhile".into())),
        };
        // A source that can't be heard may have asked for the verdict before: only the hub knows.
        let (epochs, why) = match word {
            Ok(Word::Go(epochs)) => (Some(epochs), String::new()),
            Ok(Word::Drop(why)) => (None, why),
            Ok(Word::Silent(why)) => {
                tracing::warn!(migration = offer.migration, why, "the source is silent; the hub decides");
                settled(decided.blocking_recv().ok())
            }
            Err(verdict) => settled(verdict),
        };
        self.over(offer.migration, &offer.job, None);
        let Some(epochs) = epochs else {
            for held in &held {
                held.drop_it(&why);
                lock(&job.ranks).remove(&held.rank);
                job.fabric.depart(Rank(held.rank));
            }
            anyhow::bail!("{why}");
        };
        let here = |epoch| At { site: self.site.to_string(), address: self.address.clone(), epoch };
        job.route.learn(epochs.iter().map(|(rank, epoch)| (Rank(*rank), here(*epoch))));
        for held in &held {
            if let Some((_, epoch)) = epochs.iter().find(|(r, _)| *r == held.rank) {
                held.set_epoch(*epoch);
            }
            let mut cell = cells.remove(&held.rank).expect("one for each rank of the offer");
            cell.arrive(&frozen[&held.rank]);
            self.outbox.attach(&held.printer);
            self.launch(&job, held, Box::new(cell));
        }
        for held in &held {
            let until = within(BACK_MAX);
            while !held.control.back() && Instant::now() < until {
                std::thread::sleep(Duration::from_micros(50));
            }
            arrival.running(held.rank);
        }
        Ok(())
    }
}

fn settled(verdict: Option<MigrationVerdict>) -> (Option<Vec<(u32, u64)>>, String) {
    match verdict {
        Some(v) if v.commit => (Some(v.places.iter().map(|p| (p.rank, p.epoch)).collect()), String::new()),
        Some(v) => (None, v.reason),
        None => (None, "the agent is stopping".into()),
    }
}
