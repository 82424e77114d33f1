// SPDX-License-Identifier: Apache-2.0
/* The fast path: packets of connections that the stack has let through, and left as they are, take the same way without it.
 *
 * The stack judges, these programs carry. What leaves by a link with the addresses and ports with which it entered by another is written down,
 * each direction by itself. Once both directions of a TCP connection or a UDP flow are there, what follows is handed from link to link with the
 * Ethernet header that the stack gave it. So policy, guards, routes and services need no second form here: what they drop, translate, encrypt
 * or send elsewhere never leaves as it came, and is never carried.
 *
 * A TCP connection begins without the stack if the stack has let another begin a moment ago from the same address to the same port: no policy
 * asks for more. Connection tracking is told of it by the agent, if it lives for longer than a second.
 *
 * The stack stays the judge: it sees whatever is not plain, one beginning of each kind and one packet of each flow every few seconds, which
 * keeps connection tracking's entry alive. A change of rules or routes begins a new epoch, in which it must let each flow through again.
 *
 * Attached by tcx (Linux 6.6), or as classifiers of clsact; Linux 5.11 for the coarse clock.
 */
#include <linux/if_packet.h>

#include "packet.h"

/* The packet goes on: to others' programs, then to the stack (TCX_NEXT and TC_ACT_UNSPEC). */
#define NEXT -1

#define SECOND 1000000000ULL
/* The stack is shown a packet of each flow at least this often; data of TCP, which must not overtake itself, less often than the rest. */
#define SHOW_AFTER (10 * SECOND)
#define SHOW_DATA_AFTER (60 * SECOND)

char licensed_as[] SEC("license") = "Apache-2.0";

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct carried_key);
	__type(value, struct carried);
} carried SEC(".maps");

/* What the stack lets begin. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct carried_key);
	__type(value, struct opening);
} openings SEC(".maps");

/* Connections that connection tracking does not know yet. The agent hands them over when they are a second old, and before anything else is
 * asked of the stack; it removes those that have ended. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct carried_key);
	__type(value, struct direct);
} direct SEC(".maps");

/* One number, which the agent raises. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u64);
} epoch SEC(".maps");

/* How much a link takes, in bytes (its MTU), by its index: no packet is carried to one that is not in here. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u32);
} mtus SEC(".maps");

/* What this processor last handed to the stack. A packet that is forwarded comes out of the stack on the processor that it entered on, before
 * that one looks at another, so this is what it was before the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct carried_key);
} entered SEC(".maps");

/* What was done, by the numbers below. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 6);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

#define COUNT_PACKETS 0   /* carried */
#define COUNT_BYTES 1     /* in them, with their Ethernet headers; of a batch as one packet */
#define COUNT_CONFIRMED 2 /* flows that began to be carried, each direction by itself */
#define COUNT_TOO_BIG 3   /* shown to the stack, which tells the sender how much the link takes */
#define COUNT_BEGUN 4     /* connections that began without the stack */
#define COUNT_NO_ROOM 5   /* connections left to the stack because there was no room for one more */

static __always_inline void count(__u32 what, __u64 add)
{
	__u64 *sum = bpf_map_lookup_elem(&counts, &what);

	if (sum)
		*sum += add;
}

/* The key of the replies to what leaves by this link. */
static __always_inline void reverse_of(const struct carried_key *key, __u32 link, struct carried_key *reverse)
{
	reverse->source = key->destination;
	reverse->destination = key->source;
	reverse->source_port = key->destination_port;
	reverse->destination_port = key->source_port;
	reverse->link = link;
	reverse->protocol = key->protocol;
}

static __always_inline __u32 ports_of(const struct carried_key *key)
{
	return (__u32)key->source_port << 16 | key->destination_port;
}

static __always_inline void tie(__u32 *tie, const struct carried_key *key)
{
	tie[0] = key->source.words[3];
	tie[1] = key->destination.words[3];
	tie[2] = ports_of(key);
}

/* Whether an element is this key's still: its place may have been given to another. */
static __always_inline int is_of(const volatile __u32 *tie, const struct carried_key *key)
{
	return tie[0] == key->source.words[3] && tie[1] == key->destination.words[3] && tie[2] == ports_of(key);
}

static __always_inline int same_bytes(const __u8 *a, const __u8 *b)
{
	return *(const __u16 *)a == *(const __u16 *)b && *(const __u16 *)(a + 2) == *(const __u16 *)(b + 2) &&
	       *(const __u16 *)(a + 4) == *(const __u16 *)(b + 4);
}

static __always_inline void copy_station(__u8 *to, const __u8 *from)
{
	*(__u16 *)to = *(const __u16 *)from;
	*(__u16 *)(to + 2) = *(const __u16 *)(from + 2);
	*(__u16 *)(to + 4) = *(const __u16 *)(from + 4);
}

/* Whether the link takes it whole, or in the pieces that it is a batch of. */
static __always_inline int fits(struct __sk_buff *skb, const struct packet *packet, __u32 mtu)
{
	__u32 bytes = skb->gso_size ? skb->gso_size + packet->header_bytes : skb->len;

	return bytes <= mtu + sizeof(struct ethhdr);
}

/* One router has been passed. */
static __always_inline int age(struct __sk_buff *skb, struct ethhdr *eth, const struct packet *packet)
{
	if (packet->is_v6) {
		__u8 left = packet->ttl - 1;

		/* A sum of the device over the whole packet would no longer hold. */
		return bpf_skb_store_bytes(skb, sizeof(*eth) + offsetof(struct ipv6hdr, hop_limit), &left, 1, BPF_F_RECOMPUTE_CSUM);
	}
	struct iphdr *ip = (void *)(eth + 1);
	/* RFC 1624: what a word of the header loses its sum gains. */
	__u32 sum = (__u32)ip->check + bpf_htons(0x0100);

	ip->check = (__u16)(sum + (sum >= 0xffff));
	ip->ttl = packet->ttl - 1;
	return 0;
}

/* Hands a packet on the way that the stack has shown, or leaves it to the stack. */
static __always_inline int hand_over(struct __sk_buff *skb, const struct packet *packet, const struct way *way)
{
	struct carried_key *last;
	struct ethhdr *eth;
	__u32 zero = 0;

	if (packet->ttl <= 1)
		return NEXT;
	if (!fits(skb, packet, way->mtu)) {
		count(COUNT_TOO_BIG, 1);
		return NEXT;
	}
	eth = bytes_of(skb, sizeof(*eth) + sizeof(struct iphdr));
	if (!eth || !same_bytes(eth->h_source, way->station))
		return NEXT;
	copy_station(eth->h_dest, way->to);
	copy_station(eth->h_source, way->from);
	if (age(skb, eth, packet))
		return NEXT;
	count(COUNT_PACKETS, 1);
	count(COUNT_BYTES, skb->len);
	if (way->peer)
		return bpf_redirect_peer(way->link, 0);
	/* The program at that link's egress need not look at it. */
	last = bpf_map_lookup_elem(&entered, &zero);
	if (last)
		last->link = 0;
	return bpf_redirect(way->link, 0);
}

/* A packet of a flow that connection tracking knows. */
static __always_inline int carry(struct __sk_buff *skb, const struct packet *packet, struct carried *flow)
{
	struct carried way = *flow;
	__u64 *now_epoch;
	__u64 age_ns;
	__u32 zero = 0;

	barrier();
	/* The place may have been given to another flow while it was read. */
	if (!is_of(flow->tie, &packet->key))
		return NEXT;
	if (!is_plain(packet)) {
		struct carried_key reverse = {};

		reverse_of(&packet->key, way.way.link, &reverse);
		bpf_map_delete_elem(&carried, &packet->key);
		bpf_map_delete_elem(&carried, &reverse);
		return NEXT;
	}
	now_epoch = bpf_map_lookup_elem(&epoch, &zero);
	if (!now_epoch || !way.confirmed || way.epoch != *now_epoch)
		return NEXT;
	age_ns = bpf_ktime_get_coarse_ns() - way.judged_ns;
	if (age_ns > SHOW_AFTER && (age_ns > SHOW_DATA_AFTER || !is_data(packet)))
		return NEXT;
	return hand_over(skb, packet, &way.way);
}

/* The key of a connection, from one of its packets. */
static __always_inline void connection_of(const struct carried_key *key, struct carried_key *connection)
{
	*connection = *key;
	connection->link = 0;
}

/* The key of what may begin, from the first packet of a connection. */
static __always_inline void opening_of(const struct carried_key *key, struct carried_key *opening)
{
	*opening = *key;
	opening->source_port = 0;
}

/* Begins a connection as the stack has let another begin a moment ago, from the same address to the same port; or leaves it to the stack. */
static __always_inline int begin(struct __sk_buff *skb, const struct packet *packet)
{
	struct carried_key key;
	struct opening *opening;
	struct direct *before;
	struct direct new = {};
	__u64 *now_epoch;
	__u64 now_ns;
	__u32 zero = 0;
	int done;

	now_epoch = bpf_map_lookup_elem(&epoch, &zero);
	now_ns = bpf_ktime_get_coarse_ns();
	opening_of(&packet->key, &key);
	opening = bpf_map_lookup_elem(&openings, &key);
	if (!opening || !now_epoch || opening->epoch != *now_epoch || !opening->answered || opening->translated ||
	    now_ns - opening->judged_ns > SHOW_AFTER)
		goto by_the_stack;
	new.there = opening->there;
	new.back = opening->back;
	barrier();
	if (!is_of(opening->tie, &key))
		goto by_the_stack;
	connection_of(&packet->key, &key);
	before = bpf_map_lookup_elem(&direct, &key);
	/* A second try of the same. */
	if (before && !before->ended_ns)
		return hand_over(skb, packet, &new.there);
	tie(new.tie, &key);
	new.opened_ns = now_ns;
	if (bpf_map_update_elem(&direct, &key, &new, BPF_ANY)) {
		count(COUNT_NO_ROOM, 1);
		return NEXT;
	}
	done = hand_over(skb, packet, &new.there);
	if (done == NEXT)
		bpf_map_delete_elem(&direct, &key);
	else
		count(COUNT_BEGUN, 1);
	return done;

by_the_stack:
	/* What was there before under these ports is over, if it was this one's. */
	connection_of(&packet->key, &key);
	before = bpf_map_lookup_elem(&direct, &key);
	if (before && before->back.link == skb->ifindex && is_of(before->tie, &key))
		bpf_map_delete_elem(&direct, &key);
	return NEXT;
}

/* A packet of a connection that was begun here. */
static __always_inline int go_on(struct __sk_buff *skb, const struct packet *packet)
{
	struct carried_key key;
	struct direct *connection;
	struct way way;
	__u32 comes_by;
	int back = 0;
	int done;

	connection_of(&packet->key, &key);
	connection = bpf_map_lookup_elem(&direct, &key);
	if (!connection) {
		reverse_of(&packet->key, 0, &key);
		connection = bpf_map_lookup_elem(&direct, &key);
		if (!connection)
			return NEXT;
		back = 1;
	}
	if (back) {
		way = connection->back;
		comes_by = connection->there.link;
	} else {
		way = connection->there;
		comes_by = connection->back.link;
	}
	barrier();
	if (!is_of(connection->tie, &key) || skb->ifindex != comes_by)
		return NEXT;
	done = hand_over(skb, packet, &way);
	if (done == NEXT)
		return NEXT;
	if (packet->flags & TCP_RST) {
		bpf_map_delete_elem(&direct, &key);
		return done;
	}
	if (back)
		connection->answered = 1;
	if (packet->flags & TCP_FIN) {
		if (back)
			connection->done[1] = 1;
		else
			connection->done[0] = 1;
		if (connection->done[0] && connection->done[1])
			connection->ended_ns = bpf_ktime_get_coarse_ns();
	}
	return done;
}

/* At the ingress of every link that packets of pods come by. */
SEC("classifier")
int bowline_enter(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct carried_key *last;
	struct carried *flow;
	__u32 zero = 0;
	int done = NEXT;

	if (skb->pkt_type != PACKET_HOST || !read_packet(skb, &packet))
		return NEXT;
	packet.key.link = skb->ifindex;
	flow = bpf_map_lookup_elem(&carried, &packet.key);
	if (flow)
		done = carry(skb, &packet, flow);
	else if (packet.key.protocol == IPPROTO_TCP)
		done = is_first(&packet) ? begin(skb, &packet) : go_on(skb, &packet);
	if (done == NEXT) {
		last = bpf_map_lookup_elem(&entered, &zero);
		if (last)
			*last = packet.key;
	}
	return done;
}

static __always_inline int is_as_it_came(const struct carried_key *last, const struct carried_key *key)
{
	return is_same(&last->source, &key->source) && is_same(&last->destination, &key->destination) &&
	       last->source_port == key->source_port && last->destination_port == key->destination_port && last->link == key->link &&
	       last->protocol == key->protocol;
}

static __always_inline int same_way(const struct way *a, const struct way *b)
{
	return a->link == b->link && a->mtu == b->mtu && same_bytes(a->to, b->to) && same_bytes(a->from, b->from) && a->peer == b->peer;
}

/* Writes down what the stack lets begin, by the first packet of a connection. */
static __always_inline void learn_opening(const struct carried_key *packet, const struct way *way, __u64 now_epoch, int as_it_came)
{
	struct carried_key key;
	struct opening *opening;
	struct opening new = {};

	opening_of(packet, &key);
	opening = bpf_map_lookup_elem(&openings, &key);
	if (opening && is_of(opening->tie, &key)) {
		new.translated = opening->translated;
		if (as_it_came && opening->epoch == now_epoch && same_way(&opening->there, way)) {
			opening->judged_ns = bpf_ktime_get_coarse_ns();
			return;
		}
	}
	if (!as_it_came) {
		if (new.translated)
			return;
		new.translated = 1;
	}
	tie(new.tie, &key);
	new.there = *way;
	new.epoch = now_epoch;
	new.judged_ns = bpf_ktime_get_coarse_ns();
	bpf_map_update_elem(&openings, &key, &new, BPF_ANY);
}

/* And by its answer, which enters by `link`. */
static __always_inline void learn_answer(const struct carried_key *answer, const struct way *way, __u64 now_epoch)
{
	struct carried_key key = {};
	struct opening *opening;
	struct opening new;

	reverse_of(answer, way->link, &key);
	key.source_port = 0;
	opening = bpf_map_lookup_elem(&openings, &key);
	if (!opening || opening->epoch != now_epoch || opening->there.link != answer->link)
		return;
	if (opening->answered && same_way(&opening->back, way))
		return;
	/* As a whole, for others may be reading. */
	new = *opening;
	barrier();
	if (!is_of(opening->tie, &key))
		return;
	new.back = *way;
	copy_station(new.back.station, new.there.to);
	copy_station(new.there.station, way->to);
	new.answered = 1;
	bpf_map_update_elem(&openings, &key, &new, BPF_ANY);
}

/* Writes down how a flow leaves. */
static __always_inline void learn_flow(const struct carried_key *key, const struct way *way, __u64 now_epoch)
{
	struct carried_key reverse_key = {};
	struct carried *flow, *reverse;
	struct carried new = {};

	tie(new.tie, key);
	new.way = *way;
	new.epoch = now_epoch;
	new.judged_ns = bpf_ktime_get_coarse_ns();
	flow = bpf_map_lookup_elem(&carried, key);
	if (flow && is_of(flow->tie, key) && flow->epoch == new.epoch && same_way(&flow->way, way)) {
		flow->judged_ns = new.judged_ns;
		if (flow->confirmed)
			return;
	} else {
		bpf_map_update_elem(&carried, key, &new, BPF_ANY);
	}
	reverse_of(key, way->link, &reverse_key);
	reverse = bpf_map_lookup_elem(&carried, &reverse_key);
	if (!reverse || reverse->epoch != new.epoch || reverse->way.link != key->link)
		return;
	flow = bpf_map_lookup_elem(&carried, key);
	if (!flow || !is_of(flow->tie, key) || !is_of(reverse->tie, &reverse_key))
		return;
	copy_station(flow->way.station, reverse->way.to);
	copy_station(reverse->way.station, new.way.to);
	barrier();
	flow->confirmed = 1;
	if (!reverse->confirmed) {
		reverse->confirmed = 1;
		count(COUNT_CONFIRMED, 1);
	}
	count(COUNT_CONFIRMED, 1);
}

/* Writes down what leaves as it came. */
static __always_inline int leave(struct __sk_buff *skb, __u8 peer)
{
	struct packet packet = {};
	struct carried_key *last;
	struct way way = {};
	__u64 *now_epoch;
	__u32 *mtu;
	struct ethhdr *eth;
	__u32 zero = 0;
	int as_it_came;

	/* What this machine itself begins was never received. */
	if (!skb->ingress_ifindex)
		return NEXT;
	last = bpf_map_lookup_elem(&entered, &zero);
	if (!last || last->link != skb->ingress_ifindex || !read_packet(skb, &packet))
		return NEXT;
	packet.key.link = skb->ingress_ifindex;
	as_it_came = is_as_it_came(last, &packet.key);
	if (!as_it_came && !(is_first(&packet) && is_same(&last->source, &packet.key.source)))
		return NEXT;
	now_epoch = bpf_map_lookup_elem(&epoch, &zero);
	eth = bytes_of(skb, sizeof(*eth));
	if (!now_epoch || !eth)
		return NEXT;
	way.link = skb->ifindex;
	copy_station(way.to, eth->h_dest);
	copy_station(way.from, eth->h_source);
	way.peer = peer;
	mtu = bpf_map_lookup_elem(&mtus, &way.link);
	if (!mtu)
		return NEXT;
	way.mtu = *mtu;
	if (is_first(&packet)) {
		/* Of one with a mark connection tracking remembers more than that it is: it must know the next one, too. */
		if (!skb->mark)
			learn_opening(&packet.key, &way, *now_epoch, as_it_came);
	} else if (is_plain(&packet)) {
		learn_flow(&packet.key, &way, *now_epoch);
	} else if (is_answer(&packet)) {
		learn_answer(&packet.key, &way, *now_epoch);
	}
	return NEXT;
}

/* At the egress of a pod's link, where what the stack let through goes to the pod. */
SEC("classifier")
int bowline_to_pod(struct __sk_buff *skb)
{
	return leave(skb, 1);
}

/* At the egress of a link to other nodes. */
SEC("classifier")
int bowline_to_node(struct __sk_buff *skb)
{
	return leave(skb, 0);
}
