//! The standby of the hub's namenode, if this site has it, and the way to whichever of the two leads.
//!
//! The hub says who has the standby ([`proto::Standby`]): when this agent asks to be recognised, and whenever that changes. Until it has said so there is only the hub to ask.

use super::lock;
use base::{SiteId, identity::{self, Dialer}};
use futures::FutureExt;
use geds::{Caller, Paired, RemoteCatalog, STANDBY_ALPN, Seat};
use orchestrator::proto;
use std::{path::PathBuf, sync::{Arc, Mutex, OnceLock}};

pub struct Standby {
    site: SiteId,
    /// host:port of the hub.
    hub: String,
    dialer: Dialer,
    /// Where the namenode's files are if this site has the standby.
    folder: PathBuf,
    /// Says how stores are reached.
    stores: geds::Config,
    told: Mutex<Option<proto::Standby>>,
    own: OnceLock<Paired>,
}

impl Standby {
    pub fn new(site: SiteId, hub: String, dialer: Dialer, folder: PathBuf, stores: geds::Config) -> Arc<Standby> {
        Arc::new(Standby { site, hub, dialer, folder, stores, told: Mutex::default(), own: OnceLock::new() })
    }

    /// Takes in what the hub says. If this site has the standby, it begins, and goes on until this process ends. To be called in a runtime.
    pub fn learn(&self, told: proto::Standby) {
        let mut known = lock(&self.told);
        if told.site == self.site.as_str() && self.own.get().is_none() {
            match self.begin(&told.referee) {
                Ok(paired) => {
                    tracing::info!(referee = told.referee, "this site has the standby of the namenode");
                    let _ = self.own.set(paired); // under the lock above, so it is the first
                }
                Err(error) => tracing::error!(%error, referee = told.referee, "the namenode has no standby: this site can't be it"),
            }
        }
        *known = Some(told);
    }

    fn begin(&self, referee: &str) -> geds::Result<Paired> {
        let (dialer, hub) = (self.dialer.clone(), self.hub.clone());
        let dial = move || {
            let (dialer, hub) = (dialer.clone(), hub.clone());
            let away = |e: identity::Error| geds::Error::Peer { peer: "the hub".into(), message: e.to_string() };
            async move { dialer.dial(identity::HUB, &hub, STANDBY_ALPN).await.map_err(away) }.boxed()
        };
        // The hub had names before there was a standby, so this one never begins.
        Paired::start(&self.folder, self.site.as_str(), self.stores.referee(referee)?, false, dial)
    }

    /// The standby, if it is here.
    pub fn own(&self) -> Option<&Paired> {
        self.own.get()
    }

    /// Asks whichever namenode leads.
    pub fn catalog(self: &Arc<Self>) -> RemoteCatalog {
        let standby = self.clone();
        RemoteCatalog::leading(self.dialer.clone(), move || {
            let mut seats = vec![Seat::Remote { name: identity::HUB.into(), address: standby.hub.clone() }];
            match (standby.own.get(), &*lock(&standby.told)) {
                (Some(own), _) => seats.push(Seat::Own(own.clone(), Caller::Site(standby.site.clone()))),
                (None, Some(other)) if !other.address.is_empty() => {
                    if let Ok(site) = SiteId::new(other.site.as_str()) {
                        seats.push(Seat::Remote { name: identity::site_name(&site), address: other.address.clone() });
                    }
                }
                _ => {}
            }
            seats
        })
    }
}
