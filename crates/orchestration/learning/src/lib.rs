//! The Learning Plane: telemetry in, forecasts and recommendations out.
//!
//! ```text
//! Observation ──▶ Series (one per site) ──▶ Forecast with an interval ─┐
//!      └──────────▶ what is seen now ──────────────────────────────────┴▶ policy ──▶ Recommendation
//! ```
//!
//! The life of one recommendation: an agent reports that its run queue is twice as long as before; the series of that
//! site rises; forecast *and* observation both say that a job would run faster on another site, by a margin, for a while;
//! [`Plane::advise`] returns a [`Recommendation`] that carries everything it was made of; whoever acts tells the outcome
//! with [`Plane::settle`]; a year later [`replay`] computes the same decision, bit for bit, from the stored inputs.
//!
//! `learning` never talks to a cluster, opens no file or socket, reads no clock and draws no random number: time is an
//! argument. It knows no orchestrator: whoever acts asks for advice and settles it.

pub mod explain;
pub mod forecast;
pub mod plane;
pub mod policy;
pub mod sensor;

pub use base::id::{JobId, SiteId};
pub use explain::explain;
pub use forecast::{Forecast, Forecaster};
pub use plane::{JobView, Options, Outcome, Plane, Recommendation, SiteView, World};
pub use policy::{Decision, Inputs, replay};
pub use sensor::{JobLoad, Observation, Series};

/// What can go wrong here. None of it stops the plane: a forecast that fails becomes the reactive one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("{model} has {} and needs {need}; wait for more telemetry", base::unit::count(*have as u64, "usable sample"))]
    TooFew {
        model: String,
        have: usize,
        need: usize,
    },
    #[error("{model} made a value that is not a finite number from {samples} samples")]
    NotFinite { model: String, samples: usize },
    #[error("{model} panicked, please report it: {why}")]
    Panicked { model: String, why: String },
    #[error("no period was found in {samples} samples")]
    NoSeason { samples: usize },
    #[error("stored inputs cannot be replayed: {why}")]
    Inputs { why: String },
}

impl Error {
    /// What sort of failure it is.
    pub fn kind(&self) -> base::Kind {
        match self {
            Error::TooFew { .. } | Error::NoSeason { .. } => base::Kind::FailedPrecondition,
            Error::NotFinite { .. } | Error::Panicked { .. } => base::Kind::Internal,
            Error::Inputs { .. } => base::Kind::InvalidArgument,
        }
    }
}

/// Keeps three decimals. Numbers with few digits survive a trip through JSON unchanged, which is what makes
/// [`replay`] exact; a thousandth of a core is also finer than any kernel's accounting.
pub(crate) fn milli(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Keeps six decimals, for what is computed; the reason is that of [`milli`].
pub(crate) fn micro(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}
