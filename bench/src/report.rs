//! What was measured last, kept in the tree: `bench/report.jsonl`, a line for each figure, and `bench/report.md`, the same as a table.
//!
//! A machine is not the same all day, and all benches together take hours. So each bench replaces its own lines only, and each line says of which day and commit it is, what
//! else the machine did, and how fast it was: by how long a fixed calculation took at that moment, and how long the start of a program after a pause.

use crate::{BENCHES, root};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{path::Path, process::{Command, Stdio}, thread::sleep, time::{Duration, Instant}};

/// Steps of a calculation that no compiler shortens and no cache helps.
const STEPS: u64 = 20_000_000;

/// What tells of one run of a bench: which one, when, of what, and on how fast a machine.
pub struct Occasion {
    bench: &'static str,
    day: String,
    commit: String,
    /// Milliseconds of the fixed calculation, on one processor.
    pace: f64,
    /// Milliseconds of a program's start after a pause; `None` if it can't be started.
    cold: Option<f64>,
}

impl Occasion {
    /// Takes the machine's pace, in some 50 ms, and then pauses for two seconds.
    pub fn of(bench: &'static str) -> Occasion {
        Occasion { bench, day: said("date", &["-u", "+%Y-%m-%d"]), commit: commit(), pace: pace(), cold: cold() }
    }

    /// Adds it to a figure.
    pub fn note(&self, figure: &mut Value) {
        if let Some(f) = figure.as_object_mut() {
            for (key, value) in [("bench", Value::from(self.bench)), ("day", self.day.as_str().into()), ("commit", self.commit.as_str().into()), ("pace_ms", self.pace.into()), ("cold_ms", self.cold.into())] {
                f.insert(key.into(), value);
            }
        }
    }
}

/// What is measured; the report that is being written does not count as a change.
fn commit() -> String {
    let head = said("git", &["rev-parse", "--short", "HEAD"]);
    match said("git", &["status", "--porcelain", "--", ".", ":!bench/report.*"]).as_str() {
        "?" => head,
        _changed => head + "-dirty",
    }
}

/// The first line that a program prints, in the checkout; "?" if there is none.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(root()).output();
    let text = output.ok().filter(|o| o.status.success()).and_then(|o| String::from_utf8(o.stdout).ok());
    text.and_then(|t| t.lines().next().map(str::to_string)).unwrap_or_else(|| "?".into())
}

fn pace() -> f64 {
    let began = Instant::now();
    let mut x = 88_172_645_463_325_252_u64;
    for _ in 0..STEPS {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    std::hint::black_box(x);
    began.elapsed().as_secs_f64() * 1e3
}

/// Where what is touched after a rest is slow, the fixed calculation sees nothing of it, and what waits between two events does.
fn cold() -> Option<f64> {
    sleep(Duration::from_secs(2));
    let program = std::env::current_exe().ok()?;
    let began = Instant::now();
    let ended = Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
    ended.success().then(|| began.elapsed().as_secs_f64() * 1e3)
}

/// Puts what a bench has measured in the place of what it had measured before.
///
/// # Errors
/// A file of the report can't be read or written, or a line of it is not JSON.
pub fn record(bench: &str, figures: &[Value]) -> Result<()> {
    record_in(&root().join("bench"), bench, figures)
}

fn record_in(folder: &Path, bench: &str, figures: &[Value]) -> Result<()> {
    let lines = folder.join("report.jsonl");
    let before = if lines.exists() { std::fs::read_to_string(&lines).with_context(|| format!("read {}", lines.display()))? } else { String::new() };
    let mut all = Vec::new();
    for (n, line) in before.lines().enumerate() {
        all.push(serde_json::from_str::<Value>(line).with_context(|| format!("line {} of {} is no JSON; mend it, or remove the file", n + 1, lines.display()))?);
    }
    all.retain(|f| f["bench"] != bench);
    all.extend(figures.iter().cloned());
    // In the order of the benches, each as it was printed.
    all.sort_by_key(|f| BENCHES.iter().position(|(name, ..)| f["bench"] == *name).unwrap_or(BENCHES.len()));
    let text: String = all.iter().map(|f| format!("{f}\n")).collect();
    for (path, text) in [(lines, text), (folder.join("report.md"), table(&all))] {
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn table(figures: &[Value]) -> String {
    let mut text = String::from(
        "# Benchmarks\n\nWritten by `cargo run --release -p bench -- --record NAME...` (or `all`), one bench after the other and not on one day; not edited by hand. Ours and the peer were \
         measured in one run, in turn. *Load*: the machine's when the bench was over. *Pace*: how long one processor took for a fixed calculation when it began, in ms: the machines are virtual ones, \
         and twice as much is half as fast. *Cold*: how long the start of the bench's own program took then, after two seconds of rest, in ms: some 3 when it is started again at once. \
         Where it is much more, what is touched after a rest is slow. The same as JSON: [report.jsonl](report.jsonl).\n\n\
         | figure | ours | peer | ratio | unit | goal | met | day | commit | load | pace | cold |\n| --- | ---: | ---: | ---: | --- | --- | --- | --- | --- | ---: | ---: | ---: |\n",
    );
    for f in figures {
        let cell = |key: &str| match &f[key] {
            Value::String(s) => s.replace('|', "\\|"),
            Value::Number(n) => n.as_f64().map_or(String::new(), |n| if n.abs() >= 1000.0 { format!("{n:.0}") } else { format!("{n:.3}") }),
            Value::Bool(met) => if *met { "yes" } else { "**no**" }.into(),
            Value::Null => "–".into(),
            other => other.to_string(),
        };
        let met = if f["goal"] == "reported" { "–".into() } else { cell("met") };
        let goal = if f["not_run"].is_null() { cell("goal") } else { format!("not run: {}", cell("not_run")) };
        let of = |key: &str| f[key].as_f64().map_or("–".into(), |ms| format!("{ms:.0}"));
        let (pace, cold) = (of("pace_ms"), of("cold_ms"));
        text += &format!(
            "| {} | {} | {} | {} | {} | {goal} | {met} | {} | {} | {} | {pace} | {cold} |\n",
            cell("name"), cell("ours"), cell("peer"), cell("ratio"), cell("unit"), cell("day"), cell("commit"), cell("load")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bench_replaces_its_own_figures_and_leaves_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let record = |bench: &str, figures: &[Value]| record_in(folder.path(), bench, figures);
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let figure = |bench: &str, name: &str, ours: f64| json!({"bench": bench, "name": name, "ours": ours, "goal": "<= 2", "met": ours <= 2.0, "unit": "µs", "pace_ms": 61.2, "cold_ms": 7.1});
        record("pingpong", &[figure("pingpong", "pingpong.64B", 0.5)]).unwrap();
        record("instantiate", &[figure("instantiate", "b", 5.0), figure("instantiate", "a", 1.0)]).unwrap();
        record("pingpong", &[figure("pingpong", "pingpong.64B", 3.0), json!({"bench": "pingpong", "name": "pingpong.8B", "not_run": "there is no mpirun"})]).unwrap();
        let names: Vec<String> = read("report.jsonl").lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["name"].as_str().unwrap().into()).collect();
        assert_eq!(names, ["b", "a", "pingpong.64B", "pingpong.8B"], "in the order of the benches, each as it was printed");
        let table = read("report.md");
        assert!(table.contains("| pingpong.64B | 3.000 |") && !table.contains("0.500"), "{table}");
        assert!(table.contains("| **no** |") && table.contains("| yes |") && table.contains("not run: there is no mpirun") && table.contains("| 61 | 7 |"), "{table}");

        std::fs::write(folder.path().join("report.jsonl"), "{}\nno\n").unwrap();
        let told = format!("{:#}", record("pingpong", &[]).unwrap_err());
        assert!(told.contains("line 2 of") && told.contains("report.jsonl is no JSON; mend it"), "{told}");
        assert_eq!(read("report.jsonl"), "{}\nno\n", "what can't be read is not written over");
    }
}
