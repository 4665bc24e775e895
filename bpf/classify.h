/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The decision: which verdict a packet gets, and for which reason. It reads
 * maps and changes nothing. internal/model is the same order in Go; a fuzz
 * test holds the two together.
 *
 * The order is the promise (docs/ARCHITECTURE.md, "Decision order"):
 * link-local and multicast but for DNS, foreign sources, source policy, .onion,
 * DNS, the router, exclusions, local subnets, TCP, the rest.
 */
#ifndef TORBPF_CLASSIFY_H
#define TORBPF_CLASSIFY_H

#include "maps.h"
#include "packet.h"

#define PORT_DNS     53
#define PORT_NTP     123
#define PORT_QUIC    443
#define PORT_DNS_TLS 853

struct decision {
	enum verdict verdict;
	enum reason reason;
};

static __always_inline struct decision decide(enum verdict verdict, enum reason reason)
{
	struct decision d = {.verdict = verdict, .reason = reason};

	return d;
}

/* VERDICT_NONE with REASON_NONE: this step does not decide, ask the next. */
static __always_inline struct decision undecided(void)
{
	return decide(VERDICT_NONE, REASON_NONE);
}

static __always_inline int decided(struct decision d)
{
	return d.reason != REASON_NONE;
}

static __always_inline int ipv4_under(__be32 addr_be, __u32 prefix, __u32 mask)
{
	return (bpf_ntohl(addr_be) & mask) == prefix;
}

/* Whether a packet shows a port; a later fragment has none to show. */
static __always_inline int is_to_port(const struct packet *p, __u16 port)
{
	return p->fragment != FRAGMENT_LATER && p->dport_be == bpf_htons(port) &&
	       (p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_TCP);
}

static __always_inline int is_dns(const struct packet *p)
{
	return is_to_port(p, PORT_DNS);
}

/* DNS over TLS or QUIC. */
static __always_inline int is_encrypted_dns(const struct packet *p)
{
	return is_to_port(p, PORT_DNS_TLS);
}

/* Multicast, and the broadcast address of whatever link it is. */
static __always_inline int group_destination(const struct packet *p)
{
	__be32 daddr_be = p->daddr.word_be[3];

	if (p->layer3 == LAYER3_IPV4)
		return ipv4_under(daddr_be, 0xe0000000, 0xf0000000) || daddr_be == 0xffffffff;
	return bpf_ntohl(p->daddr.word_be[0]) >> 24 == 0xff;
}

static __always_inline int link_local(const struct packet *p, const union inet_address *a)
{
	if (p->layer3 == LAYER3_IPV4)
		return ipv4_under(a->word_be[3], 0xa9fe0000, 0xffff0000);
	return (bpf_ntohl(a->word_be[0]) & 0xffc00000) == 0xfe800000;
}

static __always_inline int unspecified(const struct packet *p, const union inet_address *a)
{
	if (a->word_be[3])
		return 0;
	return p->layer3 == LAYER3_IPV4 || !(a->word_be[0] | a->word_be[1] | a->word_be[2]);
}

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
 * link-local addresses are answered on their link, the unspecified one nowhere.
 */
static __always_inline int foreign_source(const struct packet *p)
{
	struct local_subnet *subnet;
	__u32 ifindex;

	if (unspecified(p, &p->saddr) || (p->layer3 == LAYER3_IPV6 && link_local(p, &p->saddr)))
		return 0;
	subnet = lookup_prefix(p, &p->saddr, &local4_prefixes, &local6_prefixes);
	if (!subnet || !subnet->ifindex)
		return 1;
	ifindex = subnet->ifindex;
	return !bpf_map_lookup_elem(&lans, &ifindex);
}

static __always_inline struct decision classify_foreign(const struct packet *p)
{
	if (foreign_source(p))
		return decide(VERDICT_REFUSED, REASON_FOREIGN_SOURCE);
	return undecided();
}

/* Whether DNS over TLS or QUIC asks the router itself. */
static __always_inline int asks_router_encrypted(const struct packet *p)
{
	return is_encrypted_dns(p) && bpf_map_lookup_elem(&local_addrs, &p->daddr.key);
}

/*
 * Destinations that no router forwards, whoever sends to them. The router's own
 * resolver listens there, too, so DNS is judged as to any other address. What a
 * link-local address of the router is sent is answered wherever the source
 * leads, but for ICMPv6, which answers by the link it came from; and neighbour
 * discovery must go on with an address of yesterday's prefix.
 */
static __always_inline struct decision classify_unforwarded(const struct packet *p)
{
	if (is_dns(p) || asks_router_encrypted(p))
		return undecided();
	if (group_destination(p))
		return decide(VERDICT_LOCAL, REASON_MULTICAST);
	if (!link_local(p, &p->daddr))
		return undecided();
	if ((p->layer3 == LAYER3_IPV6 && p->protocol == IPPROTO_ICMPV6) || !foreign_source(p))
		return decide(VERDICT_LOCAL, REASON_LINK_LOCAL);
	return undecided();
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

static __always_inline struct decision classify_source(const struct packet *p,
						       const struct settings *s)
{
	struct prefix_policy *entry;

	if (!s->sources)
		return undecided();
	entry = lookup_prefix(p, &p->saddr, &src4_prefixes, &src6_prefixes);
	if (!entry || entry->policy == POLICY_TOR)
		return undecided();
	if (entry->policy == POLICY_BLOCK)
		return decide(VERDICT_REFUSED, REASON_BLOCKED_SOURCE);
	if (onion_destination(p, s))
		return decide(VERDICT_REFUSED, REASON_ONION_FROM_DIRECT);
	return decide(VERDICT_DIRECT, REASON_DIRECT_SOURCE);
}

static __always_inline struct decision classify_onion(const struct packet *p,
						      const struct settings *s)
{
	if (!onion_destination(p, s))
		return undecided();
	if (p->fragment != FRAGMENT_NONE)
		return decide(VERDICT_REFUSED, REASON_FRAGMENT);
	if (p->protocol == IPPROTO_TCP)
		return decide(VERDICT_ONION, REASON_ONION_TCP);
	if (p->protocol == IPPROTO_UDP && p->dport_be == bpf_htons(PORT_DNS))
		return decide(VERDICT_DNS, REASON_ONION_DNS);
	return decide(VERDICT_REFUSED, REASON_ONION_PROTOCOL);
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

/*
 * DNS to any address; a query cut into fragments would slip past nftables. Nobody
 * asks by broadcast but to reach the router's resolver past torbpf.
 */
static __always_inline struct decision classify_dns(const struct packet *p)
{
	if (!is_dns(p))
		return undecided();
	if (broadcast_destination(p))
		return decide(VERDICT_REFUSED, REASON_ROUTER_DNS);
	if (p->fragment == FRAGMENT_FIRST)
		return decide(VERDICT_REFUSED, REASON_FRAGMENT);
	if (p->protocol == IPPROTO_UDP)
		return decide(VERDICT_DNS, REASON_DNS_UDP);
	return decide(VERDICT_RESOLVER, REASON_DNS_TCP);
}

static __always_inline int is_icmp(const struct packet *p)
{
	return (p->layer3 == LAYER3_IPV4 && p->protocol == IPPROTO_ICMP) ||
	       (p->layer3 == LAYER3_IPV6 && p->protocol == IPPROTO_ICMPV6);
}

static __always_inline struct decision classify_router(const struct packet *p)
{
	if (!bpf_map_lookup_elem(&local_addrs, &p->daddr.key))
		return undecided();
	/* A later fragment hides its port, and might finish a DNS query. */
	if (p->fragment != FRAGMENT_NONE && !is_icmp(p))
		return decide(VERDICT_REFUSED, REASON_FRAGMENT);
	/* Its resolver would ask upstream in clear; refused at once, clients go back to 53. */
	if (is_encrypted_dns(p))
		return decide(VERDICT_REFUSED, REASON_ROUTER_DNS);
	return decide(VERDICT_LOCAL, REASON_ROUTER_ADDRESS);
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

static __always_inline struct decision classify_exclusion(const struct packet *p, __u32 mark,
							  const struct settings *s)
{
	struct prefix_policy *entry;

	entry = lookup_prefix(p, &p->daddr, &dst4_prefixes, &dst6_prefixes);
	if (entry && entry->policy == POLICY_DIRECT)
		return decide(VERDICT_DIRECT, REASON_DIRECT_DESTINATION);
	if (s->exempt_marks && exempt_mark(mark, s->exempt_marks))
		return decide(VERDICT_DIRECT, REASON_EXEMPT_MARK);
	return undecided();
}

static __always_inline struct decision classify_local(const struct packet *p,
						      const struct settings *s)
{
	struct local_subnet *subnet;

	subnet = lookup_prefix(p, &p->daddr, &local4_prefixes, &local6_prefixes);
	if (!subnet)
		return undecided();
	if (subnet->ifindex && s->local_mode != LOCAL_NONE)
		return decide(VERDICT_LOCAL, REASON_LOCAL_SUBNET);
	if (s->local_mode == LOCAL_RESERVED)
		return decide(VERDICT_DIRECT, REASON_RESERVED_OPEN);
	return decide(VERDICT_REFUSED, REASON_PRIVATE);
}

/* What remains: TCP is Tor's, all else has no way out. */
static __always_inline struct decision classify_rest(const struct packet *p)
{
	if (p->fragment != FRAGMENT_NONE)
		return decide(VERDICT_REFUSED, REASON_FRAGMENT);
	if (p->protocol == IPPROTO_TCP)
		return decide(VERDICT_TOR, REASON_TCP);
	if (is_icmp(p))
		return decide(VERDICT_REFUSED, REASON_ICMP);
	if (p->protocol != IPPROTO_UDP)
		return decide(VERDICT_REFUSED, REASON_PROTOCOL);
	if (p->dport_be == bpf_htons(PORT_QUIC))
		return decide(VERDICT_REFUSED, REASON_QUIC);
	if (p->dport_be == bpf_htons(PORT_NTP))
		return decide(VERDICT_REFUSED, REASON_NTP);
	return decide(VERDICT_REFUSED, REASON_UDP);
}

static __always_inline struct decision classify_policy(const struct packet *p, __u32 mark,
						       const struct settings *s)
{
	struct decision d;

	d = classify_unforwarded(p);
	if (decided(d))
		return d;
	d = classify_foreign(p);
	if (decided(d))
		return d;
	d = classify_source(p, s);
	if (decided(d))
		return d;
	d = classify_onion(p, s);
	if (decided(d))
		return d;
	d = classify_dns(p);
	if (decided(d))
		return d;
	d = classify_router(p);
	if (decided(d))
		return d;
	d = classify_exclusion(p, mark, s);
	if (decided(d))
		return d;
	d = classify_local(p, s);
	if (decided(d))
		return d;
	return classify_rest(p);
}

/* Refusals that a later rule of the user may turn into an exemption. */
static __always_inline int markable(enum reason reason)
{
	switch (reason) {
	case REASON_FRAGMENT:
	case REASON_PRIVATE:
	case REASON_UDP:
	case REASON_QUIC:
	case REASON_NTP:
	case REASON_ICMP:
	case REASON_PROTOCOL:
		return 1;
	default:
		return 0;
	}
}

static __always_inline int inbound_reply(const struct packet *p)
{
	struct inbound_flow flow = {
		.lan_port_be = p->sport_be,
		.peer_port_be = p->dport_be,
		.protocol = p->protocol,
	};

	__builtin_memcpy(flow.lan_addr, &p->saddr, sizeof(flow.lan_addr));
	__builtin_memcpy(flow.peer_addr, &p->daddr, sizeof(flow.peer_addr));
	return bpf_map_lookup_elem(&inbound_flows, &flow) != NULL;
}

/*
 * A refusal is not final where conntrack or a late mark may overrule it: such
 * a packet passes, in a class that nothing forwards unless one of them does.
 * Neither knows better of a source that is no LAN's.
 */
static __always_inline struct decision reconsider(const struct packet *p, const struct settings *s,
						  struct decision d)
{
	if (d.verdict != VERDICT_REFUSED || d.reason == REASON_FOREIGN_SOURCE)
		return d;
	if (s->inbound && inbound_reply(p))
		return decide(VERDICT_PENDING, REASON_INBOUND_REPLY);
	if (s->late_marks && markable(d.reason) && !is_dns(p) && !onion_destination(p, s) &&
	    !bpf_map_lookup_elem(&local_addrs, &p->daddr.key))
		return decide(VERDICT_PENDING, REASON_LATE_MARK);
	return d;
}

static __always_inline struct decision classify(const struct packet *p, __u32 mark,
						const struct settings *s)
{
	switch (p->layer3) {
	case LAYER3_OTHER:
		return decide(VERDICT_LOCAL, REASON_NON_IP);
	case LAYER3_OTHER_VLAN:
		return decide(VERDICT_NONE, REASON_OTHER_VLAN);
	case LAYER3_MALFORMED:
		return decide(VERDICT_REFUSED, REASON_MALFORMED);
	default:
		return reconsider(p, s, classify_policy(p, mark, s));
	}
}

#endif
