//! The controller's port: Pravega's gRPC service, translated to plans over the store.
//!
//! Clients stop for good on an answer that they don't know, so what can go wrong has the status that the protocol has for it. `getURI` answers for
//! any name, since reader groups ask for names that the controller never made. Nothing here keeps state except the leases of
//! transactions, which begin anew after a restart.

use crate::{
    Error, Result, Store,
    access::{self, Access, NoLogin, Want},
    catalog::{Config, Group, KeyValueTable, Range, Retention, Scaling, SegmentNo, Stream, TxnId, TxnState, WriterMark, even},
    lock,
    plan::{self, Plan},
    proto::*,
    segment::State,
    subscribers::{self, Updated},
    watermark::{self, Noted},
};
use base::{Kind, clock::now_ms};
use prost::Message;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tonic::{Request, Response, Status};

type Answer<T> = std::result::Result<Response<T>, Status>;

/// Names that a listing gives at once.
const PAGE: usize = 1000;
/// A change waits for so long for room in the log. Appends wait for ever, since their clients do nothing else; who makes a stream is told.
const ROOM_WAIT: Duration = Duration::from_secs(10);
/// Streams that a reader group may read.
const GROUP_STREAMS_MAX: usize = 1000;
/// How often leases are looked at.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Controller {
    store: Store,
    access: Access,
    /// Where clients reach the segment store …
    uri: NodeUri,
    /// … and this controller.
    own: NodeUri,
    leases: Arc<Mutex<HashMap<TxnId, Instant>>>,
}

fn status(e: &Error) -> Status {
    Status::new(tonic::Code::from_i32(e.kind().grpc()), e.to_string())
}

fn names(info: Option<StreamInfo>) -> std::result::Result<(String, String), Status> {
    let info = info.ok_or_else(|| Status::invalid_argument("the request names no stream"))?;
    Ok((info.scope, info.stream))
}

fn info(scope: &str, stream: &str) -> Option<StreamInfo> {
    Some(StreamInfo { scope: scope.into(), stream: stream.into(), access_operation: 0 })
}

/// What a request is about, as rules of access name it.
fn of_stream(info: &Option<StreamInfo>) -> String {
    info.as_ref().map_or_else(access::root, |i| access::stream(&i.scope, &i.stream))
}

fn of_scope(info: &Option<ScopeInfo>) -> String {
    info.as_ref().map_or_else(access::root, |i| access::scope(&i.scope))
}

fn segment_id(scope: &str, stream: &str, segment: SegmentNo) -> Option<SegmentId> {
    Some(SegmentId { stream_info: info(scope, stream), segment_id: segment.0 })
}

fn range(scope: &str, stream: &str, range: &Range) -> SegmentRange {
    SegmentRange { segment_id: segment_id(scope, stream, range.segment), min_key: range.low, max_key: range.high }
}

fn ranges(scope: &str, stream: &str, of: &[Range], delegation_token: String) -> SegmentRanges {
    SegmentRanges { segment_ranges: of.iter().map(|r| range(scope, stream, r)).collect(), delegation_token }
}

fn cut(of: HashMap<i64, i64>) -> std::result::Result<BTreeMap<SegmentNo, u64>, Status> {
    let offset = |(segment, offset)| match u64::try_from(offset) {
        Ok(offset) => Ok((SegmentNo(segment), offset)),
        Err(_) => Err(Status::invalid_argument(format!("offset {offset} of segment {segment} is negative"))),
    };
    of.into_iter().map(offset).collect()
}

fn txn(id: Option<crate::proto::TxnId>) -> std::result::Result<TxnId, Status> {
    let id = id.ok_or_else(|| Status::invalid_argument("the request names no transaction"))?;
    Ok(TxnId { high: id.high_bits, low: id.low_bits })
}

fn config(from: StreamConfig) -> Config {
    let scaling = from.scaling_policy.unwrap_or_default();
    Config {
        scaling: Scaling {
            kind: scaling.scale_type,
            target_rate: scaling.target_rate,
            factor: scaling.scale_factor,
            min_segments: scaling.min_num_segments.max(1),
        },
        retention: from
            .retention_policy
            .filter(|r| r.retention_type != 0)
            .map(|r| Retention { kind: r.retention_type, param: r.retention_param, max: r.retention_max }),
        tags: from.tags.map(|t| t.tag).unwrap_or_default(),
        timestamp_timeout_ms: from.timestamp_aggregation_timeout,
        rollover_bytes: from.rollover_size_bytes,
    }
}

fn to_config(scope: &str, name: &str, of: &Config) -> StreamConfig {
    StreamConfig {
        stream_info: info(scope, name),
        scaling_policy: Some(ScalingPolicy {
            scale_type: of.scaling.kind,
            target_rate: of.scaling.target_rate,
            scale_factor: of.scaling.factor,
            min_num_segments: of.scaling.min_segments,
        }),
        retention_policy: Some(of.retention.map_or_else(RetentionPolicy::default, |r| RetentionPolicy {
            retention_type: r.kind,
            retention_param: r.param,
            retention_max: r.max,
        })),
        tags: Some(Tags { tag: of.tags.clone() }),
        timestamp_aggregation_timeout: of.timestamp_timeout_ms,
        rollover_size_bytes: of.rollover_bytes,
    }
}

/// The next page of names that are `shown`, after a token, which is the last name of the page before.
fn page<'a>(all: impl Iterator<Item = &'a String>, token: Option<ContinuationToken>, shown: impl Fn(&str) -> bool) -> (Vec<String>, Option<ContinuationToken>) {
    let after = token.map(|t| t.token).unwrap_or_default();
    let names: Vec<String> = all.filter(|n| after.is_empty() || **n > after).filter(|n| shown(n)).take(PAGE).cloned().collect();
    let token = names.last().cloned().unwrap_or(after);
    (names, Some(ContinuationToken { token }))
}

impl Controller {
    /// Host and port where clients find the segment store, and this controller.
    pub fn new(store: Store, access: Access, segments: (String, u16), controller: (String, u16)) -> Controller {
        let at = |(endpoint, port): (String, u16)| NodeUri { endpoint, port: port.into() };
        Controller { store, access, uri: at(segments), own: at(controller), leases: Arc::default() }
    }

    pub fn service(self) -> controller_service_server::ControllerServiceServer<Controller> {
        controller_service_server::ControllerServiceServer::new(self)
    }

    /// Aborts transactions whose lease has ended. Runs until it is dropped.
    pub async fn sweep(self) {
        let mut tick = tokio::time::interval(SWEEP);
        loop {
            tick.tick().await;
            let open: Vec<(String, String, TxnId, u64)> = self.store.peek(|state| {
                let streams = state.catalog.streams();
                streams.flat_map(|(scope, name, s)| s.open.iter().map(move |(id, t)| (scope.to_string(), name.to_string(), *id, t.lease_ms))).collect()
            });
            let now = Instant::now();
            let ended: Vec<_> = {
                let mut leases = lock(&self.leases);
                let known: HashSet<TxnId> = open.iter().map(|(_, _, id, _)| *id).collect();
                leases.retain(|id, _| known.contains(id));
                open.into_iter().filter(|(_, _, id, lease)| *leases.entry(*id).or_insert(now + Duration::from_millis(*lease)) <= now).collect()
            };
            for (scope, stream, id, _) in ended {
                match self.store.change(|state| plan::abort_txn(state, &scope, &stream, id)).await {
                    Ok(()) => tracing::info!(%scope, %stream, txn = id.low, "a transaction's lease ended; aborted"),
                    Err(e) => tracing::debug!(error = %e, "a transaction ended while its lease was looked at"),
                }
            }
        }
    }

    /// The message of a request, if its sender may do this with the resource that it names.
    async fn enter<T>(&self, request: Request<T>, resource: impl FnOnce(&T) -> String, want: Want) -> std::result::Result<T, Status> {
        Ok(self.enter_as(request, resource, want).await?.1)
    }

    /// [`Controller::enter`], and who that is.
    async fn enter_as<T>(&self, request: Request<T>, resource: impl FnOnce(&T) -> String, want: Want) -> std::result::Result<(Option<String>, T), Status> {
        let (user, message, _) = self.enter_any(request, |r| vec![resource(r)], want).await?;
        Ok((user, message))
    }

    /// [`Controller::enter_as`], for one who may do this with one of the resources, and which were asked about. A refusal names the first.
    async fn enter_any<T>(&self, request: Request<T>, of: impl FnOnce(&T) -> Vec<String>, want: Want) -> std::result::Result<(Option<String>, T, Vec<String>), Status> {
        if self.access.is_open() {
            return Ok((None, request.into_inner(), Vec::new()));
        }
        let header = request.metadata().get("authorization").and_then(|v| v.to_str().ok()).map(str::to_string);
        let peer = request.remote_addr().map(|a| a.ip());
        let message = request.into_inner();
        let resources = of(&message);
        let user = self.access.user(header.as_deref(), peer).await.map_err(|no| {
            self.store.metrics().refused.fetch_add(1, Relaxed);
            match no {
                NoLogin::Wrong(why) => Status::unauthenticated(why),
                NoLogin::Busy(why) => Status::resource_exhausted(why),
            }
        })?;
        self.allowed(&user, &resources, want)?;
        Ok((user, message, resources))
    }

    /// A reader group's configuration, if its sender may change the group and read the group's streams: retention waits for a group that says so, whatever it reads.
    async fn enter_group(&self, request: Request<ReaderGroupConfiguration>) -> std::result::Result<ReaderGroupConfiguration, Status> {
        let (user, request) = self.enter_as(request, |r| access::group_of(&r.scope, &r.reader_group_name), Want::Update).await?;
        if request.starting_stream_cuts.len() > GROUP_STREAMS_MAX {
            return Err(Status::resource_exhausted(format!("reader group {}/{} is to read {} streams; one reads {GROUP_STREAMS_MAX} at most", request.scope, request.reader_group_name, request.starting_stream_cuts.len())));
        }
        for cut in &request.starting_stream_cuts {
            self.allowed(&user, &[of_stream(&cut.stream_info)], Want::Read)?;
        }
        Ok(request)
    }

    /// Whether a user may do this with one of the resources; a refusal names the first, and the right that is missing.
    fn allowed(&self, user: &Option<String>, resources: &[String], want: Want) -> std::result::Result<(), Status> {
        if self.access.is_open() || resources.iter().any(|r| self.access.most(user.as_deref(), r).is_some_and(|most| most >= want)) {
            return Ok(());
        }
        self.store.metrics().refused.fetch_add(1, Relaxed);
        Err(Status::permission_denied(Access::refusal(user.as_deref(), &resources[0], want)))
    }

    /// Whether a listing names this to a user: who may read a scope is told of what in it he may read, as with Pravega.
    fn sees(&self, user: &Option<String>, resource: String) -> bool {
        self.access.most(user.as_deref(), &resource).is_some()
    }

    fn token(&self, user: &Option<String>, scope: &str, stream: &str, want: Want) -> String {
        self.access.token(user.as_deref(), &[access::stream(scope, stream)], want, now_ms())
    }

    async fn change<T>(&self, decide: impl FnOnce(&State) -> Plan<T>) -> Result<T> {
        // Not the backlog's bound: what is deleted or truncated makes room.
        self.store.room_to_end_within(ROOM_WAIT).await?;
        self.store.change(decide).await
    }

    async fn stream<T>(&self, scope: &str, stream: &str, see: impl FnOnce(&Stream) -> T) -> std::result::Result<T, Status> {
        self.store.look(|state| plan::find(state, scope, stream).map(see)).await.map_err(|e| status(&e))
    }
}

/// Turns a result into the status that the protocol has for it; what it has none for is a gRPC error.
fn told(result: Result<()>, success: i32, known: impl FnOnce(&Error) -> Option<i32>) -> std::result::Result<i32, Status> {
    match result {
        Ok(()) => Ok(success),
        Err(e) => match known(&e) {
            Some(code) => {
                tracing::debug!(error = %e, "refused");
                Ok(code)
            }
            None => Err(status(&e)),
        },
    }
}

#[tonic::async_trait]
impl controller_service_server::ControllerService for Controller {
    async fn get_controller_server_list(&self, _: Request<ServerRequest>) -> Answer<ServerResponse> {
        // Asked by clients that were given `pravega://`: from then on they speak to those that are told of here, and to no other.
        Ok(Response::new(ServerResponse { node_uri: vec![self.own.clone()] }))
    }

    async fn create_scope(&self, request: Request<ScopeInfo>) -> Answer<CreateScopeStatus> {
        use create_scope_status::Status as S;
        let scope = self.enter(request, |_| access::root(), Want::Update).await?.scope;
        let done = self.change(|state| plan::create_scope(state, &scope)).await;
        let status = told(done, S::Success as i32, |e| match e {
            Error::ScopeExists(_) => Some(S::ScopeExists as i32),
            Error::Invalid(_) => Some(S::InvalidScopeName as i32),
            _ => None,
        })?;
        Ok(Response::new(CreateScopeStatus { status }))
    }

    async fn check_scope_exists(&self, request: Request<ScopeInfo>) -> Answer<ExistsResponse> {
        let scope = self.enter(request, |r| access::scope(&r.scope), Want::Read).await?.scope;
        let exists = self.store.look(|s| Ok(s.catalog.scopes.contains_key(&scope))).await.map_err(|e| status(&e))?;
        Ok(Response::new(ExistsResponse { exists }))
    }

    async fn list_scopes(&self, request: Request<ScopesRequest>) -> Answer<ScopesResponse> {
        let (user, request) = self.enter_as(request, |_| access::root(), Want::Read).await?;
        let look = self.store.look(|s| Ok(page(s.catalog.scopes.keys(), request.continuation_token, |scope| self.sees(&user, access::scope(scope)))));
        let (scopes, continuation_token) = look.await.map_err(|e| status(&e))?;
        Ok(Response::new(ScopesResponse { scopes, continuation_token }))
    }

    async fn delete_scope(&self, request: Request<ScopeInfo>) -> Answer<DeleteScopeStatus> {
        self.drop_scope(self.enter(request, |_| access::root(), Want::Update).await?.scope, false).await
    }

    async fn delete_scope_recursive(&self, request: Request<ScopeInfo>) -> Answer<DeleteScopeStatus> {
        self.drop_scope(self.enter(request, |_| access::root(), Want::Update).await?.scope, true).await
    }

    async fn create_stream(&self, request: Request<StreamConfig>) -> Answer<CreateStreamStatus> {
        use create_stream_status::Status as S;
        let request = self.enter(request, |r| access::scope(r.stream_info.as_ref().map_or("", |i| &i.scope)), Want::Update).await?;
        let (scope, stream) = names(request.stream_info.clone())?;
        let config = config(request);
        let done = self.change(|state| plan::create_stream(state, &scope, &stream, config, now_ms())).await;
        let status = told(done, S::Success as i32, |e| match e {
            Error::StreamExists(_) => Some(S::StreamExists as i32),
            Error::NoScope(_) => Some(S::ScopeNotFound as i32),
            Error::Invalid(_) => Some(S::InvalidStreamName as i32),
            _ => None,
        })?;
        Ok(Response::new(CreateStreamStatus { status }))
    }

    async fn check_stream_exists(&self, request: Request<StreamInfo>) -> Answer<ExistsResponse> {
        let request = self.enter(request, |r| access::stream(&r.scope, &r.stream), Want::Read).await?;
        let look = self.store.look(|s| Ok(s.catalog.stream(&request.scope, &request.stream).is_some()));
        Ok(Response::new(ExistsResponse { exists: look.await.map_err(|e| status(&e))? }))
    }

    async fn get_stream_configuration(&self, request: Request<StreamInfo>) -> Answer<StreamConfig> {
        let StreamInfo { scope, stream, .. } = self.enter(request, |r| access::stream(&r.scope, &r.stream), Want::Read).await?;
        Ok(Response::new(self.stream(&scope, &stream, |s| to_config(&scope, &stream, &s.config)).await?))
    }

    async fn update_stream(&self, request: Request<StreamConfig>) -> Answer<UpdateStreamStatus> {
        let request = self.enter(request, |r| of_stream(&r.stream_info), Want::Update).await?;
        let (scope, stream) = names(request.stream_info.clone())?;
        let config = config(request);
        self.updated(self.change(|state| plan::update_stream(state, &scope, &stream, config)).await)
    }

    async fn truncate_stream(&self, request: Request<StreamCut>) -> Answer<UpdateStreamStatus> {
        let request = self.enter(request, |r| of_stream(&r.stream_info), Want::Update).await?;
        let (scope, stream) = names(request.stream_info)?;
        let cut = cut(request.cut)?;
        self.updated(self.change(|state| plan::truncate_stream(state, &scope, &stream, cut)).await)
    }

    async fn seal_stream(&self, request: Request<StreamInfo>) -> Answer<UpdateStreamStatus> {
        let StreamInfo { scope, stream, .. } = self.enter(request, |r| access::stream(&r.scope, &r.stream), Want::Update).await?;
        self.updated(self.change(|state| plan::seal_stream(state, &scope, &stream)).await)
    }

    async fn delete_stream(&self, request: Request<StreamInfo>) -> Answer<DeleteStreamStatus> {
        use delete_stream_status::Status as S;
        let StreamInfo { scope, stream, .. } = self.enter(request, |r| access::stream(&r.scope, &r.stream), Want::Update).await?;
        let done = self.change(|state| plan::delete_stream(state, &scope, &stream)).await;
        let status = told(done, S::Success as i32, |e| match e {
            Error::NoStream(_) | Error::NoScope(_) => Some(S::StreamNotFound as i32),
            Error::StreamNotSealed(_) => Some(S::StreamNotSealed as i32),
            _ => None,
        })?;
        Ok(Response::new(DeleteStreamStatus { status }))
    }

    async fn list_streams_in_scope(&self, request: Request<StreamsInScopeRequest>) -> Answer<StreamsInScopeResponse> {
        let (user, request) = self.enter_as(request, |r| of_scope(&r.scope), Want::Read).await?;
        self.streams(&user, request.scope, None, request.continuation_token).await
    }

    async fn list_streams_in_scope_for_tag(&self, request: Request<StreamsInScopeWithTagRequest>) -> Answer<StreamsInScopeResponse> {
        let (user, request) = self.enter_as(request, |r| of_scope(&r.scope), Want::Read).await?;
        self.streams(&user, request.scope, Some(request.tag), request.continuation_token).await
    }

    async fn get_current_segments(&self, request: Request<StreamInfo>) -> Answer<SegmentRanges> {
        let (user, StreamInfo { scope, stream, .. }) = self.enter_as(request, |r| access::stream(&r.scope, &r.stream), Want::Read).await?;
        // Java's readers ask for the stream of watermarks before there is one.
        if let Some(base) = watermark::marked(&stream)
            && self.store.peek(|s| s.catalog.stream(&scope, base).is_some() && s.catalog.stream(&scope, &stream).is_none())
        {
            self.change(|state| watermark::make_mark_stream(state, &scope, base, now_ms())).await.map_err(|e| status(&e))?;
        }
        // A sealed stream has none that are written to.
        let current = self.stream(&scope, &stream, |s| if s.sealed { Vec::new() } else { s.current().segments.clone() }).await?;
        Ok(Response::new(ranges(&scope, &stream, &current, self.token(&user, &scope, &stream, Want::Update))))
    }

    async fn get_epoch_segments(&self, request: Request<GetEpochSegmentsRequest>) -> Answer<SegmentRanges> {
        let (user, request) = self.enter_as(request, |r| of_stream(&r.stream_info), Want::Read).await?;
        let (scope, stream) = names(request.stream_info)?;
        let found = self.stream(&scope, &stream, |s| u32::try_from(request.epoch).ok().and_then(|e| s.epoch(e)).map(|e| e.segments.clone())).await?;
        let found = found.ok_or_else(|| Status::not_found(format!("stream {scope}/{stream} has no epoch {}, or it lies before what was truncated", request.epoch)))?;
        Ok(Response::new(ranges(&scope, &stream, &found, self.token(&user, &scope, &stream, Want::Update))))
    }

    async fn get_segments(&self, request: Request<GetSegmentsRequest>) -> Answer<SegmentsAtTime> {
        let (user, request) = self.enter_as(request, |r| of_stream(&r.stream_info), Want::Read).await?;
        let (scope, stream) = names(request.stream_info)?;
        // Pravega's clients ask for 0, the beginning.
        let head = match u64::try_from(request.timestamp) {
            Ok(at_ms @ 1..) => self.stream(&scope, &stream, |s| s.place(at_ms).map(|cut| if subscribers::at_or_after(s, &s.head(), &cut) { s.head() } else { cut })).await?.ok_or_else(|| {
                Status::not_found(format!("it is not known where {scope}/{stream} was at {at_ms} ms since 1970: times of places are noted of streams that forget by themselves, and of scales"))
            })?,
            _ => self.stream(&scope, &stream, Stream::head).await?,
        };
        let at = |(segment, offset): (SegmentNo, u64)| segments_at_time::SegmentLocation {
            segment_id: segment_id(&scope, &stream, segment),
            offset: offset as i64,
        };
        Ok(Response::new(SegmentsAtTime { segments: head.into_iter().map(at).collect(), delegation_token: self.token(&user, &scope, &stream, Want::Update) }))
    }

    async fn get_segments_immediatly_following(&self, request: Request<SegmentId>) -> Answer<SuccessorResponse> {
        self.get_segments_immediately_following(request).await
    }

    async fn get_segments_immediately_following(&self, request: Request<SegmentId>) -> Answer<SuccessorResponse> {
        let (user, request) = self.enter_as(request, |r| of_stream(&r.stream_info), Want::Read).await?;
        let (scope, stream) = names(request.stream_info)?;
        let found = self.stream(&scope, &stream, |s| s.successors(SegmentNo(request.segment_id))).await?;
        let found = found.ok_or_else(|| Status::not_found(format!("stream {scope}/{stream} has no segment {}", request.segment_id)))?;
        let entry = |(r, before): (Range, Vec<SegmentNo>)| successor_response::SegmentEntry {
            segment: Some(range(&scope, &stream, &r)),
            value: before.into_iter().map(|s| s.0).collect(),
        };
        Ok(Response::new(SuccessorResponse { segments: found.into_iter().map(entry).collect(), delegation_token: self.token(&user, &scope, &stream, Want::Update) }))
    }

    async fn get_segments_between(&self, request: Request<StreamCutRange>) -> Answer<StreamCutRangeResponse> {
        let (user, request) = self.enter_as(request, |r| of_stream(&r.stream_info), Want::Read).await?;
        let (scope, stream) = names(request.stream_info)?;
        let (from, to) = (cut(request.from)?, cut(request.to)?);
        let found = self.stream(&scope, &stream, |s| s.between(&from, &to)).await?;
        let segments = found.into_iter().filter_map(|s| segment_id(&scope, &stream, s)).collect();
        Ok(Response::new(StreamCutRangeResponse { segments, delegation_token: self.token(&user, &scope, &stream, Want::Update) }))
    }

    async fn scale(&self, request: Request<ScaleRequest>) -> Answer<ScaleResponse> {
        use scale_response::ScaleStreamStatus as S;
        let request = self.enter(request, |r| of_stream(&r.stream_info), Want::Update).await?;
        let (scope, stream) = names(request.stream_info)?;
        let seal: Vec<SegmentNo> = request.sealed_segments.into_iter().map(SegmentNo).collect();
        let new: Vec<(f64, f64)> = request.new_key_ranges.iter().map(|r| (r.start, r.end)).collect();
        match self.change(|state| plan::scale(state, &scope, &stream, &seal, &new, now_ms())).await {
            Ok((epoch, new)) => {
                tracing::info!(%scope, %stream, sealed = seal.len(), new = new.len(), "scaled");
                let segments = new.iter().map(|r| range(&scope, &stream, r)).collect();
                Ok(Response::new(ScaleResponse { status: S::Started as i32, segments, epoch: epoch as i32 }))
            }
            Err(Error::Conflict(_) | Error::StreamSealed(_)) => {
                Ok(Response::new(ScaleResponse { status: S::PreconditionFailed as i32, segments: Vec::new(), epoch: 0 }))
            }
            Err(e) => Err(status(&e)),
        }
    }

    async fn check_scale(&self, request: Request<ScaleStatusRequest>) -> Answer<ScaleStatusResponse> {
        use scale_status_response::ScaleStatus as S;
        let request = self.enter(request, |r| of_stream(&r.stream_info), Want::Read).await?;
        let (scope, stream) = names(request.stream_info)?;
        let now = self.stream(&scope, &stream, Stream::epoch_number).await?;
        // A scale is done when it is answered.
        let known = u32::try_from(request.epoch).is_ok_and(|e| e <= now);
        Ok(Response::new(ScaleStatusResponse { status: if known { S::Success } else { S::InvalidInput } as i32 }))
    }

    async fn get_uri(&self, request: Request<SegmentId>) -> Answer<NodeUri> {
        self.enter(request, |r| of_stream(&r.stream_info), Want::Read).await?;
        Ok(Response::new(self.uri.clone()))
    }

    async fn is_segment_valid(&self, request: Request<SegmentId>) -> Answer<SegmentValidityResponse> {
        let request = self.enter(request, |r| of_stream(&r.stream_info), Want::Read).await?;
        let (scope, stream) = names(request.stream_info)?;
        let written = |s: &Stream| !s.sealed && s.current().segments.iter().any(|r| r.segment.0 == request.segment_id);
        Ok(Response::new(SegmentValidityResponse { response: self.stream(&scope, &stream, written).await? }))
    }

    async fn is_stream_cut_valid(&self, request: Request<StreamCut>) -> Answer<StreamCutValidityResponse> {
        let request = self.enter(request, |r| of_stream(&r.stream_info), Want::Read).await?;
        let (scope, stream) = names(request.stream_info)?;
        let cut = cut(request.cut)?;
        Ok(Response::new(StreamCutValidityResponse { response: self.stream(&scope, &stream, |s| s.is_cut(&cut)).await? }))
    }

    async fn create_transaction(&self, request: Request<CreateTxnRequest>) -> Answer<CreateTxnResponse> {
        let (user, request) = self.enter_as(request, |r| of_stream(&r.stream_info), Want::Update).await?;
        let (scope, stream) = names(request.stream_info)?;
        let done = self.change(|state| plan::begin_txn(state, &scope, &stream, request.lease, now_ms())).await;
        let (id, active) = done.map_err(|e| status(&e))?;
        self.lease(id, request.lease);
        Ok(Response::new(CreateTxnResponse {
            txn_id: Some(crate::proto::TxnId { high_bits: id.high, low_bits: id.low }),
            active_segments: active.iter().map(|r| range(&scope, &stream, r)).collect(),
            delegation_token: self.token(&user, &scope, &stream, Want::Update),
        }))
    }

    async fn commit_transaction(&self, request: Request<TxnRequest>) -> Answer<TxnStatus> {
        let request = self.enter(request, |r| of_stream(&r.stream_info), Want::Update).await?;
        let ((scope, stream), id) = (names(request.stream_info)?, txn(request.txn_id)?);
        self.ended(self.change(|state| plan::commit_txn(state, &scope, &stream, id, now_ms())).await)
    }

    async fn abort_transaction(&self, request: Request<TxnRequest>) -> Answer<TxnStatus> {
        let request = self.enter(request, |r| of_stream(&r.stream_info), Want::Update).await?;
        let ((scope, stream), id) = (names(request.stream_info)?, txn(request.txn_id)?);
        self.ended(self.change(|state| plan::abort_txn(state, &scope, &stream, id)).await)
    }

    async fn ping_transaction(&self, request: Request<PingTxnRequest>) -> Answer<PingTxnStatus> {
        use ping_txn_status::Status as S;
        let request = self.enter(request, |r| of_stream(&r.stream_info), Want::Update).await?;
        let ((scope, stream), id) = (names(request.stream_info)?, txn(request.txn_id)?);
        let status = match self.stream(&scope, &stream, |s| s.txn_state(id)).await? {
            Some(TxnState::Open) if !(1..=plan::LEASE_MAX_MS).contains(&request.lease) => S::LeaseTooLarge,
            Some(TxnState::Open) => {
                self.lease(id, request.lease);
                S::Ok
            }
            Some(TxnState::Committed) => S::Committed,
            Some(TxnState::Aborted) => S::Aborted,
            None => S::Unknown,
        };
        Ok(Response::new(PingTxnStatus { status: status as i32 }))
    }

    async fn check_transaction_state(&self, request: Request<TxnRequest>) -> Answer<TxnState_> {
        use txn_state::State as S;
        let request = self.enter(request, |r| of_stream(&r.stream_info), Want::Read).await?;
        let ((scope, stream), id) = (names(request.stream_info)?, txn(request.txn_id)?);
        let state = match self.stream(&scope, &stream, |s| s.txn_state(id)).await? {
            Some(TxnState::Open) => S::Open,
            Some(TxnState::Committed) => S::Committed,
            Some(TxnState::Aborted) => S::Aborted,
            None => S::Unknown,
        };
        Ok(Response::new(TxnState_ { state: state as i32 }))
    }

    async fn list_completed_transactions(&self, request: Request<ListCompletedTxnRequest>) -> Answer<ListCompletedTxnResponse> {
        use txn_response::Status as S;
        let (scope, stream) = names(self.enter(request, |r| of_stream(&r.stream_info), Want::Read).await?.stream_info)?;
        let one = |(id, state): &(TxnId, TxnState)| TxnResponse {
            txn_id: Some(crate::proto::TxnId { high_bits: id.high, low_bits: id.low }),
            status: if *state == TxnState::Committed { S::Committed } else { S::Aborted } as i32,
        };
        let response = self.stream(&scope, &stream, |s| s.ended.iter().map(one).collect()).await?;
        Ok(Response::new(ListCompletedTxnResponse { response }))
    }

    async fn get_delegation_token(&self, request: Request<StreamInfo>) -> Answer<DelegationToken> {
        use stream_info::AccessOperation as A;
        // Java's client asks so for its tables, too, by the table's own name. Whether there is one or the other is not told to who has no right to either.
        let of = |r: &StreamInfo| {
            let asked = [access::stream(&r.scope, &r.stream), access::table(&r.scope, &r.stream)];
            // The name of a table's segments: a right to all streams is none to a table that the controller has made.
            let Some(table) = r.stream.strip_suffix(plan::TABLE) else { return asked.to_vec() };
            let is_made = self.store.peek(|s| s.catalog.scopes.get(&r.scope).is_some_and(|s| s.tables.contains_key(table)));
            std::iter::once(access::table(&r.scope, table)).chain(asked.into_iter().filter(|_| !is_made)).collect()
        };
        let (user, request, resources) = self.enter_any(request, of, Want::Read).await?;
        let want = if request.access_operation() == A::Read { Want::Read } else { Want::Update };
        // Who says that he means to write learns here that he may not. Others get what they may: some clients ask for more than they need.
        if request.access_operation() == A::Write {
            self.allowed(&user, &resources, want)?;
        }
        let delegation_token = self.access.token(user.as_deref(), &resources, want, now_ms());
        Ok(Response::new(DelegationToken { delegation_token }))
    }

    async fn remove_writer(&self, request: Request<RemoveWriterRequest>) -> Answer<RemoveWriterResponse> {
        use remove_writer_response::Status as S;
        let request = self.enter(request, |r| of_stream(&r.stream), Want::Update).await?;
        let (scope, stream) = names(request.stream)?;
        let result = match self.change(|state| watermark::leave(state, &scope, &stream, &request.writer)).await {
            Ok(true) => S::Success,
            Ok(false) => S::UnknownWriter,
            Err(Error::NoStream(_) | Error::NoScope(_)) => S::StreamDoesNotExist,
            Err(e) => return Err(status(&e)),
        };
        Ok(Response::new(RemoveWriterResponse { result: result as i32 }))
    }

    async fn note_timestamp_from_writer(&self, request: Request<TimestampFromWriter>) -> Answer<TimestampResponse> {
        use timestamp_response::Status as S;
        let request = self.enter(request, |r| of_stream(&r.position.as_ref().and_then(|p| p.stream_info.clone())), Want::Update).await?;
        let position = request.position.unwrap_or_default();
        let (scope, stream) = names(position.stream_info)?;
        let mark = WriterMark { time: request.timestamp, position: cut(position.cut)?, alive: true };
        let result = match self.change(|state| watermark::note(state, &scope, &stream, &request.writer, mark)).await {
            Ok(Noted::Taken) => S::Success,
            Ok(Noted::Earlier) => S::InvalidTime,
            Ok(Noted::Behind) => S::InvalidPosition,
            Err(e) => return Err(status(&e)),
        };
        Ok(Response::new(TimestampResponse { result: result as i32 }))
    }

    async fn create_reader_group(&self, request: Request<ReaderGroupConfiguration>) -> Answer<CreateReaderGroupResponse> {
        use create_reader_group_response::Status as S;
        let request = self.enter_group(request).await?;
        let (scope, group) = (request.scope.clone(), request.reader_group_name.clone());
        let done = self.change(|state| plan::create_group(state, &scope, &group, request.encode_to_vec(), now_ms())).await;
        let (status, config) = match done {
            Ok(group) => (S::Success, Some(group_config(&group)?)),
            Err(Error::NoScope(_)) => (S::ScopeNotFound, None),
            Err(Error::Invalid(_)) => (S::InvalidRgName, None),
            Err(e) => return Err(status(&e)),
        };
        Ok(Response::new(CreateReaderGroupResponse { status: status as i32, config }))
    }

    async fn get_reader_group_config(&self, request: Request<ReaderGroupInfo>) -> Answer<ReaderGroupConfigResponse> {
        use reader_group_config_response::Status as S;
        let request = self.enter(request, |r| access::group_of(&r.scope, &r.reader_group), Want::Read).await?;
        let look = self.store.look(|s| Ok(s.catalog.scopes.get(&request.scope).and_then(|s| s.groups.get(&request.reader_group)).cloned()));
        let (status, config) = match look.await.map_err(|e| status(&e))? {
            Some(group) => (S::Success, Some(group_config(&group)?)),
            None => (S::RgNotFound, None),
        };
        Ok(Response::new(ReaderGroupConfigResponse { config, status: status as i32 }))
    }

    async fn update_reader_group(&self, request: Request<ReaderGroupConfiguration>) -> Answer<UpdateReaderGroupResponse> {
        use update_reader_group_response::Status as S;
        let request = self.enter_group(request).await?;
        let (scope, group) = (request.scope.clone(), request.reader_group_name.clone());
        let done = self.change(|state| plan::update_group(state, &scope, &group, request.generation, request.encode_to_vec())).await;
        let (status, generation) = match done {
            Ok(generation) => (S::Success, generation),
            Err(Error::NotFound(_)) => (S::RgNotFound, 0),
            Err(Error::Conflict(_)) => (S::InvalidConfig, 0),
            Err(e) => return Err(status(&e)),
        };
        Ok(Response::new(UpdateReaderGroupResponse { status: status as i32, generation }))
    }

    async fn delete_reader_group(&self, request: Request<ReaderGroupInfo>) -> Answer<DeleteReaderGroupStatus> {
        use delete_reader_group_status::Status as S;
        let request = self.enter(request, |r| access::group_of(&r.scope, &r.reader_group), Want::Update).await?;
        let done = self.change(|state| plan::delete_group(state, &request.scope, &request.reader_group)).await;
        let status = told(done, S::Success as i32, |e| matches!(e, Error::NotFound(_)).then_some(S::RgNotFound as i32))?;
        Ok(Response::new(DeleteReaderGroupStatus { status }))
    }

    async fn list_subscribers(&self, request: Request<StreamInfo>) -> Answer<SubscribersResponse> {
        use subscribers_response::Status as S;
        let StreamInfo { scope, stream, .. } = self.enter(request, |r| access::stream(&r.scope, &r.stream), Want::Read).await?;
        let look = self.store.look(|s| {
            plan::find(s, &scope, &stream)?;
            Ok(subscribers::all(s).remove(&(scope.as_str(), stream.as_str())).unwrap_or_default())
        });
        let (subscribers, status) = match look.await {
            Ok(subscribers) => (subscribers, S::Success),
            Err(Error::NoStream(_) | Error::NoScope(_)) => (Vec::new(), S::StreamNotFound),
            Err(e) => return Err(status(&e)),
        };
        Ok(Response::new(SubscribersResponse { subscribers, status: status as i32 }))
    }

    async fn update_subscriber_stream_cut(&self, request: Request<SubscriberStreamCut>) -> Answer<UpdateSubscriberStatus> {
        use update_subscriber_status::Status as S;
        // It lets retention forget what the stream's other readers may need: Pravega asks for the same.
        let request = self.enter(request, |r| of_stream(&r.stream_cut.as_ref().and_then(|c| c.stream_info.clone())), Want::Update).await?;
        let told = request.stream_cut.unwrap_or_default();
        let ((scope, stream), cut) = (names(told.stream_info)?, cut(told.cut)?);
        let version = (request.reader_group_id.clone(), request.generation);
        let done = self.change(|state| subscribers::update(state, &scope, &stream, &request.subscriber, (&version.0, version.1), cut)).await;
        let status = match done {
            Ok(Updated::Taken) => S::Success,
            Ok(Updated::Unknown) => S::SubscriberNotFound,
            Ok(Updated::OtherGeneration) => S::GenerationMismatch,
            Ok(Updated::NoCut) => S::StreamCutNotValid,
            Err(Error::NoStream(_) | Error::NoScope(_)) => S::StreamNotFound,
            Err(e) => return Err(status(&e)),
        };
        Ok(Response::new(UpdateSubscriberStatus { status: status as i32 }))
    }

    async fn create_key_value_table(&self, request: Request<KeyValueTableConfig>) -> Answer<CreateKeyValueTableStatus> {
        use create_key_value_table_status::Status as S;
        let request = self.enter(request, |r| access::scope(&r.scope), Want::Update).await?;
        let table = KeyValueTable {
            partitions: request.partition_count,
            primary_key: request.primary_key_length,
            secondary_key: request.secondary_key_length,
            rollover_bytes: request.rollover_size_bytes,
        };
        let done = self.change(|state| plan::create_table(state, &request.scope, &request.kvt_name, table, now_ms())).await;
        let status = told(done, S::Success as i32, |e| match e {
            Error::StreamExists(_) => Some(S::TableExists as i32),
            Error::NoScope(_) => Some(S::ScopeNotFound as i32),
            Error::Invalid(_) => Some(S::InvalidTableName as i32),
            _ => None,
        })?;
        Ok(Response::new(CreateKeyValueTableStatus { status }))
    }

    async fn get_current_segments_key_value_table(&self, request: Request<KeyValueTableInfo>) -> Answer<SegmentRanges> {
        let (user, KeyValueTableInfo { scope, kvt_name }) = self.enter_as(request, |r| access::table(&r.scope, &r.kvt_name), Want::Read).await?;
        let table = self.table(&scope, &kvt_name).await?.ok_or_else(|| Status::not_found(format!("table {scope}/{kvt_name} does not exist")))?;
        Ok(Response::new(ranges(&scope, &kvt_name, &even(table.partitions as u32, 0, 0), self.access.token(user.as_deref(), &[access::table(&scope, &kvt_name)], Want::Update, now_ms()))))
    }

    async fn list_key_value_tables_in_scope(&self, request: Request<KvTablesInScopeRequest>) -> Answer<KvTablesInScopeResponse> {
        use kv_tables_in_scope_response::Status as S;
        let (user, request) = self.enter_as(request, |r| of_scope(&r.scope), Want::Read).await?;
        let scope = request.scope.unwrap_or_default().scope;
        let look = self.store.look(|s| {
            let found = s.catalog.scopes.get(&scope).ok_or_else(|| Error::NoScope(scope.clone()))?;
            Ok(page(found.tables.keys(), request.continuation_token, |table| self.sees(&user, access::table(&scope, table))))
        });
        let (status, (names, continuation_token)) = match look.await {
            Ok(page) => (S::Success, page),
            Err(Error::NoScope(_)) => (S::ScopeNotFound, (Vec::new(), None)),
            Err(e) => return Err(status(&e)),
        };
        let kvtables = names.into_iter().map(|kvt_name| KeyValueTableInfo { scope: scope.clone(), kvt_name }).collect();
        Ok(Response::new(KvTablesInScopeResponse { kvtables, continuation_token, status: status as i32 }))
    }

    async fn get_key_value_table_configuration(&self, request: Request<KeyValueTableInfo>) -> Answer<KeyValueTableConfigResponse> {
        use key_value_table_config_response::Status as S;
        let KeyValueTableInfo { scope, kvt_name } = self.enter(request, |r| access::table(&r.scope, &r.kvt_name), Want::Read).await?;
        let found = self.table(&scope, &kvt_name).await?;
        let status = if found.is_some() { S::Success } else { S::TableNotFound } as i32;
        let config = found.map(|t| KeyValueTableConfig {
            scope,
            kvt_name,
            partition_count: t.partitions,
            primary_key_length: t.primary_key,
            secondary_key_length: t.secondary_key,
            rollover_size_bytes: t.rollover_bytes,
        });
        Ok(Response::new(KeyValueTableConfigResponse { config, status }))
    }

    async fn delete_key_value_table(&self, request: Request<KeyValueTableInfo>) -> Answer<DeleteKvTableStatus> {
        use delete_kv_table_status::Status as S;
        let request = self.enter(request, |r| access::table(&r.scope, &r.kvt_name), Want::Update).await?;
        let done = self.change(|state| plan::delete_table(state, &request.scope, &request.kvt_name)).await;
        let status = told(done, S::Success as i32, |e| matches!(e, Error::NotFound(_)).then_some(S::TableNotFound as i32))?;
        Ok(Response::new(DeleteKvTableStatus { status }))
    }

    async fn get_controller_to_bucket_mapping(&self, _: Request<ControllerToBucketMappingRequest>) -> Answer<ControllerToBucketMappingResponse> {
        Err(Status::unimplemented("there is one controller, and nothing to share out among several"))
    }
}

/// The message has the name of our own type.
type TxnState_ = crate::proto::TxnState;

fn group_config(group: &Group) -> std::result::Result<ReaderGroupConfiguration, Status> {
    let mut config = ReaderGroupConfiguration::decode(&group.config[..]).map_err(|e| Status::internal(e.to_string()))?;
    config.generation = group.generation;
    Ok(config)
}

impl Controller {
    fn lease(&self, id: TxnId, lease_ms: i64) {
        let end = Instant::now() + Duration::from_millis(lease_ms.max(0) as u64);
        lock(&self.leases).insert(id, end);
    }

    async fn drop_scope(&self, scope: String, all: bool) -> Answer<DeleteScopeStatus> {
        use delete_scope_status::Status as S;
        let done = self.change(|state| plan::delete_scope(state, &scope, all)).await;
        let status = told(done, S::Success as i32, |e| match e {
            Error::NoScope(_) => Some(S::ScopeNotFound as i32),
            Error::ScopeNotEmpty(_) => Some(S::ScopeNotEmpty as i32),
            _ => None,
        })?;
        Ok(Response::new(DeleteScopeStatus { status }))
    }

    fn updated(&self, done: Result<()>) -> Answer<UpdateStreamStatus> {
        use update_stream_status::Status as S;
        let status = told(done, S::Success as i32, |e| match e {
            Error::NoStream(_) => Some(S::StreamNotFound as i32),
            Error::NoScope(_) => Some(S::ScopeNotFound as i32),
            Error::StreamSealed(_) => Some(S::StreamSealed as i32),
            e if matches!(e.kind(), Kind::InvalidArgument | Kind::NotFound) => {
                // The status has no place for the reason.
                tracing::info!(error = %e, "a stream was not changed");
                Some(S::Failure as i32)
            }
            _ => None,
        })?;
        Ok(Response::new(UpdateStreamStatus { status }))
    }

    fn ended(&self, done: Result<()>) -> Answer<TxnStatus> {
        use txn_status::Status as S;
        let status = told(done, S::Success as i32, |e| match e {
            Error::NoStream(_) | Error::NoScope(_) => Some(S::StreamNotFound as i32),
            Error::NoTxn(_) => Some(S::TransactionNotFound as i32),
            _ => None,
        })?;
        Ok(Response::new(TxnStatus { status }))
    }

    async fn streams(&self, user: &Option<String>, scope: Option<ScopeInfo>, tag: Option<String>, token: Option<ContinuationToken>) -> Answer<StreamsInScopeResponse> {
        use streams_in_scope_response::Status as S;
        let scope = scope.unwrap_or_default().scope;
        let look = self.store.look(|s| {
            let found = s.catalog.scopes.get(&scope).ok_or_else(|| Error::NoScope(scope.clone()))?;
            let tagged = found.streams.iter().filter(|(_, s)| tag.as_ref().is_none_or(|t| s.config.tags.contains(t)));
            Ok(page(tagged.map(|(name, _)| name), token, |name| self.sees(user, access::stream(&scope, name))))
        });
        let (status, (names, continuation_token)) = match look.await {
            Ok(page) => (S::Success, page),
            Err(Error::NoScope(_)) => (S::ScopeNotFound, (Vec::new(), Some(ContinuationToken::default()))),
            Err(e) => return Err(status(&e)),
        };
        let streams = names.into_iter().filter_map(|name| info(&scope, &name)).collect();
        Ok(Response::new(StreamsInScopeResponse { streams, continuation_token, status: status as i32 }))
    }

    async fn table(&self, scope: &str, name: &str) -> std::result::Result<Option<KeyValueTable>, Status> {
        let look = self.store.look(|s| Ok(s.catalog.scopes.get(scope).and_then(|s| s.tables.get(name)).cloned()));
        look.await.map_err(|e| status(&e))
    }
}
