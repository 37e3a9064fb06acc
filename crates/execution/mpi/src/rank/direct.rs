//! The short way of a blocking send or receive: no request, and the bytes go straight from a rank's memory into the ring, or out of it.
//!
//! Most messages are small and find room, and most receives wait for the message that comes next, so this is where the latency of short messages is made
//! (`bench pingpong`). Whatever is out of the ordinary is left to the general way: a wrong argument, which gets its error there, a derived datatype with gaps, anything
//! under way that a call of this rank would have to look after. Nothing has happened then.

use super::{ANY_TAG, State, Status};
use crate::comm;
use crate::datatype;
use crate::fabric::{Fabric, Place};
use crate::memory::Memory;
use crate::message::{Header, Kind, Rank};
use crate::ring::INLINE_MAX;
use std::ops::Range;

/// What a blocking receive waits for, if it can only be the next message of one rank that is here.
#[derive(Debug)]
pub struct Awaited {
    pub src: Rank,
    /// Its number in the communicator.
    source: i32,
    context: u32,
    tag: Option<i32>,
    seq: u64,
    /// In the rank's memory.
    into: Range<usize>,
}

impl State {
    /// No call of this rank has anything to look after that others may ask for.
    #[inline]
    fn unasked(&self) -> bool {
        self.windows.is_empty() && self.files.is_empty() && self.collectives.is_empty() && self.outgoing.is_empty() && !self.fresh && !self.silent
    }

    /// Where the elements lie, if they are few and lie in one piece.
    #[inline]
    fn piece(&self, mem: usize, address: u32, count: i32, datatype: datatype::Handle) -> Option<Range<usize>> {
        let t = self.types.committed(datatype).ok().filter(|t| t.contiguous())?;
        let (start, bytes) = (address as usize, t.size as usize * usize::try_from(count).ok()?);
        (bytes <= INLINE_MAX && start + bytes <= mem).then_some(start..start + bytes)
    }

    /// `MPI_Send` of few bytes to a rank that is here and has room for them. `false`: the general way.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    #[inline]
    pub fn send_now(&mut self, mem: &Memory<'_>, fabric: &Fabric, address: u32, count: i32, datatype: datatype::Handle, to: i32, tag: i32, comm: comm::Handle) -> bool {
        let Memory::Own(mem) = mem else { return false };
        let Some(c) = self.comms.used(comm).filter(|c| !c.freed) else { return false };
        let Some(&dst) = usize::try_from(to).ok().and_then(|to| c.peers().get(to)) else { return false };
        let Some(piece) = self.piece(mem.len(), address, count, datatype) else { return false };
        if tag < 0 || !self.unasked() || fabric.place(dst) != Place::Here {
            return false;
        }
        let seq = &mut self.seq_out[dst.index()];
        let header = Header { src: self.me, dst, seq: *seq, context: c.context * 2, tag, kind: Kind::Data, token: 0 };
        let sent = fabric.send(&header, &mem[piece]);
        *seq += u64::from(sent);
        sent
    }

    /// What an `MPI_Recv` with these arguments waits for, if nothing else may concern this rank meanwhile. `None`: the general way.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    #[inline]
    pub fn next(&self, mem: &Memory<'_>, fabric: &Fabric, address: u32, count: i32, datatype: datatype::Handle, from: i32, tag: i32, comm: comm::Handle) -> Option<Awaited> {
        let Memory::Own(mem) = mem else { return None };
        let alone = self.unasked() && self.posted.is_empty() && self.unexpected.is_empty() && self.early.is_empty() && self.epochs.is_empty() && self.orphans.is_empty();
        let c = self.comms.used(comm).filter(|c| !c.freed)?;
        let &src = usize::try_from(from).ok().and_then(|from| c.peers().get(from))?;
        let into = self.piece(mem.len(), address, count, datatype)?;
        let valid = tag >= 0 || tag == ANY_TAG;
        (alone && valid && fabric.place(src) == Place::Here).then(|| Awaited {
            src,
            source: from,
            context: c.context * 2,
            tag: (tag != ANY_TAG).then_some(tag),
            seq: self.seq_in[src.index()],
            into,
        })
    }

    /// Receives that message if it is the one that has come. `None`: it is not (or does not fit), and has been left for the general way.
    #[inline]
    pub fn receive_next(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, next: &Awaited) -> Option<Status> {
        let Memory::Own(mem) = mem else { return None };
        let status = fabric.take_next(next.src, self.me, |header, data| {
            let wanted = header.kind == Kind::Data && header.seq == next.seq && header.context == next.context && next.tag.is_none_or(|t| t == header.tag);
            let into = mem.get_mut(next.into.clone())?.get_mut(..data.len()).filter(|_| wanted)?;
            into.copy_from_slice(data);
            Some(Status { source: next.source, tag: header.tag, bytes: data.len() as u64, ..Status::EMPTY })
        })?;
        self.seq_in[next.src.index()] += 1;
        self.news += 1;
        fabric.count_received(self.me, next.src, status.bytes as usize);
        Some(status)
    }
}
