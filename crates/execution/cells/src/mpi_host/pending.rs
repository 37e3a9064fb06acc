//! Calls that wait: what they wait for, and what is written into guest memory when it is there.
//!
//! Plain data, which travels with a cell that is stopped in the middle of such a call.

use super::{STATUS, element, files, put_i32, put_status};
use crate::cell::Host;
use crate::processes::Waiting;
use mpi::rank::UNDEFINED;
use mpi::{Memory, State, Status};
use serde::{Deserialize, Serialize};

/// A call that has begun and is not complete. Addresses are the guest's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Pending {
    /// One request; `handle`: where its handle is, or 0.
    One { request: i32, status: u32, handle: u32 },
    /// A send and a receive; the status is the receive's.
    Pair { send: i32, receive: i32, status: u32 },
    All { handles: u32, count: u32, statuses: u32 },
    Any { handles: u32, count: u32, index: u32, status: u32 },
    Some { handles: u32, count: u32, done: u32, indices: u32, statuses: u32 },
    Probe { source: i32, tag: i32, comm: i32, status: u32 },
    /// `MPI_Mprobe`: the message's handle goes to `message`.
    Match { source: i32, tag: i32, comm: i32, message: u32, status: u32 },
    /// The end of `MPI_Finalize`: all ranks have come, and what this one sent has arrived.
    Finalize { barrier: i32 },
    /// `MPI_Buffer_detach`: until nothing is left in the buffer. Where its address and size go.
    Detach { address: u32, size: u32 },
    /// An access to a window has begun; until there is room for another one.
    Room,
    /// Until so many milliseconds after 1970.
    Sleep { until_ms: u64 },
    /// No call of MPI: a thread sleeps, until it is woken or so many nanoseconds after 1970 (`threads`).
    Wait { until_ns: Option<u64> },
    /// No call of MPI: of processes, or about a pipe (`processes`).
    Process(Waiting),
}

/// Looks for messages, and whether what is pending is complete; writes its results if so.
pub(super) fn look(mem: &mut Memory<'_>, host: &mut Host) -> mpi::Result<bool> {
    if host.pending.is_none() {
        return Ok(true);
    }
    host.mpi.progress(mem, &host.fabric)?;
    files::serve(mem, host)?;
    let Host { mpi, fabric, pending, .. } = host;
    let Some(pending) = pending else { return Ok(true) };
    match *pending {
        Pending::One { request, status, handle } => {
            if !mpi.done(request)? {
                return Ok(false);
            }
            complete(mem, mpi, request, handle, status)?;
        }
        Pending::Pair { send, receive, status } => {
            if !mpi.done(send)? || !mpi.done(receive)? {
                return Ok(false);
            }
            mpi.finish(send)?;
            let s = mpi.finish(receive)?;
            put_status(mem, status, &s)?;
        }
        Pending::All { handles, count, statuses } => return all(mem, mpi, handles, count, statuses),
        Pending::Any { handles, count, index, status } => return any(mem, mpi, handles, count, index, status),
        Pending::Some { handles, count, done, indices, statuses } => {
            return some(mem, mpi, handles, count, done, indices, statuses);
        }
        Pending::Probe { source, tag, comm, status } => match mpi.probe(source, tag, comm)? {
            Some(s) => put_status(mem, status, &s)?,
            None => return Ok(false),
        },
        Pending::Match { source, tag, comm, message, status } => match mpi.match_message(source, tag, comm)? {
            Some((handle, s)) => {
                put_i32(mem, message, handle)?;
                put_status(mem, status, &s)?;
            }
            None => return Ok(false),
        },
        Pending::Finalize { barrier } => {
            let me = mpi.me;
            if barrier != 0 {
                if !mpi.done(barrier)? {
                    return Ok(false);
                }
                mpi.finish(barrier)?;
                *pending = Pending::Finalize { barrier: 0 };
            }
            return Ok(mpi.flushed() && fabric.all_acknowledged(me));
        }
        Pending::Detach { address, size } => match mpi.detach()? {
            Some((at, len)) => {
                put_i32(mem, address, at as i32)?;
                put_i32(mem, size, len as i32)?;
            }
            None => return Ok(false),
        },
        Pending::Room => return Ok(!mpi.crowded()),
        Pending::Sleep { until_ms } => return Ok(base::clock::now_ms() >= until_ms),
        // Who sleeps so is in no call of MPI, unless somebody has made its snapshot by hand.
        Pending::Wait { .. } | Pending::Process(_) => {}
    }
    Ok(true)
}

/// Takes what a complete request says. Its handle is cleared unless it is persistent.
pub(super) fn complete(mem: &mut Memory<'_>, mpi: &mut State, request: i32, handle: u32, status: u32) -> mpi::Result<()> {
    if handle != 0 && !mpi.persistent(request)? {
        put_i32(mem, handle, 0)?;
    }
    if request != 0
        && let Some(general) = mpi.general(request)
    {
        mpi.after.push((general, status));
    }
    let s = mpi.finish(request)?;
    put_status(mem, status, &s)
}

pub(super) fn all(mem: &mut Memory<'_>, mpi: &mut State, handles: u32, count: u32, statuses: u32) -> mpi::Result<bool> {
    for i in 0..count {
        if !mpi.done(element(mem, handles, i)?)? {
            return Ok(false);
        }
    }
    for i in 0..count {
        let request = element(mem, handles, i)?;
        complete(mem, mpi, request, handles + 4 * i, if statuses == 0 { 0 } else { statuses + STATUS * i })?;
    }
    Ok(true)
}

pub(super) fn any(mem: &mut Memory<'_>, mpi: &mut State, handles: u32, count: u32, index: u32, status: u32) -> mpi::Result<bool> {
    let mut active = false;
    for i in 0..count {
        let request = element(mem, handles, i)?;
        active |= mpi.active(request)?;
        if mpi.active(request)? && mpi.done(request)? {
            put_i32(mem, index, i as i32)?;
            complete(mem, mpi, request, handles + 4 * i, status)?;
            return Ok(true);
        }
    }
    if !active {
        put_i32(mem, index, UNDEFINED)?;
        put_status(mem, status, &Status::EMPTY)?;
    }
    Ok(!active)
}

pub(super) fn some(mem: &mut Memory<'_>, mpi: &mut State, handles: u32, count: u32, done: u32, indices: u32, statuses: u32) -> mpi::Result<bool> {
    let (mut active, mut n) = (false, 0);
    for i in 0..count {
        let request = element(mem, handles, i)?;
        active |= mpi.active(request)?;
        if mpi.active(request)? && mpi.done(request)? {
            put_i32(mem, indices.wrapping_add(4 * n), i as i32)?;
            complete(mem, mpi, request, handles + 4 * i, if statuses == 0 { 0 } else { statuses.wrapping_add(STATUS * n) })?;
            n += 1;
        }
    }
    if n > 0 || !active {
        put_i32(mem, done, if active { n as i32 } else { UNDEFINED })?;
    }
    Ok(n > 0 || !active)
}
