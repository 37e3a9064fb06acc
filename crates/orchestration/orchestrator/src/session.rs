//! The gRPC service `Hub`: joining, and the session of each agent.
//!
//! The site of a session is the name in the client's certificate, never what a message says, and only the certificate that was given out last for the
//! name is good ([`crate::agents`]). A second session of the same agent replaces the first.

use crate::{
    agents,
    hub::{Hub, ORDERS_MAX, number},
    modules,
    presence::awake,
    proto::{self, FromAgent, JoinReply, JoinRequest, ToAgent, from_agent::Body as From, hub_server},
};
use base::{SiteId, clock::now_ms, identity};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{io::AsyncReadExt, sync::mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

pub struct Rpc(pub Arc<Hub>);

fn internal(e: impl std::fmt::Display) -> Status {
    Status::internal(e.to_string())
}

fn status(e: crate::Error) -> Status {
    Status::new(tonic::Code::from(e.kind().grpc()), e.to_string())
}

/// The site that the caller has proved to be, and its certificate's SHA-256.
fn peer<T>(request: &Request<T>) -> Result<(SiteId, String), Status> {
    let certs = request.peer_certs().ok_or_else(|| Status::unauthenticated("a client certificate is needed; join first"))?;
    let name = certs.first().and_then(|c| identity::name_of(c)).unwrap_or_default();
    let site = identity::site_of(&name).ok_or_else(|| Status::permission_denied(format!("certificate {name:?} is not a site's")))?;
    Ok((site, certs.first().map(|c| agents::fingerprint(c)).unwrap_or_default()))
}

impl Rpc {
    /// The site whose agent the caller has proved to be.
    async fn agent<T>(&self, request: &Request<T>) -> Result<SiteId, Status> {
        let (site, certificate) = peer(request)?;
        self.0.recognise(site.as_str(), &certificate).await.map_err(status)?;
        Ok(site)
    }
}

#[tonic::async_trait]
impl hub_server::Hub for Rpc {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let ask = request.into_inner();
        let site = SiteId::new(ask.site).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let certificate_pem = self.0.join(&ask.token, &site, &ask.csr_pem).await.map_err(status)?;
        Ok(Response::new(JoinReply { certificate_pem, ca_pem: self.0.authority.ca_pem().into() }))
    }

    async fn recognise(&self, request: Request<proto::RecogniseRequest>) -> Result<Response<proto::RecogniseReply>, Status> {
        self.agent(&request).await?;
        Ok(Response::new(proto::RecogniseReply { standby: self.0.objects.names.told() }))
    }

    type SessionStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn session(&self, request: Request<Streaming<FromAgent>>) -> Result<Response<Self::SessionStream>, Status> {
        let site = self.agent(&request).await?.to_string();
        let from = request.remote_addr();
        let (orders, answers) = mpsc::channel(ORDERS_MAX);
        tokio::spawn(run(self.0.clone(), site, from, request.into_inner(), orders));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    type ModuleStream = ReceiverStream<Result<proto::Chunk, Status>>;

    async fn module(&self, request: Request<proto::ModuleRequest>) -> Result<Response<Self::ModuleStream>, Status> {
        self.agent(&request).await?;
        let path = self.0.modules.find(&request.into_inner().sha256).map_err(status)?;
        let mut file = tokio::fs::File::open(&path).await.map_err(internal)?;
        let (chunks, answer) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                let mut data = Vec::with_capacity(modules::CHUNK);
                let chunk = match (&mut file).take(modules::CHUNK as u64).read_to_end(&mut data).await {
                    Ok(0) => return,
                    Ok(_) => Ok(proto::Chunk { data }),
                    Err(e) => Err(internal(format!("read the module {}: {e}", path.display()))),
                };
                let failed = chunk.is_err();
                if chunks.send(chunk).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answer)))
    }
}

async fn run(hub: Arc<Hub>, site: String, from: Option<SocketAddr>, mut incoming: Streaming<FromAgent>, orders: mpsc::Sender<Result<ToAgent, Status>>) {
    let hello = match tokio::time::timeout(Duration::from_secs(5), incoming.next()).await {
        Ok(Some(Ok(FromAgent { body: Some(From::Hello(hello)) }))) => hello,
        _ => {
            let _ = orders.try_send(Err(Status::invalid_argument("the first message must be Hello")));
            return;
        }
    };
    let (session, behind) = match hub.begin(&site, from, hello, orders).await {
        Ok(session) => session,
        Err(error) => {
            tracing::error!(%error, site, "begin session");
            let session = hub.world.lock().await.sites.get(&site).map(|s| s.session);
            return hub.cut(&site, session.unwrap_or(0), hub.patience, format!("its session could not begin: {error}")).await;
        }
    };
    let patience = hub.patience;
    let mut stop = hub.stop.subscribe();
    let (left, why) = loop {
        let message = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = behind.notified() => break (patience, format!("it left {ORDERS_MAX} orders unread")),
            message = incoming.next() => message,
            () = awake(patience) => break (Duration::ZERO, format!("silent for {} ms", patience.as_millis())),
        };
        let body = match message {
            None => break (hub.away_max(), "it closed its session".into()),
            Some(Err(status)) => break (hub.away_max(), status.message().to_string()),
            Some(Ok(message)) => message.body,
        };
        let mut world = hub.world.lock().await;
        match world.sites.get_mut(&site).filter(|s| s.session == session) {
            Some(here) => here.last_seen_ms = now_ms(),
            None => return, // replaced by a newer session
        }
        let done = match body {
            Some(From::Telemetry(telemetry)) => {
                hub.telemetry(&mut world, &site, telemetry);
                Ok(())
            }
            Some(From::Rank(event)) => hub.rank(&mut world, &site, &event).await,
            Some(From::MigrationReady(ready)) => hub.ready(&mut world, &site, &ready).await,
            Some(From::MigrationEnd(end)) => hub.end(&mut world, &site, &end).await,
            Some(From::Output(output)) => {
                drop(world);
                self::output(&hub, &site, output).await
            }
            Some(From::Checkpoint(step)) => hub.checkpoint_step(&mut world, &site, &step).await,
            Some(From::Hello(_)) | None => Ok(()),
        };
        if let Err(error) = done {
            tracing::error!(%error, site, "message from agent");
        }
    };
    drop(incoming);
    hub.cut(&site, session, left, why).await;
}

/// Keeps what a rank printed, if its job has been at this site.
async fn output(hub: &Hub, site: &str, output: proto::Output) -> Result<(), crate::Error> {
    let known = |job: &&crate::jobs::Job| !job.state.ended() && output.rank < job.np && job.involved().iter().any(|s| s == site);
    let Some(n) = number(&output.job).filter(|n| *n > 0) else { return Ok(()) };
    if hub.world.lock().await.jobs.get(&n).filter(known).is_none() {
        return Ok(());
    }
    let bytes = hub.logs.append(n, output.rank, output.stderr, output.offset, output.data).await?;
    if let Some(job) = hub.world.lock().await.jobs.get_mut(&n) {
        job.output_bytes = bytes;
    }
    Ok(())
}
