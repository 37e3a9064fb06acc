//! Forecasts of one series, each with an interval.
//!
//! A [`Forecaster`] says, for every moment of the past, what it would have forecast then for `steps` later
//! ([`Forecaster::rolling`]). The last of these is the forecast; the errors of the others, measured at the very horizon
//! that is asked for, are the interval: their lower and upper quantile are added to the value (a split conformal
//! interval). So no shape of noise is assumed, the two sides differ when the errors do, and a load that jumped *up* makes
//! the upper end uncertain but not the lower one.
//!
//! [`best`] takes the forecaster whose past errors were least, the simpler one unless a richer one is clearly better, and
//! falls back to [`Reactive`] when all fail, saying why. A model that panics has failed, too, and costs nobody else anything.
//! Classical models only: on short, irregular cloud telemetry they are hard to beat, need no training run and are
//! deterministic. Nothing is learned across sites here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};

use crate::sensor::Series;
use crate::{Error, micro};

/// Probability that the intervals are made for.
pub const LEVEL: f64 = 0.8;

/// Fewest past errors that make an interval.
const ERRORS_MIN: usize = 8;

/// How the name of a model begins when all models failed; the reason follows.
const FALLBACK: &str = "reactive (fallback: ";

/// Past errors by which forecasters are compared: two minutes of half seconds.
const SCORED_MAX: usize = 240;

/// Fraction of the simpler model's error that a richer one has to stay under.
const RICHER_MARGIN: f64 = 0.95;

/// What a number will be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Time of the newest value it was made from, Unix milliseconds.
    pub at_ms: u64,
    /// How long after `at_ms` it is for.
    pub horizon_ms: u64,
    pub value: f64,
    pub low: f64,
    pub high: f64,
    /// Probability that the interval was made for.
    pub level: f64,
    /// Which model made it, with its main parameter or the reason of the fallback.
    pub model: String,
}

impl Forecast {
    pub fn width(&self) -> f64 {
        self.high - self.low
    }

    /// Why no model made it but the reactive rule; `None` if a model did.
    pub fn fallback_reason(&self) -> Option<&str> {
        self.model.strip_prefix(FALLBACK)?.strip_suffix(')')
    }
}

/// A way to forecast.
pub trait Forecaster {
    fn name(&self) -> &str;

    /// For each index `t` of `values` the forecast made with `values[..=t]` for `t + steps`; `None` where there was not
    /// enough before. Same length as `values`. A second answer describes the fitted model, for people.
    fn rolling(&self, values: &[f64], steps: usize) -> Result<(Vec<Option<f64>>, String), Error>;

    /// The forecast for `horizon_ms` after the last value of the series.
    fn forecast(&self, series: &Series, horizon_ms: u64) -> Result<Forecast, Error> {
        forecast_scored(self, series, horizon_ms).map(|(forecast, _)| forecast)
    }
}

/// The last value, or rather the mean of the last few: what a reactive rule believes. The floor that any model must beat.
#[derive(Debug, Clone, PartialEq)]
pub struct Reactive {
    /// How many values are averaged.
    pub window: usize,
}

impl Default for Reactive {
    fn default() -> Self {
        Reactive { window: 3 }
    }
}

impl Forecaster for Reactive {
    fn name(&self) -> &str {
        "reactive"
    }

    fn rolling(&self, values: &[f64], _steps: usize) -> Result<(Vec<Option<f64>>, String), Error> {
        let window = self.window.max(1);
        let at = |t: usize| {
            let part = &values[(t + 1).saturating_sub(window)..=t];
            part.iter().sum::<f64>() / part.len() as f64
        };
        Ok((
            (0..values.len()).map(|t| Some(at(t))).collect(),
            "reactive".into(),
        ))
    }
}

/// Holt's linear trend with damping: a level and a trend, each an exponentially weighted memory. The two weights are those
/// of a small grid that had the least absolute error at this horizon; a grid can't diverge and is the same everywhere.
#[derive(Debug, Clone, PartialEq)]
pub struct ExponentialSmoothing {
    /// Weights of the newest value in the level. Below 0.2 the level lags behind a shift for seconds, which costs more than
    /// the smoothing gains.
    pub alphas: Vec<f64>,
    /// Weights of the newest change in the trend; zero is no trend.
    pub betas: Vec<f64>,
    /// What is left of the trend after each step.
    pub damping: f64,
}

impl Default for ExponentialSmoothing {
    fn default() -> Self {
        ExponentialSmoothing {
            alphas: vec![0.2, 0.4, 0.6, 0.9],
            betas: vec![0.0, 0.05, 0.2],
            damping: 0.9,
        }
    }
}

impl Forecaster for ExponentialSmoothing {
    fn name(&self) -> &str {
        "exponential smoothing"
    }

    fn rolling(&self, values: &[f64], steps: usize) -> Result<(Vec<Option<f64>>, String), Error> {
        if values.len() < 4 {
            return Err(Error::TooFew {
                model: self.name().into(),
                have: values.len(),
                need: 4,
            });
        }
        let mut best: Option<(f64, Vec<Option<f64>>, String)> = None;
        for &alpha in &self.alphas {
            for &beta in &self.betas {
                let made = holt(values, steps, alpha, beta, self.damping);
                let error = mean_absolute(&errors(values, &made, steps)).unwrap_or(f64::INFINITY);
                if best.as_ref().is_none_or(|(least, ..)| error < *least) {
                    best = Some((
                        error,
                        made,
                        format!("exponential smoothing (level {alpha}, trend {beta})"),
                    ));
                }
            }
        }
        let (_, made, model) = best.ok_or_else(|| Error::Inputs {
            why: "exponential smoothing has no weights to choose from".into(),
        })?;
        Ok((made, model))
    }
}

fn holt(values: &[f64], steps: usize, alpha: f64, beta: f64, damping: f64) -> Vec<Option<f64>> {
    // Sum of damping^1 … damping^steps: what the trend adds until the horizon.
    let reach: f64 = (1..=steps).map(|i| damping.powi(i as i32)).sum();
    let (mut level, mut trend) = (values[0], 0.0);
    let step = |(t, &value): (usize, &f64)| {
        if t > 0 {
            let expected = level + damping * trend;
            let next = alpha * value + (1.0 - alpha) * expected;
            trend = beta * (next - level) + (1.0 - beta) * damping * trend;
            level = next;
        }
        // The first values only warm it up.
        (t >= 2).then_some(level + reach * trend)
    };
    values.iter().enumerate().map(step).collect()
}

/// What was one period ago, averaged over the last few periods. The period is given, or found as the lag at which the
/// series resembles itself most. (Found on the whole series, so past errors look a little better than they were; the
/// price is small because the period is one number.)
#[derive(Debug, Clone, PartialEq)]
pub struct SeasonalNaive {
    /// Period in steps; `None`: find it.
    pub period: Option<usize>,
    /// Periods to average.
    pub seasons: usize,
}

impl Default for SeasonalNaive {
    fn default() -> Self {
        SeasonalNaive {
            period: None,
            seasons: 3,
        }
    }
}

impl Forecaster for SeasonalNaive {
    fn name(&self) -> &str {
        "seasonal naive"
    }

    fn rolling(&self, values: &[f64], steps: usize) -> Result<(Vec<Option<f64>>, String), Error> {
        let period = match self.period {
            Some(period) => period.max(1),
            None => find_period(values).ok_or(Error::NoSeason {
                samples: values.len(),
            })?,
        };
        if values.len() < 2 * period {
            return Err(Error::TooFew {
                model: self.name().into(),
                have: values.len(),
                need: 2 * period,
            });
        }
        // Whole periods to go back from t + steps until it is past.
        let back = steps.div_ceil(period) * period;
        let at = |t: usize| {
            let newest = (t + steps).checked_sub(back)?;
            let same = (0..self.seasons.max(1))
                .map_while(|k| newest.checked_sub(k * period))
                .map(|i| values[i]);
            let (sum, count) =
                same.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
            Some(sum / f64::from(count))
        };
        Ok((
            (0..values.len()).map(at).collect(),
            format!("seasonal naive (period {period} steps)"),
        ))
    }
}

/// The lag with the highest autocorrelation, if it is a peak that stands out. At least two whole periods must be there.
fn find_period(values: &[f64]) -> Option<usize> {
    const SHORTEST: usize = 4;
    const CORRELATION_MIN: f64 = 0.4;
    let longest = values.len() / 2;
    if longest < SHORTEST + 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let power = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
    if power < 1e-9 {
        return None;
    }
    let correlation = |lag: usize| {
        let pairs = values.len() - lag;
        let product: f64 = values[lag..]
            .iter()
            .zip(values)
            .map(|(a, b)| (a - mean) * (b - mean))
            .sum();
        product / (pairs as f64 * power)
    };
    let all: Vec<f64> = (1..=longest).map(correlation).collect(); // all[i]: lag i + 1
    // Only after the first dip below zero: before it the series merely resembles its own neighbourhood.
    let dip = all.iter().position(|&c| c < 0.0)?;
    let lags = (dip.max(SHORTEST - 1)..all.len().saturating_sub(1))
        .filter(|&i| all[i] >= all[i - 1] && all[i] >= all[i + 1]);
    let highest = lags
        .clone()
        .map(|i| all[i])
        .fold(f64::NEG_INFINITY, f64::max);
    if highest < CORRELATION_MIN {
        return None;
    }
    // Multiples of the period resemble as well as the period itself: take the shortest that is nearly as good.
    lags.into_iter()
        .find(|&i| all[i] >= 0.9 * highest)
        .map(|i| i + 1)
}

/// The forecast of the model that was best so far, or the reactive one with the reason. Give the models simplest first.
/// Fails only if the series is empty.
pub fn best(
    models: &[&dyn Forecaster],
    series: &Series,
    horizon_ms: u64,
) -> Result<Forecast, Error> {
    let mut chosen: Option<(Forecast, f64)> = None;
    let mut why = None;
    for model in models {
        match forecast_caught(*model, series, horizon_ms) {
            Ok((forecast, error)) => {
                if chosen
                    .as_ref()
                    .is_none_or(|(_, least)| error < RICHER_MARGIN * least)
                {
                    chosen = Some((forecast, error));
                }
            }
            // That there is no season is an answer, not a failure.
            Err(Error::NoSeason { .. }) => {}
            Err(error) => why = why.or(Some(error)),
        }
    }
    match (chosen, why) {
        (Some((forecast, _)), _) => Ok(forecast),
        (None, why) => fallback(
            series,
            horizon_ms,
            &why.map_or("no model was asked".into(), |e| e.to_string()),
        ),
    }
}

/// The reactive rule: the mean of the last few observations, between the least and the greatest of the recent ones.
pub fn fallback(series: &Series, horizon_ms: u64, why: &str) -> Result<Forecast, Error> {
    let model = format!("{FALLBACK}{why})");
    let Some((at_ms, _)) = series.last() else {
        return Err(Error::TooFew {
            model: "reactive".into(),
            have: 0,
            need: 1,
        });
    };
    let mean =
        |points: &[(u64, f64)]| points.iter().map(|p| p.1).sum::<f64>() / points.len() as f64;
    let value = mean(&series.recent(Reactive::default().window));
    let recent = series.recent(ERRORS_MIN);
    let low = recent.iter().map(|p| p.1).fold(value, f64::min);
    let high = recent.iter().map(|p| p.1).fold(value, f64::max);
    Ok(Forecast {
        at_ms,
        horizon_ms,
        value: micro(value),
        low: micro(low),
        high: micro(high),
        level: LEVEL,
        model,
    })
}

/// [`forecast_scored`], with a panic of the model's as an error of that model.
fn forecast_caught(
    model: &dyn Forecaster,
    series: &Series,
    horizon_ms: u64,
) -> Result<(Forecast, f64), Error> {
    // A model has no state that it could leave half made, and the series is only read.
    let tried = AssertUnwindSafe(|| forecast_scored(model, series, horizon_ms));
    catch_unwind(tried).unwrap_or_else(|panic| {
        let why = (panic.downcast_ref::<String>().cloned())
            .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        Err(Error::Panicked {
            model: model.name().into(),
            why: why.unwrap_or_else(|| "without a word".into()),
        })
    })
}

/// A forecast and the mean absolute error of its model in the past.
fn forecast_scored<F: Forecaster + ?Sized>(
    model: &F,
    series: &Series,
    horizon_ms: u64,
) -> Result<(Forecast, f64), Error> {
    let values = series.resampled();
    let steps = (horizon_ms.div_ceil(series.step_ms()) as usize).max(1);
    let need = steps + ERRORS_MIN;
    let too_few = |have| Error::TooFew {
        model: model.name().into(),
        have,
        need,
    };
    let (Some((at_ms, _)), true) = (series.last(), values.len() >= need) else {
        return Err(too_few(values.len()));
    };
    let (made, described) = model.rolling(&values, steps)?;
    let not_finite = || Error::NotFinite {
        model: model.name().into(),
        samples: values.len(),
    };
    let value = made
        .last()
        .copied()
        .flatten()
        .ok_or_else(|| too_few(values.len()))?;
    let mut errors = errors(&values, &made, steps);
    if !value.is_finite() || errors.iter().any(|e| !e.is_finite()) {
        return Err(not_finite());
    }
    if errors.len() < ERRORS_MIN {
        return Err(too_few(errors.len() + steps));
    }
    let scored = &errors[errors.len().saturating_sub(SCORED_MAX)..];
    let score = mean_absolute(scored).ok_or_else(not_finite)?;
    errors.sort_by(f64::total_cmp);
    let tail = (1.0 - LEVEL) / 2.0;
    // Demand is never negative, and neither end passes the value itself.
    let value = value.max(0.0);
    let low = (value + quantile(&errors, tail, false)).clamp(0.0, value);
    let high = (value + quantile(&errors, 1.0 - tail, true)).max(value);
    let forecast = Forecast {
        at_ms,
        horizon_ms,
        value: micro(value),
        low: micro(low),
        high: micro(high),
        level: LEVEL,
        model: described,
    };
    Ok((forecast, score))
}

/// Actual minus forecast, oldest first, where both are known.
fn errors(values: &[f64], made: &[Option<f64>], steps: usize) -> Vec<f64> {
    let actual = values.iter().skip(steps);
    actual
        .zip(made)
        .filter_map(|(actual, made)| made.map(|made| actual - made))
        .collect()
}

fn mean_absolute(errors: &[f64]) -> Option<f64> {
    (!errors.is_empty()).then(|| errors.iter().map(|e| e.abs()).sum::<f64>() / errors.len() as f64)
}

/// Quantile of sorted numbers with the correction for a finite sample, rounded outwards.
fn quantile(sorted: &[f64], probability: f64, upper: bool) -> f64 {
    let place = (sorted.len() + 1) as f64 * probability;
    let rank = if upper { place.ceil() } else { place.floor() } as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: impl IntoIterator<Item = f64>) -> Series {
        let points: Vec<_> = values
            .into_iter()
            .enumerate()
            .map(|(i, v)| (1_000 + i as u64 * 500, v))
            .collect();
        Series::from_points(500, &points)
    }

    struct Broken(f64);
    impl Forecaster for Broken {
        fn name(&self) -> &str {
            "broken"
        }
        fn rolling(&self, values: &[f64], _: usize) -> Result<(Vec<Option<f64>>, String), Error> {
            Ok((vec![Some(self.0); values.len()], "broken".into()))
        }
    }

    #[test]
    fn a_constant_is_forecast_as_itself_without_width() {
        for model in [
            &Reactive::default() as &dyn Forecaster,
            &ExponentialSmoothing::default(),
        ] {
            let f = model.forecast(&series(vec![2.5; 60]), 5_000).unwrap();
            assert_eq!((f.value, f.low, f.high), (2.5, 2.5, 2.5), "{}", f.model);
        }
    }

    #[test]
    fn a_trend_is_followed() {
        let ramp = series((0..100).map(|i| 1.0 + 0.05 * f64::from(i)));
        let holt = ExponentialSmoothing::default()
            .forecast(&ramp, 5_000)
            .unwrap();
        let last = Reactive::default().forecast(&ramp, 5_000).unwrap();
        let truth = 1.0 + 0.05 * 109.0;
        assert!(
            (holt.value - truth).abs() < (last.value - truth).abs(),
            "{holt:?} against {last:?}"
        );
    }

    #[test]
    fn a_period_is_found() {
        let square = (0..200).map(|i| if i % 20 < 6 { 8.0 } else { 1.0 });
        let f = SeasonalNaive::default()
            .forecast(&series(square), 5_000)
            .unwrap();
        assert_eq!(f.model, "seasonal naive (period 20 steps)");
        // The last index is 199; 10 steps later is phase 9.
        assert_eq!(f.value, 1.0);
        assert_eq!(find_period(&[1.0; 100]), None);
    }

    #[test]
    fn a_failing_model_becomes_the_reactive_rule_and_says_why() {
        for (model, samples, says) in [
            (Broken(f64::NAN), 60, "not a finite number"),
            (Broken(f64::INFINITY), 60, "not a finite number"),
            (Broken(1.0), 3, "needs 18"),
        ] {
            let f = best(&[&model], &series((0..samples).map(f64::from)), 5_000).unwrap();
            assert!(
                f.model.starts_with("reactive (fallback: broken") && f.model.contains(says),
                "{}",
                f.model
            );
            assert_eq!(f.value, f64::from(samples) - 2.0);
        }
        assert!(best(&[], &series([]), 5_000).is_err());
    }

    struct Panics;
    impl Forecaster for Panics {
        fn name(&self) -> &str {
            "hasty"
        }
        fn rolling(&self, values: &[f64], _: usize) -> Result<(Vec<Option<f64>>, String), Error> {
            panic!("divided by zero at sample {}", values.len())
        }
    }

    #[test]
    fn a_model_that_panics_costs_only_itself() {
        let flat = series(vec![2.5; 60]);
        let f = best(&[&Panics], &flat, 5_000).unwrap();
        let why = f.fallback_reason().unwrap_or_default();
        assert!(
            why.contains("hasty panicked") && why.contains("divided by zero at sample 60"),
            "{why}"
        );
        assert_eq!(f.value, 2.5);
        let f = best(&[&Panics, &Broken(2.5)], &flat, 5_000).unwrap();
        assert_eq!((f.model.as_str(), f.fallback_reason()), ("broken", None));
    }

    #[test]
    fn a_jump_up_widens_the_upper_end_only() {
        let jumped = (0..80).map(|i| if i < 68 { 4.0 } else { 8.0 });
        let f = Reactive::default()
            .forecast(&series(jumped), 5_000)
            .unwrap();
        assert_eq!((f.value, f.low), (8.0, 8.0));
        assert_eq!(f.high, 12.0);
    }
}
