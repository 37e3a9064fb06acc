//! `/metrics`: the hub's figures as Prometheus reads them. No token is asked for, so there is nothing of a job in it but its number and counts.

use super::{
    App,
    api::list_sites,
    ranks::{self, Load},
};
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use std::{collections::BTreeMap, fmt::Write};

/// Samples of each metric of pairs of ranks: the most used ones.
const PAIRS_MAX: usize = 1000;

/// One metric: name after `cloudskin_orchestrator_`, which ends in `_total` if it only grows; help; and its samples: label, the label's value, the sample's.
fn metric(out: &mut String, name: &str, help: &str, label: &str, samples: impl IntoIterator<Item = (String, f64)>) {
    labelled(out, name, help, [label], samples.into_iter().map(|(of, value)| ([of], value)));
}

/// The same with several labels.
fn labelled<const N: usize>(out: &mut String, name: &str, help: &str, labels: [&str; N], samples: impl IntoIterator<Item = ([String; N], f64)>) {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    let _ = write!(out, "# HELP cloudskin_orchestrator_{name} {help}\n# TYPE cloudskin_orchestrator_{name} {kind}\n");
    for (of, value) in samples {
        let escaped = of.iter().map(|of| of.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"));
        let of: Vec<String> = labels.iter().zip(escaped).map(|(label, of)| format!("{label}=\"{of}\"")).collect();
        let _ = writeln!(out, "cloudskin_orchestrator_{name}{{{}}} {value}", of.join(","));
    }
}

/// What each running rank uses, and what it has sent to whom. A total goes back when its job is started again from a checkpoint.
fn of_ranks(out: &mut String, loads: &[Load]) {
    let mut each = |name, help, value: fn(&Load) -> f64| {
        labelled(out, name, help, ["job", "rank"], loads.iter().map(|l| ([l.job.clone(), l.rank.to_string()], value(l))));
    };
    each("rank_cpu_used_cores", "cores that a running rank got", |l| l.cpu_used);
    each("rank_cpu_wanted_cores", "cores that a running rank got or stood ready for", |l| l.cpu_wanted);
    each("rank_memory_bytes", "linear memory of a running rank", |l| l.memory_bytes as f64);
    each("rank_waiting_ratio", "share of the last second that a running rank waited in calls", |l| l.waiting);
    each("rank_stopped_after_ms", "from being asked to stop to leaving its work, the last time; 0 if never", |l| l.stopped_after_ms);
    each("rank_written_bytes_per_second", "of the pages that a running rank writes, estimated", |l| l.written_bytes_per_second);
    each("rank_sent_messages_total", "messages that a running rank has sent", |l| l.sent as f64);
    each("rank_sent_bytes_total", "bytes in the messages that a running rank has sent", |l| l.sent_bytes as f64);
    each("rank_received_messages_total", "messages that a running rank has received", |l| l.received as f64);
    each("rank_received_bytes_total", "bytes in the messages that a running rank has received", |l| l.received_bytes as f64);
    let pairs = loads.iter().flat_map(|l| l.peers.iter().filter(|p| p.sent > 0).map(move |p| (l, p)));
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_by_key(|(_, p)| std::cmp::Reverse((p.sent_bytes, p.sent)));
    pairs.truncate(PAIRS_MAX);
    let mut each = |name, help, value: fn(&crate::jobs::Peer) -> u64| {
        let of = |(l, p): &(&Load, &crate::jobs::Peer)| ([l.job.clone(), l.rank.to_string(), p.rank.to_string()], value(p) as f64);
        labelled(out, name, help, ["job", "from", "to"], pairs.iter().map(of));
    };
    each("pair_sent_messages_total", "messages from one running rank to another of its job, of the 1000 pairs that exchange most", |p| p.sent);
    each("pair_sent_bytes_total", "bytes in the messages from one running rank to another of its job, of the 1000 pairs that exchange most", |p| p.sent_bytes);
}

/// The lower-case name that JSON gives a state.
fn name(state: impl serde::Serialize) -> String {
    serde_json::to_value(state).ok().and_then(|v| Some(v.as_str()?.to_string())).unwrap_or_default()
}

fn count(names: impl Iterator<Item = String>) -> BTreeMap<String, f64> {
    names.fold(BTreeMap::new(), |mut counts, name| {
        *counts.entry(name).or_default() += 1.0;
        counts
    })
}

pub async fn text(State(app): State<App>) -> Response {
    let (sites, jobs, migrations, downtime, loads) = {
        let world = app.hub.world.lock().await;
        let downtime = world.migrations.values().rev().find(|m| m.total_ms > 0.0).map(|m| (m.id.to_string(), m.downtime_ms));
        let jobs = count(world.jobs.values().map(|j| name(j.state)));
        (list_sites(&world, app.hub.late()), jobs, count(world.migrations.values().map(|m| name(m.state))), downtime, ranks::list(&world, None))
    };
    let mut out = String::new();
    let mut of_sites = |name, help, value: fn(&super::api::Site) -> f64| {
        metric(&mut out, name, help, "site", sites.iter().map(|s| (s.name.clone(), value(s))));
    };
    of_sites("site_ready", "1 if the site's agent is there, 0 if it is late or lost", |s| f64::from(s.state == "ready"));
    of_sites("site_cores", "cores that the agent may use", |s| s.cores);
    of_sites("site_cpu_used_cores", "cores that its cells got", |s| s.cpu_used);
    of_sites("site_cpu_wanted_cores", "cores that its cells got or stood ready for", |s| s.cpu_wanted);
    of_sites("site_memory_used_bytes", "linear memory of its cells", |s| s.memory_used_bytes as f64);
    of_sites("site_store_bytes", "bytes in its local object tier", |s| s.store_bytes as f64);
    of_sites("site_slots", "ranks that it takes at once", |s| f64::from(s.slots));
    of_sites("site_ranks", "ranks that it holds", |s| f64::from(s.ranks));
    metric(&mut out, "jobs", "jobs by state", "state", jobs);
    metric(&mut out, "migrations", "migrations by state", "state", migrations);
    metric(&mut out, "migration_downtime_ms", "how long the ranks of the last reported migration stood still", "migration", downtime);
    of_ranks(&mut out, &loads);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out).into_response()
}
