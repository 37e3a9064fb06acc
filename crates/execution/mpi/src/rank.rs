//! One rank's side of MPI: communicators, datatypes, requests, and the matching of messages with receives.
//!
//! The whole of it can be written down and read back elsewhere ([`State`] is `serde`): that is what lets a rank move with requests pending. It
//! never waits. A blocking call is a request that is started here and asked about with [`State::progress`] by whoever runs the rank,
//! so the rank can be stopped between two questions. Guest memory is lent with each call ([`Memory`]); a pending receive keeps an address.
//!
//! Sends are eager: the bytes are copied out at once, so a send is complete when its message has room on its way. A persistent request is a
//! slot that keeps its arguments and is filled with the same work again at each start.
//!
//! All of this lies outside of the guest's memory, so it has bounds of its own: what waits to leave and collectives together ([`HELD_MAX`]), what
//! has come and nobody receives (`mailbox`), requests, datatypes and communicators. What a call names is compared with them, and with the guest's
//! memory, before room is made for it.

mod check;
mod create;
mod direct;
mod epoch;
mod files;
mod mailbox;
mod matched;
mod onesided;
mod persistent;

use crate::memory::Memory;
use crate::{attribute, file, window};
use crate::collective::{Call, Finish, Next, Part, Schedule};
use crate::{comm, group, info, op};
use crate::datatype::{self, Buffer};
use crate::error::{Class, Error, Result};
use crate::fabric::Fabric;
use crate::loan::Loan;
use crate::message::{Header, Kind, Rank};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub use direct::{Awaited, Short, Together};
pub use files::{Place, total};
pub use onesided::Remote;
pub use persistent::Prepared;

pub const ANY_SOURCE: i32 = -1;
pub const PROC_NULL: i32 = -2;
/// `MPI_ROOT`: this rank is the root of an inter-communicator's collective.
pub const ROOT: i32 = -3;
pub const ANY_TAG: i32 = -1;
pub const UNDEFINED: i32 = -32766;

/// Bytes of one message.
const MESSAGE_MAX: usize = 1 << 30;
/// Bytes of sends that wait for room on their way and of collectives under way; or twice the guest's memory, if that is more, so that what a single
/// call may name has room when nothing else waits.
const HELD_MAX: usize = 1 << 30;
/// What collectives may take beyond that, so that a barrier finds room where sends have left none.
const COLLECTIVES_EXTRA: usize = 64 << 20;
/// About what a message takes beside its bytes, so that empty ones are not free.
const MESSAGE_OVERHEAD: usize = 64;
/// Bytes from which on a message may be lent instead of copied (`bench pingpong`): below, its sender goes on sooner with a copy.
const LEND_MIN: u64 = 8 << 10;
/// Receives that are looked at before a message is lent.
const LEND_POSTED_MAX: usize = 16;
/// Requests of one rank.
const REQUESTS_MAX: usize = 1 << 20;
/// `MPI_BSEND_OVERHEAD` of `guests/mpi.h`: what a message takes of the attached buffer beside its bytes.
const BSEND_OVERHEAD: usize = 64;

/// A count of elements.
pub fn elements(count: i32) -> Result<u32> {
    u32::try_from(count).map_err(|_| {
        Error::new(Class::Count, match count {
            // What `guests/runtime.c` makes of a count of 64 bits.
            i32::MIN => "the count does not fit 32 bits, and a cell's memory is not larger; do it in parts".into(),
            _ => format!("count {count} is negative"),
        })
    })
}

/// Refuses what is too large for one message.
pub(crate) fn message(bytes: usize) -> Result<()> {
    if bytes > MESSAGE_MAX {
        let text = format!("a message of {bytes} bytes; {MESSAGE_MAX} are the most, so send it in parts");
        return Err(Error::new(Class::Count, text));
    }
    Ok(())
}

/// What a completed operation says about its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub source: i32,
    pub tag: i32,
    /// An error class, or 0.
    pub error: i32,
    pub bytes: u64,
    pub cancelled: bool,
}

impl Status {
    /// The status of what was no receive (MPI 4, section 3.7.3).
    pub const EMPTY: Status = Status { source: ANY_SOURCE, tag: ANY_TAG, error: 0, bytes: 0, cancelled: false };
    const NO_PROCESS: Status = Status { source: PROC_NULL, ..Status::EMPTY };
}

/// A request handle as the guest sees it; 0 is none.
pub type Request = i32;

/// When a send is complete. A ready send is a standard one here: it may be early, but its message is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// When its message has room on its way.
    Standard,
    /// When a receive has taken it.
    Synchronous,
    /// At once; what has no room on its way takes room of the attached buffer.
    Buffered,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Work {
    Send,
    Receive,
    Collective(Box<Schedule>),
    /// A message that a matched probe has taken out, until it is received.
    Matched(Box<matched::Matched>),
    /// An access to a window or file whose reply has not come.
    Access,
    /// A call of a window that waits for others, or a file that is being opened.
    Epoch(epoch::Wait),
    /// A generalized request that the program has not completed.
    General,
    Done,
    /// A persistent request that has not been started, or has been waited for since.
    Inactive,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Slot {
    work: Work,
    status: Status,
    /// Of a persistent request.
    prepared: Option<Box<Prepared>>,
    /// Of a generalized request.
    general: Option<General>,
}

/// The guest's functions of a generalized request, by their numbers in its function table, and what they are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct General {
    pub query: u32,
    pub free: u32,
    pub cancel: u32,
    pub extra: u32,
}

/// An error handler of the program's: its function, and how many handles and communicators have it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Handler {
    pub function: u32,
    pub uses: u32,
}

/// The guest's buffer for buffered sends. Only its size matters: the bytes wait here, where they can move, and never take more than it has.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Attached {
    address: u32,
    /// Bytes.
    size: usize,
    used: usize,
}

/// Where the bytes of a receive go.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Target {
    Guest { buffer: Buffer, comm: comm::Handle },
    /// Bytes `at..at + len` of buffer `buf` of a collective's schedule.
    Schedule { buf: u32, at: u32, len: u32 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Posted {
    request: Request,
    context: u32,
    source: Option<Rank>,
    tag: Option<i32>,
    target: Target,
}

impl Posted {
    fn wants(&self, header: &Header) -> bool {
        self.context == header.context
            && !matches!(header.kind, Kind::OneSided | Kind::File)
            && self.source.is_none_or(|s| s == header.src)
            && self.tag.is_none_or(|t| t == header.tag)
    }
}

/// The bytes of a message that waits for room on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Content {
    Own(Vec<u8>),
    /// Bytes `at..at + len` of buffer `buf` of the collective that its request is: it stays until this has left.
    Schedule { buf: u32, at: u32, len: u32 },
}

impl Content {
    /// What it adds to [`State::outgoing_bytes`].
    fn weight(&self) -> usize {
        MESSAGE_OVERHEAD + if let Content::Own(data) = self { data.len() } else { 0 }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Waiting {
    header: Header,
    content: Content,
    /// Who is told when it has room; 0: nobody.
    request: Request,
    /// Bytes of the attached buffer that it takes.
    buffered: usize,
}

/// One rank's MPI state. See the module for what it promises.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub me: Rank,
    pub comms: comm::Table,
    pub types: datatype::Table,
    pub groups: group::Table,
    pub infos: info::Table,
    pub attributes: attribute::Table,
    pub ops: op::Table,
    pub handlers: Vec<Option<Handler>>,
    /// Error handlers of open sessions, by handle from 1 on.
    pub sessions: Vec<Option<i32>>,
    /// Error codes that the program has added, from `MPI_ERR_LASTCODE` + 1 on: their class (0: a class itself) and text.
    pub codes: Vec<(i32, String)>,
    /// Guest address of the values that predefined attributes point to; 0: none yet.
    pub constants: u32,
    slots: Vec<Option<Slot>>,
    free: Vec<Request>,
    posted: Vec<Posted>,
    unexpected: VecDeque<(Header, Vec<u8>)>,
    /// Of `unexpected` and `early`, with [`MESSAGE_OVERHEAD`] for each.
    unexpected_bytes: usize,
    /// Next number of a message to each rank.
    seq_out: Vec<u64>,
    /// Next number expected from each rank.
    seq_in: Vec<u64>,
    /// Messages that came before their turn.
    early: BTreeMap<(Rank, u64), (Header, Vec<u8>)>,
    /// Sends without room yet, in order per receiver.
    outgoing: BTreeMap<Rank, VecDeque<Waiting>>,
    /// Bytes that `outgoing` takes.
    outgoing_bytes: usize,
    /// Bytes that collectives under way take.
    collective_bytes: usize,
    /// A probe has found nothing since the mailbox was last looked into: it waits for a message that no receive names.
    probing: bool,
    /// What is sent waits in `outgoing`, even if there is room.
    #[serde(skip)]
    silent: bool,
    /// Requests that a collective of several rounds must look at.
    collectives: Vec<Request>,
    /// Requests of [`Work::Epoch`].
    epochs: Vec<Request>,
    pub windows: window::Table,
    /// Accesses to windows whose replies have not come, by number.
    fetches: BTreeMap<u32, onesided::Fetch>,
    fetch_next: u32,
    /// Bytes of these replies.
    fetch_bytes: usize,
    pub files: file::Table,
    /// Requests of files whose replies have not come, numbered with those of windows.
    file_waits: BTreeMap<u32, files::FileWait>,
    /// What is to be done with files of this rank's.
    asks: VecDeque<file::Ask>,
    /// Descriptors of files that are gone.
    pub closed: Vec<u32>,
    /// A window or file was made, and messages for it may have come before.
    fresh: bool,
    /// Guest memory of windows that are gone, for the guest's allocator.
    pub unused: Vec<u32>,
    attached: Option<Attached>,
    /// Requests that the program has freed and that are not complete.
    orphans: Vec<Request>,
    /// Generalized requests that have just been completed, and the guest address of their status: their functions are called before the call that
    /// completed them ends.
    #[serde(skip)]
    pub after: Vec<(General, u32)>,
    /// The persistent request whose collective is being made, and its tag.
    #[serde(skip)]
    pub(crate) starting: Option<(Request, i32)>,
    /// An error found while nobody was asking; given to the next call.
    failed: Option<(i32, String)>,
    /// See [`State::news`].
    #[serde(skip)]
    news: u64,
    /// See [`State::lent`]; with the send's request.
    #[serde(skip)]
    loan: Option<(Request, Arc<Loan>)>,
}

impl State {
    pub fn new(me: Rank, size: u32) -> State {
        State {
            me,
            comms: comm::Table::new(me, size),
            types: datatype::Table::default(),
            groups: group::Table::default(),
            infos: info::Table::default(),
            attributes: attribute::Table::default(),
            ops: op::Table::default(),
            handlers: Vec::new(),
            sessions: Vec::new(),
            codes: Vec::new(),
            constants: 0,
            slots: Vec::new(),
            free: Vec::new(),
            posted: Vec::new(),
            unexpected: VecDeque::new(),
            unexpected_bytes: 0,
            seq_out: vec![0; size as usize],
            seq_in: vec![0; size as usize],
            early: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            outgoing_bytes: 0,
            collective_bytes: 0,
            probing: false,
            silent: false,
            collectives: Vec::new(),
            epochs: Vec::new(),
            windows: window::Table::default(),
            fetches: BTreeMap::new(),
            fetch_next: 0,
            fetch_bytes: 0,
            files: file::Table::default(),
            file_waits: BTreeMap::new(),
            asks: VecDeque::new(),
            closed: Vec::new(),
            fresh: false,
            unused: Vec::new(),
            attached: None,
            orphans: Vec::new(),
            after: Vec::new(),
            starting: None,
            failed: None,
            news: 0,
            loan: None,
        }
    }

    /// Grows with all that a call of another thread may wait for: what came, what left, what was completed. Who sees the same number as before needs not look.
    pub fn news(&self) -> u64 {
        self.news
    }

    #[inline]
    fn add(&mut self, work: Work) -> Result<Request> {
        let slot = Some(Slot { work, status: Status::EMPTY, prepared: None, general: None });
        if let Some(request) = self.free.pop() {
            self.slots[request as usize - 1] = slot;
            return Ok(request);
        }
        if self.slots.len() >= REQUESTS_MAX {
            return Err(Error::new(
                Class::Request,
                format!("{REQUESTS_MAX} requests are pending; complete some with MPI_Wait or MPI_Test first"),
            ));
        }
        self.slots.push(slot);
        Ok(self.slots.len() as Request)
    }

    #[inline]
    fn slot(&mut self, request: Request) -> Result<&mut Slot> {
        usize::try_from(request - 1)
            .ok()
            .and_then(|i| self.slots.get_mut(i))
            .and_then(Option::as_mut)
            .ok_or_else(|| Error::new(Class::Request, format!("request handle {request} is not valid")))
    }

    /// Whether a request is complete or has nothing to do. Does not look for new messages: see [`State::progress`].
    #[inline]
    pub fn done(&mut self, request: Request) -> Result<bool> {
        Ok(request == 0 || matches!(self.slot(request)?.work, Work::Done | Work::Inactive))
    }

    /// Whether there is anything to complete: neither no request nor an inactive persistent one.
    pub fn active(&mut self, request: Request) -> Result<bool> {
        Ok(request != 0 && !matches!(self.slot(request)?.work, Work::Inactive))
    }

    /// Whether a request keeps its handle when it is complete.
    pub fn persistent(&mut self, request: Request) -> Result<bool> {
        Ok(request != 0 && self.slot(request)?.prepared.is_some())
    }

    #[inline]
    fn reclaim(&mut self, request: Request) {
        let slot = self.slots[request as usize - 1].take();
        self.free.push(request);
        let held = slot.and_then(|s| s.prepared).map_or(Vec::new(), |p| p.held());
        held.into_iter().for_each(|t| self.types.let_go(t));
    }

    /// Takes a completed request's status and frees its handle; a persistent one becomes inactive instead.
    #[inline]
    pub fn finish(&mut self, request: Request) -> Result<Status> {
        if request == 0 {
            return Ok(Status::EMPTY);
        }
        let slot = self.slot(request)?;
        let status = std::mem::replace(&mut slot.status, Status::EMPTY);
        match slot.prepared {
            Some(_) => slot.work = Work::Inactive,
            None => self.reclaim(request),
        }
        if status.error != 0 {
            let message = match self.failed.take() {
                Some((r, message)) if r == request => message,
                other => {
                    self.failed = other;
                    Class::text(status.error).to_string()
                }
            };
            return Err(Error { class: Class::of(status.error).unwrap_or(Class::Other), message });
        }
        Ok(status)
    }

    fn tag(tag: i32) -> Result<i32> {
        if tag < 0 {
            return Err(Error::new(Class::Tag, format!("tag {tag} is negative")));
        }
        Ok(tag)
    }

    #[inline]
    fn buffer(address: u32, count: i32, datatype: datatype::Handle) -> Result<Buffer> {
        Ok(Buffer { address, count: elements(count)?, datatype })
    }

    /// Checks the arguments and makes a buffer.
    #[inline]
    pub fn checked(&self, address: u32, count: i32, datatype: datatype::Handle) -> Result<Buffer> {
        self.types.committed(datatype)?;
        Self::buffer(address, count, datatype)
    }

    /// Starts a send (`MPI_Isend`, `MPI_Issend`, `MPI_Ibsend`).
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    #[inline]
    pub fn send(
        &mut self,
        mem: &mut Memory<'_>,
        fabric: &Fabric,
        buffer: Buffer,
        to: i32,
        tag: i32,
        comm: comm::Handle,
        mode: Mode,
    ) -> Result<Request> {
        let Some(header) = self.header(to, tag, comm, mode)? else { return self.add(Work::Done) };
        if mode == Mode::Buffered {
            self.reserve(mem, fabric, &buffer)?;
        }
        let data = self.content(mem, &buffer)?;
        let request = self.add(Work::Send)?;
        self.dispatch(fabric, header, &data, request, mode);
        Ok(request)
    }

    /// [`State::send`] for who waits until the request is complete, and leaves the buffer alone until then: a large message may be lent
    /// instead of copied. Then [`State::lent`] says so, and the rank's memory is only to be reached as [`Memory::Shared`] until [`State::settle`].
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    #[inline]
    pub fn send_and_wait(
        &mut self,
        mem: &mut Memory<'_>,
        fabric: &Fabric,
        buffer: Buffer,
        to: i32,
        tag: i32,
        comm: comm::Handle,
        mode: Mode,
    ) -> Result<Request> {
        if mode == Mode::Standard
            && u64::from(buffer.count) * u64::from(self.types.used(buffer.datatype)?.size) >= LEND_MIN
            && let Some(header) = self.header(to, tag, comm, mode)?
            && header.dst != self.me
            && self.may_leave(header.dst)
            && self.undisturbed(&buffer)?
            && let Cow::Borrowed(data) = self.content(mem, &buffer)?
        {
            let data: *const [u8] = data;
            let header = Header { seq: self.seq_out[header.dst.index()], ..header };
            // SAFETY: `data` is in the rank's own memory, which stays where it is as long as the rank's call lasts: before that ends the loan is settled, as our caller
            // promises. Nobody writes it meanwhile: the program stands in the call, and what may arrive for the rank goes elsewhere (`undisturbed`).
            if let Some(loan) = unsafe { fabric.lend(&header, data) } {
                self.number(header);
                let request = self.add(Work::Send)?;
                self.loan = Some((request, loan));
                return Ok(request);
            }
        }
        self.send(mem, fabric, buffer, to, tag, comm, mode)
    }

    /// Whether nothing that is under way writes where this buffer is: no receive of these few, and nothing of which that is not seen at once.
    fn undisturbed(&self, buffer: &Buffer) -> Result<bool> {
        if !self.collectives.is_empty() || !self.windows.is_empty() || !self.files.is_empty() || self.posted.len() > LEND_POSTED_MAX {
            return Ok(false);
        }
        let span = |b: &Buffer| -> Result<(i128, i128)> {
            let (low, high) = self.types.used(b.datatype)?.span(b.count);
            Ok((i128::from(b.address) + low, i128::from(b.address) + high))
        };
        let (from, to) = span(buffer)?;
        for p in &self.posted {
            let Target::Guest { buffer, .. } = &p.target else { return Ok(false) };
            let (low, high) = span(buffer)?;
            if low < to && from < high {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a message of this rank is read where it lies, in its memory.
    #[inline]
    pub fn lent(&self) -> Option<&Arc<Loan>> {
        self.loan.as_ref().map(|(_, loan)| loan)
    }

    /// Whoever waits for a lent message waits no longer: it is copied where nobody has taken it yet, and its request is complete.
    pub fn settle(&mut self) {
        if let Some((request, loan)) = self.loan.take() {
            loan.settle();
            self.sent(request, Kind::Data);
        }
    }

    /// The envelope of a send, its arguments checked. `None`: to `MPI_PROC_NULL`.
    #[inline]
    fn header(&self, to: i32, tag: i32, comm: comm::Handle, mode: Mode) -> Result<Option<Header>> {
        let comm = self.comms.get(comm)?;
        if to == PROC_NULL {
            return Ok(None);
        }
        let kind = if mode == Mode::Synchronous { Kind::Synchronous } else { Kind::Data };
        Ok(Some(Header { src: self.me, dst: comm.world(to)?, seq: 0, context: comm.context * 2, tag: Self::tag(tag)?, kind, token: 0 }))
    }

    /// What is to be sent, in place if it lies in one piece.
    #[inline]
    fn content<'m>(&self, mem: &'m Memory<'_>, buffer: &Buffer) -> Result<Cow<'m, [u8]>> {
        let t = self.types.used(buffer.datatype)?;
        let bytes = datatype::within(mem.len(), t, buffer)?;
        message(bytes)?;
        self.room(mem.len(), bytes, false)?;
        if t.contiguous() { datatype::contiguous(mem, t, buffer) } else { datatype::pack(mem, t, buffer).map(Cow::Owned) }
    }

    /// Refuses an operation for which `bytes` would have to be kept until others have taken theirs. `mem`: bytes of the guest's memory.
    #[inline]
    pub(crate) fn room(&self, mem: usize, bytes: usize, collective: bool) -> Result<()> {
        let limit = HELD_MAX.max(mem.saturating_mul(2)) + if collective { COLLECTIVES_EXTRA } else { 0 };
        let held = self.outgoing_bytes.saturating_add(self.collective_bytes).saturating_add(self.fetch_bytes);
        if held.saturating_add(bytes) > limit {
            let text = format!("{held} bytes of sends and collectives wait for other ranks, and {bytes} more are beyond {limit}; complete some first");
            return Err(Error::new(Class::Other, text));
        }
        Ok(())
    }

    #[inline]
    fn dispatch(&mut self, fabric: &Fabric, header: Header, data: &[u8], request: Request, mode: Mode) {
        let header = Header { token: request as u32, ..header };
        if mode != Mode::Buffered {
            self.push(fabric, header, data, request);
            return;
        }
        if !self.push(fabric, header, data, 0)
            && let Some(attached) = &mut self.attached
            && let Some(waiting) = self.outgoing.get_mut(&header.dst).and_then(VecDeque::back_mut)
        {
            waiting.buffered = data.len() + BSEND_OVERHEAD;
            attached.used += waiting.buffered;
        }
        if let Ok(slot) = self.slot(request) {
            slot.work = Work::Done;
        }
    }

    /// Numbers a message and gives it to the fabric. `false`: it waits in the queue before it.
    #[inline]
    fn push(&mut self, fabric: &Fabric, header: Header, data: &[u8], request: Request) -> bool {
        let header = self.number(header);
        let gone = self.may_leave(header.dst) && fabric.send(&header, data);
        self.pushed(gone, header, request, || Content::Own(data.to_vec()))
    }

    /// [`State::push`] of a part of a collective's buffer, which is not copied.
    fn push_part(&mut self, fabric: &Fabric, header: Header, request: Request, part: &Part) {
        let header = self.number(header);
        let gone = self.may_leave(header.dst) && self.part(request, part.buf, part.at, part.len).is_some_and(|data| fabric.send(&header, data));
        self.pushed(gone, header, request, || Content::Schedule { buf: part.buf, at: part.at, len: part.len });
    }

    #[inline]
    fn number(&mut self, mut header: Header) -> Header {
        let next = &mut self.seq_out[header.dst.index()];
        header.seq = *next;
        *next += 1;
        header
    }

    /// Whether a message may go now: none is queued before it, and the rank is not about to be written down.
    #[inline]
    fn may_leave(&self, dst: Rank) -> bool {
        !self.silent && self.outgoing.get(&dst).is_none_or(VecDeque::is_empty)
    }

    #[inline]
    fn pushed(&mut self, gone: bool, header: Header, request: Request, content: impl FnOnce() -> Content) -> bool {
        if gone {
            self.sent(request, header.kind);
        } else {
            let content = content();
            self.outgoing_bytes += content.weight();
            self.outgoing.entry(header.dst).or_default().push_back(Waiting { header, content, request, buffered: 0 });
        }
        gone
    }

    /// Bytes of a buffer of a collective under way.
    fn part(&self, request: Request, buf: u32, at: u32, len: u32) -> Option<&[u8]> {
        let slot = self.slots.get(usize::try_from(request - 1).ok()?)?.as_ref()?;
        let Work::Collective(schedule) = &slot.work else { return None };
        schedule.bufs.get(buf as usize)?.get(at as usize..at as usize + len as usize)
    }

    /// `MPI_Buffer_attach`
    pub fn attach(&mut self, mem: &Memory<'_>, address: u32, size: i32) -> Result<()> {
        let size = usize::try_from(size).map_err(|_| Error::new(Class::Arg, format!("a buffer of {size} bytes can't be attached")))?;
        if let Some(a) = &self.attached {
            let text = format!("a buffer of {} bytes is attached already; call MPI_Buffer_detach first", a.size);
            return Err(Error::new(Class::Buffer, text));
        }
        if address as usize + size > mem.len() {
            let text = format!("the buffer of {size} bytes at {address:#x} reaches outside of the memory of {} bytes", mem.len());
            return Err(Error::new(Class::Buffer, text));
        }
        self.attached = Some(Attached { address, size, used: 0 });
        Ok(())
    }

    /// `MPI_Buffer_detach`: its address and size. `None`: messages in it are not on their way yet.
    pub fn detach(&mut self) -> Result<Option<(u32, u32)>> {
        match &self.attached {
            None => Err(Error::new(Class::Buffer, "no buffer is attached; call MPI_Buffer_attach first")),
            Some(a) if a.used > 0 => Ok(None),
            Some(a) => {
                let was = (a.address, a.size as u32);
                self.attached = None;
                Ok(Some(was))
            }
        }
    }

    /// Makes sure that the attached buffer has room for a message.
    fn reserve(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, buffer: &Buffer) -> Result<()> {
        let bytes = u64::from(self.types.used(buffer.datatype)?.size) * u64::from(buffer.count);
        let wanted = bytes + BSEND_OVERHEAD as u64;
        let free = |state: &State| state.attached.as_ref().map_or(0, |a| a.size - a.used) as u64;
        if wanted > free(self) {
            self.progress(mem, fabric)?;
        }
        if wanted > free(self) {
            let size = self.attached.as_ref().map_or(0, |a| a.size);
            return Err(Error::new(
                Class::Buffer,
                format!(
                    "a buffered send of {bytes} bytes takes {wanted} of the attached buffer, which has {size} bytes, {} of them free; attach a larger one",
                    free(self)
                ),
            ));
        }
        Ok(())
    }

    /// `MPI_Request_free`: the handle is gone; what has begun goes on without it.
    pub fn release(&mut self, request: Request) -> Result<()> {
        match self.slot(request)?.work {
            Work::Done | Work::Inactive => self.reclaim(request),
            Work::Matched(_) => return Err(Error::new(Class::Request, format!("request handle {request} is not valid"))),
            Work::Send | Work::Receive | Work::Collective(_) | Work::General | Work::Access | Work::Epoch(_) => self.orphans.push(request),
        }
        Ok(())
    }

    #[inline]
    fn sent(&mut self, request: Request, kind: Kind) {
        // A synchronous send is complete only when its receiver says that it has matched.
        if request == 0 || kind != Kind::Data {
            return;
        }
        if let Ok(slot) = self.slot(request) {
            match &mut slot.work {
                Work::Send => slot.work = Work::Done,
                Work::Collective(schedule) => schedule.pending -= 1,
                _ => {}
            }
        }
    }

    /// Starts a receive (`MPI_Irecv`).
    #[inline]
    pub fn receive(
        &mut self,
        mem: &mut Memory<'_>,
        fabric: &Fabric,
        buffer: Buffer,
        from: i32,
        tag: i32,
        comm: comm::Handle,
    ) -> Result<Request> {
        let Some(posted) = self.wanted(mem, buffer, from, tag, comm)? else {
            let request = self.add(Work::Done)?;
            self.slot(request)?.status = Status::NO_PROCESS;
            return Ok(request);
        };
        let request = self.add(Work::Receive)?;
        self.post(mem, fabric, Posted { request, ..posted })?;
        Ok(request)
    }

    /// What a receive asks for, its arguments checked, without its request. `None`: from `MPI_PROC_NULL`.
    #[inline]
    fn wanted(&self, mem: &mut Memory<'_>, buffer: Buffer, from: i32, tag: i32, comm: comm::Handle) -> Result<Option<Posted>> {
        let c = self.comms.get(comm)?;
        if from == PROC_NULL {
            return Ok(None);
        }
        let source = if from == ANY_SOURCE { None } else { Some(c.world(from)?) };
        let tag = if tag == ANY_TAG { None } else { Some(Self::tag(tag)?) };
        let t = self.types.used(buffer.datatype)?;
        // A wild pointer is found now, where the program can be told which call it was, and not when the message comes.
        if t.contiguous() {
            datatype::run(mem, t, &buffer)?;
        } else {
            datatype::within(mem.len(), t, &buffer)?;
        }
        Ok(Some(Posted { request: 0, context: c.context * 2, source, tag, target: Target::Guest { buffer, comm } }))
    }

    #[inline]
    fn post(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, posted: Posted) -> Result<()> {
        if let Target::Guest { buffer, .. } = &posted.target {
            self.types.hold(buffer.datatype);
        }
        if let Some(i) = self.unexpected.iter().position(|(h, _)| posted.wants(h)) {
            let (header, data) = self.unexpected.remove(i).expect("the position was just found");
            self.unexpected_bytes -= MESSAGE_OVERHEAD + data.len();
            return self.deliver(mem, fabric, posted, &header, &data);
        }
        self.posted.push(posted);
        Ok(())
    }

    /// Puts a message's bytes where its receive wants them.
    #[inline]
    fn deliver(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, posted: Posted, header: &Header, data: &[u8]) -> Result<()> {
        match posted.target {
            Target::Guest { buffer, comm } => {
                let t = self.types.used(buffer.datatype)?;
                let room = u64::from(t.size) * u64::from(buffer.count);
                let fits = data.len() as u64 <= room;
                let unpacked = datatype::unpack(mem, t, &buffer, &data[..data.len().min(room as usize)]);
                self.types.let_go(buffer.datatype);
                unpacked?;
                let source = self.comms.used(comm).map_or(-1, |c| c.local(header.src));
                self.let_go_of(comm);
                if !fits {
                    self.failed = Some((
                        posted.request,
                        format!("a message of {} bytes from rank {source} with tag {} does not fit the receive's {room} bytes", data.len(), header.tag),
                    ));
                }
                let slot = self.slot(posted.request)?;
                slot.work = Work::Done;
                slot.status = Status {
                    source,
                    tag: header.tag,
                    error: if fits { 0 } else { Class::Truncate as i32 },
                    bytes: (data.len() as u64).min(room),
                    cancelled: false,
                };
            }
            Target::Schedule { buf, at, len } => {
                let Work::Collective(schedule) = &mut self.slot(posted.request)?.work else {
                    return Err(Error::new(Class::Intern, "a collective's message came after its end"));
                };
                if data.len() != len as usize {
                    return Err(Error::new(
                        Class::Truncate,
                        format!("a collective got {} bytes where it expects {len}: the ranks' counts or datatypes differ", data.len()),
                    ));
                }
                schedule.bufs[buf as usize][at as usize..(at + len) as usize].copy_from_slice(data);
                schedule.pending -= 1;
            }
        }
        if header.kind == Kind::Synchronous {
            let back = Header { src: self.me, dst: header.src, kind: Kind::Matched, ..*header };
            self.push(fabric, back, &[], 0);
        }
        Ok(())
    }

    /// Gives back the handles of freed requests that are complete by now. An error of one is the next call's.
    fn collect_orphans(&mut self) -> Result<()> {
        let mut i = 0;
        while i < self.orphans.len() {
            let request = self.orphans[i];
            if !self.done(request)? {
                i += 1;
                continue;
            }
            self.orphans.swap_remove(i);
            let persistent = self.persistent(request)?;
            let result = self.finish(request);
            if persistent {
                self.reclaim(request);
            }
            result?;
        }
        Ok(())
    }

    fn flush(&mut self, fabric: &Fabric) -> Result<()> {
        let mut outgoing = std::mem::take(&mut self.outgoing);
        let mut result = Ok(());
        outgoing.retain(|_, queue| {
            while let Some(w) = queue.front() {
                let data = match &w.content {
                    Content::Own(data) => Some(data.as_slice()),
                    Content::Schedule { buf, at, len } => self.part(w.request, *buf, *at, *len),
                };
                let Some(data) = data else {
                    result = Err(Error::new(Class::Intern, "a collective ended before its messages had left"));
                    break;
                };
                if !fabric.send(&w.header, data) {
                    break;
                }
                let w = queue.pop_front().expect("it was just looked at");
                self.news += 1;
                self.outgoing_bytes -= w.content.weight();
                if let Some(attached) = &mut self.attached {
                    attached.used -= w.buffered;
                }
                self.sent(w.request, w.header.kind);
            }
            !queue.is_empty()
        });
        self.outgoing = outgoing;
        result
    }

    /// Nothing of this rank waits to leave it.
    #[inline]
    pub fn flushed(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// The oldest message that a receive with these arguments would take.
    pub fn probe(&mut self, from: i32, tag: i32, comm: comm::Handle) -> Result<Option<Status>> {
        let c = self.comms.get(comm)?;
        if from == PROC_NULL {
            return Ok(Some(Status::NO_PROCESS));
        }
        let source = if from == ANY_SOURCE { None } else { Some(c.world(from)?) };
        let tag = if tag == ANY_TAG { None } else { Some(Self::tag(tag)?) };
        let wanted = Posted {
            request: 0,
            context: c.context * 2,
            source,
            tag,
            target: Target::Schedule { buf: 0, at: 0, len: 0 },
        };
        let found = self.unexpected.iter().find(|(h, _)| wanted.wants(h)).map(|(h, data)| Status {
            source: c.local(h.src),
            tag: h.tag,
            bytes: data.len() as u64,
            ..Status::EMPTY
        });
        self.probing = found.is_none();
        Ok(found)
    }

    /// What a complete request says, without completing it (`MPI_Request_get_status`).
    pub fn status(&mut self, request: Request) -> Result<Status> {
        if request == 0 {
            return Ok(Status::EMPTY);
        }
        Ok(self.slot(request)?.status)
    }

    /// `MPI_Cancel` of a receive that has not been matched; anything else completes as usual.
    pub fn cancel(&mut self, request: Request) -> Result<()> {
        self.slot(request)?;
        if let Some(i) = self.posted.iter().position(|p| p.request == request) {
            let posted = self.posted.remove(i);
            if let Target::Guest { buffer, comm } = posted.target {
                self.types.let_go(buffer.datatype);
                self.let_go_of(comm);
            }
            let slot = self.slot(request)?;
            slot.work = Work::Done;
            slot.status.cancelled = true;
            self.news += 1;
        }
        Ok(())
    }

    /// Starts a collective.
    pub(crate) fn begin(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, mut schedule: Schedule) -> Result<Request> {
        let bytes = schedule.seal();
        self.room(mem.len(), bytes, true)?;
        let outputs: Vec<datatype::Handle> = schedule.outputs.iter().map(|(_, _, buffer)| buffer.datatype).chain(schedule.datatype).collect();
        let work = Work::Collective(Box::new(schedule));
        let request = match self.starting {
            Some((request, _)) => {
                self.slot(request)?.work = work;
                request
            }
            None => self.add(work)?,
        };
        // The program may free its datatypes while the collective is under way.
        outputs.into_iter().for_each(|t| self.types.hold(t));
        self.collective_bytes += bytes;
        if !self.advance(mem, fabric, request)? {
            self.collectives.push(request);
        }
        Ok(request)
    }

    fn ready(&self, request: Request) -> bool {
        matches!(&self.slots[request as usize - 1], Some(Slot { work: Work::Collective(s), .. }) if s.pending == 0 && !s.calls())
    }

    /// Runs the rounds of a collective as far as they go. `true`: it is complete.
    fn advance(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, request: Request) -> Result<bool> {
        loop {
            let Work::Collective(schedule) = &mut self.slot(request)?.work else { return Ok(true) };
            if schedule.pending > 0 {
                return Ok(false);
            }
            let round = match schedule.next()? {
                Next::Round(round) => round,
                Next::Call => return Ok(false),
                Next::End => {
                    let Slot { work, .. } = self.slot(request)?;
                    let Work::Collective(schedule) = std::mem::replace(work, Work::Done) else { return Ok(true) };
                    self.complete(mem, *schedule)?;
                    return Ok(true);
                }
            };
            let (context, tag) = round.via.unwrap_or((schedule.context, schedule.tag));
            schedule.pending = (round.sends.len() + round.receives.len()) as u32;
            for p in &round.receives {
                self.post(
                    mem,
                    fabric,
                    Posted {
                        request,
                        context,
                        source: Some(p.peer),
                        tag: Some(tag),
                        target: Target::Schedule { buf: p.buf, at: p.at, len: p.len },
                    },
                )?;
            }
            for p in &round.sends {
                let header = Header { src: self.me, dst: p.peer, seq: 0, context, tag, kind: Kind::Data, token: request as u32 };
                self.push_part(fabric, header, request, p);
            }
        }
    }

    fn complete(&mut self, mem: &mut Memory<'_>, schedule: Schedule) -> Result<()> {
        self.collective_bytes -= schedule.bytes;
        let mut result = Ok(());
        for (buf, at, buffer) in &schedule.outputs {
            result = result.and_then(|()| {
                let t = self.types.used(buffer.datatype)?;
                let len = t.size as usize * buffer.count as usize;
                let data = schedule.bufs.get(*buf as usize).and_then(|b| b.get(*at as usize..(*at as usize).checked_add(len)?));
                let data = data.ok_or_else(|| Error::new(Class::Intern, format!("a collective has no {len} bytes of datatype {}", buffer.datatype)))?;
                datatype::unpack(mem, t, buffer, data)
            });
            self.types.let_go(buffer.datatype);
        }
        schedule.datatype.into_iter().for_each(|t| self.types.let_go(t));
        result?;
        match &schedule.finish {
            Finish::Nothing => Ok(()),
            Finish::Make(make) => self.create(mem, make, &schedule.bufs),
            Finish::File(new) => self.file_made(new, schedule.bufs.first().map_or(&[], Vec::as_slice)),
            Finish::Window(new) => self.window_made(mem, new, schedule.bufs.first().map_or(&[], Vec::as_slice)),
        }
    }

    /// Whether a collective waits for a function of the guest's.
    #[inline]
    pub fn calls(&self) -> bool {
        self.collectives.iter().any(|r| matches!(&self.slots[*r as usize - 1], Some(Slot { work: Work::Collective(s), .. }) if s.calls()))
    }

    /// A function of the guest's that a collective waits for. Whoever runs the rank calls it and gives [`State::answer`].
    pub fn call(&self) -> Option<Call> {
        let waits = |r: &&Request| matches!(&self.slots[**r as usize - 1], Some(Slot { work: Work::Collective(s), .. }) if s.calls());
        let request = *self.collectives.iter().find(waits)?;
        match &self.slots[request as usize - 1] {
            Some(Slot { work: Work::Collective(s), .. }) => s.call(request),
            _ => None,
        }
    }

    /// What the function of a [`Call`] has made of its operands.
    pub fn answer(&mut self, request: Request, result: Vec<u8>) {
        if let Ok(Slot { work: Work::Collective(schedule), .. }) = self.slot(request) {
            schedule.answer(result);
            self.news += 1;
        }
    }

    /// `MPI_Comm_free`: what has begun on it goes on.
    pub fn comm_free(&mut self, handle: comm::Handle) -> Result<()> {
        self.comms.free(handle, self.waits_on(handle))
    }

    fn waits_on(&self, handle: comm::Handle) -> bool {
        self.posted.iter().any(|p| matches!(p.target, Target::Guest { comm, .. } if comm == handle))
    }

    /// A receive on this communicator has ended.
    fn let_go_of(&mut self, handle: comm::Handle) {
        if self.comms.is_freed(handle) && !self.waits_on(handle) {
            self.comms.forget(handle);
        }
    }

    /// `MPI_Isendrecv`: the request is the receive's. The send has copied its bytes, so nobody need wait for it.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    pub fn send_receive(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, out: Buffer, to: i32, send_tag: i32, into: Buffer, from: i32, tag: i32, comm: comm::Handle) -> Result<Request> {
        // The bytes leave before the receive may overwrite them.
        let send = self.send(mem, fabric, out, to, send_tag, comm, Mode::Standard)?;
        self.release(send)?;
        self.receive(mem, fabric, into, from, tag, comm)
    }

    /// Ranks of the job.
    pub fn world_size(&self) -> u32 {
        self.seq_out.len() as u32
    }

    /// How much a snapshot of this state holds of messages, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.unexpected_bytes + self.outgoing_bytes
    }
}
