/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the maps say of a packet: which prefix, which exemption, which of the
 * router's addresses it meets. Nothing is decided here; classify.h does that.
 */
#ifndef TORBPF_MATCH_H
#define TORBPF_MATCH_H

#include "maps.h"
#include "packet.h"

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

/*
 * Whether no LAN has the source, be it forged or an address of yesterday's
 * prefix. Whatever answers such a packet (a socket, the kernel's ICMP, Tor by a
 * NAT mapping) would take the default route, and so tell the WAN of it. IPv6
 * link-local addresses are answered on their link. The unspecified address is
 * a martian to the kernel with IPv4; with IPv6 it is answered, by that route.
 */
static __always_inline int foreign_source(const struct packet *p)
{
	struct local_subnet *subnet;
	__u32 ifindex;

	if (unspecified(p, &p->saddr))
		return p->layer3 == LAYER3_IPV6;
	if (p->layer3 == LAYER3_IPV6 && link_local(p, &p->saddr))
		return 0;
	subnet = lookup_prefix(p, &p->saddr, &local4_prefixes, &local6_prefixes);
	if (!subnet || !subnet->ifindex)
		return 1;
	ifindex = subnet->ifindex;
	return !bpf_map_lookup_elem(&lans, &ifindex);
}

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

static __always_inline int inbound_reply(const struct packet *p)
{
	struct flow flow = {};

	flow_to_peer(&flow, p);
	return bpf_map_lookup_elem(&inbound_flows, &flow) != NULL;
}

#endif
