/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who is behind an address, and which node to send it to.
 *
 * Full-length addresses are in a hash, shorter prefixes in a trie that is asked only on a miss: a
 * hash lookup costs half of a trie lookup, and almost every packet is for a known pod. */
#pragma once

#include "common.h"

struct remote {
	__u32 identity;
	/* The node to tunnel to, IPv4; 0 = not by tunnel. */
	__be32 tunnel_endpoint;
	/* IPsec key index; 0 = none. */
	__u8 key_index;
	__u8 pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct address);
	__type(value, struct remote);
} cw_ipcache SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 64000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct prefix);
	__type(value, struct remote);
} cw_ipcache_lpm SEC(".maps");

static __always_inline struct remote *ipcache_lookup(const struct address *address)
{
	struct remote *found = bpf_map_lookup_elem(&cw_ipcache, address);

	if (!found) {
		struct prefix key = {.bits = 32 + 128, .address = *address};

		if (address->family == FAMILY_V4)
			key.bits = 32 + 32;
		found = bpf_map_lookup_elem(&cw_ipcache_lpm, &key);
	}
	return found;
}

/* Who is behind an address that is not this node's, for all that is known. Nobody is this node because a
 * packet says so. */
static __always_inline __u32 identity_of(const struct address *address)
{
	struct remote *remote = ipcache_lookup(address);

	if (!remote || remote->identity == IDENTITY_UNKNOWN || remote->identity == IDENTITY_HOST)
		return IDENTITY_WORLD;
	return remote->identity;
}
