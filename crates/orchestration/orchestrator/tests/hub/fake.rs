//! Fake agents: they speak the real protocol over mutual TLS, hold no ranks and report what a test tells them to.

use base::identity;
use orchestrator::{
    Handle, Options, Service,
    hub::Submit,
    jobs::JobState,
    proto::{self, FromAgent, from_agent::Body as From, hub_client::HubClient, to_agent::Body},
};
use sha2::{Digest, Sha256};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::mpsc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub async fn hub(folder: &std::path::Path) -> Handle {
    hub_with(folder, Options { grace: Duration::from_secs(2), patience: 3 * HEARTBEAT, ..Options::default() }).await
}

pub async fn hub_with(folder: &std::path::Path, options: Options) -> Handle {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let hub = Service::start(Options { data: folder.into(), grpc: any, http: any, heartbeat: HEARTBEAT, ..options }).await.unwrap();
    assert_eq!(hub.hub.modules.add(MODULE).unwrap().sha256, module());
    hub
}

/// Fake agents report three times as often, so that a busy machine does not make them lost.
const HEARTBEAT: Duration = Duration::from_millis(400);

pub const MODULE: &[u8] = b"\0asm\x01\0\0\0";

pub fn module() -> String {
    Sha256::digest(MODULE).iter().map(|b| format!("{b:02x}")).collect()
}

pub async fn channel(hub: &Handle, identity: Option<Identity>) -> Channel {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(hub.hub.authority.ca_pem()))
        .domain_name(identity::HUB);
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let address = format!("https://{}", hub.grpc_addr());
    Endpoint::from_shared(address).unwrap().tls_config(tls).unwrap().connect().await.unwrap()
}

pub async fn join(hub: &Handle, token: &str, site: &str) -> Result<Identity, tonic::Status> {
    let (key, csr_pem) = identity::request(&format!("{site}.site.cloudskin")).unwrap();
    let ask = proto::JoinRequest { token: token.into(), site: site.into(), csr_pem };
    let reply = HubClient::new(channel(hub, None).await).join(ask).await?.into_inner();
    Ok(Identity::from_pem(reply.certificate_pem, key))
}

pub struct Agent {
    pub up: mpsc::Sender<FromAgent>,
    pub down: tonic::Streaming<proto::ToAgent>,
    pub identity: Identity,
    pub welcome: proto::Welcome,
    /// What it reports at each beat; `tests/advice.rs` changes it.
    #[allow(dead_code)]
    pub report: Arc<Mutex<proto::Telemetry>>,
    beat: tokio::task::JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.beat.abort();
    }
}

impl Agent {
    pub async fn new(hub: &Handle, site: &str) -> Agent {
        let token = hub.mint_join_token(site, Duration::from_secs(60)).await.unwrap();
        let identity = join(hub, &token, site).await.unwrap();
        Agent::session(hub, identity, site, proto::Hello::default()).await
    }

    /// Fills in what `hello` leaves out.
    pub async fn session(hub: &Handle, identity: Identity, site: &str, hello: proto::Hello) -> Agent {
        let (up, queue) = mpsc::channel(16);
        let instance = if hello.instance.is_empty() { "1".into() } else { hello.instance.clone() };
        let data_address = if hello.data_address.is_empty() { format!("{site}:1") } else { hello.data_address.clone() };
        let hello = proto::Hello { data_address, slots: 4, cores: if hello.cores > 0.0 { hello.cores } else { 2.0 }, instance, ..hello };
        up.send(FromAgent { body: Some(From::Hello(hello)) }).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(queue);
        let mut down = HubClient::new(channel(hub, Some(identity.clone())).await).session(stream).await.unwrap().into_inner();
        let Some(Body::Welcome(welcome)) = down.message().await.unwrap().unwrap().body else { panic!("the first order is not Welcome") };
        let heart = up.downgrade();
        let report = Arc::new(Mutex::new(proto::Telemetry { cpu_wanted: 3.0, cpu_used: f64::NAN, ..Default::default() }));
        let told = report.clone();
        let beat = tokio::spawn(async move {
            while let Some(up) = heart.upgrade() {
                let telemetry = told.lock().unwrap().clone();
                let _ = up.send(FromAgent { body: Some(From::Telemetry(telemetry)) }).await;
                drop(up);
                tokio::time::sleep(HEARTBEAT / 3).await;
            }
        });
        Agent { up, down, identity, welcome, report, beat }
    }

    /// Cuts the session; the identity to come back with.
    pub fn cut(self) -> Identity {
        self.identity.clone()
    }

    /// Says nothing any more, and keeps its session.
    #[allow(dead_code)]
    pub fn hush(&self) {
        self.beat.abort();
    }

    /// The next order that is neither `Routes` nor `Expect`.
    pub async fn order(&mut self) -> Body {
        loop {
            match self.next().await {
                Body::Routes(_) | Body::Expect(_) => {}
                other => return other,
            }
        }
    }
    pub async fn print(&self, rank: u32, offset: u64, text: &str) {
        self.print_to(false, rank, offset, text).await;
    }
    pub async fn print_to(&self, stderr: bool, rank: u32, offset: u64, text: &str) {
        self.say(From::Output(proto::Output { job: "job-1".into(), rank, stderr, data: text.into(), offset })).await;
    }
    pub async fn next(&mut self) -> Body {
        let message = tokio::time::timeout(Duration::from_secs(5), self.down.message()).await.expect("an order in time");
        message.unwrap().unwrap().body.unwrap()
    }
    pub async fn say(&self, body: From) {
        self.up.send(FromAgent { body: Some(body) }).await.unwrap();
    }
    pub async fn rank(&self, rank: u32, epoch: u64, state: proto::rank_event::State, exit_code: i32) {
        let event = proto::RankEvent { job: "job-1".into(), rank, epoch, state: state as i32, exit_code, ..Default::default() };
        self.say(From::Rank(event)).await;
    }
}

pub async fn until(hub: &Handle, state: JobState) -> orchestrator::jobs::Job {
    for _ in 0..2000 {
        let job = hub.hub.world.lock().await.job("job-1").unwrap().clone();
        if job.state == state {
            return job;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("job-1 never became {state:?}");
}

pub fn ask(np: u32, site: &str) -> Submit {
    Submit { module: module(), name: "veg".into(), np, site: Some(site.into()), ..Default::default() }
}

use proto::rank_event::State::Running;

/// A job of two ranks that run at the edge, and a cloud beside it.
pub async fn running(hub: &Handle) -> (Agent, Agent) {
    let (mut edge, cloud) = (Agent::new(hub, "edge").await, Agent::new(hub, "cloud").await);
    hub.hub.submit(ask(2, "edge")).await.unwrap();
    assert!(matches!(edge.next().await, Body::Start(s) if s.start.len() == 2 && s.routes.len() == 2));
    for rank in 0..2 {
        edge.rank(rank, 1, Running, 0).await;
    }
    for _ in 0..2000 {
        let all = hub.hub.world.lock().await.job("job-1").unwrap().ranks.iter().all(|r| r.state == orchestrator::jobs::RankState::Running);
        if all {
            return (edge, cloud);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("ranks never ran");
}


pub fn held(rank: u32, epoch: u64) -> proto::RankRef {
    proto::RankRef { job: "job-1".into(), rank, epoch, restored_waiting: false }
}

/// Waits until a migration is no longer in one of its open states.
pub async fn closed(hub: &Handle, id: u64) -> orchestrator::migrations::Migration {
    for _ in 0..1000 {
        let m = hub.hub.world.lock().await.migrations[&id].clone();
        if !m.open() {
            return m;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("migration {id} is open for ever");
}

/// Moves both ranks of job-1 as far as the commit.
pub async fn committed(hub: &Handle, edge: &mut Agent) -> (u64, proto::MigrationReady) {
    let m = hub.hub.migrate("job-1", "cloud", None, None).await.unwrap();
    assert!(matches!(edge.order().await, Body::Migrate(_)));
    let ready = proto::MigrationReady { migration: m.id, job: "job-1".into(), ranks: vec![0, 1] };
    edge.say(From::MigrationReady(ready.clone())).await;
    assert!(matches!(edge.order().await, Body::Verdict(v) if v.commit));
    (m.id, ready)
}
