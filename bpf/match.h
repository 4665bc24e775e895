/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the maps say of a packet: which prefix, which exemption, which of the
 * router's addresses it meets. Nothing is decided here; classify.h does that.
 */
#ifndef TORBPF_MATCH_H
#define TORBPF_MATCH_H

#include "maps.h"
#include "packet.h"

/* Whether DNS over TLS or QUIC asks the router itself. */
static __always_inline int asks_router_encrypted(const struct packet *p)
{
	return is_encrypted_dns(p) && bpf_map_lookup_elem(&local_addrs, &p->daddr.key);
}

static __always_inline int onion_destination(const struct packet *p, const struct settings *s)
{
	__u32 bits = s->onion6_prefixlen;
	__u32 i, take;

	if (p->layer3 == LAYER3_IPV4)
		return s->onion4_mask_be &&
		       (p->daddr.word_be[3] & s->onion4_mask_be) == s->onion4_addr_be;
	if (!bits)
		return 0;
	for (i = 0; i < 4; i++) {
		__u32 mask;

		take = bits > 32 ? 32 : bits;
		mask = take ? ~0U << (32 - take) : 0;
		if ((bpf_ntohl(p->daddr.word_be[i]) ^ bpf_ntohl(s->onion6_words_be[i])) & mask)
			return 0;
		bits -= take;
	}
	return 1;
}

/* Whether a mark, without our own bits, is exempt. */
static __always_inline int exempt_mark(__u32 mark, __u32 count)
{
	struct exempt_mark *entry;
	__u32 i, key;

	for (i = 0; i < MAX_EXEMPT_MARKS; i++) {
		if (i >= count)
			return 0;
		key = i;
		entry = bpf_map_lookup_elem(&exempt_marks, &key);
		if (entry && (mark & entry->mask) == entry->value)
			return 1;
	}
	return 0;
}

static __always_inline int inbound_reply(const struct packet *p)
{
	struct flow flow = {};

	flow_to_peer(&flow, p);
	return bpf_map_lookup_elem(&inbound_flows, &flow) != NULL;
}

#endif
