/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What was decided about a flow that leaves the node, for its next packets: they are translated and sent
 * without a look at any other map.
 *
 * A shortcut holds for one tick, so a busy flow is looked at seven times a second: what the maps say now
 * takes effect that soon, and entries of connection tracking, whose times need no more, are kept. What
 * begins or ends a connection of TCP, and what has flags that were not seen before, takes no shortcut. */
#pragma once

#include "wire.h"

struct shortcut {
	/* As its packets come in; `flags` is FLOW_IN inside the tunnel. And as they leave. */
	struct tuple flow;
	struct tuple out;
	/* When this was decided. */
	__u32 tick;
	/* The longest frame that was seen to fit. */
	__u32 room;
	/* Where they leave, and to which node in the tunnel; 0 = not in it. */
	__u32 ifindex;
	__be32 node;
	struct sums sums;
	/* Of the outer header, without what is each packet's own. */
	__u32 outer_sum;
	__be16 outer_port;
	__u8 dmac[ETH_ALEN];
	__u8 smac[ETH_ALEN];
	__u8 direction;
	/* Flags of TCP. */
	__u8 seen;
};

/* A power of two. */
#define SHORTCUTS 16384

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SHORTCUTS);
	__type(key, __u32);
	__type(value, struct shortcut);
} cw_xdp_shortcuts SEC(".maps");

static __always_inline int same_flow(const struct tuple *a, const struct tuple *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4];
}

static __always_inline int holds(const struct shortcut *way, const struct scratch *s)
{
	return way->tick == s->l4.now && same_flow(&way->flow, &s->flow);
}

/* The place of scratch's flow: one of two that it may have, the one it has now or one that is free. */
static __always_inline struct shortcut *shortcut_of(const struct scratch *s)
{
	__u32 at = flow_hash(&s->flow) & (SHORTCUTS - 1), beside = at ^ 1;
	struct shortcut *first = bpf_map_lookup_elem(&cw_xdp_shortcuts, &at);
	struct shortcut *second = bpf_map_lookup_elem(&cw_xdp_shortcuts, &beside);

	if (!first || !second || holds(first, s))
		return first;
	if (holds(second, s) || second->tick != s->l4.now)
		return second;
	return first;
}

/* Whether a packet with the place of its flow can go this way. */
static __always_inline int is_usable(const struct shortcut *way, const struct scratch *s, __u32 length)
{
	return holds(way, s) && length <= way->room && !(s->l4.tcp_flags & ~way->seen);
}

/* Writes down what was decided about scratch's flow, which leaves as its `out`. `room` is the length of a
 * frame that fits. */
static __always_inline void decide(struct shortcut *way, const struct scratch *s, __be32 node,
				   __u32 room, const struct bpf_fib_lookup *fib, __u8 direction)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = sizeof(ip) / 4,
		.ttl = OUTER_TTL,
		.protocol = IPPROTO_UDP,
		.saddr = NODE_IP4,
		.daddr = node,
	};
	int known = holds(way, s);
	__u8 seen = s->l4.tcp_flags;

	way->flow = s->flow;
	way->out = s->out;
	way->room = known && way->room > room ? way->room : room;
	way->ifindex = fib->ifindex;
	way->node = node;
	way->sums = sums_of(&s->flow, &s->out);
	way->outer_sum = folded(bpf_csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
	/* One port for one flow, so that its packets stay in order. */
	way->outer_port = bpf_htons(0xc000 | (flow_hash(&s->out) & 0x3fff));
	__builtin_memcpy(way->dmac, fib->dmac, ETH_ALEN);
	__builtin_memcpy(way->smac, fib->smac, ETH_ALEN);
	way->direction = direction;
	way->seen = known ? way->seen | seen : seen;
	/* What begins or ends a connection is no example for others. */
	way->tick = seen & (TCP_SYN | TCP_FIN | TCP_RST) ? s->l4.now - 1 : s->l4.now;
}

/* Puts the outer header in front of a packet, as the tunnel device would write it. */
static __always_inline int encapsulate(struct xdp_md *ctx, const struct shortcut *way)
{
	__u16 length = packet_length(ctx) + OUTER_LENGTH - ETH_HLEN;
	struct packet packet;
	struct outer *outer;
	__u8 ecn;

	if (way->out.family == FAMILY_V4) {
		if (!parse(ctx, FAMILY_V4, &packet))
			return 0;
		ecn = packet.ip4->tos & ECN_MASK;
	} else {
		if (!parse(ctx, FAMILY_V6, &packet))
			return 0;
		ecn = packet.ip6->flow_lbl[0] >> 4 & ECN_MASK;
	}
	if (bpf_xdp_adjust_head(ctx, -(int)OUTER_LENGTH))
		return 0;
	outer = (void *)(long)ctx->data;
	if ((void *)(outer + 1) > (void *)(long)ctx->data_end)
		return 0;
	__builtin_memset(outer, 0, sizeof(*outer));
	set_macs(&outer->eth, way->dmac, way->smac);
	outer->eth.h_proto = bpf_htons(ETH_P_IP);
	outer->ip.version = 4;
	outer->ip.ihl = sizeof(outer->ip) / 4;
	outer->ip.tos = ecn == ECN_CE ? ECN_ECT_0 : ecn;
	outer->ip.tot_len = bpf_htons(length);
	outer->ip.id = bpf_get_prandom_u32();
	outer->ip.ttl = OUTER_TTL;
	outer->ip.protocol = IPPROTO_UDP;
	outer->ip.saddr = NODE_IP4;
	outer->ip.daddr = way->node;
	outer->ip.check = ~folded((__u64)way->outer_sum + bpf_htons(outer->ip.tos) + outer->ip.tot_len +
				  outer->ip.id);
	outer->udp.source = way->outer_port;
	outer->udp.dest = bpf_htons(TUNNEL_PORT);
	outer->udp.len = bpf_htons(length - sizeof(outer->ip));
	outer->vxlan.flags = VXLAN_HAS_VNI;
	outer->vxlan.vni = bpf_htonl(IDENTITY_WORLD << 8);
	return 1;
}

/* Sends a packet, on its flow's way. */
__global int send_on(struct xdp_md *ctx, const struct shortcut *way)
{
	struct packet packet;

	if (!way)
		return XDP_PASS;
	if (way->flow.flags == FLOW_IN && bpf_xdp_adjust_head(ctx, OUTER_LENGTH))
		return XDP_PASS;
	if (!translate(ctx, &way->out, &way->sums))
		return XDP_DROP;
	if (way->out.family == FAMILY_V4) {
		if (!parse(ctx, FAMILY_V4, &packet))
			return XDP_DROP;
		decrement_hops(&packet);
	} else {
		if (!parse(ctx, FAMILY_V6, &packet))
			return XDP_DROP;
		decrement_hops(&packet);
	}
	count(ctx, REASON_FORWARDED, way->direction);
	if (!way->node)
		set_macs(packet.eth, way->dmac, way->smac);
	else if (!encapsulate(ctx, way))
		return XDP_DROP;
	return way->ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(way->ifindex, 0);
}
