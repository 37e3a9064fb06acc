//! Accepts connections, with TLS or without, and keeps their number bounded.

use super::connection;
use crate::{Store, access::Access};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore, sync::watch, task::JoinSet};
use tokio_rustls::TlsAcceptor;

/// Connections at a time, as far as the process may have as many files; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 4096;
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Serves `connections` at a time until `shutdown` is true.
pub async fn run(listener: TcpListener, connections: usize, tls: Option<TlsAcceptor>, store: Store, access: Access, mut shutdown: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(connections));
    let mut served = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
                (listener.accept().await, place)
            } => accepted,
            _ = shutdown.wait_for(|s| *s) => break,
        };
        while served.try_join_next().is_some() {}
        let (stream, peer, place) = match accepted {
            (Ok((stream, peer)), place) => (stream, peer, place),
            (Err(e), _) => {
                // Such as no file descriptors: others may end soon.
                tracing::warn!(error = %e, "no connection was accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        base::net::prepare(&stream);
        let (store, access, tls) = (store.clone(), access.clone(), tls.clone());
        served.spawn(async move {
            store.metrics().connections.fetch_add(1, Relaxed);
            let counted = store.clone();
            let ended = match tls {
                None => connection::serve(stream, store, access).await,
                Some(tls) => match tokio::time::timeout(HANDSHAKE_MAX, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection::serve(stream, store, access).await,
                    Ok(Err(e)) => Err(format!("TLS: {e}")),
                    Err(_) => Err("TLS: no handshake in time".into()),
                },
            };
            if let Err(why) = ended {
                tracing::info!(%peer, %why, "connection closed");
            }
            counted.metrics().connections.fetch_sub(1, Relaxed);
            drop(place);
        });
    }
}
