//! The house's rules that a compiler does not hold: which room may know which, and what no file may hold.

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    /// For each crate, the crates of ours that it may depend on. Dependencies point one way.
    const MAY_SEE: &[(&str, &[&str])] = &[
        ("model", &[]),
        ("compile", &["model"]),
        ("bpf", &[]),
        ("dataplane", &["model", "bpf"]),
        ("kernel", &["model", "dataplane", "bpf"]),
        ("cni", &["model"]),
        ("metrics", &[]),
        ("kubeproxy", &["model", "metrics"]),
        ("dns", &["model", "metrics"]),
        ("apiserver", &["model"]),
        ("lab", &["model", "kernel", "apiserver"]),
        ("bowline", &["model", "compile", "dataplane", "kernel", "cni", "dns", "metrics", "kubeproxy", "lab"]),
    ];

    /// Crates that do no I/O, with what they may not depend on.
    const PURE: &[&str] = &["model", "compile", "bpf", "dataplane", "metrics", "kubeproxy"];
    const IMPURE_DEPENDENCIES: &[&str] = &["tokio", "rustix", "libc", "netlink-sys", "kube", "hyper", "axum", "tracing-subscriber"];

    /// Words that a pure crate's source may not hold.
    const IMPURE_WORDS: &[&str] =
        &["std::fs", "std::process", "std::env::var", "std::net::Tcp", "std::net::Udp", "Instant::now", "SystemTime::now", "async fn"];

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
    }

    fn dependencies(manifest: &str) -> Vec<String> {
        let mut inside = false;
        let mut found = Vec::new();
        for line in manifest.lines().map(str::trim) {
            if line.starts_with('[') {
                inside = line == "[dependencies]" || line == "[build-dependencies]";
            } else if inside && let Some(name) = line.split(['.', '=', ' ']).next().filter(|n| !n.is_empty() && !n.starts_with('#')) {
                found.push(name.to_owned());
            }
        }
        found
    }

    fn manifests() -> BTreeMap<String, Vec<String>> {
        let crates = std::fs::read_dir(root().join("crates")).unwrap();
        crates
            .map(|entry| {
                let path = entry.unwrap().path();
                let text = std::fs::read_to_string(path.join("Cargo.toml")).unwrap();
                (path.file_name().unwrap().to_str().unwrap().to_owned(), dependencies(&text))
            })
            .collect()
    }

    fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn dependencies_point_one_way() {
        let known: BTreeMap<&str, &[&str]> = MAY_SEE.iter().copied().collect();
        for (name, found) in manifests() {
            let may_see =
                known.get(name.as_str()).unwrap_or_else(|| panic!("crates/{name} is not in xtask/src/house.rs: say what it may see"));
            for other in found.iter().filter_map(|d| d.strip_prefix("bowline-")) {
                assert!(may_see.contains(&other), "crates/{name} may not depend on crates/{other}");
            }
        }
    }

    #[test]
    fn pure_rooms_stay_pure() {
        let manifests = manifests();
        for name in PURE {
            for dependency in manifests.get(*name).unwrap() {
                assert!(!IMPURE_DEPENDENCIES.contains(&dependency.as_str()), "crates/{name} is pure and may not depend on {dependency}");
            }
            let mut files = Vec::new();
            sources(&root().join("crates").join(name).join("src"), &mut files);
            assert!(!files.is_empty());
            for file in files {
                let text = std::fs::read_to_string(&file).unwrap();
                for word in IMPURE_WORDS {
                    assert!(!text.contains(word), "{}: a pure crate may not use {word}", file.display());
                }
            }
        }
    }

    #[test]
    fn unsafe_stays_in_its_room() {
        let mut files = Vec::new();
        sources(&root().join("crates"), &mut files);
        let allowed = root().join("crates/kernel/src/sys");
        for file in files.iter().filter(|f| !f.starts_with(&allowed)) {
            let text = std::fs::read_to_string(file).unwrap();
            let found = text
                .lines()
                .any(|line| line.trim_start().starts_with("unsafe ") || line.contains("= unsafe {") || line.contains("(unsafe {"));
            assert!(!found, "{}: unsafe belongs to kernel/src/sys", file.display());
        }
    }
}
