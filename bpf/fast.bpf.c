/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The fast path of what is excluded: packets that the LAN program has found to be direct,
 * and their answers, past the kernel's forwarding. It is a cache of what that has done to
 * a flow, for a second (FLOW_LIFE_NS):
 *
 *   LAN ── eth1 ─▶ torbpf_lan ─▶ torbpf_fast_out ───────────────▶ torbpf_uplink ─▶ eth0 ── WAN
 *                                      ╰─▶ slow path ─▶ torbpf_uplink ─▶ torbpf_prove_out
 *   LAN ◀─ eth1 ── torbpf_lan_out ◀──────────────── torbpf_fast_in ◀── eth0 ── WAN
 *           torbpf_prove_in ◀─ torbpf_lan_out ◀─ slow path ◀─╯
 *
 * A packet that took the slow path, through all rules of the user's and the guards, proves
 * where it leaves what the slow path does with the like of it: by which interface and to
 * which hardware address, with which hop limit, traffic class and priority, and how long it
 * was. Those that are alike and no longer go the same way for a second; then one of them has
 * to prove it anew. So whatever the user's rules, routes and addresses become, the flow
 * follows them after a second, and they need not be known here. Addresses and ports are
 * conntrack's, which is asked about the first packet of each jiffy. All that begins or ends a
 * connection, or is odd, takes the slow path, which alone keeps the entry of conntrack alive.
 *
 * The fast path sends nothing that has not been judged direct; the uplink guard looks at it
 * as at all else.
 *
 * UDP may go as frames, before there are packets (frame.h): torbpf_early_fast in the place of
 * torbpf_early, and torbpf_frames_in. Nobody looks at those; the first judges each of them.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "classify.h"
#include "conntrack.h"
#include "early.h"
#include "frame.h"
#include "maps.h"
#include "packet.h"
#include "parse.h"
#include "plan.h"
#include "proof.h"
#include "rewrite.h"
#include "scratch.h"
#include "skb.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* linux/if_packet.h: sent to us, and to nobody else. */
#define PACKET_HOST 0

static const __u8 yes = 1;

static __always_inline int read_packet(struct __sk_buff *skb, const struct packet *p,
				       struct treatment *t)
{
	return read_treatment((void *)(long)skb->data, (void *)(long)skb->data_end, skb->len,
			      skb->gso_size, p, t);
}

/*
 * Sends a packet the way that the slow path has sent one like it. Each that goes by here has
 * a hop limit of at least 2, as the slow path let out what had 1 less.
 */
static __always_inline int take(struct __sk_buff *skb, const struct packet *p, __u32 way)
{
	__u64 jiffies = bpf_jiffies64();
	struct treatment t = {};
	struct flow came = {};
	struct fast_flow *f;

	if (!is_plain(p) || skb->vlan_present || skb->pkt_type != PACKET_HOST ||
	    mark_without_ours(p->mark))
		return ACTION_NEXT;
	flow_to_peer(&came, p);
	f = slot_of(&came, 0);
	if (!f || f->frames)
		return ACTION_NEXT;
	if (!read_packet(skb, p, &t)) {
		end_proof(f);
		return ACTION_NEXT;
	}
	if (!is_alike(p, &t, f))
		return ACTION_NEXT;
	if (f->checked_at != jiffies && !still_holds(skb, ABOUT_PACKET, p, f, way))
		return ACTION_NEXT;
	f->checked_at = jiffies;
	if (!rewrite(skb, p, f))
		return ACTION_NEXT;
	skb->priority = f->priority;
	set_class(skb, 0, VERDICT_DIRECT, WAY_FAST);
	count_fast(way, skb->gso_segs ? skb->gso_segs : 1, skb->len);
	return bpf_redirect(f->out_ifindex, 0);
}

/* A packet from a LAN that torbpf_lan has parsed, and judged direct. */
SEC("tc")
int torbpf_fast_out(struct __sk_buff *skb)
{
	const struct packet *p = this_packet();

	return p ? take(skb, p, FAST_WAY_OUT) : ACTION_NEXT;
}

/* Everything that comes in by an uplink. */
SEC("tc")
int torbpf_fast_in(struct __sk_buff *skb)
{
	struct packet *p = this_packet();

	if (!p)
		return ACTION_NEXT;
	__builtin_memset(p, 0, sizeof(*p));
	parse_skb(skb, 1, p);
	return take(skb, p, FAST_WAY_IN);
}

/* Writes down what has become of a packet that came in as one of a flow. */
static __always_inline void remember(struct __sk_buff *skb, const struct packet *p,
				     const struct flow *came, const struct treatment *t)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct fast_flow *f = slot_of(came, 1);
	__u32 longest = 0;

	if (!f)
		return;
	/* One that is longer than those so far proves only that: the time goes on. */
	if (same_words(&f->came, came, FLOW_WORDS) && permitted(now, f->proven_ns))
		longest = f->length;
	else
		f->proven_ns = now;
	f->came = *came;
	flow_to_peer(&f->left, p);
	f->checked_at = 0;
	f->frames = 0;
	f->in_ifindex = skb->ingress_ifindex;
	f->out_ifindex = skb->ifindex;
	f->length = t->length > longest ? t->length : longest;
	f->priority = skb->priority;
	f->hop_limit = t->hop_limit;
	f->traffic_class = t->traffic_class;
	if (bpf_skb_load_bytes(skb, 0, f->macs, sizeof(f->macs)))
		f->proven_ns = 0;
}

/* A packet of the slow path, which leaves; way: the direction that it has to be of. */
static __always_inline void prove(struct __sk_buff *skb, __u32 way)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct packet *p = this_packet();
	struct flow came = {}, begun = {};
	struct treatment t = {};
	__u64 *budget;

	if (!p || !permitted(now, now))
		return;
	budget = budget_at(now);
	if (!budget)
		return;
	__builtin_memset(p, 0, sizeof(*p));
	p->ethernet = 1;
	parse_network_header(skb, ETH_HLEN, p);
	if (!is_plain(p) || !read_packet(skb, p, &t))
		return;
	spend(budget, now);
	/* What answers the packet as it leaves is of one direction; it came in as of the other. */
	if (!read_other(skb, ABOUT_PACKET, p, 1, way == FAST_WAY_OUT ? FAST_WAY_IN : FAST_WAY_OUT,
			&came))
		return;
	if (way == FAST_WAY_OUT) {
		if (bpf_map_update_elem(&fast_judged, &came, &yes, BPF_ANY))
			return;
	} else {
		flow_from_peer(&begun, p);
		if (!bpf_map_lookup_elem(&fast_judged, &begun))
			return;
	}
	remember(skb, p, &came, &t);
}

/* A packet that a LAN has sent and torbpf_uplink lets out by an uplink with Ethernet, as direct. */
SEC("tc")
int torbpf_prove_out(struct __sk_buff *skb)
{
	if (!mark_without_ours(skb->mark) && is_lan(skb->ingress_ifindex))
		prove(skb, FAST_WAY_OUT);
	return ACTION_NEXT;
}

/* A packet without any mark, that was forwarded to a LAN. */
SEC("tc")
int torbpf_prove_in(struct __sk_buff *skb)
{
	prove(skb, FAST_WAY_IN);
	return ACTION_NEXT;
}

/*
 * Sends a frame the way that the slow path has sent a packet like it, before the kernel has
 * made one of it.
 */
static __always_inline int take_frame(struct xdp_md *ctx, const struct packet *p, __u32 way)
{
	__u64 jiffies = bpf_jiffies64();
	struct flow came = {};
	struct fast_flow *f;
	__u16 sum;

	if (p->protocol != IPPROTO_UDP || !is_plain(p))
		return 0;
	flow_to_peer(&came, p);
	f = slot_of(&came, 0);
	if (!f || !is_like_frame(ctx, p, f) || !new_checksum(ctx, p, &f->left, &sum))
		return 0;
	if (f->checked_at != jiffies || !f->frames) {
		if (!may_be_frames(f) || !still_holds(ctx, ABOUT_FRAME, p, f, way))
			return 0;
		f->frames = 1;
		f->checked_at = jiffies;
	}
	if (!rewrite_frame(ctx, p, f, sum))
		return 0;
	count_fast(way, 1, ctx->data_end - ctx->data);
	return bpf_redirect(f->out_ifindex, 0) == XDP_REDIRECT;
}

/* Whether nothing but counting would be done for what is direct. */
static __always_inline int is_plainly_direct(const struct packet *p, struct decision d)
{
	return d.verdict == VERDICT_DIRECT && d.reason != REASON_DIRECT_DOMAIN && !is_dns(p) &&
	       !is_encrypted_dns(p);
}

/* Every frame that a LAN sends: torbpf_early with a fast path. */
SEC("xdp")
int torbpf_early_fast(struct xdp_md *ctx)
{
	struct settings *s = load_settings();
	struct packet *p = this_packet();
	struct decision d;

	if (!s || !p)
		return leave_to_lan();
	__builtin_memset(p, 0, sizeof(*p));
	parse_xdp(ctx, p);
	if (p->layer3 != LAYER3_IPV4 && p->layer3 != LAYER3_IPV6)
		return leave_to_lan();
	d = classify(p, 0, s);
	if (is_plainly_direct(p, d) && take_frame(ctx, p, FAST_WAY_OUT))
		return count_taken(ctx, p, d);
	return act_early(ctx, p, s, d);
}

/* Every frame that comes in by an uplink. */
SEC("xdp")
int torbpf_frames_in(struct xdp_md *ctx)
{
	struct packet *p = this_packet();

	if (!p)
		return leave_to_lan();
	__builtin_memset(p, 0, sizeof(*p));
	parse_xdp(ctx, p);
	return take_frame(ctx, p, FAST_WAY_IN) ? XDP_REDIRECT : leave_to_lan();
}
