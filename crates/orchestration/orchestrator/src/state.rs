//! What the hub remembers: one SQLite file, `<data>/hub/hub.sqlite`, in WAL mode.
//!
//! Jobs and migrations are JSON documents under their key: the hub reads all of them at start and keeps them in memory, so
//! SQLite's part is to make a change durable before anyone is told of it. What changes together is written in one
//! transaction ([`State::save`]). Nothing here decides anything.

use crate::{Error, advice::Advised, checkpoints::Checkpoint, jobs::Job, migrations::Migration, proto::Hello};
use prost::Message;
use sqlx::{
    Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{collections::BTreeMap, path::Path, time::Duration};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS hub_jobs (n INTEGER PRIMARY KEY, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS hub_migrations (n INTEGER PRIMARY KEY, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS hub_events (id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, message TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS hub_tokens (sha256 TEXT PRIMARY KEY, site TEXT NOT NULL, expires_ms INTEGER NOT NULL, used INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS hub_checkpoints (n INTEGER PRIMARY KEY AUTOINCREMENT, doc TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS hub_recommendations (n INTEGER PRIMARY KEY, job TEXT NOT NULL, open INTEGER NOT NULL, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS hub_sites (name TEXT PRIMARY KEY, hello BLOB NOT NULL, last_seen_ms INTEGER NOT NULL);
";

/// Opens a database file, making it where it is missing. A commit is on disk when it returns.
pub async fn pool(path: &Path) -> Result<SqlitePool, Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5));
    Ok(SqlitePoolOptions::new().max_connections(4).connect_with(options).await?)
}

/// Recommendations kept: 20 KB each when the series are long, so at most some 200 MB.
const RECOMMENDATIONS_KEPT: i64 = 10_000;

/// The hub's database.
#[derive(Clone)]
pub struct State {
    pub pool: SqlitePool,
}

impl State {
    /// Opens the file, making it and its tables where they are missing.
    pub async fn open(path: &Path) -> Result<State, Error> {
        let pool = pool(path).await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        Ok(State { pool })
    }

    /// Everything that was saved. A document that can't be read is an error: to go on without it would lose a job silently.
    pub async fn load(&self) -> Result<(BTreeMap<u64, Job>, BTreeMap<u64, Migration>), Error> {
        let (mut jobs, mut migrations) = (BTreeMap::new(), BTreeMap::new());
        for row in sqlx::query("SELECT n, doc FROM hub_jobs").fetch_all(&self.pool).await? {
            jobs.insert(row.get::<i64, _>(0) as u64, read("job", row.get(1))?);
        }
        for row in sqlx::query("SELECT n, doc FROM hub_migrations").fetch_all(&self.pool).await? {
            migrations.insert(row.get::<i64, _>(0) as u64, read("migration", row.get(1))?);
        }
        Ok((jobs, migrations))
    }

    /// Writes a job, a migration, or both, in one transaction; durable when it returns.
    pub async fn save(&self, job: Option<&Job>, migration: Option<&Migration>) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        if let Some(job) = job {
            sqlx::query("INSERT INTO hub_jobs (n, doc) VALUES (?, ?) ON CONFLICT (n) DO UPDATE SET doc = excluded.doc")
                .bind(job.n as i64)
                .bind(serde_json::to_string(job).expect("a job is plain data"))
                .execute(&mut *tx)
                .await?;
        }
        if let Some(migration) = migration {
            sqlx::query("INSERT INTO hub_migrations (n, doc) VALUES (?, ?) ON CONFLICT (n) DO UPDATE SET doc = excluded.doc")
                .bind(migration.id as i64)
                .bind(serde_json::to_string(migration).expect("a migration is plain data"))
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Remembers a join token by its hash.
    pub async fn add_token(&self, sha256: &str, site: &str, expires_ms: u64) -> Result<(), Error> {
        sqlx::query("INSERT INTO hub_tokens (sha256, site, expires_ms) VALUES (?, ?, ?)")
            .bind(sha256)
            .bind(site)
            .bind(expires_ms as i64)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// A number for a checkpoint, never used before: the objects of one that failed may still be there.
    pub async fn new_checkpoint(&self) -> Result<u64, Error> {
        let done = sqlx::query("INSERT INTO hub_checkpoints DEFAULT VALUES").execute(&self.pool).await?;
        Ok(done.last_insert_rowid() as u64)
    }

    /// Makes a checkpoint count.
    pub async fn save_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        sqlx::query("UPDATE hub_checkpoints SET doc = ? WHERE n = ?")
            .bind(serde_json::to_string(checkpoint).expect("a checkpoint is plain data"))
            .bind(checkpoint.id as i64)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Makes a checkpoint count no more.
    pub async fn drop_checkpoint(&self, n: u64) -> Result<(), Error> {
        sqlx::query("DELETE FROM hub_checkpoints WHERE n = ?").bind(n as i64).execute(&self.pool).await?;
        Ok(())
    }

    /// The checkpoints that count.
    pub async fn checkpoints(&self) -> Result<BTreeMap<u64, Checkpoint>, Error> {
        let rows = sqlx::query("SELECT n, doc FROM hub_checkpoints WHERE doc != ''").fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((row.get::<i64, _>(0) as u64, read("checkpoint", row.get(1))?))).collect()
    }

    /// Writes a recommendation with all its inputs; durable when it returns. The oldest beyond 10 000 are dropped.
    pub async fn save_recommendation(&self, advised: &Advised) -> Result<(), Error> {
        let n = advised.recommendation.id as i64;
        sqlx::query("INSERT INTO hub_recommendations (n, job, open, doc) VALUES (?, ?, ?, ?) ON CONFLICT (n) DO UPDATE SET open = excluded.open, doc = excluded.doc")
            .bind(n)
            .bind(advised.recommendation.job.as_str())
            .bind(advised.ended.is_none())
            .bind(serde_json::to_string(advised).expect("a recommendation is plain data"))
            .execute(&self.pool)
            .await?;
        if n % 100 == 0 {
            sqlx::query("DELETE FROM hub_recommendations WHERE n <= ?").bind(n - RECOMMENDATIONS_KEPT).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// The newest, of one job if it is named, oldest first.
    pub async fn recommendations(&self, job: Option<&str>, limit: u32) -> Result<Vec<Advised>, Error> {
        let rows = sqlx::query("SELECT doc FROM hub_recommendations WHERE ?1 IS NULL OR job = ?1 ORDER BY n DESC LIMIT ?2").bind(job).bind(limit);
        rows.fetch_all(&self.pool).await?.iter().rev().map(|row| read("recommendation", row.get(0))).collect()
    }

    pub async fn recommendation(&self, n: u64) -> Result<Option<Advised>, Error> {
        let row = sqlx::query("SELECT doc FROM hub_recommendations WHERE n = ?").bind(n as i64).fetch_optional(&self.pool).await?;
        row.map(|row| read("recommendation", row.get(0))).transpose()
    }

    /// Those of which the end is not known.
    pub async fn open_recommendations(&self) -> Result<Vec<Advised>, Error> {
        let rows = sqlx::query("SELECT doc FROM hub_recommendations WHERE open = 1 ORDER BY n").fetch_all(&self.pool).await?;
        rows.iter().map(|row| read("recommendation", row.get(0))).collect()
    }

    /// The largest number that a recommendation has; 0 if there is none.
    pub async fn last_recommendation(&self) -> Result<u64, Error> {
        let row = sqlx::query("SELECT COALESCE(MAX(n), 0) FROM hub_recommendations").fetch_one(&self.pool).await?;
        Ok(row.get::<i64, _>(0) as u64)
    }

    /// Whether [`State::take_token`] would succeed now.
    pub async fn good_token(&self, sha256: &str, site: &str, now_ms: u64) -> Result<bool, Error> {
        let row = sqlx::query("SELECT 1 FROM hub_tokens WHERE sha256 = ? AND site = ? AND used = 0 AND expires_ms > ?")
            .bind(sha256)
            .bind(site)
            .bind(now_ms as i64)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.is_some())
    }

    /// Remembers what an agent said of itself, so that a hub started anew knows the sites and their instances.
    pub async fn save_site(&self, name: &str, hello: &Hello, now_ms: u64) -> Result<(), Error> {
        let plain = Hello { running: Vec::new(), ..hello.clone() };
        sqlx::query("INSERT INTO hub_sites (name, hello, last_seen_ms) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET hello = excluded.hello, last_seen_ms = excluded.last_seen_ms")
            .bind(name)
            .bind(plain.encode_to_vec())
            .bind(now_ms as i64)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The sites that ever had a session: name, what the agent said of itself, when it was seen (Unix ms).
    pub async fn sites(&self) -> Result<Vec<(String, Hello, u64)>, Error> {
        let mut sites = Vec::new();
        for row in sqlx::query("SELECT name, hello, last_seen_ms FROM hub_sites").fetch_all(&self.pool).await? {
            let name: String = row.get(0);
            let hello = Hello::decode(row.get::<Vec<u8>, _>(1).as_slice())
                .map_err(|e| Error::new(base::Kind::DataLoss, format!("the stored site {name:?} can't be read: {e}")))?;
            sites.push((name, hello, row.get::<i64, _>(2) as u64));
        }
        Ok(sites)
    }

    /// Uses a join token up. One statement, so that two who hold the same token can't both succeed.
    pub async fn take_token(&self, sha256: &str, site: &str, now_ms: u64) -> Result<bool, Error> {
        let done = sqlx::query("UPDATE hub_tokens SET used = 1 WHERE sha256 = ? AND site = ? AND used = 0 AND expires_ms > ?")
            .bind(sha256)
            .bind(site)
            .bind(now_ms as i64)
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

fn read<T: serde::de::DeserializeOwned>(what: &str, doc: String) -> Result<T, Error> {
    serde_json::from_str(&doc).map_err(|e| Error::new(base::Kind::DataLoss, format!("a stored {what} can't be read: {e}")))
}
