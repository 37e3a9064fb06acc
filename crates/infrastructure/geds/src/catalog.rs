//! Who has what: the facts about objects and the interface to whoever keeps them.
//!
//! Two implementations: [`crate::Namenode`] in the hub and [`crate::RemoteCatalog`] which asks it. Bytes never pass here.
//!
//! An epoch is a number that rises with every seal in the installation, so (key, epoch) and id both name one content for ever.

use crate::{BucketName, Error, Key, Result};
use base::SiteId;
use futures::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc, time::Duration};

/// The most objects and prefixes on a page of a listing.
pub const PAGE_MAX: u32 = 1000;

/// Above the 40 bits of an id that a node counts: all set if the object lay in memory at first, none if it did not.
pub(crate) const IN_MEMORY: u64 = 0xff << 40;

/// One content. Names files on disk and in the persistency tier; written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectId(pub u128);

impl ObjectId {
    /// A new id from the operating system's random source.
    pub fn random() -> Result<ObjectId> {
        let mut bytes = [0u8; 16];
        // SAFETY: the pointer and length are those of `bytes`, which outlives the call.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if got != bytes.len() as isize {
            return Err(Error::File {
                action: "read",
                path: "the system's random source".into(),
                source: std::io::Error::last_os_error(),
            });
        }
        Ok(ObjectId(u128::from_le_bytes(bytes)))
    }

    /// It lay in the memory of a node at first, see `Tier::new_id_in_memory`.
    pub(crate) fn was_in_memory(self) -> bool {
        self.0 & u128::from(IN_MEMORY) == u128::from(IN_MEMORY)
    }
}
impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for ObjectId {
    type Err = Error;
    fn from_str(text: &str) -> Result<ObjectId> {
        let good = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match u128::from_str_radix(text, 16) {
            Ok(id) if good => Ok(ObjectId(id)),
            _ => Err(Error::BadValue {
                what: "object id",
                value: text.chars().take(80).collect(),
                rule: "32 hexadecimal digits in small letters",
            }),
        }
    }
}
impl TryFrom<String> for ObjectId {
    type Error = Error;
    fn try_from(text: String) -> Result<ObjectId> {
        text.parse()
    }
}
impl From<ObjectId> for String {
    fn from(id: ObjectId) -> String {
        id.to_string()
    }
}

/// Whether an object still changes. The catalog knows sealed objects only; an open one is known to its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Open,
    Sealed,
}

/// A site with a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub site: SiteId,
    /// host:port of the site's data port; empty when the site has not told it.
    pub address: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    pub bucket: BucketName,
    pub key: Key,
    pub id: ObjectId,
    pub epoch: u64,
    /// Bytes.
    pub size: u64,
    pub state: State,
    /// xxh3 of the content.
    pub checksum: u64,
    pub sites: Vec<Holder>,
    /// Where it is in the persistency tier.
    pub persisted: Option<String>,
    /// Unix milliseconds of the seal.
    pub created_ms: u64,
}

/// What a seal makes visible.
#[derive(Clone, Debug)]
pub struct NewObject {
    pub id: ObjectId,
    pub size: u64,
    pub checksum: u64,
    pub site: SiteId,
    /// Fail with `AlreadyExists` instead of replacing.
    pub if_absent: bool,
}

/// A seal or a rename, with what it put out of sight: its holders should free it.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub object: ObjectMeta,
    pub replaced: Option<ObjectMeta>,
}

/// Which part of a listing is wanted.
#[derive(Clone, Debug)]
pub struct Page {
    /// `Listing::next` of the page before; empty for the first.
    pub start_after: String,
    /// 1 to [`PAGE_MAX`] objects and prefixes together; more is cut.
    pub limit: u32,
}

impl Default for Page {
    fn default() -> Page {
        Page { start_after: String::new(), limit: PAGE_MAX }
    }
}

/// A page of a listing, in the order of the keys' bytes.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub objects: Vec<ObjectMeta>,
    /// With a delimiter: the folders, each with its delimiter at the end.
    pub prefixes: Vec<String>,
    /// `start_after` of the next page, if there may be more.
    pub next: Option<String>,
}

/// The longest user metadata, in bytes.
pub const METADATA_BYTES_MAX: usize = 16 << 10;

/// What a name carries besides its object; a copy takes it along, a new seal does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// The user's own, at most [`METADATA_BYTES_MAX`].
    pub metadata: Vec<u8>,
    /// Unix milliseconds after which the name is removed; 0: never. The namenode looks four times a second.
    pub expires_ms: u64,
    /// The name goes when this job's lease ends. The lease must be held, see [`Catalog::keep_job`].
    pub job: Option<String>,
}

/// Something of which copies may still lie about, although it has no name any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    pub id: ObjectId,
    /// Where it is in the persistency tier.
    pub location: Option<String>,
}

/// What has happened in a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Happened {
    /// The key means this content now: it was written, or another name of it was moved or copied here.
    Sealed { key: Key, id: ObjectId, epoch: u64, size: u64 },
    Removed { key: Key },
    /// Its user metadata was changed.
    Changed { key: Key },
    /// All under the prefix may be new.
    PrefixSealed { prefix: String },
    PrefixRemoved { prefix: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts the bucket's changes; never skips one.
    pub seq: u64,
    pub what: Happened,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    pub events: Vec<Event>,
    /// Where the next watch goes on.
    pub next: u64,
    /// What lies between is not known any more: list the bucket anew, then watch from `next`.
    pub resync: bool,
}

/// Leave to answer what a key means without asking: which id and epoch, not where the copies lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// How long it holds, from when it was asked for. `None`: until it is revoked, which only a catalog in the same process may promise.
    pub term: Option<Duration>,
}

/// Who keeps leased answers.
///
/// The rule: before a change of a key (replaced, deleted, renamed from or to) is **committed**, the catalog grants no more leases for it and
/// every lease on it is void, because its holder has returned from `revoke` or its term is over. From the commit on it may grant again. A holder uses an
/// answer once and does not keep it if anything that may concern it was revoked since it asked.
pub trait LeaseHolder: Send + Sync + 'static {
    /// From the return on, the key is not answered from here.
    fn revoke(&self, bucket: &BucketName, key: &Key);
    /// The same for all keys.
    fn revoke_all(&self);
}

/// The namenode, near or far.
///
/// A prefix ends at a segment: `foo` means the key `foo` and all below `foo/`, never `foobar`.
pub trait Catalog: Send + Sync + 'static {
    /// Tells where a site's data port is.
    fn announce<'a>(&'a self, site: &'a SiteId, address: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Makes sure that the bucket exists. True: it is new.
    fn create_bucket<'a>(&'a self, bucket: &'a BucketName) -> BoxFuture<'a, Result<bool>>;
    fn buckets(&self) -> BoxFuture<'_, Result<Vec<BucketName>>>;
    /// Makes an object visible, durably. The same id again is the same seal.
    fn seal<'a>(&'a self, bucket: &'a BucketName, key: &'a Key, new: NewObject) -> BoxFuture<'a, Result<Sealed>>;
    fn lookup<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>>;
    /// A lookup that may come with a lease; `None`: the answer must not be kept.
    fn lease<'a>(
        &'a self,
        _holder: &'a Arc<dyn LeaseHolder>,
        bucket: &'a BucketName,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<(ObjectMeta, Option<Lease>)>> {
        async move { Ok((self.lookup(bucket, key).await?, None)) }.boxed()
    }
    /// [`Catalog::lookup`] by this very thread, which waits. `None`: there is no such way now, and nothing was asked.
    fn lookup_blocking(&self, _bucket: &BucketName, _key: &Key) -> Option<Result<ObjectMeta>> {
        None
    }
    /// [`Catalog::lease`] in the same way.
    fn lease_blocking(&self, _holder: &Arc<dyn LeaseHolder>, _bucket: &BucketName, _key: &Key) -> Option<Result<(ObjectMeta, Option<Lease>)>> {
        None
    }
    /// The object with this id, whatever it is called now.
    fn find(&self, id: ObjectId) -> BoxFuture<'_, Result<Option<ObjectMeta>>>;
    /// [`Catalog::find`] of several, at most [`PAGE_MAX`], in their order.
    fn find_all<'a>(&'a self, ids: &'a [ObjectId]) -> BoxFuture<'a, Result<Vec<Option<ObjectMeta>>>> {
        async move {
            let mut found = Vec::with_capacity(ids.len());
            for id in ids {
                found.push(self.find(*id).await?);
            }
            Ok(found)
        }
        .boxed()
    }
    /// The last epoch that was given to an object, so that an older catalog can be told from a newer one; `None`: this one doesn't tell.
    fn epoch(&self) -> BoxFuture<'_, Result<Option<u64>>> {
        async { Ok(None) }.boxed()
    }
    /// What a site is recorded to hold, in an order of the catalog's, from after `start_after`; a page that is empty is the end. What comes to it meanwhile may be missing.
    fn held<'a>(&'a self, site: &'a SiteId, start_after: Option<ObjectId>) -> BoxFuture<'a, Result<Vec<ObjectMeta>>>;
    fn list<'a>(
        &'a self,
        bucket: &'a BucketName,
        prefix: &'a str,
        delimiter: Option<char>,
        page: Page,
    ) -> BoxFuture<'a, Result<Listing>>;
    /// Removes an object and tells what it was.
    fn delete<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>>;
    /// Gives an object another key, in one step; what had that key is replaced.
    fn rename<'a>(&'a self, bucket: &'a BucketName, from: &'a Key, to: &'a Key) -> BoxFuture<'a, Result<Sealed>>;
    /// Records a verified copy in the persistency tier, if the epoch is still the one that was uploaded.
    fn mark_persisted<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a Key,
        epoch: u64,
        location: &'a str,
    ) -> BoxFuture<'a, Result<ObjectMeta>>;
    fn add_holder<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a Key,
        epoch: u64,
        site: &'a SiteId,
    ) -> BoxFuture<'a, Result<ObjectMeta>>;
    /// Takes a copy from the record, before it is freed. Refused for the only copy.
    fn drop_holder<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a Key,
        epoch: u64,
        site: &'a SiteId,
    ) -> BoxFuture<'a, Result<ObjectMeta>>;

    // What only the namenode with a log can. A catalog that can't says so.

    /// [`Catalog::seal`] of a name with attributes.
    fn seal_with<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a Key,
        new: NewObject,
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<Sealed>> {
        match attributes == Attributes::default() {
            true => self.seal(bucket, key, new),
            false => cannot("seal with attributes"),
        }
    }
    fn attributes<'a>(&'a self, _bucket: &'a BucketName, _key: &'a Key) -> BoxFuture<'a, Result<Attributes>> {
        cannot("keep attributes")
    }
    /// [`Catalog::delete`] that also tells whether the content has no other name, so that its copies should be freed.
    fn remove<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<(ObjectMeta, bool)>> {
        async move { Ok((self.delete(bucket, key).await?, true)) }.boxed()
    }
    /// [`Catalog::rename`], also into another bucket; with `if_absent` it fails with `AlreadyExists` if the key is taken.
    fn rename_to<'a>(
        &'a self,
        _bucket: &'a BucketName,
        _from: &'a Key,
        _to_bucket: &'a BucketName,
        _to: &'a Key,
        _if_absent: bool,
    ) -> BoxFuture<'a, Result<Sealed>> {
        cannot("rename between buckets")
    }
    /// Gives a content another name. No data moves; it goes when its last name goes.
    fn copy<'a>(
        &'a self,
        _bucket: &'a BucketName,
        _from: &'a Key,
        _to_bucket: &'a BucketName,
        _to: &'a Key,
        _if_absent: bool,
    ) -> BoxFuture<'a, Result<Sealed>> {
        cannot("copy")
    }
    /// Removes all names under a prefix in one step. Objects and bytes of them; their copies become [`Garbage`].
    fn remove_prefix<'a>(&'a self, _bucket: &'a BucketName, _prefix: &'a str) -> BoxFuture<'a, Result<(u64, u64)>> {
        cannot("remove a prefix")
    }
    /// Moves all names under a prefix in one step; what had their new names is replaced and becomes [`Garbage`]. With `if_absent` it fails with `AlreadyExists` if anything has a name at `to` or
    /// below it, and nothing is changed.
    fn rename_prefix<'a>(
        &'a self,
        _bucket: &'a BucketName,
        _from: &'a str,
        _to_bucket: &'a BucketName,
        _to: &'a str,
        _if_absent: bool,
    ) -> BoxFuture<'a, Result<(u64, u64)>> {
        cannot("rename a prefix")
    }
    fn copy_prefix<'a>(
        &'a self,
        _bucket: &'a BucketName,
        _from: &'a str,
        _to_bucket: &'a BucketName,
        _to: &'a str,
    ) -> BoxFuture<'a, Result<(u64, u64)>> {
        cannot("copy a prefix")
    }
    fn set_metadata<'a>(&'a self, _bucket: &'a BucketName, _key: &'a Key, _metadata: Vec<u8>) -> BoxFuture<'a, Result<()>> {
        cannot("keep user metadata")
    }
    /// Sets when a name expires, in Unix milliseconds; 0: never.
    fn touch<'a>(&'a self, _bucket: &'a BucketName, _key: &'a Key, _expires_ms: u64) -> BoxFuture<'a, Result<()>> {
        cannot("let objects expire")
    }
    /// Begins or extends a job's lease on the objects that are sealed for it; 0: until it is dropped.
    fn keep_job<'a>(&'a self, _job: &'a str, _until_ms: u64) -> BoxFuture<'a, Result<()>> {
        cannot("lease objects to jobs")
    }
    /// Ends a job's lease: its objects go, in one step.
    fn drop_job<'a>(&'a self, _job: &'a str) -> BoxFuture<'a, Result<(u64, u64)>> {
        cannot("lease objects to jobs")
    }
    /// Puts a bucket on a tenant's account.
    fn set_tenant<'a>(&'a self, _bucket: &'a BucketName, _tenant: &'a str) -> BoxFuture<'a, Result<()>> {
        cannot("keep accounts")
    }
    /// Limits what a tenant's buckets may have together; `u64::MAX`: no limit. What is there stays.
    fn set_quota<'a>(&'a self, _tenant: &'a str, _objects_max: u64, _bytes_max: u64) -> BoxFuture<'a, Result<()>> {
        cannot("keep accounts")
    }
    /// A page, by id, of what this site should free and then acknowledge; without a site, of what should leave the persistency tier.
    fn garbage<'a>(&'a self, _site: Option<&'a SiteId>, _start_after: Option<ObjectId>) -> BoxFuture<'a, Result<Vec<Garbage>>> {
        async { Ok(Vec::new()) }.boxed()
    }
    /// A site has lost its copy: it is taken from the record, and if it was the only one, the name goes too. False: the content has another name, which is
    /// to be asked for next.
    fn lose<'a>(&'a self, _bucket: &'a BucketName, _key: &'a Key, _epoch: u64, _site: &'a SiteId) -> BoxFuture<'a, Result<bool>> {
        cannot("forget what is lost")
    }
    fn collected<'a>(&'a self, _site: Option<&'a SiteId>, _ids: &'a [ObjectId]) -> BoxFuture<'a, Result<()>> {
        cannot("collect garbage")
    }
    /// What of these is not sealed by now never will be: a seal on its way, whose site has stopped waiting for it, is refused. So what [`Catalog::find`] says of them afterwards is final.
    fn give_up<'a>(&'a self, _ids: &'a [ObjectId]) -> BoxFuture<'a, Result<()>> {
        cannot("give up seals")
    }
    /// Sites that could hold another copy of a content that is at this site: who is there, best first.
    fn partners<'a>(&'a self, _id: ObjectId, _site: &'a SiteId) -> BoxFuture<'a, Result<Vec<Holder>>> {
        cannot("tell who is there")
    }
    /// The sites that are there, with their addresses: at most a thousand.
    fn sites(&self) -> BoxFuture<'_, Result<Vec<Holder>>> {
        async { Ok(Vec::new()) }.boxed()
    }
    /// The jobs that hold leases on objects.
    fn jobs(&self) -> BoxFuture<'_, Result<Vec<String>>> {
        cannot("jobs")
    }
    /// The clock by which names and leases of jobs end, in Unix milliseconds. Others may go otherwise.
    fn now_ms(&self) -> BoxFuture<'_, Result<u64>> {
        async { Ok(base::clock::now_ms()) }.boxed()
    }
    /// What has happened in a bucket after a number; waits this long for something to happen. [`u64::MAX`]: says where the bucket is now.
    fn watch<'a>(&'a self, _bucket: &'a BucketName, _after: u64, _wait: Duration) -> BoxFuture<'a, Result<Watched>> {
        cannot("watch")
    }
}

fn cannot<'a, T>(what: &str) -> BoxFuture<'a, Result<T>> {
    let message = format!("this catalog can't {what}");
    async move { Err(Error::Remote { kind: base::Kind::Unimplemented, message }) }.boxed()
}
