//! The short way of a blocking send or receive: no request, and the bytes go straight from a rank's memory into the ring, or out of it. Likewise a barrier and an
//! `MPI_Allreduce` of few bytes ([`Together`]): no schedule as long as nobody is late.
//!
//! Most messages are small and find room, and most receives wait for the message that comes next, so this is where the latency of short messages is made
//! (`bench pingpong`, `bench allreduce`). Whatever is out of the ordinary is left to the general way: a wrong argument, which gets its error there, a derived datatype with
//! gaps, anything under way that a call of this rank would have to look after. Nothing has happened then; a collective goes on from where it is ([`State::go_on`]).

use super::{ANY_TAG, State, Status};
use crate::comm;
use crate::datatype::{self, Basic, Buffer};
use crate::fabric::{Fabric, Place};
use crate::memory::Memory;
use crate::message::{Header, Kind, Rank};
use crate::op::{self, Op};
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

/// Bytes of an operand, and ranks, of a collective that goes the short way.
const OPERAND_MAX: usize = 64;
const TOGETHER_MAX: u32 = 64;

/// A collective that goes the short way: in each round a message to one rank and one from one rank, at twice the distance of the round before.
#[derive(Debug)]
pub struct Together {
    pub(crate) comm: comm::Handle,
    pub(crate) tag: i32,
    context: u32,
    size: u32,
    /// This rank's number in the communicator.
    me: u32,
    /// Of this round.
    pub(crate) distance: u32,
    /// This round's message has left.
    pub(crate) sent: bool,
    /// `None`: a barrier.
    pub(crate) sum: Option<Sum>,
}

/// What is combined. The sum so far lies in the receive buffer, in the rank's memory: the send buffer is read once, at the beginning. After an error the receive buffer is undefined, as
/// MPI has it.
#[derive(Debug)]
pub(crate) struct Sum {
    pub op: Op,
    pub basic: Basic,
    /// The receive buffer.
    pub into: Buffer,
    /// Bytes of an operand.
    len: usize,
}

impl Sum {
    /// In the rank's memory, which had it when this began, and never shrinks.
    pub fn place(&self) -> Range<usize> {
        let start = self.into.address as usize;
        start..start + self.len
    }
}

/// How far a [`Together`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    Done,
    /// The next message of this rank has not come.
    Waits(Rank),
    /// Something else has come, or does not go: [`State::go_on`].
    Late,
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
        let context = c.context * 2;
        tag >= 0 && self.unasked() && self.push_now(fabric, dst, context, tag, &mem[piece])
    }

    /// Numbers and sends a message to a rank that is here. `false`: it is not, or there is no room; nothing has happened.
    #[inline]
    fn push_now(&mut self, fabric: &Fabric, dst: Rank, context: u32, tag: i32, data: &[u8]) -> bool {
        if fabric.place(dst) != Place::Here {
            return false;
        }
        let seq = &mut self.seq_out[dst.index()];
        let header = Header { src: self.me, dst, seq: *seq, context, tag, kind: Kind::Data, token: 0 };
        let sent = fabric.send(&header, data);
        *seq += u64::from(sent);
        sent
    }

    /// Nothing that has come or may come concerns this rank but what it asks for now.
    #[inline]
    fn alone(&self) -> bool {
        self.unasked() && self.posted.is_empty() && self.unexpected.is_empty() && self.early.is_empty() && self.epochs.is_empty() && self.orphans.is_empty()
    }

    /// What an `MPI_Recv` with these arguments waits for, if nothing else may concern this rank meanwhile. `None`: the general way.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    #[inline]
    pub fn next(&self, mem: &Memory<'_>, fabric: &Fabric, address: u32, count: i32, datatype: datatype::Handle, from: i32, tag: i32, comm: comm::Handle) -> Option<Awaited> {
        let Memory::Own(mem) = mem else { return None };
        let c = self.comms.used(comm).filter(|c| !c.freed)?;
        let &src = usize::try_from(from).ok().and_then(|from| c.peers().get(from))?;
        let into = self.piece(mem.len(), address, count, datatype)?;
        let valid = tag >= 0 || tag == ANY_TAG;
        (valid && self.alone() && fabric.place(src) == Place::Here).then(|| Awaited {
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
        let status = self.take_next(fabric, next.src, next.seq, next.context, |header, data| {
            let into = mem.get_mut(next.into.clone())?.get_mut(..data.len()).filter(|_| next.tag.is_none_or(|t| t == header.tag))?;
            into.copy_from_slice(data);
            Some(Status { source: next.source, tag: header.tag, bytes: data.len() as u64, ..Status::EMPTY })
        })?;
        fabric.count_received(self.me, next.src, status.bytes as usize);
        Some(status)
    }

    /// The next message of `src`, if it is the one with this number and `take` says something of it.
    #[inline]
    fn take_next<T>(&mut self, fabric: &Fabric, src: Rank, seq: u64, context: u32, take: impl FnOnce(Header, &[u8]) -> Option<T>) -> Option<T> {
        let wanted = |header: &Header| header.kind == Kind::Data && header.seq == seq && header.context == context;
        let taken = fabric.take_next(src, self.me, |header, data| if wanted(&header) { take(header, data) } else { None })?;
        self.seq_in[src.index()] += 1;
        self.news += 1;
        Some(taken)
    }

    /// Begins an `MPI_Barrier`. `None`: the general way.
    #[inline]
    pub fn barrier_now(&mut self, comm: comm::Handle) -> Option<Together> {
        self.begin_together(comm, None)
    }

    /// Begins an `MPI_Allreduce` of few bytes with an operation of MPI's own. `None`: the general way; nothing has happened.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    #[inline]
    pub fn allreduce_now(&mut self, mem: &mut Memory<'_>, send: u32, receive: u32, count: i32, datatype: datatype::Handle, op: i32, comm: comm::Handle) -> Option<Together> {
        let Memory::Own(mem) = mem else { return None };
        let t = self.types.committed(datatype).ok().filter(|t| t.contiguous())?;
        let (basic, len) = (t.basic, t.size as usize * usize::try_from(count).ok()?);
        let from = if send == crate::collective::IN_PLACE { receive } else { send } as usize;
        let op = if self.ops.get(op).is_some() { return None } else { Op::from_handle(op).ok()? };
        if len == 0 || len > OPERAND_MAX || from.max(receive as usize) + len > mem.len() || !op::fits(op, basic) {
            return None;
        }
        let sum = Sum { op, basic, into: Buffer { address: receive, count: count as u32, datatype }, len };
        let together = self.begin_together(comm, Some(sum))?;
        mem.copy_within(from..from + len, receive as usize);
        Some(together)
    }

    #[inline]
    fn begin_together(&mut self, comm: comm::Handle, sum: Option<Sum>) -> Option<Together> {
        if !self.alone() || self.starting.is_some() {
            return None;
        }
        let c = self.comms.get_mut(comm).ok().filter(|c| c.remote.is_none() && c.group.len() <= TOGETHER_MAX as usize)?;
        if sum.is_some() && !c.size().is_power_of_two() {
            return None;
        }
        Some(Together { comm, tag: c.next_tag(), context: c.context * 2 + 1, size: c.size(), me: c.me, distance: 1, sent: false, sum })
    }

    /// Goes on with a collective as far as messages have come.
    #[inline]
    pub fn advance_now(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, t: &mut Together) -> Short {
        // Never so: a program of one thread that has lent nothing has its memory for itself. The general way takes either.
        let Memory::Own(mem) = mem else { return Short::Late };
        while t.distance < t.size {
            let (to, from) = match t.sum {
                Some(_) => (t.me ^ t.distance, t.me ^ t.distance),
                None => ((t.me + t.distance) % t.size, (t.me + t.size - t.distance) % t.size),
            };
            let Some(c) = self.comms.used(t.comm) else { return Short::Late };
            let (dst, src) = (c.group[to as usize], c.group[from as usize]);
            if !t.sent && !self.push_now(fabric, dst, t.context, t.tag, t.sum.as_ref().map_or(&[], |sum| &mem[sum.place()])) {
                return Short::Late;
            }
            t.sent = true;
            if fabric.place(src) != Place::Here {
                return Short::Late;
            }
            if !fabric.next_is_there(src, self.me) {
                return Short::Waits(src);
            }
            let (seq, tag, sum) = (self.seq_in[src.index()], t.tag, &t.sum);
            let taken = self.take_next(fabric, src, seq, t.context, |header, data| {
                let wanted = header.tag == tag && data.len() == sum.as_ref().map_or(0, |s| s.len);
                match sum.as_ref().filter(|_| wanted) {
                    None => wanted.then_some(0),
                    Some(sum) => {
                        let mine = &mut mem[sum.place()];
                        // The lower rank's operand comes first on both sides: both get the same bits.
                        if from < t.me {
                            let mut first = [0; OPERAND_MAX];
                            let first = &mut first[..sum.len];
                            first.copy_from_slice(data);
                            op::apply(sum.op, sum.basic, first, mine).ok()?;
                            mine.copy_from_slice(first);
                        } else {
                            op::apply(sum.op, sum.basic, mine, data).ok()?;
                        }
                        Some(sum.len)
                    }
                }
            });
            let Some(bytes) = taken else { return Short::Late };
            fabric.count_received(self.me, src, bytes);
            (t.distance, t.sent) = (t.distance * 2, false);
        }
        Short::Done
    }
}
