//! Reads `scenarios.txt`, what all doors of the object store do, and has a door do it. Included by the tests of the doors that are tested from Rust; the others have an interpreter of their own, and
//! their tests ask here what it has to have run.

use std::collections::BTreeSet;

const TABLE: &str = include_str!("scenarios.txt");

/// The names that `without` may have.
pub const DOORS: [&str; 14] =
    ["rust", "rust-blocking", "rust-attached", "c", "c-attached", "python", "python-attached", "fsspec", "smart", "java", "java-attached", "hadoop", "http", "cli"];
/// The one that is not a program of the machine's.
pub const CELLS: &str = "cells";

#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    /// Doors, and why they can't.
    without: Vec<(&'static str, &'static str)>,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    line: usize,
    words: Vec<&'static str>,
    expected: Expected,
}

#[derive(Debug, PartialEq)]
enum Expected {
    Success,
    Answer(String),
    Kind(&'static str),
}

fn word(text: &'static str) -> &'static str {
    if text == "''" { "" } else { text }
}

/// All of them. Panics at a line that says nothing.
pub fn all() -> Vec<Scenario> {
    let mut all: Vec<Scenario> = Vec::new();
    for (n, line) in TABLE.lines().enumerate() {
        let line_number = n + 1;
        let mut words: Vec<&str> = line.split_whitespace().collect();
        match words.first() {
            None => {}
            Some(first) if first.starts_with('#') => {}
            Some(&"scenario") => {
                assert!(words.len() == 2 && all.iter().all(|other| other.name != words[1]), "line {line_number}: a scenario has one name of its own");
                all.push(Scenario { name: words[1], without: Vec::new(), steps: Vec::new() });
            }
            Some(&"without") => {
                let (doors, why) = line.split_once(" : ").unwrap_or_else(|| panic!("line {line_number}: why can't they?"));
                for door in doors.split_whitespace().skip(1) {
                    assert!(DOORS.contains(&door) || door == CELLS, "line {line_number}: there is no door {door}");
                    all.last_mut().expect("of a scenario").without.push((door, why));
                }
            }
            Some(_) => {
                let at = words.iter().position(|word| matches!(*word, "=" | "!"));
                let expected = match at.map(|at| (words[at], words[at + 1..].to_vec())) {
                    None => Expected::Success,
                    Some(("=", answer)) => Expected::Answer(answer.into_iter().map(word).collect::<Vec<_>>().join(" ")),
                    Some((_, kind)) => Expected::Kind(kind[0]),
                };
                words.truncate(at.unwrap_or(words.len()));
                let words = words.into_iter().map(word).collect();
                all.last_mut().expect("of a scenario").steps.push(Step { line: line_number, words, expected });
            }
        }
    }
    all
}

/// The names of those that a door has to do, in their order.
pub fn of(door: &str) -> Vec<&'static str> {
    assert!(DOORS.contains(&door) || door == CELLS, "{door}");
    all().iter().filter(|scenario| scenario.without.iter().all(|(other, _)| *other != door)).map(|scenario| scenario.name).collect()
}

/// Nobody is excused from much.
#[allow(dead_code)] // one of those who include this asks
pub fn check_table() {
    let all = all();
    let known: BTreeSet<&str> = DOORS.into_iter().chain([CELLS]).collect();
    for door in known {
        let excused = all.len() - of(door).len();
        assert!(of(door).len() >= 10, "{door} does {} of {}, and is excused from {excused}", of(door).len(), all.len());
    }
    for door in ["rust", "rust-blocking", "rust-attached", "c", "c-attached", "python", "python-attached", "java", "java-attached"] {
        assert_eq!(of(door).len(), all.len(), "{door} can all of them");
    }
    assert!(all.iter().all(|scenario| !scenario.steps.is_empty()));
}

/// What a step gives: its answer, or the kind of its error.
pub type Given = Result<String, String>;

/// One of the doors. It gets the bucket of the scenario and the words of a step.
#[allow(dead_code)] // not all who include this have one
pub trait Door {
    /// A bucket of the scenario's, or its second one, is to be there.
    fn begin(&mut self, bucket: &str, second: &str);
    fn does(&mut self, bucket: &str, words: &[&str]) -> Given;
}

/// Has a door do all that it has to.
#[allow(dead_code)]
pub fn run(name: &str, door: &mut dyn Door) {
    let wanted = of(name);
    for scenario in all().iter().filter(|scenario| wanted.contains(&scenario.name)) {
        door.begin(scenario.name, &second(scenario.name));
        for Step { line, words, expected } in &scenario.steps {
            let given = door.does(scenario.name, words);
            let good = match (&given, expected) {
                (Ok(_), Expected::Success) => true,
                (Ok(given), Expected::Answer(expected)) => given == expected,
                (Err(given), Expected::Kind(expected)) => given == expected,
                _ => false,
            };
            assert!(good, "{name}: scenarios.txt:{line}: {words:?} gives {given:?} and not {expected:?}");
        }
    }
}

/// The second bucket of a scenario.
#[allow(dead_code)]
pub fn second(bucket: &str) -> String {
    format!("{bucket}-2")
}

/// Where a key of a step is: `@KEY` is in the second bucket.
#[allow(dead_code)]
pub fn place<'a>(bucket: &str, key: &'a str) -> (String, &'a str) {
    key.strip_prefix('@').map_or((bucket.to_string(), key), |key| (second(bucket), key))
}

/// The bytes that a word of a content means.
#[allow(dead_code)]
pub fn bytes(word: &str) -> Vec<u8> {
    let mut pieces = word.split('%');
    let mut out = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        out.push(u8::from_str_radix(&piece[..2], 16).expect("two digits"));
        out.extend_from_slice(&piece.as_bytes()[2..]);
    }
    out
}

/// Bytes as an answer.
#[allow(dead_code)]
pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| if byte.is_ascii_graphic() && *byte != b'%' { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The content of `put-large`.
#[allow(dead_code)]
pub fn large(len: u64) -> Vec<u8> {
    (0..len).map(|n| (n * 31 / 8) as u8).collect()
}

/// The answer of `get-large`.
#[allow(dead_code)]
pub fn compared(found: &[u8]) -> String {
    if found == large(found.len() as u64) { found.len().to_string() } else { format!("other bytes, {} of them", found.len()) }
}

/// How a kind is written in the table, of how Rust shows it.
#[allow(dead_code)]
pub fn kind(kind: impl std::fmt::Debug) -> String {
    let mut out = String::new();
    for c in format!("{kind:?}").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
