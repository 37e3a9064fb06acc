//! `get`, `describe`, `explain` and `site join`: what the hub knows, as tables.

use crate::{
    api::{Checkpoint, Event, Job, Migration, Recommendation, Site},
    args::{Describable, Describe, Explain, Get, Join, Output, Store, What},
    client::{Call, Client},
    failure::fail,
    gantt::gantt,
    progress::moved,
    store, table,
    table::{age, pairs, short, size},
};
use base::{Kind, clock::now_ms};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

/// Events in one answer of the hub.
const EVENTS_PAGE: u64 = 1000;

fn parse<T: DeserializeOwned>(value: &Value) -> anyhow::Result<T> {
    Ok(serde_json::from_value(value.clone())?)
}

pub async fn get(client: &Client, get: Get, output: Output) -> anyhow::Result<u8> {
    let id = get.id.as_deref();
    let now = now_ms();
    match get.what {
        What::Sites => {
            let mut told = only(client.get(Call::to("sites")).await?, "site", "name", id)?;
            if !get.history {
                without_history(&mut told);
            }
            table::print(output, &told, || Ok(sites(&parse::<Vec<Site>>(&told)?, now)))
        }
        What::Jobs => {
            let mut told = one_or_all(client, "jobs", id).await?;
            if let (Some(state), Value::Array(jobs)) = (get.state, &mut told) {
                jobs.retain(|j| j["state"] == format!("{state:?}").to_lowercase());
            }
            table::print(output, &told, || Ok(jobs(&parse::<Vec<Job>>(&told)?, now)))
        }
        What::Migrations => {
            let told = one_or_all(client, "migrations", id).await?;
            table::print(output, &told, || Ok(migrations(&parse::<Vec<Migration>>(&told)?)))
        }
        What::Recommendations => {
            let told = one_or_all(client, "recommendations", id).await?;
            table::print(output, &told, || Ok(recommendations(&parse::<Vec<Recommendation>>(&told)?, now)))
        }
        What::Buckets => match id {
            None => store::buckets(client, output).await,
            Some(bucket) => store::store(client, Store::Ls { bucket: Some(bucket.into()) }, output).await,
        },
        What::Events => {
            let (told, more) = events(client, id, get.limit as usize).await?;
            if more && output == Output::Table {
                eprintln!("the last {}; --limit shows more", get.limit);
            }
            table::print(output, &told, || {
                let rows: Vec<Vec<String>> = parse::<Vec<Event>>(&told)?
                    .into_iter()
                    .map(|e| vec![e.id.to_string(), age(e.at_ms, now), e.kind, e.subject, short(&e.message, 100)])
                    .collect();
                Ok(table::table(&["ID", "AGE", "KIND", "SUBJECT", "MESSAGE"], &rows))
            })
        }
        What::Checkpoints => {
            let told = only(client.get(Call::to("checkpoints")).await?, "checkpoint of a job", "job", id)?;
            table::print(output, &told, || {
                let rows: Vec<Vec<String>> = parse::<Vec<Checkpoint>>(&told)?
                    .into_iter()
                    .map(|c| vec![c.id.to_string(), c.job, if c.kept { "you" } else { "its schedule" }.into(), moved(c.bytes), c.parent.map_or("all".into(), |p| format!("since {p}")), paused(c.paused_us), if c.copies == 0 { "gone".into() } else { c.copies.to_string() }, age(c.at_ms, now)])
                    .collect();
                Ok(table::table(&["ID", "JOB", "ASKED BY", "SIZE", "HOLDS", "PAUSE", "COPIES", "AGE"], &rows))
            })
        }
    }
}

/// All of a kind, or a list of the one that is asked for.
async fn one_or_all(client: &Client, what: &str, id: Option<&str>) -> anyhow::Result<Value> {
    match id {
        None => client.get(Call::to(what)).await,
        Some(id) => Ok(Value::Array(vec![client.get(Call::to(what).push(id)).await?])),
    }
}

fn only(list: Value, what: &str, key: &str, id: Option<&str>) -> anyhow::Result<Value> {
    let (Some(id), Value::Array(list)) = (id, &list) else { return Ok(list) };
    let found: Vec<Value> = list.iter().filter(|v| v[key] == id).cloned().collect();
    if found.is_empty() {
        let there: Vec<&str> = list.iter().filter_map(|v| v[key].as_str()).collect();
        return Err(fail(Kind::NotFound, format!("there is no {what} {id:?}; there are: {}", if there.is_empty() { "none".into() } else { there.join(", ") })));
    }
    Ok(Value::Array(found))
}

/// The load of the last minutes is for charts: hundreds of lines for each site.
fn without_history(sites: &mut Value) {
    for site in sites.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        site.remove("history");
    }
}

/// The last events, and whether there are more; with a subject (`job-1`) only its.
pub async fn events(client: &Client, subject: Option<&str>, limit: usize) -> anyhow::Result<(Value, bool)> {
    let mut more = false;
    let (mut since, mut kept) = (0, std::collections::VecDeque::new());
    loop {
        let page: Vec<Value> = client.get(Call::to("events.json").ask("since", since).ask("limit", EVENTS_PAGE)).await?;
        let last = page.iter().filter_map(|e| e["id"].as_u64()).max();
        for event in page {
            if subject.is_none_or(|s| event["subject"] == s) {
                kept.push_back(event);
            }
            if kept.len() > limit {
                kept.pop_front();
                more = true;
            }
        }
        match last {
            Some(last) if last > since => since = last,
            _ => return Ok((Value::Array(kept.into()), more)),
        }
    }
}

fn sites(sites: &[Site], now: u64) -> String {
    let rows: Vec<Vec<String>> = sites
        .iter()
        .map(|s| {
            let ahead = s.forecast.as_ref().map_or("-".into(), |f| format!("{:.1} ({:.1}–{:.1})", f.value, f.low, f.high));
            vec![
                s.name.clone(),
                s.state.clone(),
                format!("{:.1} of {:.0}", s.cpu_used, s.cores),
                format!("{:.1}", s.cpu_wanted),
                ahead,
                format!("{} of {}", s.rank_count(), s.slots),
                moved(s.memory_used_bytes),
                moved(s.store_bytes),
                age(s.last_seen_ms, now),
            ]
        })
        .collect();
    table::table(&["SITE", "STATE", "CORES", "WANTED", "FORECAST", "RANKS", "MEMORY", "STORE", "SEEN"], &rows)
}

/// `edge 3, cloud 1`
fn whereabouts(job: &Job) -> String {
    let mut at: BTreeMap<&str, u32> = BTreeMap::new();
    for rank in &job.ranks {
        *at.entry(&rank.site).or_default() += 1;
    }
    at.iter().map(|(site, n)| format!("{site} {n}")).collect::<Vec<_>>().join(", ")
}

fn seconds(s: Option<f64>) -> String {
    s.map_or("-".into(), |s| format!("{s:.1} s"))
}

fn jobs(jobs: &[Job], now: u64) -> String {
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|j| {
            let code = j.exit_code.map_or("-".into(), |c| c.to_string());
            vec![j.id.clone(), short(&j.name, 24), j.tenant.clone(), j.state.clone(), whereabouts(j), seconds(j.seconds(now)), code, age(j.created_ms, now), short(&j.reason, 60)]
        })
        .collect();
    table::table(&["JOB", "NAME", "TENANT", "STATE", "RANKS", "TIME", "EXIT", "AGE", "REASON"], &rows)
}

fn migrations(list: &[Migration]) -> String {
    let ms = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.1} ms"));
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|m| {
            let end = |v: Option<f64>| if m.measured() { ms(v) } else { "-".into() };
            let moved = if m.measured() { format!("{} of {}", size(m.moved_bytes), size(m.state_bytes)) } else { "-".into() };
            vec![m.id.to_string(), m.job.clone(), m.rank_list(), m.from.clone(), m.to.clone(), m.state.clone(), end(m.downtime_ms), end(m.total_ms), moved, short(&m.reason, 60)]
        })
        .collect();
    table::table(&["ID", "JOB", "RANKS", "FROM", "TO", "STATE", "DOWNTIME", "TOTAL", "MOVED", "REASON"], &rows)
}

fn recommendations(list: &[Recommendation], now: u64) -> String {
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|r| {
            let migration = r.migration.map_or("-".into(), |m| m.to_string());
            vec![r.id.to_string(), r.job.clone(), r.from.clone(), r.to.clone(), r.state.clone(), migration, r.model.clone(), age(r.at_ms, now), short(&r.reason, 80)]
        })
        .collect();
    table::table(&["ID", "JOB", "FROM", "TO", "STATE", "MIGRATION", "MODEL", "AGE", "REASON"], &rows)
}

pub async fn describe(client: &Client, ask: Describe, output: Output) -> anyhow::Result<u8> {
    let (name, now) = (ask.name.as_str(), now_ms());
    match ask.what {
        Describable::Site => {
            let mut told = only(client.get(Call::to("sites")).await?, "site", "name", Some(name))?;
            without_history(&mut told);
            let told = told[0].clone();
            let all: Vec<Job> = client.get(Call::to("jobs")).await?;
            table::print(output, &told, || {
                let s: Site = parse(&told)?;
                let here: Vec<Job> = all.into_iter().filter(|j| !j.ended() && j.ranks.iter().any(|r| r.site == name)).collect();
                let forecast = s.forecast.as_ref().map(|f| format!("{:.2} cores wanted per core, {:.2} to {:.2}, by {}", f.value, f.low, f.high, f.model));
                let mut text = pairs(&[
                    ("site", s.name.clone()),
                    ("state", s.state.clone()),
                    ("address", s.address.clone()),
                    ("cores", format!("{:.0} ({:.2} used, {:.2} wanted)", s.cores, s.cpu_used, s.cpu_wanted)),
                    ("affinity", s.affinity.clone()),
                    ("forecast", forecast.unwrap_or_default()),
                    ("memory", format!("{} of {}", moved(s.memory_used_bytes), moved(s.memory_bytes))),
                    ("store", moved(s.store_bytes)),
                    ("ranks", format!("{} of {}", s.rank_count(), s.slots)),
                    ("last seen", format!("{} ago", age(s.last_seen_ms, now))),
                ]);
                if !here.is_empty() {
                    text += &format!("\n{}", jobs(&here, now));
                }
                Ok(text)
            })
        }
        Describable::Job => {
            let told: Value = client.get(Call::to("jobs").push(name)).await?;
            let moves: Vec<Migration> = client.get(Call::to("migrations")).await?;
            let checkpoints: Vec<Checkpoint> = client.get(Call::to("checkpoints")).await?;
            table::print(output, &told, || Ok(job(&parse(&told)?, &moves, &checkpoints, now)))
        }
        Describable::Migration => {
            let told: Value = client.get(Call::to("migrations").push(name)).await?;
            table::print(output, &told, || Ok(migration(&parse(&told)?)))
        }
    }
}

/// How long ranks stood still for a checkpoint.
pub fn paused(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}

/// How a job stands with checkpoints: the last one, and why there is no newer one.
fn checkpoints(j: &Job, all: &[Checkpoint], now: u64) -> String {
    let mut parts = Vec::new();
    if j.checkpoint_every_ms > 0 {
        parts.push(format!("every {}", base::unit::Span(std::time::Duration::from_millis(j.checkpoint_every_ms))));
    }
    if let Some(c) = all.iter().rev().find(|c| c.job == j.id) {
        let copies = match c.copies {
            0 => "which is gone".to_string(),
            1 => "at one place only".to_string(),
            n => format!("at {n} places"),
        };
        let bytes = moved(c.bytes);
        let holds = c.parent.map_or(format!("all {bytes}"), |p| format!("{bytes} of changes since {p}"));
        parts.push(format!("the last is {}, {} ago, {copies}, with {holds}, for which ranks stood still for {}", c.id, age(c.at_ms, now), paused(c.paused_us)));
    }
    if let Some(failed) = &j.checkpoint_failed {
        parts.push(format!("none was made {} ago: {}", age(failed.at_ms, now), failed.reason));
    }
    parts.join("; ")
}

fn job(j: &Job, moves: &[Migration], all: &[Checkpoint], now: u64) -> String {
    let mut text = pairs(&[
        ("job", j.id.clone()),
        ("name", j.name.clone()),
        ("tenant", j.tenant.clone()),
        ("state", j.state.clone()),
        ("reason", j.reason.clone()),
        ("command", j.args.join(" ")),
        ("module", j.module.clone()),
        ("moves", if j.pinned { "never (pinned)".into() } else { "when advised".into() }),
        ("tier", if j.tier.is_empty() { "each site's own".into() } else { format!("{}, as asked", j.tier) }),
        ("time", seconds(j.seconds(now))),
        ("exit code", j.exit_code.map(|c| c.to_string()).unwrap_or_default()),
        ("restarts", if j.restarts > 0 { j.restarts.to_string() } else { String::new() }),
        ("checkpoints", checkpoints(j, all, now)),
        ("output", moved(j.output_bytes)),
        ("backtrace", j.backtrace.clone().unwrap_or_default()),
    ]);
    let rows: Vec<Vec<String>> = j
        .ranks
        .iter()
        .map(|r| {
            let (sent, received) = (r.sent.to_string(), r.received.to_string());
            let tier = r.tier.clone();
            vec![r.rank.to_string(), r.site.clone(), r.state.clone(), r.doing.clone(), format!("{:.2}", r.cpu_used), moved(r.memory_bytes), sent, received, r.epoch.to_string(), tier]
        })
        .collect();
    text += &format!("\n{}", table::table(&["RANK", "SITE", "STATE", "DOING", "CORES", "MEMORY", "SENT", "RECEIVED", "EPOCH", "TIER"], &rows));
    text += &format!("\n{}", gantt(&j.placements, j.ended_ms.unwrap_or(now), 48));
    let own: Vec<Migration> = moves.iter().filter(|m| m.job == j.id).cloned().collect();
    if !own.is_empty() {
        text += &format!("\n{}", migrations(&own));
    }
    text
}

pub fn migration(m: &Migration) -> String {
    let ms = |v: Option<f64>| v.filter(|_| m.measured()).map(|v| format!("{v:.1} ms")).unwrap_or_default();
    let of = |v: Option<u64>| v.filter(|_| m.measured()).map(moved).unwrap_or_default();
    pairs(&[
        ("migration", m.id.to_string()),
        ("job", m.job.clone()),
        ("ranks", m.rank_list()),
        ("way", format!("{} to {}", m.from, m.to)),
        ("state", m.state.clone()),
        ("reason", m.reason.clone()),
        ("advised by", m.recommendation.map(|r| format!("recommendation {r} (cloudskin explain {r})")).unwrap_or_default()),
        ("downtime", ms(m.downtime_ms)),
        ("total", ms(m.total_ms)),
        ("state of ranks", of(m.state_bytes)),
        ("moved", of(m.moved_bytes)),
        ("moved stopped", of(m.moved_stopped_bytes)),
        ("rounds", m.rounds.filter(|_| m.measured()).map(|r| r.to_string()).unwrap_or_default()),
    ])
}

pub async fn explain(client: &Client, ask: Explain, output: Output) -> anyhow::Result<u8> {
    let told: Value = match ask.what.as_deref() {
        Some(n) if n.parse::<u64>().is_ok() => Value::Array(vec![client.get(Call::to("recommendations").push(n)).await?]),
        what => {
            let Value::Array(mut all) = client.get(Call::to("recommendations")).await? else { anyhow::bail!("the hub's list of recommendations is not a list") };
            all.sort_by_key(|r| r["id"].as_u64());
            match what {
                Some(job) => {
                    client.get::<Value>(Call::to("jobs").push(job)).await?;
                    all.retain(|r| r["job"] == job);
                }
                None => {
                    all.drain(..all.len().saturating_sub(1));
                }
            }
            Value::Array(all)
        }
    };
    table::print(output, &told, || {
        let list: Vec<Recommendation> = parse(&told)?;
        if list.is_empty() {
            return Ok(match &ask.what {
                Some(job) => format!("no move of {job} has been advised; `cloudskin get sites` shows what the Learning Plane sees\n"),
                None => "no move has been advised yet; `cloudskin get sites` shows what the Learning Plane sees\n".into(),
            });
        }
        Ok(list.iter().map(advice).collect::<Vec<_>>().join("\n"))
    })
}

pub fn advice(r: &Recommendation) -> String {
    let end = match (r.state.as_str(), r.migration) {
        (_, Some(m)) => format!("  became migration {m}\n"),
        (state, None) => format!("  {state}\n"),
    };
    let head = format!("recommendation {}: move {} from {} to {}\n  {}\n", r.id, r.job, r.from, r.to, r.reason);
    (if r.explanation.is_empty() { head } else { r.explanation.trim_end().to_string() + "\n" }) + &end
}

pub async fn join(client: &Client, join: Join, output: Output) -> anyhow::Result<u8> {
    let ask = serde_json::json!({"site": join.site, "ttl": String::from(join.ttl), "replace": join.replace});
    let told: Value = client.post(Call::to("join-tokens"), &ask, None).await?;
    table::print(output, &told, || {
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_string();
        let left = told["expires_ms"].as_u64().unwrap_or(0).saturating_sub(now_ms()) / 1000;
        Ok(format!(
            "on the machine of site {}, within {left} s and once:\n\n  cloudskin agent --site {} --hub {} --join {} --ca-sha256 {}\n",
            join.site, join.site, text("hub"), text("token"), text("ca_sha256")
        ))
    })
}

pub async fn remove_site(client: &Client, site: &base::SiteId, output: Output) -> anyhow::Result<u8> {
    let told = client.delete(Call::to("sites").push(site.as_str())).await?;
    table::print(output, &told, || Ok(format!("site {site}: removed\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_reads_like_a_page() {
        let j: Job = serde_json::from_value(json!({
            "id": "job-1", "name": "vegetation", "tenant": "default", "state": "running", "np": 2, "created_ms": 1000, "started_ms": 1000,
            "exit_code": null, "backtrace": null, "unknown": 1, "args": ["vegetation", "/scenes/a.tif"],
            "ranks": [{"rank": 0, "site": "cloud", "state": "running", "epoch": 2}, {"rank": 1, "site": "edge", "state": "running", "epoch": 1}],
            "placements": [{"rank": 0, "site": "edge", "from_ms": 1000, "to_ms": 6000}, {"rank": 0, "site": "cloud", "from_ms": 6000, "to_ms": null},
                           {"rank": 1, "site": "edge", "from_ms": 1000, "to_ms": null}]
        }))
        .unwrap();
        let line = jobs(std::slice::from_ref(&j), 11_000);
        assert!(line.contains("job-1  vegetation  default  running  cloud 1, edge 1  10.0 s  -     10s"), "{line}");
        let m = Migration { id: 3, job: "job-1".into(), ranks: vec![0], state: "done".into(), downtime_ms: Some(7.25), total_ms: Some(9.0), ..Default::default() };
        let none = Migration { state: "failed".into(), downtime_ms: Some(0.0), total_ms: Some(0.0), moved_bytes: Some(0), ..m.clone() };
        assert!(migrations(&[none.clone()]).contains("failed  -         -      -") && !migration(&none).contains("downtime"), "{}", migrations(&[none]));
        let failed = crate::api::CheckpointFailed { at_ms: 9000, reason: "no space".into() };
        let j = Job { checkpoint_every_ms: 10_000, checkpoint_failed: Some(failed), ..j };
        let saved = Checkpoint { id: 4, job: "job-1".into(), at_ms: 6000, copies: 2, bytes: 1572864, parent: Some(3), paused_us: 2500, ..Default::default() };
        let page = job(&j, &[m.clone(), Migration { job: "job-2".into(), id: 77, ..m }], &[saved], 11_000);
        for part in ["every 10s; the last is 4, 5s ago, at 2 places, with 1.5 MiB of changes since 3, for which ranks stood still for 2.5 ms; none was made 2s ago: no space", "vegetation /scenes/a.tif", "edge 0.0–5.0 s, cloud 5.0–10.0 s", "7.2 ms"] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(!page.contains("77"), "{page}");
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        let e = only(json!([{"name": "edge"}]), "site", "name", Some("moon")).unwrap_err();
        assert_eq!(e.to_string(), "there is no site \"moon\"; there are: edge");
    }
}
