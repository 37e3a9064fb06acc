//! What is in the log's files when it is opened: follow the chain, cut what was under way, refuse when acknowledged bytes are gone.
//!
//! The chain ends at the first block that isn't valid, or isn't the next. If a valid block from behind that end says that the missing
//! one was durable, bytes are gone that someone was told about. If none says so, nobody was told: a torn tail.

use super::{FileNo, Mark, Options, Place, Seq, block, slots::{Slot, Slots}};
use crate::{Error, Result, disk::Disk, disk::DiskFile};
use block::{BLOCK, HEADER, Header};
use std::{collections::BTreeMap, sync::Arc};

/// The log's files as they were found, for [`super::Log::start`].
pub struct Recovered {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: Options,
    pub(super) mark: Mark,
    pub(super) slots: Slots,
    pub(super) made: u64,
    pub(super) last_file: FileNo,
}

pub(super) fn slot_name(n: u64) -> String {
    format!("log-{n:05}")
}

impl Recovered {
    /// Reads the log from `from` (a checkpoint's mark; `None`: from the beginning) and gives each entry to `entry`: head, payload, its place and
    /// its block. Returns when the log is known to be whole and what was read is on the disk.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        from: Option<Mark>,
        mut entry: impl FnMut(&[u8], &[u8], Place, Seq) -> Result<()>,
    ) -> Result<Recovered> {
        let io = |action: &'static str, name: &str| Error::file(action, name.to_string());
        let mut slots = Slots { free: Vec::new(), used: BTreeMap::new(), made: 0 };
        let mut names = disk.list().map_err(io("list", "the log's folder"))?;
        names.sort();
        let mut made = 0;
        let mut unknown: Vec<Slot> = Vec::new();
        let mut log = from.map(|m| m.log);
        let mut epochs: BTreeMap<FileNo, u64> = BTreeMap::new();
        for name in names {
            if name.starts_with("log-") && name.ends_with(".new") {
                // Was being filled with zeros.
                disk.remove(&name).map_err(io("remove", &name))?;
                continue;
            }
            let Some(n) = name.strip_prefix("log-").and_then(|n| n.parse::<u64>().ok()) else { continue };
            made = made.max(n + 1);
            let file = disk.open(&name).map_err(io("open", &name))?;
            let first = read_block(&*file, 0).map_err(io("read", &name))?;
            let slot = Slot { name, file };
            match first {
                Some((header, _)) if log.is_none_or(|l| l == header.log) => {
                    log = Some(header.log);
                    // A file that was begun and cut off is begun again in another slot, with a higher epoch.
                    if epochs.get(&header.file).is_some_and(|e| *e > header.epoch) {
                        unknown.push(slot);
                    } else {
                        epochs.insert(header.file, header.epoch);
                        unknown.extend(slots.used.insert(header.file, slot));
                    }
                }
                Some((header, _)) => {
                    return Err(Error::Damaged(format!("{} belongs to another log ({:x})", slot.name, header.log)));
                }
                None => unknown.push(slot),
            }
        }
        let mut mark = from.unwrap_or(Mark {
            log: log.unwrap_or_else(rand::random),
            epoch: 0,
            next: Seq(1),
            link: 0,
            file: FileNo(1),
            at: 0,
        });
        // Follow the chain.
        let mut touched: Vec<FileNo> = Vec::new();
        loop {
            let here = (mark.file, u64::from(mark.at));
            let mut found = None;
            for (no, at) in [here, (FileNo(mark.file.0 + 1), 0)] {
                let Some(slot) = slots.used.get(&no) else { continue };
                // What can't be read may be what someone was told about: it is not where the chain ends.
                let Some((header, bytes)) = read_block(&*slot.file, at).map_err(io("read", &slot.name))? else { continue };
                let next = header.log == mark.log && header.seq == mark.next && header.link == mark.link && header.file == no;
                if next && header.epoch >= mark.epoch {
                    found = Some((no, at, header, bytes));
                    break;
                }
            }
            let Some((no, at, header, bytes)) = found else { break };
            let name = &slots.used[&no].name;
            let entries = block::entries(&header, &bytes)
                .ok_or_else(|| Error::Damaged(format!("block {} in {name} is valid but makes no sense", header.seq.0)))?;
            for (head, data) in entries {
                let place = Place { file: no, at: (at as usize + data.start) as u32 };
                entry(&bytes[head], &bytes[data], place, header.seq)?;
            }
            if touched.last() != Some(&no) {
                touched.push(no);
            }
            let crc = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"));
            mark = Mark {
                log: mark.log,
                epoch: header.epoch,
                next: Seq(header.seq.0 + 1),
                link: crc,
                file: no,
                at: (at + block::padded(bytes.len()) as u64) as u32,
            };
        }
        // Whoever comes after the end may know that what is missing was there.
        let behind = slots.used.range(mark.file..).map(|(_, s)| s).chain(&unknown);
        for slot in behind {
            if let Some((at, header)) = find_proof(&*slot.file, &mark).map_err(io("read", &slot.name))? {
                return Err(Error::Damaged(format!(
                    "block {} is missing after {} in file {}, though block {} at {at} of {} says that it was durable",
                    mark.next.0, mark.at, mark.file.0, header.seq.0, slot.name
                )));
            }
        }
        // The page cache may have more than the disk; what is built upon must not vanish under it.
        for no in touched {
            let slot = &slots.used[&no];
            slot.file.sync().map_err(io("sync", &slot.name))?;
        }
        // The chain goes on in the file with its end or in the next one; what lies behind had blocks that were under way only.
        let last_file = if mark.at > 0 { mark.file } else { FileNo(mark.file.0 - 1) };
        let cut: Vec<FileNo> = slots.used.range(FileNo(last_file.0 + 1)..).map(|(no, _)| *no).collect();
        for no in cut {
            unknown.extend(slots.used.remove(&no));
        }
        for slot in unknown {
            if slot.file.bytes() == options.file_bytes {
                slots.free.push(slot);
            } else {
                disk.remove(&slot.name).map_err(io("remove", &slot.name))?;
            }
        }
        Ok(Recovered { disk, options, mark, slots, made, last_file })
    }

    /// The files that are there, oldest first.
    pub fn files(&self) -> Vec<FileNo> {
        self.slots.used.keys().copied().collect()
    }

    /// Where the chain is taken up.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The next block's number.
    pub fn next(&self) -> Seq {
        self.mark.next
    }
}

/// The block at this place if its checksum is right.
fn read_block(file: &dyn DiskFile, at: u64) -> std::io::Result<Option<(Header, Vec<u8>)>> {
    if at + BLOCK > file.bytes() {
        return Ok(None);
    }
    let mut bytes = vec![0; BLOCK as usize];
    file.read(at, &mut bytes)?;
    let Some((header, crc)) = Header::parse(&bytes) else { return Ok(None) };
    if header.bytes() > file.bytes() - at {
        return Ok(None);
    }
    let whole = header.bytes() as usize;
    if whole > bytes.len() {
        bytes.resize(whole, 0);
        file.read(at + BLOCK, &mut bytes[BLOCK as usize..])?;
    }
    bytes.truncate(whole);
    Ok((block::crc32c(&bytes[8..]) == crc).then_some((header, bytes)))
}

/// A valid block that says that the block after the chain's end was durable.
fn find_proof(file: &dyn DiskFile, mark: &Mark) -> std::io::Result<Option<(u64, Header)>> {
    let mut page = vec![0; HEADER];
    for at in (0..file.bytes()).step_by(BLOCK as usize) {
        if at + BLOCK > file.bytes() {
            break;
        }
        file.read(at, &mut page)?;
        let Some((header, _)) = Header::parse(&page) else { continue };
        let tells = header.log == mark.log && header.seq >= mark.next && header.durable >= mark.next;
        if tells && read_block(file, at)?.is_some() {
            return Ok(Some((at, header)));
        }
    }
    Ok(None)
}
