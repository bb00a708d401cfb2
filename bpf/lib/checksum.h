/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The Internet checksum (RFC 1071, 1624). */
#pragma once

#include "helpers.h"

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

/* A checksum after what it covers has changed by `diff`. */
static __always_inline __u16 checksum_after(__u16 check, __s64 diff)
{
	return (__u16)~folded((__u64)(__u16)~check + (__u32)diff);
}
