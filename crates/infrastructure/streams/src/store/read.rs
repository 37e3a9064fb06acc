//! Reads: which pieces of the log and of chunks a segment's bytes are, and how they are got.
//!
//! ```text
//!   read_within ─▶ plan (under the lock): pieces, or nothing yet ─▶ a place in memory ─▶ fetch ─▶ each piece is what was written?
//!        └◀ more has landed ◀─ nothing yet                                                 log: at once, or where nobody waits
//!                                                                                          one chunk: not copied; several: beside each other
//! ```

use super::{Held, Store, lock};
use crate::{
    Error, Result,
    disk::DiskFile,
    log, overflow,
    segment::{Chunk, Extent, Source},
    tier::{Damage, Failed, Tier},
};
use base::{Kind, behind};
use bytes::Bytes;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a read gives when that is used up, so that everyone gets on.
const READ_SHORT: usize = 16 << 10;
/// The most bytes that one read returns.
pub const READ_MAX: usize = 2 << 20;
/// What is before each event: type and length.
const EVENT_HEADER: usize = 8;
/// What is read at once to find an event.
const LOCATE_BYTES: usize = 64 << 10;
/// How far ahead of a reader long-term storage is asked.
const AHEAD: u64 = 16 << 20;

#[derive(Clone, Debug)]
pub struct Read {
    pub data: Bytes,
    /// There is nothing behind these bytes at the moment.
    pub at_tail: bool,
    /// There will never be anything at this offset.
    pub end: bool,
    /// The place that the bytes have in memory; to be kept as long as they are.
    pub held: Held,
}

impl Store {
    /// Reads up to `max` bytes (and [`READ_MAX`]) at `offset`. At the tail it waits for up to `wait` and then returns nothing.
    pub async fn read(&self, name: &str, offset: u64, max: usize, wait: Duration) -> Result<Read> {
        self.read_within(None, name, offset, max, wait).await
    }

    /// Waits for a place in memory for a command of so many bytes.
    pub(crate) async fn place(&self, bytes: usize) -> Result<Held> {
        let place = self.0.commands.clone().acquire_many_owned(bytes as u32).await;
        Ok(Arc::new(vec![place.map_err(|e| Error::Invalid(e.to_string()))?]))
    }

    /// The same for the end of a block whose beginning has its place already: of memory for such ends alone, or those who wait here would wait for others that wait here.
    pub(crate) async fn place_of_end(&self, bytes: usize) -> Result<Held> {
        let place = self.0.ends.clone().acquire_many_owned(bytes as u32).await;
        Ok(Arc::new(vec![place.map_err(|e| Error::Invalid(e.to_string()))?]))
    }

    /// A place for a read that waits at the tail; `None` when there is none.
    pub(crate) fn tail_place(&self) -> Option<OwnedSemaphorePermit> {
        self.0.tails.clone().try_acquire_owned().ok()
    }

    /// Whether a read at this offset would have to wait for what comes.
    pub(crate) fn is_tail(&self, name: &str, offset: u64) -> bool {
        self.peek(|state| state.segment(name).is_ok_and(|s| !s.landed.ended && offset >= s.landed.durable && offset <= s.length))
    }

    /// [`Store::read`] for one of several reads that share `own` bytes, which is at least [`READ_MAX`]. What others do not take never keeps this one waiting:
    /// where no memory is left, it gets less.
    pub(crate) async fn read_within(&self, own: Option<&Arc<Semaphore>>, name: &str, offset: u64, mut max: usize, wait: Duration) -> Result<Read> {
        let mut mine = None;
        let until = tokio::time::Instant::now() + wait;
        let mut waited = false;
        loop {
            // Asked for before looking, so that what lands in between is not missed.
            let waiting = {
                let state = lock(&self.0.shared.state);
                state.find(name).map(|(_, s)| s.landed.waiting.clone())
            };
            let waiting = match waiting {
                Ok(waiting) => waiting,
                Err(e) => return self.settle(self.gate(name, |_| Err(e))).await,
            };
            let mut landed = std::pin::pin!(waiting.notified());
            landed.as_mut().enable();
            match self.plan(name, offset, max) {
                Err(e) => return self.settle(self.gate(name, |_| Err(e))).await,
                Ok(Plan::End) => return Ok(Read { data: Bytes::new(), at_tail: true, end: true, held: Held::default() }),
                Ok(Plan::Read { pieces, skip, bytes, at_tail, arrived }) => {
                    if let (None, Some(own)) = (&mine, own) {
                        match own.clone().try_acquire_many_owned(bytes as u32) {
                            Ok(place) => mine = Some(place),
                            // Who waits for a slow client holds no file of the log.
                            Err(_) => {
                                drop(pieces);
                                mine = Some(own.clone().acquire_many_owned(bytes as u32).await.map_err(|e| Error::Invalid(e.to_string()))?);
                                max = bytes;
                                continue;
                            }
                        }
                    }
                    let place = match self.0.reads.clone().try_acquire_many_owned(bytes as u32) {
                        Ok(place) => Some(place),
                        Err(_) if bytes > READ_SHORT => {
                            max = READ_SHORT;
                            continue;
                        }
                        Err(_) => None,
                    };
                    let held = Arc::new(mine.take().into_iter().chain(place).collect::<Vec<_>>());
                    let alone = pieces.first().filter(|_| pieces.len() == 1).map(|piece| piece.extent);
                    let history = pieces.iter().any(|piece| matches!(piece.from, From::Chunk { .. }));
                    let first = pieces.first().filter(|_| pieces.len() > 1).map(|piece| (piece.extent.end() - offset) as usize);
                    let data = match (self.fetch(name, pieces, skip, bytes).await, first) {
                        // What is whole before a part that is damaged, or can't be had now, is read all the same: one part at a time, up to that one.
                        (Err(Error::Spoilt(_) | Error::File { .. } | Error::NotFound(_) | Error::Storage(_)), Some(first)) => {
                            max = first;
                            continue;
                        }
                        (Err(e), None) => return Err(self.unread(name, alone, e)),
                        (done, _) => done?,
                    };
                    self.metrics().read_bytes.fetch_add(data.len() as u64, Relaxed);
                    if let (true, Some(tier)) = (history, self.0.shared.tier.get()) {
                        tier.is_well(name, offset, data.len());
                    }
                    if let (true, Some(arrived)) = (waited, arrived) {
                        self.metrics().end_to_end.note(arrived.elapsed());
                    }
                    return Ok(Read { data, at_tail, end: false, held });
                }
                Ok(Plan::Wait) => {
                    waited = true;
                    if tokio::time::timeout_at(until, landed).await.is_err() {
                        return Ok(Read { data: Bytes::new(), at_tail: true, end: false, held: Held::default() });
                    }
                }
            }
        }
    }

    /// Where an event begins, at `target` or the next one behind it: found by reading events from a place where one is known to begin. What is not made of
    /// events has the ends of its appends, as far as they are known. Behind the last event it is the segment's end.
    pub async fn locate(&self, name: &str, target: u64) -> Result<u64> {
        let bounds = self.gate(name, |state| {
            let segment = state.segment(name)?;
            if segment.table.is_some() {
                return Err(Error::IsATable(name.into()));
            }
            let landed = &segment.landed;
            let ends = || landed.extents.iter().filter(|e| e.whole && e.end() > segment.start).map(Extent::end);
            let from = ends().take_while(|end| *end <= target).last().unwrap_or(segment.start);
            Ok((from, ends().find(|end| *end >= target).unwrap_or(segment.length), segment.length))
        });
        let (mut at, end, length) = self.settle(bounds).await?;
        if target >= length {
            return Ok(length);
        }
        let mut bytes = Bytes::new();
        // Whether `at` is where `bytes` begin; a long event is not read, it is passed over.
        while at < target {
            if bytes.len() < EVENT_HEADER {
                bytes = self.read(name, at, LOCATE_BYTES, Duration::ZERO).await?.data;
            }
            let header = bytes.get(..EVENT_HEADER).map(|h| (h[..4] == [0; 4], i32::from_be_bytes(h[4..].try_into().expect("four bytes"))));
            let Some((true, event @ 0..)) = header else { return Ok(end) };
            let event = EVENT_HEADER as u64 + event as u64;
            if at + event > end {
                return Ok(end);
            }
            at += event;
            bytes = bytes.slice((event as usize).min(bytes.len())..);
        }
        Ok(at)
    }

    fn plan(&self, name: &str, offset: u64, max: usize) -> Result<Plan> {
        let state = lock(&self.0.shared.state);
        let (_, segment) = state.find(name)?;
        if segment.table.is_some() {
            return Err(Error::IsATable(name.into()));
        }
        if offset < segment.start {
            return Err(Error::Truncated { segment: name.into(), start: segment.start, offset });
        }
        if offset > segment.length {
            return Err(Error::BeyondEnd { segment: name.into(), length: segment.length, offset });
        }
        let landed = &segment.landed;
        if offset >= landed.durable {
            return Ok(if landed.ended && offset == landed.durable { Plan::End } else { Plan::Wait });
        }
        if max == 0 {
            return Ok(Plan::Read { pieces: Vec::new(), skip: 0, bytes: 0, at_tail: false, arrived: None });
        }
        let max = max.min(READ_MAX) as u64;
        let bytes = max.min(landed.durable - offset);
        let extents = landed.covering(offset, bytes);
        let skip = (offset - extents.first().map_or(offset, |e| e.start)) as usize;
        let pieces = extents
            .into_iter()
            .map(|extent| match extent.source {
                Source::Log(place) => {
                    let file = self.0.log.file(place.file).ok_or_else(|| Error::Spoilt(format!("file {} of the log is not open", place.file.0)))?;
                    Ok(Piece { extent, from: From::File(file, place.at) })
                }
                Source::Chunk(chunk, at) => Ok(Piece { extent, from: From::Chunk { chunk: state.chunks[&chunk].clone(), at } }),
            })
            .collect::<Result<Vec<_>>>()?;
        // Who reads in order will want what follows.
        if let (true, Some(tier)) = (pieces.iter().any(|p| matches!(p.from, From::Chunk { .. })), self.0.shared.tier.get()) {
            let mut seen = None;
            for extent in landed.covering(offset + bytes, AHEAD) {
                if let Source::Chunk(chunk, at) = extent.source
                    && seen != Some((chunk, at / READ_MAX as u32))
                {
                    seen = Some((chunk, at / READ_MAX as u32));
                    tier.prefetch(state.chunks[&chunk].clone(), at);
                }
            }
        }
        let arrived = landed.fresh.filter(|f| f.start == offset).map(|f| f.arrived);
        Ok(Plan::Read { pieces, skip, bytes: bytes as usize, at_tail: offset + bytes == landed.durable, arrived })
    }

    /// The bytes of extents that follow each other, without the first `skip`.
    async fn fetch(&self, name: &str, pieces: Vec<Piece>, skip: usize, bytes: usize) -> Result<Bytes> {
        let whole: usize = pieces.iter().map(|p| p.extent.len as usize).sum();
        // History, as a rule, is side by side in one chunk, and is not copied.
        if let Some((chunk, at)) = beside(&pieces) {
            let tier = self.history_of(name)?;
            let from = tier.clone();
            let got = tier.aside(async move {
                let got = from.read(&chunk, at, whole as u32).await?;
                let mut rest = got.clone();
                pieces.iter().try_for_each(|piece| check(&piece.extent, &rest.split_to(piece.extent.len as usize)))?;
                Ok(got)
            });
            return Ok(part(got.await?, skip, bytes));
        }
        let mut out = vec![0; whole];
        let mut at = 0;
        let mut chunked = false;
        let mut late = false;
        for piece in &pieces {
            let part = &mut out[at..at + piece.extent.len as usize];
            at += part.len();
            match &piece.from {
                From::File(file, place) if !late => late |= !file.read_now((*place).into(), part),
                From::File(..) => {}
                From::Chunk { .. } => chunked = true,
            }
        }
        let finish = move |pieces: Vec<Piece>, mut out: Vec<u8>, late: bool| {
            let mut at = 0;
            for Piece { extent, from } in pieces {
                let part = &mut out[at..at + extent.len as usize];
                at += part.len();
                if let (true, From::File(file, place)) = (late, &from) {
                    file.read((*place).into(), part).map_err(Error::file("read", "the log"))?;
                }
                check(&extent, part)?;
            }
            Ok(out)
        };
        let out = if chunked {
            let tier = self.history_of(name)?;
            let from = tier.clone();
            tier.aside(async move {
                let mut at = 0;
                for piece in &pieces {
                    let len = piece.extent.len as usize;
                    if let From::Chunk { chunk, at: begin } = &piece.from {
                        let got = from.read(chunk, *begin, piece.extent.len).await?;
                        out[at..at + len].copy_from_slice(&got);
                    }
                    at += len;
                }
                // The rest may wait for a device, too: this holds up nobody but others who read history.
                finish(pieces, out, late)
            })
            .await?
        } else if late {
            tokio::task::spawn_blocking(move || finish(pieces, out, true)).await.map_err(|e| Error::Invalid(format!("a read ended early: {e}")))??
        } else {
            finish(pieces, out, false)?
        };
        Ok(part(out.into(), skip, bytes))
    }

    /// What a reader is told of bytes that could not be read. Those that only the overflow has are noted as lost, and those that long-term storage has not as they were put there as spoilt.
    fn unread(&self, name: &str, extent: Option<Extent>, e: Error) -> Error {
        let Some(extent) = extent else { return e };
        let why = if let Error::Spoilt(why) = &e { why.clone() } else { e.to_string() };
        let (place, remedy) = match (extent.source, self.0.shared.tier.get()) {
            (Source::Log(_), _) if matches!(e, Error::Spoilt(_)) => (String::from("the log"), ""),
            (Source::Chunk(id, _), Some(tier)) => match self.peek(|state| state.chunks.get(&id).map(|chunk| chunk.location.clone())) {
                Some(location) if overflow::has(&location) => {
                    tier.lose(self, id, Failed::Read, &why);
                    (String::from("the overflow, which alone has them"), "")
                }
                // It is away: nothing is known of its bytes.
                Some(location) if matches!(e.kind(), Kind::DataLoss | Kind::NotFound) => {
                    let place = format!("{location} of {}", tier.name());
                    tier.spoil(&location, Damage { segment: name.into(), start: extent.start, bytes: extent.len.into(), why: format!("{place}: {why}") });
                    (place, "put it back from a copy, or ")
                }
                _ => return e,
            },
            _ => return e,
        };
        Error::Spoilt(format!("bytes {} to {} of {name}, in {place}: {why}; {remedy}let the stream begin behind them (`cloudskin stream truncate --at`)", extent.start, extent.end()))
    }

    /// Where bytes of a segment are that the log does not have.
    fn history_of(&self, name: &str) -> Result<&Arc<Tier>> {
        let none = || Error::NotFound(format!("bytes of {name} are in long-term storage, and none is configured; start with the same one as before"));
        self.0.shared.tier.get().ok_or_else(none)
    }

    /// Where the bytes of extents in the log are, for the flusher.
    pub(crate) fn in_log(&self, extents: &[Extent]) -> Result<InLog> {
        let pieces = extents.iter().map(|extent| match extent.source {
            Source::Log(place) => {
                let file = self.0.log.file(place.file).ok_or_else(|| Error::Spoilt(format!("file {} of the log is not open", place.file.0)))?;
                Ok((*extent, file, place.at))
            }
            Source::Chunk(..) => Err(Error::Invalid("a chunk is not flushed again".into())),
        });
        Ok(InLog(pieces.collect::<Result<_>>()?))
    }
}

/// Extents in the log, and the files that they lie in.
pub(crate) struct InLog(Vec<(Extent, Arc<dyn DiskFile>, u32)>);

impl InLog {
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|(extent, ..)| extent.len as usize).sum()
    }

    /// Reads all of them, side by side, into so many bytes of memory, and lets others have their turn in between. It may wait for a device.
    pub(crate) fn read(&self, mut into: &mut [u8]) -> Result<()> {
        let mut since = 0;
        for (extent, file, at) in &self.0 {
            let part = into.split_off_mut(..extent.len as usize).expect("there is room for all");
            file.read((*at).into(), part).map_err(Error::file("read", "the log"))?;
            check(extent, part)?;
            since += part.len();
            if since >= behind::TURN_BYTES {
                behind::turn();
                since = 0;
            }
        }
        Ok(())
    }
}

enum Plan {
    /// `arrived`: when the first byte did, if it is the newest block's.
    Read { pieces: Vec<Piece>, skip: usize, bytes: usize, at_tail: bool, arrived: Option<Instant> },
    Wait,
    End,
}

struct Piece {
    extent: Extent,
    from: From,
}

/// In which chunk they are, and where they begin there, if all are in one and lie there as they do in the segment.
fn beside(pieces: &[Piece]) -> Option<(Chunk, u32)> {
    let Some(Piece { from: From::Chunk { chunk, at }, .. }) = pieces.first() else { return None };
    let mut next = *at;
    let beside = pieces.iter().all(|piece| match &piece.from {
        From::Chunk { chunk: other, at } => {
            let is_next = *at == next && other.location == chunk.location;
            next += piece.extent.len;
            is_next
        }
        From::File(..) => false,
    });
    beside.then(|| (chunk.clone(), *at))
}

/// Whether an extent's bytes are those that were written.
fn check(extent: &Extent, bytes: &[u8]) -> Result<()> {
    match log::crc32c(bytes) == extent.crc {
        true => Ok(()),
        false => Err(Error::Spoilt("they have another checksum than when they were written".into())),
    }
}

/// Some of the bytes: few of many don't keep all of them.
fn part(all: Bytes, skip: usize, bytes: usize) -> Bytes {
    match all.len() > 2 * bytes {
        true => Bytes::copy_from_slice(&all[skip..skip + bytes]),
        false => all.slice(skip..skip + bytes),
    }
}

enum From {
    File(Arc<dyn DiskFile>, u32),
    Chunk { chunk: Chunk, at: u32 },
}
