/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The other ends of a node's links in tests and benchmarks, and no part of any node: one that makes packets
 * of many flows, one that counts and drops them, and one that takes what XDP sends. */

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include "lib/helpers.h"

/* A frame of the first flow, with its checksum of IPv4, and how many flows there are: a power of two. */
const volatile __u8 FRAME[60] = {};
const volatile __u32 FLOWS = 1;
/* Where to send them. */
const volatile __u32 OUT_IFINDEX = 0;

/* Flows of one address, by their ports. */
#define PORTS 4096
#define FIRST_PORT 32768

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

#define MADE 0
#define DROPPED 1

static __always_inline __u64 *counter(__u32 which)
{
	return bpf_map_lookup_elem(&counters, &which);
}

/* Writes the whole frame: the memory is one that a node has had and changed. */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	struct iphdr *ip = data + ETH_HLEN;
	struct udphdr *udp = (void *)(ip + 1);
	__u64 *made = counter(MADE);
	__u32 flow, sum;

	if (!made || data + sizeof(FRAME) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	flow = (*made)++ & (FLOWS - 1);
#pragma clang loop unroll(full)
	for (int i = 0; i < sizeof(FRAME) / 4; i++)
		((__u32 *)data)[i] = ((const volatile __u32 *)FRAME)[i];
	/* The address grows in its lower half only. */
	sum = (__u16)~ip->check + (__u32)bpf_htons(flow / PORTS);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~(sum + (sum >> 16));
	ip->saddr |= bpf_htonl(flow / PORTS);
	udp->source = bpf_htons(FIRST_PORT + flow % PORTS);
	return bpf_redirect(OUT_IFINDEX, 0);
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	__u64 *dropped = counter(DROPPED);

	if (dropped)
		(*dropped)++;
	return XDP_DROP;
}

SEC("xdp")
int accept(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
