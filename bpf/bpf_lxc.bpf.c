/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets a pod sends, and those the node's stack sends to it: attached to both directions of the host
 * side of its veth pair. */

#include "lib/deliver.h"
#include "lib/dsr.h"
#include "lib/link.h"
#include "lib/native.h"
#include "lib/refuse.h"
#include "lib/route.h"

/* Into the tunnel, under the pod's identity. */
static __always_inline int tunnelled(struct __sk_buff *skb, const struct packet *packet, __be32 node,
				     __u32 identity)
{
	decrement_hops(packet);
	if (set_tunnel(skb, node, identity))
		return drop(skb, REASON_TUNNEL_KEY, DIRECTION_EGRESS);
	count(skb, REASON_FORWARDED, DIRECTION_EGRESS);
	return bpf_redirect(VXLAN_IFINDEX, 0);
}

/* Where a translated packet goes: to a pod of this node or another one's; NOT_OURS elsewhere. */
__global int onward(struct __sk_buff *skb, const struct tuple *flow, __u32 identity)
{
	struct remote *remote;
	struct packet packet;
	struct endpoint *to;
	struct address dst;

	if (!flow)
		return ACT_DROP;
	dst = address_of(flow, flow->dst);
	if (!parse(skb, flow->family, &packet))
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_EGRESS);
	if (hops(&packet) <= 1)
		return drop(skb, REASON_TTL, DIRECTION_EGRESS);
	to = bpf_map_lookup_elem(&cw_endpoints, &dst);
	if (to)
		return deliver(skb, &packet, to);
	remote = ipcache_lookup(&dst);
	if (NATIVE_ROUTING && remote && is_pod_identity(remote->identity))
		return route_natively(skb, flow->family);
	if (!remote || !remote->tunnel_endpoint)
		return NOT_OURS;
	return tunnelled(skb, &packet, remote->tunnel_endpoint, identity);
}

/* Answers of a pod that is a backend of translated flows. NOT_OURS where it is none. */
__global int from_backend(struct __sk_buff *skb, __u32 family, __u32 identity)
{
	struct scratch *s = scratch();
	int found;

	if (!s || packet_flow(skb, family, &s->flow, &s->l4))
		return NOT_OURS;
	found = service_reply(skb, &s->flow, &s->l4, FLOW_IN);
	if (!found)
		return NOT_OURS;
	if (found < 0)
		return drop(skb, -found, DIRECTION_EGRESS);
	found = onward(skb, &s->flow, identity);
	return found == NOT_OURS ? route_out(skb, &s->flow, DIRECTION_EGRESS) : found;
}

/* To whom the node has no tunnel: a service, where the pod's socket was not translated, or the
 * world. */
__global int to_service(struct __sk_buff *skb, __u32 family, const struct endpoint *from)
{
	struct scratch *s = scratch();
	struct address dst;
	__u16 flags = 0;
	__be16 port = 0;
	struct l4 key;
	int reason;

	if (!s || !from || packet_flow(skb, family, &s->flow, &s->l4) || s->l4.kind != L4_PORTS)
		return ACT_OK;
	key = frontend_key(&s->flow);
	if (!find_inside(&key, 0))
		return ACT_OK;
	s->out = s->flow;
	s->flow.flags = FLOW_SERVICE;
	reason = service_backend(&s->flow, &s->l4, &key, &s->out, &port);
	if (reason == SERVICE_NONE)
		return ACT_OK;
	if (reason == REASON_NO_BACKEND)
		return refuse(skb, &s->flow, &s->l4, DIRECTION_EGRESS);
	/* What a pod begins is answered to the pod. */
	if (reason && reason != SERVICE_DSR)
		return drop(skb, reason, DIRECTION_EGRESS);
	dst = address_of(&s->out, s->out.dst);
	if (owns(from, &dst)) {
		/* Its own answer is what comes back. */
		set_loopback(&s->out);
		s->out.flags = FLOW_IN;
		flags = CT_LOOPBACK;
		mark_flows(from->id, FLOWS_BACKEND);
	} else {
		s->out.flags = FLOW_OUT;
		mark_flows(from->id, FLOWS_CLIENT);
	}
	reason = service_flow(&s->out, &s->l4, &s->flow, flags, from->identity);
	if (!reason)
		reason = rewrite(skb, &s->l4, &s->flow, &s->out);
	if (reason)
		return drop(skb, reason, DIRECTION_EGRESS);
	reason = onward(skb, &s->out, from->identity);
	return reason == NOT_OURS ? ACT_OK : reason;
}

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

	/* Nobody is told by a pod whose address an answer has to have. */
	if (NATIVE_ROUTING && may_carry_dsr(&packet)) {
		struct scratch *s = scratch();

		if (!s || dsr_get(skb, family, &s->quote))
			return drop(skb, REASON_DSR_REFUSED, DIRECTION_EGRESS);
		if (!parse(skb, family, &packet))
			return drop(skb, REASON_INVALID_PACKET, DIRECTION_EGRESS);
	}

	/* The stack answers what has no hop left, and what is for itself or the world. */
	if (hops(&packet) <= 1)
		return ACT_OK;
	if (pod_flows(from->id) & FLOWS_BACKEND) {
		int verdict = from_backend(skb, family, from->identity);

		if (verdict != NOT_OURS)
			return verdict;
		if (!parse(skb, family, &packet))
			return drop(skb, REASON_INVALID_PACKET, DIRECTION_EGRESS);
	}
	dst = destination(&packet);
	to = bpf_map_lookup_elem(&cw_endpoints, &dst);
	if (to)
		return deliver(skb, &packet, to);
	remote = ipcache_lookup(&dst);
	if (NATIVE_ROUTING && remote && is_pod_identity(remote->identity))
		return route_natively(skb, family);
	if (!remote || !remote->tunnel_endpoint)
		return to_service(skb, family, from);
	return tunnelled(skb, &packet, remote->tunnel_endpoint, from->identity);
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

/* What the stack sends to the pod: also answers of backends that only the stack could reach. */
SEC("classifier")
int to_container(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, family = family_of(skb);
	struct endpoint *to = bpf_map_lookup_elem(&cw_interfaces, &ifindex);
	struct scratch *s = scratch();
	int found;

	if (!s || !family || !to || !(pod_flows(to->id) & FLOWS_CLIENT))
		return ACT_OK;
	if (packet_flow(skb, family, &s->flow, &s->l4))
		return ACT_OK;
	found = service_reply(skb, &s->flow, &s->l4, FLOW_OUT);
	return found < 0 ? drop(skb, -found, DIRECTION_INGRESS) : ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
