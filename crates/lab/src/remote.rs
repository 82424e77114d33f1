//! An API server outside of the lab, as a kubeconfig describes it: where it is, what its certificate is checked against,
//! and with what the lab proves who it is.
//!
//! Invariant: nothing of the kubeconfig is a path any more once it has been read, so that what is made of it can be used
//! in another mount namespace. Reference: the kubeconfig format of client-go.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Cluster, Context as KubeContext, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext};

/// An API server that somebody else runs.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    /// Its host, a name or an address without brackets.
    pub(crate) host: String,
    /// Its port.
    pub(crate) port: u16,
    cluster: Cluster,
    user: AuthInfo,
}

impl Remote {
    /// Reads the current context of a kubeconfig.
    ///
    /// # Errors
    /// When the file does not name a server that a relay of bytes can reach, or proves who one is by running a program.
    pub(crate) fn read(path: &Path) -> Result<Remote> {
        let file = Kubeconfig::read_from(path).context("it is no kubeconfig")?;
        let name = file.current_context.context("it has no current context")?;
        let context = file.contexts.into_iter().find(|context| context.name == name).and_then(|found| found.context);
        let context = context.with_context(|| format!("it lacks its current context {name}"))?;
        let cluster = file.clusters.into_iter().find(|cluster| cluster.name == context.cluster).and_then(|found| found.cluster);
        let mut cluster = cluster.with_context(|| format!("it lacks cluster {}", context.cluster))?;
        let user = context.user.unwrap_or_default();
        let found = file.auth_infos.into_iter().find(|info| info.name == user).and_then(|found| found.auth_info);
        let mut user = found.with_context(|| format!("it lacks user {user:?}"))?;
        if user.exec.is_some() || user.auth_provider.is_some() {
            bail!("its user runs a program for credentials: a certificate or a token is needed");
        }
        if cluster.proxy_url.is_some() {
            bail!("its server is reached by way of a proxy");
        }
        let (host, port) = host_and_port(cluster.server.as_deref().unwrap_or_default())?;
        cluster.tls_server_name.get_or_insert_with(|| host.clone());
        inline_cluster(&mut cluster)?;
        inline_user(&mut user)?;
        Ok(Remote { host, port, cluster, user })
    }

    /// A kubeconfig for the same server and user by way of a relay at `address`.
    pub(crate) fn kubeconfig(&self, address: SocketAddr, context: &str) -> Result<String> {
        let cluster = Cluster { server: Some(format!("https://{address}")), ..self.cluster.clone() };
        let named = KubeContext { cluster: context.to_owned(), user: Some(context.to_owned()), ..KubeContext::default() };
        let file = Kubeconfig {
            api_version: Some("v1".to_owned()),
            kind: Some("Config".to_owned()),
            clusters: vec![NamedCluster { name: context.to_owned(), cluster: Some(cluster), other: Default::default() }],
            auth_infos: vec![NamedAuthInfo { name: context.to_owned(), auth_info: Some(self.user.clone()), other: Default::default() }],
            contexts: vec![NamedContext { name: context.to_owned(), context: Some(named), other: Default::default() }],
            current_context: Some(context.to_owned()),
            ..Kubeconfig::default()
        };
        // JSON is YAML.
        Ok(format!("{}\n", serde_json::to_string_pretty(&file)?))
    }

    /// The server as a person writes it.
    pub(crate) fn url(&self) -> String {
        if self.host.contains(':') {
            format!("https://[{}]:{}", self.host, self.port)
        } else {
            format!("https://{}:{}", self.host, self.port)
        }
    }
}

/// Host and port of `https://HOST[:PORT]`.
fn host_and_port(url: &str) -> Result<(String, u16)> {
    let rest = url.strip_prefix("https://").with_context(|| format!("its server {url:?} is not https://HOST:PORT"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(literal) => literal.split_once(']').with_context(|| format!("its server {url:?} lacks a bracket"))?,
        None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
    };
    if host.is_empty() || host.contains(['/', '@', '?', '#']) {
        bail!("its server {url:?} is not https://HOST:PORT");
    }
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().with_context(|| format!("its server {url:?} has no port from 1 to 65535"))?,
        None if port.is_empty() => 443,
        None => bail!("its server {url:?} is not https://HOST:PORT"),
    };
    Ok((host.to_owned(), port))
}

fn read(path: &str) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("it refers to {path}"))
}

fn inline_cluster(cluster: &mut Cluster) -> Result<()> {
    if let Some(path) = cluster.certificate_authority.take() {
        let data = read(&path)?;
        cluster.certificate_authority_data.get_or_insert_with(|| STANDARD.encode(data));
    }
    Ok(())
}

fn inline_user(user: &mut AuthInfo) -> Result<()> {
    if let Some(path) = user.client_certificate.take() {
        let data = read(&path)?;
        user.client_certificate_data.get_or_insert_with(|| STANDARD.encode(data));
    }
    if let Some(path) = user.client_key.take() {
        let data = read(&path)?;
        user.client_key_data.get_or_insert_with(|| STANDARD.encode(data).into());
    }
    if let Some(path) = user.token_file.take() {
        let token = String::from_utf8(read(&path)?).with_context(|| format!("{path} is no token"))?;
        user.token.get_or_insert_with(|| token.trim().to_owned().into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;
    use serde_json::{Value, json};

    fn read(server: &str, cluster: Value, user: Value) -> Result<Remote> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.crt"), "authority").unwrap();
        fs::write(directory.path().join("token"), "secret\n").unwrap();
        let mut cluster = cluster;
        cluster["server"] = json!(server);
        let file = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "x", "cluster": {"server": "https://other"}}, {"name": "k", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]});
        let path = directory.path().join("kubeconfig");
        fs::write(&path, file.to_string()).unwrap();
        Remote::read(&path)
    }

    #[test]
    fn files_are_read_and_the_name_in_the_certificate_is_kept() {
        let remote = read("https://k8s.example.org", json!({"certificate-authority": "ca.crt"}), json!({"tokenFile": "token"})).unwrap();
        assert_eq!((remote.host.as_str(), remote.port), ("k8s.example.org", 443));
        let text = remote.kubeconfig("192.168.200.1:443".parse().unwrap(), "lab").unwrap();
        let made: Value = serde_json::from_str(&text).unwrap();
        let cluster = &made["clusters"][0]["cluster"];
        assert_eq!(cluster["server"], "https://192.168.200.1:443");
        assert_eq!(cluster["tls-server-name"], "k8s.example.org");
        assert_eq!(cluster["certificate-authority-data"], STANDARD.encode("authority"));
        assert_eq!(made["users"][0]["user"]["token"], "secret");
        assert!(!text.contains("ca.crt") && !text.contains("tokenFile"), "{text}");
        assert_eq!(made["current-context"], "lab");
    }

    #[test]
    fn a_name_that_was_given_stays() {
        let remote = read("https://[fd00::1]:6443/", json!({"tls-server-name": "kubernetes"}), json!({"token": "t"})).unwrap();
        assert_eq!(remote.url(), "https://[fd00::1]:6443");
        let made: Value = serde_json::from_str(&remote.kubeconfig("[fd00:200::1]:6443".parse().unwrap(), "lab").unwrap()).unwrap();
        assert_eq!(made["clusters"][0]["cluster"]["tls-server-name"], "kubernetes");
    }

    #[test]
    fn what_a_relay_cannot_do_is_refused() {
        let why = |server, cluster, user| format!("{:#}", read(server, cluster, user).unwrap_err());
        for server in ["http://x:80", "https://x:99999", "https://x/path", "https://", "https://u@x", ""] {
            assert!(why(server, json!({}), json!({"token": "t"})).contains("server"), "{server}");
        }
        assert!(why("https://x", json!({"proxy-url": "http://p"}), json!({"token": "t"})).contains("proxy"));
        assert!(why("https://x", json!({"certificate-authority": "none"}), json!({"token": "t"})).contains("none"));
        let program = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "x"}});
        assert!(why("https://x", json!({}), program).contains("program"));
        assert!(Remote::read(Path::new("/nonexistent/kubeconfig")).is_err());
    }
}
