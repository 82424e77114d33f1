// SPDX-License-Identifier: Apache-2.0
/* Services at the socket: connect(2) and sendto(2) to a virtual address go to an endpoint before there is a packet, and what a program asks
 * of the socket (its peer, a datagram's sender) is answered with the address that it knows.
 *
 * What is in no map is let through as it is: the rules of the packet filter then serve it. So an empty map, a full one and a missing one cost
 * speed and nothing else.
 *
 * Linux 5.8 for getpeername, 6.1 for the errno of a refusal.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/socket.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "address.h"

#define LET 1
#define REFUSE 0

/* Times that a choice is drawn when the list changes under it. */
#define DRAWS 3

char licensed_as[] SEC("license") = "Apache-2.0";

/* The network namespace that is the node's own: only there is a loopback address the node's. Set before loading. */
volatile const __u64 node_netns = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
} frontends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2097152);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct endpoint_key);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

/* Endpoints of UDP frontends, to ask whether one that was drawn earlier is still there. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct live_key);
	__type(value, __u32);
} live SEC(".maps");

/* What a socket was told that its peer is called. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct peer_key);
	__type(value, struct endpoint);
} peers SEC(".maps");

/* The endpoint that a socket which sends datagrams to a frontend keeps. */
struct flow_key {
	__u64 socket;
	struct frontend_key frontend;
	__u32 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct flow_key);
	__type(value, struct endpoint);
} flows SEC(".maps");

static __always_inline int is_mapped(const struct address *a)
{
	return !a->words[0] && !a->words[1] && a->words[2] == V4_PREFIX;
}

static __always_inline int is_loopback(const struct address *a)
{
	if (is_mapped(a))
		return (a->words[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !a->words[0] && !a->words[1] && !a->words[2] && a->words[3] == bpf_htonl(1);
}

/* Finds the frontend that a socket addresses; on return the key is the one under which it was found. */
static __always_inline struct frontend *find(struct bpf_sock_addr *ctx, struct frontend_key *key)
{
	struct frontend *found = bpf_map_lookup_elem(&frontends, key);
	__u32 last = key->address.words[3];

	if (found || !is_loopback(&key->address) || bpf_get_netns_cookie(ctx) != node_netns)
		return found;
	/* In the order of the rules: a pod takes no service's traffic. */
	key->address.words[3] = 0;
	key->kind = FRONTEND_NODE_PORT;
	found = bpf_map_lookup_elem(&frontends, key);
	if (found)
		return found;
	key->address.words[3] = last;
	key->kind = FRONTEND_HOST_PORT;
	found = bpf_map_lookup_elem(&frontends, key);
	if (found)
		return found;
	key->address.words[3] = 0;
	return bpf_map_lookup_elem(&frontends, key);
}

/* Draws an endpoint; nothing if the list changed with every look at it. */
static __always_inline struct endpoint *draw(const struct frontend_key *key, struct frontend *frontend)
{
#pragma unroll
	for (int i = 0; i < DRAWS; i++) {
		struct endpoint_key at = { .frontend = *key };
		struct endpoint *drawn;
		__u32 count = frontend->endpoints;

		at.generation = frontend->generation;
		if (!count)
			return 0;
		at.index = (__u32)(((__u64)bpf_get_prandom_u32() * count) >> 32);
		drawn = bpf_map_lookup_elem(&endpoints, &at);
		if (drawn)
			return drawn;
		frontend = bpf_map_lookup_elem(&frontends, key);
		if (!frontend)
			return 0;
	}
	return 0;
}

static __always_inline void remember(__u64 socket, const struct endpoint *to, const struct endpoint *known_as)
{
	struct peer_key key = { .socket = socket, .endpoint = *to };
	struct endpoint *there = bpf_map_lookup_elem(&peers, &key);

	if (there && is_same(&there->address, &known_as->address) && there->port == known_as->port)
		return;
	bpf_map_update_elem(&peers, &key, known_as, BPF_ANY);
}

/* The endpoint that this socket sent to before, if it is still one. */
static __always_inline struct endpoint *kept(const struct flow_key *flow)
{
	struct endpoint *before = bpf_map_lookup_elem(&flows, flow);
	struct live_key key = { .frontend = flow->frontend };

	if (!before)
		return 0;
	key.endpoint = *before;
	return bpf_map_lookup_elem(&live, &key) ? before : 0;
}

/* Where a socket is to go instead of `to`: 1 with `to` changed, 0 as it is, -1 refused. */
static __always_inline int translate(struct bpf_sock_addr *ctx, struct endpoint *to, int datagram)
{
	struct frontend_key key = { .address = to->address, .port = to->port, .protocol = ctx->protocol, .kind = FRONTEND_VIP };
	struct frontend *frontend;
	struct endpoint *endpoint = 0;
	struct flow_key flow = {};
	__u64 socket;

	if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP)
		return 0;
	frontend = find(ctx, &key);
	if (!frontend)
		return 0;
	if (!frontend->endpoints)
		return -1;
	socket = bpf_get_socket_cookie(ctx);
	if (datagram) {
		flow.socket = socket;
		flow.frontend = key;
		endpoint = kept(&flow);
	}
	if (!endpoint) {
		endpoint = draw(&key, frontend);
		if (!endpoint)
			return 0;
		if (datagram)
			bpf_map_update_elem(&flows, &flow, endpoint, BPF_ANY);
	}
	remember(socket, endpoint, to);
	to->address = endpoint->address;
	to->port = endpoint->port;
	return 1;
}

/* The name by which a socket knows who is at this address. */
static __always_inline int name_of(struct bpf_sock_addr *ctx, struct endpoint *at)
{
	struct peer_key key = { .socket = bpf_get_socket_cookie(ctx), .endpoint = *at };
	struct endpoint *known_as = bpf_map_lookup_elem(&peers, &key);

	if (!known_as)
		return 0;
	*at = *known_as;
	return 1;
}

static __always_inline int refused(void)
{
	bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

static __always_inline int out4(struct bpf_sock_addr *ctx, int datagram)
{
	struct endpoint to = { .address = mapped(ctx->user_ip4), .port = (__be16)ctx->user_port };
	int done = translate(ctx, &to, datagram);

	if (done < 0)
		return refused();
	if (done && is_mapped(&to.address)) {
		ctx->user_ip4 = to.address.words[3];
		ctx->user_port = to.port;
	}
	return LET;
}

static __always_inline void read6(struct bpf_sock_addr *ctx, struct endpoint *at)
{
	at->address.words[0] = ctx->user_ip6[0];
	at->address.words[1] = ctx->user_ip6[1];
	at->address.words[2] = ctx->user_ip6[2];
	at->address.words[3] = ctx->user_ip6[3];
	at->port = (__be16)ctx->user_port;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const struct endpoint *at)
{
	ctx->user_ip6[0] = at->address.words[0];
	ctx->user_ip6[1] = at->address.words[1];
	ctx->user_ip6[2] = at->address.words[2];
	ctx->user_ip6[3] = at->address.words[3];
	ctx->user_port = at->port;
}

static __always_inline int out6(struct bpf_sock_addr *ctx, int datagram)
{
	struct endpoint to = {};
	int done;

	read6(ctx, &to);
	done = translate(ctx, &to, datagram);
	if (done < 0)
		return refused();
	if (done)
		write6(ctx, &to);
	return LET;
}

static __always_inline int back4(struct bpf_sock_addr *ctx)
{
	struct endpoint at = { .address = mapped(ctx->user_ip4), .port = (__be16)ctx->user_port };

	if (name_of(ctx, &at)) {
		ctx->user_ip4 = at.address.words[3];
		ctx->user_port = at.port;
	}
	return LET;
}

static __always_inline int back6(struct bpf_sock_addr *ctx)
{
	struct endpoint at = {};

	read6(ctx, &at);
	if (name_of(ctx, &at))
		write6(ctx, &at);
	return LET;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return out4(ctx, 0);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return out6(ctx, 0);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return out4(ctx, 1);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return out6(ctx, 1);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return back4(ctx);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return back6(ctx);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return back4(ctx);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return back6(ctx);
}
