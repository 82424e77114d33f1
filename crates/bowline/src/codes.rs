//! Every problem code that Bowline prints, and what `bowline help CODE` says of it. A code is never reused.

/// What is known of a code.
pub(crate) struct Explained {
    /// The number after `BW`.
    pub(crate) code: u16,
    /// One line.
    pub(crate) title: &'static str,
    /// What it means and what to do, in a few lines.
    pub(crate) text: &'static str,
}

/// The explanation of `code` (`BW1101`, `bw1101` or `1101`) as text.
pub(crate) fn explain(code: &str) -> Option<String> {
    let digits = code.strip_prefix("BW").or_else(|| code.strip_prefix("bw")).unwrap_or(code);
    let number = digits.parse::<u16>().ok().filter(|_| digits.len() == 4)?;
    if let Some(known) = CODES.iter().find(|known| known.code == number) {
        return Some(format!("BW{number:04}: {}\n\n{}", known.title, known.text));
    }
    if let Some((_, title, text)) = bowline_lab::codes::CODES.iter().find(|(code, ..)| *code == number) {
        return Some(format!("BW{number:04}: {title}\n\n{text}"));
    }
    let (_, text) = compiled().find(|(code, _)| *code == number)?;
    Some(format!("BW{number:04}\n\n{text}"))
}

/// The codes of the pure rooms.
fn compiled() -> impl Iterator<Item = (u16, &'static str)> {
    bowline_compile::codes::EXPLANATIONS.iter().chain(bowline_dataplane::fabric::EXPLANATIONS).copied()
}

/// All codes, ascending.
pub(crate) const CODES: &[Explained] = &[
    Explained {
        code: 1101,
        title: "the agent's settings file is wrong",
        text: "The file given by --config (or BOWLINE_CONFIG) cannot be read, or a key in it is not known or has a value of the wrong form.\n\
               The message names the line. Nothing was changed on the node.",
    },
    Explained {
        code: 1102,
        title: "this node's name is not known",
        text: "The agent must know which Node object is its own. Give --node-name, BOWLINE_NODE_NAME (in a DaemonSet from\n\
               spec.nodeName by the downward API) or nodeName in the settings file.",
    },
    Explained {
        code: 1103,
        title: "the pod network is not known",
        text: "clusterCIDRs names the networks that all nodes' pod subnets are taken from (the controller manager's --cluster-cidr).\n\
               The agent needs it to know what is never masqueraded and what is unreachable when no node holds it.",
    },
    Explained {
        code: 1104,
        title: "no such backend",
        text: "A backend is chosen by one word: vxlan (packets between nodes are wrapped in UDP; works on every network) or\n\
               host-gw (plain routes; needs all nodes on one link).",
    },
    Explained {
        code: 1105,
        title: "the API server's address is wrong",
        text: "apiServer (--api-server, BOWLINE_API_SERVER) is https://HOST:PORT and nothing more, or a list of such. It names the API server where the nodes\n\
               reach it without any service of the cluster: a control plane node, or a load balancer before several.",
    },
    Explained {
        code: 1106,
        title: "a BPF map cannot have that size",
        text: "mapSizes says how many elements the maps of serviceMode ebpf have room for. Less than 1024 is of no use, since the kernel keeps\n\
               some room for each processor; more than 16777216 it does not make one of. What is left out has its usual size.",
    },
    Explained {
        code: 1120,
        title: "the kube-proxy configuration is wrong",
        text: "The file given by --kube-proxy-config (kubeProxyConfig) cannot be read, is no KubeProxyConfiguration of\n\
               kubeproxy.config.k8s.io/v1alpha1, or holds a value that kube-proxy would refuse as well. The message names line and key.\n\
               Nothing was changed on the node.",
    },
    Explained {
        code: 1121,
        title: "a key of the kube-proxy configuration does nothing in Bowline",
        text: "The key is one of kube-proxy's that has nothing to set here, or one that v1alpha1 does not know. The message says why. It is\n\
               no error: the rest of the file is in force, and the key may stay for the day that kube-proxy reads the file again.",
    },
    Explained {
        code: 1122,
        title: "services are not served in the mode that was asked for",
        text: "iptables, ipvs and userspace are modes of kube-proxy that Bowline does not have yet; nftables serves the services in their\n\
               place, and /proxyMode says so. A word that is no mode at all is refused.",
    },
    Explained {
        code: 1123,
        title: "an address to listen on is wrong",
        text: "healthzBindAddress and metricsBindAddress are ADDRESS, ADDRESS:PORT or none. Without a port they are kube-proxy's, 10256 and\n\
               10249.",
    },
    Explained {
        code: 1201,
        title: "the API server cannot be reached",
        text: "The kubeconfig is unreadable, the server does not answer, or it refuses the agent's account. What is in force on the node stays\n\
               in force. In a pod the agent is told of the `kubernetes` service, which nobody serves before the agent does: set apiServer to\n\
               the address at which kubelet reaches the server.",
    },
    Explained {
        code: 1202,
        title: "the agent's files or sockets cannot be made",
        text: "runDir, stateDir, cniConfDir or cniBinDir cannot be written. The agent must run as root.",
    },
    Explained {
        code: 1203,
        title: "no agent answers on this machine",
        text: "The agent's socket does not answer. Is the agent running, and does --run-dir name its directory? The command must run as root.",
    },
    Explained {
        code: 1204,
        title: "there is no cluster to check",
        text: "`bowline check` runs against a lab: start one with `bowline lab up`, or name one of several with --name.",
    },
    Explained {
        code: 1205,
        title: "the check's pods did not come up",
        text: "`bowline check` makes two pods on each node in the namespace bowline-check and waits for them. `bowline status` and\n\
               `kubectl describe pods -n bowline-check` say what holds them up. The namespace is removed by the next run.",
    },
    Explained {
        code: 1206,
        title: "the health address cannot be opened",
        text: "healthAddress names an address and port on which /healthz, /readyz and /metrics answer. It is taken, or not this machine's.",
    },
    Explained {
        code: 1207,
        title: "the Node's condition cannot be written",
        text: "The agent says in the condition NetworkUnavailable of its own Node whether the node's network works. It needs the right to get\n\
               nodes and to patch nodes/status, and an admission policy may stand in the way. Nothing else depends on it, but a node that\n\
               was marked as unavailable before stays tainted.",
    },
    Explained {
        code: 1208,
        title: "the runtime's CNI configuration or plugin cannot be written",
        text: "Once the node's network works the agent copies its plugin into cniBinDir and then writes 05-bowline.conflist into cniConfDir.\n\
               Until that is done the runtime reports the node as not ready. The agent tries again every half minute.",
    },
    Explained {
        code: 1209,
        title: "the API server is away",
        text: "The agent had listed everything, and for more than ten seconds the API server has not served: it is not there, not to be reached,\n\
               or refuses every question; the problem says since when and why. Pods, services and policies that are in force stay as they\n\
               were, but no change of the cluster is heard of. The agent asks every two to three and a half seconds, and the problem goes\n\
               by itself. An agent that starts meanwhile says BW1201.",
    },
    Explained {
        code: 1210,
        title: "the agent cannot answer yet",
        text: "`bowline explain` asks the agent, which knows the cluster once it has listed every kind of object, and looks into the kernel.\n\
               `bowline status` says what it waits for.",
    },
    Explained {
        code: 1220,
        title: "an address of kube-proxy's /healthz or /metrics cannot be opened",
        text: "Somebody else has the address, most likely a kube-proxy that still runs on the node, or it is not this machine's. Services are\n\
               served all the same, and the agent tries again every five seconds. Load balancers that ask on 10256 are answered by whoever\n\
               has it.",
    },
    Explained {
        code: 1221,
        title: "settings of connection tracking cannot be made",
        text: "The kube-proxy configuration asks for sysctls below net/netfilter that the agent may not set: its /proc/sys is read-only (set\n\
               procSys), or it does not run in the machine's own network namespace, which alone has the limit nf_conntrack_max. With\n\
               conntrack.maxPerCore: 0 and times of 0s the machine's own settings stay, as they do without such a file.",
    },
    Explained {
        code: 1222,
        title: "connection tracking is full",
        text: "The kernel keeps an entry for every connection over this node, and has no room for more: connections that are there go on, packets\n\
               of new ones are dropped, and what policies deny stays denied. `bowline_conntrack_entries` and\n\
               `bowline_conntrack_dropped_packets_total` in the metrics say how full it is and what that cost. Raise nf_conntrack_max (an entry\n\
               takes 256 bytes and more; a kube-proxy configuration has conntrack.maxPerCore for it), or find out who opens so many:\n\
               `conntrack -L | awk '{print $5}' | sort | uniq -c | sort -n | tail`. It is over when nothing was dropped for a minute.",
    },
    Explained {
        code: 1301,
        title: "the kernel refused an object",
        text: "A link, route, rule or nftables object could not be written. The agent tries again with growing pauses; everything else\n\
               is in force. The message has the kernel's own error.",
    },
    Explained {
        code: 1302,
        title: "something of Bowline is left on this node",
        text: "`bowline uninstall --verify` found the objects listed. Stop the agent (and whatever starts it again) and run\n\
               `bowline uninstall` once more.",
    },
    Explained {
        code: 1311,
        title: "services are not translated at the socket",
        text: "serviceMode is ebpf or auto, but the kernel or the node lacks something for the programs at the cgroup's socket hooks: Linux 6.1,\n\
               the cgroup2 hierarchy and the BPF file system mounted, the capabilities BPF, PERFMON and NET_ADMIN. nftables serves everything\n\
               meanwhile, with the same meaning. The agent tries again, at least every minute. With auto this is a note and no problem.\n\
               Where serviceMode is nftables, programs of a former mode could not be taken off: `bowline uninstall` on the stopped agent\n\
               does it, or remove the directory named.",
    },
    Explained {
        code: 1312,
        title: "packets of pods take the kernel's own way",
        text: "serviceMode is ebpf or auto and fastPath is not false, but the kernel or the node lacks something for the programs at links:\n\
               Linux 5.11, the BPF file system mounted, the capabilities BPF, PERFMON and NET_ADMIN. Everything works without them, slower. The\n\
               agent tries again, at least every minute. With auto this is a note and no problem; with fastPath: false nothing is wanted and\n\
               nothing reported.",
    },
    Explained {
        code: 1313,
        title: "ARP of pods is not looked at",
        text: "The kernel does not take the nftables table `arp bowline`, most likely because it was built without CONFIG_NF_TABLES_ARP. What it\n\
               keeps out is ARP that speaks of another than the pod. Pods work without it, and none reaches another's packets by such ARP,\n\
               since each is alone on its link; but a pod could fill the node's table of neighbours, and what it sends is not counted.",
    },
    Explained {
        code: 1314,
        title: "maps of services are full",
        text: "More services or endpoints than the BPF maps have room for. What does not fit is served by nftables, with the same meaning and\n\
               for packets, not sockets; connections and flows that are there live on. `bowline_socket_map_entries` in the metrics says\n\
               how full each map is. Raise the size under mapSizes and restart the agent: maps of another size begin empty, and a\n\
               connected socket from before hears its endpoint's address when it asks for its peer.",
    },
    Explained {
        code: 2030,
        title: "there is no such link",
        text: "The setting iface (--iface) names a link that this machine does not have, or that is down.",
    },
    Explained {
        code: 2031,
        title: "this machine's links cannot be read",
        text: "The agent needs a netlink socket (CAP_NET_ADMIN). It goes on with what it knew and tries again.",
    },
    Explained {
        code: 4201,
        title: "a connectivity check failed",
        text: "A probe of `bowline check` did not come to what was expected. The lines below the check name both ends, what was\n\
               expected and what came. Look at `bowline status` first, then repeat the one check with --keep.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_means_two_things() {
        let labs = bowline_lab::codes::CODES.iter().map(|(code, ..)| *code);
        let mut all: Vec<u16> = CODES.iter().map(|known| known.code).chain(compiled().map(|(code, _)| code)).chain(labs).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn codes_ascend_and_are_found_in_every_spelling() {
        assert!(CODES.windows(2).all(|pair| pair[0].code < pair[1].code));
        for spelling in ["BW1101", "bw1101", "1101"] {
            assert!(explain(spelling).is_some_and(|text| text.starts_with("BW1101")));
        }
        for other in ["BW4001", "BW2010", "BW1001"] {
            assert!(explain(other).is_some(), "{other}: the other rooms' codes are known too");
        }
        assert!(explain("BW9999").is_none() && explain("101").is_none());
    }
}
