//! Programs that nobody here wrote, by their recipes in `tests/suites/programs`: what `suites --suite programs` and the tests of cells share.
//!
//! All that is done with a program is in `recipe.sh` there; this calls it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the recipes are, where sources lie, and the program under test.
pub struct Recipes {
    pub root: PathBuf,
    pub cloudskin: PathBuf,
}

/// What a recipe says of its program.
pub struct Described {
    pub executable: PathBuf,
    pub ranks: u32,
    /// Whether its cells can be moved.
    pub moves: bool,
    /// Building it takes minutes.
    pub slow: bool,
    /// The arguments of each run.
    pub runs: Vec<Vec<String>>,
}

impl Recipes {
    fn folder(&self) -> PathBuf {
        self.root.join("tests/suites/programs")
    }

    /// The names of all recipes.
    pub fn names(&self) -> std::io::Result<Vec<String>> {
        let files = std::fs::read_dir(self.folder())?.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
        let scripts = files.iter().filter(|p| p.extension().is_some_and(|e| e == "sh"));
        let mut names: Vec<String> = scripts.filter_map(|p| Some(p.file_stem()?.to_str()?.to_string())).filter(|n| n != "recipe").collect();
        names.sort();
        Ok(names)
    }

    /// `recipe.sh NAME KIND FOLDER WHAT`; `kind` is `native` or `cell`.
    pub fn command(&self, name: &str, kind: &str, folder: &Path, what: &str) -> Command {
        let mut command = Command::new("bash");
        command.arg(self.folder().join("recipe.sh")).args([name, kind]).arg(folder).arg(what).env("CLOUDSKIN", &self.cloudskin);
        command
    }

    /// Runs it to its end and gives what it prints.
    fn told(&self, name: &str, folder: &Path, what: &str) -> Result<String, String> {
        let output = self.command(name, "cell", folder, what).output().map_err(|e| format!("bash: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    pub fn describe(&self, name: &str, folder: &Path) -> Result<Described, String> {
        let text = self.told(name, folder, "describe")?;
        let [executable, ranks, moves, slow, rest] = text.splitn(5, '\n').collect::<Vec<_>>()[..] else { return Err(format!("{name}: {text:?}")) };
        let mut runs = vec![Vec::new()];
        for line in rest.lines() {
            match line {
                "" => runs.push(Vec::new()),
                word => runs.last_mut().expect("there is always one").push(word.to_string()),
            }
        }
        runs.pop(); // each ends with an empty line
        let ranks = ranks.parse().map_err(|e| format!("{name}: {ranks} ranks: {e}"))?;
        Ok(Described { executable: executable.into(), ranks, moves: moves == "yes", slow: slow == "yes", runs })
    }

    /// Whether all sources have been fetched.
    pub fn has_sources(&self, name: &str) -> Result<bool, String> {
        let packages = self.told(name, Path::new("."), "packages")?;
        Ok(packages.lines().all(|p| self.root.join(".setup/suites/programs").join(p).is_dir()))
    }
}

/// The first line in which two texts differ.
pub fn difference(expected: &str, got: &str) -> Option<String> {
    let (mut e, mut g) = (expected.lines(), got.lines());
    for line in 1.. {
        match (e.next(), g.next()) {
            (None, None) => break,
            (a, b) if a == b => {}
            (a, b) => return Some(format!("line {line} is {:?}, natively {:?}", b.unwrap_or("missing"), a.unwrap_or("missing"))),
        }
    }
    None
}
