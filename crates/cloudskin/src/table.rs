//! Answers as people read them: columns in line, ages in words, nothing that a narrow terminal must wrap.
//!
//! And as programs read them: JSON as the hub gave it, or YAML with every string quoted.

use crate::args::Output;
use base::unit::Bytes;
use serde_json::Value;
use std::{fmt::Write, io::Write as _};

/// Columns under their titles, two spaces between them, no blanks at the end of a line.
pub fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let clean = |cell: &str| cell.replace(['\n', '\t'], " ");
    let titles: Vec<String> = titles.iter().map(|t| t.to_string()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(&titles).chain(rows).map(|r| r.iter().map(|c| clean(c)).collect()).collect();
    let width = |column: usize| lines.iter().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// Names and values below each other.
pub fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0) + 1;
    rows.iter().filter(|r| !r.1.is_empty()).fold(String::new(), |mut out, (name, value)| {
        let _ = writeln!(out, "{:width$}  {}", format!("{name}:"), value.trim_end().replace('\n', &format!("\n{:width$}  ", "")));
        out
    })
}

/// How long ago, roughly: `12s`, `5m`, `3h`, `9d`.
pub fn age(at_ms: u64, now_ms: u64) -> String {
    if at_ms == 0 {
        return "-".into();
    }
    match now_ms.saturating_sub(at_ms) / 1000 {
        s @ 0..=119 => format!("{s}s"),
        s @ 120..=7199 => format!("{}m", s / 60),
        s @ 7200..=172_799 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86400),
    }
}

pub fn size(bytes: Option<u64>) -> String {
    bytes.map_or("-".into(), |b| Bytes(b).to_string())
}

/// At most `max` characters, with a sign that some are missing.
pub fn short(text: &str, max: usize) -> String {
    if text.chars().count() <= max { text.into() } else { text.chars().take(max - 1).chain(['…']).collect() }
}

/// Text of others for a terminal: no control characters, so that a job's name can't steer it.
pub fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Prints the answer in the wanted form; a reader that has gone away is no error.
pub fn print(output: Output, value: &Value, people: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<u8> {
    let text = match output {
        Output::Json => serde_json::to_string_pretty(value)? + "\n",
        Output::Yaml => {
            let mut out = String::new();
            yaml(value, 0, &mut out);
            out.trim_start().to_string()
        }
        Output::Table => safe(&people()?),
    };
    say(&text)?;
    Ok(0)
}

pub fn say(text: &str) -> anyhow::Result<()> {
    bytes(text.as_bytes())
}

/// Tells of what goes on. That nobody listens any more ends nothing.
pub fn tell(text: &str) {
    let mut out = std::io::stdout().lock();
    // The work is what counts, not the word about it.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

pub fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        done => Ok(done?),
    }
}

/// What a program has printed on standard error.
pub fn error_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    Ok(std::io::stderr().write_all(bytes)?)
}

/// Each scalar as JSON writes it, which YAML reads the same.
fn yaml(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let _ = write!(out, "\n{indent}{}:", Value::from(key.as_str()));
                yaml(value, depth + 1, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                let _ = write!(out, "\n{indent}-");
                yaml(value, depth + 1, out);
            }
        }
        scalar => {
            let _ = write!(out, " {scalar}");
        }
    }
    if depth == 0 {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["edge".into(), "1".into(), "über\nall".into()], vec!["c".into(), "12".into(), String::new()]];
        assert_eq!(table(&["NAME", "N", "WHAT"], &rows), "NAME  N   WHAT\nedge  1   über all\nc     12\n");
        assert_eq!(pairs(&[("name", "x".into()), ("empty", String::new()), ("b", "1\n2".into())]), "name:   x\nb:      1\n        2\n");
    }

    #[test]
    fn ages_and_cuts() {
        assert_eq!([age(0, 9), age(1000, 61_000), age(1, 7_000_001), age(1, 10_000_000)], ["-", "60s", "116m", "2h"]);
        assert_eq!(short("abcdef", 4), "abc…");
        assert_eq!(safe("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\n");
    }

    #[test]
    fn yaml_keeps_structure() {
        let mut out = String::new();
        yaml(&serde_json::json!({"a": [1, {"b": "x: y"}], "c": [], "d": null}), 0, &mut out);
        assert_eq!(out, "\n\"a\":\n  - 1\n  -\n    \"b\": \"x: y\"\n\"c\": []\n\"d\": null\n");
    }
}
