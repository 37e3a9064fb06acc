//! The whole store on bad days: a disk that loses its power, an S3 that is away or answers half, and connections that break, stall and come in pieces, while the
//! stream is scaled up and down. Clients are our own and the protocol's; what was acknowledged is there, once, in order.

mod faulty;
#[path = "faulty/s3.rs"]
mod s3;

use faulty::Faulty;
use rand::{Rng, SeedableRng, rngs::StdRng};
use s3::FakeS3;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use streams::{
    Client, Store,
    access::Access,
    client::{From, Reader, Writer},
    controller::Controller,
    log,
    proto::ScalingPolicy,
    store::Options,
    tier::{self, Tier},
    wire,
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
    broken: Arc<AtomicU64>,
    /// Rung when the server behind it is gone: a process that ends closes its sockets, which tasks of this one would keep.
    gone: Arc<Notify>,
}

impl Line {
    async fn start(seed: u64) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let line = Line { address: listener.local_addr().unwrap(), to: Arc::default(), broken: Arc::default(), gone: Arc::default() };
        let (to, broken, gone, mut rng) = (line.to.clone(), line.broken.clone(), line.gone.clone(), StdRng::seed_from_u64(seed));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Some(to) = *to.lock().unwrap() else { continue };
                let (broken, gone, seed) = (broken.clone(), gone.clone(), rng.random());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(to).await else { return };
                    let ((mut a, mut b), (mut c, mut d)) = (near.into_split(), far.into_split());
                    let (mut out, mut back) = (StdRng::seed_from_u64(seed), StdRng::seed_from_u64(seed + 1));
                    // When one direction ends, so does the other: the sockets are dropped.
                    tokio::select! {
                        () = carry(&mut a, &mut d, &mut out) => {}
                        () = carry(&mut c, &mut b, &mut back) => {}
                        () = gone.notified() => {}
                    }
                    broken.fetch_add(1, Relaxed);
                });
            }
        });
        line
    }
}

async fn carry(from: &mut tokio::net::tcp::OwnedReadHalf, to: &mut tokio::net::tcp::OwnedWriteHalf, rng: &mut StdRng) {
    let mut left = rng.random_range(2_000..400_000usize);
    let mut buffer = vec![0; 16 << 10];
    while left > 0 {
        let most = rng.random_range(1..buffer.len()).min(left);
        let Ok(n @ 1..) = from.read(&mut buffer[..most]).await else { return };
        if rng.random_bool(0.02) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..20))).await;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        left -= n;
    }
}

/// One life of a server over a disk, from its recovery on.
struct Life {
    store: Store,
    stop: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Life {
    async fn begin(disk: &Arc<Faulty>, s3: &FakeS3, lines: &[Line; 2]) -> Life {
        let options = Options {
            log: log::Options { file_bytes: 1 << 20, files_max: 4000, hands: 3, note_after: Duration::from_millis(2) },
            checkpoint_bytes: 1 << 20,
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
        };
        let tier = Arc::new(Tier::new(s3.persist(), None, tiers));
        store.set_tier(tier.clone());
        let (stop, stopped) = watch::channel(false);
        let port = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (segments, control) = (port().await, port().await);
        *lines[0].to.lock().unwrap() = Some(control.local_addr().unwrap());
        *lines[1].to.lock().unwrap() = Some(segments.local_addr().unwrap());
        let access = Access::open();
        let controller = Controller::new(store.clone(), access.clone(), "127.0.0.1".into(), lines[1].address.port());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(control);
        let tasks = vec![
            tokio::spawn(tier.run(store.clone())),
            tokio::spawn(wire::server::run(segments, None, store.clone(), access, stopped)),
            tokio::spawn(async move {
                let _ = tonic::transport::Server::builder().add_service(controller.service()).serve_with_incoming(incoming).await;
            }),
        ];
        Life { store, stop, tasks }
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

#[test]
fn what_was_acknowledged_is_there_once_over_a_bad_network_and_a_bad_disk() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for round in 0..ROUNDS {
        let seed = seed.wrapping_add(round);
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(240), bad_days(seed)).await }).unwrap_or_else(|_| panic!("seed {seed}: not done in time"));
    }
}

const ROUNDS: u64 = 2;
const WRITERS: u64 = 3;
const EVENTS: u64 = 2500;

async fn bad_days(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (disk, s3) = (Arc::new(Faulty::new(rng.random())), FakeS3::start().await);
    let lines = [Line::start(rng.random()).await, Line::start(rng.random()).await];
    let mut life = Life::begin(&disk, &s3, &lines).await;
    {
        // Made before the weather changes: the client gives a name once and is told if it is there.
        let client = client(&lines[0]).await;
        client.create_scope("s").await.unwrap();
        client.create_stream("s", "t", ScalingPolicy { min_num_segments: 2, ..ScalingPolicy::default() }).await.unwrap();
    }
    s3.weather(rng.random(), 0.3);
    let scaling = client(&lines[0]).await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut writing = Vec::new();
    for n in 0..WRITERS {
        let (client, sure) = (client(&lines[0]).await, acknowledged.clone());
        writing.push(tokio::spawn(async move {
            let mut writer = loop {
                // Where the segments are is asked once, over a line that may break.
                match Writer::open(&client, "s", "t", None).await {
                    Ok(writer) => break writer,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            };
            for event in 0..EVENTS {
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
    let mut lives = 1;
    while writing.iter().any(|w| !w.is_finished()) {
        let before = acknowledged.load(Relaxed);
        s3.away(rng.random_bool(0.3));
        let end = Instant::now() + Duration::from_secs(60);
        // Some progress, and then the power fails in the middle of a write.
        while acknowledged.load(Relaxed) < before + 300 && writing.iter().any(|w| !w.is_finished()) {
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
        life.end(&lines).await;
        disk.power_on();
        life = Life::begin(&disk, &s3, &lines).await;
        lives += 1;
    }
    s3.away(false);
    for writer in writing {
        writer.await.unwrap();
    }
    let seen = reading.await.unwrap();
    for n in 0..WRITERS {
        assert!(seen[&n].iter().copied().eq(0..EVENTS), "seed {seed}: the events of writer {n} are other ones, or in another order");
    }
    // Everything finds its way to long-term storage through the same weather, and is the same from there.
    let end = Instant::now() + Duration::from_secs(60);
    while life.store.peek(|s| s.live.unflushed > 0) {
        assert!(Instant::now() < end, "seed {seed}: {} bytes stay in the log", life.store.outage().backlog_bytes);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    s3.weather(0, 0.0);
    let (lengths, epochs) = life.store.peek(|s| {
        let stream = s.catalog.stream("s", "t").unwrap();
        (stream.segments().into_keys().map(|n| s.segment(&n.name("s", "t")).unwrap().length).sum::<u64>(), stream.epoch_number())
    });
    println!("seed {seed}: {lives} lives, {epochs} scales");
    assert_eq!(lengths, WRITERS * (0..EVENTS).map(|e| 8 + 16 + e * 7919 % 900).sum::<u64>(), "seed {seed}");
    assert!(epochs > 0, "seed {seed}: nothing was scaled");
    assert!(lives > 5 && lines.iter().map(|l| l.broken.load(Relaxed)).sum::<u64>() > 20, "{lives} lives are no bad days");
    life.end(&lines).await;
}
