//! Files to the hub and from it, in pieces, so that no object has to fit into memory.
//!
//! A fetched file appears whole or not at all: it is written beside its name and renamed. What is there already and no plain file
//! (a pipe, `/dev/stdout`) is written to as it is: a rename would take its place.

use crate::{client::{Call, Client}, failure::fail, progress};
use anyhow::Context;
use base::Kind;
use serde::de::DeserializeOwned;
use std::path::{Component, Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes read from a file at once.
const PIECE: usize = 256 << 10;

/// Sends a file as a call's body.
pub async fn send<T: DeserializeOwned>(client: &Client, method: reqwest::Method, call: Call, path: &Path) -> anyhow::Result<T> {
    send_after(client, method, call, path, 0).await
}

/// [`send`] without the file's first `skip` bytes.
pub async fn send_after<T: DeserializeOwned>(client: &Client, method: reqwest::Method, call: Call, path: &Path, skip: u64) -> anyhow::Result<T> {
    use tokio::io::AsyncSeekExt;
    let open = || format!("read {}", path.display());
    let mut file = tokio::fs::File::open(path).await.with_context(open)?;
    let meta = file.metadata().await.with_context(open)?;
    if !meta.is_file() {
        return Err(fail(Kind::InvalidArgument, format!("{} is not a file", path.display())));
    }
    file.seek(std::io::SeekFrom::Start(skip)).await.with_context(open)?;
    let length = meta.len().saturating_sub(skip);
    let bar = progress::bytes(&path.file_name().unwrap_or_default().to_string_lossy(), Some(length));
    let moving = bar.clone();
    let pieces = futures::stream::try_unfold(file, move |mut file| {
        let bar = moving.clone();
        async move {
            let mut piece = bytes::BytesMut::with_capacity(PIECE);
            let n = file.read_buf(&mut piece).await?;
            bar.inc(n as u64);
            Ok::<_, std::io::Error>((n > 0).then(|| (piece.freeze(), file)))
        }
    });
    let sent = client.upload(method, call, reqwest::Body::wrap_stream(pieces), length).await;
    bar.finish_and_clear();
    sent
}

/// Fetches a call's answer into a file and returns the number of bytes.
pub async fn fetch(client: &Client, call: Call, path: &Path) -> anyhow::Result<u64> {
    let write = || format!("write {}", path.display());
    let mut response = client.download(call).await?;
    let told = response.content_length();
    let bar = progress::bytes(&path.file_name().unwrap_or_default().to_string_lossy(), told);
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        tokio::fs::create_dir_all(parent).await.with_context(write)?;
    }
    let name = path.file_name().ok_or_else(|| fail(Kind::InvalidArgument, format!("{} is not a file's name", path.display())))?;
    let special = tokio::fs::symlink_metadata(path).await.is_ok_and(|m| !m.is_file());
    let part = if special { path.to_path_buf() } else { path.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id())) };
    let pieces = async {
        let mut file = tokio::fs::File::create(&part).await.with_context(write)?;
        let mut bytes = 0;
        while let Some(piece) = client.chunk(&mut response).await? {
            file.write_all(&piece).await.with_context(write)?;
            bytes += piece.len() as u64;
            bar.set_position(bytes);
        }
        file.flush().await.with_context(write)?;
        if told.is_some_and(|told| told != bytes) {
            return Err(fail(Kind::DataLoss, format!("{} ended after {bytes} of {} bytes", path.display(), told.unwrap_or(0))));
        }
        if !special {
            tokio::fs::rename(&part, path).await.with_context(write)?;
        }
        Ok(bytes)
    };
    let done = pieces.await;
    bar.finish_and_clear();
    if done.is_err() && !special {
        let _ = tokio::fs::remove_file(&part).await;
    }
    done
}

/// Where an object's key lies below a folder. Keys come from programs, so one that would leave the folder is refused.
pub fn below(folder: &Path, key: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(key);
    let plain = path.components().all(|c| matches!(c, Component::Normal(_))) && !key.is_empty() && !key.ends_with('/');
    if !plain {
        return Err(fail(Kind::InvalidArgument, format!("object key {key:?} can't be a file below {}; fetch it with `cloudskin store get` under a name of yours", folder.display())));
    }
    Ok(folder.join(path))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use axum::{Router, body::Bytes, extract::Path as At, routing::get};
    use std::sync::{Arc, Mutex};

    /// An empty folder of this test's own.
    pub fn temp(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("cloudskin-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[tokio::test]
    async fn bytes_come_back_as_they_went() {
        let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (put, read) = (kept.clone(), kept.clone());
        let route = get(move |_: At<(String, String)>| async move { read.lock().unwrap().clone() }).put(
            move |_: At<(String, String)>, body: Bytes| async move {
                *put.lock().unwrap() = body.to_vec();
                "{}"
            },
        );
        let router = Router::new().route("/v1/objects/{b}/{*k}", route).layer(axum::extract::DefaultBodyLimit::disable());
        let client = crate::client::tests::fake(router).await;
        let folder = temp("files");
        let (a, b) = (folder.join("a"), folder.join("new/b"));
        let data: Vec<u8> = (0..3_000_001u32).map(|i| (i * 7) as u8).collect();
        std::fs::write(&a, &data).unwrap();
        let _: serde_json::Value = send(&client, reqwest::Method::PUT, Call::object("x", "a"), &a).await.unwrap();
        assert_eq!(fetch(&client, Call::object("x", "a"), &b).await.unwrap(), data.len() as u64);
        assert!(std::fs::read(&b).unwrap() == data);
        let (c, link) = (folder.join("c"), folder.join("link"));
        std::os::unix::fs::symlink(&c, &link).unwrap();
        assert_eq!(fetch(&client, Call::object("x", "a"), &link).await.unwrap(), data.len() as u64);
        assert!(std::fs::read(&c).unwrap() == data && link.is_symlink(), "a link stays a link");
        assert!(send::<serde_json::Value>(&client, reqwest::Method::PUT, Call::object("x", "a"), &folder).await.is_err());
    }

    #[test]
    fn keys_stay_below_the_folder() {
        assert_eq!(below(Path::new("out"), "a/b.png").unwrap(), Path::new("out/a/b.png"));
        for bad in ["../x", "/etc/x", "a/../../x", "", "a/"] {
            assert!(below(Path::new("out"), bad).is_err(), "{bad}");
        }
    }
}
