//! Names of buckets and objects, checked once, when they are made.
//!
//! A key looks like a path but never becomes one: files on disk and in the persistency tier are named by object ids. The rules below are
//! there because people and programs show keys as folders (a bucket is a folder to a guest), not to protect a file system.

use crate::{Error, Result};
use serde::{Deserialize, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// The longest key, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 1024;

const BUCKET_RULE: &str = "use 1 to 63 of a-z, 0-9, '-' and '.', with a letter or digit at both ends and no \"..\"";
const KEY_RULE: &str = "use 1 to 1024 bytes without NUL, no '/' at either end, and no empty, \".\" or \"..\" segment";

fn bad(what: &'static str, name: &str, rule: &'static str) -> Error {
    Error::BadName { what, name: name.chars().take(80).collect(), rule }
}

macro_rules! name {
    ($type:ident, $check:expr, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $type(String);

        // By hand: `into = "String"` would make a copy of each name that is sent or logged.
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl $type {
            pub fn new(name: impl Into<String>) -> Result<Self> {
                let name = name.into();
                $check(&name)?;
                Ok(Self(name))
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(name: String) -> Result<Self> {
                Self::new(name)
            }
        }
        impl TryFrom<&str> for $type {
            type Error = Error;
            fn try_from(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }
        impl FromStr for $type {
            type Err = Error;
            fn from_str(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(BucketName, check_bucket, "A bucket, such as `scenes`.");
name!(Key, check_key, "An object's name in its bucket, such as `2024/scene.tif`.");

impl Key {
    /// A name that was checked before.
    pub(crate) fn known(name: Box<str>) -> Key {
        Key(name.into())
    }
}

fn check_bucket(name: &str) -> Result<()> {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let good = (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| alnum(b) || matches!(b, b'-' | b'.'))
        && bytes.first().is_some_and(alnum)
        && bytes.last().is_some_and(alnum)
        && !name.contains("..");
    if good { Ok(()) } else { Err(bad("bucket", name, BUCKET_RULE)) }
}

fn check_key(name: &str) -> Result<()> {
    let good = (1..=KEY_BYTES_MAX).contains(&name.len())
        && segments_are_good(name.as_bytes());
    if good { Ok(()) } else { Err(bad("object", name, KEY_RULE)) }
}

/// No NUL, and no empty, `.` or `..` segment. In one pass over the bytes: the namenode does it for each key that it is asked for, a hundred thousand times a second.
fn segments_are_good(name: &[u8]) -> bool {
    let (mut start, mut dots) = (0, true);
    for (at, byte) in name.iter().chain(b"/").enumerate() {
        match byte {
            0 => return false,
            b'/' => {
                if dots && at - start <= 2 {
                    return false;
                }
                (start, dots) = (at + 1, true);
            }
            b'.' => {}
            _ => dots = false,
        }
    }
    true
}

/// The keys that a prefix stands for: `""` all, `"a"` the key `a` and everything below `a/`, `"a/"` only what is below.
/// `foo` never means `foobar`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// The key that equals the prefix, if that counts too.
    pub exact: Option<String>,
    /// `a/`, or empty for the whole bucket.
    pub below: String,
}

impl Prefix {
    pub fn new(text: &str) -> Result<Prefix> {
        if text.is_empty() {
            return Ok(Prefix { exact: None, below: String::new() });
        }
        let name = text.strip_suffix('/').unwrap_or(text);
        Key::new(name).map_err(|_| bad("prefix", text, KEY_RULE))?;
        Ok(Prefix { exact: (name.len() == text.len()).then(|| name.to_string()), below: format!("{name}/") })
    }

    pub fn contains(&self, key: &str) -> bool {
        self.exact.as_deref() == Some(key) || key.starts_with(&self.below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets() {
        for good in ["out", "a", "scenes-2024", "a.b", "0"] {
            assert!(BucketName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", "a-", ".", "..", "a..b", "a/b", "a\0b", "ä", &"x".repeat(64)] {
            assert!(BucketName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys() {
        for good in ["a", "a/b", "...", "a b", "ä/ö.tif", ".hidden", "x\ny", &"x".repeat(1024)] {
            assert!(Key::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a/.", "a\0", &"x".repeat(1025)] {
            let error = Key::new(bad).unwrap_err();
            assert_eq!(error.kind(), base::Kind::InvalidArgument, "{bad:?}");
            assert!(error.to_string().len() < 400, "a bad name is cut in the message");
        }
    }

    #[test]
    fn prefixes_end_at_segments() {
        let check = |text: &str, exact: Option<&str>, below: &str| {
            let prefix = Prefix::new(text).unwrap();
            assert_eq!((prefix.exact.as_deref(), prefix.below.as_str()), (exact, below));
        };
        check("", None, "");
        check("foo", Some("foo"), "foo/");
        check("foo/", None, "foo/");
        check("a/b", Some("a/b"), "a/b/");
        let foo = Prefix::new("foo").unwrap();
        assert!(foo.contains("foo") && foo.contains("foo/a") && !foo.contains("foobar"));
        for bad in ["/", "a//", "../x", "a\0"] {
            assert!(Prefix::new(bad).is_err(), "{bad:?}");
        }
    }
}
