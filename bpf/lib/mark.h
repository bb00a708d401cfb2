/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the XDP program tells that of traffic control about a packet it has translated: a word of
 * metadata in front of the packet, which nobody can send. */
#pragma once

#include "context.h"

/* It is for a backend of this node, whose entries in connection tracking are seen to. */
#define MARK_TO_BACKEND 0xca5e0001

static __always_inline int has_mark(struct packet_ctx *skb, __u32 mark)
{
	__u32 *meta = (void *)(long)skb->data_meta;

	return (void *)(meta + 1) <= (void *)(long)skb->data && *meta == mark;
}

#ifdef CAUSEWAY_XDP

static long (*bpf_xdp_adjust_meta)(struct xdp_md *ctx, int delta) = (void *)BPF_FUNC_xdp_adjust_meta;

/* False where the device has no room for it. */
static __always_inline int set_mark(struct xdp_md *ctx, __u32 mark)
{
	__u32 *meta;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(mark)))
		return 0;
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return 0;
	*meta = mark;
	return 1;
}

#endif
