//! The agent of a node: processes of one machine share its tier, each mapping the bytes for itself.
//!
//! ```text
//!  process ── UNIX socket ──▶ agent (`server.rs`) ─▶ Node                    what is asked: open, write, list, …
//!     │  ◀── descriptor of the segment, its place ───┘
//!     ├─ maps the segment, read only
//!     ├─ board   (agent writes, all read)    a word per name: rises before the name changes its meaning
//!     └─ slots   (one memory per process)    a word per object that it has: how many readers, wanted back, taken back
//! ```
//!
//! The first open of a name asks. From then on the process answers it by itself for as long as the board's word is what it was and the lease's term isn't
//! over, takes the object by counting up its slot, and reads it through its mapping: two loads, an addition, no system call.
//!
//! What a process has is *pinned*: the node keeps its bytes. A pin that nobody reads through is taken back when the object is freed or moved or room is
//! wanted; one that is read through is marked, and comes back with its last reader. A process that ends, however it ends, closes its socket, and with that goes all that
//! it had. Should the agent end first, the readers' mappings stay whole: no range of a segment that they may see is cut or given out again, in the next
//! life of the node either, as long as one of them holds the lock `attached` in the node's folder.
//!
//! The reasons are in `docs/design/sharing.md`. Nothing here decides what a key means, or when an object is spilled.

mod client;
mod server;
mod shm;
mod wire;

pub use client::{Attached, AttachedAppendable, AttachedFollower, AttachedWriter, Lent};
pub(crate) use server::Lendable;
pub(crate) use shm::read_only;
pub(crate) use wire::{Place, read_agent, read_agent_told, some_asks, some_told};

use crate::{
    Error, Object, ObjectId, Result,
    leases::hash,
    local::{IdMap, Tier, file},
};
use shm::Words;
use std::{
    collections::HashMap,
    fs::File,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};
use wire::Seen;

/// Words of the board. Names that share one are doubted together, which costs a question.
const NAMES: usize = 1 << 16;
/// Objects that one process may have at a time.
const SLOTS: usize = 1 << 16;

// A slot: the number of readers, and two marks. A reader counts up only where no mark is.
const READERS: u64 = 0xffff_ffff;
/// The agent wants it back: whoever lets go of it last says so.
const WANTED: u64 = 1 << 32;
/// It is taken back, by the agent or the process; nobody reads through it again.
const TAKEN: u64 = 1 << 33;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked here is changed by single operations of maps, so a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// What may still be believed: a word for each of [`NAMES`] classes of names, and one for all.
pub(crate) struct Board(Words);

impl Board {
    fn create() -> Result<Board> {
        Words::create(NAMES + 1).map(Board)
    }

    fn name(&self, hash: u64) -> &AtomicU64 {
        self.0.at(1 + hash as usize % NAMES)
    }

    fn now(&self, hash: u64) -> Seen {
        Seen { all: self.0.at(0).load(SeqCst), name: self.name(hash).load(SeqCst) }
    }

    /// From the return on, no process answers the name by itself.
    pub fn revoke(&self, hash: u64) {
        self.name(hash).fetch_add(1, SeqCst);
    }

    pub fn revoke_all(&self) {
        self.0.at(0).fetch_add(1, SeqCst);
    }
}

/// Held shared by all that may have this node's files mapped. Its name is known to `local.rs`, too, which looks whether anybody is left.
pub(crate) const ATTACHED: &str = "attached";

/// What a node has lent, to whom.
pub(crate) struct Lending {
    pub board: Arc<Board>,
    pins: Mutex<Pins>,
    /// A process that is attached has a descriptor of this very opening, so the lock ends with the last of them.
    attached: Arc<File>,
}

#[derive(Default)]
struct Pins {
    sessions: HashMap<u64, Session>,
    /// Who has an object: sessions and their slots.
    by_id: IdMap<Vec<(u64, u32)>>,
    next: u64,
}

struct Session {
    slots: Arc<Words>,
    held: HashMap<u32, Object>,
}

impl Pins {
    /// Takes a pin out of the books. To be dropped when the lock is not held: with it a file may go.
    fn remove(&mut self, session: u64, slot: u32) -> Option<Object> {
        let object = self.sessions.get_mut(&session)?.held.remove(&slot)?;
        let id = object.meta().id;
        if let Some(who) = self.by_id.get_mut(&id) {
            who.retain(|pin| *pin != (session, slot));
            if who.is_empty() {
                self.by_id.remove(&id);
            }
        }
        Some(object)
    }

    /// Takes a pin back if nobody reads through it, else marks it.
    fn want(&mut self, session: u64, slot: u32) -> Option<Object> {
        let word = self.sessions.get(&session)?.slots.clone();
        let word = word.at(slot as usize);
        let before = word.fetch_update(SeqCst, SeqCst, |now| match now {
            now if now & TAKEN != 0 => None,
            now if now & READERS == 0 => Some(TAKEN),
            now => Some(now | WANTED),
        });
        match before {
            Ok(before) if before & READERS == 0 => self.remove(session, slot),
            // Marked, or the process has let go of it and its word is on the way.
            _ => None,
        }
    }
}

impl Lending {
    /// `folder`: the node's.
    fn open(folder: &Path) -> Result<Lending> {
        let path = folder.join(ATTACHED);
        let attached = File::options().create(true).truncate(false).write(true).open(&path).map_err(file("open", &path))?;
        attached.lock_shared().map_err(file("lock", &path))?;
        Ok(Lending { board: Arc::new(Board::create()?), pins: Mutex::default(), attached: Arc::new(attached) })
    }

    fn attach(&self) -> Result<(u64, Arc<Words>)> {
        let slots = Arc::new(Words::create(SLOTS)?);
        let mut pins = lock(&self.pins);
        pins.next += 1;
        let session = pins.next;
        pins.sessions.insert(session, Session { slots: slots.clone(), held: HashMap::new() });
        Ok((session, slots))
    }

    /// Lets go of all that a process had.
    fn detach(&self, session: u64) {
        let mut pins = lock(&self.pins);
        let slots: Vec<u32> = pins.sessions.get(&session).into_iter().flat_map(|session| session.held.keys().copied()).collect();
        let objects: Vec<_> = slots.into_iter().filter_map(|slot| pins.remove(session, slot)).collect();
        pins.sessions.remove(&session);
        drop(pins);
        drop(objects);
    }

    /// Keeps an object for a process that is about to be told of it: the first reader is counted already.
    fn pin(&self, session: u64, slot: u32, object: Object) -> Result<()> {
        let odd = |what: &str| Error::Protocol { peer: "an attached process".into(), message: format!("slot {slot} {what}") };
        let mut pins = lock(&self.pins);
        let id = object.meta().id;
        let Some(known) = pins.sessions.get_mut(&session) else { return Err(odd("is of a session that has ended")) };
        if slot as usize >= SLOTS || known.held.contains_key(&slot) {
            return Err(odd("is taken, or out of range"));
        }
        known.slots.at(slot as usize).store(1, SeqCst);
        known.held.insert(slot, object);
        pins.by_id.entry(id).or_default().push((session, slot));
        Ok(())
    }

    fn unpin(&self, session: u64, slots: &[u32]) {
        let mut pins = lock(&self.pins);
        let objects: Vec<_> = slots.iter().filter_map(|slot| pins.remove(session, *slot)).collect();
        drop(pins);
        drop(objects);
    }

    /// The last reader of what was wanted back is gone; another may have come since.
    fn released(&self, session: u64, slot: u32) {
        if (slot as usize) < SLOTS {
            let mut pins = lock(&self.pins);
            let held = pins.sessions.get(&session).is_some_and(|session| session.held.contains_key(&slot));
            let object = if held { pins.want(session, slot) } else { None };
            drop(pins);
            drop(object);
        }
    }

    /// Wants an object back from all. True: some pins are gone already.
    pub fn want(&self, id: ObjectId) -> bool {
        let mut pins = lock(&self.pins);
        let Some(who) = pins.by_id.get(&id).cloned() else { return false };
        let objects: Vec<_> = who.into_iter().filter_map(|(session, slot)| pins.want(session, slot)).collect();
        drop(pins);
        !objects.is_empty()
    }

    /// Wants everything back that is not what the tier has now: freed, or moved by a compaction. True: some pins are gone already.
    pub fn want_stale(&self, tier: &Tier) -> bool {
        let mut pins = lock(&self.pins);
        let stale = pins.sessions.iter().flat_map(|(session, known)| {
            let stale = known.held.iter().filter(|(_, object)| {
                let (meta, local) = object.parts();
                tier.get(meta.id).is_none_or(|now| !Arc::ptr_eq(&now, local))
            });
            stale.map(|(slot, _)| (*session, *slot))
        });
        let stale: Vec<_> = stale.collect();
        let objects: Vec<_> = stale.into_iter().filter_map(|(session, slot)| pins.want(session, slot)).collect();
        drop(pins);
        !objects.is_empty()
    }

    /// Processes that are attached, and what they have.
    pub fn counts(&self) -> (u64, u64) {
        let pins = lock(&self.pins);
        (pins.sessions.len() as u64, pins.sessions.values().map(|session| session.held.len() as u64).sum())
    }
}
