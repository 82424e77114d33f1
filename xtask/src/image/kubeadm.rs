//! The images of which kubeadm makes a control plane, under the names by which it asks for them.
//!
//! Each holds the one program, at a place of its PATH, as upstream's do. Reference: `kubeadm config images list`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::layer::{Entry, Layer, Packing, hex_digest};
use super::oci::{self, Image, Start};
use super::suite::architecture;

/// Raised when what is made from the same programs changes.
const FORM: u32 = 1;

/// Programs of `conformance/build` and the names of their images, of the versions that it builds.
const IMAGES: [(&str, &str); 4] = [
    ("kube-apiserver", "registry.k8s.io/kube-apiserver:v1.35.4"),
    ("kube-controller-manager", "registry.k8s.io/kube-controller-manager:v1.35.4"),
    ("kube-scheduler", "registry.k8s.io/kube-scheduler:v1.35.4"),
    ("etcd", "registry.k8s.io/etcd:3.6.6-0"),
];

/// Makes the archive in `cache`'s `images`, or finds it there.
pub(super) fn make(cache: &Path) -> Result<PathBuf> {
    let file = cache.join("images/kubeadm.tar");
    let stamp_file = cache.join("images/kubeadm.stamp");
    let mut programs = Vec::new();
    let mut all = format!("{FORM} {IMAGES:?}");
    for (program, name) in IMAGES {
        let path = cache.join("bin").join(program);
        if !path.exists() {
            bail!("{} is not there: run conformance/build control-plane kubeadm, then this again", path.display());
        }
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        all.push_str(&hex_digest(&bytes));
        programs.push((program, name, bytes));
    }
    let stamp = hex_digest(all.as_bytes());
    if file.exists() && std::fs::read_to_string(&stamp_file).is_ok_and(|there| there == stamp) {
        println!("{}: there already", file.display());
        return Ok(file);
    }
    let layers = programs.into_iter().map(|(program, name, bytes)| Ok((name, layer(program, bytes)?))).collect::<Result<Vec<_>>>()?;
    let images = layers.iter().map(|(name, layer)| image(name, layer)).collect::<Result<Vec<_>>>()?;
    oci::write(&images, &file)?;
    println!("{}:", file.display());
    IMAGES.iter().for_each(|(_, name)| println!("  {name}"));
    std::fs::write(&stamp_file, stamp)?;
    Ok(file)
}

fn layer(program: &str, bytes: Vec<u8>) -> Result<Layer> {
    let entries = [
        Entry::directory("usr", 0o755),
        Entry::directory("usr/local", 0o755),
        Entry::directory("usr/local/bin", 0o755),
        Entry::program(&format!("usr/local/bin/{program}"), bytes),
    ];
    Layer::of(&entries, Packing::Plain)
}

fn image<'a>(name: &str, layer: &'a Layer) -> Result<Image<'a>> {
    Ok(Image {
        names: vec![name.to_owned()],
        created: "1970-01-01T00:00:00Z".to_owned(),
        architecture: architecture()?,
        layers: vec![layer],
        // The command comes from the static pod's manifest.
        start: Start { env: vec!["PATH=/usr/local/bin".to_owned()], working_dir: "/".to_owned(), ..Start::default() },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn the_versions_are_those_that_are_built() {
        let build = std::fs::read_to_string(super::super::root().join("conformance/build")).unwrap();
        let version = |name: &str| build.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).unwrap().to_owned();
        for (program, name) in IMAGES {
            let tag = name.rsplit_once(':').unwrap().1;
            if program == "etcd" {
                // The image of etcd is numbered by itself behind the hyphen.
                assert_eq!(format!("v{}", tag.split('-').next().unwrap()), version("ETCD"));
            } else {
                assert_eq!(tag, version("KUBERNETES"));
            }
        }
    }

    #[test]
    fn what_is_not_built_is_said() {
        let empty = tempfile::tempdir().unwrap();
        let refusal = make(empty.path()).unwrap_err().to_string();
        assert!(refusal.contains("conformance/build control-plane kubeadm"), "{refusal}");
    }
}
