/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Answers to refused packets, so that a client falls back at once instead of
 * timing out: a TCP reset, an ICMP unreachable, a DNS failure. The kernel's
 * own reject cannot do it: its ICMP errors are limited to about one a second
 * for each peer. A packet is rewritten in place into its answer.
 */
#ifndef TORBPF_ANSWER_H
#define TORBPF_ANSWER_H

#include <linux/if_packet.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "dns_answer.h"
#include "maps.h"
#include "parse.h"

#define ANSWER_TTL  64
#define ICMP_QUOTE4 (sizeof(struct iphdr) + 8) /* RFC 792: header and 8 bytes */
#define ICMP_QUOTE6 (sizeof(struct ipv6hdr) + 8)

/* An ICMP or ICMPv6 error; what it quotes follows. */
struct icmp_error {
	__u8 type;
	__u8 code;
	__be16 checksum_be;
	__be32 unused;
};

struct reset4 {
	struct iphdr ip;
	struct tcphdr tcp;
};

struct reset6 {
	struct ipv6hdr ip;
	struct tcphdr tcp;
};

struct unreachable4 {
	struct iphdr ip;
	struct icmp_error icmp;
};

struct unreachable6 {
	struct ipv6hdr ip;
	struct icmp_error icmp;
};

/* What the checksums of TCP and ICMPv6 cover beside their own bytes. */
struct pseudo_header {
	union inet_address saddr;
	union inet_address daddr;
	__be32 length_be;
	__be32 protocol_be;
};

static __always_inline __u16 fold_checksum(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~sum;
}

static __always_inline __u32 sum_pseudo_header(const union inet_address *saddr,
					       const union inet_address *daddr, __u32 length,
					       __u8 protocol)
{
	struct pseudo_header pseudo = {
		.saddr = *saddr,
		.daddr = *daddr,
		.length_be = bpf_htonl(length),
		.protocol_be = bpf_htonl(protocol),
	};

	return bpf_csum_diff(NULL, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
}

/* An IPv4 pseudo header: the ::ffff of the mapped form would spoil the sum. */
static __always_inline __u32 sum_pseudo_header4(const struct packet *p, __u32 length, __u8 protocol)
{
	union inet_address saddr = {.word_be = {0, 0, 0, p->daddr.word_be[3]}};
	union inet_address daddr = {.word_be = {0, 0, 0, p->saddr.word_be[3]}};

	return sum_pseudo_header(&saddr, &daddr, length, protocol);
}

static __always_inline void fill_ipv4(struct iphdr *ip, __be32 saddr_be, __be32 daddr_be,
				      __u16 length, __u8 protocol)
{
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(length);
	ip->frag_off = bpf_htons(0x4000); /* do not fragment */
	ip->ttl = ANSWER_TTL;
	ip->protocol = protocol;
	ip->saddr = saddr_be;
	ip->daddr = daddr_be;
	ip->check = fold_checksum(bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0));
}

static __always_inline void fill_ipv6(struct ipv6hdr *ip, const union inet_address *saddr,
				      const union inet_address *daddr, __u16 length, __u8 protocol)
{
	ip->version = 6;
	ip->payload_len = bpf_htons(length);
	ip->nexthdr = protocol;
	ip->hop_limit = ANSWER_TTL;
	__builtin_memcpy(&ip->saddr, saddr, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, daddr, sizeof(ip->daddr));
}

/* Sends the frame back to whoever sent it. */
static __always_inline int swap_ethernet(struct __sk_buff *skb, int ethernet)
{
	struct ethhdr eth;
	__u8 source[ETH_ALEN];

	if (!ethernet)
		return 1;
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return 0;
	/* A group is nobody's to answer for, nor one to be answered. */
	if ((eth.h_dest[0] | eth.h_source[0]) & 1)
		return 0;
	__builtin_memcpy(source, eth.h_source, ETH_ALEN);
	__builtin_memcpy(eth.h_source, eth.h_dest, ETH_ALEN);
	__builtin_memcpy(eth.h_dest, source, ETH_ALEN);
	return !bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0);
}

/*
 * RFC 9293, 3.10.7.1: a segment with an ACK is reset at the sequence number
 * it acknowledges; another one is acknowledged as far as it reaches.
 */
static __always_inline int fill_reset(struct __sk_buff *skb, const struct packet *p,
				      struct tcphdr *reset)
{
	struct tcphdr tcp;
	__u32 length;

	if (bpf_skb_load_bytes(skb, p->l4_offset, &tcp, sizeof(tcp)))
		return 0;
	if (tcp.rst)
		return 0;
	reset->source = tcp.dest;
	reset->dest = tcp.source;
	reset->doff = sizeof(*reset) / 4;
	reset->rst = 1;
	if (tcp.ack) {
		reset->seq = tcp.ack_seq;
		return 1;
	}
	length = p->l3_offset + p->length - p->l4_offset - tcp.doff * 4 + tcp.syn + tcp.fin;
	reset->ack_seq = bpf_htonl(bpf_ntohl(tcp.seq) + length);
	reset->ack = 1;
	return 1;
}

static __always_inline int answer_reset4(struct __sk_buff *skb, const struct packet *p)
{
	struct reset4 r = {};
	__u32 sum;

	if (!fill_reset(skb, p, &r.tcp))
		return 0;
	fill_ipv4(&r.ip, p->daddr.word_be[3], p->saddr.word_be[3], sizeof(r), IPPROTO_TCP);
	sum = sum_pseudo_header4(p, sizeof(r.tcp), IPPROTO_TCP);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&r.tcp, sizeof(r.tcp), sum);
	r.tcp.check = fold_checksum(sum);
	if (bpf_skb_change_tail(skb, p->l3_offset + sizeof(r), 0))
		return 0;
	return !bpf_skb_store_bytes(skb, p->l3_offset, &r, sizeof(r), 0);
}

static __always_inline int answer_reset6(struct __sk_buff *skb, const struct packet *p)
{
	struct reset6 r = {};
	__u32 sum;

	if (!fill_reset(skb, p, &r.tcp))
		return 0;
	fill_ipv6(&r.ip, &p->daddr, &p->saddr, sizeof(r.tcp), IPPROTO_TCP);
	sum = sum_pseudo_header(&p->daddr, &p->saddr, sizeof(r.tcp), IPPROTO_TCP);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&r.tcp, sizeof(r.tcp), sum);
	r.tcp.check = fold_checksum(sum);
	if (bpf_skb_change_tail(skb, p->l3_offset + sizeof(r), 0))
		return 0;
	return !bpf_skb_store_bytes(skb, p->l3_offset, &r, sizeof(r), 0);
}

/*
 * UDP is told "port unreachable", from the destination itself, which every
 * stack hands to the application at once; all else "administratively
 * prohibited", from the router.
 */
static __always_inline void router_address4(const struct packet *p, __be32 *addr_be)
{
	__u32 ifindex = p->ifindex;
	struct lan *lan = bpf_map_lookup_elem(&lans, &ifindex);

	*addr_be = p->daddr.word_be[3];
	if (p->protocol != IPPROTO_UDP && lan && lan->addr4_be)
		*addr_be = lan->addr4_be;
}

static __always_inline void router_address6(const struct packet *p, union inet_address *addr)
{
	__u32 ifindex = p->ifindex;
	struct lan *lan = bpf_map_lookup_elem(&lans, &ifindex);

	*addr = p->daddr;
	if (p->protocol != IPPROTO_UDP && lan && (lan->addr6[0] || lan->addr6[1]))
		__builtin_memcpy(addr, lan->addr6, sizeof(*addr));
}

/* Opens room for an outer network header of size bytes before the quote. */
static __always_inline int quote(struct __sk_buff *skb, const struct packet *p, __u32 quoted,
				 __u32 size)
{
	if (bpf_skb_change_tail(skb, p->l3_offset + quoted, 0))
		return 0;
	return !bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_MAC, 0);
}

static __always_inline int answer_unreachable4(struct __sk_buff *skb, const struct packet *p)
{
	struct unreachable4 u = {};
	__u8 quoted[ICMP_QUOTE4];
	__be32 from_be;
	__u32 sum;

	if (p->ip_options || bpf_skb_load_bytes(skb, p->l3_offset, quoted, sizeof(quoted)))
		return 0;
	router_address4(p, &from_be);
	fill_ipv4(&u.ip, from_be, p->saddr.word_be[3], sizeof(u) + sizeof(quoted), IPPROTO_ICMP);
	u.icmp.type = ICMP_DEST_UNREACH;
	u.icmp.code = p->protocol == IPPROTO_UDP ? ICMP_PORT_UNREACH : ICMP_PKT_FILTERED;
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&u.icmp, sizeof(u.icmp), 0);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)quoted, sizeof(quoted), sum);
	u.icmp.checksum_be = fold_checksum(sum);
	if (!quote(skb, p, sizeof(quoted), sizeof(u)))
		return 0;
	return !bpf_skb_store_bytes(skb, p->l3_offset, &u, sizeof(u), 0);
}

static __always_inline int answer_unreachable6(struct __sk_buff *skb, const struct packet *p)
{
	struct unreachable6 u = {};
	__u8 quoted[ICMP_QUOTE6];
	union inet_address from;
	__u32 length = sizeof(u.icmp) + sizeof(quoted);
	__u32 sum;

	if (bpf_skb_load_bytes(skb, p->l3_offset, quoted, sizeof(quoted)))
		return 0;
	router_address6(p, &from);
	fill_ipv6(&u.ip, &from, &p->saddr, length, IPPROTO_ICMPV6);
	u.icmp.type = ICMPV6_DEST_UNREACH;
	u.icmp.code = p->protocol == IPPROTO_UDP ? ICMPV6_PORT_UNREACH : ICMPV6_ADM_PROHIBITED;
	sum = sum_pseudo_header(&from, &p->saddr, length, IPPROTO_ICMPV6);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&u.icmp, sizeof(u.icmp), sum);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)quoted, sizeof(quoted), sum);
	u.icmp.checksum_be = fold_checksum(sum);
	if (!quote(skb, p, sizeof(quoted), sizeof(u)))
		return 0;
	return !bpf_skb_store_bytes(skb, p->l3_offset, &u, sizeof(u), 0);
}

/* Whether the source is one host, to which an answer may go. */
static __always_inline int single_source(const struct packet *p)
{
	__u8 first;

	if (p->layer3 == LAYER3_IPV4) {
		first = bpf_ntohl(p->saddr.word_be[3]) >> 24;
		return first != 0 && first != 127 && first < 224;
	}
	return p->saddr.word_be[0] && bpf_ntohl(p->saddr.word_be[0]) >> 24 != 0xff;
}

/*
 * RFC 1122, 3.2.2: no error answers ICMP errors and replies, later fragments,
 * or a source that is not one host. Nor is it for us to answer frames that the
 * interface only overhears, as it does while somebody captures on it.
 */
static __always_inline int answerable(const struct __sk_buff *skb, const struct packet *p)
{
	if (skb->pkt_type == PACKET_OTHERHOST)
		return 0;
	if (p->fragment == FRAGMENT_LATER || !single_source(p))
		return 0;
	if (p->protocol == IPPROTO_ICMP)
		return p->icmp_type == ICMP_ECHO;
	if (p->protocol == IPPROTO_ICMPV6)
		return p->icmp_type == ICMPV6_ECHO_REQUEST;
	return 1;
}

static __always_inline int begin_answer(struct __sk_buff *skb, int ethernet, const struct packet *p)
{
	/* Behind a VLAN tag in the payload the helpers would miss the header. */
	if (!answerable(skb, p) || p->l3_offset != (ethernet ? ETH_HLEN : 0))
		return 0;
	return swap_ethernet(skb, ethernet);
}

/* What a packet is answered. */
enum answer {
	ANSWER_REFUSAL = 0, /* a reset, or an ICMP error */
	ANSWER_FAILURE,	    /* the same, but to DNS by UDP that it failed: it may ask again */
	ANSWER_NO_DATA,	    /* to DNS by UDP that there is no such record */
};

/*
 * Turns the packet of this run (see maps.h) into its answer. Returns 0 where there is
 * none, or it could not be made: the packet, by then perhaps damaged, is dropped.
 *
 * A global function, which the verifier checks once and by itself: inlined it would
 * do so for each way that leads here.
 */
__attribute__((noinline)) int answer(struct __sk_buff *skb, __u32 ethernet, __u32 kind)
{
	const struct packet *p = this_packet();
	int ipv4;

	if (!p || !begin_answer(skb, ethernet, p))
		return 0;
	ipv4 = p->layer3 == LAYER3_IPV4;
	if (kind == ANSWER_NO_DATA)
		return answer_no_data(skb, p);
	if (kind == ANSWER_FAILURE && p->protocol == IPPROTO_UDP)
		return answer_failure(skb, p);
	if (p->protocol == IPPROTO_TCP && p->fragment == FRAGMENT_NONE)
		return ipv4 ? answer_reset4(skb, p) : answer_reset6(skb, p);
	return ipv4 ? answer_unreachable4(skb, p) : answer_unreachable6(skb, p);
}

#endif
