//! Moving running cells from one agent to another: the two ends of one migration, on a connection of their own ([`crate::link`]).
//!
//! ```text
//!  Departure (source)                                   Arrival (destination)
//!  offer ───────────────────────── MOVE ──────────────▶ loads the program, makes empty cells
//!        ◀──────────────────────── ACCEPT or REFUSE ─── 
//!  ahead: cells still run ──────── PAGES* ────────────▶ writes them (PACKED where the way is slow)
//!  cells stop; hold their ranks
//!  rest: what changed since ────── PAGES*, REST ──────▶ restores, holds the ranks
//!        ◀──────────────────────── RESTORED ─────────── 
//!  asks the arbiter, and then
//!  go ──────────────────────────── GO with epochs ────▶ runs them
//!        ◀──────────────────────── RUNNING each ─────── 
//!  or abandon ──────────────────── DROP ──────────────▶ gives them up
//! ```
//!
//! Pages are known by their checksums: at first by those of a fresh instance of the module, which the destination has; then by those of what was
//! sent. The first round looks at all pages and sends those whose sum is another; the cells go on writing meanwhile, and the next round looks at what was written since
//! ([`crate::written`]; at all pages again where the kernel does not tell that).
//! Rounds end when one was small, when they do not get smaller, or after [`ROUNDS_MAX`].
//!
//! What this decides: nothing but when pre-copy ends. Whether the ranks go or stay is the agents' and their hub's business.
//! All calls here wait; they are for plain threads. A destination that hangs or vanishes need not close its connection, so no wait of the source is
//! without an end: each has its limit, a short one once ranks stand still, and an [`Interrupt`] ends all of them when the move is called off.

use crate::cell::{Cell, Frozen};
use crate::control::{Control, Whole};
use crate::engine::{Engine, PAGE, Program};
use crate::error::{Error, Result};
use crate::link::{Interrupt, Link, Stream};
use crate::snapshot::{changed, put_pages, write_pages};
use crate::written::Run;
use base::{Pace, SiteId};
use mpi::Rank;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_128;

/// Rounds of pre-copy.
pub const ROUNDS_MAX: u32 = 8;
/// A round that sent no more than this was small.
const SMALL: u64 = 512 << 10;
/// Memory looked at in one go, and about what goes in one frame.
const WINDOW: usize = 1 << 20;
/// As far as there is memory.
const EVERY_PAGE: usize = usize::MAX / PAGE;
/// What stands before the runs in a frame of pages: the rank, and how large its memory must be for them.
const PAGES_HEAD: usize = 12;
/// Most bytes of runs in a frame: it is sent when it has a window, and the last piece has at most another one.
const RUNS_MAX: usize = 3 * WINDOW;
/// Below so many bytes per second on the wire, pages are packed (LZ4). Chosen well below what packing itself gets through, not measured.
const PACKED_BELOW: f64 = 200e6;
/// After a frame that hardly became smaller, so many go as they are.
const PLAIN: u32 = 7;
/// Until the destination has loaded (and perhaps compiled) the program.
const ACCEPT_MAX: Duration = Duration::from_secs(120);
/// Until it has restored the ranks, or runs them.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How long the destination may take nothing while ranks stand still for it.
const STALL_STOPPED_MAX: Duration = Duration::from_secs(3);

mod kind {
    pub const ACCEPT: u8 = 16;
    pub const REFUSE: u8 = 17;
    pub const PAGES: u8 = 18;
    pub const REST: u8 = 19;
    pub const RESTORED: u8 = 20;
    pub const GO: u8 = 21;
    pub const DROP: u8 = 22;
    pub const RUNNING: u8 = 23;
    pub const PACKED: u8 = 24;
}

/// What is offered to the destination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Offer {
    pub migration: u64,
    pub job: String,
    /// How often the job was started again.
    pub life: u32,
    pub program_sha256: String,
    pub ranks: Vec<u32>,
}

/// The body of the first frame of a migration.
pub(crate) fn read_offer(body: &[u8]) -> io::Result<Offer> {
    postcard::from_bytes(body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("an offer can't be read: {e}")))
}

/// The body of a frame of pages as one of [`kind::PACKED`] has it.
fn packed(body: &[u8]) -> Vec<u8> {
    let (head, runs) = body.split_at(PAGES_HEAD);
    [head, &(runs.len() as u32).to_le_bytes(), &lz4_flex::block::compress(runs)].concat()
}

/// What arrives of a rank.
enum Piece<'b> {
    /// Runs of pages, and how large its memory must be for them.
    Pages { reach: u64, runs: Cow<'b, [u8]> },
    Rest(Box<Frozen>),
}

/// What is in a frame that comes before a rank has been restored, and of which rank.
fn read_piece(kind: u8, body: &[u8]) -> Result<(u32, Piece<'_>)> {
    let short = || Error::Snapshot("a frame of the migration is cut".into());
    if !moves(kind) {
        return Err(unexpected(kind, body));
    }
    let (rank, rest) = body.split_at_checked(4).ok_or_else(short)?;
    let rank = u32::from_le_bytes(rank.try_into().expect("four bytes"));
    if kind == kind::REST {
        let frozen = postcard::from_bytes(rest).map_err(|e| Error::Snapshot(format!("a rank's state can't be read: {e}")))?;
        return Ok((rank, Piece::Rest(Box::new(frozen))));
    }
    let (reach, runs) = rest.split_at_checked(8).ok_or_else(short)?;
    let reach = u64::from_le_bytes(reach.try_into().expect("eight bytes"));
    if kind == kind::PAGES {
        return Ok((rank, Piece::Pages { reach, runs: Cow::Borrowed(runs) }));
    }
    let (length, packed) = runs.split_at_checked(4).ok_or_else(short)?;
    let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    if length > RUNS_MAX {
        return Err(Error::Snapshot(format!("a frame of the migration says that it has {length} bytes of pages, and {RUNS_MAX} are the most")));
    }
    let runs = lz4_flex::block::decompress(packed, length).map_err(|e| Error::Snapshot(format!("packed pages can't be read: {e}")))?;
    Ok((rank, Piece::Pages { reach, runs: Cow::Owned(runs) }))
}

/// Takes in ranks, each into its new and empty cell, until all of them are restored and held. `next` gives frame after frame. If this fails, nothing is held.
pub(crate) fn arrive(cells: &mut BTreeMap<u32, Cell>, mut next: impl FnMut() -> Result<(u8, Vec<u8>)>) -> Result<BTreeMap<u32, Frozen>> {
    let mut restored = BTreeMap::new();
    while restored.len() < cells.len() {
        if let Err(e) = next().and_then(|(kind, body)| take_in(kind, &body, cells, &mut restored)) {
            for rank in restored.keys() {
                cells[rank].fabric().depart(Rank(*rank));
            }
            return Err(e);
        }
    }
    Ok(restored)
}

fn take_in(kind: u8, body: &[u8], cells: &mut BTreeMap<u32, Cell>, restored: &mut BTreeMap<u32, Frozen>) -> Result<()> {
    let (rank, piece) = read_piece(kind, body)?;
    let cell = cells.get_mut(&rank).ok_or_else(|| Error::Snapshot(format!("rank {rank} was not in the offer")))?;
    if restored.contains_key(&rank) {
        return Err(Error::Snapshot(format!("more comes of rank {rank}, of which all has come")));
    }
    match piece {
        Piece::Pages { reach, runs } => {
            cell.reach(reach)?;
            write_pages(cell, &runs)?;
        }
        Piece::Rest(frozen) => {
            cell.restore(&frozen)?;
            restored.insert(rank, *frozen);
        }
    }
    Ok(())
}

/// Whether a frame of this kind is one that [`arrive`] takes in.
pub(crate) fn moves(kind: u8) -> bool {
    matches!(kind, kind::PAGES | kind::PACKED | kind::REST)
}

/// For `fuzz`: what was packed is read as what it was.
pub(crate) fn packs(frames: &[(u8, Vec<u8>)]) {
    for (_, body) in frames.iter().filter(|(_, body)| (PAGES_HEAD..=PAGES_HEAD + RUNS_MAX).contains(&body.len())) {
        let packed = packed(body);
        let read = [(kind::PAGES, body), (kind::PACKED, &packed)].map(|(kind, body)| read_piece(kind, body).expect("a whole frame"));
        let [(plain_rank, Piece::Pages { reach: plain_reach, runs: plain }), (rank, Piece::Pages { reach, runs })] = read else { unreachable!("pages") };
        assert!((plain_rank, plain_reach) == (rank, reach) && plain == runs, "other pages than were packed");
    }
}

/// For `fuzz`: the frames of a stopped cell, some of them packed.
pub(crate) fn sent(cell: &mut Cell) -> Vec<(u8, Vec<u8>)> {
    let rank = cell.rank().0.to_le_bytes();
    let pages = |numbers: &[u32]| {
        let mut body = [&rank[..], &(cell.memory_bytes() as u64).to_le_bytes()].concat();
        put_pages(&mut body, numbers, |page, n| &cell.memory()[page * PAGE..(page + n) * PAGE]);
        body
    };
    let mut frames = vec![(kind::PAGES, pages(&[0, 2])), (kind::PACKED, packed(&pages(&[0, 1, 5]))), (kind::PACKED, packed(&pages(&[3])))];
    let frozen = cell.freeze().expect("a stopped cell");
    frames.push((kind::REST, [&rank[..], &postcard::to_allocvec(&frozen).expect("plain data")].concat()));
    frames
}

/// What a migration has cost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Memory of the ranks and the rest of their state.
    pub state_bytes: u64,
    /// On the wire.
    pub moved_bytes: u64,
    /// Of these, after the first rank had stopped.
    pub moved_stopped_bytes: u64,
    /// Rounds of pre-copy.
    pub rounds: u32,
    /// The longest of its ranks, from leaving its work here until it is known to be at work there.
    pub downtime: Duration,
}

fn wire(what: &str) -> impl Fn(io::Error) -> Error {
    Error::io(format!("migration: {what}"))
}

fn unexpected(kind: u8, body: &[u8]) -> Error {
    match kind {
        kind::REFUSE | kind::DROP => Error::Refused(String::from_utf8_lossy(body).into_owned()),
        other => Error::Refused(format!("it answered with a frame of kind {other}")),
    }
}

/// What the destination knows of a rank's memory.
struct Known {
    rank: Rank,
    sums: Vec<u128>,
    /// What was written since the last round, where the kernel tells; else each round looks at all pages. It ends with the departure: to end it, the kernel walks over all of
    /// the memory, which no rank should stand still for.
    watch: Option<Whole>,
}

/// What goes to the destination, and how.
struct Way {
    stream: Stream,
    /// For what goes ahead. While ranks stand still, nothing waits for it.
    pace: Arc<Pace>,
    /// The last pages went slowly enough for packing to be worth its time.
    slow: bool,
    /// So many frames go as they are, because the last one hardly became smaller.
    plain: u32,
}

impl Way {
    /// Sends a frame of pages, packed where that is sooner there. Returns its bytes on the wire.
    fn pages(&mut self, body: &[u8], paced: bool) -> Result<u64> {
        let packed = if self.slow && self.plain == 0 {
            let packed = packed(body);
            self.plain = if packed.len() > body.len() / 10 * 9 { PLAIN } else { 0 };
            Some(packed).filter(|_| self.plain == 0)
        } else {
            self.plain = self.plain.saturating_sub(1);
            None
        };
        let (kind, bytes) = packed.as_deref().map_or((kind::PAGES, body), |packed| (kind::PACKED, packed));
        let began = Instant::now();
        if paced {
            self.wait(self.pace.book(bytes.len() as u64, began))?;
        }
        self.stream.send(kind, &[bytes]).map_err(wire("send pages"))?;
        self.slow = bytes.len() as f64 / began.elapsed().as_secs_f64() < PACKED_BELOW;
        Ok(bytes.len() as u64)
    }

    /// For the bandwidth. Ends early, with an error, when the move is called off.
    fn wait(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        loop {
            if let Some(why) = self.stream.interrupt.raised() {
                return Err(Error::Refused(why));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }
}

/// A frame of pages that grows until it is worth sending.
struct Frame {
    body: Vec<u8>,
    paced: bool,
    /// On the wire, of all that were sent.
    bytes: u64,
}

impl Frame {
    fn new(paced: bool) -> Frame {
        Frame { body: Vec::new(), paced, bytes: 0 }
    }

    fn send(&mut self, way: &mut Way) -> Result<()> {
        if !self.body.is_empty() {
            self.bytes += way.pages(&self.body, self.paced)?;
            self.body.clear();
        }
        Ok(())
    }
}

impl Known {
    /// Adds to the frame the pages of `memory`, which begins at page `first`, that the destination doesn't have. `size`: bytes that its memory must have for them.
    fn add(&mut self, frame: &mut Frame, way: &mut Way, size: u64, first: usize, memory: &[u8]) -> Result<()> {
        let known = self.sums.get(first..).unwrap_or_default();
        let new = changed(memory, known);
        if new.is_empty() {
            return Ok(());
        }
        let end = first + memory.len() / PAGE;
        if self.sums.len() < end {
            self.sums.resize(end, xxh3_128(&[0; PAGE]));
        }
        match frame.body.get_mut(4..PAGES_HEAD) {
            // Its memory may have grown since the frame was begun.
            Some(reach) => reach.copy_from_slice(&size.max(u64::from_le_bytes((&*reach).try_into().expect("eight bytes"))).to_le_bytes()),
            None => frame.body = [&self.rank.0.to_le_bytes()[..], &size.to_le_bytes()].concat(),
        }
        let pages: Vec<u32> = new.iter().map(|(page, _)| first as u32 + page).collect();
        put_pages(&mut frame.body, &pages, |page, n| &memory[(page - first) * PAGE..(page - first + n) * PAGE]);
        for (page, sum) in new {
            self.sums[first + page as usize] = sum;
        }
        if frame.body.len() >= WINDOW { frame.send(way) } else { Ok(()) }
    }

    /// Where to look for what the destination doesn't have, in order: as far as the kernel tells, and all that it does not.
    fn runs(&mut self, taken: Option<io::Result<Vec<Run>>>, pages: usize) -> Vec<Run> {
        let Some(whole) = &self.watch else { return vec![(0, pages)] };
        let (watched, taken) = (whole.watch.pages(), taken.and_then(io::Result::ok));
        let Some(mut runs) = taken else {
            self.watch = None;
            return vec![(0, pages)];
        };
        if watched < pages {
            runs.push((watched, pages - watched));
        }
        runs
    }
}

/// The source's end.
pub struct Departure {
    way: Way,
    known: BTreeMap<u32, Known>,
    left: BTreeMap<u32, Instant>,
    stopped_at_bytes: Option<u64>,
    pub figures: Figures,
}

impl Departure {
    /// Dials the destination and waits until it is ready to take pages. `pace`: the bandwidth of what all moves together send ahead. `interrupt` ends this and what follows, until [`Departure::go`] or
    /// [`Departure::abandon`].
    #[allow(clippy::too_many_arguments)] // whom, what, and on which conditions
    pub fn open(link: &Link, to: &SiteId, address: &str, offer: &Offer, engine: &Engine, program: &Program, pace: &Arc<Pace>, interrupt: &Interrupt) -> Result<Departure> {
        if !program.movable() {
            return Err(program.not_movable());
        }
        let body = postcard::to_allocvec(offer).map_err(|e| Error::Refused(e.to_string()))?;
        let mut stream = link.open_move(to, address, &body, interrupt).map_err(wire("reach the destination"))?;
        match stream.receive(ACCEPT_MAX).map_err(wire("wait for the destination to accept"))? {
            (kind::ACCEPT, _) => {}
            (kind, body) => return Err(unexpected(kind, &body)),
        }
        let base = program.base(engine)?;
        let known = offer.ranks.iter().map(|r| (*r, Known { rank: Rank(*r), sums: base.to_vec(), watch: None })).collect();
        let way = Way { stream, pace: pace.clone(), slow: false, plain: 0 };
        Ok(Departure { way, known, left: BTreeMap::new(), stopped_at_bytes: None, figures: Figures::default() })
    }

    /// Sends memory ahead while the cells run. `go_on` is asked between rounds.
    pub fn ahead(&mut self, cells: &[(Rank, Arc<Control>)], mut go_on: impl FnMut() -> bool) -> Result<()> {
        let memory = File::open("/proc/self/mem").map_err(Error::io("open this process's memory"))?;
        let mut window = vec![0; WINDOW];
        let mut before = u64::MAX;
        while self.figures.rounds < ROUNDS_MAX && go_on() {
            let mut sent = 0;
            for (rank, control) in cells {
                let known = self.known.get_mut(&rank.0).expect("the offer named it");
                let mut frame = Frame::new(true);
                if self.figures.rounds == 0 {
                    known.watch = control.watch();
                }
                let taken = known.watch.as_mut().filter(|_| self.figures.rounds > 0).map(|whole| control.written(&mut whole.watch));
                let runs = if self.figures.rounds == 0 { vec![(0, EVERY_PAGE)] } else { known.runs(taken, control.pages()) };
                for (first, count) in runs {
                    let (mut at, end) = ((first * PAGE) as u64, (first.saturating_add(count) as u64).saturating_mul(PAGE as u64));
                    while at < end {
                        let want = usize::try_from(end - at).unwrap_or(WINDOW).min(WINDOW);
                        let got = control.peek(&memory, at, &mut window[..want]);
                        if got == 0 {
                            // There is more, but not now: the cell stands still for somebody else. What was said of these pages is not said again, so all are looked at.
                            if (at as usize) < control.pages() * PAGE {
                                known.watch = None;
                            }
                            break;
                        }
                        // The destination's memory need not be as large yet as the guest's is by now.
                        known.add(&mut frame, &mut self.way, at + got as u64, at as usize / PAGE, &window[..got])?;
                        at += got as u64;
                    }
                }
                frame.send(&mut self.way)?;
                sent += frame.bytes;
            }
            self.figures.rounds += 1;
            if sent <= SMALL || sent > before / 10 * 9 {
                break;
            }
            before = sent;
        }
        Ok(())
    }

    /// Sends what is left of a stopped cell. Its rank is held from here on: [`mpi::Fabric::release`] if it is to go on here after all, or
    /// [`mpi::Fabric::depart`] when it has left.
    pub fn rest(&mut self, cell: &mut Cell) -> Result<()> {
        self.way.stream.stall_max = STALL_STOPPED_MAX;
        let at = self.way.stream.sent;
        self.stopped_at_bytes.get_or_insert(at);
        let rank = cell.rank();
        self.left.insert(rank.0, cell.control().left_at().unwrap_or_else(Instant::now));
        cell.fabric().hold(rank);
        // Before the memory: messages that lie in rings are received now, into the guest's buffers.
        let frozen = cell.freeze()?;
        let known = self.known.get_mut(&rank.0).expect("the offer named it");
        let size = cell.memory_bytes() as u64;
        let memory = cell.memory();
        let taken = known.watch.as_mut().map(|whole| &mut whole.watch).filter(|watch| watch.is_of(memory.as_ptr())).map(|watch| watch.take());
        let mut frame = Frame::new(false);
        for (first, count) in known.runs(taken, memory.len() / PAGE) {
            let end = (first + count).min(memory.len() / PAGE);
            for (i, window) in memory[first.min(end) * PAGE..end * PAGE].chunks(WINDOW).enumerate() {
                known.add(&mut frame, &mut self.way, size, first + i * (WINDOW / PAGE), window)?;
            }
        }
        frame.send(&mut self.way)?;
        let body = postcard::to_allocvec(&frozen).map_err(|e| Error::Snapshot(e.to_string()))?;
        self.way.stream.send(kind::REST, &[&rank.0.to_le_bytes(), &body]).map_err(wire("send a rank's state"))?;
        self.figures.state_bytes += size + body.len() as u64;
        Ok(())
    }

    /// Waits until the destination holds all the ranks.
    pub fn restored(&mut self) -> Result<()> {
        match self.way.stream.receive(ANSWER_MAX).map_err(wire("wait for the destination to restore the ranks"))? {
            (kind::RESTORED, _) => Ok(()),
            (kind, body) => Err(unexpected(kind, &body)),
        }
    }

    /// The ranks belong to the destination, with these epochs: it runs them. `told` is called when it has been told, or can't be:
    /// the time to let the ranks depart from here.
    pub fn go(&mut self, epochs: &[(u32, u64)], told: impl FnOnce()) -> Result<()> {
        let body = postcard::to_allocvec(epochs).map_err(|e| Error::Refused(e.to_string()))?;
        self.way.stream.interrupt = Interrupt::default();
        let sent = self.way.stream.send(kind::GO, &[&body]);
        self.count();
        told();
        sent.map_err(wire("tell the destination to go"))?;
        for _ in epochs {
            let (kind, body) = self.way.stream.receive(ANSWER_MAX).map_err(wire("wait for the ranks to run"))?;
            let rank = match (kind, <[u8; 4]>::try_from(&body[..])) {
                (kind::RUNNING, Ok(rank)) => u32::from_le_bytes(rank),
                _ => return Err(unexpected(kind, &body)),
            };
            if let Some(left) = self.left.get(&rank) {
                self.figures.downtime = self.figures.downtime.max(left.elapsed());
            }
        }
        Ok(())
    }

    fn count(&mut self) {
        self.figures.moved_bytes = self.way.stream.sent;
        self.figures.moved_stopped_bytes = self.stopped_at_bytes.map_or(0, |at| self.way.stream.sent - at);
    }

    /// The ranks stay here; the destination gives up what it has.
    pub fn abandon(&mut self, why: &str) {
        self.way.stream.interrupt = Interrupt::default();
        self.way.stream.stall_max = STALL_STOPPED_MAX;
        // It notices a closed connection as well.
        let _ = self.way.stream.send(kind::DROP, &[why.as_bytes()]);
        self.count();
    }
}

/// The destination's end.
pub struct Arrival {
    stream: Stream,
    pub offer: Offer,
}

/// What the source says of ranks that have been restored.
#[derive(Debug)]
pub enum Word {
    /// They belong here now, with these epochs.
    Go(Vec<(u32, u64)>),
    Drop(String),
    /// It says nothing more: only the arbiter knows.
    Silent(String),
}

/// What is in a frame that comes when all ranks have been restored.
pub(crate) fn read_word(kind: u8, body: &[u8]) -> Word {
    match kind {
        kind::GO => match postcard::from_bytes(body) {
            Ok(epochs) => Word::Go(epochs),
            Err(e) => Word::Silent(format!("its last frame can't be read: {e}")),
        },
        kind::DROP => Word::Drop(String::from_utf8_lossy(body).into_owned()),
        other => Word::Silent(format!("it sent a frame of kind {other}")),
    }
}

impl Arrival {
    pub(crate) fn new(stream: Stream, offer: &[u8]) -> io::Result<Arrival> {
        Ok(Arrival { stream, offer: read_offer(offer)? })
    }

    /// The name that the source's certificate has proved.
    pub fn peer(&self) -> String {
        self.stream.peer()
    }

    pub fn refuse(&mut self, why: &str) {
        let _ = self.stream.send(kind::REFUSE, &[why.as_bytes()]);
    }

    /// Takes in the ranks, each into its new and empty cell, until all of them are restored and held.
    /// If this fails, nothing is held.
    pub fn receive(&mut self, cells: &mut BTreeMap<u32, Cell>) -> Result<BTreeMap<u32, Frozen>> {
        self.stream.send(kind::ACCEPT, &[]).map_err(wire("accept"))?;
        arrive(cells, || self.stream.receive(ACCEPT_MAX).map_err(wire("receive")))
    }

    /// Tells the source that all is here.
    pub fn restored(&mut self) -> Result<()> {
        self.stream.send(kind::RESTORED, &[]).map_err(wire("confirm"))
    }

    /// Waits for the source's word, or for that of the arbiter, which comes as `other`. To be called once.
    pub fn word<T>(&mut self, other: impl Future<Output = T>) -> std::result::Result<Word, T> {
        Ok(match self.stream.receive_or(other)? {
            Ok((kind, body)) => read_word(kind, &body),
            Err(e) => Word::Silent(e.to_string()),
        })
    }

    /// Tells the source that a rank is at work here.
    pub fn running(&mut self, rank: u32) {
        // If the source is gone, nobody needs to know.
        let _ = self.stream.send(kind::RUNNING, &[&rank.to_le_bytes()]);
    }
}
