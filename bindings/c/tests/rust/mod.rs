//! The doors of Rust: `Node`, which is awaited; `Blocking`, for threads; `Attached`, through an agent.

use crate::scenarios::{Door, Given, bytes, compared, kind, large, place, text};
use base::{SiteId, unit::Bytes as Size};
use geds::{
    Appendable, Attached, AttachedAppendable, AttachedFollower, Attributes, BucketName, Error, Follower, Grown, Happened, Key, Lent, Listing, Node, Object, ObjectMeta, Page, Persist, Range, Result, Shared, SharedOptions, Watched,
};
use std::{
    collections::HashMap,
    future::Future,
    path::Path,
    time::{Duration, Instant},
};

const MINUTE: Duration = Duration::from_secs(60);

/// What the three have in common, so that the steps are written once.
trait Calls {
    type Object: AsRef<[u8]>;
    type Growing;
    type Follower;
    fn create_bucket(&self, bucket: &BucketName) -> Result<bool>;
    /// `here`: for this process only.
    fn put(&self, bucket: &BucketName, key: &Key, pieces: &[(u64, Vec<u8>)], new: bool, here: bool, attributes: Attributes, seal: bool) -> Result<()>;
    fn open(&self, bucket: &BucketName, key: &Key) -> Result<Self::Object>;
    fn read(&self, bucket: &BucketName, key: &Key, range: Range) -> Result<Vec<u8>>;
    fn stat(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta>;
    fn attributes(&self, bucket: &BucketName, key: &Key) -> Result<Attributes>;
    fn list(&self, bucket: &BucketName, prefix: &str, delimiter: Option<char>, page: Page) -> Result<Listing>;
    fn delete(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta>;
    fn rename(&self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, new: bool) -> Result<ObjectMeta>;
    fn copy(&self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, new: bool) -> Result<ObjectMeta>;
    fn delete_prefix(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)>;
    fn rename_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str, new: bool) -> Result<(u64, u64)>;
    fn copy_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str) -> Result<(u64, u64)>;
    fn keep_job(&self, job: &str) -> Result<()>;
    fn drop_job(&self, job: &str) -> Result<(u64, u64)>;
    fn settle(&self) -> Result<()>;
    fn flush(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)>;
    fn wait_durable(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta>;
    fn spill(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)>;
    fn watch(&self, bucket: &BucketName, after: u64) -> Result<Watched>;
    fn list_growing(&self, bucket: &BucketName, prefix: &str) -> Result<Vec<(Key, u64)>>;
    fn growing(&self, bucket: &BucketName, key: &Key, begin: bool) -> Result<Option<Self::Growing>>;
    fn append(&self, growing: &Self::Growing, offset: u64, data: Vec<u8>) -> Result<u64>;
    fn read_growing(&self, growing: &Self::Growing, offset: u64, len: u64) -> Result<Vec<u8>>;
    fn sync(&self, growing: &Self::Growing) -> Result<()>;
    fn seal(&self, growing: &Self::Growing) -> Result<ObjectMeta>;
    fn discard(&self, growing: &Self::Growing) -> Result<()>;
    fn follow(&self, bucket: &BucketName, key: &Key) -> Result<Self::Follower>;
    fn followed(&self, follower: &Self::Follower, offset: u64, len: u64) -> Result<Grown>;
}

/// A door with what it has open.
struct Steps<C: Calls> {
    calls: C,
    held: HashMap<String, C::Object>,
    followers: HashMap<String, C::Follower>,
}

impl<C: Calls> Door for Steps<C> {
    fn begin(&mut self, bucket: &str, second: &str) {
        self.held.clear();
        self.followers.clear();
        for bucket in [bucket, second] {
            self.calls.create_bucket(&BucketName::new(bucket).unwrap()).unwrap();
        }
    }

    fn does(&mut self, bucket: &str, words: &[&str]) -> Given {
        self.step(bucket, words).map_err(|e| kind(e.kind()))
    }
}

impl<C: Calls> Steps<C> {
    fn step(&mut self, bucket: &str, words: &[&str]) -> Result<String> {
        let calls = &self.calls;
        let at = |word: &str| -> Result<(BucketName, Key)> {
            let (bucket, key) = place(bucket, word);
            Ok((BucketName::new(bucket)?, Key::new(key)?))
        };
        let all_at = |word: &str| -> Result<(BucketName, String)> {
            let (bucket, prefix) = place(bucket, word);
            Ok((BucketName::new(bucket)?, prefix.to_string()))
        };
        let number = |word: &str| -> u64 { word.parse().expect("a number") };
        let done = |result: Result<ObjectMeta>| result.map(|_| String::new());
        let counted = |(objects, bytes): (u64, u64)| format!("{objects} {bytes}");
        let own = BucketName::new(bucket)?;
        let put = |key: &str, pieces: Vec<(u64, Vec<u8>)>, attributes: Attributes| -> Result<String> {
            let (bucket, key) = at(key)?;
            calls.put(&bucket, &key, &pieces, words[0] == "put-new", words[0] == "put-here", attributes, words[0] != "abandon").map(|()| String::new())
        };
        match *words {
            ["put" | "put-new" | "put-here" | "abandon", key, content] => put(key, vec![(0, bytes(content))], Attributes::default()),
            ["put-at", key, ref pieces @ ..] => put(key, pieces.chunks(2).map(|piece| (number(piece[0]), bytes(piece[1]))).collect(), Attributes::default()),
            ["put-with", key, content, metadata] => put(key, vec![(0, bytes(content))], Attributes { metadata: bytes(metadata), ..Attributes::default() }),
            ["put-for", key, content, job] => put(key, vec![(0, bytes(content))], Attributes { job: Some(job.into()), ..Attributes::default() }),
            ["put-ms", key, content, ms] => {
                put(key, vec![(0, bytes(content))], Attributes { expires_ms: base::clock::now_ms() + number(ms), ..Attributes::default() })
            }
            ["put-large", key, len] => put(key, vec![(0, large(number(len)))], Attributes::default()),
            ["get", key] => at(key).and_then(|(bucket, key)| Ok(text(calls.open(&bucket, &key)?.as_ref()))),
            ["get-large", key] => at(key).and_then(|(bucket, key)| Ok(compared(calls.open(&bucket, &key)?.as_ref()))),
            ["hold", name, key] => {
                let (bucket, key) = at(key)?;
                self.held.insert(name.into(), calls.open(&bucket, &key)?);
                Ok(String::new())
            }
            ["held", name] => Ok(text(self.held[name].as_ref())),
            ["size", key] => at(key).and_then(|(bucket, key)| Ok(calls.stat(&bucket, &key)?.size.to_string())),
            ["metadata", key] => at(key).and_then(|(bucket, key)| Ok(text(&calls.attributes(&bucket, &key)?.metadata))),
            ["read", key, offset, len] => {
                let (bucket, key) = at(key)?;
                Ok(text(&calls.read(&bucket, &key, Range { offset: number(offset), len: number(len) })?))
            }
            ["list" | "folders", prefix] => {
                let (bucket, prefix) = all_at(prefix)?;
                let listing = calls.list(&bucket, &prefix, (words[0] == "folders").then_some('/'), Page::default())?;
                let mut names: Vec<String> = listing.objects.into_iter().map(|meta| meta.key.into()).chain(listing.prefixes).collect();
                names.sort();
                Ok(names.join(" "))
            }
            ["delete", key] => at(key).and_then(|(bucket, key)| done(calls.delete(&bucket, &key))),
            ["rename" | "rename-new", from, to] => {
                let ((bucket, from), (to_bucket, to)) = (at(from)?, at(to)?);
                done(calls.rename(&bucket, &from, &to_bucket, &to, words[0] == "rename-new"))
            }
            ["copy" | "copy-new", from, to] => {
                let ((bucket, from), (to_bucket, to)) = (at(from)?, at(to)?);
                done(calls.copy(&bucket, &from, &to_bucket, &to, words[0] == "copy-new"))
            }
            ["delete-all", prefix] => all_at(prefix).and_then(|(bucket, prefix)| calls.delete_prefix(&bucket, &prefix)).map(counted),
            ["rename-all" | "rename-all-new", from, to] => {
                let ((bucket, from), (to_bucket, to)) = (all_at(from)?, all_at(to)?);
                calls.rename_prefix(&bucket, &from, &to_bucket, &to, words[0] == "rename-all-new").map(counted)
            }
            ["copy-all", from, to] => {
                let ((bucket, from), (to_bucket, to)) = (all_at(from)?, all_at(to)?);
                calls.copy_prefix(&bucket, &from, &to_bucket, &to).map(counted)
            }
            ["job", job] => calls.keep_job(job).map(|()| String::new()),
            ["end-job", job] => calls.drop_job(job).map(counted),
            ["gone", key] => {
                let (bucket, key) = at(key)?;
                let end = Instant::now() + MINUTE;
                loop {
                    match calls.stat(&bucket, &key) {
                        Err(Error::NotFound { .. }) => return Ok(String::new()),
                        Err(e) if e.kind() == base::Kind::NotFound => return Ok(String::new()),
                        answer => assert!(answer.is_ok() && Instant::now() < end, "it never went: {answer:?}"),
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            ["settle"] => calls.settle().map(|()| String::new()),
            ["flush", prefix] => calls.flush(&own, prefix).map(counted),
            ["durable", key] => at(key).and_then(|(bucket, key)| done(calls.wait_durable(&bucket, &key))),
            ["spill", prefix] => calls.spill(&own, prefix).map(counted),
            ["watch", token] => {
                let watched = calls.watch(&own, if token == "far" { 1 << 30 } else { number(token) })?;
                if watched.resync {
                    return Ok("resync".into());
                }
                let told = watched.events.into_iter().map(|event| match event.what {
                    Happened::Sealed { key, .. } => format!("sealed:{key}"),
                    Happened::Removed { key } => format!("removed:{key}"),
                    Happened::Changed { key } => format!("changed:{key}"),
                    Happened::PrefixSealed { prefix } => format!("prefix-sealed:{prefix}"),
                    Happened::PrefixRemoved { prefix } => format!("prefix-removed:{prefix}"),
                });
                Ok(told.collect::<Vec<_>>().join(" "))
            }
            ["follow", name, key] => {
                let follower = calls.follow(&own, &Key::new(key)?)?;
                self.followers.insert(name.into(), follower);
                Ok(String::new())
            }
            ["followed", name, offset, len] => {
                let grown = calls.followed(&self.followers[name], number(offset), number(len))?;
                assert!(grown.sealed || !grown.bytes.is_empty(), "nothing came");
                Ok(text(&grown.bytes))
            }
            ["growing", prefix] => Ok(calls.list_growing(&own, prefix)?.into_iter().map(|(key, _)| key.into()).collect::<Vec<String>>().join(" ")),
            ["append" | "grown" | "sync" | "seal" | "discard", name, ref rest @ ..] => {
                let key = Key::new(name)?;
                let growing = calls.growing(&own, &key, words[0] == "append")?.ok_or_else(|| Error::NotFound { bucket: bucket.into(), key: name.into() })?;
                match (words[0], rest) {
                    ("append", [offset, content]) => calls.append(&growing, number(offset), bytes(content)).map(|len| len.to_string()),
                    ("grown", [offset, len]) => Ok(text(&calls.read_growing(&growing, number(offset), number(len))?)),
                    ("sync", _) => calls.sync(&growing).map(|()| String::new()),
                    ("seal", _) => done(calls.seal(&growing)),
                    _ => calls.discard(&growing).map(|()| String::new()),
                }
            }
            _ => panic!("{words:?} is no step"),
        }
    }
}

/// The bodies that `Blocking` and `Attached` share, because their calls have the same names.
macro_rules! same_calls {
    () => {
        fn create_bucket(&self, bucket: &BucketName) -> Result<bool> {
            self.door.create_bucket(bucket)
        }
        fn put(&self, bucket: &BucketName, key: &Key, pieces: &[(u64, Vec<u8>)], new: bool, here: bool, attributes: Attributes, seal: bool) -> Result<()> {
            let mut writer = if new { self.door.create_new(bucket, key)? } else { self.door.create(bucket, key)? };
            for (offset, content) in pieces {
                writer.write_at(*offset, content)?;
            }
            writer.set_metadata(attributes.metadata);
            if attributes.expires_ms > 0 {
                writer.expire_after(Duration::from_millis(attributes.expires_ms - base::clock::now_ms()));
            }
            if let Some(job) = attributes.job {
                writer.lease_to(job);
            }
            match (seal, here) {
                (false, _) => Ok(writer.abort()),
                (true, true) => writer.seal_here().map(|_| ()),
                (true, false) => self.seal_writer(writer),
            }
        }
        fn stat(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
            self.door.stat(bucket, key)
        }
        fn attributes(&self, bucket: &BucketName, key: &Key) -> Result<Attributes> {
            self.door.attributes(bucket, key)
        }
        fn read(&self, bucket: &BucketName, key: &Key, range: Range) -> Result<Vec<u8>> {
            self.door.read_range(bucket, key, range).map(|(_, bytes)| bytes.into())
        }
        fn list(&self, bucket: &BucketName, prefix: &str, delimiter: Option<char>, page: Page) -> Result<Listing> {
            self.door.list(bucket, prefix, delimiter, page)
        }
        fn delete(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
            self.door.delete(bucket, key)
        }
        fn rename(&self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, new: bool) -> Result<ObjectMeta> {
            if bucket == to_bucket && !new { self.door.rename(bucket, from, to) } else { self.door.rename_to(bucket, from, to_bucket, to, new) }
        }
        fn copy(&self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, new: bool) -> Result<ObjectMeta> {
            self.door.copy(bucket, from, to_bucket, to, new)
        }
        fn delete_prefix(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
            self.door.delete_prefix(bucket, prefix)
        }
        fn rename_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str, new: bool) -> Result<(u64, u64)> {
            self.door.rename_prefix(bucket, from, to_bucket, to, new)
        }
        fn copy_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str) -> Result<(u64, u64)> {
            self.door.copy_prefix(bucket, from, to_bucket, to)
        }
        fn keep_job(&self, job: &str) -> Result<()> {
            self.door.keep_job(job, None)
        }
        fn drop_job(&self, job: &str) -> Result<(u64, u64)> {
            self.door.drop_job(job)
        }
        fn flush(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
            self.door.flush(bucket, prefix, MINUTE)
        }
        fn wait_durable(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
            self.door.wait_durable(bucket, key, MINUTE)
        }
        fn spill(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
            self.door.spill(bucket, prefix)
        }
        fn watch(&self, bucket: &BucketName, after: u64) -> Result<Watched> {
            self.door.watch(bucket, after, Duration::ZERO)
        }
        fn growing(&self, bucket: &BucketName, key: &Key, begin: bool) -> Result<Option<Self::Growing>> {
            if begin { self.door.appendable(bucket, key).map(Some) } else { self.door.growing(bucket, key) }
        }
        fn follow(&self, bucket: &BucketName, key: &Key) -> Result<Self::Follower> {
            self.door.follow(bucket, key)
        }
    };
}

struct OnThreads {
    door: geds::Blocking,
}

impl OnThreads {
    fn seal_writer(&self, writer: geds::Writer) -> Result<()> {
        self.door.seal(writer).map(|_| ())
    }
}

impl Calls for OnThreads {
    type Object = Object;
    type Growing = Appendable;
    type Follower = Follower;
    same_calls!();
    fn open(&self, bucket: &BucketName, key: &Key) -> Result<Object> {
        self.door.open(bucket, key)
    }
    fn settle(&self) -> Result<()> {
        self.door.settle();
        Ok(())
    }
    fn list_growing(&self, bucket: &BucketName, prefix: &str) -> Result<Vec<(Key, u64)>> {
        self.door.node().list_growing(bucket, prefix, "")
    }
    fn append(&self, growing: &Appendable, offset: u64, data: Vec<u8>) -> Result<u64> {
        growing.append_blocking(offset, &data)
    }
    fn read_growing(&self, growing: &Appendable, offset: u64, len: u64) -> Result<Vec<u8>> {
        self.door.read_growing(growing, offset, len).map(Into::into)
    }
    fn sync(&self, growing: &Appendable) -> Result<()> {
        self.door.sync_growing(growing)
    }
    fn seal(&self, growing: &Appendable) -> Result<ObjectMeta> {
        self.door.seal_growing(growing)
    }
    fn discard(&self, growing: &Appendable) -> Result<()> {
        self.door.discard_growing(growing)
    }
    fn followed(&self, follower: &Follower, offset: u64, len: u64) -> Result<Grown> {
        self.door.read_followed(follower, offset, len, MINUTE)
    }
}

struct Through {
    door: Attached,
}

impl Through {
    fn seal_writer(&self, writer: geds::AttachedWriter) -> Result<()> {
        writer.seal().map(|_| ())
    }
}

impl Calls for Through {
    type Object = Lent;
    type Growing = AttachedAppendable;
    type Follower = AttachedFollower;
    same_calls!();
    fn open(&self, bucket: &BucketName, key: &Key) -> Result<Lent> {
        self.door.open_object(bucket, key)
    }
    fn settle(&self) -> Result<()> {
        self.door.settle()
    }
    fn list_growing(&self, bucket: &BucketName, prefix: &str) -> Result<Vec<(Key, u64)>> {
        self.door.list_growing(bucket, prefix, "")
    }
    fn append(&self, growing: &AttachedAppendable, offset: u64, data: Vec<u8>) -> Result<u64> {
        growing.append(offset, &data)
    }
    fn read_growing(&self, growing: &AttachedAppendable, offset: u64, len: u64) -> Result<Vec<u8>> {
        growing.read(offset, len)
    }
    fn sync(&self, growing: &AttachedAppendable) -> Result<()> {
        growing.sync()
    }
    fn seal(&self, growing: &AttachedAppendable) -> Result<ObjectMeta> {
        growing.seal()
    }
    fn discard(&self, growing: &AttachedAppendable) -> Result<()> {
        growing.discard()
    }
    fn followed(&self, follower: &AttachedFollower, offset: u64, len: u64) -> Result<Grown> {
        follower.read(offset, len, MINUTE)
    }
}

/// Awaits each call of a node.
struct Awaited {
    node: Node,
    runtime: tokio::runtime::Runtime,
}

impl Awaited {
    fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }
}

impl Calls for Awaited {
    type Object = Object;
    type Growing = Appendable;
    type Follower = Follower;
    fn create_bucket(&self, bucket: &BucketName) -> Result<bool> {
        self.wait(self.node.create_bucket(bucket))
    }
    fn put(&self, bucket: &BucketName, key: &Key, pieces: &[(u64, Vec<u8>)], new: bool, here: bool, attributes: Attributes, seal: bool) -> Result<()> {
        self.wait(async {
            let mut writer = if new { self.node.create_new(bucket, key).await? } else { self.node.create(bucket, key).await? };
            for (offset, content) in pieces {
                writer.room(offset + content.len() as u64).await?;
                writer.write_at(*offset, content)?;
            }
            writer.set_metadata(attributes.metadata);
            if attributes.expires_ms > 0 {
                writer.expire_after(Duration::from_millis(attributes.expires_ms - base::clock::now_ms()));
            }
            if let Some(job) = attributes.job {
                writer.lease_to(job);
            }
            match (seal, here) {
                (false, _) => Ok(writer.abort()),
                (true, true) => writer.seal_here().map(|_| ()),
                (true, false) => writer.seal().await.map(|_| ()),
            }
        })
    }
    fn open(&self, bucket: &BucketName, key: &Key) -> Result<Object> {
        self.wait(self.node.open_object(bucket, key))
    }
    fn read(&self, bucket: &BucketName, key: &Key, range: Range) -> Result<Vec<u8>> {
        self.wait(self.node.read_range(bucket, key, range)).map(|(_, bytes)| bytes.into())
    }
    fn stat(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        self.wait(self.node.stat(bucket, key))
    }
    fn attributes(&self, bucket: &BucketName, key: &Key) -> Result<Attributes> {
        self.wait(self.node.attributes(bucket, key))
    }
    fn list(&self, bucket: &BucketName, prefix: &str, delimiter: Option<char>, page: Page) -> Result<Listing> {
        self.wait(self.node.list(bucket, prefix, delimiter, page))
    }
    fn delete(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        self.wait(self.node.delete(bucket, key))
    }
    fn rename(&self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, new: bool) -> Result<ObjectMeta> {
        self.wait(async { if bucket == to_bucket && !new { self.node.rename(bucket, from, to).await } else { self.node.rename_to(bucket, from, to_bucket, to, new).await } })
    }
    fn copy(&self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, new: bool) -> Result<ObjectMeta> {
        self.wait(self.node.copy_object(bucket, from, to_bucket, to, new))
    }
    fn delete_prefix(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        self.wait(self.node.delete_prefix(bucket, prefix))
    }
    fn rename_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str, new: bool) -> Result<(u64, u64)> {
        self.wait(self.node.rename_prefix(bucket, from, to_bucket, to, new))
    }
    fn copy_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str) -> Result<(u64, u64)> {
        self.wait(self.node.copy_prefix(bucket, from, to_bucket, to))
    }
    fn keep_job(&self, job: &str) -> Result<()> {
        self.wait(self.node.keep_job(job, None))
    }
    fn drop_job(&self, job: &str) -> Result<(u64, u64)> {
        self.wait(self.node.drop_job(job))
    }
    fn settle(&self) -> Result<()> {
        self.wait(self.node.settle());
        Ok(())
    }
    fn flush(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        self.wait(self.node.flush(bucket, prefix, MINUTE))
    }
    fn wait_durable(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        self.wait(self.node.wait_durable(bucket, key, MINUTE))
    }
    fn spill(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        self.wait(self.node.spill(bucket, prefix))
    }
    fn watch(&self, bucket: &BucketName, after: u64) -> Result<Watched> {
        self.wait(self.node.watch(bucket, after, Duration::ZERO))
    }
    fn list_growing(&self, bucket: &BucketName, prefix: &str) -> Result<Vec<(Key, u64)>> {
        self.node.list_growing(bucket, prefix, "")
    }
    fn growing(&self, bucket: &BucketName, key: &Key, begin: bool) -> Result<Option<Appendable>> {
        self.wait(async { if begin { self.node.appendable(bucket, key).await.map(Some) } else { self.node.growing(bucket, key).await } })
    }
    fn append(&self, growing: &Appendable, offset: u64, data: Vec<u8>) -> Result<u64> {
        self.wait(growing.append(offset, data.into()))
    }
    fn read_growing(&self, growing: &Appendable, offset: u64, len: u64) -> Result<Vec<u8>> {
        self.wait(growing.read(offset, len)).map(Into::into)
    }
    fn sync(&self, growing: &Appendable) -> Result<()> {
        self.wait(growing.sync())
    }
    fn seal(&self, growing: &Appendable) -> Result<ObjectMeta> {
        self.wait(growing.seal())
    }
    fn discard(&self, growing: &Appendable) -> Result<()> {
        self.wait(growing.discard())
    }
    fn follow(&self, bucket: &BucketName, key: &Key) -> Result<Follower> {
        self.wait(self.node.follow(bucket, key))
    }
    fn followed(&self, follower: &Follower, offset: u64, len: u64) -> Result<Grown> {
        self.wait(follower.read(offset, len, MINUTE))
    }
}

/// A node with an agent and a persistency tier.
fn shared(folder: &Path) -> Shared {
    let options = SharedOptions { folder: folder.join("store"), site: SiteId::new("agent").unwrap(), limit: Size(64 << 20), memory: None };
    Shared::agent(options, Some(Persist::folder(folder.join("tier")).unwrap())).unwrap()
}

/// Calls something with each of the three.
pub fn doors(folder: &Path, with: impl Fn(&str, &mut dyn Door)) {
    let at = |name: &str| folder.join(name);
    let node = shared(&at("awaited"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    with("rust", &mut Steps { calls: Awaited { node: node.node().clone(), runtime }, held: HashMap::new(), followers: HashMap::new() });
    node.close().unwrap();
    let node = shared(&at("threads"));
    with("rust-blocking", &mut Steps { calls: OnThreads { door: node.blocking() }, held: HashMap::new(), followers: HashMap::new() });
    node.close().unwrap();
    let node = shared(&at("attached"));
    let door = Shared::attach(at("attached").join("store")).unwrap();
    with("rust-attached", &mut Steps { calls: Through { door }, held: HashMap::new(), followers: HashMap::new() });
    node.close().unwrap();
}
