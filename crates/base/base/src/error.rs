//! One classification of errors. Each crate's error enum has a `kind()`; HTTP, gRPC and exit codes follow from it here.

use serde::{Deserialize, Serialize};
use std::error::Error;

/// What lies below all that says only that something failed.
pub fn cause(mut e: &dyn Error) -> String {
    while let Some(source) = e.source() {
        e = source;
    }
    e.to_string()
}

/// An error with its [`cause`], which some libraries keep to themselves, in one line: stores in the cloud answer in XML of several.
pub fn with_cause(e: &dyn Error) -> String {
    let (text, cause) = (e.to_string(), cause(e));
    let all = if text.contains(&cause) { text } else { format!("{text}: {cause}") };
    all.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// What sort of failure it is, from the point of view of someone who has to react.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    Unauthenticated,
    PermissionDenied,
    FailedPrecondition,
    ResourceExhausted,
    Unavailable,
    DeadlineExceeded,
    DataLoss,
    Unimplemented,
    Internal,
}

impl Kind {
    /// Status code of an HTTP answer.
    pub fn http(self) -> u16 {
        match self {
            Kind::InvalidArgument => 400,
            Kind::Unauthenticated => 401,
            Kind::PermissionDenied => 403,
            Kind::NotFound => 404,
            Kind::AlreadyExists | Kind::FailedPrecondition => 409,
            Kind::ResourceExhausted => 429,
            Kind::Unimplemented => 501,
            Kind::Unavailable => 503,
            Kind::DeadlineExceeded => 504,
            Kind::DataLoss | Kind::Internal => 500,
        }
    }

    /// Code of a gRPC status (`google.rpc.Code`).
    pub fn grpc(self) -> i32 {
        match self {
            Kind::InvalidArgument => 3,
            Kind::DeadlineExceeded => 4,
            Kind::NotFound => 5,
            Kind::AlreadyExists => 6,
            Kind::PermissionDenied => 7,
            Kind::ResourceExhausted => 8,
            Kind::FailedPrecondition => 9,
            Kind::Unimplemented => 12,
            Kind::Internal => 13,
            Kind::Unavailable => 14,
            Kind::DataLoss => 15,
            Kind::Unauthenticated => 16,
        }
    }

    /// The kind of a gRPC status code; unknown codes are internal errors.
    pub fn from_grpc(code: i32) -> Kind {
        match code {
            3 => Kind::InvalidArgument,
            4 => Kind::DeadlineExceeded,
            5 => Kind::NotFound,
            6 => Kind::AlreadyExists,
            7 => Kind::PermissionDenied,
            8 => Kind::ResourceExhausted,
            9 => Kind::FailedPrecondition,
            12 => Kind::Unimplemented,
            14 => Kind::Unavailable,
            15 => Kind::DataLoss,
            16 => Kind::Unauthenticated,
            _ => Kind::Internal,
        }
    }

    /// Exit code of a command (after BSD's sysexits where one fits).
    pub fn exit(self) -> u8 {
        match self {
            Kind::InvalidArgument => 64,
            Kind::DataLoss => 65,
            Kind::NotFound => 66,
            Kind::Unavailable | Kind::DeadlineExceeded => 69,
            Kind::Internal | Kind::Unimplemented => 70,
            Kind::AlreadyExists | Kind::FailedPrecondition => 73,
            Kind::ResourceExhausted => 75,
            Kind::Unauthenticated | Kind::PermissionDenied => 77,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_several_lines_becomes_one() {
        let answer = std::io::Error::other("403: <?xml version=\"1.0\"?>\n<Error>\n  <Code>AccessDenied</Code></Error>");
        assert_eq!(with_cause(&answer), "403: <?xml version=\"1.0\"?> <Error> <Code>AccessDenied</Code></Error>");
    }
}
