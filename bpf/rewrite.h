/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What forwarding does to a packet: other addresses and ports, one hop less, other hardware
 * addresses, and checksums that fit. Of TCP and UDP without options, at fixed offsets.
 */
#ifndef TORBPF_REWRITE_H
#define TORBPF_REWRITE_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>

#include "abi.h"
#include "packet.h"

#define L3_OFFSET  ETH_HLEN
#define L4_OFFSET4 (L3_OFFSET + sizeof(struct iphdr))
#define L4_OFFSET6 (L3_OFFSET + sizeof(struct ipv6hdr))

static __always_inline __u32 l4_offset_of(const struct packet *p)
{
	return p->layer3 == LAYER3_IPV4 ? L4_OFFSET4 : L4_OFFSET6;
}

/* The ones' complement sum of what takes the place of words (RFC 1624). */
static __always_inline __u64 sum_difference(const __be32 *old, const __be32 *new, int words)
{
	__u64 sum = 0;
	int i;

	for (i = 0; i < words; i++)
		sum += (__u64)(__u32)~old[i] + new[i];
	return sum;
}

static __always_inline __u32 fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

static __always_inline __u16 fold16(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* By how much the addresses of a packet, which its pseudo-header has, differ from a flow's. */
static __always_inline __u32 address_difference(const struct packet *p, const struct flow *to)
{
	__be32 near[4], peer[4];

	__builtin_memcpy(near, to->near_addr, sizeof(near));
	__builtin_memcpy(peer, to->peer_addr, sizeof(peer));
	return fold32(sum_difference(p->saddr.word_be, near, 4) +
		      sum_difference(p->daddr.word_be, peer, 4));
}

static __always_inline __u32 port_difference(const struct packet *p, const struct flow *to)
{
	return (__u32)(__u16)~p->sport_be + to->near_port_be + (__u16)~p->dport_be +
	       to->peer_port_be;
}

/*
 * Makes the checksum of layer 4 fit. The kernel's helpers know where it is the network
 * card's to complete, and then covers the addresses alone; and where the card has summed up
 * all of the packet: in that sum the addresses of IPv4 are made up for by its header's
 * checksum, those of IPv6 by that of layer 4, and there the hop limit by nothing.
 */
static __always_inline long fit_checksum(struct __sk_buff *skb, const struct packet *p,
					 const struct flow *to)
{
	__u32 addresses = address_difference(p, to);
	__u32 ports = port_difference(p, to);
	__u64 flags = p->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 offset =
		l4_offset_of(p) + (p->protocol == IPPROTO_UDP ? offsetof(struct udphdr, check)
							      : offsetof(struct tcphdr, check));
	long err;

	err = bpf_l4_csum_replace(skb, offset, 0, addresses, flags | BPF_F_PSEUDO_HDR);
	if (!err && ports != 0x1fffe)
		err = bpf_l4_csum_replace(skb, offset, 0, ports, flags);
	if (p->layer3 == LAYER3_IPV6)
		bpf_csum_update(skb, fold32((__u64)addresses + bpf_htons(0xfffe)));
	return err;
}

static __always_inline void write_ipv4(struct iphdr *ip, const struct flow *to)
{
	__be32 old[2] = {ip->saddr, ip->daddr}, new[2];
	__u32 sum;

	__builtin_memcpy(&new[0], to->near_addr + 12, 4);
	__builtin_memcpy(&new[1], to->peer_addr + 12, 4);
	sum = fold32(sum_difference(old, new, 2));
	/* The hop limit is the first byte of its 16 bits. */
	ip->check = ~fold16(fold32((__u64)sum + bpf_htons(0xfeff) + (__u16)~ip->check));
	ip->ttl--;
	ip->saddr = new[0];
	ip->daddr = new[1];
}

static __always_inline void write_ipv6(struct ipv6hdr *ip, const struct flow *to)
{
	ip->hop_limit--;
	__builtin_memcpy(&ip->saddr, to->near_addr, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, to->peer_addr, sizeof(ip->daddr));
}

static __always_inline void write_ports(struct ports *ports, const struct flow *to)
{
	ports->source_be = to->near_port_be;
	ports->destination_be = to->peer_port_be;
}

/* Turns a packet into what it leaves as; 0: it is as it was, and goes its way. */
static __always_inline int rewrite(struct __sk_buff *skb, const struct packet *p,
				   const struct fast_flow *f)
{
	const struct flow *to = &f->left;
	void *data, *end;

	if (fit_checksum(skb, p, to))
		return 0;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (p->layer3 == LAYER3_IPV4) {
		if (data + L4_OFFSET4 + sizeof(struct ports) > end)
			return 0;
		write_ipv4(data + L3_OFFSET, to);
		write_ports(data + L4_OFFSET4, to);
	} else {
		if (data + L4_OFFSET6 + sizeof(struct ports) > end)
			return 0;
		write_ipv6(data + L3_OFFSET, to);
		write_ports(data + L4_OFFSET6, to);
	}
	__builtin_memcpy(data, f->macs, 2 * ETH_ALEN);
	return 1;
}

#endif
