/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Parsing: bytes in, struct packet out, no decision taken. A header that
 * cannot be read to its end makes the packet LAYER3_MALFORMED, which is
 * refused: what we cannot see must not be what slips past.
 */
#ifndef TORBPF_PARSE_H
#define TORBPF_PARSE_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "packet.h"
#include "plan.h"

#define MAX_VLAN_TAGS	     2
#define VLAN_ID_MASK	     0x0fff
#define IPV6_FRAGMENT_OFFSET 0xfff8

/* Bytes made linear before parsing: an Ethernet header, IPv6 and options. */
#define PARSE_BYTES 256

/*
 * A field of the context, read here and now: clang would otherwise move the
 * read behind a branch and reach the field by a computed address, which the
 * verifier refuses.
 */
#define READ_CONTEXT(field) (*(volatile typeof(field) *)&(field))

struct cursor {
	void *start;
	void *position;
	void *end;
};

/* Not in the user-space headers: RFC 8200 sections 4.2 and 4.5. */
struct extension_header {
	__u8 next;
	__u8 length_units; /* of 8 bytes, without the first */
};

struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 offset_be;
	__be32 id_be;
};

struct vlan_header {
	__be16 tci_be;
	__be16 protocol_be;
};

struct icmp_echo {
	__u8 type;
	__u8 code;
	__be16 checksum_be;
	__be16 id_be;
	__be16 sequence_be;
};

static __always_inline __u32 cursor_offset(const struct cursor *c)
{
	return c->position - c->start;
}

static __always_inline int is_vlan(__be16 protocol_be)
{
	return protocol_be == bpf_htons(ETH_P_8021Q) || protocol_be == bpf_htons(ETH_P_8021AD);
}

static __always_inline int is_ip(__be16 protocol_be)
{
	return protocol_be == bpf_htons(ETH_P_IP) || protocol_be == bpf_htons(ETH_P_IPV6);
}

static __always_inline int is_icmp_echo(__u8 protocol, __u8 type)
{
	if (protocol == IPPROTO_ICMP)
		return type == ICMP_ECHO || type == ICMP_ECHOREPLY;
	return type == ICMPV6_ECHO_REQUEST || type == ICMPV6_ECHO_REPLY;
}

static __always_inline void parse_icmp(struct cursor *c, struct packet *p)
{
	struct icmp_echo *icmp = c->position;

	if ((void *)(icmp + 1) > c->end) {
		p->layer3 = LAYER3_MALFORMED;
		return;
	}
	p->icmp_type = icmp->type;
	if (is_icmp_echo(p->protocol, icmp->type)) {
		p->sport_be = icmp->id_be;
		p->dport_be = icmp->id_be;
	}
}

static __always_inline void parse_layer4(struct cursor *c, struct packet *p)
{
	struct ports *ports = c->position;

	p->l4_offset = cursor_offset(c);
	if (c->position > c->end) { /* options or extensions that are cut off */
		p->layer3 = LAYER3_MALFORMED;
		return;
	}
	if (p->fragment == FRAGMENT_LATER)
		return;
	if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6) {
		parse_icmp(c, p);
		return;
	}
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return;
	if ((void *)(ports + 2) > c->end) { /* the eight bytes of a UDP header */
		p->layer3 = LAYER3_MALFORMED;
		return;
	}
	p->sport_be = ports->source_be;
	p->dport_be = ports->destination_be;
	if (p->protocol != IPPROTO_TCP || p->fragment != FRAGMENT_NONE)
		return;
	if (c->position + 20 > c->end) {
		p->layer3 = LAYER3_MALFORMED;
		return;
	}
	p->tcp_flags = ((__u8 *)c->position)[13];
}

static __always_inline void parse_ipv4(struct cursor *c, struct packet *p)
{
	struct iphdr *ip = c->position;

	if ((void *)(ip + 1) > c->end || ip->version != 4 || ip->ihl < 5) {
		p->layer3 = LAYER3_MALFORMED;
		return;
	}
	p->layer3 = LAYER3_IPV4;
	set_ipv4(&p->saddr, ip->saddr);
	set_ipv4(&p->daddr, ip->daddr);
	p->protocol = ip->protocol;
	p->length = bpf_ntohs(ip->tot_len);
	p->ip_options = ip->ihl != 5;
	p->fragment = ipv4_fragment(ip->frag_off);

	c->position += ip->ihl * 4;
	parse_layer4(c, p);
}

/* Reads one extension header. Returns 1 if another header may follow. */
static __always_inline int parse_extension(struct cursor *c, struct packet *p, __u8 *next)
{
	struct fragment_header *fragment = c->position;
	struct extension_header *extension = c->position;
	__u16 offset;

	switch (*next) {
	case IPPROTO_FRAGMENT:
		if ((void *)(fragment + 1) > c->end)
			break;
		offset = bpf_ntohs(fragment->offset_be);
		/* Whether more come is not asked: the atomic one of RFC 6946 counts as a first. */
		if (offset & IPV6_FRAGMENT_OFFSET)
			p->fragment = FRAGMENT_LATER;
		else
			p->fragment = FRAGMENT_FIRST;
		*next = fragment->next;
		c->position += sizeof(*fragment);
		return p->fragment == FRAGMENT_FIRST;
	case IPPROTO_HOPOPTS:
	case IPPROTO_DSTOPTS:
	case IPPROTO_ROUTING:
		if ((void *)(extension + 1) > c->end)
			break;
		*next = extension->next;
		c->position += (extension->length_units + 1) * 8;
		return 1;
	default:
		return 0;
	}
	p->layer3 = LAYER3_MALFORMED;
	return 0;
}

/* IPv6 may not borrow the form that IPv4 addresses have in our maps. */
static __always_inline int is_mapped(const union inet_address *a)
{
	return !a->word_be[0] && !a->word_be[1] && a->word_be[2] == bpf_htonl(0xffff);
}

static __always_inline void parse_ipv6(struct cursor *c, struct packet *p)
{
	struct ipv6hdr *ip = c->position;
	__u8 next;
	int i;

	if ((void *)(ip + 1) > c->end || ip->version != 6) {
		p->layer3 = LAYER3_MALFORMED;
		return;
	}
	p->layer3 = LAYER3_IPV6;
	__builtin_memcpy(&p->saddr, &ip->saddr, sizeof(p->saddr));
	__builtin_memcpy(&p->daddr, &ip->daddr, sizeof(p->daddr));
	if (is_mapped(&p->saddr) || is_mapped(&p->daddr)) {
		p->layer3 = LAYER3_MALFORMED;
		return;
	}
	p->length = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	next = ip->nexthdr;
	c->position = ip + 1;
	p->ip_options = is_extension(next);

	for (i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		if (!parse_extension(c, p, &next))
			break;
	}
	if (p->layer3 == LAYER3_MALFORMED)
		return;
	/* More extension headers than anyone needs hide the ports: not read. */
	if (p->fragment != FRAGMENT_LATER && is_extension(next)) {
		p->layer3 = LAYER3_MALFORMED;
		return;
	}
	p->protocol = next;
	parse_layer4(c, p);
}

/*
 * Reads VLAN tags. An id of 0 only carries a priority: the stack takes such a
 * frame as untagged, so we read on. Any other id belongs to a VLAN device,
 * where the packet is judged; unless the stack is past that tag already, as on
 * a VLAN device with reorder_hdr off, which leaves it in the data.
 * tags_seen: those in the metadata. taken_for: by what the stack hands it on.
 */
static __always_inline __be16 parse_ethernet(struct cursor *c, struct packet *p, int tags_seen,
					     __be16 taken_for)
{
	struct ethhdr *eth = c->position;
	struct vlan_header *vlan;
	__be16 protocol_be;
	int i;

	if ((void *)(eth + 1) > c->end) {
		p->layer3 = LAYER3_MALFORMED;
		return 0;
	}
	protocol_be = eth->h_proto;
	__builtin_memcpy(p->smac.addr, eth->h_source, sizeof(p->smac.addr));
	c->position = eth + 1;
	for (i = 0; i < MAX_VLAN_TAGS && is_vlan(protocol_be); i++) {
		vlan = c->position;
		if ((void *)(vlan + 1) > c->end || tags_seen + i >= MAX_VLAN_TAGS) {
			p->layer3 = LAYER3_MALFORMED;
			return 0;
		}
		if (is_vlan(taken_for) && bpf_ntohs(vlan->tci_be) & VLAN_ID_MASK) {
			p->layer3 = LAYER3_OTHER_VLAN;
			return 0;
		}
		protocol_be = vlan->protocol_be;
		c->position = vlan + 1;
	}
	if (is_vlan(protocol_be) || (is_ip(taken_for) && protocol_be != taken_for))
		p->layer3 = LAYER3_MALFORMED;
	return protocol_be;
}

static __always_inline void parse_layer3(struct cursor *c, struct packet *p, __be16 protocol_be)
{
	p->l3_offset = cursor_offset(c);
	if (protocol_be == bpf_htons(ETH_P_IP))
		parse_ipv4(c, p);
	else if (protocol_be == bpf_htons(ETH_P_IPV6))
		parse_ipv6(c, p);
}

/* The lengths of headers without options. */
#define TCP_HEADER_BYTES 20
#define UDP_HEADER_BYTES 8
#define IPV4_PLAIN	 0x45 /* version 4, and five words */

/*
 * Whether all that is read of a packet before its payload is linear: of TCP or UDP behind
 * plain headers. It is as a rule, with the payload in page frags.
 */
static __always_inline int has_linear_headers(struct __sk_buff *skb, int ethernet)
{
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = (void *)(long)skb->data;
	struct ipv6hdr *ip6 = ethernet ? (void *)(eth + 1) : eth;
	struct iphdr *ip4 = (void *)ip6;
	void *layer4;
	__u8 protocol;

	if ((void *)(ip4 + 1) > end || (ethernet && !is_ip(eth->h_proto)))
		return 0;
	if (*(__u8 *)ip4 == IPV4_PLAIN) {
		protocol = ip4->protocol;
		layer4 = ip4 + 1;
	} else {
		if ((void *)(ip6 + 1) > end)
			return 0;
		protocol = ip6->nexthdr;
		layer4 = ip6 + 1;
	}
	if (protocol == IPPROTO_TCP)
		return layer4 + TCP_HEADER_BYTES <= end;
	return protocol == IPPROTO_UDP && layer4 + UDP_HEADER_BYTES <= end;
}

/*
 * Makes the headers linear, where a driver put them into page frags. That copies what may
 * be payload, and the head of a packet that somebody else holds as well, as TCP does: it
 * costs as much as the rest of us.
 */
static __always_inline void pull_headers(struct __sk_buff *skb, int ethernet)
{
	__u32 want = skb->len < PARSE_BYTES ? skb->len : PARSE_BYTES;

	if ((void *)(long)skb->data + want > (void *)(long)skb->data_end &&
	    !has_linear_headers(skb, ethernet))
		bpf_skb_pull_data(skb, want);
}

/* Parses an skb; ethernet says whether its data begin with such a header. */
static __always_inline void parse_skb(struct __sk_buff *skb, int ethernet, struct packet *p)
{
	struct cursor c;
	__be16 protocol_be = skb->protocol;

	p->ifindex = READ_CONTEXT(skb->ifindex);
	p->mark = READ_CONTEXT(skb->mark);
	pull_headers(skb, ethernet);
	c.start = (void *)(long)skb->data;
	c.position = c.start;
	c.end = (void *)(long)skb->data_end;

	if (skb->vlan_present && skb->vlan_tci & VLAN_ID_MASK) {
		p->layer3 = LAYER3_OTHER_VLAN;
		return;
	}
	if (ethernet) {
		protocol_be = parse_ethernet(&c, p, !!skb->vlan_present, protocol_be);
		if (p->layer3 != LAYER3_OTHER)
			return;
	} else if (explaining) {
		c.position += ETH_HLEN; /* test runs take the protocol from such a header */
	}
	parse_layer3(&c, p, protocol_be);
}

/*
 * Parses a frame that is no packet of the kernel's yet. Whose a tagged one is, or one whose
 * headers are not in one piece, is not to be said here: LAYER3_OTHER_VLAN, LAYER3_MALFORMED.
 */
static __always_inline void parse_xdp(const struct xdp_md *ctx, struct packet *p)
{
	struct cursor c = {
		.start = (void *)(long)ctx->data,
		.position = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
	struct ethhdr *eth = c.start;

	p->ifindex = READ_CONTEXT(ctx->ingress_ifindex);
	if ((void *)(eth + 1) > c.end) {
		p->layer3 = LAYER3_MALFORMED;
		return;
	}
	if (is_vlan(eth->h_proto)) {
		p->layer3 = LAYER3_OTHER_VLAN;
		return;
	}
	__builtin_memcpy(p->smac.addr, eth->h_source, sizeof(p->smac.addr));
	c.position = eth + 1;
	parse_layer3(&c, p, eth->h_proto);
}

/*
 * Reads of a packet on its way out, from where the offsets of *p count: its Ethernet
 * header, or its network header where it has none. Where the kernel takes the latter to
 * be is up to who sends by a packet socket: at a VLAN device it is not where it really is.
 */
static __always_inline int load_leaving(struct __sk_buff *skb, const struct packet *p, __u32 at,
					void *to, __u32 size)
{
	return bpf_skb_load_bytes_relative(skb, at, to, size,
					   p->ethernet ? BPF_HDR_START_MAC : BPF_HDR_START_NET);
}

/* Where a packet on its way out has its network header. */
static __always_inline __u32 network_offset(const struct packet *p)
{
	return p->ethernet ? ETH_HLEN : 0;
}

/*
 * Reads a network header of the family of a packet on its way out: what a report
 * shows and whose answer it may be. It begins at an offset, so that what an ICMP
 * error quotes can be read. What cannot be read stays zero, and extension headers
 * are not passed over: the protocol is then that of the first. So a protocol that is
 * not the one expected may hide it, and must not be what opens a way.
 */
static __always_inline void parse_network_header(struct __sk_buff *skb, __u32 at, struct packet *p)
{
	struct iphdr ip4;
	struct ipv6hdr ip6;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (load_leaving(skb, p, at, &ip4, sizeof(ip4)) || ip4.version != 4)
			return;
		p->layer3 = LAYER3_IPV4;
		set_ipv4(&p->saddr, ip4.saddr);
		set_ipv4(&p->daddr, ip4.daddr);
		p->protocol = ip4.protocol;
		p->hop_limit = ip4.ttl;
		p->l4_offset = at + ip4.ihl * 4;
		p->fragment = ipv4_fragment(ip4.frag_off);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (load_leaving(skb, p, at, &ip6, sizeof(ip6)) || ip6.version != 6)
			return;
		p->layer3 = LAYER3_IPV6;
		__builtin_memcpy(&p->saddr, &ip6.saddr, sizeof(p->saddr));
		__builtin_memcpy(&p->daddr, &ip6.daddr, sizeof(p->daddr));
		p->protocol = ip6.nexthdr;
		p->hop_limit = ip6.hop_limit;
		p->l4_offset = at + sizeof(ip6);
	}
	if (p->fragment == FRAGMENT_LATER)
		return;
	if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP) {
		struct ports ports = {};

		if (load_leaving(skb, p, p->l4_offset, &ports, sizeof(ports)))
			return;
		p->sport_be = ports.source_be;
		p->dport_be = ports.destination_be;
	}
}

/* The two sides of a socket look-up, as a packet. */
static __always_inline void parse_lookup(const struct bpf_sk_lookup *ctx, struct packet *p)
{
	__u32 family = READ_CONTEXT(ctx->family);
	__be32 remote4_be = READ_CONTEXT(ctx->remote_ip4);
	__be32 local4_be = READ_CONTEXT(ctx->local_ip4);
	int i;

	for (i = 0; i < 4; i++) {
		p->saddr.word_be[i] = READ_CONTEXT(ctx->remote_ip6[i]);
		p->daddr.word_be[i] = READ_CONTEXT(ctx->local_ip6[i]);
	}
	p->layer3 = LAYER3_IPV6;
	p->protocol = READ_CONTEXT(ctx->protocol);
	p->dport_be = bpf_htons(READ_CONTEXT(ctx->local_port));
	if (family == 2) { /* AF_INET: the words above are zero */
		p->layer3 = LAYER3_IPV4;
		set_ipv4(&p->saddr, remote4_be);
		set_ipv4(&p->daddr, local4_be);
	}
}

#endif
