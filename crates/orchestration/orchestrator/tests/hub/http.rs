//! HTTP against a running hub with a fake agent.

use crate::fake::*;
use orchestrator::{
    Handle, Options,
    jobs::JobState,
    modules::ModuleInfo,
    proto::{
        rank_event::State::{Exited, Running},
        to_agent::Body,
    },
};
use serde_json::{Value, json};
use std::time::Duration;

pub struct Web {
    pub client: reqwest::Client,
    pub base: String,
    pub token: String,
}

impl Web {
    pub fn new(hub: &Handle) -> Web {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
        Web { client, base: format!("http://{}", hub.http_addr()), token: hub.token().into() }
    }
    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(format!("{}{path}", self.base)).bearer_auth(&self.token)
    }
    pub fn put(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.put(format!("{}{path}", self.base)).bearer_auth(&self.token)
    }
    pub fn delete(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.delete(format!("{}{path}", self.base)).bearer_auth(&self.token)
    }
    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.post(format!("{}{path}", self.base)).bearer_auth(&self.token)
    }
    pub async fn json(&self, path: &str) -> Value {
        self.get(path).send().await.unwrap().json().await.unwrap()
    }
    /// The call fails with this status and kind, and its message has this in it.
    pub async fn fails(&self, call: reqwest::RequestBuilder, status: u16, kind: &str, says: &str) {
        let answer = call.send().await.unwrap();
        let got = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        assert_eq!((got, body["error"]["kind"].as_str()), (status, Some(kind)), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(says), "{body}");
    }
}

#[tokio::test]
async fn every_call_needs_the_token_and_errors_have_one_shape() {
    let folder = tempfile::tempdir().unwrap();
    let files = vec![("/index.html", "text/html; charset=utf-8", b"<h1>hub</h1>".as_slice())];
    let hub = hub_with(folder.path(), Options { dashboard: files, ..Options::default() }).await;
    let web = Web::new(&hub);
    for path in ["/v1/sites", "/v1/jobs", "/v1/events", "/v1/openapi.json", "/v1/nonsense", "/v1"] {
        web.fails(web.client.get(format!("{}{path}", web.base)), 401, "unauthenticated", "hub/token").await;
        web.fails(web.client.get(format!("{}{path}", web.base)).bearer_auth("wrong"), 401, "unauthenticated", "token").await;
    }
    web.fails(web.client.get(format!("{}/v1/objects/data/a/b", web.base)).bearer_auth("wrong"), 401, "unauthenticated", "data/a/b: a token is needed").await;
    web.fails(web.get("/v1/nonsense"), 404, "not_found", "/v1/nonsense").await;
    web.fails(web.get("/v1/jobs/job-7"), 404, "not_found", "\"job-7\"; `cloudskin get jobs`").await;
    web.fails(web.delete("/v1/checkpoints/7"), 404, "not_found", "checkpoint 7; `cloudskin get checkpoints`").await;
    web.fails(web.get("/v1/jobs/../../etc"), 404, "not_found", "").await;
    web.fails(web.get("/v1/migrations/x"), 404, "not_found", "x").await;
    web.fails(web.client.delete(format!("{}/v1/jobs", web.base)).bearer_auth(&web.token), 405, "invalid_argument", "DELETE").await;
    web.fails(web.post("/v1/jobs").body("{"), 400, "invalid_argument", "body").await;
    web.fails(web.post("/v1/jobs").json(&json!({"module": "x", "name": "n", "np": 1, "colour": "red"})), 400, "invalid_argument", "colour").await;
    web.fails(web.get("/v1/events.json?since=x"), 400, "invalid_argument", "query").await;
    web.fails(web.post("/v1/join-tokens").json(&json!({"site": "Edge!"})), 400, "invalid_argument", "Edge!").await;
    // The dashboard, and the cookie.
    let page = web.client.get(&web.base).send().await.unwrap();
    assert_eq!((page.status().as_u16(), page.text().await.unwrap()), (200, "<h1>hub</h1>".to_string()));
    web.fails(web.client.get(format!("{}/?token=wrong", web.base)), 401, "unauthenticated", "token").await;
    let entered = web.client.get(format!("{}/?token={}", web.base, web.token)).send().await.unwrap();
    assert_eq!(entered.status(), 303);
    let cookie = entered.headers()["set-cookie"].to_str().unwrap().to_string();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"));
    let call = web.client.get(format!("{}/v1/jobs", web.base)).header("cookie", cookie.split(';').next().unwrap());
    assert_eq!(call.send().await.unwrap().json::<Value>().await.unwrap(), json!([]));
    let document = web.json("/v1/openapi.json").await;
    for path in ["/v1/sites", "/v1/modules", "/v1/jobs/{id}/logs", "/v1/migrations/{n}", "/v1/events.json", "/v1/join-tokens", "/v1/buckets", "/v1/objects/{bucket}/{key}", "/v1/checkpoints/{id}/archive", "/v1/restore"] {
        assert!(document["paths"].get(path).is_some(), "{path}");
    }
}

#[tokio::test]
async fn modules_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let check = |bytes: &[u8]| match bytes {
        MODULE => Ok(ModuleInfo { movable: true, imports: vec!["env.MPI_Init".into()] }),
        _ => Err("it imports env.fork".to_string()),
    };
    let hub = hub_with(folder.path(), Options { check_module: Some(Box::new(check)), ..Options::default() }).await;
    let web = Web::new(&hub);
    let kept: Value = web.post("/v1/modules").body(MODULE).send().await.unwrap().json().await.unwrap();
    assert_eq!(kept, json!({"sha256": module(), "bytes": 8, "movable": true, "imports": ["env.MPI_Init"]}));
    assert!(folder.path().join(format!("hub/modules/{}.wasm", module())).is_file());
    web.fails(web.post("/v1/modules").body("x"), 400, "invalid_argument", "env.fork").await;
}

#[tokio::test]
async fn a_job_lives_through_http() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    // Someone listens from the start.
    let mut feed = web.get("/v1/events?since=0").send().await.unwrap();
    assert!(feed.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let feed = tokio::spawn(async move {
        let mut text = String::new();
        while !text.contains("job.ended") {
            text += &String::from_utf8_lossy(&feed.chunk().await.unwrap().expect("the feed goes on"));
        }
        text
    });
    let ticket = web.post("/v1/join-tokens").json(&json!({"site": "edge", "ttl": "1m"})).send().await.unwrap();
    assert_eq!(ticket.status(), 201);
    let ticket: Value = ticket.json().await.unwrap();
    assert_eq!(ticket["hub"], hub.grpc_addr().to_string());
    let identity = join(&hub, ticket["token"].as_str().unwrap(), "edge").await.unwrap();
    let mut edge = Agent::session(&hub, identity, "edge", Default::default()).await;
    let mut cloud = Agent::new(&hub, "cloud").await;

    let ask = json!({"module": module(), "name": "veg", "np": 2, "site": "edge", "args": ["veg", "x"]});
    let answer = web.post("/v1/jobs").json(&ask).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let job: Value = answer.json().await.unwrap();
    assert_eq!((&job["id"], &job["state"], &job["ranks"][1]["site"]), (&json!("job-1"), &json!("pending"), &json!("edge")));
    web.fails(web.post("/v1/jobs/job-1/migrate").json(&json!({"to": "cloud"})), 409, "failed_precondition", "job-1 is not running but pending; try again when it runs").await;
    assert!(matches!(edge.order().await, Body::Start(_)));
    for rank in 0..2 {
        edge.rank(rank, 1, Running, 0).await;
    }
    until(&hub, JobState::Running).await;

    // Logs: who follows gets what comes, once, and an end.
    let mut follow = web.get("/v1/jobs/job-1/logs?follow=true").send().await.unwrap();
    edge.print(0, 0, "one\n").await;
    assert_eq!(follow.chunk().await.unwrap().unwrap(), "one\n");
    edge.print(0, 0, "one\n").await;
    edge.print_to(true, 1, 0, "two\n").await;
    assert_eq!(follow.chunk().await.unwrap().unwrap(), "two\n");
    let mut of_rank = web.get("/v1/jobs/job-1/logs?follow=true&rank=1").send().await.unwrap();
    assert_eq!(of_rank.chunk().await.unwrap().unwrap(), "two\n");
    web.fails(web.get("/v1/jobs/job-1/logs?rank=2"), 400, "invalid_argument", "no rank 2").await;
    web.fails(web.get("/v1/jobs/job-1/logs?rank=1&marked=true"), 400, "invalid_argument", "marked").await;

    // A move; the second rank is there when the first has said so.
    let both = |state: &'static str| {
        let web = &web;
        async move {
            while web.json("/v1/jobs/job-1").await["ranks"].as_array().unwrap().iter().any(|r| r["state"] != state) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    both("running").await;
    web.fails(web.post("/v1/jobs/job-1/migrate").json(&json!({"to": "moon"})), 404, "not_found", "`cloudskin site join moon`").await;
    let moving = web.post("/v1/jobs/job-1/migrate").json(&json!({"to": "cloud"})).send().await.unwrap();
    assert_eq!(moving.status(), 202);
    assert_eq!(moving.json::<Value>().await.unwrap()["state"], "running");
    assert!(matches!(edge.order().await, Body::Migrate(_)));
    let ready = orchestrator::proto::MigrationReady { migration: 1, job: "job-1".into(), ranks: vec![0, 1] };
    edge.say(orchestrator::proto::from_agent::Body::MigrationReady(ready)).await;
    assert!(matches!(edge.order().await, Body::Verdict(v) if v.commit));
    let end = orchestrator::proto::MigrationEnd { migration: 1, ok: true, downtime_ms: 7.5, total_ms: f64::NAN, rounds: 3, ..Default::default() };
    edge.say(orchestrator::proto::from_agent::Body::MigrationEnd(end)).await;
    closed(&hub, 1).await;
    let m = web.json("/v1/migrations/1").await;
    assert_eq!((&m["state"], &m["downtime_ms"], &m["rounds"], &m["from"]), (&json!("done"), &json!(7.5), &json!(3), &json!("edge")));
    assert_eq!(web.json("/v1/migrations").await.as_array().unwrap().len(), 1);

    cloud.print(1, 4, "three\n").await;
    for rank in 0..2 {
        cloud.rank(rank, 2, Exited, 0).await;
    }
    assert!(matches!(cloud.order().await, Body::Forget(_)));
    let mut rest = Vec::new();
    while let Some(chunk) = follow.chunk().await.unwrap() {
        rest.extend(chunk);
    }
    assert_eq!(String::from_utf8(rest).unwrap(), "three\n");
    assert_eq!(of_rank.text().await.unwrap(), "three\n");
    assert_eq!(web.get("/v1/jobs/job-1/logs").send().await.unwrap().text().await.unwrap(), "one\ntwo\nthree\n");
    assert_eq!(web.get("/v1/jobs/job-1/logs?marked=true").send().await.unwrap().text().await.unwrap(), "o\x04\0\0\0one\ne\x04\0\0\0two\no\x06\0\0\0three\n");
    let job = web.json("/v1/jobs/job-1").await;
    assert_eq!((&job["state"], &job["exit_code"], &job["output_bytes"]), (&json!("succeeded"), &json!(0), &json!(14)));
    assert_eq!(job["placements"].as_array().unwrap().len(), 4);

    // What happened, both ways.
    let told = tokio::time::timeout(Duration::from_secs(5), feed).await.unwrap().unwrap();
    let list = web.json("/v1/events.json?since=0&limit=1000").await;
    for event in list.as_array().unwrap() {
        let line = format!("id: {}\n", event["id"]);
        assert!(told.contains(&line) || event["id"].as_u64() > list[0]["id"].as_u64().map(|n| n + 5), "{event}");
    }
    for kind in ["site.joined", "site.ready", "job.submitted", "job.started", "migration.committed", "migration.done", "job.ended"] {
        assert!(told.contains(&format!("\"kind\":\"{kind}\"")), "{kind} in {told}");
    }
    assert_eq!(web.json("/v1/events.json?since=1&limit=2").await.as_array().unwrap().len(), 2);
    let all = web.json("/v1/events.json").await;
    let all = all.as_array().unwrap();
    assert_eq!(web.json("/v1/events.json?last=2").await.as_array().unwrap()[..], all[all.len() - 2..]);

    // Sites, and one that is lost stays listed.
    while web.json("/v1/sites").await[0]["history"].as_array().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let site = &web.json("/v1/sites").await[0];
    assert_eq!((&site["name"], &site["state"], &site["history"][1][1]), (&json!("cloud"), &json!("ready"), &json!(1.5)));
    drop(cloud);
    while web.json("/v1/sites").await[0]["state"] != "lost" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(web.json("/v1/sites").await[1]["state"], "ready");
    let metrics = web.client.get(format!("{}/metrics", web.base)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("cloudskin_orchestrator_site_ready{site=\"cloud\"} 0"), "{metrics}");
    assert!(metrics.contains("cloudskin_orchestrator_jobs{state=\"succeeded\"} 1"), "{metrics}");
}

#[tokio::test]
async fn what_ranks_use_and_exchange_is_told_while_they_run() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    let (edge, cloud) = running(&hub).await;
    let load = |rank: u32, n: u64| orchestrator::proto::RankLoad {
        job: "job-1".into(),
        rank,
        cpu_used: 0.5,
        cpu_wanted: 0.75,
        memory_bytes: 65536,
        sent: 3 * n,
        sent_bytes: 300 * n,
        received: n,
        received_bytes: 7 * n,
        doing: "MPI_Recv".into(),
        tier: "fast".into(),
        waiting: 0.25,
        stopped_after_ms: 1.5,
        written_bytes_per_second: f64::NAN,
        peers: vec![orchestrator::proto::Traffic { rank: 1 - rank, sent: 2 * n, sent_bytes: 200 * n, received: n, received_bytes: 7 * n }],
    };
    *edge.report.lock().unwrap() = orchestrator::proto::Telemetry { ranks: vec![load(0, 1), load(1, 10)], ..Default::default() };
    // Who says it of ranks that are elsewhere is not heard.
    *cloud.report.lock().unwrap() = orchestrator::proto::Telemetry { ranks: vec![load(0, 1000)], ..Default::default() };
    let told = loop {
        let told = web.json("/v1/ranks?job=job-1").await;
        if told[1]["sent"] == 30 {
            break told;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let first = json!({
        "job": "job-1", "name": "veg", "tenant": "default", "np": 2, "rank": 0, "site": "edge", "state": "running", "doing": "MPI_Recv",
        "cpu_used": 0.5, "cpu_wanted": 0.75, "memory_bytes": 65536, "sent": 3, "received": 1, "sent_bytes": 300, "received_bytes": 7,
        "peers": [{"rank": 1, "sent": 2, "received": 1, "sent_bytes": 200, "received_bytes": 7}], "moves": 0, "tier": "fast", "waiting": 0.25, "stopped_after_ms": 1.5, "written_bytes_per_second": 0.0,
    });
    assert_eq!(told[0], first);
    assert_eq!(web.json("/v1/ranks").await, told);
    web.fails(web.get("/v1/ranks?job=job-9"), 404, "not_found", "job-9").await;
    // A job's own answer has the sums, and not whom it was with: lists of jobs are long enough.
    let job = web.json("/v1/jobs/job-1").await;
    assert_eq!((&job["ranks"][1]["sent_bytes"], &job["ranks"][1]["tier"], job["ranks"][1].get("peers")), (&json!(3000), &json!("fast"), None));
    let document = web.json("/v1/openapi.json").await;
    assert!(document["paths"].get("/v1/ranks").is_some() && document["components"]["schemas"]["Load"]["properties"].get("peers").is_some());

    let metrics = async || web.client.get(format!("{}/metrics", web.base)).send().await.unwrap().text().await.unwrap();
    let text = metrics().await;
    for line in [
        "# TYPE cloudskin_orchestrator_rank_sent_bytes_total counter",
        "cloudskin_orchestrator_rank_sent_bytes_total{job=\"job-1\",rank=\"1\"} 3000",
        "cloudskin_orchestrator_rank_received_messages_total{job=\"job-1\",rank=\"0\"} 1",
        "cloudskin_orchestrator_rank_cpu_wanted_cores{job=\"job-1\",rank=\"0\"} 0.75",
        "cloudskin_orchestrator_rank_waiting_ratio{job=\"job-1\",rank=\"1\"} 0.25",
        "cloudskin_orchestrator_rank_stopped_after_ms{job=\"job-1\",rank=\"0\"} 1.5",
        "cloudskin_orchestrator_pair_sent_messages_total{job=\"job-1\",from=\"1\",to=\"0\"} 20",
        "cloudskin_orchestrator_pair_sent_bytes_total{job=\"job-1\",from=\"0\",to=\"1\"} 200",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    for rank in 0..2 {
        edge.rank(rank, 1, Exited, 0).await;
    }
    until(&hub, JobState::Succeeded).await;
    assert_eq!(web.json("/v1/ranks").await, json!([]));
    assert!(!metrics().await.contains("job-1"), "what has ended is no more to be scraped");
}

#[tokio::test]
async fn a_user_cancels() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let web = Web::new(&hub);
    let (mut edge, _cloud) = running(&hub).await;
    // First a checkpoint, which answers when it is durable.
    let call = tokio::spawn(web.post("/v1/jobs/job-1/checkpoint").send());
    for _ in 0..4 {
        let Body::Checkpoint(o) = edge.order().await else { panic!("no checkpoint") };
        let step = orchestrator::proto::CheckpointStep { checkpoint: o.checkpoint, job: o.job, phase: o.phase, ok: true, bytes: 21, ..Default::default() };
        edge.say(orchestrator::proto::from_agent::Body::Checkpoint(step)).await;
    }
    assert!(matches!(edge.order().await, Body::Checkpoint(_)));
    let checkpoint: Value = call.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!((&checkpoint["prefix"], &checkpoint["bytes"]), (&json!("job-1/1"), &json!(21)));

    let job: Value = web.post("/v1/jobs/job-1/cancel").json(&json!({"reason": "enough"})).send().await.unwrap().json().await.unwrap();
    assert_eq!(job["state"], "running");
    assert!(matches!(edge.order().await, Body::Cancel(c) if c.reason == "enough"));
    for rank in 0..2 {
        edge.rank(rank, 1, orchestrator::proto::rank_event::State::Cancelled, 0).await;
    }
    assert_eq!(until(&hub, JobState::Cancelled).await.reason, "enough");
    web.fails(web.post("/v1/jobs/job-1/checkpoint"), 409, "failed_precondition", "not all ranks").await;
    let again: Value = web.post("/v1/jobs/job-1/cancel").send().await.unwrap().json().await.unwrap();
    assert_eq!(again["state"], "cancelled");
}

/// A request in HTTP/2's frames, as one types it who knows that the other side speaks it: headers, some of a body, and then never mind.
fn given_up(path: &str) -> Vec<u8> {
    fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
        [&(content.len() as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), content].concat()
    }
    // POST and http are of the static table; path and authority are written out.
    let headers = [&[0x83, 0x86, 0x04, path.len() as u8], path.as_bytes(), &[0x01, 3], b"hub"].concat();
    let (settings, headers, data) = (frame(4, 0, 0, &[]), frame(1, 4, 1, &headers), frame(0, 0, 1, &[b'x'; 100]));
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings, headers, data].concat()
}

/// Reading on what is never going to come must end: each of these would keep a thread at work for ever.
#[test]
fn a_request_that_is_reset_in_the_middle_leaves_nothing_behind() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_path_buf();
    let (done, ends) = std::sync::mpsc::channel();
    // A thread of its own with one worker, so that a task which never waits is noticed as silence.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let hub = hub(&data).await;
            let web = Web::new(&hub);
            for _ in 0..3 {
                let mut tcp = tokio::net::TcpStream::connect(hub.http_addr()).await.unwrap();
                tcp.write_all(&given_up("/v1/modules")).await.unwrap();
                // The answer's headers, which refuse it for want of a token; the body is still open then.
                let mut heard = Vec::new();
                while !String::from_utf8_lossy(&heard).contains("a token is needed") {
                    assert!(tcp.read_buf(&mut heard).await.unwrap() > 0, "it hangs up without an answer: {heard:?}");
                }
                // RST_STREAM of stream 1: CANCEL.
                tcp.write_all(&[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
                assert_eq!(web.json("/v1/jobs").await, json!([]));
            }
            done.send(()).unwrap();
        });
    });
    ends.recv_timeout(Duration::from_secs(60)).expect("the hub answers no more");
}
