//! What a rank takes out of its mailbox: in the order of each sender, matched with posted receives, and not more than there is room for.
//!
//! Beyond [`UNEXPECTED_SOFT`] bytes without a receive, messages stay where they are, and their senders wait in the end.

use super::{MESSAGE_OVERHEAD, Request, State, Work};
use crate::error::{Class, Error, Result};
use crate::fabric::{Fabric, Taker};
use crate::memory::Memory;
use crate::message::{Header, Kind, Rank};

/// Bytes that may have arrived without a receive for them before senders have to wait. Beyond it one message at a time is taken, and only from
/// ranks of which something is awaited here: what is awaited may be behind it.
const UNEXPECTED_SOFT: usize = 64 << 20;
/// And before the job is stopped: a program error or a missing receive.
const UNEXPECTED_MAX: usize = 1 << 30;
/// One look into the mailbox.
struct Taking<'s, 'm> {
    state: &'s mut State,
    mem: &'s mut Memory<'m>,
    fabric: &'s Fabric,
    all: bool,
    /// Beyond [`UNEXPECTED_SOFT`]: whose message was taken already.
    trickled: Vec<Rank>,
    result: Result<()>,
}

impl Taker for Taking<'_, '_> {
    #[inline]
    fn wants(&mut self, src: Rank, seq: Option<u64>) -> bool {
        if self.result.is_err() {
            return false;
        }
        self.all || self.state.unexpected_bytes <= UNEXPECTED_SOFT || self.trickle(src, seq)
    }

    #[inline]
    fn take(&mut self, header: Header, data: &[u8]) {
        if self.result.is_ok() {
            self.result = self.state.accept(self.mem, self.fabric, header, data);
        }
    }
}

impl Taking<'_, '_> {
    #[cold]
    fn trickle(&mut self, src: Rank, seq: Option<u64>) -> bool {
        let state = &*self.state;
        // What comes out of its order would only lie here: the one before it is behind it in the mailbox, or is sent again.
        let early = seq.is_some_and(|seq| seq > state.seq_in[src.index()]);
        if early || self.trickled.contains(&src) || !state.awaits(src) {
            return false;
        }
        if state.unexpected_bytes > UNEXPECTED_MAX {
            let text = format!(
                "rank {} has {} messages of {} bytes without a receive, more than the limit of {UNEXPECTED_MAX} bytes; receive them earlier or send less ahead",
                state.me.0,
                state.unexpected.len() + state.early.len(),
                state.unexpected_bytes
            );
            self.result = Err(Error::new(Class::Other, text));
            return false;
        }
        self.trickled.push(src);
        true
    }
}

impl State {
    /// Looks for new messages, moves waiting sends and collectives on.
    #[inline]
    pub fn progress(&mut self, mem: &mut Memory<'_>, fabric: &Fabric) -> Result<()> {
        self.look(mem, fabric, false)
    }

    /// [`State::progress`], but everything that is in the mailbox becomes part of the state: the rank is about to be written down.
    pub fn absorb(&mut self, mem: &mut Memory<'_>, fabric: &Fabric) -> Result<()> {
        self.look(mem, fabric, true)
    }

    fn look(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, all: bool) -> Result<()> {
        let me = self.me;
        // Nothing leaves a rank that is about to be written down, not even the answer to a synchronous send: who moves along with it may be written
        // down already. It waits in `outgoing`, which travels.
        self.silent = all;
        if self.fresh {
            self.take_kept(mem, fabric)?;
        }
        let mut taking = Taking { state: self, mem: &mut *mem, fabric, all, trickled: Vec::new(), result: Ok(()) };
        fabric.collect(me, &mut taking);
        let Taking { result, .. } = taking;
        (self.probing, self.silent) = (false, false);
        result?;
        if all {
            return Ok(());
        }
        if self.lent().is_some_and(|loan| loan.over()) {
            self.settle();
        }
        if !self.outgoing.is_empty() {
            self.flush(fabric)?;
        }
        if !self.orphans.is_empty() {
            self.collect_orphans()?;
        }
        while let Some(i) = self.collectives.iter().position(|r| self.ready(*r)) {
            let request = self.collectives[i];
            self.news += 1;
            if self.advance(mem, fabric, request)? {
                self.collectives.swap_remove(i);
            }
        }
        if self.fresh {
            self.take_kept(mem, fabric)?;
        }
        if !self.epochs.is_empty() {
            self.advance_epochs(mem, fabric)?;
        }
        Ok(())
    }

    /// Whether something here can only go on with a message of this rank: a receive or probe that may match it, or a send that it answers.
    fn awaits(&self, src: Rank) -> bool {
        self.probing
            || !self.windows.is_empty()
            || !self.files.is_empty()
            || self.posted.iter().any(|p| p.source.is_none_or(|s| s == src))
            || self.slots.iter().flatten().any(|s| matches!(s.work, Work::Send))
    }

    /// A message in any order, once or more often.
    #[inline]
    pub(super) fn accept(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, header: Header, data: &[u8]) -> Result<()> {
        let expected = self.seq_in[header.src.index()];
        if header.seq != expected {
            if header.seq > expected && !self.early.contains_key(&(header.src, header.seq)) {
                self.unexpected_bytes += MESSAGE_OVERHEAD + data.len();
                self.early.insert((header.src, header.seq), (header, data.to_vec()));
            }
            return Ok(());
        }
        self.take(mem, fabric, header, data)?;
        while !self.early.is_empty() {
            let key = (header.src, self.seq_in[header.src.index()]);
            let Some((header, data)) = self.early.remove(&key) else { break };
            self.unexpected_bytes -= MESSAGE_OVERHEAD + data.len();
            self.take(mem, fabric, header, &data)?;
        }
        Ok(())
    }

    /// The next message of its sequence: matched, or kept as unexpected.
    fn take(&mut self, mem: &mut Memory<'_>, fabric: &Fabric, header: Header, data: &[u8]) -> Result<()> {
        self.seq_in[header.src.index()] += 1;
        self.news += 1;
        if header.kind == Kind::Matched {
            if let Ok(slot) = self.slot(header.token as Request)
                && matches!(slot.work, Work::Send)
            {
                slot.work = Work::Done;
            }
            return Ok(());
        }
        fabric.count_received(self.me, header.src, data.len());
        if header.kind == Kind::OneSided {
            return self.one_sided(mem, fabric, header, data);
        }
        if header.kind == Kind::File {
            return self.file_message(mem, fabric, header, data);
        }
        if let Some(i) = self.posted.iter().position(|p| p.wants(&header)) {
            let posted = self.posted.remove(i);
            return self.deliver(mem, fabric, posted, &header, data);
        }
        self.unexpected_bytes += MESSAGE_OVERHEAD + data.len();
        self.unexpected.push_back((header, data.to_vec()));
        Ok(())
    }
}
