/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets that leave the node without its stack: by its routes and neighbours. */
#pragma once

#include "fib.h"
#include "metrics.h"
#include "packet.h"

/* Sends the packet to where a lookup of the node's routes has `found`. */
static __always_inline int leave(struct __sk_buff *skb, const struct packet *packet,
				 const struct bpf_fib_lookup *fib, long found, __u8 direction)
{
	if (hops(packet) <= 1)
		return drop(skb, REASON_TTL, direction);
	decrement_hops(packet);
	count(skb, REASON_FORWARDED, direction);
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH) {
		struct bpf_redir_neigh neigh = {.nh_family = fib->family};

		/* The union is as long as an address of IPv6, whichever it holds. */
		__builtin_memcpy(neigh.ipv6_nh, fib->ipv6_dst, sizeof(neigh.ipv6_nh));
		return bpf_redirect_neigh(fib->ifindex, &neigh, sizeof(neigh), 0);
	}
	set_macs(packet->eth, fib->dmac, fib->smac);
	return bpf_redirect(fib->ifindex, 0);
}

/* Sends the packet, whose flow this is, where the node's routes say. The stack itself would refuse it:
 * its source is an address of the node. */
__global int route_out(struct __sk_buff *skb, const struct tuple *flow, __u8 direction)
{
	struct bpf_fib_lookup fib = {};
	struct packet packet;
	long found;

	if (!flow)
		return ACT_DROP;
	found = find_route(skb, skb->ifindex, flow, &fib);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return drop(skb, REASON_FIB, direction);
	if (!parse(skb, flow->family, &packet))
		return drop(skb, REASON_INVALID_PACKET, direction);
	return leave(skb, &packet, &fib, found, direction);
}
