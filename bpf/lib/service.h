/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services packet by packet: which frontend a packet is for, which backend its flow has, and the way
 * back of the replies. Shared by devices and pods. */
#pragma once

#include "ct.h"
#include "endpoint.h"
#include "lb.h"
#ifndef CAUSEWAY_XDP
#include "rewrite.h"
#endif

/* A pod that reaches itself by a service gets this source, since it would answer its own address
 * without a packet. */
#define LOOPBACK_V4 bpf_htonl(0xa9fe2a01) /* 169.254.42.1 */
#define LOOPBACK_V6_0 bpf_htonl(0xfdffa9fe) /* fdff:a9fe:2a01::1 */
#define LOOPBACK_V6_1 bpf_htonl(0x2a010000)

static __always_inline void set_loopback(struct tuple *flow)
{
	if (flow->family == FAMILY_V4) {
		flow->src[0] = LOOPBACK_V4;
		return;
	}
	flow->src[0] = LOOPBACK_V6_0;
	flow->src[1] = LOOPBACK_V6_1;
	flow->src[2] = 0;
	flow->src[3] = bpf_htonl(1);
}

/* Which pods, by the endpoint's number, have flows of services; 0 is the node itself. Packets of the
 * others are not looked up in connection tracking. */
#define FLOWS_CLIENT (1 << 0)
#define FLOWS_BACKEND (1 << 1)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u32);
} cw_pod_flows SEC(".maps");

#define HOST_FLOWS 0

static __always_inline __u32 pod_flows(__u32 id)
{
	__u32 *flows = bpf_map_lookup_elem(&cw_pod_flows, &id);

	return flows ? *flows : 0;
}

static __always_inline void mark_flows(__u32 id, __u32 kind)
{
	__u32 *flows = bpf_map_lookup_elem(&cw_pod_flows, &id);

	if (flows && !(*flows & kind))
		__sync_fetch_and_or(flows, kind);
}

static __always_inline struct l4 frontend_key(const struct tuple *tuple)
{
	struct l4 l4 = {
		.address = address_of(tuple, tuple->dst),
		.port = tuple->dport,
		.protocol = tuple->protocol,
	};

	return l4;
}

static __always_inline int is_own_address(const struct address *address)
{
	__u32 *node = bpf_map_lookup_elem(&cw_node_addresses, address);

	return node && *node == NODE_OWN;
}

/* The frontend that a client outside means by `key`, whose address becomes the wildcard's where it is
 * one; NULL if it is none to it. */
static __always_inline struct frontend *find_outside(struct l4 *key)
{
	struct frontend *frontend = bpf_map_lookup_elem(&cw_lb_frontends, key);

	if (!frontend) {
		struct l4 any = {
			.address = {.family = key->address.family},
			.port = key->port,
			.protocol = key->protocol,
		};

		frontend = bpf_map_lookup_elem(&cw_lb_frontends, &any);
		if (!frontend || !is_own_address(&key->address))
			return NULL;
		*key = any;
	}
	return frontend->kind == KIND_CLUSTER_IP ? NULL : frontend;
}

static __always_inline int is_source_allowed(const struct frontend *frontend,
					     const struct address *source)
{
	struct source_range key = {
		.bits = 64 + 32 + (source->family == FAMILY_V4 ? 32 : 128),
		.service = frontend->service,
		.generation = frontend->generation,
		.address = *source,
	};
	int listed;

	if (!(frontend->flags & FRONTEND_SOURCE_RANGES))
		return 1;
	listed = bpf_map_lookup_elem(&cw_lb_source_ranges, &key) != NULL;
	return frontend->flags & FRONTEND_DENY_RANGES ? !listed : listed;
}

/* The client's entry, if it holds for this packet: one whose backend is gone does not. */
static __always_inline struct ct_entry *service_entry(const struct tuple *client, __u8 tcp_flags,
						      __u32 now)
{
	struct ct_entry *entry = ct_find(client, now);
	struct l4 backend = {.port = 0, .protocol = client->protocol};

	if (!entry || ct_reopens(entry, client, tcp_flags))
		return NULL;
	backend.address = address_of(client, entry->address);
	backend.port = entry->port;
	return bpf_map_lookup_elem(&cw_lb_backends, &backend) ? entry : NULL;
}

#define SERVICE_FOUND 0
#define SERVICE_NONE (-1)
/* Found, and where its backend is on another node, that answers the client directly. */
#define SERVICE_DSR (-2)

/* The backend of a client's flow (`client`, with FLOW_SERVICE) to the frontend at `key`: the one it
 * has, or a new one. Sets the destination of `out`, and `port` to that which the flow has on the
 * way to other nodes. SERVICE_FOUND; SERVICE_DSR; SERVICE_NONE where the frontend is gone meanwhile; or a reason. */
__global int service_backend(const struct tuple *client, const struct l4_header *l4,
			     struct l4 *key, struct tuple *out, __be16 *port)
{
	struct frontend frontend = {};
	struct ct_entry fresh = {};
	struct ct_entry *entry;
	struct client who = {};
	struct l4 chosen = {};
	int reason;

	if (!client || !l4 || !key || !out || !port)
		return REASON_INVALID_PACKET;
	*port = 0;
	entry = service_entry(client, l4->tcp_flags, l4->now);
	if (entry) {
		ct_touch(entry, client, l4->tcp_flags, 0, l4->now);
		__builtin_memcpy(out->dst, entry->address, sizeof(out->dst));
		out->dport = entry->port;
		*port = entry->nat_port;
		return entry->flags & CT_DSR ? SERVICE_DSR : SERVICE_FOUND;
	}
	who.address = address_of(client, client->src);
	switch (choose(key, &who, flow_hash(client), &frontend, &chosen)) {
	case 1:
		break;
	case 0:
		return SERVICE_NONE;
	default:
		return REASON_NO_BACKEND;
	}
	__builtin_memcpy(fresh.address, chosen.address.word, sizeof(fresh.address));
	fresh.port = chosen.port;
	fresh.service = frontend.service;
	if (frontend.flags & FRONTEND_DSR && client->protocol != PROTO_SCTP)
		fresh.flags = CT_DSR;
	__builtin_memcpy(out->dst, fresh.address, sizeof(out->dst));
	out->dport = fresh.port;
	reason = ct_create(client, &fresh, l4->tcp_flags, l4->now);
	if (reason)
		return reason;
	return fresh.flags & CT_DSR ? SERVICE_DSR : SERVICE_FOUND;
}

/* Sees to the entry of the translated flow: the replies will be given `frontend`'s address. */
__global int service_flow(const struct tuple *flow, const struct l4_header *l4,
			  const struct tuple *frontend, __u16 flags, __u32 identity)
{
	struct ct_entry fresh = {.flags = flags, .identity = identity};
	struct ct_entry *entry;

	if (!flow || !l4 || !frontend)
		return REASON_INVALID_PACKET;
	entry = ct_find(flow, l4->now);
	if (entry && !ct_reopens(entry, flow, l4->tcp_flags) && entry->port == frontend->dport &&
	    same_words(entry->address, frontend->dst)) {
		ct_touch(entry, flow, l4->tcp_flags, 0, l4->now);
		return 0;
	}
	fresh.port = frontend->dport;
	__builtin_memcpy(fresh.address, frontend->dst, sizeof(fresh.address));
	return ct_create(flow, &fresh, l4->tcp_flags, l4->now);
}

#ifndef CAUSEWAY_XDP

/* An ICMP error about what the owner of a translated flow has sent: the packet it quotes becomes the
 * one that was sent, and where the error comes from whom that went to, it comes from the frontend.
 * `outer` is the error, changed to what it is now. 0: it is about no such flow; 1: translated;
 * negative: minus the reason why it cannot. */
__global int error_back(struct __sk_buff *skb, const struct l4_header *l4, struct tuple *outer,
			__u8 direction)
{
	struct scratch *s = scratch();
	struct ct_entry *entry;
	int reason;

	if (!s || !l4 || !outer || !quoted_flow(skb, s, outer, l4))
		return 0;
	s->quote.flags = direction;
	entry = ct_find(&s->quote, l4->now);
	if (!entry || !entry->port)
		return 0;
	if (same_words(outer->src, s->quote.dst))
		__builtin_memcpy(outer->src, entry->address, sizeof(outer->src));
	__builtin_memcpy(s->quote_out.dst, entry->address, sizeof(s->quote_out.dst));
	s->quote_out.dport = entry->port;
	if (entry->flags & CT_LOOPBACK) {
		__builtin_memcpy(outer->dst, s->quote.dst, sizeof(outer->dst));
		__builtin_memcpy(s->quote_out.src, s->quote.dst, sizeof(s->quote_out.src));
	}
	reason = rewrite_quote(skb, l4);
	if (!reason)
		reason = rewrite(skb, l4, &s->error, outer);
	return reason ? -reason : 1;
}

/* What comes back to the owner of a translated flow: from the pod that is the backend (`direction`
 * FLOW_IN, the flow's) or to the pod that is the client (FLOW_OUT). Turns it into what the owner
 * waits for; `tuple` is then that. 0: it is of no such flow; 1: translated; negative: minus the reason
 * why it cannot. */
__global int service_reply(struct __sk_buff *skb, struct tuple *tuple, const struct l4_header *l4,
			   __u8 direction)
{
	struct scratch *s = scratch();
	struct ct_entry *entry;
	struct tuple *to;
	int reason;

	if (!s || !tuple || !l4)
		return 0;
	if (l4->kind == L4_ERROR)
		return error_back(skb, l4, tuple, direction);
	if (l4->kind != L4_PORTS)
		return 0;
	to = &s->out;
	reverse(tuple, direction, to);
	entry = ct_find(to, l4->now);
	if (!entry || !entry->port)
		return 0;
	ct_touch(entry, to, l4->tcp_flags, 1, l4->now);
	*to = *tuple;
	__builtin_memcpy(to->src, entry->address, sizeof(to->src));
	to->sport = entry->port;
	/* The one that stood in for the pod's own address. */
	if (entry->flags & CT_LOOPBACK)
		__builtin_memcpy(to->dst, tuple->src, sizeof(to->dst));
	reason = rewrite(skb, l4, tuple, to);
	if (reason)
		return -reason;
	*tuple = *to;
	if (tuple->protocol == IPPROTO_TCP && l4->tcp_flags & (TCP_FIN | TCP_RST)) {
		reverse(tuple, FLOW_SERVICE, to);
		ct_service_closing(to, l4->tcp_flags, l4->now);
	}
	return 1;
}

#endif
