/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The only place that touches raw packet bounds. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "common.h"
#include "context.h"

/* A packet's headers. It has no member that maps are asked with, so that all of it stays in registers
 * and, where the family is a constant, nothing is left of the other one. */
struct packet {
	__u32 family;
	struct ethhdr *eth;
	/* The one of its family; the other is NULL. */
	struct iphdr *ip4;
	struct ipv6hdr *ip6;
};

/* The family of what is behind an Ethernet header; 0 for ARP and the like. */
static __always_inline __u32 family_of_protocol(__be16 protocol)
{
	switch (protocol) {
	case bpf_htons(ETH_P_IP):
		return FAMILY_V4;
	case bpf_htons(ETH_P_IPV6):
		return FAMILY_V6;
	default:
		return 0;
	}
}

#ifndef CAUSEWAY_XDP
static __always_inline __u32 family_of(const struct __sk_buff *skb)
{
	return family_of_protocol(skb->protocol);
}
#endif

/* Reads the Ethernet and IP headers of a packet of `family`; false if it is not (whole). Pulls them
 * into the linear part where they are not. Pointers are invalid after any helper that changes the
 * packet. */
static __always_inline int parse(struct packet_ctx *skb, __u32 family, struct packet *packet)
{
	const __u32 need = sizeof(struct ethhdr) + (family == FAMILY_V4 ? sizeof(struct iphdr) :
									  sizeof(struct ipv6hdr));
	void *data = (void *)(long)skb->data;

	if (data + need > (void *)(long)skb->data_end) {
		if (packet_pull(skb, need))
			return 0;
		data = (void *)(long)skb->data;
		if (data + need > (void *)(long)skb->data_end)
			return 0;
	}
	packet->family = family;
	packet->eth = data;
	packet->ip4 = family == FAMILY_V4 ? data + sizeof(struct ethhdr) : NULL;
	packet->ip6 = family == FAMILY_V4 ? NULL : data + sizeof(struct ethhdr);
	return 1;
}

static __always_inline struct address source(const struct packet *packet)
{
	if (packet->family == FAMILY_V4)
		return address_v4(packet->ip4->saddr);
	return address_v6(packet->ip6->saddr.in6_u.u6_addr32);
}

static __always_inline struct address destination(const struct packet *packet)
{
	if (packet->family == FAMILY_V4)
		return address_v4(packet->ip4->daddr);
	return address_v6(packet->ip6->daddr.in6_u.u6_addr32);
}

/* TTL or hop limit. */
static __always_inline __u8 hops(const struct packet *packet)
{
	return packet->family == FAMILY_V4 ? packet->ip4->ttl : packet->ip6->hop_limit;
}

static __always_inline void set_macs(struct ethhdr *eth, const __u8 *dst, const __u8 *src)
{
	__builtin_memcpy(eth->h_dest, dst, ETH_ALEN);
	__builtin_memcpy(eth->h_source, src, ETH_ALEN);
}

/* What a router does to a packet it forwards: one hop less, in IPv4 with the header checksum
 * adjusted by the same amount (RFC 1624). The caller has checked that more than one is left. */
static __always_inline void decrement_hops(const struct packet *packet)
{
	if (packet->family == FAMILY_V4) {
		struct iphdr *ip = packet->ip4;
		__u32 sum = (__u32)ip->check + bpf_htons(0x0100);

		ip->check = (__sum16)(sum + (sum >= 0xffff));
		ip->ttl--;
	} else {
		packet->ip6->hop_limit--;
	}
}
