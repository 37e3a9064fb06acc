//! What can go wrong, with the object named. [`Error::kind`] says how to react; an error that crossed the network keeps its kind.

use base::Kind;
use std::{io, path::PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} name {name:?} is not valid: {rule}")]
    BadName { what: &'static str, name: String, rule: &'static str },
    #[error("{what} {value:?} is not valid: {rule}")]
    BadValue { what: &'static str, value: String, rule: &'static str },
    #[error("bucket {bucket} does not exist; create it first")]
    NoBucket { bucket: String },
    #[error("object {bucket}/{key} does not exist")]
    NotFound { bucket: String, key: String },
    #[error("object {bucket}/{key} exists already")]
    Exists { bucket: String, key: String },
    #[error("object {bucket}/{key} is at epoch {current}, not {epoch}: it was written again meanwhile")]
    Stale { bucket: String, key: String, epoch: u64, current: u64 },
    #[error("site {site} has the only copy of {bucket}/{key}: spill it or copy it before it is dropped")]
    OnlyCopy { bucket: String, key: String, site: String },
    /// `setting`: which of [`crate::Config`] would help.
    #[error(
        "no space for {bucket}/{key}: {wanted} bytes wanted, {used} of {limit} bytes used; spill objects or raise `{setting}` in [geds]"
    )]
    NoSpace { bucket: String, key: String, wanted: u64, used: u64, limit: u64, setting: &'static str },
    #[error("object {bucket}/{key} has {length} bytes, so the next write goes to {length} and not to {offset}")]
    WrongOffset { bucket: String, key: String, offset: u64, length: u64 },
    #[error("object {bucket}/{key} is sealed; nothing more can be appended")]
    SealedAlready { bucket: String, key: String },
    #[error("{what} was not done within {seconds} s: {rest}")]
    Late { what: String, seconds: u64, rest: String },
    #[error("object {bucket}/{key} is damaged {place}: {found}")]
    Damaged { bucket: String, key: String, place: String, found: String },
    #[error("object {bucket}/{key} can't be reached: {tried}")]
    Unreachable { bucket: String, key: String, tried: String },
    #[error("bucket {bucket} can't be spilled: no persistency tier; set `persist` in [geds]")]
    NoPersist { bucket: String },
    #[error("{action} {path}: {source}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{action} {location} in the persistency tier: {source}")]
    Persist {
        action: &'static str,
        location: String,
        #[source]
        source: object_store::Error,
    },
    #[error("namenode: {action}: {source}")]
    Database {
        action: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error("peer {peer}: {message}")]
    Peer { peer: String, message: String },
    #[error("peer {peer} breaks the protocol: {message}")]
    Protocol { peer: String, message: String },
    #[error("{who} may not {what}")]
    Denied { who: String, what: String },
    /// An error of the hub or of a peer, with its kind kept.
    #[error("{message}")]
    Remote { kind: Kind, message: String },
}

impl Error {
    pub fn kind(&self) -> Kind {
        match self {
            Error::BadName { .. } | Error::BadValue { .. } | Error::Protocol { .. } => Kind::InvalidArgument,
            Error::NoBucket { .. } | Error::NotFound { .. } => Kind::NotFound,
            Error::Exists { .. } => Kind::AlreadyExists,
            Error::Stale { .. }
            | Error::OnlyCopy { .. }
            | Error::NoPersist { .. }
            | Error::WrongOffset { .. }
            | Error::SealedAlready { .. } => Kind::FailedPrecondition,
            Error::Late { .. } => Kind::DeadlineExceeded,
            Error::NoSpace { .. } => Kind::ResourceExhausted,
            Error::Damaged { .. } => Kind::DataLoss,
            Error::Unreachable { .. } | Error::Peer { .. } => Kind::Unavailable,
            Error::File { source, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Kind::ResourceExhausted,
                _ => Kind::Internal,
            },
            Error::Persist { source, .. } => match source {
                object_store::Error::NotFound { .. } => Kind::NotFound,
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                    Kind::PermissionDenied
                }
                _ => Kind::Unavailable,
            },
            Error::Database { .. } => Kind::Internal,
            Error::Denied { .. } => Kind::PermissionDenied,
            Error::Remote { kind, .. } => *kind,
        }
    }

    /// The answer may have been lost on the way, so the call may have had its effect.
    pub(crate) fn is_uncertain(&self) -> bool {
        matches!(self.kind(), Kind::Unavailable | Kind::DeadlineExceeded | Kind::Internal)
    }
}
