/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Early refusal: the LAN program's decision before the kernel has made a packet of the
 * frame (XDP). What it would refuse without telling anybody any more, of a device that has
 * spent what it may be told, is dropped here. All else goes on with what was decided, so
 * that the LAN program need not decide it again. Nothing depends on this: whatever it does
 * not see, or does not know, the LAN program judges.
 *
 * What is handed on stands before the frame, where any XDP program may write. So it is
 * believed only with a number that the loader draws for each generation.
 * With fast.bpf.c, which redirects, it names the codes that XDP takes; verdict.h has those of tc.
 */
#ifndef TORBPF_EARLY_H
#define TORBPF_EARLY_H

#include <linux/bpf.h>

#include "classify.h"
#include "exit.h"
#include "maps.h"
#include "parse.h"
#include "plan.h"
#include "traffic.h"

/* What the LAN program finds before the frame. */
struct handed {
	__u64 generation;
	__u64 judged; /* see judged() */
	enum verdict verdict;
	enum reason reason;
};

/* All that a decision goes by but for maps: somebody may rewrite the packet in between. */
static __always_inline __u64 judged(const struct packet *p)
{
	__u64 ports = (__u64)p->sport_be << 48 | (__u64)p->dport_be << 32 | p->protocol << 16 |
		      p->icmp_type << 8 | p->fragment;
	__u64 mac = 0;

	__builtin_memcpy(&mac, p->smac.addr, sizeof(p->smac.addr));
	ports = hash_words(hash_words(0, &ports, 1), &mac, 1);
	return hash_words(hash_words(ports, &p->saddr, 2), &p->daddr, 2);
}

/* What the LAN program judges: it sees all of the packet, and drops all without settings. */
static __always_inline int leave_to_lan(void)
{
	return XDP_PASS;
}

/* Whether nothing that is asked later overrules a refusal: a mark would have made it pending. */
static __always_inline int is_final(const struct settings *s, struct decision d)
{
	return d.verdict == VERDICT_REFUSED && !(s->exits && overruled_by_exit(d.reason));
}

static __always_inline int drop_early(const struct xdp_md *ctx, const struct packet *p,
				      struct device_traffic *sender, struct decision d)
{
	struct volume one = {.packets = 1, .bytes = ctx->data_end - ctx->data};

	count_device(sender, d, one);
	count(p->ifindex, d.verdict, d.reason, one.packets, one.bytes);
	return XDP_DROP;
}

/* A driver may have no room before the frame: then the LAN program decides for itself. */
static __always_inline int hand_on(struct xdp_md *ctx, const struct packet *p, struct decision d)
{
	struct handed *h;

	if (!generation || bpf_xdp_adjust_meta(ctx, -(int)sizeof(*h)))
		return XDP_PASS;
	h = (void *)(long)ctx->data_meta;
	if ((void *)(h + 1) > (void *)(long)ctx->data)
		return XDP_PASS;
	h->generation = generation;
	h->judged = judged(p);
	h->verdict = d.verdict;
	h->reason = d.reason;
	return XDP_PASS;
}

static __always_inline int act_early(struct xdp_md *ctx, const struct packet *p,
				     const struct settings *s, struct decision d)
{
	struct device_traffic *sender;

	if (!is_final(s, d))
		return hand_on(ctx, p, d);
	sender = sender_of(p);
	if (!is_quiet(sender, p)) {
		if (may_be_told(p))
			return hand_on(ctx, p, d);
		remember_quiet(sender, p);
	}
	return drop_early(ctx, p, sender, d);
}

/* What was decided of a packet before; undecided() where nothing was. */
static __always_inline struct decision take_handed(const struct __sk_buff *skb,
						   const struct packet *p)
{
	const struct handed *h = (void *)(long)skb->data_meta;

	/* A tag that the driver has taken off was not seen there. */
	if (skb->vlan_present || (void *)(h + 1) > (void *)(long)skb->data ||
	    h->generation != generation || h->judged != judged(p))
		return undecided();
	return decide(h->verdict, h->reason);
}

#endif
