/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Both directions of the tunnel device. */

#include "lib/deliver.h"
#include "lib/link.h"
#include "lib/nodeport.h"

/* To an address of the node: an answer to a client outside goes to that, all else to the stack. */
__global int to_node(struct __sk_buff *skb, __u32 family)
{
	struct scratch *s = scratch();
	int found;

	if (s && !packet_flow(skb, family, &s->flow, &s->l4)) {
		found = nat_reply(skb, &s->flow, &s->l4);
		if (found > 0)
			return route_out(skb, &s->flow, DIRECTION_INGRESS);
		if (found < 0)
			return drop(skb, -found, DIRECTION_INGRESS);
	}
	/* The inner destination MAC is whatever the sender had. */
	bpf_skb_change_type(skb, PACKET_HOST);
	return ACT_OK;
}

static __always_inline int receive(struct __sk_buff *skb, __u32 family)
{
	struct bpf_tunnel_key key = {};
	struct address src, dst;
	struct packet packet;
	struct endpoint *to;

	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return drop(skb, REASON_TUNNEL_KEY, DIRECTION_INGRESS);
	/* "This node" means nothing on the wire; a sender that claims it is not one of us. */
	if (key.tunnel_id == IDENTITY_HOST)
		return drop(skb, REASON_INVALID_IDENTITY, DIRECTION_INGRESS);
	if (!parse(skb, family, &packet))
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_INGRESS);
	src = source(&packet);
	dst = destination(&packet);
	/* The tunnel is no link: nobody behind it is a neighbour or a router of this node. */
	if (is_link_local(&src) || is_link_local(&dst) || is_multicast(&dst))
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_INGRESS);
	to = bpf_map_lookup_elem(&cw_endpoints, &dst);
	if (to && hops(&packet) > 1)
		return deliver(skb, &packet, to);
	return to_node(skb, family);
}

/* From other nodes, already without the outer headers. */
SEC("classifier")
int from_overlay(struct __sk_buff *skb)
{
	switch (family_of(skb)) {
	case FAMILY_V4:
		return receive(skb, FAMILY_V4);
	case FAMILY_V6:
		return receive(skb, FAMILY_V6);
	default:
		return ACT_OK;
	}
}

static __always_inline int send(struct __sk_buff *skb, __u32 family)
{
	struct remote *remote;
	struct packet packet;
	struct address dst;

	if (!parse(skb, family, &packet))
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_EGRESS);
	dst = destination(&packet);
	/* What the kernel says to every link it is up on has nobody to hear it here. */
	if (is_multicast(&dst))
		return ACT_DROP;
	remote = ipcache_lookup(&dst);
	if (!remote || !remote->tunnel_endpoint)
		return drop(skb, REASON_NO_TUNNEL_ENDPOINT, DIRECTION_EGRESS);
	/* The node's own processes are a remote node to the receiver. */
	if (set_tunnel(skb, remote->tunnel_endpoint, IDENTITY_REMOTE_NODE))
		return drop(skb, REASON_TUNNEL_KEY, DIRECTION_EGRESS);
	return ACT_OK;
}

/* From this node's own stack, or redirected here from a pod with the tunnel key set. */
SEC("classifier")
int to_overlay(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};

	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return ACT_OK;
	switch (family_of(skb)) {
	case FAMILY_V4:
		return send(skb, FAMILY_V4);
	case FAMILY_V6:
		return send(skb, FAMILY_V6);
	default:
		return ACT_DROP;
	}
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
