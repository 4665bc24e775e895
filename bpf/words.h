/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Tables of hashes of our own making: a hash, and comparison, by words of eight bytes.
 */
#ifndef TORBPF_WORDS_H
#define TORBPF_WORDS_H

#include <linux/types.h>
#include <bpf/bpf_helpers.h>

/* An odd number without a pattern (2^64 by the golden ratio). */
#define PLACE_FACTOR 0x9e3779b97f4a7c15ULL

/* Adds words of eight bytes to a hash, of which the highest bits are those that all reach. */
static __always_inline __u64 hash_words(__u64 h, const void *from, int words)
{
	const __u64 *w = from;
	int i;

	for (i = 0; i < words; i++)
		h = (h ^ (h >> 32) ^ w[i]) * PLACE_FACTOR;
	return h;
}

static __always_inline int same_words(const void *x, const void *y, int words)
{
	const __u64 *a = x, *b = y;
	int i;

	for (i = 0; i < words; i++) {
		if (a[i] != b[i])
			return 0;
	}
	return 1;
}

#endif
