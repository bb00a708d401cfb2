/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every program that has to do with the tunnel knows of it. */
#pragma once

#include "common.h"

/* The interface the tunnel device has in this node; set when the program is loaded. */
const volatile __u32 VXLAN_IFINDEX = 0;

/* UDP port of the tunnel; its packets are nobody's service. */
#define TUNNEL_PORT 8472
/* The outer TTL of tunnelled packets. */
#define OUTER_TTL 64
