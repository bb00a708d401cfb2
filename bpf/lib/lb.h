/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services: a frontend, the table of its backends, and how one of them is chosen.
 *
 * A frontend names a generation of its table. User space writes the new generation's slots first
 * and then the frontend, so no lookup ever sees a half-written service. Where few of many backends
 * change, it writes the slots in place, one by one, with another version of the frontend after each. */
#pragma once

#include "common.h"

/* Which of the two lists of a frontend: the only one or that for clients outside; that for clients
 * inside the cluster, if it is another. */
#define SCOPE_EXTERNAL 0
#define SCOPE_INTERNAL 1

struct l4 {
	struct address address;
	__be16 port;
	__u8 protocol;
	/* In keys of cw_lb_frontends; 0 everywhere else. */
	__u8 scope;
};

/* What makes the address a frontend. */
#define KIND_CLUSTER_IP 0
/* On every node of this cluster; the key's address is all zero, a wildcard. */
#define KIND_NODE_PORT 1
#define KIND_LOAD_BALANCER 2
#define KIND_EXTERNAL_IP 3
/* On this node only; the key's address may be a wildcard. */
#define KIND_HOST_PORT 4

/* There is another list for clients inside, under SCOPE_INTERNAL. */
#define FRONTEND_TWO_SCOPES (1 << 0)
/* Clients outside are held against cw_lb_source_ranges … */
#define FRONTEND_SOURCE_RANGES (1 << 1)
/* … which are those that may not. */
#define FRONTEND_DENY_RANGES (1 << 2)
/* The table is one of Maglev: packets choose by the hash of their addresses and ports. */
#define FRONTEND_MAGLEV (1 << 3)
/* Backends on other nodes answer the client directly. */
#define FRONTEND_DSR (1 << 4)

struct frontend {
	/* Number of the tables; stays when a new generation of them is written. */
	__u32 service;
	__u32 generation;
	/* Slots 0 … count-1 exist; 0 = nobody to answer. */
	__u32 count;
	/* Another one with every change of the table in place. */
	__u32 version;
	/* Entries of the lookup table, each the index of a slot; 0 = there is none, all slots count alike. */
	__u32 entries;
	/* How long after its last use a client keeps its backend, seconds; 0 = it does not. */
	__u32 affinity;
	__u8 kind;
	__u8 flags;
	__u16 pad;
};

struct slot {
	__u32 service;
	__u32 generation;
	__u32 index;
};

/* A lookup table in pieces, which user space writes one by one. */
#define CHUNK_ENTRIES 64
struct chunk {
	__u16 slot[CHUNK_ENTRIES];
};

struct table {
	__u32 service;
	__u32 generation;
};

/* Who keeps its backend: a network namespace (its cookie in the first two words) at the socket, an
 * address elsewhere. */
#define FAMILY_COOKIE 1
struct client {
	struct address address;
	__u32 service;
};

struct affinity {
	/* When the client last chose, CLOCK_MONOTONIC, nanoseconds. */
	__u64 last;
	struct l4 backend;
};

/* A backend that clients of a frontend with affinity may keep. */
struct match {
	struct l4 backend;
	__u32 service;
};

struct source_range {
	/* 64 of service and generation, 32 of family, then address. */
	__u32 bits;
	__u32 service;
	__u32 generation;
	struct address address;
};

/* Nodes of this cluster; the value tells which of them is this one. */
#define NODE_OTHER 0
#define NODE_OWN 1

/* Which socket talks to which backend, to find the service address it believes to talk to. */
struct flow {
	__u64 cookie;
	struct l4 backend;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct l4);
	__type(value, struct frontend);
} cw_lb_frontends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct slot);
	__type(value, struct l4);
} cw_lb_slots SEC(".maps");

struct lookup_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct chunk));
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct table);
	__array(values, struct lookup_table);
} cw_lb_tables SEC(".maps");

/* Every backend of any frontend, also those that get no new connections: one that is not here is
 * gone, and its connections choose anew. The value is the number of frontends' lists it is in. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct l4);
	__type(value, __u32);
} cw_lb_backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct client);
	__type(value, struct affinity);
} cw_lb_affinity SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct match);
	__type(value, __u32);
} cw_lb_matches SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct source_range);
	__type(value, __u32);
} cw_lb_source_ranges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct address);
	__type(value, __u32);
} cw_node_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct flow);
	__type(value, struct l4);
} cw_lb_reverse SEC(".maps");

static __always_inline int same_frontend(const struct frontend *a, const struct frontend *b)
{
	return a->service == b->service && a->generation == b->generation && a->count == b->count &&
	       a->version == b->version && a->entries == b->entries && a->affinity == b->affinity &&
	       a->kind == b->kind && a->flags == b->flags;
}

/* The backend that `choice` falls on. 0: the table was replaced meanwhile. */
static __always_inline int slot_backend(const struct frontend *frontend, __u32 choice,
					struct l4 *chosen)
{
	struct slot slot = {.service = frontend->service, .generation = frontend->generation};
	struct l4 *backend;

	if (frontend->entries) {
		struct table key = {.service = slot.service, .generation = slot.generation};
		void *table = bpf_map_lookup_elem(&cw_lb_tables, &key);
		__u32 entry = choice % frontend->entries;
		__u32 piece = entry / CHUNK_ENTRIES;
		struct chunk *chunk;

		if (!table)
			return 0;
		chunk = bpf_map_lookup_elem(table, &piece);
		if (!chunk)
			return 0;
		slot.index = chunk->slot[entry % CHUNK_ENTRIES];
	} else {
		slot.index = choice % frontend->count;
	}
	backend = bpf_map_lookup_elem(&cw_lb_slots, &slot);
	if (!backend)
		return 0;
	*chosen = *backend;
	return 1;
}

/* The backend this client had last, if it may keep it. */
static __always_inline int kept_backend(const struct frontend *frontend, struct client *client,
					__u64 now, struct l4 *chosen)
{
	struct match match = {.service = frontend->service};
	struct affinity *kept;
	__u64 last;

	client->service = frontend->service;
	kept = bpf_map_lookup_elem(&cw_lb_affinity, client);
	if (!kept)
		return 0;
	last = kept->last;
	match.backend = kept->backend;
	if (now > last + frontend->affinity * 1000000000ULL)
		return 0;
	/* Also if the entry was replaced while it was read: who is in here may answer. */
	if (!bpf_map_lookup_elem(&cw_lb_matches, &match))
		return 0;
	*chosen = match.backend;
	return 1;
}

/* Chooses a backend of the frontend at `key` for a new connection of `client`, by `choice` (the hash
 * of the connection where `found` says Maglev). 1: found; 0: it is no frontend; -1: it has nobody to
 * answer. `found` is the frontend as it was used. The agent may switch to another table meanwhile, or
 * change it, and reuse the memory of a slot at once, so what was read counts only if the frontend is
 * still the same afterwards. */
static __always_inline int choose(struct l4 *key, struct client *client, __u32 choice,
				  struct frontend *found, struct l4 *chosen)
{
#pragma clang loop unroll(disable)
	for (int try = 0; try < 8; try++) {
		struct frontend *frontend = bpf_map_lookup_elem(&cw_lb_frontends, key);
		struct affinity kept = {};

		if (!frontend) {
			if (key->scope == SCOPE_EXTERNAL)
				return 0;
			/* Its two lists have become one since it was found. */
			key->scope = SCOPE_EXTERNAL;
			continue;
		}
		*found = *frontend;
		if (!found->count)
			return -1;
		if (found->affinity) {
			kept.last = bpf_ktime_get_ns();
			if (!kept_backend(found, client, kept.last, chosen) &&
			    !slot_backend(found, choice, chosen))
				continue;
		} else if (!slot_backend(found, choice, chosen)) {
			continue;
		}
		frontend = bpf_map_lookup_elem(&cw_lb_frontends, key);
		if (!frontend || !same_frontend(frontend, found))
			continue;
		if (found->affinity) {
			kept.backend = *chosen;
			bpf_map_update_elem(&cw_lb_affinity, client, &kept, BPF_ANY);
		}
		return 1;
	}
	return -1;
}

static __always_inline int is_any(const struct address *a)
{
	return !(a->word[0] | a->word[1] | a->word[2] | a->word[3]);
}

/* 127.0.0.0/8 or ::1. */
static __always_inline int is_loopback(const struct address *a)
{
	if (a->family == FAMILY_V4)
		return (a->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !(a->word[0] | a->word[1] | a->word[2]) && a->word[3] == bpf_htonl(1);
}

/* The wildcard frontend (NodePort, hostPort) that answers at `key`, whose address becomes the
 * wildcard's if there is one. `local`: the client is in the node's own network namespace, whose
 * loopback addresses are the node's. Never at an address of another cluster's node. */
static __always_inline struct frontend *wildcard(struct l4 *key, int local)
{
	struct l4 any = {
		.address = {.family = key->address.family},
		.port = key->port,
		.protocol = key->protocol,
		.scope = SCOPE_EXTERNAL,
	};
	int own = local && (is_loopback(&key->address) || is_any(&key->address));
	struct frontend *frontend;

	if (!own) {
		__u32 *node = bpf_map_lookup_elem(&cw_node_addresses, &key->address);

		if (!node)
			return NULL;
		own = *node == NODE_OWN;
	}
	frontend = bpf_map_lookup_elem(&cw_lb_frontends, &any);
	if (!frontend || (frontend->kind == KIND_HOST_PORT && !own))
		return NULL;
	*key = any;
	return frontend;
}

/* Whether a frontend may be translated for a client on this node, wherever its packets would go:
 * someone who may write a Service must not get connections to foreign addresses (CVE-2020-8554). */
static __always_inline int is_reachable_inside(const struct frontend *frontend,
					       const struct address *address, int local)
{
	__u32 *node;

	if (frontend->kind != KIND_EXTERNAL_IP && frontend->kind != KIND_HOST_PORT)
		return 1;
	if (local && is_loopback(address))
		return 1;
	node = bpf_map_lookup_elem(&cw_node_addresses, address);
	return node && *node == NODE_OWN;
}

/* Finds the key of the frontend that a client on this node means by `key`: exact, or a wildcard, and
 * with the list for clients inside. 0: it is no frontend to it. */
static __always_inline int find_inside(struct l4 *key, int local)
{
	struct address address = key->address;
	struct frontend *frontend = NULL;

	key->scope = SCOPE_EXTERNAL;
	if (!is_any(&address)) {
		frontend = bpf_map_lookup_elem(&cw_lb_frontends, key);
		if (frontend && !is_reachable_inside(frontend, &address, local))
			return 0;
	}
	if (!frontend) {
		frontend = wildcard(key, local);
		if (!frontend)
			return 0;
	}
	if (frontend->flags & FRONTEND_TWO_SCOPES)
		key->scope = SCOPE_INTERNAL;
	return 1;
}
