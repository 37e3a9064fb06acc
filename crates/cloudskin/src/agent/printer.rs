//! What a rank prints and how it ends, on the way to the hub.
//!
//! The hub may be away, and a cut session doesn't tell what it carried. So the last bytes are kept and sent again from where the hub says it is; it
//! drops what it has. The rank's last event always follows its output.

use orchestrator::proto::{FromAgent, Output, RankEvent, from_agent::Body};
use std::{collections::VecDeque, sync::Mutex};
use tokio::sync::mpsc::Sender;

/// Bytes of output kept for a hub that is away. What is older is lost, which the hub says in the log.
const KEPT_MAX: usize = 4 << 20;

pub struct Printer {
    job: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where it goes at once; `None` until the hub has said where it is.
    to: Option<Sender<FromAgent>>,
    /// (bytes before, on standard error, bytes), oldest first.
    kept: VecDeque<(u64, bool, Vec<u8>)>,
    bytes: usize,
    event: Option<RankEvent>,
}

impl Printer {
    pub fn new(job: &str) -> Printer {
        Printer { job: job.into(), state: Mutex::default() }
    }

    fn output(&self, rank: u32, stderr: bool, offset: u64, data: Vec<u8>) -> FromAgent {
        FromAgent { body: Some(Body::Output(Output { job: self.job.clone(), rank, stderr, data, offset })) }
    }

    /// The rank's newest event. For plain threads: it waits while the hub takes its time.
    pub fn event(&self, event: RankEvent) {
        let mut state = super::lock(&self.state);
        state.event = Some(event.clone());
        if let Some(to) = &state.to {
            let _ = to.blocking_send(FromAgent { body: Some(Body::Rank(event)) });
        }
    }

    /// The hub is there and has nothing of this rank.
    pub fn begin(&self, to: Sender<FromAgent>) {
        super::lock(&self.state).to = Some(to);
    }

    /// Whether all that was printed is said to the hub, or on the way there.
    pub fn attached(&self) -> bool {
        super::lock(&self.state).to.is_some()
    }

    /// The hub is gone.
    pub fn detach(&self) {
        super::lock(&self.state).to = None;
    }

    /// The hub is there and has everything before byte `from`. For plain threads.
    pub fn attach(&self, rank: u32, to: Sender<FromAgent>, from: u64) {
        let mut state = super::lock(&self.state);
        for (offset, stderr, data) in state.kept.iter().filter(|(offset, _, data)| offset + data.len() as u64 > from) {
            if to.blocking_send(self.output(rank, *stderr, *offset, data.clone())).is_err() {
                return;
            }
        }
        if let Some(event) = state.event.clone() {
            let _ = to.blocking_send(FromAgent { body: Some(Body::Rank(event)) });
        }
        state.to = Some(to);
    }
}

impl cells::wasi::Output for Printer {
    fn write(&self, rank: mpi::Rank, stderr: bool, offset: u64, data: &[u8]) {
        let mut state = super::lock(&self.state);
        state.kept.push_back((offset, stderr, data.to_vec()));
        state.bytes += data.len();
        while state.bytes > KEPT_MAX
            && let Some((_, _, old)) = state.kept.pop_front()
        {
            state.bytes -= old.len();
        }
        if let Some(to) = &state.to {
            // The rank waits for a slow hub; when the session ends, this ends.
            let _ = to.blocking_send(self.output(rank.0, stderr, offset, data.to_vec()));
        }
    }
}
