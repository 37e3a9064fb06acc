//! Events that appear in a stream together, or not at all: those of a [`Transaction`] lie in segments of their own until it is committed, and in the stream's from then on.

use super::{Client, failed, not_too_many, reader::patiently, stream_info, writer::Writer};
use crate::{
    Error, Result,
    catalog::TxnId,
    proto::{CreateTxnRequest, PingTxnRequest, TxnId as Named, TxnRequest, TxnStatus, ping_txn_status, txn_status},
    tier::AbortOnDrop,
};
use futures::future::BoxFuture;
use std::time::Duration;

/// The server aborts a transaction that nobody has asked after for so long.
const LEASE: Duration = Duration::from_secs(60);
/// How often it is asked after.
const PING_EVERY: Duration = Duration::from_secs(15);

/// One that is open. When it is dropped without [`commit`](Transaction::commit), the server aborts it within a minute.
pub struct Transaction {
    client: Client,
    scope: String,
    stream: String,
    id: TxnId,
    writer: Writer,
    _ping: AbortOnDrop<()>,
}

/// What became of the request to end it.
fn ended(status: TxnStatus, what: &str) -> Result<()> {
    use txn_status::Status as S;
    match status.status() {
        S::Success => Ok(()),
        S::TransactionNotFound => Err(Error::NoTxn(what.into())),
        S::StreamNotFound => Err(Error::NoStream(what.into())),
        S::Failure => Err(Error::Conflict(format!("transaction {what} could not be ended"))),
    }
}

impl Transaction {
    /// Begins one on a stream.
    pub fn begin<'a>(client: &'a Client, scope: &'a str, stream: &'a str) -> BoxFuture<'a, Result<Transaction>> {
        Box::pin(async move {
            let request = CreateTxnRequest { stream_info: stream_info(scope, stream), lease: LEASE.as_millis() as i64, scale_grace_period: 0 };
            let begun = client.controller.clone().create_transaction(request).await.map_err(failed("begin a transaction"))?.into_inner();
            let named = begun.txn_id.ok_or_else(|| Error::Invalid(format!("the server began a transaction on {scope}/{stream} and did not say which")))?;
            if let Err(e) = not_too_many(scope, stream, begun.active_segments.len()) {
                let request = TxnRequest { stream_info: stream_info(scope, stream), txn_id: Some(named), ..TxnRequest::default() };
                // Otherwise it ends with its lease.
                let _ = client.controller.clone().abort_transaction(request).await;
                return Err(e);
            }
            let id = TxnId { high: named.high_bits, low: named.low_bits };
            let writer = Writer::within(client, scope, stream, id, super::ranges(begun.active_segments));
            let (asking, info) = (client.controller.clone(), stream_info(scope, stream));
            let ping = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(PING_EVERY).await;
                    let request = PingTxnRequest { stream_info: info.clone(), txn_id: Some(named), lease: LEASE.as_millis() as i64 };
                    let told = asking.clone().ping_transaction(request).await;
                    // Whoever appends or commits hears that it has ended; a server that is away is asked again.
                    if told.is_ok_and(|told| told.into_inner().status() != ping_txn_status::Status::Ok) {
                        return;
                    }
                }
            });
            Ok(Transaction { client: client.clone(), scope: scope.into(), stream: stream.into(), id, writer, _ping: AbortOnDrop(ping) })
        })
    }

    /// Takes an event; those with the same key stay in order. An error [`NoTxn`](Error::NoTxn) says that the transaction has ended without having been committed.
    pub async fn append(&mut self, key: &str, event: &[u8]) -> Result<()> {
        self.writer.append(key, event, 0).await
    }

    /// Waits until everything taken is durable, though not in the stream yet.
    pub fn flush<'a>(&'a self) -> BoxFuture<'a, Result<()>> {
        self.writer.flush()
    }

    /// Makes all of it part of the stream. When this returns, readers see it; after an error of a server that was away it may be there or not.
    pub fn commit(self) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            self.writer.flush().await?;
            self.end(true).await
        })
    }

    /// Forgets all of it.
    pub fn abort(self) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move { self.end(false).await })
    }

    async fn end(&self, commits: bool) -> Result<()> {
        let named = Named { high_bits: self.id.high, low_bits: self.id.low };
        let what = format!("{:x}-{:x} on {}/{}", self.id.high, self.id.low, self.scope, self.stream);
        // Asked again where an answer was lost: the server knows what became of the last thousand.
        let status = patiently(|| {
            let (mut controller, request) = (self.client.controller.clone(), TxnRequest { stream_info: stream_info(&self.scope, &self.stream), txn_id: Some(named), ..TxnRequest::default() });
            Box::pin(async move {
                let told = match commits {
                    true => controller.commit_transaction(request).await.map_err(failed("commit a transaction")),
                    false => controller.abort_transaction(request).await.map_err(failed("abort a transaction")),
                };
                Ok(told?.into_inner())
            })
        });
        ended(status.await?, &what)
    }
}
