/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Addresses and ports of a packet as the kernel wants them to look a socket or a flow up.
 */
#ifndef TORBPF_TUPLE_H
#define TORBPF_TUPLE_H

#include <linux/bpf.h>

#include "packet.h"

/* Which end of a packet's a tuple begins with. */
enum tuple_from {
	TUPLE_FROM_SOURCE,
	TUPLE_FROM_DESTINATION, /* as its answers have it */
};

/* Fills a tuple that is all zeros, and returns how many bytes of it the family takes. */
static __always_inline __u32 fill_tuple(struct bpf_sock_tuple *tuple, const struct packet *p,
					enum tuple_from from)
{
	int turned = from == TUPLE_FROM_DESTINATION;
	const union inet_address *source = turned ? &p->daddr : &p->saddr;
	const union inet_address *destination = turned ? &p->saddr : &p->daddr;
	__be16 sport_be = turned ? p->dport_be : p->sport_be;
	__be16 dport_be = turned ? p->sport_be : p->dport_be;

	if (p->layer3 == LAYER3_IPV4) {
		tuple->ipv4.saddr = source->word_be[3];
		tuple->ipv4.daddr = destination->word_be[3];
		tuple->ipv4.sport = sport_be;
		tuple->ipv4.dport = dport_be;
		return sizeof(tuple->ipv4);
	}
	__builtin_memcpy(tuple->ipv6.saddr, source, sizeof(tuple->ipv6.saddr));
	__builtin_memcpy(tuple->ipv6.daddr, destination, sizeof(tuple->ipv6.daddr));
	tuple->ipv6.sport = sport_be;
	tuple->ipv6.dport = dport_be;
	return sizeof(tuple->ipv6);
}

#endif
