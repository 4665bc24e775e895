/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Reads what leaves, or is forwarded, at netfilter's hooks, as far as a verdict about it needs. It
 * goes on where parse.h is read for what comes in.
 */
#ifndef TORBPF_LEAVING_H
#define TORBPF_LEAVING_H

#include "netfilter.h"

/* As parse_network_header() of parse.h, with the type of what is ICMPv6 in the way of own.h. */
static __always_inline void read_leaving6(const struct bpf_dynptr *data, struct packet *p)
{
	__u8 header[2] = {};
	__u32 at = 0;

	if (p->protocol == IPPROTO_HOPOPTS) {
		bpf_dynptr_read(header, sizeof(header), data, p->l4_offset, 0);
		if (header[0] != IPPROTO_ICMPV6)
			return;
		at = (header[1] + 1) * 8;
	} else if (p->protocol != IPPROTO_ICMPV6) {
		return;
	}
	bpf_dynptr_read(&p->icmp_type, sizeof(p->icmp_type), data, p->l4_offset + at, 0);
}

static __always_inline void read_leaving(const struct bpf_dynptr *data, struct packet *p)
{
	struct ports ports = {};
	__u8 version = 0;

	bpf_dynptr_read(&version, sizeof(version), data, 0, 0);
	if (version >> 4 == 4 ? read_header4(data, 0, p) : read_header6(data, 0, p))
		return;
	if (p->fragment == FRAGMENT_LATER)
		return;
	if (p->layer3 == LAYER3_IPV6)
		read_leaving6(data, p);
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return;
	bpf_dynptr_read(&ports, sizeof(ports), data, p->l4_offset, 0);
	p->sport_be = ports.source_be;
	p->dport_be = ports.destination_be;
}

static __always_inline int is_icmp_error(const struct bpf_dynptr *data, const struct packet *p)
{
	__u8 type = 0;

	if (!is_icmp(p) || p->fragment == FRAGMENT_LATER)
		return 0;
	bpf_dynptr_read(&type, sizeof(type), data, p->l4_offset, 0);
	if (p->layer3 == LAYER3_IPV6)
		return type < ICMPV6_ECHO_REQUEST;
	return type != ICMP_ECHO && type != ICMP_ECHOREPLY;
}

#endif
