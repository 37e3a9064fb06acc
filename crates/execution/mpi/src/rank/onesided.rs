//! Accesses to windows: what an origin asks of another rank's memory, and what the target does with it.
//!
//! An origin copies its bytes out at once, so it may use its buffer again; what it reads comes as a reply, for which its arguments wait in
//! [`State`]. What can be found wrong is found at the origin, before anything is sent: it knows where each rank's memory lies. Only what is attached
//! to a dynamic window is the target's to know, and it answers an access outside of that with [`Note::Refused`].

use super::{PROC_NULL, Request, State, Work, message};
use crate::datatype::{self, Basic, Buffer};
use crate::error::{Class, Error, Result};
use crate::fabric::Fabric;
use crate::memory::Memory;
use crate::message::{Header, Kind, Rank};
use crate::op::{self, Op};
use crate::window::{At, Combine, Flavor, Handle, Note};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Bytes of sends and replies under way beyond which accesses wait.
const CROWDED: usize = 64 << 20;

/// An access that waits for its reply.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fetch {
    pub window: Handle,
    /// Rank of the window.
    pub target: u32,
    /// Where the reply goes; its datatype is held.
    pub buffer: Buffer,
    pub bytes: u32,
    /// 0: the program waits for the epoch, not for this one.
    pub request: Request,
}

/// What of a target's memory a program names, by the arguments of the MPI call.
#[derive(Clone, Copy, Debug)]
pub struct Remote {
    pub window: Handle,
    pub rank: i32,
    pub displacement: i32,
    pub count: i32,
    pub datatype: datatype::Handle,
}

/// A [`Remote`] that has been checked.
struct Aim {
    window: Handle,
    context: u32,
    to: Rank,
    target: u32,
    at: At,
    basic: Basic,
}

impl Combine {
    /// `MPI_REPLACE`, `MPI_NO_OP` or another predefined operation on numbers of this kind.
    fn new(op: i32, basic: Basic) -> Result<Combine> {
        match op {
            13 => Ok(Combine::Replace),
            14 => Ok(Combine::Nothing),
            _ => {
                let op = Op::from_handle(op)?;
                op::check(op, basic)?;
                Ok(Combine::With(op, basic))
            }
        }
    }
}

fn unequal(origin: usize, target: u32) -> Error {
    Error::new(Class::Truncate, format!("the origin's buffer has {origin} bytes and the target's {target}; both must be the same data"))
}

impl State {
    /// What a target's arguments mean. `None`: `MPI_PROC_NULL`.
    fn aim(&self, t: Remote) -> Result<Option<Aim>> {
        let w = self.windows.get(t.window)?;
        let datatype = self.types.committed(t.datatype)?;
        let count = u32::try_from(t.count).map_err(|_| Error::new(Class::Count, format!("count {} is negative", t.count)))?;
        if t.rank == PROC_NULL {
            return Ok(None);
        }
        let comm = self.comms.used(w.comm).ok_or_else(|| Error::new(Class::Win, "the window has lost its communicator"))?;
        let (to, target) = (comm.world(t.rank)?, t.rank as usize);
        if !w.open(target) {
            let text = format!("rank {target} is accessed outside of an epoch; call MPI_Win_fence, MPI_Win_start or MPI_Win_lock first");
            return Err(Error::new(Class::RmaSync, text));
        }
        let bytes = u64::from(datatype.size) * u64::from(count);
        message(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        let part = &w.parts[target];
        let address = match w.flavor {
            Flavor::Dynamic => i128::from(t.displacement as u32),
            _ => i128::from(part.base) + i128::from(t.displacement) * i128::from(part.unit),
        };
        let (low, high) = datatype.span(count);
        let outside = bytes > 0 && w.flavor != Flavor::Dynamic && (address + low < i128::from(part.base) || address + high > i128::from(part.base) + i128::from(part.size));
        let address = u32::try_from(if bytes == 0 { 0 } else { address });
        let Ok(address) = address.map_err(drop).and_then(|a| if outside { Err(()) } else { Ok(a) }) else {
            let text = format!("displacement {} with {count} elements of {} bytes is outside of the window's {} bytes at rank {target}", t.displacement, datatype.size, part.size);
            return Err(Error::new(Class::RmaRange, text));
        };
        let shape = if datatype.contiguous() { None } else { Some(Box::new(datatype.clone())) };
        let at = At { address, count, bytes: bytes as u32, shape };
        Ok(Some(Aim { window: t.window, context: w.context * 2, to, target: target as u32, at, basic: datatype.basic }))
    }

    /// Sends what a window has to say to a rank.
    pub(super) fn note(&mut self, fabric: &Fabric, to: Rank, context: u32, note: &Note, data: &[u8]) {
        let mut bytes = postcard::to_allocvec(note).expect("plain data always serialises");
        bytes.extend_from_slice(data);
        let header = Header { src: self.me, dst: to, seq: 0, context, tag: 0, kind: Kind::OneSided, token: 0 };
        self.push(fabric, header, &bytes, 0);
    }

    fn access(&mut self, fabric: &Fabric, aim: &Aim, note: &Note, data: &[u8]) -> Result<()> {
        self.note(fabric, aim.to, aim.context, note, data);
        self.windows.get_mut(aim.window)?.peers[aim.target as usize].dirty = true;
        Ok(())
    }

    /// Keeps where a reply is to go; its number.
    fn expect(&mut self, mem: usize, aim: &Aim, buffer: Buffer, wanted: bool) -> Result<(u32, Request)> {
        let room = datatype::within(mem, self.types.used(buffer.datatype)?, &buffer)?;
        if room < aim.at.bytes as usize {
            return Err(unequal(room, aim.at.bytes));
        }
        self.room(mem, aim.at.bytes as usize, false)?;
        let request = if wanted { self.add(Work::Access)? } else { 0 };
        self.types.hold(buffer.datatype);
        let id = self.fetch_next;
        self.fetch_next = id.wrapping_add(1);
        self.fetch_bytes += aim.at.bytes as usize;
        let peer = &mut self.windows.get_mut(aim.window)?.peers[aim.target as usize];
        peer.replies = peer.replies.saturating_add(1);
        self.fetches.insert(id, Fetch { window: aim.window, target: aim.target, buffer, bytes: aim.at.bytes, request });
        Ok((id, request))
    }

    /// Whether so much is under way that an access waits until targets have taken, or answered, some of it.
    pub fn crowded(&self) -> bool {
        self.outgoing_bytes.saturating_add(self.fetch_bytes) > CROWDED
    }

    /// A request of what needs no waiting for.
    fn at_once(&mut self, wanted: bool) -> Result<Request> {
        if wanted { self.add(Work::Done) } else { Ok(0) }
    }

    /// The origin's packed bytes, as many as the target's.
    fn origin<'m>(&self, mem: &'m Memory<'_>, origin: &Buffer, aim: &Aim) -> Result<Cow<'m, [u8]>> {
        let data = self.content(mem, origin)?;
        if data.len() != aim.at.bytes as usize {
            return Err(unequal(data.len(), aim.at.bytes));
        }
        Ok(data)
    }

    /// `MPI_Put`, or (`wanted`) `MPI_Rput`, whose request is complete: the bytes have been copied.
    pub fn put(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, origin: Buffer, target: Remote, wanted: bool) -> Result<Request> {
        if let Some(aim) = self.aim(target)? {
            let data = self.origin(mem, &origin, &aim)?;
            self.access(fabric, &aim, &Note::Put(aim.at.clone()), &data)?;
        }
        self.at_once(wanted)
    }

    /// `MPI_Accumulate`, `MPI_Raccumulate`
    pub fn accumulate(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, origin: Buffer, target: Remote, op: i32, wanted: bool) -> Result<Request> {
        if let Some(aim) = self.aim(target)? {
            let how = Combine::new(op, aim.basic)?;
            let data = self.origin(mem, &origin, &aim)?;
            self.access(fabric, &aim, &Note::Accumulate(aim.at.clone(), how), &data)?;
        }
        self.at_once(wanted)
    }

    /// `MPI_Get`, `MPI_Rget`
    pub fn get(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, into: Buffer, target: Remote, wanted: bool) -> Result<Request> {
        let Some(aim) = self.aim(target)? else { return self.at_once(wanted) };
        let (id, request) = self.expect(mem.len(), &aim, into, wanted)?;
        self.access(fabric, &aim, &Note::Get(aim.at.clone(), id), &[])?;
        Ok(request)
    }

    /// `MPI_Get_accumulate`, `MPI_Rget_accumulate`, `MPI_Fetch_and_op`. With `MPI_NO_OP` the origin's buffer doesn't matter.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    pub fn get_accumulate(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, origin: Option<Buffer>, result: Buffer, target: Remote, op: i32, wanted: bool) -> Result<Request> {
        let Some(aim) = self.aim(target)? else { return self.at_once(wanted) };
        let how = Combine::new(op, aim.basic)?;
        let data = match (&origin, how) {
            (Some(origin), Combine::Replace | Combine::With(..)) => self.origin(mem, origin, &aim)?.into_owned(),
            _ => Vec::new(),
        };
        let (id, request) = self.expect(mem.len(), &aim, result, wanted)?;
        self.access(fabric, &aim, &Note::Fetch(aim.at.clone(), how, id), &data)?;
        Ok(request)
    }

    /// `MPI_Compare_and_swap`: one element at each of the guest's addresses.
    pub fn compare_and_swap(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, new: u32, old: u32, result: u32, target: Remote) -> Result<()> {
        let one = |address: u32| Buffer { address, count: 1, datatype: target.datatype };
        let Some(aim) = self.aim(target)? else { return Ok(()) };
        if matches!(aim.basic, Basic::F32 | Basic::F64 | Basic::F128 | Basic::C32 | Basic::C64 | Basic::C128 | Basic::Mixed) {
            return Err(Error::new(Class::Type, "only integers and bytes can be compared and swapped"));
        }
        let mut data = self.origin(mem, &one(old), &aim)?.into_owned();
        data.extend_from_slice(&self.origin(mem, &one(new), &aim)?);
        let (id, _) = self.expect(mem.len(), &aim, one(result), false)?;
        self.access(fabric, &aim, &Note::CompareSwap(aim.at.clone(), id), &data)
    }

    /// What came before its window or file was made here.
    pub(super) fn take_kept(&mut self, mem: &mut Memory<'_>, fabric: &Fabric) -> Result<()> {
        self.fresh = false;
        let known = |s: &State, h: &Header| match h.kind {
            Kind::OneSided => s.windows.with_context(h.context / 2).is_some(),
            Kind::File => s.files.with_context(h.context / 2).is_some(),
            _ => false,
        };
        while let Some(i) = self.unexpected.iter().position(|(h, _)| known(self, h)) {
            let (header, data) = self.unexpected.remove(i).expect("the position was just found");
            self.unexpected_bytes -= super::MESSAGE_OVERHEAD + data.len();
            match header.kind {
                Kind::File => self.file_message(mem, fabric, header, &data)?,
                _ => self.one_sided(mem, fabric, header, &data)?,
            }
        }
        Ok(())
    }

    /// A message of a window.
    pub(super) fn one_sided(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, header: Header, bytes: &[u8]) -> Result<()> {
        if self.fresh {
            self.take_kept(mem, fabric)?;
        }
        let Some(window) = self.windows.with_context(header.context / 2) else {
            // Another rank has gone on from its making before this one.
            self.unexpected_bytes += super::MESSAGE_OVERHEAD + bytes.len();
            self.unexpected.push_back((header, bytes.to_vec()));
            return Ok(());
        };
        let read = postcard::take_from_bytes::<Note>(bytes).ok();
        let from = self.comms.used(self.windows.get(window)?.comm).and_then(|c| u32::try_from(c.local(header.src)).ok());
        let (Some((note, data)), Some(from)) = (read, from) else {
            return Err(Error::new(Class::Intern, format!("a message of a window from rank {} can't be read", header.src.0)));
        };
        let reply = |id: u32, data: Vec<u8>| Some((Note::Reply(id), data));
        let id = match note {
            Note::Get(_, id) | Note::Fetch(_, _, id) | Note::CompareSwap(_, id) => Some(id),
            _ => None,
        };
        let answer = match note {
            Note::Put(at) => self.store(mem, window, &at, data).map(|()| None),
            Note::Accumulate(at, how) => self.combine(mem, window, &at, how, data).map(|()| None),
            Note::Get(at, id) => self.load(mem, window, &at).map(|old| reply(id, old)),
            Note::Fetch(at, how, id) => self.load(mem, window, &at).and_then(|old| {
                self.combine(mem, window, &at, how, data)?;
                Ok(reply(id, old))
            }),
            Note::CompareSwap(at, id) => self.load(mem, window, &at).and_then(|old| {
                if data.len() != 2 * old.len() {
                    return Err(unequal(data.len() / 2, at.bytes));
                }
                let (compare, new) = data.split_at(old.len());
                if compare == old {
                    self.store(mem, window, &at, new)?;
                }
                Ok(reply(id, old))
            }),
            Note::Reply(id) => return self.replied(mem, id, Ok(data)),
            Note::Refused(id, class, text) => {
                if let Some(id) = id {
                    return self.replied(mem, id, Err((class, text)));
                }
                self.windows.get_mut(window)?.failed.get_or_insert((class, text));
                return Ok(());
            }
            other => return self.epoch_note(fabric, window, header, from, other),
        };
        match answer {
            Ok(None) => {}
            Ok(Some((note, data))) => self.note(fabric, header.src, header.context, &note, &data),
            Err(e) => self.note(fabric, header.src, header.context, &Note::Refused(id, e.class as i32, e.message), &[]),
        }
        Ok(())
    }

    /// A reply, or why there is none.
    fn replied(&mut self, mem: &mut Memory<'_>, id: u32, data: std::result::Result<&[u8], (i32, String)>) -> Result<()> {
        let Some(Fetch { window, target, buffer, bytes, request }) = self.fetches.remove(&id) else { return Ok(()) };
        self.fetch_bytes -= bytes as usize;
        let done = data.and_then(|data| {
            let t = self.types.used(buffer.datatype).map_err(|e| (e.class as i32, e.message))?;
            let room = u64::from(t.size) * u64::from(buffer.count);
            let data = &data[..data.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
            datatype::unpack(mem, t, &buffer, data).map_err(|e| (e.class as i32, e.message))
        });
        self.types.let_go(buffer.datatype);
        if let Ok(w) = self.windows.get_mut(window) {
            let peer = &mut w.peers[target as usize];
            peer.replies = peer.replies.saturating_sub(1);
            if request == 0
                && let Err(failed) = &done
            {
                w.failed.get_or_insert(failed.clone());
            }
        }
        if request != 0
            && let Ok(slot) = self.slot(request)
        {
            slot.work = Work::Done;
            if let Err((class, text)) = done {
                slot.status.error = class;
                self.failed = Some((request, text));
            }
        }
        Ok(())
    }

    /// Refuses what is not in this rank's part of a window.
    fn inside(&self, mem: usize, window: Handle, at: &At) -> Result<()> {
        let w = self.windows.get(window)?;
        let me = self.comms.used(w.comm).map_or(0, |c| c.me as usize);
        let base = i128::from(at.address);
        let (low, high) = match &at.shape {
            None => (base, base + i128::from(at.bytes)),
            Some(t) if t.sound() && u64::from(t.size) * u64::from(at.count) == u64::from(at.bytes) => {
                let (low, high) = t.span(at.count);
                (base + low, base + high)
            }
            Some(_) => return Err(Error::new(Class::Intern, "an access to a window has a damaged datatype")),
        };
        // What lies between the pieces of a dynamic window needs not be there if nothing of it is accessed.
        let each = |t: &datatype::Datatype| {
            let block = |i: u32, b: &datatype::Block| base + i128::from(i) * i128::from(t.extent) + i128::from(b.offset);
            (0..at.count).all(|i| t.blocks.iter().all(|b| w.has(me, block(i, b), block(i, b) + i128::from(b.len))))
        };
        let there = w.has(me, low, high) || w.flavor == Flavor::Dynamic && at.shape.as_deref().is_some_and(each);
        if at.bytes > 0 && (low < 0 || high > mem as i128 || !there) {
            let text = format!("bytes {low:#x} to {high:#x} are not in the window's memory at rank {me}; attach them with MPI_Win_attach first");
            return Err(Error::new(Class::RmaRange, text));
        }
        Ok(())
    }

    /// Packed bytes of this rank's memory.
    fn load(&self, mem: &mut Memory<'_>, window: Handle, at: &At) -> Result<Vec<u8>> {
        self.inside(mem.len(), window, at)?;
        match &at.shape {
            _ if at.bytes == 0 => Ok(Vec::new()),
            None => {
                let bytes = mem.bytes(at.address as usize..at.address as usize + at.bytes as usize);
                Ok(bytes.expect("`inside` has looked where it ends").into_owned())
            }
            Some(t) => datatype::pack(mem, t, &at.buffer()),
        }
    }

    fn store(&self, mem: &mut Memory<'_>, window: Handle, at: &At, data: &[u8]) -> Result<()> {
        self.inside(mem.len(), window, at)?;
        if data.len() != at.bytes as usize {
            return Err(unequal(data.len(), at.bytes));
        }
        match &at.shape {
            _ if at.bytes == 0 => {}
            None => mem.write(at.address as usize, data).expect("`inside` has looked where it ends"),
            Some(t) => datatype::unpack(mem, t, &at.buffer(), data)?,
        }
        Ok(())
    }

    fn combine(&self, mem: &mut Memory<'_>, window: Handle, at: &At, how: Combine, data: &[u8]) -> Result<()> {
        match how {
            Combine::Nothing => Ok(()),
            Combine::Replace => self.store(mem, window, at, data),
            Combine::With(op, basic) => {
                let mut now = self.load(mem, window, at)?;
                if now.len() != data.len() {
                    return Err(unequal(data.len(), at.bytes));
                }
                op::apply(op, basic, &mut now, data)?;
                self.store(mem, window, at, &now)
            }
        }
    }
}

impl At {
    fn buffer(&self) -> Buffer {
        Buffer { address: self.address, count: self.count, datatype: 0 }
    }
}
