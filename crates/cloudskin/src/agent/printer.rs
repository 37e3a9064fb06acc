//! What a rank prints and how it ends, on the way to the hub.
//!
//! The hub may be away, and a cut session doesn't tell what it carried. So the last bytes are kept and sent again from where the hub says it is; it
//! drops what it has. The rank's last event always follows its output.

use super::session::Way;
use orchestrator::proto::{FromAgent, Output, RankEvent, from_agent::Body};
use std::{collections::VecDeque, sync::Mutex};
use tokio::sync::mpsc::Sender;

/// Bytes of output kept for a hub that is away. What is older is lost, which the hub says in the log.
const KEPT_MAX: usize = 4 << 20;
/// Bytes of output in one message. A guest may write any number at once; a message over 4 MiB would end the session (the limit of gRPC).
const PIECE_MAX: usize = 256 << 10;

pub struct Printer {
    job: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where it goes at once; `None` until the hub has said where it is.
    to: Option<Sender<FromAgent>>,
    /// The oldest session that may still be the present one.
    since: u64,
    /// (bytes before, on standard error, at most [`PIECE_MAX`] bytes), oldest first.
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

    /// Whether all that was printed is said to the hub, or on the way there.
    pub fn attached(&self) -> bool {
        super::lock(&self.state).to.is_some()
    }

    /// The session is over. For plain threads.
    pub fn detach(&self, session: u64) {
        let mut state = super::lock(&self.state);
        (state.to, state.since) = (None, session + 1);
    }

    /// The hub is there and has everything before byte `from`. Ignored when the session is over by now. For plain threads.
    pub fn attach(&self, rank: u32, Way { session, to }: &Way, from: u64) {
        let mut state = super::lock(&self.state);
        if *session < state.since {
            return;
        }
        state.since = *session;
        for (offset, stderr, data) in state.kept.iter().filter(|(offset, _, data)| offset + data.len() as u64 > from) {
            if to.blocking_send(self.output(rank, *stderr, *offset, data.clone())).is_err() {
                return;
            }
        }
        if let Some(event) = state.event.clone() {
            let _ = to.blocking_send(FromAgent { body: Some(Body::Rank(event)) });
        }
        state.to = Some(to.clone());
    }
}

impl cells::wasi::Output for Printer {
    fn write(&self, rank: mpi::Rank, stderr: bool, offset: u64, data: &[u8]) {
        let mut state = super::lock(&self.state);
        for (i, piece) in data.chunks(PIECE_MAX).enumerate() {
            let offset = offset + (i * PIECE_MAX) as u64;
            state.kept.push_back((offset, stderr, piece.to_vec()));
            state.bytes += piece.len();
            while state.bytes > KEPT_MAX
                && let Some((_, _, old)) = state.kept.pop_front()
            {
                state.bytes -= old.len();
            }
            if let Some(to) = &state.to {
                // The rank waits for a slow hub; when the session ends, this ends.
                let _ = to.blocking_send(self.output(rank.0, stderr, offset, piece.to_vec()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cells::wasi::Output as _;
    use tokio::sync::mpsc::{Receiver, channel};

    fn way(session: u64) -> (Way, Receiver<FromAgent>) {
        let (to, sent) = channel(256);
        (Way { session, to }, sent)
    }

    /// (offset, bytes) of each message of output, and whether an event came last.
    fn got(sent: &mut Receiver<FromAgent>) -> (Vec<(u64, usize)>, bool) {
        let (mut outputs, mut event) = (Vec::new(), false);
        while let Ok(message) = sent.try_recv() {
            match message.body {
                Some(Body::Output(o)) => outputs.push((o.offset, o.data.len())),
                body => event = matches!(body, Some(Body::Rank(_))),
            }
        }
        (outputs, event)
    }

    #[test]
    fn a_large_write_is_sent_in_pieces() {
        let printer = Printer::new("job-1");
        let (first, mut sent) = way(0);
        printer.attach(3, &first, 0);
        printer.write(mpi::Rank(3), false, 7, &vec![b'x'; PIECE_MAX + 5]);
        let pieces = vec![(7, PIECE_MAX), (7 + PIECE_MAX as u64, 5)];
        assert_eq!(got(&mut sent), (pieces.clone(), false));
        let (second, mut sent) = way(1);
        printer.attach(3, &second, 8);
        assert_eq!(got(&mut sent).0, pieces, "and so it is again");
    }

    #[test]
    fn what_was_said_while_the_hub_was_away_reaches_the_newest_session_only() {
        let printer = Printer::new("job-1");
        let (old, mut lost) = way(4);
        printer.detach(4);
        printer.write(mpi::Rank(0), false, 0, b"late");
        printer.event(RankEvent::default());
        printer.attach(0, &old, 0);
        assert!(!printer.attached());
        let (new, mut sent) = way(5);
        printer.attach(0, &new, 0);
        assert_eq!(got(&mut sent), (vec![(0, 4)], true));
        printer.attach(0, &old, 0);
        printer.write(mpi::Rank(0), false, 4, b"r");
        assert_eq!((got(&mut sent).0, got(&mut lost).0), (vec![(4, 1)], vec![]));
    }
}
