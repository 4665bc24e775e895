/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Client mode: the short way to Tor. A TCP connection that is plainly Tor's is led to
 * TransPort as it connects, so no packet of it is rewritten or routed anew; in all else
 * it is an ordinary one over the loopback device. What is not plain, because any rule might
 * be about it, takes the long way by nftables, and so does all of it without these programs.
 *
 *   connect() ───── the destination is kept beside the socket, and TransPort put in its place
 *   SYN ─────────── the destination is written down under the port that the socket got
 *   getsockopt() ── tor asks where a connection was to go, as it asks netfilter otherwise
 *   getpeername() ─ the program asks, and is told what it connected to
 */
#ifndef TORBPF_SHORTCUT_H
#define TORBPF_SHORTCUT_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "packet.h"
#include "plan.h"
#include "shared.h"
#include "socket.h"
#include "target.h"

/* 1: this tor can be asked by getsockopt(), and no rule looks at more than is seen here. */
const volatile __u32 shortcut = 0;

/* Destinations and ports of TCP that some rule is about: they take the long way. */
PREFIX_MAP(detour4_prefixes, struct prefix4, __u8, MAX_LOCAL_PREFIXES);
PREFIX_MAP(detour6_prefixes, struct prefix6, __u8, MAX_LOCAL_PREFIXES);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LOCAL_PREFIXES);
	__type(key, __u16);
	__type(value, __u8);
} detour_ports SEC(".maps");

#define LOOPBACK_ADDR 0x7f000001

/* 2000::/3 (RFC 4291, 2.4). */
#define GLOBAL_UNICAST	    0x20000000
#define GLOBAL_UNICAST_MASK 0xe0000000

/* sockaddr_in and sockaddr_in6, as far as they are filled in. */
struct address_v4 {
	__u16 family;
	__be16 port_be;
	__be32 addr_be;
	__u8 zero[8];
};

struct address_v6 {
	__u16 family;
	__be16 port_be;
	__u32 flow;
	__be32 addr_be[4];
	__u32 scope;
};

static __always_inline int is_mapped(const __be32 *addr_be)
{
	return !addr_be[0] && !addr_be[1] && addr_be[2] == bpf_htonl(0xffff);
}

static __always_inline int is_loopback(const struct packet *p)
{
	const __be32 *a = p->daddr.word_be;

	if (p->layer3 == LAYER3_IPV4)
		return a[3] == bpf_htonl(LOOPBACK_ADDR);
	return !a[0] && !a[1] && !a[2] && a[3] == bpf_htonl(1);
}

/*
 * Where a connection leads, as a packet of it; of a socket for both families by that of the
 * address. The verifier lets programs for one family read nothing of the other.
 */
static __always_inline void parse_destination(const struct bpf_sock_addr *ctx, int family,
					      struct packet *p)
{
	p->dport_be = (__be16)ctx->user_port;
	p->protocol = IPPROTO_TCP;
	p->layer3 = LAYER3_IPV4;
	if (family == AF_INET) {
		set_ipv4(&p->daddr, ctx->user_ip4);
		return;
	}
	p->daddr.word_be[0] = ctx->user_ip6[0];
	p->daddr.word_be[1] = ctx->user_ip6[1];
	p->daddr.word_be[2] = ctx->user_ip6[2];
	p->daddr.word_be[3] = ctx->user_ip6[3];
	if (!is_mapped(p->daddr.word_be))
		p->layer3 = LAYER3_IPV6;
}

/*
 * Whether a socket is like any other: of one that is bound to an address, or has a mark of the
 * user's, rules or routes may say more.
 */
static __always_inline int is_plain_socket(const struct bpf_sock *sk)
{
	if (sk->protocol != IPPROTO_TCP || mark_without_ours(sk->mark))
		return 0;
	if (sk->family == AF_INET)
		return !sk->src_ip4;
	return !(sk->src_ip6[0] | sk->src_ip6[1] | sk->src_ip6[2] | sk->src_ip6[3]);
}

/* Whether a destination is the internet's, and no rule's. */
static __always_inline int is_plain_destination(const struct packet *p)
{
	__u16 port = bpf_ntohs(p->dport_be);

	if (!port || port == PORT_DNS)
		return 0;
	if (p->layer3 == LAYER3_IPV6 &&
	    (bpf_ntohl(p->daddr.word_be[0]) & GLOBAL_UNICAST_MASK) != GLOBAL_UNICAST)
		return 0;
	return !lookup_prefix(p, &p->daddr, &local4_prefixes, &local6_prefixes) &&
	       !lookup_prefix(p, &p->daddr, &detour4_prefixes, &detour6_prefixes) &&
	       !bpf_map_lookup_elem(&detour_ports, &port) &&
	       !bpf_map_lookup_elem(&local_addrs, &p->daddr.key);
}

/*
 * Unbinds a socket from its interface, by which nothing leads to Tor, the long way neither:
 * NetworkManager finds out by such a socket whether there is an internet. The kernel lets only
 * those do it who may bind it to another (CAP_NET_RAW). Returns whether it is bound to none.
 */
static __always_inline int unbind_interface(struct bpf_sock_addr *ctx)
{
	char none[4] = {};

	return !ctx->sk->bound_dev_if ||
	       !bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, none, sizeof(none));
}

static __always_inline void lead_to_tor(struct bpf_sock_addr *ctx, int family,
					const struct packet *p)
{
	if (family == AF_INET) {
		ctx->user_ip4 = bpf_htonl(LOOPBACK_ADDR);
	} else if (p->layer3 == LAYER3_IPV4) {
		ctx->user_ip6[3] = bpf_htonl(LOOPBACK_ADDR);
	} else {
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = 0;
		ctx->user_ip6[3] = bpf_htonl(1);
	}
	ctx->user_port = bpf_htons(own_trans_port());
}

/*
 * Leads a connection the short way if it may go there. A socket may connect more than
 * once: what it is told of its peer must not be that of an earlier connection, though the
 * short way has ended since, and will be there again.
 */
static __always_inline void take_shortcut(struct bpf_sock_addr *ctx, int family, enum verdict class)
{
	struct bpf_sock *sk = ctx->sk;
	struct packet p = {};
	struct target *target;

	if (!sk || ctx->type != SOCK_STREAM)
		return;
	parse_destination(ctx, family, &p);
	if (!shortcut || class == VERDICT_DIRECT || !is_plain_socket(sk) ||
	    !is_plain_destination(&p) || !unbind_interface(ctx)) {
		bpf_sk_storage_delete(&client_targets, sk);
		return;
	}
	target = bpf_sk_storage_get(&client_targets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!target)
		return;
	__builtin_memcpy(target->addr, &p.daddr, sizeof(target->addr));
	target->port_be = p.dport_be;
	lead_to_tor(ctx, family, &p);
}

/* The place of a connection to TransPort among trans_targets, by where it comes from. */
static __always_inline __u32 target_place(enum layer3 layer3, __u32 port)
{
	return (layer3 == LAYER3_IPV6 ? TARGET_PORTS : 0) + (port & (TARGET_PORTS - 1));
}

/*
 * Writes down for tor where a connection to TransPort was to go: nowhere, if it was
 * not led there. Whoever had the port before must not be taken for this one.
 */
static __always_inline void note_target(struct bpf_sock_ops *ctx, const struct packet *p)
{
	struct target *kept = NULL, *noted;
	struct target none = {};
	struct bpf_sock *sk = ctx->sk;
	__u32 place = target_place(p->layer3, ctx->local_port);

	noted = bpf_map_lookup_elem(&trans_targets, &place);
	if (!noted || !sk)
		return;
	kept = bpf_sk_storage_get(&client_targets, sk, NULL, 0);
	*noted = kept ? *kept : none;
}

/* What tor's socket is at the other end of. */
static __always_inline struct target *target_of(const struct bpf_sock *sk)
{
	__u32 place = target_place(sk->family == AF_INET ? LAYER3_IPV4 : LAYER3_IPV6,
				   bpf_ntohs(sk->dst_port));
	struct target *target;

	if (sk->src_port != own_trans_port())
		return NULL;
	target = bpf_map_lookup_elem(&trans_targets, &place);
	return target && target->port_be ? target : NULL;
}

/*
 * Answers tor as netfilter does for what it has redirected; of what that is, it has
 * answered already, with another port than TransPort's. The connections here are in no NAT:
 * it knows nothing of them, or that they lead to TransPort.
 */
static __always_inline int answer_original4(struct bpf_sockopt *ctx, const struct target *target)
{
	struct address_v4 *answer = ctx->optval;

	if (ctx->sk->dst_ip4 != bpf_htonl(LOOPBACK_ADDR) || (void *)(answer + 1) > ctx->optval_end)
		return 0;
	if (!ctx->retval && (answer->port_be != bpf_htons(own_trans_port()) ||
			     answer->addr_be != bpf_htonl(LOOPBACK_ADDR)))
		return 0;
	__builtin_memset(answer, 0, sizeof(*answer));
	answer->family = AF_INET;
	answer->port_be = target->port_be;
	__builtin_memcpy(&answer->addr_be, target->addr + 12, sizeof(answer->addr_be));
	return sizeof(*answer);
}

static __always_inline int answer_original6(struct bpf_sockopt *ctx, const struct target *target)
{
	struct address_v6 *answer = ctx->optval;
	struct bpf_sock *sk = ctx->sk;

	if (sk->dst_ip6[0] || sk->dst_ip6[1] || sk->dst_ip6[2] || sk->dst_ip6[3] != bpf_htonl(1) ||
	    (void *)(answer + 1) > ctx->optval_end)
		return 0;
	if (!ctx->retval &&
	    (answer->port_be != bpf_htons(own_trans_port()) || answer->addr_be[0] ||
	     answer->addr_be[1] || answer->addr_be[2] || answer->addr_be[3] != bpf_htonl(1)))
		return 0;
	__builtin_memset(answer, 0, sizeof(*answer));
	answer->family = AF_INET6;
	answer->port_be = target->port_be;
	__builtin_memcpy(answer->addr_be, target->addr, sizeof(target->addr));
	return sizeof(*answer);
}

/* For tor's accepted sockets; all other options, and sockets, are answered already. */
static __always_inline int answer_original(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct target *target;
	int length = 0;

	if (!sk || ctx->optname != SO_ORIGINAL_DST ||
	    (ctx->level != SOL_IP && ctx->level != SOL_IPV6))
		return ALLOW;
	target = target_of(sk);
	if (!target)
		return ALLOW;
	if (ctx->level == SOL_IP && sk->family == AF_INET)
		length = answer_original4(ctx, target);
	else if (ctx->level == SOL_IPV6 && sk->family == AF_INET6)
		length = answer_original6(ctx, target);
	if (!length)
		return ALLOW;
	ctx->optlen = length;
	ctx->retval = 0;
	return ALLOW;
}

/* What a program has connected to, where that was led elsewhere; NULL if it was not. */
static __always_inline const struct target *kept_target(struct bpf_sock *sk)
{
	return sk ? bpf_sk_storage_get(&client_targets, sk, NULL, 0) : NULL;
}

#endif
