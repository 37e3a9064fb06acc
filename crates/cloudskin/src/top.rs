//! `top`: what jobs and their ranks use and whom they talk to, again and again on a terminal, once for anything else.
//!
//! What the hub knows is as old as the agents' last report, half a second. Nothing is computed here but sums.

use crate::{
    api::{Load, Site},
    args::{Output, Top},
    client::{Call, Client},
    progress::moved,
    table,
    table::short,
};
use serde_json::Value;
use std::{collections::BTreeMap, io::IsTerminal, time::Duration};

/// Peers that are named in a rank's line.
const PEERS: usize = 3;
/// The hub and its agents have other work, too.
const EVERY_MIN: Duration = Duration::from_millis(100);

pub async fn top(client: &Client, ask: Top, output: Output) -> anyhow::Result<u8> {
    let output = if ask.json { Output::Json } else { output };
    let live = output == Output::Table && !ask.once && std::io::stdout().is_terminal();
    if !live {
        let told = loads(client, &ask).await?;
        let sites: Vec<Site> = if output == Output::Table { client.get(Call::to("sites")).await? } else { Vec::new() };
        return table::print(output, &told, || Ok(page(&sites, &serde_json::from_value::<Vec<Load>>(told.clone())?)));
    }
    let every = ask.every.0.max(EVERY_MIN);
    // From here on Ctrl-C is a wish to see no more, and no failure.
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    table::say("\x1b[2J")?;
    loop {
        let sites: Vec<Site> = client.get(Call::to("sites")).await?;
        let loads: Vec<Load> = serde_json::from_value(loads(client, &ask).await?)?;
        table::say(&frame(&table::safe(&page(&sites, &loads)), size()))?;
        tokio::select! {
            _ = interrupt.recv() => return Ok(0),
            () = tokio::time::sleep(every) => {}
        }
    }
}

async fn loads(client: &Client, ask: &Top) -> anyhow::Result<Value> {
    let call = Call::to("ranks");
    client.get(match &ask.job {
        Some(job) => call.ask("job", job),
        None => call,
    }).await
}

/// Sums, then a line for each job and below it one for each of its ranks; the job that wants most comes first.
fn page(sites: &[Site], loads: &[Load]) -> String {
    let mut jobs: BTreeMap<&str, Vec<&Load>> = BTreeMap::new();
    for load in loads {
        jobs.entry(&load.job).or_default().push(load);
    }
    let mut jobs: Vec<Vec<&Load>> = jobs.into_values().collect();
    let wanted = |ranks: &[&Load]| ranks.iter().map(|l| l.cpu_wanted).sum::<f64>();
    jobs.sort_by(|a, b| wanted(b).total_cmp(&wanted(a)));
    let mut rows = Vec::new();
    for ranks in &jobs {
        if ranks[0].np > 1 {
            rows.push(whole(ranks));
        }
        rows.extend(ranks.iter().map(|l| rank(l)));
    }
    let at = sites.iter().map(|s| format!("{} {:.1} of {:.0} cores ({:.1} wanted)", s.name, s.cpu_used, s.cores, s.cpu_wanted));
    let counts = format!("{}, {}", base::unit::count(jobs.len() as u64, "job"), base::unit::count(loads.len() as u64, "rank"));
    let head = std::iter::once(counts).chain(at).collect::<Vec<_>>().join(" · ");
    let titles = ["JOB", "NAME", "RANK", "SITE", "DOING", "CORES", "WANTED", "WAITING", "MEMORY", "WRITTEN/S", "SENT", "RECEIVED", "MOST WITH", "MOVES", "TIER"];
    format!("{head}\n{}", table::table(&titles, &rows))
}

/// A number of messages and their bytes.
fn messages(count: u64, bytes: u64) -> String {
    if count == 0 { "-".into() } else { format!("{count} ({})", moved(bytes)) }
}

fn rank(l: &Load) -> Vec<String> {
    let peers: Vec<String> = l.peers.iter().take(PEERS).map(|p| format!("{} ({})", p.rank, moved(p.sent_bytes.saturating_add(p.received_bytes)))).collect();
    let most = if peers.is_empty() { "-".into() } else { peers.join(", ") };
    // Before it runs it does nothing that its agent could tell.
    let doing = if l.doing.is_empty() { &l.state } else { &l.doing };
    line(l, l.rank.to_string(), l.site.clone(), doing.clone(), &[l], most, l.moves)
}

/// All ranks of a job.
fn whole(ranks: &[&Load]) -> Vec<String> {
    let mut at: BTreeMap<&str, u32> = BTreeMap::new();
    for l in ranks {
        *at.entry(&l.site).or_default() += 1;
    }
    let at = at.iter().map(|(site, n)| format!("{site} {n}")).collect::<Vec<_>>().join(", ");
    let moves = ranks.iter().map(|l| l.moves).sum();
    line(ranks[0], "all".into(), at, "-".into(), ranks, "-".into(), moves)
}

fn line(of: &Load, rank: String, site: String, doing: String, all: &[&Load], most: String, moves: u32) -> Vec<String> {
    let cores = |each: fn(&Load) -> f64| format!("{:.2}", all.iter().map(|l| each(l)).sum::<f64>());
    let total = |each: fn(&Load) -> u64| all.iter().map(|l| each(l)).fold(0, u64::saturating_add);
    let mut tiers: Vec<&str> = all.iter().map(|l| l.tier.as_str()).filter(|t| !t.is_empty()).collect();
    tiers.sort();
    tiers.dedup();
    let tier = if tiers.is_empty() { "-".into() } else { tiers.join(", ") };
    let (sent, received) = (messages(total(|l| l.sent), total(|l| l.sent_bytes)), messages(total(|l| l.received), total(|l| l.received_bytes)));
    vec![
        of.job.clone(),
        short(&of.name, 16),
        rank,
        site,
        doing,
        cores(|l| l.cpu_used),
        cores(|l| l.cpu_wanted),
        // Of all ranks: on average.
        format!("{:.0} %", all.iter().map(|l| l.waiting).sum::<f64>() * 100.0 / all.len().max(1) as f64),
        moved(total(|l| l.memory_bytes)),
        moved(total(|l| l.written_bytes_per_second as u64)),
        sent,
        received,
        most,
        moves.to_string(),
        tier,
    ]
}

/// A page in the place of the one before: from the upper left corner, cut to rows and columns of the terminal (0: not known).
fn frame(page: &str, (rows, columns): (usize, usize)) -> String {
    let lines: Vec<&str> = page.lines().collect();
    // The last row stays free for the cursor.
    let room = if rows == 0 { lines.len() } else { (rows - 1).min(lines.len()) };
    let (shown, hidden) = match lines.len() - room {
        0 => (room, 0),
        _ => (room.saturating_sub(1), lines.len() - room.saturating_sub(1)),
    };
    let mut out = String::from("\x1b[H");
    let mut put = |line: &str| {
        let line: String = if columns == 0 { line.into() } else { line.chars().take(columns).collect() };
        out += &line;
        out += "\x1b[K\n";
    };
    lines[..shown].iter().for_each(|line| put(line));
    if hidden > 0 {
        put(&format!("… {hidden} more; `cloudskin top JOB` shows one job, and --once all"));
    }
    out + "\x1b[J"
}

/// Rows and columns of the terminal; 0 where it doesn't say.
fn size() -> (usize, usize) {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call fills the structure, which it is known to be by the request's number, or fails and leaves it.
    let told = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    if told == 0 { (size.ws_row.into(), size.ws_col.into()) } else { (0, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Peer;

    fn load(job: &str, rank: u32, wanted: f64) -> Load {
        let peers = [(1, 3 << 20), (2, 5), (3, 4), (4, 3)].map(|(rank, sent_bytes)| Peer { rank, sent: 1, sent_bytes, ..Peer::default() });
        Load {
            job: job.into(),
            name: "flow".into(),
            np: 2,
            rank,
            site: ["edge", "cloud"][rank as usize].into(),
            state: "running".into(),
            doing: "MPI_Recv".into(),
            cpu_used: wanted / 2.0,
            cpu_wanted: wanted,
            memory_bytes: 1 << 20,
            sent: 4,
            sent_bytes: 2048,
            peers: peers.to_vec(),
            moves: rank,
            tier: "quick".into(),
            waiting: wanted / 2.0,
            written_bytes_per_second: 3.0 * 1024.0,
            ..Load::default()
        }
    }

    #[test]
    fn the_job_that_wants_most_comes_first_with_its_sum() {
        let site = Site { name: "edge".into(), cores: 2.0, cpu_used: 1.2, cpu_wanted: 2.5, ..Site::default() };
        let text = page(&[site], &[load("job-1", 0, 0.2), load("job-2", 0, 1.0), load("job-2", 1, 0.5)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "2 jobs, 3 ranks · edge 1.2 of 2 cores (2.5 wanted)");
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(lines[1]), "JOB NAME RANK SITE DOING CORES WANTED WAITING MEMORY WRITTEN/S SENT RECEIVED MOST WITH MOVES TIER");
        assert_eq!(words(lines[2]), "job-2 flow all cloud 1, edge 1 - 0.75 1.50 38 % 2.0 MiB 6.0 KiB 8 (4.0 KiB) - - 1 quick");
        assert_eq!(words(lines[4]), "job-2 flow 1 cloud MPI_Recv 0.25 0.50 25 % 1.0 MiB 3.0 KiB 4 (2.0 KiB) - 1 (3.0 MiB), 2 (5 B), 3 (4 B) 1 quick");
        assert!(words(lines[6]).starts_with("job-1 flow 0 edge"), "{text}");
    }

    #[test]
    fn a_frame_fits_the_terminal_and_says_what_it_hides() {
        let page = "one\ntwo\nthree\nfour\n";
        assert_eq!(frame(page, (0, 0)), "\x1b[Hone\x1b[K\ntwo\x1b[K\nthree\x1b[K\nfour\x1b[K\n\x1b[J");
        assert_eq!(frame(page, (5, 3)), "\x1b[Hone\x1b[K\ntwo\x1b[K\nthr\x1b[K\nfou\x1b[K\n\x1b[J");
        assert_eq!(frame(page, (4, 6)), "\x1b[Hone\x1b[K\ntwo\x1b[K\n… 2 mo\x1b[K\n\x1b[J");
        assert_eq!(frame(page, (1, 0)), "\x1b[H… 4 more; `cloudskin top JOB` shows one job, and --once all\x1b[K\n\x1b[J");
    }
}
