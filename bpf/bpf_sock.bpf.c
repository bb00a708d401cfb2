/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services at the socket: the address is translated once, when a process connects (or sends, for
 * unconnected UDP), so packets already go to the backend; getpeername and recvmsg show the service
 * address again. Attached to the cgroup of the node. */

#include <linux/in.h>

#include "lib/lb.h"

#define ALLOW 1
#define REFUSE 0
#define ECONNREFUSED 111

#define V4_MAPPED bpf_htonl(0x0000ffff)

static __always_inline struct l4 peer_of(__be32 ip, __u32 port, __u8 protocol)
{
	struct l4 peer = {.address = address_v4(ip), .port = (__be16)port, .protocol = protocol};

	return peer;
}

/* Chooses a backend of `peer` by `choice`: 1: found; 0: it is no service; -1: the service has
 * nobody to answer. The agent may switch to another table meanwhile, or change it, and reuse the
 * memory of a slot at once, so what was read counts only if the frontend is still the same afterwards. */
static __always_inline int choose(const struct l4 *peer, __u32 choice, struct l4 *chosen)
{
	for (int try = 0; try < 8; try++) {
		struct frontend *frontend = bpf_map_lookup_elem(&cw_lb_frontends, peer);
		struct frontend table;
		struct slot slot = {};
		struct l4 *backend;

		if (!frontend)
			return 0;
		table = *frontend;
		if (!table.count)
			return -1;
		slot.service = table.service;
		slot.generation = table.generation;
		slot.index = choice % table.count;
		backend = bpf_map_lookup_elem(&cw_lb_slots, &slot);
		if (!backend)
			continue;
		*chosen = *backend;
		frontend = bpf_map_lookup_elem(&cw_lb_frontends, peer);
		if (frontend && frontend->service == table.service &&
		    frontend->generation == table.generation && frontend->count == table.count &&
		    frontend->version == table.version)
			return 1;
	}
	return -1;
}

/* Chooses a backend for `peer` and remembers the way back. 1: `peer` is now the backend; 0 and -1
 * as from choose(). */
static __always_inline int translate(struct bpf_sock_addr *ctx, struct l4 *peer)
{
	struct flow flow = {.cookie = bpf_get_socket_cookie(ctx)};
	__u32 choice;
	int found;

	/* A connection chooses freely; the datagrams of one UDP socket stay together. */
	if (peer->protocol == IPPROTO_UDP)
		choice = (__u32)((flow.cookie * 0x9e3779b97f4a7c15ULL) >> 32);
	else
		choice = bpf_get_prandom_u32();
	found = choose(peer, choice, &flow.backend);
	if (found != 1)
		return found;
	bpf_map_update_elem(&cw_lb_reverse, &flow, peer, BPF_ANY);
	*peer = flow.backend;
	return 1;
}

static __always_inline struct l4 *original(struct bpf_sock_addr *ctx, const struct l4 *peer)
{
	struct flow flow = {.cookie = bpf_get_socket_cookie(ctx), .backend = *peer};

	return bpf_map_lookup_elem(&cw_lb_reverse, &flow);
}

static __always_inline int forward4(struct bpf_sock_addr *ctx)
{
	struct l4 peer = peer_of(ctx->user_ip4, ctx->user_port, ctx->protocol);

	switch (translate(ctx, &peer)) {
	case 1:
		ctx->user_ip4 = peer.address.word[0];
		ctx->user_port = peer.port;
		return ALLOW;
	case 0:
		return ALLOW;
	default:
		bpf_set_retval(-ECONNREFUSED);
		return REFUSE;
	}
}

static __always_inline int back4(struct bpf_sock_addr *ctx)
{
	struct l4 peer = peer_of(ctx->user_ip4, ctx->user_port, ctx->protocol);
	struct l4 *service = original(ctx, &peer);

	if (service) {
		ctx->user_ip4 = service->address.word[0];
		ctx->user_port = service->port;
	}
	return ALLOW;
}

/* IPv6 sockets reach IPv4 services by ::ffff:a.b.c.d. */
static __always_inline int is_mapped(struct bpf_sock_addr *ctx)
{
	return ctx->user_ip6[0] == 0 && ctx->user_ip6[1] == 0 && ctx->user_ip6[2] == V4_MAPPED;
}

static __always_inline int forward6(struct bpf_sock_addr *ctx)
{
	struct l4 peer;

	if (!is_mapped(ctx))
		return ALLOW;
	peer = peer_of(ctx->user_ip6[3], ctx->user_port, ctx->protocol);
	switch (translate(ctx, &peer)) {
	case 1:
		ctx->user_ip6[3] = peer.address.word[0];
		ctx->user_port = peer.port;
		return ALLOW;
	case 0:
		return ALLOW;
	default:
		bpf_set_retval(-ECONNREFUSED);
		return REFUSE;
	}
}

static __always_inline int back6(struct bpf_sock_addr *ctx)
{
	struct l4 *service;
	struct l4 peer;

	if (!is_mapped(ctx))
		return ALLOW;
	peer = peer_of(ctx->user_ip6[3], ctx->user_port, ctx->protocol);
	service = original(ctx, &peer);
	if (service) {
		ctx->user_ip6[3] = service->address.word[0];
		ctx->user_port = service->port;
	}
	return ALLOW;
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

char LICENSE[] SEC("license") = "Dual BSD/GPL";
