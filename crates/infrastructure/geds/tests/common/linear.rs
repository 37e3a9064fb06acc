//! Whether what concurrent clients were told could have come from one that does one thing after the other.
//!
//! Each pair of keys is checked by itself: operations are placed one after the other, each between its beginning and its end, so that every answer is the
//! one that a plain map gives. An operation whose answer was lost may have happened at any time since, or never. The search
//! (after Wing and Gong) remembers which sets of operations it has placed with which map.

use super::{bucket, key, site};
use geds::{Catalog, NewObject, Node, ObjectId, RemoteCatalog};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

/// The two keys of a pair are 0 and 1.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Seal { key: usize, id: u128, if_absent: bool },
    Delete { key: usize },
    Lookup { key: usize },
    Rename { from: usize },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Told {
    /// Done; the id that it was about, and what it put out of sight.
    Done(u128, Option<u128>),
    /// Done; who tells it doesn't know what it put out of sight.
    DoneSomehow(u128),
    Missing,
    Taken,
    /// Nobody knows.
    Lost,
    /// It is known that nothing was done.
    Refused,
}

impl Told {
    fn is(self, told: Told) -> bool {
        match (self, told) {
            (Told::Done(id, _), Told::DoneSomehow(same)) => id == same,
            (one, other) => one == other,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub op: Op,
    pub begun: u64,
    /// `u64::MAX`: never.
    pub ended: u64,
    pub told: Told,
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
    if step(&mut then, calls[call].op).is(calls[call].told) {
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
pub fn linearizable(calls: &[Call]) -> bool {
    (1..=CHAIN_MAX).any(|depth| placed_with(calls, depth))
}

/// Who is asked.
pub trait Asked: Send + Sync + 'static {
    fn call(&self, pair: usize, op: Op) -> impl Future<Output = Told> + Send;
    /// What is asked in place of what can't be.
    fn instead(&self, op: Op) -> Op {
        op
    }
}

fn name(pair: usize, k: usize) -> geds::Key {
    key(&format!("pair-{pair}/{k}"))
}

/// `once`: of a change that is asked for until its answer comes, so that an error says that it was not done, unless it says otherwise.
fn failed(e: geds::Error, once: bool) -> Told {
    match e.kind() {
        base::Kind::Unavailable | base::Kind::DeadlineExceeded if once && !matches!(e, geds::Error::Unsure { .. }) => Told::Refused,
        base::Kind::NotFound => Told::Missing,
        base::Kind::AlreadyExists => Told::Taken,
        base::Kind::Unavailable | base::Kind::DeadlineExceeded => Told::Lost,
        _ => panic!("{e}"),
    }
}

/// Every other time, what a thread does that waits by itself.
fn directly<T>(call: impl FnOnce() -> T) -> Option<T> {
    static TURN: AtomicU64 = AtomicU64::new(0);
    let can = tokio::runtime::Handle::current().runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread;
    (can && TURN.fetch_add(1, SeqCst) % 2 == 0).then(|| tokio::task::block_in_place(call))
}

impl Asked for RemoteCatalog {
    async fn call(&self, pair: usize, op: Op) -> Told {
        let data = bucket("data");
        let name = |k: usize| name(pair, k);
        let answer = match op {
            Op::Seal { key, id, if_absent } => {
                let new = NewObject { id: ObjectId(id), size: 1, checksum: 1, site: site("edge"), if_absent };
                self.seal(&data, &name(key), new).await.map(|s| Told::Done(s.object.id.0, s.replaced.map(|old| old.id.0)))
            }
            Op::Delete { key } => self.delete(&data, &name(key)).await.map(|meta| Told::Done(meta.id.0, None)),
            Op::Lookup { key } => {
                // Some of them by this very thread, where that can be.
                let looked = match directly(|| self.lookup_blocking(&data, &name(key))).flatten() {
                    Some(answer) => answer,
                    None => self.lookup(&data, &name(key)).await,
                };
                looked.map(|meta| Told::Done(meta.id.0, None))
            }
            Op::Rename { from } => {
                self.rename(&data, &name(from), &name(1 - from)).await.map(|s| Told::Done(s.object.id.0, s.replaced.map(|old| old.id.0)))
            }
        };
        let once = matches!(op, Op::Delete { .. } | Op::Rename { .. });
        answer.unwrap_or_else(|e| failed(e, once))
    }
}

/// Only looks.
pub struct Reads<A>(pub A);

impl<A: Asked> Asked for Reads<A> {
    async fn call(&self, pair: usize, op: Op) -> Told {
        self.0.call(pair, op).await
    }

    fn instead(&self, op: Op) -> Op {
        match op {
            Op::Seal { key, .. } | Op::Delete { key } | Op::Rename { from: key } | Op::Lookup { key } => Op::Lookup { key },
        }
    }
}

/// Ids are what the objects hold: a node chooses those of its objects itself.
impl Asked for Node {
    async fn call(&self, pair: usize, op: Op) -> Told {
        let data = bucket("data");
        let read = async |k: usize| {
            let object = match directly(|| self.blocking().open(&data, &name(pair, k))) {
                Some(opened) => opened?,
                None => self.open_object(&data, &name(pair, k)).await?,
            };
            Ok::<_, geds::Error>(u128::from_le_bytes(object.bytes().try_into().expect("each holds its id")))
        };
        match op {
            Op::Seal { key, id, if_absent } => {
                let made = if if_absent { self.create_new(&data, &name(pair, key)).await } else { self.create(&data, &name(pair, key)).await };
                let sealed = match made {
                    Ok(mut writer) => match writer.write_at(0, &id.to_le_bytes()) {
                        Ok(()) => writer.seal().await,
                        Err(e) => Err(e),
                    },
                    Err(e) => Err(e),
                };
                sealed.map_or_else(|e| failed(e, false), |_| Told::DoneSomehow(id))
            }
            Op::Lookup { key } => read(key).await.map_or_else(|e| failed(e, false), |id| Told::Done(id, None)),
            Op::Delete { .. } | Op::Rename { .. } => unreachable!("`instead` leaves none"),
        }
    }

    /// What was deleted or renamed a node tells by an id of its own: those two are left to the namenode's clients.
    fn instead(&self, op: Op) -> Op {
        match op {
            Op::Delete { key } => Op::Seal { key, id: rand::random(), if_absent: false },
            Op::Rename { from: key } => Op::Lookup { key },
            op => op,
        }
    }
}

/// What clients have been told, by pair.
#[derive(Clone)]
pub struct History {
    clock: Arc<AtomicU64>,
    calls: Arc<Mutex<Vec<Vec<Call>>>>,
    over: Arc<AtomicBool>,
    /// Of a client between two questions, ms at most.
    pause: u64,
}

impl History {
    pub fn new(pairs: usize) -> History {
        History { clock: Arc::default(), calls: Arc::new(Mutex::new(vec![Vec::new(); pairs])), over: Arc::default(), pause: 4 }
    }

    /// Where there is more time than answers that can be checked.
    pub fn with_pauses(self, ms: u64) -> History {
        History { pause: ms, ..self }
    }

    pub fn end(&self) {
        self.over.store(true, SeqCst);
    }

    pub fn count(&self) -> usize {
        self.calls.lock().unwrap().iter().flatten().filter(|call| call.told != Told::Lost).count()
    }

    /// Asks until the end, and writes down what it is told.
    pub async fn client(self, asked: impl Asked, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let pairs = self.calls.lock().unwrap().len();
        while !self.over.load(SeqCst) {
            let (pair, key) = (random.random_range(0..pairs), random.random_range(0..2));
            let op = match random.random_range(0..10) {
                0..3 => Op::Seal { key, id: random.random(), if_absent: random.random() },
                3 => Op::Delete { key },
                4 => Op::Rename { from: key },
                _ => Op::Lookup { key },
            };
            let op = asked.instead(op);
            let begun = self.clock.fetch_add(1, SeqCst);
            let told = asked.call(pair, op).await;
            let ended = if told == Told::Lost { u64::MAX } else { self.clock.fetch_add(1, SeqCst) };
            // A look that was not answered says nothing.
            if told != Told::Refused && !(told == Told::Lost && matches!(op, Op::Lookup { .. })) {
                self.calls.lock().unwrap()[pair].push(Call { op, begun, ended, told });
            }
            let answered = !matches!(told, Told::Lost | Told::Refused);
            // Each that is lost is one more that may have happened at any later time.
            let pause = if answered { random.random_range(0..self.pause) } else { 10.max(5 * self.pause) };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    pub fn check(&self, place: &str) {
        for (pair, calls) in self.calls.lock().unwrap().iter_mut().enumerate() {
            calls.sort_by_key(|call| call.begun);
            let lost = calls.iter().filter(|call| call.told == Told::Lost).count();
            println!("pair {pair}: {} calls, {lost} lost", calls.len());
            assert!(calls.len() > 20, "too little happened to say anything");
            assert!(linearizable(calls), "{place}, pair {pair}: {calls:#?}");
        }
    }
}
