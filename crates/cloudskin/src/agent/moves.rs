//! Migrations: the source's end ([`Agent::depart`]) and the destination's ([`Agent::arrive`]).
//!
//! ```text
//!  source                                        hub                       destination
//!  Migrate ◀──────────────────────────────────── decides
//!  pages go ahead ───────────────────────────────────────────────────────▶ writes them into new cells
//!  ranks stop, the rest goes ────────────────────────────────────────────▶ holds the ranks, restored
//!  Ready ──────────────────────────────────────▶ places in SQLite
//!  Verdict ◀──────────────────────────────────── 
//!  "go" ─────────────────────────────────────────────────────────────────▶ runs them
//!  End, with figures ──────────────────────────▶
//! ```
//!
//! Until the verdict the ranks are the source's: whatever goes wrong, they go on here. After `Ready` only the verdict counts, at both ends, however
//! long it takes. When the source can't say "go" any more, the hub says it.

use super::{Agent, jobs::{Held, Job, Phase, within}, lock};
use anyhow::Context;
use base::SiteId;
use cells::{Cell, link::At, transfer::{Arrival, Departure, Figures, Offer, Word}};
use mpi::Rank;
use orchestrator::proto::{Migrate, MigrationEnd, MigrationReady, MigrationVerdict, StartRanks, from_agent::Body};
use prost::Message;
use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

/// For all ranks of a move to come to a safe point.
const STOP_MAX: Duration = Duration::from_secs(10);
/// For a restored rank to be seen at work, before the source is told so anyway.
const BACK_MAX: Duration = Duration::from_secs(1);

/// A migration that this agent takes part in.
pub enum Move {
    Leaving { job: String, ranks: Vec<u32>, ready: bool, verdict: mpsc::Sender<MigrationVerdict> },
    /// Restored here; the hub may decide instead of the source.
    Arriving { job: String, ranks: Vec<u32>, verdict: Option<tokio::sync::oneshot::Sender<MigrationVerdict>> },
    /// Ended; the source's last word, if this was the source.
    Over { job: String, end: Option<Box<MigrationEnd>> },
}

impl Move {
    pub fn job(&self) -> &str {
        match self {
            Move::Leaving { job, .. } | Move::Arriving { job, .. } | Move::Over { job, .. } => job,
        }
    }

    pub fn open(&self) -> bool {
        !matches!(self, Move::Over { .. })
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
            Move::Over { .. } => Vec::new(),
        });
        ranks.collect()
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
            Some(Move::Leaving { verdict: to, .. }) => drop(to.send(verdict)),
            Some(Move::Arriving { verdict: to, .. }) => {
                if let Some(to) = to.take() {
                    let _ = to.send(verdict);
                }
            }
            Some(Move::Over { end: Some(end), .. }) => {
                let end = Body::MigrationEnd((**end).clone());
                drop(moves);
                self.outbox.send(end);
            }
            Some(Move::Over { end: None, .. }) | None => {}
        }
    }

    /// `Migrate`: begins to move ranks away, on a thread of its own.
    pub fn depart(self: &Arc<Self>, order: Migrate) {
        let (verdict, verdicts) = mpsc::channel();
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
            let leaving = Move::Leaving { job: order.job.clone(), ranks: order.ranks.clone(), ready: false, verdict };
            moves.insert(order.migration, leaving);
        }
        let agent = self.clone();
        std::thread::spawn(move || {
            let began = Instant::now();
            let outcome = agent.leave(&order, &verdicts);
            let reason = outcome.done.as_ref().err().map_or(String::new(), crate::failure::line);
            let f = outcome.figures;
            let end = MigrationEnd {
                migration: order.migration,
                ok: outcome.done.is_ok(),
                reason,
                state_bytes: f.state_bytes,
                moved_bytes: f.moved_bytes,
                moved_stopped_bytes: f.moved_stopped_bytes,
                downtime_ms: f.downtime.as_secs_f64() * 1e3,
                total_ms: began.elapsed().as_secs_f64() * 1e3,
                rounds: f.rounds,
                job: order.job.clone(),
                ranks: order.ranks.clone(),
            };
            let over = Move::Over { job: order.job, end: Some(Box::new(end.clone())) };
            lock(&agent.moves).insert(order.migration, over);
            agent.outbox.send(Body::MigrationEnd(end));
        });
    }

    fn leave(self: &Arc<Self>, order: &Migrate, verdicts: &mpsc::Receiver<MigrationVerdict>) -> Outcome {
        let mut figures = Figures::default();
        let done = self.try_leave(order, verdicts, &mut figures);
        Outcome { figures, done }
    }

    fn try_leave(self: &Arc<Self>, order: &Migrate, verdicts: &mpsc::Receiver<MigrationVerdict>, figures: &mut Figures) -> anyhow::Result<()> {
        let job = self.job(&order.job).context("this agent holds no rank of the job")?;
        let held = |rank: &u32| job.held(*rank).filter(|h| h.running()).with_context(|| format!("rank {rank} is not running here"));
        let ranks: Vec<Arc<Held>> = order.ranks.iter().map(held).collect::<anyhow::Result<_>>()?;
        let program = self.program(&job.spec.module_sha256)?;
        let places = (0..job.spec.size).map(|r| (r, job.route.at(Rank(r)))).filter(|(_, at)| !at.site.is_empty());
        let places = places.map(|(rank, at)| orchestrator::proto::Place { rank, site: at.site, address: at.address, epoch: at.epoch }).collect();
        let context = StartRanks { spec: Some(job.spec.clone()), routes: places, ..Default::default() }.encode_to_vec();
        let offer = Offer {
            migration: order.migration,
            job: order.job.clone(),
            life: job.spec.life,
            program_sha256: program.sha256.clone(),
            ranks: order.ranks.clone(),
            context,
        };
        let to = SiteId::new(&order.to_site)?;
        let mut departure = Departure::open(&self.link, &to, &order.to_address, &offer, &self.engine, &program)?;

        let controls: Vec<_> = ranks.iter().map(|h| (Rank(h.rank), h.control.clone())).collect();
        let running = || ranks.iter().all(|h| h.running());
        departure.ahead(&controls, running)?;

        let mut halted: Vec<(Arc<Held>, Option<Box<Cell>>)> = Vec::new();
        let stopped = self.stop_and_send(&job, &ranks, &mut departure, &mut halted).and_then(|()| Ok(departure.restored()?));
        let verdict = match stopped {
            Err(e) => MigrationVerdict { commit: false, reason: crate::failure::line(&e), ..Default::default() },
            Ok(()) => {
                if let Some(Move::Leaving { ready, .. }) = lock(&self.moves).get_mut(&order.migration) {
                    *ready = true;
                }
                // With what they printed unsaid, the session asks when it is said.
                if ranks.iter().all(|h| h.printer.attached()) {
                    self.outbox.send(Body::MigrationReady(MigrationReady { migration: order.migration, job: order.job.clone(), ranks: order.ranks.clone() }));
                }
                // However long it takes: from here on only the hub knows whose the ranks are.
                verdicts.recv().context("the agent is stopping")?
            }
        };
        if !verdict.commit {
            departure.abandon(&verdict.reason);
            *figures = departure.figures.clone();
            for (held, cell) in halted {
                job.fabric.release(Rank(held.rank));
                self.unhalt(&job, &held, cell);
            }
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
    ) -> anyhow::Result<()> {
        for held in ranks {
            anyhow::ensure!(held.halt(&job.fabric), "rank {} is not running any more, or stands still for a checkpoint", held.rank);
            halted.push((held.clone(), None));
        }
        let until = within(STOP_MAX);
        for (held, place) in halted {
            departure.rest(place.insert(held.stopped(until)?))?;
        }
        Ok(())
    }

    /// The destination's end of a migration, on a thread of its own.
    pub fn arrive(self: &Arc<Self>, mut arrival: Arrival) {
        let offer = arrival.offer.clone();
        let source = arrival.peer();
        match self.prepare(&arrival) {
            Ok((job, held, cells)) => {
                if let Err(e) = self.receive(&mut arrival, &job, held, cells) {
                    tracing::warn!(migration = offer.migration, job = offer.job, source, error = crate::failure::line(&e), "ranks did not come here");
                }
            }
            Err(e) => {
                let why = crate::failure::line(&e);
                tracing::warn!(migration = offer.migration, job = offer.job, source, why, "a migration was refused");
                arrival.refuse(&why);
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn prepare(self: &Arc<Self>, arrival: &Arrival) -> anyhow::Result<(Arc<Job>, Vec<Arc<Held>>, BTreeMap<u32, Cell>)> {
        let offer = &arrival.offer;
        let context = StartRanks::decode(&offer.context[..]).context("the job's description can't be read")?;
        let spec = context.spec.context("the job has no description")?;
        anyhow::ensure!(spec.job == offer.job && spec.life == offer.life && spec.size <= 1024, "the job's description is of another job");
        anyhow::ensure!(offer.ranks.iter().all(|r| *r < spec.size), "it offers ranks that the job doesn't have");
        let here: usize = lock(&self.jobs).values().map(|j| lock(&j.ranks).len()).sum();
        anyhow::ensure!(here + offer.ranks.len() <= 2 * self.slots as usize + 16, "site {} has no room for {} more ranks", self.site, offer.ranks.len());
        let program = self.program(&spec.module_sha256)?;
        let job = self.open_job(&spec, &context.routes);
        anyhow::ensure!(job.spec.life == spec.life, "site {} knows a later life of job {}", self.site, spec.job);
        let (mut held, mut cells) = (Vec::new(), BTreeMap::new());
        for rank in &offer.ranks {
            anyhow::ensure!(job.held(*rank).is_none(), "rank {rank} is at site {} already", self.site);
            let new = Arc::new(Held::new(&spec.job, *rank, 0, Phase::Waiting));
            let cell = Cell::new(&self.engine, &program, &self.spec(&job, &new)?, new.control.clone())?;
            cells.insert(*rank, cell);
            held.push(new);
        }
        Ok((job, held, cells))
    }

    fn receive(self: &Arc<Self>, arrival: &mut Arrival, job: &Arc<Job>, held: Vec<Arc<Held>>, mut cells: BTreeMap<u32, Cell>) -> anyhow::Result<()> {
        let offer = arrival.offer.clone();
        let frozen = arrival.receive(&mut cells)?;
        let (decide, mut decided) = tokio::sync::oneshot::channel();
        lock(&self.moves).insert(offer.migration, Move::Arriving { job: offer.job.clone(), ranks: offer.ranks.clone(), verdict: Some(decide) });
        for held in &held {
            lock(&job.ranks).insert(held.rank, held.clone());
        }
        let word = match arrival.restored() {
            Ok(()) => arrival.word(async { (&mut decided).await.ok() }),
            Err(e) => Ok(Word::Silent(e.to_string())),
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
        lock(&self.moves).insert(offer.migration, Move::Over { job: offer.job.clone(), end: None });
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
            self.launch(job, held, Box::new(cell));
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
