//! How long a rank stands still while it moves between two agents' ends over mutual TLS on loopback, with 64 MB and with a GB; the same without pre-copy beside
//! it, and the same once more as users have it, through a platform whose hub decides ([`crate::platform`]).

use crate::{compile, figure, median};
use anyhow::{Context, Result, anyhow};
use base::{SiteId, identity::{Authority, site_name}};
use cells::link::{ALPN, At, Interrupt, Route};
use cells::transfer::{Arrival, Departure, Figures, Offer, Word};
use cells::wasi::{Mounts, Output};
use cells::{Cell, Control, Ended, Engine, Link, Program, Spec, engine};
use mpi::{Fabric, Rank};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const RANK: Rank = Rank(0);
/// Memory of the ranks that move, in MB, the moves of each kind, the downtime to reach in ms, and what the figures are called.
const SIZES: [(u32, usize, f64, &str); 2] = [(64, 11, 10.0, "migrate"), (1024, 5, 30.0, "migrate-1gb")];
/// Moves through a platform.
const RUNS: usize = 11;

/// One agent's part of it.
struct End {
    site: SiteId,
    address: String,
    link: Link,
    fabric: Arc<Fabric>,
    route: Arc<Route>,
    arrivals: std::sync::Mutex<mpsc::Receiver<Arrival>>,
}

/// Tells when the program has filled its memory.
struct Ready(mpsc::Sender<()>);

impl Output for Ready {
    fn write(&self, _: Rank, _: bool, _: u64, _: &[u8]) {
        let _ = self.0.send(());
    }
}

async fn end(authority: &Authority, name: &str) -> Result<End> {
    let site = SiteId::new(name)?;
    let identity = authority.issue(&site_name(&site))?;
    let link = Link::new(site.clone(), identity.dialer()?);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let acceptor = identity.acceptor(&[ALPN])?;
    let (arrived, arrivals) = mpsc::channel();
    let served = link.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let _ = tcp.set_nodelay(true);
            let (acceptor, link, arrived) = (acceptor.clone(), served.clone(), arrived.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(tcp).await
                    && let Ok(Some(arrival)) = link.serve(stream.into()).await
                {
                    let _ = arrived.send(arrival);
                }
            });
        }
    });
    let (fabric, route) = link.open(("bench".into(), 0), 1);
    Ok(End { site, address, link, fabric, route, arrivals: arrivals.into() })
}

struct Bench {
    megabytes: u32,
    engine: Engine,
    program: Arc<Program>,
    ends: [End; 2],
    output: Arc<Ready>,
}

type Running = JoinHandle<(Cell, Ended)>;

impl Bench {
    fn spec(&self, at: usize) -> Spec {
        Spec {
            rank: RANK,
            size: 1,
            args: vec!["rewrite".into(), self.megabytes.to_string()],
            env: Vec::new(),
            memory_max: 4 << 30,
            budget: Arc::default(),
            mounts: Mounts::default(),
            output: self.output.clone(),
            fabric: self.ends[at].fabric.clone(),
            place: self.ends[at].site.to_string(),
            spin: 0,
        }
    }

    fn run(&self, mut cell: Cell) -> Result<Running> {
        let body = move || {
            let ended = cell.run();
            (cell, ended)
        };
        Ok(std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body)?)
    }

    fn halt(&self, at: usize, control: &Control, thread: Running) -> Result<Cell> {
        control.stop();
        self.ends[at].fabric.mailbox(RANK).bell.ring();
        match thread.join().map_err(|_| anyhow!("the rank's thread panicked"))? {
            (cell, Ended::Stopped) => Ok(cell),
            (_, other) => Err(anyhow!("the rank ended: {other:?}")),
        }
    }

    /// Moves the rank from one end to the other.
    fn migrate(&self, n: u64, from: usize, control: &Arc<Control>, thread: Running, ahead: bool) -> Result<(Running, Arc<Control>, Figures)> {
        let to = 1 - from;
        let offer = Offer { migration: n, job: "bench".into(), life: 0, program_sha256: self.program.sha256.clone(), ranks: vec![0] };
        std::thread::scope(|scope| {
            let (source, destination) = (&self.ends[from], &self.ends[to]);
            let arriving = scope.spawn(move || -> Result<(Running, Arc<Control>)> {
                let mut arrival = destination.arrivals.lock().map_err(|e| anyhow!("{e}"))?.recv()?;
                let control: Arc<Control> = Arc::default();
                let cell = Cell::new(&self.engine, &self.program, &self.spec(to), control.clone())?;
                let mut cells = BTreeMap::from([(0, cell)]);
                let frozen = arrival.receive(&mut cells)?;
                arrival.restored()?;
                let epochs = match arrival.word(std::future::pending::<()>()) {
                    Ok(Word::Go(epochs)) => epochs,
                    other => return Err(anyhow!("the source said {other:?}")),
                };
                destination.route.learn([(RANK, At { site: destination.site.to_string(), address: destination.address.clone(), epoch: epochs[0].1 })]);
                let mut cell = cells.remove(&0).context("the cell that was put in")?;
                cell.arrive(&frozen[&0]);
                let thread = self.run(cell)?;
                while !control.back() {
                    std::hint::spin_loop();
                }
                arrival.running(0);
                Ok((thread, control))
            });
            let mut departure = Departure::open(&source.link, &destination.site, &destination.address, &offer, &self.engine, &self.program, &Arc::default(), &Interrupt::default())?;
            if ahead {
                departure.ahead(&[(RANK, control.clone())], || true)?;
            }
            let mut cell = self.halt(from, control, thread)?;
            departure.rest(&mut cell)?;
            departure.restored()?;
            source.route.learn([(RANK, At { site: destination.site.to_string(), address: destination.address.clone(), epoch: n })]);
            departure.go(&[(0, n)], || source.fabric.depart(RANK))?;
            drop(cell);
            let (thread, control) = arriving.join().map_err(|_| anyhow!("the destination panicked"))??;
            Ok((thread, control, departure.figures))
        })
    }
}

pub fn migrate() -> Result<Vec<Value>> {
    base::identity::install_crypto();
    let mut figures = Vec::new();
    let mut copied = 0.0;
    for (megabytes, runs, goal, name) in SIZES.into_iter().rev() {
        let these;
        (these, copied) = downtimes(megabytes, runs, goal, name)?;
        figures.splice(0..0, these);
    }
    figures.extend(crate::platform::moves(RUNS, copied).unwrap_or_else(|e| vec![json!({"name": "migrate.platform_downtime", "not_run": format!("{e:#}")})]));
    Ok(figures)
}

/// Moves a rank of so many MB to and fro, with and without pre-copy in turns. Its figures, and what stop-and-copy takes, in ms.
fn downtimes(megabytes: u32, runs: usize, goal: f64, name: &str) -> Result<(Vec<Value>, f64)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let authority = Authority::open(folder.path())?;
    let ends = runtime.block_on(async { anyhow::Ok([end(&authority, "edge").await?, end(&authority, "cloud").await?]) })?;
    let engine = Engine::new(&engine::Options { cells_max: 8, ..Default::default() })?;
    let program = engine.load(&compile("rewrite.c")?)?;
    let (ready, is_ready) = mpsc::channel();
    let bench = Bench { megabytes, engine, program, ends, output: Arc::new(Ready(ready)) };

    let mut control: Arc<Control> = Arc::default();
    let cell = Cell::new(&bench.engine, &bench.program, &bench.spec(0), control.clone())?;
    bench.ends[0].fabric.arrive(RANK, Vec::new());
    let mut thread = bench.run(cell)?;
    is_ready.recv_timeout(Duration::from_secs(60)).context("the program did not get ready")?;
    let (mut ours, mut copied, mut totals, mut stopped_bytes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut state = 0;
    for n in 0..2 * runs {
        let (from, ahead) = (n % 2, n / 2 % 2 == 0);
        std::thread::sleep(Duration::from_millis(200));
        let began = Instant::now();
        let figures;
        (thread, control, figures) = bench.migrate(n as u64 + 1, from, &control, thread, ahead)?;
        let downtime = figures.downtime.as_secs_f64() * 1e3;
        if ahead {
            ours.push(downtime);
            totals.push(began.elapsed().as_secs_f64() * 1e3);
            stopped_bytes.push(figures.moved_stopped_bytes as f64 / 1024.0);
            state = figures.state_bytes;
        } else {
            copied.push(downtime);
        }
    }
    control.kill("the benchmark is over");
    let _ = thread.join();
    runtime.shutdown_background();
    let runs = ours.len();
    let worst = ours.iter().copied().fold(0.0, f64::max);
    let (downtime, copied) = (median(ours), median(copied));
    let to_reach = format!("<= {goal}, and >= 3x shorter than stop-and-copy");
    let figures = vec![
        figure(&format!("{name}.downtime.p50"), "ms", &to_reach, downtime, Some(copied), runs, downtime <= goal && 3.0 * downtime <= copied),
        figure(&format!("{name}.downtime.max"), "ms", "reported", worst, None, runs, true),
        figure(&format!("{name}.total.p50"), "ms", "reported", median(totals), None, runs, true),
        figure(&format!("{name}.moved-while-stopped.p50"), "KiB", "reported", median(stopped_bytes), Some(state as f64 / 1024.0), runs, true),
    ];
    Ok((figures, copied))
}
