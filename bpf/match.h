/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the maps say of a packet: which prefix, which exemption, which of the
 * router's addresses it meets. Nothing is decided here; classify.h does that.
 */
#ifndef TORBPF_MATCH_H
#define TORBPF_MATCH_H

#include "maps.h"
#include "packet.h"

/* Which of the bits of settings is an address's; internal/abi/shortcut.go has the same. */
static __always_inline __u32 router_bit(const union inet_address *a)
{
	__u32 folded = a->word_be[0] ^ a->word_be[1] ^ a->word_be[2] ^ a->word_be[3];

	return folded * 0x9e3779b1U >> 24;
}

/* The same of a prefix, which has a bit for each of these that it covers. */
static __always_inline __u32 first_byte(const struct packet *p, const union inet_address *a)
{
	return p->layer3 == LAYER3_IPV4 ? a->key.addr[12] : a->key.addr[0];
}

static __always_inline int bit_is_set(const __u32 *words, __u32 bit)
{
	return words[bit / 32 % SHORTCUT_WORDS] >> bit % 32 & 1;
}

/* Whether a packet is to the router itself, or to all of a subnet of its. */
static __always_inline int to_router(const struct packet *p, const struct settings *s)
{
	return bit_is_set(s->router_bits, router_bit(&p->daddr)) &&
	       bpf_map_lookup_elem(&local_addrs, &p->daddr.key);
}

/* Whether a packet claims to be from the router itself. */
static __always_inline int from_router(const struct packet *p, const struct settings *s)
{
	return bit_is_set(s->router_bits, router_bit(&p->saddr)) &&
	       bpf_map_lookup_elem(&local_addrs, &p->saddr.key);
}

/* What the destination's subnet is, where it is a local or a reserved one. */
static __always_inline struct local_subnet *subnet_there(const struct packet *p,
							 const struct settings *s)
{
	if (!bit_is_set(s->local_bits, first_byte(p, &p->daddr)))
		return NULL;
	return lookup_prefix(p, &p->daddr, &local4_prefixes, &local6_prefixes);
}

/* Whether the source is known for a LAN's without asking a map; 0 says nothing. */
static __always_inline int plainly_of_lan(const struct packet *p, const struct settings *s)
{
	const union inet_address *a = &p->saddr;
	int i;

	for (i = 0; i < SHORTCUT_SUBNETS; i++) {
		const struct shortcut4 *s4 = &s->sources4[i];
		const struct shortcut6 *s6 = &s->sources6[i];

		if (p->layer3 == LAYER3_IPV4) {
			if ((a->word_be[3] & s4->mask_be) == s4->addr_be)
				return 1;
		} else if ((a->word_be[0] & s6->mask_be[0]) == s6->addr_be[0] &&
			   (a->word_be[1] & s6->mask_be[1]) == s6->addr_be[1]) {
			return 1;
		}
	}
	return 0;
}

/* Whether DNS over TLS or QUIC asks the router itself. */
static __always_inline int asks_router_encrypted(const struct packet *p, const struct settings *s)
{
	return is_encrypted_dns(p) && to_router(p, s);
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
 * The policy of the rule of the longest prefix that covers a key, which it shortens;
 * NO_POLICY where there is none. One whose time is over, with nothing beneath it, is as good
 * as not there: then the next shorter one counts. Behind more of them than are looked behind there
 * may be any rule, so what holds then is up to the caller: never that there is none.
 */
static __always_inline int longest_policy(void *map, const void *key, __u32 *prefixlen,
					  enum policy beyond)
{
	struct rule *r;
	int i, policy;

	for (i = 0; i < MAX_NESTED; i++) {
		r = bpf_map_lookup_elem(map, key);
		if (!r)
			return NO_POLICY;
		policy = policy_now(r);
		if (policy != NO_POLICY)
			return policy;
		if (!r->prefixlen)
			return NO_POLICY;
		*prefixlen = r->prefixlen - 1;
	}
	return bpf_map_lookup_elem(map, key) ? (int)beyond : NO_POLICY;
}

static __always_inline int address_policy(const struct packet *p, const union inet_address *a,
					  void *map4, void *map6, enum policy beyond)
{
	struct prefix4 key4 = {.prefixlen = 32, .addr_be = a->word_be[3]};
	struct prefix6 key6 = {.prefixlen = 128};

	__builtin_memcpy(key6.addr, a, sizeof(key6.addr));
	return p->layer3 == LAYER3_IPV4 ? longest_policy(map4, &key4, &key4.prefixlen, beyond)
					: longest_policy(map6, &key6, &key6.prefixlen, beyond);
}

/* What the rules for sources say of a packet. */
static __always_inline int source_policy(const struct packet *p)
{
	return address_policy(p, &p->saddr, &src4_prefixes, &src6_prefixes, POLICY_BLOCK);
}

/* What those for destinations say, but for the ones that name a port. */
static __always_inline int destination_policy(const struct packet *p, const struct settings *s)
{
	if (!bit_is_set(s->rule_bits, first_byte(p, &p->daddr)))
		return NO_POLICY;
	return address_policy(p, &p->daddr, &dst4_prefixes, &dst6_prefixes, POLICY_TOR);
}

/* Whether a protocol is told by its port; that of others is 0 in a rule. */
static __always_inline int has_ports(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP;
}

static __always_inline int port_policy4(const struct packet *p, __be16 port_be)
{
	struct service4 key = {.prefixlen = 64, .protocol = p->protocol, .port_be = port_be};

	key.addr_be = p->daddr.word_be[3];
	return longest_policy(&port4_prefixes, &key, &key.prefixlen, POLICY_TOR);
}

static __always_inline int port_policy6(const struct packet *p, __be16 port_be)
{
	struct service6 key = {.prefixlen = 160, .protocol = p->protocol, .port_be = port_be};

	__builtin_memcpy(key.addr, &p->daddr, sizeof(key.addr));
	return longest_policy(&port6_prefixes, &key, &key.prefixlen, POLICY_TOR);
}

/*
 * The policy of the rule for the port of the packet of this run, or for its protocol; NO_POLICY
 * where there is none. A global function, as read_question() of dns.h.
 */
__attribute__((noinline)) int service_policy(void)
{
	const struct packet *p = this_packet();
	__be16 port_be = 0;

	if (!p)
		return NO_POLICY;
	if (has_ports(p)) {
		if (p->fragment != FRAGMENT_NONE) /* the others do not show it */
			return NO_POLICY;
		port_be = p->dport_be;
	}
	return p->layer3 == LAYER3_IPV4 ? port_policy4(p, port_be) : port_policy6(p, port_be);
}

/*
 * Whether a fragment may be one of TCP or UDP. That shows no port, or its others show
 * none; where the first one has an extension header behind the fragment's, they do not
 * even show the protocol.
 */
static __always_inline int hides_port(const struct packet *p)
{
	return p->fragment != FRAGMENT_NONE && (has_ports(p) || is_extension(p->protocol));
}

/* As service_policy(), but what hides its port may be of one that is Tor's. */
static __always_inline int port_policy(const struct packet *p, const struct settings *s)
{
	if (!s->services)
		return NO_POLICY;
	if (s->tor_ports && hides_port(p))
		return POLICY_TOR;
	return service_policy();
}

/* What the rules for a destination say: those that name a port are the more specific ones. */
static __always_inline int policy_there(const struct packet *p, int service,
					const struct settings *s)
{
	return service != NO_POLICY ? service : destination_policy(p, s);
}

/* What the rule for the device itself says. */
static __always_inline int device_policy(const struct packet *p)
{
	return policy_of(&devices, &p->smac);
}

static __always_inline int inbound_reply(const struct packet *p)
{
	struct flow flow = {};

	flow_to_peer(&flow, p);
	return bpf_map_lookup_elem(&inbound_flows, &flow) != NULL;
}

#endif
