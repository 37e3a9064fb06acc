//! Streams: a durable, elastic stream store that speaks Pravega's protocols, so that Pravega's own clients are its clients.
//!
//! ```text
//!   gRPC 9090 ── controller ──┐                     ┌── log ── disk      every change, once, in order
//!                             ├── store: one lock ──┤
//!   TCP 12345 ── wire ────────┘   segments, catalog └── tier ── geds     immutable chunks and their manifest, in a folder or S3
//!   HTTP ──────── http ────── metrics, what there is, advice
//! ```
//!
//! The life of an event, the log's format and the reasons stand in `docs/design/streams.md`. In one sentence: a change is decided and applied
//! in memory under one lock, its record goes to the one log, and every reply waits for the record that it depends on to be on disk.
//!
//! What it does not do: replicate to another machine.

pub mod access;
pub mod catalog;
pub mod client;
pub mod controller;
pub mod disk;
mod error;
pub mod http;
mod listener;
pub mod log;
pub mod manifest;
pub mod overflow;
pub mod metrics;
pub mod plan;
pub mod proto;
mod requests;
pub mod retention;
pub mod scale;
pub mod segment;
pub mod server;
pub mod store;
pub mod subscribers;
pub mod table;
pub mod tier;
pub mod video;
pub mod watermark;
pub mod wire;

pub use client::Client;
pub use server::{Options, Server};
pub use store::Store;
pub use error::{Error, Result};

/// Locks it, also after a thread that had it has panicked.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
