/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Client mode: what the router itself sends may leave if somebody has let it go: its
 * socket's mark (client.bpf.c) or nftables. This is the layer behind nftables, and
 * all there is once that was flushed.
 */
#ifndef TORBPF_OWN_H
#define TORBPF_OWN_H

#include <stddef.h>

#include "identity.h"
#include "link.h"
#include "match.h"
#include "parse.h"
#include "plan.h"
#include "socket.h"

/* A byte of what follows the network header; 0 where there is none. */
static __always_inline __u8 layer4_byte(struct __sk_buff *skb, const struct packet *p, __u32 offset)
{
	__u8 byte = 0;

	if (load_leaving(skb, p, p->l4_offset + offset, &byte, sizeof(byte)))
		return 0;
	return byte;
}

/* Of ICMPv6; groups are joined and left behind one hop-by-hop header (RFC 2710, 3). */
static __always_inline __u8 icmpv6_type(struct __sk_buff *skb, const struct packet *p)
{
	if (p->protocol == IPPROTO_ICMPV6)
		return layer4_byte(skb, p, 0);
	if (p->protocol != IPPROTO_HOPOPTS || layer4_byte(skb, p, 0) != IPPROTO_ICMPV6)
		return 0;
	return layer4_byte(skb, p, (layer4_byte(skb, p, 1) + 1) * 8);
}

/*
 * It answers somebody outside; what follows it has a class by its socket or conntrack.
 * What somebody has made up, and sends by a raw or a packet socket, is no answer.
 */
static __always_inline int answers_opening(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock *sk = skb->sk;

	return p->protocol == IPPROTO_TCP && p->fragment != FRAGMENT_LATER &&
	       is_syn_ack(layer4_byte(skb, p, TCP_FLAGS_OFFSET)) &&
	       (!sk || is_being_opened(sk->state));
}

/* Whether an interface is one that the router's own packets may leave by. */
static __always_inline int own_exit(__u32 ifindex)
{
	return rule_in_force(&own_exits, &ifindex);
}

/*
 * Whether a packet is what the kernel's own socket sends for others: for a connection that
 * is closed, with the mark of that. A raw socket of anybody's looks the same, so a last word is
 * all that may be: it begins nothing, and has no data.
 */
static __always_inline int answers_for_others(struct __sk_buff *skb, const struct bpf_sock *sk,
					      const struct packet *p)
{
	__u8 flags = layer4_byte(skb, p, TCP_FLAGS_OFFSET);
	__u32 header = (layer4_byte(skb, p, TCP_LENGTH_OFFSET) >> 4) * 4;

	return sk->type == SOCK_RAW && sk->protocol == IPPROTO_TCP && p->protocol == IPPROTO_TCP &&
	       p->fragment == FRAGMENT_NONE && !(flags & TCP_SYN) && flags & (TCP_ACK | TCP_RST) &&
	       skb->len == p->l4_offset + header;
}

/*
 * Whether the rule by which a packet's socket is direct lets it out still: the mark stays
 * when that has ended, and nobody may be there to take it back. A class that is not the
 * socket's is by nftables, which looks at each packet.
 */
static __always_inline int still_direct(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock *sk = skb->sk;
	struct identity *who;

	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk || mark_class(sk->mark) != VERDICT_DIRECT)
		return 1;
	who = bpf_sk_storage_get(&client_sockets, sk, NULL, 0);
	if (!who)
		return answers_for_others(skb, sk, p);
	return identity_policy(who) == POLICY_DIRECT;
}

/* Whether its class lets a packet of the router's own leave by an uplink. */
static __always_inline int class_leaves(struct __sk_buff *skb, const struct packet *p,
					const struct settings *s)
{
	switch (mark_class(skb->mark)) {
	case VERDICT_DIRECT:
		return still_direct(skb, p);
	case VERDICT_INBOUND:
		return 1;
	case VERDICT_LOCAL:
		return near_destination(p);
	case VERDICT_VIA:
		return own_exit(skb->ifindex);
	case VERDICT_NONE:
		return s->own_marks && matches_mark(&own_marks, skb->mark, s->own_marks);
	default:
		return 0;
	}
}

/*
 * Whether a packet is what the stack takes it for. Who sends by a packet socket says so
 * himself, and may call anything ARP. Without an Ethernet header whoever receives it goes
 * by its first bits, which ARP has none of IP's in.
 */
static __always_inline int says_what_it_is(struct __sk_buff *skb, const struct packet *p)
{
	__be16 protocol_be = 0;
	__u8 first = 0;

	if (p->ethernet)
		return !load_leaving(skb, p, offsetof(struct ethhdr, h_proto), &protocol_be,
				     sizeof(protocol_be)) &&
		       protocol_be == skb->protocol;
	return is_ip(skb->protocol) || (!load_leaving(skb, p, 0, &first, sizeof(first)) &&
					first >> 4 != 4 && first >> 4 != 6);
}

static __always_inline int of_packet_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk && sk->family == AF_PACKET;
}

/*
 * What is not IP, and keeps a machine on its network: ARP, the log-in to a wired or a
 * wireless network (EAPOL), what a switch goes by to give power or a VLAN (LLDP), none of
 * which gets beyond the link, and PPPoE beneath an uplink. The sessions of that are the
 * kernel's: what they hold was judged at the interface above, but for what somebody makes up.
 * Anything else may hold IP, as MPLS does and a tag: one of id 0 says nothing to who receives it.
 */
static __always_inline int keeps_link(struct __sk_buff *skb, const struct packet *p)
{
	switch (bpf_ntohs(skb->protocol)) {
	case ETH_P_ARP:
		return 1;
	case ETH_P_PAE:
	case ETH_P_LLDP:
	case ETH_P_PPP_DISC:
		return p->ethernet;
	case ETH_P_PPP_SES:
		return p->ethernet && !of_packet_socket(skb);
	default:
		return 0;
	}
}

/*
 * Whether a packet has lost the class of a socket whose all is Tor's: a rule of the user's has
 * written another mark, or that of the connection. In a tunnel the class is the tunnel's.
 */
static __always_inline int lost_tor(struct __sk_buff *skb, enum verdict class)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk || (class != VERDICT_NONE && class != VERDICT_INBOUND))
		return 0;
	sk = bpf_sk_fullsock(sk);
	return sk && mark_class(sk->mark) == VERDICT_TOR;
}

/*
 * Whether what the router itself sends may leave by an uplink in client mode. IP that
 * cannot be read is not let go. The tag of a VLAN device's packet is not yet a part of it
 * here.
 */
static __always_inline int own_leaves(struct __sk_buff *skb, struct packet *p,
				      const struct settings *s)
{
	enum verdict class = mark_class(skb->mark);

	if (class & VERDICT_BLOCKED_BIT || lost_tor(skb, class))
		return 0;
	if (s->client == CLIENT_EXEC && (class == VERDICT_NONE || class == VERDICT_DIRECT))
		return 1;
	if (!says_what_it_is(skb, p))
		return 0;
	if (p->layer3 == LAYER3_OTHER)
		return keeps_link(skb, p);
	if (onion_destination(p, s))
		return 0;
	if (class_leaves(skb, p, s) || answers_opening(skb, p))
		return 1;
	p->icmp_type = icmpv6_type(skb, p);
	return keeps_network(p, skb->ifindex);
}

/*
 * Whether a look-up is of a connection to Tor's port while Tor takes none. What LANs
 * begin has been refused before; the router's own connections come by the loopback
 * interface, and the kernel resets what it finds no socket for.
 */
static __always_inline int shut_off(const struct bpf_sk_lookup *ctx, const struct settings *s)
{
	if (READ_CONTEXT(ctx->local_port) != own_trans_port() ||
	    READ_CONTEXT(ctx->protocol) != IPPROTO_TCP || !s || !s->client)
		return 0;
	return !gate_is_open(OWN_INSTANCE);
}

#endif
