//! The store from other languages: a program in C against the header and the library, and the Python package as pip installs it.

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
    if library.exists() { library } else { beside }
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
