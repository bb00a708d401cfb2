/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets and bytes by reason and direction, per CPU. */
#pragma once

#include "common.h"
#include "context.h"

struct metric_key {
	__u8 reason;
	__u8 direction;
	__u16 pad;
};

struct metric {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct metric_key);
	__type(value, struct metric);
} cw_metrics SEC(".maps");

static __always_inline void count(struct packet_ctx *skb, __u8 reason, __u8 direction)
{
	struct metric_key key = {.reason = reason, .direction = direction};
	struct metric *entry = bpf_map_lookup_elem(&cw_metrics, &key);

	if (entry) {
		entry->packets++;
		entry->bytes += packet_length(skb);
	} else {
		struct metric first = {.packets = 1, .bytes = packet_length(skb)};

		bpf_map_update_elem(&cw_metrics, &key, &first, BPF_NOEXIST);
	}
}

static __always_inline int drop(struct packet_ctx *skb, __u8 reason, __u8 direction)
{
	count(skb, reason, direction);
	return ACT_DROP;
}
