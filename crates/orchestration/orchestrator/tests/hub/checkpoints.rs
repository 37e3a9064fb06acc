//! Checkpoints of jobs, and jobs that go on from them. The agents here write nothing; `objects.rs` has those that do.

use crate::fake::*;
use orchestrator::{
    hub::Submit,
    jobs::{JobState, RankState},
    proto::{
        self,
        checkpoint_order::Phase,
        from_agent::Body as From,
        rank_event::State::{Cancelled, Exited, Failed, Running},
        to_agent::Body,
    },
};
use std::time::Duration;

/// Takes the orders of a checkpoint at both sites and answers them; the bytes are 10 and 20.
async fn write(edge: &mut Agent, cloud: &mut Agent) {
    write_copies(edge, cloud, ["", ""]).await;
}

/// The same; a site's text says why its snapshots have no second copy.
async fn write_copies(edge: &mut Agent, cloud: &mut Agent, alone: [&str; 2]) {
    for phase in [Phase::Ahead, Phase::Stop, Phase::Copy, Phase::Write] {
        for (agent, bytes, alone) in [(&mut *edge, 10, alone[0]), (&mut *cloud, 20, alone[1])] {
            let Body::Checkpoint(order) = agent.order().await else { panic!("no order to {phase:?}") };
            assert_eq!(order.phase(), phase);
            let bytes = if phase == Phase::Write { bytes } else { 0 };
            let copies = if alone.is_empty() { 2 } else { 1 };
            let reason = if phase == Phase::Write { alone.to_string() } else { String::new() };
            let step = proto::CheckpointStep { checkpoint: order.checkpoint, job: order.job, phase: phase as i32, ok: true, reason, bytes, copies, ..Default::default() };
            agent.say(From::Checkpoint(step)).await;
        }
    }
    for agent in [edge, cloud] {
        assert!(matches!(agent.order().await, Body::Checkpoint(o) if o.phase() == Phase::Resume));
    }
}

/// A job of five ranks over both sites: four at the cloud, one at the edge.
async fn spread(hub: &orchestrator::Handle) -> (Agent, Agent) {
    let (mut edge, mut cloud) = (Agent::new(hub, "edge").await, Agent::new(hub, "cloud").await);
    hub.hub.submit(Submit { site: None, ..ask(5, "") }).await.unwrap();
    assert!(matches!(edge.order().await, Body::Start(s) if s.start.len() == 1 && s.from_checkpoint.is_empty()));
    assert!(matches!(cloud.order().await, Body::Start(s) if s.start.len() == 4));
    for rank in 0..4 {
        cloud.rank(rank, 1, Running, 0).await;
    }
    edge.rank(4, 1, Running, 0).await;
    while hub.hub.world.lock().await.job("job-1").unwrap().ranks.iter().any(|r| r.state != RankState::Running) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (edge, cloud)
}

#[tokio::test]
async fn a_job_goes_on_from_its_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, mut cloud) = spread(&hub).await;
    // One that a site can't write leaves the ranks running and the job without a checkpoint.
    let making = tokio::spawn({ let hub = hub.hub.clone(); async move { hub.checkpoint("job-1").await } });
    let Body::Checkpoint(stop) = edge.order().await else { panic!("no order to stop") };
    assert!(matches!(cloud.order().await, Body::Checkpoint(_)));
    let refused = hub.hub.migrate("job-1", "cloud", Some(vec![4]), None).await.unwrap_err().to_string();
    assert!(refused.contains("slots") || refused.contains("checkpoint"), "{refused}");
    edge.say(From::Checkpoint(proto::CheckpointStep { checkpoint: stop.checkpoint, job: stop.job, phase: stop.phase, reason: "disk full".into(), ..Default::default() })).await;
    assert!(making.await.unwrap().unwrap_err().to_string().contains("disk full"));
    for agent in [&mut edge, &mut cloud] {
        assert!(matches!(agent.order().await, Body::Checkpoint(o) if o.phase() == Phase::Resume));
    }
    let failed = hub.hub.world.lock().await.job("job-1").unwrap().checkpoint_failed.clone();
    assert!(failed.unwrap().reason.contains("disk full"), "the job tells of it");
    let making = tokio::spawn({ let hub = hub.hub.clone(); async move { hub.checkpoint("job-1").await } });
    write(&mut edge, &mut cloud).await;
    let checkpoint = making.await.unwrap().unwrap();
    assert_eq!((checkpoint.bytes, checkpoint.copies, checkpoint.prefix.as_str()), (30, 2, "job-1/2"));
    assert!(hub.hub.world.lock().await.job("job-1").unwrap().checkpoint_failed.is_none());
    // A third site has room for what the edge held; the cloud alone has not.
    let mut fog = Agent::new(&hub, "fog").await;
    drop(edge);
    assert!(matches!(cloud.order().await, Body::Cancel(c) if c.reason.contains("starts again")));
    assert!(matches!(cloud.order().await, Body::Start(s) if s.from_checkpoint == "job-1/2" && s.spec.as_ref().unwrap().life == 1 && s.start.iter().all(|p| p.epoch == 2)));
    assert!(matches!(fog.order().await, Body::Start(s) if s.start.len() == 1));
    cloud.rank(0, 1, Cancelled, 0).await; // the older life's last words
    for rank in 0..4 {
        cloud.rank(rank, 2, Exited, 0).await;
    }
    fog.rank(4, 2, Exited, 0).await;
    assert_eq!(until(&hub, JobState::Succeeded).await.restarts, 1);
}

#[tokio::test]
async fn checkpoints_are_made_as_often_as_asked_and_outlive_the_hub() {
    let folder = tempfile::tempdir().unwrap();
    let first = hub(folder.path()).await;
    let mut edge = Agent::new(&first, "edge").await;
    first.hub.submit(Submit { checkpoint_every: Some("100ms".into()), ..ask(1, "edge") }).await.unwrap();
    assert!(matches!(edge.order().await, Body::Start(_)));
    edge.rank(0, 1, Running, 0).await;
    for phase in [Phase::Ahead, Phase::Stop, Phase::Copy, Phase::Write] {
        let Body::Checkpoint(o) = edge.order().await else { panic!("no order to {phase:?}") };
        edge.say(From::Checkpoint(proto::CheckpointStep { checkpoint: o.checkpoint, job: o.job, phase: phase as i32, ok: true, ..Default::default() })).await;
    }
    assert!(matches!(edge.order().await, Body::Checkpoint(o) if o.phase() == Phase::Resume));
    first.shutdown().await;
    let second = hub(folder.path()).await;
    let hello = proto::Hello { instance: "2".into(), ..Default::default() };
    let mut edge = Agent::session(&second, edge.cut(), "edge", hello).await; // the agent was started anew, too
    loop {
        match edge.order().await {
            Body::Start(s) => break assert!(s.from_checkpoint == "job-1/1" && s.start[0].epoch == 2),
            _ => {}
        }
    }
    assert_eq!(until(&second, JobState::Pending).await.restarts, 1);
}

#[tokio::test]
async fn a_checkpoint_without_second_copies_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, mut cloud) = spread(&hub).await;
    for (alone, copies, says) in [(["", ""], 2, None), (["", "rank 2 has no second copy at edge: no space"], 1, Some("site \"cloud\": rank 2 has no second copy at edge: no space"))] {
        let making = tokio::spawn({ let hub = hub.hub.clone(); async move { hub.checkpoint("job-1").await } });
        write_copies(&mut edge, &mut cloud, alone).await;
        assert_eq!(making.await.unwrap().unwrap().copies, copies);
        let events = hub.hub.events.last(0, 10).await.unwrap();
        let done = events.iter().rev().find(|e| e.kind == "checkpoint.done").unwrap();
        assert_eq!(done.message.contains("at one site only"), says.is_some(), "{}", done.message);
        assert!(done.message.contains(says.unwrap_or("30 bytes")), "{}", done.message);
    }
}

#[tokio::test]
async fn a_job_of_which_a_rank_has_exited_makes_no_more_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let mut edge = Agent::new(&hub, "edge").await;
    hub.hub.submit(Submit { checkpoint_every: Some("1s".into()), ..ask(3, "edge") }).await.unwrap();
    assert!(matches!(edge.order().await, Body::Start(_)));
    for rank in 0..3 {
        edge.rank(rank, 1, Running, 0).await;
    }
    for rank in [1, 0] {
        edge.rank(rank, 1, Exited, 0).await;
    }
    let told = async || hub.hub.events.last(0, 20).await.unwrap().into_iter().filter(|e| e.kind == "checkpoint.over").collect::<Vec<_>>();
    let said = async { while told().await.is_empty() { tokio::time::sleep(Duration::from_millis(10)).await } };
    tokio::time::timeout(Duration::from_secs(20), said).await.expect("it is said");
    let refused = hub.hub.checkpoint("job-1").await.unwrap_err().to_string();
    assert!(refused.contains("rank 0 has exited") || refused.contains("rank 1 has exited"), "{refused}");
    let order = tokio::time::timeout(Duration::from_millis(1500), edge.order()).await;
    assert!(order.is_err(), "{order:?}");
    let told = told().await;
    assert!(told.len() == 1 && told[0].subject == "job-1" && told[0].message.contains("rank 1 has exited"), "said once: {told:?}");
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_used_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, mut cloud) = spread(&hub).await;
    for _ in 0..2 {
        let making = tokio::spawn({ let hub = hub.hub.clone(); async move { hub.checkpoint("job-1").await } });
        write(&mut edge, &mut cloud).await;
        making.await.unwrap().unwrap();
    }
    let mut fog = Agent::new(&hub, "fog").await;
    drop(edge);
    let unusable = |rank, epoch, message: &str| {
        From::Rank(proto::RankEvent { job: "job-1".into(), rank, epoch, state: Failed as i32, exit_code: 1, message: message.into(), bad_checkpoint: true, ..Default::default() })
    };
    // The newest, then the one before, and then there is none.
    for (epoch, prefix) in [(2, "job-1/2"), (3, "job-1/1")] {
        assert!(matches!(cloud.order().await, Body::Cancel(_)));
        let Body::Start(s) = cloud.order().await else { panic!("it does not begin again") };
        assert_eq!((s.from_checkpoint.as_str(), s.spec.unwrap().life, s.start[0].epoch), (prefix, epoch as u32 - 1, epoch));
        while !matches!(fog.order().await, Body::Start(s) if s.from_checkpoint == prefix) {}
        cloud.say(unusable(0, epoch, &format!("{prefix} is damaged"))).await;
        // What a second rank says of the same comes too late.
        cloud.say(unusable(1, epoch, &format!("{prefix} is damaged"))).await;
    }
    assert!(matches!(cloud.order().await, Body::Cancel(_)));
    for rank in 1..4 {
        cloud.rank(rank, 3, Cancelled, 0).await;
    }
    fog.rank(4, 3, Cancelled, 0).await;
    let job = until(&hub, JobState::Failed).await;
    assert!(job.reason.contains("job-1/1 is damaged") && job.reason.contains("no other checkpoint of the job is left"), "{}", job.reason);
    assert_eq!(job.restarts, 2);
    let events = hub.hub.events.last(0, 50).await.unwrap();
    let said: Vec<&str> = events.iter().filter(|e| e.kind == "checkpoint.unusable").map(|e| e.message.as_str()).collect();
    assert_eq!(said, ["checkpoint job-1/2: job-1/2 is damaged", "checkpoint job-1/1: job-1/1 is damaged"]);
}

#[tokio::test]
async fn a_checkpoint_that_is_not_made_when_it_is_due_is_told_once_and_a_move_can_wait_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, cloud) = (Agent::new(&hub, "edge").await, Agent::new(&hub, "cloud").await);
    hub.hub.submit(Submit { checkpoint_every: Some("1s".into()), ..ask(2, "edge") }).await.unwrap();
    assert!(matches!(edge.order().await, Body::Start(_)));
    for rank in 0..2 {
        edge.rank(rank, 1, Running, 0).await;
    }
    let Body::Checkpoint(stop) = edge.order().await else { panic!("no order to stop") };
    // Refused meanwhile, unless it may wait.
    let web = crate::http::Web::new(&hub);
    let ask = |wait: bool| web.post("/v1/jobs/job-1/migrate").json(&serde_json::json!({"to": "cloud", "wait": wait}));
    web.fails(ask(false), 409, "failed_precondition", "a checkpoint of job job-1 is being made").await;
    let waits = tokio::spawn(ask(true).send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waits.is_finished(), "the checkpoint goes first");
    let step = proto::CheckpointStep { checkpoint: stop.checkpoint, job: stop.job, phase: stop.phase, reason: "no space".into(), ..Default::default() };
    edge.say(From::Checkpoint(step)).await;
    let moved: serde_json::Value = waits.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(moved["to"], "cloud");
    // The move, which nobody ends, is now in the way each time.
    let told = async || hub.hub.events.last(0, 50).await.unwrap().into_iter().filter(|e| e.kind == "checkpoint.failed").map(|e| e.message).collect::<Vec<_>>();
    let said = async { while told().await.len() < 2 { tokio::time::sleep(Duration::from_millis(10)).await } };
    tokio::time::timeout(Duration::from_secs(20), said).await.expect("it is said");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let told = told().await;
    assert!(told.len() == 2 && told[0].contains("no space") && told[1].contains("none was made when it was due: migration 1"), "{told:?}");
    let job = web.json("/v1/jobs/job-1").await;
    assert!(job["checkpoint_failed"]["reason"].as_str().unwrap().contains("migration 1"), "{job}");
    drop(cloud);
}

#[tokio::test]
async fn a_checkpoint_that_takes_longer_than_the_time_between_two_is_no_failure_slow() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let mut edge = Agent::new(&hub, "edge").await;
    hub.hub.submit(Submit { checkpoint_every: Some("500ms".into()), ..ask(1, "edge") }).await.unwrap();
    assert!(matches!(edge.order().await, Body::Start(_)));
    edge.rank(0, 1, Running, 0).await;
    for phase in [Phase::Ahead, Phase::Stop, Phase::Copy, Phase::Write] {
        let Body::Checkpoint(o) = edge.order().await else { panic!("no order to {phase:?}") };
        tokio::time::sleep(Duration::from_secs(1)).await; // slow: what must not happen takes its time
        edge.say(From::Checkpoint(proto::CheckpointStep { checkpoint: o.checkpoint, job: o.job, phase: phase as i32, ok: true, ..Default::default() })).await;
    }
    assert!(matches!(edge.order().await, Body::Checkpoint(o) if o.phase() == Phase::Resume));
    let told = async || hub.hub.events.last(0, 50).await.unwrap().into_iter().filter(|e| e.kind.starts_with("checkpoint.")).collect::<Vec<_>>();
    let said = async { while told().await.is_empty() { tokio::time::sleep(Duration::from_millis(10)).await } };
    tokio::time::timeout(Duration::from_secs(20), said).await.expect("it is said");
    assert!(matches!(&told().await[..], [done] if done.kind == "checkpoint.done"), "{:?}", told().await);
    assert!(hub.hub.world.lock().await.job("job-1").unwrap().checkpoint_failed.is_none());
    // And then the next one is due.
    assert!(matches!(edge.order().await, Body::Checkpoint(o) if o.phase() == Phase::Ahead));
}

/// Its ranks run while what was taken of them is written. A user has it all the same; of one by schedule nobody speaks.
#[tokio::test]
async fn a_job_may_end_while_a_checkpoint_of_it_is_written() {
    for asked in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let hub = hub(folder.path()).await;
        let mut edge = Agent::new(&hub, "edge").await;
        hub.hub.submit(Submit { checkpoint_every: (!asked).then(|| "100ms".into()), ..ask(1, "edge") }).await.unwrap();
        assert!(matches!(edge.order().await, Body::Start(_)));
        edge.rank(0, 1, Running, 0).await;
        until(&hub, JobState::Running).await;
        let made = asked.then(|| tokio::spawn({ let hub = hub.hub.clone(); async move { hub.checkpoint("job-1").await } }));
        for phase in [Phase::Ahead, Phase::Stop, Phase::Copy, Phase::Write] {
            let Body::Checkpoint(o) = edge.order().await else { panic!("no order to {phase:?}") };
            assert_eq!(o.phase(), phase);
            if phase == Phase::Write {
                edge.rank(0, 1, Exited, 0).await;
                until(&hub, JobState::Succeeded).await;
            }
            edge.say(From::Checkpoint(proto::CheckpointStep { checkpoint: o.checkpoint, job: o.job, phase: o.phase, ok: true, bytes: 10, copies: 1, ..Default::default() })).await;
        }
        if let Some(made) = made {
            assert_eq!(made.await.unwrap().unwrap().bytes, 10);
        }
        let world = hub.hub.world.lock().await;
        assert_eq!((world.making.len(), world.checkpoints.len()), (0, usize::from(asked)));
        drop(world);
        let events = hub.hub.events.last(0, 50).await.unwrap();
        assert!(!events.iter().any(|e| e.kind == "checkpoint.failed"), "{events:?}");
    }
}
