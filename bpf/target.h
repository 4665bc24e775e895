/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Where connections of this machine's own were to go that were led to TransPort as they
 * connected (shortcut.h). Shared by all generations: tor may ask for one that began in the last.
 */
#ifndef TORBPF_TARGET_H
#define TORBPF_TARGET_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

#define TARGET_PORTS 65536 /* as many as there are */

/* As the program knows it: beside its socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct target);
} client_targets SEC(".maps");

/*
 * As tor knows it: by the port that it comes from, first those of IPv4. All come from one
 * address to one other, so no two have the same.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * TARGET_PORTS);
	__type(key, __u32);
	__type(value, struct target);
} trans_targets SEC(".maps");

#endif
