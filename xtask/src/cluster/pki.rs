//! The cluster's certificate authorities, certificates, keys, and the kubeconfigs that carry them.
//!
//! Reference: Kubernetes' "PKI certificates and requirements": which component is known by which common name and
//! organisation, and which key usages each needs. etcd trusts the same authority as everyone else but the front proxy.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;

use crate::cluster::place::Place;
use crate::cluster::plan::{Node, Plan};

/// The group whose members may do everything.
const ADMINISTRATORS: &str = "system:masters";

/// What a certificate is for.
struct Subject<'a> {
    common_name: &'a str,
    organisation: Option<&'a str>,
    names: Vec<String>,
    uses: &'a [ExtendedKeyUsagePurpose],
}

impl<'a> Subject<'a> {
    fn client(common_name: &'a str, organisation: Option<&'a str>) -> Subject<'a> {
        Subject { common_name, organisation, names: Vec::new(), uses: &[ExtendedKeyUsagePurpose::ClientAuth] }
    }
}

/// An authority and the directory that its certificates go to.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    directory: PathBuf,
}

impl Authority {
    /// Makes one and writes its certificate and key as `FILE.crt` and `FILE.key`.
    fn make(directory: &Path, file: &str, common_name: &str) -> Result<Authority> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        write(&directory.join(format!("{file}.crt")), &certificate)?;
        write(&directory.join(format!("{file}.key")), &key.serialize_pem())?;
        Ok(Authority { issuer: Issuer::new(params, key), certificate, directory: directory.to_owned() })
    }

    /// A certificate with its key, both PEM.
    fn issue(&self, subject: &Subject<'_>) -> Result<(String, String)> {
        let mut params = CertificateParams::new(subject.names.clone())?;
        params.distinguished_name.push(DnType::CommonName, subject.common_name);
        if let Some(organisation) = subject.organisation {
            params.distinguished_name.push(DnType::OrganizationName, organisation);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = subject.uses.to_vec();
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// Issues one into `FILE.crt` and `FILE.key`.
    fn issue_into(&self, file: &str, subject: &Subject<'_>) -> Result<()> {
        let (certificate, key) = self.issue(subject)?;
        write(&self.directory.join(format!("{file}.crt")), &certificate)?;
        write(&self.directory.join(format!("{file}.key")), &key)
    }

    /// Issues one into a kubeconfig for `server`.
    fn kubeconfig(&self, path: &Path, server: &str, context: &str, subject: &Subject<'_>) -> Result<()> {
        let (certificate, key) = self.issue(subject)?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": context, "preferences": {},
            "clusters": [{"name": context, "cluster": {"server": server, "certificate-authority-data": STANDARD.encode(&self.certificate)}}],
            "users": [{"name": context, "user": {
                "client-certificate-data": STANDARD.encode(certificate), "client-key-data": STANDARD.encode(key)}}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        });
        write(path, &format!("{config:#}\n"))
    }
}

/// Makes everything that the plan needs. `outside` is the server's URL as this machine reaches it.
pub(crate) fn make(place: &Place, plan: &Plan, outside: &str) -> Result<()> {
    let pki = place.pki();
    let authority = Authority::make(&pki, "ca", "bowline-cluster-ca")?;
    let proxy = Authority::make(&pki, "front-proxy-ca", "bowline-cluster-front-proxy-ca")?;
    proxy.issue_into("front-proxy-client", &Subject::client("front-proxy-client", None))?;

    let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let loopback = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    authority.issue_into("etcd", &Subject { common_name: "etcd", organisation: None, names: loopback, uses: &both })?;
    authority.issue_into("apiserver-etcd-client", &Subject::client("kube-apiserver-etcd-client", None))?;
    let server = Subject { common_name: "kube-apiserver", organisation: None, names: server_names(plan), uses: &both };
    authority.issue_into("apiserver", &server)?;
    authority.issue_into("apiserver-kubelet-client", &Subject::client("kube-apiserver-kubelet-client", Some(ADMINISTRATORS)))?;

    let accounts = KeyPair::generate()?;
    write(&pki.join("service-accounts.key"), &accounts.serialize_pem())?;
    write(&pki.join("service-accounts.pub"), &accounts.public_key_pem())?;

    let near = format!("https://127.0.0.1:{}", plan.ports.server);
    for component in ["kube-controller-manager", "kube-scheduler"] {
        let name = format!("system:{component}");
        authority.kubeconfig(&pki.join(format!("{component}.conf")), &near, component, &Subject::client(&name, None))?;
    }
    let administrator = Subject::client("kubernetes-admin", Some(ADMINISTRATORS));
    let context = format!("bowline-{}", place.name);
    authority.kubeconfig(
        &pki.join("admin.conf"),
        &format!("https://{}:{}", plan.advertise, plan.ports.server),
        &context,
        &administrator,
    )?;
    authority.kubeconfig(&place.kubeconfig(), outside, &context, &administrator)?;
    plan.nodes.iter().try_for_each(|node| make_node(place, plan, &authority, node))
}

/// A kubelet's own: it serves with one certificate and is the server's client with another.
fn make_node(place: &Place, plan: &Plan, authority: &Authority, node: &Node) -> Result<()> {
    let directory = place.node(&node.name);
    fs::create_dir_all(&directory)?;
    let user = format!("system:node:{}", node.name);
    let names = std::iter::once(node.name.clone()).chain(node.addresses.iter().map(ToString::to_string)).collect();
    let serving = Subject { common_name: &user, organisation: Some("system:nodes"), names, uses: &[ExtendedKeyUsagePurpose::ServerAuth] };
    let (certificate, key) = authority.issue(&serving)?;
    write(&directory.join("kubelet.crt"), &certificate)?;
    write(&directory.join("kubelet.key"), &key)?;
    let server = format!("https://{}:{}", plan.advertise, plan.ports.server);
    authority.kubeconfig(&directory.join("kubelet.conf"), &server, "kubelet", &Subject::client(&user, Some("system:nodes")))
}

/// Every name and address by which the server is called.
fn server_names(plan: &Plan) -> Vec<String> {
    let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let mut names: Vec<String> = service.iter().chain(&["localhost", "127.0.0.1", "::1"]).map(|&name| name.to_owned()).collect();
    let addresses = plan.server_vips().into_iter().chain([plan.advertise]);
    let first = plan.nodes.first().map(|node| node.addresses.clone()).unwrap_or_default();
    names.extend(addresses.chain(first).map(|address| address.to_string()));
    names.extend(plan.nodes.first().map(|node| node.name.clone()));
    names.sort();
    names.dedup();
    names
}

/// Writes a file that only root reads.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file =
        options.create(true).write(true).truncate(true).mode(0o600).open(path).with_context(|| format!("write {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn the_server_is_named_by_service_loopback_and_node() {
        let names = server_names(&Plan::of_nodes(1, &[], &[], "1-2").unwrap());
        for name in ["kubernetes.default.svc", "10.43.0.1", "fd43::1", "127.0.0.1", "192.168.200.11", "fd00:200::b", "n1"] {
            assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
        }
    }

    #[test]
    fn keys_are_for_root_alone_and_kubeconfigs_are_json() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::make(directory.path(), "ca", "test").unwrap();
        let file = directory.path().join("x.conf");
        authority.kubeconfig(&file, "https://[::1]:1", "x", &Subject::client("system:x", Some("o"))).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let encoded = config.pointer("/users/0/user/client-certificate-data").unwrap().as_str().unwrap();
        assert!(STANDARD.decode(encoded).unwrap().starts_with(b"-----BEGIN CERTIFICATE-----"));
    }
}
