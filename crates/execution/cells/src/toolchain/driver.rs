//! `cloudskin cc` and `cloudskin c++`: take the arguments of any C compiler, make a module that can be moved.
//!
//! ```text
//! cloudskin cc -O2 a.c b.o -lm -o prog
//!   parse:    a Plan: what to compile, what to link, what was asked for that cells don't have
//!   compile:  each source by the pinned clang, one run per source
//!   link:     objects, libraries, the runtime
//!   instrument: prog, a WebAssembly file under exactly that name
//! ```
//!
//! So `make CC="cloudskin cc"` and `CC="cloudskin cc" AR="cloudskin ar" RANLIB="cloudskin ranlib" ./configure` work.
//!
//! `-fno-safe-points` leaves the last step out: such a program runs, and can't be moved.
//!
//! `-pthread` and `-fopenmp` make a program with threads. All that is linked into it must have been compiled with one of them.
//!
//! Each compilation has `-O3` unless the arguments name a level. `long` has 32 bits. What cells lack in this version is said
//! plainly: shared libraries, Fortran. C++ has exceptions unless it is told `-fno-exceptions`; what throws nothing
//! and catches nothing is linked without them, and pays for none. No DWARF is kept (the code moves after linking), but
//! all function names are, for backtraces, and with `-g` the lines.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::compiler::{
    COMPILE, CXX_THREADS, Compiler, EXCEPTIONS, FILES, JUMPS, LINK_LIBRARIES, LINK_THREADS, LOCKED, STACK_BYTES, Scratch, TARGET, TARGET_THREADS, TARGET_THREADS_THROWING, TARGET_THROWING,
    TOOLCHAIN, write_atomically,
};
use super::lines::{Lines, Trails};
use super::{CXX_TAG, Error, ROOM, TERMINATE, UNCAUGHT, UNWIND, WORKDIR, instrument, libraries, mismatch, processes, threads};

/// The language that the driver assumes when linking, and for its default libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lang {
    C,
    Cxx,
}

impl Lang {
    fn tool(self) -> &'static str {
        match self {
            Lang::C => "cc",
            Lang::Cxx => "c++",
        }
    }
}

/// Tools that ./configure and make call beside the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archiver {
    Ar,
    Ranlib,
}

/// Bytes of response files that are read, all together.
const RESPONSE_BYTES_MAX: u64 = 16 << 20;
/// Depth of response files that name response files.
const RESPONSE_DEPTH_MAX: u32 = 16;

/// Runs the compiler with `args` (without the program's name). `Ok` is its exit status; messages went to standard error.
pub fn main(lang: Lang, args: Vec<OsString>) -> Result<u8, Error> {
    let plan = parse(lang, expand(args)?)?;
    for note in &plan.notes {
        eprintln!("cloudskin {}: note: {note}", lang.tool());
    }
    let compiler = Compiler::find()?;
    plan.run(&compiler)
}

/// `cloudskin ar` and `cloudskin ranlib`: archives whose index knows WebAssembly objects.
pub fn archiver(tool: Archiver, args: Vec<OsString>) -> Result<u8, Error> {
    let compiler = Compiler::find()?;
    let mut command = compiler.command(match tool {
        Archiver::Ar => "ar",
        Archiver::Ranlib => "ranlib",
    });
    command.args(args);
    let status = command.status().map_err(|source| Error::Spawn { program: compiler.path().into(), source })?;
    Ok(code(status))
}

/// Where the work stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Print something about the compiler (`--version`, `-print-...`, `-v` alone): all arguments are handed on.
    Query,
    /// `-E`, `-M`, `-MM`: one run per source, to standard output or `-o`.
    Print,
    /// `-fsyntax-only`: compiled, the object is thrown away.
    Check,
    /// `-S`
    Assembly,
    /// `-c`
    Object,
    Link,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    path: String,
    /// From `-x`.
    language: Option<String>,
}

impl Source {
    /// Whether this is C++ by its name or by `-x`.
    fn is_cxx(&self) -> bool {
        match &self.language {
            Some(language) => language.starts_with("c++"),
            None => Path::new(&self.path).extension().and_then(|e| e.to_str()).is_some_and(|e| CXX_EXTENSIONS.contains(&e)),
        }
    }
}

/// Names in an object file that throws or catches, and in one that calls `setjmp` or `longjmp`.
const THROWING: &[&str] = &["__cxa_throw", "__cxa_rethrow", "__cxa_begin_catch", "__cpp_exception"];
const JUMPING: &[&str] = &["__wasm_setjmp", "__wasm_longjmp"];
/// In one with a `thread_local` variable that has a destructor.
const DEPARTING: &[&str] = &["__cxa_thread_atexit"];
/// In the mangled names of what zig's C++ library lacks.
const FILING: &[&str] = &["basic_filebuf", "basic_ifstream", "basic_ofstream", "basic_fstream", "10filesystem"];

const CXX_EXTENSIONS: &[&str] = &["cc", "cp", "cpp", "cxx", "CPP", "c++", "C", "ii", "hh", "hpp", "hxx", "H"];

/// One word of the linker's command line. Order matters to archives.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Link {
    /// The object made of the source with this number.
    Source(usize),
    Arg(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    mode: Mode,
    sources: Vec<Source>,
    output: Option<String>,
    /// The user's flags for each compilation.
    compile: Vec<String>,
    link: Vec<Link>,
    notes: Vec<String>,
    verbose: bool,
    /// All arguments as given, for [`Mode::Query`].
    all: Vec<String>,
    has_level: bool,
    has_stack: bool,
    safe_points: bool,
    /// By `-pthread` or `-fopenmp`.
    threads: bool,
    openmp: bool,
    /// By `-g`, of whatever kind.
    debug: bool,
    /// By `-s` and the linker's options for it.
    strip: bool,
    /// By `-fexceptions` or `-fno-exceptions`.
    exceptions: Option<bool>,
    lang: Lang,
}

/// Options whose value is the next argument, when it isn't attached. They go to the compilations.
const WITH_VALUE: &[&str] = &[
    "-I", "-D", "-U", "-include", "-imacros", "-isystem", "-idirafter", "-iquote", "-isysroot", "-iprefix", "-iwithprefix",
    "-MF", "-MT", "-MQ", "-MJ", "-Xclang", "-Xpreprocessor", "-Xassembler", "-mllvm", "--param", "-cxx-isystem",
];

/// Options of native linkers without a meaning here.
const LINKER_IGNORED: &[&str] = &[
    "--as-needed", "--no-as-needed", "--start-group", "--end-group", "-(", "-)", "-Bstatic", "-Bdynamic", "-Bsymbolic", "-Bsymbolic-functions",
    "-dn", "-dy", "--enable-new-dtags", "--disable-new-dtags", "--no-undefined", "--warn-common", "--fatal-warnings", "--export-dynamic", "-E",
    "--eh-frame-hdr", "--no-copy-dt-needed-entries", "--copy-dt-needed-entries", "-O1", "-O2", "--relax",
    "--stack-first", "--warn-unresolved-symbols", "-static", "--push-state", "--pop-state", "--sort-common",
];
const LINKER_IGNORED_PREFIXES: &[&str] = &["-rpath", "--rpath", "--build-id", "--hash-style", "-soname", "--soname", "-Map", "--dynamic-linker", "--version-script", "--compress-debug-sections", "--icf"];

/// Libraries whose content is in the C library, or in the agent.
const LIBRARIES_INCLUDED: &[&str] = &["m", "mpi", "mpich", "mpicxx", "mpi_cxx", "mpicpp", "rt", "dl", "util", "pthread", "stdc++", "gcc", "gcc_s", "c++", "c++abi", "omp", "gomp", "iomp5"];

fn parse(lang: Lang, args: Vec<String>) -> Result<Plan, Error> {
    let args = join_linker_words(args);
    let mut plan = Plan {
        mode: Mode::Link,
        sources: Vec::new(),
        output: None,
        compile: Vec::new(),
        link: Vec::new(),
        notes: Vec::new(),
        verbose: false,
        all: args.clone(),
        has_level: false,
        has_stack: false,
        safe_points: true,
        threads: false,
        openmp: false,
        debug: false,
        strip: false,
        exceptions: None,
        lang,
    };
    let mut language: Option<String> = None;
    let mut only_files = false;
    let mut query = false;
    let mut words = args.into_iter().peekable();
    while let Some(arg) = words.next() {
        let mut value = |option: &str| {
            words.next().ok_or_else(|| Error::Usage(format!("{option} needs a value")))
        };
        if only_files || !arg.starts_with('-') || arg == "-" {
            plan.input(arg, language.as_deref())?;
            continue;
        }
        match arg.as_str() {
            "--" => only_files = true,
            "-c" => plan.stop_at(Mode::Object),
            "-S" => plan.stop_at(Mode::Assembly),
            "-fsyntax-only" => plan.stop_at(Mode::Check),
            "-E" | "-M" | "-MM" => {
                plan.stop_at(Mode::Print);
                plan.compile.push(arg);
            }
            "-o" | "--output" => plan.output = Some(value("-o")?),
            "-x" => language = Some(value("-x")?).filter(|l| l != "none"),
            "-v" | "--verbose" => plan.verbose = true,
            "--version" | "--help" | "-dumpversion" | "-dumpfullversion" | "-dumpmachine" | "-###" | "-dumpspecs" | "-V" | "-qversion" | "-version" => query = true,
            "-Xlinker" => {
                let word = value("-Xlinker")?;
                plan.linker_words(vec![word])?;
            }
            "-l" | "-L" | "-u" => {
                let word = value(&arg)?;
                plan.library_or_path(&format!("{arg}{word}"));
            }
            "-z" => {
                let word = value("-z")?;
                plan.linker_words(vec!["-z".into(), word])?;
            }
            "-T" | "-e" | "-arch" | "-target" | "--target" => {
                let word = value(&arg)?;
                if matches!(arg.as_str(), "-T" | "-e") {
                    return Err(Error::Usage(format!("{arg} {word}: cells have no linker scripts and start at _start")));
                }
                plan.target(&word)?;
            }
            "-shared" | "-dynamiclib" | "--shared" => {
                return Err(Error::Usage(format!("{arg}: shared libraries aren't supported in this version; link the objects or a .a archive")));
            }
            "-static-pie" => return Err(Error::Usage("-static-pie: not supported; a cell is always static and without a fixed place, leave it out".into())),
            "-m32" | "-mx32" => return Err(Error::Usage(format!("{arg}: a cell has its own machine type, wasm32; leave it out"))),
            "-pthread" | "-pthreads" | "-mthreads" => plan.threads = true,
            "-fexceptions" | "-fcxx-exceptions" | "-fwasm-exceptions" => plan.exceptions = Some(true),
            "-fno-exceptions" => plan.exceptions = Some(false),
            "-static" | "-static-libgcc" | "-static-libstdc++" | "-pie" | "-no-pie" | "-rdynamic" | "-pipe" | "-fPIC" | "-fpic"
            | "-fPIE" | "-fpie" | "-no-canonical-prefixes" | "-nopie" => {}
            "-fno-safe-points" => plan.safe_points = false,
            "-fsafe-points" => plan.safe_points = true,
            "-fno-openmp" => plan.openmp = false,
            "-g0" | "-ggdb0" => plan.debug = false,
            "-s" => plan.strip = true,
            "-m64" | "-mtune=native" | "-march=native" | "-mcpu=native" => plan.note(&arg, "cells run on any processor"),
            "-nostdlib" | "-nodefaultlibs" | "-nostartfiles" => {
                return Err(Error::Usage(format!("{arg}: a cell needs its C library and start code; leave it out")));
            }
            _ => plan.prefixed(arg, &mut language, &mut query, &mut words)?,
        }
    }
    if query || (plan.sources.is_empty() && plan.link.is_empty() && plan.verbose) {
        plan.mode = Mode::Query;
        return Ok(plan);
    }
    let objects = plan.link.iter().any(|l| !matches!(l, Link::Arg(a) if a.starts_with('-')));
    if plan.sources.is_empty() && !(plan.mode == Mode::Link && objects) {
        return Err(Error::Usage("no input files".into()));
    }
    if plan.mode != Mode::Link && plan.output.is_some() && plan.sources.len() > 1 {
        return Err(Error::Usage("-o with -c, -S or -E takes one source".into()));
    }
    Ok(plan)
}

impl Plan {
    /// The option that stops earliest wins, as in every C compiler.
    fn stop_at(&mut self, mode: Mode) {
        let rank = |m| match m {
            Mode::Query | Mode::Print => 0,
            Mode::Check => 1,
            Mode::Assembly => 2,
            Mode::Object => 3,
            Mode::Link => 4,
        };
        if rank(mode) < rank(self.mode) {
            self.mode = mode;
        }
    }

    fn note(&mut self, option: &str, why: &str) {
        let note = format!("{option} is left out: {why}");
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn input(&mut self, path: String, language: Option<&str>) -> Result<(), Error> {
        let extension = Path::new(&path).extension().and_then(|e| e.to_str()).unwrap_or("");
        let name = Path::new(&path).file_name().and_then(|n| n.to_str()).unwrap_or("");
        let is_source = match extension {
            "c" | "i" | "s" | "S" | "sx" | "h" => true,
            e if CXX_EXTENSIONS.contains(&e) => true,
            "f" | "for" | "ftn" | "f77" | "f90" | "f95" | "f03" | "f08" | "F" | "F90" => {
                return Err(Error::Usage(format!("{path}: Fortran isn't supported in this version")));
            }
            "cu" | "m" | "mm" if language.is_none() => {
                return Err(Error::Usage(format!("{path}: only C and C++ are compiled")));
            }
            _ => false,
        };
        if language.is_none() && (extension == "so" || name.contains(".so.")) {
            return Err(Error::Usage(format!("{path}: shared libraries aren't supported in this version; link the objects or a .a archive")));
        }
        if is_source || language.is_some() {
            self.link.push(Link::Source(self.sources.len()));
            self.sources.push(Source { path, language: language.map(str::to_string) });
        } else if path == "-" {
            return Err(Error::Usage("-: say with -x which language standard input has".into()));
        } else {
            self.link.push(Link::Arg(path));
        }
        Ok(())
    }

    /// Options that are told by how they begin.
    fn prefixed(
        &mut self,
        arg: String,
        language: &mut Option<String>,
        query: &mut bool,
        words: &mut impl Iterator<Item = String>,
    ) -> Result<(), Error> {
        if let Some(list) = arg.strip_prefix("-Wl,") {
            return self.linker_words(list.split(',').map(str::to_string).collect());
        }
        if WITH_VALUE.contains(&arg.as_str()) {
            let value = words.next().ok_or_else(|| Error::Usage(format!("{arg} needs a value")))?;
            self.compile.extend([arg, value]);
            return Ok(());
        }
        let starts = |list: &[&str]| list.iter().any(|p| arg.starts_with(p));
        if starts(&["-print-", "--print-", "--help="]) {
            *query = true;
        } else if let Some(path) = arg.strip_prefix("--output=").or_else(|| arg.strip_prefix("-o")) {
            self.output = Some(path.to_string());
        } else if let Some(name) = arg.strip_prefix("-x") {
            *language = Some(name.to_string()).filter(|l| l != "none");
        } else if starts(&["-fopenmp", "-qopenmp", "-openmp", "-fiopenmp"]) && !arg.starts_with("-fopenmp-simd") {
            if arg.contains("target") {
                return Err(Error::Usage(format!("{arg}: cells have no other devices to run parts of a program on; leave it out")));
            }
            self.openmp = true;
            self.threads = true;
        } else if starts(&["-fopenacc", "-fsanitize=", "-fprofile-", "--coverage", "-fcoverage"]) {
            return Err(Error::Usage(format!("{arg}: not supported for cells")));
        } else if let Some(triple) = arg.strip_prefix("--target=") {
            self.target(triple)?;
        } else if starts(&["-l", "-L"]) {
            self.library_or_path(&arg);
        } else if starts(&["-march=", "-mtune=", "-mcpu=", "-mavx", "-msse", "-mfma", "-mbmi", "-mfpmath", "-maes", "-mpopcnt", "-mf16c", "-mabm", "-mcmodel", "-mfpu", "-mfloat-abi", "-mprefer-vector-width"]) {
            self.note(&arg, "cells run on any processor");
        } else if starts(&["-flto", "-fuse-ld=", "-fuse-linker-plugin", "-fno-lto", "-ffat-lto"]) {
            self.note(&arg, "the linker is fixed");
        } else if arg == "-ffp-contract=off" {
            // So it is anyway.
        } else if starts(&["-ffp-contract="]) {
            self.note(&arg, "results must not depend on the machine");
        } else {
            self.has_level |= arg.starts_with("-O");
            // Options that begin so and ask for nothing by themselves are among those, but for these.
            self.debug |= arg.starts_with("-g") && !starts(&["-gz", "-gno-", "-gcolumn-info", "-gstrict-dwarf", "-grecord"]);
            // A level as clang writes it; gcc's -Og exists in clang, higher numbers mean 3.
            let high = arg.strip_prefix("-O").and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n > 3);
            self.compile.push(if high { "-O3".into() } else { arg });
        }
        Ok(())
    }

    fn target(&mut self, triple: &str) -> Result<(), Error> {
        if triple.starts_with("wasm32") && !triple.contains("threads") {
            return Ok(());
        }
        Err(Error::Usage(format!("target {triple}: cells are wasm32-wasi; leave it out")))
    }

    fn library_or_path(&mut self, arg: &str) {
        if arg.strip_prefix("-l").is_some_and(|name| LIBRARIES_INCLUDED.contains(&name)) {
            return;
        }
        let arg = if let Some(symbol) = arg.strip_prefix("-u") { format!("-Wl,--undefined={symbol}") } else { arg.to_string() };
        self.link.push(Link::Arg(arg));
    }

    /// What stood behind `-Wl,`, in one option or in several.
    fn linker_words(&mut self, words: Vec<String>) -> Result<(), Error> {
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-z" => match words.next() {
                    Some(setting) if setting.starts_with("stack-size=") => {
                        self.has_stack = true;
                        self.link.push(Link::Arg(format!("-Wl,-z,{setting}")));
                    }
                    // relro, now, noexecstack, ...: a cell has all that by its nature.
                    _ => {}
                },
                "-rpath" | "-rpath-link" | "-soname" | "-Map" | "-h" => {
                    words.next();
                }
                "--strip-all" | "-s" | "-S" | "--strip-debug" => self.strip = true,
                "-shared" | "--shared" => return Err(Error::Usage("-Wl,-shared: shared libraries aren't supported in this version".into())),
                w if w.is_empty() || LINKER_IGNORED.contains(&w) || LINKER_IGNORED_PREFIXES.iter().any(|p| w.starts_with(p)) => {}
                w if w.starts_with("-l") || w.starts_with("-L") => {
                    let w = w.to_string();
                    self.library_or_path(&w);
                }
                w if w.starts_with('-') => self.link.push(Link::Arg(format!("-Wl,{w}"))),
                _ => self.link.push(Link::Arg(word)),
            }
        }
        Ok(())
    }

    fn run(&self, compiler: &Compiler) -> Result<u8, Error> {
        match self.mode {
            Mode::Query => {
                let mut command = compiler.command(self.lang.tool());
                command.args(TARGET).args(&self.all);
                self.execute(compiler, command, Purpose::Compile)
            }
            Mode::Print | Mode::Check | Mode::Assembly | Mode::Object => {
                let scratch = Scratch::new()?;
                let mut worst = 0;
                for source in &self.sources {
                    let output = match (&self.output, self.mode) {
                        (_, Mode::Check) => Some(scratch.path("checked.o")),
                        (Some(path), _) => Some(PathBuf::from(path)),
                        (None, Mode::Object) => Some(beside(&source.path, "o")),
                        (None, Mode::Assembly) => Some(beside(&source.path, "s")),
                        (None, _) => None,
                    };
                    worst = worst.max(self.compile(source, output.as_deref(), &[], compiler)?);
                }
                Ok(worst)
            }
            Mode::Link => self.link(compiler),
        }
    }

    fn machine(&self) -> &'static [&'static str] {
        if self.threads { TARGET_THREADS } else { TARGET }
    }

    /// Flags of a compilation that say what it may throw.
    fn throws(&self, cxx: bool) -> Vec<&'static str> {
        let exceptions = if self.exceptions.unwrap_or(cxx) { EXCEPTIONS } else { &["-fno-exceptions"] };
        [if self.threads { TARGET_THREADS_THROWING } else { TARGET_THROWING }, JUMPS, exceptions].concat()
    }

    fn compile(&self, source: &Source, output: Option<&Path>, more: &[String], compiler: &Compiler) -> Result<u8, Error> {
        if source.path != "-" {
            std::fs::metadata(&source.path).map_err(|e| Error::io("read", &source.path, e))?;
        }
        let mut command = compiler.command(if source.is_cxx() { "c++" } else { self.lang.tool() });
        let cxx = self.lang == Lang::Cxx || source.is_cxx();
        // zig takes a program that tells when it was built for an error.
        command.args(self.throws(cxx)).args(COMPILE).arg("-Wno-date-time");
        if cxx {
            command.args(FILES).args(if self.threads { CXX_THREADS } else { &[] });
        }
        if self.openmp {
            command.arg("-fopenmp");
        }
        if !self.has_level {
            command.arg("-O3");
        }
        // zig has debug information unless it is told otherwise.
        if !self.debug {
            command.arg("-g0");
        }
        // Before the C library's headers what continues one of them; for threads that is all of ours.
        let guests = compiler.include()?;
        command.args(&self.compile).args(more).arg("-I").arg(guests.join("posix")).arg(if self.threads { "-I" } else { "-isystem" }).arg(guests);
        match self.mode {
            Mode::Print => {}
            Mode::Assembly => drop(command.arg("-S")),
            _ => drop(command.arg("-c")),
        }
        if let Some(output) = output {
            command.arg("-o").arg(output);
        }
        if let Some(language) = &source.language {
            command.args(["-x", language]);
        } else if source.path.ends_with(".c") && self.lang == Lang::Cxx {
            command.args(["-x", "c++"]);
        }
        command.arg(&source.path);
        self.execute(compiler, command, Purpose::Compile)
    }

    fn link(&self, compiler: &Compiler) -> Result<u8, Error> {
        let scratch = Scratch::new()?;
        let output = PathBuf::from(self.output.as_deref().unwrap_or("a.out"));
        let mut objects = Vec::new();
        for (n, source) in self.sources.iter().enumerate() {
            let stem = Path::new(&source.path).file_stem().and_then(|s| s.to_str()).unwrap_or("input");
            let object = scratch.path(&format!("{n}-{stem}.o"));
            // With -MD the dependencies belong beside the program, not beside the temporary object.
            let mut more = Vec::new();
            let asks = |option: &str| self.compile.iter().any(|a| a == option);
            if (asks("-MD") || asks("-MMD")) && !asks("-MF") {
                more.extend(["-MF".into(), output.with_extension("d").display().to_string()]);
                more.extend(["-MT".into(), output.display().to_string()]);
            }
            let status = self.compile(source, Some(&object), &more, compiler)?;
            if status != 0 {
                return Ok(status);
            }
            objects.push(object);
        }
        let plain = scratch.path("linked.wasm");
        let tool = if self.sources.iter().any(Source::is_cxx) { "c++" } else { self.lang.tool() };
        let cxx = tool == "c++";
        // Nobody else can have thrown what nobody catches: that ends the program with either library.
        let throws = cxx && self.exceptions != Some(false) && self.mentions(&objects, THROWING);
        let jumps = self.mentions(&objects, JUMPING);
        // zig's C++ library knows of neither.
        let cxx_of_ours = cxx && (throws || self.threads);
        let tool = if cxx_of_ours { "cc" } else { tool };
        let mut command = compiler.command(tool);
        // Always the same level: it selects the C library's build, and each is built once and cached.
        command.args(self.machine()).arg("-O3").arg("-o").arg(&plain);
        // First, or the linker takes the C library's functions that know of one thread only.
        if self.threads {
            command.arg(compiler.runtime("threads", self.machine())?).args(LINK_THREADS);
            command.args(LOCKED.iter().map(|name| format!("-Wl,--export={name}")));
        }
        if let Some(member) = self.begins_in_an_archive(&objects) {
            let object = scratch.path("main.o");
            write_atomically(&object, &member)?;
            command.arg(object);
        }
        for (n, word) in self.link.iter().enumerate() {
            match word {
                Link::Source(source) => command.arg(&objects[*source]),
                Link::Arg(arg) => match indexed_archive(arg, n, &scratch, compiler)? {
                    Some(copy) => command.arg(copy),
                    None => command.arg(arg),
                },
            };
        }
        for name in ["runtime", "posix", "signals", "processes"] {
            command.arg(compiler.runtime(name, self.machine())?);
        }
        let mut exports = vec![WORKDIR, ROOM, UNWIND];
        if self.openmp {
            command.arg(compiler.runtime("openmp", self.machine())?);
        }
        if !self.threads && self.mentions(&objects, DEPARTING) {
            command.arg(compiler.runtime("departures", self.machine())?);
        }
        if cxx_of_ours {
            command.arg(libraries::cxx(compiler, throws, self.threads)?);
        } else if cxx && self.mentions(&objects, FILING) {
            command.arg(libraries::files(compiler)?);
        }
        if throws {
            exports.extend([CXX_TAG, UNCAUGHT, TERMINATE]);
        }
        if jumps {
            command.arg(libraries::jumps(compiler, self.threads)?);
        }
        command.args(LINK_LIBRARIES);
        command.args(exports.iter().map(|symbol| format!("-Wl,--export={symbol}")));
        if !self.has_stack {
            command.arg(format!("-Wl,-z,stack-size={STACK_BYTES}"));
        }
        let warm = compiler.warm(&format!("{tool}{}", if self.threads { "-threads" } else { "" }));
        if !warm.exists() {
            eprintln!("cloudskin: building the {} library once, which takes about a minute ...", if tool == "cc" { "C" } else { "C++" });
        }
        let status = self.execute(compiler, command, Purpose::Link)?;
        if status != 0 {
            return Ok(status);
        }
        write_atomically(&warm, b"")?;
        let mut linked = std::fs::read(&plain).map_err(|e| Error::io("read", &plain, e))?;
        // The C library calls it weakly, so the linker does without.
        if contains(&linked, b"\x13undefined_weak:main") {
            eprintln!("cloudskin: error: undefined symbol: main; a program begins there, and none of what is linked has it");
            return Ok(1);
        }
        for name in mismatch::repair(&mut linked)? {
            eprintln!("cloudskin: warning: {name} is called with other types than it is defined with; such a call stops the program");
        }
        // wasi-libc has a pthread_create that always fails, so that code which may do without threads links.
        if !self.threads && [&b"\x0epthread_create"[..], b"\x10__pthread_create"].iter().any(|name| contains(&linked, name)) {
            eprintln!("cloudskin: warning: the program calls pthread_create, which fails without -pthread: give it to all compilations and to the linker");
        }
        for call in COMMANDS.iter().filter(|call| contains(&linked, &[&[call.len() as u8], call.as_bytes()].concat())) {
            eprintln!("cloudskin: warning: the program calls {call}, which fails here: a cell starts no other programs");
        }
        // Code behind a flag that is never set may call anything, so this is no error.
        for call in crate::mpi_host::missing(&linked).unwrap_or_default() {
            eprintln!("cloudskin: warning: the program calls {call}, which is not in this version: a rank that comes to it stops the job (docs/reference/mpi.md lists what is there)");
        }
        let mut lines = if self.strip { Ok(None) } else { Lines::read(&linked, &compiler.sources()) }.unwrap_or_else(|why| {
            eprintln!("cloudskin: note: the debug information can't be read, so backtraces will have no lines: {why}");
            None
        });
        linked = processes::rewrite(&linked)?;
        if self.threads {
            let mut trails = Trails::default();
            linked = threads::rewrite(&linked, &mut trails)?;
            lines.iter_mut().for_each(|lines| lines.moved(&trails));
        }
        let mut wasm = if self.safe_points { instrument::with_lines(&linked, TOOLCHAIN, lines.as_mut())? } else { linked };
        if !lines.is_none_or(|lines| lines.append(&mut wasm)) {
            eprintln!("cloudskin: note: the program has more lines than are kept, so backtraces will have none; compile less of it with -g");
        }
        let launch = if output.extension().is_some_and(|e| e == "wasm") { None } else { launcher() };
        write_atomically(&output, &[launch.unwrap_or_default().as_bytes(), &wasm].concat())?;
        use std::os::unix::fs::PermissionsExt;
        // configure and make look for the x bit.
        std::fs::set_permissions(&output, std::fs::Permissions::from_mode(0o755)).map_err(|e| Error::io("make executable", &output, e))?;
        Ok(0)
    }

    /// Whether one of these names stands in what is linked.
    fn mentions(&self, objects: &[PathBuf], names: &[&str]) -> bool {
        self.files(objects).any(|bytes| names.iter().any(|name| contains(&bytes, name.as_bytes())))
    }

    /// What is linked, file by file. What can't be read is an option, or the linker's to report.
    fn files<'a>(&'a self, objects: &'a [PathBuf]) -> impl Iterator<Item = Vec<u8>> + 'a {
        let folders: Vec<&str> = self.link.iter().filter_map(|l| if let Link::Arg(a) = l { a.strip_prefix("-L") } else { None }).collect();
        let files = self.link.iter().flat_map(move |word| match word {
            Link::Source(n) => vec![objects[*n].clone()],
            Link::Arg(arg) => match arg.strip_prefix("-l") {
                Some(name) => folders.iter().map(|folder| Path::new(folder).join(format!("lib{name}.a"))).collect(),
                None => vec![PathBuf::from(arg)],
            },
        });
        files.filter_map(|file| std::fs::read(file).ok())
    }

    /// The member of an archive where the program begins, if no object has its `main`: the C library calls it weakly, and for such a call the linker looks into no archive.
    fn begins_in_an_archive(&self, objects: &[PathBuf]) -> Option<Vec<u8>> {
        let begins = |bytes: &[u8]| MAIN.iter().any(|name| contains(bytes, name));
        let (archives, others): (Vec<_>, Vec<_>) = self.files(objects).partition(|bytes| bytes.starts_with(ARCHIVE));
        if others.iter().any(|bytes| begins(bytes)) {
            return None;
        }
        archives.iter().flat_map(|archive| members(archive)).find(|member| begins(member)).map(<[u8]>::to_vec)
    }

    /// Runs one command; what it prints goes on to standard error, with a line about what cells lack where that is the cause.
    fn execute(&self, compiler: &Compiler, mut command: Command, purpose: Purpose) -> Result<u8, Error> {
        use std::io::IsTerminal;
        if self.verbose {
            eprintln!("{command:?}");
        }
        if std::io::stderr().is_terminal() && self.mode != Mode::Query && purpose == Purpose::Compile {
            command.arg("-fcolor-diagnostics");
        }
        command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::piped());
        let output = command
            .spawn()
            .and_then(|child| child.wait_with_output())
            .map_err(|source| Error::Spawn { program: compiler.path().into(), source })?;
        let text = String::from_utf8_lossy(&output.stderr);
        for line in text.lines().filter(|l| !is_noise(l)) {
            eprintln!("{line}");
        }
        if !output.status.success() {
            for note in explain(&text) {
                eprintln!("cloudskin: {note}");
            }
        }
        Ok(code(output.status))
    }
}

/// `-Wl,-z -Wl,now` is `-Wl,-z,now`: libtool takes a linker's option and its value apart.
fn join_linker_words(args: Vec<String>) -> Vec<String> {
    const WITH_VALUE: [&str; 6] = ["-z", "-rpath", "-rpath-link", "-soname", "-Map", "-h"];
    let mut out: Vec<String> = Vec::with_capacity(args.len());
    for arg in args {
        match (out.last_mut(), arg.strip_prefix("-Wl,")) {
            (Some(last), Some(value)) if last.starts_with("-Wl,") && last.rsplit(',').next().is_some_and(|w| WITH_VALUE.contains(&w)) => {
                last.push(',');
                last.push_str(value);
            }
            _ => out.push(arg),
        }
    }
    out
}

/// Longest first line of an executable; Linux reads up to 256 bytes of it.
pub const LAUNCH_MAX: usize = 256;

/// The first line of a program whose name doesn't end in `.wasm`: with it `./prog` runs here, as a program of another compiler would. That is what
/// configure scripts try, and `make check`.
fn launcher() -> Option<String> {
    let exe = std::env::current_exe().ok().filter(|e| e.file_name().is_some_and(|n| n == "cloudskin"))?;
    let line = format!("#!{} exec\n", exe.to_str()?);
    (line.len() <= LAUNCH_MAX && !line[..line.len() - " exec\n".len()].contains(char::is_whitespace)).then_some(line)
}

/// The module in a file that [`main`] has made: all but the line that makes it executable.
pub fn module(file: &[u8]) -> &[u8] {
    let line = file.iter().take(LAUNCH_MAX).position(|b| *b == b'\n').map_or(0, |end| end + 1);
    if file.starts_with(b"#!") { &file[line..] } else { file }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Compile,
    Link,
}

/// What zig says about arguments that it made itself.
fn is_noise(line: &str) -> bool {
    line.contains("argument unused during compilation: '-c'") || line.contains("argument unused during compilation: '-mcpu=") || line.contains("use --target=wasm32-wasip1 instead [-Wdeprecated]")
}

/// What an archive begins with.
const ARCHIVE: &[u8] = b"!<arch>\n";
/// How objects name a program's `main`, with arguments and without, each behind its length.
const MAIN: &[&[u8]] = &[b"\x10__main_argc_argv", b"\x0f__original_main"];

/// Calls that start other programs. They are there, and fail.
const COMMANDS: &[&str] = &["system", "popen", "execve", "execv", "execvp", "execl", "execlp", "execle"];

/// What cells lack in this version, by the words that a failing compiler or linker uses for it. `name()`: whatever the words, `name` is what they miss.
const LACKING: &[(&[&str], &str)] = &[
    (&["with exceptions disabled"], "what is compiled with -fno-exceptions has no C++ exceptions (try, catch, throw)"),
    (&["'thread' in namespace 'std'", "'mutex' in namespace 'std'", "'condition_variable' in namespace 'std'", "'async' in namespace 'std'", "'promise' in namespace 'std'"], "C++ has threads with -pthread (std::thread, std::mutex); give it to all compilations and to the linker"),
    (&["execvpe()", "fexecve()", "posix_spawn()", "posix_spawnp()", "waitid()", "wait3()", "wait4()", "setsid()", "setpgid()"],
        "a cell starts no other programs, and of processes it has fork, wait, waitpid, kill of a child, pipe, socketpair and dup; sessions and process groups aren't supported in this version"),
    (&["alarm()", "ualarm()", "setitimer()", "timer_create()", "pause()", "sigsuspend()", "sigwait()", "sigtimedwait()"],
        "of signals only those that a program sends to itself are supported in this version (no alarm, no timers, no waiting for one); MPI_Wtime tells the time"),
    (&["undefined symbol: thrd_", "undefined symbol: mtx_", "undefined symbol: cnd_", "undefined symbol: tss_"], "threads aren't supported in this version (<threads.h>)"),
    (&["tmpfile()", "tmpnam()", "tempnam()", "mktemp()"],
        "a cell has no place of its own for temporary files (tmpfile, tmpnam); mkstemp makes one in the bucket that it is told, and remove() ends it"),
    (&["setuid()", "setgid()", "seteuid()", "getgrgid()", "getgrnam()", "getpwent()"], "a cell has one user and no list of users and groups"),
    (&["undefined symbol: __cxa_", "undefined symbol: __cpp_exception", "undefined symbol: operator new"], "C++ is linked by `cloudskin c++`, and with exceptions unless it is told -fno-exceptions"),
    (&["--shared-memory is disallowed by"], "all that is linked into a program with threads must have been compiled with -pthread or -fopenmp, archives too"),
    (&["undefined symbol: __kmpc_", "undefined symbol: omp_"], "OpenMP is linked by -fopenmp"),
    (&["undefined symbol: pthread_", "undefined symbol: sem_"], "threads are linked by -pthread; pthread_cancel, priorities and what shares memory between processes aren't supported in this version"),
    (&["undefined symbol: dlopen", "undefined symbol: dlsym"], "shared libraries aren't supported in this version (dlopen)"),
    (&["socket()", "connect()", "bind()", "listen()", "getaddrinfo()", "gethostbyname()", "'netdb.h' file not found"],
        "sockets aren't supported in this version; ranks talk through MPI"),
    (&["'sys/ptrace.h'", "'sys/shm.h'", "'sys/ipc.h'", "undefined symbol: shm", "undefined symbol: mmap"], "shared memory between processes isn't supported in this version"),
];

fn explain(text: &str) -> Vec<&'static str> {
    let says = |line: &str, word: &str| word.strip_suffix("()").map_or(line.contains(word), |name| missed(line) == Some(name));
    let said = |words: &&[&str]| text.lines().any(|line| is_trouble(line) && words.iter().any(|w| says(line, w)));
    LACKING.iter().filter(|(words, _)| said(words)).map(|(_, note)| *note).collect()
}

/// An error's own line, not the source text under it.
fn is_trouble(line: &str) -> bool {
    line.contains("error") || line.contains("undefined symbol")
}

/// The name that an error's line is about, if it is that nobody declares or defines it.
fn missed(line: &str) -> Option<&str> {
    const WORDS: [&str; 5] = ["undefined symbol: ", "undeclared function '", "undeclared identifier '", "unknown type name '", "incomplete type 'struct "];
    let name = WORDS.iter().find_map(|words| line.split_once(words))?.1;
    name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()
}

/// GNU ar can't read WebAssembly objects, so its archives lack the index that the linker needs. Then: a copy with one.
fn indexed_archive(arg: &str, number: usize, scratch: &Scratch, compiler: &Compiler) -> Result<Option<PathBuf>, Error> {
    use std::io::Read;
    if arg.starts_with('-') || !arg.ends_with(".a") {
        return Ok(None);
    }
    let mut head = [0u8; 10];
    let read = std::fs::File::open(arg).and_then(|mut f| f.read_exact(&mut head));
    // An unreadable file is the linker's to report. "/ " is the index's name.
    if read.is_err() || !head.starts_with(ARCHIVE) || &head[8..] == b"/ " {
        return Ok(None);
    }
    let copy = scratch.path(&format!("archive-{number}.a"));
    std::fs::copy(arg, &copy).map_err(|e| Error::io("copy", arg, e))?;
    let mut command = compiler.command("ranlib");
    command.arg(&copy);
    let output = command.output().map_err(|source| Error::Spawn { program: compiler.path().into(), source })?;
    if output.status.success() {
        return Ok(Some(copy));
    }
    Err(Error::Tool { program: "zig ranlib", output: String::from_utf8_lossy(&output.stderr).into_owned() })
}

/// The contents of an archive's members (System V's format, `ar`), without its index and its table of long names; as far as they are whole.
fn members(archive: &[u8]) -> Vec<&[u8]> {
    const HEAD: usize = 60;
    let (mut all, mut rest) = (Vec::new(), archive.get(ARCHIVE.len()..).unwrap_or_default());
    while let Some(head) = rest.get(..HEAD) {
        let size = std::str::from_utf8(&head[48..58]).ok().and_then(|text| text.trim_end().parse::<usize>().ok());
        let Some(content) = size.and_then(|size| rest.get(HEAD..HEAD.checked_add(size)?)) else { break };
        if head[0] != b'/' || head[1].is_ascii_digit() {
            all.push(content);
        }
        // Members begin at even places.
        rest = rest.get(HEAD + content.len().next_multiple_of(2)..).unwrap_or_default();
    }
    all
}

/// The name section stores a length and the name.
fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

/// `dir/name.c` becomes `name.<extension>` in the current folder.
fn beside(source: &str, extension: &str) -> PathBuf {
    PathBuf::from(Path::new(source).file_name().unwrap_or_default()).with_extension(extension)
}

/// A process killed by a signal counts as failed.
fn code(status: std::process::ExitStatus) -> u8 {
    status.code().map_or(1, |c| c.clamp(0, 255) as u8)
}

/// Replaces `@file` by the words in that file, as gcc does; a file that can't be read stays as it is.
fn expand(args: Vec<OsString>) -> Result<Vec<String>, Error> {
    let mut out = Vec::new();
    let mut budget = RESPONSE_BYTES_MAX;
    for arg in args {
        let arg = arg.into_string().map_err(|a| Error::Usage(format!("argument {a:?} is not UTF-8")))?;
        expand_one(arg, 0, &mut budget, &mut out)?;
    }
    Ok(out)
}

fn expand_one(arg: String, depth: u32, budget: &mut u64, out: &mut Vec<String>) -> Result<(), Error> {
    let Some(size) = arg.strip_prefix('@').and_then(|path| std::fs::metadata(path).ok()).filter(|m| m.is_file()).map(|m| m.len()) else {
        out.push(arg);
        return Ok(());
    };
    if depth == RESPONSE_DEPTH_MAX || size > *budget {
        return Err(Error::Usage(format!("{arg}: response files nested deeper than {RESPONSE_DEPTH_MAX} or longer than {RESPONSE_BYTES_MAX} bytes")));
    }
    *budget -= size;
    let text = std::fs::read_to_string(&arg[1..]).map_err(|e| Error::io("read", &arg[1..], e))?;
    for word in split_words(&text) {
        expand_one(word, depth + 1, budget, out)?;
    }
    Ok(())
}

/// Words between blanks; quotes of both kinds and backslashes protect.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', q) if q != Some('\'') => word.get_or_insert_default().extend(chars.next()),
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_string).collect()
    }

    /// `mode | sources | output | compile flags | link words`, sources in the link words as #number.
    fn check(line: &str, expected: &str) {
        let plan = parse(Lang::C, words(line)).unwrap();
        let link: Vec<String> = plan
            .link
            .iter()
            .map(|l| match l {
                Link::Source(n) => format!("#{n}"),
                Link::Arg(a) => a.clone(),
            })
            .collect();
        let sources: Vec<&str> = plan.sources.iter().map(|s| s.path.as_str()).collect();
        let got = format!(
            "{:?} | {} | {} | {} | {}",
            plan.mode,
            sources.join(" "),
            plan.output.as_deref().unwrap_or(""),
            plan.compile.join(" "),
            link.join(" ")
        );
        assert_eq!(got, expected, "{line}");
    }

    fn refused(line: &str, expected: &str) {
        let message = parse(Lang::C, words(line)).unwrap_err().to_string();
        assert!(message.contains(expected), "{line}: {message}");
    }

    #[test]
    fn ordinary_command_lines() {
        check("a.c", "Link | a.c |  |  | #0");
        check("-O2 -Wall -c dir/a.c", "Object | dir/a.c |  | -O2 -Wall | #0");
        check("-c a.c -o b.o -MD -MF x.d -MT b.o", "Object | a.c | b.o | -MD -MF x.d -MT b.o | #0");
        check("a.c b.o c.cc libx.a -lfoo -Llib -oprog", "Link | a.c c.cc | prog |  | #0 b.o #1 libx.a -lfoo -Llib");
        check("-I inc -D X=1 -DY -include z.h a.c", "Link | a.c |  | -I inc -D X=1 -DY -include z.h | #0");
        check("-fsyntax-only a.c", "Check | a.c |  |  | #0");
        check("-E a.c", "Print | a.c |  | -E | #0");
        check("-c -MM a.c", "Print | a.c |  | -MM | #0");
        check("-S -c a.c", "Assembly | a.c |  |  | #0");
        check("-O9 a.c", "Link | a.c |  | -O3 | #0");
        check("-x c conf -x none b.o", "Link | conf |  |  | #0 b.o");
        check("a.o -l m -l mpi -lpthread -l z", "Link |  |  |  | a.o -lz");
        check("-- -odd.c", "Link | -odd.c |  |  | #0");
    }

    #[test]
    fn questions_are_handed_on() {
        check("--version", "Query |  |  |  | ");
        check("-v", "Query |  |  |  | ");
        check("-print-prog-name=ld", "Query |  |  |  | ");
        check("-v a.c", "Link | a.c |  |  | #0");
    }

    #[test]
    fn the_line_that_starts_a_program_is_not_the_module() {
        assert_eq!(module(b"#!/bin/cloudskin exec\n\0asm\x01"), b"\0asm\x01");
        assert_eq!(module(b"\0asm\x01\n"), b"\0asm\x01\n");
        assert_eq!(module(b""), b"");
    }

    #[test]
    fn native_linker_flags() {
        check("a.o -Wl,-rpath,/x -Wl,--as-needed -Wl,-z,relro,-z,now", "Link |  |  |  | a.o");
        check("a.o -Wl,-z -Wl,relro -Wl,-z -Wl,now x.a", "Link |  |  |  | a.o x.a");
        check("a.o -Wl,-z,stack-size=65536 -Xlinker --export=f", "Link |  |  |  | a.o -Wl,-z,stack-size=65536 -Wl,--export=f");
        check("a.o -Wl,--start-group,x.a,-lm,-lq,--end-group", "Link |  |  |  | a.o x.a -lq");
        check("-static -fPIC -s -pipe -m64 -march=native a.c", "Link | a.c |  |  | #0");
        assert_eq!(parse(Lang::C, words("-march=native -m64 a.c")).unwrap().notes.len(), 2);
        for (value, notes) in [("off", 0), ("fast", 1)] {
            assert_eq!(parse(Lang::C, vec![format!("-ffp-contract={value}"), "a.c".into()]).unwrap().notes.len(), notes, "{value}");
        }
        assert!(parse(Lang::C, words("a.c")).unwrap().safe_points && !parse(Lang::C, words("-fno-safe-points a.c")).unwrap().safe_points);
    }

    #[test]
    fn the_last_word_on_debug_information_counts() {
        for (line, debug) in [("a.c", false), ("-g a.c", true), ("-ggdb3 -O2 a.c", true), ("-g1 a.c -g0", false), ("-g0 a.c -gdwarf-5", true), ("-gz a.c", false)] {
            assert_eq!(parse(Lang::C, words(line)).unwrap().debug, debug, "{line}");
        }
    }

    #[test]
    fn openmp_brings_threads() {
        let made = |line: &str| {
            let plan = parse(Lang::C, words(line)).unwrap();
            (plan.threads, plan.openmp)
        };
        assert_eq!(made("a.c -lpthread"), (false, false));
        assert_eq!(made("-pthread a.c"), (true, false));
        assert_eq!(made("-fopenmp a.c"), (true, true));
        assert_eq!(made("-fopenmp-simd a.c"), (false, false));
        check("-fopenmp a.o -lgomp -lm", "Link |  |  |  | a.o");
    }

    #[test]
    fn what_cells_lack_is_said() {
        refused("-fopenmp-targets=nvptx64 a.c", "no other devices");
        refused("-shared a.o", "shared libraries");
        refused("libx.so.1", "shared libraries");
        refused("-static-pie a.c", "-static-pie");
        refused("-m32 a.c", "wasm32");
        refused("a.f90", "Fortran");
        refused("--target=x86_64-linux-gnu a.c", "wasm32-wasi");
        refused("-c", "no input files");
        refused("-lm", "no input files");
        refused("-o", "-o needs a value");
        refused("-c a.c b.c -o x.o", "one source");
    }

    #[test]
    fn failures_are_explained_once() {
        assert_eq!(explain("wasm-ld: error: a.o: undefined symbol: setsid\n"), [LACKING[2].1]);
        assert_eq!(explain("a.cc:1:9: error: cannot use 'throw' with exceptions disabled\n"), [LACKING[0].1]);
        assert_eq!(explain("a.cc:3:6: error: no type named 'mutex' in namespace 'std'\n"), [LACKING[1].1]);
        assert_eq!(explain("wasm-ld: error: a.o: undefined symbol: shmget\n"), [LACKING[LACKING.len() - 1].1]);
        assert!(explain("a.c:3: error: expected ';'\n   3 | setjmp(x)\n").is_empty());
        assert_eq!(explain("a.c:1:5: error: call to undeclared function 'wait4'; ISO C99\na.c:9:1: error: use of undeclared identifier 'waitid'\n"), [LACKING[2].1]);
        assert!(explain("wasm-ld: error: a.o: undefined symbol: setsid_lift\nwasm-ld: error: a.o: undefined symbol: my_socket\n").is_empty());
    }

    #[test]
    fn response_files_are_split_like_gcc_does() {
        let check = |text: &str, expected: &[&str]| assert_eq!(split_words(text), expected, "{text}");
        check("a  b\n\tc", &["a", "b", "c"]);
        check(r#"-DX="a b" 'c \ d' e\ f """#, &["-DX=a b", r"c \ d", "e f", ""]);
        check("", &[]);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("args");
        std::fs::write(&file, format!("-c @{}", file.display())).unwrap();
        assert!(expand(vec![format!("@{}", file.display()).into()]).unwrap_err().to_string().contains("nested"));
        assert_eq!(expand(vec!["@absent".into()]).unwrap(), ["@absent"]);
    }
}
