//! Objects and checkpoints: fake agents, each with a real GEDS node behind a real data port.

use crate::{fake::*, http::Web};
use base::{Kind, SiteId, identity};
use geds::{ALPN, BucketName, Catalog, Key, Node, PeerClient, Persist, RemoteCatalog};
use orchestrator::{
    Handle, Options,
    archive::{ArchiveFormat, Joined, Part},
    hub::Submit,
    jobs::JobState,
    proto::{
        self,
        checkpoint_order::Phase,
        from_agent::Body as From,
        rank_event::State::{Exited, Running},
        to_agent::Body,
    },
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{path::Path, sync::Arc, time::Duration};

pub struct Store {
    pub agent: Agent,
    pub node: Node,
    catalog: RemoteCatalog,
    pub dialer: identity::Dialer,
    accept: tokio::task::JoinHandle<()>,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

pub fn site(name: &str) -> SiteId {
    SiteId::new(name).unwrap()
}

/// An agent whose store takes `limit` bytes and spills to `<folder>/persist`.
pub async fn store(hub: &Handle, name: &str, folder: &Path, limit: u64) -> Store {
    let own = hub.hub.authority.issue(&identity::site_name(&site(name))).unwrap();
    let proof = tonic::transport::Identity::from_pem(&own.cert_pem, &own.key_pem);
    let catalog = RemoteCatalog::new(own.dialer().unwrap(), hub.grpc_addr().to_string());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let data_address = listener.local_addr().unwrap().to_string();
    let options = geds::Options {
        site: site(name),
        folder: folder.join(name),
        limit: base::unit::Bytes(limit),
        dialer: own.dialer().unwrap(),
        catalog: Arc::new(catalog.clone()),
        persist: Some(Persist::folder(folder.join("persist")).unwrap()),
        address: String::new(), // the hub knows it from Hello
    };
    let bind = geds::BucketPolicy { bind: Some("landsat".into()), ..geds::BucketPolicy::default() };
    let tuning = geds::Tuning { buckets: [(BucketName::new("bound").unwrap(), bind)].into(), ..geds::Tuning::default() };
    let node = Node::open_with(options, tuning).await.unwrap();
    let (acceptor, serving) = (own.acceptor(&[ALPN]).unwrap(), node.clone());
    let accept = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (acceptor, node) = (acceptor.clone(), serving.clone());
            connections.spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let tls = tls.into();
                let peer = identity::peer_name(&tls).unwrap();
                let _ = node.serve_peer(tls, &peer).await;
            });
        }
    });
    let agent = Agent::session(hub, proof, name, proto::Hello { data_address, bound_buckets: vec!["bound".into()], ..Default::default() }).await;
    Store { agent, node, catalog, dialer: own.dialer().unwrap(), accept }
}

fn content(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2654435761) >> 24) as u8).collect()
}

pub async fn answer(call: reqwest::RequestBuilder, status: u16) -> Value {
    let answer = call.send().await.unwrap();
    let (got, body) = (answer.status().as_u16(), answer.json::<Value>().await.unwrap());
    assert_eq!(got, status, "{body}");
    body
}

/// A request as it is typed: clients tidy paths up.
async fn raw(hub: &Handle, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut tcp = tokio::net::TcpStream::connect(hub.http_addr()).await.unwrap();
    let text = format!("{request} HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n", hub.token());
    tcp.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    answer
}

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn objects_stream_through_the_hub() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    let data = content(5_000_001);
    web.fails(web.put("/v1/objects/scenes/a").body("x"), 503, "unavailable", "no site is connected").await;
    let edge = store(&hub, "edge", folder.path(), 64 * MIB).await;
    let cloud = store(&hub, "cloud", folder.path(), MIB).await;

    let kept = answer(web.put("/v1/objects/scenes/2024/a%20b.tif?site=edge").body(data.clone()), 200).await;
    assert_eq!((&kept["bucket"], &kept["key"], &kept["size"]), (&json!("scenes"), &json!("2024/a b.tif"), &json!(5_000_001)));
    assert_eq!((&kept["state"], &kept["sites"], &kept["persisted"]), (&json!("sealed"), &json!(["edge"]), &json!(false)));
    assert_eq!(web.json("/v1/buckets").await, json!(["bound", "checkpoints", "scenes"]));
    // Without a site: the first that has room. With a length that is not told in advance, too.
    let small = answer(web.put("/v1/objects/scenes/small").body("12"), 200).await;
    assert_eq!(small["sites"], json!(["cloud"]));
    let large = answer(web.put("/v1/objects/scenes/large").body(data.clone()), 200).await;
    assert_eq!(large["sites"], json!(["edge"]), "the cloud has no room");
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = data.chunks(100_000).map(|c| Ok(c.to_vec())).collect();
    let stream = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    let untold = answer(web.put("/v1/objects/scenes/large?site=edge").body(stream), 200).await;
    assert!(untold["epoch"].as_u64() > large["epoch"].as_u64(), "written again");

    let list = |value: Value| -> Vec<String> { value.as_array().unwrap().iter().map(|o| o["key"].as_str().unwrap().to_string()).collect() };
    assert_eq!(list(web.json("/v1/objects/scenes").await), ["2024/a b.tif", "large", "small"]);
    assert_eq!(list(web.json("/v1/objects/scenes?prefix=2024").await), ["2024/a b.tif"]);
    assert_eq!(list(web.json("/v1/objects/scenes?after=large&limit=1").await), ["small"]);

    let got = web.get("/v1/objects/scenes/2024/a%20b.tif").send().await.unwrap();
    assert_eq!((got.status().as_u16(), got.content_length()), (200, Some(5_000_001)));
    assert!(got.bytes().await.unwrap() == data);

    // An empty one is as good as any, and a name that is taken is taken for it, too; with and without a site.
    for at in ["?if_absent=true", "?if_absent=true&site=edge"] {
        let empty = || web.put(&format!("/v1/objects/scenes/empty{at}")).header("content-length", 0).body(reqwest::Body::wrap_stream(futures::stream::iter(Vec::<Result<Vec<u8>, std::io::Error>>::new())));
        assert_eq!(answer(empty(), 200).await["size"], 0);
        web.fails(empty(), 409, "already_exists", "scenes/empty").await;
        answer(web.delete("/v1/objects/scenes/empty"), 200).await;
    }
    // A name with dots is nobody else's, whoever writes it and how.
    for path in ["scenes/%2e%2e/small", "scenes/../small", "scenes/x/%2E%2E/small", "%2e%2e/scenes/small", "scenes/./small"] {
        let told = raw(&hub, &format!("DELETE /v1/objects/{path}")).await;
        assert!(told.starts_with("HTTP/1.1 400") && told.contains("invalid_argument") || told.starts_with("HTTP/1.1 404"), "{path}: {told}");
    }
    assert!(list(web.json("/v1/objects/scenes").await).contains(&"small".to_string()));
    // All in a folder goes to the persistency tier; none is where none was.
    assert_eq!(answer(web.post("/v1/objects/scenes?action=spill&from=2024/"), 200).await, json!({"objects": 1, "bytes": 5_000_001}));
    assert_eq!(web.json("/v1/stat/scenes/2024/a%20b.tif").await["persisted"], true);

    // What goes wrong says what and where; the whole body of a refused one need not be sent for it.
    web.fails(web.put("/v1/objects/scenes/x?site=moon").body(data.clone()), 404, "not_found", "connected sites: cloud, edge").await;
    web.fails(web.put("/v1/objects/scenes/x?site=cloud").body(data.clone()), 429, "resource_exhausted", "no space").await;
    web.fails(web.put("/v1/objects/Scenes/x").body("x"), 400, "invalid_argument", "Scenes").await;
    web.fails(web.put("/v1/objects/scenes/a//b").body("x"), 400, "invalid_argument", "a//b").await;
    web.fails(web.get("/v1/objects/scenes/none"), 404, "not_found", "scenes/none does not exist; `cloudskin store ls scenes/`").await;
    web.fails(web.get("/v1/objects/none"), 404, "not_found", "none").await;
    web.fails(web.post("/v1/objects/scenes/small?action=fly"), 400, "invalid_argument", "fly").await;

    let spilled = answer(web.post("/v1/objects/scenes/2024/a%20b.tif?action=spill"), 200).await;
    assert_eq!((&spilled["sites"], &spilled["persisted"]), (&json!([]), &json!(true)));
    let used = edge.node.used_bytes();
    assert_eq!(used, 5_000_001, "only the large one is left");
    drop(cloud);
    while hub.hub.world.lock().await.sites["cloud"].connected() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let back = web.get("/v1/objects/scenes/2024/a%20b.tif").send().await.unwrap().bytes().await.unwrap();
    assert!(back == data, "the edge fetched it");
    web.fails(web.get("/v1/objects/scenes/small"), 503, "unavailable", "cloud").await;

    assert_eq!(answer(web.delete("/v1/objects/scenes/large"), 200).await["size"], 5_000_001);
    web.fails(web.delete("/v1/objects/scenes/large"), 404, "not_found", "scenes/large").await;
    assert_eq!(list(web.json("/v1/objects/scenes").await), ["2024/a b.tif", "small"]);
    // A hub that starts anew knows them still.
    hub.shutdown().await;
    let hub = crate::fake::hub(folder.path()).await;
    let web = Web::new(&hub);
    assert_eq!(list(web.json("/v1/objects/scenes").await), ["2024/a b.tif", "small"]);

    // A site that is forgotten takes with it what it alone had, under whatever names; not what is elsewhere, too.
    answer(web.post("/v1/objects/scenes?action=copy&from=small&to=again"), 200).await;
    assert_eq!(list(web.json("/v1/objects/scenes").await), ["2024/a b.tif", "again", "small"]);
    assert_eq!(web.delete("/v1/sites/cloud").send().await.unwrap().status(), 200);
    assert_eq!(list(web.json("/v1/objects/scenes").await), ["2024/a b.tif"]);
    let events = hub.hub.events.last(0, 50).await.unwrap();
    let removed = events.iter().find(|e| e.kind == "site.removed").unwrap();
    assert!(removed.message.contains("2 objects that only it had, 4 bytes, are lost"), "{}", removed.message);
}

#[tokio::test]
async fn the_port_shows_the_authority_and_sites_speak_for_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let edge = store(&hub, "edge", folder.path(), MIB).await;
    let stream = edge.dialer.dial(identity::HUB, &hub.grpc_addr().to_string(), "h2").await.unwrap();
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    let sums: Vec<String> = chain.iter().map(|c| orchestrator::hub::hex(&Sha256::digest(c))).collect();
    assert_eq!((sums.len(), &sums[1]), (2, &hub.hub.authority.fingerprint()));

    assert_eq!(edge.catalog.announce(&site("cloud"), "x:1").await.unwrap_err().kind(), Kind::PermissionDenied);
    let (address, fingerprint) = (hub.grpc_addr().to_string(), hub.hub.authority.fingerprint());
    let nobody = RemoteCatalog::over(move || {
        let (address, fingerprint) = (address.clone(), fingerprint.clone());
        async move { Ok(identity::dial_pinned(identity::HUB, &address, &fingerprint, geds::META_ALPN).await.unwrap()) }
    });
    assert_eq!(nobody.buckets().await.unwrap_err().kind(), Kind::Unauthenticated);
    let user = hub.hub.authority.issue(identity::USER).unwrap();
    let user = RemoteCatalog::new(user.dialer().unwrap(), hub.grpc_addr().to_string());
    assert_eq!(user.buckets().await.unwrap_err().kind(), Kind::PermissionDenied);
}

/// Answers one checkpoint's orders as an agent does that writes `state` for each of its ranks. Returns the prefix.
async fn write(store: &mut Store, ranks: u32, state: &str) -> String {
    let b = BucketName::new("checkpoints").unwrap();
    loop {
        let Body::Checkpoint(order) = store.agent.order().await else { continue };
        let phase = order.phase();
        if phase == Phase::Resume {
            return order.prefix;
        }
        if phase == Phase::Write {
            for rank in 0..ranks {
                let key = Key::new(format!("{}/rank-{rank}", order.prefix)).unwrap();
                store.node.put(&b, &key, format!("{state} {rank}").into()).await.unwrap();
                if !order.copy_site.is_empty() {
                    let mut peer = PeerClient::dial(&store.dialer, &site(&order.copy_site), &order.copy_address).await.unwrap();
                    assert_eq!(peer.keep(&b, &key).await.unwrap().sites.len(), 2);
                }
            }
        } else {
            assert!(order.copy_site.is_empty() && order.copy_address.is_empty());
        }
        let step = proto::CheckpointStep { checkpoint: order.checkpoint, job: order.job, phase: order.phase, ok: true, bytes: 5, ..Default::default() };
        store.agent.say(From::Checkpoint(step)).await;
    }
}

pub async fn start(hub: &Handle, edge: &mut Store, ask: Submit) {
    let np = ask.np;
    hub.hub.submit(ask).await.unwrap();
    assert!(matches!(edge.agent.order().await, Body::Start(s) if s.spec.as_ref().unwrap().life == 0));
    for rank in 0..np {
        edge.agent.rank(rank, 1, Running, 0).await;
    }
    while hub.hub.world.lock().await.job("job-1").unwrap().ranks.iter().any(|r| r.state != orchestrator::jobs::RankState::Running) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A stand-in for the snapshot format, which this crate doesn't know: JSON behind a word.
pub fn format() -> ArchiveFormat {
    fn write(manifest: &[u8], parts: Vec<Part>) -> Vec<u8> {
        [b"FAKE1".to_vec(), serde_json::to_vec(&(manifest, parts)).unwrap()].concat()
    }
    fn read(bytes: &[u8]) -> Result<(Vec<u8>, Vec<Part>), String> {
        let body = bytes.strip_prefix(b"FAKE1").ok_or("the checkpoint has version 2, this reads version 1")?;
        serde_json::from_slice(body).map_err(|_| "the checkpoint is damaged".to_string())
    }
    // A snapshot that ends with "since X" needs that one; of both, what stands before these words is made one.
    fn join(files: Vec<Vec<u8>>) -> Result<Joined, String> {
        let texts: Vec<String> = files.iter().map(|f| String::from_utf8(f.clone())).collect::<Result<_, _>>().map_err(|_| "a snapshot is damaged")?;
        match texts.last().unwrap().split_once(" since ") {
            Some((_, parent)) => Ok(Joined::Lacks { parent: parent.into(), files }),
            None => Ok(Joined::Complete(texts.iter().map(|t| t.split(" since ").next().unwrap()).collect::<Vec<_>>().join("+").into_bytes())),
        }
    }
    ArchiveFormat { write, read, join }
}

#[tokio::test]
async fn a_checkpoint_travels_as_a_file() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let hub = hub_with(folder.path(), Options { archive: Some(format()), ..Options::default() }).await;
    let web = Web::new(&hub);
    let (mut edge, mut cloud) = (store(&hub, "edge", folder.path(), MIB).await, store(&hub, "cloud", folder.path(), MIB).await);
    let ask = Submit { args: vec!["veg".into(), "7".into()], memory_max: Some("1MiB".into()), workdir: Some("/out/x".into()), ..ask(2, "edge") };
    start(&hub, &mut edge, ask).await;
    let call = tokio::spawn(web.post("/v1/jobs/job-1/checkpoint").send());
    assert_eq!(write(&mut edge, 2, "state").await, "job-1/1");
    let told: Value = call.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!((&told["id"], &told["kept"]), (&json!(1), &json!(true)));
    assert_eq!(web.json("/v1/checkpoints").await[0]["prefix"], "job-1/1");
    let copies = web.json("/v1/objects/checkpoints").await;
    assert!(copies.as_array().unwrap().iter().all(|o| o["sites"] == json!(["cloud", "edge"])), "{copies}");

    let file = web.get("/v1/checkpoints/1/archive").send().await.unwrap().bytes().await.unwrap();
    let (manifest, parts) = (format().read)(&file).unwrap();
    let names: Vec<&str> = parts.iter().map(|p| p.0.as_str()).collect();
    assert_eq!(names, ["module.wasm", "rank-0", "rank-1"]);
    assert_eq!((parts[0].1.as_slice(), parts[2].1.as_slice()), (MODULE, &b"state 1"[..]));
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!((&manifest["job"], &manifest["work"]["args"]), (&json!("job-1"), &json!(["veg", "7"])));
    web.fails(web.get("/v1/checkpoints/7/archive"), 404, "not_found", "checkpoint 7").await;

    // One that is stored here needs no file.
    web.fails(web.post("/v1/restore?checkpoint=7"), 404, "not_found", "checkpoint 7").await;
    assert_eq!(web.json("/v1/checkpoints").await[0]["copies"], 2);

    // At this hub it is another job.
    let job = answer(web.post("/v1/restore?site=cloud").body(file.clone()), 201).await;
    assert_eq!((&job["id"], &job["np"], &job["ranks"][1]["site"]), (&json!("job-2"), &json!(2), &json!("cloud")));
    let Body::Start(s) = cloud.agent.order().await else { panic!("no order to start") };
    let spec = s.spec.unwrap();
    assert_eq!((s.from_checkpoint.as_str(), spec.args, spec.memory_max_bytes, spec.workdir), ("job-2/restored", vec!["veg".into(), "7".into()], MIB, "/out/x".into()));
    let object = cloud.node.open_object(&BucketName::new("checkpoints").unwrap(), &Key::new("job-2/restored/rank-1").unwrap()).await.unwrap();
    assert_eq!(object.bytes(), b"state 1");

    // What can't be read is refused in the format's own words, and nothing is started.
    web.fails(web.post("/v1/restore").body(file[..file.len() - 1].to_vec()), 400, "invalid_argument", "damaged").await;
    web.fails(web.post("/v1/restore").body("FAKE2"), 400, "invalid_argument", "version 2, this reads version 1").await;
    let lacks = (format().write)(&serde_json::to_vec(&manifest).unwrap(), parts[..2].to_vec());
    web.fails(web.post("/v1/restore").body(lacks), 400, "invalid_argument", "rank-1").await;
    let mut foreign = parts.clone();
    foreign[0].1 = b"\0asm\x01\0\0\0\0\0".to_vec();
    let foreign = (format().write)(&serde_json::to_vec(&manifest).unwrap(), foreign);
    web.fails(web.post("/v1/restore").body(foreign), 400, "invalid_argument", "its manifest names").await;
    web.fails(web.post("/v1/restore?site=moon").body(file.clone()), 404, "not_found", "there is no site \"moon\"").await;
    assert_eq!(web.json("/v1/jobs").await.as_array().unwrap().len(), 2);

    let stored = answer(web.post("/v1/restore?checkpoint=1&site=edge"), 201).await;
    assert_eq!((&stored["id"], &stored["ranks"][0]["site"]), (&json!("job-3"), &json!("edge")));
    assert!(matches!(edge.agent.order().await, Body::Start(s) if s.from_checkpoint == "job-3/restored"));
    let object = edge.node.open_object(&BucketName::new("checkpoints").unwrap(), &Key::new("job-3/restored/rank-1").unwrap()).await.unwrap();
    assert_eq!(object.bytes(), b"state 1");
    // The list says what is so: of a checkpoint of which a snapshot was removed nothing is left.
    answer(web.delete("/v1/objects/checkpoints/job-1/1/rank-1"), 200).await;
    assert_eq!(web.json("/v1/checkpoints").await[0]["copies"], 0);
    for rank in 0..2 {
        let event = proto::RankEvent { job: "job-3".into(), rank, epoch: 1, state: Exited as i32, ..Default::default() };
        edge.agent.say(From::Rank(event)).await;
    }
    while !hub.hub.world.lock().await.job("job-3").unwrap().state.ended() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(matches!(edge.agent.order().await, Body::Forget(_)));

    // Lost before its first own checkpoint, it begins there again.
    drop(cloud);
    match edge.agent.order().await {
        Body::Start(s) => assert_eq!((s.from_checkpoint.as_str(), s.spec.unwrap().life), ("job-2/restored", 1)),
        other => panic!("{other:?}"),
    }

    // At another hub, which has never seen the module, it is the first.
    let second = crate::fake::hub_with(other.path(), Options { archive: Some(format()), ..Options::default() }).await;
    std::fs::remove_dir_all(other.path().join("hub/modules")).unwrap();
    let _fog = store(&second, "fog", other.path(), MIB).await;
    let job = answer(Web::new(&second).post("/v1/restore").body(file.clone()), 201).await;
    assert_eq!((&job["id"], &job["module"]), (&json!("job-1"), &json!(module())));
    let none = crate::fake::hub(tempfile::tempdir().unwrap().path()).await;
    Web::new(&none).fails(Web::new(&none).post("/v1/restore").body(file), 501, "unimplemented", "format").await;
}

#[tokio::test]
async fn old_checkpoints_go_and_those_asked_for_stay() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    let mut edge = store(&hub, "edge", folder.path(), MIB).await;
    answer(web.put("/v1/objects/checkpoints/mine/1/rank-0").body("a user's"), 200).await;
    start(&hub, &mut edge, Submit { checkpoint_every: Some("1s".into()), ..ask(1, "edge") }).await;
    let keys = async || -> Vec<String> {
        let list = web.json("/v1/objects/checkpoints").await;
        list.as_array().unwrap().iter().map(|o| o["key"].as_str().unwrap().to_string()).collect()
    };
    let become_ = async |want: &[&str]| {
        let mut now = keys().await;
        for _ in 0..500 {
            if now == want {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            now = keys().await;
        }
        panic!("{now:?} never became {want:?}");
    };
    let call = tokio::spawn(web.post("/v1/jobs/job-1/checkpoint").send());
    write(&mut edge, 1, "asked").await;
    assert_eq!(call.await.unwrap().unwrap().status(), 200);
    for _ in 0..3 {
        write(&mut edge, 1, "own").await; // slow: the shortest time between a job's own checkpoints
    }
    become_(&["job-1/1/rank-0", "job-1/3/rank-0", "job-1/4/rank-0", "mine/1/rank-0"]).await;
    let ids = |list: Value| -> Vec<u64> { list.as_array().unwrap().iter().map(|c| c["id"].as_u64().unwrap()).collect() };
    assert_eq!(ids(web.json("/v1/checkpoints").await), [1, 3, 4]);

    edge.agent.rank(0, 1, Exited, 0).await;
    until(&hub, JobState::Succeeded).await;
    become_(&["job-1/1/rank-0", "mine/1/rank-0"]).await;
    assert_eq!(ids(web.json("/v1/checkpoints").await), [1]);
    assert_eq!(answer(web.delete("/v1/checkpoints/1"), 200).await["job"], "job-1");
    become_(&["mine/1/rank-0"]).await;
    web.fails(web.delete("/v1/checkpoints/1"), 404, "not_found", "checkpoint 1").await;
}

#[tokio::test]
async fn the_catalog_of_an_older_hub_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("hub")).unwrap();
    let file = folder.path().join("hub/geds.sqlite");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let schema = "CREATE TABLE geds_buckets (name TEXT PRIMARY KEY, created_ms INTEGER NOT NULL);
        CREATE TABLE geds_objects (bucket TEXT, key TEXT, id TEXT, epoch INTEGER, size INTEGER, checksum INTEGER, persisted TEXT, created_ms INTEGER);
        CREATE TABLE geds_holders (id TEXT, site TEXT);
        INSERT INTO geds_buckets VALUES ('scenes', 1), ('empty', 1);
        INSERT INTO geds_objects VALUES ('scenes', 'a/b', '0000000000000000000000000000000a', 41, 7, -1, NULL, 99);
        INSERT INTO geds_holders VALUES ('0000000000000000000000000000000a', 'edge'), ('0000000000000000000000000000000a', 'cloud');";
    sqlx::raw_sql(schema).execute(&pool).await.unwrap();
    pool.close().await;
    for start in 0..2 {
        let hub = hub(folder.path()).await;
        let catalog = &hub.hub.objects.catalog;
        let names: Vec<String> = catalog.buckets().await.unwrap().into_iter().map(String::from).collect();
        assert_eq!(names, ["checkpoints", "empty", "scenes"], "start {start}");
        let meta = catalog.lookup(&BucketName::new("scenes").unwrap(), &Key::new("a/b").unwrap()).await.unwrap();
        let sites: Vec<&str> = meta.sites.iter().map(|h| h.site.as_str()).collect();
        assert_eq!((meta.epoch, meta.size, meta.checksum, sites, meta.created_ms), (41, 7, u64::MAX, vec!["cloud", "edge"], 99));
        assert!(!file.exists() && file.with_extension("sqlite.imported").exists(), "put aside");
        hub.shutdown().await;
    }
}

#[tokio::test]
async fn a_watch_over_http_goes_on_where_it_was_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = hub(folder.path()).await;
    let web = Web::new(&first);
    web.fails(web.get("/v1/watch/data"), 404, "not_found", "data").await;
    let edge = store(&first, "edge", folder.path(), 64 * MIB).await;
    answer(web.put("/v1/objects/data/a").body("one"), 200).await;
    // From the beginning, and from now on.
    let told = web.json("/v1/watch/data?after=0").await;
    assert_eq!((&told["events"][0]["what"], &told["events"][0]["key"], &told["events"][0]["size"], &told["next"], &told["resync"]), (&json!("sealed"), &json!("a"), &json!(3), &json!(1), &json!(false)));
    assert_eq!(web.json("/v1/watch/data").await, json!({"events": [], "next": 1, "resync": false}));
    assert_eq!(web.json("/v1/watch/data?after=1&wait=1ms").await, json!({"events": [], "next": 1, "resync": false}), "nothing has happened");
    // It waits for what happens.
    let waiting = {
        let call = web.get("/v1/watch/data?after=1&wait=30s");
        tokio::spawn(answer(call, 200))
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    answer(web.put("/v1/objects/data/b").body("two"), 200).await;
    let told = waiting.await.unwrap();
    assert_eq!((&told["events"][0]["key"], &told["next"]), (&json!("b"), &json!(2)));
    answer(web.delete("/v1/objects/data?prefix=b"), 200).await;
    // The hub restarts. The token is good still: what has happened since is told, and nothing twice.
    drop(edge);
    first.shutdown().await;
    let second = hub(folder.path()).await;
    let web = Web::new(&second);
    let told = web.json("/v1/watch/data?after=2&wait=1ms").await;
    assert_eq!((&told["events"], &told["next"]), (&json!([{"seq": 3, "what": "prefix_removed", "prefix": "b"}]), &json!(3)));
    // One that the bucket never gave says so, as one that is too old does.
    assert_eq!(web.json("/v1/watch/data?after=99").await, json!({"events": [], "next": 3, "resync": true}));
    web.fails(web.get("/v1/watch/data?after=x"), 400, "invalid_argument", "query").await;
}

#[tokio::test]
async fn a_restarted_hub_ends_the_leases_of_its_own_jobs_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let first = hub(folder.path()).await;
    // A program's, alive and to be extended; one that a program ends itself; and one of a job that the hub has never heard of, or has forgotten.
    for (job, until_ms) in [("run-7", base::clock::now_ms() + 60_000), ("kept", 0), ("job-99", 0)] {
        first.hub.objects.catalog.keep_job(job, until_ms).await.unwrap();
    }
    first.shutdown().await;
    let second = hub(folder.path()).await;
    assert_eq!(second.hub.objects.catalog.jobs().await.unwrap(), ["kept", "run-7"]);
}

#[tokio::test]
async fn names_carry_words_and_ends_and_move_in_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    let mut edge = store(&hub, "edge", folder.path(), 64 * MIB).await;
    let put = |path: &str| web.put(&format!("/v1/objects/{path}")).body("ten bytes.");
    answer(put("runs/7/model?if_absent=true&metadata=colour%3Dred"), 200).await;
    web.fails(put("runs/7/model?if_absent=true"), 409, "already_exists", "runs/7/model").await;
    let told = web.json("/v1/stat/runs/7/model").await;
    assert_eq!((&told["key"], &told["size"], &told["metadata"]), (&json!("7/model"), &json!(10), &json!("colour=red")));
    assert_eq!((&told["expires_ms"], &told["job"]), (&Value::Null, &Value::Null));
    web.fails(web.get("/v1/stat/runs/none"), 404, "not_found", "runs/none").await;

    answer(put("runs/7/log"), 200).await;
    answer(put("runs/77"), 200).await;
    assert_eq!(answer(web.post("/v1/objects/runs?action=copy&from=7&to_bucket=best&to=top"), 200).await, json!({"objects": 2, "bytes": 20}));
    assert_eq!(answer(web.post("/v1/objects/runs?action=rename&from=7&to=old/7"), 200).await, json!({"objects": 2, "bytes": 20}));
    web.fails(web.post("/v1/objects/runs?action=fly&from=7&to=8"), 400, "invalid_argument", "fly").await;
    web.fails(web.post("/v1/objects/runs?action=rename&from=7&to=8"), 404, "not_found", "runs/7").await;
    let list = |value: Value| -> Vec<String> { value.as_array().unwrap().iter().map(|o| o["key"].as_str().unwrap().to_string()).collect() };
    assert_eq!(list(web.json("/v1/objects/runs").await), ["77", "old/7/log", "old/7/model"]);
    assert_eq!(list(web.json("/v1/objects/best").await), ["top/log", "top/model"]);
    assert_eq!(web.json("/v1/stat/best/top/model").await["metadata"], "colour=red");
    assert_eq!(answer(web.delete("/v1/objects/runs?prefix=old"), 200).await, json!({"objects": 2, "bytes": 20}));
    assert_eq!(web.get("/v1/objects/best/top/model").send().await.unwrap().text().await.unwrap(), "ten bytes.");
    assert_eq!(edge.node.used_bytes(), 30, "copies share their bytes");

    // To the persistency tier, and it stays where it is.
    assert_eq!(answer(web.post("/v1/objects/best?action=flush&from=top&within=1m"), 200).await, json!({"objects": 2, "bytes": 20}));
    assert_eq!(answer(web.post("/v1/objects/best?action=flush&from="), 200).await, json!({"objects": 0, "bytes": 0}));
    let told = web.json("/v1/stat/best/top/model").await;
    assert_eq!((&told["persisted"], &told["sites"]), (&json!(true), &json!(["edge"])));
    web.fails(web.post("/v1/objects/best?action=flush&from=top&within=soon"), 400, "invalid_argument", "within").await;

    // A whole bucket, too.
    assert_eq!(answer(web.post("/v1/objects/best?action=copy&from=&to_bucket=all&to="), 200).await, json!({"objects": 2, "bytes": 20}));
    assert_eq!(answer(web.post("/v1/objects/all?action=rename&from=&to=below"), 200).await, json!({"objects": 2, "bytes": 20}));
    assert_eq!(list(web.json("/v1/objects/all").await), ["below/top/log", "below/top/model"]);
    assert_eq!(answer(web.delete("/v1/objects/all?prefix="), 200).await, json!({"objects": 2, "bytes": 20}));
    web.fails(web.post("/v1/objects/all?action=spill&from="), 404, "not_found", "all/").await;
    web.fails(web.get("/v1/objects/nope"), 404, "not_found", "cloudskin store put FILE nope/").await;

    let metrics = web.get("/v1/sites/edge/metrics").send().await.unwrap().text().await.unwrap();
    for line in ["cloudskin_geds_used_bytes 30", "cloudskin_geds_bucket_sealed_total{bucket=\"runs\",tier=\"disk\"} 3", "cloudskin_geds_bucket_bytes{bucket=\"runs\",tier=\"disk\"} 30", "cloudskin_geds_publish_seconds_count 3"] {
        assert!(metrics.lines().any(|l| l == line), "{line} in {metrics}");
    }
    web.fails(web.get("/v1/sites/moon/metrics"), 404, "not_found", "moon").await;

    // With a time, and with a job.
    web.fails(put("runs/x?ttl=soon"), 400, "invalid_argument", "ttl").await;
    web.fails(put("runs/x?job=job-1"), 409, "failed_precondition", "job-1").await;
    answer(put("runs/short?ttl=1s"), 200).await;
    assert!(web.json("/v1/stat/runs/short").await["expires_ms"].as_u64().unwrap() > base::clock::now_ms() - 1000);
    hub.hub.submit(ask(1, "edge")).await.unwrap();
    assert!(matches!(edge.agent.order().await, Body::Start(_)));
    answer(put("runs/scratch?job=job-1"), 200).await;
    assert_eq!(web.json("/v1/stat/runs/scratch").await["job"], "job-1");
    edge.agent.rank(0, 1, Running, 0).await;
    edge.agent.rank(0, 1, Exited, 0).await;
    until(&hub, JobState::Succeeded).await;
    web.fails(web.get("/v1/stat/runs/scratch"), 404, "not_found", "runs/scratch").await;
    web.fails(put("runs/late?job=job-1"), 409, "failed_precondition", "job-1").await;
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while edge.node.used_bytes() > 30 {
        assert!(std::time::Instant::now() < end, "what nobody can name is still here: {} bytes", edge.node.used_bytes());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    web.fails(web.get("/v1/stat/runs/short"), 404, "not_found", "runs/short").await;
}

#[tokio::test]
async fn what_lies_in_a_bound_bucket_is_seen_through_the_hub() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    let edge = store(&hub, "edge", folder.path(), 64 * MIB).await;
    let place = folder.path().join("persist/landsat/2024");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("scene.tif"), content(3_000_000)).unwrap();
    answer(web.put("/v1/objects/bound/own").body("own"), 200).await;

    let listed = web.json("/v1/objects/bound").await;
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|object| (object["key"].as_str().unwrap(), object["persisted"].as_bool().unwrap())).collect();
    assert_eq!(names, [("2024/scene.tif", true), ("own", false)]);
    assert_eq!(web.json("/v1/stat/bound/2024/scene.tif").await["size"], json!(3_000_000));
    let got = web.get("/v1/objects/bound/2024/scene.tif").send().await.unwrap().bytes().await.unwrap();
    assert!(got == content(3_000_000), "{} bytes", got.len());
    web.fails(web.get("/v1/objects/bound/2024/other"), 404, "not_found", "bound/2024/other").await;
    web.fails(web.delete("/v1/objects/bound/2024/scene.tif"), 409, "failed_precondition", "landsat/2024/scene.tif").await;
    assert!(place.join("scene.tif").exists());
    drop(edge);
}

#[tokio::test]
async fn a_token_for_a_bucket_opens_that_bucket_while_it_lasts() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    let _edge = store(&hub, "edge", folder.path(), 64 * MIB).await;
    for path in ["/v1/objects/mine/k", "/v1/objects/theirs/k"] {
        answer(web.put(path).body("content"), 200).await;
    }
    let made = async |ask: Value| {
        let told = answer(web.post("/v1/buckets/mine/tokens").json(&ask), 201).await;
        let token = told["token"].as_str().unwrap().to_string();
        Web { client: web.client.clone(), base: web.base.clone(), token }
    };
    let (reader, writer) = (made(json!({})).await, made(json!({"ttl": "1m", "write": true})).await);
    assert_eq!(reader.get("/v1/objects/mine/k").send().await.unwrap().text().await.unwrap(), "content");
    assert_eq!(reader.json("/v1/objects/mine").await.as_array().unwrap().len(), 1);
    assert_eq!(reader.json("/v1/stat/mine/k").await["size"], json!(7));
    for path in ["/v1/objects/theirs/k", "/v1/objects/theirs", "/v1/stat/theirs/k", "/v1/buckets", "/v1/jobs", "/v1/tiers", "/v1/sites/edge/metrics"] {
        reader.fails(reader.get(path), 403, "permission_denied", "bucket mine only").await;
        writer.fails(writer.get(path), 403, "permission_denied", "bucket mine only").await;
    }
    reader.fails(reader.put("/v1/objects/mine/new").body("x"), 403, "permission_denied", "reading bucket mine").await;
    reader.fails(reader.delete("/v1/objects/mine/k"), 403, "permission_denied", "reading bucket mine").await;
    writer.fails(writer.post("/v1/buckets/mine/tokens").json(&json!({})), 403, "permission_denied", "bucket mine only").await;
    answer(writer.put("/v1/objects/mine/new").body("x"), 200).await;
    answer(writer.post("/v1/objects/mine?action=rename&from=new&to=newer"), 200).await;
    writer.fails(writer.post("/v1/objects/mine?action=copy&from=newer&to=k&to_bucket=theirs"), 403, "permission_denied", "target").await;
    assert_eq!(web.get("/v1/objects/theirs/k").send().await.unwrap().text().await.unwrap(), "content");
    answer(writer.delete("/v1/objects/mine/newer"), 200).await;

    let brief = made(json!({"ttl": "0s"})).await;
    brief.fails(brief.get("/v1/objects/mine/k"), 401, "unauthenticated", "over").await;
    let forged = Web { token: reader.token.replace(".r.", ".rw."), ..reader };
    forged.fails(forged.get("/v1/objects/mine/k"), 401, "unauthenticated", "token").await;
    web.fails(web.post("/v1/buckets/mine/tokens").json(&json!({"ttl": "31d"})), 400, "invalid_argument", "30d").await;
    web.fails(web.post("/v1/buckets/Mine/tokens").json(&json!({})), 400, "invalid_argument", "Mine").await;
}

/// What a token has opened ends with it: what waits is refused, what goes on breaks off, and who comes back hears why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_token_has_opened_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    let edge = store(&hub, "edge", folder.path(), 64 * MIB).await;
    answer(web.put("/v1/objects/logs/first").body("content"), 200).await;
    let (logs, run) = (BucketName::new("logs").unwrap(), Key::new("run").unwrap());
    let log = edge.node.appendable(&logs, &run).await.unwrap();
    log.append(0, "one ".into()).await.unwrap();
    let told = answer(web.post("/v1/buckets/logs/tokens").json(&json!({"ttl": "3s", "write": true})), 201).await;
    let brief = Web { client: web.client.clone(), base: web.base.clone(), token: told["token"].as_str().unwrap().into() };
    let began = std::time::Instant::now();
    // What is done before its end is.
    answer(brief.put("/v1/objects/logs/quick").body("content"), 200).await;
    let at = web.json("/v1/watch/logs").await["next"].as_u64().unwrap();
    let follow = async {
        let mut answer = brief.get("/v1/objects/logs/run?follow=true").send().await.unwrap();
        let of = answer.headers()["etag"].to_str().unwrap().trim_matches('"').to_string();
        assert_eq!(answer.chunk().await.unwrap().unwrap(), "one ");
        // A body that breaks off is no end; it comes when the token ends, with nothing to be read at all.
        let broken = answer.chunk().await;
        assert!(broken.is_err(), "{broken:?}");
        assert!(began.elapsed() < Duration::from_secs(12), "it was read on with for {:?}", began.elapsed());
        brief.fails(brief.get(&format!("/v1/objects/logs/run?follow=true&offset=4&of={of}")), 401, "unauthenticated", "logs/run: this token for bucket logs is over").await;
        // Whose token is good reads on in it.
        let mut on = web.get(&format!("/v1/objects/logs/run?follow=true&offset=0&of={of}")).send().await.unwrap();
        assert_eq!(on.chunk().await.unwrap().unwrap(), "one ");
    };
    let watch = async {
        brief.fails(brief.get(&format!("/v1/watch/logs?after={at}&wait=30s")), 401, "unauthenticated", "logs: this token for bucket logs is over").await;
        assert!(began.elapsed() < Duration::from_secs(12), "it was watched with for {:?}", began.elapsed());
    };
    // What is still being sent is not taken.
    let put = async {
        let slow = futures::stream::unfold(0, |n| async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            (n < 200).then_some((Ok::<_, std::io::Error>("piece"), n + 1))
        });
        brief.fails(brief.put("/v1/objects/logs/slow").body(reqwest::Body::wrap_stream(slow)), 401, "unauthenticated", "logs/slow: this token for bucket logs is over").await;
    };
    tokio::join!(follow, watch, put);
    web.fails(web.get("/v1/stat/logs/slow"), 404, "not_found", "logs/slow").await;
    hub.shutdown().await;
}

#[tokio::test]
async fn a_tenants_buckets_have_no_more_than_its_quota() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    let _edge = store(&hub, "edge", folder.path(), 64 * MIB).await;
    web.fails(web.post("/v1/tenants/farm/quota").json(&json!({"buckets": ["one"]})), 404, "not_found", "no bucket one").await;
    answer(web.put("/v1/objects/one/there").body(content(600)), 200).await;
    answer(web.put("/v1/objects/two/a").body(content(10)), 200).await;
    answer(web.post("/v1/tenants/farm/quota").json(&json!({"buckets": ["one", "two"], "objects": 3, "bytes": 1000})), 200).await;
    web.fails(web.put("/v1/objects/two/large").body(content(500)), 429, "resource_exhausted", "tenant \"farm\"").await;
    answer(web.put("/v1/objects/two/b").body(content(10)), 200).await;
    web.fails(web.put("/v1/objects/one/fourth").body(content(1)), 429, "resource_exhausted", "objects").await;
    answer(web.put("/v1/objects/another/any").body(content(5000)), 200).await;
    answer(web.post("/v1/tenants/farm/quota").json(&json!({})), 200).await;
    answer(web.put("/v1/objects/two/large").body(content(5000)), 200).await;
    web.fails(web.post("/v1/tenants/Farm/quota").json(&json!({})), 400, "invalid_argument", "Farm").await;
    web.fails(web.post("/v1/tenants/farm/quota").json(&json!({"buckets": ["Two"]})), 400, "invalid_argument", "Two").await;
}

#[tokio::test]
async fn the_tiers_of_all_sites_are_told_in_the_nodes_own_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    assert_eq!(web.json("/v1/tiers").await, json!([]));
    let edge = store(&hub, "edge", folder.path(), 64 * MIB).await;
    let cloud = store(&hub, "cloud", folder.path(), MIB).await;
    for (key, len) in [("small", 10), ("large", 200_000)] {
        answer(web.put(&format!("/v1/objects/data/{key}?site=edge")).body(content(len)), 200).await;
    }
    let (bucket, key) = (BucketName::new("data").unwrap(), |name: &str| Key::new(name).unwrap());
    assert!(cloud.node.open_object(&bucket, &key("small")).await.unwrap().bytes() == content(10));
    edge.node.open_object(&bucket, &key("small")).await.unwrap();
    edge.node.spill(&bucket, "large").await.unwrap();

    let tiers = web.json("/v1/tiers").await;
    let of = |site: &str| tiers.as_array().unwrap().iter().find(|t| t["site"] == site).unwrap()["tiers"].clone();
    let numbers = |tiers: &Value, names: &[&str]| names.iter().map(|name| tiers[name].as_u64().unwrap_or_else(|| panic!("{name} in {tiers:#}"))).collect::<Vec<_>>();
    let disk = ["disk_used_bytes", "disk_limit_bytes", "objects", "spilled", "uploaded", "uploaded_bytes", "queued", "memory_limit_bytes"];
    assert_eq!(numbers(&of("edge"), &disk), [edge.node.used_bytes(), 64 * MIB, 1, 1, 1, 200_000, 0, 0]);
    assert_eq!(edge.node.used_bytes(), 10);
    assert!(of("edge")["opened_here"].as_u64().unwrap() > 0);
    assert_eq!(numbers(&of("cloud"), &["disk_used_bytes", "objects", "fetched", "fetched_bytes", "attached"]), [10, 1, 1, 10, 0]);
    assert_eq!(of("cloud")["persistency"], "works");

    // One that nobody reaches is named, and the others are told all the same.
    edge.accept.abort();
    let mut tiers = Value::Null;
    for _ in 0..1000 {
        tiers = web.json("/v1/tiers").await;
        if tiers[1]["tiers"].is_null() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((&tiers[0]["site"], &tiers[0]["tiers"]["objects"], &tiers[1]["site"]), (&json!("cloud"), &json!(1), &json!("edge")));
    assert!(tiers[1]["reason"].as_str().unwrap().contains("edge"), "{tiers:#}");
}

/// Bytes come as they are appended, until it is sealed; who leaves makes room for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_grows_at_a_site_is_followed_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    let edge = store(&hub, "edge", folder.path(), 64 * MIB).await;
    let (logs, run) = (BucketName::new("logs").unwrap(), Key::new("run").unwrap());
    edge.node.create_bucket(&logs).await.unwrap();
    web.fails(web.get("/v1/objects/logs/run?follow=true"), 404, "not_found", "logs/run").await;
    web.fails(web.get("/v1/objects/logs/run?offset=1"), 400, "invalid_argument", "follow=true").await;
    let log = edge.node.appendable(&logs, &run).await.unwrap();
    log.append(0, "one ".into()).await.unwrap();
    web.fails(web.get("/v1/objects/logs/run"), 404, "not_found", "logs/run").await;

    let follow = async |offset: u64| web.get(&format!("/v1/objects/logs/run?follow=true&offset={offset}")).send().await.unwrap();
    let mut first = follow(0).await;
    assert_eq!(first.status().as_u16(), 200);
    assert_eq!(first.chunk().await.unwrap().unwrap(), "one ");
    log.append(4, "two ".into()).await.unwrap();
    let began = std::time::Instant::now();
    assert_eq!(first.chunk().await.unwrap().unwrap(), "two ");
    assert!(began.elapsed() < Duration::from_secs(4), "it came late: {:?}", began.elapsed());
    assert_eq!(follow(4).await.chunk().await.unwrap().unwrap(), "two ");

    // A bucket has as many as it leaves free, and who has gone counts no more.
    let mut others = Vec::new();
    let refused = loop {
        let answer = follow(0).await;
        if answer.status() != 200 {
            break answer;
        }
        others.push(answer);
        assert!(others.len() < 100, "nobody is refused");
    };
    assert_eq!(refused.status().as_u16(), 429);
    assert!(refused.text().await.unwrap().contains("logs/run"));
    assert!(others.len() >= 60, "{} others", others.len());
    // Others find a place all the same.
    let aside = BucketName::new("aside").unwrap();
    edge.node.create_bucket(&aside).await.unwrap();
    let beside = edge.node.appendable(&aside, &run).await.unwrap();
    beside.append(0, "here".into()).await.unwrap();
    assert_eq!(web.get("/v1/objects/aside/run?follow=true").send().await.unwrap().chunk().await.unwrap().unwrap(), "here");
    drop(others);
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while follow(0).await.status() != 200 {
        assert!(std::time::Instant::now() < end, "there is no room for others");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    log.append(8, "end".into()).await.unwrap();
    log.seal().await.unwrap();
    let mut rest = Vec::new();
    while let Some(piece) = first.chunk().await.unwrap() {
        rest.extend_from_slice(&piece);
    }
    assert_eq!(rest, b"end");
    assert_eq!(follow(2).await.text().await.unwrap(), "e two end");
    assert_eq!(follow(11).await.text().await.unwrap(), "");
    web.fails(web.get("/v1/objects/logs/run?follow=true&offset=12"), 400, "invalid_argument", "11 bytes").await;

    // Who follows one is never given another one's bytes, however the key is used.
    let (used, path) = (Key::new("used").unwrap(), "/v1/objects/logs/used?follow=true");
    let growing = edge.node.appendable(&logs, &used).await.unwrap();
    growing.append(0, "of the first".into()).await.unwrap();
    let answer = web.get(path).send().await.unwrap();
    let of = answer.headers()["etag"].to_str().unwrap().trim_matches('"').to_string();
    drop(answer);
    growing.seal().await.unwrap();
    let again = web.get(&format!("{path}&offset=3&of={of}")).send().await.unwrap();
    assert_eq!(again.text().await.unwrap(), "the first");
    edge.node.rename(&logs, &used, &Key::new("away").unwrap()).await.unwrap();
    let growing = edge.node.appendable(&logs, &used).await.unwrap();
    growing.append(0, "of the second one".into()).await.unwrap();
    growing.seal().await.unwrap();
    let again = web.get(&format!("{path}&offset=3&of={of}")).send().await.unwrap();
    assert_eq!(again.text().await.unwrap(), "the first");
    edge.node.delete(&logs, &Key::new("away").unwrap()).await.unwrap();
    web.fails(web.get(&format!("{path}&offset=3&of={of}")), 404, "not_found", "logs/used").await;
    assert_eq!(web.get(path).send().await.unwrap().text().await.unwrap(), "of the second one");
    web.fails(web.get(&format!("{path}&of=x")), 400, "invalid_argument", "ETag").await;

    // What is removed before it is sealed breaks its readers off: that is no end.
    let (gone, log) = (Key::new("gone").unwrap(), "/v1/objects/logs/gone?follow=true");
    let growing = edge.node.appendable(&logs, &gone).await.unwrap();
    growing.append(0, "half".into()).await.unwrap();
    let mut reader = web.get(log).send().await.unwrap();
    assert_eq!(reader.chunk().await.unwrap().unwrap(), "half");
    growing.discard().await.unwrap();
    assert!(reader.chunk().await.is_err());
    drop(edge);
    hub.shutdown().await;
}
