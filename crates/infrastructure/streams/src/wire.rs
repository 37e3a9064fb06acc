//! The segment store's port: Pravega's wire protocol over TCP or TLS.
//!
//! * [`codec`]: commands as bytes;
//! * [`server`]: connections, their bounds, and which command calls what of the store.

pub mod codec;
mod connection;
pub mod server;

pub use connection::serve;
