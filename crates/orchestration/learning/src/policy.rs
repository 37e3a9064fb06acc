//! Where a job is served better: a pure function of what was seen and what is forecast.
//!
//! # The model
//!
//! A site with `cores` cores and `demand` cores' worth of ranks that are ready to run gives each of them the share
//! `min(1, cores / demand)`. Moving a job changes its share from the one at its site, whose demand contains the job, to the
//! one at the destination with the job's own demand added. The gain is the quotient: 2.0 means that the job would run
//! twice as fast. A job alone on a crowded core gains nothing by going to a core that it would crowd in the same way.
//!
//! # Both must agree
//!
//! The gain is computed twice, from the observation (median of the last few reports) and from the forecast, and the smaller
//! one counts. A forecast alone moves nothing, and neither does a load that is forecast to end.
//!
//! # A job's own crowd
//!
//! Whoever placed a job chose its site with its data in mind and knew how many cores are there. So a job that crowds only
//! itself stays, even when another site has more cores; what moves it is what others do to its site (`others_min`).
//!
//! # Which end of the interval
//!
//! A move costs something and staying doesn't, so doubt should speak for staying: the source is taken at the *low* end of
//! its interval and the destination at the *high* end. But an interval can be so wide (after a restart, in a series that
//! just changed its nature) that its ends say nothing; then waiting for it would mean to stay in a crowd that everyone can
//! see. So when an interval is wider than `width_max` times its value (at least one core's worth per core), the value itself is used,
//! and the observation, which must agree anyway, is the guard. The decision notes which of the two was done.
//!
//! # What this does not do
//!
//! It holds no state: how long the gain has lasted, which cool-downs run and what was proposed before are kept by the
//! [plane](crate::plane) and come in as [`Inputs`]. It moves whole jobs only, and knows nothing of price or network distance.

use serde::{Deserialize, Serialize};

use crate::forecast::{self, ExponentialSmoothing, Forecast, Forecaster, Reactive, SeasonalNaive};
use crate::plane::{JobView, SiteView};
use crate::sensor::{Series, median};
use crate::{Error, SiteId, micro};

/// Settings of the plane. Times are milliseconds; the defaults suit agents that report twice a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Distance between two values of a series.
    pub step_ms: u64,
    /// Reports kept for each site.
    pub series_max: usize,
    /// Sites and jobs remembered; reports of more are dropped.
    pub sites_max: usize,
    /// How far ahead to look. It should cover a migration and some time to profit from it.
    pub horizon_ms: u64,
    /// Least gain in speed that is worth a move.
    pub gain_min: f64,
    /// Least demand of others at the job's site, in cores' worth per core, seen and forecast, before the job leaves it.
    pub others_min: f64,
    /// Least gain for going back to where the job was moved away from, within `back_ms` of that move.
    pub gain_back_min: f64,
    pub back_ms: u64,
    /// How long the gain must last without a break.
    pub hold_ms: u64,
    /// Fewest reports of a site before it takes part.
    pub samples_min: usize,
    /// Reports whose median is "what is seen now".
    pub observe_window: usize,
    /// A site that has been silent for longer takes no part.
    pub stale_ms: u64,
    /// Rest for a job after its move, or after a proposal that was refused or failed.
    pub cooldown_ms: u64,
    /// Interval width, in multiples of the value, above which the interval is not used.
    pub width_max: f64,
    /// Bytes per second that a migration is expected to move; the network's, not the memory's.
    pub migrate_bytes_per_s: u64,
    /// Time a migration takes whatever the size.
    pub migrate_fixed_ms: u64,
    /// A job is expected to run on for as long as it has run, within these bounds; the time saved is counted over that.
    pub payback_min_ms: u64,
    pub payback_max_ms: u64,
    /// Largest part of the time saved that the migration itself may take.
    pub cost_part_max: f64,
    /// A proposal that nobody settles is forgotten after this long, and one that was taken after ten times this.
    pub open_ms_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            step_ms: 500,
            series_max: 480,
            sites_max: 1024,
            horizon_ms: 5_000,
            gain_min: 1.3,
            others_min: 0.5,
            gain_back_min: 2.0,
            back_ms: 600_000,
            hold_ms: 3_000,
            samples_min: 8,
            observe_window: 3,
            stale_ms: 3_000,
            cooldown_ms: 20_000,
            width_max: 1.0,
            migrate_bytes_per_s: 200_000_000,
            migrate_fixed_ms: 200,
            payback_min_ms: 10_000,
            payback_max_ms: 120_000,
            cost_part_max: 0.5,
            open_ms_max: 60_000,
        }
    }
}

/// Everything that a decision is made of. Stored with a recommendation, it is enough to make it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    pub now_ms: u64,
    pub options: Options,
    pub job: JobView,
    /// What the job wanted of the cores of its site: the last reports, oldest first.
    pub job_wanted: Vec<(u64, f64)>,
    pub from: SiteInputs,
    pub to: SiteInputs,
    /// Since when the gain has been there without a break; `None`: not before now.
    pub held_since_ms: Option<u64>,
    /// The job's last move, if it is remembered.
    pub moved: Option<Moved>,
}

/// One site in [`Inputs`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteInputs {
    pub view: SiteView,
    /// Demand per core, oldest first.
    pub series: Vec<(u64, f64)>,
}

/// A move that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    pub at_ms: u64,
    pub from: SiteId,
    pub to: SiteId,
}

/// What the policy says about moving one job to one site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Move now.
    pub advised: bool,
    /// The gain is there, whether or not it has lasted.
    pub gains: bool,
    /// The smaller of the next two.
    pub gain: f64,
    pub gain_observed: f64,
    pub gain_forecast: f64,
    /// What the gain had to be.
    pub gain_needed: f64,
    pub forecast_from: Forecast,
    pub forecast_to: Forecast,
    /// Whether the ends of the intervals were used, or the values because the interval of that site was too wide.
    pub interval_from_used: bool,
    pub interval_to_used: bool,
    /// Cores' worth of the job's ranks that are ready to run.
    pub job_cores: f64,
    /// Demand in cores: seen now and forecast, without the job at the destination.
    pub seen_from: f64,
    pub seen_to: f64,
    pub migrate_ms: u64,
    pub held_ms: u64,
    /// One sentence with figures: why, or why not.
    pub reason: String,
}

/// Makes the decision again from what was stored. Equal inputs give an equal decision, to the last bit.
pub fn replay(inputs: &Inputs) -> Result<Decision, Error> {
    let options = &inputs.options;
    let from = Seen::new(
        &inputs.from.view,
        &Series::from_points(options.step_ms, &inputs.from.series),
        options,
    )?;
    let to = Seen::new(
        &inputs.to.view,
        &Series::from_points(options.step_ms, &inputs.to.series),
        options,
    )?;
    let state = State {
        now_ms: inputs.now_ms,
        held_since_ms: inputs.held_since_ms,
        moved: inputs.moved.as_ref(),
        job_wanted: &inputs.job_wanted,
    };
    weigh(options, &inputs.job, &from, &to, &state)
}

/// The forecast of a site's series, by the model that has been best on it.
pub fn forecast(series: &Series, options: &Options) -> Result<Forecast, Error> {
    let (reactive, smoothing, seasonal) = (
        Reactive::default(),
        ExponentialSmoothing::default(),
        SeasonalNaive::default(),
    );
    let models: [&dyn Forecaster; 3] = [&reactive, &smoothing, &seasonal];
    if series.len() < options.samples_min {
        let (have, need) = (series.len(), options.samples_min);
        return forecast::fallback(
            series,
            options.horizon_ms,
            &format!("{have} samples, {need} are needed"),
        );
    }
    forecast::best(&models, series, options.horizon_ms)
}

/// A site as the policy sees it, computed once and used for each job.
#[derive(Debug, Clone)]
pub(crate) struct Seen<'a> {
    view: &'a SiteView,
    forecast: Forecast,
    /// Demand per core seen now.
    now: f64,
    samples: usize,
}

impl<'a> Seen<'a> {
    pub(crate) fn new(
        view: &'a SiteView,
        series: &Series,
        options: &Options,
    ) -> Result<Seen<'a>, Error> {
        let site = &view.site;
        if !(view.cores.is_finite() && view.cores > 0.0) {
            return Err(Error::Inputs {
                why: format!(
                    "site {site} has {} cores; more than 0 are needed",
                    view.cores
                ),
            });
        }
        let no_reports = || Error::Inputs {
            why: format!("site {site} has no reports"),
        };
        let now = series
            .median_recent(options.observe_window.max(1))
            .ok_or_else(no_reports)?;
        Ok(Seen {
            view,
            forecast: forecast(series, options)?,
            now,
            samples: series.len(),
        })
    }
}

/// What changes from one call to the next.
pub(crate) struct State<'a> {
    pub now_ms: u64,
    pub held_since_ms: Option<u64>,
    pub moved: Option<&'a Moved>,
    pub job_wanted: &'a [(u64, f64)],
}

/// The policy.
pub(crate) fn weigh(
    options: &Options,
    job: &JobView,
    from: &Seen,
    to: &Seen,
    state: &State,
) -> Result<Decision, Error> {
    let wanted = &state.job_wanted[state
        .job_wanted
        .len()
        .saturating_sub(options.observe_window.max(1))..];
    let job_cores = median(
        wanted
            .iter()
            .map(|p| p.1)
            .filter(|v| v.is_finite())
            .collect(),
    )
    .ok_or_else(|| Error::Inputs {
        why: format!(
            "{} has no load report from site {}",
            job.job, from.view.site
        ),
    })?
    .clamp(0.0, f64::from(job.ranks));
    let (cores_from, cores_to) = (from.view.cores, to.view.cores);

    // Wherever the job is, its own demand is there: an optimistic forecast of the source does not go below it.
    let gain = |demand_from: f64, demand_to: f64| {
        micro(
            share(cores_to, demand_to.max(0.0) + job_cores)
                / share(cores_from, demand_from.max(job_cores)),
        )
    };
    let (seen_from, seen_to) = (from.now * cores_from, to.now * cores_to);
    let gain_observed = gain(seen_from, seen_to);
    let useful = |f: &Forecast| f.width() <= options.width_max * f.value.max(1.0);
    let (interval_from_used, interval_to_used) = (useful(&from.forecast), useful(&to.forecast));
    let taken_from = if interval_from_used {
        from.forecast.low
    } else {
        from.forecast.value
    };
    let taken_to = if interval_to_used {
        to.forecast.high
    } else {
        to.forecast.value
    };
    let gain_forecast = gain(taken_from * cores_from, taken_to * cores_to);
    let smaller = gain_observed.min(gain_forecast);
    let others = (seen_from.min(taken_from * cores_from) - job_cores).max(0.0) / cores_from;

    let goes_back = state.moved.is_some_and(|m| {
        m.from == to.view.site && state.now_ms.saturating_sub(m.at_ms) < options.back_ms
    });
    let gain_needed = if goes_back {
        options.gain_back_min.max(options.gain_min)
    } else {
        options.gain_min
    };

    let migrate_ms = options.migrate_fixed_ms.saturating_add(
        (u128::from(job.state_bytes) * 1000 / u128::from(options.migrate_bytes_per_s.max(1)))
            .min(u128::from(u64::MAX)) as u64,
    );
    let runs_on_ms = job.running_for_ms.clamp(
        options.payback_min_ms,
        options.payback_max_ms.max(options.payback_min_ms),
    );
    let saved_ms = if smaller > 1.0 {
        runs_on_ms as f64 * (1.0 - 1.0 / smaller)
    } else {
        0.0
    };
    let held_ms = state
        .held_since_ms
        .map_or(0, |since| state.now_ms.saturating_sub(since));

    let (job_id, site_from, site_to) = (&job.job, &from.view.site, &to.view.site);
    let samples = from.samples.min(to.samples);
    // Why not, the first reason that holds; the last of them only asks for patience.
    let obstacle = if !to.view.alive {
        Some(format!("{site_to} is not alive"))
    } else if to.view.slots_free < job.ranks {
        Some(format!(
            "{site_to} has {} free slots and {job_id} needs {}",
            to.view.slots_free, job.ranks
        ))
    } else if samples < options.samples_min {
        Some(format!(
            "only {samples} reports so far, {} are needed",
            options.samples_min
        ))
    } else if gain_observed < gain_needed {
        Some(format!(
            "what is seen gives {gain_observed:.2} times the speed, {gain_needed:.2} are needed"
        ))
    } else if gain_forecast < gain_needed {
        Some(format!(
            "the forecast gives {gain_forecast:.2} times the speed, {gain_needed:.2} are needed"
        ))
    } else if others < options.others_min {
        Some(format!(
            "others want only {others:.2} of each core of {site_from}, {:.2} are needed",
            options.others_min
        ))
    } else if migrate_ms as f64 > options.cost_part_max * saved_ms {
        Some(format!(
            "the move takes about {} and saves only about {}",
            seconds(migrate_ms),
            seconds(saved_ms as u64)
        ))
    } else {
        None
    };
    let gains = obstacle.is_none();
    let waits = format!(
        "the gain has lasted {} of {}",
        seconds(held_ms),
        seconds(options.hold_ms)
    );
    let obstacle = obstacle.or((held_ms < options.hold_ms).then_some(waits));
    let figures = format!(
        "{site_from} has {seen_from:.1} cores of demand on {cores_from} (forecast {}), \
         {site_to} would have {:.1} with the job on {cores_to} (forecast {})",
        interval(&from.forecast, cores_from, 0.0),
        seen_to + job_cores,
        interval(&to.forecast, cores_to, job_cores),
    );
    let reason = match &obstacle {
        None => format!(
            "{job_id} would run {smaller:.1} times as fast on {site_to}: {figures}; this has lasted {} and the move takes about {}",
            seconds(held_ms),
            seconds(migrate_ms),
        ),
        Some(obstacle) => format!("{job_id} stays on {site_from}: {obstacle}; {figures}"),
    };
    Ok(Decision {
        advised: obstacle.is_none(),
        gains,
        gain: smaller,
        gain_observed,
        gain_forecast,
        gain_needed,
        forecast_from: from.forecast.clone(),
        forecast_to: to.forecast.clone(),
        interval_from_used,
        interval_to_used,
        job_cores: micro(job_cores),
        seen_from: micro(seen_from),
        seen_to: micro(seen_to),
        migrate_ms,
        held_ms,
        reason,
    })
}

/// Part of a core that each ready rank gets.
fn share(cores: f64, demand: f64) -> f64 {
    if demand <= cores { 1.0 } else { cores / demand }
}

/// A forecast per core as cores, with something added: `8.1, 7.8 to 8.6`.
fn interval(f: &Forecast, cores: f64, added: f64) -> String {
    let [value, low, high] = [f.value, f.low, f.high].map(|v| v * cores + added);
    format!("{value:.1}, {low:.1} to {high:.1}")
}

pub(crate) fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job of four ranks at a site with `edge` cores of demand per core, beside an idle one of the same size.
    fn inputs(edge: f64, cloud: f64) -> Inputs {
        let view = |name: &str| SiteView {
            site: SiteId::new(name).unwrap(),
            cores: 1.0,
            slots_free: 8,
            alive: true,
        };
        let flat = |value: f64| (0..40).map(|i| (i * 500, value)).collect::<Vec<_>>();
        Inputs {
            now_ms: 19_500,
            options: Options::default(),
            job: JobView {
                job: crate::JobId::new("job-1").unwrap(),
                site: SiteId::new("edge").unwrap(),
                ranks: 4,
                state_bytes: 64 << 20,
                running_for_ms: 20_000,
            },
            job_wanted: flat(4.0),
            from: SiteInputs {
                view: view("edge"),
                series: flat(edge),
            },
            to: SiteInputs {
                view: view("cloud"),
                series: flat(cloud),
            },
            held_since_ms: Some(16_500),
            moved: None,
        }
    }

    fn check(change: impl FnOnce(&mut Inputs), advised: bool, gain: f64, says: &str) {
        let mut inputs = inputs(8.0, 0.0);
        change(&mut inputs);
        let decision = replay(&inputs).unwrap();
        assert_eq!(
            (decision.advised, decision.gain),
            (advised, gain),
            "{}",
            decision.reason
        );
        assert!(
            decision.reason.contains(says),
            "{:?} does not say {says:?}",
            decision.reason
        );
    }

    #[test]
    fn gains_and_obstacles() {
        check(
            |_| (),
            true,
            2.0,
            "job-1 would run 2.0 times as fast on cloud",
        );
        check(
            |i| i.held_since_ms = Some(17_000),
            false,
            2.0,
            "lasted 2.5 s of 3.0 s",
        );
        check(
            |i| i.held_since_ms = None,
            false,
            2.0,
            "lasted 0.0 s of 3.0 s",
        );
        check(
            |i| i.to.view.alive = false,
            false,
            2.0,
            "cloud is not alive",
        );
        check(
            |i| i.to.view.slots_free = 3,
            false,
            2.0,
            "3 free slots and job-1 needs 4",
        );
        check(
            |i| i.job.state_bytes = 1 << 30,
            false,
            2.0,
            "the move takes about 5.6 s and saves only about 10.0 s",
        );
        check(|i| i.to.view.cores = 4.0, true, 8.0, "8.0 times");
        check(
            |i| i.to.series.truncate(4),
            false,
            2.0,
            "only 4 reports so far, 8 are needed",
        );
        // Alone on its core, the job would crowd the other core in the same way.
        check(
            |i| i.from.series = inputs(4.0, 0.0).from.series,
            false,
            1.0,
            "what is seen gives 1.00 times",
        );
        // Alone on its core, it stays even where four cores are idle; another tenant is what moves it.
        let crowd = |edge: f64| {
            move |i: &mut Inputs| {
                i.from.series = inputs(edge, 0.0).from.series;
                i.to.view.cores = 4.0;
            }
        };
        check(
            crowd(4.4),
            false,
            4.4,
            "others want only 0.40 of each core of edge, 0.50 are needed",
        );
        check(crowd(4.6), true, 4.6, "4.6 times");
        // A site's own crowd counts.
        check(
            |i| i.to.series = inputs(0.0, 4.0).to.series,
            false,
            1.0,
            "1.00 times",
        );
        // Going back asks for more.
        let back = |gain_back_min| {
            move |i: &mut Inputs| {
                i.options.gain_back_min = gain_back_min;
                let [from, to] = [&i.to, &i.from].map(|s| s.view.site.clone());
                i.moved = Some(Moved {
                    at_ms: 1_000,
                    from,
                    to,
                });
            }
        };
        check(back(2.5), false, 2.0, "2.50 are needed");
        check(back(2.0), true, 2.0, "2.0 times as fast");
    }

    #[test]
    fn what_was_seen_alone_is_not_enough() {
        // The crowd comes for 4 s in each 16 s and has just come: it will be gone when the job would have arrived.
        let wave: Vec<_> = (0..160u64)
            .map(|i| (i * 500, if i % 32 >= 24 { 8.0 } else { 4.0 }))
            .collect();
        let mut inputs = inputs(8.0, 0.0);
        inputs.from.series = wave;
        let decision = replay(&inputs).unwrap();
        assert!(
            decision.forecast_from.model.starts_with("seasonal naive"),
            "{}",
            decision.forecast_from.model
        );
        assert_eq!(
            (
                decision.gain_observed,
                decision.gain_forecast,
                decision.advised
            ),
            (2.0, 1.0, false)
        );
    }

    #[test]
    fn a_useless_interval_is_not_used() {
        // A coin thrown between an empty and a crowded edge, crowded now: low end and high end say nothing.
        let mut inputs = inputs(8.0, 0.0);
        inputs.from.series = (0..60u64)
            .map(|i| {
                (
                    i * 500,
                    if i > 50 || i * 7919 % 13 < 6 {
                        8.0
                    } else {
                        0.0
                    },
                )
            })
            .collect();
        let decision = replay(&inputs).unwrap();
        assert!(
            !decision.interval_from_used && decision.interval_to_used,
            "{decision:?}"
        );
    }

    #[test]
    fn inputs_that_cannot_be_are_an_error() {
        let mut broken = inputs(8.0, 0.0);
        broken.to.view.cores = 0.0;
        assert_eq!(
            replay(&broken).unwrap_err().to_string(),
            "stored inputs cannot be replayed: site cloud has 0 cores; more than 0 are needed"
        );
        let mut broken = inputs(8.0, 0.0);
        broken.job_wanted.clear();
        assert!(replay(&broken).is_err());
    }

    #[test]
    fn unknown_options_are_refused() {
        assert!(serde_json::from_str::<Options>(r#"{"gain_min": 1.5}"#).is_ok());
        assert!(serde_json::from_str::<Options>(r#"{"gain_minimum": 1.5}"#).is_err());
    }
}
