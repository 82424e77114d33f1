//! Images into the nodes: nothing is pulled from anywhere, every image comes from an archive made on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cluster::lab::Lab;
use crate::cluster::place;
use crate::cluster::plan::Node;

/// Where `cargo xtask image` puts Bowline's image.
pub(crate) fn product() -> PathBuf {
    place::repository().join("target/image/bowline.tar")
}

/// The archives of the images that Kubernetes and the outside suites need; made if there are none.
pub(crate) fn suite() -> Result<Vec<PathBuf>> {
    let directory = place::suite_images();
    if archives(&directory)?.is_empty() && !crate::image::run(&["suite".to_owned()])? {
        bail!("cargo xtask image suite failed");
    }
    let found = archives(&directory)?;
    if found.is_empty() {
        bail!("no images are in {}; run: cargo xtask image suite", directory.display());
    }
    Ok(found)
}

fn archives(directory: &Path) -> Result<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "tar"));
    found.sort();
    Ok(found)
}

/// Imports the archives into each node's containerd, all nodes at once; how many images a node has then.
pub(crate) fn import(lab: &Lab, nodes: &[Node], archives: &[PathBuf]) -> Result<usize> {
    std::thread::scope(|scope| {
        let running: Vec<_> = nodes.iter().map(|node| scope.spawn(move || import_into(lab, &node.name, archives))).collect();
        let mut count = 0;
        for thread in running {
            count = thread.join().map_err(|_| anyhow::anyhow!("a thread that imports images ended in a panic"))??;
        }
        Ok(count)
    })
}

fn import_into(lab: &Lab, node: &str, archives: &[PathBuf]) -> Result<usize> {
    for archive in archives {
        lab.run(node, &["ctr", "--namespace", "k8s.io", "images", "import", "-"], Some(archive))
            .with_context(|| format!("import {}", archive.display()))?;
    }
    let names = lab.run(node, &["ctr", "--namespace", "k8s.io", "images", "list", "--quiet"], None)?;
    Ok(names.lines().filter(|name| !name.starts_with("sha256:")).count())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn only_archives_are_imported() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.tar", "a.tar", "list.json"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let names: Vec<_> = archives(directory.path()).unwrap().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.tar", "b.tar"]);
        assert!(archives(&directory.path().join("absent")).unwrap().is_empty());
    }
}
