/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What lets packets of LANs out that the LAN program has not let out for good: interfaces
 * and marks. Every guard behind it asks for these; one set per generation as all policy.
 */
#ifndef TORBPF_OUTLETS_H
#define TORBPF_OUTLETS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "shared.h"

/* Interfaces that packets may leave by, when their route leads there. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LANS);
	__type(key, __u32); /* ifindex */
	__type(value, struct rule);
} exits SEC(".maps");

/* The marks of the user's that exempt packets. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_EXEMPT_MARKS);
	__type(key, __u32);
	__type(value, struct exempt_mark);
} exempt_marks SEC(".maps");

/* Whether an interface is one that packets may leave by. */
static __always_inline int is_exit(__u32 ifindex)
{
	return rule_in_force(&exits, &ifindex);
}

/* Whether a mark exempts packets of LANs. */
static __always_inline int exempt_mark(__u32 mark, __u32 count)
{
	return matches_mark(&exempt_marks, mark, count);
}

#endif
