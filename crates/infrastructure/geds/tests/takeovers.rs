//! A namenode and its standby in the simulator: killed at any step, stopped, cut off from each other and from who says who leads, and what clients are told must fit together all the same.
//!
//! Clients are of two sorts, by the seed: those that ask the namenode, and nodes that keep under leases what they were told. The checker of their histories is in `common/linear.rs`. When all is well
//! again there must soon be one who leads, with a standby that has everything.
//!
//! Both namenodes are processes of the simulation, as `hub` and an agent would run them: they follow, lead, and follow again. The same with processes that are really killed is in `standby.rs`.

mod common;

use common::{
    Installation, bucket,
    linear::{History, Reads},
    weather::Weather,
};
use geds::{Caller, Catalog, Namenode, Referee, Reign, RemoteCatalog};
use rand::{Rng, SeedableRng, rngs::StdRng};
use simulated::Process;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

const LIVES: u64 = 24;
const NAMES: [&str; 2] = ["a", "b"];
/// What happens to the two, one after the other.
const BLOWS: usize = 24;
/// After all is well again, how long it may take until somebody leads with a standby.
const WELL: Duration = Duration::from_secs(90);
/// Between two questions of a client, ms at most.
const PAUSE_MS: u64 = 50;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// What the two share: a line between them, which can be cut, and who says who leads.
#[derive(Clone)]
struct Between {
    folder: PathBuf,
    cut: Arc<AtomicBool>,
    weather: Weather,
}

impl Between {
    fn socket(&self, n: usize, word: &str) -> PathBuf {
        self.folder.join(format!("{}{word}.sock", NAMES[n]))
    }

    fn referee(&self) -> Referee {
        Referee::store(Arc::new(self.weather.clone()), "reign")
    }

    /// To where the other one can be followed. What is said while the line is cut comes when it no longer is.
    async fn dial(self, other: usize) -> geds::Result<tokio::io::DuplexStream> {
        let path = self.socket(other, "-follow");
        let far = UnixStream::connect(&path).await.map_err(|source| geds::Error::File { action: "connect to", path, source })?;
        let (ours, near) = tokio::io::duplex(64 << 10);
        let ((from_near, to_near), (from_far, to_far)) = (tokio::io::split(near), far.into_split());
        let cut = self.cut;
        tokio::spawn(async move {
            tokio::select! {
                () = carry(from_near, to_far, &cut) => {}
                () = carry(from_far, to_near, &cut) => {}
            }
        });
        Ok(ours)
    }

    /// One of the two, for as long as its process lives.
    fn serve(self, n: usize) {
        runtime().block_on(async {
            loop {
                let dial = {
                    let between = self.clone();
                    move || between.clone().dial(1 - n)
                };
                let namenode = match Namenode::open_paired(self.folder.join(NAMES[n]), NAMES[n], self.referee(), dial).await {
                    Ok(namenode) => namenode,
                    // Who says who leads may be away when it begins.
                    Err(error) => {
                        assert!(error.to_string().contains("the network failed"), "{}: {error}", NAMES[n]);
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                };
                let (clients, follower) = (self.socket(n, ""), self.socket(n, "-follow"));
                tokio::select! {
                    served = namenode.listen(&clients, Caller::Hub) => panic!("{served:?}"),
                    served = namenode.listen_standby(&follower) => panic!("{served:?}"),
                    () = namenode.deposed() => {}
                }
                namenode.close().await;
            }
        });
    }
}

async fn carry(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, cut: &AtomicBool) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let Ok(n) = from.read(&mut bytes).await else { return };
        while cut.load(SeqCst) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if n == 0 || to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}

enum One {
    Dead,
    Runs(Process),
    Stands(Process),
}

struct Pair {
    between: Between,
    each: [One; 2],
    random: StdRng,
    place: String,
}

impl Pair {
    fn new(folder: &Path, seed: u64) -> Pair {
        let mut random = StdRng::seed_from_u64(seed);
        let between = Between { folder: folder.into(), cut: Arc::default(), weather: Weather::honest(random.random()) };
        Pair { between, each: [One::Dead, One::Dead], random, place: format!("seed {seed}") }
    }

    fn catalog(&self) -> RemoteCatalog {
        RemoteCatalog::one_of([0, 1].map(|n| self.between.socket(n, "")))
    }

    fn start(&mut self, n: usize) {
        let between = self.between.clone();
        self.each[n] = One::Runs(Process::start(move || between.serve(n)));
    }

    /// What is wrong becomes more, or less.
    fn blow(&mut self) {
        let n = self.random.random_range(0..2);
        let chosen = self.random.random_range(0..10);
        let before = std::mem::replace(&mut self.each[n], One::Dead);
        match (chosen, before) {
            (0..3, One::Runs(process)) => process.kill(),
            (3..6, One::Runs(process)) => {
                process.stop();
                self.each[n] = One::Stands(process);
            }
            (0, One::Stands(process)) => process.kill(),
            (1..8, One::Stands(process)) => {
                process.go_on();
                self.each[n] = One::Runs(process);
            }
            (0..8, One::Dead) => self.start(n),
            (8, before) => {
                self.each[n] = before;
                self.between.cut.fetch_xor(true, SeqCst);
            }
            (_, before) => {
                self.each[n] = before;
                let part = [0.0, 0.4, 1.0][self.random.random_range(0..3)];
                self.between.weather.set(part);
            }
        }
    }

    /// Where one could take over, the one who leads is killed, or stands still for about as long as that takes: what it knows and what clients have asked it is old then, and it goes on.
    async fn strike(&mut self, history: &History) {
        let reign = self.between.referee().read().await.ok().flatten().unwrap_or_default();
        let n = if reign.leader == NAMES[0] { 0 } else { 1 };
        match std::mem::replace(&mut self.each[n], One::Dead) {
            One::Runs(process) if reign.complete.is_some() => {
                if self.random.random() {
                    // What it has said to the other one lately may not have come there.
                    self.between.cut.store(self.random.random(), SeqCst);
                    let ms = self.random.random_range(0..2500);
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    // Just after somebody was told something.
                    let (before, end) = (history.count(), Instant::now() + Duration::from_secs(1));
                    while history.count() == before && Instant::now() < end {
                        std::thread::sleep(Duration::from_micros(20));
                    }
                    process.kill();
                    return self.between.cut.store(false, SeqCst);
                }
                process.stop();
                let ms = self.random.random_range(4500..9000);
                tokio::time::sleep(Duration::from_millis(ms)).await;
                process.go_on();
                self.each[n] = One::Runs(process);
            }
            other => {
                self.each[n] = other;
                self.blow();
            }
        }
    }

    /// All goes well, and goes on until there is one who leads and one who could.
    async fn well(&mut self) -> Reign {
        self.between.cut.store(false, SeqCst);
        self.between.weather.set(0.0);
        for n in 0..2 {
            match std::mem::replace(&mut self.each[n], One::Dead) {
                One::Dead => self.start(n),
                One::Stands(process) => {
                    process.go_on();
                    self.each[n] = One::Runs(process);
                }
                runs => self.each[n] = runs,
            }
        }
        let end = Instant::now() + WELL;
        loop {
            let reign = self.between.referee().read().await.unwrap();
            if let Some(reign) = reign.clone().filter(|reign| reign.complete.is_some()) {
                return reign;
            }
            assert!(Instant::now() < end, "{}: all is well, and nobody leads with a standby: {reign:?}", self.place);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn life(seed: u64) {
    let temp = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(temp.path(), seed);
    let first = pair.well().await;
    let history = History::new(4).with_pauses(PAUSE_MS);
    let mut clients = tokio::task::JoinSet::new();
    let mut here = None;
    let leases = seed % 2 == 1;
    if leases {
        let mut installation = Installation::new().await;
        installation.catalog = Arc::new(pair.catalog());
        installation.catalog.create_bucket(&bucket("data")).await.unwrap();
        let nodes = [installation.node("edge").await, installation.node("cloud").await];
        for client in 0..4 {
            clients.spawn(history.clone().client(nodes[client % 2].node.clone(), seed ^ client as u64 + 1));
        }
        here = Some((installation, nodes));
    } else {
        pair.catalog().create_bucket(&bucket("data")).await.unwrap();
        for client in 0..4 {
            clients.spawn(history.clone().client(pair.catalog(), seed ^ client + 1));
        }
        // These ask one of the two, whoever leads: it may be one who has been replaced and doesn't know it.
        for n in [0, 1] {
            clients.spawn(history.clone().client(Reads(RemoteCatalog::local(pair.between.socket(n, ""))), seed ^ 5 + n as u64));
        }
    }
    for _ in 0..BLOWS {
        // A namenode that is gone is taken over from after 5 to 8 s, so some of it is seen from within.
        let pause = if pair.random.random_bool(0.3) { 9000 } else { 1500 };
        let pause = pair.random.random_range(0..pause);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if pair.random.random() {
            pair.strike(&history).await;
        } else {
            pair.blow();
        }
    }
    let last = pair.well().await;
    // Clients are answered again.
    let (before, end) = (history.count(), Instant::now() + WELL);
    while history.count() < before + 100 {
        assert!(Instant::now() < end, "{}: nothing is answered any more", pair.place);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    history.end();
    clients.join_all().await;
    println!("reigns {} to {}, {} answers, leases: {leases}", first.term, last.term, history.count());
    history.check(&pair.place);
    drop(here);
}

#[test]
fn what_a_pair_tells_in_the_simulator_fits_together() {
    simulated::each("what_a_pair_tells_in_the_simulator_fits_together", LIVES, |seed| runtime().block_on(life(seed)));
}
