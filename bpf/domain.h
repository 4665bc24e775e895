/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Exclusion by name: the answers that the sentry gave a device to an excluded name are
 * direct for that device, for flows that begin within their time; a flow that has begun
 * so stays direct until it rests. Both only while the name's rule is in force.
 */
#ifndef TORBPF_DOMAIN_H
#define TORBPF_DOMAIN_H

#include "maps.h"
#include "match.h"
#include "words.h"

/* FNV-1a, 64 bits. */
#define NAME_SEED  0xcbf29ce484222325ULL
#define NAME_PRIME 0x100000001b3ULL
/* Tells "*.bank.example" from "bank.example". */
#define NAME_BELOW 1ULL

/* Who sends it: a hardware address is a device's own, whatever addresses it takes. */
static __always_inline struct device_key device_of(const struct packet *p)
{
	struct device_key key = {.mac = p->smac};
	__u32 *head = (__u32 *)key.mac.addr;

	if (!head[0] && !key.mac.addr[4] && !key.mac.addr[5])
		__builtin_memcpy(key.addr, &p->saddr, sizeof(key.addr));
	return key;
}

/* Where the slot of an answer to a device is looked for first. */
static __always_inline __u32 domain_place(const struct device_key *device, const __u8 *addr)
{
	return hash_words(hash_words(0, device, 3), addr, 2) >> 52; /* DOMAIN_SLOTS: 2^12 */
}

/* Whether the rule of a name lets out; it may have been removed, or have ended. */
static __always_inline int domain_is_direct(__u64 domain)
{
	struct rule *r = bpf_map_lookup_elem(&domains, &domain);

	return r && in_force(r) && r->policy == POLICY_DIRECT;
}

/* The name that a packet's destination stands for to its sender; 0 for none. */
static __always_inline __u64 answered_domain(const struct packet *p)
{
	struct device_key device = device_of(p);
	__u8 addr[16] __attribute__((aligned(8)));
	struct domain_slot *slot;
	__u32 i, place, index;

	__builtin_memcpy(addr, &p->daddr, sizeof(addr));
	place = domain_place(&device, addr);
	for (i = 0; i < DOMAIN_PROBES; i++) {
		index = (place + i) % DOMAIN_SLOTS;
		slot = bpf_map_lookup_elem(&domain_slots, &index);
		if (slot && slot->until_ns > bpf_ktime_get_boot_ns() &&
		    same_words(&slot->device, &device, 3) && same_words(slot->addr, addr, 2))
			return slot->domain;
	}
	return 0;
}

/*
 * The name by which a flow has begun; 0 for none, or one that has rested too long. Who
 * may begin one could do so in the name of another, whom it would let out.
 */
static __always_inline __u64 begun_domain(const struct packet *p)
{
	__u64 rest = p->protocol == IPPROTO_TCP ? DOMAIN_TCP_REST_S : DOMAIN_UDP_REST_S;
	struct flow flow = {};
	struct domain_flow *begun;

	flow_to_peer(&flow, p);
	begun = bpf_map_lookup_elem(&domain_flows, &flow);
	if (!begun || begun->seen_ns + rest * NSEC_PER_SEC < bpf_ktime_get_boot_ns() ||
	    !same_words(&begun->mac, &p->smac, 1))
		return 0;
	return begun->domain;
}

/*
 * The excluded name that this run's packet is direct for; 0 for none. A global function,
 * as read_question() of dns.h.
 */
__attribute__((noinline)) __u64 direct_domain(void)
{
	const struct packet *p = this_packet();
	__u64 domain;

	if (!p)
		return 0;
	domain = begun_domain(p);
	if (domain && domain_is_direct(domain))
		return domain;
	domain = answered_domain(p);
	return domain && domain_is_direct(domain) ? domain : 0;
}

/* Has a flow stay what it has begun as. */
static __always_inline void remember_domain_flow(const struct packet *p)
{
	struct domain_flow now = {
		.domain = direct_domain(), .seen_ns = bpf_ktime_get_boot_ns(), .mac = p->smac};
	struct flow flow = {};

	if (!now.domain || !has_ports(p))
		return;
	flow_to_peer(&flow, p);
	bpf_map_update_elem(&domain_flows, &flow, &now, BPF_ANY);
}

#endif
