//! Communicators: a context that keeps their messages apart, and a group of ranks.

use crate::error::{Class, Error, Result};
use crate::message::Rank;
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

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comm {
    /// Point-to-point messages carry `2 * context`, collectives `2 * context + 1`.
    pub context: u32,
    /// Ranks of the world, in the order of this communicator.
    pub group: Vec<Rank>,
    /// This rank's number in it.
    pub me: u32,
    /// Collectives begun on it: their tag, so that two in a row can't be mixed up.
    pub collectives: u32,
    /// Errors are returned to the program instead of stopping the job.
    pub errors_return: bool,
}

impl Comm {
    pub fn size(&self) -> u32 {
        self.group.len() as u32
    }

    /// The world's rank of a rank of this communicator.
    pub fn world(&self, rank: i32) -> Result<Rank> {
        usize::try_from(rank).ok().and_then(|r| self.group.get(r)).copied().ok_or_else(|| {
            Error::new(Class::Rank, format!("rank {rank} is not in this communicator of {} ranks", self.group.len()))
        })
    }

    /// This communicator's number of a rank of the world.
    pub fn local(&self, rank: Rank) -> i32 {
        match self.group.get(rank.index()) {
            Some(r) if *r == rank => rank.0 as i32,
            _ => self.group.iter().position(|r| *r == rank).map_or(-1, |i| i as i32),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    comms: Vec<Option<Comm>>,
    /// The lowest context that this rank has not seen in use.
    pub next_context: u32,
}

impl Table {
    pub fn new(me: Rank, size: u32) -> Table {
        let comm = |context, group: Vec<Rank>, me| {
            Some(Comm { context, group, me, collectives: 0, errors_return: false })
        };
        Table {
            comms: vec![comm(0, (0..size).map(Rank).collect(), me.0), comm(1, vec![me], 0)],
            next_context: 2,
        }
    }

    pub fn get(&self, handle: Handle) -> Result<&Comm> {
        usize::try_from(i64::from(handle) - 1)
            .ok()
            .and_then(|i| self.comms.get(i))
            .and_then(Option::as_ref)
            .ok_or_else(|| Error::new(Class::Comm, format!("communicator handle {handle} is not valid")))
    }

    pub fn get_mut(&mut self, handle: Handle) -> Result<&mut Comm> {
        self.get(handle)?;
        Ok(self.comms[(handle - 1) as usize].as_mut().expect("`get` found it"))
    }

    /// Whether a table that was read from elsewhere is one of rank `me` in a job of `size` ranks.
    pub(crate) fn check(&self, me: Rank, size: u32) -> Result<()> {
        let wrong = |text: String| Err(Error::new(Class::Comm, text));
        if self.comms.len() < 2 || self.comms[..2].iter().any(Option::is_none) || self.next_context > CONTEXT_MAX {
            return wrong("it has no world communicator".into());
        }
        for (i, c) in self.comms.iter().enumerate() {
            let Some(c) = c else { continue };
            if c.context > CONTEXT_MAX || c.group.len() > size as usize || c.group.iter().any(|r| r.0 >= size) || c.group.get(c.me as usize) != Some(&me) {
                return wrong(format!("communicator {} is not one of rank {} in a job of {size} ranks", i + 1, me.0));
            }
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

    pub fn add(&mut self, comm: Comm) -> Handle {
        let free = (FIRST as usize - 1..self.comms.len()).find(|i| self.comms[*i].is_none());
        let slot = free.unwrap_or_else(|| {
            self.comms.push(None);
            self.comms.len() - 1
        });
        self.comms[slot] = Some(comm);
        slot as i32 + 1
    }

    pub fn free(&mut self, handle: Handle) -> Result<()> {
        self.get(handle)?;
        if handle < FIRST {
            return Err(Error::new(Class::Comm, "MPI_COMM_WORLD and MPI_COMM_SELF can't be freed"));
        }
        self.comms[(handle - 1) as usize] = None;
        Ok(())
    }
}
