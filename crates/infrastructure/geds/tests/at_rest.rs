//! What a user could notice of a store whose disk is encrypted: everything reads as before, nothing of it can be read from the disk.

mod common;

use base::Kind;
use common::*;
use geds::{Node, RestKey};
use std::{
    os::unix::fs::PermissionsExt,
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
