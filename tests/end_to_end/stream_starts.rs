//! How a stream server starts, and what is said to those who start it, or speak to it, in another way than they meant.

use crate::faults::{refused, says};
use crate::platform::{CLOUDSKIN, run};
use crate::streams::{Server, curl, http, serve, until};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a server says on its standard error, and its code, that is started with these options and must end by itself.
fn start(folder: &Path, options: &[&str]) -> (String, i32) {
    let mut command = Command::new(CLOUDSKIN);
    command.args(["stream", "serve", "--controller", "127.0.0.1:0", "--segments", "127.0.0.1:0", "--folder"]).arg(folder);
    refused(command.args(options).env_remove("CLOUDSKIN_GEDS__PERSIST"))
}

fn told(server: &Server) -> Value {
    serde_json::from_slice(&curl(&format!("{}/v1/streams", http(&server.folder.path().join("streams"))))).unwrap_or_default()
}

fn log(server: &Server) -> String {
    std::fs::read_to_string(server.folder.path().join("log")).unwrap()
}

#[test]
fn a_start_that_was_not_meant_so_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("new");
    let check = |options: &[&str], code: i32, parts: &[&str]| {
        let (said, ended) = start(&new, options);
        says(&said, parts);
        assert_eq!(ended, code, "{options:?}: {said}");
    };
    for host in ["foo bar", "edge-7:12345", ""] {
        let out = Command::new(CLOUDSKIN).args(["stream", "serve", "--publish", host, "--folder"]).arg(&new).output().unwrap();
        says(&String::from_utf8_lossy(&out.stderr), &["--publish", "a host's name or address alone"]);
        assert_eq!(out.status.code(), Some(64));
    }
    for store in ["nonsense", "s3://bucket/path", "ftp://there"] {
        check(&["--long-term", store], 64, &["--long-term", store, "s3://<bucket>"]);
    }
    let users = folder.path().join("users");
    std::fs::write(&users, "").unwrap();
    let users = users.to_str().unwrap();
    check(&["--users", users], 64, &[users, "stream user"]);
    check(&["--users", users, "--token-life", "0s"], 64, &["--token-life 0s", "1s at least"]);
    // The log's own folder, whatever it is called.
    std::fs::create_dir_all(&new).unwrap();
    let same = folder.path().join("same");
    std::os::unix::fs::symlink(&new, &same).unwrap();
    check(&["--overflow", same.to_str().unwrap(), "--overflow-limit", "1GB"], 64, &["--overflow", "the log's own folder"]);

    // A folder of something else, which others may enter. Who has shut it means it.
    let mixed = folder.path().join("mixed");
    std::fs::create_dir(&mixed).unwrap();
    std::fs::write(mixed.join("photo"), "").unwrap();
    std::fs::set_permissions(&mixed, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (said, code) = start(&mixed, &[]);
    says(&said, &[mixed.to_str().unwrap(), "mode 755", "chmod 700", "--folder"]);
    assert_eq!(code, 77, "{said}");
    assert_eq!(std::fs::read_dir(&mixed).unwrap().count(), 1);
    std::fs::set_permissions(&mixed, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::rename(&mixed, folder.path().join("streams")).unwrap();
    let (mut child, _) = serve(folder.path(), &["127.0.0.1:0".into(), "127.0.0.1:0".into()], &[]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn who_speaks_to_a_server_in_another_way_is_told() {
    let server = Server::start(&[]);
    let check = |args: &[&str], code: i32, parts: &[&str]| {
        let (said, ended) = refused(Command::new(CLOUDSKIN).arg("stream").args(args).stdin(Stdio::null()));
        says(&said, parts);
        assert_eq!(ended, code, "{args:?}: {said}");
    };
    let at = &server.ports[0];
    check(&["ls", "--server", &format!("http://{at}")], 64, &["host and port of the controller", "127.0.0.1:9090"]);
    let none = server.folder.path().join("none.pem");
    std::fs::write(&none, "nothing").unwrap();
    check(&["ls", "--server", at, "--ca", none.to_str().unwrap()], 64, &["BEGIN CERTIFICATE"]);
    check(&["ls", "", "--server", at], 64, &["the scope's name is empty"]);
    // What was there already is not made anew: all segments would end for it.
    run(&mut server.cli(&["create", "s/even", "--segments", "2"]));
    let segments = || run(&mut server.cli(&["stat", "s/even", "-o", "json"])).matches("\"segment\"").count();
    assert_eq!(run(&mut server.cli(&["scale", "s/even", "2"])), "s/even: 2 segments\n");
    let before = segments();
    assert_eq!(before, 2);
    run(&mut server.cli(&["scale", "s/even", "3"]));
    assert_eq!(segments(), before + 3);
    // Bytes that are no text lose nothing on their way to a program.
    let mut child = server.cli(&["append", "s/even", "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\xff\xfe\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(serde_json::from_str::<Value>(&run(&mut server.cli(&["read", "s/even", "-o", "json"]))).unwrap()["base64"], "//4=");
}

#[test]
fn addresses_of_ipv6_are_reached_as_they_are_told() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("this machine has no IPv6: not tried");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let any = ["[::1]:0".to_string(), "[::1]:0".to_string()];
    let (child, ports) = serve(folder.path(), &any, &[]);
    let server = Server { folder, child, ports };
    run(&mut server.cli(&["create", "s/six"]));
    let told = tokio::runtime::Runtime::new().unwrap().block_on(async { ::streams::Client::connect(&server.ports[0]).await.unwrap().segments_at("s", "six").await.unwrap() });
    assert_eq!(told, server.ports[1], "a port can be put behind it");
    let mut child = server.cli(&["append", "s/six"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"one\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(run(&mut server.cli(&["read", "s/six"])), "one\n");
}

#[test]
fn storage_that_does_not_answer_is_told_of_within_seconds() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let environment = [
        ("CLOUDSKIN_GEDS__S3_ENDPOINT", format!("http://{nobody}")),
        ("CLOUDSKIN_GEDS__S3_ALLOW_HTTP", "true".into()),
        ("CLOUDSKIN_GEDS__S3_ACCESS_KEY", "key".into()),
        ("CLOUDSKIN_GEDS__S3_SECRET_KEY", "secret".into()),
    ];
    let server = Server::start_with(&["--http", "127.0.0.1:0", "--long-term", "s3://bucket"], &environment);
    let began = Instant::now();
    until("it to be missed", || told(&server)["long_term"]["away"] == true);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    says(&log(&server), &["long-term storage is away", "s3:bucket has not answered for 3s", &format!("http://{nobody}: Connection refused")]);
    until("its cause", || told(&server)["long_term"]["away_because"].as_str().is_some_and(|why| why.contains("Connection refused")));
    // And not with each try.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(log(&server).matches("long-term storage is away").count(), 1, "{}", log(&server));
}

#[test]
fn a_new_log_beside_those_of_others_says_so_and_a_restore_tells_which_there_are() {
    let storage = tempfile::tempdir().unwrap();
    let long_term = format!("file:{}", storage.path().display());
    let options = ["--http", "127.0.0.1:0", "--long-term", &long_term];
    let written = |server: &Server| storage.path().join("streams").join(told(server)["log"].as_str().unwrap()).join("manifest").exists();
    let mut first = Server::start(&options);
    until("its manifest", || written(&first));
    let second = Server::start(&options);
    until("its manifest", || written(&second));
    assert!(!log(&first).contains("streams of others"), "{}", log(&first));
    says(&log(&second), &["streams of others", "--restore"]);
    first.kill_and_restart(&options);
    std::thread::sleep(Duration::from_secs(1));
    assert!(!log(&first).contains("streams of others"), "{}", log(&first));
    let new = storage.path().join("new");
    let (said, code) = start(&new, &["--long-term", &long_term, "--restore"]);
    let year = "last written 20";
    says(&said, &["several logs", "--restore LOG", year, told(&first)["log"].as_str().unwrap(), told(&second)["log"].as_str().unwrap()]);
    assert_eq!((said.matches(year).count(), code), (2, 73), "{said}");
    // A folder that has a log is refused before there is a choice.
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let (said, code) = start(&first.folder.path().join("streams"), &["--long-term", &long_term, "--restore"]);
    says(&said, &["already", "without --restore"]);
    assert_eq!(code, 73, "{said}");
}

#[test]
fn a_start_with_other_long_term_storage_than_before_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |folder: &tempfile::TempDir| format!("file:{}", folder.path().display());
    let options = ["--http", "127.0.0.1:0", "--long-term", &at(&one)];
    // The other one was begun with once, by mistake, before there was anything.
    let mut server = Server::start(&["--http", "127.0.0.1:0", "--long-term", &at(&other)]);
    until("its manifest", || other.path().join("streams").join(told(&server)["log"].as_str().unwrap()).join("manifest").exists());
    let there = || run(Command::new("find").arg(other.path()).arg("-type").arg("f"));
    server.kill_and_restart(&options);
    let before = there();
    run(&mut server.cli(&["create", "s/kept"]));
    let lines = format!("{}\n", "x".repeat(1_000_000)).repeat(6);
    let mut child = server.cli(&["append", "s/kept", "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    until("a flush", || told(&server)["long_term"]["flushed_bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    let name = told(&server)["log"].as_str().unwrap().to_string();
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let streams = server.folder.path().join("streams");
    for options in [&["--long-term", &at(&other)][..], &[]] {
        let (said, code) = start(&streams, options);
        says(&said, &["has not what this folder's log", &name, "start with that one", &format!("copy streams/{name}")]);
        assert_eq!(code, 73, "{said}");
    }
    assert_eq!(there(), before, "something was brought there");
    server.kill_and_restart(&options);
    assert!(run(&mut server.cli(&["read", "s/kept"])) == lines);
    // Moved as the error says.
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    run(Command::new("cp").arg("-r").arg(one.path().join("streams")).arg(other.path()));
    server.kill_and_restart(&["--http", "127.0.0.1:0", "--long-term", &at(&other)]);
    one.close().unwrap();
    assert!(run(&mut server.cli(&["read", "s/kept"])) == lines);
}

#[test]
fn an_append_whose_server_is_silent_says_that_it_waits() {
    let server = Server::start(&[]);
    run(&mut server.cli(&["create", "s/waits"]));
    let mut child = server.cli(&["append", "s/waits", "--key", "k"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"first\n").unwrap();
    until("the first line", || run(&mut server.cli(&["read", "s/waits"])) == "first\n");
    let signal = |name: &str| run(Command::new("kill").args([name, &server.child.id().to_string()]));
    signal("-STOP");
    input.write_all(b"second\n").unwrap();
    drop(input);
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    says(&said, &["acknowledges nothing", "waiting=1"]);
    signal("-CONT");
    let ended = child.wait_with_output().unwrap();
    assert_eq!((String::from_utf8_lossy(&ended.stdout).as_ref(), ended.status.code()), ("s/waits: 2 events\n", Some(0)));
    assert_eq!(run(&mut server.cli(&["read", "s/waits"])), "first\nsecond\n");
}
