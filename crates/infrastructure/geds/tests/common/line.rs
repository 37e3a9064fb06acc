//! A line to a namenode on which answers can get lost: what was asked is done, the connection ends, and who asked hears of neither. The namenode may be another one afterwards.

use geds::{Caller, Namenode, RemoteCatalog};
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::watch,
};

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Open,
    /// The next answer is swallowed.
    Loses,
    /// One was, and nobody gets through.
    Closed,
    /// What the namenode says is not heard.
    Mute,
}

#[derive(Clone)]
pub struct Line {
    namenode: Arc<Mutex<Namenode>>,
    way: Arc<watch::Sender<Way>>,
}

impl Line {
    pub fn new(namenode: &Namenode) -> Line {
        Line { namenode: Arc::new(Mutex::new(namenode.clone())), way: Arc::new(watch::Sender::new(Way::Open)) }
    }

    /// Who asks over this line, as the hub.
    pub fn catalog(&self) -> RemoteCatalog {
        let line = self.clone();
        RemoteCatalog::over(move || {
            let line = line.clone();
            async move {
                let _ = line.way.subscribe().wait_for(|way| *way != Way::Closed).await; // the sender is in `line`
                let ((ours, client), (server, theirs)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
                let namenode = line.namenode.lock().unwrap().clone();
                tokio::spawn(async move { namenode.serve(theirs, Caller::Hub).await });
                tokio::spawn(line.carry(client, server));
                Ok(ours)
            }
        })
    }

    async fn carry(self, client: DuplexStream, server: DuplexStream) {
        let (mut asks, mut to_client) = tokio::io::split(client);
        let (mut answers, mut to_server) = tokio::io::split(server);
        let back = async {
            loop {
                let Ok(len) = answers.read_u32_le().await else { return };
                let mut frame = vec![0; len as usize];
                if answers.read_exact(&mut frame).await.is_err() {
                    return;
                }
                if *self.way.borrow() == Way::Mute {
                    continue;
                }
                // Neither a revocation nor a sign of life.
                let answers = !matches!(u64::from_le_bytes(frame[..8].try_into().unwrap()), 0 | u64::MAX);
                let loses = |way: &mut Way| {
                    let now = answers && *way == Way::Loses;
                    if now {
                        *way = Way::Closed;
                    }
                    now
                };
                if self.way.send_if_modified(loses) || to_client.write_u32_le(len).await.is_err() || to_client.write_all(&frame).await.is_err() {
                    return;
                }
            }
        };
        // Both ends see the end of either.
        tokio::select! {
            () = back => {}
            _ = tokio::io::copy(&mut asks, &mut to_server) => {}
        }
    }

    /// Lets the next answer get lost.
    pub fn lose(&self) {
        self.way.send_replace(Way::Loses);
    }

    /// Lets nobody hear what the namenode says.
    pub fn mute(&self) {
        self.way.send_replace(Way::Mute);
    }

    /// Waits until it is.
    pub async fn lost(&self) {
        let _ = self.way.subscribe().wait_for(|way| *way == Way::Closed).await; // the sender is in `self`
    }

    /// Lets who asks get through again, to this namenode.
    pub fn go_on(&self, namenode: &Namenode) {
        *self.namenode.lock().unwrap() = namenode.clone();
        self.way.send_replace(Way::Open);
    }
}
