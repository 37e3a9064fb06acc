//! What every part of CloudSkin shares, so that one word keeps one meaning.
//!
//! * [`id`]: names of sites and jobs, checked when they are made;
//! * [`unit`]: `"64MiB"` and `"10s"` in configuration and on the command line;
//! * [`error`]: the one classification of errors that maps to HTTP, gRPC and exit codes;
//! * [`identity`]: the installation's certificate authority, certificates and TLS;
//! * [`clock`]: Unix milliseconds, in the one place that reads the clock;
//! * [`net`]: what all accepted connections have;
//! * [`pace`]: a bandwidth that several share, and the pauses between tries;
//! * [`piecewise`]: many bytes onto a disk that others sync to;
//! * [`config`]: `cloudskin.toml` and its environment overrides.
//!
//! Nothing here knows about cells, objects or jobs beyond their names.

pub mod behind;
pub mod clock;
pub mod config;
pub mod error;
pub mod id;
pub mod identity;
pub mod net;
pub mod pace;
pub mod piecewise;
pub mod unit;

pub use error::Kind;
pub use id::{JobId, SiteId};
pub use pace::Pace;
