/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the slow path has been seen to do with flows, and which packets are like those that
 * it did that to.
 */
#ifndef TORBPF_PROOF_H
#define TORBPF_PROOF_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "conntrack.h"
#include "packet.h"
#include "plan.h"
#include "rewrite.h"
#include "shared.h"
#include "words.h"

/* For so long one packet speaks for those like it. */
#define FLOW_LIFE_NS NSEC_PER_SEC

/* Of TCP only what is in the middle of a connection has no say in its state. */
#define TCP_TELLING (TCP_FIN | TCP_SYN | TCP_RST | TCP_URG | TCP_ACK)

#define ECN_BITS 0x03

#define FLOW_WORDS (sizeof(struct flow) / 8)

/*
 * On each CPU its own flows: a packet of the slow path leaves on the CPU that it came in on,
 * and nobody else writes or reads there meanwhile.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FAST_SLOTS);
	__type(key, __u32);
	__type(value, struct fast_flow);
} fast_flows SEC(".maps");

/* Until when, by CLOCK_MONOTONIC, what each CPU may prove is spent; see budget_at. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} fast_budgets SEC(".maps");

/*
 * Flows of which a packet was judged direct, as LANs sent it, and left: for their answers.
 * The map is of one generation, so policy that is exchanged has judged nothing yet.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FAST_JUDGED);
	__type(key, struct flow);
	__type(value, __u8);
} fast_judged SEC(".maps");

/* Whether there is a fast path now. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fast_permit);
} fast_permits SEC(".maps");

/* What has gone by it, by enum fast_way. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FAST_WAYS);
	__type(key, __u32);
	__type(value, struct counter);
} fast_counters SEC(".maps");

/* The permit, NULL if there is none now. Who gives it has to do so again and again. */
static __always_inline const struct fast_permit *permit_at(__u64 now)
{
	__u32 first = 0;
	const struct fast_permit *permit = bpf_map_lookup_elem(&fast_permits, &first);

	return permit && permit->until_ns > now ? permit : NULL;
}

/* Whether there is a fast path, and something was proven late enough to count. */
static __always_inline int permitted(__u64 now, __u64 proven_ns)
{
	const struct fast_permit *permit = permit_at(now);

	return permit && proven_ns >= permit->since_ns && proven_ns + FLOW_LIFE_NS > now;
}

/*
 * What this CPU may prove now, NULL if nothing: as many proofs as it has slots in the time that
 * one lasts, all of them at once after a pause. Where there are more flows than slots each proof
 * puts out another, so more of them would cost much and yield nothing; as it is, those that send
 * most get there first.
 */
static __always_inline __u64 *budget_at(__u64 now)
{
	__u32 first = 0;
	__u64 *spent_ns = bpf_map_lookup_elem(&fast_budgets, &first);

	return spent_ns && *spent_ns <= now ? spent_ns : NULL;
}

/* Takes one proof from a budget. */
static __always_inline void spend(__u64 *spent_ns, __u64 now)
{
	if (*spent_ns + FLOW_LIFE_NS < now)
		*spent_ns = now - FLOW_LIFE_NS;
	*spent_ns += FLOW_LIFE_NS / FAST_SLOTS;
}

/* The slot of a flow; or, to be taken, one that is free or has the oldest proof. */
static __always_inline struct fast_flow *slot_of(const struct flow *flow, int take)
{
	__u32 place = hash_words(0, flow, FLOW_WORDS) >> 51; /* FAST_SLOTS: 2^13 */
	struct fast_flow *slot, *oldest = NULL;
	__u32 i, index;

	for (i = 0; i < FAST_PROBES; i++) {
		index = (place + i) % FAST_SLOTS;
		slot = bpf_map_lookup_elem(&fast_flows, &index);
		if (!slot)
			return NULL;
		if (same_words(&slot->came, flow, FLOW_WORDS))
			return slot;
		if (!oldest || slot->proven_ns < oldest->proven_ns)
			oldest = slot;
	}
	return take ? oldest : NULL;
}

/* What a network header says that forwarding may change. */
struct treatment {
	__u32 length; /* of IP; of an aggregate, of each of its segments */
	__u8 hop_limit;
	__u8 traffic_class; /* without the two bits of ECN */
};

/* Whether a packet is of the kind that the fast path knows, by what was parsed of it. */
static __always_inline int is_plain(const struct packet *p)
{
	if (p->layer3 != LAYER3_IPV4 && p->layer3 != LAYER3_IPV6)
		return 0;
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return 0;
	/* Options, extension headers and tags move the ports from where they are. */
	return p->fragment == FRAGMENT_NONE && p->l4_offset == l4_offset_of(p);
}

static __always_inline __u16 read_ipv4(const struct iphdr *ip, struct treatment *t)
{
	t->hop_limit = ip->ttl;
	t->traffic_class = ip->tos & ~ECN_BITS;
	return bpf_ntohs(ip->tot_len);
}

static __always_inline __u16 read_ipv6(const struct ipv6hdr *ip, struct treatment *t)
{
	t->hop_limit = ip->hop_limit;
	t->traffic_class = (ip->priority << 4 | ip->flow_lbl[0] >> 4) & ~ECN_BITS;
	return sizeof(*ip) + bpf_ntohs(ip->payload_len);
}

/*
 * Reads a plain packet, of so many bytes with its Ethernet header; 0: it is to be seen by the
 * slow path.
 */
static __always_inline int read_treatment(void *data, void *end, __u32 length, __u32 gso_size,
					  const struct packet *p, struct treatment *t)
{
	int ipv4 = p->layer3 == LAYER3_IPV4;
	__u32 headers = ipv4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	__u8 *l4 = data + L3_OFFSET + headers;

	if ((void *)(l4 + sizeof(struct udphdr)) > end)
		return 0;
	t->length = ipv4 ? read_ipv4(data + L3_OFFSET, t) : read_ipv6(data + L3_OFFSET, t);
	if (t->length + L3_OFFSET > length) /* cut off: dropped by the slow path */
		return 0;
	headers += sizeof(struct udphdr);
	if (p->protocol == IPPROTO_TCP) {
		if ((void *)(l4 + sizeof(struct tcphdr)) > end)
			return 0;
		if ((l4[TCP_FLAGS_OFFSET] & TCP_TELLING) != TCP_ACK)
			return 0;
		headers += (l4[TCP_LENGTH_OFFSET] >> 4) * 4 - sizeof(struct udphdr);
	}
	if (gso_size)
		t->length = headers + gso_size;
	else if (length > L3_OFFSET + t->length &&
		 length > ETH_ZLEN) /* more than padding is behind it */
		return 0;
	return 1;
}

/* Whether a packet is like the one that has proven what is done with it. */
static __always_inline int is_alike(const struct packet *p, const struct treatment *t,
				    const struct fast_flow *f)
{
	return f->in_ifindex == p->ifindex && t->length <= f->length &&
	       t->hop_limit == f->hop_limit + 1 && t->traffic_class == f->traffic_class;
}

/*
 * Whether what was proven holds: asked once a jiffy, since conntrack takes as long to be
 * asked as all else. That it does with the addresses what it did is asked as well.
 */
static __always_inline int still_holds(void *ctx, enum about about, const struct packet *p,
				       const struct fast_flow *f, __u32 way)
{
	struct flow answer = {}, left = {};

	if (!permitted(bpf_ktime_get_coarse_ns(), f->proven_ns) ||
	    !read_other(ctx, about, p, 0, way, &answer))
		return 0;
	turn(&left, &answer);
	return same_words(&left, &f->left, FLOW_WORDS);
}

/*
 * What follows a packet that is for the slow path to see, such as FIN, goes there as well until it
 * is proven anew: conntrack has to see what acknowledges an end.
 */
static __always_inline void end_proof(struct fast_flow *f)
{
	f->proven_ns = 0;
	f->checked_at = 0;
}

static __always_inline void count_fast(__u32 way, __u32 packets, __u32 bytes)
{
	struct counter *counter = bpf_map_lookup_elem(&fast_counters, &way);

	if (!counter)
		return;
	counter->packets += packets;
	counter->bytes += bytes;
}

#endif
