//! The programs: loading, attaching, looking whether they are there, taking off.

use std::fs::{self, File};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::features;
use super::lookup::Lookup;
use super::maps::{Fill, Pins, SocketDriver};
use super::sizes::Sizes;
use super::stale::Sweeper;
use crate::mounts;
use crate::sys::bpf as sys;

/// Our directory in the BPF file system.
pub(super) const DIRECTORY: &str = "bowline";

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

const NO_CGROUP: BpfError = BpfError::NotMounted { kind: "cgroup2", command: "mount -t cgroup2 cgroup2 /sys/fs/cgroup" };

/// Why services are not served at the socket.
#[derive(Debug, Error)]
pub enum BpfError {
    /// A file system that the hooks live in is not mounted.
    #[error("no {kind} file system is mounted")]
    NotMounted {
        /// Its type.
        kind: &'static str,
        /// How it is mounted.
        command: &'static str,
    },
    /// The process sees a container's cgroup tree, and nobody said where the node's is.
    #[error("a container's cgroup tree is not the node's")]
    Contained,
    /// The kernel did not take the programs or their maps.
    #[error("the kernel does not take the programs: {reason}")]
    Load {
        /// The chain of errors, the verifier's last words among them.
        reason: String,
    },
    /// A program could not be attached or pinned.
    #[error("{hook}: cannot be attached: {reason}")]
    Attach {
        /// Which hook.
        hook: &'static str,
        /// The chain of errors.
        reason: String,
    },
    /// A file of ours there cannot be made, read or removed.
    #[error("{}: {source}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl BpfError {
    /// What an operator does about it.
    pub fn fix(&self) -> String {
        match self {
            BpfError::NotMounted { command, .. } => format!("mount it: {command}"),
            BpfError::Contained => "mount the node's /sys/fs/cgroup into the container and name the place in cgroupRoot".to_owned(),
            BpfError::Load { .. } => {
                "Linux 6.1 with CONFIG_CGROUP_BPF and the capabilities BPF, PERFMON and NET_ADMIN are needed; or set serviceMode: nftables"
                    .to_owned()
            }
            BpfError::Attach { .. } => {
                "let nobody hold the cgroup root exclusively (`bpftool cgroup tree`), or set serviceMode: nftables".to_owned()
            }
            BpfError::File { .. } => "let the agent write to the BPF file system, or set serviceMode: nftables".to_owned(),
        }
    }
}

/// Where hooks live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The cgroup whose processes meet them, in the cgroup2 hierarchy.
    pub cgroup: PathBuf,
    /// A directory of a BPF file system, in which ours is made.
    pub bpffs: PathBuf,
}

impl Place {
    /// The root of the cgroup tree and the first BPF file system that this process sees.
    ///
    /// # Errors
    /// When one of them is not mounted.
    pub fn of_machine() -> Result<Place, BpfError> {
        Ok(Place { cgroup: first("cgroup2")?.ok_or(NO_CGROUP)?, bpffs: bpffs()? })
    }

    /// The cgroup2 tree at `root`, or beside version 1 in `unified` below it, and the first BPF file system.
    ///
    /// # Errors
    /// When one of them is not mounted.
    pub fn with_cgroup(root: &Path) -> Result<Place, BpfError> {
        let is_v2 =
            |path: &PathBuf| rustix::fs::statfs(path).is_ok_and(|fs| u64::try_from(fs.f_type).is_ok_and(|kind| kind == CGROUP2_MAGIC));
        let cgroup = [root.to_owned(), root.join("unified")].into_iter().find(is_v2).ok_or(NO_CGROUP)?;
        Ok(Place { cgroup, bpffs: bpffs()? })
    }
}

/// The maps, each by the name of its pin.
const MAPS: [&str; 5] = ["frontends", "endpoints", "live", "peers", "flows"];

/// The programs at their hooks.
#[derive(Debug)]
pub struct Hooks {
    place: Attaching,
    pins: Pins,
}

/// Where the programs are attached, and where that is written down.
#[derive(Debug)]
struct Attaching {
    cgroup: PathBuf,
    maps: PathBuf,
    links: PathBuf,
    node_netns: u64,
    sizes: Sizes,
}

impl Hooks {
    /// Attaches the programs, for the network namespace that the calling thread is in; those of this very build that are there already stay as
    /// they are.
    ///
    /// # Errors
    /// When the kernel lacks something, or the agent a right.
    pub fn open_at(place: &Place, sizes: Sizes) -> Result<Hooks, BpfError> {
        let home = place.bpffs.join(DIRECTORY);
        let node_netns = own_netns()?;
        let mut hash = Sha256::new();
        hash.update(bowline_bpf::sockets());
        hash.update(node_netns.to_be_bytes());
        hash.update(sizes.directory());
        let hash = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
        let (maps, links) = (home.join(sizes.directory()), home.join(format!("links-{hash}")));
        let place = Attaching { cgroup: place.cgroup.clone(), maps, links, node_netns, sizes };
        place.attach().map_err(|error| features::explained(error, features::OF_HOOKS))?;
        let pins = Pins::open(&place.maps, &MAPS)?;
        Ok(Hooks { place, pins })
    }

    /// The driver of the maps that the programs look into.
    ///
    /// # Errors
    /// If a map's pin is gone.
    pub fn driver(&self) -> Result<SocketDriver, BpfError> {
        SocketDriver::open(&self.place.maps)
    }

    /// What tells how full the maps are that the programs fill themselves.
    ///
    /// # Errors
    /// If a map's pin is gone.
    pub fn fill(&self) -> Result<Fill, BpfError> {
        Fill::open(&self.place.maps)
    }

    /// What reads of the maps what belongs to one address.
    ///
    /// # Errors
    /// If a map's pin is gone.
    pub fn lookup(&self) -> Result<Lookup, BpfError> {
        Lookup::open(&self.place.maps)
    }

    /// What finds the sockets whose endpoint is gone.
    ///
    /// # Errors
    /// If a map's pin is gone.
    pub fn sweeper(&self) -> Result<Sweeper, BpfError> {
        Sweeper::open(&self.place.maps)
    }

    /// Pins the maps again if someone removed their pins, and attaches what is missing; says whether anything was. So programs that are attached
    /// anew know what those before them knew.
    ///
    /// # Errors
    /// As [`Hooks::open_at`].
    pub fn repair(&self) -> Result<bool, BpfError> {
        let unpinned = self.pins.keep()?;
        if self.place.are_attached() {
            return Ok(unpinned);
        }
        self.place.attach()?;
        Ok(true)
    }

    /// Removes what other builds left: to be called once the maps hold everything.
    ///
    /// # Errors
    /// When the directory cannot be read or a pin not be removed.
    pub fn retire_others(&self) -> Result<(), BpfError> {
        let Some(home) = self.place.links.parent() else { return Ok(()) };
        for entry in fs::read_dir(home).map_err(at(home))? {
            let path = entry.map_err(at(home))?.path();
            if path != self.place.links && path != self.place.maps {
                fs::remove_dir_all(&path).map_err(at(&path))?;
            }
        }
        Ok(())
    }

    /// Takes all programs off and removes their maps; nothing that is not ours. Says whether there was anything.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn uninstall() -> Result<bool, BpfError> {
        let Some(home) = Hooks::home()? else { return Ok(false) };
        fs::remove_dir_all(&home).map_err(at(&home))?;
        Ok(true)
    }

    /// Our directory in the BPF file system, if it is there.
    ///
    /// # Errors
    /// When the mounts cannot be read.
    pub fn home() -> Result<Option<PathBuf>, BpfError> {
        Ok(first("bpf")?.map(|mount| mount.join(DIRECTORY)).filter(|home| home.symlink_metadata().is_ok()))
    }
}

impl Attaching {
    /// Whether every program is where it belongs.
    fn are_attached(&self) -> bool {
        bowline_bpf::SOCKET_HOOKS.iter().all(|hook| sys::cgroup_link_is_attached(&self.links.join(hook)).unwrap_or(false))
    }

    fn attach(&self) -> Result<(), BpfError> {
        for directory in [&self.maps, &self.links] {
            fs::create_dir_all(directory).map_err(at(directory))?;
        }
        if self.are_attached() && SocketDriver::open(&self.maps).is_ok() {
            return Ok(());
        }
        let load = |error: aya::EbpfError| BpfError::Load { reason: chain(&error) };
        let mut loader = EbpfLoader::new();
        loader.override_global(bowline_bpf::NODE_NETNS, &self.node_netns, true).default_map_pin_directory(&self.maps);
        for (map, size) in self.sizes.each() {
            loader.map_max_entries(map, size);
        }
        let mut programs = loader.load(bowline_bpf::sockets()).map_err(load)?;
        let cgroup = File::open(&self.cgroup).map_err(at(&self.cgroup))?;
        for hook in bowline_bpf::SOCKET_HOOKS {
            let failed = |reason: String| BpfError::Attach { hook, reason };
            let program = programs.program_mut(hook).ok_or_else(|| failed("not in the object".to_owned()))?;
            let program: &mut CgroupSockAddr = program.try_into().map_err(|error| failed(chain(&error)))?;
            program.load().map_err(|error| BpfError::Load { reason: format!("{hook}: {}", chain(&error)) })?;
            let link = program.attach(&cgroup, CgroupAttachMode::Single).and_then(|id| program.take_link(id));
            let link = link.map_err(|error| failed(chain(&error)))?;
            let link = FdLink::try_from(link).map_err(|error| failed(chain(&error)))?;
            let pin = self.links.join(hook);
            // Ours of before, which someone detached, or which is there while another is missing: the new one works already.
            match fs::remove_file(&pin) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&pin)(error)),
                _ => {}
            }
            link.pin(&pin).map_err(|error| failed(chain(&error)))?;
        }
        Ok(())
    }
}

/// Begins the names of the directories of maps, of whichever version and sizes.
pub(super) const MAPS_PREFIX: &str = "maps-";

pub(super) fn is_maps_directory(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(MAPS_PREFIX))
}

pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> BpfError {
    let path = path.to_owned();
    move |source| BpfError::File { path: path.clone(), source }
}

fn first(kind: &str) -> Result<Option<PathBuf>, BpfError> {
    mounts::first_of(kind).map_err(at(Path::new("/proc/self/mountinfo")))
}

pub(super) fn bpffs() -> Result<PathBuf, BpfError> {
    first("bpf")?.ok_or(BpfError::NotMounted { kind: "bpf", command: "mount -t bpf bpf /sys/fs/bpf" })
}

/// The cookie of the calling thread's network namespace, by a socket that sends nothing.
fn own_netns() -> Result<u64, BpfError> {
    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0")).or_else(|_| UdpSocket::bind("0.0.0.0:0"));
    let cookie = socket.and_then(|socket| sys::netns_cookie(socket.as_fd()));
    cookie.map_err(|error| BpfError::Load { reason: format!("the network namespace has no cookie (Linux 5.14): {error}") })
}

/// An error with all that caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
