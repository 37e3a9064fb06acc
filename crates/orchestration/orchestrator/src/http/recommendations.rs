//! What the Learning Plane has advised. The explanation is made anew from the stored inputs at each call, so that it is that of the
//! decision and tells when another version of the policy would decide otherwise.

use super::{App, Asked, api::ErrorBody};
use crate::{
    Error,
    advice::{AdviceState, Advised, Ended},
};
use axum::{
    Json,
    extract::{Path, State},
};
use base::Kind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Recommendations in one answer: each may have 20 KB of inputs.
const LIST_MAX: u32 = 1000;
const LIST: u32 = 50;

/// What a site's demand per core will be.
#[derive(Debug, Serialize, ToSchema)]
pub struct Forecast {
    /// Time of the newest report that it was made from.
    pub at_ms: u64,
    /// How long after `at_ms` it is for.
    pub horizon_ms: u64,
    pub value: f64,
    pub low: f64,
    pub high: f64,
    /// Probability that the interval was made for.
    pub level: f64,
    pub model: String,
}

impl From<&learning::Forecast> for Forecast {
    fn from(f: &learning::Forecast) -> Forecast {
        Forecast { at_ms: f.at_ms, horizon_ms: f.horizon_ms, value: f.value, low: f.low, high: f.high, level: f.level, model: f.model.clone() }
    }
}

/// The forecasts of both sites; the destination's is without the job.
#[derive(Debug, Serialize, ToSchema)]
pub struct Forecasts {
    pub from: Forecast,
    pub to: Forecast,
}

/// An advice to move a job.
#[derive(Debug, Serialize, ToSchema)]
pub struct Recommendation {
    pub id: u64,
    pub at_ms: u64,
    pub job: String,
    pub from: String,
    pub to: String,
    /// How many times as fast the job would run.
    pub gain: f64,
    /// One sentence with figures.
    pub reason: String,
    pub state: AdviceState,
    pub migration: Option<u64>,
    /// Of the forecasts.
    pub model: String,
    /// All that the decision was made of.
    pub inputs: serde_json::Value,
    pub forecast: Forecasts,
    /// How it ended, when it has.
    pub ended: Option<Ended>,
    /// For people, several lines.
    pub explanation: String,
}

/// Takes some milliseconds for many: to be called on a thread that may compute.
fn shown(advised: Advised) -> Recommendation {
    let explanation = learning::explain(&advised.recommendation);
    let r = advised.recommendation;
    Recommendation {
        id: r.id,
        at_ms: r.at_ms,
        job: r.job.into(),
        from: r.from.into(),
        to: r.to.into(),
        gain: r.gain,
        reason: r.reason,
        state: advised.state,
        migration: advised.migration,
        model: r.model,
        inputs: serde_json::to_value(&r.inputs).expect("inputs are plain data"),
        forecast: Forecasts { from: (&r.forecast_from).into(), to: (&r.forecast_to).into() },
        ended: advised.ended,
        explanation,
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListAsk {
    /// Only this job's.
    job: Option<String>,
    /// The newest so many; 50 without it.
    limit: Option<u32>,
}

/// The newest, oldest first.
#[utoipa::path(get, path = "/v1/recommendations", tag = "recommendations", params(ListAsk), responses((status = 200, body = [Recommendation])))]
pub async fn recommendations(State(app): State<App>, Asked(ask): Asked<ListAsk>) -> Result<Json<Vec<Recommendation>>, Error> {
    let stored = app.hub.state.recommendations(ask.job.as_deref(), ask.limit.unwrap_or(LIST).min(LIST_MAX)).await?;
    let all = tokio::task::spawn_blocking(move || stored.into_iter().map(shown).collect()).await.map_err(Error::internal)?;
    Ok(Json(all))
}

#[utoipa::path(get, path = "/v1/recommendations/{n}", tag = "recommendations",
    responses((status = 200, body = Recommendation), (status = 404, body = ErrorBody)))]
pub async fn recommendation(State(app): State<App>, Path(n): Path<String>) -> Result<Json<Recommendation>, Error> {
    let stored = match n.parse::<u32>() {
        Ok(number) => app.hub.state.recommendation(number.into()).await?,
        Err(_) => None,
    };
    let stored = stored.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no recommendation {n:?}")))?;
    Ok(Json(tokio::task::spawn_blocking(move || shown(stored)).await.map_err(Error::internal)?))
}
