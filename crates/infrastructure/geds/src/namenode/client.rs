//! The catalog of a namenode elsewhere: many calls at a time over one connection.
//!
//! A call puts its question where the connection's task takes it, together with whatever else waits, and sleeps until its answer comes. A
//! connection that is lost fails what was on its way, since nobody knows whether it was done; the next call dials again. Looking is asked again by itself, once.
//!
//! A change that would mean something else if it were done twice goes out as a request with a number, under which the namenode keeps its answer (`answers.rs`). When the answer doesn't come it is asked for
//! again under that number, for [`UNSURE_MAX`]; then the error says that nobody knows ([`Error::Unsure`]). So any other error means that it was not done, and who gets one may ask anew.
//! A seal is known by its object's id instead, and is asked again by who seals.
//!
//! The connection is also the session: leases are void when it ends, and revocations come over it.

use super::{
    change::{Answer, Change, Once},
    direct::Direct,
    changes, counted, created, done, object, removed, seal_change, sealed,
    wire::{self, Ask, Look, META_ALPN, Meta, Question, TOLD_BYTES_MAX, Told, Writing},
};
use crate::{
    Attributes, BucketName, Catalog, Error, Garbage, Holder, Key, Lease, LeaseHolder, Listing, NewObject, ObjectId, ObjectMeta, Page, Result,
    Sealed, Watched, eager::Eager,
};
use base::{
    Kind, SiteId,
    identity::{self, Dialer},
};
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    runtime::{Handle, RuntimeFlavor},
    sync::{Notify, oneshot},
};

/// How long a call may take, the wait for a connection included.
const CALL_MAX: Duration = Duration::from_secs(10);
/// How long the answer to a change is asked for, and the pause between.
const UNSURE_MAX: Duration = Duration::from_secs(20);
const UNSURE_PAUSE: Duration = Duration::from_millis(50);
/// How often a quiet connection says that it is there, and how long the namenode may be silent.
const PING_EVERY: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_secs(6);
/// Calls on their way over one connection.
const CALLS_MAX: usize = 65_536;
const READ_BYTES: usize = 256 << 10;
/// The number of the question for the session's number; others begin at 1, and pings have the last one.
const SESSION: u64 = u64::MAX - 1;
/// Calls on their way up to which an answer is looked for before it is slept for.
const FEW: usize = 2;
/// How long one of several is waited for to say that it leads.
pub(super) const LEADS_WITHIN: Duration = Duration::from_secs(1);

pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

type Dial = dyn Fn() -> BoxFuture<'static, Result<Dialed>> + Send + Sync;

/// A new connection, and where it leads to if that is a socket of this machine.
struct Dialed {
    stream: Box<dyn Io>,
    socket: Option<PathBuf>,
}

/// Asks a namenode. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub struct RemoteCatalog {
    client: Arc<Client>,
}

struct Client {
    dial: Box<Dial>,
    connection: tokio::sync::Mutex<Weak<Connection>>,
    /// The same, for who finds it alive.
    current: Mutex<Option<Arc<Connection>>>,
    holders: Arc<Mutex<Vec<Weak<dyn LeaseHolder>>>>,
    /// Where its connections are served: where the first one was made, since whoever finds one missing may be somebody who gives way to others.
    home: Mutex<Option<Handle>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(connection) = lock(&self.current).take() {
            connection.close("nobody needs it any more");
        }
    }
}

struct Connection {
    talk: Mutex<Talk>,
    ready: Notify,
    /// What threads ask over connections of their own.
    direct: Direct,
}

#[derive(Default)]
struct Talk {
    out: Vec<u8>,
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<Told>>, BuildHasherDefault<Counted>>,
    /// Why it is over.
    over: Option<String>,
}

/// Requests are numbered one after the other: that is spread well enough.
#[derive(Default)]
struct Counted(u64);
impl Hasher for Counted {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed")
    }
    fn write_u64(&mut self, number: u64) {
        // The table takes its position from the low bits and its tag from the high ones.
        self.0 = number ^ number << 57;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn away(message: impl std::fmt::Display) -> Error {
    Error::Remote { kind: Kind::Unavailable, message: format!("the namenode can't be reached: {message}") }
}

fn odd<T>() -> Result<T> {
    Err(Error::Protocol { peer: "the namenode".into(), message: "an answer to another question".into() })
}

impl RemoteCatalog {
    /// The hub's namenode at `address` (host:port), over mutual TLS.
    pub fn new(dialer: Dialer, address: impl Into<String>) -> RemoteCatalog {
        let address = address.into();
        RemoteCatalog::over(move || {
            let (dialer, address) = (dialer.clone(), address.clone());
            async move {
                let stream = dialer.dial(identity::HUB, &address, META_ALPN).await.map_err(away)?;
                match identity::protocol(&stream).as_deref() {
                    Some(META_ALPN) => Ok(stream),
                    _ => Err(away(format!("what listens on {address} does not speak {META_ALPN}"))),
                }
            }
        })
    }

    /// A namenode of the same machine, on a UNIX socket.
    pub fn local(socket: impl Into<PathBuf>) -> RemoteCatalog {
        let socket = socket.into();
        RemoteCatalog::over_sockets(move || {
            let socket = socket.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(&socket).await.map_err(|e| away(format!("{}: {e}", socket.display())))?;
                Ok((stream, socket))
            }
        })
    }

    /// Whichever of these sockets has a namenode that leads: one of a pair, and its standby.
    pub fn one_of(sockets: impl IntoIterator<Item = PathBuf>) -> RemoteCatalog {
        let sockets: Arc<[PathBuf]> = sockets.into_iter().collect();
        RemoteCatalog::over_sockets(move || {
            let sockets = sockets.clone();
            async move {
                let mut why = String::from("no socket is named");
                for socket in sockets.iter() {
                    match tokio::time::timeout(LEADS_WITHIN, leader(socket)).await {
                        Ok(Ok(stream)) => return Ok((stream, socket.clone())),
                        Ok(Err(e)) => why = format!("{}: {e}", socket.display()),
                        Err(_) => why = format!("{}: it does not answer", socket.display()),
                    }
                }
                Err(away(why))
            }
        })
    }

    /// Over connections that `dial` makes.
    pub fn over<S, F>(dial: impl Fn() -> F + Send + Sync + 'static) -> RemoteCatalog
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Result<S>> + Send + 'static,
    {
        RemoteCatalog::dialing(move || {
            let stream = dial();
            async move { Ok(Dialed { stream: Box::new(stream.await?), socket: None }) }.boxed()
        })
    }

    /// Over UNIX sockets to which `dial` connects, and where they are.
    pub(crate) fn over_sockets<F>(dial: impl Fn() -> F + Send + Sync + 'static) -> RemoteCatalog
    where
        F: Future<Output = Result<(tokio::net::UnixStream, PathBuf)>> + Send + 'static,
    {
        RemoteCatalog::dialing(move || {
            let dialed = dial();
            async move { dialed.await.map(|(stream, socket)| Dialed { stream: Box::new(stream), socket: Some(socket) }) }.boxed()
        })
    }

    fn dialing(dial: impl Fn() -> BoxFuture<'static, Result<Dialed>> + Send + Sync + 'static) -> RemoteCatalog {
        let client = Client { dial: Box::new(dial), connection: tokio::sync::Mutex::default(), current: Mutex::default(), holders: Arc::default(), home: Mutex::default() };
        RemoteCatalog { client: Arc::new(client) }
    }

    /// The connection, made anew if the last one is over.
    async fn connection(&self) -> Result<Arc<Connection>> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        // One dials, the others wait for it.
        let mut turn = self.client.connection.lock().await;
        if let Some(connection) = turn.upgrade().filter(|connection| connection.is_alive()) {
            return Ok(connection);
        }
        let (home, Dialed { stream, socket }) = self.dial().await?;
        let connection = Arc::new(Connection { talk: Mutex::default(), ready: Notify::new(), direct: Direct::new(socket) });
        *turn = Arc::downgrade(&connection);
        *lock(&self.client.current) = Some(connection.clone());
        home.spawn(run(connection.clone(), stream, self.client.holders.clone()));
        Ok(connection)
    }

    /// The connection, if there is one that is not over.
    fn current(&self) -> Option<Arc<Connection>> {
        lock(&self.client.current).clone().filter(|connection| connection.is_alive())
    }

    /// Asks by this very thread; see `direct.rs`. `None`: to be asked over the connection.
    fn ask_directly(&self, question: Look<'_>) -> Option<Result<Told>> {
        // What goes wrong there is asked anew, by who waits until it is better.
        self.current()?.direct.ask(question).map(unless_failed).filter(|answer| !answer.as_ref().is_err_and(Error::is_away))
    }

    /// Knows who keeps leased answers.
    fn know(&self, holder: &Arc<dyn LeaseHolder>) {
        let mut holders = lock(&self.client.holders);
        let new = Arc::downgrade(holder);
        if !holders.iter().any(|known| known.ptr_eq(&new)) {
            holders.retain(|known| known.strong_count() > 0);
            holders.push(new);
        }
    }

    /// A new connection, and where it belongs.
    async fn dial(&self) -> Result<(Handle, Dialed)> {
        // A runtime of one thread works only as long as somebody waits in it.
        let home = lock(&self.client.home).clone().filter(|home| home.runtime_flavor() == RuntimeFlavor::MultiThread);
        if let Some(home) = home {
            match home.spawn((self.client.dial)()).await {
                Ok(stream) => return Ok((home, stream?)),
                Err(e) if e.is_panic() => return Err(away("it panicked")),
                // Its runtime is over.
                Err(_) => {}
            }
        }
        let home = lock(&self.client.home).insert(Handle::current()).clone();
        Ok((home, (self.client.dial)().await?))
    }

    async fn ask(&self, question: impl Serialize, max: Duration) -> Result<Told> {
        self.told(question, max, &AtomicBool::new(false)).await.and_then(unless_failed)
    }

    /// What comes as an answer; an error: none has come. `sent`: is set when the question may be out.
    async fn told(&self, question: impl Serialize, max: Duration, sent: &AtomicBool) -> Result<Told> {
        let ask = Ask { deadline_ms: max.as_millis() as u32, question };
        let asked = async {
            let connection = self.connection().await?;
            let answer = connection.send(&ask)?;
            sent.store(true, Relaxed);
            answer.await.unwrap_or_else(|_| Err(away("the connection ended")))
        };
        let late = |_| Error::Remote { kind: Kind::DeadlineExceeded, message: format!("the namenode did not answer within {} s", max.as_secs()) };
        tokio::time::timeout(max, asked).await.map_err(late)?
    }

    /// Asks again, once, if the connection was lost: looking twice does no harm.
    async fn look<Q: Serialize>(&self, question: impl Fn() -> Q) -> Result<Told> {
        match self.ask(question(), CALL_MAX).await {
            Err(e) if e.kind() == Kind::Unavailable => self.ask(question(), CALL_MAX).await,
            answer => answer,
        }
    }

    /// Asks until there is an answer; see the top of the file.
    async fn once(&self, change: Change) -> Result<Told> {
        let (request, began, sent) = (ObjectId::random()?.0, tokio::time::Instant::now(), AtomicBool::new(false));
        let mut since_ms = 0;
        loop {
            let told = self.told(Question::Once(Once { request, since_ms }, change.clone()), CALL_MAX, &sent).await;
            let why = match told {
                // What it has begun may turn out to be done when it is started again, or another one leads.
                Ok(Told::Failed { kind: Kind::Unavailable | Kind::Internal, message }) => message,
                // It was too busy for this try, which says nothing of the one before.
                Ok(Told::Failed { kind: Kind::DeadlineExceeded | Kind::ResourceExhausted, message }) if since_ms > 0 => message,
                Ok(told) => return unless_failed(told),
                Err(e) if !sent.load(Relaxed) => return Err(e),
                Err(e) => e.to_string(),
            };
            if began.elapsed() > UNSURE_MAX {
                return Err(Error::Unsure { why });
            }
            tracing::debug!(why, "the answer to a change is missing; asking for it");
            tokio::time::sleep(UNSURE_PAUSE).await;
            since_ms = (began.elapsed() + CALL_MAX).as_millis() as u64;
        }
    }

    async fn change(&self, change: Change) -> Result<Answer> {
        let told = if change.is_for_once() { self.once(change).await? } else { self.ask(Question::Change(change), CALL_MAX).await? };
        Ok(match told {
            Told::Done => Answer::Done,
            Told::Created(new) => Answer::Created(new),
            Told::Object(object) => Answer::Object(object.try_into()?),
            Told::Sealed { object, replaced } => {
                Answer::Sealed { object: object.try_into()?, replaced: replaced.map(ObjectMeta::try_from).transpose()? }
            }
            Told::Removed { object, last } => Answer::Removed { object: object.try_into()?, last },
            Told::Counted { objects, bytes } => Answer::Counted { objects, bytes },
            _ => return odd(),
        })
    }

    fn does<T: Send + 'static>(&self, change: Change, answer: fn(Answer) -> Result<T>) -> BoxFuture<'_, Result<T>> {
        async move {
            let told = self.change(change).await?;
            answer(told)
        }
        .boxed()
    }

    /// Several lookups in one question, at most 1000. `None` for what is not there.
    pub async fn lookups(&self, keys: &[(BucketName, Key)]) -> Result<Vec<Option<ObjectMeta>>> {
        match self.look(|| Question::Lookups(keys.to_vec())).await? {
            Told::Objects(objects) if objects.len() == keys.len() => {
                objects.into_iter().map(|object| object.map(ObjectMeta::try_from).transpose()).collect()
            }
            _ => odd(),
        }
    }
}

fn found(told: Told) -> Result<ObjectMeta> {
    match told {
        Told::Object(object) => object.try_into(),
        _ => odd(),
    }
}

fn leased(told: Told) -> Result<(ObjectMeta, Option<Lease>)> {
    match told {
        Told::Leased { object, term_ms } => {
            let lease = term_ms.map(|ms| Lease { term: Some(Duration::from_millis(u64::from(ms))) });
            Ok((object.try_into()?, lease))
        }
        _ => odd(),
    }
}

fn unless_failed(told: Told) -> Result<Told> {
    match told {
        Told::Failed { kind, message } => Err(Error::Remote { kind, message }),
        told => Ok(told),
    }
}

/// A connection to a namenode that leads.
async fn leader(socket: &std::path::Path) -> std::io::Result<tokio::net::UnixStream> {
    let mut stream = tokio::net::UnixStream::connect(socket).await?;
    leads(&mut stream).await?;
    Ok(stream)
}

/// Waits for an answer, by which a namenode leads; one that doesn't hangs up.
pub(super) async fn leads(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
    let mut ping = Vec::new();
    wire::put(&mut ping, u64::MAX, &Ask { deadline_ms: 0, question: Question::Ping });
    tokio::io::AsyncWriteExt::write_all(stream, &ping).await?;
    tokio::io::AsyncWriteExt::flush(stream).await?;
    let mut input = bytes::BytesMut::new();
    loop {
        // Nothing else comes before the first question.
        if wire::next(&input, TOLD_BYTES_MAX).map_err(std::io::Error::other)?.is_some() {
            return Ok(());
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

impl Connection {
    fn is_alive(&self) -> bool {
        lock(&self.talk).over.is_none()
    }

    fn send(&self, ask: &impl Serialize) -> Result<oneshot::Receiver<Result<Told>>> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut talk = lock(&self.talk);
            if let Some(why) = &talk.over {
                return Err(away(why));
            }
            if talk.waiting.len() >= CALLS_MAX {
                let message = format!("{CALLS_MAX} calls wait for the namenode already; try again later");
                return Err(Error::Remote { kind: Kind::ResourceExhausted, message });
            }
            let at = talk.out.len();
            talk.next += 1;
            let request = talk.next;
            wire::put(&mut talk.out, request, ask);
            if talk.out.len() - at - 4 > wire::ASK_BYTES_MAX {
                talk.out.truncate(at);
                return Err(Error::BadValue { what: "question", value: "over 1 MiB".into(), rule: "ask for less at a time" });
            }
            talk.waiting.insert(request, sender);
        }
        self.ready.notify_one();
        Ok(receiver)
    }

    fn close(&self, why: &str) {
        let waiting = {
            let mut talk = lock(&self.talk);
            talk.over.get_or_insert_with(|| why.into());
            std::mem::take(&mut talk.waiting)
        };
        self.direct.end();
        self.ready.notify_one();
        for (_, sender) in waiting {
            let _ = sender.send(Err(away(format!("{why}; it may have been done or not"))));
        }
    }
}

/// Carries questions and answers until the connection ends.
async fn run(connection: Arc<Connection>, mut stream: Box<dyn Io>, holders: Arc<Mutex<Vec<Weak<dyn LeaseHolder>>>>) {
    let why = talk(&connection, &mut stream, &holders).await.err().unwrap_or_default();
    connection.close(&why);
    // What was leased over it can't be revoked any more.
    each(&holders, |holder| holder.revoke_all());
}

fn each(holders: &Mutex<Vec<Weak<dyn LeaseHolder>>>, tell: impl Fn(&dyn LeaseHolder)) {
    let all: Vec<_> = lock(holders).iter().filter_map(Weak::upgrade).collect();
    all.iter().for_each(|holder| tell(&**holder));
}

async fn talk(connection: &Connection, stream: &mut Box<dyn Io>, holders: &Mutex<Vec<Weak<dyn LeaseHolder>>>) -> Result<(), String> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (mut input, mut out) = (bytes::BytesMut::with_capacity(READ_BYTES), Writing::default());
    let mut heard = tokio::time::Instant::now();
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut eager = Eager::default();
    if connection.direct.is_possible() {
        wire::put(out.bytes(), SESSION, &Ask { deadline_ms: 0, question: Question::Session });
    }
    loop {
        let waiting = {
            let mut talk = lock(&connection.talk);
            if let Some(why) = &talk.over {
                return Err(why.clone());
            }
            out.append(&mut talk.out);
            talk.waiting.len()
        };
        input.reserve(READ_BYTES);
        let busy = !out.is_done();
        // With many on their way, there is something to do in any case.
        let soon = !busy && (1..=FEW).contains(&waiting);
        tokio::select! {
            biased;
            stepped = out.step(&mut writer), if busy => stepped.map_err(|e| e.to_string())?,
            () = connection.ready.notified() => {}
            read = eager.read(&mut reader, &mut input, soon) => match read {
                Ok(0) => return Err("it hung up".into()),
                Ok(_) => {
                    heard = tokio::time::Instant::now();
                    take(connection, &mut input, out.bytes(), holders)?;
                }
                Err(e) => return Err(e.to_string()),
            },
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE {
                    return Err(format!("it was silent for {} s", SILENCE.as_secs()));
                }
                wire::put(out.bytes(), u64::MAX, &Ask { deadline_ms: 0, question: Question::Ping });
            }
        }
    }
}

/// Hands out all answers that are whole, and carries out revocations.
fn take(connection: &Connection, input: &mut bytes::BytesMut, out: &mut Vec<u8>, holders: &Mutex<Vec<Weak<dyn LeaseHolder>>>) -> Result<(), String> {
    let mut at = 0;
    let mut answers = Vec::new();
    while let Some((request, body, len)) = wire::next(&input[at..], TOLD_BYTES_MAX)? {
        match (request, wire::read::<Told>(body)?) {
            (0, Told::Revoke { number, key }) => {
                match &key {
                    Some((bucket, key)) => each(holders, |holder| holder.revoke(bucket, key)),
                    None => each(holders, |holder| holder.revoke_all()),
                }
                wire::put(out, u64::MAX, &Ask { deadline_ms: 0, question: Question::Revoked { number } });
            }
            (SESSION, Told::Session(session)) => connection.direct.told(session),
            (request, told) => answers.push((request, told)),
        }
        at += len;
    }
    bytes::Buf::advance(input, at);
    if !answers.is_empty() {
        let waiting: Vec<_> = {
            let mut talk = lock(&connection.talk);
            answers.into_iter().filter_map(|(request, told)| Some((talk.waiting.remove(&request)?, told))).collect()
        };
        for (sender, told) in waiting {
            // Who doesn't wait any more doesn't want to know.
            let _ = sender.send(Ok(told));
        }
    }
    Ok(())
}

fn metas(objects: Vec<Option<Meta>>) -> Result<Vec<ObjectMeta>> {
    objects.into_iter().flatten().map(ObjectMeta::try_from).collect()
}

impl Catalog for RemoteCatalog {
    changes!();

    fn buckets(&self) -> BoxFuture<'_, Result<Vec<BucketName>>> {
        async {
            let mut all: Vec<BucketName> = Vec::new();
            loop {
                let after = all.last().map_or("", BucketName::as_str);
                match self.look(|| Question::BucketsAfter(after.into())).await? {
                    Told::Buckets(page) if page.is_empty() => return Ok(all),
                    // One that does not go on would be asked for ever.
                    Told::Buckets(page) if all.last().is_none_or(|last| *last < page[0]) && page.is_sorted() => all.extend(page),
                    _ => return odd(),
                }
            }
        }
        .boxed()
    }
    fn lookup<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>> {
        async move { found(self.look(|| Look::Lookup { bucket, key }).await?) }.boxed()
    }
    fn lease<'a>(
        &'a self,
        holder: &'a Arc<dyn LeaseHolder>,
        bucket: &'a BucketName,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<(ObjectMeta, Option<Lease>)>> {
        async move {
            self.know(holder);
            leased(self.look(|| Look::Lease { bucket, key }).await?)
        }
        .boxed()
    }
    fn lookup_blocking(&self, bucket: &BucketName, key: &Key) -> Option<Result<ObjectMeta>> {
        Some(self.ask_directly(Look::Lookup { bucket, key })?.and_then(found))
    }
    fn lease_blocking(&self, holder: &Arc<dyn LeaseHolder>, bucket: &BucketName, key: &Key) -> Option<Result<(ObjectMeta, Option<Lease>)>> {
        self.know(holder);
        Some(self.ask_directly(Look::Lease { bucket, key })?.and_then(leased))
    }
    fn find(&self, id: ObjectId) -> BoxFuture<'_, Result<Option<ObjectMeta>>> {
        async move {
            match self.look(|| Question::Find { id: id.0 }).await? {
                Told::Found(object) => object.map(ObjectMeta::try_from).transpose(),
                _ => odd(),
            }
        }
        .boxed()
    }
    fn find_all<'a>(&'a self, ids: &'a [ObjectId]) -> BoxFuture<'a, Result<Vec<Option<ObjectMeta>>>> {
        async move {
            match self.look(|| Question::Finds(ids.iter().map(|id| id.0).collect())).await? {
                Told::Objects(objects) if objects.len() == ids.len() => {
                    objects.into_iter().map(|object| object.map(ObjectMeta::try_from).transpose()).collect()
                }
                _ => odd(),
            }
        }
        .boxed()
    }
    fn epoch(&self) -> BoxFuture<'_, Result<Option<u64>>> {
        async {
            match self.look(|| Question::Epoch).await? {
                Told::Epoch(epoch) => Ok(Some(epoch)),
                _ => odd(),
            }
        }
        .boxed()
    }
    fn now_ms(&self) -> BoxFuture<'_, Result<u64>> {
        async {
            match self.look(|| Question::Clock).await? {
                Told::Clock(now) => Ok(now),
                _ => odd(),
            }
        }
        .boxed()
    }
    fn held<'a>(&'a self, site: &'a SiteId, start_after: Option<ObjectId>) -> BoxFuture<'a, Result<Vec<ObjectMeta>>> {
        async move {
            match self.look(|| Question::Held { site: site.clone(), start_after: start_after.map(|id| id.0) }).await? {
                Told::Objects(objects) => metas(objects),
                _ => odd(),
            }
        }
        .boxed()
    }
    fn list<'a>(
        &'a self,
        bucket: &'a BucketName,
        prefix: &'a str,
        delimiter: Option<char>,
        page: Page,
    ) -> BoxFuture<'a, Result<Listing>> {
        async move {
            let question = || Question::List {
                bucket: bucket.clone(),
                prefix: prefix.into(),
                delimiter,
                start_after: page.start_after.clone(),
                limit: page.limit,
            };
            match self.look(question).await? {
                Told::Listing { objects, prefixes, next } => {
                    let objects = objects.into_iter().map(ObjectMeta::try_from).collect::<Result<_>>()?;
                    Ok(Listing { objects, prefixes, next })
                }
                _ => odd(),
            }
        }
        .boxed()
    }
    fn attributes<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<Attributes>> {
        async move {
            match self.look(|| Question::Attributes { bucket: bucket.clone(), key: key.clone() }).await? {
                Told::Attributes(attributes) => Ok(attributes),
                _ => odd(),
            }
        }
        .boxed()
    }
    fn garbage<'a>(&'a self, site: Option<&'a SiteId>, start_after: Option<ObjectId>) -> BoxFuture<'a, Result<Vec<Garbage>>> {
        async move {
            match self.look(|| Question::Garbage { site: site.cloned(), start_after: start_after.map(|id| id.0) }).await? {
                Told::Garbage(garbage) => Ok(garbage),
                _ => odd(),
            }
        }
        .boxed()
    }
    fn sites(&self) -> BoxFuture<'_, Result<Vec<Holder>>> {
        async move {
            match self.look(|| Question::Sites).await? {
                Told::Holders(holders) => holders.into_iter().map(wire::holder).collect(),
                _ => odd(),
            }
        }
        .boxed()
    }
    fn partners<'a>(&'a self, id: ObjectId, site: &'a SiteId) -> BoxFuture<'a, Result<Vec<Holder>>> {
        async move {
            match self.look(|| Question::Partners { id: id.0, site: site.clone() }).await? {
                Told::Holders(holders) => holders.into_iter().map(wire::holder).collect(),
                _ => odd(),
            }
        }
        .boxed()
    }
    fn jobs(&self) -> BoxFuture<'_, Result<Vec<String>>> {
        async {
            let mut all: Vec<String> = Vec::new();
            loop {
                let after = all.last().cloned().unwrap_or_default();
                match self.look(|| Question::JobsAfter(after.clone())).await? {
                    Told::Jobs(page) if page.is_empty() => return Ok(all),
                    Told::Jobs(page) if all.last().is_none_or(|last| *last < page[0]) && page.is_sorted() => all.extend(page),
                    _ => return odd(),
                }
            }
        }
        .boxed()
    }
    fn watch<'a>(&'a self, bucket: &'a BucketName, after: u64, wait: Duration) -> BoxFuture<'a, Result<Watched>> {
        async move {
            let question = Question::Watch { bucket: bucket.clone(), after, wait_ms: wait.as_millis().min(60_000) as u32 };
            match self.ask(question, wait + CALL_MAX).await? {
                Told::Watched(watched) => Ok(watched),
                _ => odd(),
            }
        }
        .boxed()
    }
}
