//! What all ranks of a communicator make together: communicators, windows, files. Each tells the others a context of its own and what it wants.

use super::{Finish, GROUP_TAG, How, Make, NewFile, NewWindow, Part, Plan, Round, Schedule, TAG_MASK};
use crate::comm::{self, Comm};
use crate::error::{Class, Error, Result};
use crate::fabric::Fabric;
use crate::memory::Memory;
use crate::message::Rank;
use crate::rank::{Request, State, UNDEFINED};
use crate::window::{Flavor, Part as Piece};

impl State {
    /// All tell all (color, key, a context of their own); of that each makes the communicator.
    pub(super) fn make(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, mut plan: Plan, color: i32, key: i32, how: How, into: u32) -> Result<Request> {
        self.comms.room()?;
        let mine = [color, key, self.comms.give_context(self.me)? as i32].map(i32::to_le_bytes).concat();
        let (n, me) = (plan.size(), plan.comm.me);
        let remote = plan.remote();
        let all = n as usize + remote.as_ref().map_or(0, Vec::len);
        let mut words = vec![0; 12 * all];
        words[12 * me as usize..][..12].copy_from_slice(&mine);
        let buf = plan.buf(words);
        let part = |peer: Rank, of: u32| Part { peer, buf, at: 12 * of, len: 12 };
        if let Some(remote) = &remote {
            let others = (0..n).filter(|i| *i != me).map(|i| (plan.peer(i), i)).chain(remote.iter().copied().zip(n..)).collect::<Vec<_>>();
            let sends = others.iter().map(|(peer, _)| part(*peer, me)).collect();
            let receives = others.iter().map(|(peer, i)| part(*peer, *i)).collect();
            plan.round(Round { sends, receives, ..Round::default() });
        } else {
            plan.circulate(buf, 12);
        }
        let like = Comm { group: Vec::new(), remote: None, ..plan.comm.clone() };
        plan.schedule.finish = Finish::Make(Box::new(Make { local: plan.comm.group.clone(), remote, how, into, like }));
        self.begin(mem, fabric, plan.schedule)
    }

    /// `MPI_Win_create` and its like: all ranks tell where their memory is. The handle is written to guest address `into` at the end.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    pub fn window_create(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, comm: comm::Handle, flavor: Flavor, part: Piece, hints: crate::info::Pairs, into: u32) -> Result<Request> {
        let Piece { base, size, unit } = part;
        if u64::from(base) + u64::from(size) > mem.len() as u64 {
            return Err(Error::new(Class::Base, format!("a window of {size} bytes at {base:#x} reaches outside of the memory of {} bytes", mem.len())));
        }
        let plan = self.introduce(comm, [base, size, unit])?;
        let like = Comm { topology: None, hints, ..plan.comm.clone() };
        let schedule = Schedule { finish: Finish::Window(Box::new(NewWindow { flavor, into, like })), ..plan.schedule };
        self.begin(mem, fabric, schedule)
    }

    /// The first half of `MPI_File_open`: the ranks agree on a context.
    pub(crate) fn file_agree(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, comm: comm::Handle, file: crate::file::Handle, mode: i32, hints: crate::info::Pairs) -> Result<Request> {
        let plan = self.introduce(comm, [mode as u32, 0, 0])?;
        let like = Comm { topology: None, hints, ..plan.comm.clone() };
        let schedule = Schedule { finish: Finish::File(Box::new(NewFile { file, like })), ..plan.schedule };
        self.begin(mem, fabric, schedule)
    }

    /// All ranks tell a context of their own and three words: buffer 0.
    fn introduce(&mut self, comm: comm::Handle, words: [u32; 3]) -> Result<Plan> {
        let mut plan = self.plan(comm)?;
        if plan.comm.remote.is_some() {
            return Err(Error::new(Class::Comm, "an inter-communicator can have no window or file; merge it first"));
        }
        self.comms.room()?;
        let [a, b, c] = words;
        let mine = [self.comms.give_context(self.me)?, a, b, c].map(u32::to_le_bytes).concat();
        let (n, me) = (plan.size(), plan.comm.me);
        let mut all = vec![0; 16 * n as usize];
        all[16 * me as usize..][..16].copy_from_slice(&mine);
        let buf = plan.buf(all);
        plan.circulate(buf, 16);
        Ok(plan)
    }

    /// `MPI_Comm_split`. The handle is written to guest address `into` at the end.
    pub fn comm_split(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, comm: comm::Handle, color: i32, key: i32, into: u32) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        (plan.comm.topology, plan.comm.hints) = (None, Vec::new());
        self.make(mem, fabric, plan, color, key, How::Split { color }, into)
    }

    /// A split whose communicator has a topology, for `MPI_Cart_create` and its like: the first `ranks` are in it.
    #[allow(clippy::too_many_arguments)] // they are the arguments of the MPI call
    pub fn comm_arrange(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, comm: comm::Handle, color: i32, topology: crate::topology::Topology, into: u32) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        if plan.comm.remote.is_some() {
            return Err(Error::new(Class::Comm, "an inter-communicator can't have a topology"));
        }
        (plan.comm.topology, plan.comm.hints) = (Some(Box::new(topology)), Vec::new());
        let key = plan.comm.me as i32;
        self.make(mem, fabric, plan, color, key, How::Split { color }, into)
    }

    /// `MPI_Comm_dup` and its like. The handle is there at once, and good when the request is complete. `hints`: in place of the old one's.
    pub fn comm_dup(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, comm: comm::Handle, hints: Option<crate::info::Pairs>) -> Result<(Request, comm::Handle)> {
        let mut plan = self.plan(comm)?;
        self.comms.room()?;
        if let Some(hints) = hints {
            plan.comm.hints = hints;
        }
        let (key, handle) = (plan.comm.me as i32, self.comms.reserve());
        Ok((self.make(mem, fabric, plan, 0, key, How::Keep { handle }, 0)?, handle))
    }

    /// `MPI_Comm_create`: all of the communicator call it, those in `group` get one.
    pub fn comm_create(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, comm: comm::Handle, group: &[Rank], into: u32) -> Result<Request> {
        let mut plan = self.plan(comm)?;
        (plan.comm.topology, plan.comm.hints) = (None, Vec::new());
        if let Some(r) = group.iter().find(|r| !plan.comm.group.contains(r)) {
            return Err(Error::new(Class::Group, format!("rank {} of the world is in the group and not in the communicator", r.0)));
        }
        let inter = plan.comm.remote.is_some();
        // Several groups at once have no rank in common: the lowest tells them apart.
        let (color, key) = match group.iter().position(|r| *r == self.me) {
            Some(key) => (if inter { 0 } else { group.iter().map(|r| r.0).min().unwrap_or(0) as i32 }, key as i32),
            None => (UNDEFINED, 0),
        };
        self.make(mem, fabric, plan, color, key, How::Split { color }, into)
    }

    /// `MPI_Comm_create_group`: only those in `group` call it.
    pub fn comm_create_group(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, comm: comm::Handle, group: &[Rank], tag: i32, into: u32) -> Result<Request> {
        let of = self.comms.get(comm)?.clone();
        let Some(key) = group.iter().position(|r| *r == self.me) else {
            return Err(Error::new(Class::Group, "this rank is not in the group of the communicator that it makes"));
        };
        if of.remote.is_some() || group.iter().any(|r| !of.group.contains(r)) {
            return Err(Error::new(Class::Group, "the group is not part of the communicator"));
        }
        let collectives = self.comms.get(comm)?.collectives;
        let mut plan = self.plan(comm)?;
        // The others don't count this one.
        self.comms.get_mut(comm)?.collectives = collectives;
        plan.schedule.tag = GROUP_TAG - (tag & TAG_MASK);
        plan.comm = Comm { hints: Vec::new(), topology: None, ..plan.comm };
        (plan.comm.group, plan.comm.me) = (group.to_vec(), key as u32);
        self.make(mem, fabric, plan, 0, key as i32, How::Split { color: 0 }, into)
    }
}
