/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses, identities and reasons: what both halves agree on. Every struct here has a twin in
 * crates/datapath/src/maps, and a test holds the two against each other. */
#pragma once

#include "helpers.h"

/* linux/tcx and pkt_cls verdicts. */
#define ACT_OK 0
#define ACT_DROP 2
/* A verdict no program returns: the packet is somebody else's to judge. */
#define NOT_OURS (-1)

#define PACKET_HOST 0

/* Reserved identities (behaviours 4.1). */
#define IDENTITY_UNKNOWN 0
#define IDENTITY_HOST 1
#define IDENTITY_WORLD 2
#define IDENTITY_HEALTH 4
#define IDENTITY_REMOTE_NODE 6
/* Those of pods, and from where on they mean something on one node only. */
#define IDENTITY_FIRST_POD 256
#define IDENTITY_FIRST_LOCAL (1 << 24)

/* Reasons, with Cilium's numbers (behaviours 3.7); 0 is "forwarded". */
#define REASON_FORWARDED 0
#define REASON_INVALID_SOURCE 132
#define REASON_INVALID_PACKET 134
#define REASON_INVALID_L4 135
#define REASON_TOO_BIG 136
#define REASON_TUNNEL_KEY 141
#define REASON_L3_CHECKSUM 153
#define REASON_L4_CHECKSUM 154
#define REASON_CT_INSERT 155
#define REASON_INVALID_EXTENSION 156
#define REASON_NO_BACKEND 158
#define REASON_NO_TUNNEL_ENDPOINT 160
#define REASON_NAT_NO_PORT 167
#define REASON_NAT_PROTOCOL 168
#define REASON_FIB 169
#define REASON_INVALID_IDENTITY 171
#define REASON_FRAGMENT_NOT_FOUND 175
#define REASON_SOURCE_RANGE 177
#define REASON_TTL 196
/* Cilium has none for it. */
#define REASON_DSR_REFUSED 250

/* Directions, from the pod's point of view. */
#define DIRECTION_INGRESS 1
#define DIRECTION_EGRESS 2

#define FAMILY_V4 4
#define FAMILY_V6 6

/* A full-length address. An IPv4 address is in the first word, the others are zero. */
struct address {
	__u32 family;
	__be32 word[4];
};

/* A prefix; the trie compares the first `bits` bits of what follows: 32 of family, then address. */
struct prefix {
	__u32 bits;
	struct address address;
};

static __always_inline struct address address_v4(__be32 ip)
{
	struct address a = {.family = FAMILY_V4, .word = {ip, 0, 0, 0}};

	return a;
}

static __always_inline struct address address_v6(const __be32 *word)
{
	struct address a = {.family = FAMILY_V6, .word = {word[0], word[1], word[2], word[3]}};

	return a;
}
