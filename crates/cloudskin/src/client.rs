//! The hub's HTTP from the outside: a bearer token, JSON, and bodies that stream.
//!
//! Every failure becomes a [`crate::failure::Failure`] with the hub's own words and kind. Nothing is tried twice here; who may
//! repeat a call knows why.

use crate::failure::fail;
use anyhow::Context;
use base::Kind;
use reqwest::{Body, Method, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// A call that only answers must do so within this time. Checkpoints and moves of bytes have their own.
const ANSWER: Duration = Duration::from_secs(60);
/// A checkpoint is answered when it is durable.
pub const DURABLE: Duration = Duration::from_secs(600);
/// Most of an error's body that is read.
const ERROR_BYTES_MAX: usize = 64 << 10;

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: String,
}

/// Where a call goes: path segments and query, percent-encoded when the URL is made.
#[derive(Clone, Debug, Default)]
pub struct Call {
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    /// First byte, and how many at most.
    range: Option<(u64, u64)>,
}

impl Call {
    /// Segments below `/v1`, given as `"jobs/job-1/logs"` for what needs no encoding.
    pub fn to(path: &str) -> Call {
        Call { path: path.split('/').map(str::to_string).collect(), ..Call::default() }
    }
    /// An object's own path; `/` in the key separates segments.
    pub fn object(bucket: &str, key: &str) -> Call {
        Call::to("objects").push(bucket).then(key.split('/'))
    }
    /// The parts of a key behind what is there.
    pub fn segments(self, key: &str) -> Call {
        self.then(key.split('/'))
    }
    pub fn push(self, segment: &str) -> Call {
        self.then([segment])
    }
    fn then<'a>(mut self, segments: impl IntoIterator<Item = &'a str>) -> Call {
        self.path.extend(segments.into_iter().map(str::to_string));
        self
    }
    /// Some bytes of an answer of bytes.
    pub fn part(mut self, offset: u64, len: u64) -> Call {
        self.range = Some((offset, len));
        self
    }
    pub fn ask(mut self, name: &'static str, value: impl ToString) -> Call {
        self.query.push((name, value.to_string()));
        self
    }
}

impl Client {
    pub fn new(hub: &str, token: &str) -> anyhow::Result<Client> {
        let text = if hub.contains("://") { hub.to_string() } else { format!("http://{hub}") };
        let wrong = || fail(Kind::InvalidArgument, format!("the hub's address {hub:?} is not valid: write host:port or http://host:port"));
        let base = Url::parse(&text).map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(wrong());
        }
        let mut builder = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).redirect(reqwest::redirect::Policy::none());
        if base.scheme() == "http" {
            // The token would pass a proxy in the clear, and no certificates are needed. A hub elsewhere is reached by https.
            builder = builder.no_proxy().tls_certs_only([]);
        }
        Ok(Client { http: builder.build().context("make the HTTP client")?, base, token: token.into() })
    }

    pub fn dashboard(&self) -> String {
        let mut url = self.base.clone();
        url.query_pairs_mut().append_pair("token", &self.token);
        url.to_string()
    }

    /// # Errors
    /// A segment that a URL does not keep: `a/../b` would be `b`, and act on what nobody named.
    fn url(&self, call: &Call) -> anyhow::Result<Url> {
        if let Some(bad) = call.path.iter().find(|segment| matches!(segment.as_str(), "." | "..")) {
            return Err(fail(Kind::InvalidArgument, format!("{bad:?} can't be part of a name here")));
        }
        let mut url = self.base.clone();
        url.path_segments_mut().expect("http URLs have a path").pop_if_empty().push("v1").extend(&call.path);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        Ok(url)
    }

    fn request(&self, method: Method, call: &Call) -> anyhow::Result<RequestBuilder> {
        let request = self.http.request(method, self.url(call)?).bearer_auth(&self.token);
        Ok(match call.range {
            Some((offset, len)) => request.header("range", format!("bytes={offset}-{}", offset.saturating_add(len - 1))),
            None => request,
        })
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.map_err(|e| self.lost(e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let mut body = Vec::new();
        let mut response = response;
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > ERROR_BYTES_MAX {
                break;
            }
        }
        let told: Option<Value> = serde_json::from_slice(&body).ok();
        let error = told.as_ref().and_then(|v| v.get("error"));
        let kind = error.and_then(|e| serde_json::from_value(e["kind"].clone()).ok()).unwrap_or(match status.as_u16() {
            400 | 413 | 422 => Kind::InvalidArgument,
            401 => Kind::Unauthenticated,
            403 => Kind::PermissionDenied,
            404 => Kind::NotFound,
            409 => Kind::FailedPrecondition,
            503 => Kind::Unavailable,
            _ => Kind::Internal,
        });
        let message = error.and_then(|e| e["message"].as_str()).map(str::to_string).unwrap_or_else(|| {
            let text: String = String::from_utf8_lossy(&body).trim().chars().take(300).collect();
            format!("the hub answered {status}{}{text}", if text.is_empty() { "" } else { ": " })
        });
        Err(fail(kind, message))
    }

    fn lost(&self, e: reqwest::Error) -> anyhow::Error {
        let at = self.base.as_str().trim_end_matches('/');
        if e.is_timeout() && !e.is_connect() {
            return fail(Kind::DeadlineExceeded, format!("the hub at {at} did not answer in time"));
        }
        if e.is_connect() {
            return fail(Kind::Unavailable, format!("no hub answers at {at}; is `cloudskin up` running?"));
        }
        let mut text = e.without_url().to_string();
        text.insert_str(0, &format!("the connection to the hub at {at} broke: "));
        fail(Kind::Unavailable, text)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let response = self.send(request).await?;
        let bytes = response.bytes().await.map_err(|e| self.lost(e))?;
        let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(bytes).context("the hub's answer is not what this version expects; are hub and command of one version?")
    }

    pub async fn get<T: DeserializeOwned>(&self, call: Call) -> anyhow::Result<T> {
        self.json(self.request(Method::GET, &call)?.timeout(ANSWER)).await
    }
    pub async fn post<T: DeserializeOwned>(&self, call: Call, body: &Value, within: Option<Duration>) -> anyhow::Result<T> {
        self.json(self.request(Method::POST, &call)?.json(body).timeout(within.unwrap_or(ANSWER))).await
    }
    pub async fn delete(&self, call: Call) -> anyhow::Result<Value> {
        self.json(self.request(Method::DELETE, &call)?.timeout(ANSWER)).await
    }
    /// Sends bytes as they come.
    pub async fn upload<T: DeserializeOwned>(&self, method: Method, call: Call, body: Body, bytes: u64) -> anyhow::Result<T> {
        let request = self.request(method, &call)?;
        let request = request.header("content-length", bytes).header("content-type", "application/octet-stream");
        self.json(request.body(body)).await
    }
    /// Receives bytes as they come.
    pub async fn download(&self, call: Call) -> anyhow::Result<Response> {
        self.send(self.request(Method::GET, &call)?).await
    }
    /// A broken stream in the words of every other failure.
    pub async fn chunk(&self, response: &mut Response) -> anyhow::Result<Option<bytes::Bytes>> {
        response.chunk().await.map_err(|e| self.lost(e))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use axum::{Json, Router, extract::Path, http::{HeaderMap, StatusCode}, routing::get};

    /// Serves a router on a free port and returns a client of it.
    pub async fn fake(router: Router) -> Client {
        base::identity::install_crypto();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::new(&address, "secret").unwrap()
    }

    #[tokio::test]
    async fn keys_are_encoded_and_the_token_is_sent() {
        let route = get(|Path((bucket, key)): Path<(String, String)>, headers: HeaderMap| async move {
            Json(serde_json::json!([bucket, key, headers["authorization"].to_str().unwrap()]))
        });
        let client = fake(Router::new().route("/v1/objects/{bucket}/{*key}", route)).await;
        let told: Vec<String> = client.get(Call::object("out", "a b/ü?#.tif").ask("site", "edge")).await.unwrap();
        assert_eq!(told, ["out", "a b/ü?#.tif", "Bearer secret"]);
    }

    #[tokio::test]
    async fn what_a_url_would_drop_is_not_sent() {
        let client = fake(Router::new().fallback(|| async { "1" })).await;
        for call in [Call::object("data", "../x"), Call::to("jobs").push(".."), Call::to("jobs").push("."), Call::to("stat").push("data").segments("a/./b")] {
            let e = client.get::<Value>(call).await.unwrap_err();
            assert_eq!(crate::failure::kind(&e), Kind::InvalidArgument, "{e}");
        }
        assert_eq!(client.get::<Value>(Call::object("data", "..x/y.")).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn the_hubs_words_and_kind_arrive() {
        let error = serde_json::json!({"error": {"kind": "not_found", "message": "there is no job \"job-9\""}});
        let route = get(|| async { (StatusCode::NOT_FOUND, Json(error)) });
        let router = Router::new().route("/v1/jobs/{id}", route).route("/v1/sites", get(|| async { StatusCode::BAD_GATEWAY }));
        let client = fake(router).await;
        let e = client.get::<Value>(Call::to("jobs/job-9")).await.unwrap_err();
        assert_eq!((e.to_string().as_str(), crate::failure::kind(&e)), ("there is no job \"job-9\"", Kind::NotFound));
        let e = client.get::<Value>(Call::to("sites")).await.unwrap_err();
        assert!(e.to_string().contains("502"), "{e}");
    }

    #[tokio::test]
    async fn a_dead_hub_and_a_bad_address_say_what_to_do() {
        base::identity::install_crypto();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let e = Client::new(&port.to_string(), "t").unwrap().get::<Value>(Call::to("sites")).await.unwrap_err();
        assert!(e.to_string().contains("cloudskin up"), "{e}");
        assert_eq!(crate::failure::kind(&e), Kind::Unavailable);
        assert!(Client::new("ftp://x", "t").is_err() && Client::new("", "t").is_err());
    }
}
