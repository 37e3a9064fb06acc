//! What all accepted connections have: answers leave at once, and it is found out when the other side is gone.
//!
//! A machine that loses its power, or a line whose NAT forgets it, ends no connection: nothing comes any more, and that is all. So the kernel asks the other
//! side's kernel, which answers whatever the program there does: one that reads slowly, or is stopped in a debugger, is not gone. `TCP_USER_TIMEOUT` would end the latter, so it is not set: bytes that are
//! under way to who is gone are given up by the kernel's own count, after some 15 minutes.

use std::os::fd::AsRawFd;
use tokio::net::TcpStream;

/// When nothing has come for this long, the other side's kernel is asked …
const ASK_AFTER_S: libc::c_int = 60;
/// … this often …
const ASK_EVERY_S: libc::c_int = 15;
/// … and without so many answers it is gone: after two minutes in all.
const ASK_TIMES: libc::c_int = 4;

/// Sets it.
pub fn prepare(stream: &TcpStream) {
    // What can't be set leaves the connection as it was.
    let _ = stream.set_nodelay(true);
    let set = |level: libc::c_int, name: libc::c_int, value: libc::c_int| {
        // SAFETY: the socket is open as long as `stream` lives, and the value is a C int, as all of these options take, of the length that is given.
        unsafe { libc::setsockopt(stream.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t) };
    };
    set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, ASK_AFTER_S);
    set(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, ASK_EVERY_S);
    set(libc::IPPROTO_TCP, libc::TCP_KEEPCNT, ASK_TIMES);
}
