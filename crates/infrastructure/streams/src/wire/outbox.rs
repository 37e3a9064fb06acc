//! Replies on their way out of a connection, in order: what depends on a block of the log leaves when that is durable, everything else at once.

use super::codec::{Frames, Reply};
use crate::{lock, log::Seq, metrics::Histogram, store::Held};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::sync::Notify;

/// Bytes of replies that the client does not take.
pub(super) const OUTBOX_MAX: usize = 8 << 20;
/// So many, of those without a place in memory, once there are [`REPLIES_MAX`] of them over all connections.
pub(super) const OUTBOX_SHORT: usize = 16 << 10;
const REPLIES_MAX: usize = 64 << 20;
/// Replies that leave together stop at this many bytes: what comes meanwhile and waits for nothing but its turn is an acknowledgement. One that is longer alone is
/// history, as a rule, and goes out by threads that give way to those that acknowledge appends: sending costs a processor as much as fetching does.
pub(super) const LEAVE_TOGETHER: usize = 256 << 10;

/// Replies on their way out.
pub(super) struct Outbox {
    queues: Mutex<Queues>,
    /// Bytes of all connections' that have no place in memory.
    replies: Arc<AtomicUsize>,
    /// Rung when there is something to write.
    pub filled: Notify,
    /// Rung when something was written.
    pub emptied: Notify,
}

#[derive(Default)]
struct Queues {
    /// With when what is acknowledged arrived, and what else is acknowledged by it.
    gated: VecDeque<(Seq, Reply, Option<Instant>, Vec<Instant>)>,
    /// With the place in memory that they have.
    ready: VecDeque<(Reply, Held)>,
    bytes: usize,
    /// Of these, what has no place in memory, until it is sent.
    loose: usize,
    /// No more comes.
    closing: bool,
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let loose = lock(&self.queues).loose;
        self.replies.fetch_sub(loose, Relaxed);
    }
}

impl Outbox {
    /// `replies`: bytes of all connections' replies that have no place in memory.
    pub fn new(replies: Arc<AtomicUsize>) -> Outbox {
        Outbox { queues: Mutex::default(), replies, filled: Notify::new(), emptied: Notify::new() }
    }

    /// Whether so much waits to be taken, over all connections, that each reply should be short.
    pub fn is_short(&self) -> bool {
        self.replies.load(Relaxed) > REPLIES_MAX
    }

    fn weighs(&self, queues: &mut Queues, reply: &Reply, loose: bool) {
        let bytes = reply.weight();
        queues.bytes += bytes;
        if loose {
            queues.loose += bytes;
            self.replies.fetch_add(bytes, Relaxed);
        }
    }

    /// So many bytes without a place in memory are out.
    pub fn sent(&self, loose: usize) {
        lock(&self.queues).loose -= loose;
        self.replies.fetch_sub(loose, Relaxed);
    }

    /// Leaves when this block of the log is durable.
    pub fn gated(&self, seq: Seq, reply: Reply, arrived: Option<Instant>) {
        let mut queues = lock(&self.queues);
        // One acknowledgement says the same as two of one writer that leave together.
        if let (Some((last, Reply::DataAppended { writer, event, id, length, .. }, _, more)), Reply::DataAppended { writer: w, event: e, id: i, length: l, .. }) =
            (queues.gated.back_mut(), &reply)
            && writer == w
            && *last == seq
        {
            (*event, *id, *length) = (*e, *i, *l);
            more.extend(arrived);
            return;
        }
        // A later reply may depend on less, but replies keep their order.
        let seq = queues.gated.back().map_or(seq, |(last, ..)| seq.max(*last));
        self.weighs(&mut queues, &reply, true);
        queues.gated.push_back((seq, reply, arrived, Vec::new()));
        drop(queues);
        self.filled.notify_one();
    }

    /// Leaves at once.
    pub fn ready(&self, reply: Reply) {
        self.held(reply, Held::default());
    }

    /// The same, with its place in memory.
    pub fn held(&self, reply: Reply, held: Held) {
        let mut queues = lock(&self.queues);
        self.weighs(&mut queues, &reply, held.is_empty());
        queues.ready.push_back((reply, held));
        drop(queues);
        self.filled.notify_one();
    }

    /// No more comes: what is left is written, then it ends.
    pub fn close(&self) {
        lock(&self.queues).closing = true;
        self.filled.notify_one();
    }

    /// Whether a reply waits for its block.
    pub fn waits(&self) -> bool {
        !lock(&self.queues).gated.is_empty()
    }

    /// Waits until the client has taken so much that it may ask for more.
    pub async fn room(&self) {
        loop {
            let emptied = self.emptied.notified();
            let (bytes, loose) = {
                let queues = lock(&self.queues);
                (queues.bytes, queues.loose)
            };
            if bytes <= OUTBOX_MAX && (loose <= OUTBOX_SHORT || !self.is_short()) {
                return;
            }
            emptied.await;
        }
    }

    /// What may leave now, the places that it has in memory, the bytes of it without one, for [`Outbox::sent`], and whether that was the last.
    pub fn take(&self, durable: Seq, out: &mut Frames, write: &Histogram) -> (Vec<Held>, usize, bool) {
        let (mut places, mut loose) = (Vec::new(), 0);
        let mut queues = lock(&self.queues);
        while out.size() < LEAVE_TOGETHER {
            let gated = queues.gated.front().is_some_and(|(seq, ..)| *seq <= durable);
            let next = match gated {
                true => queues.gated.pop_front().map(|(_, reply, arrived, more)| (reply, arrived, more, Held::default())),
                false => queues.ready.pop_front().map(|(reply, held)| (reply, None, Vec::new(), held)),
            };
            let Some((reply, arrived, more, held)) = next else { break };
            if held.is_empty() {
                loose += reply.weight();
            } else {
                places.push(held);
            }
            for arrived in arrived.into_iter().chain(more) {
                write.note(arrived.elapsed());
            }
            queues.bytes -= reply.weight();
            reply.put(out);
        }
        (places, loose, queues.closing && queues.gated.is_empty() && queues.ready.is_empty())
    }
}
