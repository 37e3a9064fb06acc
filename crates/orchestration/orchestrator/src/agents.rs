//! Which agent is a site's: the one whose certificate the hub has given out for its name, and no other.
//!
//! ```text
//! site join ──▶ token ──▶ Join ──▶ certificate, remembered by its SHA-256 ──▶ Recognise, Session, Module, the namenode: this certificate only
//!     └── refused while the name is taken, unless the old agent is to be replaced: then it is lost, with what runs there
//! ```
//!
//! Two agents of one name would throw each other out and make the hub forget what the other one holds. An agent that starts again on its folder has
//! the certificate in it, so it comes back also while its old session is not over. What this can't tell apart is a copy of such a folder.

use crate::{
    Error,
    hub::{Hub, Site, World, hex, invalid},
};
use base::{Kind, clock::now_ms, identity};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// SHA-256 of a certificate's DER form, as [`identity::fingerprint`] has it of PEM.
pub fn fingerprint(der: &[u8]) -> String {
    hex(&Sha256::digest(der))
}

impl World {
    /// Who has a site's name, in words; `None`: nobody.
    fn holder(&self, site: &str) -> Option<String> {
        let ago = |s: &Site| now_ms().saturating_sub(s.last_seen_ms) / 1000;
        match (self.sites.get(site), self.agents.get(site)) {
            (Some(s), _) => Some(match (s.connected(), s.from) {
                (true, Some(from)) => format!("connected from {from}"),
                (true, None) => "connected".into(),
                (false, Some(from)) => format!("last heard of {} s ago from {from}", ago(s)),
                (false, None) => format!("last heard of {} s ago", ago(s)),
            }),
            (None, Some(certificate)) if !certificate.is_empty() => Some("joined and not yet connected".into()),
            (None, _) => None,
        }
    }

    fn taken(&self, site: &str) -> Option<Error> {
        let holder = self.holder(site)?;
        let message = format!(
            "there is a site {site:?} already ({holder}); choose another name, or, if its agent is gone for good, use `cloudskin site join {site} --replace`, which gives up what it holds"
        );
        Some(Error::new(Kind::AlreadyExists, message))
    }
}

impl Hub {
    /// A token that lets an agent join as `site`, once, until it expires. With `replace` also if there is such a site.
    pub async fn mint(&self, site: &str, ttl: Duration, replace: bool) -> Result<(String, u64), Error> {
        let site = base::SiteId::new(site).map_err(|e| invalid(e.to_string()))?;
        if let Some(taken) = self.world.lock().await.taken(site.as_str()).filter(|_| !replace) {
            return Err(taken);
        }
        let (token, expires_ms) = (hex(&rand::random::<[u8; 24]>()), now_ms() + ttl.as_millis() as u64);
        self.state.add_token(&hex(&Sha256::digest(&token)), site.as_str(), expires_ms, replace).await?;
        Ok((token, expires_ms))
    }

    /// Trades a token and a certificate request for a certificate, which from now on is that of the site's agent.
    pub async fn join(&self, token: &str, site: &base::SiteId, csr_pem: &str) -> Result<String, Error> {
        let (name, hash) = (site.as_str(), hex(&Sha256::digest(token)));
        let bad = || {
            let message = format!("the join token is wrong, expired, used, or not for site {site}; make a new one with `cloudskin site join {site}`");
            Error::new(Kind::Unauthenticated, message)
        };
        let mut world = self.world.lock().await;
        if !self.state.good_token(&hash, name, now_ms()).await? {
            return Err(bad());
        }
        // Of two tokens for a new name only one is of use.
        if let Some(taken) = world.taken(name) {
            if !self.state.replaces(&hash).await? {
                return Err(taken);
            }
        }
        let certificate_pem = self.authority.sign(csr_pem, &identity::site_name(site)).map_err(|e| invalid(e.to_string()))?;
        // Used up only now: a certificate request that can't be signed must not cost the token.
        if !self.state.take_token(&hash, name, now_ms()).await? {
            return Err(bad());
        }
        let certificate = identity::fingerprint(&certificate_pem);
        self.state.save_agent(name, &certificate).await?;
        world.agents.insert(name.into(), certificate);
        self.events.add("site.joined", name, "certificate given").await;
        self.dismiss(&mut world, name, "another agent has taken its place").await?;
        Ok(certificate_pem)
    }

    /// Ends what an agent has at the hub that is not its site's any more.
    async fn dismiss(&self, world: &mut World, site: &str, why: &str) -> Result<(), Error> {
        let session = world.sessions + 1;
        let Some(here) = world.sites.get_mut(site) else { return Ok(()) };
        if let Some(orders) = here.orders.take() {
            // If it doesn't fit, the session ends all the same, and the next one is refused.
            let _ = orders.try_send(Err(tonic::Status::permission_denied(format!("site {site:?}: {why}"))));
        }
        // What the old session still says is nobody's.
        (here.session, world.sessions) = (session, session);
        if !world.sites[site].lost {
            self.fail_checkpoints(world, Some(site), None, why).await;
            self.lose(world, site, why).await?;
        }
        Ok(())
    }

    /// Whether a certificate is that of the site's agent. Sites that joined when hubs did not remember it have that of the first agent which comes.
    pub async fn recognise(&self, site: &str, certificate: &str) -> Result<(), Error> {
        let mut world = self.world.lock().await;
        let refuse = |message: String| Err(Error::new(Kind::PermissionDenied, message));
        match world.agents.get(site) {
            Some(known) if known == certificate => Ok(()),
            Some(known) if known.is_empty() => refuse(format!("site {site:?} was removed; it can join again in an empty data folder, as `cloudskin site join {site}` says")),
            Some(_) => {
                let holder = world.holder(site).unwrap_or_default();
                refuse(format!("another agent is site {site:?} ({holder}); let this one join under another name, or, if that one is gone for good, in an empty data folder with a token of `cloudskin site join {site} --replace`"))
            }
            None => {
                self.state.save_agent(site, certificate).await?;
                world.agents.insert(site.into(), certificate.into());
                Ok(())
            }
        }
    }

    /// Forgets a site that is not connected, with what it held; its agent is not let in any more.
    pub async fn remove_site(&self, site: &str) -> Result<(), Error> {
        let mut world = self.world.lock().await;
        if world.site(site)?.connected() {
            let holder = world.holder(site).unwrap_or_default();
            return Err(Error::new(Kind::FailedPrecondition, format!("site {site:?} is {holder}; end its agent first")));
        }
        self.dismiss(&mut world, site, "it was removed").await?;
        self.state.drop_site(site).await?;
        world.sites.remove(site);
        world.agents.insert(site.into(), String::new());
        let (objects, bytes) = self.forget_copies(site).await?;
        let lost = if objects == 0 { String::new() } else { format!("; {} that only it had, {bytes} bytes, are lost", base::unit::count(objects, "object")) };
        self.events.add("site.removed", site, format!("its agent is not let in any more{lost}")).await;
        Ok(())
    }

    /// Takes a site that will not come back from the records of objects, and with it those that were there only. Gives these and their bytes. The caller
    /// holds [`Hub::world`], so that no other agent gets the name meanwhile and puts something there.
    async fn forget_copies(&self, site: &str) -> Result<(u64, u64), Error> {
        let (site, catalog) = (base::SiteId::new(site).map_err(|e| invalid(e.to_string()))?, &self.objects.catalog);
        let (mut objects, mut bytes) = (0, 0);
        loop {
            // What has several names comes again, under the next one.
            let held = catalog.held(&site, None).await?;
            if held.is_empty() {
                return Ok((objects, bytes));
            }
            // Together, so that they share the waits for the disk.
            let lost = futures::future::join_all(held.iter().map(|m| catalog.lose(&m.bucket, &m.key, m.epoch, &site))).await;
            for (meta, lost) in held.iter().zip(lost) {
                match lost {
                    // A user has removed it or written it again: the next look says.
                    Err(e) if !matches!(e.kind(), Kind::NotFound | Kind::FailedPrecondition) => return Err(e.into()),
                    Ok(_) if meta.sites.len() == 1 && meta.persisted.is_none() => (objects, bytes) = (objects + 1, bytes + meta.size),
                    _ => {}
                }
            }
        }
    }
}
