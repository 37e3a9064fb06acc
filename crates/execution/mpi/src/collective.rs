//! Collectives as schedules: rounds of sends and receives over buffers of the schedule's own, and local steps between them.
//!
//! What the program gives is packed into the buffers at the start and unpacked from them at the end, so a collective under way needs nothing from
//! the program's stack and travels with the rank. A blocking collective is one that is waited for.
//!
//! | call | algorithm | rounds for p ranks |
//! | --- | --- | --- |
//! | barrier | dissemination | ⌈log₂ p⌉ |
//! | bcast, reduce | binomial tree | ⌈log₂ p⌉ |
//! | allreduce | recursive doubling; reduce and bcast if p is no power of two | log₂ p; 2⌈log₂ p⌉ |
//! | gather, scatter | linear | 1 |
//! | allgather | ring | p − 1 |
//! | alltoall | all pairs at once | 1 |
//! | scan, exscan | linear chain | p − 1 |

mod create;
mod inter;

use crate::comm::{self, Comm};
use crate::datatype::{self, Basic, Buffer, Datatype, pack, within};
use crate::error::{Class, Error, Result};
use crate::fabric::Fabric;
use crate::memory::Memory;
use crate::message::Rank;
use crate::op::{self, Op};
use crate::rank::{PROC_NULL, ROOT, Request, State, Together, message};
use serde::{Deserialize, Serialize};
use crate::window::Flavor;
use std::collections::VecDeque;

/// Tags of what is no collective of a whole communicator: those of the program's, below all that collectives have.
const GROUP_TAG: i32 = -2;
const LEADER_TAG: i32 = -0x4000_0002;
const TAG_MASK: i32 = 0x1fff_ffff;
/// `MPI_IN_PLACE` as an address.
pub const IN_PLACE: u32 = u32::MAX;

/// A part of one of the schedule's buffers, to or from a rank.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub peer: Rank,
    pub buf: u32,
    pub at: u32,
    pub len: u32,
}

/// What combines two operands.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Operator {
    Predefined(Op, Basic),
    /// A function of the guest's, on elements of a datatype.
    User { function: u32, commutes: bool, datatype: datatype::Handle },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Step {
    /// `into = into ⊕ from`; with `first`, `into = from ⊕ into`.
    Reduce { op: Operator, into: u32, from: u32, first: bool },
}

/// A function of the guest's that a collective needs called, with packed operands: `second = first ⊕ second`.
pub struct Call {
    pub request: Request,
    pub function: u32,
    pub datatype: datatype::Handle,
    pub first: Vec<u8>,
    pub second: Vec<u8>,
}

/// What a collective does next.
pub(crate) enum Next {
    Round(Round),
    /// Waits until a [`Call`] has been answered.
    Call,
    End,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Round {
    pub sends: Vec<Part>,
    pub receives: Vec<Part>,
    /// Done when all of this round has come.
    then: Vec<Step>,
    /// Context and tag, if they are not the schedule's.
    pub via: Option<(u32, i32)>,
}

/// What is left to do when the messages are through.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Finish {
    Nothing,
    Make(Box<Make>),
    Window(Box<NewWindow>),
    File(Box<NewFile>),
}

/// A file that is being opened: buffer 0 has four words of each rank, (a context, mode, 0, 0).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NewFile {
    pub file: crate::file::Handle,
    /// Group and hints.
    pub like: Comm,
}

/// A window to be made of what has come: buffer 0 has four words of each rank, (a context, base, size, unit).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NewWindow {
    pub flavor: Flavor,
    /// Guest address of the handle.
    pub into: u32,
    /// Group and hints.
    pub like: Comm,
}

/// A communicator to be made of what has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Make {
    /// Whose words lie in buffer 0, first the ranks of this side, then those of the other: (color, key, a context) each.
    pub local: Vec<Rank>,
    pub remote: Option<Vec<Rank>>,
    pub how: How,
    /// Guest address of the handle.
    pub into: u32,
    /// What the new one has of the old: error handler, topology, hints.
    pub like: Comm,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum How {
    /// Those of one color, by key.
    Split { color: i32 },
    /// A split of one color whose handle the program has already.
    Keep { handle: comm::Handle },
    /// Both sides in one; the color is `high`.
    Merge,
    /// An inter-communicator: buffer `context` begins with its context, buffer 1 has (after four bytes) the number of the other side's ranks and these.
    Inter { context: u32 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Schedule {
    pub context: u32,
    pub tag: i32,
    pub bufs: Vec<Vec<u8>>,
    pub outputs: Vec<(u32, u32, Buffer)>,
    /// A datatype that steps need, held.
    pub datatype: Option<datatype::Handle>,
    pub finish: Finish,
    /// What it takes while it is under way: see [`Schedule::seal`].
    pub bytes: usize,
    /// Messages of the present round that have not come or gone.
    pub pending: u32,
    rounds: VecDeque<Round>,
    after: VecDeque<Step>,
}

impl Schedule {
    /// Called when it is complete as a plan: counts what it takes. About, but the same number on each machine.
    pub(crate) fn seal(&mut self) -> usize {
        let parts: usize = self.rounds.iter().map(|r| 5 + r.sends.len() + r.receives.len() + r.then.len()).sum();
        let made = match &self.finish {
            Finish::Nothing => 0,
            Finish::Make(m) => 256 + 4 * (2 * m.local.len() + m.remote.as_ref().map_or(0, Vec::len)) + crate::info::cost(&m.like.hints),
            Finish::Window(w) => 256 + 64 * w.like.group.len() + crate::info::cost(&w.like.hints),
            Finish::File(f) => 256 + 64 * f.like.group.len() + crate::info::cost(&f.like.hints),
        };
        self.bytes = 256 + 16 * (parts + 2 * self.outputs.len()) + self.data_bytes() + made;
        self.bytes
    }

    fn data_bytes(&self) -> usize {
        self.bufs.iter().map(|b| 24 + b.len()).sum()
    }

    /// Whether bytes `at..at + len` of buffer `buf` are there.
    pub(crate) fn has(&self, buf: u32, at: u32, len: u32) -> bool {
        self.bufs.get(buf as usize).is_some_and(|b| u64::from(at) + u64::from(len) <= b.len() as u64)
    }

    /// Whether a schedule that was read from elsewhere stays within its buffers and its job of `size` ranks.
    pub(crate) fn check(&self, size: u32) -> Result<()> {
        let wrong = |text: &str| Err(Error::new(Class::Intern, format!("a collective {text}")));
        let length = |buf: u32| self.bufs.get(buf as usize).map(Vec::len);
        let steps = self.rounds.iter().flat_map(|r| &r.then).chain(&self.after);
        for step in steps {
            let Step::Reduce { into, from, .. } = *step;
            // Operands of one length: so the steps change no buffer's.
            if into == from || length(into).is_none() || length(into) != length(from) {
                return wrong("combines buffers that it does not have");
            }
        }
        for part in self.rounds.iter().flat_map(|r| r.sends.iter().chain(&r.receives)) {
            if part.peer.0 >= size || !self.has(part.buf, part.at, part.len) {
                return wrong("sends or receives what it does not have");
            }
        }
        if self.bytes < self.data_bytes() {
            return wrong("takes more than it says");
        }
        let like = match &self.finish {
            Finish::Window(new) => Some(&new.like),
            Finish::File(new) => Some(&new.like),
            _ => None,
        };
        if like.is_some_and(|like| like.group.iter().any(|r| r.0 >= size) || self.bufs.first().is_none_or(|b| b.len() != 16 * like.group.len())) {
            return wrong("makes a window or file of ranks that are not there");
        }
        if let Finish::Make(make) = &self.finish {
            let all = || make.local.iter().chain(make.remote.iter().flatten());
            if all().any(|r| r.0 >= size) || make.like.topology.as_ref().is_some_and(|t| t.check(make.local.len() as u32).is_err()) {
                return wrong("makes a communicator of ranks that are not there");
            }
            let wanted = match make.how {
                How::Inter { context } => self.bufs.len() >= 2 && self.has(context, 0, 4) && self.bufs[1].len() == 8 + 4 * size as usize,
                _ => self.bufs.first().is_some_and(|b| b.len() == 12 * all().count()),
            };
            if !wanted {
                return wrong("makes a communicator of nothing");
            }
        }
        Ok(())
    }

    /// Whether it waits for a function of the guest's.
    pub fn calls(&self) -> bool {
        self.pending == 0 && matches!(self.after.front(), Some(Step::Reduce { op: Operator::User { .. }, .. }))
    }

    /// The operands of the function that it waits for.
    pub fn call(&self, request: Request) -> Option<Call> {
        let Some(Step::Reduce { op: Operator::User { function, datatype, .. }, into, from, first }) = self.after.front().copied() else { return None };
        let (a, b) = if first { (from, into) } else { (into, from) };
        let operand = |buf: u32| self.bufs.get(buf as usize).cloned();
        Some(Call { request, function, datatype, first: operand(a)?, second: operand(b)? })
    }

    /// What the function has made of its operands.
    pub fn answer(&mut self, result: Vec<u8>) {
        if let Some(Step::Reduce { into, .. }) = self.after.pop_front()
            && let Some(buf) = self.bufs.get_mut(into as usize)
            && buf.len() == result.len()
        {
            *buf = result;
        }
    }

    /// Ends the present round and gives the next.
    pub fn next(&mut self) -> Result<Next> {
        while let Some(step) = self.after.front().copied() {
            let Step::Reduce { op, into, from, first } = step;
            if self.bufs[into as usize].is_empty() {
                self.after.pop_front();
                continue;
            }
            let Operator::Predefined(op, basic) = op else { return Ok(Next::Call) };
            self.after.pop_front();
            let mut a = std::mem::take(&mut self.bufs[into as usize]);
            let done = if first {
                let mut b = self.bufs[from as usize].clone();
                let done = op::apply(op, basic, &mut b, &a);
                a = b;
                done
            } else {
                op::apply(op, basic, &mut a, &self.bufs[from as usize])
            };
            // Also after an error: the rounds to come rely on its length.
            self.bufs[into as usize] = a;
            done?;
        }
        let Some(mut round) = self.rounds.pop_front() else { return Ok(Next::End) };
        self.after = std::mem::take(&mut round.then).into();
        Ok(Next::Round(round))
    }
}

/// Where each rank's share lies in a buffer of a `v` collective: counts and displacements in elements.
pub struct Layout<'a> {
    pub address: u32,
    pub counts: &'a [i32],
    pub displacements: &'a [i32],
    pub datatype: i32,
}

/// A schedule being written, with what it needs of the communicator at hand.
struct Plan {
    comm: Comm,
    schedule: Schedule,
    /// Bytes that its buffers take.
    bytes: usize,
}

impl Plan {
    fn size(&self) -> u32 {
        self.comm.size()
    }
    fn peer(&self, rank: u32) -> Rank {
        self.comm.group[rank as usize]
    }
    /// The other side of an inter-communicator.
    fn remote(&self) -> Option<Vec<Rank>> {
        self.comm.remote.clone()
    }
    fn whole(&self, peer: Rank, buf: u32) -> Part {
        Part { peer, buf, at: 0, len: self.len(buf) as u32 }
    }
    fn buf(&mut self, data: Vec<u8>) -> u32 {
        self.schedule.bufs.push(data);
        self.schedule.bufs.len() as u32 - 1
    }
    fn len(&self, buf: u32) -> usize {
        self.schedule.bufs[buf as usize].len()
    }
    fn part(&self, rank: u32, buf: u32) -> Part {
        Part { peer: self.peer(rank), buf, at: 0, len: self.len(buf) as u32 }
    }
    fn round(&mut self, round: Round) {
        self.schedule.rounds.push_back(round);
    }

    /// Shares of `len` bytes, one for each rank, go around until all have all.
    fn circulate(&mut self, buf: u32, len: u32) {
        let (n, me) = (self.size(), self.comm.me);
        for step in 0..n.saturating_sub(1) {
            let part = |peer: Rank, of: u32| Part { peer, buf, at: len * of, len };
            let sends = vec![part(self.peer((me + 1) % n), (me + n - step) % n)];
            let receives = vec![part(self.peer((me + n - 1) % n), (me + 2 * n - step - 1) % n)];
            self.round(Round { sends, receives, ..Round::default() });
        }
    }

    /// Binomial tree from `root`: who sends to whom in which order, for the rank with number `relative` after `root`.
    fn bcast(&mut self, root: u32, buf: u32) {
        let (n, me) = (self.size(), self.comm.me);
        let relative = (me + n - root) % n;
        let mut mask = 1;
        while mask < n {
            if relative & mask != 0 {
                let from = self.part((me + n - mask) % n, buf);
                self.round(Round { receives: vec![from], ..Round::default() });
                break;
            }
            mask <<= 1;
        }
        mask >>= 1;
        let mut sends = Vec::new();
        while mask > 0 {
            if relative + mask < n {
                sends.push(self.part((me + mask) % n, buf));
            }
            mask >>= 1;
        }
        self.round(Round { sends, ..Round::default() });
    }

    /// Whether this rank is sent anything in a reduction: to all (`None`) or towards a root.
    fn combines(&self, root: Option<u32>) -> bool {
        let n = self.size();
        match root {
            None if n.is_power_of_two() => n > 1,
            _ => {
                let relative = (self.comm.me + n - root.unwrap_or(0)) % n;
                relative.is_multiple_of(2) && relative + 1 < n
            }
        }
    }

    /// Binomial tree towards `root`. The order of operands depends on the number of ranks only, so a sum is the same at each run.
    /// `incoming`: a buffer as large as `buf` where it [`Plan::combines`]; each round has done with it when the next begins.
    fn reduce(&mut self, root: u32, buf: u32, incoming: u32, op: Operator) {
        let (n, me) = (self.size(), self.comm.me);
        let relative = (me + n - root) % n;
        let mut mask = 1;
        while mask < n {
            if relative & mask != 0 {
                let to = self.part((relative - mask + root) % n, buf);
                self.round(Round { sends: vec![to], ..Round::default() });
                return;
            }
            if relative + mask < n {
                let from = self.part((relative + mask + root) % n, incoming);
                let then = vec![Step::Reduce { op, into: buf, from: incoming, first: false }];
                self.round(Round { receives: vec![from], then, ..Round::default() });
            }
            mask <<= 1;
        }
    }

    fn allreduce(&mut self, buf: u32, incoming: u32, op: Operator) {
        if !self.size().is_power_of_two() {
            self.reduce(0, buf, incoming, op);
            return self.bcast(0, buf);
        }
        self.double(buf, incoming, op, 1);
    }

    /// Recursive doubling from the partner at this distance on; the number of ranks is a power of two.
    fn double(&mut self, buf: u32, incoming: u32, op: Operator, mut mask: u32) {
        let (n, me) = (self.size(), self.comm.me);
        while mask < n {
            let other = me ^ mask;
            // The lower rank's operand comes first on both sides: both get the same bits.
            let then = vec![Step::Reduce { op, into: buf, from: incoming, first: other < me }];
            let round =
                Round { sends: vec![self.part(other, buf)], receives: vec![self.part(other, incoming)], then, via: None };
            self.round(round);
            mask <<= 1;
        }
    }

    /// Each rank hears of all others, directly or by those that heard before: from this distance on.
    fn disseminate(&mut self, empty: u32, mut distance: u32) {
        let (n, me) = (self.size(), self.comm.me);
        while distance < n {
            let (to, from) = (self.part((me + distance) % n, empty), self.part((me + n - distance) % n, empty));
            self.round(Round { sends: vec![to], receives: vec![from], ..Round::default() });
            distance *= 2;
        }
    }
}

impl State {
    fn plan(&mut self, comm: comm::Handle) -> Result<Plan> {
        let tag = match self.starting {
            Some((_, tag)) => tag,
            None => self.comms.get_mut(comm)?.next_tag(),
        };
        self.plan_with(comm, tag)
    }

    fn plan_with(&self, comm: comm::Handle, tag: i32) -> Result<Plan> {
        let c = self.comms.get(comm)?;
        Ok(Plan {
            comm: c.clone(),
            schedule: Schedule {
                context: c.context * 2 + 1,
                tag,
                bufs: Vec::new(),
                outputs: Vec::new(),
                datatype: None,
                finish: Finish::Nothing,
                bytes: 0,
                pending: 0,
                rounds: VecDeque::new(),
                after: VecDeque::new(),
            },
            bytes: 0,
        })
    }

    fn root(plan: &Plan, root: i32) -> Result<u32> {
        match u32::try_from(root) {
            Ok(r) if r < plan.size() => Ok(r),
            _ => Err(Error::new(
                Class::Root,
                format!("root {root} is not in this communicator of {} ranks", plan.size()),
            )),
        }
    }

    /// What a program asks for is compared with what there is room for before any is made.
    fn claim(&self, mem: &Memory<'_>, plan: &mut Plan, bytes: usize) -> Result<()> {
        message(bytes)?;
        plan.bytes += bytes;
        self.room(mem.len(), plan.bytes, true)
    }

    /// A plan's buffer of zeros.
    fn zeros(&self, mem: &Memory<'_>, plan: &mut Plan, bytes: usize) -> Result<u32> {
        self.claim(mem, plan, bytes)?;
        Ok(plan.buf(vec![0; bytes]))
    }

    /// A plan's buffer with what lies in the program's.
    fn packed(&self, mem: &mut Memory<'_>, plan: &mut Plan, buffer: &Buffer) -> Result<u32> {
        let bytes = self.bytes(mem, buffer)?;
        self.claim(mem, plan, bytes)?;
        Ok(plan.buf(pack(mem, self.types.committed(buffer.datatype)?, buffer)?))
    }

    /// A plan's buffer for what will lie in the program's.
    fn incoming(&self, mem: &Memory<'_>, plan: &mut Plan, buffer: Buffer) -> Result<u32> {
        let bytes = self.bytes(mem, &buffer)?;
        let buf = self.zeros(mem, plan, bytes)?;
        plan.schedule.outputs.push((buf, 0, buffer));
        Ok(buf)
    }

    /// At the end, a plan's buffer goes to the program's, from byte `at` on.
    fn output(&self, mem: &Memory<'_>, plan: &mut Plan, buf: u32, at: u32, buffer: Buffer) -> Result<()> {
        self.bytes(mem, &buffer)?;
        plan.schedule.outputs.push((buf, at, buffer));
        Ok(())
    }

    /// Packed bytes of a buffer of the program's, all of which lies in its memory.
    fn bytes(&self, mem: &Memory<'_>, buffer: &Buffer) -> Result<usize> {
        within(mem.len(), self.types.committed(buffer.datatype)?, buffer)
    }

    /// The `i`-th share of a layout.
    fn share(&self, layout: &Layout<'_>, i: u32) -> Result<Buffer> {
        let t = self.types.committed(layout.datatype)?;
        let offset = i64::from(layout.displacements[i as usize]) * i64::from(t.extent);
        let address = u32::try_from(i64::from(layout.address) + offset).map_err(|_| {
            Error::new(Class::Buffer, format!("displacement {} reaches outside of memory", layout.displacements[i as usize]))
        })?;
        self.checked(address, layout.counts[i as usize], layout.datatype)
    }

    pub fn barrier(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, comm: comm::Handle) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let empty = plan.buf(Vec::new());
        if let Some(remote) = plan.remote() {
            let all: Vec<Part> = remote.iter().map(|r| plan.whole(*r, empty)).collect();
            plan.round(Round { sends: all.clone(), receives: all, ..Round::default() });
            return self.begin(mem, fabric, plan.schedule);
        }
        plan.disseminate(empty, 1);
        self.begin(mem, fabric, plan.schedule)
    }

    /// What a collective that went the short way has left to do, because a rank is late.
    pub fn go_on(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, together: Together) -> Result<Request> {
        let mut plan = self.plan_with(together.comm, together.tag)?;
        match together.sum {
            Some(sum) => {
                let operand = mem.bytes(sum.place()).expect("the operand's place was checked").into_owned();
                let incoming = plan.buf(vec![0; operand.len()]);
                let buf = plan.buf(operand);
                plan.schedule.outputs.push((buf, 0, sum.into));
                plan.double(buf, incoming, Operator::Predefined(sum.op, sum.basic), together.distance);
            }
            None => {
                let empty = plan.buf(Vec::new());
                plan.disseminate(empty, together.distance);
            }
        }
        if together.sent && let Some(round) = plan.schedule.rounds.front_mut() {
            round.sends.clear();
        }
        self.begin(mem, fabric, plan.schedule)
    }

    pub fn bcast(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, buffer: Buffer, root: i32, comm: comm::Handle) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        if let Some(remote) = plan.remote() {
            match root {
                PROC_NULL => {}
                ROOT => {
                    let buf = self.packed(mem, &mut plan, &buffer)?;
                    let sends = remote.iter().map(|r| plan.whole(*r, buf)).collect();
                    plan.round(Round { sends, ..Round::default() });
                }
                _ => {
                    let from = plan.comm.world(root)?;
                    let buf = self.incoming(mem, &mut plan, buffer)?;
                    let receives = vec![plan.whole(from, buf)];
                    plan.round(Round { receives, ..Round::default() });
                }
            }
            return self.begin(mem, fabric, plan.schedule);
        }
        let root = Self::root(&plan, root)?;
        let mine = plan.comm.me == root;
        let buf = if mine { self.packed(mem, &mut plan, &buffer)? } else { self.incoming(mem, &mut plan, buffer)? };
        plan.bcast(root, buf);
        self.begin(mem, fabric, plan.schedule)
    }

    /// `MPI_Reduce` (`root: Some`) and `MPI_Allreduce`. `send` or `receive` may be in place.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    pub fn reduce(
        &mut self,
        mem: &mut Memory<'_>,
        fabric: &Fabric,
        send: Buffer,
        receive: u32,
        op: i32,
        root: Option<i32>,
        comm: comm::Handle,
    ) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        if plan.remote().is_some() {
            return self.reduce_between(mem, fabric, plan, send, receive, op, root);
        }
        let op = self.operation(&mut plan, op, &send)?;
        let from = if send.address == IN_PLACE { Buffer { address: receive, ..send } } else { send };
        let root = root.map(|root| Self::root(&plan, root)).transpose()?;
        let buf = self.packed(mem, &mut plan, &from)?;
        let me = plan.comm.me;
        // Operands in the order of ranks: towards rank 0, and from there to the root.
        let detour = root.filter(|r| *r != 0 && matches!(op, Operator::User { commutes: false, .. }));
        let result = if root.is_none_or(|root| root == me) {
            let result = if detour.is_some() { self.zeros(mem, &mut plan, self.bytes(mem, &from)?)? } else { buf };
            self.output(mem, &mut plan, result, 0, Buffer { address: receive, ..send })?;
            result
        } else {
            buf
        };
        let towards = if detour.is_some() { Some(0) } else { root };
        let len = if plan.combines(towards) { plan.len(buf) } else { 0 };
        let incoming = self.zeros(mem, &mut plan, len)?;
        match towards {
            None => plan.allreduce(buf, incoming, op),
            Some(root) => plan.reduce(root, buf, incoming, op),
        }
        match detour {
            Some(root) if me == 0 => {
                let sends = vec![plan.part(root, buf)];
                plan.round(Round { sends, ..Round::default() });
            }
            Some(root) if me == root => {
                let receives = vec![plan.part(0, result)];
                plan.round(Round { receives, ..Round::default() });
            }
            _ => {}
        }
        self.begin(mem, fabric, plan.schedule)
    }

    fn operation(&self, plan: &mut Plan, op: i32, buffer: &Buffer) -> Result<Operator> {
        let basic = self.types.committed(buffer.datatype)?.basic;
        if let Some(user) = self.ops.get(op) {
            plan.schedule.datatype = Some(buffer.datatype);
            return Ok(Operator::User { function: user.function, commutes: user.commutes, datatype: buffer.datatype });
        }
        let op = Op::from_handle(op)?;
        op::check(op, basic)?;
        Ok(Operator::Predefined(op, basic))
    }

    /// `MPI_Scan` and, with `exclusive`, `MPI_Exscan`.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    pub fn scan(
        &mut self,
        mem: &mut Memory<'_>,
        fabric: &Fabric,
        send: Buffer,
        receive: u32,
        op: i32,
        exclusive: bool,
        comm: comm::Handle,
    ) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let op = self.operation(&mut plan, op, &send)?;
        let from = if send.address == IN_PLACE { Buffer { address: receive, ..send } } else { send };
        let upto = self.packed(mem, &mut plan, &from)?;
        let len = plan.len(upto);
        let before = self.zeros(mem, &mut plan, len)?;
        let (n, me) = (plan.size(), plan.comm.me);
        if me > 0 {
            let from = plan.part(me - 1, before);
            let then = vec![Step::Reduce { op, into: upto, from: before, first: true }];
            plan.round(Round { receives: vec![from], then, ..Round::default() });
        }
        if me + 1 < n {
            let to = plan.part(me + 1, upto);
            plan.round(Round { sends: vec![to], ..Round::default() });
        }
        // Rank 0's result of an exclusive scan is undefined: its buffer is left alone.
        if !exclusive || me > 0 {
            let result = if exclusive { before } else { upto };
            self.output(mem, &mut plan, result, 0, Buffer { address: receive, ..send })?;
        }
        self.begin(mem, fabric, plan.schedule)
    }

    /// `MPI_Reduce_scatter` with rank `i` getting `counts[i]` elements.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    pub fn reduce_scatter(
        &mut self,
        mem: &mut Memory<'_>,
        fabric: &Fabric,
        send: u32,
        receive: u32,
        counts: &[i32],
        datatype: i32,
        op: i32,
        comm: comm::Handle,
    ) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let total = counts.iter().try_fold(0i32, |a, c| a.checked_add(*c));
        let total = total.ok_or_else(|| Error::new(Class::Count, "the counts add up to more than 2^31"))?;
        let all = self.checked(if send == IN_PLACE { receive } else { send }, total, datatype)?;
        let op = self.operation(&mut plan, op, &all)?;
        let size = self.types.get(datatype)?.size;
        let buf = self.packed(mem, &mut plan, &all)?;
        let len = if plan.combines(Some(0)) { plan.len(buf) } else { 0 };
        let incoming = self.zeros(mem, &mut plan, len)?;
        plan.reduce(0, buf, incoming, op);
        let me = plan.comm.me;
        let mut buf = buf;
        if let Some(remote) = plan.remote()
            && me == 0
        {
            let len = plan.len(buf);
            let result = self.zeros(mem, &mut plan, len)?;
            let (sends, receives) = (vec![plan.whole(remote[0], buf)], vec![plan.whole(remote[0], result)]);
            plan.round(Round { sends, receives, ..Round::default() });
            buf = result;
        }
        let mut at = 0;
        let mut sends = Vec::new();
        for (i, count) in counts.iter().enumerate() {
            let output = self.checked(receive, *count, datatype)?;
            let (i, len) = (i as u32, output.count * size);
            if me == 0 && i > 0 {
                sends.push(Part { peer: plan.peer(i), buf, at, len });
            } else if me == i && me == 0 {
                self.output(mem, &mut plan, buf, at, output)?;
            } else if me == i {
                let mine = self.incoming(mem, &mut plan, output)?;
                let from = plan.part(0, mine);
                plan.round(Round { receives: vec![from], ..Round::default() });
            }
            at += len;
        }
        plan.round(Round { sends, ..Round::default() });
        self.begin(mem, fabric, plan.schedule)
    }

    /// `MPI_Gather` and `MPI_Gatherv`. `receive` matters at the root only.
    pub fn gather(
        &mut self,
        mem: &mut Memory<'_>,
        fabric: &Fabric,
        send: Buffer,
        receive: Option<&Layout<'_>>,
        root: i32,
        comm: comm::Handle,
    ) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let mut round = Round::default();
        if let Some(remote) = plan.remote() {
            match root {
                PROC_NULL => {}
                ROOT => {
                    let layout = receive.ok_or_else(|| Error::new(Class::Arg, "the root gives no receive buffer"))?;
                    for (i, peer) in remote.iter().enumerate() {
                        let share = self.share(layout, i as u32)?;
                        let buf = self.incoming(mem, &mut plan, share)?;
                        round.receives.push(plan.whole(*peer, buf));
                    }
                }
                _ => {
                    let to = plan.comm.world(root)?;
                    let buf = self.packed(mem, &mut plan, &send)?;
                    round.sends.push(plan.whole(to, buf));
                }
            }
            plan.round(round);
            return self.begin(mem, fabric, plan.schedule);
        }
        let root = Self::root(&plan, root)?;
        let me = plan.comm.me;
        if me != root {
            let buf = self.packed(mem, &mut plan, &send)?;
            round.sends.push(plan.part(root, buf));
        } else {
            let layout = receive.ok_or_else(|| Error::new(Class::Arg, "the root gives no receive buffer"))?;
            for i in 0..plan.size() {
                let share = self.share(layout, i)?;
                if i == me {
                    if send.address != IN_PLACE {
                        self.own(mem, &mut plan, &send, share)?;
                    }
                    continue;
                }
                let buf = self.incoming(mem, &mut plan, share)?;
                round.receives.push(plan.part(i, buf));
            }
        }
        plan.round(round);
        self.begin(mem, fabric, plan.schedule)
    }

    /// A rank's message to itself.
    fn own(&self, mem: &mut Memory<'_>, plan: &mut Plan, send: &Buffer, receive: Buffer) -> Result<()> {
        let (out, into) = (self.bytes(mem, send)?, self.bytes(mem, &receive)?);
        if out != into {
            return Err(Error::new(Class::Truncate, format!("this rank sends itself {out} bytes and receives {into}")));
        }
        let buf = self.packed(mem, plan, send)?;
        self.output(mem, plan, buf, 0, receive)
    }

    /// `MPI_Scatter` and `MPI_Scatterv`. `send` matters at the root only.
    pub fn scatter(
        &mut self,
        mem: &mut Memory<'_>,
        fabric: &Fabric,
        send: Option<&Layout<'_>>,
        receive: Buffer,
        root: i32,
        comm: comm::Handle,
    ) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let mut round = Round::default();
        if let Some(remote) = plan.remote() {
            match root {
                PROC_NULL => {}
                ROOT => {
                    let layout = send.ok_or_else(|| Error::new(Class::Arg, "the root gives no send buffer"))?;
                    for (i, peer) in remote.iter().enumerate() {
                        let share = self.share(layout, i as u32)?;
                        let buf = self.packed(mem, &mut plan, &share)?;
                        round.sends.push(plan.whole(*peer, buf));
                    }
                }
                _ => {
                    let from = plan.comm.world(root)?;
                    let buf = self.incoming(mem, &mut plan, receive)?;
                    round.receives.push(plan.whole(from, buf));
                }
            }
            plan.round(round);
            return self.begin(mem, fabric, plan.schedule);
        }
        let root = Self::root(&plan, root)?;
        let me = plan.comm.me;
        if me != root {
            let buf = self.incoming(mem, &mut plan, receive)?;
            round.receives.push(plan.part(root, buf));
        } else {
            let layout = send.ok_or_else(|| Error::new(Class::Arg, "the root gives no send buffer"))?;
            for i in 0..plan.size() {
                let share = self.share(layout, i)?;
                if i == me {
                    if receive.address != IN_PLACE {
                        self.own(mem, &mut plan, &share, receive)?;
                    }
                    continue;
                }
                let buf = self.packed(mem, &mut plan, &share)?;
                round.sends.push(plan.part(i, buf));
            }
        }
        plan.round(round);
        self.begin(mem, fabric, plan.schedule)
    }

    /// `MPI_Allgather` and `MPI_Allgatherv`.
    pub fn allgather(
        &mut self,
        mem: &mut Memory<'_>,
        fabric: &Fabric,
        send: Buffer,
        receive: &Layout<'_>,
        comm: comm::Handle,
    ) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let (n, me) = (plan.size(), plan.comm.me);
        if let Some(remote) = plan.remote() {
            let buf = self.packed(mem, &mut plan, &send)?;
            let mut round = Round::default();
            for (i, peer) in remote.iter().enumerate() {
                let share = self.share(receive, i as u32)?;
                let incoming = self.incoming(mem, &mut plan, share)?;
                round.sends.push(plan.whole(*peer, buf));
                round.receives.push(plan.whole(*peer, incoming));
            }
            plan.round(round);
            return self.begin(mem, fabric, plan.schedule);
        }
        let mut bufs = Vec::new();
        for i in 0..n {
            let share = self.share(receive, i)?;
            if i != me {
                bufs.push(self.incoming(mem, &mut plan, share)?);
                continue;
            }
            let from = if send.address != IN_PLACE { send } else { share };
            let (out, expected) = (self.bytes(mem, &from)?, self.bytes(mem, &share)?);
            if out != expected {
                return Err(Error::new(Class::Truncate, format!("this rank sends {out} bytes where {expected} are expected of it")));
            }
            let buf = self.packed(mem, &mut plan, &from)?;
            self.output(mem, &mut plan, buf, 0, share)?;
            bufs.push(buf);
        }
        for step in 0..n.saturating_sub(1) {
            let sends = vec![plan.part((me + 1) % n, bufs[((me + n - step) % n) as usize])];
            let receives = vec![plan.part((me + n - 1) % n, bufs[((me + 2 * n - step - 1) % n) as usize])];
            plan.round(Round { sends, receives, ..Round::default() });
        }
        self.begin(mem, fabric, plan.schedule)
    }

    /// `MPI_Alltoall`, `MPI_Alltoallv`, `MPI_Alltoallw`: a buffer for each rank. `send: None`: in place.
    pub fn alltoall(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, send: Option<&[Buffer]>, receive: &[Buffer], comm: comm::Handle) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let peers = plan.comm.peers().to_vec();
        let (n, me) = (peers.len(), plan.comm.me as usize);
        let within = plan.comm.remote.is_none();
        let mut round = Round::default();
        // Each begins with its neighbour, so that not all send to rank 0 first.
        for i in (0..n).map(|i| (me + i) % n) {
            let to = receive[i];
            let from = send.map_or(to, |send| send[i]);
            if i == me && within {
                self.own(mem, &mut plan, &from, to)?;
                continue;
            }
            let outgoing = self.packed(mem, &mut plan, &from)?;
            let incoming = self.incoming(mem, &mut plan, to)?;
            round.sends.push(plan.whole(peers[i], outgoing));
            round.receives.push(plan.whole(peers[i], incoming));
        }
        plan.round(round);
        self.begin(mem, fabric, plan.schedule)
    }

    /// The buffers of all ranks' shares.
    pub fn shares(&self, layout: &Layout<'_>) -> Result<Vec<Buffer>> {
        (0..layout.counts.len() as u32).map(|i| self.share(layout, i)).collect()
    }

    /// Neighbourhood collectives: a buffer to each neighbour and from each, in the topology's order. With one buffer to send, all get it.
    pub fn neighbour(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, send: &[Buffer], receive: &[Buffer], comm: comm::Handle) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let (sources, destinations) = plan.comm.topology()?.neighbours(plan.comm.me)?;
        let mut round = Round::default();
        for (i, to) in destinations.iter().enumerate().filter(|(_, to)| **to != PROC_NULL) {
            let Some(share) = send.get(if send.len() == 1 { 0 } else { i }) else { continue };
            let buf = self.packed(mem, &mut plan, share)?;
            round.sends.push(plan.part(*to as u32, buf));
        }
        // In a grid of two, the neighbour before is the neighbour after: what it sends first, to the one before it, is for the receive after.
        let grid = matches!(plan.comm.topology()?, crate::topology::Topology::Cart { .. });
        for i in (0..sources.len()).map(|i| if grid { i ^ 1 } else { i }) {
            let (Some(from), Some(share)) = (sources.get(i), receive.get(i)) else { continue };
            if *from != PROC_NULL {
                let buf = self.incoming(mem, &mut plan, *share)?;
                round.receives.push(plan.part(*from as u32, buf));
            }
        }
        plan.round(round);
        self.begin(mem, fabric, plan.schedule)
    }

    /// Displacements of shares that follow each other, for the calls without `v`.
    pub fn even(counts: i32, n: u32) -> (Vec<i32>, Vec<i32>) {
        (vec![counts; n as usize], (0..n as i32).map(|i| i.wrapping_mul(counts)).collect())
    }

    /// A datatype, for `MPI_Type_size` and its like.
    pub fn datatype(&self, handle: i32) -> Result<&Datatype> {
        self.types.get(handle)
    }
}
