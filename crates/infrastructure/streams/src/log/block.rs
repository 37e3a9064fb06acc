//! A block of the log as bytes: header, heads of its entries, payloads, zeros up to a multiple of 4 KiB. Little-endian.
//!
//! ```text
//!   0  magic u32      4  crc32c u32 of all that follows up to the padding
//!   8  log u64       16  epoch u64     24  file u64     32  seq u64     40  durable u64
//!  48  link u32      52  heads u32     56  data u32     60  entries u32
//!  64  entries × { head length u32, data length u32, data offset u32, head }, then data
//! ```

use super::{FileNo, Seq};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm::Crc32Iscsi, Digest, checksum, checksum_combine};

/// What writes are aligned to: no write touches a page of another block.
pub const BLOCK: u64 = 4096;
pub(crate) const HEADER: usize = 64;
/// What an entry takes besides its head and data.
pub(crate) const ENTRY: usize = 12;
const MAGIC: u32 = 0x4c53_4b43;

/// CRC-32C, as iSCSI has it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    checksum(Crc32Iscsi, bytes) as u32
}

/// The checksum of `a` and `b` one after the other, from theirs.
pub fn crc32c_join(a: u32, b: u32, b_bytes: u64) -> u32 {
    checksum_combine(Crc32Iscsi, a.into(), b.into(), b_bytes) as u32
}

pub(crate) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK as usize)
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub log: u64,
    pub epoch: u64,
    pub file: FileNo,
    pub seq: Seq,
    pub durable: Seq,
    pub link: u32,
    pub heads: u32,
    pub data: u32,
    pub entries: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) fn put_entry(front: &mut Vec<u8>, head: &[u8], data: usize, at: usize) {
    for n in [head.len(), data, at] {
        front.extend_from_slice(&(n as u32).to_le_bytes());
    }
    front.extend_from_slice(head);
}

impl Header {
    /// Writes the header into the first bytes of `front` and returns the block's checksum, which the next block links to.
    pub fn seal(&self, front: &mut [u8], data: &[Bytes]) -> u32 {
        front[..4].copy_from_slice(&MAGIC.to_le_bytes());
        for (i, n) in [self.log, self.epoch, self.file.0, self.seq.0, self.durable.0].into_iter().enumerate() {
            front[8 + 8 * i..16 + 8 * i].copy_from_slice(&n.to_le_bytes());
        }
        for (i, n) in [self.link, self.heads, self.data, self.entries].into_iter().enumerate() {
            front[48 + 4 * i..52 + 4 * i].copy_from_slice(&n.to_le_bytes());
        }
        let mut digest = Digest::new(Crc32Iscsi);
        digest.update(&front[8..]);
        for part in data {
            digest.update(part);
        }
        let crc = digest.finalize() as u32;
        front[4..8].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Reads a header and its checksum; `None` if this can't be one. The checksum is not checked here.
    pub fn parse(bytes: &[u8]) -> Option<(Header, u32)> {
        if bytes.len() < HEADER || u32_at(bytes, 0) != MAGIC {
            return None;
        }
        let header = Header {
            log: u64_at(bytes, 8),
            epoch: u64_at(bytes, 16),
            file: FileNo(u64_at(bytes, 24)),
            seq: Seq(u64_at(bytes, 32)),
            durable: Seq(u64_at(bytes, 40)),
            link: u32_at(bytes, 48),
            heads: u32_at(bytes, 52),
            data: u32_at(bytes, 56),
            entries: u32_at(bytes, 60),
        };
        Some((header, u32_at(bytes, 4)))
    }

    /// Bytes without the padding.
    pub fn bytes(&self) -> u64 {
        HEADER as u64 + u64::from(self.heads) + u64::from(self.data)
    }
}

/// The entries of a block whose checksum was right: head, data, and where the data begins in the block.
pub(crate) fn entries(header: &Header, block: &[u8]) -> Option<Vec<(std::ops::Range<usize>, std::ops::Range<usize>)>> {
    let data = HEADER + header.heads as usize;
    let mut at = HEADER;
    let mut out = Vec::new();
    for _ in 0..header.entries {
        if at + ENTRY > data {
            return None;
        }
        let (head, length, offset) = (u32_at(block, at) as usize, u32_at(block, at + 4) as usize, u32_at(block, at + 8) as usize);
        at += ENTRY;
        if head > data - at || offset > header.data as usize || length > header.data as usize - offset {
            return None;
        }
        out.push((at..at + head, data + offset..data + offset + length));
        at += head;
    }
    (at == data).then_some(out)
}
