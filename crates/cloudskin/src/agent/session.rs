//! The session with the hub: one stream each way, begun again whenever it is cut.

use super::{Agent, jobs::Job, lock, printer::Printer};
use orchestrator::proto::{self, FromAgent, Hello, ToAgent, from_agent, to_agent::Body};
use std::{collections::HashMap, sync::{Arc, Mutex}, time::Duration};
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;

/// Messages on the way to the hub before who has more must wait.
const OUTBOX: usize = 256;
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// For the hub's answer to `Hello`.
const WELCOME_MAX: Duration = Duration::from_secs(10);

/// The way to the hub while there is a session.
#[derive(Default)]
pub struct Outbox {
    to: Mutex<Option<Sender<FromAgent>>>,
}

impl Outbox {
    /// Sends, if there is a session. Waits while the hub takes its time; for plain threads.
    pub fn send(&self, body: from_agent::Body) {
        let to = lock(&self.to).clone();
        if let Some(to) = to {
            let _ = to.blocking_send(FromAgent { body: Some(body) });
        }
    }

    /// A new rank's output and events go to the present session, of which the hub has nothing yet.
    pub fn attach(&self, printer: &Arc<Printer>) {
        if let Some(to) = lock(&self.to).clone() {
            printer.begin(to);
        }
    }
}

/// Keeps up a session for as long as the agent lives. Comes back only when the hub does not want this agent.
pub async fn keep(agent: Arc<Agent>) -> anyhow::Error {
    let mut pause = RETRY_MIN;
    let obeyer = obeyer(agent.clone());
    loop {
        let began = tokio::time::Instant::now();
        let why = match once(&agent, &obeyer).await {
            Ok(()) => "the hub closed it".to_string(),
            Err(status) if matches!(status.code(), tonic::Code::PermissionDenied | tonic::Code::Unauthenticated) => {
                let message = format!("the hub refuses this agent: {}", status.message());
                return crate::failure::fail(base::Kind::Unauthenticated, message);
            }
            Err(status) => status.message().to_string(),
        };
        lock(&agent.outbox.to).take();
        let jobs: Vec<Arc<Job>> = lock(&agent.jobs).values().cloned().collect();
        for held in jobs.iter().flat_map(|j| j.all()) {
            held.printer.detach();
        }
        agent.resume_all();
        pause = if began.elapsed() > RETRY_MAX { RETRY_MIN } else { (pause * 2).min(RETRY_MAX) };
        tracing::warn!(why, "no session with the hub; ranks go on, and it is tried again");
        tokio::time::sleep(pause).await;
    }
}

async fn once(agent: &Arc<Agent>, obeyer: &std::sync::mpsc::Sender<Body>) -> Result<(), tonic::Status> {
    let (to, outgoing) = channel(OUTBOX);
    let hello = Hello {
        data_address: agent.address.clone(),
        cores: agent.cores.len() as f64,
        memory_bytes: agent.memory_bytes,
        slots: agent.slots,
        running: agent.running(),
        affinity: agent.affinity.clone(),
        instance: agent.instance.clone(),
        // The verdict is asked for when all that the ranks printed is said: what they print elsewhere comes after it.
        ready: Vec::new(),
    };
    let _ = to.send(FromAgent { body: Some(from_agent::Body::Hello(hello)) }).await;
    let mut orders = agent.hub.clone().session(ReceiverStream::new(outgoing)).await?.into_inner();
    let first = tokio::time::timeout(WELCOME_MAX, orders.message()).await;
    let welcome = match first.map_err(|_| tonic::Status::deadline_exceeded("it does not answer"))?? {
        Some(ToAgent { body: Some(Body::Welcome(welcome)) }) => welcome,
        _ => return Err(tonic::Status::internal("its first message is not a welcome")),
    };
    tracing::info!(hub = welcome.hub_instance, "session with the hub");
    *lock(&agent.outbox.to) = Some(to.clone());
    let replay = (agent.clone(), to.clone(), welcome.outputs);
    tokio::task::spawn_blocking(move || say_again(&replay.0, &replay.1, &replay.2));
    let beat = Duration::from_millis(u64::from(welcome.heartbeat_ms).clamp(10, 10_000));
    let report = tokio::spawn(report(agent.clone(), to, beat));
    let outcome = loop {
        match orders.message().await {
            Ok(Some(ToAgent { body: Some(order) })) => drop(obeyer.send(order)),
            Ok(Some(ToAgent { body: None })) => {}
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        }
    };
    report.abort();
    outcome
}

/// What ranks printed and how they stand, as far as the hub may not know it.
fn say_again(agent: &Agent, to: &Sender<FromAgent>, outputs: &[proto::OutputAt]) {
    let known: HashMap<(&str, u32), u64> = outputs.iter().map(|o| ((o.job.as_str(), o.rank), o.offset)).collect();
    let jobs: Vec<Arc<Job>> = lock(&agent.jobs).values().cloned().collect();
    for job in jobs {
        for held in job.all() {
            match known.get(&(job.spec.job.as_str(), held.rank)) {
                Some(from) => held.printer.attach(held.rank, to.clone(), *from),
                None => held.printer.begin(to.clone()),
            }
        }
    }
    for ready in agent.ready() {
        let _ = to.blocking_send(FromAgent { body: Some(from_agent::Body::MigrationReady(ready)) });
    }
}

async fn report(agent: Arc<Agent>, to: Sender<FromAgent>, beat: Duration) {
    let mut ticks = tokio::time::interval(beat);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let body = from_agent::Body::Telemetry(agent.telemetry());
        if to.send(FromAgent { body: Some(body) }).await.is_err() {
            return;
        }
    }
}

/// Does what the hub says, in its order, on a plain thread. What takes time has a thread of its own.
fn obey(agent: &Arc<Agent>, order: Body) {
    match order {
        Body::Welcome(_) => {}
        Body::Start(order) => agent.start(order),
        Body::Migrate(order) => agent.depart(order),
        Body::Verdict(verdict) => agent.verdict(verdict),
        Body::Checkpoint(order) => agent.checkpoint(order),
        Body::Cancel(order) => agent.cancel(&order),
        Body::Forget(order) => agent.forget(&order.job),
        Body::Routes(order) => agent.routes(&order),
    }
}

/// The thread that does what the hub says. It ends with the agent.
fn obeyer(agent: Arc<Agent>) -> std::sync::mpsc::Sender<Body> {
    let (orders, list) = std::sync::mpsc::channel();
    std::thread::spawn(move || list.into_iter().for_each(|order| obey(&agent, order)));
    orders
}
