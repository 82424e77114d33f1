/* SPDX-License-Identifier: Apache-2.0 */
/* What the maps hold. The other side is src/abi.rs; src/layout.rs holds both to the same offsets. Addresses are IPv6, IPv4 ones mapped
 * (::ffff:a.b.c.d); ports and addresses are in network byte order, everything else in the machine's. */
#pragma once

#include <linux/types.h>

/* Kinds of frontend. */
#define FRONTEND_VIP 0       /* an address of its own */
#define FRONTEND_NODE_PORT 1 /* a port of the node; the address is the unspecified one of its family */
#define FRONTEND_HOST_PORT 2 /* one that leads to a pod; the address is a loopback one, or the unspecified one of its family */

struct address {
	__u32 words[4];
};

struct frontend_key {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 kind;
};

struct frontend {
	__u32 generation; /* which of the endpoint lists counts */
	__u32 endpoints;  /* how many there are in it; none: refuse */
};

struct endpoint_key {
	struct frontend_key frontend;
	__u32 generation;
	__u32 index;
};

struct endpoint {
	struct address address;
	__be16 port;
	__u16 zero;
};

struct live_key {
	struct frontend_key frontend;
	struct endpoint endpoint;
};

/* A socket and whom it speaks to; the value is what it believes to speak to. */
struct peer_key {
	__u64 socket; /* its cookie */
	struct endpoint endpoint;
	__u32 zero;
};

/* A flow in one direction, as it enters this machine's stack. */
struct carried_key {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 link; /* index of the link by which it enters */
	__u8 protocol;
	__u8 zero[3];
};

/* How a packet leaves, and from whom it must come. */
struct way {
	__u32 link;      /* index of the link by which it leaves */
	__u32 mtu;       /* of that link, in bytes */
	__u8 to[6];      /* destination and source of the Ethernet header that it leaves with */
	__u8 from[6];
	__u8 station[6]; /* source of the Ethernet header that it enters with: the one to which replies leave */
	__u8 peer;       /* the link is a pod's, and the packet goes to its other end */
	__u8 zero;
};

/* How a flow leaves: what the stack made of the last packet of it that it was shown. */
struct carried {
	__u32 tie[3]; /* of the key: last words of the addresses, both ports; written first, read last */
	struct way way;
	__u64 epoch;     /* in which the stack was asked */
	__u64 judged_ns; /* when, by the coarse monotonic clock */
	__u8 confirmed;  /* the stack lets replies through, untranslated as well */
	__u8 zero[7];
};

/* What the stack lets begin: TCP connections from one address, entering by one link, to one port of another. The key is that of a flow, with no
 * source port. */
struct opening {
	__u32 tie[3];
	struct way there;
	struct way back;
	__u32 zero;
	__u64 epoch;     /* in which the stack was asked */
	__u64 judged_ns; /* when it last let one begin */
	__u8 answered;   /* it let the answer through, untranslated as well */
	__u8 translated; /* it makes connections of the same source and destination out of others: nothing is begun here without it */
	__u8 zeros[6];
};

/* A TCP connection that was begun without the stack, which connection tracking does not know. The key is that of the flow of the one who began it,
 * with no link. The key and what comes before `there` stay as they are in every version, so that another build can hand the connections over. */
struct direct {
	__u64 opened_ns; /* by the coarse monotonic clock */
	__u64 ended_ns;  /* when both ends had said that they were done, else 0 */
	__u8 answered;   /* the other end has accepted */
	__u8 done[2];    /* FIN was seen: of the one who began, of the other */
	__u8 zero;
	__u32 tie[3];
	struct way there;
	struct way back;
};

#include "layout.h"
