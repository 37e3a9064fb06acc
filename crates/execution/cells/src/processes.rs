//! Processes of a rank: the first one, which is the rank, and those that `fork` makes of it, each a cell with a memory of its own.
//!
//! ```text
//! fork ─▶ the guest unwinds ─▶ `Cell::run` makes a second cell of it (`Cell::fork`) ─▶ a thread of the agent's runs that one; both wind their stacks up again
//! a child ends ─▶ its status stays in the family ─▶ its parent's wait
//! the first process ends, whatever way ─▶ the others are killed, and waited for
//! ```
//!
//! What they have in common is here: who there is, how those ended that nobody has waited for, the rank's memory, and a count of changes by which who sleeps in `wait`, in a pipe
//! (`wasi::pipes`) or in `poll` is woken. `docs/design/processes.md` has the reasons.
//!
//! What this doesn't do: MPI, which is the first process's alone; `exec`; signals that a handler would take; `fork` in programs with threads. A rank whose children run is not moved and not
//! written down.

use crate::cell::{self, Budget, End, Ended, Host, Mode, Share};
use crate::control::Control;
use crate::mpi_host::Pending;
use crate::threads::Woken;
use crate::wasi::{self, Errno};
use mpi::Rank;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use wasmtime::{Caller, Linker};

/// The module of what processes ask of the host.
pub const MODULE: &str = "cloudskin_process";
/// Its functions. The last four are WASI's, as calls that can be stopped (`toolchain::processes`).
pub const NAMES: [&str; 9] = ["fork", "wait", "kill", "pipe", "duplicate", "fd_read", "fd_write", "sock_recv", "sock_send"];
/// Processes that run at once beside a rank's first one.
pub const CHILDREN_MAX: u32 = 32;
/// The same for all ranks of an agent: each takes a place in the engine's pool.
pub const CHILDREN_SITE_MAX: u32 = 64;
/// Processes that have ended and that nobody has waited for.
const ENDED_MAX: usize = 4096;
/// Pipes of a rank, each 64 KiB.
pub const PIPES_MAX: usize = 256;
/// What the first process is known by: the C library's own `getpid` says so of every cell.
pub(crate) const FIRST: u32 = 42;
/// No word has this address: who waits for a change in its family sleeps here.
const CHANGES: u32 = u32::MAX - 2;
/// `WNOHANG` of `guests/posix/sys/wait.h`.
const NO_HANG: u32 = 1;
/// What a process that is waited for while it sleeps does, in [`crate::DOING`].
const DOING: u32 = 6;

/// Numbers of signals.
const ILL: i32 = 4;
const ABRT: i32 = 6;
const FPE: i32 = 8;
const KILL: i32 = 9;
const SEGV: i32 = 11;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// In which call a process is, or what `fork` is to give. Plain data: it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Waiting {
    /// To be two. `put_off`: it has been stopped for something else in between, once.
    Fork { put_off: bool },
    /// It was: what the call gives.
    Forked(i32),
    /// The call is made again.
    Again,
    /// Of a `write` to a pipe so many bytes are done.
    Written(u32),
    /// In `poll` until so many milliseconds after 1970.
    Until(u64),
}

/// A rank's processes.
pub(crate) struct Family {
    members: Mutex<Members>,
    /// The last child is gone.
    all_gone: Condvar,
    changes: AtomicU64,
    /// Who sleeps until something changes, or is about to.
    waiting: AtomicU32,
    /// What all may have together.
    memory: Arc<Budget>,
    pipes: Mutex<usize>,
}

struct Members {
    /// Number of the next.
    next: u32,
    /// The first one's.
    first: Arc<Control>,
    children: BTreeMap<u32, Child>,
    /// Of the children, those with a thread.
    running: u32,
    /// The rank ends: there will be no more.
    over: bool,
    /// It has been said why `fork` fails.
    told: bool,
}

struct Child {
    /// 0: it has ended before this one.
    parent: u32,
    life: Life,
}

enum Life {
    /// `signal`: what was sent to it.
    Running { control: Arc<Control>, signal: Option<i32> },
    /// As `waitpid` gives it.
    Ended(i32),
}

/// What [`Family::reap`] finds.
#[derive(Debug, PartialEq, Eq)]
enum Reaped {
    Ended { pid: u32, status: i32 },
    /// None has ended yet.
    None,
    NoChild,
}

/// What a process knows of itself.
pub(crate) struct Process {
    pub(crate) family: Arc<Family>,
    pub(crate) pid: u32,
    /// Of the rank's memory.
    pub(crate) share: Share,
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.pid == FIRST {
            self.family.end();
        }
    }
}

/// A rank's processes as they travel: those that have ended.
#[derive(Serialize, Deserialize)]
pub(crate) struct Saved {
    next: u32,
    ended: Vec<(u32, i32)>,
}

impl Process {
    /// The first one. `bytes`: its memory.
    pub(crate) fn first(control: &Arc<Control>, memory_max: u64, bytes: u64) -> Process {
        let members = Members { next: FIRST + 1, first: control.clone(), children: BTreeMap::new(), running: 0, over: false, told: false };
        let memory = Arc::new(Budget::new(memory_max));
        let mut share = Share::new(memory.clone());
        // What it has was allowed before.
        let _ = share.resize(bytes);
        let family = Family { members: Mutex::new(members), all_gone: Condvar::new(), changes: AtomicU64::new(0), waiting: AtomicU32::new(0), memory, pipes: Mutex::new(0) };
        Process { family: Arc::new(family), pid: FIRST, share }
    }

    pub(crate) fn save(&self, rank: Rank) -> Result<Saved, String> {
        let members = lock(&self.family.members);
        if members.running > 0 {
            return Err(format!(
                "rank {} has {} process{} beside its first one (fork); it can move, or be written down, when they have ended",
                rank.0,
                members.running,
                if members.running == 1 { "" } else { "es" }
            ));
        }
        let ended = members.children.iter().filter_map(|(pid, child)| if let Life::Ended(status) = child.life { Some((*pid, status)) } else { None });
        Ok(Saved { next: members.next, ended: ended.collect() })
    }

    pub(crate) fn restore(saved: &Saved, control: &Arc<Control>, memory_max: u64, bytes: u64) -> Result<Process, String> {
        if saved.ended.len() > ENDED_MAX || saved.next <= FIRST || saved.next > i32::MAX as u32 {
            return Err(format!("it has {} processes that have ended, the next is number {}", saved.ended.len(), saved.next));
        }
        let process = Process::first(control, memory_max, bytes);
        let mut members = lock(&process.family.members);
        members.next = saved.next;
        members.children = saved.ended.iter().map(|(pid, status)| (*pid, Child { parent: FIRST, life: Life::Ended(*status) })).collect();
        drop(members);
        Ok(process)
    }
}

/// A child's place in its family and at its site; given back when its thread is gone.
pub(crate) struct Place {
    family: Arc<Family>,
    pub(crate) pid: u32,
    pub(crate) control: Arc<Control>,
    site: Arc<Budget>,
    status: i32,
}

impl Place {
    /// How it has ended.
    pub(crate) fn ended(&mut self, status: i32) {
        self.status = status;
    }
}

impl Drop for Place {
    /// Also after a panic, and where no thread was to be had. Everything else of the process is gone by now.
    fn drop(&mut self) {
        self.site.give_back_child();
        let mut members = lock(&self.family.members);
        members.running -= 1;
        // Who was made by it has no parent now; nobody will wait for those.
        members.children.retain(|_, child| !(child.parent == self.pid && matches!(child.life, Life::Ended(_))));
        members.children.values_mut().filter(|child| child.parent == self.pid).for_each(|child| child.parent = 0);
        if let Some(mine) = members.children.get_mut(&self.pid) {
            if mine.parent == 0 {
                members.children.remove(&self.pid);
            } else {
                mine.life = Life::Ended(match &mine.life {
                    // It was on its way out by itself when the signal came, or was not.
                    Life::Running { signal: Some(signal), control } if control.killed() && self.status & 0xff != 0 => *signal,
                    _ => self.status,
                });
            }
        }
        drop(members);
        self.family.all_gone.notify_all();
        self.family.changed();
    }
}

impl Family {
    /// Something has changed that somebody may sleep for.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        // Whoever sleeps was counted before it has looked at the changes.
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let members = lock(&self.members);
        let running = members.children.values().filter_map(|child| if let Life::Running { control, .. } = &child.life { Some(control.clone()) } else { None });
        let all: Vec<Arc<Control>> = running.chain([members.first.clone()]).collect();
        drop(members);
        all.iter().for_each(|control| _ = control.parked.notify(CHANGES, u32::MAX));
    }

    /// To be asked before looking for what is then slept for.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Room for so many pipes more; each gives its own back.
    pub(crate) fn reserve(&self, count: usize) -> Result<(), ()> {
        let mut pipes = lock(&self.pipes);
        if *pipes + count > PIPES_MAX {
            return Err(());
        }
        *pipes += count;
        Ok(())
    }

    pub(crate) fn give_back(&self) {
        *lock(&self.pipes) -= 1;
    }

    /// Whether it is to be said why `fork` fails: once.
    pub(crate) fn tells(&self) -> bool {
        !std::mem::replace(&mut lock(&self.members).told, true)
    }

    /// A place for one more. `Err`: why there is none.
    pub(crate) fn enter(self: &Arc<Family>, parent: u32, site: &Arc<Budget>) -> Result<Place, String> {
        let mut members = lock(&self.members);
        let ended = members.children.len() - members.running as usize;
        let why = if members.over {
            Some("the rank ends".to_string())
        } else if members.running >= CHILDREN_MAX {
            Some(format!("a rank may have {CHILDREN_MAX} processes at once beside its first one, and has them"))
        } else if ended >= ENDED_MAX {
            Some(format!("{ended} processes have ended, and nobody has waited for them"))
        } else if !site.take_child() {
            Some(format!("ranks of this site have {CHILDREN_SITE_MAX} processes beside their first ones, as many as may be"))
        } else {
            None
        };
        if let Some(why) = why {
            return Err(why);
        }
        let (pid, control) = (members.next, Arc::<Control>::default());
        // Beyond all numbers it begins again, where a number may be in use only if as many have been forked meanwhile.
        members.next = if pid >= i32::MAX as u32 { FIRST + 1 } else { pid + 1 };
        members.running += 1;
        members.children.insert(pid, Child { parent, life: Life::Running { control: control.clone(), signal: None } });
        Ok(Place { family: self.clone(), pid, control, site: site.clone(), status: KILL })
    }

    /// Forgets a child that never ran.
    pub(crate) fn leave(&self, place: Place) {
        let pid = place.pid;
        drop(place);
        self.forget(pid);
    }

    /// The same, whose place was dropped.
    pub(crate) fn forget(&self, pid: u32) {
        lock(&self.members).children.remove(&pid);
    }

    pub(crate) fn share(&self) -> Share {
        Share::new(self.memory.clone())
    }

    /// Ends all but the first process and waits until they are gone. A wait with an end: each of them looks, at its next loop or call or in its sleep, whether it is over.
    pub(crate) fn end(&self) {
        let mut members = lock(&self.members);
        members.over = true;
        let running: Vec<Arc<Control>> = members.children.values().filter_map(|child| if let Life::Running { control, .. } = &child.life { Some(control.clone()) } else { None }).collect();
        drop(members);
        running.iter().for_each(|control| control.kill("its rank has ended"));
        members = lock(&self.members);
        while members.running > 0 {
            members = self.all_gone.wait(members).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// A child of `parent` that has ended: `pid`, or with -1 any.
    fn reap(&self, parent: u32, pid: i32) -> Reaped {
        let mut members = lock(&self.members);
        let mut any = false;
        let mut found = None;
        for (number, child) in members.children.iter().filter(|(number, child)| child.parent == parent && (pid <= 0 || **number == pid as u32)) {
            any = true;
            if let Life::Ended(status) = child.life {
                found = Some((*number, status));
                break;
            }
        }
        match found {
            Some((pid, status)) => {
                members.children.remove(&pid);
                Reaped::Ended { pid, status }
            }
            None if any => Reaped::None,
            None => Reaped::NoChild,
        }
    }

    /// Sends a signal to another process; 0 asks only whether there is such a one.
    fn kill(&self, pid: i32, number: i32) -> Result<(), Errno> {
        /// What does nothing to a process that has installed no handler: CHLD, URG, WINCH, and CONT, since none is stopped.
        const IGNORED: [i32; 4] = [17, 18, 23, 28];
        /// What stops one: STOP, TSTP, TTIN, TTOU.
        const STOPS: std::ops::RangeInclusive<i32> = 19..=22;
        if !(0..=64).contains(&number) {
            return Err(Errno::Inval);
        }
        let mut members = lock(&self.members);
        if pid == FIRST as i32 {
            // To end the rank is its own affair.
            return if number == 0 || IGNORED.contains(&number) { Ok(()) } else { Err(Errno::Perm) };
        }
        let child = u32::try_from(pid).ok().and_then(|pid| members.children.get_mut(&pid)).ok_or(Errno::Srch)?;
        let Life::Running { control, signal } = &mut child.life else { return Ok(()) };
        if number == 0 || IGNORED.contains(&number) {
            return Ok(());
        }
        if STOPS.contains(&number) {
            return Err(Errno::Nosys);
        }
        signal.get_or_insert(number);
        let control = control.clone();
        drop(members);
        control.kill(&format!("signal {number}"));
        Ok(())
    }
}

/// As `waitpid` gives it; and what is to be said of it. `trap`: the signal that stands for how it failed.
pub(crate) fn status(ended: &Ended, trap: i32) -> (i32, Option<String>) {
    match ended {
        Ended::Exited(code) => ((code & 0xff) << 8, None),
        Ended::Failed { message, backtrace, .. } => (trap, Some(format!("{message}\n{backtrace}"))),
        Ended::Killed(_) | Ended::Stopped => (KILL, None),
    }
}

/// The signal by which a program would have ended natively.
pub(crate) fn signal(error: &wasmtime::Error, aborted: bool) -> i32 {
    use wasmtime::Trap;
    match error.downcast_ref::<Trap>() {
        _ if aborted => ABRT,
        Some(Trap::IntegerDivisionByZero | Trap::IntegerOverflow) => FPE,
        Some(Trap::UnreachableCodeReached) => ILL,
        Some(_) => SEGV,
        None => ABRT,
    }
}

/// Sleeps until something has changed in the family since `seen`, or for so long. With `stops`, which is what to remember, it can be stopped meanwhile. `false`: the guest unwinds.
pub(crate) fn rest(c: &mut Caller<'_, Host>, family: &Family, seen: u64, longest: Option<Duration>, stops: Option<Waiting>) -> wasmtime::Result<bool> {
    let host = c.data();
    let (control, first) = (host.control.clone(), host.thread == 0);
    if first {
        control.doing.store(DOING, Ordering::Relaxed);
    }
    family.waiting.fetch_add(1, Ordering::SeqCst);
    let woken = control.parked.wait(CHANGES, || family.changes() == seen, longest, host.can_stop() && stops.is_some());
    family.waiting.fetch_sub(1, Ordering::SeqCst);
    if first {
        control.doing.store(0, Ordering::Relaxed);
    }
    match woken {
        Woken::Over => Err(wasmtime::Error::new(End::Over)),
        Woken::Stopped => {
            c.data_mut().pending = stops.map(Pending::Process);
            cell::unwind(c)?;
            Ok(false)
        }
        Woken::Notified | Woken::Changed | Woken::Late => Ok(true),
    }
}

/// The family and the caller's number in it; a family of one is made where there is none.
fn family(c: &mut Caller<'_, Host>) -> (Arc<Family>, u32) {
    let (control, bytes) = (c.data().control.clone(), c.data().memory_bytes());
    c.data_mut().files(|wasi| {
        let memory_max = wasi.memory_max;
        let process = wasi.process.get_or_insert_with(|| Process::first(&control, memory_max, bytes));
        (process.family.clone(), process.pid)
    })
}

/// Begins to unwind: [`cell::Cell::run`] makes the second process. When the guest is back, in both, gives what was made. `me`: where a child finds its number.
fn fork(c: &mut Caller<'_, Host>, me: u32) -> wasmtime::Result<i32> {
    let mut put_off = false;
    if c.data().mode == Mode::Rewinding {
        let pending = c.data_mut().pending.take();
        put_off = matches!(pending, Some(Pending::Process(Waiting::Fork { .. })));
        cell::rewound(c)?;
        if let Some(Pending::Process(Waiting::Forked(result))) = pending {
            let pid = c.data_mut().files(|wasi| wasi.process.as_ref().map_or(FIRST, |p| p.pid));
            let written = if result == 0 { wasi::put_word(c, me, pid)? } else { 0 };
            return Ok(if written == 0 { result } else { -written });
        }
        // It was stopped before it could be two.
    }
    let host = c.data();
    let why = if host.threads.is_some() {
        "the program has threads"
    } else if !host.can_stop() {
        "the program has no safe points, or MPI has called the function that asks for it"
    } else {
        family(c);
        c.data_mut().pending = Some(Pending::Process(Waiting::Fork { put_off }));
        cell::unwind(c)?;
        return Ok(0);
    };
    let (family, _) = family(c);
    if family.tells() {
        c.data_mut().files(|wasi| wasi.print(2, format!("cloudskin: fork fails: {why}\n").as_bytes()));
    }
    Ok(-(Errno::Nosys as i32))
}

fn wait(c: &mut Caller<'_, Host>, pid: i32, at: u32, options: u32) -> wasmtime::Result<i32> {
    wasi::resume(c)?;
    let (family, me) = family(c);
    loop {
        let seen = family.changes();
        // Before it is forgotten how the child ended.
        let code = wasi::word_fits(c, at)?;
        if at != 0 && code != 0 {
            return Ok(-code);
        }
        match family.reap(me, pid) {
            Reaped::Ended { pid, status } => {
                if at != 0 {
                    wasi::put_word(c, at, status as u32)?;
                }
                return Ok(pid as i32);
            }
            Reaped::NoChild => return Ok(-(Errno::Child as i32)),
            Reaped::None if options & NO_HANG != 0 => return Ok(0),
            Reaped::None => {}
        }
        if !rest(c, &family, seen, None, Some(Waiting::Again))? {
            return Ok(0);
        }
    }
}

/// Two descriptors into an array of two. `socket`: each reads what the other writes.
fn pipe(c: &mut Caller<'_, Host>, at: u32, socket: u32, nonblocking: u32) -> wasmtime::Result<i32> {
    let (family, _) = family(c);
    let code = wasi::word_fits(c, at)?.max(wasi::word_fits(c, at.wrapping_add(4))?);
    if code != 0 {
        return Ok(code);
    }
    match c.data_mut().files(|wasi| wasi.connect(&family, socket != 0, nonblocking != 0)) {
        Ok([first, second]) => Ok(wasi::put_word(c, at, first)?.max(wasi::put_word(c, at.wrapping_add(4), second)?)),
        Err(e) => Ok(e as i32),
    }
}

/// Offers processes to modules. The calls that may be about a pipe: `wasi::pipes`.
pub(crate) fn link(l: &mut Linker<Host>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "fork", |mut c: Caller<'_, Host>, me: u32| fork(&mut c, me))?;
    l.func_wrap(MODULE, "wait", |mut c: Caller<'_, Host>, pid: i32, status: u32, options: u32| wait(&mut c, pid, status, options))?;
    l.func_wrap(MODULE, "kill", |mut c: Caller<'_, Host>, pid: i32, number: i32| {
        let (family, _) = family(&mut c);
        family.kill(pid, number).map_or_else(|e| e as i32, |()| 0)
    })?;
    l.func_wrap(MODULE, "pipe", |mut c: Caller<'_, Host>, at: u32, socket: u32, nonblocking: u32| pipe(&mut c, at, socket, nonblocking))?;
    l.func_wrap(MODULE, "duplicate", |mut c: Caller<'_, Host>, fd: u32, at: i32| {
        let made = c.data_mut().files(|wasi| wasi.duplicate(fd, u32::try_from(at).ok()));
        made.map_or_else(|e| -(e as i32), |fd| fd as i32)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_waited_for_once_and_by_its_parent_alone() {
        let (control, site) = (Arc::default(), Arc::default());
        let process = Process::first(&control, 1 << 20, 0);
        let family = &process.family;
        assert_eq!(family.reap(FIRST, -1), Reaped::NoChild);
        let mut child = family.enter(FIRST, &site).unwrap();
        let grandchild = family.enter(child.pid, &site).unwrap();
        let (one, two) = (child.pid, grandchild.pid);
        assert_eq!((family.reap(FIRST, -1), family.reap(FIRST, two as i32)), (Reaped::None, Reaped::NoChild));
        assert!(process.save(Rank(3)).is_err_and(|e| e.contains("rank 3 has 2 processes")));
        child.ended(7 << 8);
        drop(child);
        assert_eq!((family.reap(two, -1), family.reap(FIRST, one as i32)), (Reaped::NoChild, Reaped::Ended { pid: one, status: 7 << 8 }));
        drop(grandchild);
        assert_eq!(family.reap(FIRST, -1), Reaped::NoChild, "whose parent is gone is nobody's");
        assert!(lock(&family.members).children.is_empty());
    }

    #[test]
    fn a_signal_ends_a_child_and_no_more() {
        let (control, site) = (Arc::<Control>::default(), Arc::default());
        let process = Process::first(&control, 1 << 20, 0);
        let family = &process.family;
        let child = family.enter(FIRST, &site).unwrap();
        let pid = child.pid as i32;
        assert_eq!((family.kill(pid, 0), family.kill(pid, 17), family.kill(pid, 19)), (Ok(()), Ok(()), Err(Errno::Nosys)));
        assert_eq!((family.kill(FIRST as i32, 15), family.kill(999, 9), family.kill(pid, 99)), (Err(Errno::Perm), Err(Errno::Srch), Err(Errno::Inval)));
        assert!(!child.control.killed() && !control.killed());
        assert_eq!(family.kill(pid, 15), Ok(()));
        assert!(child.control.killed() && !control.killed());
        drop(child);
        assert_eq!(family.reap(FIRST, pid), Reaped::Ended { pid: pid as u32, status: 15 });
    }

    #[test]
    fn there_is_an_end_to_children_and_it_is_said_once() {
        let (control, site) = (Arc::default(), Arc::<Budget>::default());
        let (process, other) = (Process::first(&control, 1 << 20, 0), Process::first(&control, 1 << 20, 0));
        let mut all: Vec<Place> = (0..CHILDREN_MAX).map(|_| process.family.enter(FIRST, &site).unwrap()).collect();
        assert!(process.family.enter(FIRST, &site).err().unwrap().contains("32 processes at once"));
        assert_eq!((process.family.tells(), process.family.tells()), (true, false));
        all.extend((CHILDREN_MAX..CHILDREN_SITE_MAX).map(|_| other.family.enter(FIRST, &site).unwrap()));
        drop(all.pop());
        assert!(other.family.enter(FIRST, &site).is_ok(), "who has ended makes room");
        let third = Process::first(&control, 1 << 20, 0);
        all.push(other.family.enter(FIRST, &site).unwrap());
        assert!(third.family.enter(FIRST, &site).err().unwrap().contains("of this site"));
    }
}
