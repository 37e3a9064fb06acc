//! Jobs and migrations by the thousand: what is in memory, in a list, and in the database only.

use crate::{fake::*, http::Web};
use orchestrator::{
    Handle,
    jobs::{Job, JobState},
    state::JOBS_KEPT,
};
use serde_json::Value;

/// Stores jobs and migrations with these numbers that have all ended, as copies of job 1 and migration 1.
async fn many(hub: &Handle, from: u64, to: u64) {
    let numbers = "WITH RECURSIVE numbers(x) AS (SELECT ? UNION ALL SELECT x + 1 FROM numbers WHERE x < ?)";
    for fill in [
        "INSERT INTO hub_jobs SELECT x, json_set(doc, '$.n', x, '$.id', 'job-' || x, '$.state', 'succeeded') FROM numbers, hub_jobs WHERE n = 1",
        "INSERT INTO hub_migrations SELECT x, json_set(doc, '$.id', x, '$.job', 'job-' || x, '$.state', 'done') FROM numbers, hub_migrations WHERE n = 1",
    ] {
        let query = sqlx::query(sqlx::AssertSqlSafe(format!("{numbers} {fill}")));
        query.bind(from as i64).bind(to as i64).execute(&hub.hub.state.pool).await.unwrap();
    }
}

fn names(list: &Value, field: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|one| one[field].to_string().trim_matches('"').to_string()).collect()
}

#[tokio::test]
async fn lists_have_bounds_and_old_jobs_are_still_found() {
    let folder = tempfile::tempdir().unwrap();
    let first = hub(folder.path()).await;
    let (edge, _cloud) = running(&first).await;
    first.hub.migrate("job-1", "cloud", None, None).await.unwrap();
    let last = JOBS_KEPT + 700;
    many(&first, 2, last).await;
    first.shutdown().await;

    let second = hub(folder.path()).await;
    let web = Web::new(&second);
    // Job 1 and its move still run: they are there, however old they are.
    assert_eq!(second.hub.world.lock().await.jobs.len() as u64, JOBS_KEPT + 1);
    let list = web.json("/v1/jobs").await;
    let ids = names(&list, "id");
    assert_eq!((ids.len(), ids[0].as_str(), &ids[1], &ids[500]), (501, "job-1", &format!("job-{}", last - 499), &format!("job-{last}")));
    assert_eq!(names(&web.json("/v1/jobs?limit=2").await, "id"), ["job-1".to_string(), format!("job-{}", last - 1), format!("job-{last}")]);
    assert_eq!(names(&web.json("/v1/migrations?limit=1").await, "id"), ["1".to_string(), last.to_string()]);
    assert_eq!(names(&web.json("/v1/migrations?job=job-1").await, "job"), ["job-1"]);
    assert_eq!(names(&web.json(&format!("/v1/migrations?job=job-{last}&limit=1")).await, "id"), [last.to_string()]);

    // All of them, page by page.
    let (mut seen, mut after) = (0, "job-0".to_string());
    loop {
        let page = names(&web.json(&format!("/v1/jobs?after={after}&limit=4000")).await, "id");
        let Some(end) = page.last() else { break };
        (seen, after) = (seen + page.len() as u64, end.clone());
    }
    assert_eq!((seen, after), (last, format!("job-{last}")));
    assert_eq!(names(&web.json("/v1/migrations?after=2&limit=2").await, "id"), ["3", "4"]);
    web.fails(web.get("/v1/jobs?after=7"), 400, "invalid_argument", "such as job-7").await;
    web.fails(web.get("/v1/jobs?limit=many"), 400, "invalid_argument", "query").await;

    // One that is in the database only.
    assert!(!second.hub.world.lock().await.jobs.contains_key(&20));
    assert_eq!((&web.json("/v1/jobs/job-20").await["state"], &web.json("/v1/migrations/20").await["job"]), (&"succeeded".into(), &"job-20".into()));
    assert_eq!(web.get("/v1/jobs/job-20/logs").send().await.unwrap().status(), 200);
    let cancelled: Value = web.post("/v1/jobs/job-20/cancel").send().await.unwrap().json().await.unwrap();
    assert_eq!(cancelled["state"], "succeeded");
    web.fails(web.get(&format!("/v1/jobs/job-{}", last + 1)), 404, "not_found", "there is no job").await;

    // A new one takes the place of the oldest that has ended.
    let _edge = Agent::session(&second, edge.cut(), "edge", orchestrator::proto::Hello { running: vec![held(0, 1), held(1, 1)], ..Default::default() }).await;
    assert_eq!(second.hub.submit(ask(1, "edge")).await.unwrap().id, format!("job-{}", last + 1));
    let world = second.hub.world.lock().await;
    let ended = |j: &&Job| j.state == JobState::Succeeded;
    assert_eq!((world.jobs.len() as u64, world.jobs.values().filter(ended).count() as u64), (JOBS_KEPT + 1, JOBS_KEPT - 1));
    assert!(world.jobs.contains_key(&1));
}
