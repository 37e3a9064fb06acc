//! How a camera is told who asks: HTTP's `Basic` and `Digest` (RFC 7616, and 2617 before it), as RTSP has taken them over.
//!
//! Nothing is said before the camera asks. Of what it asks for, that is answered which gives away least: a digest with SHA-256, one with MD5, the password itself.
//! A camera that is to prove who *it* is does not exist here: RTSP runs in the clear, and what a digest hides is the password alone.

use base64::{Engine, engine::general_purpose::STANDARD};
use md5::{Digest, Md5};

/// What a camera has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Challenge {
    scheme: Scheme,
    realm: String,
    nonce: String,
    opaque: Option<String>,
    /// The camera wants requests counted.
    counted: bool,
    /// As the camera has called it, if it has.
    algorithm: Option<String>,
    /// The secret is made anew for each nonce.
    session: bool,
    /// Only the nonce was too old.
    stale: bool,
}

/// Best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scheme {
    Basic,
    Md5,
    Sha256,
}

/// A user and a password, and what is made of them.
pub struct Login {
    user: String,
    password: String,
    challenge: Option<Challenge>,
    /// Requests with this nonce so far.
    count: u32,
}

impl Login {
    /// From `USER:PASSWORD`.
    pub fn new(user: &str) -> Login {
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        Login { user: user.into(), password: password.into(), challenge: None, count: 0 }
    }

    /// Hears what the camera asks for, a field's value each. Whether it is worth another try: not when this user has been refused, or nothing is understood.
    pub fn asked<'a>(&mut self, fields: impl IntoIterator<Item = &'a str>) -> bool {
        let Some(best) = fields.into_iter().filter_map(challenge).max_by_key(|c| c.scheme) else { return false };
        let again = self.challenge.is_none() || best.stale;
        (self.challenge, self.count) = (Some(best), 0);
        again
    }

    /// What a request says of its sender, once that was asked for.
    pub fn header(&mut self, method: &str, url: &str) -> Option<String> {
        self.count += 1;
        let own = format!("{:016x}", rand::random::<u64>());
        Some(self.challenge.as_ref()?.answer(&self.user, &self.password, method, url, self.count, &own))
    }
}

/// One challenge, if it is understood.
fn challenge(field: &str) -> Option<Challenge> {
    let (scheme, rest) = field.trim().split_once([' ', '\t']).unwrap_or((field.trim(), ""));
    let fields = parameters(rest);
    let get = |name: &str| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
    let algorithm = get("algorithm");
    let (hash, session) = match algorithm.as_deref().unwrap_or("MD5").to_ascii_uppercase() {
        name if name.ends_with("-SESS") => (name.trim_end_matches("-SESS").to_string(), true),
        name => (name, false),
    };
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "basic" => Scheme::Basic,
        "digest" if hash == "MD5" => Scheme::Md5,
        "digest" if hash == "SHA-256" => Scheme::Sha256,
        _ => return None,
    };
    // One that wants whole messages summed is not served.
    let ways = get("qop");
    let counted = ways.as_deref().is_some_and(|w| w.split(',').any(|w| w.trim().eq_ignore_ascii_case("auth")));
    if ways.is_some() && !counted {
        return None;
    }
    let stale = get("stale").is_some_and(|s| s.eq_ignore_ascii_case("true"));
    Some(Challenge { scheme, realm: get("realm").unwrap_or_default(), nonce: get("nonce").unwrap_or_default(), opaque: get("opaque"), counted, algorithm, session, stale })
}

/// `name=value, name="quoted, value"`.
fn parameters(text: &str) -> Vec<(String, String)> {
    let (mut out, mut chars) = (Vec::new(), text.chars().peekable());
    loop {
        let name: String = std::iter::from_fn(|| chars.next_if(|c| *c != '=')).collect();
        if chars.next().is_none() {
            return out;
        }
        let mut value = String::new();
        if chars.next_if_eq(&'"').is_some() {
            while let Some(c) = chars.next().filter(|c| *c != '"') {
                value.extend(if c == '\\' { chars.next() } else { Some(c) });
            }
            while chars.next_if(|c| *c != ',').is_some() {}
        } else {
            value.extend(std::iter::from_fn(|| chars.next_if(|c| *c != ',')));
        }
        chars.next();
        out.push((name.trim().to_string(), value.trim().to_string()));
    }
}

impl Challenge {
    fn hash(&self, text: &str) -> String {
        let sum = match self.scheme {
            Scheme::Sha256 => ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref().to_vec(),
            Scheme::Md5 | Scheme::Basic => Md5::digest(text.as_bytes()).to_vec(),
        };
        sum.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn answer(&self, user: &str, password: &str, method: &str, url: &str, count: u32, own: &str) -> String {
        let Challenge { realm, nonce, .. } = self;
        if self.scheme == Scheme::Basic {
            return format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        }
        let mut secret = self.hash(&format!("{user}:{realm}:{password}"));
        if self.session {
            secret = self.hash(&format!("{secret}:{nonce}:{own}"));
        }
        let request = self.hash(&format!("{method}:{url}"));
        let response = match self.counted {
            true => self.hash(&format!("{secret}:{nonce}:{count:08x}:{own}:auth:{request}")),
            false => self.hash(&format!("{secret}:{nonce}:{request}")),
        };
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let mut out = format!("Digest username=\"{}\", realm=\"{}\", nonce=\"{}\", uri=\"{url}\", response=\"{response}\"", quoted(user), quoted(realm), quoted(nonce));
        if let Some(algorithm) = &self.algorithm {
            out += &format!(", algorithm={algorithm}");
        }
        if self.counted {
            out += &format!(", qop=auth, nc={count:08x}");
        }
        if self.counted || self.session {
            out += &format!(", cnonce=\"{own}\"");
        }
        if let Some(opaque) = &self.opaque {
            out += &format!(", opaque=\"{}\"", quoted(opaque));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is answered to these challenges of the examples in both standards.
    fn check(fields: &[&str], user: &str, own: &str, expected: &str) {
        let (user, password) = user.split_once(':').unwrap();
        let best = fields.iter().filter_map(|f| challenge(f)).max_by_key(|c| c.scheme).unwrap();
        let answer = best.answer(user, password, "GET", "/dir/index.html", 1, own);
        assert!(answer.contains(expected), "{answer}");
    }

    #[test]
    fn examples_of_the_standards() {
        let old = r#"Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41""#;
        check(&[old], "Mufasa:Circle Of Life", "0a4f113b", "response=\"6629fae49393a05397450978507c4ef1\"");
        check(&[old], "Mufasa:Circle Of Life", "0a4f113b", "opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"");
        let of = |algorithm: &str| format!(r#"Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS""#);
        let own = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        check(&[&of("MD5")], "Mufasa:Circle of Life", own, "response=\"8ca523f5e9506fed4657c9700eebdbec\"");
        // The better one is taken, wherever it stands.
        check(&[&of("SHA-256"), &of("MD5"), "Basic realm=x"], "Mufasa:Circle of Life", own, "response=\"753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1\"");
        check(&["Basic realm=\"a, b\""], "ada:secret", own, "Basic YWRhOnNlY3JldA==");
        assert!(challenge("Digest realm=x, nonce=y, algorithm=SHA-512-256").is_none() && challenge("Digest realm=x, nonce=y, qop=auth-int").is_none());
    }

    #[test]
    fn nothing_is_said_before_it_is_asked_and_a_refusal_is_not_asked_again() {
        let mut login = Login::new("ada:sec:ret");
        assert_eq!(login.header("DESCRIBE", "rtsp://cam/"), None);
        assert!(!login.asked(["Bearer x"]));
        assert!(login.asked([r#"Digest realm="a \"b\", c", nonce="1""#]));
        assert!(login.header("DESCRIBE", "rtsp://cam/").unwrap().contains(r#"realm="a \"b\", c", nonce="1""#));
        assert!(!login.asked([r#"Digest realm="r", nonce="2""#]), "refused");
        assert!(login.asked([r#"Digest realm="r", nonce="3", stale=TRUE"#]), "only too old");
    }
}
