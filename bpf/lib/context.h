/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet as the kernel hands it to a program: that of traffic control, or, where CAUSEWAY_XDP is
 * defined, that of XDP. What both paths share is written once, for `struct packet_ctx`. */
#pragma once

#include "helpers.h"

#ifdef CAUSEWAY_XDP

#define packet_ctx xdp_md

static long (*packet_load)(const struct xdp_md *ctx, __u32 offset, void *to,
			   __u32 len) = (void *)BPF_FUNC_xdp_load_bytes;

static __always_inline __u32 packet_length(const struct xdp_md *ctx)
{
	__u64 length = (void *)(long)ctx->data_end - (void *)(long)ctx->data;

	/* The verifier knows no half of a pointer. */
	asm volatile("" : "+r"(length));
	return length;
}

/* All of it is there already, or it is in pieces and nothing for XDP. */
static __always_inline long packet_pull(struct xdp_md *ctx, __u32 len)
{
	return -1;
}

#else

#define packet_ctx __sk_buff

static long (*packet_load)(const struct __sk_buff *skb, __u32 offset, void *to,
			   __u32 len) = (void *)BPF_FUNC_skb_load_bytes;

static __always_inline __u32 packet_length(const struct __sk_buff *skb)
{
	return skb->len;
}

static __always_inline long packet_pull(struct __sk_buff *skb, __u32 len)
{
	return bpf_skb_pull_data(skb, len);
}

#endif
