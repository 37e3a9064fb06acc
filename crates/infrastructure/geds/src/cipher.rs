//! What lies on the disk, unreadable to who has the disk but not the key: AES-256-GCM, object by object.
//!
//! ```text
//! master key (a file of its owner's alone) ─ HMAC-SHA256 with the object's id ─▶ a key for one object
//! stored    │ nonce 12 │ 64 KiB, encrypted │ tag 16 │ nonce 12 │ …        each chunk is bound to its object and its number
//! ```
//!
//! A nonce is random and drawn anew each time a chunk is written, so a draft may be written over and a chunk still never meets the same nonce twice under one key. A changed, moved or
//! swapped chunk does not open. What is not hidden: how many objects there are, their ids, sizes and checksums, and when they were written.

use crate::{Error, ObjectId, Result, local::file};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

/// Bytes of the content in one chunk.
pub(crate) const CHUNK: u64 = 64 << 10;
const TAG: usize = 16;
/// What a chunk takes besides.
const EXTRA: u64 = NONCE_LEN as u64 + TAG as u64;
const KEY_BYTES: usize = 32;
/// Tells that a folder's objects are encrypted, and whether a key is theirs.
const MARK: &str = "cipher";
const MARK_TEXT: &[u8; 16] = b"geds at rest v1\n";

/// A key for what is at rest. Not printed.
#[derive(Clone)]
pub struct RestKey(Arc<hmac::Key>);

impl fmt::Debug for RestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RestKey(…)")
    }
}

impl RestKey {
    pub fn new(key: &[u8; KEY_BYTES]) -> RestKey {
        RestKey(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key)))
    }

    /// Reads a key of 32 bytes, or of 64 hexadecimal digits, from a file that only its owner may read.
    pub fn from_file(path: &Path) -> Result<RestKey> {
        let bad = |rule| Error::BadValue { what: "`key_file` in [geds]", value: path.display().to_string(), rule };
        let opened = File::open(path).map_err(file("open", path))?;
        let facts = opened.metadata().map_err(file("look up", path))?;
        if !facts.is_file() || facts.mode() & 0o077 != 0 {
            return Err(bad("it must be a file that only its owner may read: chmod 600"));
        }
        let mut bytes = Vec::new();
        opened.take(256).read_to_end(&mut bytes).map_err(file("read", path))?;
        let key: Option<[u8; KEY_BYTES]> = match <[u8; KEY_BYTES]>::try_from(bytes.as_slice()) {
            Ok(key) => Some(key),
            Err(_) => std::str::from_utf8(&bytes).ok().and_then(|text| hexadecimal(text.trim())),
        };
        key.map(|key| RestKey::new(&key)).ok_or_else(|| bad("it has 32 random bytes, or 64 hexadecimal digits; `head -c 32 /dev/urandom` makes some"))
    }
}

fn hexadecimal(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    if text.len() != 2 * KEY_BYTES || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
}

/// What so many bytes take when they are stored.
pub(crate) fn stored(len: u64) -> u64 {
    len + len.div_ceil(CHUNK) * EXTRA
}

/// Keys of the objects in one folder.
pub(crate) struct Cipher {
    master: RestKey,
    random: SystemRandom,
}

/// The key of one object.
pub(crate) struct ObjectKey(LessSafeKey);

fn aad(chunk: u64) -> Aad<[u8; 8]> {
    Aad::from(chunk.to_le_bytes())
}

impl Cipher {
    pub fn new(master: RestKey) -> Cipher {
        Cipher { master, random: SystemRandom::new() }
    }

    /// The cipher of a folder: its mark is compared, or made where there is nothing yet. `used`: there are objects in it.
    pub fn open(folder: &Path, key: Option<RestKey>, used: bool) -> Result<Option<Cipher>> {
        let path = folder.join(MARK);
        let bad = |rule| Error::BadValue { what: "folder", value: folder.display().to_string(), rule };
        let mark = match fs::read(&path) {
            Ok(mark) => Some(mark),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(file("read", &path)(e)),
        };
        match (key, mark) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(bad("the objects in it are encrypted; set `key_file` in [geds]")),
            (Some(_), None) if used => Err(bad("the objects in it are not encrypted; spill them or copy them to another site, and begin with an empty folder")),
            (Some(key), None) => {
                let cipher = Cipher::new(key);
                let mark = cipher.seal(ObjectId(0), MARK_TEXT)?;
                let made = || {
                    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
                    new.write_all(&mark)?;
                    new.sync_all()?;
                    File::open(folder)?.sync_all()
                };
                made().map_err(file("write", &path))?;
                Ok(Some(cipher))
            }
            (Some(key), Some(mark)) => {
                let cipher = Cipher::new(key);
                match cipher.open_all(ObjectId(0), &mark, MARK_TEXT.len() as u64) {
                    Ok(text) if text == MARK_TEXT => Ok(Some(cipher)),
                    _ => Err(bad("its objects were encrypted with another key than that in `key_file`")),
                }
            }
        }
    }

    pub fn key(&self, id: ObjectId) -> ObjectKey {
        let derived = hmac::sign(&self.master.0, &id.0.to_le_bytes());
        ObjectKey(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, derived.as_ref()).expect("an HMAC-SHA256 has the 32 bytes of a key")))
    }

    /// Appends a chunk as it is stored.
    fn seal_chunk(&self, key: &ObjectKey, number: u64, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let mut nonce = [0; NONCE_LEN];
        let failed = |what: &str| file("encrypt for", Path::new("the disk"))(io::Error::other(what.to_string()));
        self.random.fill(&mut nonce).map_err(|_| failed("the system gives no random bytes"))?;
        out.extend_from_slice(&nonce);
        let at = out.len();
        out.extend_from_slice(plain);
        let tag = key.0.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad(number), &mut out[at..]);
        out.extend_from_slice(tag.map_err(|_| failed("a chunk is too long"))?.as_ref());
        Ok(())
    }

    /// All of an object as it is stored.
    pub fn seal(&self, id: ObjectId, plain: &[u8]) -> Result<Vec<u8>> {
        let key = self.key(id);
        let mut out = Vec::with_capacity(stored(plain.len() as u64) as usize);
        for (number, chunk) in plain.chunks(CHUNK as usize).enumerate() {
            self.seal_chunk(&key, number as u64, chunk, &mut out)?;
        }
        Ok(out)
    }

    /// A piece of what grows, as it is stored from the byte `place` of its file on: bound to that place, chunk by chunk.
    pub fn seal_piece(&self, id: ObjectId, place: u64, plain: &[u8]) -> Result<Vec<u8>> {
        let key = self.key(id);
        let mut out = Vec::with_capacity(stored(plain.len() as u64) as usize);
        for chunk in plain.chunks(CHUNK as usize) {
            self.seal_chunk(&key, place + out.len() as u64, chunk, &mut out)?;
        }
        Ok(out)
    }

    /// The bytes `range` of such a piece of `len` bytes. Only the chunks that they are in are read. The error is `InvalidData` if one is not what was written.
    pub fn open_piece(&self, id: ObjectId, from: &File, place: u64, len: u64, range: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
        assert!(range.start <= range.end && range.end <= len, "what is read lies in the piece");
        let key = self.key(id);
        let first = range.start / CHUNK;
        let mut plain = Vec::with_capacity((range.end.next_multiple_of(CHUNK).min(len) - first * CHUNK) as usize);
        for number in first..range.end.div_ceil(CHUNK) {
            let at = place + number * (CHUNK + EXTRA);
            let mut chunk = vec![0; ((len - number * CHUNK).min(CHUNK) + EXTRA) as usize];
            from.read_exact_at(&mut chunk, at)?;
            open_chunk(&key, at, &chunk, &mut plain).map_err(|found| io::Error::new(io::ErrorKind::InvalidData, found))?;
        }
        plain.truncate((range.end - first * CHUNK) as usize);
        plain.drain(..(range.start - first * CHUNK) as usize);
        Ok(plain)
    }

    /// All of an object as it was. The error says what is wrong with what is stored.
    pub fn open_all(&self, id: ObjectId, bytes: &[u8], len: u64) -> Result<Vec<u8>, String> {
        if bytes.len() as u64 != stored(len) {
            return Err(format!("it has {} bytes, not {}", bytes.len(), stored(len)));
        }
        let key = self.key(id);
        let mut plain = Vec::new();
        plain.try_reserve_exact(len as usize).map_err(|_| format!("there is no memory for its {len} bytes"))?;
        for (number, chunk) in bytes.chunks((CHUNK + EXTRA) as usize).enumerate() {
            open_chunk(&key, number as u64, chunk, &mut plain)?;
        }
        Ok(plain)
    }
}

/// Appends what a stored chunk holds.
fn open_chunk(key: &ObjectKey, number: u64, chunk: &[u8], plain: &mut Vec<u8>) -> Result<(), String> {
    let broken = || format!("its chunk {number} is not what was written, or of another object");
    let (nonce, sealed) = chunk.split_first_chunk::<NONCE_LEN>().ok_or_else(broken)?;
    let at = plain.len();
    plain.extend_from_slice(sealed);
    let opened = key.0.open_in_place(Nonce::assume_unique_for_key(*nonce), aad(number), &mut plain[at..]).map(|bytes| bytes.len());
    plain.truncate(at + opened.map_err(|_| broken())?);
    Ok(())
}

/// An encrypted file that is being written, in any order.
pub(crate) struct Veil {
    cipher: Arc<Cipher>,
    key: ObjectKey,
    /// Of the content, in bytes.
    len: u64,
    /// The chunk that was written last: the next write mostly goes on in it.
    number: u64,
    chunk: Vec<u8>,
    dirty: bool,
}

impl Veil {
    pub fn new(cipher: Arc<Cipher>, id: ObjectId) -> Veil {
        let key = cipher.key(id);
        Veil { cipher, key, len: 0, number: 0, chunk: Vec::with_capacity(CHUNK as usize), dirty: false }
    }

    fn place(number: u64) -> u64 {
        number * (CHUNK + EXTRA)
    }

    fn load(&self, file: &File, number: u64) -> io::Result<Vec<u8>> {
        let there = self.len.saturating_sub(number * CHUNK).min(CHUNK);
        let mut plain = Vec::with_capacity(CHUNK as usize);
        if there > 0 {
            let mut bytes = vec![0; (there + EXTRA) as usize];
            file.read_exact_at(&mut bytes, Self::place(number))?;
            open_chunk(&self.key, number, &bytes, &mut plain).map_err(io::Error::other)?;
        }
        Ok(plain)
    }

    /// Writes down what is only in memory so far.
    pub fn flush(&mut self, file: &File) -> io::Result<()> {
        if self.dirty {
            let mut out = Vec::with_capacity((CHUNK + EXTRA) as usize);
            self.cipher.seal_chunk(&self.key, self.number, &self.chunk, &mut out).map_err(io::Error::other)?;
            file.write_all_at(&out, Self::place(self.number))?;
            self.dirty = false;
        }
        Ok(())
    }

    fn turn_to(&mut self, file: &File, number: u64) -> io::Result<()> {
        if number != self.number {
            self.flush(file)?;
            self.chunk = self.load(file, number)?;
            self.number = number;
        }
        Ok(())
    }

    /// Writes; a gap before it becomes zeros. The blocks are there already.
    pub fn write(&mut self, file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
        self.extend(file, offset)?;
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let (number, start) = (at / CHUNK, (at % CHUNK) as usize);
            self.turn_to(file, number)?;
            let (part, later) = rest.split_at(rest.len().min(CHUNK as usize - start));
            if self.chunk.len() < start + part.len() {
                self.chunk.resize(start + part.len(), 0);
            }
            self.chunk[start..start + part.len()].copy_from_slice(part);
            self.dirty = true;
            at += part.len() as u64;
            self.len = self.len.max(at);
            rest = later;
        }
        Ok(())
    }

    /// Zeros up to `len`, if it is shorter.
    pub fn extend(&mut self, file: &File, len: u64) -> io::Result<()> {
        while self.len < len {
            let number = self.len / CHUNK;
            self.turn_to(file, number)?;
            let end = len.min((number + 1) * CHUNK);
            self.chunk.resize((end - number * CHUNK) as usize, 0);
            self.dirty = true;
            self.len = end;
        }
        Ok(())
    }

    /// Forgets what is behind `len`. The file is cut to [`stored`] of it by the caller, after this.
    pub fn cut(&mut self, file: &File, len: u64) -> io::Result<()> {
        if len >= self.len {
            return Ok(());
        }
        let last = len / CHUNK;
        self.turn_to(file, last)?;
        self.chunk.truncate((len % CHUNK) as usize);
        // A chunk of nothing is none.
        self.dirty = !self.chunk.is_empty();
        self.len = len;
        self.flush(file)
    }

    /// Fewer bytes than asked for only at the end.
    pub fn read(&self, file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let end = self.len.min(offset.saturating_add(buf.len() as u64));
        let mut at = offset;
        while at < end {
            let (number, start) = (at / CHUNK, (at % CHUNK) as usize);
            let loaded;
            let chunk = if number == self.number {
                &self.chunk
            } else {
                loaded = self.load(file, number)?;
                &loaded
            };
            let part = &chunk[start..chunk.len().min(start + (end - at) as usize)];
            let into = (at - offset) as usize;
            buf[into..into + part.len()].copy_from_slice(part);
            at += part.len() as u64;
        }
        Ok(end.saturating_sub(offset) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn cipher() -> Cipher {
        Cipher::new(RestKey::new(&[7; 32]))
    }

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        for len in [0, 1, 65_535, 65_536, 65_537, 200_000] {
            let plain: Vec<u8> = (0..len as u32).map(|n| (n.wrapping_mul(2654435761) >> 24) as u8).collect();
            let sealed = cipher().seal(ObjectId(1), &plain).unwrap();
            assert_eq!(sealed.len() as u64, stored(len));
            assert_eq!(cipher().open_all(ObjectId(1), &sealed, len).unwrap(), plain);
            if len == 0 {
                continue;
            }
            assert!(cipher().open_all(ObjectId(2), &sealed, len).is_err(), "another object's key");
            assert!(Cipher::new(RestKey::new(&[8; 32])).open_all(ObjectId(1), &sealed, len).is_err(), "another master key");
            for at in [0, sealed.len() / 2, sealed.len() - 1] {
                let mut broken = sealed.clone();
                broken[at] ^= 1;
                assert!(cipher().open_all(ObjectId(1), &broken, len).is_err(), "byte {at} of {len}");
            }
            assert_ne!(cipher().seal(ObjectId(1), &plain).unwrap(), sealed, "a nonce is used once");
        }
        // A piece of what grows, and parts of it.
        let plain: Vec<u8> = (0..150_000u32).map(|n| (n.wrapping_mul(2654435761) >> 24) as u8).collect();
        let (place, mut on_disk) = (1000, tempfile::tempfile().unwrap());
        on_disk.write_all(&[9; 1000]).unwrap();
        on_disk.write_all(&cipher().seal_piece(ObjectId(1), place, &plain).unwrap()).unwrap();
        let piece = |place, range| cipher().open_piece(ObjectId(1), &on_disk, place, plain.len() as u64, range);
        for range in [0..150_000, 0..0, 65_530..65_540, 65_536..131_072, 149_999..150_000, 150_000..150_000] {
            assert_eq!(piece(place, range.clone()).unwrap(), &plain[range.start as usize..range.end as usize], "{range:?}");
        }
        assert!(piece(place - 1, 0..1).is_err(), "it is bound to its place");
        // Whole chunks in another order.
        let chunk = (CHUNK + EXTRA) as usize;
        let sealed = cipher().seal(ObjectId(1), &vec![5; 2 * CHUNK as usize]).unwrap();
        let swapped = [&sealed[chunk..], &sealed[..chunk]].concat();
        assert!(cipher().open_all(ObjectId(1), &swapped, 2 * CHUNK).is_err());
    }

    #[test]
    fn a_veiled_file_reads_like_a_plain_one() {
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..20 {
            let file = tempfile::tempfile().unwrap();
            let cipher = Arc::new(cipher());
            let (mut veil, mut model) = (Veil::new(cipher.clone(), ObjectId(9)), Vec::<u8>::new());
            for _ in 0..60 {
                let offset = random.random_range(0..300_000u64).min(model.len() as u64 + 70_000);
                match random.random_range(0..4) {
                    0 => {
                        let len = offset.min(model.len() as u64);
                        veil.cut(&file, len).unwrap();
                        file.set_len(stored(len)).unwrap();
                        model.truncate(len as usize);
                    }
                    1 => {
                        let mut buf = vec![0; random.random_range(0..200_000)];
                        let n = veil.read(&file, offset, &mut buf).unwrap();
                        let expected = model.get(offset as usize..).unwrap_or(&[]);
                        assert!(buf[..n] == expected[..expected.len().min(buf.len())], "seed {seed}");
                    }
                    _ => {
                        let data: Vec<u8> = (0..random.random_range(1..100_000)).map(|_| random.random()).collect();
                        veil.write(&file, offset, &data).unwrap();
                        let end = offset as usize + data.len();
                        if model.len() < end {
                            model.resize(end, 0);
                        }
                        model[offset as usize..end].copy_from_slice(&data);
                    }
                }
            }
            veil.flush(&file).unwrap();
            let mut bytes = vec![0; stored(model.len() as u64) as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert!(cipher.open_all(ObjectId(9), &bytes, model.len() as u64).unwrap() == model, "seed {seed}");
        }
    }
}
