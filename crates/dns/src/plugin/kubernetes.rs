//! `kubernetes`: the options of the cluster's names; the answers are made in [`crate::answer`].

use crate::answer::{KubernetesOptions, PodMode};
use crate::corefile::{CorefileError, Directive};
use crate::name::Name;
use crate::plugin::{Fallthrough, read, zones_or};

/// The plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// What is answered.
    pub options: KubernetesOptions,
    /// Names that the next plugins may try.
    pub fallthrough: Fallthrough,
}

const OPTIONS: &str = "pods, ttl, namespaces, endpoint_pod_names, noendpoints, ignore empty_service, fallthrough, and those \
                       without effect here, since the agent watches: endpoint, tls, kubeconfig, apiserver_qps, apiserver_burst, \
                       apiserver_max_inflight, startup_timeout, resyncperiod, upstream";

/// Reads the directive.
///
/// # Errors
/// What is wrong with it.
pub fn read(directive: &Directive, block: &[Name]) -> Result<Kubernetes, CorefileError> {
    let zones = zones_or(&directive.args, block)?;
    let mut kubernetes = Kubernetes { options: KubernetesOptions::new(zones), fallthrough: Fallthrough::default() };
    for option in &directive.body {
        read_option(&mut kubernetes, directive, option)?;
    }
    Ok(kubernetes)
}

fn read_option(kubernetes: &mut Kubernetes, directive: &Directive, option: &Directive) -> Result<(), CorefileError> {
    let options = &mut kubernetes.options;
    match option.name.text.as_str() {
        "pods" => {
            let mode = option.one("one of disabled, insecure, verified")?;
            options.pods = match mode.text.as_str() {
                "disabled" => PodMode::Disabled,
                "insecure" => PodMode::Insecure,
                "verified" => PodMode::Verified,
                _ => return Err(mode.error(format!("`{}` is no mode of pods", mode.text), "write disabled, insecure or verified")),
            };
        }
        "ttl" => options.ttl_secs = read::number(option.one("seconds")?, 0, 3600)?,
        "namespaces" => {
            if option.args.is_empty() {
                return Err(option.count_error("one or more namespaces"));
            }
            options.namespaces.extend(option.texts().map(str::to_ascii_lowercase));
        }
        "endpoint_pod_names" => {
            option.none()?;
            options.endpoint_pod_names = true;
        }
        "noendpoints" => {
            option.none()?;
            options.no_endpoints = true;
        }
        "ignore" => {
            let what = option.one("`empty_service`")?;
            if what.text != "empty_service" {
                return Err(what.error(format!("`{}` cannot be ignored", what.text), "write `ignore empty_service`"));
            }
            options.ignore_empty = true;
        }
        "fallthrough" => kubernetes.fallthrough = Fallthrough::read(option)?,
        // The agent holds the connection to the API server; what only says how to reach it has no effect.
        "endpoint"
        | "tls"
        | "kubeconfig"
        | "apiserver_qps"
        | "apiserver_burst"
        | "apiserver_max_inflight"
        | "startup_timeout"
        | "resyncperiod"
        | "upstream" => {
            tracing::debug!(option = option.name.text, place = %option.name.place, "option without effect: the agent watches the API");
        }
        "labels" | "namespace_labels" | "multicluster" => {
            let what = format!("`{}` is not supported", option.name.text);
            return Err(option.name.error(what, "remove it; `namespaces` limits what is answered"));
        }
        _ => return Err(directive.unknown_option(option, OPTIONS)),
    }
    Ok(())
}
