//! Connections of all ports: how many there are at a time, how long one keeps its place that says nothing, and how it is found out that the other side is gone.
//!
//! Who is gone without a word is found out by the kernel ([`base::net`]): Pravega's clients send keep-alives of their own only now and then.
//!
//! Each connection takes a file descriptor, and so do the log's files: [`places`] raises the process's limit and says how many connections fit below it.

use crate::{Error, Result};
use base::net::prepare;
use futures::{Stream, stream};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// A connection says something within this time.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// File descriptors for all that is no connection and no file of the log: listeners, long-term storage, images, the programs that make them.
const OTHERS: u64 = 256;
/// Fewer connections to the segment store are of no use.
const PLACES_MIN: u64 = 64;

/// Raises the process's limit of open files as far as it may, and gives that: the soft limit is 1024 as a rule, for programs that are older than large numbers.
fn open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a `rlimit` that lives as long as they do.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return u64::MAX;
        }
        let before = limit.rlim_cur;
        if before < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
                return before;
            }
        }
    }
    limit.rlim_cur
}

/// How many connections the segment store has room for, of at most `wanted`: beside `others` connections and `files` of the log, below the process's limit.
pub(crate) fn places(wanted: usize, others: usize, files: usize) -> Result<usize> {
    fit(open_files(), wanted, others, files)
}

fn fit(limit: u64, wanted: usize, others: usize, files: usize) -> Result<usize> {
    let besides = files as u64 + OTHERS;
    let left = limit.saturating_sub(besides);
    if left < 2 * PLACES_MIN {
        return Err(Error::TooLarge {
            what: format!("open files of this process, for {files} of the log, {} connections and {OTHERS} others (raise the hard limit, `ulimit -Hn`, or give a smaller --backlog)", 2 * PLACES_MIN),
            limit,
            wanted: besides + 2 * PLACES_MIN,
        });
    }
    // The other ports have their places seldom all in use: where there is little, half of it is for the segment store.
    let places = left.saturating_sub(others as u64).max(left / 2);
    if places < wanted as u64 {
        tracing::warn!(limit, connections = places, "the limit of open files leaves room for fewer connections to the segment store than usual");
    }
    Ok(usize::try_from(places).unwrap_or(usize::MAX).min(wanted))
}

/// Takes so many connections at a time, each until nothing goes over it any more.
pub(crate) struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    idle_max: Duration,
}

impl Bounded {
    /// More than so many `connections` wait in the kernel's queue; one over which nothing goes for `idle_max` gives its place to another one.
    pub fn new(listener: TcpListener, connections: usize, idle_max: Duration) -> Bounded {
        Bounded { listener, places: Arc::new(Semaphore::new(connections)), idle_max }
    }

    /// All that come, one after the other.
    pub fn connections(self) -> impl Stream<Item = io::Result<Bounden>> {
        stream::unfold(self, |mut bounded| async move {
            let (connection, _) = axum::serve::Listener::accept(&mut bounded).await;
            Some((Ok(connection), bounded))
        })
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Bounden;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Bounden, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        // It waits a second when there are no file descriptors.
        let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
        prepare(&stream);
        let idle = Box::pin(tokio::time::sleep(FIRST_WORD.min(self.idle_max)));
        (Bounden { stream, idle_max: self.idle_max, spoken: false, idle, _place: place }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with its place.
pub(crate) struct Bounden {
    stream: TcpStream,
    idle_max: Duration,
    /// Something has come.
    spoken: bool,
    idle: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Bounden {
    /// Something went over it, or it is looked whether that is too long ago.
    fn look<T>(&mut self, context: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            // What is said to someone who has said nothing counts for nothing.
            if self.spoken {
                self.idle.as_mut().reset(tokio::time::Instant::now() + self.idle_max);
            }
            return done;
        }
        self.idle.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Connected for Bounden {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Bounden {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.spoken |= buffer.filled().len() > before;
        self.look(context, read)
    }
}

impl AsyncWrite for Bounden {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.look(context, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.look(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, routing::get};
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn connections_wait_for_a_place_which_who_says_nothing_loses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let bounded = Bounded::new(listener, 2, Duration::from_millis(700));
        tokio::spawn(async move { axum::serve(bounded, Router::new().route("/", get(|| async { "here" }))).await });
        let ask = async || {
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map(|_| answer.ends_with("here"))
        };
        assert!(ask().await.unwrap());
        let mut silent = [TcpStream::connect(at).await.unwrap(), TcpStream::connect(at).await.unwrap()];
        // They have both places, until they have said nothing for long enough.
        let began = Instant::now();
        assert!(ask().await.unwrap());
        assert!((Duration::from_millis(400)..Duration::from_secs(20)).contains(&began.elapsed()), "{:?}", began.elapsed());
        let mut nothing = Vec::new();
        let _ = silent[0].read_to_end(&mut nothing).await;
        assert!(nothing.is_empty());
    }

    #[test]
    fn connections_fit_below_the_limit_of_open_files_or_the_server_says_what_is_missing() {
        assert_eq!(fit(20_000, 4096, 1280, 176).unwrap(), 4096);
        assert_eq!(fit(4096, 4096, 1280, 176).unwrap(), 4096 - 1280 - 176 - 256);
        assert_eq!(fit(1024, 4096, 1280, 176).unwrap(), (1024 - 176 - 256) / 2);
        let refused = fit(512, 4096, 1280, 176).unwrap_err().to_string();
        assert!(refused.contains("512") && refused.contains("ulimit") && refused.contains("176"), "{refused}");
    }
}
