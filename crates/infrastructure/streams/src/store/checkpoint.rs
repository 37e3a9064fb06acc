//! Checkpoints: the whole state as of one block of the log, as a file and as what long-term storage keeps of it.
//!
//! The decided part is encoded when its block is cut, the landed one when that block has landed; in between others go on.

use super::encode;
use crate::{
    Error,
    log::{self, Mark},
    segment::{Landed, SegmentId, State, Writers},
};
use serde::{Deserialize, Serialize};

/// The whole state as of one block.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub mark: Mark,
    pub(super) decided: Vec<u8>,
    pub(super) landed: Vec<u8>,
}

/// Why a checkpoint is of no use.
pub(crate) enum Unread {
    Damaged,
    /// It is in this format, of a later version of this program.
    Later(u32),
}

impl Unread {
    /// As an error about what is called `name`.
    pub fn error(&self, name: &str) -> Error {
        match self {
            Unread::Damaged => Error::Damaged(format!("{name} has another checksum than when it was written")),
            Unread::Later(format) => Error::Conflict(format!(
                "{name} has format {format}, and this program knows those up to {FORMAT}: start with the version that wrote it, or a later one"
            )),
        }
    }
}

/// What a checkpoint begins with since it says which format it has; those of the first one have their checksum in this place.
const MAGIC: [u8; 8] = *b"CSSTREAM";
/// 1: all epochs of a stream, writers among a segment's attributes. 2: epochs have a first number, writers are apart.
const FORMAT: u32 = 2;

/// What came to the state with format 2: numbers of first epochs by scope and stream, of deleted streams by scope, and writers.
type Later = (Vec<(String, String, u32)>, Vec<(String, u32)>, Vec<(SegmentId, Writers)>);

impl Checkpoint {
    pub fn new(mark: Mark, state: &State) -> Checkpoint {
        Checkpoint { mark, decided: decided(state), landed: encode(&state.landed()) }
    }

    pub fn state(&self) -> std::result::Result<State, postcard::Error> {
        let (mut state, rest) = postcard::take_from_bytes::<State>(&self.decided)?;
        if !rest.is_empty() {
            let (told, rest) = postcard::take_from_bytes(rest)?;
            state.catalog.told = told;
            if !rest.is_empty() {
                let ((epochs, gone, writers), rest): (Later, &[u8]) = postcard::take_from_bytes(rest)?;
                if !rest.is_empty() {
                    (state.catalog.gone, state.catalog.gone_before) = postcard::from_bytes(rest)?;
                }
                for (scope, stream, first) in epochs {
                    if let Some(stream) = state.catalog.scopes.get_mut(&scope).and_then(|s| s.streams.get_mut(&stream)) {
                        stream.first_epoch = first;
                    }
                }
                for (scope, before) in gone {
                    if let Some(scope) = state.catalog.scopes.get_mut(&scope) {
                        scope.gone_before = before;
                    }
                }
                for (id, writers) in writers {
                    if let Some(segment) = state.segments.get_mut(&id) {
                        segment.writers = writers;
                    }
                }
            }
        }
        let landed: Vec<(SegmentId, Landed)> = postcard::from_bytes(&self.landed)?;
        state.set_landed(landed);
        Ok(state)
    }

    /// As a file has it: which kind of file, the checksum of all that follows, the format, the rest.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &[0; 4], &FORMAT.to_le_bytes()].concat();
        bytes.extend_from_slice(&encode(self));
        let crc = log::crc32c(&bytes[12..]).to_le_bytes();
        bytes[8..12].copy_from_slice(&crc);
        bytes
    }

    pub fn parse(bytes: &[u8]) -> std::result::Result<Checkpoint, Unread> {
        let marked = bytes.strip_prefix(&MAGIC);
        let (crc, mut body) = marked.unwrap_or(bytes).split_at_checked(4).ok_or(Unread::Damaged)?;
        if crc != log::crc32c(body).to_le_bytes() {
            return Err(Unread::Damaged);
        }
        if marked.is_some() {
            let (format, rest) = body.split_first_chunk().ok_or(Unread::Damaged)?;
            match u32::from_le_bytes(*format) {
                FORMAT => body = rest,
                later => return Err(Unread::Later(later)),
            }
        }
        postcard::from_bytes(body).map_err(|_| Unread::Damaged)
    }
}

/// The state without its durable side. What came later is behind what the first versions had.
pub(super) fn decided(state: &State) -> Vec<u8> {
    let mut bytes = encode(state);
    bytes.extend_from_slice(&encode(&state.catalog.told));
    let epochs: Vec<(&str, &str, u32)> = state.catalog.streams().filter(|(_, _, s)| s.first_epoch > 0).map(|(scope, name, s)| (scope, name, s.first_epoch)).collect();
    let gone: Vec<(&str, u32)> = state.catalog.scopes.iter().filter(|(_, s)| s.gone_before > 0).map(|(name, s)| (name.as_str(), s.gone_before)).collect();
    let writers: Vec<(SegmentId, &Writers)> = state.segments.iter().filter(|(_, s)| !s.writers.is_empty()).map(|(id, s)| (*id, &s.writers)).collect();
    bytes.extend_from_slice(&encode(&(epochs, gone, writers)));
    // Earlier versions of this format end before this, and do not read on.
    bytes.extend_from_slice(&encode(&(&state.catalog.gone, state.catalog.gone_before)));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::{Change, Config, Epoch, SegmentNo, even},
        log::{FileNo, Seq},
        segment::Record,
    };

    fn state() -> State {
        let mut state = State::default();
        let (scope, stream) = (|| "s".to_string(), || "t".to_string());
        let mut apply = |change| state.apply(Record::Catalog(Box::new(change)));
        apply(Change::CreateScope { scope: scope() });
        apply(Change::CreateStream { scope: scope(), stream: stream(), config: Config::default(), epoch: Epoch { at_ms: 1, segments: even(1, 0, 0) } });
        for n in 1..=600 {
            apply(Change::NewEpoch { scope: scope(), stream: stream(), epoch: Epoch { at_ms: 1, segments: even(1, n, n) } });
        }
        state.apply(Record::Create { id: SegmentId(0), name: "a".into(), table: false, at_ms: 1 });
        state.apply(Record::Attribute { id: SegmentId(0), key: 5, value: 6 });
        state
    }

    fn mark() -> Mark {
        Mark { log: 1, epoch: 1, next: Seq(1), link: 0, file: FileNo(1), at: 0 }
    }

    /// The parts of a state that came with format 2 are in a checkpoint, and one of format 1 is read: it has every epoch, and writers among attributes.
    #[test]
    fn checkpoints_of_both_formats_are_read_and_those_of_later_ones_are_refused() {
        let mut state = state();
        state.apply(Record::Attribute { id: SegmentId(0), key: 7, value: 40 });
        let first = Checkpoint { mark: mark(), decided: [encode(&state), encode(&state.catalog.told)].concat(), landed: encode(&state.landed()) };
        let body = encode(&first);
        let file = [&log::crc32c(&body).to_le_bytes()[..], &body].concat();
        let mut read = Checkpoint::parse(&file).ok().unwrap().state().unwrap();
        assert_eq!((read.catalog.stream("s", "t").unwrap().epochs.len(), read.segment("a").unwrap().attribute(7)), (601, 40));

        // It goes on from there as from a new one.
        for change in [
            Change::CreateScope { scope: "other".into() },
            Change::CreateStream { scope: "other".into(), stream: "t".into(), config: Config::default(), epoch: Epoch { at_ms: 1, segments: even(3, 0, 0) } },
            Change::DeleteScope { scope: "other".into() },
        ] {
            read.apply(Record::Catalog(Box::new(change)));
        }
        read.apply(Record::Append { id: SegmentId(0), writer: 7, event: 41, at_ms: 1, pieces: Vec::new() });
        read.apply(Record::Catalog(Box::new(Change::Truncate { scope: "s".into(), stream: "t".into(), cut: [(SegmentNo::new(599, 599), 0)].into() })));
        let file = Checkpoint::new(mark(), &read).bytes();
        let again = Checkpoint::parse(&file).ok().unwrap().state().unwrap();
        let (stream, segment) = (again.catalog.stream("s", "t").unwrap(), again.segment("a").unwrap());
        assert_eq!((stream.first_epoch, stream.epoch_number(), stream.epochs.len()), (343, 600, 258));
        assert_eq!((segment.attribute(7), segment.attribute(5), segment.attributes.len()), (41, 6, 1));
        assert_eq!(again.catalog.gone["other"], 3, "what a deleted scope had");

        let mut flipped = file.clone();
        flipped[20] ^= 1;
        assert!(matches!(Checkpoint::parse(&flipped), Err(Unread::Damaged)));
        assert!(matches!(Checkpoint::parse(&file[..6]), Err(Unread::Damaged)));
        let mut later = file;
        later[12] = 3;
        let crc = log::crc32c(&later[12..]).to_le_bytes();
        later[8..12].copy_from_slice(&crc);
        let Err(refused @ Unread::Later(3)) = Checkpoint::parse(&later) else { panic!("format 3 is not known") };
        assert!(refused.error("checkpoint-a").to_string().contains("format 3"));
    }
}
