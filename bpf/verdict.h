/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Acting on a decision: count, mark, drop, tell. The only file that names the
 * codes that tc and sk_lookup take. Every drop goes through drop() or
 * drop_lookup(), so none is uncounted; netfilter.h has their counterpart for
 * netfilter, and early.h names the codes of XDP.
 */
#ifndef TORBPF_VERDICT_H
#define TORBPF_VERDICT_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "answer.h"
#include "asker.h"
#include "classify.h"
#include "instance.h"
#include "handover.h"
#include "maps.h"
#include "plan.h"
#include "skb.h"
#include "traffic.h"

/* A GRO aggregate is as many packets as it was on the wire. */
static __always_inline struct volume volume_of(const struct __sk_buff *skb)
{
	struct volume v = {.packets = skb->gso_segs ? skb->gso_segs : 1, .bytes = skb->len};

	return v;
}

static __always_inline void count_skb(struct __sk_buff *skb, __u32 ifindex, struct decision d)
{
	struct volume v = volume_of(skb);

	count(ifindex, d.verdict, d.reason, v.packets, v.bytes);
}

/* Drops silently. */
static __always_inline int drop(struct __sk_buff *skb, __u32 ifindex, struct decision d)
{
	count_skb(skb, ifindex, d);
	return TC_ACT_SHOT;
}

/*
 * Turns a refused packet into its answer; 0: there is none. Who claims a source that no
 * LAN has is told nothing: it is not the one who would hear.
 */
static __always_inline int answer_refused(struct __sk_buff *skb, int ethernet, struct decision d)
{
	if (d.reason == REASON_FOREIGN_SOURCE)
		return 0;
	return answer(skb, ethernet,
		      d.reason == REASON_TOR_NOT_READY ? ANSWER_FAILURE : ANSWER_REFUSAL);
}

/* Drops, samples and, where the sender gains from it, answers. */
static __always_inline int refuse(struct __sk_buff *skb, int ethernet, const struct packet *p,
				  struct device_traffic *sender, struct decision d)
{
	__u32 ifindex = p->ifindex;
	int dropped = drop(skb, ifindex, d);

	if (p->layer3 == LAYER3_MALFORMED || is_quiet(sender, p))
		return dropped;
	if (!may_tell(p)) {
		remember_quiet(sender, p);
		return dropped;
	}
	report(ifindex, skb->len, p, d.reason);
	if (!answer_refused(skb, ethernet, d))
		return dropped;
	/* The answer goes back the way the packet came; it carries no class. */
	store_mark(skb, 0);
	return bpf_redirect(ifindex, 0);
}

/*
 * Answers a query that never has data. It costs the device nothing of what it may
 * be told of refusals: one that floods with something else would make its browsers
 * wait. No answer is longer than its query, so there is nothing to amplify.
 */
static __always_inline int answer_at_once(struct __sk_buff *skb, int ethernet,
					  const struct packet *p, struct decision d)
{
	__u32 ifindex = p->ifindex;
	int dropped = drop(skb, ifindex, d);

	if (!answer(skb, ethernet, ANSWER_NO_DATA))
		return dropped;
	store_mark(skb, 0);
	return bpf_redirect(ifindex, 0);
}

/*
 * Whether Tor has to be there for what was decided; local and excluded names need none.
 * By TCP the sentry alone sees for which name that is, and refuses the others.
 */
static __always_inline int needs_tor(const struct settings *s, struct decision d)
{
	switch (d.reason) {
	case REASON_DNS_NO_DATA: /* nothing is said of any name before */
		return 1;
	case REASON_DNS_LOCAL:
	case REASON_DNS_DOMAIN:
		return 0;
	case REASON_DNS_TCP:
		return !s->domains;
	default:
		return goes_to_tor(d.verdict);
	}
}

/*
 * While Tor starts, hangs or is gone, whoever begins something is told so at
 * once. What already runs is left to Tor, which may come back; of what answers
 * a connection from outside conntrack will say.
 */
static __always_inline struct decision ask_gate(const struct packet *p, const struct settings *s,
						struct decision d, __u32 instance)
{
	if (!needs_tor(s, d))
		return d;
	if (p->protocol == IPPROTO_TCP && !tcp_begins(p))
		return d;
	if (gate_is_open(instance))
		return d;
	return decide(VERDICT_REFUSED, REASON_TOR_NOT_READY);
}

/*
 * An exempt mark stands alone, without a class: the user's ip rules may compare
 * the whole mark. The guards behind us know it as it is.
 */
static __always_inline enum verdict class_of(struct decision d)
{
	return d.reason == REASON_EXEMPT_MARK ? VERDICT_NONE : d.verdict;
}

/* Long enough for a look-up that follows at once. */
#define DIRECT_HOST_NS NSEC_PER_SEC

/*
 * Tells the guard of the router's resolver that what a source asks is direct, where that
 * depends on the device. It does of an excluded prefix as well, from which a device may have
 * been taken back: the guard sees no hardware address.
 */
static __always_inline void remember_direct(const struct packet *p, const struct settings *s,
					    struct decision d)
{
	struct deadline soon;

	if (!s->devices || (d.reason != REASON_DIRECT_DEVICE && d.reason != REASON_DIRECT_SOURCE))
		return;
	if (!is_dns(p) && !is_encrypted_dns(p))
		return;
	soon.until_ns = bpf_ktime_get_boot_ns() + DIRECT_HOST_NS;
	bpf_map_update_elem(&direct_hosts, &p->saddr.key, &soon, BPF_ANY);
}

/*
 * In the copy that explains: hands back what would be decided, the instance in the mark,
 * and the packet as its answer, to the test run. Nothing is counted, learned or sent. Its
 * frames have an Ethernet header, whatever those of the LAN have.
 */
static __always_inline int explain(struct __sk_buff *skb, const struct packet *p,
				   const struct settings *s, struct decision d, __u32 instance)
{
	struct decision now = ask_gate(p, s, d, instance);

	skb->cb[EXPLAINED_VERDICT] = now.verdict;
	skb->cb[EXPLAINED_REASON] = now.reason;
	skb->cb[EXPLAINED_READY_VERDICT] = d.verdict;
	skb->cb[EXPLAINED_READY_REASON] = d.reason;
	set_class(skb, p->mark, class_of(d), instance);
	if (now.reason == REASON_DNS_NO_DATA)
		skb->cb[EXPLAINED_ANSWERED] = answer(skb, 1, ANSWER_NO_DATA);
	else if (now.verdict == VERDICT_REFUSED && p->layer3 != LAYER3_MALFORMED)
		skb->cb[EXPLAINED_ANSWERED] = answer_refused(skb, 1, now);
	return ACTION_NEXT;
}

/*
 * What the high nibble of the mark says. A flow that is let out by a name is so while an entry
 * of a map lasts, so nobody may send its packets on without asking this program: nftables puts
 * into the flowtable what has WAY_SLOW alone.
 */
static __always_inline __u32 way_of(struct decision d, __u32 instance)
{
	return d.reason == REASON_DIRECT_DOMAIN ? WAY_FLEETING : instance;
}

/* A packet from a LAN, at tc ingress. */
static __always_inline int act_on_lan(struct __sk_buff *skb, int ethernet, const struct packet *p,
				      const struct settings *s, struct decision d)
{
	__u32 instance = instance_for(d);
	struct device_traffic *sender;

	d = judge_onion(p, s, d, instance);
	if (explaining)
		return explain(skb, p, s, d, instance);
	d = ask_gate(p, s, d, instance);
	if (tproxy)
		d = hand_over(skb, p, s, d, instance);
	sender = sender_of(p);
	count_device(sender, d, volume_of(skb));
	if (d.reason == REASON_DNS_NO_DATA)
		return answer_at_once(skb, ethernet, p, d);
	if (d.verdict == VERDICT_REFUSED)
		return refuse(skb, ethernet, p, sender, d);
	remember_direct(p, s, d);
	remember_asker(p, s, d);
	if (d.reason == REASON_DIRECT_DOMAIN)
		remember_domain_flow(p);
	count_skb(skb, p->ifindex, d);
	set_class(skb, p->mark, class_of(d), way_of(d, instance));
	if (fast_path && d.verdict == VERDICT_DIRECT)
		bpf_tail_call(skb, &fast_programs, FAST_OUT); /* not back, if there is one */
	return ACTION_NEXT;
}

/* Without its settings a program knows nothing, so nothing passes. */
static __always_inline int act_without_settings(struct __sk_buff *skb)
{
	return drop(skb, skb->ifindex, decide(VERDICT_REFUSED, REASON_MALFORMED));
}

/*
 * A packet about to reach a LAN host: we learn who may answer. What the router itself
 * sends is no visitor's, whatever its socket's mark. The far end of a
 * connection that was cut begins no other in its place; nftables stops it before,
 * as long as it knows.
 */
static __always_inline int learn_inbound(struct __sk_buff *skb, int ethernet)
{
	struct packet p = {};
	struct flow flow = {};
	struct inbound_seen seen = {.time_ns = bpf_ktime_get_ns()};

	if (fast_path && !skb->mark && skb->ingress_ifindex)
		bpf_tail_call(skb, &fast_programs, FAST_PROVE_IN); /* not back, if there is one */
	if (mark_class(skb->mark) != VERDICT_INBOUND || !skb->ingress_ifindex)
		return ACTION_NEXT;
	parse_skb(skb, ethernet, &p);
	if (p.layer3 != LAYER3_IPV4 && p.layer3 != LAYER3_IPV6)
		return ACTION_NEXT;
	flow_from_peer(&flow, &p);
	if (was_cut(&flow))
		return drop(skb, skb->ifindex, decide(VERDICT_REFUSED, REASON_CUT_PEER));
	bpf_map_update_elem(&inbound_flows, &flow, &seen, BPF_ANY);
	return ACTION_NEXT;
}

static __always_inline int source_is_direct(const struct packet *p, const struct settings *s)
{
	if (!s)
		return 0;
	if (s->devices)
		return still(bpf_map_lookup_elem(&direct_hosts, &p->saddr.key));
	return s->sources && source_policy(p) == POLICY_DIRECT;
}

/*
 * Whether the router asks itself at its address in a LAN: for the look-up that
 * comes in by the LAN. From outside, the kernel drops such a source as a
 * martian; not so with IPv6, where the router has to ask itself at ::1.
 */
static __always_inline int asks_itself(const struct packet *p)
{
	return p->layer3 == LAYER3_IPV4 && p->saddr.word_be[3] == p->daddr.word_be[3];
}

static __always_inline int resolver_lookup(__u32 port)
{
	return port == PORT_DNS || port == PORT_DNS_TLS;
}

/* As drop(), of a look-up, which has no length. */
static __always_inline int drop_lookup(__u32 ifindex, const struct packet *p, enum reason reason)
{
	count(ifindex, VERDICT_REFUSED, reason, 1, 0);
	if (may_tell(p))
		report(ifindex, 0, p, reason);
	return SK_DROP;
}

/* A look-up that is none of our business. */
static __always_inline int pass_lookup(void)
{
	return SK_PASS;
}

/*
 * DNS about to reach a socket of the router. What was redirected arrives at
 * another port; what still says 53, or 853 for TLS, would make the router's own
 * resolver ask its upstream in clear. Only a source outside Tor may do that.
 */
static __always_inline int act_on_lookup(const struct packet *p, __u32 ifindex,
					 const struct settings *s)
{
	if (asks_itself(p) || source_is_direct(p, s))
		return SK_PASS;
	return drop_lookup(ifindex, p, REASON_DNS_GUARD);
}

#endif
