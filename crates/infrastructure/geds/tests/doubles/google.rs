//! Google's XML interface, for one bucket, with uploads in parts and conditions. It looks at nobody's proof: its test asks without one.

use super::{Asked, Inner, decoded, fields, tag_of};
use axum::{
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};

pub const BUCKET: &str = "box";

pub fn answer(store: &mut Inner, asked: &Asked) -> Response {
    let Some(rest) = asked.path.strip_prefix(&format!("/{BUCKET}")) else { return StatusCode::NOT_FOUND.into_response() };
    let name = decoded(&rest.replace('+', "%2B")).trim_start_matches('/').to_string();
    let fields = fields(&asked.query);
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let upload = fields.get("uploadId").cloned();
    match (asked.method.clone(), upload) {
        (Method::POST, None) if fields.contains_key("uploads") => {
            store.describe(&name, &asked.headers);
            store.writes += 1;
            let id = format!("upload-{}", store.writes);
            format!("<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{name}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>").into_response()
        }
        (Method::PUT, Some(upload)) => {
            store.writes += 1;
            let tag = tag_of(store.writes);
            // A part is known by its number; who completes the upload has to show its tag.
            store.parts.insert((upload, format!("{} {tag}", field("partNumber"))), asked.body.clone());
            ([("etag", tag)], ()).into_response()
        }
        (Method::POST, Some(upload)) => {
            let list = String::from_utf8(asked.body.to_vec()).unwrap();
            let inside = |part: &str, tag: &str| part.split(&format!("<{tag}>")).nth(1).unwrap().split('<').next().unwrap().to_string();
            let parts = list.split("<Part>").skip(1).map(|part| format!("{} {}", inside(part, "PartNumber"), inside(part, "ETag")));
            let parts: Option<Vec<_>> = parts.map(|part| store.parts.remove(&(upload.clone(), part))).collect();
            let Some(parts) = parts else { return StatusCode::BAD_REQUEST.into_response() };
            let done = store.put(&name, parts.concat().into());
            let body = format!("<CompleteMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{name}</Key><ETag>{}</ETag></CompleteMultipartUploadResult>", tag_of(store.writes));
            (done.headers().clone(), body).into_response()
        }
        (Method::PUT, None) if asked.headers.get("x-goog-if-generation-match").is_some_and(|n| n == "0") && store.objects.contains_key(&name) => StatusCode::PRECONDITION_FAILED.into_response(),
        (Method::PUT, None) => {
            store.describe(&name, &asked.headers);
            let done = store.put(&name, asked.body.clone());
            (done.headers().clone(), ()).into_response()
        }
        (Method::GET, None) if name.is_empty() => {
            let (names, all) = store.page(field("prefix"), field("delimiter"), field("continuation-token"));
            let one = |name: &String| match store.objects.get(name) {
                Some((content, n)) => format!("<Contents><Key>{name}</Key><Size>{}</Size><LastModified>2026-11-26T00:00:00.000Z</LastModified><ETag>{}</ETag></Contents>", content.len(), tag_of(*n)),
                None => format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"),
            };
            let next = if all { String::new() } else { format!("<NextContinuationToken>{}</NextContinuationToken>", names.last().unwrap()) };
            let names: String = names.iter().map(one).collect();
            format!("<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>{}</IsTruncated>{names}{next}</ListBucketResult>", !all).into_response()
        }
        (Method::GET | Method::HEAD, None) => store.get(&name, &asked.headers),
        (Method::DELETE, Some(upload)) => {
            store.parts.retain(|(of, _), _| *of != upload);
            StatusCode::NO_CONTENT.into_response()
        }
        (Method::DELETE, None) => if store.objects.remove(&name).is_some() { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }.into_response(),
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}
