//! A connection for a thread that waits for its answers itself, both ends of it.
//!
//! ```text
//!  connection of the session   Session ─▶ its number                     (`client.rs`, `server.rs`)
//!  one for a thread            Direct { session } ─▶ Done, then Lookup | Lease ─▶ Object | Leased | Failed; Done: ask over the session's
//! ```
//!
//! A question over the session's connection goes from its thread to the task that writes, from there to the namenode's task, and back over two more: each hop wakes a thread, which takes longer than
//! the answer. Here the caller writes and reads itself, and one thread of the namenode has nothing to do but to answer it. What may be asked is what programs ask most; leases belong to the
//! session all the same, and are revoked over its connection: who keeps an answer sees by its ticket that a revocation was there before it.
//!
//! It is a shortcut: whatever goes wrong with it, the same is asked over the session's connection, which knows what to say of it.

use super::{
    commit::Core,
    leases::Holder,
    server::{leased, look},
    wire::{self, ASK_BYTES_MAX, Ask, Look, Question, TOLD_BYTES_MAX, Told},
};
use crate::eager::Eager;
use serde::Serialize;
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Threads that answer on one socket, and their stacks: they call nothing that is deep.
const THREADS_MAX: usize = 64;
const STACK_BYTES: usize = 256 << 10;
/// Connections of one client.
const OPEN_MAX: usize = 8;
/// How long an answer, or a connection, is waited for before the same is asked over the session's connection.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How long a client that took nothing is waited for.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// What nobody has asked over for so long is left by its client, and later by the namenode, whose threads others want.
const IDLE_MAX: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(30);
/// When one has failed, none is asked over before that.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// A question and its answer have some hundred bytes; what a longer one has left is given back.
const KEPT_BYTES: usize = 64 << 10;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves its value whole.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn broken(message: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, message)
}

/// Bytes as they come, until a frame is whole. Whoever waits here has just asked or just answered.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    /// How many of them have come.
    len: usize,
    eager: Eager,
}

impl Input {
    /// The next frame is given to `take`: its number and its body. `None`: the other side hung up before one began.
    fn frame<T>(&mut self, stream: &mut UnixStream, max: usize, take: impl FnOnce(u64, &[u8]) -> io::Result<T>) -> io::Result<Option<T>> {
        loop {
            if let Some((request, body, len)) = wire::next(&self.bytes[..self.len], max).map_err(broken)? {
                let taken = take(request, body);
                self.bytes.copy_within(len..self.len, 0);
                self.len -= len;
                return taken.map(Some);
            }
            if self.len == self.bytes.len() {
                self.bytes.resize((self.len * 2).max(4096), 0);
            } else if self.len == 0 && self.bytes.len() > KEPT_BYTES {
                self.bytes = vec![0; 4096];
            }
            let room = &mut self.bytes[self.len..];
            match self.eager.look(|| read_now(stream, room)).unwrap_or_else(|| stream.read(room)) {
                Ok(0) if self.len == 0 => return Ok(None),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.len += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// What there is to read; `None`: it would have to be waited for.
fn read_now(stream: &UnixStream, room: &mut [u8]) -> Option<io::Result<usize>> {
    // SAFETY: `room` is ours alone for the call, which writes at most its length.
    let n = unsafe { libc::recv(stream.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) };
    match usize::try_from(n) {
        Ok(n) => Some(Ok(n)),
        Err(_) => Some(Err(io::Error::last_os_error())).filter(|e| !matches!(e, Err(e) if e.kind() == ErrorKind::WouldBlock)),
    }
}

// --- the client's end -------------------------------------------------------------------------------------------------------------

/// What a session's connection knows of connections for threads.
pub struct Direct {
    /// Where the namenode listens; `None`: not on a socket of this machine.
    socket: Option<PathBuf>,
    /// The number of the session, when it has been told.
    session: OnceLock<u128>,
    /// Those that nobody uses just now.
    idle: Mutex<Vec<Asking>>,
    open: AtomicUsize,
    failed: Mutex<Option<Instant>>,
    /// Whose they are: a fork has them, too, and would take its parent's answers.
    process: u32,
}

impl Direct {
    pub fn new(socket: Option<PathBuf>) -> Direct {
        Direct { socket, session: OnceLock::new(), idle: Mutex::default(), open: AtomicUsize::new(0), failed: Mutex::default(), process: std::process::id() }
    }

    /// Whether the session's number is worth asking for.
    pub fn is_possible(&self) -> bool {
        self.socket.is_some()
    }

    pub fn told(&self, session: u128) {
        let _ = self.session.set(session);
    }

    /// Asks, and waits. `None`: to be asked over the session's connection.
    pub fn ask(&self, question: Look<'_>) -> Option<Told> {
        if std::process::id() != self.process {
            return None;
        }
        let (socket, session) = (self.socket.as_ref()?, self.session.get()?);
        if lock(&self.failed).is_some_and(|since| since.elapsed() < FAILED_PAUSE) {
            return None;
        }
        let idle = {
            let mut idle = lock(&self.idle);
            // The one that was used last, so that the others grow old.
            let old = idle.iter().position(|asking| asking.used.elapsed() < IDLE_MAX).unwrap_or(idle.len());
            self.open.fetch_sub(idle.drain(..old).len(), Relaxed);
            idle.pop()
        };
        if idle.is_none() && self.open.fetch_add(1, Relaxed) >= OPEN_MAX {
            self.open.fetch_sub(1, Relaxed);
            return None;
        }
        let asked = idle.map_or_else(|| Asking::connect(socket, *session), Ok).and_then(|mut asking| Ok((asking.ask(question)?, asking)));
        match asked {
            Ok((told, mut asking)) => {
                asking.used = Instant::now();
                lock(&self.idle).push(asking);
                Some(told).filter(|told| !matches!(told, Told::Done))
            }
            Err(error) => {
                tracing::debug!(%error, "a connection for a thread to the namenode");
                self.open.fetch_sub(1, Relaxed);
                *lock(&self.failed) = Some(Instant::now());
                // The others lead to the same.
                self.end();
                None
            }
        }
    }

    /// Ends those that nobody uses just now.
    pub fn end(&self) {
        let ended = std::mem::take(&mut *lock(&self.idle));
        self.open.fetch_sub(ended.len(), Relaxed);
    }
}

/// A connection that one thread at a time uses.
struct Asking {
    stream: UnixStream,
    out: Vec<u8>,
    input: Input,
    request: u64,
    used: Instant,
}

impl Asking {
    fn new(socket: &Path) -> io::Result<Asking> {
        let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        stream.connect_timeout(&SockAddr::unix(socket)?, ANSWER_MAX)?;
        let stream = UnixStream::from(OwnedFd::from(stream));
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        Ok(Asking { stream, out: Vec::new(), input: Input::default(), request: 0, used: Instant::now() })
    }

    fn connect(socket: &Path, session: u128) -> io::Result<Asking> {
        let mut asking = Asking::new(socket)?;
        match asking.ask(Question::Direct { session })? {
            Told::Done => Ok(asking),
            Told::Failed { message, .. } => Err(io::Error::other(message)),
            _ => Err(broken("an answer to another question")),
        }
    }

    fn ask(&mut self, question: impl Serialize) -> io::Result<Told> {
        self.request += 1;
        let sent = self.request;
        self.out.clear();
        wire::put(&mut self.out, sent, &Ask { deadline_ms: 0, question });
        self.stream.write_all(&self.out)?;
        let told = self.input.frame(&mut self.stream, TOLD_BYTES_MAX, |request, body| match request == sent {
            true => wire::read(body).map_err(broken),
            false => Err(broken("an answer to another question")),
        })?;
        told.ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }
}

// --- the namenode's end -----------------------------------------------------------------------------------------------------------

/// The threads that answer on one socket. Dropped, their connections end.
#[derive(Default)]
pub struct Threads {
    streams: Mutex<(u64, HashMap<u64, UnixStream>)>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        for stream in lock(&self.streams).1.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Threads {
    #[cfg(test)]
    fn count(&self) -> usize {
        lock(&self.streams).1.len()
    }

    /// Says that it is so, and answers from a thread of its own from then on. `request`: what was asked to become this.
    pub fn begin(self: &Arc<Threads>, core: &Arc<Core>, session: Arc<Holder>, mut stream: UnixStream, request: u64) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(WRITE_MAX))?;
        stream.set_read_timeout(Some(SILENCE))?;
        let number = {
            let mut streams = lock(&self.streams);
            if streams.1.len() >= THREADS_MAX {
                return Err(io::Error::other(format!("{THREADS_MAX} threads are asking directly already")));
            }
            let number = streams.0;
            streams.0 += 1;
            streams.1.insert(number, stream.try_clone()?);
            number
        };
        let ends = Ends { threads: Arc::downgrade(self), number };
        let core = Arc::downgrade(core);
        std::thread::Builder::new().name("namenode-direct".into()).stack_size(STACK_BYTES).spawn(move || {
            let _ends = ends;
            if let Err(error) = answer(&core, &session, &mut stream, request) {
                tracing::debug!(%error, "a thread that asks the namenode directly");
            }
        })?;
        Ok(())
    }
}

/// Takes a connection off the list when its thread ends, or was never begun.
struct Ends {
    threads: Weak<Threads>,
    number: u64,
}

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.upgrade() {
            lock(&threads.streams).1.remove(&self.number);
        }
    }
}

/// Answers until the client hangs up or has asked nothing for [`SILENCE`], its session is over, or the namenode ends or leads no more: then the client asks over its session's connection, or
/// finds out that it has none.
fn answer(core: &Weak<Core>, session: &Arc<Holder>, stream: &mut UnixStream, request: u64) -> io::Result<()> {
    let (mut input, mut out) = (Input::default(), Vec::new());
    wire::put(&mut out, request, &Told::Done);
    loop {
        stream.write_all(&out)?;
        out.clear();
        out.shrink_to(KEPT_BYTES);
        let asked = input.frame(stream, ASK_BYTES_MAX, |request, body| {
            let Some(core) = core.upgrade().filter(|core| !session.is_gone() && core.leads().is_ok()) else { return Ok(false) };
            match wire::read::<Ask>(body).map(|ask| ask.question) {
                Ok(Question::Lookup { bucket, key }) => look(&core, request, &bucket, &key, &mut out),
                Ok(Question::Lease { bucket, key }) if core.read().leasing() => leased(&core, session, request, &bucket, &key, &mut out),
                // The first lease of all makes a durable mark, which is not made here.
                Ok(Question::Lease { .. }) => wire::put(&mut out, request, &Told::Done),
                Ok(_) => return Err(broken("a question that is not asked directly")),
                // A bad name is the asker's mistake.
                Err(message) => wire::put(&mut out, request, &Told::Failed { kind: base::Kind::InvalidArgument, message }),
            }
            Ok(true)
        })?;
        if asked != Some(true) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BucketName, Caller, Catalog, Key, LeaseHolder, Namenode, NewObject, ObjectId, RemoteCatalog};
    use base::{Kind, SiteId};
    use tokio::{runtime::Runtime, task::JoinHandle};

    fn bucket() -> BucketName {
        BucketName::new("data").unwrap()
    }

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn new(id: u128) -> NewObject {
        NewObject { id: ObjectId(id), size: 10, checksum: 7, site: SiteId::new("edge").unwrap(), if_absent: false }
    }

    /// A namenode with the object `a`, and a client of its socket that can ask directly.
    struct Both {
        runtime: Runtime,
        namenode: Namenode,
        listens: JoinHandle<crate::Result<()>>,
        threads: Arc<Threads>,
        socket: PathBuf,
        catalog: RemoteCatalog,
        _temp: tempfile::TempDir,
    }

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < end, "waited for {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn listen(runtime: &Runtime, namenode: &Namenode, socket: &Path) -> (JoinHandle<crate::Result<()>>, Arc<Threads>) {
        let _ = std::fs::remove_file(socket);
        let threads = Arc::<Threads>::default();
        let (namenode, path, for_them) = (namenode.clone(), socket.to_path_buf(), threads.clone());
        let listens = runtime.spawn(async move { namenode.listen_with(&path, Caller::Hub, for_them).await });
        until("a listener", || UnixStream::connect(socket).is_ok());
        (listens, threads)
    }

    impl Both {
        fn new() -> Both {
            let temp = tempfile::tempdir().unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let namenode = runtime.block_on(Namenode::open(temp.path().join("names"))).unwrap();
            runtime.block_on(namenode.create_bucket(&bucket())).unwrap();
            runtime.block_on(namenode.seal(&bucket(), &key("a"), new(1))).unwrap();
            let socket = temp.path().join("socket");
            let (listens, threads) = listen(&runtime, &namenode, &socket);
            let both = Both { catalog: RemoteCatalog::local(&socket), runtime, namenode, listens, threads, socket, _temp: temp };
            both.meet();
            both
        }

        /// Waits until it can be asked directly.
        fn meet(&self) {
            until("a thread that asks directly", || {
                let _ = self.runtime.block_on(self.catalog.lookup(&bucket(), &key("a")));
                self.catalog.lookup_blocking(&bucket(), &key("a")).is_some()
            });
        }

        fn seal(&self, name: &str, id: u128) {
            self.runtime.block_on(self.namenode.seal(&bucket(), &key(name), new(id))).unwrap();
        }
    }

    #[derive(Default)]
    struct Revoked(Mutex<Vec<String>>);

    impl LeaseHolder for Revoked {
        fn revoke(&self, _: &BucketName, key: &Key) {
            self.0.lock().unwrap().push(key.to_string());
        }
        fn revoke_all(&self) {
            self.0.lock().unwrap().push("all".into());
        }
    }

    #[test]
    fn who_asks_directly_is_told_the_same_by_as_many_threads_as_ask() {
        let both = Both::new();
        for n in 0..200 {
            both.seal(&format!("key/{n}"), n + 10);
        }
        let direct = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..2 * OPEN_MAX {
                let (both, direct) = (&both, &direct);
                scope.spawn(move || {
                    for n in 0..200u128 {
                        let n = (n + thread as u128 * 31) % 200;
                        // With more threads than connections some have to ask otherwise.
                        let Some(answer) = both.catalog.lookup_blocking(&bucket(), &key(&format!("key/{n}"))) else { continue };
                        assert_eq!(answer.unwrap().id, ObjectId(n + 10));
                        direct.fetch_add(1, Relaxed);
                        let none = both.catalog.lookup_blocking(&bucket(), &key("none")).map(|answer| answer.unwrap_err());
                        assert!(none.is_none_or(|e| e.kind() == Kind::NotFound && e.to_string().contains("none")));
                    }
                });
            }
        });
        assert!(direct.into_inner() > 200);
        assert!((1..=OPEN_MAX).contains(&both.threads.count()));
        both.meet();
        let told = both.catalog.lookup_blocking(&bucket(), &key("key/7")).unwrap().unwrap();
        assert_eq!(told, both.runtime.block_on(both.catalog.lookup(&bucket(), &key("key/7"))).unwrap());
    }

    #[test]
    fn what_is_leased_directly_is_revoked_before_it_changes() {
        let both = Both::new();
        let revoked = Arc::new(Revoked::default());
        let holder: Arc<dyn LeaseHolder> = revoked.clone();
        // The first lease of all is asked for over the session's connection.
        assert!(both.catalog.lease_blocking(&holder, &bucket(), &key("a")).is_none());
        both.runtime.block_on(both.catalog.lease(&holder, &bucket(), &key("a"))).unwrap();
        both.meet();
        for id in 2..20 {
            let (meta, lease) = both.catalog.lease_blocking(&holder, &bucket(), &key("a")).unwrap().unwrap();
            assert_eq!(meta.id, ObjectId(id - 1));
            let term = lease.expect("nobody changes it").term.unwrap();
            revoked.0.lock().unwrap().clear();
            let start = Instant::now();
            both.seal("a", id);
            assert_eq!(*revoked.0.lock().unwrap(), ["a"], "it is void before it changes");
            assert!(start.elapsed() < term / 2, "nobody waits for the lease's end");
        }
    }

    #[test]
    fn a_session_that_ends_takes_its_connections_along() {
        let mut both = Both::new();
        assert_eq!(both.threads.count(), 1);
        // Who does not listen any more does not answer either.
        both.listens.abort();
        assert!(both.runtime.block_on(&mut both.listens).unwrap_err().is_cancelled());
        let threads = std::mem::take(&mut both.threads);
        // The tasks of its sessions end a moment after it.
        until("nobody else to have them", || Arc::strong_count(&threads) == 1);
        drop(threads);
        until("the end of the connection", || both.catalog.lookup_blocking(&bucket(), &key("a")).is_none());
        both.seal("a", 2);
        (both.listens, both.threads) = listen(&both.runtime, &both.namenode, &both.socket);
        both.meet();
        assert_eq!(both.catalog.lookup_blocking(&bucket(), &key("a")).unwrap().unwrap().id, ObjectId(2));
        // The client goes, and the namenode does not keep a thread for it.
        assert_eq!(both.threads.count(), 1);
        both.catalog = RemoteCatalog::local(&both.socket);
        until("the end of its thread", || both.threads.count() == 0);
        both.meet();
        assert_eq!(both.threads.count(), 1);
    }

    #[test]
    fn a_connection_for_a_thread_belongs_to_a_session_and_asks_nothing_else() {
        let both = Both::new();
        let connect = || {
            let asking = Asking::new(&both.socket).unwrap();
            asking.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            asking
        };
        let failed = |told: io::Result<Told>, with: &str| match told.unwrap() {
            Told::Failed { message, .. } => assert!(message.contains(with), "{message}"),
            told => panic!("{told:?}"),
        };
        failed(connect().ask(Question::Direct { session: 7 }), "no such session");
        // Another user's guess is as good as none; one's own is told over the session's connection only.
        let mut session = connect();
        let Told::Session(name) = session.ask(Question::Session).unwrap() else { panic!("no session") };
        failed(session.ask(Question::Direct { session: name }), "first one");
        let mut direct = connect();
        assert!(matches!(direct.ask(Question::Direct { session: name }).unwrap(), Told::Done));
        let (b, k) = (bucket(), key("a"));
        assert!(matches!(direct.ask(Look::Lookup { bucket: &b, key: &k }).unwrap(), Told::Object(_)));
        assert!(direct.ask(Question::Ping).is_err(), "that is not asked directly");
        // Bytes that are no question end that connection alone.
        for bytes in [&[255; 64][..], &[8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], &[20, 0, 0, 0][..]] {
            let mut direct = connect();
            assert!(matches!(direct.ask(Question::Direct { session: name }).unwrap(), Told::Done));
            direct.stream.write_all(bytes).unwrap();
            direct.stream.shutdown(Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            let _ = direct.stream.read_to_end(&mut rest);
        }
        both.meet();
        // Its session is over: so is it.
        let mut direct = connect();
        assert!(matches!(direct.ask(Question::Direct { session: name }).unwrap(), Told::Done));
        drop(session);
        until("the end of what belongs to a session", || direct.ask(Look::Lookup { bucket: &b, key: &k }).is_err());
    }
}
