//! Tokens for one bucket, that end by themselves: what a program gets that shall see no more.
//!
//! ```text
//! b1.<bucket>.<r or rw>.<end in Unix milliseconds>.<HMAC-SHA256 of what is before it, by a key of the hub's token>
//! ```
//!
//! The hub keeps no list of them: who has the hub's token makes them, and a new token of the hub's ends them all. They open the calls under `/v1/objects/BUCKET`, `/v1/stat/BUCKET` and `/v1/watch/BUCKET`,
//! nothing else; none of them makes another.
//!
//! A token's end is the end of what it has opened ([`Over`]): what waits is refused then, what is on its way in either direction breaks off. A change of names that was asked for before is carried out.

use super::{App, In, api::ErrorBody, objects};
use crate::Error;
use axum::{
    Json,
    body::{Body, HttpBody},
    extract::{Path, State},
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base::{Kind, clock::now_ms, unit::Span};
use futures::{StreamExt, stream};
use geds::BucketName;
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use utoipa::ToSchema;

const TTL_MAX: Duration = Duration::from_secs(30 * 86400);
const TTL: Duration = Duration::from_secs(3600);
/// The longest token: what is longer is none, and nothing is computed for it.
const TOKEN_BYTES_MAX: usize = 256;

/// What a token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub bucket: BucketName,
    /// To write and delete, too.
    pub write: bool,
    pub expires_ms: u64,
}

fn key(hub: &str) -> hmac::Key {
    let own = hmac::Key::new(hmac::HMAC_SHA256, hub.as_bytes());
    hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&own, b"tokens of buckets").as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let good = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
    let pairs = digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    good.then(|| pairs.collect()).flatten()
}

impl Grant {
    /// The token that says so.
    pub fn token(&self, hub: &str) -> String {
        let text = format!("b1.{}.{}.{}", self.bucket, if self.write { "rw" } else { "r" }, self.expires_ms);
        let tag = hmac::sign(&key(hub), text.as_bytes());
        format!("{text}.{}", hexadecimal(tag.as_ref()))
    }

    /// What a token says, if the hub made it. `None`: it is none of these.
    pub fn read(token: &str, hub: &str) -> Option<Grant> {
        let (text, tag) = token.rsplit_once('.').filter(|_| token.len() <= TOKEN_BYTES_MAX)?;
        hmac::verify(&key(hub), text.as_bytes(), &bytes(tag)?).ok()?;
        // A bucket may have points in its name; what is behind it has none.
        let mut parts = text.strip_prefix("b1.")?.rsplitn(3, '.');
        let (end, rights, bucket) = (parts.next()?, parts.next()?, parts.next()?);
        let write = match rights {
            "rw" => true,
            "r" => false,
            _ => return None,
        };
        Some(Grant { bucket: BucketName::new(bucket).ok()?, write, expires_ms: end.parse().ok()? })
    }

    /// Why a call is not among what is allowed.
    pub fn refuses(&self, method: &Method, uri: &Uri, now_ms: u64) -> Option<(Kind, String)> {
        let bucket = &self.bucket;
        let asked = asked_for(uri);
        if now_ms >= self.expires_ms {
            return Some((Kind::Unauthenticated, over(asked, bucket)));
        }
        let denied = |what: String| Some((Kind::PermissionDenied, format!("{asked}: {what}")));
        // As it was sent: a bucket's name needs no escapes, and what has some is not it.
        let mut parts = uri.path().split('/').skip(1);
        let call = (parts.next(), parts.next(), parts.next());
        let (Some("v1"), Some(call @ ("objects" | "stat" | "watch")), Some(named)) = call else {
            return denied(format!("this token is for the objects of bucket {bucket} only"));
        };
        if named != bucket.as_str() {
            return denied(format!("this token is for bucket {bucket} only"));
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        if !reads && (!self.write || call != "objects") {
            return denied(format!("this token is for reading bucket {bucket} only"));
        }
        if !reads && !objects::stays_in(uri, bucket.as_str()) {
            return denied(format!("this token is for bucket {bucket} only, and not for another as a target"));
        }
        None
    }
}

/// When the token of a call ends.
#[derive(Clone, Debug)]
pub struct Over {
    until: Instant,
    message: Arc<str>,
    /// A body on its way in was broken off for it.
    broken: Arc<AtomicBool>,
}

impl Over {
    pub fn of(grant: &Grant, uri: &Uri, now_ms: u64) -> Over {
        let left = Duration::from_millis(grant.expires_ms.saturating_sub(now_ms)).min(TTL_MAX);
        Over { until: Instant::now() + left, message: over(asked_for(uri), &grant.bucket).into(), broken: Arc::default() }
    }

    fn error(&self) -> Error {
        Error::new(Kind::Unauthenticated, &*self.message)
    }

    /// The answer of a call that may take long; an error when the token ends before.
    pub async fn within<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout_at(self.until, call).await.unwrap_or_else(|_| Err(self.error()))
    }

    /// A body that breaks off with the token.
    pub fn body(&self, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let (over, end) = (self.clone(), Box::pin(tokio::time::sleep_until(self.until)));
        Body::from_stream(stream::unfold(Some((body.into_data_stream(), end)), move |going| {
            let over = over.clone();
            async move {
                let (mut data, mut end) = going?;
                tokio::select! {
                    biased;
                    () = &mut end => {
                        over.broken.store(true, Ordering::Relaxed);
                        Some((Err(axum::Error::new(over.error())), None))
                    }
                    piece = data.next() => piece.map(|piece| (piece, Some((data, end)))),
                }
            }
        }))
    }

    /// The answer to a call whose own body was broken off says so.
    pub fn answer(&self, answer: Response) -> Response {
        if !answer.status().is_success() && self.broken.load(Ordering::Relaxed) {
            return self.error().into_response();
        }
        let (parts, body) = answer.into_parts();
        // What is whole already is not cut.
        let body = if body.size_hint().exact().is_some() { body } else { self.body(body) };
        Response::from_parts(parts, body)
    }
}

fn over(asked: &str, bucket: &BucketName) -> String {
    format!("{asked}: this token for bucket {bucket} is over; ask for a new one")
}

/// The bucket and the key that a call is for, as they were sent; else its path.
pub fn asked_for(uri: &Uri) -> &str {
    let path = uri.path();
    ["/v1/objects/", "/v1/stat/", "/v1/watch/"].iter().find_map(|call| path.strip_prefix(call)).unwrap_or(path)
}

/// For how long, and for what.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantAsk {
    /// Such as `10m`; `1h` without it, 30 days at most.
    pub ttl: Option<String>,
    /// To write and delete, too.
    #[serde(default)]
    pub write: bool,
}

/// A token for one bucket.
#[derive(Serialize, ToSchema)]
pub struct BucketToken {
    pub token: String,
    pub bucket: String,
    pub write: bool,
    pub expires_ms: u64,
}

#[utoipa::path(post, path = "/v1/buckets/{bucket}/tokens", tag = "objects", request_body = GrantAsk,
    responses((status = 201, body = BucketToken), (status = 400, body = ErrorBody)))]
pub async fn bucket_token(State(app): State<App>, Path(bucket): Path<String>, In(ask): In<GrantAsk>) -> Result<Response, Error> {
    let bucket = BucketName::new(bucket)?;
    let ttl = match ask.ttl {
        None => TTL,
        Some(ttl) => ttl.parse::<Span>().map_err(|e| Error::new(Kind::InvalidArgument, format!("ttl: {e}")))?.0,
    };
    if ttl > TTL_MAX {
        return Err(Error::new(Kind::InvalidArgument, format!("ttl is {}; a token may live for 30d at most", Span(ttl))));
    }
    let grant = Grant { bucket, write: ask.write, expires_ms: now_ms().saturating_add(ttl.as_millis() as u64) };
    let answer = BucketToken { token: grant.token(&app.hub.token), bucket: grant.bucket.into(), write: grant.write, expires_ms: grant.expires_ms };
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_was_granted_and_nothing_else_is_one() {
        let grant = |bucket: &str, write| Grant { bucket: BucketName::new(bucket).unwrap(), write, expires_ms: 1000 };
        for grant in [grant("a", false), grant("a.b-c.2", true)] {
            let token = grant.token("hub");
            assert_eq!(Grant::read(&token, "hub"), Some(grant));
            assert_eq!(Grant::read(&token, "another"), None);
            for at in 0..token.len() {
                let mut broken = token.clone().into_bytes();
                broken[at] ^= 1;
                assert_eq!(Grant::read(&String::from_utf8(broken).unwrap(), "hub"), None, "byte {at} of {token}");
            }
        }
        assert_eq!(Grant::read("", "hub"), None);
    }

    /// Tokens that somebody has changed, and noise: neither opens anything, and neither ends the hub.
    #[test]
    fn no_bytes_are_a_token_that_the_hub_has_not_made() {
        let seed = std::env::var("GEDS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(now_ms);
        let mut state = seed | 1;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let longest = BucketName::new("b".repeat(63)).unwrap();
        let grants = [("a", false), (longest.as_str(), true), ("a.b-c.2", true)].map(|(bucket, write)| Grant { bucket: BucketName::new(bucket).unwrap(), write, expires_ms: u64::MAX });
        let tokens = grants.map(|grant| grant.token("hub"));
        assert!(tokens.iter().all(|token| token.len() <= TOKEN_BYTES_MAX && Grant::read(token, "hub").is_some()));
        for _ in 0..20_000 {
            let token = &tokens[random(3)];
            let mut bytes = token.clone().into_bytes();
            for _ in 0..=random(4) {
                let at = random(bytes.len() + 1);
                match random(5) {
                    0 if at < bytes.len() => bytes[at] = random(256) as u8,
                    1 => bytes.truncate(at),
                    2 => bytes.insert(at, b".0fF\0\xff"[random(6)]),
                    3 => bytes.extend(std::iter::repeat_n(b'.', random(2000))),
                    _ => bytes.splice(at..at, token.bytes().take(random(70))).for_each(drop),
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            // Hexadecimal digits may be written large.
            assert!(Grant::read(&text, "hub").is_none() || text.eq_ignore_ascii_case(token), "seed {seed}: {text}");
        }
    }

    #[test]
    fn a_call_is_allowed_in_its_bucket_while_it_lasts() {
        let grant = |write| Grant { bucket: BucketName::new("a.b").unwrap(), write, expires_ms: 1000 };
        let check = |write, method: Method, uri: &str, now, expected: Option<Kind>| {
            let refused = grant(write).refuses(&method, &uri.parse().unwrap(), now);
            assert_eq!(refused.as_ref().map(|r| r.0), expected, "{method} {uri} at {now}: {refused:?}");
        };
        let denied = Some(Kind::PermissionDenied);
        for (uri, allowed) in [
            ("/v1/objects/a.b", true),
            ("/v1/objects/a.b/k/l", true),
            ("/v1/stat/a.b/k", true),
            ("/v1/watch/a.b?after=0", true),
            ("/v1/watch/a", false),
            ("/v1/objects/a", false),
            ("/v1/objects/a.bc/k", false),
            ("/v1/objects/%61.b/k", false),
            ("/v1/buckets", false),
            ("/v1/buckets/a.b/tokens", false),
            ("/v1/jobs", false),
            ("//v1/objects/a.b", false),
        ] {
            check(false, Method::GET, uri, 999, if allowed { None } else { denied });
        }
        for (uri, named) in [("/v1/objects/other/k/l?action=x", "other/k/l: "), ("/v1/stat/other/k", "other/k: "), ("/v1/watch/other?after=0", "other: "), ("/v1/jobs", "/v1/jobs: ")] {
            for now in [1, 1000] {
                let (_, message) = grant(true).refuses(&Method::GET, &uri.parse().unwrap(), now).unwrap();
                assert!(message.starts_with(named), "{message}");
            }
        }
        check(false, Method::GET, "/v1/objects/a.b/k", 1000, Some(Kind::Unauthenticated));
        check(false, Method::PUT, "/v1/objects/a.b/k", 1, denied);
        check(true, Method::PUT, "/v1/objects/a.b/k", 1, None);
        check(true, Method::DELETE, "/v1/objects/a.b?prefix=k", 1, None);
        check(true, Method::POST, "/v1/objects/a.b?action=rename&from=a&to=b", 1, None);
        check(true, Method::POST, "/v1/objects/a.b?action=copy&from=a&to=b&to_bucket=a.b", 1, None);
        check(true, Method::POST, "/v1/objects/a.b?action=copy&from=a&to=b&to_bucket=c", 1, denied);
        check(true, Method::POST, "/v1/objects/a.b?action=copy&from=a&to=b&to%5Fbucket=c", 1, denied);
        check(true, Method::POST, "/v1/objects/a.b/k?action=rename&to=l", 1, None);
        check(true, Method::POST, "/v1/objects/a.b/k?action=rename&to=l&to_bucket=c", 1, denied);
    }
}
