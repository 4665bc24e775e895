/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Acting on what leaves by an uplink: the last guard. It goes by the interface that a
 * packet came in by, and by the socket that it is of, which no rewriting changes.
 */
#ifndef TORBPF_UPLINK_H
#define TORBPF_UPLINK_H

#include "verdict.h"

/* Drops and samples what should not have come to an uplink. */
static __always_inline int drop_leak(struct __sk_buff *skb, const struct packet *p)
{
	struct decision leak = decide(VERDICT_REFUSED, REASON_UPLINK_GUARD);

	if (may_tell(p))
		report(skb->ifindex, skb->len, p, leak);
	return drop(skb, skb->ifindex, leak);
}

/*
 * Whether the router sends this from one of Tor's or the sentry's ports: an
 * answer to a LAN host. If the route to that host is gone it takes the default
 * route, and if nftables is, too, nobody else stops it. Its addresses do not
 * tell any more: conntrack has put the site's back. But its socket does. The
 * other protocol of a port is somebody else's; what does not show which it is
 * is not let go.
 */
static __always_inline int diverted_answer(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock *sk = skb->sk;
	__u32 port;

	if (!sk)
		return 0;
	port = sk->src_port;
	if (port != trans_port && port != dns_port && port != resolver_port)
		return 0;
	if (port == resolver_port)
		return 1;
	return p->protocol != (port == trans_port ? IPPROTO_UDP : IPPROTO_TCP);
}

/*
 * Whether the router sends this to a device: its subnet has gone from the LAN, or
 * the LAN is down, so the answer takes the default route. What was planned may
 * be out of date, and then blocks.
 */
static __always_inline int strays_from_lan(struct __sk_buff *skb, const struct packet *p)
{
	struct local_subnet *subnet;
	__u32 ifindex;
	__u8 type;

	if (p->layer3 != LAYER3_IPV4 && p->layer3 != LAYER3_IPV6)
		return 0;
	/* Where LAN and uplink share a prefix, neighbours must be found. */
	if (p->protocol == IPPROTO_ICMPV6 &&
	    !bpf_skb_load_bytes_relative(skb, p->l4_offset, &type, sizeof(type),
					 BPF_HDR_START_NET) &&
	    type >= 133 && type <= 137)
		return 0;
	/* It answers for the address that it has on a LAN (RFC 4291, 2.5.6). */
	if (p->layer3 == LAYER3_IPV6 && link_local(p, &p->saddr) && !link_local(p, &p->daddr) &&
	    !group_destination(p))
		return 1;
	subnet = lookup_prefix(p, &p->daddr, &local4_prefixes, &local6_prefixes);
	if (!subnet)
		return 0;
	ifindex = subnet->ifindex;
	return bpf_map_lookup_elem(&lans, &ifindex) != NULL;
}

/*
 * What the router itself sends by an uplink is its own business, but for answers.
 * Its own DNS is counted apart: no LAN packet is a part of it.
 */
static __always_inline int act_on_own(struct __sk_buff *skb)
{
	struct packet p = {};

	parse_network_header(skb, &p);
	if (strays_from_lan(skb, &p) || diverted_answer(skb, &p))
		return drop_leak(skb, &p);
	if (is_dns(&p) || is_encrypted_dns(&p))
		count_skb(skb, skb->ifindex, decide(VERDICT_NONE, REASON_OWN_DNS));
	return ACTION_NEXT;
}

/*
 * A packet on its way out by an uplink. Masquerading has hidden its source by
 * now, but the kernel remembers the interface it came in by. Packets of the
 * router itself came in by none.
 */
static __always_inline int act_on_uplink(struct __sk_buff *skb, const struct settings *s)
{
	__u32 ingress = skb->ingress_ifindex;
	struct packet p = {};

	if (!ingress)
		return act_on_own(skb);
	if (!bpf_map_lookup_elem(&lans, &ingress))
		return ACTION_NEXT;
	switch (mark_class(skb->mark)) {
	case VERDICT_DIRECT:
	case VERDICT_INBOUND:
		return ACTION_NEXT;
	case VERDICT_NONE:
		if (s && s->exempt_marks && exempt_mark(skb->mark, s->exempt_marks))
			return ACTION_NEXT;
		break;
	default:
		break;
	}
	parse_network_header(skb, &p);
	return drop_leak(skb, &p);
}

#endif
