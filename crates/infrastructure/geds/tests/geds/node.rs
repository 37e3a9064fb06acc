//! What a user of a node could notice: objects through their lives, on one node and between nodes.

use crate::common::{line::Line, *};
use base::{
    Kind,
    identity::{HUB, USER},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::BoxFuture};
use geds::{
    BucketName, Catalog, Error, Key, Listing, NewObject, Node, ObjectId, ObjectMeta, Page, PeerClient, Range,
    Result, Sealed, State,
};
use std::{
    os::unix::fs::PermissionsExt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn write_seal_read() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;

    let mut writer = create(&edge, "a/b.bin").await;
    writer.write_at(0, b"hello world").unwrap();
    writer.write_at(6, b"there").unwrap();
    writer.write_at(16, b"!").unwrap();
    let mut buf = [9u8; 32];
    assert_eq!(writer.read_at(0, &mut buf).unwrap(), 17);
    assert_eq!(&buf[..17], b"hello there\0\0\0\0\0!");
    assert_eq!(writer.read_at(17, &mut buf).unwrap(), 0);
    writer.set_len(11).unwrap();
    assert_eq!(get(&edge, "a/b.bin").await.unwrap_err().kind(), Kind::NotFound, "not visible before the seal");
    let meta = writer.seal().await.unwrap();
    assert_eq!((meta.size, meta.state, meta.sites[0].site.as_str()), (11, State::Sealed, "edge"));

    let object = get(&edge, "a/b.bin").await.unwrap();
    assert_eq!(object.bytes(), b"hello there");
    let mut buf = [0u8; 4];
    assert_eq!((object.read_at(9, &mut buf), &buf[..2]), (2, &b"re"[..]));
    assert_eq!(object.read_at(11, &mut buf), 0);
    assert_eq!(object.read_at(u64::MAX, &mut buf), 0);
    assert_eq!(edge.stat(&bucket("data"), &key("a/b.bin")).await.unwrap(), meta);

    // Written in order and out of order, the checksum is the same.
    let data = content(1, 300_000);
    let in_order = put(&edge, "in-order", &data).await;
    let mut writer = create(&edge, "out-of-order").await;
    writer.write_at(100_000, &data[100_000..]).unwrap();
    writer.write_at(0, &data[..100_000]).unwrap();
    assert_eq!(writer.seal().await.unwrap().checksum, in_order.checksum);

    // Empty objects are objects.
    let empty = create(&edge, "empty").await.seal().await.unwrap();
    assert_eq!(empty.size, 0);
    let object = get(&edge, "empty").await.unwrap();
    assert!(object.is_empty() && object.bytes().is_empty());

    // Names on disk are ids, private to the owner.
    put(&edge, "large", &content(9, 3 << 20)).await;
    for folder in ["sealed", "segments"] {
        let folder = here.folder("edge").join(folder);
        assert!(folder.read_dir().unwrap().count() > 0);
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            assert!(name.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'), "{name}");
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
    assert!(edge.metrics().contains("cloudskin_geds_sealed_total 5\n"), "{}", edge.metrics());
}

#[tokio::test]
async fn a_bucket_must_exist_and_a_key_may_be_taken_once() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    let error = edge.create(&bucket("nowhere"), &key("a")).await.err().unwrap();
    assert!(matches!(&error, Error::NoBucket { bucket } if bucket == "nowhere"), "{error}");
    assert!(edge.create_bucket(&bucket("nowhere")).await.unwrap());
    edge.create(&bucket("nowhere"), &key("a")).await.unwrap().abort();

    let mut first = edge.create_new(&bucket("data"), &key("one")).await.unwrap();
    let mut second = edge.create_new(&bucket("data"), &key("one")).await.unwrap();
    first.write_at(0, b"first").unwrap();
    second.write_at(0, b"second").unwrap();
    first.seal().await.unwrap();
    assert_eq!(second.seal().await.unwrap_err().kind(), Kind::AlreadyExists);
    assert_eq!(get(&edge, "one").await.unwrap().bytes(), b"first");
    assert_eq!(count(&edge), 1, "the loser leaves nothing");
    assert_eq!(edge.used_bytes(), 5);
}

#[tokio::test]
async fn nodes_read_each_other() {
    let here = Installation::new().await;
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    for (name, len) in [("small", 10), ("empty", 0), ("large", 3_000_001)] {
        let data = content(len as u64, len);
        put(&edge, name, &data).await;
        let object = get(&cloud, name).await.unwrap();
        assert_eq!(object.bytes(), data, "{name}");
        let meta = cloud.stat(&bucket("data"), &key(name)).await.unwrap();
        assert_eq!(meta.sites.iter().map(|h| h.site.as_str()).collect::<Vec<_>>(), ["cloud", "edge"]);
    }
    assert_eq!(cloud.used_bytes(), edge.used_bytes());

    // Many at once fetch it once.
    put(&edge, "shared", &content(7, 500_000)).await;
    let before = cloud.metrics();
    assert!(before.contains("cloudskin_geds_fetched_total 3\n"));
    let opens = futures::future::join_all((0..8).map(|_| get(&cloud, "shared"))).await;
    assert!(opens.into_iter().all(|object| object.unwrap().len() == 500_000));
    assert!(cloud.metrics().contains("cloudskin_geds_fetched_total 4\n"), "{}", cloud.metrics());

    // The copy outlives its source.
    edge.stop().await;
    assert_eq!(get(&cloud, "large").await.unwrap().bytes(), content(3_000_001, 3_000_001));

    // A delete frees it.
    cloud.delete(&bucket("data"), &key("large")).await.unwrap();
    assert_eq!(get(&cloud, "large").await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn holders_are_told_to_free() {
    let here = Installation::new().await;
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    put(&edge, "deleted", b"12345").await;
    put(&edge, "replaced", b"123").await;
    for name in ["deleted", "replaced"] {
        get(&cloud, name).await.unwrap();
    }
    cloud.delete(&bucket("data"), &key("deleted")).await.unwrap();
    put(&cloud, "replaced", b"4").await;
    until("edge frees both", || edge.used_bytes() == 0).await;
    assert_eq!(cloud.used_bytes(), 1);
    assert_eq!(count(&edge), 0);

    // A rename moves nothing and replaces what was there.
    put(&edge, "from", b"12").await;
    put(&edge, "to", b"1234").await;
    edge.rename(&bucket("data"), &key("from"), &key("to")).await.unwrap();
    assert_eq!(get(&edge, "to").await.unwrap().bytes(), b"12");
    assert_eq!(get(&edge, "from").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(edge.used_bytes(), 2);
}

#[tokio::test]
async fn a_restart_takes_objects_back_and_removes_leftovers() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    let data = content(3, 100_000);
    put(&edge, "kept", &data).await;
    put(&edge, "moved", b"moved").await;
    edge.rename(&bucket("data"), &key("moved"), &key("elsewhere")).await.unwrap();
    put(&edge, "gone", b"deleted while the node is away").await;

    // An unsealed write that a kill would leave behind, a sealed file that the catalog never heard of, a stranger.
    let folder = here.folder("edge");
    edge.stop().await;
    std::fs::write(folder.join("open/00000000000000000000000000000001"), b"half").unwrap();
    let orphan = format!("{:032x}-3-{:016x}-{:032x}", 77, 1, 2);
    std::fs::write(folder.join("sealed").join(&orphan), b"abc").unwrap();
    std::fs::write(folder.join("sealed/notes.txt"), b"mine").unwrap();
    here.namenode.delete(&bucket("data"), &key("gone")).await.unwrap();

    let edge = here.node("edge").await;
    assert_eq!(files(&folder), (0, 1), "only the stranger");
    assert_eq!(count(&edge), 2);
    assert_eq!(edge.used_bytes(), 100_005);
    assert_eq!(get(&edge, "kept").await.unwrap().bytes(), data);
    assert_eq!(get(&edge, "elsewhere").await.unwrap().bytes(), b"moved");

    // Two nodes can't have one folder.
    let error = Node::open(here.options("edge", String::new())).await.err().unwrap();
    assert!(error.to_string().contains("another node uses it"), "{error}");
}

#[tokio::test]
async fn dropped_writers_leave_nothing() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    let mut dropped = create(&edge, "a").await;
    dropped.write_at(0, &[1; 1000]).unwrap();
    let mut aborted = create(&edge, "b").await;
    aborted.write_at(0, &vec![1; 3 << 20]).unwrap();
    assert_eq!((edge.used_bytes(), files(&here.folder("edge"))), (1000 + (3 << 20), (1, 0)));
    drop(dropped);
    aborted.abort();
    assert_eq!((edge.used_bytes(), files(&here.folder("edge"))), (0, (0, 0)));
}

#[tokio::test]
async fn readers_keep_the_epoch_that_they_opened() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    let old_data = content(1, 200_000);
    let first = put(&edge, "k", &old_data).await;
    let old = get(&edge, "k").await.unwrap();
    let second = put(&edge, "k", b"new").await;
    assert!(second.epoch > first.epoch);
    assert_eq!(get(&edge, "k").await.unwrap().bytes(), b"new");
    assert_eq!(old.bytes(), old_data);
    assert_eq!(edge.used_bytes(), 200_003, "what is still read is still on the disk");
    let clone = old.clone();
    edge.delete(&bucket("data"), &key("k")).await.unwrap();
    drop(old);
    assert_eq!(clone.bytes(), old_data);
    drop(clone);
    assert_eq!((edge.used_bytes(), count(&edge)), (0, 0));
}

#[tokio::test]
async fn spill_and_read_back() {
    let here = Installation::new().await.with_folder_persist();
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    // More than one part of an upload.
    let large = content(5, 20 << 20);
    put(&edge, "foo", b"exact").await;
    put(&edge, "foo/a", &large).await;
    put(&edge, "foo/empty", b"").await;
    put(&edge, "foobar", b"not me").await;
    put(&edge, "foobar/a", b"nor me").await;
    let size = 5 + large.len() as u64;
    assert_eq!(edge.spill(&bucket("data"), "foo").await.unwrap(), (3, size));
    assert_eq!(edge.used_bytes(), 12, "`foo` is not `foobar`");
    for (name, here) in [("foo", 0), ("foo/a", 0), ("foo/empty", 0), ("foobar", 1), ("foobar/a", 1)] {
        let meta = edge.stat(&bucket("data"), &key(name)).await.unwrap();
        assert_eq!((meta.sites.len(), meta.persisted.is_some()), (here, here == 0), "{name}");
    }
    assert_eq!(edge.spill(&bucket("data"), "foo").await.unwrap(), (0, 0), "twice is harmless");

    // Both read it back; the next spill uploads nothing, as it is there.
    assert_eq!(get(&edge, "foo/a").await.unwrap().bytes(), large);
    assert_eq!(get(&cloud, "foo/a").await.unwrap().bytes(), large);
    assert!(get(&edge, "foo/empty").await.unwrap().is_empty());
    assert_eq!(edge.spill(&bucket("data"), "foo/").await.unwrap(), (2, large.len() as u64));
    assert_eq!(edge.used_bytes(), 12);

    // Deleted, it is gone from everywhere.
    let stored = || std::fs::read_dir(here.persist_path().join("objects")).unwrap().count();
    assert_eq!(stored(), 3);
    edge.delete(&bucket("data"), &key("foo/a")).await.unwrap();
    until("the upload and the copy are gone", || stored() == 2 && cloud.used_bytes() == 0).await;

    let poor = Installation::new().await;
    let node = poor.node("edge").await;
    let error = node.spill(&bucket("data"), "").await.unwrap_err();
    assert!(error.to_string().contains("set `persist`"), "{error}");
}

#[tokio::test]
async fn a_spilled_object_may_come_back_while_it_is_still_read() {
    let mut here = Installation::new().await.with_folder_persist();
    // A catalog without leases: with one, the copy that is still read is opened again instead.
    here.catalog = Flaky::new(&here.namenode, 0, 0);
    let edge = here.node("edge").await;
    put(&edge, "k", b"content").await;
    let before = get(&edge, "k").await.unwrap();
    assert_eq!(edge.spill(&bucket("data"), "k").await.unwrap(), (1, 7));
    assert_eq!(before.bytes(), b"content");
    let after = get(&edge, "k").await.unwrap();
    drop(before);
    drop(after);
    assert_eq!(edge.used_bytes(), 7);
    edge.stop().await;
    let edge = here.node("edge").await;
    assert_eq!(get(&edge, "k").await.unwrap().bytes(), b"content");
    assert_eq!(count(&edge), 1);
}

#[tokio::test]
async fn what_was_not_stored_well_is_not_freed() {
    let here = Installation::new().await.with_folder_persist();
    let edge = here.node("edge").await;
    let meta = put(&edge, "k", b"content").await;
    // The place of the upload is taken by something that can't be replaced.
    std::fs::create_dir_all(here.persist_path().join("objects").join(meta.id.to_string()).join("x")).unwrap();
    assert!(edge.spill(&bucket("data"), "k").await.is_err());
    assert_eq!(get(&edge, "k").await.unwrap().bytes(), b"content");
    assert_eq!(edge.stat(&bucket("data"), &key("k")).await.unwrap().persisted, None);
}

#[tokio::test]
async fn a_dead_holder_is_passed_over() {
    let mut here = Installation::new().await.with_folder_persist();
    let (edge, cloud, third) = (here.node("edge").await, here.node("cloud").await, here.node("third").await);
    put(&edge, "two-copies", b"again").await;
    get(&cloud, "two-copies").await.unwrap();
    put(&cloud, "one-copy", b"alone").await;
    cloud.stop().await;
    // `cloud` is asked first, for it comes first in the catalog's answer.
    assert_eq!(get(&third, "two-copies").await.unwrap().bytes(), b"again");
    let error = get(&third, "one-copy").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("data/one-copy") && error.to_string().contains("site cloud"), "{error}");

    // Persisted and held by a dead site: the persistency tier has it.
    let cloud = here.node("cloud").await;
    put(&cloud, "persisted", b"safe").await;
    cloud.spill(&bucket("data"), "persisted").await.unwrap();
    get(&cloud, "persisted").await.unwrap();
    cloud.stop().await;
    assert_eq!(get(&third, "persisted").await.unwrap().bytes(), b"safe");

    // A node without that tier says so.
    here.persist = None;
    let poor = here.node("poor").await;
    here.namenode.set_site_address(&site("third"), "").await.unwrap();
    let error = get(&poor, "persisted").await.unwrap_err().to_string();
    assert!(error.contains("address is not known") && error.contains("persistency tier that this site doesn't have"), "{error}");
}

#[tokio::test]
async fn damage_is_found_and_another_copy_is_used() {
    let here = Installation::new().await;
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    let data = content(2, 50_000);
    put(&edge, "two", &data).await;
    get(&cloud, "two").await.unwrap();
    put(&cloud, "one", &data).await;
    cloud.stop().await;
    for entry in std::fs::read_dir(here.folder("cloud").join("segments")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        // Both objects, which lie one behind the other.
        bytes[40_000] ^= 1;
        bytes[90_000] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let cloud = here.node("cloud").await;
    assert_eq!(get(&cloud, "two").await.unwrap().bytes(), data);
    let error = get(&cloud, "one").await.unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss);
    assert!(error.to_string().contains("data/one") && error.to_string().contains("checksum"), "{error}");
    let blocking = cloud.blocking();
    let from_thread = tokio::task::spawn_blocking(move || blocking.open(&bucket("data"), &key("one")));
    assert_eq!(from_thread.await.unwrap().unwrap_err().kind(), Kind::DataLoss);
    // A peer is not given it either.
    assert_eq!(get(&edge, "one").await.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn the_only_copy_is_never_freed() {
    let here = Installation::new().await;
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    let meta = put(&edge, "k", b"content").await;
    let mut client = PeerClient::dial(&here.hub(), &site("edge"), &edge.address).await.unwrap();
    let refused = client.free(meta.id).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::FailedPrecondition);
    assert!(refused.to_string().contains("only copy"), "{refused}");
    assert_eq!(edge.used_bytes(), 7);
    // With a second copy it may go.
    get(&cloud, "k").await.unwrap();
    assert_eq!(client.free(meta.id).await.unwrap(), 7);
    assert_eq!(edge.used_bytes(), 0);
    assert_eq!(get(&edge, "k").await.unwrap().bytes(), b"content");
}

#[tokio::test]
async fn the_limit_is_hard() {
    let mut here = Installation::new().await.with_folder_persist();
    here.limit = 1000;
    let edge = here.node("edge").await;
    put(&edge, "a", &[1; 600]).await;
    let mut writer = create(&edge, "b").await;
    writer.write_at(0, &[2; 400]).unwrap();
    let error = writer.write_at(400, &[2; 1]).unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted);
    let text = error.to_string();
    assert!(["data/b", "8 bytes wanted", "1000 of 1000", "spill", "`limit`"].iter().all(|part| text.contains(part)), "{text}");
    assert!(writer.set_len(401).is_err());
    assert_eq!(writer.len(), 400);
    // The same bytes again take no more space, and a smaller object gives some back.
    writer.write_at(0, &[3; 400]).unwrap();
    writer.set_len(100).unwrap();
    assert_eq!(edge.used_bytes(), 700);
    writer.set_len(400).unwrap();
    // Room is made by a spill, and the writer goes on.
    edge.spill(&bucket("data"), "a").await.unwrap();
    writer.write_at(400, &[3; 600]).unwrap();
    writer.seal().await.unwrap();
    assert_eq!(edge.used_bytes(), 1000);
    // A fetch needs room too.
    assert_eq!(get(&edge, "a").await.unwrap_err().kind(), Kind::ResourceExhausted);
    // Offsets that overflow are refused, not wrapped.
    let mut writer = create(&edge, "c").await;
    assert_eq!(writer.write_at(u64::MAX, b"x").unwrap_err().kind(), Kind::InvalidArgument);
    // Many at once don't pass it. Each takes a multiple of 8 bytes.
    edge.delete(&bucket("data"), &key("b")).await.unwrap();
    let node = edge.node.clone();
    let writes = futures::future::join_all((0..30).map(|n| {
        let node = node.clone();
        async move { node.put(&bucket("data"), &key(&format!("many/{n}")), vec![0; 90].into()).await.is_ok() }
    }));
    assert_eq!(writes.await.into_iter().filter(|done| *done).count(), 10);
    assert_eq!((edge.used_bytes(), edge.disk().charged), (900, 960));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_threads_have_the_same_calls() {
    let here = Installation::new().await.with_folder_persist();
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    put(&cloud, "far", b"far away").await;
    let blocking = edge.blocking();
    let thread = std::thread::spawn(move || {
        let (b, k) = (bucket("out"), key("dir/result"));
        assert!(blocking.create_bucket(&b).unwrap());
        let mut writer = blocking.create(&b, &k).unwrap();
        writer.write_at(0, b"result").unwrap();
        assert_eq!(blocking.open(&b, &k).unwrap_err().kind(), Kind::NotFound);
        let meta = blocking.seal(writer).unwrap();
        let object = blocking.open(&b, &k).unwrap();
        assert_eq!((object.bytes(), object.meta()), (&b"result"[..], &meta));
        assert_eq!(blocking.open(&bucket("data"), &key("far")).unwrap().bytes(), b"far away");
        assert_eq!(blocking.stat(&b, &k).unwrap().size, 6);
        let folders = blocking.list(&b, "", Some('/'), Page::default()).unwrap().prefixes;
        assert_eq!(folders, ["dir/"]);
        assert_eq!(blocking.rename(&b, &k, &key("moved")).unwrap().epoch, meta.epoch);
        assert_eq!(blocking.create_new(&b, &key("moved")).unwrap().seal_blocking().unwrap_err().kind(), Kind::AlreadyExists);
        assert_eq!(blocking.spill(&b, "").unwrap(), (1, 6));
        assert_eq!(blocking.open(&b, &key("moved")).unwrap().bytes(), b"result");
        blocking.delete(&b, &key("moved")).unwrap();
        assert_eq!(blocking.buckets().unwrap(), [bucket("data"), b.clone()]);
        // The mapping outlives the object and needs nobody.
        object
    });
    let object = tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
    assert_eq!(object.bytes(), b"result");
}

#[tokio::test]
async fn the_hub_uploads_and_downloads() {
    let here = Installation::new().await.with_folder_persist();
    let edge = here.node("edge").await;
    let (b, k) = (bucket("data"), key("up/loaded"));
    let mut client = PeerClient::dial(&here.hub(), &site("edge"), &edge.address).await.unwrap();
    let data = content(9, 1_234_567);
    let chunks = |data: &[u8]| {
        let chunks: Vec<Result<Bytes, String>> = data.chunks(100_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        futures::stream::iter(chunks)
    };
    let meta = client.put(&b, &k, Some(data.len() as u64), false, chunks(&data)).await.unwrap();
    assert_eq!((meta.size, meta.sites[0].site.as_str()), (data.len() as u64, "edge"));

    // Several requests on one connection.
    assert_eq!(client.stat(&b, &k).await.unwrap(), meta);
    let (_, mut download) = client.get(&b, &k, Range { offset: 1_000_000, len: 300_000 }).await.unwrap();
    assert_eq!(download.remaining(), 234_567);
    let mut got = Vec::new();
    while let Some(chunk) = download.chunk().await.unwrap() {
        got.extend_from_slice(&chunk);
    }
    assert_eq!(got, data[1_000_000..]);
    assert_eq!(client.put(&b, &k, None, true, chunks(b"x")).await.unwrap_err().kind(), Kind::AlreadyExists);
    let past = client.get(&b, &k, Range { offset: 1_234_568, len: 1 }).await.err().unwrap();
    assert_eq!(past.kind(), Kind::InvalidArgument);
    assert!(past.to_string().contains("data/up/loaded has 1234567 bytes; 1234568 is past"), "{past}");
    // What is too long for a header is refused before anything goes, and the connection is as it was.
    let much = geds::Attributes { metadata: vec![1; 100 << 10], ..geds::Attributes::default() };
    let refused = client.put_with(&b, &key("much"), None, false, much, chunks(b"x")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::InvalidArgument, "{refused}");
    assert_eq!(client.stat(&b, &k).await.unwrap(), meta);
    assert_eq!(client.get(&b, &key("no"), Range::default()).await.err().unwrap().kind(), Kind::NotFound);

    // An upload that breaks off, one that is too large (told before and not told), leave nothing.
    let used = edge.used_bytes();
    let broken = futures::stream::iter([Ok(Bytes::from_static(b"half")), Err("the browser is gone".to_string())]);
    let error = client.put(&b, &key("broken"), None, false, broken).await.unwrap_err();
    assert!(error.to_string().contains("the browser is gone"), "{error}");
    let told = client.put(&b, &key("huge"), Some(1 << 40), false, chunks(b"x")).await.unwrap_err();
    assert_eq!(told.kind(), Kind::ResourceExhausted);
    let endless = futures::stream::repeat_with(|| Ok::<_, String>(Bytes::from(vec![7; 1 << 20]))).take(80);
    assert_eq!(client.put(&b, &key("huge"), None, false, endless).await.unwrap_err().kind(), Kind::ResourceExhausted);
    until("the attempts are gone", || edge.used_bytes() == used && files(&here.folder("edge")).0 == 0).await;

    assert_eq!(client.spill(&b, "up").await.unwrap(), (1, data.len() as u64));
    // A site that doesn't have it fetches it for who asks.
    let (meta, len, stream) = client.get_stream(&b, &k, Range::default()).await.unwrap();
    assert_eq!((len, meta.persisted.is_some()), (data.len() as u64, true));
    let got: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(got.concat(), data);
    let mut client = PeerClient::dial(&here.dialer(USER), &site("edge"), &edge.address).await.unwrap();
    client.remove(&b, &k).await.unwrap();
    assert_eq!(client.stat(&b, &k).await.unwrap_err().kind(), Kind::NotFound);

    // Half a download makes the connection unusable, and it says so.
    put(&edge, "big", &data).await;
    let (_, mut download) = client.get(&b, &key("big"), Range::default()).await.unwrap();
    download.chunk().await.unwrap();
    assert_eq!(client.stat(&b, &key("big")).await.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn sites_read_but_do_not_write() {
    let here = Installation::new().await.with_folder_persist();
    let edge = here.node("edge").await;
    put(&edge, "k", b"content").await;
    let dialer = here.dialer("cloud.site.cloudskin");
    let mut client = PeerClient::dial(&dialer, &site("edge"), &edge.address).await.unwrap();
    let (b, k) = (bucket("data"), key("k"));
    let nothing = || futures::stream::empty::<Result<Bytes, String>>();
    for denied in [
        client.put(&b, &k, None, false, nothing()).await.map(|_| ()),
        client.remove(&b, &k).await.map(|_| ()),
        client.spill(&b, "").await.map(|_| ()),
    ] {
        assert_eq!(denied.unwrap_err().kind(), Kind::PermissionDenied);
    }
    assert_eq!(client.stat(&b, &k).await.unwrap().size, 7);
    let (_, mut download) = client.get(&b, &k, Range::default()).await.unwrap();
    assert_eq!(download.chunk().await.unwrap().unwrap(), &b"content"[..]);

    // Who is neither a site nor the hub gets nothing.
    let stranger = here.dialer("stranger.cloudskin");
    let mut client = PeerClient::dial(&stranger, &site("edge"), &edge.address).await.unwrap();
    assert_eq!(client.stat(&b, &k).await.unwrap_err().kind(), Kind::PermissionDenied);
    // And a site is who it says.
    assert!(PeerClient::dial(&dialer, &site("cloud"), &edge.address).await.is_err());
}

#[tokio::test]
async fn a_site_keeps_a_copy_when_asked() {
    let here = Installation::new().await;
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    let (b, k, data) = (bucket("data"), key("job-1/1/rank-0"), content(3, 700_001));
    put(&edge, k.as_str(), &data).await;
    // The site that wrote it may ask; twice is the same.
    let mut client = PeerClient::dial(&here.dialer("edge.site.cloudskin"), &site("cloud"), &cloud.address).await.unwrap();
    for _ in 0..2 {
        let meta = client.keep(&b, &k).await.unwrap();
        assert_eq!(meta.sites.iter().map(|h| h.site.as_str()).collect::<Vec<_>>(), ["cloud", "edge"]);
    }
    assert_eq!(cloud.used_bytes(), data.len() as u64);
    edge.stop().await;
    assert_eq!(get(&cloud, k.as_str()).await.unwrap().bytes(), data, "it outlives the site that wrote it");
    assert_eq!(client.keep(&b, &key("no")).await.unwrap_err().kind(), Kind::NotFound);
    let mut stranger = PeerClient::dial(&here.dialer("stranger.cloudskin"), &site("cloud"), &cloud.address).await.unwrap();
    assert_eq!(stranger.keep(&b, &k).await.unwrap_err().kind(), Kind::PermissionDenied);
}

#[tokio::test]
async fn defect_19_nonsense_on_the_wire_is_refused() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    // What a peer sends, and what the refusal speaks of.
    let check = async |sent: &[u8], wanted: &str| {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(sent).await.unwrap();
        let served = edge.serve_peer(server, HUB).await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(served.unwrap_err().kind(), Kind::InvalidArgument, "{wanted}");
        assert!(String::from_utf8_lossy(&answer).contains(wanted), "{:?}", String::from_utf8_lossy(&answer));
    };
    let frame = |length: u32, sort: u8, body: &[u8]| [&length.to_le_bytes()[..], &[sort], body].concat();
    check(&frame(u32::MAX, 0, b""), "a frame of 4294967295 bytes").await;
    check(&frame(u32::MAX, 1, b""), "a frame of 4294967295 bytes").await;
    check(&frame((16 << 20) + 1, 1, b""), "16777216 are allowed").await;
    check(&frame((64 << 10) + 1, 0, b""), "65536 are allowed").await;
    check(&frame(0, 0, b""), "a frame of 0 bytes").await;
    check(&frame(2, 7, b"x"), "unknown sort 7").await;
    check(&frame(2, 1, b"x"), "data where a request should be").await;
    check(&frame(3, 0, &[99, 99]), "can't be read").await;
    // Get of bucket "A": names are checked before anything else.
    check(&frame(4, 0, &[0, 1, b'A']), "can't be read").await;
    // A string that claims 2^60 bytes.
    check(&frame(11, 0, &[0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]), "can't be read").await;
    // Random bytes end it with an error or are an unfinished frame; nothing panics, nothing grows.
    let mut random = rand::random::<u64>();
    println!("seed {random}");
    for _ in 0..200 {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        random = random.wrapping_add(1);
        client.write_all(&content(random, 64)).await.unwrap();
        client.shutdown().await.unwrap();
        drop(client);
        let _ = edge.serve_peer(server, HUB).await;
    }
}

/// Of what is large, a small part is read where it lies, and a node reads parts of what it could never hold; it is followed where it goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_part_of_what_is_large_comes_alone() {
    let mut here = Installation::new().await.with_folder_persist();
    let edge = here.node("edge").await;
    let cloud = here.node("cloud").await;
    let third = here.node("third").await;
    here.limit = 4 << 20;
    let small = here.node("small").await;
    let all = content(1, 13 << 20);
    put(&edge, "large", &all).await;
    let (b, k) = (bucket("data"), key("large"));
    let (offset, len) = (5_000_001, 3_000_000);
    let part = Range { offset, len };
    let wanted = &all[offset as usize..][..len as usize];
    let (meta, bytes) = cloud.read_range(&b, &k, part).await.unwrap();
    assert!(bytes == wanted && meta.size == 13 << 20);
    assert_eq!((cloud.used_bytes(), crate::tiers::metric(&cloud, "cloudskin_geds_bucket_fetched_bytes_total{bucket=\"data\",tier=\"peer\"}")), (0, len));
    // Half of it is worth a copy, and so it is to who comes again and again.
    let half = Range { offset: 1, len: 7 << 20 };
    for n in 0..3 {
        let walk = Range { offset: n << 20, len: 1 << 20 };
        assert!(third.read_range(&b, &k, walk).await.unwrap().1 == all[(n << 20) as usize..][..1 << 20]);
    }
    assert_eq!(third.used_bytes(), 0);
    third.read_range(&b, &k, Range { offset: 3 << 20, len: 1 << 20 }).await.unwrap();
    assert_eq!(third.used_bytes(), 13 << 20);
    assert!(cloud.read_range(&b, &k, half).await.unwrap().1 == all[1..][..7 << 20]);
    assert_eq!(cloud.used_bytes(), 13 << 20);
    // All of it fits never, and half of it is longer than a piece.
    assert_eq!(small.open_object(&b, &k).await.unwrap_err().kind(), Kind::ResourceExhausted);
    assert!(small.read_range(&b, &k, half).await.unwrap().1 == all[1..][..7 << 20]);
    assert_eq!(small.read_range(&b, &k, Range { offset: (13 << 20) + 1, len: 1 }).await.unwrap_err().kind(), Kind::InvalidArgument);
    assert_eq!(small.read_range(&b, &k, Range { offset: 13 << 20, len: 1 }).await.unwrap().1.len(), 0);
    // From the persistency tier, when it lies nowhere else.
    for node in [&edge, &cloud, &third] {
        node.spill(&b, "large").await.unwrap();
    }
    assert!(small.read_range(&b, &k, part).await.unwrap().1 == wanted);
    assert!(cloud.read_range(&b, &k, part).await.unwrap().1 == wanted);
    assert_eq!((small.used_bytes(), cloud.used_bytes()), (0, 0));
}

/// A copy of which the catalog knows another one at a site that is gone is no spare one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_stays_whose_other_holder_is_gone() {
    for gone in [false, true] {
        let mut here = Installation::new().await;
        let edge = here.node("edge").await;
        here.limit = 1 << 20;
        here.tuning.wait = Duration::from_millis(500);
        let catalog = Flaky::new(&here.namenode, 0, 0);
        here.catalog = catalog.clone();
        let cloud = here.node("cloud").await;
        for n in 0..15 {
            put(&edge, &format!("{n}"), &content(n, 50_000)).await;
            get(&cloud, &format!("{n}")).await.unwrap();
        }
        catalog.hides_sites.store(gone, SeqCst);
        let more = cloud.put(&bucket("data"), &key("more"), content(99, 500_000).into()).await;
        match gone {
            false => drop(more.unwrap()),
            true => assert_eq!(more.unwrap_err().kind(), Kind::ResourceExhausted),
        }
        let held = here.namenode.held(&base::SiteId::new("cloud").unwrap(), None).await.unwrap().len();
        assert!(if gone { held == 15 } else { held < 12 }, "{held} copies");
    }
}

/// A namenode whose answers to seals get lost, some before and some after they took effect.
struct Flaky {
    inner: geds::Namenode,
    calls: AtomicU32,
    lost_before: u32,
    lost_after: u32,
    /// Of other calls: so many answers get lost from now on, when the calls have had their effect.
    lost_others: AtomicU32,
    /// Questions for ids, one or many of them.
    finds: AtomicU32,
    /// What a page of what a site holds leaves out: it lay at the cursor when another namenode went on with the paging.
    between_pages: Mutex<Option<ObjectId>>,
    /// Seals of this key get lost on their way, until they arrive all the same.
    held_up: Mutex<Option<Key>>,
    late: Mutex<Vec<NewObject>>,
    /// The second copy that a site takes from the record is answered when the record has it again.
    slow_drops: AtomicU32,
    /// So far its clock goes ahead.
    ahead_ms: AtomicU32,
    /// Nobody is there but who asks.
    hides_sites: AtomicBool,
    /// Calls and their answers until this process kills itself; 0: it does not.
    steps_left: AtomicU32,
}

impl Flaky {
    fn new(inner: &geds::Namenode, lost_before: u32, lost_after: u32) -> Arc<Flaky> {
        Arc::new(Flaky { inner: inner.clone(), calls: AtomicU32::new(0), lost_before, lost_after, lost_others: AtomicU32::new(0), finds: AtomicU32::new(0), between_pages: Mutex::default(), held_up: Mutex::default(), late: Mutex::default(), slow_drops: AtomicU32::new(0), ahead_ms: AtomicU32::new(0), hides_sites: AtomicBool::new(false), steps_left: AtomicU32::new(0) })
    }

    fn other<'a, T: Send + 'a>(&'a self, answer: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            self.step();
            let answer = answer.await;
            self.step();
            let lost_now = self.lost_others.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
            if lost_now { Err(lost()) } else { answer }
        })
    }
}

impl Flaky {
    /// A call is about to be made, or was answered.
    fn step(&self) {
        if self.steps_left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) == Ok(1) {
            // SAFETY: it takes no memory of ours; nothing runs after it, which is what it is for.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
    }
}

fn lost() -> Error {
    Error::Remote { kind: Kind::Unavailable, message: "the line is bad".into() }
}

impl Catalog for Flaky {
    fn seal<'a>(&'a self, bucket: &'a BucketName, key: &'a Key, new: NewObject) -> BoxFuture<'a, Result<Sealed>> {
        Box::pin(async move {
            if self.held_up.lock().unwrap().as_ref() == Some(key) {
                self.late.lock().unwrap().push(new);
                return Err(lost());
            }
            let call = self.calls.fetch_add(1, SeqCst);
            if call < self.lost_before {
                return Err(lost());
            }
            self.step();
            let done = self.inner.seal(bucket, key, new).await;
            self.step();
            if call < self.lost_before + self.lost_after { Err(lost()) } else { done }
        })
    }
    fn announce<'a>(&'a self, site: &'a base::SiteId, address: &'a str) -> BoxFuture<'a, Result<()>> {
        self.inner.announce(site, address)
    }
    fn create_bucket<'a>(&'a self, bucket: &'a BucketName) -> BoxFuture<'a, Result<bool>> {
        self.other(self.inner.create_bucket(bucket))
    }
    fn buckets(&self) -> BoxFuture<'_, Result<Vec<BucketName>>> {
        self.inner.buckets()
    }
    fn lookup<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>> {
        self.other(self.inner.lookup(bucket, key))
    }
    fn find(&self, id: ObjectId) -> BoxFuture<'_, Result<Option<ObjectMeta>>> {
        self.finds.fetch_add(1, SeqCst);
        self.inner.find(id)
    }
    fn sites(&self) -> BoxFuture<'_, Result<Vec<geds::Holder>>> {
        match self.hides_sites.load(SeqCst) {
            true => Box::pin(async { Ok(Vec::new()) }),
            false => self.inner.sites(),
        }
    }
    fn find_all<'a>(&'a self, ids: &'a [ObjectId]) -> BoxFuture<'a, Result<Vec<Option<ObjectMeta>>>> {
        self.finds.fetch_add(1, SeqCst);
        self.inner.find_all(ids)
    }
    fn seal_with<'a>(&'a self, bucket: &'a BucketName, key: &'a Key, new: NewObject, attributes: geds::Attributes) -> BoxFuture<'a, Result<Sealed>> {
        if attributes == geds::Attributes::default() { self.seal(bucket, key, new) } else { self.inner.seal_with(bucket, key, new, attributes) }
    }
    fn touch<'a>(&'a self, bucket: &'a BucketName, key: &'a Key, expires_ms: u64) -> BoxFuture<'a, Result<()>> {
        self.inner.touch(bucket, key, expires_ms)
    }
    fn now_ms(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async { Ok(base::clock::now_ms() + u64::from(self.ahead_ms.load(SeqCst))) })
    }
    fn give_up<'a>(&'a self, ids: &'a [ObjectId]) -> BoxFuture<'a, Result<()>> {
        self.inner.give_up(ids)
    }
    fn held<'a>(&'a self, site: &'a base::SiteId, after: Option<ObjectId>) -> BoxFuture<'a, Result<Vec<ObjectMeta>>> {
        Box::pin(async move {
            let mut page = self.inner.held(site, after).await?;
            page.retain(|meta| Some(meta.id) != *self.between_pages.lock().unwrap());
            Ok(page)
        })
    }
    fn list<'a>(
        &'a self,
        bucket: &'a BucketName,
        prefix: &'a str,
        delimiter: Option<char>,
        page: Page,
    ) -> BoxFuture<'a, Result<Listing>> {
        self.other(self.inner.list(bucket, prefix, delimiter, page))
    }
    fn delete<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>> {
        self.other(self.inner.delete(bucket, key))
    }
    fn rename<'a>(&'a self, bucket: &'a BucketName, from: &'a Key, to: &'a Key) -> BoxFuture<'a, Result<Sealed>> {
        self.other(self.inner.rename(bucket, from, to))
    }
    fn mark_persisted<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a Key,
        epoch: u64,
        location: &'a str,
    ) -> BoxFuture<'a, Result<ObjectMeta>> {
        self.inner.mark_persisted(bucket, key, epoch, location)
    }
    fn add_holder<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a Key,
        epoch: u64,
        site: &'a base::SiteId,
    ) -> BoxFuture<'a, Result<ObjectMeta>> {
        self.inner.add_holder(bucket, key, epoch, site)
    }
    fn drop_holder<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a Key,
        epoch: u64,
        site: &'a base::SiteId,
    ) -> BoxFuture<'a, Result<ObjectMeta>> {
        Box::pin(async move {
            let done = self.inner.drop_holder(bucket, key, epoch, site).await;
            if self.slow_drops.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)) == Ok(1) {
                let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
                while !self.inner.lookup(bucket, key).await?.sites.iter().any(|holder| holder.site == *site) && std::time::Instant::now() < end {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            }
            done
        })
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_seal_is_asked_for_again() {
    let mut here = Installation::new().await.with_folder_persist();
    here.catalog = Flaky::new(&here.namenode, 1, 1);
    let edge = here.node("edge").await;
    let old = put(&edge, "k", b"content").await;
    assert_eq!(here.namenode.lookup(&bucket("data"), &key("k")).await.unwrap(), old);
    edge.stop().await;

    // All answers are lost: the seal fails, but what the catalog knows is there, now and after a restart. What did not arrive there is not, and takes no room, as soon as the catalog answers.
    let flaky = Flaky::new(&here.namenode, 0, 100);
    *flaky.held_up.lock().unwrap() = Some(key("never"));
    here.catalog = flaky.clone();
    here.tuning.policy.mode = geds::Mode::WriteBehind;
    here.tuning.spill.automatic = true;
    let edge = here.node("edge").await;
    let seal = async |name: &str| edge.put(&bucket("data"), &key(name), Bytes::from_static(b"newer")).await.unwrap_err().kind();
    let failed = tokio::join!(seal("k"), seal("never"));
    assert_eq!(failed, (Kind::Unavailable, Kind::Unavailable));
    assert_eq!(get(&edge, "k").await.unwrap().bytes(), b"newer");
    edge.sweep().await.unwrap();
    edge.collect().await.unwrap();
    assert_eq!((count(&edge), edge.used_bytes()), (1, 5), "what nobody can know of any more is freed");
    let late = flaky.late.lock().unwrap().pop().unwrap();
    let error = here.namenode.seal(&bucket("data"), &key("never"), late).await.unwrap_err();
    assert!(error.to_string().contains("data/never comes too late"), "{error}");
    until("what is owed is uploaded", || std::fs::read_dir(here.persist_path().join("objects")).is_ok_and(|all| all.count() == 1)).await;
    edge.stop().await;
    let edge = here.node("edge").await;
    assert_eq!(get(&edge, "k").await.unwrap().bytes(), b"newer");
    assert_eq!(count(&edge), 1, "what it replaced is gone");
}

/// The pages of what a site holds come from two namenodes, or one before and after its restart, which number contents differently: an object is on none of them.
#[tokio::test]
async fn what_lies_between_the_pages_of_two_namenodes_is_not_freed() {
    let mut here = Installation::new().await;
    let flaky = Flaky::new(&here.namenode, 0, 0);
    here.catalog = flaky.clone();
    let edge = here.node("edge").await;
    put(&edge, "kept", b"kept").await;
    let missed = put(&edge, "missed", b"the only copy").await;
    put(&edge, "gone", b"gone").await;
    edge.stop().await;
    here.namenode.delete(&bucket("data"), &key("gone")).await.unwrap();
    *flaky.between_pages.lock().unwrap() = Some(missed.id);
    let edge = here.node("edge").await;
    assert_eq!(get(&edge, "missed").await.unwrap().bytes(), b"the only copy");
    assert_eq!((count(&edge), edge.used_bytes()), (2, 17), "what has no name goes all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_threads_wait_for_a_hub_that_is_away() {
    let mut here = Installation::new().await;
    let flaky = Flaky::new(&here.namenode, 0, 0);
    here.catalog = flaky.clone();
    let edge = here.node("edge").await;
    put(&edge, "k", b"content").await;
    let blocking = edge.blocking();
    let thread = move || {
        let (b, k, new) = (bucket("data"), key("k"), key("new"));
        let away = |answers| flaky.lost_others.store(answers, SeqCst);
        away(2);
        assert_eq!(blocking.open(&b, &k).unwrap().bytes(), b"content");
        away(1);
        assert_eq!(blocking.list(&b, "", None, Page::default()).unwrap().objects.len(), 1);
        away(1);
        blocking.create_bucket(&bucket("more")).unwrap();
        // What is not there is told at once.
        blocking.delete(&b, &k).unwrap();
        assert_eq!(blocking.delete(&b, &k).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(blocking.rename(&b, &k, &new).unwrap_err().kind(), Kind::NotFound);
    };
    tokio::task::spawn_blocking(thread).await.unwrap();
}

/// What has had its effect is not done twice, nor called a failure; what others have put there since stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_threads_change_whose_answer_is_lost_is_done_once() {
    let mut here = Installation::new().await;
    let line = Line::new(&here.namenode);
    here.catalog = Arc::new(line.catalog());
    let (edge, b) = (here.node("edge").await, bucket("data"));
    let old = put(&edge, "k", b"old").await;
    let call = |call: fn(&geds::Blocking) -> Result<ObjectId>| {
        line.lose();
        let blocking = edge.blocking();
        tokio::task::spawn_blocking(move || call(&blocking))
    };
    let other = |name: &'static str, id: u128| {
        let (namenode, new) = (here.namenode.clone(), NewObject { id: ObjectId(id), size: 1, checksum: 1, site: site("elsewhere"), if_absent: false });
        async move { namenode.seal(&bucket("data"), &key(name), new).await.unwrap() }
    };
    let renaming = call(|door| Ok(door.rename(&bucket("data"), &key("k"), &key("new"))?.id));
    line.lost().await;
    other("k", 7).await;
    line.go_on(&here.namenode);
    assert_eq!(renaming.await.unwrap().unwrap(), old.id);
    let deleting = call(|door| Ok(door.delete(&bucket("data"), &key("new"))?.id));
    line.lost().await;
    other("new", 8).await;
    line.go_on(&here.namenode);
    assert_eq!(deleting.await.unwrap().unwrap(), old.id);
    for (name, id) in [("k", 7), ("new", 8)] {
        assert_eq!(here.namenode.lookup(&b, &key(name)).await.unwrap().id.0, id, "{name}");
    }
    assert_eq!(count(&edge), 0, "and what was deleted is freed");
}

#[tokio::test]
async fn a_sweep_frees_what_nobody_told_us_of() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    put(&edge, "kept", b"kept").await;
    put(&edge, "gone", b"gone for good").await;
    here.namenode.delete(&bucket("data"), &key("gone")).await.unwrap();
    assert_eq!(edge.sweep().await.unwrap(), 13);
    assert_eq!(edge.used_bytes(), 4);
}

/// Each error of a call for an object says which one: who reads it in a log has nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_error_names_the_bucket_and_the_key() {
    let mut here = Installation::new().await;
    let gate = gate::Gate::default();
    here.persist = Some(gate.persist());
    let edge = here.node("edge").await;
    let (b, k, none) = (bucket("data"), key("a/b"), key("no/ne"));
    let told = |what: &str, name: &str, kind: Kind, error: Error| {
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(error.to_string().contains(name), "{what}: {error}");
    };
    macro_rules! fails {
        ($what:literal, $name:literal, $kind:ident, $call:expr) => {
            told($what, $name, Kind::$kind, $call.await.map(drop).unwrap_err())
        };
    }
    let growing = edge.appendable(&b, &k).await.unwrap();
    fails!("an append elsewhere than at the end", "data/a/b", FailedPrecondition, growing.append(3, Bytes::from_static(b"x")));
    growing.append(0, Bytes::from_static(b"ten bytes.")).await.unwrap();
    growing.seal().await.unwrap();
    fails!("a write past a seal", "data/a/b", FailedPrecondition, growing.append(10, Bytes::from_static(b"x")));
    fails!("a second seal", "data/a/b", FailedPrecondition, growing.seal());
    fails!("growth under the name of what is sealed", "data/a/b", FailedPrecondition, edge.appendable(&b, &k));
    fails!("a second beginning", "data/a/b", AlreadyExists, edge.appendable_new(&b, &k));
    fails!("a second create", "data/a/b", AlreadyExists, async { edge.create_new(&b, &k).await?.seal().await });
    fails!("a read past the end", "data/a/b", InvalidArgument, edge.read_range(&b, &k, Range { offset: 11, len: 1 }));

    fails!("a missing object", "data/no/ne", NotFound, edge.open_object(&b, &none));
    fails!("a look at one", "data/no/ne", NotFound, edge.stat(&b, &none));
    fails!("its attributes", "data/no/ne", NotFound, edge.attributes(&b, &none));
    fails!("its end", "data/no/ne", NotFound, edge.expire_after(&b, &none, None));
    fails!("its words", "data/no/ne", NotFound, edge.set_metadata(&b, &none, Vec::new()));
    fails!("its deletion", "data/no/ne", NotFound, edge.delete(&b, &none));
    fails!("its new name", "data/no/ne", NotFound, edge.rename(&b, &none, &k));
    fails!("its copy", "data/no/ne", NotFound, edge.copy_object(&b, &none, &b, &k, false));
    fails!("its range", "data/no/ne", NotFound, edge.read_range(&b, &none, Range { offset: 0, len: 1 }));
    fails!("what would be durable", "data/no/ne", NotFound, edge.wait_durable(&b, &none, std::time::Duration::ZERO));
    put(&edge, "taken", b"x").await;
    fails!("a new name that is taken", "data/taken", AlreadyExists, edge.rename_to(&b, &k, &b, &key("taken"), true));
    fails!("a copy to it", "data/taken", AlreadyExists, edge.copy_object(&b, &k, &b, &key("taken"), true));

    let leased = || async {
        let mut writer = edge.create(&b, &key("for/job")).await?;
        writer.lease_to("nobody");
        writer.seal().await
    };
    fails!("a seal for a job without a lease", "data/for/job", FailedPrecondition, leased());
    fails!("a full disk", "data/too/large", ResourceExhausted, edge.put(&b, &key("too/large"), vec![0; 65 << 20].into()));
    here.namenode.set_tenant(&b, "tenant").await.unwrap();
    here.namenode.set_quota("tenant", 2, u64::MAX).await.unwrap();
    fails!("a full quota", "data/third", ResourceExhausted, edge.put(&b, &key("third"), Bytes::from_static(b"x")));
    fails!("a copy over it", "data/third", ResourceExhausted, edge.copy_object(&b, &k, &b, &key("third"), false));

    gate.refuse(true);
    fails!("a store that refuses the keys", "data/a/b", PermissionDenied, edge.spill(&b, "a"));
    fails!("a flush to it", "data/a/b", DeadlineExceeded, edge.flush(&b, "a", std::time::Duration::from_millis(300)));
    gate.refuse(false);

    // Who may not.
    let mut peer = PeerClient::dial(&here.dialer("cloud.site.cloudskin"), &site("edge"), &edge.address).await.unwrap();
    fails!("another site that deletes", "data/a/b", PermissionDenied, peer.remove(&b, &k));
    let cloud = asking(&here.namenode, geds::Caller::Site(site("cloud")));
    let meta = here.namenode.lookup(&b, &k).await.unwrap();
    fails!("a site that speaks for another", "data/a/b", PermissionDenied, cloud.drop_holder(&b, &k, meta.epoch, &site("edge")));
    let new = NewObject { id: ObjectId(1), size: 1, checksum: 1, site: site("edge"), if_absent: false };
    fails!("one that seals for it", "data/a/b", PermissionDenied, cloud.seal(&b, &k, new));
    let stranger = asking(&here.namenode, geds::Caller::Stranger(Some("mallory".into())));
    fails!("a stranger that looks", "data/a/b", PermissionDenied, stranger.lookup(&b, &k));
    fails!("one that deletes", "data/a/b", PermissionDenied, stranger.remove(&b, &k));
    let nobody = asking(&here.namenode, geds::Caller::Stranger(None));
    fails!("one without a name", "data/a/b", Unauthenticated, nobody.lookup(&b, &k));
    // Over the wire as well.
    let far = asking(&here.namenode, geds::Caller::Hub);
    fails!("a missing object, asked from afar", "data/no/ne", NotFound, far.remove(&b, &none));
    fails!("an old epoch", "data/a/b", FailedPrecondition, far.mark_persisted(&b, &k, meta.epoch + 1, "x"));
    fails!("the only copy", "data/a/b", FailedPrecondition, far.drop_holder(&b, &k, meta.epoch, &site("edge")));
}

/// A client of a namenode, over a pipe.
fn asking(namenode: &geds::Namenode, caller: geds::Caller) -> geds::RemoteCatalog {
    let namenode = namenode.clone();
    geds::RemoteCatalog::over(move || {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (namenode, caller) = (namenode.clone(), caller.clone());
        tokio::spawn(async move { namenode.serve(theirs, caller).await });
        async move { Ok(ours) }
    })
}

/// The namenode lets names end, so it is its clock that counts: on a machine whose clock is an hour behind, a minute is a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_by_itself_ends_by_the_namenodes_clock() {
    let mut here = Installation::new().await;
    let flaky = Flaky::new(&here.namenode, 0, 0);
    here.catalog = flaky.clone();
    let edge = here.node("edge").await;
    let (b, minute) = (bucket("data"), std::time::Duration::from_secs(60));
    const HOUR_MS: u64 = 3_600_000;
    flaky.ahead_ms.store(HOUR_MS as u32, SeqCst);
    let before = base::clock::now_ms();
    let mut writer = create(&edge, "sealed").await;
    writer.expire_after(minute);
    writer.seal().await.unwrap();
    put(&edge, "touched", b"x").await;
    edge.expire_after(&b, &key("touched"), Some(minute)).await.unwrap();
    // From another process of the same machine.
    let socket = here.folder("socket");
    let sharing = tokio::spawn({
        let (node, socket) = (edge.node.clone(), socket.clone());
        async move { node.share(&socket).await }
    });
    until("it listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    let attached = tokio::task::spawn_blocking(move || {
        let attached = geds::Attached::open(&socket).unwrap();
        let mut writer = attached.create(&bucket("data"), &key("attached")).unwrap();
        writer.expire_after(minute);
        writer.seal().unwrap();
    });
    attached.await.unwrap();
    for name in ["sealed", "touched", "attached"] {
        let ends = here.namenode.attributes(&b, &key(name)).await.unwrap().expires_ms;
        let right = before + HOUR_MS + 59_000..=base::clock::now_ms() + HOUR_MS + 60_000;
        assert!(right.contains(&ends), "{name} ends at {ends} and not in {right:?}");
    }
    sharing.abort();
}

/// Two readers find the same damaged copy at the same time. What the first one has fetched in its place is not freed by the second, since the catalog counts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_replaced_is_not_freed_for_the_one_before() {
    let mut here = Installation::new().await;
    let flaky = Flaky::new(&here.namenode, 0, 0);
    here.catalog = flaky.clone();
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    let data = content(5, 3 << 20);
    put(&cloud, "k", &data).await;
    get(&edge, "k").await.unwrap();
    edge.stop().await;
    damage(&here.folder("edge"), &data);
    let edge = here.node("edge").await;
    flaky.slow_drops.store(2, SeqCst);
    let both = tokio::join!(get(&edge, "k"), get(&edge, "k"));
    assert!(both.0.unwrap().bytes() == data && both.1.unwrap().bytes() == data);
    let counted = here.namenode.lookup(&bucket("data"), &key("k")).await.unwrap().sites.len();
    assert_eq!((counted, count(&edge)), (2, 1), "what is counted is here");
    let text = cloud.metrics();
    let served = text.lines().find_map(|line| line.strip_prefix("cloudskin_geds_served_bytes_total ")).unwrap();
    assert_eq!(served, (2 * data.len()).to_string(), "it was fetched once more, and not twice");
}

/// Who stops waiting leaves nothing behind that nobody may free, nor an object that can neither grow nor be sealed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_waiting_leaves_nothing_behind() {
    let here = Installation::new().await;
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    for n in 0..40u64 {
        put(&cloud, &format!("{n}"), &content(n, 300_000)).await;
        // At each point of a fetch, of which a good part is the disk's.
        let _ = tokio::time::timeout(std::time::Duration::from_micros(n * 250), get(&edge, &format!("{n}"))).await; // either will do
    }
    here.namenode.remove_prefix(&bucket("data"), "").await.unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while edge.used_bytes() > 0 {
        assert!(std::time::Instant::now() < end, "{} bytes of {} objects stay", edge.used_bytes(), count(&edge));
        edge.collect().await.unwrap();
        edge.sweep().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }

    let growing = edge.appendable(&bucket("data"), &key("log")).await.unwrap();
    growing.append(0, content(7, 1 << 20).into()).await.unwrap();
    assert!(tokio::time::timeout(std::time::Duration::ZERO, growing.seal()).await.is_err(), "it takes a while");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while get(&edge, "log").await.is_err() {
        assert!(std::time::Instant::now() < end, "it is sealed to its end");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Counts what is synced of files below a folder: these two stand before the library's own.
mod syncs {
    use std::{
        path::{Path, PathBuf},
        sync::Mutex,
    };

    static SEEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    fn note(fd: i32) {
        if let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{fd}")) {
            SEEN.lock().unwrap_or_else(|e| e.into_inner()).push(path);
        }
    }

    pub fn below(folder: &Path) -> usize {
        SEEN.lock().unwrap_or_else(|e| e.into_inner()).iter().filter(|path| path.starts_with(folder)).count()
    }

    #[unsafe(no_mangle)]
    extern "C" fn fdatasync(fd: i32) -> i32 {
        note(fd);
        // SAFETY: the call takes a number only.
        unsafe { libc::syscall(libc::SYS_fdatasync, fd) as i32 }
    }

    #[unsafe(no_mangle)]
    extern "C" fn fsync(fd: i32) -> i32 {
        note(fd);
        // SAFETY: the call takes a number only.
        unsafe { libc::syscall(libc::SYS_fsync, fd) as i32 }
    }
}

/// Who serves a peer syncs nothing for it; who fetches syncs its copy once, before the catalog counts on it, and nothing for reading it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_17_a_read_from_another_node_syncs_no_file() {
    let here = Installation::new().await;
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    for (n, len) in [10, 100_000, 3 << 20].into_iter().enumerate() {
        put(&edge, &format!("{n}"), &content(n as u64, len)).await;
    }
    let count = |name: &str| syncs::below(&std::fs::canonicalize(here.folder(name)).unwrap());
    assert!(count("edge") > 0, "they are counted");
    // What it has seen is written down within seconds of a seal, and has nothing to do with reads.
    until("it is at rest", || std::fs::read_to_string(here.folder("edge").join("epoch")).is_ok_and(|text| text.trim() == "3")).await;
    let before = count("edge");
    for n in 0..3 {
        get(&cloud, &format!("{n}")).await.unwrap();
    }
    let mut client = PeerClient::dial(&here.hub(), &site("edge"), &edge.address).await.unwrap();
    for n in 0..3 {
        let (_, mut download) = client.get(&bucket("data"), &key(&format!("{n}")), Range::default()).await.unwrap();
        while download.chunk().await.unwrap().is_some() {}
    }
    assert_eq!(count("edge"), before);
    let fetched = count("cloud");
    for n in 0..3 {
        get(&cloud, &format!("{n}")).await.unwrap();
    }
    assert_eq!(count("cloud"), fetched);
}

/// A reader at a third site, and one with a copy of its own, while the object goes from tier to tier and from site to site under them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_follows_what_is_spilled_and_moved_under_it() {
    let here = Installation::new().await.with_folder_persist();
    let (a, b, reader) = (here.node("a").await, here.node("b").await, here.node("reader").await);
    // The last one comes in ranges.
    let contents: Arc<[Vec<u8>]> = [100, 200_000, 5 << 20].map(|len| content(len as u64, len)).into();
    for (n, content) in contents.iter().enumerate() {
        put(&a, &format!("{n}"), content).await;
    }
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut readers = tokio::task::JoinSet::new();
    for (node, forgets) in [(&a, false), (&reader, true), (&reader, false)] {
        let (node, over, hub, address, contents) = (node.node.clone(), over.clone(), here.hub(), node.address.clone(), contents.clone());
        readers.spawn(async move {
            let mut reads = 0;
            while !over.load(SeqCst) {
                for (n, content) in contents.iter().enumerate() {
                    let object = get(&node, &format!("{n}")).await.unwrap_or_else(|e| panic!("read {reads}: {e}"));
                    assert!(object.bytes() == *content, "read {reads} of {n}");
                    reads += 1;
                    // A warm open waits for nothing, and the others want their turn.
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    if forgets {
                        let id = object.meta().id;
                        drop(object);
                        free(&hub, "reader", &address, id).await;
                    }
                }
            }
            reads
        });
    }
    for round in 0..25 {
        for n in 0..contents.len() {
            let name = format!("{n}");
            match round % 3 {
                // To the persistency tier, from each.
                0 => {
                    a.spill(&bucket("data"), &name).await.unwrap();
                    b.spill(&bucket("data"), &name).await.unwrap();
                }
                // To one and from the other.
                _ => {
                    let (to, from, whose) = if round % 3 == 1 { (&b, &a, "a") } else { (&a, &b, "b") };
                    let object = get(to, &name).await.unwrap();
                    free(&here.hub(), whose, &from.address, object.meta().id).await;
                }
            }
        }
    }
    over.store(true, SeqCst);
    let reads: Vec<u32> = readers.join_all().await;
    println!("{reads:?} reads");
    assert!(reads.iter().all(|reads| *reads > 10), "{reads:?}");
}

/// Lets a node free its copy, as one that has taken it over would. It refuses if it has the only one by now.
async fn free(hub: &base::identity::Dialer, name: &str, address: &str, id: ObjectId) {
    let mut client = PeerClient::dial(hub, &site(name), address).await.unwrap();
    let _ = client.free(id).await;
}

/// What is asked of the namenode for many objects is asked in few questions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_18_a_sweep_and_a_start_ask_for_a_thousand_at_a_time() {
    let mut here = Installation::new().await;
    let flaky = Flaky::new(&here.namenode, 0, 0);
    here.catalog = flaky.clone();
    let edge = here.node("edge").await;
    let node = edge.node.clone();
    let puts = futures::stream::iter(0..2500).map(|n| {
        let node = node.clone();
        async move { drop(put(&node, &format!("{n}"), b"x").await) }
    });
    puts.buffer_unordered(100).collect::<()>().await;
    drop(node);
    let before = flaky.finds.load(SeqCst);
    assert_eq!(edge.sweep().await.unwrap(), 0);
    assert_eq!(flaky.finds.load(SeqCst) - before, 3);
    for n in 0..1200 {
        here.namenode.delete(&bucket("data"), &key(&format!("{n}"))).await.unwrap();
    }
    assert_eq!(edge.sweep().await.unwrap(), 1200);
    for n in 1200..2400 {
        here.namenode.delete(&bucket("data"), &key(&format!("{n}"))).await.unwrap();
    }
    edge.stop().await;
    let before = flaky.finds.load(SeqCst);
    let edge = here.node("edge").await;
    assert_eq!(flaky.finds.load(SeqCst) - before, 2, "only what no page has named");
    assert_eq!(count(&edge), 100);
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The hub's folder is lost and restored from a backup: what was sealed since is on no list, and still somebody's only copy.
#[tokio::test]
async fn a_catalog_from_a_backup_frees_nothing() {
    let mut here = Installation::new().await;
    let edge = here.node("edge").await;
    put(&edge, "before", b"before").await;
    let (names, backup) = (here.temp.path().join("names"), here.temp.path().join("backup"));
    here.lend_namenode().await;
    copy_folder(&names, &backup);
    edge.stop().await;
    here.take_namenode_back().await;
    let edge = here.node("edge").await;
    let since = put(&edge, "since", b"sealed since").await;
    until("it is written down", || std::fs::read_to_string(here.folder("edge").join("epoch")).is_ok_and(|text| text.trim() == since.epoch.to_string())).await;
    edge.stop().await;
    here.lend_namenode().await;
    std::fs::remove_dir_all(&names).unwrap();
    copy_folder(&backup, &names);
    here.take_namenode_back().await;
    let edge = here.node("edge").await;
    assert_eq!((count(&edge), edge.used_bytes()), (2, 18), "the start frees nothing");
    // It goes on, past the epoch of what it lacks.
    for n in 0..3 {
        put(&edge, &format!("after/{n}"), b"").await;
    }
    assert_eq!(edge.sweep().await.unwrap(), 0);
    edge.stop().await;
    let edge = here.node("edge").await;
    assert_eq!(edge.used_bytes(), 18);
    edge.stop().await;
    // Somebody says that it may go.
    std::fs::remove_file(here.folder("edge").join("epoch")).unwrap();
    let edge = here.node("edge").await;
    assert_eq!(edge.used_bytes(), 6);
}

#[tokio::test]
async fn a_connection_to_a_peer_is_used_again_and_made_anew_when_it_is_dead() {
    let here = Installation::new().await;
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    for n in 0..20 {
        put(&edge, &format!("{n}"), &content(n, 3000)).await;
    }
    for n in 0..10 {
        assert_eq!(get(&cloud, &format!("{n}")).await.unwrap().bytes(), content(n, 3000));
    }
    assert_eq!(edge.met.load(std::sync::atomic::Ordering::SeqCst), 1, "one connection for ten objects");
    // The edge starts again, at another address.
    edge.stop().await;
    let edge = here.node("edge").await;
    for n in 10..15 {
        assert_eq!(get(&cloud, &format!("{n}")).await.unwrap().bytes(), content(n, 3000));
    }
    assert_eq!(edge.met.load(std::sync::atomic::Ordering::SeqCst), 1);
    edge.hang_up().await;
    for n in 15..20 {
        assert_eq!(get(&cloud, &format!("{n}")).await.unwrap().bytes(), content(n, 3000));
    }
    assert_eq!(edge.met.load(std::sync::atomic::Ordering::SeqCst), 2, "the dead one was noticed, and one made anew");
}

/// Not a test: the process that `acknowledged_seals_survive_a_kill` kills.
#[test]
#[ignore = "started by acknowledged_seals_survive_a_kill"]
fn child_that_seals() {
    let Ok(folder) = std::env::var("GEDS_TEST_FOLDER") else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let folder = std::path::PathBuf::from(folder);
        let catalog = Flaky::new(&namenode(&folder).await, 0, 0);
        catalog.create_bucket(&bucket("data")).await.unwrap();
        let steps = std::env::var("GEDS_TEST_STEPS").map_or(0, |steps| steps.parse().unwrap());
        catalog.steps_left.store(steps, SeqCst);
        let authority = base::identity::Authority::open(&folder.join("ca")).unwrap();
        let node = Node::open(geds::Options {
            site: site("edge"),
            folder: folder.join("edge"),
            limit: base::unit::Bytes(1 << 30),
            dialer: authority.issue("edge.site.cloudskin").unwrap().dialer().unwrap(),
            catalog,
            persist: Some(geds::Persist::folder(folder.join("persist")).unwrap()),
            address: String::new(),
        })
        .await
        .unwrap();
        for n in 0.. {
            // Every third overwrites, so that a kill also falls between the new epoch and the end of the old.
            let name = if n % 3 == 2 { "same".to_string() } else { format!("k/{n}") };
            let meta = put(&node, &name, &content(n, 10_000)).await;
            println!("acknowledged {n} {} {name}", meta.epoch);
            // And between upload, record and free, and in the middle of a delete.
            if n % 4 == 3 {
                node.spill(&bucket("data"), &name).await.unwrap();
            }
            if n % 7 == 6 {
                let gone = format!("k/{}", n - n % 3 - 3);
                println!("deleting 0 0 {gone}");
                node.delete(&bucket("data"), &key(&gone)).await.unwrap();
                println!("deleted 0 0 {gone}");
            }
        }
    });
}

/// Half of the kills come at a random time. The others aim: right before or right after a call of the node to its catalog, so that they fall between an upload and its record, between the record
/// and the copy's end, and in the middle of a delete as often as anywhere.
///
/// `GEDS_KILLS` says how many, `GEDS_SEED` when. `make kills` asks for a thousand.
#[tokio::test]
async fn acknowledged_seals_survive_a_kill() {
    use rand::{Rng, SeedableRng};
    use std::io::BufRead;
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (kills, seed) = (number("GEDS_KILLS").unwrap_or(6), number("GEDS_SEED").unwrap_or_else(rand::random));
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    for kill in 0..kills {
        let aims = kill % 2 == 1;
        let mut here = Installation::new().await.with_folder_persist();
        here.lend_namenode().await;
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "node::child_that_seals", "--ignored", "--nocapture", "--test-threads=1"])
            .env("GEDS_TEST_FOLDER", here.temp.path())
            .env("GEDS_TEST_STEPS", if aims { random.random_range(40..160) } else { 0 }.to_string())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = std::collections::HashMap::new();
        let (mut deleting, mut deleted) = (std::collections::HashSet::new(), std::collections::HashSet::new());
        let mut keep = |line: String| {
            let words: Vec<&str> = line.split(' ').collect();
            // The harness may print its own words before ours.
            let Some([what, n, epoch, name]) = words.last_chunk::<4>() else { return };
            match (*what, n.parse::<u64>(), epoch.parse::<u64>()) {
                (what, Ok(n), Ok(epoch)) if what.ends_with("acknowledged") => {
                    acknowledged.insert(name.to_string(), (n, epoch));
                }
                ("deleting", ..) => drop(deleting.insert(name.to_string())),
                ("deleted", ..) => drop(deleted.insert(name.to_string())),
                _ => {}
            }
        };
        if !aims {
            for _ in 0..random.random_range(8..60) {
                keep(lines.next().unwrap().unwrap());
            }
            std::thread::sleep(std::time::Duration::from_micros(random.random_range(0..4000)));
            child.kill().unwrap();
        }
        let ended = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(libc::SIGKILL), "kill {kill} of seed {seed}");
        for line in lines.map_while(std::io::Result::ok) {
            keep(line);
        }
        let place = format!("kill {kill} of seed {seed}");
        assert!(acknowledged.len() > 3, "{place}");
        here.take_namenode_back().await;
        let edge = here.node("edge").await;
        let mut size = 0;
        for (name, (n, epoch)) in &acknowledged {
            let object = match get(&edge, name).await {
                Ok(object) => object,
                Err(e) if e.kind() == Kind::NotFound && deleting.contains(name) => continue,
                Err(e) => panic!("{place}: {name}: {e}"),
            };
            assert!(!deleted.contains(name), "{place}: {name} is back");
            assert!(object.meta().epoch >= *epoch, "{place}: {name}");
            if object.meta().epoch == *epoch {
                assert!(object.bytes() == content(*n, 10_000), "{place}: {name}");
            }
            size += object.len();
        }
        // At most the one whose answer was on its way is there besides.
        assert!(edge.used_bytes() <= size + 10_000, "{place}: {} {size}", edge.used_bytes());
        assert_eq!(files(&here.folder("edge")).0, 0, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_object_comes_in_ranges_from_all_that_have_it() {
    const MIB: usize = 1 << 20;
    let mut here = Installation::new().await;
    here.limit = 256 << 20;
    let data = content(11, 37 * MIB + 5);
    let (a, b, c) = (here.node("a").await, here.node("b").await, here.node("c").await);
    put(&a, "k", &data).await;
    assert!(get(&b, "k").await.unwrap().bytes() == data);
    let served = |node: &geds::Node| {
        let text = node.metrics();
        text.lines().find_map(|line| line.strip_prefix("cloudskin_geds_served_bytes_total ")).unwrap().parse::<u64>().unwrap()
    };
    let before = served(&a);
    assert_eq!(before, data.len() as u64);
    assert!(get(&c, "k").await.unwrap().bytes() == data);
    let from = (served(&a) - before, served(&b));
    assert!(from.0 >= 16 << 20 && from.1 >= 16 << 20 && from.0 + from.1 == data.len() as u64, "{from:?}");

    // One that is gone costs nothing but its share, which the other gives. (One that hangs: `defect_13…`.)
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    b.stop().await;
    here.namenode.set_site_address(&site("b"), &deaf.local_addr().unwrap().to_string()).await.unwrap();
    drop(deaf);
    let d = here.node("d").await;
    assert!(get(&d, "k").await.unwrap().bytes() == data);
    // One whose copy is damaged is found out, and the others are asked alone.
    let file = std::fs::read_dir(here.folder("a").join("sealed")).unwrap().next().unwrap().unwrap().path();
    a.stop().await;
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[20 * MIB] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let _a = here.node("a").await;
    let e = here.node("e").await;
    assert!(get(&e, "k").await.unwrap().bytes() == data);
}

/// It takes connections and says nothing, as one that is stopped does: the next one that has the object is asked after seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_13_a_peer_that_hangs_is_passed_over() {
    let here = Installation::new().await;
    let (a, b) = (here.node("a").await, here.node("b").await);
    put(&b, "k", b"content").await;
    get(&a, "k").await.unwrap();
    a.stop().await;
    // The site's certificate is good; what has it is not.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    here.namenode.set_site_address(&site("a"), &listener.local_addr().unwrap().to_string()).await.unwrap();
    let acceptor = here.authority.issue("a.site.cloudskin").unwrap().acceptor(&[geds::ALPN]).unwrap();
    let met = Arc::new(AtomicU32::new(0));
    let hangs = tokio::spawn({
        let met = met.clone();
        async move {
            let mut kept = Vec::new();
            while let Ok((tcp, _)) = listener.accept().await {
                kept.push(acceptor.accept(tcp).await);
                met.fetch_add(1, SeqCst);
            }
        }
    });
    let c = here.node("c").await;
    let began = std::time::Instant::now();
    // `a` is asked first, for it comes first in the catalog's answer.
    assert_eq!(get(&c, "k").await.unwrap().bytes(), b"content");
    assert_eq!(met.load(SeqCst), 1);
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    hangs.abort();
}

/// Longer than a header of the peers' protocol may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_of_many_buckets_come_as_a_whole() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    for n in 0..60 {
        let name = bucket(&format!("{}-{n:02}", "a".repeat(60)));
        edge.create_bucket(&name).await.unwrap();
        edge.put(&name, &key("k"), b"content".to_vec().into()).await.unwrap();
    }
    let mut client = PeerClient::dial(&here.hub(), &site("edge"), &edge.address).await.unwrap();
    let text = client.metrics().await.unwrap();
    assert!(text.len() > 100_000 && text == edge.metrics(), "{}", text.len());
    assert!(text.contains("-59\",tier=\"disk\"} 7\n"));
    client.metrics().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grafana_dashboard_asks_for_figures_that_there_are_and_for_all_of_them() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    put(&edge, "k", b"x").await;
    let text = edge.metrics();
    let there: std::collections::BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../deploy/grafana/geds.json");
    let dashboard: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut asked = std::collections::BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let words = target["expr"].as_str().unwrap().split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let mut names = words.filter(|word| word.starts_with("cloudskin_")).map(|name| name.trim_end_matches("_bucket").to_string()).peekable();
            assert!(names.peek().is_some(), "{target}");
            asked.extend(names);
        }
    }
    let asked: std::collections::BTreeSet<&str> = asked.iter().map(String::as_str).collect();
    assert_eq!(asked.difference(&there).collect::<Vec<_>>(), [&""; 0], "nobody measures these");
    // What another figure says better needs no panel.
    let spoken_for = [
        "cloudskin_geds_sealed_bytes_total",
        "cloudskin_geds_spilled_total",
        "cloudskin_geds_uploaded_total",
        "cloudskin_geds_bucket_sealed_total",
        "cloudskin_geds_bucket_uploaded_total",
        "cloudskin_geds_bucket_spilled_total",
    ];
    let missing: Vec<_> = there.difference(&asked).filter(|name| !spoken_for.contains(name)).collect();
    assert_eq!(missing, [&""; 0], "nobody sees these");
}

/// Many who follow what a site has that is away are one question, now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_follow_what_is_away_ask_together_and_seldom() {
    let mut here = Installation::new().await;
    let asked = Flaky::new(&here.namenode, 0, 0);
    here.catalog = asked.clone();
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    let (b, k) = (bucket("data"), key("log"));
    let log = edge.appendable(&b, &k).await.unwrap();
    log.append(0, content(1, 1000).into()).await.unwrap();
    log.sync().await.unwrap();
    let mut followers = Vec::new();
    for _ in 0..20 {
        followers.push(cloud.follow(&b, &k).await.unwrap());
    }
    drop(log);
    edge.stop().await;
    let before = asked.finds.load(SeqCst);
    let waiting = followers.iter().map(|follower| follower.read(0, 10, std::time::Duration::from_secs(4)));
    for answer in futures::future::join_all(waiting).await {
        assert_eq!(answer.unwrap_err().kind(), Kind::Unavailable);
    }
    let looks = asked.finds.load(SeqCst) - before;
    println!("{looks} questions to the catalog for 20 readers in 4 s");
    // Two in a search (its id before the sites are asked and after), and pauses of 0.1 s, 0.2 s and so on, or half of that: at most nine searches in 4 s.
    assert!((2..=24).contains(&looks), "{looks} questions");
    // And none is left behind when it is back.
    let _edge = here.node("edge").await;
    let waiting = followers.iter().map(|follower| follower.read(0, 10, std::time::Duration::from_secs(30)));
    for answer in futures::future::join_all(waiting).await {
        assert!(answer.unwrap().bytes == content(1, 1000)[..10]);
    }
}
