//! The namenode: the catalog in the hub's SQLite database.
//!
//! Every change is one transaction that takes the write lock at its start, so two callers never read the same state and both
//! change it. An answer is given after the commit is on disk; [`Namenode::open`] refuses a database that would answer earlier.
//! It never dials anyone: freeing what was replaced is up to the caller, who gets it returned. Leases it grants to holders in its own process only.

use crate::{
    BucketName, Catalog, Error, Holder, Key, Lease, LeaseHolder, Listing, NewObject, ObjectId, ObjectMeta, Page, Result,
    Sealed, State,
    catalog::PAGE_MAX,
    names::Prefix,
};
use base::{SiteId, clock::now_ms};
use futures::{FutureExt, future::BoxFuture};
use sqlx::{Row, Sqlite, SqliteConnection, SqlitePool, Transaction, sqlite::SqliteRow};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, Weak},
};

/// Rows read at a time while a listing skips over folders.
const BATCH: i64 = 256;

/// Cheap to clone; all clones share the pool.
#[derive(Clone)]
pub struct Namenode {
    pool: SqlitePool,
    /// Writers queue here instead of polling SQLite's lock.
    writing: Arc<tokio::sync::Mutex<()>>,
    leases: Arc<Mutex<Leases>>,
}

/// Who in this process keeps answers, and which keys are being changed. A revocation is a call that can't get lost, so nobody notes which key is leased to
/// whom: all holders are told.
#[derive(Default)]
struct Leases {
    holders: Vec<Weak<dyn LeaseHolder>>,
    changing: HashSet<(BucketName, Key)>,
}

/// Keys for which no lease is granted. One that is dropped without [`Fence::lift`] stays up until the next change of its keys is done: the change was
/// abandoned in its middle, and the database may still carry it out.
struct Fence<'a> {
    leases: &'a Mutex<Leases>,
    keys: Vec<(BucketName, Key)>,
}

fn locked(leases: &Mutex<Leases>) -> MutexGuard<'_, Leases> {
    leases.lock().unwrap_or_else(|e| e.into_inner())
}

impl<'a> Fence<'a> {
    /// To be put up before the commit.
    fn new(leases: &'a Mutex<Leases>, bucket: &BucketName, keys: &[&Key]) -> Fence<'a> {
        let keys: Vec<_> = keys.iter().map(|key| (bucket.clone(), (*key).clone())).collect();
        let holders: Vec<_> = {
            let mut leases = locked(leases);
            leases.changing.extend(keys.iter().cloned());
            leases.holders.retain(|holder| holder.strong_count() > 0);
            leases.holders.iter().filter_map(Weak::upgrade).collect()
        };
        for holder in holders {
            keys.iter().for_each(|(bucket, key)| holder.revoke(bucket, key));
        }
        Fence { leases, keys }
    }

    /// The change has been committed, or will never be.
    fn lift(self) {
        let mut leases = locked(self.leases);
        self.keys.iter().for_each(|key| {
            leases.changing.remove(key);
        });
    }
}

fn db(action: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |source| Error::Database { action, source }
}

macro_rules! select {
    ($rest:literal) => {
        sqlx::query(concat!(
            "SELECT bucket, key, id, epoch, size, checksum, persisted, created_ms FROM geds_objects AS o ",
            $rest
        ))
    };
}

impl Namenode {
    /// Makes its tables, if they are not there, in a database that may have other tables too.
    pub async fn open(pool: SqlitePool) -> Result<Namenode> {
        let synchronous: i64 =
            sqlx::query_scalar("PRAGMA synchronous").fetch_one(&pool).await.map_err(db("open the database"))?;
        if synchronous < 2 {
            return Err(Error::BadValue {
                what: "PRAGMA synchronous",
                value: synchronous.to_string(),
                rule: "an acknowledged seal must survive a power cut; open the pool with SqliteSynchronous::Full",
            });
        }
        let namenode = Namenode { pool, writing: Arc::default(), leases: Arc::default() };
        let _turn = namenode.writing.lock().await;
        sqlx::raw_sql(include_str!("../migrations/1.sql"))
            .execute(&namenode.pool)
            .await
            .map_err(db("make the tables"))?;
        drop(_turn);
        Ok(namenode)
    }

    /// Tells where a site's data port is (host:port). The hub calls it when an agent says hello.
    pub async fn set_site_address(&self, site: &SiteId, address: &str) -> Result<()> {
        let _turn = self.writing.lock().await;
        sqlx::query("INSERT INTO geds_sites (site, address) VALUES (?, ?) ON CONFLICT (site) DO UPDATE SET address = excluded.address")
            .bind(site.as_str())
            .bind(address)
            .execute(&self.pool)
            .await
            .map_err(db("record a site's address"))?;
        Ok(())
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(db("begin"))
    }
}

fn number(value: i64) -> u64 {
    u64::from_ne_bytes(value.to_ne_bytes())
}
fn bits(value: u64) -> i64 {
    i64::from_ne_bytes(value.to_ne_bytes())
}

fn meta_of(row: &SqliteRow) -> Result<ObjectMeta> {
    let text = |column| row.try_get::<String, _>(column).map_err(db("read an object"));
    let int = |column| row.try_get::<i64, _>(column).map(number).map_err(db("read an object"));
    Ok(ObjectMeta {
        bucket: BucketName::new(text("bucket")?)?,
        key: Key::new(text("key")?)?,
        id: text("id")?.parse()?,
        epoch: int("epoch")?,
        size: int("size")?,
        state: State::Sealed,
        checksum: int("checksum")?,
        sites: Vec::new(),
        persisted: row.try_get("persisted").map_err(db("read an object"))?,
        created_ms: int("created_ms")?,
    })
}

/// Fills in who holds the object.
async fn with_sites(conn: &mut SqliteConnection, mut meta: ObjectMeta) -> Result<ObjectMeta> {
    let rows = sqlx::query(
        "SELECT h.site, COALESCE(s.address, '') AS address FROM geds_holders AS h \
         LEFT JOIN geds_sites AS s ON s.site = h.site WHERE h.id = ? ORDER BY h.site",
    )
    .bind(meta.id.to_string())
    .fetch_all(conn)
    .await
    .map_err(db("read holders"))?;
    for row in rows {
        let site: String = row.try_get("site").map_err(db("read holders"))?;
        let address = row.try_get("address").map_err(db("read holders"))?;
        // What is not a site's name was not written by us; a holder that nobody can dial is as good as none.
        if let Ok(site) = SiteId::new(site) {
            meta.sites.push(Holder { site, address });
        }
    }
    Ok(meta)
}

async fn get(conn: &mut SqliteConnection, bucket: &BucketName, key: &Key) -> Result<Option<ObjectMeta>> {
    let row = select!("WHERE bucket = ? AND key = ?")
        .bind(bucket.as_str())
        .bind(key.as_str())
        .fetch_optional(&mut *conn)
        .await
        .map_err(db("look up"))?;
    match row {
        Some(row) => Ok(Some(with_sites(conn, meta_of(&row)?).await?)),
        None => Ok(None),
    }
}

async fn get_id(conn: &mut SqliteConnection, id: ObjectId) -> Result<Option<ObjectMeta>> {
    let row =
        select!("WHERE id = ?").bind(id.to_string()).fetch_optional(&mut *conn).await.map_err(db("look up"))?;
    match row {
        Some(row) => Ok(Some(with_sites(conn, meta_of(&row)?).await?)),
        None => Ok(None),
    }
}

fn not_found(bucket: &BucketName, key: &Key) -> Error {
    Error::NotFound { bucket: bucket.to_string(), key: key.to_string() }
}

async fn need(conn: &mut SqliteConnection, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
    get(conn, bucket, key).await?.ok_or_else(|| not_found(bucket, key))
}

async fn need_epoch(conn: &mut SqliteConnection, bucket: &BucketName, key: &Key, epoch: u64) -> Result<ObjectMeta> {
    let meta = need(conn, bucket, key).await?;
    if meta.epoch != epoch {
        return Err(Error::Stale { bucket: bucket.to_string(), key: key.to_string(), epoch, current: meta.epoch });
    }
    Ok(meta)
}

async fn need_bucket(conn: &mut SqliteConnection, bucket: &BucketName) -> Result<()> {
    sqlx::query("SELECT 1 FROM geds_buckets WHERE name = ?")
        .bind(bucket.as_str())
        .fetch_optional(conn)
        .await
        .map_err(db("look up a bucket"))?
        .map(|_| ())
        .ok_or_else(|| Error::NoBucket { bucket: bucket.to_string() })
}

async fn remove(conn: &mut SqliteConnection, id: ObjectId) -> Result<()> {
    for sql in ["DELETE FROM geds_holders WHERE id = ?", "DELETE FROM geds_objects WHERE id = ?"] {
        sqlx::query(sql).bind(id.to_string()).execute(&mut *conn).await.map_err(db("remove an object"))?;
    }
    Ok(())
}

/// One row of a listing: the key of an object, or the folder that it is in.
fn folder_of<'a>(key: &'a str, below: &str, delimiter: Option<char>) -> Option<&'a str> {
    let delimiter = delimiter?;
    let rest = key.strip_prefix(below)?;
    let at = rest.find(delimiter)?;
    Some(&key[..below.len() + at + delimiter.len_utf8()])
}

impl Catalog for Namenode {
    fn announce<'a>(&'a self, site: &'a SiteId, address: &'a str) -> BoxFuture<'a, Result<()>> {
        self.set_site_address(site, address).boxed()
    }

    fn create_bucket<'a>(&'a self, bucket: &'a BucketName) -> BoxFuture<'a, Result<bool>> {
        async move {
            let _turn = self.writing.lock().await;
            let done = sqlx::query("INSERT OR IGNORE INTO geds_buckets (name, created_ms) VALUES (?, ?)")
                .bind(bucket.as_str())
                .bind(bits(now_ms()))
                .execute(&self.pool)
                .await
                .map_err(db("create a bucket"))?;
            Ok(done.rows_affected() == 1)
        }
        .boxed()
    }

    fn buckets(&self) -> BoxFuture<'_, Result<Vec<BucketName>>> {
        async move {
            let names: Vec<String> = sqlx::query_scalar("SELECT name FROM geds_buckets ORDER BY name")
                .fetch_all(&self.pool)
                .await
                .map_err(db("list buckets"))?;
            names.into_iter().map(BucketName::new).collect()
        }
        .boxed()
    }

    fn seal<'a>(&'a self, bucket: &'a BucketName, key: &'a Key, new: NewObject) -> BoxFuture<'a, Result<Sealed>> {
        async move {
            let _turn = self.writing.lock().await;
            let mut tx = self.begin().await?;
            need_bucket(&mut tx, bucket).await?;
            if let Some(object) = get_id(&mut tx, new.id).await? {
                return Ok(Sealed { object, replaced: None });
            }
            let replaced = get(&mut tx, bucket, key).await?;
            if new.if_absent && replaced.is_some() {
                return Err(Error::Exists { bucket: bucket.to_string(), key: key.to_string() });
            }
            let fence = match &replaced {
                Some(old) => {
                    let fence = Fence::new(&self.leases, bucket, &[key]);
                    remove(&mut tx, old.id).await?;
                    Some(fence)
                }
                None => None,
            };
            let epoch: i64 = sqlx::query_scalar("UPDATE geds_epoch SET value = value + 1 RETURNING value")
                .fetch_one(&mut *tx)
                .await
                .map_err(db("give an epoch"))?;
            sqlx::query(
                "INSERT INTO geds_objects (bucket, key, id, epoch, size, checksum, persisted, created_ms) \
                 VALUES (?, ?, ?, ?, ?, ?, NULL, ?)",
            )
            .bind(bucket.as_str())
            .bind(key.as_str())
            .bind(new.id.to_string())
            .bind(epoch)
            .bind(bits(new.size))
            .bind(bits(new.checksum))
            .bind(bits(now_ms()))
            .execute(&mut *tx)
            .await
            .map_err(db("record an object"))?;
            sqlx::query("INSERT INTO geds_holders (id, site) VALUES (?, ?)")
                .bind(new.id.to_string())
                .bind(new.site.as_str())
                .execute(&mut *tx)
                .await
                .map_err(db("record a holder"))?;
            let object = need(&mut tx, bucket, key).await?;
            tx.commit().await.map_err(db("commit a seal"))?;
            if let Some(fence) = fence {
                fence.lift();
            }
            Ok(Sealed { object, replaced })
        }
        .boxed()
    }

    fn lookup<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>> {
        async move {
            // A transaction, so that the object and its holders are of one moment.
            let mut tx = self.pool.begin().await.map_err(db("begin"))?;
            need(&mut tx, bucket, key).await
        }
        .boxed()
    }

    fn lease<'a>(
        &'a self,
        holder: &'a Arc<dyn LeaseHolder>,
        bucket: &'a BucketName,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<(ObjectMeta, Option<Lease>)>> {
        async move {
            // Before the look: a change that is committed after it finds the holder.
            let granted = {
                let mut leases = locked(&self.leases);
                let new = Arc::downgrade(holder);
                if !leases.holders.iter().any(|known| known.ptr_eq(&new)) {
                    leases.holders.push(new);
                }
                leases.changing.is_empty() || !leases.changing.contains(&(bucket.clone(), key.clone()))
            };
            let meta = self.lookup(bucket, key).await?;
            Ok((meta, granted.then_some(Lease { term: None })))
        }
        .boxed()
    }

    fn find(&self, id: ObjectId) -> BoxFuture<'_, Result<Option<ObjectMeta>>> {
        async move {
            let mut tx = self.pool.begin().await.map_err(db("begin"))?;
            get_id(&mut tx, id).await
        }
        .boxed()
    }

    fn held<'a>(&'a self, site: &'a SiteId, start_after: Option<ObjectId>) -> BoxFuture<'a, Result<Vec<ObjectMeta>>> {
        async move {
            let mut tx = self.pool.begin().await.map_err(db("begin"))?;
            let rows = select!("WHERE id IN (SELECT id FROM geds_holders WHERE site = ? AND id > ? ORDER BY id LIMIT ?) ORDER BY id")
                .bind(site.as_str())
                .bind(start_after.map(String::from).unwrap_or_default())
                .bind(i64::from(PAGE_MAX))
                .fetch_all(&mut *tx)
                .await
                .map_err(db("list what a site holds"))?;
            let mut held = Vec::with_capacity(rows.len());
            for row in &rows {
                held.push(with_sites(&mut tx, meta_of(row)?).await?);
            }
            Ok(held)
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        bucket: &'a BucketName,
        prefix: &'a str,
        delimiter: Option<char>,
        page: Page,
    ) -> BoxFuture<'a, Result<Listing>> {
        async move {
            let prefix = Prefix::new(prefix)?;
            let limit = page.limit.clamp(1, PAGE_MAX) as usize;
            let mut tx = self.pool.begin().await.map_err(db("begin"))?;
            need_bucket(&mut tx, bucket).await?;
            let mut listing = Listing::default();
            let mut cursor = page.start_after;
            loop {
                let rows = select!(
                    "WHERE bucket = ?1 AND key > ?2 AND (key = ?3 OR (key >= ?4 AND (?5 IS NULL OR key < ?5))) ORDER BY key LIMIT ?6"
                )
                .bind(bucket.as_str())
                .bind(&cursor)
                .bind(prefix.exact.as_deref())
                .bind(&prefix.below)
                .bind(prefix.end())
                .bind(BATCH)
                .fetch_all(&mut *tx)
                .await
                .map_err(db("list"))?;
                for row in &rows {
                    let meta = meta_of(row)?;
                    let folder = folder_of(meta.key.as_str(), &prefix.below, delimiter);
                    let seen = folder.is_some_and(|folder| cursor.starts_with(folder));
                    if !seen && listing.objects.len() + listing.prefixes.len() == limit {
                        listing.next = Some(cursor);
                        return Ok(listing);
                    }
                    match folder {
                        // Skips what else is in the folder, but for keys with the last character of all: they are `seen`.
                        Some(folder) => {
                            if !seen {
                                listing.prefixes.push(folder.to_string());
                            }
                            cursor = format!("{folder}{}", char::MAX).max(meta.key.to_string());
                        }
                        None => {
                            cursor = meta.key.to_string();
                            listing.objects.push(with_sites(&mut tx, meta).await?);
                        }
                    }
                }
                if rows.len() < BATCH as usize {
                    return Ok(listing);
                }
            }
        }
        .boxed()
    }

    fn delete<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>> {
        async move {
            let _turn = self.writing.lock().await;
            let mut tx = self.begin().await?;
            let meta = need(&mut tx, bucket, key).await?;
            let fence = Fence::new(&self.leases, bucket, &[key]);
            remove(&mut tx, meta.id).await?;
            tx.commit().await.map_err(db("commit a delete"))?;
            fence.lift();
            Ok(meta)
        }
        .boxed()
    }

    fn rename<'a>(&'a self, bucket: &'a BucketName, from: &'a Key, to: &'a Key) -> BoxFuture<'a, Result<Sealed>> {
        async move {
            let _turn = self.writing.lock().await;
            let mut tx = self.begin().await?;
            let object = need(&mut tx, bucket, from).await?;
            if from == to {
                return Ok(Sealed { object, replaced: None });
            }
            let replaced = get(&mut tx, bucket, to).await?;
            let fence = Fence::new(&self.leases, bucket, &[from, to]);
            if let Some(old) = &replaced {
                remove(&mut tx, old.id).await?;
            }
            sqlx::query("UPDATE geds_objects SET key = ? WHERE bucket = ? AND key = ?")
                .bind(to.as_str())
                .bind(bucket.as_str())
                .bind(from.as_str())
                .execute(&mut *tx)
                .await
                .map_err(db("rename"))?;
            let object = need(&mut tx, bucket, to).await?;
            tx.commit().await.map_err(db("commit a rename"))?;
            fence.lift();
            Ok(Sealed { object, replaced })
        }
        .boxed()
    }

    fn mark_persisted<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a Key,
        epoch: u64,
        location: &'a str,
    ) -> BoxFuture<'a, Result<ObjectMeta>> {
        async move {
            let _turn = self.writing.lock().await;
            let mut tx = self.begin().await?;
            let meta = need_epoch(&mut tx, bucket, key, epoch).await?;
            sqlx::query("UPDATE geds_objects SET persisted = ? WHERE id = ?")
                .bind(location)
                .bind(meta.id.to_string())
                .execute(&mut *tx)
                .await
                .map_err(db("record a persisted copy"))?;
            tx.commit().await.map_err(db("commit a persisted copy"))?;
            Ok(ObjectMeta { persisted: Some(location.into()), ..meta })
        }
        .boxed()
    }

    fn add_holder<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a Key,
        epoch: u64,
        site: &'a SiteId,
    ) -> BoxFuture<'a, Result<ObjectMeta>> {
        async move {
            let _turn = self.writing.lock().await;
            let mut tx = self.begin().await?;
            let meta = need_epoch(&mut tx, bucket, key, epoch).await?;
            sqlx::query("INSERT OR IGNORE INTO geds_holders (id, site) VALUES (?, ?)")
                .bind(meta.id.to_string())
                .bind(site.as_str())
                .execute(&mut *tx)
                .await
                .map_err(db("record a holder"))?;
            let meta = need(&mut tx, bucket, key).await?;
            tx.commit().await.map_err(db("commit a holder"))?;
            Ok(meta)
        }
        .boxed()
    }

    fn drop_holder<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a Key,
        epoch: u64,
        site: &'a SiteId,
    ) -> BoxFuture<'a, Result<ObjectMeta>> {
        async move {
            let _turn = self.writing.lock().await;
            let mut tx = self.begin().await?;
            let meta = need_epoch(&mut tx, bucket, key, epoch).await?;
            if meta.persisted.is_none() && !meta.sites.iter().any(|holder| holder.site != *site) {
                return Err(Error::OnlyCopy { bucket: bucket.to_string(), key: key.to_string(), site: site.to_string() });
            }
            sqlx::query("DELETE FROM geds_holders WHERE id = ? AND site = ?")
                .bind(meta.id.to_string())
                .bind(site.as_str())
                .execute(&mut *tx)
                .await
                .map_err(db("drop a holder"))?;
            let meta = need(&mut tx, bucket, key).await?;
            tx.commit().await.map_err(db("commit a dropped holder"))?;
            Ok(meta)
        }
        .boxed()
    }
}
