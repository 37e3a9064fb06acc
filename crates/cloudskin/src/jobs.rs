//! `run`, `logs`, `migrate`, `checkpoint`, `restore`, `cancel`: what changes a job, and what follows one.

use crate::{
    api::{Job, Migration},
    args::{self, Output},
    client::{Call, Client, DURABLE},
    compile,
    failure::{fail, kind},
    files, progress, show, table,
};
use anyhow::Context;
use base::Kind;
use serde_json::{Value, json};
use std::{cell::Cell, convert::Infallible, future::Future, path::Path, time::{Duration, Instant}};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often a state is asked for that has no stream.
const POLL: Duration = Duration::from_millis(200);
/// Of a job that are looked through: those of its start are among the last where it has just begun, or was short.
const EVENTS: usize = 1000;
/// A job that has not begun after this time is worth a word.
const BEGINS: Duration = Duration::from_secs(3);
/// How long a hub may be away while its job is followed.
const AWAY_MAX: u32 = 60;
/// Exit code of a job that was cancelled, as a shell has it for Ctrl-C.
const CANCELLED: u8 = 130;

/// Sends a module and returns its SHA-256.
pub async fn upload(client: &Client, module: &Path) -> anyhow::Result<String> {
    let skip = compile::launch_line(module)?;
    let sent = files::send_after(client, reqwest::Method::POST, Call::to("modules"), module, skip).await;
    let told: Value = sent.with_context(|| format!("module {}", module.display()))?;
    told["sha256"].as_str().map(str::to_string).context("the hub's answer to a module has no sha256")
}

pub async fn submit(client: &Client, ask: &Value) -> anyhow::Result<Job> {
    client.post(Call::to("jobs"), ask, None).await
}

pub async fn job(client: &Client, id: &str) -> anyhow::Result<Job> {
    client.get(Call::to("jobs").push(id)).await
}

pub async fn run(client: &Client, run: args::Run, output: Output) -> anyhow::Result<u8> {
    if run.buckets.is_empty() {
        for path in no_buckets(&run.args) {
            eprintln!("note: the program will not see {path}: the first part of a path is a bucket, whose name has only a-z, 0-9, - and .");
        }
    }
    fits(&run)?;
    let module = upload(client, &run.module).await?;
    let told: Value = client.post(Call::to("jobs"), &request(&run, &module), None).await?;
    let id = told["id"].as_str().context("the hub's answer to a job has no id")?.to_string();
    if run.detach {
        return table::print(output, &told, || Ok(format!("{id}\n")));
    }
    if progress::terminal() {
        eprintln!("{id}: follow it elsewhere with `cloudskin describe job {id}`");
    }
    let mut signals = Signals::new()?;
    let mut print = |stderr: bool, piece: &[u8]| if stderr { table::error_bytes(piece) } else { table::bytes(piece) };
    let said = Said::default();
    let ended = {
        let follow = async {
            tokio::select! {
                ended = follow(client, &id, Which::Marked, &mut print) => ended,
                never = said.start(client, &id, run.tier) => match never {},
            }
        };
        let mut follow = std::pin::pin!(follow);
        tokio::select! {
            ended = &mut follow => ended,
            why = signals.next() => {
                said.cancelling.set(true);
                eprintln!("\n{id}: cancelling; Ctrl-C again leaves without waiting");
                // Said first, whatever follows: a shell may send the signal twice.
                client.post::<Value>(Call::to("jobs").push(&id).push("cancel"), &json!({"reason": why}), None).await?;
                tokio::select! {
                    ended = &mut follow => ended,
                    _ = signals.next() => return Ok(CANCELLED),
                }
            }
        }
    }?;
    // It may have ended before anybody looked.
    if run.tier.is_some() {
        said.other_tier(client, &id).await;
    }
    Ok(code(&ended))
}

/// What has been said on stderr of a job that is followed.
#[derive(Default)]
struct Said {
    tier: Cell<bool>,
    cancelling: Cell<bool>,
}

impl Said {
    /// Says, while a job begins, what its user would wonder about: why nothing happens yet, and that it runs in another tier than was asked for. Never ends.
    async fn start(&self, client: &Client, id: &str, asked: Option<cells::Tier>) -> Infallible {
        let (since, mut waits) = (Instant::now(), false);
        loop {
            tokio::time::sleep(POLL).await;
            // What is wrong with the hub, who follows the job finds, too.
            let Ok(job) = job(client, id).await else { continue };
            if job.started_ms.is_some() || job.ended() {
                break;
            }
            let Some(site) = job.ranks.first().map(|r| &r.site).filter(|_| !waits && !self.cancelling.get() && since.elapsed() >= BEGINS) else { continue };
            waits = true;
            let long = if asked == Some(cells::Tier::Fast) { "; with a large one LLVM takes half a minute and more" } else { "" };
            eprintln!("note: {id} has not begun yet: {site} first makes the code of a module that is new to it, once{long}");
        }
        if asked.is_some() {
            self.other_tier(client, id).await;
        }
        std::future::pending().await
    }

    /// Says that a job runs in another tier than was asked for, with the reason, as the event of that says it.
    async fn other_tier(&self, client: &Client, id: &str) {
        let Ok((events, _)) = show::events(client, Some(id), EVENTS).await else { return };
        let event = events.as_array().into_iter().flatten().find(|e| e["kind"] == "job.tier");
        if let Some(why) = event.and_then(|e| e["message"].as_str()).filter(|_| !self.tier.replace(event.is_some())) {
            eprintln!("{}", table::safe(&format!("note: {id}: {why}")));
        }
    }
}

/// Says at once that a program can't even begin with the memory that it is to have.
fn fits(run: &args::Run) -> anyhow::Result<()> {
    let Some(most) = run.memory_max else { return Ok(()) };
    let named = || format!("module {}", run.module.display());
    let bytes = std::fs::read(&run.module).with_context(named)?;
    // What is no module, the hub says in more words.
    let Ok(report) = cells::toolchain::inspect::inspect(cells::toolchain::driver::module(&bytes)) else { return Ok(()) };
    if report.memory_min_bytes > most.0 {
        let message = format!("{} needs {} to begin with; --memory-max is {most}", run.module.display(), base::unit::Bytes(report.memory_min_bytes));
        return Err(fail(Kind::InvalidArgument, message));
    }
    Ok(())
}

/// The ways in which a user, a terminal that closes or a batch system ends a command.
struct Signals([(&'static str, Signal); 3]);

impl Signals {
    fn new() -> std::io::Result<Signals> {
        let kinds = [("Ctrl-C", SignalKind::interrupt()), ("SIGTERM", SignalKind::terminate()), ("SIGHUP", SignalKind::hangup())];
        let [a, b, c] = kinds.map(|(name, kind)| signal(kind).map(|s| (name, s)));
        Ok(Signals([a?, b?, c?]))
    }

    async fn next(&mut self) -> &'static str {
        let [a, b, c] = &mut self.0;
        tokio::select! {
            _ = a.1.recv() => a.0,
            _ = b.1.recv() => b.0,
            _ = c.1.recv() => c.0,
        }
    }
}

/// What is sent for `cloudskin run`.
fn request(run: &args::Run, module: &str) -> Value {
    let stem = run.module.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = run.name.clone().unwrap_or(stem);
    let buckets = if run.buckets.is_empty() { buckets_of(&run.workdir, &run.args) } else { run.buckets.clone() };
    let argv: Vec<&str> = std::iter::once(name.as_str()).chain(run.args.iter().map(String::as_str)).collect();
    let mut ask = json!({
        "module": module, "name": name, "np": run.np, "args": argv, "env": run.env, "buckets": buckets, "tenant": run.tenant,
        "pinned": run.pinned, "workdir": run.workdir,
    });
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            ask[key] = value.into();
        }
    };
    put("site", run.site.as_ref().map(|s| s.to_string()));
    put("memory_max", run.memory_max.map(String::from));
    put("time_max", run.time_max.map(String::from));
    put("checkpoint_every", run.checkpoint_every.map(String::from));
    put("tier", run.tier.map(|t| t.to_string()));
    ask
}

/// What looks like a path among a program's arguments: `/scenes/a.tif`, `--mask=/masks/m.tif`.
fn paths(args: &[String]) -> impl Iterator<Item = &str> {
    args.iter().map(|a| a.rsplit_once('=').map_or(a.as_str(), |(_, value)| value)).filter(|p| p.starts_with('/'))
}

fn bucket_of(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split('/').next()
}

fn is_bucket(name: &str) -> bool {
    geds::BucketName::new(name).is_ok()
}

/// Arguments that look like paths and can't be in a bucket.
fn no_buckets(args: &[String]) -> Vec<&str> {
    paths(args).filter(|p| bucket_of(p).is_some_and(|b| !b.is_empty() && !is_bucket(b))).collect()
}

/// The buckets that a program's arguments speak of: `/scenes/a.tif` is in `scenes`.
fn buckets_of(workdir: &str, args: &[String]) -> Vec<String> {
    let firsts = std::iter::once(workdir).chain(paths(args)).filter_map(bucket_of);
    let mut buckets: Vec<String> = firsts.filter(|b| is_bucket(b)).map(str::to_string).collect();
    buckets.sort();
    buckets.dedup();
    buckets
}

/// The exit code of a job that has ended, and the reason on stderr if it is not a plain exit.
fn code(job: &Job) -> u8 {
    if job.state != "succeeded" {
        eprintln!("{}", table::safe(&outcome(job)));
    }
    if let Some(trace) = job.backtrace.as_deref().filter(|t| !t.is_empty()) {
        eprintln!("where it was, the innermost call first:\n{}", table::safe(trace.trim_end()));
    }
    match (job.state.as_str(), job.exit_code) {
        ("succeeded", None) => 0,
        ("cancelled", _) => CANCELLED,
        (_, Some(c)) if c & 0xff != 0 || job.state == "succeeded" => (c & 0xff) as u8,
        _ => 1,
    }
}

/// `job-1 failed: …`
fn outcome(job: &Job) -> String {
    let why = if job.reason.is_empty() { String::new() } else { format!(": {}", job.reason) };
    format!("{} {}{why}", job.id, job.state)
}

/// Which of a job's output is read.
#[derive(Clone, Copy)]
pub enum Which {
    All,
    /// All, with the stream that each piece was printed on.
    Marked,
    Rank(u32),
}

/// Takes a piece of a job's output; the first says whether it was printed on standard error, and is only ever set for [`Which::Marked`].
pub type Print<'a> = dyn FnMut(bool, &[u8]) -> anyhow::Result<()> + Send + 'a;

/// Takes marked output apart (see the hub's `/v1/jobs/{id}/logs`), wherever the network has cut it.
#[derive(Default)]
struct Marks {
    head: Vec<u8>,
    stderr: bool,
    /// Bytes of the present piece that have not come.
    left: usize,
}

impl Marks {
    fn take(&mut self, mut bytes: &[u8], to: &mut dyn FnMut(bool, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        while let Some(next) = bytes.first() {
            if self.left > 0 {
                let (piece, rest) = bytes.split_at(self.left.min(bytes.len()));
                (self.left, bytes) = (self.left - piece.len(), rest);
                to(self.stderr, piece)?;
                continue;
            }
            self.head.push(*next);
            bytes = &bytes[1..];
            if let [letter, length @ ..] = &self.head[..]
                && let Ok(length) = length.try_into()
            {
                (self.stderr, self.left) = (*letter == b'e', u32::from_le_bytes(length) as usize);
                self.head.clear();
            }
        }
        Ok(())
    }
}

/// Passes a job's output on until the job has ended. A hub that restarts is waited for; what was passed on already is skipped.
pub async fn follow(client: &Client, id: &str, which: Which, print: &mut Print<'_>) -> anyhow::Result<Job> {
    let (mut printed, mut away) = (0, 0);
    loop {
        let (more, broken) = match pass(client, id, which, true, printed, print).await {
            Ok(total) => (total, None),
            Err((total, e)) => (total, Some(e)),
        };
        if more > printed {
            away = 0;
        }
        printed = more;
        match (broken, job(client, id).await) {
            (None, Ok(job)) if job.ended() => return Ok(job),
            (None, Ok(_)) => {} // the stream ended a moment before the state did
            (Some(e), Ok(_)) | (_, Err(e)) if kind(&e) != Kind::Unavailable => return Err(e),
            (e, answer) => {
                away += 1;
                if away > AWAY_MAX {
                    return Err(e.or(answer.err()).context("the output's stream breaks again and again")?);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Reads the log once, skipping its first `skip` bytes. Returns the bytes read and skipped in all.
async fn pass(client: &Client, id: &str, which: Which, follow: bool, skip: u64, print: &mut Print<'_>) -> Result<u64, (u64, anyhow::Error)> {
    let call = Call::to("jobs").push(id).push("logs").ask("follow", follow);
    let call = match which {
        Which::All => call,
        Which::Marked => call.ask("marked", true),
        Which::Rank(rank) => call.ask("rank", rank),
    };
    let mut response = client.download(call).await.map_err(|e| (skip, e))?;
    let (mut seen, mut marks) = (0u64, Marks::default());
    loop {
        match client.chunk(&mut response).await {
            Ok(Some(bytes)) => {
                let mut hand = |stderr: bool, piece: &[u8]| {
                    let known = skip.saturating_sub(seen).min(piece.len() as u64);
                    seen += piece.len() as u64;
                    print(stderr, &piece[known as usize..])
                };
                let handed = if let Which::Marked = which { marks.take(&bytes, &mut hand) } else { hand(false, &bytes) };
                handed.map_err(|e| (seen, e))?;
            }
            Ok(None) => return Ok(seen.max(skip)),
            Err(e) => return Err((seen.max(skip), e)),
        }
    }
}

pub async fn logs(client: &Client, logs: args::Logs, output: Output) -> anyhow::Result<u8> {
    let mut lines = Lines { job: &logs.job, rank: logs.rank, part: Vec::new() };
    let which = logs.rank.map_or(Which::All, Which::Rank);
    let mut print = |_, piece: &[u8]| match output {
        Output::Table => table::bytes(piece),
        Output::Json | Output::Yaml => lines.take(piece),
    };
    if logs.follow {
        follow(client, &logs.job, which, &mut print).await?;
    } else {
        pass(client, &logs.job, which, false, 0, &mut print).await.map_err(|(_, e)| e)?;
    }
    lines.end()?;
    Ok(0)
}

/// A log for programs: an object for each line, which is JSON Lines and, with a line between documents, also a stream of YAML's.
struct Lines<'a> {
    job: &'a str,
    rank: Option<u32>,
    /// The beginning of a line whose end has not come.
    part: Vec<u8>,
}

impl Lines<'_> {
    fn take(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.part.extend_from_slice(piece);
        while let Some(end) = self.part.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.part.drain(..=end).collect();
            self.line(&line[..end])?;
        }
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let rest = std::mem::take(&mut self.part);
        if rest.is_empty() { Ok(()) } else { self.line(&rest) }
    }

    fn line(&self, text: &[u8]) -> anyhow::Result<()> {
        table::say(&format!("{}\n", json!({"job": self.job, "rank": self.rank, "text": String::from_utf8_lossy(text)})))
    }
}

/// Asks again until the answer is final; a hub that restarts meanwhile is waited for.
pub async fn until<T, F: Future<Output = anyhow::Result<T>>>(what: &str, within: Duration, mut ask: impl FnMut() -> F, done: impl Fn(&T) -> bool) -> anyhow::Result<T> {
    let end = tokio::time::Instant::now() + within;
    loop {
        match ask().await {
            Ok(answer) if done(&answer) => return Ok(answer),
            Err(e) if kind(&e) != Kind::Unavailable => return Err(e),
            _ => {}
        }
        if tokio::time::Instant::now() > end {
            return Err(fail(Kind::DeadlineExceeded, format!("{what} took longer than {within:?}")));
        }
        tokio::time::sleep(POLL).await;
    }
}

pub async fn migrate(client: &Client, ask: args::Migrate, output: Output) -> anyhow::Result<u8> {
    let mut body = json!({"to": ask.to, "wait": ask.wait});
    if !ask.ranks.is_empty() {
        body["ranks"] = json!(ask.ranks);
    }
    let mut told: Value = client.post(Call::to("jobs").push(&ask.job).push("migrate"), &body, ask.wait.then_some(DURABLE)).await?;
    let id = told["id"].to_string();
    if ask.wait {
        let asked = || client.get::<Value>(Call::to("migrations").push(&id));
        told = until(&format!("migration {id}"), DURABLE, asked, |m| matches!(m["state"].as_str(), Some("done" | "failed"))).await?;
    }
    let m: Migration = serde_json::from_value(told.clone())?;
    table::print(output, &told, || {
        Ok(if ask.wait { show::migration(&m) } else { format!("migration {id} of {} (ranks {}) from {} to {}; see `cloudskin get migrations {id}`\n", m.job, m.rank_list(), m.from, m.to) })
    })?;
    if m.state == "failed" {
        let job = job(client, &m.job).await?;
        return Err(fail(Kind::FailedPrecondition, format!("migration {id} failed: {}; {}", m.reason, whose(&m, &job))));
    }
    Ok(0)
}

/// What has become of the ranks of a migration that failed: where they are now, which may be anywhere by then, or how their job ended.
pub fn whose(m: &Migration, job: &Job) -> String {
    if job.ended() {
        return outcome(job);
    }
    let mut at: Vec<&str> = job.ranks.iter().filter(|r| m.ranks.contains(&r.rank)).map(|r| r.site.as_str()).collect();
    at.sort_unstable();
    at.dedup();
    let at = at.join(" and ");
    match job.running() {
        true => format!("the ranks run on at {at}"),
        false if job.state == "pending" && job.restarts > 0 => format!("{} starts again from its last checkpoint, with these ranks at {at}", job.id),
        false => format!("the ranks are at {at}"),
    }
}

/// A stored checkpoint: fetches it into a file, or removes it.
async fn stored(client: &Client, id: &str, ask: &args::Checkpoint, output: Output) -> anyhow::Result<u8> {
    if ask.rm {
        let told = client.delete(Call::to("checkpoints").push(id)).await?;
        return table::print(output, &told, || Ok(format!("checkpoint {id} of {}: removed\n", told["job"].as_str().unwrap_or_default())));
    }
    let Some(file) = &ask.out else {
        return Err(fail(Kind::InvalidArgument, format!("{id} is a stored checkpoint's number: add --out FILE to fetch it, or --rm; `cloudskin restore {id}` starts a job from it")));
    };
    let bytes = files::fetch(client, Call::to("checkpoints").push(id).push("archive"), file).await.with_context(|| format!("fetch checkpoint {id}"))?;
    table::print(output, &json!({"checkpoint": id, "file": file, "bytes": bytes}), || Ok(format!("{}: {}\n", file.display(), progress::moved(bytes))))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

pub async fn checkpoint(client: &Client, ask: args::Checkpoint, output: Output) -> anyhow::Result<u8> {
    if is_number(&ask.job) {
        return stored(client, &ask.job, &ask, output).await;
    }
    if ask.rm {
        return Err(fail(Kind::InvalidArgument, format!("--rm removes a stored checkpoint: give its number instead of {:?}, as `cloudskin get checkpoints` lists it", ask.job)));
    }
    let told: Value = client.post(Call::to("jobs").push(&ask.job).push("checkpoint"), &Value::Null, Some(DURABLE)).await?;
    let id = told["id"].as_str().map(str::to_string).unwrap_or_else(|| told["id"].to_string());
    let fetched = match &ask.out {
        Some(file) => {
            let call = Call::to("checkpoints").push(&id).push("archive");
            Some((file, files::fetch(client, call, file).await.with_context(|| format!("fetch checkpoint {id}"))?))
        }
        None => None,
    };
    table::print(output, &told, || {
        let bytes = told["bytes"].as_u64().unwrap_or(0);
        let (prefix, paused) = (told["prefix"].as_str().unwrap_or_default(), show::paused(told["paused_us"].as_u64().unwrap_or(0)));
        let mut text = format!("checkpoint {id} of {}: {} in checkpoints/{prefix}; ranks stood still for {paused}\n", ask.job, progress::moved(bytes));
        if let Some((file, bytes)) = fetched {
            text += &format!("{}: {}\n", file.display(), progress::moved(bytes));
        }
        Ok(text)
    })
}

pub async fn restore(client: &Client, ask: args::Restore, output: Output) -> anyhow::Result<u8> {
    let mut call = Call::to("restore");
    if let Some(site) = &ask.site {
        call = call.ask("site", site);
    }
    let told: Value = match ask.file.to_str().filter(|name| is_number(name)) {
        Some(id) => client.post(call.ask("checkpoint", id), &Value::Null, Some(DURABLE)).await.with_context(|| format!("restore checkpoint {id}"))?,
        None => files::send(client, reqwest::Method::POST, call, &ask.file).await.with_context(|| format!("restore {}", ask.file.display()))?,
    };
    table::print(output, &told, || {
        let id = told["id"].as_str().unwrap_or_default();
        Ok(format!("{id}\nfollow it with `cloudskin logs {id} -f`\n"))
    })
}

pub async fn cancel(client: &Client, ask: args::Cancel, output: Output) -> anyhow::Result<u8> {
    let body = ask.reason.as_ref().map_or(json!({}), |r| json!({"reason": r}));
    let told: Value = client.post(Call::to("jobs").push(&ask.job).push("cancel"), &body, None).await?;
    table::print(output, &told, || {
        let job: Job = serde_json::from_value(told.clone())?;
        Ok(if job.ended() { format!("there is nothing to cancel: {}\n", outcome(&job)) } else { format!("{}: cancelling\n", job.id) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Json, Router, routing::{get, post}};
    use clap::Parser;
    use std::sync::{Arc, atomic::{AtomicU32, Ordering}};

    fn parse(line: &str) -> args::Run {
        match args::Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            args::Command::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_says_what_was_typed_and_no_more() {
        let run = parse("cloudskin run --np 4 --site edge --time-max 10m d/veg.wasm -- /scenes/a.tif /out --mask=/masks/m.tif 3");
        assert_eq!(
            request(&run, "ab"),
            json!({"module": "ab", "name": "veg", "np": 4, "site": "edge", "time_max": "600000ms", "tenant": "default", "pinned": false,
                "workdir": "/out", "env": [], "buckets": ["masks", "out", "scenes"],
                "args": ["veg", "/scenes/a.tif", "/out", "--mask=/masks/m.tif", "3"]})
        );
        assert_eq!(request(&parse("cloudskin run --bucket b v.wasm -- /c/d"), "ab")["buckets"], json!(["b"]));
        let run = parse("cloudskin run v.wasm -- /Scenes/a.tif --mask=/m.2/b.tif / a/B");
        assert_eq!((no_buckets(&run.args), &request(&run, "ab")["buckets"]), (vec!["/Scenes/a.tif"], &json!(["m.2", "out"])));
    }

    #[test]
    fn exit_codes_are_the_programs() {
        for (state, exit, want) in [("succeeded", Some(0), 0), ("failed", Some(3), 3), ("failed", None, 1), ("failed", Some(0), 1), ("failed", Some(256), 1), ("cancelled", None, 130)] {
            assert_eq!(code(&Job { state: state.into(), exit_code: exit, ..Default::default() }), want, "{state} {exit:?}");
        }
    }

    #[tokio::test]
    async fn output_is_passed_on_once_although_the_stream_ends_early() {
        let asked = Arc::new(AtomicU32::new(0));
        let (a, b) = (asked.clone(), asked.clone());
        let one = "o\x04\0\0\0one\ne\x03\0\0\0bad";
        let logs = get(move || async move { if a.fetch_add(1, Ordering::SeqCst) == 0 { one.to_string() } else { format!("{one}o\x04\0\0\0two\n") } });
        let state = get(move || async move {
            Json(json!({"id": "job-1", "state": if b.load(Ordering::SeqCst) < 2 { "running" } else { "failed" }, "exit_code": 3}))
        });
        let client = crate::client::tests::fake(Router::new().route("/v1/jobs/job-1/logs", logs).route("/v1/jobs/job-1", state)).await;
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let mut keep = |stderr: bool, piece: &[u8]| {
            if stderr { errors.extend_from_slice(piece) } else { out.extend_from_slice(piece) }
            Ok(())
        };
        let job = follow(&client, "job-1", Which::Marked, &mut keep).await.unwrap();
        assert_eq!((out.as_slice(), errors.as_slice(), code(&job)), (b"one\ntwo\n".as_slice(), b"bad".as_slice(), 3));
        // However the network cuts it.
        let (mut marks, mut got) = (Marks::default(), [Vec::new(), Vec::new()]);
        for byte in one.as_bytes().chunks(1) {
            marks.take(byte, &mut |stderr, piece| Ok(got[usize::from(stderr)].extend_from_slice(piece))).unwrap();
        }
        assert_eq!(got, [b"one\n".to_vec(), b"bad".to_vec()]);
    }

    #[tokio::test]
    async fn a_move_that_fails_is_an_error_with_its_reason() {
        let m = json!({"id": 4, "job": "job-1", "ranks": [0], "from": "edge", "to": "cloud", "state": "running"});
        let done = json!({"id": 4, "job": "job-1", "ranks": [0], "from": "edge", "to": "cloud", "state": "failed", "reason": "site lost"});
        let router = Router::new()
            .route("/v1/jobs/job-1/migrate", post(move |Json(body): Json<Value>| async move { assert_eq!(body, json!({"to": "cloud", "ranks": [0], "wait": true})); Json(m) }))
            .route("/v1/jobs/job-1", get(|| async { Json(json!({"id": "job-1", "state": "running", "ranks": [{"rank": 0, "site": "edge", "state": "running"}]})) }))
            .route("/v1/migrations/4", get(move || async move { Json(done) }));
        let client = crate::client::tests::fake(router).await;
        let ask = args::Migrate { job: "job-1".into(), to: "cloud".parse().unwrap(), ranks: vec![0], wait: true };
        let e = migrate(&client, ask, Output::Json).await.unwrap_err();
        assert!(e.to_string().contains("site lost; the ranks run on at edge"), "{e}");
        // What it says is what is so now, whatever the move was to be.
        let m = Migration { ranks: vec![0], from: "edge".into(), to: "cloud".into(), ..Default::default() };
        let job = |told: Value| serde_json::from_value::<Job>(told).unwrap();
        let rank = |state: &str| json!([{"rank": 0, "site": "cloud", "state": state}, {"rank": 1, "site": "edge", "state": "running"}]);
        for (told, says) in [
            (json!({"id": "job-1", "state": "running", "ranks": rank("running")}), "the ranks run on at cloud"),
            (json!({"id": "job-1", "state": "pending", "restarts": 1, "ranks": rank("pending")}), "job-1 starts again from its last checkpoint, with these ranks at cloud"),
            (json!({"id": "job-1", "state": "failed", "reason": "site edge was lost", "ranks": rank("lost")}), "job-1 failed: site edge was lost"),
            (json!({"id": "job-1", "state": "succeeded", "ranks": rank("exited")}), "job-1 succeeded"),
        ] {
            assert_eq!(whose(&m, &job(told)), says);
        }
    }
}
