/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * torbpf's BPF programs, one short entry per hook: parse (parse.h), classify
 * (classify.h, and of DNS dns.h), act (verdict.h). What user space sees of them is
 * in abi.h, the maps are in maps.h and shared.h.
 *
 *   LAN host ── eth1 ─▶ torbpf_lan ─▶ nftables, torbpf_forward ─▶ torbpf_uplink ─▶ eth0 ── WAN
 *                                └──▶ torbpf_dns ─▶ a socket of the router
 *   LAN host ◀─ eth1 ── torbpf_lan_out ◀────────────── routing ◀── eth0 ── WAN
 */
#include "classify.h"
#include "dns.h"
#include "early.h"
#include "exit.h"
#include "maps.h"
#include "parse.h"
#include "target.h"
#include "uplink.h"
#include "verdict.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* Keeps in BTF what only user space names. */
const struct refusal *refusal_type __attribute__((unused));
const enum client_mode *client_mode_type __attribute__((unused));
const enum policy *policy_type __attribute__((unused));
const enum local_addr *local_addr_type __attribute__((unused));
const enum verdict_bit *verdict_bit_type __attribute__((unused));
const enum limit *limit_type __attribute__((unused));
const enum near_group *near_group_type __attribute__((unused));
const enum fate *fate_type __attribute__((unused));
const enum domain_limit *domain_limit_type __attribute__((unused));
const enum explained *explained_type __attribute__((unused));
const struct list_shape *list_shape_type __attribute__((unused));
const struct list_leaf4 *list_leaf4_type __attribute__((unused));
const struct list_leaf6 *list_leaf6_type __attribute__((unused));
const struct list_slot *list_slot_type __attribute__((unused));
const enum fast_program *fast_program_type __attribute__((unused));
const enum fast_way *fast_way_type __attribute__((unused));

static __always_inline int lan_ingress(struct __sk_buff *skb, int ethernet)
{
	struct settings *s = load_settings();
	struct packet *p = this_packet();
	struct decision d;
	__u32 mark;

	if (!s || !p)
		return act_without_settings(skb);
	__builtin_memset(p, 0, sizeof(*p));
	parse_skb(skb, ethernet, p);
	mark = mark_without_ours(p->mark);
	d = mark ? undecided() : take_handed(skb, p);
	if (!decided(d))
		d = classify(p, mark, s);
	d = classify_exit(skb, p, mark, s, d);
	return act_on_lan(skb, ethernet, p, s, classify_question(skb, p, s, d));
}

/* Every frame that a LAN sends, where that is asked for; see early.h. */
SEC("xdp")
int torbpf_early(struct xdp_md *ctx)
{
	struct settings *s = load_settings();
	struct packet *p = this_packet();

	if (!s || !p)
		return leave_to_lan();
	__builtin_memset(p, 0, sizeof(*p));
	parse_xdp(ctx, p);
	if (p->layer3 != LAYER3_IPV4 && p->layer3 != LAYER3_IPV6)
		return leave_to_lan();
	return act_early(ctx, p, s, classify(p, 0, s));
}

/* Every packet that a LAN sends to or through the router. */
SEC("tc")
int torbpf_lan(struct __sk_buff *skb)
{
	return lan_ingress(skb, 1);
}

/* The same where frames have no Ethernet header: tun, WireGuard, PPP. */
SEC("tc")
int torbpf_lan_l3(struct __sk_buff *skb)
{
	return lan_ingress(skb, 0);
}

/* Towards a LAN: learns the flows that came from outside. */
SEC("tc")
int torbpf_lan_out(struct __sk_buff *skb)
{
	return learn_inbound(skb, 1);
}

/* The same without an Ethernet header; the kernel keeps 15 characters of a name. */
SEC("tc")
int torbpf_lan_out3(struct __sk_buff *skb)
{
	return learn_inbound(skb, 0);
}

/* Everything that leaves by an uplink: the last guard. */
SEC("tc")
int torbpf_uplink(struct __sk_buff *skb)
{
	return act_on_uplink(skb, 1, load_settings());
}

/* The same without an Ethernet header. */
SEC("tc")
int torbpf_uplink3(struct __sk_buff *skb)
{
	return act_on_uplink(skb, 0, load_settings());
}

/* Tells who begins a connection at once that Tor takes none. */
static __always_inline int refuse_lookup(struct bpf_sk_lookup *ctx, __u32 ifindex)
{
	struct packet p = {};

	parse_lookup(ctx, &p);
	return drop_lookup(ifindex, &p, REASON_TOR_NOT_READY);
}

/* Local delivery of DNS, and of what is redirected to Tor; attached to the network namespace. */
SEC("sk_lookup")
int torbpf_dns(struct bpf_sk_lookup *ctx)
{
	__u32 ifindex = ctx->ingress_ifindex;
	struct settings *s = load_settings();
	struct packet p = {};

	if (shut_off(ctx, s))
		return refuse_lookup(ctx, ifindex);
	if (!resolver_lookup(READ_CONTEXT(ctx->local_port)) || !is_lan(ifindex))
		return pass_lookup();
	parse_lookup(ctx, &p);
	return act_on_lookup(&p, ifindex, s);
}

/*
 * The same for kernels before 5.17, which do not tell the interface: what
 * comes from a subnet behind a LAN counts as coming in by it.
 */
SEC("sk_lookup")
int torbpf_dns_src(struct bpf_sk_lookup *ctx)
{
	struct settings *s = load_settings();
	struct local_subnet *subnet;
	struct packet p = {};

	if (shut_off(ctx, s))
		return refuse_lookup(ctx, LOOPBACK_IFINDEX);
	if (!resolver_lookup(READ_CONTEXT(ctx->local_port)))
		return pass_lookup();
	parse_lookup(ctx, &p);
	subnet = lookup_prefix(&p, &p.saddr, &local4_prefixes, &local6_prefixes);
	if (!subnet || !is_lan(subnet->ifindex))
		return pass_lookup();
	return act_on_lookup(&p, subnet->ifindex, s);
}
