//! The command line and a cell's folders as doors of the object store: the steps of `bindings/scenarios.txt`. And what only the command line has: news, line by line.

#[path = "../../bindings/scenarios.rs"]
mod table;

use crate::platform::{Platform, both, compile, root};
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};
use table::{Door, Given, bytes, compared, large, place, text};

struct Commands<'a> {
    p: &'a Platform,
}

impl Commands<'_> {
    /// What a command prints, or the kind of its failure.
    fn said(&self, args: &[&str]) -> Result<Vec<u8>, String> {
        let output = self.p.command(args).output().unwrap();
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = both(&output);
        Err(match output.status.code() {
            Some(64) => "invalid_argument".into(),
            Some(66) => "not_found".into(),
            Some(73) if said.contains("exists already") => "already_exists".into(),
            Some(73) => "failed_precondition".into(),
            code => format!("{code:?}: {said}"),
        })
    }

    fn json(&self, args: &[&str]) -> Result<serde_json::Value, String> {
        Ok(serde_json::from_slice(&self.said(&[&["-o", "json", "store"], args].concat())?).unwrap())
    }

    fn counted(&self, args: &[&str]) -> Given {
        self.json(args).map(|told| format!("{} {}", told["objects"], told["bytes"]))
    }

    fn put(&self, object: &str, content: &[u8], options: &[&str]) -> Given {
        let file = self.file();
        std::fs::write(&file, content).unwrap();
        self.said(&[&["store", "put", file.to_str().unwrap(), object], options].concat()).map(|_| String::new())
    }

    fn file(&self) -> PathBuf {
        self.p.data().join("to-put")
    }
}

/// `BUCKET/KEY` of a key.
fn object(bucket: &str, key: &str) -> String {
    let (bucket, key) = place(bucket, key);
    format!("{bucket}/{key}")
}

impl Door for Commands<'_> {
    fn begin(&mut self, bucket: &str, second: &str) {
        // A bucket is made by what is put into it.
        for bucket in [bucket, second] {
            self.put(&format!("{bucket}/first-of-all"), b"", &[]).unwrap();
            self.said(&["store", "rm", &format!("{bucket}/first-of-all")]).unwrap();
        }
    }

    fn does(&mut self, bucket: &str, words: &[&str]) -> Given {
        let at = |key: &str| object(bucket, key);
        let nothing = |_: Vec<u8>| String::new();
        match *words {
            ["put", key, content] => self.put(&at(key), &bytes(content), &[]),
            ["put-new", key, content] => self.put(&at(key), &bytes(content), &["--if-absent"]),
            ["put-with", key, content, metadata] => self.put(&at(key), &bytes(content), &["--metadata", metadata]),
            ["put-ms", key, content, ms] => self.put(&at(key), &bytes(content), &["--ttl", &format!("{ms}ms")]),
            ["put-large", key, len] => self.put(&at(key), &large(len.parse().unwrap()), &[]),
            ["get", key] => self.said(&["store", "get", &at(key), "-"]).map(|out| text(&out)),
            ["get-large", key] => self.said(&["store", "get", &at(key), "-"]).map(|out| compared(&out)),
            ["size", key] => self.json(&["stat", &at(key)]).map(|told| told["size"].to_string()),
            ["metadata", key] => self.json(&["stat", &at(key)]).map(|told| text(told["metadata"].as_str().unwrap().as_bytes())),
            ["list", prefix] => {
                let told = self.json(&["ls", &at(prefix)])?;
                Ok(told.as_array().unwrap().iter().map(|object| object["key"].as_str().unwrap()).collect::<Vec<_>>().join(" "))
            }
            ["delete", key] => self.said(&["store", "rm", &at(key)]).map(nothing),
            ["rename", from, to] => self.said(&["store", "mv", &at(from), &at(to)]).map(nothing),
            ["copy", from, to] => self.said(&["store", "cp", &at(from), &at(to)]).map(nothing),
            ["rename-new", from, to] => self.said(&["store", "mv", "--if-absent", &at(from), &at(to)]).map(nothing),
            ["copy-new", from, to] => self.said(&["store", "cp", "--if-absent", &at(from), &at(to)]).map(nothing),
            ["read", key, offset, len] => self.said(&["store", "get", &at(key), "-", "--offset", offset, "--bytes", &format!("{len}B")]).map(|out| text(&out)),
            ["rename-all", from, to] => self.counted(&["mv", &at(from), &at(to)]),
            ["rename-all-new", from, to] => self.counted(&["mv", "--if-absent", &format!("{}/", at(from)), &at(to)]),
            ["copy-all", from, to] => self.counted(&["cp", &at(from), &at(to)]),
            ["delete-all", prefix] => self.counted(&["rm", "-r", &at(prefix)]),
            ["gone", key] => {
                let end = Instant::now() + Duration::from_secs(60);
                while self.said(&["store", "stat", &at(key)]) != Err("not_found".into()) {
                    assert!(Instant::now() < end, "it never went");
                }
                Ok(String::new())
            }
            ["flush", prefix] => self.counted(&["flush", &at(prefix)]),
            ["spill", prefix] => self.counted(&["spill", &format!("{}/", at(prefix))]),
            _ => panic!("{words:?} is no step of the command line's"),
        }
    }
}

#[test]
fn the_command_line_and_cells_do_what_all_doors_do() {
    let p = Platform::start();
    table::run("cli", &mut Commands { p: &p });

    // What is sealed is followed to its end.
    Commands { p: &p }.put("logs/run", b"one two", &[]).unwrap();
    assert_eq!(p.ok(&["store", "get", "logs/run", "--follow"]), "one two");
    assert_eq!(p.ok(&["store", "get", "logs/run", "--follow", "--offset", "4"]), "two");
    assert_eq!(Commands { p: &p }.said(&["store", "get", "logs/none", "--follow"]), Err("not_found".into()));

    // A bucket tells what happens in it, one line for each; who comes later goes on with the number that he has seen last.
    let watch = |after: &str| {
        let child = p.command(&["-o", "json", "store", "watch", "news", "--after", after]).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines.map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap()))
    };
    let put = |key: &str| Commands { p: &p }.put(&format!("news/{key}"), b"123", &[]).unwrap();
    put("a");
    let (mut child, mut lines) = watch("0");
    let first = lines.next().unwrap();
    assert_eq!((&first["seq"], &first["what"], &first["key"], &first["size"]), (&1.into(), &"sealed".into(), &"a".into(), &3.into()));
    put("b");
    assert_eq!(lines.next().unwrap()["key"], "b", "it waits for it");
    child.kill().unwrap();
    child.wait().unwrap();
    p.ok(&["store", "rm", "news/a"]);
    let (mut child, mut lines) = watch("2");
    assert_eq!(lines.next().unwrap()["what"], "removed");
    child.kill().unwrap();
    child.wait().unwrap();
    let (mut child, mut lines) = watch("1000");
    let told = lines.next().unwrap();
    assert_eq!((&told["resync"], &told["next"]), (&true.into(), &3.into()), "it was never given");
    child.kill().unwrap();
    child.wait().unwrap();

    // A cell has them as files: the table is one, too.
    let table = root().join("bindings/scenarios.txt");
    p.ok(&["store", "put", table.to_str().unwrap(), "doors/", "--site", "edge"]);
    let program = compile("scenarios", &[root().join("tests/programs/scenarios.c")]);
    let ran = p.ok(&["run", "--site", "edge", program.to_str().unwrap(), "--", "/doors"]);
    assert_eq!(ran.lines().collect::<Vec<_>>(), table::of(table::CELLS));
}
