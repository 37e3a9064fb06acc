//! The segment store's port: Pravega's wire protocol over TCP or TLS.
//!
//! * [`codec`]: commands as bytes;
//! * `connection`: one client's requests, their bounds, and which command calls what of the store;
//! * `outbox`: its replies on their way out;
//! * [`server`]: the port.

pub mod codec;
mod connection;
mod outbox;
pub mod server;

pub use connection::serve;
