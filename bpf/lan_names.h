/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Whether an interface has the name of a LAN. An interface that was deleted and made anew has
 * another number than the maps know, and no program yet.
 */
#ifndef TORBPF_LAN_NAMES_H
#define TORBPF_LAN_NAMES_H

#include "netfilter.h"

/* A bit for each entry of lan_names, by name_bit(). */
const volatile __u64 lan_name_bits = 0;

/* LANs by their names, those that are waited for among them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LANS);
	__type(key, struct interface_name);
	__type(value, __u8);
} lan_names SEC(".maps");

#define EACH_BYTE(value) (0x0101010101010101ULL * (value))

/* What of a word of a name is before the zero byte that ends it; *ended is set if one does. */
static __always_inline __u64 name_word(__u64 word, int *ended)
{
	__u64 zero = (word - EACH_BYTE(0x01)) & ~word & EACH_BYTE(0x80);

	if (*ended)
		return 0;
	*ended = zero != 0;
	return zero ? word & ((zero & -zero) - 1) : word; /* the first is in the low bits */
}

/* Whether an interface has the name of a LAN. Most have not even its bit. */
static __always_inline int has_lan_name(const struct net_device *device)
{
	const __u64 *words = (const __u64 *)&device->name;
	struct interface_name name;
	int ended = 0;

	name.words[0] = name_word(words[0], &ended);
	name.words[1] = name_word(words[1], &ended);
	if (!(lan_name_bits >> name_bit(&name) & 1))
		return 0;
	return bpf_map_lookup_elem(&lan_names, &name) != NULL;
}

#endif
