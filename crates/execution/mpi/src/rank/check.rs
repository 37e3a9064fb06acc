//! Whether a [`State`] that was read from a snapshot is one that a rank can go on with.
//!
//! Postcard gives any state that the bytes spell; the rest of this crate indexes and subtracts as its own states allow. What would make it panic,
//! or touch what is not there, is refused here. A state may still be wrong in a way that only its own program would notice.

use super::{Content, MESSAGE_OVERHEAD, REQUESTS_MAX, Request, Slot, State, Target, Work};
use crate::collective::Schedule;
use crate::error::{Class, Error, Result};
use crate::message::{Header, Kind};
use std::collections::{BTreeMap, BTreeSet};

/// Sequence numbers stay far from the end of 64 bits.
const SEQ_MAX: u64 = 1 << 62;

fn wrong<T>(text: String) -> Result<T> {
    Err(Error::new(Class::Intern, text))
}

impl State {
    /// Refuses a state that is not one of a rank in a job of `size` ranks. The error's text says what is wrong.
    pub fn check(&self, size: u32) -> Result<()> {
        let n = size as usize;
        if self.me.0 >= size || self.seq_out.len() != n || self.seq_in.len() != n {
            let (me, out, into) = (self.me.0, self.seq_out.len(), self.seq_in.len());
            return wrong(format!("rank {me} counts messages to {out} and from {into} ranks in a job of {size}"));
        }
        if self.seq_out.iter().chain(&self.seq_in).any(|s| *s > SEQ_MAX) {
            return wrong("a message's number is beyond all that can be sent".into());
        }
        self.comms.check(self.me, size)?;
        self.types.check()?;
        self.groups.check(size)?;
        self.infos.check()?;
        self.attributes.check()?;
        self.windows.check(&self.comms)?;
        self.files.check(&self.comms)?;
        self.check_accesses()?;
        self.check_requests(size)?;
        self.check_messages(size)
    }

    /// Accesses to windows, and calls that wait for others of a window.
    fn check_accesses(&self) -> Result<()> {
        let bytes: usize = self.fetches.values().map(|f| f.bytes as usize).chain(self.file_waits.values().map(|f| f.bytes as usize)).fold(0, usize::saturating_add);
        if bytes != self.fetch_bytes || bytes > isize::MAX as usize {
            return wrong(format!("replies of {bytes} bytes are counted as {}", self.fetch_bytes));
        }
        for f in self.fetches.values() {
            if self.windows.get(f.window).is_ok_and(|w| f.target as usize >= w.parts.len()) {
                return wrong(format!("an access waits for rank {} of a window that has less", f.target));
            }
        }
        let mut seen = BTreeSet::new();
        for r in &self.epochs {
            let Some(Slot { work: Work::Epoch(wait), .. }) = self.at(*r) else { return wrong(format!("request {r} waits for no window")) };
            if !seen.insert(*r) || wait.target().is_some_and(|t| self.windows.get(wait.window()).is_ok_and(|w| t as usize >= w.parts.len())) {
                return wrong(format!("request {r} waits for a rank that its window does not have"));
            }
        }
        Ok(())
    }

    fn schedule(&self, request: Request) -> Option<&Schedule> {
        match self.at(request)?.work {
            Work::Collective(ref schedule) => Some(schedule),
            _ => None,
        }
    }

    fn at(&self, request: Request) -> Option<&Slot> {
        self.slots.get(usize::try_from(i64::from(request) - 1).ok()?)?.as_ref()
    }

    fn check_requests(&self, size: u32) -> Result<()> {
        if self.slots.len() > REQUESTS_MAX {
            return wrong(format!("{} requests are more than the {REQUESTS_MAX} of a rank", self.slots.len()));
        }
        let mut free = BTreeSet::new();
        for r in &self.free {
            let there = *r >= 1 && *r as usize <= self.slots.len();
            if !there || self.at(*r).is_some() || !free.insert(*r) {
                return wrong(format!("request {r} is not free as it says"));
            }
        }
        let mut bytes = 0usize;
        for slot in self.slots.iter().flatten() {
            if let Work::Collective(schedule) = &slot.work {
                schedule.check(size)?;
                bytes = bytes.saturating_add(schedule.bytes);
            }
        }
        if bytes != self.collective_bytes || bytes > isize::MAX as usize {
            return wrong(format!("collectives of {bytes} bytes are counted as {}", self.collective_bytes));
        }
        let mut seen = BTreeSet::new();
        if let Some(r) = self.collectives.iter().find(|r| self.schedule(**r).is_none() || !seen.insert(**r)) {
            return wrong(format!("request {r} is no collective"));
        }
        let mut seen = BTreeSet::new();
        if let Some(r) = self.orphans.iter().find(|r| self.at(**r).is_none() || !seen.insert(**r)) {
            return wrong(format!("request {r} was freed and is not there"));
        }
        // Messages that each collective's present round will be told of: never more than it waits for.
        let mut told: BTreeMap<Request, u32> = BTreeMap::new();
        for p in &self.posted {
            match p.target {
                Target::Guest { .. } if matches!(self.at(p.request), Some(Slot { work: Work::Receive, .. })) => {}
                Target::Schedule { buf, at, len } if self.schedule(p.request).is_some_and(|s| s.has(buf, at, len)) => {
                    *told.entry(p.request).or_default() += 1;
                }
                _ => return wrong(format!("a receive is posted for request {}, which is none", p.request)),
            }
        }
        for w in self.outgoing.values().flatten() {
            if let Content::Schedule { buf, at, len } = w.content
                && !(w.header.kind == Kind::Data && self.schedule(w.request).is_some_and(|s| s.has(buf, at, len)))
            {
                return wrong(format!("a message of request {} waits to leave, which is no collective that has it", w.request));
            }
            if w.header.kind == Kind::Data && self.schedule(w.request).is_some() {
                *told.entry(w.request).or_default() += 1;
            }
        }
        match told.iter().find(|(r, n)| self.schedule(**r).is_some_and(|s| s.pending < **n)) {
            Some((r, n)) => wrong(format!("collective {r} waits for less than its {n} messages")),
            None => Ok(()),
        }
    }

    fn check_messages(&self, size: u32) -> Result<()> {
        let comes = |h: &Header| h.dst == self.me && h.src.0 < size;
        let matched: Vec<&super::matched::Matched> = self.slots.iter().flatten().filter_map(|s| if let Work::Matched(m) = &s.work { Some(&**m) } else { None }).collect();
        let early = self.early.iter().all(|((src, seq), (h, _))| comes(h) && (*src, *seq) == (h.src, h.seq) && *seq <= SEQ_MAX);
        if !early || !self.unexpected.iter().all(|(h, _)| comes(h)) || !matched.iter().all(|m| comes(&m.header)) {
            return wrong(format!("a message for another rank or from none waits at rank {}", self.me.0));
        }
        let bytes: usize = self.unexpected.iter().chain(self.early.values()).map(|(_, data)| data.len()).chain(matched.iter().map(|m| m.data.len())).map(|n| MESSAGE_OVERHEAD + n).sum();
        if self.unexpected_bytes < bytes || self.unexpected_bytes > isize::MAX as usize {
            return wrong(format!("{bytes} bytes without a receive are counted as {}", self.unexpected_bytes));
        }
        for (dst, queue) in &self.outgoing {
            if dst.0 >= size || queue.iter().any(|w| w.header.src != self.me || w.header.dst != *dst) {
                return wrong(format!("a message of another rank, or to none, waits to leave rank {}", self.me.0));
            }
        }
        let bytes: usize = self.outgoing.values().flatten().map(|w| w.content.weight()).sum();
        if self.outgoing_bytes < bytes || self.outgoing_bytes > isize::MAX as usize {
            return wrong(format!("{bytes} bytes that wait to leave are counted as {}", self.outgoing_bytes));
        }
        let buffered = self.outgoing.values().flatten().try_fold(0usize, |sum, w| sum.checked_add(w.buffered));
        let (used, room) = self.attached.as_ref().map_or((0, 0), |a| (a.used, a.size));
        if buffered.is_none_or(|b| b > used) || used > room || room > i32::MAX as usize {
            return wrong(format!("{used} of {room} bytes of the attached buffer are said to be used by more"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datatype::Buffer;
    use crate::message::{Message, Rank};
    use crate::rank::{ANY_SOURCE, ANY_TAG, Mode, Prepared};
    use crate::window::Note;
    use crate::{Fabric, Memory, Wire, comm};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const INT: i32 = 8;

    struct Nowhere;
    impl Wire for Nowhere {
        fn send(&self, _: Message) {}
        fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
    }

    fn fabric() -> Fabric {
        let fabric = Fabric::new(3, Box::new(Nowhere));
        (0..3).for_each(|r| fabric.arrive(Rank(r), Vec::new()));
        fabric
    }

    /// Rank 0 of 3 with something of everything: posted, early, unexpected, waiting to leave, persistent, buffered, freed, collectives under way.
    fn full() -> State {
        let (fabric, mut bytes) = (fabric(), vec![1u8; 4096]);
        let mut mem = Memory::Own(&mut bytes);
        let mut s = State::new(Rank(0), 3);
        let vector = s.types.make_vector(3, 1, 2, false, INT).unwrap();
        s.types.commit(vector).unwrap();
        let ints = |count| Buffer { address: 64, count, datatype: INT };
        let large = Buffer { address: 0, count: 1024, datatype: INT };
        s.attach(&mem, 3000, 1000).unwrap();
        for _ in 0..12 {
            // More than rank 1's ring takes.
            s.send(&mut mem, &fabric, large, 1, 5, comm::WORLD, Mode::Synchronous).unwrap();
        }
        s.send(&mut mem, &fabric, ints(4), 1, 5, comm::WORLD, Mode::Buffered).unwrap();
        s.receive(&mut mem, &fabric, Buffer { address: 128, count: 2, datatype: vector }, ANY_SOURCE, 77, comm::WORLD).unwrap();
        let freed = s.receive(&mut mem, &fabric, ints(1), 2, 78, comm::WORLD).unwrap();
        s.release(freed).unwrap();
        let kept = Prepared::Receive { buffer: Buffer { address: 256, count: 1, datatype: vector }, from: 1, tag: ANY_TAG, comm: comm::SELF };
        let _ = s.prepare(&mut mem, kept);
        s.prepare(&mut mem, Prepared::Send { buffer: ints(2), to: 2, tag: 1, comm: comm::WORLD, mode: Mode::Standard }).unwrap();
        s.reduce(&mut mem, &fabric, ints(3), 512, 3, None, comm::WORLD).unwrap();
        s.barrier(&mut mem, &fabric, comm::WORLD).unwrap();
        s.comm_split(&mut mem, &fabric, comm::WORLD, 1, 0, 900).unwrap();
        let part = crate::window::Part { base: 1024, size: 512, unit: 4 };
        for context in 20..22u32 {
            let comm = s.comms.add(crate::comm::Comm::new(context, (0..3).map(Rank).collect(), None, Rank(0)));
            s.windows.add(crate::window::Window::new(comm, context, crate::window::Flavor::Create, vec![part; 3]));
        }
        let (first, second) = (crate::window::FIRST, crate::window::FIRST + 1);
        s.lock(&fabric, first, Some(2), true, 0).unwrap();
        s.window_post(&fabric, second, &[Rank(1)], 0).unwrap();
        s.window_start(second, &[Rank(1), Rank(2)], 0).unwrap();
        let at = |window, displacement, count| super::super::Remote { window, rank: 2, displacement, count, datatype: INT };
        s.get(&mut mem, &fabric, Buffer { address: 700, count: 2, datatype: vector }, at(first, 3, 6), true).unwrap();
        s.accumulate(&mut mem, &fabric, ints(2), at(first, 9, 2), 3, false).unwrap();
        s.unlock(&fabric, first, Some(2)).unwrap();
        for note in [Note::Lock { exclusive: true }, Note::Put(at_four()), Note::Get(at_four(), 7), Note::Post] {
            let header = Header { src: Rank(1), dst: Rank(0), seq: s.seq_in[1], context: 40, tag: 0, kind: Kind::OneSided, token: 0 };
            let data = [postcard::to_allocvec(&note).unwrap(), vec![9; 4]].concat();
            s.accept(&mut mem, &fabric, header, &data).unwrap();
            s.accept(&mut mem, &fabric, Header { seq: s.seq_in[1], context: 90, ..header }, &data).unwrap();
        }
        let done = s.receive(&mut mem, &fabric, ints(1), super::super::PROC_NULL, 0, comm::WORLD).unwrap();
        s.finish(done).unwrap();
        for (src, seq) in [(1, 0), (1, 2), (2, 0), (2, 1), (2, 4)] {
            let seq = seq + s.seq_in[src as usize];
            let header = Header { src: Rank(src), dst: Rank(0), seq, context: 0, tag: 5, kind: Kind::Data, token: 0 };
            assert!(fabric.send(&header, &[3; 12]));
        }
        s.progress(&mut mem, &fabric).unwrap();
        assert!(!s.flushed() && !s.early.is_empty() && s.unexpected.len() > 2 && s.collectives.len() == 3 && s.epochs.len() == 3 && s.fetches.len() == 1 && !s.orphans.is_empty() && !s.free.is_empty());
        s
    }

    fn at_four() -> crate::window::At {
        crate::window::At { address: 1040, count: 1, bytes: 4, shape: None }
    }

    /// What a rank may do with a state: whatever comes of it, it is no panic.
    fn go_on(mut s: State) {
        let (fabric, mut bytes) = (fabric(), vec![1u8; 4096]);
        let mut mem = Memory::Own(&mut bytes);
        for (r, peer) in (1..3).map(|r| (r, Rank(r))) {
            for i in 0..6 {
                // What its receives wait for, so that they and the collectives go on.
                let posted = s.posted.iter().find(|p| p.source.is_none_or(|s| s == peer));
                let (context, tag, len) = posted.map_or((0, 5, 12), |p| (p.context, p.tag.unwrap_or(5), match p.target {
                    Target::Schedule { len, .. } => len as usize,
                    Target::Guest { .. } => 8,
                }));
                let kind = if i == 3 { Kind::Synchronous } else { Kind::Data };
                let seq = s.seq_in[r as usize];
                let header = Header { src: peer, dst: Rank(0), seq, context, tag, kind, token: 0 };
                if len > 4096 || !fabric.send(&header, &vec![i as u8; len]) {
                    continue;
                }
                let _ = s.progress(&mut mem, &fabric);
            }
        }
        for request in 1..=s.slots.len() as i32 + 1 {
            let _ = s.start(&mut mem, &fabric, request);
            let _ = s.done(request).is_ok_and(|done| done && s.finish(request).is_ok());
            let _ = s.cancel(request);
            let _ = s.release(request);
        }
        for window in [crate::window::FIRST, crate::window::FIRST + 1] {
            let notes = [Note::Granted, Note::Flushed, Note::Complete, Note::Post, Note::Unlock, Note::Reply(0), Note::Refused(None, 99, "no".into()), Note::Get(at_four(), 0)];
            for (note, peer) in notes.iter().flat_map(|n| [(n, Rank(1)), (n, Rank(2))]) {
                let Ok(context) = s.windows.get(window).map(|w| w.context * 2) else { continue };
                let header = Header { src: peer, dst: Rank(0), seq: s.seq_in[peer.index()], context, tag: 0, kind: Kind::OneSided, token: 0 };
                let _ = s.accept(&mut mem, &fabric, header, &[postcard::to_allocvec(note).unwrap(), vec![7; 24]].concat());
            }
            let _ = s.fence(&fabric, window, 0);
            let _ = s.window_test(window);
            let _ = s.progress(&mut mem, &fabric);
            let _ = s.window_complete(&fabric, window);
            let _ = s.window_free(&mut mem, &fabric, window);
            let _ = s.progress(&mut mem, &fabric);
        }
        let _ = s.barrier(&mut mem, &fabric, comm::WORLD);
        let _ = s.comm_split(&mut mem, &fabric, 3, 0, 0, 0);
        let _ = s.probe(ANY_SOURCE, ANY_TAG, comm::WORLD);
        let _ = s.detach();
        let _ = s.progress(&mut mem, &fabric);
    }

    #[test]
    fn a_damaged_state_is_refused_or_harmless() {
        let good = full();
        good.check(3).unwrap();
        assert!(good.check(2).is_err() && good.check(4).is_err());
        let bytes = postcard::to_allocvec(&good).unwrap();
        // Messages are full of 1 and 3; what is neither is more often structure.
        let places: Vec<usize> = (0..bytes.len()).filter(|i| ![1, 3].contains(&bytes[*i]) || i % 64 == 0).collect();
        let (mut decoded, mut refused, mut used) = (0, 0, 0);
        for seed in 0..20_000u64 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut bytes = bytes.clone();
            for _ in 0..random.random_range(1..4) {
                let at = places[random.random_range(0..places.len())];
                bytes[at] = match random.random_range(0..3) {
                    0 => random.random(),
                    1 => bytes[at].wrapping_add(1),
                    _ => bytes[at] ^ 1 << random.random_range(0..8),
                };
            }
            let Ok(state) = postcard::from_bytes::<State>(&bytes) else { continue };
            decoded += 1;
            if state.check(3).is_err() {
                refused += 1;
                continue;
            }
            used += 1;
            if std::panic::catch_unwind(|| go_on(state)).is_err() {
                panic!("the state of seed {seed} passes the check and panics");
            }
        }
        assert!(decoded > 1000 && refused > 100 && used > 100, "{decoded} decoded, {refused} refused, {used} used");
    }

    /// Each of these made a rank panic before there was a check.
    #[test]
    fn what_would_panic_is_named() {
        let refused = |change: &dyn Fn(&mut State), expected: &str| {
            let mut state = full();
            change(&mut state);
            let message = state.check(3).unwrap_err().message;
            assert!(message.contains(expected), "{message}");
        };
        refused(&|s| s.seq_in.truncate(1), "counts messages");
        refused(&|s| s.me = Rank(3), "counts messages");
        refused(&|s| s.collectives.push(99), "no collective");
        refused(&|s| s.free.push(0), "not free");
        refused(&|s| s.posted[0].request = -5, "posted");
        refused(&|s| s.unexpected_bytes = 0, "counted as 0");
        refused(&|s| s.unexpected_bytes -= 1, "without a receive are counted");
        refused(&|s| s.outgoing_bytes -= 1, "wait to leave are counted");
        refused(&|s| s.collective_bytes -= 1, "collectives of");
        refused(&|s| s.unexpected[0].0.src = Rank(70), "from none");
        refused(&|s| s.fetch_bytes = 0, "replies of 24 bytes");
        refused(&|s| s.fetches.values_mut().for_each(|f| f.target = 3), "waits for rank 3");
        refused(&|s| s.epochs.push(99), "waits for no window");
        refused(&|s| s.windows.get_mut(crate::window::FIRST).unwrap().peers.clear(), "other ranks");
        refused(&|s| s.windows.get_mut(crate::window::FIRST + 1).unwrap().exposed = Some(vec![5]), "other ranks");
        refused(&|s| s.attached.as_mut().unwrap().used = 0, "attached");
        refused(&|s| s.outgoing.values_mut().next().unwrap()[0].header.dst = Rank(9), "waits to leave");
        let collective = |s: &mut State, change: &dyn Fn(&mut Schedule)| {
            s.slots.iter_mut().flatten().for_each(|slot| {
                if let Work::Collective(schedule) = &mut slot.work {
                    change(schedule);
                }
            });
        };
        refused(&|s| collective(s, &|c| c.pending = 0), "waits for less");
        refused(&|s| collective(s, &|c| c.bufs.clear()), "");
        refused(&|s| collective(s, &|c| c.bytes = 0), "more than it says");
        let part = |s: &mut State, change: &dyn Fn(&mut Content)| s.outgoing.values_mut().flatten().for_each(|w| change(&mut w.content));
        refused(&|s| part(s, &|c| if let Content::Schedule { at, .. } = c { *at = 5000 }), "no collective that has it");
    }
}
