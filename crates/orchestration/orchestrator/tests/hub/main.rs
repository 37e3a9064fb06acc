//! The hub against fake agents that speak the real protocol over mutual TLS.

mod agents;
mod checkpoints;
mod fake;
mod http;
mod increments;
mod lists;
mod objects;
mod scenarios;

use fake::*;
use orchestrator::{
    hub::Submit,
    jobs::{JobState, RankState},
    migrations::MigrationState,
    proto::{
        self,
        from_agent::Body as From,
        hub_client::HubClient,
        rank_event::State::{Cancelled, Exited, Running},
        to_agent::Body,
    },
};
use std::time::Duration;

#[tokio::test]
async fn join_needs_a_good_token_and_a_session_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let token = hub.mint_join_token("edge", Duration::from_secs(60)).await.unwrap();
    let old = hub.mint_join_token("edge", Duration::ZERO).await.unwrap();
    assert!(join(&hub, &old, "edge").await.is_err(), "expired");
    assert!(join(&hub, "nonsense", "edge").await.is_err(), "wrong");
    assert!(join(&hub, &token, "cloud").await.is_err(), "another site's");
    let broken = proto::JoinRequest { token: token.clone(), site: "edge".into(), csr_pem: "no request".into() };
    assert_eq!(HubClient::new(channel(&hub, None).await).join(broken).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    assert!(join(&hub, &token, "edge").await.is_ok(), "a bad request does not cost the token");
    assert!(join(&hub, &token, "edge").await.is_err(), "used");
    let refused = HubClient::new(channel(&hub, None).await).session(tokio_stream::empty()).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn a_job_moves_and_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, mut cloud) = running(&hub).await;
    let m = hub.hub.migrate("job-1", "cloud", None, None).await.unwrap();
    assert!(matches!(edge.next().await, Body::Migrate(o) if o.ranks == [0, 1] && o.to_address == "cloud:1"));
    let ready = proto::MigrationReady { migration: m.id, job: "job-1".into(), ranks: vec![0, 1] };
    for _ in 0..2 {
        edge.say(From::MigrationReady(ready.clone())).await; // asked twice: the same answer, places moved once
        loop {
            match edge.next().await {
                Body::Routes(_) => continue,
                Body::Verdict(v) => break assert!(v.commit && v.places.iter().all(|p| p.site == "cloud" && p.epoch == 2)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(matches!(cloud.next().await, Body::Expect(_)));
    assert!(matches!(cloud.next().await, Body::Routes(_)));
    edge.say(From::MigrationEnd(proto::MigrationEnd { migration: m.id, ok: true, downtime_ms: 7.0, ..Default::default() })).await;
    edge.rank(0, 1, Exited, 1).await; // out of date: dropped
    for rank in 0..2 {
        cloud.rank(rank, 2, Exited, 0).await;
    }
    assert!(matches!(cloud.next().await, Body::Forget(_)));
    let job = until(&hub, JobState::Succeeded).await;
    assert_eq!(job.placements.len(), 4);
    assert!(job.placements.iter().all(|p| p.to_ms.is_some()));
}

#[tokio::test]
async fn a_lost_destination_fails_the_move_and_a_lost_source_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, cloud) = running(&hub).await;
    hub.hub.migrate("job-1", "cloud", None, None).await.unwrap();
    assert!(matches!(edge.next().await, Body::Migrate(_)));
    drop(cloud);
    assert!(matches!(edge.next().await, Body::Verdict(v) if !v.commit && v.reason.contains("lost")));
    drop(edge);
    assert!(until(&hub, JobState::Failed).await.reason.contains("edge"));
}

#[tokio::test]
async fn a_restarted_hub_answers_the_verdict_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let first = hub(folder.path()).await;
    let (mut edge, _cloud) = running(&first).await;
    let m = first.hub.migrate("job-1", "cloud", None, None).await.unwrap();
    edge.next().await;
    let ready = proto::MigrationReady { migration: m.id, job: "job-1".into(), ranks: vec![0, 1] };
    edge.say(From::MigrationReady(ready.clone())).await;
    while !matches!(edge.next().await, Body::Verdict(v) if v.commit) {}
    first.shutdown().await;
    let second = hub(folder.path()).await;
    assert_eq!(second.hub.world.lock().await.migrations[&m.id].state, MigrationState::Committed);
    let mut edge = Agent::session(&second, edge.cut(), "edge", proto::Hello::default()).await;
    edge.say(From::MigrationReady(ready)).await;
    for _ in 0..2 {
        // Told when the session begins, and again when asked.
        assert!(matches!(edge.order().await, Body::Verdict(v) if v.commit && v.places.iter().all(|p| p.epoch == 2)));
    }
}

#[tokio::test]
async fn a_cut_session_goes_on_and_another_instance_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (edge, _cloud) = running(&hub).await;
    edge.print(0, 0, "abc").await;
    edge.rank(9, 1, Running, 0).await; // nonsense is dropped
    while hub.hub.world.lock().await.job("job-1").unwrap().output_bytes != 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let identity = edge.cut();
    while hub.hub.world.lock().await.sites["edge"].connected() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = hub.hub.migrate("job-1", "edge", None, None).await.unwrap_err().to_string();
    assert!(error.contains("site \"edge\" is not connected; ready sites: cloud (4 of 4"), "{error}");
    let hello = proto::Hello { running: vec![held(0, 1), held(1, 1)], ..Default::default() };
    let mut edge = Agent::session(&hub, identity, "edge", hello).await;
    assert_eq!(edge.welcome.outputs.iter().map(|o| (o.rank, o.offset)).collect::<Vec<_>>(), [(0, 3), (1, 0)]);
    tokio::time::sleep(hub.hub.patience * 2).await; // slow: what must not happen takes its time
    let job = until(&hub, JobState::Running).await;
    assert!(job.ranks.iter().all(|r| r.state == RankState::Running && r.epoch == 1));
    // The same agent without rank 1: its last word may still come, then the rank is lost.
    let hello = proto::Hello { running: vec![held(0, 1)], ..Default::default() };
    edge = Agent::session(&hub, edge.cut(), "edge", hello).await;
    while !matches!(edge.order().await, Body::Cancel(c) if c.reason.contains("came back without it")) {}
    edge.rank(0, 1, Cancelled, 0).await;
    assert!(until(&hub, JobState::Failed).await.reason.contains("ranks [1] are lost"));
}

#[tokio::test]
async fn another_instance_has_lost_its_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (edge, _cloud) = running(&hub).await;
    let hello = proto::Hello { instance: "2".into(), ..Default::default() };
    let _edge = Agent::session(&hub, edge.cut(), "edge", hello).await;
    assert!(until(&hub, JobState::Failed).await.reason.contains("started anew"));
    assert!(!hub.hub.world.lock().await.sites["edge"].lost);
}

#[tokio::test]
async fn a_restarted_hub_finds_the_ranks_or_says_they_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let first = hub(folder.path()).await;
    let (edge, _cloud) = running(&first).await;
    first.shutdown().await;
    let second = hub(folder.path()).await;
    let hello = proto::Hello { running: vec![held(0, 1), held(1, 1)], ..Default::default() };
    let edge = Agent::session(&second, edge.cut(), "edge", hello).await;
    tokio::time::sleep(second.hub.grace + Duration::from_millis(500)).await;
    until(&second, JobState::Running).await;
    second.shutdown().await;
    let third = hub(folder.path()).await; // and nobody comes back
    let job = until(&third, JobState::Failed).await;
    assert!(job.reason.contains("edge") && job.reason.contains("did not come back"), "{}", job.reason);
    // What comes too late hears that it was given up.
    let hello = proto::Hello { running: vec![held(0, 1)], ..Default::default() };
    let mut edge = Agent::session(&third, edge.cut(), "edge", hello).await;
    assert!(matches!(edge.order().await, Body::Cancel(_)));
    assert!(matches!(edge.order().await, Body::Forget(_)));
}

#[tokio::test]
async fn an_order_to_start_that_was_lost_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let edge = Agent::new(&hub, "edge").await;
    hub.hub.submit(ask(2, "edge")).await.unwrap();
    let mut edge = Agent::session(&hub, edge.cut(), "edge", proto::Hello::default()).await;
    assert!(matches!(edge.order().await, Body::Start(s) if s.start.len() == 2));
}

#[tokio::test]
async fn a_committed_move_ends_whatever_the_source_says() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, mut cloud) = running(&hub).await;
    let (id, _) = committed(&hub, &mut edge).await;
    edge.say(From::MigrationEnd(proto::MigrationEnd { migration: id, reason: "the wire broke".into(), ..Default::default() })).await;
    let m = closed(&hub, id).await;
    assert!(m.state == MigrationState::Failed && m.reason.contains("the wire broke") && m.verdict() == Some(true));
    assert!(matches!(cloud.order().await, Body::Verdict(v) if v.commit), "the hub says go in the source's place");
    assert!(until(&hub, JobState::Running).await.ranks.iter().all(|r| r.site == "cloud" && r.epoch == 2));
}

#[tokio::test]
async fn a_committed_move_ends_when_its_source_dies() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, mut cloud) = running(&hub).await;
    let (id, _) = committed(&hub, &mut edge).await;
    drop(edge);
    let m = closed(&hub, id).await;
    assert!(m.state == MigrationState::Done && m.reason.contains("edge"), "{m:?}");
    assert!(matches!(cloud.order().await, Body::Verdict(v) if v.commit));
    for rank in 0..2 {
        cloud.rank(rank, 2, Exited, 0).await;
    }
    until(&hub, JobState::Succeeded).await;
}

#[tokio::test]
async fn the_verdict_waits_for_a_destination_that_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, cloud) = running(&hub).await;
    let m = hub.hub.migrate("job-1", "cloud", None, None).await.unwrap();
    assert!(matches!(edge.order().await, Body::Migrate(_)));
    let identity = cloud.cut();
    while hub.hub.world.lock().await.sites["cloud"].connected() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    edge.say(From::MigrationReady(proto::MigrationReady { migration: m.id, job: "job-1".into(), ranks: vec![0, 1] })).await;
    let _cloud = Agent::session(&hub, identity, "cloud", proto::Hello::default()).await;
    assert!(matches!(edge.order().await, Body::Verdict(v) if v.commit));
}

/// Ranks 0 and 1 as a destination has them before the verdict.
fn waiting() -> proto::Hello {
    let running = (0..2).map(|rank| proto::RankRef { restored_waiting: true, ..held(rank, 0) }).collect();
    proto::Hello { running, ..Default::default() }
}

#[tokio::test]
async fn a_destination_that_was_cut_hears_the_verdict_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, mut cloud) = running(&hub).await;
    let order = hub.hub.migrate("job-1", "cloud", None, None).await.unwrap().id;
    assert!(matches!(edge.order().await, Body::Migrate(_)));
    // Not decided: it goes on waiting.
    cloud = Agent::session(&hub, cloud.cut(), "cloud", waiting()).await;
    assert!(matches!(cloud.next().await, Body::Expect(e) if e.migration == order));
    assert!(matches!(edge.order().await, Body::Migrate(m) if m.migration == order));
    edge.say(From::MigrationEnd(proto::MigrationEnd { migration: order, reason: "a rank did not stop".into(), ..Default::default() })).await;
    closed(&hub, order).await;
    cloud = Agent::session(&hub, cloud.cut(), "cloud", waiting()).await;
    assert!(matches!(cloud.next().await, Body::Verdict(v) if v.migration == order && !v.commit && v.reason == "a rank did not stop"));
    assert!(matches!(edge.order().await, Body::Verdict(v) if !v.commit));

    let (order, _) = committed(&hub, &mut edge).await;
    for closed_too in [false, true] {
        cloud = Agent::session(&hub, cloud.cut(), "cloud", waiting()).await;
        let Body::Verdict(v) = cloud.next().await else { panic!("no verdict") };
        assert_eq!((v.migration, v.commit, v.places.iter().map(|p| (p.site.as_str(), p.epoch)).collect()), (order, true, vec![("cloud", 2), ("cloud", 2)]));
        if !closed_too {
            edge.say(From::MigrationEnd(proto::MigrationEnd { migration: order, ok: true, ..Default::default() })).await;
            closed(&hub, order).await;
        }
    }
    tokio::time::sleep(hub.hub.patience * 2).await; // slow: what must not happen takes its time
    assert!(until(&hub, JobState::Running).await.ranks.iter().all(|r| r.state == RankState::Running && r.site == "cloud"));
    // What was committed to a job that is over must not run.
    for rank in 0..2 {
        cloud.rank(rank, 2, Exited, 0).await;
    }
    until(&hub, JobState::Succeeded).await;
    cloud = Agent::session(&hub, cloud.cut(), "cloud", waiting()).await;
    assert!(matches!(cloud.order().await, Body::Verdict(v) if v.migration == order && !v.commit && v.reason.contains("has ended")));
    assert!(matches!(cloud.order().await, Body::Cancel(_)));
}

#[tokio::test]
async fn ranks_that_wait_without_a_move_are_not_taken_for_ours() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (edge, _cloud) = running(&hub).await;
    let mut edge = Agent::session(&hub, edge.cut(), "edge", waiting()).await;
    assert!(matches!(edge.order().await, Body::Forget(_)));
    let reason = until(&hub, JobState::Failed).await.reason;
    assert!(reason.contains("ranks [0, 1] are lost") && reason.contains("came back without it"), "{reason}");
}

#[tokio::test]
async fn a_destination_knows_what_to_expect_before_the_source_moves() {
    let folder = tempfile::tempdir().unwrap();
    let first = hub(folder.path()).await;
    let (mut edge, mut cloud) = running(&first).await;
    let id = first.hub.migrate("job-1", "cloud", None, None).await.unwrap().id;
    assert!(matches!(edge.order().await, Body::Migrate(_)));
    let Body::Expect(e) = cloud.next().await else { panic!("the cloud knows of nothing") };
    assert_eq!((e.migration, e.job.as_str(), e.ranks, e.from_site.as_str()), (id, "job-1", vec![0, 1], "edge"));
    let spec = e.spec.unwrap();
    assert_eq!((spec.module_sha256, spec.size, spec.life), (module(), 2, 0));
    assert_eq!(e.routes.iter().map(|p| (p.site.as_str(), p.address.as_str(), p.epoch)).collect::<Vec<_>>(), [("edge", "edge:1", 1); 2]);
    first.shutdown().await;
    // A hub that was started anew, and the source comes first: it has to wait for the destination.
    let second = hub(folder.path()).await;
    let hello = proto::Hello { running: vec![held(0, 1), held(1, 1)], ..Default::default() };
    let mut edge = Agent::session(&second, edge.cut(), "edge", hello).await;
    let early = tokio::time::timeout(Duration::from_millis(500), edge.order()).await;
    assert!(early.is_err(), "{early:?}");
    let mut cloud = Agent::session(&second, cloud.cut(), "cloud", proto::Hello::default()).await;
    assert!(matches!(cloud.next().await, Body::Expect(e) if e.migration == id));
    assert!(matches!(edge.order().await, Body::Migrate(m) if m.migration == id));
}

#[tokio::test]
async fn a_silent_site_is_late_long_before_it_is_lost_and_a_closed_one_is_lost_sooner() {
    let state = async |hub: &orchestrator::Handle, wanted: &str| {
        let end = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let sites = orchestrator::http::api::list_sites(&*hub.hub.world.lock().await, hub.hub.late());
            let edge = sites.iter().find(|s| s.name == "edge").unwrap();
            if edge.state == wanted {
                return;
            }
            assert!(std::time::Instant::now() < end, "edge is {} and not {wanted}", edge.state);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let first = hub_with(folder.path(), orchestrator::Options { patience: Duration::from_secs(600), ..Default::default() }).await;
    let (edge, _cloud) = running(&first).await;
    state(&first, "ready").await;
    edge.hush();
    state(&first, "late").await;
    tokio::time::sleep(first.hub.late() * 2).await; // slow: what must not happen takes its time
    state(&first, "late").await;
    assert_eq!(until(&first, JobState::Running).await.restarts, 0);
    drop(edge);
    state(&first, "lost").await;
    assert!(until(&first, JobState::Failed).await.reason.contains("closed its session"));
    first.shutdown().await;

    let folder = tempfile::tempdir().unwrap();
    let second = hub_with(folder.path(), orchestrator::Options { patience: Duration::from_secs(3), ..Default::default() }).await;
    let (edge, _cloud) = running(&second).await;
    edge.hush();
    assert!(until(&second, JobState::Failed).await.reason.contains("silent for 3000 ms"));
    let hello = proto::Hello { cores: 1.0, running: vec![held(0, 1)], ..Default::default() };
    let _edge = Agent::session(&second, edge.cut(), "edge", hello).await;
    let mut last = second.hub.events.last(0, 1).await.unwrap().remove(0);
    while last.kind != "site.ready" {
        tokio::time::sleep(Duration::from_millis(10)).await;
        last = second.hub.events.last(0, 1).await.unwrap().remove(0);
    }
    assert_eq!(last.message, "1 core, 4 slots");
}

#[tokio::test]
async fn slots_are_counted_and_sites_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (_edge, _cloud) = running(&hub).await;
    hub.hub.submit(ask(3, "cloud")).await.unwrap();
    let check = |result: Result<(), orchestrator::Error>, expected: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(hub.hub.migrate("job-1", "cloud", None, None).await.map(drop), "cloud (1 of 4 slots free), edge (2 of 4 slots free)");
    let unknown = "there is no site \"moon\"; sites: cloud, edge; `cloudskin site join moon` makes one";
    check(hub.hub.migrate("job-1", "moon", None, None).await.map(drop), unknown);
    check(hub.hub.submit(ask(1, "moon")).await.map(drop), unknown);
    check(hub.hub.submit(ask(2, "cloud")).await.map(drop), "2 ranks don't fit");
    for size in ["5GiB", "1kB"] {
        check(hub.hub.submit(Submit { memory_max: Some(size.into()), ..ask(1, "edge") }).await.map(drop), "64 KiB (65536 bytes) to 4 GiB");
    }
    check(hub.hub.submit(Submit { buckets: vec!["A b".into()], ..ask(1, "edge") }).await.map(drop), "A b");
    check(hub.hub.submit(Submit { buckets: vec!["cloudskin-code".into()], ..ask(1, "edge") }).await.map(drop), "no job uses it");
    check(hub.hub.submit(Submit { tier: Some("slow".into()), ..ask(1, "edge") }).await.map(drop), "choose one of quick, fast, interpreter");
    check(hub.hub.submit(Submit { module: "a".repeat(64), ..ask(1, "edge") }).await.map(drop), "/v1/modules");
}

#[tokio::test]
async fn a_job_that_takes_too_long_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let mut edge = Agent::new(&hub, "edge").await;
    hub.hub.submit(Submit { time_max: Some("300ms".into()), ..ask(1, "edge") }).await.unwrap();
    assert!(matches!(edge.order().await, Body::Start(_)));
    edge.rank(0, 1, Running, 0).await;
    assert!(matches!(edge.order().await, Body::Cancel(c) if c.reason.contains("time_max of 300ms")));
    edge.rank(0, 1, Cancelled, 0).await;
    assert!(until(&hub, JobState::Failed).await.reason.contains("time_max"));
}

#[tokio::test]
async fn ranks_that_do_not_stop_do_not_hold_their_job() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, _cloud) = running(&hub).await;
    hub.hub.cancel("job-1", "enough", JobState::Cancelled).await.unwrap();
    assert!(matches!(edge.order().await, Body::Cancel(_)));
    let mut world = hub.hub.world.lock().await;
    let now = base::clock::now_ms();
    hub.hub.end_stuck_jobs(&mut world, now).await.unwrap();
    assert!(!world.job("job-1").unwrap().state.ended());
    hub.hub.end_stuck_jobs(&mut world, now + orchestrator::presence::STOP_MAX_MS + 1).await.unwrap();
    assert_eq!(world.job("job-1").unwrap().state, JobState::Cancelled);
    drop(world);
    assert!(matches!(edge.order().await, Body::Forget(_)));
}

#[tokio::test]
async fn a_lost_commit_report_does_not_leave_a_move_open() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, mut cloud) = running(&hub).await;
    let (id, _) = committed(&hub, &mut edge).await;
    hub.hub.end_silent_moves(&mut *hub.hub.world.lock().await, base::clock::now_ms() + 61_000).await.unwrap();
    assert_eq!(closed(&hub, id).await.state, MigrationState::Done);
    assert!(matches!(cloud.order().await, Body::Verdict(v) if v.commit));
    // The figures may still come.
    edge.say(From::MigrationEnd(proto::MigrationEnd { migration: id, ok: true, total_ms: 5.0, ..Default::default() })).await;
    while hub.hub.world.lock().await.migrations[&id].total_ms != 5.0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn agents_fetch_modules() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let edge = Agent::new(&hub, "edge").await;
    let long = [MODULE, &[7; 600_000]].concat();
    let sha256 = hub.hub.modules.add(&long).unwrap().sha256;
    let mut client = HubClient::new(channel(&hub, Some(edge.identity.clone())).await);
    let mut chunks = client.module(proto::ModuleRequest { sha256: sha256.clone() }).await.unwrap().into_inner();
    let mut got = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        got.extend(chunk.data);
    }
    assert!(got == long);
    let missing = client.module(proto::ModuleRequest { sha256: "0".repeat(64) }).await.err().unwrap();
    assert_eq!(missing.code(), tonic::Code::NotFound);
    let bare = HubClient::new(channel(&hub, None).await).module(proto::ModuleRequest { sha256 }).await.err().unwrap();
    assert_eq!(bare.code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn a_hub_that_stood_still_gives_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, _cloud) = running(&hub).await;
    // One that is cut off, and would be back at once if somebody let it in.
    let fog = Agent::new(&hub, "fog").await.cut();
    while hub.hub.world.lock().await.sites["fog"].connected() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..2 {
        // Slow: nothing on this thread runs meanwhile, and that is hub, agents and all.
        std::thread::sleep(hub.hub.away_max() + 2 * hub.hub.patience);
        tokio::time::sleep(hub.hub.patience / 2).await;
    }
    let _fog = Agent::session(&hub, fog, "fog", proto::Hello::default()).await;
    tokio::time::sleep(hub.hub.patience * 2).await;
    let events = hub.hub.events.last(0, 100).await.unwrap();
    assert!(!events.iter().any(|e| e.kind == "site.lost"), "{events:#?}");
    for rank in 0..2 {
        edge.rank(rank, 1, Exited, 0).await;
    }
    assert!(matches!(edge.order().await, Body::Forget(_)));
    assert_eq!(until(&hub, JobState::Succeeded).await.restarts, 0);
}

#[tokio::test]
async fn a_folder_has_one_hub() {
    let folder = tempfile::tempdir().unwrap();
    let first = hub(folder.path()).await;
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let options = || orchestrator::Options { data: folder.path().into(), grpc: any, http: any, ..Default::default() };
    let refused = orchestrator::Service::start(options()).await.err().expect("a second hub is refused");
    let (message, place) = (refused.to_string(), folder.path().join("hub").display().to_string());
    assert!(refused.kind() == base::Kind::FailedPrecondition && message.contains("another hub") && message.contains(&place), "{message}");
    assert!(!message.contains('\n'), "{message}");
    first.shutdown().await;
    assert!(orchestrator::Service::start(options()).await.is_ok(), "the next one may have it");
}

#[tokio::test]
async fn a_job_that_is_cancelled_does_not_wait_for_its_move() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, mut cloud) = running(&hub).await;
    let id = hub.hub.migrate("job-1", "cloud", None, None).await.unwrap().id;
    assert!(matches!(edge.order().await, Body::Migrate(_)));
    hub.hub.cancel("job-1", "enough", JobState::Cancelled).await.unwrap();
    assert!(matches!(edge.order().await, Body::Verdict(v) if v.migration == id && !v.commit && v.reason.contains("enough")));
    assert!(matches!(edge.order().await, Body::Cancel(_)));
    assert!(matches!(cloud.order().await, Body::Verdict(v) if v.migration == id && !v.commit));
    // The cloud held nothing of the job, and hears all the same that it need not wait for it.
    for rank in 0..2 {
        edge.rank(rank, 1, Cancelled, 0).await;
    }
    assert!(matches!(cloud.order().await, Body::Forget(f) if f.job == "job-1"));
}

/// Takes one site's part in a move that succeeds.
async fn leave(agent: &mut Agent, ranks: &[u32], to: &str) -> u64 {
    let Body::Migrate(order) = agent.order().await else { panic!("no order to move ranks {ranks:?}") };
    assert_eq!((order.ranks.as_slice(), order.to_site.as_str()), (ranks, to));
    agent.say(From::MigrationReady(proto::MigrationReady { migration: order.migration, job: order.job, ranks: order.ranks })).await;
    assert!(matches!(agent.order().await, Body::Verdict(v) if v.commit));
    agent.say(From::MigrationEnd(proto::MigrationEnd { migration: order.migration, ok: true, total_ms: 1.0, ..Default::default() })).await;
    order.migration
}

#[tokio::test]
async fn ranks_at_several_sites_move_one_site_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, mut cloud) = running(&hub).await;
    hub.hub.migrate("job-1", "cloud", Some(vec![1]), None).await.unwrap();
    let apart = leave(&mut edge, &[1], "cloud").await;
    closed(&hub, apart).await;
    let _fog = Agent::new(&hub, "fog").await;

    let first = hub.hub.migrate("job-1", "fog", None, None).await.unwrap();
    assert_eq!((first.ranks.as_slice(), first.from.as_str(), first.rest.as_slice()), (&[0][..], "edge", &[1][..]));
    let early = tokio::time::timeout(Duration::from_millis(600), cloud.order()).await;
    assert!(early.is_err(), "one after the other: {early:?}");
    assert_eq!(leave(&mut edge, &[0], "fog").await, first.id);
    let second = leave(&mut cloud, &[1], "fog").await;
    closed(&hub, second).await;
    assert_eq!(closed(&hub, first.id).await.next, Some(second));
    assert!(until(&hub, JobState::Running).await.ranks.iter().all(|r| r.site == "fog"));

    // Where the first fails nothing follows.
    hub.hub.migrate("job-1", "cloud", Some(vec![1]), None).await.unwrap();
    let mut fog = _fog;
    let apart = leave(&mut fog, &[1], "cloud").await;
    closed(&hub, apart).await;
    let first = hub.hub.migrate("job-1", "edge", None, None).await.unwrap();
    let Body::Migrate(order) = fog.order().await else { panic!("no order to move") };
    fog.say(From::MigrationEnd(proto::MigrationEnd { migration: order.migration, reason: "a rank did not stop".into(), ..Default::default() })).await;
    assert_eq!(closed(&hub, first.id).await.state, MigrationState::Failed);
    let more = tokio::time::timeout(Duration::from_millis(600), cloud.order()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn what_cannot_move_says_how_it_is_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut edge, _cloud) = (Agent::new(&hub, "edge").await, Agent::new(&hub, "cloud").await);
    let refused = async |ranks: &[u32]| hub.hub.migrate("job-1", "cloud", Some(ranks.to_vec()), None).await.unwrap_err().to_string();
    assert!(refused(&[0]).await.contains("there is no job \"job-1\"; `cloudskin get jobs`"));
    hub.hub.submit(ask(2, "edge")).await.unwrap();
    assert!(matches!(edge.order().await, Body::Start(_)));
    assert_eq!(refused(&[0]).await, "job job-1 is not running but pending; try again when it runs");
    edge.rank(0, 1, Running, 0).await;
    until(&hub, JobState::Running).await;
    assert_eq!(refused(&[0, 1]).await, "rank 1 of job job-1 is not running but pending; try again when it runs");
    assert_eq!(refused(&[0, 2]).await, "job job-1 has no rank 2; it has ranks 0 to 1");
    edge.rank(1, 1, Running, 0).await;
    edge.rank(1, 1, Exited, 0).await;
    while hub.hub.world.lock().await.job("job-1").unwrap().ranks[1].state != RankState::Exited {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(refused(&[1]).await, "rank 1 of job job-1 is not running but exited; only running ranks can move");
    hub.hub.cancel("job-1", "enough", JobState::Cancelled).await.unwrap();
    assert_eq!(refused(&[0]).await, "job job-1 is not running but being cancelled; only running ranks can move");
    edge.rank(0, 1, Cancelled, 0).await;
    until(&hub, JobState::Cancelled).await;
    assert_eq!(refused(&[0]).await, "job job-1 is not running but cancelled; only running ranks can move");
}

#[tokio::test]
async fn an_event_has_the_reason_as_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (edge, _cloud) = running(&hub).await;
    let why = "it calls MPI_Win_create in `loadTile`";
    let failed = proto::RankEvent { job: "job-1".into(), rank: 1, epoch: 1, state: proto::rank_event::State::Failed as i32, exit_code: 1, message: why.into(), ..Default::default() };
    edge.say(From::Rank(failed)).await;
    edge.rank(0, 1, Cancelled, 0).await;
    until(&hub, JobState::Failed).await;
    let events = hub.hub.events.last(0, 50).await.unwrap();
    let ended = events.iter().find(|e| e.kind == "job.ended").unwrap();
    assert!(ended.message.starts_with("failed ") && ended.message.contains(why), "{}", ended.message);
}

#[tokio::test]
async fn the_hubs_folder_is_its_users_alone_also_if_it_was_not() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("hub");
    std::fs::create_dir(&own).unwrap();
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).unwrap();
    let _hub = hub(folder.path()).await;
    assert_eq!(own.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
}
