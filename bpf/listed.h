/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Whether a list has a destination. Short lists are in tries, long ones in trees, in which a
 * look-up reads one node a level, and few levels. internal/listtree has the layout.
 */
#ifndef TORBPF_LISTED_H
#define TORBPF_LISTED_H

#include "maps.h"
#include "packet.h"

/* What a tree says of an address. */
enum tree_answer {
	TREE_HAS,
	TREE_LACKS,
	TREE_NONE, /* the trie is to be asked */
};

/*
 * Keeps from the compiler what a key is: it would make branches of comparisons with it. At
 * every branch the verifier goes both ways, and the processor often the wrong one.
 */
static __always_inline __u64 opaque(__u64 key)
{
	asm volatile("" : "+r"(key));
	return key;
}

/* 1 if a is less than b, of which none is 2^63 or more. */
static __always_inline __u64 less(__u64 a, __u64 b)
{
	return (a - b) >> 63;
}

static __always_inline __u32 child4(const struct list_node4 *node, __u64 key)
{
	__u32 child = 0;
	int i;

#pragma unroll
	for (i = 0; i < LIST_BRANCHES4 - 1; i++)
		child += less(node->last[i], key);
	return child;
}

static __always_inline __u32 child6(const struct list_node6 *node, __u64 key)
{
	__u32 child = 0;
	int i;

#pragma unroll
	for (i = 0; i < LIST_BRANCHES6 - 1; i++)
		child += less(node->last[i], key);
	return child;
}

/* How many ranges of a leaf begin behind a key. */
static __always_inline __u64 behind4(const struct list_leaf4 *leaf, __u64 key)
{
	__u64 behind = 0;
	int i;

#pragma unroll
	for (i = 0; i < LIST_LEAF4; i++)
		behind += less(key, leaf->first[i]);
	return behind;
}

static __always_inline __u64 behind6(const struct list_leaf6 *leaf, __u64 key)
{
	__u64 behind = 0;
	int i;

#pragma unroll
	for (i = 0; i < LIST_LEAF6; i++)
		behind += less(key, leaf->first[i]);
	return behind;
}

/* Whether the time of a range is not over. */
static __always_inline int range_lives(const struct list_shape *shape, void *ends, __u32 range)
{
	__u32 at = range / LIST_ENDS;
	struct list_ends *end;

	if (!shape->lives)
		return 1;
	end = bpf_map_lookup_elem(ends, &at);
	return end && end->until_s[range % LIST_ENDS] * NSEC_PER_SEC > bpf_ktime_get_boot_ns();
}

static __always_inline enum tree_answer lacks(const struct list_shape *shape)
{
	return shape->trie ? TREE_NONE : TREE_LACKS;
}

/*
 * What the tree says of an address of IPv4, in host order. A global function, as the next one:
 * the verifier reads it once, and by itself. The children of a node follow one another in the
 * level below.
 */
__attribute__((noinline)) int ask_tree4(__u32 addr)
{
	__u32 at = 0, self = 0, level;
	const struct list_shape *shape = bpf_map_lookup_elem(&list4_nodes, &at);
	const struct list_node4 *node;
	const struct list_leaf4 *leaf;
	__u64 key = opaque(addr), in_leaf;

	if (!shape || !shape->leaves)
		return TREE_NONE;
	for (level = 0; level < MAX_LIST_LEVELS; level++) {
		if (level >= shape->levels)
			break;
		at = shape->begins[level] + self;
		node = bpf_map_lookup_elem(&list4_nodes, &at);
		if (!node)
			return TREE_NONE;
		self = self * LIST_BRANCHES4 + child4(node, key);
	}
	at = shape->leaves + self;
	leaf = bpf_map_lookup_elem(&list4_nodes, &at);
	if (!leaf)
		return TREE_NONE;
	in_leaf = opaque(LIST_LEAF4 - 1 - behind4(leaf, key));
	if (in_leaf >= LIST_LEAF4) /* all begin behind it */
		return lacks(shape);
	if ((key - leaf->first[in_leaf]) >> leaf->bits[in_leaf])
		return lacks(shape);
	return range_lives(shape, &list4_ends, self * LIST_LEAF4 + in_leaf) ? TREE_HAS
									    : lacks(shape);
}

/* The same for IPv6, by the upper half of an address, where that is less than 2^63. */
__attribute__((noinline)) int ask_tree6(__u64 addr)
{
	__u32 at = 0, self = 0, level;
	const struct list_shape *shape = bpf_map_lookup_elem(&list6_nodes, &at);
	const struct list_node6 *node;
	const struct list_leaf6 *leaf;
	__u64 key = opaque(addr), in_leaf;

	if (!shape || !shape->leaves || addr >> 63)
		return TREE_NONE;
	for (level = 0; level < MAX_LIST_LEVELS; level++) {
		if (level >= shape->levels)
			break;
		at = shape->begins[level] + self;
		node = bpf_map_lookup_elem(&list6_nodes, &at);
		if (!node)
			return TREE_NONE;
		self = self * LIST_BRANCHES6 + child6(node, key);
	}
	at = shape->leaves + self;
	leaf = bpf_map_lookup_elem(&list6_nodes, &at);
	if (!leaf)
		return TREE_NONE;
	in_leaf = opaque(LIST_LEAF6 - 1 - behind6(leaf, key));
	if (in_leaf >= LIST_LEAF6) /* all begin behind it */
		return lacks(shape);
	if ((key - leaf->first[in_leaf]) >> leaf->bits[in_leaf])
		return lacks(shape);
	return range_lives(shape, &list6_ends, self * LIST_LEAF6 + in_leaf) ? TREE_HAS
									    : lacks(shape);
}

static __always_inline enum tree_answer ask_tree(const struct packet *p)
{
	const __be32 *word_be = p->daddr.word_be;

	if (p->layer3 == LAYER3_IPV4)
		return ask_tree4(bpf_ntohl(word_be[3]));
	return ask_tree6((__u64)bpf_ntohl(word_be[0]) << 32 | bpf_ntohl(word_be[1]));
}

/* Of nested prefixes the longest ends last: user space writes no other into a trie. */
static __always_inline int in_trie(const struct packet *p)
{
	struct listed *l = lookup_prefix(p, &p->daddr, &list4_prefixes, &list6_prefixes);

	return l && (!l->until_s || l->until_s * NSEC_PER_SEC > bpf_ktime_get_boot_ns());
}

/* Whether a list has a destination. Of long lists of IPv6 a part is in the trie. */
static __always_inline int is_listed(const struct packet *p)
{
	enum tree_answer answer = ask_tree(p);

	return answer == TREE_HAS || (answer == TREE_NONE && in_trie(p));
}

#endif
