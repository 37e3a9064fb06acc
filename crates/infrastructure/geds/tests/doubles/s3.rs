//! S3's interface for one bucket: Google's but for the condition of a write and for deletes, of many names at a time. It looks at nobody's signature.

use super::{Asked, Inner, decoded, fields, google};
use axum::{
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};

pub fn answer(store: &mut Inner, asked: &Asked) -> Response {
    let name = decoded(asked.path.strip_prefix(&format!("/{}/", google::BUCKET)).unwrap_or_default());
    match asked.method {
        Method::PUT if asked.headers.contains_key(header::IF_NONE_MATCH) && store.objects.contains_key(&name) => StatusCode::PRECONDITION_FAILED.into_response(),
        Method::POST if fields(&asked.query).contains_key("delete") => {
            let list = String::from_utf8(asked.body.to_vec()).unwrap();
            let names: Vec<&str> = list.split("<Key>").skip(1).map(|part| part.split('<').next().unwrap()).collect();
            names.iter().for_each(|name| drop(store.objects.remove(*name)));
            let gone: String = names.iter().map(|name| format!("<Deleted><Key>{name}</Key></Deleted>")).collect();
            format!("<?xml version=\"1.0\"?><DeleteResult>{gone}</DeleteResult>").into_response()
        }
        _ => google::answer(store, asked),
    }
}
