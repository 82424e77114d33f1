//! Images into the nodes: nothing is pulled from anywhere, every image comes from an archive made on this machine.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cluster::lab::Lab;
use crate::cluster::plan::Node;

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
