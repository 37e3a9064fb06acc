//! What can go wrong, with the thing named. [`Error::kind`] says how to react; the wire server and the controller translate to Pravega's replies.

use base::Kind;
use std::{io, path::PathBuf, sync::Arc};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{action} {path}: {source}")]
    File { action: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("the log is damaged: {0}; put back what is missing, or start with an empty folder, with `--restore` if long-term storage is elsewhere")]
    Damaged(String),
    /// Bytes that are not what was written, where the log as a whole goes on.
    #[error("damaged: {0}")]
    Spoilt(String),
    #[error("the log has stopped and nothing can be written until the next start: {0}")]
    Stopped(Arc<str>),
    #[error("segment {0} does not exist")]
    NoSegment(String),
    #[error("segment {0} exists already")]
    SegmentExists(String),
    #[error("segment {segment} is sealed at {offset}")]
    Sealed { segment: String, offset: u64 },
    #[error("segment {segment} is truncated below {start}; {offset} was asked for")]
    Truncated { segment: String, start: u64, offset: u64 },
    #[error("segment {segment} ends at {length}; {offset} was asked for")]
    BeyondEnd { segment: String, length: u64, offset: u64 },
    #[error("segment {segment} is at {length}, not at {expected}")]
    NotAt { segment: String, length: u64, expected: u64 },
    #[error("event number {event} of a writer to {segment} comes after {last}")]
    EventNumber { segment: String, event: i64, last: i64 },
    #[error("a writer to {segment} has set up its appends over another connection; event {event} over this one is refused")]
    TakenOver { segment: String, event: i64 },
    #[error("segment {0} is not a table")]
    NotATable(String),
    #[error("segment {0} is a table")]
    IsATable(String),
    #[error("table {0} is not empty")]
    NotEmpty(String),
    #[error("a key of table {0} does not exist")]
    NoKey(String),
    #[error("a key of table {0} has another version")]
    BadVersion(String),
    #[error("scope {0} does not exist")]
    NoScope(String),
    #[error("scope {0} exists already")]
    ScopeExists(String),
    #[error("scope {0} is not empty: delete its streams, reader groups and tables first")]
    ScopeNotEmpty(String),
    #[error("stream {0} does not exist")]
    NoStream(String),
    #[error("stream {0} exists already")]
    StreamExists(String),
    #[error("stream {0} is sealed")]
    StreamSealed(String),
    #[error("stream {0} is not sealed: seal it before it is deleted")]
    StreamNotSealed(String),
    #[error("transaction {0} is not open or does not exist")]
    NoTxn(String),
    #[error("{what}: {limit} is the limit, {wanted} were asked for")]
    TooLarge { what: String, limit: u64, wanted: u64 },
    /// Nobody answers, or not to this, at the moment: a client's word, who may ask again.
    #[error("{0}")]
    Unavailable(String),
    /// Waiting for room did not help; the text says where it is lacking.
    #[error("{0}")]
    Exhausted(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Denied(String),
    /// Who asks is not known, or proves it wrongly.
    #[error("{0}")]
    NotKnown(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("long-term storage belongs to another server now: {0}; its streams go on there, and this one is done: to take over from that one, stop it and begin an empty folder with --restore")]
    Fenced(String),
    /// Long-term storage that is not the log's.
    #[error("{0}")]
    Elsewhere(String),
    #[error("long-term storage: {0}")]
    Storage(Arc<geds::Error>),
}

impl Error {
    pub fn kind(&self) -> Kind {
        match self {
            Error::File { source, .. } => match source.kind() {
                // A port or a folder that another process has.
                io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy => Kind::FailedPrecondition,
                io::ErrorKind::PermissionDenied => Kind::PermissionDenied,
                io::ErrorKind::NotFound => Kind::NotFound,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::ResourceExhausted,
                _ => Kind::Internal,
            },
            Error::Damaged(_) | Error::Spoilt(_) => Kind::DataLoss,
            Error::Stopped(_) | Error::Unavailable(_) => Kind::Unavailable,
            Error::NoSegment(_) | Error::NoKey(_) | Error::NoScope(_) | Error::NoStream(_) | Error::NoTxn(_) | Error::NotFound(_) => Kind::NotFound,
            Error::SegmentExists(_) | Error::ScopeExists(_) | Error::StreamExists(_) => Kind::AlreadyExists,
            Error::Sealed { .. }
            | Error::Truncated { .. }
            | Error::NotAt { .. }
            | Error::TakenOver { .. }
            | Error::NotEmpty(_)
            | Error::BadVersion(_)
            | Error::ScopeNotEmpty(_)
            | Error::StreamSealed(_)
            | Error::StreamNotSealed(_)
            | Error::Fenced(_)
            | Error::Elsewhere(_)
            | Error::Conflict(_) => Kind::FailedPrecondition,
            Error::BeyondEnd { .. } | Error::EventNumber { .. } | Error::NotATable(_) | Error::IsATable(_) | Error::Invalid(_) => {
                Kind::InvalidArgument
            }
            Error::TooLarge { .. } | Error::Exhausted(_) => Kind::ResourceExhausted,
            Error::Denied(_) => Kind::PermissionDenied,
            Error::NotKnown(_) => Kind::Unauthenticated,
            Error::Unsupported(_) => Kind::Unimplemented,
            Error::Storage(e) => e.kind(),
        }
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { action, path, source: Arc::new(source) }
    }
}
