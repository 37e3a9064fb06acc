//! The manifest: a copy of the state beside the chunks that it tells of, so that long-term storage can be read without the log's folder, and so that
//! two servers can't both believe that it is theirs.
//!
//! ```text
//!   streams/<log>/chunks/<segment>/…        bytes
//!   streams/<log>/manifest/<number>         who writes here, and a checkpoint cut to what chunks have
//! ```
//!
//! Manifests are numbered, and each is put on the condition that its number is free. A server that begins reads the newest, refuses if that is from as many
//! openings of the log as its own or more, and puts the next. So of two servers that began with copies of one log the later one goes on, and the earlier one
//! finds its next number taken: it is *fenced*, and writes nothing any more. The last two manifests stay.
//!
//! What a manifest does not have: events of the last seconds, which only the log had. A segment ends where its first byte in the log would be, with whole
//! appends, and forgets the numbers of its writers if something of it is missing; transactions that were open are aborted.

use crate::{
    Error, Result, Store, disk,
    log::{Seq, crc32c},
    overflow, plan,
    segment::{Chunk, ChunkId, Extent, Source, State, Writers},
    store::Checkpoint,
    video::play::date,
    watermark::MARK_ATTRIBUTE,
};
use base::Kind;
use bytes::Bytes;
use futures::future::BoxFuture;
use geds::Persist;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Where a log's chunks are.
pub(crate) fn chunks(log: u64) -> String {
    format!("{}/chunks", home(log))
}

/// An object without content that says that the storage takes something.
pub(crate) fn probe(log: u64) -> String {
    format!("{}/reached", home(log))
}

/// Where all that is a log's is.
pub(crate) fn home(log: u64) -> String {
    format!("streams/{log:016x}")
}

fn manifests(log: u64) -> String {
    format!("{}/manifest", home(log))
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    epoch: u64,
    /// The process that wrote it.
    server: u128,
    at_ms: u64,
    checkpoint: Vec<u8>,
}

impl Manifest {
    fn bytes(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("plain data can be written to memory");
        [&crc32c(&body).to_le_bytes()[..], &body].concat()
    }

    fn parse(bytes: &[u8]) -> Option<Manifest> {
        let (crc, body) = bytes.split_at_checked(4)?;
        (crc == crc32c(body).to_le_bytes()).then(|| postcard::from_bytes(body).ok())?
    }
}

fn storage(e: geds::Error) -> Error {
    Error::Storage(Arc::new(e))
}

async fn read(persist: &Persist, log: u64, number: u64) -> Result<Manifest> {
    let name = format!("{}/{number:016x}", manifests(log));
    let bytes = persist.read_all(&name).await.map_err(storage)?;
    Manifest::parse(&bytes).ok_or_else(|| Error::Spoilt(format!("{name} in long-term storage has another checksum than when it was written")))
}

/// The newest manifest that can be read, of these numbers, oldest first. The last one may have been cut off by a storage that doesn't put as a whole, or spoilt since; the one before is there for that.
async fn newest(persist: &Persist, log: u64, numbers: &[u64]) -> Result<Option<Manifest>> {
    for number in numbers.iter().rev() {
        match read(persist, log, *number).await {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(e @ Error::Spoilt(_)) => tracing::warn!(error = %e, "the manifest before it is used"),
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// The numbers of a log's manifests, oldest first.
async fn numbers(persist: &Persist, log: u64) -> Result<Vec<u64>> {
    let names = persist.list(&manifests(log)).await.map_err(storage)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| u64::from_str_radix(n.rsplit('/').next()?, 16).ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The numbers of all logs that have a manifest there.
async fn logs(persist: &Persist) -> Result<Vec<u64>> {
    let mut logs = Vec::new();
    for log in persist.folders("streams").await.map_err(storage)?.iter().filter_map(|name| u64::from_str_radix(name, 16).ok()) {
        if !numbers(persist, log).await?.is_empty() {
            logs.push(log);
        }
    }
    logs.sort_unstable();
    Ok(logs)
}

/// Logs as `--restore` takes them, and when each was last written.
async fn described(persist: &Persist, logs: &[u64]) -> Result<String> {
    let mut shown = Vec::new();
    for log in logs {
        // One that can't be read is one all the same.
        let written = match numbers(persist, *log).await?.last() {
            Some(newest) => read(persist, *log, *newest).await.map_or_else(|e| e.to_string(), |m| format!("last written {}", date(m.at_ms))),
            None => "without a manifest".into(),
        };
        shown.push(format!("{log:016x} ({written})"));
    }
    Ok(shown.join(", "))
}

/// Whether one of these chunks of a log is there, or another server has gone on with it there since it was opened `epoch` times here, which [`Owner::claim`] tells. That only some are there is told: it may
/// be a copy from before.
pub(crate) async fn has_any(persist: &Persist, log: u64, epoch: u64, chunks: &[String]) -> Result<bool> {
    let mut missing = Vec::new();
    for chunk in chunks {
        match persist.read(chunk, 0..1).await {
            Ok(_) => {}
            Err(e) if e.kind() == Kind::NotFound => missing.push(chunk.as_str()),
            Err(e) => return Err(storage(e)),
        }
    }
    if missing.len() < chunks.len() {
        if !missing.is_empty() {
            let (of, missing) = (chunks.len(), missing.join(", "));
            tracing::error!(storage = %persist, missing, "some of the {of} newest chunks are not in long-term storage: if this is an older copy of it, stop now and start with the right one, or put them back; readers are told where bytes are missing");
        }
        return Ok(true);
    }
    Ok(newest(persist, log, &numbers(persist, log).await?).await?.is_some_and(|newest| newest.epoch >= epoch))
}

/// Up to before which block of a log its newest manifest tells, if that was put by an earlier opening than this, and `begun`, with which this one began, lies before it: then the log's folder is a copy from
/// before, and chunks that it knows nothing of are what came later. What a later opening has put is for [`Owner::claim`].
pub(crate) async fn ahead(persist: &Persist, log: u64, epoch: u64, begun: Seq) -> Result<Option<Seq>> {
    let Some(manifest) = newest(persist, log, &numbers(persist, log).await?).await?.filter(|newest| newest.epoch < epoch) else { return Ok(None) };
    let next = Checkpoint::parse(&manifest.checkpoint).map_err(|why| why.error("the manifest's checkpoint"))?.mark.next;
    Ok((next > begun).then_some(next))
}

/// How many logs other than this one have streams there.
pub(crate) async fn others(persist: &Persist, log: u64) -> Result<usize> {
    Ok(logs(persist).await?.into_iter().filter(|other| *other != log).count())
}

/// The right to write into a log's part of long-term storage.
pub(crate) struct Owner {
    persist: Persist,
    log: u64,
    epoch: u64,
    server: u128,
    /// Number of the next manifest.
    next: u64,
    /// Those that are there, oldest first.
    there: Vec<u64>,
}

impl Owner {
    /// Looks who was here last. The right is taken with the first [`Owner::publish`].
    pub async fn claim(persist: Persist, log: u64, epoch: u64) -> Result<Owner> {
        let there = numbers(&persist, log).await?;
        let last = there.last().copied();
        if let Some(newest) = newest(&persist, log, &there).await?.filter(|newest| newest.epoch >= epoch) {
            return Err(Error::Fenced(format!("log {log:x} was opened {} times there, and {epoch} times here", newest.epoch)));
        }
        Ok(Owner { persist, log, epoch, server: rand::random(), next: last.map_or(0, |n| n + 1), there })
    }

    /// Nothing of this log was there.
    pub fn is_new(&self) -> bool {
        self.there.is_empty()
    }

    /// Puts the next manifest and gives its size in bytes.
    pub async fn publish(&mut self, checkpoint: Checkpoint) -> Result<usize> {
        let manifest = Manifest { epoch: self.epoch, server: self.server, at_ms: base::clock::now_ms(), checkpoint: checkpoint.bytes() };
        let bytes = Bytes::from(manifest.bytes());
        loop {
            let number = self.next;
            let name = format!("{}/{number:016x}", manifests(self.log));
            let ours = self.persist.create(&name, bytes.clone()).await.map_err(storage)?;
            let there = if ours { None } else { Some(read(&self.persist, self.log, number).await?) };
            if let Some(there) = there.as_ref().filter(|t| t.server != self.server && t.epoch >= self.epoch) {
                return Err(Error::Fenced(format!("{name} was written by another server, which has opened log {:x} {} times", self.log, there.epoch)));
            }
            self.there.push(number);
            self.next += 1;
            // What an earlier process had sent may arrive after its end, as may an earlier one of ours whose answer was lost: it is passed over. This one, so arrived, is as good as an answer.
            if there.is_none_or(|t| t.bytes() == bytes) {
                break;
            }
        }
        while self.there.len() > 2 {
            let old = format!("{}/{:016x}", manifests(self.log), self.there[0]);
            self.persist.delete(&old).await.map_err(storage)?;
            self.there.remove(0);
        }
        Ok(bytes.len())
    }
}

/// A checkpoint without what only the log has.
pub(crate) struct Cut {
    pub checkpoint: Checkpoint,
    /// Chunks that nothing in it points to.
    pub unneeded: Vec<ChunkId>,
}

pub(crate) fn cut(from: &Checkpoint) -> Result<Cut> {
    let mut state = from.state().map_err(|e| Error::Damaged(format!("a checkpoint makes no sense: {e}")))?;
    // What lies in a folder of this machine is not there for whoever begins with long-term storage alone.
    let there = |e: &Extent, chunks: &BTreeMap<ChunkId, Chunk>| matches!(e.source, Source::Chunk(c, _) if chunks.get(&c).is_some_and(|c| !overflow::has(&c.location)));
    for segment in state.segments.values_mut().filter(|s| s.table.is_none()) {
        let landed = &mut segment.landed;
        let kept = landed.extents.iter().take_while(|e| there(e, &state.chunks)).count();
        landed.extents.truncate(kept);
        // An extent in the log that was truncated in its middle begins before what is left.
        let end = landed.extents.back().map_or(landed.start, |e| e.end()).max(landed.start);
        if end < segment.length {
            // Numbers of events that are lost: a writer that sends them again must not hear that they are there.
            segment.writers = Writers::default();
            // A place from which clients of a revisioned stream would read on.
            segment.attributes.retain(|key, value| *key != MARK_ATTRIBUTE || *value <= end as i64);
        }
        // Without extents nothing says where they would begin, and a segment's length can't be less than its start.
        segment.length = end;
        segment.start = landed.start;
        (landed.durable, landed.flushed, landed.unflushed, landed.ended) = (end, end, 0, segment.sealed);
    }
    let pointed: std::collections::HashSet<ChunkId> = state
        .segments
        .values()
        .flat_map(|s| &s.landed.extents)
        .filter_map(|e| if let Source::Chunk(chunk, _) = e.source { Some(chunk) } else { None })
        .collect();
    let unneeded = state.chunks.keys().filter(|c| !pointed.contains(c)).copied().collect();
    state.chunks.retain(|_, c| !overflow::has(&c.location));
    Ok(Cut { checkpoint: Checkpoint::new(from.mark, &state), unneeded })
}

/// Puts the newest manifest into an empty folder, so that a log can be opened there which goes on from it. `log` says which, if there are several.
pub fn restore<'a>(persist: &'a Persist, log: Option<u64>, disk: Arc<dyn disk::Disk>) -> BoxFuture<'a, Result<u64>> {
    Box::pin(async move {
        Store::refuse_begun(&*disk)?;
        let logs = logs(persist).await?;
        let log = match (log, &logs[..]) {
            (Some(log), all) if all.contains(&log) => log,
            (Some(log), []) => return Err(Error::NotFound(format!("{persist} has nothing of log {log:016x}; it has none"))),
            (Some(log), all) => return Err(Error::NotFound(format!("{persist} has nothing of log {log:016x}; it has {}", described(persist, all).await?))),
            (None, [log]) => *log,
            (None, []) => return Err(Error::NotFound(format!("{persist} has no streams to begin with"))),
            (None, several) => return Err(Error::Conflict(format!("{persist} has several logs; say which one with `--restore LOG`: {}", described(persist, several).await?))),
        };
        let manifest = newest(persist, log, &numbers(persist, log).await?).await?.ok_or_else(|| Error::Spoilt(format!("no manifest of log {log:016x} can be read")))?;
        let checkpoint = Checkpoint::parse(&manifest.checkpoint).map_err(|why| why.error("the manifest's checkpoint"))?;
        let mut state: State = checkpoint.state().map_err(|e| Error::Spoilt(format!("the manifest's checkpoint makes no sense: {e}")))?;
        let open: Vec<_> = state.catalog.streams().flat_map(|(scope, name, s)| s.open.keys().map(move |id| (scope.to_string(), name.to_string(), *id))).collect();
        for (scope, stream, id) in open {
            if let (Some(record), ()) = plan::abort_txn(&state, &scope, &stream, id)? {
                let physical = record.physical();
                state.apply(record);
                state.land(physical, crate::log::Place { file: crate::log::FileNo(0), at: 0 });
            }
        }
        // No file is left of the log: it begins with its first one, and its number of openings goes on.
        let mark = crate::log::Mark { log, epoch: manifest.epoch, link: 0, file: crate::log::FileNo(1), at: 0, ..checkpoint.mark };
        tokio::task::spawn_blocking(move || Store::begin_with(&*disk, &Checkpoint::new(mark, &state)))
            .await
            .map_err(|e| Error::Invalid(format!("restoring ended early: {e}")))??;
        tracing::info!(log = %format!("{log:016x}"), age_s = base::clock::now_ms().saturating_sub(manifest.at_ms) / 1000, "begins with what long-term storage has");
        Ok(log)
    })
}
