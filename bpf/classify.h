/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The decision: which verdict a packet gets, and for which reason. It reads
 * maps and changes nothing. internal/model is the same order in Go; a fuzz
 * test holds the two together.
 *
 * The order is the promise (docs/ARCHITECTURE.md, "Decision order"):
 * link-local and multicast but for DNS, foreign sources, source policy, .onion, rules that
 * name the port of DNS, DNS, the router, exclusions (ports, destinations, lists, marks,
 * names), local subnets, TCP, the rest.
 */
#ifndef TORBPF_CLASSIFY_H
#define TORBPF_CLASSIFY_H

#include "domain.h"
#include "listed.h"
#include "match.h"

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

static __always_inline struct decision classify_foreign(const struct packet *p,
							const struct settings *s)
{
	if (!plainly_of_lan(p, s) && foreign_source(p))
		return decide(VERDICT_REFUSED, REASON_FOREIGN_SOURCE);
	return undecided();
}

/*
 * Destinations that no router forwards, whoever sends to them. The router's own
 * resolver listens there, too, so DNS is judged as to any other address. What the
 * router is sent there it answers wherever the source leads, a ping by the WAN if
 * need be; but devices must be found, and get an address, with one of yesterday's.
 */
static __always_inline struct decision classify_unforwarded(const struct packet *p,
							    const struct settings *s)
{
	if (is_dns(p) || asks_router_encrypted(p, s))
		return undecided();
	/* Linux forwards IPv4 link-local addresses as any others. */
	if (!group_destination(p) && (p->layer3 == LAYER3_IPV4 || !link_local(p, &p->daddr)))
		return undecided();
	if (!link_housekeeping(p) && foreign_source(p))
		return undecided();
	if (group_destination(p))
		return decide(VERDICT_LOCAL, REASON_MULTICAST);
	return decide(VERDICT_LOCAL, REASON_LINK_LOCAL);
}

/* A device by its hardware address, before its address. */
static __always_inline struct decision classify_source(const struct packet *p,
						       const struct settings *s)
{
	int policy = s->devices ? device_policy(p) : NO_POLICY;
	int device = policy != NO_POLICY;

	if (!device && s->sources)
		policy = source_policy(p);
	if (policy == NO_POLICY || policy == POLICY_TOR)
		return undecided();
	if (policy == POLICY_BLOCK)
		return decide(VERDICT_REFUSED,
			      device ? REASON_BLOCKED_DEVICE : REASON_BLOCKED_SOURCE);
	if (onion_destination(p, s))
		return decide(VERDICT_REFUSED, REASON_ONION_FROM_DIRECT);
	return decide(VERDICT_DIRECT, device ? REASON_DIRECT_DEVICE : REASON_DIRECT_SOURCE);
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
 * A rule that names the port of DNS stands before Tor's claim to it: for a resolver
 * behind a VPN. Not for the router's own, which would ask upstream in clear.
 */
static __always_inline struct decision classify_named_dns(const struct packet *p, int service,
							  const struct settings *s)
{
	if (service != POLICY_DIRECT || !is_dns(p))
		return undecided();
	if (broadcast_destination(p) || to_router(p, s))
		return undecided();
	return decide(VERDICT_DIRECT, REASON_DIRECT_PORT);
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

static __always_inline struct decision classify_router(const struct packet *p,
						       const struct settings *s)
{
	if (!to_router(p, s))
		return undecided();
	/* A later fragment hides its port, and might finish a DNS query. */
	if (p->fragment != FRAGMENT_NONE && !is_icmp(p))
		return decide(VERDICT_REFUSED, REASON_FRAGMENT);
	/* Its resolver would ask upstream in clear; refused at once, clients go back to 53. */
	if (is_encrypted_dns(p))
		return decide(VERDICT_REFUSED, REASON_ROUTER_DNS);
	return decide(VERDICT_LOCAL, REASON_ROUTER_ADDRESS);
}

/*
 * Any rule for a destination says more than a list or than the name of a whole site, so
 * one that says Tor takes a part of those back. A mark is of a rule of the user's own,
 * which has looked at this packet; nftables, which sees those that come later, knows no
 * rule for a destination either.
 */
static __always_inline struct decision classify_exclusion(const struct packet *p, __u32 mark,
							  int service, const struct settings *s)
{
	int policy = policy_there(p, service, s);

	if (policy == POLICY_DIRECT)
		return decide(VERDICT_DIRECT, service == POLICY_DIRECT ? REASON_DIRECT_PORT
								       : REASON_DIRECT_DESTINATION);
	if (s->lists && policy == NO_POLICY && is_listed(p))
		return decide(VERDICT_DIRECT, REASON_DIRECT_LIST);
	if (s->exempt_marks && exempt_mark(mark, s->exempt_marks))
		return decide(VERDICT_DIRECT, REASON_EXEMPT_MARK);
	if (s->domains && policy == NO_POLICY && p->fragment == FRAGMENT_NONE && direct_domain())
		return decide(VERDICT_DIRECT, REASON_DIRECT_DOMAIN);
	return undecided();
}

static __always_inline struct decision classify_local(const struct packet *p,
						      const struct settings *s)
{
	struct local_subnet *subnet;

	subnet = subnet_there(p, s);
	if (!subnet)
		return undecided();
	if (subnet->ifindex && s->local_mode != LOCAL_NONE)
		return decide(VERDICT_LOCAL, REASON_LOCAL_SUBNET);
	if (s->local_mode == LOCAL_RESERVED)
		return decide(VERDICT_DIRECT, REASON_RESERVED_OPEN);
	return decide(VERDICT_REFUSED, REASON_PRIVATE);
}

/* What remains: TCP is Tor's, all else has no way out. */
static __always_inline struct decision classify_rest(const struct packet *p,
						     const struct settings *s)
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
		return s->time_server ? decide(VERDICT_TIME, REASON_NTP_ROUTER)
				      : decide(VERDICT_REFUSED, REASON_NTP);
	return decide(VERDICT_REFUSED, REASON_UDP);
}

static __always_inline struct decision classify_policy(const struct packet *p, __u32 mark,
						       const struct settings *s)
{
	int service;
	struct decision d;

	d = classify_unforwarded(p, s);
	if (decided(d))
		return d;
	d = classify_foreign(p, s);
	if (decided(d))
		return d;
	d = classify_source(p, s);
	if (decided(d))
		return d;
	d = classify_onion(p, s);
	if (decided(d))
		return d;
	service = port_policy(p, s);
	d = classify_named_dns(p, service, s);
	if (decided(d))
		return d;
	d = classify_dns(p);
	if (decided(d))
		return d;
	d = classify_router(p, s);
	if (decided(d))
		return d;
	d = classify_exclusion(p, mark, service, s);
	if (decided(d))
		return d;
	d = classify_local(p, s);
	if (decided(d))
		return d;
	return classify_rest(p, s);
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

/*
 * A refusal is not final where conntrack or a late mark may overrule it: such
 * a packet passes, in a class that nothing forwards unless one of them does.
 * Neither knows better of a source that is no LAN's.
 */
static __always_inline struct decision reconsider(const struct packet *p, const struct settings *s,
						  struct decision d)
{
	if (d.verdict != VERDICT_REFUSED && d.verdict != VERDICT_TIME)
		return d;
	if (d.reason == REASON_FOREIGN_SOURCE)
		return d;
	if (s->inbound && inbound_reply(p))
		return decide(VERDICT_PENDING, REASON_INBOUND_REPLY);
	if (s->late_marks && markable(d.reason) && !is_dns(p) && !onion_destination(p, s) &&
	    !to_router(p, s))
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
