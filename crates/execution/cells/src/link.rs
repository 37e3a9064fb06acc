//! Between agents: the messages of ranks that are apart, and the way for cells that move. Protocol `cells/1` over mutual TLS.
//!
//! ```text
//!  connection := frame*          the first one says what it is for
//!  frame      := u32 length (little endian) | u8 kind | body
//!
//!  MESSAGES ──▶ MESSAGE*, ACK*   one connection in each direction, as long as both agents live
//!  MOVE     ◀─▶ one migration:   see `transfer`
//! ```
//!
//! Nothing here is reliable by itself: a connection that breaks loses what is in it. The fabric keeps a message until it is acknowledged;
//! it is sent again when the connection is back, when its receiver's place changes, and when no acknowledgement came for a while. Receivers
//! drop what they have seen. So a message may take any way, twice, through an agent that its receiver has just left.

use base::identity::{self, Dialer};
use base::SiteId;
use mpi::{Fabric, Header, Message, Rank, Wire};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsStream;

/// The protocol's name in a TLS handshake.
pub const ALPN: &str = "cells/1";

/// Largest frame: what a rank may have unreceived, and some.
const FRAME_MAX: usize = (1 << 30) + (1 << 20);
/// Between attempts to reach a peer.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long a peer may take nothing.
const STALL_MAX: Duration = Duration::from_secs(20);
/// How often the link looks for what got stuck.
const TICK: Duration = Duration::from_millis(20);
/// Messages without acknowledgement are sent again after so many of these.
const OLD_TICK: Duration = Duration::from_secs(1);
const OLD: u32 = 3;
/// Messages that are here before their rank is: bytes of all, and for how long when nobody knows their job.
const EARLY_MAX: usize = 64 << 20;
const EARLY_AGE: Duration = Duration::from_secs(30);
/// Small frames are gathered up to this before they are written.
const BATCH: usize = 64 << 10;

pub(crate) mod kind {
    pub const MESSAGES: u8 = 1;
    pub const MOVE: u8 = 2;
    pub const MESSAGE: u8 = 3;
    pub const ACK: u8 = 4;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here is a few map operations, so a panic elsewhere leaves the data whole.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Reads one frame. The buffer grows with what arrives, not with what the length promises.
pub(crate) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let length = stream.read_u32_le().await? as usize;
    if !(1..=FRAME_MAX).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes; 1 to {FRAME_MAX} are allowed")));
    }
    let kind = stream.read_u8().await?;
    let mut body = Vec::with_capacity((length - 1).min(1 << 20));
    let got = (&mut *stream).take(length as u64 - 1).read_to_end(&mut body).await?;
    if got != length - 1 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((kind, body))
}

pub(crate) fn frame_head(kind: u8, body: usize) -> io::Result<[u8; 5]> {
    if body >= FRAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{body} bytes are too many for one frame of at most {FRAME_MAX}")));
    }
    let mut head = [0; 5];
    head[..4].copy_from_slice(&(body as u32 + 1).to_le_bytes());
    head[4] = kind;
    Ok(head)
}

/// A job's name and how often it was started again: ranks of an older life must not be heard.
pub type Life = (String, u32);

/// Where a rank is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct At {
    pub site: String,
    /// host:port of the site's data port.
    pub address: String,
    /// Rises with each move; what has a lower one is out of date.
    pub epoch: u64,
}

enum Out {
    Message(Arc<Life>, Message),
    Ack(Arc<Life>, Rank, Rank, u64),
}

/// All connections of an agent that carry messages, and the jobs that have ranks here. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    inner: Arc<Inner>,
}

struct Inner {
    site: SiteId,
    dialer: Dialer,
    handle: tokio::runtime::Handle,
    peers: Mutex<HashMap<String, Arc<Peer>>>,
    routes: Mutex<HashMap<Life, Arc<Route>>>,
    early: Mutex<VecDeque<Early>>,
    early_bytes: AtomicUsize,
}

/// A message that is here before its rank.
struct Early {
    since: Instant,
    life: Arc<Life>,
    /// The site that sent it.
    from: Arc<str>,
    message: Message,
}

impl Early {
    fn bytes(&self) -> usize {
        self.message.data.len() + 128
    }
}

struct Peer {
    address: Mutex<String>,
    up: AtomicBool,
    queued: AtomicUsize,
    queue: mpsc::UnboundedSender<Out>,
}

/// The ways to all ranks of a job.
pub struct Route {
    life: Arc<Life>,
    link: Weak<Inner>,
    places: RwLock<Vec<At>>,
    /// Every site that has or had a rank of the job: whose messages are heard.
    sites: RwLock<HashSet<String>>,
    fabric: RwLock<Weak<Fabric>>,
}

struct Way(Arc<Route>);

impl Wire for Way {
    fn send(&self, message: Message) {
        let route = &self.0;
        let Some(link) = route.link.upgrade() else { return };
        let at = route.at(message.header.dst);
        if at.site == link.site.as_str() {
            // It is to be here and is not yet, or not any more.
            link.keep_early(Early { since: Instant::now(), life: route.life.clone(), from: link.site.as_str().into(), message });
        } else {
            link.send(&at, Out::Message(route.life.clone(), message));
        }
    }

    fn acknowledge(&self, src: Rank, dst: Rank, seq: u64) {
        let route = &self.0;
        let Some(link) = route.link.upgrade() else { return };
        let at = route.at(src);
        if at.site == link.site.as_str() {
            // False while it is on its way: then it sends the message again, which is acknowledged again.
            if let Some(fabric) = route.fabric() {
                fabric.acknowledged(src, dst, seq);
            }
        } else {
            link.send(&at, Out::Ack(route.life.clone(), src, dst, seq));
        }
    }
}

impl Route {
    pub fn at(&self, rank: Rank) -> At {
        let places = self.places.read().unwrap_or_else(|e| e.into_inner());
        places.get(rank.index()).cloned().unwrap_or_default()
    }

    /// Whether a site may speak for ranks of this job: the hub has put some there at some time.
    fn hears(&self, site: &str) -> bool {
        self.sites.read().unwrap_or_else(|e| e.into_inner()).contains(site)
    }

    fn fabric(&self) -> Option<Arc<Fabric>> {
        self.fabric.read().unwrap_or_else(|e| e.into_inner()).upgrade()
    }

    /// Takes in where ranks are now; older news is dropped. What waits for them is sent again.
    pub fn learn(&self, news: impl IntoIterator<Item = (Rank, At)>) {
        let mut changed = false;
        {
            let mut places = self.places.write().unwrap_or_else(|e| e.into_inner());
            let mut sites = self.sites.write().unwrap_or_else(|e| e.into_inner());
            for (rank, at) in news {
                if !sites.contains(&at.site) {
                    sites.insert(at.site.clone());
                }
                if let Some(place) = places.get_mut(rank.index()).filter(|p| p.epoch < at.epoch || p.epoch == at.epoch && **p != at) {
                    *place = at;
                    changed = true;
                }
            }
        }
        if changed && let Some(fabric) = self.fabric() {
            fabric.resend();
        }
    }
}

impl Link {
    /// `site` is this agent's. To be called on a Tokio runtime that lives as long as the link.
    pub fn new(site: SiteId, dialer: Dialer) -> Link {
        let inner = Arc::new(Inner {
            site,
            dialer,
            handle: tokio::runtime::Handle::current(),
            peers: Mutex::default(),
            routes: Mutex::default(),
            early: Mutex::default(),
            early_bytes: AtomicUsize::new(0),
        });
        tokio::spawn(tend(Arc::downgrade(&inner)));
        Link { inner }
    }

    /// A job of `size` ranks: what its ranks here share, and the ways to the others. [`Link::close`] ends it.
    pub fn open(&self, life: Life, size: u32) -> (Arc<Fabric>, Arc<Route>) {
        let route = Arc::new(Route {
            life: Arc::new(life.clone()),
            link: Arc::downgrade(&self.inner),
            places: RwLock::new(vec![At::default(); size as usize]),
            sites: RwLock::new(HashSet::from([self.inner.site.to_string()])),
            fabric: RwLock::default(),
        });
        let fabric = Arc::new(Fabric::new(size, Box::new(Way(route.clone()))));
        *route.fabric.write().unwrap_or_else(|e| e.into_inner()) = Arc::downgrade(&fabric);
        lock(&self.inner.routes).insert(life, route.clone());
        (fabric, route)
    }

    pub fn close(&self, life: &Life) {
        lock(&self.inner.routes).remove(life);
    }

    /// A connection for one migration, with its first frame sent. For plain threads.
    pub(crate) fn open_move(&self, site: &SiteId, address: &str, offer: &[u8], interrupt: &Interrupt) -> io::Result<Stream> {
        let dialled = self.inner.handle.block_on(self.inner.dialer.dial(&identity::site_name(site), address, ALPN));
        let dialled = dialled.map_err(io::Error::other)?;
        notice_silence(&dialled);
        let mut stream = Stream::new(dialled, self.inner.handle.clone());
        stream.interrupt = interrupt.clone();
        stream.send(kind::MOVE, &[offer])?;
        Ok(stream)
    }

    /// Serves a connection on which `cells/1` was agreed. Messages are taken in until it ends; a migration is returned, with its first frame.
    pub async fn serve(&self, stream: TlsStream<TcpStream>) -> io::Result<Option<crate::transfer::Arrival>> {
        let peer = identity::peer_name(&stream).and_then(|name| identity::site_of(&name));
        let peer: Arc<str> = peer.ok_or_else(|| invalid("its sender is no site"))?.as_str().into();
        let mut stream = BufReader::with_capacity(BATCH, stream);
        match read_frame(&mut stream).await? {
            (kind::MESSAGES, _) => {}
            // The opener waits for an answer before it sends more, so nothing is left in the buffer.
            (kind::MOVE, body) => {
                let stream = Stream::new(stream.into_inner(), self.inner.handle.clone());
                return crate::transfer::Arrival::new(stream, &body).map(Some);
            }
            (other, _) => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a connection can't begin with a frame of kind {other}"))),
        }
        loop {
            match read_frame(&mut stream).await {
                Ok((kind, body)) => self.inner.take_in(&peer, kind, body)?,
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

fn invalid(e: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a frame can't be read: {e}"))
}

/// The body of a frame with a message: whose it is, and its data.
pub(crate) fn read_message(body: &[u8]) -> io::Result<((Life, Header), &[u8])> {
    postcard::take_from_bytes(body).map_err(invalid)
}

/// The body of a frame that says what has come.
pub(crate) fn read_acknowledgement(body: &[u8]) -> io::Result<(Life, Rank, Rank, u64)> {
    postcard::from_bytes(body).map_err(invalid)
}

impl Inner {
    fn route(&self, life: &Life) -> Option<Arc<Route>> {
        lock(&self.routes).get(life).cloned()
    }

    fn take_in(self: &Arc<Self>, from: &Arc<str>, kind: u8, body: Vec<u8>) -> io::Result<()> {
        match kind {
            kind::MESSAGE => {
                let ((life, header), data) = read_message(&body)?;
                let message = Message { header, data: data.into() };
                // Its job may be about to start here.
                let Some(route) = self.route(&life) else {
                    self.keep_early(Early { since: Instant::now(), life: Arc::new(life), from: from.clone(), message });
                    return Ok(());
                };
                match route.fabric() {
                    Some(_) if !route.hears(from) => tracing::warn!(%from, job = life.0, "a message for a job that has nothing at its sender's site"),
                    Some(fabric) if header.src.0 < fabric.size() && header.dst.0 < fabric.size() => fabric.deposit(message),
                    Some(fabric) => return Err(invalid(format!("ranks {} and {} in a job of {}", header.src.0, header.dst.0, fabric.size()))),
                    None => {}
                }
            }
            kind::ACK => {
                let (life, src, dst, seq) = read_acknowledgement(&body)?;
                let Some(route) = self.route(&life) else { return Ok(()) };
                let Some(fabric) = route.fabric().filter(|f| src.0 < f.size() && route.hears(from)) else { return Ok(()) };
                if !fabric.acknowledged(src, dst, seq) {
                    let at = route.at(src);
                    if at.site != self.site.as_str() {
                        self.send(&at, Out::Ack(route.life.clone(), src, dst, seq));
                    }
                }
            }
            other => return Err(invalid(format!("kind {other} among messages"))),
        }
        Ok(())
    }

    /// Keeps a message for a rank that is about to be here. What finds no room is sent again by its sender.
    fn keep_early(&self, early: Early) {
        let bytes = early.bytes();
        if self.early_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > EARLY_MAX {
            self.early_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return;
        }
        lock(&self.early).push_back(early);
    }

    /// Tries once more what came early.
    fn retry_early(&self) {
        for early in std::mem::take(&mut *lock(&self.early)) {
            let route = self.route(&early.life);
            if route.is_none() && early.since.elapsed() < EARLY_AGE {
                lock(&self.early).push_back(early);
                continue;
            }
            self.early_bytes.fetch_sub(early.bytes(), Ordering::Relaxed);
            // The rank is here now, or somewhere else by now; if neither, the message comes back to this list.
            let fabric = route.filter(|r| r.hears(&early.from)).and_then(|r| r.fabric());
            if let Some(fabric) = fabric.filter(|f| early.message.header.src.0 < f.size() && early.message.header.dst.0 < f.size()) {
                fabric.deposit(early.message);
            }
        }
    }

    fn send(self: &Arc<Self>, at: &At, out: Out) {
        if at.site.is_empty() || at.address.is_empty() {
            return; // nobody knows yet; it is sent again when somebody does
        }
        let peer = {
            let mut peers = lock(&self.peers);
            match peers.get(&at.site) {
                Some(peer) => peer.clone(),
                None => {
                    let Ok(site) = SiteId::new(&at.site) else { return };
                    let (queue, items) = mpsc::unbounded_channel();
                    let peer =
                        Arc::new(Peer { address: Mutex::new(at.address.clone()), up: AtomicBool::new(true), queued: AtomicUsize::new(0), queue });
                    peers.insert(at.site.clone(), peer.clone());
                    self.handle.spawn(deliver(Arc::downgrade(self), site, peer.clone(), items));
                    peer
                }
            }
        };
        {
            let mut address = lock(&peer.address);
            if *address != at.address {
                address.clone_from(&at.address);
            }
        }
        // Without a connection it is dropped: its sender keeps it and is asked for it when there is one.
        if peer.up.load(Ordering::Acquire) {
            peer.queued.fetch_add(1, Ordering::Relaxed);
            let _ = peer.queue.send(out);
        }
    }

    fn fabrics(&self) -> Vec<Arc<Fabric>> {
        lock(&self.routes).values().filter_map(|r| r.fabric()).collect()
    }
}

/// What has to happen from time to time, while the link lives.
async fn tend(link: Weak<Inner>) {
    let mut old = Instant::now();
    loop {
        tokio::time::sleep(TICK).await;
        let Some(link) = link.upgrade() else { return };
        if !lock(&link.early).is_empty() {
            link.retry_early();
        }
        let again = old.elapsed() >= OLD_TICK;
        if again {
            old = Instant::now();
        }
        let busy = |site: &str| lock(&link.peers).get(site).is_some_and(|p| p.queued.load(Ordering::Relaxed) > 0);
        let routes: Vec<Arc<Route>> = lock(&link.routes).values().cloned().collect();
        for route in routes {
            let Some(fabric) = route.fabric() else { continue };
            fabric.sweep();
            if again {
                fabric.resend_old(OLD, |dst| busy(&route.at(dst).site));
            }
        }
    }
}

/// Carries the queue of one peer for as long as the link lives.
async fn deliver(link: Weak<Inner>, site: SiteId, peer: Arc<Peer>, mut items: mpsc::UnboundedReceiver<Out>) {
    let name = identity::site_name(&site);
    let mut pause = RETRY_MIN;
    let mut broken = false;
    loop {
        let Some(dialer) = link.upgrade().map(|l| l.dialer.clone()) else { return };
        let address = lock(&peer.address).clone();
        let why = match dialer.dial(&name, &address, ALPN).await {
            Ok(stream) => {
                notice_silence(&stream);
                peer.up.store(true, Ordering::Release);
                pause = RETRY_MIN;
                if std::mem::take(&mut broken) {
                    tracing::info!(%site, "connected again");
                    let Some(link) = link.upgrade() else { return };
                    link.fabrics().iter().for_each(|f| f.resend());
                }
                match carry(&link, &peer, stream, &mut items).await {
                    Ok(()) => return,
                    Err(e) => e.to_string(),
                }
            }
            Err(e) => e.to_string(),
        };
        tracing::warn!(%site, why, "no connection to this site; messages wait with their senders");
        broken = true;
        peer.up.store(false, Ordering::Release);
        while items.try_recv().is_ok() {}
        peer.queued.store(0, Ordering::Relaxed);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn carry(link: &Weak<Inner>, peer: &Peer, stream: TlsStream<TcpStream>, items: &mut mpsc::UnboundedReceiver<Out>) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    to.write_all(&frame_head(kind::MESSAGES, 0)?).await?;
    to.flush().await?;
    let mut batch = Vec::new();
    let mut bytes: Vec<u8> = Vec::with_capacity(2 * BATCH);
    let mut closed = [0; 1];
    loop {
        let taken = tokio::select! {
            taken = items.recv_many(&mut batch, 64) => taken,
            // Nobody answers on this connection, so whatever comes is its end.
            _ = from.read(&mut closed) => return Err(io::ErrorKind::ConnectionReset.into()),
        };
        if taken == 0 || link.strong_count() == 0 {
            return Ok(());
        }
        for out in batch.drain(..) {
            let (kind, head, data) = match &out {
                Out::Message(life, m) => (kind::MESSAGE, postcard::to_allocvec(&(&**life, &m.header)), &*m.data),
                Out::Ack(life, src, dst, seq) => (kind::ACK, postcard::to_allocvec(&(&**life, src, dst, seq)), &[][..]),
            };
            let head = head.map_err(io::Error::other)?;
            bytes.extend_from_slice(&frame_head(kind, head.len() + data.len())?);
            bytes.extend_from_slice(&head);
            if data.len() > BATCH {
                put(&mut to, &bytes, STALL_MAX).await?;
                bytes.clear();
                put(&mut to, data, STALL_MAX).await?;
            } else {
                bytes.extend_from_slice(data);
                if bytes.len() > BATCH {
                    put(&mut to, &bytes, STALL_MAX).await?;
                    bytes.clear();
                }
            }
        }
        put(&mut to, &bytes, STALL_MAX).await?;
        bytes.clear();
        let _ = peer.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(taken)));
    }
}

/// Writes, and gives up on a peer that takes nothing for `stall_max`: then the connection is made anew, or whoever waits goes on without it.
async fn put(to: &mut (impl AsyncWrite + Unpin), mut data: &[u8], stall_max: Duration) -> io::Result<()> {
    let stalled = |_| io::Error::new(io::ErrorKind::TimedOut, format!("it took nothing for {} s", stall_max.as_secs_f64()));
    while !data.is_empty() {
        let piece = &data[..data.len().min(BATCH)];
        match tokio::time::timeout(stall_max, to.write(piece)).await.map_err(stalled)?? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            taken => data = &data[taken..],
        }
    }
    tokio::time::timeout(stall_max, to.flush()).await.map_err(stalled)?
}

/// Tells the kernel to give up on a peer that acknowledges nothing for [`STALL_MAX`]: one that has vanished with its machine or its network
/// closes nothing, and what is written to it would be tried again for a quarter of an hour.
fn notice_silence(stream: &TlsStream<TcpStream>) {
    let ms = STALL_MAX.as_millis() as libc::c_uint;
    let tcp = stream.get_ref().0;
    // SAFETY: the descriptor is the stream's, which is borrowed; the kernel reads the four bytes of `ms`, whose size it is told.
    let done = unsafe { libc::setsockopt(tcp.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, (&raw const ms).cast(), size_of_val(&ms) as libc::socklen_t) };
    if done != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "this system takes no time limit for a connection");
    }
}

/// Ends the waits of a plain thread on a connection, from outside. Cheap to clone; the first reason counts.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<watch::Sender<Option<String>>>);

impl Default for Interrupt {
    fn default() -> Interrupt {
        Interrupt(Arc::new(watch::Sender::new(None)))
    }
}

impl Interrupt {
    pub fn raise(&self, why: &str) {
        self.0.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert_with(|| why.into());
            first
        });
    }

    /// Why, if it has been raised.
    pub fn raised(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    async fn wait(&self) -> io::Error {
        let mut watch = self.0.subscribe();
        let why = watch.wait_for(Option::is_some).await.expect("`self` holds the sender").clone();
        io::Error::new(io::ErrorKind::Interrupted, why.unwrap_or_default())
    }
}

/// A connection for frames, used by a plain thread.
pub(crate) struct Stream {
    inner: TlsStream<TcpStream>,
    handle: tokio::runtime::Handle,
    /// How long the other side may take nothing.
    pub stall_max: Duration,
    pub interrupt: Interrupt,
    /// A frame was begun and not finished: what is written after it would be taken for its rest.
    cut: bool,
    /// Bytes written, with frames' heads.
    pub sent: u64,
}

impl Stream {
    fn new(inner: TlsStream<TcpStream>, handle: tokio::runtime::Handle) -> Stream {
        Stream { inner, handle, stall_max: STALL_MAX, interrupt: Interrupt::default(), cut: false, sent: 0 }
    }

    /// The name that the other side's certificate has proved.
    pub fn peer(&self) -> String {
        identity::peer_name(&self.inner).unwrap_or_default()
    }

    /// # Errors
    /// Also when the other side takes nothing for [`Stream::stall_max`], and when the interrupt is raised: then nothing can be sent any more.
    pub fn send(&mut self, kind: u8, parts: &[&[u8]]) -> io::Result<()> {
        let length = parts.iter().map(|p| p.len()).sum();
        let head = frame_head(kind, length)?;
        if std::mem::replace(&mut self.cut, true) {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "a frame before it was not sent whole"));
        }
        let (inner, stall_max, interrupt) = (&mut self.inner, self.stall_max, &self.interrupt);
        self.handle.block_on(async {
            let frame = async {
                put(inner, &head, stall_max).await?;
                for part in parts {
                    put(inner, part, stall_max).await?;
                }
                Ok(())
            };
            tokio::select! {
                biased;
                done = frame => done,
                why = interrupt.wait() => Err(why),
            }
        })?;
        self.cut = false;
        self.sent += (head.len() + length) as u64;
        Ok(())
    }

    /// # Errors
    /// Also when nothing comes for so long, and when the interrupt is raised: then the stream must not be read again.
    pub fn receive(&mut self, longest: Duration) -> io::Result<(u8, Vec<u8>)> {
        let (inner, interrupt) = (&mut self.inner, &self.interrupt);
        self.handle.block_on(async {
            tokio::select! {
                biased;
                frame = tokio::time::timeout(longest, read_frame(inner)) => match frame {
                    Ok(frame) => frame,
                    Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("the other side was silent for {} s", longest.as_secs()))),
                },
                why = interrupt.wait() => Err(why),
            }
        })
    }

    /// The next frame, or what another future gives before there is one; then the stream must not be read again.
    pub fn receive_or<T>(&mut self, other: impl Future<Output = T>) -> Result<io::Result<(u8, Vec<u8>)>, T> {
        self.handle.clone().block_on(async {
            tokio::select! {
                frame = read_frame(&mut self.inner) => Ok(frame),
                other = other => Err(other),
            }
        })
    }
}
