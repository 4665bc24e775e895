/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Guards at netfilter's hooks, for kernels from 6.4 on that have BTF. They are attached to one
 * network namespace, see what no look-up shows, and outlive `nft flush ruleset`.
 *
 * torbpf_forward: what may not be forwarded is not, by whichever interface it came or would
 * go. On older kernels ip rules do that, for which every packet pays more.
 *
 * torbpf_delivery, a second guard of local delivery. The kernel hands broadcast and multicast
 * datagrams to sockets without the look-up at which torbpf_dns stands guard, so with the tc
 * program and nftables both gone a device could make the router's resolver ask its upstream in
 * clear by asking a broadcast address. With both of them gone it also keeps the router from
 * answering a source that no LAN has: the answer would go out by the WAN, with what the device
 * sent. And it holds what a class promises: what is to be redirected to Tor arrives at Tor's
 * ports or nowhere. Otherwise, with our own redirect gone, a rule of the user's that redirects
 * DNS elsewhere would take it. Of what comes from outside it stops the far ends of connections
 * that were cut.
 *
 * torbpf_reports, where TCP is handed to tor without NAT: the third guard of what the kernel says
 * of that to sites.
 *
 * torbpf_departure, in client mode: the third guard of what the router itself sends, with
 * torbpf_uplink and nftables both gone: what has no class stays here. It goes by the class and
 * not by uplinks, so one that has just appeared is no way out either.
 */
#include "lan_names.h"
#include "leaving.h"
#include "link.h"
#include "netfilter.h"
#include "outlets.h"
#include "plan.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* How many entries of own_marks and of exempt_marks are in use. */
const volatile __u32 own_mark_count = 0;
const volatile __u32 exempt_mark_count = 0;

/*
 * Whether a packet has come to where its mark sends it: to a tor, which need not be the one
 * that its device uses by now, as connections stay where they began.
 */
static __always_inline int diverted(const struct packet *p, __u32 mark)
{
	__u16 port = bpf_ntohs(p->dport_be);
	enum verdict class = mark_class(mark);

	if ((p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP) || !port ||
	    mark_instance(mark) >= instances)
		return 0;
	if (class == VERDICT_TIME)
		return p->protocol == IPPROTO_UDP && port == PORT_NTP;
	if (port == resolver_port)
		return 1;
	return p->protocol == IPPROTO_TCP ? is_port_of(trans_ports, port)
					  : is_port_of(dns_ports, port);
}

static __always_inline int for_tor(enum verdict class)
{
	return (class & VERDICT_TOR_BITS) == VERDICT_TOR;
}

/*
 * Whether a packet has a socket of tor's already, one that listens or has its connection. Those in
 * the states left out are no more than their beginnings, and have no mark.
 */
static __always_inline int has_tors_socket(const struct sk_buff *skb)
{
	struct sock *sk = skb->sk;

	return sk && sk->__sk_common.skc_state != BPF_TCP_TIME_WAIT &&
	       sk->__sk_common.skc_state != BPF_TCP_NEW_SYN_RECV &&
	       mark_class(sk->sk_mark) == VERDICT_TOR;
}

/*
 * Whether a packet that is Tor's has been handed to tor without NAT (handover.h). What begins
 * a connection has a socket of tor's with it, or whoever listens at that port would take
 * it. Of what goes on the kernel may find the socket later, and nobody else has it; what is
 * over has none.
 */
static __always_inline int handed(const struct sk_buff *skb, const struct bpf_dynptr *data,
				  const struct packet *p)
{
	struct sock *sk = skb->sk;
	__u8 flags = 0;

	if (p->protocol != IPPROTO_TCP)
		return 0;
	if (sk && sk->__sk_common.skc_state == BPF_TCP_NEW_SYN_RECV)
		return 1;
	if (sk && sk->__sk_common.skc_state != BPF_TCP_TIME_WAIT)
		return 0;
	bpf_dynptr_read(&flags, sizeof(flags), data, p->l4_offset + TCP_FLAGS_OFFSET, 0);
	return (flags & (TCP_SYN | TCP_ACK)) != TCP_SYN;
}

/* Neighbour and router discovery are answered on the link, whatever the source. */
static __always_inline int answered_on_link(const struct packet *p)
{
	return p->protocol == IPPROTO_ICMPV6 && p->icmp_type >= 130 && p->icmp_type <= 137;
}

/*
 * Whether DNS by broadcast, or what hides whether it is that, is about to reach a
 * resolver of the router's. What shows no port has been cut off before it.
 */
static __always_inline int broadcast_dns(const struct packet *p, enum reading reading)
{
	if (reading == READING_NOTHING || !broadcast_destination(p))
		return 0;
	if (reading == READING_HIDDEN)
		return 1;
	return p->protocol == IPPROTO_UDP && (!p->dport_be || p->dport_be == bpf_htons(PORT_DNS));
}

/* What conntrack thinks of a packet, in the low bits beside its pointer. */
#define CT_INFO_MASK	     7
#define CT_ESTABLISHED	     0
#define CT_ESTABLISHED_REPLY 3

/* Whether a packet is of a connection that goes on, of Tor's above all. */
static __always_inline int goes_on(const struct sk_buff *skb)
{
	unsigned long ct;

	if (!bpf_core_field_exists(skb->_nfct))
		return 0;
	ct = skb->_nfct;
	if (!(ct & ~(unsigned long)CT_INFO_MASK))
		return 0;
	ct &= CT_INFO_MASK;
	return ct == CT_ESTABLISHED || ct == CT_ESTABLISHED_REPLY;
}

/*
 * What is of no LAN. The far end of a connection that was cut may go on talking: the
 * router would answer with a reset or an ICMP error. nftables drops it before, as
 * long as it knows; torbpf_uplink stops the answer, as long as it is attached.
 */
static __always_inline int guard_router(struct sk_buff *skb, __u32 ifindex)
{
	struct bpf_dynptr data;
	struct packet p = {};
	struct flow flow = {};

	if (goes_on(skb) || bpf_dynptr_from_skb((struct __sk_buff *)skb, 0, &data) ||
	    read_packet(&data, &p) != READING_DONE)
		return NF_ACCEPT;
	flow_from_peer(&flow, &p);
	return was_cut(&flow) ? drop(skb, ifindex, &p, REASON_CUT_PEER) : NF_ACCEPT;
}

SEC("netfilter")
int torbpf_delivery(struct bpf_nf_ctx *ctx)
{
	__u32 ifindex = ctx->state->in->ifindex;
	struct sk_buff *skb = ctx->skb;
	enum verdict class = mark_class(skb->mark);
	int handing, blocked = class & VERDICT_BLOCKED_BIT;
	struct packet p = {};
	struct bpf_dynptr data;
	enum reading reading;

	if (!blocked && !is_lan(ifindex))
		return guard_router(skb, ifindex);
	handing = tproxy && for_tor(class) && is_lan(ifindex);
	if (handing && has_tors_socket(skb))
		return NF_ACCEPT;
	if (bpf_dynptr_from_skb((struct __sk_buff *)skb, 0, &data))
		return drop(skb, ifindex, &p, REASON_DELIVERY_GUARD);
	reading = read_packet(&data, &p);
	if (class == VERDICT_NONE && foreign_source(&p) && !answered_on_link(&p))
		return drop(skb, ifindex, &p, REASON_DELIVERY_GUARD);
	if (blocked && (reading != READING_DONE ||
			!(diverted(&p, skb->mark) || (handing && handed(skb, &data, &p)))))
		return drop(skb, ifindex, &p, REASON_DELIVERY_GUARD);
	if (!blocked && broadcast_dns(&p, reading))
		return drop(skb, ifindex, &p, REASON_DNS_GUARD);
	return NF_ACCEPT;
}

/* As answers_opening() of own.h. */
static __always_inline int answers_opening(const struct sk_buff *skb, const struct bpf_dynptr *data,
					   const struct packet *p)
{
	struct sock *sk = skb->sk;
	__u8 flags = 0;

	if (p->protocol != IPPROTO_TCP || p->fragment == FRAGMENT_LATER)
		return 0;
	bpf_dynptr_read(&flags, sizeof(flags), data, p->l4_offset + TCP_FLAGS_OFFSET, 0);
	return is_syn_ack(flags) && (!sk || is_being_opened(sk->__sk_common.skc_state));
}

/* As lost_tor() of own.h. */
static __always_inline int lost_tor(const struct sk_buff *skb, enum verdict class)
{
	return (class == VERDICT_NONE || class == VERDICT_INBOUND) && has_tors_socket(skb);
}

/* Whether the class or the mark of a packet lets it leave, wherever it goes. */
static __always_inline int class_departs(const struct sk_buff *skb)
{
	switch (mark_class(skb->mark)) {
	case VERDICT_DIRECT:
	case VERDICT_INBOUND:
	case VERDICT_VIA:
		return 1;
	case VERDICT_NONE:
		return own_mark_count && matches_mark(&own_marks, skb->mark, own_mark_count);
	default:
		return 0;
	}
}

SEC("netfilter")
int torbpf_departure(struct bpf_nf_ctx *ctx)
{
	__u32 ifindex = ctx->state->out->ifindex;
	struct sk_buff *skb = ctx->skb;
	enum verdict class = mark_class(skb->mark);
	struct packet p = {};
	struct bpf_dynptr data;

	if (skb->skb_iif || ifindex == LOOPBACK_IFINDEX || is_lan(ifindex))
		return NF_ACCEPT;
	if (!lost_tor(skb, class) && class_departs(skb))
		return NF_ACCEPT;
	if (bpf_dynptr_from_skb((struct __sk_buff *)skb, 0, &data))
		return drop(skb, ifindex, &p, REASON_CLIENT_GUARD);
	read_leaving(&data, &p);
	if (class & VERDICT_BLOCKED_BIT || lost_tor(skb, class) || p.layer3 == LAYER3_OTHER)
		return drop(skb, ifindex, &p, REASON_CLIENT_GUARD);
	if ((class == VERDICT_LOCAL && near_destination(&p)) || keeps_network(&p, ifindex) ||
	    answers_opening(skb, &data, &p))
		return NF_ACCEPT;
	return drop(skb, ifindex, &p, REASON_CLIENT_GUARD);
}

/*
 * Whether a packet may be forwarded. A local one by which interface is for nftables and the
 * uplink guard to say, which know the subnets.
 */
static __always_inline int may_be_forwarded(const struct bpf_nf_ctx *ctx, enum verdict class)
{
	const struct net_device *in = ctx->state->in;
	__u32 mark = ctx->skb->mark;

	switch (class) {
	case VERDICT_DIRECT:
	case VERDICT_INBOUND:
	case VERDICT_LOCAL:
		return 1;
	case VERDICT_VIA:
		return is_exit(ctx->state->out->ifindex);
	case VERDICT_NONE:
		return (!is_lan(in->ifindex) && !has_lan_name(in)) ||
		       (exempt_mark_count && exempt_mark(mark, exempt_mark_count));
	default:
		return 0;
	}
}

/* Everything that is forwarded, behind all chains of nftables. */
SEC("netfilter")
int torbpf_forward(struct bpf_nf_ctx *ctx)
{
	struct sk_buff *skb = ctx->skb;
	struct packet p = {};
	struct bpf_dynptr data;

	if (may_be_forwarded(ctx, mark_class(skb->mark)))
		return NF_ACCEPT;
	if (!bpf_dynptr_from_skb((struct __sk_buff *)skb, 0, &data))
		read_leaving(&data, &p);
	return drop(skb, ctx->state->in->ifindex, &p, REASON_FORWARD_GUARD);
}

/* As reports_device() of uplink.h, for while torbpf_uplink and nftables are both gone. */
SEC("netfilter")
int torbpf_reports(struct bpf_nf_ctx *ctx)
{
	__u32 ifindex = ctx->state->out->ifindex;
	struct packet p = {}, quoted = {};
	struct sk_buff *skb = ctx->skb;
	struct bpf_dynptr data;
	__u8 version = 0;
	__u32 at;

	if (skb->skb_iif || ifindex == LOOPBACK_IFINDEX || is_lan(ifindex) ||
	    bpf_dynptr_from_skb((struct __sk_buff *)skb, 0, &data))
		return NF_ACCEPT;
	bpf_dynptr_read(&version, sizeof(version), &data, 0, 0);
	if (version >> 4 == 4 ? read_header4(&data, 0, &p) : read_header6(&data, 0, &p))
		return NF_ACCEPT;
	if (!is_icmp_error(&data, &p))
		return NF_ACCEPT;
	at = p.l4_offset + ICMP_HEADER_BYTES;
	if (p.layer3 == LAYER3_IPV4 ? read_header4(&data, at, &quoted)
				    : read_header6(&data, at, &quoted))
		return NF_ACCEPT;
	if (quoted.protocol != IPPROTO_TCP || !of_lan(&quoted, &quoted.daddr))
		return NF_ACCEPT;
	return drop(skb, ifindex, &p, REASON_DELIVERY_GUARD);
}
