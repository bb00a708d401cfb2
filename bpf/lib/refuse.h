/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Answers that a packet gets instead of being forwarded: to a service nobody is behind, a reset or
 * "port unreachable"; to a packet that is too big for the tunnel, the size that is not. The packet
 * itself is turned into the answer and goes back where it came from. */
#pragma once

#include <linux/tcp.h>

#include "metrics.h"
#include "rewrite.h"

/* Whether services with nobody behind them answer at all (service-no-backend-response); set when the
 * programs are loaded. */
const volatile __u32 REFUSE_NO_BACKEND = 1;

#define ANSWER_TTL 64

/* What IP headers of both families have in front of an answer. */
union ip_header {
	struct iphdr v4;
	struct ipv6hdr v6;
};

static __always_inline __u32 ip_length(const struct tuple *tuple)
{
	return tuple->family == FAMILY_V4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

/* The sum of the pseudo header of what goes back, without its length: both addresses and the
 * protocol. */
static __always_inline __s64 pseudo_sum(const struct tuple *tuple, __u8 protocol, __u16 length)
{
	__be32 tail[2] = {bpf_htonl(length), bpf_htonl(protocol)};
	__s64 sum = bpf_csum_diff(NULL, 0, (__be32 *)tuple->src, 32, 0);

	return bpf_csum_diff(NULL, 0, tail, sizeof(tail), sum);
}

/* Writes the headers in front of an answer of `length` bytes and sends it back. */
static __always_inline int send_back(struct __sk_buff *skb, const struct tuple *tuple, __u8 protocol,
				     __u16 length)
{
	__u8 macs[2 * ETH_ALEN], swapped[2 * ETH_ALEN];
	union ip_header ip = {};

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return -1;
	__builtin_memcpy(swapped, macs + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(swapped + ETH_ALEN, macs, ETH_ALEN);
	if (bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0))
		return -1;
	if (tuple->family == FAMILY_V4) {
		ip.v4.version = 4;
		ip.v4.ihl = sizeof(ip.v4) / 4;
		ip.v4.tot_len = bpf_htons(sizeof(ip.v4) + length);
		ip.v4.ttl = ANSWER_TTL;
		ip.v4.protocol = protocol;
		ip.v4.saddr = tuple->dst[0];
		ip.v4.daddr = tuple->src[0];
		ip.v4.check =
			~folded(bpf_csum_diff(NULL, 0, (__be32 *)&ip.v4, sizeof(ip.v4), 0));
		if (bpf_skb_store_bytes(skb, ETH_HLEN, &ip.v4, sizeof(ip.v4), 0))
			return -1;
	} else {
		ip.v6.version = 6;
		ip.v6.payload_len = bpf_htons(length);
		ip.v6.nexthdr = protocol;
		ip.v6.hop_limit = ANSWER_TTL;
		__builtin_memcpy(&ip.v6.saddr, tuple->dst, sizeof(ip.v6.saddr));
		__builtin_memcpy(&ip.v6.daddr, tuple->src, sizeof(ip.v6.daddr));
		if (bpf_skb_store_bytes(skb, ETH_HLEN, &ip.v6, sizeof(ip.v6), 0))
			return -1;
	}
	return bpf_redirect(skb->ifindex, 0);
}

/* A reset for a segment of TCP. */
__global int refuse_tcp(struct __sk_buff *skb, const struct tuple *tuple,
			const struct l4_header *l4)
{
	struct tcphdr tcp, reset = {};
	__u32 start;
	/* Where the segment ends, which is not where the frame does: short frames are padded. */
	__be16 total;
	__u32 end;

	if (!tuple || !l4)
		return -1;
	start = ETH_HLEN + ip_length(tuple);
	if (l4->tcp_flags & TCP_RST || bpf_skb_load_bytes(skb, l4->offset, &tcp, sizeof(tcp)))
		return -1;
	if (tuple->family == FAMILY_V4) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 2, &total, sizeof(total)))
			return -1;
		end = ETH_HLEN + bpf_ntohs(total);
	} else {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 4, &total, sizeof(total)))
			return -1;
		end = start + bpf_ntohs(total);
	}
	reset.source = tcp.dest;
	reset.dest = tcp.source;
	reset.doff = sizeof(reset) / 4;
	reset.rst = 1;
	if (tcp.ack) {
		reset.seq = tcp.ack_seq;
	} else {
		reset.ack = 1;
		reset.ack_seq = bpf_htonl(bpf_ntohl(tcp.seq) + end - l4->offset - tcp.doff * 4 +
					  tcp.syn + tcp.fin);
	}
	reset.check = ~folded(bpf_csum_diff(NULL, 0, (__be32 *)&reset, sizeof(reset),
					    pseudo_sum(tuple, IPPROTO_TCP, sizeof(reset))));
	if (bpf_skb_change_tail(skb, start + sizeof(reset), 0) ||
	    bpf_skb_store_bytes(skb, start, &reset, sizeof(reset), 0))
		return -1;
	return send_back(skb, tuple, IPPROTO_TCP, sizeof(reset));
}

/* An ICMP error about the packet, with this type, code and what they need. */
__global int answer_error(struct __sk_buff *skb, const struct tuple *tuple, __u8 type, __u8 code,
			  __be32 rest)
{
	struct {
		__u8 type;
		__u8 code;
		__u16 check;
		__be32 rest;
		__be32 quote[QUOTE_V6 / 4];
	} error = {.type = type, .code = code, .rest = rest};
	__u8 protocol = IPPROTO_ICMP;
	__u32 start, length;
	__s64 sum = 0;

	if (!tuple)
		return -1;
	start = ETH_HLEN + ip_length(tuple);
	if (tuple->family == FAMILY_V4) {
		length = 8 + QUOTE_V4;
		if (bpf_skb_load_bytes(skb, ETH_HLEN, error.quote, QUOTE_V4))
			return -1;
	} else {
		length = 8 + QUOTE_V6;
		protocol = IPPROTO_ICMPV6;
		if (bpf_skb_load_bytes(skb, ETH_HLEN, error.quote, QUOTE_V6))
			return -1;
		sum = pseudo_sum(tuple, protocol, length);
	}
	/* What is not quoted is zero. */
	error.check = ~folded(bpf_csum_diff(NULL, 0, (__be32 *)&error, sizeof(error), sum));
	if (bpf_skb_change_tail(skb, start + length, 0))
		return -1;
	if (tuple->family == FAMILY_V4) {
		if (bpf_skb_store_bytes(skb, start, &error, 8 + QUOTE_V4, 0))
			return -1;
	} else if (bpf_skb_store_bytes(skb, start, &error, 8 + QUOTE_V6, 0)) {
		return -1;
	}
	return send_back(skb, tuple, protocol, length);
}

/* Nobody is behind the service: says so at once, or, where the node is told to, nothing. */
static __always_inline int refuse(struct __sk_buff *skb, const struct tuple *tuple,
				  const struct l4_header *l4, __u8 direction)
{
	int verdict = -1;

	count(skb, REASON_NO_BACKEND, direction);
	if (!REFUSE_NO_BACKEND || l4->fragment == FRAGMENT_LATER)
		return ACT_DROP;
	if (tuple->protocol == IPPROTO_TCP)
		verdict = refuse_tcp(skb, tuple, l4);
	else if (tuple->family == FAMILY_V4)
		verdict = answer_error(skb, tuple, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, 0);
	else
		verdict = answer_error(skb, tuple, ICMPV6_DEST_UNREACH, ICMPV6_PORT_UNREACH, 0);
	return verdict < 0 ? ACT_DROP : verdict;
}

/* The packet does not fit: says what does. */
static __always_inline int too_big(struct __sk_buff *skb, const struct tuple *tuple, __u32 mtu,
				   __u8 direction)
{
	int verdict;

	count(skb, REASON_TOO_BIG, direction);
	if (tuple->family == FAMILY_V4)
		verdict = answer_error(skb, tuple, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED,
				       bpf_htonl(mtu & 0xffff));
	else
		verdict = answer_error(skb, tuple, ICMPV6_PKT_TOOBIG, 0, bpf_htonl(mtu));
	return verdict < 0 ? ACT_DROP : verdict;
}
