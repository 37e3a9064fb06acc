//! Communicators made of what the ranks have told each other.

use super::{State, UNDEFINED};
use crate::collective::{How, Make};
use crate::comm::{self, Comm, HANDLERS};
use crate::error::{Class, Error, Result};
use crate::memory::Memory;
use crate::message::Rank;

/// Word `i` of a buffer that all have filled.
fn word(bytes: &[u8], i: usize) -> i32 {
    bytes.get(i * 4..i * 4 + 4).map_or(0, |b| i32::from_le_bytes(b.try_into().expect("four bytes")))
}

/// Those of one color, by key.
fn chosen(ranks: &[Rank], words: &[u8], from: usize, color: i32) -> (Vec<Rank>, Option<u32>) {
    let told = |i: usize| (word(words, 3 * (from + i)), word(words, 3 * (from + i) + 1), word(words, 3 * (from + i) + 2) as u32);
    let mut members: Vec<(i32, usize)> = (0..ranks.len()).filter(|i| told(*i).0 == color).map(|i| (told(i).1, i)).collect();
    members.sort();
    let context = members.first().map(|(_, i)| told(*i).2);
    (members.iter().map(|(_, i)| ranks[*i]).collect(), context)
}

impl State {
    /// Makes it and writes its handle where the program wants it.
    pub(super) fn create(&mut self, mem: &mut Memory<'_>, make: &Make, bufs: &[Vec<u8>]) -> Result<()> {
        let words: &[u8] = bufs.first().map_or(&[], Vec::as_slice);
        let made = match make.how {
            How::Inter { context } => {
                let theirs = bufs.get(1).map_or(&[][..], Vec::as_slice);
                let n = word(theirs, 1).clamp(0, self.world_size() as i32) as usize;
                let remote: Vec<Rank> = (0..n).map(|i| Rank(word(theirs, 2 + i) as u32)).collect();
                let context = bufs.get(context as usize).map_or(0, |b| word(b, 0) as u32);
                if remote.iter().any(|r| r.0 >= self.world_size() || make.local.contains(r)) || remote.is_empty() {
                    return Err(Error::new(Class::Comm, "the two groups of an inter-communicator have ranks in common"));
                }
                Some((context, make.local.clone(), Some(remote)))
            }
            How::Merge => {
                let remote = make.remote.as_deref().unwrap_or_default();
                let high = |i: usize| word(words, 3 * i) != 0;
                let theirs = make.local.len();
                // The lower side first; of equals, the side of the lower first rank.
                let ours_first = match (high(0), high(theirs)) {
                    (a, b) if a != b => !a,
                    _ => make.local.first() < remote.first(),
                };
                let (first, second, at) = if ours_first { (make.local.as_slice(), remote, 0) } else { (remote, make.local.as_slice(), theirs) };
                Some((word(words, 3 * at + 2) as u32, [first, second].concat(), None))
            }
            How::Split { color: UNDEFINED } => None,
            How::Split { color } => self.split(make, words, color),
            How::Keep { .. } => self.split(make, words, 0),
        };
        let handle = match made {
            None => 0,
            Some((context, group, remote)) => {
                if !group.contains(&self.me) || context > u32::MAX / 2 - 1 {
                    return Err(Error::new(Class::Comm, "a rank is not in the communicator that it makes"));
                }
                let like = &make.like;
                if let Some(Some(h)) = usize::try_from(i64::from(like.handler) - i64::from(HANDLERS)).ok().and_then(|i| self.handlers.get_mut(i)) {
                    h.uses = h.uses.saturating_add(1);
                }
                let comm = Comm { handler: like.handler, topology: like.topology.clone(), hints: like.hints.clone(), ..Comm::new(context, group, remote, self.me) };
                match make.how {
                    How::Keep { handle } => return self.comms.put(handle, comm),
                    _ => self.comms.add(comm),
                }
            }
        };
        let at = make.into as usize;
        mem.write(at, &handle.to_le_bytes()).ok_or_else(|| Error::new(Class::Buffer, format!("result address {at:#x} is outside of memory")))
    }

    fn split(&self, make: &Make, words: &[u8], color: i32) -> Option<(u32, Vec<Rank>, Option<Vec<Rank>>)> {
        let (group, context) = chosen(&make.local, words, 0, color);
        let Some(remote) = &make.remote else { return Some((context?, group, None)) };
        let (others, their_context) = chosen(remote, words, make.local.len(), color);
        // An inter-communicator with an empty side is none.
        let (ours, theirs) = (*group.first()?, *others.first()?);
        let context = if ours < theirs { context? } else { their_context? };
        Some((context, group, Some(others)))
    }
}

/// The handler that a communicator has.
impl State {
    /// Gives a communicator an error handler; the old one has a user less.
    pub fn set_handler(&mut self, comm: comm::Handle, handler: i32) -> Result<()> {
        if !matches!(handler, comm::FATAL | comm::RETURN) {
            self.handler(handler)?.uses += 1;
        }
        let old = std::mem::replace(&mut self.comms.get_mut(comm)?.handler, handler);
        self.drop_handler(old);
        Ok(())
    }

    pub fn handler(&mut self, handle: i32) -> Result<&mut super::Handler> {
        let at = usize::try_from(i64::from(handle) - i64::from(HANDLERS)).ok();
        let found = at.and_then(|i| self.handlers.get_mut(i)).and_then(Option::as_mut);
        found.ok_or_else(|| Error::new(Class::Arg, format!("error handler {handle} is not valid")))
    }

    /// One user less; without any it is gone.
    pub fn drop_handler(&mut self, handle: i32) {
        if let Ok(h) = self.handler(handle) {
            h.uses = h.uses.saturating_sub(1);
            if h.uses == 0 {
                self.handlers[(handle - HANDLERS) as usize] = None;
            }
        }
    }

    pub fn add_handler(&mut self, function: u32) -> Result<i32> {
        /// Handlers of one rank at a time.
        const MAX: usize = 1 << 16;
        let slot = self.handlers.iter().position(Option::is_none).unwrap_or(self.handlers.len());
        if slot >= MAX {
            return Err(Error::new(Class::Other, format!("this rank has {MAX} error handlers; free some with MPI_Errhandler_free")));
        }
        if slot == self.handlers.len() {
            self.handlers.push(None);
        }
        self.handlers[slot] = Some(super::Handler { function, uses: 1 });
        Ok(HANDLERS + slot as i32)
    }
}
