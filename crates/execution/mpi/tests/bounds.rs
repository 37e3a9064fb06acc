//! What a program can make the host keep for it: never more than its bounds, whatever numbers it gives. A counting allocator watches.

use mpi::collective::Layout;
use mpi::datatype::Buffer;
use mpi::rank::Mode;
use mpi::{Class, Fabric, Memory, Message, Rank, State, Wire};
use std::alloc::{GlobalAlloc, Layout as Size, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

struct Counting;
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(by: usize) {
    PEAK.fetch_max(NOW.fetch_add(by, Ordering::SeqCst) + by, Ordering::SeqCst);
}

// SAFETY: each call is handed on as it is to the system's allocator, which keeps the contract; beside that only numbers change.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, size: Size) -> *mut u8 {
        grown(size.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(size) }
    }
    unsafe fn alloc_zeroed(&self, size: Size) -> *mut u8 {
        grown(size.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, size: Size) {
        NOW.fetch_sub(size.size(), Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, size) }
    }
    unsafe fn realloc(&self, at: *mut u8, size: Size, new: usize) -> *mut u8 {
        // Both may exist for a moment.
        grown(new);
        NOW.fetch_sub(size.size(), Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, size, new) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BYTE: i32 = 4;
const INT: i32 = 8;
const SUM: i32 = 3;
const WORLD: i32 = 1;
const SELF: i32 = 2;
const MIB: usize = 1 << 20;

struct Nowhere;
impl Wire for Nowhere {
    fn send(&self, _: Message) {}
    fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
}

/// Rank `me` of four on one agent, none of whom takes anything by itself. One test at a time: they share the allocator.
struct Job {
    fabric: Fabric,
    state: State,
    mem: Vec<u8>,
    _alone: MutexGuard<'static, ()>,
}

impl Job {
    fn new(me: u32) -> Job {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let fabric = Fabric::new(4, Box::new(Nowhere));
        (0..4).for_each(|r| fabric.arrive(Rank(r), Vec::new()));
        Job { fabric, state: State::new(Rank(me), 4), mem: vec![0; MIB], _alone: alone }
    }

    /// The error of a call, and that it took no memory to speak of and no time.
    fn refused(&mut self, what: &str, call: impl FnOnce(&mut State, &mut Memory<'_>, &Fabric) -> mpi::Result<i32>) -> mpi::Error {
        let before = NOW.load(Ordering::SeqCst);
        PEAK.store(before, Ordering::SeqCst);
        let start = Instant::now();
        let e = call(&mut self.state, &mut Memory::Own(&mut self.mem), &self.fabric).expect_err(what);
        let peak = PEAK.load(Ordering::SeqCst) - before;
        assert!(peak < MIB, "{what} allocates {peak} bytes before it is refused: {e}");
        assert!(start.elapsed() < Duration::from_secs(2), "{what} takes {:?}", start.elapsed());
        e
    }
}

#[test]
fn counts_are_compared_with_the_memory_before_anything_is_allocated() {
    // (datatype, count): 4 GiB in one run, and in pieces.
    for (kind, count) in [("ints", 1 << 30), ("columns", 1 << 28), ("overlapping", 1 << 26)] {
        for me in [0, 1, 3] {
            let mut job = Job::new(me);
            let t = match kind {
                "ints" => INT,
                "columns" => job.state.types.make_vector(4, 1, 2, false, INT).unwrap(),
                _ => job.state.types.make_vector(16, 1, 0, false, INT).unwrap(),
            };
            job.state.types.commit(t).unwrap();
            let all = Buffer { address: 1024, count: count as u32, datatype: t };
            let one = Buffer { address: 1024, count: 1, datatype: INT };
            let (counts, displacements) = (vec![count; 4], vec![0; 4]);
            let layout = Layout { address: 0, counts: &counts, displacements: &displacements, datatype: t };
            let mut check = |what: &str, call: &dyn Fn(&mut State, &mut Memory<'_>, &Fabric) -> mpi::Result<i32>| {
                let e = job.refused(&format!("{what} of {kind} at rank {me}"), |s, mem, f| call(s, mem, f));
                assert!([Class::Buffer, Class::Count].contains(&e.class), "{what} of {kind}: {e}");
                assert!(e.message.contains("1048576"), "it names the memory: {e}");
            };
            check("a send", &|s, mem, f| s.send(mem, f, all, 2, 0, WORLD, Mode::Standard));
            check("a receive", &|s, mem, f| s.receive(mem, f, all, 2, 0, WORLD));
            check("a broadcast", &|s, mem, f| s.bcast(mem, f, all, 0, WORLD));
            check("alltoall", &|s, mem, f| {
                let shares = s.shares(&layout)?;
                s.alltoall(mem, f, Some(&shares), &shares, WORLD)
            });
            check("allgather", &|s, mem, f| s.allgather(mem, f, one, &layout, WORLD));
            check("gather", &|s, mem, f| s.gather(mem, f, all, Some(&layout), 0, WORLD));
            check("scatter", &|s, mem, f| s.scatter(mem, f, Some(&layout), all, 0, WORLD));
            check("a reduction", &|s, mem, f| s.reduce(mem, f, all, 0, SUM, Some(0), WORLD));
            check("a sum for all", &|s, mem, f| s.reduce(mem, f, all, 0, SUM, None, WORLD));
            check("scan", &|s, mem, f| s.scan(mem, f, all, 0, SUM, false, WORLD));
            let share = vec![count / 4; 4];
            check("reduce_scatter", &|s, mem, f| s.reduce_scatter(mem, f, 0, 0, &share, t, SUM, WORLD));
        }
    }
}

/// The results of a collective are compared as well, before it begins.
#[test]
fn a_wild_result_pointer_is_found_when_the_call_is_made() {
    let mut job = Job::new(0);
    let b = Buffer { address: 0, count: 8, datatype: INT };
    let e = job.refused("a sum", |s, mem, f| s.reduce(mem, f, b, MIB as u32 - 4, SUM, None, WORLD));
    assert_eq!(e.class, Class::Buffer);
}

/// Sends of a scatter may overlap, so that what they are together is many times the memory.
#[test]
fn what_one_call_asks_for_in_all_has_a_bound() {
    let mut job = Job::new(0);
    let (counts, displacements) = (vec![MIB as i32; 2048], vec![0; 2048]);
    let fabric = Fabric::new(2048, Box::new(Nowhere));
    (0..2048).for_each(|r| fabric.arrive(Rank(r), Vec::new()));
    job.state = State::new(Rank(0), 2048);
    let layout = Layout { address: 0, counts: &counts, displacements: &displacements, datatype: BYTE };
    let into = Buffer { address: 0, count: MIB as u32, datatype: BYTE };
    PEAK.store(0, Ordering::SeqCst);
    let e = job.state.scatter(&mut Memory::Own(&mut job.mem), &fabric, Some(&layout), into, 0, WORLD).unwrap_err();
    assert!(e.message.contains("bytes of sends and collectives wait"), "{e}");
    let peak = PEAK.load(Ordering::SeqCst);
    assert!(peak < 1200 * MIB, "{peak} bytes");
}

#[test]
fn operations_that_nobody_answers_do_not_pile_up_without_end() {
    let mut job = Job::new(0);
    let whole = Buffer { address: 0, count: MIB as u32, datatype: BYTE };
    let (mut begun, before) = (0, NOW.load(Ordering::SeqCst));
    PEAK.store(before, Ordering::SeqCst);
    let e = loop {
        match job.state.bcast(&mut Memory::Own(&mut job.mem), &job.fabric, whole, 0, WORLD) {
            Ok(_) => begun += 1,
            Err(e) => break e,
        }
        assert!(begun < 5000, "broadcasts that nobody takes are begun for ever");
    };
    assert!(begun > 500 && e.message.contains("complete some first"), "{begun}: {e}");
    let peak = PEAK.load(Ordering::SeqCst) - before;
    // What is on its way in rings is theirs: 16 MiB to each of the two ranks that are sent to.
    assert!(peak < (1 << 30) + 128 * MIB, "{peak} bytes for {begun} broadcasts");
    let e = job.state.send(&mut Memory::Own(&mut job.mem), &job.fabric, whole, 1, 0, WORLD, Mode::Standard).unwrap_err();
    assert!(e.message.contains("complete some first"), "sends are counted with them: {e}");
}

/// A barrier must find room where sends have left none.
#[test]
fn a_barrier_finds_room_behind_sends() {
    let mut job = Job::new(0);
    let whole = Buffer { address: 0, count: MIB as u32, datatype: BYTE };
    while job.state.send(&mut Memory::Own(&mut job.mem), &job.fabric, whole, 1, 0, WORLD, Mode::Standard).is_ok() {}
    job.state.barrier(&mut Memory::Own(&mut job.mem), &job.fabric, WORLD).unwrap();
    let one = Buffer { count: 1, ..whole };
    job.state.reduce(&mut Memory::Own(&mut job.mem), &job.fabric, Buffer { datatype: INT, ..one }, 64, SUM, None, WORLD).unwrap();
}

#[test]
fn datatypes_have_a_bound_together() {
    let mut job = Job::new(0);
    let before = NOW.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let mut made = Vec::new();
    let e = loop {
        match job.state.types.make_vector(1 << 20, 1, 2, false, BYTE) {
            Ok(t) => made.push(t),
            Err(e) => break e,
        }
        assert!(made.len() < 100, "types of 8 MiB are made for ever");
    };
    assert!(e.class == Class::Type && e.message.contains("MPI_Type_free"), "{e}");
    let peak = PEAK.load(Ordering::SeqCst) - before;
    assert!(peak < 100 * MIB, "{peak} bytes");
    job.state.types.free(made[0]).unwrap();
    job.state.types.make_vector(1 << 19, 1, 2, false, BYTE).unwrap();

    let small = |s: &mut State| s.types.make_vector(2, 1, 2, false, BYTE);
    let n = (0..10_000_000).take_while(|_| small(&mut job.state).is_ok()).count();
    assert!(n < 1_000_000, "{n} small ones beside them");
}

/// Numbers that mean nothing may not keep the host busy: nobody could end that.
#[test]
fn strange_datatypes_take_no_time() {
    let mut job = Job::new(0);
    let start = Instant::now();
    let types = &mut job.state.types;
    let (max, none) = (i32::MAX, 38);
    assert_eq!(types.get(none).unwrap().size, 0, "the bound marker");
    let long = types.make_contiguous(max, BYTE).unwrap();
    assert_eq!(types.get(long).unwrap().size, max as u32);
    let run = types.make_vector(1 << 15, 1 << 15, 1 << 15, false, BYTE).unwrap();
    assert_eq!((types.get(run).unwrap().size, types.get(run).unwrap().contiguous()), (1 << 30, true));
    let wide = types.make_vector(1 << 20, 1, 2, false, BYTE).unwrap();
    let empty = types.make_vector(max, 0, 5, false, wide).unwrap();
    assert_eq!((types.get(empty).unwrap().size, types.get(empty).unwrap().extent), (0, 0));
    let bounds = types.make_vector(max, 1, 1, true, none).unwrap();
    assert_eq!((types.get(bounds).unwrap().size, types.get(bounds).unwrap().extent), (0, max - 1));
    for refused in [
        types.make_vector(max, max, max, false, long),
        types.make_vector(max, max, 0, false, BYTE),
        types.make_vector(max, 1, 3, true, BYTE),
        types.make_vector(max, max, max, false, wide),
        types.make_contiguous(max, wide),
        types.make_pieces(max, mpi::datatype::combiner::STRUCT, |_| Ok((1, 0, BYTE))),
    ] {
        assert_eq!(refused.unwrap_err().class, Class::Type);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn communicators_have_a_bound() {
    let mut job = Job::new(0);
    let mut last = 0;
    let mut made = 0;
    let e = loop {
        match job.state.comm_split(&mut Memory::Own(&mut job.mem), &job.fabric, SELF, 0, 0, 64) {
            Ok(request) => assert_eq!(job.state.finish(request).map(|s| s.bytes), Ok(0)),
            Err(e) => break e,
        }
        made += 1;
        last = i32::from_le_bytes(job.mem[64..68].try_into().unwrap());
        assert!(made < 100_000, "communicators are made for ever");
    };
    assert!(e.message.contains("MPI_Comm_free"), "{e}");
    job.state.comm_free(last).unwrap();
    job.state.comm_split(&mut Memory::Own(&mut job.mem), &job.fabric, SELF, 0, 0, 64).unwrap();
}

/// Messages without a byte take room as well.
#[test]
fn empty_messages_are_not_taken_without_end() {
    let mut job = Job::new(0);
    let mut to = State::new(Rank(1), 4);
    let empty = Buffer { address: 0, count: 0, datatype: BYTE };
    let before = NOW.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let mut sent = 0;
    // The receiver computes, and asks now and then for something else.
    while job.state.flushed() {
        let request = job.state.send(&mut Memory::Own(&mut job.mem), &job.fabric, empty, 1, 0, WORLD, Mode::Standard).unwrap();
        to.progress(&mut Memory::Own(&mut []), &job.fabric).unwrap();
        if job.state.done(request).unwrap() {
            job.state.finish(request).unwrap();
        }
        sent += 1;
        assert!(sent < 10_000_000, "its receiver takes them for ever");
    }
    let peak = PEAK.load(Ordering::SeqCst) - before;
    assert!(peak < 300 * MIB, "{peak} bytes for {sent} messages");
}

/// MPI 4, section 5.1.9: what is under way with a datatype that is freed completes normally.
#[test]
fn a_freed_datatype_lives_on_while_it_is_used() {
    let mut job = Job::new(0);
    let mut from = State::new(Rank(1), 4);
    let column = |s: &mut State| {
        let t = s.types.make_vector(3, 1, 2, false, INT).unwrap();
        s.types.commit(t).unwrap();
        t
    };
    let t = column(&mut job.state);
    let into = Buffer { address: 0, count: 1, datatype: t };
    let receive = job.state.receive(&mut Memory::Own(&mut job.mem), &job.fabric, into, 1, 0, WORLD).unwrap();
    job.state.types.free(t).unwrap();
    assert!(job.state.types.get(t).is_err() && job.state.types.free(t).is_err(), "the program can't name it");
    let other = job.state.types.make_contiguous(7, BYTE).unwrap();
    assert_ne!(other, t, "nobody else gets its number");
    // It travels with the rank.
    job.state = postcard::from_bytes(&postcard::to_allocvec(&job.state).unwrap()).unwrap();
    job.state.check(4).unwrap();

    let mut mem: Vec<u8> = (1..=3i32).flat_map(i32::to_le_bytes).collect();
    let out = Buffer { address: 0, count: 3, datatype: INT };
    from.send(&mut Memory::Own(&mut mem), &job.fabric, out, 0, 0, WORLD, Mode::Standard).unwrap();
    job.state.progress(&mut Memory::Own(&mut job.mem), &job.fabric).unwrap();
    assert!(job.state.done(receive).unwrap());
    let ints: Vec<i32> = job.mem[..24].chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(ints, [1, 0, 2, 0, 3, 0]);
    assert_eq!(column(&mut job.state), t, "now its number is free");
}
