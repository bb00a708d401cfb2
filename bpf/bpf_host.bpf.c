/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Both directions of the node's native devices: clients outside reach NodePorts, external addresses
 * and host ports here, before the node's stack sees their packets. */

#include "lib/mark.h"
#include "lib/nodeport.h"

/* What is for no frontend may be an answer from a backend of another node. */
static __always_inline int no_frontend(struct __sk_buff *skb, struct tuple *tuple,
				       const struct l4_header *l4)
{
	int found = nat_reply(skb, tuple, l4);

	if (found > 0)
		return route_out(skb, tuple, DIRECTION_INGRESS);
	if (found < 0)
		return drop(skb, -found, DIRECTION_INGRESS);
	if (l4->kind == L4_ERROR)
		return error_to_backend(skb, tuple, l4);
	return ACT_OK;
}

/* To the frontend at `key`. */
static __always_inline int to_frontend(struct __sk_buff *skb, struct scratch *s, struct l4 *key,
				       __u8 kind)
{
	struct endpoint *pod;
	struct address dst;
	__be16 port = 0;
	int reason;

	s->out = s->flow;
	s->flow.flags = FLOW_SERVICE;
	reason = service_backend(&s->flow, &s->l4, key, &s->out, &port);
	if (reason == SERVICE_NONE)
		return ACT_OK;
	if (reason == REASON_NO_BACKEND)
		return refuse(skb, &s->flow, &s->l4, DIRECTION_INGRESS);
	if (reason && reason != SERVICE_DSR)
		return drop(skb, reason, DIRECTION_INGRESS);
	dst = address_of(&s->out, s->out.dst);
	pod = bpf_map_lookup_elem(&cw_endpoints, &dst);
	if (pod || is_own_address(&dst))
		return to_local(skb, s, pod);
	if (reason == SERVICE_DSR && (kind == KIND_NODE_PORT || !is_of_other_cluster(&s->out)))
		return to_remote_directly(skb);
	return to_remote(skb, s, port);
}

__global int outside(struct __sk_buff *skb, __u32 family)
{
	struct scratch *s = scratch();
	struct frontend *frontend;
	struct address source;
	struct l4 key;
	int reason;

	if (!s)
		return ACT_DROP;
	reason = packet_flow(skb, family, &s->flow, &s->l4);
	if (reason == REASON_FRAGMENT_NOT_FOUND)
		return drop(skb, reason, DIRECTION_INGRESS);
	/* What cannot be read is the stack's to judge. */
	if (reason || s->l4.kind == L4_NONE || s->l4.kind == L4_ECHO)
		return ACT_OK;
	if (s->flow.protocol == IPPROTO_UDP && s->flow.dport == bpf_htons(TUNNEL_PORT))
		return ACT_OK;
	if (s->l4.kind == L4_ERROR)
		return no_frontend(skb, &s->flow, &s->l4);
	key = frontend_key(&s->flow);
	frontend = find_outside(&key);
	if (!frontend)
		return no_frontend(skb, &s->flow, &s->l4);
	source = address_of(&s->flow, s->flow.src);
	if (!is_source_allowed(frontend, &source))
		return drop(skb, REASON_SOURCE_RANGE, DIRECTION_INGRESS);
	return to_frontend(skb, s, &key, frontend->kind);
}

/* Under native routing, what is for a pod of this node. What pods of other nodes have sent to it goes to
 * it; everybody else's packets are for the stack, whose connection tracking has to know them when the
 * answers leave by it. Clients of services may have come by another node. */
static __always_inline int to_own_pod(struct __sk_buff *skb, __u32 family)
{
	struct packet packet;
	struct endpoint *to;
	struct address src, dst;
	int told, verdict;

	if (!parse(skb, family, &packet))
		return NOT_OURS;
	dst = destination(&packet);
	told = may_carry_dsr(&packet);
	to = bpf_map_lookup_elem(&cw_endpoints, &dst);
	if (!to && !told)
		return NOT_OURS;
	if (to && !told && hops(&packet) > 1) {
		src = source(&packet);
		if (is_pod_identity(identity_of(&src)))
			return deliver(skb, &packet, to);
	}
	verdict = from_other_node(skb, family);
	return to && verdict == NOT_OURS ? ACT_OK : verdict;
}

static __always_inline int deliver_to_backend(struct __sk_buff *skb, __u32 family)
{
	struct packet packet;
	struct endpoint *pod;
	struct address dst;

	if (!parse(skb, family, &packet))
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_INGRESS);
	dst = destination(&packet);
	pod = bpf_map_lookup_elem(&cw_endpoints, &dst);
	return pod && hops(&packet) > 1 ? deliver(skb, &packet, pod) : ACT_OK;
}

/* Translated by XDP already, to a backend of this node. */
__global int to_backend(struct __sk_buff *skb, __u32 family)
{
	if (family == FAMILY_V4)
		return deliver_to_backend(skb, FAMILY_V4);
	return deliver_to_backend(skb, FAMILY_V6);
}

SEC("classifier")
int from_netdev(struct __sk_buff *skb)
{
	__u32 family = family_of(skb);

	if (!family || skb->pkt_type != PACKET_HOST)
		return ACT_OK;
	if (has_mark(skb, MARK_TO_BACKEND))
		return to_backend(skb, family);
	if (NATIVE_ROUTING) {
		int verdict = family == FAMILY_V4 ? to_own_pod(skb, FAMILY_V4) :
						    to_own_pod(skb, FAMILY_V6);

		if (verdict != NOT_OURS)
			return verdict;
	}
	return outside(skb, family);
}

/* Answers of backends in the node's own network. */
__global int inside(struct __sk_buff *skb, __u32 family)
{
	struct scratch *s = scratch();
	int found;

	if (!s || packet_flow(skb, family, &s->flow, &s->l4))
		return ACT_OK;
	if (s->flow.protocol == IPPROTO_UDP && s->flow.dport == bpf_htons(TUNNEL_PORT))
		return ACT_OK;
	found = service_reply(skb, &s->flow, &s->l4, FLOW_IN);
	return found < 0 ? drop(skb, -found, DIRECTION_EGRESS) : ACT_OK;
}

SEC("classifier")
int to_netdev(struct __sk_buff *skb)
{
	__u32 family = family_of(skb);

	if (!family || !(pod_flows(HOST_FLOWS) & FLOWS_BACKEND))
		return ACT_OK;
	return inside(skb, family);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
