//! What a tenant's buckets may have together. The namenode counts and refuses (`geds`, `namenode/state.rs`); here it is told.

use super::{App, In, api::ErrorBody};
use crate::Error;
use axum::{
    Json,
    extract::{Path, State},
};
use base::Kind;
use geds::BucketName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Characters of a tenant's name.
const NAME_MAX: usize = 64;
/// Buckets that one call puts on an account.
const BUCKETS_MAX: usize = 1000;

/// A tenant's account.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// These are on its account from now on, with what is in them; the others that are stay.
    #[serde(default)]
    pub buckets: Vec<String>,
    /// Objects that its buckets may have together; no limit without it.
    pub objects: Option<u64>,
    /// Bytes that they may have together; no limit without it.
    pub bytes: Option<u64>,
}

/// Sets both limits, and adds buckets. What is there already stays, also beyond the limits.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/quota", tag = "objects", request_body = Quota, responses((status = 200, body = Quota), (status = 400, body = ErrorBody)))]
pub async fn set_quota(State(app): State<App>, Path(tenant): Path<String>, In(ask): In<Quota>) -> Result<Json<Quota>, Error> {
    let wrong = |text: String| Error::new(Kind::InvalidArgument, text);
    if tenant.is_empty() || tenant.len() > NAME_MAX || !tenant.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Err(wrong(format!("tenant {tenant:?}: a name has 1 to {NAME_MAX} of a-z, 0-9 and -")));
    }
    if ask.buckets.len() > BUCKETS_MAX {
        return Err(wrong(format!("{} buckets in one call; {BUCKETS_MAX} are the most", ask.buckets.len())));
    }
    let buckets: Vec<BucketName> = ask.buckets.iter().map(|name| BucketName::new(name.as_str())).collect::<Result<_, _>>()?;
    let catalog = &app.hub.objects.catalog;
    catalog.set_quota(&tenant, ask.objects.unwrap_or(u64::MAX), ask.bytes.unwrap_or(u64::MAX)).await?;
    for bucket in &buckets {
        catalog.set_tenant(bucket, &tenant).await?;
    }
    Ok(Json(ask))
}
