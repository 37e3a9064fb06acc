//! The orchestrator: sites, jobs, placement, migrations, events.
//!
//! The life of a job: [`hub::Hub::submit`] places its ranks and writes them down, `StartRanks` goes to the agents over their
//! sessions ([`session`]; whose they are: [`agents`]), `RankEvent`s come back, a migration is committed in SQLite before its verdict is sent, the last
//! rank's exit ends it; lost ranks start it again from its last checkpoint ([`checkpoints`]), which can also travel as a file ([`archive`]).
//! Objects have their catalog here and their bytes at the sites ([`objects`]). The wire between hub and agents is [`proto`].
//!
//! People and programs speak HTTP with it ([`http`]).
//!
//! When a job should move is the Learning Plane's to say ([`advice`]).

pub mod advice;
mod agents;
pub mod archive;
pub mod checkpoints;
mod door;
pub mod events;
pub mod http;
pub mod hub;
pub mod jobs;
pub mod logs;
pub mod migrations;
pub mod modules;
pub mod moves;
pub mod names;
pub mod objects;
pub mod placement;
pub mod presence;
pub mod proto;
pub mod session;
pub mod state;
pub mod tiers;

use axum::serve::ListenerExt;
use base::Kind;
use futures::future::BoxFuture;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tonic::transport::Server;

/// What went wrong, for people, and of what sort it is.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }
    pub fn internal(e: impl std::fmt::Display) -> Error {
        Error::new(Kind::Internal, e.to_string())
    }
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl From<sqlx::Error> for Error {
    fn from(e: sqlx::Error) -> Error {
        Error::internal(format!("the hub's database: {e}"))
    }
}

impl From<geds::Error> for Error {
    fn from(e: geds::Error) -> Error {
        match e {
            geds::Error::NoBucket { bucket } => Error::new(Kind::NotFound, format!("there is no bucket {bucket}; the first object that is put there makes it: `cloudskin store put FILE {bucket}/`")),
            geds::Error::NotFound { ref bucket, .. } => Error::new(Kind::NotFound, format!("{e}; `cloudskin store ls {bucket}/` lists what is there")),
            e => Error::new(e.kind(), e.to_string()),
        }
    }
}

/// A file of the dashboard: its path (`/` or `/app.js`), its content type, its bytes.
pub type Asset = (&'static str, &'static str, &'static [u8]);

/// How to run a hub.
pub struct Options {
    /// Folder; the hub's part is `hub` in it.
    pub data: PathBuf,
    /// Where agents come.
    pub grpc: SocketAddr,
    /// Where people and programs come.
    pub http: SocketAddr,
    /// What agents elsewhere dial, `host:port`; told to who makes a join token. `None`: the address that is listened on.
    pub advertise: Option<String>,
    /// How often agents report, 50 ms to 10 s; three missed ones and the site is shown as late.
    pub heartbeat: Duration,
    /// How long an agent may be silent before its site is lost, with all that runs there.
    pub patience: Duration,
    /// How long agents may take to come back after the hub was started.
    pub grace: Duration,
    /// Says what a module is, or why it can't run. `None`: only whether it is WebAssembly at all.
    pub check_module: Option<modules::Check>,
    /// The file format of checkpoints. `None`: they can't be fetched and restored as files.
    pub archive: Option<archive::ArchiveFormat>,
    /// Whether advice of the Learning Plane becomes migrations. If not, it is written down and refused.
    pub advise: bool,
    /// Settings of the Learning Plane.
    pub learning: learning::Options,
    /// The files behind `GET /`.
    pub dashboard: Vec<Asset>,
    /// The stream server whose streams and videos are shown. `None`: there is none.
    pub streams: Option<Streams>,
    /// Who has the standby of the namenode. `None`: it is alone.
    pub standby: Option<names::Standby>,
}

/// Asks a stream server over HTTP for a path with its query: its answer, whatever its status, or why there is none. The hub passes it on and reads nothing of it.
pub type Streams = std::sync::Arc<dyn Fn(String) -> futures::future::BoxFuture<'static, Result<axum::response::Response, String>> + Send + Sync>;

impl Default for Options {
    fn default() -> Options {
        Options {
            data: "data".into(),
            grpc: ([127, 0, 0, 1], 7071).into(),
            http: ([127, 0, 0, 1], 7070).into(),
            advertise: None,
            heartbeat: Duration::from_millis(500),
            patience: Duration::from_secs(10),
            grace: Duration::from_secs(10),
            check_module: None,
            advise: true,
            learning: learning::Options::default(),
            archive: None,
            dashboard: Vec::new(),
            streams: None,
            standby: None,
        }
    }
}

/// The running hub. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub hub: Arc<hub::Hub>,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Handle {
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc
    }
    pub fn token(&self) -> &str {
        &self.hub.token
    }
    /// A token with which an agent may join as `site`, once.
    pub fn mint_join_token<'a>(&'a self, site: &'a str, ttl: Duration) -> BoxFuture<'a, Result<String, Error>> {
        Box::pin(async move {
            Ok(self.hub.mint(site, ttl, false).await?.0)
        })
    }
    /// Ends sessions and ports, and leaves the data folder to another hub. What was told to anyone is on disk already.
    pub fn shutdown<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let _ = self.hub.stop.send(true);
            self.hub.objects.names.close().await;
            self.hub.world.lock().await.sites.clear();
            self.hub.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        })
    }
}

pub struct Service;

impl Service {
    /// Opens the data folder, binds the port and serves.
    /// To be awaited on a Tokio runtime that lives as long as the hub.
    pub fn start(mut options: Options) -> BoxFuture<'static, Result<Handle, Error>> {
        Box::pin(async move {
            base::identity::install_crypto();
            let (listener, grpc) = bind(options.grpc, "agents").await?;
            let (web, http) = bind(options.http, "HTTP").await?;
            let (dashboard, streams) = (std::mem::take(&mut options.dashboard), options.streams.take());
            let advertise = options.advertise.take().unwrap_or_else(|| grpc.to_string());
            let hub = hub::Hub::open(options).await?;
            let router = Server::builder().add_service(proto::hub_server::HubServer::new(session::Rpc(hub.clone())));
            let incoming = door::open(hub.clone(), listener)?;
            let mut stop = hub.stop.subscribe();
            tokio::spawn(async move {
                let stopped = async move {
                    let _ = stop.wait_for(|stop| *stop).await;
                };
                if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
                    tracing::error!(%error, "gRPC server");
                }
            });
            let (app, mut stop) = (http::router(hub.clone(), advertise, dashboard, streams), hub.stop.subscribe());
            tokio::spawn(async move {
                let stopped = async move {
                    let _ = stop.wait_for(|stop| *stop).await;
                };
                if let Err(error) = axum::serve(web.tap_io(|tcp| base::net::prepare(tcp)), app).with_graceful_shutdown(stopped).await {
                    tracing::error!(%error, "HTTP server");
                }
            });
            hub.wait_for_agents();
            hub.keep_names();
            hub.keep_time();
            hub.keep_advising().await?;
            hub.keep_swept();
            Ok(Handle { hub, grpc, http })
        })
    }
}

async fn bind(address: SocketAddr, whom: &str) -> Result<(tokio::net::TcpListener, SocketAddr), Error> {
    let fail = |e| Error::new(Kind::FailedPrecondition, format!("listen on {address} for {whom}: {e}"));
    let listener = tokio::net::TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}
