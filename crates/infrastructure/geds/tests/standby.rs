//! A namenode and its standby as two processes: killed and stopped under load, nothing that was acknowledged is lost, and one that has been replaced acknowledges and tells nothing.

mod common;

use base::Kind;
use common::{bucket, key, linear::History, site};
use geds::{Caller, Catalog, Namenode, NewObject, ObjectId, Paired, Referee, RemoteCatalog};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const NAMES: [&str; 2] = ["a", "b"];

fn socket(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.sock"))
}
fn follow_socket(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}-follow.sock"))
}

/// One of the pair, until it is killed.
#[test]
#[ignore = "a part of the tests below"]
fn child_that_is_one_of_a_pair() {
    let folder = PathBuf::from(std::env::var("GEDS_TEST_FOLDER").expect("only as a child"));
    let name = std::env::var("GEDS_TEST_NAME").unwrap();
    let other = NAMES.into_iter().find(|other| *other != name).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let dial = {
            let path = follow_socket(&folder, other);
            move || {
                let path = path.clone();
                async move { tokio::net::UnixStream::connect(&path).await.map_err(|source| geds::Error::File { action: "connect to", path, source }) }
            }
        };
        let namenode = Namenode::open_paired(folder.join(&name), name.clone(), Referee::folder(folder.join("referee")), dial).await.unwrap();
        println!("leads");
        let (standby, at) = (namenode.clone(), follow_socket(&folder, &name));
        tokio::spawn(async move { standby.listen_standby(&at).await.unwrap() });
        namenode.listen(&socket(&folder, &name), Caller::Hub).await.unwrap();
    });
}

struct Pair {
    temp: tempfile::TempDir,
    running: [Option<Child>; 2],
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Pair {
    fn new() -> Pair {
        let mut pair = Pair { temp: tempfile::tempdir().unwrap(), running: [None, None] };
        pair.start(0);
        pair
    }

    fn folder(&self) -> &Path {
        self.temp.path()
    }

    fn start(&mut self, n: usize) {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_one_of_a_pair", "--ignored", "--nocapture", "--test-threads=1"])
            .env("GEDS_TEST_FOLDER", self.folder())
            .env("GEDS_TEST_NAME", NAMES[n])
            .stdout(Stdio::null())
            .spawn();
        self.running[n] = Some(child.unwrap());
    }

    fn kill(&mut self, n: usize) {
        let mut child = self.running[n].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn signal(&self, n: usize, signal: i32) {
        // SAFETY: the process is a child of this one that has not been waited for.
        let process = self.running[n].as_ref().unwrap().id();
        assert_eq!(unsafe { libc::kill(process as i32, signal) }, 0);
        // All of its threads have to come by before it is stopped, and until then they work.
        let still = |task: std::fs::DirEntry| !std::fs::read_to_string(task.path().join("stat")).unwrap_or_default().contains(") T ");
        while signal == libc::SIGSTOP && std::fs::read_dir(format!("/proc/{process}/task")).unwrap().any(|t| still(t.unwrap())) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn catalog(&self) -> RemoteCatalog {
        RemoteCatalog::one_of(NAMES.map(|name| socket(self.folder(), name)))
    }

    async fn reign(&self) -> geds::Reign {
        Referee::folder(self.folder().join("referee")).read().await.unwrap().unwrap_or_default()
    }

    /// Waits until this one leads, and until the other is complete if that is wanted.
    async fn until(&self, what: &str, good: impl Fn(&geds::Reign) -> bool) -> geds::Reign {
        let end = Instant::now() + Duration::from_secs(90);
        loop {
            let reign = self.reign().await;
            if good(&reign) {
                return reign;
            }
            assert!(Instant::now() < end, "{what}: {reign:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What clients have been told.
#[derive(Default)]
struct Told {
    sealed: HashMap<String, u128>,
    /// Asked for, and not known to be done or not.
    unsure: HashMap<String, u128>,
    removed: Vec<String>,
    errors: u64,
}

fn new(id: u128) -> NewObject {
    NewObject { id: ObjectId(id), size: 10, checksum: 7, site: site("edge"), if_absent: false }
}

/// Seals and removes until it is told to stop.
async fn load(catalog: RemoteCatalog, worker: u128, told: Arc<Mutex<Told>>, stop: Arc<std::sync::atomic::AtomicBool>) {
    let mut n = 0;
    while !stop.load(std::sync::atomic::Ordering::SeqCst) {
        n += 1;
        let (id, name) = (worker << 64 | n, format!("w{worker}/{n}"));
        match catalog.seal(&bucket("data"), &key(&name), new(id)).await {
            Ok(_) => drop(told.lock().unwrap().sealed.insert(name.clone(), id)),
            Err(_) => {
                let mut told = told.lock().unwrap();
                told.errors += 1;
                told.unsure.insert(name.clone(), id);
            }
        }
        if n % 5 == 4 {
            let gone = format!("w{worker}/{}", n - 1);
            let known = told.lock().unwrap().sealed.remove(&gone);
            if let Some(id) = known {
                match catalog.remove(&bucket("data"), &key(&gone)).await {
                    Ok(_) => told.lock().unwrap().removed.push(gone),
                    Err(_) => drop(told.lock().unwrap().unsure.insert(gone, id)),
                }
            }
        }
    }
}

struct Load {
    told: Arc<Mutex<Told>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
    workers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn begin(pair: &Pair, from: u128) -> Load {
        let (told, stop) = (Arc::default(), Arc::default());
        let workers = (from..from + 8).map(|worker| tokio::spawn(load(pair.catalog(), worker, Arc::clone(&told), Arc::clone(&stop))));
        Load { workers: workers.collect(), told, stop }
    }

    fn count(&self) -> usize {
        self.told.lock().unwrap().sealed.len()
    }

    async fn until_more(&self, by: usize) {
        let (before, end) = (self.count(), Instant::now() + Duration::from_secs(90));
        while self.count() < before + by {
            assert!(Instant::now() < end, "nothing is acknowledged any more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) -> Told {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        for worker in self.workers {
            worker.await.unwrap();
        }
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

/// Everything that was acknowledged is there; nothing that was acknowledged as removed is.
async fn check(catalog: &RemoteCatalog, told: &Told, place: &str) {
    let end = Instant::now() + Duration::from_secs(60);
    let look = |name: String| async move {
        loop {
            match catalog.lookup(&bucket("data"), &key(&name)).await {
                Ok(meta) => return Some(meta.id.0),
                Err(e) if e.kind() == Kind::NotFound => return None,
                Err(e) => assert!(Instant::now() < end, "{place}: {e}"),
            }
        }
    };
    for (name, id) in &told.sealed {
        assert_eq!(look(name.clone()).await, Some(*id), "{place}: {name} was acknowledged");
    }
    for name in &told.removed {
        assert_eq!(look(name.clone()).await, None, "{place}: {name} was acknowledged as removed");
    }
    for (name, id) in &told.unsure {
        assert!([None, Some(*id)].contains(&look(name.clone()).await), "{place}: {name}");
    }
}

async fn bucket_there(catalog: &RemoteCatalog) {
    let end = Instant::now() + Duration::from_secs(60);
    while let Err(e) = catalog.create_bucket(&bucket("data")).await {
        assert!(Instant::now() < end, "{e}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `GEDS_TAKEOVERS` says how many, `GEDS_SEED` when.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_from_one_that_is_killed_and_nothing_acknowledged_is_lost() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (takeovers, seed) = (number("GEDS_TAKEOVERS").unwrap_or(3), number("GEDS_SEED").unwrap_or_else(rand::random));
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut pair = Pair::new();
    bucket_there(&pair.catalog()).await;
    let mut leader = 0;
    for takeover in 0..takeovers {
        let place = format!("takeover {takeover} of seed {seed}");
        let other = 1 - leader;
        if pair.running[other].is_none() {
            pair.start(other);
        }
        let load = Load::begin(&pair, 1 + u128::from(takeover) * 10);
        let before = pair.until(&place, |reign| reign.leader == NAMES[leader] && reign.complete.as_deref() == Some(NAMES[other])).await;
        load.until_more(random.random_range(20..200)).await;
        tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
        pair.kill(leader);
        let began = Instant::now();
        let after = pair.until(&place, |reign| reign.leader == NAMES[other]).await;
        println!("{place}: after {:?}", began.elapsed());
        assert!(after.term > before.term);
        // It is led by the other, which acknowledges.
        load.until_more(50).await;
        let told = load.end().await;
        check(&pair.catalog(), &told, &place).await;
        leader = other;
    }
}

/// The history of clients who ask whichever leads, across takeovers, is that of one map.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_are_told_fits_together_through_takeovers() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (takeovers, seed) = (number("GEDS_TAKEOVERS").unwrap_or(2), number("GEDS_SEED").unwrap_or_else(rand::random));
    println!("seed {seed}");
    let mut pair = Pair::new();
    bucket_there(&pair.catalog()).await;
    let history = History::new(4);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..4 {
        clients.spawn(history.clone().client(pair.catalog(), seed ^ client + 1));
    }
    let mut leader = 0;
    for takeover in 0..takeovers {
        let (place, other) = (format!("takeover {takeover} of seed {seed}"), 1 - leader);
        if pair.running[other].is_none() {
            pair.start(other);
        }
        pair.until(&place, |reign| reign.leader == NAMES[leader] && reign.complete.as_deref() == Some(NAMES[other])).await;
        let until_more = async |by: usize| {
            let (before, end) = (history.count(), Instant::now() + Duration::from_secs(90));
            while history.count() < before + by {
                assert!(Instant::now() < end, "{place}: nothing is answered any more");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        until_more(100).await;
        // One of the two is killed, the other stopped: it wakes up when it leads no more.
        if takeover % 2 == 0 {
            pair.kill(leader);
        } else {
            pair.signal(leader, libc::SIGSTOP);
        }
        pair.until(&place, |reign| reign.leader == NAMES[other]).await;
        until_more(100).await;
        if takeover % 2 == 1 {
            pair.signal(leader, libc::SIGCONT);
            until_more(50).await;
            pair.kill(leader);
        }
        leader = other;
    }
    history.end();
    clients.join_all().await;
    history.check(&format!("seed {seed}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_stopped_and_replaced_acknowledges_and_tells_nothing() {
    let mut pair = Pair::new();
    let catalog = pair.catalog();
    bucket_there(&catalog).await;
    pair.start(1);
    pair.until("complete", |reign| reign.complete.as_deref() == Some("b")).await;
    catalog.seal(&bucket("data"), &key("same"), new(1)).await.unwrap();
    // Clients of the old one only, with connections that are open already, and questions in its socket when it wakes.
    let old = || RemoteCatalog::local(socket(pair.folder(), "a"));
    let (reader, writer, late) = (old(), old(), old());
    assert_eq!(reader.lookup(&bucket("data"), &key("same")).await.unwrap().id.0, 1);
    writer.lookup(&bucket("data"), &key("same")).await.unwrap();
    pair.signal(0, libc::SIGSTOP);
    let asked = tokio::spawn(async move {
        let (data, same, other) = (bucket("data"), key("same"), key("other"));
        tokio::join!(reader.lookup(&data, &same), writer.seal(&data, &other, new(7)))
    });
    pair.until("taken over", |reign| reign.leader == "b").await;
    let end = Instant::now() + Duration::from_secs(60);
    while catalog.seal(&bucket("data"), &key("same"), new(2)).await.is_err() {
        assert!(Instant::now() < end, "the new one does not acknowledge");
    }
    pair.signal(0, libc::SIGCONT);
    let (read, wrote) = asked.await.unwrap();
    assert!(read.is_err(), "the old one tells what it knows: {read:?}");
    assert!(wrote.is_err(), "the old one acknowledges: {wrote:?}");
    for _ in 0..20 {
        assert!(late.lookup(&bucket("data"), &key("same")).await.is_err());
        assert!(late.seal(&bucket("data"), &key("late"), new(9)).await.is_err());
    }
    assert_eq!(catalog.lookup(&bucket("data"), &key("same")).await.unwrap().id.0, 2);
    assert_eq!(catalog.lookup(&bucket("data"), &key("late")).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_lost_delays_its_leader_once_and_may_not_take_over() {
    let mut pair = Pair::new();
    let catalog = pair.catalog();
    bucket_there(&catalog).await;
    pair.start(1);
    pair.until("complete", |reign| reign.complete.as_deref() == Some("b")).await;
    // Stopped, it answers nothing: the leader writes down that it goes on alone, and acknowledges again.
    pair.signal(1, libc::SIGSTOP);
    catalog.seal(&bucket("data"), &key("alone"), new(1)).await.unwrap();
    assert_eq!(pair.reign().await.complete, None);
    pair.kill(0);
    pair.signal(1, libc::SIGCONT);
    // It lacks what was acknowledged, so it waits for the one that has it.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(pair.reign().await.leader, "a");
    pair.start(0);
    let end = Instant::now() + Duration::from_secs(60);
    while catalog.lookup(&bucket("data"), &key("alone")).await.is_err() {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pair.until("complete again", |reign| reign.complete.as_deref() == Some("b")).await;
    pair.kill(0);
    pair.until("taken over", |reign| reign.leader == "b").await;
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match catalog.lookup(&bucket("data"), &key("alone")).await {
            Ok(meta) => break assert_eq!(meta.id.0, 1),
            Err(e) => assert!(e.kind() != Kind::NotFound && Instant::now() < end, "{e}"),
        }
    }
}

/// What would lose names by mistake: a standby that comes first, and a leader that is started without its standby.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_does_not_begin_and_a_folder_of_a_pair_is_not_opened_alone() {
    let temp = tempfile::tempdir().unwrap();
    let referee = || Referee::folder(temp.path().join("referee"));
    let nobody = || async { Err::<tokio::io::DuplexStream, _>(geds::Error::Peer { peer: "the other".into(), message: "it is not there".into() }) };
    let standby = Paired::start(temp.path().join("b"), "b", referee(), false, nobody).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(standby.leading().is_none() && referee().read().await.unwrap().is_none(), "nobody has led yet, and it has no names");
    let first = Paired::start(temp.path().join("a"), "a", referee(), true, nobody).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    let namenode = loop {
        match first.leading() {
            Some(namenode) => break namenode,
            None => assert!(Instant::now() < end, "it never leads"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    namenode.create_bucket(&bucket("data")).await.unwrap();
    namenode.seal(&bucket("data"), &key("k"), new(1)).await.unwrap();
    drop(namenode);
    first.close().await;
    assert!(first.leading().is_none());
    let refused = Namenode::open(temp.path().join("a")).await.err().expect("the other one may know more");
    assert_eq!(refused.kind(), Kind::FailedPrecondition);
    assert!(refused.to_string().contains("one of a pair") && refused.to_string().contains("paired"), "{refused}");
    // As it says: without the mark it is one alone, with all that it had.
    std::fs::remove_file(temp.path().join("a/paired")).unwrap();
    let alone = Namenode::open(temp.path().join("a")).await.unwrap();
    assert_eq!(alone.lookup(&bucket("data"), &key("k")).await.unwrap().id.0, 1);
}
