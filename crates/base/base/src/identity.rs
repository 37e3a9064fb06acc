//! Who is who: the installation's own certificate authority, certificates, and TLS in both directions.
//!
//! The hub makes the authority at its first start. An agent makes its key itself, sends a request with a join token and gets a
//! certificate for its site's name; the key never leaves its folder. Every connection between processes is TLS 1.3 with certificates
//! on both sides, and a dialler asks for the name of the peer that it wants, so that one site can't pose as another.
//!
//! What lies in a store and not in a connection can be signed (`Signer`): whoever has it later knows which process of the installation has made it, whichever way it came.
//!
//! Names: `<site>.site.cloudskin`, `hub.cloudskin`, `user.cloudskin`.

use crate::SiteId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

pub const HUB: &str = "hub.cloudskin";
pub const USER: &str = "user.cloudskin";

/// The name in the certificate of a site's agent.
pub fn site_name(site: &SiteId) -> String {
    format!("{site}.site.cloudskin")
}

/// The site that a certificate's name stands for, if it is an agent's.
pub fn site_of(name: &str) -> Option<SiteId> {
    SiteId::new(name.strip_suffix(".site.cloudskin")?).ok()
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("make certificate for {name}: {message}")]
    Make { name: String, message: String },
    #[error("certificate {name} can't be used: {message}")]
    Use { name: String, message: String },
    #[error("connect to {name} at {address}: {message}")]
    Dial { name: String, address: String, message: String },
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fail = |source| Error::File { action: "write", path: path.into(), source };
    let temp = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)
        .map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)?;
    fs::rename(&temp, path).map_err(fail)
}

/// Makes a folder that only its owner may enter, or shuts one that others may enter: so nobody else reads what lies below, whatever the modes of its
/// files are. Its parents are made as usual.
///
/// # Errors
/// It can't be made, it is another user's, or it is everybody's, as a folder for temporary files is.
pub fn private_folder(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let there = fs::metadata(path)?;
    // SAFETY: geteuid has no arguments and no failure.
    if there.uid() != unsafe { libc::geteuid() } {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it is the user's with number {}", there.uid())));
    }
    let mode = there.permissions().mode();
    if mode & 0o1000 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is everybody's"));
    }
    if mode & 0o077 != 0 { fs::set_permissions(path, fs::Permissions::from_mode(0o700)) } else { Ok(()) }
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::File { action: "read", path: path.into(), source })
}

fn make(name: &str) -> impl Fn(rcgen::Error) -> Error {
    let name = name.to_string();
    move |e| Error::Make { name: name.clone(), message: e.to_string() }
}

/// The installation's certificate authority. Lives in the hub.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

impl Authority {
    /// Loads the authority from a folder, or makes it there.
    pub fn open(folder: &Path) -> Result<Authority, Error> {
        fs::create_dir_all(folder).map_err(|source| Error::File { action: "create", path: folder.into(), source })?;
        let (cert, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        if !key.exists() {
            let pair = KeyPair::generate().map_err(make("ca"))?;
            let mut params = CertificateParams::new(Vec::new()).map_err(make("ca"))?;
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.distinguished_name.push(DnType::CommonName, "CloudSkin installation");
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let made = params.self_signed(&pair).map_err(make("ca"))?;
            write_private(&cert, made.pem().as_bytes())?;
            write_private(&key, pair.serialize_pem().as_bytes())?;
        }
        let ca_pem = read(&cert)?;
        let pair = KeyPair::from_pem(&read(&key)?).map_err(make("ca"))?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, pair).map_err(make("ca"))?;
        Ok(Authority { issuer, ca_pem })
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// SHA-256 of the authority's certificate in hexadecimal: a join token's holder checks the hub with it.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.ca_pem)
    }

    fn params(name: &str) -> Result<CertificateParams, Error> {
        let mut params = CertificateParams::new(vec![name.to_string()]).map_err(make(name))?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Ok(params)
    }

    /// Makes key and certificate for a name.
    pub fn issue(&self, name: &str) -> Result<Identity, Error> {
        let pair = KeyPair::generate().map_err(make(name))?;
        let cert = Self::params(name)?.signed_by(&pair, &self.issuer).map_err(make(name))?;
        Ok(Identity { cert_pem: cert.pem(), key_pem: pair.serialize_pem(), ca_pem: self.ca_pem.clone() })
    }

    /// Signs an agent's request. Only the public key is taken from it; the name is the one that the token allows.
    pub fn sign(&self, csr_pem: &str, name: &str) -> Result<String, Error> {
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem).map_err(make(name))?;
        csr.params = Self::params(name)?;
        Ok(csr.signed_by(&self.issuer).map_err(make(name))?.pem())
    }
}

/// SHA-256 of a PEM certificate's DER form, in hexadecimal.
pub fn fingerprint(pem: &str) -> String {
    match CertificateDer::from_pem_slice(pem.as_bytes()) {
        Ok(der) => Sha256::digest(&der).iter().map(|b| format!("{b:02x}")).collect(),
        Err(_) => String::new(),
    }
}

/// A key and a certificate request for it, made by who will own the key.
pub fn request(name: &str) -> Result<(String, String), Error> {
    let pair = KeyPair::generate().map_err(make(name))?;
    let csr = Authority::params(name)?.serialize_request(&pair).map_err(make(name))?;
    Ok((pair.serialize_pem(), csr.pem().map_err(make(name))?))
}

/// A process's own certificate with its key, and the authority that it trusts.
#[derive(Clone)]
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
    pub ca_pem: String,
}

impl Identity {
    pub fn load(folder: &Path) -> Result<Identity, Error> {
        Ok(Identity {
            cert_pem: read(&folder.join("cert.pem"))?,
            key_pem: read(&folder.join("key.pem"))?,
            ca_pem: read(&folder.join("ca.pem"))?,
        })
    }

    pub fn save(&self, folder: &Path) -> Result<(), Error> {
        fs::create_dir_all(folder).map_err(|source| Error::File { action: "create", path: folder.into(), source })?;
        write_private(&folder.join("ca.pem"), self.ca_pem.as_bytes())?;
        write_private(&folder.join("key.pem"), self.key_pem.as_bytes())?;
        write_private(&folder.join("cert.pem"), self.cert_pem.as_bytes())
    }

    fn used(&self, e: impl ToString) -> Error {
        Error::Use { name: self.name().unwrap_or_else(|_| "?".into()), message: e.to_string() }
    }

    fn parts(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Arc<rustls::RootCertStore>), Error> {
        let cert = CertificateDer::from_pem_slice(self.cert_pem.as_bytes()).map_err(|e| self.used(e))?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| self.used(e))?;
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).map_err(|e| self.used(e))?)
            .map_err(|e| self.used(e))?;
        Ok((vec![cert], key, Arc::new(roots)))
    }

    /// The name in the certificate. Fails when the certificate has expired: better said here than by a peer's alert.
    pub fn check(&self) -> Result<String, Error> {
        let name = self.name()?;
        let der = CertificateDer::from_pem_slice(self.cert_pem.as_bytes()).map_err(|e| self.used(e))?;
        let (_, cert) = x509_parser::parse_x509_certificate(&der).map_err(|e| self.used(e))?;
        if !cert.validity().is_valid() {
            return Err(Error::Use {
                name,
                message: format!(
                    "it is valid from {} to {} only; delete it and join again with a new token",
                    cert.validity().not_before,
                    cert.validity().not_after
                ),
            });
        }
        Ok(name)
    }

    fn name(&self) -> Result<String, Error> {
        let der = CertificateDer::from_pem_slice(self.cert_pem.as_bytes())
            .map_err(|e| Error::Use { name: "?".into(), message: e.to_string() })?;
        name_of(&der).ok_or_else(|| Error::Use { name: "?".into(), message: "it has no name".into() })
    }

    /// Accepts only peers with a certificate of this installation; `alpn` lists the protocols spoken.
    pub fn acceptor(&self, alpn: &[&str]) -> Result<TlsAcceptor, Error> {
        let (chain, key, roots) = self.parts()?;
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|e| self.used(e))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| self.used(e))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .map_err(|e| self.used(e))?;
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Accepts strangers too: who shows no certificate has no name, who shows one must be of this installation. The authority's certificate goes
    /// along, so that who joins can check it.
    pub fn door(&self, alpn: &[&str]) -> Result<TlsAcceptor, Error> {
        let (mut chain, key, roots) = self.parts()?;
        chain.push(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).map_err(|e| self.used(e))?);
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider())
            .allow_unauthenticated()
            .build()
            .map_err(|e| self.used(e))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| self.used(e))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .map_err(|e| self.used(e))?;
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Signs as this identity.
    pub fn signer(&self) -> Result<Signer, Error> {
        let (mut chain, _, roots) = self.parts()?;
        let members = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider()).build().map_err(|e| self.used(e))?;
        Ok(Signer { cert: chain.remove(0), key: KeyPair::from_pem(&self.key_pem).map_err(|e| self.used(e))?, members })
    }

    /// Makes connections as this identity.
    pub fn dialer(&self) -> Result<Dialer, Error> {
        let (chain, key, roots) = self.parts()?;
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| self.used(e))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|e| self.used(e))?;
        Ok(Dialer { config })
    }
}

/// Signs bytes as a process of this installation, and believes what others of it have signed.
pub struct Signer {
    cert: CertificateDer<'static>,
    key: KeyPair,
    members: Arc<dyn rustls::server::danger::ClientCertVerifier>,
}

/// Beginning of what was signed: the form, and its version.
const SIGNED: &[u8; 8] = b"CSKSIGN\x01";
/// Longest certificate and signature that are read.
const PROOF_MAX: usize = 16 << 10;

impl Signer {
    /// What the signature is over: `about` says what the bytes are, so that they can't pass for something else that the same process has signed.
    fn message(about: &str, bytes: &[u8]) -> Vec<u8> {
        let mut message = SIGNED.to_vec();
        message.extend_from_slice(&Sha256::digest(about));
        message.extend_from_slice(&Sha256::digest(bytes));
        message
    }

    /// ```text
    ///  8  "CSKSIGN" and a version
    ///  4  length of the certificate, little endian; the certificate (DER)
    ///  4  length of the signature; the signature (ECDSA on P-256 with SHA-256)
    ///     the bytes
    /// ```
    pub fn sign(&self, about: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = rcgen::SigningKey::sign(&self.key, &Self::message(about, bytes)).map_err(make(about))?;
        let mut signed = SIGNED.to_vec();
        for part in [&self.cert[..], &signature] {
            signed.extend_from_slice(&(part.len() as u32).to_le_bytes());
            signed.extend_from_slice(part);
        }
        signed.extend_from_slice(bytes);
        Ok(signed)
    }

    /// The name of who has signed, and the bytes.
    ///
    /// # Errors
    /// They are not signed, by nobody of this installation, about something else, or were changed.
    pub fn open<'b>(&self, about: &str, signed: &'b [u8]) -> Result<(String, &'b [u8]), Error> {
        let refused = |message: String| Error::Use { name: format!("of {about}"), message };
        let mut rest = signed.strip_prefix(SIGNED).ok_or_else(|| refused("nothing is signed there".into()))?;
        let mut part = || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (part, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize).filter(|(part, _)| part.len() <= PROOF_MAX)?;
            rest = after;
            Some(part)
        };
        let (Some(cert), Some(signature)) = (part(), part()) else { return Err(refused("certificate or signature is cut".into())) };
        let cert = CertificateDer::from(cert);
        self.members.verify_client_cert(&cert, &[], rustls::pki_types::UnixTime::now()).map_err(|e| refused(e.to_string()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&cert).map_err(|e| refused(e.to_string()))?;
        let key = &parsed.public_key().subject_public_key.data;
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms.mapping.iter().find(|(scheme, _)| *scheme == rustls::SignatureScheme::ECDSA_NISTP256_SHA256);
        let algorithm = algorithms.and_then(|(_, all)| all.first()).expect("ring has P-256");
        algorithm.verify_signature(key, &Self::message(about, rest), signature).map_err(|_| refused("the signature is another one's".into()))?;
        let name = name_of(&cert).ok_or_else(|| refused("it has no name".into()))?;
        Ok((name, rest))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Makes ring the process's default provider, for libraries that ask for one. To be called first in `main`; twice is harmless.
pub fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The common name in a certificate.
pub fn name_of(der: &[u8]) -> Option<String> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    cert.subject().iter_common_name().next()?.as_str().ok().map(str::to_string)
}

/// The name that the peer of an accepted or dialled connection has proved.
pub fn peer_name(stream: &TlsStream<TcpStream>) -> Option<String> {
    let (_, session) = stream.get_ref();
    name_of(session.peer_certificates()?.first()?)
}

/// The protocol that both sides agreed on.
pub fn protocol(stream: &TlsStream<TcpStream>) -> Option<String> {
    let (_, session) = stream.get_ref();
    session.alpn_protocol().and_then(|p| String::from_utf8(p.to_vec()).ok())
}

/// Dials peers of this installation, checking that they are who is wanted.
#[derive(Clone)]
pub struct Dialer {
    config: rustls::ClientConfig,
}

impl Dialer {
    /// Connects to `address` (host:port), which must prove the name `name`, and speaks `alpn`.
    pub async fn dial(&self, name: &str, address: &str, alpn: &str) -> Result<TlsStream<TcpStream>, Error> {
        let fail = |message: String| Error::Dial { name: name.into(), address: address.into(), message };
        let mut config = self.config.clone();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let server = ServerName::try_from(name.to_string()).map_err(|e| fail(e.to_string()))?;
        let connect = async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            TlsConnector::from(Arc::new(config)).connect(server, tcp).await
        };
        match tokio::time::timeout(Duration::from_secs(5), connect).await {
            Ok(Ok(stream)) => Ok(stream.into()),
            Ok(Err(e)) => Err(fail(e.to_string())),
            Err(_) => Err(fail("no answer within 5 s".into())),
        }
    }
}

/// Connects to a peer of an installation of which nothing is known but the fingerprint of its authority: to join it.
///
/// The peer must send its authority's certificate along, which is how the fingerprint is checked before anything is said.
pub async fn dial_pinned(name: &str, address: &str, ca_sha256: &str, alpn: &str) -> Result<TlsStream<TcpStream>, Error> {
    let pinned = Pinned { ca_sha256: ca_sha256.to_ascii_lowercase() };
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Error::Dial { name: name.into(), address: address.into(), message: e.to_string() })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_no_client_auth();
    Dialer { config }.dial(name, address, alpn).await
}

/// Trusts the authority with one fingerprint, and then only what that authority has signed.
#[derive(Debug)]
struct Pinned {
    ca_sha256: String,
}

impl rustls::client::danger::ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        let sum = |der: &CertificateDer<'_>| Sha256::digest(der).iter().map(|b| format!("{b:02x}")).collect::<String>();
        let ca = chain.iter().find(|der| sum(der) == self.ca_sha256);
        let ca = ca.ok_or_else(|| rustls::Error::General(format!("it is not of the installation whose authority has the SHA-256 {}", self.ca_sha256)))?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let known = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        known.verify_server_cert(leaf, &[], name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn temp(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("cloudskin-identity-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    async fn meet(server: &Identity, client: &Identity, wanted: &str) -> Result<String, String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = server.acceptor(&["geds/1", "cells/1"]).unwrap();
        let accept = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut tls: TlsStream<TcpStream> = acceptor.accept(tcp).await.map_err(|e| e.to_string())?.into();
            let told = format!("{} {}", peer_name(&tls).unwrap(), protocol(&tls).unwrap());
            tls.write_all(b"x").await.map_err(|e| e.to_string())?;
            Ok::<_, String>(told)
        });
        let mut tls = client.dialer().unwrap().dial(wanted, &address, "cells/1").await.map_err(|e| e.to_string())?;
        let mut byte = [0];
        tls.read_exact(&mut byte).await.map_err(|e| e.to_string())?;
        accept.await.unwrap()
    }

    #[tokio::test]
    async fn only_members_meet_and_only_whom_they_want() {
        let ours = Authority::open(&temp("ours")).unwrap();
        let theirs = Authority::open(&temp("theirs")).unwrap();
        let edge = ours.issue("edge.site.cloudskin").unwrap();
        let (key_pem, csr) = request("cloud.site.cloudskin").unwrap();
        let cloud = Identity {
            cert_pem: ours.sign(&csr, "cloud.site.cloudskin").unwrap(),
            key_pem,
            ca_pem: ours.ca_pem().into(),
        };
        assert_eq!(meet(&edge, &cloud, "edge.site.cloudskin").await.unwrap(), "cloud.site.cloudskin cells/1");
        assert!(meet(&edge, &cloud, "hub.cloudskin").await.is_err(), "asked for another name");
        let foreign = theirs.issue("cloud.site.cloudskin").unwrap();
        assert!(meet(&edge, &foreign, "edge.site.cloudskin").await.is_err(), "certificate of another installation");
        let again = Authority::open(&temp("again")).unwrap();
        assert_ne!(again.fingerprint(), ours.fingerprint());
    }

    #[test]
    fn what_was_signed_is_believed_of_this_installation_alone_and_for_one_thing() {
        let (ours, theirs) = (Authority::open(&temp("signed")).unwrap(), Authority::open(&temp("signed-other")).unwrap());
        let [edge, cloud] = ["edge", "cloud"].map(|site| ours.issue(&site_name(&SiteId::new(site).unwrap())).unwrap().signer().unwrap());
        let stranger = theirs.issue(&site_name(&SiteId::new("edge").unwrap())).unwrap().signer().unwrap();
        let signed = edge.sign("code a", b"bytes").unwrap();
        assert_eq!(cloud.open("code a", &signed).unwrap(), ("edge.site.cloudskin".to_string(), &b"bytes"[..]));
        let refused = |signed: &[u8], about: &str| cloud.open(about, signed).unwrap_err().to_string();
        assert!(refused(&signed, "code b").contains("another one's"));
        assert!(refused(b"bytes", "code a").contains("nothing is signed"));
        assert!(!refused(&stranger.sign("code a", b"bytes").unwrap(), "code a").is_empty());
        // Each byte counts, and none of them breaks who reads them.
        for at in 0..signed.len() {
            let mut changed = signed.clone();
            changed[at] ^= 1;
            refused(&changed, "code a");
            refused(&signed[..at], "code a");
        }
        // With another's certificate.
        let own = cloud.sign("code a", b"bytes").unwrap();
        let certificate = |s: &[u8]| 12 + u32::from_le_bytes(s[8..12].try_into().unwrap()) as usize;
        assert!(refused(&[&own[..certificate(&own)], &signed[certificate(&signed)..]].concat(), "code a").contains("another one's"));
    }
}
