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

/* Into how many groups the keys of a node or a leaf are parted. */
#define LIST_GROUPS 4

/*
 * How many of the keys, which are in order and so many as groups of a size are, are less than one:
 * by the last of each group, then by the keys of one group. That takes a third of the comparisons,
 * and is no branch either.
 */
#define COUNT_LESS(keys, size, key)                                                                \
	({                                                                                         \
		__u64 groups = 0, count, from;                                                     \
		int i;                                                                             \
		_Static_assert(sizeof(keys) == sizeof((keys)[0]) * LIST_GROUPS * (size), #keys);   \
		_Pragma("unroll") for (i = 1; i < LIST_GROUPS; i++) groups +=                      \
			less((keys)[i * (size)-1], key);                                           \
		count = from = opaque(groups) % LIST_GROUPS * (size);                              \
		_Pragma("unroll") for (i = 0; i < (size); i++) count +=                            \
			less((keys)[from + i], key);                                               \
		count;                                                                             \
	})

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
		self = self * LIST_BRANCHES4 +
		       COUNT_LESS(node->last, (LIST_BRANCHES4 - 1) / LIST_GROUPS, key);
	}
	at = shape->leaves + self;
	leaf = bpf_map_lookup_elem(&list4_nodes, &at);
	if (!leaf)
		return TREE_NONE;
	in_leaf = opaque(COUNT_LESS(leaf->first, LIST_LEAF4 / LIST_GROUPS, key + 1) - 1);
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
		self = self * LIST_BRANCHES6 +
		       COUNT_LESS(node->last, (LIST_BRANCHES6 - 1) / LIST_GROUPS, key);
	}
	at = shape->leaves + self;
	leaf = bpf_map_lookup_elem(&list6_nodes, &at);
	if (!leaf)
		return TREE_NONE;
	in_leaf = opaque(COUNT_LESS(leaf->first, LIST_LEAF6 / LIST_GROUPS, key + 1) - 1);
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
