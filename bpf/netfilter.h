/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the programs at netfilter's hooks (guards.bpf.c) have in common: what they see of
 * the kernel, how they read a packet, and how they drop one.
 */
#ifndef TORBPF_NETFILTER_H
#define TORBPF_NETFILTER_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netfilter.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "packet.h"
#include "shared.h"
#include "words.h"

#define IFNAMSIZ 16

/* The name of an interface, with zeros behind it: a key of lan_names. */
struct interface_name {
	__u64 words[IFNAMSIZ / 8];
};

/* Which of 64 bits is a name's; loader/forward.go has the same. */
static __always_inline __u32 name_bit(const struct interface_name *name)
{
	return (name->words[0] ^ name->words[1]) * PLACE_FACTOR >> 58;
}

/* The kernel's own, as far as we read them; the loader finds the offsets. */
struct net_device {
	char name[IFNAMSIZ];
	int ifindex;
} __attribute__((preserve_access_index));

struct nf_hook_state {
	struct net_device *in;
	struct net_device *out;
} __attribute__((preserve_access_index));

struct sock_common {
	volatile unsigned char skc_state;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
	__u32 sk_mark;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct sock *sk;
	__u32 len;
	__u32 mark;
	int skb_iif;
	unsigned long _nfct; /* absent from a kernel without conntrack */
} __attribute__((preserve_access_index));

struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
} __attribute__((preserve_access_index));

extern int bpf_dynptr_from_skb(struct __sk_buff *skb, __u64 flags, struct bpf_dynptr *ptr) __ksym;

enum reading {
	READING_DONE,
	READING_NOTHING, /* cut off, or a later fragment: harmless by itself */
	READING_HIDDEN,	 /* behind more extension headers than anyone needs */
};

static __always_inline int read_header4(const struct bpf_dynptr *data, __u32 at, struct packet *p)
{
	struct iphdr ip;

	if (bpf_dynptr_read(&ip, sizeof(ip), data, at, 0))
		return -1;
	p->layer3 = LAYER3_IPV4;
	set_ipv4(&p->saddr, ip.saddr);
	set_ipv4(&p->daddr, ip.daddr);
	p->protocol = ip.protocol;
	p->hop_limit = ip.ttl;
	p->l4_offset = at + ip.ihl * 4;
	p->fragment = ipv4_fragment(ip.frag_off);
	return 0;
}

static __always_inline int read_header6(const struct bpf_dynptr *data, __u32 at, struct packet *p)
{
	struct ipv6hdr ip;

	if (bpf_dynptr_read(&ip, sizeof(ip), data, at, 0))
		return -1;
	p->layer3 = LAYER3_IPV6;
	__builtin_memcpy(&p->daddr, &ip.daddr, sizeof(p->daddr));
	__builtin_memcpy(&p->saddr, &ip.saddr, sizeof(p->saddr));
	p->protocol = ip.nexthdr;
	p->hop_limit = ip.hop_limit;
	p->l4_offset = at + sizeof(ip);
	return 0;
}

/* Fragments have been put together before what is delivered is looked at. */
static __always_inline enum reading read_ipv4(const struct bpf_dynptr *data, struct packet *p)
{
	return read_header4(data, 0, p) ? READING_NOTHING : READING_DONE;
}

/* Those of IPv6 may still be on their own; the first one shows the ports. */
static __always_inline enum reading read_ipv6(const struct bpf_dynptr *data, struct packet *p)
{
	__u8 header[4];
	int i;

	if (read_header6(data, 0, p))
		return READING_NOTHING;
	for (i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		if (!is_extension(p->protocol))
			return READING_DONE;
		if (bpf_dynptr_read(header, sizeof(header), data, p->l4_offset, 0))
			return READING_NOTHING;
		if (p->protocol == IPPROTO_FRAGMENT && (header[2] || header[3] & 0xf8))
			return READING_NOTHING;
		p->l4_offset += p->protocol == IPPROTO_FRAGMENT ? 8 : (header[1] + 1) * 8;
		p->protocol = header[0];
	}
	return READING_HIDDEN;
}

/* Of what carries no ports, or is cut off before them, they are 0. */
static __always_inline enum reading read_packet(const struct bpf_dynptr *data, struct packet *p)
{
	struct ports ports = {};
	enum reading reading;
	__u8 version = 0;

	bpf_dynptr_read(&version, sizeof(version), data, 0, 0);
	reading = version >> 4 == 4 ? read_ipv4(data, p) : read_ipv6(data, p);
	if (reading != READING_DONE)
		return reading;
	if (p->protocol == IPPROTO_ICMPV6)
		bpf_dynptr_read(&p->icmp_type, sizeof(p->icmp_type), data, p->l4_offset, 0);
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return READING_DONE;
	bpf_dynptr_read(&ports, sizeof(ports), data, p->l4_offset, 0);
	p->sport_be = ports.source_be;
	p->dport_be = ports.destination_be;
	return READING_DONE;
}

/* As drop() of verdict.h; every drop here goes through it. */
static __always_inline int drop(const struct sk_buff *skb, __u32 ifindex, const struct packet *p,
				enum reason reason)
{
	count(ifindex, VERDICT_REFUSED, reason, 1, 0);
	if (reason != REASON_CUT_PEER && may_tell(p))
		report(ifindex, skb->len, p, reason);
	return NF_DROP;
}

#endif
