//! The server's certificate authority and serving certificate, made at start, and the kubeconfig that trusts them.
//!
//! Invariant: the authority's key never leaves memory. Reference: RFC 5280; the kubeconfig format of client-go.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

use crate::server::ServerError;

/// What TLS needs.
pub(crate) struct Identity {
    pub(crate) ca_pem: String,
    pub(crate) tls: Arc<rustls::ServerConfig>,
}

/// Makes an authority and a certificate that is valid for these DNS names and IP addresses.
pub(crate) fn new_identity(sans: &[String]) -> Result<Identity, ServerError> {
    let (ca_pem, certificate, key) = certificates(sans).map_err(|source| ServerError::Certificate { source })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key))
        .map_err(|source| ServerError::Tls { source })?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Identity { ca_pem, tls: Arc::new(tls) })
}

type Certificates = (String, rustls::pki_types::CertificateDer<'static>, PrivateKeyDer<'static>);

fn certificates(sans: &[String]) -> Result<Certificates, rcgen::Error> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    authority.distinguished_name.push(DnType::CommonName, "bowline-lab-ca");
    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let mut serving = CertificateParams::new(sans.to_vec())?;
    serving.distinguished_name.push(DnType::CommonName, "bowline-lab-apiserver");
    serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    serving.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let certificate = serving.signed_by(&key, &issuer)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((authority_certificate.pem(), certificate.der().clone(), der))
}

/// A kubeconfig with one cluster, user and context, in JSON (which is YAML).
pub(crate) fn kubeconfig(ca_pem: &str, url: &str, token: &str, context: &str) -> String {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": context, "preferences": {},
        "clusters": [{"name": context, "cluster": {"server": url, "certificate-authority-data": STANDARD.encode(ca_pem)}}],
        "users": [{"name": context, "user": {"token": token}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
    });
    format!("{config:#}\n")
}
