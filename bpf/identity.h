/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Client mode: the rules about who sends, and by which of them a socket is direct. A
 * socket keeps its mark when its rule ends; so the programs that give it write the rule's
 * key beside the socket, and the uplink guard looks that rule up for each packet.
 */
#ifndef TORBPF_IDENTITY_H
#define TORBPF_IDENTITY_H

#include "shared.h"

#define MAX_IDENTITIES 4096

#define IDENTITY_MAP(name, key_type)                                                               \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_HASH);                                                   \
		__uint(max_entries, MAX_IDENTITIES);                                               \
		__type(key, key_type);                                                             \
		__type(value, struct rule);                                                        \
	} name SEC(".maps")

IDENTITY_MAP(client_users, __u32);   /* in the first user namespace */
IDENTITY_MAP(client_cgroups, __u64); /* by their ids */
IDENTITY_MAP(client_programs, struct program_key);

/*
 * Shared by all generations. User space writes it for sockets that are older than the
 * programs. Accepted sockets have a copy of their listener's, as they have its mark.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct identity);
} client_sockets SEC(".maps");

/* What the rule that somebody goes by says now; NO_POLICY where it is gone, or has ended. */
static __always_inline int identity_policy(const struct identity *who)
{
	struct program_key program = {.inode = who->number, .dev = who->dev};
	__u64 cgroup = who->number;
	__u32 user = (__u32)who->number;

	switch (who->kind) {
	case IDENTITY_USER:
		return policy_of(&client_users, &user);
	case IDENTITY_CGROUP:
		return policy_of(&client_cgroups, &cgroup);
	case IDENTITY_PROGRAM:
		return policy_of(&client_programs, &program);
	default:
		return NO_POLICY;
	}
}

#endif
