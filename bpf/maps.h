/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The maps, in three groups that differ in who writes them and how long they
 * live; those that local delivery needs as well are in shared.h. Names are plural nouns of at most
 * 15 characters: they are pinned under them and read with bpftool.
 */
#ifndef TORBPF_MAPS_H
#define TORBPF_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "outlets.h"
#include "packet.h"
#include "scratch.h"
#include "shared.h"

#define MAX_POLICY_PREFIXES 16384
#define MAX_INBOUND_FLOWS   16384

/*
 * Policy: one set per generation. A reload fills new ones beside those in use
 * and then exchanges the program, so each packet meets one policy only.
 */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

static __always_inline struct settings *load_settings(void)
{
	__u32 first = 0;

	return bpf_map_lookup_elem(&settings, &first);
}

PREFIX_MAP(dst4_prefixes, struct prefix4, struct rule, MAX_POLICY_PREFIXES);
PREFIX_MAP(dst6_prefixes, struct prefix6, struct rule, MAX_POLICY_PREFIXES);
PREFIX_MAP(src4_prefixes, struct prefix4, struct rule, MAX_POLICY_PREFIXES);
PREFIX_MAP(src6_prefixes, struct prefix6, struct rule, MAX_POLICY_PREFIXES);
PREFIX_MAP(port4_prefixes, struct service4, struct rule, MAX_POLICY_PREFIXES);
PREFIX_MAP(port6_prefixes, struct service6, struct rule, MAX_POLICY_PREFIXES);

/*
 * The lists of destinations, merged. They take seconds to fill, so generations hand
 * them on until a list changes; user space gives them their size.
 */
PREFIX_MAP(list4_prefixes, struct prefix4, struct listed, 1);
PREFIX_MAP(list6_prefixes, struct prefix6, struct listed, 1);

/* The same of long lists, as trees, and when their segments end, where any does. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct list_node4);
} list4_nodes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct list_node6);
} list6_nodes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct list_ends);
} list4_ends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct list_ends);
} list6_ends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DEVICES);
	__type(key, struct mac);
	__type(value, struct rule);
} devices SEC(".maps");

/* Excluded names, by domain_key(). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DEVICES);
	__type(key, __u64);
	__type(value, struct rule);
} domains SEC(".maps");

/* What the router itself may leave by, as exits of outlets.h; own_marks are in shared.h. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LANS);
	__type(key, __u32); /* ifindex */
	__type(value, struct rule);
} own_exits SEC(".maps");

/*
 * Shared by all generations, as lans: is Tor there. Memory-mapped by the
 * sentry, which has no privilege to call bpf(2).
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_INSTANCES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* Tor instance */
	__type(value, struct gate);
} gates SEC(".maps");

static __always_inline int gate_is_open(__u32 instance)
{
	struct gate *gate = bpf_map_lookup_elem(&gates, &instance);

	return gate && gate->open;
}

/*
 * Shared by all generations: where tor takes connections, two for each instance, that of
 * IPv4 first. A socket that is closed leaves it by itself.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2 * MAX_INSTANCES);
	__type(key, __u32);
	__type(value, __u64); /* as user space reads it: the cookie of the socket */
} tor_listeners SEC(".maps");

/* What one run of a program reads of a query; the stack has no room for it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct query);
} queries SEC(".maps");

/* As the gates, and written by the sentry in the same way. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DOMAIN_SLOTS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct domain_slot);
} domain_slots SEC(".maps");

/* Memory-mapped by the sentry as well, which only reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ASKER_SLOTS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct asker);
} askers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_INBOUND_FLOWS);
	__type(key, struct flow);
	__type(value, struct domain_flow);
} domain_flows SEC(".maps");

/*
 * Shared by all generations, as counters: what the programs themselves learn. The
 * look-up at which DNS to the router is guarded knows no hardware address.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_DEVICES);
	__type(key, struct address); /* of whoever is excluded, where there are rules for devices */
	__type(value, struct deadline);
} direct_hosts SEC(".maps");

/*
 * A table of hashes of our own making: it is asked about every packet, and the kernel's that
 * forgets by itself takes four times as long.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DEVICE_SLOTS);
	__type(key, __u32);
	__type(value, struct device_traffic);
} device_traffic SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_INBOUND_FLOWS);
	__type(key, struct flow);
	__type(value, struct inbound_seen);
} inbound_flows SEC(".maps");

/*
 * The programs of fast.bpf.c, by enum fast_program; none where there is no fast path. The
 * kernel empties it when nobody has it open or pinned any more.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, FAST_PROGRAMS);
	__type(key, __u32);
	__type(value, __u32);
} fast_programs SEC(".maps");

/* Shared by all generations, and written by user space: the subnets that LANs had. */
PREFIX_MAP(past4_prefixes, struct prefix4, struct deadline, MAX_LOCAL_PREFIXES);
PREFIX_MAP(past6_prefixes, struct prefix6, struct deadline, MAX_LOCAL_PREFIXES);

#endif
