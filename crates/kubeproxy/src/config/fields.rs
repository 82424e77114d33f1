//! Every field of KubeProxyConfiguration v1alpha1: its type, and what becomes of it here.

/// What type a field has. `null` is the same as its absence, whatever the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Integer,
    Number,
    Text,
    Texts,
    /// Go's way of writing a time: `1h30m`.
    Duration,
    /// The same, or a number.
    Pause,
    /// Names with true or false.
    Switches,
    /// Whatever is there.
    Any,
    /// Fields of its own.
    Section,
}

impl Kind {
    /// What to write, for a message.
    pub(super) fn wanted(self) -> &'static str {
        match self {
            Kind::Bool => "true or false",
            Kind::Integer => "a whole number of 32 bits",
            Kind::Number => "a number",
            Kind::Text => "a text",
            Kind::Texts => "a list of texts",
            Kind::Duration => "a time as Go writes it, in quotation marks or not: 30s, 1h0m0s",
            Kind::Pause => "a time as Go writes it (5s), or a number",
            Kind::Switches => "names, each with true or false",
            Kind::Any => "anything",
            Kind::Section => "a section of fields",
        }
    }
}

/// What becomes of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Use {
    /// It is taken.
    Taken,
    /// It says nothing to Bowline. Empty values and those listed, kube-proxy's defaults, are passed over in silence.
    Idle {
        /// kube-proxy's defaults as they are written.
        defaults: &'static [&'static str],
        /// Why it says nothing.
        why: &'static str,
    },
}

/// A field.
pub(super) struct Field {
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    pub(super) does: Use,
}

const fn taken(path: &'static str, kind: Kind) -> Field {
    Field { path, kind, does: Use::Taken }
}

const fn idle(path: &'static str, kind: Kind, defaults: &'static [&'static str], why: &'static str) -> Field {
    Field { path, kind, does: Use::Idle { defaults, why } }
}

const MARKS: &str = "Bowline's packet marks are its own and never meet another program's masquerade mark";
const KEPT: &str = "the client's own address is kept on every path that allows it, so nothing is masqueraded for all";
const PERIOD: &str = "each change goes to the kernel at once, and what is there is read back every minute and after others' changes";
const LOOPBACK: &str = "with BPF programs at the socket NodePorts answer the node's own programs on loopback, without them they do not";
const IPVS: &str = "services are served by nftables, not by IPVS";
const WINDOWS: &str = "it is for Windows nodes";
const CLIENT: &str = "the agent watches the API in JSON at its own pace";
const LOGS: &str = "logs are set by BOWLINE_LOG and --log-format";
const LOCAL: &str = "a pod's traffic is told by the pod's own interface, not by address, bridge or name";

/// All fields.
pub(super) const FIELDS: &[Field] = &[
    taken("apiVersion", Kind::Text),
    taken("kind", Kind::Text),
    taken("bindAddress", Kind::Text),
    taken("bindAddressHardFail", Kind::Bool),
    taken("clientConnection", Kind::Section),
    taken("clientConnection.kubeconfig", Kind::Text),
    idle("clientConnection.acceptContentTypes", Kind::Text, &[], CLIENT),
    idle("clientConnection.contentType", Kind::Text, &["application/vnd.kubernetes.protobuf"], CLIENT),
    idle("clientConnection.qps", Kind::Number, &["5"], CLIENT),
    idle("clientConnection.burst", Kind::Integer, &["10"], CLIENT),
    taken("clusterCIDR", Kind::Text),
    idle("configSyncPeriod", Kind::Duration, &["15m0s", "15m"], "the agent's watches need no regular listing anew"),
    taken("conntrack", Kind::Section),
    taken("conntrack.maxPerCore", Kind::Integer),
    taken("conntrack.min", Kind::Integer),
    taken("conntrack.tcpBeLiberal", Kind::Bool),
    taken("conntrack.tcpCloseWaitTimeout", Kind::Duration),
    taken("conntrack.tcpEstablishedTimeout", Kind::Duration),
    taken("conntrack.udpStreamTimeout", Kind::Duration),
    taken("conntrack.udpTimeout", Kind::Duration),
    taken("detectLocal", Kind::Section),
    idle("detectLocal.bridgeInterface", Kind::Text, &[], LOCAL),
    idle("detectLocal.interfaceNamePrefix", Kind::Text, &[], LOCAL),
    taken("detectLocalMode", Kind::Text),
    idle("enableProfiling", Kind::Bool, &[], "there is no Go profiler in it"),
    idle("featureGates", Kind::Switches, &[], "Kubernetes' feature gates switch nothing in Bowline"),
    taken("healthzBindAddress", Kind::Text),
    taken("hostnameOverride", Kind::Text),
    taken("iptables", Kind::Section),
    idle("iptables.localhostNodePorts", Kind::Bool, &[], LOOPBACK),
    idle("iptables.masqueradeAll", Kind::Bool, &[], KEPT),
    idle("iptables.masqueradeBit", Kind::Integer, &["14"], MARKS),
    idle("iptables.minSyncPeriod", Kind::Duration, &["1s"], PERIOD),
    idle("iptables.syncPeriod", Kind::Duration, &["30s"], PERIOD),
    taken("ipvs", Kind::Section),
    idle("ipvs.excludeCIDRs", Kind::Texts, &[], IPVS),
    idle("ipvs.minSyncPeriod", Kind::Duration, &["1s"], IPVS),
    idle("ipvs.scheduler", Kind::Text, &[], IPVS),
    idle("ipvs.strictARP", Kind::Bool, &[], "no service address is put on a link, so no ARP is answered for one"),
    idle("ipvs.syncPeriod", Kind::Duration, &["30s"], IPVS),
    idle("ipvs.tcpFinTimeout", Kind::Duration, &[], IPVS),
    idle("ipvs.tcpTimeout", Kind::Duration, &[], IPVS),
    idle("ipvs.udpTimeout", Kind::Duration, &[], IPVS),
    taken("logging", Kind::Section),
    idle("logging.flushFrequency", Kind::Pause, &["5s"], LOGS),
    idle("logging.format", Kind::Text, &["text"], LOGS),
    taken("logging.options", Kind::Any),
    idle("logging.verbosity", Kind::Integer, &[], LOGS),
    idle("logging.vmodule", Kind::Any, &[], LOGS),
    taken("metricsBindAddress", Kind::Text),
    taken("mode", Kind::Text),
    taken("nftables", Kind::Section),
    idle("nftables.masqueradeAll", Kind::Bool, &[], KEPT),
    idle("nftables.masqueradeBit", Kind::Integer, &["14"], MARKS),
    idle("nftables.minSyncPeriod", Kind::Duration, &["1s"], PERIOD),
    idle("nftables.syncPeriod", Kind::Duration, &["30s"], PERIOD),
    taken("nodePortAddresses", Kind::Texts),
    taken("oomScoreAdj", Kind::Integer),
    idle("portRange", Kind::Text, &["0-0"], "no ports of the node are opened for services"),
    idle("showHiddenMetricsForVersion", Kind::Text, &[], "no metric is hidden"),
    taken("winkernel", Kind::Section),
    idle("winkernel.enableDSR", Kind::Bool, &[], WINDOWS),
    idle("winkernel.forwardHealthCheckVip", Kind::Bool, &[], WINDOWS),
    idle("winkernel.networkName", Kind::Text, &[], WINDOWS),
    idle("winkernel.rootHnsEndpointName", Kind::Text, &[], WINDOWS),
    idle("winkernel.sourceVip", Kind::Text, &[], WINDOWS),
    idle("windowsRunAsService", Kind::Bool, &[], WINDOWS),
];

/// The field of a path.
pub(super) fn field(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.path == path)
}

/// A field that is spelt the same but for capitals.
pub(super) fn meant(path: &str) -> Option<&'static str> {
    FIELDS.iter().map(|field| field.path).find(|known| known.eq_ignore_ascii_case(path))
}
