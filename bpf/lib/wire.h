/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets at the wire, for XDP: which of them are simple enough, the tunnel's outer header, and by which
 * device a packet leaves. Where something is not as it has to be, the packet has not been touched yet. */
#pragma once

#include <linux/udp.h>

#include "checksum.h"
#include "fib.h"
#include "ipcache.h"
#include "mark.h"
#include "metrics.h"
#include "outside.h"
#include "packet.h"
#include "tunnel.h"

static long (*bpf_xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)BPF_FUNC_xdp_adjust_head;

/* The devices that have this program, and so take and send packets of XDP; by their index. */
struct device {
	__u8 mac[6];
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct device);
} cw_xdp_devices SEC(".maps");

struct vxlan {
	__be32 flags;
	/* The upper 24 bits. */
	__be32 vni;
};

#define VXLAN_HAS_VNI bpf_htonl(0x08000000)

/* What the tunnel puts in front of a frame. */
struct outer {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	struct vxlan vxlan;
} __attribute__((packed));

#define OUTER_LENGTH sizeof(struct outer)

/* Offsets of checksums in their headers. */
#define TCP_CHECK 16
#define UDP_CHECK 6

#define ECN_MASK 3
#define ECN_CE 3
#define ECN_ECT_0 2

static __always_inline __u32 ip_header(__u32 family)
{
	return family == FAMILY_V4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

/* Reads the flow of the frame at `offset` into scratch; false if it is not a whole packet of TCP or UDP,
 * with nothing between its headers and a hop left. */
static __always_inline int plain_flow(struct xdp_md *ctx, struct scratch *s, __u32 offset,
				      __u32 family)
{
	__u32 header;
	__u8 hops;

	if (read_flow(ctx, offset + ETH_HLEN, family, &s->flow, &s->l4))
		return 0;
	s->l4.now = ticks();
	if (s->l4.kind != L4_PORTS || s->l4.fragment != FRAGMENT_NONE)
		return 0;
	if (s->flow.protocol == IPPROTO_TCP)
		header = 20;
	else if (s->flow.protocol == IPPROTO_UDP)
		header = sizeof(struct udphdr);
	else
		return 0;
	offset += ETH_HLEN;
	if (s->l4.offset != offset + ip_header(family) || s->l4.offset + header > packet_length(ctx))
		return 0;
	offset += family == FAMILY_V4 ? 8 : 7;
	return !packet_load(ctx, offset, &hops, sizeof(hops)) && hops > 1;
}

/* The family of the packet inside one of the tunnel, whose flow is scratch's; 0 if it is not simply one
 * for this node. */
static __always_inline __u32 inner_family(struct xdp_md *ctx, const struct tuple *flow,
					  const struct l4_header *l4)
{
	struct {
		struct udphdr udp;
		struct vxlan vxlan;
		__u8 macs[2 * ETH_ALEN];
		__be16 protocol;
	} __attribute__((packed)) inner;
	__u32 offset = ETH_HLEN + sizeof(struct iphdr);

	if (l4->offset != offset || flow->dst[0] != NODE_IP4 ||
	    packet_load(ctx, offset, &inner, sizeof(inner)))
		return 0;
	/* A checksum is the stack's to verify, and "this node" is nobody on the wire. */
	if (inner.udp.check || inner.vxlan.flags != VXLAN_HAS_VNI ||
	    bpf_ntohl(inner.vxlan.vni) >> 8 == IDENTITY_HOST)
		return 0;
	return family_of_protocol(inner.protocol);
}

/* Whether packets can leave by a device: that they came in by, or another one that takes frames of XDP. */
static __always_inline int can_leave(struct xdp_md *ctx, __u32 ifindex)
{
	return ifindex == ctx->ingress_ifindex || bpf_map_lookup_elem(&cw_xdp_devices, &ifindex);
}

/* Where a packet of this flow leaves, after `less` bytes in front of it are gone; false if it cannot. */
static __always_inline int way_out(struct xdp_md *ctx, const struct tuple *flow, __u32 less,
				   struct bpf_fib_lookup *fib)
{
	fib->tot_len = packet_length(ctx) - less - ETH_HLEN;
	return find_route(ctx, ctx->ingress_ifindex, flow, fib) == BPF_FIB_LKUP_RET_SUCCESS &&
	       can_leave(ctx, fib->ifindex);
}

/* The same for the packet inside the tunnel to a node. */
static __always_inline int tunnel_way(struct xdp_md *ctx, __be32 node, struct bpf_fib_lookup *fib)
{
	__u32 mtu = 0;

	if (!NODE_IP4 || !VXLAN_IFINDEX || bpf_check_mtu(ctx, VXLAN_IFINDEX, &mtu, 0, 0))
		return 0;
	fib->family = AF_INET;
	fib->l4_protocol = IPPROTO_UDP;
	fib->ipv4_src = NODE_IP4;
	fib->ipv4_dst = node;
	fib->tot_len = packet_length(ctx) - ETH_HLEN + OUTER_LENGTH;
	fib->ifindex = ctx->ingress_ifindex;
	return bpf_fib_lookup(ctx, fib, sizeof(*fib), 0) == BPF_FIB_LKUP_RET_SUCCESS &&
	       can_leave(ctx, fib->ifindex);
}

/* The sums by which checksums change when a flow becomes another one: that of the addresses, and that of
 * all. */
struct sums {
	__u32 addresses;
	__u32 all;
};

static __always_inline struct sums sums_of(const struct tuple *from, const struct tuple *to)
{
	struct sums sums;

	sums.addresses = folded(bpf_csum_diff((__be32 *)from->src, 32, (__be32 *)to->src, 32, 0));
	sums.all = sums.addresses;
	sums.all += folded(bpf_csum_diff((__be32 *)&from->sport, 4, (__be32 *)&to->sport, 4, 0));
	return sums;
}

/* Writes the addresses and ports of `to` into a packet that plain_flow() has seen, with its checksums. */
static __always_inline int translate(struct xdp_md *ctx, const struct tuple *to,
				     const struct sums *sums)
{
	void *end = (void *)(long)ctx->data_end;
	struct packet packet;
	struct ports *ports;
	__u16 *check;

	if (to->family == FAMILY_V4) {
		if (!parse(ctx, FAMILY_V4, &packet))
			return 0;
		packet.ip4->saddr = to->src[0];
		packet.ip4->daddr = to->dst[0];
		packet.ip4->check = checksum_after(packet.ip4->check, sums->addresses);
		ports = (void *)(packet.ip4 + 1);
	} else {
		if (!parse(ctx, FAMILY_V6, &packet))
			return 0;
		__builtin_memcpy(&packet.ip6->saddr, to->src, sizeof(to->src));
		__builtin_memcpy(&packet.ip6->daddr, to->dst, sizeof(to->dst));
		ports = (void *)(packet.ip6 + 1);
	}
	if ((void *)(ports + 1) > end)
		return 0;
	ports->sport = to->sport;
	ports->dport = to->dport;
	check = (void *)ports + (to->protocol == IPPROTO_TCP ? TCP_CHECK : UDP_CHECK);
	if ((void *)(check + 1) > end)
		return 0;
	/* Of UDP, zero means there is none, and stays zero. */
	if (to->protocol == IPPROTO_TCP)
		*check = checksum_after(*check, sums->all);
	else if (*check)
		*check = checksum_after(*check, sums->all) ?: 0xffff;
	return 1;
}
