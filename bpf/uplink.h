/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Acting on what leaves by an uplink: the last guard. It goes by the interface that a
 * packet came in by, and by the socket that it is of, which no rewriting changes.
 */
#ifndef TORBPF_UPLINK_H
#define TORBPF_UPLINK_H

#include "own.h"
#include "verdict.h"

/* Drops and samples what should not have come to an uplink. */
static __always_inline int drop_leak(struct __sk_buff *skb, const struct packet *p)
{
	struct decision leak = decide(VERDICT_REFUSED, REASON_UPLINK_GUARD);

	if (may_tell(p))
		report(skb->ifindex, skb->len, p, leak.reason);
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
	if (port == resolver_port)
		return 1;
	return (p->protocol != IPPROTO_UDP && is_port_of(trans_ports, port)) ||
	       (p->protocol != IPPROTO_TCP && is_port_of(dns_ports, port));
}

/*
 * Whether the router sends this to a device: its subnet has gone from the LAN, or
 * the LAN is down, so the answer takes the default route. What was planned may
 * be out of date, and then blocks; and what a LAN had a while ago counts, because
 * the kernel says only after seconds that a neighbour was not to be found.
 */
static __always_inline int strays_from_lan(struct __sk_buff *skb, const struct packet *p)
{
	__u8 type;

	if (p->layer3 != LAYER3_IPV4 && p->layer3 != LAYER3_IPV6)
		return 0;
	/* Such addresses of every link are alike; no route leads from one to another. */
	if (p->layer3 == LAYER3_IPV6 && link_local(p, &p->daddr))
		return 0;
	/* Where LAN and uplink share a prefix, neighbours must be found. */
	type = p->protocol == IPPROTO_ICMPV6 ? layer4_byte(skb, p, 0) : 0;
	if (type >= 133 && type <= 137)
		return 0;
	/* It answers for the address that it has on a LAN (RFC 4291, 2.5.6). */
	if (p->layer3 == LAYER3_IPV6 && link_local(p, &p->saddr) && !group_destination(p))
		return 1;
	return of_lan(p, &p->daddr) ||
	       still(lookup_prefix(p, &p->daddr, &past4_prefixes, &past6_prefixes));
}

/*
 * Whether tor sends this to a device in the name of a site, without NAT: its sockets, and
 * what the kernel says for them, have the class of Tor, so it is for LANs alone. A rule of
 * the user's may have written over a mark, but not over that of the socket.
 */
static __always_inline int of_tor(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (mark_class(skb->mark) & VERDICT_BLOCKED_BIT)
		return 1;
	if (!sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	return sk && mark_class(sk->mark) == VERDICT_TOR;
}

static __always_inline int is_icmp_error(struct __sk_buff *skb, const struct packet *p)
{
	__u8 type;

	if (!is_icmp(p))
		return 0;
	type = layer4_byte(skb, p, 0);
	if (p->layer3 == LAYER3_IPV6)
		return type < ICMPV6_ECHO_REQUEST;
	return type != ICMP_ECHO && type != ICMP_ECHOREPLY;
}

/*
 * Whether the router tells the far end of a connection that was cut, by a reset, that
 * nobody is there any more. nftables keeps it silent, but knows no more of the connection
 * once it was flushed.
 */
static __always_inline int resets_cut_peer(struct __sk_buff *skb, const struct packet *p)
{
	struct flow flow = {};

	if (p->protocol != IPPROTO_TCP || !(layer4_byte(skb, p, TCP_FLAGS_OFFSET) & TCP_RST))
		return 0;
	flow_to_peer(&flow, p);
	return was_cut(&flow);
}

/* Whether something was to the router, or to a subnet that no uplink leads to. */
static __always_inline int was_for_us(const struct packet *quoted)
{
	struct local_subnet *subnet;

	if (bpf_map_lookup_elem(&local_addrs, &quoted->daddr.key))
		return 1;
	subnet = lookup_prefix(quoted, &quoted->daddr, &local4_prefixes, &local6_prefixes);
	return subnet && subnet->ifindex;
}

/*
 * Why an ICMP error of the router's must not leave; REASON_NONE if it may. It quotes what it
 * complains of. That may be what the far end of a connection that was cut has sent. And a
 * device may claim any source, which is then told by this way what it wanted: the kernel
 * complains of hops that are used up, or of options, before the guards are asked whether
 * something may be forwarded. What is from outside is for the router or those behind it.
 */
static __always_inline enum reason error_stays(struct __sk_buff *skb, const struct packet *p)
{
	struct packet quoted = {.ethernet = p->ethernet};
	struct flow flow = {};

	if (!is_icmp_error(skb, p))
		return REASON_NONE;
	parse_network_header(skb, p->l4_offset + ICMP_HEADER_BYTES, &quoted);
	if (quoted.layer3 != LAYER3_IPV4 && quoted.layer3 != LAYER3_IPV6)
		return REASON_NONE;
	flow_from_peer(&flow, &quoted);
	if (was_cut(&flow))
		return REASON_CUT_PEER;
	return was_for_us(&quoted) ? REASON_NONE : REASON_FOREIGN_SOURCE;
}

/*
 * Whether the router tells a site that a device is not to be reached. What tor sends to the
 * device has the site's address for its source, so the kernel complains there, some seconds
 * after the device has gone; whoever looks on would know whom it talked to. A visitor by IPv6
 * whose host is gone is not told either.
 */
static __always_inline int reports_device(struct __sk_buff *skb, const struct packet *p)
{
	struct packet quoted = {.ethernet = p->ethernet};

	if (!is_icmp_error(skb, p))
		return 0;
	parse_network_header(skb, p->l4_offset + ICMP_HEADER_BYTES, &quoted);
	if (quoted.protocol != IPPROTO_TCP)
		return 0;
	return of_lan(&quoted, &quoted.daddr) ||
	       still(lookup_prefix(&quoted, &quoted.daddr, &past4_prefixes, &past6_prefixes));
}

/*
 * Drops and samples what the router itself sends and client mode does not let go. That a
 * rule has ended is no fault of nftables, which goes by the mark.
 */
static __always_inline int drop_own(struct __sk_buff *skb, const struct packet *p)
{
	int ended = mark_class(skb->mark) == VERDICT_DIRECT && !still_direct(skb, p);
	struct decision d =
		decide(VERDICT_REFUSED, ended ? REASON_CLIENT_ENDED : REASON_CLIENT_GUARD);

	if (may_tell(p))
		report(skb->ifindex, skb->len, p, d.reason);
	return drop(skb, skb->ifindex, d);
}

/*
 * What the router itself sends by an uplink is its own business, but for answers; in
 * client mode it is Tor's. Its own DNS is counted apart: no LAN packet is a part of it.
 */
static __always_inline int act_on_own(struct __sk_buff *skb, int ethernet, const struct settings *s)
{
	struct packet p = {.ethernet = ethernet};
	enum reason reason;

	parse_network_header(skb, network_offset(&p), &p);
	if (strays_from_lan(skb, &p) || diverted_answer(skb, &p) ||
	    (tproxy && (of_tor(skb) || reports_device(skb, &p))))
		return drop_leak(skb, &p);
	reason = resets_cut_peer(skb, &p) ? REASON_CUT_PEER : error_stays(skb, &p);
	if (reason != REASON_NONE)
		return drop(skb, skb->ifindex, decide(VERDICT_REFUSED, reason));
	if (s && s->client && !own_leaves(skb, &p, s))
		return drop_own(skb, &p);
	if (is_dns(&p) || is_encrypted_dns(&p))
		count_skb(skb, skb->ifindex, decide(VERDICT_NONE, REASON_OWN_DNS));
	return ACTION_NEXT;
}

/* Whether the class of a packet from a LAN, or its mark, lets it leave by this uplink. */
static __always_inline int lan_leaves(const struct __sk_buff *skb, const struct settings *s)
{
	switch (mark_class(skb->mark)) {
	case VERDICT_DIRECT:
	case VERDICT_INBOUND:
		return 1;
	case VERDICT_VIA:
		return is_exit(skb->ifindex);
	case VERDICT_NONE:
		return s && s->exempt_marks && exempt_mark(skb->mark, s->exempt_marks);
	default:
		return 0;
	}
}

/*
 * A packet on its way out by an uplink. Masquerading has hidden its source by
 * now, but the kernel remembers the interface it came in by. Packets of the
 * router itself came in by none. What leaves whosever it is costs no look-up.
 */
static __always_inline int act_on_uplink(struct __sk_buff *skb, int ethernet,
					 const struct settings *s)
{
	__u32 ingress = skb->ingress_ifindex;
	struct packet p = {.ethernet = ethernet};

	if (!ingress)
		return act_on_own(skb, ethernet, s);
	if (fast_path && ethernet && mark_class(skb->mark) == VERDICT_DIRECT &&
	    mark_instance(skb->mark) != WAY_FAST)
		bpf_tail_call(skb, &fast_programs, FAST_PROVE_OUT); /* not back, if there is one */
	if (lan_leaves(skb, s) || !is_lan(ingress))
		return ACTION_NEXT;
	parse_network_header(skb, network_offset(&p), &p);
	return drop_leak(skb, &p);
}

#endif
