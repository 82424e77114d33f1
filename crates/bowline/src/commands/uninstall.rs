//! `bowline uninstall`: takes everything of ours off this node, and proves it.
//!
//! Only what carries our mark is touched: the tables `inet bowline` and `arp bowline`, BPF programs and maps in our directory, routes and rules of our protocol number, links by our names and alias,
//! our files. Others' objects are never read as ours.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bowline_dataplane::objects::nft::TableFamily;
use bowline_kernel::bpf::{Fastpath, Hooks};
use bowline_kernel::netlink::{NetDriver, Netlink};
use bowline_kernel::nft::NftDriver;
use bowline_kernel::reconcile::Driver;
use bowline_model::Problem;
use clap::Args;

use super::output::{self, Mark};
use crate::agent::install::{CONF_NAME, PLUGIN_NAME, owns_loopback};

const TABLES: [TableFamily; 2] = [TableFamily::Inet, TableFamily::Arp];

/// Flags of `bowline uninstall`.
#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// Change nothing: look for what is left, and fail if there is anything
    #[arg(long)]
    verify: bool,
    /// Once nothing is left, stay until TERM: for a DaemonSet, whose rollout then ends when every node is clean
    #[arg(long)]
    stay: bool,
    /// Directory of sockets
    #[arg(long, env = "BOWLINE_RUN_DIR", default_value = "/run/bowline", value_name = "DIR")]
    run_dir: PathBuf,
    /// Directory of state
    #[arg(long, env = "BOWLINE_STATE_DIR", default_value = "/var/lib/bowline", value_name = "DIR")]
    state_dir: PathBuf,
    /// The runtime's configuration directory
    #[arg(long, env = "BOWLINE_CNI_CONF_DIR", default_value = "/etc/cni/net.d", value_name = "DIR")]
    cni_conf_dir: PathBuf,
    /// The runtime's plugin directory
    #[arg(long, env = "BOWLINE_CNI_BIN_DIR", default_value = "/opt/cni/bin", value_name = "DIR")]
    cni_bin_dir: PathBuf,
}

impl UninstallArgs {
    fn files(&self) -> Vec<PathBuf> {
        let mut files =
            vec![self.cni_conf_dir.join(CONF_NAME), self.cni_bin_dir.join(PLUGIN_NAME), self.run_dir.clone(), self.state_dir.clone()];
        if owns_loopback(&self.cni_bin_dir) {
            files.push(self.cni_bin_dir.join(crate::loopback::PLUGIN_NAME));
        }
        files
    }
}

/// Runs the command.
pub(crate) fn run(args: &UninstallArgs) -> ExitCode {
    if crate::agent::status::ask(&args.run_dir).is_ok() {
        let problem =
            Problem::new(1302, "the agent still runs and would put everything back", args.run_dir.display().to_string(), "stop it first");
        eprintln!("{problem}");
        return output::exit(output::BAD);
    }
    let outcome = if args.verify { Ok(()) } else { remove(args) };
    match outcome.and_then(|()| left(args)) {
        Ok(left) if left.is_empty() => {
            let _ = writeln!(io::stdout(), "{} nothing of Bowline is left on this node", Mark::Ok.text());
            if args.stay { stay() } else { ExitCode::SUCCESS }
        }
        Ok(left) => {
            let mut out = io::stdout();
            let _ = writeln!(out, "{} BW1302 {} left on this node:", Mark::Fail.text(), left.len());
            for item in left {
                let _ = writeln!(out, "  {item}");
            }
            output::exit(output::BAD)
        }
        Err(error) => {
            eprintln!("error: this node could not be looked over: {error:#}; run it as root");
            output::exit(output::UNKNOWN)
        }
    }
}

/// Waits for TERM or INT.
fn stay() -> ExitCode {
    let waited =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map(|runtime| runtime.block_on(crate::agent::wait_for_signal()));
    match waited {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(_)) | Err(_) => output::exit(output::UNKNOWN),
    }
}

fn remove(args: &UninstallArgs) -> anyhow::Result<()> {
    let mut node = Netlink::open()?;
    // The runtime must not find a plugin without an agent: its configuration goes first.
    for file in args.files() {
        remove_path(&file)?;
    }
    for name in our_links(&mut node)? {
        node.delete_link(&name)?;
    }
    Fastpath::uninstall()?;
    Hooks::uninstall()?;
    NetDriver::open()?.uninstall()?;
    for family in TABLES {
        NftDriver::open_of(family)?.uninstall()?;
    }
    Ok(())
}

fn remove_path(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn our_links(node: &mut Netlink) -> anyhow::Result<Vec<String>> {
    let links = node.links()?;
    Ok(links.into_iter().filter(|l| l.is_ours()).map(|l| l.name).collect())
}

/// Everything of ours that is still here, in words.
fn left(args: &UninstallArgs) -> anyhow::Result<Vec<String>> {
    let mut found: Vec<String> =
        args.files().iter().filter(|f| f.symlink_metadata().is_ok()).map(|f| format!("file {}", f.display())).collect();
    found.extend(Fastpath::left()?);
    found.extend(Hooks::home()?.map(|home| format!("BPF programs and maps in {}", home.display())));
    found.extend(our_links(&mut Netlink::open()?)?.into_iter().map(|name| format!("link {name}")));
    found.extend(NetDriver::open()?.read_owned(&BTreeMap::new())?.into_keys().map(|key| format!("{key:?}")));
    for family in TABLES {
        let table = NftDriver::open_of(family)?.read_owned(&BTreeMap::new())?;
        found.extend(table.into_keys().map(|key| format!("nftables {family:?} {key:?}")));
    }
    Ok(found)
}
