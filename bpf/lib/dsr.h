/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Direct server return: a backend of another node gets the client's packet under the client's own address,
 * and answers the client itself. The packet carries the frontend, so that the backend's node knows whose
 * address the answers have as source: as an option of IPv4, or a destination option of IPv6, in Cilium's
 * format; with TCP the first packet only, with UDP every one.
 *
 * The source of such a packet is the client, so it says nothing about who has sent it on. What is accepted
 * is therefore bounded by what it says: see is_plausible(). */
#pragma once

#include "lb.h"
#include "native.h"
#include "service.h"

/* Copied to fragments, of class control, number 26. */
#define DSR_V4_TYPE 0x9a
/* Skipped by who does not know it, never changed on the way. */
#define DSR_V6_TYPE 0x1b

/* Cilium writes both numbers byte by byte from the lowest, the other way round than everything else. */
struct dsr_v4 {
	__u8 type;
	__u8 length;
	__u16 port;
	__u32 address;
};

/* The whole extension header. */
struct dsr_v6 {
	__u8 next;
	/* In units of 8 bytes after the first. */
	__u8 units;
	__u8 type;
	/* Of what follows. */
	__u8 length;
	__be32 address[4];
	__be16 port;
	__u16 pad;
};

/* The start of an IPv4 header. */
struct ip4_start {
	__u8 version_length;
	__u8 service;
	__be16 total;
};

/* The middle of an IPv6 header. */
struct ip6_middle {
	__be16 payload;
	__u8 next;
	__u8 hops;
};

#define IP4_LONGEST 15
#define IP6_MIDDLE (ETH_HLEN + 4)

/* Whether the backend that a flow goes to is another cluster's, which has not heard of this one's external
 * addresses. */
__global int is_of_other_cluster(const struct tuple *flow)
{
	struct address backend;
	__u32 identity;

	if (!flow)
		return 0;
	backend = address_of(flow, flow->dst);
	identity = identity_of(&backend);
	if (is_pod_identity(identity) && identity != IDENTITY_HEALTH)
		return identity < OWN_IDENTITY_MIN || identity > OWN_IDENTITY_MAX;
	return identity == IDENTITY_REMOTE_NODE &&
	       !bpf_map_lookup_elem(&cw_node_addresses, &backend);
}

static __always_inline __u32 dsr_room(const struct tuple *flow)
{
	return flow->family == FAMILY_V4 ? sizeof(struct dsr_v4) : sizeof(struct dsr_v6);
}

/* Whether a packet of a client's flow has to say what its frontend is. */
static __always_inline int dsr_is_told(const struct tuple *flow, const struct l4_header *l4)
{
	if (flow->protocol == IPPROTO_TCP)
		return l4->tcp_flags & TCP_SYN;
	/* Where the first fragment says it, the others need not. */
	return l4->fragment != FRAGMENT_LATER;
}

static __always_inline int dsr_set_v4(struct __sk_buff *skb, const struct tuple *client)
{
	struct dsr_v4 option = {
		.type = DSR_V4_TYPE,
		.length = sizeof(option),
		.port = bpf_htons(client->dport),
		.address = bpf_htonl(client->dst[0]),
	};
	struct ip4_start before, after;
	__s64 sum;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &before, sizeof(before)))
		return REASON_INVALID_PACKET;
	if ((before.version_length & 0xf) > IP4_LONGEST - sizeof(option) / 4)
		return REASON_INVALID_PACKET;
	after = before;
	after.version_length += sizeof(option) / 4;
	after.total = bpf_htons(bpf_ntohs(before.total) + sizeof(option));
	sum = bpf_csum_diff((__be32 *)&before, sizeof(before), (__be32 *)&after, sizeof(after), 0);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&option, sizeof(option), (__u32)sum);
	if (bpf_skb_adjust_room(skb, sizeof(option), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &after, sizeof(after), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(struct iphdr), &option, sizeof(option), 0))
		return REASON_INVALID_PACKET;
	return bpf_l3_csum_replace(skb, ETH_HLEN + IP4_CHECK, 0, sum, 0) ? REASON_L3_CHECKSUM : 0;
}

static __always_inline int dsr_set_v6(struct __sk_buff *skb, const struct tuple *client)
{
	struct dsr_v6 option = {
		.units = sizeof(option) / 8 - 1,
		.type = DSR_V6_TYPE,
		.length = sizeof(option) - 4,
		.port = client->dport,
	};
	struct ip6_middle middle;

	if (bpf_skb_load_bytes(skb, IP6_MIDDLE, &middle, sizeof(middle)))
		return REASON_INVALID_PACKET;
	/* Nothing may be in front of options for every hop. */
	if (middle.next == IPPROTO_HOPOPTS)
		return REASON_INVALID_EXTENSION;
	option.next = middle.next;
	__builtin_memcpy(option.address, client->dst, sizeof(option.address));
	middle.next = IPPROTO_DSTOPTS;
	middle.payload = bpf_htons(bpf_ntohs(middle.payload) + sizeof(option));
	if (bpf_skb_adjust_room(skb, sizeof(option), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO) ||
	    bpf_skb_store_bytes(skb, IP6_MIDDLE, &middle, sizeof(middle), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &option, sizeof(option), 0))
		return REASON_INVALID_PACKET;
	return 0;
}

/* Puts the frontend of a client's flow (`client`, before translation) into the packet. 0, or the reason why
 * it cannot. */
__global int dsr_set(struct __sk_buff *skb, const struct tuple *client)
{
	if (!client)
		return REASON_INVALID_PACKET;
	return client->family == FAMILY_V4 ? dsr_set_v4(skb, client) : dsr_set_v6(skb, client);
}

/* Reads the frontend that a packet carries into the destination of `frontend`; false if it carries none. */
__global int dsr_get(struct __sk_buff *skb, __u32 family, struct tuple *frontend)
{
	if (!frontend)
		return 0;
	if (family == FAMILY_V4) {
		struct dsr_v4 option;
		__u8 version_length;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &version_length, 1) ||
		    (version_length & 0xf) < (sizeof(struct iphdr) + sizeof(option)) / 4 ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct iphdr), &option, sizeof(option)) ||
		    option.type != DSR_V4_TYPE || option.length != sizeof(option))
			return 0;
		frontend->dst[0] = bpf_ntohl(option.address);
		frontend->dport = bpf_ntohs(option.port);
	} else {
		struct dsr_v6 option;
		__u8 next;

		if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &next, 1) || next != IPPROTO_DSTOPTS ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &option,
				       sizeof(option)) ||
		    option.type != DSR_V6_TYPE || option.length != sizeof(option) - 4 ||
		    option.units != sizeof(option) / 8 - 1)
			return 0;
		__builtin_memcpy(frontend->dst, option.address, sizeof(frontend->dst));
		frontend->dport = option.port;
	}
	return 1;
}

/* Takes the frontend out of the packet again: no pod needs to know of it. 0, or the reason why it cannot. */
__global int dsr_remove(struct __sk_buff *skb, __u32 family)
{
	if (family == FAMILY_V4) {
		struct ip4_start before, after;
		struct dsr_v4 option;
		__s64 sum;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &before, sizeof(before)) ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct iphdr), &option, sizeof(option)))
			return REASON_INVALID_PACKET;
		after = before;
		after.version_length -= sizeof(option) / 4;
		after.total = bpf_htons(bpf_ntohs(before.total) - sizeof(option));
		sum = bpf_csum_diff((__be32 *)&before, sizeof(before), (__be32 *)&after, sizeof(after), 0);
		sum = bpf_csum_diff((__be32 *)&option, sizeof(option), NULL, 0, (__u32)sum);
		if (bpf_skb_adjust_room(skb, -(__s32)sizeof(option), BPF_ADJ_ROOM_NET,
					BPF_F_ADJ_ROOM_FIXED_GSO) ||
		    bpf_skb_store_bytes(skb, ETH_HLEN, &after, sizeof(after), 0))
			return REASON_INVALID_PACKET;
		return bpf_l3_csum_replace(skb, ETH_HLEN + IP4_CHECK, 0, sum, 0) ? REASON_L3_CHECKSUM : 0;
	} else {
		struct ip6_middle middle;
		__u8 next;

		if (bpf_skb_load_bytes(skb, IP6_MIDDLE, &middle, sizeof(middle)) ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &next, 1))
			return REASON_INVALID_PACKET;
		middle.next = next;
		middle.payload = bpf_htons(bpf_ntohs(middle.payload) - sizeof(struct dsr_v6));
		if (bpf_skb_adjust_room(skb, -(__s32)sizeof(struct dsr_v6), BPF_ADJ_ROOM_NET,
					BPF_F_ADJ_ROOM_FIXED_GSO) ||
		    bpf_skb_store_bytes(skb, IP6_MIDDLE, &middle, sizeof(middle), 0))
			return REASON_INVALID_PACKET;
		return 0;
	}
}

/* Whether a node of the mesh may have sent on a packet for `backend` with this frontend. The backend is one
 * of a service here, and the frontend is one: a listed address for clients outside, the port of a NodePort
 * at a node of this cluster, or an address of a node of another one, whose ports are not known here. */
static __always_inline int is_plausible(struct l4 *frontend, const struct l4 *backend)
{
	struct frontend *listed;
	__u32 *node;

	if (!frontend->port || !bpf_map_lookup_elem(&cw_lb_backends, backend))
		return 0;
	listed = bpf_map_lookup_elem(&cw_lb_frontends, frontend);
	if (listed)
		return listed->kind != KIND_CLUSTER_IP;
	node = bpf_map_lookup_elem(&cw_node_addresses, &frontend->address);
	if (!node)
		return identity_of(&frontend->address) == IDENTITY_REMOTE_NODE;
	__builtin_memset(frontend->address.word, 0, sizeof(frontend->address.word));
	listed = bpf_map_lookup_elem(&cw_lb_frontends, frontend);
	return listed && listed->kind == KIND_NODE_PORT;
}

/* Whether a packet has what a frontend is carried in: almost none has, and it is cheap to see. */
static __always_inline int may_carry_dsr(const struct packet *packet)
{
	if (packet->family == FAMILY_V4)
		return packet->ip4->ihl > sizeof(struct iphdr) / 4;
	return packet->ip6->nexthdr == IPPROTO_DSTOPTS;
}
