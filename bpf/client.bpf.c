/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Client mode: who sends. A socket gets its class, in its mark, by who makes it, so
 * that nftables and the uplink guard know it by each of its packets, and so that an
 * exempt program goes on when nftables is flushed.
 *
 *   socket() ── torbpf_sock ────────┐
 *   connect() ─ torbpf_connect4, 6 ─┼─▶ the class in the socket's mark
 *   accept() ── torbpf_sockops ─────┘
 *
 * The programs are attached to the root of the control groups and see every socket
 * of the machine; they leave alone what is not of their network namespace.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <stddef.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "packet.h"
#include "plan.h"
#include "shared.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* Keeps in BTF what only user space names. */
const struct program_key *program_key_type __attribute__((unused));

/* The network namespace, by the number that the kernel gives to none after it. */
const volatile __u64 netns_cookie = 0;

/* 1: all that the router itself sends is judged, not only what torbpf exec runs. */
const volatile __u32 client_all = 0;

/* linux/socket.h drags in libc. */
#define AF_INET	   2
#define AF_INET6   10
#define SOL_SOCKET 1
#define SO_MARK	   36

/* A program always lets the system call go on. */
#define ALLOW 1

#define MAX_IDENTITIES 4096

/* Deeper control groups have no ancestors beyond; their own rules count all the same. */
#define MAX_CGROUP_LEVELS 32

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

/* The sockets that have begun a connection themselves. What they accept is none of them. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u8);
} client_openers SEC(".maps");

/* The kernel's own, as far as we read them; the loader finds the offsets. */
struct super_block {
	__u32 s_dev;
} __attribute__((preserve_access_index));

struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
} __attribute__((preserve_access_index));

struct file {
	struct inode *f_inode;
} __attribute__((preserve_access_index));

struct mm_struct {
	struct file *exe_file;
} __attribute__((preserve_access_index));

struct task_struct {
	struct mm_struct *mm;
} __attribute__((preserve_access_index));

/* How much a variant knows of the task that asks. */
enum sight {
	SIGHT_BARE = 0, /* what there are helpers for */
	SIGHT_FULL = 1, /* what takes reading the kernel's memory, too */
};

static __always_inline struct mm_struct *memory_of_task(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return BPF_CORE_READ(task, mm);
}

/* The rule of the task's control group, or else of the nearest around it. */
static __always_inline struct rule *cgroup_rule(void)
{
	__u64 id = bpf_get_current_cgroup_id();
	struct rule *r = bpf_map_lookup_elem(&client_cgroups, &id);
	struct rule *nearest = NULL;
	int level;

	if (r && in_force(r))
		return r;
	for (level = 0; level < MAX_CGROUP_LEVELS; level++) {
		id = bpf_get_current_ancestor_cgroup_id(level);
		if (!id)
			break;
		r = bpf_map_lookup_elem(&client_cgroups, &id);
		if (r && in_force(r))
			nearest = r;
	}
	return nearest;
}

static __always_inline struct rule *program_rule(struct mm_struct *mm)
{
	struct inode *inode = BPF_CORE_READ(mm, exe_file, f_inode);
	struct program_key key = {};
	struct rule *r;

	key.inode = BPF_CORE_READ(inode, i_ino);
	key.dev = BPF_CORE_READ(inode, i_sb, s_dev);
	r = bpf_map_lookup_elem(&client_programs, &key);
	return r && in_force(r) ? r : NULL;
}

static __always_inline struct rule *user_rule(void)
{
	__u32 user = (__u32)bpf_get_current_uid_gid();
	struct rule *r = bpf_map_lookup_elem(&client_users, &user);

	return r && in_force(r) ? r : NULL;
}

/*
 * What a task's sockets are to be. Control groups come first, so that what torbpf exec
 * runs is what it was told to be, whoever it is. A kernel thread connects for somebody
 * else (MPTCP's further subflows, a network file system): nobody knows for whom.
 */
static __always_inline enum verdict class_of_task(enum sight sight)
{
	struct mm_struct *mm = NULL;
	struct rule *r;

	if (sight == SIGHT_FULL) {
		mm = memory_of_task();
		if (!mm)
			return VERDICT_NONE;
	}
	r = cgroup_rule();
	if (!r && sight == SIGHT_FULL)
		r = program_rule(mm);
	if (!r)
		r = user_rule();
	if (!r)
		return VERDICT_NONE;
	return r->policy == POLICY_DIRECT ? VERDICT_DIRECT : VERDICT_TOR;
}

static __always_inline __u32 mark_with(__u32 mark, enum verdict class)
{
	mark = mark_without_ours(mark) | (__u32) class << mark_shift;
	asm volatile("" : "+r"(mark)); /* clang would narrow a store of it */
	return mark;
}

static __always_inline int mark_new(struct bpf_sock *sk, enum sight sight)
{
	enum verdict class;

	if ((sk->family != AF_INET && sk->family != AF_INET6) ||
	    bpf_get_netns_cookie(sk) != netns_cookie)
		return ALLOW;
	class = class_of_task(sight);
	if (class != VERDICT_NONE)
		sk->mark = mark_with(sk->mark, class);
	return ALLOW;
}

/*
 * Of a socket that is older than the programs, or was made by somebody else. A class
 * that is there stays, but that Tor's comes before direct, and that who connects begins:
 * a socket that was accepted can be disconnected and lead anywhere. Who cannot tell a
 * kernel thread from root lets nothing out here.
 */
static __always_inline enum verdict class_at_connect(enum verdict has, enum sight sight)
{
	enum verdict class;

	if (has == VERDICT_INBOUND)
		has = VERDICT_NONE;
	if (has != VERDICT_NONE && has != VERDICT_DIRECT)
		return has;
	class = class_of_task(sight);
	if (class == VERDICT_TOR)
		return class;
	return sight == SIGHT_FULL && class == VERDICT_DIRECT ? class : has;
}

static __always_inline int mark_connecting(struct bpf_sock_addr *ctx, enum sight sight)
{
	struct bpf_sock *sk = ctx->sk;
	enum verdict has, class;
	__u32 mark;

	if (!sk || bpf_get_netns_cookie(ctx) != netns_cookie)
		return ALLOW;
	has = mark_class(sk->mark);
	class = class_at_connect(has, sight);
	if (class == has)
		return ALLOW;
	mark = mark_with(sk->mark, class);
	bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
	return ALLOW;
}

SEC("cgroup/sock_create")
int torbpf_sock(struct bpf_sock *ctx)
{
	return mark_new(ctx, SIGHT_FULL);
}

SEC("cgroup/connect4")
int torbpf_connect4(struct bpf_sock_addr *ctx)
{
	return mark_connecting(ctx, SIGHT_FULL);
}

SEC("cgroup/connect6")
int torbpf_connect6(struct bpf_sock_addr *ctx)
{
	return mark_connecting(ctx, SIGHT_FULL);
}

/* The same for kernels that have no BTF or are locked down: no programs. */
SEC("cgroup/sock_create")
int torbpf_sock_b(struct bpf_sock *ctx)
{
	return mark_new(ctx, SIGHT_BARE);
}

SEC("cgroup/connect4")
int torbpf_connect4_b(struct bpf_sock_addr *ctx)
{
	return mark_connecting(ctx, SIGHT_BARE);
}

SEC("cgroup/connect6")
int torbpf_connect6_b(struct bpf_sock_addr *ctx)
{
	return mark_connecting(ctx, SIGHT_BARE);
}

/* The far end of an accepted connection, as a packet from it. A socket for both families
 * has an IPv4 address in the form that it has in our maps. */
static __always_inline void parse_accepted(struct bpf_sock_ops *ctx, struct packet *p)
{
	p->layer3 = LAYER3_IPV6;
	if (ctx->family == AF_INET) {
		p->layer3 = LAYER3_IPV4;
		set_ipv4(&p->saddr, ctx->remote_ip4);
		return;
	}
	p->saddr.word_be[0] = ctx->remote_ip6[0];
	p->saddr.word_be[1] = ctx->remote_ip6[1];
	p->saddr.word_be[2] = ctx->remote_ip6[2];
	p->saddr.word_be[3] = ctx->remote_ip6[3];
	if (!p->saddr.word_be[0] && !p->saddr.word_be[1] &&
	    p->saddr.word_be[2] == bpf_htonl(0xffff))
		p->layer3 = LAYER3_IPV4;
}

/* Whether a peer is this machine itself, by whichever of its addresses. */
static __always_inline int is_self(const struct packet *p)
{
	const union inet_address *a = &p->saddr;

	if (p->layer3 == LAYER3_IPV4 && ipv4_under(a->word_be[3], 0x7f000000, 0xff000000))
		return 1;
	if (p->layer3 == LAYER3_IPV6 && !a->word_be[0] && !a->word_be[1] && !a->word_be[2] &&
	    a->word_be[3] == bpf_htonl(1))
		return 1;
	return bpf_map_lookup_elem(&local_addrs, &a->key) != NULL;
}

/* Whether a peer is a device behind a LAN: what it is told leaves by no uplink. */
static __always_inline int is_of_lan(const struct packet *p)
{
	struct local_subnet *subnet;
	__u32 ifindex;

	subnet = lookup_prefix(p, &p->saddr, &local4_prefixes, &local6_prefixes);
	if (!subnet)
		return 0;
	ifindex = subnet->ifindex;
	return bpf_map_lookup_elem(&lans, &ifindex) != NULL;
}

/* What was begun outside goes on when nftables, which knows it by conntrack, is flushed. */
static __always_inline void mark_accepted(struct bpf_sock_ops *ctx)
{
	struct packet p = {};
	struct bpf_sock *sk;
	__u32 mark, port;

	port = ctx->local_port;
	if (port == trans_port || port == dns_port || port == resolver_port)
		return;
	parse_accepted(ctx, &p);
	if (is_self(&p) || is_of_lan(&p))
		return;
	sk = ctx->sk;
	if (!sk || mark_class(sk->mark) != VERDICT_NONE ||
	    bpf_sk_storage_get(&client_openers, sk, NULL, 0))
		return;
	mark = mark_with(sk->mark, VERDICT_INBOUND);
	bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
}

/* A socket that has begun a connection, and meets a SYN of its peer's, is established like
 * one that was accepted; whoever is asked could so become who asks. */
SEC("sockops")
int torbpf_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk;

	if (!client_all || bpf_get_netns_cookie(ctx) != netns_cookie)
		return ALLOW;
	if (ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		mark_accepted(ctx);
	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		return ALLOW;
	sk = ctx->sk;
	if (sk)
		bpf_sk_storage_get(&client_openers, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	return ALLOW;
}
