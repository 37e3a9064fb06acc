//! Video out of a stream: HLS for any player, live or from a time on, and a page that plays it in a browser.
//!
//! | path below `/video/SCOPE/STREAM/` | is |
//! | --- | --- |
//! | ` ` | the page |
//! | `live.m3u8` | the newest parts |
//! | `from.m3u8?at=MS` | from this time on (ms since 1970, UTC), as far as it goes; with `&to=MS` up to another time, as far as it is there now |
//! | `START-END.ts` | the packets of the frames between two offsets |
//! | `clip.ts?from=MS&to=MS` | a time's packets, to keep |
//! | `frame.jpg?at=MS`, `frame.png` | the picture of a time, or the newest one, as an image, where there is a tool that decodes it |
//!
//! A part is what lies between two entries of the index, so it begins with a frame that a player can begin with. What comes after the last entry is not told of
//! until the next one: a player is behind by as much as the encoder puts between two such frames, and by what it keeps in reserve itself.

use super::{ENTRY, Entry, HEADER, Unframer, packets, picture::{self, Form}, segments, tai, told::Told, utc};
use crate::{
    Error, Result, Store,
    access::{self, Want},
    http::{App, Asker, refuse},
    store::Held,
};
use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, Path, Query, State},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use serde::{Deserialize, de::DeserializeOwned};
use std::{fmt::Write, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Parts in a live playlist.
const LIVE_PARTS: u64 = 6;
/// Parts in a playlist from a time on, which then ends; who wants more asks for what comes after, as the page does.
const PARTS_MAX: u64 = 3600;
/// How long an encoder's only part is at most, in seconds.
const LAST: f64 = 2.0;
/// Of a video that is sent, so much is in memory at a time.
const PIECE: u64 = 256 << 10;
/// No image is made of a part beyond this many bytes.
const BYTES_MAX: u64 = 64 << 20;
/// A player's clock may be ahead of ours by so much.
const AHEAD_MAX: Duration = Duration::from_secs(60);
/// Parts that are in memory for an image at once; the next ones wait.
static IMAGES: Semaphore = Semaphore::const_new(4);

pub fn router() -> Router<App> {
    Router::new()
        .route("/{scope}/{stream}/", get(page))
        // What the page names lies below it.
        .route("/{scope}/{stream}", get(async |Path((_, stream)): Path<(String, String)>| Redirect::permanent(&format!("{stream}/"))))
        .route("/{scope}/{stream}/live.m3u8", get(live))
        .route("/{scope}/{stream}/from.m3u8", get(from))
        .route("/{scope}/{stream}/clip.ts", get(clip))
        .route("/{scope}/{stream}/frame.jpg", get(|app, asker, names, at| image(app, asker, names, at, Form::Jpeg)))
        .route("/{scope}/{stream}/frame.png", get(|app, asker, names, at| image(app, asker, names, at, Form::Png)))
        .route("/{scope}/{stream}/{part}", get(part))
}

fn answer(e: Error) -> Response {
    refuse(StatusCode::from_u16(e.kind().http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &e.to_string())
}

/// How a playlist is to be understood.
#[derive(Clone, Copy, PartialEq)]
enum Playlist {
    /// The newest parts, and others the next time.
    Live,
    /// It has more the next time, at its end.
    Growing,
    /// It stays as it is.
    Whole,
}

/// A stream with video, for someone who may read it.
struct Video {
    store: Store,
    told: Arc<Told>,
    data: String,
    index: String,
}

impl Video {
    async fn open(app: &App, asker: &Asker, scope: &str, stream: &str) -> std::result::Result<Video, Response> {
        app.may(asker, &access::stream(scope, stream), Want::Read).await?;
        match app.store.peek(|s| segments(s, scope, stream)) {
            Some([data, index]) => Ok(Video { store: app.store.clone(), told: app.told.clone(), data, index }),
            None => Err(refuse(StatusCode::NOT_FOUND, &format!("{scope}/{stream} is not a stream with video; `cloudskin stream ingest {scope}/{stream}` makes one"))),
        }
    }

    /// All bytes from `start` to `end`.
    async fn read(&self, segment: &str, start: u64, end: u64) -> Result<Bytes> {
        let mut out = BytesMut::new();
        while start + (out.len() as u64) < end {
            let at = start + out.len() as u64;
            let read = self.store.read(segment, at, (end - at) as usize, Duration::ZERO).await?;
            if read.data.is_empty() {
                return Err(Error::BeyondEnd { segment: segment.into(), length: at, offset: end });
            }
            out.extend_from_slice(&read.data);
        }
        Ok(out.freeze())
    }

    /// Numbers of the first entry whose frame is there, and of the one after the last.
    async fn entries(&self) -> Result<(u64, u64)> {
        let (first, end, start) = self.store.peek(|s| {
            let index = s.segment(&self.index)?;
            Ok::<_, Error>((index.landed.start.div_ceil(ENTRY as u64), index.landed.durable / ENTRY as u64, s.segment(&self.data)?.landed.start))
        })?;
        // Where the data begins later than the index, the entries before are of no use, but their numbers stay.
        match start {
            0 => Ok((first, end)),
            start => Ok((self.first(first, end, |e| e.offset >= start).await?, end)),
        }
    }

    /// The number of the first entry, of those from `low` to `high`, from which on something is so.
    async fn first(&self, mut low: u64, mut high: u64, is_so: impl Fn(&Entry) -> bool) -> Result<u64> {
        while low < high {
            let middle = low + (high - low) / 2;
            match self.some(middle, middle + 1).await?.first().is_some_and(&is_so) {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        Ok(low)
    }

    async fn some(&self, from: u64, to: u64) -> Result<Vec<Entry>> {
        Ok(Entry::parse(&self.read(&self.index, from * ENTRY as u64, to * ENTRY as u64).await?))
    }

    /// The number of the last entry that is not after a time, or of the first one.
    async fn find(&self, tai_ns: u64) -> Result<u64> {
        let (first, end) = self.entries().await?;
        Ok(self.first(first, end, |e| e.tai_ns > tai_ns).await?.saturating_sub(1).max(first))
    }

    /// Whether there is video between two times, or may be any moment: not before the first that is there, and not in the future.
    async fn has_some(&self, from_ms: u64, to_ms: u64) -> Result<()> {
        let (from_ns, to_ns) = (of_ms(from_ms), of_ms(to_ms));
        let (first, end) = self.entries().await?;
        let (Some(begin), Some(last)) = (self.some(first, (first + 1).min(end)).await?.pop(), self.some(end.saturating_sub(1).max(first), end).await?.pop()) else {
            return Ok(());
        };
        let newest = last.tai_ns.max(of_ms(base::clock::now_ms() + AHEAD_MAX.as_millis() as u64));
        // Times are asked for, and told, in whole milliseconds.
        if to_ns.saturating_add(999_999) >= begin.tai_ns && from_ns <= newest {
            return Ok(());
        }
        let told = |tai_ns: u64| date(utc(tai_ns) / 1_000_000);
        let asked = date(if from_ns > newest { from_ms } else { to_ms });
        Err(Error::NotFound(format!("{} has pictures from {} on, the last known ones of {}, and none of {asked}", self.data, told(begin.tai_ns), told(last.tai_ns))))
    }

    /// A playlist of parts that begin with these entries.
    async fn playlist(&self, from: u64, to: u64, kind: Playlist) -> Result<String> {
        let (first, end) = self.entries().await?;
        let (start, length, ended) = self.store.peek(|s| {
            let data = s.segment(&self.data)?;
            Ok((data.landed.start, data.landed.durable, data.landed.ended))
        })?;
        // One more, where the last part ends.
        let entries = self.some(from, (to + 1).min(end)).await?;
        let mut parts: Vec<(u64, Entry, u64, f64)> = Vec::new();
        for (n, pair) in entries.windows(2).enumerate() {
            let seconds = pair[1].tai_ns.saturating_sub(pair[0].tai_ns) as f64 / 1e9;
            parts.push((from + n as u64, pair[0], pair[1].offset, seconds));
        }
        // Between an encoder's last picture and the next one's first there is nothing to see, however long that is: its last part is told to be as long as the one before, always the same.
        let before = if from > first { self.some(from - 1, from).await?.pop() } else { None };
        let mut before = before.zip(entries.first()).map(|(before, first)| (before.tai_ns, first.flags));
        for (part, pair) in parts.iter_mut().zip(entries.windows(2)) {
            if cuts(&pair[1]) {
                let usual = before.filter(|(_, flags)| flags & super::DISCONTINUITY == 0).map(|(at, _)| pair[0].tai_ns.saturating_sub(at) as f64 / 1e9);
                part.3 = part.3.min(usual.unwrap_or(LAST));
            }
            before = Some((pair[0].tai_ns, pair[1].flags));
        }
        let all = ended && to >= end;
        // The plugin ends an index with where its last frame ends.
        if let (true, Some(last)) = (all, entries.last().filter(|e| e.offset < length)) {
            let seconds = parts.last().map_or(1.0, |p| p.3);
            parts.push((end - 1, *last, length, seconds));
        }
        // After a lost disk the index may tell of frames that are lost.
        parts.retain(|(_, entry, end, _)| entry.offset >= start && entry.offset < *end && *end <= length);
        let longest = parts.iter().map(|p| p.3).fold(1.0, f64::max).ceil();
        // One that is asked for again does not change its mind. Of the other kinds one has all parts that it had before.
        let longest = if kind == Playlist::Live { self.told.longest(&self.index, longest) } else { longest };
        let sequence = parts.first().map_or(from, |p| p.0);
        let mut out = format!("#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{longest}\n#EXT-X-MEDIA-SEQUENCE:{sequence}\n");
        match kind {
            Playlist::Live => {
                let counting = self.told.count(&self.index, first, sequence);
                let among = self.some(counting.among.start, counting.among.end.min(end)).await?;
                let _ = writeln!(out, "#EXT-X-DISCONTINUITY-SEQUENCE:{}", self.told.counted(&self.index, &counting, &among));
            }
            // Players begin near the end of what may grow, if they are not told (and some even then).
            Playlist::Growing => out.push_str("#EXT-X-PLAYLIST-TYPE:EVENT\n#EXT-X-START:TIME-OFFSET=0,PRECISE=YES\n"),
            Playlist::Whole => out.push_str("#EXT-X-PLAYLIST-TYPE:VOD\n"),
        }
        out.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
        for (i, (_, entry, end, seconds)) in parts.iter().enumerate() {
            if i > 0 && cuts(entry) {
                out.push_str("#EXT-X-DISCONTINUITY\n");
            }
            let _ = writeln!(out, "#EXT-X-PROGRAM-DATE-TIME:{}\n#EXTINF:{seconds:.6},\n{}-{end}.ts", date(utc(entry.tai_ns) / 1_000_000), entry.offset);
        }
        // One that has all that it may have does not grow.
        if all || kind == Playlist::Whole || (kind == Playlist::Growing && to - from >= PARTS_MAX && to < end) {
            out.push_str("#EXT-X-ENDLIST\n");
        }
        Ok(out)
    }

    /// The packets of the frames between two offsets, as an answer. What is wrong with the first of them is told before any is sent.
    async fn frames(self, start: u64, end: u64) -> Result<Response> {
        if end <= start {
            return Err(Error::Invalid(format!("no frames are from {start} to {end}")));
        }
        let mut sent = Sent { video: self, start, at: start, end, unframer: Unframer::default(), held: Held::default() };
        let first = sent.next().await?;
        let rest = stream::unfold(Some(sent), |sent| async move {
            let mut sent = sent?;
            match sent.next().await {
                Ok(Some(packets)) => Some((Ok(packets), Some(sent))),
                Ok(None) => None,
                // The connection breaks: what came is not all.
                Err(e) => Some((Err(e), None)),
            }
        });
        Ok(text(PACKETS, Body::from_stream(stream::iter(first.map(Ok)).chain(rest))))
    }
}

/// Frames on their way to a client, a piece at a time: one that takes them slowly has a piece in memory, and no more.
struct Sent {
    video: Video,
    start: u64,
    at: u64,
    end: u64,
    unframer: Unframer,
    /// The place in memory of the last piece.
    held: Held,
}

impl Sent {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let Sent { video, unframer, start, end, .. } = self;
        while self.at < *end {
            self.held = Held::default();
            let read = video.store.read(&video.data, self.at, (*end - self.at).min(PIECE) as usize, Duration::ZERO).await?;
            if read.data.is_empty() {
                return Err(Error::BeyondEnd { segment: video.data.clone(), length: self.at, offset: *end });
            }
            self.at += read.data.len() as u64;
            let mut out = BytesMut::with_capacity(read.data.len());
            let frames = unframer.push(&read.data, &mut out).filter(|()| self.at < *end || unframer.is_between());
            frames.ok_or_else(|| Error::Invalid(format!("{} has no frames from {start} to {end}; frames have {HEADER} bytes before their packets", video.data)))?;
            if !out.is_empty() {
                self.held = read.held;
                return Ok(Some(out.freeze()));
            }
        }
        Ok(None)
    }
}

/// Another encoder begins here, or the same one anew.
fn cuts(entry: &Entry) -> bool {
    entry.flags & super::DISCONTINUITY != 0
}

/// ISO 8601 with milliseconds, of ms since 1970.
pub fn date(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    // Days since the first of March of the year 0: leap days then come last in their year.
    let z = days + 719_468;
    let era = z / 146_097;
    let day = z % 146_097;
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (y, m, d) = (year + era * 400 + u64::from(month >= 10), if month < 10 { month + 3 } else { month - 9 }, of_year - (153 * month + 2) / 5 + 1);
    let (h, min, s) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{y:04}-{m:02}-{d:02}T{h:02}:{min:02}:{s:02}.{:03}Z", rest % 1000)
}

fn text(kind: &'static str, body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], body.into()).into_response()
}

const PLAYLIST: &str = "application/vnd.apple.mpegurl";
const PACKETS: &str = "video/mp2t";

async fn live(State(app): State<App>, asker: Asker, Path((scope, stream)): Path<(String, String)>) -> Response {
    let video = match Video::open(&app, &asker, &scope, &stream).await {
        Ok(video) => video,
        Err(answer) => return answer,
    };
    let playlist = async {
        let (first, end) = video.entries().await?;
        video.playlist(end.saturating_sub(LIVE_PARTS + 1).max(first), end, Playlist::Live).await
    };
    playlist.await.map_or_else(answer, |p| text(PLAYLIST, p))
}

#[derive(Deserialize)]
struct At {
    at: u64,
    /// Without it, all that comes.
    to: Option<u64>,
}

/// What stands behind the `?`; what can't be read is told as every other error is.
struct Asked<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Response;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Asked<T>, Response> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Asked(asked)),
            Err(e) => Err(refuse(e.status(), &format!("{}: times are whole milliseconds since 1970", e.body_text()))),
        }
    }
}

fn of_ms(ms: u64) -> u64 {
    tai(ms.saturating_mul(1_000_000).min(u64::MAX / 2))
}

async fn from(State(app): State<App>, asker: Asker, Path((scope, stream)): Path<(String, String)>, Asked(At { at, to }): Asked<At>) -> Response {
    let video = match Video::open(&app, &asker, &scope, &stream).await {
        Ok(video) => video,
        Err(answer) => return answer,
    };
    let playlist = async {
        if to.is_some_and(|to| to < at) {
            return Err(Error::Invalid(format!("a video from {at} to {} ends before it begins", to.unwrap_or_default())));
        }
        video.has_some(at, to.unwrap_or(u64::MAX)).await?;
        let from = video.find(of_ms(at)).await?;
        let (_, end) = video.entries().await?;
        let (last, kind) = match to {
            Some(to) => (video.find(of_ms(to)).await? + 1, Playlist::Whole),
            None => (end, Playlist::Growing),
        };
        video.playlist(from, last.min(end).min(from + PARTS_MAX), kind).await
    };
    playlist.await.map_or_else(answer, |p| text(PLAYLIST, p))
}

#[derive(Deserialize)]
struct Clip {
    from: u64,
    to: u64,
}

async fn clip(State(app): State<App>, asker: Asker, Path((scope, stream)): Path<(String, String)>, Asked(ask): Asked<Clip>) -> Response {
    let video = match Video::open(&app, &asker, &scope, &stream).await {
        Ok(video) => video,
        Err(answer) => return answer,
    };
    let found = async {
        if ask.from > ask.to {
            return Err(Error::Invalid(format!("a clip from {} to {} ends before it begins", ask.from, ask.to)));
        }
        video.has_some(ask.from, ask.to).await?;
        let (from, to) = (video.find(of_ms(ask.from)).await?, video.find(of_ms(ask.to)).await? + 1);
        // What lies between two entries is whole frames, however many entries are between these.
        let (_, end) = video.entries().await?;
        let first = video.some(from, (from + 1).min(end)).await?.pop().ok_or_else(|| Error::NotFound(format!("{scope}/{stream} has no video yet")))?;
        let behind = match video.some(to, (to + 1).min(end)).await?.pop() {
            Some(next) => next.offset,
            // Up to what came last.
            None => video.store.peek(|s| s.segment(&video.data).map(|s| s.landed.durable))?,
        };
        video.frames(first.offset, behind).await
    };
    found.await.unwrap_or_else(answer)
}

#[derive(Deserialize)]
struct Shown {
    /// Without it, the newest one.
    at: Option<u64>,
}

async fn image(State(app): State<App>, asker: Asker, Path((scope, stream)): Path<(String, String)>, Asked(Shown { at }): Asked<Shown>, form: Form) -> Response {
    let video = match Video::open(&app, &asker, &scope, &stream).await {
        Ok(video) => video,
        Err(answer) => return answer,
    };
    let made = async {
        if let Some(at) = at {
            video.has_some(at, at).await?;
        }
        let at = at.map_or(u64::MAX, of_ms);
        let found = video.find(at).await?;
        let entries = video.some(found, (found + 2).min(video.entries().await?.1)).await?;
        let Some(begin) = entries.first() else { return Err(Error::NotFound(format!("{scope}/{stream} has no video yet"))) };
        let end = match entries.get(1) {
            Some(next) => next.offset,
            None => video.store.peek(|s| s.segment(&video.data).map(|s| s.landed.durable))?,
        };
        let bytes = end.checked_sub(begin.offset).ok_or_else(|| Error::NotFound(format!("{scope}/{stream} has lost what its index tells of that time")))?;
        if bytes > BYTES_MAX {
            return Err(Error::TooLarge { what: "a part of a video".into(), limit: BYTES_MAX, wanted: bytes });
        }
        // Until the image is made, the part is in memory.
        let _turn = IMAGES.acquire().await.map_err(|e| Error::Invalid(e.to_string()))?;
        let bytes = video.read(&video.data, begin.offset, end).await?;
        let packets = packets(&until(bytes, at)).ok_or_else(|| Error::Invalid(format!("{} has no frames from {}", video.data, begin.offset)))?;
        picture::last(packets, form).await
    };
    made.await.map_or_else(answer, |bytes| text(form.media(), bytes))
}

/// Whole frames up to the last one that is not after a time; the first one in any case.
fn until(frames: Bytes, tai_ns: u64) -> Bytes {
    let mut at = 0;
    while let Some(header) = frames.get(at..at + HEADER) {
        let number = |from: usize| u64::from_be_bytes(header[from..from + 8].try_into().expect("eight bytes"));
        let end = at + 8 + (number(0) & 0xffff_ffff) as usize;
        if (at > 0 && number(12) > tai_ns) || end > frames.len() {
            break;
        }
        at = end;
    }
    frames.slice(..at)
}

async fn part(State(app): State<App>, asker: Asker, Path((scope, stream, part)): Path<(String, String, String)>) -> Response {
    let range = part.strip_suffix(".ts").and_then(|p| p.split_once('-')).and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let Some((start, end)) = range else { return refuse(StatusCode::NOT_FOUND, &format!("a video has no {part}")) };
    let video = match Video::open(&app, &asker, &scope, &stream).await {
        Ok(video) => video,
        Err(answer) => return answer,
    };
    video.frames(start, end).await.unwrap_or_else(answer)
}

async fn page(State(app): State<App>, asker: Asker, Path((scope, stream)): Path<(String, String)>) -> Response {
    match Video::open(&app, &asker, &scope, &stream).await {
        Ok(_) => text("text/html; charset=utf-8", include_str!("player.html")),
        Err(answer) => answer,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn frames_up_to_a_time() {
        let one = |at: u64| {
            let event = super::super::frame(0, at, b"packets");
            [&0i32.to_be_bytes()[..], &(event.len() as i32).to_be_bytes(), &event].concat()
        };
        let all: bytes::Bytes = [one(10), one(30), one(20)].concat().into();
        let each = all.len() / 3;
        for (at, count) in [(0, 1), (10, 1), (25, 1), (30, 3), (u64::MAX, 3)] {
            assert_eq!(super::until(all.clone(), at).len(), count * each, "{at}");
        }
        assert_eq!(super::until(all.slice(..2 * each + 5), 90).len(), 2 * each);
    }

    #[test]
    fn dates() {
        for (ms, told) in [(0, "1970-01-01T00:00:00.000Z"), (951_782_400_001, "2000-02-29T00:00:00.001Z"), (1_798_761_599_999, "2026-12-31T23:59:59.999Z")] {
            assert_eq!(super::date(ms), told);
        }
    }
}
