//! Concurrent clients, a namenode that is killed again and again, and the question whether all that they were told could have come from one that
//! does one thing after the other. The same of nodes that keep what they were told under leases. The checker is in `common/linear.rs`, a namenode that is taken over from in `standby.rs`.

mod common;

use common::{
    Installation, Running, bucket, key,
    linear::{Call, History, Op, Told, linearizable},
};
use geds::{Caller, Catalog, Namenode, RemoteCatalog};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    path::Path,
    process::{Child, Command},
    sync::{Arc, Mutex},
    time::Duration,
};

#[test]
fn the_checker_tells_right_from_wrong() {
    let call = |op, begun, ended, told| Call { op, begun, ended, told };
    let seal = |id| Op::Seal { key: 0, id, if_absent: true };
    let look = Op::Lookup { key: 0 };
    let check = |calls: &[Call], expected: bool| assert_eq!(linearizable(calls), expected, "{calls:?}");
    check(&[call(seal(1), 0, 1, Told::Done(1, None)), call(look, 2, 3, Told::Done(1, None))], true);
    // An old value after a new one was acknowledged.
    check(&[call(seal(1), 0, 1, Told::Done(1, None)), call(look, 2, 3, Told::Missing)], false);
    // At the same time either is right, but not the new one and then the old.
    check(&[call(seal(1), 0, 9, Told::Done(1, None)), call(look, 2, 3, Told::Missing), call(look, 4, 5, Told::Done(1, None))], true);
    check(&[call(seal(1), 0, 9, Told::Done(1, None)), call(look, 2, 3, Told::Done(1, None)), call(look, 4, 5, Told::Missing)], false);
    // Two winners of one name.
    check(&[call(seal(1), 0, 5, Told::Done(1, None)), call(seal(2), 0, 5, Told::Done(2, None))], false);
    // A lost answer: done, not done, but not undone.
    let lost = call(seal(1), 0, u64::MAX, Told::Lost);
    check(&[lost, call(look, 2, 3, Told::Missing)], true);
    check(&[lost, call(look, 2, 3, Told::Missing), call(look, 4, 5, Told::Done(1, None))], true);
    check(&[lost, call(look, 2, 3, Told::Done(1, None)), call(look, 4, 5, Told::Missing)], false);
    // Two lost calls, one upon the other.
    let lost_rename = call(Op::Rename { from: 0 }, 1, u64::MAX, Told::Lost);
    let other = Op::Lookup { key: 1 };
    check(&[lost, lost_rename, call(other, 4, 5, Told::Done(1, None))], true);
    check(&[lost_rename, call(other, 4, 5, Told::Done(1, None))], false);
    // A rename is one step.
    let rename = call(Op::Rename { from: 0 }, 2, 9, Told::Done(1, None));
    let both = |a, b| [call(seal(1), 0, 1, Told::Done(1, None)), rename, call(Op::Lookup { key: 1 }, 3, 4, a), call(look, 5, 6, b)];
    check(&both(Told::Done(1, None), Told::Missing), true);
    check(&both(Told::Done(1, None), Told::Done(1, None)), false);
}

const FOLDER: &str = "GEDS_TEST_NAMENODE";

/// Not a test: the process that is killed. It serves until then.
#[test]
fn process_that_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = Path::new(&folder);
        // Small snapshots, so that kills fall into them too.
        let namenode = Namenode::open_with(folder.join("names"), 16 << 10).await.unwrap();
        namenode.listen(&folder.join("socket"), Caller::Hub).await.unwrap();
    });
}

struct Process(Child);

impl Process {
    fn start(folder: &Path) -> Process {
        let own = std::env::current_exe().unwrap();
        let mut command = Command::new(own);
        command.args(["--exact", "process_that_is_killed", "--nocapture"]).env(FOLDER, folder);
        Process(command.stdout(std::process::Stdio::null()).spawn().unwrap())
    }
}
impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn defect_08_what_clients_are_told_fits_together_through_kills() {
    let first = std::env::var("GEDS_SEED").map_or_else(|_| rand::random::<u64>(), |seed| seed.parse().unwrap());
    // `GEDS_KILLS` asks for more than the usual run. They are of several namenodes then: each answer that is lost may have had its effect at any later time, and with hundreds of them in one
    // history there are too many ways to place those.
    let mut left = std::env::var("GEDS_KILLS").map_or(KILLS_MAX, |kills| kills.parse().unwrap());
    for seed in (0..).map(|round| first.wrapping_add(round)) {
        fits_together_through_kills(seed, left.min(KILLS_MAX));
        left = left.saturating_sub(KILLS_MAX);
        if left == 0 {
            break;
        }
    }
}

/// Kills of one namenode.
const KILLS_MAX: usize = 25;

fn fits_together_through_kills(seed: u64, kills: usize) {
    const PAIRS: usize = 4;
    const CLIENTS: usize = 4;
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("socket");
    let history = History::new(PAIRS);
    let process = Arc::new(Mutex::new(Some(Process::start(temp.path()))));
    let mut random = StdRng::seed_from_u64(seed);
    runtime.block_on(async {
        let first = RemoteCatalog::local(&socket);
        while first.create_bucket(&bucket("data")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let kills = {
            let (process, folder) = (process.clone(), temp.path().to_path_buf());
            let pauses: Vec<u64> = (0..kills).map(|_| random.random_range(10..120)).collect();
            tokio::spawn(async move {
                for pause in pauses {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    let old = process.lock().unwrap().take();
                    drop(old);
                    *process.lock().unwrap() = Some(Process::start(&folder));
                }
            })
        };
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(history.clone().client(RemoteCatalog::local(&socket), seed ^ client as u64 + 1));
        }
        kills.await.unwrap();
        history.end();
        clients.join_all().await;
    });
    drop(process.lock().unwrap().take());
    history.check(&format!("seed {seed}"));
}

/// Nodes answer from memory what their leases let them: nobody reads what he could know to be old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nodes_with_leases_tell_fits_together() {
    let seed = std::env::var("GEDS_SEED").map_or_else(|_| rand::random::<u64>(), |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut here = Installation::new().await;
    let near = here.namenode.clone();
    let dials = Arc::new(Mutex::new(Vec::new()));
    here.catalog = Arc::new({
        let dials = dials.clone();
        RemoteCatalog::over(move || {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let near = near.clone();
            dials.lock().unwrap().push(tokio::spawn(async move { near.serve(theirs, Caller::Hub).await }).abort_handle());
            async move { Ok(ours) }
        })
    });
    let nodes = [here.node("edge").await, here.node("cloud").await];
    nodes_fit_together(nodes, seed, || dials.lock().unwrap().drain(..).for_each(|serving| serving.abort())).await;
}

/// The same over sockets, where each node has a session and threads that ask by themselves: their leases come by another way than what revokes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_threads_of_nodes_with_leases_tell_fits_together() {
    let seed = std::env::var("GEDS_SEED").map_or_else(|_| rand::random::<u64>(), |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut here = Installation::new().await;
    let temp = tempfile::tempdir().unwrap();
    let (near, socket) = (here.namenode.clone(), temp.path().join("socket"));
    let listen = {
        let socket = socket.clone();
        move || {
            let (near, socket) = (near.clone(), socket.clone());
            tokio::spawn(async move { near.listen(&socket, Caller::Hub).await })
        }
    };
    let mut listening = listen();
    let mut nodes = Vec::new();
    for name in ["edge", "cloud"] {
        let catalog = Arc::new(RemoteCatalog::local(&socket));
        while catalog.lookup_blocking(&bucket("data"), &key("none")).is_none() {
            let _ = catalog.lookup(&bucket("data"), &key("none")).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        here.catalog = catalog;
        nodes.push(here.node(name).await);
    }
    let nodes = <[_; 2]>::try_from(nodes).unwrap_or_else(|_| unreachable!());
    nodes_fit_together(nodes, seed, || {
        listening.abort();
        listening = listen();
    })
    .await;
}

/// Four clients of two nodes, whose sessions `cut` ends now and then.
async fn nodes_fit_together(nodes: [Running; 2], seed: u64, mut cut: impl FnMut()) {
    let history = History::new(3);
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..4 {
        clients.spawn(history.clone().client(nodes[n % 2].node.clone(), seed ^ n as u64 + 1));
    }
    // Leases end with their terms then.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        cut();
    }
    history.end();
    clients.join_all().await;
    history.check(&format!("seed {seed}"));
}
