//! MPI as the guest calls it (`guests/mpi.h`): arguments in, [`mpi::State`] asked, results into guest memory.
//!
//! A call that may wait is a [`Pending`]: begun once, then looked at again and again by [`block`] until it is complete or the cell is asked to stop.
//! What is pending travels with the cell, and the same call, made again by the rewinding guest, finds it. Calls that are in the header and not
//! here stop the job with their name.

mod pending;

use crate::cell::{self, End, Host, Mode};
use mpi::collective::{IN_PLACE, Layout};
use mpi::rank::{Mode as SendMode, Prepared, UNDEFINED};
use mpi::{Class, Fabric, Rank, State, Status};
pub(crate) use pending::Pending;
use pending::{all, any, complete, look, some};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wasmtime::{Caller, Linker, Module};

const MODULE: &str = "cloudskin_mpi";
/// Longest sleep of a waiting call without being woken: bounds what a lost wake-up could cost.
const SLEEP: Duration = Duration::from_millis(5);
/// The same while something has no room to leave, of which nobody tells.
const SLEEP_FULL: Duration = Duration::from_micros(50);

/// Names of calls for telemetry; a cell's `doing` is an index here.
pub const DOING: [&str; 6] = ["compute", "MPI wait", "MPI collective", "MPI probe", "MPI_Finalize", "sleep"];

fn parts<'a>(c: &'a mut Caller<'_, Host>) -> (&'a mut [u8], &'a mut Host) {
    let memory = c.data().memory.expect("a running cell has its memory");
    memory.data_and_store_mut(c)
}

fn outside(address: u32, len: usize) -> mpi::Error {
    mpi::Error::new(Class::Buffer, format!("{len} bytes at address {address:#x} are outside of the cell's memory"))
}

fn put(mem: &mut [u8], address: u32, bytes: &[u8]) -> mpi::Result<()> {
    let at = address as usize;
    mem.get_mut(at..at.saturating_add(bytes.len())).ok_or_else(|| outside(address, bytes.len()))?.copy_from_slice(bytes);
    Ok(())
}

fn put_i32(mem: &mut [u8], address: u32, value: i32) -> mpi::Result<()> {
    put(mem, address, &value.to_le_bytes())
}

fn get_i32(mem: &[u8], address: u32) -> mpi::Result<i32> {
    let at = address as usize;
    let bytes = mem.get(at..at.saturating_add(4)).ok_or_else(|| outside(address, 4))?;
    Ok(i32::from_le_bytes(bytes.try_into().expect("four bytes")))
}

/// Element `i` of an array of ints.
fn element(mem: &[u8], array: u32, i: u32) -> mpi::Result<i32> {
    let at = u64::from(array) + 4 * u64::from(i);
    get_i32(mem, u32::try_from(at).map_err(|_| outside(array, 4 * i as usize))?)
}

/// An array of ints with an element for each rank of a communicator, or less. Bounded by the memory that it lies in before anything is allocated.
fn ints(mem: &[u8], address: u32, count: u32) -> mpi::Result<Vec<i32>> {
    let (at, len) = (address as usize, count as usize * 4);
    let bytes = mem.get(at..at.saturating_add(len)).ok_or_else(|| outside(address, len))?;
    Ok(bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().expect("four bytes"))).collect())
}

/// `MPI_Status` of `guests/mpi.h`: source, tag, error, cancelled, and the bytes as 64 bits. Address 0 is `MPI_STATUS_IGNORE`.
fn put_status(mem: &mut [u8], address: u32, s: &Status) -> mpi::Result<()> {
    if address == 0 {
        return Ok(());
    }
    let words = [s.source, s.tag, s.error, i32::from(s.cancelled)].map(i32::to_le_bytes).concat();
    put(mem, address, &words)?;
    put(mem, address + 16, &s.bytes.to_le_bytes())
}
const STATUS: u32 = 24;

fn count(n: i32) -> mpi::Result<u32> {
    u32::try_from(n).map_err(|_| mpi::Error::new(Class::Count, format!("count {n} is negative")))
}

/// What an error does: the program is told if it asked for that, else the job stops.
fn fail(c: &Caller<'_, Host>, call: &str, comm: i32, e: mpi::Error) -> wasmtime::Result<i32> {
    let comms = &c.data().mpi.comms;
    let returns = comms.get(comm).or_else(|_| comms.get(mpi::comm::WORLD)).is_ok_and(|c| c.errors_return);
    if returns {
        return Ok(e.class as i32);
    }
    Err(wasmtime::Error::msg(format!("{call}: {e}")))
}

fn ready(c: &Caller<'_, Host>, call: &str) -> wasmtime::Result<()> {
    let flags = c.data().flags;
    if c.data().control.killed() {
        return Err(wasmtime::Error::msg("killed"));
    }
    if flags.initialized && !flags.finalized {
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
    f: impl FnOnce(&mut [u8], &mut State, &Fabric) -> mpi::Result<()>,
) -> wasmtime::Result<i32> {
    ready(c, call)?;
    let (mem, host) = parts(c);
    match f(mem, &mut host.mpi, &host.fabric) {
        Ok(()) => Ok(0),
        Err(e) => fail(c, call, comm, e),
    }
}

/// A call that may wait: begins, or goes on after a rewind, until it is complete or the cell is asked to stop.
fn block(
    c: &mut Caller<'_, Host>,
    call: &str,
    comm: i32,
    doing: u32,
    begin: impl FnOnce(&mut [u8], &mut State, &Fabric) -> mpi::Result<Pending>,
) -> wasmtime::Result<i32> {
    if c.data().mode == Mode::Rewinding {
        cell::rewound(c)?;
    } else {
        ready(c, call)?;
        let (mem, host) = parts(c);
        match begin(mem, &mut host.mpi, &host.fabric) {
            Ok(pending) => host.pending = Some(pending),
            Err(e) => return fail(c, call, comm, e),
        }
    }
    match wait(c, doing)? {
        Ok(()) => Ok(0),
        Err(e) => fail(c, call, comm, e),
    }
}

/// Waits for what is pending. Comes back early, with the guest unwinding, when the cell is asked to stop.
fn wait(c: &mut Caller<'_, Host>, doing: u32) -> wasmtime::Result<mpi::Result<()>> {
    let (mem, host) = parts(c);
    let mut spins = 0;
    loop {
        match look(mem, host) {
            Ok(true) => {
                host.pending = None;
                if spins > 0 {
                    host.control.doing.store(0, Ordering::Relaxed);
                }
                return Ok(Ok(()));
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
        if host.control.stopping() && host.can_stop() {
            cell::unwind(c)?;
            return Ok(Ok(()));
        }
        if spins == 0 {
            host.control.doing.store(doing, Ordering::Relaxed);
        }
        spins += 1;
        if spins <= host.spin {
            std::hint::spin_loop();
            continue;
        }
        let (rank, fabric, control) = (host.mpi.me, &host.fabric, &host.control);
        let longest = match host.pending {
            Some(Pending::Sleep { until_ms }) => Duration::from_millis(until_ms.saturating_sub(base::clock::now_ms())).min(SLEEP),
            _ if host.mpi.flushed() => SLEEP,
            _ => SLEEP_FULL,
        };
        fabric.mailbox(rank).bell.wait(longest, || fabric.waiting(rank) || control.stopping() || control.killed());
    }
}

/// Asks once without waiting, for the test family. Lets others have the core if there was nothing and cores are shared.
fn ask(c: &mut Caller<'_, Host>, call: &str, f: impl FnOnce(&mut [u8], &mut State) -> mpi::Result<bool>) -> wasmtime::Result<i32> {
    ready(c, call)?;
    let (mem, host) = parts(c);
    let result = host.mpi.progress(mem, &host.fabric).and_then(|()| f(mem, &mut host.mpi));
    match result {
        Ok(done) => {
            if !done && host.spin == 0 {
                std::thread::yield_now();
            }
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
fn link_sends(l: &mut Linker<Host>) -> wasmtime::Result<()> {
    type Args = (u32, i32, i32, i32, i32, i32);
    let modes = [
        ("MPI_Send", "MPI_Isend", "MPI_Send_init", SendMode::Standard),
        ("MPI_Ssend", "MPI_Issend", "MPI_Ssend_init", SendMode::Synchronous),
        ("MPI_Bsend", "MPI_Ibsend", "MPI_Bsend_init", SendMode::Buffered),
        ("MPI_Rsend", "MPI_Irsend", "MPI_Rsend_init", SendMode::Standard),
    ];
    for (name, name_i, name_init, mode) in modes {
        let start = move |mem: &mut [u8], m: &mut State, f: &Fabric, (buf, n, t, to, tag, comm): Args| {
            let buffer = m.checked(buf, n, t)?;
            m.send(mem, f, buffer, to, tag, comm, mode)
        };
        l.func_wrap(MODULE, name, move |mut c: Caller<'_, Host>, buf: u32, n: i32, t: i32, to: i32, tag: i32, comm: i32| {
            block(&mut c, name, comm, 1, |mem, m, f| Ok(one(start(mem, m, f, (buf, n, t, to, tag, comm))?, 0)))
        })?;
        l.func_wrap(
            MODULE,
            name_i,
            move |mut c: Caller<'_, Host>, buf: u32, n: i32, t: i32, to: i32, tag: i32, comm: i32, request: u32| {
                local(&mut c, name_i, comm, |mem, m, f| {
                    let r = start(mem, m, f, (buf, n, t, to, tag, comm))?;
                    put_i32(mem, request, r)
                })
            },
        )?;
        l.func_wrap(
            MODULE,
            name_init,
            move |mut c: Caller<'_, Host>, buf: u32, n: i32, t: i32, to: i32, tag: i32, comm: i32, request: u32| {
                local(&mut c, name_init, comm, |mem, m, _| {
                    let buffer = m.checked(buf, n, t)?;
                    let r = m.prepare(mem, Prepared::Send { buffer, to, tag, comm, mode })?;
                    put_i32(mem, request, r)
                })
            },
        )?;
    }
    Ok(())
}

fn link_point_to_point(l: &mut Linker<Host>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Recv", |mut c: Caller<'_, Host>, buf: u32, n: i32, t: i32, from: i32, tag: i32, comm: i32, status: u32| {
        block(&mut c, "MPI_Recv", comm, 1, |mem, m, f| {
            let buffer = m.checked(buf, n, t)?;
            Ok(one(m.receive(mem, f, buffer, from, tag, comm)?, status))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Irecv", |mut c: Caller<'_, Host>, buf: u32, n: i32, t: i32, from: i32, tag: i32, comm: i32, request: u32| {
        local(&mut c, "MPI_Irecv", comm, |mem, m, f| {
            let buffer = m.checked(buf, n, t)?;
            let r = m.receive(mem, f, buffer, from, tag, comm)?;
            put_i32(mem, request, r)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Recv_init", |mut c: Caller<'_, Host>, buf: u32, n: i32, t: i32, from: i32, tag: i32, comm: i32, request: u32| {
        local(&mut c, "MPI_Recv_init", comm, |mem, m, _| {
            let buffer = m.checked(buf, n, t)?;
            let r = m.prepare(mem, Prepared::Receive { buffer, from, tag, comm })?;
            put_i32(mem, request, r)
        })
    })?;
    #[allow(clippy::type_complexity)]
    l.func_wrap(
        MODULE,
        "MPI_Sendrecv",
        |mut c: Caller<'_, Host>, sb: u32, sn: i32, st: i32, to: i32, stag: i32, rb: u32, rn: i32, rt: i32, from: i32, rtag: i32, comm: i32, status: u32| {
            block(&mut c, "MPI_Sendrecv", comm, 1, |mem, m, f| {
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
        |mut c: Caller<'_, Host>, buf: u32, n: i32, t: i32, to: i32, stag: i32, from: i32, rtag: i32, comm: i32, status: u32| {
            block(&mut c, "MPI_Sendrecv_replace", comm, 1, |mem, m, f| {
                let buffer = m.checked(buf, n, t)?;
                // The send copies the bytes out before the receive may overwrite them.
                let send = m.send(mem, f, buffer, to, stag, comm, SendMode::Standard)?;
                let receive = m.receive(mem, f, buffer, from, rtag, comm)?;
                Ok(Pending::Pair { send, receive, status })
            })
        },
    )?;
    l.func_wrap(MODULE, "MPI_Probe", |mut c: Caller<'_, Host>, source: i32, tag: i32, comm: i32, status: u32| {
        block(&mut c, "MPI_Probe", comm, 3, |_, _, _| Ok(Pending::Probe { source, tag, comm, status }))
    })?;
    l.func_wrap(MODULE, "MPI_Iprobe", |mut c: Caller<'_, Host>, source: i32, tag: i32, comm: i32, flag: u32, status: u32| {
        ask(&mut c, "MPI_Iprobe", |mem, m| {
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

fn link_requests(l: &mut Linker<Host>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Wait", |mut c: Caller<'_, Host>, handle: u32, status: u32| {
        block(&mut c, "MPI_Wait", 1, 1, |mem, _, _| Ok(Pending::One { request: get_i32(mem, handle)?, status, handle }))
    })?;
    l.func_wrap(MODULE, "MPI_Waitall", |mut c: Caller<'_, Host>, n: i32, handles: u32, statuses: u32| {
        block(&mut c, "MPI_Waitall", 1, 1, |_, _, _| Ok(Pending::All { handles, count: count(n)?, statuses }))
    })?;
    l.func_wrap(MODULE, "MPI_Waitany", |mut c: Caller<'_, Host>, n: i32, handles: u32, index: u32, status: u32| {
        block(&mut c, "MPI_Waitany", 1, 1, |_, _, _| Ok(Pending::Any { handles, count: count(n)?, index, status }))
    })?;
    l.func_wrap(MODULE, "MPI_Waitsome", |mut c: Caller<'_, Host>, n: i32, handles: u32, done: u32, indices: u32, statuses: u32| {
        block(&mut c, "MPI_Waitsome", 1, 1, |_, _, _| Ok(Pending::Some { handles, count: count(n)?, done, indices, statuses }))
    })?;
    l.func_wrap(MODULE, "MPI_Test", |mut c: Caller<'_, Host>, handle: u32, flag: u32, status: u32| {
        ask(&mut c, "MPI_Test", |mem, m| {
            let request = get_i32(mem, handle)?;
            let done = m.done(request)?;
            put_i32(mem, flag, i32::from(done))?;
            if done {
                complete(mem, m, request, handle, status)?;
            }
            Ok(done)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Testall", |mut c: Caller<'_, Host>, n: i32, handles: u32, flag: u32, statuses: u32| {
        ask(&mut c, "MPI_Testall", |mem, m| {
            let done = all(mem, m, handles, count(n)?, statuses)?;
            put_i32(mem, flag, i32::from(done))?;
            Ok(done)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Testany", |mut c: Caller<'_, Host>, n: i32, handles: u32, index: u32, flag: u32, status: u32| {
        ask(&mut c, "MPI_Testany", |mem, m| {
            put_i32(mem, index, UNDEFINED)?;
            let done = any(mem, m, handles, count(n)?, index, status)?;
            put_i32(mem, flag, i32::from(done))?;
            Ok(done)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Testsome", |mut c: Caller<'_, Host>, n: i32, handles: u32, done: u32, indices: u32, statuses: u32| {
        ask(&mut c, "MPI_Testsome", |mem, m| {
            put_i32(mem, done, 0)?;
            some(mem, m, handles, count(n)?, done, indices, statuses)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Start", |mut c: Caller<'_, Host>, handle: u32| {
        local(&mut c, "MPI_Start", 1, |mem, m, f| {
            let request = get_i32(mem, handle)?;
            m.start(mem, f, request)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Startall", |mut c: Caller<'_, Host>, n: i32, handles: u32| {
        local(&mut c, "MPI_Startall", 1, |mem, m, f| {
            (0..count(n)?).try_for_each(|i| {
                let request = element(mem, handles, i)?;
                m.start(mem, f, request)
            })
        })
    })?;
    l.func_wrap(MODULE, "MPI_Request_free", |mut c: Caller<'_, Host>, handle: u32| {
        local(&mut c, "MPI_Request_free", 1, |mem, m, _| {
            m.release(get_i32(mem, handle)?)?;
            put_i32(mem, handle, 0)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Buffer_attach", |mut c: Caller<'_, Host>, buffer: u32, size: i32| {
        local(&mut c, "MPI_Buffer_attach", 1, |mem, m, _| m.attach(mem, buffer, size))
    })?;
    l.func_wrap(MODULE, "MPI_Buffer_detach", |mut c: Caller<'_, Host>, address: u32, size: u32| {
        block(&mut c, "MPI_Buffer_detach", 1, 1, |_, _, _| Ok(Pending::Detach { address, size }))
    })?;
    l.func_wrap(MODULE, "MPI_Cancel", |mut c: Caller<'_, Host>, handle: u32| {
        local(&mut c, "MPI_Cancel", 1, |mem, m, _| m.cancel(get_i32(mem, handle)?))
    })?;
    l.func_wrap(MODULE, "MPI_Test_cancelled", |mut c: Caller<'_, Host>, status: u32, flag: u32| {
        local(&mut c, "MPI_Test_cancelled", 1, |mem, _, _| {
            let cancelled = get_i32(mem, status + 12)?;
            put_i32(mem, flag, cancelled)
        })
    })?;
    for name in ["MPI_Get_count", "MPI_Get_elements"] {
        l.func_wrap(MODULE, name, move |mut c: Caller<'_, Host>, status: u32, t: i32, into: u32| {
            local(&mut c, name, 1, |mem, m, _| {
                let (low, high) = (get_i32(mem, status + 16)? as u32, get_i32(mem, status + 20)? as u32);
                let (bytes, size) = (u64::from(low) | u64::from(high) << 32, u64::from(m.datatype(t)?.size));
                let n = match size {
                    0 => 0,
                    _ if bytes % size != 0 => UNDEFINED,
                    _ => i32::try_from(bytes / size).unwrap_or(UNDEFINED),
                };
                put_i32(mem, into, n)
            })
        })?;
    }
    Ok(())
}

/// A collective under its blocking and its non-blocking name. `$start` makes the request.
macro_rules! collective {
    ($l:ident, $name:literal, $name_i:literal, ($($arg:ident: $type:ty),*), $comm:ident, $start:expr) => {{
        $l.func_wrap(MODULE, $name, |mut c: Caller<'_, Host>, $($arg: $type),*| {
            block(&mut c, $name, $comm, 2, |mem, m, f| {
                #[allow(clippy::redundant_closure_call)]
                let request = ($start)(mem, m, f, $($arg),*)?;
                Ok(one(request, 0))
            })
        })?;
        $l.func_wrap(MODULE, $name_i, |mut c: Caller<'_, Host>, $($arg: $type,)* handle: u32| {
            local(&mut c, $name_i, $comm, |mem, m, f| {
                #[allow(clippy::redundant_closure_call)]
                let request: i32 = ($start)(mem, m, f, $($arg),*)?;
                put_i32(mem, handle, request)
            })
        })?;
    }};
}

type Started = mpi::Result<i32>;

fn size_of(m: &State, comm: i32) -> mpi::Result<u32> {
    Ok(m.comms.get(comm)?.size())
}

fn is_root(m: &State, comm: i32, root: i32) -> mpi::Result<bool> {
    Ok(m.comms.get(comm)?.me as i32 == root)
}

/// A buffer that may be `MPI_IN_PLACE`, whose count and type then don't matter.
fn maybe_in_place(m: &State, address: u32, n: i32, t: i32) -> mpi::Result<mpi::datatype::Buffer> {
    if address == IN_PLACE {
        return Ok(mpi::datatype::Buffer { address, count: 0, datatype: 4 });
    }
    m.checked(address, n, t)
}

fn link_collectives(l: &mut Linker<Host>) -> wasmtime::Result<()> {
    collective!(l, "MPI_Barrier", "MPI_Ibarrier", (comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, comm| -> Started { m.barrier(mem, f, comm) });
    collective!(l, "MPI_Bcast", "MPI_Ibcast", (buf: u32, n: i32, t: i32, root: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, buf, n, t, root, comm| -> Started {
            let buffer = m.checked(buf, n, t)?;
            m.bcast(mem, f, buffer, root, comm)
        });
    collective!(l, "MPI_Reduce", "MPI_Ireduce", (sb: u32, rb: u32, n: i32, t: i32, op: i32, root: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, rb, n, t, op, root, comm| -> Started {
            let buffer = m.checked(sb, n, t)?;
            m.reduce(mem, f, buffer, rb, op, Some(root), comm)
        });
    collective!(l, "MPI_Allreduce", "MPI_Iallreduce", (sb: u32, rb: u32, n: i32, t: i32, op: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, rb, n, t, op, comm| -> Started {
            let buffer = m.checked(sb, n, t)?;
            m.reduce(mem, f, buffer, rb, op, None, comm)
        });
    collective!(l, "MPI_Scan", "MPI_Iscan", (sb: u32, rb: u32, n: i32, t: i32, op: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, rb, n, t, op, comm| -> Started {
            let buffer = m.checked(sb, n, t)?;
            m.scan(mem, f, buffer, rb, op, false, comm)
        });
    collective!(l, "MPI_Exscan", "MPI_Iexscan", (sb: u32, rb: u32, n: i32, t: i32, op: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, rb, n, t, op, comm| -> Started {
            let buffer = m.checked(sb, n, t)?;
            m.scan(mem, f, buffer, rb, op, true, comm)
        });
    collective!(l, "MPI_Reduce_scatter_block", "MPI_Ireduce_scatter_block", (sb: u32, rb: u32, n: i32, t: i32, op: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, rb, n, t, op, comm| -> Started {
            let counts = vec![n; size_of(m, comm)? as usize];
            m.reduce_scatter(mem, f, sb, rb, &counts, t, op, comm)
        });
    collective!(l, "MPI_Reduce_scatter", "MPI_Ireduce_scatter", (sb: u32, rb: u32, counts: u32, t: i32, op: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, rb, counts, t, op, comm| -> Started {
            let counts = ints(mem, counts, size_of(m, comm)?)?;
            m.reduce_scatter(mem, f, sb, rb, &counts, t, op, comm)
        });
    collective!(l, "MPI_Gather", "MPI_Igather", (sb: u32, sn: i32, st: i32, rb: u32, rn: i32, rt: i32, root: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, sn, st, rb, rn, rt, root, comm| -> Started {
            let send = maybe_in_place(m, sb, sn, st)?;
            let (counts, displacements) = State::even(rn, size_of(m, comm)?);
            let layout = Layout { address: rb, counts: &counts, displacements: &displacements, datatype: rt };
            let root_layout = is_root(m, comm, root)?.then_some(&layout);
            m.gather(mem, f, send, root_layout, root, comm)
        });
    collective!(l, "MPI_Gatherv", "MPI_Igatherv", (sb: u32, sn: i32, st: i32, rb: u32, counts: u32, displs: u32, rt: i32, root: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, sn, st, rb, counts, displs, rt, root, comm| -> Started {
            let send = maybe_in_place(m, sb, sn, st)?;
            if !is_root(m, comm, root)? {
                return m.gather(mem, f, send, None, root, comm);
            }
            let n = size_of(m, comm)?;
            let (counts, displacements) = (ints(mem, counts, n)?, ints(mem, displs, n)?);
            let layout = Layout { address: rb, counts: &counts, displacements: &displacements, datatype: rt };
            m.gather(mem, f, send, Some(&layout), root, comm)
        });
    collective!(l, "MPI_Scatter", "MPI_Iscatter", (sb: u32, sn: i32, st: i32, rb: u32, rn: i32, rt: i32, root: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, sn, st, rb, rn, rt, root, comm| -> Started {
            let receive = maybe_in_place(m, rb, rn, rt)?;
            let (counts, displacements) = State::even(sn, size_of(m, comm)?);
            let layout = Layout { address: sb, counts: &counts, displacements: &displacements, datatype: st };
            let root_layout = is_root(m, comm, root)?.then_some(&layout);
            m.scatter(mem, f, root_layout, receive, root, comm)
        });
    collective!(l, "MPI_Scatterv", "MPI_Iscatterv", (sb: u32, counts: u32, displs: u32, st: i32, rb: u32, rn: i32, rt: i32, root: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, counts, displs, st, rb, rn, rt, root, comm| -> Started {
            let receive = maybe_in_place(m, rb, rn, rt)?;
            if !is_root(m, comm, root)? {
                return m.scatter(mem, f, None, receive, root, comm);
            }
            let n = size_of(m, comm)?;
            let (counts, displacements) = (ints(mem, counts, n)?, ints(mem, displs, n)?);
            let layout = Layout { address: sb, counts: &counts, displacements: &displacements, datatype: st };
            m.scatter(mem, f, Some(&layout), receive, root, comm)
        });
    collective!(l, "MPI_Allgather", "MPI_Iallgather", (sb: u32, sn: i32, st: i32, rb: u32, rn: i32, rt: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, sn, st, rb, rn, rt, comm| -> Started {
            let send = maybe_in_place(m, sb, sn, st)?;
            let (counts, displacements) = State::even(rn, size_of(m, comm)?);
            let layout = Layout { address: rb, counts: &counts, displacements: &displacements, datatype: rt };
            m.allgather(mem, f, send, &layout, comm)
        });
    collective!(l, "MPI_Allgatherv", "MPI_Iallgatherv", (sb: u32, sn: i32, st: i32, rb: u32, counts: u32, displs: u32, rt: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, sn, st, rb, counts, displs, rt, comm| -> Started {
            let send = maybe_in_place(m, sb, sn, st)?;
            let n = size_of(m, comm)?;
            let (counts, displacements) = (ints(mem, counts, n)?, ints(mem, displs, n)?);
            let layout = Layout { address: rb, counts: &counts, displacements: &displacements, datatype: rt };
            m.allgather(mem, f, send, &layout, comm)
        });
    collective!(l, "MPI_Alltoall", "MPI_Ialltoall", (sb: u32, sn: i32, st: i32, rb: u32, rn: i32, rt: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, sn, st, rb, rn, rt, comm| -> Started {
            let n = size_of(m, comm)?;
            let ((sc, sd), (rc, rd)) = (State::even(sn, n), State::even(rn, n));
            let from = Layout { address: sb, counts: &sc, displacements: &sd, datatype: st };
            let to = Layout { address: rb, counts: &rc, displacements: &rd, datatype: rt };
            m.alltoall(mem, f, (sb != IN_PLACE).then_some(&from), &to, comm)
        });
    collective!(l, "MPI_Alltoallv", "MPI_Ialltoallv", (sb: u32, sc: u32, sd: u32, st: i32, rb: u32, rc: u32, rd: u32, rt: i32, comm: i32), comm,
        |mem: &mut [u8], m: &mut State, f: &Fabric, sb, sc, sd, st, rb, rc, rd, rt, comm| -> Started {
            let n = size_of(m, comm)?;
            let (rc, rd) = (ints(mem, rc, n)?, ints(mem, rd, n)?);
            let to = Layout { address: rb, counts: &rc, displacements: &rd, datatype: rt };
            if sb == IN_PLACE {
                return m.alltoall(mem, f, None, &to, comm);
            }
            let (sc, sd) = (ints(mem, sc, n)?, ints(mem, sd, n)?);
            let from = Layout { address: sb, counts: &sc, displacements: &sd, datatype: st };
            m.alltoall(mem, f, Some(&from), &to, comm)
        });
    Ok(())
}

fn link_communicators(l: &mut Linker<Host>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "MPI_Comm_rank", |mut c: Caller<'_, Host>, comm: i32, into: u32| {
        local(&mut c, "MPI_Comm_rank", comm, |mem, m, _| put_i32(mem, into, m.comms.get(comm)?.me as i32))
    })?;
    l.func_wrap(MODULE, "MPI_Comm_size", |mut c: Caller<'_, Host>, comm: i32, into: u32| {
        local(&mut c, "MPI_Comm_size", comm, |mem, m, _| put_i32(mem, into, m.comms.get(comm)?.size() as i32))
    })?;
    l.func_wrap(MODULE, "MPI_Comm_dup", |mut c: Caller<'_, Host>, comm: i32, into: u32| {
        block(&mut c, "MPI_Comm_dup", comm, 2, |mem, m, f| {
            let key = m.comms.get(comm)?.me as i32;
            Ok(one(m.comm_split(mem, f, comm, 0, key, into)?, 0))
        })
    })?;
    l.func_wrap(MODULE, "MPI_Comm_split", |mut c: Caller<'_, Host>, comm: i32, color: i32, key: i32, into: u32| {
        block(&mut c, "MPI_Comm_split", comm, 2, |mem, m, f| Ok(one(m.comm_split(mem, f, comm, color, key, into)?, 0)))
    })?;
    l.func_wrap(MODULE, "MPI_Comm_free", |mut c: Caller<'_, Host>, handle: u32| {
        local(&mut c, "MPI_Comm_free", 1, |mem, m, _| {
            m.comms.free(get_i32(mem, handle)?)?;
            put_i32(mem, handle, 0)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Comm_compare", |mut c: Caller<'_, Host>, a: i32, b: i32, into: u32| {
        local(&mut c, "MPI_Comm_compare", a, |mem, m, _| {
            let (x, y) = (m.comms.get(a)?, m.comms.get(b)?);
            let sorted = |g: &[Rank]| {
                let mut g = g.to_vec();
                g.sort();
                g
            };
            let result = match () {
                _ if a == b => 0,
                _ if x.group == y.group => 1,
                _ if sorted(&x.group) == sorted(&y.group) => 2,
                _ => 3,
            };
            put_i32(mem, into, result)
        })
    })?;
    for name in ["MPI_Comm_set_errhandler", "MPI_Errhandler_set"] {
        l.func_wrap(MODULE, name, move |mut c: Caller<'_, Host>, comm: i32, handler: i32| {
            local(&mut c, name, comm, |_, m, _| {
                m.comms.get_mut(comm)?.errors_return = match handler {
                    1 => false,
                    2 => true,
                    _ => return Err(mpi::Error::new(Class::Arg, format!("error handler {handler} is not valid"))),
                };
                Ok(())
            })
        })?;
    }
    Ok(())
}

fn link_types(l: &mut Linker<Host>) -> wasmtime::Result<()> {
    macro_rules! make {
        ($name:literal, ($($arg:ident: $type:ty),*), $make:expr) => {
            l.func_wrap(MODULE, $name, |mut c: Caller<'_, Host>, $($arg: $type,)* into: u32| {
                local(&mut c, $name, 1, |mem, m, _| {
                    #[allow(clippy::redundant_closure_call)]
                    let handle: mpi::Result<i32> = ($make)(&*mem, m, $($arg),*);
                    put_i32(mem, into, handle?)
                })
            })?;
        };
    }
    make!("MPI_Type_contiguous", (n: i32, t: i32), |_: &[u8], m: &mut State, n, t| m.types.make_contiguous(n, t));
    make!("MPI_Type_vector", (n: i32, block: i32, stride: i32, t: i32), |_: &[u8], m: &mut State, n, block, stride, t| {
        m.types.make_vector(n, block, stride, false, t)
    });
    for name in ["MPI_Type_create_hvector", "MPI_Type_hvector"] {
        l.func_wrap(MODULE, name, move |mut c: Caller<'_, Host>, n: i32, block: i32, stride: i32, t: i32, into: u32| {
            local(&mut c, name, 1, |mem, m, _| {
                let handle = m.types.make_vector(n, block, stride, true, t)?;
                put_i32(mem, into, handle)
            })
        })?;
    }
    for (name, in_bytes) in [("MPI_Type_indexed", false), ("MPI_Type_create_hindexed", true)] {
        l.func_wrap(MODULE, name, move |mut c: Caller<'_, Host>, n: i32, lengths: u32, displacements: u32, t: i32, into: u32| {
            local(&mut c, name, 1, |mem, m, _| {
                let piece = |i| Ok((element(mem, lengths, i)?, element(mem, displacements, i)?, t));
                let handle = m.types.make_pieces(n, in_bytes, piece)?;
                put_i32(mem, into, handle)
            })
        })?;
    }
    for name in ["MPI_Type_create_struct", "MPI_Type_struct"] {
        l.func_wrap(MODULE, name, move |mut c: Caller<'_, Host>, n: i32, lengths: u32, displacements: u32, types: u32, into: u32| {
            local(&mut c, name, 1, |mem, m, _| {
                let piece = |i| Ok((element(mem, lengths, i)?, element(mem, displacements, i)?, element(mem, types, i)?));
                let handle = m.types.make_pieces(n, true, piece)?;
                put_i32(mem, into, handle)
            })
        })?;
    }
    make!("MPI_Type_create_resized", (t: i32, lower: i32, extent: i32), |_: &[u8], m: &mut State, t, lower, extent| {
        m.types.make_resized(t, lower, extent)
    });
    make!("MPI_Type_dup", (t: i32), |_: &[u8], m: &mut State, t| m.types.duplicate(t));
    l.func_wrap(MODULE, "MPI_Type_commit", |mut c: Caller<'_, Host>, handle: u32| {
        local(&mut c, "MPI_Type_commit", 1, |mem, m, _| m.types.commit(get_i32(mem, handle)?))
    })?;
    l.func_wrap(MODULE, "MPI_Type_free", |mut c: Caller<'_, Host>, handle: u32| {
        local(&mut c, "MPI_Type_free", 1, |mem, m, _| {
            m.types.free(get_i32(mem, handle)?)?;
            put_i32(mem, handle, 0)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Type_size", |mut c: Caller<'_, Host>, t: i32, into: u32| {
        local(&mut c, "MPI_Type_size", 1, |mem, m, _| put_i32(mem, into, m.datatype(t)?.size as i32))
    })?;
    l.func_wrap(MODULE, "MPI_Type_get_extent", |mut c: Caller<'_, Host>, t: i32, lower: u32, extent: u32| {
        local(&mut c, "MPI_Type_get_extent", 1, |mem, m, _| {
            let (l, e) = (m.datatype(t)?.lower_bound, m.datatype(t)?.extent);
            put_i32(mem, lower, l)?;
            put_i32(mem, extent, e)
        })
    })?;
    l.func_wrap(MODULE, "MPI_Get_address", |mut c: Caller<'_, Host>, location: u32, into: u32| {
        local(&mut c, "MPI_Get_address", 1, |mem, _, _| put_i32(mem, into, location as i32))
    })?;
    Ok(())
}

/// Copies a text with its closing 0 and writes its length, as MPI's string results are.
fn put_text(mem: &mut [u8], address: u32, length: u32, text: &str, max: usize) -> mpi::Result<()> {
    let text = &text.as_bytes()[..text.len().min(max - 1)];
    put(mem, address, &[text, b"\0"].concat())?;
    put_i32(mem, length, text.len() as i32)
}

fn link_environment(l: &mut Linker<Host>) -> wasmtime::Result<()> {
    fn init(c: &mut Caller<'_, Host>, call: &str) -> wasmtime::Result<()> {
        let flags = &mut c.data_mut().flags;
        if flags.initialized {
            return Err(wasmtime::Error::msg(format!("{call} was called twice")));
        }
        flags.initialized = true;
        Ok(())
    }
    /// A call that is allowed at any time.
    fn always(c: &mut Caller<'_, Host>, f: impl FnOnce(&mut [u8], &mut Host) -> mpi::Result<()>) -> wasmtime::Result<i32> {
        let (mem, host) = parts(c);
        f(mem, host).map(|()| 0).map_err(|e| wasmtime::Error::msg(e.message))
    }
    l.func_wrap(MODULE, "MPI_Init", |mut c: Caller<'_, Host>, _argc: u32, _argv: u32| init(&mut c, "MPI_Init").map(|()| 0))?;
    l.func_wrap(MODULE, "MPI_Init_thread", |mut c: Caller<'_, Host>, _argc: u32, _argv: u32, required: i32, provided: u32| {
        init(&mut c, "MPI_Init_thread")?;
        // A cell has one thread: at most MPI_THREAD_SERIALIZED can matter to it.
        always(&mut c, |mem, _| put_i32(mem, provided, required.clamp(0, 2)))
    })?;
    // The only thread of a rank is the one that called `MPI_Init`.
    l.func_wrap(MODULE, "MPI_Is_thread_main", |mut c: Caller<'_, Host>, flag: u32| always(&mut c, |mem, _| put_i32(mem, flag, 1)))?;
    l.func_wrap(MODULE, "MPI_Query_thread", |mut c: Caller<'_, Host>, provided: u32| always(&mut c, |mem, _| put_i32(mem, provided, 2)))?;
    l.func_wrap(MODULE, "MPI_Initialized", |mut c: Caller<'_, Host>, flag: u32| {
        always(&mut c, |mem, host| put_i32(mem, flag, i32::from(host.flags.initialized)))
    })?;
    l.func_wrap(MODULE, "MPI_Finalized", |mut c: Caller<'_, Host>, flag: u32| {
        always(&mut c, |mem, host| put_i32(mem, flag, i32::from(host.flags.finalized)))
    })?;
    l.func_wrap(MODULE, "MPI_Finalize", |mut c: Caller<'_, Host>| {
        let code = block(&mut c, "MPI_Finalize", 1, 4, |mem, m, f| Ok(Pending::Finalize { barrier: m.barrier(mem, f, mpi::comm::WORLD)? }))?;
        if c.data().mode == Mode::Running {
            c.data_mut().flags.finalized = true;
        }
        Ok(code)
    })?;
    l.func_wrap(MODULE, "MPI_Abort", |_: Caller<'_, Host>, _comm: i32, code: i32| -> wasmtime::Result<i32> {
        Err(wasmtime::Error::new(End::Abort(code)))
    })?;
    l.func_wrap(MODULE, "MPI_Wtime", |_: Caller<'_, Host>| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
    })?;
    l.func_wrap(MODULE, "MPI_Wtick", |_: Caller<'_, Host>| 1e-9)?;
    l.func_wrap(MODULE, "MPI_Get_processor_name", |mut c: Caller<'_, Host>, name: u32, length: u32| {
        always(&mut c, |mem, host| put_text(mem, name, length, &host.place, 256))
    })?;
    l.func_wrap(MODULE, "MPI_Get_version", |mut c: Caller<'_, Host>, version: u32, sub: u32| {
        always(&mut c, |mem, _| put_i32(mem, version, 3).and_then(|()| put_i32(mem, sub, 1)))
    })?;
    l.func_wrap(MODULE, "MPI_Get_library_version", |mut c: Caller<'_, Host>, text: u32, length: u32| {
        always(&mut c, |mem, _| put_text(mem, text, length, concat!("CloudSkin ", env!("CARGO_PKG_VERSION")), 256))
    })?;
    l.func_wrap(MODULE, "MPI_Error_string", |mut c: Caller<'_, Host>, code: i32, text: u32, length: u32| {
        always(&mut c, |mem, _| put_text(mem, text, length, Class::text(code), 512))
    })?;
    l.func_wrap(MODULE, "MPI_Error_class", |mut c: Caller<'_, Host>, code: i32, class: u32| {
        always(&mut c, |mem, _| put_i32(mem, class, code))
    })?;
    Ok(())
}

/// Offers MPI to modules.
pub(crate) fn link(l: &mut Linker<Host>) -> wasmtime::Result<()> {
    link_environment(l)?;
    link_sends(l)?;
    link_point_to_point(l)?;
    link_requests(l)?;
    link_collectives(l)?;
    link_communicators(l)?;
    link_types(l)
}

/// Gives each MPI call that the module imports and nobody offers a body that stops the job with its name.
pub(crate) fn link_missing(l: &mut Linker<Host>, module: &Module) -> wasmtime::Result<()> {
    let mut linked = std::collections::BTreeSet::new();
    for import in module.imports().filter(|i| i.module() == MODULE) {
        let Some(ty) = import.ty().func().cloned() else { continue };
        let mut probe = l.clone();
        let name = import.name().to_string();
        // A name that is taken can't be defined again, which is how a linker is asked what it has.
        let stub = {
            let name = name.clone();
            move |_: Caller<'_, Host>, _: &[wasmtime::Val], _: &mut [wasmtime::Val]| -> wasmtime::Result<()> {
                Err(wasmtime::Error::msg(format!(
                    "{name} is not in this version of CloudSkin; see docs/reference/mpi.md for what is"
                )))
            }
        };
        if linked.insert(name.clone()) && probe.func_new(MODULE, &name, ty.clone(), stub.clone()).is_ok() {
            l.func_new(MODULE, &name, ty, stub)?;
        }
    }
    Ok(())
}
