/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Connection tracking: which flows there are, whose translation they are under, and how long they
 * are kept.
 *
 * An entry's key is the flow as its first packet had it, with the direction it had seen from the
 * pod; for a client's flow to a service, before translation, FLOW_SERVICE. Who is older than its time
 * counts as not there, so times hold whenever user space comes to remove it. */
#pragma once

#include "flow.h"

/* Who has said that it will send no more. */
#define CT_ORIGIN_CLOSING (1 << 0)
#define CT_REPLY_CLOSING (1 << 1)
/* A packet without SYN was seen: more than an attempt. */
#define CT_SEEN_NON_SYN (1 << 2)
/* Of a pod that reaches itself by a service. */
#define CT_LOOPBACK (1 << 3)
/* Of a client outside. */
#define CT_NODE_PORT (1 << 4)
/* The backend's node answers the client directly. */
#define CT_DSR (1 << 5)

struct ct_entry {
	/* The backend, in an entry with FLOW_SERVICE; else the frontend the client believes to talk to,
	 * zero where nothing is translated. */
	__be32 address[4];
	__be16 port;
	__u16 flags;
	/* When it is over, in ticks. */
	__u32 expires;
	/* Number of the service; 0 = none. */
	__u32 service;
	/* Who sent the first packet. */
	__u32 identity;
	/* TCP flags seen of the origin and of the other side. */
	__u8 origin_seen;
	__u8 reply_seen;
	/* The port of the node that the client's packets get on the way to a backend of another node. */
	__be16 nat_port;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 524288);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct tuple);
	__type(value, struct ct_entry);
} cw_ct_tcp SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct tuple);
	__type(value, struct ct_entry);
} cw_ct_any SEC(".maps");

/* Behaviours 4.6. */
#define CT_TIMEOUT_TCP SECONDS(8000)
#define CT_TIMEOUT_SYN SECONDS(60)
#define CT_TIMEOUT_CLOSING SECONDS(10)
#define CT_TIMEOUT_ANY SECONDS(60)
/* How much too old a time may be before it is written again. */
#define CT_GRAIN SECONDS(1)

static __always_inline int is_over(__u32 expires, __u32 now)
{
	return (__s32)(expires - now) < 0;
}

static __always_inline void *ct_map(const struct tuple *tuple)
{
	return tuple->protocol == IPPROTO_TCP ? (void *)&cw_ct_tcp : (void *)&cw_ct_any;
}

static __always_inline struct ct_entry *ct_find(const struct tuple *tuple, __u32 now)
{
	struct ct_entry *entry;

	/* Not by ct_map(): the kernel inlines a lookup only where it knows the map. */
	if (tuple->protocol == IPPROTO_TCP)
		entry = bpf_map_lookup_elem(&cw_ct_tcp, tuple);
	else
		entry = bpf_map_lookup_elem(&cw_ct_any, tuple);
	if (entry && is_over(entry->expires, now))
		return NULL;
	return entry;
}

static __always_inline __u32 ct_timeout(const struct tuple *tuple, __u16 flags)
{
	const __u16 closed = CT_ORIGIN_CLOSING | CT_REPLY_CLOSING;

	if (tuple->protocol != IPPROTO_TCP)
		return CT_TIMEOUT_ANY;
	if ((flags & closed) == closed)
		return CT_TIMEOUT_CLOSING;
	/* That the other side ends as well is not seen here. */
	if (flags & CT_DSR && flags & CT_ORIGIN_CLOSING && tuple->flags == FLOW_SERVICE)
		return CT_TIMEOUT_ANY;
	return flags & CT_SEEN_NON_SYN ? CT_TIMEOUT_TCP : CT_TIMEOUT_SYN;
}

/* What a packet says of its flow. */
static __always_inline __u16 ct_flags_of(__u8 tcp_flags, int reply)
{
	__u16 flags = tcp_flags & TCP_SYN ? 0 : CT_SEEN_NON_SYN;

	if (tcp_flags & TCP_RST)
		flags |= CT_ORIGIN_CLOSING | CT_REPLY_CLOSING;
	else if (tcp_flags & TCP_FIN)
		flags |= reply ? CT_REPLY_CLOSING : CT_ORIGIN_CLOSING;
	return flags;
}

/* A packet of the flow was seen. Writes nothing where little has changed: entries of busy flows stay
 * in the caches of all CPUs. */
static __always_inline void ct_touch(struct ct_entry *entry, const struct tuple *tuple,
				     __u8 tcp_flags, int reply, __u32 now)
{
	__u16 flags = entry->flags;
	__u32 expires;

	if (tuple->protocol == IPPROTO_TCP) {
		flags |= ct_flags_of(tcp_flags, reply);
		if (flags != entry->flags)
			entry->flags = flags;
		if (reply && (entry->reply_seen | tcp_flags) != entry->reply_seen)
			entry->reply_seen |= tcp_flags;
		else if (!reply && (entry->origin_seen | tcp_flags) != entry->origin_seen)
			entry->origin_seen |= tcp_flags;
	}
	expires = now + ct_timeout(tuple, flags);
	if (expires - entry->expires + CT_GRAIN > 2 * CT_GRAIN)
		entry->expires = expires;
}

/* True if the packet begins a connection anew on the ports of one that is at its end. */
static __always_inline int ct_reopens(const struct ct_entry *entry, const struct tuple *tuple,
				      __u8 tcp_flags)
{
	return tuple->protocol == IPPROTO_TCP && (tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN &&
	       entry->flags & (CT_ORIGIN_CLOSING | CT_REPLY_CLOSING);
}

/* Writes the entry of a flow that begins with this packet. 0, or the reason why it cannot. */
static __always_inline int ct_create(const struct tuple *tuple, struct ct_entry *entry,
				     __u8 tcp_flags, __u32 now)
{
	if (tuple->protocol == IPPROTO_TCP)
		entry->flags |= ct_flags_of(tcp_flags, 0);
	entry->origin_seen = tcp_flags;
	entry->expires = now + ct_timeout(tuple, entry->flags);
	return bpf_map_update_elem(ct_map(tuple), tuple, entry, BPF_ANY) ? REASON_CT_INSERT : 0;
}

/* The other side of a service's flow has said that it ends; the client's entry cannot see it. */
static __always_inline void ct_service_closing(const struct tuple *service, __u8 tcp_flags, __u32 now)
{
	struct ct_entry *entry;

	if (service->protocol != IPPROTO_TCP || !(tcp_flags & (TCP_FIN | TCP_RST)))
		return;
	entry = ct_find(service, now);
	if (entry)
		ct_touch(entry, service, tcp_flags, 1, now);
}
