//! Windows: memory of each rank that others read and write while it does something else (MPI 4, chapter 12).
//!
//! ```text
//!  origin                          target
//!  Put, Accumulate ─────────────▶  applied when the target's rank next looks into its mailbox
//!  Get, Fetch, CompareSwap ─────▶  ──▶ Reply
//!  Flush ───────────────────────▶  ──▶ Flushed: all that came before has been applied
//!  Lock ────────────────────────▶  ──▶ Granted, in the order of asking
//!  Post, Complete: an exposure of memory to a group begins, and ends
//! ```
//!
//! All of it are messages between pairs of ranks, which keep their order and move with the ranks like any others; a rank's memory is touched by its
//! own threads alone, one at a time, so each access is one step. What a window has open (epochs, locks, accesses without an answer) is plain data here. A window has a
//! communicator of its own, which the program can't name: its group, its context, its error handler, its name and hints are the window's.

use crate::comm;
use crate::datatype::{Basic, Datatype};
use crate::error::{Class, Error, Result};
use crate::op::Op;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// A window handle as the guest sees it.
pub type Handle = i32;
/// Far from the handles of communicators, so that of any handle it is known what it is.
pub const FIRST: Handle = 0x1000_0000;
/// Pieces of memory that one dynamic window may have.
const REGIONS_MAX: usize = 1 << 16;

/// How a window's memory came to be, with the numbers of `guests/mpi.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(i32)]
pub enum Flavor {
    Create = 1,
    Allocate = 2,
    Dynamic = 3,
    Shared = 4,
}

/// One rank's memory in a window: guest address, bytes, and bytes by which displacements count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub base: u32,
    pub size: u32,
    pub unit: u32,
}

/// What is open between this rank and another one of a window.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// Accesses were sent since the last flush.
    pub dirty: bool,
    /// Flushes without an answer.
    pub flushes: u32,
    /// Accesses whose reply has not come.
    pub replies: u32,
    /// This rank may access it by a lock.
    pub locked: bool,
    /// It knows of that lock (`MPI_MODE_NOCHECK` doesn't ask).
    pub asked: bool,
    pub granted: bool,
    /// Exposures that it has begun for this rank, and accesses to this rank that it has ended, neither of them seen to.
    pub posts: u32,
    pub completes: u32,
}

/// A lock of this rank's memory, of a rank of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lock {
    pub holder: u32,
    pub exclusive: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Window {
    pub comm: comm::Handle,
    pub(crate) context: u32,
    pub flavor: Flavor,
    /// By rank of the window.
    pub parts: Vec<Part>,
    /// Of a dynamic window: what is attached here, as address and bytes.
    pub(crate) regions: Vec<(u32, u32)>,
    /// Guest address of what its attributes point to; 0: none yet.
    pub constants: u32,
    pub(crate) peers: Vec<Peer>,
    /// Between two fences.
    pub(crate) fence: bool,
    /// Whom `MPI_Win_start` opened.
    pub(crate) started: Option<Vec<u32>>,
    /// To whom `MPI_Win_post` opened this rank's memory.
    pub(crate) exposed: Option<Vec<u32>>,
    pub(crate) holders: Vec<Lock>,
    pub(crate) waiting: VecDeque<Lock>,
    /// What a target has refused, until the next call that waits for it: class and text.
    pub(crate) failed: Option<(i32, String)>,
}

impl Window {
    pub(crate) fn new(comm: comm::Handle, context: u32, flavor: Flavor, parts: Vec<Part>) -> Window {
        Window {
            comm,
            context,
            flavor,
            peers: vec![Peer::default(); parts.len()],
            parts,
            regions: Vec::new(),
            constants: 0,
            fence: false,
            started: None,
            exposed: None,
            holders: Vec::new(),
            waiting: VecDeque::new(),
            failed: None,
        }
    }

    /// Whether a lock of this rank's is open.
    pub(crate) fn locked(&self) -> bool {
        self.peers.iter().any(|p| p.locked)
    }

    /// Whether rank `target` may be accessed now.
    pub(crate) fn open(&self, target: usize) -> bool {
        self.fence || self.peers[target].locked || self.started.as_ref().is_some_and(|s| s.contains(&(target as u32)))
    }

    /// Gives this rank's memory to those who wait for it, in their order; whom to tell.
    pub(crate) fn grant(&mut self) -> Vec<u32> {
        let mut told = Vec::new();
        while let Some(next) = self.waiting.front().copied() {
            let fits = self.holders.is_empty() || !next.exclusive && self.holders.iter().all(|h| !h.exclusive);
            if !fits {
                break;
            }
            self.waiting.pop_front();
            self.holders.push(next);
            told.push(next.holder);
        }
        told
    }

    pub fn attach(&mut self, base: u32, size: u32) -> Result<()> {
        self.dynamic()?;
        let end = |(b, s): &(u32, u32)| u64::from(*b) + u64::from(*s);
        if let Some((b, s)) = self.regions.iter().find(|r| u64::from(base) < end(r) && u64::from(r.0) < end(&(base, size))) {
            let text = format!("{size} bytes at {base:#x} overlap {s} bytes at {b:#x}, which are attached to the window already; call MPI_Win_detach first");
            return Err(Error::new(Class::RmaAttach, text));
        }
        if self.regions.len() >= REGIONS_MAX {
            return Err(Error::new(Class::RmaAttach, format!("{REGIONS_MAX} pieces of memory are attached to the window; detach some first")));
        }
        self.regions.push((base, size));
        Ok(())
    }

    pub fn detach(&mut self, base: u32) -> Result<()> {
        self.dynamic()?;
        let at = self.regions.iter().position(|(b, _)| *b == base);
        let at = at.ok_or_else(|| Error::new(Class::RmaAttach, format!("no memory at {base:#x} is attached to the window")))?;
        self.regions.swap_remove(at);
        Ok(())
    }

    fn dynamic(&self) -> Result<()> {
        if self.flavor == Flavor::Dynamic { Ok(()) } else { Err(Error::new(Class::RmaFlavor, "only a window of MPI_Win_create_dynamic has memory attached")) }
    }

    /// Whether bytes `low..high` of this rank `me` are in the window. Pieces that were attached side by side are one.
    pub(crate) fn has(&self, me: usize, low: i128, high: i128) -> bool {
        let end = |base: u32, size: u32| i128::from(base) + i128::from(size);
        if self.flavor != Flavor::Dynamic {
            return low >= i128::from(self.parts[me].base) && high <= end(self.parts[me].base, self.parts[me].size);
        }
        let mut at = low;
        while at < high {
            let Some((b, s)) = self.regions.iter().find(|(b, s)| i128::from(*b) <= at && at < end(*b, *s)) else { return false };
            at = end(*b, *s);
        }
        true
    }
}

/// A rank's windows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table(Vec<Option<Window>>);

impl Table {
    fn index(handle: Handle) -> Option<usize> {
        usize::try_from(i64::from(handle) - i64::from(FIRST)).ok()
    }

    pub fn get(&self, handle: Handle) -> Result<&Window> {
        let found = Table::index(handle).and_then(|i| self.0.get(i)).and_then(Option::as_ref);
        found.ok_or_else(|| Error::new(Class::Win, format!("window handle {handle} is not valid")))
    }

    pub fn get_mut(&mut self, handle: Handle) -> Result<&mut Window> {
        let found = Table::index(handle).and_then(|i| self.0.get_mut(i)).and_then(Option::as_mut);
        found.ok_or_else(|| Error::new(Class::Win, format!("window handle {handle} is not valid")))
    }

    pub(crate) fn add(&mut self, window: Window) -> Handle {
        let slot = self.0.iter().position(Option::is_none).unwrap_or_else(|| {
            self.0.push(None);
            self.0.len() - 1
        });
        self.0[slot] = Some(window);
        FIRST + slot as Handle
    }

    pub(crate) fn remove(&mut self, handle: Handle) -> Option<Window> {
        self.0.get_mut(Table::index(handle)?)?.take()
    }

    pub(crate) fn with_context(&self, context: u32) -> Option<Handle> {
        self.0.iter().position(|w| w.as_ref().is_some_and(|w| w.context == context)).map(|i| FIRST + i as Handle)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Whether windows that were read from elsewhere are of communicators that are there.
    pub(crate) fn check(&self, comms: &comm::Table) -> Result<()> {
        for w in self.0.iter().flatten() {
            let n = w.parts.len() as u32;
            let comm = comms.used(w.comm).filter(|c| c.context == w.context && c.remote.is_none() && c.size() == n && w.peers.len() == n as usize);
            let lists = w.started.iter().chain(&w.exposed).flatten().copied();
            let named = lists.chain(w.holders.iter().chain(&w.waiting).map(|l| l.holder));
            if comm.is_none() || named.into_iter().any(|r| r >= n) {
                return Err(Error::new(Class::Win, format!("a window of {n} ranks is of other ranks than it says")));
            }
        }
        Ok(())
    }
}

/// Where in the target's memory an access goes, and how it lies there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct At {
    pub address: u32,
    pub count: u32,
    /// Packed bytes of all of it.
    pub bytes: u32,
    /// `None`: one run of bytes.
    pub shape: Option<Box<Datatype>>,
}

/// What an accumulation does with what is there and what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Combine {
    /// `MPI_NO_OP`
    Nothing,
    /// `MPI_REPLACE`
    Replace,
    With(Op, Basic),
}

/// What a message of a window says; an access's packed bytes follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Note {
    Put(At),
    Accumulate(At, Combine),
    /// Wants a `Reply` with this number.
    Get(At, u32),
    /// [`Note::Get`] and then [`Note::Accumulate`] in one step.
    Fetch(At, Combine, u32),
    /// The old bytes that are compared come first, then the new ones.
    CompareSwap(At, u32),
    Reply(u32),
    /// The target refuses an access: its number if it has one, error class, text.
    Refused(Option<u32>, i32, String),
    Flush,
    Flushed,
    Lock { exclusive: bool },
    Granted,
    /// Answered by `Flushed`.
    Unlock,
    Post,
    Complete,
}
