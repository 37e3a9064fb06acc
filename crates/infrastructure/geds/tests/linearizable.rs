//! Concurrent clients, a namenode that is killed again and again, and the question whether all that they were told could have come from one that
//! does one thing after the other.
//!
//! Each pair of keys is checked by itself: operations are placed one after the other, each between its beginning and its end, so that every answer is the
//! one that a plain map gives. An operation whose answer was lost may have happened at any time since, or never. The search
//! (after Wing and Gong) remembers which sets of operations it has placed with which map.

mod common;

use common::{bucket, key, site};
use geds::{Caller, Catalog, Namenode, NewObject, ObjectId, RemoteCatalog};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::HashSet,
    path::Path,
    process::{Child, Command},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

/// The two keys of a pair are 0 and 1.
#[derive(Clone, Copy, Debug)]
enum Op {
    Seal { key: usize, id: u128, if_absent: bool },
    Delete { key: usize },
    Lookup { key: usize },
    Rename { from: usize },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    /// Done; the id that it was about, and what it put out of sight.
    Done(u128, Option<u128>),
    Missing,
    Taken,
    /// Nobody knows.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    op: Op,
    begun: u64,
    /// `u64::MAX`: never.
    ended: u64,
    told: Told,
}

/// What a plain map of two keys answers.
fn step(map: &mut [Option<u128>; 2], op: Op) -> Told {
    match op {
        Op::Seal { key, id, if_absent } => match map[key] {
            Some(_) if if_absent => Told::Taken,
            old => {
                map[key] = Some(id);
                Told::Done(id, old)
            }
        },
        Op::Delete { key } => map[key].take().map_or(Told::Missing, |id| Told::Done(id, None)),
        Op::Lookup { key } => map[key].map_or(Told::Missing, |id| Told::Done(id, None)),
        Op::Rename { from } => match map[from].take() {
            Some(id) => Told::Done(id, map[1 - from].replace(id)),
            None => Told::Missing,
        },
    }
}

/// Sets of placed calls that a search may remember. A history that needs more is neither right nor wrong, and the test says so.
const SEEN_MAX: usize = 1 << 20;
/// Lost calls that may have happened between two answered ones: enough to bring any two values under the two keys.
const CHAIN_MAX: usize = 4;

/// The ways in which lost calls, at most `depth`, lead from `map` to where `call` gets the answer that it got; none if it gets it at once.
///
/// A lost call is placed only when the next answered one needs it. It could have happened before, but then nothing that was answered in between told of it, since each answer
/// tells what was there.
fn ways(calls: &[Call], lost: &[usize], map: [Option<u128>; 2], call: usize, depth: usize) -> Vec<(Vec<usize>, [Option<u128>; 2])> {
    let mut then = map;
    if step(&mut then, calls[call].op) == calls[call].told {
        return vec![(Vec::new(), then)];
    }
    let mut found = Vec::new();
    for (at, n) in lost.iter().enumerate().filter(|_| depth > 0) {
        let mut then = map;
        step(&mut then, calls[*n].op);
        // Without an effect it is the same as one that never happened.
        if then != map {
            let rest: Vec<usize> = lost.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, n)| *n).collect();
            found.extend(ways(calls, &rest, then, call, depth - 1).into_iter().map(|(mut chain, map)| {
                chain.insert(0, *n);
                (chain, map)
            }));
        }
    }
    found
}

/// Whether the calls could have been carried out one after the other, with at most `depth` lost ones in a row.
fn placed_with(calls: &[Call], depth: usize) -> bool {
    type Placed = Vec<u64>;
    let mut seen: HashSet<(Placed, [Option<u128>; 2])> = HashSet::new();
    let mut stack = vec![(vec![0u64; calls.len().div_ceil(64)], [None; 2])];
    while let Some((placed, map)) = stack.pop() {
        let is = |n: usize| placed[n / 64] >> (n % 64) & 1 == 1;
        let left: Vec<usize> = (0..calls.len()).filter(|n| !is(*n)).collect();
        // Nothing may come after something that ended before it began.
        let first_end = left.iter().map(|n| calls[*n].ended).min().unwrap_or(u64::MAX);
        let open = left.iter().copied().filter(|n| calls[*n].begun < first_end);
        let (lost, mut answered): (Vec<usize>, Vec<usize>) = open.partition(|n| calls[*n].told == Told::Lost);
        if answered.is_empty() {
            return true;
        }
        // What is pushed last is tried first: what ended first.
        answered.sort_by_key(|n| std::cmp::Reverse(calls[*n].ended));
        for call in answered {
            for (chain, then) in ways(calls, &lost, map, call, depth) {
                let mut placed = placed.clone();
                chain.into_iter().chain([call]).for_each(|n| placed[n / 64] |= 1 << (n % 64));
                if seen.insert((placed.clone(), then)) {
                    stack.push((placed, then));
                }
            }
        }
        assert!(seen.len() < SEEN_MAX, "too many ways to place {} calls; nothing is known of them", calls.len());
    }
    false
}

/// Whether the calls could have been carried out one after the other.
fn linearizable(calls: &[Call]) -> bool {
    (1..=CHAIN_MAX).any(|depth| placed_with(calls, depth))
}

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

async fn call(catalog: &RemoteCatalog, pair: usize, op: Op) -> Told {
    let data = bucket("data");
    let name = |k: usize| key(&format!("pair-{pair}/{k}"));
    let answer = match op {
        Op::Seal { key, id, if_absent } => {
            let new = NewObject { id: ObjectId(id), size: 1, checksum: 1, site: site("edge"), if_absent };
            catalog.seal(&data, &name(key), new).await.map(|s| Told::Done(s.object.id.0, s.replaced.map(|old| old.id.0)))
        }
        Op::Delete { key } => catalog.delete(&data, &name(key)).await.map(|meta| Told::Done(meta.id.0, None)),
        Op::Lookup { key } => catalog.lookup(&data, &name(key)).await.map(|meta| Told::Done(meta.id.0, None)),
        Op::Rename { from } => {
            catalog.rename(&data, &name(from), &name(1 - from)).await.map(|s| Told::Done(s.object.id.0, s.replaced.map(|old| old.id.0)))
        }
    };
    answer.unwrap_or_else(|e| match e.kind() {
        base::Kind::NotFound => Told::Missing,
        base::Kind::AlreadyExists => Told::Taken,
        base::Kind::Unavailable | base::Kind::DeadlineExceeded => Told::Lost,
        _ => panic!("{e}"),
    })
}

#[test]
fn what_clients_are_told_fits_together_through_kills() {
    const PAIRS: usize = 4;
    const CLIENTS: usize = 4;
    let seed = std::env::var("GEDS_SEED").map_or_else(|_| rand::random::<u64>(), |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("socket");
    let clock = Arc::new(AtomicU64::new(0));
    let history: Arc<Mutex<Vec<Vec<Call>>>> = Arc::new(Mutex::new(vec![Vec::new(); PAIRS]));
    let process = Arc::new(Mutex::new(Some(Process::start(temp.path()))));
    let mut random = StdRng::seed_from_u64(seed);
    runtime.block_on(async {
        let first = RemoteCatalog::local(&socket);
        while first.create_bucket(&bucket("data")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let kills = {
            let (process, folder) = (process.clone(), temp.path().to_path_buf());
            // `GEDS_KILLS` asks for more than the usual run.
            let kills = std::env::var("GEDS_KILLS").map_or(25, |kills| kills.parse().unwrap());
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
        let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let mut random = StdRng::seed_from_u64(seed ^ client as u64 + 1);
            let (clock, history, catalog, over) = (clock.clone(), history.clone(), RemoteCatalog::local(&socket), over.clone());
            clients.spawn(async move {
                while !over.load(SeqCst) {
                    let (pair, key) = (random.random_range(0..PAIRS), random.random_range(0..2));
                    let op = match random.random_range(0..10) {
                        0..3 => Op::Seal { key, id: random.random(), if_absent: random.random() },
                        3 => Op::Delete { key },
                        4 => Op::Rename { from: key },
                        _ => Op::Lookup { key },
                    };
                    let begun = clock.fetch_add(1, SeqCst);
                    let told = call(&catalog, pair, op).await;
                    let ended = if told == Told::Lost { u64::MAX } else { clock.fetch_add(1, SeqCst) };
                    // A look that was not answered says nothing.
                    if !(told == Told::Lost && matches!(op, Op::Lookup { .. })) {
                        history.lock().unwrap()[pair].push(Call { op, begun, ended, told });
                    }
                    let lost = told == Told::Lost;
                    tokio::time::sleep(Duration::from_millis(if lost { 10 } else { random.random_range(0..4) })).await;
                }
            });
        }
        kills.await.unwrap();
        over.store(true, SeqCst);
        clients.join_all().await;
    });
    drop(process.lock().unwrap().take());
    for (pair, calls) in history.lock().unwrap().iter_mut().enumerate() {
        calls.sort_by_key(|call| call.begun);
        let lost = calls.iter().filter(|call| call.told == Told::Lost).count();
        println!("pair {pair}: {} calls, {lost} lost", calls.len());
        assert!(calls.len() > 20, "too little happened to say anything");
        assert!(linearizable(calls), "seed {seed}, pair {pair}: {calls:#?}");
    }
}
