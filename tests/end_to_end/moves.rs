//! Migrations at random moments, asked for as a user asks, and what each of them cost.

use crate::platform::Platform;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often a migration is asked about.
const POLL: Duration = Duration::from_millis(3);

/// Moves ranks about. Where they go and when is random; the seed is printed, and can be given in `CLOUDSKIN_TEST_SEED`.
pub struct Mover {
    random: StdRng,
    pub done: Vec<Value>,
    /// Migrations that ended otherwise: their number and reason. In each of them a rank had ended meanwhile.
    pub failed: Vec<String>,
    /// Why migrations were not begun, and how often.
    pub refused: BTreeMap<String, u32>,
    /// Migrations that left a job with ranks at both sites.
    pub splits: u32,
}

impl Mover {
    pub fn new(what: &str) -> Mover {
        let seed = std::env::var("CLOUDSKIN_TEST_SEED").map_or_else(|_| rand::random(), |s| s.parse().expect("CLOUDSKIN_TEST_SEED is a number"));
        println!("{what}: seed {seed}");
        Mover { random: StdRng::seed_from_u64(seed), done: Vec::new(), failed: Vec::new(), refused: BTreeMap::new(), splits: 0 }
    }

    /// Lets the ranks work for a random time.
    pub fn pause(&mut self, longest: Duration) {
        std::thread::sleep(self.random.random_range(Duration::ZERO..longest));
    }

    /// Moves some ranks that are at one site, often a single one, to the other. `false`: the job has ended.
    pub fn move_some(&mut self, platform: &Platform, job: &str) -> bool {
        let told = platform.job(job);
        if !["pending", "running"].contains(&told["state"].as_str().unwrap()) {
            return false;
        }
        let mut at: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for rank in told["ranks"].as_array().unwrap().iter().filter(|r| r["state"] == "running") {
            at.entry(rank["site"].as_str().unwrap()).or_default().push(rank["rank"].as_u64().unwrap());
        }
        let Some((from, here)) = (!at.is_empty()).then(|| at.iter().nth(self.random.random_range(0..at.len()))).flatten() else {
            std::thread::sleep(POLL); // not started, or ended and not counted yet
            return true;
        };
        let one = here[self.random.random_range(0..here.len())];
        let ranks: Vec<u64> = match self.random.random_range(0..4) {
            0 => here.clone(),
            1 | 2 => vec![one],
            _ => here.iter().copied().filter(|r| *r == one || self.random.random_bool(0.5)).collect(),
        };
        let to = if *from == "edge" { "cloud" } else { "edge" };
        self.migrate(platform, job, to, &ranks);
        true
    }

    /// Moves these ranks and waits for the end of it. `false`: they are where they were.
    pub fn migrate(&mut self, platform: &Platform, job: &str, to: &str, ranks: &[u64]) -> bool {
        let mut command = platform.command(&["migrate", job, "--to", to, "-o", "json"]);
        command.args(ranks.iter().flat_map(|r| ["--rank".to_string(), r.to_string()]));
        let output = command.output().unwrap();
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            let why: String = why.chars().map(|c| if c.is_ascii_digit() { 'N' } else { c }).collect();
            let expected = ["is not running", "is still under way"].iter().any(|e| why.contains(e));
            assert!(expected, "ranks {ranks:?} of {job} to {to}: {why}\n{}", platform.logs());
            *self.refused.entry(why.trim().to_string()).or_default() += 1;
            return false;
        }
        let begun: Value = serde_json::from_slice(&output.stdout).unwrap();
        let id = begun["id"].to_string();
        let mut migration = Value::Null;
        platform.wait(&format!("migration {id} to end"), |p| {
            std::thread::sleep(POLL);
            migration = p.json(&["get", "migrations", &id])[0].take();
            ["done", "failed"].contains(&migration["state"].as_str().unwrap())
        });
        if migration["state"] == "failed" {
            let reason = migration["reason"].as_str().unwrap();
            // The one good reason: a rank came to its end before it could be stopped. The hub may hear of that a little later.
            platform.wait(&format!("a rank of {migration:#} to have ended, else it failed for no good reason"), |p| {
                let told = p.job(job);
                told["state"] != "running" || ranks.iter().any(|r| told["ranks"][*r as usize]["state"] != "running")
            });
            self.failed.push(format!("migration {id} of {job}: {reason}"));
            return false;
        }
        let told = platform.job(job);
        let sites: BTreeSet<&str> = told["ranks"].as_array().unwrap().iter().map(|r| r["site"].as_str().unwrap()).collect();
        self.splits += u32::from(sites.len() > 1);
        self.done.push(migration);
        true
    }

    /// One line about all migrations, and one for each reason why some were none.
    pub fn report(&self, what: &str) {
        // Without figures: the job ended before the source's report.
        let reported = self.done.iter().filter(|m| m["total_ms"].as_f64() > Some(0.0));
        let mut downtimes: Vec<f64> = reported.map(|m| m["downtime_ms"].as_f64().unwrap()).collect();
        downtimes.sort_by(f64::total_cmp);
        let downtime = match downtimes.as_slice() {
            [] => "none reported".to_string(),
            all => format!("{:.1} ms, {:.1} ms, {:.1} ms", all[0], all[all.len() / 2], all[all.len() - 1]),
        };
        let single = self.done.iter().filter(|m| m["ranks"].as_array().unwrap().len() == 1).count();
        let (done, splits) = (self.done.len(), self.splits);
        println!("{what}: {done} migrations ({single} of single ranks, {splits} left the job split), downtime least, median, most: {downtime}");
        for why in &self.failed {
            println!("  failed: {why}");
        }
        for (why, times) in &self.refused {
            println!("  refused {times} times: {why}");
        }
    }
}
