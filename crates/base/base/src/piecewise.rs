//! Many bytes go into a file so that others who sync to the same disk hardly wait for them.
//!
//! Synced as a whole, 4 MiB hold up whoever syncs a few bytes to that disk meanwhile, such as the log of streams, for 10 ms, where its own write takes 0.2 ms. Here they go to the disk
//! piece by piece. Behind a piece the other waits for less than one of these 10 ms, and the whole takes no longer.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
};

/// What goes to the disk at a time.
pub const PIECE: usize = 256 << 10;

/// Writes bytes at a place. They are on disk when it returns, but for what the file system knows of them: `File::sync_all` makes them safe.
pub fn write_at(file: &File, bytes: &[u8], mut at: u64) -> io::Result<()> {
    for piece in bytes.chunks(PIECE) {
        file.write_all_at(piece, at)?;
        out(file, at, piece.len())?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Starts the write of a piece and waits until the device has it. Where this can't be done, all of the work is left to `sync_all`.
fn out(file: &File, at: u64, len: usize) -> io::Result<()> {
    let (Ok(at), Ok(len)) = (at.try_into(), len.try_into()) else { return Ok(()) };
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: it takes numbers only, and the descriptor is open.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, flags) } == 0 {
        return Ok(());
    }
    // An error of the disk must not be passed over: it is told once, and `sync_all` would not hear of it.
    let e = io::Error::last_os_error();
    match e.raw_os_error() {
        // A sandbox that knows no such call says that it is not permitted.
        Some(libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::ESPIPE | libc::EOPNOTSUPP) => Ok(()),
        _ => Err(e),
    }
}
