/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the programs are told of internal/plan. There are no defaults: the
 * loader sets all of it, in every object, before it loads them.
 */
#ifndef TORBPF_PLAN_H
#define TORBPF_PLAN_H

#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

/* Where our eight bits are in the mark, and which of them are the class. */
const volatile __u32 mark_shift = 0;
#define CLASS_BITS 0x0fU
#define MARK_BITS  0xffU
#define CLASS_SIZE 4

/* How many tors there are, and where redirected packets go, in host order: by instance. */
const volatile __u32 instances = 0;
const volatile __u16 trans_ports[MAX_INSTANCES] = {};
const volatile __u16 dns_ports[MAX_INSTANCES] = {};
const volatile __u16 resolver_port = 0;

/* The one that carries what this machine itself sends. */
#define OWN_INSTANCE 0

/* 1: TCP gets to tor without NAT; see handover.h. */
const volatile __u32 tproxy = 0;

/* 1: a copy that says what it would do, and does nothing; see explain() in verdict.h. */
const volatile __u32 explaining = 0;

/* 1: what is direct may go by the fast path; see fast.bpf.c. */
const volatile __u32 fast_path = 0;

/* A number that nobody can guess, another for each load; 0: nothing is handed on. See early.h. */
const volatile __u64 generation = 0;

static __always_inline enum verdict mark_class(__u32 mark)
{
	return (enum verdict)(mark >> mark_shift & CLASS_BITS);
}

static __always_inline __u32 mark_instance(__u32 mark)
{
	return (mark >> mark_shift & MARK_BITS) >> CLASS_SIZE;
}

/* Whether a port is a TransPort or a DNSPort, which one being told by the table of them. */
static __always_inline int is_port_of(const volatile __u16 *ports, __u16 port)
{
	__u32 i;

	for (i = 0; i < MAX_INSTANCES; i++) {
		if (i >= instances)
			return 0;
		if (ports[i] == port)
			return 1;
	}
	return 0;
}

static __always_inline __u16 own_trans_port(void)
{
	return trans_ports[OWN_INSTANCE];
}

static __always_inline __u32 mark_without_ours(__u32 mark)
{
	return mark & ~(MARK_BITS << mark_shift);
}

#endif
