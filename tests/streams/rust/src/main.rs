//! Drives a stream server with Pravega's own Rust client, as it comes from crates.io.
//!
//!     streams-judge CONTROLLER COMMAND,COMMAND...
//!
//! `tls://` in front of the address asks for TLS; TRUST names the authority's certificate, JUDGE_USER and JUDGE_PASSWORD a user. Each command makes
//! streams of its own and panics when something is not as it must be. The client itself panics on an answer that it doesn't know, so that ending well says much.

use futures::{StreamExt, TryStreamExt};
use pravega_client::{
    client_factory::ClientFactory,
    event::reader_group::{ReaderGroupConfigBuilder, StreamCutV1, StreamCutVersioned},
};
use pravega_client_config::{credentials::Credentials, ClientConfigBuilder};
use pravega_client_shared::*;
use std::{
    collections::{BTreeMap, HashMap},
    env,
    io::SeekFrom,
    time::{Duration, Instant},
};

const SCOPE: &str = "rust";

fn scope() -> Scope {
    Scope::from(SCOPE.to_string())
}

fn named(name: &str) -> ScopedStream {
    ScopedStream::new(scope(), Stream::from(name.to_string()))
}

/// A stream with so many segments.
async fn create(factory: &ClientFactory, name: &str, segments: i32) -> ScopedStream {
    let of = StreamConfiguration::new(named(name), Scaling { min_num_segments: segments, ..Scaling::default() }, Retention::default(), None);
    assert!(factory.controller_client().create_stream(&of).await.expect("a new stream"), "{name} was there");
    named(name)
}

/// Exactly so many events, or what came within the time, through a reader group.
async fn read(factory: &ClientFactory, group: &str, of: ReaderGroupConfigBuilder, count: usize, seconds: u64) -> Vec<Vec<u8>> {
    let group = factory.create_reader_group_with_config(group.to_string(), of.build(), scope()).await;
    let mut reader = group.create_reader("reader".to_string()).await;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut events = Vec::new();
    while events.len() < count && Instant::now() < end {
        let Ok(slice) = tokio::time::timeout(Duration::from_secs(3), reader.acquire_segment()).await else { continue };
        let Some(mut slice) = slice.expect("a slice") else { continue };
        events.extend(slice.by_ref().map(|e| e.value));
        reader.release_segment(slice).await.expect("release it");
    }
    reader.reader_offline().await.expect("leave");
    events
}

fn from(stream: &ScopedStream) -> ReaderGroupConfigBuilder {
    let mut of = ReaderGroupConfigBuilder::default();
    of.read_from_head_of_stream(stream.clone());
    of
}

async fn write(factory: &ClientFactory, stream: &ScopedStream, range: std::ops::Range<u32>, keys: u32) {
    let mut writer = factory.create_event_writer(stream.clone());
    for n in range {
        drop(writer.write_event_by_routing_key((n % keys).to_string(), format!("{}:{n}", n % keys).into_bytes()).await);
    }
    writer.flush().await.expect("written");
}

/// Every number once, and those of one key in order.
fn in_order(events: &[Vec<u8>], range: std::ops::Range<u32>, keys: u32) {
    let mut of_key: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for event in events {
        let text = std::str::from_utf8(event).expect("text");
        let (key, n) = text.split_once(':').expect("key and number");
        of_key.entry(key.parse().unwrap()).or_default().push(n.parse().unwrap());
    }
    for key in 0..keys {
        let expected: Vec<u32> = range.clone().filter(|n| n % keys == key).collect();
        assert_eq!(of_key.remove(&key).unwrap_or_default(), expected, "events of key {key}");
    }
    assert!(of_key.is_empty());
}

async fn events(factory: &ClientFactory) {
    let controller = factory.controller_client();
    assert!(controller.create_scope(&scope()).await.expect("a new scope"));
    assert!(!controller.create_scope(&scope()).await.expect("the same scope again"));
    let stream = create(factory, "plain", 3).await;
    write(factory, &stream, 0..1000, 10).await;
    in_order(&read(factory, "plain-readers", from(&stream), 1000, 60).await, 0..1000, 10);
}

/// Two readers of one group share a stream's segments.
async fn group(factory: &ClientFactory) {
    let stream = create(factory, "shared", 4).await;
    write(factory, &stream, 0..400, 20).await;
    let group = factory.create_reader_group("two".to_string(), stream.clone()).await;
    let mut readers = [group.create_reader("a".to_string()).await, group.create_reader("b".to_string()).await];
    assert_eq!(group.list_readers().await.len(), 2);
    let mut seen = [Vec::new(), Vec::new()];
    let (mut n, end) = (400, Instant::now() + Duration::from_secs(90));
    // The first one takes all segments, and gives some away when it has had them for a while.
    while (seen.iter().any(Vec::is_empty) || seen[0].len() + seen[1].len() < n as usize) && Instant::now() < end {
        if seen.iter().any(Vec::is_empty) {
            write(factory, &stream, n..n + 20, 20).await;
            n += 20;
        }
        for (reader, seen) in readers.iter_mut().zip(&mut seen) {
            let Ok(slice) = tokio::time::timeout(Duration::from_secs(1), reader.acquire_segment()).await else { continue };
            if let Some(mut slice) = slice.expect("a slice") {
                seen.extend(slice.by_ref().map(|e| e.value));
                reader.release_segment(slice).await.expect("release it");
            }
        }
    }
    assert!(seen.iter().all(|s| !s.is_empty()), "one has read everything: {} and {}", seen[0].len(), seen[1].len());
    // Each key's events lie in one segment, which one reader had after the other.
    let mut all: Vec<Vec<u8>> = seen.concat();
    all.sort_by_key(|e| String::from_utf8_lossy(e).split(':').nth(1).and_then(|n| n.parse::<u32>().ok()));
    in_order(&all, 0..n, 20);
    for reader in &mut readers {
        reader.reader_offline().await.expect("leave");
    }
    factory.delete_reader_group(scope(), "two".to_string()).await.expect("deleted");
}

async fn transactions(factory: &ClientFactory) {
    let stream = create(factory, "txn", 2).await;
    let mut writer = factory.create_transactional_event_writer(stream.clone(), WriterId(7)).await;
    let mut kept = writer.begin().await.expect("a transaction");
    let mut dropped = writer.begin().await.expect("another one");
    for n in 0..20 {
        kept.write_event(Some(n.to_string()), format!("kept {n}").into_bytes()).await.expect("written");
        dropped.write_event(Some(n.to_string()), format!("dropped {n}").into_bytes()).await.expect("written");
    }
    assert_eq!(kept.check_status().await.expect("its state"), TransactionStatus::Open);
    let by_id = writer.get_txn(kept.txn_id()).await.expect("the same by its id");
    assert_eq!(by_id.check_status().await.expect("its state"), TransactionStatus::Open);
    dropped.abort().await.expect("aborted");
    kept.commit(Timestamp(0)).await.expect("committed");
    let end = Instant::now() + Duration::from_secs(30);
    while kept.check_status().await.expect("its state") != TransactionStatus::Committed {
        assert!(Instant::now() < end, "never committed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // One that is open while the stream is scaled.
    let mut over = writer.begin().await.expect("a transaction");
    over.write_event(Some("k".into()), b"over a scale".to_vec()).await.expect("written");
    scale(factory, &stream, 3).await;
    over.write_event(Some("k".into()), b"and on".to_vec()).await.expect("written");
    over.commit(Timestamp(0)).await.expect("committed");
    let mut found = read(factory, "txn-readers", from(&stream), 23, 15).await;
    let mut expected: Vec<Vec<u8>> = (0..20).map(|n| format!("kept {n}").into_bytes()).chain([b"over a scale".to_vec(), b"and on".to_vec()]).collect();
    assert!(found.iter().position(|e| e == b"over a scale") < found.iter().position(|e| e == b"and on"));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

async fn bytes(factory: &ClientFactory) {
    let stream = create(factory, "bytes", 1).await;
    let data: Vec<u8> = (0..1u32 << 20).map(|i| (i * 31 + i / 256) as u8).collect();
    let mut writer = factory.create_byte_writer(stream.clone()).await;
    let mut at = 0;
    while at < data.len() {
        at += writer.write(&data[at..]).await.expect("written");
    }
    writer.flush().await.expect("durable");
    let mut reader = factory.create_byte_reader(stream.clone()).await;
    assert_eq!(reader.current_tail().await.expect("tail"), data.len() as u64);
    reader.seek(SeekFrom::Start(1000)).await.expect("seek");
    let (mut part, mut got) = (vec![0; 100_000], 0);
    while got < part.len() {
        got += reader.read(&mut part[got..]).await.expect("bytes");
    }
    assert!(part == data[1000..101_000]);
    writer.truncate_data_before(4096).await.expect("truncated");
    assert_eq!(reader.current_head().await.expect("head"), 4096);
    reader.seek(SeekFrom::Start(0)).await.expect("seek");
    assert!(reader.read(&mut part).await.is_err(), "truncated bytes were read");
    reader.seek(SeekFrom::End(0)).await.expect("seek");
    writer.write(b"more").await.expect("written");
    writer.seal().await.expect("sealed");
    let mut four = [0; 4];
    assert_eq!(reader.read(&mut four).await.expect("bytes"), 4);
    assert_eq!(&four, b"more");
    assert_eq!(reader.read(&mut four).await.expect("the end"), 0);
}

async fn large(factory: &ClientFactory) {
    let stream = create(factory, "large", 1).await;
    // This client never sends more than the 16 MiB that it lets wait.
    let sizes = [3_000_000, 9_000_000, 17, 12_000_000];
    let mut writer = factory.create_event_writer(stream.clone());
    for (n, size) in sizes.iter().enumerate() {
        drop(writer.write_event(vec![n as u8 + 1; *size]).await);
    }
    writer.flush().await.expect("written");
    let found = read(factory, "large-readers", from(&stream), sizes.len(), 180).await;
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
    assert!(found.iter().enumerate().all(|(n, e)| e.iter().all(|b| *b == n as u8 + 1)));
}

async fn tables(factory: &ClientFactory) {
    let table = factory.create_table(scope(), "table".to_string()).await;
    let (a, b) = ("a".to_string(), "b".to_string());
    let first = table.insert_conditionally(&a, &1u32, TableKey::NOT_THERE, -1).await.expect("a new key");
    assert!(table.insert_conditionally(&a, &2u32, TableKey::NOT_THERE, -1).await.is_err(), "it was there");
    let second = table.insert_conditionally(&a, &2u32, first, -1).await.expect("its version");
    assert!(second > first && table.insert_conditionally(&a, &3u32, first, -1).await.is_err(), "an old version");
    // All or nothing.
    assert!(table.insert_conditionally_all(vec![(&b, &9u32, TableKey::NOT_THERE), (&a, &9u32, first)], -1).await.is_err());
    assert_eq!(table.get::<String, u32>(&b).await.expect("an answer"), None);
    table.insert_conditionally_all(vec![(&b, &4u32, TableKey::NOT_THERE), (&a, &4u32, second)], -1).await.expect("both");
    assert_eq!(table.get::<String, u32>(&b).await.expect("an answer").map(|v| v.0), Some(4));
    for n in 0..100u32 {
        table.insert(&format!("key {n}"), &n, -1).await.expect("written");
    }
    let missing = "none".to_string();
    let found = table.get_all::<String, u32>(vec![&a, &missing]).await.expect("an answer");
    assert_eq!(found.iter().map(|f| f.as_ref().map(|v| v.0)).collect::<Vec<_>>(), [Some(4), None]);
    let keys: Vec<(String, i64)> = table.read_keys_stream(7).try_collect().await.expect("keys");
    assert_eq!(keys.len(), 102);
    let entries: HashMap<String, u32> = table.read_entries_stream(7).map_ok(|(k, v, _): (String, u32, i64)| (k, v)).try_collect().await.expect("entries");
    assert!(entries.len() == 102 && (0..100).all(|n| entries[&format!("key {n}")] == n));
    // What has changed since a place.
    let mut at = 0;
    {
        let all = table.read_entries_stream_from_position(7, 0);
        futures::pin_mut!(all);
        while let Some(entry) = all.next().await {
            let (_, _, _, position): (String, u32, i64, i64) = entry.expect("an entry");
            at = position;
        }
    }
    table.insert(&b, &5u32, -1).await.expect("written");
    let new: Vec<(String, u32, i64, i64)> = table.read_entries_stream_from_position(7, at).try_collect().await.expect("entries");
    assert_eq!(new.iter().map(|(k, v, ..)| (k.as_str(), *v)).collect::<Vec<_>>(), [("b", 5)]);
    table.remove(&a, -1).await.expect("removed");
    assert_eq!(table.get::<String, u32>(&a).await.expect("an answer"), None);
    assert!(table.remove_conditionally(&b, first, -1).await.is_err(), "an old version");
}

/// Versions that stand for "must not be there", as the client counts them.
struct TableKey;

impl TableKey {
    const NOT_THERE: i64 = -1;
}

async fn scale(factory: &ClientFactory, stream: &ScopedStream, segments: usize) {
    let controller = factory.controller_client();
    let old: Vec<Segment> = controller.get_current_segments(stream).await.expect("segments").get_segments().into_iter().map(|s| s.segment).collect();
    let ranges: Vec<(f64, f64)> = (0..segments).map(|i| (i as f64 / segments as f64, (i + 1) as f64 / segments as f64)).collect();
    controller.scale_stream(stream, &old, &ranges).await.expect("scaled");
    assert_eq!(controller.get_current_segments(stream).await.expect("segments").get_segments().len(), segments);
}

async fn scaling(factory: &ClientFactory) {
    let stream = create(factory, "scaled", 1).await;
    let group = factory.create_reader_group("stayers".to_string(), stream.clone()).await;
    let mut reader = group.create_reader("stayer".to_string()).await;
    let mut writer = factory.create_event_writer(stream.clone());
    let (mut found, mut n) = (Vec::new(), 0u32);
    for segments in [3, 1, 4, 2, 0] {
        for _ in 0..100 {
            drop(writer.write_event_by_routing_key((n % 7).to_string(), format!("{}:{n}", n % 7).into_bytes()).await);
            n += 1;
        }
        // Some are read before the scale, and some are on their way while it happens.
        let end = Instant::now() + Duration::from_secs(90);
        while (segments == 0 && found.len() < n as usize || segments != 0 && found.len() < n as usize - 80) && Instant::now() < end {
            let Ok(slice) = tokio::time::timeout(Duration::from_secs(3), reader.acquire_segment()).await else { continue };
            let Some(mut slice) = slice.expect("a slice") else { continue };
            found.extend(slice.by_ref().map(|e| e.value));
            reader.release_segment(slice).await.expect("release it");
        }
        if segments > 0 {
            scale(factory, &stream, segments).await;
        }
    }
    in_order(&found, 0..n, 7);
}

async fn truncation(factory: &ClientFactory) {
    let (controller, stream) = (factory.controller_client(), create(factory, "cut", 2).await);
    write(factory, &stream, 0..100, 10).await;
    let group = factory.create_reader_group("first".to_string(), stream.clone()).await;
    let mut reader = group.create_reader("reader".to_string()).await;
    let (mut seen, end) = (Vec::new(), Instant::now() + Duration::from_secs(60));
    while seen.len() < 100 && Instant::now() < end {
        let Some(mut slice) = reader.acquire_segment().await.expect("a slice") else { continue };
        seen.extend(slice.by_ref().map(|e| e.value));
        reader.release_segment(slice).await.expect("release it");
    }
    in_order(&seen, 0..100, 10);
    reader.reader_offline().await.expect("leave");
    let cut = group.get_streamcut().await;
    write(factory, &stream, 100..150, 10).await;
    // From the cut on, through a group that begins there; and then that is all there is.
    let mut at = ReaderGroupConfigBuilder::default();
    let positions = cut.segment_offset_map.iter().map(|(number, offset)| (segment(&stream, *number), *offset)).collect();
    at.read_from_stream(stream.clone(), StreamCutVersioned::V1(StreamCutV1::new(stream.clone(), positions)));
    in_order(&read(factory, "from-cut", at, 50, 60).await, 100..150, 10);
    assert!(controller.truncate_stream(&cut).await.expect("truncated"));
    in_order(&read(factory, "after-cut", from(&stream), 51, 8).await, 100..150, 10);
    // From the tail on.
    let mut tail = ReaderGroupConfigBuilder::default();
    tail.read_from_tail_of_stream(stream.clone());
    let group = factory.create_reader_group_with_config("tail".to_string(), tail.build(), scope()).await;
    let mut reader = group.create_reader("reader".to_string()).await;
    write(factory, &stream, 150..151, 10).await;
    let mut slice = reader.acquire_segment().await.expect("a slice").expect("there is one");
    assert_eq!(slice.by_ref().map(|e| e.value).collect::<Vec<_>>(), [b"0:150"]);
    reader.release_segment(slice).await.expect("release it");
}

fn segment(stream: &ScopedStream, number: i64) -> ScopedSegment {
    ScopedSegment { scope: stream.scope.clone(), stream: stream.stream.clone(), segment: Segment::from(number) }
}

async fn end(factory: &ClientFactory) {
    let controller = factory.controller_client();
    let tagged = StreamConfiguration::new(named("tagged"), Scaling::default(), Retention::default(), Some(vec!["blue".to_string()]));
    assert!(controller.create_stream(&tagged).await.expect("a new stream"));
    assert_eq!(controller.get_stream_tags(&named("tagged")).await.expect("tags"), Some(vec!["blue".to_string()]));
    let (with_tag, _) = controller.list_streams_for_tag(&scope(), "blue", &CToken::empty()).await.expect("a list").expect("not empty");
    assert_eq!(with_tag, [named("tagged")]);
    let by_rate = Scaling { scale_type: ScaleType::ByRateInEventsPerSec, target_rate: 1000, scale_factor: 2, min_num_segments: 1 };
    assert!(controller.update_stream(&StreamConfiguration { scaling: by_rate.clone(), ..tagged }).await.expect("another policy"));
    assert_eq!(controller.get_stream_configuration(&named("tagged")).await.expect("the policy").scaling, by_rate);
    write(factory, &named("tagged"), 0..10, 1).await;
    assert!(controller.seal_stream(&named("tagged")).await.expect("sealed"));
    in_order(&read(factory, "sealed-readers", from(&named("tagged")), 10, 60).await, 0..10, 1);
    assert!(controller.delete_stream(&named("tagged")).await.expect("deleted"));
    assert!(!controller.check_stream_exists(&named("tagged")).await.expect("an answer"));
    let empty = Scope::from("rust-empty".to_string());
    assert!(controller.create_scope(&empty).await.expect("a scope"));
    assert!(controller.delete_scope(&empty).await.expect("an empty scope, deleted"));
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let mut of = ClientConfigBuilder::default();
    of.controller_uri(arguments[1].as_str());
    if arguments[1].starts_with("tls://") {
        let authority = std::fs::read_to_string(env::var("TRUST").expect("TRUST")).expect("the certificate");
        of.is_tls_enabled(true).trustcerts(vec![authority]);
    }
    if let Ok(user) = env::var("JUDGE_USER") {
        of.is_auth_enabled(true).credentials(Credentials::basic(user, env::var("JUDGE_PASSWORD").unwrap_or_default()));
    }
    let factory = ClientFactory::new(of.build().expect("a configuration"));
    let names = match arguments[2].as_str() {
        "all" => "events,group,transactions,bytes,large,tables,scaling,truncation,end",
        names => names,
    };
    for name in names.split(',') {
        let began = Instant::now();
        factory.runtime().block_on(async {
            match name {
                "events" => events(&factory).await,
                "group" => group(&factory).await,
                "transactions" => transactions(&factory).await,
                "bytes" => bytes(&factory).await,
                "large" => large(&factory).await,
                "tables" => tables(&factory).await,
                "scaling" => scaling(&factory).await,
                "truncation" => truncation(&factory).await,
                "end" => end(&factory).await,
                other => panic!("no command {other}"),
            }
        });
        eprintln!("{name}: {:.1} s", began.elapsed().as_secs_f64());
    }
    // Without the client's own end, which may wait for its background tasks.
    std::process::exit(0);
}
