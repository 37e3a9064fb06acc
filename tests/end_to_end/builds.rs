//! Programs with a build system of their own, and C++: built as their makers say, started on the spot, and taken to the platform as they are.

use crate::platform::{CLOUDSKIN, Platform, both, mpirun, root, run};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// `name` of `tests/programs/project/texts`.
fn text(name: &str) -> PathBuf {
    root().join("tests/programs/project/texts").join(name)
}

/// `./configure && make check` in an empty folder, as its user types it.
fn build(folder: &Path, cc: &str, ar: &str, ranlib: &str) -> String {
    let configure = root().join("tests/programs/project/configure");
    let told = run(Command::new(configure).current_dir(folder).env("CC", cc).env("AR", ar).env("RANLIB", ranlib));
    // Not as a part of the `make` that may have started the tests.
    let make = |target: &str| run(Command::new("make").arg(target).current_dir(folder).env_remove("MAKEFLAGS").env_remove("MAKELEVEL"));
    let made = make("check");
    assert!(made.contains("PASS: tally"), "{made}");
    assert!(make("all").contains("Nothing to be done"), "it is all there");
    told
}

fn out(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", both(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_project_is_configured_made_and_taken_to_the_platform() {
    let tool = |name: &str| format!("{CLOUDSKIN} {name}");
    let folder = tempfile::tempdir().unwrap();
    let (ours, native) = (folder.path().join("ours"), folder.path().join("native"));
    for folder in [&ours, &native] {
        std::fs::create_dir(folder).unwrap();
    }
    let told = build(&ours, &tool("cc"), &tool("ar"), &tool("ranlib"));
    build(&native, "mpicc", "ar", "ranlib");

    // The script found out what a cell has, and what it has not; all by compiling, linking and running.
    for line in [
        "whether the C compiler works... yes", "whether we are cross compiling... no", "for mpi.h... yes", "for surely_not_there.h... no",
        "for getline... yes", "for fork... no", "for surely_not_there... no", "for the size of long... 4", "whether bytes are in big-endian order... no",
    ] {
        assert!(told.contains(&format!("checking {line}")), "{line:?} is not in {told}");
    }
    let config = std::fs::read_to_string(ours.join("config.h")).unwrap();
    assert!(config.contains("#define HAVE_MPI_H 1") && !config.contains("FORK") && config.contains("#define SIZEOF_LONG 4"), "{config}");

    // The library is one, with an index.
    assert!(std::fs::read(ours.join("libtally.a")).unwrap().starts_with(b"!<arch>\n/ "), "an archive that begins with its index");
    assert_eq!(run(Command::new(CLOUDSKIN).args(["ar", "t"]).arg(ours.join("libtally.a"))), "count.o\ntable.o\n");

    // On the spot, alone and with ranks; what it prints is what Open MPI's does.
    let texts = [text("sea.txt"), text("hill.txt")];
    let expected = run(mpirun(3, &native.join("tally")).args(&texts));
    assert_eq!(expected, std::fs::read_to_string(text("expected.txt")).unwrap());
    let program = ours.join("tally");
    for np in ["1", "4"] {
        assert_eq!(run(Command::new("./tally").current_dir(&ours).env("CLOUDSKIN_NP", np).args(&texts)), expected, "{np} ranks");
    }
    assert_eq!(run(Command::new(CLOUDSKIN).arg("exec").arg(&program).args(&texts)), expected);
    // Its exit code is its own, and so is what it says.
    let failed = Command::new(&program).arg(folder.path().join("nothing.txt")).output().unwrap();
    assert_eq!(out(&failed, 2), "");
    assert!(both(&failed).contains("nothing.txt: No such file or directory"), "{}", both(&failed));
    out(&Command::new(&program).output().unwrap(), 64);

    // The same file as a job.
    let p = Platform::start();
    for file in &texts {
        p.ok(&["store", "put", file.to_str().unwrap(), "texts/", "--site", "edge"]);
    }
    let program = program.to_str().unwrap();
    assert_eq!(p.ok(&["run", "--np", "3", "--site", "edge", program, "--", "/texts/sea.txt", "/texts/hill.txt"]), expected);
    let failed = p.command(&["run", program, "--", "/texts/nothing.txt"]).output().unwrap();
    assert!(failed.status.code() == Some(2) && both(&failed).contains("tally: /texts/nothing.txt: No such file or directory"), "{}", both(&failed));
}

#[test]
fn a_cpp_program_with_the_standard_library_agrees_with_open_mpi() {
    let source = root().join("tests/programs/words.cc");
    let folder = tempfile::tempdir().unwrap();
    let (ours, native) = (folder.path().join("words"), folder.path().join("words-native"));
    let options = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-o"];
    let built = Command::new(CLOUDSKIN).arg("c++").args(options).arg(&ours).arg(&source).output().unwrap();
    assert!(built.status.success() && both(&built).is_empty(), "it compiles without a word: {}", both(&built));
    run(Command::new("mpicxx").args(["-std=c++17", "-O2", "-w", "-o"]).arg(&native).arg(&source));

    let size = "30000";
    let expected = run(mpirun(3, &native).arg(size).arg(folder.path()));
    assert!(expected.lines().count() == 7 && expected.contains("30000 times"), "{expected}");
    for np in ["1", "4"] {
        assert_eq!(run(Command::new(&ours).env("CLOUDSKIN_NP", np).arg(size).arg(folder.path())), expected, "{np} ranks");
    }
    let p = Platform::start();
    assert_eq!(p.ok(&["run", "--np", "4", ours.to_str().unwrap(), "--", size, "/out"]), expected);
    // What it wrote as a job is what it wrote here.
    let got = folder.path().join("got.txt");
    p.ok(&["store", "get", "out/words.txt", got.to_str().unwrap()]);
    assert_eq!(std::fs::read(&got).unwrap(), std::fs::read(folder.path().join("words.txt")).unwrap());
}

#[test]
fn what_cells_do_not_have_is_said_when_it_is_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let check = |tool: &str, name: &str, source: &str, parts: &[&str]| {
        let file = folder.path().join(name);
        std::fs::write(&file, source).unwrap();
        let output = Command::new(CLOUDSKIN).arg(tool).arg("-o").arg(folder.path().join("prog")).arg(&file).output().unwrap();
        let said = both(&output);
        assert!(!output.status.success(), "{name} compiles: {said}");
        let line = said.lines().find(|l| l.starts_with("cloudskin: ")).unwrap_or_else(|| panic!("nothing is said of {name}: {said}"));
        parts.iter().for_each(|part| assert!(line.contains(part), "{part:?} is not in {line:?}"));
    };
    check("cc", "fork.c", "#include <unistd.h>\nint fork(void);\nint main(void) { return fork(); }", &["processes aren't supported"]);
    check("c++", "throw.cc", "int main(int n, char **) { try { if (n > 1) throw n; } catch (int) { return 1; } }", &["C++ exceptions aren't supported"]);
    let stream = "#include <fstream>\n#include <string>\nint main() { std::ifstream in(\"a\"); std::string s; in >> s; return s.size(); }";
    check("c++", "stream.cc", stream, &["file streams", "<cstdio>"]);
}
