/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * A packet as the programs see it, and what can be said of it without asking
 * any map. parse.h fills it in, match.h compares it with the maps.
 */
#ifndef TORBPF_PACKET_H
#define TORBPF_PACKET_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

/* As many extension headers of IPv6 are read; more than that nobody needs. */
#define MAX_EXTENSION_HEADERS 6

/* RFC 792, RFC 1812, 5.2.7.1; RFC 4443. linux/icmp.h drags in libc. */
#define ICMP_ECHOREPLY	      0
#define ICMP_DEST_UNREACH     3
#define ICMP_ECHO	      8
#define ICMP_PORT_UNREACH     3
#define ICMP_PKT_FILTERED     13
#define ICMPV6_DEST_UNREACH   1
#define ICMPV6_ECHO_REQUEST   128
#define ICMPV6_ECHO_REPLY     129
#define ICMPV6_PORT_UNREACH   4
#define ICMPV6_ADM_PROHIBITED 1

/* RFC 2710, 3810, 4861. */
#define ICMPV6_GROUP_QUERY	       130
#define ICMPV6_GROUP_REPORT	       131
#define ICMPV6_GROUP_DONE	       132
#define ICMPV6_ROUTER_SOLICITATION     133
#define ICMPV6_NEIGHBOUR_SOLICITATION  135
#define ICMPV6_NEIGHBOUR_ADVERTISEMENT 136
#define ICMPV6_GROUP_REPORT2	       143

#define PORT_DNS	   53
#define PORT_DHCP	   67
#define PORT_DHCP_CLIENT   68
#define PORT_NTP	   123
#define PORT_QUIC	   443
#define PORT_DHCPV6_CLIENT 546
#define PORT_DHCPV6	   547
#define PORT_DNS_TLS	   853
#define PORT_SSDP	   1900

enum layer3 {
	LAYER3_OTHER = 0,
	LAYER3_IPV4,
	LAYER3_IPV6,
	LAYER3_MALFORMED,
	LAYER3_OTHER_VLAN,
};

enum fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST, /* its ports can be read */
	FRAGMENT_LATER,
};

/* An address in the form of abi.h, and by words of four bytes. */
union inet_address {
	struct address key;
	__be32 word_be[4];
};

/* How TCP and UDP begin. */
struct ports {
	__be16 source_be;
	__be16 destination_be;
};

struct packet {
	enum layer3 layer3;
	enum fragment fragment;
	union inet_address saddr;
	union inet_address daddr;
	__u32 ifindex;
	__u32 mark;
	struct mac smac; /* zero without an Ethernet header */
	__u32 l3_offset;
	__u32 l4_offset;
	__u32 length;	 /* from l3_offset on, as IP states it: without padding */
	__be16 sport_be; /* ICMP echo: the identifier, in both ports */
	__be16 dport_be;
	__u8 protocol; /* of layer 4, behind any extension headers */
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 hop_limit;	 /* of what leaves */
	__u8 ip_options; /* 1: the network header is not of the usual length */
	__u8 ethernet;	 /* of what leaves: 1: its offsets count from that header */
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_URG 0x20

/* Whether a segment begins a connection; a SYN with an ACK answers one from outside. */
static __always_inline int tcp_begins(const struct packet *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Where the flags are in a TCP header, and what precedes the packet in an ICMP error. */
#define TCP_LENGTH_OFFSET 12
#define TCP_FLAGS_OFFSET  13

/* The interface that the kernel gives this number in every network namespace. */
#define LOOPBACK_IFINDEX  1
#define ICMP_HEADER_BYTES 8

#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV4_MORE_FRAGMENTS  0x2000

static __always_inline void set_ipv4(union inet_address *a, __be32 addr_be)
{
	a->word_be[2] = bpf_htonl(0xffff);
	a->word_be[3] = addr_be;
}

static __always_inline int ipv4_under(__be32 addr_be, __u32 prefix, __u32 mask)
{
	return (bpf_ntohl(addr_be) & mask) == prefix;
}

static __always_inline enum fragment ipv4_fragment(__be16 frag_off_be)
{
	__u16 fragment = bpf_ntohs(frag_off_be);

	if (fragment & IPV4_FRAGMENT_OFFSET)
		return FRAGMENT_LATER;
	return fragment & IPV4_MORE_FRAGMENTS ? FRAGMENT_FIRST : FRAGMENT_NONE;
}

/* Whether a packet shows a port; a later fragment has none to show. */
static __always_inline int is_to_port(const struct packet *p, __u16 port)
{
	return p->fragment != FRAGMENT_LATER && p->dport_be == bpf_htons(port) &&
	       (p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_TCP);
}

static __always_inline int is_dns(const struct packet *p)
{
	return is_to_port(p, PORT_DNS);
}

/* DNS over TLS or QUIC. */
static __always_inline int is_encrypted_dns(const struct packet *p)
{
	return is_to_port(p, PORT_DNS_TLS);
}

static __always_inline int is_icmp(const struct packet *p)
{
	return (p->layer3 == LAYER3_IPV4 && p->protocol == IPPROTO_ICMP) ||
	       (p->layer3 == LAYER3_IPV6 && p->protocol == IPPROTO_ICMPV6);
}

/*
 * What a device says whatever address it has, and the router answers on the link
 * alone: membership, router and neighbour discovery (RFC 2710, 3810, 4861), and DHCP
 * by a client that does not know yet that it has moved.
 */
static __always_inline int link_housekeeping(const struct packet *p)
{
	if (p->layer3 == LAYER3_IPV4)
		return p->protocol == IPPROTO_UDP && p->dport_be == bpf_htons(PORT_DHCP);
	return p->protocol == IPPROTO_ICMPV6 &&
	       ((p->icmp_type >= 130 && p->icmp_type <= 137) || p->icmp_type == 143);
}

/* Multicast, and the broadcast address of whatever link it is. */
static __always_inline int group_destination(const struct packet *p)
{
	__be32 daddr_be = p->daddr.word_be[3];

	if (p->layer3 == LAYER3_IPV4)
		return ipv4_under(daddr_be, 0xe0000000, 0xf0000000) || daddr_be == 0xffffffff;
	return bpf_ntohl(p->daddr.word_be[0]) >> 24 == 0xff;
}

static __always_inline int link_local(const struct packet *p, const union inet_address *a)
{
	if (p->layer3 == LAYER3_IPV4)
		return ipv4_under(a->word_be[3], 0xa9fe0000, 0xffff0000);
	return (bpf_ntohl(a->word_be[0]) & 0xffc00000) == 0xfe800000;
}

static __always_inline int unspecified(const struct packet *p, const union inet_address *a)
{
	if (a->word_be[3])
		return 0;
	return p->layer3 == LAYER3_IPV4 || !(a->word_be[0] | a->word_be[1] | a->word_be[2]);
}

/* Whether a number is that of an extension header of IPv6, behind which others may follow. */
static __always_inline int is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_DSTOPTS || next == IPPROTO_ROUTING ||
	       next == IPPROTO_FRAGMENT;
}

#endif
