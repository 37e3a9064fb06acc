//! Each wait that a caller can bound ends when he said, whoever is away meanwhile: a table of them, each with who is silent.

use crate::common::{Installation, Running, bucket, content, key, line::Line, put};
use base::Kind;
use geds::{Error, Result};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const WAIT: Duration = Duration::from_millis(1200);
/// What half a machine may make of the half second that an answer may take. An answer of the namenode alone may take 10 s, and a thread is patient for 20 s where nobody says how long.
const SLACK: Duration = Duration::from_secs(3);

/// Ends in time, and not before; the error says what it was about.
fn check<T>(what: &str, began: Instant, answer: Result<T>, about: &str) {
    let took = began.elapsed();
    let error = answer.err().unwrap_or_else(|| panic!("{what}: nobody could know that"));
    println!("{what}: {} ms: {error}", took.as_millis());
    assert!(matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded), "{what}: {error}");
    assert!(error.to_string().contains(about), "{what}: {error}");
    assert!(took < WAIT + SLACK, "{what} took {took:?}: {error}");
    assert!(took + Duration::from_millis(300) > WAIT || matches!(error, Error::Late { .. }), "{what} gave up after {took:?}: {error}");
}

async fn blocking<T: Send + 'static>(node: &geds::Node, call: impl FnOnce(geds::Blocking) -> T + Send + 'static) -> T {
    let door = node.blocking();
    tokio::task::spawn_blocking(move || call(door)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_end_when_their_callers_said_while_the_namenode_is_silent() {
    let mut here = Installation::new().await.with_folder_persist();
    let line = Line::new(&here.namenode);
    here.catalog = Arc::new(line.catalog());
    let node = here.node("edge").await;
    put(&node, "k", &content(1, 1000)).await;
    let (b, k) = (bucket("data"), key("k"));
    let at = node.watch(&b, u64::MAX, WAIT).await.unwrap().next;
    line.mute();
    let began = Instant::now();
    check("watch", began, node.watch(&b, at, WAIT).await, "bucket data");
    let began = Instant::now();
    check("wait_durable", began, node.wait_durable(&b, &k, WAIT).await, "data/k");
    let began = Instant::now();
    check("flush", began, node.flush(&b, "", WAIT).await, "data/");
    let began = Instant::now();
    let name = b.clone();
    check("a thread's watch", began, blocking(&node, move |door| door.watch(&name, at, WAIT)).await, "bucket data");
    put_in_memory_goes_nowhere(&node).await;
}

/// A drain that can't ask what is to be uploaded.
async fn put_in_memory_goes_nowhere(node: &geds::Node) {
    let writer = node.create(&bucket("data"), &key("late")).await;
    // Without the catalog nothing can be begun in a bucket that is not known, and this one is.
    writer.unwrap().seal_here().unwrap();
    let began = Instant::now();
    check("drain", began, node.drain(WAIT).await, "the drain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_end_when_their_callers_said_while_the_store_is_silent() {
    let mut here = Installation::new().await;
    let gate = crate::common::gate::Gate::default();
    here.persist = Some(gate.persist());
    let node = here.node("edge").await;
    put(&node, "k", &content(1, 1000)).await;
    gate.let_through(false);
    let began = Instant::now();
    check("wait_durable", began, node.wait_durable(&bucket("data"), &key("k"), WAIT).await, "data/k");
    let began = Instant::now();
    check("flush", began, node.flush(&bucket("data"), "k", WAIT).await, "data/k");
    gate.let_through(true);
    node.wait_durable(&bucket("data"), &key("k"), Duration::from_secs(30)).await.unwrap();
}

/// A site's port with nobody behind it: connections are taken, and nothing is said.
async fn hang(site: Running) -> tokio::task::JoinHandle<()> {
    let address = site.address.clone();
    site.stop().await;
    let listener = loop {
        match tokio::net::TcpListener::bind(&address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            taken.push(stream);
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_end_when_their_callers_said_while_a_site_is_away_or_silent() {
    let here = Installation::new().await;
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    let (b, k) = (bucket("data"), key("log"));
    let log = edge.appendable(&b, &k).await.unwrap();
    log.append(0, content(1, 1000).into()).await.unwrap();
    let follower = Arc::new(cloud.follow(&b, &k).await.unwrap());
    let began = Instant::now();
    assert_eq!(follower.read(1000, 10, WAIT).await.unwrap().bytes.len(), 0);
    assert!((WAIT..WAIT + SLACK).contains(&began.elapsed()), "{:?}", began.elapsed());
    log.sync().await.unwrap();
    drop(log);
    let hung = hang(edge).await;
    let began = Instant::now();
    check("follow, of a silent site", began, follower.read(0, 10, WAIT).await, "data/log");
    // Who waits for another's read waits no longer than for his own.
    let began = Instant::now();
    let (first, second) = tokio::join!(follower.read(0, 10, WAIT), follower.read(0, 10, WAIT));
    check("follow, the first", began, first, "data/log");
    check("follow, the second", began, second, "data/log");
    let reader = follower.clone();
    let began = Instant::now();
    check("a thread's follow", began, blocking(&cloud, move |door| door.read_followed(&reader, 0, 10, WAIT)).await, "data/log");
    hung.abort();
    let _ = hung.await;
    let reader = follower.clone();
    let began = Instant::now();
    check("a thread's follow, of a site that is gone", began, blocking(&cloud, move |door| door.read_followed(&reader, 0, 10, WAIT)).await, "data/log");
    // When it is back within the wait, nobody has to begin anew.
    let back = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        here.node("edge").await
    };
    let (read, _edge) = tokio::join!(follower.read(0, 10, Duration::from_secs(20)), back);
    assert!(read.unwrap().bytes == content(1, 1000)[..10]);
}
