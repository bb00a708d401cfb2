/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses and ports of a packet made others, with all checksums. */
#pragma once

#include "checksum.h"
#include "flow.h"

/* Offsets of checksums in their headers. */
#define IP4_CHECK 10
#define TCP_CHECK 16
#define UDP_CHECK 6
#define ICMP_CHECK 2

/* Turns the addresses and ports of the packet, which are `from`, into `to`, of the same family and
 * protocol. 0, or the reason why it cannot. Pointers into the packet are invalid afterwards. */
__global int rewrite(struct __sk_buff *skb, const struct l4_header *l4, const struct tuple *from,
		     const struct tuple *to)
{
	__u64 pseudo = BPF_F_PSEUDO_HDR;
	__u64 zero = 0;
	__s64 addresses;
	__u32 check;

	if (!l4 || !from || !to)
		return REASON_INVALID_PACKET;
	/* Both addresses and both ports are side by side, in the tuple as on the wire. */
	addresses = bpf_csum_diff((__be32 *)from->src, 32, (__be32 *)to->src, 32, 0);
	if (from->family == FAMILY_V4) {
		__be32 both[2] = {to->src[0], to->dst[0]};

		if (bpf_l3_csum_replace(skb, ETH_HLEN + IP4_CHECK, 0, addresses, 0) ||
		    bpf_skb_store_bytes(skb, ETH_HLEN + 12, both, sizeof(both), 0))
			return REASON_L3_CHECKSUM;
	} else if (bpf_skb_store_bytes(skb, ETH_HLEN + 8, to->src, 32, 0)) {
		return REASON_L3_CHECKSUM;
	}
	if (l4->fragment == FRAGMENT_LATER)
		return 0;

	switch (from->protocol) {
	case IPPROTO_TCP:
		check = l4->offset + TCP_CHECK;
		break;
	case IPPROTO_UDP:
		check = l4->offset + UDP_CHECK;
		/* Zero means there is none, and stays zero. */
		zero = BPF_F_MARK_MANGLED_0;
		break;
	case IPPROTO_ICMPV6:
		check = l4->offset + ICMP_CHECK;
		break;
	case PROTO_SCTP:
		/* Its checksum is over the packet alone, and is no sum: ports have to stay. */
		if (from->sport != to->sport || from->dport != to->dport)
			return REASON_NAT_PROTOCOL;
		return 0;
	case IPPROTO_ICMP:
		check = l4->offset + ICMP_CHECK;
		pseudo = 0;
		break;
	default:
		return 0;
	}
	if ((pseudo || zero) && bpf_l4_csum_replace(skb, check, 0, addresses, pseudo | zero))
		return REASON_L4_CHECKSUM;
	if (l4->kind == L4_PORTS && (from->sport != to->sport || from->dport != to->dport)) {
		__s64 ports = bpf_csum_diff((__be32 *)&from->sport, 4, (__be32 *)&to->sport, 4, 0);

		if (bpf_l4_csum_replace(skb, check, 0, ports, zero) ||
		    bpf_skb_store_bytes(skb, l4->offset, &to->sport, 4, 0))
			return REASON_L4_CHECKSUM;
	}
	return 0;
}

/* The longest quoted headers: IPv6, and the eight bytes that are always quoted of what follows. */
#define QUOTE_V4 (20 + 8)
#define QUOTE_V6 (40 + 8)

/* Turns the packet that an ICMP error quotes from scratch's `quote` to its `quote_out`, with the error's
 * own checksum. A checksum of TCP is left as it is: it need not be in the quote, and nobody compares it. */
__global int rewrite_quote(struct __sk_buff *skb, const struct l4_header *l4)
{
	struct scratch *s = scratch();
	__s64 addresses, ports, sum;
	struct tuple *from, *to;
	__u32 start, header;
	__be32 *old, *new;
	__u16 *check;

	if (!s || !l4)
		return REASON_INVALID_PACKET;
	from = &s->quote;
	to = &s->quote_out;
	old = s->bytes[0];
	new = s->bytes[1];
	__builtin_memset(s->bytes, 0, sizeof(s->bytes));
	start = l4->offset + sizeof(struct icmp_header);
	header = from->family == FAMILY_V4 ? 20 : 40;
	addresses = bpf_csum_diff(from->src, 32, to->src, 32, 0);
	ports = bpf_csum_diff((__be32 *)&from->sport, 4, (__be32 *)&to->sport, 4, 0);
	/* A quote with options cannot be told apart by its length alone. */
	if (s->quoted.offset != start + header || s->quoted.kind != L4_PORTS ||
	    s->quoted.fragment == FRAGMENT_LATER)
		return REASON_NAT_PROTOCOL;
	if (from->family == FAMILY_V4) {
		if (bpf_skb_load_bytes(skb, start, old, QUOTE_V4))
			return REASON_INVALID_L4;
		__builtin_memcpy(new, old, QUOTE_V6);
		new[3] = to->src[0];
		new[4] = to->dst[0];
		check = (__u16 *)new + IP4_CHECK / 2;
		*check = checksum_after(*check, addresses);
		__builtin_memcpy(&new[5], &to->sport, 4);
		check = (__u16 *)&new[5] + UDP_CHECK / 2;
	} else {
		if (bpf_skb_load_bytes(skb, start, old, QUOTE_V6))
			return REASON_INVALID_L4;
		__builtin_memcpy(new, old, QUOTE_V6);
		__builtin_memcpy(&new[2], to->src, 32);
		__builtin_memcpy(&new[10], &to->sport, 4);
		check = (__u16 *)&new[10] + UDP_CHECK / 2;
	}
	if (from->protocol == IPPROTO_UDP && *check)
		*check = checksum_after(checksum_after(*check, addresses), ports);
	sum = bpf_csum_diff(old, QUOTE_V6, new, QUOTE_V6, 0);
	if (bpf_l4_csum_replace(skb, l4->offset + ICMP_CHECK, 0, sum, 0))
		return REASON_L4_CHECKSUM;
	if (from->family == FAMILY_V4) {
		if (bpf_skb_store_bytes(skb, start, new, QUOTE_V4, 0))
			return REASON_L4_CHECKSUM;
	} else if (bpf_skb_store_bytes(skb, start, new, QUOTE_V6, 0)) {
		return REASON_L4_CHECKSUM;
	}
	return 0;
}
