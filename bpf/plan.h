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

/* Where redirected packets go, in host order. */
const volatile __u16 trans_port = 0;
const volatile __u16 dns_port = 0;
const volatile __u16 resolver_port = 0;

/* 1: TCP gets to tor without NAT; see handover.h. */
const volatile __u32 tproxy = 0;

/* 1: a copy that says what it would do, and does nothing; see explain() in verdict.h. */
const volatile __u32 explaining = 0;

/* A number that nobody can guess, another for each load; 0: nothing is handed on. See early.h. */
const volatile __u64 generation = 0;

static __always_inline enum verdict mark_class(__u32 mark)
{
	return (enum verdict)(mark >> mark_shift & CLASS_BITS);
}

static __always_inline __u32 mark_without_ours(__u32 mark)
{
	return mark & ~(MARK_BITS << mark_shift);
}

#endif
