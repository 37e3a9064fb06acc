//! A camera that speaks RTSP, made into MPEG-TS: what encoders at standard input or TCP bring themselves.
//!
//! ```text
//!   camera ─ RTSP: describe, set up, play ─▶ RTP over the same connection ─▶ H.264 units of a picture ─▶ MPEG-TS ─▶ ingest
//! ```
//!
//! RTP comes interleaved with RTSP, over one TCP connection, so nothing is lost or out of order, and no port is opened. H.264 (packetisation modes 0 and 1) and
//! MPEG-TS itself are understood. Who asks is said as [`login`](super::login) does it. A picture of which the camera left out a packet is left out as a whole.

use super::{login::Login, ts::PACKET};
use crate::{Error, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, Bytes, BytesMut};
use futures::future::BoxFuture;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

/// An answer's head, and what is described.
const HEAD_MAX: usize = 64 << 10;
/// A picture beyond this is left out.
const PICTURE_MAX: usize = 6 << 20;
/// What a unit counts besides its bytes, so that small ones have a bound too.
const UNIT_COST: usize = 64;
/// How long a camera may take for an answer, and be silent while it plays.
const SILENCE: Duration = Duration::from_secs(15);
/// Cameras end a session of which they have heard nothing for a minute, unless they say another time.
const SESSION: Duration = Duration::from_secs(60);

/// What the camera says it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    H264,
    Packets,
}

/// A camera that has been told to play.
pub struct Camera {
    url: String,
    login: Option<Login>,
    stream: TcpStream,
    buffer: BytesMut,
    sequence: u32,
    session: String,
    keep: Duration,
    kind: Kind,
    units: Units,
}

/// What an address is made of.
struct Address {
    host: String,
    /// Without user and password, as the camera wants to hear it.
    url: String,
    user: Option<String>,
}

fn address(url: &str) -> Result<Address> {
    let bad = || Error::Invalid(format!("{url:?} is no camera's address: rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH is one"));
    let rest = url.strip_prefix("rtsp://").ok_or_else(bad)?;
    let (at, path) = rest.split_once('/').map_or((rest, ""), |(at, path)| (at, path));
    let (user, host) = match at.rsplit_once('@') {
        Some((user, host)) => (Some(user.to_string()), host),
        None => (None, at),
    };
    if host.is_empty() {
        return Err(bad());
    }
    let port = host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    Ok(Address { url: format!("rtsp://{host}/{path}"), host: if port { host.into() } else { format!("{host}:554") }, user })
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn fields(&self, name: &str) -> impl Iterator<Item = &str> {
        self.head.lines().filter_map(move |line| line.split_once(':').filter(|(key, _)| key.trim().eq_ignore_ascii_case(name))).map(|(_, value)| value.trim())
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).next()
    }
}

impl Camera {
    /// Asks the camera at `url` to play. `password` is for a user in the address that comes without one: others of this machine see what a program was started with.
    pub fn open<'a>(url: &'a str, password: Option<&'a str>) -> BoxFuture<'a, Result<Camera>> {
        Box::pin(async move {
            let Address { host, url, user } = address(url)?;
            let lost = |e| Error::file("talk to the camera at", &host)(e);
            let stream = tokio::time::timeout(SILENCE, TcpStream::connect(&host)).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(lost)?;
            let _ = stream.set_nodelay(true);
            let login = user.map(|user| match password {
                Some(password) if !user.contains(':') => Login::new(&format!("{user}:{password}")),
                _ => Login::new(&user),
            });
            let mut camera = Camera { url, login, stream, buffer: BytesMut::new(), sequence: 0, session: String::new(), keep: SESSION, kind: Kind::H264, units: Units::default() };
            let url = camera.url.clone();
            let told = camera.ask("DESCRIBE", &url, "Accept: application/sdp\r\n").await?;
            let base = told.field("Content-Base").unwrap_or(&url).to_string();
            let described = describe(&told.body).ok_or_else(|| Error::Invalid(format!("the camera at {url} offers no video that is understood: H.264 and MPEG-TS are")))?;
            (camera.kind, camera.units.parameters) = (described.kind, described.parameters);
            let track = match described.control {
                control if control.starts_with("rtsp://") => control,
                control if control.is_empty() || control == "*" => base.clone(),
                control => format!("{}/{control}", base.trim_end_matches('/')),
            };
            let told = camera.ask("SETUP", &track, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n").await?;
            let session = told.field("Session").unwrap_or_default().to_string();
            let mut parts = session.split(';');
            camera.session = parts.next().unwrap_or_default().trim().to_string();
            if let Some(seconds) = parts.find_map(|p| p.trim().strip_prefix("timeout=")?.parse().ok()) {
                camera.keep = Duration::from_secs(seconds);
            }
            camera.ask("PLAY", &base, "Range: npt=0.000-\r\n").await?;
            Ok(camera)
        })
    }

    fn request(&mut self, method: &str, url: &str, more: &str) -> String {
        self.sequence += 1;
        let session = if self.session.is_empty() { String::new() } else { format!("Session: {}\r\n", self.session) };
        let user = self.login.as_mut().and_then(|l| l.header(method, url)).map(|a| format!("Authorization: {a}\r\n")).unwrap_or_default();
        format!("{method} {url} RTSP/1.0\r\nCSeq: {}\r\nUser-Agent: cloudskin\r\n{session}{user}{more}\r\n", self.sequence)
    }

    async fn ask(&mut self, method: &str, url: &str, more: &str) -> Result<Answer> {
        let lost = || Error::file("talk to the camera at", url);
        let request = self.request(method, url, more);
        self.stream.write_all(request.as_bytes()).await.map_err(lost())?;
        let end = Instant::now() + SILENCE;
        loop {
            match self.next(end).await? {
                None => return Err(Error::Unavailable(format!("the camera at {} hung up after {method}", self.url))),
                // What it plays already.
                Some(Message::Packet(..)) => {}
                Some(Message::Answer(answer)) if (200..300).contains(&answer.status) => return Ok(answer),
                Some(Message::Answer(answer)) if answer.status == 401 => {
                    let Some(login) = &mut self.login else {
                        return Err(Error::Denied(format!("the camera at {} asks for a user: rtsp://USER:PASSWORD@HOST", self.url)));
                    };
                    if !login.asked(answer.fields("WWW-Authenticate")) {
                        let asked = answer.fields("WWW-Authenticate").next().unwrap_or_default();
                        return Err(Error::Denied(format!("the camera at {} refuses this user and password; it asks for {asked:?}, and `Basic` and `Digest` are understood", self.url)));
                    }
                    let request = self.request(method, url, more);
                    self.stream.write_all(request.as_bytes()).await.map_err(lost())?;
                }
                Some(Message::Answer(answer)) => return Err(Error::Conflict(format!("the camera at {} answers {method} with status {}", self.url, answer.status))),
            }
        }
    }

    /// The next thing that the camera sends; `None` at its end.
    async fn next(&mut self, end: Instant) -> Result<Option<Message>> {
        loop {
            if let Some(message) = message(&mut self.buffer)? {
                return Ok(Some(message));
            }
            let read = tokio::time::timeout_at(end, self.stream.read_buf(&mut self.buffer)).await;
            let read = read.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            if read.map_err(Error::file("hear from the camera at", &self.url))? == 0 {
                return Ok(None);
            }
        }
    }

    /// Writes what the camera plays to `out` as MPEG-TS, until it ends or nobody takes it.
    pub async fn run(mut self, mut out: impl AsyncWrite + Unpin) -> Result<()> {
        let mut muxer = Muxer::default();
        // Well before the camera gives up.
        let mut keep = tokio::time::interval(between(self.keep));
        keep.tick().await;
        let mut end = Instant::now() + SILENCE;
        loop {
            let message = tokio::select! {
                message = self.next(end) => message?,
                _ = keep.tick() => {
                    let url = self.url.clone();
                    let request = self.request("OPTIONS", &url, "");
                    self.stream.write_all(request.as_bytes()).await.map_err(Error::file("talk to the camera at", &self.url))?;
                    continue;
                }
            };
            let packets = match message {
                None => return Ok(()),
                Some(Message::Packet(0, packet)) => {
                    end = Instant::now() + SILENCE;
                    let Some(rtp) = Rtp::parse(packet) else { continue };
                    match self.kind {
                        Kind::Packets => rtp.payload.to_vec(),
                        Kind::H264 => self.units.push(rtp).into_iter().flat_map(|picture| muxer.picture(&picture)).collect(),
                    }
                }
                // The nonce may have grown old; the next request has the new one.
                Some(Message::Answer(answer)) if answer.status == 401 => {
                    self.login.as_mut().map(|l| l.asked(answer.fields("WWW-Authenticate")));
                    continue;
                }
                // What comes over other channels is no sign of life of the video.
                Some(_) if Instant::now() >= end => return Err(Error::file("hear video from the camera at", &self.url)(std::io::ErrorKind::TimedOut.into())),
                Some(_) => continue,
            };
            if !packets.is_empty() && out.write_all(&packets).await.is_err() {
                return Ok(());
            }
            // Who takes the video may have waited, and the camera with them.
            end = Instant::now() + SILENCE;
        }
    }
}

enum Message {
    Answer(Answer),
    /// Of a channel: 0 is the video's.
    Packet(u8, Bytes),
}

/// Takes a message off the buffer, if it is there as a whole.
fn message(buffer: &mut BytesMut) -> Result<Option<Message>> {
    match buffer.first() {
        None => Ok(None),
        Some(b'$') => {
            if buffer.len() < 4 {
                return Ok(None);
            }
            let length = usize::from(u16::from_be_bytes([buffer[2], buffer[3]]));
            if buffer.len() < 4 + length {
                return Ok(None);
            }
            let mut packet = buffer.split_to(4 + length).freeze();
            let channel = packet[1];
            packet.advance(4);
            Ok(Some(Message::Packet(channel, packet)))
        }
        Some(_) => {
            let Some(at) = buffer.windows(4).take(HEAD_MAX).position(|w| w == b"\r\n\r\n") else {
                return if buffer.len() > HEAD_MAX { Err(Error::Invalid("the camera's answer has no end".into())) } else { Ok(None) };
            };
            let head = String::from_utf8_lossy(&buffer[..at]).into_owned();
            let mut answer = Answer { status: 0, head, body: String::new() };
            let length = answer.field("Content-Length").and_then(|l| l.parse().ok()).unwrap_or(0);
            if length > HEAD_MAX {
                return Err(Error::Invalid(format!("the camera describes itself with {length} bytes")));
            }
            if buffer.len() < at + 4 + length {
                return Ok(None);
            }
            let first = answer.head.lines().next().unwrap_or_default();
            // A question of the camera's own has no status, and is passed over.
            answer.status = first.strip_prefix("RTSP/1.0 ").and_then(|s| s.get(..3)?.parse().ok()).unwrap_or(200);
            let whole = buffer.split_to(at + 4 + length);
            answer.body = String::from_utf8_lossy(&whole[at + 4..]).into_owned();
            Ok(Some(Message::Answer(answer)))
        }
    }
}

struct Described {
    kind: Kind,
    control: String,
    /// Sequence and picture parameters, if they are told beforehand.
    parameters: Vec<Bytes>,
}

/// The first video in a description that is understood.
fn describe(sdp: &str) -> Option<Described> {
    for media in sdp.split("\nm=").skip(1).filter(|m| m.starts_with("video")) {
        let attribute = |name: &str| media.lines().find_map(|l| l.trim().strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'));
        let format = media.lines().next()?.split_whitespace().nth(3)?;
        let map = attribute("rtpmap").map(str::to_ascii_uppercase).unwrap_or_default();
        let kind = match () {
            () if map.contains("H264/90000") => Kind::H264,
            () if map.contains("MP2T/90000") || format == "33" => Kind::Packets,
            () => continue,
        };
        let sets = attribute("fmtp").and_then(|f| f.split([';', ' ']).find_map(|p| p.trim().strip_prefix("sprop-parameter-sets=")));
        let parameters = sets.into_iter().flat_map(|s| s.split(',')).filter_map(|s| STANDARD.decode(s).ok()).filter(|p| !p.is_empty()).map(Bytes::from).collect();
        return Some(Described { kind, control: attribute("control").unwrap_or_default().trim().to_string(), parameters });
    }
    None
}

struct Rtp {
    /// The last packet of its picture.
    marker: bool,
    sequence: u16,
    time: u32,
    payload: Bytes,
}

impl Rtp {
    fn parse(mut packet: Bytes) -> Option<Rtp> {
        if packet.len() < 12 || packet[0] >> 6 != 2 {
            return None;
        }
        let (flags, marker) = (packet[0], packet[1] & 0x80 != 0);
        let (sequence, time) = (u16::from_be_bytes([packet[2], packet[3]]), u32::from_be_bytes(packet[4..8].try_into().ok()?));
        let sources = 4 * usize::from(flags & 0xf);
        if packet.len() < 12 + sources {
            return None;
        }
        packet.advance(12 + sources);
        if flags & 0x10 != 0 {
            let words = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
            if packet.len() < 4 + 4 * words {
                return None;
            }
            packet.advance(4 + 4 * words);
        }
        if flags & 0x20 != 0 {
            let padding = usize::from(*packet.last()?);
            packet.truncate(packet.len().checked_sub(padding)?);
        }
        Some(Rtp { marker, sequence, time, payload: packet })
    }
}

/// A picture's units, in the order in which they came.
#[derive(Debug, PartialEq)]
struct Picture {
    units: Vec<Bytes>,
    /// 1/90 000 s, over the end of RTP's own clock.
    time: u64,
    random_access: bool,
}

/// Puts pictures together.
#[derive(Default)]
struct Units {
    /// The newest sequence and picture parameters, which a player must have to begin.
    parameters: Vec<Bytes>,
    units: Vec<Bytes>,
    /// A unit that comes in parts.
    part: Option<BytesMut>,
    bytes: usize,
    sequence: Option<u16>,
    time: Option<(u32, u64)>,
    /// A packet of the picture is missing.
    broken: bool,
}

impl Units {
    fn push(&mut self, rtp: Rtp) -> Vec<Picture> {
        let mut out = Vec::new();
        let missing = self.sequence.is_some_and(|s| s.wrapping_add(1) != rtp.sequence);
        self.sequence = Some(rtp.sequence);
        let (last, time) = self.time.unwrap_or((rtp.time, u64::from(rtp.time)));
        // It may be the end of this picture, or the beginning of the next one.
        self.broken |= missing && !self.units.is_empty();
        if rtp.time != last {
            // Some cameras set no marker.
            out.extend(self.end());
        }
        // Pictures may be shown before the one before: half of the clock is behind.
        self.time = Some((rtp.time, time.wrapping_add_signed(i64::from(rtp.time.wrapping_sub(last) as i32))));
        self.broken |= missing;
        if missing {
            self.part = None;
        }
        self.payload(rtp.payload);
        if rtp.marker {
            out.extend(self.end());
        }
        out
    }

    fn payload(&mut self, mut payload: Bytes) {
        let Some(first) = payload.first().copied() else { return };
        match first & 0x1f {
            1..=23 => self.unit(payload),
            // Several whole units, each with its length.
            24 => {
                payload.advance(1);
                while payload.len() > 2 {
                    let length = usize::from(payload.get_u16());
                    if length > payload.len() {
                        self.broken = true;
                        return;
                    }
                    self.unit(payload.split_to(length));
                }
            }
            // A part of a unit, which begins with its header's two halves.
            28 if payload.len() > 2 => {
                let (head, flags) = (payload[0] & 0xe0 | payload[1] & 0x1f, payload[1]);
                payload.advance(2);
                if flags & 0x80 != 0 {
                    self.part = Some(BytesMut::from(&[head][..]));
                }
                let Some(part) = &mut self.part else {
                    self.broken = true;
                    return;
                };
                if part.len() + payload.len() > PICTURE_MAX {
                    (self.part, self.broken) = (None, true);
                    return;
                }
                part.extend_from_slice(&payload);
                if flags & 0x40 != 0
                    && let Some(whole) = self.part.take()
                {
                    self.unit(whole.freeze());
                }
            }
            _ => self.broken = true,
        }
    }

    fn unit(&mut self, unit: Bytes) {
        let Some(kind) = unit.first().map(|b| b & 0x1f) else { return };
        self.bytes += unit.len() + UNIT_COST;
        if self.bytes > PICTURE_MAX {
            self.broken = true;
            return;
        }
        // Our own delimiter begins each picture.
        if kind != 9 {
            // A copy, or a small one would hold the whole packet that it came in.
            self.units.push(Bytes::copy_from_slice(&unit));
        }
    }

    fn end(&mut self) -> Option<Picture> {
        let (units, broken) = (std::mem::take(&mut self.units), std::mem::take(&mut self.broken) || self.part.is_some());
        (self.part, self.bytes) = (None, 0);
        let kind = |u: &Bytes| u[0] & 0x1f;
        let own: Vec<Bytes> = units.iter().filter(|u| matches!(kind(u), 7 | 8)).cloned().collect();
        if !own.is_empty() {
            self.parameters.clone_from(&own);
        }
        if broken || !units.iter().any(|u| matches!(kind(u), 1..=5)) {
            return None;
        }
        let random_access = units.iter().any(|u| kind(u) == 5);
        let before = if random_access && own.is_empty() { self.parameters.clone() } else { Vec::new() };
        Some(Picture { units: [before, units].concat(), time: self.time?.1, random_access })
    }
}

const TABLES_PID: u16 = 0x100;
const VIDEO_PID: u16 = 0x101;
/// The packets' clock begins anew here.
const CLOCK_END: u64 = 1 << 33;

/// Pictures as MPEG-TS: one program with one video.
#[derive(Default)]
struct Muxer {
    /// Counts packets of each stream: tables, the program's tables, video.
    counts: [u8; 3],
}

impl Muxer {
    fn picture(&mut self, picture: &Picture) -> Vec<u8> {
        let mut out = Vec::new();
        if picture.random_access {
            self.table(&mut out, 0, 0, &[0x00, 0xb0, 0x0d, 0x00, 0x01, 0xc1, 0x00, 0x00, 0x00, 0x01, 0xe0 | (TABLES_PID >> 8) as u8, TABLES_PID as u8]);
            let (high, low) = (0xe0 | (VIDEO_PID >> 8) as u8, VIDEO_PID as u8);
            self.table(&mut out, 1, TABLES_PID, &[0x02, 0xb0, 0x12, 0x00, 0x01, 0xc1, 0x00, 0x00, high, low, 0xf0, 0x00, 0x1b, high, low, 0xf0, 0x00]);
        }
        let time = picture.time % CLOCK_END;
        let stamp = [0x21 | (time >> 29 & 0xe) as u8, (time >> 22) as u8, (time >> 14) as u8 | 1, (time >> 7) as u8, (time << 1) as u8 | 1];
        // A video's length may be left open.
        let mut whole = [&[0, 0, 1, 0xe0, 0, 0, 0x84, 0x80, 5][..], &stamp, &[0, 0, 0, 1, 9, 0xf0]].concat();
        for unit in &picture.units {
            whole.extend([0, 0, 0, 1]);
            whole.extend_from_slice(unit);
        }
        let mut left = &whole[..];
        let mut first = true;
        while !left.is_empty() {
            let mut field = Vec::new();
            if first {
                // The clock of the program, 27 MHz: 33 bits of 90 kHz, 6 unused, 9 of the rest.
                field.push(0x10 | if picture.random_access { 0x40 } else { 0 });
                field.extend([(time >> 25) as u8, (time >> 17) as u8, (time >> 9) as u8, (time >> 1) as u8, (time << 7) as u8 | 0x7e, 0]);
            }
            left = self.packet(&mut out, 2, VIDEO_PID, first, field, left);
            first = false;
        }
        out
    }

    fn table(&mut self, out: &mut Vec<u8>, count: usize, pid: u16, section: &[u8]) {
        let mut whole = vec![0];
        whole.extend_from_slice(section);
        whole.extend(crc32_mpeg(section).to_be_bytes());
        whole.resize(PACKET - 4, 0xff);
        self.packet(out, count, pid, true, Vec::new(), &whole);
    }

    /// One packet with as much as fits; gives what doesn't.
    fn packet<'a>(&mut self, out: &mut Vec<u8>, count: usize, pid: u16, begins: bool, mut field: Vec<u8>, left: &'a [u8]) -> &'a [u8] {
        let room = PACKET - 4 - if field.is_empty() { 0 } else { 1 + field.len() };
        let n = left.len().min(room);
        let short = room - n;
        let adapted = !field.is_empty() || short > 0;
        out.extend([0x47, if begins { 0x40 } else { 0 } | (pid >> 8) as u8, pid as u8, if adapted { 0x30 } else { 0x10 } | self.counts[count]]);
        self.counts[count] = (self.counts[count] + 1) & 0xf;
        if adapted {
            if field.is_empty() {
                // The length is the first of the bytes that fill, the flags the second, if there are so many.
                if short > 1 {
                    field.push(0);
                }
                field.resize(short - 1, 0xff);
            } else {
                field.resize(field.len() + short, 0xff);
            }
            out.push(field.len() as u8);
            out.extend(field);
        }
        out.extend_from_slice(&left[..n]);
        &left[n..]
    }
}

/// The checksum of tables.
fn crc32_mpeg(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| if crc >> 31 == 1 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 })
    })
}

/// How often a camera is told that someone is there. What it says of its patience may be anything.
fn between(patience: Duration) -> Duration {
    (patience / 3).clamp(Duration::from_secs(1), Duration::from_secs(600))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::ts::Framer;

    #[tokio::test]
    async fn a_camera_of_no_patience_is_told_each_second() {
        for (patience, expected) in [(0, 1), (60, 20), (u64::MAX, 600)] {
            let between = between(Duration::from_secs(patience));
            assert_eq!(between, Duration::from_secs(expected));
            tokio::time::interval(between).tick().await;
        }
    }

    fn rtp(sequence: u16, time: u32, marker: bool, payload: &[u8]) -> Rtp {
        let mut packet = vec![0x80, 96 | if marker { 0x80 } else { 0 }];
        packet.extend(sequence.to_be_bytes());
        packet.extend(time.to_be_bytes());
        packet.extend([1, 2, 3, 4]);
        packet.extend(payload);
        Rtp::parse(packet.into()).unwrap()
    }

    #[test]
    fn pictures_out_of_all_forms_of_packets() {
        let mut units = Units::default();
        let set = |n: u8| [0, 2, n, 9];
        assert_eq!(units.push(rtp(65_535, u32::MAX - 999, false, &[&[24][..], &set(0x67), &set(0x68)].concat())), []);
        assert_eq!(units.push(rtp(0, u32::MAX - 999, false, &[0x7c, 0x85, 1, 2])), []);
        let first = units.push(rtp(1, u32::MAX - 999, true, &[0x7c, 0x45, 3]));
        let of = |all: &[&[u8]]| all.iter().map(|u| Bytes::copy_from_slice(u)).collect::<Vec<_>>();
        let time = u64::from(u32::MAX) - 999;
        assert_eq!(first, [Picture { units: of(&[&[0x67, 9], &[0x68, 9], &[0x65, 1, 2, 3]]), time, random_access: true }]);
        // Over the end of the clock; and one of which a packet is missing.
        assert_eq!(units.push(rtp(2, 2000, true, &[0x41, 5])), [Picture { units: of(&[&[0x41, 5]]), time: time + 3000, random_access: false }]);
        assert_eq!(units.push(rtp(4, 5000, true, &[0x41, 6])), []);
        // Without marks, and with parameters only from before.
        assert_eq!(units.push(rtp(5, 8000, false, &[0x65, 7])), []);
        assert_eq!(units.push(rtp(6, 11_000, false, &[0x41, 8])), [Picture { units: of(&[&[0x67, 9], &[0x68, 9], &[0x65, 7]]), time: time + 9000, random_access: true }]);
    }

    #[test]
    fn a_picture_of_too_many_units_is_none_however_small_they_are() {
        let mut units = Units::default();
        let small = [&[24][..], &[0, 1, 0x41].repeat(20_000)].concat();
        for n in 0..100 {
            assert_eq!(units.push(rtp(n, 1000, false, &small)), []);
        }
        assert!(units.units.len() * UNIT_COST <= PICTURE_MAX, "{} units", units.units.len());
        assert_eq!(units.push(rtp(100, 1000, true, &[0x41, 1])), []);
        assert_eq!(units.push(rtp(101, 4000, true, &[0x41, 2])).len(), 1, "the next one is there");
    }

    #[test]
    fn the_framer_finds_each_picture() {
        let picture = |time, length, random_access| Picture { units: vec![vec![if random_access { 0x65 } else { 0x41 }; length].into()], time, random_access };
        // Lengths about those at which a packet is full.
        let pictures: Vec<Picture> = [1, 140, 150, 151, 152, 153, 154, 155, 156, 157, 158, 160, 340, 100_000].into_iter().enumerate().map(|(n, l)| picture(CLOCK_END - 9000 + n as u64 * 3000, l, n % 4 == 0)).collect();
        let (mut muxer, mut framer) = (Muxer::default(), Framer::default());
        let packets: Vec<u8> = pictures.iter().flat_map(|p| muxer.picture(p)).collect();
        assert!(packets.len() % PACKET == 0 && packets.chunks(PACKET).all(|p| p[0] == 0x47));
        let mut frames = framer.push(&packets);
        frames.extend(framer.flush());
        let expected: Vec<_> = pictures.iter().map(|p| (p.random_access, Some(p.time % CLOCK_END))).collect();
        assert_eq!(frames.iter().map(|f| (f.random_access, f.shown)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn descriptions() {
        let sdp = "v=0\r\nm=audio 0 RTP/AVP 97\r\na=control:a\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;sprop-parameter-sets=Z0I=,aMs=;x=y\r\na=control:stream=0\r\n";
        let found = describe(sdp).unwrap();
        assert_eq!((found.kind, &found.control[..], &found.parameters[..]), (Kind::H264, "stream=0", &[Bytes::from_static(b"gB"), Bytes::from_static(b"h\xcb")][..]));
        assert!(describe("v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n").is_none());
        assert_eq!(address("rtsp://u:p@cam/a/b").unwrap().host, "cam:554");
        assert!(address("http://cam/").is_err() && address("rtsp://").is_err());
    }

    #[test]
    fn nonsense_gives_nothing_and_no_panic() {
        use rand::{Rng, SeedableRng, rngs::StdRng};
        let mut rng = StdRng::seed_from_u64(9);
        let (mut units, mut muxer) = (Units::default(), Muxer::default());
        for n in 0..100_000u32 {
            let bytes: Vec<u8> = (0..rng.random_range(0..40)).map(|_| rng.random()).collect();
            let _ = message(&mut BytesMut::from(&bytes[..]));
            if let Some(rtp) = Rtp::parse([&[0x80, rng.random()][..], &(n as u16).to_be_bytes(), &bytes].concat().into()) {
                units.push(rtp).iter().for_each(|p| assert_eq!(muxer.picture(p).len() % PACKET, 0));
            }
        }
    }
}
