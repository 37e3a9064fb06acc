//! Whether a folder of the persistency tier is still the one that it was. A disk, or a file system of the network, may be unmounted under a program; what is written then would lie on another
//! disk, below the mount point, where nobody finds it when the first one is back.
//!
//! The folder is known by its number on its file system. A file system that is mounted again may have another one: then one of the objects that were put or read last has to be there.

use async_trait::async_trait;
use futures::{StreamExt, TryFutureExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, local::LocalFileSystem,
    path::Path as Location,
};
use std::{
    collections::VecDeque,
    fmt, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

/// Objects that would be known again.
const KNOWN_MAX: usize = 8;

/// A folder as a store of objects, which answers only as long as it is the one that it was.
#[derive(Clone)]
pub(crate) struct Home(Arc<Inner>);

struct Inner {
    files: LocalFileSystem,
    root: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    /// Of the file system, and of the folder there.
    number: (u64, u64),
    /// Put or read last.
    objects: VecDeque<Location>,
}

fn number_of(folder: &Path) -> io::Result<(u64, u64)> {
    std::fs::metadata(folder).map(|meta| (meta.dev(), meta.ino()))
}

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "folder", source: source.into() }
}

impl Home {
    pub fn open(root: &Path) -> Result<Home> {
        let files = LocalFileSystem::new_with_prefix(root)?.with_fsync(true);
        let number = number_of(root).map_err(generic)?;
        Ok(Home(Arc::new(Inner { files, root: root.into(), known: Mutex::new(Known { number, objects: VecDeque::new() }) })))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Where an object is, or would be.
    pub fn path_of(&self, location: &Location) -> Result<PathBuf> {
        self.0.files.path_to_filesystem(location)
    }

    /// An error: the folder is another one, or none. It may wait for a device.
    pub fn check(&self) -> io::Result<()> {
        let why = match number_of(&self.0.root) {
            Ok(number) => {
                let mut known = self.known();
                let is_back = || known.objects.iter().any(|object| self.path_of(object).is_ok_and(|path| path.exists()));
                if number == known.number || is_back() {
                    known.number = number;
                    return Ok(());
                }
                "another one lies there, without what was put or read last".into()
            }
            Err(e) => e.to_string(),
        };
        let root = self.0.root.display();
        Err(io::Error::other(format!("the folder {root} is not the one that it was ({why}): mount its file system again; if what was brought there is gone for good, start this program again")))
    }

    /// [`Home::check`], where it holds up nobody.
    async fn checked(&self) -> Result<()> {
        let home = self.clone();
        tokio::task::spawn_blocking(move || home.check()).await?.map_err(generic)
    }

    /// Notes that an object is there.
    pub fn has(&self, location: &Location) {
        let objects = &mut self.known().objects;
        if !objects.contains(location) {
            objects.push_back(location.clone());
            if objects.len() > KNOWN_MAX {
                objects.pop_front();
            }
        }
    }

    /// What is not there may be elsewhere.
    async fn or_away<T>(&self, done: Result<T>) -> Result<T> {
        if let Err(Error::NotFound { .. }) = &done {
            self.checked().await?;
        }
        done
    }

    /// Writes, and says that it is done only if it is done there.
    async fn there<T>(&self, location: &Location, write: impl Future<Output = Result<T>>) -> Result<T> {
        self.checked().await?;
        let done = write.await?;
        self.checked().await?;
        self.has(location);
        Ok(done)
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Home({})", self.0.root.display())
    }
}
impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.files.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Home {
    async fn put_opts(&self, location: &Location, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.there(location, self.0.files.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, location: &Location, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.checked().await?;
        self.0.files.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Location, options: GetOptions) -> Result<GetResult> {
        let got = self.or_away(self.0.files.get_opts(location, options).await).await?;
        self.has(location);
        Ok(got)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Location>>) -> BoxStream<'static, Result<Location>> {
        let home = self.clone();
        let deleted = self.0.files.delete_stream(locations);
        deleted
            .then(move |done| {
                let home = home.clone();
                async move {
                    let location = home.or_away(done).await?;
                    home.known().objects.retain(|object| *object != location);
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Location>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (home, listed) = (self.clone(), self.0.files.list(prefix));
        async move { home.checked().await }.map_ok(|()| listed).try_flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Location>) -> Result<ListResult> {
        self.checked().await?;
        self.0.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Location, to: &Location, options: CopyOptions) -> Result<()> {
        self.there(to, self.0.files.copy_opts(from, to, options)).await
    }
}

#[cfg(test)]
mod tests {
    use crate::Persist;
    use base::Kind;
    use std::fs;

    /// A disk that is unmounted leaves another folder in its place, and comes back.
    #[tokio::test]
    async fn a_folder_that_is_another_one_takes_and_tells_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let (place, aside) = (temp.path().join("store"), temp.path().join("unmounted"));
        let persist = Persist::folder(&place).unwrap();
        assert!(persist.create("objects/a", "first".into()).await.unwrap());
        fs::rename(&place, &aside).unwrap();
        for below in [false, true] {
            if below {
                fs::create_dir(&place).unwrap();
            }
            let read = persist.read("objects/a", 0..5).await.unwrap_err();
            let put = persist.create("objects/b", "second".into()).await.unwrap_err();
            let removed = persist.delete("objects/a").await.unwrap_err();
            for e in [read, put, removed] {
                assert_eq!(e.kind(), Kind::Unavailable, "{e}");
                assert!(e.to_string().contains("is not the one that it was") && e.to_string().contains("mount"), "{e}");
            }
            assert!(!below || fs::read_dir(&place).unwrap().next().is_none(), "something lies below the mount point");
            assert!(below || !place.exists(), "the folder was made anew");
        }
        // It is back, by another number: one copy is as good as the other.
        fs::remove_dir(&place).unwrap();
        fs::create_dir_all(place.join("objects")).unwrap();
        fs::copy(aside.join("objects/a"), place.join("objects/a")).unwrap();
        assert!(persist.create("objects/b", "second".into()).await.unwrap());
        assert_eq!(persist.read("objects/a", 0..5).await.unwrap(), "first");
        assert_eq!(persist.read("objects/none", 0..5).await.unwrap_err().kind(), Kind::NotFound);
    }
}
