//! Epochs: when a window's memory may be accessed, and when accesses are complete.
//!
//! | call | is complete when |
//! | --- | --- |
//! | fence | all targets have answered a flush, and all ranks have come |
//! | start | all of the group have posted |
//! | complete | what was read has come; the targets are told |
//! | wait | all of the group have told so |
//! | lock | the target has granted it |
//! | unlock, flush | the target has answered: it has applied all that came before |
//! | flush_local | what was read has come |
//!
//! A call that waits is a request like any other ([`Wait`]), which the rank looks at when messages have come; so a rank can be stopped while it waits.

use super::{Request, State, Work};
use crate::collective::NewWindow;
use crate::comm::{self, Comm};
use crate::error::{Class, Error, Result};
use crate::fabric::Fabric;
use crate::memory::Memory;
use crate::message::{Header, Rank};
use crate::window::{Flavor, Handle, Lock, Note, Part, Window};
use serde::{Deserialize, Serialize};

/// `MPI_MODE_NOCHECK`, `MPI_MODE_NOSUCCEED` and all assertions of `guests/mpi.h`.
const NOCHECK: i32 = 1024;
const NOSUCCEED: i32 = 16384;
const ASSERTIONS: i32 = 1024 | 2048 | 4096 | 8192 | 16384;

/// What a call of a window waits for. `target`: `None` for all ranks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Wait {
    /// First for the targets, then (`barrier` is not 0) for all ranks.
    Fence { window: Handle, barrier: Request, open: bool },
    Flushed { window: Handle, target: Option<u32> },
    Replied { window: Handle, target: Option<u32> },
    Granted { window: Handle, target: Option<u32> },
    Started { window: Handle },
    Completed { window: Handle },
    Freed { window: Handle, barrier: Request },
    /// First until all ranks know of the file, then (`made` is 0) for the one that opens it.
    Opening { file: Handle, made: Request, into: u32 },
}

impl Wait {
    pub(super) fn window(&self) -> Handle {
        match *self {
            Wait::Fence { window, .. }
            | Wait::Flushed { window, .. }
            | Wait::Replied { window, .. }
            | Wait::Granted { window, .. }
            | Wait::Started { window }
            | Wait::Completed { window }
            | Wait::Freed { window, .. } => window,
            Wait::Opening { .. } => 0,
        }
    }

    pub(super) fn target(&self) -> Option<u32> {
        match *self {
            Wait::Flushed { target, .. } | Wait::Replied { target, .. } | Wait::Granted { target, .. } => target,
            _ => None,
        }
    }
}

fn outside(what: &str) -> Error {
    Error::new(Class::RmaSync, what)
}

fn assertion(assert: i32) -> Result<()> {
    if assert & !ASSERTIONS != 0 {
        return Err(Error::new(Class::Assert, format!("{assert} is no assertion about a window")));
    }
    Ok(())
}

impl State {
    /// A window's communicator.
    pub fn window_comm(&self, window: Handle) -> Result<&Comm> {
        let comm = self.windows.get(window)?.comm;
        self.comms.used(comm).ok_or_else(|| Error::new(Class::Win, "the window has lost its communicator"))
    }

    /// All ranks have told where their memory is.
    pub(super) fn window_made(&mut self, mem: &mut Memory<'_>, new: &NewWindow, words: &[u8]) -> Result<()> {
        let word = |i: usize| words.get(4 * i..4 * i + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().expect("four bytes")));
        let (context, group) = (word(0), new.like.group.clone());
        let wrong = new.flavor == Flavor::Shared && group.len() > 1;
        if wrong || !group.contains(&self.me) || context > u32::MAX / 2 - 1 {
            return Err(Error::new(Class::RmaShared, "these ranks share no memory; make the window on a communicator of MPI_Comm_split_type"));
        }
        let parts = (0..group.len()).map(|r| Part { base: word(4 * r + 1), size: word(4 * r + 2), unit: word(4 * r + 3) }).collect();
        let comm = self.comms.add(Comm { hints: new.like.hints.clone(), ..Comm::new(context, group, None, self.me) });
        let window = self.windows.add(Window::new(comm, context, new.flavor, parts));
        self.fresh = true;
        let at = new.into as usize;
        mem.write(at, &window.to_le_bytes()).ok_or_else(|| Error::new(Class::Buffer, format!("result address {at:#x} is outside of memory")))
    }

    pub(super) fn wait_for(&mut self, wait: Wait) -> Result<Request> {
        let request = self.add(Work::Epoch(wait))?;
        self.epochs.push(request);
        Ok(request)
    }

    /// Tells ranks of a window; their numbers in it.
    fn tell(&mut self, fabric: &Fabric, window: Handle, targets: &[u32], note: &Note) -> Result<()> {
        let context = self.windows.get(window)?.context * 2;
        for t in targets {
            let to = self.window_comm(window)?.world(*t as i32)?;
            self.note(fabric, to, context, note, &[]);
        }
        Ok(())
    }

    /// Those of `target`, or of all ranks, of whom `which` is true.
    fn peers(&self, window: Handle, target: Option<u32>, which: impl Fn(&crate::window::Peer) -> bool) -> Result<Vec<u32>> {
        let peers = self.windows.get(window)?.peers.iter().zip(0u32..);
        Ok(peers.filter(|(p, i)| target.is_none_or(|t| t == *i) && which(p)).map(|(_, i)| i).collect())
    }

    /// Asks ranks that were accessed for an answer behind all accesses.
    fn ask_flush(&mut self, fabric: &Fabric, window: Handle, target: Option<u32>) -> Result<()> {
        let dirty = self.peers(window, target, |p| p.dirty)?;
        self.tell(fabric, window, &dirty, &Note::Flush)?;
        let w = self.windows.get_mut(window)?;
        for t in dirty {
            let peer = &mut w.peers[t as usize];
            (peer.dirty, peer.flushes) = (false, peer.flushes.saturating_add(1));
        }
        Ok(())
    }

    /// `MPI_Win_fence`
    pub fn fence(&mut self, fabric: &Fabric, window: Handle, assert: i32) -> Result<Request> {
        assertion(assert)?;
        let w = self.windows.get(window)?;
        if w.started.is_some() || w.exposed.is_some() || w.locked() {
            return Err(outside("MPI_Win_fence within another epoch; end that with MPI_Win_complete, MPI_Win_wait or MPI_Win_unlock first"));
        }
        self.ask_flush(fabric, window, None)?;
        self.wait_for(Wait::Fence { window, barrier: 0, open: assert & NOSUCCEED == 0 })
    }

    /// The ranks of a group as they are called in a window.
    fn members(&self, window: Handle, group: &[Rank]) -> Result<Vec<u32>> {
        let comm = self.window_comm(window)?;
        let member = |r: &Rank| u32::try_from(comm.local(*r)).map_err(|_| Error::new(Class::Group, format!("rank {} of the world is in the group and not in the window", r.0)));
        group.iter().map(member).collect()
    }

    /// `MPI_Win_post`
    pub fn window_post(&mut self, fabric: &Fabric, window: Handle, group: &[Rank], assert: i32) -> Result<()> {
        assertion(assert)?;
        let members = self.members(window, group)?;
        let w = self.windows.get_mut(window)?;
        if w.exposed.is_some() {
            return Err(outside("MPI_Win_post was called before; end that epoch with MPI_Win_wait first"));
        }
        w.exposed = Some(members.clone());
        self.tell(fabric, window, &members, &Note::Post)
    }

    /// `MPI_Win_start`
    pub fn window_start(&mut self, window: Handle, group: &[Rank], assert: i32) -> Result<Request> {
        assertion(assert)?;
        let members = self.members(window, group)?;
        let w = self.windows.get_mut(window)?;
        if w.started.is_some() || w.locked() {
            return Err(outside("MPI_Win_start within another epoch; end that first"));
        }
        (w.started, w.fence) = (Some(members), false);
        self.wait_for(Wait::Started { window })
    }

    /// `MPI_Win_complete`
    pub fn window_complete(&mut self, fabric: &Fabric, window: Handle) -> Result<Request> {
        let w = self.windows.get_mut(window)?;
        let started = w.started.take().ok_or_else(|| outside("MPI_Win_complete without MPI_Win_start"))?;
        for t in &started {
            // Who waits is told behind the accesses, so nobody need be asked.
            w.peers[*t as usize].dirty = false;
        }
        self.tell(fabric, window, &started, &Note::Complete)?;
        self.wait_for(Wait::Replied { window, target: None })
    }

    /// `MPI_Win_wait`
    pub fn window_wait(&mut self, window: Handle) -> Result<Request> {
        if self.windows.get(window)?.exposed.is_none() {
            return Err(outside("MPI_Win_wait without MPI_Win_post"));
        }
        self.wait_for(Wait::Completed { window })
    }

    /// `MPI_Win_test`: whether the epoch of `MPI_Win_post` has ended.
    pub fn window_test(&mut self, window: Handle) -> Result<bool> {
        let w = self.windows.get_mut(window)?;
        let Some(exposed) = &w.exposed else { return Err(outside("MPI_Win_test without MPI_Win_post")) };
        if exposed.iter().any(|t| w.peers[*t as usize].completes == 0) {
            return Ok(false);
        }
        for t in w.exposed.take().unwrap_or_default() {
            let peer = &mut w.peers[t as usize];
            peer.completes = peer.completes.saturating_sub(1);
        }
        Ok(true)
    }

    fn rank_of(&self, window: Handle, rank: i32) -> Result<u32> {
        self.window_comm(window)?.world(rank).map(|_| rank as u32)
    }

    /// `MPI_Win_lock`, or (`rank` `None`) `MPI_Win_lock_all`. It is complete when the lock is held.
    pub fn lock(&mut self, fabric: &Fabric, window: Handle, rank: Option<i32>, exclusive: bool, assert: i32) -> Result<Request> {
        assertion(assert)?;
        let target = rank.map(|r| self.rank_of(window, r)).transpose()?;
        let w = self.windows.get_mut(window)?;
        let taken = w.peers.iter().zip(0u32..).any(|(p, i)| p.locked && target.is_none_or(|t| t == i));
        if taken || w.started.is_some() {
            return Err(outside("the window is locked already or in another epoch; end that first"));
        }
        w.fence = false;
        let asks = assert & NOCHECK == 0;
        let targets = self.peers(window, target, |_| true)?;
        for t in &targets {
            let peer = &mut self.windows.get_mut(window)?.peers[*t as usize];
            (peer.locked, peer.asked, peer.granted) = (true, asks, !asks);
        }
        if asks {
            self.tell(fabric, window, &targets, &Note::Lock { exclusive })?;
        }
        self.wait_for(Wait::Granted { window, target })
    }

    /// `MPI_Win_unlock`, `MPI_Win_unlock_all`
    pub fn unlock(&mut self, fabric: &Fabric, window: Handle, rank: Option<i32>) -> Result<Request> {
        let target = rank.map(|r| self.rank_of(window, r)).transpose()?;
        let locked = self.peers(window, target, |p| p.locked)?;
        if locked.is_empty() {
            return Err(outside("MPI_Win_unlock without MPI_Win_lock"));
        }
        let asked = self.peers(window, target, |p| p.locked && p.asked)?;
        self.tell(fabric, window, &asked, &Note::Unlock)?;
        let w = self.windows.get_mut(window)?;
        for t in &locked {
            let peer = &mut w.peers[*t as usize];
            if peer.asked {
                (peer.dirty, peer.flushes) = (false, peer.flushes.saturating_add(1));
            }
            (peer.locked, peer.granted) = (false, false);
        }
        self.ask_flush(fabric, window, target)?;
        self.wait_for(Wait::Flushed { window, target })
    }

    /// `MPI_Win_flush` and its like. `local`: the origin's buffers may be used again.
    pub fn window_flush(&mut self, fabric: &Fabric, window: Handle, rank: Option<i32>, local: bool) -> Result<Request> {
        let target = rank.map(|r| self.rank_of(window, r)).transpose()?;
        if self.peers(window, target, |p| p.locked)?.is_empty() {
            return Err(outside("a flush without MPI_Win_lock or MPI_Win_lock_all"));
        }
        if local {
            return self.wait_for(Wait::Replied { window, target });
        }
        self.ask_flush(fabric, window, target)?;
        self.wait_for(Wait::Flushed { window, target })
    }

    /// `MPI_Win_free`
    pub fn window_free(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, window: Handle) -> Result<Request> {
        let w = self.windows.get(window)?;
        if w.started.is_some() || w.exposed.is_some() || w.locked() {
            return Err(outside("MPI_Win_free within an epoch; end that first"));
        }
        let barrier = self.barrier(mem, fabric, self.windows.get(window)?.comm)?;
        self.wait_for(Wait::Freed { window, barrier })
    }

    /// What has nothing to do with accesses themselves.
    pub(super) fn epoch_note(&mut self, fabric: &Fabric, window: Handle, header: Header, from: u32, note: Note) -> Result<()> {
        let w = self.windows.get_mut(window)?;
        let peer = &mut w.peers[from as usize];
        match note {
            Note::Flush => self.note(fabric, header.src, header.context, &Note::Flushed, &[]),
            Note::Flushed => peer.flushes = peer.flushes.saturating_sub(1),
            Note::Granted => peer.granted = true,
            Note::Post => peer.posts = peer.posts.saturating_add(1),
            Note::Complete => peer.completes = peer.completes.saturating_add(1),
            Note::Lock { exclusive } => {
                w.waiting.push_back(Lock { holder: from, exclusive });
                self.grant(fabric, window)?;
            }
            Note::Unlock => {
                w.holders.retain(|h| h.holder != from);
                self.note(fabric, header.src, header.context, &Note::Flushed, &[]);
                self.grant(fabric, window)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn grant(&mut self, fabric: &Fabric, window: Handle) -> Result<()> {
        let granted = self.windows.get_mut(window)?.grant();
        self.tell(fabric, window, &granted, &Note::Granted)
    }

    /// Looks whether what calls of windows wait for is there.
    pub(super) fn advance_epochs(&mut self, mem: &mut Memory<'_>, fabric: &Fabric) -> Result<()> {
        let mut i = 0;
        while let Some(request) = self.epochs.get(i).copied() {
            let Work::Epoch(wait) = self.slot(request)?.work else {
                self.epochs.swap_remove(i);
                continue;
            };
            let ended = self.arrived(mem, fabric, request, wait);
            if let Ok(false) = ended {
                i += 1;
                continue;
            }
            self.epochs.swap_remove(i);
            let failed = match ended {
                Err(e) => Some((e.class as i32, e.message)),
                Ok(_) => self.windows.get_mut(wait.window()).ok().and_then(|w| w.failed.take()),
            };
            let slot = self.slot(request)?;
            slot.work = Work::Done;
            if let Some((class, text)) = failed {
                slot.status.error = class;
                self.failed = Some((request, text));
            }
        }
        Ok(())
    }

    fn arrived(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, request: Request, wait: Wait) -> Result<bool> {
        Ok(match wait {
            Wait::Flushed { window, target } => self.peers(window, target, |p| p.flushes > 0)?.is_empty(),
            Wait::Replied { window, target } => self.peers(window, target, |p| p.replies > 0)?.is_empty(),
            Wait::Granted { window, target } => self.peers(window, target, |p| !p.granted)?.is_empty(),
            Wait::Completed { window } => self.window_test(window)?,
            Wait::Started { window } => {
                let w = self.windows.get_mut(window)?;
                let started = w.started.as_deref().unwrap_or_default();
                if started.iter().any(|t| w.peers[*t as usize].posts == 0) {
                    return Ok(false);
                }
                for t in started {
                    let peer = &mut w.peers[*t as usize];
                    peer.posts = peer.posts.saturating_sub(1);
                }
                true
            }
            Wait::Fence { window, barrier: 0, open } => {
                if !self.peers(window, None, |p| p.flushes > 0)?.is_empty() {
                    return Ok(false);
                }
                let comm = self.windows.get(window)?.comm;
                let barrier = self.barrier(mem, fabric, comm)?;
                let next = Wait::Fence { window, barrier, open };
                self.slot(request)?.work = Work::Epoch(next);
                return self.arrived(mem, fabric, request, next);
            }
            Wait::Fence { window, barrier, open } => {
                if !self.done(barrier)? {
                    return Ok(false);
                }
                self.finish(barrier)?;
                self.windows.get_mut(window)?.fence = open;
                true
            }
            Wait::Opening { made: 0, .. } => false,
            Wait::Opening { file, made, into } => {
                if !self.done(made)? {
                    return Ok(false);
                }
                if let Err(e) = self.finish(made) {
                    self.files.remove(file);
                    return Err(e);
                }
                self.slot(request)?.work = Work::Epoch(Wait::Opening { file, made: 0, into });
                self.file_opening(mem, fabric, request, file, into)?;
                false
            }
            Wait::Freed { window, barrier } => {
                if !self.done(barrier)? {
                    return Ok(false);
                }
                self.finish(barrier)?;
                self.forget_window(window);
                true
            }
        })
    }

    fn forget_window(&mut self, window: Handle) {
        let Some(w) = self.windows.remove(window) else { return };
        if matches!(w.flavor, Flavor::Allocate | Flavor::Shared)
            && let Some(me) = self.comms.used(w.comm).map(|c| c.me as usize)
        {
            self.unused.push(w.parts[me].base);
        }
        self.unused.push(w.constants);
        self.unused.retain(|at| *at != 0);
        let handler = self.comms.used(w.comm).map_or(comm::FATAL, |c| c.handler);
        // The handle may be a number that the program has freed as a communicator of its own.
        let _ = self.comms.free(w.comm, false);
        self.drop_handler(handler);
    }
}
