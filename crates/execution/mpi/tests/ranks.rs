//! Ranks as threads over one or several fabrics, with random moves of a rank's state between fabrics while messages are under way.
//!
//! No WebAssembly here: a "cell" is a Rust closure with its memory. What is checked is what a program could notice: values, order, nothing lost or twice.

use mpi::collective::{IN_PLACE, Layout};
use mpi::datatype::Buffer;
use mpi::fabric::{Fabric, Place, Wire};
use mpi::rank::{Mode, Prepared, Short};
use mpi::{Memory, Message, Rank, State};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::sync::{Arc, Mutex, OnceLock, Weak};

const INT: i32 = 8;
const SUM: i32 = 3;
const REPLACE: i32 = 13;

/// Several agents in one process. A third of the frames between them is lost, a third doubled, all are delayed and shuffled.
struct Net {
    fabrics: Vec<OnceLock<Arc<Fabric>>>,
    at: Vec<Mutex<usize>>,
    delayed: Mutex<Vec<(usize, Message)>>,
    random: Mutex<StdRng>,
}

struct Link(Weak<Net>);

impl Net {
    fn to(&self, rank: Rank) -> usize {
        *self.at[rank.index()].lock().unwrap()
    }
    fn pump(&self) {
        let frames = std::mem::take(&mut *self.delayed.lock().unwrap());
        for (to, message) in frames {
            self.fabrics[to].get().unwrap().deposit(message);
        }
    }
}

impl Wire for Link {
    fn send(&self, message: Message) {
        let Some(net) = self.0.upgrade() else { return };
        let to = net.to(message.header.dst);
        let copies = net.random.lock().unwrap().random_range(0..3);
        let mut delayed = net.delayed.lock().unwrap();
        for _ in 0..copies {
            let at = net.random.lock().unwrap().random_range(0..=delayed.len());
            delayed.insert(at, (to, message.clone()));
        }
    }
    fn acknowledge(&self, src: Rank, dst: Rank, seq: u64) {
        let Some(net) = self.0.upgrade() else { return };
        let to = net.to(src);
        net.fabrics[to].get().unwrap().acknowledged(src, dst, seq);
    }
}

fn net(agents: usize, size: u32, seed: u64) -> Arc<Net> {
    let net = Arc::new(Net {
        fabrics: (0..agents).map(|_| OnceLock::new()).collect(),
        at: (0..size).map(|r| Mutex::new(r as usize % agents)).collect(),
        delayed: Mutex::default(),
        random: Mutex::new(StdRng::seed_from_u64(seed)),
    });
    for slot in net.fabrics.iter() {
        let fabric = Arc::new(Fabric::new(size, Box::new(Link(Arc::downgrade(&net)))));
        assert!(slot.set(fabric).is_ok());
    }
    for rank in 0..size {
        net.fabrics[rank as usize % agents].get().unwrap().arrive(Rank(rank), Vec::new());
    }
    net
}

/// One rank with its memory, on whichever agent it is now.
struct Cell {
    net: Arc<Net>,
    state: State,
    mem: Vec<u8>,
    random: StdRng,
    moves: u32,
}

impl Cell {
    fn fabric(&self) -> Arc<Fabric> {
        self.net.fabrics[self.net.to(self.state.me)].get().unwrap().clone()
    }

    /// Looks for messages, and does what an agent does now and then: send again what was not acknowledged.
    fn progress(&mut self) {
        let fabric = self.fabric();
        self.state.progress(&mut Memory::Own(&mut self.mem), &fabric).unwrap();
        self.net.pump();
        fabric.sweep();
        if self.random.random_bool(0.05) {
            fabric.resend();
        }
    }

    fn wait(&mut self, request: i32) -> mpi::Status {
        let start = std::time::Instant::now();
        while !self.state.done(request).unwrap() {
            // The program's operation, which is called here as the cells crate calls the guest's: digits behind each other, so that order shows.
            while let Some(call) = self.state.call() {
                let word = |b: &[u8]| i32::from_le_bytes(b.try_into().unwrap());
                let joined = |(a, b): (&[u8], &[u8])| word(a) * 10i32.pow(word(b).max(1).ilog10() + 1) + word(b);
                let result = call.first.chunks(4).zip(call.second.chunks(4)).flat_map(|p| joined(p).to_le_bytes()).collect();
                self.state.answer(call.request, result);
            }
            assert!(start.elapsed().as_secs() < 20, "rank {} waits for ever: a message is lost", self.state.me.0);
            self.progress();
            if self.moves > 0 && self.random.random_bool(0.02) {
                self.relocate();
            }
            std::thread::yield_now();
        }
        self.state.finish(request).unwrap()
    }

    /// The whole of a migration, as the cells crate does it: hold, write down, depart, read back, arrive.
    fn relocate(&mut self) {
        self.moves -= 1;
        let me = self.state.me;
        let (from, to) = (self.net.to(me), self.random.random_range(0..self.net.fabrics.len()));
        if from == to {
            return;
        }
        let fabric = self.fabric();
        fabric.hold(me);
        if self.random.random_bool(0.3) {
            return fabric.release(me);
        }
        fabric.sweep();
        self.state.absorb(&mut Memory::Own(&mut self.mem), &fabric).unwrap();
        let bytes = postcard::to_allocvec(&(&self.state, fabric.unacknowledged(me))).unwrap();
        let (state, kept): (State, Vec<Message>) = postcard::from_bytes(&bytes).unwrap();
        self.state = state;
        *self.net.at[me.index()].lock().unwrap() = to;
        fabric.depart(me);
        assert_eq!(fabric.place(me), Place::Away);
        self.net.fabrics[to].get().unwrap().arrive(me, kept);
    }

    fn put(&mut self, at: usize, values: &[i32]) {
        for (i, v) in values.iter().enumerate() {
            self.mem[at + i * 4..at + i * 4 + 4].copy_from_slice(&v.to_le_bytes());
        }
    }
    fn get(&self, at: usize, n: usize) -> Vec<i32> {
        (0..n).map(|i| i32::from_le_bytes(self.mem[at + i * 4..at + i * 4 + 4].try_into().unwrap())).collect()
    }
    fn ints(at: usize, count: usize) -> Buffer {
        Buffer { address: at as u32, count: count as u32, datatype: INT }
    }
}

fn run(agents: usize, size: u32, moves: u32, seed: u64, body: impl Fn(&mut Cell) + Send + Sync + 'static) {
    println!("seed {seed}, {agents} agents, {size} ranks, at most {moves} moves a rank");
    let net = net(agents, size, seed);
    let body = Arc::new(body);
    let finished = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let threads: Vec<_> = (0..size)
        .map(|rank| {
            let (net, body, finished) = (net.clone(), body.clone(), finished.clone());
            std::thread::spawn(move || {
                let mut cell = Cell {
                    net,
                    state: State::new(Rank(rank), size),
                    mem: vec![0; 1 << 20],
                    random: StdRng::seed_from_u64(seed * 1000 + u64::from(rank)),
                    moves,
                };
                body(&mut cell);
                finished.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                // As in MPI_Finalize: what this rank sent must reach its receivers before it goes.
                while finished.load(std::sync::atomic::Ordering::SeqCst) < size {
                    cell.progress();
                    std::thread::yield_now();
                }
            })
        })
        .collect();
    for t in threads {
        t.join().unwrap();
    }
}

fn storm(cell: &mut Cell) {
    let (me, n) = (cell.state.me.0 as i32, 4);
    for round in 0..40 {
        let mut requests = Vec::new();
        for peer in 0..n {
            for k in 0..8 {
                let at = 8192 + (peer * 8 + k) as usize * 64;
                let f = cell.fabric();
                requests.push(cell.state.receive(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(at, 16), peer, 7, 1).unwrap());
            }
        }
        for peer in 0..n {
            for k in 0..8 {
                cell.put(0, &[me, round, k, peer]);
                let f = cell.fabric();
                let count = 4 + (k as usize % 3) * 4;
                let mode = if k == 3 { Mode::Synchronous } else { Mode::Standard };
                requests.push(cell.state.send(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(0, count), peer, 7, 1, mode).unwrap());
            }
        }
        for r in requests {
            cell.wait(r);
        }
        for peer in 0..n {
            for k in 0..8 {
                assert_eq!(cell.get(8192 + (peer * 8 + k) as usize * 64, 4), [peer, round, k, me], "order of messages");
            }
        }
    }
}

#[test]
fn messages_keep_their_order_on_one_agent() {
    run(1, 4, 0, 1, storm);
}

#[test]
fn messages_keep_their_order_over_frames_lost_doubled_and_shuffled_while_ranks_move() {
    for seed in 1..=12 {
        run(3, 4, 20, seed, storm);
    }
}

fn collectives(cell: &mut Cell) {
    let (me, n) = (cell.state.me.0 as i32, cell.net.at.len() as i32);
    for round in 0..10 {
        let f = cell.fabric();
        let r = cell.state.barrier(&mut Memory::Own(&mut cell.mem), &f, 1).unwrap();
        cell.wait(r);
        let root = round % n;
        cell.put(0, &[if me == root { 100 + round } else { -1 }]);
        let f = cell.fabric();
        let r = cell.state.bcast(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(0, 1), root, 1).unwrap();
        cell.wait(r);
        assert_eq!(cell.get(0, 1), [100 + round]);
        cell.put(0, &[me + 1, round]);
        for root in [None, Some(root)] {
            let f = cell.fabric();
            let r = cell.state.reduce(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(0, 2), 64, 3, root, 1).unwrap();
            cell.wait(r);
            if root.is_none_or(|r| r == me) {
                assert_eq!(cell.get(64, 2), [n * (n + 1) / 2, round * n]);
            }
        }
        for exclusive in [false, true] {
            let f = cell.fabric();
            let r = cell.state.scan(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(0, 1), 64, 3, exclusive, 1).unwrap();
            cell.wait(r);
            if !exclusive || me > 0 {
                assert_eq!(cell.get(64, 1), [if exclusive { me * (me + 1) / 2 } else { (me + 1) * (me + 2) / 2 }]);
            }
        }
        let (counts, displacements) = State::even(1, n as u32);
        let layout = Layout { address: 256, counts: &counts, displacements: &displacements, datatype: INT };
        let everybody: Vec<i32> = (1..=n).collect();
        let f = cell.fabric();
        let r = cell.state.allgather(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(0, 1), &layout, 1).unwrap();
        cell.wait(r);
        assert_eq!(cell.get(256, n as usize), everybody);
        cell.put(256, &vec![0; n as usize]);
        let f = cell.fabric();
        let r = cell.state.gather(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(0, 1), Some(&layout), root, 1).unwrap();
        cell.wait(r);
        if me == root {
            assert_eq!(cell.get(256, n as usize), everybody);
        }
        cell.put(512, &(0..n).map(|i| me * 100 + i).collect::<Vec<_>>());
        let from = Layout { address: 512, counts: &counts, displacements: &displacements, datatype: INT };
        let f = cell.fabric();
        let r = {
            let (from, to) = (cell.state.shares(&from).unwrap(), cell.state.shares(&layout).unwrap());
            cell.state.alltoall(&mut Memory::Own(&mut cell.mem), &f, Some(&from), &to, 1)
        }.unwrap();
        cell.wait(r);
        assert_eq!(cell.get(256, n as usize), (0..n).map(|i| i * 100 + me).collect::<Vec<_>>());
        let f = cell.fabric();
        let r = cell.state.scatter(&mut Memory::Own(&mut cell.mem), &f, Some(&from), Cell::ints(1024, 1), root, 1).unwrap();
        cell.wait(r);
        assert_eq!(cell.get(1024, 1), [root * 100 + me]);
        // Halves, in reverse order of rank, and a sum within each.
        let f = cell.fabric();
        let r = cell.state.comm_split(&mut Memory::Own(&mut cell.mem), &f, 1, me % 2, -me, 2048).unwrap();
        cell.wait(r);
        let half = cell.get(2048, 1)[0];
        let members: Vec<i32> = (0..n).filter(|i| i % 2 == me % 2).collect();
        assert_eq!(cell.state.comms.get(half).unwrap().me as usize, members.iter().rev().position(|m| *m == me).unwrap());
        let f = cell.fabric();
        let r = cell.state.reduce(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(0, 1), 64, 3, None, half).unwrap();
        cell.wait(r);
        assert_eq!(cell.get(64, 1), [members.iter().map(|m| m + 1).sum::<i32>()]);
        cell.state.comm_free(half).unwrap();
    }
}

#[test]
fn collectives_on_any_number_of_ranks() {
    for size in [1, 2, 3, 4, 5, 8] {
        run(1, size, 0, u64::from(size), collectives);
    }
}

#[test]
fn collectives_while_ranks_move() {
    for seed in 1..=6 {
        run(2, 5, 10, seed, collectives);
    }
}

/// The short ways where they are to be had, and now and then the general one for the same call, as each rank likes: who goes which way must not matter to the others.
fn short_ways(cell: &mut Cell) {
    let (me, n) = (cell.state.me.0 as i32, cell.net.at.len() as i32);
    let mut short = [0; 4];
    for round in 0..60 {
        // Around a ring: to the next, from the one before.
        let (next, before) = ((me + 1) % n, (me + n - 1) % n);
        cell.put(0, &[me, round]);
        let f = cell.fabric();
        let direct = cell.random.random_bool(0.8);
        if direct && cell.state.send_now(&Memory::Own(&mut cell.mem), &f, 0, 2, INT, next, round, 1) {
            short[0] += 1;
        } else {
            let r = cell.state.send(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(0, 2), next, round, 1, Mode::Standard).unwrap();
            cell.wait(r);
        }
        cell.put(64, &[-1, -1]);
        let f = cell.fabric();
        let awaited = cell.state.next(&Memory::Own(&mut cell.mem), &f, 64, 4, INT, before, if round % 2 == 0 { round } else { -1 }, 1);
        let got = awaited.filter(|_| direct).and_then(|awaited| {
            let mut looks = std::iter::repeat_with(|| {
                std::thread::yield_now();
                f.next_is_there(awaited.src, cell.state.me)
            });
            looks.by_ref().take(1000).find(|there| *there)?;
            cell.state.receive_next(&mut Memory::Own(&mut cell.mem), &f, &awaited)
        });
        let status = match got {
            Some(status) => {
                short[1] += 1;
                status
            }
            None => {
                let r = cell.state.receive(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(64, 4), before, round, 1).unwrap();
                cell.wait(r)
            }
        };
        assert_eq!((status.source, status.tag, status.bytes, cell.get(64, 2)), (before, round, 8, vec![before, round]));

        // A sum (from a buffer of its own, in place, as some programs write that, and one of which the last operand is left), and now and then a barrier, each with whoever is late.
        let (send, op) = [(128, SUM), (IN_PLACE, SUM), (192, SUM), (128, REPLACE)][round as usize % 4];
        cell.put(128, &[me + round, 1]);
        let direct = cell.random.random_bool(0.8);
        for sum in [true, round % 3 == 0] {
            if sum {
                cell.put(192, &[me + round, 1]);
            }
            let f = cell.fabric();
            let mut mem = Memory::Own(&mut cell.mem);
            let begun = if !direct { None } else if sum { cell.state.allreduce_now(&mut mem, send, 192, 2, INT, op, 1) } else { cell.state.barrier_now(1) };
            let Some(mut together) = begun else {
                let mem = &mut Memory::Own(&mut cell.mem);
                let r = if sum { cell.state.reduce(mem, &f, Cell::ints(if send == 192 { IN_PLACE } else { send } as usize, 2), 192, op, None, 1) } else { cell.state.barrier(mem, &f, 1) };
                cell.wait(r.unwrap());
                continue;
            };
            let mut patience = cell.random.random_range(0..300);
            loop {
                match cell.state.advance_now(&mut Memory::Own(&mut cell.mem), &f, &mut together) {
                    Short::Done => {
                        short[2] += 1;
                        break;
                    }
                    Short::Waits(_) if patience > 0 => {
                        patience -= 1;
                        std::thread::yield_now();
                    }
                    Short::Waits(_) | Short::Late => {
                        short[3] += 1;
                        let r = cell.state.go_on(&mut Memory::Own(&mut cell.mem), &f, together).unwrap();
                        cell.wait(r);
                        break;
                    }
                }
            }
        }
        let result = if op == SUM { [n * (n - 1) / 2 + n * round, n] } else { [n - 1 + round, 1] };
        assert_eq!((cell.get(128, 2), cell.get(192, 2)), (vec![me + round, 1], result.to_vec()), "round {round}");
    }
    println!("rank {me}: {} sends, {} receives and {} collectives the short way, {} half of it", short[0], short[1], short[2], short[3]);
    // Who has moved may be alone where it is.
    assert!(short[0] > 0 || cell.net.fabrics.len() > 1, "no way was short");
}

#[test]
fn short_ways_and_general_ones_meet() {
    for seed in 1..=4 {
        run(1, 4, 0, seed, short_ways);
        run(2, 4, 10, seed, short_ways);
    }
    run(1, 2, 0, 5, short_ways);
}

/// An operation whose order matters, two sides that speak with each other, and duplicates that are made at the same time.
fn between(cell: &mut Cell) {
    let (me, n) = (cell.state.me.0 as i32, cell.state.comms.get(1).unwrap().size() as i32);
    let digits = |ranks: &[i32]| ranks.iter().fold(0, |a, r| a * 10 + r + 1);
    let all: Vec<i32> = (0..n).collect();
    let op = cell.state.ops.add(mpi::op::User { function: 7, commutes: false }).unwrap();
    let f = cell.fabric();
    let r = cell.state.comm_split(&mut Memory::Own(&mut cell.mem), &f, 1, me % 2, me, 2048).unwrap();
    cell.wait(r);
    let side = cell.get(2048, 1)[0];
    let f = cell.fabric();
    let r = cell.state.intercomm_create(&mut Memory::Own(&mut cell.mem), &f, side, 0, 1, 1 - me % 2, 5, 2052).unwrap();
    cell.wait(r);
    let sides = cell.get(2052, 1)[0];
    let others: Vec<i32> = (0..n).filter(|r| r % 2 != me % 2).collect();
    let ours: Vec<i32> = (0..n).filter(|r| r % 2 == me % 2).collect();
    for round in 0..8 {
        cell.put(0, &[me + 1]);
        for root in [None, Some(round % n)] {
            let f = cell.fabric();
            let r = cell.state.reduce(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(0, 1), 64, op, root, 1).unwrap();
            cell.wait(r);
            if root.is_none_or(|r| r == me) {
                assert_eq!(cell.get(64, 1), [digits(&all)]);
            }
        }
        let f = cell.fabric();
        let r = cell.state.scan(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(0, 1), 64, op, false, 1).unwrap();
        cell.wait(r);
        assert_eq!(cell.get(64, 1), [digits(&all[..=me as usize])]);
        let f = cell.fabric();
        let r = cell.state.reduce(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(0, 1), 64, op, None, sides).unwrap();
        cell.wait(r);
        assert_eq!(cell.get(64, 1), [digits(&others)], "what the other side makes of its own");
        // Each side has a communicator of its own and both a common one, all three made at once.
        let f = cell.fabric();
        let (a, one) = cell.state.comm_dup(&mut Memory::Own(&mut cell.mem), &f, side, None).unwrap();
        let (b, two) = cell.state.comm_dup(&mut Memory::Own(&mut cell.mem), &f, 1, None).unwrap();
        let (c, three) = cell.state.comm_dup(&mut Memory::Own(&mut cell.mem), &f, sides, None).unwrap();
        for r in [c, a, b] {
            cell.wait(r);
        }
        let contexts: std::collections::BTreeSet<u32> = [1, side, sides, one, two, three].iter().map(|c| cell.state.comms.get(*c).unwrap().context).collect();
        assert_eq!(contexts.len(), 6);
        let f = cell.fabric();
        let r = cell.state.intercomm_merge(&mut Memory::Own(&mut cell.mem), &f, three, me % 2 == 0, 2056).unwrap();
        cell.wait(r);
        let merged = cell.get(2056, 1)[0];
        // Odd ranks first, as they say.
        let place = |r: i32| if r % 2 == 1 { r / 2 } else { r / 2 + n / 2 };
        assert_eq!(cell.state.comms.get(merged).unwrap().me as i32, place(me));
        let group: Vec<Rank> = ours.iter().rev().map(|r| Rank(*r as u32)).collect();
        let f = cell.fabric();
        let r = cell.state.comm_create_group(&mut Memory::Own(&mut cell.mem), &f, two, &group, round, 2060).unwrap();
        cell.wait(r);
        let turned = cell.get(2060, 1)[0];
        let f = cell.fabric();
        let r = cell.state.reduce(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(0, 1), 64, op, None, turned).unwrap();
        cell.wait(r);
        assert_eq!(cell.get(64, 1), [digits(&ours.iter().rev().copied().collect::<Vec<_>>())]);
        for comm in [one, two, three, merged, turned] {
            cell.state.comm_free(comm).unwrap();
        }
    }
}

#[test]
fn operations_and_sides_while_ranks_move() {
    run(1, 5, 0, 1, between);
    for seed in 1..=6 {
        run(2, 5, 10, seed, between);
    }
}

/// A message that a matched probe has taken out stays with its rank, and nobody else gets it.
#[test]
fn a_matched_message_moves_with_its_rank() {
    run(2, 2, 6, 3, |cell| {
        let me = cell.state.me.0 as i32;
        let f = cell.fabric();
        cell.put(0, &[10 + me, 20 + me]);
        let sends: Vec<i32> = (0..2).map(|i| cell.state.send(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(4 * i, 1), 1 - me, 4, 1, Mode::Standard).unwrap()).collect();
        let message = loop {
            cell.progress();
            if let Some((message, status)) = cell.state.match_message(-1, -1, 1).unwrap() {
                assert_eq!((status.source, status.tag, status.bytes), (1 - me, 4, 4));
                break message;
            }
        };
        let f = cell.fabric();
        let second = cell.state.receive(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(64, 1), 1 - me, 4, 1).unwrap();
        cell.wait(second);
        let f = cell.fabric();
        let barrier = cell.state.barrier(&mut Memory::Own(&mut cell.mem), &f, 1).unwrap();
        cell.wait(barrier);
        let f = cell.fabric();
        let first = cell.state.receive_message(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(68, 1), message).unwrap();
        cell.wait(first);
        assert_eq!(cell.get(64, 2), [21 - me, 11 - me]);
        assert!(cell.state.receive_message(&mut Memory::Own(&mut cell.mem), &f, Cell::ints(68, 1), message).is_err());
        for send in sends {
            cell.wait(send);
        }
    });
}

#[test]
fn bad_arguments_are_named() {
    let net = net(1, 2, 1);
    let f = net.fabrics[0].get().unwrap().clone();
    let mut state = State::new(Rank(0), 2);
    let mut mem = vec![0; 64];
    let send = |state: &mut State, mem: &mut Vec<u8>, buffer, to, tag, comm| {
        state.send(&mut Memory::Own(mem), &f, buffer, to, tag, comm, Mode::Standard).unwrap_err().message
    };
    let b = Cell::ints(0, 1);
    assert!(send(&mut state, &mut mem, b, 5, 0, 1).contains("rank 5"));
    assert!(send(&mut state, &mut mem, b, 1, -3, 1).contains("tag -3"));
    assert!(send(&mut state, &mut mem, b, 1, 0, 77).contains("77"));
    assert!(send(&mut state, &mut mem, Cell::ints(60, 2), 1, 0, 1).contains("outside of the memory of 64 bytes"));
    assert!(state.checked(0, -1, INT).unwrap_err().message.contains("-1"));
    assert!(state.done(9).is_err());
}

/// Persistent requests of every mode to all peers, a round after the other.
fn persistent(cell: &mut Cell) {
    let (me, n) = (cell.state.me.0 as i32, 4);
    let (modes, room) = ([Mode::Standard, Mode::Buffered, Mode::Synchronous], 5 * (64 + 16));
    cell.state.attach(&Memory::Own(&mut cell.mem), 500_000, room).unwrap();
    let out = |peer: i32, k: usize| 1024 + (peer as usize * 3 + k) * 16;
    let into = |peer: i32, k: usize| 8192 + (peer as usize * 3 + k) * 16;
    let (mut sends, mut receives) = (Vec::new(), Vec::new());
    for peer in 0..n {
        for (k, mode) in modes.into_iter().enumerate() {
            let (buffer, tag) = (Cell::ints(out(peer, k), 4), k as i32);
            sends.push(cell.state.prepare(&mut Memory::Own(&mut cell.mem), Prepared::Send { buffer, to: peer, tag, comm: 1, mode }).unwrap());
            let buffer = Cell::ints(into(peer, k), 4);
            receives.push(cell.state.prepare(&mut Memory::Own(&mut cell.mem), Prepared::Receive { buffer, from: peer, tag, comm: 1 }).unwrap());
        }
    }
    for round in 0..30 {
        for peer in 0..n {
            for k in 0..3 {
                cell.put(out(peer, k), &[me, round, k as i32, peer]);
            }
        }
        for r in receives.iter().chain(&sends) {
            let f = cell.fabric();
            cell.state.start(&mut Memory::Own(&mut cell.mem), &f, *r).unwrap();
            assert!(cell.state.start(&mut Memory::Own(&mut cell.mem), &f, *r).unwrap_err().message.contains("started already"));
        }
        for r in receives.iter().chain(&sends) {
            cell.wait(*r);
            assert!(!cell.state.active(*r).unwrap() && cell.state.done(*r).unwrap());
        }
        for peer in 0..n {
            for k in 0..3 {
                assert_eq!(cell.get(into(peer, k), 4), [peer, round, k as i32, me], "round {round}");
            }
        }
    }
    while cell.state.detach().unwrap().is_none_or(|was| was != (500_000, room as u32)) {
        cell.progress();
    }
    for r in receives.into_iter().chain(sends) {
        cell.state.release(r).unwrap();
        assert!(cell.state.done(r).is_err(), "a freed request is gone");
    }
}

#[test]
fn persistent_requests_move_along() {
    for seed in 1..=8 {
        run(3, 4, 20, seed, persistent);
    }
}

#[test]
fn the_attached_buffer_fills_and_travels_and_empties() {
    const SLOTS: usize = 10;
    let net = net(1, 2, 1);
    let f = net.fabrics[0].get().unwrap().clone();
    let (mut from, mut to) = (State::new(Rank(0), 2), State::new(Rank(1), 2));
    let mut mem = vec![0; 8192];
    let buffer = Cell::ints(0, 100);
    let send = |from: &mut State, mem: &mut Vec<u8>, i: i32| {
        mem[..4].copy_from_slice(&i.to_le_bytes());
        from.send(&mut Memory::Own(mem), &f, buffer, 1, 0, 1, Mode::Buffered)
    };
    assert!(send(&mut from, &mut mem, 0).unwrap_err().message.contains("has 0 bytes"));
    assert!(from.attach(&Memory::Own(&mut mem), 8100, 97).unwrap_err().message.contains("outside"));
    from.attach(&Memory::Own(&mut mem), 0, (SLOTS * (400 + 64) + 463) as i32).unwrap();
    let mut sent = 0;
    let full = loop {
        match send(&mut from, &mut mem, sent) {
            // Nobody receives: the way is full at some time, then the buffer, and the send is complete all the same.
            Ok(request) => assert!(from.done(request).unwrap()),
            Err(e) => break e,
        }
        sent += 1;
    };
    assert_eq!(full.class, mpi::Class::Buffer);
    assert!(full.message.contains("400 bytes takes 464") && full.message.contains("463 of them free"), "{}", full.message);
    assert!(sent as usize > SLOTS);
    assert!(!from.flushed() && from.detach().unwrap().is_none());

    let mut from: State = postcard::from_bytes(&postcard::to_allocvec(&from).unwrap()).unwrap();
    assert!(from.detach().unwrap().is_none() && send(&mut from, &mut mem, sent).is_err(), "it is as full after a move");
    for i in 0..sent {
        let request = to.receive(&mut Memory::Own(&mut mem), &f, Cell::ints(4096, 100), 0, 0, 1).unwrap();
        while !to.done(request).unwrap() {
            from.progress(&mut Memory::Own(&mut mem), &f).unwrap();
            to.progress(&mut Memory::Own(&mut mem), &f).unwrap();
        }
        assert_eq!(mem[4096..4100], i.to_le_bytes());
    }
    assert_eq!(from.detach().unwrap(), Some((0, (SLOTS * 464 + 463) as u32)));
    assert!(from.detach().is_err());
}

#[test]
fn what_a_rank_exchanges_is_counted_once_and_goes_with_it() {
    let net = net(2, 3, 5);
    let traffic = |peer, [sent, sent_bytes, received, received_bytes]: [u64; 4]| mpi::Traffic { peer: Rank(peer), sent, sent_bytes, received, received_bytes };
    // Ranks 0 and 2 are on one fabric, rank 1 on another, to which a message may come twice. Two of rank 0's sends want to know that they were taken.
    let mut cells: Vec<Cell> = (0..3).map(|rank| Cell { net: net.clone(), state: State::new(Rank(rank), 3), mem: vec![0; 4096], random: StdRng::seed_from_u64(7), moves: 0 }).collect();
    let mut exchange = |from: usize, to: usize, ints: usize, mode: Mode| {
        let fabric = cells[from].fabric();
        let sender = &mut cells[from];
        let sent = sender.state.send(&mut Memory::Own(&mut sender.mem), &fabric, Cell::ints(0, ints), to as i32, 7, 1, mode).unwrap();
        let fabric = cells[to].fabric();
        let receiver = &mut cells[to];
        let received = receiver.state.receive(&mut Memory::Own(&mut receiver.mem), &fabric, Cell::ints(0, ints), from as i32, 7, 1).unwrap();
        while !cells[from].state.done(sent).unwrap() || !cells[to].state.done(received).unwrap() {
            cells[to].progress();
            cells[from].progress();
        }
    };
    exchange(0, 1, 10, Mode::Synchronous);
    exchange(0, 2, 100, Mode::Synchronous);
    exchange(0, 1, 10, Mode::Standard);
    exchange(2, 0, 1, Mode::Standard);
    exchange(2, 2, 5, Mode::Standard);
    let [near, far] = [0, 1].map(|agent| net.fabrics[agent].get().unwrap().clone());
    assert_eq!(near.traffic(Rank(0)), [traffic(1, [2, 80, 0, 0]), traffic(2, [1, 400, 1, 4])]);
    assert_eq!(near.traffic(Rank(2)), [traffic(0, [1, 4, 1, 400]), traffic(2, [1, 20, 1, 20])]);
    assert_eq!(far.traffic(Rank(1)), [traffic(0, [0, 0, 2, 80])]);
    // Where it goes on, so do its counts, whatever was counted there before.
    far.set_traffic(Rank(0), &near.traffic(Rank(0)));
    far.set_traffic(Rank(1), &[traffic(2, [0, 0, 9, 9])]);
    assert_eq!(far.traffic(Rank(0)), near.traffic(Rank(0)));
    assert_eq!(far.traffic(Rank(1)), [traffic(2, [0, 0, 9, 9])]);
}

/// Every rank but 0 sends faster than rank 0 takes; rank 0 wants those of the last rank first.
fn flood(cell: &mut Cell) {
    const MESSAGES: i32 = 60;
    const INTS: usize = 1 << 20;
    cell.mem.resize(8 * INTS, 0);
    let (me, size) = (cell.state.me.0 as i32, 3);
    if me > 0 {
        for i in 0..MESSAGES {
            cell.put(0, &[me * 1000 + i]);
            let fabric = cell.fabric();
            let request = cell.state.send(&mut Memory::Own(&mut cell.mem), &fabric, Cell::ints(0, INTS), 0, 7, 1, Mode::Standard).unwrap();
            cell.wait(request);
        }
        return;
    }
    for from in (1..size).rev() {
        for i in 0..MESSAGES {
            // A rank that computes and asks now and then takes no more than it has room for.
            cell.progress();
            let pending = cell.state.pending_bytes();
            assert!(pending < 160 << 20, "{pending} bytes lie here without a receive");
            let fabric = cell.fabric();
            let request = cell.state.receive(&mut Memory::Own(&mut cell.mem), &fabric, Cell::ints(0, INTS), from, 7, 1).unwrap();
            let status = cell.wait(request);
            assert_eq!((status.source, cell.get(0, 1)[0]), (from, from * 1000 + i));
        }
    }
}

#[test]
fn a_sender_that_outruns_its_receiver_waits() {
    run(1, 3, 0, 1, flood);
    run(2, 3, 0, 2, flood);
}

/// A wire that counts what leaves, by sender and number.
#[derive(Default)]
struct Out(Arc<Mutex<std::collections::HashSet<(u32, u64)>>>);

impl Wire for Out {
    fn send(&self, message: Message) {
        self.0.lock().unwrap().insert((message.header.src.0, message.header.seq));
    }
    fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
}

/// Ranks send without a pause while their receiver leaves and comes back; nobody takes anything while it is here. Whatever lies in its rings when it has
/// left for good is passed on by the next sweep, also what was on its way into a ring at the moment when it left.
#[test]
fn what_is_sent_while_a_rank_leaves_is_swept() {
    const SENDERS: u32 = 3;
    for round in 0..1000 {
        let out = Out::default();
        let left = out.0.clone();
        let fabric = Arc::new(Fabric::new(SENDERS + 1, Box::new(out)));
        for rank in 0..=SENDERS {
            fabric.arrive(Rank(rank), Vec::new());
        }
        let go = Arc::new(std::sync::Barrier::new(SENDERS as usize + 1));
        let threads: Vec<_> = (1..=SENDERS)
            .map(|src| {
                let (fabric, go) = (fabric.clone(), go.clone());
                std::thread::spawn(move || {
                    go.wait();
                    let header = |seq| mpi::Header { src: Rank(src), dst: Rank(0), seq, context: 0, tag: 0, kind: mpi::message::Kind::Data, token: 0 };
                    for seq in 0..200 {
                        assert!(fabric.send(&header(seq), &[7; 40]), "rings and wire have room for all");
                    }
                })
            })
            .collect();
        go.wait();
        for _ in 0..round % 7 * 100 {
            std::hint::spin_loop();
        }
        fabric.hold(Rank(0));
        fabric.depart(Rank(0));
        threads.into_iter().for_each(|t| t.join().unwrap());
        fabric.sweep();
        assert_eq!(left.lock().unwrap().len(), SENDERS as usize * 200, "round {round}: a message stays behind");
    }
}

/// A job of a thousand ranks, of which one is here: a sweep that finds nothing looks at each rank, not at each pair.
#[test]
fn a_sweep_that_finds_nothing_costs_little() {
    const RANKS: u32 = 1024;
    let fabric = Fabric::new(RANKS, Box::new(Out::default()));
    fabric.arrive(Rank(0), Vec::new());
    for rank in 1..RANKS {
        fabric.hold(Rank(rank));
        fabric.depart(Rank(rank));
    }
    let mut best = std::time::Duration::MAX;
    for _ in 0..20 {
        let began = std::time::Instant::now();
        for _ in 0..20 {
            fabric.sweep();
        }
        best = best.min(began.elapsed() / 20);
    }
    // A look at each of a million rings takes milliseconds, at each of a thousand ranks some microseconds.
    assert!(best < std::time::Duration::from_micros(200), "{best:?}");
}

/// What a rank that waits for its large message sends is read in its memory, until it is taken or settled; never where something may be written meanwhile.
#[test]
fn a_large_message_is_lent_unless_it_could_change() {
    const LEN: usize = 64 << 10;
    let net = net(2, 3, 1);
    let fabric = |agent: usize| net.fabrics[agent].get().unwrap().clone();
    let (here, world) = (fabric(0), mpi::comm::WORLD);
    let (mut from, mut to) = (State::new(Rank(0), 3), State::new(Rank(2), 3));
    let (mut mem, mut theirs) = (vec![7u8; 3 * LEN], vec![0u8; LEN]);
    let ints = |address| Buffer { address, count: (LEN / 4) as u32, datatype: INT };
    let lend = |from: &mut State, mem: &mut Vec<u8>, rank| from.send_and_wait(&mut Memory::Own(mem), &here, ints(0), rank, 5, world, Mode::Standard).unwrap();
    let receive = |to: &mut State, theirs: &mut Vec<u8>| {
        let request = to.receive(&mut Memory::Own(theirs), &here, ints(0), 0, 5, world).unwrap();
        to.progress(&mut Memory::Own(theirs), &here).unwrap();
        to.finish(request).unwrap().bytes
    };
    // Taken while its sender waits.
    let request = lend(&mut from, &mut mem, 2);
    from.progress(&mut Memory::Own(&mut []), &here).unwrap();
    assert!(from.lent().is_some() && !from.done(request).unwrap());
    assert_eq!((receive(&mut to, &mut theirs), theirs.iter().all(|b| *b == 7)), (LEN as u64, true));
    from.progress(&mut Memory::Own(&mut []), &here).unwrap();
    assert!(from.lent().is_none() && from.done(request).unwrap());
    from.finish(request).unwrap();
    // Its sender waits no longer, and goes on with its buffer.
    let request = lend(&mut from, &mut mem, 2);
    from.settle();
    assert!(from.lent().is_none() && from.done(request).unwrap());
    mem.fill(8);
    assert_eq!((receive(&mut to, &mut theirs), theirs.iter().all(|b| *b == 7)), (LEN as u64, true), "what was sent, not what lies there now");
    from.finish(request).unwrap();
    // Its receiver leaves with the message in its ring: it follows, copied.
    let request = lend(&mut from, &mut mem, 2);
    here.hold(Rank(2));
    *net.at[2].lock().unwrap() = 1;
    here.depart(Rank(2));
    from.progress(&mut Memory::Own(&mut []), &here).unwrap();
    assert!(from.done(request).unwrap() && from.lent().is_none());
    from.finish(request).unwrap();
    // To a rank that is not here, to itself, and small ones: copied at once.
    for rank in [1, 0] {
        let request = lend(&mut from, &mut mem, rank);
        assert!(from.lent().is_none() && from.done(request).unwrap(), "to rank {rank}");
        from.finish(request).unwrap();
    }
    *net.at[2].lock().unwrap() = 0;
    here.arrive(Rank(2), Vec::new());
    // A receive may be written to meanwhile: not if it lies elsewhere.
    for (address, lent) in [(LEN as u32, true), (LEN as u32 - 4, false)] {
        let posted = from.receive(&mut Memory::Own(&mut mem), &here, ints(address), 2, 6, world).unwrap();
        let request = lend(&mut from, &mut mem, 2);
        assert_eq!(from.lent().is_some(), lent, "a receive at {address}");
        from.settle();
        from.finish(request).unwrap();
        from.cancel(posted).unwrap();
        from.finish(posted).unwrap();
    }
}
