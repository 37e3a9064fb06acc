//! A store for the programs of one user on one machine, without a hub.
//!
//! ```text
//! <folder>/lock         held while the folder is being made
//! <folder>/ca           the authority whose certificates the processes show each other
//! <folder>/names        the namenode's log; <folder>/names.sock: where it listens
//! <folder>/sites/<site> what the process that calls itself so holds
//! <folder>/agent.sock   where the folder's agent listens, if there is one
//! ```
//!
//! Each process is a node with a site of its own. Whoever finds no namenode on the socket becomes it, beside his own work; when he ends, the next one who asks
//! takes over from the log, which the lock on its folder keeps to one. Processes read each other's objects as peers, over mutual TLS on the loopback. What a
//! process holds can be read again by others when a process with its site's name is there.
//!
//! Or one of them is the agent ([`Shared::agent`]), and the others attach to it ([`Shared::attach`]): they have no part of their own, read the agent's without a copy, and what
//! they sealed is there when they are gone.

use crate::{ALPN, Attached, Blocking, BucketPolicy, Caller, Error, Mode, Namenode, Node, Options, Persist, RemoteCatalog, Result, Tuning, private};
use base::{
    Kind, SiteId,
    identity::{Authority, peer_name, protocol, site_name},
    unit::Bytes as Size,
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::{TcpListener, UnixStream};

/// How long the end waits for tasks that still run.
const END: Duration = Duration::from_secs(5);
/// How long a call looks for the namenode: one that has just begun, or one that another process is about to become.
const LOOK: Duration = Duration::from_secs(8);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a program's store is made of.
#[derive(Clone, Debug)]
pub struct SharedOptions {
    /// The same for all who share; made if it isn't there.
    pub folder: PathBuf,
    /// The name of this process among them.
    pub site: SiteId,
    /// How much of the disk this process's objects may use.
    pub limit: Size,
    /// How much memory the objects may use that are wanted there; `None`: no such tier.
    pub memory: Option<Size>,
}

/// How long the end of an agent may be put off by what is to be uploaded first.
const DRAIN: Duration = Duration::from_secs(20);

/// A node with the threads that it needs. To be made, used and dropped on threads that are not a runtime's.
pub struct Shared {
    node: Node,
    runtime: Option<tokio::runtime::Runtime>,
    /// What is owed to it is brought there before the end.
    persist: bool,
}

fn file(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |source| Error::File { action, path: path.clone(), source }
}

fn identity(error: impl std::fmt::Display) -> Error {
    Error::Remote { kind: Kind::Internal, message: format!("certificates of the store: {error}") }
}

impl Shared {
    pub fn open(options: SharedOptions) -> Result<Shared> {
        Shared::open_with(options, None)
    }

    /// [`Shared::open`], and others of this machine may attach to this process's part. With a persistency tier all that is sealed is uploaded soon (write-behind), and makes
    /// way when room is wanted.
    pub fn agent(options: SharedOptions, persist: Option<Persist>) -> Result<Shared> {
        let socket = Shared::socket(&options.folder);
        let shared = Shared::open_with(options, persist)?;
        let runtime = shared.runtime.as_ref().expect("it is taken by its end only");
        runtime.block_on(async {
            let (node, path) = (shared.node.clone(), socket.clone());
            let mut agent = tokio::spawn(async move { node.share(&path).await });
            let end = tokio::time::Instant::now() + LOOK;
            loop {
                tokio::select! {
                    ended = &mut agent => match ended {
                        Ok(Err(e)) => return Err(e),
                        _ => return Err(identity("the agent has ended")),
                    },
                    // What listened there before has been removed by now, or the one that is there is another agent's, and ours has ended.
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
                match UnixStream::connect(&socket).await {
                    Ok(_) => return Ok(()),
                    Err(e) if tokio::time::Instant::now() > end => return Err(file("connect to", &socket)(e)),
                    Err(_) => {}
                }
            }
        })?;
        Ok(shared)
    }

    /// Attaches to the agent of a folder: one of these, or a site's (`cloudskin agent`), whose folder is the one that it keeps its data in.
    pub fn attach(folder: impl AsRef<Path>) -> Result<Attached> {
        Attached::open(Shared::socket(folder))
    }

    /// Where a folder's agent listens.
    pub fn socket(folder: impl AsRef<Path>) -> PathBuf {
        folder.as_ref().join("agent.sock")
    }

    fn open_with(options: SharedOptions, persist: Option<Persist>) -> Result<Shared> {
        let SharedOptions { folder, site, limit, memory } = options;
        private::folder(&folder).map_err(file("create", &folder))?;
        let own = {
            let path = folder.join("lock");
            let lock = private::lock(&path).map_err(file("open", &path))?;
            lock.lock().map_err(file("lock", &path))?;
            let authority = Authority::open(&folder.join("ca")).map_err(identity)?;
            authority.issue(&site_name(&site)).map_err(identity)?
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("geds")
            .enable_all()
            .build()
            .map_err(file("start threads for", &folder))?;
        let (acceptor, dialer) = (own.acceptor(&[ALPN]).map_err(identity)?, own.dialer().map_err(identity)?);
        let drains = persist.is_some();
        let node = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.map_err(file("listen for", &folder))?;
            let address = listener.local_addr().map_err(file("listen for", &folder))?.to_string();
            let options = Options {
                folder: folder.join("sites").join(site.as_str()),
                limit,
                dialer,
                catalog: Arc::new(catalog(folder.clone())),
                persist,
                address,
                site,
            };
            let tuning = if drains {
                Tuning { policy: BucketPolicy { mode: Mode::WriteBehind, ..BucketPolicy::default() }, ..Tuning::default() }
            } else {
                // Where nothing can be spilled, waiting for room helps only if somebody deletes.
                Tuning { wait: Duration::ZERO, ..Tuning::default() }
            };
            let node = Node::open_with(options, Tuning { memory, ..tuning }).await?;
            let serving = node.clone();
            tokio::spawn(async move {
                loop {
                    let Ok((tcp, _)) = listener.accept().await else {
                        // Too many open files, for instance: better later than never.
                        tokio::time::sleep(LOOK_AGAIN).await;
                        continue;
                    };
                    let (acceptor, node) = (acceptor.clone(), serving.clone());
                    tokio::spawn(async move {
                        let _ = tcp.set_nodelay(true);
                        let Ok(Ok(stream)) = tokio::time::timeout(LOOK, acceptor.accept(tcp)).await else { return };
                        let stream = stream.into();
                        let peer = peer_name(&stream).unwrap_or_default();
                        if protocol(&stream).as_deref() == Some(ALPN) {
                            if let Err(error) = node.serve_peer(stream, &peer).await {
                                tracing::debug!(peer, %error, "objects");
                            }
                        }
                    });
                }
            });
            Ok::<_, Error>(node)
        })?;
        Ok(Shared { node, runtime: Some(runtime), persist: drains })
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    pub fn blocking(&self) -> Blocking {
        self.node.blocking()
    }

    /// Waits until everything that was sealed here before is published, or has failed to be.
    pub fn settle(&self) {
        if let Some(runtime) = &self.runtime {
            runtime.block_on(self.node.settle());
        }
    }

    /// Waits until what was sealed here is published and, where there is a persistency tier, uploaded; then ends the node. Without one, objects in memory end with it.
    pub fn close(self) -> Result<()> {
        self.settle();
        match &self.runtime {
            Some(runtime) if self.persist => runtime.block_on(self.node.drain(DRAIN)).map(|_| ()),
            _ => Ok(()),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(END);
        }
    }
}

/// Asks the namenode on the socket, or becomes it.
fn catalog(folder: PathBuf) -> RemoteCatalog {
    let own: Arc<Mutex<Option<Namenode>>> = Arc::default();
    RemoteCatalog::over_sockets(move || {
        let (folder, own) = (folder.clone(), own.clone());
        async move {
            let socket = folder.join("names.sock");
            let end = tokio::time::Instant::now() + LOOK;
            loop {
                let error = match UnixStream::connect(&socket).await {
                    Ok(stream) => return Ok((stream, socket)),
                    Err(error) => error,
                };
                if tokio::time::Instant::now() > end {
                    return Err(file("connect to", &socket)(error));
                }
                let serves = own.lock().unwrap_or_else(|e| e.into_inner()).is_some();
                if !serves {
                    // An error is another process that is quicker, and will listen soon.
                    if let Ok(namenode) = Namenode::open(folder.join("names")).await {
                        *own.lock().unwrap_or_else(|e| e.into_inner()) = Some(namenode.clone());
                        let socket = socket.clone();
                        tokio::spawn(async move {
                            if let Err(error) = namenode.listen(&socket, Caller::Hub).await {
                                tracing::error!(%error, "the namenode of a shared store can't listen");
                            }
                        });
                    }
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    })
}
