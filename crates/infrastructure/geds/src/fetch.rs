//! Getting an object from wherever there is a copy: other sites, range by range and several at a time, else the persistency tier.
//!
//! ```text
//! here? ─▶ that one │ damaged? ─▶ given up, if others have it
//! holders ─▶ 4 MiB each from the next of them, four on their way ─▶ draft ─▶ is it what the catalog says? ─▶ kept, recorded, opened
//! none could ─▶ persistency tier ─▶ the same
//! ```
//!
//! What comes as a whole is worth nothing until its length and checksum are those of the catalog. The bytes that wait in memory are four ranges at most.
//!
//! Of what is large, a small part is read range by range where it lies ([`Inner::part_of`]), and nothing is kept. Nobody can compare it with the object's checksum: a site compares what it holds before it
//! sends of it for the first time, and the lines have checksums of their own.

use crate::{
    BucketName, Error, Holder, Key, Object, ObjectMeta, PeerClient, Persist, Result, Writer,
    leases::Wanted,
    local::{Draft, Local, Refused},
    metrics::{Source, add},
    node::{Inner, compute},
    peer::{self, Range},
    spans,
    writer::Carried,
};
use base::Kind;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream::BoxStream};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tracing::{Instrument, Span};

/// What is asked for at a time.
const RANGE_BYTES: u64 = 4 << 20;
/// Of what is longer than that, up to the fourth part is read where it lies before it is fetched as a whole.
const FETCHED_AFTER: u64 = 4;
/// Objects of which it is known how much was read so.
const READ_IN_PARTS_MAX: usize = 1024;
/// Ranges of one object on their way at a time.
const RANGES_AT_A_TIME: usize = 4;
/// How long the persistency tier may be silent in the middle of an object.
pub(crate) const PERSIST_SILENCE: Duration = Duration::from_secs(30);

/// Writes chunks where waiting for the disk is allowed.
async fn write_chunks(mut draft: Draft, chunks: Vec<Bytes>) -> Result<(Draft, Result<(), Refused>)> {
    compute(move || {
        let done = chunks.into_iter().try_for_each(|chunk| draft.write_at(draft.len(), &chunk));
        (draft, done)
    })
    .await
}

async fn download(meta: &ObjectMeta, client: &mut PeerClient, range: Range) -> Result<Vec<Bytes>> {
    let mut download = client.get_copy(meta, range).await?;
    let mut chunks = Vec::new();
    while let Some(chunk) = download.chunk().await? {
        chunks.push(chunk);
    }
    Ok(chunks)
}

/// Whose part it is, its length, and the bytes as they come.
pub(crate) type Part = (ObjectMeta, u64, BoxStream<'static, Result<Bytes>>);

impl Inner {
    /// Opens exactly this epoch.
    pub async fn open(self: &Arc<Self>, meta: &ObjectMeta) -> Result<Object> {
        if let Some(local) = self.tier.get(meta.id) {
            let memory = local.in_memory();
            match self.map(meta.clone(), local.clone()).await {
                Ok(object) => {
                    self.opened(&meta.bucket, Source::here(memory));
                    spans::note(&Span::current(), meta.size, Source::here(memory));
                    return Ok(object);
                }
                Err(e @ Error::Damaged { .. }) => self.discard(meta, &local, e).await?,
                Err(e) => return Err(e),
            }
        }
        self.fetch(meta).await
    }

    /// Gives up a damaged copy, if others have the object. Else the error stands and the file stays for who wants to save it.
    async fn discard(&self, meta: &ObjectMeta, damaged: &Arc<Local>, error: Error) -> Result<()> {
        let turn = self.turn(meta.id);
        let _turn = turn.lock().await;
        // Another reader found it, too, and what is here by now may be a good one, which the catalog counts.
        if !self.tier.get(meta.id).is_some_and(|now| Arc::ptr_eq(&now, damaged)) {
            return Ok(());
        }
        match self.unrecord(meta).await {
            Ok(_) => {
                tracing::error!(%error, "fetching another copy");
                self.free(meta.id);
                Ok(())
            }
            Err(refused) => {
                tracing::error!(%error, %refused, "a damaged copy can't be replaced");
                Err(error)
            }
        }
    }

    /// Gets a copy from wherever there is one, keeps and opens it.
    async fn fetch(self: &Arc<Self>, meta: &ObjectMeta) -> Result<Object> {
        let turn = self.turn(meta.id);
        let _turn = turn.lock().await;
        if let Some(local) = self.tier.get(meta.id) {
            self.opened(&meta.bucket, Source::here(local.in_memory()));
            return self.map(meta.clone(), local).await;
        }
        let began = Instant::now();
        let span = spans::fetch(&meta.bucket, &meta.key);
        let (object, source) = self.fetch_held(meta).instrument(span.clone()).await?;
        for span in [span, Span::current()] {
            spans::note(&span, meta.size, source);
        }
        self.fetched(meta, source, began.elapsed());
        Ok(object)
    }

    /// Counts what came.
    pub fn fetched(&self, meta: &ObjectMeta, source: Source, took: Duration) {
        let counted = self.counted(&meta.bucket);
        let counts = counted.of(source);
        add(&counts.opened, 1);
        add(&counts.fetched_bytes, meta.size);
        counts.fetch.add(took);
    }

    /// The same, within the object's turn and not here; and who had it.
    async fn fetch_held(self: &Arc<Self>, meta: &ObjectMeta) -> Result<(Object, Source)> {
        let mut tried = Vec::new();
        let mut holders = Vec::new();
        for holder in meta.sites.iter().filter(|holder| holder.site != self.site) {
            match holder.address.is_empty() {
                true => tried.push(format!("site {}: its address is not known", holder.site)),
                false => holders.push(holder),
            }
        }
        // From all together first. If what comes then is not the object, one of them has a damaged copy, and each is asked alone.
        let all: Vec<&[&Holder]> = match holders.len() > 1 && meta.size > RANGE_BYTES {
            true => std::iter::once(&holders[..]).chain(holders.chunks(1)).collect(),
            false => holders.chunks(1).collect(),
        };
        for (n, some) in all.iter().enumerate() {
            match self.receive(meta, self.from_peers(meta, some)).await {
                Ok(local) => return Ok((self.adopt(meta, local).await?, Source::Peer)),
                Err(e @ Error::NoSpace { .. }) => return Err(e),
                Err(e) => {
                    let whose: Vec<&str> = some.iter().map(|holder| holder.site.as_str()).collect();
                    tried.push(format!("site {}: {e}", whose.join(" and ")));
                    if n == 0 && some.len() > 1 && !matches!(e, Error::Damaged { .. }) {
                        break;
                    }
                }
            }
        }
        match (&meta.persisted, &self.persist) {
            (Some(location), Some(persist)) => match self.receive(meta, self.from_persist(meta, persist, location)).await {
                Ok(local) => return Ok((self.adopt(meta, local).await?, Source::Persistency)),
                Err(e @ Error::NoSpace { .. }) => return Err(e),
                Err(e) => tried.push(e.to_string()),
            },
            (Some(_), None) => tried.push("it is in a persistency tier that this site doesn't have".into()),
            (None, _) => {}
        }
        if tried.is_empty() {
            tried.push(format!("the catalog names no copy but the one on site {}, which is lost", self.site));
        }
        Err(Error::Unreachable { bucket: meta.bucket.to_string(), key: meta.key.to_string(), tried: tried.join("; ") })
    }

    /// Fills a draft from sites that hold the object: range after range, several on their way at a time, each from the next of the sites.
    async fn from_peers(self: &Arc<Self>, meta: &ObjectMeta, holders: &[&Holder]) -> Result<Draft> {
        let mut draft = None;
        let failed: Vec<AtomicBool> = holders.iter().map(|_| AtomicBool::new(false)).collect();
        let starts = (0..meta.size.max(1)).step_by(RANGE_BYTES as usize).enumerate();
        let ranges = starts.map(|(n, offset)| -> BoxFuture<'_, Result<Vec<Bytes>>> {
            let range = Range { offset, len: RANGE_BYTES.min(meta.size - offset) };
            self.range_from_any(meta, holders, &failed, n, range).boxed()
        });
        // In their order: what is written front to back is hashed on the way.
        let mut ranges = std::pin::pin!(futures::stream::iter(ranges).buffered(RANGES_AT_A_TIME));
        while let Some(chunks) = ranges.next().await {
            let chunks = chunks?;
            let space = match draft.take() {
                Some(draft) => draft,
                // The first bytes are there: somebody has it.
                None => self.draft(meta).await?,
            };
            let (filled, done) = write_chunks(space, chunks).await?;
            done.map_err(|refused| self.refused(&meta.bucket, &meta.key, false, refused))?;
            draft = Some(filled);
        }
        match draft {
            Some(draft) => Ok(draft),
            None => self.draft(meta).await,
        }
    }

    /// A range from the first of the sites that has it, beginning with the `n`th. One that has failed is asked again only if all have.
    async fn range_from_any(&self, meta: &ObjectMeta, holders: &[&Holder], failed: &[AtomicBool], n: usize, range: Range) -> Result<Vec<Bytes>> {
        let mut last = None;
        for again in [false, true] {
            for turn in 0..holders.len() {
                let at = (n + turn) % holders.len();
                if failed[at].load(SeqCst) != again {
                    continue;
                }
                match self.range_from(meta, holders[at], range).await {
                    Ok(chunks) => return Ok(chunks),
                    Err(e) => {
                        failed[at].store(true, SeqCst);
                        last = Some(e);
                    }
                }
            }
            if last.is_some() {
                break;
            }
        }
        Err(last.expect("each site is asked in one of the two turns, and there is one"))
    }

    async fn range_from(&self, meta: &ObjectMeta, holder: &Holder, range: Range) -> Result<Vec<Bytes>> {
        // One that is kept may have died meanwhile, which shows only when it is used: a new one decides.
        if let Some(mut client) = self.peers.take(holder) {
            match download(meta, &mut client, range).await {
                Err(Error::Peer { .. }) => {}
                other => {
                    self.peers.put_back(holder, client);
                    return other;
                }
            }
        }
        let mut client = PeerClient::dial(&self.dialer, &holder.site, &holder.address).await?;
        let chunks = download(meta, &mut client, range).await;
        self.peers.put_back(holder, client);
        chunks
    }

    /// A part of what is not here, as it comes, without a copy that stays: in a bound bucket, where it is a small part of much, or where there would never be room for all of it. `None`: it is here, or shall be.
    pub(crate) async fn part_of(self: &Arc<Self>, bucket: &BucketName, key: &Key, range: Range) -> Result<Option<Part>> {
        if range == Range::default() || self.known(bucket, key).is_some() {
            return Ok(None);
        }
        self.names.settle(Wanted::Key(bucket, key)).await;
        if let Some(part) = self.part_of_foreign(bucket, key, range).await? {
            return Ok(Some(part));
        }
        let Ok(meta) = self.catalog.lookup(bucket, key).await else { return Ok(None) };
        if self.tier.get(meta.id).is_some() {
            return Ok(None);
        }
        let len = peer::cut(bucket, key, meta.size, range.offset, range.len)?;
        let fits = meta.size <= self.tier.space(false).limit;
        if fits && (meta.size <= RANGE_BYTES || self.has_read(&meta, len) > meta.size / FETCHED_AFTER) {
            return Ok(None);
        }
        match self.part_of_distant(&meta, range.offset, len).await {
            Ok(part) => Ok(Some(part)),
            Err(error) if fits => {
                tracing::debug!(%error, "a part can't be read where it lies; all of it is fetched");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Counts what is read of an object by parts: who walks through it, or comes back again and again, is better off with a copy.
    fn has_read(&self, meta: &ObjectMeta, more: u64) -> u64 {
        let mut all = self.read_in_parts.lock().unwrap_or_else(|e| e.into_inner());
        if all.len() >= READ_IN_PARTS_MAX && !all.contains_key(&meta.id) {
            all.clear();
        }
        let read = all.entry(meta.id).or_default();
        *read = read.saturating_add(more);
        let read = *read;
        if read > meta.size / FETCHED_AFTER {
            all.remove(&meta.id);
        }
        read
    }

    async fn part_of_distant(self: &Arc<Self>, meta: &ObjectMeta, offset: u64, len: u64) -> Result<Part> {
        let range = Range { offset, len };
        let end = range.offset + len;
        let mut pieces = (range.offset..end).step_by(RANGE_BYTES as usize).map(move |offset| Range { offset, len: RANGE_BYTES.min(end - offset) });
        // What is wrong with the first is told before any is sent.
        let first = match pieces.next() {
            Some(range) => self.piece(meta, range).await?,
            None => Vec::new(),
        };
        let (inner, of) = (self.clone(), meta.clone());
        let rest = futures::stream::iter(pieces).then(move |range| {
            let (inner, of) = (inner.clone(), of.clone());
            async move { inner.piece(&of, range).await }
        });
        let pieces = futures::stream::once(async move { Ok(first) }).chain(rest);
        let bytes = pieces.map_ok(|chunks| futures::stream::iter(chunks.into_iter().map(Ok))).try_flatten();
        Ok((meta.clone(), len, bytes.boxed()))
    }

    /// At most [`RANGE_BYTES`] of an object from wherever there is a copy; by what the catalog says of it now, if it is not where it was.
    async fn piece(&self, meta: &ObjectMeta, range: Range) -> Result<Vec<Bytes>> {
        let error = match self.piece_by(meta, range).await {
            Ok(chunks) => return Ok(chunks),
            Err(e) => e,
        };
        match self.catalog.find(meta.id).await? {
            Some(now) if (&now.sites, &now.persisted) != (&meta.sites, &meta.persisted) => self.piece_by(&now, range).await,
            _ => Err(error),
        }
    }

    async fn piece_by(&self, meta: &ObjectMeta, range: Range) -> Result<Vec<Bytes>> {
        let mut tried = Vec::new();
        let holders: Vec<&Holder> = meta.sites.iter().filter(|holder| holder.site != self.site && !holder.address.is_empty()).collect();
        let counted = self.counted(&meta.bucket);
        if !holders.is_empty() {
            let failed: Vec<AtomicBool> = holders.iter().map(|_| AtomicBool::new(false)).collect();
            match self.range_from_any(meta, &holders, &failed, 0, range).await {
                Ok(chunks) => {
                    add(&counted.of(Source::Peer).fetched_bytes, range.len);
                    return Ok(chunks);
                }
                Err(e) => tried.push(e.to_string()),
            }
        }
        match (&meta.persisted, &self.persist) {
            (Some(location), Some(persist)) => {
                match tokio::time::timeout(PERSIST_SILENCE, persist.read(location, range.offset..range.offset + range.len)).await {
                    Ok(Ok(bytes)) => {
                        add(&counted.of(Source::Persistency).fetched_bytes, range.len);
                        return Ok(vec![bytes]);
                    }
                    Ok(Err(e)) => tried.push(e.to_string()),
                    Err(_) => tried.push(format!("{persist} sent nothing of {location} for {} s", PERSIST_SILENCE.as_secs())),
                }
            }
            (Some(_), None) => tried.push("it is in a persistency tier that this site doesn't have".into()),
            (None, _) => {}
        }
        Err(Error::Unreachable { bucket: meta.bucket.to_string(), key: meta.key.to_string(), tried: tried.join("; ") })
    }

    async fn from_persist(self: &Arc<Self>, meta: &ObjectMeta, persist: &Persist, location: &str) -> Result<Draft> {
        self.pour(meta, persist, location, persist.get(location)).await
    }

    /// Fills a draft with what the persistency tier sends.
    pub async fn pour(
        self: &Arc<Self>,
        meta: &ObjectMeta,
        persist: &Persist,
        location: &str,
        source: impl Future<Output = Result<BoxStream<'static, Result<Bytes>>>>,
    ) -> Result<Draft> {
        let mut draft = self.draft(meta).await?;
        let silent = |_| Error::Remote {
            kind: Kind::DeadlineExceeded,
            message: format!("{persist} sent nothing of {location} for {} s", PERSIST_SILENCE.as_secs()),
        };
        let mut stream = tokio::time::timeout(PERSIST_SILENCE, source).await.map_err(silent)??;
        while let Some(chunk) = tokio::time::timeout(PERSIST_SILENCE, stream.try_next()).await.map_err(silent)?? {
            if draft.len() + chunk.len() as u64 > meta.size {
                return Err(damaged(meta, format!("in {persist}"), "it is longer than it should be".into()));
            }
            let done;
            (draft, done) = write_chunks(draft, vec![chunk]).await?;
            done.map_err(|refused| self.refused(&meta.bucket, &meta.key, false, refused))?;
        }
        Ok(draft)
    }

    /// A place for a copy, with its space reserved before the first byte comes. Fetched copies lie on the disk.
    async fn draft(self: &Arc<Self>, meta: &ObjectMeta) -> Result<Draft> {
        let draft = self.tier.create(meta.id, false);
        let (bucket, key) = (meta.bucket.clone(), meta.key.clone());
        let mut writer = Writer { inner: self.clone(), bucket, key, if_absent: false, carried: Carried::default(), draft };
        writer.room(meta.size).await?;
        Ok(writer.draft)
    }

    /// Seals what came, if it is what the catalog says.
    async fn receive(&self, meta: &ObjectMeta, draft: impl Future<Output = Result<Draft>>) -> Result<Local> {
        let draft = draft.await?;
        let local = compute(move || draft.seal()).await?;
        let local = local.map_err(|refused| self.refused(&meta.bucket, &meta.key, false, refused))?;
        if local.size != meta.size || local.checksum != meta.checksum {
            let found = format!("{} bytes of {} came, with checksum {:016x}", local.size, meta.size, local.checksum);
            return Err(damaged(meta, "on its way or at its source".into(), found));
        }
        Ok(local)
    }

    /// Keeps a fetched copy if the object is still there, and opens it in any case.
    async fn adopt(self: &Arc<Self>, meta: &ObjectMeta, local: Local) -> Result<Object> {
        let (inner, bucket, persisted) = (self.clone(), meta.bucket.clone(), meta.persisted.is_some());
        // To its end, also when nobody waits for it any more.
        let keep = move || {
            let id = local.id;
            let kept = inner.keep_durably(&bucket, local)?;
            kept.local.persisted.store(persisted, SeqCst);
            if kept.came {
                kept.local.spare.store(true, SeqCst);
            }
            inner.sealing_ends(id);
            Ok::<_, Error>(kept.local)
        };
        let local = compute(keep).await??;
        match self.catalog.add_holder(&meta.bucket, &meta.key, meta.epoch, &self.site).await {
            Ok(_) => {}
            // If the catalog counts this copy, it must stay; if not, a sweep finds it.
            Err(e) if e.is_uncertain() => {
                tracing::warn!(bucket = %meta.bucket, key = %meta.key, error = %e, "a copy may not be recorded");
            }
            // Replaced, deleted or renamed meanwhile: for this reader only.
            Err(_) => {
                self.free(meta.id);
            }
        }
        self.map(meta.clone(), local).await
    }
}

pub(crate) fn damaged(meta: &ObjectMeta, place: String, found: String) -> Error {
    Error::Damaged { bucket: meta.bucket.to_string(), key: meta.key.to_string(), place, found }
}
