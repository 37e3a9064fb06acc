//! What who asks much and takes nothing costs the namenode: an allocator that counts says how much memory. One test, so that nobody else is counted.

mod common;

use common::{bucket, key, site};
use geds::{Caller, Catalog, NewObject, ObjectId};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Counting;
static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is done by the system's allocator; only sums are kept besides.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(live, Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const MIB: usize = 1 << 20;

/// A frame of the namenode's wire with this body.
fn frame(request: u64, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_le_bytes()[..], &request.to_le_bytes(), body].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_no_answers_costs_a_bounded_amount_of_memory() {
    let temp = tempfile::tempdir().unwrap();
    let namenode = common::namenode(temp.path()).await;
    namenode.create_bucket(&bucket("data")).await.unwrap();
    // A page of a thousand is about a megabyte.
    for n in 0..1000u128 {
        let new = NewObject { id: ObjectId(n + 1), size: 1, checksum: 1, site: site("edge"), if_absent: false };
        namenode.seal(&bucket("data"), &key(&format!("{n:04}-{}", "k".repeat(900))), new).await.unwrap();
    }
    // List of all, and a watch from the beginning on, which has a thousand events to tell.
    let list = [&[0, 6, 4][..], b"data", &[0, 0, 0, 0xe8, 7]].concat();
    let watch = [&[0, 10, 4][..], b"data", &[0, 0]].concat();
    for (what, body) in [("lists", list), ("watches", watch)] {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let serving = namenode.clone();
        tokio::spawn(async move { serving.serve(theirs, Caller::Hub).await });
        let (mut reader, mut writer) = tokio::io::split(ours);
        let before = LIVE.load(Relaxed);
        MOST.store(before, Relaxed);
        const ASKED: u64 = 300;
        let asking = tokio::spawn(async move {
            for request in 1..=ASKED {
                writer.write_all(&frame(request, &body)).await.unwrap();
            }
            writer
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let most = MOST.load(Relaxed) - before;
        assert!(most < 64 * MIB, "{what}: {} MiB", most / MIB);
        let mut answered = std::collections::BTreeSet::new();
        while (answered.len() as u64) < ASKED {
            let mut head = [0; 12];
            reader.read_exact(&mut head).await.unwrap();
            let mut body = vec![0; u32::from_le_bytes(head[..4].try_into().unwrap()) as usize - 8];
            reader.read_exact(&mut body).await.unwrap();
            assert!(body.len() > 900_000, "{what}: an answer of {} bytes", body.len());
            answered.insert(u64::from_le_bytes(head[4..].try_into().unwrap()));
        }
        assert_eq!(answered, (1..=ASKED).collect(), "{what}");
        drop(asking.await.unwrap());
        let most = MOST.load(Relaxed) - before;
        assert!(most < 64 * MIB, "{what}, while they are taken: {} MiB", most / MIB);
    }
}
