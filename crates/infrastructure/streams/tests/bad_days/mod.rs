//! The whole store on bad days: a disk that loses its power, an S3 that is away or answers half, and connections that break, stall and come in pieces, while
//! streams are scaled up and down. What clients do meanwhile, and what is held against what they were told:
//!
//! * our own write and read a stream that is scaled: each event is there, once, in the order of its key;
//! * those of `hammer.rs`, which speak the protocols themselves, make transactions over scales, commit or abort them (all of it or nothing is there), and update entries of a
//!   table, each on the condition of the update before;
//! * one stream is truncated under its writer, and a reader group's word of what it has read moves along: neither goes back, and behind the cut nothing is missing.
//!
//! A seed draws for each life of the server whether S3 is away, whether the disk is slow, how the stream is scaled, and after how many writes the power fails; for each connection over a
//! line, by its number there, at which of its bytes it pauses, where pieces end, and where it breaks; for each request to S3, by its number, what it suffers.
//! In `network.rs` sockets, threads and clocks are real, and no run is like another. In `simulator.rs` they are simulated, and a seed repeats its run to the step.

#[path = "../../../../../tests/end_to_end/hammer.rs"]
mod hammer;
#[path = "../faulty/s3.rs"]
mod s3;

use crate::faulty::Faulty;
use hammer::Hammer;
use rand::{Rng, SeedableRng, rngs::StdRng};
use s3::FakeS3;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use streams::{
    Client, Store,
    access::Access,
    catalog::SegmentNo,
    client::{From, Reader, Writer},
    controller::Controller,
    log,
    overflow::Overflow,
    proto::{ReaderGroupConfiguration, ScalingPolicy, StreamCut, StreamInfo, SubscriberStreamCut, controller_service_client::ControllerServiceClient, update_subscriber_status},
    retention,
    scale::{Profile, Scaler},
    store::Options,
    tier::{self, Tier},
    watermark, wire,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
};

/// A port that leads to another one over a line that breaks after some thousands of bytes, passes them on in pieces, and stalls.
struct Line {
    address: SocketAddr,
    to: Arc<Mutex<Option<SocketAddr>>>,
    /// Connections that are made now have no faults.
    good: Arc<AtomicBool>,
    broken: Arc<AtomicU64>,
    /// Rung when the server behind it is gone: a process that ends closes its sockets, which tasks of this one would keep.
    gone: Arc<Notify>,
}

impl Line {
    async fn start(seed: u64) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let line = Line { address: listener.local_addr().unwrap(), to: Arc::default(), good: Arc::new(AtomicBool::new(true)), broken: Arc::default(), gone: Arc::default() };
        let (to, good, broken, gone) = (line.to.clone(), line.good.clone(), line.broken.clone(), line.gone.clone());
        tokio::spawn(async move {
            // Of those that have faults and found a server.
            let mut number = 0;
            while let Ok((near, _)) = listener.accept().await {
                let Some(to) = *to.lock().unwrap() else { continue };
                let Ok(far) = TcpStream::connect(to).await else { continue };
                let faults = (!good.load(Relaxed)).then(|| {
                    number += 1;
                    let mut rng = StdRng::seed_from_u64(seed ^ number);
                    [Faults::of(rng.random()), Faults::of(rng.random())]
                });
                let (broken, gone) = (broken.clone(), gone.clone());
                tokio::spawn(async move {
                    let ((mut a, mut b), (mut c, mut d)) = (near.into_split(), far.into_split());
                    let [out, back] = faults.map_or([None, None], |[out, back]| [Some(out), Some(back)]);
                    // When one direction ends, so does the other: the sockets are dropped.
                    tokio::select! {
                        () = carry(&mut a, &mut d, out) => {}
                        () = carry(&mut c, &mut b, back) => {}
                        () = gone.notified() => {}
                    }
                    broken.fetch_add(1, Relaxed);
                });
            }
        });
        line
    }
}

/// What one direction of a connection suffers, by its bytes and not by how they come.
struct Faults {
    rng: StdRng,
    /// Bytes until it breaks, and until its piece ends.
    left: usize,
    piece: usize,
}

impl Faults {
    fn of(seed: u64) -> Faults {
        let mut rng = StdRng::seed_from_u64(seed);
        let left = rng.random_range(2_000..400_000);
        Faults { rng, left, piece: 0 }
    }

    /// How many bytes may be passed on together, after a pause that may be nothing; `None`: here it breaks.
    fn next(&mut self) -> Option<(usize, Duration)> {
        if self.left == 0 {
            return None;
        }
        let mut pause = Duration::ZERO;
        if self.piece == 0 {
            self.piece = self.rng.random_range(1..16 << 10);
            if self.rng.random_bool(0.02) {
                pause = Duration::from_millis(self.rng.random_range(1..20));
            }
        }
        Some((self.piece.min(self.left), pause))
    }

    fn passed(&mut self, bytes: usize) {
        (self.left, self.piece) = (self.left - bytes, self.piece - bytes);
    }
}

async fn carry(from: &mut tokio::net::tcp::OwnedReadHalf, to: &mut tokio::net::tcp::OwnedWriteHalf, mut faults: Option<Faults>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let next = faults.as_mut().map_or(Some((buffer.len(), Duration::ZERO)), Faults::next);
        let Some((most, pause)) = next else { return };
        tokio::time::sleep(pause).await;
        let Ok(n @ 1..) = from.read(&mut buffer[..most]).await else { return };
        if let Some(faults) = &mut faults {
            faults.passed(n);
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

/// The stream that is truncated under its writer; each event is its number.
const CUT: &str = "cut";
const CUT_EVENT: u64 = 8 + 8;

/// What was told about a stream that is truncated: how many events are durable; up to which it is truncated, and how far a reader group has come, as the last
/// acknowledgement and the last question say.
#[derive(Default)]
struct Cut {
    durable: u64,
    truncated: [u64; 2],
    read: [u64; 2],
}

/// Writes, truncates, and says for a reader group that it has read, until it is stopped.
async fn cut(line: &Line, seed: u64, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<Cut> {
    let (client, control) = (client(line).await, line.address);
    tokio::spawn(async move {
        let (mut rng, mut cut) = (StdRng::seed_from_u64(seed), Cut::default());
        let mut writer = loop {
            match Writer::open(&client, "s", CUT, None).await {
                Ok(writer) => break writer,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let mut controller = ControllerServiceClient::new(tonic::transport::Channel::from_shared(format!("http://{control}")).unwrap().connect_lazy());
        while !stop.load(Relaxed) {
            let more = rng.random_range(1..50);
            for n in cut.durable..cut.durable + more {
                writer.append("k", &n.to_be_bytes(), n).await.unwrap();
            }
            writer.flush().await.unwrap();
            cut.durable += more;
            let place = |n: u64| (0, (n * CUT_EVENT) as i64);
            cut.read[1] = rng.random_range(cut.read[1]..=cut.durable);
            let stream_cut = Some(StreamCut { stream_info: info(CUT), cut: [place(cut.read[1])].into() });
            let said = SubscriberStreamCut { subscriber: "s/group".into(), stream_cut, ..Default::default() };
            // It may be done though nobody hears of it: then it is as if the next one had come first.
            if let Ok(told) = controller.update_subscriber_stream_cut(said).await {
                assert_eq!(told.into_inner().status(), update_subscriber_status::Status::Success);
                cut.read[0] = cut.read[1];
            }
            cut.truncated[1] = rng.random_range(cut.truncated[1]..=cut.read[0].max(cut.truncated[1]));
            if client.truncate("s", CUT, &[(SegmentNo(0), cut.truncated[1] * CUT_EVENT)].into()).await.is_ok() {
                cut.truncated[0] = cut.truncated[1];
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cut
    })
}

impl Cut {
    /// Holds what is there against what was told.
    async fn audit(&self, line: &Line, life: &Life) {
        let client = client(line).await;
        let head = client.head("s", CUT).await.unwrap()[&SegmentNo(0)];
        let within = |at: u64, told: [u64; 2]| at % CUT_EVENT == 0 && (told[0]..=told[1]).contains(&(at / CUT_EVENT));
        assert!(self.truncated[0] > 0 && within(head, self.truncated), "the stream begins at {head}, {:?} events were truncated", self.truncated);
        let read = life.store.peek(|s| s.catalog.told("s", CUT).and_then(|t| Some(t.subscribers.get("s/group")?.values().copied().sum::<u64>())));
        assert!(self.read[0] > 0 && read.is_some_and(|at| within(at, self.read)), "a reader group is at {read:?}, {:?} events were read", self.read);
        client.seal("s", CUT).await.unwrap();
        let mut reader = Reader::open(&client, "s", CUT, From::Head).await.unwrap();
        for n in head / CUT_EVENT..self.durable {
            let event = reader.next().await.unwrap().unwrap_or_else(|| panic!("of {} events the {n}th is not there", self.durable));
            assert_eq!((event.offset, &event.data[..]), (n * CUT_EVENT, &n.to_be_bytes()[..]));
        }
        assert!(reader.next().await.unwrap().is_none());
        println!("{} events, {:?} of them truncated, {:?} read", self.durable, self.truncated, self.read);
    }
}

fn info(stream: &str) -> Option<StreamInfo> {
    Some(StreamInfo { scope: "s".into(), stream: stream.into(), access_operation: 0 })
}

/// One life of a server over a disk, from its recovery on.
struct Life {
    store: Store,
    tier: Arc<Tier>,
    stop: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Life {
    /// All that a server has, `overflow` being the folder that takes what S3 doesn't.
    async fn begin(disk: &Arc<Faulty>, s3: &FakeS3, overflow: &std::path::Path, lines: &[Line; 2]) -> Life {
        let options = Options {
            log: log::Options { file_bytes: 1 << 20, files_max: 4000, hands: 3, note_after: Duration::from_millis(2), spare_for: Duration::from_secs(600) },
            checkpoint_bytes: 1 << 20,
            // So little that it flows over while S3 is away.
            backlog_max: 400 << 10,
            ..Options::default()
        };
        let store = Store::open(disk.clone(), options).unwrap();
        store.peek(|s| s.check()).unwrap();
        let tiers = tier::Options {
            chunk_bytes: 300 << 10,
            flush_bytes: 50 << 10,
            flush_after: Duration::from_millis(200),
            cache_bytes: 1 << 20,
            uploads: 2,
            manifest_every: Duration::from_millis(100),
            remove_after: Duration::from_millis(100),
            ..tier::Options::default()
        };
        let beside = Overflow::new(geds::Persist::folder(overflow).unwrap(), 32 << 20);
        let tier = Arc::new(Tier::new(s3.persist(), Some(beside), tiers));
        store.set_tier(tier.clone());
        let (stop, stopped) = watch::channel(false);
        let port = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (segments, control) = (port().await, port().await);
        *lines[0].to.lock().unwrap() = Some(control.local_addr().unwrap());
        *lines[1].to.lock().unwrap() = Some(segments.local_addr().unwrap());
        let access = Access::open();
        let controller = Controller::new(store.clone(), access.clone(), ("127.0.0.1".into(), lines[1].address.port()), ("127.0.0.1".into(), lines[0].address.port()));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(control);
        let tasks = vec![
            tokio::spawn({
                let (store, tier) = (store.clone(), tier.clone());
                async move { drop(tier.run(store).await) }
            }),
            tokio::spawn(controller.clone().sweep()),
            tokio::spawn(Scaler::new(store.clone(), Profile::fast()).run()),
            tokio::spawn(retention::run(store.clone())),
            tokio::spawn(watermark::run(store.clone())),
            tokio::spawn(wire::server::run(segments, wire::server::CONNECTIONS_MAX, None, store.clone(), access, stopped)),
            tokio::spawn(async move {
                let _ = tonic::transport::Server::builder().add_service(controller.service()).serve_with_incoming(incoming).await;
            }),
        ];
        Life { store, tier, stop, tasks }
    }

    /// What is not on the disk is lost.
    async fn end(self, lines: &[Line; 2]) {
        for line in lines {
            *line.to.lock().unwrap() = None;
            line.gone.notify_waiters();
        }
        let _ = self.stop.send(true);
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        drop(self.tier);
        let store = self.store;
        tokio::task::spawn_blocking(move || store.close()).await.unwrap();
    }
}

/// A client behind a line that may break while it says hello.
async fn client(line: &Line) -> Client {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match Client::connect(&line.address.to_string()).await {
            Ok(client) => return client,
            Err(e) => assert!(Instant::now() < end, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const WRITERS: u64 = 3;
const EVENTS: u64 = 1600;
/// So many power failures there are at least while they write.
const LIVES_MIN: u64 = 8;

/// All of it, on a runtime of two threads.
pub fn run(seed: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(240), bad_days(seed)).await }).unwrap_or_else(|_| panic!("seed {seed}: not done in time"));
}

async fn bad_days(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (disk, s3) = (Arc::new(Faulty::new(rng.random())), FakeS3::start().await);
    let lines = [Line::start(rng.random()).await, Line::start(rng.random()).await];
    let overflow = tempfile::tempdir().unwrap();
    let mut life = Life::begin(&disk, &s3, overflow.path(), &lines).await;
    {
        // Made before the weather changes: the client gives a name once and is told if it is there.
        let client = client(&lines[0]).await;
        client.create_scope("s").await.unwrap();
        client.create_stream("s", "t", ScalingPolicy { min_num_segments: 2, ..ScalingPolicy::default() }).await.unwrap();
        client.create_stream("s", CUT, ScalingPolicy { min_num_segments: 1, ..ScalingPolicy::default() }).await.unwrap();
        let group = ReaderGroupConfiguration { scope: "s".into(), reader_group_name: "group".into(), retention_type: 2, starting_stream_cuts: vec![StreamCut { stream_info: info(CUT), cut: [(0, 0)].into() }], ..Default::default() };
        ControllerServiceClient::connect(format!("http://{}", lines[0].address)).await.unwrap().create_reader_group(group).await.unwrap();
    }
    let ports = [0, 1].map(|n: usize| lines[n].address.to_string());
    let (hammer_seed, stop) = (rng.random(), Arc::new(AtomicBool::new(false)));
    // It makes a runtime of its own.
    let hammer = tokio::task::spawn_blocking(move || Hammer::start(&ports, hammer_seed, 0)).await.unwrap();
    lines.iter().for_each(|line| line.good.store(false, Relaxed));
    s3.weather(rng.random(), 0.3);
    let cutting = cut(&lines[0], rng.random(), stop.clone()).await;
    let scaling = client(&lines[0]).await;
    let (acknowledged, may) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut writing = Vec::new();
    for n in 0..WRITERS {
        let (client, sure, may) = (client(&lines[0]).await, acknowledged.clone(), may.clone());
        writing.push(tokio::spawn(async move {
            let mut writer = loop {
                // Where the segments are is asked once, over a line that may break.
                match Writer::open(&client, "s", "t", None).await {
                    Ok(writer) => break writer,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            };
            for event in 0..EVENTS {
                // However fast the machine is: there are bad days as long as there is something to write.
                while event >= may.load(Relaxed) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let mut data = n.to_be_bytes().to_vec();
                data.extend(event.to_be_bytes());
                data.resize(16 + (event * 7919 % 900) as usize, n as u8);
                writer.append(&n.to_string(), &data, event).await.unwrap();
                if event % 50 == 49 {
                    writer.flush().await.unwrap();
                    sure.fetch_add(50, Relaxed);
                }
            }
        }));
    }
    let reading = {
        let client = client(&lines[0]).await;
        tokio::spawn(async move {
            let mut reader = loop {
                match Reader::open(&client, "s", "t", From::Head).await {
                    Ok(reader) => break reader,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            };
            let mut seen: HashMap<u64, Vec<u64>> = HashMap::new();
            while seen.values().map(Vec::len).sum::<usize>() < (WRITERS * EVENTS) as usize {
                let event = reader.next().await.unwrap().expect("the stream is not sealed");
                let at = |i: usize| u64::from_be_bytes(event.data[i..i + 8].try_into().unwrap());
                seen.entry(at(0)).or_default().push(at(8));
            }
            seen
        })
    };
    let (mut lives, mut flown) = (1, 0);
    while writing.iter().any(|w| !w.is_finished()) {
        let before = acknowledged.load(Relaxed);
        may.fetch_add(EVENTS / LIVES_MIN, Relaxed);
        s3.away(rng.random_bool(0.3));
        disk.writes_take(Duration::from_micros(if rng.random_bool(0.5) { 400 } else { 6000 }));
        let end = Instant::now() + Duration::from_secs(60);
        // Some progress, and then the power fails in the middle of a write.
        while acknowledged.load(Relaxed) < before + WRITERS * EVENTS / LIVES_MIN / 2 && writing.iter().any(|w| !w.is_finished()) {
            assert!(Instant::now() < end, "seed {seed}: {before} events are acknowledged in life {lives}, and then none");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if lives == 1 || rng.random_bool(0.5) {
            // Its line may break before it is asked, or before it hears, and then it asks again.
            let to = rng.random_range(1..5);
            let scaled = async {
                while scaling.scale("s", "t", to).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            // Writers go on meanwhile, and are not to be done before there were bad days.
            let _ = tokio::time::timeout(Duration::from_millis(if lives == 1 { 2000 } else { 100 }), scaled).await;
        }
        disk.fail_after(rng.random_range(1..40));
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..150))).await;
        flown = flown.max(life.tier.overflow().map_or(0, |(bytes, _)| bytes));
        life.end(&lines).await;
        disk.power_on();
        life = Life::begin(&disk, &s3, overflow.path(), &lines).await;
        lives += 1;
    }
    assert!(hammer.told() > 0, "seed {seed}: nothing was told to clients that speak the protocols themselves");
    s3.away(false);
    stop.store(true, Relaxed);
    let account = tokio::task::spawn_blocking(move || hammer.stop()).await.unwrap();
    let cut = cutting.await.unwrap();
    for writer in writing {
        writer.await.unwrap();
    }
    let seen = reading.await.unwrap();
    for n in 0..WRITERS {
        assert!(seen[&n].iter().copied().eq(0..EVENTS), "seed {seed}: the events of writer {n} are other ones, or in another order");
    }
    // Everything finds its way to long-term storage through the same weather, and is the same from there.
    let end = Instant::now() + Duration::from_secs(60);
    while life.store.peek(|s| s.live.unflushed > 0) || life.tier.overflow().is_some_and(|(bytes, _)| bytes > 0) {
        assert!(Instant::now() < end, "seed {seed}: {} bytes stay in the log", life.store.outage().backlog_bytes);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    s3.weather(0, 0.0);
    let (lengths, epochs) = life.store.peek(|s| {
        let stream = s.catalog.stream("s", "t").unwrap();
        (stream.segments().into_keys().map(|n| s.segment(&n.name("s", "t")).unwrap().length).sum::<u64>(), stream.epoch_number())
    });
    println!("seed {seed}: {lives} lives, {epochs} scales, up to {flown} bytes in the overflow at the end of one");
    assert_eq!(lengths, WRITERS * (0..EVENTS).map(|e| 8 + 16 + e * 7919 % 900).sum::<u64>(), "seed {seed}");
    assert!(epochs > 0, "seed {seed}: nothing was scaled");
    lines.iter().for_each(|line| line.good.store(true, Relaxed));
    tokio::task::spawn_blocking(move || account.audit()).await.unwrap();
    cut.audit(&lines[0], &life).await;
    assert!(lives as u64 > LIVES_MIN && lines.iter().map(|l| l.broken.load(Relaxed)).sum::<u64>() > 20, "{lives} lives are no bad days");
    life.end(&lines).await;
}
