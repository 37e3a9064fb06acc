//! What the hub remembers: one SQLite file, `<data>/hub/hub.sqlite`, in WAL mode.
//!
//! Jobs and migrations are JSON documents under their key: the hub reads those that it works with at start and keeps them in memory, so
//! SQLite's part is to make a change durable before anyone is told of it, and to know the old ones. What changes together is written in one
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
CREATE TABLE IF NOT EXISTS hub_agents (site TEXT PRIMARY KEY, certificate TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS hub_replacing (token TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS hub_stopped (at_ms INTEGER NOT NULL);
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

/// Jobs that have ended, and migrations that have: so many of the newest numbers are in memory, all in SQLite.
pub const JOBS_KEPT: u64 = 10_000;
pub const MIGRATIONS_KEPT: u64 = 10_000;
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

    /// The jobs and migrations that the hub works with: all that have not ended, and the newest of the others ([`JOBS_KEPT`], [`MIGRATIONS_KEPT`]). A
    /// document that can't be read is an error: to go on without it would lose a job silently.
    pub async fn load(&self) -> Result<(BTreeMap<u64, Job>, BTreeMap<u64, Migration>), Error> {
        let newest = |table: &str, kept: u64, open: &str| {
            format!("SELECT n, doc FROM {table} WHERE n > (SELECT COALESCE(MAX(n), 0) FROM {table}) - {kept} OR json_extract(doc, '$.state') IN ({open})")
        };
        let jobs = newest("hub_jobs", JOBS_KEPT, "'pending', 'running'");
        let migrations = newest("hub_migrations", MIGRATIONS_KEPT, "'running', 'committed'");
        Ok((self.documents("job", &jobs).await?, self.documents("migration", &migrations).await?))
    }

    /// Jobs after this number, by number, at most `limit`: also those that the hub has no more in memory.
    pub async fn jobs(&self, after: u64, limit: usize) -> Result<BTreeMap<u64, Job>, Error> {
        self.documents("job", &format!("SELECT n, doc FROM hub_jobs WHERE n > {after} ORDER BY n LIMIT {limit}")).await
    }

    /// The same for migrations, of one job if it is named.
    pub async fn migrations(&self, job: Option<&str>, after: u64, limit: usize) -> Result<BTreeMap<u64, Migration>, Error> {
        let rows = sqlx::query("SELECT n, doc FROM hub_migrations WHERE n > ?1 AND (?2 IS NULL OR json_extract(doc, '$.job') = ?2) ORDER BY n LIMIT ?3");
        let rows = rows.bind(after as i64).bind(job).bind(limit as i64).fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((row.get::<i64, _>(0) as u64, read("migration", row.get(1))?))).collect()
    }

    /// What a query finds: number and document. The query is made of numbers and names of ours only.
    async fn documents<T: serde::de::DeserializeOwned>(&self, what: &str, query: &str) -> Result<BTreeMap<u64, T>, Error> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((row.get::<i64, _>(0) as u64, read(what, row.get(1))?))).collect()
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

    /// Remembers a join token by its hash, and whether who has it may take the place of the site's agent.
    pub async fn add_token(&self, sha256: &str, site: &str, expires_ms: u64, replace: bool) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("INSERT INTO hub_tokens (sha256, site, expires_ms) VALUES (?, ?, ?)")
            .bind(sha256)
            .bind(site)
            .bind(expires_ms as i64)
            .execute(&mut *tx)
            .await?;
        if replace {
            sqlx::query("INSERT INTO hub_replacing (token) VALUES (?)").bind(sha256).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Whether a token is for an agent that takes another's place.
    pub async fn replaces(&self, sha256: &str) -> Result<bool, Error> {
        Ok(sqlx::query("SELECT 1 FROM hub_replacing WHERE token = ?").bind(sha256).fetch_optional(&self.pool).await?.is_some())
    }

    /// Remembers which certificate a site's agent has; an empty one: none any more.
    pub async fn save_agent(&self, site: &str, certificate: &str) -> Result<(), Error> {
        sqlx::query("INSERT INTO hub_agents (site, certificate) VALUES (?, ?) ON CONFLICT (site) DO UPDATE SET certificate = excluded.certificate")
            .bind(site)
            .bind(certificate)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The certificates of the sites' agents.
    pub async fn agents(&self) -> Result<BTreeMap<String, String>, Error> {
        let rows = sqlx::query("SELECT site, certificate FROM hub_agents").fetch_all(&self.pool).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Forgets a site; its agent is not let in any more.
    pub async fn drop_site(&self, site: &str) -> Result<(), Error> {
        self.save_agent(site, "").await?;
        sqlx::query("DELETE FROM hub_sites WHERE name = ?").bind(site).execute(&self.pool).await?;
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

    /// Remembers that all of the platform is being stopped.
    pub async fn note_stop(&self, now_ms: u64) -> Result<(), Error> {
        sqlx::query("INSERT INTO hub_stopped (at_ms) VALUES (?)").bind(now_ms as i64).execute(&self.pool).await?;
        Ok(())
    }

    /// Whether the platform was stopped as a whole before this start. Says so once.
    pub async fn take_stop(&self) -> Result<bool, Error> {
        Ok(sqlx::query("DELETE FROM hub_stopped").execute(&self.pool).await?.rows_affected() > 0)
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
