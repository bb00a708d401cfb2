/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Both directions of the tunnel device. */

#include "lib/deliver.h"

/* From other nodes, already without the outer headers. */
SEC("classifier")
int from_overlay(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	struct address dst;
	struct endpoint *to;
	struct ethhdr *eth;
	struct iphdr *ip;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return ACT_OK;
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return drop(skb, REASON_TUNNEL_KEY, DIRECTION_INGRESS);
	/* "This node" means nothing on the wire; a sender that claims it is not one of us. */
	if (key.tunnel_id == IDENTITY_HOST)
		return drop(skb, REASON_INVALID_IDENTITY, DIRECTION_INGRESS);
	ip = parse_ipv4(skb, &eth);
	if (!ip)
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_INGRESS);
	dst = address_v4(ip->daddr);
	to = bpf_map_lookup_elem(&cw_endpoints, &dst);
	if (to && ip->ttl > 1)
		return deliver(skb, eth, ip, to);

	/* For the node itself. The inner destination MAC is whatever the sender had. */
	bpf_skb_change_type(skb, PACKET_HOST);
	return ACT_OK;
}

/* From this node's own stack, or redirected here from a pod with the tunnel key set. */
SEC("classifier")
int to_overlay(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	struct remote *remote;
	struct address dst;
	struct ethhdr *eth;
	struct iphdr *ip;

	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return ACT_OK;
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return ACT_DROP;
	ip = parse_ipv4(skb, &eth);
	if (!ip)
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_EGRESS);
	dst = address_v4(ip->daddr);
	remote = ipcache_lookup(&dst);
	if (!remote || !remote->tunnel_endpoint)
		return drop(skb, REASON_NO_TUNNEL_ENDPOINT, DIRECTION_EGRESS);
	/* The node's own processes are a remote node to the receiver. */
	if (set_tunnel(skb, remote->tunnel_endpoint, IDENTITY_REMOTE_NODE))
		return drop(skb, REASON_TUNNEL_KEY, DIRECTION_EGRESS);
	return ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
