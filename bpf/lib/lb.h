/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services: a frontend, the table of its backends, and the way back.
 *
 * A frontend names a generation of its table. User space writes the new generation's slots first
 * and then the frontend, so no lookup ever sees a half-written service. Where few of many backends
 * change, it writes the slots in place, one by one, with another version of the frontend after each. */
#pragma once

#include "common.h"

struct l4 {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

struct frontend {
	__u32 service;
	__u32 generation;
	/* Slots 0 … count-1 exist; 0 = nobody to answer. */
	__u32 count;
	/* Another one with every change of the table in place. */
	__u32 version;
};

struct slot {
	__u32 service;
	__u32 generation;
	__u32 index;
};

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

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct flow);
	__type(value, struct l4);
} cw_lb_reverse SEC(".maps");
