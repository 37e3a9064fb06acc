//! The orchestrator: sites, jobs, placement, migrations, events.
//!
//! The life of a job: [`hub::Hub::submit`] places its ranks and writes them down, `StartRanks` goes to the agents over their
//! sessions ([`session`]), `RankEvent`s come back, a migration is committed in SQLite before its verdict is sent, the last
//! rank's exit ends it. The wire between hub and agents is [`proto`].
//!
//! Not here yet: checkpoints and restart from them, reconciliation of `Hello.running`, the Learning Plane, objects, logs, HTTP.

pub mod events;
pub mod hub;
pub mod jobs;
pub mod migrations;
pub mod placement;
pub mod proto;
pub mod session;
pub mod state;

use base::Kind;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming};

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

/// How to run a hub.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder; the hub's part is `hub` in it.
    pub data: PathBuf,
    pub grpc: SocketAddr,
    /// How often agents report; three missed ones and the agent is lost.
    pub heartbeat: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { data: "data".into(), grpc: ([127, 0, 0, 1], 7071).into(), heartbeat: Duration::from_millis(500) }
    }
}

/// The running hub. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub hub: Arc<hub::Hub>,
    grpc: SocketAddr,
}

impl Handle {
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc
    }
    pub fn token(&self) -> &str {
        &self.hub.token
    }
    /// A token with which an agent may join as `site`, once.
    pub async fn mint_join_token(&self, site: &str, ttl: Duration) -> Result<String, Error> {
        Ok(self.hub.mint(site, ttl).await?.0)
    }
    /// Ends sessions and ports. What was told to anyone is on disk already.
    pub async fn shutdown(&self) {
        let _ = self.hub.stop.send(true);
        self.hub.world.lock().await.sites.clear();
    }
}

pub struct Service;

impl Service {
    /// Opens the data folder, binds the port and serves.
    pub async fn start(options: Options) -> Result<Handle, Error> {
        base::identity::install_crypto();
        let hub = hub::Hub::open(&options).await?;
        let listener = tokio::net::TcpListener::bind(options.grpc)
            .await
            .map_err(|e| Error::new(Kind::FailedPrecondition, format!("listen on {} for agents: {e}", options.grpc)))?;
        let grpc = listener.local_addr().map_err(Error::internal)?;
        let own = hub.authority.issue(base::identity::HUB).map_err(Error::internal)?;
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(&own.cert_pem, &own.key_pem))
            .client_ca_root(Certificate::from_pem(hub.authority.ca_pem()))
            .client_auth_optional(true);
        let router = Server::builder()
            .tls_config(tls)
            .map_err(Error::internal)?
            .add_service(proto::hub_server::HubServer::new(session::Rpc(hub.clone())));
        let mut stop = hub.stop.subscribe();
        tokio::spawn(async move {
            let stopped = async move {
                let _ = stop.wait_for(|stop| *stop).await;
            };
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
                tracing::error!(%error, "gRPC server");
            }
        });
        Ok(Handle { hub, grpc })
    }
}
