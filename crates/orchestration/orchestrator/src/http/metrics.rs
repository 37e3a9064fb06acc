//! `/metrics`: the hub's figures as Prometheus reads them. No token is asked for, so there is nothing of a job in it but counts.

use super::{App, api::list_sites};
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use std::{collections::BTreeMap, fmt::Write};

/// One metric: name after `cloudskin_orchestrator_`, help, and its samples: label, the label's value, the sample's.
fn metric(out: &mut String, name: &str, help: &str, label: &str, samples: impl IntoIterator<Item = (String, f64)>) {
    let _ = write!(out, "# HELP cloudskin_orchestrator_{name} {help}\n# TYPE cloudskin_orchestrator_{name} gauge\n");
    for (of, value) in samples {
        let of = of.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = writeln!(out, "cloudskin_orchestrator_{name}{{{label}=\"{of}\"}} {value}");
    }
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
    let (sites, jobs, migrations, downtime) = {
        let world = app.hub.world.lock().await;
        let downtime = world.migrations.values().rev().find(|m| m.total_ms > 0.0).map(|m| (m.id.to_string(), m.downtime_ms));
        let jobs = count(world.jobs.values().map(|j| name(j.state)));
        (list_sites(&world, app.hub.late()), jobs, count(world.migrations.values().map(|m| name(m.state))), downtime)
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
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out).into_response()
}
