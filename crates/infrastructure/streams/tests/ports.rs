//! Both ports against clients that are wrong, slow or gone. The server must still serve the next one.

use base64::Engine;
use bytes::{BufMut, Bytes, BytesMut};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{net::SocketAddr, task::Poll, time::Duration};
use streams::{
    Client, Options, Server,
    access::{self, Rule},
    client::{From, Login, Reader, Transaction, Writer},
    proto::ScalingPolicy,
    server::Users,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch},
};

struct Running {
    controller: SocketAddr,
    segments: SocketAddr,
    http: SocketAddr,
    _stop: watch::Sender<bool>,
    _folder: tempfile::TempDir,
    _memory: Memory,
}

/// Who looks at how much memory this process has is alone in it: what other tests take would count, too.
static MEMORY: RwLock<()> = RwLock::const_new(());

enum Memory {
    Shared(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Own(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

async fn server_alone() -> Running {
    start(Memory::Own(MEMORY.write().await), |_| {}, |_| {}).await
}

async fn server() -> Running {
    server_with(|_| {}).await
}

async fn server_with(change: impl FnOnce(&mut Options)) -> Running {
    server_told(change, |_| {}).await
}

async fn server_told(change: impl FnOnce(&mut Options), tell: impl FnOnce(&Server)) -> Running {
    start(Memory::Shared(MEMORY.read().await), change, tell).await
}

async fn start(memory: Memory, change: impl FnOnce(&mut Options), tell: impl FnOnce(&Server)) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path().join("streams"));
    options.http = Some(([127, 0, 0, 1], 0).into());
    change(&mut options);
    options.controller.set_port(0);
    options.segments.set_port(0);
    options.store.log.file_bytes = 20 << 20;
    let server = Server::bind(options).await.unwrap();
    let (controller, segments) = server.addresses().unwrap();
    let http = server.http_address().unwrap();
    tell(&server);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(server.run(stopped));
    Running { controller, segments, http, _stop: stop, _folder: folder, _memory: memory }
}

/// The server and its store, for what no client can do to it.
async fn server_and_store() -> (Running, streams::Store) {
    let mut store = None;
    let running = server_told(|_| {}, |s| store = Some(s.store())).await;
    (running, store.unwrap())
}

async fn client(running: &Running) -> Client {
    let client = Client::connect(&running.controller.to_string()).await.unwrap();
    client.create_scope("s").await.unwrap();
    client
}

fn segments(n: i32) -> ScalingPolicy {
    ScalingPolicy { min_num_segments: n, ..ScalingPolicy::default() }
}

/// The server still does what it is for.
async fn works(running: &Running, name: &str) {
    let client = client(running).await;
    assert!(client.create_stream("s", name, segments(2)).await.unwrap());
    let mut writer = Writer::open(&client, "s", name, None).await.unwrap();
    for n in 0..100u64 {
        writer.append(&n.to_string(), &n.to_be_bytes(), n).await.unwrap();
    }
    writer.flush().await.unwrap();
    client.seal("s", name).await.unwrap();
    let mut reader = Reader::open(&client, "s", name, From::Head).await.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = reader.next().await.unwrap() {
        seen.push(u64::from_be_bytes(event.data[..].try_into().unwrap()));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}

fn frame(kind: i32, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_i32(kind);
    out.put_i32(payload.len() as i32);
    out.put_slice(payload);
    out.to_vec()
}

/// Sends bytes and returns what comes until the server closes, or for a short time.
async fn say(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut got = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut got)).await;
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_on_both_ports() {
    let running = server().await;
    let mut rng = StdRng::seed_from_u64(11);
    let hello = frame(-127, &[0, 0, 0, 15, 0, 0, 0, 5]);
    for round in 0..300 {
        let kind = [1, 3, 4, 5, 9, 11, 20, 28, 30, 34, 36, 38, 40, 58, 68, 70, 71, 74, 76, 78, 83, 85, 88, 89, 90, 100, -1, -2, 12345][rng.random_range(0..29)];
        let payload: Vec<u8> = (0..rng.random_range(0..120)).map(|_| if rng.random_bool(0.7) { 0 } else { rng.random() }).collect();
        let mut bytes = if rng.random_bool(0.7) { hello.clone() } else { Vec::new() };
        bytes.extend(frame(kind, &payload));
        if rng.random_bool(0.2) {
            bytes.truncate(rng.random_range(0..bytes.len()));
        }
        let to = if round % 4 == 0 { running.controller } else { running.segments };
        say(to, &bytes).await;
    }
    // Lengths that are lies.
    for length in [i32::MAX, -1, i32::MIN, 0x0100_0000] {
        let mut bytes = hello.clone();
        bytes.extend(4i32.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        let got = say(running.segments, &bytes).await;
        assert!(got.len() <= 16, "nothing but hello is answered");
    }
    works(&running, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_command_and_a_missing_segment_are_answered() {
    let running = server().await;
    let got = say(running.segments, &frame(123, &7i64.to_be_bytes())).await;
    assert_eq!((&got[..4], &got[8..16]), (&57i32.to_be_bytes()[..], &7i64.to_be_bytes()[..]), "unsupported, with the request's number");
    let info = [&9i64.to_be_bytes()[..], &text("no/such/segment"), &text("")].concat();
    let got = say(running.segments, &frame(11, &info)).await;
    assert_eq!((&got[..4], &got[8..16]), (&53i32.to_be_bytes()[..], &9i64.to_be_bytes()[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_takes_its_replies_holds_up_nobody() {
    let running = server_alone().await;
    let client = client(&running).await;
    client.create_stream("s", "slow", segments(1)).await.unwrap();
    let mut writer = Writer::open(&client, "s", "slow", None).await.unwrap();
    for n in 0..30u64 {
        writer.append("k", &vec![n as u8; 1 << 20], n).await.unwrap();
    }
    writer.flush().await.unwrap();
    // On each of fifty connections thousands of reads of a megabyte, and hundreds at the tail, none of which is ever taken.
    let name = "s/slow/0.#epoch.0";
    let read: Vec<u8> = (0..4000i64)
        .flat_map(|n| {
            let offset = if n % 10 == 0 { 30 * ((1i64 << 20) + 8) } else { n % 20 * (1 << 20) };
            frame(9, &read_at(n, name, offset, 1 << 20))
        })
        .collect();
    let read = bytes::Bytes::from(read);
    let before = resident_kb();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (to, read) = (running.segments, read.clone());
        asking.spawn(async move {
            let mut stream = TcpStream::connect(to).await.unwrap();
            let _ = tokio::time::timeout(Duration::from_secs(4), stream.write_all(&read)).await;
            stream
        });
    }
    let slow: Vec<TcpStream> = asking.join_all().await;
    let more = resident_kb().saturating_sub(before);
    assert!(more < 350 << 10, "{more} kB more are in use for {} clients that take nothing", slow.len());
    works(&running, "beside").await;
}

fn resident_kb() -> u64 {
    let memory = std::fs::read_to_string("/proc/self/status").unwrap();
    memory.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

/// In an outage writers come and go, and wait while they are there: who has gone gives its connection's place back, or nobody could read in the end.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_gone_while_it_waited_for_room_gives_its_place_back() {
    let mut store = None;
    let running = server_told(|o| o.store.backlog_max = 1 << 20, |s| store = Some(s.store())).await;
    let (store, client) = (store.unwrap(), client(&running).await);
    client.create_stream("s", "full", segments(1)).await.unwrap();
    let name = "s/full/0.#epoch.0";
    let filled = store.append(streams::store::Append { segment: name, writer: 1, event: 1, events: 1, expected: None, data: vec![1; 1100 << 10].into() });
    store.settle(filled).await.unwrap();
    let connections = || store.metrics().connections.load(std::sync::atomic::Ordering::Relaxed);
    let before = connections();
    let mut waiting = Vec::new();
    for writer in 10..30u128 {
        let mut talk = Talk::open(&running).await;
        assert_eq!(talk.ask(1, &setup(3, writer, name)).await.unwrap().0, 2);
        talk.say(4, &event(4, writer, 1, b"held back")).await;
        waiting.push(talk);
    }
    assert_eq!(connections(), before + 20);
    let stays = waiting.pop();
    drop(waiting);
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while connections() > before + 1 {
        assert!(std::time::Instant::now() < end, "{} connections of clients that have gone stay", connections() - before - 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Who is there is written, as soon as there is room.
    client.truncate("s", "full", &client.tail("s", "full").await.unwrap()).await.unwrap();
    assert_eq!(stays.unwrap().hear().await.unwrap().0, 7, "it is acknowledged");
}

/// Blocks of events come in two parts, and both are bounded: many clients that stop shortly before the end of theirs take a bounded memory, and one that goes on is served.
#[tokio::test(flavor = "multi_thread")]
async fn ends_of_blocks_that_do_not_come_take_a_bounded_memory() {
    const BYTES: usize = 3 << 20;
    let running = server_alone().await;
    client(&running).await.create_stream("s", "blocks", segments(1)).await.unwrap();
    let name = "s/blocks/0.#epoch.0";
    // An event that begins in the block and goes on in its end.
    let value = vec![7u8; BYTES];
    let begin = [&0i32.to_be_bytes()[..], &(BYTES as i32).to_be_bytes(), &value[..100]].concat();
    let part = [&(-2i32).to_be_bytes()[..], &(begin.len() as i32).to_be_bytes(), &begin].concat();
    let first = |writer: u128| frame(3, &[&writer.to_be_bytes()[..], &part].concat());
    let rest = &value[100..];
    let end = |writer: u128| frame(4, &[&writer.to_be_bytes()[..], &0i32.to_be_bytes(), &(rest.len() as i32).to_be_bytes(), rest, &1i32.to_be_bytes(), &1i64.to_be_bytes(), &7i64.to_be_bytes()].concat());
    let open = async |writer: u128| {
        let mut talk = Talk::open(&running).await;
        assert_eq!(talk.ask(1, &setup(3, writer, name)).await.unwrap().0, 2);
        talk.0.write_all(&first(writer)).await.unwrap();
        talk
    };
    let whole = end(1);
    let half = Bytes::from(whole).slice(..BYTES - 200);
    let before = resident_kb();
    let mut stopping = tokio::task::JoinSet::new();
    for writer in 10..160u128 {
        let (mut talk, half) = (open(writer).await, half.clone());
        stopping.spawn(async move {
            let _ = tokio::time::timeout(Duration::from_secs(3), talk.0.write_all(&half)).await;
            talk
        });
    }
    let stopped = stopping.join_all().await;
    let more = resident_kb().saturating_sub(before);
    assert!(more < 150 << 10, "{more} kB more are in use for {} blocks without an end", stopped.len());
    works(&running, "beside").await;
    // One waits for its place, and has it when others have gone.
    let mut talk = open(500).await;
    let (whole, going) = (end(500), tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(stopped);
    }));
    talk.0.write_all(&whole).await.unwrap();
    let (kind, told) = talk.hear().await.unwrap();
    assert_eq!((kind, &told[..16]), (7, &500u128.to_be_bytes()[..]), "the event is acknowledged");
    going.await.unwrap();
}

/// Nobody has said a password when a message to the controller comes: one that stops on its way is given up, and one that is too long refused.
#[tokio::test(flavor = "multi_thread")]
async fn messages_to_the_controller_come_in_time_and_have_a_longest() {
    let running = server().await;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let header = |name: &str, value: &str| [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat();
    let path = "/io.pravega.controller.stream.api.grpc.v1.ControllerService/createScope";
    let headers: Vec<u8> = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers")].iter().flat_map(|(n, v)| header(n, v)).collect();
    let mut stream = TcpStream::connect(running.controller).await.unwrap();
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend(frame(4, 0, 0, &[]));
    said.extend(frame(1, 4, 1, &headers));
    // It says that it has 1000 bytes, and brings 100.
    said.extend(frame(0, 0, 1, &[&[0, 0, 0, 3, 232], &[10; 100][..]].concat()));
    stream.write_all(&said).await.unwrap();
    let began = std::time::Instant::now();
    // What ends the request: its headers with a status, or a reset.
    let ended = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            stream.read_exact(&mut payload).await.unwrap();
            if head[5..] == [0, 0, 0, 1] {
                return (head[3], payload);
            }
        }
    };
    let (kind, _) = tokio::time::timeout(Duration::from_secs(40), ended).await.expect("the request is given up");
    assert!([1, 3].contains(&kind), "a frame of kind {kind}");
    assert!(began.elapsed() > Duration::from_secs(5), "{:?} is no time for a message", began.elapsed());
    let long = streams::proto::ScopeInfo { scope: "x".repeat(1 << 20) };
    let refused = raw(&running).await.create_scope(long).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
    let many = (0..300).map(|n| {
        let running = &running;
        async move { raw(running).await.create_scope(streams::proto::ScopeInfo { scope: format!("{}{n}", "y".repeat(200)) }).await.unwrap().into_inner().status }
    });
    assert!(futures::future::join_all(many).await.into_iter().all(|status| status == 0), "many at a time are taken");
    works(&running, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_never_waits_is_held_by_the_disk() {
    let running = server_alone().await;
    client(&running).await.create_stream("s", "flood", segments(1)).await.unwrap();
    let name = "s/flood/0.#epoch.0";
    let mut talk = Talk::open(&running).await;
    assert_eq!(talk.ask(70, &[&1i64.to_be_bytes()[..], &text("a/table"), &text("")].concat()).await.unwrap().0, 21);
    let value = vec![7u8; 1 << 20];
    let keys: Vec<[u8; 1]> = (0..15).map(|n| [n]).collect();
    let entries: Vec<(&[u8], &[u8])> = keys.iter().map(|k| (&k[..], &value[..])).collect();
    // A copy of it each time would count as well.
    let updates = Bytes::from(frame(74, &update(2, "a/table", &entries)));
    let before = resident_kb();
    // Events first, then values of a table, as fast as they are taken, and not one answer is looked at.
    for table in [false, true] {
        let mut stream = TcpStream::connect(running.segments).await.unwrap();
        stream.write_all(&frame(-127, &[0, 0, 0, 17, 0, 0, 0, 5])).await.unwrap();
        stream.write_all(&frame(1, &setup(3, 5, name))).await.unwrap();
        let (mut sent, mut most, end) = (0u64, 0, std::time::Instant::now() + Duration::from_secs(6));
        while std::time::Instant::now() < end && sent < 1 << 30 {
            let next = if table { updates.clone() } else { frame(4, &event(4, 5, sent as i64 + 1, &value)).into() };
            if let Ok(written) = tokio::time::timeout_at(end.into(), stream.write_all(&next)).await {
                written.expect("the server does not hang up");
                sent += next.len() as u64;
            }
            most = most.max(resident_kb().saturating_sub(before));
        }
        println!("{sent} bytes, {most} kB of memory");
        assert!(sent > 8 << 20, "{sent} bytes were taken");
        assert!(most < 200 << 10, "{most} kB more are in use after {sent} bytes, table: {table}");
    }
    works(&running, "beside").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_to_what_is_sealed_or_gone_are_refused_and_the_connection_stays() {
    let running = server().await;
    client(&running).await.create_stream("s", "t", segments(2)).await.unwrap();
    let (sealed, gone) = ("s/t/0.#epoch.0", "s/t/1.#epoch.0");
    let mut talk = Talk::open(&running).await;
    for (writer, name) in [(1, sealed), (2, gone)] {
        assert_eq!(talk.ask(1, &setup(1, writer, name)).await.unwrap().0, 2);
        assert_eq!(talk.ask(4, &event(2, writer, 1, b"first")).await.unwrap().0, 7);
    }
    let named = |id: i64, name: &str| [&id.to_be_bytes()[..], &text(name), &text("")].concat();
    assert_eq!(talk.ask(28, &named(3, sealed)).await.unwrap().0, 29);
    assert_eq!(talk.ask(30, &named(4, gone)).await.unwrap().0, 31);
    assert_eq!(talk.ask(4, &event(5, 1, 2, b"more")).await.unwrap().0, 51, "it is sealed");
    assert_eq!(talk.ask(4, &event(6, 2, 2, b"more")).await.unwrap().0, 53, "there is none");
    // The same connection goes on: what came before is told, and told again, and is there once.
    let (kind, got) = talk.ask(1, &setup(7, 1, sealed)).await.unwrap();
    assert_eq!((kind, &got[got.len() - 8..]), (2, &1i64.to_be_bytes()[..]));
    assert_eq!(talk.ask(4, &event(7, 1, 1, b"first")).await.unwrap().0, 7);
    let (kind, got) = talk.ask(9, &read_at(8, sealed, 0, 100)).await.unwrap();
    assert_eq!((kind, got.windows(5).filter(|w| w == b"first").count()), (10, 1));
    works(&running, "after").await;
}

/// What is still on its way over a connection when its writer has made another one must not come between what the writer sends again.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_appends_over_the_connection_that_it_has_set_up_last() {
    let running = server().await;
    client(&running).await.create_stream("s", "t", segments(1)).await.unwrap();
    let name = "s/t/0.#epoch.0";
    let (mut first, mut second) = (Talk::open(&running).await, Talk::open(&running).await);
    assert_eq!(first.ask(1, &setup(1, 5, name)).await.unwrap().0, 2);
    assert_eq!(first.ask(1, &setup(2, 6, name)).await.unwrap().0, 2);
    assert_eq!(first.ask(4, &event(3, 5, 1, b"first")).await.unwrap().0, 7);
    let (kind, got) = second.ask(1, &setup(4, 5, name)).await.unwrap();
    assert_eq!((kind, &got[got.len() - 8..]), (2, &1i64.to_be_bytes()[..]));
    assert_eq!(first.ask(4, &event(5, 6, 1, b"other")).await.unwrap().0, 7, "another writer's turn is its own");
    assert_eq!(first.ask(4, &event(6, 5, 2, b"late")).await.unwrap().0, 55, "it has another connection now");
    assert!(first.hear().await.is_none());
    assert_eq!(second.ask(4, &event(7, 5, 2, b"second")).await.unwrap().0, 7);
    // Both may come back, one after the other.
    drop(second);
    let mut third = Talk::open(&running).await;
    let (kind, got) = third.ask(1, &setup(8, 5, name)).await.unwrap();
    assert_eq!((kind, &got[got.len() - 8..]), (2, &2i64.to_be_bytes()[..]));
    assert_eq!(third.ask(4, &event(9, 5, 3, b"third")).await.unwrap().0, 7);
    let (_, got) = third.ask(9, &read_at(10, name, 0, 1000)).await.unwrap();
    let count = |word: &[u8]| got.windows(word.len()).filter(|w| *w == word).count();
    assert_eq!([count(b"first"), count(b"other"), count(b"late"), count(b"second"), count(b"third")], [1, 1, 0, 1, 1]);
}

/// A segment store that has a part of a block already, as after a connection that was lost in an outage, and then knows better.
#[tokio::test(flavor = "multi_thread")]
async fn the_native_writer_sends_again_what_was_refused_as_stored_in_part() {
    let (running, store) = server_and_store().await;
    client(&running).await.create_stream("s", "t", segments(1)).await.unwrap();
    let (fake, control) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let controller = streams::controller::Controller::new(store, access::Access::open(), ("127.0.0.1".into(), fake.local_addr().unwrap().port()), ("127.0.0.1".into(), 0));
    let address = control.local_addr().unwrap().to_string();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(control);
    tokio::spawn(tonic::transport::Server::builder().add_service(controller.service()).serve_with_incoming(incoming));
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        for connection in 0.. {
            let mut talk = Talk(fake.accept().await.unwrap().0);
            while let Some((kind, got)) = talk.hear_or_end().await {
                match kind {
                    -127 => talk.say(-127, &[0, 0, 0, 17, 0, 0, 0, 5]).await,
                    // By the second connection one event of the first block is known to be stored.
                    1 => talk.say(2, &[&got[..8], &text("s/t/0.#epoch.0"), &got[8..24], &i64::from(connection > 0).to_be_bytes()].concat()).await,
                    4 => {
                        let last: [u8; 8] = got[got.len() - 16..got.len() - 8].try_into().unwrap();
                        told.send((connection, i64::from_be_bytes(last))).unwrap();
                        if connection == 0 {
                            talk.say(55, &[&got[..16], &last, &text("part of it is stored"), &0i64.to_be_bytes()].concat()).await;
                            break;
                        }
                        talk.say(7, &[&got[..16], &last, &0i64.to_be_bytes()].concat()).await;
                    }
                    _ => {}
                }
            }
        }
    });
    let client = Client::connect(&address).await.unwrap();
    let mut writer = Writer::open(&client, "s", "t", None).await.unwrap();
    for n in 0..3u64 {
        writer.append("k", &n.to_be_bytes(), n).await.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(20), writer.flush()).await.expect("it goes on").unwrap();
    let (mut first, mut second) = (0, 0);
    while let Ok((connection, last)) = heard.try_recv() {
        *(if connection == 0 { &mut first } else { &mut second }) = last;
    }
    assert!(first >= 1 && second == 3, "events up to {first}, and up to {second} over the second connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transaction_is_to_add_is_not_truncated() {
    let (running, store) = server_and_store().await;
    client(&running).await.create_stream("s", "t", segments(1)).await.unwrap();
    let (id, _) = store.change(|s| streams::plan::begin_txn(s, "s", "t", 10_000, 1)).await.unwrap();
    let name = id.segment("s/t/0.#epoch.0");
    let mut talk = Talk::open(&running).await;
    assert_eq!(talk.ask(1, &setup(1, 1, &name)).await.unwrap().0, 2);
    assert_eq!(talk.ask(4, &event(2, 1, 1, b"first")).await.unwrap().0, 7);
    let cut = [&3i64.to_be_bytes()[..], &text(&name), &4i64.to_be_bytes(), &text("")].concat();
    assert_eq!(talk.ask(38, &cut).await.unwrap().0, 61);
    // What is written in a transaction counts for the stream's rate, by which it scales, when it is written, and not all of it at once when it is committed.
    let rate = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["streams"][0]["events_per_second"].as_f64().unwrap();
    until(running.http, "/metrics", |text| text.contains("segment=\"s/t/0.#epoch.0\"")).await;
    assert_eq!(talk.ask(4, &event(3, 1, 2, b"second")).await.unwrap().0, 7);
    until(running.http, "/v1/streams", |text| rate(text) > 0.0).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let before = rate(&http(running.http, "GET", "/v1/streams", None, "").await.1);
    store.change(|s| streams::plan::commit_txn(s, "s", "t", id, 2)).await.unwrap();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        let now = rate(&http(running.http, "GET", "/v1/streams", None, "").await.1);
        assert!(now <= before, "{now} events a second after the commit, {before} before");
    }
    let (_, got) = talk.ask(9, &read_at(4, "s/t/0.#epoch.0", 0, 100)).await.unwrap();
    assert!(got.windows(5).any(|w| w == b"first"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_video_that_was_removed_is_made_again() {
    let (running, store) = server_and_store().await;
    let client = client(&running).await;
    let has_video = || store.peek(|s| streams::video::is_video(s, "road", "camera"));
    for _ in 0..2 {
        drop(streams::video::ingest::Ingester::open(&client, "road", "camera").await.unwrap());
        assert!(has_video());
        for name in ["camera", "camera-index"] {
            client.seal("road", name).await.unwrap();
            client.delete("road", name).await.unwrap();
        }
        assert!(!has_video());
    }
    drop(streams::video::ingest::Ingester::open(&client, "road", "camera").await.unwrap());
    client.scale("road", "camera", 2).await.unwrap();
    client.scale("road", "camera", 1).await.unwrap();
    let Err(scaled) = streams::video::ingest::Ingester::open(&client, "road", "camera").await else { panic!("it has one segment again, and its index tells of another") };
    assert!(scaled.to_string().contains("scaled"), "{scaled}");
    assert!(!has_video());
}

/// Retention forgets frames, and their entries stay in the index, however many: what is asked for from an early time begins with the first frame that is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_video_is_played_from_where_it_begins_though_its_index_begins_long_before() {
    use streams::video::{self, Entry};
    let running = server().await;
    let client = client(&running).await;
    for name in ["camera", "camera-index"] {
        client.create_stream("s", name, segments(1)).await.unwrap();
    }
    let mut data = Writer::open(&client, "s", "camera", None).await.unwrap();
    let (mut offset, mut offsets, mut entries) = (0, Vec::new(), Vec::new());
    for n in 0..4000u64 {
        // Times are asked for in whole milliseconds, and are not such.
        let tai_ns = video::tai((1000 + n) * 1_000_000_000 + 400_000);
        let frame = video::frame(video::RANDOM_ACCESS, tai_ns, &[0x47; 188]);
        offsets.push(offset);
        entries.extend(Entry { flags: video::RANDOM_ACCESS, tai_ns, offset }.bytes());
        data.append("video", &frame, n).await.unwrap();
        offset += 8 + frame.len() as u64;
    }
    data.flush().await.unwrap();
    let mut index = Writer::open(&client, "s", "camera-index", None).await.unwrap();
    index.append_bytes("video", &entries, 0).await.unwrap();
    index.flush().await.unwrap();
    client.truncate("s", "camera", &[(streams::catalog::SegmentNo(0), offsets[3900])].into()).await.unwrap();
    let (status, list) = http(running.http, "GET", "/video/s/camera/from.m3u8?at=0", None, "").await;
    assert_eq!((status, list.matches(".ts").count()), (200, 99), "{list}");
    assert!(list.contains(&format!("\n{}-{}.ts", offsets[3900], offsets[3901])) && list.contains("#EXT-X-MEDIA-SEQUENCE:3900"), "{list}");
    let (status, list) = http(running.http, "GET", "/video/s/camera/live.m3u8", None, "").await;
    assert_eq!((status, list.matches(".ts").count()), (200, 6), "{list}");
    // A clip of a time that is partly forgotten is what is left of it.
    let mut clip = TcpStream::connect(running.http).await.unwrap();
    clip.write_all(b"GET /video/s/camera/clip.ts?from=0&to=4902500 HTTP/1.0\r\n\r\n").await.unwrap();
    let mut got = Vec::new();
    clip.read_to_end(&mut got).await.unwrap();
    assert!(got.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&got[..got.len().min(300)]));
    assert_eq!(got.iter().rev().take_while(|b| **b == 0x47).count(), 3 * 188, "three frames");
    // There are pictures at the time that is told of the first one; before that, in the future, and where nobody can tell when there are none.
    let asked = async |what: &str| http(running.http, "GET", &format!("/video/s/camera/{what}"), None, "").await;
    assert!(list.contains("1970-01-01T01:23:"), "{list}");
    for (what, status, why) in [
        ("clip.ts?from=4899000&to=4899999", 404, "has pictures from 1970-01-01T01:21:40.000Z on"),
        ("clip.ts?from=9999999999999&to=9999999999999", 404, "and none of 2286-"),
        ("from.m3u8?at=9999999999999", 404, "and none of 2286-"),
        ("clip.ts?from=5&to=3", 400, "ends before it begins"),
        ("from.m3u8?at=x", 400, "whole milliseconds since 1970"),
    ] {
        let (got, body) = asked(what).await;
        assert!(got == status && body.starts_with("{\"error\"") && body.contains(why), "{what}: {got} {body}");
    }
    let mut first = TcpStream::connect(running.http).await.unwrap();
    first.write_all(b"GET /video/s/camera/clip.ts?from=4900000&to=4900000 HTTP/1.0\r\n\r\n").await.unwrap();
    let mut got = Vec::new();
    first.read_to_end(&mut got).await.unwrap();
    assert!(got.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&got[..got.len().min(300)]));
    // After a lost disk the index may tell of more than there is: who goes on begins with what there is, and behind the last time.
    let lost: Vec<u8> = (0..5).flat_map(|n| Entry { flags: video::RANDOM_ACCESS, tai_ns: video::tai((6000 + n) * 1_000_000_000), offset: offset + n * 216 }.bytes()).collect();
    index.append_bytes("video", &lost, 1).await.unwrap();
    index.flush().await.unwrap();
    let read = async |from: u64| Entry::parse(&client.read("s", "camera-index", streams::catalog::SegmentNo(0), from, 1 << 20).await.unwrap());
    drop(video::ingest::Ingester::open(&client, "s", "camera").await.unwrap());
    let start = client.head("s", "camera-index").await.unwrap()[&streams::catalog::SegmentNo(0)];
    let there = read(start).await;
    assert_eq!((start, there.len()), (4005 * 20, 4000));
    assert!(there.iter().zip(&offsets).all(|(entry, offset)| entry.offset == *offset), "other entries than before");
    let mut again = video::ingest::Ingester::open(&client, "s", "camera").await.unwrap();
    assert_eq!(client.head("s", "camera-index").await.unwrap()[&streams::catalog::SegmentNo(0)], start, "once is enough");
    drop(again);
    // However far it has come when it is broken off: the next one does it to its end.
    let mut start = start;
    for steps in 1.. {
        index.append_bytes("video", &lost, 1).await.unwrap();
        index.flush().await.unwrap();
        let done = steps_of(video::ingest::Ingester::open(&client, "s", "camera"), steps).await;
        let done = done.map(|opened| drop(opened.unwrap())).is_some();
        drop(video::ingest::Ingester::open(&client, "s", "camera").await.unwrap());
        start = client.head("s", "camera-index").await.unwrap()[&streams::catalog::SegmentNo(0)];
        let there = read(start).await;
        assert!(there.len() == 4000 && there.iter().zip(&offsets).all(|(entry, offset)| entry.offset == *offset), "{} entries after {steps} steps", there.len());
        if done {
            assert!(steps > 10, "all of it in {steps} steps");
            break;
        }
    }
    // And times only grow: an entry of this machine's future keeps no later ones out.
    let ahead = video::tai(base::clock::now_ms() * 1_000_000 + 3_600_000_000_000);
    index.append_bytes("video", &Entry { flags: video::RANDOM_ACCESS, tai_ns: ahead, offset: offsets[3999] }.bytes(), 2).await.unwrap();
    index.flush().await.unwrap();
    again = video::ingest::Ingester::open(&client, "s", "camera").await.unwrap();
    assert_eq!(again.ahead(), Some(video::utc(ahead) / 1_000_000), "and who starts it is told");
    again.run(&mpeg_ts(&[(0, true)], 0)[..]).await.unwrap();
    let there = read(start).await;
    assert!(there.len() == 4002 && there[4001].tai_ns > ahead && there[4001].offset == offset, "{:?}", &there[4000..]);
}

/// What a future gives within so many steps; then it is dropped.
async fn steps_of<T>(future: impl Future<Output = T>, steps: usize) -> Option<T> {
    let (mut future, mut left) = (std::pin::pin!(future), steps);
    std::future::poll_fn(move |context| {
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Pending if left > 0 => Poll::Pending,
            Poll::Pending => Poll::Ready(None),
            Poll::Ready(out) => Poll::Ready(Some(out)),
        }
    })
    .await
}

/// The frames of a stream, each with its place, and the entries of its index. All that is told of a frame is true.
async fn video_of(client: &Client, scope: &str, stream: &str) -> (Vec<(u64, Bytes)>, Vec<streams::video::Entry>) {
    use streams::video::{self, Entry, INDEXED};
    let all = async |name: &str| {
        let (segment, end) = client.tail(scope, name).await.unwrap().pop_first().unwrap();
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < end {
            bytes.extend_from_slice(&client.read(scope, name, segment, bytes.len() as u64, 1 << 20).await.unwrap());
        }
        bytes.freeze()
    };
    let index = Entry::parse(&all(&video::index_name(stream)).await);
    let mut data = all(stream).await;
    let (mut at, mut frames) = (0, Vec::new());
    while !data.is_empty() {
        let whole = 8 + u32::from_be_bytes(data[4..8].try_into().unwrap()) as usize;
        frames.push((at, data.split_to(whole)));
        at += whole as u64;
    }
    for entry in &index {
        let (_, frame) = frames.iter().find(|(at, _)| *at == entry.offset).unwrap_or_else(|| panic!("an entry tells of {}, where no frame begins", entry.offset));
        assert!(u32::from_be_bytes(frame[8..12].try_into().unwrap()) & INDEXED != 0 && frame[12..20] == entry.tai_ns.to_be_bytes(), "an entry tells of another frame");
    }
    assert!(index.windows(2).all(|pair| pair[0].tai_ns < pair[1].tai_ns && pair[0].offset < pair[1].offset));
    (frames, index)
}

/// A camera's process is killed in an outage and started again: what the server has not read yet of the first one must not come between the frames of the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_video_ingester_that_is_started_again_in_an_outage_knows_where_its_frames_lie() {
    use streams::video::ingest::Ingester;
    let mut store = None;
    let running = server_told(|o| o.store.backlog_max = 1 << 20, |s| store = Some(s.store())).await;
    let (store, client) = (store.unwrap(), client(&running).await);
    client.create_stream("s", "filler", segments(1)).await.unwrap();
    let data = vec![1; 900 << 10].into();
    let filled = store.append(streams::store::Append { segment: "s/filler/0.#epoch.0", writer: 1, event: 1, events: 1, expected: None, data });
    store.settle(filled).await.unwrap();
    let killed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let address = running.controller.to_string();
    killed.spawn(async move {
        let client = Client::connect(&address).await.unwrap();
        let pictures: Vec<(u64, bool)> = (0..600).map(|n| (n, n % 300 == 0)).collect();
        let _ = Ingester::open(&client, "s", "camera").await.unwrap().run(&mpeg_ts(&pictures, 5)[..]).await;
    });
    until(running.http, "/metrics", |text| text.lines().any(|l| l.strip_prefix("cloudskin_streams_held_total ").is_some_and(|n| n != "0"))).await;
    killed.shutdown_background();
    // The log is full, so that one stands still, and its frames lie in the server's socket.
    let mut second = Ingester::open(&client, "s", "camera").await.unwrap();
    let length = async |client: &Client| *client.tail("s", "camera").await.unwrap().values().next().unwrap();
    let before = length(&client).await;
    let pictures: Vec<(u64, bool)> = (1000..1030).map(|n| (n, n % 10 == 0)).collect();
    let second = tokio::spawn(async move { second.run(&mpeg_ts(&pictures, 5)[..]).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!second.is_finished() && length(&client).await == before, "it was to wait");
    client.truncate("s", "filler", &client.tail("s", "filler").await.unwrap()).await.unwrap();
    let taken = second.await.unwrap().unwrap();
    assert_eq!(taken.frames, 30);
    let (frames, index) = video_of(&client, "s", "camera").await;
    assert!(index.len() >= 3 && frames.len() > 30 && frames[frames.len() - 30].0 == before, "{} entries, {} frames", index.len(), frames.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_video_ingesters_the_later_one_goes_on_and_the_other_says_why_it_ends() {
    use streams::video::ingest::Ingester;
    let running = server().await;
    let client = client(&running).await;
    let mut first = Ingester::open(&client, "s", "camera").await.unwrap();
    let (mut camera, input) = tokio::io::duplex(1 << 20);
    camera.write_all(&mpeg_ts(&[(0, true), (1, false), (2, true)], 2)).await.unwrap();
    let first = tokio::spawn(async move { first.run(input).await });
    tokio::time::timeout(Duration::from_secs(20), async {
        while client.tail("s", "camera-index").await.is_ok_and(|tail| tail.values().ne([&40])) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("two entries");
    let mut second = Ingester::open(&client, "s", "camera").await.unwrap();
    second.run(&mpeg_ts(&[(10, true), (11, false)], 3)[..]).await.unwrap();
    camera.write_all(&mpeg_ts(&[(3, false), (4, true), (5, false)], 4)).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), first).await.expect("it ends").unwrap().unwrap_err();
    assert!(ended.to_string().contains("started later writes to s/camera"), "{ended}");
    second.run(&mpeg_ts(&[(12, true), (13, false)], 5)[..]).await.unwrap();
    let (frames, index) = video_of(&client, "s", "camera").await;
    assert_eq!((frames.len(), index.len()), (3 + 4, 2 + 2));
    // Who appends to a camera's stream by hand moves all places behind that: no entry tells of a wrong one.
    let mut other = Writer::open(&client, "s", "camera", None).await.unwrap();
    other.append("k", &[0; 30], 0).await.unwrap();
    other.flush().await.unwrap();
    let ended = second.run(&mpeg_ts(&[(14, true), (15, true)], 1)[..]).await.unwrap_err();
    assert!(ended.to_string().contains("something else was appended"), "{ended}");
    let mut third = Ingester::open(&client, "s", "camera").await.unwrap();
    third.run(&mpeg_ts(&[(16, true), (17, true)], 1)[..]).await.unwrap();
    let (_, index) = video_of(&client, "s", "camera").await;
    assert!(index.len() >= 4 + 2);
    // And a stream that is scaled under it has no such places.
    client.scale("s", "camera", 2).await.unwrap();
    let ended = third.run(&mpeg_ts(&[(18, true), (19, true)], 1)[..]).await.unwrap_err();
    assert!(ended.to_string().contains("scaled"), "{ended}");
}

/// An encoder that follows another one over the same ingester does not go on from where that was: players are told.
#[tokio::test(flavor = "multi_thread")]
async fn where_an_encoder_follows_another_one_the_index_says_so() {
    use streams::video::{self, ingest::Ingester};
    let running = server().await;
    let client = client(&running).await;
    let mut ingester = Ingester::open(&client, "s", "camera").await.unwrap();
    ingester.run(&mpeg_ts(&[(0, true), (1, false), (2, true)], 2)[..]).await.unwrap();
    // It may begin in the middle of a group of pictures.
    ingester.run(&mpeg_ts(&[(10, false), (11, true), (12, false), (13, true)], 2)[..]).await.unwrap();
    let (_, index) = video_of(&client, "s", "camera").await;
    let said: Vec<bool> = index.iter().map(|entry| entry.flags & video::DISCONTINUITY != 0).collect();
    assert_eq!(said, [true, false, true, false]);
}

/// The native client's transactions: all of one is there, also when the stream was scaled meanwhile, or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_native_transaction_is_there_as_a_whole_or_not_at_all() {
    let (running, store) = server_and_store().await;
    let client = client(&running).await;
    client.create_stream("s", "t", segments(2)).await.unwrap();
    let fill = async |txn: &mut Transaction, from: u32| {
        for n in from..from + 100 {
            txn.append(&(n % 7).to_string(), &n.to_be_bytes()).await.unwrap();
        }
    };
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(Transaction::begin(&client, "s", "t").await.unwrap());
    }
    for (n, txn) in all.iter_mut().enumerate() {
        fill(txn, 100 * n as u32).await;
        txn.flush().await.unwrap();
    }
    let there = || store.peek(|s| s.catalog.stream("s", "t").unwrap().segments().into_keys().map(|n| s.segment(&n.name("s", "t")).unwrap().length).sum::<u64>());
    assert_eq!(there(), 0, "nothing is there before a commit");
    let mut all = all.into_iter();
    all.next().unwrap().commit().await.unwrap();
    all.next().unwrap().abort().await.unwrap();
    client.scale("s", "t", 3).await.unwrap();
    all.next().unwrap().commit().await.unwrap();
    // Ended by somebody else, as by its lease: who goes on with it hears so, and at its commit.
    let mut gone = all.next().unwrap();
    for id in store.peek(|s| s.catalog.stream("s", "t").unwrap().open.keys().copied().collect::<Vec<_>>()) {
        store.change(|s| streams::plan::abort_txn(s, "s", "t", id)).await.unwrap();
    }
    let told = async {
        loop {
            gone.append("k", b"late").await?;
            gone.flush().await?;
        }
    };
    let told: streams::Result<()> = tokio::time::timeout(Duration::from_secs(10), told).await.expect("it is told");
    assert!(matches!(told, Err(streams::Error::NoTxn(_))), "{told:?}");
    assert!(gone.commit().await.is_err());
    let mut reader = Reader::open(&client, "s", "t", From::Head).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 200 {
        let event = tokio::time::timeout(Duration::from_secs(10), reader.next()).await.expect("200 events").unwrap().unwrap();
        seen.push(u32::from_be_bytes(event.data[..].try_into().unwrap()));
    }
    for key in 0..7 {
        let of_key: Vec<u32> = seen.iter().copied().filter(|n| n % 7 == key).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
    seen.sort_unstable();
    assert!(seen.into_iter().eq((0..100).chain(200..300)));
}

/// Who plays a live list knows where a part belongs, also when the discontinuity before it is not in the list any more; and a list promises no shorter parts than the one before.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_playlist_counts_the_discontinuities_that_have_left_it() {
    use streams::video::{self, Entry};
    let running = server().await;
    let client = client(&running).await;
    for name in ["camera", "camera-index"] {
        client.create_stream("s", name, segments(1)).await.unwrap();
    }
    let mut data = Writer::open(&client, "s", "camera", None).await.unwrap();
    let mut index = Writer::open(&client, "s", "camera-index", None).await.unwrap();
    let (mut offset, mut seconds) = (0, 1000u64);
    let cut = |n: u64| [0, 15, 16, 22].contains(&n);
    let (mut counts, mut longest) = (Vec::new(), Vec::new());
    for n in 0..40u64 {
        // One part takes five seconds.
        // One part takes five seconds, and before the encoder's next start there is nothing for an hour.
        seconds += match n {
            20 => 5,
            22 => 3600,
            _ => 1,
        };
        let flags = video::RANDOM_ACCESS | if cut(n) { video::DISCONTINUITY } else { 0 };
        let frame = video::frame(flags, video::tai(seconds * 1_000_000_000), &[0x47; 188]);
        index.append_bytes("video", &Entry { flags, tai_ns: video::tai(seconds * 1_000_000_000), offset }.bytes(), n).await.unwrap();
        data.append("video", &frame, n).await.unwrap();
        offset += 8 + frame.len() as u64;
        data.flush().await.unwrap();
        index.flush().await.unwrap();
        let (status, list) = http(running.http, "GET", "/video/s/camera/live.m3u8", None, "").await;
        let tag = |name: &str| list.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.parse::<u64>().unwrap());
        let (sequence, count) = (tag("#EXT-X-MEDIA-SEQUENCE:").unwrap(), tag("#EXT-X-DISCONTINUITY-SEQUENCE:").unwrap());
        assert_eq!((status, sequence), (200, n.saturating_sub(6)), "{list}");
        longest.push(tag("#EXT-X-TARGETDURATION:").unwrap());
        // What the first part has before it, and where the list itself says so.
        counts.push((sequence, count, list.matches("#EXT-X-DISCONTINUITY\n").count() as u64));
    }
    for (sequence, count, within) in &counts {
        assert_eq!(count - counts[0].1, (1..=*sequence).filter(|n| cut(*n)).count() as u64, "{counts:?}");
        assert_eq!(*within, (sequence + 1..sequence + 6).filter(|n| cut(*n)).count() as u64, "{counts:?}");
    }
    assert!(longest.is_sorted() && longest[39] == 5, "{longest:?}");
}

/// Pictures in MPEG-TS behind the tables that they take, each with its number as time and content and so many packets more than one, and whether a player can begin with it.
fn mpeg_ts(pictures: &[(u64, bool)], more: usize) -> Vec<u8> {
    let packet = |id: u16, begins: bool, random: bool, payload: &[u8]| {
        let stuffing = 188 - 5 - payload.len();
        let mut out = vec![0x47, (u8::from(begins) << 6) | (id >> 8) as u8, id as u8, 0x30, stuffing as u8, if random { 0x40 } else { 0 }];
        out.resize(5 + stuffing, 0xff);
        out.extend_from_slice(payload);
        out
    };
    let table = |id: u16, kind: u8, body: &[u8]| packet(id, true, false, &[&[0, kind, 0xb0, body.len() as u8 + 4][..], body, &[0; 4]].concat());
    let program = table(0, 0, &[0, 1, 0xc1, 0, 0, 0, 1, 0xe1, 0x00]);
    let streams = table(0x100, 2, &[0, 1, 0xc1, 0, 0, 0xe1, 0x01, 0xf0, 0, 0x1b, 0xe1, 0x01, 0xf0, 0]);
    let mut all = [program, streams].concat();
    for (n, random) in pictures {
        let time = n * 3000;
        let time = [0x21 | (time >> 29) as u8 & 0xe, (time >> 22) as u8, (time >> 14) as u8 | 1, (time >> 7) as u8, (time << 1) as u8 | 1];
        let nal = if *random { 0x65 } else { 0x41 };
        all.extend(packet(0x101, true, *random, &[&[0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5][..], &time, &[0, 0, 0, 1, nal, 9, 9, 9]].concat()));
        (0..more).for_each(|_| all.extend(packet(0x101, false, false, &[*n as u8; 150])));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_or_too_much_before_hello_goes() {
    let running = server().await;
    // A large command before hello is not waited for.
    let mut stream = TcpStream::connect(running.segments).await.unwrap();
    stream.write_all(&[4i32.to_be_bytes(), (1i32 << 20).to_be_bytes()].concat()).await.unwrap();
    let mut got = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut got)).await;
    assert!(ended.is_ok() && got.is_empty(), "{got:?}");
    // Nor is a client that says nothing, whichever port it has come to.
    let mut silent = [TcpStream::connect(running.segments).await.unwrap(), TcpStream::connect(running.controller).await.unwrap()];
    for stream in &mut silent {
        let ended = tokio::time::timeout(Duration::from_secs(40), async {
            let mut buffer = [0; 100];
            // The controller's greets, or breaks off.
            while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        });
        assert!(ended.await.is_ok(), "{stream:?} keeps its place");
    }
    works(&running, "after").await;
}

/// Nothing comes of a machine that has lost its power. Its kernel is asked, whose answer needs no program, so that none keeps a place for ever.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_have_gone_without_a_word_is_asked_for() {
    let running = server().await;
    let (talk, http) = (Talk::open(&running).await, TcpStream::connect(running.http).await.unwrap());
    let controller = TcpStream::connect(running.controller).await.unwrap();
    for stream in [&talk.0, &controller, &http] {
        let (near, far) = (stream.local_addr().unwrap().port(), stream.peer_addr().unwrap().port());
        let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).ok();
        let end = std::time::Instant::now() + Duration::from_secs(20);
        // The server's side of the connection: which timer it has (2: for a sign of life), and when that ends, in hundredths of a second.
        loop {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let lines = table.lines().map(|l| l.split_ascii_whitespace().collect::<Vec<_>>());
            let own = lines.filter(|l| port(l[1]) == Some(far) && port(l[2]) == Some(near)).map(|l| l[5].to_string()).next();
            let timer = own.as_ref().and_then(|t| t.split_once(':')).map(|(kind, left)| (kind.to_string(), u64::from_str_radix(left, 16).unwrap()));
            if timer.as_ref().is_some_and(|(kind, left)| kind == "02" && *left <= 6100) {
                break;
            }
            assert!(std::time::Instant::now() < end, "the connection to {far} has the timer {timer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_update_asks_for_more_segments_than_there_may_be() {
    use streams::proto::{StreamConfig, update_stream_status};
    let running = server_with(|o| o.scaling = streams::scale::Profile::fast()).await;
    let client = client(&running).await;
    client.create_stream("s", "t", segments(1)).await.unwrap();
    for (scale_factor, min_num_segments) in [(2, i32::MAX), (i32::MAX, 1), (2, 10_001)] {
        let policy = ScalingPolicy { scale_type: 2, target_rate: 1, scale_factor, min_num_segments };
        let config = StreamConfig { stream_info: info("t"), scaling_policy: Some(policy), ..StreamConfig::default() };
        let refused = raw(&running).await.update_stream(config).await;
        assert!(refused.is_err() || refused.is_ok_and(|r| r.into_inner().status() != update_stream_status::Status::Success), "{scale_factor} {min_num_segments}");
    }
    assert_eq!(client.current("s", "t").await.unwrap().len(), 1);
    works(&running, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order_per_key_over_scaling_up_and_down() {
    let running = server().await;
    let client = client(&running).await;
    client.create_stream("s", "scaled", segments(1)).await.unwrap();
    let c = client.clone();
    let reading = tokio::spawn(async move {
        let mut reader = Reader::open(&c, "s", "scaled", From::Head).await.unwrap();
        let mut keys: std::collections::HashMap<u64, Vec<u64>> = Default::default();
        while let Some(event) = reader.next().await.unwrap() {
            let n = u64::from_be_bytes(event.data[..].try_into().unwrap());
            keys.entry(n % 20).or_default().push(n);
        }
        keys
    });
    let mut writer = Writer::open(&client, "s", "scaled", None).await.unwrap();
    let mut n = 0u64;
    for to in [4, 2, 7, 1] {
        for _ in 0..3000 {
            writer.append(&(n % 20).to_string(), &n.to_be_bytes(), n).await.unwrap();
            n += 1;
        }
        client.scale("s", "scaled", to).await.unwrap();
        assert_eq!(client.current("s", "scaled").await.unwrap().len(), to as usize);
    }
    for _ in 0..1000 {
        writer.append(&(n % 20).to_string(), &n.to_be_bytes(), n).await.unwrap();
        n += 1;
    }
    writer.flush().await.unwrap();
    client.seal("s", "scaled").await.unwrap();
    let keys = tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap().unwrap();
    for key in 0..20 {
        let all: Vec<u64> = (0..n).filter(|n| n % 20 == key).collect();
        assert_eq!(keys[&key], all, "key {key}");
    }
}

/// A stream of commands to the segment store's port, and replies one by one.
struct Talk(TcpStream);

impl Talk {
    async fn open(running: &Running) -> Talk {
        let mut talk = Talk(TcpStream::connect(running.segments).await.unwrap());
        talk.say(-127, &[0, 0, 0, 17, 0, 0, 0, 5]).await;
        assert_eq!(talk.hear().await.unwrap().0, -127);
        talk
    }

    async fn say(&mut self, kind: i32, payload: &[u8]) {
        self.0.write_all(&frame(kind, payload)).await.unwrap();
    }

    /// The next reply's type and fields; `None` when the server has hung up.
    async fn hear(&mut self) -> Option<(i32, Vec<u8>)> {
        let whole = async {
            let mut head = [0; 8];
            self.0.read_exact(&mut head).await.ok()?;
            let mut got = vec![0; u32::from_be_bytes(head[4..].try_into().unwrap()) as usize];
            self.0.read_exact(&mut got).await.ok()?;
            Some((i32::from_be_bytes(head[..4].try_into().unwrap()), got))
        };
        tokio::time::timeout(Duration::from_secs(20), whole).await.expect("an answer comes, or the connection ends")
    }

    /// [`Talk::hear`], by when it is: one that is quiet has not ended.
    async fn hear_or_end(&mut self) -> Option<(i32, Vec<u8>)> {
        self.0.readable().await.ok()?;
        self.hear().await
    }

    async fn ask(&mut self, kind: i32, payload: &[u8]) -> Option<(i32, Vec<u8>)> {
        self.say(kind, payload).await;
        self.hear().await
    }
}

fn setup(id: i64, writer: u128, segment: &str) -> Vec<u8> {
    [&id.to_be_bytes()[..], &writer.to_be_bytes(), &text(segment), &text("")].concat()
}

/// One event, as a block that is whole in its end.
fn event(id: i64, writer: u128, number: i64, data: &[u8]) -> Vec<u8> {
    let event = [&0i32.to_be_bytes()[..], &(data.len() as i32).to_be_bytes(), data].concat();
    [&writer.to_be_bytes()[..], &0i32.to_be_bytes(), &(event.len() as i32).to_be_bytes(), &event, &1i32.to_be_bytes(), &number.to_be_bytes(), &id.to_be_bytes()].concat()
}

fn read_at(id: i64, segment: &str, offset: i64, length: i32) -> Vec<u8> {
    [&text(segment)[..], &offset.to_be_bytes(), &length.to_be_bytes(), &text(""), &id.to_be_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_log_has_stopped_what_is_durable_is_still_read() {
    let (running, store) = server_and_store().await;
    let client = client(&running).await;
    client.create_stream("s", "kept", segments(1)).await.unwrap();
    client.create_stream("s", "lost", segments(1)).await.unwrap();
    let mut writer = Writer::open(&client, "s", "kept", None).await.unwrap();
    for n in 0..100u64 {
        writer.append("k", &n.to_be_bytes(), n).await.unwrap();
    }
    writer.flush().await.unwrap();
    let (kept, lost) = ("s/kept/0.#epoch.0", "s/lost/0.#epoch.0");
    let before = Talk::open(&running).await;
    // When it stops, what is being written may become durable, and what waits for that never does. So more is given than the four blocks that are written at a time, and
    // that in no time: all of it is the same bytes.
    let data = bytes::Bytes::from(vec![7u8; 4 << 20]);
    for n in 1..=15 {
        let _ = store.append(streams::store::Append { segment: lost, writer: 9, event: n, events: 1, expected: None, data: data.clone() });
    }
    store.log().stop("the disk refuses");
    assert!(store.log().last().0 > store.log().durable().0 + 4, "nothing waited any more");
    // An old connection and a new one: bytes, what a segment is like, and what a writer had.
    for mut talk in [before, Talk::open(&running).await] {
        let (kind, got) = talk.ask(9, &read_at(1, kept, 0, 1 << 20)).await.expect("a read is answered");
        assert_eq!((kind, got.len() > 1600), (10, true));
        let (kind, got) = talk.ask(11, &[&2i64.to_be_bytes()[..], &text(kept), &text("")].concat()).await.expect("its length is known");
        assert_eq!((kind, &got[..8]), (12, &2i64.to_be_bytes()[..]));
        assert_eq!(talk.ask(11, &[&3i64.to_be_bytes()[..], &text("s/none/0.#epoch.0"), &text("")].concat()).await.unwrap().0, 53);
        // But nothing is written.
        assert_eq!(talk.ask(1, &setup(4, 77, kept)).await.unwrap().0, 2);
        assert_eq!(talk.ask(4, &event(5, 77, 1, b"more")).await, None, "an append is refused with the connection");
    }
    // Of the other segment nothing is told that may not be true.
    let mut talk = Talk::open(&running).await;
    assert_eq!(talk.ask(11, &[&6i64.to_be_bytes()[..], &text(lost), &text("")].concat()).await, None);
    // The controller, our own reader, and HTTP.
    let again = Client::connect(&running.controller.to_string()).await.unwrap();
    assert_eq!(again.current("s", "kept").await.unwrap().len(), 1);
    let mut reader = Reader::open(&again, "s", "kept", From::Head).await.unwrap();
    for n in 0..100u64 {
        let event = tokio::time::timeout(Duration::from_secs(20), reader.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(event.data[..], n.to_be_bytes());
    }
    assert!(again.create_stream("s", "new", segments(1)).await.is_err());
    let (status, body) = http(running.http, "GET", "/v1/streams", None, "").await;
    assert!(status == 200 && body.contains("the disk refuses"), "{status} {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_large_event_was_gathered_in_goes_with_its_connection() {
    let running = server().await;
    client(&running).await.create_stream("s", "t", segments(1)).await.unwrap();
    let name = "s/t/0.#epoch.0";
    let mut talk = Talk::open(&running).await;
    let (kind, got) = talk.ask(40, &[&1i64.to_be_bytes()[..], &7u128.to_be_bytes(), &text(name), &text("")].concat()).await.unwrap();
    let transient = String::from_utf8(got[10..].to_vec()).unwrap();
    assert!(kind == 21 && transient.starts_with(name), "{transient}");
    let merge = [&2i64.to_be_bytes()[..], &text("s/none/0.#epoch.0"), &text(&transient), &text("")].concat();
    assert_eq!(talk.ask(58, &merge).await.unwrap().0, 53, "there is nothing to merge it into");
    let info = [&3i64.to_be_bytes()[..], &text(&transient), &text("")].concat();
    assert_eq!(talk.ask(11, &info).await.unwrap().0, 12, "it is still there");
    drop(talk);
    let (mut talk, end) = (Talk::open(&running).await, std::time::Instant::now() + Duration::from_secs(20));
    while talk.ask(11, &info).await.unwrap().0 != 53 {
        assert!(std::time::Instant::now() < end, "{transient} stays for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segments_attributes_have_a_bound_also_where_a_merge_brings_them() {
    let running = server().await;
    client(&running).await.create_stream("s", "t", segments(1)).await.unwrap();
    let name = "s/t/0.#epoch.0";
    let mut talk = Talk::open(&running).await;
    let (_, got) = talk.ask(40, &[&1i64.to_be_bytes()[..], &7u128.to_be_bytes(), &text(name), &text("")].concat()).await.unwrap();
    let transient = String::from_utf8(got[10..].to_vec()).unwrap();
    let merge = |id: i64, count: u32| {
        let updates = (0..count).flat_map(|n| [&u128::from(n).to_be_bytes()[..], &[1], &5i64.to_be_bytes(), &0i64.to_be_bytes()].concat());
        [&id.to_be_bytes()[..], &text(name), &text(&transient), &text(""), &(count as i32).to_be_bytes()].concat().into_iter().chain(updates).collect::<Vec<u8>>()
    };
    assert_eq!(talk.ask(58, &merge(2, 100_001)).await.unwrap().0, 61);
    // Nothing of that has been done.
    let attribute = |id: i64| [&id.to_be_bytes()[..], &text(name), &3u128.to_be_bytes(), &text("")].concat();
    let (kind, got) = talk.ask(34, &attribute(3)).await.unwrap();
    assert_eq!((kind, &got[8..16]), (35, &i64::MIN.to_be_bytes()[..]));
    assert_eq!(talk.ask(58, &merge(4, 4)).await.unwrap().0, 59);
    let (kind, got) = talk.ask(34, &attribute(5)).await.unwrap();
    assert_eq!((kind, &got[8..16]), (35, &5i64.to_be_bytes()[..]));
}

fn update(id: i64, table: &str, entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = [&id.to_be_bytes()[..], &text(table), &text(""), &(entries.len() as i32).to_be_bytes()].concat();
    for (key, value) in entries {
        out.extend((key.len() as i32 + 12).to_be_bytes());
        out.extend((key.len() as i32).to_be_bytes());
        out.extend_from_slice(key);
        out.extend(i64::MIN.to_be_bytes());
        out.extend((value.len() as i32 + 4).to_be_bytes());
        out.extend((value.len() as i32).to_be_bytes());
        out.extend_from_slice(value);
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tables_keys_and_memory_have_bounds() {
    let running = server_with(|o| o.store.table_bytes_max = 256 << 10).await;
    let mut talk = Talk::open(&running).await;
    let named = |id: i64, name: &str| [&id.to_be_bytes()[..], &text(name), &text("")].concat();
    assert_eq!(talk.ask(70, &named(1, "a/table")).await.unwrap().0, 21);
    // A key that no list of keys could give back, and a value of more than Pravega takes.
    assert_eq!(talk.ask(74, &update(2, "a/table", &[(&vec![b'k'; 10 << 20], b"v")])).await.unwrap().0, 61);
    assert_eq!(talk.ask(74, &update(3, "a/table", &[(b"k", &vec![0; (1 << 20) + 1])])).await.unwrap().0, 61);
    // Entries of no bytes to speak of fill it all the same.
    let mut n = 0u32;
    while talk.ask(74, &update(4, "a/table", &[(&n.to_be_bytes(), b"")])).await.unwrap().0 == 75 {
        n += 1;
        assert!(n <= 1500, "{n} entries in 256 KiB");
    }
    assert!(n > 1000, "{n} entries only");
    // What is there can be replaced, and so can what makes room.
    assert_eq!(talk.ask(74, &update(5, "a/table", &[(&0u32.to_be_bytes(), b"")])).await.unwrap().0, 75);
    let range = [&named(6, "a/table")[..], &10_000i32.to_be_bytes(), &0i32.to_be_bytes(), &0i32.to_be_bytes(), &[0, 0, 0, 1, 0], &0i32.to_be_bytes()].concat();
    let (kind, got) = talk.ask(83, &range).await.unwrap();
    assert_eq!((kind, i32::from_be_bytes(got[17..21].try_into().unwrap())), (84, n as i32));
}

/// What HTTP answers: status and body.
async fn http(to: SocketAddr, method: &str, path: &str, user: Option<&str>, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let user = user.map(|u| format!("authorization: Basic {u}\r\n")).unwrap_or_default();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{user}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_string())
}

/// Waits until what HTTP answers is as it should be.
async fn until(at: SocketAddr, path: &str, done: impl Fn(&str) -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let (_, text) = http(at, "GET", path, None, "").await;
        if done(&text) {
            return;
        }
        assert!(std::time::Instant::now() < end, "{path} still says {text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_do_what_their_rules_say_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    let user = |name: &str, rules: &[&str]| access::line(name, &format!("{name}'s"), &rules.iter().map(|r| r.parse::<Rule>().unwrap()).collect::<Vec<_>>()).unwrap();
    let lines = [
        user("admin", &["prn::*,READ_UPDATE"]),
        user("writer", &["prn::/scope:s/stream:t,READ_UPDATE"]),
        user("reader", &["prn::/scope:s/stream:t,READ", "prn::/scope:s/stream:scaled,READ"]),
        user("late", &["prn::/,READ"]),
        user("all", &["prn::/scope:s/stream:*,READ_UPDATE"]),
        user("lister", &["prn::/scope:s,READ", "prn::/scope:s/stream:t,READ"]),
        user("grouper", &["prn::/scope:s/reader-group:*,READ_UPDATE", "prn::/scope:s/stream:t,READ"]),
    ];
    std::fs::write(&file, lines.join("\n")).unwrap();
    // Tokens that end while they are used.
    let running = server_with(|o| o.users = Some(Users { file, token_life: Duration::from_secs(2) })).await;
    let address = running.controller.to_string();
    let login = async |name: &str, password: &str| Client::open(&address, &Login { user: Some((name.into(), password.into())), ..Login::default() }).await.unwrap();
    let admin = login("admin", "admin's").await;
    admin.create_scope("s").await.unwrap();
    admin.create_stream("s", "t", segments(2)).await.unwrap();
    admin.create_stream("s", "other", segments(1)).await.unwrap();

    let denied = |e: streams::Error| assert_eq!(e.kind(), base::Kind::PermissionDenied, "{e}");
    let unknown = |e: streams::Error| assert_eq!(e.kind(), base::Kind::Unauthenticated, "{e}");
    unknown(Client::connect(&address).await.unwrap().scopes().await.unwrap_err());
    unknown(login("admin", "writer's").await.scopes().await.unwrap_err());
    unknown(login("nobody", "x").await.scopes().await.unwrap_err());
    let (writer, reader) = (login("writer", "writer's").await, login("reader", "reader's").await);
    denied(writer.scopes().await.unwrap_err());
    denied(writer.current("s", "other").await.unwrap_err());
    // Whose right is to a scope's list sees in it what he may read.
    let lister = login("lister", "lister's").await;
    assert_eq!(lister.streams("s").await.unwrap(), ["t"]);
    assert_eq!(admin.streams("s").await.unwrap(), ["other", "t"]);
    assert_eq!((login("late", "late's").await.scopes().await.unwrap(), admin.scopes().await.unwrap()), (vec![], vec!["s".to_string()]));
    denied(reader.seal("s", "t").await.unwrap_err());
    // A group keeps its streams from being forgotten: it may be made by who may read them.
    for (stream, may) in [("t", true), ("other", false)] {
        let group = streams::proto::ReaderGroupConfiguration { scope: "s".into(), reader_group_name: "g".into(), starting_stream_cuts: vec![position(stream, &[]).unwrap()], ..Default::default() };
        let mut request = tonic::Request::new(group);
        request.metadata_mut().insert("authorization", format!("Basic {}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "grouper:grouper's")).parse().unwrap());
        let made = raw(&running).await.create_reader_group(request).await;
        assert!(if may { made.is_ok() } else { made.as_ref().is_err_and(|e| e.code() == tonic::Code::PermissionDenied && e.message().contains("prn::/scope:s/stream:other")) }, "{stream}: {made:?}");
    }
    // Who may read can't write, and is told which right is missing.
    let mut wrong = Writer::open(&reader, "s", "t", None).await.unwrap();
    wrong.append("k", b"x", 0).await.unwrap();
    let why = wrong.flush().await.unwrap_err();
    assert!(why.to_string().contains("\"reader\" may not change prn::/scope:s/stream:t: that needs READ_UPDATE"), "{why}");
    denied(why);

    // Two tokens' lives of writing and reading, with what comes at its time.
    let mut stream = Writer::open(&writer, "s", "t", None).await.unwrap();
    let (mut events, mut seen) = (Reader::open(&reader, "s", "t", From::Head).await.unwrap(), Vec::new());
    for n in 0..25u64 {
        stream.append(&n.to_string(), &n.to_be_bytes(), n).await.unwrap();
        stream.flush().await.unwrap();
        let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap().unwrap();
        seen.push(u64::from_be_bytes(event.data[..].try_into().unwrap()));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..25).collect::<Vec<_>>());

    // Without a token nothing is told of a segment.
    let name = "s/t/0.#epoch.0";
    let info = [&9i64.to_be_bytes()[..], &(name.len() as u16).to_be_bytes(), name.as_bytes(), &0u16.to_be_bytes()].concat();
    let got = say(running.segments, &frame(11, &info)).await;
    assert_eq!((&got[..4], &got[8..16]), (&60i32.to_be_bytes()[..], &9i64.to_be_bytes()[..]), "the token check failed");

    // A reader's token does not let its bearer write, whatever the controller was asked.
    let known = access::Access::load(&folder.path().join("users"), &running._folder.path().join("streams/token.key"), Duration::from_secs(60)).unwrap();
    let token = known.token(Some("reader"), &[access::stream("s", "t")], access::Want::Update, base::clock::now_ms());
    let setup = [&13i64.to_be_bytes()[..], &[7; 16], &text(name), &text(&token)].concat();
    let got = say(running.segments, &frame(1, &setup)).await;
    assert_eq!((&got[..4], &got[8..16]), (&60i32.to_be_bytes()[..], &13i64.to_be_bytes()[..]), "the token check failed");

    // Who may write to one stream can't take another one's bytes into it, nor a batch of which one is another's.
    let secret = "s/other/0.#epoch.0";
    let mut kept = Writer::open(&admin, "s", "other", None).await.unwrap();
    kept.append("k", b"secret", 0).await.unwrap();
    kept.flush().await.unwrap();
    let token = known.token(Some("writer"), &[access::stream("s", "t")], access::Want::Update, base::clock::now_ms());
    let merge = [&11i64.to_be_bytes()[..], &text(name), &text(secret), &text(&token)].concat();
    let batch = [&12i64.to_be_bytes()[..], &text(name), &2i32.to_be_bytes(), &text("s/t/1.#epoch.0"), &text(secret), &text(&token)].concat();
    for (kind, id, merge) in [(58, 11i64, merge), (90, 12, batch)] {
        let got = say(running.segments, &frame(kind, &merge)).await;
        assert_eq!((&got[..4], &got[8..16]), (&60i32.to_be_bytes()[..], &id.to_be_bytes()[..]), "the token check failed");
    }
    let mut other = Reader::open(&admin, "s", "other", From::Head).await.unwrap();
    assert_eq!(&other.next().await.unwrap().unwrap().data[..], b"secret");

    // Who may only read a stream tells nobody else what retention may forget of it; and who may do nothing is not told what there is.
    let update = async |user: &str| {
        let mut request = tonic::Request::new(streams::proto::SubscriberStreamCut { subscriber: "s/group".into(), stream_cut: position("t", &[(0, 1)]), ..Default::default() });
        request.metadata_mut().insert("authorization", format!("Basic {user}").parse().unwrap());
        raw(&running).await.update_subscriber_stream_cut(request).await.map_or_else(|e| e.code(), |_| tonic::Code::Ok)
    };
    assert_eq!((update("cmVhZGVyOnJlYWRlcidz").await, update("d3JpdGVyOndyaXRlcidz").await), (tonic::Code::PermissionDenied, tonic::Code::Ok));
    let mut table = tonic::Request::new(streams::proto::KeyValueTableConfig { scope: "s".into(), kvt_name: "table".into(), partition_count: 1, primary_key_length: 8, ..Default::default() });
    table.metadata_mut().insert("authorization", "Basic YWRtaW46YWRtaW4ncw==".parse().unwrap());
    raw(&running).await.create_key_value_table(table).await.unwrap();
    let token = async |name: &str| {
        let mut request = tonic::Request::new(streams::proto::StreamInfo { scope: "s".into(), stream: name.into(), access_operation: 0 });
        request.metadata_mut().insert("authorization", "Basic cmVhZGVyOnJlYWRlcidz".parse().unwrap());
        raw(&running).await.get_delegation_token(request).await.map_err(|e| (e.code(), e.message().replace(name, "NAME")))
    };
    assert_eq!(token("table").await.unwrap_err(), token("nothing").await.unwrap_err());
    assert!(!token("t").await.unwrap().into_inner().delegation_token.is_empty());
    // A right to all streams is none to a table, by whatever name; tables that clients make by themselves are as streams to them.
    let of_all_streams = async |name: &str| {
        let mut request = tonic::Request::new(streams::proto::StreamInfo { scope: "s".into(), stream: name.into(), access_operation: 0 });
        request.metadata_mut().insert("authorization", format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("all:all's")).parse().unwrap());
        raw(&running).await.get_delegation_token(request).await.map_or_else(|e| format!("{:?}", e.code()), |t| t.into_inner().delegation_token)
    };
    assert_eq!(of_all_streams("table_kvtable").await, "PermissionDenied");
    assert_eq!(token("table_kvtable").await.unwrap_err().1.replace("table", "NAME"), token("other_kvtable").await.unwrap_err().1.replace("other", "NAME").replace("table", "NAME"));
    let own = of_all_streams("readers_kvtable").await;
    let part = |name: &str| known.segment(&own, name, access::Want::Update, base::clock::now_ms()).is_ok();
    assert!(part("s/readers_kvtable/0.#epoch.0") && !part("s/table_kvtable/0.#epoch.0"));

    // The same over HTTP, and metrics for everyone.
    assert_eq!(http(running.http, "GET", "/v1/streams", None, "").await.0, 401);
    assert_eq!(http(running.http, "GET", "/v1/streams", Some("d3JpdGVyOndyaXRlcidz"), "").await.0, 403, "writer:writer's");
    let (status, body) = http(running.http, "GET", "/v1/streams", Some("YWRtaW46YWRtaW4ncw=="), "").await;
    assert!(status == 200 && body.contains("\"stream\":\"s/t\""), "{status} {body}");
    // Who tries passwords in a loop, at either port, is told to come back later; who logs in for the first time from elsewhere is let in meanwhile.
    let basic = |name: &str, password: &str| base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
    let controller = raw(&running).await;
    let mut guesses = tokio::task::JoinSet::new();
    for n in 0..40 {
        let (mut controller, at, guess) = (controller.clone(), running.http, basic("admin", &n.to_string()));
        guesses.spawn(async move {
            if n % 2 == 0 {
                return http(at, "GET", "/v1/streams", Some(&guess), "").await.0.to_string();
            }
            let mut request = tonic::Request::new(streams::proto::ScopesRequest::default());
            request.metadata_mut().insert("authorization", format!("Basic {guess}").parse().unwrap());
            format!("{:?}", controller.list_scopes(request).await.unwrap_err().code())
        });
    }
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut elsewhere = elsewhere.connect(running.http).await.unwrap();
    elsewhere.write_all(format!("GET /v1/streams HTTP/1.0\r\nauthorization: Basic {}\r\n\r\n", basic("late", "late's")).as_bytes()).await.unwrap();
    let mut answer = String::new();
    elsewhere.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    let guesses = guesses.join_all().await;
    let told = |what: &str| guesses.iter().filter(|g| *g == what).count();
    assert_eq!(told("429") + told("401") + told("ResourceExhausted") + told("Unauthenticated"), 40, "{guesses:?}");
    assert!(told("429") > 0 && told("ResourceExhausted") > 0 && told("429") + told("ResourceExhausted") >= 10, "{guesses:?}");

    let (status, text) = http(running.http, "GET", "/metrics", None, "").await;
    assert_eq!(status, 200);
    let value = |name: &str| -> f64 { text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{text}")) };
    assert_eq!(value("cloudskin_streams_appended_events_total "), 26.0);
    assert_eq!(value("cloudskin_streams_write_seconds_count "), 26.0);
    // Which streams there are is told to who may list them.
    assert!(!text.contains("s/t/0.#epoch.0"), "{text}");
    let (_, named) = http(running.http, "GET", "/metrics", Some("YWRtaW46YWRtaW4ncw=="), "").await;
    assert!(named.contains("cloudskin_streams_segment_events_per_second{segment=\"s/t/0.#epoch.0\"}"), "{named}");
    let (status, sums) = http(running.http, "GET", "/metrics", Some("d3JpdGVyOndyaXRlcidz"), "").await;
    assert!(status == 200 && !sums.contains("s/t/0.#epoch.0"), "{sums}");
    assert_eq!(http(running.http, "GET", "/metrics", Some("YWRtaW46d3Jvbmc="), "").await.0, 401, "admin:wrong");
    assert!(value("cloudskin_streams_end_to_end_seconds_count ") >= 20.0, "{text}");
    assert!(value("cloudskin_streams_refused_total ") >= 7.0);
    assert!(value("cloudskin_streams_outage_left_seconds ") > 0.0);
}

/// Appends that are acknowledged together are as many in the histogram as any others.
#[tokio::test(flavor = "multi_thread")]
async fn each_append_is_in_the_histogram_of_writes() {
    let running = server().await;
    client(&running).await.create_stream("s", "t", segments(1)).await.unwrap();
    let mut talk = Talk::open(&running).await;
    assert_eq!(talk.ask(1, &setup(3, 5, "s/t/0.#epoch.0")).await.unwrap().0, 2);
    let all: Vec<u8> = (1..=100).flat_map(|n| frame(4, &event(4, 5, n, b"x"))).collect();
    talk.0.write_all(&all).await.unwrap();
    loop {
        let (kind, told) = talk.hear().await.unwrap();
        assert_eq!(kind, 7);
        if told[16..24] == 100i64.to_be_bytes() {
            break;
        }
    }
    let (_, text) = http(running.http, "GET", "/metrics", None, "").await;
    assert!(text.contains("cloudskin_streams_write_seconds_count 100\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn advice_adds_segments_within_the_policy() {
    let running = server_with(|o| o.scaling = streams::scale::Profile::fast()).await;
    let client = client(&running).await;
    let policy = ScalingPolicy { scale_type: 2, target_rate: 1000, scale_factor: 2, min_num_segments: 1 };
    client.create_stream("s", "elastic", policy).await.unwrap();
    client.create_stream("s", "fixed", segments(1)).await.unwrap();
    let advise = async |body: &str| http(running.http, "POST", "/v1/advice", None, body).await;
    assert_eq!(advise(r#"{"stream": "s/none", "segments": 3, "for": "60s"}"#).await.0, 404);
    assert_eq!(advise(r#"{"stream": "s/fixed", "segments": 3, "for": "60s"}"#).await.0, 409);
    for (body, why) in [(r#""until": 7"#, "until"), (r#""until_ms": 7"#, "is over"), (r#""until_ms": 7, "for": "60s""#, "one of"), (r#""for": null"#, "one of")] {
        let (status, told) = advise(&format!(r#"{{"stream": "s/elastic", "segments": 3, {body}}}"#)).await;
        assert!(status == 422 && told.contains(why), "{body}: {status} {told}");
    }
    assert_eq!(advise(r#"{"stream": "s/elastic", "segments": 3, "for": "60s"}"#).await.0, 204);
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while client.current("s", "elastic").await.unwrap().len() != 3 {
        assert!(std::time::Instant::now() < end, "advice was not followed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(client.current("s", "fixed").await.unwrap().len(), 1);
}

/// Decides within seconds.
fn hasty() -> streams::scale::Profile {
    streams::scale::Profile { up: vec![(Duration::from_secs(1), 2.0)], down: Duration::from_secs(2), rest: Duration::from_secs(1) }
}

#[tokio::test(flavor = "multi_thread")]
async fn advice_is_as_if_never_given_when_its_time_is_over() {
    let running = server_with(|o| o.scaling = hasty()).await;
    let client = client(&running).await;
    client.create_stream("s", "elastic", ScalingPolicy { scale_type: 2, target_rate: 1000, scale_factor: 2, min_num_segments: 1 }).await.unwrap();
    let until_ms = base::clock::now_ms() + 8000;
    assert_eq!(http(running.http, "POST", "/v1/advice", None, &format!(r#"{{"stream": "s/elastic", "segments": 3, "until_ms": {until_ms}}}"#)).await.0, 204);
    // Nothing is written, so without advice there would be one.
    let mut seen = vec![1];
    while !(seen.contains(&3) && seen.last() == Some(&1)) {
        let (now, at_ms) = (client.current("s", "elastic").await.unwrap().len(), base::clock::now_ms());
        assert!(at_ms < until_ms + 20_000, "{seen:?}");
        assert!(now == 3 || !seen.contains(&3) || at_ms >= until_ms, "merged before the time was over");
        seen.push(now);
        seen.dedup();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Writes events of so many bytes, so many in a second, until there are that many segments.
async fn splits(policy: ScalingPolicy, bytes: usize, per_second: u64, segments: usize) -> bool {
    let running = server_with(|o| o.scaling = hasty()).await;
    let client = client(&running).await;
    client.create_stream("s", "busy", policy).await.unwrap();
    let mut writer = Writer::open(&client, "s", "busy", None).await.unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    for n in 0..80 {
        tick.tick().await;
        for event in 0..per_second / 10 {
            writer.append(&event.to_string(), &vec![7; bytes], n).await.unwrap();
        }
        if client.current("s", "busy").await.unwrap().len() >= segments {
            writer.flush().await.unwrap();
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_splits_by_its_rate_of_events_or_of_bytes() {
    let policy = |scale_type, target_rate| ScalingPolicy { scale_type, target_rate, scale_factor: 2, min_num_segments: 1 };
    let (events, kib) = (2, 1);
    // 300 events and 30 kB in a second.
    let (by_events, slow, by_bytes, small) = tokio::join!(splits(policy(events, 100), 100, 300, 2), splits(policy(events, 1000), 100, 300, 2), splits(policy(kib, 10), 100, 300, 2), splits(policy(kib, 100), 100, 300, 2));
    assert_eq!((by_events, slow, by_bytes, small), (true, false, true, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_that_is_left_in_an_outage_is_what_the_rate_leaves_of_the_room() {
    let running = server_with(|o| o.store.backlog_max = 64 << 20).await;
    let client = client(&running).await;
    client.create_stream("s", "t", segments(1)).await.unwrap();
    let mut writer = Writer::open(&client, "s", "t", None).await.unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut told = Vec::new();
    // 400 kB in a second, until the mean is that.
    for n in 0..300 {
        tick.tick().await;
        writer.append("k", &vec![7; 40_000], n).await.unwrap();
        let all: serde_json::Value = serde_json::from_str(&http(running.http, "GET", "/v1/streams", None, "").await.1).unwrap();
        let number = |name: &str| all[name].as_f64().unwrap_or(f64::NAN);
        told.push((number("outage_left_seconds"), number("appended_bytes_per_second"), number("backlog_max_bytes") - number("backlog_bytes")));
        if told.last().is_some_and(|(_, rate, _)| (350e3..450e3).contains(rate)) && n > 100 {
            break;
        }
    }
    let (left, rate, room) = *told.last().unwrap();
    assert!((350e3..450e3).contains(&rate), "{rate} B/s");
    assert!((left / (room / rate) - 1.0).abs() < 0.01 && (100.0..200.0).contains(&left), "{left} s at {rate} B/s for {room} bytes");
    let metrics = http(running.http, "GET", "/metrics", None, "").await.1;
    let metric: f64 = metrics.lines().find_map(|l| l.strip_prefix("cloudskin_streams_outage_left_seconds ")?.parse().ok()).unwrap();
    assert!((metric / left - 1.0).abs() < 0.3, "{metric} and {left}");
    // And what a segment has in a second.
    let bytes: f64 = metrics.lines().find_map(|l| l.strip_prefix("cloudskin_streams_segment_bytes_per_second{segment=\"s/t/0.#epoch.0\"} ")?.parse().ok()).unwrap();
    assert!(bytes > 20_000.0, "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_wait_at_the_tail_hold_up_nothing_else_of_their_connection() {
    let running = server().await;
    client(&running).await.create_stream("s", "t", segments(1)).await.unwrap();
    let name = "s/t/0.#epoch.0";
    let mut talk = Talk::open(&running).await;
    assert_eq!(talk.ask(1, &setup(1, 1, name)).await.unwrap().0, 2);
    // More than have places to wait: those beyond are answered with nothing, at once.
    let (places, beyond) = (1024, 3);
    for n in 0..places + beyond {
        talk.say(9, &read_at(n, name, 0, 100)).await;
    }
    for _ in 0..beyond {
        assert_eq!(talk.hear().await.unwrap().0, 10);
    }
    let began = std::time::Instant::now();
    talk.say(4, &event(2, 1, 1, b"first")).await;
    // And all that wait get it, some of them maybe before who has written it is told.
    let (mut read, mut told) = (0, 0);
    while read < places || told == 0 {
        match talk.hear().await.unwrap() {
            (7, _) => {
                assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
                told += 1;
            }
            (10, got) if got.windows(5).any(|w| w == b"first") => read += 1,
            (kind, _) => panic!("a reply of type {kind}"),
        }
    }
    assert_eq!((read, told), (places, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_read_to_its_end_and_no_further_also_when_some_of_it_goes_meanwhile() {
    let running = server().await;
    let client = client(&running).await;
    client.create_stream("s", "t", segments(2)).await.unwrap();
    let mut writer = Writer::open(&client, "s", "t", None).await.unwrap();
    let read = async |mut reader: Reader| {
        let mut seen = 0;
        while let Some(event) = tokio::time::timeout(Duration::from_secs(20), reader.next()).await.expect("it ends").unwrap() {
            assert_eq!(event.data.len(), 100_000);
            seen += 1;
        }
        seen
    };
    let mut append = async |events: u64| {
        for n in 0..events {
            writer.append(&n.to_string(), &[7; 100_000], n).await.unwrap();
        }
        writer.flush().await.unwrap();
    };
    // More than a reader fetches before it is asked, so that what is written behind its beginning lies in the last pieces that it fetches.
    append(300).await;
    let reader = Reader::history(&client, "s", "t").await.unwrap();
    append(50).await;
    assert_eq!(read(reader).await, 300);
    client.scale("s", "t", 3).await.unwrap();
    append(30).await;
    let reader = Reader::history(&client, "s", "t").await.unwrap();
    client.scale("s", "t", 1).await.unwrap();
    append(20).await;
    assert_eq!(read(reader).await, 380);
    // All of it goes before it is read.
    let reader = Reader::history(&client, "s", "t").await.unwrap();
    let tail = client.tail("s", "t").await.unwrap();
    client.truncate("s", "t", &tail).await.unwrap();
    assert!(read(reader).await < 400);
    assert_eq!(read(Reader::history(&client, "s", "t").await.unwrap()).await, 0);
}

/// Requests as Pravega's clients send them, for what our own client doesn't ask.
async fn raw(running: &Running) -> streams::proto::controller_service_client::ControllerServiceClient<tonic::transport::Channel> {
    streams::proto::controller_service_client::ControllerServiceClient::connect(format!("http://{}", running.controller)).await.unwrap()
}

fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u16).to_be_bytes()[..], s.as_bytes()].concat()
}

fn info(stream: &str) -> Option<streams::proto::StreamInfo> {
    Some(streams::proto::StreamInfo { scope: "s".into(), stream: stream.into(), access_operation: 0 })
}

fn position(stream: &str, of: &[(i64, i64)]) -> Option<streams::proto::StreamCut> {
    Some(streams::proto::StreamCut { stream_info: info(stream), cut: of.iter().copied().collect() })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_is_located_at_an_event() {
    let running = server().await;
    let client = client(&running).await;
    client.create_stream("s", "t", segments(1)).await.unwrap();
    let mut writer = Writer::open(&client, "s", "t", None).await.unwrap();
    let (mut starts, mut at) = (Vec::new(), 0u64);
    // Among small events one that is longer than what is read at once.
    for n in 0..2000u64 {
        let event = vec![n as u8; if n == 700 { 300_000 } else { (n % 90) as usize }];
        starts.push(at);
        at += 8 + event.len() as u64;
        writer.append("k", &event, n).await.unwrap();
    }
    writer.flush().await.unwrap();
    let name = "s/t/0.#epoch.0";
    let locate = async |name: &str, offset: i64| {
        let request = [&7i64.to_be_bytes()[..], &text(name), &offset.to_be_bytes(), &text("")].concat();
        let mut stream = TcpStream::connect(running.segments).await.unwrap();
        stream.write_all(&frame(41, &request)).await.unwrap();
        let mut head = [0; 8];
        stream.read_exact(&mut head).await.unwrap();
        let mut got = vec![0; u32::from_be_bytes(head[4..].try_into().unwrap()) as usize];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(got[..8], 7i64.to_be_bytes());
        (i32::from_be_bytes(head[..4].try_into().unwrap()), u64::from_be_bytes(got[got.len() - 8..].try_into().unwrap()))
    };
    let next = |offset: u64| starts.iter().copied().find(|s| *s >= offset).unwrap_or(at);
    let mut rng = StdRng::seed_from_u64(3);
    for offset in (0..60).map(|_| rng.random_range(0..at)).chain([0, 1, starts[700], starts[700] + 1, starts[1999], starts[1999] + 1, at, at + 5]) {
        assert_eq!(locate(name, offset as i64).await, (42, next(offset)), "behind {offset} of {at}");
    }
    // What was truncated is behind the beginning.
    let cut = [(streams::catalog::SegmentNo(0), starts[900])].into();
    client.truncate("s", "t", &cut).await.unwrap();
    assert_eq!(locate(name, 10).await, (42, starts[900]));
    assert_eq!(locate(name, -1).await, (42, starts[900]));
    assert_eq!(locate("s/none/0.#epoch.0", 10).await.0, 53);
}

#[tokio::test(flavor = "multi_thread")]
async fn watermarks_follow_the_slowest_writer() {
    use streams::proto::{RemoveWriterRequest, TimestampFromWriter, StreamConfig, remove_writer_response::Status as Left, timestamp_response::Status as Noted};
    let running = server().await;
    let client = client(&running).await;
    let mut controller = raw(&running).await;
    let config = StreamConfig { stream_info: info("t"), scaling_policy: Some(segments(2)), timestamp_aggregation_timeout: 3_600_000, ..StreamConfig::default() };
    controller.create_stream(config).await.unwrap();
    let mut note = async |writer: &str, timestamp: i64, at: &[(i64, i64)]| {
        let request = TimestampFromWriter { writer: writer.into(), position: position("t", at), timestamp };
        controller.note_timestamp_from_writer(request).await.unwrap().into_inner().result()
    };
    assert_eq!(note("a", 100, &[(0, 10), (1, 20)]).await, Noted::Success);
    assert_eq!(note("b", 50, &[(0, 30)]).await, Noted::Success);
    assert_eq!(note("b", 49, &[(0, 30)]).await, Noted::InvalidTime);
    assert_eq!(note("b", 60, &[(0, 29)]).await, Noted::InvalidPosition);
    assert_eq!(note("b", 60, &[(7, 29)]).await, Noted::InvalidPosition);
    // Java's reader finds them in a stream of their own: type, length, then the serialised form.
    let marks = || async {
        let mut reader = Reader::open(&client, "s", "_MARKt", From::Head).await?;
        let mut seen = Vec::new();
        while let Ok(Ok(Some(event))) = tokio::time::timeout(Duration::from_millis(300), reader.next()).await {
            let at = |i: usize| i64::from_be_bytes(event.data[i..i + 8].try_into().unwrap());
            let entries = (0..event.data[24] as usize).map(|n| (at(25 + n * 40 + 8), at(25 + n * 40 + 32))).collect::<Vec<_>>();
            seen.push((at(8), at(16), entries));
        }
        Ok::<_, streams::Error>(seen)
    };
    let expect = async |expected: &[(i64, i64, Vec<(i64, i64)>)]| {
        let end = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            let found = marks().await.unwrap_or_default();
            if found == expected {
                return;
            }
            assert!(std::time::Instant::now() < end, "{found:?} instead of {expected:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let first = (50, 100, vec![(0, 30), (1, 20)]);
    expect(std::slice::from_ref(&first)).await;
    // One alone can't go on; when both have, the next one follows.
    assert_eq!(note("a", 300, &[(0, 40), (1, 50)]).await, Noted::Success);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    expect(std::slice::from_ref(&first)).await;
    assert_eq!(note("b", 200, &[(1, 70)]).await, Noted::Success);
    let second = (200, 300, vec![(0, 40), (1, 70)]);
    expect(&[first.clone(), second.clone()]).await;
    // Who has left is not waited for.
    let mut controller = raw(&running).await;
    let mut leave = async |writer: &str| controller.remove_writer(RemoveWriterRequest { writer: writer.into(), stream: info("t") }).await.unwrap().into_inner().result();
    assert_eq!((leave("b").await, leave("c").await), (Left::Success, Left::UnknownWriter));
    let mut controller = raw(&running).await;
    let request = TimestampFromWriter { writer: "a".into(), position: position("t", &[(0, 80), (1, 90)]), timestamp: 400 };
    controller.note_timestamp_from_writer(request).await.unwrap();
    expect(&[first, second, (400, 400, vec![(0, 80), (1, 90)])]).await;
    // They go with their stream.
    client.seal("s", "t").await.unwrap();
    client.delete("s", "t").await.unwrap();
    assert_eq!(client.streams("s").await.unwrap(), Vec::<String>::new());
    let gone = controller.delete_scope(streams::proto::ScopeInfo { scope: "s".into() }).await.unwrap().into_inner().status();
    assert_eq!(gone, streams::proto::delete_scope_status::Status::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_waits_for_subscribers_up_to_its_maximum() {
    use streams::proto::{ReaderGroupConfiguration, RetentionPolicy, StreamConfig, SubscriberStreamCut, update_subscriber_status::Status as Updated};
    let running = server().await;
    let client = client(&running).await;
    let mut controller = raw(&running).await;
    let retention = RetentionPolicy { retention_type: 2, retention_param: 1000, retention_max: 1_000_000 };
    let config = StreamConfig { stream_info: info("t"), scaling_policy: Some(segments(1)), retention_policy: Some(retention), ..StreamConfig::default() };
    controller.create_stream(config).await.unwrap();
    let group = |name: &str| ReaderGroupConfiguration {
        scope: "s".into(),
        reader_group_name: name.into(),
        reader_group_id: "the-id".into(),
        retention_type: 1,
        starting_stream_cuts: vec![position("t", &[]).unwrap()],
        ..ReaderGroupConfiguration::default()
    };
    let generation = controller.create_reader_group(group("g")).await.unwrap().into_inner().config.unwrap().generation;
    let second = controller.create_reader_group(group("h")).await.unwrap().into_inner().config.unwrap().generation;
    assert_eq!(controller.list_subscribers(info("t").unwrap()).await.unwrap().into_inner().subscribers, ["s/g", "s/h"]);
    let mut writer = Writer::open(&client, "s", "t", None).await.unwrap();
    for n in 0..100u64 {
        writer.append("k", &[7; 992], n).await.unwrap();
    }
    writer.flush().await.unwrap();
    let mut update = async |subscriber: &str, id: &str, generation: i64, at: i64| {
        let request = SubscriberStreamCut { subscriber: subscriber.into(), generation, reader_group_id: id.into(), stream_cut: position("t", &[(0, at)]) };
        controller.update_subscriber_stream_cut(request).await.unwrap().into_inner().status()
    };
    assert_eq!(update("s/other", "the-id", generation, 5000).await, Updated::SubscriberNotFound);
    assert_eq!(update("s/g", "another-id", generation, 5000).await, Updated::SubscriberNotFound);
    assert_eq!(update("s/g", "the-id", generation + 1, 5000).await, Updated::GenerationMismatch);
    assert_eq!(update("s/g", "the-id", generation, 500_000).await, Updated::StreamCutNotValid);
    let head = || async { client.head("s", "t").await.unwrap()[&streams::catalog::SegmentNo(0)] };
    let until = async |expected: std::ops::RangeInclusive<u64>| {
        let end = std::time::Instant::now() + Duration::from_secs(40);
        while !expected.contains(&head().await) {
            assert!(std::time::Instant::now() < end, "the stream begins at {} and not within {expected:?}", head().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // Without a word of its groups, all stays, though the policy would keep 1000 bytes only; and one of two is not both.
    tokio::time::sleep(Duration::from_millis(3000)).await;
    assert_eq!(head().await, 0);
    assert_eq!(update("s/g", "the-id", generation, 7000).await, Updated::Success);
    tokio::time::sleep(Duration::from_millis(3000)).await;
    assert_eq!(head().await, 0, "a group has said nothing yet");
    // The slower one counts, whichever it is, and one that has gone is not waited for.
    assert_eq!(update("s/h", "the-id", second, 3000).await, Updated::Success);
    until(3000..=3000).await;
    tokio::time::sleep(Duration::from_millis(3000)).await;
    assert_eq!(head().await, 3000, "the slower group has not left these behind");
    assert_eq!(update("s/h", "the-id", second, 9000).await, Updated::Success);
    until(7000..=7000).await;
    assert_eq!(update("s/g", "the-id", generation, 12_000).await, Updated::Success);
    until(9000..=9000).await;
    let gone = streams::proto::ReaderGroupInfo { scope: "s".into(), reader_group: "h".into(), reader_group_id: "the-id".into(), generation: second };
    raw(&running).await.delete_reader_group(gone).await.unwrap();
    until(12_000..=12_000).await;
    assert_eq!(update("s/g", "the-id", generation, 11_000).await, Updated::StreamCutNotValid);
    // A group that does not go on is not waited for beyond the maximum, and up to there it is.
    let (mut written, end) = (100_000, std::time::Instant::now() + Duration::from_secs(90));
    while head().await == 12_000 {
        assert!(std::time::Instant::now() < end, "{written} bytes are kept");
        for n in 0..100u64 {
            writer.append("k", &[7; 992], n).await.unwrap();
        }
        writer.flush().await.unwrap();
        written += 100_000;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(written - head().await >= 1_000_000, "{} of {written} bytes are left", written - head().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grafana_dashboard_asks_for_metrics_that_are_there() {
    let (folder, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let running = server_with(|o| {
        o.long_term = Some(geds::Persist::folder(folder.path()).unwrap());
        o.overflow = Some((geds::Persist::folder(beside.path()).unwrap(), 1 << 30));
    })
    .await;
    works(&running, "shown").await;
    client(&running).await.create_stream("s", "open", segments(1)).await.unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../deploy/grafana/streams.json");
    let dashboard: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let (mut names, end) = (std::collections::BTreeSet::new(), std::time::Instant::now() + Duration::from_secs(30));
    for target in dashboard["panels"].as_array().unwrap().iter().flat_map(|p| p["targets"].as_array().unwrap()) {
        let asked = target["expr"].as_str().unwrap();
        let found = asked.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| w.starts_with("cloudskin_"));
        names.extend(found.map(str::to_string));
    }
    assert!(names.len() > 15, "{names:?}");
    // Some are told from the first manifest on.
    loop {
        let (_, text) = http(running.http, "GET", "/metrics", None, "").await;
        let missing: Vec<_> = names.iter().filter(|n| !text.lines().any(|l| l.starts_with(n.as_str()) && l[n.len()..].starts_with([' ', '{']))).collect();
        if missing.is_empty() {
            break;
        }
        assert!(std::time::Instant::now() < end, "{missing:?} are not in\n{text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn log_files(folder: &std::path::Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("log-")).collect()
}

/// Whoever asks a server whose place another one has taken would wait for what is written there: it ends, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_another_one_has_replaced_ends() {
    let folder = tempfile::tempdir().unwrap();
    let start = async |data: &str| {
        let mut options = Options::new(folder.path().join(data));
        options.long_term = Some(geds::Persist::folder(folder.path().join("chunks")).unwrap());
        options.tier.manifest_every = Duration::from_millis(100);
        options.store.log.file_bytes = 4 << 20;
        options.controller.set_port(0);
        options.segments.set_port(0);
        let server = Server::bind(options).await.unwrap();
        let controller = server.addresses().unwrap().0.to_string();
        let (stop, stopped) = watch::channel(false);
        (tokio::spawn(server.run(stopped)), controller, stop)
    };
    let (first, controller, _first_stop) = start("first").await;
    let of_first = Client::connect(&controller).await.unwrap();
    of_first.create_scope("s").await.unwrap();
    let manifest = || std::fs::read_dir(folder.path().join("chunks/streams")).is_ok_and(|mut logs| logs.any(|log| log.unwrap().path().join("manifest").is_dir()));
    while !manifest() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // As a machine that is restored from its snapshot has it.
    std::fs::create_dir(folder.path().join("second")).unwrap();
    // A checkpoint may be renamed meanwhile, and is there once more.
    for file in ["lock", "checkpoint-a", "checkpoint-b"].iter().map(|name| name.to_string()).chain(log_files(&folder.path().join("first"))) {
        let _ = std::fs::copy(folder.path().join("first").join(&file), folder.path().join("second").join(&file));
    }
    let (second, controller, _second_stop) = start("second").await;
    let client = Client::connect(&controller).await.unwrap();
    client.create_scope("t").await.unwrap();
    // It finds out when it has news to tell.
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    for n in 0.. {
        if first.is_finished() {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "the first one goes on");
        let _ = tokio::time::timeout(Duration::from_millis(200), of_first.create_scope(&format!("late-{n}"))).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ended = first.await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("another server"), "{ended}");
    client.create_scope("u").await.unwrap();
    assert!(!second.is_finished());
}

/// What was named is said to be no address, before anything is looked up.
#[tokio::test]
async fn an_address_without_a_port_is_refused() {
    for address in ["localhost", "127.0.0.1:", ":9090", "here:http", ""] {
        let e = Client::connect(address).await.err().unwrap().to_string();
        assert!(e.contains("is not an address"), "{address}: {e}");
    }
    let running = server().await;
    for address in [format!("localhost:{}", running.controller.port()), format!("tcp://{}/", running.controller)] {
        Client::connect(&address).await.unwrap().scopes().await.unwrap();
    }
}
