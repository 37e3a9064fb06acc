//! A source whose destination hangs: it closes nothing, and takes nothing or answers nothing. The rank must not stand still for it.

use base::{
    SiteId,
    identity::{Authority, Identity, install_crypto, site_name},
};
use cells::link::{ALPN, Interrupt, Link};
use cells::toolchain::driver::{self, Lang};
use cells::transfer::{Departure, Offer};
use cells::wasi::{Mounts, Output};
use cells::{Cell, Control, Ended, Engine, Program, Spec, engine};
use mpi::{Fabric, Message, Rank, Wire};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const RANK: Rank = Rank(0);
/// A busy machine may take so long for what should happen at once.
const SOON: Duration = Duration::from_secs(15);

struct Nowhere;

impl Wire for Nowhere {
    fn send(&self, _: Message) {}
    fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
}

/// Tells when the program has printed something.
struct Ready(mpsc::Sender<()>);

impl Output for Ready {
    fn write(&self, _: Rank, _: bool, _: u64, _: &[u8]) {
        let _ = self.0.send(());
    }
}

/// Where a rank is to move to.
#[derive(Clone, Copy, PartialEq)]
enum Destination {
    /// Accepts the offer and reads nothing after that.
    Deaf,
    /// Reads everything and says nothing after it has accepted.
    Mute,
}

struct Bed {
    runtime: tokio::runtime::Runtime,
    engine: Engine,
    program: Arc<Program>,
    edge: Identity,
    cloud: Identity,
}

fn site(name: &str) -> SiteId {
    SiteId::new(name).unwrap()
}

fn bed() -> Bed {
    install_crypto();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open(folder.path()).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/large.c");
    let out = folder.path().join("large.wasm");
    let args = [source.as_os_str(), "-O2".as_ref(), "-o".as_ref(), out.as_os_str()].map(|a| a.to_os_string());
    assert_eq!(driver::main(Lang::C, args.to_vec()).unwrap(), 0);
    let engine = Engine::new(&engine::Options { cells_max: 4, ..Default::default() }).unwrap();
    let program = engine.load(&std::fs::read(out).unwrap()).unwrap();
    let [edge, cloud] = ["edge", "cloud"].map(|name| authority.issue(&site_name(&site(name))).unwrap());
    Bed { runtime: tokio::runtime::Runtime::new().unwrap(), engine, program, edge, cloud }
}

impl Bed {
    /// Its address. It lives as long as the bed.
    fn destination(&self, destination: Destination) -> String {
        let acceptor = self.cloud.acceptor(&[ALPN]).unwrap();
        let listener = self.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        self.runtime.spawn(async move {
            let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            let mut offer = vec![0; stream.read_u32_le().await.unwrap() as usize];
            stream.read_exact(&mut offer).await.unwrap();
            // One byte follows: ACCEPT.
            stream.write_all(&[1, 0, 0, 0, 16]).await.unwrap();
            stream.flush().await.unwrap();
            if destination == Destination::Mute {
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
            std::future::pending::<()>().await;
        });
        address
    }

    /// Stops a rank, sends what a destination needs of it and waits until that holds it; called off after `patience`. Says why it failed, how long the
    /// rank stood still, and whether it went on afterwards.
    fn depart(self: &Arc<Bed>, destination: Destination, patience: Option<Duration>) -> (String, Duration, bool) {
        let (bed, address) = (self.clone(), self.destination(destination));
        let (done, is_done) = mpsc::channel();
        let body = move || {
            let (ready, is_ready) = mpsc::channel();
            let fabric = Arc::new(Fabric::new(1, Box::new(Nowhere)));
            fabric.arrive(RANK, Vec::new());
            let spec = Spec {
                rank: RANK,
                size: 1,
                args: vec!["large".into()],
                env: Vec::new(),
                memory_max: 1 << 30,
                budget: Arc::default(),
                mounts: Mounts::default(),
                output: Arc::new(Ready(ready)),
                fabric: fabric.clone(),
                place: "edge".into(),
                spin: 0,
            };
            let control: Arc<Control> = Arc::default();
            let cell = Cell::new(&bed.engine, &bed.program, &spec, control.clone()).unwrap();
            let thread = run(cell);
            is_ready.recv_timeout(SOON).unwrap();
            let link = bed.runtime.block_on(async { Link::new(site("edge"), bed.edge.dialer().unwrap()) });
            let interrupt = Interrupt::default();
            let offer = Offer { migration: 1, job: "job-1".into(), life: 0, program_sha256: bed.program.sha256.clone(), ranks: vec![0] };
            let mut departure = Departure::open(&link, &site("cloud"), &address, &offer, &bed.engine, &bed.program, &Arc::default(), &interrupt).unwrap();
            control.stop();
            let (mut cell, ended) = thread.join().unwrap();
            assert_eq!(ended, Ended::Stopped);
            if let Some(patience) = patience {
                let interrupt = interrupt.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(patience);
                    interrupt.raise("the hub has called it off");
                });
            }
            let began = Instant::now();
            let failed = departure.rest(&mut cell).and_then(|()| departure.restored()).unwrap_err();
            let stood = began.elapsed();
            fabric.release(RANK);
            let thread = run(cell);
            let end = Instant::now() + SOON;
            while !control.back() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            let went_on = control.back();
            departure.abandon("it stays");
            control.kill("seen enough");
            thread.join().unwrap();
            let why = std::iter::successors(Some(&failed as &dyn std::error::Error), |e| e.source()).map(|e| e.to_string()).collect::<Vec<_>>().join(": ");
            done.send((why, stood, went_on)).unwrap();
        };
        // A thread that hangs would keep the test from saying so: it is not waited for.
        std::thread::spawn(body);
        is_done.recv_timeout(4 * SOON).expect("the rank stands still for ever")
    }
}

fn run(mut cell: Cell) -> JoinHandle<(Cell, Ended)> {
    let body = move || {
        let ended = cell.run();
        (cell, ended)
    };
    std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap()
}

#[test]
fn a_rank_does_not_wait_for_a_destination_that_takes_nothing() {
    let bed = Arc::new(bed());
    let (why, stood, went_on) = bed.depart(Destination::Deaf, None);
    assert!(why.contains("took nothing for 3 s"), "{why}");
    assert!(went_on && stood < SOON, "{stood:?}");
}

#[test]
fn a_move_that_is_called_off_lets_its_rank_go_on() {
    let bed = Arc::new(bed());
    for destination in [Destination::Deaf, Destination::Mute] {
        let (why, stood, went_on) = bed.depart(destination, Some(Duration::from_millis(500)));
        assert!(why.contains("the hub has called it off"), "{why}");
        assert!(went_on && stood < SOON, "{stood:?}");
    }
}
