//! Both ports over one store, as a service.

use crate::{Error, Result, Store, access::Access, controller::Controller, disk::Folder, store, tier, tier::Tier, wire};
use geds::Persist;
use std::{net::SocketAddr, path::PathBuf, sync::Arc};
use tokio::{net::TcpListener, sync::watch};

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the log.
    pub data: PathBuf,
    /// Where the controller listens. Port 0 takes a free one.
    pub controller: SocketAddr,
    /// Where the segment store listens.
    pub segments: SocketAddr,
    /// The host name or address under which clients reach the segment store; `None`: the one it listens at.
    pub publish: Option<String>,
    /// Long-term storage; `None`: everything stays in the log.
    pub long_term: Option<Persist>,
    pub tier: tier::Options,
    pub store: store::Options,
}

impl Options {
    /// Pravega's ports on this machine's own address.
    pub fn new(data: impl Into<PathBuf>) -> Options {
        Options {
            data: data.into(),
            controller: ([127, 0, 0, 1], 9090).into(),
            segments: ([127, 0, 0, 1], 12345).into(),
            publish: None,
            long_term: None,
            tier: tier::Options::default(),
            store: store::Options::default(),
        }
    }
}

/// A server that has recovered and is bound to its ports.
pub struct Server {
    store: Store,
    tier: Option<Arc<Tier>>,
    controller: TcpListener,
    segments: TcpListener,
    options: Options,
}

impl Server {
    /// Recovers the folder and takes the ports.
    pub async fn bind(options: Options) -> Result<Server> {
        let listen = async |what: &'static str, address: SocketAddr| {
            TcpListener::bind(address).await.map_err(Error::file(what, address.to_string()))
        };
        let controller = listen("listen for the controller at", options.controller).await?;
        let segments = listen("listen for segments at", options.segments).await?;
        let (data, store) = (options.data.clone(), options.store.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let disk = Folder::open(&data).map_err(Error::file("open", &data))?;
            Store::open(Arc::new(disk), store)
        });
        let store = opened.await.map_err(|e| Error::Invalid(format!("recovery ended early: {e}")))??;
        let tier = options.long_term.clone().map(|persist| Arc::new(Tier::new(persist, options.tier.clone())));
        if let Some(tier) = &tier {
            store.set_tier(tier.clone());
        }
        Ok(Server { store, tier, controller, segments, options })
    }

    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Where the controller and the segment store listen.
    pub fn addresses(&self) -> Result<(SocketAddr, SocketAddr)> {
        let of = |l: &TcpListener| l.local_addr().map_err(Error::file("read the address of", "a port"));
        Ok((of(&self.controller)?, of(&self.segments)?))
    }

    /// Serves until `shutdown` is true, then writes what was accepted.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> Result<()> {
        let (_, segments) = self.addresses()?;
        let host = self.options.publish.clone().unwrap_or_else(|| segments.ip().to_string());
        // Transient segments belong to connections, and none has survived.
        let left: Vec<String> = self.store.peek(|s| s.names.keys().filter(|n| n.contains("#transient.")).cloned().collect());
        for name in left {
            self.store.change(|s| Ok((s.find(&name).ok().map(|(id, _)| crate::segment::Record::Delete { id }), ()))).await?;
        }
        let controller = Controller::new(self.store.clone(), host, segments.port());
        let sweep = tokio::spawn(controller.clone().sweep());
        let flusher = self.tier.map(|tier| tokio::spawn(tier.run(self.store.clone())));
        let wire = tokio::spawn(wire::server::run(self.segments, None, self.store.clone(), Access::open(), shutdown.clone()));
        let mut until = shutdown.clone();
        let grpc = tonic::transport::Server::builder()
            .concurrency_limit_per_connection(256)
            .tcp_nodelay(true)
            .add_service(controller.service())
            .serve_with_incoming_shutdown(tokio_stream::wrappers::TcpListenerStream::new(self.controller), async move {
                let _ = until.wait_for(|s| *s).await;
            });
        let served = grpc.await;
        let _ = wire.await;
        sweep.abort();
        if let Some(flusher) = flusher {
            flusher.abort();
        }
        let store = self.store.clone();
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
        served.map_err(|e| Error::Invalid(format!("the controller's port: {e}")))
    }
}
