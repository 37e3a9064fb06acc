//! Functions of the C library, by their names: threads, waiting, time, chance. Each does what its manual says, by the simulated clock and in turns; out of the simulation it calls the
//! library's own.
//!
//! Safety of all of them: pointers are what callers of the C library's functions must give.

use super::*;
use std::{
    ffi::{CStr, c_char, c_long, c_uint},
    sync::atomic::AtomicPtr,
};

/// The C library's own, found when they are first asked for.
pub(super) mod real {
    use super::*;

    fn find(slot: &AtomicPtr<c_void>, name: &CStr) -> *mut c_void {
        let mut found = slot.load(SeqCst);
        if found.is_null() {
            // SAFETY: the name ends with a zero.
            found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr() as *const c_char) };
            assert!(!found.is_null(), "the C library has no such function");
            slot.store(found, SeqCst);
        }
        found
    }

    macro_rules! next {
        ($($name:ident($($arg:ident: $of:ty),*) -> $out:ty;)*) => { $(
            pub unsafe fn $name($($arg: $of),*) -> $out {
                static SLOT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
                const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => panic!("one zero, at the end"),
                };
                // SAFETY: the C library's function of this name has these parameters.
                let function: unsafe extern "C" fn($($of),*) -> $out = unsafe { std::mem::transmute(find(&SLOT, NAME)) };
                // SAFETY: as the caller says.
                unsafe { function($($arg),*) }
            }
        )* };
    }

    next! {
        clock_gettime(clock: libc::clockid_t, into: *mut libc::timespec) -> c_int;
        getrandom(into: *mut c_void, bytes: usize, flags: c_uint) -> isize;
        syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long;
        pthread_create(into: *mut libc::pthread_t, how: *const libc::pthread_attr_t, start: extern "C" fn(*mut c_void) -> *mut c_void, with: *mut c_void) -> c_int;
        pthread_join(of: libc::pthread_t, into: *mut *mut c_void) -> c_int;
        nanosleep(time: *const libc::timespec, left: *mut libc::timespec) -> c_int;
        clock_nanosleep(clock: libc::clockid_t, flags: c_int, time: *const libc::timespec, left: *mut libc::timespec) -> c_int;
        sched_yield() -> c_int;
        epoll_wait(fd: c_int, into: *mut libc::epoll_event, most: c_int, ms: c_int) -> c_int;
        recv(fd: c_int, into: *mut c_void, bytes: usize, flags: c_int) -> isize;
        send(fd: c_int, from: *const c_void, bytes: usize, flags: c_int) -> isize;
        socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
        bind(fd: c_int, address: *const libc::sockaddr, bytes: libc::socklen_t) -> c_int;
        connect(fd: c_int, address: *const libc::sockaddr, bytes: libc::socklen_t) -> c_int;
        accept4(fd: c_int, into: *mut libc::sockaddr, bytes: *mut libc::socklen_t, flags: c_int) -> c_int;
        getsockname(fd: c_int, into: *mut libc::sockaddr, bytes: *mut libc::socklen_t) -> c_int;
        getpeername(fd: c_int, into: *mut libc::sockaddr, bytes: *mut libc::socklen_t) -> c_int;
        setsockopt(fd: c_int, level: c_int, what: c_int, value: *const c_void, bytes: libc::socklen_t) -> c_int;
        close(fd: c_int) -> c_int;
        flock(fd: c_int, how: c_int) -> c_int;
        fsync(fd: c_int) -> c_int;
        fdatasync(fd: c_int) -> c_int;
        pwrite64(fd: c_int, from: *const c_void, bytes: usize, at: i64) -> isize;
        rename(from: *const c_char, to: *const c_char) -> c_int;
        unlink(path: *const c_char) -> c_int;
    }
}

/// Names all of them, so that the linker takes them: it takes of a library what somebody names.
pub(super) fn link() {
    let all = [
        clock_gettime as *const (),
        getrandom as *const (),
        syscall as *const (),
        pthread_create as *const (),
        pthread_join as *const (),
        nanosleep as *const (),
        clock_nanosleep as *const (),
        sched_yield as *const (),
        epoll_wait as *const (),
        recv as *const (),
        send as *const (),
        flock as *const (),
        fsync as *const (),
        fdatasync as *const (),
        pwrite64 as *const (),
        rename as *const (),
        unlink as *const (),
    ];
    std::hint::black_box(all);
    sockets::link();
    // SAFETY: the name ends with a zero.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"getrandom".as_ptr()) };
    assert_eq!(found as *const (), getrandom as *const (), "chance would be real: this package's build.rs needs the line that that of `simulated` has");
}

const FUTEX: c_int = libc::FUTEX_PRIVATE_FLAG;

pub(super) fn futex_wait(at: &AtomicU32, while_it_is: u32) {
    // SAFETY: the word lives during the call.
    unsafe { real::syscall(libc::SYS_futex, at.as_ptr() as usize, (libc::FUTEX_WAIT | FUTEX) as usize, while_it_is as usize, 0, 0, 0) };
}

pub(super) fn futex_wake(at: &AtomicU32) {
    // SAFETY: the word lives during the call.
    unsafe { real::syscall(libc::SYS_futex, at.as_ptr() as usize, (libc::FUTEX_WAKE | FUTEX) as usize, 1, 0, 0, 0) };
}

pub(super) fn errno() -> c_int {
    // SAFETY: each thread has its own.
    unsafe { *libc::__errno_location() }
}

fn fail(errno: c_int) -> c_long {
    // SAFETY: each thread has its own.
    unsafe { *libc::__errno_location() = errno };
    -1
}

fn ns(of: &libc::timespec) -> u64 {
    (of.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(of.tv_nsec as u64)
}

// --- time and chance ---------------------------------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, into: *mut libc::timespec) -> c_int {
    let Some((world, me)) = here() else { return unsafe { real::clock_gettime(clock, into) } };
    world.now += LOOK;
    maybe_change(world, me, AT_LOOK);
    let now = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => world.now + EPOCH,
        _ => world.now,
    };
    unsafe { *into = libc::timespec { tv_sec: (now / 1_000_000_000) as i64, tv_nsec: (now % 1_000_000_000) as i64 } };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(into: *mut c_void, bytes: usize, flags: c_uint) -> isize {
    let Some((world, _)) = here() else { return unsafe { real::getrandom(into, bytes, flags) } };
    for i in 0..bytes {
        unsafe { *(into as *mut u8).add(i) = world.random() as u8 };
    }
    bytes as isize
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nanosleep(time: *const libc::timespec, left: *mut libc::timespec) -> c_int {
    let Some((world, me)) = here() else { return unsafe { real::nanosleep(time, left) } };
    let due = world.now.saturating_add(ns(unsafe { &*time }));
    wait(world, me, State::Sleep, Some(due));
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_nanosleep(clock: libc::clockid_t, flags: c_int, time: *const libc::timespec, left: *mut libc::timespec) -> c_int {
    let Some((world, me)) = here() else { return unsafe { real::clock_nanosleep(clock, flags, time, left) } };
    let time = ns(unsafe { &*time });
    let due = match (flags & libc::TIMER_ABSTIME != 0, clock) {
        (false, _) => world.now.saturating_add(time),
        (true, libc::CLOCK_REALTIME) => time.saturating_sub(EPOCH),
        (true, _) => time,
    };
    wait(world, me, State::Sleep, Some(due));
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sched_yield() -> c_int {
    let Some((world, me)) = here() else { return unsafe { real::sched_yield() } };
    change(world, me);
    0
}

// --- locks -------------------------------------------------------------------------------------------------------------------------

/// The C library's takes as many parameters as the call has; here those that are not given are not looked at.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long {
    match (number, here()) {
        (libc::SYS_futex, Some((world, me))) => unsafe { futex(world, me, a, b as c_int, c, d as *const libc::timespec, f) },
        (libc::SYS_getrandom, Some(_)) => unsafe { getrandom(a as *mut c_void, b, c as c_uint) as c_long },
        _ => unsafe { real::syscall(number, a, b, c, d, e, f) },
    }
}

/// futex(2), as far as Rust's locks use it.
unsafe fn futex(world: &mut World, me: usize, word: usize, command: c_int, value: usize, time: *const libc::timespec, last: usize) -> c_long {
    let by_the_day = command & libc::FUTEX_CLOCK_REALTIME != 0;
    match command & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) {
        kind @ (libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET) => {
            if unsafe { (*(word as *const AtomicU32)).load(SeqCst) } != value as u32 {
                return fail(libc::EAGAIN);
            }
            let time = (!time.is_null()).then(|| ns(unsafe { &*time }));
            let (bits, deadline) = match kind {
                libc::FUTEX_WAIT => (u32::MAX, time.map(|t| world.now.saturating_add(t))),
                _ => (last as u32, time.map(|t| if by_the_day { t.saturating_sub(EPOCH) } else { t })),
            };
            if wait(world, me, State::Futex { at: word, bits }, deadline) { fail(libc::ETIMEDOUT) } else { 0 }
        }
        kind @ (libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET) => {
            let wanted = if kind == libc::FUTEX_WAKE { u32::MAX } else { last as u32 };
            let killed = |t: &Thread| world.processes[t.process] == process::Going::Killed;
            let waits = |t: &Thread| matches!(t.state, State::Futex { at, bits } if at == word && bits & wanted != 0) && !killed(t);
            let mut waiting: Vec<(u64, usize)> = world.threads.iter().enumerate().filter(|(_, t)| waits(t)).map(|(id, t)| (t.since, id)).collect();
            waiting.sort_unstable();
            waiting.truncate((value as c_int).max(0) as usize);
            for (_, id) in &waiting {
                world.wake(*id, false);
            }
            maybe_change(world, me, AT_WAKE);
            waiting.len() as c_long
        }
        other => give_up(&format!("it knows no futex command {other}")),
    }
}

// --- threads -----------------------------------------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(into: *mut libc::pthread_t, how: *const libc::pthread_attr_t, start: extern "C" fn(*mut c_void) -> *mut c_void, with: *mut c_void) -> c_int {
    let Some((world, me)) = here() else { return unsafe { real::pthread_create(into, how, start, with) } };
    let thread = Box::new(Thread::of(world.threads[me].process));
    let (id, key) = (world.threads.len(), world.key);
    let told = Box::into_raw(Box::new(Begin { id, begin: start, with, go: &thread.go, key }));
    world.threads.push(thread);
    let made = unsafe { real::pthread_create(into, how, begin, told as *mut c_void) };
    if made != 0 {
        drop(unsafe { Box::from_raw(told) });
        world.threads[id].state = State::Ended;
        return made;
    }
    world.threads[id].handle = unsafe { *into };
    maybe_change(world, me, AT_START);
    0
}

extern "C" fn begin(with: *mut c_void) -> *mut c_void {
    // SAFETY: `pthread_create` made it, for this thread.
    let Begin { id, begin, with, go, key } = *unsafe { Box::from_raw(with as *mut Begin) };
    // SAFETY: threads are boxed and never removed.
    await_turn(unsafe { &*go });
    // SAFETY: the key was made. What is not null is given to `ended`, when what the thread has for itself has been dropped.
    unsafe { libc::pthread_setspecific(key, std::ptr::dangling()) };
    ME.set(id);
    begin(with)
}

/// A thread's last call, in which its turn ends.
pub(super) unsafe extern "C" fn ended(_: *mut c_void) {
    let Some((world, me)) = here() else { return };
    world.threads[me].state = State::Ended;
    for id in 0..world.threads.len() {
        if world.threads[id].state == State::Join(me) {
            world.wake(id, false);
        }
    }
    let next = world.choose();
    ME.set(NOBODY);
    pass_to(world, next);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_join(of: libc::pthread_t, into: *mut *mut c_void) -> c_int {
    if let Some((world, me)) = here()
        && let Some(id) = world.threads.iter().rposition(|t| t.handle == of)
        && world.threads[id].state != State::Ended
    {
        wait(world, me, State::Join(id), None);
    }
    // What is left of it is on its way out.
    unsafe { real::pthread_join(of, into) }
}

// --- files -------------------------------------------------------------------------------------------------------------------------

/// Whoever waits for a lock lets others go on: the one who has it, for instance.
#[unsafe(no_mangle)]
unsafe extern "C" fn flock(fd: c_int, how: c_int) -> c_int {
    let Some((world, me)) = here() else { return unsafe { real::flock(fd, how) } };
    world.own(fd, None);
    loop {
        let done = unsafe { real::flock(fd, how | libc::LOCK_NB) };
        if done == 0 || how & libc::LOCK_NB != 0 || errno() != libc::EWOULDBLOCK {
            return done;
        }
        let due = world.now + LOCKED;
        wait(world, me, State::Sleep, Some(due));
    }
}

/// It takes the time that a disk takes, in which others go on or this one is killed.
fn sync() -> Option<c_int> {
    let (world, me) = here()?;
    let most = if world.random().is_multiple_of(AT_BUSY) { BUSY } else { SYNC };
    let due = world.now + world.random() % most;
    wait(world, me, State::Sleep, Some(due));
    Some(0)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    sync().unwrap_or_else(|| unsafe { real::fsync(fd) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync().unwrap_or_else(|| unsafe { real::fdatasync(fd) })
}

/// Between what somebody does with files, others go on, and processes end.
fn between() {
    if let Some((world, me)) = here() {
        maybe_change(world, me, AT_FILE);
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, from: *const c_void, bytes: usize, at: i64) -> isize {
    between();
    unsafe { real::pwrite64(fd, from, bytes, at) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    between();
    unsafe { real::rename(from, to) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    between();
    unsafe { real::unlink(path) }
}

// --- waiting for descriptors -------------------------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_wait(fd: c_int, into: *mut libc::epoll_event, most: c_int, ms: c_int) -> c_int {
    let Some((world, me)) = here() else { return unsafe { real::epoll_wait(fd, into, most, ms) } };
    maybe_change(world, me, AT_POLL);
    let deadline = (ms > 0).then(|| world.now + ms as u64 * 1_000_000);
    loop {
        let found = unsafe { real::epoll_wait(fd, into, most, 0) };
        if found != 0 || ms == 0 || deadline.is_some_and(|due| due <= world.now) {
            return found;
        }
        wait(world, me, State::Poll { fd, events: libc::POLLIN }, deadline);
    }
}

/// Does `what` with a socket that waits, and lets others go on until it need not; no longer than its option `limit` says.
fn patiently(fd: c_int, events: i16, limit: c_int, mut what: impl FnMut(c_int) -> isize) -> isize {
    let Some((world, me)) = here() else { return what(0) };
    // SAFETY: it takes numbers and gives one.
    if unsafe { libc::fcntl(fd, libc::F_GETFL) } & libc::O_NONBLOCK != 0 {
        return what(0);
    }
    let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut bytes = size_of_val(&time) as libc::socklen_t;
    // SAFETY: it fills the structure, of which it is told the size; what has no such option leaves it.
    unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, limit, (&raw mut time).cast(), &mut bytes) };
    let time = time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    let deadline = (time > 0).then(|| world.now + time);
    loop {
        let done = what(libc::MSG_DONTWAIT);
        if done >= 0 || errno() != libc::EAGAIN || deadline.is_some_and(|due| due <= world.now) {
            return done;
        }
        wait(world, me, State::Poll { fd, events }, deadline);
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn recv(fd: c_int, into: *mut c_void, bytes: usize, flags: c_int) -> isize {
    patiently(fd, libc::POLLIN, libc::SO_RCVTIMEO, |more| unsafe { real::recv(fd, into, bytes, flags | more) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn send(fd: c_int, from: *const c_void, bytes: usize, flags: c_int) -> isize {
    patiently(fd, libc::POLLOUT, libc::SO_SNDTIMEO, |more| unsafe { real::send(fd, from, bytes, flags | more) })
}
