//! A recommendation in plain language, for `cloudskin explain` and the dashboard.
//!
//! The text is computed from the stored inputs by making the decision again, so that it can't tell another story than the
//! one that was acted on.

use crate::forecast::Forecast;
use crate::plane::Recommendation;
use crate::policy::{replay, seconds};
use base::unit::count;

/// Several lines: what, why, how sure, what would have prevented it, and whether the stored inputs still give it.
pub fn explain(recommendation: &Recommendation) -> String {
    let Recommendation {
        id,
        job,
        from,
        to,
        inputs,
        forecast_from,
        forecast_to,
        ..
    } = recommendation;
    let decision = match replay(inputs) {
        Ok(decision) => decision,
        Err(error) => {
            return format!("recommendation {id}: move {job} from {from} to {to}\n  {error}");
        }
    };
    let options = &inputs.options;
    let (cores_from, cores_to) = (inputs.from.view.cores, inputs.to.view.cores);
    let mut lines = vec![
        format!(
            "recommendation {id}: move {job} ({}) from {from} to {to}; it would run {:.1} times as fast",
            count(inputs.job.ranks as u64, "rank"), decision.gain
        ),
        format!(
            "  seen: {from} has {:.1} cores of demand for {cores_from}, {:.1} of it from {job}; {to} has {:.1} for {cores_to}; gain {:.2}",
            decision.seen_from, decision.job_cores, decision.seen_to, decision.gain_observed
        ),
        format!(
            "  forecast for {} later: {}; {}; gain {:.2}",
            seconds(options.horizon_ms),
            forecast_line(
                from.as_str(),
                forecast_from,
                cores_from,
                decision.interval_from_used,
                "low"
            ),
            forecast_line(
                to.as_str(),
                forecast_to,
                cores_to,
                decision.interval_to_used,
                "high"
            ),
            decision.gain_forecast
        ),
        format!(
            "  patience: both gains were at least {:.2} for {} (needed: {}), from {} and {} reports",
            decision.gain_needed,
            seconds(decision.held_ms),
            seconds(options.hold_ms),
            inputs.from.series.len(),
            inputs.to.series.len()
        ),
        format!(
            "  cost: about {} to move {:.1} MiB, against a job that has run for {}",
            seconds(decision.migrate_ms),
            inputs.job.state_bytes as f64 / f64::from(1 << 20),
            seconds(inputs.job.running_for_ms)
        ),
        format!(
            "  it would have stayed if {}",
            counterfactual(&decision, cores_from, cores_to, options)
        ),
    ];
    if let Some(moved) = &inputs.moved {
        let ago = seconds(inputs.now_ms.saturating_sub(moved.at_ms));
        lines.push(format!(
            "  it had moved from {} to {} {ago} before",
            moved.from, moved.to
        ));
    }
    // The record's numbers are rounded, so its text may differ in a last digit; the decision may not.
    let same = decision.advised && (decision.gain - recommendation.gain).abs() <= GAIN_ROUNDING;
    lines.push(if same {
        "  replayed from the stored inputs: the same decision".into()
    } else {
        format!("  replayed from the stored inputs: ANOTHER decision ({}); the record was made by another version or changed", decision.reason)
    });
    lines.join("\n")
}

/// How far apart the gain of a record and that of its replay may be.
const GAIN_ROUNDING: f64 = 0.01;

fn forecast_line(site: &str, f: &Forecast, cores: f64, used: bool, end: &str) -> String {
    let [value, low, high] = [f.value, f.low, f.high].map(|v| v * cores);
    let percent = f.level * 100.0;
    let which = if used {
        format!("{end} end counted")
    } else {
        "too wide, value counted".into()
    };
    format!(
        "{site} {value:.1} cores ({percent:.0} % between {low:.1} and {high:.1}, {which}; {})",
        f.model
    )
}

/// The demand at the source below which the gain seen, or what others do there, would have been too small.
fn counterfactual(
    decision: &crate::Decision,
    cores_from: f64,
    cores_to: f64,
    options: &crate::Options,
) -> String {
    let share_to = (cores_to / (decision.seen_to + decision.job_cores).max(cores_to)).min(1.0);
    let crowd = decision.job_cores + options.others_min * cores_from;
    let least = (cores_from * decision.gain_needed / share_to).max(crowd);
    format!("the demand at its site had been below {least:.1} cores")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::{JobView, Options, Plane, SiteView, World};
    use crate::sensor::{JobLoad, Observation};
    use crate::{JobId, SiteId};

    #[test]
    fn reads_like_a_page() {
        let (edge, cloud, job) = (
            SiteId::new("edge").unwrap(),
            SiteId::new("cloud").unwrap(),
            JobId::new("job-1").unwrap(),
        );
        let mut plane = Plane::new(Options::default());
        let view = |site: &SiteId| SiteView {
            site: site.clone(),
            cores: 1.0,
            slots_free: 8,
            alive: true,
        };
        let movable = JobView {
            job: job.clone(),
            site: edge.clone(),
            ranks: 4,
            state_bytes: 64 << 20,
            running_for_ms: 30_000,
        };
        let world = World {
            sites: vec![view(&edge), view(&cloud)],
            jobs: vec![movable],
        };
        let mut made = Vec::new();
        for at_ms in (0..10_000).step_by(500) {
            let jobs = [(
                job.clone(),
                JobLoad {
                    cpu_used: 0.5,
                    cpu_wanted: 4.0,
                    ranks: 4,
                },
            )]
            .into();
            plane.observe(Observation {
                at_ms,
                site: edge.clone(),
                cores: 1.0,
                cpu_used: 1.0,
                cpu_wanted: 8.0,
                jobs,
            });
            plane.observe(Observation {
                at_ms,
                site: cloud.clone(),
                cores: 1.0,
                cpu_used: 0.0,
                cpu_wanted: 0.0,
                jobs: Default::default(),
            });
            made.extend(plane.advise(at_ms, &world));
        }
        let expected = "\
recommendation 1: move job-1 (4 ranks) from edge to cloud; it would run 2.0 times as fast
  seen: edge has 8.0 cores of demand for 1, 4.0 of it from job-1; cloud has 0.0 for 1; gain 2.00
  forecast for 5.0 s later: edge 8.0 cores (80 % between 8.0 and 8.0, low end counted; reactive (fallback: reactive has 14 usable samples and needs 18; wait for more telemetry)); cloud 0.0 cores (80 % between 0.0 and 0.0, high end counted; reactive (fallback: reactive has 14 usable samples and needs 18; wait for more telemetry)); gain 2.00
  patience: both gains were at least 1.30 for 3.0 s (needed: 3.0 s), from 14 and 14 reports
  cost: about 0.5 s to move 64.0 MiB, against a job that has run for 30.0 s
  it would have stayed if the demand at its site had been below 5.2 cores
  replayed from the stored inputs: the same decision";
        assert_eq!(explain(&made[0]), expected);
        made[0]
            .inputs
            .from
            .series
            .iter_mut()
            .for_each(|p| p.1 = 4.0);
        assert!(explain(&made[0]).contains("ANOTHER decision"));
    }
}
