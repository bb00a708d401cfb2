/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a packet of a client outside becomes, and a reply to one: the part that traffic control and XDP
 * share. Neither changes a packet here, so who finds that it cannot go on may leave it to the other. */
#pragma once

#include "ipcache.h"
#include "nat.h"
#include "service.h"

/* The node's addresses: what packets have as source on the way to backends of other nodes, in the
 * tunnel and beside it. Set when the programs are loaded; zero where the node has none of a family. */
const volatile __be32 INTERNAL_IP4 = 0;
const volatile __be32 NODE_IP4 = 0;
const volatile __be32 INTERNAL_IP6[4] = {};
const volatile __be32 NODE_IP6[4] = {};

static __always_inline int set_nat_source(struct tuple *out, int by_tunnel)
{
	if (out->family == FAMILY_V4) {
		out->src[0] = by_tunnel ? INTERNAL_IP4 : NODE_IP4;
		return out->src[0] != 0;
	}
#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++)
		out->src[i] = by_tunnel ? INTERNAL_IP6[i] : NODE_IP6[i];
	return (out->src[0] | out->src[1] | out->src[2] | out->src[3]) != 0;
}

/* The identity of who has sent a packet of this flow, as identity_of(). */
__global int sender_of(const struct tuple *flow)
{
	struct address source;

	if (!flow)
		return IDENTITY_WORLD;
	source = address_of(flow, flow->src);
	return (int)identity_of(&source);
}

/* Sees to the entries of a flow whose backend is on this node: `pod`, or, where there is none, something
 * in the node's own network. scratch's `flow` is the client's, its `out` what it becomes. 0, or the
 * reason why it cannot be. */
static __always_inline int local_flow(struct scratch *s, const struct endpoint *pod)
{
	s->out.flags = FLOW_IN;
	mark_flows(pod ? pod->id : HOST_FLOWS, FLOWS_BACKEND);
	return service_flow(&s->out, &s->l4, &s->flow, CT_NODE_PORT, sender_of(&s->flow));
}

/* The same where the backend is on another node: `out`, whose source address is the node's, gets a
 * port of it, if possible `port`, which the flow has had before. */
static __always_inline int remote_flow(struct scratch *s, __be16 port)
{
	int reason = nat_port(&s->flow, &s->out, port, &s->l4);

	if (!reason && s->out.sport != port) {
		struct ct_entry *entry = ct_find(&s->flow, s->l4.now);

		if (entry)
			entry->nat_port = s->out.sport;
	}
	return reason;
}

/* A reply to the node's address that is for a client outside: makes scratch's `out` what the client
 * waits for. 0: it is none. */
static __always_inline int reply_flow(struct scratch *s, const struct tuple *tuple,
				      const struct l4_header *l4)
{
	struct nat_entry *entry;
	__u32 expires;

	if (l4->kind != L4_PORTS)
		return 0;
	if (!is_nat_port(tuple->dport) && tuple->protocol != PROTO_SCTP)
		return 0;
	s->out = *tuple;
	s->out.flags = FLOW_IN;
	entry = bpf_map_lookup_elem(&cw_nat, &s->out);
	if (!entry)
		return 0;
	expires = l4->now + CT_TIMEOUT_ANY;
	if (expires - entry->expires > CT_GRAIN)
		entry->expires = expires;
	nat_service(entry, tuple, &s->quote);
	ct_service_closing(&s->quote, l4->tcp_flags, l4->now);
	reverse(&s->quote, 0, &s->out);
	return 1;
}
