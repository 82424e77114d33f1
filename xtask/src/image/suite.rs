//! The images that the outside suites ask for by name, made here because nothing can be pulled.
//!
//! Two archives: `base.tar` has what any cluster needs (pause, busybox), `tools.tar` what the suites run. Their programs come from
//! `conformance/build` and from Debian. Invariant: a stand-in holds the very program that the test is about, or one that gives the same
//! answer on the wire; docs/images.md says which.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::layer::{Entry, Layer, Packing, hex_digest};
use super::oci::{self, Image, Start};
use super::product::megabytes;
use super::programs::{self, Programs, member};

/// Raised when what is made from the same programs changes.
const FORM: u32 = 1;

/// What a stand-in is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Pause,
    Busybox,
    /// Debian with the network's tools.
    Tools,
    /// The tools with agnhost.
    Agnhost,
    /// The tools with an agnhost that has SCTP without the kernel's.
    AgnhostSctp,
    /// The tools with agnhost and cyclonus's worker.
    Worker,
    /// The program that provokes the invalid state of connection tracking.
    Resetter,
}

/// A stand-in: the names it goes by, and how a container of it starts.
#[derive(Debug)]
struct StandIn {
    names: &'static [&'static str],
    content: Content,
    entrypoint: &'static [&'static str],
    cmd: &'static [&'static str],
}

/// Any cluster needs these.
const BASE: &[StandIn] = &[
    StandIn {
        // Kubernetes 1.35's, its two predecessors, and the one that containerd 1.6 takes unless told otherwise.
        names: &["registry.k8s.io/pause:3.10.1", "registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.6"],
        content: Content::Pause,
        entrypoint: &["/pause", "-P"],
        cmd: &[],
    },
    StandIn {
        names: &["registry.k8s.io/e2e-test-images/busybox:1.37.0-1", "docker.io/library/busybox:latest"],
        content: Content::Busybox,
        entrypoint: &[],
        cmd: &["sh"],
    },
];

/// What the suites run in their pods.
const TOOLS: &[StandIn] = &[
    StandIn {
        // e2e.test 1.35 asks for 2.59 and 2.55, its manifests for 2.54, cyclonus 0.5.6 for 2.43.
        names: &[
            "registry.k8s.io/e2e-test-images/agnhost:2.59",
            "registry.k8s.io/e2e-test-images/agnhost:2.55",
            "registry.k8s.io/e2e-test-images/agnhost:2.54",
            "registry.k8s.io/e2e-test-images/agnhost:2.43",
        ],
        content: Content::Agnhost,
        entrypoint: &["/agnhost"],
        cmd: &["pause"],
    },
    StandIn {
        // The network-policy-api's tests, whose pods are not ready without SCTP.
        names: &["registry.k8s.io/e2e-test-images/agnhost:2.45"],
        content: Content::AgnhostSctp,
        entrypoint: &["/agnhost"],
        cmd: &["pause"],
    },
    StandIn { names: &["docker.io/mfenwick100/cyclonus-worker:latest"], content: Content::Worker, entrypoint: &["/worker"], cmd: &[] },
    StandIn {
        names: &["registry.k8s.io/e2e-test-images/jessie-dnsutils:1.7", "registry.k8s.io/build-image/distroless-iptables:v0.8.9"],
        content: Content::Tools,
        entrypoint: &[],
        cmd: &["/bin/bash"],
    },
    StandIn {
        names: &["registry.k8s.io/e2e-test-images/nginx:1.14-4", "registry.k8s.io/e2e-test-images/nginx:1.15-4"],
        content: Content::Tools,
        entrypoint: &[],
        cmd: &["nginx", "-g", "daemon off;"],
    },
    StandIn {
        names: &["registry.k8s.io/e2e-test-images/regression-issue-74839:1.4"],
        content: Content::Resetter,
        entrypoint: &["/regression-issue-74839"],
        cmd: &[],
    },
];

/// Makes both archives in `cache`'s `images`, or finds them there.
pub(super) fn make(cache: &Path) -> Result<Vec<PathBuf>> {
    let images = cache.join("images");
    let files = vec![images.join("base.tar"), images.join("tools.tar")];
    let programs = Programs::find(cache)?;
    let stamp_file = images.join("suite.stamp");
    let stamp = hex_digest(format!("{FORM} {BASE:?} {TOOLS:?} {}", programs.digest()?).as_bytes());
    if files.iter().all(|file| file.exists()) && std::fs::read_to_string(&stamp_file).is_ok_and(|there| there == stamp) {
        files.iter().for_each(|file| println!("{}: there already", file.display()));
        return Ok(files);
    }
    let layers = Layers::of(&programs)?;
    for (file, stand_ins) in files.iter().zip([BASE, TOOLS]) {
        let made = stand_ins.iter().map(|stand_in| stand_in.image(&layers)).collect::<Result<Vec<_>>>()?;
        oci::write(&made, file)?;
        let bytes = usize::try_from(std::fs::metadata(file)?.len())?;
        println!("{}: {}", file.display(), megabytes(bytes));
        made.iter().flat_map(|image| &image.names).for_each(|name| println!("  {name}"));
    }
    std::fs::write(&stamp_file, stamp)?;
    Ok(files)
}

/// The machine as Go, and so an image, calls it.
pub(super) fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("images are made for x86_64 and aarch64, not for {other}"),
    }
}

impl StandIn {
    fn image<'a>(&self, layers: &'a Layers) -> Result<Image<'a>> {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<String>>();
        let start = Start {
            entrypoint: owned(self.entrypoint),
            cmd: owned(self.cmd),
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            working_dir: "/".to_owned(),
            ..Start::default()
        };
        Ok(Image {
            names: owned(self.names),
            created: "1970-01-01T00:00:00Z".to_owned(),
            architecture: architecture()?,
            layers: layers.for_content(self.content),
            start,
        })
    }
}

/// Each layer once; images are stacks of them.
#[derive(Debug)]
struct Layers {
    pause: Layer,
    busybox: Layer,
    tools: Layer,
    agnhost: Layer,
    agnhost_sctp: Layer,
    worker: Layer,
    resetter: Layer,
}

impl Layers {
    fn of(programs: &Programs) -> Result<Self> {
        // Local files on both ends: little packing saves most of the space, and importing is not slowed.
        let packing = Packing::Plain;
        let tools = std::fs::read(&programs.root).with_context(|| programs.root.display().to_string())?;
        let busybox = member(&tools, "usr/bin/busybox")?;
        let applets = programs::applets(&busybox)?;
        Ok(Self {
            pause: Layer::of(&[Entry::program("pause", member(&tools, "usr/bin/catatonit")?)], packing)?,
            busybox: Layer::of(&busybox_entries(busybox, &applets), packing)?,
            agnhost: Layer::of(&agnhost_entries(programs)?, packing)?,
            agnhost_sctp: Layer::of(&[Entry::program("agnhost", read(&programs.agnhost_sctp)?)], packing)?,
            worker: Layer::of(&[Entry::program("worker", read(&programs.worker)?)], packing)?,
            resetter: Layer::of(&[Entry::program("regression-issue-74839", read(&programs.resetter)?)], packing)?,
            tools: Layer::from_tar(tools, packing)?,
        })
    }

    fn for_content(&self, content: Content) -> Vec<&Layer> {
        match content {
            Content::Pause => vec![&self.pause],
            Content::Busybox => vec![&self.busybox],
            Content::Tools => vec![&self.tools],
            Content::Agnhost => vec![&self.tools, &self.agnhost],
            Content::AgnhostSctp => vec![&self.tools, &self.agnhost_sctp],
            Content::Worker => vec![&self.tools, &self.agnhost, &self.worker],
            Content::Resetter => vec![&self.resetter],
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

fn busybox_entries(busybox: Vec<u8>, applets: &[String]) -> Vec<Entry> {
    let mut entries = vec![
        Entry::directory("bin", 0o755),
        Entry::program("bin/busybox", busybox),
        Entry::directory("etc", 0o755),
        Entry::text("etc/group", "root:x:0:\n"),
        Entry::text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        Entry::directory("root", 0o700),
        Entry::directory("tmp", 0o1777),
    ];
    entries.extend(applets.iter().filter(|name| *name != "busybox").map(|name| Entry::link(&format!("bin/{name}"), "busybox")));
    entries
}

/// What lies over the tools in agnhost's image, at the places where the tests look.
fn agnhost_entries(programs: &Programs) -> Result<Vec<Entry>> {
    Ok(vec![
        Entry::program("agnhost", read(&programs.agnhost)?),
        Entry::link("agnhost-2", "agnhost"),
        Entry::program("coredns", read(&programs.coredns)?),
        // The porter's, from agnhost's own sources.
        Entry::directory("etc", 0o755),
        // Upstream's wget is busybox's, which tries once; tests give it a time limit and count on that. Debian's busybox ends with a
        // segmentation fault at `wget -T`, so this is GNU's, which would try twenty times.
        Entry::text("etc/wgetrc", "tries = 1\n"),
        Entry::text("localhost.crt", &String::from_utf8(read(&programs.porter.join("localhost.crt"))?)?),
        Entry::text("localhost.key", &String::from_utf8(read(&programs.porter.join("localhost.key"))?)?),
        Entry::directory("uploads", 0o755),
        Entry::directory("usr", 0o755),
        Entry::directory("usr/local", 0o755),
        Entry::directory("usr/local/bin", 0o755),
        Entry::link("usr/local/bin/iperf", "/usr/bin/iperf"),
    ])
}
