//! Inter-communicators: how two groups become one, how they are merged, and reductions between them.

use super::{Finish, How, LEADER_TAG, Make, Part, Plan, Round, TAG_MASK};
use crate::comm::{self, Comm};
use crate::datatype::Buffer;
use crate::error::{Class, Error, Result};
use crate::fabric::Fabric;
use crate::memory::Memory;
use crate::message::Rank;
use crate::rank::{PROC_NULL, ROOT, Request, State};

impl State {
    /// Reductions of an inter-communicator: each side gets what the other's operands make, at a root or at all.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    pub(super) fn reduce_between(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, mut plan: Plan, send: Buffer, receive: u32, op: i32, root: Option<i32>) -> Result<Request> {
        let remote = plan.remote().unwrap_or_default();
        let me = plan.comm.me;
        if root == Some(PROC_NULL) {
            return self.begin(mem, fabric, plan.schedule);
        }
        if root == Some(ROOT) {
            let result = self.incoming(mem, &mut plan, Buffer { address: receive, ..send })?;
            let receives = vec![plan.whole(remote[0], result)];
            plan.round(Round { receives, ..Round::default() });
            return self.begin(mem, fabric, plan.schedule);
        }
        let op = self.operation(&mut plan, op, &send)?;
        let to = root.map(|r| plan.comm.world(r)).transpose()?;
        let buf = self.packed(mem, &mut plan, &send)?;
        let len = if plan.combines(Some(0)) { plan.len(buf) } else { 0 };
        let incoming = self.zeros(mem, &mut plan, len)?;
        plan.reduce(0, buf, incoming, op);
        match to {
            Some(to) if me == 0 => {
                let sends = vec![plan.whole(to, buf)];
                plan.round(Round { sends, ..Round::default() });
            }
            Some(_) => {}
            None => {
                let result = self.incoming(mem, &mut plan, Buffer { address: receive, ..send })?;
                if me == 0 {
                    let (sends, receives) = (vec![plan.whole(remote[0], buf)], vec![plan.whole(remote[0], result)]);
                    plan.round(Round { sends, receives, ..Round::default() });
                }
                plan.bcast(0, result);
            }
        }
        self.begin(mem, fabric, plan.schedule)
    }

    /// `MPI_Intercomm_merge`
    pub fn intercomm_merge(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, comm: comm::Handle, high: bool, into: u32) -> Result<Request> {
        let plan = self.plan(comm)?;
        if plan.comm.remote.is_none() {
            return Err(Error::new(Class::Comm, "only an inter-communicator can be merged"));
        }
        let key = plan.comm.me as i32;
        self.make(mem, fabric, plan, i32::from(high), key, How::Merge, into)
    }

    /// `MPI_Intercomm_create`: the leaders tell each other their groups, and then each its own.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    pub fn intercomm_create(
        &mut self,
        mem: &mut Memory<'_>,
        fabric: &Fabric,
        local: comm::Handle,
        leader: i32,
        peer: comm::Handle,
        remote_leader: i32,
        tag: i32,
        into: u32,
    ) -> Result<Request> {
        let mut plan = self.plan(local)?;
        self.comms.room()?;
        if plan.comm.remote.is_some() {
            return Err(Error::new(Class::Comm, "the local communicator is an inter-communicator"));
        }
        let leader = Self::root(&plan, leader)?;
        let (n, me) = (plan.size(), plan.comm.me);
        let room = 8 + 4 * self.world_size() as usize;
        let context = self.comms.give_context(self.me)?;
        let decided = plan.buf(context.to_le_bytes().to_vec());
        let theirs = plan.buf(vec![0; room]);
        let both = |peer: Rank, of: u32| [Part { peer, buf: of, at: 0, len: 4 }, Part { peer, buf: theirs, at: 4, len: room as u32 - 4 }];
        let mut context_in = decided;
        if me == leader {
            let via = self.comms.get(peer)?;
            let other = via.world(remote_leader)?;
            let mut mine = Vec::with_capacity(room);
            mine.extend(context.to_le_bytes());
            mine.extend(n.to_le_bytes());
            plan.comm.group.iter().for_each(|r| mine.extend(r.0.to_le_bytes()));
            mine.resize(room, 0);
            let via = Some((via.context * 2 + 1, LEADER_TAG - (tag & TAG_MASK)));
            let mine = plan.buf(mine);
            let (sends, receives) = (vec![plan.whole(other, mine)], vec![plan.whole(other, theirs)]);
            plan.round(Round { sends, receives, via, ..Round::default() });
            // The context is that of the leader with the lower rank in the world.
            let of = if self.me < other { decided } else { theirs };
            let sends = (0..n).filter(|i| *i != me).flat_map(|i| both(plan.peer(i), of)).collect();
            plan.round(Round { sends, ..Round::default() });
            context_in = of;
        } else {
            let receives = both(plan.peer(leader), decided).to_vec();
            plan.round(Round { receives, ..Round::default() });
        }
        let like = Comm { group: Vec::new(), topology: None, hints: Vec::new(), ..plan.comm.clone() };
        plan.schedule.finish = Finish::Make(Box::new(Make { local: plan.comm.group.clone(), remote: None, how: How::Inter { context: context_in }, into, like }));
        self.begin(mem, fabric, plan.schedule)
    }
}
