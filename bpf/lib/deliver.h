/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Delivery to a pod of this node, and into the tunnel. */
#pragma once

#include "endpoint.h"
#include "ipcache.h"
#include "metrics.h"
#include "packet.h"
#include "service.h"
#include "tunnel.h"

/* Hands the packet to the pod's own end of its veth pair, past the host's stack. */
static __always_inline int hand_over(struct __sk_buff *skb, const struct packet *packet,
				     const struct endpoint *to)
{
	decrement_hops(packet);
	set_macs(packet->eth, to->mac, to->host_mac);
	count(skb, REASON_FORWARDED, DIRECTION_INGRESS);
	return bpf_redirect_peer(to->ifindex, 0);
}

/* To a pod that has flows to services: an answer gets the service's address again. */
__global int deliver_to_client(struct __sk_buff *skb, __u32 family, const struct endpoint *to)
{
	struct scratch *s = scratch();
	struct packet packet;

	if (!s || !to)
		return ACT_DROP;
	if (!packet_flow(skb, family, &s->flow, &s->l4)) {
		int found = service_reply(skb, &s->flow, &s->l4, FLOW_OUT);

		if (found < 0)
			return drop(skb, -found, DIRECTION_INGRESS);
	}
	if (!parse(skb, family, &packet))
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_INGRESS);
	return hand_over(skb, &packet, to);
}

/* Delivers a packet to a pod of this node. Whoever calls has seen that it has a hop left. */
static __always_inline int deliver(struct __sk_buff *skb, const struct packet *packet,
				   const struct endpoint *to)
{
	if (pod_flows(to->id) & FLOWS_CLIENT)
		return deliver_to_client(skb, packet->family, to);
	return hand_over(skb, packet, to);
}

/* Names the node and the sender's identity for the tunnel device to write into the outer header. */
static __always_inline int set_tunnel(struct __sk_buff *skb, __be32 node, __u32 identity)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = identity,
		.remote_ipv4 = bpf_htonl(node),
		.tunnel_ttl = OUTER_TTL,
	};

	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX);
}
