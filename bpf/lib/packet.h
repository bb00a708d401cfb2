/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The only place that touches raw packet bounds. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#include "common.h"

/* The Ethernet and IPv4 headers of a packet, or NULL if it is not (whole) IPv4. Pulls them into the
 * linear part where they are not. Pointers are invalid after any helper that changes the packet. */
static __always_inline struct iphdr *parse_ipv4(struct __sk_buff *skb, struct ethhdr **eth)
{
	const __u32 need = sizeof(struct ethhdr) + sizeof(struct iphdr);
	void *data = (void *)(long)skb->data;

	if (data + need > (void *)(long)skb->data_end) {
		if (bpf_skb_pull_data(skb, need))
			return NULL;
		data = (void *)(long)skb->data;
		if (data + need > (void *)(long)skb->data_end)
			return NULL;
	}
	*eth = data;
	return data + sizeof(struct ethhdr);
}

static __always_inline void set_macs(struct ethhdr *eth, const __u8 *dst, const __u8 *src)
{
	__builtin_memcpy(eth->h_dest, dst, ETH_ALEN);
	__builtin_memcpy(eth->h_source, src, ETH_ALEN);
}

/* What a router does to a packet it forwards: one hop less, with the header checksum adjusted by
 * the same amount (RFC 1624). The caller has checked that the TTL is above one. */
static __always_inline void decrement_ttl(struct iphdr *ip)
{
	__u32 sum = (__u32)ip->check + bpf_htons(0x0100);

	ip->check = (__sum16)(sum + (sum >= 0xffff));
	ip->ttl--;
}
