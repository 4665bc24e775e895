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
 * How many keys, which are in order and so many as groups of a size are, are less than one: by the
 * last of each group, then by those of one group. That takes a third of the comparisons, and is
 * no branch either. KEY(i) is a key.
 */
#define COUNT_LESS(KEY, size, key)                                                                 \
	({                                                                                         \
		__u64 groups = 0, count, from;                                                     \
		__u32 i;                                                                           \
		_Pragma("unroll") for (i = 1; i < LIST_GROUPS; i++) groups +=                      \
			less(KEY(i * (size)-1), key);                                              \
		count = from = opaque(groups) % LIST_GROUPS * (size);                              \
		_Pragma("unroll") for (i = 0; i < (size); i++) count += less(KEY(from + i), key);  \
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

/* The keys of a node. An address of IPv4 takes half the room, as all that is in its tree. */
#define KEY_OF(node, i, is6) ((is6) ? ((const __u64 *)(node))[i] : ((const __u32 *)(node))[i])

static __always_inline const void *node_at(void *nodes, __u32 number)
{
	return bpf_map_lookup_elem(nodes, &number);
}

/* The number of the leaf that may have an address; -1 if there is none. */
static __always_inline __s64 find_leaf(void *nodes, const struct list_shape *shape, __u64 key,
				       int is6)
{
	const __u32 branches = is6 ? LIST_BRANCHES6 : LIST_BRANCHES4, keys = branches - 1;
	const __u32 slots = is6 ? 2 * keys : keys;
	__u64 slot = (key - shape->first) >> shape->slot_bits;
	const struct list_slot *in_slots = node_at(nodes, shape->slots + slot / slots);
	const void *node;
	__u32 number, half, next, i;

	if (!in_slots)
		return -1;
	number = in_slots[slot % slots].node;
	half = in_slots[slot % slots].half;
	for (i = 0; i < MAX_LIST_STEPS; i++) {
		if (!half)
			break;
		next = number + half;
		node = node_at(nodes, shape->tops + next / keys);
		if (!node)
			return -1;
		number = (number + half * less(KEY_OF(node, next % keys, is6), key)) & 0xffff;
		half >>= 1;
	}
	node = node_at(nodes, shape->nodes + number);
	if (!node)
		return -1;
#define NODE_KEY(i) KEY_OF(node, i, is6)
	return number * branches + COUNT_LESS(NODE_KEY, keys / LIST_GROUPS, key);
#undef NODE_KEY
}

/* 1 if the range of a code has the address of another one, which is twice that and 1. */
static __always_inline __u64 has(__u64 code, __u64 addr)
{
	return less(code ^ addr, 2 * (code & -code));
}

#define CODES_IN_WORD(bits) ((bits) == LIST_NEAR_BITS4 ? 3ULL : 2ULL)

/* A code of a leaf. Its word is hidden, or the verifier would take it for one further. */
static __always_inline __u64 code_of(const struct list_leaf4 *leaf, __u64 number, int bits)
{
	const __u64 in_word = CODES_IN_WORD(bits);
	__u64 word = opaque(in_word == 3 ? number * 43 >> 7 : number >> 1);

	return leaf->codes[word] >> (number - word * in_word) * bits & ((1ULL << bits) - 1);
}

/*
 * The number of the range of a leaf that has an address, or -1. All codes of a word are compared at
 * once: the free bit above each is set in what they are taken from, and stays where the code is
 * not above the address. So the code before, or else the next one, is that of the range.
 */
static __always_inline int find_in_leaf4(const struct list_leaf4 *leaf, __u64 key, int bits)
{
	const __u64 in_word = CODES_IN_WORD(bits), ranges = in_word * LIST_CODES4;
	const __u64 ones = 1 | 1ULL << bits | (in_word == 3 ? 1ULL << 2 * bits : 0);
	const __u64 free = ones << (bits - 1);
	__u64 addr = 2 * (key - leaf->base) + 1, all, count = 0, before, next, is_next;
	int i;

	if (addr >> (bits - 1))
		return -1;
	all = opaque(addr * ones | free);
#pragma unroll
	for (i = 0; i < LIST_CODES4; i++)
		count += (all - leaf->codes[i]) & free;
	count = opaque((count >> (bits - 1)) * ones >> (in_word - 1) * bits & 31);
	before = count - less(0, count);
	next = count - less(ranges - 1, count);
	if (before >= ranges || next >= ranges) /* never */
		return -1;
	is_next = has(code_of(leaf, next, bits), addr);
	if (!(is_next | has(code_of(leaf, before, bits), addr)))
		return -1;
	return before + (next - before) * is_next;
}

static __always_inline int find_in_leaf6(const struct list_leaf6 *leaf, __u64 key)
{
	__u64 in_leaf;

#define FIRST(i) (leaf->first[i])
	in_leaf = opaque(COUNT_LESS(FIRST, LIST_LEAF6 / LIST_GROUPS, key + 1) - 1);
#undef FIRST
	if (in_leaf >= LIST_LEAF6) /* all begin behind it */
		return -1;
	return (key - leaf->first[in_leaf]) >> leaf->bits[in_leaf] ? -1 : in_leaf;
}

static __always_inline int ask(void *nodes, void *ends, __u64 key, int is6)
{
	const struct list_shape *shape = node_at(nodes, 0);
	int ranges, range;
	const void *leaf;
	__s64 number;

	if (!shape || !shape->leaves)
		return TREE_NONE;
	key = opaque(key);
	if (key - shape->first > shape->span)
		return lacks(shape);
	number = find_leaf(nodes, shape, key, is6);
	if (number < 0)
		return TREE_NONE;
	leaf = node_at(nodes, shape->leaves + number);
	if (!leaf)
		return TREE_NONE;
	if (is6) {
		ranges = LIST_LEAF6;
		range = find_in_leaf6(leaf, key);
	} else if (shape->wide) {
		ranges = CODES_IN_WORD(LIST_WIDE_BITS4) * LIST_CODES4;
		range = find_in_leaf4(leaf, key, LIST_WIDE_BITS4);
	} else {
		ranges = CODES_IN_WORD(LIST_NEAR_BITS4) * LIST_CODES4;
		range = find_in_leaf4(leaf, key, LIST_NEAR_BITS4);
	}
	if (range < 0)
		return lacks(shape);
	return range_lives(shape, ends, number * ranges + range) ? TREE_HAS : lacks(shape);
}

/*
 * What the tree says of an address of IPv4, in host order. A global function, as the next one:
 * the verifier reads it once, and by itself.
 */
__attribute__((noinline)) int ask_tree4(__u32 addr)
{
	return ask(&list4_nodes, &list4_ends, addr, 0);
}

/* The same for IPv6, by the upper half of an address, where that is less than 2^63. */
__attribute__((noinline)) int ask_tree6(__u64 addr)
{
	return addr >> 63 ? TREE_NONE : ask(&list6_nodes, &list6_ends, addr, 1);
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
