//! The table `[geds]` of `cloudskin.toml`.
//!
//! Secrets are better given in the environment: `CLOUDSKIN_GEDS__S3_SECRET_KEY`.

use crate::{AzureOptions, BucketName, BucketPolicy, Error, GsOptions, Mode, Persist, Place, Referee, RestKey, Result, S3Options, Secret, SpillOptions, Tuning};
use base::{
    Kind,
    unit::{Bytes, Span},
};
use serde::Deserialize;
use std::{collections::HashMap, path::PathBuf, time::Duration};

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How much of the disk the local tier may use.
    pub limit: Bytes,
    /// How much memory the memory tier may use; absent: there is none.
    pub memory: Option<Bytes>,
    /// How long a writer waits for room before it is refused.
    pub wait: Span,
    /// A file of its owner's alone (0600) with 32 random bytes, or 64 hexadecimal digits: with it, what lies on the disk is encrypted.
    pub key_file: Option<PathBuf>,
    /// How much memory decrypted objects may take that nobody has open.
    pub decrypted: Bytes,
    /// Spill without being asked, when there is a persistency tier.
    pub spill: bool,
    /// The share of the limit above which objects are spilled, and the share at which that ends.
    pub spill_high: f64,
    pub spill_low: f64,
    /// What uploads that nobody waits for may use, per second; absent: all.
    pub spill_bandwidth: Option<Bytes>,
    /// What buckets owe the persistency tier that are not named below: `ephemeral`, `write-behind` or `write-through`.
    pub mode: Mode,
    /// Where objects of such buckets lie at first: `disk` or `memory`.
    pub tier: Place,
    /// `mode`, `tier`, `lifetime`, `bind` and `fresh` by bucket: `[geds.buckets.scenes]`.
    pub buckets: HashMap<BucketName, BucketPolicy>,
    /// How long the end of an agent may be put off by what is to be uploaded first.
    pub drain: Span,
    /// The persistency tier: `file:<folder>`, `s3://<bucket>`, `gs://<bucket>` or `az://<container>`; the slashes may be left out. Without it nothing can be spilled.
    pub persist: Option<String>,
    /// The longest that one request to it may take, and, up to 20 s, that one which fails is tried again before anybody hears of it.
    pub persist_timeout: Span,
    /// Such as `http://127.0.0.1:8333`; absent for Amazon's own.
    pub s3_endpoint: Option<String>,
    pub s3_region: String,
    pub s3_access_key: Secret,
    pub s3_secret_key: Secret,
    /// The bucket in the path of the URL and not in its host name; what most self-hosted stores want.
    pub s3_path_style: bool,
    /// Allow an endpoint without TLS.
    pub s3_allow_http: bool,
    /// Such as `http://127.0.0.1:4443`; absent for Google's own.
    pub gs_endpoint: Option<String>,
    /// The file of a service account's key; absent: what the machine offers.
    pub gs_key_file: Option<PathBuf>,
    /// Nothing proves who asks: for emulators and public buckets.
    pub gs_anonymous: bool,
    pub gs_allow_http: bool,
    /// Such as `http://127.0.0.1:10000/account`; absent for Microsoft's own.
    pub az_endpoint: Option<String>,
    pub az_account: String,
    /// The account's key.
    pub az_key: Secret,
    /// Or a shared access signature for the container. Without either: the machine's managed identity.
    pub az_sas: Secret,
    pub az_allow_http: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            limit: Bytes(10 << 30),
            memory: None,
            key_file: None,
            decrypted: Bytes(Tuning::default().decrypted),
            wait: Span(Tuning::default().wait),
            spill: true,
            spill_high: SpillOptions::default().high,
            spill_low: SpillOptions::default().low,
            spill_bandwidth: None,
            mode: Mode::default(),
            tier: Place::default(),
            buckets: HashMap::new(),
            drain: Span(Duration::from_secs(20)),
            persist: None,
            persist_timeout: Span(Duration::from_secs(120)),
            s3_endpoint: None,
            s3_region: "us-east-1".into(),
            s3_access_key: Secret::default(),
            s3_secret_key: Secret::default(),
            s3_path_style: true,
            s3_allow_http: false,
            gs_endpoint: None,
            gs_key_file: None,
            gs_anonymous: false,
            gs_allow_http: false,
            az_endpoint: None,
            az_account: String::new(),
            az_key: Secret::default(),
            az_sas: Secret::default(),
            az_allow_http: false,
        }
    }
}

impl Config {
    /// What a node is opened with besides its [`crate::Options`].
    pub fn tuning(&self) -> Result<Tuning> {
        if !(0.0 < self.spill_low && self.spill_low <= self.spill_high && self.spill_high <= 1.0) {
            return Err(Error::BadValue {
                what: "`spill_low` and `spill_high` in [geds]",
                value: format!("{} and {}", self.spill_low, self.spill_high),
                rule: "they are shares of `limit`: 0 < spill_low <= spill_high <= 1",
            });
        }
        Ok(Tuning {
            memory: self.memory,
            key: self.key_file.as_deref().map(RestKey::from_file).transpose()?,
            decrypted: self.decrypted.0,
            wait: self.wait.0,
            spill: SpillOptions {
                automatic: self.spill,
                high: self.spill_high,
                low: self.spill_low,
                bandwidth: self.spill_bandwidth.map(|bytes| bytes.0),
            },
            policy: BucketPolicy { mode: self.mode, tier: self.tier, ..BucketPolicy::default() },
            buckets: self.buckets.clone(),
        })
    }

    /// What the environment says (`CLOUDSKIN_GEDS__…`), for programs without a `cloudskin.toml`.
    pub fn from_environment() -> Result<Config> {
        #[derive(Deserialize)]
        struct Root {
            #[serde(default)]
            geds: Config,
        }
        let root: Root = base::config::load(None, std::env::vars_os()).map_err(|e| Error::Remote { kind: Kind::InvalidArgument, message: e.to_string() })?;
        Ok(root.geds)
    }

    /// Where it is written down which of two namenodes leads: `file:<folder>`, which both see, or a bucket, such as `s3://<bucket>`, whose keys are those of the persistency tier.
    pub fn referee(&self, place: &str) -> Result<Referee> {
        if let Some(folder) = place.strip_prefix("file:").filter(|folder| !folder.is_empty()) {
            return Ok(Referee::folder(folder));
        }
        let bucket = Config { persist: Some(place.into()), ..self.clone() };
        match bucket.persist() {
            Ok(Some(persist)) => Ok(persist.referee()),
            Ok(None) | Err(Error::BadValue { .. }) => Err(Error::BadValue {
                what: "referee",
                value: place.into(),
                rule: "write \"file:<folder>\" of a folder that hub and standby see, \"s3://<bucket>\", \"gs://<bucket>\" or \"az://<container>\"",
            }),
            Err(e) => Err(e),
        }
    }

    /// Opens the persistency tier that is configured, if one is.
    pub fn persist(&self) -> Result<Option<Persist>> {
        let Some(text) = &self.persist else { return Ok(None) };
        let timeout = Some(self.persist_timeout.0);
        if self.persist_timeout.0 < Duration::from_secs(1) {
            return Err(Error::BadValue { what: "`persist_timeout` in [geds]", value: self.persist_timeout.to_string(), rule: "a store gets at least 1s for a request" });
        }
        // The store's name of the place: one bucket, without a path in it.
        let named = text.split_once(':').map(|(store, name)| (store, if store == "file" { name } else { name.strip_prefix("//").unwrap_or(name) }));
        match named {
            Some(("file", folder)) if !folder.is_empty() => Persist::folder(folder).map(Some),
            Some((_, name)) if name.is_empty() || name.contains('/') => Err(refused(text)),
            Some(("s3", bucket)) => Persist::s3(S3Options {
                endpoint: self.s3_endpoint.clone(),
                bucket: bucket.into(),
                region: self.s3_region.clone(),
                access_key: self.s3_access_key.clone(),
                secret_key: self.s3_secret_key.clone(),
                path_style: self.s3_path_style,
                allow_http: self.s3_allow_http,
                timeout,
            })
            .map(Some),
            Some(("gs", bucket)) => Persist::gs(GsOptions {
                endpoint: self.gs_endpoint.clone(),
                bucket: bucket.into(),
                key_file: self.gs_key_file.clone(),
                anonymous: self.gs_anonymous,
                allow_http: self.gs_allow_http,
                timeout,
            })
            .map(Some),
            Some(("az", container)) => Persist::azure(AzureOptions {
                endpoint: self.az_endpoint.clone(),
                account: self.az_account.clone(),
                container: container.into(),
                key: self.az_key.clone(),
                sas: self.az_sas.clone(),
                allow_http: self.az_allow_http,
                timeout,
            })
            .map(Some),
            _ => Err(refused(text)),
        }
    }
}

fn refused(persist: &str) -> Error {
    Error::BadValue {
        what: "`persist` in [geds]",
        value: persist.into(),
        rule: "write \"file:<folder>\", \"s3://<bucket>\", \"gs://<bucket>\" or \"az://<container>\"; a path in the bucket is what `bind` of a bucket is for",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_modes_and_shares_make_sense() {
        let text = r#"{"memory": "1MiB", "wait": "2s", "spill_bandwidth": "5MB", "buckets": {"a": {"mode": "write-behind", "tier": "memory"}}}"#;
        let tuning = serde_json::from_str::<Config>(text).unwrap().tuning().unwrap();
        let policy = tuning.policy(&BucketName::new("a").unwrap());
        assert_eq!((policy.mode, policy.tier), (Mode::WriteBehind, Place::Memory));
        assert_eq!(*tuning.policy(&BucketName::new("b").unwrap()), BucketPolicy::default());
        assert_eq!((tuning.wait, tuning.spill.bandwidth), (Duration::from_secs(2), Some(5_000_000)));
        for bad in [r#"{"spill_low": 0.9}"#, r#"{"spill_high": 1.5}"#, r#"{"spill_low": 0.0}"#] {
            assert!(serde_json::from_str::<Config>(bad).unwrap().tuning().is_err(), "{bad}");
        }
        for bad in [r#"{"mode": "later"}"#, r#"{"buckets": {"A": {}}}"#, r#"{"buckets": {"a": {"size": 1}}}"#] {
            assert!(serde_json::from_str::<Config>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_printed_and_nonsense_is_refused() {
        let config = Config {
            persist: Some("s3:data".into()),
            s3_access_key: Secret::new("who"),
            s3_secret_key: Secret::new("hush"),
            ..Config::default()
        };
        let persist = config.persist().unwrap().unwrap();
        let shown = format!("{config:?} {persist:?} {persist}");
        assert!(!shown.contains("hush") && shown.contains("s3:data"), "{shown}");
        for (persist, shown) in [("s3:data", "s3:data"), ("s3://data", "s3:data"), ("gs:data", "gs:data"), ("gs://data", "gs:data"), ("az:data", "az:data"), ("az://data", "az:data")] {
            let config = Config {
                persist: Some(persist.into()),
                gs_anonymous: true,
                az_account: "account".into(),
                az_key: Secret::new("aHVzaA=="),
                ..Config::default()
            };
            let persist = config.persist().unwrap().unwrap();
            assert_eq!(persist.to_string(), shown);
            assert!(!format!("{config:?} {persist:?}").contains("aHVzaA"));
        }
        let lacks = |config: Config| config.persist().unwrap_err().to_string();
        let nobody = lacks(Config { persist: Some("az://data".into()), ..Config::default() });
        assert!(nobody.contains("az_account"), "{nobody}");
        let missing = lacks(Config { persist: Some("gs://data".into()), gs_key_file: Some("/no/such/key.json".into()), ..Config::default() });
        assert!(missing.contains("gs:data") && missing.contains("/no/such/key.json"), "{missing}");
        let bad_key = lacks(Config { persist: Some("az://data".into()), az_account: "account".into(), az_key: Secret::new("no base64 at all: hush"), ..Config::default() });
        assert!(bad_key.contains("az:data") && !bad_key.contains("hush"), "{bad_key}");
        for bad in ["", "file:", "ftp:x", "/data", "s3:", "s3://", "gs:a/b", "az://a/b"] {
            let config = Config { persist: Some(bad.into()), ..Config::default() };
            assert!(config.persist().is_err(), "{bad:?}");
        }
        assert!(Config::default().persist().unwrap().is_none());
    }
}
