//! The store through its doors: Rust's own, a program in C against the header and the library, the Python package as pip installs it, and the jar. What all of them do is said in `bindings/scenarios.txt`; what only one can
//! do is in a program of its own.

mod rust;
#[path = "../../scenarios.rs"]
mod scenarios;

use base::{SiteId, unit::Bytes};
use geds::{BucketName, Key, Shared, SharedOptions};
use std::{
    ffi::OsString,
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

/// Runs an interpreter of the table for a door. It has to name all scenarios that the door does, each when it is done.
fn interprets(door: &str, command: &mut Command) {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{door}: {}\n{said}{}", done.status, String::from_utf8_lossy(&done.stdout));
    let ran = String::from_utf8(done.stdout).unwrap();
    assert_eq!(ran.lines().collect::<Vec<_>>(), scenarios::of(door), "{door}: {said}");
}

fn table() -> PathBuf {
    root().join("bindings/scenarios.txt")
}

#[test]
fn rust_in_its_three_ways() {
    scenarios::check_table();
    let temp = tempfile::tempdir().unwrap();
    rust::doors(temp.path(), |name, door| scenarios::run(name, door));
}

#[test]
fn programs_in_c() {
    let (temp, here) = (tempfile::tempdir().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")));
    let library = library();
    let build = |name: &str| {
        let program = temp.path().join(name);
        succeeds(
            Command::new("cc")
                .args(["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-I"])
                .arg(here.join("include"))
                .arg(here.join("tests").join(name).with_extension("c"))
                .arg("-o")
                .arg(&program)
                .arg(&library)
                .arg(format!("-Wl,-rpath,{}", library.parent().unwrap().display())),
        );
        program
    };
    let steps = build("scenarios");
    for door in ["c", "c-attached"] {
        interprets(door, Command::new(&steps).arg(door).arg(table()).arg(temp.path().join(door)));
    }
    let handles = build("handles");
    succeeds(Command::new(&handles).arg(temp.path().join("store")));
    succeeds(Command::new(&handles).arg(temp.path().join("shared")).arg("attached"));
}

/// The package in a folder of its own, and a Python that has it.
struct Installed {
    temp: tempfile::TempDir,
}

impl Installed {
    fn python(&self) -> Command {
        let mut python = Command::new(root().join(".setup/venv/bin/python"));
        python.env("PYTHONPATH", self.temp.path().join("site")).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(self.temp.path());
        python
    }
}

fn python_package() -> Installed {
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
    Installed { temp }
}

#[test]
fn the_python_package_as_it_is_installed_and_the_examples() {
    let installed = python_package();
    let tests = installed.temp.path().join("python/tests");
    // Set-up says what this Python has no package of.
    let lacks = |package: &str| root().join(".setup").join(format!("without-{package}")).exists();
    let smart = Some("smart").filter(|_| !lacks("smart_open") && !lacks("wrapt"));
    for door in ["python", "python-attached", "fsspec"].into_iter().chain(smart) {
        interprets(door, installed.python().arg(tests.join("scenarios.py")).arg(door).arg(table()).arg(installed.temp.path().join(door)));
    }
    succeeds(installed.python().args(["-m", "unittest", "discover", "-s"]).arg(&tests));
    examples(&installed);
}

/// What users' programs look like: each with the store and with plain files, and each checks what it has read. What they say is printed, with their figures: `-- --nocapture`.
fn examples(installed: &Installed) {
    for (example, options, lines) in [
        ("train.py", &["--steps", "40", "--every", "4", "--size", "1048576", "--kill"][..], ["files    killed half-way: went on at step ", "objects  killed half-way: went on at step "]),
        ("shuffle.py", &["--workers", "2", "--parts", "8", "--size", "65536"][..], ["files    write", "objects  write"]),
    ] {
        let done = installed.python().arg(root().join("examples/geds").join(example)).args(options).output().unwrap();
        let said = [&done.stdout[..], &done.stderr[..]].map(String::from_utf8_lossy).concat();
        assert!(done.status.success(), "{example}: {}\n{said}", done.status);
        for line in lines {
            assert!(said.lines().any(|l| l.starts_with(line)), "{example}: {line:?} in {said}");
        }
        println!("{example} {}\n{said}", options.join(" "));
    }
}

/// The jar, with the library of this build in it, and classes of its tests.
struct Jar {
    folder: PathBuf,
    path: OsString,
}

impl Jar {
    fn build(folder: &Path, hadoop: Option<&Path>, classes: &[&str]) -> Jar {
        let (java, jar) = (root().join("bindings/java"), folder.join("cloudskin-geds.jar"));
        let mut build = Command::new(java.join("build.sh"));
        succeeds(build.arg(&jar).arg(library()).args(hadoop));
        let mut path = jar.into_os_string();
        if let Some(hadoop) = hadoop {
            path.push(":");
            path.push(hadoop.join("*"));
        }
        let into = folder.join("classes");
        let sources = classes.iter().map(|class| java.join(format!("tests/{class}.java")));
        succeeds(Command::new("javac").args(["-Xlint:all,-processing", "-Werror", "-cp"]).arg(&path).arg("-d").arg(&into).args(sources));
        path.push(":");
        path.push(&into);
        Jar { folder: folder.into(), path }
    }

    fn run(&self, class: &str) -> Command {
        let mut run = Command::new("java");
        // Nothing of the environment: the library is the jar's own.
        run.args(["-Xmx256m", "-Xcheck:jni", "-cp"]).arg(&self.path).arg(class).env_remove("CLOUDSKIN_GEDS_LIBRARY").current_dir(&self.folder);
        run
    }
}

#[test]
fn the_jar_of_java() {
    let temp = tempfile::tempdir().unwrap();
    let jar = Jar::build(temp.path(), None, &["Scenario", "Table", "Scenarios"]);
    let done = jar.run("Scenario").arg(temp.path().join("store")).output().unwrap();
    let said = [&done.stdout[..], &done.stderr[..]].map(String::from_utf8_lossy).concat();
    assert!(done.status.success() && said.is_empty(), "{}: {said}", done.status);
    succeeds(jar.run("Scenario").arg(temp.path().join("shared")).arg("attached"));
    for door in ["java", "java-attached"] {
        interprets(door, jar.run("Scenarios").arg(door).arg(table()).arg(temp.path().join(door)));
    }
}

/// Hadoop's libraries, if this machine could have them.
fn hadoop() -> Option<PathBuf> {
    if let Ok(left_out) = std::fs::read_to_string(root().join(".setup/without-hadoop")) {
        eprintln!("NOT RUN: {}", left_out.trim());
        return None;
    }
    let hadoop = root().join(".setup/hadoop");
    assert!(hadoop.exists(), "{} is missing: run setup/setup.sh test", hadoop.display());
    Some(hadoop)
}

#[test]
fn the_store_as_a_hadoop_file_system() {
    let Some(hadoop) = hadoop() else { return };
    let temp = tempfile::tempdir().unwrap();
    let jar = Jar::build(temp.path(), Some(&hadoop), &["HadoopScenario", "Table", "HadoopScenarios"]);
    succeeds(jar.run("HadoopScenario").arg(temp.path().join("store")));
    // What is asked of it is what Hadoop's own file system does.
    succeeds(jar.run("HadoopScenario").arg(temp.path().join("local")).arg("local"));
    interprets("hadoop", jar.run("HadoopScenarios").arg(table()).arg(temp.path().join("table")));
}

#[test]
fn defect_05_files_grow_are_joined_and_write_protected_in_hadoop() {
    let Some(hadoop) = hadoop() else { return };
    let temp = tempfile::tempdir().unwrap();
    succeeds(Jar::build(temp.path(), Some(&hadoop), &["HadoopAppends"]).run("HadoopAppends").arg(temp.path().join("appends")));
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
