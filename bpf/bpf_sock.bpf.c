/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services at the socket: the address is translated once, when a process connects (or sends, for
 * unconnected UDP), so packets already go to the backend; getpeername and recvmsg show the service
 * address again. Attached to the cgroup of the node. */

#include <linux/in.h>

#include "lib/lb.h"

#define ALLOW 1
#define REFUSE 0
#define EADDRINUSE 98
#define ECONNREFUSED 111

#define AF_INET6 10
#define V4_MAPPED bpf_htonl(0x0000ffff)

/* The node's own network namespace; set when the programs are loaded. */
const volatile __u64 HOST_NETNS_COOKIE = 0;
/* Sockets of other network namespaces are left to the packet layer. */
const volatile __u32 HOST_NETNS_ONLY = 0;

/* An address of an IPv6 socket: IPv4 services are reached by ::ffff:a.b.c.d. */
static __always_inline struct address socket_address(__be32 a, __be32 b, __be32 c, __be32 d)
{
	struct address v6 = {.family = FAMILY_V6, .word = {a, b, c, d}};

	if (!a && !b && c == V4_MAPPED)
		return address_v4(d);
	return v6;
}

static __always_inline struct l4 peer4(struct bpf_sock_addr *ctx)
{
	struct l4 peer = {
		.address = address_v4(ctx->user_ip4),
		.port = (__be16)ctx->user_port,
		.protocol = ctx->protocol,
	};

	return peer;
}

static __always_inline struct l4 peer6(struct bpf_sock_addr *ctx)
{
	struct l4 peer = {
		.address = socket_address(ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
				      ctx->user_ip6[3]),
		.port = (__be16)ctx->user_port,
		.protocol = ctx->protocol,
	};

	return peer;
}

static __always_inline void set4(struct bpf_sock_addr *ctx, const struct l4 *to)
{
	ctx->user_ip4 = to->address.word[0];
	ctx->user_port = to->port;
}

/* What was mapped stays mapped: a backend has the family of its service. */
static __always_inline void set6(struct bpf_sock_addr *ctx, const struct l4 *to)
{
	if (to->address.family == FAMILY_V4) {
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = V4_MAPPED;
		ctx->user_ip6[3] = to->address.word[0];
	} else {
		ctx->user_ip6[0] = to->address.word[0];
		ctx->user_ip6[1] = to->address.word[1];
		ctx->user_ip6[2] = to->address.word[2];
		ctx->user_ip6[3] = to->address.word[3];
	}
	ctx->user_port = to->port;
}

/* Chooses a backend for `peer` and remembers the way back. 1: `chosen` is the backend; 0: it is no
 * service; -1: the service has nobody to answer. */
static __always_inline int translate(struct bpf_sock_addr *ctx, const struct l4 *peer,
				     struct l4 *chosen)
{
	struct client client = {.address = {.family = FAMILY_COOKIE}};
	__u64 netns = bpf_get_netns_cookie(ctx);
	int local = netns == HOST_NETNS_COOKIE;
	struct frontend frontend;
	struct l4 key = *peer;
	struct flow flow = {};
	__u32 choice;
	int found;

	if (HOST_NETNS_ONLY && !local)
		return 0;
	if (!find_inside(&key, local))
		return 0;
	flow.cookie = bpf_get_socket_cookie(ctx);
	/* A connection chooses freely; the datagrams of one UDP socket stay together. */
	if (peer->protocol == IPPROTO_UDP)
		choice = (__u32)((flow.cookie * 0x9e3779b97f4a7c15ULL) >> 32);
	else
		choice = bpf_get_prandom_u32();
	client.address.word[0] = (__u32)netns;
	client.address.word[1] = netns >> 32;
	found = choose(&key, &client, choice, &frontend, &flow.backend);
	if (found != 1)
		return found;
	bpf_map_update_elem(&cw_lb_reverse, &flow, peer, BPF_ANY);
	*chosen = flow.backend;
	return 1;
}

static __always_inline int refuse(void)
{
	bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

static __always_inline int forward4(struct bpf_sock_addr *ctx)
{
	struct l4 peer = peer4(ctx), chosen;
	int found = translate(ctx, &peer, &chosen);

	if (found < 0)
		return refuse();
	if (found)
		set4(ctx, &chosen);
	return ALLOW;
}

static __always_inline int forward6(struct bpf_sock_addr *ctx)
{
	struct l4 peer = peer6(ctx), chosen;
	int found = translate(ctx, &peer, &chosen);

	if (found < 0)
		return refuse();
	if (found)
		set6(ctx, &chosen);
	return ALLOW;
}

static __always_inline struct l4 *original(struct bpf_sock_addr *ctx, const struct l4 *peer)
{
	struct flow flow = {.cookie = bpf_get_socket_cookie(ctx), .backend = *peer};

	return bpf_map_lookup_elem(&cw_lb_reverse, &flow);
}

static __always_inline int back4(struct bpf_sock_addr *ctx)
{
	struct l4 peer = peer4(ctx), *service = original(ctx, &peer);

	if (service)
		set4(ctx, service);
	return ALLOW;
}

static __always_inline int back6(struct bpf_sock_addr *ctx)
{
	struct l4 peer = peer6(ctx), *service = original(ctx, &peer);

	if (service)
		set6(ctx, service);
	return ALLOW;
}

/* A process of the node cannot have a port that is a service's: its clients would never reach it. */
static __always_inline int is_taken(struct l4 *key)
{
	struct frontend *frontend;

	if (!is_any(&key->address)) {
		frontend = bpf_map_lookup_elem(&cw_lb_frontends, key);
		if (frontend)
			return frontend->kind != KIND_CLUSTER_IP && frontend->kind != KIND_LOAD_BALANCER;
	}
	return wildcard(key, 1) != NULL;
}

static __always_inline int in_use(void)
{
	bpf_set_retval(-EADDRINUSE);
	return REFUSE;
}

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *ctx)
{
	return forward4(ctx);
}

SEC("cgroup/sendmsg4")
int sock_sendmsg4(struct bpf_sock_addr *ctx)
{
	return forward4(ctx);
}

SEC("cgroup/recvmsg4")
int sock_recvmsg4(struct bpf_sock_addr *ctx)
{
	return back4(ctx);
}

SEC("cgroup/getpeername4")
int sock_getpeername4(struct bpf_sock_addr *ctx)
{
	return back4(ctx);
}

SEC("cgroup/connect6")
int sock_connect6(struct bpf_sock_addr *ctx)
{
	return forward6(ctx);
}

SEC("cgroup/sendmsg6")
int sock_sendmsg6(struct bpf_sock_addr *ctx)
{
	return forward6(ctx);
}

SEC("cgroup/recvmsg6")
int sock_recvmsg6(struct bpf_sock_addr *ctx)
{
	return back6(ctx);
}

SEC("cgroup/getpeername6")
int sock_getpeername6(struct bpf_sock_addr *ctx)
{
	return back6(ctx);
}

SEC("cgroup/post_bind4")
int sock_post_bind4(struct bpf_sock *ctx)
{
	struct l4 key = {
		.address = address_v4(ctx->src_ip4),
		.port = bpf_htons((__u16)ctx->src_port),
		.protocol = ctx->protocol,
	};

	if (bpf_get_netns_cookie(ctx) != HOST_NETNS_COOKIE)
		return ALLOW;
	return is_taken(&key) ? in_use() : ALLOW;
}

SEC("cgroup/post_bind6")
int sock_post_bind6(struct bpf_sock *ctx)
{
	struct l4 key = {
		.address = socket_address(ctx->src_ip6[0], ctx->src_ip6[1], ctx->src_ip6[2],
				      ctx->src_ip6[3]),
		.port = bpf_htons((__u16)ctx->src_port),
		.protocol = ctx->protocol,
	};
	int both = key.address.family == FAMILY_V6 && is_any(&key.address);

	if (bpf_get_netns_cookie(ctx) != HOST_NETNS_COOKIE)
		return ALLOW;
	if (is_taken(&key))
		return in_use();
	if (!both)
		return ALLOW;
	/* :: takes the port of IPv4 too. */
	key.address = address_v4(0);
	return is_taken(&key) ? in_use() : ALLOW;
}

/* The way back of a socket that is closed is needed no more. (That of unconnected UDP is displaced by
 * newer ones.) */
SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	struct flow flow = {
		.cookie = bpf_get_socket_cookie(ctx),
		.backend = {.port = ctx->dst_port, .protocol = ctx->protocol},
	};

	if (!flow.backend.port)
		return ALLOW;
	if (ctx->family == AF_INET6)
		flow.backend.address = socket_address(ctx->dst_ip6[0], ctx->dst_ip6[1],
						  ctx->dst_ip6[2], ctx->dst_ip6[3]);
	else
		flow.backend.address = address_v4(ctx->dst_ip4);
	bpf_map_delete_elem(&cw_lb_reverse, &flow);
	return ALLOW;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
