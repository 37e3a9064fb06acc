//! Azure's Blob interface, for one container. Each request has to be signed by the account's key, as Microsoft's "Authorize with Shared Key" says it, or to carry the one shared
//! access signature that is known.

use super::{Asked, DATE, Inner, decoded, fields, tag_of};
use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use ring::hmac;
use std::collections::BTreeMap;

pub const ACCOUNT: &str = "account";
pub const CONTAINER: &str = "box";
/// Base64, as a portal shows it.
pub const KEY: &str = "dGhlIGtleSBvZiB0aGUgYWNjb3VudA==";
pub const SAS: &str = "sv=2026-01-01&sp=rwdl&sig=aSecretThatIsNotShown%3D";

/// What the signature of a request has to be.
fn signature(method: &str, path: &str, query: &str, headers: &HeaderMap) -> String {
    let of = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
    let length = if of("content-length") == "0" { "" } else { of("content-length") };
    let date = if headers.contains_key("x-ms-date") { "" } else { of("date") };
    let plain = [
        method, of("content-encoding"), of("content-language"), length, of("content-md5"), of("content-type"), date, of("if-modified-since"), of("if-match"), of("if-none-match"),
        of("if-unmodified-since"), of("range"),
    ];
    let own: BTreeMap<&str, &str> = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-ms-")).map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let own: String = own.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let fields: String = fields(query).iter().map(|(name, value)| format!("\n{}:{value}", name.to_lowercase())).collect();
    let text = format!("{}\n{own}/{ACCOUNT}{path}{fields}", plain.join("\n"));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64_STANDARD.decode(KEY).unwrap());
    BASE64_STANDARD.encode(hmac::sign(&key, text.as_bytes()))
}

fn may(method: &str, path: &str, query: &str, headers: &HeaderMap) -> bool {
    let shown = headers.get(header::AUTHORIZATION).map_or("", |value| value.to_str().unwrap());
    let (given, known) = (fields(query), fields(SAS));
    shown == format!("SharedKey {ACCOUNT}:{}", signature(method, path, query, headers)) || known.iter().all(|(name, value)| given.get(name) == Some(value))
}

/// The name in the container that a path means; the container itself is "".
fn named(path: &str) -> Option<String> {
    let rest = path.strip_prefix(&format!("/{ACCOUNT}/{CONTAINER}"))?;
    Some(decoded(&rest.replace('+', "%2B")).trim_start_matches('/').to_string())
}

pub fn answer(store: &mut Inner, asked: &Asked) -> Response {
    if !may(asked.method.as_str(), &asked.path, &asked.query, &asked.headers) {
        store.refused += 1;
        return StatusCode::FORBIDDEN.into_response();
    }
    let Some(name) = named(&asked.path) else { return StatusCode::NOT_FOUND.into_response() };
    let fields = fields(&asked.query);
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    match (asked.method.clone(), field("comp")) {
        (Method::PUT, "block") => {
            store.parts.insert((name, field("blockid").into()), asked.body.clone());
            StatusCode::CREATED.into_response()
        }
        (Method::PUT, "blocklist") => {
            let list = String::from_utf8(asked.body.to_vec()).unwrap();
            let ids = list.split("<Uncommitted>").skip(1).map(|rest| rest.split('<').next().unwrap().to_string());
            let blocks: Option<Vec<_>> = ids.map(|id| store.parts.remove(&(name.clone(), id))).collect();
            store.describe(&name, &asked.headers);
            match blocks {
                Some(blocks) => store.put(&name, blocks.concat().into()),
                None => StatusCode::BAD_REQUEST.into_response(),
            }
        }
        (Method::PUT, "") if asked.headers.get("x-ms-blob-type").is_none_or(|kind| kind != "BlockBlob") => StatusCode::BAD_REQUEST.into_response(),
        (Method::PUT, "") if asked.headers.contains_key(header::IF_NONE_MATCH) && store.objects.contains_key(&name) => StatusCode::CONFLICT.into_response(),
        (Method::PUT, "") => {
            store.describe(&name, &asked.headers);
            store.put(&name, asked.body.clone())
        }
        (Method::GET, "list") => list(store, field("prefix"), field("delimiter"), field("marker")),
        (Method::GET | Method::HEAD, "") => store.get(&name, &asked.headers),
        (Method::POST, "batch") => batch(store, asked),
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

fn list(store: &Inner, prefix: &str, delimiter: &str, after: &str) -> Response {
    let (names, all) = store.page(prefix, delimiter, after);
    let one = |name: &String| match store.objects.get(name) {
        Some((content, n)) => format!(
            "<Blob><Name>{name}</Name><Properties><Last-Modified>{DATE}</Last-Modified><Etag>{}</Etag><Content-Length>{}</Content-Length><Content-Type>application/octet-stream</Content-Type></Properties></Blob>",
            tag_of(*n),
            content.len()
        ),
        None => format!("<BlobPrefix><Name>{name}</Name></BlobPrefix>"),
    };
    let next = if all { "" } else { names.last().unwrap() };
    let blobs: String = names.iter().map(one).collect();
    format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Prefix>{prefix}</Prefix><Blobs>{blobs}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>").into_response()
}

/// Several deletions in one request, each signed for itself.
fn batch(store: &mut Inner, asked: &Asked) -> Response {
    let kind = asked.headers[header::CONTENT_TYPE].to_str().unwrap();
    let boundary = kind.split_once("boundary=").unwrap().1;
    let text = String::from_utf8(asked.body.to_vec()).unwrap();
    let mut answers = String::new();
    for part in text.split(&format!("--{boundary}\r\n")).skip(1) {
        let mut lines = part.lines();
        let id = lines.by_ref().take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix("Content-ID: ").map(String::from)).unwrap();
        // The rest of the part's own headers, if the number was not the last of them.
        let mut lines = lines.skip_while(|line| !line.contains(" HTTP/1.1"));
        let call: Vec<&str> = lines.next().unwrap().split(' ').collect();
        let headers: HeaderMap = lines
            .take_while(|line| !line.is_empty())
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase().parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        let (path, query) = call[1].split_once('?').unwrap_or((call[1], ""));
        let code = if call[0] != "DELETE" || !may("DELETE", path, query, &headers) {
            store.refused += 1;
            "403 Forbidden"
        } else if named(path).is_some_and(|name| store.objects.remove(&name).is_some()) {
            "202 Accepted"
        } else {
            "404 The specified blob does not exist."
        };
        answers += &format!("--answers\r\nContent-Type: application/http\r\nContent-ID: {id}\r\n\r\nHTTP/1.1 {code}\r\nx-ms-version: 2026-01-01\r\n\r\n");
    }
    answers += "--answers--\r\n";
    (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "multipart/mixed; boundary=answers")], answers).into_response()
}
