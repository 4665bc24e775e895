/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * TCP without NAT (tcp_mode = "tproxy"): a connection of a LAN's that is Tor's is handed to
 * tor's own socket as it begins. Nothing of it is rewritten, and conntrack hears nothing of
 * it; tor asks its socket where it was to go. An ip rule has what carries the class of Tor
 * delivered here.
 *
 *   SYN ─────────── is given the listener, whatever else listens at that port
 *   what follows ── finds the socket of its connection by itself, as any segment does
 *
 * tor's sockets are told by their mark: user space gives it to the listeners, all that
 * they accept inherits it, and nobody without privilege can set it. A segment that nobody
 * of tor's knows must not be delivered as Tor's: a service of the router's may listen there.
 */
#ifndef TORBPF_HANDOVER_H
#define TORBPF_HANDOVER_H

#include <linux/if_packet.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include "classify.h"
#include "maps.h"
#include "plan.h"
#include "tuple.h"

/* Whose a TCP packet is. */
enum owner {
	OWNER_NOBODY,	/* nobody has the connection; somebody may listen */
	OWNER_TOR,	/* it is of a connection of tor's */
	OWNER_ENDED,	/* of one that is over (TIME_WAIT) */
	OWNER_STRANGER, /* of a connection of somebody else's, as by another transparent proxy */
};

/* Whether a socket that begins to accept a connection, or has one, is tor's. */
static __always_inline int is_tors(struct bpf_sock *sk)
{
	return sk && mark_class(sk->mark) == VERDICT_TOR;
}

static __always_inline enum owner owner_of(struct bpf_sock *sk)
{
	switch (sk->state) {
	case BPF_TCP_LISTEN:
		return OWNER_NOBODY;
	case BPF_TCP_TIME_WAIT:
		return OWNER_ENDED;
	case BPF_TCP_NEW_SYN_RECV: /* which has no mark to read, but a listener */
		return is_tors(bpf_get_listener_sock(sk)) ? OWNER_TOR : OWNER_STRANGER;
	default:
		return is_tors(bpf_sk_fullsock(sk)) ? OWNER_TOR : OWNER_STRANGER;
	}
}

static __always_inline enum owner find_owner(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size = fill_tuple(&tuple, p, TUPLE_FROM_SOURCE);
	struct bpf_sock *sk = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	enum owner owner;

	if (!sk)
		return OWNER_NOBODY;
	owner = owner_of(sk);
	bpf_sk_release(sk);
	return owner;
}

/* The listener of an instance for the family of a packet; the caller releases it. */
static __always_inline struct bpf_sock *listener_for(const struct packet *p, __u32 instance)
{
	__u32 place = instance * 2 + (p->layer3 == LAYER3_IPV6);

	return bpf_map_lookup_elem(&tor_listeners, &place);
}

/* As it begins, and all that no connection has. Returns whether tor's listener has it now. */
static __always_inline int hand_to_listener(struct __sk_buff *skb, const struct packet *p,
					    __u32 instance)
{
	struct bpf_sock *listener = listener_for(p, instance);
	long refused;

	if (!listener)
		return 0;
	refused = bpf_sk_assign(skb, listener, 0);
	bpf_sk_release(listener);
	return !refused;
}

/* What a cookie is checked with. */
struct cookie4 {
	struct iphdr ip;
	struct tcphdr tcp;
};

struct cookie6 {
	struct ipv6hdr ip;
	struct tcphdr tcp;
};

static __always_inline long check_cookie4(struct __sk_buff *skb, const struct packet *p,
					  struct bpf_sock *listener)
{
	struct cookie4 c = {};

	if (bpf_skb_load_bytes(skb, p->l3_offset, &c.ip, sizeof(c.ip)) ||
	    bpf_skb_load_bytes(skb, p->l4_offset, &c.tcp, sizeof(c.tcp)))
		return -1;
	return bpf_tcp_check_syncookie(listener, &c.ip, sizeof(c.ip), &c.tcp, sizeof(c.tcp));
}

static __always_inline long check_cookie6(struct __sk_buff *skb, const struct packet *p,
					  struct bpf_sock *listener)
{
	struct cookie6 c = {};

	if (bpf_skb_load_bytes(skb, p->l3_offset, &c.ip, sizeof(c.ip)) ||
	    bpf_skb_load_bytes(skb, p->l4_offset, &c.tcp, sizeof(c.tcp)))
		return -1;
	return bpf_tcp_check_syncookie(listener, &c.ip, sizeof(c.ip), &c.tcp, sizeof(c.tcp));
}

/*
 * Whether a segment answers a cookie of the listener's: while SYNs flood it, the kernel keeps
 * nothing of a connection until this comes.
 */
static __always_inline int returns_cookie(struct __sk_buff *skb, const struct packet *p,
					  __u32 instance)
{
	struct bpf_sock *listener;
	long wrong;

	if ((p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_ACK)
		return 0;
	listener = listener_for(p, instance);
	if (!listener)
		return 0;
	wrong = p->layer3 == LAYER3_IPV4 ? check_cookie4(skb, p, listener)
					 : check_cookie6(skb, p, listener);
	bpf_sk_release(listener);
	return !wrong;
}

/* Whether what is to leave by now, or to reach a neighbour, may be of a connection of tor's. */
static __always_inline int may_be_tors(const struct packet *p, struct decision d)
{
	return p->protocol == IPPROTO_TCP && p->fragment == FRAGMENT_NONE && !tcp_begins(p) &&
	       (d.verdict == VERDICT_DIRECT || d.verdict == VERDICT_VIA ||
		d.reason == REASON_LOCAL_SUBNET);
}

/*
 * Sees to it that a packet for Tor gets to tor, and to nobody else, or decides otherwise. What
 * begins nothing and is of no connection of tor's may be a reply to one from outside, of
 * which conntrack knows; or tor has forgotten it, and then its sender is told so. A connection
 * that tor has stays there, though its destination is excluded since.
 */
static __always_inline struct decision hand_over(struct __sk_buff *skb, const struct packet *p,
						 const struct settings *s, struct decision d,
						 __u32 instance)
{
	int for_tor = d.verdict == VERDICT_TOR || d.verdict == VERDICT_ONION;
	enum owner owner;

	if (!for_tor && !may_be_tors(p, d))
		return d;
	/* What was sent to all of a link, TCP takes for nothing: it finds no socket, and gets none.
	 */
	if (for_tor && skb->pkt_type != PACKET_HOST)
		return decide(VERDICT_PENDING, REASON_NO_CONNECTION);
	owner = find_owner(skb, p);
	if (!for_tor)
		return owner == OWNER_TOR ? decide(VERDICT_TOR, REASON_TCP) : d;
	if (owner == OWNER_STRANGER)
		return decide(VERDICT_REFUSED, REASON_STRANGER);
	if (owner == OWNER_TOR || (owner == OWNER_ENDED && !tcp_begins(p)))
		return d;
	if (!tcp_begins(p) && !returns_cookie(skb, p, instance))
		return decide(VERDICT_PENDING, REASON_NO_CONNECTION);
	/* tor would answer this machine, which knows of nothing, and say so to the site. */
	if (from_router(p, s))
		return decide(VERDICT_REFUSED, REASON_FOREIGN_SOURCE);
	if (hand_to_listener(skb, p, instance))
		return d;
	return decide(VERDICT_REFUSED, REASON_TOR_NOT_READY);
}

#endif
