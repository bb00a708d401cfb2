/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Source NAT of clients outside on the way to backends of other nodes: the node's address with a port
 * of its own, and the way back.
 *
 * There is one entry a flow, under the flow of the replies as they arrive; the port is also in the
 * client's entry of connection tracking. A port is claimed by writing the entry where there is none,
 * so two CPUs cannot get the same one; the entry of a flow that is over is taken away first. */
#pragma once

#include "ct.h"

/* The ports there are; outside of NodePorts and of what the node's own sockets are given. Set when the
 * programs are loaded. */
const volatile __u16 NAT_PORT_MIN = 1024;
const volatile __u16 NAT_PORT_MAX = 29999;

/* How many ports are tried before a new flow is dropped. */
#define NAT_TRIES 32

struct nat_entry {
	/* Who the flow belongs to, and the frontend it believes to talk to. */
	__be32 client[4];
	__be32 frontend[4];
	__be16 client_port;
	__be16 frontend_port;
	/* When it is over if the client is silent, in ticks. */
	__u32 expires;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 524288);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct tuple);
	__type(value, struct nat_entry);
} cw_nat SEC(".maps");

static __always_inline int is_nat_port(__be16 port)
{
	__u16 number = bpf_ntohs(port);

	return number >= NAT_PORT_MIN && number <= NAT_PORT_MAX;
}

/* The client's flow to the frontend, as connection tracking knows it. */
static __always_inline void nat_service(const struct nat_entry *entry, const struct tuple *reply,
					struct tuple *client)
{
	__builtin_memcpy(client->src, entry->client, sizeof(client->src));
	__builtin_memcpy(client->dst, entry->frontend, sizeof(client->dst));
	client->sport = entry->client_port;
	client->dport = entry->frontend_port;
	client->family = reply->family;
	client->protocol = reply->protocol;
	client->flags = FLOW_SERVICE;
	client->pad = 0;
}

static __always_inline int nat_is_of(const struct nat_entry *entry, const struct tuple *client)
{
	return same_words(entry->client, client->src) && entry->client_port == client->sport &&
	       same_words(entry->frontend, client->dst) && entry->frontend_port == client->dport;
}

/* Claims the entry of `reply`. One that is there already makes way where the client's flow is over, or
 * has another port by now, and no answer has come for as long as a closed connection is kept: user
 * space would remove it, but only comes now and then, and ports would run out meanwhile. 1 if it is
 * the caller's now. */
__global int nat_claim(const struct tuple *reply, const struct nat_entry *fresh, __u32 now)
{
	struct tuple client;
	struct nat_entry *entry;
	struct ct_entry *flow;
	__u32 expires;

	if (!reply || !fresh)
		return 0;
	if (!bpf_map_update_elem(&cw_nat, reply, fresh, BPF_NOEXIST))
		return 1;
	entry = bpf_map_lookup_elem(&cw_nat, reply);
	if (!entry)
		return 0;
	expires = entry->expires;
	if ((__s32)(expires - now) > (__s32)(CT_TIMEOUT_ANY - CT_TIMEOUT_CLOSING))
		return 0;
	nat_service(entry, reply, &client);
	flow = ct_find(&client, now);
	if (flow && flow->nat_port == reply->dport && flow->port == reply->sport &&
	    same_words(flow->address, reply->src))
		return 0;
	/* Of several CPUs that come to this, one takes it away. */
	if (__sync_val_compare_and_swap(&entry->expires, expires, fresh->expires) != expires)
		return 0;
	bpf_map_delete_elem(&cw_nat, reply);
	return !bpf_map_update_elem(&cw_nat, reply, fresh, BPF_NOEXIST);
}

/* Gives a client's flow (`client`, to the frontend) a port of the node towards its backend: sets the
 * source port of `out`, the flow as it leaves, whose addresses and destination are set. `port` is the
 * one it had before, 0 = none. 0, or the reason why there is none. */
__global int nat_port(const struct tuple *client, struct tuple *out, __u16 port,
		      const struct l4_header *l4)
{
	struct tuple reply;
	struct nat_entry fresh = {};
	struct nat_entry *entry;
	__u32 range, choice;

	if (!client || !out || !l4)
		return REASON_INVALID_PACKET;
	reverse(out, FLOW_IN, &reply);
	if (client->protocol == PROTO_SCTP) {
		/* Its ports cannot be changed; see rewrite(). */
		port = client->sport;
	}
	if (port) {
		reply.dport = port;
		entry = bpf_map_lookup_elem(&cw_nat, &reply);
		if (entry && nat_is_of(entry, client)) {
			out->sport = port;
			return 0;
		}
	}
	__builtin_memcpy(fresh.client, client->src, sizeof(fresh.client));
	__builtin_memcpy(fresh.frontend, client->dst, sizeof(fresh.frontend));
	fresh.client_port = client->sport;
	fresh.frontend_port = client->dport;
	fresh.expires = l4->now + CT_TIMEOUT_ANY;
	if (client->protocol == PROTO_SCTP) {
		if (!nat_claim(&reply, &fresh, l4->now))
			return REASON_NAT_NO_PORT;
		out->sport = port;
		return 0;
	}
	range = NAT_PORT_MAX - NAT_PORT_MIN + 1;
	choice = bpf_get_prandom_u32();
#pragma clang loop unroll(disable)
	for (int i = 0; i < NAT_TRIES; i++) {
		reply.dport = bpf_htons(NAT_PORT_MIN + choice % range);
		if (nat_claim(&reply, &fresh, l4->now)) {
			out->sport = reply.dport;
			return 0;
		}
		/* The first is at random, the others are anywhere else. */
		choice = choice * 1664525 + 1013904223;
	}
	return REASON_NAT_NO_PORT;
}
