//! A checkpoint as one file, and a job that starts from such a file, here or at another hub, or from a checkpoint that is stored here.
//!
//! ```text
//! manifest     JSON: what the job is to do ([`Work`]), and where it comes from
//! module.wasm  its module
//! rank-<n>     the snapshot of each rank
//! ```
//!
//! How these become one file, with version and checksum, is not known here: [`Options::archive`](crate::Options) says it. The file
//! passes through memory as a whole, so it is bounded and there is one at a time.

use crate::{
    Error,
    checkpoints::{Checkpoint, lineage},
    hub::{Hub, hex},
    jobs::{Job, Work},
    modules::MODULE_MAX,
    objects::CHECKPOINTS,
};
use base::Kind;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc};

/// The largest file that is written or taken, in bytes.
pub const ARCHIVE_MAX: u64 = 4 << 30;
/// Bytes of a manifest: as many as a job's description over HTTP may have.
const MANIFEST_MAX: usize = 1 << 20;
const MODULE: &str = "module.wasm";

/// A part's name and its bytes.
pub type Part = (String, Vec<u8>);

/// What became of a rank's snapshot and those on which it stands.
pub enum Joined {
    /// One that needs no other.
    Complete(Vec<u8>),
    /// One more is needed, of the checkpoint that people call so; the files are given back.
    Lacks { files: Vec<Vec<u8>>, parent: String },
}

/// A file format of a manifest and named parts, and of these parts.
#[derive(Clone, Copy)]
pub struct ArchiveFormat {
    pub write: fn(manifest: &[u8], parts: Vec<Part>) -> Vec<u8>,
    /// The manifest and the parts, or why the bytes are not such a file: damaged, cut, of another version.
    pub read: fn(bytes: &[u8]) -> Result<(Vec<u8>, Vec<Part>), String>,
    /// A rank's snapshot, with those on which it stands behind it, made one; or why they can't be used.
    pub join: fn(newest_first: Vec<Vec<u8>>) -> Result<Joined, String>,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    /// Whose checkpoint it is, at the hub that made it.
    job: String,
    checkpoint: u64,
    at_ms: u64,
    work: Work,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, message)
}

/// More bytes than a file may have.
pub fn too_large(bytes: u64) -> Error {
    invalid(format!("the checkpoint's file has {bytes} bytes or more; {ARCHIVE_MAX} are the most"))
}

impl Hub {
    fn format(&self) -> Result<ArchiveFormat, Error> {
        self.archive.ok_or_else(|| Error::new(Kind::Unimplemented, "this hub has no file format for checkpoints"))
    }

    /// What a stored checkpoint is made of: its manifest, and the snapshot of each rank. `room`: bytes that there may be of them.
    /// Snapshots that stand on others are joined with these.
    async fn collect(&self, id: u64, mut room: u64) -> Result<(Manifest, Vec<Vec<u8>>), Error> {
        let format = self.format()?;
        let (checkpoint, prefixes, work) = {
            let world = self.world.lock().await;
            let checkpoint = world.checkpoint(id)?.clone();
            let prefixes: Vec<String> = lineage(&world, &checkpoint).iter().map(|c| c.prefix.clone()).collect();
            let work = self.job(&world, &checkpoint.job).await?.work();
            (checkpoint, prefixes, work)
        };
        let mut ranks = Vec::new();
        for rank in 0..work.np {
            let lost = |why: String| Error::new(Kind::DataLoss, format!("rank {rank} of checkpoint {id} can't be used: {why}"));
            let (mut files, mut left, mut older) = (Vec::new(), room, prefixes.iter());
            let mut missing = checkpoint.prefix.clone();
            let bytes = loop {
                let prefix = older.next().ok_or_else(|| lost(format!("checkpoint {missing}, on which it stands, is not there")))?;
                let bytes = self.get_bytes(CHECKPOINTS, &format!("{prefix}/rank-{rank}"), left).await?;
                left -= bytes.len() as u64;
                files.push(bytes);
                let joined = tokio::task::spawn_blocking(move || (format.join)(files)).await.map_err(Error::internal)?;
                match joined.map_err(lost)? {
                    Joined::Complete(bytes) => break bytes,
                    Joined::Lacks { files: back, parent } => (files, missing) = (back, parent),
                }
            };
            room = room.checked_sub(bytes.len() as u64).ok_or_else(|| too_large(ARCHIVE_MAX))?;
            ranks.push(bytes);
        }
        let Checkpoint { job, at_ms, .. } = checkpoint;
        Ok((Manifest { job, checkpoint: id, at_ms, work }, ranks))
    }

    /// A checkpoint's file.
    pub async fn archive(&self, id: u64) -> Result<Vec<u8>, Error> {
        let format = self.format()?;
        let _turn = self.archiving.acquire().await.map_err(Error::internal)?;
        let (manifest, ranks) = self.collect(id, ARCHIVE_MAX - MODULE_MAX as u64).await?;
        let path = self.modules.find(&manifest.work.module)?;
        let module = tokio::fs::read(&path).await.map_err(|e| Error::internal(format!("read the module {}: {e}", path.display())))?;
        let ranks = ranks.into_iter().enumerate().map(|(rank, bytes)| (format!("rank-{rank}"), bytes));
        let parts: Vec<Part> = std::iter::once((MODULE.to_string(), module)).chain(ranks).collect();
        let manifest = serde_json::to_vec(&manifest).expect("a manifest is plain data");
        tokio::task::spawn_blocking(move || (format.write)(&manifest, parts)).await.map_err(Error::internal)
    }

    /// What is in a file; keeps its module. Takes its time.
    fn unpack(&self, format: ArchiveFormat, bytes: Vec<u8>) -> Result<(Manifest, Vec<Vec<u8>>), Error> {
        let (manifest, parts) = (format.read)(&bytes).map_err(invalid)?;
        drop(bytes);
        if manifest.len() > MANIFEST_MAX {
            return Err(invalid(format!("the checkpoint's manifest has {} bytes; {MANIFEST_MAX} are the most", manifest.len())));
        }
        let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|e| invalid(format!("the checkpoint's manifest can't be read: {e}")))?;
        manifest.work.check()?;
        let mut parts: BTreeMap<String, Vec<u8>> = parts.into_iter().collect();
        let mut part = |name: &str| parts.remove(name).ok_or_else(|| invalid(format!("the checkpoint has no part {name:?}")));
        let module = part(MODULE)?;
        let ranks = (0..manifest.work.np).map(|r| part(&format!("rank-{r}"))).collect::<Result<Vec<_>, _>>()?;
        let sha256 = hex(&Sha256::digest(&module));
        if sha256 != manifest.work.module {
            return Err(invalid(format!("the checkpoint's module is {sha256}, its manifest names {}", manifest.work.module)));
        }
        // A file needs nothing beside it: what is stored here is of other jobs.
        let whole = |(rank, bytes)| match (format.join)(vec![bytes]).map_err(|e| invalid(format!("rank {rank} of the checkpoint: {e}")))? {
            Joined::Complete(bytes) => Ok(bytes),
            Joined::Lacks { parent, .. } => {
                let why = format!("rank {rank} of the checkpoint has only what has changed since checkpoint {parent}, which is not in the file; `cloudskin checkpoint NUMBER --out FILE` writes files that are complete");
                Err(invalid(why))
            }
        };
        let ranks = ranks.into_iter().enumerate().map(whole).collect::<Result<Vec<_>, Error>>()?;
        self.modules.add(&module)?;
        Ok((manifest, ranks))
    }

    /// Starts a job from a checkpoint's file, at `site` or where there is room. Once begun, it goes on also if the caller doesn't wait.
    pub async fn restore(self: &Arc<Hub>, bytes: Vec<u8>, site: Option<String>) -> Result<Job, Error> {
        let hub = self.clone();
        let work = tokio::spawn(async move {
            let (format, unpacking) = (hub.format()?, hub.clone());
            let (manifest, ranks) = tokio::task::spawn_blocking(move || unpacking.unpack(format, bytes)).await.map_err(Error::internal)??;
            hub.begin_restored(manifest, ranks, site).await
        });
        work.await.map_err(Error::internal)?
    }

    async fn begin_restored(&self, manifest: Manifest, ranks: Vec<Vec<u8>>, site: Option<String>) -> Result<Job, Error> {
        let (n, places) = {
            let mut world = self.world.lock().await;
            let places = world.place(manifest.work.np, site.as_deref())?;
            let n = world.new_job();
            world.restoring.insert(n);
            (n, places)
        };
        let done = self.write_and_start(n, &manifest, ranks, &places, site.as_deref()).await;
        if done.is_err() {
            self.world.lock().await.restoring.remove(&n);
            self.sweep.notify_one();
        }
        done
    }

    /// Starts a job from a checkpoint that is stored here; that one stays as it is.
    pub async fn restore_stored(self: &Arc<Hub>, id: u64, site: Option<String>) -> Result<Job, Error> {
        let hub = self.clone();
        let work = tokio::spawn(async move {
            let _turn = hub.archiving.acquire().await.map_err(Error::internal)?;
            let (manifest, ranks) = hub.collect(id, ARCHIVE_MAX).await?;
            hub.begin_restored(manifest, ranks, site).await
        });
        work.await.map_err(Error::internal)?
    }

    async fn write_and_start(&self, n: u64, manifest: &Manifest, ranks: Vec<Vec<u8>>, places: &[String], site: Option<&str>) -> Result<Job, Error> {
        let prefix = format!("job-{n}/restored");
        for (rank, bytes) in ranks.into_iter().enumerate() {
            self.put_bytes(CHECKPOINTS, &format!("{prefix}/rank-{rank}"), &places[rank], bytes).await?;
        }
        let mut world = self.world.lock().await;
        // The room may be gone meanwhile; the snapshots are read from wherever they are.
        let places = world.place(manifest.work.np, site)?;
        let job = self.admit(&mut world, n, manifest.work.clone(), &places, prefix).await?;
        world.restoring.remove(&n);
        let message = format!("from checkpoint {} of {} ({})", manifest.checkpoint, manifest.job, manifest.work.name);
        self.events.add("checkpoint.restored", &job.id, message).await;
        Ok(job)
    }
}
