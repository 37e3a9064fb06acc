//! The door of HTTP: the steps of `bindings/scenarios.txt`, on a hub with one site behind it.

#[path = "../../../../../bindings/scenarios.rs"]
mod table;

use crate::{fake::*, http::Web, objects::store};
use serde_json::Value;
use std::time::{Duration, Instant};
use table::{Door, Given, bytes, compared, large, place, text};

const MIB: u64 = 1 << 20;

struct Http<'a> {
    web: Web,
    runtime: &'a tokio::runtime::Runtime,
}

/// A key as a part of a URL.
fn url(text: &[u8]) -> String {
    text.iter().map(|byte| if byte.is_ascii_alphanumeric() || b"/-_.".contains(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

impl Http<'_> {
    /// The body of a call's answer, or the kind of its error.
    fn body(&self, call: reqwest::RequestBuilder) -> Result<Vec<u8>, String> {
        self.runtime.block_on(async {
            let answer = call.send().await.unwrap();
            let good = answer.status().is_success();
            let body = answer.bytes().await.unwrap().to_vec();
            if good {
                return Ok(body);
            }
            let told: Value = serde_json::from_slice(&body).unwrap();
            Err(told["error"]["kind"].as_str().unwrap().to_string())
        })
    }

    fn json(&self, call: reqwest::RequestBuilder) -> Result<Value, String> {
        Ok(serde_json::from_slice(&self.body(call)?).unwrap())
    }

    fn counted(&self, call: reqwest::RequestBuilder) -> Given {
        self.json(call).map(|told| format!("{} {}", told["objects"], told["bytes"]))
    }

    fn renamed(&self, bucket: &str, action: &str, from: &str, to: &str) -> Given {
        let ((bucket, from), (to_bucket, to)) = (place(bucket, from), place(bucket, to));
        let (from, to) = (url(from.as_bytes()), url(to.as_bytes()));
        self.counted(self.web.post(&format!("/v1/objects/{bucket}?action={action}&from={from}&to_bucket={to_bucket}&to={to}")))
    }
}

impl Door for Http<'_> {
    fn begin(&mut self, bucket: &str, second: &str) {
        // A bucket is made by what is put into it.
        for bucket in [bucket, second] {
            self.body(self.web.put(&format!("/v1/objects/{bucket}/first-of-all")).body("")).unwrap();
            self.body(self.web.delete(&format!("/v1/objects/{bucket}/first-of-all"))).unwrap();
        }
    }

    fn does(&mut self, bucket: &str, words: &[&str]) -> Given {
        let (web, nothing) = (&self.web, String::new());
        let object = |kind: &str, key: &str| {
            let (bucket, key) = place(bucket, key);
            format!("/v1/{kind}/{bucket}/{}", url(key.as_bytes()))
        };
        let put = |key: &str, content: Vec<u8>, how: String| self.body(web.put(&format!("{}?{how}", object("objects", key))).body(content)).map(|_| String::new());
        match *words {
            ["put", key, content] => put(key, bytes(content), nothing),
            ["put-new", key, content] => put(key, bytes(content), "if_absent=true".into()),
            ["put-with", key, content, metadata] => put(key, bytes(content), format!("metadata={}", url(&bytes(metadata)))),
            ["put-ms", key, content, ms] => put(key, bytes(content), format!("ttl={ms}ms")),
            ["put-large", key, len] => put(key, large(len.parse().unwrap()), nothing),
            ["get", key] => self.body(web.get(&object("objects", key))).map(|body| text(&body)),
            ["get-large", key] => self.body(web.get(&object("objects", key))).map(|body| compared(&body)),
            ["size", key] => self.json(web.get(&object("stat", key))).map(|told| told["size"].to_string()),
            ["metadata", key] => self.json(web.get(&object("stat", key))).map(|told| text(told["metadata"].as_str().unwrap().as_bytes())),
            ["read", key, offset, len] => {
                let (offset, len): (u64, u64) = (offset.parse().unwrap(), len.parse().unwrap());
                let call = web.get(&object("objects", key)).header("range", format!("bytes={offset}-{}", offset + len - 1));
                let (status, total, body) = self.runtime.block_on(async {
                    let answer = call.send().await.unwrap();
                    let range = answer.headers()["content-range"].to_str().unwrap().to_string();
                    (answer.status(), range.rsplit_once('/').unwrap().1.parse::<u64>().unwrap(), answer.bytes().await.unwrap())
                });
                match status.as_u16() {
                    206 => Ok(text(&body)),
                    // That the end has no bytes behind it is no error elsewhere.
                    416 if offset == total => Ok(nothing),
                    _ => Err(serde_json::from_slice::<Value>(&body).unwrap()["error"]["kind"].as_str().unwrap().into()),
                }
            }
            ["rename-new" | "copy-new", from, to] => {
                let (to_bucket, to) = place(bucket, to);
                let action = if words[0] == "rename-new" { "rename" } else { "copy" };
                self.body(web.post(&format!("{}?action={action}&to_bucket={to_bucket}&to={}", object("objects", from), url(to.as_bytes())))).map(|_| nothing)
            }
            ["list", prefix] => {
                let (bucket, prefix) = place(bucket, prefix);
                let told = self.json(web.get(&format!("/v1/objects/{bucket}?prefix={}", url(prefix.as_bytes()))))?;
                Ok(told.as_array().unwrap().iter().map(|object| object["key"].as_str().unwrap()).collect::<Vec<_>>().join(" "))
            }
            ["delete", key] => self.body(web.delete(&object("objects", key))).map(|_| nothing),
            ["rename" | "rename-all", from, to] => self.renamed(bucket, "rename", from, to),
            ["rename-all-new", from, to] => self.renamed(bucket, "rename&if_absent=true", from, to),
            ["copy" | "copy-all", from, to] => self.renamed(bucket, "copy", from, to),
            ["delete-all", prefix] => {
                let (bucket, prefix) = place(bucket, prefix);
                self.counted(web.delete(&format!("/v1/objects/{bucket}?prefix={}", url(prefix.as_bytes()))))
            }
            ["gone", key] => {
                let end = Instant::now() + Duration::from_secs(60);
                while self.body(web.get(&object("stat", key))) != Err("not_found".into()) {
                    assert!(Instant::now() < end, "it never went");
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(nothing)
            }
            [action @ ("flush" | "spill"), prefix] => self.counted(web.post(&format!("/v1/objects/{bucket}?action={action}&from={}", url(prefix.as_bytes())))),
            ["watch", token] => {
                // The bucket was made by two changes that are none of the scenario's.
                let token = if token == "far" { 1 << 30 } else { token.parse::<u64>().unwrap() + 2 };
                let told = self.json(web.get(&format!("/v1/watch/{bucket}?after={token}&wait=1ms")))?;
                if told["resync"] == true {
                    return Ok("resync".into());
                }
                let event = |event: &Value| {
                    let name = event["key"].as_str().or(event["prefix"].as_str()).unwrap();
                    format!("{}:{name}", event["what"].as_str().unwrap().replace('_', "-"))
                };
                Ok(told["events"].as_array().unwrap().iter().map(event).collect::<Vec<_>>().join(" "))
            }
            _ => panic!("{words:?} is no step of HTTP's"),
        }
    }
}

#[test]
fn http_does_what_all_doors_do() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (hub, edge) = runtime.block_on(async {
        let hub = hub(folder.path()).await;
        let edge = store(&hub, "edge", folder.path(), 64 * MIB).await;
        (hub, edge)
    });
    table::run("http", &mut Http { web: Web::new(&hub), runtime: &runtime });
    runtime.block_on(async {
        drop(edge);
        hub.shutdown().await;
    });
}
