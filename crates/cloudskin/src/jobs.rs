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
use std::{future::Future, path::Path, time::Duration};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often a state is asked for that has no stream.
const POLL: Duration = Duration::from_millis(200);
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
    let mut print = |piece: &[u8]| table::bytes(piece);
    let ended = {
        let mut follow = std::pin::pin!(follow(client, &id, None, &mut print));
        tokio::select! {
            ended = &mut follow => ended,
            why = signals.next() => {
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
    Ok(code(&ended))
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
    if let Some(trace) = job.backtrace.as_deref().filter(|t| !t.is_empty()) {
        eprintln!("{}", table::safe(trace.trim_end()));
    }
    if job.state != "succeeded" {
        let why = if job.reason.is_empty() { String::new() } else { format!(": {}", table::safe(&job.reason)) };
        eprintln!("{} {}{why}", job.id, job.state);
    }
    match (job.state.as_str(), job.exit_code) {
        ("succeeded", None) => 0,
        ("cancelled", _) => CANCELLED,
        (_, Some(c)) if c & 0xff != 0 || job.state == "succeeded" => (c & 0xff) as u8,
        _ => 1,
    }
}

/// Passes a job's output on until the job has ended. A hub that restarts is waited for; what was passed on already is skipped.
pub async fn follow(client: &Client, id: &str, rank: Option<u32>, print: &mut (dyn FnMut(&[u8]) -> anyhow::Result<()> + Send)) -> anyhow::Result<Job> {
    let (mut printed, mut away) = (0, 0);
    loop {
        let (more, broken) = match pass(client, id, rank, true, printed, print).await {
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
async fn pass(client: &Client, id: &str, rank: Option<u32>, follow: bool, skip: u64, print: &mut (dyn FnMut(&[u8]) -> anyhow::Result<()> + Send)) -> Result<u64, (u64, anyhow::Error)> {
    let mut call = Call::to("jobs").push(id).push("logs").ask("follow", follow);
    if let Some(rank) = rank {
        call = call.ask("rank", rank);
    }
    let mut response = client.download(call).await.map_err(|e| (skip, e))?;
    let mut seen = 0u64;
    loop {
        match client.chunk(&mut response).await {
            Ok(Some(piece)) => {
                let known = skip.saturating_sub(seen).min(piece.len() as u64);
                seen += piece.len() as u64;
                print(&piece[known as usize..]).map_err(|e| (seen, e))?;
            }
            Ok(None) => return Ok(seen.max(skip)),
            Err(e) => return Err((seen.max(skip), e)),
        }
    }
}

pub async fn logs(client: &Client, logs: args::Logs, output: Output) -> anyhow::Result<u8> {
    let mut lines = Lines { job: &logs.job, rank: logs.rank, part: Vec::new() };
    let mut print = |piece: &[u8]| match output {
        Output::Table => table::bytes(piece),
        Output::Json | Output::Yaml => lines.take(piece),
    };
    if logs.follow {
        follow(client, &logs.job, logs.rank, &mut print).await?;
    } else {
        pass(client, &logs.job, logs.rank, false, 0, &mut print).await.map_err(|(_, e)| e)?;
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
    let mut body = json!({"to": ask.to});
    if !ask.ranks.is_empty() {
        body["ranks"] = json!(ask.ranks);
    }
    let mut told: Value = client.post(Call::to("jobs").push(&ask.job).push("migrate"), &body, None).await?;
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
        return Err(fail(Kind::FailedPrecondition, format!("migration {id} failed: {}; {}", m.reason, whose(&told))));
    }
    Ok(0)
}

/// Whose the ranks of a migration that failed are: the destination's from the moment on at which the hub had recorded that.
pub fn whose(migration: &Value) -> String {
    let site = |end: &str| migration[end].as_str().unwrap_or("an unknown site").to_string();
    match migration["committed_ms"].is_null() {
        true => format!("the ranks run on at {}", site("from")),
        false => format!("the ranks belong to {}", site("to")),
    }
}

pub async fn checkpoint(client: &Client, ask: args::Checkpoint, output: Output) -> anyhow::Result<u8> {
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
        let mut text = format!("checkpoint {id} of {}: {} in checkpoints/{}\n", ask.job, progress::moved(bytes), told["prefix"].as_str().unwrap_or_default());
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
    let told: Value = files::send(client, reqwest::Method::POST, call, &ask.file).await.with_context(|| format!("restore {}", ask.file.display()))?;
    table::print(output, &told, || {
        let id = told["id"].as_str().unwrap_or_default();
        Ok(format!("{id}\nfollow it with `cloudskin logs {id} -f`\n"))
    })
}

pub async fn cancel(client: &Client, ask: args::Cancel, output: Output) -> anyhow::Result<u8> {
    let body = ask.reason.as_ref().map_or(json!({}), |r| json!({"reason": r}));
    let told: Value = client.post(Call::to("jobs").push(&ask.job).push("cancel"), &body, None).await?;
    table::print(output, &told, || {
        let state = told["state"].as_str().unwrap_or_default();
        Ok(match state {
            "pending" | "running" => format!("{}: cancelling\n", ask.job),
            state => format!("{}: {state}\n", ask.job),
        })
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
        let logs = get(move || async move { if a.fetch_add(1, Ordering::SeqCst) == 0 { "one\n" } else { "one\ntwo\n" } });
        let state = get(move || async move {
            Json(json!({"id": "job-1", "state": if b.load(Ordering::SeqCst) < 2 { "running" } else { "failed" }, "exit_code": 3}))
        });
        let client = crate::client::tests::fake(Router::new().route("/v1/jobs/job-1/logs", logs).route("/v1/jobs/job-1", state)).await;
        let mut out = Vec::new();
        let mut keep = |piece: &[u8]| {
            out.extend_from_slice(piece);
            Ok(())
        };
        let job = follow(&client, "job-1", None, &mut keep).await.unwrap();
        assert_eq!((out.as_slice(), code(&job)), (b"one\ntwo\n".as_slice(), 3));
    }

    #[tokio::test]
    async fn a_move_that_fails_is_an_error_with_its_reason() {
        let m = json!({"id": 4, "job": "job-1", "ranks": [0], "from": "edge", "to": "cloud", "state": "running"});
        let done = json!({"id": 4, "job": "job-1", "ranks": [0], "from": "edge", "to": "cloud", "state": "failed", "reason": "site lost"});
        let router = Router::new()
            .route("/v1/jobs/job-1/migrate", post(move |Json(body): Json<Value>| async move { assert_eq!(body, json!({"to": "cloud", "ranks": [0]})); Json(m) }))
            .route("/v1/migrations/4", get(move || async move { Json(done) }));
        let client = crate::client::tests::fake(router).await;
        let ask = args::Migrate { job: "job-1".into(), to: "cloud".parse().unwrap(), ranks: vec![0], wait: true };
        let e = migrate(&client, ask, Output::Json).await.unwrap_err();
        assert!(e.to_string().contains("site lost; the ranks run on at edge"), "{e}");
        assert_eq!(whose(&json!({"from": "edge", "to": "cloud", "committed_ms": 7})), "the ranks belong to cloud");
    }
}
