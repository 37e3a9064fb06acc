//! Clients that write without a pause, over whatever happens to a stream server, and keep account of what they were told: events of one writer, transactions over
//! scales, and a table's entries, each update on the condition of the one before. They speak both ports' protocols themselves, so nothing is sent again behind
//! their backs.
//!
//! Here the server is killed; in `streams`' own tests (`network.rs`) disk, network and long-term storage fail under it.

use ::streams::{
    Client,
    catalog::TxnId,
    client::{From, Reader},
    proto::{CreateTxnRequest, ScalingPolicy, StreamInfo, TxnRequest, controller_service_client::ControllerServiceClient, txn_state::State as TxnState},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tonic::transport::Channel;

const SCOPE: &str = "hammered";
/// A server that is killed is back long before.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(3);

/// The clients at work, until [`Hammer::stop`].
pub struct Hammer {
    ports: [String; 2],
    stop: Arc<AtomicBool>,
    /// What was acknowledged so far, of whatever kind.
    told: Arc<AtomicU64>,
    events: JoinHandle<u64>,
    transactions: JoinHandle<Transactions>,
    entries: JoinHandle<BTreeMap<u8, u64>>,
}

/// What the clients were told, all in all.
pub struct Account {
    ports: [String; 2],
    events: u64,
    transactions: Transactions,
    entries: BTreeMap<u8, u64>,
}

/// How many events each transaction had, by its number, and what became of it.
#[derive(Default)]
struct Transactions {
    committed: BTreeMap<u64, u64>,
    aborted: BTreeSet<u64>,
}

/// Since when something is tried; fails when that is too long ago.
struct Since(Instant, &'static str);

impl Since {
    fn pause(&self, why: &dyn std::fmt::Display) {
        assert!(self.0.elapsed() < PATIENCE, "{}: not done after {PATIENCE:?}: {why}", self.1);
        std::thread::sleep(PAUSE);
    }
}

fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u16).to_be_bytes()[..], s.as_bytes()].concat()
}

fn bytes(b: &[u8]) -> Vec<u8> {
    [&(b.len() as i32).to_be_bytes()[..], b].concat()
}

fn event(data: &[u8]) -> Vec<u8> {
    [&0i32.to_be_bytes()[..], &bytes(data)].concat()
}

/// A connection to the segment store's port.
struct Wire(TcpStream);

impl Wire {
    fn open(address: &str) -> io::Result<Wire> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut wire = Wire(stream);
        wire.ask(-127, &[0, 0, 0, 17, 0, 0, 0, 5])?;
        Ok(wire)
    }

    /// The reply's type and fields.
    fn ask(&mut self, kind: i32, payload: &[u8]) -> io::Result<(i32, Vec<u8>)> {
        self.0.write_all(&[&kind.to_be_bytes()[..], &bytes(payload)].concat())?;
        let mut head = [0; 8];
        self.0.read_exact(&mut head)?;
        let mut got = vec![0; u32::from_be_bytes(head[4..].try_into().unwrap()) as usize];
        self.0.read_exact(&mut got)?;
        Ok((i32::from_be_bytes(head[..4].try_into().unwrap()), got))
    }

    /// The last event number that the segment has of a writer.
    fn set_up(&mut self, segment: &str, writer: u128) -> io::Result<i64> {
        let (kind, got) = self.ask(1, &[&1i64.to_be_bytes()[..], &writer.to_be_bytes(), &text(segment), &text("")].concat())?;
        assert_eq!(kind, 2, "an append to {segment} can't be set up");
        Ok(i64::from_be_bytes(got[got.len() - 8..].try_into().unwrap()))
    }

    /// A block of events, of which the last has this number.
    fn append(&mut self, writer: u128, number: i64, events: &[Vec<u8>]) -> io::Result<()> {
        let all = events.concat();
        let block = [&writer.to_be_bytes()[..], &0i32.to_be_bytes(), &bytes(&all), &(events.len() as i32).to_be_bytes(), &number.to_be_bytes(), &2i64.to_be_bytes()].concat();
        let (kind, _) = self.ask(4, &block)?;
        assert_eq!(kind, 7, "an append of event {number} is answered with type {kind}");
        Ok(())
    }
}

/// Appends, over broken connections: a writer sends again what the segment does not have.
fn append_once(wire: &mut Option<Wire>, address: &str, segment: &str, writer: u128, number: i64, events: &[Vec<u8>], sure: i64) {
    let since = Since(Instant::now(), "an append");
    loop {
        let done = (|| {
            let fresh = wire.is_none();
            let open = match wire {
                Some(wire) => wire,
                None => wire.insert(Wire::open(address)?),
            };
            if fresh {
                let last = open.set_up(segment, writer)?;
                assert!(last >= sure || sure == 0, "{segment} knows event {last} of a writer, which was told that {sure} is durable");
                if last >= number {
                    return Ok(());
                }
            }
            open.append(writer, number, events)
        })();
        match done {
            Ok(()) => return,
            Err::<(), io::Error>(e) => {
                *wire = None;
                since.pause(&e);
            }
        }
    }
}

impl Hammer {
    /// Begins, at the addresses of a server's controller and segment store, where it comes back after each kill.
    /// Events of the first kind have so many bytes at least.
    pub fn start(ports: &[String; 2], seed: u64, event_bytes: usize) -> Hammer {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::connect(&ports[0]).await.unwrap();
            client.create_scope(SCOPE).await.unwrap();
            client.create_stream(SCOPE, "events", ScalingPolicy { min_num_segments: 1, ..Default::default() }).await.unwrap();
            client.create_stream(SCOPE, "transactions", ScalingPolicy { min_num_segments: 2, ..Default::default() }).await.unwrap();
        });
        let (kind, _) = Wire::open(&ports[1]).unwrap().ask(70, &[&1i64.to_be_bytes()[..], &text(TABLE), &text("")].concat()).unwrap();
        assert_eq!(kind, 21, "a new table");
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (p, s, t) = (ports.clone(), stop.clone(), told.clone());
        let events = std::thread::spawn(move || write_events(&p[1], event_bytes, &s, &t));
        let (p, s, t) = (ports.clone(), stop.clone(), told.clone());
        let transactions = std::thread::spawn(move || runtime.block_on(make_transactions(&p, &s, &t, StdRng::seed_from_u64(seed))));
        let (p, s, t) = (ports.clone(), stop.clone(), told.clone());
        let entries = std::thread::spawn(move || update_entries(&p[1], &s, &t));
        Hammer { ports: ports.clone(), stop, told, events, transactions, entries }
    }

    /// How much was acknowledged so far. Fails as soon as one of the clients has seen what must not be.
    pub fn told(&self) -> u64 {
        assert!(!self.events.is_finished() && !self.transactions.is_finished() && !self.entries.is_finished(), "a client has ended; its thread says why");
        self.told.load(Relaxed)
    }

    /// Ends the clients, each when it has been told about what it has under way.
    pub fn stop(self) -> Account {
        self.stop.store(true, Relaxed);
        Account { ports: self.ports, events: self.events.join().unwrap(), transactions: self.transactions.join().unwrap(), entries: self.entries.join().unwrap() }
    }
}

impl Account {
    /// Holds what is there against what the clients were told.
    pub fn audit(self) {
        let Account { ports, events, transactions, entries } = self;
        println!("{events} events, {} transactions committed and {} aborted, {} updates of a table", transactions.committed.len(), transactions.aborted.len(), entries.values().sum::<u64>());
        assert!(events > 0 && !transactions.committed.is_empty() && !entries.is_empty());
        let mut wire = Wire::open(&ports[1]).unwrap();
        for (key, value) in &entries {
            assert_eq!(read_entry(&mut wire, *key).unwrap().map(|(value, _)| value), Some(*value), "entry {key}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let each = |stream: &'static str, see: &mut dyn FnMut(String)| {
            runtime.block_on(async {
                let client = Client::connect(&ports[0]).await.unwrap();
                client.seal(SCOPE, stream).await.unwrap();
                let mut reader = Reader::open(&client, SCOPE, stream, From::Head).await.unwrap();
                while let Some(event) = reader.next().await.unwrap() {
                    see(String::from_utf8(event.data.to_vec()).unwrap());
                }
            })
        };
        let mut seen = 0;
        each("events", &mut |event| {
            seen += 1;
            assert!(event == numbered(seen, event.len()), "event {seen} of {events} is another one: {:.20}", event);
        });
        assert_eq!(seen, events, "events are missing, or there are more than were told of");
        let mut found: BTreeMap<u64, BTreeMap<String, Vec<u64>>> = BTreeMap::new();
        each("transactions", &mut |event| {
            let [txn, part, n] = event.split(' ').collect::<Vec<_>>().try_into().unwrap();
            found.entry(txn.parse().unwrap()).or_default().entry(part.to_string()).or_default().push(n.parse().unwrap());
        });
        for (txn, count) in &transactions.committed {
            let parts = found.remove(txn).unwrap_or_else(|| panic!("transaction {txn} was committed and is gone"));
            for (part, numbers) in &parts {
                assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "part {part} of transaction {txn} has events {numbers:?}");
            }
            assert_eq!(parts.values().map(Vec::len).sum::<usize>() as u64, *count, "events of transaction {txn}");
        }
        assert!(found.is_empty(), "events of transactions that were not committed, {:?} of them aborted", found.keys().filter(|t| transactions.aborted.contains(t)).collect::<Vec<_>>());
    }
}

/// The event of a number, of so many bytes at least.
fn numbered(n: u64, bytes: usize) -> String {
    format!("{n} {}", ['a', 'b', 'c'][n as usize % 3].to_string().repeat(bytes.saturating_sub(n.to_string().len() + 1)))
}

fn write_events(address: &str, event_bytes: usize, stop: &AtomicBool, told: &AtomicU64) -> u64 {
    let (mut wire, mut n) = (None, 0u64);
    while !stop.load(Relaxed) {
        n += 1;
        append_once(&mut wire, address, &format!("{SCOPE}/events/0.#epoch.0"), 7, n as i64, &[event(numbered(n, event_bytes).as_bytes())], n as i64 - 1);
        told.fetch_add(1, Relaxed);
    }
    n
}

const TABLE: &str = "hammered/table";
/// Keys of the table, in turn.
const KEYS: u8 = 5;

/// A key with the version that is expected of it.
fn key(key: u8, version: i64) -> Vec<u8> {
    [&13i32.to_be_bytes()[..], &bytes(&[key]), &version.to_be_bytes()].concat()
}

/// Value and version of an entry; none if it is not there.
fn read_entry(wire: &mut Wire, of: u8) -> io::Result<Option<(u64, i64)>> {
    let ask = [&3i64.to_be_bytes()[..], &text(TABLE), &text(""), &1i32.to_be_bytes(), &key(of, i64::MIN)].concat();
    let (kind, got) = wire.ask(78, &ask)?;
    assert_eq!(kind, 79, "an entry can't be read");
    // Behind the request's number, the table's name and the count: the key with its length in front twice, the version, the value in the same way.
    let at = 8 + 2 + TABLE.len() + 4 + 8 + 1;
    let version = i64::from_be_bytes(got[at..at + 8].try_into().unwrap());
    Ok((version >= 0).then(|| (u64::from_be_bytes(got[at + 16..at + 24].try_into().unwrap()), version)))
}

fn update_entries(address: &str, stop: &AtomicBool, told: &AtomicU64) -> BTreeMap<u8, u64> {
    // Of each key what was told: its value, which counts the updates, and its version.
    let (mut wire, mut sure): (Option<Wire>, BTreeMap<u8, (u64, i64)>) = (None, BTreeMap::new());
    for n in 0.. {
        if stop.load(Relaxed) {
            break;
        }
        let of = (n % u64::from(KEYS)) as u8;
        let (value, before) = sure.get(&of).map_or((1, -1), |(value, version)| (value + 1, *version));
        let since = Since(Instant::now(), "an update of a table");
        let version = loop {
            let done = (|| {
                if wire.is_none() {
                    let fresh = wire.insert(Wire::open(address)?);
                    // Either the one under way has been done, or the last one that was told is there.
                    match read_entry(fresh, of)? {
                        Some((there, version)) if there == value => return Ok(version),
                        there => assert_eq!(there.map_or((0, -1), |t| t), sure.get(&of).copied().unwrap_or((0, -1)), "entry {of}"),
                    }
                }
                let entry = [&key(of, before)[..], &12i32.to_be_bytes(), &bytes(&value.to_be_bytes())].concat();
                let update = [&4i64.to_be_bytes()[..], &text(TABLE), &text(""), &1i32.to_be_bytes(), &entry].concat();
                let (kind, got) = wire.as_mut().expect("it is open").ask(74, &update)?;
                if kind == 61 && got.windows(11).any(|w| w == b"has stopped") {
                    return Err(io::Error::other("the server's disk has failed"));
                }
                assert_eq!(kind, 75, "an update on the condition of the one before is answered with type {kind}");
                Ok(i64::from_be_bytes(got[12..20].try_into().unwrap()))
            })();
            match done {
                Ok(version) => break version,
                Err::<i64, io::Error>(e) => {
                    wire = None;
                    since.pause(&e);
                }
            }
        };
        assert!(version > before, "entry {of} has version {version} after {before}");
        sure.insert(of, (value, version));
        told.fetch_add(1, Relaxed);
    }
    sure.into_iter().map(|(key, (value, _))| (key, value)).collect()
}

async fn make_transactions(ports: &[String; 2], stop: &AtomicBool, told: &AtomicU64, mut rng: StdRng) -> Transactions {
    let channel = Channel::from_shared(format!("http://{}", ports[0])).unwrap().connect_lazy();
    let mut controller = ControllerServiceClient::new(channel);
    let info = || Some(StreamInfo { scope: SCOPE.into(), stream: "transactions".into(), access_operation: 0 });
    let (mut made, mut number) = (Transactions::default(), 0u64);
    while !stop.load(Relaxed) {
        let since = Since(Instant::now(), "a transaction");
        // One whose number nobody has heard is aborted when its lease ends.
        let begun = match controller.create_transaction(CreateTxnRequest { stream_info: info(), lease: 100_000, scale_grace_period: 0 }).await {
            Ok(begun) => begun.into_inner(),
            Err(e) => {
                since.pause(&e);
                continue;
            }
        };
        number += 1;
        let (sent, events) = (begun.txn_id.unwrap(), rng.random_range(1..6));
        let id = TxnId { high: sent.high_bits, low: sent.low_bits };
        for range in &begun.active_segments {
            let segment = ::streams::catalog::SegmentNo(range.segment_id.as_ref().unwrap().segment_id);
            let name = id.segment(&segment.name(SCOPE, "transactions"));
            let all: Vec<Vec<u8>> = (0..events).map(|n| event(format!("{number} {} {n}", segment.0).as_bytes())).collect();
            append_once(&mut None, &ports[1], &name, 9, events, &all, 0);
        }
        if number.is_multiple_of(10) {
            // Then it is committed into segments of its own.
            if let Ok(client) = Client::connect(&ports[0]).await {
                let _ = client.scale(SCOPE, "transactions", rng.random_range(1..4)).await;
            }
        }
        let commits = rng.random_bool(0.8);
        let ask = || TxnRequest { stream_info: info(), txn_id: Some(sent), ..TxnRequest::default() };
        // Whatever was lost on the way, its state says what became of it.
        let state = loop {
            let answered = match commits {
                true => controller.commit_transaction(ask()).await,
                false => controller.abort_transaction(ask()).await,
            };
            let state = match answered {
                Ok(_) => controller.check_transaction_state(ask()).await,
                Err(e) => Err(e),
            };
            match state.map(|s| s.into_inner().state()) {
                Ok(TxnState::Open) => since.pause(&"it is open"),
                Ok(state) => break state,
                Err(e) => since.pause(&e),
            }
        };
        assert_eq!(state, if commits { TxnState::Committed } else { TxnState::Aborted }, "transaction {number}");
        match commits {
            true => drop(made.committed.insert(number, events as u64 * begun.active_segments.len() as u64)),
            false => drop(made.aborted.insert(number)),
        }
        told.fetch_add(1, Relaxed);
    }
    made
}
