//! Sizes and durations as people write them: `"64MiB"`, `"1.5GB"`, `"250ms"`, `"10m"`.
//!
//! A bare number is refused except `0`: a value without its unit is a mistake waiting to happen.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// Why a quantity was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: write a number with a unit, such as {example}")]
pub struct BadUnit {
    pub what: &'static str,
    pub text: String,
    pub example: &'static str,
}

/// So many of something, as people write it: `1 rank`, `2 ranks`.
pub fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn parse(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    if text == "0" {
        return Some(0.0);
    }
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let factor = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?.1;
    let value = number * factor;
    (value.is_finite() && value <= u64::MAX as f64).then_some(value)
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub u64);

const SIZES: [(&str, f64); 9] = [
    ("KiB", 1024.0),
    ("MiB", 1048576.0),
    ("GiB", 1073741824.0),
    ("TiB", 1099511627776.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("B", 1.0),
];

impl FromStr for Bytes {
    type Err = BadUnit;
    fn from_str(text: &str) -> Result<Self, BadUnit> {
        parse(text, &SIZES)
            .map(|v| Bytes(v as u64))
            .ok_or_else(|| BadUnit { what: "size", text: text.into(), example: "\"64MiB\"" })
    }
}
impl fmt::Display for Bytes {
    /// The largest binary unit with one decimal: `1.5 MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES[..4].iter().rev().find(|(_, factor)| self.0 as f64 >= *factor) {
            Some((unit, factor)) => write!(f, "{:.1} {unit}", self.0 as f64 / factor),
            None => write!(f, "{} B", self.0),
        }
    }
}
impl TryFrom<String> for Bytes {
    type Error = BadUnit;
    fn try_from(text: String) -> Result<Self, BadUnit> {
        text.parse()
    }
}
impl From<Bytes> for String {
    fn from(b: Bytes) -> String {
        format!("{}B", b.0)
    }
}

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl Span {
    /// Whole milliseconds.
    pub fn ms(self) -> u64 {
        self.0.as_millis() as u64
    }
}

const TIMES: [(&str, f64); 6] =
    [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0)];

impl FromStr for Span {
    type Err = BadUnit;
    fn from_str(text: &str) -> Result<Self, BadUnit> {
        parse(text, &TIMES)
            .filter(|s| *s < 1e12)
            .map(|s| Span(Duration::from_secs_f64(s)))
            .ok_or_else(|| BadUnit { what: "duration", text: text.into(), example: "\"10s\"" })
    }
}
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |unit: u64| self.0.subsec_nanos() == 0 && self.0.as_secs().is_multiple_of(unit);
        match self.0.as_secs() {
            0 if self.0.is_zero() => f.write_str("0s"),
            days if days > 0 && whole(86_400) => write!(f, "{}d", days / 86_400),
            hours if hours > 0 && whole(3600) => write!(f, "{}h", hours / 3600),
            minutes if minutes > 0 && whole(60) => write!(f, "{}m", minutes / 60),
            _ => write!(f, "{:?}", self.0),
        }
    }
}
impl TryFrom<String> for Span {
    type Error = BadUnit;
    fn try_from(text: String) -> Result<Self, BadUnit> {
        text.parse()
    }
}
impl From<Span> for String {
    fn from(s: Span) -> String {
        format!("{}ms", s.0.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, value) in [("64MiB", 64 << 20), ("1.5kB", 1500), ("0", 0), ("7 B", 7)] {
            assert_eq!(text.parse(), Ok(Bytes(value)), "{text}");
        }
        for bad in ["", "64", "MiB", "-1B", "1e9B", "99999999999TiB"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
        assert_eq!(Bytes(1536).to_string(), "1.5 KiB");
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([count(0, "rank"), count(1, "rank"), count(2, "rank")], ["0 ranks", "1 rank", "2 ranks"]);
    }

    #[test]
    fn spans() {
        assert_eq!("250ms".parse(), Ok(Span(Duration::from_millis(250))));
        assert_eq!("10m".parse::<Span>().unwrap().ms(), 600_000);
        assert!("10".parse::<Span>().is_err());
        for text in ["0s", "250ms", "90s", "10m", "2h", "7d"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
    }
}
