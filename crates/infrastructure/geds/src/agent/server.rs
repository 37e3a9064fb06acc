//! The agent's end of a connection: takes what a process asks, has the node do it, answers with descriptors.
//!
//! A connection is a session; what is pinned for it and what it was writing go when it ends. What is asked to be done is carried out to its end once it has
//! come, whether the process is there to hear of it or not.

use super::{
    Lending, lock, shm,
    wire::{self, ASK_BYTES_MAX, Act, Ask, Blob, PART_BYTES, Place, Told, VERSION},
};
use crate::{Error, Follower, Node, Page, Range, Result, Writer, local::file, metrics::Source, namenode::wire as frames, node::compute, socket};
use base::Kind;
use bytes::Buf;
use futures::{FutureExt, future::BoxFuture};
use std::{
    collections::HashMap,
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

/// Requests of one process that are being worked on, or whose answers it has not taken; then nothing more is read from it.
const WORKING_MAX: usize = 64;
/// The same of those that wait for others to do something; what is more is refused, since what they wait for may be for this process to ask.
const WAITING_MAX: usize = 64;
/// Objects that one process may be writing at a time, and follow while they grow.
const WRITERS_MAX: usize = 1024;
const FOLLOWERS_MAX: usize = 1024;
/// How long a process may take to accept what it is told.
const WRITE_MAX: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 256 << 10;

struct Answer {
    bytes: Vec<u8>,
    files: Vec<Arc<File>>,
    /// Given back when it is written, so that no more of them wait than are worked on.
    _turn: OwnedSemaphorePermit,
}

struct Session {
    node: Node,
    lending: Arc<Lending>,
    number: u64,
    slots: Arc<shm::Words>,
    /// `None`: something is being done with it.
    writers: Mutex<HashMap<u32, Option<Writer>>>,
    /// `None`: it is being looked for.
    followers: Mutex<HashMap<u32, Option<Arc<Follower>>>>,
    /// As many as there are turns at most.
    answers: mpsc::UnboundedSender<Answer>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.lending.detach(self.number);
        self.node.inner.tier.tidy();
    }
}

impl Node {
    /// Shares this node's tier with other processes of the same user, which attach to the socket ([`crate::Attached`]), until the future is dropped.
    ///
    /// One process at a time may listen there.
    pub fn share<'a>(&'a self, socket: &'a Path) -> BoxFuture<'a, Result<()>> {
        async move {
            let _guard = {
                let mut path = socket.as_os_str().to_owned();
                path.push(".lock");
                let path = PathBuf::from(path);
                let guard = crate::private::lock(&path).map_err(file("open", &path))?;
                match guard.try_lock() {
                    Ok(()) => guard,
                    Err(std::fs::TryLockError::WouldBlock) => {
                        return Err(Error::Denied { who: "a second agent".into(), what: format!("listen on {}: another one does", socket.display()) });
                    }
                    Err(std::fs::TryLockError::Error(source)) => return Err(file("lock", &path)(source)),
                }
            };
            let lending = self.inner.lending()?;
            let listener = socket::listen(socket)?;
            tracing::info!(socket = %socket.display(), "other processes may attach");
            let each = |stream| {
                let (node, lending) = (self.clone(), lending.clone());
                async move {
                    if let Err(error) = serve(node, lending, stream).await {
                        tracing::debug!(%error, "a process that was attached");
                    }
                }
            };
            socket::serve(listener, each).await
        }
        .boxed()
    }
}

impl crate::node::Inner {
    /// The books of what is lent, opened with the first who wants to lend.
    fn lending(&self) -> Result<Arc<Lending>> {
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = lock(&TURN);
        if let Some(lending) = self.lending.get() {
            return Ok(lending.clone());
        }
        let lending = Arc::new(Lending::open(self.tier.folder())?);
        self.tier.lend();
        self.names.show(lending.board.clone());
        let _ = self.lending.set(lending.clone());
        Ok(lending)
    }
}

fn odd(message: impl Into<String>) -> Error {
    Error::Protocol { peer: "an attached process".into(), message: message.into() }
}

async fn serve(node: Node, lending: Arc<Lending>, stream: UnixStream) -> Result<()> {
    let at = Path::new("the agent's socket");
    // SAFETY: the call only answers.
    let own = unsafe { libc::geteuid() };
    let theirs = stream.peer_cred().map_err(file("look who calls on", at))?.uid();
    if theirs != own && theirs != 0 {
        return Err(Error::Denied { who: format!("user {theirs}"), what: format!("attach to a node of user {own}") });
    }
    let (number, slots) = lending.attach()?;
    let (answers, outgoing) = mpsc::unbounded_channel();
    let session = Arc::new(Session { node, lending, number, slots, writers: Mutex::default(), followers: Mutex::default(), answers });
    let stream = Arc::new(stream);
    let mut writing = tokio::spawn(tell(stream.clone(), outgoing));
    // What is being worked on ends with its answer, not with the connection.
    let turns = Turns { working: Arc::new(Semaphore::new(WORKING_MAX)), waiting: Arc::new(Semaphore::new(WAITING_MAX)) };
    let mut input = bytes::BytesMut::with_capacity(READ_BYTES);
    let done = loop {
        match take(&session, &turns, &mut input).await {
            Ok(()) => {}
            Err(e) => break Err(e),
        }
        input.reserve(READ_BYTES);
        tokio::select! {
            ready = stream.readable() => match ready.and_then(|()| stream.try_read_buf(&mut input)) {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => break Err(file("read from", at)(e)),
            },
            // It takes nothing any more.
            _ = &mut writing => break Ok(()),
        }
    };
    writing.abort();
    done
}

struct Turns {
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Turns {
    /// Waits for a turn, or says why there is none.
    async fn of(&self, ask: &Ask) -> (OwnedSemaphorePermit, Option<Error>) {
        if ask.waits() {
            if let Ok(turn) = self.waiting.clone().try_acquire_owned() {
                return (turn, None);
            }
        }
        let turn = self.working.clone().acquire_owned().await.expect("it is never closed");
        let full = || Error::Remote { kind: Kind::ResourceExhausted, message: format!("{WAITING_MAX} calls of this process wait already (watches, flushes, followers); end some") };
        (turn, ask.waits().then(full))
    }
}

/// Carries out all that is whole.
async fn take(session: &Arc<Session>, turns: &Turns, input: &mut bytes::BytesMut) -> Result<()> {
    loop {
        let (request, ask, bytes, len) = match frames::next(input, ASK_BYTES_MAX).map_err(odd)? {
            None => return Ok(()),
            Some((request, body, len)) => {
                let (ask, bytes) = wire::read(body).map_err(odd)?;
                (request, ask, bytes.to_vec(), len)
            }
        };
        input.advance(len);
        match ask {
            Ask::Unpin { slots } => {
                session.lending.unpin(session.number, &slots);
                session.node.inner.tier.tidy();
            }
            Ask::Released { slot } => {
                session.lending.released(session.number, slot);
                session.node.inner.tier.tidy();
            }
            Ask::Abort { writer } => drop(lock(&session.writers).remove(&writer)),
            Ask::Unfollow { follower } => drop(lock(&session.followers).remove(&follower)),
            ask => {
                let (turn, refused) = turns.of(&ask).await;
                let session = session.clone();
                tokio::spawn(async move {
                    let answer = match refused {
                        Some(e) => Err(e),
                        // What who is gone wanted to hear of would be waited for by nobody.
                        None if matches!(ask, Ask::Watch { .. } | Ask::Followed { .. }) => tokio::select! {
                            answer = session.answer(ask, bytes) => answer,
                            () = session.answers.closed() => return,
                        },
                        None => session.answer(ask, bytes).await,
                    };
                    let (told, files) = match answer {
                        Ok(answer) => answer,
                        Err(e) => (e.into(), Vec::new()),
                    };
                    debug_assert_eq!(told.fds(), files.len());
                    let mut bytes = Vec::new();
                    frames::put(&mut bytes, request, &told);
                    // Who is gone doesn't want to know.
                    let _ = session.answers.send(Answer { bytes, files, _turn: turn });
                });
            }
        }
    }
}

/// Writes answers, each with its descriptors. Ends when the process takes nothing any more.
async fn tell(stream: Arc<UnixStream>, mut answers: mpsc::UnboundedReceiver<Answer>) {
    while let Some(Answer { bytes, files, _turn }) = answers.recv().await {
        let mut sent = 0;
        while sent < bytes.len() {
            let fds: Vec<BorrowedFd<'_>> = if sent == 0 { files.iter().map(|file| file.as_fd()).collect() } else { Vec::new() };
            let write = stream.async_io(Interest::WRITABLE, || shm::send(stream.as_raw_fd(), &bytes[sent..], &fds));
            match tokio::time::timeout(WRITE_MAX, write).await {
                Ok(Ok(n)) => sent += n,
                _ => return,
            }
        }
    }
}

type Answered = Result<(Told, Vec<Arc<File>>)>;

impl Session {
    fn writer(&self, number: u32) -> Result<Writer> {
        let mut writers = lock(&self.writers);
        let known = writers.get_mut(&number).and_then(Option::take);
        known.ok_or_else(|| odd(format!("writer {number} is not there, or busy")))
    }

    async fn answer(&self, ask: Ask, bytes: Vec<u8>) -> Answered {
        let blocking = self.node.blocking();
        let plain = |told: Told| Ok((told, Vec::new()));
        match ask {
            Ask::Hello { version } if version != VERSION => {
                let message = format!("this agent speaks version {VERSION} and not {version}: use a library of the same release");
                Err(Error::Remote { kind: Kind::FailedPrecondition, message })
            }
            Ask::Hello { .. } => {
                let shared = |file: std::io::Result<File>| file.map(Arc::new).map_err(file_of("share memory with", &self.node));
                let board = shared(shm::read_only(self.lending.board.0.file()))?;
                let slots = shared(self.slots.file().try_clone())?;
                Ok((Told::welcome(), vec![board, slots, self.lending.attached.clone()]))
            }
            Ask::Open { bucket, key, slot } => self.open(bucket, key, slot).await,
            Ask::Create { writer, bucket, key, if_absent } => {
                if lock(&self.writers).len() >= WRITERS_MAX {
                    let message = format!("{WRITERS_MAX} objects are being written by this process already; seal or drop some");
                    return Err(Error::Remote { kind: Kind::ResourceExhausted, message });
                }
                let new = self.node.create_with(&bucket, &key, if_absent).await?;
                match lock(&self.writers).entry(writer) {
                    std::collections::hash_map::Entry::Occupied(_) => return Err(odd(format!("writer {writer} is there already"))),
                    std::collections::hash_map::Entry::Vacant(place) => drop(place.insert(Some(new))),
                }
                plain(Told::Done)
            }
            Ask::Write { writer: number, offset } => {
                let mut writer = self.writer(number)?;
                let (writer, done) = compute(move || {
                    let done = writer.write_at(offset, &bytes);
                    (writer, done)
                })
                .await?;
                // Dropped if it was aborted meanwhile.
                if let Some(place) = lock(&self.writers).get_mut(&number) {
                    *place = Some(writer);
                }
                done?;
                plain(Told::Done)
            }
            Ask::Seal { writer: number, here, attributes } => {
                let mut writer = self.writer(number)?;
                lock(&self.writers).remove(&number);
                writer.set_attributes_here(attributes);
                plain(compute(move || seal(writer, here)).await??)
            }
            Ask::Put { bucket, key, if_absent, here, attributes } => {
                let mut writer = self.node.create_with(&bucket, &key, if_absent).await?;
                writer.set_attributes_here(attributes);
                let told = compute(move || {
                    writer.write_at(0, &bytes)?;
                    seal(writer, here)
                });
                plain(told.await??)
            }
            Ask::CreateBucket { bucket } => plain(Told::Created(compute(move || blocking.create_bucket(&bucket)).await??)),
            Ask::Buckets => plain(Told::Buckets(compute(move || blocking.buckets()).await??)),
            Ask::Stat { bucket, key } => plain(Told::Object(compute(move || blocking.stat(&bucket, &key)).await??)),
            Ask::Attributes { bucket, key } => plain(Told::Attributes(compute(move || blocking.attributes(&bucket, &key)).await??)),
            Ask::List { bucket, prefix, delimiter, start_after, limit } => {
                let page = Page { start_after, limit };
                plain(compute(move || blocking.list(&bucket, &prefix, delimiter, page)).await??.into())
            }
            Ask::Delete { bucket, key } => plain(Told::Object(compute(move || blocking.delete(&bucket, &key)).await??)),
            Ask::Rename { bucket, from, to } => plain(Told::Object(compute(move || blocking.rename(&bucket, &from, &to)).await??)),
            Ask::DeletePrefix { bucket, prefix } => counted(compute(move || blocking.delete_prefix(&bucket, &prefix)).await??),
            Ask::RenamePrefix { bucket, from, to_bucket, to, if_absent } => {
                counted(compute(move || blocking.rename_prefix(&bucket, &from, &to_bucket, &to, if_absent)).await??)
            }
            Ask::Spill { bucket, prefix } => counted(self.node.spill(&bucket, &prefix).await?),
            Ask::Settle => {
                self.node.settle().await;
                plain(Told::Done)
            }
            Ask::RenameTo { bucket, from, to_bucket, to, if_absent } => {
                plain(Told::Object(compute(move || blocking.rename_to(&bucket, &from, &to_bucket, &to, if_absent)).await??))
            }
            Ask::Copy { bucket, from, to_bucket, to, if_absent } => {
                plain(Told::Object(compute(move || blocking.copy(&bucket, &from, &to_bucket, &to, if_absent)).await??))
            }
            Ask::CopyPrefix { bucket, from, to_bucket, to } => counted(self.node.copy_prefix(&bucket, &from, &to_bucket, &to).await?),
            Ask::ReadRange { bucket, key, offset, len } => {
                let range = Range { offset, len: len.min(PART_BYTES as u64) };
                let (meta, bytes) = self.node.read_range(&bucket, &key, range).await?;
                plain(Told::Part { meta, bytes: Blob(bytes.into()) })
            }
            Ask::KeepJob { job, ms } => {
                self.node.keep_job(&job, (ms > 0).then_some(Duration::from_millis(ms))).await?;
                plain(Told::Done)
            }
            Ask::DropJob { job } => counted(self.node.drop_job(&job).await?),
            Ask::Flush { bucket, prefix, deadline_ms } => counted(self.node.flush(&bucket, &prefix, within(deadline_ms)).await?),
            Ask::WaitDurable { bucket, key, deadline_ms } => plain(Told::Object(self.node.wait_durable(&bucket, &key, within(deadline_ms)).await?)),
            Ask::Watch { bucket, after, wait_ms } => plain(Told::Watched(self.node.watch(&bucket, after, within(wait_ms)).await?)),
            Ask::Growing { bucket, prefix, start_after } => plain(Told::Growing(self.node.list_growing(&bucket, &prefix, &start_after)?)),
            Ask::Appendable { bucket, key, act: Act::Begin { new } } => {
                let begun = if new { self.node.appendable_new(&bucket, &key).await? } else { self.node.appendable(&bucket, &key).await? };
                plain(Told::Length(begun.len()))
            }
            Ask::Appendable { bucket, key, act } => {
                let growing = match self.node.growing(&bucket, &key).await? {
                    Some(growing) => growing,
                    // What is sealed meanwhile is told from what never was.
                    None if matches!(act, Act::Append { .. } | Act::Seal) && self.node.stat(&bucket, &key).await.is_ok() => {
                        return Err(Error::SealedAlready { bucket: bucket.to_string(), key: key.to_string() });
                    }
                    None => return Err(Error::NotFound { bucket: bucket.to_string(), key: key.to_string() }),
                };
                plain(match act {
                    Act::Begin { .. } | Act::Length => Told::Length(growing.len()),
                    Act::Append { offset } => Told::Length(growing.append(offset, bytes.into()).await?),
                    Act::Read { offset, len } => Told::Read(Blob(growing.read(offset, len.min(PART_BYTES as u64)).await?.into())),
                    Act::Sync => growing.sync().await.map(|()| Told::Done)?,
                    Act::Seal => Told::Object(growing.seal().await?),
                    Act::Discard => growing.discard().await.map(|()| Told::Done)?,
                })
            }
            Ask::Follow { follower: number, bucket, key } => {
                {
                    let mut followers = lock(&self.followers);
                    if followers.len() >= FOLLOWERS_MAX {
                        let message = format!("{FOLLOWERS_MAX} objects are followed by this process already; close some before {bucket}/{key}");
                        return Err(Error::Remote { kind: Kind::ResourceExhausted, message });
                    }
                    match followers.entry(number) {
                        std::collections::hash_map::Entry::Occupied(_) => return Err(odd(format!("follower {number} is there already"))),
                        std::collections::hash_map::Entry::Vacant(place) => drop(place.insert(None)),
                    }
                }
                let follower = self.node.follow(&bucket, &key).await.inspect_err(|_| drop(lock(&self.followers).remove(&number)))?;
                let (id, growing) = follower.id().await;
                // Whoever has stopped waiting for it has said so.
                if let Some(place) = lock(&self.followers).get_mut(&number) {
                    *place = Some(Arc::new(follower));
                }
                plain(Told::Following { id, growing })
            }
            Ask::Followed { follower: number, offset, len, wait_ms } => {
                let follower = lock(&self.followers).get(&number).cloned().flatten();
                let follower = follower.ok_or_else(|| odd(format!("follower {number} is not there")))?;
                let grown = follower.read(offset, len.min(PART_BYTES as u64), within(wait_ms)).await?;
                plain(Told::Grown { bytes: Blob(grown.bytes.into()), len: grown.len, sealed: grown.sealed })
            }
            Ask::Unpin { .. } | Ask::Released { .. } | Ask::Abort { .. } | Ask::Unfollow { .. } => unreachable!("they have no answer"),
        }
    }

    async fn open(&self, bucket: crate::BucketName, key: crate::Key, slot: u32) -> Answered {
        let hash = super::hash(&bucket, &key);
        // Before the look: what changes after it is seen by the process, too.
        let seen = self.lending.board.now(hash);
        let known = || self.node.inner.names.get_for_others(&bucket, &key, self.node.inner.tier.age());
        let (object, until) = match known() {
            Some(known) => {
                self.node.inner.opened(&bucket, Source::here(known.0.parts().1.in_memory()));
                known
            }
            None => {
                let object = self.node.open_object(&bucket, &key).await?;
                // What it has left behind says whether the answer may be kept.
                match known() {
                    Some((again, until)) if again.meta().id == object.meta().id => (again, until),
                    _ => (object, None),
                }
            }
        };
        let until_ns = until.map_or(0, on_the_clock);
        let (lent, object) = compute(move || (object.lend(), object)).await?;
        let (file, place) = lent?;
        let meta = object.meta().clone();
        self.lending.pin(self.number, slot, object)?;
        Ok((Told::Lent { meta, place, seen, until_ns }, vec![file]))
    }
}

fn file_of(action: &'static str, node: &Node) -> impl Fn(std::io::Error) -> Error {
    file(action, Path::new(&format!("a process attached to {}", node.site())))
}

/// As a process says it; a year is as good as for ever.
fn within(ms: u64) -> Duration {
    Duration::from_millis(ms.min(365 * 86_400_000))
}

fn counted((objects, bytes): (u64, u64)) -> Answered {
    Ok((Told::Counted { objects, bytes }, Vec::new()))
}

fn seal(writer: Writer, here: bool) -> Result<Told> {
    if !here {
        return writer.seal_blocking().map(Told::Object);
    }
    // What becomes of it is logged; the process may be gone by then.
    writer.seal_here().map(|sealed| Told::Object(sealed.object().meta().clone()))
}

/// A moment of this process on the clock of all; never later than it is.
fn on_the_clock(until: Instant) -> u64 {
    let now = shm::clock_ns();
    let left = until.saturating_duration_since(Instant::now());
    now.saturating_add(u64::try_from(left.as_nanos()).unwrap_or(0))
}

/// What another process maps: a descriptor that can't be written through, and where in it the bytes lie.
pub(crate) type Lendable = (Arc<File>, Place);

impl Place {
    pub(crate) fn of_its_own(len: u64) -> Place {
        Place { shared: None, offset: 0, room: len }
    }
    pub(crate) fn in_segment(memory: bool, number: u32, offset: u64, room: u64) -> Place {
        Place { shared: Some((memory, number)), offset, room }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BucketName, Namenode, Options, Tuning};
    use base::{SiteId, identity::Authority, unit::Bytes as Size};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A process asks and asks, and takes no answer: it is not listened to any more. When it takes them, it gets all of them.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_takes_no_answers_is_not_listened_to() {
        let temp = tempfile::tempdir().unwrap();
        let namenode = Namenode::open(temp.path().join("names")).await.unwrap();
        // An answer is much longer than its question.
        for n in 0..500 {
            crate::Catalog::create_bucket(&namenode, &BucketName::new(format!("{n:03}-{}", "b".repeat(50))).unwrap()).await.unwrap();
        }
        let dialer = Authority::open(&temp.path().join("ca")).unwrap().issue("edge.site.cloudskin").unwrap().dialer().unwrap();
        let site = SiteId::new("edge").unwrap();
        let options = Options { site, folder: temp.path().join("edge"), limit: Size(1 << 20), dialer, catalog: Arc::new(namenode), persist: None, address: String::new() };
        let node = Node::open_with(options, Tuning::default()).await.unwrap();
        let socket = temp.path().join("s");
        let shared = tokio::spawn({
            let (node, socket) = (node.clone(), socket.clone());
            async move { node.share(&socket).await }
        });
        let mut stream = loop {
            match UnixStream::connect(&socket).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let (mut asked, mut stopped) = (0u64, false);
        while asked < 100_000 && !stopped {
            let mut frames = Vec::new();
            for _ in 0..100 {
                asked += 1;
                wire::put(&mut frames, asked, &Ask::Buckets, b"");
            }
            let mut rest = &frames[..];
            while !rest.is_empty() && !stopped {
                match tokio::time::timeout(Duration::from_secs(2), stream.write(rest)).await {
                    Ok(written) => rest = &rest[written.unwrap()..],
                    Err(_) => stopped = true,
                }
            }
            if stopped {
                // The frame that is half out has to be whole before others can be read; whole ones behind it are taken back.
                asked -= rest.len().div_ceil(frames.len() / 100) as u64;
                let odd = rest.len() % (frames.len() / 100);
                rest = &rest[..odd];
                asked += u64::from(odd > 0);
                let end = rest.to_vec();
                let (mut reader, mut writer) = stream.split();
                let taken = async {
                    let mut taken = 0;
                    while taken < asked {
                        let len = reader.read_u32_le().await.unwrap();
                        let mut body = vec![0; len as usize];
                        reader.read_exact(&mut body).await.unwrap();
                        assert!(body.len() > 20_000, "all the buckets");
                        taken += 1;
                    }
                };
                let (done, ()) = tokio::join!(writer.write_all(&end), taken);
                done.unwrap();
            }
        }
        assert!(stopped, "{asked} questions were taken in, and answers kept");
        shared.abort();
    }
}
