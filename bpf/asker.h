/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Who asks: the sentry sees of a question the address that the device says it has, and
 * what it answers lets a device out. So the program that has the frame tells it whose it was.
 */
#ifndef TORBPF_ASKER_H
#define TORBPF_ASKER_H

#include "classify.h"
#include "domain.h"
#include "maps.h"
#include "plan.h"

/* By what the sentry knows of a question: address, port, id and protocol. */
static __always_inline __u32 asker_place(const struct asker *a)
{
	return hash_words(0, a->addr, 3) >> 54; /* ASKER_SLOTS: 2^10 */
}

static __always_inline __u64 asker_check(const struct asker *a)
{
	return hash_words(0, &a->time_ns, 7);
}

/* The id of the query that this run has read, as it arrived. */
static __always_inline __be16 query_id(void)
{
	__u32 first = 0;
	struct query *q = bpf_map_lookup_elem(&queries, &first);

	return q ? *(__be16 *)q->bytes : 0;
}

/*
 * Whether a packet brings the sentry a question for an excluded name, or may do so, or one
 * of which it has to know whose tor to ask. By TCP nothing is read of it here: who begins a
 * connection is who asks by it, since no other hears the numbers that it takes to go on.
 */
static __always_inline int asks_by_device(const struct packet *p, const struct settings *s,
					  struct decision d)
{
	if (d.reason == REASON_DNS_TCP)
		return (s->domains || instances > 1) && tcp_begins(p);
	return d.reason == REASON_DNS_DOMAIN;
}

/* A global function, as read_question() of dns.h. Returns 0 where it cannot. */
__attribute__((noinline)) int write_asker(__u32 id_be)
{
	const struct packet *p = this_packet();
	struct asker now = {.time_ns = bpf_ktime_get_boot_ns(), .id_be = id_be};
	struct asker *slot;
	__u32 place;

	if (!p)
		return 0;
	now.device = device_of(p);
	now.port_be = p->sport_be;
	now.protocol = p->protocol;
	__builtin_memcpy(now.addr, &p->saddr, sizeof(now.addr));
	now.check = asker_check(&now);
	place = asker_place(&now);
	slot = bpf_map_lookup_elem(&askers, &place);
	if (!slot)
		return 0;
	*slot = now;
	return 1;
}

/* Has the sentry know whose question it is that is about to reach it. */
static __always_inline void remember_asker(const struct packet *p, const struct settings *s,
					   struct decision d)
{
	if (asks_by_device(p, s, d))
		write_asker(d.reason == REASON_DNS_DOMAIN ? query_id() : 0);
}

#endif
