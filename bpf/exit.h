/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Exclusion by the outgoing interface: asks the kernel where a packet's route leads.
 * That may change until it leaves, so nftables and the uplink guard look again.
 */
#ifndef TORBPF_EXIT_H
#define TORBPF_EXIT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "classify.h"
#include "plan.h"
#include "socket.h"

/* Linux 6.10; the mark then stands where the answer has the hardware address. */
#define FIB_LOOKUP_MARK (1U << 5)

/* What an excluded destination would have overruled as well. */
static __always_inline int overruled_by_exit(enum reason reason)
{
	return reason == REASON_TCP || reason == REASON_LATE_MARK || markable(reason);
}

/*
 * What an excluded interface leaves to Tor: what comes before exclusions, which shows
 * in no reason where it was refused for being a fragment, and what a rule has taken
 * back for a destination.
 */
static __always_inline int kept_from_exit(const struct packet *p, const struct settings *s)
{
	if (is_dns(p) || onion_destination(p, s) || to_router(p, s))
		return 1;
	return policy_there(p, port_policy(p, s), s) == POLICY_TOR;
}

/* The interface by which the kernel would forward a packet now; 0 if by none. */
static __always_inline __u32 route_of(struct __sk_buff *skb, const struct packet *p, __u32 mark)
{
	struct bpf_fib_lookup query = {
		.l4_protocol = p->protocol,
		.sport = p->sport_be,
		.dport = p->dport_be,
		.ifindex = p->ifindex,
	};
	__u32 flags = 0;
	long result;

	/* As it will be routed: ip rules of ours, where there are any, stop IPv6 of a LAN that has
	 * no class. */
	if (p->layer3 == LAYER3_IPV6)
		mark |= VERDICT_VIA << mark_shift;
	if (p->layer3 == LAYER3_IPV4) {
		query.family = AF_INET;
		query.ipv4_src = p->saddr.word_be[3];
		query.ipv4_dst = p->daddr.word_be[3];
	} else {
		query.family = AF_INET6;
		__builtin_memcpy(query.ipv6_src, &p->saddr, sizeof(query.ipv6_src));
		__builtin_memcpy(query.ipv6_dst, &p->daddr, sizeof(query.ipv6_dst));
	}
	if (mark) {
		flags = FIB_LOOKUP_MARK;
		__builtin_memcpy(query.smac, &mark, sizeof(mark));
	}
	result = bpf_fib_lookup(skb, &query, sizeof(query), flags);
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH &&
	    result != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return 0;
	/* A kernel that found no neighbour may not have written it: then it is Tor's. */
	return query.ifindex == p->ifindex ? 0 : query.ifindex;
}

static __always_inline struct decision classify_exit(struct __sk_buff *skb, const struct packet *p,
						     __u32 mark, const struct settings *s,
						     struct decision d)
{
	__u32 ifindex;

	if (!s->exits || !overruled_by_exit(d.reason))
		return d;
	ifindex = route_of(skb, p, mark);
	if (!ifindex || !is_exit(ifindex) || kept_from_exit(p, s))
		return d;
	return decide(VERDICT_VIA, REASON_DIRECT_INTERFACE);
}

#endif
