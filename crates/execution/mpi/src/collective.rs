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

use crate::comm::{self, Comm};
use crate::datatype::{Basic, Buffer, Datatype, pack, within};
use crate::error::{Class, Error, Result};
use crate::fabric::Fabric;
use crate::message::Rank;
use crate::op::{self, Op};
use crate::rank::{Request, State, message};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

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

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Step {
    /// `into = into ⊕ from`; with `first`, `into = from ⊕ into`.
    Reduce { op: Op, basic: Basic, into: u32, from: u32, first: bool },
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Round {
    pub sends: Vec<Part>,
    pub receives: Vec<Part>,
    /// Done when all of this round has come.
    then: Vec<Step>,
}

/// What is left to do when the messages are through.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Finish {
    Nothing,
    /// Make a communicator and write its handle to guest address `into`.
    Split { comm: comm::Handle, color: i32, into: u32 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Schedule {
    pub context: u32,
    pub tag: i32,
    pub bufs: Vec<Vec<u8>>,
    pub outputs: Vec<(u32, u32, Buffer)>,
    pub finish: Finish,
    /// What it takes while it is under way: see [`Schedule::seal`].
    pub bytes: usize,
    /// Messages of the present round that have not come or gone.
    pub pending: u32,
    rounds: VecDeque<Round>,
    after: Vec<Step>,
}

impl Schedule {
    /// Called when it is complete as a plan: counts what it takes. About, but the same number on each machine.
    pub(crate) fn seal(&mut self) -> usize {
        let parts: usize = self.rounds.iter().map(|r| 5 + r.sends.len() + r.receives.len() + r.then.len()).sum();
        self.bytes = 256 + 16 * (parts + 2 * self.outputs.len()) + self.data_bytes();
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
        match self.finish {
            Finish::Split { .. } if self.bufs.is_empty() => wrong("makes a communicator of nothing"),
            _ => Ok(()),
        }
    }

    /// Ends the present round and gives the next.
    pub fn next_round(&mut self) -> Result<Option<Round>> {
        for step in std::mem::take(&mut self.after) {
            let Step::Reduce { op, basic, into, from, first } = step;
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
        let Some(mut round) = self.rounds.pop_front() else { return Ok(None) };
        self.after = std::mem::take(&mut round.then);
        Ok(Some(round))
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
    fn reduce(&mut self, root: u32, buf: u32, incoming: u32, op: Op, basic: Basic) {
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
                let then = vec![Step::Reduce { op, basic, into: buf, from: incoming, first: false }];
                self.round(Round { receives: vec![from], then, ..Round::default() });
            }
            mask <<= 1;
        }
    }

    fn allreduce(&mut self, buf: u32, incoming: u32, op: Op, basic: Basic) {
        let (n, me) = (self.size(), self.comm.me);
        if !n.is_power_of_two() {
            self.reduce(0, buf, incoming, op, basic);
            return self.bcast(0, buf);
        }
        let mut mask = 1;
        while mask < n {
            let other = me ^ mask;
            // The lower rank's operand comes first on both sides: both get the same bits.
            let then = vec![Step::Reduce { op, basic, into: buf, from: incoming, first: other < me }];
            let round =
                Round { sends: vec![self.part(other, buf)], receives: vec![self.part(other, incoming)], then };
            self.round(round);
            mask <<= 1;
        }
    }
}

impl State {
    fn plan(&mut self, comm: comm::Handle) -> Result<Plan> {
        let c = self.comms.get_mut(comm)?;
        let tag = (c.collectives & 0x7fff_ffff) as i32;
        c.collectives = c.collectives.wrapping_add(1);
        Ok(Plan {
            comm: c.clone(),
            schedule: Schedule {
                context: c.context * 2 + 1,
                tag,
                bufs: Vec::new(),
                outputs: Vec::new(),
                finish: Finish::Nothing,
                bytes: 0,
                pending: 0,
                rounds: VecDeque::new(),
                after: Vec::new(),
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
    fn claim(&self, mem: &[u8], plan: &mut Plan, bytes: usize) -> Result<()> {
        message(bytes)?;
        plan.bytes += bytes;
        self.room(mem.len(), plan.bytes, true)
    }

    /// A plan's buffer of zeros.
    fn zeros(&self, mem: &[u8], plan: &mut Plan, bytes: usize) -> Result<u32> {
        self.claim(mem, plan, bytes)?;
        Ok(plan.buf(vec![0; bytes]))
    }

    /// A plan's buffer with what lies in the program's.
    fn packed(&self, mem: &mut [u8], plan: &mut Plan, buffer: &Buffer) -> Result<u32> {
        let bytes = self.bytes(mem, buffer)?;
        self.claim(mem, plan, bytes)?;
        Ok(plan.buf(pack(mem, self.types.committed(buffer.datatype)?, buffer)?))
    }

    /// A plan's buffer for what will lie in the program's.
    fn incoming(&self, mem: &[u8], plan: &mut Plan, buffer: Buffer) -> Result<u32> {
        let bytes = self.bytes(mem, &buffer)?;
        let buf = self.zeros(mem, plan, bytes)?;
        plan.schedule.outputs.push((buf, 0, buffer));
        Ok(buf)
    }

    /// At the end, a plan's buffer goes to the program's, from byte `at` on.
    fn output(&self, mem: &[u8], plan: &mut Plan, buf: u32, at: u32, buffer: Buffer) -> Result<()> {
        self.bytes(mem, &buffer)?;
        plan.schedule.outputs.push((buf, at, buffer));
        Ok(())
    }

    /// Packed bytes of a buffer of the program's, all of which lies in its memory.
    fn bytes(&self, mem: &[u8], buffer: &Buffer) -> Result<usize> {
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

    pub fn barrier(&mut self, mem: &mut [u8], fabric: &Fabric, comm: comm::Handle) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let (n, me) = (plan.size(), plan.comm.me);
        let empty = plan.buf(Vec::new());
        let mut distance = 1;
        while distance < n {
            let round = Round {
                sends: vec![plan.part((me + distance) % n, empty)],
                receives: vec![plan.part((me + n - distance) % n, empty)],
                then: Vec::new(),
            };
            plan.round(round);
            distance *= 2;
        }
        self.begin(mem, fabric, plan.schedule)
    }

    pub fn bcast(&mut self, mem: &mut [u8], fabric: &Fabric, buffer: Buffer, root: i32, comm: comm::Handle) -> Result<Request> {
        let mut plan = self.plan(comm)?;
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
        mem: &mut [u8],
        fabric: &Fabric,
        send: Buffer,
        receive: u32,
        op: i32,
        root: Option<i32>,
        comm: comm::Handle,
    ) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let (op, basic) = self.operation(op, &send)?;
        let from = if send.address == IN_PLACE { Buffer { address: receive, ..send } } else { send };
        let root = root.map(|root| Self::root(&plan, root)).transpose()?;
        let buf = self.packed(mem, &mut plan, &from)?;
        if root.is_none_or(|root| root == plan.comm.me) {
            self.output(mem, &mut plan, buf, 0, Buffer { address: receive, ..send })?;
        }
        let len = if plan.combines(root) { plan.len(buf) } else { 0 };
        let incoming = self.zeros(mem, &mut plan, len)?;
        match root {
            None => plan.allreduce(buf, incoming, op, basic),
            Some(root) => plan.reduce(root, buf, incoming, op, basic),
        }
        self.begin(mem, fabric, plan.schedule)
    }

    fn operation(&self, op: i32, buffer: &Buffer) -> Result<(Op, Basic)> {
        let op = Op::from_handle(op)?;
        let basic = self.types.committed(buffer.datatype)?.basic;
        op::check(op, basic)?;
        Ok((op, basic))
    }

    /// `MPI_Scan` and, with `exclusive`, `MPI_Exscan`.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    pub fn scan(
        &mut self,
        mem: &mut [u8],
        fabric: &Fabric,
        send: Buffer,
        receive: u32,
        op: i32,
        exclusive: bool,
        comm: comm::Handle,
    ) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let (op, basic) = self.operation(op, &send)?;
        let from = if send.address == IN_PLACE { Buffer { address: receive, ..send } } else { send };
        let upto = self.packed(mem, &mut plan, &from)?;
        let len = plan.len(upto);
        let before = self.zeros(mem, &mut plan, len)?;
        let (n, me) = (plan.size(), plan.comm.me);
        if me > 0 {
            let from = plan.part(me - 1, before);
            let then = vec![Step::Reduce { op, basic, into: upto, from: before, first: true }];
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
        mem: &mut [u8],
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
        let (op, basic) = self.operation(op, &all)?;
        let size = self.types.get(datatype)?.size;
        let buf = self.packed(mem, &mut plan, &all)?;
        let len = if plan.combines(Some(0)) { plan.len(buf) } else { 0 };
        let incoming = self.zeros(mem, &mut plan, len)?;
        plan.reduce(0, buf, incoming, op, basic);
        let me = plan.comm.me;
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
        mem: &mut [u8],
        fabric: &Fabric,
        send: Buffer,
        receive: Option<&Layout<'_>>,
        root: i32,
        comm: comm::Handle,
    ) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let root = Self::root(&plan, root)?;
        let me = plan.comm.me;
        let mut round = Round::default();
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
    fn own(&self, mem: &mut [u8], plan: &mut Plan, send: &Buffer, receive: Buffer) -> Result<()> {
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
        mem: &mut [u8],
        fabric: &Fabric,
        send: Option<&Layout<'_>>,
        receive: Buffer,
        root: i32,
        comm: comm::Handle,
    ) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let root = Self::root(&plan, root)?;
        let me = plan.comm.me;
        let mut round = Round::default();
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
        mem: &mut [u8],
        fabric: &Fabric,
        send: Buffer,
        receive: &Layout<'_>,
        comm: comm::Handle,
    ) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let (n, me) = (plan.size(), plan.comm.me);
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

    /// `MPI_Alltoall` and `MPI_Alltoallv`. `send: None`: in place.
    pub fn alltoall(
        &mut self,
        mem: &mut [u8],
        fabric: &Fabric,
        send: Option<&Layout<'_>>,
        receive: &Layout<'_>,
        comm: comm::Handle,
    ) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let (n, me) = (plan.size(), plan.comm.me);
        let mut round = Round::default();
        // Each begins with its neighbour, so that not all send to rank 0 first.
        for i in (0..n).map(|i| (me + i) % n) {
            let to = self.share(receive, i)?;
            let from = match send {
                Some(layout) => self.share(layout, i)?,
                None => to,
            };
            if i == me {
                self.own(mem, &mut plan, &from, to)?;
                continue;
            }
            let outgoing = self.packed(mem, &mut plan, &from)?;
            let incoming = self.incoming(mem, &mut plan, to)?;
            round.sends.push(plan.part(i, outgoing));
            round.receives.push(plan.part(i, incoming));
        }
        plan.round(round);
        self.begin(mem, fabric, plan.schedule)
    }

    /// `MPI_Comm_split`; `MPI_Comm_dup` is a split with one color. The handle is written to guest address `into` at the end.
    pub fn comm_split(
        &mut self,
        mem: &mut [u8],
        fabric: &Fabric,
        comm: comm::Handle,
        color: i32,
        key: i32,
        into: u32,
    ) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        let (n, me) = (plan.size(), plan.comm.me);
        self.comms.room()?;
        let mine = [color, key, self.comms.next_context as i32].map(i32::to_le_bytes).concat();
        let mut all = vec![0; 12 * n as usize];
        all[12 * me as usize..][..12].copy_from_slice(&mine);
        let buf = plan.buf(all);
        let part = |plan: &Plan, peer: u32, of: u32| Part { peer: plan.peer(peer), buf, at: 12 * of, len: 12 };
        for step in 0..n.saturating_sub(1) {
            let sends = vec![part(&plan, (me + 1) % n, (me + n - step) % n)];
            let receives = vec![part(&plan, (me + n - 1) % n, (me + 2 * n - step - 1) % n)];
            plan.round(Round { sends, receives, ..Round::default() });
        }
        plan.schedule.finish = Finish::Split { comm, color, into };
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
