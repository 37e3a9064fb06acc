//! What the ranks of one job on one agent share: a mailbox each, and the knowledge of which ranks are elsewhere.
//!
//! ```text
//!  rank a ──ring──▶ mailbox of b (here)            lock-free, one copy in, one out
//!  rank a ──wire──▶ agent that holds b             kept in a's `unacknowledged` until that agent has it
//!  wire  ──deposit▶ mailbox of b (here)            or forwarded, if b has left
//! ```
//!
//! No input or output happens here: a [`Wire`] carries what must leave. A mailbox is in one of three states ([`Place`]): the rank
//! is *here*; it is *held* (on its way from or to this agent, not decided yet: what arrives is kept and not acknowledged); or it is *away*.

use crate::lines::Apart;
use crate::loan::Loan;
use crate::message::{Header, Kind, Message, Rank};
use crate::ring::Ring;
use serde::{Deserialize, Serialize};
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::Thread;
use std::time::Duration;

/// Carries messages and acknowledgements to other agents. Never blocks for long.
pub trait Wire: Send + Sync {
    /// Sends to the agent that holds `message.header.dst`.
    fn send(&self, message: Message);
    /// Tells the agent that holds `src` that its message has reached the mailbox of `dst`.
    fn acknowledge(&self, src: Rank, dst: Rank, seq: u64);
}

/// Where a rank is, from this agent's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    Away = 0,
    Here = 1,
    Held = 2,
}

/// Wakes a rank that waits.
#[derive(Default)]
pub struct Bell {
    sleeping: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Bell {
    /// The thread that will wait on this bell.
    pub fn attach(&self) {
        *lock(&self.thread) = Some(std::thread::current());
    }

    /// A fence (`SeqCst`) comes first: what the caller looks at afterwards it sees as it is after what it published before.
    #[inline]
    pub fn ring(&self) {
        // Pairs with the fence in `wait`: either the sleeper sees what we published before, or we see that it sleeps.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel)
            && let Some(thread) = lock(&self.thread).as_ref()
        {
            thread.unpark();
        }
    }

    /// Sleeps until rung, at most `longest`; `ready` is asked once more before sleeping.
    pub fn wait(&self, longest: Duration, ready: impl FnOnce() -> bool) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !ready() {
            std::thread::park_timeout(longest);
        }
        self.sleeping.store(false, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock means that another thread panicked; what it guards is a queue whose operations are whole.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// One rank's mailbox.
pub struct Mailbox {
    place: AtomicU8,
    rings: Box<[OnceLock<Box<Ring>>]>,
    /// Counts each leaving of the rank, and each message that was put into a ring while it was away; `swept` is how much of that [`Fabric::sweep`] has seen to.
    strays: AtomicU64,
    swept: AtomicU64,
    /// What came over the wire.
    arrived: Mutex<Inbox>,
    arrived_len: AtomicUsize,
    /// Its rank stands still for a checkpoint: all that arrives is acknowledged, so that nothing stays under way.
    all_prompt: AtomicBool,
    /// What this rank sent over the wire and nobody has acknowledged.
    unacknowledged: Mutex<Vec<Kept>>,
    unacknowledged_bytes: AtomicUsize,
    /// Who pops the rings: the rank's thread while it is here, the sweeper when it is away. Written with each look for messages, while senders read what would lie beside it.
    consumer: Apart<Right>,
    pub bell: Bell,
    meter: Apart<Meter>,
}

impl Mailbox {
    #[inline]
    fn ring_from(&self, src: Rank) -> &Ring {
        self.rings[src.index()].get_or_init(Box::default)
    }

    /// After a push into one of its rings.
    #[inline]
    fn pushed(&self) {
        self.bell.ring();
        // The rank may have left while its ring was written. The fence in `ring` pairs with that in `sweep`: either the sweep after its leaving sees
        // what we pushed, or we see that the rank is away and leave a mark for the next one.
        if self.place.load(Ordering::Relaxed) == Place::Away as u8 {
            self.strays.fetch_add(1, Ordering::Release);
        }
    }
}

/// The right to pop a mailbox's rings. A flag and no mutex: its rank takes it with each message and is nearly always alone, so giving it back is a plain store. Who finds it taken
/// looks again; who holds it waits for no other right.
#[derive(Default)]
struct Right(AtomicBool);

impl Right {
    #[inline]
    fn take(&self) -> Taken<'_> {
        while self.0.swap(true, Ordering::Acquire) {
            while self.0.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
        }
        Taken(self)
    }
}

/// Held while rings are popped.
#[must_use]
struct Taken<'r>(&'r Right);

impl Drop for Taken<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// What came over the wire for one rank and waits for it.
#[derive(Default)]
struct Inbox {
    queue: VecDeque<Arrived>,
    bytes: usize,
    /// Of the messages in `queue` (and in the hands of `collect`): sender and number. One that comes again is not kept twice.
    known: HashSet<(Rank, u64)>,
}

struct Arrived {
    message: Message,
    acknowledged: bool,
}

/// Takes messages out of a mailbox.
pub trait Taker {
    /// Whether this message of a rank is wanted now; else it waits, and its sender with it. `seq`: its number, or `None` for what comes in its order.
    fn wants(&mut self, src: Rank, seq: Option<u64>) -> bool;
    fn take(&mut self, header: Header, data: &[u8]);
}

/// A message that may have to be sent again.
struct Kept {
    message: Message,
    /// How often [`Fabric::resend_old`] has seen it since it was last sent.
    age: u32,
    /// How often that has sent it again.
    again: u32,
}

impl Kept {
    fn new(message: Message) -> Kept {
        Kept { message, age: 0, again: 0 }
    }
}

/// What a rank has exchanged with one other (itself included) since its job began: messages as they were sent for it, those of collectives, windows
/// and files included, and the bytes in them. The answer to a synchronous send is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub peer: Rank,
    pub sent: u64,
    pub sent_bytes: u64,
    pub received: u64,
    pub received_bytes: u64,
}

impl Traffic {
    pub fn bytes(&self) -> u64 {
        self.sent_bytes.saturating_add(self.received_bytes)
    }

    pub fn messages(&self) -> u64 {
        self.sent.saturating_add(self.received)
    }
}

/// Counters of a rank with each other one, which telemetry reads while the rank runs. Only who runs the rank counts, one thread at a time, so a load and a store do where
/// an atomic addition would hold up each message. Made by the first message: most agents hold few of a job's ranks.
#[derive(Default)]
struct Meter {
    flows: OnceLock<Box<[Flow]>>,
}

/// On a cache line of its own, which no other rank's thread writes.
#[derive(Default)]
#[repr(align(64))]
struct Flow {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
}

impl Meter {
    #[inline]
    fn with(&self, peer: Rank, ranks: usize) -> &Flow {
        &self.flows.get_or_init(|| (0..ranks).map(|_| Flow::default()).collect())[peer.index()]
    }
}

/// For counters that only one thread writes.
#[inline]
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// Bytes in a rank's mailbox up to which messages are acknowledged when they arrive. What is beyond is acknowledged when the rank takes it, so a
/// sender that outruns its receiver waits.
const PROMPT_MAX: usize = 16 << 20;
/// Bytes that a rank may have under way to other agents before its sends wait.
const UNACKNOWLEDGED_MAX: usize = 64 << 20;
/// And messages.
const MESSAGES_MAX: usize = 4096;

/// The ranks of one job as seen from one agent.
pub struct Fabric {
    mailboxes: Box<[Mailbox]>,
    wire: Box<dyn Wire>,
}

impl Fabric {
    /// A job of `size` ranks, all of them away until [`Fabric::arrive`].
    pub fn new(size: u32, wire: Box<dyn Wire>) -> Fabric {
        let mailbox = |_| Mailbox {
            place: AtomicU8::new(Place::Away as u8),
            rings: (0..size).map(|_| OnceLock::new()).collect(),
            strays: AtomicU64::new(0),
            swept: AtomicU64::new(0),
            arrived: Mutex::default(),
            arrived_len: AtomicUsize::new(0),
            all_prompt: AtomicBool::new(false),
            unacknowledged: Mutex::default(),
            unacknowledged_bytes: AtomicUsize::new(0),
            consumer: Apart::default(),
            bell: Bell::default(),
            meter: Apart::default(),
        };
        Fabric { mailboxes: (0..size).map(mailbox).collect(), wire }
    }

    pub fn size(&self) -> u32 {
        self.mailboxes.len() as u32
    }

    #[inline]
    pub fn mailbox(&self, rank: Rank) -> &Mailbox {
        &self.mailboxes[rank.index()]
    }

    #[inline]
    pub fn place(&self, rank: Rank) -> Place {
        match self.mailbox(rank).place.load(Ordering::Acquire) {
            1 => Place::Here,
            2 => Place::Held,
            _ => Place::Away,
        }
    }

    /// Sends one message. `false`: no room, try again later. Only who runs rank `header.src` calls it, one thread at a time.
    #[inline]
    pub fn send(&self, header: &Header, data: &[u8]) -> bool {
        let to = self.mailbox(header.dst);
        if to.place.load(Ordering::Acquire) != Place::Away as u8 {
            if !to.ring_from(header.src).push(header, data) {
                return false;
            }
            to.pushed();
        } else {
            let from = self.mailbox(header.src);
            let held = from.unacknowledged_bytes.load(Ordering::Relaxed);
            if held > 0 && held + data.len() > UNACKNOWLEDGED_MAX || lock(&from.unacknowledged).len() >= MESSAGES_MAX {
                return false;
            }
            self.send_away(Message { header: *header, data: data.into() });
        }
        self.count_sent(header, data.len());
        true
    }

    /// [`Fabric::send`] without a copy, to a rank that is here. `None`: no room, or it is not here; nothing has happened.
    ///
    /// # Safety
    ///
    /// Until the loan is over or has been settled the bytes stay where they are, and nobody writes them.
    pub unsafe fn lend(&self, header: &Header, data: *const [u8]) -> Option<Arc<Loan>> {
        let to = self.mailbox(header.dst);
        if to.place.load(Ordering::Acquire) != Place::Here as u8 {
            return None;
        }
        // SAFETY: the caller's promise.
        let loan = unsafe { to.ring_from(header.src).lend(header, data) }?;
        to.pushed();
        self.count_sent(header, data.len());
        Some(loan)
    }

    #[inline]
    fn count_sent(&self, header: &Header, bytes: usize) {
        if header.kind != Kind::Matched {
            let flow = self.mailbox(header.src).meter.with(header.dst, self.mailboxes.len());
            add(&flow.sent, 1);
            add(&flow.sent_bytes, bytes as u64);
        }
    }

    /// A rank has taken a message of so many bytes. Only who runs `rank` calls it, one thread at a time.
    #[inline]
    pub fn count_received(&self, rank: Rank, src: Rank, bytes: usize) {
        let flow = self.mailbox(rank).meter.with(src, self.mailboxes.len());
        add(&flow.received, 1);
        add(&flow.received_bytes, bytes as u64);
    }

    /// What a rank has exchanged so far, with those with whom it has: in the order of their numbers. For anyone, at any time.
    pub fn traffic(&self, rank: Rank) -> Vec<Traffic> {
        let flows = self.mailbox(rank).meter.flows.get().map_or(&[][..], |flows| flows);
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let all = flows.iter().enumerate().map(|(peer, f)| Traffic {
            peer: Rank(peer as u32),
            sent: of(&f.sent),
            sent_bytes: of(&f.sent_bytes),
            received: of(&f.received),
            received_bytes: of(&f.received_bytes),
        });
        all.filter(|t| t.messages() > 0).collect()
    }

    /// What a rank that comes here from elsewhere has exchanged before. Only before it runs here.
    pub fn set_traffic(&self, rank: Rank, all: &[Traffic]) {
        let set = |t: &Traffic| {
            let flow = self.mailbox(rank).meter.with(t.peer, self.mailboxes.len());
            flow.sent.store(t.sent, Ordering::Relaxed);
            flow.sent_bytes.store(t.sent_bytes, Ordering::Relaxed);
            flow.received.store(t.received, Ordering::Relaxed);
            flow.received_bytes.store(t.received_bytes, Ordering::Relaxed);
        };
        // It may have been here before.
        (0..self.size()).for_each(|peer| set(&Traffic { peer: Rank(peer), sent: 0, sent_bytes: 0, received: 0, received_bytes: 0 }));
        all.iter().for_each(set);
    }

    fn send_away(&self, message: Message) {
        let from = self.mailbox(message.header.src);
        from.unacknowledged_bytes.fetch_add(message.data.len(), Ordering::Relaxed);
        lock(&from.unacknowledged).push(Kept::new(message.clone()));
        self.wire.send(message);
    }

    /// A message from another agent. Delivered and acknowledged, kept, or passed on, by where its receiver is.
    pub fn deposit(&self, message: Message) {
        let Header { src, dst, seq, .. } = message.header;
        let to = self.mailbox(dst);
        let mut inbox = lock(&to.arrived);
        let place = self.place(dst);
        if place == Place::Away {
            drop(inbox);
            self.wire.send(message);
            return;
        }
        let acknowledged = if inbox.known.insert((src, seq)) {
            inbox.bytes += message.data.len();
            let acknowledged = place == Place::Here && (inbox.bytes <= PROMPT_MAX || to.all_prompt.load(Ordering::SeqCst));
            inbox.queue.push_back(Arrived { message, acknowledged });
            to.arrived_len.store(inbox.queue.len(), Ordering::Release);
            acknowledged
        } else {
            // It is here already; if that was acknowledged, the acknowledgement may have been lost.
            inbox.queue.iter().any(|a| a.acknowledged && a.message.header.src == src && a.message.header.seq == seq)
        };
        drop(inbox);
        if acknowledged {
            self.wire.acknowledge(src, dst, seq);
        }
        to.bell.ring();
    }

    /// The agent that holds `dst` has the message. `false`: `src` is not here; pass it on to where it is.
    pub fn acknowledged(&self, src: Rank, dst: Rank, seq: u64) -> bool {
        if self.place(src) == Place::Away {
            return false;
        }
        let from = self.mailbox(src);
        let mut kept = lock(&from.unacknowledged);
        if let Some(i) = kept.iter().position(|k| k.message.header.dst == dst && k.message.header.seq == seq) {
            let Kept { message, .. } = kept.swap_remove(i);
            from.unacknowledged_bytes.fetch_sub(message.data.len(), Ordering::Relaxed);
        }
        drop(kept);
        from.bell.ring();
        true
    }

    /// Sends everything unacknowledged again: a connection was lost, or a rank's place changed.
    pub fn resend(&self) {
        self.resend_if(|_| true);
    }

    /// Sends again what this call has met `age` times: an acknowledgement may have been lost on its way. To be called now and then.
    /// Not to receivers that `busy` names: what they are sent is still on its way. Each time it waits twice as long.
    pub fn resend_old(&self, age: u32, busy: impl Fn(Rank) -> bool) {
        self.resend_if(|kept| {
            kept.age += 1;
            let due = kept.age > age << kept.again.min(4) && !busy(kept.message.header.dst);
            kept.again += u32::from(due);
            due
        });
    }

    fn resend_if(&self, mut wanted: impl FnMut(&mut Kept) -> bool) {
        for from in &self.mailboxes {
            let mut again = Vec::new();
            for kept in lock(&from.unacknowledged).iter_mut() {
                if wanted(kept) {
                    kept.age = 0;
                    again.push(kept.message.clone());
                }
            }
            again.sort_by_key(|m| m.header.seq);
            for message in again {
                self.pass_on(message);
            }
        }
    }

    /// A message that its sender keeps: to the receiver's agent, or into its mailbox if it has come here meanwhile.
    fn pass_on(&self, message: Message) {
        if self.place(message.header.dst) == Place::Away {
            self.wire.send(message);
        } else {
            self.deposit(message);
        }
    }

    /// What `rank` sent that nobody has acknowledged yet.
    pub fn unacknowledged(&self, rank: Rank) -> Vec<Message> {
        lock(&self.mailbox(rank).unacknowledged).iter().map(|k| k.message.clone()).collect()
    }

    pub fn all_acknowledged(&self, rank: Rank) -> bool {
        lock(&self.mailbox(rank).unacknowledged).is_empty()
    }

    /// Something may be waiting for `rank` in its mailbox.
    #[inline]
    pub fn waiting(&self, rank: Rank) -> bool {
        let mailbox = self.mailbox(rank);
        mailbox.arrived_len.load(Ordering::Acquire) > 0
            || mailbox.rings.iter().any(|r| r.get().is_some_and(|r| !r.is_empty()))
    }

    /// Whether a message of `src` lies in its ring to `rank`. Called by who runs the rank, one thread at a time, while it is here.
    #[inline]
    pub fn next_is_there(&self, src: Rank, rank: Rank) -> bool {
        self.mailbox(rank).ring_from(src).ready()
    }

    /// Whether something for `rank` has come over the wire.
    #[inline]
    pub fn arrived(&self, rank: Rank) -> bool {
        self.mailbox(rank).arrived_len.load(Ordering::Relaxed) > 0
    }

    /// Shows the next message of `src`'s ring to `take`, if it is a small one, and takes it if that says something. Called by who runs the rank while it is not away.
    #[inline]
    pub fn take_next<T>(&self, src: Rank, rank: Rank, take: impl FnOnce(Header, &[u8]) -> Option<T>) -> Option<T> {
        let mailbox = self.mailbox(rank);
        let _right = mailbox.consumer.take();
        mailbox.ring_from(src).pop_if(src, rank, take)
    }

    /// Shows the rank's messages to `taker`, each ring's in its order, as far as it wants them and they are here now. Called by who runs
    /// the rank while it is not away.
    #[inline]
    pub fn collect(&self, rank: Rank, taker: &mut impl Taker) {
        let mailbox = self.mailbox(rank);
        let _right = mailbox.consumer.take();
        for (src, ring) in mailbox.rings.iter().enumerate() {
            if let Some(ring) = ring.get() {
                let (src, end) = (Rank(src as u32), ring.end());
                while ring.before(end) && taker.wants(src, None) {
                    ring.pop(src, rank, |header, data| taker.take(header, data));
                }
            }
        }
        if mailbox.arrived_len.load(Ordering::Acquire) > 0 {
            self.collect_arrived(mailbox, taker);
        }
    }

    fn collect_arrived(&self, mailbox: &Mailbox, taker: &mut impl Taker) {
        let queue = std::mem::take(&mut lock(&mailbox.arrived).queue);
        let (mut left, mut taken) = (VecDeque::new(), Vec::new());
        for a in queue {
            if taker.wants(a.message.header.src, Some(a.message.header.seq)) {
                taker.take(a.message.header, &a.message.data);
                taken.push((a.message.header, a.acknowledged, a.message.data.len()));
            } else {
                left.push_back(a);
            }
        }
        let mut inbox = lock(&mailbox.arrived);
        for (header, _, bytes) in &taken {
            inbox.known.remove(&(header.src, header.seq));
            inbox.bytes -= bytes;
        }
        left.append(&mut inbox.queue);
        inbox.queue = left;
        mailbox.arrived_len.store(inbox.queue.len(), Ordering::Release);
        drop(inbox);
        for (h, ..) in taken.into_iter().filter(|(_, acknowledged, _)| !acknowledged) {
            self.wire.acknowledge(h.src, h.dst, h.seq);
        }
    }

    /// The rank stands still, and what others have sent it must not stay under way (`on`), or it goes on: from then on its mailbox holds senders back
    /// again. While all ranks of a job stand still, no more can come than they had under way.
    pub fn acknowledge_all(&self, rank: Rank, on: bool) {
        let mailbox = self.mailbox(rank);
        let kept: Vec<Header> = {
            let mut inbox = lock(&mailbox.arrived);
            mailbox.all_prompt.store(on, Ordering::SeqCst);
            if !on || self.place(rank) != Place::Here {
                return;
            }
            inbox.queue.iter_mut().filter_map(|a| (!std::mem::replace(&mut a.acknowledged, true)).then_some(a.message.header)).collect()
        };
        for h in kept {
            self.wire.acknowledge(h.src, h.dst, h.seq);
        }
    }

    /// The rank runs here from now on; `unacknowledged` came with it and is sent again.
    pub fn arrive(&self, rank: Rank, unacknowledged: Vec<Message>) {
        let mailbox = self.mailbox(rank);
        {
            let mut kept = lock(&mailbox.unacknowledged);
            let bytes = unacknowledged.iter().map(|m| m.data.len()).sum();
            *kept = unacknowledged.iter().cloned().map(Kept::new).collect();
            mailbox.unacknowledged_bytes.store(bytes, Ordering::Relaxed);
        }
        self.release(rank);
        for message in unacknowledged {
            self.pass_on(message);
        }
    }

    /// The rank has stopped here and may move, or is expected here: from now on what arrives is kept, not acknowledged.
    pub fn hold(&self, rank: Rank) {
        let mailbox = self.mailbox(rank);
        let _arrived = lock(&mailbox.arrived);
        mailbox.place.store(Place::Held as u8, Ordering::Release);
    }

    /// The rank goes on here: what was kept for it is delivered and acknowledged.
    pub fn release(&self, rank: Rank) {
        let mailbox = self.mailbox(rank);
        let kept: Vec<Header> = {
            let mut inbox = lock(&mailbox.arrived);
            mailbox.place.store(Place::Here as u8, Ordering::Release);
            inbox.queue.iter_mut().filter_map(|a| (!std::mem::replace(&mut a.acknowledged, true)).then_some(a.message.header)).collect()
        };
        // A sweep that began while the rank was away has ended then, and the rank sees what it did; none begins any more.
        drop(mailbox.consumer.take());
        for h in kept {
            self.wire.acknowledge(h.src, h.dst, h.seq);
        }
    }

    /// The rank is elsewhere now (or did not come here after all): what was kept for it follows, and what it had
    /// unacknowledged went with its snapshot.
    pub fn depart(&self, rank: Rank) {
        let mailbox = self.mailbox(rank);
        let kept = {
            let mut inbox = lock(&mailbox.arrived);
            // Before the place: who finds the rank away finds its rings to be swept, too, and waits for who is at it.
            mailbox.strays.fetch_add(1, Ordering::Release);
            mailbox.place.store(Place::Away as u8, Ordering::Release);
            mailbox.arrived_len.store(0, Ordering::Release);
            std::mem::take(&mut *inbox).queue
        };
        lock(&mailbox.unacknowledged).clear();
        mailbox.unacknowledged_bytes.store(0, Ordering::Relaxed);
        for a in kept {
            self.wire.send(a.message);
        }
        self.sweep();
    }

    /// Passes on what local ranks had put into the ring of a rank that is away. The agent calls it every few milliseconds
    /// while it holds ranks of the job, and before it takes the snapshot of a rank (whose last sends may lie in such a ring).
    /// When nothing was put there since the last time, it costs a look at each rank.
    pub fn sweep(&self) {
        for (rank, mailbox) in self.mailboxes.iter().enumerate() {
            let rank = Rank(rank as u32);
            // In this order: who sees the rank away sees the mark of its leaving, and if no more marks are there than were swept, a sweep that began
            // after the last of them has ended, with all that it had to send.
            if self.place(rank) != Place::Away || mailbox.strays.load(Ordering::Acquire) == mailbox.swept.load(Ordering::Acquire) {
                continue;
            }
            let _right = mailbox.consumer.take();
            // It may have come back since.
            if self.place(rank) != Place::Away {
                continue;
            }
            // Counted before the rings are looked at: who marks later is found by the next sweep.
            let marks = mailbox.strays.load(Ordering::Acquire);
            fence(Ordering::SeqCst); // see `Mailbox::pushed`
            for (src, ring) in mailbox.rings.iter().enumerate() {
                let Some(ring) = ring.get() else { continue };
                // What comes later has left its mark.
                let end = ring.end();
                while ring.before(end)
                    && let Some(message) = ring.pop(Rank(src as u32), rank, |header, data| Message { header, data: data.into() })
                {
                    self.send_away(message);
                }
            }
            mailbox.swept.store(marks, Ordering::Release);
        }
    }
}
