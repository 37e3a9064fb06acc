//! Objects on the command line: put, get, list, remove, spill.

use crate::{api::Object, args::{Output, Store}, client::{Call, Client, DURABLE}, failure::fail, files, progress, table};
use base::{Kind, clock::now_ms};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// `bucket/key` in its two parts.
fn split(object: &str) -> anyhow::Result<(&str, &str)> {
    let parts = object.trim_start_matches('/').split_once('/').filter(|(b, k)| !b.is_empty() && !k.is_empty());
    parts.ok_or_else(|| fail(Kind::InvalidArgument, format!("{object:?} names no object: write BUCKET/KEY, such as scenes/scene.tif")))
}

pub async fn store(client: &Client, command: Store, output: Output) -> anyhow::Result<u8> {
    match command {
        Store::Put { file, object, site } => {
            let object = match (object.ends_with('/'), file.file_name()) {
                (true, Some(name)) => format!("{object}{}", name.to_string_lossy()),
                _ => object,
            };
            let (bucket, key) = split(&object)?;
            let mut call = Call::object(bucket, key);
            if let Some(site) = site {
                call = call.ask("site", site);
            }
            let told: Value = files::send(client, reqwest::Method::PUT, call, &file).await?;
            table::print(output, &told, || {
                let o: Object = serde_json::from_value(told.clone())?;
                Ok(format!("{bucket}/{key}: {} sealed at {}\n", progress::moved(o.size), o.sites.join(", ")))
            })
        }
        Store::Get { object, file } => {
            let (bucket, key) = split(&object)?;
            let call = Call::object(bucket, key);
            let name = key.rsplit('/').next().unwrap_or(key);
            let file = match file {
                Some(file) if file == Path::new("-") => return stream(client, call).await,
                Some(folder) if folder.is_dir() => files::below(&folder, name)?,
                Some(file) => file,
                None => files::below(&PathBuf::new(), name)?,
            };
            let bytes = files::fetch(client, call, &file).await?;
            table::say(&format!("{}: {}\n", file.display(), progress::moved(bytes)))?;
            Ok(0)
        }
        Store::Ls { bucket: None } => buckets(client, output).await,
        Store::Ls { bucket: Some(bucket) } => {
            let bucket = bucket.trim_start_matches('/');
            let (bucket, prefix) = bucket.split_once('/').unwrap_or((bucket, ""));
            objects(client, bucket, prefix, output).await
        }
        Store::Rm { object } => {
            let (bucket, key) = split(&object)?;
            client.delete(Call::object(bucket, key)).await?;
            table::say(&format!("{bucket}/{key}: removed\n"))?;
            Ok(0)
        }
        Store::Spill { object } => {
            let (bucket, key) = split(&object)?;
            let told: Value = client.post(Call::object(bucket, key).ask("action", "spill"), &Value::Null, Some(DURABLE)).await?;
            table::print(output, &told, || Ok(format!("{bucket}/{key}: in the persistency tier\n")))
        }
    }
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

pub async fn list(client: &Client, bucket: &str, prefix: &str) -> anyhow::Result<Value> {
    let call = Call::to("objects").push(bucket);
    client.get(if prefix.is_empty() { call } else { call.ask("prefix", prefix) }).await
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
                    (false, true) => format!("{}, persisted", o.sites.join(",")),
                    (false, false) => o.sites.join(","),
                    (true, _) => "persisted".into(),
                };
                vec![o.key, progress::moved(o.size), o.state, tier, table::age(o.created_ms, now)]
            })
            .collect();
        Ok(table::table(&["KEY", "SIZE", "STATE", "WHERE", "AGE"], &rows))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_a_bucket_and_a_key() {
        assert_eq!(split("scenes/a/b.tif").unwrap(), ("scenes", "a/b.tif"));
        assert_eq!(split("/scenes/b").unwrap(), ("scenes", "b"));
        for bad in ["scenes", "scenes/", "/", ""] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
