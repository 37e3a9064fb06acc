//! `cloudskin demo`: the whole story once, from an image at the edge to pictures in the user's folder.
//!
//! ```text
//! up ─ put the scene at the edge ─ compile the programs ─ run: job at the edge, other tenant arrives, advice, move, end
//!                                                       └ again, pinned: the same tenant at the same round, no move
//! fetch ─ compare byte by byte ─ run.json ─ summary
//! ```
//!
//! It only types what a user could type: the platform is a `cloudskin up` of its own, asked over HTTP. It never orders a move;
//! when none is advised, it says so and fails. The folder that it empties first must be one that it made.

use crate::{
    api::{Job, Migration, Object, Recommendation},
    args,
    client::{Call, Client},
    digest::{self, Sums},
    failure::fail,
    files,
    gantt::gantt,
    jobs,
    place::Place,
    progress, show, store, table,
    up::{self, die_with_parent},
};
use anyhow::Context;
use base::{Kind, clock::now_ms};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, net::SocketAddr, path::{Path, PathBuf}, process::Stdio, time::Duration};
use tokio::{process::{Child, Command}, signal::unix::{SignalKind, signal}, sync::mpsc, time::Instant};

const RANKS: u32 = 4;
/// The other tenant goes on until it is cancelled; this is only for the case that nobody does.
const TENANT_SECONDS: u32 = 600;
/// One run of the job, however slow the machine.
const RUN_MAX: Duration = Duration::from_secs(600);
const START_MAX: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(250);
/// Without a terminal a line of progress each so often.
const REPORT: Duration = Duration::from_secs(5);
/// Lines of the job's output that wait to be read.
const LINES_MAX: usize = 1024;
const MARK: &str = ".cloudskin-demo";

pub async fn demo(place: &Place, options: args::Demo) -> anyhow::Result<u8> {
    let root = root(options.examples.as_deref())?;
    let image = match &options.image {
        Some(image) => image.clone(),
        None => root.join(".setup/data/L7_ETMs.tif"),
    };
    if !image.is_file() {
        return Err(fail(Kind::NotFound, format!("there is no image {}; `make setup` fetches the default one, or name a GeoTIFF with --image", image.display())));
    }
    let began = Instant::now();
    let data = if place.named { place.data.clone() } else { root.join(".setup/run") };
    fresh(&data)?;
    clear(&options.out)?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut platform = Platform::start(&data, options.http).await?;
    let told = tokio::select! {
        told = story(&platform, &root, &image, &data, &options, began) => told,
        _ = interrupt.recv() => Err(fail(Kind::FailedPrecondition, "interrupted")),
        _ = terminate.recv() => Err(fail(Kind::FailedPrecondition, "told to stop")),
        ended = platform.ended() => Err(ended),
    };
    if options.keep && told.is_ok() {
        table::say(&format!("\nthe platform stays up until Ctrl-C: {}\n", platform.client()?.dashboard()))?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            ended = platform.ended() => tracing::warn!(%ended, "platform"),
        }
    }
    platform.stop().await;
    told
}

/// The checkout: the folder that has `examples/`.
fn root(examples: Option<&Path>) -> anyhow::Result<PathBuf> {
    let has = |dir: &Path| dir.join("vegetation").is_dir() && dir.join("tenant").is_dir();
    if let Some(examples) = examples {
        let examples = fs::canonicalize(examples).with_context(|| format!("open {}", examples.display()))?;
        return match examples.parent() {
            Some(root) if has(&examples) => Ok(root.into()),
            _ => Err(fail(Kind::NotFound, format!("{} has no folders vegetation and tenant", examples.display()))),
        };
    }
    let here = std::env::current_dir()?;
    let exe = std::env::current_exe()?;
    let found = here.ancestors().chain(exe.ancestors().skip(1)).find(|dir| has(&dir.join("examples")));
    found.map(Path::to_path_buf).ok_or_else(|| {
        fail(Kind::NotFound, "the example programs are neither here nor beside the executable; run it in CloudSkin's checkout or name their folder with --examples")
    })
}

/// An empty folder of the demo's own. One with anything else in it is left alone.
fn fresh(data: &Path) -> anyhow::Result<()> {
    let refuse = |e: std::io::Error| fail(Kind::PermissionDenied, format!("the data folder {} can't be made anew: {e}; name another with --data", data.display()));
    let foreign = match fs::read_dir(data) {
        Ok(mut entries) => !data.join(MARK).exists() && entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(refuse(e)),
    };
    if foreign {
        return Err(fail(Kind::AlreadyExists, format!("{} has other data, which the demo will not touch; name an empty folder with --data", data.display())));
    }
    if let Ok(lock) = fs::File::open(data.join("up.lock"))
        && lock.try_lock().is_err()
    {
        return Err(fail(Kind::AlreadyExists, format!("a demo is running in {} already; stop it or name another folder with --data", data.display())));
    }
    match fs::remove_dir_all(data) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(refuse(e)),
        _ => {}
    }
    base::identity::private_folder(data).and_then(|()| fs::write(data.join(MARK), "made by `cloudskin demo`, which removes it at its next start\n")).map_err(refuse)
}

/// Removes what an earlier run left in the folder of the pictures: run.json and the files that it lists. Whatever else is there is the user's.
fn clear(out: &Path) -> anyhow::Result<()> {
    let told = out.join("run.json");
    let gone = |path: &Path| match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).with_context(|| format!("remove {}, which an earlier run left", path.display())),
        _ => Ok(()),
    };
    let run: Value = fs::read(&told).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    for file in run["files"].as_object().into_iter().flatten().flat_map(|(name, _)| files::below(out, name)) {
        gone(&file)?;
    }
    gone(&told)
}

/// A `cloudskin up` of the demo's own.
struct Platform {
    child: Child,
    place: Place,
}

impl Platform {
    async fn start(data: &Path, http: Option<SocketAddr>) -> anyhow::Result<Platform> {
        let usual = SocketAddr::from(([127, 0, 0, 1], 7070));
        let http = http.unwrap_or_else(|| if std::net::TcpListener::bind(usual).is_ok() { usual } else { SocketAddr::from(([127, 0, 0, 1], 0)) });
        let mut command = Command::new(std::env::current_exe().context("find this executable")?);
        command.arg("up").arg("--data").arg(data).args(["--http", &http.to_string(), "--no-streams"]).stdin(Stdio::null()).kill_on_drop(true).process_group(0);
        die_with_parent(&mut command);
        let mut platform = Platform { child: command.spawn().context("start `cloudskin up`")?, place: Place::folder(data.into()) };
        let end = Instant::now() + START_MAX;
        while platform.place.running()?.is_none() {
            if let Some(status) = platform.child.try_wait()? {
                return Err(fail(Kind::FailedPrecondition, format!("the platform did not start ({status}); what it said is above, its logs are in {}", data.join("logs").display())));
            }
            if Instant::now() > end {
                platform.stop().await;
                return Err(fail(Kind::DeadlineExceeded, format!("the platform was not up within {START_MAX:?}; its logs are in {}", data.join("logs").display())));
            }
            tokio::time::sleep(TICK / 5).await;
        }
        Ok(platform)
    }

    fn client(&self) -> anyhow::Result<Client> {
        self.place.client()
    }

    /// Waits for its end, which nobody asked for.
    async fn ended(&self) -> anyhow::Error {
        // `up` removes its note when it ends cleanly and starts what dies; so a missing note or process is the end.
        let pid = self.child.id().unwrap_or(0) as i32;
        loop {
            tokio::time::sleep(TICK).await;
            let zombie = fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.rsplit(')').next().is_some_and(|s| s.trim_start().starts_with('Z')));
            if zombie {
                return fail(Kind::Unavailable, format!("the platform ended; its logs are in {}", self.place.data.join("logs").display()));
            }
        }
    }

    async fn stop(&mut self) {
        if let Some(pid) = self.child.id() {
            // SAFETY: kill has no memory effects; the child has not been waited for, so the number is still its own.
            unsafe { libc::kill(pid as i32, libc::SIGTERM) };
        }
        if tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// Compiles an example: all its C files with our own `cc`.
async fn compile(sources: &Path, to: &Path) -> anyhow::Result<()> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(sources).with_context(|| format!("read {}", sources.display()))?.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "c")).collect();
    files.sort();
    let mut command = Command::new(std::env::current_exe().context("find this executable")?);
    command.args(["cc", "-O3", "-std=gnu11", "-ffp-contract=off"]).args(&files).arg("-o").arg(to).arg("-lm").stdin(Stdio::null()).kill_on_drop(true);
    let done = command.output().await.context("start the compiler")?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_string();
        return Err(fail(Kind::FailedPrecondition, format!("compile {}: {}", sources.display(), said.strip_prefix("error: ").unwrap_or(&said))));
    }
    Ok(())
}

/// When the other tenant arrives.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Arrival {
    /// At the first sign of progress after this time.
    After(Duration),
    /// When the job has come as far as in the other run.
    Round(u64),
}

impl Arrival {
    /// `round`: of the line that has just been read, if one was.
    fn due(self, round: Option<u64>, talks: bool, ran: Duration) -> bool {
        match self {
            // A program that tells of no rounds is met by the clock.
            Arrival::After(wait) => ran >= wait && (round.is_some() || !talks),
            Arrival::Round(wanted) => round.is_some_and(|r| r >= wanted),
        }
    }
}

/// `round 3/30 …` as the example prints it.
fn round(line: &str) -> Option<(u64, u64)> {
    let (at, all) = line.trim_start().strip_prefix("round ")?.split_whitespace().next()?.split_once('/')?;
    Some((at.parse().ok()?, all.parse().ok()?))
}

/// One run of the job and what it gave.
struct Pass {
    job: Job,
    seconds: f64,
    /// The job's round when the tenant arrived.
    tenant_round: Option<u64>,
    names: Vec<String>,
}

/// What stays the same in both runs.
struct Stage<'a> {
    client: Client,
    options: &'a args::Demo,
    image: String,
    job_module: String,
    tenant_module: String,
    started: Instant,
}

impl Stage<'_> {
    fn tell(&self, bar: &ProgressBar, text: &str) {
        let line = format!("{:6.1} s  {}", self.started.elapsed().as_secs_f64(), table::safe(text));
        if bar.is_hidden() {
            let _ = table::say(&(line + "\n"));
        } else {
            bar.suspend(|| table::say(&(line + "\n"))).ok();
        }
    }

    async fn pass(&self, bucket: &str, pinned: bool, arrival: Arrival) -> anyhow::Result<Pass> {
        let mut argv = vec!["vegetation".to_string(), format!("/scenes/{}", self.image), format!("/{bucket}")];
        for (option, value) in [("--radius", self.options.radius), ("--rounds", self.options.rounds)] {
            argv.extend(value.iter().flat_map(|v| [option.to_string(), v.to_string()]));
        }
        let ask = json!({
            "module": self.job_module, "name": "vegetation", "np": RANKS, "site": "edge", "args": argv, "env": [], "buckets": ["scenes", bucket],
            "pinned": pinned, "workdir": format!("/{bucket}"),
        });
        let job = jobs::submit(&self.client, &ask).await?;
        let bar = progress::steps(0);
        self.tell(&bar, &format!("{}: {RANKS} ranks start at the edge, where the scene lies{}", job.id, if pinned { "; pinned, so they stay" } else { "" }));
        let mut tenant = None;
        let watched = tokio::time::timeout(RUN_MAX, self.watch(&job.id, arrival, &bar, &mut tenant)).await;
        bar.finish_and_clear();
        if let Some(tenant) = &tenant {
            self.end_tenant(tenant).await?;
        }
        let (job, tenant_round) = match watched {
            Ok(watched) => watched?,
            Err(_) => return Err(fail(Kind::DeadlineExceeded, format!("{} did not end within {RUN_MAX:?}", job.id))),
        };
        if job.state != "succeeded" {
            let trace = job.backtrace.as_deref().unwrap_or_default();
            return Err(fail(Kind::FailedPrecondition, format!("{} {}: {} {trace}", job.id, job.state, job.reason)));
        }
        let seconds = job.seconds(now_ms()).context("a job that ended has no start")?;
        self.tell(&bar, &format!("{} ended after {seconds:.1} s", job.id));
        if tenant.is_none() {
            return Err(fail(Kind::FailedPrecondition, "the job ended before the other tenant arrived; give it more --rounds, or a smaller --tenant-after"));
        }
        let objects: Vec<Object> = serde_json::from_value(store::list(&self.client, bucket, "").await?)?;
        Ok(Pass { job, seconds, tenant_round, names: objects.into_iter().map(|o| o.key).collect() })
    }

    /// Follows a job to its end, lets the tenant in on the way and tells what the platform does.
    async fn watch(&self, id: &str, arrival: Arrival, bar: &ProgressBar, tenant: &mut Option<String>) -> anyhow::Result<(Job, Option<u64>)> {
        let (lines, mut output) = mpsc::channel::<String>(LINES_MAX);
        let mut rest = Vec::new();
        let mut cut = move |_, piece: &[u8]| {
            rest.extend_from_slice(piece);
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                // Full only if nothing reads for a while; then old news is worth less than going on.
                let _ = lines.try_send(String::from_utf8_lossy(&line).trim_end().to_string());
            }
            rest.truncate(64 << 10);
            Ok(())
        };
        let mut follow = std::pin::pin!(jobs::follow(&self.client, id, jobs::Which::All, &mut cut));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut news = News::default();
        let (mut at, mut all, mut tenant_round, mut running, mut reported) = (0, 0, None, None::<Instant>, Instant::now());
        loop {
            let mut seen = None;
            tokio::select! {
                biased;
                Some(line) = output.recv() => {
                    if let Some((r, n)) = round(&line) {
                        (seen, at, all) = (Some(r), r, n);
                        bar.set_length(n);
                        bar.set_position(r);
                    } else {
                        self.tell(bar, &format!("  | {}", table::short(&line, 120)));
                    }
                }
                ended = &mut follow => {
                    let job = ended?;
                    self.platform_news(id, &mut news, bar).await?;
                    return Ok((job, tenant_round));
                }
                _ = tick.tick() => {
                    if running.is_none() && jobs::job(&self.client, id).await?.running() {
                        running = Some(Instant::now());
                    }
                    self.platform_news(id, &mut news, bar).await?;
                    if bar.is_hidden() && reported.elapsed() >= REPORT && all > 0 {
                        reported = Instant::now();
                        self.tell(bar, &format!("round {at} of {all}"));
                    }
                    bar.set_message(news.at.clone());
                }
            }
            if let (None, Some(since)) = (&tenant, running)
                && arrival.due(seen, all > 0, since.elapsed())
            {
                *tenant = Some(self.begin_tenant().await?);
                tenant_round = seen.or((all > 0).then_some(at));
                let place = if all > 0 { format!(" at round {at}") } else { String::new() };
                self.tell(bar, &format!("another tenant's {RANKS} ranks fill the edge{place}"));
            }
        }
    }

    async fn platform_news(&self, id: &str, news: &mut News, bar: &ProgressBar) -> anyhow::Result<()> {
        let job = jobs::job(&self.client, id).await?;
        let sites: BTreeSet<&str> = job.ranks.iter().map(|r| r.site.as_str()).collect();
        news.at = format!("at {}", sites.into_iter().collect::<Vec<_>>().join(" and "));
        let advice: Vec<Recommendation> = self.client.get(Call::to("recommendations")).await?;
        for r in advice.into_iter().filter(|r| r.job == id) {
            if news.told.insert(format!("r{}", r.id)) {
                self.tell(bar, &format!("the Learning Plane advises {}: {}", r.to, r.reason));
            }
        }
        let moves: Vec<Value> = self.client.get(Call::to("migrations")).await?;
        for told in moves.iter().filter(|m| m["job"] == id) {
            let m: Migration = serde_json::from_value(told.clone()).context("a migration, as the hub tells it")?;
            if news.told.insert(format!("m{}{}", m.id, m.state)) {
                let text = match m.state.as_str() {
                    "running" => format!("ranks {} move from {} to {} while they work", m.rank_list(), m.from, m.to),
                    "done" => format!("moved: stood still for {:.1} ms, {} sent for {} of state", m.downtime_ms.unwrap_or(0.0), table::size(m.moved_bytes), table::size(m.state_bytes)),
                    "failed" => format!("the move failed: {}; {}", m.reason, jobs::whose(&m, &jobs::job(&self.client, id).await?)),
                    _ => continue,
                };
                self.tell(bar, &text);
            }
        }
        Ok(())
    }

    async fn begin_tenant(&self) -> anyhow::Result<String> {
        let ask = json!({
            "module": self.tenant_module, "name": "tenant", "np": RANKS, "site": "edge", "args": ["tenant", TENANT_SECONDS.to_string()], "env": [],
            "buckets": [], "tenant": "other", "pinned": true, "time_max": "900s",
        });
        Ok(jobs::submit(&self.client, &ask).await?.id)
    }

    async fn end_tenant(&self, id: &str) -> anyhow::Result<()> {
        self.client.post::<Value>(Call::to("jobs").push(id).push("cancel"), &json!({"reason": "the demo is over"}), None).await?;
        jobs::until("cancelling the other tenant", Duration::from_secs(30), || jobs::job(&self.client, id), Job::ended).await?;
        Ok(())
    }

    async fn fetch(&self, bucket: &str, names: &[String], folder: &Path) -> anyhow::Result<Sums> {
        fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
        for name in names {
            files::fetch(&self.client, Call::object(bucket, name), &files::below(folder, name)?).await?;
        }
        let (folder, names) = (folder.to_path_buf(), names.to_vec());
        tokio::task::spawn_blocking(move || digest::sums(&folder, &names)).await?
    }
}

#[derive(Default)]
struct News {
    told: BTreeSet<String>,
    /// Where the ranks are.
    at: String,
}

async fn migrations(client: &Client, job: &str) -> anyhow::Result<Vec<Migration>> {
    let all: Vec<Migration> = client.get(Call::to("migrations")).await?;
    Ok(all.into_iter().filter(|m| m.job == job).collect())
}

async fn story(platform: &Platform, root: &Path, image: &Path, data: &Path, options: &args::Demo, began: Instant) -> anyhow::Result<u8> {
    let (client, started) = (platform.client()?, Instant::now());
    let work = data.join("demo");
    fs::create_dir_all(&work).with_context(|| format!("make folder {}", work.display()))?;
    fs::create_dir_all(&options.out).with_context(|| format!("make folder {}", options.out.display()))?;
    let key = image.file_name().context("the image has no file name")?.to_string_lossy().into_owned();
    let quiet = ProgressBar::hidden();
    let mut stage = Stage { client: client.clone(), options, image: key.clone(), job_module: String::new(), tenant_module: String::new(), started };

    let put: Object = files::send(&client, reqwest::Method::PUT, Call::object("scenes", &key).ask("site", "edge"), image).await?;
    stage.tell(&quiet, &format!("scenes/{key}: {} at {}", progress::moved(put.size), put.sites.join(", ")));
    for (name, module) in [("vegetation", &mut stage.job_module), ("tenant", &mut stage.tenant_module)] {
        let file = work.join(format!("{name}.wasm"));
        compile(&root.join("examples").join(name), &file).await?;
        *module = jobs::upload(&client, &file).await?;
    }
    stage.tell(&quiet, "examples/vegetation and examples/tenant: compiled by `cloudskin cc`");

    let moved = stage.pass("out", false, Arrival::After(options.tenant_after.0)).await?;
    let sums = stage.fetch("out", &moved.names, &options.out).await?;
    let done: Vec<Migration> = migrations(&client, &moved.job.id).await?.into_iter().filter(|m| m.state == "done").collect();
    let advice: Vec<Value> = client.get(Call::to("recommendations")).await?;
    let advice: Vec<Value> = advice.into_iter().filter(|r| r["job"] == moved.job.id.as_str()).collect();
    let note = |stayed| {
        let mut run = report(&moved, &sums, stayed, &done, &advice, &key);
        run["total_seconds"] = began.elapsed().as_secs_f64().into();
        up::write(&options.out.join("run.json"), &run)
    };
    // What is known by now stays known if the second run fails.
    note(None)?;
    let stayed = if options.no_unmoved {
        None
    } else {
        let arrival = moved.tenant_round.map_or(Arrival::After(options.tenant_after.0), Arrival::Round);
        stage.tell(&quiet, "and once more without a move, with the other tenant at the same moment, to compare");
        let stayed = stage.pass("unmoved", true, arrival).await?;
        let sums = stage.fetch("unmoved", &stayed.names, &work.join("unmoved")).await?;
        Some((stayed.seconds, sums))
    };
    note(stayed.as_ref())?;
    table::say(&table::safe(&summary(&moved, &sums, stayed.as_ref(), &done, &advice, &options.out)?))?;
    verdict(&moved, &sums, stayed.as_ref(), &done)
}

fn verdict(moved: &Pass, sums: &Sums, stayed: Option<&(f64, Sums)>, done: &[Migration]) -> anyhow::Result<u8> {
    if sums.files.is_empty() {
        return Err(fail(Kind::DataLoss, format!("{} wrote no file", moved.job.id)));
    }
    if let Some((_, other)) = stayed
        && sums != other
    {
        let names: BTreeSet<&String> = sums.files.keys().chain(other.files.keys()).collect();
        let differ: Vec<&str> = names.into_iter().filter(|n| sums.files.get(*n) != other.files.get(*n)).map(String::as_str).collect();
        return Err(fail(Kind::DataLoss, format!("the output differs from that of the run that stayed: {}", differ.join(", "))));
    }
    if done.is_empty() {
        return Err(fail(Kind::FailedPrecondition, "no migration of the job was completed; what the platform told of it is in the lines above"));
    }
    let moves: BTreeSet<u32> = done.iter().flat_map(|m| m.ranks.iter().copied()).collect();
    let stuck: Vec<String> = (0..RANKS).filter(|r| !moves.contains(r)).map(|r| r.to_string()).collect();
    if !stuck.is_empty() {
        return Err(fail(Kind::FailedPrecondition, format!("ranks {} of {} never moved; what the platform told of it is in the lines above", stuck.join(","), moved.job.id)));
    }
    if let Some((seconds, _)) = stayed
        && *seconds <= moved.seconds
    {
        let told = format!("moving did not pay: {:.1} s moved, and only {seconds:.1} s when it stayed under the same load", moved.seconds);
        return Err(fail(Kind::FailedPrecondition, format!("{told}; run it again when the machine has nothing else to do, or with more --rounds")));
    }
    Ok(0)
}

/// `run.json`.
fn report(moved: &Pass, sums: &Sums, stayed: Option<&(f64, Sums)>, done: &[Migration], advice: &[Value], image: &str) -> Value {
    json!({
        "image": image,
        "job": moved.job.id,
        "placements": moved.job.placements,
        "advice": advice.iter().find(|r| !r["migration"].is_null()).or(advice.first()),
        "migrations": done,
        "downtime_ms": done.iter().filter_map(|m| m.downtime_ms).fold(None, |a: Option<f64>, b| Some(a.map_or(b, |a| a.max(b)))),
        "bytes_moved": done.iter().filter_map(|m| m.moved_bytes).sum::<u64>(),
        "state_bytes": done.iter().filter_map(|m| m.state_bytes).sum::<u64>(),
        "seconds": moved.seconds,
        "unmoved_seconds": stayed.map(|s| s.0),
        "output_sha256": sums.sha256,
        "unmoved_sha256": stayed.map(|s| &s.1.sha256),
        "files": sums.files,
        "unmoved_files": stayed.map(|s| &s.1.files),
    })
}

fn summary(moved: &Pass, sums: &Sums, stayed: Option<&(f64, Sums)>, done: &[Migration], advice: &[Value], out: &Path) -> anyhow::Result<String> {
    let job = &moved.job;
    let mut text = format!("\n{}\n", gantt(&job.placements, job.ended_ms.unwrap_or(0), 48));
    let mut rows = Vec::new();
    let taken = advice.iter().find(|r| !r["migration"].is_null()).or(advice.first());
    rows.push(match taken {
        Some(r) => ("advice", show::advice(&serde_json::from_value(r.clone())?)),
        None => ("advice", "none: the Learning Plane saw no reason to move the job".into()),
    });
    for m in done {
        let ms = |v: Option<f64>| v.unwrap_or(0.0);
        rows.push(("downtime", format!("{:.1} ms of {:.1} ms that the move of ranks {} took", ms(m.downtime_ms), ms(m.total_ms), m.rank_list())));
        let stopped = table::size(m.moved_stopped_bytes);
        rows.push(("moved", format!("{} for {} of state; {stopped} of it while the ranks stood still", table::size(m.moved_bytes), table::size(m.state_bytes))));
    }
    match stayed {
        Some((seconds, other)) => {
            let gain = if *seconds > moved.seconds { format!("; {:.1} times as long", seconds / moved.seconds) } else { "; NOT longer".into() };
            rows.push(("time", format!("{:.1} s moved, {seconds:.1} s when it stayed under the same load{gain}", moved.seconds)));
            let same = if *sums == *other { format!("equal, {} files byte for byte", sums.files.len()) } else { "DIFFERENT".into() };
            rows.push(("output", format!("{}  moved\n{}  stayed: {same}", sums.sha256, other.sha256)));
        }
        None => {
            rows.push(("time", format!("{:.1} s", moved.seconds)));
            rows.push(("output", format!("{}  ({} files; not compared)", sums.sha256, sums.files.len())));
        }
    }
    let pictures = sums.files.keys().filter(|n| n.ends_with(".png")).cloned().collect::<Vec<_>>().join(", ");
    rows.push(("pictures", format!("{} in {}/", table::short(&pictures, 100), out.display())));
    rows.push(("all this", format!("{}", out.join("run.json").display())));
    text += &table::pairs(&rows);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Placement;

    #[test]
    fn rounds_are_read_from_the_programs_words() {
        assert_eq!(round("round 3/30 ndvi mean 0.1"), Some((3, 30)));
        for other in ["done", "round", "round x/3", "round 3", "a round 3/4"] {
            assert_eq!(round(other), None, "{other}");
        }
    }

    #[test]
    fn the_tenant_comes_at_the_same_round() {
        let (s, after) = (Duration::from_secs, Arrival::After(Duration::from_secs(5)));
        assert!(!after.due(Some(4), true, s(4)) && !after.due(None, true, s(6)) && after.due(Some(6), true, s(6)) && after.due(None, false, s(5)));
        assert!(!Arrival::Round(6).due(Some(5), true, s(60)) && Arrival::Round(6).due(Some(6), true, s(1)));
    }

    #[test]
    fn only_the_demos_own_folder_is_emptied() {
        let folder = crate::files::tests::temp("demo");
        let (ours, theirs) = (folder.join("ours"), folder.join("theirs"));
        fresh(&ours).unwrap();
        fs::write(ours.join("old"), "x").unwrap();
        fresh(&ours).unwrap();
        assert!(!ours.join("old").exists());
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("photo"), "x").unwrap();
        assert!(fresh(&theirs).unwrap_err().to_string().contains("will not touch"));
        assert!(theirs.join("photo").exists());
    }

    #[test]
    fn only_what_an_earlier_run_left_is_removed() {
        let out = crate::files::tests::temp("out");
        clear(&out).unwrap();
        for name in ["run.json", "mine.txt", "gone.png"] {
            fs::write(out.join(name), "x").unwrap();
        }
        clear(&out).unwrap();
        assert!(!out.join("run.json").exists() && out.join("gone.png").exists(), "an unreadable run.json lists nothing");
        fs::create_dir_all(out.join("maps")).unwrap();
        fs::write(out.join("maps/ndvi.png"), "x").unwrap();
        fs::write(out.join("run.json"), json!({"files": {"gone.png": {}, "never.png": {}, "maps/ndvi.png": {}}}).to_string()).unwrap();
        clear(&out).unwrap();
        assert!(out.join("mine.txt").exists() && !out.join("gone.png").exists() && !out.join("maps/ndvi.png").exists());
        fs::write(out.join("maps/run.json"), json!({"files": {"../mine.txt": {}}}).to_string()).unwrap();
        clear(&out.join("maps")).unwrap();
        assert!(out.join("mine.txt").exists(), "nothing above the folder");
    }

    fn pass() -> Pass {
        let p = |rank, site: &str, from_ms, to_ms| Placement { rank, site: site.into(), from_ms, to_ms: Some(to_ms) };
        let placements = vec![p(0, "edge", 0, 9000), p(0, "cloud", 9000, 20_000)];
        let job = Job { id: "job-1".into(), placements, ended_ms: Some(20_000), ..Default::default() };
        Pass { job, seconds: 20.0, tenant_round: Some(6), names: vec!["ndvi.png".into()] }
    }
    fn sums(sum: &str) -> Sums {
        let file = digest::File { bytes: 1, sha256: sum.into() };
        Sums { sha256: sum.into(), files: [("ndvi.png".to_string(), file)].into() }
    }

    #[test]
    fn the_report_and_the_summary_say_the_same() {
        let m = Migration { id: 1, ranks: vec![0], state: "done".into(), downtime_ms: Some(8.25), moved_bytes: Some(3 << 20), state_bytes: Some(2 << 20), ..Default::default() };
        let advice = [json!({"id": 1, "job": "job-1", "from": "edge", "to": "cloud", "reason": "edge is full", "migration": 1, "explanation": "why"})];
        let other = (32.0, sums("ab"));
        let r = report(&pass(), &sums("ab"), Some(&other), std::slice::from_ref(&m), &advice, "a.tif");
        for (key, want) in [("downtime_ms", json!(8.25)), ("bytes_moved", json!(3 << 20)), ("unmoved_seconds", json!(32.0)), ("output_sha256", json!("ab")), ("unmoved_sha256", json!("ab"))] {
            assert_eq!(r[key], want, "{key}");
        }
        assert_eq!((&r["advice"]["reason"], r["placements"].as_array().unwrap().len()), (&json!("edge is full"), 2));
        let text = summary(&pass(), &sums("ab"), Some(&other), &[m], &advice, Path::new("out")).unwrap();
        for part in ["edge 0.0–9.0 s, cloud 9.0–20.0 s", "8.2 ms", "3.0 MiB for 2.0 MiB", "1.6 times as long", "equal, 1 files", "out/run.json"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn only_the_whole_story_is_a_success() {
        let of = |ranks: &[u32]| Migration { id: 1, ranks: ranks.to_vec(), state: "done".into(), ..Default::default() };
        let stayed = |seconds, sum| Some((seconds, sums(sum)));
        let check = |stayed: Option<(f64, Sums)>, done: &[Migration], told: Option<&str>| match (verdict(&pass(), &sums("ab"), stayed.as_ref(), done), told) {
            (Ok(code), None) => assert_eq!(code, 0),
            (Err(e), Some(told)) => assert!(e.to_string().contains(told), "{e}"),
            (other, told) => panic!("{other:?} and not {told:?}"),
        };
        check(stayed(32.0, "ab"), &[of(&[0, 1, 2, 3])], None);
        check(stayed(32.0, "ab"), &[of(&[3]), of(&[0, 1, 2])], None);
        check(None, &[of(&[0, 1, 2, 3])], None);
        check(stayed(32.0, "ab"), &[], Some("no migration"));
        check(stayed(32.0, "ab"), &[of(&[0]), of(&[0, 2])], Some("ranks 1,3 of job-1 never moved"));
        check(stayed(32.0, "cd"), &[of(&[0, 1, 2, 3])], Some("ndvi.png"));
        for seconds in [20.0, 19.0] {
            check(stayed(seconds, "ab"), &[of(&[0, 1, 2, 3])], Some("moving did not pay: 20.0 s"));
        }
    }
}
