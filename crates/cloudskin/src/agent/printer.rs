//! What a rank prints and how it ends, on the way to the hub.
//!
//! The hub may be away, and a cut session doesn't tell what it carried. So the last bytes are kept and sent again from where the hub says it is; it
//! drops what it has. The rank's last event always follows its output.
//!
//! A program may print byte by byte, and each message costs the hub the same, however small. So the first write goes at once, and what follows
//! within [`GATHER`] goes together: when a piece is full, before an event, or when the thread of [`Late`] comes by.

use super::{background, session::Way};
use orchestrator::proto::{FromAgent, Output, RankEvent, from_agent::Body};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, Weak, mpsc},
    time::{Duration, Instant},
};
use tokio::sync::mpsc::Sender;

/// Bytes of output kept for a hub that is away. What is older is lost, which the hub says in the log.
const KEPT_MAX: usize = 4 << 20;
/// Bytes of output in one message. A guest may write any number at once; a message over 4 MiB would end the session (the limit of gRPC).
const PIECE_MAX: usize = 256 << 10;
/// Pieces that wait for more: standard output and standard error in turn make many.
const PIECES_MAX: usize = 64;
/// How long output waits for more, so that it goes together.
const GATHER: Duration = Duration::from_millis(10);

/// Reminds printers of what they hold back. Cheap to clone; its thread ends with the last clone.
#[derive(Clone)]
pub struct Late(mpsc::Sender<Weak<Printer>>);

impl Late {
    pub fn start() -> anyhow::Result<Late> {
        let (remind, list) = mpsc::channel::<Weak<Printer>>();
        background("output", move || {
            while let Ok(first) = list.recv() {
                std::thread::sleep(GATHER);
                for printer in std::iter::once(first).chain(list.try_iter()).filter_map(|p| p.upgrade()) {
                    printer.flushed();
                }
            }
        })?;
        Ok(Late(remind))
    }
}

pub struct Printer {
    job: String,
    rank: u32,
    state: Mutex<State>,
    late: Late,
    myself: Weak<Printer>,
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
    /// How many of the last in `kept` wait for more; none while `to` is not known, because then all of them are sent again.
    unsent: usize,
    /// When something was last sent.
    sent: Option<Instant>,
    event: Option<RankEvent>,
}

impl Printer {
    pub fn new(job: &str, rank: u32, late: &Late) -> Arc<Printer> {
        Arc::new_cyclic(|myself| Printer { job: job.into(), rank, state: Mutex::default(), late: late.clone(), myself: myself.clone() })
    }

    fn output(&self, stderr: bool, offset: u64, data: Vec<u8>) -> FromAgent {
        FromAgent { body: Some(Body::Output(Output { job: self.job.clone(), rank: self.rank, stderr, data, offset })) }
    }

    /// Sends what waits for more. The rank waits for a slow hub; when the session ends, this ends.
    fn flush(&self, state: &mut State) {
        let Some(to) = &state.to else { return };
        for (offset, stderr, data) in state.kept.iter().skip(state.kept.len() - state.unsent) {
            let _ = to.blocking_send(self.output(*stderr, *offset, data.clone()));
        }
        state.unsent = 0;
        state.sent = Some(Instant::now());
    }

    /// The rank's newest event. For plain threads: it waits while the hub takes its time.
    pub fn event(&self, event: RankEvent) {
        let mut state = super::lock(&self.state);
        state.event = Some(event.clone());
        self.flush(&mut state);
        if let Some(to) = &state.to {
            let _ = to.blocking_send(FromAgent { body: Some(Body::Rank(event)) });
        }
    }

    /// Sends what was held back. Whether all that was printed is said to the hub now, or on the way there. For plain threads.
    pub fn flushed(&self) -> bool {
        let mut state = super::lock(&self.state);
        self.flush(&mut state);
        state.to.is_some()
    }

    /// The session is over. For plain threads.
    pub fn detach(&self, session: u64) {
        let mut state = super::lock(&self.state);
        (state.to, state.unsent, state.since) = (None, 0, session + 1);
    }

    /// The hub is there and has everything before byte `from`. Ignored when the session is over by now. For plain threads.
    pub fn attach(&self, Way { session, to }: &Way, from: u64) {
        let mut state = super::lock(&self.state);
        if *session < state.since {
            return;
        }
        (state.since, state.unsent) = (*session, 0);
        for (offset, stderr, data) in state.kept.iter().filter(|(offset, _, data)| offset + data.len() as u64 > from) {
            if to.blocking_send(self.output(*stderr, *offset, data.clone())).is_err() {
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
    fn write(&self, _: mpi::Rank, stderr: bool, offset: u64, data: &[u8]) {
        let mut locked = super::lock(&self.state);
        let state = &mut *locked;
        let remind = state.unsent == 0;
        for (i, piece) in data.chunks(PIECE_MAX).enumerate() {
            let offset = offset + (i * PIECE_MAX) as u64;
            state.bytes += piece.len();
            match state.kept.back_mut() {
                Some((at, to, last)) if state.unsent > 0 && *to == stderr && *at + last.len() as u64 == offset && last.len() + piece.len() <= PIECE_MAX => {
                    last.extend_from_slice(piece);
                }
                _ => {
                    state.kept.push_back((offset, stderr, piece.to_vec()));
                    state.unsent += usize::from(state.to.is_some());
                }
            }
            while state.bytes > KEPT_MAX
                && let Some((_, _, old)) = state.kept.pop_front()
            {
                state.bytes -= old.len();
                state.unsent = state.unsent.min(state.kept.len());
            }
            let full = state.unsent >= PIECES_MAX || state.kept.back().is_some_and(|(_, _, last)| last.len() >= PIECE_MAX / 2);
            if full || state.sent.is_none_or(|at| at.elapsed() >= GATHER) {
                self.flush(&mut state);
            }
        }
        if remind && state.unsent > 0 {
            // Nobody is left to be reminded by when the agent ends.
            let _ = self.late.0.send(self.myself.clone());
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
        let printer = Printer::new("job-1", 3, &Late::start().unwrap());
        let (first, mut sent) = way(0);
        printer.attach(&first, 0);
        printer.write(mpi::Rank(3), false, 7, &vec![b'x'; PIECE_MAX + 5]);
        let pieces = vec![(7, PIECE_MAX), (7 + PIECE_MAX as u64, 5)];
        assert_eq!(got(&mut sent), (pieces.clone(), false));
        let (second, mut sent) = way(1);
        printer.attach(&second, 8);
        assert_eq!(got(&mut sent).0, pieces, "and so it is again");
    }

    #[test]
    fn what_was_said_while_the_hub_was_away_reaches_the_newest_session_only() {
        let printer = Printer::new("job-1", 3, &Late::start().unwrap());
        let (old, mut lost) = way(4);
        printer.detach(4);
        printer.write(mpi::Rank(0), false, 0, b"late");
        printer.event(RankEvent::default());
        printer.attach(&old, 0);
        assert!(!printer.flushed());
        let (new, mut sent) = way(5);
        printer.attach(&new, 0);
        assert_eq!(got(&mut sent), (vec![(0, 4)], true));
        printer.attach(&old, 0);
        printer.write(mpi::Rank(0), false, 4, b"r");
        printer.flushed();
        assert_eq!((got(&mut sent).0, got(&mut lost).0), (vec![(4, 1)], vec![]));
    }

    #[test]
    fn many_small_writes_go_together_and_none_waits_for_ever() {
        let printer = Printer::new("job-1", 0, &Late::start().unwrap());
        let (way, mut sent) = way(0);
        printer.attach(&way, 0);
        for i in 0..20_000 {
            // Now and then on the other stream, whose order with this one must stay.
            printer.write(mpi::Rank(0), i % 5_000 == 4_999, i, b"x");
        }
        let (mut at, mut messages) = (0, 0);
        let end = Instant::now() + Duration::from_secs(10);
        while at < 20_000 {
            assert!(Instant::now() < end, "{at} bytes came, the rest is held back");
            for (offset, bytes) in got(&mut sent).0 {
                assert_eq!(offset, at, "in order, once");
                (at, messages) = (at + bytes as u64, messages + 1);
            }
            std::thread::yield_now();
        }
        assert!(messages < 2_000, "{messages} messages for 20000 bytes");
    }
}
