/* SPDX-License-Identifier: Apache-2.0 */
/* What the maps hold. The other side is src/abi.rs; src/layout.rs holds both to the same offsets. Addresses are IPv6, IPv4 ones mapped
 * (::ffff:a.b.c.d); ports and addresses are in network byte order, everything else in the machine's. */
#pragma once

#include <linux/types.h>

/* Kinds of frontend. */
#define FRONTEND_VIP 0       /* an address of its own */
#define FRONTEND_NODE_PORT 1 /* a port of the node; the address is the unspecified one of its family */

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

#include "layout.h"
