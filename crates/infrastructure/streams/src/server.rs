//! All ports over one store, as a service.

use crate::{
    Error, Result, Store,
    access::Access,
    controller::Controller,
    disk::Folder,
    http,
    listener::{self, Bounded},
    manifest,
    overflow::Overflow,
    requests, retention,
    scale::{Profile, Scaler},
    store,
    tier::{self, AbortOnDrop, Tier},
    watermark, wire,
};
use futures::future::BoxFuture;
use geds::Persist;
use std::{net::{IpAddr, SocketAddr}, path::{Path, PathBuf}, sync::Arc, time::Duration};
use tokio_rustls::{TlsAcceptor, rustls, rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject}};
use tonic::{service::Routes, transport::{Identity, ServerTlsConfig}};
use tokio::{net::TcpListener, sync::watch};

/// Connections to the controller at a time; more wait in the kernel's queue.
const CALLERS_MAX: usize = 1024;
/// A caller that is quiet is asked for a sign of life, which any HTTP/2 client gives by itself, and has gone when none comes.
const PING_EVERY: Duration = Duration::from_secs(60);
const PONG_MAX: Duration = Duration::from_secs(120);
/// So one over whose connection nothing goes for this long does not speak HTTP/2 at all.
const CALLER_IDLE_MAX: Duration = Duration::from_secs(240);

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
    /// Where metrics and what there is can be read; `None`: nowhere.
    pub http: Option<SocketAddr>,
    /// TLS on the controller's and the segment store's port.
    pub tls: Option<Tls>,
    /// Who may do what; `None`: everyone everything.
    pub users: Option<Users>,
    /// Long-term storage; `None`: everything stays in the log.
    pub long_term: Option<Persist>,
    /// Where chunks lie while long-term storage is away and the log is half full: a folder, and how many bytes it takes. Nothing without long-term storage.
    pub overflow: Option<(Persist, u64)>,
    pub tier: tier::Options,
    /// Begin an empty folder with what long-term storage has, of this log if there are several there.
    pub restore: Option<Option<u64>>,
    /// When streams with a policy scale by themselves.
    pub scaling: Profile,
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
            http: None,
            tls: None,
            users: None,
            long_term: None,
            overflow: None,
            tier: tier::Options::default(),
            restore: None,
            scaling: Profile::pravega(),
            store: store::Options::default(),
        }
    }
}

/// A users' file, and how long a token is good.
#[derive(Clone, Debug)]
pub struct Users {
    pub file: PathBuf,
    pub token_life: Duration,
}

/// A certificate with its chain, and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Tls {
    fn read(path: &Path) -> Result<Vec<u8>> {
        std::fs::read(path).map_err(Error::file("read", path))
    }

    fn acceptor(&self) -> Result<TlsAcceptor> {
        base::identity::install_crypto();
        let bad = |path: &Path, e: String| Error::Invalid(format!("{} can't be used for TLS: {e}", path.display()));
        let certificates: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&Tls::read(&self.certificate)?).collect();
        let certificates = certificates.map_err(|e| bad(&self.certificate, e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&Tls::read(&self.key)?).map_err(|e| bad(&self.key, e.to_string()))?;
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key);
        Ok(TlsAcceptor::from(Arc::new(config.map_err(|e| bad(&self.certificate, e.to_string()))?)))
    }

    fn identity(&self) -> Result<ServerTlsConfig> {
        Ok(ServerTlsConfig::new().identity(Identity::from_pem(Tls::read(&self.certificate)?, Tls::read(&self.key)?)))
    }
}

/// A server that has recovered and is bound to its ports.
pub struct Server {
    store: Store,
    tier: Option<Arc<Tier>>,
    tls: Option<TlsAcceptor>,
    access: Access,
    controller: TcpListener,
    segments: TcpListener,
    /// Connections that the segment store has room for.
    places: usize,
    http: Option<TcpListener>,
    options: Options,
}

/// An address as clients put a port behind it.
fn in_front_of_a_port(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// How long a start waits for long-term storage to say what it has.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Pieces of memory from this size on go back to the system when they are free.
const GIVEN_BACK_BYTES: i32 = 8 << 20;

/// Lets large pieces of memory go back at once, for the whole process. By itself the C library begins to keep those of the size of any that was freed, a heap for each thread: requests of 15 MiB,
/// of which few are there at a time, then take three times as much (300 MB where 100 are in use).
fn give_back_large_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes two numbers. A refusal leaves everything as it was.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, GIVEN_BACK_BYTES);
    }
}

impl Server {
    /// Recovers the folder and takes the ports.
    pub fn bind(options: Options) -> BoxFuture<'static, Result<Server>> {
        give_back_large_memory();
        Box::pin(async move {
            let listen = async |what: &'static str, address: SocketAddr| {
                TcpListener::bind(address).await.map_err(Error::file(what, address.to_string()))
            };
            let places = listener::places(wire::server::CONNECTIONS_MAX, CALLERS_MAX + http::CONNECTIONS_MAX, options.store.log.files_max)?;
            let tls = options.tls.as_ref().map(Tls::acceptor).transpose()?;
            let controller = listen("listen for the controller at", options.controller).await?;
            let segments = listen("listen for segments at", options.segments).await?;
            let http = match options.http {
                Some(address) => Some(listen("listen for HTTP at", address).await?),
                None => None,
            };
            let (data, store) = (options.data.clone(), options.store.clone());
            let disk = Arc::new(Folder::open(&data).map_err(Error::file("open", &data))?);
            if let Some(log) = options.restore {
                let from = options.long_term.as_ref().ok_or_else(|| Error::Invalid("there is no long-term storage to restore from".into()))?;
                manifest::restore(from, log, disk.clone()).await?;
            }
            let access = match &options.users {
                Some(users) => Access::load(&users.file, &data.join("token.key"), users.token_life)?,
                None => Access::open(),
            };
            let opened = tokio::task::spawn_blocking(move || Store::open(disk, store));
            let store = opened.await.map_err(|e| Error::Invalid(format!("recovery ended early: {e}")))??;
            let overflow = options.overflow.clone().map(|(persist, limit)| Overflow::new(persist, limit));
            let tier = options.long_term.clone().map(|persist| Arc::new(Tier::new(persist, overflow, options.tier.clone())));
            if let Some(tier) = &tier {
                store.set_tier(tier.clone());
                // Storage that does not say so now is asked before anything is brought there.
                if let Ok(Err(e @ Error::Elsewhere(_))) = tokio::time::timeout(LOOK_MAX, tier.belongs(&store)).await {
                    store.close();
                    return Err(e);
                }
            }
            Ok(Server { store, tier, tls, access, controller, segments, places, http, options })
        })
    }

    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Where the controller and the segment store listen.
    pub fn addresses(&self) -> Result<(SocketAddr, SocketAddr)> {
        let of = |l: &TcpListener| l.local_addr().map_err(Error::file("read the address of", "a port"));
        Ok((of(&self.controller)?, of(&self.segments)?))
    }

    /// Where metrics are, if anywhere.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref()?.local_addr().ok()
    }

    /// Serves until `shutdown` is true, then writes what was accepted; or until another server has taken over long-term storage, or that is not the log's, which is an error: clients would wait here
    /// for what is written there.
    pub fn run(self, shutdown: watch::Receiver<bool>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let (controller, segments) = self.addresses()?;
            let (stop, stopping) = watch::channel(false);
            let mut flusher = self.tier.clone().map(|tier| AbortOnDrop(tokio::spawn(tier.run(self.store.clone()))));
            let mut ending = AbortOnDrop(tokio::spawn(async move {
                let mut shutdown = shutdown;
                let fenced = async {
                    // It also ends when the log has stopped, and reads go on then.
                    if let Some(flusher) = &mut flusher {
                        match (&mut flusher.0).await {
                            Ok(Err(e)) => return e,
                            Ok(Ok(())) => {}
                            Err(e) => tracing::error!(error = %e, "nothing goes to long-term storage any more; start the server again"),
                        }
                    }
                    std::future::pending().await
                };
                let ended = tokio::select! {
                    _ = shutdown.wait_for(|s| *s) => Ok(()),
                    e = fenced => Err(e),
                };
                let _ = stop.send(true);
                (ended, flusher)
            }));
            let shutdown = stopping;
            let host = |at: SocketAddr| self.options.publish.clone().unwrap_or_else(|| in_front_of_a_port(at.ip()));
            // Who listens everywhere has no address; where the segment store is reached, the controller is, too.
            let controller_host = host(if controller.ip().is_unspecified() { segments } else { controller });
            let [segments, controller] = [(host(segments), segments.port()), (controller_host, controller.port())];
            // Transient segments belong to connections, and none has survived.
            let left: Vec<String> = self.store.peek(|s| s.names.keys().filter(|n| n.contains("#transient.")).cloned().collect());
            for name in left {
                self.store.change(|s| Ok((s.find(&name).ok().map(|(id, _)| crate::segment::Record::Delete { id }), ()))).await?;
            }
            let controller = Controller::new(self.store.clone(), self.access.clone(), segments, controller);
            let sweep = tokio::spawn(controller.clone().sweep());
            let scaler = Scaler::new(self.store.clone(), self.options.scaling.clone());
            let told = self.http.map(|listener| {
                let app = http::App { store: self.store.clone(), tier: self.tier.clone(), scaler: scaler.clone(), access: self.access.clone(), told: Arc::default() };
                tokio::spawn(http::run(listener, app, shutdown.clone()))
            });
            let scaler = tokio::spawn(scaler.run());
            let keeper = tokio::spawn(retention::run(self.store.clone()));
            let marker = tokio::spawn(watermark::run(self.store.clone()));
            let wire = tokio::spawn(wire::server::run(self.segments, self.places, self.tls, self.store.clone(), self.access.clone(), shutdown.clone()));
            let mut until = shutdown.clone();
            let mut grpc = tonic::transport::Server::builder();
            if let Some(tls) = &self.options.tls {
                grpc = grpc.tls_config(tls.identity()?).map_err(|e| Error::Invalid(format!("TLS of the controller's port: {e}")))?;
            }
            let grpc = grpc
                .max_concurrent_streams(requests::REQUESTS_MAX)
                .initial_stream_window_size(requests::WINDOW)
                .initial_connection_window_size(requests::WINDOW)
                .http2_keepalive_interval(Some(PING_EVERY))
                .http2_keepalive_timeout(Some(PONG_MAX))
                .add_routes(requests::bounded(Routes::new(controller.service().max_decoding_message_size(requests::MESSAGE_MAX))))
                .serve_with_incoming_shutdown(Bounded::new(self.controller, CALLERS_MAX, CALLER_IDLE_MAX).connections(), async move {
                    let _ = until.wait_for(|s| *s).await;
                });
            let served = grpc.await;
            if served.is_err() {
                ending.0.abort();
            }
            let (ended, flusher) = (&mut ending.0).await.unwrap_or((Ok(()), None));
            let _ = wire.await;
            sweep.abort();
            scaler.abort();
            keeper.abort();
            marker.abort();
            if let Some(told) = told {
                told.abort();
            }
            drop(flusher);
            let store = self.store.clone();
            let _ = tokio::task::spawn_blocking(move || store.close()).await;
            served.map_err(|e| Error::Invalid(format!("the controller's port: {e}")))?;
            ended
        })
    }
}
