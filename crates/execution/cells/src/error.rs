//! What can go wrong with a cell, and whose fault it is.

use base::Kind;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The module can't run here; nothing was started.
    #[error("module refused: {0}")]
    Module(String),
    /// A snapshot that can't be read; nothing was started.
    #[error("snapshot refused: {0}")]
    Snapshot(String),
    #[error("{0}")]
    NotMovable(String),
    #[error("{0}")]
    Resources(String),
    /// [`crate::Control::kill`] with its reason, while the cell was being made.
    #[error("{0}")]
    Killed(String),
    /// The other end of a migration said no.
    #[error("the other side refused: {0}")]
    Refused(String),
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error("engine: {0}")]
    Engine(String),
}

impl Error {
    pub fn kind(&self) -> Kind {
        match self {
            Error::Module(_) => Kind::InvalidArgument,
            Error::Snapshot(_) => Kind::DataLoss,
            Error::NotMovable(_) | Error::Refused(_) | Error::Killed(_) => Kind::FailedPrecondition,
            Error::Resources(_) => Kind::ResourceExhausted,
            Error::Io { .. } | Error::Engine(_) => Kind::Internal,
        }
    }

    pub fn io(what: impl Into<String>) -> impl Fn(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what: what.clone(), source }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
