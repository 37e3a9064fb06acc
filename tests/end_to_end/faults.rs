//! Bad input and faults: what the user is told, and that nothing else is harmed.

use crate::platform::{CLOUDSKIN, Platform, both, compile, program, root};
use base::identity::{Authority, Identity};
use serde_json::Value;
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A process that can't do its work has to say so within this time.
const SAY_MAX: Duration = Duration::from_secs(20);

fn fault(name: &str) -> PathBuf {
    compile(&format!("faults_{name}"), &[root().join("tests/programs/faults").join(name).with_extension("c")])
}

/// Runs what must fail, and gives what it said: one line that begins with `error: `.
pub fn refused(command: &mut Command) -> (String, i32) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + SAY_MAX;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("{command:?} goes on: {}", both(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let (text, code) = (both(&output), output.status.code().unwrap_or(-1));
    let errors: Vec<&str> = text.lines().filter(|l| !l.contains("cloudskin:")).collect();
    assert!(code > 0 && !text.contains("panicked") && errors.len() == 1 && errors[0].starts_with("error: "), "{command:?}: {code}: {text}");
    (errors[0].to_string(), code)
}

pub fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// A job at the edge that does nothing wrong while others do.
fn neighbour(p: &Platform) -> String {
    p.submit(&fault("steps"), &["--np", "2", "--site", "edge"], &["/out/neighbour", "200"])
}

fn unharmed(p: &Platform, job: &str) {
    let job = p.succeeded(job);
    assert_eq!((job["restarts"].as_u64(), job["exit_code"].as_i64()), (Some(0), Some(0)), "{job:#}");
    let sites = p.json(&["get", "sites"]);
    assert!(sites.as_array().unwrap().iter().all(|s| s["state"] == "ready"), "{sites:#}");
}

/// Runs a program that must fail, and gives what is known of its job, and what `cloudskin run` said of it.
fn fails(p: &Platform, module: &Path, options: &[&str], args: &[&str]) -> (Value, String, i32) {
    let before = p.json(&["get", "jobs"]).as_array().unwrap().len();
    let (said, code) = p.fails(&[&["run", "--site", "edge"], options, &[module.to_str().unwrap(), "--"], args].concat());
    let jobs = p.json(&["get", "jobs"]);
    let jobs = jobs.as_array().unwrap();
    assert_eq!(jobs.len(), before + 1, "{said}");
    let id = jobs.iter().max_by_key(|j| j["created_ms"].as_u64()).unwrap()["id"].as_str().unwrap();
    let job = p.job(id);
    assert!(said.contains(&format!("{id} failed: {}", job["reason"].as_str().unwrap())), "{said}");
    (job, said, code)
}

/// The names in a backtrace, from the inside out.
fn frames(job: &Value) -> Vec<&str> {
    job["backtrace"].as_str().unwrap().lines().map(|l| l.rsplit(": ").next().unwrap().trim()).collect()
}

#[test]
fn a_module_that_cannot_run_is_refused_when_it_is_submitted() {
    let p = Platform::start();
    let whole = std::fs::read(fault("steps")).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = p.data().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let check = |path: &Path, parts: &[&str], exit: i32| {
        let (said, code) = refused(&mut p.command(&["run", path.to_str().unwrap()]));
        says(&said, parts);
        says(&said, &[path.to_str().unwrap()]);
        assert_eq!(code, exit, "{said}");
    };
    check(&file("text.wasm", b"int main() { return 0; }"), &["not a WebAssembly module", "starts with the bytes", "cloudskin cc"], 64);
    check(&file("script.wasm", b"#!/bin/sh\n"), &["not a WebAssembly module", "script"], 64);
    check(&file("empty.wasm", b""), &["the file is empty"], 64);
    check(&file("native.wasm", &std::fs::read("/proc/self/exe").unwrap()[..100_000]), &["ELF", "cloudskin cc"], 64);
    let at = whole.windows(4).position(|w| w == b"\0asm").unwrap();
    for cut in [at + 9, at + 100, at + (whole.len() - at) / 2, whole.len() - 1] {
        check(&file("cut.wasm", &whole[..cut]), &["malformed module", "offset"], 64);
    }
    let large = p.data().join("large.wasm");
    std::fs::File::create(&large).unwrap().set_len(300 << 20).unwrap();
    check(&large, &["314572800 bytes", "268435456"], 64);
    check(&fault("needs"), &["function env.open_the_pod_bay_doors", "agents don't have"], 64);
    check(&p.data().join("nothing.wasm"), &["No such file"], 66);
    assert_eq!(p.json(&["get", "jobs"]), serde_json::json!([]), "nothing was started");
    unharmed(&p, &neighbour(&p));
}

#[test]
fn a_cell_that_fails_takes_only_its_job_along() {
    let p = Platform::start();
    let good = neighbour(&p);
    for (how, why) in [
        ("trap", "unreachable"),
        ("null", "uninitialized element"),
        ("bounds", "out of bounds memory access"),
        ("divide", "integer divide by zero"),
    ] {
        let (job, said, code) = fails(&p, &program("trap"), &["--np", "2"], &[how]);
        says(&said, &["rank 1 of 2 failed", why]);
        assert_eq!((code, &frames(&job)[..5]), (1, &["decode_cell", "decode_row", "decode_strip", "read_scene", "main"][..]), "{said}");
        let lines: Vec<&str> = said.lines().collect();
        let at = lines.iter().position(|l| l.contains(" failed: ")).unwrap();
        assert!(lines[at + 1].contains("the innermost call first") && lines[at + 2].contains("0: decode_cell"), "the backtrace follows what failed: {said}");
    }
    let (job, _, code) = fails(&p, &program("trap"), &["--np", "2"], &["stack"]);
    assert!(code == 1 && frames(&job)[0].starts_with("endless (and ") && frames(&job).len() < 10, "{job:#}");

    let (job, said, code) = fails(&p, &program("abort"), &["--np", "3"], &[]);
    says(&said, &["rank 1 of 3 failed: MPI_Abort with code 7"]);
    assert_eq!((code, job["exit_code"].as_i64(), job["backtrace"].as_str()), (7, Some(7), Some("")), "as mpirun ends: {said}");
    let (job, said, _) = fails(&p, &program("trap"), &["--np", "2"], &["abort"]);
    says(&said, &["rank 1 of 2 failed: it called abort()"]);
    assert_eq!(&frames(&job)[..2], &["abort", "decode_cell"], "{said}");

    let (job, said, code) = fails(&p, &fault("hog"), &["--memory-max", "64MiB"], &[]);
    assert_eq!((code, job["state"].as_str()), (1, Some("failed")), "{said}");
    let names = frames(&job);
    assert!(names.contains(&"must_have") && names.contains(&"load_tile"), "{said}");
    let (_, said, code) = fails(&p, &program("oom"), &["--memory-max", "64MiB"], &[]);
    assert_eq!(code, 3, "malloc answers NULL, which the program notices: {said}");
    unharmed(&p, &good);
}

#[test]
fn any_loop_can_be_ended() {
    let p = Platform::start();
    let good = neighbour(&p);
    for module in [fault("forever"), program("spin")] {
        let began = Instant::now();
        let (job, said, code) = fails(&p, &module, &["--time-max", "1s"], &[]);
        says(&said, &["longer than its time_max of 1s"]);
        assert!(code == 1 && job["state"] == "failed" && began.elapsed() < Duration::from_secs(6), "{said} after {:?}", began.elapsed());

        let id = p.submit(&module, &["--site", "edge"], &[]);
        p.wait("it to run", |p| p.job(&id)["state"] == "running");
        let began = Instant::now();
        p.ok(&["cancel", &id, "--reason", "it never ends"]);
        let job = p.ended(&id);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!((job["state"].as_str(), job["reason"].as_str()), (Some("cancelled"), Some("it never ends")));
    }
    unharmed(&p, &good);
}

#[test]
fn a_cell_sees_its_buckets_and_nothing_else() {
    let p = Platform::start();
    let file = p.data().join("secret");
    std::fs::write(&file, "secret").unwrap();
    p.ok(&["store", "put", file.to_str().unwrap(), "other/secret"]);
    let mine = p.data().join("mine");
    std::fs::write(&mine, "mine").unwrap();
    p.ok(&["store", "put", mine.to_str().unwrap(), "out/mine"]);
    let before = std::fs::read("/etc/passwd").unwrap();

    let outside = [
        "/etc/passwd", "../etc/passwd", "../..", "../../etc/passwd", "/out/../etc/passwd", "/out/../other/secret", "../other/secret", "/other/secret",
        "/proc/self/environ", "/", "//etc//passwd", file.to_str().unwrap(),
    ];
    let module = fault("peek");
    let told = p.ok(&[&["run", "--bucket", "out", module.to_str().unwrap(), "--"], &outside[..], &["mine", "/out/mine", "./mine"]].concat());
    let line = |path: &str, mode: &str| {
        let head = format!("{path} ({mode}): ");
        told.lines().find_map(|l| l.strip_prefix(&head)).unwrap_or_else(|| panic!("{head} is not in {told}")).to_string()
    };
    let denied = ["No such file or directory", "Capabilities insufficient", "Operation not permitted", "Permission denied", "Is a directory"];
    for path in outside {
        for mode in ["rb", "wb"] {
            let what = line(path, mode);
            assert!(denied.contains(&what.as_str()) || path == "/" && mode == "rb", "{path} ({mode}): {what}");
        }
    }
    for path in ["mine", "/out/mine", "./mine"] {
        assert_eq!(line(path, "rb"), "opened");
    }
    let keys = |bucket: &str| p.json(&["get", "buckets", bucket]).as_array().unwrap().iter().map(|o| o["key"].as_str().unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!((keys("out"), keys("other")), (vec!["mine".to_string()], vec!["secret".to_string()]), "nothing was written anywhere else");
    p.ok(&["store", "get", "other/secret", mine.to_str().unwrap()]);
    assert_eq!(std::fs::read(&mine).unwrap(), b"secret");
    assert_eq!(std::fs::read("/etc/passwd").unwrap(), before);
}

#[test]
fn a_snapshot_is_refused_if_damaged_and_goes_on_if_whole() {
    let p = Platform::start();
    let file = p.data().join("job.snapshot");
    let text = |p: &Path| p.to_str().unwrap().to_string();
    let got = |folder: &str| {
        [0, 1].map(|r| {
            let to = p.data().join("got");
            p.ok(&["store", "get", &format!("out/{folder}/rank-{r}.txt"), &text(&to)]);
            std::fs::read_to_string(to).unwrap()
        })
    };
    let job = p.submit(&fault("steps"), &["--np", "2", "--site", "edge"], &["/out/a", "150"]);
    p.wait("a third of the steps", |p| p.ok(&["logs", &job]).contains("rank 1 step 50 "));
    p.ok(&["checkpoint", &job, "--out", &text(&file)]);
    p.succeeded(&job);
    let (right, log) = (got("a"), [0, 1].map(|r| p.ok(&["logs", &job, "--rank", &r.to_string()])));

    let whole = std::fs::read(&file).unwrap();
    let version = u32::from_le_bytes(whole[8..12].try_into().unwrap());
    let damage = |bytes: &[u8], parts: &[&str]| {
        let path = p.data().join("damaged.snapshot");
        std::fs::write(&path, bytes).unwrap();
        let (said, code) = refused(&mut p.command(&["restore", &text(&path)]));
        says(&said, parts);
        says(&said, &[&text(&path)]);
        assert_eq!(code, 64, "{said}");
    };
    let (now, reads) = (format!("version {version}"), format!("reads {version}"));
    for at in [40, 1000, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        damage(&bytes, &["damaged", &now, &reads]);
    }
    damage(&whole[..whole.len() / 2], &["cut", &now, &reads]);
    damage(b"something else altogether", &["not a checkpoint"]);
    for other in [0u32, version + 1, 99] {
        let mut bytes = whole.clone();
        bytes[8..12].copy_from_slice(&other.to_le_bytes());
        damage(&bytes, &[&format!("version {other}"), &format!("version {version}")]);
    }
    assert_eq!(p.json(&["get", "jobs"]).as_array().unwrap().len(), 1, "nothing was started");

    // The files of the first run go, so that what is there afterwards is of the second.
    for r in [0, 1] {
        p.ok(&["store", "rm", &format!("out/a/rank-{r}.txt")]);
    }
    let told: Value = p.json(&["restore", &text(&file), "--site", "cloud"]);
    let again = told["id"].as_str().unwrap();
    p.succeeded(again);
    assert_eq!(got("a"), right, "the restored job wrote the same");
    for r in [0, 1] {
        let rest = p.ok(&["logs", again, "--rank", &r.to_string()]);
        let (note, rest) = rest.trim_start().split_once('\n').unwrap();
        assert!(note.contains("before the checkpoint"), "{note}");
        assert!(log[r].ends_with(rest) && rest.contains("done"), "it printed the rest: {rest}");
    }
}

#[test]
fn a_taken_port_and_a_folder_that_cannot_be_written_are_said_in_a_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, any) = (taken.local_addr().unwrap().to_string(), "127.0.0.1:0");
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let check = |args: &[&str], parts: &[&str], exit: i32| {
        let (said, code) = refused(Command::new(CLOUDSKIN).args(args));
        says(&said, parts);
        assert_eq!(code, exit, "{said}");
    };
    check(&["up", "--data", data, "--http", &port], &[&port, "taken", "--http", "port 0"], 73);
    check(&["up", "--data", data, "--http", any, "--grpc", &port], &[&port, "taken", "--grpc"], 73);
    check(&["up", "--detach", "--data", data, "--http", &port], &[&port, "taken", "--http"], 73);
    check(&["hub", "--data", data, "--http", &port, "--grpc", any], &[&port, "taken", "--http"], 73);
    check(&["hub", "--data", data, "--http", any, "--grpc", &port], &[&port, "taken", "--grpc"], 73);
    let agent = ["agent", "--site", "field", "--hub", &port];
    check(&[&agent[..], &["--data", data, "--listen", &port]].concat(), &[&port, "in use", "--listen"], 73);

    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("x");
    for bad in ["/proc/cloudskin", file.to_str().unwrap(), below.to_str().unwrap()] {
        for args in [&["up", "--http", any][..], &["hub", "--http", any, "--grpc", any], &agent] {
            check(&[args, &["--data", bad]].concat(), &[bad, "can't be written", "--data"], 77);
        }
    }
}

/// What others than the owner may do below a folder, and with it: nothing.
fn open_to_others(folder: &Path) -> Vec<String> {
    let about = folder.symlink_metadata().unwrap();
    let mode = about.permissions().mode() & 0o7777;
    let own = (mode & 0o077 != 0 && !about.is_symlink()).then(|| format!("{mode:o} {}", folder.display()));
    let below = about.is_dir().then(|| std::fs::read_dir(folder).unwrap().flatten().flat_map(|e| open_to_others(&e.path())));
    own.into_iter().chain(below.into_iter().flatten()).collect()
}

#[test]
fn what_a_platform_keeps_is_its_users_alone() {
    let folder = tempfile::tempdir().unwrap();
    let shared = |name: &str| {
        let data = folder.path().join(name);
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
        data
    };
    let run = |data: &Path, args: &[&str]| {
        let output = Command::new(CLOUDSKIN).args(args).env("CLOUDSKIN_DATA", data).env_remove("CLOUDSKIN_HUB").output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", both(&output));
        both(&output)
    };
    // A folder that was made beforehand, as `mkdir` makes it; the log of an older start is there, too.
    let data = shared("data");
    std::fs::create_dir(data.join("logs")).unwrap();
    std::fs::write(data.join("logs/up.log"), "").unwrap();
    std::fs::write(data.join("cloudskin.toml"), "").unwrap();
    std::fs::set_permissions(data.join("cloudskin.toml"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(data.join("logs"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let any = "127.0.0.1:0";
    let said = run(&data, &["up", "--detach", "--http", any, "--grpc", any, "--streams", any]);
    assert!(said.contains("token="), "{said}");
    let steps = fault("steps");
    run(&data, &["store", "put", steps.to_str().unwrap(), "data/one", "--site", "edge"]);
    run(&data, &["run", "--site", "edge", steps.to_str().unwrap(), "--", "/out/steps", "3"]);
    run(&data, &["store", "spill", "data/one"]);
    let open = open_to_others(&data);
    run(&data, &["down"]);
    for part in ["logs/up.log", "hub/token", "hub/hub.sqlite", "hub/logs/job-1/all.log", "edge/cache", "bucket-store", "streams"] {
        assert!(data.join(part).exists(), "{part} is not where it was");
    }
    assert_eq!(open, Vec::<String>::new(), "others may look into these");

    // One that has other things in it is the user's to shut.
    let mixed = shared("mixed");
    std::fs::write(mixed.join("photo"), "").unwrap();
    for args in [&["up", "--http", any][..], &["hub", "--http", any, "--grpc", any], &["agent", "--site", "field", "--hub", any]] {
        let (said, code) = refused(Command::new(CLOUDSKIN).args(args).arg("--data").arg(&mixed));
        says(&said, &[mixed.to_str().unwrap(), "mode 755", "chmod 700", "--data"]);
        assert_eq!(code, 77, "{said}");
    }
    assert_eq!(mixed.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    // And one for everybody stays so.
    std::fs::set_permissions(&mixed, std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::write(mixed.join("up.lock"), "").unwrap();
    let (said, _) = refused(Command::new(CLOUDSKIN).args(["up", "--http", any]).arg("--data").arg(&mixed));
    says(&said, &["can't be written", "everybody's", "--data"]);
    assert_eq!(mixed.metadata().unwrap().permissions().mode() & 0o7777, 0o1777);
}

#[test]
fn a_job_prints_on_the_two_streams_that_its_program_prints_on() {
    let p = Platform::start();
    let output = p.command(&["run", "--np", "2", "--site", "edge", fault("two_streams").to_str().unwrap()]).output().unwrap();
    let lines = |bytes: &[u8]| {
        let mut lines: Vec<String> = String::from_utf8_lossy(bytes).lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    assert_eq!((output.status.code(), lines(&output.stdout)), (Some(3), (0..2).map(|r| format!("result of rank {r}")).collect()), "{}", both(&output));
    let errors = lines(&output.stderr);
    for rank in 0..2 {
        assert!(errors.contains(&format!("warning of rank {rank}")), "{}", both(&output));
    }
    assert!(p.ok(&["logs", "job-1"]).lines().count() == 4, "what is read later is all of it");
}

#[test]
fn an_agent_that_does_not_belong_here_is_told_so() {
    let p = Platform::start();
    let up: Value = serde_json::from_slice(&std::fs::read(p.data().join("up.json")).unwrap()).unwrap();
    let hub = up["grpc"].as_str().unwrap();
    let join = p.json(&["site", "join", "field"]);
    let (token, pin) = (join["token"].as_str().unwrap(), join["ca_sha256"].as_str().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let agent = |name: &str, site: &str, more: &[&str], parts: &[&str]| {
        let data = folder.path().join(name);
        let args = ["agent", "--site", site, "--hub", hub, "--data", data.to_str().unwrap()];
        let (said, _) = refused(Command::new(CLOUDSKIN).args([&args, more].concat()));
        says(&said, parts);
    };
    agent("new", "field", &[], &["site field has no certificate", "--join", "cloudskin site join field"]);
    agent("new", "field", &["--join", "guess", "--ca-sha256", pin], &["join token is wrong, expired, used, or not for site field", "cloudskin site join field"]);
    agent("new", "moon", &["--join", token, "--ca-sha256", pin], &["not for site moon", "cloudskin site join moon"]);
    let wrong = "00".repeat(32);
    agent("new", "field", &["--join", token, "--ca-sha256", &wrong], &[hub, "SHA-256", &wrong, "--ca-sha256"]);

    let site = |name: &str| p.data().join(name).join("identity");
    let keep = |name: &str, identity: &Identity| identity.save(&folder.path().join(name).join("identity")).unwrap();
    keep("other", &Identity::load(&site("cloud")).unwrap());
    agent("other", "edge", &[], &["cloud.site.cloudskin", "not of site edge", "--data"]);

    // From another installation: it doesn't know this hub, nor, with this one's authority beside it, does this hub know it.
    let theirs = Authority::open(&folder.path().join("theirs")).unwrap();
    let mut foreign = theirs.issue("field.site.cloudskin").unwrap();
    keep("foreign", &foreign);
    let remedy = ["foreign or has expired", "join again", "cloudskin site join field", hub];
    agent("foreign", "field", &[], &remedy);
    foreign.ca_pem = Identity::load(&site("edge")).unwrap().ca_pem;
    keep("pretender", &foreign);
    agent("pretender", "field", &[], &remedy);

    // Ours, but of last year.
    let authority = p.data().join("hub/ca");
    let read = |name: &str| std::fs::read_to_string(authority.join(name)).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), rcgen::KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["field.site.cloudskin".to_string()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "field.site.cloudskin");
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    let cert_pem = params.signed_by(&key, &issuer).unwrap().pem();
    keep("expired", &Identity { cert_pem, key_pem: key.serialize_pem(), ca_pem: read("ca.pem") });
    agent("expired", "field", &[], &["field.site.cloudskin", "valid from", "2021", "join again"]);

    let sites = p.json(&["get", "sites"]);
    let names: Vec<&str> = sites.as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cloud", "edge"], "nobody came in");
    // The token was not spent by those that it was not for.
    let data = folder.path().join("right");
    let args = ["agent", "--site", "field", "--hub", hub, "--join", token, "--ca-sha256", pin, "--data", data.to_str().unwrap()];
    let mut right = Command::new(CLOUDSKIN).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    p.wait("the site that belongs here", |p| p.json(&["get", "sites"]).as_array().unwrap().iter().any(|s| s["name"] == "field" && s["state"] == "ready"));
    // Its name is its own now: another with a good certificate, but not this one, is told so and goes.
    let taken = p.fails(&["site", "join", "field"]);
    assert!(taken.1 == 73 && taken.0.contains("connected from 127.0.0.1:") && taken.0.contains("site join field --replace"), "{taken:?}");
    keep("namesake", &Authority::open(&p.data().join("hub/ca")).unwrap().issue("field.site.cloudskin").unwrap());
    agent("namesake", "field", &[], &["the hub refuses this agent: another agent is site \"field\"", "connected from 127.0.0.1:", "another name", "--replace"]);
    assert!(right.try_wait().unwrap().is_none(), "the one that belongs here has not noticed");
    let (said, code) = p.fails(&["site", "rm", "field"]);
    assert!(code == 73 && said.contains("end its agent first"), "{said}");
    // Replaced, the old one goes with a word, and its name is the new one's.
    let join = p.json(&["site", "join", "field", "--replace"]);
    let data = folder.path().join("new field");
    let args = ["agent", "--site", "field", "--hub", hub, "--join", join["token"].as_str().unwrap(), "--ca-sha256", pin, "--data", data.to_str().unwrap()];
    let mut new = Command::new(CLOUDSKIN).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(right.wait().unwrap().code(), Some(77));
    p.wait("the new agent", |p| p.json(&["get", "sites"]).as_array().unwrap().iter().any(|s| s["name"] == "field" && s["state"] == "ready"));
    new.kill().unwrap();
    new.wait().unwrap();
    p.wait("the site to be free", |p| p.command(&["site", "rm", "field"]).output().unwrap().status.success());
    let left = p.json(&["get", "sites"]);
    assert!(left.as_array().unwrap().iter().all(|s| s["name"] != "field" && s.get("history").is_none()), "{left:#}");
}
