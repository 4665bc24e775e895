/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The packet that one run of a program is about. It is in a map, because of a
 * map the verifier remembers nothing: its effort does not grow with what was parsed,
 * and attach waits for it. What is tail-called finds there what was parsed before.
 */
#ifndef TORBPF_SCRATCH_H
#define TORBPF_SCRATCH_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packet);
} packets SEC(".maps");

static __always_inline struct packet *this_packet(void)
{
	__u32 first = 0;

	return bpf_map_lookup_elem(&packets, &first);
}

#endif
