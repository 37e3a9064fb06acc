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
        "for getline... yes", "for fork... yes", "for surely_not_there... no", "for the size of long... 4", "whether bytes are in big-endian order... no",
    ] {
        assert!(told.contains(&format!("checking {line}")), "{line:?} is not in {told}");
    }
    let config = std::fs::read_to_string(ours.join("config.h")).unwrap();
    assert!(config.contains("#define HAVE_MPI_H 1") && config.contains("#define HAVE_FORK 1") && config.contains("#define SIZEOF_LONG 4"), "{config}");

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
    // Whoever comes first on a machine is told why it takes longer.
    let silent = both(&built).lines().all(|line| line.starts_with("cloudskin: building the C++ library "));
    assert!(built.status.success() && silent, "it compiles without a word: {}", both(&built));
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

/// A filter with the habits of a compressor: from standard input to standard output if that is no terminal, and a file's owner and mode are kept.
#[test]
fn a_filter_reads_what_is_piped_into_it() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("filter.c");
    let text = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int main(void) {
    char line[64], raw[8];
    long bytes = 0, lines = 0;
    struct stat s, other;
    FILE *f;
    printf("%d %d\n", isatty(0), isatty(1));
    printf("%d %.4s\n", (int)read(0, raw, 4), raw);
    while (fgets(line, sizeof line, stdin) != NULL) {
        bytes += (long)strlen(line);
        lines++;
    }
    printf("%ld bytes, %ld lines, %d %d\n", bytes, lines, feof(stdin) != 0, (int)read(0, raw, 4));
    f = fopen("made", "w");
    fputs("made", f);
    printf("%d %d\n", fchmod(fileno(f), 0600), fchown(fileno(f), -1, -1));
    fclose(f);
    printf("%d %d ", stat("made", &s), stat("./made", &other));
    printf("%d ", s.st_ino == other.st_ino && s.st_dev == other.st_dev);
    printf("%d ", stat("input", &other) == 0 && s.st_ino != other.st_ino);
    printf("%d %d\n", chmod("made", 0644), chown("made", s.st_uid, s.st_gid));
    printf("%d %d %d\n", chmod("absent", 0644), chown("absent", -1, -1), lchown("absent", -1, -1));
    if (system(NULL) == 0 && system("true") == -1)
        puts("no commands");
    return 0;
}
"#;
    std::fs::write(&source, text).unwrap();
    let (ours, native) = (folder.path().join("filter"), folder.path().join("filter-native"));
    let built = Command::new(CLOUDSKIN).args(["cc", "-Wall", "-Wextra", "-pedantic", "-o"]).arg(&ours).arg(&source).output().unwrap();
    let said = both(&built);
    assert!(built.status.success() && said.contains("warning: the program calls system, which fails here") && said.lines().count() == 1, "{said}");
    run(Command::new("gcc").arg("-o").arg(&native).arg(&source));

    let input = folder.path().join("input");
    std::fs::write(&input, (0..5000).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
    let filter = |program: &Path| {
        // By a pipe, which has the rest when it has.
        let script = r#"{ head -c 4 "$2"; sleep 0.2; tail -c +5 "$2"; } | "$1""#;
        run(Command::new("sh").args(["-c", script, "sh"]).arg(program).arg(&input).current_dir(folder.path()))
    };
    let expected = filter(&native);
    assert!(expected.starts_with("0 0\n4 line\n48886 bytes, 5000 lines, 1 0\n0 0\n0 0 1 1 0 0\n-1 -1 -1\n"), "{expected}");
    assert_eq!(filter(&ours), expected + "no commands\n");
}

#[test]
fn files_by_streams_and_who_and_where_a_program_is_are_there_in_each_kind_of_program() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("kinds.cc");
    let text = r#"
        #include <cstdio>
        #include <filesystem>
        #include <fstream>
        #include <iostream>
        #include <pwd.h>
        #include <string>
        #include <sys/stat.h>
        #include <sys/utsname.h>
        #include <unistd.h>
        int main() {
            std::ofstream("note.txt") << "eleven: " << 11 << std::endl;
            std::string word;
            int n = 0;
            std::ifstream in("note.txt");
            in >> word >> n;
            in.close();
            char host[65], small[2];
            struct utsname it;
            std::error_code error;
            std::cout << word << n << ' ' << std::filesystem::file_size("note.txt", error) << ' ' << std::filesystem::remove("note.txt", error) << std::filesystem::exists("note.txt", error) << std::endl;
            std::cout << gethostname(host, sizeof host) << gethostname(small, sizeof small) << uname(&it) << (std::string(host) == it.nodename) << getuid() << getegid() << (getpwuid(getuid()) == nullptr) << std::endl;
            std::cout << std::oct << umask(077) << ' ' << umask(022) << std::endl;
        }
    "#;
    std::fs::write(&source, text).unwrap();
    for flags in [&[][..], &["-fno-exceptions"], &["-pthread"], &["-fopenmp", "-O1"]] {
        let program = folder.path().join("kinds");
        run(Command::new(CLOUDSKIN).arg("c++").args(flags).arg("-o").arg(&program).arg(&source));
        assert_eq!(run(Command::new(&program).current_dir(folder.path())), "eleven:11 11 10\n0-101001\n22 77\n", "{flags:?}");
    }
}

/// Old programs ask for a level of the language or of POSIX, and each header's types are the same there in whatever order they come.
#[test]
fn headers_go_together_at_each_level_of_the_language() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("signals.c");
    let body = "int main(void) { sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR1); return sigismember(&set, SIGUSR1) == 1 ? 0 : 1; }";
    for order in [["signal.h", "sys/time.h", "sys/select.h", "pthread.h"], ["pthread.h", "sys/select.h", "sys/time.h", "signal.h"]] {
        let includes: String = order.iter().map(|header| format!("#include <{header}>\n")).collect();
        std::fs::write(&source, includes + body).unwrap();
        for level in ["-std=c99 -D_XOPEN_SOURCE=700", "-std=c11 -D_POSIX_C_SOURCE=200809L", "-std=gnu11"] {
            let program = folder.path().join("signals");
            run(Command::new(CLOUDSKIN).arg("cc").args(level.split(' ')).arg(&source).arg("-o").arg(&program));
            run(&mut Command::new(&program));
        }
    }
}

#[test]
fn what_cells_do_not_have_is_said_when_it_is_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let check = |tool: &str, name: &str, source: &str, parts: &[&str]| {
        let file = folder.path().join(name);
        std::fs::write(&file, source).unwrap();
        let output = Command::new(CLOUDSKIN).args(tool.split(' ')).arg("-o").arg(folder.path().join("prog")).arg(&file).output().unwrap();
        let said = both(&output);
        assert!(!output.status.success(), "{name} compiles: {said}");
        let line = said.lines().find(|l| l.starts_with("cloudskin: ")).unwrap_or_else(|| panic!("nothing is said of {name}: {said}"));
        parts.iter().for_each(|part| assert!(line.contains(part), "{part:?} is not in {line:?}"));
    };
    check("cc", "session.c", "int setsid(void);\nint main(void) { return setsid(); }", &["starts no other programs"]);
    check("c++ -fno-exceptions", "throw.cc", "int main(int n, char **) { try { if (n > 1) throw n; } catch (int) { return 1; } }", &["-fno-exceptions has no C++ exceptions"]);
    check("c++", "thread.cc", "#include <thread>\nint main() { std::thread([] {}).join(); }", &["C++ has threads with -pthread"]);
    // Some have no declaration here, others one and nothing behind it; the compiler's own words differ, and say neither that it is meant so nor what to do.
    for (says, header, calls) in [
        ("sockets aren't supported", "sys/socket.h", &["socket(1, 1, 0)", "connect(1, 0, 0)", "bind(1, 0, 0)", "listen(1, 1)"][..]),
        ("sockets aren't supported", "netdb.h", &["getaddrinfo(\"a\", 0, 0, 0)"]),
        ("starts no other programs", "unistd.h", &["setpgid(0, 0)", "execvpe(\"a\", 0, 0)"]),
        ("starts no other programs", "sys/wait.h", &["wait4(1, 0, 0, 0)"]),
        ("sends to itself", "unistd.h", &["alarm(1)", "pause()"]),
        ("threads aren't supported", "threads.h", &["thrd_create(0, 0, 0)"]),
        ("temporary files", "stdio.h", &["tmpfile() == 0"]),
        ("one user", "unistd.h", &["setuid(1)"]),
    ] {
        for call in calls {
            check("cc", "lacks.c", &format!("#include <{header}>\nint main(void) {{ return {call}; }}\n"), &[says]);
        }
    }
    check("c++", "lacks.cc", "#include <unistd.h>\nint main() { return setuid(1); }\n", &["one user"]);
    // What is as asked for anyway needs no word.
    let file = folder.path().join("plain.c");
    std::fs::write(&file, "#include <stdio.h>\nint main(void) { return printf(\"%s %s\\n\", __DATE__, __TIME__) < 0; }\n").unwrap();
    let output = Command::new(CLOUDSKIN).args(["cc", "-ffp-contract=off", "-o"]).arg(folder.path().join("plain")).arg(&file).output().unwrap();
    assert!(output.status.success() && both(&output).is_empty(), "{}", both(&output));
}
