//! TCP between the threads of the simulation. They see addresses of IPv4 and ports; what carries the bytes are sockets of the UNIX domain, which do their work in the call that asks for it, where
//! the kernel's TCP has timers and turns of its own.
//!
//! Safety of all of them: pointers are what callers of the C library's functions must give, and an address is one of IPv4.
//!
//! Ports are given out in order. Another simulation beside this one has others of the same numbers: their names have the process in them. A listener whose queue is full refuses, as one that is not there.

use super::{
    functions::real,
    *,
};
use std::ffi::c_char;

pub(super) fn link() {
    let all = [
        socket as *const (),
        bind as *const (),
        connect as *const (),
        accept4 as *const (),
        getsockname as *const (),
        getpeername as *const (),
        setsockopt as *const (),
        close as *const (),
    ];
    std::hint::black_box(all);
}

impl World {
    fn new_port(&mut self) -> u16 {
        self.port += 1;
        self.port
    }

    /// Writes down that a descriptor is the caller's process's, and its ports.
    pub(super) fn own(&mut self, fd: c_int, ports: Option<[u16; 2]>) {
        let (fd, process) = (fd as usize, self.threads[ME.get()].process);
        if self.descriptors.len() <= fd {
            self.descriptors.resize(fd + 1, None);
        }
        self.descriptors[fd] = Some(Descriptor { process, ports });
    }
}

/// The world, and the ports of a socket if it is one of the simulation's.
fn here_with(fd: c_int) -> Option<(&'static mut World, [u16; 2])> {
    let (world, _) = here()?;
    let ports = world.descriptors.get(fd as usize)?.as_ref()?.ports?;
    Some((world, ports))
}

/// A port's name among sockets of the UNIX domain: an abstract one, which no file has.
fn name(port: u16) -> (libc::sockaddr_un, libc::socklen_t) {
    // SAFETY: it is plain numbers, for which zeros are a value.
    let mut name: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    name.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let text = format!("\0simulated-{}-{port}", std::process::id());
    for (to, from) in name.sun_path.iter_mut().zip(text.bytes()) {
        *to = from as c_char;
    }
    (name, (size_of::<libc::sa_family_t>() + text.len()) as libc::socklen_t)
}

/// Says an address of 127.0.0.1.
unsafe fn tell(port: u16, into: *mut libc::sockaddr, bytes: *mut libc::socklen_t) -> c_int {
    if !into.is_null() {
        let address = libc::sockaddr_in { sin_family: libc::AF_INET as libc::sa_family_t, sin_port: port.to_be(), sin_addr: libc::in_addr { s_addr: 0x7f00_0001u32.to_be() }, sin_zero: [0; 8] };
        unsafe {
            *(into as *mut libc::sockaddr_in) = address;
            *bytes = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
    }
    0
}

unsafe fn port_of(of: *const libc::sockaddr) -> u16 {
    u16::from_be(unsafe { (*(of as *const libc::sockaddr_in)).sin_port })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let is_tcp = domain == libc::AF_INET && kind & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) == libc::SOCK_STREAM;
    let fd = match here() {
        Some(_) if is_tcp => unsafe { real::socket(libc::AF_UNIX, kind, 0) },
        _ => unsafe { real::socket(domain, kind, protocol) },
    };
    if let Some((world, _)) = here().filter(|_| fd >= 0) {
        world.own(fd, is_tcp.then_some([0; 2]));
    }
    fd
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bind(fd: c_int, address: *const libc::sockaddr, bytes: libc::socklen_t) -> c_int {
    let Some((world, _)) = here_with(fd) else { return unsafe { real::bind(fd, address, bytes) } };
    let port = match unsafe { port_of(address) } {
        0 => world.new_port(),
        port => port,
    };
    world.own(fd, Some([port, 0]));
    let (name, bytes) = name(port);
    unsafe { real::bind(fd, (&raw const name).cast(), bytes) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn connect(fd: c_int, address: *const libc::sockaddr, bytes: libc::socklen_t) -> c_int {
    let Some((world, _)) = here_with(fd) else { return unsafe { real::connect(fd, address, bytes) } };
    let (own, to) = (world.new_port(), unsafe { port_of(address) });
    world.own(fd, Some([own, to]));
    let (name, bytes) = name(to);
    let done = unsafe { real::connect(fd, (&raw const name).cast(), bytes) };
    if done < 0 && functions::errno() == libc::EAGAIN {
        // SAFETY: each thread has its own.
        unsafe { *libc::__errno_location() = libc::ECONNREFUSED };
    }
    done
}

#[unsafe(no_mangle)]
unsafe extern "C" fn accept4(fd: c_int, into: *mut libc::sockaddr, bytes: *mut libc::socklen_t, flags: c_int) -> c_int {
    // SAFETY: it takes numbers and gives one.
    let waits = unsafe { libc::fcntl(fd, libc::F_GETFL) } & libc::O_NONBLOCK == 0;
    if let Some((world, me)) = here().filter(|_| waits && !is_ready(fd, libc::POLLIN)) {
        wait(world, me, State::Poll { fd, events: libc::POLLIN }, None);
    }
    let Some((world, [own, _])) = here_with(fd) else {
        let accepted = unsafe { real::accept4(fd, into, bytes, flags) };
        if let Some((world, _)) = here().filter(|_| accepted >= 0) {
            world.own(accepted, None);
        }
        return accepted;
    };
    let accepted = unsafe { real::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    if accepted >= 0 {
        let other = world.new_port();
        world.own(accepted, Some([own, other]));
        unsafe { tell(other, into, bytes) };
    }
    accepted
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getsockname(fd: c_int, into: *mut libc::sockaddr, bytes: *mut libc::socklen_t) -> c_int {
    match here_with(fd) {
        Some((_, [own, _])) => unsafe { tell(own, into, bytes) },
        None => unsafe { real::getsockname(fd, into, bytes) },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getpeername(fd: c_int, into: *mut libc::sockaddr, bytes: *mut libc::socklen_t) -> c_int {
    match here_with(fd) {
        Some((_, [_, other])) => unsafe { tell(other, into, bytes) },
        None => unsafe { real::getpeername(fd, into, bytes) },
    }
}

/// What is set of TCP and IP has no meaning here.
#[unsafe(no_mangle)]
unsafe extern "C" fn setsockopt(fd: c_int, level: c_int, what: c_int, value: *const c_void, bytes: libc::socklen_t) -> c_int {
    match here_with(fd) {
        Some(_) if level != libc::SOL_SOCKET => 0,
        _ => unsafe { real::setsockopt(fd, level, what, value, bytes) },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn close(fd: c_int) -> c_int {
    if let Some(descriptor) = here().and_then(|(world, _)| world.descriptors.get_mut(fd as usize)) {
        *descriptor = None;
    }
    unsafe { real::close(fd) }
}
