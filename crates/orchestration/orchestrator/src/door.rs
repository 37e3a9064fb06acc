//! The hub's port: TLS, then by what the caller wants to speak: gRPC of the sessions (`h2`), the namenode's own protocol (`geds-meta/1`), or that between it and its standby (`geds-standby/1`).
//!
//! Who has no certificate may come in, because that is how one joins; what he may do then is up to who answers.

use crate::{Error, agents, hub::Hub};
use base::identity;
use geds::{Caller, META_ALPN, STANDBY_ALPN};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Connections on their way to gRPC.
const WAITING_MAX: usize = 64;
/// The pause after a connection that could not be accepted: too many open files, for instance.
const PAUSE: Duration = Duration::from_millis(200);

/// Takes in connections until the hub stops. What speaks gRPC comes out of the stream.
pub fn open(hub: Arc<Hub>, listener: TcpListener) -> Result<ReceiverStream<io::Result<TlsStream<TcpStream>>>, Error> {
    let acceptor = hub.identity.door(&["h2", META_ALPN, STANDBY_ALPN]).map_err(Error::internal)?;
    let (grpc, incoming) = mpsc::channel(WAITING_MAX);
    let mut stop = hub.stop.subscribe();
    tokio::spawn(async move {
        let mut stopped = std::pin::pin!(async move {
            let _ = stop.wait_for(|stop| *stop).await;
        });
        // Dropped with this task, connections end with the hub.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                () = &mut stopped => return,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((tcp, _)) => {
                        let (acceptor, hub, grpc) = (acceptor.clone(), hub.clone(), grpc.clone());
                        connections.spawn(async move {
                            let _ = tcp.set_nodelay(true);
                            match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(tcp)).await {
                                Ok(Ok(stream)) => serve(&hub, stream, &grpc).await,
                                Ok(Err(error)) => tracing::debug!(%error, "a connection was refused"),
                                Err(_) => tracing::debug!("a connection said nothing and was closed"),
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    });
    Ok(ReceiverStream::new(incoming))
}

async fn serve(hub: &Hub, stream: TlsStream<TcpStream>, grpc: &mpsc::Sender<io::Result<TlsStream<TcpStream>>>) {
    let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let standby = protocol.as_deref() == Some(STANDBY_ALPN.as_bytes());
    if !standby && protocol.as_deref() != Some(META_ALPN.as_bytes()) {
        // An error is a server that has stopped; the connection closes.
        let _ = grpc.send(Ok(stream)).await;
        return;
    }
    let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| agents::fingerprint(c));
    let stream = stream.into();
    let name = identity::peer_name(&stream);
    // What a namesake holds is not what the site holds.
    if let (Some(site), Some(certificate)) = (name.as_deref().and_then(identity::site_of), certificate)
        && let Err(error) = hub.recognise(site.as_str(), &certificate).await
    {
        return tracing::warn!(name, %error, "a client of the namenode was refused");
    }
    if standby {
        let Some(site) = name.as_deref().and_then(identity::site_of) else { return tracing::warn!(name, "who is not a site can't be the namenode's standby") };
        if let Err(error) = hub.objects.names.serve_standby(stream, &site).await {
            tracing::info!(name, %error, "the namenode's standby");
        }
        return;
    }
    if let Err(error) = hub.objects.names.serve(stream, Caller::of(name.as_deref())).await {
        tracing::debug!(name, %error, "a client of the namenode");
    }
}
