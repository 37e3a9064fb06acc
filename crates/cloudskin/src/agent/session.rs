//! The session with the hub: one stream each way, begun again whenever it is cut.

use super::{Agent, background, jobs::Job, lock, printer::Printer};
use orchestrator::proto::{self, FromAgent, Hello, ToAgent, from_agent, to_agent::Body};
use std::{collections::HashMap, sync::{Arc, Mutex}, time::Duration};
use tokio::sync::{mpsc::{Sender, channel}, oneshot};
use tokio_stream::wrappers::ReceiverStream;

/// Messages on the way to the hub before who has more must wait.
const OUTBOX: usize = 256;
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// For the hub to take a session, and again for its answer to `Hello`.
const WELCOME_MAX: Duration = Duration::from_secs(10);

/// The way to the hub in one session.
#[derive(Clone)]
pub struct Way {
    /// Sessions are counted, so that nobody mistakes an older one for the present one.
    pub session: u64,
    pub to: Sender<FromAgent>,
}

/// What the obeyer does, one after the other.
enum Order {
    Hub(Body),
    /// The session was cut: no order of it comes after this.
    Cut,
}

/// The way to the hub while there is a session.
#[derive(Default)]
pub struct Outbox {
    way: Mutex<Option<Way>>,
}

impl Outbox {
    /// Sends, if there is a session. Waits while the hub takes its time; for plain threads.
    pub fn send(&self, body: from_agent::Body) {
        let way = lock(&self.way).clone();
        if let Some(Way { to, .. }) = way {
            let _ = to.blocking_send(FromAgent { body: Some(body) });
        }
    }

    /// A new rank's output and events go to the present session; the hub has nothing of them yet. For plain threads.
    pub fn attach(&self, printer: &Printer) {
        let way = lock(&self.way).clone();
        if let Some(way) = way {
            printer.attach(&way, 0);
        }
    }
}

/// Keeps up a session for as long as the agent lives. Comes back only when the hub does not want this agent, or nobody can obey it any more.
pub async fn keep(agent: Arc<Agent>) -> anyhow::Error {
    let mut pause = RETRY_MIN;
    let (orders, mut deaf) = match obeyer(agent.clone()) {
        Ok(obeyer) => obeyer,
        Err(e) => return e,
    };
    for session in 0.. {
        let began = tokio::time::Instant::now();
        let outcome = tokio::select! {
            outcome = once(&agent, session, &orders) => outcome,
            _ = &mut deaf => break,
        };
        let why = match outcome {
            Ok(()) => "the hub closed it".to_string(),
            Err(status) if matches!(status.code(), tonic::Code::PermissionDenied | tonic::Code::Unauthenticated) => {
                let message = format!("the hub refuses this agent: {}", status.message());
                return crate::failure::fail(base::Kind::Unauthenticated, message);
            }
            Err(status) => status.message().to_string(),
        };
        lock(&agent.outbox.way).take();
        let cut = agent.clone();
        // A printer's lock may be held until who sends has noticed that the session is over.
        let detached = tokio::task::spawn_blocking(move || {
            let jobs: Vec<Arc<Job>> = lock(&cut.jobs).values().cloned().collect();
            jobs.iter().flat_map(|j| j.all()).for_each(|held| held.printer.detach(session));
        });
        let _ = detached.await;
        let _ = orders.send(Order::Cut);
        pause = if began.elapsed() > RETRY_MAX { RETRY_MIN } else { (pause * 2).min(RETRY_MAX) };
        tracing::warn!(why, "no session with the hub; ranks go on, and it is tried again");
        tokio::time::sleep(pause).await;
    }
    anyhow::anyhow!("internal error: the thread that does what the hub says has ended; what it said last is above; start the agent again")
}

async fn once(agent: &Arc<Agent>, session: u64, obeyer: &std::sync::mpsc::Sender<Order>) -> Result<(), tonic::Status> {
    let (to, outgoing) = channel(OUTBOX);
    let hello = Hello {
        data_address: agent.address.clone(),
        cores: agent.cores.len() as f64,
        memory_bytes: agent.memory_bytes,
        slots: agent.slots,
        running: agent.running(),
        affinity: agent.affinity.clone(),
        instance: agent.instance.clone(),
        bound_buckets: agent.node.bound_buckets().into_iter().map(String::from).collect(),
    };
    let _ = to.send(FromAgent { body: Some(from_agent::Body::Hello(hello)) }).await;
    let silent = |_| tonic::Status::deadline_exceeded("it does not answer");
    let mut hub = agent.hub.clone();
    let taken = tokio::time::timeout(WELCOME_MAX, hub.session(ReceiverStream::new(outgoing))).await;
    let mut orders = taken.map_err(silent)??.into_inner();
    let first = tokio::time::timeout(WELCOME_MAX, orders.message()).await;
    let welcome = match first.map_err(silent)?? {
        Some(ToAgent { body: Some(Body::Welcome(welcome)) }) => welcome,
        _ => return Err(tonic::Status::internal("its first message is not a welcome")),
    };
    tracing::info!(hub = welcome.hub_instance, "session with the hub");
    let way = Way { session, to: to.clone() };
    *lock(&agent.outbox.way) = Some(way.clone());
    let replay = (agent.clone(), way, welcome.outputs);
    tokio::task::spawn_blocking(move || say_again(&replay.0, &replay.1, &replay.2));
    let beat = Duration::from_millis(u64::from(welcome.heartbeat_ms).clamp(10, 10_000));
    let report = tokio::spawn(report(agent.clone(), to, beat));
    let outcome = loop {
        match orders.message().await {
            Ok(Some(ToAgent { body: Some(order) })) => drop(obeyer.send(Order::Hub(order))),
            Ok(Some(ToAgent { body: None })) => {}
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        }
    };
    report.abort();
    outcome
}

/// What ranks printed and how they stand, as far as the hub may not know it. Then the moves that wait for a verdict ask for it again: what their
/// ranks print elsewhere comes after what they printed here.
fn say_again(agent: &Agent, way: &Way, outputs: &[proto::OutputAt]) {
    let known: HashMap<(&str, u32), u64> = outputs.iter().map(|o| ((o.job.as_str(), o.rank), o.offset)).collect();
    let jobs: Vec<Arc<Job>> = lock(&agent.jobs).values().cloned().collect();
    for job in jobs {
        for held in job.all() {
            // A rank that was not in our `Hello` began after it: the hub may have nothing of it.
            let from = known.get(&(job.spec.job.as_str(), held.rank)).copied().unwrap_or(0);
            held.printer.attach(way, from);
        }
    }
    for ready in agent.ready() {
        let _ = way.to.blocking_send(FromAgent { body: Some(from_agent::Body::MigrationReady(ready)) });
    }
}

async fn report(agent: Arc<Agent>, to: Sender<FromAgent>, beat: Duration) {
    let mut ticks = tokio::time::interval(beat);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = agent.clone();
        let Ok(telemetry) = tokio::task::spawn_blocking(move || asked.telemetry()).await else { continue };
        let body = from_agent::Body::Telemetry(telemetry);
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
        Body::Expect(order) => agent.expect(order),
        Body::Migrate(order) => agent.depart(order),
        Body::Verdict(verdict) => agent.verdict(verdict),
        Body::Checkpoint(order) => agent.checkpoint(order),
        Body::Cancel(order) => agent.cancel(&order),
        Body::Forget(order) => agent.forget(&order.job),
        Body::Routes(order) => agent.routes(&order),
        Body::Standby(told) => {
            let _runtime = agent.runtime.enter();
            agent.standby.learn(told);
        }
    }
}

/// The thread that does what the hub says, for as long as the agent lives: the way to it, and what ends when it ends.
fn obeyer(agent: Arc<Agent>) -> anyhow::Result<(std::sync::mpsc::Sender<Order>, oneshot::Receiver<()>)> {
    let (orders, list) = std::sync::mpsc::channel();
    let (alive, deaf) = oneshot::channel();
    background("orders", move || {
        let _alive = alive; // dropped also by a panic
        for order in list {
            match order {
                Order::Hub(order) => obey(&agent, order),
                Order::Cut => {
                    agent.resume_all();
                    agent.expect_nothing();
                }
            }
        }
    })?;
    Ok((orders, deaf))
}
