/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The pods of this node: by each address for delivery, by interface to know who sent a packet. */
#pragma once

#include "common.h"

struct endpoint {
	/* The host side of the pod's veth pair. */
	__u32 ifindex;
	__u32 identity;
	/* The pod's addresses; zero where it has none of a family. */
	__be32 ip4;
	__be32 ip6[4];
	__u16 id;
	/* MAC addresses of the pod's end and of the host's. */
	__u8 mac[6];
	__u8 host_mac[6];
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct address);
	__type(value, struct endpoint);
} cw_endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct endpoint);
} cw_interfaces SEC(".maps");

/* Whether an address is the pod's own. */
static __always_inline int owns(const struct endpoint *pod, const struct address *address)
{
	const __be32 *word = address->word;

	if (address->family == FAMILY_V4)
		return word[0] && word[0] == pod->ip4;
	return (word[0] | word[1] | word[2] | word[3]) && word[0] == pod->ip6[0] &&
	       word[1] == pod->ip6[1] && word[2] == pod->ip6[2] && word[3] == pod->ip6[3];
}
