//! Both ports against clients that are wrong, slow or gone. The server must still serve the next one.

use bytes::{BufMut, BytesMut};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{net::SocketAddr, time::Duration};
use streams::{
    Client, Options, Server,
    access::{self, Rule},
    client::{From, Login, Reader, Writer},
    proto::ScalingPolicy,
    server::Users,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

struct Running {
    controller: SocketAddr,
    segments: SocketAddr,
    http: SocketAddr,
    _stop: watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

async fn server() -> Running {
    server_with(|_| {}).await
}

async fn server_with(change: impl FnOnce(&mut Options)) -> Running {
    server_told(change, |_| {}).await
}

async fn server_told(change: impl FnOnce(&mut Options), tell: impl FnOnce(&Server)) -> Running {
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
    Running { controller, segments, http, _stop: stop, _folder: folder }
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
    let running = server().await;
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
    let (_alone, before) = (MEMORY.lock().await, resident_kb());
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

/// One test at a time looks at how much memory the process has.
static MEMORY: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn resident_kb() -> u64 {
    let memory = std::fs::read_to_string("/proc/self/status").unwrap();
    memory.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_never_waits_is_held_by_the_disk() {
    let running = server().await;
    client(&running).await.create_stream("s", "flood", segments(1)).await.unwrap();
    let name = "s/flood/0.#epoch.0";
    let mut talk = Talk::open(&running).await;
    assert_eq!(talk.ask(70, &[&1i64.to_be_bytes()[..], &text("a/table"), &text("")].concat()).await.unwrap().0, 21);
    let value = vec![7u8; 1 << 20];
    let keys: Vec<[u8; 1]> = (0..15).map(|n| [n]).collect();
    let entries: Vec<(&[u8], &[u8])> = keys.iter().map(|k| (&k[..], &value[..])).collect();
    let updates = frame(74, &update(2, "a/table", &entries));
    let (_alone, before) = (MEMORY.lock().await, resident_kb());
    // Events first, then values of a table, as fast as they are taken, and not one answer is looked at.
    for table in [false, true] {
        let mut stream = TcpStream::connect(running.segments).await.unwrap();
        stream.write_all(&frame(-127, &[0, 0, 0, 17, 0, 0, 0, 5])).await.unwrap();
        stream.write_all(&frame(1, &setup(3, 5, name))).await.unwrap();
        let (mut sent, mut most, end) = (0u64, 0, std::time::Instant::now() + Duration::from_secs(6));
        while std::time::Instant::now() < end && sent < 1 << 30 {
            let next = if table { updates.clone() } else { frame(4, &event(4, 5, sent as i64 + 1, &value)) };
            if let Ok(written) = tokio::time::timeout_at(end.into(), stream.write_all(&next)).await {
                written.expect("the server does not hang up");
                sent += next.len() as u64;
            }
            most = most.max(resident_kb().saturating_sub(before));
        }
        println!("{sent} bytes, {most} kB of memory");
        assert!(sent > 8 << 20, "{sent} bytes were taken");
        assert!(most < 350 << 10, "{most} kB more are in use after {sent} bytes, table: {table}");
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

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_or_too_much_before_hello_goes() {
    let running = server().await;
    // A large command before hello is not waited for.
    let mut stream = TcpStream::connect(running.segments).await.unwrap();
    stream.write_all(&[4i32.to_be_bytes(), (1i32 << 20).to_be_bytes()].concat()).await.unwrap();
    let mut got = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut got)).await;
    assert!(ended.is_ok() && got.is_empty(), "{got:?}");
    // Nor is a client that says nothing.
    let mut stream = TcpStream::connect(running.segments).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(40), stream.read_to_end(&mut got)).await;
    assert!(ended.is_ok() && got.is_empty(), "{got:?}");
    works(&running, "after").await;
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
    // What is under way when it stops never becomes durable.
    for n in 1..=30 {
        let data = vec![7u8; 1 << 20].into();
        let _ = store.append(streams::store::Append { segment: lost, writer: 9, event: n, events: 1, expected: None, data });
    }
    store.log().stop("the disk refuses");
    assert!(store.log().last() > store.log().durable(), "nothing was under way");
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

#[tokio::test(flavor = "multi_thread")]
async fn users_do_what_their_rules_say_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    let user = |name: &str, rules: &[&str]| access::line(name, &format!("{name}'s"), &rules.iter().map(|r| r.parse::<Rule>().unwrap()).collect::<Vec<_>>()).unwrap();
    let lines = [
        user("admin", &["prn::*,READ_UPDATE"]),
        user("writer", &["prn::/scope:s/stream:t,READ_UPDATE"]),
        user("reader", &["prn::/scope:s/stream:t,READ", "prn::/scope:s/stream:scaled,READ"]),
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
    denied(Client::connect(&address).await.unwrap().scopes().await.unwrap_err());
    denied(login("admin", "writer's").await.scopes().await.unwrap_err());
    denied(login("nobody", "x").await.scopes().await.unwrap_err());
    let (writer, reader) = (login("writer", "writer's").await, login("reader", "reader's").await);
    denied(writer.scopes().await.unwrap_err());
    denied(writer.current("s", "other").await.unwrap_err());
    denied(reader.seal("s", "t").await.unwrap_err());
    // Who may read can't write: the token says so to the segment store.
    let mut wrong = Writer::open(&reader, "s", "t", None).await.unwrap();
    wrong.append("k", b"x", 0).await.unwrap();
    denied(wrong.flush().await.unwrap_err());

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

    // Who may write to one stream can't take another one's bytes into it, nor a batch of which one is another's.
    let secret = "s/other/0.#epoch.0";
    let mut kept = Writer::open(&admin, "s", "other", None).await.unwrap();
    kept.append("k", b"secret", 0).await.unwrap();
    kept.flush().await.unwrap();
    let known = access::Access::load(&folder.path().join("users"), &running._folder.path().join("streams/token.key"), Duration::from_secs(60)).unwrap();
    let token = known.token(Some("writer"), &[access::stream("s", "t")], access::Want::Update, base::clock::now_ms());
    let merge = [&11i64.to_be_bytes()[..], &text(name), &text(secret), &text(&token)].concat();
    let batch = [&12i64.to_be_bytes()[..], &text(name), &2i32.to_be_bytes(), &text("s/t/1.#epoch.0"), &text(secret), &text(&token)].concat();
    for (kind, id, merge) in [(58, 11i64, merge), (90, 12, batch)] {
        let got = say(running.segments, &frame(kind, &merge)).await;
        assert_eq!((&got[..4], &got[8..16]), (&60i32.to_be_bytes()[..], &id.to_be_bytes()[..]), "the token check failed");
    }
    let mut other = Reader::open(&admin, "s", "other", From::Head).await.unwrap();
    assert_eq!(&other.next().await.unwrap().unwrap().data[..], b"secret");

    // The same over HTTP, and metrics for everyone.
    assert_eq!(http(running.http, "GET", "/v1/streams", None, "").await.0, 401);
    assert_eq!(http(running.http, "GET", "/v1/streams", Some("d3JpdGVyOndyaXRlcidz"), "").await.0, 403, "writer:writer's");
    let (status, body) = http(running.http, "GET", "/v1/streams", Some("YWRtaW46YWRtaW4ncw=="), "").await;
    assert!(status == 200 && body.contains("\"stream\":\"s/t\""), "{status} {body}");
    let (status, text) = http(running.http, "GET", "/metrics", None, "").await;
    assert_eq!(status, 200);
    let value = |name: &str| -> f64 { text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{text}")) };
    assert_eq!(value("cloudskin_streams_appended_events_total "), 26.0);
    assert_eq!(value("cloudskin_streams_write_seconds_count "), 26.0);
    assert!(value("cloudskin_streams_end_to_end_seconds_count ") >= 20.0, "{text}");
    assert!(value("cloudskin_streams_refused_total ") >= 7.0);
    assert!(value("cloudskin_streams_outage_left_seconds ") > 0.0);
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
    let (status, told) = advise(r#"{"stream": "s/elastic", "segments": 3, "until": 7}"#).await;
    assert!(status == 422 && told.contains("until"), "{status} {told}");
    assert_eq!(advise(r#"{"stream": "s/elastic", "segments": 3, "for": "60s"}"#).await.0, 204);
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while client.current("s", "elastic").await.unwrap().len() != 3 {
        assert!(std::time::Instant::now() < end, "advice was not followed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(client.current("s", "fixed").await.unwrap().len(), 1);
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
    let folder = tempfile::tempdir().unwrap();
    let running = server_with(|o| o.long_term = Some(geds::Persist::folder(folder.path()).unwrap())).await;
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
