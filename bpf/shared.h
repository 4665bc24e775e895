/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The maps that torbpf.bpf.c and delivery.bpf.c both use (the loader gives the
 * second the maps of the first), and counting, which both do alike.
 */
#ifndef TORBPF_SHARED_H
#define TORBPF_SHARED_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

#define MAX_LOCAL_PREFIXES 1024
#define MAX_LOCAL_ADDRS	   1024
#define MAX_COUNTERS	   4096
#define MAX_CUT_FLOWS	   65536

#define PREFIX_MAP(name, key_type, value_type, size)                                               \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);                                               \
		__uint(max_entries, size);                                                         \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                              \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
	} name SEC(".maps")

/* The interfaces that are LANs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LANS);
	__type(key, __u32); /* ifindex */
	__type(value, struct lan);
} lans SEC(".maps");

/* What the router takes in, one set per generation as all policy. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LOCAL_ADDRS);
	__type(key, struct address);
	__type(value, __u8); /* enum local_addr */
} local_addrs SEC(".maps");

PREFIX_MAP(local4_prefixes, struct prefix4, struct local_subnet, MAX_LOCAL_PREFIXES);
PREFIX_MAP(local6_prefixes, struct prefix6, struct local_subnet, MAX_LOCAL_PREFIXES);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, MAX_COUNTERS);
	__type(key, struct counter_key);
	__type(value, struct counter);
} counters SEC(".maps");

/*
 * Shared by all generations, and written by user space: the far ends of connections
 * that were cut, as the device saw them and as the WAN does.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CUT_FLOWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow);
	__type(value, struct deadline);
} cut_flows SEC(".maps");

static __always_inline int still(const struct deadline *d)
{
	return d && d->until_ns > bpf_ktime_get_boot_ns();
}

static __always_inline int was_cut(const struct flow *flow)
{
	return still(bpf_map_lookup_elem(&cut_flows, flow));
}

static __always_inline int add_to_counter(const struct counter_key *key, __u32 packets, __u32 bytes)
{
	struct counter *counter = bpf_map_lookup_elem(&counters, key);

	if (!counter)
		return 0;
	counter->packets += packets;
	counter->bytes += bytes;
	return 1;
}

/* Another CPU may make the key between our look-up and our update: then add. */
static __always_inline void count(__u32 ifindex, enum verdict verdict, enum reason reason,
				  __u32 packets, __u32 bytes)
{
	struct counter_key key = {.ifindex = ifindex, .verdict = verdict, .reason = reason};
	struct counter first = {.packets = packets, .bytes = bytes};

	if (add_to_counter(&key, packets, bytes))
		return;
	if (bpf_map_update_elem(&counters, &key, &first, BPF_NOEXIST))
		add_to_counter(&key, packets, bytes);
}

#endif
