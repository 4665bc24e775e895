/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What each device sends, by what becomes of it.
 */
#ifndef TORBPF_TRAFFIC_H
#define TORBPF_TRAFFIC_H

#include "classify.h"
#include "domain.h"
#include "maps.h"

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

static __always_inline void count_device(const struct packet *p, struct decision d,
					 struct volume volume)
{
	struct device_key key = device_of(p);
	struct device_traffic *traffic = bpf_map_lookup_elem(&device_traffic, &key);
	struct device_traffic first = {};
	enum fate fate = fate_of(d);

	if (p->layer3 != LAYER3_IPV4 && p->layer3 != LAYER3_IPV6)
		return;
	if (!traffic) {
		bpf_map_update_elem(&device_traffic, &key, &first, BPF_NOEXIST);
		traffic = bpf_map_lookup_elem(&device_traffic, &key);
	}
	if (!traffic)
		return;
	traffic->by_fate[fate].packets += volume.packets;
	traffic->by_fate[fate].bytes += volume.bytes;
	traffic->seen_ns = bpf_ktime_get_boot_ns();
}

#endif
