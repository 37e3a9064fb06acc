//! Google's and Azure's stores as persistency tiers: the same steps over each.
//!
//! The servers are doubles of our own (`doubles/`). Those of others that the set-up could have: fake-gcs-server refuses an upload by Google's XML interface, which is what the library
//! speaks; gcp-storage-emulator has no listing there; Azurite needs Node and 200 packages. CLOUDSKIN_AZURITE=URL runs the steps against an Azurite that listens there, with the account
//! that it has by itself and an empty container `box`.

use crate::common::*;
use crate::doubles::{Asked, Double, Fate, Inner, azure, decoded, fields, google, s3};
use base::Kind;
use axum::{
    http::Method,
    response::{IntoResponse, Response},
};
use geds::{BucketPolicy, Catalog, Config, Key, Page, Persist};
use md5::{Digest, Md5};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    net::TcpListener,
    time::{Duration, Instant},
};

/// As `cloudskin.toml` would have it.
fn persist(geds: Value) -> Persist {
    serde_json::from_value::<Config>(geds).unwrap().persist().unwrap().unwrap()
}

/// What a user does with a persistency tier.
async fn steps(persist: Persist) {
    let mut here = Installation::new().await;
    here.persist = Some(persist.clone());
    here.namenode.create_bucket(&bucket("theirs")).await.unwrap();
    here.tuning.buckets.insert(bucket("theirs"), BucketPolicy { bind: Some("landsat/2024".into()), ..BucketPolicy::default() });
    let edge = here.node("edge").await;
    let objects = [("empty", Vec::new()), ("small", b"small".to_vec()), ("large", content(3, 20 << 20))];
    for (name, data) in &objects {
        put(&edge, name, data).await;
    }
    assert_eq!(edge.spill(&bucket("data"), "").await.unwrap().0, 3);
    assert_eq!((count(&edge), persist.list("objects").await.unwrap().len()), (0, 3));
    let cloud = here.node("cloud").await;
    for (name, data) in &objects {
        assert!(get(&cloud, name).await.unwrap().bytes() == data, "{name} is another");
    }
    let large = edge.stat(&bucket("data"), &key("large")).await.unwrap().persisted.unwrap();
    assert_eq!(persist.read(&large, 70_000..70_010).await.unwrap(), objects[2].1[70_000..70_010]);
    assert!(persist.create("once", "first".into()).await.unwrap());
    assert!(!persist.create("once", "second".into()).await.unwrap());
    assert_eq!(persist.read_all("once").await.unwrap(), "first");

    // What others have put there is in a bucket that is bound to the place.
    for name in ["2024/a b+c.tif", "2024/deep/er/x", "2024/deep/y", "2024/z", "20245", "other"] {
        persist.create(&format!("landsat/{name}"), name.into()).await.unwrap();
    }
    let (theirs, page) = (bucket("theirs"), Page::default);
    let keys = |listing: &geds::Listing| listing.objects.iter().map(|meta| meta.key.to_string()).collect::<Vec<_>>();
    let all = edge.list(&theirs, "", None, page()).await.unwrap();
    assert_eq!(keys(&all), ["a b+c.tif", "deep/er/x", "deep/y", "z"]);
    let top = edge.list(&theirs, "", Some('/'), page()).await.unwrap();
    assert_eq!((keys(&top), top.prefixes), (vec!["a b+c.tif".into(), "z".into()], vec!["deep/".to_string()]));
    assert_eq!(edge.open_object(&theirs, &Key::new("a b+c.tif").unwrap()).await.unwrap().bytes(), b"2024/a b+c.tif");
    assert_eq!(cloud.read_range(&theirs, &Key::new("deep/er/x").unwrap(), geds::Range { offset: 5, len: 4 }).await.unwrap().1, "deep");
    assert_eq!(edge.open_object(&theirs, &Key::new("none").unwrap()).await.unwrap_err().kind(), Kind::NotFound);

    // What is deleted goes there, too.
    for (name, _) in &objects {
        edge.delete(&bucket("data"), &key(name)).await.unwrap();
    }
    let end = Instant::now() + Duration::from_secs(20);
    while !persist.list("objects").await.unwrap().is_empty() {
        assert!(Instant::now() < end, "deleted objects stay: {:?}", persist.list("objects").await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    persist.delete("none").await.unwrap();
}

fn azure(port: u16, key: &str, sas: &str) -> Persist {
    let endpoint = format!("http://127.0.0.1:{port}/{}", azure::ACCOUNT);
    persist(json!({"persist": format!("az://{}", azure::CONTAINER), "az_endpoint": endpoint, "az_allow_http": true, "az_account": azure::ACCOUNT, "az_key": key, "az_sas": sas}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_is_a_persistency_tier() {
    let there = Double::start(azure::answer).await;
    there.inner.lock().unwrap().busy = 2;
    steps(azure(there.port, azure::KEY, "")).await;
    assert_eq!(there.inner.lock().unwrap().refused, 0, "all requests were signed as they have to be");
    assert_eq!(there.names().iter().filter(|name| name.starts_with("landsat/")).count(), 6);
    assert_eq!(described(&there), names_of(&["data/empty", "data/large", "data/small"]));
    steps(azure(Double::start(azure::answer).await.port, "", azure::SAS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_azure_that_refuses_is_told_without_the_secret_and_nothing_is_lost() {
    let there = Double::start(azure::answer).await;
    for (key, sas, secret) in [("YW5vdGhlciBrZXk=", "", "YW5vdGhlciBrZXk"), ("", "sv=2026-01-01&sp=r&sig=mineAlone", "mineAlone")] {
        let mut here = Installation::new().await;
        here.persist = Some(azure(there.port, key, sas));
        let edge = here.node("edge").await;
        put(&edge, "kept", b"the only copy").await;
        let error = edge.spill(&bucket("data"), "").await.unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(said.contains("persistency tier") && !said.contains(secret), "{said}");
        assert_eq!(get(&edge, "kept").await.unwrap().bytes(), b"the only copy");
    }
    assert!(there.names().is_empty());
    assert_eq!(there.inner.lock().unwrap().refused, 2);
}

/// An account that everybody knows, in every Azurite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite_if_there_is_one_is_a_persistency_tier() {
    let Ok(url) = std::env::var("CLOUDSKIN_AZURITE") else {
        return eprintln!("NOT RUN: CLOUDSKIN_AZURITE names none");
    };
    let (account, key) = ("devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==");
    let endpoint = format!("{url}/{account}");
    steps(persist(json!({"persist": "az://box", "az_endpoint": endpoint, "az_allow_http": true, "az_account": account, "az_key": key}))).await;
}

fn google(endpoint: String, bucket: &str) -> Persist {
    persist(json!({"persist": format!("gs://{bucket}"), "gs_endpoint": endpoint, "gs_allow_http": true, "gs_anonymous": true}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_is_a_persistency_tier() {
    let there = Double::start(google::answer).await;
    there.inner.lock().unwrap().busy = 2;
    steps(google(format!("http://127.0.0.1:{}", there.port), google::BUCKET)).await;
    assert!(there.inner.lock().unwrap().parts.is_empty(), "no part stays behind");
    assert_eq!(described(&there), names_of(&["data/empty", "data/large", "data/small"]), "in one piece or in parts, an upload says what it is");
}

/// Bucket and key of each upload that was ever written, as its metadata say.
fn described(there: &Double) -> BTreeSet<String> {
    let inner = there.inner.lock().unwrap();
    let own = inner.described.iter().filter(|(name, _)| name.starts_with("objects/"));
    own.map(|(name, fields)| format!("{}/{}", fields.get("bucket").unwrap_or(name), fields.get("key").unwrap_or(name))).collect()
}

fn names_of(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| name.to_string()).collect()
}

/// Google's, with entity tags as S3 has them. The first try of "half" is kept by half; the tag of "other" is that of a store that encrypts.
fn with_sums(store: &mut Inner, asked: &Asked) -> Response {
    if asked.method == Method::GET && decoded(&asked.path).contains("objects/") {
        store.reads += 1;
    }
    let upload = fields(&asked.query).remove("uploadId");
    if let (&Method::POST, Some(upload)) = (&asked.method, &upload) {
        let number = |part: &str| part.split(' ').next().unwrap().parse::<u32>().unwrap();
        let parts: BTreeMap<u32, _> = store.parts.iter().filter(|((of, _), _)| of == upload).map(|((_, part), content)| (number(part), Md5::digest(content))).collect();
        let told = google::answer(store, asked);
        assert!(told.status().is_success(), "the double has all parts");
        let tag = format!("{}-{}", hex(&parts.values().copied().collect::<Vec<_>>().concat()), parts.len());
        return format!("<CompleteMultipartUploadResult><Bucket>box</Bucket><Key>k</Key><ETag>\"{tag}\"</ETag></CompleteMultipartUploadResult>").into_response();
    }
    if asked.method != Method::PUT || upload.is_some() {
        return google::answer(store, asked);
    }
    let mut kept = Asked { method: Method::PUT, path: asked.path.clone(), query: asked.query.clone(), headers: asked.headers.clone(), body: asked.body.clone() };
    let is = |name: &str| asked.headers.get("x-goog-meta-key").is_some_and(|key| key == name);
    if is("half") && store.described.values().all(|fields| fields["key"] != "half") {
        kept.body.truncate(asked.body.len() / 2);
    }
    let mut told = google::answer(store, &kept);
    let summed = if is("other") { &b"something"[..] } else { &kept.body };
    told.headers_mut().insert("etag", format!("\"{}\"", hex(summed)).parse().unwrap());
    told
}

/// Of its MD5.
fn hex(content: &[u8]) -> String {
    Md5::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where its entity tag is the MD5 of what came, from the second upload on. What is another sum than it should be, or no sum, is read back before anybody believes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_says_what_it_got_is_not_asked_for_it_again() {
    for wrong in ["half", "other"] {
        let there = Double::start(with_sums).await;
        let mut here = Installation::new().await;
        here.persist = Some(google(format!("http://127.0.0.1:{}", there.port), google::BUCKET));
        here.limit = 256 << 20;
        let (edge, b, long) = (here.node("edge").await, bucket("data"), Duration::from_secs(60));
        let reads = || there.inner.lock().unwrap().reads;
        // Megabytes, and how often anything was read by then.
        let next = if wrong == "half" { 4 } else { 5 };
        let all = [("one", 3, 1), ("two", 3, 1), ("parts", 17, 2), ("more", 18, 2), (wrong, 3, 3), ("next", 3, next - 1), ("last", 17, next - 1)];
        for (n, (name, size, _)) in (0..).zip(all) {
            put(&edge, name, &content(n, size << 20)).await;
        }
        for (name, _, read) in all {
            if name == "half" {
                let error = edge.spill(&b, name).await.unwrap_err().to_string();
                assert!(error.contains("1572864 bytes of 3145728") && edge.stat(&b, &key(name)).await.unwrap().persisted.is_none(), "{error}");
            }
            assert_eq!(edge.flush(&b, name, long).await.unwrap().0, 1, "{name}");
            assert_eq!(reads(), read, "{name} after {wrong}: the first is read, and all where a tag was no sum");
        }
        assert_eq!(edge.spill(&b, "").await.unwrap().0, 7);
        for (n, (name, size, _)) in (0..).zip(all) {
            assert!(get(&edge, name).await.unwrap().bytes() == content(n, size << 20), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stalls_or_breaks_off_costs_time_and_nothing_else() {
    let there = Double::start(google::answer).await;
    bad_days(&there, google(format!("http://127.0.0.1:{}", there.port), google::BUCKET)).await;
}

/// S3, which does the same by steps of another client (`tests/end_to_end/s3.rs` has a real server, which is stopped and made to hang; this one answers, and wrongly).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_s3_that_stalls_or_breaks_off_costs_time_and_nothing_else() {
    let there = Double::start(s3::answer).await;
    let persist = || {
        let endpoint = format!("http://127.0.0.1:{}", there.port);
        persist(json!({"persist": format!("s3://{}", google::BUCKET), "s3_endpoint": endpoint, "s3_access_key": "key", "s3_secret_key": "secret", "s3_allow_http": true, "s3_path_style": true}))
    };
    bad_days(&there, persist()).await;
    there.inner.lock().unwrap().objects.clear();
    steps(persist()).await;
}

/// Late, in small pieces, half, busy: each costs time and nothing else.
async fn bad_days(there: &Double, persist: Persist) {
    let mut here = Installation::new().await;
    here.persist = Some(persist);
    let fate = |method: Method, fate: Fate| there.inner.lock().unwrap().fates.push_back((method, fate));
    let spent = || there.inner.lock().unwrap().fates.is_empty();
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    let (data, names) = (content(1, 3 << 20), ["stalls", "busy", "short", "trickles"]);
    for name in names {
        put(&edge, name, &data).await;
    }
    // A deadline is kept while the store says nothing, and nothing is freed or believed to be there.
    fate(Method::PUT, Fate::Stall(Duration::from_secs(3)));
    let (b, long, began) = (bucket("data"), Duration::from_secs(60), Instant::now());
    let late = edge.flush(&b, "stalls", Duration::from_millis(400)).await.unwrap_err();
    assert_eq!(late.kind(), Kind::DeadlineExceeded, "{late}");
    assert!(began.elapsed() < Duration::from_secs(2) && late.to_string().contains("data/stalls"), "{late}");
    assert_eq!(edge.stat(&b, &key("stalls")).await.unwrap().persisted, None);
    assert!(get(&edge, "stalls").await.unwrap().bytes() == data);
    // A second try, then what is wrong with the way there and with the reading back.
    fate(Method::PUT, Fate::Busy);
    assert_eq!(edge.flush(&b, "stalls", long).await.unwrap().0, 1);
    for (name, wrong) in [("busy", Fate::Busy), ("short", Fate::Short), ("trickles", Fate::Trickle)] {
        fate(Method::GET, wrong);
        assert_eq!(edge.flush(&b, name, long).await.unwrap().0, 1, "{name}");
    }
    assert!(spent());
    // The same on the way back, now that the store alone has them.
    assert_eq!(edge.spill(&b, "").await.unwrap().0, 4);
    for (name, wrong) in names.into_iter().zip([Fate::Stall(Duration::from_secs(1)), Fate::Busy, Fate::Short, Fate::Trickle]) {
        fate(Method::GET, wrong);
        assert!(get(&cloud, name).await.unwrap().bytes() == data, "{name}");
    }
    assert!(spent());
}

/// The endpoint is what the settings say, with its scheme; other keys are taken with the next start, and nothing has to be registered anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_20_an_https_endpoint_is_spoken_to_in_tls_and_keys_can_be_changed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let heard = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut first = [0; 3];
        client.read_exact(&mut first).unwrap();
        first
    });
    let tls = persist(json!({"persist": "s3://box", "s3_endpoint": endpoint, "s3_access_key": "key", "s3_secret_key": "secret", "persist_timeout": "1s"}));
    assert!(tls.read_all("x").await.is_err());
    assert_eq!(heard.join().unwrap()[..2], [0x16, 3], "a handshake, and not a request in plain");

    let there = Double::start(azure::answer).await;
    let mut here = Installation::new().await;
    here.persist = Some(azure(there.port, "b2xkIGtleQ==", ""));
    let edge = here.node("edge").await;
    put(&edge, "kept", b"the only copy").await;
    let refused = edge.spill(&bucket("data"), "").await.unwrap_err();
    assert_eq!(refused.kind(), Kind::PermissionDenied);
    assert!(refused.to_string().contains("data/kept"), "{refused}");
    edge.stop().await;
    here.persist = Some(azure(there.port, azure::KEY, ""));
    let edge = here.node("edge").await;
    assert_eq!(edge.spill(&bucket("data"), "").await.unwrap(), (1, 13));
    assert_eq!(get(&edge, "kept").await.unwrap().bytes(), b"the only copy");
}
