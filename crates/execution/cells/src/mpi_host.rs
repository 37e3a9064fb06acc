//! MPI as the guest calls it (`guests/mpi.h`): arguments in, [`mpi::State`] asked, results into guest memory.
//!
//! A call that may wait is a [`Pending`]: begun once, then looked at again and again by [`block`] until it is complete or the cell is asked to stop.
//! What is pending travels with the cell, and the same call, made again by the rewinding guest, finds it. Calls that are in the header and not
//! here stop the job with their name.
//!
//! Of a program with threads one is in MPI at a time: [`Calls`] gives each call its turn, and who waits lets the others have theirs (`turn`).

mod calls;
mod communicators;
mod files;
mod objects;
mod pending;
mod sessions;
mod types;
mod windows;

use crate::cell::{self, End, Host, Mode};
use crate::turn::{self, Pause};
use mpi::collective::{IN_PLACE, Layout};
use mpi::rank::{Mode as SendMode, Prepared, ROOT, Short, Together, UNDEFINED};
use mpi::{Class, Fabric, Memory, State, Status};
pub(crate) use pending::Pending;
use pending::{all, any, complete, look, some};
use std::collections::BTreeMap;
use std::sync::{Arc, atomic::Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wasmtime::{Caller, Linker, Module, WasmTy};

pub(crate) const MODULE: &str = "cloudskin_mpi";
/// Longest sleep of a waiting call without being woken: bounds what a lost wake-up could cost.
const SLEEP: Duration = Duration::from_millis(5);
/// The same while something has no room to leave, of which nobody tells.
const SLEEP_FULL: Duration = Duration::from_micros(50);

/// `MPI_THREAD_MULTIPLE` of `guests/mpi.h`.
const THREAD_MULTIPLE: i32 = 3;

/// Names of calls for telemetry; a cell's `doing` is an index here.
pub const DOING: [&str; 7] = ["compute", "MPI wait", "MPI collective", "MPI probe", "MPI_Finalize", "sleep", "process wait"];

/// What a call gives: a number, or an error that ends the cell.
trait Answer {
    type Value: WasmTy;
    fn answer(self) -> wasmtime::Result<Self::Value>;
}

impl Answer for i32 {
    type Value = i32;
    fn answer(self) -> wasmtime::Result<i32> {
        Ok(self)
    }
}

impl Answer for f64 {
    type Value = f64;
    fn answer(self) -> wasmtime::Result<f64> {
        Ok(self)
    }
}

impl Answer for wasmtime::Result<i32> {
    type Value = i32;
    fn answer(self) -> wasmtime::Result<i32> {
        self
    }
}

/// The body of a call with parameters `P`.
trait Call<P, R>: Sized {
    fn offer(self, l: &mut Linker<Host>, module: &str, name: &str) -> wasmtime::Result<()>;
}

macro_rules! bodies {
    ($($arg:ident)*) => {
        impl<F, R, $($arg),*> Call<($($arg,)*), R> for F
        where
            F: Fn(&mut Caller<'_, Host>, $($arg),*) -> R + Send + Sync + 'static,
            R: Answer + 'static,
            $($arg: WasmTy + 'static,)*
        {
            fn offer(self, l: &mut Linker<Host>, module: &str, name: &str) -> wasmtime::Result<()> {
                // What only tells the time is nobody's.
                let alone = (!matches!(name, "MPI_Wtime" | "MPI_Wtick")).then(|| name.to_string());
                #[allow(non_snake_case)] // a parameter and its type have one name
                let body = move |mut c: Caller<'_, Host>, $($arg: $arg),*| -> wasmtime::Result<R::Value> {
                    if let Some(name) = alone.as_deref().filter(|_| c.data().is_child()) {
                        return Err(wasmtime::Error::msg(format!("{name} was called in a process that fork has made: MPI is for the first process of a rank alone")));
                    }
                    turn::begin(c.data_mut())?;
                    let answer = self(&mut c, $($arg),*).answer();
                    turn::end(c.data_mut());
                    answer
                };
                l.func_wrap(module, name, body).map(drop)
            }
        }
    };
}

/// For so many parameters and all fewer.
macro_rules! all_bodies {
    () => { bodies!(); };
    ($first:ident $($rest:ident)*) => { bodies!($first $($rest)*); all_bodies!($($rest)*); };
}
all_bodies!(A B C D E G H I J K L M N O);

/// Where the calls of MPI are offered. Each is made with the rank's state at hand.
struct Calls<'l>(&'l mut Linker<Host>);

impl Calls<'_> {
    fn func_wrap<P, R>(&mut self, module: &str, name: &str, body: impl Call<P, R>) -> wasmtime::Result<()> {
        body.offer(self.0, module, name)
    }
}

/// The guest's memory, and what its host calls share. Inlined by order: as a call of its own it was 9 ns of each short message.
#[inline(always)]
fn parts<'a>(c: &'a mut Caller<'_, Host>) -> (Memory<'a>, &'a mut Host) {
    if let Some(memory) = c.data().memory {
        if c.data().mpi.lent().is_some() {
            let (start, len) = (memory.data_ptr(&*c), memory.data_size(&*c));
            // SAFETY: the memory is there as long as the store, from which both answers are borrowed, and has so many bytes while no code of the guest's runs.
            // Another rank may read some of them, and nobody writes them but through this answer.
            let cells = unsafe { std::slice::from_raw_parts(start.cast(), len) };
            return (Memory::Shared(cells), c.data_mut());
        }
        let (mem, host) = memory.data_and_store_mut(c);
        return (Memory::Own(mem), host);
    }
    let host = c.data_mut();
    let cells = host.threads.as_ref().expect("a running cell has its memory, or its threads have it").memory.data();
    // SAFETY: the memory that threads share never moves or shrinks, and `host.threads` keeps it as long as the store lives, from which both answers are borrowed: a
    // store's `threads` is set when it is made, and no more. `UnsafeCell` is what may be written by others meanwhile.
    let cells = unsafe { std::slice::from_raw_parts(cells.as_ptr(), cells.len()) };
    (Memory::Shared(cells), host)
}

fn outside(address: u32, len: usize) -> mpi::Error {
    mpi::Error::new(Class::Buffer, format!("{len} bytes at address {address:#x} are outside of the cell's memory"))
}

fn put(mem: &mut Memory<'_>, address: u32, bytes: &[u8]) -> mpi::Result<()> {
    mem.write(address as usize, bytes).ok_or_else(|| outside(address, bytes.len()))
}

fn put_i32(mem: &mut Memory<'_>, address: u32, value: i32) -> mpi::Result<()> {
    put(mem, address, &value.to_le_bytes())
}

fn get_i32(mem: &Memory<'_>, address: u32) -> mpi::Result<i32> {
    let mut bytes = [0; 4];
    mem.read(address as usize, &mut bytes).ok_or_else(|| outside(address, 4))?;
    Ok(i32::from_le_bytes(bytes))
}

/// Element `i` of an array of ints.
fn element(mem: &Memory<'_>, array: u32, i: u32) -> mpi::Result<i32> {
    let at = u64::from(array) + 4 * u64::from(i);
    get_i32(mem, u32::try_from(at).map_err(|_| outside(array, 4 * i as usize))?)
}

/// An array of ints with an element for each rank of a communicator, or less. Bounded by the memory that it lies in before anything is allocated.
fn ints(mem: &Memory<'_>, address: u32, count: u32) -> mpi::Result<Vec<i32>> {
    let (at, len) = (address as usize, count as usize * 4);
    let bytes = mem.bytes(at..at.saturating_add(len)).ok_or_else(|| outside(address, len))?;
    Ok(bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().expect("four bytes"))).collect())
}

/// `MPI_Status` of `guests/mpi.h`: source, tag, error, cancelled, and the bytes as 64 bits. Address 0 is `MPI_STATUS_IGNORE`.
#[inline]
fn put_status(mem: &mut Memory<'_>, address: u32, s: &Status) -> mpi::Result<()> {
    if address == 0 {
        return Ok(());
    }
    // As a whole or not at all.
    if mem.len() < address as usize + STATUS as usize {
        return Err(outside(address, STATUS as usize));
    }
    put_i32(mem, address, s.source)?;
    put_i32(mem, address + 4, s.tag)?;
    // MPI leaves the error as it is where there is none.
    if s.error != 0 {
        put_i32(mem, address + 8, s.error)?;
    }
    put_i32(mem, address + 12, i32::from(s.cancelled))?;
    put(mem, address + 16, &s.bytes.to_le_bytes())
}
const STATUS: u32 = 24;

fn count(n: i32) -> mpi::Result<u32> {
    mpi::rank::elements(n)
}

/// What an error does: the program is told if it asked for that, else the job stops.
fn fail(c: &mut Caller<'_, Host>, call: &str, comm: i32, e: mpi::Error) -> wasmtime::Result<i32> {
    calls::raise(c, call, comm, e.class as i32, &e.message)
}
#[inline]
fn ready(c: &Caller<'_, Host>, call: &str) -> wasmtime::Result<()> {
    let flags = c.data().flags;
    if c.data().control.killed() {
        return Err(wasmtime::Error::msg("killed"));
    }
    if c.data().threads.as_ref().is_some_and(|t| t.over()) {
        return Err(wasmtime::Error::new(End::Over));
    }
    // A session is a way to begin of its own.
    if flags.initialized && !flags.finalized || c.data().mpi.sessions.iter().any(Option::is_some) {
        return Ok(());
    }
    let why = if flags.finalized { "after MPI_Finalize" } else { "before MPI_Init" };
    Err(wasmtime::Error::msg(format!("{call} was called {why}")))
}

/// A call that doesn't wait.
fn local(
    c: &mut Caller<'_, Host>,
    call: &str,
    comm: i32,
    f: impl FnOnce(&mut Memory<'_>, &mut State, &Fabric) -> mpi::Result<()>,
) -> wasmtime::Result<i32> {
    ready(c, call)?;
    early(c, call, comm, f)
}

/// A call that doesn't wait and that is allowed before `MPI_Init` and after `MPI_Finalize`.
fn early(
    c: &mut Caller<'_, Host>,
    call: &str,
    comm: i32,
    f: impl FnOnce(&mut Memory<'_>, &mut State, &Fabric) -> mpi::Result<()>,
) -> wasmtime::Result<i32> {
    let (mut mem, host) = parts(c);
    let mem = &mut mem;
    match f(mem, &mut host.mpi, &host.fabric) {
        Ok(()) => Ok(0),
        Err(e) => fail(c, call, comm, e),
    }
}

/// A call that may wait: begins, or goes on after a rewind, until it is complete or the cell is asked to stop.
#[inline]
fn block(
    c: &mut Caller<'_, Host>,
    call: &str,
    comm: i32,
    doing: u32,
    begin: impl FnOnce(&mut Memory<'_>, &mut State, &Fabric) -> mpi::Result<Pending>,
) -> wasmtime::Result<i32> {
    if c.data().mode == Mode::Rewinding {
        cell::rewound(c)?;
    } else {
        ready(c, call)?;
        let (mut mem, host) = parts(c);
        let mem = &mut mem;
        match begin(mem, &mut host.mpi, &host.fabric) {
            Ok(pending) => host.pending = Some(pending),
            Err(e) => return fail(c, call, comm, e),
        }
    }
    // Also if something panics: nobody may read this rank's memory when it is in no call.
    let lent = c.data().mpi.lent().cloned().map(Lent);
    let waited = wait(c, doing);
    if lent.is_some() {
        c.data_mut().mpi.settle();
    }
    match waited? {
        Ok(()) => {
            calls::settle(c)?;
            Ok(0)
        }
        Err(e) => fail(c, call, comm, e),
    }
}

/// Whether a call may go the short way ([`mpi::rank`], `direct`): one that begins, in a program of one thread.
#[inline]
fn short(c: &Caller<'_, Host>) -> bool {
    let host = c.data();
    host.threads.is_none() && host.mode == Mode::Running && host.flags.initialized && !host.flags.finalized && !host.control.killed()
}

/// `MPI_Recv` by the short way: as long as it is worth spinning for the message. `false`: the general way goes on.
#[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
#[inline]
fn receive_next(c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, from: i32, tag: i32, comm: i32, status: u32) -> bool {
    let (mut mem, host) = parts(c);
    let Some(next) = host.mpi.next(&mem, &host.fabric, buf, n, t, from, tag, comm) else { return false };
    if !comes(host, next.src) {
        return false;
    }
    // A wild address of the status is found before anything is taken.
    if status != 0 && mem.len() < status as usize + STATUS as usize {
        return false;
    }
    let got = host.mpi.receive_next(&mut mem, &host.fabric, &next);
    got.is_some_and(|s| put_status(&mut mem, status, &s).is_ok())
}

/// Waits for a message of this rank as long as it is worth spinning, and nobody wants this one to stop.
#[inline]
fn comes(host: &Host, src: mpi::Rank) -> bool {
    let (fabric, control, rank) = (&host.fabric, &host.control, host.rank);
    let mut spins = 0;
    while !fabric.next_is_there(src, rank) {
        if spins >= host.spin || fabric.arrived(rank) || control.stopping() || control.killed() {
            return false;
        }
        spins += 1;
        std::hint::spin_loop();
    }
    true
}

/// A collective by the short way. What is left of it when a rank is late goes the general way.
#[inline]
fn together(c: &mut Caller<'_, Host>, call: &str, comm: i32, mut together: Together) -> wasmtime::Result<i32> {
    loop {
        let (mut mem, host) = parts(c);
        match host.mpi.advance_now(&mut mem, &host.fabric, &mut together) {
            Short::Done => return Ok(0),
            Short::Waits(src) if comes(host, src) => {}
            Short::Waits(_) | Short::Late => return block(c, call, comm, 2, |mem, m, f| Ok(one(m.go_on(mem, f, together)?, 0))),
        }
    }
}

/// Held while a message of the rank's is read in its memory.
struct Lent(Arc<mpi::loan::Loan>);

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.settle();
    }
}

/// Waits for what is pending. Comes back early, with the guest unwinding, when the cell is asked to stop.
#[inline]
fn wait(c: &mut Caller<'_, Host>, doing: u32) -> wasmtime::Result<mpi::Result<()>> {
    let mut spins = 0;
    let threads = c.data().threads.clone();
    let (mut lead, mut _waiting) = (None, None);
    loop {
        let (mut mem, host) = parts(c);
        let mem = &mut mem;
        match look(mem, host) {
            Ok(true) => {
                host.pending = None;
                if spins > 0 && host.thread == 0 {
                    host.control.doing.store(0, Ordering::Relaxed);
                }
                return Ok(Ok(()));
            }
            // Not if another thread has left its work already: it would have to come back.
            Ok(false) if host.mpi.calls() && !(host.control.gathering() && host.can_stop()) => {
                calls::serve(c)?;
                continue;
            }
            Ok(false) => {}
            Err(e) => {
                host.pending = None;
                return Ok(Err(e));
            }
        }
        if host.control.killed() {
            return Err(wasmtime::Error::msg("killed"));
        }
        if host.control.leaving() && host.can_stop() {
            cell::unwind(c)?;
            return Ok(Ok(()));
        }
        if spins == 0 && host.thread == 0 {
            host.control.doing.store(doing, Ordering::Relaxed);
            _waiting = Some(host.control.wait());
        }
        spins += 1;
        if threads.is_none() && spins <= host.spin {
            std::hint::spin_loop();
            continue;
        }
        if host.mpi.lent().is_some() {
            host.mpi.settle();
            continue;
        }
        let longest = match host.pending {
            Some(Pending::Sleep { until_ms }) => Duration::from_millis(until_ms.saturating_sub(base::clock::now_ms())).min(SLEEP),
            _ if host.mpi.flushed() => SLEEP,
            _ => SLEEP_FULL,
        };
        if let Some(threads) = &threads {
            let seen = turn::give(host);
            lead = lead.or_else(|| threads.turn.lead(&threads.control.parked));
            let pause = Pause { seen, longest, spin: host.spin, stops: host.can_stop() };
            threads.turn.pause(lead.as_ref(), pause, &threads.control, &host.fabric, host.rank);
            turn::take(host)?;
            continue;
        }
        let (rank, fabric, control) = (host.rank, &host.fabric, &host.control);
        fabric.mailbox(rank).bell.wait(longest, || fabric.waiting(rank) || control.stopping() || control.killed());
    }
}

/// Asks once without waiting, for the test family. Lets others have the core if there was nothing and cores are shared.
fn ask(c: &mut Caller<'_, Host>, call: &str, f: impl FnOnce(&mut Memory<'_>, &mut State) -> mpi::Result<bool>) -> wasmtime::Result<i32> {
    ready(c, call)?;
    let (mut mem, host) = parts(c);
    let mem = &mut mem;
    let mut result = host.mpi.progress(mem, &host.fabric);
    result = result.and_then(|()| files::serve(mem, host));
    if result.is_ok() && host.mpi.calls() {
        calls::serve(c)?;
    }
    let (mut mem, host) = parts(c);
    let mem = &mut mem;
    result = result.and_then(|()| f(mem, &mut host.mpi)).map(|done| {
        if !done && host.spin == 0 {
            match host.threads {
                // Not before its turn has ended.
                Some(_) => host.idle = true,
                None => std::thread::yield_now(),
            }
        }
    });
    match result {
        Ok(()) => {
            calls::settle(c)?;
            Ok(0)
        }
        Err(e) => fail(c, call, mpi::comm::WORLD, e),
    }
}

/// Sleeps for WASI's `poll_oneoff`; can be stopped meanwhile. `true`: the guest is unwinding.
pub(crate) fn sleep(c: &mut Caller<'_, Host>, ms: u64) -> wasmtime::Result<bool> {
    if c.data().mode == Mode::Rewinding {
        cell::rewound(c)?;
    } else {
        c.data_mut().pending = Some(Pending::Sleep { until_ms: base::clock::now_ms().saturating_add(ms) });
    }
    wait(c, 5)?.map_err(|e| wasmtime::Error::msg(e.message))?;
    Ok(c.data().mode == Mode::Unwinding)
}

fn one(request: i32, status: u32) -> Pending {
    Pending::One { request, status, handle: 0 }
}

/// Registers point-to-point sends: the blocking, the non-blocking and the persistent name of each mode.
fn link_sends(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    type Args = (u32, i32, i32, i32, i32, i32);
    let modes = [
        ("MPI_Send", "MPI_Isend", "MPI_Send_init", SendMode::Standard),
        ("MPI_Ssend", "MPI_Issend", "MPI_Ssend_init", SendMode::Synchronous),
        ("MPI_Bsend", "MPI_Ibsend", "MPI_Bsend_init", SendMode::Buffered),
        ("MPI_Rsend", "MPI_Irsend", "MPI_Rsend_init", SendMode::Standard),
    ];
    for (name, name_i, name_init, mode) in modes {
        let start = move |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, (buf, n, t, to, tag, comm): Args| {
            let buffer = m.checked(buf, n, t)?;
            m.send(mem, f, buffer, to, tag, comm, mode)
        };
        l.func_wrap(MODULE, name, move |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, to: i32, tag: i32, comm: i32| {
            if mode == SendMode::Standard && short(c) {
                let (mem, host) = parts(c);
                if host.mpi.send_now(&mem, &host.fabric, buf, n, t, to, tag, comm) {
                    return Ok(0);
                }
            }
            block(c, name, comm, 1, |mem, m, f| {
                let buffer = m.checked(buf, n, t)?;
                Ok(one(m.send_and_wait(mem, f, buffer, to, tag, comm, mode)?, 0))
            })
        })?;
        l.func_wrap(
            MODULE,
            name_i,
            move |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, to: i32, tag: i32, comm: i32, request: u32| {
                local(c, name_i, comm, |mem, m, f| {
                    let r = start(mem, m, f, (buf, n, t, to, tag, comm))?;
                    put_i32(mem, request, r)
                })
            },
        )?;
        l.func_wrap(
            MODULE,
            name_init,
            move |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, to: i32, tag: i32, comm: i32, request: u32| {
                local(c, name_init, comm, |mem, m, _| {
                    let buffer = m.checked(buf, n, t)?;
                    let r = m.prepare(mem, Prepared::Send { buffer, to, tag, comm, mode })?;
                    put_i32(mem, request, r)
                })
            },
        )?;
    }
    Ok(())
}

fn link_point_to_point(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Recv", |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, from: i32, tag: i32, comm: i32, status: u32| {
        if short(c) && receive_next(c, buf, n, t, from, tag, comm, status) {
            return Ok(0);
        }
        block(c, "MPI_Recv", comm, 1, |mem, m, f| {
            let buffer = m.checked(buf, n, t)?;
            Ok(one(m.receive(mem, f, buffer, from, tag, comm)?, status))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Irecv", |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, from: i32, tag: i32, comm: i32, request: u32| {
        local(c, "MPI_Irecv", comm, |mem, m, f| {
            let buffer = m.checked(buf, n, t)?;
            let r = m.receive(mem, f, buffer, from, tag, comm)?;
            put_i32(mem, request, r)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Recv_init", |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, from: i32, tag: i32, comm: i32, request: u32| {
        local(c, "MPI_Recv_init", comm, |mem, m, _| {
            let buffer = m.checked(buf, n, t)?;
            let r = m.prepare(mem, Prepared::Receive { buffer, from, tag, comm })?;
            put_i32(mem, request, r)
        })
    })?;
    #[allow(clippy::type_complexity)]
    l.func_wrap(
        MODULE,
        "MPI_Sendrecv",
        |c: &mut Caller<'_, Host>, sb: u32, sn: i32, st: i32, to: i32, stag: i32, rb: u32, rn: i32, rt: i32, from: i32, rtag: i32, comm: i32, status: u32| {
            block(c, "MPI_Sendrecv", comm, 1, |mem, m, f| {
                let (out, into) = (m.checked(sb, sn, st)?, m.checked(rb, rn, rt)?);
                let receive = m.receive(mem, f, into, from, rtag, comm)?;
                let send = m.send(mem, f, out, to, stag, comm, SendMode::Standard)?;
                Ok(Pending::Pair { send, receive, status })
            })
        },
    )?;
    l.func_wrap(
        MODULE,
        "MPI_Sendrecv_replace",
        |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, to: i32, stag: i32, from: i32, rtag: i32, comm: i32, status: u32| {
            block(c, "MPI_Sendrecv_replace", comm, 1, |mem, m, f| {
                let buffer = m.checked(buf, n, t)?;
                // The send copies the bytes out before the receive may overwrite them.
                let send = m.send(mem, f, buffer, to, stag, comm, SendMode::Standard)?;
                let receive = m.receive(mem, f, buffer, from, rtag, comm)?;
                Ok(Pending::Pair { send, receive, status })
            })
        },
    )?;
    #[allow(clippy::type_complexity)]
    l.func_wrap(
        MODULE,
        "MPI_Isendrecv",
        |c: &mut Caller<'_, Host>, sb: u32, sn: i32, st: i32, to: i32, stag: i32, rb: u32, rn: i32, rt: i32, from: i32, rtag: i32, comm: i32, request: u32| {
            local(c, "MPI_Isendrecv", comm, |mem, m, f| {
                let (out, into) = (m.checked(sb, sn, st)?, m.checked(rb, rn, rt)?);
                let r = m.send_receive(mem, f, out, to, stag, into, from, rtag, comm)?;
                put_i32(mem, request, r)
            })
        },
    )?;
    l.func_wrap(
        MODULE,
        "MPI_Isendrecv_replace",
        |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, to: i32, stag: i32, from: i32, rtag: i32, comm: i32, request: u32| {
            local(c, "MPI_Isendrecv_replace", comm, |mem, m, f| {
                let buffer = m.checked(buf, n, t)?;
                let r = m.send_receive(mem, f, buffer, to, stag, buffer, from, rtag, comm)?;
                put_i32(mem, request, r)
            })
        },
    )?;
    l.func_wrap(MODULE, "MPI_Probe", |c: &mut Caller<'_, Host>, source: i32, tag: i32, comm: i32, status: u32| {
        block(c, "MPI_Probe", comm, 3, |_, _, _| Ok(Pending::Probe { source, tag, comm, status }))
    })?;
    l.func_wrap(MODULE, "MPI_Mprobe", |c: &mut Caller<'_, Host>, source: i32, tag: i32, comm: i32, message: u32, status: u32| {
        block(c, "MPI_Mprobe", comm, 3, |_, _, _| Ok(Pending::Match { source, tag, comm, message, status }))
    })?;
    l.func_wrap(MODULE, "MPI_Improbe", |c: &mut Caller<'_, Host>, source: i32, tag: i32, comm: i32, flag: u32, message: u32, status: u32| {
        ask(c, "MPI_Improbe", |mem, m| {
            let found = m.match_message(source, tag, comm)?;
            put_i32(mem, flag, i32::from(found.is_some()))?;
            if let Some((handle, s)) = &found {
                put_i32(mem, message, *handle)?;
                put_status(mem, status, s)?;
            }
            Ok(found.is_some())
        })
    })?;
    l.func_wrap(MODULE, "MPI_Mrecv", |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, message: u32, status: u32| {
        block(c, "MPI_Mrecv", 1, 1, |mem, m, f| {
            let buffer = m.checked(buf, n, t)?;
            let request = m.receive_message(mem, f, buffer, get_i32(mem, message)?)?;
            put_i32(mem, message, 0)?;
            Ok(one(request, status))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Imrecv", |c: &mut Caller<'_, Host>, buf: u32, n: i32, t: i32, message: u32, request: u32| {
        local(c, "MPI_Imrecv", 1, |mem, m, f| {
            let buffer = m.checked(buf, n, t)?;
            let r = m.receive_message(mem, f, buffer, get_i32(mem, message)?)?;
            put_i32(mem, message, 0)?;
            put_i32(mem, request, r)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Iprobe", |c: &mut Caller<'_, Host>, source: i32, tag: i32, comm: i32, flag: u32, status: u32| {
        ask(c, "MPI_Iprobe", |mem, m| {
            let found = m.probe(source, tag, comm)?;
            put_i32(mem, flag, i32::from(found.is_some()))?;
            if let Some(s) = &found {
                put_status(mem, status, s)?;
            }
            Ok(found.is_some())
        })
    })?;
    Ok(())
}

fn link_requests(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Wait", |c: &mut Caller<'_, Host>, handle: u32, status: u32| {
        block(c, "MPI_Wait", 1, 1, |mem, _, _| Ok(Pending::One { request: get_i32(mem, handle)?, status, handle }))
    })?;
    l.func_wrap(MODULE, "MPI_Waitall", |c: &mut Caller<'_, Host>, n: i32, handles: u32, statuses: u32| {
        block(c, "MPI_Waitall", 1, 1, |_, _, _| Ok(Pending::All { handles, count: count(n)?, statuses }))
    })?;
    l.func_wrap(MODULE, "MPI_Waitany", |c: &mut Caller<'_, Host>, n: i32, handles: u32, index: u32, status: u32| {
        block(c, "MPI_Waitany", 1, 1, |_, _, _| Ok(Pending::Any { handles, count: count(n)?, index, status }))
    })?;
    l.func_wrap(MODULE, "MPI_Waitsome", |c: &mut Caller<'_, Host>, n: i32, handles: u32, done: u32, indices: u32, statuses: u32| {
        block(c, "MPI_Waitsome", 1, 1, |_, _, _| Ok(Pending::Some { handles, count: count(n)?, done, indices, statuses }))
    })?;
    l.func_wrap(MODULE, "MPI_Test", |c: &mut Caller<'_, Host>, handle: u32, flag: u32, status: u32| {
        ask(c, "MPI_Test", |mem, m| {
            let request = get_i32(mem, handle)?;
            let done = m.done(request)?;
            put_i32(mem, flag, i32::from(done))?;
            if done {
                complete(mem, m, request, handle, status)?;
            }
            Ok(done)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Testall", |c: &mut Caller<'_, Host>, n: i32, handles: u32, flag: u32, statuses: u32| {
        ask(c, "MPI_Testall", |mem, m| {
            let done = all(mem, m, handles, count(n)?, statuses)?;
            put_i32(mem, flag, i32::from(done))?;
            Ok(done)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Testany", |c: &mut Caller<'_, Host>, n: i32, handles: u32, index: u32, flag: u32, status: u32| {
        ask(c, "MPI_Testany", |mem, m| {
            put_i32(mem, index, UNDEFINED)?;
            let done = any(mem, m, handles, count(n)?, index, status)?;
            put_i32(mem, flag, i32::from(done))?;
            Ok(done)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Testsome", |c: &mut Caller<'_, Host>, n: i32, handles: u32, done: u32, indices: u32, statuses: u32| {
        ask(c, "MPI_Testsome", |mem, m| {
            put_i32(mem, done, 0)?;
            some(mem, m, handles, count(n)?, done, indices, statuses)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Request_free", |c: &mut Caller<'_, Host>, handle: u32| {
        let code = local(c, "MPI_Request_free", 1, |mem, m, _| {
            let request = get_i32(mem, handle)?;
            if m.general_done(request)
                && let Some(general) = m.general(request)
            {
                m.after.push((mpi::rank::General { query: 0, ..general }, 0));
            }
            m.release(request)?;
            put_i32(mem, handle, 0)
        })?;
        calls::settle(c)?;
        Ok(code)
    })?;
    l.func_wrap(MODULE, "MPI_Request_get_status", |c: &mut Caller<'_, Host>, request: i32, flag: u32, status: u32| {
        ask(c, "MPI_Request_get_status", |mem, m| {
            let done = m.done(request)?;
            put_i32(mem, flag, i32::from(done))?;
            if done {
                let s = m.status(request)?;
                put_status(mem, status, &s)?;
            }
            Ok(done)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Grequest_start", |c: &mut Caller<'_, Host>, query: u32, free: u32, cancel: u32, extra: u32, into: u32| {
        local(c, "MPI_Grequest_start", 1, |mem, m, _| {
            let request = m.general_start(mpi::rank::General { query, free, cancel, extra })?;
            put_i32(mem, into, request)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Grequest_complete", |c: &mut Caller<'_, Host>, request: i32| {
        local(c, "MPI_Grequest_complete", 1, |_, m, _| m.general_complete(request))
    })?;
    l.func_wrap(MODULE, "MPI_Buffer_attach", |c: &mut Caller<'_, Host>, buffer: u32, size: i32| {
        local(c, "MPI_Buffer_attach", 1, |mem, m, _| m.attach(mem, buffer, size))
    })?;
    l.func_wrap(MODULE, "MPI_Buffer_detach", |c: &mut Caller<'_, Host>, address: u32, size: u32| {
        block(c, "MPI_Buffer_detach", 1, 1, |_, _, _| Ok(Pending::Detach { address, size }))
    })?;
    l.func_wrap(MODULE, "MPI_Cancel", |c: &mut Caller<'_, Host>, handle: u32| {
        ready(c, "MPI_Cancel")?;
        let (mut mem, host) = parts(c);
        let mem = &mut mem;
        if let Ok(request) = get_i32(mem, handle)
            && let Some(general) = host.mpi.general(request)
        {
            let done = host.mpi.general_done(request);
            return calls::guest::<_, i32>(c, general.cancel, (general.extra, i32::from(done)));
        }
        local(c, "MPI_Cancel", 1, |mem, m, _| m.cancel(get_i32(mem, handle)?))
    })?;
    l.func_wrap(MODULE, "MPI_Test_cancelled", |c: &mut Caller<'_, Host>, status: u32, flag: u32| {
        local(c, "MPI_Test_cancelled", 1, |mem, _, _| {
            let cancelled = get_i32(mem, status + 12)?;
            put_i32(mem, flag, cancelled)
        })
    })?;
    Ok(())
}

/// Makes a collective's request from the arguments of its call.
type Starter = fn(&mut Memory<'_>, &mut State, &Fabric, &[u32]) -> Started;
/// By the name of the call that prepares it.
type Starters = BTreeMap<&'static str, Starter>;

/// A collective under its blocking, its non-blocking and its persistent name. `$start` makes the request.
macro_rules! collective {
    ($l:ident, $starters:ident, $name:literal, $name_i:literal, $name_init:literal, ($($arg:ident: $type:ty),*), $comm:ident, $start:expr) => {
        collective!($l, $starters, $name, $name_i, $name_init, ($($arg: $type),*), $comm, $start, |_: &mut Memory<'_>, _: &mut State, $(_: $type),*| None)
    };
    // With a short way for few bytes.
    ($l:ident, $starters:ident, $name:literal, $name_i:literal, $name_init:literal, ($($arg:ident: $type:ty),*), $comm:ident, $start:expr, $now:expr) => {{
        $l.func_wrap(MODULE, $name, |c: &mut Caller<'_, Host>, $($arg: $type),*| {
            if short(c) {
                let (mut mem, host) = parts(c);
                #[allow(clippy::redundant_closure_call)]
                let now: Option<Together> = ($now)(&mut mem, &mut host.mpi, $($arg),*);
                if let Some(now) = now {
                    return together(c, $name, $comm, now);
                }
            }
            block(c, $name, $comm, 2, |mem, m, f| {
                #[allow(clippy::redundant_closure_call)]
                let request = ($start)(mem, m, f, $($arg),*)?;
                Ok(one(request, 0))
            })
        })?;
        $l.func_wrap(MODULE, $name_i, |c: &mut Caller<'_, Host>, $($arg: $type,)* handle: u32| {
            local(c, $name_i, $comm, |mem, m, f| {
                #[allow(clippy::redundant_closure_call)]
                let request: i32 = ($start)(mem, m, f, $($arg),*)?;
                put_i32(mem, handle, request)
            })
        })?;
        $starters.insert($name_init, |mem, m, f, args| {
            let mut args = args.iter().copied();
            $(let $arg = args.next().unwrap_or_default() as $type;)*
            #[allow(clippy::redundant_closure_call)]
            ($start)(mem, m, f, $($arg),*)
        });
        $l.func_wrap(MODULE, $name_init, |c: &mut Caller<'_, Host>, $($arg: $type,)* _info: i32, handle: u32| {
            local(c, $name_init, $comm, |mem, m, _| {
                let held = held(mem, m, $name_init, $comm, &[$((stringify!($arg), stringify!($type), $arg as u32)),*])?;
                let request = m.prepare_collective($name_init, vec![$($arg as u32),*], held, $comm)?;
                put_i32(mem, handle, request)
            })
        })?;
    }};
}

type Started = mpi::Result<i32>;

/// The datatypes among the arguments of a collective: `t`, `st` and `rt`, or lists of them, as the calls below name theirs.
fn held(mem: &Memory<'_>, m: &State, call: &str, comm: i32, args: &[(&str, &str, u32)]) -> mpi::Result<Vec<i32>> {
    let mut held = Vec::new();
    for (name, kind, value) in args {
        match (*name, *kind) {
            ("t" | "st" | "rt", "i32") => held.push(*value as i32),
            ("st" | "rt", _) => {
                let (from, to) = if call.contains("eighbor") { communicators::neighbours(m, comm)? } else { (size_of(m, comm)?, size_of(m, comm)?) };
                let sent_in_place = *name == "st" && args[0].2 == IN_PLACE;
                if !sent_in_place {
                    held.extend(ints(mem, *value, if *name == "st" { to } else { from })?);
                }
            }
            _ => {}
        }
    }
    Ok(held)
}

/// Ranks that have a share in a collective: the other side's of an inter-communicator.
fn size_of(m: &State, comm: i32) -> mpi::Result<u32> {
    Ok(m.comms.get(comm)?.peers().len() as u32)
}

fn is_root(m: &State, comm: i32, root: i32) -> mpi::Result<bool> {
    let comm = m.comms.get(comm)?;
    Ok(if comm.remote.is_some() { root == ROOT } else { comm.me as i32 == root })
}

/// A buffer that may be `MPI_IN_PLACE`, whose count and type then don't matter.
fn maybe_in_place(m: &State, address: u32, n: i32, t: i32) -> mpi::Result<mpi::datatype::Buffer> {
    if address == IN_PLACE {
        return Ok(mpi::datatype::Buffer { address, count: 0, datatype: 4 });
    }
    m.checked(address, n, t)
}

fn link_collectives(l: &mut Calls<'_>, starters: &mut Starters) -> wasmtime::Result<()> {
    collective!(l, starters, "MPI_Barrier", "MPI_Ibarrier", "MPI_Barrier_init", (comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, comm| -> Started { m.barrier(mem, f, comm) },
        |_: &mut Memory<'_>, m: &mut State, comm| m.barrier_now(comm));
    collective!(l, starters, "MPI_Bcast", "MPI_Ibcast", "MPI_Bcast_init", (buf: u32, n: i32, t: i32, root: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, buf, n, t, root, comm| -> Started {
            let buffer = m.checked(buf, n, t)?;
            m.bcast(mem, f, buffer, root, comm)
        });
    collective!(l, starters, "MPI_Reduce", "MPI_Ireduce", "MPI_Reduce_init", (sb: u32, rb: u32, n: i32, t: i32, op: i32, root: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, rb, n, t, op, root, comm| -> Started {
            let buffer = m.checked(sb, n, t)?;
            m.reduce(mem, f, buffer, rb, op, Some(root), comm)
        });
    collective!(l, starters, "MPI_Allreduce", "MPI_Iallreduce", "MPI_Allreduce_init", (sb: u32, rb: u32, n: i32, t: i32, op: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, rb, n, t, op, comm| -> Started {
            let buffer = m.checked(sb, n, t)?;
            m.reduce(mem, f, buffer, rb, op, None, comm)
        },
        |mem: &mut Memory<'_>, m: &mut State, sb, rb, n, t, op, comm| m.allreduce_now(mem, sb, rb, n, t, op, comm));
    collective!(l, starters, "MPI_Scan", "MPI_Iscan", "MPI_Scan_init", (sb: u32, rb: u32, n: i32, t: i32, op: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, rb, n, t, op, comm| -> Started {
            let buffer = m.checked(sb, n, t)?;
            m.scan(mem, f, buffer, rb, op, false, comm)
        });
    collective!(l, starters, "MPI_Exscan", "MPI_Iexscan", "MPI_Exscan_init", (sb: u32, rb: u32, n: i32, t: i32, op: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, rb, n, t, op, comm| -> Started {
            let buffer = m.checked(sb, n, t)?;
            m.scan(mem, f, buffer, rb, op, true, comm)
        });
    collective!(l, starters, "MPI_Reduce_scatter_block", "MPI_Ireduce_scatter_block", "MPI_Reduce_scatter_block_init", (sb: u32, rb: u32, n: i32, t: i32, op: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, rb, n, t, op, comm| -> Started {
            let counts = vec![n; m.comms.get(comm)?.size() as usize];
            m.reduce_scatter(mem, f, sb, rb, &counts, t, op, comm)
        });
    collective!(l, starters, "MPI_Reduce_scatter", "MPI_Ireduce_scatter", "MPI_Reduce_scatter_init", (sb: u32, rb: u32, counts: u32, t: i32, op: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, rb, counts, t, op, comm| -> Started {
            let counts = ints(mem, counts, m.comms.get(comm)?.size())?;
            m.reduce_scatter(mem, f, sb, rb, &counts, t, op, comm)
        });
    collective!(l, starters, "MPI_Gather", "MPI_Igather", "MPI_Gather_init", (sb: u32, sn: i32, st: i32, rb: u32, rn: i32, rt: i32, root: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, sn, st, rb, rn, rt, root, comm| -> Started {
            let send = maybe_in_place(m, sb, sn, st)?;
            let (counts, displacements) = State::even(rn, size_of(m, comm)?);
            let layout = Layout { address: rb, counts: &counts, displacements: &displacements, datatype: rt };
            let root_layout = is_root(m, comm, root)?.then_some(&layout);
            m.gather(mem, f, send, root_layout, root, comm)
        });
    collective!(l, starters, "MPI_Gatherv", "MPI_Igatherv", "MPI_Gatherv_init", (sb: u32, sn: i32, st: i32, rb: u32, counts: u32, displs: u32, rt: i32, root: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, sn, st, rb, counts, displs, rt, root, comm| -> Started {
            let send = maybe_in_place(m, sb, sn, st)?;
            if !is_root(m, comm, root)? {
                return m.gather(mem, f, send, None, root, comm);
            }
            let n = size_of(m, comm)?;
            let (counts, displacements) = (ints(mem, counts, n)?, ints(mem, displs, n)?);
            let layout = Layout { address: rb, counts: &counts, displacements: &displacements, datatype: rt };
            m.gather(mem, f, send, Some(&layout), root, comm)
        });
    collective!(l, starters, "MPI_Scatter", "MPI_Iscatter", "MPI_Scatter_init", (sb: u32, sn: i32, st: i32, rb: u32, rn: i32, rt: i32, root: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, sn, st, rb, rn, rt, root, comm| -> Started {
            let receive = maybe_in_place(m, rb, rn, rt)?;
            let (counts, displacements) = State::even(sn, size_of(m, comm)?);
            let layout = Layout { address: sb, counts: &counts, displacements: &displacements, datatype: st };
            let root_layout = is_root(m, comm, root)?.then_some(&layout);
            m.scatter(mem, f, root_layout, receive, root, comm)
        });
    collective!(l, starters, "MPI_Scatterv", "MPI_Iscatterv", "MPI_Scatterv_init", (sb: u32, counts: u32, displs: u32, st: i32, rb: u32, rn: i32, rt: i32, root: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, counts, displs, st, rb, rn, rt, root, comm| -> Started {
            let receive = maybe_in_place(m, rb, rn, rt)?;
            if !is_root(m, comm, root)? {
                return m.scatter(mem, f, None, receive, root, comm);
            }
            let n = size_of(m, comm)?;
            let (counts, displacements) = (ints(mem, counts, n)?, ints(mem, displs, n)?);
            let layout = Layout { address: sb, counts: &counts, displacements: &displacements, datatype: st };
            m.scatter(mem, f, Some(&layout), receive, root, comm)
        });
    collective!(l, starters, "MPI_Allgather", "MPI_Iallgather", "MPI_Allgather_init", (sb: u32, sn: i32, st: i32, rb: u32, rn: i32, rt: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, sn, st, rb, rn, rt, comm| -> Started {
            let send = maybe_in_place(m, sb, sn, st)?;
            let (counts, displacements) = State::even(rn, size_of(m, comm)?);
            let layout = Layout { address: rb, counts: &counts, displacements: &displacements, datatype: rt };
            m.allgather(mem, f, send, &layout, comm)
        });
    collective!(l, starters, "MPI_Allgatherv", "MPI_Iallgatherv", "MPI_Allgatherv_init", (sb: u32, sn: i32, st: i32, rb: u32, counts: u32, displs: u32, rt: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, sn, st, rb, counts, displs, rt, comm| -> Started {
            let send = maybe_in_place(m, sb, sn, st)?;
            let n = size_of(m, comm)?;
            let (counts, displacements) = (ints(mem, counts, n)?, ints(mem, displs, n)?);
            let layout = Layout { address: rb, counts: &counts, displacements: &displacements, datatype: rt };
            m.allgather(mem, f, send, &layout, comm)
        });
    collective!(l, starters, "MPI_Alltoall", "MPI_Ialltoall", "MPI_Alltoall_init", (sb: u32, sn: i32, st: i32, rb: u32, rn: i32, rt: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, sn, st, rb, rn, rt, comm| -> Started {
            let n = size_of(m, comm)?;
            let ((sc, sd), (rc, rd)) = (State::even(sn, n), State::even(rn, n));
            let from = Layout { address: sb, counts: &sc, displacements: &sd, datatype: st };
            let to = Layout { address: rb, counts: &rc, displacements: &rd, datatype: rt };
            let to = m.shares(&to)?;
            let from = if sb == IN_PLACE { None } else { Some(m.shares(&from)?) };
            m.alltoall(mem, f, from.as_deref(), &to, comm)
        });
    collective!(l, starters, "MPI_Alltoallv", "MPI_Ialltoallv", "MPI_Alltoallv_init", (sb: u32, sc: u32, sd: u32, st: i32, rb: u32, rc: u32, rd: u32, rt: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, sc, sd, st, rb, rc, rd, rt, comm| -> Started {
            let n = size_of(m, comm)?;
            let (rc, rd) = (ints(mem, rc, n)?, ints(mem, rd, n)?);
            let to = Layout { address: rb, counts: &rc, displacements: &rd, datatype: rt };
            let to = m.shares(&to)?;
            if sb == IN_PLACE {
                return m.alltoall(mem, f, None, &to, comm);
            }
            let (sc, sd) = (ints(mem, sc, n)?, ints(mem, sd, n)?);
            let from = Layout { address: sb, counts: &sc, displacements: &sd, datatype: st };
            let from = m.shares(&from)?;
            m.alltoall(mem, f, Some(&from), &to, comm)
        });
    collective!(l, starters, "MPI_Alltoallw", "MPI_Ialltoallw", "MPI_Alltoallw_init", (sb: u32, sc: u32, sd: u32, st: u32, rb: u32, rc: u32, rd: u32, rt: u32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, sc, sd, st, rb, rc, rd, rt, comm| -> Started {
            let n = size_of(m, comm)?;
            let to = types::buffers(mem, m, rb, n, rc, rd, rt)?;
            let from = if sb == IN_PLACE { None } else { Some(types::buffers(mem, m, sb, n, sc, sd, st)?) };
            m.alltoall(mem, f, from.as_deref(), &to, comm)
        });
    Ok(())
}

/// Collectives among the neighbours of a topology.
fn link_neighbours(l: &mut Calls<'_>, starters: &mut Starters) -> wasmtime::Result<()> {
    use communicators::neighbours;
    collective!(l, starters, "MPI_Neighbor_allgather", "MPI_Ineighbor_allgather", "MPI_Neighbor_allgather_init", (sb: u32, sn: i32, st: i32, rb: u32, rn: i32, rt: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, sn, st, rb, rn, rt, comm| -> Started {
            let (counts, displacements) = State::even(rn, neighbours(m, comm)?.0);
            let to = m.shares(&Layout { address: rb, counts: &counts, displacements: &displacements, datatype: rt })?;
            let from = m.checked(sb, sn, st)?;
            m.neighbour(mem, f, &[from], &to, comm)
        });
    collective!(l, starters, "MPI_Neighbor_allgatherv", "MPI_Ineighbor_allgatherv", "MPI_Neighbor_allgatherv_init", (sb: u32, sn: i32, st: i32, rb: u32, rc: u32, rd: u32, rt: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, sn, st, rb, rc, rd, rt, comm| -> Started {
            let n = neighbours(m, comm)?.0;
            let (counts, displacements) = (ints(mem, rc, n)?, ints(mem, rd, n)?);
            let to = m.shares(&Layout { address: rb, counts: &counts, displacements: &displacements, datatype: rt })?;
            let from = m.checked(sb, sn, st)?;
            m.neighbour(mem, f, &[from], &to, comm)
        });
    collective!(l, starters, "MPI_Neighbor_alltoall", "MPI_Ineighbor_alltoall", "MPI_Neighbor_alltoall_init", (sb: u32, sn: i32, st: i32, rb: u32, rn: i32, rt: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, sn, st, rb, rn, rt, comm| -> Started {
            let (into, out) = neighbours(m, comm)?;
            let ((sc, sd), (rc, rd)) = (State::even(sn, out), State::even(rn, into));
            let from = m.shares(&Layout { address: sb, counts: &sc, displacements: &sd, datatype: st })?;
            let to = m.shares(&Layout { address: rb, counts: &rc, displacements: &rd, datatype: rt })?;
            m.neighbour(mem, f, &from, &to, comm)
        });
    collective!(l, starters, "MPI_Neighbor_alltoallv", "MPI_Ineighbor_alltoallv", "MPI_Neighbor_alltoallv_init", (sb: u32, sc: u32, sd: u32, st: i32, rb: u32, rc: u32, rd: u32, rt: i32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, sc, sd, st, rb, rc, rd, rt, comm| -> Started {
            let (into, out) = neighbours(m, comm)?;
            let (sc, sd, rc, rd) = (ints(mem, sc, out)?, ints(mem, sd, out)?, ints(mem, rc, into)?, ints(mem, rd, into)?);
            let from = m.shares(&Layout { address: sb, counts: &sc, displacements: &sd, datatype: st })?;
            let to = m.shares(&Layout { address: rb, counts: &rc, displacements: &rd, datatype: rt })?;
            m.neighbour(mem, f, &from, &to, comm)
        });
    collective!(l, starters, "MPI_Neighbor_alltoallw", "MPI_Ineighbor_alltoallw", "MPI_Neighbor_alltoallw_init", (sb: u32, sc: u32, sd: u32, st: u32, rb: u32, rc: u32, rd: u32, rt: u32, comm: i32), comm,
        |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, sb, sc, sd, st, rb, rc, rd, rt, comm| -> Started {
            let (into, out) = neighbours(m, comm)?;
            let (from, to) = (types::buffers(mem, m, sb, out, sc, sd, st)?, types::buffers(mem, m, rb, into, rc, rd, rt)?);
            m.neighbour(mem, f, &from, &to, comm)
        });
    Ok(())
}

/// Copies a text with its closing 0 and writes its length, as MPI's string results are.
fn put_text(mem: &mut Memory<'_>, address: u32, length: u32, text: &str, max: usize) -> mpi::Result<()> {
    let text = &text.as_bytes()[..text.len().min(max - 1)];
    put(mem, address, &[text, b"\0"].concat())?;
    put_i32(mem, length, text.len() as i32)
}

fn link_environment(l: &mut Calls<'_>) -> wasmtime::Result<()> {
    /// `level`: of `MPI_THREAD_SINGLE` to `MPI_THREAD_MULTIPLE`. All can be had; a program without threads has no use for them.
    fn init(c: &mut Caller<'_, Host>, call: &str, level: i32) -> wasmtime::Result<()> {
        let Host { flags, thread, .. } = c.data_mut();
        if flags.initialized {
            return Err(wasmtime::Error::msg(format!("{call} was called twice")));
        }
        (flags.initialized, flags.level, flags.main) = (true, level, *thread);
        Ok(())
    }
    /// A call that is allowed at any time.
    fn always(c: &mut Caller<'_, Host>, f: impl FnOnce(&mut Memory<'_>, &mut Host) -> mpi::Result<()>) -> wasmtime::Result<i32> {
        let (mut mem, host) = parts(c);
        f(&mut mem, host).map(|()| 0).map_err(|e| wasmtime::Error::msg(e.message))
    }
    l.func_wrap(MODULE, "MPI_Init", |c: &mut Caller<'_, Host>, _argc: u32, _argv: u32| init(c, "MPI_Init", 0).map(|()| 0))?;
    l.func_wrap(MODULE, "MPI_Init_thread", |c: &mut Caller<'_, Host>, _argc: u32, _argv: u32, required: i32, provided: u32| {
        let level = required.clamp(0, THREAD_MULTIPLE);
        init(c, "MPI_Init_thread", level)?;
        always(c, |mem, _| put_i32(mem, provided, level))
    })?;
    l.func_wrap(MODULE, "MPI_Is_thread_main", |c: &mut Caller<'_, Host>, flag: u32| always(c, |mem, host| put_i32(mem, flag, i32::from(host.flags.main == host.thread))))?;
    l.func_wrap(MODULE, "MPI_Query_thread", |c: &mut Caller<'_, Host>, provided: u32| always(c, |mem, host| put_i32(mem, provided, host.flags.level)))?;
    l.func_wrap(MODULE, "MPI_Initialized", |c: &mut Caller<'_, Host>, flag: u32| {
        always(c, |mem, host| put_i32(mem, flag, i32::from(host.flags.initialized)))
    })?;
    l.func_wrap(MODULE, "MPI_Finalized", |c: &mut Caller<'_, Host>, flag: u32| {
        always(c, |mem, host| put_i32(mem, flag, i32::from(host.flags.finalized)))
    })?;
    l.func_wrap(MODULE, "MPI_Finalize", |c: &mut Caller<'_, Host>| {
        if c.data().mode == Mode::Running {
            ready(c, "MPI_Finalize")?;
            // As MPI says: what hangs on MPI_COMM_SELF goes first, the newest before the others.
            for comm in [mpi::comm::SELF, mpi::comm::WORLD] {
                calls::delete_attributes(c, mpi::attribute::On::Comm, comm)?;
            }
        }
        let code = block(c, "MPI_Finalize", 1, 4, |mem, m, f| Ok(Pending::Finalize { barrier: m.barrier(mem, f, mpi::comm::WORLD)? }))?;
        if c.data().mode == Mode::Running {
            c.data_mut().flags.finalized = true;
        }
        Ok(code)
    })?;
    l.func_wrap(MODULE, "MPI_Abort", |_: &mut Caller<'_, Host>, _comm: i32, code: i32| -> wasmtime::Result<i32> {
        Err(wasmtime::Error::new(End::Abort(code)))
    })?;
    l.func_wrap(MODULE, "MPI_Wtime", |_: &mut Caller<'_, Host>| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
    })?;
    l.func_wrap(MODULE, "MPI_Wtick", |_: &mut Caller<'_, Host>| 1e-9)?;
    l.func_wrap(MODULE, "MPI_Get_processor_name", |c: &mut Caller<'_, Host>, name: u32, length: u32| {
        always(c, |mem, host| put_text(mem, name, length, &host.place, 256))
    })?;
    l.func_wrap(MODULE, "MPI_Get_version", |c: &mut Caller<'_, Host>, version: u32, sub: u32| {
        always(c, |mem, _| put_i32(mem, version, 3).and_then(|()| put_i32(mem, sub, 1)))
    })?;
    l.func_wrap(MODULE, "MPI_Get_library_version", |c: &mut Caller<'_, Host>, text: u32, length: u32| {
        always(c, |mem, _| put_text(mem, text, length, concat!("CloudSkin ", env!("CARGO_PKG_VERSION")), 256))
    })?;
    l.func_wrap(MODULE, "MPI_Pcontrol", |_: &mut Caller<'_, Host>, _level: i32, _more: u32| 0)?;
    Ok(())
}

/// A text of the guest's, of at most `max` bytes.
fn text(mem: &Memory<'_>, address: u32, max: usize) -> mpi::Result<String> {
    let begin = (address as usize).min(mem.len());
    let rest = mem.bytes(begin..mem.len().min(begin + max + 1)).unwrap_or_default();
    let end = rest.iter().position(|b| *b == 0).ok_or_else(|| {
        let class = if rest.is_empty() { Class::Buffer } else { Class::Arg };
        mpi::Error::new(class, format!("the text at {address:#x} has no end within {max} bytes"))
    })?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

/// What begins persistent requests anew.
fn link_starts(l: &mut Calls<'_>, starters: Starters) -> wasmtime::Result<()> {
    let starters = Arc::new(starters);
    let start = move |mem: &mut Memory<'_>, m: &mut State, f: &Fabric, request: i32| -> mpi::Result<()> {
        let Some((call, args)) = m.prepared_collective(request)? else { return m.start(mem, f, request) };
        let starter = starters.get(call.as_str()).ok_or_else(|| mpi::Error::new(Class::Request, format!("request {request} was prepared by {call}, which is not in this version")))?;
        m.start_collective(request, |m| starter(mem, m, f, &args))
    };
    let one = start.clone();
    l.func_wrap(MODULE, "MPI_Start", move |c: &mut Caller<'_, Host>, handle: u32| {
        local(c, "MPI_Start", 1, |mem, m, f| {
            let request = get_i32(mem, handle)?;
            one(mem, m, f, request)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Startall", move |c: &mut Caller<'_, Host>, n: i32, handles: u32| {
        local(c, "MPI_Startall", 1, |mem, m, f| {
            (0..count(n)?).try_for_each(|i| {
                let request = element(mem, handles, i)?;
                start(mem, m, f, request)
            })
        })
    })?;
    Ok(())
}

/// Offers MPI to modules.
pub(crate) fn link(l: &mut Linker<Host>) -> wasmtime::Result<()> {
    let l = &mut Calls(l);
    link_environment(l)?;
    link_sends(l)?;
    link_point_to_point(l)?;
    link_requests(l)?;
    let mut starters = Starters::new();
    link_collectives(l, &mut starters)?;
    link_neighbours(l, &mut starters)?;
    link_starts(l, starters)?;
    communicators::link(l)?;
    objects::link(l)?;
    types::link(l)?;
    windows::link(l)?;
    files::link(l)?;
    sessions::link(l)
}

/// The MPI calls that a module imports and nobody offers, for a warning when it is compiled. The bytes are a module of our own linker's.
pub(crate) fn missing(wasm: &[u8]) -> wasmtime::Result<Vec<String>> {
    let mut names = std::collections::BTreeSet::new();
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        if let wasmparser::Payload::ImportSection(imports) = payload.map_err(wasmtime::Error::new)? {
            for import in imports.into_imports() {
                let import = import.map_err(wasmtime::Error::new)?;
                if import.module == MODULE {
                    names.insert(import.name.to_string());
                }
            }
        }
    }
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut offered = Linker::new(&wasmtime::Engine::default());
    link(&mut offered)?;
    Ok(names.into_iter().filter(|name| is_free(&offered, name)).collect())
}

/// A name that is taken can't be defined again, which is how a linker is asked what it has.
fn is_free(l: &Linker<Host>, name: &str) -> bool {
    l.clone().func_wrap(MODULE, name, || ()).is_ok()
}

/// Gives each MPI call that the module imports and nobody offers a body that stops the job with its name.
pub(crate) fn link_missing(l: &mut Linker<Host>, module: &Module) -> wasmtime::Result<()> {
    let mut linked = std::collections::BTreeSet::new();
    for import in module.imports().filter(|i| i.module() == MODULE) {
        let Some(ty) = import.ty().func().cloned() else { continue };
        let name = import.name().to_string();
        let stub = {
            let name = name.clone();
            move |_: Caller<'_, Host>, _: &[wasmtime::Val], _: &mut [wasmtime::Val]| -> wasmtime::Result<()> {
                Err(wasmtime::Error::msg(format!(
                    "{name} is not in this version of CloudSkin; see docs/reference/mpi.md for what is"
                )))
            }
        };
        if linked.insert(name.clone()) && is_free(l, &name) {
            l.func_new(MODULE, &name, ty, stub)?;
        }
    }
    Ok(())
}
