//! Calls that wait: what they wait for, and what is written into guest memory when it is there.
//!
//! Plain data, which travels with a cell that is stopped in the middle of such a call.

use super::{STATUS, ints, put_i32, put_status};
use crate::cell::Host;
use mpi::rank::UNDEFINED;
use mpi::{State, Status};
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
    /// The end of `MPI_Finalize`: all ranks have come, and what this one sent has arrived.
    Finalize { barrier: i32 },
    /// Nothing to wait for: a safe point in a loop.
    Poll,
    /// `MPI_Buffer_detach`: until nothing is left in the buffer. Where its address and size go.
    Detach { address: u32, size: u32 },
    /// Until so many milliseconds after 1970.
    Sleep { until_ms: u64 },
}

/// Looks for messages, and whether what is pending is complete; writes its results if so.
pub(super) fn look(mem: &mut [u8], host: &mut Host) -> mpi::Result<bool> {
    let Host { mpi, fabric, pending, .. } = host;
    let Some(pending) = pending else { return Ok(true) };
    mpi.progress(mem, fabric)?;
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
        Pending::Poll => {}
        Pending::Detach { address, size } => match mpi.detach()? {
            Some((at, len)) => {
                put_i32(mem, address, at as i32)?;
                put_i32(mem, size, len as i32)?;
            }
            None => return Ok(false),
        },
        Pending::Sleep { until_ms } => return Ok(base::clock::now_ms() >= until_ms),
    }
    Ok(true)
}

/// Takes what a complete request says. Its handle is cleared unless it is persistent.
pub(super) fn complete(mem: &mut [u8], mpi: &mut State, request: i32, handle: u32, status: u32) -> mpi::Result<()> {
    if handle != 0 && !mpi.persistent(request)? {
        put_i32(mem, handle, 0)?;
    }
    let s = mpi.finish(request)?;
    put_status(mem, status, &s)
}

/// The requests that there is something to wait for, with their places in the array.
fn active(mpi: &mut State, requests: &[i32]) -> mpi::Result<Vec<(u32, i32)>> {
    let mut found = Vec::new();
    for (i, r) in requests.iter().enumerate() {
        if mpi.active(*r)? {
            found.push((i as u32, *r));
        }
    }
    Ok(found)
}

pub(super) fn all(mem: &mut [u8], mpi: &mut State, handles: u32, count: u32, statuses: u32) -> mpi::Result<bool> {
    let requests = ints(mem, handles, count)?;
    for r in &requests {
        if !mpi.done(*r)? {
            return Ok(false);
        }
    }
    for (i, r) in requests.iter().enumerate() {
        let i = i as u32;
        complete(mem, mpi, *r, handles + 4 * i, if statuses == 0 { 0 } else { statuses + STATUS * i })?;
    }
    Ok(true)
}

pub(super) fn any(mem: &mut [u8], mpi: &mut State, handles: u32, count: u32, index: u32, status: u32) -> mpi::Result<bool> {
    let requests = ints(mem, handles, count)?;
    let active = active(mpi, &requests)?;
    if active.is_empty() {
        put_i32(mem, index, UNDEFINED)?;
        put_status(mem, status, &Status::EMPTY)?;
        return Ok(true);
    }
    for (i, r) in active {
        if mpi.done(r)? {
            put_i32(mem, index, i as i32)?;
            complete(mem, mpi, r, handles + 4 * i, status)?;
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn some(mem: &mut [u8], mpi: &mut State, handles: u32, count: u32, done: u32, indices: u32, statuses: u32) -> mpi::Result<bool> {
    let requests = ints(mem, handles, count)?;
    let active = active(mpi, &requests)?;
    if active.is_empty() {
        put_i32(mem, done, UNDEFINED)?;
        return Ok(true);
    }
    let mut n = 0;
    for (i, r) in active {
        if mpi.done(r)? {
            put_i32(mem, indices + 4 * n, i as i32)?;
            complete(mem, mpi, r, handles + 4 * i, if statuses == 0 { 0 } else { statuses + STATUS * n })?;
            n += 1;
        }
    }
    if n > 0 {
        put_i32(mem, done, n as i32)?;
    }
    Ok(n > 0)
}
