//! Objects on the command line: put, get, look at, list, rename, copy, remove, spill, flush, watch.

use crate::{api::{Counted, Detail, Object}, args::{Output, Store}, client::{Call, Client, DURABLE}, failure::{self, fail}, files, progress, table};
use anyhow::Context;
use base::{Kind, clock::now_ms, unit::count};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Objects in one answer of the hub: the most that it gives.
const PAGE: usize = 10_000;

/// `bucket/key` in its two parts, both good names: what a hub would refuse never gets as far as a URL, in which `..` means something else.
fn split(object: &str) -> anyhow::Result<(&str, &str)> {
    let parts = object.trim_start_matches('/').split_once('/').filter(|(b, k)| !b.is_empty() && !k.is_empty());
    let (bucket, key) = parts.ok_or_else(|| fail(Kind::InvalidArgument, format!("{object:?} names no object: write BUCKET/KEY, such as scenes/scene.tif")))?;
    geds::Key::new(key).map_err(|e| fail(Kind::InvalidArgument, e.to_string()))?;
    check(bucket, key)?;
    Ok((bucket, key))
}

/// The same of what is about all below a folder: `bucket/` is the whole bucket, `bucket/folder/` what is below it.
fn split_all(objects: &str) -> anyhow::Result<(&str, &str)> {
    let parts = objects.trim_start_matches('/').split_once('/').filter(|(b, _)| !b.is_empty());
    let (bucket, prefix) = parts.ok_or_else(|| {
        let message = format!("{objects:?} names no objects: write BUCKET/KEY, BUCKET/FOLDER for all below it, or BUCKET/ for the whole bucket");
        fail(Kind::InvalidArgument, message)
    })?;
    check(bucket, prefix)?;
    Ok((bucket, prefix))
}

/// Refuses names that no bucket and no object or folder has. Empty: all of the bucket.
fn check(bucket: &str, prefix: &str) -> anyhow::Result<()> {
    let bad = |e: geds::Error| fail(Kind::InvalidArgument, e.to_string());
    geds::BucketName::new(bucket).map_err(bad)?;
    if !prefix.is_empty() {
        geds::Key::new(prefix.strip_suffix('/').unwrap_or(prefix)).map_err(bad)?;
    }
    Ok(())
}

pub async fn store(client: &Client, command: Store, output: Output) -> anyhow::Result<u8> {
    match command {
        Store::Put { file, object, site, if_absent, ttl, metadata, job } => {
            let object = match (object.ends_with('/'), file.file_name()) {
                (true, Some(name)) => format!("{object}{}", name.to_string_lossy()),
                _ => object,
            };
            let (bucket, key) = split(&object)?;
            let mut call = Call::object(bucket, key);
            if let Some(site) = site {
                call = call.ask("site", site);
            }
            if if_absent {
                call = call.ask("if_absent", true);
            }
            if let Some(ttl) = ttl {
                call = call.ask("ttl", ttl);
            }
            if let Some(metadata) = metadata {
                call = call.ask("metadata", metadata);
            }
            if let Some(job) = job {
                call = call.ask("job", job);
            }
            let told: Value = files::send(client, reqwest::Method::PUT, call, &file).await?;
            table::print(output, &told, || {
                let o: Object = serde_json::from_value(told.clone())?;
                Ok(format!("{bucket}/{key}: {} sealed at {}\n", progress::moved(o.size), o.sites.join(", ")))
            })
        }
        Store::Token { bucket, ttl, write } => {
            let ask = serde_json::json!({"ttl": String::from(ttl), "write": write});
            let told: Value = client.post(Call::to("buckets").push(&bucket).push("tokens"), &ask, None).await?;
            table::print(output, &told, || Ok(format!("{}\n", told["token"].as_str().unwrap_or_default())))
        }
        Store::Quota { tenant, buckets, objects, bytes } => {
            let ask = serde_json::json!({"buckets": buckets, "objects": objects, "bytes": bytes.map(|b| b.0)});
            let told: Value = client.post(Call::to("tenants").push(&tenant).push("quota"), &ask, None).await?;
            let limit = |limit: Option<String>| limit.unwrap_or_else(|| "no limit".into());
            table::print(output, &told, || Ok(format!("{tenant}: objects: {}; bytes: {}\n", limit(objects.map(|n| n.to_string())), limit(bytes.map(|b| b.to_string())))))
        }
        Store::Get { object, offset, follow: true, .. } => {
            let (bucket, key) = split(&object)?;
            follow(client, bucket, key, offset, &mut table::bytes).await
        }
        Store::Get { object, file, offset, bytes, follow: false } => {
            let (bucket, key) = split(&object)?;
            let mut call = Call::object(bucket, key);
            let mut nothing = false;
            if offset > 0 || bytes.is_some() {
                let size = client.get::<Detail>(Call::to("stat").push(bucket).segments(key)).await?.object.size;
                let len = bytes.map_or(u64::MAX, |bytes| bytes.0);
                // HTTP has no ranges without bytes. The end of a file is one.
                nothing = offset == size || (len == 0 && offset < size);
                call = call.part(offset, len.max(1));
            }
            let name = key.rsplit('/').next().unwrap_or(key);
            let file = match file {
                Some(file) if file == Path::new("-") => return if nothing { Ok(0) } else { stream(client, call).await },
                Some(folder) if folder.is_dir() => files::below(&folder, name)?,
                Some(file) => file,
                None => files::below(&PathBuf::new(), name)?,
            };
            let bytes = if nothing { std::fs::write(&file, b"").map(|()| 0).with_context(|| format!("write {}", file.display()))? } else { files::fetch(client, call, &file).await? };
            table::say(&format!("{}: {}\n", file.display(), progress::moved(bytes)))?;
            Ok(0)
        }
        Store::Ls { bucket: None } => buckets(client, output).await,
        Store::Ls { bucket: Some(bucket) } => {
            let bucket = bucket.trim_start_matches('/');
            let (bucket, prefix) = bucket.split_once('/').unwrap_or((bucket, ""));
            check(bucket, prefix)?;
            objects(client, bucket, prefix, output).await
        }
        Store::Stat { object } => {
            let (bucket, key) = split(&object)?;
            let told: Value = client.get(Call::to("stat").push(bucket).segments(key)).await?;
            table::print(output, &told, || Ok(detail(serde_json::from_value(told.clone())?, now_ms())))
        }
        Store::Mv { from, to, if_absent } => rename(client, "rename", &from, &to, if_absent, output).await,
        Store::Cp { from, to, if_absent } => rename(client, "copy", &from, &to, if_absent, output).await,
        Store::Rm { object, recursive: true } => {
            let (bucket, prefix) = split_all(&object)?;
            let told = client.delete(Call::to("objects").push(bucket).ask("prefix", prefix)).await?;
            table::print(output, &told, || {
                let counted: Counted = serde_json::from_value(told.clone())?;
                Ok(format!("{bucket}/{prefix}: {} removed\n", much(&counted)))
            })
        }
        Store::Rm { object, recursive: false } => {
            if split_all(&object)?.1.is_empty() || object.ends_with('/') {
                return Err(fail(Kind::InvalidArgument, format!("{object} is all that is below it; `cloudskin store rm -r {object}` removes that")));
            }
            let (bucket, key) = split(&object)?;
            client.delete(Call::object(bucket, key)).await?;
            table::say(&format!("{bucket}/{key}: removed\n"))?;
            Ok(0)
        }
        Store::Spill { object } if object.ends_with('/') => {
            let (bucket, prefix) = split_all(&object)?;
            let call = Call::to("objects").push(bucket).ask("action", "spill").ask("from", prefix);
            let told: Value = client.post(call, &Value::Null, Some(DURABLE)).await?;
            table::print(output, &told, || Ok(format!("{bucket}/{prefix}: {} moved to the persistency tier\n", much(&serde_json::from_value(told.clone())?))))
        }
        Store::Spill { object } => {
            let (bucket, key) = split(&object)?;
            let told: Value = client.post(Call::object(bucket, key).ask("action", "spill"), &Value::Null, Some(DURABLE)).await?;
            table::print(output, &told, || Ok(format!("{bucket}/{key}: in the persistency tier\n")))
        }
        Store::Flush { objects, within } => {
            let (bucket, prefix) = split_all(&objects)?;
            let call = Call::to("objects").push(bucket).ask("action", "flush").ask("from", prefix).ask("within", within);
            let told: Value = client.post(call, &Value::Null, Some(within.0.saturating_add(DURABLE))).await?;
            table::print(output, &told, || Ok(format!("{bucket}/{prefix}: {} uploaded; all is in the persistency tier\n", much(&serde_json::from_value(told.clone())?))))
        }
        Store::Watch { bucket, after } => watch(client, &bucket, after, output).await,
    }
}

/// How long a hub may be away while a bucket is watched, and the pause between two looks.
const AWAY_MAX: Duration = Duration::from_secs(60);
const AWAY_PAUSE: Duration = Duration::from_millis(500);
/// A connection that has lasted so long was one, also if nothing came over it.
const STEADY: Duration = Duration::from_secs(5);

/// Prints what happens, until it is stopped. An event's number is a token: `--after` goes on behind it.
async fn watch(client: &Client, bucket: &str, after: Option<u64>, output: Output) -> anyhow::Result<u8> {
    check(bucket, "")?;
    let mut token = after;
    let mut away = None;
    loop {
        let call = Call::to("watch").push(bucket);
        let call = token.iter().fold(call, |call, after| call.ask("after", after));
        let told: Value = match client.get(call).await {
            Err(e) if failure::kind(&e) == Kind::Unavailable && away.get_or_insert_with(Instant::now).elapsed() < AWAY_MAX => {
                tokio::time::sleep(AWAY_PAUSE).await;
                continue;
            }
            told => told?,
        };
        away = None;
        if told["resync"] == true {
            table::say(&match output {
                Output::Table => format!("events before {} are not known any more: list the bucket\n", told["next"]),
                _ => format!("{}\n", serde_json::json!({"resync": true, "next": told["next"]})),
            })?;
        }
        for event in told["events"].as_array().into_iter().flatten() {
            let name = event["key"].as_str().or(event["prefix"].as_str()).unwrap_or_default();
            table::say(&match output {
                Output::Table => format!("{:>8} {:<14} {}\n", event["seq"].as_u64().unwrap_or_default(), event["what"].as_str().unwrap_or_default(), shown(name)),
                _ => format!("{event}\n"),
            })?;
        }
        token = Some(told["next"].as_u64().context("the hub's answer has no token; are hub and command of one version?")?);
    }
}

/// Prints what is appended to an object, until it is sealed. When the hub or the site is away it goes on at the next byte.
async fn follow(client: &Client, bucket: &str, key: &str, offset: u64, print: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<u8> {
    let mut at = offset;
    let (mut away, mut of) = (None, None::<String>);
    loop {
        let mut since = None;
        let got = async {
            let call = Call::object(bucket, key).ask("follow", true).ask("offset", at);
            let mut response = client.download(of.iter().fold(call, |call, of| call.ask("of", of))).await?;
            since = Some(Instant::now());
            // Whatever has the key when the connection is lost: the rest is to be of the same.
            of = of.take().or_else(|| Some(response.headers().get("etag")?.to_str().ok()?.trim_matches('"').to_string()));
            while let Some(piece) = client.chunk(&mut response).await? {
                away = None;
                print(&piece)?;
                at += piece.len() as u64;
            }
            anyhow::Ok(())
        };
        let got = got.await;
        if since.is_some_and(|since: Instant| since.elapsed() > STEADY) {
            away = None;
        }
        match got {
            Err(e) if failure::kind(&e) == Kind::Unavailable && away.get_or_insert_with(Instant::now).elapsed() < AWAY_MAX => tokio::time::sleep(AWAY_PAUSE).await,
            done => return done.map(|()| 0),
        }
    }
}

async fn rename(client: &Client, action: &str, from: &str, to: &str, if_absent: bool, output: Output) -> anyhow::Result<u8> {
    // Of a folder only a rename can be that.
    let one = if_absent && !(action == "rename" && from.ends_with('/'));
    let ((bucket, from), (to_bucket, to)) = (if one { split(from)? } else { split_all(from)? }, split_all(to)?);
    let to = into(from, to);
    let to = to.as_str();
    if one {
        let call = Call::object(bucket, from).ask("action", action).ask("to_bucket", to_bucket).ask("to", to);
        let told: Value = client.post(call, &Value::Null, None).await?;
        let what = if action == "copy" { "also" } else { "now" };
        return table::print(output, &told, || Ok(format!("{bucket}/{from}: is {what} at {to_bucket}/{to}\n")));
    }
    let call = Call::to("objects").push(bucket).ask("action", action).ask("from", from).ask("to_bucket", to_bucket).ask("to", to);
    let call = if if_absent { call.ask("if_absent", true) } else { call };
    let told: Value = client.post(call, &Value::Null, Some(DURABLE)).await?;
    table::print(output, &told, || {
        let counted: Counted = serde_json::from_value(told.clone())?;
        let what = if action == "copy" { "also" } else { "now" };
        let verb = if counted.objects == 1 { "is" } else { "are" };
        Ok(format!("{bucket}/{from}: {} {verb} {what} at {to_bucket}/{to}\n", much(&counted)))
    })
}

/// Where something goes that is to go into a folder: one that has a name of its own keeps it, as with `cp x folder/`.
fn into(from: &str, to: &str) -> String {
    let name = from.rsplit('/').next().unwrap_or(from);
    if to.is_empty() || to.ends_with('/') { format!("{to}{name}") } else { to.into() }
}

/// `3 objects (1.5 MB)`
fn much(counted: &Counted) -> String {
    format!("{} ({})", count(counted.objects, "object"), progress::moved(counted.bytes))
}

/// A key in a list: a line break in it must not break the line, nor be left out.
fn shown(key: &str) -> String {
    key.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// An object as a page.
fn detail(d: Detail, now: u64) -> String {
    let mut lines = vec![("object", format!("{}/{}", d.object.bucket, d.object.key)), ("size", format!("{} ({} bytes)", progress::moved(d.object.size), d.object.size))];
    let place = match (d.object.sites.is_empty(), d.object.persisted) {
        (false, true) => format!("{}, persistency tier", d.object.sites.join(", ")),
        (false, false) => d.object.sites.join(", "),
        (true, _) => "persistency tier".into(),
    };
    lines.extend([("where", place), ("epoch", d.epoch.to_string()), ("xxh3", d.checksum), ("age", table::age(d.object.created_ms, now))]);
    if let Some(at) = d.expires_ms {
        // Seconds are enough for people; the namenode looks four times in one.
        lines.push(("expires", format!("in {} s", at.saturating_sub(now).div_ceil(1000))));
    }
    lines.extend(d.job.map(|job| ("goes with", job)));
    if !d.metadata.is_empty() {
        lines.push(("metadata", d.metadata));
    }
    lines.into_iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}

async fn stream(client: &Client, call: Call) -> anyhow::Result<u8> {
    let mut response = client.download(call).await?;
    while let Some(piece) = client.chunk(&mut response).await? {
        table::bytes(&piece)?;
    }
    Ok(0)
}

pub async fn buckets(client: &Client, output: Output) -> anyhow::Result<u8> {
    let told: Value = client.get(Call::to("buckets")).await?;
    table::print(output, &told, || {
        let names: Vec<String> = serde_json::from_value(told.clone())?;
        Ok(table::table(&["BUCKET"], &names.into_iter().map(|n| vec![n]).collect::<Vec<_>>()))
    })
}

/// All objects of a bucket whose key is `prefix` or lies below it, however many pages of the hub's list that are.
pub async fn list(client: &Client, bucket: &str, prefix: &str) -> anyhow::Result<Value> {
    let (mut objects, mut after) = (Vec::new(), None);
    loop {
        let mut call = Call::to("objects").push(bucket).ask("limit", PAGE);
        if !prefix.is_empty() {
            call = call.ask("prefix", prefix);
        }
        if let Some(after) = after {
            call = call.ask("after", after);
        }
        let page: Vec<Value> = client.get(call).await?;
        let whole = page.len() < PAGE;
        after = page.last().and_then(|o| o["key"].as_str()).map(str::to_string);
        objects.extend(page);
        if whole || after.is_none() {
            return Ok(Value::Array(objects));
        }
    }
}

pub async fn objects(client: &Client, bucket: &str, prefix: &str, output: Output) -> anyhow::Result<u8> {
    let told = list(client, bucket, prefix).await?;
    table::print(output, &told, || {
        let objects: Vec<Object> = serde_json::from_value(told.clone())?;
        let now = now_ms();
        let rows: Vec<Vec<String>> = objects
            .into_iter()
            .map(|o| {
                let tier = match (o.sites.is_empty(), o.persisted) {
                    (false, true) => format!("{}, persisted", o.sites.join(", ")),
                    (false, false) => o.sites.join(", "),
                    (true, _) => "persisted".into(),
                };
                vec![shown(&o.key), progress::moved(o.size), o.state, tier, table::age(o.created_ms, now)]
            })
            .collect();
        Ok(table::table(&["KEY", "SIZE", "STATE", "WHERE", "AGE"], &rows))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_list_goes_on_over_all_pages() {
        use axum::{Json, Router, extract::Query, routing::get};
        use std::collections::HashMap;
        let page = |Query(ask): Query<HashMap<String, String>>| async move {
            let limit: usize = ask["limit"].parse().unwrap();
            let from = ask.get("after").map_or(0, |key| key[2..].parse::<usize>().unwrap() + 1);
            let keys = (from..25_000).take(limit.min(10_000)).map(|n| serde_json::json!({"key": format!("a/{n:05}"), "size": 1}));
            Json(if ask["prefix"] == "a" { keys.collect() } else { Vec::<Value>::new() })
        };
        let client = crate::client::tests::fake(Router::new().route("/v1/objects/out", get(page))).await;
        let all = list(&client, "out", "a").await.unwrap();
        let all = all.as_array().unwrap();
        assert_eq!((all.len(), all[24_999]["key"].as_str()), (25_000, Some("a/24999")));
        assert_eq!(list(&client, "out", "b").await.unwrap(), serde_json::json!([]));
    }

    /// A body that breaks off is gone on with at the next byte; one that ends is the end.
    #[tokio::test]
    async fn what_is_followed_goes_on_where_it_broke_off() {
        use axum::{Router, body::Body, extract::Query, routing::get};
        use std::{collections::HashMap, sync::{Arc, Mutex}};
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let answer = {
            let asked = asked.clone();
            move |Query(ask): Query<HashMap<String, String>>| async move {
                assert_eq!(ask["follow"], "true");
                asked.lock().unwrap().push(ask["offset"].clone());
                let pieces: Vec<Result<&str, std::io::Error>> = match ask["offset"].as_str() {
                    "2" => vec![Ok("e one"), Err(std::io::Error::other("the hub is stopped"))],
                    _ => vec![Ok(" two"), Ok(" end")],
                };
                // One after the other: what comes with an error at once may get lost with it.
                let pieces = futures::StreamExt::then(futures::stream::iter(pieces), |piece| async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    piece
                });
                Body::from_stream(pieces)
            }
        };
        let client = crate::client::tests::fake(Router::new().route("/v1/objects/logs/{*key}", get(answer))).await;
        let mut out = Vec::new();
        let mut print = |piece: &[u8]| {
            out.extend_from_slice(piece);
            Ok(())
        };
        assert_eq!(follow(&client, "logs", "run/1", 2, &mut print).await.unwrap(), 0);
        assert_eq!((String::from_utf8(out).unwrap().as_str(), asked.lock().unwrap().as_slice()), ("e one two end", &["2".to_string(), "7".into()][..]));
    }

    #[test]
    fn a_page_says_what_an_object_is_and_when_it_goes() {
        let told = serde_json::json!({"bucket": "out", "key": "a", "size": 2048, "sites": ["edge"], "persisted": true, "epoch": 7, "checksum": "0f",
            "metadata": "colour=red", "expires_ms": 61_500, "job": "job-3", "created_ms": 1_000});
        let page = detail(serde_json::from_value(told).unwrap(), 1_000);
        for line in ["object     out/a", "where      edge, persistency tier", "expires    in 61 s", "goes with  job-3", "metadata   colour=red"] {
            assert!(page.lines().any(|l| l == line), "{line:?} in {page}");
        }
    }

    #[test]
    fn an_object_has_a_bucket_and_a_key() {
        assert_eq!(split("scenes/a/b.tif").unwrap(), ("scenes", "a/b.tif"));
        assert_eq!(split("/scenes/b").unwrap(), ("scenes", "b"));
        for bad in ["scenes", "scenes/", "/", "", "data/../x", "data/./x", "data/a//b", "data/a/", "../data/x", "Data/x"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_whole_bucket_or_folder_has_a_slash_at_its_end() {
        for (text, parts) in [("data/", ("data", "")), ("/data/a/", ("data", "a/")), ("data/a", ("data", "a"))] {
            assert_eq!(split_all(text).unwrap(), parts);
        }
        for bad in ["data", "/", "", "data/../", "data/..", "data//", "data/a//", ".."] {
            assert!(split_all(bad).is_err(), "{bad}");
        }
        for (from, to, target) in [("", "", ""), ("a/x", "", "x"), ("a/x", "b/", "b/x"), ("a/x", "b", "b"), ("a/", "b/", "b/")] {
            assert_eq!(into(from, to), target, "{from} to {to}");
        }
    }

    #[test]
    fn a_key_keeps_its_control_characters_in_a_list() {
        assert_eq!(shown("a\nb\tü"), "a\\nb\\tü");
        assert_eq!(much(&Counted { objects: 1, bytes: 5 }), format!("1 object ({})", progress::moved(5)));
    }
}
