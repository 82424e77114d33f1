//! The codes of this crate's problems, each with its explanation for `bowline help CODE`. A code is never reused.

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal: $text:literal;)*) => {
        $($(#[$doc])* pub const $name: u16 = $code;)*

        /// Every code with its explanation.
        pub const EXPLANATIONS: &[(u16, &str)] = &[$(($code, $text)),*];
    };
}

codes! {
    /// A node has no usable address.
    NODE_WITHOUT_ADDRESS = 2001: "A Node has no InternalIP in its status, so nothing can be sent to its pods. The kubelet or cloud controller sets it; check its --node-ip.";
    /// A node has no pod subnet.
    NODE_WITHOUT_SUBNET = 2002: "A Node has no usable spec.podCIDR. Run the controller manager with --allocate-node-cidrs and --cluster-cidr, or set the field.";
    /// Two nodes have overlapping pod subnets.
    SUBNETS_OVERLAP = 2003: "Two Nodes claim the same pod addresses. The older Node keeps them; give the other one another subnet (delete and register it again).";
    /// A pod subnet is no network.
    BAD_SUBNET = 2004: "A Node's podCIDR is not a network in CIDR form and is disregarded.";
    /// A namespace, node or pod cannot be read.
    OBJECT_UNREADABLE = 2005: "An object has a field of the wrong type and is left out as if it did not exist.";
    /// A pod's or node's address is no address.
    BAD_ADDRESS = 2006: "An address in an object's status is not an IP address and is disregarded.";
    /// Two services have the same address, protocol and port.
    FRONTEND_TAKEN = 3001: "Two Services want the same address, protocol and port. Cluster addresses go before external ones, then the older Service keeps it.";
    /// An external or load balancer address is not allowed.
    EXTERNAL_ADDRESS_REFUSED = 3002: "A Service claims an external address that no setting allows it. Anyone who may write Services could otherwise draw other hosts' traffic to their pods (CVE-2020-8554). Allow the range in the agent's settings if it is yours to give.";
    /// A virtual address is no address.
    BAD_SERVICE_ADDRESS = 3003: "An address of a Service is not an IP address and is disregarded.";
    /// A port number or protocol is out of range.
    BAD_SERVICE_PORT = 3004: "A port of a Service has a number outside 1 to 65535 or a protocol other than TCP, UDP and SCTP; the others of its ports are served.";
    /// An endpoint cannot be one.
    BAD_ENDPOINT = 3005: "An endpoint of an EndpointSlice is not an address that a pod can have (malformed, loopback, link-local, multicast or unspecified) and is left out.";
    /// A service or slice cannot be read.
    SERVICE_UNREADABLE = 3007: "A Service, EndpointSlice or ServiceCIDR has a field of the wrong type and is left out as if it did not exist.";
    /// A field of a service has a value that Kubernetes does not know.
    BAD_SERVICE_FIELD = 3008: "A field of a Service has a value that Kubernetes does not know; its default is used.";
    /// An external name is no name.
    BAD_EXTERNAL_NAME = 3009: "The externalName of a Service is not a DNS name, so its name is not answered.";
    /// A range of a load balancer's clients is no network.
    BAD_SOURCE_RANGE = 3010: "An entry of a Service's loadBalancerSourceRanges is not a network in CIDR form. It lets nobody in; the others still do.";
    /// A selector of a policy cannot be understood.
    BAD_SELECTOR = 4001: "A selector of a policy cannot be understood. A NetworkPolicy's peer with it matches nothing, a NetworkPolicy with it as podSelector closes every pod that it may mean; a ClusterNetworkPolicy's rule that it may be about takes nothing if it is an Accept rule, and denies everything otherwise.";
    /// An address block of a policy cannot be understood.
    BAD_BLOCK = 4002: "An address block of a policy cannot be understood. An ipBlock of a NetworkPolicy matches nothing then; a ClusterNetworkPolicy's rule with such a network takes nothing if it is an Accept rule, and denies everything otherwise.";
    /// A port of a policy cannot be understood.
    BAD_POLICY_PORT = 4003: "A port of a policy cannot be understood. That of a NetworkPolicy matches nothing; a ClusterNetworkPolicy's rule with it takes nothing if it is an Accept rule, and denies everything otherwise.";
    /// A peer of a policy is empty or contradicts itself.
    BAD_PEER = 4004: "A peer of a policy is empty or contradicts itself. That of a NetworkPolicy (an ipBlock beside selectors) matches nothing. A ClusterNetworkPolicy's rule with a peer in which not exactly one known field is set, as one for a later version of the API would be, takes nothing if it is an Accept rule, and denies everything otherwise, as the API says (policy.networking.k8s.io/v1alpha2).";
    /// A policy type is unknown.
    BAD_POLICY_TYPE = 4005: "A policyType of a NetworkPolicy is neither Ingress nor Egress; the policy is taken to close both directions.";
    /// A policy cannot be read.
    POLICY_UNREADABLE = 4006: "A policy has a field of the wrong type; the pods that it selects (if that cannot be read, all of its namespace, or of the cluster for a ClusterNetworkPolicy) are closed in both directions.";
    /// A ClusterNetworkPolicy does not say which pods it is about.
    BAD_SUBJECT = 4007: "The subject of a ClusterNetworkPolicy does not have exactly one of namespaces and pods, or has a selector that cannot be understood. For the pods that it may mean its Accept rules take nothing, and its Deny and Pass rules deny everything.";
    /// A field of a ClusterNetworkPolicy has a value that the API does not know.
    BAD_TIER_FIELD = 4008: "A tier, priority or action of a ClusterNetworkPolicy is none that the API has (policy.networking.k8s.io/v1alpha2). An unknown action denies; a policy of an unknown tier closes the pods that it is about in both directions, in the Admin tier; a priority outside 0 to 1000 is taken as the number that it is.";
    /// A peer of a ClusterNetworkPolicy is known and not supported.
    UNSUPPORTED_PEER = 4009: "A rule of a ClusterNetworkPolicy has domainNames as a peer, which Bowline does not support. As the API says of what an implementation does not know, an Accept rule with it takes nothing, and any other denies everything. Name the networks instead.";
    /// A question to `bowline explain` cannot be understood.
    BAD_QUESTION = 4101: "`bowline explain SRC DST[:PORT[/PROTOCOL]]` takes for each end NAMESPACE/POD, NAMESPACE/SERVICE, NODE or an address. pod/NAMESPACE/NAME, svc/NAMESPACE/NAME and node/NAME say which of them is meant; an IPv6 address with a port stands in brackets. PROTOCOL is tcp, udp or sctp. DST/icmp asks for a ping, which has no port; DST/icmpv6 for one between IPv6 addresses. A pod or service that is called so is named with its port.";
    /// An end of the question is not in the cluster.
    NO_SUCH_END = 4102: "No pod, service or node has the name that was asked for, or the address is one of the pod network that nobody holds. kubectl get pods,services -A and kubectl get nodes show what there is.";
    /// An end of the question can be a pod and a service.
    AMBIGUOUS_END = 4103: "A pod and a service of that namespace have the same name. Write pod/NAMESPACE/NAME or svc/NAMESPACE/NAME.";
    /// An end of the question has no address to talk to.
    END_WITHOUT_ADDRESS = 4104: "The pod has no address (it waits, or has ended), the service has no cluster address or no endpoint, the node has no InternalIP, or the two ends have no address family in common.";
    /// The port of the question is not one of the destination's.
    NO_SUCH_PORT = 4105: "The destination has no port of that name or number, or has several and none was named. The port of a service is the service's own, not its endpoints'.";
    /// A file of policy cases cannot be read.
    BAD_CASES = 4110: "A file for `bowline policy test` is YAML with manifests (paths, relative to the file, or objects) and cases (from, to, port, expect: pass or drop). The message names file, case and field; docs/guides/policy.md has an example.";
    /// A manifest of a file of policy cases cannot be read.
    BAD_MANIFEST = 4111: "A manifest that a file of policy cases names is not there, is no YAML, or has an object that cannot be read, or a policy with a field that policies do not have. Objects of kinds that say nothing about policies are left out and are no error.";
    /// What was explained, the oracle and the kernel do not agree.
    VERDICTS_DIFFER = 4120: "`bowline explain` found that its own verdict, the oracle's and that of the rules in the kernel are not the same, or not for the same kind of reason. Either the cluster changed while it looked (ask again), or someone changed the table inet bowline, or it is a bug: please report it with the output of -o json. The kernel's verdict is what holds.";
}
