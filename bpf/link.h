/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Client mode: what the router itself says to the links that it is on, and what of it a
 * machine needs to stay on its network. Both guards behind nftables, that of the uplinks
 * and that of netfilter, decide by this; nft/link.go is the same in nftables.
 */
#ifndef TORBPF_LINK_H
#define TORBPF_LINK_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "packet.h"
#include "shared.h"

#define MAX_LINK_PREFIXES 1024

/* The prefixes of IPv6 that have no router before them, by the interface. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_LINK_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct link_prefix6);
	__type(value, __u8);
} link6_prefixes SEC(".maps");

static __always_inline int on_link(const struct packet *p, __u32 ifindex)
{
	struct link_prefix6 key = {.prefixlen = 32 + 128, .ifindex = ifindex};

	__builtin_memcpy(key.addr, &p->daddr, sizeof(key.addr));
	return bpf_map_lookup_elem(&link6_prefixes, &key) != NULL;
}

/* Whether a packet goes to a group, or to all, of a link and no more. */
static __always_inline int link_group(const struct packet *p)
{
	if (p->layer3 == LAYER3_IPV4)
		return p->daddr.word_be[3] == 0xffffffff ||
		       ipv4_under(p->daddr.word_be[3], LINK_GROUP4, LINK_GROUP4_MASK);
	return (bpf_ntohl(p->daddr.word_be[0]) & LINK_GROUP6_MASK) == LINK_GROUP6;
}

/*
 * Whether what goes to a group gets no further than the link: no router forwards what is
 * sent with one hop, whichever group it is for. SSDP, by which televisions and the like are
 * found, takes up to four to its group, which is of the smallest scope there is (RFC 2365).
 */
static __always_inline int stays_on_link(const struct packet *p)
{
	if (link_group(p) || p->hop_limit <= LINK_HOPS)
		return 1;
	return p->layer3 == LAYER3_IPV4 && p->daddr.word_be[3] == bpf_htonl(SSDP_GROUP4) &&
	       p->hop_limit <= SSDP_HOPS && p->protocol == IPPROTO_UDP && is_to_port(p, PORT_SSDP);
}

/* Whether a destination is none of the internet's, whichever link leads there. */
static __always_inline int near_destination(const struct packet *p)
{
	struct local_subnet *subnet;

	if (group_destination(p))
		return stays_on_link(p);
	if (link_local(p, &p->daddr))
		return 1;
	subnet = lookup_prefix(p, &p->daddr, &local4_prefixes, &local6_prefixes);
	return subnet && subnet->reserved;
}

static __always_inline int udp_between(const struct packet *p, __u16 source, __u16 destination)
{
	return p->protocol == IPPROTO_UDP && p->fragment == FRAGMENT_NONE &&
	       p->sport_be == bpf_htons(source) && p->dport_be == bpf_htons(destination);
}

/* A lease is renewed of a server nearby; any other is asked like all of them (RFC 2131, 4.4.5). */
static __always_inline int keeps_network4(const struct packet *p)
{
	if (p->protocol == IPPROTO_IGMP)
		return group_destination(p) && p->hop_limit <= LINK_HOPS;
	return udp_between(p, PORT_DHCP_CLIENT, PORT_DHCP) && near_destination(p);
}

/* RFC 8415, 7.1: a client asks all servers and relays of its link. */
static __always_inline int dhcpv6_servers(const union inet_address *a)
{
	return a->word_be[0] == bpf_htonl(0xff020000) && !a->word_be[1] && !a->word_be[2] &&
	       a->word_be[3] == bpf_htonl(0x00010002);
}

/*
 * What is about the link has come from it if it has all its hops yet (RFC 4861, 6.1 and 7.1), and
 * of memberships if it has no more than one (RFC 3810, 5). A neighbour may be asked at any address
 * that is on the link. A router's advertisements and redirects are not among it: that is router
 * mode's.
 */
static __always_inline int keeps_network6(const struct packet *p, __u32 ifindex)
{
	int link = link_group(p) || link_local(p, &p->daddr);

	switch (p->icmp_type) {
	case ICMPV6_GROUP_QUERY:
	case ICMPV6_GROUP_REPORT:
	case ICMPV6_GROUP_DONE:
	case ICMPV6_GROUP_REPORT2:
		return group_destination(p) && p->hop_limit <= LINK_HOPS;
	case ICMPV6_ROUTER_SOLICITATION:
		return link && p->hop_limit == ALL_HOPS;
	case ICMPV6_NEIGHBOUR_SOLICITATION:
	case ICMPV6_NEIGHBOUR_ADVERTISEMENT:
		return p->hop_limit == ALL_HOPS && (link || on_link(p, ifindex));
	default:
		return udp_between(p, PORT_DHCPV6_CLIENT, PORT_DHCPV6) &&
		       (dhcpv6_servers(&p->daddr) || link_local(p, &p->daddr));
	}
}

static __always_inline int keeps_network(const struct packet *p, __u32 ifindex)
{
	return p->layer3 == LAYER3_IPV4 ? keeps_network4(p) : keeps_network6(p, ifindex);
}

/*
 * Whether a socket in a state is one that a connection was begun to; a SYN cookie is sent by
 * none. One in BPF_TCP_SYN_RECV may have begun itself, and met a SYN that was sent to catch
 * it. That is also where TCP Fast Open answers from; it does so once more, for the request.
 */
static __always_inline int is_being_opened(__u32 state)
{
	return state == BPF_TCP_LISTEN || state == BPF_TCP_NEW_SYN_RECV;
}

/* Of a SYN that has arrived, the answer. */
static __always_inline int is_syn_ack(__u8 flags)
{
	return (flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK);
}

#endif
