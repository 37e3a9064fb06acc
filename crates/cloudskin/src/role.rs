//! The role of a hub: the process that people and agents speak to. It runs until it is told to stop. (The other role is [`crate::agent`].)
//!
//! The hub is put together here, because only this crate may know both the orchestrator and what a cell can import.

use crate::{args, failure::fail, place::{Place, Ready}, stream, table, up};
use anyhow::Context;
use base::Kind;
use axum::{body::Body, http::header, response::Response};
use cells::snapshot::{Archive, Chain};
use orchestrator::archive::{ArchiveFormat, Joined};
use orchestrator::modules::{Check, ModuleInfo};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The dashboard's files.
const DASHBOARD: [orchestrator::Asset; 3] = [
    ("/", "text/html; charset=utf-8", include_bytes!("../../../web/index.html")),
    ("/app.js", "text/javascript; charset=utf-8", include_bytes!("../../../web/app.js")),
    ("/style.css", "text/css; charset=utf-8", include_bytes!("../../../web/style.css")),
];

/// Says whether agents could run a module.
fn check() -> anyhow::Result<Check> {
    let engine = cells::Engine::new(&cells::engine::Options { cells_max: 1, ..Default::default() }).context("start the engine that checks modules")?;
    Ok(Box::new(move |wasm| {
        let known = |module: &str, name: &str| engine.provides(module, name);
        let report = cells::toolchain::inspect::check(wasm, cells::engine::MODULE_MAX, &known).map_err(|e| e.to_string())?;
        Ok(ModuleInfo { movable: report.movable(), imports: report.imports.iter().map(|i| format!("{}.{}", i.module, i.name)).collect() })
    }))
}

/// Asks a stream server, for the dashboard; as `user`, where the server asks for one.
fn streams(at: std::net::SocketAddr, user: Option<String>) -> anyhow::Result<orchestrator::Streams> {
    // A picture may have to be decoded first.
    const SILENCE_MAX: Duration = Duration::from_secs(10);
    let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(2)).read_timeout(SILENCE_MAX).redirect(reqwest::redirect::Policy::none()).build()?;
    let login = user.map(|name| anyhow::Ok((name, stream::password()?))).transpose()?;
    Ok(std::sync::Arc::new(move |path| {
        let mut request = client.get(format!("http://{at}{path}"));
        if let Some((name, password)) = &login {
            request = request.basic_auth(name, Some(password));
        }
        Box::pin(async move {
            let answer = request.send().await.map_err(|e| format!("the stream server at {at} does not answer: {e}"))?;
            let mut passed_on = Response::builder().status(answer.status());
            for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CACHE_CONTROL] {
                passed_on = answer.headers().get(&name).into_iter().fold(passed_on, |p, value| p.header(&name, value));
            }
            passed_on.body(Body::from_stream(answer.bytes_stream())).map_err(|e| e.to_string())
        })
    }))
}

/// The namenode's standby. What reaches a store is in `[geds]` of the `cloudskin.toml` in the hub's folder, as in that of an agent.
fn standby(data: &std::path::Path, site: base::SiteId, place: String) -> anyhow::Result<orchestrator::names::Standby> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Config {
        geds: geds::Config,
    }
    let file = data.join("cloudskin.toml");
    let config: Config = base::config::load(file.exists().then_some(file.as_path()), std::env::vars_os()).map_err(|e| fail(Kind::InvalidArgument, e.to_string()))?;
    let referee = config.geds.referee(&place).map_err(|e| fail(e.kind(), e.to_string()))?;
    Ok(orchestrator::names::Standby { site, place, referee })
}

/// A snapshot and those on which it stands, of which there is one at least, as one that needs no other.
fn join(mut files: Vec<Vec<u8>>) -> cells::Result<Joined> {
    let mut chain = Chain::begin(&files[0])?;
    files[1..].iter().try_for_each(|file| chain.add(file))?;
    if let Some(parent) = chain.missing() {
        let parent = parent.name.clone();
        return Ok(Joined::Lacks { files, parent });
    }
    // A complete one stays as it is.
    Ok(Joined::Complete(if files.len() == 1 { files.remove(0) } else { chain.join()? }))
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
        archive: Some(ArchiveFormat { write: Archive::write, read: |bytes| Archive::read(bytes).map_err(|e| e.to_string()), join: |newest_first| join(newest_first).map_err(|e| e.to_string()) }),
        dashboard: DASHBOARD.to_vec(),
        streams: hub.streams.map(|at| streams(at, hub.streams_user)).transpose()?,
        standby: hub.standby.zip(hub.referee).map(|(site, at)| standby(&place.data, site, at)).transpose()?,
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
