//! Who may do what: users with passwords at the controller's port, tokens that the controller signs at the segment store's.
//!
//! ```text
//!   name, password ─▶ controller ─ looks into the users' file ─▶ delegation token: stream, what is allowed, until when
//!                                                                  └─▶ segment store: checks signature, stream and time
//! ```
//!
//! Resources have Pravega's names (`prn::/scope:road/stream:camera`), so that a site that outgrows this server keeps its rules. A rule names a
//! resource, or a prefix that ends in `*`, and what is allowed there; of the rules that fit, the most generous one counts. Tokens are signed with a
//! key beside the log, so they outlive a restart. Without a users' file everyone may do everything, and tokens are empty.
//!
//! Hashing a password takes a processor for some tens of milliseconds, so one is hashed at a time, one that was right is remembered, and of one address few wait at a time: who tries wrong
//! ones in a loop is told to come back later, and holds up everybody else's first login by those few.
//!
//! It does not encrypt: a password on a port without TLS can be read on the way.

use crate::{Error, Result, lock, plan, watermark};
use base64::{Engine, engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD}};
use ring::{hmac, pbkdf2};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{Semaphore, watch};

/// What a request wants to do with a resource; who may update may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    Read,
    Update,
}

impl Want {
    fn name(self) -> &'static str {
        match self {
            Want::Read => "READ",
            Want::Update => "READ_UPDATE",
        }
    }

    fn parse(text: &str) -> Option<Want> {
        [Want::Read, Want::Update].into_iter().find(|w| w.name() == text)
    }
}

impl std::fmt::Display for Want {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a token was refused because it is too old; the client then gets a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub why: String,
    pub expired: bool,
}

/// Why someone is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLogin {
    /// Name or password is not right, or not there.
    Wrong(String),
    /// Too many passwords wait to be looked at; the same one may be right later.
    Busy(String),
}

/// `prn::/scope:…/stream:…`, and for a reader group's own stream the group.
pub fn stream(scope: &str, stream: &str) -> String {
    match stream.strip_prefix("_RG") {
        Some(group) => group_of(scope, group),
        // Who may read a stream may read its watermarks.
        None => format!("prn::/scope:{scope}/stream:{}", watermark::marked(stream).unwrap_or(stream)),
    }
}

pub fn scope(scope: &str) -> String {
    format!("prn::/scope:{scope}")
}

/// Everything; for what is about scopes.
pub fn root() -> String {
    "prn::/".into()
}

pub fn group_of(scope: &str, group: &str) -> String {
    format!("prn::/scope:{scope}/reader-group:{group}")
}

pub fn table(scope: &str, table: &str) -> String {
    format!("prn::/scope:{scope}/key-value-table:{table}")
}

/// What may be done where: a resource, or a prefix that ends in `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub resource: String,
    pub want: Want,
}

impl std::str::FromStr for Rule {
    type Err = String;
    fn from_str(text: &str) -> Result<Rule, String> {
        let told = || format!("{text:?} is not a rule: write RESOURCE,READ or RESOURCE,READ_UPDATE, such as prn::/scope:road/*,READ");
        let (resource, want) = text.trim().rsplit_once(',').ok_or_else(told)?;
        let good = resource.starts_with("prn::") && !resource.contains([';', '\n', ' ']);
        Ok(Rule { resource: good.then(|| resource.to_string()).ok_or_else(told)?, want: Want::parse(want.trim()).ok_or_else(told)? })
    }
}

impl Rule {
    fn covers(&self, resource: &str) -> bool {
        match self.resource.strip_suffix('*') {
            Some(prefix) => resource.starts_with(prefix),
            None => resource == self.resource,
        }
    }
}

/// Rounds of hashing for a new password: some tens of milliseconds.
const ROUNDS: NonZeroU32 = NonZeroU32::new(100_000).expect("not zero");
/// More rounds than this are not believed: a line could keep a core busy for minutes.
const ROUNDS_MAX: u32 = 10_000_000;
const SCHEME: &str = "pbkdf2-sha256";
/// Names and passwords that were right lately are not hashed again; beyond this many all are forgotten.
const KNOWN_MAX: usize = 10_000;
/// Different names and passwords that wait to be hashed, of one address and of all.
const LOGINS_MAX_PEER: usize = 8;
const LOGINS_MAX: usize = 256;

/// A name and password that are being hashed, or wait for that. Who sends the same ones waits for the same answer.
struct Login {
    peer: IpAddr,
    right: watch::Receiver<Option<bool>>,
}

/// Whose logins are counted together: an IPv6 network gives each of its machines as many addresses as it likes.
fn network(peer: Option<IpAddr>) -> IpAddr {
    match peer.map(|p| p.to_canonical()) {
        None => Ipv4Addr::UNSPECIFIED.into(),
        Some(IpAddr::V6(v6)) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        Some(v4) => v4,
    }
}

#[derive(Clone, Debug)]
struct User {
    rounds: NonZeroU32,
    salt: Vec<u8>,
    hash: Vec<u8>,
    rules: Vec<Rule>,
}

/// The line of a users' file for this user.
pub fn line(name: &str, password: &str, rules: &[Rule]) -> Result<String> {
    if name.is_empty() || name.contains([':', '\n', '#']) {
        return Err(Error::Invalid(format!("user name {name:?} is empty or has ':', '#' or a line's end in it")));
    }
    let salt: [u8; 16] = rand::random();
    let mut hash = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, &salt, password.as_bytes(), &mut hash);
    let rules: Vec<String> = rules.iter().map(|r| format!("{},{}", r.resource, r.want.name())).collect();
    Ok(format!("{name}:{SCHEME}:{ROUNDS}:{}:{}:{}", STANDARD.encode(salt), STANDARD.encode(hash), rules.join(";")))
}

fn parse(text: &str) -> Result<(String, User), String> {
    let fields: Vec<&str> = text.splitn(6, ':').collect();
    let &[name, scheme, rounds, salt, hash, rules] = &fields[..] else { return Err("it has not six fields with ':' between them".into()) };
    if scheme != SCHEME {
        return Err(format!("its password is hashed with {scheme:?}, and only {SCHEME} is known"));
    }
    let rounds = rounds.parse().ok().filter(|r: &NonZeroU32| r.get() <= ROUNDS_MAX).ok_or(format!("{rounds:?} is not a number of rounds"))?;
    let bytes = |what: &str, text: &str| STANDARD.decode(text).map_err(|e| format!("its {what}: {e}"));
    let rules = rules.split(';').filter(|r| !r.is_empty()).map(str::parse).collect::<Result<_, String>>()?;
    Ok((name.into(), User { rounds, salt: bytes("salt", salt)?, hash: bytes("hash", hash)?, rules }))
}

/// Who is let in; cheap to clone.
#[derive(Clone, Default)]
pub struct Access(Option<Arc<Inner>>);

struct Inner {
    users: BTreeMap<String, User>,
    key: hmac::Key,
    token_life: Duration,
    /// Marks of names and passwords that were right, under a key of this process's own.
    known: Mutex<HashMap<Vec<u8>, String>>,
    known_key: hmac::Key,
    /// By their marks.
    logins: Mutex<HashMap<Vec<u8>, Login>>,
    /// One password is hashed at a time, so guessing takes one core and no more.
    hashing: Semaphore,
}

impl Inner {
    /// Whether the password is right. Goes on when who asked has gone, so that asking and going is no way to have more of them hashed.
    async fn verify(self: Arc<Inner>, mark: Vec<u8>, name: String, password: String, tell: watch::Sender<Option<bool>>) {
        // An unknown name takes as long as a known one.
        let user = self.users.get(&name).cloned();
        let hash = move || match user {
            Some(u) => pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, u.rounds, &u.salt, password.as_bytes(), &u.hash).is_ok(),
            None => {
                pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, b"nobody", password.as_bytes(), &mut [0; 32]);
                false
            }
        };
        let right = match self.hashing.acquire().await {
            Ok(_one) => tokio::task::spawn_blocking(hash).await.unwrap_or(false),
            Err(_) => false,
        };
        if right {
            let mut known = lock(&self.known);
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            known.insert(mark.clone(), name);
        }
        lock(&self.logins).remove(&mark);
        let _ = tell.send(Some(right));
    }
}

impl Access {
    /// Everyone may do everything.
    pub fn open() -> Access {
        Access(None)
    }

    /// Reads a users' file, and the key of tokens from `key`, which is made when it is not there.
    pub fn load(users: &Path, key: &Path, token_life: Duration) -> Result<Access> {
        let (file, text) = (users, std::fs::read_to_string(users).map_err(Error::file("read", users))?);
        let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
        let one = |(n, l): (usize, &str)| parse(l).map_err(|e| Error::Invalid(format!("line {} of {}: {e}", n + 1, users.display())));
        let users: BTreeMap<_, _> = lines.map(one).collect::<Result<_>>()?;
        if users.is_empty() {
            return Err(Error::Invalid(format!("{} has no user, so nobody could do anything: `cloudskin stream user {} NAME --allow RULE` adds one", file.display(), file.display())));
        }
        let secret = match std::fs::read(key) {
            Ok(secret) if secret.len() == 64 => secret,
            Ok(secret) => return Err(Error::Invalid(format!("{} has {} bytes instead of 64: remove it, and tokens that were given become worthless", key.display(), secret.len()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let secret: Vec<u8> = [rand::random::<[u8; 32]>(), rand::random()].concat();
                let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(key).map_err(Error::file("make", key))?;
                file.write_all(&secret).and_then(|()| file.sync_all()).map_err(Error::file("write", key))?;
                secret
            }
            Err(e) => return Err(Error::file("read", key)(e)),
        };
        Ok(Access(Some(Arc::new(Inner {
            users,
            key: hmac::Key::new(hmac::HMAC_SHA512, &secret),
            token_life,
            known: Mutex::default(),
            known_key: hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()),
            logins: Mutex::default(),
            hashing: Semaphore::new(1),
        }))))
    }

    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// The user that an `Authorization` header names, if the password is right. `None` where everyone may do everything. `peer` is from where the header comes.
    pub async fn user(&self, header: Option<&str>, peer: Option<IpAddr>) -> Result<Option<String>, NoLogin> {
        let Some(inner) = &self.0 else { return Ok(None) };
        let wrong = |why: &str| NoLogin::Wrong(why.into());
        let header = header.ok_or_else(|| wrong("this server asks for a user and a password: `cloudskin stream` takes --user NAME, and the password from CLOUDSKIN_STREAM_PASSWORD"))?;
        let given = header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic")).map(|(_, rest)| rest.trim());
        let given = given.and_then(|g| STANDARD.decode(g).ok()).and_then(|g| String::from_utf8(g).ok());
        let given = given.ok_or_else(|| wrong("the authorization is not of the form `Basic …`"))?;
        let (name, password) = given.split_once(':').ok_or_else(|| wrong("the authorization has no password"))?;
        let mark = hmac::sign(&inner.known_key, given.as_bytes()).as_ref().to_vec();
        if let Some(name) = lock(&inner.known).get(&mark) {
            return Ok(Some(name.clone()));
        }
        let mut right = {
            let (peer, mut logins) = (network(peer), lock(&inner.logins));
            match logins.get(&mark) {
                Some(login) => login.right.clone(),
                None => {
                    let of_peer = logins.values().filter(|l| l.peer == peer).count();
                    if of_peer >= LOGINS_MAX_PEER || logins.len() >= LOGINS_MAX {
                        return Err(NoLogin::Busy(format!("{of_peer} other logins from {peer}, {} in all, wait for their passwords to be looked at: try again when they are through", logins.len())));
                    }
                    let (tell, right) = watch::channel(None);
                    logins.insert(mark.clone(), Login { peer, right: right.clone() });
                    tokio::spawn(inner.clone().verify(mark, name.into(), password.into(), tell));
                    right
                }
            }
        };
        match right.wait_for(Option::is_some).await.is_ok_and(|right| *right == Some(true)) {
            true => Ok(Some(name.into())),
            false => Err(wrong(&format!("user {name:?} is not known, or has another password"))),
        }
    }

    /// What a user is told who may not do this.
    pub(crate) fn refusal(user: Option<&str>, resource: &str, want: Want) -> String {
        format!("user {:?} may not {} {resource}: that needs {want} there", user.unwrap_or_default(), if want == Want::Read { "read" } else { "change" })
    }

    /// The most that a user may do with a resource. `None` as user is everyone where everyone may do everything.
    pub fn most(&self, user: Option<&str>, resource: &str) -> Option<Want> {
        let Some(inner) = &self.0 else { return Some(Want::Update) };
        let rules = &inner.users.get(user?)?.rules;
        rules.iter().filter(|r| r.covers(resource)).map(|r| r.want).max()
    }

    /// A token for a stream or table, with what the user may do there and no more than `want`; empty where everyone may do everything, or this one nothing.
    pub fn token(&self, user: Option<&str>, resources: &[String], want: Want, now_ms: u64) -> String {
        let Some(inner) = &self.0 else { return String::new() };
        let allowed: Vec<_> = resources.iter().filter_map(|r| Some((r, self.most(user, r)?.min(want)))).collect();
        if allowed.is_empty() {
            return String::new();
        }
        let now = now_ms / 1000;
        let mut claims: Map<String, Value> = Map::new();
        claims.insert("sub".into(), json!(user));
        claims.insert("aud".into(), json!("segmentstore"));
        claims.insert("iat".into(), json!(now));
        claims.insert("exp".into(), json!(now + inner.token_life.as_secs()));
        claims.extend(allowed.into_iter().map(|(resource, may)| (resource.clone(), json!(may.name()))));
        let mut claims = Value::Object(claims).to_string();
        // Some clients read the claims with a decoder that wants whole groups of three bytes.
        while claims.len() % 3 != 0 {
            claims.push(' ');
        }
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS512","typ":"JWT"}"#), URL_SAFE_NO_PAD.encode(claims));
        let signature = hmac::sign(&inner.key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Whether the holder of a token may do this with a segment, and until when (ms since 1970).
    pub fn segment(&self, token: &str, segment: &str, want: Want, now_ms: u64) -> Result<u64, Refused> {
        let Some(inner) = &self.0 else { return Ok(u64::MAX) };
        let no = |why: &str| Refused { why: format!("{segment}: {why}"), expired: false };
        let (signed, signature) = token.rsplit_once('.').ok_or_else(|| no("a delegation token is needed"))?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| no("the token's signature can't be read"))?;
        hmac::verify(&inner.key, signed.as_bytes(), &signature).map_err(|_| no("the token was not signed by this server"))?;
        let claims = signed.split_once('.').and_then(|(_, c)| URL_SAFE_NO_PAD.decode(c).ok());
        let claims: Map<String, Value> = claims.and_then(|c| serde_json::from_slice(&c).ok()).ok_or_else(|| no("the token's claims can't be read"))?;
        let until_ms = claims.get("exp").and_then(Value::as_u64).unwrap_or(0).saturating_mul(1000);
        if until_ms <= now_ms {
            return Err(Refused { why: format!("{segment}: the token has expired"), expired: true });
        }
        let may = |resource: &str| claims.get(resource).and_then(Value::as_str).and_then(Want::parse).is_some_and(|w| w >= want);
        match resources(segment).iter().any(|r| may(r)) {
            true => Ok(until_ms),
            false => Err(no(&format!("the token does not allow {}", want.name()))),
        }
    }
}

/// What a segment may belong to, by its name: `scope/stream/…`, or a part of a table, which has a stream's form. Pravega's Rust client makes tables by itself, such as those of its reader groups, with
/// tokens for a stream of that name; of those that the controller has made it gives tokens for the table only.
fn resources(segment: &str) -> Vec<String> {
    let mut parts = segment.split('/');
    let (Some(scope), Some(name)) = (parts.next(), parts.next()) else { return Vec::new() };
    let mut all = vec![stream(scope, name)];
    all.extend(name.strip_suffix(plan::TABLE).map(|t| table(scope, t)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(users: &[(&str, &str, &[&str])]) -> (Access, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let rules = |all: &[&str]| all.iter().map(|r| r.parse().unwrap()).collect::<Vec<Rule>>();
        let lines: Vec<String> = users.iter().map(|(n, p, r)| line(n, p, &rules(r)).unwrap()).collect();
        std::fs::write(folder.path().join("users"), format!("# who may do what\n\n{}\n", lines.join("\n"))).unwrap();
        (Access::load(&folder.path().join("users"), &folder.path().join("key"), Duration::from_secs(60)).unwrap(), folder)
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[tokio::test]
    async fn passwords_open_what_the_rules_say() {
        let (access, _folder) = access(&[("ada", "se:cret", &["prn::/scope:road/*,READ_UPDATE", "prn::/,READ"]), ("bob", "x", &[])]);
        let user = async |text: &str| access.user(Some(&basic(text)), None).await;
        for _ in 0..2 {
            assert_eq!(user("ada:se:cret").await, Ok(Some("ada".into())));
        }
        for wrong in ["ada:secret", "ada:", "eve:se:cret", "bob:se:cret", "ada"] {
            assert!(user(wrong).await.is_err(), "{wrong}");
        }
        assert!(access.user(None, None).await.is_err() && access.user(Some("Bearer x"), None).await.is_err());
        let most = |user, resource: &str| access.most(Some(user), resource);
        assert_eq!(most("ada", &stream("road", "camera")), Some(Want::Update));
        assert_eq!(most("ada", &stream("roads", "camera")), None, "another scope that begins the same");
        assert_eq!((most("ada", &root()), most("ada", &scope("road")), most("bob", &root())), (Some(Want::Read), None, None));
        assert_eq!(access.most(None, &root()), None);
    }

    #[tokio::test]
    async fn who_tries_passwords_in_a_loop_holds_up_nobody_else_for_long() {
        let (access, _folder) = access(&[("ada", "secret", &[]), ("bob", "word", &[])]);
        let from = async |text: String, peer: &str| access.user(Some(&basic(&text)), Some(peer.parse().unwrap())).await;
        let (bad, good) = (["10.0.0.7", "2001:db8::1"], ["10.0.0.8", "2001:db8:0:1::1"]);
        let guesses = (0..100).map(|n| from(format!("ada:{n}"), bad[n % 2]));
        // They come later, and are through before most of the guesses would be. Two that are the same are one.
        let logins = async { futures::join!(from("ada:secret".into(), good[0]), from("bob:word".into(), good[1]), from("bob:word".into(), good[0])) };
        let (guessed, let_in) = futures::join!(futures::future::join_all(guesses), logins);
        assert_eq!(let_in, (Ok(Some("ada".into())), Ok(Some("bob".into())), Ok(Some("bob".into()))));
        let busy = guessed.iter().filter(|g| matches!(g, Err(NoLogin::Busy(why)) if why.contains("try again"))).count();
        let wrong = guessed.iter().filter(|g| matches!(g, Err(NoLogin::Wrong(_)))).count();
        assert_eq!((busy, wrong), (100 - 2 * LOGINS_MAX_PEER, 2 * LOGINS_MAX_PEER));
        // One network is one peer, and after the loop its right ones are let in.
        let neighbours = futures::future::join_all((0..20).map(|n| from(format!("ada:{n}"), ["2001:db8::2", "2001:db8::3"][n % 2]))).await;
        assert_eq!(neighbours.iter().filter(|g| matches!(g, Err(NoLogin::Wrong(_)))).count(), LOGINS_MAX_PEER);
        assert_eq!(from("ada:secret".into(), bad[0]).await, Ok(Some("ada".into())));
    }

    #[test]
    fn a_token_is_for_one_stream_for_a_time() {
        let (access, folder) = access(&[("ada", "x", &["prn::/scope:a/stream:s,READ_UPDATE", "prn::/scope:a/stream:t,READ", "prn::/scope:a/key-value-table:s,READ"])]);
        let now = 1_000_000;
        let token = access.token(Some("ada"), &[stream("a", "s")], Want::Update, now);
        let may = |token: &str, segment: &str, want, at| access.segment(token, segment, want, at).map_err(|r| r.expired);
        assert_eq!(may(&token, "a/s/0.#epoch.0", Want::Update, now), Ok(1_060_000));
        assert_eq!(may(&token, "a/s/0.#epoch.0#transaction.1", Want::Read, now), Ok(1_060_000));
        assert_eq!(may(&token, "a/s/0.#epoch.0", Want::Read, now + 60_000), Err(true));
        assert_eq!(may(&token, "a/t/0.#epoch.0", Want::Read, now), Err(false));
        assert_eq!(may("", "a/s/0.#epoch.0", Want::Read, now), Err(false));
        // A stream and a table of one name are two things.
        assert_eq!(may(&token, "a/s_kvtable/0.#epoch.0", Want::Read, now), Err(false));
        let both = access.token(Some("ada"), &[stream("a", "s"), table("a", "s")], Want::Update, now);
        assert_eq!(may(&both, "a/s_kvtable/0.#epoch.0", Want::Read, now), Ok(1_060_000));
        assert_eq!(may(&both, "a/s_kvtable/0.#epoch.0", Want::Update, now), Err(false));
        assert_eq!(may(&both, "a/s/0.#epoch.0", Want::Update, now), Ok(1_060_000));
        // Reading does not become writing by asking, and not by changing a letter.
        let read = access.token(Some("ada"), &[stream("a", "t")], Want::Update, now);
        assert_eq!(may(&read, "a/t/0.#epoch.0", Want::Read, now), Ok(1_060_000));
        assert_eq!(may(&read, "a/t/0.#epoch.0", Want::Update, now), Err(false));
        let mut parts: Vec<String> = read.split('.').map(str::to_string).collect();
        parts[1] = URL_SAFE_NO_PAD.encode(String::from_utf8(URL_SAFE_NO_PAD.decode(&parts[1]).unwrap()).unwrap().replace("\"READ\"", "\"READ_UPDATE\""));
        assert_eq!(may(&parts.join("."), "a/t/0.#epoch.0", Want::Update, now), Err(false));
        // What some clients do to find the expiry.
        assert!(String::from_utf8(STANDARD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap().contains("\"exp\":1060"));
        // The key outlives a restart, and another key is another server.
        let again = Access::load(&folder.path().join("users"), &folder.path().join("key"), Duration::from_secs(60)).unwrap();
        assert!(again.segment(&token, "a/s/0.#epoch.0", Want::Update, now).is_ok());
        let other = Access::load(&folder.path().join("users"), &folder.path().join("key-2"), Duration::from_secs(60)).unwrap();
        assert!(other.segment(&token, "a/s/0.#epoch.0", Want::Update, now).is_err());
        assert_eq!(access.token(Some("eve"), &[stream("a", "s")], Want::Read, now), "");
    }

    #[test]
    fn lines_that_make_no_sense_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (users, key) = (folder.path().join("users"), folder.path().join("key"));
        for (text, told) in [
            ("ada", "six fields"),
            ("ada:md5:1:AAAA:AAAA:", "md5"),
            ("ada:pbkdf2-sha256:0:AAAA:AAAA:", "rounds"),
            ("ada:pbkdf2-sha256:1:?:AAAA:", "salt"),
            ("ada:pbkdf2-sha256:1:AAAA:AAAA:road,READ", "road,READ"),
            ("ada:pbkdf2-sha256:1:AAAA:AAAA:prn::/,WRITE", "prn::/,WRITE"),
        ] {
            std::fs::write(&users, format!("# x\n{text}\n")).unwrap();
            let e = Access::load(&users, &key, Duration::from_secs(1)).err().unwrap().to_string();
            assert!(e.contains("line 2") && e.contains(told), "{text}: {e}");
        }
        assert!(line("a:b", "x", &[]).is_err());
    }
}
