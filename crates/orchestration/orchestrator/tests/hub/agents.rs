//! A site's name is one agent's; who has it, who may take it over, and what is said when all is stopped.

use crate::{fake::*, http::Web};
use base::Kind;
use orchestrator::{
    hub::Submit,
    jobs::JobState,
    proto::{self, RecogniseRequest, hub_client::HubClient, to_agent::Body},
};
use serde_json::json;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// How an agent ends that the hub dismisses: what its session says last.
async fn last_words(agent: &mut Agent) -> tonic::Status {
    loop {
        match tokio::time::timeout(MINUTE, agent.down.message()).await.expect("the session ends") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the session ends without a word"),
            Err(status) => return status,
        }
    }
}

async fn asks(hub: &orchestrator::Handle, identity: &tonic::transport::Identity) -> Result<(), tonic::Status> {
    HubClient::new(channel(hub, Some(identity.clone())).await).recognise(RecogniseRequest {}).await.map(drop)
}

#[tokio::test]
async fn a_name_is_one_agents_until_that_one_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let spare = hub.mint_join_token("edge", MINUTE).await.unwrap();
    let (edge, _cloud) = running(&hub).await;
    // Neither a new token nor one from before gets the name; the job is as it was.
    let taken = hub.mint_join_token("edge", MINUTE).await.unwrap_err();
    let said = taken.to_string();
    assert!(taken.kind() == Kind::AlreadyExists && said.contains("connected from 127.0.0.1:") && said.contains("another name") && said.contains("site join edge --replace"), "{said}");
    let web = Web::new(&hub);
    web.fails(web.post("/v1/join-tokens").json(&json!({"site": "edge"})), 409, "already_exists", "connected from 127.0.0.1:").await;
    assert!(join(&hub, &spare, "edge").await.err().unwrap().message().contains("there is a site"));
    // A certificate of ours that is not the one that was given out last.
    let own = hub.hub.authority.issue(&base::identity::site_name(&"edge".parse().unwrap())).unwrap();
    let namesake = tonic::transport::Identity::from_pem(&own.cert_pem, &own.key_pem);
    let refused = asks(&hub, &namesake).await.unwrap_err();
    assert!(refused.code() == tonic::Code::PermissionDenied && refused.message().contains("another agent is site \"edge\"") && refused.message().contains("--replace"), "{refused}");
    let session = HubClient::new(channel(&hub, Some(namesake)).await).session(tokio_stream::empty()).await.err().unwrap();
    assert_eq!(session.code(), tonic::Code::PermissionDenied);
    // Nor does the namenode hear it: what it holds would be taken for all that the site holds.
    let catalog = geds::RemoteCatalog::new(own.dialer().unwrap(), hub.grpc_addr().to_string());
    let heard = tokio::time::timeout(MINUTE, geds::Catalog::buckets(&catalog)).await.expect("an answer");
    assert!(heard.is_err(), "{heard:?}");

    // The same agent may come back at any moment, also while its old session stands.
    let identity = edge.identity.clone();
    let hello = || proto::Hello { running: vec![held(0, 1), held(1, 1)], ..Default::default() };
    let mut again = Agent::session(&hub, identity.clone(), "edge", hello()).await;
    assert_eq!(hub.hub.world.lock().await.job("job-1").unwrap().state, JobState::Running);

    // Replaced, it is told so and not let in again; what it held is given up.
    let ticket = web.post("/v1/join-tokens").json(&json!({"site": "edge", "replace": true})).send().await.unwrap();
    let ticket: serde_json::Value = ticket.json().await.unwrap();
    let new = join(&hub, ticket["token"].as_str().unwrap(), "edge").await.unwrap();
    let status = last_words(&mut again).await;
    assert!(status.code() == tonic::Code::PermissionDenied && status.message().contains("another agent has taken its place"), "{status}");
    assert!(until(&hub, JobState::Failed).await.reason.contains("another agent has taken its place"));
    assert_eq!(asks(&hub, &identity).await.unwrap_err().code(), tonic::Code::PermissionDenied);
    let _new = Agent::session(&hub, new.clone(), "edge", proto::Hello { instance: "new".into(), ..Default::default() }).await;
    asks(&hub, &new).await.unwrap();
}

#[tokio::test]
async fn a_site_that_has_gone_can_be_forgotten_and_a_restarted_hub_knows_who_is_who() {
    let folder = tempfile::tempdir().unwrap();
    let first = hub(folder.path()).await;
    let edge = Agent::new(&first, "edge").await;
    let web = Web::new(&first);
    web.fails(web.delete("/v1/sites/edge"), 409, "failed_precondition", "connected from 127.0.0.1:").await;
    web.fails(web.delete("/v1/sites/moon"), 404, "not_found", "moon").await;
    let identity = edge.cut();
    first.shutdown().await;

    let second = hub(folder.path()).await;
    let web = Web::new(&second);
    assert!(second.mint_join_token("edge", MINUTE).await.unwrap_err().to_string().contains("last heard of"));
    asks(&second, &identity).await.unwrap();
    assert_eq!(web.delete("/v1/sites/edge").send().await.unwrap().status(), 200);
    assert_eq!(web.json("/v1/sites").await, json!([]));
    let refused = asks(&second, &identity).await.unwrap_err();
    assert!(refused.message().contains("was removed"), "{refused}");
    // The name is free for another.
    let _edge = Agent::new(&second, "edge").await;
    assert_eq!(web.json("/v1/sites").await[0]["name"], "edge");
}

#[tokio::test]
async fn jobs_of_a_platform_that_was_stopped_end_with_that_reason() {
    let folder = tempfile::tempdir().unwrap();
    let first = hub(folder.path()).await;
    let mut edge = Agent::new(&first, "edge").await;
    first.hub.submit(Submit { checkpoint_every: Some("1h".into()), ..ask(1, "edge") }).await.unwrap();
    assert!(matches!(edge.order().await, Body::Start(_)));
    edge.rank(0, 1, proto::rank_event::State::Running, 0).await;
    until(&first, JobState::Running).await;
    let web = Web::new(&first);
    let told: serde_json::Value = web.post("/v1/stopping").send().await.unwrap().json().await.unwrap();
    assert_eq!(told, json!([{"job": "job-1", "checkpoint": false}]));
    let identity = edge.cut();
    first.shutdown().await;
    let second = hub(folder.path()).await;
    let _edge = Agent::session(&second, identity, "edge", proto::Hello { instance: "2".into(), ..Default::default() }).await;
    let reason = until(&second, JobState::Failed).await.reason;
    assert!(reason.contains("the platform was stopped") && reason.contains("first checkpoint was not made yet") && !reason.contains("--checkpoint-every"), "{reason}");
}
