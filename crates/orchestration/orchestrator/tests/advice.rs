//! Advice: fake agents report loads, and the hub moves what the Learning Plane advises to move.

#[allow(dead_code)]
#[path = "hub/fake.rs"]
mod fake;

use fake::*;
use learning::{JobId, JobLoad, JobView, Observation, Plane, SiteId, SiteView};
use orchestrator::{
    Handle, Options,
    advice::AdviceState,
    hub::Submit,
    jobs::{JobState, RankState},
    modules::ModuleInfo,
    proto::{self, RankLoad, Telemetry, from_agent::Body as From, rank_event::State::Running, to_agent::Body},
};
use serde_json::Value;
use std::{path::Path, time::Duration};

/// The plane's settings for agents that report each 133 ms: a fifth of the time for everything.
fn fast() -> learning::Options {
    learning::Options { step_ms: 133, horizon_ms: 1000, hold_ms: 600, cooldown_ms: 500, ..Default::default() }
}

async fn start(folder: &Path, movable: bool, advise: bool) -> Handle {
    let check = move |_: &[u8]| Ok(ModuleInfo { movable, imports: vec![] });
    hub_with(folder, Options { check_module: Some(Box::new(check)), learning: fast(), advise, ..Options::default() }).await
}

/// What a site of one core reports: job-1 with four ranks that compute (or none of it), and others beside it.
fn load(agent: &Agent, job: bool, others: f64) {
    let ranks = (0..4).filter(|_| job).map(|rank| RankLoad { job: "job-1".into(), rank, cpu_used: 0.25, cpu_wanted: 1.0, memory_bytes: 16 << 20, ..Default::default() });
    let ranks: Vec<_> = ranks.collect();
    let cpu_wanted = ranks.len() as f64 + others;
    *agent.report.lock().unwrap() = Telemetry { cpu_used: cpu_wanted.min(1.0), cpu_wanted, ranks, ..Default::default() };
}

async fn agent(hub: &Handle, site: &str) -> Agent {
    let token = hub.mint_join_token(site, Duration::from_secs(60)).await.unwrap();
    let identity = join(hub, &token, site).await.unwrap();
    let agent = Agent::session(hub, identity, site, proto::Hello { cores: 1.0, ..Default::default() }).await;
    load(&agent, false, 0.0);
    agent
}

/// Four ranks at the edge, the cloud idle.
async fn four(hub: &Handle, pinned: bool) -> (Agent, Agent) {
    let (mut edge, cloud) = (agent(hub, "edge").await, agent(hub, "cloud").await);
    hub.hub.submit(Submit { pinned, ..ask(4, "edge") }).await.unwrap();
    assert!(matches!(edge.order().await, Body::Start(s) if s.start.len() == 4));
    load(&edge, true, 0.0);
    for rank in 0..4 {
        edge.rank(rank, 1, Running, 0).await;
    }
    while hub.hub.world.lock().await.job("job-1").unwrap().ranks.iter().any(|r| r.state != RankState::Running) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (edge, cloud)
}

async fn get(hub: &Handle, path: &str) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}{path}", hub.http_addr());
    client.get(url).bearer_auth(hub.token()).send().await.unwrap().json().await.unwrap()
}

/// Waits until the newest recommendation is like this.
async fn newest(hub: &Handle, like: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..200 {
        let all = get(hub, "/v1/recommendations").await;
        if let Some(last) = all.as_array().unwrap().last().filter(|r| like(r)) {
            return last.clone();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no such recommendation: {}", get(hub, "/v1/recommendations?limit=2").await);
}

async fn kinds(hub: &Handle) -> Vec<String> {
    hub.hub.events.since(0, 1000).await.unwrap().into_iter().map(|e| e.kind).collect()
}

#[tokio::test]
async fn the_job_moves_when_another_tenant_fills_the_edge() {
    let folder = tempfile::tempdir().unwrap();
    let hub = start(folder.path(), true, true).await;
    let (mut edge, mut cloud) = four(&hub, false).await;
    tokio::time::sleep(Duration::from_secs(4)).await; // slow: what must not happen takes its time
    assert_eq!(get(&hub, "/v1/recommendations").await, serde_json::json!([]), "alone it stays");
    let forecast = &get(&hub, "/v1/sites").await[1]["forecast"];
    assert!((3.0..5.0).contains(&forecast["value"].as_f64().unwrap()) && forecast["low"].as_f64() <= forecast["high"].as_f64(), "{forecast}");

    load(&edge, true, 4.0);
    let Body::Migrate(order) = edge.order().await else { panic!("no move") };
    assert_eq!((order.ranks.len(), order.to_site.as_str()), (4, "cloud"));
    let taken = newest(&hub, |r| r["state"] == "taken").await;
    assert_eq!((&taken["id"], &taken["job"], &taken["from"], &taken["to"], &taken["migration"], &taken["ended"]),
        (&1.into(), &"job-1".into(), &"edge".into(), &"cloud".into(), &order.migration.into(), &Value::Null));
    assert!(taken["inputs"]["from"]["series"].as_array().unwrap().len() > 8 && taken["forecast"]["from"]["value"].as_f64() > Some(6.0), "{taken}");
    assert!(taken["explanation"].as_str().unwrap().ends_with("replayed from the stored inputs: the same decision"), "{}", taken["explanation"]);
    assert_eq!(get(&hub, "/v1/migrations/1").await["recommendation"], 1);

    let ready = proto::MigrationReady { migration: order.migration, job: "job-1".into(), ranks: order.ranks.clone() };
    edge.say(From::MigrationReady(ready)).await;
    assert!(matches!(edge.order().await, Body::Verdict(v) if v.commit));
    load(&edge, false, 4.0);
    load(&cloud, true, 0.0);
    edge.say(From::MigrationEnd(proto::MigrationEnd { migration: order.migration, ok: true, total_ms: 9.0, ..Default::default() })).await;
    newest(&hub, |r| r["ended"]["moved"] == true).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(get(&hub, "/v1/recommendations?job=job-1").await.as_array().unwrap().len(), 1, "and there it stays");
    assert_eq!(get(&hub, "/v1/recommendations?job=job-2").await, serde_json::json!([]));
    assert_eq!(get(&hub, "/v1/recommendations/1").await["state"], "taken");
    assert_eq!(get(&hub, "/v1/recommendations/2").await["error"]["kind"], "not_found");
    assert!(tokio::time::timeout(Duration::from_millis(100), cloud.order()).await.is_err(), "nothing more is asked of the cloud");
    let kinds = kinds(&hub).await;
    let place = |kind: &str| kinds.iter().position(|k| k == kind).unwrap_or_else(|| panic!("{kind} in {kinds:?}"));
    assert!(place("recommendation.proposed") < place("migration.started") && place("migration.started") < place("recommendation.taken"));
    let fallbacks = kinds.iter().filter(|k| *k == "recommendation.fallback").count();
    assert!((2..=4).contains(&fallbacks), "each site says once that it has too few reports, and once that it has enough: {kinds:?}");
    let paths = &get(&hub, "/v1/openapi.json").await["paths"];
    assert!(paths["/v1/recommendations"].is_object() && paths["/v1/recommendations/{n}"].is_object());
}

#[tokio::test]
async fn pinned_and_immovable_jobs_are_left_alone() {
    for (pinned, movable) in [(true, true), (false, false)] {
        let folder = tempfile::tempdir().unwrap();
        let hub = start(folder.path(), movable, true).await;
        let (edge, _cloud) = four(&hub, pinned).await;
        load(&edge, true, 4.0);
        tokio::time::sleep(Duration::from_secs(5)).await; // slow, as above
        assert_eq!(get(&hub, "/v1/recommendations").await, serde_json::json!([]), "pinned: {pinned}, movable: {movable}");
    }
}

#[tokio::test]
async fn refused_advice_is_written_down_and_numbers_go_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path(), true, false).await;
    let (edge, cloud) = four(&first, false).await;
    load(&edge, true, 4.0);
    let refused = newest(&first, |r| r["state"] == "refused").await;
    assert!(refused["ended"]["why"].as_str().unwrap().contains("`advise` is off") && refused["migration"].is_null(), "{refused}");
    // Told a moment after it is written down.
    let told = async { while !kinds(&first).await.contains(&"recommendation.refused".to_string()) { tokio::time::sleep(Duration::from_millis(10)).await } };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("it is told");
    first.shutdown().await;
    // One that the hub wrote down and had no time to act upon.
    let n = first.hub.state.last_recommendation().await.unwrap();
    let mut left = first.hub.state.recommendation(n).await.unwrap().unwrap();
    (left.state, left.ended) = (AdviceState::Proposed, None);
    left.recommendation.id = n + 10;
    first.hub.state.save_recommendation(&left).await.unwrap();

    let second = start(folder.path(), true, false).await;
    let closed = get(&second, &format!("/v1/recommendations/{}", n + 10)).await;
    assert!(closed["state"] == "refused" && closed["ended"]["why"].as_str().unwrap().contains("stopped before"), "{closed}");
    assert_eq!(get(&second, &format!("/v1/recommendations/{n}")).await["reason"], left.recommendation.reason);
    let running = (0..4).map(|rank| held(rank, 1)).collect();
    let edge = Agent::session(&second, edge.cut(), "edge", proto::Hello { cores: 1.0, running, ..Default::default() }).await;
    let cloud = Agent::session(&second, cloud.cut(), "cloud", proto::Hello { cores: 1.0, ..Default::default() }).await;
    load(&edge, true, 4.0);
    load(&cloud, false, 0.0);
    until(&second, JobState::Running).await;
    assert_eq!(newest(&second, |r| r["id"].as_u64() > Some(n + 10)).await["id"], n + 11);
}

/// The demo in simulated time with the plane's own settings: ten idle seconds, a job of four ranks at the edge, five seconds later
/// four ranks of another tenant. When the move is advised, in milliseconds after that.
fn demo(cores_cloud: f64, jitter: impl Fn(u64) -> f64) -> Vec<i64> {
    let (edge, cloud, job) = (SiteId::new("edge").unwrap(), SiteId::new("cloud").unwrap(), JobId::new("job-1").unwrap());
    let mut plane = Plane::new(Default::default());
    let mut made = Vec::new();
    for at_ms in (0..40_000).step_by(500) {
        let own = if at_ms < 10_000 { 0.0 } else { 4.0 - 0.3 * jitter(at_ms) };
        let others = if at_ms < 15_000 { 0.0 } else { 4.0 - 0.1 * jitter(at_ms + 7) };
        let jobs = (own > 0.0).then(|| (job.clone(), JobLoad { cpu_used: 0.9, cpu_wanted: own, ranks: 4 })).into_iter().collect();
        plane.observe(Observation { at_ms, site: edge.clone(), cores: 1.0, cpu_used: 1.0, cpu_wanted: own + others, jobs });
        plane.observe(Observation { at_ms, site: cloud.clone(), cores: cores_cloud, cpu_used: 0.0, cpu_wanted: 0.0, jobs: Default::default() });
        let view = |site: &SiteId, cores| SiteView { site: site.clone(), cores, slots_free: 8, alive: true };
        let movable = JobView { job: job.clone(), site: edge.clone(), ranks: 4, state_bytes: 64 << 20, running_for_ms: at_ms.saturating_sub(10_000) };
        let jobs = if own > 0.0 { vec![movable] } else { vec![] };
        let world = learning::World { sites: vec![view(&edge, 1.0), view(&cloud, cores_cloud)], jobs };
        made.extend(plane.advise(at_ms + 100, &world).into_iter().map(|r| r.at_ms as i64 - 15_000));
    }
    made
}

#[test]
fn the_demos_advice_comes_three_to_six_seconds_after_the_tenant() {
    for cores_cloud in [1.0, 3.0, 15.0] {
        for seed in 0..20 {
            // Not random but irregular: the fractions of the golden ratio.
            let made = demo(cores_cloud, |t| ((t / 100 + seed * 31) as f64 * 0.618_033_988_75).fract());
            let [after_ms] = made[..] else { panic!("{cores_cloud} cores, seed {seed}: {made:?}") };
            assert!((3_000..6_000).contains(&after_ms), "{cores_cloud} cores, seed {seed}: {after_ms} ms");
        }
    }
}
