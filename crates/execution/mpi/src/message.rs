//! A message between two ranks of a job, as it waits, travels and is kept until it is acknowledged.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A rank's number in its job's `MPI_COMM_WORLD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rank(pub u32);

impl Rank {
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Kind {
    Data = 0,
    /// Wants a `Matched` back when a receive has taken it (`MPI_Ssend`); `token` names the sender's request.
    Synchronous = 1,
    Matched = 2,
    /// Of a window: what it says is in its bytes (`window::Note`).
    OneSided = 3,
    /// Of a file (`file::Note`).
    File = 4,
}

/// Everything about a message but its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub src: Rank,
    pub dst: Rank,
    /// Position in the sequence of all messages from `src` to `dst`, from 0 on.
    pub seq: u64,
    pub context: u32,
    pub tag: i32,
    pub kind: Kind,
    /// The sender's request that waits for `Matched`.
    pub token: u32,
}

/// A message with its packed bytes, shared between the mailbox and the sender's list of what is not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub header: Header,
    #[serde(with = "shared")]
    pub data: Arc<[u8]>,
}

mod shared {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    pub fn serialize<S: Serializer>(data: &Arc<[u8]>, s: S) -> Result<S::Ok, S::Error> {
        data.as_ref().serialize(s)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Arc<[u8]>, D::Error> {
        Ok(Vec::<u8>::deserialize(d)?.into())
    }
}
