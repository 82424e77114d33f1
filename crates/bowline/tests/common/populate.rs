//! Services and policies in bulk, made through an API as fast as it takes them: for checks and benches of large clusters.
//!
//! Services without selectors, of one port, and an EndpointSlice for each; the endpoints are addresses of pod networks that no node has.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

/// The namespace of the services.
pub(crate) const NAMESPACE: &str = "bench";

/// Requests to the API at once.
const AT_ONCE: usize = 16;

/// First address of the pod networks of other nodes, 10.64.0.0/12.
const FAR_PODS: u32 = u32::from_be_bytes([10, 64, 0, 0]);

/// Address of endpoint number `n` of all.
pub(crate) fn endpoint(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(FAR_PODS.saturating_add(n + 1)))
}

/// What makes services through an API.
pub(crate) struct Populate {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Populate {
    /// Connects, and makes the namespace.
    pub(crate) fn connect(kubeconfig: &Path) -> Result<Populate> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
            let client = Client::try_from(config)?;
            let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
            Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
            anyhow::Ok(client)
        })?;
        Ok(Populate { runtime, client })
    }

    /// Makes services of so many endpoints each.
    pub(crate) fn services(&self, numbers: Range<u32>, endpoints: u32) -> Result<()> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), NAMESPACE);
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAMESPACE);
        self.runtime.block_on(
            stream::iter(numbers)
                .map(|n| {
                    let (services, slices) = (&services, &slices);
                    async move {
                        services.create(&PostParams::default(), &service(n)?).await?;
                        slices.create(&PostParams::default(), &slice(n, endpoints)?).await?;
                        anyhow::Ok(())
                    }
                })
                .buffer_unordered(AT_ONCE)
                .try_collect::<()>(),
        )
    }
}

/// A kind of objects: its group, version, kind and resource.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sort(pub(crate) &'static str, pub(crate) &'static str, pub(crate) &'static str, pub(crate) &'static str);

/// ClusterNetworkPolicies.
pub(crate) const CLUSTER_POLICIES: Sort = Sort("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies");

impl Populate {
    fn of(&self, Sort(group, version, kind, resource): Sort, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), resource);
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Makes objects, in their own namespaces where they have some.
    pub(crate) fn make(&self, sort: Sort, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        let made = stream::iter(objects).map(|object| async move {
            let api = self.of(sort, object.pointer("/metadata/namespace").and_then(Value::as_str));
            anyhow::Ok(api.create(&PostParams::default(), &serde_json::from_value(object)?).await.map(drop)?)
        });
        self.runtime.block_on(made.buffer_unordered(AT_ONCE).try_collect::<()>())
    }

    /// Changes an object of a namespace by a JSON merge patch (RFC 7386).
    pub(crate) fn patch(&self, sort: Sort, (namespace, name): (&str, &str), patch: Value) -> Result<()> {
        let api = self.of(sort, Some(namespace));
        self.runtime.block_on(api.patch(name, &PatchParams::default(), &Patch::Merge(patch)))?;
        Ok(())
    }

    /// Makes ClusterNetworkPolicies.
    pub(crate) fn policies(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        self.make(CLUSTER_POLICIES, objects)
    }

    /// Deletes ClusterNetworkPolicies.
    pub(crate) fn without_policies(&self, names: impl IntoIterator<Item = String>) -> Result<()> {
        let api = self.of(CLUSTER_POLICIES, None);
        let gone = stream::iter(names).map(|name| {
            let api = &api;
            async move { anyhow::Ok(api.delete(&name, &DeleteParams::default()).await.map(drop)?) }
        });
        self.runtime.block_on(gone.buffer_unordered(AT_ONCE).try_collect::<()>())
    }

    /// Makes a service of one endpoint; gives its address. Its port is 80.
    pub(crate) fn one(&self, name: &str, endpoint: SocketAddr) -> Result<IpAddr> {
        let spec = json!({"ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": endpoint.port()}]});
        let service = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
        let slice = serde_json::from_value(json!({
            "metadata": {"name": format!("{name}-a"), "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [endpoint.ip()], "conditions": {"ready": true}}],
            "ports": [{"name": "http", "port": endpoint.port(), "protocol": "TCP"}],
        }))?;
        self.runtime.block_on(async {
            let made: Service = Api::namespaced(self.client.clone(), NAMESPACE).create(&PostParams::default(), &service).await?;
            let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAMESPACE);
            slices.create(&PostParams::default(), &slice).await?;
            let address = made.spec.and_then(|spec| spec.cluster_ip).context("a service without an address")?;
            Ok(address.parse()?)
        })
    }

    /// Gives a service of one endpoint another: the same address, at another port.
    pub(crate) fn change(&self, name: &str, port: u16) -> Result<()> {
        let patch = json!({"ports": [{"name": "http", "port": port, "protocol": "TCP"}]});
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAMESPACE);
        let (slice, parameters, patch) = (format!("{name}-a"), PatchParams::default(), Patch::Merge(patch));
        self.runtime.block_on(slices.patch(&slice, &parameters, &patch))?;
        Ok(())
    }
}

fn service(n: u32) -> Result<Service> {
    let spec = json!({"ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]});
    Ok(serde_json::from_value(json!({"metadata": {"name": format!("svc-{n}")}, "spec": spec}))?)
}

fn slice(n: u32, endpoints: u32) -> Result<EndpointSlice> {
    let address = |e: u32| json!({"addresses": [endpoint(endpoints * n + e)], "conditions": {"ready": true}});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": format!("svc-{n}-a"), "labels": {"kubernetes.io/service-name": format!("svc-{n}")}},
        "addressType": "IPv4",
        "endpoints": (0..endpoints).map(address).collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }))?)
}
