//! The hub's namenode: alone, or one of a pair whose other one is with a site's agent (`docs/design/standby.md`).
//!
//! ```text
//! alone      hub: Namenode
//! a pair     hub: Paired "hub" ◀── geds-standby/1 ──▶ Paired of the site, at its agent's data port
//!            what the hub itself asks goes to whichever leads
//! ```
//!
//! The hub tells agents where the standby is: when they ask to be recognised, and when that changes. Its own records (jobs, sites) have no copy.

use crate::{Error, proto};
use base::{SiteId, identity::{self, Identity}};
use futures::FutureExt;
use geds::{Caller, Catalog, Namenode, Paired, Referee, RemoteCatalog, STANDBY_ALPN, Seat};
use std::{path::Path, sync::{Arc, Mutex}};
use tokio::io::{AsyncRead, AsyncWrite};

/// Who has the standby of the namenode.
#[derive(Clone)]
pub struct Standby {
    pub site: SiteId,
    /// Where it is written down which of the two leads, as an agent reads it: `file:/shared/leader`.
    pub place: String,
    /// The same place.
    pub referee: Referee,
}

#[derive(Clone)]
pub enum Names {
    Alone(Namenode),
    Pair(Pair),
}

#[derive(Clone)]
pub struct Pair {
    standby: Standby,
    own: Paired,
    /// host:port of the site's data port; empty until it is known.
    address: Arc<Mutex<String>>,
}

fn lock(address: &Mutex<String>) -> std::sync::MutexGuard<'_, String> {
    address.lock().unwrap_or_else(|e| e.into_inner())
}

impl Names {
    /// Opens the namenode in `folder`, and gives whom to ask. `own`: the hub's identity; `address`: where the standby's site was last.
    pub async fn open(folder: &Path, own: &Identity, standby: Option<Standby>, address: String) -> Result<(Names, Arc<dyn Catalog>), Error> {
        let Some(standby) = standby else {
            let namenode = Namenode::open(folder).await?;
            return Ok((Names::Alone(namenode.clone()), Arc::new(namenode)));
        };
        let (dialer, site, address) = (own.dialer().map_err(Error::internal)?, identity::site_name(&standby.site), Arc::new(Mutex::new(address)));
        let dial = {
            let (dialer, site, address) = (dialer.clone(), site.clone(), address.clone());
            move || {
                let (dialer, site, address) = (dialer.clone(), site.clone(), lock(&address).clone());
                let away = |e: identity::Error| geds::Error::Peer { peer: "the standby".into(), message: e.to_string() };
                async move { dialer.dial(&site, &address, STANDBY_ALPN).await.map_err(away) }.boxed()
            }
        };
        let paired = Paired::start(folder, "hub", standby.referee.clone(), true, dial)?;
        let seats = {
            let (paired, address) = (paired.clone(), address.clone());
            move || {
                let mut seats = vec![Seat::Own(paired.clone(), Caller::Hub)];
                let address = lock(&address).clone();
                if !address.is_empty() {
                    seats.push(Seat::Remote { name: site.clone(), address });
                }
                seats
            }
        };
        let catalog = RemoteCatalog::leading(dialer, seats);
        Ok((Names::Pair(Pair { standby, own: paired, address }), Arc::new(catalog)))
    }

    /// The namenode of this process, if it leads.
    pub fn leading(&self) -> Option<Namenode> {
        match self {
            Names::Alone(namenode) => Some(namenode.clone()),
            Names::Pair(pair) => pair.own.leading(),
        }
    }

    pub fn has_standby(&self) -> bool {
        matches!(self, Names::Pair(_))
    }

    /// Answers a client, or hangs up if the other one leads.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, caller: Caller) -> geds::Result<()> {
        match self {
            Names::Alone(namenode) => namenode.serve(stream, caller).await,
            Names::Pair(pair) => pair.own.serve(stream, caller).await,
        }
    }

    /// Lets the standby follow. `site`: who has proved to dial.
    pub async fn serve_standby<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, site: &SiteId) -> geds::Result<()> {
        match self {
            Names::Pair(pair) if pair.standby.site == *site => pair.own.serve_standby(stream).await,
            _ => Err(geds::Error::Denied { who: format!("site {site}"), what: "be the namenode's standby: the hub was not started so".into() }),
        }
    }

    /// What agents have to know of the standby.
    pub fn told(&self) -> Option<proto::Standby> {
        let Names::Pair(pair) = self else { return None };
        Some(proto::Standby { site: pair.standby.site.to_string(), address: lock(&pair.address).clone(), referee: pair.standby.place.clone() })
    }

    /// Takes in where a site's data port is. True: it is the standby's, and has changed.
    pub fn met(&self, site: &str, at: &str) -> bool {
        let Names::Pair(pair) = self else { return false };
        if pair.standby.site.as_str() != site || *lock(&pair.address) == at {
            return false;
        }
        *lock(&pair.address) = at.into();
        true
    }

    /// Who leads, for people.
    pub fn story(&self) -> Option<String> {
        let Names::Pair(pair) = self else { return None };
        let site = &pair.standby.site;
        Some(match pair.own.leading() {
            Some(namenode) if namenode.has_standby() => format!("the hub leads; site {site} has all names and takes over when the hub is gone"),
            Some(_) => format!("the hub leads, alone: site {site} does not have all names yet"),
            None => format!("the hub does not lead; site {site} does, or nobody"),
        })
    }

    /// Lets go of the folder.
    pub async fn close(&self) {
        match self {
            Names::Alone(namenode) => namenode.close().await,
            Names::Pair(pair) => pair.own.close().await,
        }
    }
}
