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
 * TCP that is plainly Tor's is led there by the same connect() (shortcut.h).
 *
 * What is direct has the rule that says so beside it (identity.h), for the uplink guard.
 * What tor has started beside it, a pluggable transport, goes where it is told to: nobody but
 * tor connects to it.
 *
 * The programs are attached to the root of the control groups and see every socket
 * of the machine; they leave alone what is not of their network namespace.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "identity.h"
#include "packet.h"
#include "plan.h"
#include "shared.h"
#include "shortcut.h"
#include "socket.h"
#include "tuple.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* Keeps in BTF what only user space names. */
const struct program_key *program_key_type __attribute__((unused));
const enum above_class *above_class_type __attribute__((unused));

/* The network namespace, by the number that the kernel gives to none after it. */
const volatile __u64 netns_cookie = 0;

/* 1: all that the router itself sends is judged, not only what torbpf exec runs. */
const volatile __u32 client_all = 0;

/* Who tor is: its user, and its control group where torbpf has started it; 0: none. */
const volatile __u32 tor_user = 0;
const volatile __u64 tor_cgroup = 0;

/* How many rules there are about control groups and programs. A generation's stay as they
 * are, so what nobody says anything of need not be looked up for each socket. */
const volatile __u32 cgroup_rules = 0;
const volatile __u32 program_rules = 0;

/* Deeper control groups have no ancestors beyond; their own rules count all the same. */
#define MAX_CGROUP_LEVELS 32

/* The sockets that have begun a connection themselves, where nothing else tells. What they
 * accept is none of them. */
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

struct socket;

struct sock {
	struct socket *sk_socket;
} __attribute__((preserve_access_index));

struct inet_sock {
	struct sock sk;
} __attribute__((preserve_access_index));

struct inet_connection_sock {
	struct inet_sock icsk_inet;
} __attribute__((preserve_access_index));

struct tcp_sock {
	struct inet_connection_sock inet_conn;
} __attribute__((preserve_access_index));

/* How much a variant knows of the task that asks. */
enum sight {
	SIGHT_BARE = 0, /* what there are helpers for */
	SIGHT_FULL = 1, /* what takes reading the kernel's memory, too */
};

/* What is said of the task's control group, or else of the nearest around it. */
static __always_inline int cgroup_policy(struct identity *who)
{
	__u64 id = bpf_get_current_cgroup_id();
	int nearest = policy_of(&client_cgroups, &id);
	int level, policy;

	who->kind = IDENTITY_CGROUP;
	who->number = id;
	if (nearest != NO_POLICY)
		return nearest;
	for (level = 0; level < MAX_CGROUP_LEVELS; level++) {
		id = bpf_get_current_ancestor_cgroup_id(level);
		if (!id)
			break;
		policy = policy_of(&client_cgroups, &id);
		if (policy == NO_POLICY)
			continue;
		nearest = policy;
		who->number = id;
	}
	return nearest;
}

static __always_inline int program_policy(struct mm_struct *mm, struct identity *who)
{
	struct super_block *filesystem;
	struct inode *inode;
	struct file *file;

	file = mm->exe_file;
	if (!file)
		return NO_POLICY;
	inode = file->f_inode;
	if (!inode)
		return NO_POLICY;
	filesystem = inode->i_sb;
	if (!filesystem)
		return NO_POLICY;
	who->kind = IDENTITY_PROGRAM;
	who->number = inode->i_ino;
	who->dev = filesystem->s_dev;
	return identity_policy(who);
}

static __always_inline int user_policy(struct identity *who)
{
	who->kind = IDENTITY_USER;
	who->number = (__u32)bpf_get_current_uid_gid();
	who->dev = 0;
	return identity_policy(who);
}

/*
 * What a task's sockets are to be, and by whose rule. Control groups come first, so that
 * what torbpf exec runs is what it was told to be, whoever it is. A kernel thread connects
 * for somebody else (MPTCP's further subflows, a network file system): nobody knows for
 * whom.
 */
static __always_inline enum verdict class_of_task(enum sight sight, struct identity *who)
{
	struct mm_struct *mm = NULL;
	int policy = NO_POLICY;

	if (sight == SIGHT_FULL) {
		mm = ((struct task_struct *)bpf_get_current_task_btf())->mm;
		if (!mm)
			return VERDICT_NONE;
	}
	if (cgroup_rules)
		policy = cgroup_policy(who);
	if (policy == NO_POLICY && program_rules && sight == SIGHT_FULL)
		policy = program_policy(mm, who);
	if (policy == NO_POLICY)
		policy = user_policy(who);
	if (policy == NO_POLICY)
		return VERDICT_NONE;
	return policy == POLICY_DIRECT ? VERDICT_DIRECT : VERDICT_TOR;
}

/* Writes beside a socket by whose rule it is direct. */
static __always_inline int note_identity(void *sk, const struct identity *who)
{
	struct identity *noted =
		bpf_sk_storage_get(&client_sockets, sk, (void *)who, BPF_SK_STORAGE_GET_F_CREATE);

	if (!noted)
		return 0;
	*noted = *who;
	return 1;
}

static __always_inline __u32 mark_with(__u32 mark, __u32 bits)
{
	mark = mark_without_ours(mark) | bits << mark_shift;
	asm volatile("" : "+r"(mark)); /* clang would narrow a store of it */
	return mark;
}

/* Whether the task is tor itself, by the name that it has of its file. */
static __always_inline int is_tor_itself(void)
{
	char name[16] = {};

	return !bpf_get_current_comm(name, sizeof(name)) && name[0] == 't' && name[1] == 'o' &&
	       name[2] == 'r' && !name[3];
}

/*
 * What a socket's mark says of who has it: the class, and whether tor itself is direct by it, or
 * a program beside it.
 */
static __always_inline __u32 bits_of(enum verdict class, const struct identity *who)
{
	int tor = (who->kind == IDENTITY_USER && tor_user && who->number == tor_user) ||
		  (who->kind == IDENTITY_CGROUP && tor_cgroup && who->number == tor_cgroup);

	if (class != VERDICT_DIRECT || !tor)
		return class;
	return class | (is_tor_itself() ? OWN_OF_TOR : OWN_BESIDE_TOR) << CLASS_SIZE;
}

static __always_inline int mark_new(struct bpf_sock *sk, enum sight sight)
{
	struct identity who = {};
	enum verdict class;

	if ((sk->family != AF_INET && sk->family != AF_INET6) ||
	    bpf_get_netns_cookie(sk) != netns_cookie)
		return ALLOW;
	class = class_of_task(sight, &who);
	if (class == VERDICT_DIRECT && !note_identity(sk, &who))
		return ALLOW; /* no guard would know when that ends */
	if (class != VERDICT_NONE)
		sk->mark = mark_with(sk->mark, bits_of(class, &who));
	return ALLOW;
}

/*
 * Of a socket that is older than the programs, or was made by somebody else. A class
 * that is there stays, but that Tor's comes before direct, and that who connects begins:
 * a socket that was accepted can be disconnected and lead anywhere. Who cannot tell a
 * kernel thread from root lets nothing out here. MPTCP has a socket beneath each, which it
 * makes itself and gives the mark, so direct is noted once more.
 */
static __always_inline enum verdict class_at_connect(struct bpf_sock *sk, enum verdict has,
						     enum sight sight, struct identity *who)
{
	enum verdict class;

	if (has == VERDICT_INBOUND)
		has = VERDICT_NONE;
	if (has != VERDICT_NONE && has != VERDICT_DIRECT)
		return has;
	class = class_of_task(sight, who);
	if (class == VERDICT_TOR)
		return class;
	if (sight == SIGHT_FULL && class == VERDICT_DIRECT && note_identity(sk, who))
		return class;
	return has;
}

/* Gives a socket that connects its class, and returns it. */
static __always_inline enum verdict mark_connecting(struct bpf_sock_addr *ctx, enum sight sight)
{
	struct bpf_sock *sk = ctx->sk;
	struct identity who = {};
	enum verdict has, class;
	__u32 mark;

	has = mark_class(sk->mark);
	class = class_at_connect(sk, has, sight, &who);
	if (class == has)
		return has;
	mark = mark_with(sk->mark, bits_of(class, &who));
	bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
	return class;
}

/* Whether an address is this machine's, loopback's among them. */
static __always_inline int own_address(enum layer3 layer3, const union inet_address *a)
{
	if (layer3 == LAYER3_IPV4 && ipv4_under(a->word_be[3], 0x7f000000, 0xff000000))
		return 1;
	if (layer3 == LAYER3_IPV6 && !a->word_be[0] && !a->word_be[1] && !a->word_be[2] &&
	    a->word_be[3] == bpf_htonl(1))
		return 1;
	return bpf_map_lookup_elem(&local_addrs, &a->key) != NULL;
}

/*
 * Whether somebody connects to this machine itself in the name of another, as anybody can by
 * IPv6 (IPV6_FREEBIND): the answer would go to that one, who could go on with it, and then
 * who has accepted would seem to be asked from outside.
 */
static __always_inline int connects_for_another(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	union inet_address source = {};
	struct packet p = {.layer3 = LAYER3_IPV6};

	source.word_be[0] = sk->src_ip6[0];
	source.word_be[1] = sk->src_ip6[1];
	source.word_be[2] = sk->src_ip6[2];
	source.word_be[3] = sk->src_ip6[3];
	if (unspecified(&p, &source) || is_mapped(source.word_be) ||
	    own_address(LAYER3_IPV6, &source))
		return 0;
	parse_destination(ctx, AF_INET6, &p);
	return unspecified(&p, &p.daddr) || own_address(p.layer3, &p.daddr);
}

/* Whether a mark is that of tor, or of what runs beside it. */
static __always_inline int is_tors(__u32 mark)
{
	return mark_class(mark) == VERDICT_DIRECT && mark_instance(mark) >= OWN_BESIDE_TOR;
}

/*
 * Where the kernel takes a connection to the unspecified address: to that of the socket, or to
 * loopback's.
 */
static __always_inline void name_destination(const struct bpf_sock *sk, int family,
					     struct packet *p)
{
	if (!unspecified(p, &p->daddr))
		return;
	if (p->layer3 == LAYER3_IPV4) {
		__be32 source_be = family == AF_INET ? sk->src_ip4 : sk->src_ip6[3];

		set_ipv4(&p->daddr, source_be ? source_be : bpf_htonl(LOOPBACK_ADDR));
		return;
	}
	if (sk->src_ip6[2] == bpf_htonl(0xffff)) { /* it is bound to an IPv4 address */
		p->layer3 = LAYER3_IPV4;
		set_ipv4(&p->daddr, bpf_htonl(LOOPBACK_ADDR));
		return;
	}
	p->daddr.word_be[3] = bpf_htonl(1);
}

/*
 * Whether somebody else connects to what runs beside tor: a pluggable transport connects
 * to whatever it is told to (SOCKS), and is direct.
 */
static __always_inline int leads_past_tor(struct bpf_sock_addr *ctx, int family, enum verdict class)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk = ctx->sk, *listener;
	struct packet p = {};
	__u32 mark, size;

	if (ctx->type != SOCK_STREAM || is_tors(sk->mark) || (!client_all && class != VERDICT_TOR))
		return 0;
	parse_destination(ctx, family, &p);
	name_destination(sk, family, &p);
	if (!own_address(p.layer3, &p.daddr))
		return 0;
	size = fill_tuple(&tuple, &p, TUPLE_FROM_SOURCE);
	listener = bpf_sk_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!listener)
		return 0;
	mark = listener->mark;
	bpf_sk_release(listener);
	return is_tors(mark) && mark_instance(mark) == OWN_BESIDE_TOR;
}

static __always_inline int connecting(struct bpf_sock_addr *ctx, int family, enum sight sight)
{
	enum verdict class;

	if (!ctx->sk || bpf_get_netns_cookie(ctx) != netns_cookie)
		return ALLOW;
	if (client_all && family == AF_INET6 && connects_for_another(ctx))
		return REFUSE;
	class = mark_connecting(ctx, sight);
	if (leads_past_tor(ctx, family, class))
		return REFUSE;
	if (sight == SIGHT_FULL)
		take_shortcut(ctx, family, class);
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
	return connecting(ctx, AF_INET, SIGHT_FULL);
}

SEC("cgroup/connect6")
int torbpf_connect6(struct bpf_sock_addr *ctx)
{
	return connecting(ctx, AF_INET6, SIGHT_FULL);
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
	return connecting(ctx, AF_INET, SIGHT_BARE);
}

SEC("cgroup/connect6")
int torbpf_connect6_b(struct bpf_sock_addr *ctx)
{
	return connecting(ctx, AF_INET6, SIGHT_BARE);
}

/* The far end of a connection. A socket for both families has an IPv4 address in the form
 * that it has in our maps. */
static __always_inline void parse_peer(struct bpf_sock_ops *ctx, union inet_address *a,
				       enum layer3 *layer3)
{
	*layer3 = LAYER3_IPV4;
	if (ctx->family == AF_INET) {
		set_ipv4(a, ctx->remote_ip4);
		return;
	}
	a->word_be[0] = ctx->remote_ip6[0];
	a->word_be[1] = ctx->remote_ip6[1];
	a->word_be[2] = ctx->remote_ip6[2];
	a->word_be[3] = ctx->remote_ip6[3];
	if (!is_mapped(a->word_be))
		*layer3 = LAYER3_IPV6;
}

/*
 * Whether a socket that has just been established is one that was accepted. One that has
 * begun a connection, and meets a SYN of its peer's, is established in the same way; whoever is
 * asked could so become who asks. But it belongs to a program by then, and what nobody has
 * accepted yet to none.
 */
static __always_inline int was_accepted(struct bpf_sock *sk, enum sight sight)
{
	struct tcp_sock *tcp;

	if (sight == SIGHT_BARE)
		return !bpf_sk_storage_get(&client_openers, sk, NULL, 0);
	tcp = bpf_skc_to_tcp_sock(sk);
	return tcp && !tcp->inet_conn.icsk_inet.sk.sk_socket;
}

/*
 * What was begun outside goes on when nftables, which knows it by conntrack, is flushed, and
 * when a rule for who listens has ended.
 */
static __always_inline void mark_accepted(struct bpf_sock_ops *ctx, enum sight sight)
{
	struct packet p = {};
	struct bpf_sock *sk;
	enum verdict has;
	__u32 mark, port;

	port = ctx->local_port;
	if (is_port_of(trans_ports, port) || is_port_of(dns_ports, port) || port == resolver_port)
		return;
	parse_peer(ctx, &p.saddr, &p.layer3);
	if (own_address(p.layer3, &p.saddr) ||
	    of_lan(&p, &p.saddr)) /* what a device is told leaves by no uplink */
		return;
	sk = ctx->sk;
	if (!sk || !was_accepted(sk, sight))
		return;
	has = mark_class(sk->mark);
	if (has != VERDICT_NONE && has != VERDICT_DIRECT)
		return;
	mark = mark_with(sk->mark, VERDICT_INBOUND);
	bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
}

/* A socket has its port, and its first packet is about to leave. */
static __always_inline void watch_beginning(struct bpf_sock_ops *ctx, enum sight sight)
{
	struct bpf_sock *sk = ctx->sk;
	struct packet p = {};

	if (!sk)
		return;
	if (sight == SIGHT_BARE) {
		bpf_sk_storage_get(&client_openers, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		return;
	}
	parse_peer(ctx, &p.daddr, &p.layer3);
	if (is_loopback(&p))
		note_target(ctx, &p);
}

static __always_inline int watch(struct bpf_sock_ops *ctx, enum sight sight)
{
	__u32 op = ctx->op;

	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB && sight == SIGHT_FULL &&
	    (!shortcut || bpf_ntohl(ctx->remote_port) != own_trans_port()))
		return ALLOW;
	if (op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		return ALLOW;
	if (!client_all || bpf_get_netns_cookie(ctx) != netns_cookie)
		return ALLOW;
	if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		mark_accepted(ctx, sight);
	else
		watch_beginning(ctx, sight);
	return ALLOW;
}

SEC("sockops")
int torbpf_sockops(struct bpf_sock_ops *ctx)
{
	return watch(ctx, SIGHT_FULL);
}

SEC("sockops")
int torbpf_sockops_b(struct bpf_sock_ops *ctx)
{
	return watch(ctx, SIGHT_BARE);
}

SEC("cgroup/getsockopt")
int torbpf_getsockopt(struct bpf_sockopt *ctx)
{
	return answer_original(ctx);
}

SEC("cgroup/getpeername4")
int torbpf_peer4(struct bpf_sock_addr *ctx)
{
	const struct target *target = kept_target(ctx->sk);
	__be32 addr_be[4];

	if (!target)
		return ALLOW;
	__builtin_memcpy(addr_be, target->addr, sizeof(addr_be));
	ctx->user_ip4 = addr_be[3];
	ctx->user_port = target->port_be;
	return ALLOW;
}

SEC("cgroup/getpeername6")
int torbpf_peer6(struct bpf_sock_addr *ctx)
{
	const struct target *target = kept_target(ctx->sk);
	__be32 addr_be[4];

	if (!target)
		return ALLOW;
	__builtin_memcpy(addr_be, target->addr, sizeof(addr_be));
	ctx->user_ip6[0] = addr_be[0];
	ctx->user_ip6[1] = addr_be[1];
	ctx->user_ip6[2] = addr_be[2];
	ctx->user_ip6[3] = addr_be[3];
	ctx->user_port = target->port_be;
	return ALLOW;
}
