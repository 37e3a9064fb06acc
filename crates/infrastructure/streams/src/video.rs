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
pub mod told;
pub mod ts;

use crate::segment::State;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Set for a frame that the index has (in the index itself it is reserved, and not set), that a player can begin with, and that does not follow the one before.
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

/// The segments of a stream with video and of its index: each has always had one. `None`: it is not such a stream.
pub fn segments(state: &State, scope: &str, stream: &str) -> Option<[String; 2]> {
    let only = |name: &str| {
        let all = state.catalog.stream(scope, name)?.segments();
        (all.len() == 1).then(|| all.keys().map(|segment| segment.name(scope, name)).collect())
    };
    Some([only(stream)?, only(&index_name(stream))?])
}

/// Whether a stream has video with an index.
pub fn is_video(state: &State, scope: &str, stream: &str) -> bool {
    segments(state, scope, stream).is_some()
}

/// An entry of the index: when a frame was taken and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// [`RANDOM_ACCESS`] and [`DISCONTINUITY`].
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
pub fn packets(bytes: &[u8]) -> Option<Bytes> {
    let (mut out, mut unframer) = (BytesMut::with_capacity(bytes.len()), Unframer::default());
    unframer.push(bytes, &mut out)?;
    unframer.is_between().then(|| out.freeze())
}

/// Takes the packets out of frames that come in pieces, cut anywhere.
#[derive(Default)]
pub struct Unframer {
    header: [u8; HEADER],
    /// How much of the next header is there.
    have: usize,
    /// How much of the frame is still to come.
    left: usize,
}

impl Unframer {
    /// Adds the packets among the next bytes to `out`; `None` if these are not frames.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut BytesMut) -> Option<()> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (packets, rest) = bytes.split_at(self.left.min(bytes.len()));
                out.put_slice(packets);
                (self.left, bytes) = (self.left - packets.len(), rest);
                continue;
            }
            let (part, rest) = bytes.split_at((HEADER - self.have).min(bytes.len()));
            self.header[self.have..self.have + part.len()].copy_from_slice(part);
            (self.have, bytes) = (self.have + part.len(), rest);
            if self.have == HEADER {
                let mut header = &self.header[..];
                let (kind, length) = (header.get_i32(), header.get_i32());
                self.left = usize::try_from(length).ok().filter(|n| kind == 0 && *n >= 12)? - 12;
                self.have = 0;
            }
        }
        Some(())
    }

    /// A frame has ended, and none has begun.
    pub fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }
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
        assert_eq!(packets(&two).unwrap(), "xyzxyz");
        assert_eq!(packets(&two[..two.len() - 1]), None);
        assert_eq!(packets(&[1; 40]), None);
        for size in 1..30 {
            let (mut unframer, mut out) = (Unframer::default(), BytesMut::new());
            two.chunks(size).for_each(|piece| unframer.push(piece, &mut out).unwrap());
            assert!(unframer.is_between() && out == "xyzxyz", "in pieces of {size}");
        }
        let entry = Entry { flags: RANDOM_ACCESS, tai_ns: 7, offset: 1 << 40 };
        assert_eq!(Entry::parse(&[&entry.bytes()[..], &entry.bytes(), &[1; 19]].concat()), [entry, entry]);
    }
}
