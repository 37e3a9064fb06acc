//! The store from other languages: a program in C against the header and the library, the Python package as pip installs it, and the jar.

use base::{SiteId, unit::Bytes};
use geds::{BucketName, Key, Shared, SharedOptions};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The C library that was built with this test.
fn library() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let library = deps.parent().unwrap().with_file_name("libcloudskin_geds.so");
    let beside = deps.with_file_name("libcloudskin_geds.so");
    // The other one is that of the last `cargo build`.
    if beside.exists() { beside } else { library }
}

fn succeeds(command: &mut Command) {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = [&done.stdout[..], &done.stderr[..]].map(String::from_utf8_lossy).join("\n");
    assert!(done.status.success(), "{command:?}: {}\n{said}", done.status);
}

#[test]
fn a_program_in_c() {
    let (temp, here) = (tempfile::tempdir().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")));
    let (program, library) = (temp.path().join("scenario"), library());
    succeeds(
        Command::new("cc")
            .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-I"])
            .arg(here.join("include"))
            .arg(here.join("tests/scenario.c"))
            .arg("-o")
            .arg(&program)
            .arg(&library)
            .arg(format!("-Wl,-rpath,{}", library.parent().unwrap().display())),
    );
    succeeds(Command::new(&program).arg(temp.path().join("store")));
    succeeds(Command::new(&program).arg(temp.path().join("shared")).arg("attached"));
}

#[test]
fn the_python_package_as_it_is_installed() {
    let temp = tempfile::tempdir().unwrap();
    let python = root().join(".setup/venv/bin/python");
    assert!(python.exists(), "{} is missing: run setup/setup.sh test", python.display());
    // Built from a copy, so that nothing is left in the tree.
    let (copy, wheels, site) = (temp.path().join("python"), temp.path().join("wheels"), temp.path().join("site"));
    succeeds(Command::new("cp").arg("-r").arg(root().join("bindings/python")).arg(&copy));
    let pip = || {
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "--disable-pip-version-check"]).env("CLOUDSKIN_GEDS_LIBRARY", library());
        pip
    };
    succeeds(pip().args(["wheel", "--no-deps", "--no-build-isolation", "-w"]).arg(&wheels).arg(&copy));
    let wheel = std::fs::read_dir(&wheels).unwrap().next().unwrap().unwrap().path();
    let name = wheel.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.contains("-py3-none-linux"), "{name}: any Python 3 of this kind of machine");
    succeeds(pip().args(["install", "--no-deps", "--no-index", "--target"]).arg(&site).arg(&wheel));
    let mut tests = Command::new(&python);
    tests.args(["-m", "unittest", "discover", "-s"]).arg(copy.join("tests")).env("PYTHONPATH", &site).current_dir(temp.path());
    succeeds(&mut tests);
}

/// The jar, with the library of this build in it, and what runs a class of its tests.
fn java(folder: &Path, hadoop: Option<&Path>, class: &str) -> Command {
    let (java, jar) = (root().join("bindings/java"), folder.join("cloudskin-geds.jar"));
    let mut build = Command::new(java.join("build.sh"));
    succeeds(build.arg(&jar).arg(library()).args(hadoop));
    let classes = folder.join("classes");
    let mut path = jar.into_os_string();
    if let Some(hadoop) = hadoop {
        path.push(":");
        path.push(hadoop.join("*"));
    }
    succeeds(Command::new("javac").args(["-Xlint:all,-processing", "-Werror", "-cp"]).arg(&path).arg("-d").arg(&classes).arg(java.join(format!("tests/{class}.java"))));
    path.push(":");
    path.push(&classes);
    let mut run = Command::new("java");
    // Nothing of the environment: the library is the jar's own.
    run.args(["-Xmx256m", "-Xcheck:jni", "-cp"]).arg(path).arg(class).env_remove("CLOUDSKIN_GEDS_LIBRARY").current_dir(folder);
    run
}

#[test]
fn the_jar_of_java() {
    let temp = tempfile::tempdir().unwrap();
    let mut alone = java(temp.path(), None, "Scenario");
    let done = alone.arg(temp.path().join("store")).output().unwrap();
    let said = [&done.stdout[..], &done.stderr[..]].map(String::from_utf8_lossy).concat();
    assert!(done.status.success() && said.is_empty(), "{}: {said}", done.status);
    succeeds(java(temp.path(), None, "Scenario").arg(temp.path().join("shared")).arg("attached"));
}

#[test]
fn the_store_as_a_hadoop_file_system() {
    if let Ok(left_out) = std::fs::read_to_string(root().join(".setup/without-hadoop")) {
        return eprintln!("NOT RUN: {}", left_out.trim());
    }
    let hadoop = root().join(".setup/hadoop");
    assert!(hadoop.exists(), "{} is missing: run setup/setup.sh test", hadoop.display());
    let temp = tempfile::tempdir().unwrap();
    succeeds(java(temp.path(), Some(&hadoop), "HadoopScenario").arg(temp.path().join("store")));
    // What is asked of it is what Hadoop's own file system does.
    succeeds(java(temp.path(), Some(&hadoop), "HadoopScenario").arg(temp.path().join("local")).arg("local"));
}

#[test]
fn processes_share_a_store_and_take_over_from_each_other() {
    let temp = tempfile::tempdir().unwrap();
    let open = |site: &str| {
        let options = SharedOptions { folder: temp.path().into(), site: SiteId::new(site).unwrap(), limit: Bytes(64 << 20), memory: None };
        Shared::open(options).unwrap()
    };
    let (bucket, key) = (BucketName::new("data").unwrap(), |name: &str| Key::new(name).unwrap());
    let put = |store: &Shared, name: &str, content: &[u8]| {
        let mut writer = store.blocking().create(&bucket, &key(name)).unwrap();
        writer.write_at(0, content).unwrap();
        writer.seal_blocking().unwrap();
    };
    let first = open("first");
    first.blocking().create_bucket(&bucket).unwrap();
    let second = open("second");
    put(&first, "a", b"of the first");
    put(&second, "b", b"of the second");
    assert_eq!(second.blocking().open(&bucket, &key("a")).unwrap().bytes(), b"of the first");
    assert_eq!(first.blocking().open(&bucket, &key("b")).unwrap().bytes(), b"of the second");
    // The first is the namenode. With it gone the second goes on, from the log.
    first.close().unwrap();
    put(&second, "c", b"after the first");
    assert_eq!(second.blocking().open(&bucket, &key("a")).unwrap().bytes(), b"of the first", "it was copied when it was read");
    let third = open("third");
    assert_eq!(third.blocking().open(&bucket, &key("c")).unwrap().bytes(), b"after the first");
    second.close().unwrap();
    let first = open("first");
    assert_eq!(first.blocking().open(&bucket, &key("a")).unwrap().bytes(), b"of the first");
    assert_eq!(third.blocking().stat(&bucket, &key("b")).unwrap().size, 13);
}
