//! The command lines of the control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.
//!
//! TLS everywhere, authorisation by Node and RBAC, NodeRestriction on. The same lines serve a control plane on the first
//! node and one alone on loopback; what differs is addresses and ports.

use std::path::{Path, PathBuf};

use crate::cluster::component::Component;
use crate::cluster::place::{self, Place};
use crate::cluster::plan::Plan;

/// Where a control plane stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stand {
    /// The address that the API server listens on.
    pub(crate) bind: &'static str,
    /// etcd's data.
    pub(crate) data: PathBuf,
}

/// What answers the API, in the order in which it is started.
pub(crate) fn api(place: &Place, plan: &Plan, stand: &Stand) -> [Component; 2] {
    [etcd(place, plan, &stand.data), server(place, plan, stand.bind)]
}

/// What works by way of the API. To be started once the server is ready: the controller manager ends when the server has not let it in
/// within ten seconds, which on a busy machine is less than the server takes to give out the first rights.
pub(crate) fn workers(place: &Place, plan: &Plan) -> [Component; 2] {
    [controllers(place, plan), scheduler(place, plan)]
}

fn flags<const N: usize>(pairs: [(&str, String); N]) -> Vec<String> {
    pairs.into_iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn built(name: &str, arguments: &[String]) -> Component {
    Component::new(name, place::programs().join(name), arguments)
}

fn pki(place: &Place, file: &str) -> String {
    place.pki().join(file).display().to_string()
}

fn etcd(place: &Place, plan: &Plan, data: &Path) -> Component {
    let client = format!("https://127.0.0.1:{}", plan.ports.etcd);
    let peer = format!("http://127.0.0.1:{}", plan.ports.etcd_peer);
    let arguments = flags([
        ("name", "only".to_owned()),
        ("data-dir", data.display().to_string()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer.clone()),
        ("initial-cluster", format!("only={peer}")),
        ("cert-file", pki(place, "etcd.crt")),
        ("key-file", pki(place, "etcd.key")),
        ("client-cert-auth", "true".to_owned()),
        ("trusted-ca-file", pki(place, "ca.crt")),
        ("logger", "zap".to_owned()),
    ]);
    Component::new("etcd", "/usr/bin/etcd", &arguments)
}

fn server(place: &Place, plan: &Plan, bind: &str) -> Component {
    let arguments = flags([
        ("advertise-address", plan.advertise.to_string()),
        ("bind-address", bind.to_owned()),
        ("secure-port", plan.ports.server.to_string()),
        ("etcd-servers", format!("https://127.0.0.1:{}", plan.ports.etcd)),
        ("etcd-cafile", pki(place, "ca.crt")),
        ("etcd-certfile", pki(place, "apiserver-etcd-client.crt")),
        ("etcd-keyfile", pki(place, "apiserver-etcd-client.key")),
        ("client-ca-file", pki(place, "ca.crt")),
        ("tls-cert-file", pki(place, "apiserver.crt")),
        ("tls-private-key-file", pki(place, "apiserver.key")),
        ("kubelet-client-certificate", pki(place, "apiserver-kubelet-client.crt")),
        ("kubelet-client-key", pki(place, "apiserver-kubelet-client.key")),
        ("kubelet-certificate-authority", pki(place, "ca.crt")),
        ("kubelet-preferred-address-types", "InternalIP,Hostname".to_owned()),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("enable-admission-plugins", "NodeRestriction".to_owned()),
        ("allow-privileged", "true".to_owned()),
        ("service-account-issuer", "https://kubernetes.default.svc.cluster.local".to_owned()),
        ("service-account-key-file", pki(place, "service-accounts.pub")),
        ("service-account-signing-key-file", pki(place, "service-accounts.key")),
        ("service-cluster-ip-range", plan.services()),
        ("service-node-port-range", plan.node_ports.clone()),
        ("proxy-client-cert-file", pki(place, "front-proxy-client.crt")),
        ("proxy-client-key-file", pki(place, "front-proxy-client.key")),
        ("requestheader-client-ca-file", pki(place, "front-proxy-ca.crt")),
        ("requestheader-allowed-names", "front-proxy-client".to_owned()),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-".to_owned()),
        ("requestheader-group-headers", "X-Remote-Group".to_owned()),
        ("requestheader-username-headers", "X-Remote-User".to_owned()),
        // Both ask etcd for its progress, which Debian's 3.4 does not tell; without the answer they wait, and complain.
        ("feature-gates", "SizeBasedListCostEstimate=false,DetectCacheInconsistency=false".to_owned()),
        ("profiling", "false".to_owned()),
    ]);
    built("kube-apiserver", &arguments)
}

/// What controllers and scheduler have in common: they serve on loopback and know their server from a file.
fn served(place: &Place, name: &str, port: u16) -> Vec<String> {
    let kubeconfig = pki(place, &format!("{name}.conf"));
    flags([
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("bind-address", "127.0.0.1".to_owned()),
        ("secure-port", port.to_string()),
        ("leader-elect", "false".to_owned()),
        ("profiling", "false".to_owned()),
    ])
}

fn controllers(place: &Place, plan: &Plan) -> Component {
    let name = "kube-controller-manager";
    let mut arguments = served(place, name, plan.ports.controllers);
    arguments.extend(flags([
        ("client-ca-file", pki(place, "ca.crt")),
        ("requestheader-client-ca-file", pki(place, "front-proxy-ca.crt")),
        ("root-ca-file", pki(place, "ca.crt")),
        ("cluster-signing-cert-file", pki(place, "ca.crt")),
        ("cluster-signing-key-file", pki(place, "ca.key")),
        ("service-account-private-key-file", pki(place, "service-accounts.key")),
        ("use-service-account-credentials", "true".to_owned()),
        ("cluster-name", place.name.clone()),
        ("allocate-node-cidrs", "true".to_owned()),
        ("cluster-cidr", plan.pods()),
        ("service-cluster-ip-range", plan.services()),
    ]));
    built(name, &arguments)
}

fn scheduler(place: &Place, plan: &Plan) -> Component {
    let name = "kube-scheduler";
    built(name, &served(place, name, plan.ports.scheduler))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn server_and_controllers_agree_on_the_networks() {
        let place = Place::of("x").unwrap();
        let plan = Plan::of_nodes(2, &[], &[], "30000-32767").unwrap();
        let [store, server] = api(&place, &plan, &Stand { bind: "::", data: PathBuf::from("/var/lib/etcd") });
        let [controllers, scheduler] = workers(&place, &plan);
        let names = [&store, &server, &controllers, &scheduler].map(|component| component.name.as_str());
        assert_eq!(names, ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]);
        let services = "--service-cluster-ip-range=10.43.0.0/16,fd43::/112".to_owned();
        assert!(server.arguments.contains(&services) && controllers.arguments.contains(&services));
        assert!(server.arguments.contains(&"--authorization-mode=Node,RBAC".to_owned()));
        assert!(controllers.arguments.contains(&"--cluster-cidr=10.42.0.0/16,fd42::/56".to_owned()));
    }
}
