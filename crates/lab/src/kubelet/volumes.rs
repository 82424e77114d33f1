//! A pod's volumes: directories and files on its node, shown in its containers by bind mounts.
//!
//! Invariant: a name from an object never becomes part of a path unless it is one plain path component, and a subPath
//! never leaves its volume.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, Secret, Volume, VolumeProjection,
};
use kube::api::Api as KubeApi;

use super::Kubelet;
use super::env::{Facts, field};
use super::token;
use crate::enter::Bind;

/// Where a service account's token is expected.
const TOKEN_PATH: &str = "/run/secrets/kubernetes.io/serviceaccount";

/// Contents of a volume made of files.
type Files = BTreeMap<String, Vec<u8>>;

/// A pod's directory on its node.
pub(super) fn pod_directory(pod: &Pod) -> PathBuf {
    Path::new("/var/lib/kubelet/pods").join(pod.metadata.uid.as_deref().unwrap_or("unknown"))
}

/// Makes the volumes; the path on the node of each.
pub(super) async fn prepare(kubelet: &Kubelet, pod: &Pod, facts: &Facts) -> Result<BTreeMap<String, PathBuf>> {
    let mut made = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let path = make(kubelet, pod, facts, volume).await.with_context(|| format!("volume {}", volume.name))?;
        made.insert(volume.name.clone(), path);
    }
    Ok(made)
}

/// Writes again what has changed in ConfigMaps and Secrets. Failing leaves the files as they are.
pub(super) async fn refresh(kubelet: &Kubelet, pod: &Pod, facts: &Facts) {
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        if (volume.config_map.is_some() || volume.secret.is_some() || volume.projected.is_some())
            && let Err(error) = make(kubelet, pod, facts, volume).await
        {
            tracing::debug!(volume = volume.name, error = format!("{error:#}"), "volume not refreshed");
        }
    }
}

async fn make(kubelet: &Kubelet, pod: &Pod, facts: &Facts, volume: &Volume) -> Result<PathBuf> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(source) = &volume.host_path {
        return host_path(kubelet, source);
    }
    let path = pod_directory(pod).join("volumes").join(component(&volume.name)?);
    let files = if let Some(source) = &volume.config_map {
        config_map(kubelet, namespace, &source.name, source.items.as_deref(), source.optional).await?
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        secret(kubelet, namespace, name, source.items.as_deref(), source.optional).await?
    } else if let Some(source) = &volume.downward_api {
        downward(pod, facts, source.items.as_deref().unwrap_or_default())?
    } else if let Some(source) = &volume.projected {
        let mut files = Files::new();
        for projection in source.sources.iter().flatten() {
            files.extend(project(kubelet, pod, facts, projection).await?);
        }
        files
    } else if volume.empty_dir.is_some() {
        Files::new()
    } else {
        bail!("only configMap, secret, downwardAPI, projected, emptyDir and hostPath are known here");
    };
    let directory = kubelet.node.path(&path);
    fs::create_dir_all(&directory)?;
    if volume.empty_dir.is_some() {
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
    } else {
        write_files(&directory, &files)?;
    }
    Ok(path)
}

fn host_path(kubelet: &Kubelet, source: &HostPathVolumeSource) -> Result<PathBuf> {
    let path = PathBuf::from(&source.path);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        bail!("hostPath {:?} is not a plain absolute path", source.path);
    }
    let here = kubelet.node.path(&path);
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => fs::create_dir_all(&here)?,
        "FileOrCreate" => drop(fs::OpenOptions::new().create(true).append(true).open(&here)?),
        "Directory" if !here.is_dir() => bail!("hostPath {} is not a directory", source.path),
        "File" if !here.is_file() => bail!("hostPath {} is not a file", source.path),
        _ if fs::symlink_metadata(&here).is_err() => bail!("hostPath {} is not there", source.path),
        _ => {}
    }
    Ok(path)
}

async fn project(kubelet: &Kubelet, pod: &Pod, facts: &Facts, projection: &VolumeProjection) -> Result<Files> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(source) = &projection.config_map {
        config_map(kubelet, namespace, &source.name, source.items.as_deref(), source.optional).await
    } else if let Some(source) = &projection.secret {
        secret(kubelet, namespace, &source.name, source.items.as_deref(), source.optional).await
    } else if let Some(source) = &projection.downward_api {
        downward(pod, facts, source.items.as_deref().unwrap_or_default())
    } else if let Some(source) = &projection.service_account_token {
        Ok(Files::from([(source.path.clone(), token::of(kubelet, pod, source).await?.into_bytes())]))
    } else {
        bail!("a projection of an unknown kind")
    }
}

async fn config_map(kubelet: &Kubelet, namespace: &str, name: &str, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<Files> {
    let found: Option<ConfigMap> = KubeApi::namespaced(kubelet.client(), namespace).get_opt(name).await?;
    let Some(found) = found else {
        // Every cluster publishes this one; the lab's API server leaves that to its kubelets.
        if let Some(pods) = kubelet.api.pods.as_ref().filter(|_| name == "kube-root-ca.crt") {
            return select(Files::from([("ca.crt".into(), pods.ca_pem.clone().into_bytes())]), items, optional);
        }
        return if optional.unwrap_or(false) { Ok(Files::new()) } else { bail!("no ConfigMap {namespace}/{name}") };
    };
    let text = found.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
    let binary = found.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
    select(text.chain(binary).collect(), items, optional)
}

async fn secret(kubelet: &Kubelet, namespace: &str, name: &str, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<Files> {
    let found: Option<Secret> = KubeApi::namespaced(kubelet.client(), namespace).get_opt(name).await?;
    let Some(found) = found else {
        return if optional.unwrap_or(false) { Ok(Files::new()) } else { bail!("no Secret {namespace}/{name}") };
    };
    select(found.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect(), items, optional)
}

fn downward(pod: &Pod, facts: &Facts, items: &[DownwardAPIVolumeFile]) -> Result<Files> {
    items
        .iter()
        .filter_map(|item| Some((item, item.field_ref.as_ref()?)))
        .map(|(item, wanted)| Ok((item.path.clone(), field(pod, facts, &wanted.field_path)?.into_bytes())))
        .collect()
}

/// The files that `items` choose; all of them without.
fn select(mut all: Files, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<Files> {
    let Some(items) = items.filter(|items| !items.is_empty()) else { return Ok(all) };
    let mut chosen = Files::new();
    for item in items {
        match all.remove(&item.key) {
            Some(content) => drop(chosen.insert(item.path.clone(), content)),
            None if optional.unwrap_or(false) => {}
            None => bail!("no key {}", item.key),
        }
    }
    Ok(chosen)
}

/// Makes the directory hold these files and no others. A reader sees the old file or the new one.
fn write_files(directory: &Path, files: &Files) -> Result<()> {
    for (name, content) in files {
        let path = directory.join(inside(name)?);
        if fs::read(&path).is_ok_and(|old| old == *content) {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let next = path.with_file_name(format!(".{}.next", path.file_name().unwrap_or_default().to_string_lossy()));
        fs::write(&next, content)?;
        fs::rename(&next, &path)?;
    }
    for entry in fs::read_dir(directory)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = files.keys().any(|file| file.split('/').next() == Some(name.as_str()));
        if !wanted && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// One plain component of a path.
fn component(name: &str) -> Result<&str> {
    if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
        bail!("{name:?} is not a plain name");
    }
    Ok(name)
}

/// A relative path that stays inside.
fn inside(path: &str) -> Result<&Path> {
    let relative = Path::new(path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || path.contains('\0') || !plain {
        bail!("{path:?} does not stay inside the volume");
    }
    Ok(relative)
}

/// The files that every pod has: host name, hosts and resolv.conf.
pub(super) fn write_identity(kubelet: &Kubelet, pod: &Pod, facts: &Facts, dns_ips: &[std::net::IpAddr]) -> Result<()> {
    let directory = kubelet.node.path(pod_directory(pod));
    fs::create_dir_all(&directory)?;
    let spec = pod.spec.clone().unwrap_or_default();
    let name = spec.hostname.clone().or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for ip in &facts.pod_ips {
        hosts.push_str(&format!("{ip} {name}\n"));
    }
    for alias in spec.host_aliases.iter().flatten() {
        hosts.push_str(&format!("{} {}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join(" ")));
    }
    fs::write(directory.join("hosts"), hosts)?;
    fs::write(directory.join("hostname"), format!("{name}\n"))?;
    let of_node = fs::read_to_string(kubelet.node.path("/etc/resolv.conf")).unwrap_or_default();
    fs::write(directory.join("resolv.conf"), resolv_conf(pod, &of_node, dns_ips))?;
    let Some(pods) = &kubelet.api.pods else { return Ok(()) };
    let token = directory.join("token");
    fs::create_dir_all(&token)?;
    write_files(
        &token,
        &Files::from([
            ("token".into(), pods.token.clone().into_bytes()),
            ("ca.crt".into(), pods.ca_pem.clone().into_bytes()),
            ("namespace".into(), pod.metadata.namespace.clone().unwrap_or_default().into_bytes()),
        ]),
    )
}

/// A pod's resolv.conf by its dnsPolicy and dnsConfig.
fn resolv_conf(pod: &Pod, of_node: &str, dns_ips: &[std::net::IpAddr]) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let host_network = spec.host_network.unwrap_or(false);
    let from_cluster = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let none = spec.dns_policy.as_deref() == Some("None");
    let (mut servers, mut search, mut options) = (Vec::new(), Vec::new(), Vec::new());
    if from_cluster {
        servers.extend(dns_ips.iter().map(ToString::to_string));
        search.extend([format!("{namespace}.svc.cluster.local"), "svc.cluster.local".into(), "cluster.local".into()]);
        options.push("ndots:5".to_owned());
    } else if !none {
        for line in of_node.lines() {
            match line.split_once(' ') {
                Some(("nameserver", server)) => servers.push(server.trim().to_owned()),
                Some(("search", names)) => search.extend(names.split_whitespace().map(str::to_owned)),
                Some(("options", words)) => options.extend(words.split_whitespace().map(str::to_owned)),
                Some(_) | None => {}
            }
        }
    }
    if let Some(config) = spec.dns_config {
        servers.extend(config.nameservers.unwrap_or_default());
        search.extend(config.searches.unwrap_or_default());
        for option in config.options.unwrap_or_default() {
            let name = option.name.unwrap_or_default();
            options.retain(|old: &String| old.split(':').next() != Some(name.as_str()));
            options.push(option.value.map_or(name.clone(), |value| format!("{name}:{value}")));
        }
    }
    let mut text = String::new();
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    servers.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

/// The mounts of one container. With `own_token` every pod that wants a token and has no volume for it gets the kubelet's;
/// other API servers put such a volume into pods themselves.
pub(super) fn binds(pod: &Pod, container: &Container, volumes: &BTreeMap<String, PathBuf>, own_token: bool) -> Result<Vec<Bind>> {
    let directory = pod_directory(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let mut binds: Vec<Bind> = [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")]
        .into_iter()
        .filter(|(file, _)| !spec.host_network.unwrap_or(false) || *file == "resolv.conf")
        .map(|(file, target)| Bind { source: directory.join(file), target: target.into(), read_only: false })
        .collect();
    let mounts = container.volume_mounts.clone().unwrap_or_default();
    let target_of = |path: &str| match path.strip_prefix("/var/run/") {
        Some(rest) => Path::new("/run").join(rest),
        None => Path::new("/").join(path),
    };
    if own_token
        && spec.automount_service_account_token.unwrap_or(true)
        && !mounts.iter().any(|mount| target_of(&mount.mount_path) == Path::new(TOKEN_PATH))
    {
        binds.push(Bind { source: directory.join("token"), target: TOKEN_PATH.into(), read_only: true });
    }
    for mount in &mounts {
        let volume = volumes
            .get(&mount.name)
            .with_context(|| format!("container {} mounts {}, which is no volume of the pod", container.name, mount.name))?;
        let source = match mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
            Some(path) => volume.join(inside(path)?),
            None => volume.clone(),
        };
        let target = target_of(&mount.mount_path);
        binds.push(Bind { source, target, read_only: mount.read_only.unwrap_or(false) });
    }
    Ok(binds)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "shop", "uid": "u"}, "spec": spec})).unwrap()
    }

    #[test]
    fn resolv_conf_follows_the_policy() {
        let dns = ["10.43.0.10".parse().unwrap()];
        let check = |spec, expected: &str| assert_eq!(resolv_conf(&pod(spec), "nameserver 1.1.1.1\n", &dns), expected);
        check(
            json!({"containers": []}),
            "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.43.0.10\noptions ndots:5\n",
        );
        check(json!({"containers": [], "dnsPolicy": "Default"}), "nameserver 1.1.1.1\n");
        check(json!({"containers": [], "hostNetwork": true}), "nameserver 1.1.1.1\n");
        check(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"], "options": [{"name": "ndots", "value": "2"}]}}),
            "nameserver 9.9.9.9\noptions ndots:2\n",
        );
    }

    #[test]
    fn paths_stay_inside() {
        for bad in ["../x", "/x", "", "a/../../b", "a\0"] {
            assert!(inside(bad).is_err(), "{bad:?}");
        }
        assert!(inside("a/b").is_ok());
        assert!(component("..").is_err() && component("a/b").is_err());
    }

    #[test]
    fn files_follow_their_source() {
        let directory = tempfile::tempdir().unwrap();
        let write = |files: &[(&str, &str)]| {
            let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
            write_files(directory.path(), &files).unwrap();
        };
        write(&[("a", "1"), ("sub/b", "2")]);
        write(&[("a", "3"), ("sub/b", "2")]);
        assert_eq!(fs::read_to_string(directory.path().join("a")).unwrap(), "3");
        write(&[("sub/b", "2")]);
        assert!(!directory.path().join("a").exists());
        assert!(directory.path().join("sub/b").exists());
    }

    #[test]
    fn a_token_is_mounted_unless_refused_or_given() {
        let token = |spec| {
            let pod = pod(spec);
            let container = pod.spec.clone().unwrap().containers[0].clone();
            let volumes = BTreeMap::from([("t".to_owned(), PathBuf::from("/t"))]);
            let binds = binds(&pod, &container, &volumes, true).unwrap();
            binds.into_iter().filter(|bind| bind.target == Path::new(TOKEN_PATH)).map(|bind| bind.source).collect::<Vec<_>>()
        };
        assert_eq!(token(json!({"containers": [{"name": "c"}]})).len(), 1);
        assert!(token(json!({"containers": [{"name": "c"}], "automountServiceAccountToken": false})).is_empty());
        let own = json!({"containers": [{"name": "c", "volumeMounts":
            [{"name": "t", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}]});
        assert_eq!(token(own), [Path::new("/t")]);
        let plain = pod(json!({"containers": [{"name": "c"}]}));
        let container = plain.spec.clone().unwrap().containers[0].clone();
        let binds = binds(&plain, &container, &BTreeMap::new(), false).unwrap();
        assert!(binds.iter().all(|bind| bind.target != Path::new(TOKEN_PATH)), "there is none to give");
    }
}
