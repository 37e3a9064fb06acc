//! A namenode and its standby, which takes over when the other is gone, and never while the other could still acknowledge.
//!
//! ```text
//!  leader:  log ─▶ send ─▶ wait: the standby has it on disk ─▶ apply, answer            standby:  log ─▶ "have it" ─▶ apply
//!                            │ no answer
//!                            └▶ referee: "nobody is complete" ─▶ goes on alone
//! ```
//!
//! The referee's record ([`Reign`]) says who leads, and whether the standby is *complete*: it has all that was acknowledged. While it is, nothing is acknowledged without it.
//! A leader that wants to go on without it has to write down first that it is not complete; a standby that wants to take over has to write down that it leads, and may only if it is
//! complete. Both change the same record, so one of them comes first, and the other finds out before it has told anybody anything.
//!
//! What is only read needs a clock, too: with each answer the standby promises not to take over for a while ([`PROMISE`]), counted by the leader from before it asked, and less a tenth. A leader
//! with a complete standby answers nothing when the promise is over, so one that was stopped and goes on finds out by its own clock.
//!
//! A standby that connects gets a copy of the leader's files and then each batch as it is written. The reasons are in `docs/design/standby.md`.

use super::{
    Inner, Namenode,
    commit::{self, Committer, Core, Walker},
    log,
    referee::{Referee, Reign},
    wire,
};
use crate::{Error, Result, node::compute, socket};
use base::Kind;
use futures::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::File,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    runtime::Handle,
    sync::{mpsc, oneshot},
};

/// How long a standby keeps from taking over after it has last answered.
pub const PROMISE: Duration = Duration::from_secs(5);
/// How often the leader says that it is there, and how long either may be silent.
const BEAT: Duration = Duration::from_millis(300);
const SILENCE: Duration = Duration::from_secs(3);
/// How long the leader waits for a standby that is nearly complete to become so.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Commands that it may lack then.
const NEARLY: u64 = 8192;
const AGAIN: Duration = Duration::from_millis(100);
/// Bytes that wait for a standby that is not complete; with more it is given up, and begins anew.
const BACKLOG_MAX: u64 = 512 << 20;
const PART_BYTES: usize = 1 << 20;
const FRAME_MAX: usize = 16 << 20;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked here is changed by single assignments, so a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[derive(Debug, Serialize, Deserialize)]
enum Says {
    /// The standby, first: its name.
    Follow { name: String },
    /// The standby: everything before this number is on its disk. `beat`: the last that it has heard.
    Have { next: u64, beat: u64 },
    /// The leader: a file of its folder, and its bytes in parts.
    File { name: String, len: u64 },
    Part { bytes: Vec<u8> },
    /// All files are there; batches follow.
    Begin,
    Batch { bytes: Vec<u8> },
    Beat { beat: u64 },
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), what: &Says) -> Result<(), String> {
    let mut frame = Vec::new();
    wire::put(&mut frame, 1, what);
    let write = async {
        stream.write_all(&frame).await?;
        stream.flush().await
    };
    tokio::time::timeout(SILENCE, write).await.map_err(|_| "it takes nothing".to_string())?.map_err(|e| e.to_string())
}

/// The next message. Dropped before it is done, what has come stays in `input`.
async fn hear<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin), input: &mut bytes::BytesMut) -> Result<T, String> {
    loop {
        if let Some((_, body, len)) = wire::next(input, FRAME_MAX)? {
            let said = wire::read(body)?;
            bytes::Buf::advance(input, len);
            return Ok(said);
        }
        input.reserve(64 << 10);
        match stream.read_buf(input).await {
            Ok(0) => return Err("it hung up".into()),
            Ok(_) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// Nanoseconds of the clock that goes on while the machine sleeps: a leader that slept must not take a promise for younger than it is.
fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is that of `now`, which outlives the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    debug_assert_eq!(done, 0, "every Linux has this clock");
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

// --- leading ----------------------------------------------------------------------------------------------------------------------

/// What the one who leads knows of the pair.
pub struct Lead {
    name: String,
    referee: Referee,
    handle: Handle,
    state: Mutex<Leading>,
    changed: Condvar,
    /// The standby is complete, as far as is written down.
    complete: AtomicBool,
    /// Until when the standby's promise holds, on the clock of [`now_ns`].
    promised_ns: AtomicU64,
}

struct Leading {
    reign: Reign,
    standby: Option<Standby>,
    /// One that has connected and wants the files.
    wants: Option<Wants>,
    /// Another one leads.
    fenced: Option<String>,
    count: u64,
}

struct Standby {
    number: u64,
    name: String,
    out: mpsc::UnboundedSender<Arc<Vec<u8>>>,
    backlog: Arc<AtomicU64>,
    /// Everything before this number is on its disk.
    have: u64,
    heard: Instant,
}

struct Wants {
    name: String,
    cut: oneshot::Sender<Cut>,
}

/// The files of the leader's folder at one moment, and what comes after it.
struct Cut {
    number: u64,
    files: Vec<(String, File, u64)>,
    batches: mpsc::UnboundedReceiver<Arc<Vec<u8>>>,
    backlog: Arc<AtomicU64>,
}

impl Lead {
    fn new(name: String, referee: Referee, reign: Reign) -> Lead {
        Lead {
            name,
            referee,
            handle: Handle::current(),
            state: Mutex::new(Leading { reign, standby: None, wants: None, fenced: None, count: 0 }),
            changed: Condvar::new(),
            complete: AtomicBool::new(false),
            promised_ns: AtomicU64::new(0),
        }
    }

    /// Whether what this one knows may be told: nobody else can lead yet.
    pub fn holds(&self) -> bool {
        !self.complete.load(SeqCst) || now_ns() < self.promised_ns.load(SeqCst)
    }

    pub fn why_not(&self) -> String {
        lock(&self.state).fenced.clone().unwrap_or_else(|| "its standby, which has not answered for a while, may have taken over".into())
    }

    /// Something is to be done between two batches.
    fn is_due(&self) -> bool {
        let state = lock(&self.state);
        let lost = state.standby.as_ref().is_none_or(|standby| standby.heard.elapsed() > SILENCE);
        state.fenced.is_none() && (state.wants.is_some() || if self.complete.load(SeqCst) { lost } else { state.standby.is_some() })
    }

    /// Changes the record, or finds that another one has. `Err`: another one leads. For the committer's thread.
    fn rule(&self, core: &Core, complete: Option<String>) -> Result<(), String> {
        let seen = lock(&self.state).reign.clone();
        let new = Reign { turn: seen.turn + 1, complete, ..seen.clone() };
        if new.complete.is_some() {
            // Before it is written down: from then on the other one may lead as soon as its promise is over.
            self.complete.store(true, SeqCst);
        }
        loop {
            match self.handle.block_on(self.referee.change(Some(&seen), &new)) {
                Ok(true) => {
                    self.complete.store(new.complete.is_some(), SeqCst);
                    lock(&self.state).reign = new;
                    return Ok(());
                }
                Ok(false) => {
                    // It may be our own writing, whose answer was lost.
                    let now = self.handle.block_on(self.referee.read());
                    if matches!(&now, Ok(Some(now)) if *now == new) {
                        self.complete.store(new.complete.is_some(), SeqCst);
                        lock(&self.state).reign = new;
                        return Ok(());
                    }
                    let Ok(now) = now else { continue };
                    let leader = now.map_or_else(|| "nobody".into(), |reign| format!("{} (term {})", reign.leader, reign.term));
                    let why = format!("{leader} leads now, and not {} (term {}) any more", self.name, seen.term);
                    tracing::error!(%why, "this namenode is fenced");
                    self.complete.store(true, SeqCst);
                    self.promised_ns.store(0, SeqCst);
                    lock(&self.state).fenced = Some(why.clone());
                    return Err(why);
                }
                Err(error) => {
                    tracing::warn!(%error, "who leads can't be written down; changes wait for it");
                    if core.is_stopped() {
                        return Err("it is being stopped".into());
                    }
                    std::thread::sleep(AGAIN);
                }
            }
        }
    }

    /// Returns when a batch that is in our log may be acknowledged: the standby has it, or it is written down that there is none. `next`: the number after it.
    pub fn confirm(&self, core: &Core, batch: &[u8], next: u64) -> Result<(), String> {
        let mut state = lock(&self.state);
        if let Some(why) = &state.fenced {
            return Err(why.clone());
        }
        if let Some(standby) = &state.standby {
            standby.backlog.fetch_add(batch.len() as u64, SeqCst);
            // Who is gone is found out below.
            let _ = standby.out.send(Arc::new(batch.to_vec()));
            if !self.complete.load(SeqCst) && standby.backlog.load(SeqCst) > BACKLOG_MAX {
                tracing::warn!(standby = standby.name, "the standby can't keep up; it begins anew");
                state.standby = None;
            }
        }
        while self.complete.load(SeqCst) {
            match &state.standby {
                Some(standby) if standby.have >= next => return Ok(()),
                Some(standby) if standby.heard.elapsed() <= SILENCE => {
                    state = self.changed.wait_timeout(state, AGAIN).unwrap_or_else(|e| e.into_inner()).0;
                }
                _ => {
                    drop(state);
                    return self.go_alone(core);
                }
            }
        }
        Ok(())
    }

    fn go_alone(&self, core: &Core) -> Result<(), String> {
        self.rule(core, None)?;
        let standby = lock(&self.state).standby.take();
        tracing::warn!(standby = standby.map(|standby| standby.name), "the standby is lost; this namenode goes on alone");
        Ok(())
    }

    /// Between two batches: hands out the files, and writes down who is complete and who isn't. `Err`: another one leads.
    pub fn tend(&self, core: &Core, folder: &Path, next: u64, log_bytes: u64) -> Result<(), String> {
        if !self.is_due() {
            return Ok(());
        }
        if self.complete.load(SeqCst) {
            // Lost, or one that comes again and lacks what it had.
            return self.go_alone(core);
        }
        let mut state = lock(&self.state);
        if let Some(Wants { name, cut }) = state.wants.take() {
            state.count += 1;
            let (number, (out, batches), backlog) = (state.count, mpsc::unbounded_channel(), Arc::new(AtomicU64::new(0)));
            match files(folder, log_bytes) {
                Ok(files) => {
                    tracing::info!(standby = name, files = files.len(), "a standby follows");
                    // The answer to the first batch is far off: it is not lost because it is busy copying.
                    state.standby = Some(Standby { number, name, out, backlog: backlog.clone(), have: 0, heard: Instant::now() });
                    let _ = cut.send(Cut { number, files, batches, backlog });
                }
                // It asks again: a snapshot has just been made, for instance, and what it replaces is gone.
                Err(error) => tracing::warn!(%error, "a standby can't be given the files yet"),
            }
            return Ok(());
        }
        let Some(standby) = &state.standby else { return Ok(()) };
        if standby.have + NEARLY < next || self.promised_ns.load(SeqCst) < now_ns() + (PROMISE / 2).as_nanos() as u64 {
            return Ok(());
        }
        let (number, end) = (standby.number, Instant::now() + CATCH_UP);
        loop {
            match &state.standby {
                Some(standby) if standby.number == number && standby.have >= next => {
                    let name = standby.name.clone();
                    drop(state);
                    // Nothing is acknowledged meanwhile: this is the thread that would.
                    self.rule(core, Some(name.clone()))?;
                    tracing::info!(standby = name, next, "the standby is complete");
                    return Ok(());
                }
                Some(standby) if standby.number == number && Instant::now() < end => {
                    state = self.changed.wait_timeout(state, AGAIN).unwrap_or_else(|e| e.into_inner()).0;
                }
                _ => return Ok(()),
            }
        }
    }

    fn have(&self, number: u64, next: u64, promised_ns: u64) {
        let mut state = lock(&self.state);
        if let Some(standby) = state.standby.as_mut().filter(|standby| standby.number == number) {
            standby.have = standby.have.max(next);
            standby.heard = Instant::now();
            self.promised_ns.fetch_max(promised_ns, SeqCst);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// A standby's connection has ended.
    fn lost(&self, number: u64) {
        let mut state = lock(&self.state);
        if state.standby.as_ref().is_some_and(|standby| standby.number == number) {
            state.standby = None;
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// The newest snapshot and the logs from it on, opened, so that they stay whole; the last log up to `log_bytes`.
fn files(folder: &Path, log_bytes: u64) -> Result<Vec<(String, File, u64)>> {
    let snapshot = log::numbered(folder, "snapshot-")?.pop();
    let from = snapshot.as_ref().map_or(1, |(seq, _)| seq + 1);
    let mut logs = log::files(folder)?;
    let start = logs.iter().rposition(|(first, _)| *first <= from).unwrap_or(0);
    let logs = logs.split_off(start);
    let last = logs.len();
    let logs = logs.into_iter().enumerate().map(|(n, (_, path))| (path, (n + 1 == last).then_some(log_bytes)));
    snapshot
        .into_iter()
        .map(|(_, path)| (path, None))
        .chain(logs)
        .map(|(path, len)| {
            let failed = |source| Error::File { action: "open", path: path.clone(), source };
            let file = File::open(&path).map_err(failed)?;
            let len = match len {
                Some(len) => len,
                None => file.metadata().map_err(|source| Error::File { action: "look up", path: path.clone(), source })?.len(),
            };
            Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), file, len))
        })
        .collect()
}

/// Serves a standby until it hangs up.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(namenode: &Namenode, mut stream: S) -> Result<(), String> {
    let core = namenode.core();
    let lead = core.lead.get().ok_or("this namenode has no standby: it was not opened as one of a pair")?.clone();
    let mut input = bytes::BytesMut::new();
    let hello = tokio::time::timeout(SILENCE, hear::<Says>(&mut stream, &mut input)).await;
    let Says::Follow { name } = hello.map_err(|_| "it says nothing")?? else { return Err("it does not say who it is".into()) };
    let (cut, cut_out) = oneshot::channel();
    lock(&lead.state).wants = Some(Wants { name, cut });
    core.nudge();
    let Cut { number, files, mut batches, backlog } = cut_out.await.map_err(|_| "another one has come after it")?;
    struct Lost<'a>(&'a Lead, u64);
    impl Drop for Lost<'_> {
        fn drop(&mut self) {
            self.0.lost(self.1);
        }
    }
    let _lost = Lost(&lead, number);
    for (name, mut file, len) in files {
        say(&mut stream, &Says::File { name, len }).await?;
        let mut left = len;
        while left > 0 {
            let want = left.min(PART_BYTES as u64);
            let part = compute(move || {
                let mut bytes = vec![0; want as usize];
                file.read_exact(&mut bytes).map(|()| (file, bytes))
            });
            let (back, bytes) = part.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
            (file, left) = (back, left - want);
            say(&mut stream, &Says::Part { bytes }).await?;
        }
    }
    say(&mut stream, &Says::Begin).await?;
    let (mut beat, mut sent): (u64, std::collections::VecDeque<(u64, u64)>) = (0, Default::default());
    let mut ticks = tokio::time::interval(BEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Opening what it was given may take a standby longer than a beat.
    let mut heard = tokio::time::Instant::now() + Duration::from_secs(60);
    let (mut reader, mut writer) = tokio::io::split(stream);
    loop {
        tokio::select! {
            said = hear::<Says>(&mut reader, &mut input) => match said? {
                Says::Have { next, beat: answered } => {
                    heard = tokio::time::Instant::now();
                    let mut from = 0;
                    while sent.front().is_some_and(|(beat, _)| *beat <= answered) {
                        from = sent.pop_front().map_or(0, |(_, at)| at);
                    }
                    // Counted from before it was asked, and less a tenth: its clock may be slower.
                    let promised = if from == 0 { 0 } else { from + (PROMISE - PROMISE / 10).as_nanos() as u64 };
                    lead.have(number, next, promised);
                }
                said => return Err(format!("it says {said:?}")),
            },
            batch = batches.recv() => {
                let bytes = batch.ok_or("it is given up")?;
                say(&mut writer, &Says::Batch { bytes: bytes.to_vec() }).await?;
                backlog.fetch_sub(bytes.len() as u64, SeqCst);
            }
            _ = ticks.tick() => {
                if heard.elapsed() > SILENCE {
                    return Err("it is silent".into());
                }
                beat += 1;
                sent.push_back((beat, now_ns()));
                say(&mut writer, &Says::Beat { beat }).await?;
            }
        }
    }
}

/// Wakes the committer when there is something to do although nobody changes anything.
async fn watch(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(BEAT / 2).await;
        let Some(inner) = inner.upgrade().filter(|inner| !inner.core.is_stopped()) else { return };
        if inner.core.lead.get().is_some_and(|lead| lead.is_due()) {
            inner.core.nudge();
        }
    }
}

// --- following --------------------------------------------------------------------------------------------------------------------

/// What a standby has of the leader's state.
struct Replica {
    core: Arc<Core>,
    committer: Committer,
    walker: Walker,
}

impl Replica {
    /// Lets go of the folder. Blocks until nobody writes a snapshot there.
    fn close(self) {
        self.core.stop();
        self.walker.end();
    }
}

fn open_replica(folder: PathBuf, snapshot_after: u64) -> Result<Replica> {
    let (core, committer) = commit::open(folder, snapshot_after)?;
    Ok(Replica { core, committer, walker: Walker::default() })
}

/// Removes what is there and what the leader replaces.
fn clear(folder: &Path) -> Result<()> {
    crate::private::folder(folder).map_err(|source| Error::File { action: "create", path: folder.into(), source })?;
    // The logs first and the oldest last: what is left after a crash is refused, not taken for all.
    let files = log::files(folder)?.into_iter().chain(log::numbered(folder, "snapshot-")?);
    for (_, path) in files {
        std::fs::remove_file(&path).map_err(|source| Error::File { action: "remove", path, source })?;
    }
    log::sync_folder(folder)
}

struct Following {
    folder: PathBuf,
    snapshot_after: u64,
    name: String,
    replica: Option<Replica>,
    /// When this one has last answered, or could have in an earlier life.
    promised: Instant,
}

impl Drop for Following {
    fn drop(&mut self) {
        // Whoever opens the folder next must find nobody writing there.
        if let Some(copy) = self.replica.take() {
            copy.close();
        }
    }
}

impl Following {
    /// Who leads can't be read or written. A copy is kept for when it can; without one there is nothing to keep.
    fn unsure(&self, error: Error) -> Result<()> {
        if self.replica.is_none() {
            return Err(error);
        }
        tracing::warn!(%error, name = self.name, "who leads can't be read or written; it is tried again");
        Ok(())
    }

    /// Follows the leader at the other end until the connection is over, and says why it is.
    async fn follow<S: AsyncRead + AsyncWrite + Unpin>(&mut self, mut stream: S) -> String {
        match self.listen(&mut stream).await {
            Ok(()) => "it has ended".into(),
            Err(why) => why,
        }
    }

    async fn listen(&mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), String> {
        let text = |e: Error| e.to_string();
        say(stream, &Says::Follow { name: self.name.clone() }).await?;
        let (mut input, mut beat) = (bytes::BytesMut::new(), 0);
        let mut writing: Option<(File, u64)> = None;
        let mut fresh = false;
        loop {
            let said = tokio::time::timeout(SILENCE, hear::<Says>(stream, &mut input)).await.map_err(|_| "it is silent")??;
            match said {
                Says::File { name, len } => {
                    let good = ["log-", "snapshot-"].iter().any(|word| name.strip_prefix(word).is_some_and(|number| number.parse::<u64>().is_ok()));
                    if !good {
                        return Err(format!("a file is called {name:?}"));
                    }
                    if !fresh {
                        // The leader has written down that this one is not complete before it gave out the files.
                        if let Some(copy) = self.replica.take() {
                            compute(move || copy.close()).await.map_err(text)?;
                        }
                        clear(&self.folder).map_err(text)?;
                        fresh = true;
                    }
                    let path = self.folder.join(name);
                    let file = File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(|e| format!("create {}: {e}", path.display()))?;
                    writing = Some((file, len));
                }
                Says::Part { bytes } => {
                    let (mut file, left) = writing.take().ok_or("bytes of no file")?;
                    let left = left.checked_sub(bytes.len() as u64).ok_or("more bytes than the file has")?;
                    let done = compute(move || {
                        std::io::Write::write_all(&mut file, &bytes)?;
                        if left == 0 {
                            file.sync_all()?;
                        }
                        Ok::<_, std::io::Error>(file)
                    });
                    writing = Some((done.await.map_err(text)?.map_err(|e| e.to_string())?, left));
                }
                Says::Begin => {
                    let (folder, after) = (self.folder.clone(), self.snapshot_after);
                    let copy = compute(move || {
                        log::sync_folder(&folder)?;
                        open_replica(folder, after)
                    });
                    self.replica = Some(copy.await.map_err(text)?.map_err(text)?);
                    self.answer(stream, beat).await?;
                }
                Says::Batch { bytes } => {
                    let mut copy = self.replica.take().ok_or("a batch before the files")?;
                    let done = compute(move || {
                        let done = copy.committer.follow(&bytes, &mut copy.walker);
                        (copy, done)
                    });
                    let (copy, done) = done.await.map_err(text)?;
                    if let Err(e) = done {
                        // A copy whose log has failed is no copy any more; what it has said it has is in its folder.
                        compute(move || copy.close()).await.map_err(text)?;
                        return Err(text(e));
                    }
                    self.replica = Some(copy);
                    self.answer(stream, beat).await?;
                }
                Says::Beat { beat: new } => {
                    beat = new;
                    if self.replica.is_some() && fresh {
                        self.answer(stream, beat).await?;
                    }
                }
                said => return Err(format!("it says {said:?}")),
            }
        }
    }

    async fn answer(&mut self, stream: &mut (impl AsyncWrite + Unpin), beat: u64) -> Result<(), String> {
        let next = self.replica.as_ref().map_or(0, |copy| copy.committer.log.next());
        // Before it is out: the promise must not be shorter than what the leader takes it for.
        self.promised = Instant::now();
        let said = say(stream, &Says::Have { next, beat }).await;
        self.promised = Instant::now();
        said
    }
}

/// [`Namenode::open_paired`]. `begins`: this one may lead if nobody ever has.
pub(super) fn open<S, F>(
    folder: PathBuf,
    name: String,
    referee: Referee,
    begins: bool,
    dial: impl Fn() -> F + Send + Sync + 'static,
) -> BoxFuture<'static, Result<Namenode>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Result<S>> + Send + 'static,
{
    async move {
        let after = super::SNAPSHOT_AFTER;
        let mut following = Following { folder: folder.clone(), snapshot_after: after, name: name.clone(), replica: None, promised: Instant::now() };
        loop {
            let seen = match referee.read().await {
                Ok(seen) => seen,
                Err(error) => {
                    following.unsure(error)?;
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            let mine = match &seen {
                None => begins.then(|| Reign { term: 1, turn: 1, leader: name.clone(), complete: None }),
                Some(reign) if reign.leader == name => Some(Reign { term: reign.term + 1, turn: reign.turn + 1, leader: name.clone(), complete: None }),
                Some(reign) if reign.complete.as_ref() == Some(&name) && following.promised.elapsed() > PROMISE => {
                    Some(Reign { term: reign.term + 1, turn: reign.turn + 1, leader: name.clone(), complete: None })
                }
                Some(_) => None,
            };
            if let Some(mine) = mine {
                let changed = match referee.change(seen.as_ref(), &mine).await {
                    Ok(changed) => changed,
                    Err(error) => {
                        // It may be written all the same, which the next look tells.
                        following.unsure(error)?;
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                };
                if changed {
                    let before = seen.map(|reign| reign.leader);
                    tracing::warn!(name, before, term = mine.term, "this namenode leads");
                    let copy = match following.replica.take() {
                        Some(copy) => copy,
                        None => compute(move || open_replica(folder, after)).await??,
                    };
                    return lead(copy, Lead::new(name, referee, mine));
                }
                continue;
            }
            // One that takes the connection and says nothing must not put off who takes over.
            if let Ok(Ok(stream)) = tokio::time::timeout(SILENCE, dial()).await {
                let why = following.follow(stream).await;
                tracing::info!(name, why, "the leader can't be followed");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
    .boxed()
}

impl Namenode {
    /// Opens a folder as one of a pair, and returns when this one leads: at once, or after it has followed the other and that one is gone.
    ///
    /// `name`: this one's among the two. `dial` connects to where the other would let a standby follow ([`Namenode::listen_standby`]).
    pub fn open_paired<S, F>(
        folder: impl Into<PathBuf>,
        name: impl Into<String>,
        referee: Referee,
        dial: impl Fn() -> F + Send + Sync + 'static,
    ) -> BoxFuture<'static, Result<Namenode>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Result<S>> + Send + 'static,
    {
        open(folder.into(), name.into(), referee, true, dial)
    }

    /// Returns when another one leads, or when this one is closed.
    pub async fn deposed(&self) {
        let over = || self.core().is_stopped() || self.core().lead.get().is_some_and(|lead| lock(&lead.state).fenced.is_some());
        while !over() {
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Lets the other of the pair follow, over this connection, until it hangs up.
    pub async fn serve_standby<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Result<()> {
        serve(self, stream).await.map_err(|message| Error::Peer { peer: "the standby".into(), message })
    }

    /// Lets the other of the pair follow over a UNIX socket that only this user may open, until this is dropped.
    pub async fn listen_standby(&self, socket: &Path) -> Result<()> {
        let each = |stream| {
            let namenode = self.clone();
            async move {
                if let Err(error) = namenode.serve_standby(stream).await {
                    tracing::info!(%error, "a standby");
                }
            }
        };
        socket::serve(socket::listen(socket)?, each).await
    }

    /// Whether what this one answers is true: it leads, if it is one of a pair.
    pub fn leads(&self) -> bool {
        self.core().leads().is_ok()
    }

    /// Whether the other one has everything and could take over.
    pub fn has_standby(&self) -> bool {
        self.core().lead.get().is_some_and(|lead| lead.complete.load(SeqCst) && lead.holds())
    }
}

/// Begins to lead with what is there.
fn lead(copy: Replica, lead: Lead) -> Result<Namenode> {
    let Replica { core, committer, walker } = copy;
    let _ = core.lead.set(Arc::new(lead)); // it was made for this
    if core.read().leasing() {
        // The other one has granted leases; how long they hold is known.
        core.leases.begin_grace();
    }
    let namenode = Namenode::start(core, committer, walker)?;
    tokio::spawn(watch(Arc::downgrade(&namenode.inner)));
    Ok(namenode)
}

/// A call that only the leader may answer.
pub fn denied(why: String) -> Error {
    Error::Remote { kind: Kind::Unavailable, message: format!("this namenode does not answer: {why}") }
}

// --- for `fuzz.rs` ----------------------------------------------------------------------------------------------------------------

/// Reads what either of a pair says; what can be read is the same when it is written and read again.
pub(crate) fn read_said(mut bytes: &[u8]) {
    while let Ok(Some((_, body, len))) = wire::next(bytes, FRAME_MAX) {
        if let Ok(said) = wire::read::<Says>(body) {
            let mut again = Vec::new();
            wire::put(&mut again, 1, &said);
            let (_, body, _) = wire::next(&again, usize::MAX).expect("it was just written").expect("whole");
            let back: Says = wire::read(body).expect("what was written can be read");
            assert_eq!(format!("{said:?}"), format!("{back:?}"));
        }
        bytes = &bytes[len..];
    }
}

/// Some of each sort.
pub(crate) fn some_said() -> Vec<Vec<u8>> {
    let all = [
        Says::Follow { name: "b".into() },
        Says::Have { next: 7, beat: 1 },
        Says::File { name: "log-0".into(), len: 1 << 40 },
        Says::Part { bytes: vec![1; 40] },
        Says::Batch { bytes: vec![2; 40] },
    ];
    all.iter()
        .map(|said| {
            let mut frame = Vec::new();
            wire::put(&mut frame, 1, said);
            frame
        })
        .collect()
}
