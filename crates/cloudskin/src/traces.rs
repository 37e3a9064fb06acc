//! Spans for a collector of OpenTelemetry: what `tracing` calls a span goes out as OTLP over HTTP, in JSON.
//!
//! ```text
//! span ends ─▶ queue of 4096 ─▶ one task: up to 512, or what came within a second ─▶ POST <OTEL_EXPORTER_OTLP_ENDPOINT>/v1/traces
//! ```
//!
//! Off unless one of the variables of OpenTelemetry says where to: `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` (as it is) or `OTEL_EXPORTER_OTLP_ENDPOINT`. `OTEL_SERVICE_NAME` is the name under which a process is shown
//! (`cloudskin`). Exported are the spans of the object store (`geds::spans`), whatever the log shows. A trace is what one process does: no id goes to other nodes. Nobody ever waits for the collector: what finds the
//! queue full is dropped and counted, what it does not take in 10 s is dropped, and a warning a minute says so. Written here because the crates for it bring another two dozen into the tree, for one JSON document.

use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tracing::{
    Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    layer::{Context, Filter, Layer},
    registry::LookupSpan,
};

/// Spans that wait, and that go at a time.
const QUEUE_MAX: usize = 4096;
const BATCH_MAX: usize = 512;
/// How long a span waits for others, how long the collector may take, and how long the end of the process waits for the last ones.
const GATHER: Duration = Duration::from_secs(1);
const POST_MAX: Duration = Duration::from_secs(10);
const END_MAX: Duration = Duration::from_secs(2);
/// How often it is said that some were dropped.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Whose spans go out.
const TARGET: &str = "geds::spans";

/// A span, as it is shown. Times are Unix nanoseconds.
#[derive(Debug)]
struct Span {
    trace: u128,
    id: u64,
    parent: Option<u64>,
    name: &'static str,
    began: u64,
    ended: u64,
    fields: Vec<(&'static str, Value)>,
}

/// Kept with a span while it is open.
struct Open {
    trace: u128,
    id: u64,
    parent: Option<u64>,
    began: u64,
    fields: Fields,
}

#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        match self.0.iter_mut().find(|(name, _)| *name == field.name()) {
            Some(known) => known.1 = value,
            None => self.0.push((field.name(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.set(field, json!({"stringValue": format!("{value:?}")}));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, json!({"stringValue": value}));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        // Numbers of 64 bits are text in OTLP's JSON.
        self.set(field, json!({"intValue": value.to_string()}));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, json!({"intValue": value.to_string()}));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, json!({"boolValue": value}));
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Takes spans as they end.
pub struct Traces {
    queue: mpsc::Sender<Span>,
    dropped: Arc<AtomicU64>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Traces {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let above = span.parent().and_then(|parent| parent.extensions().get::<Open>().map(|open| (open.trace, open.id)));
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        // An id of zeros is none.
        let open = Open {
            trace: above.map_or_else(|| rand::random::<u128>() | 1, |(trace, _)| trace),
            id: rand::random::<u64>() | 1,
            parent: above.map(|(_, id)| id),
            began: now_ns(),
            fields,
        };
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(open) = context.span(id).as_ref().map(|span| span.extensions_mut()).as_mut().and_then(|all| all.get_mut::<Open>()) {
            values.record(&mut open.fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(Open { trace, id, parent, began, fields }) = span.extensions_mut().remove::<Open>() else { return };
        let span = Span { trace, id, parent, name: span.name(), began, ended: now_ns(), fields: fields.0 };
        if self.queue.try_send(span).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// Of all spans those that go out.
pub struct OfTheStore;

impl<S> Filter<S> for OfTheStore {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        metadata.is_span() && metadata.target() == TARGET
    }
}

/// The other end of the queue, for [`Exporter::start`].
pub struct Waiting {
    queue: mpsc::Receiver<Span>,
    dropped: Arc<AtomicU64>,
    to: String,
    service: String,
}

/// What the environment asks for; `None`: nothing.
pub fn from_environment() -> Option<(Traces, Waiting)> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let to = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| Some(format!("{}/v1/traces", set("OTEL_EXPORTER_OTLP_ENDPOINT")?.trim_end_matches('/'))))?;
    Some(to_collector(to, set("OTEL_SERVICE_NAME").unwrap_or_else(|| "cloudskin".into())))
}

fn to_collector(to: String, service: String) -> (Traces, Waiting) {
    let (queue, queued) = mpsc::channel(QUEUE_MAX);
    let dropped = Arc::<AtomicU64>::default();
    (Traces { queue, dropped: dropped.clone() }, Waiting { queue: queued, dropped, to, service })
}

/// The task that sends.
pub struct Exporter {
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// To be called in a tokio runtime.
    pub fn start(waiting: Waiting) -> Exporter {
        let (end, ends) = oneshot::channel();
        Exporter { end, task: tokio::spawn(waiting.run(ends)) }
    }

    /// Sends what waits, in bounded time.
    pub async fn end(self) {
        let _ = self.end.send(()); // an error is a task that has ended
        let _ = tokio::time::timeout(END_MAX, self.task).await; // the process ends in any case
    }
}

impl Waiting {
    async fn run(mut self, mut end: oneshot::Receiver<()>) {
        let client = match reqwest::Client::builder().timeout(POST_MAX).build() {
            Ok(client) => client,
            Err(error) => return tracing::warn!(%error, "no traces are exported"),
        };
        let mut warned: Option<Instant> = None;
        let mut over = false;
        while !over {
            let mut spans = Vec::new();
            let gathered = tokio::time::sleep(GATHER);
            tokio::pin!(gathered);
            while spans.len() < BATCH_MAX && !over {
                tokio::select! {
                    biased;
                    came = self.queue.recv() => match came {
                        Some(span) => spans.push(span),
                        None => over = true,
                    },
                    _ = &mut end => over = true,
                    () = &mut gathered => break,
                }
            }
            while over && spans.len() < QUEUE_MAX {
                let Ok(span) = self.queue.try_recv() else { break };
                spans.push(span);
            }
            let failed = if spans.is_empty() { None } else { self.post(&client, &spans).await.err() };
            if failed.is_some() {
                self.dropped.fetch_add(spans.len() as u64, Relaxed);
            }
            if self.dropped.load(Relaxed) > 0 && warned.is_none_or(|at| at.elapsed() > WARN_EVERY) {
                warned = Some(Instant::now());
                let error = failed.unwrap_or_else(|| "they came faster than the collector takes them".into());
                tracing::warn!(spans = self.dropped.swap(0, Relaxed), to = without_user(&self.to), error, "spans were dropped");
            }
        }
    }

    async fn post(&self, client: &reqwest::Client, spans: &[Span]) -> Result<(), String> {
        let answer = client.post(&self.to).json(&document(&self.service, spans)).send().await.map_err(|e| e.without_url().to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("it answers {}", answer.status())) }
    }
}

/// An address for the log: a key may stand in front of its host.
fn without_user(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.into() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or(host))
}

/// `ExportTraceServiceRequest` of OTLP 1, as JSON.
fn document(service: &str, spans: &[Span]) -> Value {
    let spans: Vec<Value> = spans
        .iter()
        .map(|span| {
            let attributes: Vec<Value> = span.fields.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
            json!({
                "traceId": format!("{:032x}", span.trace),
                "spanId": format!("{:016x}", span.id),
                "parentSpanId": span.parent.map_or_else(String::new, |id| format!("{id:016x}")),
                "name": span.name,
                "kind": 1,
                "startTimeUnixNano": span.began.to_string(),
                "endTimeUnixNano": span.ended.to_string(),
                "attributes": attributes,
            })
        })
        .collect();
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let resource = json!({"attributes": [text("service.name", service), text("process.pid", &std::process::id().to_string())]});
    json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "cloudskin"}, "spans": spans}]}]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
    use std::sync::Mutex;
    use tracing::{debug_span, field::Empty};
    use tracing_subscriber::{Registry, layer::SubscriberExt};

    type Got = Arc<Mutex<Vec<Value>>>;

    async fn collector(status: StatusCode) -> (String, Got) {
        base::identity::install_crypto();
        let got = Got::default();
        let take = move |State(got): State<Got>, Json(told): Json<Value>| async move {
            got.lock().unwrap().push(told);
            status
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", post(take)).with_state(got.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (at, got)
    }

    #[tokio::test]
    async fn spans_of_the_store_reach_a_collector_with_their_parents_and_fields() {
        let (at, got) = collector(StatusCode::OK).await;
        let (traces, waiting) = to_collector(at, "edge".into());
        let exporter = Exporter::start(waiting);
        let before = now_ns();
        tracing::subscriber::with_default(Registry::default().with(traces.with_filter(OfTheStore)), || {
            let spill = debug_span!(target: "geds::spans", "geds.spill", bucket = "data", key = %"a/b", bytes = Empty);
            let _in = spill.enter();
            // Somebody else's between them is not sent, nor is an event.
            let other = debug_span!("other");
            let _other = other.enter();
            tracing::debug!(target: "geds::spans", "not a span");
            debug_span!(target: "geds::spans", "geds.upload", done = true);
            spill.record("bytes", 123u64);
        });
        exporter.end().await;
        let all = got.lock().unwrap().clone();
        let spans: Vec<Value> = all.iter().flat_map(|told| told["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()).collect();
        assert_eq!(all[0]["resourceSpans"][0]["resource"]["attributes"][0], json!({"key": "service.name", "value": {"stringValue": "edge"}}));
        let [upload, spill] = &spans[..] else { panic!("{spans:#?}") };
        assert_eq!((&upload["name"], &spill["name"]), (&json!("geds.upload"), &json!("geds.spill")));
        assert_eq!((&upload["traceId"], &upload["parentSpanId"], &spill["parentSpanId"]), (&spill["traceId"], &spill["spanId"], &json!("")));
        assert_eq!((spill["traceId"].as_str().unwrap().len(), spill["spanId"].as_str().unwrap().len()), (32, 16));
        let fields = json!([{"key": "bucket", "value": {"stringValue": "data"}}, {"key": "key", "value": {"stringValue": "a/b"}}, {"key": "bytes", "value": {"intValue": "123"}}]);
        assert_eq!(spill["attributes"], fields);
        let time = |span: &Value, name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
        let (began, ended) = (time(spill, "startTimeUnixNano"), time(spill, "endTimeUnixNano"));
        assert!(before <= began && began <= time(upload, "startTimeUnixNano") && time(upload, "endTimeUnixNano") <= ended && ended <= now_ns());
    }

    #[tokio::test]
    async fn nobody_waits_for_a_collector_that_takes_nothing() {
        let (traces, waiting) = to_collector("http://127.0.0.1:1/v1/traces".into(), "edge".into());
        let dropped = waiting.dropped.clone();
        let began = Instant::now();
        tracing::subscriber::with_default(Registry::default().with(traces.with_filter(OfTheStore)), || {
            for _ in 0..QUEUE_MAX + 1000 {
                debug_span!(target: "geds::spans", "geds.open");
            }
        });
        assert_eq!(dropped.load(Relaxed), 1000);
        Exporter::start(waiting).end().await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
