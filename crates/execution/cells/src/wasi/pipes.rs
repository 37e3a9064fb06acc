//! Pipes, and pairs of sockets that are two of them: bytes in the agent between processes of one rank, or from a process to itself.
//!
//! ```text
//! write ─▶ Pipe, at most 64 KiB ─▶ read          its end is open as long as a descriptor of any process means it
//!   no room: sleeps until somebody has read        nothing there: sleeps until somebody has written, or the last writer has closed: end of file
//!   nobody reads any more: EPIPE
//! ```
//!
//! Who sleeps is woken by [`Family::changed`], and can be stopped and ended there. How far a large `write` has come travels with it ([`Waiting::Written`]). In a program that uses
//! pipes `fd_read` and its like are imported from [`processes::MODULE`], which says that their callers can be unwound. By the names of WASI they wait all the same, but
//! can't be stopped meanwhile, only ended.
//!
//! What this doesn't do: SIGPIPE. A program finds out by `EPIPE`.

use super::{Errno, Event, Fd, MODULE, Mem, Result, State, TRANSFER_MAX, call, lock};
use crate::cell::{self, Host, Mode};
use crate::mpi_host::Pending;
use crate::processes::{self, Family, Waiting, rest};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wasmtime::{Caller, Linker};

/// Bytes that a pipe holds, as on Linux.
const CAPACITY: usize = 64 << 10;
/// What is no longer than this is written as a whole.
const WHOLE: usize = 4096;

/// Rights of preview 1, from which the C library makes the mode of an open descriptor.
const RIGHT_READ: u64 = 1 << 1;
const RIGHT_WRITE: u64 = 1 << 6;

pub(super) struct Pipe {
    content: Mutex<Content>,
    family: Arc<Family>,
}

/// What is in a pipe, and which of its ends is open.
struct Content {
    bytes: VecDeque<u8>,
    read: bool,
    written: bool,
}

/// A pipe as it travels.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedPipe {
    bytes: Vec<u8>,
    read: bool,
    written: bool,
}

impl Pipe {
    fn new(family: &Arc<Family>, bytes: VecDeque<u8>, read: bool, written: bool) -> Arc<Pipe> {
        Arc::new(Pipe { content: Mutex::new(Content { bytes, read, written }), family: family.clone() })
    }

    pub(super) fn save(&self) -> SavedPipe {
        let content = lock(&self.content);
        SavedPipe { bytes: content.bytes.iter().copied().collect(), read: content.read, written: content.written }
    }

    /// The family has room for it already. Its ends are closed until [`Ends::restore`].
    pub(super) fn restore(saved: &SavedPipe, family: &Arc<Family>) -> std::result::Result<Arc<Pipe>, String> {
        if saved.bytes.len() > CAPACITY {
            return Err(format!("a pipe is said to hold {} bytes, more than the {CAPACITY} of any", saved.bytes.len()));
        }
        Ok(Pipe::new(family, saved.bytes.iter().copied().collect(), false, false))
    }

    /// What comes next; `Ok(0)`: nothing more will. `Again`: nothing is there yet.
    fn take(&self, into: &mut [u8]) -> Result<usize> {
        let mut content = lock(&self.content);
        let n = content.bytes.len().min(into.len());
        if n == 0 && content.written && !into.is_empty() {
            return Err(Errno::Again);
        }
        let (first, second) = content.bytes.as_slices();
        let split = first.len().min(n);
        into[..split].copy_from_slice(&first[..split]);
        into[split..n].copy_from_slice(&second[..n - split]);
        content.bytes.drain(..n);
        Ok(n)
    }

    /// How much of it there was room for; with `whole` nothing or all.
    fn put(&self, data: &[u8], whole: bool) -> Result<usize> {
        let mut content = lock(&self.content);
        if !content.read {
            return Err(Errno::Pipe);
        }
        let room = CAPACITY - content.bytes.len();
        let n = if whole && room < data.len() { 0 } else { room.min(data.len()) };
        content.bytes.extend(&data[..n]);
        Ok(n)
    }

    /// Whether a reader finds something, and whether nobody writes any more.
    fn readable(&self) -> (bool, bool) {
        let content = lock(&self.content);
        (!content.bytes.is_empty() || !content.written, !content.written)
    }

    /// Whether a writer finds room, and whether nobody reads any more.
    fn writable(&self) -> (bool, bool) {
        let content = lock(&self.content);
        (CAPACITY - content.bytes.len() >= WHOLE || !content.read, !content.read)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.family.give_back();
    }
}

/// An open end. There is one of each, which several descriptors may mean, also those of several processes.
struct End {
    pipe: Arc<Pipe>,
    writes: bool,
}

impl End {
    fn open(pipe: &Arc<Pipe>, writes: bool) -> End {
        let mut content = lock(&pipe.content);
        *if writes { &mut content.written } else { &mut content.read } = true;
        drop(content);
        End { pipe: pipe.clone(), writes }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut content = lock(&self.pipe.content);
        *if self.writes { &mut content.written } else { &mut content.read } = false;
        drop(content);
        self.pipe.family.changed();
    }
}

/// What a descriptor of a pipe or a socket means: the end of a pipe that it reads, and the end of one that it writes.
pub(super) struct Ends {
    from: Option<End>,
    into: Option<End>,
    socket: bool,
    pub(super) nonblocking: bool,
}

impl Ends {
    pub(super) fn is_socket(&self) -> bool {
        self.socket
    }

    pub(super) fn from(&self) -> Option<&Arc<Pipe>> {
        self.from.as_ref().map(|end| &end.pipe)
    }

    pub(super) fn into(&self) -> Option<&Arc<Pipe>> {
        self.into.as_ref().map(|end| &end.pipe)
    }

    pub(super) fn rights(&self) -> u64 {
        let has = |end: &Option<End>, right| if end.is_some() { right } else { 0 };
        has(&self.from, RIGHT_READ) | has(&self.into, RIGHT_WRITE)
    }

    /// Both ends of a pipe are one file, as on Linux.
    pub(super) fn inode(&self) -> u64 {
        self.from.as_ref().or(self.into.as_ref()).map_or(1, |end| Arc::as_ptr(&end.pipe) as u64)
    }

    pub(super) fn restore(pipes: &[Arc<Pipe>], from: Option<u32>, into: Option<u32>, nonblocking: bool) -> std::result::Result<Ends, String> {
        let open = |number: Option<u32>, writes: bool| -> std::result::Result<Option<End>, String> {
            let Some(number) = number else { return Ok(None) };
            let pipe = pipes.get(number as usize).ok_or_else(|| format!("a descriptor is said to be of pipe {number}, and there are {}", pipes.len()))?;
            let content = lock(&pipe.content);
            let open = if writes { content.written } else { content.read };
            drop(content);
            if open { Err(format!("two descriptors are said to be the same end of pipe {number}")) } else { Ok(Some(End::open(pipe, writes))) }
        };
        Ok(Ends { from: open(from, false)?, into: open(into, true)?, socket: from.is_some() && into.is_some(), nonblocking })
    }
}

/// What a transfer works on without holding the descriptor, which others may want meanwhile.
struct Stream {
    pipe: Option<Arc<Pipe>>,
    nonblocking: bool,
}

impl State {
    /// The pipe behind a descriptor that is read, or written; `None`: it is none of a pipe.
    fn stream(&self, fd: u32, writes: bool) -> Option<Stream> {
        self.process.as_ref()?;
        match &*self.fd(fd).ok()? {
            Fd::Stream(ends) => Some(Stream { pipe: if writes { ends.into() } else { ends.from() }.cloned(), nonblocking: ends.nonblocking }),
            _ => None,
        }
    }

    /// Both or neither.
    fn add_both(&mut self, ends: [Ends; 2]) -> Result<[u32; 2]> {
        let [first, second] = ends;
        let first = self.add(Fd::Stream(first))?;
        match self.add(Fd::Stream(second)) {
            Ok(second) => Ok([first, second]),
            Err(e) => {
                let _ = self.close(first); // nothing was written
                Err(e)
            }
        }
    }

    /// `pipe` and `socketpair`: two descriptors.
    pub(crate) fn connect(&mut self, family: &Arc<Family>, socket: bool, nonblocking: bool) -> Result<[u32; 2]> {
        let count = if socket { 2 } else { 1 };
        family.reserve(count).map_err(|()| Errno::Nfile)?;
        let new = || Pipe::new(family, VecDeque::new(), false, false);
        let ends = |from: Option<&Arc<Pipe>>, into: Option<&Arc<Pipe>>| {
            let open = |pipe: Option<&Arc<Pipe>>, writes| pipe.map(|pipe| End::open(pipe, writes));
            Ends { from: open(from, false), into: open(into, true), socket, nonblocking }
        };
        let there = new();
        if !socket {
            return self.add_both([ends(Some(&there), None), ends(None, Some(&there))]);
        }
        let back = new();
        self.add_both([ends(Some(&there), Some(&back)), ends(Some(&back), Some(&there))])
    }

    fn shut_down(&mut self, fd: u32, how: u32) -> Result<()> {
        // Dropped when the descriptor is free again: others are told.
        let mut ended = (None, None);
        match &mut *self.fd(fd)? {
            Fd::Stream(ends) if ends.socket => {
                if how & 1 != 0 {
                    ended.0 = ends.from.take();
                }
                if how & 2 != 0 {
                    ended.1 = ends.into.take();
                }
                Ok(())
            }
            _ => Err(Errno::Notsup),
        }
    }
}

/// The guest is back at a call in which it was stopped, or begins one: what it had done.
pub(crate) fn resume(c: &mut Caller<'_, Host>) -> wasmtime::Result<u32> {
    if c.data().mode != Mode::Rewinding {
        return Ok(0);
    }
    let done = match c.data_mut().pending.take() {
        Some(Pending::Process(Waiting::Written(done))) => done,
        _ => 0,
    };
    cell::rewound(c)?;
    Ok(done)
}

fn stream(c: &mut Caller<'_, Host>, fd: u32, writes: bool) -> Option<Stream> {
    c.data_mut().files(|state| state.stream(fd, writes))
}

/// `vectors`: address and count of the list of where to. `stops`: the caller can be unwound.
fn read(c: &mut Caller<'_, Host>, fd: u32, vectors: (u32, u32), into: u32, stops: bool) -> wasmtime::Result<i32> {
    resume(c)?;
    let Some(Stream { pipe, nonblocking }) = stream(c, fd, false) else {
        return call(c, |m, s| super::read(m, s, fd, vectors.0, vectors.1, None, into));
    };
    let Some(pipe) = pipe else { return Ok(Errno::Badf as i32) };
    loop {
        let seen = pipe.family.changes();
        let mut total = 0;
        let code = call(c, |m, _| {
            for (at, len) in m.vectors(vectors.0, vectors.1)? {
                match m.fill(at, len, |buffer| pipe.take(buffer)) {
                    Ok(got) => {
                        total += got as u32;
                        if got < len as usize {
                            break;
                        }
                    }
                    Err(Errno::Again) if total > 0 => break,
                    Err(e) => return Err(e),
                }
            }
            m.put_u32(into, total)
        })?;
        if total > 0 {
            pipe.family.changed();
        }
        if code != Errno::Again as i32 || nonblocking {
            return Ok(code);
        }
        if !rest(c, &pipe.family, seen, None, stops.then_some(Waiting::Again))? {
            return Ok(0);
        }
    }
}

fn write(c: &mut Caller<'_, Host>, fd: u32, vectors: (u32, u32), into: u32, stops: bool) -> wasmtime::Result<i32> {
    let mut done = resume(c)?;
    let Some(Stream { pipe, nonblocking }) = stream(c, fd, true) else {
        return call(c, |m, s| super::write(m, s, fd, vectors.0, vectors.1, None, into));
    };
    let Some(pipe) = pipe else { return Ok(Errno::Badf as i32) };
    loop {
        let seen = pipe.family.changes();
        let before = done;
        let code = call(c, |m, _| {
            loop {
                let (data, all) = gather(m, vectors, done)?;
                // Nobody reads: a writer of nothing is not told.
                let put = if data.is_empty() { Ok(0) } else { pipe.put(&data, all <= WHOLE as u64) };
                match put {
                    Ok(n) => done += n as u32,
                    Err(Errno::Pipe) if done > 0 => return m.put_u32(into, done),
                    Err(e) => return Err(e),
                }
                if u64::from(done) >= all {
                    return m.put_u32(into, done);
                }
                if put == Ok(0) {
                    return if nonblocking && done > 0 { m.put_u32(into, done) } else { Err(Errno::Again) };
                }
            }
        })?;
        if done > before {
            pipe.family.changed();
        }
        if code != Errno::Again as i32 || nonblocking {
            return Ok(code);
        }
        if !rest(c, &pipe.family, seen, None, stops.then_some(Waiting::Written(done)))? {
            return Ok(0);
        }
    }
}

/// What comes after the first `done` bytes of a gather list, as much as a pipe takes, and how many bytes all are.
fn gather(m: &Mem<'_>, (at, count): (u32, u32), done: u32) -> Result<(Vec<u8>, u64)> {
    let (mut skip, mut all, mut data) = (u64::from(done), 0u64, Vec::new());
    for (at, len) in m.vectors(at, count)? {
        let len = u64::from(len).min(TRANSFER_MAX - all);
        all += len;
        let left = len.saturating_sub(skip).min((CAPACITY - data.len()) as u64);
        if left > 0 {
            let from = u32::try_from(u64::from(at) + skip).map_err(|_| Errno::Fault)?;
            data.extend_from_slice(&m.bytes(from, left as u32)?);
        }
        skip = skip.saturating_sub(len);
    }
    Ok((data, all))
}

/// Waits until one of these descriptors is ready, or for so long, and tells which are. `false`: the guest unwinds.
pub(super) fn ready(c: &mut Caller<'_, Host>, asked: &[(u64, u8, u32)], longest: Option<Duration>, found: &mut Vec<Event>) -> wasmtime::Result<bool> {
    const READ: u8 = 1;
    // How much of the time is left travels with it.
    let longest = match c.data().pending {
        Some(Pending::Process(Waiting::Until(until_ms))) if c.data().mode == Mode::Rewinding => Some(Duration::from_millis(until_ms.saturating_sub(base::clock::now_ms()))),
        _ => longest,
    };
    resume(c)?;
    let end = longest.and_then(|longest| Instant::now().checked_add(longest));
    loop {
        let mut family = None;
        let seen = c.data_mut().files(|state| {
            family = state.process.as_ref().map(|p| p.family.clone());
            let seen = family.as_ref().map_or(0, |f| f.changes());
            for (user, kind, fd) in asked {
                match state.fd(*fd).as_deref() {
                    Err(e) => found.push((*user, *kind, *e as u16, false)),
                    Ok(Fd::Stream(ends)) => {
                        let state = if *kind == READ { ends.from().map(|p| p.readable()) } else { ends.into().map(|p| p.writable()) };
                        match state {
                            // Of a writer the C library knows the end by this error.
                            Some((true, true)) if *kind != READ => found.push((*user, *kind, Errno::Pipe as u16, true)),
                            Some((true, gone)) => found.push((*user, *kind, 0, gone)),
                            Some((false, _)) => {}
                            None => found.push((*user, *kind, Errno::Badf as u16, false)),
                        }
                    }
                    Ok(_) => found.push((*user, *kind, 0, false)),
                }
            }
            seen
        });
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let Some(family) = family.filter(|_| found.is_empty() && left != Some(Duration::ZERO)) else { return Ok(true) };
        let until = left.map_or(u64::MAX, |left| base::clock::now_ms().saturating_add(left.as_millis() as u64));
        if !rest(c, &family, seen, left, Some(Waiting::Until(until)))? {
            return Ok(false);
        }
    }
}

/// Offers what may be about a pipe, by the names of preview 1 and as calls that can be stopped.
pub(super) fn link(l: &mut Linker<Host>) -> wasmtime::Result<()> {
    for (module, stops) in [(MODULE, false), (processes::MODULE, true)] {
        l.func_wrap(module, "fd_read", move |mut c: Caller<'_, Host>, fd: u32, at: u32, count: u32, into: u32| {
            read(&mut c, fd, (at, count), into, stops)
        })?;
        l.func_wrap(module, "fd_write", move |mut c: Caller<'_, Host>, fd: u32, at: u32, count: u32, into: u32| {
            write(&mut c, fd, (at, count), into, stops)
        })?;
        l.func_wrap(module, "sock_recv", move |mut c: Caller<'_, Host>, fd: u32, at: u32, count: u32, flags: u32, into: u32, said: u32| {
            // Nothing is said of what was received.
            let code = call(&mut c, |m, _| if flags == 0 { m.put(said, &[0, 0]) } else { Err(Errno::Notsup) })?;
            if code == 0 { read(&mut c, fd, (at, count), into, stops) } else { Ok(code) }
        })?;
        l.func_wrap(module, "sock_send", move |mut c: Caller<'_, Host>, fd: u32, at: u32, count: u32, _flags: u32, into: u32| {
            write(&mut c, fd, (at, count), into, stops)
        })?;
    }
    l.func_wrap(MODULE, "sock_shutdown", |mut c: Caller<'_, Host>, fd: u32, how: u32| call(&mut c, |_, s| s.shut_down(fd, how)))?;
    Ok(())
}
