//! The CloudSkin binary: every role and every command of the platform.
//!
//! [`args`] says what can be typed, [`dispatch`] takes it to the file that does it. Commands that ask something of a running
//! platform go through [`client`], which speaks the hub's HTTP; the roles (`hub`, `agent`) are processes that [`up`] starts.
//!
//! What this crate does not do: it decides nothing about jobs, objects or moves. That is the hub's and the agents' work.

mod agent;
mod api;
mod args;
mod client;
mod compile;
mod demo;
mod digest;
mod failure;
mod files;
mod gantt;
mod jobs;
mod place;
mod progress;
mod role;
mod share;
mod show;
mod store;
mod stream;
mod table;
mod top;
mod traces;
mod up;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    base::identity::install_crypto();
    // A compiler's arguments are a compiler's: clap must not see `-o` or `--help` of theirs.
    let raw: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if let Some(tool) = raw.get(1).and_then(|a| a.to_str()).filter(|a| compile::RAW.contains(a)) {
        if raw.len() == 3 && (raw[2] == "--help" || raw[2] == "-h") {
            let mut all = <Cli as clap::CommandFactory>::command();
            all.build();
            let own = all.find_subcommand_mut(tool).expect("each raw tool is a command");
            return finish(table::say(&own.render_help().to_string()).map(|()| 0));
        }
        return finish(compile::main(tool, &raw[2..]));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { base::Kind::InvalidArgument.exit() } else { 0 });
        }
    };
    let traces = log(cli.verbose);
    finish(start(cli, traces))
}

fn start(cli: Cli, traces: Option<traces::Waiting>) -> anyhow::Result<u8> {
    if let Command::Up(_) | Command::Hub(_) | Command::Agent(_) | Command::Stream(args::Stream::Serve(_)) = &cli.command {
        // What a part of the platform writes is its user's alone, whichever library writes it.
        // SAFETY: umask has no memory effects, and no other thread is there yet.
        unsafe { libc::umask(0o077) };
    }
    // Threads inherit their maker's cores, so an agent is pinned before the runtime has any.
    if let Command::Agent(agent) = &cli.command
        && let Some(cores) = &agent.cores
    {
        share::pin(&cores.0)?;
    }
    // Threads inherit their maker's fences, too.
    if let Command::Agent(_) = &cli.command {
        agent::reach::confine(&place::Place::of(&cli))?;
    }
    if let Command::Agent(_) = &cli.command
        && let Err(error) = cells::fence::process()
    {
        tracing::warn!(%error, "the agent runs without a filter of its system calls");
    }
    // At least two, also where an agent has one core: a task that holds up its worker must not hold up the ports as well.
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().max(2));
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?.block_on(async {
        let exporter = traces.map(traces::Exporter::start);
        let outcome = dispatch(cli).await;
        if let Some(exporter) = exporter {
            exporter.end().await;
        }
        outcome
    })
}

async fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    let place = place::Place::of(&cli);
    let output = cli.output;
    match cli.command {
        Command::Up(o) => up::up(&place, o).await,
        Command::Down => up::down(&place).await,
        Command::Hub(o) => role::hub(&place, o).await,
        Command::Agent(o) => agent::run(&place, o).await,
        Command::Site(args::Site::Join(o)) => show::join(&place.client()?, o, output).await,
        Command::Site(args::Site::Rm { site }) => show::remove_site(&place.client()?, &site, output).await,
        // Reached as `cloudskin --verbose cc …`: what stands before the tool's name was ours, the rest is the tool's.
        Command::Cc(raw) => compile::main("cc", &raw.args),
        Command::Cxx(raw) => compile::main("c++", &raw.args),
        Command::Ar(raw) => compile::main("ar", &raw.args),
        Command::Exec(raw) => compile::main("exec", &raw.args),
        Command::Ranlib(raw) => compile::main("ranlib", &raw.args),
        Command::Run(o) => jobs::run(&place.client()?, o, output).await,
        Command::Get(o) => show::get(&place.client()?, o, output).await,
        Command::Describe(o) => show::describe(&place.client()?, o, output).await,
        Command::Top(o) => top::top(&place.client()?, o, output).await,
        Command::Logs(o) => jobs::logs(&place.client()?, o, output).await,
        Command::Migrate(o) => jobs::migrate(&place.client()?, o, output).await,
        Command::Checkpoint(o) => jobs::checkpoint(&place.client()?, o, output).await,
        Command::Restore(o) => jobs::restore(&place.client()?, o, output).await,
        Command::Cancel(o) => jobs::cancel(&place.client()?, o, output).await,
        Command::Store(o) => store::store(&place.client()?, o, output).await,
        Command::Stream(o) => stream::stream(&place, o, output).await,
        Command::Explain(o) => show::explain(&place.client()?, o, output).await,
        Command::Inspect(o) => compile::inspect(&o.file),
        Command::Compile(o) => compile::ahead(&o),
        Command::Demo(o) => demo::demo(&place, o).await,
        Command::Completions(o) => {
            let mut text = Vec::new();
            clap_complete::generate(o.shell, &mut <Cli as clap::CommandFactory>::command(), "cloudskin", &mut text);
            table::bytes(&text).map(|()| 0)
        }
    }
}

fn finish(outcome: anyhow::Result<u8>) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("error: {}", failure::line(&e));
            ExitCode::from(failure::kind(&e).exit())
        }
    }
}

/// The log on stderr; and, where the environment names a collector, spans that wait to be sent there.
fn log(verbose: u8) -> Option<traces::Waiting> {
    use tracing_subscriber::{EnvFilter, Layer, fmt::format::FmtSpan, layer::SubscriberExt, util::SubscriberInitExt};
    let default = ["warn", "info", "debug"][usize::from(verbose.min(2))];
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let shown = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // Of spans that are asked for, such as those of the object store: how long they took.
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_filter(filter);
    let (sent, waiting) = traces::from_environment().unzip();
    tracing_subscriber::registry().with(shown).with(sent.map(|traces| traces.with_filter(traces::OfTheStore))).init();
    waiting
}
