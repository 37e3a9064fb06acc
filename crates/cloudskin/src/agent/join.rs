//! How an agent proves who it is: with the certificate in its folder, or at its first start with a join token.

use crate::{args, failure::fail};
use anyhow::Context;
use base::{Kind, identity::{self, Dialer, Identity}};
use hyper_util::rt::TokioIo;
use orchestrator::proto::{JoinRequest, hub_client::HubClient};
use std::{path::Path, time::Duration};
use tokio::io::AsyncReadExt;
use tonic::transport::{Channel, Endpoint, Uri};

/// What gRPC is called in a TLS handshake.
const H2: &str = "h2";
/// How long the hub may be unreachable while an agent joins.
const REACH_MAX: Duration = Duration::from_secs(30);
/// How long the hub may take to show whether it takes a certificate.
const MEET_MAX: Duration = Duration::from_secs(5);
/// How often a quiet connection to the hub is tried, and how long the answer may take. Together: how soon a hub that has vanished (its machine
/// off, its network cut) is noticed.
const ALIVE_EVERY: Duration = Duration::from_secs(2);
const ALIVE_MAX: Duration = Duration::from_secs(6);

/// The agent's certificate. Made now, if there is none yet.
pub async fn identity(data: &Path, ask: &args::Agent) -> anyhow::Result<Identity> {
    let folder = data.join("identity");
    if !folder.join("cert.pem").exists() {
        join(&folder, ask).await?;
    }
    let identity = Identity::load(&folder)?;
    let name = identity.check().map_err(|e| fail(Kind::Unauthenticated, format!("{e}; its folder is {}", folder.display())))?;
    if name != identity::site_name(&ask.site) {
        let message = format!("the certificate in {} is that of {name}, not of site {}; name that site, or another folder with --data", folder.display(), ask.site);
        return Err(fail(Kind::FailedPrecondition, message));
    }
    Ok(identity)
}

async fn join(folder: &Path, ask: &args::Agent) -> anyhow::Result<()> {
    let (Some(token), Some(pin)) = (&ask.join, &ask.ca_sha256) else {
        let message = format!(
            "site {} has no certificate in {} yet: give --join and --ca-sha256 as `cloudskin site join {}` prints them at the hub",
            ask.site,
            folder.display(),
            ask.site
        );
        return Err(fail(Kind::Unauthenticated, message));
    };
    let name = identity::site_name(&ask.site);
    let (key_pem, csr_pem) = identity::request(&name)?;
    let end = tokio::time::Instant::now() + REACH_MAX;
    let channel = loop {
        let (address, pin) = (ask.hub.clone(), pin.clone());
        let endpoint = endpoint();
        let dialled = endpoint.connect_with_connector(tower::service_fn(move |_: Uri| {
            let (address, pin) = (address.clone(), pin.clone());
            async move { identity::dial_pinned(identity::HUB, &address, &pin, H2).await.map(TokioIo::new).map_err(std::io::Error::other) }
        }));
        match dialled.await {
            Ok(channel) => break channel,
            Err(_) if tokio::time::Instant::now() < end && std::net::TcpStream::connect(&ask.hub).is_err() => {
                tokio::time::sleep(super::RETRY).await;
            }
            Err(e) => {
                let cause = base::error::cause(&e);
                return Err(fail(Kind::Unavailable, format!("the hub at {} can't be joined: {cause}; check --hub and --ca-sha256", ask.hub)));
            }
        }
    };
    let request = JoinRequest { token: token.clone(), site: ask.site.to_string(), csr_pem };
    let reply = HubClient::new(channel).join(request).await.map_err(|s| fail(Kind::Unauthenticated, s.message().to_string()))?.into_inner();
    if identity::fingerprint(&reply.ca_pem) != pin.to_ascii_lowercase() {
        return Err(fail(Kind::Unauthenticated, "the hub answered with another authority than the one that it proved".to_string()));
    }
    Identity { cert_pem: reply.certificate_pem, key_pem, ca_pem: reply.ca_pem }.save(folder).context("keep the certificate")
}

/// Fails when the hub and this agent do not take each other's certificates: then it is of no use to try again. `Ok` also while no hub answers.
pub async fn meet(dialer: &Dialer, data: &Path, ask: &args::Agent) -> anyhow::Result<()> {
    let met = async {
        let mut stream = dialer.dial(identity::HUB, &ask.hub, H2).await.map_err(|e| e.to_string())?;
        // In TLS 1.3 the other end's opinion of our certificate comes after the handshake. A hub that is content says hello first.
        stream.read_u8().await.map_err(|e| e.to_string())
    };
    match tokio::time::timeout(MEET_MAX, met).await {
        Ok(Err(why)) if ["invalid peer certificate", "fatal alert"].iter().any(|sign| why.contains(sign)) => {
            let (site, folder) = (&ask.site, data.join("identity"));
            let message = format!(
                "the hub at {} and this agent don't take each other's certificates ({why}): that in {} is foreign or has expired; remove this folder and join again as `cloudskin site join {site} --replace` says at the hub",
                ask.hub,
                folder.display()
            );
            Err(fail(Kind::Unauthenticated, message))
        }
        _ => Ok(()),
    }
}

fn endpoint() -> Endpoint {
    // The name is only a label: the connector dials, and TLS checks who answers.
    Endpoint::from_static("http://hub.cloudskin")
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(ALIVE_EVERY)
        .keep_alive_timeout(ALIVE_MAX)
        .keep_alive_while_idle(true)
}

/// The way to the hub for all calls. It connects when it is used, and again after it was cut.
pub fn channel(dialer: &Dialer, hub: &str) -> anyhow::Result<Channel> {
    let (dialer, hub) = (dialer.clone(), hub.to_string());
    let connector = tower::service_fn(move |_: Uri| {
        let (dialer, hub) = (dialer.clone(), hub.clone());
        async move { dialer.dial(identity::HUB, &hub, H2).await.map(TokioIo::new).map_err(std::io::Error::other) }
    });
    Ok(endpoint().connect_with_connector_lazy(connector))
}
