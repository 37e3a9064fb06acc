//! What a user could notice of a bucket that is bound to a place in the persistency tier: what others have put there is read without import.

use crate::common::*;
use base::{Kind, unit::Span};
use geds::{BucketPolicy, Catalog, Node, Page, PeerClient, Range};
use std::{path::PathBuf, time::Duration};

const MIB: usize = 1 << 20;

/// A bucket `scenes` that is bound to `landsat/2024`.
async fn installation(fresh: Option<Duration>) -> Installation {
    let mut here = Installation::new().await.with_folder_persist();
    let policy = BucketPolicy { bind: Some("landsat/2024".into()), fresh: fresh.map(Span), ..BucketPolicy::default() };
    here.tuning.buckets.insert(bucket("scenes"), policy);
    here
}

/// What somebody who knows nothing of this store does.
fn put_there(here: &Installation, name: &str, content: &[u8]) {
    let path: PathBuf = here.persist_path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    // A new file and not a new content of the old one, as an S3 store does it.
    std::fs::write(path.with_extension("new"), content).unwrap();
    std::fs::rename(path.with_extension("new"), path).unwrap();
}

async fn names(node: &Node, prefix: &str, delimiter: Option<char>) -> Vec<String> {
    let listing = node.list(&bucket("scenes"), prefix, delimiter, Page::default()).await.unwrap();
    let mut all: Vec<String> = listing.objects.into_iter().map(|object| object.key.to_string()).chain(listing.prefixes).collect();
    all.sort();
    all
}

async fn open(node: &Node, name: &str) -> geds::Result<geds::Object> {
    node.open_object(&bucket("scenes"), &key(name)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_there_is_found_read_and_listed_without_import() {
    let here = installation(None).await;
    put_there(&here, "landsat/2024/a b/1%.tif", b"one");
    put_there(&here, "landsat/2024/a b/2.tif", &content(1, 3 * MIB));
    put_there(&here, "landsat/2024/empty", b"");
    put_there(&here, "landsat/20245/other", b"not of this place");
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    let scenes = bucket("scenes");

    let meta = edge.stat(&scenes, &key("a b/1%.tif")).await.unwrap();
    assert_eq!((meta.size, meta.persisted.as_deref(), meta.sites.len()), (3, Some("landsat/2024/a b/1%.tif"), 0));
    assert_eq!(open(&edge, "a b/1%.tif").await.unwrap().bytes(), b"one");
    assert!(open(&cloud, "a b/2.tif").await.unwrap().bytes() == content(1, 3 * MIB));
    assert!(open(&edge, "empty").await.unwrap().is_empty());
    assert_eq!(open(&edge, "a b").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(open(&edge, "other").await.unwrap_err().kind(), Kind::NotFound);
    // From threads that compute, as cells are.
    let blocking = edge.blocking();
    let read = tokio::task::spawn_blocking(move || blocking.open(&bucket("scenes"), &key("a b/1%.tif")).unwrap().bytes().to_vec());
    assert_eq!(read.await.unwrap(), b"one");

    assert_eq!(names(&edge, "", None).await, ["a b/1%.tif", "a b/2.tif", "empty"]);
    assert_eq!(names(&edge, "", Some('/')).await, ["a b/", "empty"]);
    assert_eq!(names(&edge, "a b", None).await, ["a b/1%.tif", "a b/2.tif"]);
    assert_eq!(names(&edge, "a", None).await, [""; 0], "a prefix ends at a segment");
    // Another name that the catalog knows nothing of is not made by reading it.
    let known = here.namenode.list(&scenes, "", None, Page::default()).await.unwrap();
    assert!(known.objects.is_empty(), "{known:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_both_have_each_name_once_and_in_order() {
    let here = installation(None).await;
    let edge = here.node("edge").await;
    let mut expected = Vec::new();
    for n in 0..60 {
        let name = format!("{}/{n:02}", n % 7);
        if n % 2 == 0 {
            put_there(&here, &format!("landsat/2024/{name}"), b"theirs");
        }
        if n % 3 == 0 {
            edge.put(&bucket("scenes"), &key(&name), b"own".to_vec().into()).await.unwrap();
        }
        if n % 2 == 0 || n % 3 == 0 {
            expected.push((name, if n % 3 == 0 { 3 } else { 6 }));
        }
    }
    expected.sort();
    for limit in [1, 7, 1000] {
        for delimiter in [None, Some('/')] {
            let (mut found, mut page) = (Vec::new(), Page { limit, ..Page::default() });
            loop {
                let listing = edge.list(&bucket("scenes"), "", delimiter, page).await.unwrap();
                assert!(listing.objects.len() + listing.prefixes.len() <= limit as usize);
                found.extend(listing.objects.into_iter().map(|object| (object.key.to_string(), object.size)));
                found.extend(listing.prefixes.into_iter().map(|folder| (folder, 0)));
                match listing.next {
                    Some(next) => page = Page { start_after: next, limit },
                    None => break,
                }
            }
            match delimiter {
                None => assert_eq!(found, expected, "pages of {limit}"),
                Some(_) => assert_eq!(found, [0, 1, 2, 3, 4, 5, 6].map(|n| (format!("{n}/"), 0)), "pages of {limit}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_go_on_with_what_the_first_one_found() {
    let here = installation(None).await;
    for n in 0..30 {
        put_there(&here, &format!("landsat/2024/k{n:02}"), b"theirs");
    }
    let edge = here.node("edge").await;
    let page = async |after: &str| {
        let listing = edge.list(&bucket("scenes"), "", None, Page { start_after: after.into(), limit: 10 }).await.unwrap();
        (listing.objects.into_iter().map(|object| object.key.to_string()).collect::<Vec<_>>(), listing.next)
    };
    let k = |range: std::ops::Range<u32>| range.map(|n| format!("k{n:02}")).collect::<Vec<_>>();
    assert_eq!(page("").await, (k(0..10), Some("k09".into())));
    // Nobody looks through the store again for the rest: what comes there meanwhile is not in this listing, but in the next.
    put_there(&here, "landsat/2024/k15+", b"late");
    edge.put(&bucket("scenes"), &key("k12"), b"own".to_vec().into()).await.unwrap();
    assert_eq!(page("k09").await, (k(10..20), Some("k19".into())));
    assert_eq!(page("k19").await, (k(20..30), None));
    let mut all = k(0..30);
    all.insert(16, "k15+".into());
    assert_eq!(names(&edge, "", None).await, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_over_there_is_seen_here_and_who_reads_goes_on() {
    let here = installation(None).await;
    let edge = here.node("edge").await;
    put_there(&here, "landsat/2024/k", b"old");
    let old = open(&edge, "k").await.unwrap();
    // Nothing has changed: the copy is used again.
    assert_eq!(open(&edge, "k").await.unwrap().bytes().as_ptr(), old.bytes().as_ptr());
    put_there(&here, "landsat/2024/k", b"new");
    let new = open(&edge, "k").await.unwrap();
    assert_eq!((old.bytes(), new.bytes()), (&b"old"[..], &b"new"[..]));
    assert_ne!((old.meta().id, old.meta().epoch), (new.meta().id, new.meta().epoch));
    std::fs::remove_file(here.persist_path().join("landsat/2024/k")).unwrap();
    assert_eq!(open(&edge, "k").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(new.bytes(), b"new");

    // Its own objects hide what lies there, for everybody and at once, and give it free again.
    put_there(&here, "landsat/2024/k", b"theirs");
    assert_eq!(open(&edge, "k").await.unwrap().bytes(), b"theirs");
    edge.put(&bucket("scenes"), &key("k"), b"ours".to_vec().into()).await.unwrap();
    assert_eq!(open(&edge, "k").await.unwrap().bytes(), b"ours");
    edge.delete(&bucket("scenes"), &key("k")).await.unwrap();
    assert_eq!(open(&edge, "k").await.unwrap().bytes(), b"theirs");
    // What lies there is not this store's to change.
    for refused in [edge.delete(&bucket("scenes"), &key("k")).await, edge.rename(&bucket("scenes"), &key("k"), &key("l")).await] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), Kind::FailedPrecondition);
        assert!(refused.to_string().contains("scenes/k") && refused.to_string().contains("landsat/2024/k"), "{refused}");
    }
    assert_eq!(edge.create_new(&bucket("scenes"), &key("k")).await.err().unwrap().kind(), Kind::AlreadyExists);
    assert_eq!(std::fs::read(here.persist_path().join("landsat/2024/k")).unwrap(), b"theirs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_believed_for_a_while_never_hides_an_own_write() {
    let here = installation(Some(Duration::from_secs(3600))).await;
    let edge = here.node("edge").await;
    put_there(&here, "landsat/2024/k", b"old");
    open(&edge, "k").await.unwrap();
    put_there(&here, "landsat/2024/k", b"new");
    assert_eq!(open(&edge, "k").await.unwrap().bytes(), b"old", "the answer is believed for an hour");
    edge.put(&bucket("scenes"), &key("k"), b"ours".to_vec().into()).await.unwrap();
    assert_eq!(open(&edge, "k").await.unwrap().bytes(), b"ours");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_is_read_without_the_whole_and_copies_go_when_room_is_wanted() {
    let mut here = installation(None).await;
    here.limit = 8 << 20;
    let data = content(7, 6 * MIB);
    put_there(&here, "landsat/2024/large", &data);
    put_there(&here, "landsat/2024/huge", &content(8, 20 * MIB));
    let edge = here.node("edge").await;
    let scenes = bucket("scenes");
    let (meta, part) = edge.read_range(&scenes, &key("huge"), Range { offset: 19 << 20, len: 2 << 20 }).await.unwrap();
    assert!(part == content(8, 20 * MIB)[19 * MIB..] && meta.size == 20 << 20);
    assert_eq!((edge.used_bytes(), count(&edge)), (0, 0), "a part leaves no copy");
    let past = edge.read_range(&scenes, &key("huge"), Range { offset: 21 << 20, len: 1 }).await.unwrap_err();
    assert_eq!(past.kind(), Kind::InvalidArgument);
    let refused = open(&edge, "huge").await.unwrap_err();
    assert_eq!(refused.kind(), Kind::ResourceExhausted, "{refused}");

    // A peer asks for a part, too: the hub, for instance.
    let mut client = PeerClient::dial(&here.hub(), &site("edge"), &edge.address).await.unwrap();
    let (_, mut download) = client.get(&scenes, &key("huge"), Range { offset: 5, len: 1 << 20 }).await.unwrap();
    let mut got = Vec::new();
    while let Some(chunk) = download.chunk().await.unwrap() {
        got.extend_from_slice(&chunk);
    }
    assert!(got == content(8, 20 * MIB)[5..MIB + 5]);
    assert_eq!(count(&edge), 0);
    let listing = client.list(&scenes, "", None, Page::default()).await.unwrap();
    assert_eq!(listing.objects.iter().map(|o| o.key.as_str()).collect::<Vec<_>>(), ["huge", "large"]);

    drop(open(&edge, "large").await.unwrap());
    assert_eq!(count(&edge), 1);
    // There is no room for both, and nobody has to wait or upload for it.
    edge.put(&scenes, &key("mine"), content(9, 5 * MIB).into()).await.unwrap();
    assert!(open(&edge, "mine").await.unwrap().bytes() == content(9, 5 * MIB));
    assert_eq!(std::fs::read_dir(here.persist_path()).unwrap().count(), 1, "nothing was uploaded");
    assert_eq!(edge.stat(&scenes, &key("large")).await.unwrap().size, 6 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_others_objects_are_worth_nothing_after_a_restart() {
    let here = installation(None).await;
    put_there(&here, "landsat/2024/k", &content(3, 2 * MIB));
    let edge = here.node("edge").await;
    open(&edge, "k").await.unwrap();
    edge.stop().await;
    let edge = here.node("edge").await;
    assert_eq!((count(&edge), edge.used_bytes()), (0, 0));
    assert!(open(&edge, "k").await.unwrap().bytes() == content(3, 2 * MIB));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_a_tier_can_be_bound_but_for_what_is_this_stores_own() {
    let mut here = Installation::new().await.with_folder_persist();
    let policy = |place: &str| BucketPolicy { bind: Some(place.into()), ..BucketPolicy::default() };
    here.tuning.buckets.insert(bucket("all"), policy(""));
    let edge = here.node("edge").await;
    let meta = put(&edge, "spilled", b"x").await;
    edge.spill(&bucket("data"), "").await.unwrap();
    put_there(&here, "top", b"theirs");
    let all = edge.list(&bucket("all"), "", None, Page::default()).await.unwrap();
    assert_eq!(all.objects.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["top"]);
    let own = edge.open_object(&bucket("all"), &key(&format!("objects/{}", meta.id))).await.unwrap_err();
    assert_eq!(own.kind(), Kind::NotFound);
    assert_eq!(edge.open_object(&bucket("all"), &key("top")).await.unwrap().bytes(), b"theirs");
    edge.stop().await;

    for bad in ["objects", "objects/x", "/a", "a/", "a/../b"] {
        here.tuning.buckets.insert(bucket("all"), policy(bad));
        let refused = Node::open_with(here.options("other", String::new()), here.tuning.clone()).await.err().unwrap();
        assert!(refused.to_string().contains("`bind`"), "{refused}");
    }
    here.tuning.buckets.insert(bucket("all"), policy("fine"));
    here.persist = None;
    let refused = Node::open_with(here.options("other", String::new()), here.tuning.clone()).await.err().unwrap();
    assert!(refused.to_string().contains("set `persist`"), "{refused}");
}

/// A sweep frees what the catalog should know and doesn't. What others have put there it never knew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_leaves_copies_alone() {
    let here = installation(None).await;
    put_there(&here, "landsat/2024/theirs", &content(1, 5000));
    let edge = here.node("edge").await;
    let first = open(&edge, "theirs").await.unwrap().bytes().as_ptr();
    edge.put(&bucket("scenes"), &key("gone"), b"own".to_vec().into()).await.unwrap();
    here.namenode.delete(&bucket("scenes"), &key("gone")).await.unwrap();
    assert_eq!(edge.sweep().await.unwrap(), 3);
    assert_eq!(open(&edge, "theirs").await.unwrap().bytes().as_ptr(), first, "it is the same copy");
    assert!(edge.metrics().contains("cloudskin_geds_fetched_total 1\n"));
}
