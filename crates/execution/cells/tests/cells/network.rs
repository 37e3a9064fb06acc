//! A whole team moves between two ends of a network, as agents have them: its pages ahead while it works, then what is left of it, and its threads.

use crate::moving::*;
use crate::threads::native;
use base::{
    Pace, SiteId,
    identity::{Authority, install_crypto, site_name},
};
use cells::link::{ALPN, Interrupt, Link};
use cells::toolchain::driver::Lang;
use cells::transfer::{Arrival, Departure, Figures, Offer, Word};
use cells::wasi::Mounts;
use cells::{Cell, Control, Ended, Program, Spec, engine};
use mpi::{Fabric, Rank};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const RANK: Rank = Rank(0);
const MOVES: usize = 6;

struct End {
    site: SiteId,
    address: String,
    link: Link,
    fabric: Arc<Fabric>,
    arrivals: Mutex<mpsc::Receiver<Arrival>>,
}

async fn end(authority: &Authority, name: &str) -> End {
    let site = SiteId::new(name).unwrap();
    let identity = authority.issue(&site_name(&site)).unwrap();
    let link = Link::new(site.clone(), identity.dialer().unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = identity.acceptor(&[ALPN]).unwrap();
    let (arrived, arrivals) = mpsc::channel();
    let served = link.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
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
    let (fabric, _) = link.open(("team".into(), 0), 1);
    End { site, address, link, fabric, arrivals: arrivals.into() }
}

fn run(mut cell: Cell) -> JoinHandle<(Cell, Ended)> {
    let body = move || {
        let ended = cell.run();
        (cell, ended)
    };
    std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap()
}

/// Takes in a team and lets it work.
fn arrive(to: &End, program: &Arc<Program>, spec: &Spec) -> (JoinHandle<(Cell, Ended)>, Arc<Control>) {
    let mut arrival = to.arrivals.lock().unwrap().recv_timeout(LONGEST).unwrap();
    let control: Arc<Control> = Arc::default();
    let mut cells = BTreeMap::from([(0, Cell::new(the_engine(), program, spec, control.clone()).unwrap())]);
    let frozen = arrival.receive(&mut cells).unwrap();
    arrival.restored().unwrap();
    assert!(matches!(arrival.word(std::future::pending::<()>()), Ok(Word::Go(_))));
    let mut cell = cells.remove(&0).unwrap();
    cell.arrive(&frozen[&0]);
    let thread = run(cell);
    while !control.back() && !thread.is_finished() {
        std::thread::yield_now();
    }
    arrival.running(0);
    (thread, control)
}

/// A program that is moved to and fro between two ends while it works.
struct Moved<'a> {
    wasm: &'a [u8],
    args: &'a [&'a str],
    moves: usize,
    /// Of what goes ahead.
    pace: Arc<Pace>,
}

/// What it printed, and of each move its figures and how long its pages went ahead.
type Told = (String, Vec<(Figures, Duration)>);

impl Moved<'_> {
    fn run(&self) -> Told {
        install_crypto();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path()).unwrap();
        let ends = runtime.block_on(async { [end(&authority, "edge").await, end(&authority, "cloud").await] });
        let program = the_engine().load(self.wasm).unwrap();
        let log = Arc::new(Log::default());
        let spec = |at: usize| Spec {
            rank: RANK,
            size: 1,
            args: self.args.iter().map(|a| a.to_string()).collect(),
            env: Vec::new(),
            memory_max: 1 << 30,
            budget: Arc::default(),
            mounts: Mounts::default(),
            output: log.clone(),
            fabric: ends[at].fabric.clone(),
            place: ends[at].site.to_string(),
            spin: 0,
        };
        ends[0].fabric.arrive(RANK, Vec::new());
        let mut control: Arc<Control> = Arc::default();
        let mut thread = run(Cell::new(the_engine(), &program, &spec(0), control.clone()).unwrap());
        let mut told = Vec::new();
        for n in 0..self.moves {
            let (source, destination) = (&ends[n % 2], &ends[1 - n % 2]);
            std::thread::sleep(Duration::from_millis(7));
            if thread.is_finished() {
                break;
            }
            let offer = Offer { migration: n as u64 + 1, job: "team".into(), life: 0, program_sha256: program.sha256.clone(), ranks: vec![0] };
            let there = spec(1 - n % 2);
            let moved = std::thread::scope(|scope| {
                let arriving = scope.spawn(|| arrive(destination, &program, &there));
                let mut departure = Departure::open(&source.link, &destination.site, &destination.address, &offer, the_engine(), &program, &self.pace, &Interrupt::default()).unwrap();
                let began = Instant::now();
                departure.ahead(&[(RANK, control.clone())], || true).unwrap();
                let ahead = began.elapsed();
                control.stop();
                let (mut cell, ended) = thread.join().unwrap();
                assert_eq!(ended, Ended::Stopped, "it has come to its end before it was moved: give it more rounds");
                departure.rest(&mut cell).unwrap();
                departure.restored().unwrap();
                departure.go(&[(0, n as u64 + 1)], || source.fabric.depart(RANK)).unwrap();
                let figures = departure.figures.clone();
                println!("{} of {} bytes went while it stood still, for {:?}", figures.moved_stopped_bytes, figures.moved_bytes, figures.downtime);
                assert!(figures.rounds > 0 && figures.moved_stopped_bytes < figures.moved_bytes, "its pages went ahead: {figures:?}");
                told.push((figures, ahead));
                arriving.join().unwrap()
            });
            (thread, control) = moved;
        }
        let (_, ended) = thread.join().unwrap();
        assert_eq!(ended, Ended::Exited(0), "after {} moves", told.len());
        runtime.shutdown_background();
        (log.text(0), told)
    }
}

#[test]
fn a_team_moves_over_the_network_with_its_pages_ahead() {
    const ROUNDS: &str = "400";
    let expected = native("regions", "-fopenmp", &[ROUNDS]);
    let source = programs().join("threads/regions.c").into_os_string();
    let wasm = std::fs::read(make(Lang::C, Path::new("regions.wasm"), ["-O2".into(), "-fopenmp".into(), source].into_iter()).unwrap()).unwrap();
    let (text, moves) = Moved { wasm: &wasm, args: &["regions", ROUNDS], moves: MOVES, pace: Arc::default() }.run();
    assert_eq!(text, expected, "after {} moves", moves.len());
    assert!(moves.len() > 1, "it was hardly moved; give it more rounds");
}

/// 16 MB of pages that pack well, some of which are written all the time.
#[test]
fn what_goes_ahead_is_packed_where_the_bandwidth_is_small() {
    const ROUNDS: u32 = 5000;
    let source = r#"
        #include <stdio.h>
        #include <stdlib.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            unsigned words = 4096 * 1024, *memory = malloc(words * 4), sum = 0;
            for (unsigned i = 0; i < words; i++)
                memory[i] = i / 1024;
            for (unsigned round = 0; round < atoi(argv[1]); round++) {
                for (unsigned k = 0; k < 2; k++)
                    memory[(round * 2 + k) * 7 % 4096 * 1024 + round % 1024] += round;
                usleep(2000);
            }
            for (unsigned i = 0; i < words; i++)
                sum = sum * 31 + memory[i];
            printf("%u\n", sum);
            return 0;
        }"#;
    let mut memory: Vec<u32> = (0..4096 * 1024).map(|i| i / 1024).collect();
    for round in 0..ROUNDS {
        (0..2).for_each(|k| memory[((round * 2 + k) * 7 % 4096 * 1024 + round % 1024) as usize] += round);
    }
    let sum = memory.iter().fold(0u32, |sum, word| sum.wrapping_mul(31).wrapping_add(*word));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pages.c"), source).unwrap();
    let wasm = std::fs::read(make(Lang::C, Path::new("pages.wasm"), ["-O2".into(), folder.path().join("pages.c").into_os_string()].into_iter()).unwrap()).unwrap();
    let rounds = ROUNDS.to_string();
    let (text, moves) = Moved { wasm: &wasm, args: &["pages", &rounds], moves: 2, pace: Arc::new(Pace::new(Some(4 << 20))) }.run();
    assert_eq!(text, format!("{sum}\n"));
    // During the first one it may not have filled its memory yet.
    let (second, ahead) = &moves[1];
    // Its own pages once are 16 MiB; what it writes meanwhile comes again, and that is more the faster it gets on.
    assert!(second.state_bytes > 16 << 20 && second.moved_bytes < 16 << 20, "it went as it lies there: {second:?}");
    assert!(*ahead > Duration::from_millis(200), "2 MiB and more went in {ahead:?} at 4 MiB per second");
}
