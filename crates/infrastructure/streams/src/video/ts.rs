//! MPEG-TS cut into frames: each begins with the packet in which the video's next picture begins. What comes between (sound, tables) goes with the picture
//! before it, tables with the one after, so that a frame that a player can begin with brings the tables that say what is in it.
//!
//! Who can't wait for the next picture takes the one that has begun; what still comes of it is then a frame of its own, without a time. So nothing is lost,
//! however slowly packets come.
//!
//! No input or output. Bytes that are no packets are skipped to the next one.

/// Bytes of a packet, and with what it begins.
pub const PACKET: usize = 188;
const SYNC: u8 = 0x47;
/// A frame that has grown to this is cut: events have a limit.
pub const FRAME_MAX: usize = 7 << 20;
const TABLES_MAX: usize = 64 << 10;

/// Packets of one picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub packets: Vec<u8>,
    /// A player can begin here.
    pub random_access: bool,
    /// When it is shown, in units of 1/90 000 s, as far as the packets say.
    pub shown: Option<u64>,
}

#[derive(Default)]
pub struct Framer {
    left: Vec<u8>,
    tables_pid: Option<u16>,
    video: Option<Video>,
    /// The newest of each.
    program: Option<Vec<u8>>,
    tables: Option<Vec<u8>>,
    frame: Option<Frame>,
    /// Tables that go with the next frame.
    next: Vec<u8>,
    /// There has been a picture.
    begun: bool,
}

#[derive(Clone, Copy)]
struct Video {
    pid: u16,
    h264: bool,
}

impl Framer {
    /// Takes bytes and gives the frames that ended in them.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.left.extend_from_slice(bytes);
        let left = std::mem::take(&mut self.left);
        let (mut at, mut out) = (0, Vec::new());
        while left.len() - at >= PACKET {
            // A packet's first byte may be in another's content, so the one after must have it as well, if it is there.
            if left[at] != SYNC || left.get(at + PACKET).is_some_and(|b| *b != SYNC) {
                at += 1;
                continue;
            }
            out.extend(self.packet(&left[at..at + PACKET]));
            at += PACKET;
        }
        self.left = left[at..].to_vec();
        out
    }

    /// The frame that has begun, when nothing more is expected of it.
    pub fn flush(&mut self) -> Option<Frame> {
        let mut frame = self.frame.take()?;
        // The rest of a picture that came slowly is none that a player can begin with, though what says so may lie in it.
        let begins = |video: u16| frame.packets.chunks(PACKET).find(|p| pid(p) == video).is_some_and(|p| p[1] & 0x40 != 0);
        frame.random_access |= self.video.is_some_and(|v| v.h264 && begins(v.pid) && has_idr(&frame.packets, v.pid));
        if frame.random_access && !frame.packets.chunks(PACKET).any(|p| pid(p) == 0) {
            let tables: Vec<u8> = self.program.iter().chain(&self.tables).flatten().copied().collect();
            frame.packets.splice(..0, tables);
        }
        Some(frame)
    }

    /// Whether there is a frame that [`Framer::flush`] would give.
    pub fn has_frame(&self) -> bool {
        self.frame.is_some()
    }

    fn packet(&mut self, packet: &[u8]) -> Option<Frame> {
        let (id, begins) = (pid(packet), packet[1] & 0x40 != 0);
        // A stream of nothing but tables.
        if self.next.len() > TABLES_MAX {
            self.next.clear();
        }
        if id == 0 {
            if let Some(pid) = section(packet).and_then(tables_pid) {
                self.tables_pid = Some(pid);
                self.program = Some(packet.to_vec());
            }
            self.next.extend_from_slice(packet);
            return None;
        }
        if Some(id) == self.tables_pid {
            if let Some(video) = section(packet).and_then(video) {
                self.video = Some(video);
                self.tables = Some(packet.to_vec());
            }
            self.next.extend_from_slice(packet);
            return None;
        }
        let is_video = self.video.is_some_and(|v| v.pid == id);
        let full = self.frame.as_ref().is_some_and(|f| f.packets.len() >= FRAME_MAX);
        if (is_video && begins) || full {
            let ended = self.flush();
            let mut packets = std::mem::take(&mut self.next);
            packets.extend_from_slice(packet);
            let random_access = is_video && random_access(packet);
            self.begun = true;
            self.frame = Some(Frame { packets, random_access, shown: payload(packet).filter(|_| begins).and_then(shown) });
            return ended;
        }
        match &mut self.frame {
            Some(frame) => frame.packets.extend_from_slice(packet),
            None if self.begun => self.frame = Some(Frame { packets: packet.to_vec(), random_access: false, shown: None }),
            // What comes before the first picture, or while the tables that say what it is are missing, is of no use to anyone.
            None => {}
        }
        None
    }
}

fn pid(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff
}

/// What comes after the header and the adaptation field.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    match packet[3] >> 4 & 3 {
        1 => Some(&packet[4..]),
        3 => packet.get(5 + usize::from(packet[4])..),
        _ => None,
    }
}

fn random_access(packet: &[u8]) -> bool {
    packet[3] & 0x20 != 0 && packet[4] > 0 && packet[5] & 0x40 != 0
}

/// A table that begins in this packet and ends in it: its bytes after the length, without the checksum.
fn section(packet: &[u8]) -> Option<&[u8]> {
    if packet[1] & 0x40 == 0 {
        return None;
    }
    let payload = payload(packet)?;
    let table = payload.get(1 + usize::from(*payload.first()?)..)?;
    let length = usize::from(u16::from_be_bytes([*table.get(1)?, *table.get(2)?]) & 0xfff);
    table.get(3..(3 + length).checked_sub(4)?)
}

/// The packet number of the first program's tables.
fn tables_pid(section: &[u8]) -> Option<u16> {
    let programs = section.get(5..)?.chunks_exact(4);
    programs.map(|p| (u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]]) & 0x1fff)).find(|(n, _)| *n != 0).map(|(_, pid)| pid)
}

/// The first video in a program's tables.
fn video(section: &[u8]) -> Option<Video> {
    let about = usize::from(u16::from_be_bytes([*section.get(7)?, *section.get(8)?]) & 0xfff);
    let mut rest = section.get(9 + about..)?;
    while rest.len() >= 5 {
        // H.264, H.265, MPEG-2 and MPEG-1.
        if matches!(rest[0], 0x1b | 0x24 | 0x02 | 0x01) {
            return Some(Video { pid: u16::from_be_bytes([rest[1], rest[2]]) & 0x1fff, h264: rest[0] == 0x1b });
        }
        rest = rest.get(5 + usize::from(u16::from_be_bytes([rest[3], rest[4]]) & 0xfff)..)?;
    }
    None
}

/// When a picture is shown, from the head of its first packet's payload.
fn shown(pes: &[u8]) -> Option<u64> {
    if pes.len() < 14 || pes[..3] != [0, 0, 1] || pes[7] & 0x80 == 0 {
        return None;
    }
    let b = |i: usize| u64::from(pes[i]);
    Some((b(9) >> 1 & 7) << 30 | b(10) << 22 | (b(11) >> 1) << 15 | b(12) << 7 | b(13) >> 1)
}

/// Whether an H.264 picture stands for itself: some encoders don't say so in the packet.
fn has_idr(packets: &[u8], of: u16) -> bool {
    let own = packets.chunks_exact(PACKET).filter(|p| pid(p) == of).filter_map(payload);
    let mut last = [0xff; 3];
    for byte in own.flatten() {
        if last == [0, 0, 1] && byte & 0x1f == 5 {
            return true;
        }
        last = [last[1], last[2], *byte];
    }
    false
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A packet of stream `id`, filled up by an adaptation field.
    fn packet(id: u16, begins: bool, random: bool, payload: &[u8]) -> Vec<u8> {
        let stuffing = PACKET - 4 - 1 - payload.len();
        let mut out = vec![SYNC, (u8::from(begins) << 6) | (id >> 8) as u8, id as u8, 0x30, stuffing as u8];
        if stuffing > 0 {
            out.push(if random { 0x40 } else { 0 });
        }
        out.resize(5 + stuffing, 0xff);
        out.extend_from_slice(payload);
        out
    }

    fn table(id: u16, kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() + 4) as u16;
        let mut section = vec![0, kind, 0xb0 | (length >> 8) as u8, length as u8];
        section.extend_from_slice(body);
        section.extend_from_slice(&[0; 4]);
        packet(id, true, false, &section)
    }

    pub(crate) fn tables() -> Vec<u8> {
        let program = table(0, 0, &[0, 1, 0xc1, 0, 0, 0, 1, 0xe1, 0x00]);
        let streams = table(0x100, 2, &[0, 1, 0xc1, 0, 0, 0xe1, 0x01, 0xf0, 0, 0x0f, 0xe1, 0x02, 0xf0, 0, 0x1b, 0xe1, 0x01, 0xf0, 0]);
        [program, streams].concat()
    }

    /// A picture of two packets with some sound.
    pub(crate) fn picture(shown: u64, random: bool, nal: u8) -> Vec<u8> {
        let time = [0x21 | (shown >> 29 & 0xe) as u8, (shown >> 22) as u8, (shown >> 14) as u8 | 1, (shown >> 7) as u8, (shown << 1) as u8 | 1];
        let head = [&[0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5][..], &time, &[0, 0, 0, 1, nal, 9, 9, 9]].concat();
        [packet(0x101, true, random, &head), packet(0x102, true, false, &[0, 0, 1, 0xc0]), packet(0x101, false, false, &[7; 150])].concat()
    }

    #[test]
    fn frames_begin_with_pictures_and_bring_their_tables() {
        let (first, second, third) = (picture(90_000, true, 0x65), picture(93_000, false, 0x41), picture((1 << 33) - 1, false, 0x65));
        let all = [&[1, 2, SYNC][..], &picture(1, true, 0x65), &tables(), &first, &second, &third].concat();
        for step in [1, 7, 188, 1000, all.len()] {
            let mut framer = Framer::default();
            let mut frames: Vec<Frame> = all.chunks(step).flat_map(|c| framer.push(c)).collect();
            frames.extend(framer.flush());
            assert_eq!(frames.iter().map(|f| (f.random_access, f.shown)).collect::<Vec<_>>(), [(true, Some(90_000)), (false, Some(93_000)), (true, Some((1 << 33) - 1))], "{step}");
            // The third one's encoder was silent about it, and it came without tables.
            assert!(frames[0].packets == [tables(), first.clone()].concat() && frames[1].packets == second && frames[2].packets == [tables(), third.clone()].concat(), "{step}");
        }
    }

    #[test]
    fn nothing_is_lost_when_a_picture_comes_slowly() {
        let (first, second) = (picture(90_000, true, 0x65), picture(93_000, false, 0x41));
        let mut framer = Framer::default();
        assert!(framer.push(&[tables(), first[..PACKET].to_vec()].concat()).is_empty());
        let mut frames = vec![framer.flush().unwrap()];
        frames.extend(framer.push(&[&first[PACKET..], &second[..]].concat()));
        frames.extend(framer.flush());
        assert_eq!(frames.iter().map(|f| (f.random_access, f.shown)).collect::<Vec<_>>(), [(true, Some(90_000)), (false, None), (false, Some(93_000))]);
        assert!(frames.iter().flat_map(|f| f.packets.clone()).eq([tables(), first, second].concat()));
        // Cut before the unit that says that a player can begin with it, which it then can't.
        let (begin, rest) = (picture(96_000, false, 0x09)[..PACKET].to_vec(), packet(0x101, false, false, &[0, 0, 0, 1, 0x65, 9, 9, 9]));
        assert!(framer.push(&begin).is_empty());
        let mut frames = vec![framer.flush().unwrap()];
        assert!(framer.push(&rest).is_empty());
        frames.extend(framer.flush());
        assert_eq!(frames.iter().map(|f| f.random_access).collect::<Vec<_>>(), [false, false]);
        assert!(framer.push(&[begin, rest].concat()).is_empty() && framer.flush().unwrap().random_access, "as a whole");
    }

    #[test]
    fn nonsense_gives_no_frames_and_no_panic() {
        use rand::{Rng, SeedableRng, rngs::StdRng};
        let mut rng = StdRng::seed_from_u64(5);
        for _ in 0..2000 {
            let mut all = [tables(), picture(7, true, 0x65), picture(8, false, 0x41)].concat();
            for _ in 0..rng.random_range(1..30) {
                let at = rng.random_range(0..all.len());
                all[at] = rng.random();
            }
            let mut framer = Framer::default();
            let frames = framer.push(&all);
            assert!(frames.iter().chain(&framer.flush()).map(|f| f.packets.len()).sum::<usize>() <= all.len() + 4 * PACKET);
        }
        let mut framer = Framer::default();
        assert!(framer.push(&[0; 100_000]).is_empty() && framer.flush().is_none() && framer.left.len() < PACKET);
    }
}
