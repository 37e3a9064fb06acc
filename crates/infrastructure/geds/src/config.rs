//! The table `[geds]` of `cloudskin.toml`.
//!
//! Secrets are better given in the environment: `CLOUDSKIN_GEDS__S3_SECRET_KEY`.

use crate::{BucketName, BucketPolicy, Error, Mode, Persist, Place, RestKey, Result, S3Options, Secret, SpillOptions, Tuning};
use base::unit::{Bytes, Span};
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
    /// The persistency tier: `file:<folder>` or `s3:<bucket>`. Without it nothing can be spilled.
    pub persist: Option<String>,
    /// Such as `http://127.0.0.1:8333`; absent for Amazon's own.
    pub s3_endpoint: Option<String>,
    pub s3_region: String,
    pub s3_access_key: Secret,
    pub s3_secret_key: Secret,
    /// The bucket in the path of the URL and not in its host name; what most self-hosted stores want.
    pub s3_path_style: bool,
    /// Allow an endpoint without TLS.
    pub s3_allow_http: bool,
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
            s3_endpoint: None,
            s3_region: "us-east-1".into(),
            s3_access_key: Secret::default(),
            s3_secret_key: Secret::default(),
            s3_path_style: true,
            s3_allow_http: false,
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

    /// Opens the persistency tier that is configured, if one is.
    pub fn persist(&self) -> Result<Option<Persist>> {
        let Some(text) = &self.persist else { return Ok(None) };
        match text.split_once(':') {
            Some(("file", folder)) if !folder.is_empty() => Persist::folder(folder).map(Some),
            Some(("s3", bucket)) if !bucket.is_empty() => Persist::s3(S3Options {
                endpoint: self.s3_endpoint.clone(),
                bucket: bucket.into(),
                region: self.s3_region.clone(),
                access_key: self.s3_access_key.clone(),
                secret_key: self.s3_secret_key.clone(),
                path_style: self.s3_path_style,
                allow_http: self.s3_allow_http,
            })
            .map(Some),
            _ => Err(Error::BadValue {
                what: "`persist` in [geds]",
                value: text.clone(),
                rule: "write \"file:<folder>\" or \"s3:<bucket>\"",
            }),
        }
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
        for bad in ["", "file:", "ftp:x", "/data"] {
            let config = Config { persist: Some(bad.into()), ..Config::default() };
            assert!(config.persist().is_err(), "{bad:?}");
        }
        assert!(Config::default().persist().unwrap().is_none());
    }
}
