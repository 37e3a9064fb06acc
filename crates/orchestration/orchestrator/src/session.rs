//! The gRPC service `Hub`: joining, and the session of each agent.
//!
//! The site of a session is the name in the client's certificate, never what a message says. A second session of the same
//! site replaces the first.

use crate::{
    hub::{Hub, ORDERS_MAX, Site, hex},
    proto::{self, FromAgent, JoinReply, JoinRequest, ToAgent, from_agent::Body as From, hub_server, to_agent::Body},
};
use base::{SiteId, clock::now_ms, identity};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

pub struct Rpc(pub Arc<Hub>);

fn internal(e: impl std::fmt::Display) -> Status {
    Status::internal(e.to_string())
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
        if !self.0.state.take_token(&hash, site.as_str(), now_ms()).await.map_err(internal)? {
            return Err(Status::unauthenticated(format!(
                "the join token is wrong, expired, used, or not for site {site}; make a new one with `cloudskin site join {site}`"
            )));
        }
        let certificate_pem = self
            .0
            .authority
            .sign(&ask.csr_pem, &identity::site_name(&site))
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
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
}

async fn run(hub: Arc<Hub>, site: String, mut incoming: Streaming<FromAgent>, orders: mpsc::Sender<Result<ToAgent, Status>>) {
    // An agent that says nothing for three heartbeats (two seconds at most are one) is lost.
    let patience = 3 * hub.heartbeat.clamp(Duration::from_millis(50), Duration::from_secs(2));
    let hello = match tokio::time::timeout(Duration::from_secs(5), incoming.next()).await {
        Ok(Some(Ok(FromAgent { body: Some(From::Hello(hello)) }))) => hello,
        _ => {
            let _ = orders.try_send(Err(Status::invalid_argument("the first message must be Hello")));
            return;
        }
    };
    let session = match begin(&hub, &site, hello, orders).await {
        Ok(session) => session,
        Err(error) => return tracing::error!(%error, site, "begin session"),
    };
    let mut stop = hub.stop.subscribe();
    let why = loop {
        let message = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            message = tokio::time::timeout(patience, incoming.next()) => message,
        };
        let body = match message {
            Err(_) => break format!("silent for {} ms", patience.as_millis()),
            Ok(None) => break "it closed its session".into(),
            Ok(Some(Err(status))) => break status.message().to_string(),
            Ok(Some(Ok(message))) => message.body,
        };
        let mut world = hub.world.lock().await;
        match world.sites.get_mut(&site).filter(|s| s.session == session) {
            Some(here) => here.last_seen_ms = now_ms(),
            None => return, // replaced by a newer session
        }
        let done = match body {
            Some(From::Telemetry(telemetry)) => {
                for load in &telemetry.ranks {
                    let n = load.job.strip_prefix("job-").and_then(|n| n.parse().ok()).unwrap_or(0);
                    let rank = world.jobs.get_mut(&n).and_then(|j| j.ranks.get_mut(load.rank as usize));
                    if let Some(rank) = rank.filter(|r| r.site == site) {
                        (rank.doing, rank.cpu_used) = (load.doing.clone(), load.cpu_used);
                        (rank.memory_bytes, rank.sent, rank.received) = (load.memory_bytes, load.sent, load.received);
                    }
                }
                if let Some(here) = world.sites.get_mut(&site) {
                    here.telemetry = telemetry;
                }
                Ok(())
            }
            Some(From::Rank(event)) => hub.rank(&mut world, &site, &event).await,
            Some(From::MigrationReady(ready)) => hub.ready(&mut world, &site, &ready).await,
            Some(From::MigrationEnd(end)) => hub.end(&mut world, &site, &end).await,
            _ => Ok(()),
        };
        if let Err(error) = done {
            tracing::error!(%error, site, "message from agent");
        }
    };
    let mut world = hub.world.lock().await;
    if world.sites.get(&site).is_some_and(|s| s.session == session) {
        world.sites.remove(&site);
        hub.events.add("site.lost", &site, why.clone()).await;
        if let Err(error) = hub.lose(&mut world, &site, &why).await {
            tracing::error!(%error, site, "lose site");
        }
    }
}

/// Registers the session, reconciles what the agent still holds with what the hub believes, and answers open questions.
async fn begin(hub: &Hub, site: &str, hello: proto::Hello, orders: mpsc::Sender<Result<ToAgent, Status>>) -> Result<u64, crate::Error> {
    let mut world = hub.world.lock().await;
    let replaced = world.sites.remove(site);
    if replaced.is_some_and(|old| old.hello.instance != hello.instance) {
        hub.lose(&mut world, site, "its agent was started anew").await?;
    }
    world.sessions += 1;
    let session = world.sessions;
    let welcome = Body::Welcome(proto::Welcome { hub_instance: hub.instance.clone(), heartbeat_ms: hub.heartbeat.as_millis() as u32 });
    let _ = orders.try_send(Ok(ToAgent { body: Some(welcome) }));
    let ready = hello.ready.clone();
    hub.events.add("site.ready", site, format!("{} cores, {} slots", hello.cores, hello.slots)).await;
    let entry = Site { session, orders, hello, telemetry: Default::default(), last_seen_ms: now_ms() };
    world.sites.insert(site.into(), entry);
    for ready in &ready {
        hub.ready(&mut world, site, ready).await?;
    }
    Ok(session)
}
