//! Small things that a user meets: names with dots, empty files, whole buckets, a reader that goes away, a stop in the middle of work.

use crate::platform::{CLOUDSKIN, Platform, both, compile, root};
use serde_json::json;
use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

/// `cloudskin up`, started by a test. Dropped, it ends.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn objects_are_named_as_they_are_typed() {
    let p = Platform::start();
    let file = |name: &str, bytes: &[u8]| {
        let path = p.data().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let (empty, full) = (file("empty", b""), file("full", b"ten bytes."));
    p.ok(&["store", "put", text(&full), "data/x"]);
    // What a URL would tidy up is refused, and touches nothing.
    for bad in [&["rm", "data/../x"][..], &["rm", "-r", "data/y/.."], &["get", "data/./x"], &["stat", "other/../data/x"], &["mv", "data/x", "data/../y"], &["spill", "data/../x"], &["ls", "data/.."]] {
        let (said, code) = p.fails(&[&["store"], bad].concat());
        assert!(code == 64 && said.contains("is not valid"), "{bad:?}: {code}: {said}");
    }
    assert!(p.ok(&["store", "ls", "data"]).contains("x "), "it is still there");
    for bytes in [&empty, &full] {
        p.ok(&["store", "put", "--if-absent", text(bytes), "data/once"]);
        let (said, code) = p.fails(&["store", "put", "--if-absent", text(&empty), "data/once"]);
        assert!(code == 73 && said.contains("data/once"), "{code}: {said}");
        p.ok(&["store", "rm", "data/once"]);
    }
    // All of a bucket.
    let said = p.ok(&["store", "cp", "data/", "copy/"]);
    assert!(said.contains("data/: 1 object (") && said.contains("is also at copy/"), "{said}");
    p.ok(&["store", "cp", "data/x", "copy/old/"]);
    p.ok(&["store", "mv", "copy/", "moved/"]);
    assert!(p.ok(&["store", "spill", "moved/"]).contains("moved to the persistency tier"), "spilled");
    assert!(p.ok(&["store", "ls", "moved"]).lines().skip(1).all(|l| l.contains("persisted")), "spilled");
    let keys = p.json(&["store", "ls", "moved"]);
    let keys: Vec<&str> = keys.as_array().unwrap().iter().map(|o| o["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["old/x", "x"]);
    let (said, code) = p.fails(&["store", "rm", "moved/"]);
    assert!(code == 64 && said.contains("store rm -r moved/"), "{said}");
    assert!(p.ok(&["store", "rm", "-r", "moved/"]).contains("2 objects ("), "removed");
    let (said, _) = p.fails(&["store", "ls", "nope"]);
    assert!(said.contains("cloudskin store put FILE nope/"), "{said}");
    let (said, code) = p.fails(&["store", "put", text(&p.data().join("none")), "data/none"]);
    assert!(code == 66 && said.contains("No such file") && !said.contains("os error"), "{said}");
}

#[test]
fn a_compiler_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let check = |args: &[&str], parts: &[&str]| {
        let output = Command::new(CLOUDSKIN).args(args).current_dir(folder.path()).output().unwrap();
        let said = both(&output);
        assert!(!output.status.success() && parts.iter().all(|p| said.contains(p)) && !said.contains("os error"), "{args:?}: {}: {said}", output.status);
        assert!(!folder.path().join("prog.wasm").exists(), "{args:?} makes no program");
    };
    std::fs::write(folder.path().join("part.c"), "int part(int a) { return a + 1; }").unwrap();
    std::fs::write(folder.path().join("part.cc"), "int part(int a) { return a + 1; }").unwrap();
    check(&["cc", "part.c", "-o", "prog.wasm"], &["undefined symbol: main"]);
    check(&["c++", "part.cc", "-o", "prog.wasm"], &["undefined symbol: main"]);
    check(&["cc", "nofile.c", "-o", "prog.wasm"], &["nofile.c: No such file or directory"]);
    // Another compiler would make other code, under this one's name.
    let zig = folder.path().join("zig");
    std::fs::write(&zig, "#!/bin/sh\necho 0.13.0\n").unwrap();
    std::fs::set_permissions(&zig, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new(CLOUDSKIN).args(["cc", "-c", "part.c"]).current_dir(folder.path()).env("CLOUDSKIN_ZIG", &zig).output().unwrap();
    let said = both(&output);
    let parts = [zig.to_str().unwrap(), "zig 0.13.0", "needs zig 0.17.1", "CLOUDSKIN_ZIG"];
    assert!(!output.status.success() && parts.iter().all(|p| said.contains(p)) && !folder.path().join("part.o").exists(), "{said}");
    // A library needs none.
    let output = Command::new(CLOUDSKIN).args(["cc", "-c", "part.c"]).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", both(&output));
}

/// As hpcc's does. Whether `main` has arguments or none, and whether the archive has a path or is one of `-l`.
#[test]
fn a_program_may_begin_in_an_archive() {
    let folder = tempfile::tempdir().unwrap();
    let ok = |program: &Path, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", both(&output));
        both(&output)
    };
    let tool = |args: &[&str]| ok(Path::new(CLOUDSKIN), args);
    std::fs::write(folder.path().join("with.c"), "#include <stdio.h>\nint part(void); int main(int n, char **words) { printf(\"%d %s\\n\", part() + n, words[1]); return 0; }").unwrap();
    std::fs::write(folder.path().join("without.c"), "#include <stdio.h>\nint part(void); int main(void) { printf(\"%d\\n\", part()); return 0; }").unwrap();
    std::fs::write(folder.path().join("part.c"), "int part(void) { return 40; }").unwrap();
    tool(&["cc", "-c", "with.c", "without.c", "part.c"]);
    tool(&["ar", "rc", "libwith.a", "part.o", "with.o"]);
    tool(&["ar", "rc", "libwithout.a", "without.o"]);
    tool(&["cc", "-o", "prog", "libwith.a"]);
    assert_eq!(ok(&folder.path().join("prog"), &["words"]), "42 words\n");
    tool(&["cc", "-o", "prog", "part.o", "-L.", "-lwithout"]);
    assert_eq!(ok(&folder.path().join("prog"), &[]), "40\n");
    // Where an object has it, that one is it.
    tool(&["cc", "-o", "prog", "without.o", "-L.", "-lwith"]);
    assert_eq!(ok(&folder.path().join("prog"), &[]), "40\n");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    for shell in ["bash", "zsh", "fish"] {
        let mut child = Command::new(CLOUDSKIN).args(["completions", shell]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {}", both(&output));
    }
}

#[test]
fn a_platform_that_is_stopped_says_what_becomes_of_its_jobs() {
    let p = Platform::start();
    let forever = compile("faults_forever", &[root().join("tests/programs/faults/forever.c")]);
    let (said, code) = p.fails(&["run", "--memory-max", "100KiB", text(&forever)]);
    assert!(code == 64 && said.contains("--memory-max is 100.0 KiB"), "{said}");
    assert_eq!(p.json(&["get", "jobs"]), json!([]), "nothing was started");

    let steps = compile("faults_steps", &[root().join("tests/programs/faults/steps.c")]);
    let begin = |site: &str| p.submit(&steps, &["--site", site], &["/out/steps", "1000000"]);
    let (without, with) = (begin("edge"), begin("cloud"));
    for job in [&without, &with] {
        p.wait("the jobs to run", |p| p.job(job)["state"] == "running");
    }
    p.ok(&["checkpoint", &with]);
    let list = p.json(&["get", "checkpoints"]);
    assert_eq!((&list[0]["id"], &list[0]["copies"]), (&json!(1), &json!(2)), "{list:#}");
    assert!(p.ok(&["describe", "job", &with]).contains("the last is 1, "), "it is described");

    // A stored checkpoint is fetched, begun from and removed by its number.
    let file = p.data().join("one.snapshot");
    p.ok(&["checkpoint", "1", "--out", text(&file)]);
    assert!(file.metadata().unwrap().len() > 1000);
    let third = p.json(&["restore", "1", "--site", "cloud"])["id"].as_str().unwrap().to_string();
    p.wait("the restored job to run", |p| p.job(&third)["state"] == "running");
    p.ok(&["cancel", &third]);
    p.ended(&third);
    let said = p.ok(&["cancel", &third]);
    assert!(said.contains("nothing to cancel") && said.contains("cancelled"), "{said}");
    let running = p.json(&["get", "jobs", "--state", "running"]);
    assert_eq!(running.as_array().unwrap().len(), 2, "{running:#}");
    let (said, code) = p.fails(&["checkpoint", "1"]);
    assert!(code == 64 && said.contains("--rm"), "{said}");

    let said = p.ok(&["down"]);
    assert!(said.contains(&format!("{with} runs; at the next start it goes on from its last checkpoint")), "{said}");
    assert!(said.contains(&format!("{without} runs and has no checkpoint")), "{said}");
    let mut up = p.command(&["up", "--no-streams", "--http", "127.0.0.1:0"]);
    let _up = Up(up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    p.wait("the platform to be up again", |p| p.data().join("up.json").exists());
    let ended = p.ended(&without);
    assert!(ended["reason"].as_str().unwrap().contains("the platform was stopped"), "{ended:#}");
    p.wait("the other to go on", |p| p.job(&with)["state"] == "running" && p.job(&with)["restarts"] == 1);
    assert!(p.ok(&["checkpoint", "1", "--rm"]).contains("removed"));
    assert_eq!(p.json(&["get", "checkpoints"]), json!([]));
}
