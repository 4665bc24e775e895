/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * A second guard of local delivery, for kernels from 6.4 on that have BTF. The
 * kernel hands broadcast and multicast datagrams to sockets without the look-up
 * at which torbpf_dns stands guard, so with the tc program and nftables both
 * gone a device could make the router's resolver ask its upstream in clear by
 * asking a broadcast address. This program sees every delivered packet, is
 * attached to one network namespace, and outlives `nft flush ruleset`.
 *
 * With both of them gone it also keeps the router from answering a source that
 * no LAN has: the answer would go out by the WAN, with what the device sent.
 *
 * And it holds what a class promises: what is to be redirected to Tor arrives
 * at Tor's ports or nowhere. Otherwise, with our own redirect gone, a rule of
 * the user's that redirects DNS elsewhere would take it.
 *
 * Of what comes from outside it stops the far ends of connections that were cut.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netfilter.h>
#include <stddef.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "packet.h"
#include "plan.h"
#include "shared.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* The kernel's own, as far as we read them; the loader finds the offsets. */
struct net_device {
	int ifindex;
} __attribute__((preserve_access_index));

struct nf_hook_state {
	struct net_device *in;
} __attribute__((preserve_access_index));

struct sk_buff {
	__u32 mark;
	unsigned long _nfct; /* absent from a kernel without conntrack */
} __attribute__((preserve_access_index));

struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
} __attribute__((preserve_access_index));

extern int bpf_dynptr_from_skb(struct __sk_buff *skb, __u64 flags, struct bpf_dynptr *ptr) __ksym;

struct datagram {
	union inet_address saddr;
	union inet_address daddr;
	__u32 offset; /* of its ports */
	__u8 protocol;
};

enum reading {
	READING_DONE,
	READING_NOTHING, /* cut off, or a later fragment: harmless by itself */
	READING_HIDDEN,	 /* behind more extension headers than anyone needs */
};

static __always_inline enum reading read_ipv4(const struct bpf_dynptr *data, struct datagram *d)
{
	struct iphdr ip;

	if (bpf_dynptr_read(&ip, sizeof(ip), data, 0, 0))
		return READING_NOTHING;
	set_ipv4(&d->saddr, ip.saddr);
	set_ipv4(&d->daddr, ip.daddr);
	d->protocol = ip.protocol;
	d->offset = ip.ihl * 4;
	return READING_DONE; /* fragments have been put together before this hook */
}

/* Fragments may still be on their own; the first one shows the ports. */
static __always_inline enum reading read_ipv6(const struct bpf_dynptr *data, struct datagram *d)
{
	struct ipv6hdr ip;
	__u8 header[4];
	int i;

	if (bpf_dynptr_read(&ip, sizeof(ip), data, 0, 0))
		return READING_NOTHING;
	__builtin_memcpy(&d->daddr, &ip.daddr, sizeof(d->daddr));
	__builtin_memcpy(&d->saddr, &ip.saddr, sizeof(d->saddr));
	d->protocol = ip.nexthdr;
	d->offset = sizeof(ip);
	for (i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		if (d->protocol != IPPROTO_HOPOPTS && d->protocol != IPPROTO_DSTOPTS &&
		    d->protocol != IPPROTO_ROUTING && d->protocol != IPPROTO_FRAGMENT)
			return READING_DONE;
		if (bpf_dynptr_read(header, sizeof(header), data, d->offset, 0))
			return READING_NOTHING;
		if (d->protocol == IPPROTO_FRAGMENT && (header[2] || header[3] & 0xf8))
			return READING_NOTHING;
		d->offset += d->protocol == IPPROTO_FRAGMENT ? 8 : (header[1] + 1) * 8;
		d->protocol = header[0];
	}
	return READING_HIDDEN;
}

/* Whether more than one host takes it in; 0.0.0.0 counts as a broadcast. */
static __always_inline int for_many(const struct datagram *d, int ipv4)
{
	const __u8 *a = d->daddr.key.addr;
	__u8 *kind;

	if (!ipv4)
		return a[0] == 0xff;
	if (a[12] >= 224 || !d->daddr.word_be[3])
		return 1;
	kind = bpf_map_lookup_elem(&local_addrs, &d->daddr.key);
	return kind && *kind == LOCAL_ADDR_BROADCAST;
}

/* As drop() of verdict.h; every drop here goes through it. */
static __always_inline int drop(__u32 ifindex, enum reason reason)
{
	count(ifindex, VERDICT_REFUSED, reason, 1, 0);
	return NF_DROP;
}

/* Whether a packet has come to where its class sends it. */
static __always_inline int diverted(const struct bpf_dynptr *data, const struct datagram *d,
				    enum verdict class)
{
	struct ports ports;
	__u16 port;

	if (d->protocol != IPPROTO_TCP && d->protocol != IPPROTO_UDP)
		return 0;
	if (bpf_dynptr_read(&ports, sizeof(ports), data, d->offset, 0))
		return 0;
	port = bpf_ntohs(ports.destination_be);
	if (class == VERDICT_TIME)
		return d->protocol == IPPROTO_UDP && port == PORT_NTP;
	return port == resolver_port ||
	       port == (d->protocol == IPPROTO_TCP ? trans_port : dns_port);
}

/* Sources that are answered on the link only, or are martians to the kernel. */
static __always_inline int link_source(const union inet_address *source, int ipv4)
{
	if (ipv4)
		return !source->word_be[3];
	return (bpf_ntohl(source->word_be[0]) & 0xffc00000) == 0xfe800000;
}

/* Whether no LAN has the source; see match.h. */
static __always_inline int foreign_source(const struct datagram *d, int ipv4)
{
	struct prefix4 key4 = {.prefixlen = 32, .addr_be = d->saddr.word_be[3]};
	struct prefix6 key6 = {.prefixlen = 128};
	struct local_subnet *subnet;
	__u32 ifindex;

	if (link_source(&d->saddr, ipv4))
		return 0;
	__builtin_memcpy(key6.addr, &d->saddr, sizeof(key6.addr));
	subnet = ipv4 ? bpf_map_lookup_elem(&local4_prefixes, &key4)
		      : bpf_map_lookup_elem(&local6_prefixes, &key6);
	if (!subnet || !subnet->ifindex)
		return 1;
	ifindex = subnet->ifindex;
	return !bpf_map_lookup_elem(&lans, &ifindex);
}

/* Neighbour and router discovery are answered on the link, whatever the source. */
static __always_inline int delivers_housekeeping(const struct bpf_dynptr *data,
						 const struct datagram *d)
{
	__u8 type;

	if (d->protocol != IPPROTO_ICMPV6 ||
	    bpf_dynptr_read(&type, sizeof(type), data, d->offset, 0))
		return 0;
	return type >= 130 && type <= 137;
}

static __always_inline int guard_broadcast(const struct bpf_dynptr *data, const struct datagram *d,
					   enum reading reading, int ipv4, __u32 ifindex)
{
	struct ports ports;

	if (reading == READING_NOTHING || !for_many(d, ipv4))
		return NF_ACCEPT;
	if (reading == READING_HIDDEN)
		return drop(ifindex, REASON_DNS_GUARD);
	if (d->protocol != IPPROTO_UDP)
		return NF_ACCEPT;
	if (bpf_dynptr_read(&ports, sizeof(ports), data, d->offset, 0))
		return drop(ifindex, REASON_DNS_GUARD);
	if (ports.destination_be != bpf_htons(PORT_DNS))
		return NF_ACCEPT;
	return drop(ifindex, REASON_DNS_GUARD);
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
 * Whether the far end of a connection that was cut goes on talking: the router would
 * answer with a reset or an ICMP error. nftables drops it before, as long as it
 * knows; torbpf_uplink stops the answer, as long as it is attached.
 */
static __always_inline int guard_others(struct sk_buff *skb, __u32 ifindex)
{
	struct bpf_dynptr data;
	struct datagram d = {};
	struct flow flow = {};
	struct ports ports;
	__u8 version;

	if (goes_on(skb) || bpf_dynptr_from_skb((struct __sk_buff *)skb, 0, &data) ||
	    bpf_dynptr_read(&version, sizeof(version), &data, 0, 0))
		return NF_ACCEPT;
	if ((version >> 4 == 4 ? read_ipv4(&data, &d) : read_ipv6(&data, &d)) != READING_DONE ||
	    bpf_dynptr_read(&ports, sizeof(ports), &data, d.offset, 0))
		return NF_ACCEPT;
	__builtin_memcpy(flow.near_addr, &d.daddr, sizeof(flow.near_addr));
	__builtin_memcpy(flow.peer_addr, &d.saddr, sizeof(flow.peer_addr));
	flow.near_port_be = ports.destination_be;
	flow.peer_port_be = ports.source_be;
	flow.protocol = d.protocol;
	return was_cut(&flow) ? drop(ifindex, REASON_CUT_PEER) : NF_ACCEPT;
}

SEC("netfilter")
int torbpf_delivery(struct bpf_nf_ctx *ctx)
{
	__u32 ifindex = ctx->state->in->ifindex;
	struct sk_buff *skb = ctx->skb;
	enum verdict class = (enum verdict)(skb->mark >> mark_shift & CLASS_BITS);
	int blocked = class & VERDICT_BLOCKED_BIT;
	struct datagram d = {};
	struct bpf_dynptr data;
	__u8 version;
	enum reading reading;

	if (!blocked && !bpf_map_lookup_elem(&lans, &ifindex))
		return guard_others(skb, ifindex);
	if (bpf_dynptr_from_skb((struct __sk_buff *)skb, 0, &data) ||
	    bpf_dynptr_read(&version, sizeof(version), &data, 0, 0))
		return drop(ifindex, REASON_DELIVERY_GUARD);
	reading = version >> 4 == 4 ? read_ipv4(&data, &d) : read_ipv6(&data, &d);
	if (class == VERDICT_NONE && foreign_source(&d, version >> 4 == 4) &&
	    !delivers_housekeeping(&data, &d))
		return drop(ifindex, REASON_DELIVERY_GUARD);
	if (!blocked)
		return guard_broadcast(&data, &d, reading, version >> 4 == 4, ifindex);
	if (reading == READING_DONE && diverted(&data, &d, class))
		return NF_ACCEPT;
	return drop(ifindex, REASON_DELIVERY_GUARD);
}
