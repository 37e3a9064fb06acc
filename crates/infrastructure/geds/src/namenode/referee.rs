//! Who leads, written down where both of a pair can see it, and changed by whoever still knows what it says.
//!
//! It is asked when a reign begins and when a standby becomes complete or is lost, never for a change of names. Two places: a folder that both see (one machine, or a
//! network file system with locks), or an object of a store that takes conditional writes (S3 and others).

use crate::{Error, Result};
use base::Kind;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion, path::Path as Location};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// What is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reign {
    /// Rises with each leader.
    pub term: u64,
    /// Rises with each writing, so that no two are the same.
    pub turn: u64,
    pub leader: String,
    /// Has everything that was acknowledged, and nothing is acknowledged without it; so it may take over.
    pub complete: Option<String>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Referee(Arc<Place>);

enum Place {
    Folder(PathBuf),
    Store { store: Arc<dyn ObjectStore>, at: Location },
}

const FILE: &str = "reign";

fn fail(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { action, path: path.clone(), source }
}

fn odd(message: impl std::fmt::Display) -> Error {
    Error::Remote { kind: Kind::DataLoss, message: format!("what says who leads can't be read: {message}") }
}

impl Referee {
    /// In a folder that both of the pair see.
    pub fn folder(path: impl Into<PathBuf>) -> Referee {
        Referee(Arc::new(Place::Folder(path.into())))
    }

    /// In a store that takes conditional writes, at this place.
    pub fn store(store: Arc<dyn ObjectStore>, at: impl Into<Location>) -> Referee {
        Referee(Arc::new(Place::Store { store, at: at.into() }))
    }

    /// `None`: nobody has led yet.
    pub async fn read(&self) -> Result<Option<Reign>> {
        match &*self.0 {
            Place::Folder(folder) => {
                let folder = folder.clone();
                crate::node::compute(move || locked(&folder, |path| read_file(path))).await?
            }
            Place::Store { store, at } => Ok(read_object(&**store, at).await?.map(|(reign, _)| reign)),
        }
    }

    /// Writes `new` if what is there is still what was `seen`. False: it isn't.
    pub async fn change(&self, seen: Option<&Reign>, new: &Reign) -> Result<bool> {
        match &*self.0 {
            Place::Folder(folder) => {
                let (folder, seen, new) = (folder.clone(), seen.cloned(), new.clone());
                let swap = move || {
                    locked(&folder, |path| {
                        if read_file(path)? != seen {
                            return Ok(false);
                        }
                        let temp = path.with_extension("new");
                        let text = written(&new)?;
                        let mut file = File::create(&temp).map_err(fail("create", &temp))?;
                        file.write_all(&text).and_then(|()| file.sync_all()).map_err(fail("write", &temp))?;
                        std::fs::rename(&temp, path).map_err(fail("rename", &temp))?;
                        super::log::sync_folder(&folder)?;
                        Ok(true)
                    })
                };
                crate::node::compute(swap).await?
            }
            Place::Store { store, at } => {
                let there = read_object(&**store, at).await?;
                if there.as_ref().map(|(reign, _)| reign) != seen {
                    return Ok(false);
                }
                let mode = there.map_or(PutMode::Create, |(_, version)| PutMode::Update(version));
                let text = written(new)?;
                match store.put_opts(at, text.into(), PutOptions::from(mode)).await {
                    Ok(_) => Ok(true),
                    Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
                    Err(source) => Err(Error::Persist { action: "write who leads to", location: at.to_string(), source }),
                }
            }
        }
    }
}

fn written(reign: &Reign) -> Result<Vec<u8>> {
    postcard::to_stdvec(reign).map_err(odd)
}

fn locked<T>(folder: &Path, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    crate::private::folder(folder).map_err(fail("create", folder))?;
    let path = folder.join("reign.lock");
    let lock = crate::private::lock(&path).map_err(fail("open", &path))?;
    lock.lock().map_err(fail("lock", &path))?;
    work(&folder.join(FILE))
}

fn read_file(path: &Path) -> Result<Option<Reign>> {
    match std::fs::read(path) {
        Ok(bytes) => postcard::from_bytes(&bytes).map(Some).map_err(odd),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(fail("read", path)(e)),
    }
}

async fn read_object(store: &dyn ObjectStore, at: &Location) -> Result<Option<(Reign, UpdateVersion)>> {
    let failed = |source| Error::Persist { action: "read who leads from", location: at.to_string(), source };
    let found = match store.get(at).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
    let bytes = found.bytes().await.map_err(failed)?;
    Ok(Some((postcard::from_bytes(&bytes).map_err(odd)?, version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn suite(referee: Referee) {
        assert_eq!(referee.read().await.unwrap(), None);
        let first = Reign { term: 1, turn: 1, leader: "a".into(), complete: None };
        assert!(referee.change(None, &first).await.unwrap());
        assert!(!referee.change(None, &first).await.unwrap(), "somebody was there before");
        let second = Reign { turn: 2, complete: Some("b".into()), ..first.clone() };
        assert!(referee.change(Some(&first), &second).await.unwrap());
        assert!(!referee.change(Some(&first), &second).await.unwrap(), "it says something else by now");
        assert_eq!(referee.read().await.unwrap(), Some(second.clone()));
        // Of many who try at once, one wins.
        let tries = (0..16).map(|n| {
            let (referee, seen) = (referee.clone(), second.clone());
            tokio::spawn(async move {
                let new = Reign { term: 2, turn: 3, leader: format!("n{n}"), complete: None };
                referee.change(Some(&seen), &new).await.unwrap()
            })
        });
        let won = futures::future::join_all(tries.collect::<Vec<_>>()).await;
        assert_eq!(won.into_iter().filter(|won| *won.as_ref().unwrap()).count(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_wins_in_a_folder_and_in_a_store() {
        let temp = tempfile::tempdir().unwrap();
        suite(Referee::folder(temp.path().join("referee"))).await;
        suite(Referee::store(Arc::new(object_store::memory::InMemory::new()), "reign")).await;
    }
}
