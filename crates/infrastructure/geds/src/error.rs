//! What can go wrong, with the object named. [`Error::kind`] says how to react; an error that crossed the network keeps its kind.

use base::Kind;
use std::{io, path::PathBuf, time::Duration};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} name {name:?} is not valid: {rule}")]
    BadName { what: &'static str, name: String, rule: &'static str },
    #[error("{what} {value:?} is not valid: {rule}")]
    BadValue { what: &'static str, value: String, rule: &'static str },
    #[error("bucket {bucket} does not exist")]
    NoBucket { bucket: String },
    #[error("object {bucket}/{key} does not exist")]
    NotFound { bucket: String, key: String },
    #[error("object {bucket}/{key} exists already")]
    Exists { bucket: String, key: String },
    #[error("object {bucket}/{key} is at epoch {current}, not {epoch}: it was written again meanwhile")]
    Stale { bucket: String, key: String, epoch: u64, current: u64 },
    #[error("site {site} has the only copy of {bucket}/{key}: spill it or copy it before it is dropped")]
    OnlyCopy { bucket: String, key: String, site: String },
    #[error("no space for {bucket}/{key}: {wanted} bytes wanted, {used} of {limit} bytes used; {remedy}")]
    NoSpace { bucket: String, key: String, wanted: u64, used: u64, limit: u64, remedy: String },
    #[error("object {bucket}/{key} has {length} bytes, so the next write goes to {length} and not to {offset}")]
    WrongOffset { bucket: String, key: String, offset: u64, length: u64 },
    #[error("object {bucket}/{key} has {size} bytes; {offset} is past its end")]
    PastEnd { bucket: String, key: String, offset: u64, size: u64 },
    #[error("object {bucket}/{key} is sealed; nothing more can be appended")]
    SealedAlready { bucket: String, key: String },
    #[error("{what} was not done within {} s: {rest}", (.wait.as_secs_f64() * 10.0).round() / 10.0)]
    Late { what: String, wait: Duration, rest: String },
    #[error("object {bucket}/{key} is damaged {place}: {found}")]
    Damaged { bucket: String, key: String, place: String, found: String },
    #[error("object {bucket}/{key} can't be reached: {tried}")]
    Unreachable { bucket: String, key: String, tried: String },
    #[error("object {bucket}/{key} is not this store's own: it lies at {location} in the persistency tier, to which the bucket is bound; change it there")]
    Foreign { bucket: String, key: String, location: String },
    #[error("object {bucket}/{key} is sealed at site {site}, which alone has it so far: {tried}; a second copy is made as soon as somebody can")]
    Alone { bucket: String, key: String, site: String, tried: String },
    #[error("bucket {bucket} can't be spilled: no persistency tier; set `persist` in [geds]")]
    NoPersist { bucket: String },
    #[error("{action} {path}: {source}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{action} {location} in the persistency tier: {}", base::error::with_cause(source))]
    Persist {
        action: &'static str,
        location: String,
        #[source]
        source: object_store::Error,
    },
    #[error("object {bucket}/{key} can't be brought to the persistency tier: {source}")]
    Upload {
        bucket: String,
        key: String,
        #[source]
        source: Box<Error>,
    },
    #[error("peer {peer}: {message}")]
    Peer { peer: String, message: String },
    #[error("peer {peer} breaks the protocol: {message}")]
    Protocol { peer: String, message: String },
    #[error("no room for {bucket}/{key}: tenant {tenant:?} would have {wanted} {what}, its quota is {limit}; delete objects or raise the quota")]
    Quota { bucket: String, key: String, tenant: String, what: &'static str, wanted: u64, limit: u64 },
    #[error("{bucket}/{key} can't be sealed for job {job:?}: it holds no lease on its objects, or that has run out; begin or extend it before")]
    NoJob { bucket: String, key: String, job: String },
    /// A file of the namenode is not what was written. Nothing was changed.
    #[error("{path} is damaged at byte {offset}: {found}; restore the folder from a copy, or move the file away to start without what it has")]
    DamagedLog { path: PathBuf, offset: u64, found: String },
    /// A file of a later version of this program. Nothing was changed.
    #[error("{path} has {found}: a newer version has written it; start that one, or move the folder away to begin without what it has; nothing was changed")]
    Newer { path: PathBuf, found: String },
    #[error("the namenode takes no more changes: {why}; start it again")]
    Broken { why: String },
    /// A change was asked for, and no answer has come.
    #[error("whether it was done nobody knows: {why}; look before it is asked for again")]
    Unsure { why: String },
    #[error("{who} may not {what}")]
    Denied { who: String, what: String },
    /// An error of the hub or of a peer, with its kind kept.
    #[error("{message}")]
    Remote { kind: Kind, message: String },
}

impl Error {
    pub fn kind(&self) -> Kind {
        match self {
            Error::BadName { .. } | Error::BadValue { .. } | Error::PastEnd { .. } | Error::Protocol { .. } => Kind::InvalidArgument,
            Error::NoBucket { .. } | Error::NotFound { .. } => Kind::NotFound,
            Error::Exists { .. } => Kind::AlreadyExists,
            Error::Stale { .. }
            | Error::OnlyCopy { .. }
            | Error::NoPersist { .. }
            | Error::Foreign { .. }
            | Error::WrongOffset { .. }
            | Error::SealedAlready { .. } => Kind::FailedPrecondition,
            Error::Late { .. } => Kind::DeadlineExceeded,
            Error::Quota { .. } => Kind::ResourceExhausted,
            Error::NoJob { .. } | Error::Newer { .. } => Kind::FailedPrecondition,
            Error::DamagedLog { .. } => Kind::DataLoss,
            Error::Broken { .. } | Error::Unsure { .. } => Kind::Unavailable,
            Error::NoSpace { .. } => Kind::ResourceExhausted,
            Error::Damaged { .. } => Kind::DataLoss,
            Error::Unreachable { .. } | Error::Alone { .. } | Error::Peer { .. } => Kind::Unavailable,
            Error::File { source, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Kind::ResourceExhausted,
                _ => Kind::Internal,
            },
            Error::Persist { source, .. } => match source {
                object_store::Error::NotFound { .. } => Kind::NotFound,
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                    Kind::PermissionDenied
                }
                object_store::Error::Precondition { .. } => Kind::FailedPrecondition,
                _ => Kind::Unavailable,
            },
            Error::Upload { source, .. } => source.kind(),
            Error::Denied { .. } => Kind::PermissionDenied,
            Error::Remote { kind, .. } => *kind,
        }
    }

    /// Somebody is away, and nothing was changed: it may be asked for again.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self.kind(), Kind::Unavailable | Kind::DeadlineExceeded) && !matches!(self, Error::Unsure { .. })
    }

    /// The answer may have been lost on the way, so the call may have had its effect.
    pub(crate) fn is_uncertain(&self) -> bool {
        matches!(self.kind(), Kind::Unavailable | Kind::DeadlineExceeded | Kind::Internal)
    }
}
