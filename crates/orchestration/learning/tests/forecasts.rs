//! Are the forecasts better than the last value where there is something to know, no worse where there is not, and are the
//! intervals as wide as they say? On series that are made here, and on public ones if they lie beside the checkout.

mod support;

use learning::forecast::{Forecaster, LEVEL, Reactive};
use learning::policy::{Options, forecast};
use learning::{Forecast, Series};
use support::Random;

const STEP_MS: u64 = 500;
const HORIZON_MS: u64 = 5_000;

/// What came of forecasting one series again and again.
struct Score {
    /// Mean absolute error over that of the last few values' mean.
    against_last: f64,
    coverage: f64,
    count: usize,
}

/// Rolls over `values`: each forecast sees a window of the plane's length and only the past.
fn roll(values: &[f64], every: usize) -> Score {
    let options = Options {
        horizon_ms: HORIZON_MS,
        ..Options::default()
    };
    let steps = (HORIZON_MS / STEP_MS) as usize;
    let (mut ours, mut last, mut covered, mut count) = (0.0, 0.0, 0usize, 0usize);
    for end in (200..values.len().saturating_sub(steps)).step_by(every) {
        let begin = end.saturating_sub(options.series_max);
        let points: Vec<_> = (begin..end)
            .map(|i| (i as u64 * STEP_MS, values[i]))
            .collect();
        let series = Series::from_points(STEP_MS, &points);
        let actual = values[end - 1 + steps];
        let made: Forecast = forecast(&series, &options).unwrap();
        let floor = Reactive::default().forecast(&series, HORIZON_MS).unwrap();
        assert!(
            made.low <= made.value && made.value <= made.high,
            "{made:?}"
        );
        ours += (made.value - actual).abs();
        last += (floor.value - actual).abs();
        covered += usize::from((made.low - 1e-3..=made.high + 1e-3).contains(&actual));
        count += 1;
    }
    let against_last = if last > 0.0 { ours / last } else { 1.0 };
    Score {
        against_last,
        coverage: covered as f64 / count.max(1) as f64,
        count,
    }
}

fn check(name: &str, values: &[f64], against_last_max: f64, coverage_off_max: f64) {
    let score = roll(values, 7);
    println!(
        "{name}: error {:.3} of the last value's, coverage {:.3} of {LEVEL}, {} forecasts",
        score.against_last, score.coverage, score.count
    );
    assert!(
        score.against_last <= against_last_max,
        "{name}: {:.3}",
        score.against_last
    );
    assert!(
        (score.coverage - LEVEL).abs() <= coverage_off_max,
        "{name}: coverage {:.3}",
        score.coverage
    );
}

#[test]
fn seasons_are_used() {
    let mut random = Random::new(11);
    let sine: Vec<f64> = (0..3000)
        .map(|i| {
            5.0 + 3.0 * (f64::from(i) / 40.0 * std::f64::consts::TAU).sin() + 0.4 * random.normal()
        })
        .collect();
    check("sine with noise", &sine, 0.4, 0.06);
    let square: Vec<f64> = (0..3000)
        .map(|i| if i % 60 < 20 { 8.0 } else { 2.0 } + 0.3 * random.normal())
        .collect();
    check("square wave with noise", &square, 0.4, 0.06);
}

#[test]
fn noise_is_not_mistaken_for_a_pattern() {
    for seed in [1, 2, 3] {
        let mut random = Random::new(seed);
        let white: Vec<f64> = (0..3000).map(|_| 5.0 + 0.8 * random.normal()).collect();
        check("white noise", &white, 1.02, 0.06);
        let mut level = 0.0;
        let drifting: Vec<f64> = (0..3000)
            .map(|_| {
                level = 0.95 * level + 0.3 * random.normal();
                8.0 + level
            })
            .collect();
        check("slow noise", &drifting, 1.05, 0.08);
        let heavy: Vec<f64> = (0..3000)
            .map(|_| {
                3.0 + 0.2 * random.normal()
                    + if random.unit() < 0.05 {
                        10.0 * random.unit()
                    } else {
                        0.0
                    }
            })
            .collect();
        check("noise with spikes", &heavy, 1.02, 0.08);
    }
}

#[test]
fn a_shift_is_learned() {
    let mut random = Random::new(5);
    let shift: Vec<f64> = (0..2000)
        .map(|i| if i / 400 % 2 == 0 { 4.0 } else { 8.0 } + 0.2 * random.normal())
        .collect();
    check("level shifts", &shift, 1.05, 0.08);
}

/// Public series of another step: only their shape counts, one value is taken as one step. Skipped where they are absent.
#[test]
fn public_series_when_present() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../../shared/data/nab");
    let Ok(entries) = std::fs::read_dir(folder) else {
        println!("no public series beside the checkout: nothing measured");
        return;
    };
    let mut names: Vec<_> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "csv"))
        .collect();
    names.sort();
    let (mut log_sum, mut count) = (0.0, 0);
    for path in names {
        let text = std::fs::read_to_string(&path).unwrap();
        let values: Vec<f64> = text
            .lines()
            .filter_map(|l| l.split(',').nth(1)?.parse().ok())
            .collect();
        // Values in the size of cores, because series are kept to a thousandth.
        let largest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let values: Vec<f64> = values.iter().map(|v| v / largest * 1000.0).collect();
        let score = roll(&values, 37);
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        println!(
            "{name}: error {:.3} of the last value's, coverage {:.3} of {LEVEL}, {} forecasts",
            score.against_last, score.coverage, score.count
        );
        log_sum += score.against_last.ln();
        count += 1;
    }
    let mean = if count == 0 {
        1.0
    } else {
        (log_sum / f64::from(count)).exp()
    };
    println!("geometric mean over {count} series: {mean:.3}");
    assert!(mean <= 1.0, "worse than the last value: {mean:.3}");
}
