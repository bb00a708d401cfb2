/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where the node's routes send a packet. */
#pragma once

#include "flow.h"

#define AF_INET 2
#define AF_INET6 10

/* Asks the routes for a packet of this flow that came in by `ifindex`; what BPF_FIB_LKUP_RET_ says. */
static __always_inline long find_route(struct packet_ctx *skb, __u32 ifindex,
				       const struct tuple *flow, struct bpf_fib_lookup *fib)
{
	fib->ifindex = ifindex;
	fib->family = flow->family == FAMILY_V4 ? AF_INET : AF_INET6;
	fib->l4_protocol = flow->protocol;
	if (flow->family == FAMILY_V4) {
		fib->ipv4_src = flow->src[0];
		fib->ipv4_dst = flow->dst[0];
	} else {
		__builtin_memcpy(fib->ipv6_src, flow->src, sizeof(fib->ipv6_src));
		__builtin_memcpy(fib->ipv6_dst, flow->dst, sizeof(fib->ipv6_dst));
	}
	return bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
}
