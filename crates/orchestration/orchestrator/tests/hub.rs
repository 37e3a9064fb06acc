//! The hub against fake agents that speak the real protocol over mutual TLS.

use base::identity;
use orchestrator::{
    Handle, Options, Service,
    hub::Submit,
    jobs::JobState,
    migrations::MigrationState,
    proto::{self, FromAgent, from_agent::Body as From, hub_client::HubClient, to_agent::Body},
};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

async fn hub(folder: &std::path::Path) -> Handle {
    let options = Options { data: folder.into(), grpc: ([127, 0, 0, 1], 0).into(), heartbeat: Duration::from_secs(2) };
    Service::start(options).await.unwrap()
}

async fn channel(hub: &Handle, identity: Option<Identity>) -> Channel {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(hub.hub.authority.ca_pem()))
        .domain_name(identity::HUB);
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let address = format!("https://{}", hub.grpc_addr());
    Endpoint::from_shared(address).unwrap().tls_config(tls).unwrap().connect().await.unwrap()
}

async fn join(hub: &Handle, token: &str, site: &str) -> Result<Identity, tonic::Status> {
    let (key, csr_pem) = identity::request(&format!("{site}.site.cloudskin")).unwrap();
    let ask = proto::JoinRequest { token: token.into(), site: site.into(), csr_pem };
    let reply = HubClient::new(channel(hub, None).await).join(ask).await?.into_inner();
    Ok(Identity::from_pem(reply.certificate_pem, key))
}

struct Agent {
    up: mpsc::Sender<FromAgent>,
    down: tonic::Streaming<proto::ToAgent>,
}

impl Agent {
    async fn new(hub: &Handle, site: &str) -> Agent {
        let token = hub.mint_join_token(site, Duration::from_secs(60)).await.unwrap();
        let identity = join(hub, &token, site).await.unwrap();
        Agent::session(hub, identity, site, Vec::new()).await
    }

    async fn session(hub: &Handle, identity: Identity, site: &str, ready: Vec<proto::MigrationReady>) -> Agent {
        let (up, queue) = mpsc::channel(16);
        let hello = proto::Hello { data_address: format!("{site}:1"), slots: 4, instance: "1".into(), ready, ..Default::default() };
        up.send(FromAgent { body: Some(From::Hello(hello)) }).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(queue);
        let down = HubClient::new(channel(hub, Some(identity)).await).session(stream).await.unwrap().into_inner();
        let mut agent = Agent { up, down };
        assert!(matches!(agent.next().await, Body::Welcome(_)));
        agent
    }
    async fn next(&mut self) -> Body {
        let message = tokio::time::timeout(Duration::from_secs(5), self.down.message()).await.expect("an order in time");
        message.unwrap().unwrap().body.unwrap()
    }
    async fn say(&self, body: From) {
        self.up.send(FromAgent { body: Some(body) }).await.unwrap();
    }
    async fn rank(&self, rank: u32, epoch: u64, state: proto::rank_event::State, exit_code: i32) {
        let event = proto::RankEvent { job: "job-1".into(), rank, epoch, state: state as i32, exit_code, ..Default::default() };
        self.say(From::Rank(event)).await;
    }
}

async fn until(hub: &Handle, state: JobState) -> orchestrator::jobs::Job {
    for _ in 0..500 {
        let job = hub.hub.world.lock().await.job("job-1").unwrap().clone();
        if job.state == state {
            return job;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("job-1 never became {state:?}");
}

fn ask(np: u32, site: &str) -> Submit {
    Submit { module: "a".repeat(64), name: "veg".into(), np, site: Some(site.into()), ..Default::default() }
}

use proto::rank_event::State::{Exited, Running};

/// A job of two ranks that run at the edge, and a cloud beside it.
async fn running(hub: &Handle) -> (Agent, Agent) {
    let (mut edge, cloud) = (Agent::new(hub, "edge").await, Agent::new(hub, "cloud").await);
    hub.hub.submit(ask(2, "edge")).await.unwrap();
    assert!(matches!(edge.next().await, Body::Start(s) if s.start.len() == 2 && s.routes.len() == 2));
    for rank in 0..2 {
        edge.rank(rank, 1, Running, 0).await;
    }
    for _ in 0..500 {
        let all = hub.hub.world.lock().await.job("job-1").unwrap().ranks.iter().all(|r| r.state == orchestrator::jobs::RankState::Running);
        if all {
            return (edge, cloud);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("ranks never ran");
}

#[tokio::test]
async fn join_needs_a_good_token_and_a_session_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let token = hub.mint_join_token("edge", Duration::from_secs(60)).await.unwrap();
    let old = hub.mint_join_token("edge", Duration::ZERO).await.unwrap();
    assert!(join(&hub, &old, "edge").await.is_err(), "expired");
    assert!(join(&hub, "nonsense", "edge").await.is_err(), "wrong");
    assert!(join(&hub, &token, "cloud").await.is_err(), "another site's");
    assert!(join(&hub, &token, "edge").await.is_ok());
    assert!(join(&hub, &token, "edge").await.is_err(), "used");
    let refused = HubClient::new(channel(&hub, None).await).session(tokio_stream::empty()).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn a_job_moves_and_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, mut cloud) = running(&hub).await;
    let m = hub.hub.migrate("job-1", "cloud", None, None).await.unwrap();
    assert!(matches!(edge.next().await, Body::Migrate(o) if o.ranks == [0, 1] && o.to_address == "cloud:1"));
    let ready = proto::MigrationReady { migration: m.id, job: "job-1".into(), ranks: vec![0, 1] };
    for _ in 0..2 {
        edge.say(From::MigrationReady(ready.clone())).await; // asked twice: the same answer, places moved once
        loop {
            match edge.next().await {
                Body::Routes(_) => continue,
                Body::Verdict(v) => break assert!(v.commit && v.places.iter().all(|p| p.site == "cloud" && p.epoch == 2)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(matches!(cloud.next().await, Body::Routes(_)));
    edge.say(From::MigrationEnd(proto::MigrationEnd { migration: m.id, ok: true, downtime_ms: 7.0, ..Default::default() })).await;
    edge.rank(0, 1, Exited, 1).await; // out of date: dropped
    for rank in 0..2 {
        cloud.rank(rank, 2, Exited, 0).await;
    }
    assert!(matches!(cloud.next().await, Body::Forget(_)));
    let job = until(&hub, JobState::Succeeded).await;
    assert_eq!(job.placements.len(), 4);
    assert!(job.placements.iter().all(|p| p.to_ms.is_some()));
}

#[tokio::test]
async fn a_lost_destination_fails_the_move_and_a_lost_source_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, cloud) = running(&hub).await;
    hub.hub.migrate("job-1", "cloud", None, None).await.unwrap();
    assert!(matches!(edge.next().await, Body::Migrate(_)));
    drop(cloud);
    assert!(matches!(edge.next().await, Body::Verdict(v) if !v.commit && v.reason.contains("lost")));
    drop(edge);
    assert!(until(&hub, JobState::Failed).await.reason.contains("edge"));
}

#[tokio::test]
async fn a_restarted_hub_answers_the_verdict_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let first = hub(folder.path()).await;
    let (mut edge, _cloud) = running(&first).await;
    let m = first.hub.migrate("job-1", "cloud", None, None).await.unwrap();
    edge.next().await;
    let ready = proto::MigrationReady { migration: m.id, job: "job-1".into(), ranks: vec![0, 1] };
    edge.say(From::MigrationReady(ready.clone())).await;
    while !matches!(edge.next().await, Body::Verdict(v) if v.commit) {}
    first.shutdown().await;
    let second = hub(folder.path()).await;
    assert_eq!(second.hub.world.lock().await.migrations[&m.id].state, MigrationState::Committed);
    let token = second.mint_join_token("edge", Duration::from_secs(60)).await.unwrap();
    let identity = join(&second, &token, "edge").await.unwrap();
    let mut edge = Agent::session(&second, identity, "edge", vec![ready]).await;
    assert!(matches!(edge.next().await, Body::Verdict(v) if v.commit && v.places.iter().all(|p| p.epoch == 2)));
}
