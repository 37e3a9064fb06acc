//! What a user could notice of a store's disk: where it is encrypted everything reads as before and nothing can be read from it; what earlier versions have written is found, and what a later one has
//! written is left as it is.

use crate::common::*;
use base::Kind;
use geds::{Catalog, Error, Namenode, Node, Page, RemoteCatalog, RestKey};
use std::{
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
};

const MIB: usize = 1 << 20;
const NEEDLE: &[u8] = b"nobody shall find these words on the disk";

async fn installation() -> Installation {
    let mut here = Installation::new().await.with_folder_persist();
    here.tuning.key = Some(RestKey::new(&[42; 32]));
    here
}

/// Text that is easy to find.
fn text(len: usize) -> Vec<u8> {
    NEEDLE.iter().copied().cycle().take(len).collect()
}

/// Whether a file below a folder has the needle in it.
fn found(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { found(&path) } else { std::fs::read(path).unwrap().windows(NEEDLE.len()).any(|bytes| bytes == NEEDLE) }
    })
}

async fn refused(here: &Installation, name: &str) -> String {
    loop {
        let error = Node::open_with(here.options(name, String::new()), here.tuning.clone()).await.err().expect("it must not open");
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        // The tasks of the one before end a moment after it.
        if !error.to_string().contains("another node uses it") {
            return error.to_string();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_reads_as_before_and_nothing_can_be_read_from_the_disk() {
    let mut here = installation().await;
    let sizes = [0, 1, 1000, 65_536, 65_537, 300_000, 5 * MIB + 3];
    let mut edge = here.node("edge").await;
    for size in sizes {
        put(&edge, &format!("k{size}"), &text(size)).await;
    }
    // Out of order, over what is there, with a gap, cut and grown again.
    let mut writer = create(&edge, "woven").await;
    let (writer, model) = tokio::task::spawn_blocking(move || {
        let mut model = vec![0; 3 * MIB];
        for (at, len) in [(2 * MIB, 100_000), (10, 70_000), (2 * MIB - 5, 10), (MIB, 1)] {
            writer.write_at(at as u64, &text(len)).unwrap();
            model[at..at + len].copy_from_slice(&text(len));
        }
        writer.set_len(2 * MIB as u64 + 7).unwrap();
        model[2 * MIB + 7..].fill(0);
        writer.set_len(3 * MIB as u64).unwrap();
        let mut seen = vec![1; 3 * MIB];
        assert_eq!(writer.read_at(0, &mut seen).unwrap(), 3 * MIB);
        assert!(seen == model, "a writer reads what it wrote");
        (writer, model)
    })
    .await
    .unwrap();
    assert!(!found(&here.folder("edge")), "what is being written is on the disk, too");
    writer.seal().await.unwrap();
    assert!(on_disk(&here.folder("edge")) <= here.limit + edge.segment_bytes());

    for start in 0..2 {
        if start == 1 {
            edge.stop().await;
            edge = here.node("edge").await;
        }
        for size in sizes {
            let object = get(&edge, &format!("k{size}")).await.unwrap();
            assert!(object.bytes() == text(size), "{size} bytes, start {start}");
            let again = get(&edge, &format!("k{size}")).await.unwrap();
            assert_eq!(object.bytes().as_ptr(), again.bytes().as_ptr(), "it is decrypted once");
        }
        assert!(get(&edge, "woven").await.unwrap().bytes() == model);
        assert!(!found(&here.folder("edge")));
    }
    edge.stop().await;
    // Peers get it as it is, and so does the persistency tier.
    let cloud_key = here.tuning.key.take();
    let cloud = here.node("cloud").await;
    assert!(get(&cloud, "woven").await.is_err(), "its only holder is not there");
    here.tuning.key = cloud_key;
    let edge = here.node("edge").await;
    assert!(get(&cloud, "woven").await.unwrap().bytes() == model);
    edge.spill(&bucket("data"), "k300000").await.unwrap();
    assert!(found(&here.persist_path()));
    assert!(get(&edge, "k300000").await.unwrap().bytes() == text(300_000));
    assert!(!found(&here.folder("edge")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_opens_with_its_own_key_only() {
    let mut here = installation().await;
    put(&here.node("edge").await.node, "k", b"x").await;
    here.tuning.key = Some(RestKey::new(&[43; 32]));
    assert!(refused(&here, "edge").await.contains("another key"));
    here.tuning.key = None;
    assert!(refused(&here, "edge").await.contains("set `key_file`"));
    // And what is not encrypted does not become so by itself.
    put(&here.node("plain").await.node, "p", b"x").await;
    here.tuning.key = Some(RestKey::new(&[42; 32]));
    assert!(refused(&here, "plain").await.contains("not encrypted"));
    let edge = here.node("edge").await;
    assert_eq!(get(&edge, "k").await.unwrap().bytes(), b"x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_grows_reads_as_before_and_can_not_be_read_from_the_disk() {
    let mut here = installation().await;
    here.limit = 4 << 20; // parts of 64 KiB
    let (b, k) = (bucket("data"), key("log"));
    let data = text(500_000);
    let mut edge = here.node("edge").await;
    let mut log = edge.appendable(&b, &k).await.unwrap();
    let folder = here.folder("edge").join("append");
    let mut at = 0;
    for (n, end) in [1, 100, 100, 70_000, 300_000, 300_001, 420_000, 500_000].into_iter().enumerate() {
        assert_eq!(log.append(at as u64, data[at..end].to_vec().into()).await.unwrap(), end as u64);
        at = end;
        assert!(log.read(0, u64::MAX).await.unwrap() == data[..at], "readable while it grows");
        assert!(!found(&here.folder("edge")), "after {at} bytes");
        match n {
            4 => assert!(log.spill_head().await.unwrap() >= 4 * 65_536),
            5 => {
                // A restart finds it, and goes on over what an append that nobody was told of has left.
                log.sync().await.unwrap();
                drop(log);
                edge.stop().await;
                let part = folder.read_dir().unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some_and(|e| e == "4")).unwrap();
                let mut bytes = std::fs::read(&part).unwrap();
                bytes.extend_from_slice(&[5; 3000]);
                std::fs::write(&part, bytes).unwrap();
                edge = here.node("edge").await;
                log = edge.appendable(&b, &k).await.unwrap();
                assert_eq!(log.len(), at as u64);
            }
            _ => {}
        }
    }
    for (from, to) in [(0, 1), (65_530, 65_540), (299_999, 300_002), (310_000, 450_000), (499_999, 500_000)] {
        assert!(log.read(from, to - from).await.unwrap() == data[from as usize..to as usize], "{from} to {to}");
    }
    // What was changed on the disk is not read.
    let part = folder.read_dir().unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some_and(|e| e == "5")).unwrap();
    let whole = std::fs::read(&part).unwrap();
    let change = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&part, bytes).unwrap();
    };
    change(1000);
    let error = log.read(0, u64::MAX).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss, "{error}");
    assert!(error.to_string().contains("data/log") && error.to_string().contains("part 5"), "{error}");
    std::fs::write(&part, &whole).unwrap();
    assert_eq!(log.seal().await.unwrap().size, 500_000);
    assert!(get(&edge, "log").await.unwrap().bytes() == data);
    assert_eq!(folder.read_dir().unwrap().count(), 0, "nothing is left of the parts");
    assert!(!found(&here.folder("edge")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_on_the_disk_is_not_read_and_another_copy_is() {
    let here = installation().await;
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    put(&edge, "k", &text(3 * MIB)).await;
    put(&edge, "alone", &text(2 * MIB)).await;
    get(&cloud, "k").await.unwrap();
    edge.stop().await;
    for entry in std::fs::read_dir(here.folder("edge").join("sealed")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    let edge = here.node("edge").await;
    assert!(get(&edge, "k").await.unwrap().bytes() == text(3 * MIB), "from the cloud");
    let error = get(&edge, "alone").await.unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss);
    assert!(error.to_string().contains("data/alone") && error.to_string().contains("chunk"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_and_a_full_disk_are_as_without_a_key() {
    let mut here = installation().await;
    here.limit = 4 << 20;
    let edge = here.node("edge").await;
    for round in 0..20u64 {
        for n in 0..40u64 {
            let _ = edge.delete(&bucket("data"), &key(&format!("k{}", (n * 7 + round) % 40))).await;
            let data = content(n, 60_000);
            edge.put(&bucket("data"), &key(&format!("k{}", (n * 7 + round) % 40)), data.into()).await.unwrap();
        }
        assert!(on_disk(&here.folder("edge")) <= here.limit + edge.segment_bytes());
        for n in 0..40u64 {
            assert!(get(&edge, &format!("k{}", (n * 7 + round) % 40)).await.unwrap().bytes() == content(n, 60_000));
        }
    }
    let full = edge.put(&bucket("data"), &key("large"), content(1, 3 * MIB).into()).await.unwrap_err();
    assert_eq!(full.kind(), Kind::ResourceExhausted);
}

#[test]
fn a_key_comes_from_a_file_of_its_owners_alone() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("key");
    let check = |bytes: &[u8], mode: u32, expected: &str| {
        std::fs::write(&file, bytes).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        match RestKey::from_file(&file) {
            Ok(key) => assert!(expected.is_empty() && !format!("{key:?}").contains("42"), "{key:?}"),
            Err(e) => assert!(!expected.is_empty() && e.to_string().contains(expected), "{e}"),
        }
    };
    check(&[42; 32], 0o600, "");
    check(format!("{}\n", "2a".repeat(32)).as_bytes(), 0o400, "");
    check(&[42; 32], 0o640, "chmod 600");
    check(&[42; 31], 0o600, "32 random bytes");
    check("zz".repeat(32).as_bytes(), 0o600, "32 random bytes");
    check(b"", 0o600, "32 random bytes");
    assert!(RestKey::from_file(&temp.path().join("none")).unwrap_err().to_string().contains("none"));
}

/// After a power cut a record can be on the disk although its bytes are not. What was synced is there, what was not is there as far as it is whole, and nothing is read that nobody has written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_whose_bytes_did_not_reach_the_disk_is_cut_off() {
    for rest_key in [None, Some(RestKey::new(&[42; 32]))] {
        let mut here = Installation::new().await;
        here.tuning.key = rest_key;
        let (b, k) = (bucket("data"), key("log"));
        let part = |n: &str| {
            let files = std::fs::read_dir(here.folder("edge").join("append")).unwrap().map(|entry| entry.unwrap().path());
            files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == n)).unwrap()
        };
        let mut edge = here.node("edge").await;
        let part_bytes = edge.segment_bytes() / 4;
        let log = edge.appendable(&b, &k).await.unwrap();
        log.append(0, "durable".into()).await.unwrap();
        log.sync().await.unwrap();
        log.append(7, " whole".into()).await.unwrap();
        log.append(13, text(part_bytes as usize).into()).await.unwrap();
        log.append(13 + part_bytes, " after".into()).await.unwrap();
        drop(log);
        edge.stop().await;
        // A block of the long one is still as it was allocated.
        std::fs::OpenOptions::new().write(true).open(part("0")).unwrap().write_all_at(&[0; 4096], 8192).unwrap();
        edge = here.node("edge").await;
        let log = edge.growing(&b, &k).await.unwrap().unwrap();
        assert_eq!(log.read(0, 100).await.unwrap(), "durable whole", "the bytes of what is cut off are not made up");
        assert_eq!(log.len(), 13);
        // It goes on over what was there, and what the log said of it is not believed later on.
        log.append(13, " again".into()).await.unwrap();
        drop(log);
        edge.stop().await;
        edge = here.node("edge").await;
        let log = edge.growing(&b, &k).await.unwrap().unwrap();
        assert_eq!(log.read(0, 100).await.unwrap(), "durable whole again");

        // A whole part that the folder doesn't know of.
        log.append(19, text(part_bytes as usize).into()).await.unwrap();
        drop(log);
        edge.stop().await;
        std::fs::remove_file(part("1")).unwrap();
        edge = here.node("edge").await;
        let log = edge.growing(&b, &k).await.unwrap().unwrap();
        assert_eq!(log.read(0, 100).await.unwrap(), "durable whole again");
        assert!(here.folder("edge").join("append").read_dir().unwrap().count() == 2, "its log and its first part");
        edge.stop().await;
    }
}

// --- what other versions have written ---------------------------------------------------------------------------------------------

/// An installation as each version left one, see `common/stored.rs`. `GEDS_FORMATS=FOLDER` writes them anew, there: one that is here stays, and a version that writes something else adds its own.
const STORED: [(&str, &str); 2] = [
    // Before answers were kept with the names, and checksums with what grows.
    ("first", include_str!("../formats/first.txt")),
    ("second", include_str!("../formats/second.txt")),
];
const STORED_FOLDERS: [&str; 4] = ["names", "edge", "vault", "persist"];
/// Milliseconds: the year 2100.
const LATE: u64 = 4_102_444_800_000;
/// With this limit a part of what grows has so many bytes.
const PART: usize = 16 << 10;

/// Few bytes that differ, and zeros, of which a text says nothing.
fn sparse(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = content(seed, 64);
    bytes.resize(len, 0);
    bytes
}

fn over_the_wire(namenode: &Namenode) -> RemoteCatalog {
    let namenode = namenode.clone();
    RemoteCatalog::over(move || {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let namenode = namenode.clone();
        tokio::spawn(async move { namenode.serve(theirs, geds::Caller::Hub).await });
        async move { Ok(ours) }
    })
}

fn stored_here(here: Installation) -> Installation {
    let mut here = here.with_folder_persist();
    here.limit = 1 << 20;
    here
}

/// A life that leaves one of each thing that is written down: the first half in a snapshot, the second in the log. `answers`: changes whose answers are kept, too.
async fn lives_once(answers: bool) -> Installation {
    let mut here = stored_here(Installation::new().await);
    let b = bucket("data");
    let edge = here.node("edge").await;
    for (name, bytes) in [("a/small", content(1, 100)), ("a/empty", Vec::new()), ("a/large", sparse(2, 20_000)), ("a/gone", content(3, 50)), ("s/away", content(4, 70)), ("a/x", content(5, 30))] {
        put(&edge, name, &bytes).await;
    }
    put(&edge, "a/small", &content(6, 90)).await;
    edge.delete(&b, &key("a/gone")).await.unwrap();
    edge.rename(&b, &key("a/x"), &key("a/renamed")).await.unwrap();
    edge.copy_object(&b, &key("a/small"), &b, &key("b/twin"), false).await.unwrap();
    let mut writer = create(&edge, "a/words").await;
    writer.write_at(0, b"with words").unwrap();
    writer.set_metadata(b"colour=red".to_vec());
    writer.seal().await.unwrap();
    edge.keep_job("train", None).await.unwrap();
    let mut writer = create(&edge, "j/leased").await;
    writer.write_at(0, b"leased").unwrap();
    writer.lease_to("train");
    writer.seal().await.unwrap();
    here.namenode.touch(&b, &key("a/renamed"), LATE).await.unwrap();
    edge.spill(&b, "s").await.unwrap();
    let log = edge.appendable(&b, &key("log")).await.unwrap();
    log.append(0, sparse(7, PART).into()).await.unwrap();
    log.append(PART as u64, b"durable".to_vec().into()).await.unwrap();
    assert_eq!(log.spill_head().await.unwrap(), PART as u64);
    log.sync().await.unwrap();
    if answers {
        over_the_wire(&here.namenode).rename(&b, &key("a/words"), &key("w/words")).await.unwrap();
    } else {
        edge.rename(&b, &key("a/words"), &key("w/words")).await.unwrap();
    }
    drop(log);
    edge.stop().await;
    // All that was in the log goes into a snapshot.
    here.lend_namenode().await;
    let names = here.temp.path().join("names");
    let namenode = Namenode::open_with(&names, 1).await.unwrap();
    namenode.create_bucket(&bucket("other")).await.unwrap();
    let snapshots = || std::fs::read_dir(&names).unwrap().filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("snapshot-0")).count();
    until("there is a snapshot", || snapshots() == 1).await;
    namenode.close().await;
    here.take_namenode_back().await;

    let edge = here.node("edge").await;
    for (name, seed) in [("c/late", 8), ("d/1", 9), ("d/2", 10)] {
        put(&edge, name, &content(seed, 80)).await;
    }
    edge.delete_prefix(&b, "d").await.unwrap();
    edge.rename_prefix(&b, "c", &bucket("other"), "e", false).await.unwrap();
    edge.appendable(&b, &key("log")).await.unwrap().append((PART + 7) as u64, b", and more".to_vec().into()).await.unwrap();
    if answers {
        over_the_wire(&here.namenode).copy(&b, &key("a/small"), &b, &key("b/third"), false).await.unwrap();
    } else {
        edge.copy_object(&b, &key("a/small"), &b, &key("b/third"), false).await.unwrap();
    }
    here.tuning.key = Some(RestKey::new(&[42; 32]));
    let vault = here.node("vault").await;
    vault.put(&b, &key("v/secret"), content(11, 120).into()).await.unwrap();
    if answers {
        // The first version encrypted nothing that grows.
        vault.appendable(&b, &key("secrets")).await.unwrap().append(0, content(12, 40).into()).await.unwrap();
    }
    here.namenode.set_tenant(&b, "lab").await.unwrap();
    here.namenode.set_quota("lab", here.namenode.bucket_info(&b).unwrap().1, u64::MAX).await.unwrap();
    vault.stop().await;
    edge.stop().await;
    here.lend_namenode().await;
    here
}

/// What the first version wrote of the same life.
fn as_at_first(root: &Path) {
    for entry in std::fs::read_dir(root.join("names")).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with("snapshot-") {
            continue;
        }
        // The second block has the answers: there were none, and there was no such block.
        let mut bytes = std::fs::read(&path).unwrap();
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let second = 16 + 16 + number(16);
        assert_eq!(number(second + 4), 4);
        let end = second + 16 + number(second);
        bytes.drain(second..end);
        std::fs::write(&path, bytes).unwrap();
    }
    for entry in std::fs::read_dir(root.join("edge/append")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "log") {
            continue;
        }
        let (bytes, mut out, mut at) = (std::fs::read(&path).unwrap(), Vec::new(), 0);
        while at < bytes.len() {
            let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            let mut body = bytes[at + 12..at + 12 + len].to_vec();
            match body[0] {
                // `Appended` was `Committed`, without a checksum behind the length, and `Stored` was `Away`, without one behind the place.
                7 => {
                    let (length, _): (u64, &[u8]) = postcard::take_from_bytes(&body[1..]).unwrap();
                    body = postcard::to_stdvec(&(2u8, length)).unwrap();
                }
                6 => {
                    let ((n, place), _): ((u64, String), &[u8]) = postcard::take_from_bytes(&body[1..]).unwrap();
                    body = postcard::to_stdvec(&(3u8, n, place)).unwrap();
                }
                _ => {}
            }
            out.extend_from_slice(&frame(&body));
            at += 12 + len;
        }
        std::fs::write(&path, out).unwrap();
    }
}

/// A record of the log of what grows.
fn frame(body: &[u8]) -> Vec<u8> {
    let sum = xxhash_rust::xxh3::xxh3_64(body);
    [&(body.len() as u32).to_le_bytes()[..], &sum.to_le_bytes(), body].concat()
}

async fn restored(text: &str) -> Installation {
    let temp = tempfile::tempdir().unwrap();
    stored::restore(text, temp.path());
    stored_here(Installation::at(temp).await)
}

async fn all_is_found(mut here: Installation, version: &str) {
    let (b, other) = (bucket("data"), bucket("other"));
    let first = version == "first";
    let edge = here.node("edge").await;
    let listing = edge.list(&b, "", None, Page::default()).await.unwrap();
    let keys: Vec<&str> = listing.objects.iter().map(|meta| meta.key.as_str()).collect();
    assert_eq!(keys, ["a/empty", "a/large", "a/renamed", "a/small", "b/third", "b/twin", "j/leased", "s/away", "v/secret", "w/words"], "{version}");
    let (small, words) = (content(6, 90), b"with words".to_vec());
    let there = [("a/empty", Vec::new()), ("a/large", sparse(2, 20_000)), ("a/renamed", content(5, 30)), ("a/small", small.clone()), ("b/third", small.clone()), ("b/twin", small), ("s/away", content(4, 70)), ("w/words", words)];
    for (name, bytes) in there {
        assert!(get(&edge, name).await.unwrap().bytes() == bytes, "{version}: {name}");
    }
    assert!(edge.open_object(&other, &key("e/late")).await.unwrap().bytes() == content(8, 80), "{version}");
    assert_eq!(edge.attributes(&b, &key("w/words")).await.unwrap().metadata, b"colour=red");
    assert_eq!(edge.attributes(&b, &key("a/renamed")).await.unwrap().expires_ms, LATE);
    assert_eq!(edge.attributes(&b, &key("j/leased")).await.unwrap().job.as_deref(), Some("train"));
    // A quota for what there is, and no more.
    let full = edge.put(&b, &key("one-more"), vec![1].into()).await.unwrap_err();
    assert!(matches!(full, Error::Quota { .. }), "{version}: {full}");
    assert_eq!(edge.drop_job("train").await.unwrap(), (1, 6));

    // What grows has its head, its tail and what was never synced, and goes on.
    let log = edge.appendable(&b, &key("log")).await.unwrap();
    let mut grown = sparse(7, PART);
    grown.extend_from_slice(b"durable, and more");
    assert!(log.read(0, u64::MAX).await.unwrap() == grown, "{version}");
    log.append(grown.len() as u64, b"!".to_vec().into()).await.unwrap();
    log.seal().await.unwrap();
    grown.push(b'!');
    assert!(get(&edge, "log").await.unwrap().bytes() == grown, "{version}");
    drop(log);

    here.tuning.key = Some(RestKey::new(&[42; 32]));
    let vault = here.node("vault").await;
    assert!(get(&vault, "v/secret").await.unwrap().bytes() == content(11, 120), "{version}");
    if !first {
        let secrets = vault.growing(&b, &key("secrets")).await.unwrap().expect("it grows");
        assert!(secrets.read(0, u64::MAX).await.unwrap() == content(12, 40), "{version}");
    }
    // The same again, now that this version has written to it.
    edge.stop().await;
    vault.stop().await;
    here.lend_namenode().await;
    here.take_namenode_back().await;
    here.tuning.key = None;
    let edge = here.node("edge").await;
    assert!(get(&edge, "log").await.unwrap().bytes() == grown && get(&edge, "a/large").await.unwrap().bytes() == sparse(2, 20_000), "{version}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_earlier_versions_have_written_is_found() {
    if let Some(folder) = std::env::var_os("GEDS_FORMATS") {
        for first in [true, false] {
            let here = lives_once(!first).await;
            if first {
                as_at_first(here.temp.path());
            }
            let name = Path::new(&folder).join(if first { "first.txt" } else { "second.txt" });
            std::fs::write(name, stored::text_of(here.temp.path(), &STORED_FOLDERS)).unwrap();
        }
    }
    for (version, text) in STORED {
        all_is_found(restored(text).await, version).await;
    }
    // What this version writes is found by it, too, whatever was stored.
    let here = lives_once(true).await;
    all_is_found(restored(&stored::text_of(here.temp.path(), &STORED_FOLDERS)).await, "this one").await;
}

/// A file of another format is named, with its number and what to do, and nothing in any folder is changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_later_version_has_written_is_left_as_it_is() {
    let (_, text) = STORED[1];
    let changed = |file: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let temp = tempfile::tempdir().unwrap();
        stored::restore(text, temp.path());
        // What a later version had begun is its own, too.
        std::fs::create_dir_all(temp.path().join("edge/open")).unwrap();
        std::fs::write(temp.path().join("edge/open/0123"), b"half").unwrap();
        let path = stored_file(temp.path(), file);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        (temp, path)
    };
    for (file, mark, later) in [("names/snapshot-", &b"cloudskin snap 1"[..], b'2'), ("names/log-", b"cloudskin meta 1", b'7')] {
        let (temp, path) = changed(file, &|bytes| {
            assert_eq!(&bytes[..16], mark);
            bytes[15] = later;
        });
        let before = stored::text_of(temp.path(), &STORED_FOLDERS);
        let error = Namenode::open(temp.path().join("names")).await.err().expect("it must not open");
        says(&error, &path, &format!("format {}, and this version reads 1", char::from(later)));
        assert!(stored::text_of(temp.path(), &STORED_FOLDERS) == before, "{file} or its neighbours were changed");
    }
    // A record that is whole, and nobody here knows.
    let record = |sort: u8| {
        let mut record = [0; 64];
        record[0] = sort;
        let sum = xxhash_rust::xxh3::xxh3_64(&record[..56]);
        record[56..].copy_from_slice(&sum.to_le_bytes());
        record
    };
    let journal_of_sort = |bytes: &mut Vec<u8>| {
        let free = bytes.chunks(64).position(|slot| slot.iter().all(|byte| *byte == 0)).expect("it was allocated ahead") * 64;
        bytes[free..free + 64].copy_from_slice(&record(9));
    };
    let cases: [(&str, &dyn Fn(&mut Vec<u8>), &str); 3] = [
        ("edge/journal", &|bytes| bytes[13] = b'3', "format 3, and this version reads 1"),
        ("edge/journal", &journal_of_sort, "a record of sort 9"),
        ("edge/append/", &|bytes| bytes.extend_from_slice(&frame(&[99, 1, 2])), "a record of sort 99"),
    ];
    for (file, change, what) in cases {
        let (temp, path) = changed(file, change);
        let before = stored::text_of(temp.path(), &["edge"]);
        let here = stored_here(Installation::at(temp).await);
        let error = Node::open_with(here.options("edge", String::new()), here.tuning.clone()).await.err().expect("it must not open");
        says(&error, &path, what);
        assert!(stored::text_of(here.temp.path(), &["edge"]) == before || file == "edge/append/", "{file} or its neighbours were changed");
        assert!(std::fs::read(&path).unwrap() == stored_bytes(&before, here.temp.path(), &path), "{file} was changed");
    }
}

/// The first file whose path begins so; of what grows its log.
fn stored_file(root: &Path, begins: &str) -> std::path::PathBuf {
    let (folder, name) = begins.rsplit_once('/').unwrap();
    let mut found: Vec<_> = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name) && (!name.is_empty() || path.extension().is_some_and(|e| e == "log")));
    found.sort();
    found.swap_remove(0)
}

/// What a text of a folder says of a file.
fn stored_bytes(text: &str, root: &Path, path: &Path) -> Vec<u8> {
    let temp = tempfile::tempdir().unwrap();
    stored::restore(text, temp.path());
    std::fs::read(temp.path().join(path.strip_prefix(root).unwrap())).unwrap()
}

fn says(error: &Error, path: &Path, what: &str) {
    let text = error.to_string();
    assert!(matches!(error, Error::Newer { .. }) && error.kind() == Kind::FailedPrecondition, "{text}");
    assert!(text.contains(path.to_str().unwrap()) && text.contains(what) && text.contains("start that one") && text.contains("nothing was changed"), "{text}");
}
