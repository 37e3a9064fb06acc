//! The store over a disk that fails, over long-term storage that is away, and against what it promises: once, in order, all or nothing.

mod faulty;
mod model;
#[path = "faulty/s3.rs"]
mod s3;

use axum::http::StatusCode;
use bytes::Bytes;
use faulty::Faulty;
use model::{Change, Model};
use rand::{Rng, SeedableRng, rngs::StdRng};
use s3::FakeS3;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};
use streams::{
    Error, Store, access,
    catalog::{Config, Range, Scaling, SegmentNo, TxnState},
    controller::Controller,
    log::{self, Seq},
    overflow::Overflow,
    plan,
    proto::controller_service_server::ControllerService,
    segment::{NO_VALUE, Record, State},
    store::{Append, Gated, Options},
    table,
    tier::{self, Tier},
};

fn options() -> Options {
    Options {
        log: log::Options { file_bytes: 256 << 10, files_max: 4000, hands: 3, note_after: Duration::from_millis(2), spare_for: Duration::from_secs(600) },
        checkpoint_bytes: 300 << 10,
        ..Options::default()
    }
}

fn open(disk: &Arc<Faulty>) -> Store {
    Store::open(disk.clone(), options()).unwrap()
}

fn create(store: &Store, name: &str) {
    let _ = store.commit(|s| Ok((Some(Record::Create { id: s.new_id(0), name: name.into(), table: false, at_ms: 1 }), ())));
}

async fn append(store: &Store, segment: &str, writer: u128, event: i64, data: &[u8]) -> streams::Result<u64> {
    let append = Append { segment, writer, event, events: 1, expected: None, data: Bytes::copy_from_slice(data) };
    store.settle(store.append(append)).await.map(|a| a.length)
}

/// All bytes from `from` to the end.
async fn read(store: &Store, segment: &str, from: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let read = store.read(segment, from + out.len() as u64, 10_000, Duration::ZERO).await.unwrap();
        if read.data.is_empty() {
            return out;
        }
        out.extend_from_slice(&read.data);
    }
}

#[tokio::test]
async fn an_event_is_stored_once_also_over_a_restart() {
    let disk = Arc::new(Faulty::new(1));
    let store = open(&disk);
    create(&store, "a");
    assert_eq!(append(&store, "a", 7, 1, b"one").await.unwrap(), 3);
    assert_eq!(append(&store, "a", 7, 1, b"one").await.unwrap(), 3, "sent again");
    assert_eq!(append(&store, "a", 8, 1, b"two").await.unwrap(), 6, "another writer's");
    store.close();
    drop(store);
    let store = open(&disk);
    assert_eq!(append(&store, "a", 7, 1, b"one").await.unwrap(), 6, "sent again after a restart");
    assert_eq!(append(&store, "a", 7, 2, b"three").await.unwrap(), 11);
    assert_eq!(read(&store, "a", 0).await, b"onetwothree");
    // A block of which a part was stored can't be taken apart.
    let part = Append { segment: "a", writer: 7, event: 4, events: 3, expected: None, data: Bytes::from_static(b"x") };
    assert!(matches!(store.settle(store.append(part)).await, Err(Error::EventNumber { last: 2, .. })));
}

#[tokio::test]
async fn a_conditional_append_needs_its_place() {
    let store = open(&Arc::new(Faulty::new(2)));
    create(&store, "a");
    let at = |event, expected| Append { segment: "a", writer: 1, event, events: 1, expected: Some(expected), data: Bytes::from_static(b"1234") };
    store.settle(store.append(at(1, 0))).await.unwrap();
    assert!(matches!(store.settle(store.append(at(2, 0))).await, Err(Error::NotAt { length: 4, .. })));
    store.settle(store.append(at(2, 4))).await.unwrap();
    assert_eq!(read(&store, "a", 2).await, b"341234");
}

#[tokio::test]
async fn a_reader_at_the_tail_hears_of_bytes_and_of_the_end() {
    let store = open(&Arc::new(Faulty::new(3)));
    create(&store, "a");
    let (s, began) = (store.clone(), Instant::now());
    let waiting = tokio::spawn(async move { s.read("a", 0, 100, Duration::from_secs(20)).await });
    tokio::task::yield_now().await;
    append(&store, "a", 1, 1, b"hello").await.unwrap();
    let got = waiting.await.unwrap().unwrap();
    assert_eq!((&got.data[..], got.at_tail, got.end), (&b"hello"[..], true, false));
    let s = store.clone();
    let waiting = tokio::spawn(async move { s.read("a", 5, 100, Duration::from_secs(20)).await });
    tokio::task::yield_now().await;
    store.change(|s| Ok((Some(Record::Seal { id: s.find("a")?.0 }), ()))).await.unwrap();
    assert!(waiting.await.unwrap().unwrap().end);
    assert!(matches!(append(&store, "a", 1, 2, b"x").await, Err(Error::Sealed { offset: 5, .. })));
    assert!(store.read("a", 5, 9, Duration::from_millis(1)).await.unwrap().end);
    assert!(matches!(store.read("a", 6, 9, Duration::ZERO).await, Err(Error::BeyondEnd { .. })));
    assert!(began.elapsed() < Duration::from_secs(15), "it woke up, it did not time out");
}

/// A cut may name a segment at a place that is gone: where an epoch began, for instance.
#[tokio::test]
async fn a_truncation_does_not_set_the_head_back() {
    let store = open(&Arc::new(Faulty::new(4)));
    store.change(|s| plan::create_scope(s, "s")).await.unwrap();
    store.change(|s| plan::create_stream(s, "s", "t", Config::default(), 1)).await.unwrap();
    append(&store, "s/t/0.#epoch.0", 1, 1, b"gone kept").await.unwrap();
    let head = async |at: u64| {
        store.change(|s| plan::truncate_stream(s, "s", "t", [(SegmentNo(0), at)].into())).await.unwrap();
        store.peek(|s| s.catalog.stream("s", "t").unwrap().head())
    };
    assert_eq!(head(5).await, [(SegmentNo(0), 5)].into());
    assert_eq!(head(0).await, [(SegmentNo(0), 5)].into());
    assert_eq!(head(9).await, [(SegmentNo(0), 9)].into());
}

#[tokio::test]
async fn scaling_and_a_transaction_that_began_before() {
    let disk = Arc::new(Faulty::new(4));
    let store = open(&disk);
    store.change(|s| plan::create_scope(s, "s")).await.unwrap();
    store.change(|s| plan::create_stream(s, "s", "t", Config::default(), 1)).await.unwrap();
    append(&store, "s/t/0.#epoch.0", 1, 1, b"before ").await.unwrap();
    let (id, ranges) = store.change(|s| plan::begin_txn(s, "s", "t", 10_000, 1)).await.unwrap();
    assert!(id.low >= 0 && id.high >= 0 && ranges.len() == 1);
    append(&store, &id.segment("s/t/0.#epoch.0"), 2, 1, b"kept").await.unwrap();
    let (epoch, new) = store.change(|s| plan::scale(s, "s", "t", &[SegmentNo(0)], &[(0.0, 0.5), (0.5, 1.0)], 2)).await.unwrap();
    assert_eq!((epoch, new.len()), (0, 2));
    assert!(matches!(append(&store, "s/t/0.#epoch.0", 1, 2, b"x").await, Err(Error::Sealed { .. })));
    // Ranges that are not those of what they replace.
    let bad = store.change(|s| plan::scale(s, "s", "t", &[new[0].segment], &[(0.0, 0.6)], 2)).await;
    assert!(matches!(bad, Err(Error::Conflict(_))));
    append(&store, "s/t/1.#epoch.1", 1, 1, b"between").await.unwrap();
    store.change(|s| plan::commit_txn(s, "s", "t", id, 3)).await.unwrap();
    let load = store.peek(|s| s.segment("s/t/3.#epoch.2").unwrap().load);
    assert_eq!((load.events, load.bytes), (1, 4), "what it brings is counted where it goes");
    store.close();
    drop(store);
    let store = open(&disk);
    store.peek(|s| s.check().unwrap());
    let stream = store.peek(|s| s.catalog.stream("s", "t").unwrap().clone());
    assert_eq!(stream.txn_state(id), Some(TxnState::Committed));
    assert_eq!(stream.epochs.len(), 4, "one by scaling, two for the transaction");
    assert_eq!(read(&store, "s/t/3.#epoch.2", 0).await, b"kept");
    let after = |n| stream.successors(n).unwrap().into_iter().map(|(r, p)| (r.segment.number(), p.len())).collect::<Vec<_>>();
    assert_eq!(after(SegmentNo::new(1, 1)), [(3, 2)]);
    assert_eq!(after(SegmentNo::new(2, 3)), [(4, 1), (5, 1)]);
    append(&store, "s/t/4.#epoch.3", 1, 1, b"after").await.unwrap();
    // And one that is not committed leaves nothing.
    let (id, _) = store.change(|s| plan::begin_txn(s, "s", "t", 10_000, 4)).await.unwrap();
    append(&store, &id.segment("s/t/4.#epoch.3"), 2, 1, b"dropped").await.unwrap();
    store.change(|s| plan::abort_txn(s, "s", "t", id)).await.unwrap();
    assert!(store.change(|s| plan::commit_txn(s, "s", "t", id, 5)).await.is_err());
    assert_eq!(read(&store, "s/t/4.#epoch.3", 0).await, b"after");
}

/// What is committed must be all of what was written: a truncated source would leave a gap in its target, and a sealed target has ended for its readers.
#[tokio::test]
async fn a_transaction_that_was_truncated_or_whose_stream_was_sealed_by_hand_is_only_aborted() {
    let disk = Arc::new(Faulty::new(5));
    let store = open(&disk);
    store.change(|s| plan::create_scope(s, "s")).await.unwrap();
    store.change(|s| plan::create_stream(s, "s", "t", Config::default(), 1)).await.unwrap();
    let target = "s/t/0.#epoch.0";
    append(&store, target, 1, 1, b"before ").await.unwrap();
    let begin = async || store.change(|s| plan::begin_txn(s, "s", "t", 10_000, 1)).await.unwrap().0;
    let id = begin().await;
    for event in 1..=3 {
        append(&store, &id.segment(target), 2, event, &[7; 200 << 10]).await.unwrap();
    }
    store.change(|s| Ok((Some(Record::Truncate { id: s.find(&id.segment(target))?.0, start: 200 << 10 }), ()))).await.unwrap();
    let refused = store.change(|s| plan::commit_txn(s, "s", "t", id, 2)).await;
    assert!(matches!(&refused, Err(Error::Invalid(why)) if why.contains("truncated")), "{refused:?}");
    assert_eq!(read(&store, target, 0).await, b"before ");
    store.change(|s| plan::abort_txn(s, "s", "t", id)).await.unwrap();
    let id = begin().await;
    append(&store, &id.segment(target), 2, 1, b"late").await.unwrap();
    store.change(|s| Ok((Some(Record::Seal { id: s.find(target)?.0 }), ()))).await.unwrap();
    assert!(matches!(store.change(|s| plan::commit_txn(s, "s", "t", id, 2)).await, Err(Error::Sealed { .. })));
    store.close();
    drop(store);
    let store = open(&disk);
    store.peek(|s| s.check().unwrap());
    assert_eq!(read(&store, target, 0).await, b"before ");
}

/// Appends to several segments at random, with the power failing; the bytes of each segment are held against a model of what was acknowledged, and what was
/// under way is there as a whole or not at all.
#[test]
fn what_was_acknowledged_is_there_after_power_failures() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..12 {
        let disk = Arc::new(Faulty::new(rng.random()));
        // Of each segment: what was acknowledged, and what was sent after that.
        let mut model: HashMap<String, (Vec<u8>, Vec<u8>)> = HashMap::new();
        let mut events: HashMap<String, i64> = HashMap::new();
        for life in 0..6 {
            let at = format!("seed {seed} round {round} life {life}");
            let store = open(&disk);
            store.peek(|s| s.check()).unwrap_or_else(|e| panic!("{at}: {e}"));
            runtime.block_on(async {
                for (name, (sure, maybe)) in &mut model {
                    let found = read(&store, name, 0).await;
                    assert!(found.len() >= sure.len() && found[..sure.len()] == sure[..], "{at}: {name} has {} of {} bytes", found.len(), sure.len());
                    assert!(maybe.starts_with(&found[sure.len()..]), "{at}: {name} has bytes that were not sent");
                    let last = store.peek(|s| s.segment(name).unwrap().attribute(1));
                    // Each append is one event of as many bytes as its number says.
                    assert_eq!(found.len(), (1..=last.max(0)).map(|e| e as usize % 700).sum::<usize>(), "{at}: {name}");
                    events.insert(name.clone(), last.max(0));
                    (*sure, *maybe) = (found, Vec::new());
                }
                for n in 0..3 {
                    let name = format!("seg-{n}");
                    // It may be there though nobody heard of it.
                    if store.peek(|s| s.segment(&name).is_ok()) || store.change(|s| streams_create(s, &name)).await.is_ok() {
                        model.entry(name.clone()).or_default();
                        events.entry(name).or_insert(0);
                    }
                }
                disk.fail_after(rng.random_range(1..120));
                let mut pending = Vec::new();
                'life: loop {
                    let name = format!("seg-{}", rng.random_range(0..3));
                    let Some(event) = events.get_mut(&name) else { break };
                    *event += 1;
                    let data = vec![*event as u8; *event as usize % 700];
                    let gated = store.append(Append { segment: &name, writer: 1, event: *event, events: 1, expected: None, data: data.clone().into() });
                    if gated.result.is_err() {
                        break;
                    }
                    model.get_mut(&name).unwrap().1.extend(&data);
                    pending.push((name, data.len(), gated));
                    if rng.random_bool(0.1) {
                        for (name, bytes, gated) in pending.drain(..) {
                            if store.settle(gated).await.is_err() {
                                break 'life;
                            }
                            let (sure, maybe) = model.get_mut(&name).unwrap();
                            sure.extend(maybe.drain(..bytes));
                        }
                    }
                }
            });
            store.close();
            drop(store);
            disk.power_on();
        }
    }
}

fn streams_create(s: &State, name: &str) -> plan::Plan<()> {
    Ok((Some(Record::Create { id: s.new_id(0), name: name.into(), table: false, at_ms: 1 }), ()))
}

#[tokio::test]
async fn checkpoints_free_the_log_and_hold_what_they_must() {
    let disk = Arc::new(Faulty::new(5));
    let store = open(&disk);
    create(&store, "kept");
    let mut expected = Vec::new();
    for n in 1..=10i64 {
        let data = vec![n as u8; 50_000];
        append(&store, "kept", 1, n, &data).await.unwrap();
        expected.extend(data);
    }
    for n in 1..=40i64 {
        create(&store, &format!("gone-{n}"));
        append(&store, &format!("gone-{n}"), 1, 1, &[7; 100_000]).await.unwrap();
        let name = format!("gone-{n}");
        store.change(|s| Ok((Some(Record::Delete { id: s.find(&name)?.0 }), ()))).await.unwrap();
    }
    use streams::disk::Disk;
    let end = Instant::now() + Duration::from_secs(60);
    let mut event = 100;
    // 4.5 MB went through; 0.5 MB must stay, and what came after the older checkpoint.
    while store.log().files_used() > 9 || !disk.list().unwrap().iter().any(|n| n.starts_with("checkpoint-b")) {
        assert!(Instant::now() < end, "{} files are in use", store.log().files_used());
        append(&store, "kept", 1, event, b"").await.unwrap();
        event += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.close();
    drop(store);
    let store = open(&disk);
    assert_eq!(read(&store, "kept", 0).await, expected);
    store.peek(|s| assert_eq!(s.segments.len(), 1, "what was deleted is gone"));
    // One checkpoint damaged: the other one and more of the log.
    store.close();
    drop(store);
    for name in ["checkpoint-a", "checkpoint-b"] {
        let good = disk.get(name).unwrap().unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        disk.put(name, &bad).unwrap();
        let store = open(&disk);
        assert_eq!(read(&store, "kept", 0).await, expected, "without {name}");
        store.close();
        drop(store);
        if disk.get(name).unwrap().unwrap() == bad {
            disk.put(name, &good).unwrap();
        }
    }
}

/// Files that could be used again ask for a checkpoint at the start, before anything has been written or will be.
#[tokio::test]
async fn a_checkpoint_that_is_due_at_the_start_is_written() {
    use streams::disk::Disk;
    let disk = Arc::new(Faulty::new(31));
    let few = Options { log: log::Options { files_max: 20, note_after: Duration::from_secs(3600), ..options().log }, checkpoint_bytes: u64::MAX, ..options() };
    let many = Options { log: log::Options { files_max: 4000, ..few.log.clone() }, ..few.clone() };
    let store = Store::open(disk.clone(), many).unwrap();
    create(&store, "a");
    for n in 1..=20i64 {
        append(&store, "a", 1, n, &[n as u8; 100_000]).await.unwrap();
    }
    store.change(|s| Ok((Some(Record::Truncate { id: s.find("a")?.0, start: 1_900_000 }), ()))).await.unwrap();
    store.close();
    drop(store);
    assert!(!disk.list().unwrap().iter().any(|n| n.starts_with("checkpoint-")));
    let store = Store::open(disk.clone(), few).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !disk.list().unwrap().iter().any(|n| n.starts_with("checkpoint-")) {
        assert!(Instant::now() < end, "no checkpoint, though {} files are in use", store.log().files_used());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.close();
}

/// What came to the state after its first version is in checkpoints, and a checkpoint that has nothing of it can be read.
#[tokio::test]
async fn what_writers_and_groups_have_said_is_there_after_a_restart() {
    use streams::{catalog::WriterMark, watermark::{self, Noted}};
    let disk = Arc::new(Faulty::new(19));
    let store = open(&disk);
    store.change(|s| plan::create_scope(s, "s")).await.unwrap();
    store.change(|s| plan::create_stream(s, "s", "t", Config::default(), 1)).await.unwrap();
    let mark = |time| WriterMark { time, position: [(SegmentNo(0), 0)].into(), alive: true };
    for time in [10, 20] {
        assert_eq!(store.change(|s| watermark::note(s, "s", "t", "w", mark(time))).await.unwrap(), Noted::Taken);
    }
    // Enough for a checkpoint behind it, and another one.
    use streams::disk::Disk;
    let both = |disk: &Faulty| disk.list().unwrap().iter().filter(|n| n.starts_with("checkpoint-")).count() == 2;
    let (mut event, end) = (0, Instant::now() + Duration::from_secs(60));
    while !both(&disk) {
        assert!(Instant::now() < end);
        event += 1;
        append(&store, "s/t/0.#epoch.0", 1, event, &[7; 50_000]).await.unwrap();
    }
    store.close();
    drop(store);
    let store = open(&disk);
    assert_eq!(store.peek(|s| s.catalog.told("s", "t").unwrap().writers["w"].clone()), mark(20));
    assert_eq!(store.change(|s| watermark::note(s, "s", "t", "w", mark(19))).await.unwrap(), Noted::Earlier);
    // A stream that is made again, in a scope that is, has other segments: who still writes to the old ones must not write to it.
    for life in 0..2 {
        store.change(|s| plan::create_scope(s, "gone")).await.unwrap();
        store.change(|s| plan::create_stream(s, "gone", "t", Config::default(), 1)).await.unwrap();
        assert_eq!(store.peek(|s| s.catalog.stream("gone", "t").unwrap().current().segments[0].segment.number()), life);
        store.change(|s| plan::delete_scope(s, "gone", true)).await.unwrap();
    }
    // Names are used again, times not.
    store.change(|s| plan::seal_stream(s, "s", "t")).await.unwrap();
    store.change(|s| plan::delete_stream(s, "s", "t")).await.unwrap();
    store.change(|s| plan::create_stream(s, "s", "t", Config::default(), 1)).await.unwrap();
    assert!(store.peek(|s| s.catalog.told("s", "t").is_none()));
}

#[tokio::test]
async fn a_flipped_bit_is_not_read_as_data() {
    let disk = Arc::new(Faulty::new(6));
    let store = open(&disk);
    create(&store, "a");
    for n in 1..=4 {
        append(&store, "a", 1, n, &[n as u8; 3000]).await.unwrap();
    }
    let place = store.peek(|s| s.segment("a").unwrap().landed.covering(6000, 1)[0].source);
    let streams::segment::Source::Log(place) = place else { panic!("{place:?}") };
    disk.flip(&disk.slot_of(place.file.0), (u64::from(place.at) + 1000) * 8);
    let e = store.read("a", 6000, 10, Duration::ZERO).await.unwrap_err();
    assert!(matches!(e, Error::Spoilt(_)), "{e}");
    // A read in order comes up to it: with what lies in the log alone, as nothing has flushed it.
    let mut read = Vec::new();
    while read.len() < 6000 {
        let more = store.read("a", read.len() as u64, 1 << 20, Duration::ZERO).await.unwrap().data;
        assert!(!more.is_empty());
        read.extend_from_slice(&more);
    }
    assert!(read[..3000] == [1; 3000] && read[3000..] == [2; 3000]);
    assert!(store.read("a", 9000, 1 << 20, Duration::ZERO).await.unwrap().data == vec![4; 3000]);
}

/// Who reads it is told which object it is, so that it can be put back, and where the stream could begin instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_long_term_storage_is_told_of_until_it_is_put_back_or_truncated() {
    let (disk, folder) = (Arc::new(Faulty::new(33)), tempfile::tempdir().unwrap());
    let store = open(&disk);
    let names = ["back", "cut"];
    for name in names {
        create(&store, name);
        for n in 1..=3 {
            append(&store, name, 1, n, &[n as u8; 40_000]).await.unwrap();
        }
    }
    let tier = Arc::new(Tier::new(geds::Persist::folder(folder.path()).unwrap(), None, quick()));
    store.set_tier(tier.clone());
    let flusher = tokio::spawn(tier.clone().run(store.clone()));
    until("all to be flushed", || store.peek(|s| names.iter().all(|name| s.segment(name).unwrap().landed.unflushed == 0))).await;
    let damaged = || store.peek(|s| tier.damaged(s));
    for name in names {
        let extent = store.peek(|s| s.segment(name).unwrap().landed.covering(50_000, 1)[0]);
        let streams::segment::Source::Chunk(chunk, at) = extent.source else { panic!("{extent:?}") };
        let location = store.peek(|s| s.chunks[&chunk].location.clone());
        let (file, place) = (folder.path().join(&location), (50_000 - extent.start) as usize + at as usize);
        let good = std::fs::read(&file).unwrap();
        let mut bad = good.clone();
        bad[place] ^= 1;
        std::fs::write(&file, &bad).unwrap();
        let Err(Error::Spoilt(why)) = store.read(name, 50_000, 10, Duration::ZERO).await else { panic!("a flipped bit is read") };
        for word in [&format!("{} to {} of {name},", extent.start, extent.end()), &location, &folder.path().display().to_string(), "checksum", "put it back", "truncate --at"] {
            assert!(why.contains(word), "{word}: {why}");
        }
        let told = damaged();
        assert!(told.len() == 1 && told[0].segment == name && (told[0].start, told[0].bytes) == (extent.start, extent.len.into()) && told[0].why.contains(&location), "{told:?}");
        // What lies before it is read by who asks for more.
        assert!(extent.start == 0 || store.read(name, 0, 120_000, Duration::ZERO).await.unwrap().data.len() as u64 == extent.start);
        if name == "back" {
            std::fs::write(&file, &good).unwrap();
            assert!(store.read(name, 50_000, 10, Duration::ZERO).await.unwrap().data == vec![2; 10]);
        } else {
            store.change(|s| Ok((Some(Record::Truncate { id: s.find(name)?.0, start: extent.end() }), ()))).await.unwrap();
        }
        assert!(damaged().is_empty());
    }
    flusher.abort();
}

/// Bytes of one segment that can't be read in the log are no reason for others, nor for those behind them, to stay out of long-term storage, and not a fault of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_log_keeps_nothing_else_from_long_term_storage() {
    let (disk, folder) = (Arc::new(Faulty::new(32)), tempfile::tempdir().unwrap());
    let options = options();
    let store = Store::open(disk.clone(), Options { log: log::Options { file_bytes: 1 << 20, ..options.log }, ..options }).unwrap();
    for name in ["first", "second"] {
        create(&store, name);
        for n in 1..=3 {
            append(&store, name, 1, n, &[n as u8; 40_000]).await.unwrap();
        }
    }
    let extent = store.peek(|s| s.segment("first").unwrap().landed.covering(50_000, 1)[0]);
    let streams::segment::Source::Log(place) = extent.source else { panic!("{extent:?}") };
    disk.flip(&disk.slot_of(place.file.0), u64::from(place.at + 100) * 8);
    let tier = Arc::new(Tier::new(geds::Persist::folder(folder.path()).unwrap(), None, quick()));
    store.set_tier(tier.clone());
    let flusher = tokio::spawn(tier.clone().run(store.clone()));
    let left = |name: &str| store.peek(|s| s.segment(name).unwrap().landed.unflushed);
    until("all the rest to be flushed", || left("second") == 0 && left("first") == 40_000).await;
    let newest = manifests(folder.path()).1;
    append(&store, "second", 1, 4, b"more").await.unwrap();
    until("the next manifest", || manifests(folder.path()).1 > newest).await;
    let damaged = store.peek(|s| tier.damaged(s));
    assert!(damaged.len() == 1 && damaged[0].segment == "first" && (damaged[0].start, damaged[0].bytes) == (40_000, 40_000) && damaged[0].why.contains("checksum"), "{damaged:?}");
    assert!(!tier.is_away(), "the storage is said to be away");
    // What is whole is read, also by who asks for more, and the damage is nobody else's.
    assert!(store.read("first", 0, 120_000, Duration::ZERO).await.unwrap().data == vec![1u8; 40_000]);
    assert!(store.read("first", 0, 40_000, Duration::ZERO).await.unwrap().data == vec![1u8; 40_000]);
    assert!(store.read("first", 80_000, 40_000, Duration::ZERO).await.unwrap().data == vec![3u8; 40_000]);
    assert!(matches!(store.read("first", 40_000, 10, Duration::ZERO).await, Err(Error::Spoilt(_))));
    // Who truncates it is rid of it.
    store.change(|s| Ok((Some(Record::Truncate { id: s.find("first")?.0, start: 80_000 }), ()))).await.unwrap();
    until("the damage to be forgotten", || store.peek(|s| s.live.unflushed == 0 && tier.damaged(s).is_empty())).await;
    store.peek(|s| s.check().unwrap());
    flusher.abort();
}

/// A disk that takes its time to fail keeps only the segment from long-term storage that lies on its bad sectors, and that only where they are; and what it reads after all goes there.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_slow_to_fail_holds_up_no_other_segment() {
    let (disk, folder) = (Arc::new(Faulty::new(33)), tempfile::tempdir().unwrap());
    let options = options();
    // No blocks that come by time: what lies at the bad places is the same each time.
    let store = Store::open(disk.clone(), Options { log: log::Options { file_bytes: 1 << 20, note_after: Duration::from_secs(3600), ..options.log }, ..options }).unwrap();
    for name in ["first", "second"] {
        create(&store, name);
    }
    for n in 1..=80 {
        append(&store, "first", 1, n, &[n as u8; 40_000]).await.unwrap();
    }
    // In each of the log's files.
    disk.unreadable(Some(500_000));
    disk.slow(Duration::from_millis(700));
    let tier = Arc::new(Tier::new(geds::Persist::folder(folder.path()).unwrap(), None, quick()));
    store.set_tier(tier.clone());
    let flusher = tokio::spawn(tier.clone().run(store.clone()));
    let damaged = || store.peek(|s| tier.damaged(s)).len();
    let left = |name: &str| store.peek(|s| s.segment(name).unwrap().landed.unflushed);
    until("the first damage to be found", || damaged() > 0).await;
    append(&store, "second", 1, 1, b"more").await.unwrap();
    until("the other segment to be flushed", || left("second") == 0).await;
    assert!(damaged() < 3, "it had to wait until all damage was known");
    until("all damage to be found, and the rest to be flushed", || damaged() == 3 && left("first") == 3 * 40_000).await;
    // What is read again and again keeps nothing that comes later from going there.
    disk.slow(Duration::from_secs(3));
    for n in 81..=84 {
        append(&store, "first", 1, n, &[n as u8; 40_000]).await.unwrap();
        until("what came later to be flushed", || left("first") == 3 * 40_000).await;
    }
    assert_eq!(damaged(), 3);
    disk.unreadable(None);
    until("the disk to be tried again", || damaged() == 0 && left("first") == 0).await;
    assert_eq!(read(&store, "first", 0).await.len(), 84 * 40_000);
    flusher.abort();
}

fn quick() -> tier::Options {
    tier::Options {
        chunk_bytes: 300 << 10,
        flush_bytes: 100 << 10,
        flush_after: Duration::from_millis(300),
        cache_bytes: 1 << 20,
        uploads: 2,
        manifest_every: Duration::from_millis(50),
        remove_after: Duration::from_millis(100),
        damaged_after: Duration::from_millis(200),
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_to_long_term_storage_and_come_back() {
    let (disk, folder) = (Arc::new(Faulty::new(7)), tempfile::tempdir().unwrap());
    let mut expected = HashMap::new();
    for life in 0..3i64 {
        let server = streams_with(&disk, folder.path());
        let (store, flusher) = server;
        for n in 0..2 {
            let name = format!("seg-{n}");
            if life == 0 {
                create(&store, &name);
            }
            let all: &mut Vec<u8> = expected.entry(name.clone()).or_default();
            for i in 1..=40i64 {
                let data: Vec<u8> = (0..20_000).map(|b| (b as i64 * i + life + n) as u8).collect();
                append(&store, &name, 1, life * 40 + i, &data).await.unwrap();
                all.extend(&data);
            }
        }
        until("the log to be flushed", || store.peek(|s| s.live.unflushed == 0)).await;
        store.peek(|s| s.check()).unwrap();
        for (name, all) in &expected {
            assert_eq!(&read(&store, name, 0).await, all, "{name} in life {life}");
            assert_eq!(read(&store, name, 123_456).await, all[123_456..]);
        }
        flusher.abort();
        store.close();
        drop(store);
    }
    // Truncation and deletion remove chunks.
    let (store, flusher) = streams_with(&disk, folder.path());
    let persist = geds::Persist::folder(folder.path()).unwrap();
    let chunks = format!("streams/{:016x}/chunks", store.log().identity().0);
    let before = persist.list(&chunks).await.unwrap().len();
    store.change(|s| Ok((Some(Record::Truncate { id: s.find("seg-0")?.0, start: 1_500_000 }), ()))).await.unwrap();
    store.change(|s| Ok((Some(Record::Delete { id: s.find("seg-1")?.0 }), ()))).await.unwrap();
    until("chunks to be removed", || store.peek(|s| s.chunks.len() < before / 3)).await;
    until("their objects to be gone", || std::fs::read_dir(folder.path().join(&chunks).join("1")).map_or(0, |d| d.count()) == 0).await;
    assert_eq!(read(&store, "seg-0", 1_500_000).await, expected["seg-0"][1_500_000..]);
    assert!(matches!(store.read("seg-0", 1_499_999, 1, Duration::ZERO).await, Err(Error::Truncated { start: 1_500_000, .. })));
    flusher.abort();
}

fn streams_with(disk: &Arc<Faulty>, folder: &std::path::Path) -> (Store, tokio::task::JoinHandle<streams::Result<()>>) {
    streams_over(disk, geds::Persist::folder(folder).unwrap(), quick())
}

fn streams_over(disk: &Arc<Faulty>, persist: geds::Persist, tiers: tier::Options) -> (Store, tokio::task::JoinHandle<streams::Result<()>>) {
    let options = options();
    // Room for events that are larger than a chunk may be.
    let store = Store::open(disk.clone(), Options { log: log::Options { file_bytes: 1 << 20, ..options.log }, ..options }).unwrap();
    let tier = Arc::new(Tier::new(persist, None, tiers));
    store.set_tier(tier.clone());
    let flusher = tokio::spawn(tier.run(store.clone()));
    (store, flusher)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_fills_the_log_to_its_bound_then_writers_wait_and_nothing_is_lost() {
    let (disk, folder) = (Arc::new(Faulty::new(8)), tempfile::tempdir().unwrap());
    let store = Store::open(disk.clone(), Options { backlog_max: 1 << 20, ..options() }).unwrap();
    let chunks = folder.path().join("chunks");
    let tier = Arc::new(Tier::new(geds::Persist::folder(&chunks).unwrap(), None, quick()));
    store.set_tier(tier.clone());
    // A file where the folder was: every upload fails.
    std::fs::remove_dir_all(&chunks).unwrap();
    std::fs::write(&chunks, "").unwrap();
    let flusher = tokio::spawn(tier.clone().run(store.clone()));
    create(&store, "a");
    let (s, mut expected) = (store.clone(), Vec::new());
    for n in 1..=200u32 {
        expected.extend([n as u8; 20_000]);
    }
    let writing = tokio::spawn(async move {
        for n in 1..=200i64 {
            s.room().await.unwrap();
            append(&s, "a", 1, n, &[n as u8; 20_000]).await.unwrap();
        }
    });
    until("the bound", || store.peek(|s| s.live.unflushed >= 1 << 20)).await;
    until("the storage to be missed", || tier.is_away()).await;
    let held = store.peek(|s| s.segment("a").unwrap().length);
    assert!(held < 2 << 20 && !writing.is_finished(), "{held} bytes were taken");
    assert_eq!(read(&store, "a", 0).await, expected[..held as usize], "what is there can be read");
    std::fs::remove_file(&chunks).unwrap();
    std::fs::create_dir(&chunks).unwrap();
    writing.await.unwrap();
    until("the log to be flushed", || store.peek(|s| s.live.unflushed == 0)).await;
    assert_eq!(read(&store, "a", 0).await, expected);
    until("the storage to be back", || !tier.is_away()).await;
    flusher.abort();
}

/// Who truncates gets room in storage that is full, although nothing more fits there before.
#[tokio::test(flavor = "multi_thread")]
async fn full_storage_gets_room_by_truncation() {
    let (s3, disk) = (FakeS3::start().await, Arc::new(Faulty::new(33)));
    let store = open(&disk);
    let tier = Arc::new(Tier::new(s3.persist_within(Some(Duration::from_secs(2))), None, quick()));
    store.set_tier(tier.clone());
    let flusher = tokio::spawn(tier.clone().run(store.clone()));
    create(&store, "old");
    create(&store, "new");
    append(&store, "old", 1, 1, &[1; 250_000]).await.unwrap();
    until("a flush", || store.peek(|s| s.live.unflushed == 0)).await;
    s3.room(450_000);
    append(&store, "new", 1, 1, &[2; 250_000]).await.unwrap();
    until("the storage to take nothing", || tier.is_away()).await;
    assert!(tier.why_away().unwrap().contains("507"), "{:?}", tier.why_away());
    store.change(|s| Ok((Some(Record::Truncate { id: s.find("old")?.0, start: 250_000 }), ()))).await.unwrap();
    until("what was truncated to be gone, and the rest to be there", || store.peek(|s| s.live.unflushed == 0) && !tier.is_away()).await;
    assert_eq!(s3.names("chunks").len(), 1);
    assert_eq!(read(&store, "new", 0).await, [2; 250_000]);
    flusher.abort();
}

/// It says what is wrong with storage that is there and takes nothing, which looks like an outage otherwise and ends when someone reads that.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_told_with_what_helps() {
    let (s3, disk) = (FakeS3::start().await, Arc::new(Faulty::new(34)));
    let store = open(&disk);
    let tier = Arc::new(Tier::new(s3.persist(), None, quick()));
    store.set_tier(tier.clone());
    s3.refuse(Some(StatusCode::NOT_FOUND));
    let flusher = tokio::spawn(tier.clone().run(store.clone()));
    create(&store, "a");
    append(&store, "a", 1, 1, &[1; 250_000]).await.unwrap();
    let says = |part: &'static str| tier.why_away().is_some_and(|why| why.contains(part));
    until("the bucket to be missed", || says("is the bucket, or the folder, there?")).await;
    s3.refuse(Some(StatusCode::FORBIDDEN));
    until("the right to be missed", || says("may these keys, or for a folder the server's user, write there?")).await;
    s3.refuse(None);
    until("a flush", || store.peek(|s| s.live.unflushed == 0) && tier.why_away().is_none()).await;
    flusher.abort();
}

/// The number of a log's manifest files and the highest of their names.
fn manifests(folder: &std::path::Path) -> (usize, String) {
    let logs: Vec<_> = std::fs::read_dir(folder.join("streams")).map_or(Vec::new(), |d| d.map(|e| e.unwrap().path()).collect());
    let names: Vec<String> = logs
        .iter()
        .flat_map(|l| std::fs::read_dir(l.join("manifest")).into_iter().flatten())
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|n| !n.contains('#'))
        .collect();
    (names.len(), names.into_iter().max().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_is_replaced_by_what_long_term_storage_has() {
    let (disk, folder) = (Arc::new(Faulty::new(9)), tempfile::tempdir().unwrap());
    let (store, flusher) = streams_with(&disk, folder.path());
    store.change(|s| plan::create_scope(s, "s")).await.unwrap();
    store.change(|s| plan::create_stream(s, "s", "t", Config::default(), 1)).await.unwrap();
    let segment = "s/t/0.#epoch.0";
    // Appends of many pieces each, and chunks that could end in one.
    let events: Vec<Vec<u8>> = (0..20u8).map(|n| vec![n; 290_000 + usize::from(n)]).collect();
    for (n, event) in events.iter().enumerate() {
        append(&store, segment, 1, n as i64 + 1, event).await.unwrap();
    }
    until("a flush", || store.peek(|s| s.live.unflushed == 0)).await;
    let (id, _) = store.change(|s| plan::begin_txn(s, "s", "t", 10_000, 1)).await.unwrap();
    append(&store, &id.segment(segment), 2, 1, &[9; 200_000]).await.unwrap();
    until("a flush of what is not committed", || store.peek(|s| s.live.unflushed == 0)).await;
    let newest = manifests(folder.path()).1;
    until("the next manifest", || manifests(folder.path()).1 > newest).await;
    flusher.abort();
    let _ = flusher.await;
    // These are nowhere but on the disk that is lost.
    append(&store, segment, 1, 21, b"late").await.unwrap();
    store.close();
    drop((store, disk));

    let fresh = Arc::new(Faulty::new(10));
    let persist = geds::Persist::folder(folder.path()).unwrap();
    let log = streams::manifest::restore(&persist, None, fresh.clone()).await.unwrap();
    assert!(streams::manifest::restore(&persist, Some(log + 1), Arc::new(Faulty::new(11))).await.is_err(), "another log");
    let (store, flusher) = streams_with(&fresh, folder.path());
    assert_eq!(store.log().identity().0, log);
    store.peek(|s| s.check().unwrap());
    let found = read(&store, segment, 0).await;
    let all = events.concat();
    assert_eq!(found.len(), all.len());
    assert!(found == all);
    let stream = store.peek(|s| s.catalog.stream("s", "t").unwrap().clone());
    assert_eq!(stream.txn_state(id), Some(TxnState::Aborted));
    assert!(store.peek(|s| s.names.keys().all(|n| !n.contains("transaction"))));
    // It goes on, also after another loss.
    append(&store, segment, 1, 22, &[7; 150_000]).await.unwrap();
    until("a flush", || store.peek(|s| s.live.unflushed == 0)).await;
    let newest = manifests(folder.path()).1;
    append(&store, segment, 1, 23, b"x").await.unwrap();
    until("the next manifest", || manifests(folder.path()).1 > newest).await;
    assert!(manifests(folder.path()).0 <= 3, "old ones are removed");
    flusher.abort();
    let _ = flusher.await;
    store.close();
    drop(store);
    // A folder with a log is not overwritten.
    let e = streams::manifest::restore(&persist, None, fresh.clone()).await.unwrap_err().to_string();
    assert!(e.contains("already"), "{e}");
    let third = Arc::new(Faulty::new(12));
    streams::manifest::restore(&persist, Some(log), third.clone()).await.unwrap();
    let store = open(&third);
    let (tier, _) = (Arc::new(Tier::new(persist, None, quick())), ());
    store.set_tier(tier);
    let found = read(&store, segment, all.len() as u64).await;
    assert!(found.starts_with(&[7; 150_000]), "{} bytes", found.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_servers_with_one_log_the_earlier_one_stops_and_removes_nothing() {
    let (disk, folder) = (Arc::new(Faulty::new(13)), tempfile::tempdir().unwrap());
    let (first, flusher) = streams_with(&disk, folder.path());
    create(&first, "a");
    let data: Vec<u8> = (0..400_000u32).map(|n| n as u8).collect();
    append(&first, "a", 1, 1, &data).await.unwrap();
    until("a flush", || first.peek(|s| s.live.unflushed == 0)).await;
    let newest = manifests(folder.path()).1;
    append(&first, "a", 1, 2, b"more").await.unwrap();
    until("the next manifest", || manifests(folder.path()).1 > newest).await;
    // A second server with a copy of the log, as after a machine was restored from its snapshot.
    let (copy, late) = (Arc::new(disk.copy()), Arc::new(disk.copy()));
    let second = open(&copy);
    let tier = Arc::new(Tier::new(geds::Persist::folder(folder.path()).unwrap(), None, quick()));
    second.set_tier(tier.clone());
    tokio::spawn(tier.clone().run(second.clone()));
    append(&second, "a", 1, 3, b"of the second").await.unwrap();
    until("the second one's first manifest", || tier.manifest_age().is_some()).await;
    // The first one wants to remove what the second one reads.
    let newest = manifests(folder.path()).1;
    let _ = first.change(|s| Ok((Some(Record::Truncate { id: s.find("a")?.0, start: 400_000 }), ()))).await;
    until("the first one to stop", || flusher.is_finished()).await;
    assert!(matches!(flusher.await.unwrap(), Err(Error::Fenced(_))));
    let e = append(&first, "a", 1, 4, b"lost").await.unwrap_err().to_string();
    assert!(e.contains("another server"), "{e}");
    append(&second, "a", 1, 4, b"!").await.unwrap();
    until("the second one's manifest", || manifests(folder.path()).1 > newest).await;
    let found = read(&second, "a", 0).await;
    assert_eq!(found.len(), 400_000 + 4 + 13 + 1);
    assert!(found[..400_000] == data);
    // A copy of the first one's log from before is refused at once.
    let (third, flusher) = streams_with(&late, folder.path());
    until("the third one to stop", || flusher.is_finished()).await;
    assert!(append(&third, "a", 9, 1, b"x").await.is_err());
    first.close();
    third.close();
    drop((first, third));
    // However often they are started again, as what restarts servers does: each start counts one opening more, and would have taken back what is the second one's.
    for disk in [disk, late] {
        for _ in 0..3 {
            let refused = Store::open(disk.clone(), options()).err().expect("it is refused");
            assert!(matches!(&refused, Error::Fenced(_)) && refused.to_string().contains("--restore"), "{refused}");
        }
    }
}

/// Of what came later it knows nothing, and would remove that as if nothing pointed to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_from_before_what_long_term_storage_knows_is_refused() {
    let (disk, folder) = (Arc::new(Faulty::new(34)), tempfile::tempdir().unwrap());
    let (store, flusher) = streams_with(&disk, folder.path());
    create(&store, "a");
    let mut copy = None;
    for n in 1..=2 {
        append(&store, "a", 1, n * 10, &vec![n as u8; 200_000]).await.unwrap();
        until("a flush", || store.peek(|s| s.live.unflushed == 0)).await;
        let newest = manifests(folder.path()).1;
        append(&store, "a", 1, n * 10 + 1, b"more").await.unwrap();
        until("the next manifest", || manifests(folder.path()).1 > newest).await;
        copy.get_or_insert_with(|| Arc::new(disk.copy()));
    }
    flusher.abort();
    store.close();
    let chunks = || std::fs::read_dir(folder.path().join(format!("streams/{:016x}/chunks/0", store.log().identity().0))).unwrap().count();
    let before = chunks();
    let (old, flusher) = streams_with(&copy.unwrap(), folder.path());
    until("the copy to stop", || flusher.is_finished()).await;
    let refused = flusher.await.unwrap().unwrap_err();
    let why = refused.to_string();
    assert!(matches!(refused, Error::Elsewhere(_)) && why.contains("a copy from before") && why.contains("--restore"), "{why}");
    assert_eq!(chunks(), before);
    old.close();
    // The folder that went on goes on.
    let (store, flusher) = streams_with(&disk, folder.path());
    let newest = manifests(folder.path()).1;
    append(&store, "a", 1, 30, b"more").await.unwrap();
    until("its manifest", || manifests(folder.path()).1 > newest).await;
    assert_eq!(read(&store, "a", 0).await.len(), 400_000 + 3 * 4);
    flusher.abort();
    store.close();
}

/// A transaction's bytes may be in long-term storage before those that lie in front of them after the commit. No manifest points to such a chunk, since
/// a manifest ends at the first byte that only the log has, and readers still need it.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_behind_bytes_of_the_log_is_kept() {
    let (disk, folder) = (Arc::new(Faulty::new(14)), tempfile::tempdir().unwrap());
    let (store, flusher) = streams_over(&disk, geds::Persist::folder(folder.path()).unwrap(), tier::Options { flush_after: Duration::from_secs(3600), ..quick() });
    for name in ["target", "transaction"] {
        create(&store, name);
    }
    append(&store, "transaction", 2, 1, &[2; 200_000]).await.unwrap();
    until("a flush", || store.peek(|s| s.live.unflushed == 0)).await;
    // Too little to be flushed.
    append(&store, "target", 1, 1, &[1; 5000]).await.unwrap();
    store.change(|s| Ok((Some(Record::Merge { source: s.find("transaction")?.0, target: s.find("target")?.0 }), ()))).await.unwrap();
    for n in 2..5 {
        let newest = manifests(folder.path()).1;
        append(&store, "target", 1, n, b"more").await.unwrap();
        until("the next manifest", || manifests(folder.path()).1 > newest).await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    store.peek(|s| assert_eq!(s.chunks.len(), 1));
    assert!(read(&store, "target", 0).await == [&[1; 5000][..], &[2; 200_000], b"moremoremore"].concat());
    flusher.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_does_not_lose_the_chunk_that_it_reads() {
    let (disk, s3) = (Arc::new(Faulty::new(15)), FakeS3::start().await);
    let (store, flusher) = streams_over(&disk, s3.persist(), tier::Options { cache_bytes: 0, ..quick() });
    create(&store, "a");
    let data: Vec<u8> = (0..250_000u32).map(|n| (n % 251) as u8).collect();
    append(&store, "a", 1, 1, &data).await.unwrap();
    until("a flush", || store.peek(|s| s.live.unflushed == 0)).await;
    let chunk = s3.names("/chunks/").pop().unwrap();
    // A storage that answers late, and what is read is truncated meanwhile.
    s3.hold(&chunk);
    let s = store.clone();
    let reading = tokio::spawn(async move { s.read("a", 0, 250_000, Duration::ZERO).await });
    until("the read to be under way", || s3.waiting() > 0).await;
    store.change(|s| Ok((Some(Record::Truncate { id: s.find("a")?.0, start: 250_000 }), ()))).await.unwrap();
    for n in 2..7 {
        let newest = s3.names("/manifest/").pop();
        append(&store, "a", 1, n, b"x").await.unwrap();
        until("the next manifest", || s3.names("/manifest/").pop() > newest).await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(s3.names("/chunks/").contains(&chunk), "removed while it was read");
    s3.free();
    assert!(reading.await.unwrap().unwrap().data == data);
    until("the chunk to be removed", || !s3.names("/chunks/").contains(&chunk)).await;
    flusher.abort();
}

/// Both manifests that are there can be begun with: what either points to stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_stays_as_long_as_one_of_the_last_two_manifests_has_it() {
    let (disk, s3) = (Arc::new(Faulty::new(16)), FakeS3::start().await);
    let (store, flusher) = streams_over(&disk, s3.persist(), tier::Options { manifest_every: Duration::from_millis(300), remove_after: Duration::ZERO, ..quick() });
    create(&store, "a");
    for n in 1..=8i64 {
        append(&store, "a", 1, n, &[n as u8; 150_000]).await.unwrap();
        until("a flush", || store.peek(|s| s.live.unflushed == 0)).await;
    }
    store.change(|s| Ok((Some(Record::Truncate { id: s.find("a")?.0, start: 1_200_000 }), ()))).await.unwrap();
    until("all chunks to be removed", || s3.names("/chunks/").is_empty()).await;
    flusher.abort();
    let _ = flusher.await;
    // The one before is what is begun with when the newest can't be read.
    s3.flip(&s3.names("/manifest/").pop().unwrap());
    let fresh = Arc::new(Faulty::new(17));
    streams::manifest::restore(&s3.persist(), None, fresh.clone()).await.unwrap();
    let again = open(&fresh);
    again.peek(|s| assert!(s.live.chunk_bytes.values().all(|bytes| *bytes == 0), "it points to what is gone"));
    again.close();
    drop(again);
    // It is no reason to bring nothing there any more.
    let (again, flusher) = streams_over(&fresh, s3.persist(), quick());
    append(&again, "a", 2, 1, &[9; 150_000]).await.unwrap();
    until("a flush", || again.peek(|s| s.live.unflushed == 0)).await;
    flusher.abort();
    again.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_also_bounded_by_what_the_disk_has_room_for() {
    let (disk, s3) = (Arc::new(Faulty::new(18)), FakeS3::start().await);
    let store = Store::open(disk.clone(), Options { backlog_max: 1 << 30, ..options() }).unwrap();
    let tier = Arc::new(Tier::new(s3.persist(), None, quick()));
    store.set_tier(tier.clone());
    s3.away(true);
    let flusher = tokio::spawn(tier.clone().run(store.clone()));
    disk.space_for(14);
    create(&store, "a");
    let s = store.clone();
    let writing = tokio::spawn(async move {
        for n in 1..=300i64 {
            s.room().await.unwrap();
            append(&s, "a", 1, n, &[n as u8; 20_000]).await.unwrap();
        }
    });
    until("writers to wait", || store.metrics().held.load(std::sync::atomic::Ordering::Relaxed) > 0).await;
    let held = store.peek(|s| s.segment("a").unwrap().length);
    let told = store.outage();
    assert!(held < 14 * (256 << 10) && told.backlog_max < 14 * (256 << 10), "{held} bytes were taken, {told:?}");
    until("the end of all room to be told", || store.outage().left == Some(Duration::ZERO)).await;
    // Someone else fills what was left, and a little more. The records by which files become free, and a checkpoint, must find their place all the same.
    disk.space_for(disk.files() - 1);
    s3.away(false);
    let end = Instant::now() + Duration::from_secs(100);
    while !writing.is_finished() {
        assert!(Instant::now() < end, "writers wait for ever: {:?}, {} files are left", store.outage(), store.log().files_left());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    writing.await.unwrap();
    until("the log to be flushed", || store.peek(|s| s.live.unflushed == 0)).await;
    assert!(read(&store, "a", 0).await == (1..=300u32).flat_map(|n| [n as u8; 20_000]).collect::<Vec<u8>>());
    flusher.abort();
}

/// On a disk with room for a few files of the log, those who write wait for what long-term storage takes, and not for what is too little to be brought there before its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_disk_is_emptied_when_writers_wait() {
    let (disk, folder) = (Arc::new(Faulty::new(36)), tempfile::tempdir().unwrap());
    disk.space_for(6);
    let store = open(&disk);
    let tier = Arc::new(Tier::new(geds::Persist::folder(folder.path()).unwrap(), None, tier::Options { flush_after: Duration::from_secs(3600), ..quick() }));
    store.set_tier(tier.clone());
    let flusher = tokio::spawn(tier.run(store.clone()));
    create(&store, "slow");
    create(&store, "fast");
    append(&store, "slow", 1, 1, &[1; 5000]).await.unwrap();
    let writing = async {
        for n in 1..=150i64 {
            store.room().await.unwrap();
            append(&store, "fast", 2, n, &[n as u8; 20_000]).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), writing).await.expect("writers wait although long-term storage takes all there is");
    assert!(read(&store, "fast", 0).await == (1..=150u32).flat_map(|n| [n as u8; 20_000]).collect::<Vec<u8>>());
    assert!(read(&store, "slow", 0).await == [1; 5000]);
    flusher.abort();
}

/// Appends wait for room; who makes something is told where it is lacking, and can go on when there is some.
#[tokio::test(flavor = "multi_thread")]
async fn who_makes_something_on_a_full_disk_is_told_so() {
    let disk = Arc::new(Faulty::new(34));
    let store = Store::open(disk.clone(), options()).unwrap();
    create(&store, "a");
    append(&store, "a", 1, 1, b"there is a file of the log").await.unwrap();
    assert_eq!(store.short_of(), None);
    disk.space_for(0);
    until("the lack of room to be noticed", || store.short_of().is_some()).await;
    let why = store.short_of().unwrap();
    // Who does not ask for room takes what is kept for the records by which something becomes free, too.
    for n in 2.. {
        if store.log().disk_left() <= 1 {
            break;
        }
        tokio::time::timeout(Duration::from_secs(60), append(&store, "a", 1, n, &[1; 20_000])).await.expect("a file that is ready is not taken").unwrap();
    }
    assert!(why.contains("the disk with the log's folder") && why.contains("of 256.0 KiB each, and 4 are needed"), "{why}");
    let controller = Controller::new(store.clone(), access::Access::open(), ("here".into(), 1), ("here".into(), 2));
    let make = || ControllerService::create_scope(&controller, tonic::Request::new(streams::proto::ScopeInfo { scope: "s".into() }));
    let told = tokio::time::timeout(Duration::from_secs(60), make()).await.expect("it waits for ever").unwrap_err();
    assert!(told.code() == tonic::Code::ResourceExhausted && told.message().contains("make space there"), "{told}");
    disk.space_for(200);
    until("the room to be noticed", || store.short_of().is_none()).await;
    make().await.unwrap();
    assert!(store.peek(|s| s.catalog.scopes.contains_key("s")));
}

/// A store with a log for 1 MiB of backlog, S3 behind it, and a folder that takes 4 MB while S3 is away.
fn overflowing(disk: &Arc<Faulty>, s3: &FakeS3, folder: &std::path::Path) -> (Store, Arc<Tier>, tokio::task::JoinHandle<streams::Result<()>>) {
    overflowing_with(disk, s3, folder, quick())
}

fn overflowing_with(disk: &Arc<Faulty>, s3: &FakeS3, folder: &std::path::Path, tiers: tier::Options) -> (Store, Arc<Tier>, tokio::task::JoinHandle<streams::Result<()>>) {
    let store = Store::open(disk.clone(), Options { backlog_max: 1 << 20, ..options() }).unwrap();
    store.peek(|s| s.check()).unwrap();
    let overflow = Overflow::new(geds::Persist::folder(folder).unwrap(), 4_000_000);
    let tier = Arc::new(Tier::new(s3.persist(), Some(overflow), tiers));
    store.set_tier(tier.clone());
    let flusher = tokio::spawn(tier.clone().run(store.clone()));
    (store, tier, flusher)
}

/// Without files that are being put: those have two names for a moment, and are there once.
fn bytes_in(folder: &std::path::Path) -> u64 {
    let size = |e: std::fs::DirEntry| match e.file_type().unwrap().is_dir() {
        true => bytes_in(&e.path()),
        false if e.file_name().to_string_lossy().contains('#') => 0,
        // It may be gone by now.
        false => e.metadata().map_or(0, |m| m.len()),
    };
    std::fs::read_dir(folder).unwrap().map(|e| size(e.unwrap())).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_flows_over_into_a_folder_and_from_there_to_long_term_storage() {
    let (disk, s3, folder) = (Arc::new(Faulty::new(19)), FakeS3::start().await, tempfile::tempdir().unwrap());
    s3.away(true);
    let (store, tier, flusher) = overflowing(&disk, &s3, folder.path());
    create(&store, "a");
    create(&store, "b");
    let write = |store: &Store, from: i64, to: i64| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in from..to {
                store.room().await.unwrap();
                append(&store, if n % 3 == 0 { "b" } else { "a" }, 1, n, &[n as u8; 20_000]).await.unwrap();
            }
        })
    };
    let expected = |segment: &str, to: i64| (1..to).filter(|n| (n % 3 == 0) == (segment == "b")).flat_map(|n| [n as u8; 20_000]).collect::<Vec<u8>>();
    // The log alone would stop at 52 of them.
    write(&store, 1, 150).await.unwrap();
    assert!(s3.names("").is_empty() && bytes_in(folder.path()) > 1_500_000, "{} bytes flowed over", bytes_in(folder.path()));
    for segment in ["a", "b"] {
        assert!(read(&store, segment, 0).await == expected(segment, 150), "{segment} has other bytes during the outage");
    }
    // A server that starts in the outage has all of it, and takes away what its predecessor had put and not recorded.
    flusher.abort();
    let _ = flusher.await;
    tokio::task::spawn_blocking(move || store.close()).await.unwrap();
    drop(tier);
    // A file that was being written then is finished all the same, which after a server's end it is not.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lost = folder.path().join(std::fs::read_dir(folder.path().join("overflow")).unwrap().next().unwrap().unwrap().path()).join("0/lost");
    std::fs::write(&lost, "left by a crash").unwrap();
    let (store, tier, flusher) = overflowing(&disk, &s3, folder.path());
    until("stock to be taken", || !lost.exists() && tier.overflow() == Some((bytes_in(folder.path()), 4_000_000))).await;
    assert!(read(&store, "a", 0).await == expected("a", 150), "other bytes after a restart in the outage");
    // Then both are full, and writers wait.
    let writing = write(&store, 150, 350);
    until("writers to wait", || store.metrics().held.load(std::sync::atomic::Ordering::Relaxed) > 0 && bytes_in(folder.path()) > 3_900_000).await;
    let (held, told) = (bytes_in(folder.path()), store.outage());
    assert!((3_900_000..=4_000_000).contains(&held), "{held} bytes in the folder");
    assert!(!writing.is_finished(), "the writer did not wait");
    assert!(told.backlog_bytes > held && told.backlog_max < 5_500_000, "{told:?}");
    s3.away(false);
    writing.await.unwrap();
    until("all of it to be in S3", || store.peek(|s| s.live.unflushed == 0) && tier.overflow() == Some((0, 4_000_000)) && bytes_in(folder.path()) == 0).await;
    for segment in ["a", "b"] {
        assert!(read(&store, segment, 0).await == expected(segment, 350), "{segment} has other bytes afterwards");
    }
    // S3 alone has all of it.
    until("a manifest of it", || !s3.names("/manifest/").is_empty()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    flusher.abort();
    let _ = flusher.await;
    let fresh = Arc::new(Faulty::new(20));
    streams::manifest::restore(&s3.persist(), None, fresh.clone()).await.unwrap();
    let again = Store::open(fresh, options()).unwrap();
    again.set_tier(Arc::new(Tier::new(s3.persist(), None, quick())));
    for segment in ["a", "b"] {
        assert!(read(&again, segment, 0).await == expected(segment, 350), "{segment} has other bytes in S3");
    }
}

/// Files in a folder, without those that are being put.
fn files_in(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    let files = entries.flat_map(|e| if e.file_type().unwrap().is_dir() { files_in(&e.path()) } else { vec![e.path()] });
    files.filter(|f| !f.to_string_lossy().contains('#')).collect()
}

/// Segment and bytes of it in a chunk, which its name tells.
fn run_of(chunk: &str) -> (u64, std::ops::Range<u64>) {
    let mut parts = chunk.rsplit('/');
    let name: Vec<u64> = parts.next().unwrap().split('-').take(2).map(|n| n.parse().unwrap()).collect();
    (parts.next().unwrap().parse().unwrap(), name[0]..name[0] + name[1])
}

/// Appends of 20 kB, `pause` apart, each when there is room.
async fn fill(store: &Store, segment: impl Fn(i64) -> &'static str, events: std::ops::RangeInclusive<i64>, pause: Duration) {
    for n in events {
        tokio::time::timeout(Duration::from_secs(20), store.room()).await.expect("writers wait for the flush").unwrap();
        append(store, segment(n), 1, n, &[n as u8; 20_000]).await.unwrap();
        tokio::time::sleep(pause).await;
    }
}

/// What [`fill`] writes.
fn filled(events: std::ops::RangeInclusive<i64>) -> Vec<u8> {
    events.flat_map(|n| [n as u8; 20_000]).collect()
}

/// Storage that stops to answer in the middle of a flush keeps neither that flush's neighbours nor writers: what is not under way flows over after three seconds, and what is comes there
/// when it answers.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_begins_in_a_flush_flows_over() {
    let (disk, s3, folder) = (Arc::new(Faulty::new(35)), FakeS3::start().await, tempfile::tempdir().unwrap());
    let (store, tier, flusher) = overflowing_with(&disk, &s3, folder.path(), tier::Options { chunk_bytes: 600 << 10, flush_bytes: 500_000, flush_after: Duration::from_secs(2), ..quick() });
    create(&store, "a");
    create(&store, "b");
    until("storage to be claimed", || tier.manifest_age().is_some()).await;
    s3.hold("/chunks/");
    for writer in [2, 3] {
        append(&store, "a", writer, 1, &[1; 250_000]).await.unwrap();
    }
    until("a flush", || s3.waiting() > 0).await;
    // The log alone would stop at 28 of them. More slowly than chunks are made.
    let (segment, began) = (|n| if n % 3 == 0 { "b" } else { "a" }, Instant::now());
    fill(&store, segment, 2..=120, Duration::from_millis(20)).await;
    assert!(began.elapsed() < Duration::from_secs(18) && s3.waiting() > 0, "{:?}, or the flush has ended", began.elapsed());
    // Not what is under way, nor an append at a time, as if that filled the log.
    let (held, flown) = (s3.names("/chunks/"), files_in(folder.path()));
    assert!(bytes_in(folder.path()) > 500_000 && held.len() == 1, "{held:?} {flown:?}");
    for (segment, run) in flown.iter().map(|f| run_of(f.to_str().unwrap())) {
        let (of, under_way) = run_of(&held[0]);
        assert!(of != segment || under_way.end <= run.start || run.end <= under_way.start, "{run:?} of {segment} is under way");
        assert!(run.end - run.start >= 100_000, "{run:?} of {segment}");
    }
    s3.free();
    until("all of it to be in S3", || store.peek(|s| s.live.unflushed == 0) && files_in(folder.path()).is_empty()).await;
    store.peek(|s| s.check()).unwrap();
    for (name, first) in [("a", 500_000), ("b", 0)] {
        let events = (2..=120).filter(|n| segment(*n) == name).flat_map(|n| filled(n..=n));
        assert!(read(&store, name, 0).await == vec![1; first].into_iter().chain(events).collect::<Vec<u8>>(), "{name} has other bytes");
    }
    flusher.abort();
}

/// A chunk that does not come to long-term storage comes to the overflow.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_flush_that_fails_had_flows_over() {
    let (disk, s3, folder) = (Arc::new(Faulty::new(36)), FakeS3::start().await, tempfile::tempdir().unwrap());
    let (store, tier, flusher) = overflowing(&disk, &s3, folder.path());
    create(&store, "a");
    until("storage to be claimed", || tier.manifest_age().is_some()).await;
    s3.hold("/chunks/");
    append(&store, "a", 1, 1, &[1; 250_000]).await.unwrap();
    until("a flush", || s3.waiting() > 0).await;
    s3.refuse(Some(StatusCode::FORBIDDEN));
    s3.free();
    fill(&store, |_| "a", 2..=40, Duration::ZERO).await;
    until("what was under way to flow over", || files_in(folder.path()).iter().any(|f| run_of(f.to_str().unwrap()).1.start == 0)).await;
    s3.refuse(None);
    until("all of it to be in S3", || store.peek(|s| s.live.unflushed == 0) && files_in(folder.path()).is_empty()).await;
    store.peek(|s| s.check()).unwrap();
    assert!(read(&store, "a", 0).await == [vec![1; 250_000], filled(2..=40)].concat());
    flusher.abort();
}

/// A chunk that the overflow's disk has lost holds up no other; when what was in it is truncated it is forgotten, also by a server that was not given the overflow.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_the_overflow_has_lost_holds_up_no_other() {
    // Its file is gone, or has another bit than was written.
    for (with, flips) in [(true, false), (true, true), (false, false)] {
        let (disk, s3, folder) = (Arc::new(Faulty::new(43)), FakeS3::start().await, tempfile::tempdir().unwrap());
        s3.away(true);
        let (mut store, mut tier, mut flusher) = overflowing(&disk, &s3, folder.path());
        create(&store, "a");
        fill(&store, |_| "a", 1..=120, Duration::ZERO).await;
        until("some to flow over", || files_in(folder.path()).len() > 2).await;
        let mut files = files_in(folder.path());
        files.sort_by_key(|f| run_of(f.to_str().unwrap()).1.start);
        let lost = run_of(files[1].to_str().unwrap()).1;
        if flips {
            let mut bytes = std::fs::read(&files[1]).unwrap();
            bytes[1000] ^= 1;
            std::fs::write(&files[1], bytes).unwrap();
        } else {
            std::fs::remove_file(&files[1]).unwrap();
        }
        if !with {
            flusher.abort();
            let _ = flusher.await;
            tokio::task::spawn_blocking(move || store.close()).await.unwrap();
            store = open(&disk);
            tier = Arc::new(Tier::new(s3.persist(), None, quick()));
            store.set_tier(tier.clone());
            flusher = tokio::spawn(tier.clone().run(store.clone()));
        }
        s3.away(false);
        let beside = || store.peek(|s| s.chunks.values().filter(|c| c.location.starts_with("overflow/")).map(|c| u64::from(c.bytes)).sum::<u64>());
        if with {
            until("all others to be in S3", || files_in(folder.path()).len() == usize::from(flips) && beside() == lost.end - lost.start).await;
            assert!(read(&store, "a", lost.end).await == filled(1..=120)[lost.end as usize..]);
            assert!(store.read("a", lost.start, 10, Duration::ZERO).await.is_err());
            // What lies right before it is read, whatever is asked for with it.
            let before = store.read("a", lost.start - 10, 100, Duration::ZERO).await.unwrap();
            assert_eq!(before.data.len(), 10);
        }
        until("S3 to be taken for what it is", || tier.manifest_age().is_some() && tier.why_away().is_none()).await;
        let told = store.peek(|s| tier.damaged(s));
        assert_eq!(told.iter().map(|d| d.bytes).sum::<u64>(), beside());
        assert!(told.len() == 1 && told[0].segment == "a", "{told:?}");
        assert!(if with { told[0].start == lost.start } else { told[0].start == 0 && told[0].why.contains("this server has none") }, "{told:?}");
        let (id, length) = store.peek(|s| s.find("a").map(|(id, s)| (id, s.length)).unwrap());
        store.change(|_| Ok((Some(Record::Truncate { id, start: length }), ()))).await.unwrap();
        until("it to be forgotten", || (!with || files_in(folder.path()).is_empty()) && beside() == 0 && store.peek(|s| tier.damaged(s)).is_empty() && store.peek(|s| s.chunks.is_empty()) && s3.names("/chunks/").is_empty()).await;
        assert_eq!(tier.why_away(), None);
        store.peek(|s| s.check()).unwrap();
        flusher.abort();
    }
}

/// In an outage, too: what is truncated gives its room in the overflow back, and writers go on.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_truncated_in_an_outage_leaves_the_overflow() {
    let (disk, s3, folder) = (Arc::new(Faulty::new(44)), FakeS3::start().await, tempfile::tempdir().unwrap());
    s3.away(true);
    let (store, tier, flusher) = overflowing(&disk, &s3, folder.path());
    create(&store, "a");
    let id = store.peek(|s| s.find("a").unwrap().0);
    // Three times as much as the log and the overflow take together.
    for round in 0..8 {
        fill(&store, |_| "a", 1 + round * 90..=90 + round * 90, Duration::ZERO).await;
        let length = store.peek(|s| s.segment("a").unwrap().length);
        assert!(read(&store, "a", length - 90 * 20_000).await == filled(1 + round * 90..=90 + round * 90));
        store.change(|_| Ok((Some(Record::Truncate { id, start: length }), ()))).await.unwrap();
    }
    until("all of it to be gone", || tier.overflow().is_some_and(|(bytes, _)| bytes == 0) && files_in(folder.path()).is_empty()).await;
    assert!(s3.names("").is_empty());
    store.peek(|s| s.check()).unwrap();
    flusher.abort();
}

/// What is done to a segment while a chunk of it is under way holds for the chunk, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_a_segment_in_a_silent_flush_holds_afterwards() {
    let (disk, s3, folder) = (Arc::new(Faulty::new(37)), FakeS3::start().await, tempfile::tempdir().unwrap());
    let (store, tier, flusher) = overflowing(&disk, &s3, folder.path());
    for name in ["short", "gone", "source", "target", "other"] {
        create(&store, name);
    }
    until("storage to be claimed", || tier.manifest_age().is_some()).await;
    let id = |name: &str| store.peek(|s| s.find(name).unwrap().0);
    let begin = |name: &str| [vec![name.as_bytes()[0]; 200_000], vec![name.as_bytes()[1]; 50_000]].concat();
    let is_drained = || store.peek(|s| s.live.unflushed == 0) && files_in(folder.path()).is_empty();
    append(&store, "target", 1, 1, &begin("target")).await.unwrap();
    until("its begin to be in S3", is_drained).await;
    let cases = [
        ("short", Record::Truncate { id: id("short"), start: 210_000 }),
        ("gone", Record::Delete { id: id("gone") }),
        ("source", Record::Merge { source: id("source"), target: id("target") }),
    ];
    for (n, (name, change)) in cases.into_iter().enumerate() {
        s3.hold("/chunks/");
        append(&store, name, 1, 1, &begin(name)).await.unwrap();
        until("a flush", || s3.waiting() > 0).await;
        store.change(|_| Ok((Some(change), ()))).await.unwrap();
        if n != 1 {
            append(&store, ["short", "", "target"][n], 1, 2, b"behind").await.unwrap();
        }
        let n = 40 * n as i64;
        fill(&store, |_| "other", n + 1..=n + 40, Duration::ZERO).await;
        until("some to flow over", || bytes_in(folder.path()) > 0).await;
        s3.free();
        until("all of it to be in S3", is_drained).await;
        store.peek(|s| s.check()).unwrap();
    }
    assert!(read(&store, "short", 210_000).await == [&begin("short")[210_000..], b"behind"].concat());
    assert!(read(&store, "target", 0).await == [&begin("target")[..], &begin("source"), b"behind"].concat());
    assert!(read(&store, "other", 0).await == filled(1..=120));
    assert!(matches!(store.read("short", 0, 10, Duration::ZERO).await, Err(Error::Truncated { .. })));
    assert!(matches!(store.read("gone", 0, 10, Duration::ZERO).await, Err(Error::NoSegment(_))));
    // Nothing stays in S3 to which nothing points.
    let known = || store.peek(|s| s.chunks.values().map(|c| c.location.clone()).collect::<BTreeSet<_>>());
    until("the others to go", || s3.names("/chunks/").into_iter().collect::<BTreeSet<_>>() == known()).await;
    flusher.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_says_nothing_of_what_has_flowed_over() {
    let (disk, s3, folder) = (Arc::new(Faulty::new(21)), FakeS3::start().await, tempfile::tempdir().unwrap());
    let (store, tier, flusher) = overflowing(&disk, &s3, folder.path());
    create(&store, "a");
    for n in 1..=20i64 {
        append(&store, "a", 1, n, &[n as u8; 20_000]).await.unwrap();
    }
    until("these to be in S3", || store.peek(|s| s.live.unflushed == 0)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    s3.away(true);
    let s = store.clone();
    let writing = tokio::spawn(async move {
        for n in 21..=100i64 {
            s.room().await.unwrap();
            append(&s, "a", 1, n, &[n as u8; 20_000]).await.unwrap();
        }
    });
    writing.await.unwrap();
    until("some to flow over", || bytes_in(folder.path()) > 500_000).await;
    // What is in the folder can't be moved on, as it is gone; a manifest comes all the same, and ends before.
    flusher.abort();
    let _ = flusher.await;
    tokio::task::spawn_blocking(move || store.close()).await.unwrap();
    drop(tier);
    s3.away(false);
    let store = open(&disk);
    let without = Arc::new(Tier::new(s3.persist(), None, quick()));
    let flusher = tokio::spawn(without.clone().run(store.clone()));
    until("a manifest", || without.manifest_age().is_some()).await;
    flusher.abort();
    let _ = flusher.await;
    let fresh = Arc::new(Faulty::new(22));
    streams::manifest::restore(&s3.persist(), None, fresh.clone()).await.unwrap();
    let again = Store::open(fresh, options()).unwrap();
    again.set_tier(Arc::new(Tier::new(s3.persist(), None, quick())));
    let there = read(&again, "a", 0).await;
    assert!(there.len() >= 400_000 && there.len() < 2_000_000 && there.len() % 20_000 == 0, "{} bytes", there.len());
    assert!(there == (1..=100u32).flat_map(|n| [n as u8; 20_000]).take(there.len()).collect::<Vec<u8>>());
}

/// Of a segment that is shorter than before, the numbers of its writers are forgotten: they would tell of events that are lost, and a writer that has not heard
/// of one and sends it again would be told that it is there.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_disk_an_event_that_is_sent_again_is_stored() {
    let (disk, folder) = (Arc::new(Faulty::new(23)), tempfile::tempdir().unwrap());
    let (store, flusher) = streams_over(&disk, geds::Persist::folder(folder.path()).unwrap(), tier::Options { flush_after: Duration::from_secs(3600), ..quick() });
    for name in ["short", "whole"] {
        create(&store, name);
        append(&store, name, 7, 1, &[1; 200_000]).await.unwrap();
        store.change(|s| Ok((Some(Record::Attribute { id: s.find(name)?.0, key: 5, value: 99 }), ()))).await.unwrap();
    }
    until("a flush", || store.peek(|s| s.live.unflushed == 0)).await;
    // Too little to be flushed, and known to the next manifest but one.
    append(&store, "short", 7, 2, b"lost").await.unwrap();
    for n in 0..2 {
        let newest = manifests(folder.path()).1;
        store.change(|s| plan::create_scope(s, &format!("s{n}"))).await.unwrap();
        until("the next manifest", || manifests(folder.path()).1 > newest).await;
    }
    flusher.abort();
    let _ = flusher.await;
    store.close();
    drop((store, disk));
    let fresh = Arc::new(Faulty::new(24));
    streams::manifest::restore(&geds::Persist::folder(folder.path()).unwrap(), None, fresh.clone()).await.unwrap();
    let store = open(&fresh);
    let told = |name: &str| store.peek(|s| s.segment(name).map(|s| (s.length, s.attribute(7), s.attribute(5)))).unwrap();
    assert_eq!((told("short"), told("whole")), ((200_000, NO_VALUE, 99), (200_000, 1, 99)));
    assert_eq!(append(&store, "short", 7, 2, b"lost").await.unwrap(), 200_004);
    assert_eq!(append(&store, "whole", 7, 1, b"sent again").await.unwrap(), 200_000);
}

/// Epochs that were truncated away are gone from memory and from checkpoints, and the stream goes on with the numbers that it had.
#[tokio::test]
async fn a_stream_that_is_scaled_and_truncated_for_ever_stays_small() {
    use streams::disk::Disk;
    let disk = Arc::new(Faulty::new(25));
    let store = Store::open(disk.clone(), Options { checkpoint_bytes: 1, ..options() }).unwrap();
    let scaling = Scaling { min_segments: 4, ..Scaling::default() };
    store.change(|s| plan::create_scope(s, "s")).await.unwrap();
    store.change(|s| plan::create_stream(s, "s", "t", Config { scaling, ..Config::default() }, 1)).await.unwrap();
    let cut = |s: &State| s.catalog.stream("s", "t").unwrap().current().segments.iter().map(|r| (r.segment, 0)).collect::<BTreeMap<_, _>>();
    for _ in 0..200 {
        let first = store.peek(|s| s.catalog.stream("s", "t").unwrap().current().segments[0]);
        let done = store.commit(|s| plan::scale(s, "s", "t", &[first.segment], &[(first.low, first.high)], 2));
        done.result.unwrap();
        store.commit(|s| plan::truncate_stream(s, "s", "t", cut(s))).result.unwrap();
    }
    // Both checkpoints are from behind that.
    let files = || ["checkpoint-a", "checkpoint-b"].map(|name| disk.get(name).unwrap());
    let (before, end) = (files(), Instant::now() + Duration::from_secs(60));
    while files().iter().zip(&before).any(|(now, before)| now.is_none() || now == before) {
        assert!(Instant::now() < end, "no checkpoints");
        store.change(|s| plan::begin_txn(s, "s", "t", 10_000, 3)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seen = |store: &Store| store.peek(|s| s.catalog.stream("s", "t").map(|t| (t.epochs.len(), t.epoch_number(), t.next_number, t.epoch(3).is_some())).unwrap());
    let before = seen(&store);
    assert!(before.0 <= 66 && before.1 == 200 && before.2 == 204 && !before.3, "{before:?}");
    store.close();
    drop(store);
    // From a checkpoint, and then from the log behind one.
    for _ in 0..2 {
        let store = open(&disk);
        assert_eq!(seen(&store), before);
        let (id, _) = store.change(|s| plan::begin_txn(s, "s", "t", 10_000, 3)).await.unwrap();
        store.change(|s| plan::abort_txn(s, "s", "t", id)).await.unwrap();
        store.close();
    }
}

/// How often [`after_a_crash_a_store_is_what_some_number_of_its_changes_made_of_it`] begins anew; `make kills` wants more.
const MODEL_ROUNDS: u64 = 1;
const MODEL_LIVES: u32 = 8;

/// Everything that changes a store, at random, with a disk that loses its power in the middle of writes, an S3 that is away or breaks off, and a folder beside it for
/// that time. After each crash it is held against the model, and in the end what S3 alone has.
#[test]
fn after_a_crash_a_store_is_what_some_number_of_its_changes_made_of_it() {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let (seed, rounds) = (number("SEED").unwrap_or_else(rand::random), number("STREAMS_ROUNDS").unwrap_or(MODEL_ROUNDS));
    println!("SEED={seed} STREAMS_ROUNDS={rounds}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for round in 0..rounds {
        let seed = seed.wrapping_add(round);
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(240), lives(seed)).await }).unwrap_or_else(|_| panic!("seed {seed}: not done in time"));
    }
}

/// A store for little, which flows over soon, with small chunks. Nothing is flushed before its tier runs.
fn cramped(disk: &Arc<Faulty>, s3: &FakeS3, folder: &std::path::Path) -> (Store, Arc<Tier>) {
    let log = log::Options { file_bytes: 64 << 10, ..options().log };
    let store = Store::open(disk.clone(), Options { log, backlog_max: 200 << 10, checkpoint_bytes: 100 << 10, ..options() }).unwrap();
    let tiers = tier::Options { chunk_bytes: 30 << 10, flush_bytes: 10 << 10, flush_after: Duration::from_millis(100), cache_bytes: 200 << 10, remove_after: Duration::from_millis(50), ..quick() };
    let tier = Arc::new(Tier::new(s3.persist(), Some(Overflow::new(geds::Persist::folder(folder).unwrap(), 2_000_000)), tiers));
    store.set_tier(tier.clone());
    (store, tier)
}

async fn lives(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (disk, s3, folder) = (Arc::new(Faulty::new(rng.random())), FakeS3::start().await, tempfile::tempdir().unwrap());
    // What is durable for sure, what was changed since, and how much of that was acknowledged.
    let (mut sure, mut changes, mut acknowledged) = (Model::default(), Vec::<Change>::new(), 0);
    let (mut crashes, mut all, mut beside) = (0, 0, 0);
    for life in 0..=MODEL_LIVES {
        let at = format!("seed {seed} life {life}");
        let (store, tier) = cramped(&disk, &s3, folder.path());
        let found = Model::of(&store, async |store, name, from| read(store, name, from).await).await;
        let mut why = None;
        let fits = (0..=changes.len()).any(|n| {
            if n > 0 {
                sure.apply(&changes[n - 1]);
            }
            why = if n < acknowledged { why.take() } else { sure.differs(&found) };
            n >= acknowledged && why.is_none()
        });
        assert!(fits, "{at}: {acknowledged} of {} changes were acknowledged, and after none of those numbers it looks like this: {why:?}", changes.len());
        (sure, acknowledged) = (found.clone(), 0);
        changes.clear();
        if life == MODEL_LIVES {
            let flusher = tokio::spawn(tier.clone().run(store.clone()));
            finish(&at, &s3, &store, &tier, found).await;
            flusher.abort();
            break;
        }
        let mut now = found;
        if now.streams.is_empty() {
            // A scope is nothing that can be seen here, so it is there before anything can go wrong.
            let _ = store.change(|s| plan::create_scope(s, model::SCOPE)).await;
        }
        let away = rng.random_bool(0.4);
        s3.away(away);
        s3.weather(rng.random(), 0.1);
        let flusher = tokio::spawn(tier.clone().run(store.clone()));
        disk.fail_after(rng.random_range(10..150));
        loop {
            let step = tokio::time::timeout(Duration::from_secs(2), step(&mut rng, &store, &now)).await;
            // Writers that wait for room end the life, too.
            let Ok(Ok(step)) = step else { break };
            let Some((change, seq)) = step else { continue };
            now.apply(&change);
            changes.push(change);
            all += 1;
            if rng.random_bool(0.1) {
                if store.settle(Gated { seq, result: Ok(()) }).await.is_err() {
                    break;
                }
                acknowledged = changes.len();
                let names: Vec<&String> = now.segments.keys().collect();
                if let (false, Some(name)) = (away, model::one(&mut rng, &names)) {
                    let (segment, got) = (&now.segments[*name], read(&store, name, now.segments[*name].start).await);
                    assert!(got == segment.bytes, "{at}: {name} has other bytes than were appended");
                }
            }
        }
        beside = beside.max(tier.overflow().map_or(0, |(bytes, _)| bytes));
        crashes += u32::from(store.log().progress().borrow().stopped.is_some());
        flusher.abort();
        let _ = flusher.await;
        tokio::task::spawn_blocking(move || store.close()).await.unwrap();
        drop(tier);
        disk.power_on();
        s3.away(false);
        s3.weather(0, 0.0);
    }
    println!("seed {seed}: {all} changes, {crashes} power failures, up to {beside} bytes in the overflow");
    assert!(crashes >= MODEL_LIVES / 2 && all > 100, "seed {seed}: {crashes} power failures and {all} changes are no bad days");
}

/// One change of the store, whichever; none if it can't be made now.
async fn step(rng: &mut StdRng, store: &Store, now: &Model) -> streams::Result<Option<(Change, Seq)>> {
    let raw = |of: &Model| of.segments.keys().filter(|n| n.starts_with("raw")).cloned().collect::<Vec<_>>();
    let record = |change: Change, make: &dyn Fn(&State) -> Record| {
        let Gated { seq, result } = store.commit(|s| Ok((Some(make(s)), ())));
        result.map(|()| Some((change, seq)))
    };
    let kind = rng.random_range(0..100);
    let stream = ["t", "u"][rng.random_range(0..2)].to_string();
    let Some(of) = now.streams.get(&stream) else {
        let scaling = Scaling { min_segments: 2, ..Scaling::default() };
        let Gated { seq, result } = store.commit(|s| plan::create_stream(s, model::SCOPE, &stream, Config { scaling, ..Config::default() }, 1));
        return result.map(|()| Some((Change::CreateStream { stream, ranges: streams::catalog::even(2, 0, 0) }, seq)));
    };
    match kind {
        0..60 => {
            let names = now.open();
            let Some(name) = model::one(rng, &names).map(|n| n.to_string()) else { return Ok(None) };
            let writer = rng.random_range(model::WRITERS);
            let event = now.segments[&name].writers.get(&writer).copied().unwrap_or(0) + rng.random_range(1..3);
            let data = vec![rng.random(); rng.random_range(0..3000)];
            store.room().await?;
            let Gated { seq, result } = store.append(Append { segment: &name, writer, event, events: 1, expected: None, data: data.clone().into() });
            assert_eq!(result?.length, now.segments[&name].length + data.len() as u64);
            Ok(Some((Change::Append { name, writer, event, data }, seq)))
        }
        60..70 => {
            let table = format!("table-{}", kind % 2);
            let Some(there) = now.tables.get(&table) else {
                let name = table.clone();
                return record(Change::Create { name, table: true }, &|s| Record::Create { id: s.new_id(0), name: table.clone(), table: true, at_ms: 1 });
            };
            let key = vec![rng.random_range(0..20u8)];
            let removes = there.contains_key(&key) && rng.random_bool(0.3);
            let value = vec![rng.random(); rng.random_range(0..300)];
            let key_bytes = Bytes::from(key.clone());
            let changed = if removes { table::Change::Remove { key: key_bytes } } else { table::Change::Put { key: key_bytes, value: value.clone().into() } };
            let change = if removes { Change::Remove { table: table.clone(), key } } else { Change::Put { table: table.clone(), key, value } };
            record(change, &|s| Record::Table { id: s.find(&table).unwrap().0, changes: vec![changed.clone()] })
        }
        70..76 => {
            let i = rng.random_range(0..of.current.len());
            let (seal, ranges) = match of.current.len() {
                2.. if rng.random_bool(0.5) => {
                    let i = i.min(of.current.len() - 2);
                    (of.current[i..i + 2].to_vec(), vec![(of.current[i].low, of.current[i + 1].high)])
                }
                _ => {
                    let Range { low, high, .. } = of.current[i];
                    (vec![of.current[i]], vec![(low, (low + high) / 2.0), ((low + high) / 2.0, high)])
                }
            };
            let seal: Vec<SegmentNo> = seal.iter().map(|r| r.segment).collect();
            let Gated { seq, result } = store.commit(|s| plan::scale(s, model::SCOPE, &stream, &seal, &ranges, 1));
            let (_, new) = result?;
            Ok(Some((Change::Scale { stream, seal, new }, seq)))
        }
        76..81 if of.open.len() < 3 => {
            let Gated { seq, result } = store.commit(|s| plan::begin_txn(s, model::SCOPE, &stream, 10_000, 1));
            let (id, _) = result?;
            Ok(Some((Change::Begin { stream, id }, seq)))
        }
        81..88 => {
            let open: Vec<_> = of.open.keys().copied().collect();
            let Some(id) = model::one(rng, &open).copied() else { return Ok(None) };
            let truncated = of.open[&id].iter().any(|r| now.segments[&id.segment(&model::name(&stream, r))].start > 0);
            let Gated { seq, result } = match kind < 86 {
                true => store.commit(|s| plan::commit_txn(s, model::SCOPE, &stream, id, 1)),
                false => store.commit(|s| plan::abort_txn(s, model::SCOPE, &stream, id)),
            };
            if kind < 86 && truncated {
                // A part of what it was to bring is gone.
                assert!(matches!(&result, Err(Error::Invalid(why)) if why.contains("truncated")), "{result:?}");
                return Ok(None);
            }
            result?;
            Ok(Some((if kind < 86 { Change::Commit { stream, id } } else { Change::Abort { stream, id } }, seq)))
        }
        88..91 => {
            let place = |r: &Range, rng: &mut StdRng| {
                let segment = &now.segments[&model::name(&stream, r)];
                (r.segment, rng.random_range(segment.start..=segment.length))
            };
            let cut: BTreeMap<SegmentNo, u64> = of.current.iter().map(|r| place(r, rng)).collect();
            let Gated { seq, result } = store.commit(|s| plan::truncate_stream(s, model::SCOPE, &stream, cut.clone()));
            result?;
            Ok(Some((Change::Truncate { stream, cut }, seq)))
        }
        91..94 if raw(now).len() < 4 => {
            let name = format!("raw-{:x}", rng.random::<u64>());
            record(Change::Create { name: name.clone(), table: false }, &|s| Record::Create { id: s.new_id(0), name: name.clone(), table: false, at_ms: 1 })
        }
        94..97 => {
            // One that was truncated can't be merged.
            let sources: Vec<String> = raw(now).into_iter().filter(|n| now.segments[n].start == 0).collect();
            let (targets, Some(source)) = (now.open(), model::one(rng, &sources).cloned()) else { return Ok(None) };
            let Some(target) = model::one(rng, &targets).map(|n| n.to_string()).filter(|t| *t != source) else { return Ok(None) };
            let change = Change::Merge { source: source.clone(), target: target.clone() };
            record(change, &|s| Record::Merge { source: s.find(&source).unwrap().0, target: s.find(&target).unwrap().0 })
        }
        _ => {
            // Transactions' segments, too: no port allows it, and an older log may have it.
            let mut names = raw(now);
            if kind != 99 {
                names.extend(now.segments.keys().filter(|n| n.contains("#transaction.")).cloned());
            }
            let Some(name) = model::one(rng, &names).cloned() else { return Ok(None) };
            if kind == 99 {
                return record(Change::Delete { name: name.clone() }, &|s| Record::Delete { id: s.find(&name).unwrap().0 });
            }
            let start = rng.random_range(now.segments[&name].start..=now.segments[&name].length);
            record(Change::TruncateSegment { name: name.clone(), start }, &|s| Record::Truncate { id: s.find(&name).unwrap().0, start })
        }
    }
}

/// When all of it is in S3, that alone has all of it.
async fn finish(at: &str, s3: &FakeS3, store: &Store, tier: &Arc<Tier>, mut expected: Model) {
    until("all of it to be in S3", || store.peek(|s| s.live.unflushed == 0) && tier.overflow() == Some((0, 2_000_000))).await;
    for n in 0..2 {
        let newest = s3.names("/manifest/").pop();
        store.change(|s| plan::create_scope(s, &format!("end-{n}"))).await.unwrap();
        until("the next manifest", || s3.names("/manifest/").pop() > newest).await;
    }
    let open: Vec<_> = expected.streams.iter().flat_map(|(stream, of)| of.open.keys().map(|id| Change::Abort { stream: stream.clone(), id: *id })).collect();
    open.iter().for_each(|abort| expected.apply(abort));
    let fresh = Arc::new(Faulty::new(1));
    streams::manifest::restore(&s3.persist(), None, fresh.clone()).await.unwrap();
    let again = Store::open(fresh, options()).unwrap();
    again.set_tier(Arc::new(Tier::new(s3.persist(), None, quick())));
    let found = Model::of(&again, async |store, name, from| read(store, name, from).await).await;
    assert_eq!(expected.differs(&found), None, "{at}: S3 has something else");
}
