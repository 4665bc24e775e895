/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What each device sends, by what becomes of it.
 */
#ifndef TORBPF_TRAFFIC_H
#define TORBPF_TRAFFIC_H

#include "classify.h"
#include "domain.h"
#include "maps.h"

/* By how many bits of jiffies the last packet's time is rounded: a third of a second at most. */
#define SEEN_TICK_SHIFT 5

/* How much arrived at once. */
struct volume {
	__u32 packets;
	__u32 bytes;
};

/*
 * Who answers a flow that was seen coming in is let go by conntrack as a rule; what only a
 * late mark would let go is not, as a rule.
 */
static __always_inline enum fate fate_of(struct decision d)
{
	switch (d.verdict) {
	case VERDICT_DIRECT:
	case VERDICT_VIA:
	case VERDICT_INBOUND:
		return FATE_DIRECT;
	case VERDICT_PENDING:
		return d.reason == REASON_INBOUND_REPLY ? FATE_DIRECT : FATE_REFUSED;
	case VERDICT_REFUSED:
		return FATE_REFUSED;
	case VERDICT_TOR:
	case VERDICT_ONION:
	case VERDICT_DNS:
	case VERDICT_RESOLVER:
		return FATE_TOR;
	default:
		return FATE_LOCAL;
	}
}

/*
 * The slot of a device on this CPU. Where each that it may have is another's, the one that
 * has been silent longest is forgotten.
 */
static __always_inline struct device_traffic *traffic_of(const struct device_key *device)
{
	__u32 place = hash_words(0, device, 3) >> 52; /* DEVICE_SLOTS: 2^12 */
	struct device_traffic *slot, *oldest = NULL;
	__u32 i, index;

	for (i = 0; i < DEVICE_PROBES; i++) {
		index = (place + i) % DEVICE_SLOTS;
		slot = bpf_map_lookup_elem(&device_traffic, &index);
		if (!slot)
			return NULL;
		if (same_words(&slot->device, device, 3))
			return slot;
		if (!oldest || slot->seen_ns < oldest->seen_ns) /* 0: nobody's */
			oldest = slot;
	}
	if (oldest) {
		__builtin_memset(oldest, 0, sizeof(*oldest));
		oldest->device = *device;
	}
	return oldest;
}

/* The slot that counts a packet's device; NULL where there is nothing to count. */
static __always_inline struct device_traffic *sender_of(const struct packet *p)
{
	struct device_key device = device_of(p);

	if (p->layer3 != LAYER3_IPV4 && p->layer3 != LAYER3_IPV6)
		return NULL;
	return traffic_of(&device);
}

static __always_inline void count_device(struct device_traffic *traffic, struct decision d,
					 struct volume volume)
{
	__u64 tick = bpf_jiffies64() >> SEEN_TICK_SHIFT; /* a load where the clock is a call */
	enum fate fate = fate_of(d);

	if (!traffic)
		return;
	traffic->by_fate[fate].packets += volume.packets;
	traffic->by_fate[fate].bytes += volume.bytes;
	if (traffic->seen_tick != tick) {
		traffic->seen_tick = tick;
		traffic->seen_ns = bpf_ktime_get_boot_ns();
	}
}

/*
 * Whether a sender was found just now to have spent what it may be told: it is asked once
 * a jiffy, however much it floods.
 */
static __always_inline int is_quiet(const struct device_traffic *traffic, const struct packet *p)
{
	return traffic && traffic->quiet_at == bpf_jiffies64() &&
	       same_words(traffic->quiet_addr, &p->saddr, 2);
}

static __always_inline void remember_quiet(struct device_traffic *traffic, const struct packet *p)
{
	if (!traffic)
		return;
	traffic->quiet_at = bpf_jiffies64();
	__builtin_memcpy(traffic->quiet_addr, &p->saddr, sizeof(traffic->quiet_addr));
}

#endif
