//! The routes on which programs are sent, and what must come out: on each of them what the same program prints and writes that was never moved.
//!
//! | route | what it proves |
//! | --- | --- |
//! | stays, each machine and tier | the same output without any move |
//! | A → B and B → A, interpreter | by Pulley's bytecode on both sides |
//! | A → B and B → A, quick and fast | by machine code that each side has compiled itself, with Cranelift and with LLVM |
//! | A → B, compiled ahead | by code that A has made for B (`cloudskin compile --target`), found in B's cache: B compiles nothing |
//! | back and forth | machine and tier change with each of several moves |
//! | code of the other machine | B finds A's code under the name of its own, says so and compiles |
//! | NaNs | the one thing that processors do differently (`docs/design/tiers.md`): a NaN that was computed keeps its bits over a move, and the next one has the other processor's sign |

use crate::leg;
use anyhow::{Context, ensure};
use cells::toolchain::driver::{self, Lang};
use cells::{Engine, Machine, Tier, engine};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

#[derive(Default)]
pub struct Options {
    pub other: Option<PathBuf>,
    pub emulator: Vec<String>,
    /// Programs whose name has one of these texts; all without one.
    pub only: Vec<String>,
    pub seed: u64,
    pub json: Option<PathBuf>,
    /// Kept, with all that was written; without it a folder that goes away.
    pub work: Option<PathBuf>,
}

/// Attempts at a route: whether a program is still at work when it is to be stopped is a matter of time.
const ATTEMPTS: u32 = 6;

/// A program that is sent around.
struct Sample {
    /// Below the repository.
    source: &'static str,
    ranks: u32,
    args: &'static [&'static str],
    /// For the compiler.
    words: &'static [&'static str],
    what: &'static str,
}

const fn sample(source: &'static str, ranks: u32, args: &'static [&'static str], what: &'static str) -> Sample {
    Sample { source, ranks, args, words: &[], what }
}

/// As short as they can be and be stopped several times: an emulated interpreter takes thousands of times as long.
static SAMPLES: [Sample; 10] = [
    sample("tests/programs/numbers.c", 1, &["100000"], "floating point to the last bit"),
    sample("tests/programs/cg.c", 3, &["30", "48"], "floating point and collectives"),
    sample("tests/programs/exchange.c", 2, &["1500"], "messages both ways"),
    sample("tests/programs/objects.c", 3, &["6"], "MPI's objects"),
    sample("crates/execution/cells/tests/programs/windows.c", 3, &[], "one-sided communication"),
    sample("tests/programs/exceptions.cc", 2, &[], "C++ exceptions"),
    sample("tests/programs/jumps.c", 2, &[], "longjmp"),
    sample("tests/programs/recursion.c", 2, &["16"], "thousands of frames"),
    sample("tests/programs/files.c", 2, &[".", "1500"], "files open for writing"),
    Sample { source: "crates/execution/cells/tests/programs/threads/hybrid.c", ranks: 2, args: &["40"], words: &["-fopenmp"], what: "OpenMP with MPI" },
];

/// One of the two machines.
struct Side {
    machine: Machine,
    /// What runs this program there.
    command: Vec<OsString>,
    cache: PathBuf,
}

/// Where a leg is run: which side, and in which tier.
type Stop = (usize, Tier);

/// What a job has printed and written, by name.
type Left = BTreeMap<String, Vec<u8>>;

/// A program that has been compiled, and what is known of its run without a move.
struct Task<'s> {
    sample: &'s Sample,
    module: PathBuf,
    args: Vec<&'s str>,
    expected: Left,
    /// How long it takes, where and in which tiers it can be run.
    whole_us: HashMap<Stop, u64>,
}

/// One line of the table.
struct Row {
    route: String,
    legs: Vec<Value>,
    /// Why it is not as it should be.
    wrong: Option<String>,
}

impl Row {
    fn moves(&self) -> usize {
        self.legs.iter().filter(|leg| leg["stopped"] == true).count()
    }

    /// All ranks' snapshots of a move together, at most.
    fn snapshot_bytes_max(&self) -> u64 {
        let of = |leg: &Value| leg["snapshot_bytes"].as_array().into_iter().flatten().filter_map(Value::as_u64).sum();
        self.legs.iter().map(of).max().unwrap_or(0)
    }
}

struct Proof {
    sides: [Side; 2],
    work: PathBuf,
    random: StdRng,
    out: Vec<fs::File>,
    rows: u32,
    right: u32,
    moves: usize,
    /// Tiers that did not take a program, and why.
    left_out: BTreeSet<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn run(options: &Options) -> anyhow::Result<bool> {
    let scratch = tempfile::tempdir().context("make a folder for the programs and their snapshots")?;
    let work = options.work.clone().unwrap_or_else(|| scratch.path().into());
    let here = Machine::HERE.context("agents are built for x86-64 and aarch64, and this is neither")?;
    let other = match here {
        _ if options.other.is_none() => here,
        Machine::X86_64 => Machine::Aarch64,
        Machine::Aarch64 => Machine::X86_64,
    };
    let this = std::env::current_exe().context("find this program")?;
    let side = |machine: Machine, command: Vec<OsString>, name: &str| {
        let cache = work.join(format!("cache-{name}"));
        Side { machine, command, cache }
    };
    let there = options.emulator.iter().map(OsString::from).chain([options.other.clone().unwrap_or_else(|| this.clone()).into_os_string()]).collect();
    let sides = [side(here, vec![this.clone().into_os_string()], "a"), side(other, there, "b")];
    fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
    let out = options.json.iter().map(|path| fs::File::create(path).with_context(|| format!("write {}", path.display()))).collect::<anyhow::Result<_>>()?;
    let mut proof = Proof { sides, work, random: StdRng::seed_from_u64(options.seed), out, rows: 0, right: 0, moves: 0, left_out: BTreeSet::new() };

    println!("A: {here}. B: {other}{}. Seed {}.", if options.emulator.is_empty() { String::new() } else { format!(", by `{}`", options.emulator.join(" ")) }, options.seed);
    if here == other {
        println!("Both are of one kind: this shows nothing of another processor.");
    }
    println!("\n| program | ranks | route | moves | snapshots, KiB | ms | result |\n| --- | --- | --- | --- | --- | --- | --- |");
    let begin = Instant::now();
    let wanted = |sample: &&Sample| options.only.is_empty() || options.only.iter().any(|text| sample.source.contains(text.as_str()));
    for sample in SAMPLES.iter().filter(wanted) {
        proof.sample(sample)?;
    }
    ensure!(proof.rows > 0, "no program has {:?} in its name", options.only);
    let Proof { rows, right, moves, .. } = proof;
    proof.line(&json!({
        "summary": { "rows": rows, "right": right, "moves": moves }, "machines": [here.to_string(), other.to_string()], "seed": options.seed, "seconds": begin.elapsed().as_secs(),
    }))?;
    proof.left_out.iter().for_each(|what| println!("\nLeft out for some programs: {what}."));
    println!("\n{right} of {rows} routes are right, with {moves} moves, in {} s.", begin.elapsed().as_secs());
    Ok(right == rows)
}

impl Proof {
    fn line(&mut self, value: &Value) -> anyhow::Result<()> {
        self.out.iter_mut().try_for_each(|file| writeln!(file, "{value}")).context("write the JSON file")
    }

    fn tell(&mut self, sample: &Sample, row: &Row) -> anyhow::Result<()> {
        let name = Path::new(sample.source).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (moves, bytes) = (row.moves(), row.snapshot_bytes_max());
        let ms = row.legs.iter().filter_map(|leg| leg["ran_us"].as_u64()).sum::<u64>() / 1000;
        let size = if bytes == 0 { String::new() } else { (bytes / 1024).to_string() };
        println!("| {name} | {} | {} | {moves} | {size} | {ms} | {} |", sample.ranks, row.route, row.wrong.as_deref().unwrap_or("the same"));
        self.rows += 1;
        self.right += u32::from(row.wrong.is_none());
        self.moves += moves;
        self.line(&json!({
            "program": name, "what": sample.what, "ranks": sample.ranks, "route": row.route, "moves": moves, "snapshot_bytes_max": bytes, "right": row.wrong.is_none(), "wrong": row.wrong, "legs": row.legs,
        }))
    }

    /// One leg, in a process of its own: what it did, and what it said on standard error.
    fn leg(&self, task: &Task, at: Stop, cache: &Path, job: &Path, pause_us: Option<u64>) -> anyhow::Result<(Value, String)> {
        let side = &self.sides[at.0];
        let mut command = Command::new(&side.command[0]);
        command.args(&side.command[1..]).arg("leg").arg("--program").arg(&task.module).arg("--job").arg(job).arg("--cache").arg(cache);
        command.args(["--tier", &at.1.to_string(), "--ranks", &task.sample.ranks.to_string()]);
        if let Some(pause) = pause_us {
            command.args(["--pause-us", &pause.to_string()]);
        }
        let output = command.arg("--").args(&task.args).output().with_context(|| format!("start {:?}", side.command))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{}, {} tier: {}: {}", side.machine, at.1, output.status, said.trim());
        let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("read what a leg says: {:?}", String::from_utf8_lossy(&output.stdout)))?;
        ensure!(report["machine"] == side.machine.to_string(), "the leg was run on {}, not on {}", report["machine"], side.machine);
        Ok((report, said))
    }

    /// A new folder for a job.
    fn job(&self) -> anyhow::Result<PathBuf> {
        let job = self.work.join("job");
        if job.exists() {
            fs::remove_dir_all(&job).with_context(|| format!("remove {}", job.display()))?;
        }
        fs::create_dir_all(&job).with_context(|| format!("make {}", job.display()))?;
        Ok(job)
    }

    /// The whole program at one place.
    fn stays(&self, task: &Task, at: Stop, cache: &Path) -> anyhow::Result<(Value, String, Left)> {
        let job = self.job()?;
        let (report, said) = self.leg(task, at, cache, &job, None)?;
        Ok((report, said, left(&job, task.sample)?))
    }

    /// Over all these places. A program that ends too early is begun again and moved sooner, a few times.
    fn travels(&mut self, task: &Task, stops: &[Stop], caches: [&Path; 2]) -> anyhow::Result<(Vec<Value>, Left)> {
        let mut share = 1.0;
        let mut best: Option<(Vec<Value>, Left)> = None;
        for _ in 0..ATTEMPTS {
            let (job, mut legs) = (self.job()?, Vec::new());
            for (i, stop) in stops.iter().enumerate() {
                let part_us = task.whole_us[stop] as f64 / stops.len() as f64 * share * self.random.random_range(0.4..1.1);
                let (report, _) = self.leg(task, *stop, caches[stop.0], &job, (i + 1 < stops.len()).then_some(part_us as u64 + 1))?;
                let stopped = report["stopped"] == true;
                legs.push(report);
                if !stopped {
                    break;
                }
            }
            let left = left(&job, task.sample)?;
            let (whole, wrong) = (legs.len() == stops.len(), !task.expected.is_empty() && left != task.expected);
            if wrong || best.as_ref().is_none_or(|(before, _)| legs.len() > before.len()) {
                best = Some((legs, left));
            }
            if whole || wrong {
                break;
            }
            share /= 3.0;
        }
        best.context("there is one attempt at least")
    }

    fn sample(&mut self, sample: &Sample) -> anyhow::Result<()> {
        let module = self.work.join(Path::new(sample.source).with_extension("wasm").file_name().context("a source has a name")?);
        let lang = if sample.source.ends_with(".cc") { Lang::Cxx } else { Lang::C };
        let words = ["-O2", "-o"].into_iter().map(OsString::from).chain([module.clone().into(), root().join(sample.source).into()]).chain(sample.words.iter().map(OsString::from));
        let code = driver::main(lang, words.collect()).with_context(|| format!("compile {}", sample.source))?;
        ensure!(code == 0, "the compiler ended with {code} for {}", sample.source);
        let mut task = Task { sample, module, args: sample.args.to_vec(), expected: Left::new(), whole_us: HashMap::new() };
        let caches = [0, 1].map(|side: usize| self.sides[side].cache.clone());
        let [a, b] = [&*caches[0], &*caches[1]];

        // Without a move: what all others are compared with, and how long it takes where.
        task.expected = self.stays(&task, (0, Tier::Quick), a)?.2;
        for stop in [0, 1].into_iter().flat_map(|side| Tier::ALL.map(|tier| (side, tier))) {
            let route = format!("stays, {}, {}", self.sides[stop.0].machine, stop.1);
            let row = match self.stays(&task, stop, [a, b][stop.0]) {
                // Not every tier takes every program, nor is LLVM's everywhere; the quick one is.
                Ok((report, ..)) if report["tier"] != stop.1.to_string() => {
                    self.line(&json!({ "program": sample.source, "machine": report["machine"], "tier_not_taken": stop.1.to_string(), "why": report["instead"] }))?;
                    self.left_out.insert(format!("the {} tier on {}: {}", stop.1, self.sides[stop.0].machine, report["instead"].as_str().unwrap_or_default()));
                    continue;
                }
                Ok((report, _, left)) => {
                    task.whole_us.insert(stop, report["ran_us"].as_u64().context("a leg says how long it ran")?);
                    Row { route, legs: vec![report], wrong: differs(&task.expected, &left) }
                }
                Err(e) => Row { route, legs: Vec::new(), wrong: Some(format!("{e:#}")) },
            };
            self.tell(sample, &row)?;
        }
        for tier in Tier::ALL {
            for (from, to) in [(0, 1), (1, 0)] {
                self.route(&task, &format!("{{}}, {tier}"), &[(from, tier), (to, tier)], [a, b], 1)?;
            }
        }
        self.ahead(&task, a)?;
        let round = [(0, Tier::Quick), (1, Tier::Quick), (0, Tier::Interpreter), (1, Tier::Interpreter), (0, Tier::Fast), (1, Tier::Fast), (0, Tier::Quick)];
        let round = round.map(|stop| if task.whole_us.contains_key(&stop) { stop } else { (stop.0, Tier::Quick) });
        self.route(&task, "back and forth", &round, [a, b], 3)?;
        self.foreign(&task)?;
        if sample.source.ends_with("numbers.c") {
            self.nans(task, [a, b])?;
        }
        Ok(())
    }

    /// A route and its line, with at least so many moves. `name`: `{}` stands for from where to where.
    fn route(&mut self, task: &Task, name: &str, stops: &[Stop], caches: [&Path; 2], moves: usize) -> anyhow::Result<()> {
        if stops.iter().any(|stop| !task.whole_us.contains_key(stop)) {
            return Ok(()); // in a tier that does not take the program
        }
        let way = format!("{} → {}", self.sides[stops[0].0].machine, self.sides[stops[1].0].machine);
        let (route, ahead) = (name.replace("{}", &way), name.contains("ahead"));
        let row = match self.travels(task, stops, caches) {
            Err(e) => Row { route, legs: Vec::new(), wrong: Some(format!("{e:#}")) },
            Ok((legs, left)) => {
                let mut row = Row { route, legs, wrong: differs(&task.expected, &left) };
                if row.wrong.is_none() && row.moves() < moves {
                    row.wrong = Some(format!("the program was too short: {} moves of at least {moves}", row.moves()));
                }
                if row.wrong.is_none() && ahead && row.legs.last().is_none_or(|leg| leg["code"] != "kept") {
                    row.wrong = Some("code that was made ahead was not taken".into());
                }
                row
            }
        };
        self.tell(task.sample, &row)
    }

    /// To a cache with nothing but what side A has made for side B.
    fn ahead(&mut self, task: &Task, a: &Path) -> anyhow::Result<()> {
        let (name, code) = code_for(&task.module, self.sides[1].machine)?;
        let folder = self.work.join("ahead");
        cache_with(&folder, &name, &code)?;
        self.route(task, "{}, compiled ahead", &[(0, Tier::Quick), (1, Tier::Quick)], [a, &folder], 1)
    }

    /// Code of the other kind of machine under the name of one's own: refused with a word, and the program runs all the same.
    fn foreign(&mut self, task: &Task) -> anyhow::Result<()> {
        for (side, other) in [(1, 0), (0, 1)] {
            let [mine, theirs] = [side, other].map(|i: usize| self.sides[i].machine);
            if mine == theirs {
                continue;
            }
            let (name, _) = code_for(&task.module, mine)?;
            let (_, code) = code_for(&task.module, theirs)?;
            let folder = self.work.join("foreign");
            cache_with(&folder, &name, &code)?;
            let (report, said, left) = self.stays(task, (side, Tier::Quick), &folder)?;
            let refused = said.lines().find(|line| line.contains("compiled code is not run"));
            let wrong = match refused {
                _ if report["code"] != "compiled" => Some(format!("code of {theirs} was taken")),
                None => Some(format!("nothing was said of code of {theirs}: {said:?}")),
                Some(line) if !line.contains(&theirs.to_string()) => Some(format!("it does not say for what the code is: {line}")),
                Some(_) => differs(&task.expected, &left),
            };
            self.tell(task.sample, &Row { route: format!("code of {theirs} in the cache of {mine}"), legs: vec![report], wrong })?;
        }
        Ok(())
    }

    /// Which NaN an operation gives is the processor's: it keeps its bits over a move, and the next one is made where the program is then.
    fn nans(&mut self, mut task: Task, caches: [&Path; 2]) -> anyhow::Result<()> {
        task.args.push("nan");
        // Its output is another one by each way.
        task.expected.clear();
        let mut own = Vec::new();
        let machines = [0, 1].map(|side: usize| self.sides[side].machine);
        for side in [0, 1] {
            let (report, _, left) = self.stays(&task, (side, Tier::Quick), caches[side])?;
            let nans = nans_of(&left)?;
            self.line(&json!({ "program": "numbers.c", "machine": machines[side].to_string(), "nans": nans, "leg": report }))?;
            own.push(nans);
        }
        for tier in [Tier::Quick, Tier::Interpreter] {
            for (from, to) in [(0, 1), (1, 0)] {
                // The first one is made before the move, the others behind it.
                let (legs, left) = self.travels(&task, &[(from, tier), (to, tier)], caches)?;
                let right = |name: &str| own[if name == "early" { from } else { to }].get(name);
                let wrong = nans_of(&left)?.iter().find(|(name, bits)| right(name) != Some(*bits)).map(|(name, bits)| format!("{name} is {bits}, should be {:?}", right(name)));
                let wrong = wrong.or_else(|| (legs.len() < 2).then(|| "the program was too short: it was not moved".into()));
                self.tell(task.sample, &Row { route: format!("NaNs, {} → {}, {tier}", machines[from], machines[to]), legs, wrong })?;
            }
        }
        Ok(())
    }
}

/// What `cloudskin compile --target` makes: name and bytes of a file.
fn code_for(module: &Path, machine: Machine) -> anyhow::Result<(String, Vec<u8>)> {
    let bytes = fs::read(module).with_context(|| format!("read {}", module.display()))?;
    let engine = Engine::new(&engine::Options { cells_max: 1, ..Default::default() })?;
    Ok(engine.compile_for(driver::module(&bytes), machine)?)
}

/// A cache that has one file.
fn cache_with(folder: &Path, name: &str, code: &[u8]) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    base::identity::private_folder(folder).with_context(|| format!("make {}", folder.display()))?;
    base::identity::write_private(&folder.join(name), code).map_err(anyhow::Error::msg)
}

/// What the ranks of a job have printed, and the files that they have written.
fn left(job: &Path, sample: &Sample) -> anyhow::Result<Left> {
    let mut all = Left::new();
    for rank in 0..sample.ranks {
        // A rank that prints nothing has no file.
        all.insert(format!("the output of rank {rank}"), fs::read(leg::output_of(job, rank)).unwrap_or_default());
    }
    let data = job.join("data");
    for entry in fs::read_dir(&data).with_context(|| format!("read {}", data.display()))? {
        let path = entry.with_context(|| format!("read {}", data.display()))?.path();
        all.insert(format!("file {}", path.file_name().unwrap_or_default().to_string_lossy()), fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    Ok(all)
}

/// The first thing that is not as it should be.
fn differs(expected: &Left, left: &Left) -> Option<String> {
    if !expected.values().any(|bytes| !bytes.is_empty()) {
        return Some("the program prints nothing that could be compared".into());
    }
    let name = expected.keys().chain(left.keys()).find(|name| expected.get(*name) != left.get(*name))?;
    let lines = |left: &Left| String::from_utf8_lossy(left.get(name).map_or(&[][..], |bytes| bytes)).lines().map(str::to_string).collect::<Vec<_>>();
    let (right, is) = (lines(expected), lines(left));
    let at = (0..right.len().max(is.len())).find(|i| right.get(*i) != is.get(*i)).unwrap_or(0);
    Some(format!("{name}, line {}: {:?}, should be {:?}", at + 1, is.get(at), right.get(at)))
}

/// The last lines of `numbers.c`: name and bits.
fn nans_of(left: &Left) -> anyhow::Result<BTreeMap<String, String>> {
    let text = String::from_utf8_lossy(left.get("the output of rank 0").context("it has printed something")?).into_owned();
    let nans: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, rest)| ["early", "late", "root", "through"].contains(name) && !rest.trim_start().starts_with("NaN"))
        .map(|(name, rest)| (name.to_string(), rest.to_string()))
        .collect();
    ensure!(nans.len() == 4, "`numbers nan` prints four NaNs: {text}");
    Ok(nans)
}
