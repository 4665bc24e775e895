/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The maps that torbpf.bpf.c shares with guards.bpf.c and client.bpf.c (the loader
 * gives them those of the first), and what all ask and write there alike.
 */
#ifndef TORBPF_SHARED_H
#define TORBPF_SHARED_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "packet.h"

#define MAX_LOCAL_PREFIXES 1024
#define MAX_LOCAL_ADDRS	   1024
#define MAX_COUNTERS	   4096
#define MAX_CUT_FLOWS	   65536
#define MAX_EXEMPT_MARKS   16
#define MAX_DEVICES	   4096
#define REFUSALS_BYTES	   (256 * 1024)

/* A device may be told this often of refusals: 100 a second, 200 at once. */
#define TELL_INTERVAL_NS (10ULL * 1000 * 1000)
#define TELL_BURST_NS	 (200 * TELL_INTERVAL_NS)

#define NSEC_PER_SEC (1000ULL * 1000 * 1000)

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

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, REFUSALS_BYTES);
} refusals SEC(".maps");

/* By source address: how much a device may still be told of its refusals. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_DEVICES);
	__type(key, struct address);
	__type(value, struct allowance);
} allowances SEC(".maps");

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

/* Marks that exempt what the router itself sends; those of LANs are in maps.h. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_EXEMPT_MARKS);
	__type(key, __u32);
	__type(value, struct exempt_mark);
} own_marks SEC(".maps");

/* Looks an address up in the map of its family; NULL where no prefix covers it. */
static __always_inline void *lookup_prefix(const struct packet *p, const union inet_address *a,
					   void *map4, void *map6)
{
	struct prefix4 key4 = {.prefixlen = 32, .addr_be = a->word_be[3]};
	struct prefix6 key6 = {.prefixlen = 128};

	if (p->layer3 == LAYER3_IPV4)
		return bpf_map_lookup_elem(map4, &key4);
	__builtin_memcpy(key6.addr, a, sizeof(key6.addr));
	return bpf_map_lookup_elem(map6, &key6);
}

static __always_inline int is_lan(__u32 ifindex)
{
	return bpf_map_lookup_elem(&lans, &ifindex) != NULL;
}

/* Whether an address is in the subnet of a LAN; of reserved space the interface is 0, which is
 * none. */
static __always_inline int of_lan(const struct packet *p, const union inet_address *a)
{
	struct local_subnet *subnet = lookup_prefix(p, a, &local4_prefixes, &local6_prefixes);

	return subnet && is_lan(subnet->ifindex);
}

/*
 * Whether no LAN has the source, be it forged or an address of yesterday's
 * prefix. Whatever answers such a packet (a socket, the kernel's ICMP, Tor by a
 * NAT mapping) would take the default route, and so tell the WAN of it. IPv6
 * link-local addresses are answered on their link. The unspecified address is
 * a martian to the kernel with IPv4; with IPv6 it is answered, by that route.
 */
static __always_inline int foreign_source(const struct packet *p)
{
	if (unspecified(p, &p->saddr))
		return p->layer3 == LAYER3_IPV6;
	if (p->layer3 == LAYER3_IPV6 && link_local(p, &p->saddr))
		return 0;
	return !of_lan(p, &p->saddr);
}

/*
 * Whether the router takes a packet in as one of many receivers: broadcasts
 * and, from 0.0.0.0, its counterpart. Such a packet reaches sockets without the
 * look-up at which torbpf_dns guards them.
 */
static __always_inline int broadcast_destination(const struct packet *p)
{
	__u8 *kind;

	if (group_destination(p) || (p->layer3 == LAYER3_IPV4 && !p->daddr.word_be[3]))
		return 1;
	kind = bpf_map_lookup_elem(&local_addrs, &p->daddr.key);
	return kind && *kind == LOCAL_ADDR_BROADCAST;
}

/* The flow of a packet that goes outside. */
static __always_inline void flow_to_peer(struct flow *flow, const struct packet *p)
{
	__builtin_memcpy(flow->near_addr, &p->saddr, sizeof(flow->near_addr));
	__builtin_memcpy(flow->peer_addr, &p->daddr, sizeof(flow->peer_addr));
	flow->near_port_be = p->sport_be;
	flow->peer_port_be = p->dport_be;
	flow->protocol = p->protocol;
}

/* The flow of a packet that comes from outside. */
static __always_inline void flow_from_peer(struct flow *flow, const struct packet *p)
{
	__builtin_memcpy(flow->near_addr, &p->daddr, sizeof(flow->near_addr));
	__builtin_memcpy(flow->peer_addr, &p->saddr, sizeof(flow->peer_addr));
	flow->near_port_be = p->dport_be;
	flow->peer_port_be = p->sport_be;
	flow->protocol = p->protocol;
}

static __always_inline int still(const struct deadline *d)
{
	return d && d->until_ns > bpf_ktime_get_boot_ns();
}

static __always_inline int in_force(const struct rule *r)
{
	return !r->until_ns || r->until_ns > bpf_ktime_get_boot_ns();
}

/* Whether there is a rule of a key, and it holds. */
static __always_inline int rule_in_force(void *map, const void *key)
{
	struct rule *r = bpf_map_lookup_elem(map, key);

	return r && in_force(r);
}

/* Whether a mark, without our own bits, matches one of the first entries of a map. */
static __always_inline int matches_mark(void *marks, __u32 mark, __u32 count)
{
	struct exempt_mark *entry;
	__u32 i, key;

	for (i = 0; i < MAX_EXEMPT_MARKS; i++) {
		if (i >= count)
			return 0;
		key = i;
		entry = bpf_map_lookup_elem(marks, &key);
		if (entry && (mark & entry->mask) == entry->value && in_force(&entry->rule))
			return 1;
	}
	return 0;
}

#define NO_POLICY (-1)

/* What a rule says now: itself, or what was beneath it; NO_POLICY if both have ended. */
static __always_inline int policy_now(const struct rule *r)
{
	__u64 now;

	if (!r->until_ns)
		return r->policy;
	now = bpf_ktime_get_boot_ns();
	if (r->until_ns > now)
		return r->policy;
	return r->then_until_ns > now ? (int)r->then : NO_POLICY;
}

/* What the rule of a key says now; NO_POLICY where there is none. */
static __always_inline int policy_of(void *map, const void *key)
{
	struct rule *r = bpf_map_lookup_elem(map, key);

	return r ? policy_now(r) : NO_POLICY;
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

/*
 * Whether this device may be told once more of a refusal. A flood spends its
 * allowance and is then dropped without an answer or an event. The bucket is
 * kept as the time at which it would be full again (a virtual clock), so one
 * number per device is enough; a lost race costs one token.
 */
static __always_inline int may_tell(const struct packet *p)
{
	__u64 now = bpf_ktime_get_ns();
	struct allowance *allowance = bpf_map_lookup_elem(&allowances, &p->saddr.key);
	struct allowance first = {.spent_until_ns = now + TELL_INTERVAL_NS};
	__u64 spent;

	if (!allowance) {
		bpf_map_update_elem(&allowances, &p->saddr.key, &first, BPF_NOEXIST);
		return 1;
	}
	spent = allowance->spent_until_ns;
	if (spent < now)
		spent = now;
	spent += TELL_INTERVAL_NS;
	if (spent - now > TELL_BURST_NS)
		return 0;
	allowance->spent_until_ns = spent;
	return 1;
}

/* Whether may_tell() would say so now; takes nothing of what is left. */
static __always_inline int may_be_told(const struct packet *p)
{
	struct allowance *allowance = bpf_map_lookup_elem(&allowances, &p->saddr.key);

	return !allowance ||
	       allowance->spent_until_ns + TELL_INTERVAL_NS <= bpf_ktime_get_ns() + TELL_BURST_NS;
}

/* Samples a refusal. When nobody reads, the counters still tell. */
static __always_inline void report(__u32 ifindex, __u32 length, const struct packet *p,
				   enum reason reason)
{
	struct refusal *refusal = bpf_ringbuf_reserve(&refusals, sizeof(*refusal), 0);

	if (!refusal)
		return;
	__builtin_memset(refusal, 0, sizeof(*refusal));
	refusal->time_ns = bpf_ktime_get_ns();
	refusal->ifindex = ifindex;
	refusal->verdict = VERDICT_REFUSED;
	refusal->reason = reason;
	refusal->length = length;
	__builtin_memcpy(refusal->saddr, &p->saddr, sizeof(refusal->saddr));
	__builtin_memcpy(refusal->daddr, &p->daddr, sizeof(refusal->daddr));
	refusal->sport_be = p->sport_be;
	refusal->dport_be = p->dport_be;
	refusal->protocol = p->protocol;
	bpf_ringbuf_submit(refusal, 0);
}

#endif
