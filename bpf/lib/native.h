/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Native routing: packets between pods of different nodes go as they are, by the routes of the nodes and
 * of the network between them. Who sent one is what the ipcache says of its source. */
#pragma once

#include "ipcache.h"
#include "route.h"

/* Set when the programs are loaded. */
const volatile __u32 NATIVE_ROUTING = 0;
/* The identities of this cluster's pods. */
const volatile __u32 OWN_IDENTITY_MIN = 0;
const volatile __u32 OWN_IDENTITY_MAX = 0;

/* Whether an identity is that of pods: of a cluster, or a node's health endpoint. */
static __always_inline int is_pod_identity(__u32 identity)
{
	return identity == IDENTITY_HEALTH ||
	       (identity >= IDENTITY_FIRST_POD && identity < IDENTITY_FIRST_LOCAL);
}

/* Sends a pod's packet to another node's pod by the node's routes, past its stack. Where that cannot be,
 * the stack says why: to whom there is no route, and what is too big. */
__global int route_natively(struct __sk_buff *skb, __u32 family)
{
	struct bpf_fib_lookup fib = {.ifindex = skb->ifindex};
	struct packet packet;
	__u32 mtu = 0;
	long found;

	if (!parse(skb, family, &packet))
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_EGRESS);
	if (family == FAMILY_V4) {
		fib.family = AF_INET;
		fib.l4_protocol = packet.ip4->protocol;
		fib.tos = packet.ip4->tos;
		fib.ipv4_src = packet.ip4->saddr;
		fib.ipv4_dst = packet.ip4->daddr;
	} else {
		fib.family = AF_INET6;
		fib.l4_protocol = packet.ip6->nexthdr;
		__builtin_memcpy(fib.ipv6_src, &packet.ip6->saddr, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, &packet.ip6->daddr, sizeof(fib.ipv6_dst));
	}
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return ACT_OK;
	/* The lookup does not look at segments that are one packet yet. */
	if (skb->gso_size && bpf_check_mtu(skb, fib.ifindex, &mtu, 0, BPF_MTU_CHK_SEGS))
		return ACT_OK;
	return leave(skb, &packet, &fib, found, DIRECTION_EGRESS);
}
