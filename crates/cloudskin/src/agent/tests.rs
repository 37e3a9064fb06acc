//! Agents with a hub, all in this process: what of an agent can't be seen with less than a hub, and hardly from outside.

use super::*;
use crate::place::Place;
use base::{identity::site_name, unit::Bytes};
use cells::toolchain::driver::{self, Lang};
use orchestrator::{
    Handle, Options, Service,
    checkpoints::Checkpoint,
    hub::Submit,
    jobs::{Job, JobState, RankState},
    migrations::Migration,
    proto::{FromAgent, Hello, Telemetry, from_agent::Body},
};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A busy machine may take so long for what should happen soon.
const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

struct Platform {
    hub: Handle,
    folder: tempfile::TempDir,
    module: String,
}

/// A hub that knows `large.c`: 32 MiB of which it changes a little for ever, and 9 MiB that every rank has.
async fn platform() -> Platform {
    base::identity::install_crypto();
    let folder = tempfile::tempdir().unwrap();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let options = Options { data: folder.path().into(), grpc: any, http: any, advise: false, ..Default::default() };
    let hub = Service::start(options).await.unwrap();
    let module = tokio::task::spawn_blocking({ let hub = hub.clone(); move || hub.hub.modules.add(&large()).unwrap().sha256 }).await.unwrap();
    Platform { hub, folder, module }
}

fn large() -> Vec<u8> {
    compiled(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../execution/cells/tests/programs/large.c"), &[])
}

/// Fills as many MiB as its first argument says, and changes a tenth of its pages again and again.
fn churn() -> Vec<u8> {
    compiled(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../execution/cells/tests/programs/churn.c"), &[])
}

/// Two threads that sleep for ever.
fn naps() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("naps.c");
    let text = "#include <pthread.h>\n#include <unistd.h>\nstatic void *nap(void *p) { for (;;) sleep(1); return p; }\nint main(void) { pthread_t t; pthread_create(&t, 0, nap, 0); nap(0); }";
    std::fs::write(&source, text).unwrap();
    compiled(&source, &["-pthread"])
}

fn compiled(source: &Path, flags: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.wasm");
    let args = [source.as_os_str(), "-O2".as_ref(), "-o".as_ref(), out.as_os_str()].into_iter().chain(flags.iter().map(|f| (*f).as_ref()));
    assert_eq!(driver::main(Lang::C, args.map(|a: &std::ffi::OsStr| a.to_os_string()).collect()).unwrap(), 0);
    std::fs::read(out).unwrap()
}

impl Platform {
    async fn agent(&self, site: &str, memory: u64) -> Arc<Agent> {
        let ask = args::Agent {
            site: site.parse().unwrap(),
            hub: self.hub.grpc_addr().to_string(),
            join: Some(self.hub.mint_join_token(site, PATIENCE).await.unwrap()),
            ca_sha256: Some(self.hub.hub.authority.fingerprint()),
            cores: None,
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: None,
            memory: Some(Bytes(memory)),
            slots: 4,
        };
        let agent = start(&Place::folder(self.folder.path().join(site)), ask).await.unwrap();
        tokio::spawn(session::keep(agent.clone()));
        self.until("the agent to be ready", async || self.hub.hub.world.lock().await.sites.get(site).is_some_and(|s| s.connected())).await;
        agent
    }

    async fn until(&self, what: &str, mut met: impl AsyncFnMut() -> bool) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while !met().await {
            assert!(tokio::time::Instant::now() < end, "waited for {what}: {:#?}", self.hub.hub.events.last(0, 30).await.unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn job(&self, id: &str) -> Job {
        self.hub.hub.world.lock().await.job(id).unwrap().clone()
    }

    async fn migration(&self, id: u64) -> Migration {
        self.hub.hub.world.lock().await.migrations[&id].clone()
    }

    /// Starts a job, and waits until its ranks say that they compute.
    async fn run(&self, np: u32, site: &str) -> String {
        let ask = Submit { module: self.module.clone(), name: "large".into(), np, site: Some(site.into()), ..Default::default() };
        let id = self.hub.hub.submit(ask).await.unwrap().id;
        self.at_work(&id).await;
        id
    }

    /// Starts a job at the edge that changes a tenth of its memory, round after round, with a checkpoint each hour.
    async fn churn(&self, np: u32, mib: u32, rounds: u32) -> String {
        let hub = self.hub.clone();
        let module = tokio::task::spawn_blocking(move || hub.hub.modules.add(&churn()).unwrap().sha256).await.unwrap();
        let args = vec!["churn".into(), mib.to_string(), rounds.to_string()];
        let ask = Submit { module, name: "churn".into(), args, np, site: Some("edge".into()), checkpoint_every: Some("1h".into()), ..Default::default() };
        let id = self.hub.hub.submit(ask).await.unwrap().id;
        self.filled(&id).await;
        id
    }

    /// Waits until the ranks of a job have filled their memory.
    async fn filled(&self, id: &str) {
        self.at_work(id).await;
        self.until("the memory to be filled", async || {
            let job = self.job(id).await;
            (0..job.np).all(|rank| std::fs::read_to_string(self.hub.hub.logs.path(job.n, Some(rank))).is_ok_and(|text| text.starts_with("ready")))
        })
        .await;
    }

    /// The hour is over: the checkpoint that is made.
    async fn due(&self, id: &str) -> Checkpoint {
        let before = {
            let mut world = self.hub.hub.world.lock().await;
            let n = world.job(id).unwrap().n;
            let last = world.tried.get(&n).copied().unwrap_or_else(base::clock::now_ms);
            let before = world.checkpoints.keys().max().copied();
            self.hub.hub.keep_checkpoints(&mut world, last + 3_600_000).await;
            before
        };
        self.until("the checkpoint", async || self.hub.hub.world.lock().await.making.is_empty()).await;
        let world = self.hub.hub.world.lock().await;
        let newest = world.checkpoints.values().next_back().filter(|c| Some(c.id) > before).cloned();
        newest.unwrap_or_else(|| panic!("none was made: {:?}", world.job(id).unwrap().checkpoint_failed))
    }

    /// The job begins again, as if its ranks were lost.
    async fn lose(&self, id: &str) {
        let mut world = self.hub.hub.world.lock().await;
        let lost = world.job(id).unwrap().clone();
        self.hub.hub.recover(&mut world, lost, "a test wants it").await.unwrap().unwrap();
    }

    async fn at_work(&self, id: &str) {
        self.until("ranks at work", async || {
            let job = self.job(id).await;
            assert!(!job.state.ended(), "{} {}", job.id, job.reason);
            job.ranks.iter().all(|r| r.state == RankState::Running && r.doing == "compute")
        })
        .await;
    }

    async fn ended(&self, id: &str) -> Job {
        self.until("the job to end", async || self.job(id).await.state.ended()).await;
        self.job(id).await
    }

    /// A site whose agent takes in all of one move and says nothing after it has accepted it. The move is told when it comes.
    async fn mute(&self, site: &str) -> Mute {
        let own = self.hub.hub.authority.issue(&site_name(&site.parse().unwrap())).unwrap();
        let acceptor = own.acceptor(&[cells::link::ALPN]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let data_address = listener.local_addr().unwrap().to_string();
        let (came, offered) = tokio::sync::oneshot::channel();
        let data = tokio::spawn(async move {
            let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            let mut offer = vec![0; stream.read_u32_le().await.unwrap() as usize];
            stream.read_exact(&mut offer).await.unwrap();
            // One byte follows: ACCEPT.
            stream.write_all(&[1, 0, 0, 0, 16]).await.unwrap();
            stream.flush().await.unwrap();
            let _ = came.send(());
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        });
        let channel = join::channel(&own.dialer().unwrap(), &self.hub.grpc_addr().to_string()).unwrap();
        let (up, queue) = tokio::sync::mpsc::channel(16);
        let hello = Hello { data_address, cores: 1.0, memory_bytes: 1 << 30, slots: 4, instance: "mute".into(), ..Default::default() };
        up.send(FromAgent { body: Some(Body::Hello(hello)) }).await.unwrap();
        let orders = HubClient::new(channel).session(tokio_stream::wrappers::ReceiverStream::new(queue)).await.unwrap().into_inner();
        let beat = tokio::spawn(async move {
            let _orders = orders;
            while up.send(FromAgent { body: Some(Body::Telemetry(Telemetry::default())) }).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        self.until("the mute site to be ready", async || self.hub.hub.world.lock().await.sites.get(site).is_some_and(|s| s.connected())).await;
        Mute { offered, session: beat, data }
    }
}

struct Mute {
    offered: tokio::sync::oneshot::Receiver<()>,
    session: tokio::task::JoinHandle<()>,
    data: tokio::task::JoinHandle<()>,
}

impl Drop for Mute {
    fn drop(&mut self) {
        self.session.abort();
        self.data.abort();
    }
}

/// The source waits half a minute for an answer of its destination by itself; this is less.
const FREE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn ranks_go_on_when_the_hub_gives_their_destination_up() {
    let p = platform().await;
    let _edge = p.agent("edge", 1 << 30).await;
    let mut cloud = p.mute("cloud").await;
    let job = p.run(2, "edge").await;
    let m = p.hub.hub.migrate(&job, "cloud", None, None).await.unwrap().id;
    (&mut cloud.offered).await.unwrap();
    p.until("the ranks to stand still", async || p.job(&job).await.ranks.iter().all(|r| r.doing == "paused")).await;
    // The site vanishes; the connection on which the ranks move does not close.
    cloud.session.abort();
    p.until("the move to fail", async || !p.migration(m).await.open()).await;
    let began = Instant::now();
    p.at_work(&job).await;
    assert!(began.elapsed() < FREE, "{:?}", began.elapsed());
    assert!(p.migration(m).await.reason.contains("\"cloud\" was lost"));
    assert_eq!(p.job(&job).await.restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_stands_still_for_a_move_can_be_cancelled() {
    let p = platform().await;
    let _edge = p.agent("edge", 1 << 30).await;
    let mut cloud = p.mute("cloud").await;
    let job = p.run(1, "edge").await;
    let m = p.hub.hub.migrate(&job, "cloud", None, None).await.unwrap().id;
    (&mut cloud.offered).await.unwrap();
    p.until("the rank to stand still", async || p.job(&job).await.ranks[0].doing == "paused").await;
    let began = Instant::now();
    p.hub.hub.cancel(&job, "enough", JobState::Cancelled).await.unwrap();
    let ended = p.ended(&job).await;
    assert!(began.elapsed() < FREE, "{:?}", began.elapsed());
    assert_eq!((ended.state, ended.reason.as_str(), ended.ranks[0].state), (JobState::Cancelled, "enough", RankState::Cancelled));
    assert!(p.migration(m).await.reason.contains("enough"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_site_fails_who_asks_for_more_and_nobody_else() {
    let p = platform().await;
    let edge = p.agent("edge", 100 * MIB).await;
    let fits = p.run(2, "edge").await;
    let ask = Submit { module: p.module.clone(), name: "large".into(), np: 1, site: Some("edge".into()), memory_max: Some("4GiB".into()), ..Default::default() };
    let more = p.hub.hub.submit(ask).await.unwrap().id;
    let failed = p.ended(&more).await;
    assert_eq!(failed.state, JobState::Failed);
    for part in ["site edge has no memory", "100.0 MiB", "--memory", "cloudskin migrate"] {
        assert!(failed.reason.contains(part), "{part:?} is not in: {}", failed.reason);
    }
    assert_eq!(p.job(&fits).await.state, JobState::Running);
    p.hub.hub.cancel(&fits, "enough", JobState::Cancelled).await.unwrap();
    p.ended(&fits).await;
    p.until("the memory to be given back", async || edge.budget.used() == 0).await;
}

/// By hand for each job, at each site; and who can't have it is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_in_the_tier_that_it_asks_for_wherever_it_goes() {
    assert!(cells::Tier::ALL.iter().map(ToString::to_string).eq(orchestrator::jobs::TIERS), "hub and agents name the same ones");
    let p = platform().await;
    let (_edge, _cloud) = (p.agent("edge", 1 << 30).await, p.agent("cloud", 1 << 30).await);
    let ask = |module: &str, tier: &str| Submit { module: module.into(), name: "large".into(), np: 1, site: Some("edge".into()), tier: Some(tier.into()), ..Default::default() };
    let refused = p.hub.hub.submit(ask(&p.module, "slow")).await.unwrap_err().to_string();
    assert!(refused.contains("\"slow\"") && refused.contains("quick, fast, interpreter"), "{refused}");
    let asked = p.hub.hub.submit(ask(&p.module, "interpreter")).await.unwrap().id;
    let same = p.run(1, "edge").await;
    p.at_work(&asked).await;
    let tiers = async || [p.job(&asked).await.ranks[0].tier.clone(), p.job(&same).await.ranks[0].tier.clone()];
    assert_eq!(tiers().await, ["interpreter", "quick"], "the same module beside it");
    let m = p.hub.hub.migrate(&asked, "cloud", None, None).await.unwrap().id;
    p.until("the move to end", async || !p.migration(m).await.open()).await;
    assert_eq!(p.job(&asked).await.ranks[0].site, "cloud", "{}", p.migration(m).await.reason);
    p.at_work(&asked).await;
    assert_eq!(tiers().await[0], "interpreter");
    let threads = tokio::task::spawn_blocking({ let hub = p.hub.clone(); move || hub.hub.modules.add(&naps()).unwrap().sha256 }).await.unwrap();
    let other = p.hub.hub.submit(ask(&threads, "interpreter")).await.unwrap().id;
    p.until("the other to run", async || p.job(&other).await.ranks[0].tier == "quick").await;
    let told = p.hub.hub.events.last(0, 100).await.unwrap();
    let told: Vec<_> = told.iter().filter(|e| e.kind == "job.tier").collect();
    assert!(told.len() == 1 && told[0].subject == other, "{told:?}");
    assert!(told[0].message.starts_with("at edge it runs in the quick tier and not in the interpreter one: it has"), "{}", told[0].message);
    for job in [&asked, &same, &other] {
        p.hub.hub.cancel(job, "enough", JobState::Cancelled).await.unwrap();
        p.ended(job).await;
    }
}

/// A site's owner may keep machine code away: neither a job that asks for it nor a program that only it can run gets it there.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_says_in_which_tiers_programs_run_there() {
    let p = platform().await;
    std::fs::create_dir_all(p.folder.path().join("edge")).unwrap();
    std::fs::write(p.folder.path().join("edge/cloudskin.toml"), "[cells]\ntier = \"interpreter\"\n").unwrap();
    let _edge = p.agent("edge", 1 << 30).await;
    let ask = |module: &str, tier: Option<&str>| Submit { module: module.into(), name: "large".into(), np: 1, site: Some("edge".into()), tier: tier.map(Into::into), ..Default::default() };
    let threads = tokio::task::spawn_blocking({ let hub = p.hub.clone(); move || hub.hub.modules.add(&naps()).unwrap().sha256 }).await.unwrap();
    for (module, tier) in [(&p.module, Some("quick")), (&threads, None)] {
        let job = p.hub.hub.submit(ask(module, tier)).await.unwrap().id;
        p.ended(&job).await;
        let failed = p.job(&job).await;
        assert!(failed.state == JobState::Failed && failed.reason.contains("site edge runs programs in these tiers: interpreter; not in the quick one"), "{:?} {}", failed.state, failed.reason);
    }
    let own = p.hub.hub.submit(ask(&p.module, None)).await.unwrap().id;
    p.at_work(&own).await;
    assert_eq!(p.job(&own).await.ranks[0].tier, "interpreter");
    p.hub.hub.cancel(&own, "enough", JobState::Cancelled).await.unwrap();
    p.ended(&own).await;
}

/// What an agent has compiled is another's as well, if an agent of the installation has signed it for that name, and only then.
#[tokio::test(flavor = "multi_thread")]
async fn code_is_shared_among_agents_and_believed_of_them_alone() {
    let p = platform().await;
    let sharing = async |site: &str| {
        std::fs::create_dir_all(p.folder.path().join(site)).unwrap();
        std::fs::write(p.folder.path().join(site).join("cloudskin.toml"), "[cells]\nshare = true\n").unwrap();
        p.agent(site, 1 << 30).await
    };
    let [three, four] = [3, 4].map(|n| {
        let source = p.folder.path().join(format!("{n}.c"));
        std::fs::write(&source, format!("int main(void) {{ return {n}; }}")).unwrap();
        let hub = p.hub.clone();
        tokio::task::spawn_blocking(move || hub.hub.modules.add(&compiled(&source, &[])).unwrap().sha256)
    });
    let (three, four) = (three.await.unwrap(), four.await.unwrap());
    let gives = async |module: &str, site: &str| {
        let ask = Submit { module: module.into(), name: "n".into(), np: 1, site: Some(site.into()), ..Default::default() };
        let id = p.hub.hub.submit(ask).await.unwrap().id;
        p.ended(&id).await.exit_code
    };
    let edge = sharing("edge").await;
    assert_eq!((gives(&three, "edge").await, gives(&four, "edge").await), (Some(3), Some(4)));
    let bucket = geds::BucketName::new(orchestrator::jobs::CODE_BUCKET).unwrap();
    let names = async || edge.node.list(&bucket, "", None, geds::Page::default()).await.map_or(Vec::new(), |l| l.objects.into_iter().map(|o| o.key).collect::<Vec<_>>());
    p.until("both programs' code to be shared", async || names().await.len() == 2).await;
    let name = async |module: &str| names().await.into_iter().find(|key| key.as_str().starts_with(module)).unwrap();
    let (of_three, of_four) = (name(&three).await, name(&four).await);
    let signer = |name: &str| p.hub.hub.authority.issue(name).unwrap().signer().unwrap();
    let read = edge.node.open_object(&bucket, &of_four).await.unwrap();
    let own = signer("edge.site.cloudskin");
    let code = own.open(&format!("code {of_four}"), read.bytes()).unwrap().1.to_vec();
    // The one program's code under the other's name, as somebody who does not belong here would put it there.
    let put = async |bytes: Vec<u8>| drop(edge.node.put(&bucket, &of_three, bytes.into()).await.unwrap());
    let about = format!("code {of_three}");
    let unbelieved = [code.clone(), signer(identity::USER).sign(&about, &code).unwrap(), own.sign(&format!("code {of_four}"), &code).unwrap()];
    for (n, bytes) in unbelieved.into_iter().enumerate() {
        put(bytes).await;
        let site = format!("field-{n}");
        let _agent = sharing(&site).await;
        assert_eq!(gives(&three, &site).await, Some(3), "{site} compiles it");
    }
    // Of an agent it is believed, which shows that it is used.
    put(own.sign(&about, &code).unwrap()).await;
    let _cloud = sharing("cloud").await;
    assert_eq!(gives(&three, "cloud").await, Some(4));
    // A site that does not take part asks nobody.
    let _alone = p.agent("alone", 1 << 30).await;
    assert_eq!(gives(&three, "alone").await, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_could_not_come_leaves_nothing_behind() {
    let p = platform().await;
    let _edge = p.agent("edge", 1 << 30).await;
    let cloud = p.agent("cloud", 20 * MIB).await;
    let job = p.run(1, "edge").await;
    let m = p.hub.hub.migrate(&job, "cloud", None, None).await.unwrap().id;
    p.until("the move to fail", async || !p.migration(m).await.open()).await;
    assert!(p.migration(m).await.reason.contains("site cloud has no memory"), "{}", p.migration(m).await.reason);
    p.at_work(&job).await;
    p.until("the cloud to let the job go", async || lock(&cloud.jobs).is_empty() && lock(&cloud.moves).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_is_passed_over() {
    let p = platform().await;
    let edge = p.agent("edge", 1 << 30).await;
    let job = p.run(1, "edge").await;
    for n in 1..=2 {
        let made = p.hub.hub.checkpoint(&job).await.unwrap();
        assert_eq!((made.prefix.as_str(), made.copies), (&*format!("job-1/{n}"), 1), "no other site is there");
    }
    let (bucket, key) = (geds::BucketName::new("checkpoints").unwrap(), geds::Key::new("job-1/2/rank-0").unwrap());
    edge.node.put(&bucket, &key, "damaged".into()).await.unwrap();
    p.lose(&job).await;
    p.until("the job to begin for the third time", async || p.job(&job).await.restarts == 2).await;
    p.at_work(&job).await;
    assert_eq!(p.job(&job).await.from_checkpoint, "job-1/1");
    let events = p.hub.hub.events.last(0, 20).await.unwrap();
    let said = events.iter().find(|e| e.kind == "checkpoint.unusable").expect("it is said");
    assert!(said.message.contains("job-1/2") && said.message.contains("rank 0"), "{}", said.message);
}

fn snapshot(checkpoint: &Checkpoint, rank: u32) -> (geds::BucketName, geds::Key) {
    (geds::BucketName::new("checkpoints").unwrap(), geds::Key::new(format!("{}/rank-{rank}", checkpoint.prefix)).unwrap())
}

/// The bytes of a rank's snapshot, as the site has it.
async fn bytes(agent: &Agent, checkpoint: &Checkpoint, rank: u32) -> Vec<u8> {
    let (bucket, key) = snapshot(checkpoint, rank);
    agent.node.open_object(&bucket, &key).await.unwrap().bytes().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_by_schedule_have_what_has_changed_and_a_job_goes_on_from_one() {
    let p = platform().await;
    let (edge, cloud) = (p.agent("edge", 1 << 30).await, p.agent("cloud", 1 << 30).await);
    let job = p.churn(2, 16, 1_000_000_000).await;
    let first = p.due(&job).await;
    let second = p.due(&job).await;
    assert_eq!((first.parent, second.parent, second.increments), (None, Some(first.id), 1));
    println!("complete: {} bytes, ranks stood for {} us; increment: {} bytes, {} us", first.bytes, first.paused_us, second.bytes, second.paused_us);
    assert!(first.bytes > 32 * MIB && second.bytes < first.bytes / 4, "{} and {} bytes", first.bytes, second.bytes);
    assert!(first.paused_us > 0 && second.paused_us > 0);
    let sizes = [bytes(&edge, &second, 0).await.len(), bytes(&edge, &second, 1).await.len()];
    assert_eq!((sizes.iter().sum::<usize>() as u64, second.copies), (second.bytes, 2), "the store has what is told");
    // A user's stands beside them.
    let asked = p.hub.hub.checkpoint(&job).await.unwrap();
    assert!(asked.kept && asked.parent.is_none() && asked.bytes > 32 * MIB, "{asked:?}");
    let third = p.due(&job).await;
    assert_eq!(third.parent, Some(second.id));
    // Of a rank that has moved there is a complete one first, beside an increment of the other.
    let m = p.hub.hub.migrate(&job, "cloud", Some(vec![1]), None).await.unwrap().id;
    p.until("the move to end", async || !p.migration(m).await.open()).await;
    assert_eq!(p.job(&job).await.ranks[1].site, "cloud", "{}", p.migration(m).await.reason);
    p.at_work(&job).await;
    let fourth = p.due(&job).await;
    assert_eq!(fourth.parent, Some(third.id));
    let (stayed, moved) = (bytes(&edge, &fourth, 0).await.len() as u64, bytes(&cloud, &fourth, 1).await.len() as u64);
    assert!(stayed < 4 * MIB && moved > 16 * MIB, "{stayed} and {moved} bytes");
    let fifth = p.due(&job).await;
    assert!(fifth.parent == Some(fourth.id) && fifth.bytes < first.bytes / 4, "{fifth:?}");
    // From there it goes on, wherever its ranks are put, and the first there is a complete one again.
    p.lose(&job).await;
    p.until("the job to begin again", async || p.job(&job).await.restarts == 1).await;
    p.at_work(&job).await;
    let again = p.job(&job).await;
    let chain: Vec<&str> = [&fourth, &third, &second, &first].iter().map(|c| c.prefix.as_str()).collect();
    assert_eq!((again.from_checkpoint.as_str(), again.from_parents.iter().map(String::as_str).collect::<Vec<_>>()), (fifth.prefix.as_str(), chain));
    let sixth = p.due(&job).await;
    assert!(sixth.parent.is_none() && sixth.bytes > 32 * MIB, "no agent knows what it wrote for the ranks that were lost: {sixth:?}");
    for agent in [&edge, &cloud] {
        assert!(lock(&agent.taking).is_empty());
        assert_eq!(agent.copies_bytes.load(std::sync::atomic::Ordering::Relaxed), 0, "copies are given back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_increment_costs_one_step_back() {
    let p = platform().await;
    let edge = p.agent("edge", 1 << 30).await;
    let job = p.churn(1, 8, 1_000_000_000).await;
    let mut made = Vec::new();
    for _ in 0..4 {
        made.push(p.due(&job).await);
    }
    let (bucket, key) = snapshot(&made[2], 0);
    edge.node.put(&bucket, &key, "damaged".into()).await.unwrap();
    p.lose(&job).await;
    p.until("the job to begin for the third time", async || p.job(&job).await.restarts == 2).await;
    p.at_work(&job).await;
    let begun = p.job(&job).await;
    assert_eq!((begun.from_checkpoint.as_str(), &begun.from_parents), ("job-1/2", &vec!["job-1/1".to_string()]), "what does not stand on it is good");
    let said = async || {
        let events = p.hub.hub.events.last(0, 50).await.unwrap();
        events.into_iter().filter(|e| e.kind == "checkpoint.unusable").map(|e| e.message).collect::<Vec<_>>()
    };
    let first = said().await;
    assert!(first.len() == 1 && first[0].starts_with("checkpoint job-1/3: the snapshot of rank 0 in checkpoint job-1/3 can't be used"), "{first:?}");

    // One that is another than it was, though whole.
    let next = [p.due(&job).await, p.due(&job).await, p.due(&job).await];
    assert_eq!([next[0].parent, next[1].parent, next[2].parent], [None, Some(next[0].id), Some(next[1].id)]);
    let (bucket, key) = snapshot(&next[1], 0);
    let other = bytes(&edge, &next[0], 0).await;
    edge.node.put(&bucket, &key, other.into()).await.unwrap();
    p.lose(&job).await;
    p.until("the job to begin for the fifth time", async || p.job(&job).await.restarts == 4).await;
    p.at_work(&job).await;
    assert_eq!(p.job(&job).await.from_checkpoint, next[0].prefix);
    let second = said().await.pop().unwrap();
    assert!(second.starts_with(&format!("checkpoint {}: ", next[1].prefix)) && second.contains("it is another"), "{second}");
}

/// A rank for whose pages there is no room at its agent is written while it stands, and is right all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_is_larger_than_the_room_for_copies_stands_while_it_is_written() {
    let p = platform().await;
    // A quarter of it may be copies.
    let edge = p.agent("edge", 100 * MIB).await;
    const ROUNDS: u32 = 3000;
    let output = async |job: &str| {
        let ended = p.ended(job).await;
        assert_eq!(ended.state, JobState::Succeeded, "{}", ended.reason);
        std::fs::read_to_string(p.hub.hub.logs.path(ended.n, None)).unwrap()
    };
    let undisturbed = p.churn(1, 48, ROUNDS).await;
    let right = output(&undisturbed).await;
    assert!(right.starts_with("ready\nsum "), "{right}");
    let job = p.churn(1, 48, ROUNDS).await;
    let complete = p.due(&job).await;
    assert!(complete.bytes > 48 * MIB && complete.parent.is_none(), "{complete:?}");
    let increment = p.due(&job).await;
    println!("without room: {} us for {} bytes; with room: {} us for {} bytes", complete.paused_us, complete.bytes, increment.paused_us, increment.bytes);
    assert!(increment.bytes < 8 * MIB && increment.parent == Some(complete.id), "{increment:?}");
    assert_eq!(edge.copies_bytes.load(std::sync::atomic::Ordering::Relaxed), 0);
    p.lose(&job).await;
    assert_eq!(output(&job).await, right);
    assert_eq!(p.job(&job).await.restarts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_are_named_after_rank_and_job() {
    let p = platform().await;
    let _edge = p.agent("edge", 1 << 30).await;
    let job = p.run(2, "edge").await;
    let name = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default();
    let names: Vec<String> = std::fs::read_dir(Path::new("/proc/self/task")).unwrap().map(name).collect();
    for rank in 0..2 {
        assert!(names.iter().any(|n| n.trim() == format!("r{rank} {job}")), "{names:?}");
    }
}
