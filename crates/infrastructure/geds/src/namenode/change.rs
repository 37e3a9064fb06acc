//! The namenode's commands: what can be asked to be changed, and what comes of it.
//!
//! They are what the log holds and what travels, so variants and fields are only ever added at the end. What a command does is in `state.rs`; here is only what can be refused without looking at
//! any state.

use crate::{
    BucketName, Error, Key, Mode, ObjectMeta, Result,
    catalog::METADATA_BYTES_MAX,
    names::Prefix,
};
use base::SiteId;
use serde::{Deserialize, Serialize};

/// The longest place in the persistency tier and the longest name of a job or tenant, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// Ids in one command.
const IDS_MAX: usize = 10_000;

/// What can be asked to be changed. Written to the log as it is: variants and fields are only ever added at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    CreateBucket { bucket: BucketName },
    SetMode { bucket: BucketName, mode: Mode },
    /// Puts a bucket's objects on a tenant's account.
    SetTenant { bucket: BucketName, tenant: String },
    /// `u64::MAX`: no limit.
    SetQuota { tenant: String, objects_max: u64, bytes_max: u64 },
    Announce { site: SiteId, address: String },
    Seal(Seal),
    Remove { bucket: BucketName, key: Key },
    RemovePrefix { bucket: BucketName, prefix: String },
    Rename { bucket: BucketName, from: Key, to_bucket: BucketName, to: Key, if_absent: bool },
    RenamePrefix { bucket: BucketName, from: String, to_bucket: BucketName, to: String },
    Copy { bucket: BucketName, from: Key, to_bucket: BucketName, to: Key, if_absent: bool },
    CopyPrefix { bucket: BucketName, from: String, to_bucket: BucketName, to: String },
    MarkPersisted { bucket: BucketName, key: Key, epoch: u64, location: String },
    AddHolder { bucket: BucketName, key: Key, epoch: u64, site: SiteId },
    DropHolder { bucket: BucketName, key: Key, epoch: u64, site: SiteId },
    SetMetadata { bucket: BucketName, key: Key, metadata: Vec<u8> },
    /// 0: lives until it is deleted.
    Touch { bucket: BucketName, key: Key, expires_ms: u64 },
    /// Begins or extends a job's lease on its objects; 0: until it is dropped.
    KeepJob { job: String, until_ms: u64 },
    DropJob { job: String },
    /// Removes those of these names whose time is over.
    Expire { names: Vec<(BucketName, Key)> },
    /// A site has freed its copies of what is gone; no site: they are out of the persistency tier.
    Collected { site: Option<SiteId>, ids: Vec<u128> },
    /// From now on leases may be out there when this process ends.
    Leasing,
    /// An object of an older catalog, with its epoch and holders.
    Import(Box<Import>),
    /// A site's copy is lost; if it was the only one, the name goes.
    Lose { bucket: BucketName, key: Key, epoch: u64, site: SiteId },
    /// What of these is not sealed by now never will be.
    GiveUp { ids: Vec<u128> },
    /// `RenamePrefix`, if nothing has a name at `to` or below it.
    RenamePrefixNew { bucket: BucketName, from: String, to_bucket: BucketName, to: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seal {
    pub bucket: BucketName,
    pub key: Key,
    pub id: u128,
    /// Bytes.
    pub size: u64,
    pub checksum: u64,
    pub site: SiteId,
    pub if_absent: bool,
    pub metadata: Vec<u8>,
    /// Unix milliseconds; 0: never.
    pub expires_ms: u64,
    pub job: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Import {
    pub bucket: BucketName,
    pub key: Key,
    pub id: u128,
    pub epoch: u64,
    pub size: u64,
    pub checksum: u64,
    pub sites: Vec<SiteId>,
    pub persisted: Option<String>,
    pub created_ms: u64,
}

/// Which request asks for a change. Its answer may get lost, and a change of names that was done must not be done again to what others have put there meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Once {
    /// Random: the same in each try.
    pub request: u128,
    /// Milliseconds since the first try, and as long as this one may be on its way; 0: this is the first.
    pub since_ms: u64,
}

/// What came of a change. Kept with the state for a while, see `answers.rs`: variants and fields are only ever added at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    /// Whether it is new.
    Created(bool),
    Object(ObjectMeta),
    /// `replaced`: what has no name any more.
    Sealed { object: ObjectMeta, replaced: Option<ObjectMeta> },
    /// `last`: its content has no other name; of what was lost: nothing is recorded of it any more.
    Removed { object: ObjectMeta, last: bool },
    Counted { objects: u64, bytes: u64 },
}

/// Where each key of one prefix goes under another.
pub(super) struct Moving {
    pub from: Prefix,
    to: Prefix,
    to_text: String,
}

impl Moving {
    pub fn new(from: &str, to: &str) -> Result<Moving> {
        Ok(Moving { from: Prefix::new(from)?, to: Prefix::new(to)?, to_text: to.into() })
    }

    pub fn target(&self, key: &str) -> Result<Key> {
        match key.strip_prefix(&self.from.below) {
            Some(rest) => Key::new(format!("{}{rest}", self.to.below)),
            // The prefix itself is a key.
            None => Key::new(self.to_text.clone()),
        }
    }
}

impl Change {
    /// The object that it is about, where it is about one.
    pub fn about(&self) -> Option<(&BucketName, &Key)> {
        match self {
            Change::Seal(seal) => Some((&seal.bucket, &seal.key)),
            Change::Import(import) => Some((&import.bucket, &import.key)),
            Change::Rename { bucket, from: key, .. }
            | Change::Copy { bucket, from: key, .. }
            | Change::Remove { bucket, key }
            | Change::MarkPersisted { bucket, key, .. }
            | Change::AddHolder { bucket, key, .. }
            | Change::DropHolder { bucket, key, .. }
            | Change::SetMetadata { bucket, key, .. }
            | Change::Touch { bucket, key, .. }
            | Change::Lose { bucket, key, .. } => Some((bucket, key)),
            _ => None,
        }
    }

    /// Whether it may mean something else when it is done again. The others name an id or an epoch, or set what they set before.
    pub fn is_for_once(&self) -> bool {
        match self {
            Change::Remove { .. }
            | Change::RemovePrefix { .. }
            | Change::Rename { .. }
            | Change::RenamePrefix { .. }
            | Change::RenamePrefixNew { .. }
            | Change::Copy { .. }
            | Change::CopyPrefix { .. }
            | Change::SetMetadata { .. }
            | Change::Touch { .. }
            | Change::KeepJob { .. }
            | Change::DropJob { .. } => true,
            Change::CreateBucket { .. }
            | Change::SetMode { .. }
            | Change::SetTenant { .. }
            | Change::SetQuota { .. }
            | Change::Announce { .. }
            | Change::Seal(_)
            | Change::MarkPersisted { .. }
            | Change::AddHolder { .. }
            | Change::DropHolder { .. }
            | Change::Expire { .. }
            | Change::Collected { .. }
            | Change::Leasing
            | Change::Import(_)
            | Change::Lose { .. }
            | Change::GiveUp { .. } => false,
        }
    }

    /// About how many bytes it takes while it waits.
    pub fn weight(&self) -> usize {
        let more = match self {
            Change::Seal(seal) => seal.key.as_str().len() + seal.metadata.len(),
            Change::SetMetadata { metadata, .. } => metadata.len(),
            Change::Expire { names } => names.iter().map(|(bucket, key)| 64 + bucket.as_str().len() + key.as_str().len()).sum(),
            Change::Collected { ids, .. } | Change::GiveUp { ids } => ids.len() * size_of::<u128>(),
            Change::RenamePrefix { from, to, .. } | Change::RenamePrefixNew { from, to, .. } | Change::CopyPrefix { from, to, .. } => from.len() + to.len(),
            _ => TEXT_BYTES_MAX,
        };
        more + 512
    }

    /// Refuses what is too long to be written to the log, whatever the state would say to it.
    pub fn check(&self) -> Result<()> {
        match self {
            Change::Seal(seal) => {
                check_metadata(&seal.metadata)?;
                seal.job.as_deref().map_or(Ok(()), |job| bounded("job", job))
            }
            Change::SetMetadata { metadata, .. } => check_metadata(metadata),
            Change::MarkPersisted { location, .. } => bounded("place in the persistency tier", location),
            Change::Announce { address, .. } => bounded("address", address),
            Change::SetTenant { tenant, .. } | Change::SetQuota { tenant, .. } => bounded("tenant", tenant),
            Change::KeepJob { job, .. } | Change::DropJob { job } => bounded("job", job),
            Change::RemovePrefix { prefix, .. } => Prefix::new(prefix).map(|_| ()),
            Change::RenamePrefix { from, to, .. } | Change::RenamePrefixNew { from, to, .. } | Change::CopyPrefix { from, to, .. } => Moving::new(from, to).map(|_| ()),
            Change::Collected { ids, .. } | Change::GiveUp { ids } if ids.len() > IDS_MAX => {
                Err(Error::BadValue { what: "number of ids", value: ids.len().to_string(), rule: "tell of at most 10000 at a time" })
            }
            _ => Ok(()),
        }
    }
}

fn check_metadata(metadata: &[u8]) -> Result<()> {
    if metadata.len() <= METADATA_BYTES_MAX {
        return Ok(());
    }
    let value = format!("{} bytes", metadata.len());
    Err(Error::BadValue { what: "user metadata", value, rule: "it has at most 16384 bytes; put more into an object" })
}

pub(super) fn bounded(what: &'static str, text: &str) -> Result<()> {
    if text.len() <= TEXT_BYTES_MAX && !text.contains('\0') {
        return Ok(());
    }
    let value = text.chars().take(80).collect();
    Err(Error::BadValue { what, value, rule: "use at most 1024 bytes without NUL" })
}
