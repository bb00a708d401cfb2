/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets a pod sends: attached to the ingress of the host side of its veth pair. */

#include "lib/deliver.h"
#include "lib/link.h"

static __always_inline int forward(struct __sk_buff *skb, __u32 family)
{
	__u32 ifindex = skb->ifindex;
	struct address src, dst;
	struct endpoint *from;
	struct packet packet;
	struct endpoint *to;
	struct remote *remote;

	if (!parse(skb, family, &packet))
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_EGRESS);

	/* A pod speaks for its own addresses only. What its kernel says to the link under others ends
	 * in the node's stack, as ARP does. */
	src = source(&packet);
	from = bpf_map_lookup_elem(&cw_interfaces, &ifindex);
	if (!from || !owns(from, &src)) {
		if (is_link_message(skb, &packet))
			return ACT_OK;
		return drop(skb, REASON_INVALID_SOURCE, DIRECTION_EGRESS);
	}

	/* The stack answers what has no hop left, and what is for itself or the world. */
	if (hops(&packet) <= 1)
		return ACT_OK;
	dst = destination(&packet);
	to = bpf_map_lookup_elem(&cw_endpoints, &dst);
	if (to)
		return deliver(skb, &packet, to);
	remote = ipcache_lookup(&dst);
	if (!remote || !remote->tunnel_endpoint)
		return ACT_OK;

	decrement_hops(&packet);
	if (set_tunnel(skb, remote->tunnel_endpoint, from->identity))
		return drop(skb, REASON_TUNNEL_KEY, DIRECTION_EGRESS);
	count(skb, REASON_FORWARDED, DIRECTION_EGRESS);
	return bpf_redirect(VXLAN_IFINDEX, 0);
}

SEC("classifier")
int from_container(struct __sk_buff *skb)
{
	switch (family_of(skb)) {
	case FAMILY_V4:
		return forward(skb, FAMILY_V4);
	case FAMILY_V6:
		return forward(skb, FAMILY_V6);
	default:
		return ACT_OK;
	}
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
