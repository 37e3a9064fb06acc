//! The catalog over gRPC: the service that the hub adds to its server, and the client that agents use.
//!
//! An error crosses with its kind and its message. The service trusts nobody's word about who they are: `authorise` reads the caller
//! from the connection, and a site may record copies only for itself.

use crate::{
    BucketName, Catalog, Error, Holder, Key, Listing, Namenode, NewObject, ObjectId, ObjectMeta, Page, Result, Sealed, State,
};
use base::{Kind, SiteId};
use futures::{FutureExt, future::BoxFuture};
use std::{future::Future, time::Duration};
use tonic::{
    Code, Request, Response, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

/// The generated messages and services.
pub mod proto {
    #![allow(missing_docs, clippy::all)]
    tonic::include_proto!("cloudskin.geds.v1");
}

use proto::namenode_client::NamenodeClient;
use proto::namenode_server::NamenodeServer;

/// Who calls, as the connection proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// May do everything.
    Hub,
    /// May do everything but speak for other sites.
    Site(SiteId),
}

/// The service. `authorise` looks at each call before it is read, for instance at `request.peer_certs()`.
pub fn server<F>(namenode: Namenode, authorise: F) -> InterceptedService<NamenodeServer<Service>, Gate<F>>
where
    F: Fn(&Request<()>) -> Result<Caller, Status> + Clone + Send + Sync + 'static,
{
    NamenodeServer::with_interceptor(Service { namenode }, Gate(authorise))
}

/// Puts the caller where the service finds it.
#[derive(Clone)]
pub struct Gate<F>(F);

impl<F: Fn(&Request<()>) -> Result<Caller, Status>> Interceptor for Gate<F> {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let caller = (self.0)(&request)?;
        request.extensions_mut().insert(caller);
        Ok(request)
    }
}

/// The server's side.
pub struct Service {
    namenode: Namenode,
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        Status::new(Code::from_i32(error.kind().grpc()), error.to_string())
    }
}

fn error_of(status: Status) -> Error {
    let kind = match status.code() {
        // What a broken connection looks like.
        Code::Unknown | Code::Cancelled => Kind::Unavailable,
        code => Kind::from_grpc(code as i32),
    };
    let message = match kind {
        Kind::Unavailable => format!("the namenode can't be reached: {}", status.message()),
        _ => status.message().to_string(),
    };
    Error::Remote { kind, message }
}

impl From<ObjectMeta> for proto::Object {
    fn from(meta: ObjectMeta) -> proto::Object {
        proto::Object {
            bucket: meta.bucket.into(),
            key: meta.key.into(),
            id: meta.id.to_string(),
            epoch: meta.epoch,
            size: meta.size,
            checksum: meta.checksum,
            sites: meta
                .sites
                .into_iter()
                .map(|holder| proto::Holder { site: holder.site.into(), address: holder.address })
                .collect(),
            persisted: meta.persisted,
            created_ms: meta.created_ms,
        }
    }
}

impl TryFrom<proto::Object> for ObjectMeta {
    type Error = Error;
    fn try_from(object: proto::Object) -> Result<ObjectMeta> {
        let mut sites = Vec::with_capacity(object.sites.len());
        for holder in object.sites {
            sites.push(Holder { site: site(holder.site)?, address: holder.address });
        }
        Ok(ObjectMeta {
            bucket: BucketName::new(object.bucket)?,
            key: Key::new(object.key)?,
            id: object.id.parse()?,
            epoch: object.epoch,
            size: object.size,
            state: State::Sealed,
            checksum: object.checksum,
            sites,
            persisted: object.persisted,
            created_ms: object.created_ms,
        })
    }
}

fn site(name: String) -> Result<SiteId> {
    SiteId::new(name).map_err(|e| Error::BadName { what: e.what, name: e.name, rule: "it must be a DNS label" })
}

fn sealed_of(sealed: Sealed) -> proto::SealReply {
    proto::SealReply { object: Some(sealed.object.into()), replaced: sealed.replaced.map(Into::into) }
}

fn listing_of(listing: Listing) -> proto::ListReply {
    proto::ListReply {
        objects: listing.objects.into_iter().map(Into::into).collect(),
        prefixes: listing.prefixes,
        next: listing.next,
    }
}

/// The site that the request speaks for, which must be the caller's own.
fn own<T>(request: &Request<T>, name: &str) -> Result<SiteId, Status> {
    let wanted = site(name.to_string())?;
    match request.extensions().get::<Caller>() {
        Some(Caller::Hub) => Ok(wanted),
        Some(Caller::Site(caller)) if *caller == wanted => Ok(wanted),
        Some(Caller::Site(caller)) => Err(Error::Denied {
            who: format!("site {caller}"),
            what: format!("change what is recorded of site {wanted}"),
        }
        .into()),
        None => Err(Status::unauthenticated("the caller is not known")),
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl proto::namenode_server::Namenode for Service {
    async fn announce(&self, request: Request<proto::AnnounceRequest>) -> Answer<proto::Empty> {
        let site = own(&request, &request.get_ref().site)?;
        self.namenode.announce(&site, &request.get_ref().address).await?;
        Ok(Response::new(proto::Empty {}))
    }

    async fn create_bucket(&self, request: Request<proto::BucketRequest>) -> Answer<proto::CreateBucketReply> {
        let bucket = BucketName::new(request.into_inner().bucket)?;
        Ok(Response::new(proto::CreateBucketReply { created: self.namenode.create_bucket(&bucket).await? }))
    }

    async fn buckets(&self, _: Request<proto::Empty>) -> Answer<proto::BucketsReply> {
        let buckets = self.namenode.buckets().await?.into_iter().map(String::from).collect();
        Ok(Response::new(proto::BucketsReply { buckets }))
    }

    async fn seal(&self, request: Request<proto::SealRequest>) -> Answer<proto::SealReply> {
        let site = own(&request, &request.get_ref().site)?;
        let ask = request.into_inner();
        let (bucket, key) = (BucketName::new(ask.bucket)?, Key::new(ask.key)?);
        let id = ask.id.parse::<ObjectId>()?;
        let new = NewObject { id, size: ask.size, checksum: ask.checksum, site, if_absent: ask.if_absent };
        Ok(Response::new(sealed_of(self.namenode.seal(&bucket, &key, new).await?)))
    }

    async fn lookup(&self, request: Request<proto::KeyRequest>) -> Answer<proto::Object> {
        let ask = request.into_inner();
        let (bucket, key) = (BucketName::new(ask.bucket)?, Key::new(ask.key)?);
        Ok(Response::new(self.namenode.lookup(&bucket, &key).await?.into()))
    }

    async fn find(&self, request: Request<proto::FindRequest>) -> Answer<proto::FindReply> {
        let id = request.into_inner().id.parse()?;
        Ok(Response::new(proto::FindReply { object: self.namenode.find(id).await?.map(Into::into) }))
    }

    async fn held(&self, request: Request<proto::HeldRequest>) -> Answer<proto::ListReply> {
        let site = own(&request, &request.get_ref().site)?;
        let start_after = match request.get_ref().start_after.as_str() {
            "" => None,
            id => Some(id.parse()?),
        };
        let objects = self.namenode.held(&site, start_after).await?.into_iter().map(Into::into).collect();
        Ok(Response::new(proto::ListReply { objects, prefixes: Vec::new(), next: None }))
    }

    async fn list(&self, request: Request<proto::ListRequest>) -> Answer<proto::ListReply> {
        let ask = request.into_inner();
        let delimiter = match ask.delimiter.as_deref().map(|text| (text.chars().next(), text.chars().count())) {
            None => None,
            Some((Some(c), 1)) => Some(c),
            Some(_) => {
                return Err(Status::invalid_argument("the delimiter of a listing must be one character"));
            }
        };
        let page = Page { start_after: ask.start_after, limit: ask.limit };
        let listing = self.namenode.list(&BucketName::new(ask.bucket)?, &ask.prefix, delimiter, page).await?;
        Ok(Response::new(listing_of(listing)))
    }

    async fn delete(&self, request: Request<proto::KeyRequest>) -> Answer<proto::Object> {
        let ask = request.into_inner();
        let (bucket, key) = (BucketName::new(ask.bucket)?, Key::new(ask.key)?);
        Ok(Response::new(self.namenode.delete(&bucket, &key).await?.into()))
    }

    async fn rename(&self, request: Request<proto::RenameRequest>) -> Answer<proto::SealReply> {
        let ask = request.into_inner();
        let (bucket, from, to) = (BucketName::new(ask.bucket)?, Key::new(ask.from)?, Key::new(ask.to)?);
        Ok(Response::new(sealed_of(self.namenode.rename(&bucket, &from, &to).await?)))
    }

    async fn mark_persisted(&self, request: Request<proto::CopyRequest>) -> Answer<proto::Object> {
        let ask = request.into_inner();
        let (bucket, key) = (BucketName::new(ask.bucket)?, Key::new(ask.key)?);
        Ok(Response::new(self.namenode.mark_persisted(&bucket, &key, ask.epoch, &ask.location).await?.into()))
    }

    async fn add_holder(&self, request: Request<proto::CopyRequest>) -> Answer<proto::Object> {
        let site = own(&request, &request.get_ref().site)?;
        let ask = request.into_inner();
        let (bucket, key) = (BucketName::new(ask.bucket)?, Key::new(ask.key)?);
        Ok(Response::new(self.namenode.add_holder(&bucket, &key, ask.epoch, &site).await?.into()))
    }

    async fn drop_holder(&self, request: Request<proto::CopyRequest>) -> Answer<proto::Object> {
        let site = own(&request, &request.get_ref().site)?;
        let ask = request.into_inner();
        let (bucket, key) = (BucketName::new(ask.bucket)?, Key::new(ask.key)?);
        Ok(Response::new(self.namenode.drop_holder(&bucket, &key, ask.epoch, &site).await?.into()))
    }
}

/// How long a call may take, the wait for a connection included.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the hub's namenode.
#[derive(Clone)]
pub struct RemoteCatalog {
    client: NamenodeClient<Channel>,
}

impl RemoteCatalog {
    pub fn new(channel: Channel) -> RemoteCatalog {
        // A page of objects with keys of full length is below 4 MiB, tonic's own bound.
        RemoteCatalog { client: NamenodeClient::new(channel) }
    }

    fn call<'a, T: 'a, F>(&self, call: impl FnOnce(NamenodeClient<Channel>) -> F + Send + 'a) -> BoxFuture<'a, Result<T>>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send + 'a,
    {
        let client = self.client.clone();
        async move {
            match tokio::time::timeout(CALL_TIMEOUT, call(client)).await {
                Ok(answer) => answer.map(Response::into_inner).map_err(error_of),
                Err(_) => Err(Error::Remote {
                    kind: Kind::DeadlineExceeded,
                    message: format!("the namenode did not answer within {} s", CALL_TIMEOUT.as_secs()),
                }),
            }
        }
        .boxed()
    }
}

fn needed(object: Option<proto::Object>) -> Result<ObjectMeta> {
    object
        .ok_or_else(|| Error::Protocol { peer: "the namenode".into(), message: "an answer without its object".into() })?
        .try_into()
}

fn sealed(reply: proto::SealReply) -> Result<Sealed> {
    Ok(Sealed { object: needed(reply.object)?, replaced: reply.replaced.map(ObjectMeta::try_from).transpose()? })
}

fn key_request(bucket: &BucketName, key: &Key) -> proto::KeyRequest {
    proto::KeyRequest { bucket: bucket.to_string(), key: key.to_string() }
}

fn copy_request(bucket: &BucketName, key: &Key, epoch: u64, site: &str, location: &str) -> proto::CopyRequest {
    proto::CopyRequest {
        bucket: bucket.to_string(),
        key: key.to_string(),
        epoch,
        site: site.into(),
        location: location.into(),
    }
}

impl Catalog for RemoteCatalog {
    fn announce<'a>(&'a self, site: &'a SiteId, address: &'a str) -> BoxFuture<'a, Result<()>> {
        let ask = proto::AnnounceRequest { site: site.to_string(), address: address.into() };
        self.call(move |mut client| async move { client.announce(ask).await.map(|_| Response::new(())) })
    }

    fn create_bucket<'a>(&'a self, bucket: &'a BucketName) -> BoxFuture<'a, Result<bool>> {
        let ask = proto::BucketRequest { bucket: bucket.to_string() };
        let call = self.call(move |mut client| async move { client.create_bucket(ask).await });
        async move { Ok(call.await?.created) }.boxed()
    }

    fn buckets(&self) -> BoxFuture<'_, Result<Vec<BucketName>>> {
        let call = self.call(move |mut client| async move { client.buckets(proto::Empty {}).await });
        async move { call.await?.buckets.into_iter().map(BucketName::new).collect() }.boxed()
    }

    fn seal<'a>(&'a self, bucket: &'a BucketName, key: &'a Key, new: NewObject) -> BoxFuture<'a, Result<Sealed>> {
        let ask = proto::SealRequest {
            bucket: bucket.to_string(),
            key: key.to_string(),
            id: new.id.to_string(),
            size: new.size,
            checksum: new.checksum,
            site: new.site.into(),
            if_absent: new.if_absent,
        };
        let call = self.call(move |mut client| async move { client.seal(ask).await });
        async move { sealed(call.await?) }.boxed()
    }

    fn lookup<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>> {
        let ask = key_request(bucket, key);
        let call = self.call(move |mut client| async move { client.lookup(ask).await });
        async move { call.await?.try_into() }.boxed()
    }

    fn find(&self, id: ObjectId) -> BoxFuture<'_, Result<Option<ObjectMeta>>> {
        let ask = proto::FindRequest { id: id.to_string() };
        let call = self.call(move |mut client| async move { client.find(ask).await });
        async move { call.await?.object.map(ObjectMeta::try_from).transpose() }.boxed()
    }

    fn held<'a>(&'a self, site: &'a SiteId, start_after: Option<ObjectId>) -> BoxFuture<'a, Result<Vec<ObjectMeta>>> {
        let start_after = start_after.map(String::from).unwrap_or_default();
        let ask = proto::HeldRequest { site: site.to_string(), start_after, limit: crate::catalog::PAGE_MAX };
        let call = self.call(move |mut client| async move { client.held(ask).await });
        async move { call.await?.objects.into_iter().map(ObjectMeta::try_from).collect() }.boxed()
    }

    fn list<'a>(
        &'a self,
        bucket: &'a BucketName,
        prefix: &'a str,
        delimiter: Option<char>,
        page: Page,
    ) -> BoxFuture<'a, Result<Listing>> {
        let ask = proto::ListRequest {
            bucket: bucket.to_string(),
            prefix: prefix.into(),
            delimiter: delimiter.map(String::from),
            start_after: page.start_after,
            limit: page.limit,
        };
        let call = self.call(move |mut client| async move { client.list(ask).await });
        async move {
            let reply = call.await?;
            let objects = reply.objects.into_iter().map(ObjectMeta::try_from).collect::<Result<_>>()?;
            Ok(Listing { objects, prefixes: reply.prefixes, next: reply.next })
        }
        .boxed()
    }

    fn delete<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>> {
        let ask = key_request(bucket, key);
        let call = self.call(move |mut client| async move { client.delete(ask).await });
        async move { call.await?.try_into() }.boxed()
    }

    fn rename<'a>(&'a self, bucket: &'a BucketName, from: &'a Key, to: &'a Key) -> BoxFuture<'a, Result<Sealed>> {
        let ask = proto::RenameRequest { bucket: bucket.to_string(), from: from.to_string(), to: to.to_string() };
        let call = self.call(move |mut client| async move { client.rename(ask).await });
        async move { sealed(call.await?) }.boxed()
    }

    fn mark_persisted<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a Key,
        epoch: u64,
        location: &'a str,
    ) -> BoxFuture<'a, Result<ObjectMeta>> {
        let ask = copy_request(bucket, key, epoch, "", location);
        let call = self.call(move |mut client| async move { client.mark_persisted(ask).await });
        async move { call.await?.try_into() }.boxed()
    }

    fn add_holder<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a Key,
        epoch: u64,
        site: &'a SiteId,
    ) -> BoxFuture<'a, Result<ObjectMeta>> {
        let ask = copy_request(bucket, key, epoch, site.as_str(), "");
        let call = self.call(move |mut client| async move { client.add_holder(ask).await });
        async move { call.await?.try_into() }.boxed()
    }

    fn drop_holder<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a Key,
        epoch: u64,
        site: &'a SiteId,
    ) -> BoxFuture<'a, Result<ObjectMeta>> {
        let ask = copy_request(bucket, key, epoch, site.as_str(), "");
        let call = self.call(move |mut client| async move { client.drop_holder(ask).await });
        async move { call.await?.try_into() }.boxed()
    }
}
