//! An installation in a temporary folder: authority, namenode, and nodes that serve each other over mutual TLS.
#![allow(dead_code)] // each test binary uses a part

pub mod gate;
pub mod line;
pub mod linear;
pub mod stored;
pub mod weather;

use base::{
    SiteId,
    identity::{Authority, Dialer, HUB, peer_name, protocol, site_name},
    unit::Bytes as Size,
};
use geds::{ALPN, BucketName, Catalog, Key, Namenode, Node, Object, Options, Persist, SpillOptions, Tuning, Writer};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::TcpListener;

pub fn bucket(name: &str) -> BucketName {
    BucketName::new(name).unwrap()
}
pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}
pub fn site(name: &str) -> SiteId {
    SiteId::new(name).unwrap()
}

pub async fn namenode(folder: &Path) -> Namenode {
    Namenode::open(folder.join("names")).await.unwrap()
}

pub struct Installation {
    pub temp: tempfile::TempDir,
    pub authority: Authority,
    pub namenode: Namenode,
    pub limit: u64,
    pub persist: Option<Persist>,
    pub catalog: Arc<dyn Catalog>,
    /// Patient about nothing and spills only when asked, unless a test wants it otherwise.
    pub tuning: Tuning,
}

/// A node with its accept loop, which ends when this is dropped or stopped.
pub struct Running {
    pub node: Node,
    pub address: String,
    /// Connections taken in so far.
    pub met: Arc<std::sync::atomic::AtomicUsize>,
    hang_up: Arc<tokio::sync::Notify>,
    hung_up: Arc<tokio::sync::Notify>,
    accept: tokio::task::JoinHandle<()>,
}

impl std::ops::Deref for Running {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}
impl Drop for Running {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl Running {
    /// Closes all connections that were taken in.
    pub async fn hang_up(&self) {
        self.hang_up.notify_one();
        self.hung_up.notified().await;
    }

    /// Ends the node as a kill would, as far as its folder and port are concerned.
    pub async fn stop(mut self) {
        self.accept.abort();
        let _ = (&mut self.accept).await;
    }
}

impl Installation {
    pub async fn new() -> Installation {
        Installation::at(tempfile::tempdir().unwrap()).await
    }

    /// Where there may be something.
    pub async fn at(temp: tempfile::TempDir) -> Installation {
        let namenode = namenode(temp.path()).await;
        namenode.create_bucket(&bucket("data")).await.unwrap();
        Installation {
            authority: Authority::open(&temp.path().join("ca")).unwrap(),
            catalog: Arc::new(namenode.clone()),
            namenode,
            limit: 64 << 20,
            persist: None,
            tuning: Tuning {
                wait: std::time::Duration::ZERO,
                spill: SpillOptions { automatic: false, ..SpillOptions::default() },
                ..Tuning::default()
            },
            temp,
        }
    }

    /// Lets another process have the namenode.
    pub async fn lend_namenode(&self) {
        self.namenode.close().await;
    }
    pub async fn take_namenode_back(&mut self) {
        self.namenode = namenode(self.temp.path()).await;
        self.catalog = Arc::new(self.namenode.clone());
    }

    pub fn with_folder_persist(mut self) -> Installation {
        self.persist = Some(Persist::folder(self.persist_path()).unwrap());
        self
    }
    pub fn persist_path(&self) -> PathBuf {
        self.temp.path().join("persist")
    }
    pub fn folder(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }
    pub fn dialer(&self, name: &str) -> Dialer {
        self.authority.issue(name).unwrap().dialer().unwrap()
    }
    pub fn hub(&self) -> Dialer {
        self.dialer(HUB)
    }

    pub fn options(&self, name: &str, address: String) -> Options {
        Options {
            site: site(name),
            folder: self.folder(name),
            limit: Size(self.limit),
            dialer: self.dialer(&site_name(&site(name))),
            catalog: self.catalog.clone(),
            persist: self.persist.clone(),
            address,
        }
    }

    pub async fn node(&self, name: &str) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = self.authority.issue(&site_name(&site(name))).unwrap().acceptor(&[ALPN]).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let node = loop {
            match Node::open_with(self.options(name, address.clone()), self.tuning.clone()).await {
                Ok(node) => break node,
                // The tasks of the one before end a moment after it.
                Err(geds::Error::BadValue { what: "folder", .. }) if std::time::Instant::now() < end => tokio::task::yield_now().await,
                Err(e) => panic!("{e}"),
            }
        };
        let weak = node.clone();
        let met = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = met.clone();
        let (hang_up, hung_up) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let (ask, done) = (hang_up.clone(), hung_up.clone());
        let accept = tokio::spawn(async move {
            // Dropped with this task, connections end with their node.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (tcp, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    () = ask.notified() => {
                        connections.shutdown().await;
                        done.notify_one();
                        continue;
                    }
                };
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let (acceptor, node) = (acceptor.clone(), weak.clone());
                connections.spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let tls = tls.into();
                    assert_eq!(protocol(&tls).as_deref(), Some(ALPN));
                    let peer = peer_name(&tls).unwrap();
                    let _ = node.serve_peer(tls, &peer).await;
                });
            }
        });
        Running { node, address, met, hang_up, hung_up, accept }
    }
}

/// Bytes that differ along the object and between objects.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}

pub async fn put(node: &Node, name: &str, data: &[u8]) -> geds::ObjectMeta {
    node.put(&bucket("data"), &key(name), data.to_vec().into()).await.unwrap()
}
pub async fn get(node: &Node, name: &str) -> geds::Result<Object> {
    node.open_object(&bucket("data"), &key(name)).await
}
pub async fn create(node: &Node, name: &str) -> Writer {
    node.create(&bucket("data"), &key(name)).await.unwrap()
}

/// Objects on a node.
pub fn count(node: &Node) -> u64 {
    let text = node.metrics();
    let line = text.lines().find_map(|line| line.strip_prefix("cloudskin_geds_objects ")).unwrap();
    line.parse().unwrap()
}

/// Bytes of blocks that a node's folder has on the disk, without its journal.
pub fn on_disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let all = ["open", "sealed", "segments", "append"].iter().flat_map(|name| std::fs::read_dir(folder.join(name)).unwrap());
    // By their numbers: a file that is moved while they are looked at is seen twice.
    let files: std::collections::HashMap<u64, u64> = all.filter_map(|entry| entry.unwrap().metadata().ok()).map(|meta| (meta.ino(), meta.blocks() * 512)).collect();
    files.values().sum()
}

/// Changes a bit of an object where it lies on a node's disk, plain. The node must not be there.
pub fn damage(folder: &Path, content: &[u8]) {
    let start = &content[..content.len().min(64)];
    for name in ["segments", "sealed"] {
        for entry in std::fs::read_dir(folder.join(name)).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(start.len()).position(|window| window == start) {
                bytes[at + content.len() / 2] ^= 1;
                return std::fs::write(&path, bytes).unwrap();
            }
        }
    }
    panic!("it is not in {}", folder.display());
}

/// Files of a node's large objects: (being written, sealed).
pub fn files(folder: &Path) -> (usize, usize) {
    let count = |name| std::fs::read_dir(folder.join(name)).unwrap().count();
    (count("open"), count("sealed"))
}

/// Waits for something that happens in the background.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed().as_secs() < 20, "waited 20 s in vain: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
