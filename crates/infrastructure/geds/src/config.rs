//! The table `[geds]` of `cloudskin.toml`.
//!
//! Secrets are better given in the environment: `CLOUDSKIN_GEDS__S3_SECRET_KEY`.

use crate::{Error, Persist, Result, S3Options, Secret};
use base::unit::Bytes;
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How much of the disk the local tier may use.
    pub limit: Bytes,
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
