//! The plane with a world around it: two sites, a job that goes where it is advised to, other tenants that come and go, and
//! noise on everything. The world is simulated; the plane is the real one.

mod support;

use std::collections::BTreeMap;

use learning::{
    JobId, JobLoad, JobView, Observation, Options, Outcome, Plane, Recommendation, SiteId,
    SiteView, World, explain, replay,
};
use support::Random;

const STEP_MS: u64 = 500;
const SITES: [&str; 2] = ["edge", "cloud"];

fn site(index: usize) -> SiteId {
    SiteId::new(SITES[index]).unwrap()
}

struct Simulation {
    plane: Plane,
    random: Random,
    now_ms: u64,
    /// Where the job is.
    at: usize,
    advised: Vec<Recommendation>,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        Simulation {
            plane: Plane::new(Options::default()),
            random: Random::new(seed),
            now_ms: 1_700_000_000_000,
            at: 0,
            advised: vec![],
        }
    }

    /// Runs for `ms`. `others` gives the demand of the other tenants in cores at both sites, by time since now.
    /// Each report is blurred by `noise` cores and comes a little late; the job always follows the advice.
    fn run(
        &mut self,
        ms: u64,
        noise: f64,
        mut others: impl FnMut(&mut Random, u64) -> [f64; 2],
    ) -> usize {
        let job = JobId::new("job-1").unwrap();
        let (begin_ms, before) = (self.now_ms, self.advised.len());
        while self.now_ms < begin_ms + ms {
            self.now_ms += STEP_MS;
            let others = others(&mut self.random, self.now_ms - begin_ms);
            for (index, &other) in others.iter().enumerate() {
                let blur =
                    |random: &mut Random, value: f64| (value + noise * random.normal()).max(0.0);
                let own = if index == self.at {
                    blur(&mut self.random, 4.0)
                } else {
                    0.0
                };
                let cpu_wanted = own + blur(&mut self.random, other);
                let cpu_used = cpu_wanted.min(1.0);
                let jobs: BTreeMap<_, _> = (index == self.at)
                    .then(|| {
                        (
                            job.clone(),
                            JobLoad {
                                cpu_used: 0.5,
                                cpu_wanted: own,
                                ranks: 4,
                            },
                        )
                    })
                    .into_iter()
                    .collect();
                let at_ms = self.now_ms + self.random.next() % 60;
                self.plane.observe(Observation {
                    at_ms,
                    site: site(index),
                    cores: 1.0,
                    cpu_used,
                    cpu_wanted,
                    jobs,
                });
            }
            let sites = (0..2)
                .map(|i| SiteView {
                    site: site(i),
                    cores: 1.0,
                    slots_free: 8,
                    alive: true,
                })
                .collect();
            let view = JobView {
                job: job.clone(),
                site: site(self.at),
                ranks: 4,
                state_bytes: 64 << 20,
                running_for_ms: self.now_ms - begin_ms,
            };
            for advice in self.plane.advise(
                self.now_ms + 60,
                &World {
                    sites,
                    jobs: vec![view],
                },
            ) {
                self.plane.settle(advice.id, Outcome::Taken, self.now_ms);
                self.plane.settle(advice.id, Outcome::Done, self.now_ms);
                self.at = 1 - self.at;
                self.advised.push(advice);
            }
        }
        self.advised.len() - before
    }
}

const HOUR_MS: u64 = 3_600_000;

#[test]
fn the_story_of_the_spine() {
    for seed in 0..10 {
        let mut simulation = Simulation::new(seed);
        assert_eq!(
            simulation.run(30_000, 0.2, |_, _| [0.0, 0.0]),
            0,
            "alone, nothing is gained"
        );
        let begin_ms = simulation.now_ms;
        assert_eq!(
            simulation.run(20_000, 0.2, |_, _| [4.0, 0.0]),
            1,
            "four ranks of another tenant came"
        );
        let advice = &simulation.advised[0];
        assert!((1.5..2.5).contains(&advice.gain), "gain {}", advice.gain);
        let took_ms = advice.at_ms - begin_ms;
        assert!(
            (3_000..12_000).contains(&took_ms),
            "took {took_ms} ms: {}",
            advice.reason
        );
        assert_eq!(
            simulation.run(HOUR_MS / 4, 0.2, |_, _| [4.0, 0.0]),
            0,
            "and there it stays"
        );
        assert_eq!(
            simulation.run(HOUR_MS / 4, 0.2, |_, _| [0.0, 0.0]),
            0,
            "also when the other has gone"
        );
    }
}

#[test]
fn an_hour_of_noise_moves_nothing() {
    for seed in 100..104 {
        let mut simulation = Simulation::new(seed);
        let moves = simulation.run(HOUR_MS, 0.8, |_, _| [2.0, 2.0]);
        assert_eq!(
            moves,
            0,
            "equal sites: {:#?}",
            simulation
                .advised
                .iter()
                .map(|a| &a.reason)
                .collect::<Vec<_>>()
        );
        assert_eq!(
            simulation.run(HOUR_MS, 0.8, |_, _| [2.5, 1.5]),
            0,
            "a small difference"
        );
    }
}

#[test]
fn no_ping_pong_between_sites_that_are_busy_by_turns_or_at_random() {
    for seed in 200..204 {
        let mut simulation = Simulation::new(seed);
        // Both sites have tenants that come and go at random, for half a minute on the average.
        let mut busy = [false; 2];
        let moves = simulation.run(HOUR_MS, 0.4, |random, _| {
            busy.iter_mut().for_each(|b| *b ^= random.unit() < 0.015);
            busy.map(|b| if b { 4.0 } else { 0.0 })
        });
        println!("{moves} moves in an hour");
        for pair in simulation.advised.windows(2) {
            let rested_ms = pair[1].at_ms - pair[0].at_ms;
            assert!(rested_ms >= 20_000, "moved again after {rested_ms} ms");
            if pair[1].to == pair[0].from && rested_ms < 600_000 {
                assert!(pair[1].gain >= 2.0, "went back for {}", pair[1].gain);
            }
        }
        assert!(moves <= 60, "{moves} moves in an hour");
    }
}

#[test]
fn a_spike_shorter_than_the_hold_moves_nothing() {
    for seed in 300..310 {
        let mut simulation = Simulation::new(seed);
        // Two and a half seconds of forty ranks, each time at another moment of half a minute.
        let mut begin_ms = 0;
        let moves = simulation.run(HOUR_MS / 2, 0.2, |random, ms| {
            if ms % 30_000 == STEP_MS {
                begin_ms = ms + random.next() % 25_000;
            }
            [
                if ms >= 30_000 && (begin_ms..begin_ms + 2_500).contains(&ms) {
                    40.0
                } else {
                    0.0
                },
                0.0,
            ]
        });
        assert_eq!(
            moves,
            0,
            "{:#?}",
            simulation
                .advised
                .iter()
                .map(|a| &a.reason)
                .collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_periodic_load_is_learned_and_does_not_toss_the_job_about() {
    let mut simulation = Simulation::new(400);
    // A crowd of six at the edge for 5 s of each 20 s: the job can't profit from a move that lasts so short.
    let moves = simulation.run(HOUR_MS, 0.2, |_, ms| {
        [if ms % 20_000 < 5_000 { 6.0 } else { 0.0 }, 0.0]
    });
    assert!(moves <= 1, "{moves} moves");
}

#[test]
fn decisions_replay_bit_for_bit_from_json() {
    let mut replayed = 0;
    for seed in 500..520 {
        let mut simulation = Simulation::new(seed);
        simulation.run(HOUR_MS / 6, 0.7, |random, ms| {
            [
                [5.0, 0.3][(ms / 60_000 % 2) as usize] + random.unit(),
                [0.2, 5.0][(ms / 60_000 % 2) as usize],
            ]
        });
        for advice in &simulation.advised {
            let stored = serde_json::to_string(advice).unwrap();
            let loaded: Recommendation = serde_json::from_str(&stored).unwrap();
            assert_eq!(&loaded, advice);
            let (first, second) = (
                replay(&advice.inputs).unwrap(),
                replay(&loaded.inputs).unwrap(),
            );
            assert_eq!(
                serde_json::to_string(&first).unwrap(),
                serde_json::to_string(&second).unwrap()
            );
            assert_eq!(first.gain.to_bits(), advice.gain.to_bits());
            assert_eq!((first.advised, &first.reason), (true, &advice.reason));
            assert_eq!(first.forecast_from, advice.forecast_from);
            assert!(
                first.gain_observed >= first.gain_needed
                    && first.gain_forecast >= first.gain_needed
                    && first.held_ms >= 3_000
            );
            assert!(
                explain(&loaded).ends_with("the same decision"),
                "{}",
                explain(&loaded)
            );
            replayed += 1;
        }
    }
    println!("{replayed} decisions replayed");
    assert!(replayed >= 20, "too few to mean anything: {replayed}");
}
