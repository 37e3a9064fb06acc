//! Which format a file has: the number at the end of its mark.
//!
//! A file of a newer version is refused before anything in its folder is changed, so that the version that wrote it finds all as it was. What is recorded in a known file, is whole, and is
//! of a sort that nobody here knows, was written by a newer version, too: taken for half a record it would be cut off.

use crate::{Error, Result};
use std::path::Path;

/// Whether a file begins with its mark, which ends with a number: words, a blank, digits. `field`: what is there, zeros may follow. An error: the same words with another number.
pub(crate) fn check(path: &Path, field: &[u8], mark: &[u8]) -> Result<bool> {
    let field = &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())];
    if field == mark {
        return Ok(true);
    }
    let words = mark.len() - mark.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let number = |mark: &[u8]| std::str::from_utf8(mark).ok().and_then(|digits| digits.trim().parse::<u32>().ok());
    match (field.get(..words - 1) == mark.get(..words - 1)).then(|| number(&field[words - 1..])).flatten() {
        Some(found) => Err(newer(path, format!("format {found}, and this version reads {}", number(&mark[words..]).unwrap_or(0)))),
        None => Ok(false),
    }
}

/// `found`: what it has, and that this version does not know it.
pub(crate) fn newer(path: &Path, found: String) -> Error {
    Error::Newer { path: path.into(), found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_known_or_newer_or_none() {
        let check = |field: &[u8]| check(Path::new("store/journal"), field, b"geds journal 1").map_err(|e| e.to_string());
        assert_eq!((check(b"geds journal 1\0\0"), check(b"geds journal"), check(b"something else"), check(b"")), (Ok(true), Ok(false), Ok(false), Ok(false)));
        for (field, number) in [(&b"geds journal 2\0"[..], "2"), (b"geds journal 10", "10"), (b"geds journal12", "12")] {
            let error = check(field).unwrap_err();
            assert!(error.contains("store/journal") && error.contains(&format!("format {number}, and this version reads 1")), "{error}");
        }
    }
}
