//! What a user could notice of a bucket whose objects have a second copy at another site before a seal is acknowledged.

use crate::common::*;
use base::{Kind, unit::Span};
use geds::{BucketPolicy, Caller, Catalog, Node, ObjectId, ObjectMeta, Place, RemoteCatalog, SecondCopy};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

async fn installation(second_copy: SecondCopy, tier: Place) -> Installation {
    let mut here = Installation::new().await;
    here.tuning.memory = Some(base::unit::Bytes(16 << 20));
    let policy = BucketPolicy { second_copy: Some(second_copy), copy_wait: Some(Span(Duration::from_secs(20))), tier, ..BucketPolicy::default() };
    here.tuning.buckets.insert(bucket("safe"), policy);
    here.namenode.create_bucket(&bucket("safe")).await.unwrap();
    here
}

async fn put_safe(node: &Node, name: &str, data: &[u8]) -> geds::Result<ObjectMeta> {
    node.put(&bucket("safe"), &key(name), data.to_vec().into()).await
}

fn figure(node: &Node, name: &str) -> u64 {
    let text = node.metrics();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("{name}")).parse().unwrap()
}

fn at(meta: &ObjectMeta) -> Vec<String> {
    meta.sites.iter().map(|holder| holder.site.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_read_when_its_site_is_gone() {
    for tier in [Place::Disk, Place::Memory] {
        let here = installation(SecondCopy::Required, tier).await;
        let (edge, cloud, field) = (here.node("edge").await, here.node("cloud").await, here.node("field").await);
        let data = content(1, 1 << 20);
        let mut partners = HashSet::new();
        for n in 0..12 {
            let meta = put_safe(&edge, &format!("k{n}"), &data[n..]).await.unwrap();
            let sites = at(&meta);
            assert!(sites.len() == 2 && sites.contains(&"edge".to_string()), "{sites:?}");
            partners.extend(sites);
        }
        assert_eq!(partners.len(), 3, "copies spread over the others");
        // A bucket that wants none gets none.
        assert_eq!(at(&put(&edge, "k", b"x").await), ["edge"]);
        edge.stop().await;
        for n in 0..12 {
            let object = cloud.open_object(&bucket("safe"), &key(&format!("k{n}"))).await.unwrap();
            assert!(object.bytes() == &data[n..]);
        }
        drop(field);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_partner_a_seal_says_so_or_goes_on_and_is_counted() {
    for policy in [SecondCopy::Required, SecondCopy::Wanted] {
        let here = installation(policy, Place::Disk).await;
        let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
        put_safe(&edge, "before", b"1").await.unwrap();
        cloud.stop().await;
        let sealed = put_safe(&edge, "alone", b"2").await;
        match policy {
            SecondCopy::Required => {
                let error = sealed.unwrap_err();
                assert_eq!(error.kind(), Kind::Unavailable);
                let said = error.to_string();
                assert!(said.contains("safe/alone") && said.contains("site edge") && said.contains("site cloud"), "{said}");
            }
            SecondCopy::Wanted => assert_eq!(at(&sealed.unwrap()), ["edge"]),
        }
        assert_eq!((figure(&edge, "cloudskin_geds_alone_total"), figure(&edge, "cloudskin_geds_second_copies_owed")), (1, 1));
        // It is there in both cases.
        assert_eq!(edge.open_object(&bucket("safe"), &key("alone")).await.unwrap().bytes(), b"2");
        // Somebody comes: the copy is made without being asked for, also when the site was started anew meanwhile.
        edge.stop().await;
        let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
        until("the second copy", || figure(&edge, "cloudskin_geds_second_copies_owed") == 0).await;
        let meta = edge.stat(&bucket("safe"), &key("alone")).await.unwrap();
        assert_eq!(at(&meta), ["cloud", "edge"]);
        edge.stop().await;
        assert_eq!(cloud.open_object(&bucket("safe"), &key("alone")).await.unwrap().bytes(), b"2");
    }
}

/// What writes and renames, as committers do, is promised its second copy too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_renamed_meanwhile_has_its_second_copy() {
    let here = installation(SecondCopy::Required, Place::Disk).await;
    let (edge, _other) = (here.node("edge").await, here.node("other").await);
    // It is asked first for about every other object, and renames it instead of keeping it.
    let partner = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    here.namenode.set_site_address(&site("odd"), &partner.local_addr().unwrap().to_string()).await.unwrap();
    let renamed = tokio::spawn({
        let namenode = here.namenode.clone();
        async move {
            let (_connection, _) = partner.accept().await.unwrap();
            namenode.rename(&bucket("safe"), &key("k"), &key("new")).await.unwrap();
        }
    });
    for _ in 0..64 {
        let meta = put_safe(&edge, "k", b"1").await.unwrap();
        assert_eq!(meta.sites.len(), 2, "{meta:?}");
        if renamed.is_finished() {
            assert_eq!(meta.key, key("new"));
            return;
        }
    }
    panic!("it was never asked first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partner_that_hangs_is_not_waited_for_beyond_the_bound() {
    let mut here = installation(SecondCopy::Required, Place::Disk).await;
    here.tuning.buckets.get_mut(&bucket("safe")).unwrap().copy_wait = Some(Span(Duration::from_millis(300)));
    let edge = here.node("edge").await;
    // It takes connections and says nothing.
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    here.namenode.set_site_address(&site("deaf"), &deaf.local_addr().unwrap().to_string()).await.unwrap();
    let began = Instant::now();
    let error = put_safe(&edge, "k", b"1").await.unwrap_err();
    assert!(error.to_string().contains("within 300 ms"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partners_are_those_that_have_a_connection() {
    let here = Installation::new().await;
    for name in ["a", "b", "c"] {
        here.namenode.set_site_address(&site(name), &format!("{name}:1")).await.unwrap();
    }
    let connect = |name: &'static str| {
        let namenode = here.namenode.clone();
        RemoteCatalog::over(move || {
            let namenode = namenode.clone();
            async move {
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                tokio::spawn(async move { namenode.serve(theirs, Caller::Site(site(name))).await });
                Ok(ours)
            }
        })
    };
    let partners = |catalog: RemoteCatalog, id: u128| async move {
        let mut names: Vec<String> = catalog.partners(ObjectId(id), &site("a")).await.unwrap().into_iter().map(|h| h.site.to_string()).collect();
        names.sort();
        names
    };
    let (a, b) = (connect("a"), connect("b"));
    b.buckets().await.unwrap();
    assert_eq!(partners(a.clone(), 7).await, ["b"], "who asks is not a partner, and c is not there");
    let c = connect("c");
    c.buckets().await.unwrap();
    assert_eq!(partners(a.clone(), 7).await, ["b", "c"]);
    drop(b);
    let end = Instant::now() + Duration::from_secs(20);
    while partners(a.clone(), 7).await != ["c"] {
        assert!(Instant::now() < end, "b is still named");
        tokio::task::yield_now().await;
    }
}
