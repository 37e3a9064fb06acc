//! Streams on the command line: serve them, create, write, read, scale and end them, take video in, and put a program between two of them.
//!
//! `serve` is a role, as `hub` and `agent` are: it runs until it is told to stop. All other commands speak to a server's controller port, here or
//! elsewhere; they would speak to a Pravega cluster just as well.

use crate::{args::{self, Output, Stream, StreamName}, failure::fail, place::{Place, StreamsReady}, table, up};
use anyhow::Context;
use base::Kind;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{collections::{BTreeMap, BTreeSet}, ffi::OsString, io::{BufRead, Write}, net::SocketAddr, os::{fd::AsFd, unix::{fs::OpenOptionsExt, process::ExitStatusExt}}, path::Path, process::Stdio, sync::{Arc, Mutex, atomic::{AtomicBool, AtomicU64, Ordering::Relaxed}}, time::Duration};
use streams::{Client, access, catalog::{Retention, Scaling}, client::{From, Login, Reader, Writer}, proto::{RetentionPolicy, ScalingPolicy, StreamConfig}, video::{ingest::Ingester, play::date, rtsp::Camera}};
use tokio::{io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader}, signal::unix::{SignalKind, signal}};

fn failed(e: streams::Error) -> anyhow::Error {
    fail(e.kind(), e.to_string())
}

pub async fn stream(place: &Place, command: Stream, output: Output) -> anyhow::Result<u8> {
    match command {
        Stream::Serve(o) => serve(place, o).await,
        Stream::User { file, name, allow } => user(&file, &name, &allow, output),
        Stream::Create { stream, segments, policy, server } => {
            let client = server.connect(place).await?;
            let mut config = StreamConfig { scaling_policy: Some(ScalingPolicy { min_num_segments: segments as i32, ..ScalingPolicy::default() }), ..StreamConfig::default() };
            apply(&policy, &mut config);
            if !client.create_with_scope(&stream.scope, &stream.name, config).await.map_err(failed)? {
                return Err(fail(Kind::AlreadyExists, format!("stream {stream} exists already; `cloudskin stream set {stream}` changes how it scales and what it keeps")));
            }
            done(output, &stream, &json!({"created": true, "segments": segments}), &format!("created with {}", base::unit::count(segments.into(), "segment")))
        }
        Stream::Set { stream, segments, policy, fixed, keep_all, server } => {
            if policy.is_empty() && segments.is_none() && !fixed && !keep_all {
                return Err(fail(Kind::InvalidArgument, "say what to change: --rate, --byte-rate, --fixed, --segments, --keep, --keep-bytes or --keep-all"));
            }
            let client = server.connect(place).await?;
            let mut config = client.config(&stream.scope, &stream.name).await.map_err(failed)?;
            apply(&policy, &mut config);
            if keep_all {
                config.retention_policy = None;
            }
            let scaling = config.scaling_policy.get_or_insert_default();
            if fixed {
                (scaling.scale_type, scaling.target_rate, scaling.scale_factor) = (Scaling::FIXED, 0, 0);
            }
            match segments {
                Some(_) if scaling.scale_type == Scaling::FIXED => {
                    return Err(fail(Kind::FailedPrecondition, format!("stream {stream} does not scale by itself: `cloudskin stream scale {stream} N` changes its segments, and --rate or --byte-rate makes it scale")));
                }
                Some(segments) => scaling.min_num_segments = segments as i32,
                None => {}
            }
            let (scales, keeps) = (scales(&config), keeps(&config));
            client.configure(&stream.scope, &stream.name, config).await.map_err(failed)?;
            done(output, &stream, &json!({"scales": scales, "keeps": keeps}), &format!("{scales}; {keeps}"))
        }
        Stream::Append { stream, key, server } => append(&server.connect(place).await?, &stream, key, output).await,
        Stream::Ingest { stream, from, server } => ingest(&server.connect(place).await?, &stream, from).await,
        Stream::Map { from, to, all, binary, server, program } => {
            let start = if all { From::Head } else { From::Tail };
            map(&server.connect(place).await?, (&from, &to), start, binary, &program, output).await
        }
        Stream::Tail { stream, server } => read(&server.connect(place).await?, &stream, From::Tail, true, output).await,
        Stream::Read { stream, follow, server } => read(&server.connect(place).await?, &stream, From::Head, follow, output).await,
        Stream::Scale { stream, segments, server } => {
            let client = server.connect(place).await?;
            // Sharing them out anew would end all segments that are written to, for nothing.
            if !client.is_even(&stream.scope, &stream.name, segments).await.map_err(failed)? {
                client.scale(&stream.scope, &stream.name, segments).await.map_err(failed)?;
            }
            done(output, &stream, &json!({"segments": segments}), &base::unit::count(segments.into(), "segment"))
        }
        Stream::Truncate { stream, at, older_than, server } => truncate(&server.connect(place).await?, &stream, &at, older_than, output).await,
        Stream::Seal { stream, server } => {
            server.connect(place).await?.seal(&stream.scope, &stream.name).await.map_err(failed)?;
            done(output, &stream, &json!({"sealed": true}), "sealed")
        }
        Stream::Rm { stream, server } => {
            let client = server.connect(place).await?;
            client.seal(&stream.scope, &stream.name).await.map_err(failed)?;
            client.delete(&stream.scope, &stream.name).await.map_err(failed)?;
            done(output, &stream, &json!({"removed": true}), "removed")
        }
        Stream::Ls { scope, server } => ls(&server.connect(place).await?, scope, output).await,
        Stream::Stat { stream, server } => stat(&server.connect(place).await?, &stream, output).await,
    }
}

/// Says what was done to a stream.
fn done(output: Output, stream: &StreamName, told: &Value, people: &str) -> anyhow::Result<u8> {
    let mut told = told.clone();
    told["stream"] = stream.to_string().into();
    table::print(output, &told, || Ok(format!("{stream}: {people}\n")))
}

impl args::StreamPolicy {
    fn is_empty(&self) -> bool {
        self.rate.is_none() && self.byte_rate.is_none() && self.keep.is_none() && self.keep_bytes.is_none()
    }
}

/// Changes what is named, and leaves the rest.
fn apply(policy: &args::StreamPolicy, config: &mut StreamConfig) {
    let rate = policy.rate.map(|events| (Scaling::BY_EVENTS, events as i32)).or(policy.byte_rate.map(|kib| (Scaling::BY_KIB, kib)));
    if let Some((scale_type, target_rate)) = rate {
        let before = config.scaling_policy.unwrap_or_default();
        config.scaling_policy = Some(ScalingPolicy { scale_type, target_rate, scale_factor: before.scale_factor.max(2), min_num_segments: before.min_num_segments.max(1) });
    }
    let kept = policy.keep.map(|ms| (Retention::BY_TIME, ms)).or(policy.keep_bytes.map(|bytes| (Retention::BY_SIZE, bytes)));
    if let Some((retention_type, retention_param)) = kept {
        config.retention_policy = Some(RetentionPolicy { retention_type, retention_param, retention_max: 0 });
    }
}

/// In words: how it scales.
fn scales(config: &StreamConfig) -> String {
    let of = config.scaling_policy.unwrap_or_default();
    let least = base::unit::count(of.min_num_segments.max(1) as u64, "segment");
    match of.scale_type {
        Scaling::BY_KIB => format!("scales at {}/s and segment, with {least} at least", base::unit::Bytes(of.target_rate.max(0) as u64 * 1024)),
        Scaling::BY_EVENTS => format!("scales at {} events/s and segment, with {least} at least", of.target_rate),
        _ => "scales by request".into(),
    }
}

/// In words: what stays.
fn keeps(config: &StreamConfig) -> String {
    let of = config.retention_policy.unwrap_or_default();
    match of.retention_type {
        Retention::BY_TIME => format!("keeps what is younger than {}", base::unit::Span(std::time::Duration::from_millis(of.retention_param.max(0) as u64))),
        Retention::BY_SIZE => format!("keeps the last {}", base::unit::Bytes(of.retention_param.max(0) as u64)),
        _ => "keeps everything".into(),
    }
}

async fn truncate(client: &Client, stream: &StreamName, at: &[args::SegmentPlace], older_than: Option<base::unit::Span>, output: Output) -> anyhow::Result<u8> {
    let (scope, name) = (&stream.scope, &stream.name);
    let (cut, told) = match older_than {
        Some(span) => {
            // 0 would ask for where the stream begins.
            let at_ms = base::clock::now_ms().saturating_sub(span.ms()).max(1);
            let known = client.place(scope, name, at_ms).await;
            let hint = |e: streams::Error| match e {
                streams::Error::NotFound(why) => fail(Kind::NotFound, format!("{why}; `cloudskin stream set {stream} --keep SPAN` forgets what gets older from now on")),
                e => failed(e),
            };
            (known.map_err(hint)?, "what is known to be older is forgotten")
        }
        None if at.iter().enumerate().any(|(n, place)| at[..n].iter().any(|other| other.segment == place.segment)) => {
            return Err(fail(Kind::InvalidArgument, "--at names a segment twice: say once for each where it is to begin"));
        }
        None if at.is_empty() => (client.tail(scope, name).await.map_err(failed)?, "what was written so far is forgotten"),
        None => (at.iter().map(|p| (streams::catalog::SegmentNo(p.segment), p.offset)).collect(), "what lies before is forgotten"),
    };
    if !at.is_empty() && !client.is_cut(scope, name, &cut).await.map_err(failed)? {
        return Err(fail(Kind::InvalidArgument, format!("these are not places that have each key of {stream} once: name one in each segment that was written to at a time, as `cloudskin stream stat {stream} -o json` shows them")));
    }
    for place in at {
        let (start, length, _) = client.segment(scope, name, streams::catalog::SegmentNo(place.segment)).await.map_err(failed)?;
        if place.offset > length {
            return Err(fail(Kind::InvalidArgument, format!("segment {} of {stream} has bytes from {start} to {length}, and none at {}", place.segment, place.offset)));
        }
    }
    client.truncate(scope, name, &cut).await.map_err(failed)?;
    let begins: BTreeMap<String, u64> = cut.iter().map(|(segment, offset)| (segment.0.to_string(), *offset)).collect();
    done(output, stream, &json!({"begins": begins}), told)
}

impl args::StreamServer {
    async fn connect(&self, place: &Place) -> anyhow::Result<Client> {
        let address = match &self.server {
            Some(address) => address.clone(),
            None => place.running()?.and_then(|up| up.streams).unwrap_or_else(|| "127.0.0.1:9090".into()),
        };
        let authority = match &self.ca {
            Some(file) => Some(std::fs::read(file).with_context(|| format!("read the authority's certificate {}", file.display()))?),
            None => None,
        };
        let user = match &self.user {
            Some(name) => Some((name.clone(), password()?)),
            None => None,
        };
        Client::open(&address, &Login { authority, user }).await.map_err(failed)
    }
}

/// From the environment, where other users of the machine can't read it.
pub(crate) fn password() -> anyhow::Result<String> {
    std::env::var("CLOUDSKIN_STREAM_PASSWORD").map_err(|_| fail(Kind::Unauthenticated, "the user's password is not in the environment: set CLOUDSKIN_STREAM_PASSWORD"))
}

fn user(file: &Path, name: &str, allow: &[access::Rule], output: Output) -> anyhow::Result<u8> {
    let password = match password() {
        Ok(password) => password,
        Err(_) => std::io::stdin().lock().lines().next().transpose().context("read the password")?.unwrap_or_default(),
    };
    if password.is_empty() {
        return Err(fail(Kind::InvalidArgument, "the password is empty; give it in CLOUDSKIN_STREAM_PASSWORD or on standard input"));
    }
    let line = access::line(name, &password, allow).map_err(failed)?;
    let before = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).with_context(|| format!("read {}", file.display())),
    };
    let kept = before.lines().filter(|l| l.split(':').next() != Some(name)).chain([line.as_str()]);
    let text: String = kept.map(|l| format!("{l}\n")).collect();
    let part = file.with_extension("part");
    let context = || format!("write {}", file.display());
    let mut out = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&part).with_context(context)?;
    out.write_all(text.as_bytes()).and_then(|()| std::fs::rename(&part, file)).with_context(context)?;
    let rules: Vec<String> = allow.iter().map(|r| format!("{},{}", r.resource, r.want)).collect();
    table::print(output, &json!({"user": name, "allow": rules}), || Ok(format!("{name}: may {}\n", rules.join(" and "))))
}

async fn serve(place: &Place, o: args::StreamServe) -> anyhow::Result<u8> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let data = o.folder.unwrap_or_else(|| place.data.join("streams"));
    up::not_foreign(&data, &["lock", "chunks"], "the log's folder", "--folder")?;
    let loopback = |a: &SocketAddr| a.ip().is_loopback();
    if o.publish.is_none() && o.segments.ip().is_unspecified() {
        return Err(fail(Kind::InvalidArgument, format!("clients can't reach {}: say --publish HOST", o.segments)));
    }
    if o.users.is_none() && !(loopback(&o.controller) && loopback(&o.segments)) {
        tracing::warn!("whoever reaches these ports may read and write all streams; --users says who may do what");
    }
    if o.users.is_some() && o.tls_cert.is_none() && !(loopback(&o.controller) && loopback(&o.segments)) {
        tracing::warn!("passwords can be read on their way; --tls-cert and --tls-key encrypt it");
    }
    let mut options = streams::Options::new(&data);
    (options.controller, options.segments, options.publish) = (o.controller, o.segments, o.publish);
    (options.http, options.restore) = (o.http, o.restore);
    if o.users.is_some() && o.http.is_some_and(|a| !loopback(&a)) {
        tracing::warn!("passwords can be read on their way to the HTTP port, which has no TLS: let a proxy in front of it encrypt, or give it an address of this machine alone");
    }
    if o.users.is_some() && o.token_life.0 < std::time::Duration::from_secs(1) {
        return Err(fail(Kind::InvalidArgument, format!("--token-life {} lets no token live to be used; say 1s at least", o.token_life)));
    }
    options.users = o.users.map(|file| streams::server::Users { file, token_life: o.token_life.0 });
    let mut geds: geds::Config = base::config::load::<BTreeMap<String, geds::Config>>(None, std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("CLOUDSKIN_GEDS__")))
        .map_err(|e| fail(Kind::InvalidArgument, e.to_string()))?
        .remove("geds")
        .unwrap_or_default();
    if let Some(to) = o.long_term {
        geds.persist = Some(to);
    }
    if geds.s3_access_key.is_empty() && geds.persist.as_deref().is_some_and(|to| to.starts_with("s3:")) {
        tracing::warn!("no keys for S3 are set (CLOUDSKIN_GEDS__S3_ACCESS_KEY and CLOUDSKIN_GEDS__S3_SECRET_KEY): they are asked of the cloud's metadata service, which answers on a cloud's machines only");
    }
    let opened = geds.persist().map_err(|e| match e {
        geds::Error::BadValue { what, value, .. } if what.starts_with("`persist`") => {
            fail(Kind::InvalidArgument, format!("--long-term {value:?} names no store: write file:<folder>, s3://<bucket>, gs://<bucket> or az://<container>, without a path in it"))
        }
        e => fail(e.kind(), e.to_string()),
    });
    options.long_term = match opened? {
        Some(persist) => Some(persist),
        None => Some(geds::Persist::folder(data.join("chunks")).map_err(|e| fail(e.kind(), e.to_string()))?),
    };
    if let Some((folder, limit)) = o.overflow.zip(o.overflow_limit) {
        // Both are there from here on, so that two names of one are seen to be so.
        let overflow = geds::Persist::folder(&folder).map_err(|e| fail(e.kind(), e.to_string()))?;
        std::fs::create_dir_all(&data).with_context(|| format!("make the log's folder {}", data.display()))?;
        if std::fs::canonicalize(&folder)? == std::fs::canonicalize(&data)? {
            let moved = if folder.join("overflow").exists() { ", and move `overflow` from here to there first: the log needs what it has" } else { "" };
            return Err(fail(Kind::InvalidArgument, format!("--overflow {} is the log's own folder: name one on another disk{moved}", folder.display())));
        }
        options.overflow = Some((overflow, limit.0));
    }
    options.tls = o.tls_cert.zip(o.tls_key).map(|(certificate, key)| streams::server::Tls { certificate, key });
    if o.scale_fast {
        options.scaling = streams::scale::Profile::fast();
    }
    if o.backlog.0 == 0 {
        return Err(fail(Kind::InvalidArgument, "--backlog 0 lets nothing be written; say how much may wait for long-term storage, 8GiB for instance"));
    }
    options.store.backlog_max = o.backlog.0;
    options.tier.cache_bytes = usize::try_from(o.cache.0).unwrap_or(usize::MAX);
    // Blocks are padded, files are left before they are full, and the last two checkpoints keep some.
    let file = options.store.log.file_bytes;
    options.store.log.files_max = (o.backlog.0 / file) as usize * 5 / 4 + 16;
    let server = streams::Server::bind(options).await.map_err(failed)?;
    let (controller, segments) = server.addresses().map_err(failed)?;
    let http = server.http_address().map(|a| a.to_string());
    let (note, log) = (data.join("ready.json"), server.store().log_name());
    let ready = StreamsReady { pid: std::process::id(), controller: controller.to_string(), segments: segments.to_string(), http: http.clone(), log: log.clone() };
    up::write(&note, &serde_json::to_value(ready)?)?;
    let told = http.map(|a| format!(", metrics on http://{a}/metrics")).unwrap_or_default();
    let short = server.store().short_of().map(|why| format!("\nnothing can be written yet: {why}")).unwrap_or_default();
    table::say(&format!("streams ready: controller on {controller}, segments on {segments}{told}; log {log} is in {}{short}\n", data.display()))?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        let _ = stop.send(true);
    });
    let ended = server.run(stopped).await;
    let _ = std::fs::remove_file(note);
    ended.map_err(failed)?;
    Ok(0)
}

/// How long [`append`], which has to end, waits for what it has taken to be durable.
const LAST_WAIT: Duration = Duration::from_secs(60);
/// The same after a signal.
const STOP_WAIT: Duration = Duration::from_secs(2);

async fn append(client: &Client, stream: &StreamName, key: Option<String>, output: Output) -> anyhow::Result<u8> {
    let hint = |e: streams::Error| match e.kind() {
        Kind::NotFound => fail(Kind::NotFound, format!("{e}; `cloudskin stream create {stream}` makes it")),
        _ => failed(e),
    };
    // Who begins again needs to know where: up to which line all are durable, and which of those behind it, in other segments.
    let durable = Arc::new(Mutex::new((0u64, BTreeSet::new())));
    let noted = durable.clone();
    let note = move |line: u64| {
        let mut noted = noted.lock().unwrap_or_else(|e| e.into_inner());
        noted.1.insert(line);
        while noted.1.first() == Some(&noted.0) {
            noted.1.pop_first();
            noted.0 += 1;
        }
    };
    let mut writer = Writer::open(client, &stream.scope, &stream.name, Some(Arc::new(note))).await.map_err(hint)?;
    let told = || match durable.lock().unwrap_or_else(|e| e.into_inner()).0 {
        0 => "no line is known to be durable".to_string(),
        1 => "line 1 is durable".into(),
        first => format!("lines 1 to {first} are durable"),
    };
    let ended = |line: u64, kind: Kind, why: String| fail(kind, format!("line {line}: {why}; {}", told()));
    // Lines come from a thread of their own: reading a terminal can't be waited for otherwise.
    let (lines, mut line) = tokio::sync::mpsc::channel(1024);
    std::thread::spawn(move || {
        for read in std::io::stdin().lock().split(b'\n') {
            if lines.blocking_send(read).is_err() {
                return;
            }
        }
    });
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (events, all) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = async {
        while let Some(event) = line.recv().await {
            let number = events.load(Relaxed);
            let own = number.to_string();
            let taken = match &event {
                Ok(event) => writer.append(key.as_deref().unwrap_or(&own), event, number).await.map_err(|e| (e.kind(), e.to_string())),
                Err(e) => Err((Kind::Internal, format!("read standard input: {e}"))),
            };
            if let Err((kind, why)) = taken {
                // What was taken before is written all the same, if there is someone who writes it.
                let _ = tokio::time::timeout(LAST_WAIT, writer.flush()).await;
                return Err(ended(number + 1, kind, why));
            }
            events.store(number + 1, Relaxed);
        }
        all.store(true, Relaxed);
        let number = events.load(Relaxed);
        writer.flush().await.map_err(|e| ended(number, e.kind(), e.to_string()))
    };
    let stop = tokio::select! {
        done = work => {
            done?;
            0
        }
        _ = interrupt.recv() => libc::SIGINT,
        _ = terminate.recv() => libc::SIGTERM,
    };
    let events = events.into_inner();
    if stop != 0 {
        // Who stops it does not wait for a server that is away.
        let flushed = tokio::time::timeout(STOP_WAIT, writer.flush()).await;
        if !(all.into_inner() && matches!(flushed, Ok(Ok(())))) {
            eprintln!("error: stopped by a signal; {}", told());
            // As a shell tells it.
            return Ok(128 + stop as u8);
        }
    }
    done(output, stream, &json!({"events": events}), &base::unit::count(events, "event"))
}

async fn ingest(client: &Client, stream: &StreamName, from: args::VideoFrom) -> anyhow::Result<u8> {
    // It takes the stream from another one that is at it: last, so that a start that fails leaves that one alone.
    let open = async || -> anyhow::Result<Ingester> {
        let ingester = Ingester::open(client, &stream.scope, &stream.name).await.map_err(failed)?;
        if let Some(last_ms) = ingester.ahead() {
            let (last, now) = (date(last_ms), date(base::clock::now_ms()));
            table::tell(&format!(
                "{stream}: its last picture is of {last}, and here it is {now}: what comes now has times after the former. If that one was wrong, stop this, and `cloudskin stream truncate {stream}-index` forgets \
                 the times of all pictures that are there\n"
            ));
        }
        Ok(ingester)
    };
    let name = stream.to_string();
    let told = move |taken: streams::video::ingest::Taken| table::tell(&format!("{name}: {} frames, {} bytes\n", taken.frames, taken.bytes));
    let listen = async |address: SocketAddr, option: &str| {
        let bound = tokio::net::TcpListener::bind(address).await;
        bound.map_err(|e| fail(Kind::FailedPrecondition, format!("encoders can't be awaited on {address}: {e}; choose another address with {option}")))
    };
    if let Some(url) = from.rtsp {
        let password = std::env::var("CLOUDSKIN_CAMERA_PASSWORD").ok();
        let camera = Camera::open(&url, password.as_deref()).await.map_err(failed)?;
        let mut ingester = open().await?;
        table::say(&format!("{stream}: the camera plays\n"))?;
        let taken = ingester.play(camera).await.map_err(failed)?;
        told(taken);
        return Ok(0);
    }
    if let Some(address) = from.http {
        let listener = listen(address, "--http").await?;
        let ingester = open().await?;
        table::say(&format!("{stream}: waiting for an encoder at http://{}/\n", listener.local_addr()?))?;
        streams::video::ingest::serve(listener, ingester, told).await.map_err(failed)?;
        return Ok(0);
    }
    let Some(address) = from.tcp else {
        let input = std::io::stdin().as_fd().try_clone_to_owned().context("read standard input")?;
        let taken = open().await?.run(tokio::fs::File::from_std(input.into())).await.map_err(failed)?;
        told(taken);
        return match taken.frames {
            0 => Err(fail(Kind::InvalidArgument, "there was no video in it: MPEG-TS with H.264, H.265 or MPEG-2 is understood")),
            _ => Ok(0),
        };
    };
    let listener = listen(address, "--tcp").await?;
    let mut ingester = open().await?;
    table::say(&format!("{stream}: waiting for an encoder on {}\n", listener.local_addr()?))?;
    loop {
        let (encoder, _) = listener.accept().await?;
        told(ingester.run(encoder).await.map_err(failed)?);
    }
}

/// The longest event of [`map`], bytes.
const MAPPED_MAX: u32 = 8 << 20;

/// From one stream through a program into another. Ends with the program, whose exit code it gives.
async fn map(client: &Client, (from, to): (&StreamName, &StreamName), start: From, binary: bool, program: &[OsString], told: Output) -> anyhow::Result<u8> {
    if (&from.scope, &from.name) == (&to.scope, &to.name) {
        return Err(fail(Kind::InvalidArgument, format!("{from} would be mapped into itself, without end; name another stream to write to")));
    }
    client.ensure(&to.scope, &to.name, StreamConfig { scaling_policy: Some(ScalingPolicy { min_num_segments: 1, ..ScalingPolicy::default() }), ..StreamConfig::default() }).await.map_err(failed)?;
    let mut reader = Reader::open(client, &from.scope, &from.name, start).await.map_err(failed)?;
    let mut writer = Writer::open(client, &to.scope, &to.name, None).await.map_err(failed)?;
    let name = program[0].to_string_lossy().into_owned();
    let mut command = tokio::process::Command::new(&program[0]);
    command.args(&program[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| fail(Kind::NotFound, format!("{name} can't be started: {e}")))?;
    let mut input = child.stdin.take().context("its standard input")?;
    let mut output = BufReader::new(child.stdout.take().context("its standard output")?);
    let feeding = async {
        while let Some(event) = reader.next().await.map_err(failed)? {
            let length = (event.data.len() as u32).to_be_bytes();
            let whole = if binary { [&length[..], &event.data].concat() } else { [&event.data, &b"\n"[..]].concat() };
            // A program that has heard enough has ended, or will.
            if input.write_all(&whole).await.is_err() {
                break;
            }
        }
        drop(input);
        anyhow::Ok(())
    };
    let taking = async {
        let mut written = 0u64;
        loop {
            let mut event = Vec::new();
            if binary {
                let mut length = [0; 4];
                match output.read_exact(&mut length).await {
                    Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => break,
                    read => read.with_context(|| format!("read what {name} writes"))?,
                };
                let length = u32::from_be_bytes(length);
                if length > MAPPED_MAX {
                    return Err(fail(Kind::InvalidArgument, format!("{name} writes an event of {length} bytes, and {MAPPED_MAX} are the most; does it write lengths?")));
                }
                event.resize(length as usize, 0);
                output.read_exact(&mut event).await.with_context(|| format!("read what {name} writes"))?;
            } else {
                if (&mut output).take(u64::from(MAPPED_MAX) + 1).read_until(b'\n', &mut event).await.with_context(|| format!("read what {name} writes"))? == 0 {
                    break;
                }
                if event.last() == Some(&b'\n') {
                    event.pop();
                }
            }
            writer.append("map", &event, written).await.map_err(failed)?;
            written += 1;
        }
        writer.flush().await.map_err(failed)?;
        anyhow::Ok(written)
    };
    // A stream that goes on does not hold up a program that has ended.
    let (mut taking, mut feeding) = (std::pin::pin!(taking), std::pin::pin!(feeding));
    let written = tokio::select! {
        written = &mut taking => written?,
        fed = &mut feeding => {
            fed?;
            taking.await?
        }
    };
    let status = child.wait().await?;
    done(told, to, &json!({"events": written}), &base::unit::count(written, "event"))?;
    // As a shell tells it.
    let killed = status.signal().map(|signal| 128 + signal);
    Ok(status.code().or(killed).map_or(1, |c| c as u8))
}

/// Prints events, one a line; with `-o json`, with where they lie.
async fn read(client: &Client, stream: &StreamName, from: From, follow: bool, output: Output) -> anyhow::Result<u8> {
    let reader = if follow { Reader::open(client, &stream.scope, &stream.name, from).await } else { Reader::history(client, &stream.scope, &stream.name).await };
    let mut reader = reader.map_err(failed)?;
    while let Some(event) = reader.next().await.map_err(failed)? {
        if output == Output::Table {
            table::bytes(&[&event.data, &b"\n"[..]].concat())?;
        } else {
            let mut line = json!({"segment": event.segment.0, "offset": event.offset, "event": String::from_utf8_lossy(&event.data)});
            if std::str::from_utf8(&event.data).is_err() {
                line["base64"] = STANDARD.encode(&event.data).into();
            }
            table::say(&format!("{line}\n"))?;
        }
    }
    Ok(0)
}

async fn ls(client: &Client, scope: Option<String>, output: Output) -> anyhow::Result<u8> {
    let scopes = match scope {
        Some(scope) if scope.is_empty() => return Err(fail(Kind::InvalidArgument, "the scope's name is empty; leave it out to list all streams")),
        Some(scope) => vec![scope],
        None => client.scopes().await.map_err(|e| match e {
            streams::Error::Denied(why) if client.is_asked() => fail(Kind::PermissionDenied, format!("{why}; `cloudskin stream ls SCOPE` lists what may be read in one")),
            e => failed(e),
        })?,
    };
    if scopes.is_empty() && client.is_asked() {
        eprintln!("note: there is no scope, or none that this user may list as a whole; `cloudskin stream ls SCOPE` lists what he may read in one");
    }
    let mut rows = Vec::new();
    for scope in scopes {
        for stream in client.streams(&scope).await.map_err(failed)?.into_iter().filter(|s| streams::watermark::marked(s).is_none()) {
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
    let current = client.current(&stream.scope, &stream.name).await.map_err(failed)?;
    let (seen, config) = (client.segments(&stream.scope, &stream.name).await.map_err(failed)?, client.config(&stream.scope, &stream.name).await.map_err(failed)?);
    let (scaling, kept) = (config.scaling_policy.unwrap_or_default(), config.retention_policy.unwrap_or_default());
    let range = |segment| current.iter().find(|r| r.segment == segment).map(|r| (r.low, r.high));
    let told = json!({
        "stream": stream.to_string(),
        "sealed": current.is_empty(),
        "events_per_second_and_segment": (scaling.scale_type == Scaling::BY_EVENTS).then_some(scaling.target_rate),
        "bytes_per_second_and_segment": (scaling.scale_type == Scaling::BY_KIB).then_some(i64::from(scaling.target_rate) * 1024),
        "segments_min": (scaling.scale_type != Scaling::FIXED).then_some(scaling.min_num_segments),
        "kept_ms": (kept.retention_type == Retention::BY_TIME).then_some(kept.retention_param),
        "kept_bytes": (kept.retention_type == Retention::BY_SIZE).then_some(kept.retention_param),
        "segments": seen.iter().map(|(s, (start, length, sealed))| json!({
            "segment": s.0, "name": s.name(&stream.scope, &stream.name), "start": start, "length": length, "sealed": sealed, "keys": range(*s),
        })).collect::<Vec<_>>(),
    });
    table::print(output, &told, || {
        let row = |(s, (start, length, sealed)): (&streams::catalog::SegmentNo, &(u64, u64, bool))| {
            let keys = range(*s).map_or("-".into(), |(low, high)| format!("{low:.3} to {high:.3}"));
            let name = s.name(&stream.scope, &stream.name);
            vec![s.0.to_string(), name.rsplit('/').next().unwrap_or_default().into(), start.to_string(), length.to_string(), if *sealed { "yes" } else { "no" }.into(), keys]
        };
        Ok(format!("{}\n{stream} {}, and {}\n", table::table(&["SEGMENT", "NAME", "BEGIN", "END", "SEALED", "KEYS"], &seen.iter().map(row).collect::<Vec<_>>()), scales(&config), keeps(&config)))
    })
}
