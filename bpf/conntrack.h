/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * A flow as conntrack knows it (Linux 5.18, nf_conntrack with BTF): looked up by a packet's
 * addresses, read, and given back.
 */
#ifndef TORBPF_CONNTRACK_H
#define TORBPF_CONNTRACK_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "packet.h"
#include "tuple.h"

/* The kernel's own, as far as we read them; the loader finds the offsets. */
union nf_inet_addr {
	__u32 all[4];
};

union nf_conntrack_man_proto {
	__be16 all;
};

struct nf_conntrack_man {
	union nf_inet_addr u3;
	union nf_conntrack_man_proto u;
} __attribute__((preserve_access_index));

struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
		union {
			__be16 all;
		} u;
	} dst;
} __attribute__((preserve_access_index));

struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
} __attribute__((preserve_access_index));

struct ip_ct_tcp {
	__u8 state;
} __attribute__((preserve_access_index));

union nf_conntrack_proto {
	struct ip_ct_tcp tcp;
} __attribute__((preserve_access_index));

struct nf_conn {
	__u32 timeout;
	struct nf_conntrack_tuple_hash tuplehash[2];
	unsigned long status;
	struct nf_conn *master;
	union nf_conntrack_proto proto;
} __attribute__((preserve_access_index));

/* The first 12 bytes of the kernel's, which is all of it before Linux 6.11. */
struct ct_options {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple,
					 __u32 tuple__sz, struct ct_options *opts,
					 __u32 opts__sz) __ksym;
extern struct nf_conn *bpf_xdp_ct_lookup(struct xdp_md *xdp, struct bpf_sock_tuple *tuple,
					 __u32 tuple__sz, struct ct_options *opts,
					 __u32 opts__sz) __ksym;
extern void bpf_ct_release(struct nf_conn *ct) __ksym;

/* Has to be so at each packet: answered, and what both sides are still at. */
#define CT_WANTED (IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED)
#define CT_REFUSED                                                                                 \
	(IPS_DYING | IPS_SEQ_ADJUST | IPS_HELPER | IPS_EXPECTED | IPS_OFFLOAD | IPS_HW_OFFLOAD)

/*
 * An entry must not end before the slow path sees the next packet of its flow, which renews
 * it: within FLOW_LIFE_NS, that is, and jiffies are no shorter than a millisecond.
 */
#define CT_MIN_JIFFIES 2000

/* What a program is about: a packet of the kernel's, or a frame that is none yet. */
enum about {
	ABOUT_PACKET,
	ABOUT_FRAME,
};

static __always_inline struct nf_conn *look_up_tuple(void *ctx, enum about about,
						     struct bpf_sock_tuple *tuple, __u32 size,
						     struct ct_options *opts)
{
	if (about == ABOUT_FRAME)
		return bpf_xdp_ct_lookup(ctx, tuple, size, opts, sizeof(*opts));
	return bpf_skb_ct_lookup(ctx, tuple, size, opts, sizeof(*opts));
}

/* The tuple of the flow that a packet is of, or, turned, the one that answers it. */
static __always_inline struct nf_conn *look_up_flow(void *ctx, enum about about,
						    const struct packet *p, int turned,
						    struct ct_options *opts)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size = fill_tuple(&tuple, p, turned ? TUPLE_FROM_DESTINATION : TUPLE_FROM_SOURCE);

	opts->netns_id = BPF_F_CURRENT_NETNS;
	opts->l4proto = p->protocol;
	return look_up_tuple(ctx, about, &tuple, size, opts);
}

static __always_inline int is_settled(const struct nf_conn *ct, const struct packet *p)
{
	unsigned long status = ct->status;

	if ((status & CT_WANTED) != CT_WANTED || status & CT_REFUSED || ct->master)
		return 0;
	if ((__s32)(ct->timeout - (__u32)bpf_jiffies64()) < CT_MIN_JIFFIES)
		return 0;
	return p->protocol != IPPROTO_TCP || ct->proto.tcp.state == TCP_CONNTRACK_ESTABLISHED;
}

static __always_inline void copy_tuple(struct flow *flow, const struct nf_conntrack_tuple *t,
				       const struct packet *p)
{
	union inet_address near = {}, peer = {};
	int i;

	if (p->layer3 == LAYER3_IPV4) {
		set_ipv4(&near, t->src.u3.all[0]);
		set_ipv4(&peer, t->dst.u3.all[0]);
	} else {
		for (i = 0; i < 4; i++) {
			near.word_be[i] = t->src.u3.all[i];
			peer.word_be[i] = t->dst.u3.all[i];
		}
	}
	__builtin_memcpy(flow->near_addr, &near, sizeof(near));
	__builtin_memcpy(flow->peer_addr, &peer, sizeof(peer));
	flow->near_port_be = t->src.u.all;
	flow->peer_port_be = t->dst.u.all;
	flow->protocol = p->protocol;
}

/* What a flow is to who answers it. */
static __always_inline void turn(struct flow *to, const struct flow *from)
{
	__builtin_memcpy(to->near_addr, from->peer_addr, sizeof(to->near_addr));
	__builtin_memcpy(to->peer_addr, from->near_addr, sizeof(to->peer_addr));
	to->near_port_be = from->peer_port_be;
	to->peer_port_be = from->near_port_be;
	to->protocol = from->protocol;
}

/*
 * Reads the direction of a flow that is not the one looked up; which that was has to be dir.
 * Whether it is there, and may pass by the fast path.
 */
static __always_inline int read_other(void *ctx, enum about about, const struct packet *p,
				      int turned, __u8 dir, struct flow *other)
{
	struct ct_options opts = {};
	struct nf_conn *ct = look_up_flow(ctx, about, p, turned, &opts);
	int settled;

	if (!ct)
		return 0;
	settled = opts.dir == dir && is_settled(ct, p);
	if (dir == FAST_WAY_OUT)
		copy_tuple(other, &ct->tuplehash[FAST_WAY_IN].tuple, p);
	else
		copy_tuple(other, &ct->tuplehash[FAST_WAY_OUT].tuple, p);
	bpf_ct_release(ct);
	return settled;
}

#endif
