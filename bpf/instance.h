/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Which of several tors a device uses: one and the same for all that it sends, so that the
 * .onion addresses that it was told, and its circuits, stay with it. Of those that are there
 * it is the one for which a hash of the two is the highest (rendezvous hashing): when one
 * goes its own devices alone move, each to another, and they come back when it does.
 * internal/abi has the same in Go, for the sentry and for status.
 */
#ifndef TORBPF_INSTANCE_H
#define TORBPF_INSTANCE_H

#include "classify.h"
#include "domain.h"
#include "maps.h"
#include "plan.h"

/* As many bits as tell instances apart. */
#define INSTANCE_BITS 4
#define INSTANCE_MASK (MAX_INSTANCES - 1ULL)

/* How much a tor is a device's, by the hash of that; the lowest bits say which tor. */
static __always_inline __u64 instance_score(__u64 device, __u32 instance)
{
	__u64 words[2] = {instance};

	return (hash_words(device, words, 2) & ~INSTANCE_MASK) | instance;
}

/* The highest score of all tors, or of those that are ready; 0: there is none. */
static __always_inline __u64 highest_score(__u64 device, int ready)
{
	__u64 score, highest = 0;
	__u32 i;

	for (i = 0; i < MAX_INSTANCES; i++) {
		if (i >= instances)
			break;
		if (ready && !gate_is_open(i))
			continue;
		score = instance_score(device, i);
		if (score > highest)
			highest = score;
	}
	return highest;
}

/*
 * The tor that the device of this run's packet uses; while none is ready, the one that is
 * its own. A global function, as read_question() of dns.h.
 */
__attribute__((noinline)) __u32 device_instance(void)
{
	const struct packet *p = this_packet();
	struct device_key key;
	__u64 device, own, ready;

	if (!p)
		return 0;
	key = device_of(p);
	device = hash_words(0, &key, 3);
	own = highest_score(device, 0);
	if (gate_is_open(own & INSTANCE_MASK))
		return own & INSTANCE_MASK;
	ready = highest_score(device, 1);
	return (ready ? ready : own) & INSTANCE_MASK;
}

static __always_inline int goes_to_tor(enum verdict verdict)
{
	switch (verdict) {
	case VERDICT_TOR:
	case VERDICT_ONION:
	case VERDICT_DNS:
	case VERDICT_RESOLVER:
		return 1;
	default:
		return 0;
	}
}

/* The tor that something is for; 0, the only one mostly, also where it is for none. */
static __always_inline __u32 instance_for(struct decision d)
{
	if (instances <= 1 || (!goes_to_tor(d.verdict) && d.reason != REASON_DNS_NO_DATA))
		return 0;
	return device_instance();
}

/* Which tor gives out a .onion address: the bits behind the prefix of all of them say so. */
static __always_inline __u32 onion_instance(const struct packet *p, const struct settings *s)
{
	__u32 first = p->layer3 == LAYER3_IPV4 ? 96 + s->onion4_prefixlen : s->onion6_prefixlen;
	__u32 instance = 0, i, bit;

	for (i = 0; i < INSTANCE_BITS; i++) {
		bit = first + i;
		instance = instance << 1 |
			   (bpf_ntohl(p->daddr.word_be[bit / 32 % 4]) >> (31 - bit % 32) & 1);
	}
	return instance;
}

/*
 * What another tor gave out means nothing to this one: the device was told it before it
 * moved, and asks for the name anew when it is refused. What has begun goes on.
 */
static __always_inline struct decision judge_onion(const struct packet *p, const struct settings *s,
						   struct decision d, __u32 instance)
{
	if (instances <= 1 || d.reason != REASON_ONION_TCP || !tcp_begins(p) ||
	    onion_instance(p, s) == instance)
		return d;
	return decide(VERDICT_REFUSED, REASON_ONION_MOVED);
}

#endif
