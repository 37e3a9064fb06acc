//! Video in streams: MPEG-TS from any encoder comes in, frame by frame, and goes out to browsers.
//!
//! ```text
//!   camera ─▶ RTSP ─▶ rtsp ─┐
//!   encoder ─▶ MPEG-TS ─────┴▶ ts: frames ─▶ ingest ─▶ road/camera        [0][length][flags][time][packets of one frame] …
//!                                          └───────▶ road/camera-index  [flags][time][offset] of each frame that a player can begin with
//!   browser ◀─ HLS ◀──────── play ◀── both
//! ```
//!
//! Frames and index have the format of Pravega's published GStreamer plugin, so its elements read what is written here. A frame is an event, too: clients that
//! know nothing of video read it as one. Times are nanoseconds of TAI since 1970, which has no leap seconds.
//!
//! Nothing here decodes or encodes: packets go through as they came. Who wants a picture as an image needs a tool that decodes, see [`play`].

pub mod ingest;
mod login;
mod picture;
pub mod play;
pub mod rtsp;
pub mod ts;

use crate::{catalog::SegmentNo, segment::State};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Set for a frame that the index has, that a player can begin with, and that does not follow the one before.
pub const INDEXED: u32 = 1;
pub const RANDOM_ACCESS: u32 = 2;
pub const DISCONTINUITY: u32 = 4;

/// Before a frame's packets: `[0][length][flags][time]`.
pub const HEADER: usize = 20;
/// An entry of the index.
pub const ENTRY: usize = 20;

/// TAI is ahead of UTC by this much since 2017.
const TAI_AHEAD_NS: u64 = 37_000_000_000;

/// Nanoseconds of TAI, from nanoseconds of UTC since 1970.
pub fn tai(utc_ns: u64) -> u64 {
    utc_ns + TAI_AHEAD_NS
}

/// Nanoseconds of UTC since 1970.
pub fn utc(tai_ns: u64) -> u64 {
    tai_ns.saturating_sub(TAI_AHEAD_NS)
}

pub fn index_name(stream: &str) -> String {
    format!("{stream}-index")
}

/// Whether a stream has video with an index.
pub fn is_video(state: &State, scope: &str, stream: &str) -> bool {
    [stream, &index_name(stream)].iter().all(|name| state.segment(&SegmentNo(0).name(scope, name)).is_ok())
}

/// An entry of the index: when a frame was taken and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub flags: u32,
    pub tai_ns: u64,
    pub offset: u64,
}

impl Entry {
    pub fn bytes(&self) -> [u8; ENTRY] {
        let mut out = [0; ENTRY];
        out[..4].copy_from_slice(&self.flags.to_be_bytes());
        out[4..12].copy_from_slice(&self.tai_ns.to_be_bytes());
        out[12..].copy_from_slice(&self.offset.to_be_bytes());
        out
    }

    /// All whole entries.
    pub fn parse(mut bytes: &[u8]) -> Vec<Entry> {
        let mut out = Vec::new();
        while bytes.len() >= ENTRY {
            out.push(Entry { flags: bytes.get_u32(), tai_ns: bytes.get_u64(), offset: bytes.get_u64() });
        }
        out
    }
}

/// A frame's event, without the event's own header: flags, time, packets.
pub fn frame(flags: u32, tai_ns: u64, packets: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(12 + packets.len());
    out.put_u32(flags);
    out.put_u64(tai_ns);
    out.put_slice(packets);
    out
}

/// The packets of whole frames that follow each other; `None` if the bytes are not frames.
pub fn packets(mut bytes: Bytes) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(bytes.len());
    while !bytes.is_empty() {
        if bytes.len() < HEADER || bytes.get_i32() != 0 {
            return None;
        }
        let length = usize::try_from(bytes.get_i32()).ok().filter(|n| *n >= 12 && *n <= bytes.len())?;
        let mut event = bytes.split_to(length);
        event.advance(12);
        out.put_slice(&event);
    }
    Some(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugins_format() {
        let event = frame(RANDOM_ACCESS | INDEXED, 0x0102_0304_0506_0708, b"xyz");
        assert_eq!(event[..], [0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8, b'x', b'y', b'z']);
        let whole: Bytes = [&0i32.to_be_bytes()[..], &(event.len() as i32).to_be_bytes(), &event].concat().into();
        let two: Bytes = [&whole[..], &whole].concat().into();
        assert_eq!(packets(two.clone()).unwrap(), "xyzxyz");
        assert_eq!(packets(two.slice(..two.len() - 1)), None);
        assert_eq!(packets(Bytes::from_static(&[1; 40])), None);
        let entry = Entry { flags: 3, tai_ns: 7, offset: 1 << 40 };
        assert_eq!(Entry::parse(&[&entry.bytes()[..], &entry.bytes(), &[1; 19]].concat()), [entry, entry]);
    }
}
