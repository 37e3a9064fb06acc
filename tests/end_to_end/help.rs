//! What somebody sees who tries `--help` first, on a machine where nothing else has been installed.

use crate::platform::{CLOUDSKIN, both};
use std::{path::Path, process::Command};

/// The names below `Commands:`, but for `help` itself.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    // What a long description continues on is indented further.
    let names = listed.filter(|l| l.starts_with("  ") && !l.starts_with("   ")).filter_map(|l| l.split_whitespace().next());
    names.filter(|n| *n != "help").map(str::to_string).collect()
}

/// Asks for the help of a command and of all below it. Gives what is wrong with any of them, and counts them.
fn visit(program: &Path, nowhere: &Path, path: &[String], wrong: &mut Vec<String>) -> usize {
    let mut command = Command::new(program);
    // No compiler is found, and nothing that has been configured: not even the folders for it.
    command.args(path).arg("--help").env_clear().env("PATH", "").env("HOME", "").current_dir(nowhere);
    let output = command.output().unwrap();
    let name = format!("cloudskin {} --help", path.join(" "));
    let help = String::from_utf8_lossy(&output.stdout);
    if output.status.code() != Some(0) {
        wrong.push(format!("{name}: {}: {}", output.status, both(&output)));
    } else if !help.lines().any(|l| l.starts_with("Example: cloudskin ")) {
        wrong.push(format!("{name} has no example: {}", both(&output)));
    } else if !output.stderr.is_empty() {
        wrong.push(format!("{name} says something beside: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let below = commands(&help);
    1 + below.into_iter().map(|c| visit(program, nowhere, &[path, &[c]].concat(), wrong)).sum::<usize>()
}

#[test]
fn every_command_helps_with_an_example_where_no_compiler_is() {
    // Elsewhere, because a compiler is looked for in the folders above the program.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("cloudskin");
    // Not a copy where that can be helped: a child of another test may hold it open for writing for a moment, and it could not be run.
    std::fs::hard_link(CLOUDSKIN, &program).or_else(|_| std::fs::copy(CLOUDSKIN, &program).map(drop)).unwrap();
    let mut wrong = Vec::new();
    let seen = visit(&program, folder.path(), &[], &mut wrong);
    assert!(seen > 25, "only {seen} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
