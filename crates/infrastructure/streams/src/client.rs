//! A small native client: what the command line and the benchmarks need. Programs have Pravega's own clients.
//!
//! * [`Client`]: the controller;
//! * [`Writer`]: events with routing keys, in order per key, once, over lost connections and scales; or alone with a stream of one segment, so that it knows where
//!   each event lies;
//! * [`Transaction`]: events that appear together, or not at all;
//! * [`Reader`]: a whole stream from its head or its tail, successors after all their predecessors.
//!
//! A writer has one task that routes and one per segment. A segment's task gives back what is not acknowledged when its segment is sealed, and the
//! router sends that to the successors before anything newer.
//!
//! ```no_run
//! use streams::{Client, client::{From, Reader, Transaction, Writer}, proto::ScalingPolicy};
//!
//! # async fn example() -> streams::Result<()> {
//! let client = Client::connect("127.0.0.1:9090").await?;
//! client.create_scope("field").await?;
//! client.create_stream("field", "moisture", ScalingPolicy { min_num_segments: 2, ..Default::default() }).await?;
//!
//! let mut writer = Writer::open(&client, "field", "moisture", None).await?;
//! writer.append("sensor-7", b"0.31", 0).await?;
//! writer.flush().await?; // it is durable
//!
//! let mut all = Transaction::begin(&client, "field", "moisture").await?;
//! all.append("sensor-7", b"0.30").await?;
//! all.append("sensor-8", b"0.28").await?;
//! all.commit().await?; // both are there
//!
//! let mut reader = Reader::open(&client, "field", "moisture", From::Head).await?;
//! while let Some(event) = reader.next().await? {
//!     println!("{}", String::from_utf8_lossy(&event.data)); // and waits for more at the tail
//! }
//! # Ok(())
//! # }
//! ```

mod connection;
mod reader;
mod transaction;
mod writer;

pub use reader::{Event, From, Reader};
pub use transaction::Transaction;
pub use writer::{Acknowledged, Writer};

use crate::{
    Error, Result,
    catalog::{Range, SegmentNo},
    plan::valid_name,
    proto::{controller_service_client::ControllerServiceClient, stream_info::AccessOperation, *},
};
use base::error::cause;
use bytes::Bytes;
use futures::future::BoxFuture;
use std::collections::{BTreeMap, HashMap};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::sync::Arc;
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, pki_types::{CertificateDer, pem::PemObject}},
};
use tonic::{
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig},
};

/// What a certificate in PEM begins with.
const CERTIFICATE: &[u8] = b"BEGIN CERTIFICATE";

#[derive(Clone)]
pub struct Client {
    controller: ControllerServiceClient<InterceptedService<Channel, Credentials>>,
    tls: Option<TlsConnector>,
    /// The server asks for tokens.
    tokens: bool,
}

/// How a server wants to be spoken to.
#[derive(Clone, Default)]
pub struct Login {
    /// PEM of the authority that signed the server's certificate; with it, both ports are spoken to with TLS.
    pub authority: Option<Vec<u8>>,
    /// Name and password.
    pub user: Option<(String, String)>,
}

/// Adds name and password to each call.
#[derive(Clone)]
struct Credentials(Option<MetadataValue<Ascii>>);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: tonic::Request<()>) -> std::result::Result<tonic::Request<()>, tonic::Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

fn failed(what: &str) -> impl FnOnce(tonic::Status) -> Error {
    let what = what.to_string();
    move |s| match s.code() {
        tonic::Code::NotFound => Error::NotFound(s.message().into()),
        tonic::Code::InvalidArgument => Error::Invalid(s.message().into()),
        tonic::Code::Unauthenticated => Error::NotKnown(s.message().into()),
        tonic::Code::PermissionDenied => Error::Denied(s.message().into()),
        tonic::Code::Unavailable => Error::Unavailable(format!("{what}: {}", s.message())),
        tonic::Code::ResourceExhausted => Error::Exhausted(format!("{what}: {}", s.message())),
        // No answer of the server has a cause: it is the connection that has gone.
        _ if std::error::Error::source(&s).is_some() => Error::Unavailable(format!("{what}: {} ({}); the server has ended, or this is not a controller's port, or it has TLS and wants the authority's certificate named", s.message(), cause(&s))),
        // Something that speaks HTTP, but not gRPC.
        _ if ["protocol error: ", "grpc-status header missing"].iter().any(|begin| s.message().starts_with(begin)) => Error::Unavailable(format!("{what}: what answers there is not a controller ({}); a stream server tells its controller's port when it starts", s.message())),
        _ => Error::Conflict(format!("{what}: {}", s.message())),
    }
}

/// Segments that a reader or writer of this client follows at a time: each has a connection of its own, and a server has 4096 for all.
const SEGMENTS_MAX: usize = 2048;

fn not_too_many(scope: &str, stream: &str, segments: usize) -> Result<()> {
    match segments > SEGMENTS_MAX {
        true => Err(Error::Conflict(format!("{scope}/{stream} has {segments} segments at this place, and this client follows {SEGMENTS_MAX} at most, each over a connection of its own; `cloudskin stream scale {scope}/{stream} N` makes them fewer, and clients of Pravega's may take more"))),
        false => Ok(()),
    }
}

fn stream_info(scope: &str, stream: &str) -> Option<StreamInfo> {
    Some(StreamInfo { scope: scope.into(), stream: stream.into(), access_operation: 0 })
}

fn ranges(of: Vec<SegmentRange>) -> Vec<Range> {
    let one = |r: SegmentRange| Some(Range { segment: SegmentNo(r.segment_id?.segment_id), low: r.min_key, high: r.max_key });
    of.into_iter().filter_map(one).collect()
}

impl Client {
    /// `address` is the controller's `host:port`. Without TLS and a user.
    pub async fn connect(address: &str) -> Result<Client> {
        Client::open(address, &Login::default()).await
    }

    pub fn open<'a>(address: &'a str, login: &'a Login) -> BoxFuture<'a, Result<Client>> {
        Box::pin(async move {
            let address = address.trim_start_matches("tcp://").trim_start_matches("tls://").trim_end_matches('/');
            if address.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || host.contains('/') || port.parse::<u16>().is_err()) {
                return Err(Error::Invalid(format!("{address:?} is not an address: name host and port of the controller and nothing else, as 127.0.0.1:9090")));
            }
            let bad = |e: tonic::transport::Error| {
                let why = cause(&e);
                if why.starts_with("invalid peer certificate") {
                    return Error::Unavailable(format!("the server at {address} is not the one that the authority's certificate vouches for ({why}); name the certificate of the authority that has signed the server's, and the server by the name in that"));
                }
                let tls = if login.authority.is_some() { "; leave the authority's certificate out if it has no TLS" } else { "" };
                Error::Unavailable(format!("no stream server answers at {address}: {why}; start one with `cloudskin stream serve`, or name its controller's port{tls}"))
            };
            let scheme = if login.authority.is_some() { "https" } else { "http" };
            let mut endpoint = Channel::from_shared(format!("{scheme}://{address}")).map_err(|e| Error::Invalid(format!("{address:?} is not an address: {e}")))?;
            let mut tls = None;
            if let Some(pem) = &login.authority {
                if !pem.windows(CERTIFICATE.len()).any(|some| some == CERTIFICATE) {
                    return Err(Error::Invalid("what is to be the authority's certificate has none in it: name a file in PEM, with BEGIN CERTIFICATE".into()));
                }
                base::identity::install_crypto();
                let invalid = |e: String| Error::Invalid(format!("the authority's certificate can't be used: {e}"));
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    roots.add(certificate.map_err(|e| invalid(e.to_string()))?).map_err(|e| invalid(e.to_string()))?;
                }
                tls = Some(TlsConnector::from(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())));
                endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))).map_err(|e| invalid(e.to_string()))?;
            }
            let credentials = match &login.user {
                None => None,
                Some((name, password)) => {
                    let header = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
                    Some(header.parse().map_err(|_| Error::Invalid("a name and password that can't be sent".into()))?)
                }
            };
            let channel = endpoint.tcp_nodelay(true).connect().await.map_err(bad)?;
            let tokens = credentials.is_some();
            Ok(Client { controller: ControllerServiceClient::with_interceptor(channel, Credentials(credentials)), tls, tokens })
        })
    }

    /// A connection to the stream's segment store, and the token to show there: to write, or for what the user may do.
    fn dial<'a>(&'a self, scope: &'a str, stream: &'a str, to: AccessOperation) -> BoxFuture<'a, Result<(connection::Connection, String)>> {
        Box::pin(async move {
            let token = self.token(scope, stream, to).await?;
            Ok((connection::Connection::connect(&self.segments_at(scope, stream).await?, self.tls.as_ref()).await?, token))
        })
    }

    /// The server asks who its clients are, and shows each what that one may see.
    pub fn is_asked(&self) -> bool {
        self.tokens
    }

    /// What the segment store wants to be shown; empty where nobody asks.
    async fn token(&self, scope: &str, stream: &str, to: AccessOperation) -> Result<String> {
        if !self.tokens {
            return Ok(String::new());
        }
        let request = StreamInfo { scope: scope.into(), stream: stream.into(), access_operation: to as i32 };
        let told = self.controller.clone().get_delegation_token(request).await.map_err(failed("get a token"))?;
        Ok(told.into_inner().delegation_token)
    }

    pub fn create_scope<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            use create_scope_status::Status as S;
            let told = self.controller.clone().create_scope(ScopeInfo { scope: scope.into() }).await.map_err(failed("create scope"))?.into_inner();
            match told.status() {
                S::Success => Ok(true),
                S::ScopeExists => Ok(false),
                S::InvalidScopeName => Err(valid_name("scope", scope).err().unwrap_or_else(|| Error::Invalid(format!("the server takes no scope of the name {scope:?}")))),
                S::Failure => Err(Error::Conflict(format!("scope {scope} could not be created"))),
            }
        })
    }

    pub fn create_stream<'a>(&'a self, scope: &'a str, stream: &'a str, scaling: ScalingPolicy) -> BoxFuture<'a, Result<bool>> {
        self.create(scope, stream, StreamConfig { scaling_policy: Some(scaling), ..StreamConfig::default() })
    }

    /// [`Client::create`], and makes the scope if that is not there: making a scope needs a right that one who makes streams in it need not have.
    pub fn create_with_scope<'a>(&'a self, scope: &'a str, stream: &'a str, config: StreamConfig) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            match self.create(scope, stream, config.clone()).await {
                Err(Error::NoScope(_)) => {
                    self.create_scope(scope).await.map_err(|e| match e {
                        Error::Denied(why) => Error::Denied(format!("scope {scope} is not there yet, and {why}")),
                        e => e,
                    })?;
                    self.create(scope, stream, config).await
                }
                made => made,
            }
        })
    }

    /// [`Client::create_with_scope`] of a stream that may be there: who has a right to that alone needs none to make it.
    pub fn ensure<'a>(&'a self, scope: &'a str, stream: &'a str, config: StreamConfig) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match self.current(scope, stream).await {
                Err(Error::NotFound(_)) => self.create_with_scope(scope, stream, config).await.map(drop),
                // Of what is not there yet the server says no more to who has a right to make it alone.
                Err(e @ Error::Denied(_)) => match self.create_with_scope(scope, stream, config).await {
                    Err(Error::Denied(_)) => Err(e),
                    made => made.map(drop),
                },
                found => found.map(drop),
            }
        })
    }

    /// [`Client::create_stream`] with all that can be said of it; its name need not be there.
    pub fn create<'a>(&'a self, scope: &'a str, stream: &'a str, config: StreamConfig) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            use create_stream_status::Status as S;
            let request = StreamConfig { stream_info: stream_info(scope, stream), ..config };
            let told = self.controller.clone().create_stream(request).await.map_err(failed("create stream"))?.into_inner();
            match told.status() {
                S::Success => Ok(true),
                S::StreamExists => Ok(false),
                S::ScopeNotFound => Err(Error::NoScope(scope.into())),
                S::InvalidStreamName => Err(valid_name("stream", stream).err().unwrap_or_else(|| Error::Invalid(format!("the server takes no stream of the name {stream:?}")))),
                S::Failure => Err(Error::Conflict(format!("stream {scope}/{stream} could not be created"))),
            }
        })
    }

    /// How a stream scales, what it forgets by itself, and its tags.
    pub fn config<'a>(&'a self, scope: &'a str, stream: &'a str) -> BoxFuture<'a, Result<StreamConfig>> {
        Box::pin(async move {
            let request = StreamInfo { scope: scope.into(), stream: stream.into(), access_operation: 0 };
            Ok(self.controller.clone().get_stream_configuration(request).await.map_err(failed("read the configuration"))?.into_inner())
        })
    }

    /// Takes the place of [`Client::config`], all of it.
    pub fn configure<'a>(&'a self, scope: &'a str, stream: &'a str, config: StreamConfig) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = StreamConfig { stream_info: stream_info(scope, stream), ..config };
            let told = self.controller.clone().update_stream(request).await.map_err(failed("configure"))?.into_inner();
            Self::updated("to configure", scope, stream, told.status())
        })
    }

    /// The segments that are written to; none of a sealed stream.
    pub fn current<'a>(&'a self, scope: &'a str, stream: &'a str) -> BoxFuture<'a, Result<Vec<Range>>> {
        Box::pin(async move {
            let request = StreamInfo { scope: scope.into(), stream: stream.into(), access_operation: 0 };
            let told = self.controller.clone().get_current_segments(request).await.map_err(failed("current segments"))?;
            Ok(ranges(told.into_inner().segment_ranges))
        })
    }

    /// Where the stream begins.
    pub fn head<'a>(&'a self, scope: &'a str, stream: &'a str) -> BoxFuture<'a, Result<BTreeMap<SegmentNo, u64>>> {
        self.place(scope, stream, 0)
    }

    /// The newest place of which it is known that all before it was written before a time, ms since 1970; with 0, where the stream begins.
    pub fn place<'a>(&'a self, scope: &'a str, stream: &'a str, at_ms: u64) -> BoxFuture<'a, Result<BTreeMap<SegmentNo, u64>>> {
        Box::pin(async move {
            let request = GetSegmentsRequest { stream_info: stream_info(scope, stream), timestamp: i64::try_from(at_ms).unwrap_or(i64::MAX) };
            let told = self.controller.clone().get_segments(request).await.map_err(failed("head segments"))?.into_inner();
            Ok(told.segments.into_iter().filter_map(|s| Some((SegmentNo(s.segment_id?.segment_id), s.offset as u64))).collect())
        })
    }

    /// The segments after one, each with all segments that it follows.
    pub fn successors<'a>(&'a self, scope: &'a str, stream: &'a str, segment: SegmentNo) -> BoxFuture<'a, Result<Vec<(Range, Vec<SegmentNo>)>>> {
        Box::pin(async move {
            let request = SegmentId { stream_info: stream_info(scope, stream), segment_id: segment.0 };
            let told = self.controller.clone().get_segments_immediately_following(request).await.map_err(failed("successors"))?.into_inner();
            let one = |e: successor_response::SegmentEntry| {
                let range = ranges(vec![e.segment?]).pop()?;
                Some((range, e.value.into_iter().map(SegmentNo).collect()))
            };
            Ok(told.segments.into_iter().filter_map(one).collect())
        })
    }

    /// Where the segment store is.
    pub fn segments_at<'a>(&'a self, scope: &'a str, stream: &'a str) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let request = SegmentId { stream_info: stream_info(scope, stream), segment_id: 0 };
            let uri = self.controller.clone().get_uri(request).await.map_err(failed("find the segment store"))?.into_inner();
            Ok(format!("{}:{}", uri.endpoint, uri.port))
        })
    }

    /// Whether the key space is shared out evenly among so many segments.
    pub async fn is_even(&self, scope: &str, stream: &str, segments: u32) -> Result<bool> {
        let mut current = self.current(scope, stream).await?;
        current.sort_by(|a, b| a.low.total_cmp(&b.low));
        let even = crate::catalog::even(segments.max(1), 0, 0);
        Ok(current.len() == even.len() && current.iter().zip(&even).all(|(a, b)| (a.low, a.high) == (b.low, b.high)))
    }

    /// Shares the key space out evenly among `segments` new segments.
    pub fn scale<'a>(&'a self, scope: &'a str, stream: &'a str, segments: u32) -> BoxFuture<'a, Result<Vec<Range>>> {
        Box::pin(async move {
            use scale_response::ScaleStreamStatus as S;
            let current = self.current(scope, stream).await?;
            let even = crate::catalog::even(segments.max(1), 0, 0);
            let request = ScaleRequest {
                stream_info: stream_info(scope, stream),
                sealed_segments: current.iter().map(|r| r.segment.0).collect(),
                new_key_ranges: even.iter().map(|r| scale_request::KeyRangeEntry { start: r.low, end: r.high }).collect(),
                scale_timestamp: base::clock::now_ms() as i64,
            };
            let told = self.controller.clone().scale(request).await.map_err(failed("scale"))?.into_inner();
            match told.status() {
                S::Started => Ok(ranges(told.segments)),
                _ => Err(Error::Conflict(format!("stream {scope}/{stream} was not scaled: it is sealed, or was scaled at the same time"))),
            }
        })
    }

    fn updated(what: &str, scope: &str, stream: &str, status: update_stream_status::Status) -> Result<()> {
        use update_stream_status::Status as S;
        match status {
            S::Success => Ok(()),
            S::StreamNotFound => Err(Error::NoStream(format!("{scope}/{stream}"))),
            S::ScopeNotFound => Err(Error::NoScope(scope.into())),
            S::StreamSealed => Err(Error::StreamSealed(format!("{scope}/{stream}"))),
            S::Failure => Err(Error::Invalid(format!("{what} {scope}/{stream} was refused; see the server's log"))),
        }
    }

    pub fn seal<'a>(&'a self, scope: &'a str, stream: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = StreamInfo { scope: scope.into(), stream: stream.into(), access_operation: 0 };
            let told = self.controller.clone().seal_stream(request).await.map_err(failed("seal"))?.into_inner();
            Self::updated("to seal", scope, stream, told.status())
        })
    }

    pub fn delete<'a>(&'a self, scope: &'a str, stream: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            use delete_stream_status::Status as S;
            let request = StreamInfo { scope: scope.into(), stream: stream.into(), access_operation: 0 };
            let told = self.controller.clone().delete_stream(request).await.map_err(failed("delete"))?.into_inner();
            match told.status() {
                S::Success => Ok(()),
                S::StreamNotFound => Err(Error::NoStream(format!("{scope}/{stream}"))),
                S::StreamNotSealed => Err(Error::StreamNotSealed(format!("{scope}/{stream}"))),
                S::Failure => Err(Error::Conflict(format!("stream {scope}/{stream} was not deleted"))),
            }
        })
    }

    /// Whether the segments of a cut have each key once, and are ones that the stream has.
    pub fn is_cut<'a>(&'a self, scope: &'a str, stream: &'a str, cut: &'a BTreeMap<SegmentNo, u64>) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let cut = cut.iter().map(|(s, o)| (s.0, *o as i64)).collect();
            let request = StreamCut { stream_info: stream_info(scope, stream), cut };
            Ok(self.controller.clone().is_stream_cut_valid(request).await.map_err(failed("look at a cut"))?.into_inner().response)
        })
    }

    pub fn truncate<'a>(&'a self, scope: &'a str, stream: &'a str, cut: &'a BTreeMap<SegmentNo, u64>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let cut = cut.iter().map(|(s, o)| (s.0, *o as i64)).collect();
            let request = StreamCut { stream_info: stream_info(scope, stream), cut };
            let told = self.controller.clone().truncate_stream(request).await.map_err(failed("truncate"))?.into_inner();
            Self::updated("to truncate", scope, stream, told.status())
        })
    }

    /// All segments of a stream that are still there: where each begins and ends, and whether it is sealed.
    pub fn segments<'a>(&'a self, scope: &'a str, stream: &'a str) -> BoxFuture<'a, Result<BTreeMap<SegmentNo, (u64, u64, bool)>>> {
        Box::pin(async move {
            let (mut connection, token) = self.dial(scope, stream, AccessOperation::Any).await?;
            let mut all = BTreeMap::new();
            for segment in self.numbers(scope, stream).await? {
                match connection.info(&segment.name(scope, stream), &token).await {
                    Ok(info) => drop(all.insert(segment, info)),
                    // Truncated as a whole since the list was made.
                    Err(Error::NoSegment(_)) => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(all)
        })
    }

    async fn numbers(&self, scope: &str, stream: &str) -> Result<Vec<SegmentNo>> {
        let request = StreamCutRange { stream_info: stream_info(scope, stream), from: HashMap::new(), to: HashMap::new() };
        let told = self.controller.clone().get_segments_between(request).await.map_err(failed("list segments"))?.into_inner();
        Ok(told.segments.into_iter().map(|s| SegmentNo(s.segment_id)).collect())
    }

    /// The cut at the end of what is written: where each current segment ends now, or each last one of a sealed stream.
    pub fn tail<'a>(&'a self, scope: &'a str, stream: &'a str) -> BoxFuture<'a, Result<BTreeMap<SegmentNo, u64>>> {
        Box::pin(async move {
            let (mut connection, token) = self.dial(scope, stream, AccessOperation::Any).await?;
            let mut last: Vec<_> = self.current(scope, stream).await?.into_iter().map(|range| range.segment).collect();
            if last.is_empty() {
                // Each epoch has a segment that is new in it.
                let epoch = self.numbers(scope, stream).await?.into_iter().map(SegmentNo::epoch).max().unwrap_or_default();
                let request = GetEpochSegmentsRequest { stream_info: stream_info(scope, stream), epoch: epoch as i32 };
                let told = self.controller.clone().get_epoch_segments(request).await.map_err(failed("the last segments"))?;
                last = ranges(told.into_inner().segment_ranges).into_iter().map(|range| range.segment).collect();
            }
            let mut cut = BTreeMap::new();
            for segment in last {
                cut.insert(segment, connection.info(&segment.name(scope, stream), &token).await?.1);
            }
            Ok(cut)
        })
    }

    /// Start and length of a segment, and whether it is sealed.
    pub fn segment<'a>(&'a self, scope: &'a str, stream: &'a str, segment: SegmentNo) -> BoxFuture<'a, Result<(u64, u64, bool)>> {
        Box::pin(async move {
            let (mut connection, token) = self.dial(scope, stream, AccessOperation::Any).await?;
            connection.info(&segment.name(scope, stream), &token).await
        })
    }

    /// An attribute of a segment, [`NO_VALUE`](crate::segment::NO_VALUE) if it was never set.
    pub fn attribute<'a>(&'a self, scope: &'a str, stream: &'a str, segment: SegmentNo, key: u128) -> BoxFuture<'a, Result<i64>> {
        Box::pin(async move {
            let (mut connection, token) = self.dial(scope, stream, AccessOperation::Any).await?;
            connection.attribute(&segment.name(scope, stream), &token, key).await
        })
    }

    /// Sets an attribute of a segment, if it has the value `before`; whether it had.
    pub fn set_attribute<'a>(&'a self, scope: &'a str, stream: &'a str, segment: SegmentNo, key: u128, before: i64, value: i64) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let (mut connection, token) = self.dial(scope, stream, AccessOperation::Any).await?;
            connection.set_attribute(&segment.name(scope, stream), &token, key, before, value).await
        })
    }

    /// Bytes of a segment, up to `length`, that are there.
    pub fn read<'a>(&'a self, scope: &'a str, stream: &'a str, segment: SegmentNo, offset: u64, length: i32) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let (mut connection, token) = self.dial(scope, stream, AccessOperation::Any).await?;
            connection.read(&segment.name(scope, stream), &token, offset, length).await
        })
    }

    pub fn scopes<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>>> {
        Box::pin(async move {
            let (mut all, mut token) = (Vec::new(), String::new());
            loop {
                let request = ScopesRequest { continuation_token: Some(ContinuationToken { token }) };
                let told = self.controller.clone().list_scopes(request).await.map_err(failed("list scopes"))?.into_inner();
                if told.scopes.is_empty() {
                    return Ok(all);
                }
                all.extend(told.scopes);
                token = told.continuation_token.unwrap_or_default().token;
            }
        })
    }

    pub fn streams<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
        Box::pin(async move {
            use streams_in_scope_response::Status as S;
            let (mut all, mut token) = (Vec::new(), String::new());
            loop {
                let request = StreamsInScopeRequest {
                    scope: Some(ScopeInfo { scope: scope.into() }),
                    continuation_token: Some(ContinuationToken { token }),
                };
                let told = self.controller.clone().list_streams_in_scope(request).await.map_err(failed("list streams"))?.into_inner();
                if told.status() == S::ScopeNotFound {
                    return Err(Error::NoScope(scope.into()));
                }
                if told.streams.is_empty() {
                    return Ok(all);
                }
                all.extend(told.streams.into_iter().map(|s| s.stream));
                token = told.continuation_token.unwrap_or_default().token;
            }
        })
    }
}

/// Where a routing key lies in the key space, from 0 to 1: as Pravega's clients have it, so that a key's events stay in order whichever writes them.
pub fn key_position(key: &str) -> f64 {
    let units: Vec<u8> = key.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let hash = murmur3_high(&units, 1_741_865_571);
    // The upper bits as the fraction of a number from 1 to 2.
    f64::from_bits((hash >> 12) | 0x3ff0_0000_0000_0000) - 1.0
}

/// The first half of MurmurHash3 for x64 with 128 bits.
fn murmur3_high(data: &[u8], seed: u64) -> u64 {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let mix1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let mix2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let end = |mut h: u64| {
        h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h ^ (h >> 33)
    };
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let (mut h1, mut h2) = (seed, seed);
    let blocks = data.chunks_exact(16);
    let tail = blocks.remainder();
    for block in blocks {
        h1 = (h1 ^ mix1(word(&block[..8]))).rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mix2(word(&block[8..]))).rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    if tail.len() > 8 {
        h2 ^= mix2(word(&tail[8..]));
    }
    if !tail.is_empty() {
        h1 ^= mix1(word(&tail[..tail.len().min(8)]));
    }
    h1 ^= data.len() as u64;
    h2 ^= data.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    end(h1).wrapping_add(end(h2))
}

#[cfg(test)]
mod tests {
    /// The value that Pravega's own clients test for.
    #[test]
    fn keys_lie_where_pravegas_clients_put_them() {
        assert!((super::key_position("hello") - 0.658716230571337).abs() < 1e-12, "{}", super::key_position("hello"));
    }
}
