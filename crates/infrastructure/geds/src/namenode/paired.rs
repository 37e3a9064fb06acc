//! One of a pair for as long as its process lives: it follows, leads, and follows again when the other one has taken over.
//!
//! ```text
//!  hub ── Paired "hub" ◀── geds-standby/1 ──▶ Paired "cloud" ── agent of the site cloud
//!                ▲                                   ▲
//!                └───── RemoteCatalog::leading ──────┘      asks whichever leads
//! ```
//!
//! What makes it safe is in `pair.rs`; here is only who does what when. It does not know who hosts it, or how the two find each other.

use super::{
    Caller, Namenode,
    client::{Io, LEADS_WITHIN, leads},
    log,
    pair,
    referee::Referee,
};
use crate::{Error, RemoteCatalog, Result};
use base::{
    Kind,
    identity::Dialer,
};
use futures::{FutureExt, future::BoxFuture};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::JoinHandle,
};

/// What the two of a pair speak, in the TLS handshake.
pub const STANDBY_ALPN: &str = "geds-standby/1";

/// In the folder of one of a pair: the other one may know more, so this one must not be opened alone.
const MARK: &str = "paired";
/// After a failure that is not the other one's absence: a full disk, for instance.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes on their way between this process and a namenode in it.
const PIPE_BYTES: usize = 256 << 10;

/// Refuses a folder whose namenode is one of a pair.
pub(super) fn alone(folder: &Path) -> Result<()> {
    if !folder.join(MARK).exists() {
        return Ok(());
    }
    let message = format!(
        "the namenode in {} is one of a pair, and the other one may know more: start it with its standby, or, if the other one is gone for good, remove {}",
        folder.display(),
        folder.join(MARK).display()
    );
    Err(Error::Remote { kind: Kind::FailedPrecondition, message })
}

fn mark(folder: &Path) -> Result<()> {
    let path = folder.join(MARK);
    crate::private::folder(folder).map_err(|source| Error::File { action: "create", path: folder.into(), source })?;
    std::fs::write(&path, b"").map_err(|source| Error::File { action: "write", path, source })?;
    log::sync_folder(folder)
}

/// Cheap to clone; all clones are the same. The last one that is dropped ends it.
#[derive(Clone)]
pub struct Paired {
    inner: Arc<Inner>,
}

struct Inner {
    own: watch::Sender<Option<Namenode>>,
    life: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(life) = self.life.get_mut().unwrap_or_else(|e| e.into_inner()).take() {
            life.abort();
        }
    }
}

impl Paired {
    /// Begins. To be called in a tokio runtime.
    ///
    /// `name`: this one's among the two. `begins`: it leads if nobody ever has; of the two it is the one whose folder had names before there was a pair. `dial` connects to where the other
    /// would let a standby follow ([`Paired::serve_standby`]).
    pub fn start<S, F>(
        folder: impl Into<PathBuf>,
        name: impl Into<String>,
        referee: Referee,
        begins: bool,
        dial: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<Paired>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Result<S>> + Send + 'static,
    {
        let (folder, name, dial) = (folder.into(), name.into(), Arc::new(dial));
        mark(&folder)?;
        let (own, _) = watch::channel(None);
        let told = own.clone();
        let life = async move {
            loop {
                let dial = dial.clone();
                match pair::open(folder.clone(), name.clone(), referee.clone(), begins, move || dial()).await {
                    Ok(namenode) => {
                        told.send_replace(Some(namenode.clone()));
                        namenode.deposed().await;
                        told.send_replace(None);
                        namenode.close().await;
                    }
                    Err(error) => {
                        tracing::error!(%error, name, folder = %folder.display(), "this one of two namenodes can neither lead nor follow; it is tried again");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        };
        let life = Mutex::new(Some(tokio::spawn(life)));
        Ok(Paired { inner: Arc::new(Inner { own, life }) })
    }

    /// The namenode, while this one leads.
    pub fn leading(&self) -> Option<Namenode> {
        self.inner.own.borrow().clone().filter(Namenode::leads)
    }

    /// Answers a client, as [`Namenode::serve`] does; while this one does not lead, hangs up.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, caller: Caller) -> Result<()> {
        match self.leading() {
            Some(namenode) => namenode.serve(stream, caller).await,
            None => Ok(()),
        }
    }

    /// Lets the other one follow over this connection; while this one does not lead, hangs up. The caller has made sure that it is the other one.
    pub async fn serve_standby<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Result<()> {
        match self.leading() {
            Some(namenode) => namenode.serve_standby(stream).await,
            None => Ok(()),
        }
    }

    /// Ends it and lets go of the folder.
    pub async fn close(&self) {
        let life = self.inner.life.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(life) = life {
            life.abort();
            let _ = life.await; // it was told to end
        }
        let own = self.inner.own.send_replace(None);
        if let Some(namenode) = own {
            namenode.close().await;
        }
    }
}

/// Where a namenode may be that leads.
#[derive(Clone)]
pub enum Seat {
    /// In this process; what is asked there may do what the caller may.
    Own(Paired, Caller),
    /// Elsewhere: the name that it must prove, and host:port.
    Remote { name: String, address: String },
}

impl RemoteCatalog {
    /// Asks whichever of several namenodes leads. `seats` tells at each connection where they may be, always in the same order.
    pub fn leading(dialer: Dialer, seats: impl Fn() -> Vec<Seat> + Send + Sync + 'static) -> RemoteCatalog {
        // Whoever has answered last is asked first: one that is gone with its machine costs some seconds.
        let first = Arc::new(AtomicUsize::new(0));
        RemoteCatalog::over(move || {
            let (dialer, seats, first) = (dialer.clone(), seats(), first.clone());
            async move {
                let (mut why, start) = (String::from("nobody has told where a namenode is"), first.load(Relaxed));
                for n in (0..seats.len()).map(|n| (start + n) % seats.len()) {
                    match seats[n].sit(&dialer, seats.len() == 1).await {
                        Ok(stream) => {
                            first.store(n, Relaxed);
                            return Ok(stream);
                        }
                        Err(e) => why = e,
                    }
                }
                Err(Error::Remote { kind: Kind::Unavailable, message: format!("the namenode can't be reached: {why}") })
            }
        })
    }
}

impl Seat {
    /// A connection to a namenode that leads. `only`: there is no other to ask, so it is not asked first whether it does; one that doesn't hangs up.
    fn sit<'a>(&'a self, dialer: &'a Dialer, only: bool) -> BoxFuture<'a, Result<Box<dyn Io>, String>> {
        async move {
            match self {
                Seat::Own(paired, caller) => {
                    let namenode = paired.leading().ok_or("the namenode of this process does not lead")?;
                    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
                    let caller = caller.clone();
                    tokio::spawn(async move {
                        if let Err(error) = namenode.serve(theirs, caller).await {
                            tracing::debug!(%error, "this process as a client of its own namenode");
                        }
                    });
                    Ok(Box::new(ours) as Box<dyn Io>)
                }
                Seat::Remote { name, address } => {
                    let met = async {
                        let mut stream = dialer.dial(name, address, super::META_ALPN).await.map_err(|e| e.to_string())?;
                        if only {
                            return Ok(Box::new(stream) as Box<dyn Io>);
                        }
                        leads(&mut stream).await.map_err(|e| format!("{name} at {address}: {e}"))?;
                        Ok(Box::new(stream) as Box<dyn Io>)
                    };
                    // The dialer has a bound of its own.
                    let within = if only { Duration::MAX } else { 2 * LEADS_WITHIN };
                    tokio::time::timeout(within, met).await.unwrap_or_else(|_| Err(format!("{name} at {address} does not answer")))
                }
            }
        }
        .boxed()
    }
}
