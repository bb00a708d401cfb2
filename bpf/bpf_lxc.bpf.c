/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets a pod sends: attached to the ingress of the host side of its veth pair. */

#include "lib/deliver.h"

SEC("classifier")
int from_container(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct endpoint *from;
	struct address dst;
	struct endpoint *to;
	struct remote *remote;
	struct ethhdr *eth;
	struct iphdr *ip;

	/* ARP and the like are for the node's own stack. */
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return ACT_OK;
	ip = parse_ipv4(skb, &eth);
	if (!ip)
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_EGRESS);

	/* A pod speaks for its own address only. */
	from = bpf_map_lookup_elem(&cw_interfaces, &ifindex);
	if (!from || ip->saddr != from->ip)
		return drop(skb, REASON_INVALID_SOURCE, DIRECTION_EGRESS);

	/* The stack answers what has no hop left, and what is for itself or the world. */
	if (ip->ttl <= 1)
		return ACT_OK;
	dst = address_v4(ip->daddr);
	to = bpf_map_lookup_elem(&cw_endpoints, &dst);
	if (to)
		return deliver(skb, eth, ip, to);
	remote = ipcache_lookup(&dst);
	if (!remote || !remote->tunnel_endpoint)
		return ACT_OK;

	decrement_ttl(ip);
	if (set_tunnel(skb, remote->tunnel_endpoint, from->identity))
		return drop(skb, REASON_TUNNEL_KEY, DIRECTION_EGRESS);
	count(skb, REASON_FORWARDED, DIRECTION_EGRESS);
	return bpf_redirect(VXLAN_IFINDEX, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
