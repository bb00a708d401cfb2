/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Clients outside and the frontends they reach at this node: translation to the backend, by source
 * NAT where it is on another node, and the replies back to the client. */
#pragma once

#include "deliver.h"
#include "dsr.h"
#include "outside.h"
#include "refuse.h"
#include "route.h"

/* To the backend of this node that a client's packet names by now: a pod, or, where there is none, something
 * in the node's own network. */
static __always_inline int arrived(struct __sk_buff *skb, const struct scratch *s,
				   const struct endpoint *pod)
{
	struct packet packet;

	/* The rest is the stack's. */
	if (!pod)
		return ACT_OK;
	if (!parse(skb, s->flow.family, &packet))
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_INGRESS);
	if (hops(&packet) <= 1)
		return drop(skb, REASON_TTL, DIRECTION_INGRESS);
	return deliver(skb, &packet, pod);
}

/* To a backend of this node: a pod, or, where there is none, something in the node's own network.
 * scratch's `flow` is the client's, its `out` what it becomes. */
static __always_inline int to_local(struct __sk_buff *skb, struct scratch *s,
				    const struct endpoint *pod)
{
	int reason = local_flow(s, pod);

	if (!reason)
		reason = rewrite(skb, &s->l4, &s->flow, &s->out);
	if (reason)
		return drop(skb, reason, DIRECTION_INGRESS);
	return arrived(skb, s, pod);
}

/* Whether a packet that is too long for a link has to be answered instead of cut. */
static __always_inline int may_not_be_fragmented(struct __sk_buff *skb, const struct tuple *tuple)
{
	__be16 fragment;

	if (tuple->family == FAMILY_V6)
		return 1;
	return !bpf_skb_load_bytes(skb, ETH_HLEN + 6, &fragment, sizeof(fragment)) &&
	       fragment & bpf_htons(V4_DONT_FRAGMENT);
}

/* To a backend of another node; `port` is the one the flow has had of this node. */
static __always_inline int to_remote(struct __sk_buff *skb, struct scratch *s, __be16 port)
{
	struct address dst = address_of(&s->out, s->out.dst);
	struct remote *remote = ipcache_lookup(&dst);
	__be32 node = remote ? remote->tunnel_endpoint : 0;
	struct packet packet;
	__u32 mtu = 0;
	int reason;

	if (!set_nat_source(&s->out, node != 0))
		return drop(skb, REASON_NAT_NO_PORT, DIRECTION_EGRESS);
	if (node && s->l4.fragment == FRAGMENT_NONE &&
	    bpf_check_mtu(skb, VXLAN_IFINDEX, &mtu, 0, BPF_MTU_CHK_SEGS) ==
		    BPF_MTU_CHK_RET_FRAG_NEEDED &&
	    may_not_be_fragmented(skb, &s->flow))
		return too_big(skb, &s->flow, mtu, DIRECTION_EGRESS);
	reason = remote_flow(s, port);
	if (!reason)
		reason = rewrite(skb, &s->l4, &s->flow, &s->out);
	if (reason)
		return drop(skb, reason, DIRECTION_EGRESS);
	if (!node)
		return route_out(skb, &s->out, DIRECTION_EGRESS);
	if (!parse(skb, s->out.family, &packet))
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_EGRESS);
	if (hops(&packet) <= 1)
		return drop(skb, REASON_TTL, DIRECTION_EGRESS);
	decrement_hops(&packet);
	if (set_tunnel(skb, node, IDENTITY_WORLD))
		return drop(skb, REASON_TUNNEL_KEY, DIRECTION_EGRESS);
	count(skb, REASON_FORWARDED, DIRECTION_EGRESS);
	return bpf_redirect(VXLAN_IFINDEX, 0);
}

/* To a backend of another node that answers the client itself. scratch is as for to_remote(). */
__global int to_remote_directly(struct __sk_buff *skb)
{
	struct scratch *s = scratch();
	struct bpf_fib_lookup fib = {};
	int told, cut = 0, reason;
	__u32 mtu = 0, room;
	long found;

	if (!s)
		return ACT_DROP;
	told = dsr_is_told(&s->flow, &s->l4);
	if (told) {
		room = dsr_room(&s->flow);
		found = find_route(skb, skb->ifindex, &s->out, &fib);
		if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED)
			mtu = fib.mtu_result;
		else if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
			return drop(skb, REASON_FIB, DIRECTION_EGRESS);
		else if (bpf_check_mtu(skb, fib.ifindex, &mtu, room, 0) != BPF_MTU_CHK_RET_FRAG_NEEDED)
			mtu = 0;
		if (mtu && may_not_be_fragmented(skb, &s->flow))
			return too_big(skb, &s->flow, mtu - room, DIRECTION_EGRESS);
		cut = mtu != 0;
	}
	reason = rewrite(skb, &s->l4, &s->flow, &s->out);
	if (!reason && told)
		reason = dsr_set(skb, &s->flow);
	if (reason)
		return drop(skb, reason, DIRECTION_EGRESS);
	/* Fragments are the stack's to make. */
	return cut ? ACT_OK : route_out(skb, &s->out, DIRECTION_EGRESS);
}

/* Whether a flow has another frontend already, and more than an attempt was seen of it. */
static __always_inline int is_taken(const struct scratch *s, const struct tuple *frontend)
{
	struct ct_entry *entry = ct_find(&s->out, s->l4.now);

	if (!entry || !entry->port || s->out.protocol != IPPROTO_TCP ||
	    ct_reopens(entry, &s->out, s->l4.tcp_flags) || !(entry->flags & CT_SEEN_NON_SYN))
		return 0;
	return entry->port != frontend->dport || !same_words(entry->address, frontend->dst);
}

/* A client's packet that another node has sent on to a backend of this one. NOT_OURS where it is none. */
__global int from_other_node(struct __sk_buff *skb, __u32 family)
{
	struct scratch *s = scratch();
	struct l4 frontend, backend;
	struct address dst;
	struct ct_entry *entry;
	struct endpoint *pod;
	struct tuple *told;
	int reason;

	if (!s)
		return ACT_DROP;
	if (packet_flow(skb, family, &s->flow, &s->l4) || s->l4.kind != L4_PORTS ||
	    s->flow.protocol == PROTO_SCTP)
		return NOT_OURS;
	dst = address_of(&s->flow, s->flow.dst);
	pod = bpf_map_lookup_elem(&cw_endpoints, &dst);
	if (!pod && !is_own_address(&dst))
		return NOT_OURS;
	s->out = s->flow;
	s->out.flags = FLOW_IN;
	told = &s->quote;
	__builtin_memset(told, 0, sizeof(*told));
	if (!dsr_get(skb, family, told)) {
		if (!(pod_flows(pod ? pod->id : HOST_FLOWS) & FLOWS_BACKEND))
			return NOT_OURS;
		entry = ct_find(&s->out, s->l4.now);
		if (!entry || !(entry->flags & CT_DSR))
			return NOT_OURS;
		ct_touch(entry, &s->out, s->l4.tcp_flags, 0, s->l4.now);
		return arrived(skb, s, pod);
	}
	backend = frontend_key(&s->flow);
	frontend = backend;
	frontend.address = address_of(&s->flow, told->dst);
	frontend.port = told->dport;
	if (!is_plausible(&frontend, &backend) || is_taken(s, told))
		return drop(skb, REASON_DSR_REFUSED, DIRECTION_INGRESS);
	mark_flows(pod ? pod->id : HOST_FLOWS, FLOWS_BACKEND);
	reason = service_flow(&s->out, &s->l4, told, CT_NODE_PORT | CT_DSR, sender_of(&s->flow));
	if (!reason)
		reason = dsr_remove(skb, family);
	if (reason)
		return drop(skb, reason, DIRECTION_INGRESS);
	return arrived(skb, s, pod);
}

/* An ICMP error about a reply, on its way to the frontend: it is for the backend. */
__global int error_to_backend(struct __sk_buff *skb, struct tuple *outer,
			      const struct l4_header *l4)
{
	struct scratch *s = scratch();
	struct ct_entry *entry;
	struct endpoint *pod;
	struct packet packet;
	struct address dst;
	struct tuple *to;
	__be32 node = 0;
	int reason;

	if (!s || !outer || !l4 || !quoted_flow(skb, s, outer, l4))
		return ACT_OK;
	to = &s->quote_out;
	reverse(&s->quote, FLOW_SERVICE, to);
	entry = ct_find(to, l4->now);
	if (!entry)
		return ACT_OK;
	*to = s->quote;
	__builtin_memcpy(to->src, entry->address, sizeof(to->src));
	to->sport = entry->port;
	__builtin_memcpy(outer->dst, entry->address, sizeof(outer->dst));
	dst = address_of(outer, outer->dst);
	pod = bpf_map_lookup_elem(&cw_endpoints, &dst);
	if (!pod) {
		struct remote *remote = ipcache_lookup(&dst);

		node = remote ? remote->tunnel_endpoint : 0;
		/* The backend has sent its packet to the node's address and port. */
		if (entry->nat_port) {
			s->out = *to;
			if (!set_nat_source(&s->out, node != 0))
				return ACT_OK;
			__builtin_memcpy(to->dst, s->out.src, sizeof(to->dst));
			to->dport = entry->nat_port;
		}
	}
	reason = rewrite_quote(skb, l4);
	if (!reason)
		reason = rewrite(skb, l4, &s->error, outer);
	if (reason)
		return drop(skb, reason, DIRECTION_INGRESS);
	if (!parse(skb, outer->family, &packet) || hops(&packet) <= 1)
		return drop(skb, REASON_INVALID_PACKET, DIRECTION_INGRESS);
	if (pod)
		return hand_over(skb, &packet, pod);
	if (!node)
		return is_own_address(&dst) ? ACT_OK : route_out(skb, outer, DIRECTION_EGRESS);
	decrement_hops(&packet);
	if (set_tunnel(skb, node, IDENTITY_WORLD))
		return drop(skb, REASON_TUNNEL_KEY, DIRECTION_EGRESS);
	return bpf_redirect(VXLAN_IFINDEX, 0);
}

/* An ICMP error about what went to a backend of another node under the node's address: it is for the
 * client. As nat_reply(). */
static __always_inline int nat_error(struct __sk_buff *skb, struct tuple *outer,
				     const struct l4_header *l4)
{
	struct scratch *s = scratch();
	struct nat_entry *entry;
	struct tuple *to;
	int reason;

	if (!s || !quoted_flow(skb, s, outer, l4))
		return 0;
	to = &s->quote_out;
	reverse(&s->quote, FLOW_IN, to);
	entry = bpf_map_lookup_elem(&cw_nat, to);
	if (!entry)
		return 0;
	*to = s->quote;
	__builtin_memcpy(to->src, entry->client, sizeof(to->src));
	__builtin_memcpy(to->dst, entry->frontend, sizeof(to->dst));
	to->sport = entry->client_port;
	to->dport = entry->frontend_port;
	__builtin_memcpy(outer->dst, entry->client, sizeof(outer->dst));
	if (same_words(outer->src, s->quote.dst))
		__builtin_memcpy(outer->src, entry->frontend, sizeof(outer->src));
	reason = rewrite_quote(skb, l4);
	if (!reason)
		reason = rewrite(skb, l4, &s->error, outer);
	return reason ? -reason : 1;
}

/* A reply to the node's address that is for a client outside, or an error about what the client sent:
 * `tuple` becomes what the client waits for. 0: it is neither; 1: translated; negative: minus the
 * reason why it cannot. */
__global int nat_reply(struct __sk_buff *skb, struct tuple *tuple, const struct l4_header *l4)
{
	struct scratch *s = scratch();
	int reason;

	if (!s || !tuple || !l4)
		return 0;
	if (l4->kind == L4_ERROR)
		return nat_error(skb, tuple, l4);
	if (!reply_flow(s, tuple, l4))
		return 0;
	reason = rewrite(skb, l4, tuple, &s->out);
	if (reason)
		return -reason;
	*tuple = s->out;
	return 1;
}
