//! The plain calls: a question, an answer in JSON.

use super::{App, Asked, In, read, recommendations::Forecast};
use crate::{
    Error,
    checkpoints::Checkpoint,
    events::Event,
    hub::{Submit, World, number},
    jobs::{Job, JobState},
    migrations::Migration,
    modules::{MODULE_MAX, Module},
    presence::Stopped,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base::{Kind, clock::now_ms};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::{OpenApi, ToSchema};

/// Jobs and migrations in a list that nobody asked to be of another length, and at most.
const LIST: usize = 500;
const LIST_MAX: usize = 10_000;
/// How long the bytes of a module may take to arrive.
const UPLOAD_TIME_MAX: Duration = Duration::from_secs(300);

/// A site as people see it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Site {
    pub name: String,
    /// `ready`, `late` (not heard of for three heartbeats) or `lost`.
    pub state: &'static str,
    /// Where other agents dial it.
    pub address: String,
    pub cores: f64,
    pub memory_bytes: u64,
    /// Ranks that it takes at once.
    pub slots: u32,
    pub affinity: String,
    /// Cores that its cells got.
    pub cpu_used: f64,
    /// The same plus what they stood ready for and did not get.
    pub cpu_wanted: f64,
    pub memory_used_bytes: u64,
    pub store_bytes: u64,
    /// Ranks that it holds.
    pub ranks: u32,
    pub last_seen_ms: u64,
    /// (Unix ms, cores wanted per core), oldest first.
    pub history: Vec<(u64, f64)>,
    /// The Learning Plane's, of the cores wanted per core; null for a silent site.
    pub forecast: Option<Forecast>,
}

/// Every site that ever joined, by name; those silent for longer than `late` are late.
pub fn list_sites(world: &World, late: Duration) -> Vec<Site> {
    let quiet = |s: &crate::hub::Site| now_ms().saturating_sub(s.last_seen_ms) > late.as_millis() as u64;
    let state = |s: &crate::hub::Site| if s.lost || s.session == 0 { "lost" } else if quiet(s) { "late" } else { "ready" };
    let ranks = |name: &str| {
        let ranks = world.jobs.values().filter(|j| !j.state.ended()).flat_map(|j| &j.ranks);
        ranks.filter(|r| r.site == name && r.state.alive()).count() as u32
    };
    let finite = crate::hub::finite;
    let site = |(name, s): (&String, &crate::hub::Site)| Site {
        name: name.clone(),
        state: state(s),
        address: s.hello.data_address.clone(),
        cores: finite(s.hello.cores),
        memory_bytes: s.hello.memory_bytes,
        slots: s.hello.slots,
        affinity: s.hello.affinity.clone(),
        cpu_used: finite(s.telemetry.cpu_used),
        cpu_wanted: finite(s.telemetry.cpu_wanted),
        memory_used_bytes: s.telemetry.memory_bytes,
        store_bytes: s.telemetry.store_bytes,
        ranks: ranks(name),
        last_seen_ms: s.last_seen_ms,
        history: s.history.iter().copied().collect(),
        forecast: None,
    };
    world.sites.iter().map(site).collect()
}

/// Every error.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}
#[derive(Serialize, ToSchema)]
pub struct ErrorDetail {
    /// Such as `not_found`.
    pub kind: String,
    pub message: String,
}

#[utoipa::path(get, path = "/v1/sites", responses((status = 200, body = [Site])), tag = "sites")]
pub async fn sites(State(app): State<App>) -> Json<Vec<Site>> {
    let mut sites = list_sites(&*app.hub.world.lock().await, app.hub.late());
    for site in sites.iter_mut().filter(|s| s.state == "ready") {
        site.forecast = app.hub.advice.forecast(&site.name).as_ref().map(Forecast::from);
    }
    Json(sites)
}

/// Says that all of the platform is about to be stopped: agents that leave from now on are not lost. Answers with the jobs that run.
#[utoipa::path(post, path = "/v1/stopping", tag = "sites", responses((status = 200, body = [Stopped])))]
pub async fn stopping(State(app): State<App>) -> Result<Json<Vec<Stopped>>, Error> {
    app.hub.close().await.map(Json)
}

/// Forgets a site that is not connected. Its agent is not let in any more; objects that only it had are lost.
#[utoipa::path(delete, path = "/v1/sites/{site}", tag = "sites",
    responses((status = 200), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody, description = "it is connected")))]
pub async fn remove_site(State(app): State<App>, Path(site): Path<String>) -> Result<Json<serde_json::Value>, Error> {
    app.hub.remove_site(&site).await?;
    Ok(Json(serde_json::json!({ "name": site })))
}

/// What the stream server tells of itself, as it tells it; null where the hub knows of none.
#[utoipa::path(get, path = "/v1/streams", tag = "streams",
    responses((status = 200, body = Object), (status = 503, body = ErrorBody, description = "it does not answer")))]
pub async fn streams(State(app): State<App>) -> Result<Response, Error> {
    let Some(ask) = &app.streams else { return Ok(Json(serde_json::Value::Null).into_response()) };
    let answer = ask("/v1/streams".into()).await.map_err(|why| Error::new(Kind::Unavailable, why))?;
    match let_in(answer)? {
        answer if answer.status() == StatusCode::OK => Ok(answer),
        answer => Err(Error::new(Kind::Unavailable, format!("the stream server answers {} when it is asked for its streams", answer.status()))),
    }
}

/// That the stream server does not let the hub in is not that the hub does not let in who asks.
fn let_in(answer: Response) -> Result<Response, Error> {
    match answer.status() {
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(Error::new(
            Kind::Unavailable,
            format!("the stream server answers {status}: start the hub with --streams-user NAME and CLOUDSKIN_STREAM_PASSWORD in its environment, of a user who may read prn::/ and the streams"),
        )),
        _ => Ok(answer),
    }
}

/// A stream's video, as the stream server gives it to a browser: without a part the page that plays it, `live.m3u8` for any player, `frame.jpg` for the newest picture.
#[utoipa::path(get, path = "/v1/video/{scope}/{stream}/{part}", tag = "streams",
    responses((status = 200, body = Vec<u8>), (status = 404, body = ErrorBody, description = "no such stream, or it has no video"), (status = 503, body = ErrorBody)))]
pub async fn video(State(app): State<App>, Path(path): Path<String>, uri: Uri) -> Result<Response, Error> {
    let none = || Error::new(Kind::NotFound, "the hub knows of no stream server; `cloudskin up --streams` starts one, `cloudskin hub --streams` names one");
    let ask = app.streams.as_ref().ok_or_else(none)?;
    // Whoever asks on would take these for a way to something else.
    if path.split('/').any(|part| part == "." || part == "..") {
        return Err(Error::new(Kind::InvalidArgument, format!("{path:?} is not SCOPE/STREAM/PART")));
    }
    let asked = uri.path_and_query().map_or(uri.path(), |p| p.as_str());
    let_in(ask(asked.trim_start_matches("/v1").into()).await.map_err(|why| Error::new(Kind::Unavailable, why))?)
}

#[utoipa::path(post, path = "/v1/modules", tag = "jobs", request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses((status = 200, body = Module), (status = 400, body = ErrorBody, description = "it can't run here; says why")))]
pub async fn add_module(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Json<Module>, Error> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()).and_then(|l| l.parse::<u64>().ok());
    if let Some(length) = length.filter(|l| *l > MODULE_MAX as u64) {
        return Err(Error::new(Kind::InvalidArgument, format!("the module has {length} bytes; {MODULE_MAX} are the most")));
    }
    let _turn = app.uploads.acquire().await.map_err(Error::internal)?;
    let late = |_| Error::new(Kind::DeadlineExceeded, format!("the module did not arrive within {} s", UPLOAD_TIME_MAX.as_secs()));
    let bytes = tokio::time::timeout(UPLOAD_TIME_MAX, read(body, MODULE_MAX)).await.map_err(late)??;
    let hub = app.hub.clone();
    let module = tokio::task::spawn_blocking(move || hub.modules.add(&bytes)).await.map_err(Error::internal)??;
    Ok(Json(module))
}

#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", request_body = Submit,
    responses((status = 201, body = Job), (status = 409, body = ErrorBody, description = "no room; lists the sites")))]
pub async fn submit(State(app): State<App>, In(ask): In<Submit>) -> Result<Response, Error> {
    let job = app.hub.submit(ask).await?;
    Ok((StatusCode::CREATED, Json(job)).into_response())
}

/// Which part of a list.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobsAsk {
    /// Those after this one, such as `job-7`, from the oldest up; `job-0` begins with the first. Without it the newest, and all that have not ended.
    after: Option<String>,
    /// At most so many, not counted those that have not ended; 500 without it, and 10000 at most.
    limit: Option<usize>,
}

/// In the order of their numbers.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(JobsAsk), responses((status = 200, body = [Job]), (status = 400, body = ErrorBody)))]
pub async fn jobs(State(app): State<App>, Asked(ask): Asked<JobsAsk>) -> Result<Json<Vec<Job>>, Error> {
    let limit = ask.limit.unwrap_or(LIST).min(LIST_MAX);
    let Some(after) = ask.after else {
        let world = app.hub.world.lock().await;
        return Ok(Json(newest(world.jobs.values(), limit, |job| !job.state.ended())));
    };
    let wrong = || Error::new(Kind::InvalidArgument, format!("after is {after:?}; give a job, such as job-7"));
    let stored = app.hub.state.jobs(number(&after).ok_or_else(wrong)?, limit).await?;
    let world = app.hub.world.lock().await;
    Ok(Json(stored.into_iter().map(|(n, old)| world.jobs.get(&n).cloned().unwrap_or(old)).collect()))
}

/// The newest `limit`, and the others that are open, in the order in which all are.
fn newest<'a, T: Clone + 'a>(all: impl DoubleEndedIterator<Item = &'a T>, limit: usize, open: impl Fn(&T) -> bool) -> Vec<T> {
    let mut list: Vec<T> = all.rev().enumerate().filter(|(i, one)| *i < limit || open(one)).map(|(_, one)| one.clone()).collect();
    list.reverse();
    list
}

#[utoipa::path(get, path = "/v1/jobs/{id}", responses((status = 200, body = Job), (status = 404, body = ErrorBody)), tag = "jobs")]
pub async fn job(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Job>, Error> {
    Ok(Json(app.hub.job(&*app.hub.world.lock().await, &id).await?))
}

/// Why a job is to stop.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelAsk {
    pub reason: Option<String>,
}

#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs", request_body = CancelAsk,
    responses((status = 200, body = Job), (status = 404, body = ErrorBody)))]
pub async fn cancel(State(app): State<App>, Path(id): Path<String>, In(ask): In<CancelAsk>) -> Result<Json<Job>, Error> {
    let reason = ask.reason.unwrap_or_else(|| "cancelled by the user".into());
    Ok(Json(app.hub.cancel(&id, &reason, JobState::Cancelled).await?))
}

/// Where to move what. Ranks at several sites move site by site: the answer is the first of these migrations, its `rest` the ranks that follow when it
/// has ended, its `next` the migration in which they then do.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateAsk {
    pub to: String,
    /// All that run elsewhere when none are named.
    pub ranks: Option<Vec<u32>>,
    /// Wait first for a checkpoint of the job that is being made; without it this is refused meanwhile.
    #[serde(default)]
    pub wait: bool,
}

#[utoipa::path(post, path = "/v1/jobs/{id}/migrate", tag = "migrations", request_body = MigrateAsk,
    responses((status = 202, body = Migration), (status = 404, body = ErrorBody, description = "no such job, or no such site"),
        (status = 409, body = ErrorBody, description = "not running, or no room; lists the sites")))]
pub async fn migrate(State(app): State<App>, Path(id): Path<String>, In(ask): In<MigrateAsk>) -> Result<Response, Error> {
    let migration = match ask.wait {
        true => app.hub.migrate_after_checkpoint(&id, &ask.to, ask.ranks).await?,
        false => app.hub.migrate(&id, &ask.to, ask.ranks, None).await?,
    };
    Ok((StatusCode::ACCEPTED, Json(migration)).into_response())
}

/// Which part of a list.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MigrationsAsk {
    /// Only this job's.
    job: Option<String>,
    /// Those after this number, from the oldest up; 0 begins with the first. Without it the newest, and all that have not ended.
    after: Option<u64>,
    /// At most so many, not counted those that have not ended; 500 without it, and 10000 at most.
    limit: Option<usize>,
}

/// In the order of their numbers.
#[utoipa::path(get, path = "/v1/migrations", tag = "migrations", params(MigrationsAsk), responses((status = 200, body = [Migration]), (status = 400, body = ErrorBody)))]
pub async fn migrations(State(app): State<App>, Asked(ask): Asked<MigrationsAsk>) -> Result<Json<Vec<Migration>>, Error> {
    let limit = ask.limit.unwrap_or(LIST).min(LIST_MAX);
    let Some(after) = ask.after else {
        let world = app.hub.world.lock().await;
        let own = world.migrations.values().filter(|m| ask.job.as_ref().is_none_or(|job| m.job == *job));
        return Ok(Json(newest(own, limit, Migration::open)));
    };
    Ok(Json(app.hub.state.migrations(ask.job.as_deref(), after, limit).await?.into_values().collect()))
}

#[utoipa::path(get, path = "/v1/migrations/{n}", responses((status = 200, body = Migration), (status = 404, body = ErrorBody)), tag = "migrations")]
pub async fn migration(State(app): State<App>, Path(n): Path<String>) -> Result<Json<Migration>, Error> {
    let missing = || Error::new(Kind::NotFound, format!("there is no migration {n:?}"));
    let number: u64 = n.parse().map_err(|_| missing())?;
    let mut stored = app.hub.state.migrations(None, number.saturating_sub(1), 1).await?;
    stored.remove(&number).map(Json).ok_or_else(missing)
}

/// Answers when the checkpoint is durable.
#[utoipa::path(post, path = "/v1/jobs/{id}/checkpoint", tag = "jobs",
    responses((status = 200, body = Checkpoint), (status = 409, body = ErrorBody, description = "not all ranks run, or it failed; says why")))]
pub async fn checkpoint(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Checkpoint>, Error> {
    Ok(Json(app.hub.checkpoint(&id).await?))
}

/// For which site, and for how long.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinAsk {
    pub site: String,
    /// Such as `10m`, which is the default.
    pub ttl: Option<String>,
    /// The site's agent is gone for good: what joins takes its place.
    #[serde(default)]
    pub replace: bool,
}

/// What an agent needs to join.
#[derive(Serialize, ToSchema)]
pub struct JoinToken {
    /// Good for one agent.
    pub token: String,
    /// `host:port` of the hub.
    pub hub: String,
    /// Fingerprint of the hub's certificate authority.
    pub ca_sha256: String,
    pub expires_ms: u64,
}

#[utoipa::path(post, path = "/v1/join-tokens", tag = "sites", request_body = JoinAsk,
    responses((status = 201, body = JoinToken), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody, description = "there is such a site; says from where it is connected")))]
pub async fn join_token(State(app): State<App>, In(ask): In<JoinAsk>) -> Result<Response, Error> {
    let ttl = ask.ttl.as_deref().unwrap_or("10m").parse::<base::unit::Span>();
    let ttl = ttl.map_err(|e| Error::new(Kind::InvalidArgument, format!("ttl: {e}")))?;
    if ttl.0 > Duration::from_secs(30 * 86400) {
        return Err(Error::new(Kind::InvalidArgument, format!("ttl is {ttl}; a token may live for 30d at most")));
    }
    let (token, expires_ms) = app.hub.mint(&ask.site, ttl.0, ask.replace).await?;
    let answer = JoinToken { token, hub: app.advertise.to_string(), ca_sha256: app.hub.authority.fingerprint(), expires_ms };
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// The document of all calls.
#[derive(OpenApi)]
#[openapi(
    info(title = "CloudSkin hub", description = "Sites, jobs, migrations and events. Times are Unix milliseconds."),
    paths(
        super::recommendations::recommendations, super::recommendations::recommendation, super::ranks::ranks, sites, remove_site, stopping, add_module, submit, jobs, job, cancel, migrate, checkpoint, migrations, migration, join_token, super::grants::bucket_token, super::tenants::set_quota, streams, video, super::streams::logs,
        super::streams::events, super::streams::events_json, super::objects::buckets, super::objects::objects, super::objects::put,
        super::objects::get, super::objects::stat, super::objects::watch, super::objects::metrics, super::objects::tiers, super::objects::delete_all, super::objects::move_all, super::objects::delete, super::objects::act, super::checkpoints::checkpoints, super::checkpoints::delete, super::checkpoints::archive,
        super::checkpoints::restore
    ),
    components(schemas(ErrorBody, ErrorDetail, Event)),
    modifiers(&Bearer)
)]
pub struct Document;

/// Every call needs the token.
struct Bearer;
impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
        document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

pub async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
