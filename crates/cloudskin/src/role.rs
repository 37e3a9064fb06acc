//! The role of a hub: the process that people and agents speak to. It runs until it is told to stop. (The other role is [`crate::agent`].)
//!
//! The hub is put together here, because only this crate may know both the orchestrator and what a cell can import.

use crate::{args, failure::fail, place::{Place, Ready}, table, up};
use anyhow::Context;
use cells::snapshot::Archive;
use orchestrator::archive::ArchiveFormat;
use orchestrator::modules::{Check, ModuleInfo};
use tokio::signal::unix::{SignalKind, signal};

/// The dashboard's files.
const DASHBOARD: [orchestrator::Asset; 3] = [
    ("/", "text/html; charset=utf-8", include_bytes!("../../../web/index.html")),
    ("/app.js", "text/javascript; charset=utf-8", include_bytes!("../../../web/app.js")),
    ("/style.css", "text/css; charset=utf-8", include_bytes!("../../../web/style.css")),
];

/// Says whether agents could run a module.
fn check() -> anyhow::Result<Check> {
    let engine = cells::Engine::new(&cells::engine::Options { cache: None, cells_max: 1 }).context("start the engine that checks modules")?;
    Ok(Box::new(move |wasm| {
        let known = |module: &str, name: &str| engine.provides(module, name);
        let report = cells::toolchain::inspect::check(wasm, cells::engine::MODULE_MAX, &known).map_err(|e| e.to_string())?;
        Ok(ModuleInfo { movable: report.movable(), imports: report.imports.iter().map(|i| format!("{}.{}", i.module, i.name)).collect() })
    }))
}

/// Asks a stream server what it has, for the dashboard.
fn streams(at: std::net::SocketAddr) -> orchestrator::Streams {
    const ANSWER_MAX: std::time::Duration = std::time::Duration::from_secs(2);
    let client = reqwest::Client::new();
    std::sync::Arc::new(move || {
        let request = client.get(format!("http://{at}/v1/streams")).timeout(ANSWER_MAX);
        Box::pin(async move {
            let told = async { request.send().await?.error_for_status()?.json().await };
            told.await.map_err(|e: reqwest::Error| format!("the stream server at {at} does not answer: {e}"))
        })
    })
}

pub async fn hub(place: &Place, hub: args::Hub) -> anyhow::Result<u8> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    up::writable(&place.data)?;
    up::free("HTTP", "--http", hub.http)?;
    up::free("the hub", "--grpc", hub.grpc)?;
    let options = orchestrator::Options {
        data: place.data.clone(),
        grpc: hub.grpc,
        http: hub.http,
        advertise: hub.advertise,
        check_module: Some(check()?),
        archive: Some(ArchiveFormat { write: Archive::write, read: |bytes| Archive::read(bytes).map_err(|e| e.to_string()) }),
        dashboard: DASHBOARD.to_vec(),
        streams: hub.streams.map(streams),
        ..Default::default()
    };
    let handle = orchestrator::Service::start(options).await.map_err(|e| fail(e.kind(), e.to_string()))?;
    let (http, grpc) = (handle.http_addr().to_string(), handle.grpc_addr().to_string());
    let note = place.data.join("hub/ready.json");
    up::write(&note, &serde_json::to_value(Ready { pid: std::process::id(), http: http.clone(), grpc: grpc.clone() })?)?;
    table::say(&format!("hub ready: HTTP on {http}, agents on {grpc}; the token is in {}\n", place.data.join("hub/token").display()))?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let _ = std::fs::remove_file(note);
    handle.shutdown().await;
    Ok(0)
}
