//! Communicators: a context that keeps their messages apart, and a group of ranks, or two that speak with each other (inter-communicators).
//!
//! A context is a number that no two communicators share: each rank gives out its own, `count * 2^k + rank`, and the first rank of a new
//! communicator decides which it is. So communicators may be made at the same time and overlap.

use crate::error::{Class, Error, Result};
use crate::info::Pairs;
use crate::message::Rank;
use crate::topology::Topology;
use serde::{Deserialize, Serialize};

/// A communicator handle as the guest sees it.
pub type Handle = i32;
pub const WORLD: Handle = 1;
pub const SELF: Handle = 2;
const FIRST: i32 = 3;
/// Communicators of one rank at a time. They lie outside of its memory.
const COMMS_MAX: usize = 4096;
/// Messages carry twice a context and one more.
const CONTEXT_MAX: u32 = u32::MAX / 2 - 1;
/// Error handlers: `MPI_ERRORS_ARE_FATAL`, `MPI_ERRORS_RETURN`; from [`HANDLERS`] on the program's.
pub const FATAL: i32 = 1;
pub const RETURN: i32 = 2;
pub const HANDLERS: i32 = 3;
/// Bytes of a name, as `MPI_MAX_OBJECT_NAME` says, without the closing 0.
pub const NAME_MAX: usize = 127;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comm {
    /// Point-to-point messages carry `2 * context`, collectives `2 * context + 1`.
    pub context: u32,
    /// Ranks of the world, in the order of this communicator.
    pub group: Vec<Rank>,
    /// The other group of an inter-communicator: whom messages go to and come from.
    pub remote: Option<Vec<Rank>>,
    /// This rank's number in its group.
    pub me: u32,
    /// Collectives begun on it: their tag, so that two in a row can't be mixed up.
    pub collectives: u32,
    /// What an error does: [`FATAL`], [`RETURN`] or a handler of the program's.
    pub handler: i32,
    pub name: String,
    pub topology: Option<Box<Topology>>,
    pub hints: Pairs,
    /// The program has freed it; a receive still waits on it.
    pub(crate) freed: bool,
}

impl Comm {
    /// The tag of the collective that begins now.
    pub(crate) fn next_tag(&mut self) -> i32 {
        let tag = (self.collectives & 0x7fff_ffff) as i32;
        self.collectives = self.collectives.wrapping_add(1);
        tag
    }

    pub fn size(&self) -> u32 {
        self.group.len() as u32
    }

    pub fn new(context: u32, group: Vec<Rank>, remote: Option<Vec<Rank>>, me: Rank) -> Comm {
        let me = group.iter().position(|r| *r == me).unwrap_or(0) as u32;
        Comm { context, group, remote, me, collectives: 0, handler: FATAL, name: String::new(), topology: None, hints: Vec::new(), freed: false }
    }

    /// Those with whom messages are exchanged.
    #[inline]
    pub fn peers(&self) -> &[Rank] {
        self.remote.as_deref().unwrap_or(&self.group)
    }

    /// The world's rank of a rank of this communicator.
    #[inline]
    pub fn world(&self, rank: i32) -> Result<Rank> {
        let peers = self.peers();
        usize::try_from(rank).ok().and_then(|r| peers.get(r)).copied().ok_or_else(|| {
            Error::new(Class::Rank, format!("rank {rank} is not in this communicator of {} ranks", peers.len()))
        })
    }

    /// This communicator's number of a rank of the world.
    #[inline]
    pub fn local(&self, rank: Rank) -> i32 {
        let peers = self.peers();
        match peers.get(rank.index()) {
            Some(r) if *r == rank => rank.0 as i32,
            _ => peers.iter().position(|r| *r == rank).map_or(-1, |i| i as i32),
        }
    }

    /// Its topology; an error if it has none.
    pub fn topology(&self) -> Result<&Topology> {
        self.topology.as_deref().ok_or_else(|| Error::new(Class::Topology, "the communicator has no topology"))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    comms: Vec<Option<Comm>>,
    /// Handles that were given to the program for communicators that are being made.
    reserved: Vec<Handle>,
    /// How many contexts this rank has given out.
    given: u32,
    /// Bits of a context that name the rank that gave it.
    rank_bits: u32,
}

impl Table {
    pub fn new(me: Rank, size: u32) -> Table {
        let named = |comm: Comm, name: &str| Some(Comm { name: name.into(), ..comm });
        Table {
            comms: vec![
                named(Comm::new(0, (0..size).map(Rank).collect(), None, me), "MPI_COMM_WORLD"),
                named(Comm::new(1, vec![me], None, me), "MPI_COMM_SELF"),
            ],
            reserved: Vec::new(),
            // Those of the first two counts are the world's and each rank's own.
            given: 2,
            rank_bits: size.next_power_of_two().trailing_zeros(),
        }
    }

    /// A context that nobody else has.
    pub fn give_context(&mut self, me: Rank) -> Result<u32> {
        let context = (u64::from(self.given) << self.rank_bits) + u64::from(me.0);
        let context = u32::try_from(context).ok().filter(|c| *c <= CONTEXT_MAX);
        let context = context.ok_or_else(|| Error::new(Class::Comm, format!("this rank has made {} communicators; there are no more numbers for them", self.given)))?;
        self.given += 1;
        Ok(context)
    }

    /// One that the program may name.
    #[inline]
    pub fn get(&self, handle: Handle) -> Result<&Comm> {
        self.used(handle).filter(|c| !c.freed).ok_or_else(|| Error::new(Class::Comm, format!("communicator handle {handle} is not valid")))
    }

    /// One that an operation names: the program may have freed it since.
    #[inline]
    pub(crate) fn used(&self, handle: Handle) -> Option<&Comm> {
        self.comms.get(usize::try_from(i64::from(handle) - 1).ok()?)?.as_ref()
    }

    pub fn get_mut(&mut self, handle: Handle) -> Result<&mut Comm> {
        self.get(handle)?;
        Ok(self.comms[(handle - 1) as usize].as_mut().expect("`get` found it"))
    }

    /// Whether a table that was read from elsewhere is one of rank `me` in a job of `size` ranks.
    pub(crate) fn check(&self, me: Rank, size: u32) -> Result<()> {
        let wrong = |text: String| Err(Error::new(Class::Comm, text));
        if self.comms.len() < 2 || self.comms[..2].iter().any(Option::is_none) || self.rank_bits != size.next_power_of_two().trailing_zeros() {
            return wrong("it has no world communicator".into());
        }
        for (i, c) in self.comms.iter().enumerate() {
            let Some(c) = c else { continue };
            let strange = |g: &[Rank]| g.len() > size as usize || g.iter().any(|r| r.0 >= size);
            let remote = c.remote.as_ref().is_some_and(|r| strange(r) || r.is_empty());
            if c.context > CONTEXT_MAX || strange(&c.group) || remote || c.group.get(c.me as usize) != Some(&me) {
                return wrong(format!("communicator {} is not one of rank {} in a job of {size} ranks", i + 1, me.0));
            }
            if let Some(t) = &c.topology {
                t.check(c.size())?;
            }
        }
        let strange = |h: &Handle| *h < FIRST || *h as usize > self.comms.len() || self.comms[*h as usize - 1].is_some();
        if self.reserved.iter().any(strange) {
            return wrong("a communicator that is being made is there already".into());
        }
        Ok(())
    }

    /// Whether there may be one more.
    pub fn room(&self) -> Result<()> {
        if self.comms.iter().flatten().count() >= COMMS_MAX {
            return Err(Error::new(Class::Comm, format!("this rank has {COMMS_MAX} communicators; free some with MPI_Comm_free")));
        }
        Ok(())
    }

    /// A handle for a communicator that is being made.
    pub fn reserve(&mut self) -> Handle {
        let free = (FIRST as usize - 1..self.comms.len()).find(|i| self.comms[*i].is_none() && !self.reserved.contains(&(*i as i32 + 1)));
        let slot = free.unwrap_or_else(|| {
            self.comms.push(None);
            self.comms.len() - 1
        });
        self.reserved.push(slot as i32 + 1);
        slot as i32 + 1
    }

    /// Puts a communicator where [`Table::reserve`] has kept a place.
    pub fn put(&mut self, handle: Handle, comm: Comm) -> Result<()> {
        let at = self.reserved.iter().position(|h| *h == handle).ok_or_else(|| Error::new(Class::Comm, format!("handle {handle} was not kept for a communicator")))?;
        self.reserved.swap_remove(at);
        self.comms[handle as usize - 1] = Some(comm);
        Ok(())
    }

    pub fn add(&mut self, comm: Comm) -> Handle {
        let handle = self.reserve();
        self.reserved.pop();
        self.comms[handle as usize - 1] = Some(comm);
        handle
    }

    /// `in_use`: a receive still waits on it, so it stays until [`Table::forget`].
    pub fn free(&mut self, handle: Handle, in_use: bool) -> Result<()> {
        self.get(handle)?;
        if handle < FIRST {
            return Err(Error::new(Class::Comm, "MPI_COMM_WORLD and MPI_COMM_SELF can't be freed"));
        }
        match in_use {
            true => self.get_mut(handle)?.freed = true,
            false => self.comms[(handle - 1) as usize] = None,
        }
        Ok(())
    }

    pub(crate) fn is_freed(&self, handle: Handle) -> bool {
        self.used(handle).is_some_and(|c| c.freed)
    }

    /// The last receive on a freed communicator has come.
    pub(crate) fn forget(&mut self, handle: Handle) {
        if self.is_freed(handle) {
            self.comms[(handle - 1) as usize] = None;
        }
    }
}
