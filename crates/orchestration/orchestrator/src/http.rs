//! HTTP.
use crate::{Asset, hub::Hub};
use std::sync::Arc;
pub fn router(_hub: Arc<Hub>, _advertise: String, _dashboard: Vec<Asset>) -> axum::Router {
    axum::Router::new()
}
