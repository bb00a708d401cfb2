/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What IPv6 stacks say to their link only: neighbour discovery and group membership. Pods need no
 * answer to any of it, since their neighbours are permanent, but their kernels send it all the same. */
#pragma once

#include <linux/icmpv6.h>

#include "packet.h"

/* Multicast listener and neighbour discovery messages (RFC 2710, 3810, 4861). */
#define MLD_REPORT 131
#define MLD_DONE 132
#define ND_ROUTER_SOLICIT 133
#define ND_NEIGHBOUR_SOLICIT 135
#define ND_NEIGHBOUR_ADVERT 136
#define MLD2_REPORT 143

/* Such packets have not been forwarded: they have all of their hops left, or the only one. */
#define ND_HOPS 255
#define MLD_HOPS 1

/* fe80::/10: means something on one link only. */
static __always_inline int is_link_local(const struct address *address)
{
	return address->family == FAMILY_V6 &&
	       (address->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* ff00::/8: a group's, never a sender's. */
static __always_inline int is_multicast(const struct address *address)
{
	return address->family == FAMILY_V6 &&
	       (address->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline int is_unspecified(const struct address *address)
{
	const __be32 *word = address->word;

	return !(word[0] | word[1] | word[2] | word[3]);
}

/* Whether a packet is one of a host's to its link. A router's messages are not among them: no pod
 * is a router. */
static __always_inline int is_link_message(struct __sk_buff *skb, const struct packet *packet)
{
	struct address src = source(packet);
	__u32 offset = sizeof(struct ethhdr) + sizeof(struct ipv6hdr);
	/* Of an extension header: what follows, and its length in units of 8 bytes after the first. */
	__u8 header[2];
	__u8 next, left;

	if (packet->family != FAMILY_V6 || !(is_unspecified(&src) || is_link_local(&src)))
		return 0;
	next = packet->ip6->nexthdr;
	left = hops(packet);
	if (next == IPPROTO_HOPOPTS) {
		if (bpf_skb_load_bytes(skb, offset, header, sizeof(header)))
			return 0;
		next = header[0];
		offset += 8 + 8 * (__u32)header[1];
	}
	if (next != IPPROTO_ICMPV6 || bpf_skb_load_bytes(skb, offset, header, sizeof(header)))
		return 0;
	switch (header[0]) {
	case ND_ROUTER_SOLICIT:
	case ND_NEIGHBOUR_SOLICIT:
	case ND_NEIGHBOUR_ADVERT:
		return left == ND_HOPS;
	case MLD_REPORT:
	case MLD_DONE:
	case MLD2_REPORT:
		return left == MLD_HOPS;
	default:
		return 0;
	}
}
