//! What a user of a node could notice of its tiers: names answered without asking, seals in two steps, room, memory, spilling, growing objects.
//!
//! Tests named `defect_…` are of defects of the original that are listed in `docs/design/geds.md`.

use crate::common::*;
use base::{Kind, unit::Bytes as Size};
use geds::{BucketPolicy, Catalog, Error, Key, Mode, Node, Object, Place, SpillOptions, Tuning};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tracing_subscriber::fmt::format::FmtSpan;

const MIB: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(60);

pub fn metric(node: &Node, name: &str) -> u64 {
    let text = node.metrics();
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("{name}"));
    found.parse().unwrap()
}

fn policy(mode: Mode, tier: Place) -> BucketPolicy {
    BucketPolicy { mode, tier, ..BucketPolicy::default() }
}

/// A persistency tier that can be out of order.
struct Store {
    objects: PathBuf,
}

impl Store {
    fn of(here: &Installation) -> Store {
        Store { objects: here.persist_path().join("objects") }
    }
    fn fail(&self) {
        std::fs::create_dir_all(&self.objects).unwrap();
        std::fs::rename(&self.objects, self.objects.with_extension("away")).unwrap();
        std::fs::write(&self.objects, b"not a folder").unwrap();
    }
    fn mend(&self) {
        std::fs::remove_file(&self.objects).unwrap();
        std::fs::rename(self.objects.with_extension("away"), &self.objects).unwrap();
    }
    /// Nothing is there any more, and nothing is taken.
    fn lose(&self) {
        std::fs::rename(&self.objects, self.objects.with_extension("lost")).unwrap();
        std::os::unix::fs::symlink("nowhere", &self.objects).unwrap();
    }
    /// It takes something again, and has nothing.
    fn come_back(&self) {
        std::fs::remove_file(&self.objects).unwrap();
    }
    fn count(&self) -> usize {
        std::fs::read_dir(&self.objects).map_or(0, |entries| entries.count())
    }
}

async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

// --- names ------------------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_06_a_key_that_changed_elsewhere_is_never_answered_from_memory() {
    let here = Installation::new().await;
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    put(&edge, "k", b"old").await;
    let object = get(&edge, "k").await.unwrap();
    let again = get(&edge, "k").await.unwrap();
    assert_eq!(object.bytes().as_ptr(), again.bytes().as_ptr());
    put(&cloud, "k", b"new").await;
    assert_eq!(get(&edge, "k").await.unwrap().bytes(), b"new");
    assert_eq!(object.bytes(), b"old");
    cloud.rename(&bucket("data"), &key("k"), &key("moved")).await.unwrap();
    assert_eq!(get(&edge, "k").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(get(&edge, "moved").await.unwrap().bytes(), b"new");
    put(&edge, "other", b"other").await;
    get(&edge, "other").await.unwrap();
    cloud.rename(&bucket("data"), &key("other"), &key("moved")).await.unwrap();
    assert_eq!(get(&edge, "moved").await.unwrap().bytes(), b"other");
    cloud.delete(&bucket("data"), &key("moved")).await.unwrap();
    assert_eq!(get(&edge, "moved").await.unwrap_err().kind(), Kind::NotFound);

    // Under load: who has read a value, or heard that it was written, never reads an older one.
    put(&edge, "n", &0u64.to_le_bytes()).await;
    let (known, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let readers: Vec<_> = [&edge, &cloud, &edge]
        .iter()
        .map(|node| {
            let (node, known, done) = (node.blocking(), known.clone(), done.clone());
            std::thread::spawn(move || {
                let mut reads = 0;
                while !done.load(SeqCst) {
                    let least = known.load(SeqCst);
                    // Between the look-up and the fetch it may have been replaced, again and again.
                    let Ok(object) = node.open(&bucket("data"), &key("n")) else { continue };
                    let value = u64::from_le_bytes(object.bytes().try_into().unwrap());
                    assert!(value >= least, "{value} after {least}");
                    known.fetch_max(value, SeqCst);
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    for n in 1..=150u64 {
        put(if n % 2 == 0 { &edge } else { &cloud }, "n", &n.to_le_bytes()).await;
        known.fetch_max(n, SeqCst);
    }
    done.store(true, SeqCst);
    for reader in readers {
        assert!(in_thread(|| reader.join()).await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seal_is_visible_here_at_once_and_everywhere_when_it_says_so() {
    let here = Installation::new().await;
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    let blocking = edge.blocking();
    let sealed = in_thread(move || {
        let (b, k) = (bucket("data"), key("k"));
        let mut sealed = Vec::new();
        for n in 0..20u8 {
            let mut writer = blocking.create(&b, &k).unwrap();
            writer.write_at(0, &[n; 100]).unwrap();
            sealed.push(writer.seal_here().unwrap());
            assert_eq!(blocking.open(&b, &k).unwrap().bytes(), [n; 100], "this thread reads what it wrote");
        }
        // Large ones and empty ones too.
        let mut writer = blocking.create(&b, &key("large")).unwrap();
        writer.write_at(0, &content(1, 3 * MIB)).unwrap();
        sealed.push(writer.seal_here().unwrap());
        assert!(blocking.open(&b, &key("large")).unwrap().bytes() == content(1, 3 * MIB));
        sealed.push(blocking.create(&b, &key("empty")).unwrap().seal_here().unwrap());
        assert!(blocking.open(&b, &key("empty")).unwrap().is_empty());
        let refused = blocking.create_new(&b, &k).unwrap().seal_here().err().unwrap();
        assert_eq!(refused.kind(), Kind::InvalidArgument);
        sealed
    })
    .await;
    // What is asked of the catalog waits for what this node has sealed.
    assert_eq!(edge.stat(&bucket("data"), &key("large")).await.unwrap().size, 3 << 20);
    assert_eq!(edge.list(&bucket("data"), "", None, Default::default()).await.unwrap().objects.len(), 3);
    let mut epoch = 0;
    for sealed in sealed {
        let meta = sealed.everywhere().await.unwrap();
        if meta.key == key("k") {
            assert!(meta.epoch > epoch, "in the order of the seals");
            epoch = meta.epoch;
        }
    }
    assert_eq!(get(&cloud, "k").await.unwrap().bytes(), [19; 100]);
    assert_eq!(get(&edge, "k").await.unwrap().meta().epoch, epoch);
    edge.stop().await;
    until("the node is gone", || here.folder("edge").join("lock").metadata().is_ok()).await;
    assert_eq!(here.node("edge").await.used_bytes(), 100 + (3 << 20));
}

// --- room -------------------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_16_a_writer_that_outruns_the_store_waits_and_the_disk_is_never_overrun() {
    let mut here = Installation::new().await.with_folder_persist();
    here.limit = 2 << 20;
    here.tuning = Tuning { wait: LONG, ..Tuning::default() };
    let edge = here.node("edge").await;
    let (done, folder, most) = (Arc::new(AtomicBool::new(false)), here.folder("edge"), Arc::new(AtomicU64::new(0)));
    let sampler = std::thread::spawn({
        let (done, most, folder) = (done.clone(), most.clone(), folder.clone());
        move || {
            while !done.load(SeqCst) {
                most.fetch_max(on_disk_or_less(&folder), SeqCst);
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    let threads: Vec<_> = (0..3u64)
        .map(|t| {
            let node = edge.blocking();
            std::thread::spawn(move || {
                for n in 0..40u64 {
                    let mut writer = node.create(&bucket("data"), &key(&format!("{t}/{n}"))).unwrap();
                    // Small ones, and ones with files of their own.
                    let data = content(t * 100 + n, if n % 8 == 0 { 300_000 } else { 60_000 });
                    for (i, chunk) in data.chunks(50_000).enumerate() {
                        writer.write_at(i as u64 * 50_000, chunk).unwrap();
                    }
                    writer.seal_blocking().unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        in_thread(|| thread.join()).await.unwrap();
    }
    done.store(true, SeqCst);
    in_thread(|| sampler.join()).await.unwrap();
    let most = most.load(SeqCst);
    assert!(most <= here.limit + edge.segment_bytes(), "{most} bytes were on the disk");
    assert!(most > here.limit / 2, "and it was used");
    assert!(metric(&edge, "cloudskin_geds_spilled_total") > 50);
    for t in 0..3 {
        for n in 0..40 {
            let object = get(&edge, &format!("{t}/{n}")).await.unwrap();
            assert!(object.bytes() == content(t * 100 + n, if n % 8 == 0 { 300_000 } else { 60_000 }), "{t}/{n}");
        }
    }
}

/// Files may go while they are looked at.
fn on_disk_or_less(folder: &std::path::Path) -> u64 {
    std::panic::catch_unwind(|| on_disk(folder)).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_waits_until_its_deadline_or_until_there_is_room() {
    let mut here = Installation::new().await;
    here.limit = 1 << 20;
    here.tuning = Tuning { wait: Duration::from_millis(300), ..Tuning::default() };
    let edge = here.node("edge").await;
    for n in 0..10 {
        put(&edge, &format!("{n}"), &content(n, 100_000)).await;
    }
    let began = Instant::now();
    let error = edge.put(&bucket("data"), &key("late"), content(1, 100_000).into()).await.unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(300));
    let Error::NoSpace { bucket: b, key: k, used, limit, .. } = &error else { panic!("{error}") };
    assert_eq!((b.as_str(), k.as_str(), *limit), ("data", "late", 1 << 20));
    assert!(*used > 1_000_000, "{used}");
    assert!(error.to_string().ends_with("delete objects, raise the node's `limit`, or give it a persistency tier (`persist`) to spill them to"), "{error}");
    // What can never fit is told at once.
    let began = Instant::now();
    let node = edge.blocking();
    let never = in_thread(move || node.create(&bucket("data"), &key("never")).unwrap().reserve(2 << 20)).await;
    assert_eq!(never.unwrap_err().kind(), Kind::ResourceExhausted);
    assert!(began.elapsed() < Duration::from_millis(300));
    edge.stop().await;

    here.tuning.wait = LONG;
    let edge = here.node("edge").await;
    let node = edge.blocking();
    let writer = std::thread::spawn(move || {
        let mut writer = node.create(&bucket("data"), &key("patient")).unwrap();
        writer.write_at(0, &content(77, 250_000)).unwrap();
        writer.seal_blocking().unwrap();
    });
    until("it waits", || metric(&edge, "cloudskin_geds_waits_total") == 1).await;
    assert_eq!(metric(&edge, "cloudskin_geds_bucket_waits_total{bucket=\"data\",tier=\"disk\"}"), 1);
    for n in [1, 3, 5] {
        edge.delete(&bucket("data"), &key(&format!("{n}"))).await.unwrap();
    }
    in_thread(|| writer.join()).await.unwrap();
    assert!(get(&edge, "patient").await.unwrap().bytes() == content(77, 250_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_store_costs_nothing_but_time() {
    let mut here = Installation::new().await.with_folder_persist();
    here.limit = 1 << 20;
    here.tuning = Tuning { wait: Duration::from_millis(400), ..Tuning::default() };
    let (edge, store) = (here.node("edge").await, Store::of(&here));
    store.fail();
    let mut sealed = 0;
    // The disk is used to its end before anybody is refused.
    let refused = loop {
        match edge.put(&bucket("data"), &key(&format!("{sealed}")), content(sealed, 50_000).into()).await {
            Ok(_) => sealed += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(refused.kind(), Kind::ResourceExhausted);
    assert!(sealed * 50_000 >= (1 << 20) * 90 / 100, "{sealed} objects");
    assert!(refused.to_string().contains("takes nothing, and what only this node has can't go there"), "{refused}");
    assert_eq!(metric(&edge, "cloudskin_geds_spill_breaker_open"), 1);
    for n in 0..sealed {
        assert!(get(&edge, &format!("{n}")).await.unwrap().bytes() == content(n, 50_000), "the only copy of {n} is kept");
    }
    store.mend();
    until("it drains by itself", || edge.disk().charged <= (1 << 20) * 66 / 100).await;
    assert_eq!(metric(&edge, "cloudskin_geds_spill_breaker_open"), 0);
    put(&edge, "more", &content(9, 200_000)).await;
    for n in 0..sealed {
        assert!(get(&edge, &format!("{n}")).await.unwrap().bytes() == content(n, 50_000), "{n}");
    }
}

/// What was uploaded before the store was away makes room while it is: a node full of such copies takes as much as an empty one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_uploaded_makes_room_while_the_store_is_away() {
    let mut here = Installation::new().await;
    let store = gate::Gate::default();
    here.persist = Some(store.persist());
    here.limit = 1 << 20;
    here.tuning = Tuning { wait: LONG, policy: policy(Mode::WriteBehind, Place::Disk), ..Tuning::default() };
    let edge = here.node("edge").await;
    for n in 0..14 {
        put(&edge, &format!("old/{n}"), &content(n, 50_000)).await;
    }
    edge.flush(&bucket("data"), "old", LONG).await.unwrap();
    store.hang(true);
    for n in 0..18 {
        put(&edge, &format!("new/{n}"), &content(100 + n, 50_000)).await;
    }
    for n in 0..18 {
        assert!(get(&edge, &format!("new/{n}")).await.unwrap().bytes() == content(100 + n, 50_000), "the only copy of {n} is kept");
    }
    store.hang(false);
    edge.flush(&bucket("data"), "new", LONG).await.unwrap();
    for n in 0..14 {
        assert!(get(&edge, &format!("old/{n}")).await.unwrap().bytes() == content(n, 50_000), "{n}");
    }
}

/// A node that is three quarters full of what it has uploaded, when something happens to the store: writers are refused at the end, and no copy has gone. With how many more it has taken.
async fn three_quarters_uploaded(happens: impl FnOnce(&Store)) -> (Installation, Running, Store, usize) {
    let mut here = Installation::new().await.with_folder_persist();
    here.limit = 1 << 20;
    here.tuning = Tuning { wait: Duration::from_millis(1500), policy: policy(Mode::WriteBehind, Place::Disk), ..Tuning::default() };
    let (edge, store) = (here.node("edge").await, Store::of(&here));
    for n in 0..14 {
        put(&edge, &format!("old/{n}"), &content(n, 50_000)).await;
    }
    edge.flush(&bucket("data"), "old", LONG).await.unwrap();
    happens(&store);
    let mut refused = Vec::new();
    for n in 0..10 {
        refused.extend(edge.put(&bucket("data"), &key(&format!("new/{n}")), content(n, 50_000).into()).await.err());
    }
    assert!(!refused.is_empty() && refused.iter().all(|e| e.kind() == Kind::ResourceExhausted), "{refused:?}");
    for n in 0..14 {
        assert!(get(&edge, &format!("old/{n}")).await.unwrap().bytes() == content(n, 50_000), "{n} is lost");
    }
    (here, edge, store, 10 - refused.len())
}

/// A store of which every disk is broken answers, and may have lost all: it is not away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_with_everything_gets_no_copy_freed() {
    three_quarters_uploaded(Store::fail).await;
}

/// A store that has lost what was brought there, and takes nothing, is not one that is away: what it should have stays here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_has_lost_everything_gets_no_copy_freed() {
    let (_here, _edge, store, taken) = three_quarters_uploaded(Store::lose).await;
    // When it takes something again, it gets what is new, and what was found to be lost. It is tried again after half a minute at the latest.
    store.come_back();
    let end = Instant::now() + Duration::from_secs(90);
    while store.count() <= taken {
        assert!(Instant::now() < end, "{} objects are there again", store.count());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

// --- tiers and modes --------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_for_who_wants_it_and_is_drained_before_the_end() {
    let mut here = Installation::new().await.with_folder_persist();
    here.namenode.create_bucket(&bucket("quick")).await.unwrap();
    here.tuning.memory = Some(Size(4 << 20));
    here.tuning.buckets.insert(bucket("quick"), policy(Mode::Ephemeral, Place::Memory));
    let edge = here.node("edge").await;
    let quick = |n: u64| Key::new(format!("{n}")).unwrap();
    for n in 0..3 {
        edge.put(&bucket("quick"), &quick(n), content(n, 500_000 * (n as usize + 1)).into()).await.unwrap();
    }
    put(&edge, "slow", b"on the disk").await;
    assert_eq!((edge.memory().used, edge.used_bytes()), (3_000_000, 11));
    let full = edge.put(&bucket("quick"), &quick(9), content(1, 2 * MIB).into()).await.unwrap_err();
    assert!(full.to_string().contains("`memory`"), "{full}");
    let read = async |node: &Node, n: u64| -> geds::Result<Object> { node.open_object(&bucket("quick"), &quick(n)).await };
    assert!(read(&edge, 2).await.unwrap().bytes() == content(2, 1_500_000));
    assert_eq!(edge.drain(LONG).await.unwrap(), 3);
    assert_eq!(edge.drain(LONG).await.unwrap(), 0, "once is enough");
    edge.stop().await;
    let edge = here.node("edge").await;
    assert_eq!(edge.memory().used, 0);
    for n in 0..3 {
        assert!(read(&edge, n).await.unwrap().bytes() == content(n, 500_000 * (n as usize + 1)), "{n}");
    }
    assert_eq!(get(&edge, "slow").await.unwrap().bytes(), b"on the disk");
}

/// In memory, then under a name in a bucket whose objects lie on the disk: no data moves, so it ends with the process, and its name with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_in_memory_ends_with_the_process_under_any_name() {
    let mut here = Installation::new().await;
    here.namenode.create_bucket(&bucket("quick")).await.unwrap();
    here.tuning.memory = Some(Size(4 << 20));
    here.tuning.buckets.insert(bucket("quick"), policy(Mode::Ephemeral, Place::Memory));
    let edge = here.node("edge").await;
    edge.put(&bucket("quick"), &key("k"), b"content".to_vec().into()).await.unwrap();
    edge.copy_object(&bucket("quick"), &key("k"), &bucket("data"), &key("k"), false).await.unwrap();
    edge.delete(&bucket("quick"), &key("k")).await.unwrap();
    put(&edge, "disk", b"stays").await;
    assert_eq!(get(&edge, "k").await.unwrap().bytes(), b"content");
    edge.stop().await;
    let edge = here.node("edge").await;
    assert_eq!(get(&edge, "k").await.unwrap_err().kind(), Kind::NotFound, "and no name of what is not there");
    assert_eq!(get(&edge, "disk").await.unwrap().bytes(), b"stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_behind_and_write_through_owe_the_store_what_they_say() {
    let mut here = Installation::new().await.with_folder_persist();
    here.tuning = Tuning { spill: SpillOptions { bandwidth: Some(100 << 20), ..SpillOptions::default() }, ..Tuning::default() };
    for (name, mode) in [("behind", Mode::WriteBehind), ("through", Mode::WriteThrough)] {
        here.namenode.create_bucket(&bucket(name)).await.unwrap();
        here.tuning.buckets.insert(bucket(name), policy(mode, Place::Disk));
    }
    let (edge, store) = (here.node("edge").await, Store::of(&here));
    let put_in = async |node: &Node, b: &str, n: u64| node.put(&bucket(b), &key(&format!("{n}")), content(n, 10_000).into()).await;
    assert!(put_in(&edge, "through", 1).await.unwrap().persisted.is_some());
    put_in(&edge, "behind", 2).await.unwrap();
    let meta = edge.wait_durable(&bucket("behind"), &key("2"), LONG).await.unwrap();
    assert!(meta.persisted.is_some() && meta.sites.len() == 1, "uploaded, and still here: {meta:?}");
    put(&edge, "ephemeral", b"stays").await;
    until("both are uploaded", || store.count() == 2).await;

    // Away: what is owed is remembered, what was promised at once fails and is there all the same.
    store.fail();
    let error = put_in(&edge, "through", 3).await.unwrap_err();
    assert!(error.to_string().contains("through/3 is sealed, but not yet"), "{error}");
    put_in(&edge, "behind", 4).await.unwrap();
    until("the breaker opens", || metric(&edge, "cloudskin_geds_spill_breaker_open") == 1).await;
    let began = Instant::now();
    let late = edge.flush(&bucket("behind"), "", Duration::from_millis(1500)).await.unwrap_err();
    assert_eq!(late.kind(), Kind::DeadlineExceeded);
    assert!(began.elapsed() > Duration::from_millis(900), "it was tried for {:?}", began.elapsed());
    assert!(late.to_string().contains("flush of behind/"), "{late}");
    assert_eq!(edge.wait_durable(&bucket("behind"), &key("4"), Duration::from_millis(300)).await.unwrap_err().kind(), Kind::DeadlineExceeded);
    // A restart does not forget it.
    edge.stop().await;
    let edge = here.node("edge").await;
    store.mend();
    // One that the spiller is quicker with is not counted.
    let flushed = edge.flush(&bucket("through"), "", LONG).await.unwrap();
    assert!([(1, 10_000), (0, 0)].contains(&flushed), "{flushed:?}");
    assert!(edge.stat(&bucket("through"), &key("3")).await.unwrap().persisted.is_some());
    edge.wait_durable(&bucket("behind"), &key("4"), LONG).await.unwrap();
    until("all are uploaded", || store.count() == 4).await;
    assert_eq!(edge.stat(&bucket("data"), &key("ephemeral")).await.unwrap().persisted, None);
    assert_eq!(edge.flush(&bucket("data"), "", LONG).await.unwrap(), (1, 5));
}

/// What would be acknowledged without the upload that it promises.
#[tokio::test]
async fn a_mode_without_a_store_behind_it_is_refused() {
    let mut here = Installation::new().await;
    for (mode, name) in [(Mode::WriteThrough, "write-through"), (Mode::WriteBehind, "write-behind")] {
        here.tuning.buckets = [(bucket("data"), policy(mode, Place::Disk))].into();
        let refused = Node::open_with(here.options("edge", String::new()), here.tuning.clone()).await.err().unwrap();
        assert_eq!(refused.kind(), Kind::InvalidArgument);
        assert!(refused.to_string().contains(name) && refused.to_string().contains("set `persist`"), "{refused}");
    }
}

// --- seen from outside --------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_are_by_bucket_and_tier_and_add_up() {
    let mut here = Installation::new().await.with_folder_persist();
    here.namenode.create_bucket(&bucket("quick")).await.unwrap();
    here.tuning.memory = Some(Size(1 << 20));
    here.tuning.buckets.insert(bucket("quick"), policy(Mode::Ephemeral, Place::Memory));
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    let of = |node: &Node, name: &str, b: &str, tier: &str| {
        let (text, series) = (node.metrics(), format!("cloudskin_geds_bucket_{name}{{bucket=\"{b}\",tier=\"{tier}\"}} "));
        text.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |value| value.parse::<u64>().unwrap())
    };
    let quick = async |node: &Node| node.open_object(&bucket("quick"), &key("q")).await.unwrap();
    put(&edge, "a", &content(1, 10_000)).await;
    put(&edge, "b", &content(2, 20_000)).await;
    edge.put(&bucket("quick"), &key("q"), content(3, 500).into()).await.unwrap();
    for (name, expected) in [("objects", [2, 1]), ("bytes", [30_000, 500]), ("sealed_total", [2, 1]), ("sealed_bytes_total", [30_000, 500]), ("publish_seconds_count", [2, 1])] {
        assert_eq!([of(&edge, name, "data", "disk"), of(&edge, name, "quick", "memory")], expected, "{name}");
        assert_eq!((of(&edge, name, "data", "memory"), of(&edge, name, "quick", "disk")), (0, 0), "{name}");
    }
    // Opens by where they are answered: the catalog is asked for the first, the second is known; then from a peer, and from the store.
    get(&edge, "a").await.unwrap();
    get(&edge, "a").await.unwrap();
    quick(&edge).await;
    get(&cloud, "a").await.unwrap();
    assert_eq!(edge.spill(&bucket("data"), "b").await.unwrap(), (1, 20_000));
    assert_eq!((of(&edge, "objects", "data", "disk"), of(&edge, "bytes", "data", "disk")), (1, 10_000));
    get(&edge, "b").await.unwrap();
    quick(&cloud).await;
    assert_eq!(["disk", "memory", "peer", "persistency"].map(|tier| of(&edge, "opened_total", "data", tier)), [2, 0, 0, 1]);
    assert_eq!(["disk", "memory", "peer", "persistency"].map(|tier| of(&cloud, "opened_total", "data", tier)), [0, 0, 1, 0]);
    assert_eq!((of(&edge, "opened_total", "quick", "memory"), of(&cloud, "opened_total", "quick", "peer")), (1, 1));
    for (name, value) in [("uploaded_total", 1), ("uploaded_bytes_total", 20_000), ("upload_seconds_count", 1), ("spilled_total", 1), ("spilled_bytes_total", 20_000)] {
        assert_eq!(of(&edge, name, "data", "disk"), value, "{name}");
    }
    assert_eq!((of(&edge, "fetched_bytes_total", "data", "persistency"), of(&edge, "fetch_seconds_count", "data", "persistency")), (20_000, 1));
    assert_eq!((of(&cloud, "fetched_bytes_total", "data", "peer"), of(&cloud, "fetched_bytes_total", "quick", "peer")), (10_000, 500));
    // What is fetched lies on the disk.
    assert_eq!((of(&edge, "objects", "data", "disk"), of(&cloud, "objects", "quick", "disk")), (2, 1));
    // The node's totals are their sums.
    assert_eq!((metric(&edge, "cloudskin_geds_sealed_total"), metric(&edge, "cloudskin_geds_opened_local_total"), metric(&edge, "cloudskin_geds_fetched_total")), (3, 3, 1));
    assert_eq!((metric(&edge, "cloudskin_geds_spilled_total"), metric(&edge, "cloudskin_geds_publish_seconds_count"), metric(&cloud, "cloudskin_geds_fetched_total")), (1, 3, 2));
    // A restart counts what it finds; what is deleted counts no more, though somebody has it open.
    edge.stop().await;
    let edge = here.node("edge").await;
    assert_eq!((of(&edge, "objects", "data", "disk"), of(&edge, "bytes", "data", "disk"), of(&edge, "objects", "quick", "memory")), (2, 30_000, 0));
    let open = get(&edge, "a").await.unwrap();
    edge.delete(&bucket("data"), &key("a")).await.unwrap();
    assert_eq!((of(&edge, "objects", "data", "disk"), of(&edge, "bytes", "data", "disk")), (1, 20_000));
    assert!(open.bytes() == content(1, 10_000));
    // A write that is refused.
    edge.put(&bucket("quick"), &key("large"), content(4, 2 * MIB).into()).await.unwrap_err();
    assert_eq!((of(&edge, "no_space_total", "quick", "memory"), metric(&edge, "cloudskin_geds_no_space_total")), (1, 1));
}

/// As a user sees them who has asked for them. All tasks of this test run on its own thread, where the subscriber is.
#[tokio::test]
async fn the_slow_steps_have_spans_that_say_whose_they_are() {
    // Of a subscriber that is the only one, other threads would say that nobody wants what they come by first.
    let _other = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let log = tempfile::NamedTempFile::new().unwrap();
    let read = || std::fs::read_to_string(log.path()).unwrap();
    let shown = tracing_subscriber::fmt().with_env_filter("warn,geds::spans=debug").with_span_events(FmtSpan::CLOSE).with_writer(Arc::new(log.reopen().unwrap())).with_ansi(false).without_time();
    let _here = tracing::subscriber::set_default(shown.finish());
    let here = Installation::new().await.with_folder_persist();
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    put(&edge, "k", &content(1, 5000)).await;
    get(&cloud, "k").await.unwrap();
    let known = read();
    get(&cloud, "k").await.unwrap();
    assert_eq!(read(), known, "a warm open has none");
    assert_eq!(cloud.spill(&bucket("data"), "k").await.unwrap(), (1, 5000));
    assert_eq!(edge.spill(&bucket("data"), "k").await.unwrap(), (1, 5000));
    get(&edge, "k").await.unwrap();
    let text = read();
    let told: Vec<&str> = text.lines().filter_map(|line| line.trim_start().strip_prefix("DEBUG ")?.split(": geds::spans: close").next()).collect();
    let of = |name: &str, tier: &str| format!("geds.{name}{{bucket=data key=k bytes=5000 tier=\"{tier}\"}}");
    let unended = |name: &str| format!("geds.{name}{{bucket=data key=k}}");
    let expected = [
        of("seal", "disk"),
        format!("{}:{}", unended("open"), of("fetch", "peer")),
        of("open", "peer"),
        format!("{}:{}", of("spill", "disk"), of("upload", "disk")),
        of("spill", "disk"),
        of("spill", "disk"),
        format!("{}:{}", unended("open"), of("fetch", "persistency")),
        of("open", "persistency"),
    ];
    assert_eq!(told, expected, "{text}");
}

// --- growing ----------------------------------------------------------------------------------------------------------------------

/// Read at another node while it grows, is spilled, and is sealed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_grows_is_read_at_other_nodes_up_to_its_committed_length() {
    let mut here = Installation::new().await.with_folder_persist();
    here.limit = 4 << 20; // parts of 64 KiB
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    let (b, k, data) = (bucket("data"), key("log"), content(1, 400_000));
    assert_eq!(cloud.follow(&b, &k).await.err().unwrap().kind(), Kind::NotFound);
    let log = edge.appendable(&b, &k).await.unwrap();
    let mut at = 0;
    for end in [100, 150_000] {
        at = log.append(at, data[at as usize..end].to_vec().into()).await.unwrap();
    }
    let follower = cloud.follow(&b, &k).await.unwrap();
    assert_eq!(follower.len().await.unwrap(), (150_000, false));
    let read = async |from: u64, len: u64| follower.read(from, len, Duration::ZERO).await.unwrap();
    assert!(read(10, 1000).await.bytes == data[10..1010]);
    assert!(read(0, u64::MAX).await.bytes == data[..150_000]);
    let none = read(150_000, 10).await;
    assert_eq!((none.bytes.len(), none.len, none.sealed), (0, 150_000, false), "nothing behind the committed length");
    assert_eq!(get(&cloud, "log").await.unwrap_err().kind(), Kind::NotFound, "not sealed yet");

    // Who waits is told as soon as there is more.
    let waiting = async { follower.read(150_000, 10, LONG).await.unwrap() };
    let appending = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        log.append(150_000, data[150_000..250_000].to_vec().into()).await.unwrap()
    };
    let began = Instant::now();
    let (grown, _) = tokio::join!(waiting, appending);
    assert!(grown.bytes == data[150_000..150_010] && began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());

    // Its head leaves the site; it is read on, there and here.
    assert_eq!(log.spill_head().await.unwrap(), 3 * 65_536);
    assert!(read(0, u64::MAX).await.bytes == data[..250_000]);
    let own = edge.follow(&b, &k).await.unwrap();
    assert!(own.read(60_000, 10_000, Duration::ZERO).await.unwrap().bytes == data[60_000..70_000]);

    // The site is started anew, at another address, and the same reader goes on.
    drop((log, own));
    edge.stop().await;
    assert_eq!(follower.read(0, 10, Duration::ZERO).await.unwrap_err().kind(), Kind::Unavailable);
    let edge = here.node("edge").await;
    let log = edge.appendable(&b, &k).await.unwrap();
    log.append(250_000, data[250_000..].to_vec().into()).await.unwrap();
    assert!(read(240_000, 20_000).await.bytes == data[240_000..260_000]);

    // Sealed, and then another object gets its name: who has followed it reads what it has followed.
    let slow = cloud.follow(&b, &k).await.unwrap();
    log.seal().await.unwrap();
    let end = follower.read(399_000, u64::MAX, LONG).await.unwrap();
    assert!(end.sealed && end.len == 400_000 && end.bytes == data[399_000..]);
    let past = follower.read(400_001, 1, LONG).await.unwrap_err();
    assert!(past.kind() == Kind::InvalidArgument && past.to_string().contains("data/log"), "{past}");
    edge.copy_object(&b, &k, &b, &key("kept"), false).await.unwrap();
    put(&edge, "log", b"another").await;
    assert!(follower.read(0, u64::MAX, LONG).await.unwrap().bytes == data);
    assert!(slow.read(1000, 1000, LONG).await.unwrap().bytes == data[1000..2000]);
    let new = cloud.follow(&b, &k).await.unwrap().read(0, 100, LONG).await.unwrap();
    assert_eq!((&new.bytes[..], new.sealed), (&b"another"[..], true));

    // Nobody holds the first any more: its reader is told so, and not given what has the key now.
    let short = edge.appendable(&b, &key("short")).await.unwrap();
    short.append(0, vec![1; 3].into()).await.unwrap();
    let follower = cloud.follow(&b, &key("short")).await.unwrap();
    assert_eq!(follower.read(0, 10, Duration::ZERO).await.unwrap().bytes[..], [1; 3]);
    short.append(3, vec![1; 3].into()).await.unwrap();
    short.seal().await.unwrap();
    put(&edge, "short", b"another").await;
    let gone = follower.read(3, 10, LONG).await.unwrap_err();
    assert!(gone.kind() == Kind::NotFound && gone.to_string().contains("data/short is gone"), "{gone}");

    // Dropped without a seal it is gone for readers, too.
    let other = edge.appendable(&b, &key("other")).await.unwrap();
    other.append(0, vec![7; 100].into()).await.unwrap();
    let follower = cloud.follow(&b, &key("other")).await.unwrap();
    other.discard().await.unwrap();
    assert_eq!(follower.read(0, 10, LONG).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_04_an_appendable_object_grows_on_after_its_head_was_spilled() {
    let mut here = Installation::new().await.with_folder_persist();
    here.limit = 4 << 20; // parts of 64 KiB
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    let (b, k) = (bucket("data"), key("log"));
    let data = content(1, 500_000);
    let log = edge.appendable(&b, &k).await.unwrap();
    let mut at = 0;
    for chunk in [0..1, 1..70_000, 70_000..70_000, 70_000..300_000] {
        at = log.append(at, data[chunk.clone()].to_vec().into()).await.unwrap();
        assert_eq!((at, log.len()), (chunk.end as u64, chunk.end as u64));
        assert!(log.read(0, u64::MAX).await.unwrap() == data[..at as usize], "readable while it grows");
    }
    for wrong in [0, at - 1, at + 1] {
        let error = log.append(wrong, vec![1].into()).await.unwrap_err();
        assert!(matches!(error, Error::WrongOffset { length, offset, .. } if length == at && offset == wrong), "{error}");
    }
    assert_eq!(log.read(at, 10).await.unwrap().len(), 0);
    let before = edge.used_bytes();
    assert_eq!(log.spill_head().await.unwrap(), 4 * 65_536);
    assert_eq!(edge.used_bytes(), before - 4 * 65_536);
    assert_eq!(log.spill_head().await.unwrap(), 0);
    at = log.append(at, data[300_000..400_000].to_vec().into()).await.unwrap();
    assert!(log.read(65_000, 300_000).await.unwrap() == data[65_000..365_000]);
    log.sync().await.unwrap();

    // A restart finds it as it was; half an append behind it is not there.
    drop(log);
    edge.stop().await;
    let folder = here.folder("edge").join("append");
    let newest = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some_and(|e| e == "log")).unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes.extend_from_slice(&[5, 0, 0, 0, 1, 2, 3]);
    std::fs::write(&newest, bytes).unwrap();
    let edge = here.node("edge").await;
    let log = edge.appendable(&b, &k).await.unwrap();
    assert_eq!(log.len(), at);
    log.append(at, data[400_000..].to_vec().into()).await.unwrap();
    assert!(log.read(0, u64::MAX).await.unwrap() == data);
    assert_eq!(get(&cloud, "log").await.unwrap_err().kind(), Kind::NotFound, "not sealed yet");

    let meta = log.seal().await.unwrap();
    assert_eq!(meta.size, 500_000);
    assert!(get(&cloud, "log").await.unwrap().bytes() == data);
    for error in [log.append(500_000, vec![1].into()).await.unwrap_err(), edge.appendable(&b, &k).await.err().unwrap()] {
        assert!(matches!(error, Error::SealedAlready { .. }), "{error}");
    }
    assert_eq!((edge.used_bytes(), Store::of(&here).count(), folder.read_dir().unwrap().count()), (500_000, 0, 0), "nothing is left of the parts");
    // Dropped without a seal it leaves nothing either.
    let other = edge.appendable(&b, &key("other")).await.unwrap();
    other.append(0, vec![7; 100].into()).await.unwrap();
    other.discard().await.unwrap();
    assert_eq!((edge.used_bytes(), folder.read_dir().unwrap().count()), (500_000, 0));
    assert!(edge.appendable(&bucket("nowhere"), &k).await.err().is_some_and(|e| e.kind() == Kind::NotFound));
}

/// Many small appends: their records count against the limit, and do not stay for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_grows_in_small_steps_is_charged_for_its_log_which_stays_short() {
    for encrypted in [false, true] {
        let mut here = Installation::new().await.with_folder_persist();
        here.limit = 1 << 20; // parts of 16 KiB
        here.tuning.key = encrypted.then(|| geds::RestKey::new(&[42; 32]));
        let (b, k, data) = (bucket("data"), key("log"), content(1, 8000 * 16));
        let mut edge = here.node("edge").await;
        let mut log = edge.appendable(&b, &k).await.unwrap();
        let folder = here.folder("edge").join("append");
        let files = || folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).map(|path| (path.metadata().unwrap().len(), path));
        let log_bytes = || files().find(|(_, path)| path.extension().is_some_and(|e| e == "log")).unwrap().0;
        let mut longest = 0;
        for (n, piece) in data.chunks(16).enumerate() {
            log.append(n as u64 * 16, piece.to_vec().into()).await.unwrap();
            if n % 250 == 0 {
                longest = longest.max(log_bytes());
                let there: u64 = files().map(|(len, _)| len).sum();
                assert!(edge.disk().charged >= there, "{there} bytes are there, {} are charged", edge.disk().charged);
            }
            match n {
                3000 => assert!(log.spill_head().await.unwrap() >= 2 * 16_384),
                5000 => {
                    // A restart finds what the shorter log says.
                    drop(log);
                    edge.stop().await;
                    edge = here.node("edge").await;
                    log = edge.appendable(&b, &k).await.unwrap();
                    assert!(log.read(0, u64::MAX).await.unwrap() == data[..5001 * 16]);
                }
                _ => {}
            }
        }
        // Where the disk is encrypted, what lies here needs its pieces.
        assert!(encrypted || longest < 80 << 10, "the log came to {longest} bytes");
        log.spill_head().await.unwrap();
        log.append(data.len() as u64, vec![1].into()).await.unwrap();
        assert!(log_bytes() < 80 << 10, "the log has {} bytes", log_bytes());
        assert!(log.read(0, data.len() as u64).await.unwrap() == data);
        drop(log);
        edge.stop().await;
        edge = here.node("edge").await;
        log = edge.appendable(&b, &k).await.unwrap();
        assert!(log.read(0, data.len() as u64).await.unwrap() == data);
        log.seal().await.unwrap();
        assert_eq!(folder.read_dir().unwrap().count(), 0);
    }
}

/// A spilled part comes back once for all pieces that are read of it, one after another or at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_what_grows_comes_back_once_for_many_small_reads() {
    let mut here = Installation::new().await;
    here.limit = 4 << 20; // parts of 64 KiB
    let gate = gate::Gate::default();
    here.persist = Some(gate.persist());
    let edge = here.node("edge").await;
    let data = content(1, 600_000);
    let log = edge.appendable(&bucket("data"), &key("log")).await.unwrap();
    log.append(0, data.clone().into()).await.unwrap();
    assert_eq!(log.spill_head().await.unwrap(), 9 * 65_536);
    let before = gate.gets();
    for at in (0..data.len()).step_by(1000) {
        assert!(log.read(at as u64, 1000).await.unwrap() == data[at..data.len().min(at + 1000)], "at {at}");
    }
    assert_eq!(gate.gets() - before, 9);
    // Only the last ones are kept.
    let readers: Vec<_> = (0..8).map(|n| tokio::spawn({ let log = log.clone(); async move { log.read(n, 1).await } })).collect();
    for (n, reader) in readers.into_iter().enumerate() {
        assert_eq!(reader.await.unwrap().unwrap(), data[n..=n]);
    }
    assert_eq!(gate.gets() - before, 10);
}

/// A part of what grows comes back from the store with another bit: nobody reads it, and nobody seals it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_grows_is_not_read_from_a_store_that_has_changed_it() {
    let mut here = Installation::new().await.with_folder_persist();
    here.limit = 4 << 20; // parts of 64 KiB
    let edge = here.node("edge").await;
    let (b, k, data) = (bucket("data"), key("log"), content(1, 200_000));
    let log = edge.appendable(&b, &k).await.unwrap();
    log.append(0, data.clone().into()).await.unwrap();
    assert_eq!(log.spill_head().await.unwrap(), 3 * 65_536);
    let part = Store::of(&here).objects.read_dir().unwrap().next().unwrap().unwrap().path();
    let flip = || {
        let mut bytes = std::fs::read(&part).unwrap();
        bytes[1000] ^= 1;
        std::fs::write(&part, bytes).unwrap();
    };
    flip();
    for _ in 0..2 {
        for error in [log.read(0, u64::MAX).await.unwrap_err(), log.seal().await.unwrap_err()] {
            assert_eq!(error.kind(), Kind::DataLoss, "{error}");
            assert!(error.to_string().contains("data/log"), "{error}");
        }
    }
    assert_eq!(get(&edge, "log").await.unwrap_err().kind(), Kind::NotFound, "nothing was sealed");
    // It goes on as it was, in the next life of the node, too.
    drop(log);
    edge.stop().await;
    let edge = here.node("edge").await;
    let log = edge.appendable(&b, &k).await.unwrap();
    assert_eq!(log.read(0, u64::MAX).await.unwrap_err().kind(), Kind::DataLoss);
    flip();
    assert!(log.read(0, u64::MAX).await.unwrap() == data);
    log.seal().await.unwrap();
    assert!(get(&edge, "log").await.unwrap().bytes() == data);
}

// --- what the original got wrong --------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parts_of_an_upload_that_was_broken_off_are_taken_back() {
    let mut here = Installation::new().await;
    here.limit = 256 << 20;
    let gate = gate::Gate::default();
    here.persist = Some(gate.persist());
    let edge = here.node("edge").await;
    let data = content(1, 100 * MIB);
    put(&edge, "large", &data).await;
    gate.let_through(false);
    // Who wanted it has stopped to wait, as after a time limit.
    let spilling = tokio::spawn({ let edge = edge.node.clone(); async move { edge.spill(&bucket("data"), "large").await } });
    until("its parts are on their way", || gate.waiting() > 1).await;
    assert_eq!(gate.in_parts(), 1);
    spilling.abort();
    until("they are taken back", || gate.in_parts() == 0 && gate.waiting() == 0).await;
    gate.let_through(true);
    assert_eq!(edge.spill(&bucket("data"), "large").await.unwrap(), (1, data.len() as u64));
    assert_eq!(gate.in_parts(), 0);
    assert!(get(&edge, "large").await.unwrap().bytes() == data);
}

#[tokio::test]
async fn defect_03_an_overwrite_touches_neither_readers_nor_the_new_object() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    for len in [1000, 3 * MIB] {
        put(&edge, "k", &content(1, len)).await;
        let old = get(&edge, "k").await.unwrap();
        put(&edge, "k", &content(2, len)).await;
        assert!(old.bytes() == content(1, len));
        drop(old);
        assert!(get(&edge, "k").await.unwrap().bytes() == content(2, len), "the old handle takes nothing with it");
    }
}

#[tokio::test]
async fn defect_07_a_node_that_starts_again_has_its_objects() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    for (n, len) in [0, 1, 100_000, 3 * MIB].into_iter().enumerate() {
        put(&edge, &format!("{n}"), &content(n as u64, len)).await;
    }
    edge.stop().await;
    let edge = here.node("edge").await;
    for (n, len) in [0, 1, 100_000, 3 * MIB].into_iter().enumerate() {
        assert!(get(&edge, &format!("{n}")).await.unwrap().bytes() == content(n as u64, len), "{n}");
    }
    assert_eq!(metric(&edge, "cloudskin_geds_fetched_total"), 0);
}

#[tokio::test]
async fn defect_09_bytes_are_bytes_and_stay_where_they_are() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    let spaces = b" \t\n\0 two  spaces \r\n".repeat(100);
    put(&edge, "spaces", &spaces).await;
    put(&edge, "empty", b"").await;
    let object = get(&edge, "spaces").await.unwrap();
    let address = object.bytes().as_ptr();
    // Much else is written, and segments grow.
    for n in 0..50 {
        put(&edge, &format!("{n}"), &content(n, 50_000)).await;
    }
    assert_eq!((object.bytes().as_ptr(), object.bytes()), (address, &spaces[..]));
    assert!(get(&edge, "empty").await.unwrap().bytes().is_empty());
}

#[tokio::test]
async fn defect_11_open_handles_keep_nothing_from_being_spilled() {
    let here = Installation::new().await.with_folder_persist();
    let edge = here.node("edge").await;
    put(&edge, "open", b"open").await;
    put(&edge, "shut", b"shut").await;
    let handles: Vec<_> = (0..5).map(|_| get(&edge, "open")).collect();
    let handles = futures::future::join_all(handles).await;
    assert_eq!(edge.spill(&bucket("data"), "").await.unwrap(), (2, 8));
    drop(handles);
    assert_eq!((edge.used_bytes(), count(&edge)), (0, 0));
}

/// One object is damaged on this disk, and the first to be chosen: the largest, idle for longest. It stays, and the others go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_14_one_bad_object_keeps_nothing_from_being_spilled() {
    let mut here = Installation::new().await.with_folder_persist();
    here.limit = 4 << 20;
    let edge = here.node("edge").await;
    let bad = content(99, 700_000);
    put(&edge, "bad", &bad).await;
    let log = edge.appendable(&bucket("data"), &key("log")).await.unwrap();
    log.append(0, content(98, 200_000).into()).await.unwrap();
    drop(log);
    edge.stop().await;
    damage(&here.folder("edge"), &bad);
    // A full part of what grows is cut short: it can't be read either.
    let parts = std::fs::read_dir(here.folder("edge").join("append")).unwrap().map(|entry| entry.unwrap().path());
    let first = parts.into_iter().find(|path| path.extension().is_some_and(|n| n == "0")).unwrap();
    here.tuning = Tuning { wait: LONG, ..Tuning::default() };
    let edge = here.node("edge").await;
    std::fs::File::options().write(true).open(&first).unwrap().set_len(100).unwrap();
    // Three times what there is room for.
    for n in 0..120 {
        put(&edge, &format!("good/{n}"), &content(n, 100_000)).await;
    }
    assert!(metric(&edge, "cloudskin_geds_spilled_total") > 60);
    assert_eq!(metric(&edge, "cloudskin_geds_spill_breaker_open"), 0, "the store is well");
    for n in 0..120 {
        assert!(get(&edge, &format!("good/{n}")).await.unwrap().bytes() == content(n, 100_000), "{n}");
    }
    assert_eq!(get(&edge, "bad").await.unwrap_err().kind(), Kind::DataLoss);
}

/// What is owed is uploaded past one that can't be, which stays owed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_14_one_bad_object_keeps_nothing_from_being_uploaded() {
    let mut here = Installation::new().await;
    let gate = gate::Gate::default();
    here.persist = Some(gate.persist());
    let behind = Tuning { policy: policy(Mode::WriteBehind, Place::Disk), ..Tuning::default() };
    here.tuning = Tuning { spill: SpillOptions { automatic: false, ..SpillOptions::default() }, ..behind.clone() };
    let edge = here.node("edge").await;
    for n in 0..9 {
        put(&edge, &format!("{n}"), &content(n, 10_000)).await;
    }
    edge.stop().await;
    damage(&here.folder("edge"), &content(0, 10_000));
    here.tuning = behind;
    let edge = here.node("edge").await;
    for n in 1..9 {
        edge.wait_durable(&bucket("data"), &key(&format!("{n}")), LONG).await.unwrap();
    }
    until("the others are done", || metric(&edge, "cloudskin_geds_spill_queue") == 1).await;
    assert_eq!((metric(&edge, "cloudskin_geds_spill_breaker_open"), gate.names().await.len()), (0, 8));
}

/// What is renamed while it is uploaded, as committers do, is in the store under its new name when that was promised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_renamed_during_its_upload_is_kept_as_promised() {
    for mode in [Mode::WriteBehind, Mode::WriteThrough] {
        let mut here = Installation::new().await;
        let gate = gate::Gate::default();
        here.persist = Some(gate.persist());
        here.tuning = Tuning { policy: policy(mode, Place::Disk), ..Tuning::default() };
        gate.let_through(false);
        let edge = here.node("edge").await;
        let putting = tokio::spawn({
            let node = edge.node.clone();
            async move { node.put(&bucket("data"), &key("k"), b"content".to_vec().into()).await }
        });
        until("it is under way", || gate.waiting() == 1).await;
        here.namenode.rename(&bucket("data"), &key("k"), &key("new")).await.unwrap();
        gate.let_through(true);
        let sealed = putting.await.unwrap().unwrap();
        assert!(mode == Mode::WriteBehind || sealed.persisted.is_some(), "{sealed:?}");
        until("nothing is owed", || metric(&edge, "cloudskin_geds_spill_queue") == 0).await;
        assert!(edge.stat(&bucket("data"), &key("new")).await.unwrap().persisted.is_some(), "{mode:?}");
    }
}

/// A drain waits for the upload that is under way, and the queue counts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_what_is_under_way() {
    let mut here = Installation::new().await;
    let gate = gate::Gate::default();
    here.persist = Some(gate.persist());
    here.tuning = Tuning { policy: policy(Mode::WriteBehind, Place::Disk), ..Tuning::default() };
    gate.let_through(false);
    let edge = here.node("edge").await;
    put(&edge, "k", b"content").await;
    until("it is under way", || gate.waiting() == 1).await;
    assert_eq!(metric(&edge, "cloudskin_geds_spill_queue"), 1);
    let late = edge.drain(Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(late.kind(), Kind::DeadlineExceeded);
    let draining = tokio::spawn({
        let node = edge.node.clone();
        async move { node.drain(LONG).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!draining.is_finished());
    gate.let_through(true);
    draining.await.unwrap().unwrap();
    assert!(edge.stat(&bucket("data"), &key("k")).await.unwrap().persisted.is_some());
    until("nothing is owed", || metric(&edge, "cloudskin_geds_spill_queue") == 0).await;
}

/// A store that refuses: the error says what of the user's it was about.
#[tokio::test]
async fn an_upload_that_is_refused_names_bucket_and_key() {
    let here = Installation::new().await.with_folder_persist();
    let edge = here.node("edge").await;
    put(&edge, "scenes/1", b"content").await;
    Store::of(&here).fail();
    let error = edge.spill(&bucket("data"), "").await.unwrap_err();
    assert!(error.to_string().contains("data/scenes/1"), "{error}");
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(get(&edge, "scenes/1").await.unwrap().bytes(), b"content");
}

/// Deleted, replaced and renamed over while the store takes no deletes, and by a site that can't reach it: all of it goes later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_10_a_delete_that_failed_in_the_store_is_done_again() {
    let mut here = Installation::new().await;
    let gate = gate::Gate::default();
    let poor = here.node("poor").await;
    here.persist = Some(gate.persist());
    let edge = here.node("edge").await;
    for name in ["deleted", "replaced", "over", "elsewhere", "kept"] {
        put(&edge, name, name.as_bytes()).await;
    }
    edge.flush(&bucket("data"), "", LONG).await.unwrap();
    assert_eq!(gate.names().await.len(), 5);
    gate.fail_deletes(true);
    edge.delete(&bucket("data"), &key("deleted")).await.unwrap();
    put(&edge, "replaced", b"again").await;
    put(&edge, "new", b"new").await;
    edge.rename(&bucket("data"), &key("new"), &key("over")).await.unwrap();
    poor.delete(&bucket("data"), &key("elsewhere")).await.unwrap();
    assert_eq!(gate.names().await.len(), 5);
    // The node that was told is gone before the store is well.
    edge.stop().await;
    gate.fail_deletes(false);
    let edge = here.node("edge").await;
    edge.collect().await.unwrap();
    assert_eq!(gate.names().await.len(), 1, "and what is kept is there");
    edge.spill(&bucket("data"), "kept").await.unwrap();
    assert_eq!(get(&edge, "kept").await.unwrap().bytes(), b"kept");
}

/// The upload is done and nobody hears of it, or is there to record it; then the object is deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_10_an_upload_that_was_not_recorded_goes_with_its_object() {
    let mut here = Installation::new().await;
    here.limit = 4 << 20; // parts of 64 KiB
    let gate = gate::Gate::default();
    here.persist = Some(gate.persist());
    let edge = here.node("edge").await;
    for name in ["deleted", "kept"] {
        put(&edge, name, name.as_bytes()).await;
    }
    let log = edge.appendable(&bucket("data"), &key("log")).await.unwrap();
    log.append(0, content(1, 200_000).into()).await.unwrap();
    assert_eq!(log.spill_head().await.unwrap(), 3 * 65_536);
    log.append(200_000, content(2, 70_000).into()).await.unwrap();
    gate.lose_puts(true);
    assert!(edge.flush(&bucket("data"), "", Duration::ZERO).await.is_err());
    for name in ["deleted", "kept"] {
        assert!(edge.spill(&bucket("data"), name).await.is_err());
    }
    assert!(log.spill_head().await.is_err());
    drop(log);
    assert_eq!(gate.names().await.len(), 6, "three parts that are known, and three that nobody knows of");
    edge.stop().await;
    gate.lose_puts(false);
    let edge = here.node("edge").await;
    edge.delete(&bucket("data"), &key("deleted")).await.unwrap();
    edge.collect().await.unwrap();
    assert_eq!(gate.names().await.len(), 5);
    // What is in use stays, and what is begun is ended.
    let log = edge.appendable(&bucket("data"), &key("log")).await.unwrap();
    assert!(log.read(0, 200_000).await.unwrap() == content(1, 200_000));
    assert_eq!(edge.spill(&bucket("data"), "kept").await.unwrap(), (1, 4));
    assert_eq!(get(&edge, "kept").await.unwrap().bytes(), b"kept");
    log.discard().await.unwrap();
    edge.collect().await.unwrap();
    assert_eq!(gate.names().await.len(), 1);
    edge.delete(&bucket("data"), &key("kept")).await.unwrap();
    until("the last one goes", || here.folder("edge").join("uploads").read_dir().unwrap().count() == 0).await;
    edge.collect().await.unwrap();
    assert_eq!(gate.names().await, [""; 0]);
}

#[tokio::test]
async fn defect_02_a_prefix_ends_at_a_segment() {
    let here = Installation::new().await.with_folder_persist();
    let edge = here.node("edge").await;
    for name in ["foo", "foo/a", "foobar", "foobar/a"] {
        put(&edge, name, b"x").await;
    }
    assert_eq!(edge.flush(&bucket("data"), "foo", LONG).await.unwrap(), (2, 2));
    assert_eq!(edge.stat(&bucket("data"), &key("foobar")).await.unwrap().persisted, None);
}

// --- copies that go -----------------------------------------------------------------------------------------------------------------

/// Nothing is spilled by itself here: what is elsewhere, too, makes room, and what is not never does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_what_is_elsewhere_go_before_anybody_is_refused() {
    let mut here = Installation::new().await;
    (here.limit, here.tuning.wait) = (64 << 20, Duration::ZERO);
    let edge = here.node("edge").await;
    here.limit = 8 << 20;
    let cloud = here.node("cloud").await;
    for n in 0..24 {
        put(&edge, &format!("afar/{n}"), &content(n, MIB)).await;
    }
    // Three times what there is room for, one after the other and twice: each open finds room.
    for n in (0..24).chain(0..24) {
        assert!(get(&cloud, &format!("afar/{n}")).await.unwrap().bytes() == content(n, MIB), "{n}");
    }
    // What it writes itself takes their place, until there is nothing else any more.
    let mut own = 0;
    let full = loop {
        match cloud.put(&bucket("data"), &key(&format!("own/{own}")), content(100 + own, MIB).into()).await {
            Ok(_) => own += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(full.kind(), Kind::ResourceExhausted);
    assert!(own >= 6, "{own} objects of 1 MiB in 8 MiB, in which copies stood in the way");
    for n in 0..own {
        assert!(get(&cloud, &format!("own/{n}")).await.unwrap().bytes() == content(100 + n, MIB), "own/{n} is the only copy");
    }
    for n in 0..24 {
        assert!(get(&edge, &format!("afar/{n}")).await.unwrap().bytes() == content(n, MIB), "afar/{n}");
    }
    // A writer that does not await: it is given room while it waits.
    for n in 0..own {
        cloud.delete(&bucket("data"), &key(&format!("own/{n}"))).await.unwrap();
    }
    drop(cloud);
    here.tuning.wait = LONG;
    let cloud = here.node("cloud").await;
    for n in 0..8 {
        get(&cloud, &format!("afar/{n}")).await.unwrap();
    }
    let mut writer = create(&cloud, "slow").await;
    let writer = in_thread(move || {
        writer.write_at(0, &content(7, 4 * MIB)).unwrap();
        writer
    });
    writer.await.seal().await.unwrap();
    assert!(get(&cloud, "slow").await.unwrap().bytes() == content(7, 4 * MIB));
}

/// What grows finds room as a writer does: copies of what is elsewhere go for it, from its first part on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_what_is_elsewhere_go_for_what_grows() {
    let mut here = Installation::new().await;
    here.limit = 64 << 20;
    let edge = here.node("edge").await;
    (here.limit, here.tuning.wait) = (4 << 20, LONG);
    let cloud = here.node("cloud").await;
    for n in 0..8 {
        put(&edge, &format!("{n}"), &content(n, MIB / 2)).await;
    }
    let log = cloud.appendable(&bucket("data"), &key("log")).await.unwrap();
    for n in 0..8 {
        let _ = get(&cloud, &format!("{n}")).await; // the last of them may find no room beside its own copies
    }
    assert!(cloud.disk().charged > 3 << 20, "{:?}", cloud.disk());
    let data = content(99, 3 * MIB);
    let began = Instant::now();
    for at in (0..data.len()).step_by(100_000) {
        log.append(at as u64, data[at..data.len().min(at + 100_000)].to_vec().into()).await.unwrap();
    }
    assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
    assert!(log.read(0, u64::MAX).await.unwrap() == data);
}

/// A copy that was asked for is counted on, and one in the persistency tier is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_copies_stay_and_uploaded_ones_go() {
    let mut here = Installation::new().await.with_folder_persist();
    here.tuning.wait = Duration::ZERO;
    let second = BucketPolicy { second_copy: Some(geds::SecondCopy::Required), ..BucketPolicy::default() };
    here.tuning.buckets.insert(bucket("safe"), second);
    here.tuning.buckets.insert(bucket("stored"), policy(Mode::WriteThrough, Place::Disk));
    for name in ["safe", "stored"] {
        here.namenode.create_bucket(&bucket(name)).await.unwrap();
    }
    let edge = here.node("edge").await;
    here.limit = 8 << 20;
    // This one knows nothing of what the bucket wants: that it was asked is enough.
    here.tuning.buckets.remove(&bucket("safe"));
    let cloud = here.node("cloud").await;
    for n in 0..3 {
        edge.put(&bucket("safe"), &key(&n.to_string()), content(n, MIB).into()).await.unwrap();
    }
    for n in 0..12 {
        cloud.put(&bucket("stored"), &key(&n.to_string()), content(n, MIB).into()).await.unwrap();
    }
    for n in 0..3 {
        let holders = here.namenode.lookup(&bucket("safe"), &key(&n.to_string())).await.unwrap().sites;
        assert_eq!(holders.len(), 2, "{n}: {holders:?}");
    }
    for n in 0..12 {
        let object = cloud.open_object(&bucket("stored"), &key(&n.to_string())).await.unwrap();
        assert!(object.bytes() == content(n, MIB), "{n}");
    }
}
