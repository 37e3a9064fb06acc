//! Programs at an edge site that are no cells: they map the site's objects through its agent's socket, as C and Python have it.
//!
//! The library is the one that was built with these tests; the Python package is taken from the tree.

use crate::platform::{CLOUDSKIN, Platform, root, run};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

/// The C library of this build, as `bindings/c/tests/doors.rs` has it.
fn library() -> PathBuf {
    let folder = Path::new(CLOUDSKIN).parent().unwrap();
    let found = ["deps", "."].map(|place| folder.join(place).join("libcloudskin_geds.so")).into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no libcloudskin_geds.so in {}: build the whole workspace", folder.display()))
}

/// A Python program that is attached to a site's agent. It answers each expression that it is told.
struct Python {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Python {
    fn attached(folder: &Path) -> Python {
        let script = "
import hashlib, sys
import cloudskin_geds as geds
store, kept = geds.Store(sys.argv[1]), {}
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
store.close()";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(folder)
            .env("PYTHONPATH", root().join("bindings/python"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("CLOUDSKIN_GEDS_LIBRARY", library())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Python { child, answers }
    }

    fn says(&mut self, expression: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{expression}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "{expression}: Python has ended");
        answer.trim_end().to_string()
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

const READER: &str = r#"
#include <cloudskin_geds.h>
#include <stdio.h>
int main(int argc, char **argv) {
    if (argc != 4) return 2;
    geds_store *store = geds_attach(argv[1]);
    geds_object *object = store ? geds_get(store, argv[2], argv[3]) : NULL;
    if (!object) { fprintf(stderr, "%s\n", geds_message()); return 1; }
    fwrite(geds_data(object), 1, geds_len(object), stdout);
    geds_release(object);
    return geds_close(store);
}
"#;

#[test]
fn a_program_beside_the_agent_reads_and_writes_the_sites_objects_in_place() {
    let platform = Platform::start();
    let put = |object: &str, content: &[u8], site: &str| {
        let file = platform.data().join("to-put");
        std::fs::write(&file, content).unwrap();
        platform.ok(&["store", "put", file.to_str().unwrap(), object, "--site", site]);
    };
    let mut large = vec![0; 3 << 20];
    StdRng::seed_from_u64(7).fill_bytes(&mut large);
    put("data/small", b"first", "edge");
    put("data/large", &large, "edge");
    put("data/afar", b"of the cloud", "cloud");

    let edge = platform.data().join("edge");
    let mut python = Python::attached(&edge);
    assert_eq!(python.says("bytes(kept.setdefault('small', store.get('data', 'small').view))"), "b'first'");
    let sum: String = Sha256::digest(&large).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(python.says("hashlib.sha256(kept.setdefault('large', store.get('data', 'large').view)).hexdigest()"), format!("'{sum}'"));
    // What it reads is the site's own file.
    assert_eq!(python.says("any('/edge/objects/' in line for line in open('/proc/self/maps'))"), "True");
    assert_eq!(python.says("bytes(store.get('data', 'afar').view)"), "b'of the cloud'", "the agent fetches it");
    assert_eq!(python.says("[name for name, _ in store.list('data')]"), "['afar', 'large', 'small']");

    // Written again through the hub: the next open sees it, and what is open stays.
    put("data/small", b"second", "edge");
    assert_eq!(python.says("bytes(store.get('data', 'small').view)"), "b'second'");
    assert_eq!(python.says("bytes(kept['small'])"), "b'first'");

    // What a program has written is the site's when the program is gone.
    assert_eq!(python.says("store.put('made', 'by/python', b'at the edge')"), "None");

    // The agent is killed: what is open is still there, and the next life is found.
    platform.kill("edge");
    assert_eq!(python.says("hashlib.sha256(kept['large']).hexdigest()"), format!("'{sum}'"));
    platform.wait("the edge to be back", |p| p.pid_now("edge").is_some() && p.json(&["get", "sites"]).as_array().unwrap().iter().all(|s| s["state"] == "ready"));
    assert_eq!(python.says("bytes(store.get('data', 'small').view)"), "b'second'");
    python.end();

    let got = platform.data().join("got");
    platform.ok(&["store", "get", "made/by/python", got.to_str().unwrap()]);
    assert_eq!(std::fs::read(&got).unwrap(), b"at the edge");
    assert_eq!(platform.json(&["store", "ls", "made"])[0]["sites"], serde_json::json!(["edge"]));

    // The same from C.
    let (source, program, library) = (platform.data().join("reader.c"), platform.data().join("reader"), library());
    std::fs::write(&source, READER).unwrap();
    let rpath = format!("-Wl,-rpath,{}", library.parent().unwrap().display());
    run(Command::new("cc").args(["-std=c99", "-Wall", "-Werror", "-I"]).arg(root().join("bindings/c/include")).arg(&source).arg("-o").arg(&program).arg(&library).arg(rpath));
    let read = Command::new(&program).arg(&edge).args(["data", "large"]).output().unwrap();
    assert!(read.status.success() && read.stdout == large, "{} bytes; {}", read.stdout.len(), String::from_utf8_lossy(&read.stderr));
}
