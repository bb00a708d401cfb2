/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What comes in at the node's native devices, before the kernel makes a packet of its own of it: the
 * frequent cases of what bpf_host does there, with the same maps. Everything else passes unchanged, and
 * bpf_host does it as if there were no XDP. */

#define CAUSEWAY_XDP

#include "lib/shortcut.h"

/* For a backend of this node: translated here, delivered by bpf_host. */
static __always_inline int to_local(struct xdp_md *ctx, struct scratch *s,
				    const struct endpoint *pod)
{
	struct sums sums;

	if (local_flow(s, pod) || !set_mark(ctx, MARK_TO_BACKEND))
		return XDP_PASS;
	sums = sums_of(&s->flow, &s->out);
	return translate(ctx, &s->out, &sums) ? XDP_PASS : XDP_DROP;
}

/* For a backend of another node; `port` is the one the flow has had of this node. */
__global int to_remote(struct xdp_md *ctx, __be16 port)
{
	struct bpf_fib_lookup fib = {};
	struct scratch *s = scratch();
	struct remote *remote;
	struct shortcut *way;
	struct address dst;
	__be32 node;

	if (!s)
		return XDP_PASS;
	dst = address_of(&s->out, s->out.dst);
	remote = ipcache_lookup(&dst);
	node = remote ? remote->tunnel_endpoint : 0;
	if (!set_nat_source(&s->out, node != 0))
		return XDP_PASS;
	if (node ? !tunnel_way(ctx, node, &fib) : !way_out(ctx, &s->out, 0, &fib))
		return XDP_PASS;
	if (remote_flow(s, port))
		return XDP_PASS;
	/* As it came in. */
	s->flow.flags = 0;
	way = shortcut_of(s);
	if (!way)
		return XDP_PASS;
	decide(way, s, node, packet_length(ctx), &fib, DIRECTION_EGRESS);
	return send_on(ctx, way);
}

/* A reply of a backend of another node, if it is one, on its way to the client. It has come through the
 * tunnel where there is an outer header of `outer` bytes. */
__global int to_client(struct xdp_md *ctx, __u32 outer)
{
	struct bpf_fib_lookup fib = {};
	struct scratch *s = scratch();
	struct shortcut *way;

	if (!s || !reply_flow(s, &s->flow, &s->l4) || !way_out(ctx, &s->out, outer, &fib))
		return XDP_PASS;
	way = shortcut_of(s);
	if (!way)
		return XDP_PASS;
	decide(way, s, 0, packet_length(ctx), &fib, DIRECTION_INGRESS);
	return send_on(ctx, way);
}

/* The way that packets of scratch's flow have gone just now, if this one can, too. */
static __always_inline struct shortcut *known_way(struct xdp_md *ctx, const struct scratch *s)
{
	struct shortcut *way = shortcut_of(s);

	return way && is_usable(way, s, packet_length(ctx)) ? way : NULL;
}

/* A packet of the tunnel. */
static __always_inline int from_tunnel(struct xdp_md *ctx, struct scratch *s)
{
	__u32 family = inner_family(ctx, &s->flow, &s->l4);
	struct shortcut *way;

	if (!family || !plain_flow(ctx, s, OUTER_LENGTH, family))
		return XDP_PASS;
	s->flow.flags = FLOW_IN;
	way = known_way(ctx, s);
	return way ? send_on(ctx, way) : to_client(ctx, OUTER_LENGTH);
}

/* A client's, or a reply that did not need the tunnel. */
__global int accelerate(struct xdp_md *ctx, __u32 family)
{
	struct scratch *s = scratch();
	struct frontend *frontend;
	struct address address;
	struct endpoint *pod;
	struct shortcut *way;
	__be16 port = 0;
	struct l4 key;

	if (!s || !plain_flow(ctx, s, 0, family))
		return XDP_PASS;
	if (s->flow.protocol == IPPROTO_UDP && s->flow.dport == bpf_htons(TUNNEL_PORT))
		return family == FAMILY_V4 ? from_tunnel(ctx, s) : XDP_PASS;
	way = known_way(ctx, s);
	if (way)
		return send_on(ctx, way);
	key = frontend_key(&s->flow);
	frontend = find_outside(&key);
	if (!frontend)
		return to_client(ctx, 0);
	address = address_of(&s->flow, s->flow.src);
	if (!is_source_allowed(frontend, &address))
		return XDP_PASS;
	s->out = s->flow;
	s->flow.flags = FLOW_SERVICE;
	if (service_backend(&s->flow, &s->l4, &key, &s->out, &port))
		return XDP_PASS;
	address = address_of(&s->out, s->out.dst);
	pod = bpf_map_lookup_elem(&cw_endpoints, &address);
	if (pod || is_own_address(&address))
		return to_local(ctx, s, pod);
	return to_remote(ctx, port);
}

SEC("xdp")
int from_wire(struct xdp_md *ctx)
{
	__u32 ifindex = ctx->ingress_ifindex;
	struct device *device = bpf_map_lookup_elem(&cw_xdp_devices, &ifindex);
	struct ethhdr *eth = (void *)(long)ctx->data;

	if (!device || (void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	if (__builtin_memcmp(eth->h_dest, device->mac, ETH_ALEN))
		return XDP_PASS;
	switch (family_of_protocol(eth->h_proto)) {
	case FAMILY_V4:
		return accelerate(ctx, FAMILY_V4);
	case FAMILY_V6:
		return accelerate(ctx, FAMILY_V6);
	default:
		return XDP_PASS;
	}
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
