//! Streams on the command line: serve them, and create, write, read, scale and end them.
//!
//! `serve` is a role, as `hub` and `agent` are: it runs until it is told to stop. All other commands speak to a server's controller port, here or
//! elsewhere; they would speak to a Pravega cluster just as well.

use crate::{args::{self, Output, Stream, StreamName}, failure::fail, place::Place, table};
use anyhow::Context;
use base::Kind;
use serde_json::json;
use std::{collections::BTreeMap, io::BufRead, net::SocketAddr};
use streams::{Client, client::{From, Reader, Writer}, proto::ScalingPolicy};
use tokio::signal::unix::{SignalKind, signal};

fn failed(e: streams::Error) -> anyhow::Error {
    fail(e.kind(), e.to_string())
}

pub async fn stream(place: &Place, command: Stream, output: Output) -> anyhow::Result<u8> {
    match command {
        Stream::Serve(o) => serve(place, o).await,
        Stream::Create { stream, segments, rate, server } => {
            let client = server.connect().await?;
            let scaling = match rate {
                None => ScalingPolicy { min_num_segments: segments as i32, ..ScalingPolicy::default() },
                Some(rate) => ScalingPolicy { scale_type: 2, target_rate: rate as i32, scale_factor: 2, min_num_segments: segments as i32 },
            };
            client.create_scope(&stream.scope).await.map_err(failed)?;
            if !client.create_stream(&stream.scope, &stream.name, scaling).await.map_err(failed)? {
                return Err(fail(Kind::AlreadyExists, format!("stream {stream} exists already")));
            }
            table::say(&format!("{stream}: created with {segments} segments\n"))?;
            Ok(0)
        }
        Stream::Append { stream, key, server } => append(&server.connect().await?, &stream, key).await,
        Stream::Tail { stream, server } => read(&server.connect().await?, &stream, From::Tail, true, output).await,
        Stream::Read { stream, follow, server } => read(&server.connect().await?, &stream, From::Head, follow, output).await,
        Stream::Scale { stream, segments, server } => {
            let new = server.connect().await?.scale(&stream.scope, &stream.name, segments).await.map_err(failed)?;
            table::say(&format!("{stream}: {} segments\n", new.len()))?;
            Ok(0)
        }
        Stream::Truncate { stream, server } => {
            let client = server.connect().await?;
            let cut = client.tail(&stream.scope, &stream.name).await.map_err(failed)?;
            client.truncate(&stream.scope, &stream.name, &cut).await.map_err(failed)?;
            table::say(&format!("{stream}: what was written so far is forgotten\n"))?;
            Ok(0)
        }
        Stream::Seal { stream, server } => {
            server.connect().await?.seal(&stream.scope, &stream.name).await.map_err(failed)?;
            table::say(&format!("{stream}: sealed\n"))?;
            Ok(0)
        }
        Stream::Rm { stream, server } => {
            let client = server.connect().await?;
            client.seal(&stream.scope, &stream.name).await.map_err(failed)?;
            client.delete(&stream.scope, &stream.name).await.map_err(failed)?;
            table::say(&format!("{stream}: removed\n"))?;
            Ok(0)
        }
        Stream::Ls { scope, server } => ls(&server.connect().await?, scope, output).await,
        Stream::Stat { stream, server } => stat(&server.connect().await?, &stream, output).await,
    }
}

impl args::StreamServer {
    async fn connect(&self) -> anyhow::Result<Client> {
        Client::connect(&self.server).await.map_err(failed)
    }
}

async fn serve(place: &Place, o: args::StreamServe) -> anyhow::Result<u8> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let data = o.folder.unwrap_or_else(|| place.data.join("streams"));
    let loopback = |a: &SocketAddr| a.ip().is_loopback();
    if o.publish.is_none() && o.segments.ip().is_unspecified() {
        return Err(fail(Kind::InvalidArgument, format!("clients can't reach {}: say --publish HOST", o.segments)));
    }
    if !(loopback(&o.controller) && loopback(&o.segments)) {
        tracing::warn!("whoever reaches these ports may read and write all streams");
    }
    let mut options = streams::Options::new(&data);
    (options.controller, options.segments, options.publish) = (o.controller, o.segments, o.publish);
    let mut geds: geds::Config = base::config::load::<BTreeMap<String, geds::Config>>(None, std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("CLOUDSKIN_GEDS__")))
        .map_err(|e| fail(Kind::InvalidArgument, e.to_string()))?
        .remove("geds")
        .unwrap_or_default();
    if let Some(to) = o.long_term {
        geds.persist = Some(to);
    }
    options.long_term = match geds.persist().map_err(|e| fail(e.kind(), e.to_string()))? {
        Some(persist) => Some(persist),
        None => Some(geds::Persist::folder(data.join("chunks")).map_err(|e| fail(e.kind(), e.to_string()))?),
    };
    options.tls = o.tls_cert.zip(o.tls_key).map(|(certificate, key)| streams::server::Tls { certificate, key });
    if o.scale_fast {
        options.scaling = streams::scale::Profile::fast();
    }
    options.store.backlog_max = o.backlog.0;
    // Blocks are padded, files are left before they are full, and the last two checkpoints keep some.
    let file = options.store.log.file_bytes;
    options.store.log.files_max = (o.backlog.0 / file) as usize * 5 / 4 + 16;
    let server = streams::Server::bind(options).await.map_err(failed)?;
    let (controller, segments) = server.addresses().map_err(failed)?;
    table::say(&format!("streams ready: controller on {controller}, segments on {segments}; the log is in {}\n", data.display()))?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        let _ = stop.send(true);
    });
    server.run(stopped).await.map_err(failed)?;
    Ok(0)
}

async fn append(client: &Client, stream: &StreamName, key: Option<String>) -> anyhow::Result<u8> {
    let mut writer = Writer::open(client, &stream.scope, &stream.name, None).await.map_err(failed)?;
    // Lines come from a thread of their own: reading a terminal can't be waited for otherwise.
    let (lines, mut line) = tokio::sync::mpsc::channel(1024);
    std::thread::spawn(move || {
        for read in std::io::stdin().lock().split(b'\n') {
            if lines.blocking_send(read).is_err() {
                return;
            }
        }
    });
    let mut events = 0u64;
    while let Some(event) = line.recv().await {
        let event = event.context("read standard input")?;
        let own = events.to_string();
        writer.append(key.as_deref().unwrap_or(&own), &event, events).await.map_err(failed)?;
        events += 1;
    }
    writer.flush().await.map_err(failed)?;
    table::say(&format!("{stream}: {events} events\n"))?;
    Ok(0)
}

/// Prints events, one a line; with `-o json`, with where they lie.
async fn read(client: &Client, stream: &StreamName, from: From, follow: bool, output: Output) -> anyhow::Result<u8> {
    let end = client.tail(&stream.scope, &stream.name).await.map_err(failed)?;
    let mut left: BTreeMap<_, u64> = end.into_iter().filter(|(_, o)| *o > 0).collect();
    let head = client.head(&stream.scope, &stream.name).await.map_err(failed)?;
    left.retain(|segment, end| head.get(segment).is_none_or(|start| start < end));
    let sealed = client.current(&stream.scope, &stream.name).await.map_err(failed)?.is_empty();
    if !follow && !sealed && left.is_empty() {
        return Ok(0);
    }
    let mut reader = Reader::open(client, &stream.scope, &stream.name, from).await.map_err(failed)?;
    while let Some(event) = reader.next().await.map_err(failed)? {
        let next = event.offset + 8 + event.data.len() as u64;
        if output == Output::Table {
            table::bytes(&[&event.data, &b"\n"[..]].concat())?;
        } else {
            let line = json!({"segment": event.segment.0, "offset": event.offset, "event": String::from_utf8_lossy(&event.data)});
            table::say(&format!("{line}\n"))?;
        }
        if left.get(&event.segment).is_some_and(|end| next >= *end) {
            left.remove(&event.segment);
            if !follow && !sealed && left.is_empty() {
                return Ok(0);
            }
        }
    }
    Ok(0)
}

async fn ls(client: &Client, scope: Option<String>, output: Output) -> anyhow::Result<u8> {
    let scopes = match scope {
        Some(scope) => vec![scope],
        None => client.scopes().await.map_err(failed)?,
    };
    let mut rows = Vec::new();
    for scope in scopes {
        for stream in client.streams(&scope).await.map_err(failed)? {
            let segments = client.current(&scope, &stream).await.map_err(failed)?.len();
            rows.push((format!("{scope}/{stream}"), segments));
        }
    }
    let told = json!(rows.iter().map(|(name, n)| json!({"stream": name, "segments": n})).collect::<Vec<_>>());
    table::print(output, &told, || {
        let state = |n: &usize| if *n == 0 { "sealed".into() } else { n.to_string() };
        Ok(table::table(&["STREAM", "SEGMENTS"], &rows.iter().map(|(name, n)| vec![name.clone(), state(n)]).collect::<Vec<_>>()))
    })
}

async fn stat(client: &Client, stream: &StreamName, output: Output) -> anyhow::Result<u8> {
    let head = client.head(&stream.scope, &stream.name).await.map_err(failed)?;
    let current = client.current(&stream.scope, &stream.name).await.map_err(failed)?;
    let (mut todo, mut seen): (Vec<_>, BTreeMap<_, _>) = (head.keys().copied().collect(), BTreeMap::new());
    while let Some(segment) = todo.pop() {
        if seen.contains_key(&segment) {
            continue;
        }
        seen.insert(segment, client.segment(&stream.scope, &stream.name, segment).await.map_err(failed)?);
        todo.extend(client.successors(&stream.scope, &stream.name, segment).await.map_err(failed)?.into_iter().map(|(r, _)| r.segment));
    }
    let range = |segment| current.iter().find(|r| r.segment == segment).map(|r| (r.low, r.high));
    let told = json!({
        "stream": stream.to_string(),
        "sealed": current.is_empty(),
        "segments": seen.iter().map(|(s, (start, length, sealed))| json!({
            "segment": s.0, "name": s.name(&stream.scope, &stream.name), "start": start, "length": length, "sealed": sealed, "keys": range(*s),
        })).collect::<Vec<_>>(),
    });
    table::print(output, &told, || {
        let row = |(s, (start, length, sealed)): (&streams::catalog::SegmentNo, &(u64, u64, bool))| {
            let keys = range(*s).map_or("-".into(), |(low, high)| format!("{low:.3} to {high:.3}"));
            vec![s.name(&stream.scope, &stream.name), start.to_string(), length.to_string(), if *sealed { "yes" } else { "no" }.into(), keys]
        };
        Ok(table::table(&["SEGMENT", "START", "LENGTH", "SEALED", "KEYS"], &seen.iter().map(row).collect::<Vec<_>>()))
    })
}
