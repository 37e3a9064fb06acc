//! Which installation a command is about, and how to reach its hub.
//!
//! In this order: `--data`; `CLOUDSKIN_HUB` with `CLOUDSKIN_TOKEN`; `CLOUDSKIN_DATA`; the folder in the user's home. A folder tells
//! of its hub in `up.json` (all of `cloudskin up`) or `hub/ready.json` (a hub alone).

use crate::{args::Cli, client::Client, failure::fail};
use anyhow::Context;
use base::Kind;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, env, path::{Path, PathBuf}};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Folder of the installation.
    pub data: PathBuf,
    /// Whether the command line chose it.
    pub named: bool,
    /// Address and token from the environment, if it names a hub.
    hub: Option<(String, Option<String>)>,
}

/// `up.json`: what `cloudskin up` runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    pub http: String,
    pub grpc: String,
    pub token_file: PathBuf,
    /// Controller's address of the edge's stream server.
    #[serde(default)]
    pub streams: Option<String>,
    /// Process ids by name: up, hub, edge, cloud, streams.
    pub pids: BTreeMap<String, u32>,
}

/// `hub/ready.json`: where a hub listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    pub pid: u32,
    pub http: String,
    pub grpc: String,
}

/// `ready.json` in the folder of a stream server: where it listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamsReady {
    pub pid: u32,
    pub controller: String,
    pub segments: String,
    pub http: Option<String>,
    /// The log's number, as `--restore` takes it.
    #[serde(default)]
    pub log: String,
}

impl Place {
    pub fn of(cli: &Cli) -> Place {
        Place::choose(cli.data.clone(), |name| env::var_os(name).filter(|v| !v.is_empty()).map(|v| v.to_string_lossy().into_owned()))
    }

    fn choose(data: Option<PathBuf>, var: impl Fn(&str) -> Option<String>) -> Place {
        let hub = if data.is_some() { None } else { var("CLOUDSKIN_HUB").map(|hub| (hub, var("CLOUDSKIN_TOKEN"))) };
        let named = data.is_some();
        let chosen = data.or_else(|| var("CLOUDSKIN_DATA").map(PathBuf::from));
        let home = || Path::new(&var("HOME").unwrap_or_else(|| ".".into())).join(".local/share/cloudskin");
        Place { data: chosen.unwrap_or_else(home), named, hub }
    }

    pub fn folder(data: PathBuf) -> Place {
        Place { data, named: true, hub: None }
    }

    pub fn running(&self) -> anyhow::Result<Option<Running>> {
        read(&self.data.join("up.json"))
    }

    pub fn client(&self) -> anyhow::Result<Client> {
        if let Some((hub, token)) = &self.hub {
            let token = token
                .as_deref()
                .ok_or_else(|| fail(Kind::Unauthenticated, "CLOUDSKIN_HUB is set but CLOUDSKIN_TOKEN is not; the hub's token is in <data>/hub/token on its machine"))?;
            return Client::new(hub, token);
        }
        let (http, token_file) = if let Some(up) = self.running()? {
            (up.http, up.token_file)
        } else if let Some(hub) = read::<Ready>(&self.data.join("hub/ready.json"))? {
            (hub.http, self.data.join("hub/token"))
        } else {
            return Err(fail(
                Kind::Unavailable,
                format!("no platform has been started in {}; start it with `cloudskin up`, or name another with --data or CLOUDSKIN_HUB and CLOUDSKIN_TOKEN", self.data.display()),
            ));
        };
        let token = std::fs::read_to_string(&token_file).with_context(|| format!("read the hub's token {}", token_file.display()))?;
        Client::new(&http, token.trim())
    }
}

/// A JSON file, if it is there.
pub fn read<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let parsed = serde_json::from_slice(&bytes);
            parsed.map(Some).map_err(|e| fail(Kind::DataLoss, format!("{} is damaged ({e}); remove it and start again", path.display())))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(data: Option<&str>, vars: &[(&str, &str)], folder: &str, hub: Option<&str>) {
        let place = Place::choose(data.map(PathBuf::from), |n| vars.iter().find(|v| v.0 == n).map(|v| v.1.to_string()));
        assert_eq!(place.data, Path::new(folder));
        assert_eq!(place.hub.map(|h| h.0).as_deref(), hub);
    }

    #[test]
    fn what_is_typed_comes_before_what_is_set() {
        let vars = [("HOME", "/h"), ("CLOUDSKIN_DATA", "/d"), ("CLOUDSKIN_HUB", "h:1")];
        check(Some("/x"), &vars, "/x", None);
        check(None, &vars, "/d", Some("h:1"));
        check(None, &vars[..2], "/d", None);
        check(None, &vars[..1], "/h/.local/share/cloudskin", None);
    }
}
