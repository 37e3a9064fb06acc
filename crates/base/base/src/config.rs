//! `cloudskin.toml`: a table per crate, unknown keys refused by the tables' own types.
//!
//! `CLOUDSKIN_<CRATE>__<KEY>` in the environment overrides a key; the value is read as TOML and, if that fails, as a string.

use serde::de::DeserializeOwned;
use std::{ffi::OsString, path::Path};

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not valid: {message}")]
    Parse { path: String, message: String },
}

/// Reads the file if there is one and applies the environment.
///
/// `path: None` means the defaults and the environment only; `env` is [`std::env::vars_os`], in which others may keep what is no text.
pub fn load<T: DeserializeOwned>(
    path: Option<&Path>,
    env: impl Iterator<Item = (OsString, OsString)>,
) -> Result<T, Error> {
    let name = path.map_or("the environment".to_string(), |p| p.display().to_string());
    let mut table: toml::Table = match path {
        None => toml::Table::new(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: name.clone(), source })?
            .parse()
            .map_err(|e: toml::de::Error| Error::Parse { path: name.clone(), message: e.to_string() })?,
    };
    for (key, value) in env {
        let Some((section, key)) = key.to_str().and_then(|k| k.strip_prefix("CLOUDSKIN_")?.split_once("__")) else {
            continue;
        };
        let text = value.to_str().ok_or_else(|| Error::Parse {
            path: format!("CLOUDSKIN_{section}__{key} in the environment"),
            message: format!("{value:?} is not UTF-8"),
        });
        let value = text?.to_string();
        let value = format!("v = {value}")
            .parse::<toml::Table>()
            .ok()
            .and_then(|mut t| t.remove("v"))
            .unwrap_or(toml::Value::String(value));
        let section = table
            .entry(section.to_ascii_lowercase())
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let toml::Value::Table(section) = section {
            section.insert(key.to_ascii_lowercase(), value);
        }
    }
    toml::Value::Table(table)
        .try_into()
        .map_err(|e: toml::de::Error| Error::Parse { path: name, message: e.to_string().trim().into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize, Default)]
    #[serde(default, deny_unknown_fields)]
    struct Geds {
        limit: Option<crate::unit::Bytes>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default, deny_unknown_fields)]
    struct All {
        geds: Geds,
    }

    #[test]
    fn environment_overrides_and_unknown_keys_are_named() {
        let env = |k: &str, v: &str| vec![(k.into(), v.into())].into_iter();
        let all: All = load(None, env("CLOUDSKIN_GEDS__LIMIT", "1MiB")).unwrap();
        assert_eq!(all.geds.limit.unwrap().0, 1 << 20);
        let bad = load::<All>(None, env("CLOUDSKIN_GEDS__LIMTI", "1MiB")).err().unwrap();
        assert!(bad.to_string().contains("limti"), "{bad}");
    }

    #[test]
    fn what_is_no_text_is_ours_or_nobodys() {
        use std::os::unix::ffi::OsStringExt;
        let broken = OsString::from_vec(b"1\xffMiB".to_vec());
        let env = |name: OsString| vec![(name, broken.clone()), ("CLOUDSKIN_GEDS__LIMIT".into(), "1MiB".into())].into_iter();
        for others in ["LS_COLORS".into(), broken.clone()] {
            let all: All = load(None, env(others)).unwrap();
            assert_eq!(all.geds.limit.unwrap().0, 1 << 20);
        }
        let bad = load::<All>(None, env("CLOUDSKIN_GEDS__OTHER".into())).err().unwrap().to_string();
        assert!(bad.contains("CLOUDSKIN_GEDS__OTHER") && bad.contains("not UTF-8"), "{bad}");
    }
}
