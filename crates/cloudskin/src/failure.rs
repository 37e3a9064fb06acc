//! What a command fails with: one line for people, one kind that gives the exit code.

use base::Kind;
use std::fmt;

/// A failure whose sort is known.
#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for Failure {}

pub fn fail(kind: Kind, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure { kind, message: message.into() })
}

/// The sort of failure: the first in the chain that knows, otherwise what the system's error says.
pub fn kind(e: &anyhow::Error) -> Kind {
    use std::io::ErrorKind;
    e.chain()
        .find_map(|cause| {
            if let Some(f) = cause.downcast_ref::<Failure>() {
                return Some(f.kind);
            }
            if cause.is::<base::unit::BadUnit>() || cause.is::<base::id::BadName>() {
                return Some(Kind::InvalidArgument);
            }
            Some(match cause.downcast_ref::<std::io::Error>()?.kind() {
                ErrorKind::NotFound => Kind::NotFound,
                ErrorKind::PermissionDenied => Kind::PermissionDenied,
                ErrorKind::AlreadyExists => Kind::AlreadyExists,
                ErrorKind::AddrInUse => Kind::FailedPrecondition,
                ErrorKind::StorageFull => Kind::ResourceExhausted,
                _ => return None,
            })
        })
        .unwrap_or(Kind::Internal)
}

/// An error of the system without its number, which says nothing to people: `No such file or directory (os error 2)`.
fn plain(cause: &str) -> String {
    match cause.split_once(" (os error ").and_then(|(words, rest)| Some((words, rest.split_once(')')?))) {
        Some((words, (number, rest))) if number.bytes().all(|b| b.is_ascii_digit()) => format!("{words}{}", plain(rest)),
        _ => cause.into(),
    }
}

/// The chain on one line. A cause that the line already tells is left out.
pub fn line(e: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in e.chain().map(|c| c.to_string()) {
        let cause = plain(cause.trim()).replace('\n', " ");
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_cause_is_told_once_and_its_kind_is_kept() {
        let e = Err::<(), _>(fail(Kind::NotFound, "no job-9")).context("read logs: no job-9").context("show").unwrap_err();
        assert_eq!(line(&e), "show: read logs: no job-9");
        assert_eq!(kind(&e).exit(), 66);
        let missing = Err::<(), _>(std::io::Error::from_raw_os_error(2)).context("read x").unwrap_err();
        assert_eq!(line(&missing), "read x: No such file or directory");
        assert_eq!(plain("a (os error 2); b (os error 13)"), "a; b");
        assert_eq!(plain("(os error x)"), "(os error x)");
        let io = Err::<(), _>(std::io::Error::from(std::io::ErrorKind::PermissionDenied)).context("open x").unwrap_err();
        assert_eq!(kind(&io).exit(), 77);
        assert_eq!(kind(&anyhow::anyhow!("?")), Kind::Internal);
    }
}
