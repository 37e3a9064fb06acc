//! The gRPC service `Hub`: joining, and the session of each agent.
//!
//! The site of a session is the name in the client's certificate, never what a message says. A second session of the same
//! site replaces the first.

use crate::{
    hub::{Hub, ORDERS_MAX, hex, number},
    modules,
    presence::awake,
    proto::{self, FromAgent, JoinReply, JoinRequest, ToAgent, from_agent::Body as From, hub_server},
};
use base::{SiteId, clock::now_ms, identity};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};
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

/// The site that the caller has proved to be.
pub fn peer_site<T>(request: &Request<T>) -> Result<SiteId, Status> {
    let certs = request.peer_certs().ok_or_else(|| Status::unauthenticated("a client certificate is needed; join first"))?;
    let name = certs.first().and_then(|c| identity::name_of(c)).unwrap_or_default();
    identity::site_of(&name).ok_or_else(|| Status::permission_denied(format!("certificate {name:?} is not a site's")))
}

#[tonic::async_trait]
impl hub_server::Hub for Rpc {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let ask = request.into_inner();
        let site = SiteId::new(ask.site).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let hash = hex(&Sha256::digest(&ask.token));
        let bad = || {
            Status::unauthenticated(format!(
                "the join token is wrong, expired, used, or not for site {site}; make a new one with `cloudskin site join {site}`"
            ))
        };
        if !self.0.state.good_token(&hash, site.as_str(), now_ms()).await.map_err(internal)? {
            return Err(bad());
        }
        let certificate_pem = self
            .0
            .authority
            .sign(&ask.csr_pem, &identity::site_name(&site))
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        // Used up only now: a certificate request that can't be signed must not cost the token.
        if !self.0.state.take_token(&hash, site.as_str(), now_ms()).await.map_err(internal)? {
            return Err(bad());
        }
        self.0.events.add("site.joined", site.as_str(), "certificate given").await;
        Ok(Response::new(JoinReply { certificate_pem, ca_pem: self.0.authority.ca_pem().into() }))
    }

    type SessionStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn session(&self, request: Request<Streaming<FromAgent>>) -> Result<Response<Self::SessionStream>, Status> {
        let site = peer_site(&request)?.to_string();
        let (orders, answers) = mpsc::channel(ORDERS_MAX);
        tokio::spawn(run(self.0.clone(), site, request.into_inner(), orders));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    type ModuleStream = ReceiverStream<Result<proto::Chunk, Status>>;

    async fn module(&self, request: Request<proto::ModuleRequest>) -> Result<Response<Self::ModuleStream>, Status> {
        peer_site(&request)?;
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

async fn run(hub: Arc<Hub>, site: String, mut incoming: Streaming<FromAgent>, orders: mpsc::Sender<Result<ToAgent, Status>>) {
    let hello = match tokio::time::timeout(Duration::from_secs(5), incoming.next()).await {
        Ok(Some(Ok(FromAgent { body: Some(From::Hello(hello)) }))) => hello,
        _ => {
            let _ = orders.try_send(Err(Status::invalid_argument("the first message must be Hello")));
            return;
        }
    };
    let (session, behind) = match hub.begin(&site, hello, orders).await {
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
    let bytes = hub.logs.append(n, output.rank, output.offset, output.data).await?;
    if let Some(job) = hub.world.lock().await.jobs.get_mut(&n) {
        job.output_bytes = bytes;
    }
    Ok(())
}
