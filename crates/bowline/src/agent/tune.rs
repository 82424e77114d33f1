//! What kube-proxy sets on the machine beside rules: sysctls of connection tracking, and its own standing with the kernel's OOM killer.
//!
//! Only where a KubeProxyConfiguration is given; without one the machine's own settings stay.

use bowline_kernel::sysctl;
use bowline_kubeproxy::Conntrack;
use bowline_model::Problem;

use super::Teller;
use super::status::Topic;

/// The limit of entries, and the buckets that must grow with it.
const MAX: &str = "net/netfilter/nf_conntrack_max";
const BUCKETS: &str = "net/netfilter/nf_conntrack_buckets";

/// Sets the sysctls once the first rules are in the kernel, which brings connection tracking with them.
pub(crate) async fn conntrack(conntrack: Conntrack, teller: Teller) {
    let mut applied = teller.applied.clone();
    if applied.wait_for(|applied| applied.intent.revision > 0).await.is_err() {
        return;
    }
    let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    let refused: Vec<String> = conntrack.sysctls(cpus).iter().filter_map(|(key, value)| set(key, value).err()).collect();
    if refused.is_empty() {
        return;
    }
    let fix = "give the agent the right to set them (procSys), or set conntrack.maxPerCore to 0 and the times to 0s in the kube-proxy file";
    let problem = Problem::new(1221, "settings of connection tracking cannot be made", "conntrack", fix);
    teller.house.set(Topic::Conntrack, problem.because(refused.join("; ")));
}

fn set(key: &str, value: &str) -> Result<(), String> {
    if sysctl::ensure(key, value).map_err(|error| error.to_string())? {
        tracing::info!(key, value, "sysctl set");
    }
    if key != MAX {
        return Ok(());
    }
    let number = |text: &str| text.parse::<u64>().ok();
    let wanted = number(value).unwrap_or(0) / 4;
    match sysctl::read(BUCKETS).map_err(|error| error.to_string())?.and_then(|text| number(&text)) {
        Some(buckets) if buckets < wanted => sysctl::write(BUCKETS, &wanted.to_string()).map_err(|error| error.to_string()),
        Some(_) | None => Ok(()),
    }
}

/// How readily the kernel ends this process when memory runs out.
pub(crate) fn oom_score(adj: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", adj.to_string()) {
        tracing::warn!(adj, %error, "oomScoreAdj cannot be set: a lower value needs CAP_SYS_RESOURCE");
    }
}
