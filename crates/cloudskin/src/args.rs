//! What can be typed. Each command's help ends in an example; what a command does is in the file that [`crate::dispatch`] names.

use base::{SiteId, unit::{Bytes, Span}};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf};

/// Runs ordinary C, C++ and MPI programs on an edge and a cloud as if they were one computer.
#[derive(Debug, Parser)]
#[command(name = "cloudskin", version, arg_required_else_help = true)]
#[command(after_help = "Example: cloudskin up   and, in another terminal,   cloudskin get sites")]
pub struct Cli {
    /// Folder of the installation [default: $CLOUDSKIN_DATA, else ~/.local/share/cloudskin]
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// How to print answers
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Log more to stderr; twice for more still (RUST_LOG takes precedence)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a hub, two agents, `edge` and `cloud`, and a stream server on this machine
    #[command(after_help = "Example: cloudskin up --http 127.0.0.1:7070\n\nCtrl-C stops everything; jobs, objects and sites are found again at the next start.")]
    Up(Up),
    /// Stop what `up` started
    #[command(after_help = "Example: cloudskin down --data /srv/cloudskin")]
    Down,
    /// Run the hub alone (for installations on several machines)
    #[command(after_help = "Example: cloudskin hub --http 127.0.0.1:7070 --grpc 10.0.0.1:7071\n\nHTTP has no encryption of its own: leave it on this machine, or put a proxy with TLS in front of it.")]
    Hub(Hub),
    /// Run an agent alone; `cloudskin site join` prints the command to start it with
    #[command(after_help = "Example: cloudskin agent --site field --hub 10.0.0.1:7071 --join TOKEN --ca-sha256 HEX")]
    Agent(Agent),
    /// Sites: let another machine join, or forget one
    #[command(subcommand, after_help = "Example: cloudskin site join field --ttl 10m")]
    Site(Site),
    /// Compile C to a module that can move (takes a C compiler's options)
    #[command(disable_help_flag = true, after_help = "Example: cloudskin cc -O3 prog.c -o prog.wasm\n\nAlso for build systems: CC=\"cloudskin cc\" ./configure && make. Without .wasm at its end, the program can be started here, too.")]
    Cc(Raw),
    /// Compile C++ to a module that can move (takes a C++ compiler's options)
    #[command(name = "c++", disable_help_flag = true, after_help = "Example: cloudskin c++ -O3 prog.cc -o prog.wasm")]
    Cxx(Raw),
    /// Make archives of objects (takes the options of ar)
    #[command(disable_help_flag = true, after_help = "Example: cloudskin ar rcs libx.a x.o")]
    Ar(Raw),
    /// Index an archive (takes the options of ranlib)
    #[command(disable_help_flag = true, after_help = "Example: cloudskin ranlib libx.a")]
    Ranlib(Raw),
    /// Run a program here, without a platform, as one process with your own files
    #[command(disable_help_flag = true, after_help = "Example: cloudskin exec prog.wasm input.dat\n\nCLOUDSKIN_NP=4 in the environment gives it 4 ranks. A program compiled with `-o prog` (not prog.wasm) does this by itself when it is started: ./prog input.dat")]
    Exec(Raw),
    /// Run a module as a job and follow its output; ends with the job's exit code
    #[command(after_help = "Example: cloudskin run --np 4 --site edge prog.wasm -- /scenes/scene.tif /out\n\nThe program sees its buckets as folders below /. Without --bucket these are the working directory's and the first part of\neach argument that begins with /. Ctrl-C (SIGTERM, SIGHUP) cancels the job; a second one does not wait for its end.")]
    Run(Run),
    /// List sites, jobs, migrations, recommendations, buckets, events or checkpoints
    #[command(after_help = "Example: cloudskin get jobs -o json")]
    Get(Get),
    /// Show one site, job or migration with all that is known of it
    #[command(after_help = "Example: cloudskin describe job job-1")]
    Describe(Describe),
    /// Watch what jobs and their ranks use: processor, memory, messages and with whom
    #[command(after_help = "Example: cloudskin top\n         cloudskin top job-1 --json\n\nOn a terminal it goes on until Ctrl-C; anywhere else it is one table. CORES is what a rank got of the processors, WANTED the same plus what it\nstood ready for. SENT and RECEIVED are messages (and their bytes) since the job began, MOST WITH the ranks with which most bytes were exchanged.")]
    Top(Top),
    /// Print what a job has written to stdout and stderr
    #[command(after_help = "Example: cloudskin logs job-1 -f --rank 0\n\nWith -o json, each line is an object of its own: {\"job\": \"job-1\", \"rank\": 0, \"text\": \"…\"}; rank is null for all ranks.")]
    Logs(Logs),
    /// Move a running job, or some of its ranks, to another site
    #[command(after_help = "Example: cloudskin migrate job-1 --to cloud --rank 0 --rank 1 --wait")]
    Migrate(Migrate),
    /// Write a running job's state down, and optionally fetch it as one file; fetch or remove a stored one
    #[command(after_help = "Example: cloudskin checkpoint job-1 --out job-1.snapshot\n         cloudskin checkpoint 3 --out job-1.snapshot   fetches the stored checkpoint 3 of `cloudskin get checkpoints`\n         cloudskin checkpoint 3 --rm   removes it")]
    Checkpoint(Checkpoint),
    /// Start a job from a checkpoint: its file, or the number of a stored one
    #[command(after_help = "Example: cloudskin restore job-1.snapshot --site cloud\n         cloudskin restore 3   from the stored checkpoint 3 of `cloudskin get checkpoints`")]
    Restore(Restore),
    /// Stop a job
    #[command(after_help = "Example: cloudskin cancel job-1 --reason \"wrong image\"")]
    Cancel(Cancel),
    /// Put, get, list, remove and spill objects
    #[command(subcommand, after_help = "Example: cloudskin store put scene.tif scenes/scene.tif --site edge")]
    Store(Store),
    /// Streams: serve them, and create, write, read, scale and end them
    #[command(subcommand, after_help = "Example: cloudskin stream serve   and, in another terminal,   cloudskin stream create road/camera")]
    Stream(Stream),
    /// Say why a move was advised
    #[command(after_help = "Example: cloudskin explain 1\n         cloudskin explain job-1")]
    Explain(Explain),
    /// Say what a module is and whether it can move
    #[command(after_help = "Example: cloudskin inspect prog.wasm")]
    Inspect(Inspect),
    /// Compile a module ahead of time for another kind of machine
    #[command(after_help = "Example: cloudskin compile prog.wasm --target aarch64 --into cache\n\nThe file belongs into the folder `cache` of an agent's data on such a machine, of this version of CloudSkin; the agent then compiles nothing\nwhen it gets the module. It is machine code, which an agent believes: take it from nobody whom you would not let start programs there.")]
    Compile(Compile),
    /// Watch a satellite image being computed at the edge and finish in the cloud
    #[command(after_help = "Example: cloudskin demo --out pictures --keep\n\nExit code 0 only if all ranks moved, the output is that of the run that stayed, byte for byte, and that run took longer.")]
    Demo(Demo),
    /// Print completions for a shell
    #[command(after_help = "Example: cloudskin completions bash > ~/.local/share/bash-completion/completions/cloudskin")]
    Completions(Completions),
}

#[derive(Debug, Args)]
pub struct Raw {
    /// The tool's own options and files
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION OR FILE")]
    pub args: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub struct Up {
    /// Address of HTTP and the dashboard; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDR")]
    pub http: SocketAddr,
    /// Address on which agents reach the hub; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub grpc: SocketAddr,
    /// Ranks that each agent takes at once
    #[arg(long, default_value_t = 16)]
    pub slots: u32,
    /// Address of the edge's stream server (Pravega's controller) [default: 127.0.0.1:9090, or a free port if that one is taken]
    #[arg(long, value_name = "ADDR", conflicts_with = "no_streams")]
    pub streams: Option<SocketAddr>,
    /// Start no stream server
    #[arg(long)]
    pub no_streams: bool,
    /// Let the cloud's agent follow the hub's namenode, and take over from it when it is gone
    #[arg(long)]
    pub standby: bool,
    /// Go on in the background; `cloudskin down` stops it
    #[arg(long)]
    pub detach: bool,
}

#[derive(Debug, Args)]
pub struct Hub {
    /// Address of HTTP and the dashboard
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDR")]
    pub http: SocketAddr,
    /// Address on which agents reach the hub
    #[arg(long, default_value = "127.0.0.1:7071", value_name = "ADDR")]
    pub grpc: SocketAddr,
    /// host:port under which agents on other machines reach it [default: the address of --grpc]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// HTTP address of a stream server, for the dashboard
    #[arg(long, value_name = "ADDR")]
    pub streams: Option<SocketAddr>,
    /// User for a stream server that asks for one; the password is in the environment, CLOUDSKIN_STREAM_PASSWORD
    #[arg(long, value_name = "NAME", requires = "streams")]
    pub streams_user: Option<String>,
    /// The site whose agent follows the namenode, and takes over from it when the hub is gone
    #[arg(long, value_name = "SITE", requires = "referee")]
    pub standby: Option<SiteId>,
    /// Where it is written down which of the two leads; both must reach it: file:/shared/folder, s3://bucket, gs://bucket or az://container
    #[arg(long, value_name = "PLACE", requires = "standby")]
    pub referee: Option<String>,
}

#[derive(Debug, Args)]
pub struct Agent {
    /// The site that this agent is
    #[arg(long)]
    pub site: SiteId,
    /// host:port on which the hub awaits agents
    #[arg(long, value_name = "HOST:PORT")]
    pub hub: String,
    /// Token for the first start; later starts use the certificate that it was traded for
    #[arg(long, value_name = "TOKEN", env = "CLOUDSKIN_JOIN_TOKEN", hide_env_values = true)]
    pub join: Option<String>,
    /// SHA-256 of the installation's authority, to know the hub at the first start
    #[arg(long, value_name = "HEX", env = "CLOUDSKIN_CA_SHA256", requires = "join")]
    pub ca_sha256: Option<String>,
    /// Cores for ranks, such as 0,2-3 [default: all]
    #[arg(long, value_name = "LIST")]
    pub cores: Option<crate::share::Cores>,
    /// Address on which it listens for other agents
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// host:port under which other agents reach it [default: the address of --listen]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Memory for ranks [default: 40 % of the machine's]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Bytes>,
    /// Ranks that it takes at once
    #[arg(long, default_value_t = 16)]
    pub slots: u32,
}

#[derive(Debug, Subcommand)]
pub enum Site {
    /// Make a token for a new site and print the command for its machine
    #[command(after_help = "Example: cloudskin site join field --ttl 10m\n\nA name is one agent's: that of a site that is known is refused, unless its agent is gone for good and --replace says so.")]
    Join(Join),
    /// Forget a site whose agent has ended, and let it in no more
    #[command(after_help = "Example: cloudskin site rm field\n\nWhat is stored only there is lost.")]
    Rm {
        /// The site's name, as `cloudskin get sites` lists it
        site: SiteId,
    },
}

#[derive(Debug, Args)]
pub struct Join {
    /// Name of the new site: lower-case letters, digits and -
    pub site: SiteId,
    /// How long the token is good for
    #[arg(long, default_value = "10m")]
    pub ttl: Span,
    /// The site's agent is gone for good: give up what it holds, and let another take its place
    #[arg(long)]
    pub replace: bool,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Ranks
    #[arg(long, short = 'n', default_value_t = 1)]
    pub np: u32,
    /// Where to start [default: where there is room]
    #[arg(long)]
    pub site: Option<SiteId>,
    /// Name for people [default: the module's file name]
    #[arg(long)]
    pub name: Option<String>,
    /// A bucket that the program may use, as /BUCKET; repeatable
    #[arg(long = "bucket", value_name = "BUCKET", value_parser = bucket)]
    pub buckets: Vec<String>,
    /// An environment variable for the program; repeatable
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = key_value)]
    pub env: Vec<String>,
    /// Whom to count the job to
    #[arg(long, default_value = "default")]
    pub tenant: String,
    /// Most memory per rank, such as 512MiB; 4GiB at most
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory_max: Option<Bytes>,
    /// Stop the job after this time, such as 10m
    #[arg(long, value_name = "TIME")]
    pub time_max: Option<Span>,
    /// Write a checkpoint each so often, such as 10s: mostly what has changed since the one before
    #[arg(long, value_name = "TIME")]
    pub checkpoint_every: Option<Span>,
    /// Never advise a move of this job
    #[arg(long)]
    pub pinned: bool,
    /// What makes its code: quick (Cranelift), fast (LLVM) or interpreter [default: what each site has chosen]
    #[arg(long)]
    pub tier: Option<cells::Tier>,
    /// Submit, print the job's name and leave
    #[arg(long)]
    pub detach: bool,
    /// Where the program's relative paths resolve
    #[arg(long, default_value = "/out", value_name = "DIR")]
    pub workdir: String,
    /// The module, made by `cloudskin cc`
    #[arg(value_name = "PROG.WASM")]
    pub module: PathBuf,
    /// The program's arguments
    #[arg(last = true)]
    pub args: Vec<String>,
}

fn bucket(text: &str) -> Result<String, String> {
    geds::BucketName::new(text).map(String::from).map_err(|e| e.to_string())
}

fn memory(text: &str) -> Result<Bytes, String> {
    let size: Bytes = text.parse().map_err(|e: base::unit::BadUnit| e.to_string())?;
    // From a page of WebAssembly's to all that it can address.
    if (64 << 10..=4 << 30).contains(&size.0) { Ok(size) } else { Err("a rank can have 64KiB to 4GiB".into()) }
}

fn key_value(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(text.into()),
        _ => Err("write KEY=VALUE".into()),
    }
}

#[derive(Debug, Args)]
pub struct Get {
    /// What to list
    pub what: What,
    /// Only this one (of buckets: its objects)
    pub id: Option<String>,
    /// Of jobs only those in this state
    #[arg(long, value_enum)]
    pub state: Option<JobState>,
    /// Of events at most so many, the last ones
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// With -o json or yaml also the last two minutes of each site's load
    #[arg(long)]
    pub history: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JobState {
    Pending,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    #[value(alias = "site")]
    Sites,
    #[value(alias = "job")]
    Jobs,
    #[value(alias = "migration")]
    Migrations,
    #[value(alias = "recommendation")]
    Recommendations,
    #[value(alias = "bucket")]
    Buckets,
    #[value(alias = "event")]
    Events,
    #[value(alias = "checkpoint")]
    Checkpoints,
}

#[derive(Debug, Args)]
pub struct Describe {
    /// What to describe
    pub what: Describable,
    /// Its name or number, as `cloudskin get` lists it
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Describable {
    Site,
    Job,
    Migration,
}

#[derive(Debug, Args)]
pub struct Top {
    /// Only this job, such as job-1
    pub job: Option<String>,
    /// How often a terminal is refreshed
    #[arg(long, default_value = "1s", value_name = "TIME")]
    pub every: Span,
    /// One table on a terminal, too
    #[arg(long)]
    pub once: bool,
    /// The hub's own words, once, with all peers (as -o json)
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Logs {
    /// The job's name, such as job-1
    pub job: String,
    /// Go on until the job ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only this rank
    #[arg(long)]
    pub rank: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Migrate {
    /// The job's name, such as job-1
    pub job: String,
    /// The site to go to
    #[arg(long)]
    pub to: SiteId,
    /// Only this rank; repeatable [default: all that are elsewhere]
    #[arg(long = "rank", value_name = "N")]
    pub ranks: Vec<u32>,
    /// Wait until it is done and say what it cost
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Args)]
pub struct Checkpoint {
    /// The job's name, such as job-1; or the number of a stored checkpoint
    #[arg(value_name = "JOB OR NUMBER")]
    pub job: String,
    /// Fetch the checkpoint into this file
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Remove the stored checkpoint of this number
    #[arg(long, conflicts_with = "out")]
    pub rm: bool,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// A file that `cloudskin checkpoint --out` wrote, or the number of a stored checkpoint (./3 is a file)
    #[arg(value_name = "FILE OR NUMBER")]
    pub file: PathBuf,
    /// Where to start [default: where there is room]
    #[arg(long)]
    pub site: Option<SiteId>,
}

#[derive(Debug, Args)]
pub struct Cancel {
    /// The job's name, such as job-1
    pub job: String,
    /// What the others shall read
    #[arg(long)]
    pub reason: Option<String>,
}

/// A stream by its full name.
#[derive(Clone, Debug)]
pub struct StreamName {
    pub scope: String,
    pub name: String,
}

impl std::str::FromStr for StreamName {
    type Err = String;
    fn from_str(text: &str) -> Result<StreamName, String> {
        match text.split_once('/') {
            Some((scope, name)) if !scope.is_empty() && !name.is_empty() && !name.contains('/') => Ok(StreamName { scope: scope.into(), name: name.into() }),
            _ => Err("write SCOPE/STREAM, such as road/camera".into()),
        }
    }
}
impl std::fmt::Display for StreamName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.scope, self.name)
    }
}

/// A place in a segment of a stream.
#[derive(Clone, Copy, Debug)]
pub struct SegmentPlace {
    pub segment: i64,
    pub offset: u64,
}

impl std::str::FromStr for SegmentPlace {
    type Err = String;
    fn from_str(text: &str) -> Result<SegmentPlace, String> {
        let parsed = text.split_once('=').and_then(|(segment, offset)| Some(SegmentPlace { segment: segment.parse().ok()?, offset: offset.parse().ok()? }));
        parsed.ok_or_else(|| "write SEGMENT=OFFSET, such as 0=1200: numbers as `stream stat -o json` and `stream read -o json` tell them".into())
    }
}

/// So many KiB per second, as the protocol counts them.
fn byte_rate(text: &str) -> Result<i32, String> {
    let bytes: base::unit::Bytes = text.parse().map_err(|e: base::unit::BadUnit| e.to_string())?;
    match i32::try_from(bytes.0 / 1024) {
        Ok(kib @ 1..) => Ok(kib),
        _ => Err("a rate is 1KiB to 2TiB each second".into()),
    }
}

fn kept_for(text: &str) -> Result<i64, String> {
    let span: base::unit::Span = text.parse().map_err(|e: base::unit::BadUnit| e.to_string())?;
    i64::try_from(span.ms()).ok().filter(|ms| *ms > 0).ok_or_else(|| "events are kept for at least 1ms".into())
}

fn kept_bytes(text: &str) -> Result<i64, String> {
    let bytes: base::unit::Bytes = text.parse().map_err(|e: base::unit::BadUnit| e.to_string())?;
    i64::try_from(bytes.0).ok().filter(|bytes| *bytes > 0).ok_or_else(|| "at least 1B is kept".into())
}

/// When a stream scales by itself, and what it forgets by itself.
#[derive(Debug, Args)]
pub struct StreamPolicy {
    /// Scale by itself at this many events/s and segment
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    pub rate: Option<u32>,
    /// Scale by itself at this much per second and segment, such as 2MB
    #[arg(long, value_name = "SIZE", conflicts_with = "rate", value_parser = byte_rate)]
    pub byte_rate: Option<i32>,
    /// Forget what is older than this, such as 7d
    #[arg(long, value_name = "SPAN", value_parser = kept_for)]
    pub keep: Option<i64>,
    /// Forget the oldest, as long as this much is left, such as 100GB
    #[arg(long, value_name = "SIZE", conflicts_with = "keep", value_parser = kept_bytes)]
    pub keep_bytes: Option<i64>,
}

/// Where video comes from, if not from standard input.
#[derive(Args, Debug)]
#[group(multiple = false)]
pub struct VideoFrom {
    /// Wait here for encoders that connect, one at a time
    #[arg(long, value_name = "ADDR")]
    pub tcp: Option<SocketAddr>,
    /// Wait here for encoders that send MPEG-TS with HTTP PUT or POST, one at a time
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Ask a camera to play; H.264, over TCP. The password of a user in the address comes from CLOUDSKIN_CAMERA_PASSWORD
    #[arg(long, value_name = "URL")]
    pub rtsp: Option<String>,
}

#[derive(Debug, Args)]
pub struct StreamServer {
    /// The controller's port of the stream server [default: that of `cloudskin up`, else 127.0.0.1:9090]
    #[arg(long, env = "CLOUDSKIN_STREAM_SERVER", value_name = "ADDR")]
    pub server: Option<String>,
    /// Certificate of the authority that signed the server's, PEM: speaks TLS
    #[arg(long, env = "CLOUDSKIN_STREAM_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// User, where the server asks for one; the password is in the environment, CLOUDSKIN_STREAM_PASSWORD
    #[arg(long, env = "CLOUDSKIN_STREAM_USER", value_name = "NAME")]
    pub user: Option<String>,
}

/// A host alone, that clients put a port behind.
fn host(text: &str) -> Result<String, String> {
    let v6 = text.trim_start_matches('[').trim_end_matches(']').parse::<std::net::Ipv6Addr>();
    match v6 {
        Ok(v6) => Ok(format!("[{v6}]")),
        Err(_) if !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "-._".contains(c)) => Ok(text.into()),
        Err(_) => Err("write a host's name or address alone, such as edge-7.example.org; its port is that of --segments".into()),
    }
}

fn log_number(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|_| format!("{text:?} is not a log's number, which has 16 hexadecimal digits"))
}

#[derive(Debug, Args)]
pub struct StreamServe {
    /// Folder of the log [default: streams in the installation's folder]
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Address of the controller (gRPC); port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDR")]
    pub controller: SocketAddr,
    /// Address of the segment store; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:12345", value_name = "ADDR")]
    pub segments: SocketAddr,
    /// Host name or address under which clients reach this server [default: those that it listens at]
    #[arg(long, value_name = "HOST", value_parser = host)]
    pub publish: Option<String>,
    /// Long-term storage: file:<folder>, s3://<bucket>, gs://<bucket> or az://<container> [default: chunks in the log's folder; the stores' keys are those of GEDS]
    #[arg(long, value_name = "WHERE")]
    pub long_term: Option<String>,
    /// Certificate (and its chain) for TLS on both ports, PEM; its name is what --publish says
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Where HTTP tells of metrics and streams [default: nowhere]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// File with users and what they may do, as `stream user` writes it [default: everyone may do everything]
    #[arg(long, value_name = "FILE")]
    pub users: Option<PathBuf>,
    /// How long a client may go on with a token before it asks for another
    #[arg(long, default_value = "10m", value_name = "TIME")]
    pub token_life: Span,
    /// Begin an empty folder with what long-term storage has [LOG: of which log, if there are several]
    #[arg(long, value_name = "LOG", num_args = 0..=1, value_parser = log_number)]
    #[allow(clippy::option_option, reason = "not given, given, and given with a value")]
    pub restore: Option<Option<u64>>,
    /// Scale streams that have a rate within seconds, and not by Pravega's rule of minutes
    #[arg(long)]
    pub scale_fast: bool,
    /// What may wait for long-term storage before writers wait
    #[arg(long, default_value = "8GiB", value_name = "SIZE")]
    pub backlog: Bytes,
    /// Memory for what was read from long-term storage
    #[arg(long, default_value = "64MiB", value_name = "SIZE")]
    pub cache: Bytes,
    /// Folder on another disk that takes what the log has no room for while long-term storage is away
    #[arg(long, value_name = "DIR", requires = "overflow_limit")]
    pub overflow: Option<PathBuf>,
    /// How much that folder takes before writers wait
    #[arg(long, value_name = "SIZE", requires = "overflow")]
    pub overflow_limit: Option<Bytes>,
}

#[derive(Debug, Subcommand)]
pub enum Stream {
    /// Run a stream server; Pravega's clients connect to it as to Pravega
    #[command(after_help = "Example: cloudskin stream serve --long-term s3://streams\n\nWithout --users whoever reaches its ports may do everything, and without --tls-cert can read passwords on the way.")]
    Serve(StreamServe),
    /// Add a user to a users' file, or change one; the password is in CLOUDSKIN_STREAM_PASSWORD, or the first line of standard input
    #[command(after_help = "Example: cloudskin stream user users.txt ada --allow 'prn::/scope:road/*,READ_UPDATE' --allow 'prn::/scope:road,READ'\n\nA server reads the file when it starts.")]
    User {
        /// The file, made if it is not there
        file: PathBuf,
        /// The user's name
        name: String,
        /// RESOURCE,READ or RESOURCE,READ_UPDATE; a * at a resource's end stands for anything; prn::* is everything
        #[arg(long, required = true, value_name = "RULE")]
        allow: Vec<streams::access::Rule>,
    },
    /// Create a stream, and its scope if need be
    #[command(after_help = "Example: cloudskin stream create road/camera --segments 4 --keep 7d\n\nWithout --keep and --keep-bytes all events stay. `stream set` changes it afterwards.")]
    Create {
        /// SCOPE/STREAM
        stream: StreamName,
        /// Segments that it has at first, and at least
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        segments: u32,
        #[command(flatten)]
        policy: StreamPolicy,
        #[command(flatten)]
        server: StreamServer,
    },
    /// Change when a stream scales by itself, and what it forgets by itself
    #[command(after_help = "Example: cloudskin stream set road/camera --keep 7d\n\nWhat is not named stays as it is; `stream stat` shows it.")]
    Set {
        /// SCOPE/STREAM
        stream: StreamName,
        /// Segments that it has at least when it scales by itself; `stream scale` changes those of one that does not
        #[arg(long, value_name = "N", conflicts_with = "fixed", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        segments: Option<u32>,
        #[command(flatten)]
        policy: StreamPolicy,
        /// Scale by request only
        #[arg(long, conflicts_with_all = ["rate", "byte_rate"])]
        fixed: bool,
        /// Keep all events
        #[arg(long, conflicts_with_all = ["keep", "keep_bytes"])]
        keep_all: bool,
        #[command(flatten)]
        server: StreamServer,
    },
    /// Append each line of standard input, of up to 8 MiB, as an event; ends when all are durable
    #[command(after_help = "Example: cloudskin stream append field/moisture --key sensor-7 < readings.txt")]
    Append {
        /// SCOPE/STREAM
        stream: StreamName,
        /// Routing key of all events, which keeps them in order [default: a key of its own for each]
        #[arg(long)]
        key: Option<String>,
        #[command(flatten)]
        server: StreamServer,
    },
    /// Take video from standard input, TCP, HTTP or a camera with RTSP, a frame an event, with an index for players
    #[command(after_help = "Example: cloudskin stream ingest road/camera < camera.ts\n\nFrom a camera: gst-launch-1.0 -q v4l2src ! videoconvert ! x264enc tune=zerolatency key-int-max=30 ! mpegtsmux ! fdsink | cloudskin stream ingest road/camera\nFrom a network camera: cloudskin stream ingest road/camera --rtsp rtsp://USER@10.0.0.7/stream1   (its password is in CLOUDSKIN_CAMERA_PASSWORD)\nThe server's --http then has it to watch: http://…/video/road/camera/")]
    Ingest {
        /// SCOPE/STREAM, made if it is not there, as SCOPE/STREAM-index is
        stream: StreamName,
        #[command(flatten)]
        from: VideoFrom,
        #[command(flatten)]
        server: StreamServer,
    },
    /// Hand each event to a program and write what it answers as another stream, until the stream or the program ends
    #[command(after_help = "Example: cloudskin stream map road/plates road/known -- python3 look_up.py\n\nThe program gets an event a line on standard input and writes an event a line. With --binary each event, in and out, has four bytes\nin front that tell its length, the highest first. What the program keeps to itself until its end comes then.")]
    Map {
        /// SCOPE/STREAM to read, from now on
        from: StreamName,
        /// SCOPE/STREAM to write, made if it is not there
        to: StreamName,
        /// Begin with the oldest event
        #[arg(long)]
        all: bool,
        /// Events are bytes with their length in front, not lines
        #[arg(long)]
        binary: bool,
        #[command(flatten)]
        server: StreamServer,
        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "PROGRAM")]
        program: Vec<std::ffi::OsString>,
    },
    /// Print what comes from now on, an event a line
    #[command(after_help = "Example: cloudskin stream tail field/moisture -o json")]
    Tail {
        /// SCOPE/STREAM
        stream: StreamName,
        #[command(flatten)]
        server: StreamServer,
    },
    /// Print all events from the beginning, an event a line
    #[command(after_help = "Example: cloudskin stream read field/moisture > events.txt")]
    Read {
        /// SCOPE/STREAM
        stream: StreamName,
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        server: StreamServer,
    },
    /// Share a stream's keys out among another number of segments
    #[command(after_help = "Example: cloudskin stream scale road/camera 4")]
    Scale {
        /// SCOPE/STREAM
        stream: StreamName,
        /// Segments from now on
        #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
        segments: u32,
        #[command(flatten)]
        server: StreamServer,
    },
    /// Forget what was written so far, or what lies before a place or a time
    #[command(after_help = "Example: cloudskin stream truncate road/camera\n\nUp to a place: cloudskin stream truncate field/moisture --at 0=1200 --at 1=800   (as `stream read -o json` tells segments and offsets)\nUp to a time: cloudskin stream truncate field/moisture --older-than 2h   (where times are known: of streams with --keep or --keep-bytes, and of scales)")]
    Truncate {
        /// SCOPE/STREAM
        stream: StreamName,
        /// SEGMENT=OFFSET of the first event that stays; once for each of the segments that have all keys together
        #[arg(long, value_name = "SEGMENT=OFFSET", conflicts_with = "older_than")]
        at: Vec<SegmentPlace>,
        /// Only what was written longer ago than this, such as 2h, as far as it is known what was
        #[arg(long, value_name = "SPAN")]
        older_than: Option<base::unit::Span>,
        #[command(flatten)]
        server: StreamServer,
    },
    /// End a stream: it can be read, and not written any more
    #[command(after_help = "Example: cloudskin stream seal road/camera")]
    Seal {
        /// SCOPE/STREAM
        stream: StreamName,
        #[command(flatten)]
        server: StreamServer,
    },
    /// Seal and remove a stream with all its events
    #[command(after_help = "Example: cloudskin stream rm road/camera")]
    Rm {
        /// SCOPE/STREAM
        stream: StreamName,
        #[command(flatten)]
        server: StreamServer,
    },
    /// List streams and their number of segments
    #[command(after_help = "Example: cloudskin stream ls road")]
    Ls {
        /// Only those of this scope
        scope: Option<String>,
        #[command(flatten)]
        server: StreamServer,
    },
    /// Show a stream's segments: where they begin and end, and their keys
    #[command(after_help = "Example: cloudskin stream stat road/camera -o json")]
    Stat {
        /// SCOPE/STREAM
        stream: StreamName,
        #[command(flatten)]
        server: StreamServer,
    },
}

#[derive(Debug, Subcommand)]
pub enum Store {
    /// Put a file into a bucket
    #[command(after_help = "Example: cloudskin store put scene.tif scenes/ --site edge")]
    Put {
        /// The file to put
        file: PathBuf,
        /// BUCKET/KEY; with / at the end the file's name is added
        object: String,
        /// Where its bytes shall lie
        #[arg(long)]
        site: Option<SiteId>,
        /// Fail if the key is taken, instead of replacing
        #[arg(long)]
        if_absent: bool,
        /// How long it stays, such as 90s or 2h [default: until it is removed]
        #[arg(long)]
        ttl: Option<base::unit::Span>,
        /// Your own words to go with it, at most 16 KiB
        #[arg(long)]
        metadata: Option<String>,
        /// It goes when this job ends
        #[arg(long)]
        job: Option<String>,
    },
    /// Show what an object is: size, places, metadata, when it goes
    #[command(after_help = "Example: cloudskin store stat out/ndvi.png")]
    Stat {
        /// BUCKET/KEY
        object: String,
    },
    /// Give an object, or all below a folder, other names in one step; no data moves
    #[command(after_help = "Example: cloudskin store mv out/run-7 archive/run-7")]
    Mv {
        /// BUCKET/KEY, BUCKET/FOLDER for all below it, or BUCKET/ for all in the bucket
        from: String,
        /// BUCKET/KEY or BUCKET/FOLDER; with / at the end the last name of the first is added
        to: String,
        /// One object, or FOLDER/ with all below it, and only if nobody has the new name
        #[arg(long)]
        if_absent: bool,
    },
    /// Give an object, or all below a folder, further names; no data is copied
    #[command(after_help = "Example: cloudskin store cp out/run-7 best/run-7")]
    Cp {
        /// BUCKET/KEY, BUCKET/FOLDER for all below it, or BUCKET/ for all in the bucket
        from: String,
        /// BUCKET/KEY or BUCKET/FOLDER; with / at the end the last name of the first is added
        to: String,
        /// One object, and only if its new name is free
        #[arg(long)]
        if_absent: bool,
    },
    /// Fetch an object into a file (`-`: stdout)
    #[command(after_help = "Example: cloudskin store get out/ndvi.png ndvi.png\n         cloudskin store get logs/run-7 - --offset 1000 --bytes 200B   for a part of it\n         cloudskin store get logs/run-8 --follow   for what is appended to it")]
    Get {
        /// BUCKET/KEY
        object: String,
        /// [default: the last part of the key]
        file: Option<PathBuf>,
        /// From this byte on
        #[arg(long, default_value_t = 0)]
        offset: u64,
        /// So many bytes, such as 64KiB [default: to its end]
        #[arg(long)]
        bytes: Option<base::unit::Bytes>,
        /// Also of what still grows at a site: on and on to stdout, until it is sealed
        #[arg(long, conflicts_with_all = ["file", "bytes"])]
        follow: bool,
    },
    /// List buckets, or the objects in one
    #[command(after_help = "Example: cloudskin store ls out/tiles/")]
    Ls {
        /// BUCKET or BUCKET/PREFIX
        bucket: Option<String>,
    },
    /// Remove an object
    #[command(after_help = "Example: cloudskin store rm out/ndvi.png\n         cloudskin store rm -r out/   for all in the bucket")]
    Rm {
        /// BUCKET/KEY; with -r BUCKET/FOLDER or BUCKET/, too
        object: String,
        /// Remove all below it too, in one step
        #[arg(long, short)]
        recursive: bool,
    },
    /// Print a token for one bucket that ends by itself, for a program that shall see no more
    #[command(after_help = "Example: cloudskin store token scenes --ttl 2h")]
    Token {
        /// BUCKET
        bucket: String,
        /// How long it is good, at most 30d
        #[arg(long, default_value = "1h")]
        ttl: base::unit::Span,
        /// For writing and removing, too
        #[arg(long)]
        write: bool,
    },
    /// Limit what a tenant's buckets may have together, and put buckets on its account
    #[command(after_help = "Example: cloudskin store quota farm scenes out --bytes 10GiB --objects 100000")]
    Quota {
        /// Its name
        tenant: String,
        /// Buckets that are on its account from now on
        #[arg(value_name = "BUCKET")]
        buckets: Vec<String>,
        /// Objects at most [default: no limit]
        #[arg(long)]
        objects: Option<u64>,
        /// Bytes at most, such as 10GiB [default: no limit]
        #[arg(long)]
        bytes: Option<base::unit::Bytes>,
    },
    /// Move an object's bytes to the persistency tier
    #[command(after_help = "Example: cloudskin store spill scenes/scene.tif")]
    Spill {
        /// BUCKET/KEY, BUCKET/FOLDER/ for all below it, or BUCKET/ for all in the bucket
        object: String,
    },
    /// Upload objects to the persistency tier, and keep them where they are
    #[command(after_help = "Example: cloudskin store flush out/run-7")]
    Flush {
        /// BUCKET/KEY, BUCKET/FOLDER for all below it, or BUCKET/ for all in the bucket
        objects: String,
        /// How long it may take, at most 10m
        #[arg(long, default_value = "10m")]
        within: base::unit::Span,
    },
    /// Tell what happens in a bucket, one event a line; with -o json for programs
    #[command(after_help = "Example: cloudskin store watch out --after 17 -o json")]
    Watch {
        /// BUCKET
        bucket: String,
        /// Begin behind the event with this number; 0: with the bucket [default: what happens from now on]
        #[arg(long)]
        after: Option<u64>,
    },
}

#[derive(Debug, Args)]
pub struct Explain {
    /// A recommendation's number or a job [default: the last recommendation]
    pub what: Option<String>,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// A module, or a program made by `cloudskin cc`
    #[arg(value_name = "FILE.WASM")]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct Compile {
    /// A module, or a program made by `cloudskin cc`
    #[arg(value_name = "FILE.WASM")]
    pub file: PathBuf,
    /// The kind of machine: x86_64 or aarch64
    #[arg(long, value_name = "MACHINE")]
    pub target: cells::Machine,
    /// Folder for the code; made if it is not there
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub into: PathBuf,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell to write them for
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct Demo {
    /// A GeoTIFF with Landsat's bands [default: the scene that the set-up has fetched]
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Folder for the pictures and run.json
    #[arg(long, default_value = "out", value_name = "DIR")]
    pub out: PathBuf,
    /// Folder with the example programs' sources [default: examples, here or beside the executable's checkout]
    #[arg(long, value_name = "DIR")]
    pub examples: Option<PathBuf>,
    /// Address of the dashboard [default: 127.0.0.1:7070, or a free port if that one is taken]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Radius of the moving window, for the example program
    #[arg(long)]
    pub radius: Option<u32>,
    /// Rounds of the moving window, for the example program
    #[arg(long)]
    pub rounds: Option<u32>,
    /// When the other tenant arrives, after the job's start
    #[arg(long, default_value = "5s", value_name = "TIME")]
    pub tenant_after: Span,
    /// Leave the platform up until Ctrl-C, to look at the dashboard
    #[arg(long)]
    pub keep: bool,
    /// Skip the run that stays, with which the output is compared
    #[arg(long)]
    pub no_unmoved: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound_and_every_command_has_an_example() {
        Cli::command().debug_assert();
        fn visit(command: &clap::Command) {
            let own = command.get_after_help().map(|h| h.to_string()).unwrap_or_default();
            let below: Vec<_> = command.get_subcommands().collect();
            assert!(own.contains("Example: cloudskin"), "{} has no example", command.get_name());
            let silent: Vec<_> = command.get_arguments().filter(|a| a.get_help().is_none() && !matches!(a.get_id().as_str(), "help" | "version")).map(|a| a.get_id()).collect();
            assert!(silent.is_empty(), "{} does not say what {silent:?} are", command.get_name());
            below.into_iter().for_each(visit);
        }
        visit(&Cli::command());
    }

    #[test]
    fn a_run_keeps_the_programs_own_options() {
        let cli = parse("cloudskin run --np 4 --site edge --env A=b --memory-max 64MiB p.wasm -- /scenes/a.tif --radius 3 -o x").unwrap();
        let Command::Run(run) = cli.command else { panic!("{:?}", cli.command) };
        assert_eq!((run.np, run.memory_max), (4, Some(Bytes(64 << 20))));
        assert_eq!(run.args, ["/scenes/a.tif", "--radius", "3", "-o", "x"]);
        assert_eq!(cli.output, Output::Table);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, told) in [
            ("cloudskin run --site Edge p.wasm", "a-z"),
            ("cloudskin run --time-max 10 p.wasm", "unit"),
            ("cloudskin run --env A p.wasm", "KEY=VALUE"),
            ("cloudskin agent --site e --hub h:1 --cores 3-1", "3-1"),
            ("cloudskin get ranks", "ranks"),
            ("cloudskin run --bucket A_b p.wasm", "a-z"),
            ("cloudskin run --memory-max 5GiB p.wasm", "4GiB"),
            ("cloudskin run --memory-max 1Kb p.wasm", "64KiB"),
        ] {
            let e = parse(line).unwrap_err().to_string();
            assert!(e.contains(told), "{line}: {e}");
        }
    }

    #[test]
    fn options_may_stand_anywhere() {
        let cli = parse("cloudskin get job job-1 -o json --data /tmp/x -vv").unwrap();
        assert_eq!((cli.output, cli.verbose), (Output::Json, 2));
        assert_eq!(cli.data, Some("/tmp/x".into()));
        let Command::Migrate(m) = parse("cloudskin migrate job-1 --to cloud --rank 0 --rank 3").unwrap().command else { panic!() };
        assert_eq!(m.ranks, [0, 3]);
    }
}
