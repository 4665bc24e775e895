/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What every program at tc does to a packet of the kernel's: its class, and letting it go on.
 */
#ifndef TORBPF_SKB_H
#define TORBPF_SKB_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "plan.h"

/* "Next" to tcx as well as to clsact: whoever comes after us has a say, too. */
#define ACTION_NEXT TC_ACT_UNSPEC

/*
 * Written out because clang would narrow the store to one byte, or keep the
 * address of the field in a register; the verifier refuses both.
 */
static __always_inline void store_mark(struct __sk_buff *skb, __u32 mark)
{
	asm volatile(
		"*(u32 *)(%[skb] + %[offset]) = %[mark]"
		:
		: [skb] "r"(skb), [offset] "i"(offsetof(struct __sk_buff, mark)), [mark] "r"(mark)
		: "memory");
}

static __always_inline void set_class(struct __sk_buff *skb, __u32 mark, enum verdict verdict,
				      __u32 instance)
{
	__u32 class = (__u32)verdict | instance << CLASS_SIZE;

	store_mark(skb, mark_without_ours(mark) | class << mark_shift);
}

#endif
