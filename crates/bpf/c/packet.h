/* SPDX-License-Identifier: Apache-2.0 */
/* What a packet says of itself: its flow, and what kind of packet of it it is. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "address.h"

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* MF and the offset of RFC 791 section 3.1: a fragment. */
#define FRAGMENT 0x3fff

/* What the programs look at in a packet. */
struct packet {
	struct carried_key key;
	__u32 header_bytes; /* from the Ethernet header to the transport's own payload */
	__u32 ip_bytes;     /* as the IP header says; 0 in a batch that is longer than that can say */
	__u8 ttl;
	__u8 flags; /* of TCP */
	__u8 is_v6;
};

/* Reads one of the two fields that are pointers to the verifier. In C they are 32 bits wide, which the compiler may make of them. */
#define POINTER(skb, field)                                                                                                            \
	({                                                                                                                             \
		void *pointer;                                                                                                         \
		asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(pointer) : "r"(skb), "i"(offsetof(struct __sk_buff, field)));                 \
		pointer;                                                                                                               \
	})

/* The first bytes of a packet; nothing if it has not so many. */
static __always_inline void *bytes_of(struct __sk_buff *skb, __u32 bytes)
{
	void *data = POINTER(skb, data);

	if (data + bytes <= POINTER(skb, data_end))
		return data;
	if (bpf_skb_pull_data(skb, bytes))
		return 0;
	data = POINTER(skb, data);
	return data + bytes <= POINTER(skb, data_end) ? data : 0;
}

static __always_inline int read_transport(struct __sk_buff *skb, struct packet *packet, __u32 at, __u8 protocol)
{
	void *data;

	packet->key.protocol = protocol;
	if (protocol == IPPROTO_TCP) {
		struct tcphdr *tcp;

		data = bytes_of(skb, at + sizeof(*tcp));
		if (!data)
			return 0;
		tcp = data + at;
		packet->key.source_port = tcp->source;
		packet->key.destination_port = tcp->dest;
		packet->flags = ((__u8 *)tcp)[13];
		packet->header_bytes = at + tcp->doff * 4;
		return 1;
	}
	if (protocol == IPPROTO_UDP) {
		struct udphdr *udp;

		data = bytes_of(skb, at + sizeof(*udp));
		if (!data)
			return 0;
		udp = data + at;
		packet->key.source_port = udp->source;
		packet->key.destination_port = udp->dest;
		packet->header_bytes = at + sizeof(*udp);
		return 1;
	}
	return 0;
}

/* Whether it is TCP or UDP, whole, and without options of IP. */
static __always_inline int read_packet(struct __sk_buff *skb, struct packet *packet)
{
	void *data;

	if (skb->vlan_present)
		return 0;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip;

		data = bytes_of(skb, sizeof(struct ethhdr) + sizeof(*ip));
		if (!data)
			return 0;
		ip = data + sizeof(struct ethhdr);
		if (ip->version != 4 || ip->ihl != 5 || (ip->frag_off & bpf_htons(FRAGMENT)))
			return 0;
		packet->key.source = mapped(ip->saddr);
		packet->key.destination = mapped(ip->daddr);
		packet->ttl = ip->ttl;
		packet->ip_bytes = bpf_ntohs(ip->tot_len);
		return read_transport(skb, packet, sizeof(struct ethhdr) + sizeof(*ip), ip->protocol);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip;

		data = bytes_of(skb, sizeof(struct ethhdr) + sizeof(*ip));
		if (!data)
			return 0;
		ip = data + sizeof(struct ethhdr);
		if (ip->version != 6)
			return 0;
		__builtin_memcpy(&packet->key.source, &ip->saddr, sizeof(struct address));
		__builtin_memcpy(&packet->key.destination, &ip->daddr, sizeof(struct address));
		packet->ttl = ip->hop_limit;
		packet->ip_bytes = ip->payload_len ? sizeof(*ip) + bpf_ntohs(ip->payload_len) : 0;
		packet->is_v6 = 1;
		/* A header between IPv6's and the transport's is not plain. */
		return read_transport(skb, packet, sizeof(struct ethhdr) + sizeof(*ip), ip->nexthdr);
	}
	return 0;
}

/* Whether it neither begins nor ends anything. */
static __always_inline int is_plain(const struct packet *packet)
{
	if (packet->key.protocol != IPPROTO_TCP)
		return 1;
	return (packet->flags & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK)) == TCP_ACK;
}

/* Whether it asks for a connection. */
static __always_inline int is_first(const struct packet *packet)
{
	return packet->key.protocol == IPPROTO_TCP && (packet->flags & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK)) == TCP_SYN;
}

/* Whether it grants one. */
static __always_inline int is_answer(const struct packet *packet)
{
	return packet->key.protocol == IPPROTO_TCP && (packet->flags & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK)) == (TCP_SYN | TCP_ACK);
}

/* Whether it is TCP that carries data: a batch, or more than headers. */
static __always_inline int is_data(const struct packet *packet)
{
	return packet->key.protocol == IPPROTO_TCP && packet->ip_bytes + sizeof(struct ethhdr) != packet->header_bytes;
}
