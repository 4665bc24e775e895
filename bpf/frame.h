/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The fast path for frames of UDP that are no packets of the kernel's yet (XDP).
 */
#ifndef TORBPF_FRAME_H
#define TORBPF_FRAME_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "early.h"
#include "packet.h"
#include "proof.h"
#include "rewrite.h"

static __always_inline int is_mac(const __u8 *a, const __u8 *b)
{
	return *(__u32 *)a == *(__u32 *)b && *(__u16 *)(a + 4) == *(__u16 *)(b + 4);
}

/* Whether a frame is like the packet that has proven what is done with it. */
static __always_inline int is_like_frame(const struct xdp_md *ctx, const struct packet *p,
					 const struct fast_flow *f)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct treatment t = {};

	return read_treatment(data, end, end - data, 0, p, &t) && is_alike(p, &t, f);
}

static __always_inline const struct fast_port *port_of(const struct fast_permit *permit,
						       __u32 ifindex)
{
	int i;

	for (i = 0; i < FAST_PORTS; i++) {
		if (permit->ports[i].ifindex == ifindex)
			return &permit->ports[i];
	}
	return NULL;
}

/* Whether frames may go from the interface of a flow to the other; notes for whom they are. */
static __always_inline int may_be_frames(struct fast_flow *f)
{
	const struct fast_permit *permit = permit_at(bpf_ktime_get_coarse_ns());
	const struct fast_port *in;

	if (!permit || !port_of(permit, f->out_ifindex))
		return 0;
	in = port_of(permit, f->in_ifindex);
	if (!in)
		return 0;
	__builtin_memcpy(f->in_mac, in->mac.addr, sizeof(f->in_mac));
	return 1;
}

/*
 * What a sender on this machine leaves to a card: the sum of the pseudo-header. A frame
 * does not say so, but one in 65536 looks like it by itself, and goes the slow way.
 */
static __always_inline __u16 pseudo_sum(const struct packet *p, const struct udphdr *udp)
{
	__u64 sum = (__u64)bpf_htons(IPPROTO_UDP) + udp->len;
	int i;

	for (i = 0; i < 4; i++) {
		if (p->layer3 == LAYER3_IPV6 || i == 3)
			sum += (__u64)p->saddr.word_be[i] + p->daddr.word_be[i];
	}
	return fold16(fold32(sum));
}

/* The checksum as it has to leave; 0: it is not to be said here. IPv4 may have none. */
static __always_inline int new_checksum(const struct xdp_md *ctx, const struct packet *p,
					const struct flow *to, __u16 *sum)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct udphdr *udp = data + (p->layer3 == LAYER3_IPV4 ? L4_OFFSET4 : L4_OFFSET6);

	if ((void *)(udp + 1) > end)
		return 0;
	*sum = udp->check;
	if (!udp->check)
		return p->layer3 == LAYER3_IPV4;
	if (udp->check == pseudo_sum(p, udp))
		return 0;
	*sum = ~fold16(fold32((__u64)(__u16)~udp->check + address_difference(p, to) +
			      port_difference(p, to)));
	if (!*sum)
		*sum = 0xffff;
	return 1;
}

/* Turns a frame that is for us into what it leaves as; 0: it is as it was. */
static __always_inline int rewrite_frame(const struct xdp_md *ctx, const struct packet *p,
					 const struct fast_flow *f, __u16 sum)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = data + (p->layer3 == LAYER3_IPV4 ? L4_OFFSET4 : L4_OFFSET6);

	if ((void *)(udp + 1) > end || !is_mac(((struct ethhdr *)data)->h_dest, f->in_mac))
		return 0;
	udp->check = sum;
	if (p->layer3 == LAYER3_IPV4)
		write_ipv4(data + L3_OFFSET, &f->left);
	else
		write_ipv6(data + L3_OFFSET, &f->left);
	write_ports((struct ports *)udp, &f->left);
	__builtin_memcpy(data, f->macs, 2 * ETH_ALEN);
	return 1;
}

/* Counts a frame that has left, as the LAN program would have. */
static __always_inline int count_taken(const struct xdp_md *ctx, const struct packet *p,
				       struct decision d)
{
	struct volume one = {.packets = 1, .bytes = ctx->data_end - ctx->data};

	count_device(sender_of(p), d, one);
	count(p->ifindex, d.verdict, d.reason, one.packets, one.bytes);
	return XDP_REDIRECT;
}

#endif
