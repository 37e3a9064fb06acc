//! Checkpoints that have what has changed since another one: when they are made, what is kept, what a damaged one costs, and files of them. Fake agents,
//! whose snapshots are words, each with a real GEDS node.

use crate::{
    fake::*,
    http::Web,
    objects::{Store, answer, format, site, start, store},
};
use geds::{BucketName, Key, PeerClient};
use orchestrator::{
    Handle, Options,
    checkpoints::INCREMENTS_MAX,
    hub::Submit,
    jobs::JobState,
    proto::{
        self, CheckpointOrder,
        checkpoint_order::Phase,
        from_agent::Body as From,
        rank_event::State::{Exited, Failed, Running},
        to_agent::Body,
    },
};
use serde_json::{Value, json};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Between two checkpoints by schedule; the tests say when it is over.
const HOUR_MS: u64 = 3_600_000;

/// A job of one rank at the edge with a checkpoint each hour.
async fn scheduled(hub: &Handle, edge: &mut Store) {
    start(hub, edge, Submit { checkpoint_every: Some("1h".into()), ..ask(1, "edge") }).await;
}

/// The hour is over.
async fn due(hub: &Handle) {
    let mut world = hub.hub.world.lock().await;
    let last = world.tried.get(&1).copied().unwrap_or_else(base::clock::now_ms);
    hub.hub.keep_checkpoints(&mut world, last + HOUR_MS).await;
}

/// Answers the orders of one checkpoint, as an agent does that knows the parent which it is told, or knows none. Gives what it was told.
async fn obey(store: &mut Store, knows: bool, bytes: u64) -> CheckpointOrder {
    let bucket = BucketName::new("checkpoints").unwrap();
    let mut told = CheckpointOrder::default();
    for phase in [Phase::Ahead, Phase::Stop, Phase::Copy, Phase::Write] {
        let order = match store.agent.order().await {
            Body::Checkpoint(order) if order.phase() == phase => order,
            other => panic!("{other:?} instead of {phase:?}"),
        };
        let mut step = proto::CheckpointStep { checkpoint: order.checkpoint, job: order.job.clone(), phase: order.phase, ok: true, ..Default::default() };
        if phase == Phase::Write {
            step.increment = knows && !order.parent.is_empty() && !order.complete;
            let since = if step.increment { format!(" since {}", order.parent) } else { String::new() };
            let key = Key::new(format!("{}/rank-0", order.prefix)).unwrap();
            store.node.put(&bucket, &key, format!("{}{since}", order.prefix).into()).await.unwrap();
            (step.bytes, step.copies, step.paused_us) = (bytes, 1, 1500);
            if !order.copy_site.is_empty() {
                let mut peer = PeerClient::dial(&store.dialer, &site(&order.copy_site), &order.copy_address).await.unwrap();
                step.copies = peer.keep(&bucket, &key).await.unwrap().sites.len() as u32;
            }
        }
        store.agent.say(From::Checkpoint(step)).await;
        told = order;
    }
    match store.agent.order().await {
        Body::Checkpoint(order) if order.phase() == Phase::Resume => told,
        other => panic!("{other:?}"),
    }
}

/// The next checkpoint by schedule, of so many bytes. Gives the prefix on which it may stand.
async fn next(hub: &Handle, store: &mut Store, bytes: u64) -> String {
    due(hub).await;
    obey(store, true, bytes).await.parent
}

/// The checkpoints that are kept, each with its parent, once they are these.
async fn kept(web: &Web, want: &[(u64, Option<u64>)]) {
    let mut now = Vec::new();
    for _ in 0..500 {
        let list = web.json("/v1/checkpoints").await;
        now = list.as_array().unwrap().iter().map(|c| (c["id"].as_u64().unwrap(), c["parent"].as_u64())).collect();
        if now == want {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{now:?} never became {want:?}");
}

/// The snapshots in the store, once they are of these checkpoints.
async fn stored(web: &Web, want: &[u64]) {
    let want: Vec<String> = want.iter().map(|n| format!("job-1/{n}/rank-0")).collect();
    let mut now: Vec<String> = Vec::new();
    for _ in 0..500 {
        let list = web.json("/v1/objects/checkpoints").await;
        now = list.as_array().unwrap().iter().map(|o| o["key"].as_str().unwrap().to_string()).collect();
        now.sort_by_key(|key| key.len());
        if now == want {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{now:?} never became {want:?}");
}

#[tokio::test]
async fn each_stands_on_the_one_before_until_there_are_enough() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    let (mut edge, _cloud) = (store(&hub, "edge", folder.path(), MIB).await, store(&hub, "cloud", folder.path(), MIB).await);
    scheduled(&hub, &mut edge).await;
    for parent in ["", "job-1/1", "job-1/2"] {
        assert_eq!(next(&hub, &mut edge, if parent.is_empty() { 1000 } else { 10 }).await, parent);
    }
    kept(&web, &[(1, None), (2, Some(1)), (3, Some(2))]).await;
    let third = web.json("/v1/checkpoints").await[2].clone();
    for (field, value) in [("increments", 2), ("bytes", 10), ("paused_us", 1500), ("copies", 2)] {
        assert_eq!(third[field], value, "{field} of {third}");
    }
    let events = hub.hub.events.last(0, 50).await.unwrap();
    assert!(events.iter().any(|e| e.message == "checkpoint 3: 10 bytes of changes since checkpoint 2, for which ranks stood still for 1.5 ms"), "{events:?}");

    // What another stands on can't be removed, and which that is is said.
    web.fails(web.delete("/v1/checkpoints/1"), 409, "failed_precondition", "checkpoint 2 has only what has changed since checkpoint 1").await;
    // A user's is complete and stands in nobody's way.
    let call = tokio::spawn(web.post("/v1/jobs/job-1/checkpoint").send());
    let asked = obey(&mut edge, true, 10).await;
    assert!(asked.complete && asked.parent == "job-1/3", "the agent is to go on knowing that one: {asked:?}");
    let users: Value = call.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!((&users["id"], &users["parent"], &users["increments"]), (&json!(4), &Value::Null, &json!(0)));
    assert_eq!(next(&hub, &mut edge, 10).await, "job-1/3");
    assert_eq!(answer(web.delete("/v1/checkpoints/4"), 200).await["kept"], true);
    // Nor can one be removed on which one stands that is being made.
    due(&hub).await;
    web.fails(web.delete("/v1/checkpoints/5"), 409, "failed_precondition", "checkpoint 6 has only what has changed since checkpoint 5").await;
    assert_eq!(obey(&mut edge, true, 10).await.parent, "job-1/5");

    // Eight of them are enough.
    for n in 7..=10 {
        assert_eq!(next(&hub, &mut edge, 10).await, format!("job-1/{}", n - 1));
    }
    assert_eq!(web.json("/v1/checkpoints").await.as_array().unwrap().last().unwrap()["increments"], json!(INCREMENTS_MAX));
    assert_eq!(next(&hub, &mut edge, 12).await, "");
    // The last of the chain before is one of the two that are kept, with all on which it stands.
    let chain = [(1, None), (2, Some(1)), (3, Some(2)), (5, Some(3)), (6, Some(5)), (7, Some(6)), (8, Some(7)), (9, Some(8)), (10, Some(9))];
    kept(&web, &[&chain[..], &[(11, None)]].concat()).await;
    stored(&web, &[1, 2, 3, 5, 6, 7, 8, 9, 10, 11]).await;
    // Of it the complete one stays while the new chain lasts.
    assert_eq!(next(&hub, &mut edge, 7).await, "job-1/11");
    kept(&web, &[(1, None), (11, None), (12, Some(11))]).await;
    stored(&web, &[1, 11, 12]).await;
    // A complete one, too, when those since the last have more bytes than that.
    assert_eq!(next(&hub, &mut edge, 7).await, "job-1/12");
    assert_eq!(next(&hub, &mut edge, 12).await, "", "7 and 7 are more than 12");
    kept(&web, &[(11, None), (12, Some(11)), (13, Some(12)), (14, None)]).await;
    assert_eq!(next(&hub, &mut edge, 7).await, "job-1/14");
    kept(&web, &[(11, None), (14, None), (15, Some(14))]).await;

    // Of a job that has ended none is left, nor any object.
    edge.agent.rank(0, 1, Exited, 0).await;
    until(&hub, JobState::Succeeded).await;
    kept(&web, &[]).await;
    stored(&web, &[]).await;
}

#[tokio::test]
async fn a_chain_with_fewer_copies_than_a_new_one_is_not_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    let mut edge = store(&hub, "edge", folder.path(), MIB).await;
    scheduled(&hub, &mut edge).await;
    assert_eq!(next(&hub, &mut edge, 1000).await, "");
    assert_eq!(next(&hub, &mut edge, 10).await, "job-1/1", "no other site could have a copy");
    let _cloud = store(&hub, "cloud", folder.path(), MIB).await;
    assert_eq!(next(&hub, &mut edge, 1000).await, "");
    assert_eq!(next(&hub, &mut edge, 10).await, "job-1/3");
    // Nor one of which a snapshot is gone, and with it all that stands on it.
    answer(web.delete("/v1/objects/checkpoints/job-1/3/rank-0"), 200).await;
    let list = web.json("/v1/checkpoints").await;
    let copies: Vec<(u64, u64)> = list.as_array().unwrap().iter().map(|c| (c["id"].as_u64().unwrap(), c["copies"].as_u64().unwrap())).collect();
    assert_eq!(copies, [(1, 1), (3, 0), (4, 0)]);
    assert_eq!(next(&hub, &mut edge, 1000).await, "");
    // An agent that does not know the parent writes a complete one.
    due(&hub).await;
    assert_eq!(obey(&mut edge, false, 1000).await.parent, "job-1/5");
    kept(&web, &[(5, None), (6, None)]).await;
}

#[tokio::test]
async fn a_damaged_one_costs_what_stands_on_it_and_one_restart() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    let mut edge = store(&hub, "edge", folder.path(), MIB).await;
    scheduled(&hub, &mut edge).await;
    for bytes in [1000, 10, 10, 10] {
        next(&hub, &mut edge, bytes).await;
    }
    let lose = async || {
        let mut world = hub.hub.world.lock().await;
        let lost = world.job("job-1").unwrap().clone();
        hub.hub.recover(&mut world, lost, "a test wants it").await.unwrap().unwrap();
    };
    let begins = async |edge: &mut Store, from: &str, parents: &[&str], epoch: u64| {
        assert!(matches!(edge.agent.order().await, Body::Cancel(_)));
        let Body::Start(s) = edge.agent.order().await else { panic!("it does not begin again") };
        assert_eq!((s.from_checkpoint.as_str(), s.from_parents, s.start[0].epoch), (from, parents.iter().map(|p| p.to_string()).collect(), epoch));
    };
    let damaged = async |edge: &mut Store, prefix: &str, epoch: u64| {
        let event = proto::RankEvent { job: "job-1".into(), epoch, state: Failed as i32, exit_code: 1, message: "damaged".into(), bad_checkpoint: true, bad_prefix: prefix.into(), ..Default::default() };
        edge.agent.say(From::Rank(event)).await;
    };
    lose().await;
    begins(&mut edge, "job-1/4", &["job-1/3", "job-1/2", "job-1/1"], 2).await;
    damaged(&mut edge, "job-1/3", 2).await;
    begins(&mut edge, "job-1/2", &["job-1/1"], 3).await;
    edge.agent.rank(0, 3, Running, 0).await;
    until(&hub, JobState::Running).await;
    assert_eq!(hub.hub.world.lock().await.job("job-1").unwrap().restarts, 2);
    let events = hub.hub.events.last(0, 50).await.unwrap();
    let said: Vec<&str> = events.iter().filter(|e| e.kind == "checkpoint.unusable").map(|e| e.message.as_str()).collect();
    assert_eq!(said, ["checkpoint job-1/3: damaged"]);
    // Nothing more stands on what is damaged, and what does goes.
    assert_eq!(next(&hub, &mut edge, 100).await, "");
    kept(&web, &[(1, None), (2, Some(1)), (5, None)]).await;
    stored(&web, &[1, 2, 5]).await;
    assert_eq!(next(&hub, &mut edge, 100).await, "job-1/5");
    kept(&web, &[(1, None), (5, None), (6, Some(5))]).await;
    // An agent that names what is none of the job's means the one from which it was to begin.
    lose().await;
    begins(&mut edge, "job-1/6", &["job-1/5"], 4).await;
    damaged(&mut edge, "job-9/9", 4).await;
    begins(&mut edge, "job-1/5", &[], 5).await;
    // The chain before the current one is still good for its complete one.
    damaged(&mut edge, "job-1/5", 5).await;
    begins(&mut edge, "job-1/1", &[], 6).await;
}

#[tokio::test]
async fn files_of_increments_are_complete() {
    let folder = tempfile::tempdir().unwrap();
    let begin = async || hub_with(folder.path(), Options { archive: Some(format()), ..Options::default() }).await;
    let hub = begin().await;
    let web = Web::new(&hub);
    let mut edge = store(&hub, "edge", folder.path(), MIB).await;
    scheduled(&hub, &mut edge).await;
    for _ in 0..3 {
        next(&hub, &mut edge, 100).await;
    }
    let whole = "job-1/3+job-1/2+job-1/1";
    let file = web.get("/v1/checkpoints/3/archive").send().await.unwrap().bytes().await.unwrap();
    let (manifest, mut parts) = (format().read)(&file).unwrap();
    assert_eq!(String::from_utf8_lossy(&parts[1].1), whole);
    // So is what a job begins from, with a file or without one.
    for (n, call) in [(2, web.post("/v1/restore").body(file)), (3, web.post("/v1/restore?checkpoint=3"))] {
        answer(call, 201).await;
        let prefix = format!("job-{n}/restored");
        assert!(matches!(edge.agent.order().await, Body::Start(s) if s.from_checkpoint == prefix && s.from_parents.is_empty()));
        let bucket = BucketName::new("checkpoints").unwrap();
        let object = edge.node.open_object(&bucket, &Key::new(format!("{prefix}/rank-0")).unwrap()).await.unwrap();
        assert_eq!(String::from_utf8_lossy(object.bytes()), whole);
    }
    // A file that somebody has made of an increment alone is refused.
    parts[1].1 = b"job-1/3 since job-1/2".to_vec();
    let alone = (format().write)(&manifest, parts);
    web.fails(web.post("/v1/restore").body(alone), 400, "invalid_argument", "rank 0 of the checkpoint has only what has changed since checkpoint job-1/2, which is not in the file").await;
    // One of a chain is not what it was.
    answer(web.put("/v1/objects/checkpoints/job-1/2/rank-0").body(vec![0xff]), 200).await;
    web.fails(web.get("/v1/checkpoints/3/archive"), 500, "data_loss", "rank 0 of checkpoint 3 can't be used: a snapshot is damaged").await;
    assert_eq!(web.get("/v1/checkpoints/1/archive").send().await.unwrap().status(), 200);
    // Another hub in the same folder knows what stands on what.
    let before = web.json("/v1/checkpoints").await;
    hub.shutdown().await;
    let after = Web::new(&begin().await).json("/v1/checkpoints").await;
    assert_eq!((&after[2]["parent"], &after), (&json!(2), &before));
}
