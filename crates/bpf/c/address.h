/* SPDX-License-Identifier: Apache-2.0 */
/* What the programs ask of addresses, whatever their family. */
#pragma once

#include "abi.h"

/* Third word of an IPv4 address that is mapped (RFC 4291 section 2.5.5.2). */
#define V4_PREFIX bpf_htonl(0x0000ffff)

static __always_inline struct address mapped(__u32 v4)
{
	return (struct address){ { 0, 0, V4_PREFIX, v4 } };
}

static __always_inline int is_same(const struct address *a, const struct address *b)
{
	return a->words[0] == b->words[0] && a->words[1] == b->words[1] && a->words[2] == b->words[2] && a->words[3] == b->words[3];
}
