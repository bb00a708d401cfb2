/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The flow a packet belongs to, and where its transport header is. Also of the packet that an ICMP
 * error quotes. Fragments after the first have no ports of their own: those of the first are kept. */
#pragma once

#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "common.h"
#include "context.h"

#define PROTO_SCTP 132

/* ICMP of IPv4; linux/icmp.h needs the headers of a C library. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_PORT_UNREACH 3
#define ICMP_FRAG_NEEDED 4

/* What messages of ICMP, of both families, have in front. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__u16 check;
	__be16 id;
	__be16 rest;
};

/* Whose direction an entry of a map is about. */
#define FLOW_OUT 0
#define FLOW_IN 1
/* A client's flow to a frontend, before it is translated. */
#define FLOW_SERVICE 4

/* Both ends of a flow. Addresses are as in struct address; an echo has its id as the port of who asks. */
struct tuple {
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;
	__be16 dport;
	__u8 family;
	__u8 protocol;
	__u8 flags;
	__u8 pad;
};

/* Time in units of 2^27 ns, 0.134 s, of CLOCK_MONOTONIC: a shift is cheaper than a division, and 32
 * bits last for 18 years. */
#define TICK_SHIFT 27
#define SECONDS(n) ((__u32)((n) * 1000000000ULL >> TICK_SHIFT))

static __always_inline __u32 ticks(void)
{
	return (__u32)(bpf_ktime_get_coarse_ns() >> TICK_SHIFT);
}

/* What the transport header is to translation. */
#define L4_NONE 0 /* Not translated. */
#define L4_PORTS 1
#define L4_ECHO 2
#define L4_ERROR 3

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define FRAGMENT_NONE 0
#define FRAGMENT_FIRST 1
#define FRAGMENT_LATER 2

struct l4_header {
	/* From the start of the frame. */
	__u32 offset;
	__u32 fragment_id;
	/* When it was read, in ticks. */
	__u32 now;
	__u8 kind;
	__u8 tcp_flags;
	__u8 fragment;
	/* ICMP's. */
	__u8 type;
};

/* A datagram in fragments. */
struct fragment {
	__be32 src[4];
	__be32 dst[4];
	__u32 id;
	__u8 family;
	__u8 protocol;
	__u16 pad;
};

struct ports {
	__be16 sport;
	__be16 dport;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct fragment);
	__type(value, struct ports);
} cw_fragments SEC(".maps");

/* Bits of the fragment fields of both families. */
#define V4_DONT_FRAGMENT 0x4000
#define V4_MORE_FRAGMENTS 0x2000
#define V4_FRAGMENT_OFFSET 0x1fff
#define V6_MORE_FRAGMENTS 0x0001
#define V6_FRAGMENT_OFFSET 0xfff8

/* How many extension headers of IPv6 are followed. */
#define MAX_EXTENSIONS 6

static __always_inline int read_ip4(struct packet_ctx *skb, __u32 offset, struct tuple *tuple,
				    struct l4_header *l4)
{
	struct iphdr ip;

	if (packet_load(skb, offset, &ip, sizeof(ip)))
		return REASON_INVALID_PACKET;
	if (ip.version != 4 || ip.ihl < 5)
		return REASON_INVALID_PACKET;
	tuple->src[0] = ip.saddr;
	tuple->dst[0] = ip.daddr;
	tuple->protocol = ip.protocol;
	l4->offset = offset + ip.ihl * 4;
	l4->fragment_id = ip.id;
	if (ip.frag_off & bpf_htons(V4_FRAGMENT_OFFSET))
		l4->fragment = FRAGMENT_LATER;
	else if (ip.frag_off & bpf_htons(V4_MORE_FRAGMENTS))
		l4->fragment = FRAGMENT_FIRST;
	return 0;
}

static __always_inline int read_ip6(struct packet_ctx *skb, __u32 offset, struct tuple *tuple,
				    struct l4_header *l4)
{
	struct {
		__u8 next;
		__u8 length;
		__be16 fragment;
		__u32 id;
	} extension;
	struct ipv6hdr ip;
	__u8 next;

	if (packet_load(skb, offset, &ip, sizeof(ip)))
		return REASON_INVALID_PACKET;
	if (ip.version != 6)
		return REASON_INVALID_PACKET;
	__builtin_memcpy(tuple->src, &ip.saddr, sizeof(tuple->src));
	__builtin_memcpy(tuple->dst, &ip.daddr, sizeof(tuple->dst));
	next = ip.nexthdr;
	offset += sizeof(ip);
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_AH && next != IPPROTO_FRAGMENT)
			break;
		if (packet_load(skb, offset, &extension, sizeof(extension)))
			return REASON_INVALID_EXTENSION;
		if (next == IPPROTO_FRAGMENT) {
			l4->fragment_id = extension.id;
			if (extension.fragment & bpf_htons(V6_FRAGMENT_OFFSET))
				l4->fragment = FRAGMENT_LATER;
			else if (extension.fragment & bpf_htons(V6_MORE_FRAGMENTS))
				l4->fragment = FRAGMENT_FIRST;
			offset += sizeof(extension);
		} else if (next == IPPROTO_AH) {
			offset += (extension.length + 2) * 4;
		} else {
			offset += (extension.length + 1) * 8;
		}
		next = extension.next;
		/* What follows is in the first fragment only. */
		if (l4->fragment == FRAGMENT_LATER)
			break;
	}
	tuple->protocol = next;
	l4->offset = offset;
	return 0;
}

static __always_inline struct fragment fragment_of(const struct tuple *tuple,
						   const struct l4_header *l4)
{
	struct fragment key = {
		.id = l4->fragment_id,
		.family = tuple->family,
		.protocol = tuple->protocol,
	};

	__builtin_memcpy(key.src, tuple->src, sizeof(key.src));
	__builtin_memcpy(key.dst, tuple->dst, sizeof(key.dst));
	return key;
}

static __always_inline int read_ports(struct packet_ctx *skb, struct tuple *tuple,
				      struct l4_header *l4)
{
	struct ports ports;

	l4->kind = L4_PORTS;
	if (l4->fragment == FRAGMENT_LATER) {
		struct fragment key = fragment_of(tuple, l4);
		struct ports *first = bpf_map_lookup_elem(&cw_fragments, &key);

		if (!first)
			return REASON_FRAGMENT_NOT_FOUND;
		tuple->sport = first->sport;
		tuple->dport = first->dport;
		return 0;
	}
	if (packet_load(skb, l4->offset, &ports, sizeof(ports)))
		return REASON_INVALID_L4;
	tuple->sport = ports.sport;
	tuple->dport = ports.dport;
	if (l4->fragment == FRAGMENT_FIRST) {
		struct fragment key = fragment_of(tuple, l4);

		bpf_map_update_elem(&cw_fragments, &key, &ports, BPF_ANY);
	}
	if (tuple->protocol == IPPROTO_TCP &&
	    packet_load(skb, l4->offset + 13, &l4->tcp_flags, 1))
		return REASON_INVALID_L4;
	return 0;
}

static __always_inline int read_icmp(struct packet_ctx *skb, struct tuple *tuple,
				     struct l4_header *l4)
{
	struct icmp_header icmp;

	/* A fragmented echo has no place in a map of flows, and errors are never fragmented. */
	if (l4->fragment != FRAGMENT_NONE)
		return 0;
	if (packet_load(skb, l4->offset, &icmp, sizeof(icmp)))
		return REASON_INVALID_L4;
	l4->type = icmp.type;
	if (tuple->protocol == IPPROTO_ICMPV6) {
		switch (icmp.type) {
		case ICMPV6_ECHO_REQUEST:
			l4->kind = L4_ECHO;
			tuple->sport = icmp.id;
			break;
		case ICMPV6_ECHO_REPLY:
			l4->kind = L4_ECHO;
			tuple->dport = icmp.id;
			break;
		case ICMPV6_DEST_UNREACH:
		case ICMPV6_PKT_TOOBIG:
		case ICMPV6_TIME_EXCEED:
		case ICMPV6_PARAMPROB:
			l4->kind = L4_ERROR;
		}
		return 0;
	}
	switch (icmp.type) {
	case ICMP_ECHO:
		l4->kind = L4_ECHO;
		tuple->sport = icmp.id;
		break;
	case ICMP_ECHOREPLY:
		l4->kind = L4_ECHO;
		tuple->dport = icmp.id;
		break;
	case ICMP_DEST_UNREACH:
	case ICMP_TIME_EXCEEDED:
	case ICMP_PARAMETERPROB:
		l4->kind = L4_ERROR;
	}
	return 0;
}

/* What is too much for the stack, which is short and shared with all callers. Programs of one CPU do not
 * interrupt each other. */
struct scratch {
	/* The packet's flow, and what it becomes. */
	struct tuple flow;
	struct tuple out;
	struct l4_header l4;
	/* Of the packet that an ICMP error quotes. */
	struct l4_header quoted;
	struct tuple quote;
	struct tuple quote_out;
	/* The error's own flow as it was. */
	struct tuple error;
	__be32 bytes[2][12];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} cw_scratch SEC(".maps");

static __always_inline struct scratch *scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cw_scratch, &zero);
}

/* Reads the IP header of `family` at `offset` and what follows. 0, or the reason why the packet is
 * none that can be looked up. */
__global int read_flow(struct packet_ctx *skb, __u32 offset, __u32 family, struct tuple *tuple,
		       struct l4_header *l4)
{
	int reason;

	if (!tuple || !l4)
		return REASON_INVALID_PACKET;
	__builtin_memset(tuple, 0, sizeof(*tuple));
	__builtin_memset(l4, 0, sizeof(*l4));
	tuple->family = family;
	if (family == FAMILY_V4)
		reason = read_ip4(skb, offset, tuple, l4);
	else
		reason = read_ip6(skb, offset, tuple, l4);
	if (reason)
		return reason;
	switch (tuple->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case PROTO_SCTP:
		return read_ports(skb, tuple, l4);
	case IPPROTO_ICMP:
		return family == FAMILY_V4 ? read_icmp(skb, tuple, l4) : 0;
	case IPPROTO_ICMPV6:
		return family == FAMILY_V6 ? read_icmp(skb, tuple, l4) : 0;
	default:
		return 0;
	}
}

/* The flow of a packet whose Ethernet header is in front. */
static __always_inline int packet_flow(struct packet_ctx *skb, __u32 family, struct tuple *tuple,
				       struct l4_header *l4)
{
	int reason = read_flow(skb, ETH_HLEN, family, tuple, l4);

	l4->now = ticks();
	return reason;
}

/* Reads the flow of the packet that an ICMP error quotes, into scratch; false if it is none that is
 * translated. What becomes of it is at first the same. */
static __always_inline int quoted_flow(struct packet_ctx *skb, struct scratch *s,
				       const struct tuple *error, const struct l4_header *l4)
{
	__u32 offset = l4->offset + sizeof(struct icmp_header);

	s->error = *error;
	if (read_flow(skb, offset, error->family, &s->quote, &s->quoted))
		return 0;
	s->quote_out = s->quote;
	return s->quoted.kind == L4_PORTS;
}

/* Makes `back` the same flow as its other end sends it. */
static __always_inline void reverse(const struct tuple *tuple, __u8 flags, struct tuple *back)
{
	__builtin_memcpy(back->src, tuple->dst, sizeof(back->src));
	__builtin_memcpy(back->dst, tuple->src, sizeof(back->dst));
	back->sport = tuple->dport;
	back->dport = tuple->sport;
	back->family = tuple->family;
	back->protocol = tuple->protocol;
	back->flags = flags;
	back->pad = 0;
}

static __always_inline int same_words(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline struct address address_of(const struct tuple *tuple, const __be32 *word)
{
	struct address a = {
		.family = tuple->family,
		.word = {word[0], word[1], word[2], word[3]},
	};

	return a;
}

/* The hash of a flow, the same on every node. */
static __always_inline __u32 flow_hash(const struct tuple *tuple)
{
	const __u32 *words = (const __u32 *)tuple;
	__u32 hash = 0x9747b28c;

#pragma clang loop unroll(full)
	for (int i = 0; i < 9; i++) {
		__u32 k = words[i] * 0xcc9e2d51;

		k = (k << 15) | (k >> 17);
		hash ^= k * 0x1b873593;
		hash = ((hash << 13) | (hash >> 19)) * 5 + 0xe6546b64;
	}
	hash ^= tuple->protocol;
	hash ^= hash >> 16;
	hash *= 0x85ebca6b;
	hash ^= hash >> 13;
	hash *= 0xc2b2ae35;
	return hash ^ (hash >> 16);
}
