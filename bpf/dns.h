/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Reads the question of a DNS query by UDP, as far as it changes who answers. A
 * query that cannot be read goes on to DNSPort like any other; and where a name only
 * looks like one that matters, the sentry, which gets it, knows better. So all here
 * may err, but only that way round.
 *
 * The message is copied to a map, and what was learned of it is written down there:
 * of a map the verifier remembers nothing, so its effort does not grow with what a
 * name may look like.
 */
#ifndef TORBPF_DNS_H
#define TORBPF_DNS_H

#include "classify.h"
#include "dns_answer.h"
#include "match.h"

#define DNS_TYPE_PTR   12
#define DNS_TYPE_SVCB  64
#define DNS_TYPE_HTTPS 65
#define DNS_CLASS_IN   1

#define DNS_MAX_NAME  255 /* RFC 1035, 2.3.4, with the length bytes */
#define DNS_MAX_LABEL 63

/* What a query asks for, where that changes who answers. */
enum question {
	QUESTION_ANY = 0, /* whatever DNSPort makes of it */
	QUESTION_NO_DATA, /* a type for which there is never any */
	QUESTION_LOCAL,	  /* a name that no exit is to hear of */
	QUESTION_DOMAIN,  /* a name that is excluded */
};

/* Eight bytes of a name as one number, the first lowest; see name_word(). */
#define WORD(a, b, c, d, e, f, g, h)                                                               \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 |   \
	 (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)
#define LOWER_CASE 0x2020202020202020ULL

/* Two bytes of a message, of which the type and the class may not be aligned. */
static __always_inline __u32 query_u16(const struct query *q, __u32 offset)
{
	offset = within(offset);
	return q->bytes[offset] << 8 | q->bytes[offset + 1];
}

/* Up to eight bytes from an offset on, letters in lower case. */
static __always_inline __u64 name_word(const struct query *q, __u32 offset, __u32 bytes)
{
	const __u8 *b = &q->bytes[within(offset)];
	__u64 word = WORD(b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]) | LOWER_CASE;

	return bytes < 8 ? word & ((1ULL << 8 * bytes) - 1) : word;
}

/* Copies the message. Returns NULL where it is no plain query of one question. */
static __always_inline struct query *load_query(struct __sk_buff *skb, __u32 l4_offset)
{
	__u32 first = 0, length;
	struct query *q = bpf_map_lookup_elem(&queries, &first);
	struct dns_header *header;
	struct udphdr udp;

	if (!q || bpf_skb_load_bytes(skb, l4_offset, &udp, sizeof(udp)))
		return NULL;
	length = bpf_ntohs(udp.len);
	if (length < sizeof(udp) + DNS_HEADER || length > sizeof(udp) + DNS_MAX_QUERY)
		return NULL;
	length -= sizeof(udp);
	q->length = length;
	if (bpf_skb_load_bytes(skb, l4_offset + sizeof(udp), q->bytes, length))
		return NULL;
	header = (struct dns_header *)q->bytes;
	if (header->flags_be & bpf_htons(DNS_FLAG_RESPONSE | DNS_FLAGS_OPCODE))
		return NULL;
	return header->questions_be == bpf_htons(1) ? q : NULL;
}

/* Walks the name of the question. Returns 0 where it cannot be read. */
static __always_inline int walk_name(struct query *q)
{
	__u32 at = DNS_HEADER;
	__u32 i, size;

	for (i = 0; i < QUERY_LABELS; i++) {
		at = within(at);
		size = q->bytes[at];
		if (!size)
			break;
		if (size > DNS_MAX_LABEL || at > DNS_HEADER + DNS_MAX_NAME) /* > 63: compressed */
			return 0;
		q->offset[i] = at;
		at += size + 1;
	}
	q->labels = i;
	q->name_end = at + 1;
	return i < QUERY_LABELS && at < DNS_HEADER + DNS_MAX_NAME &&
	       q->name_end + DNS_TYPE_CLASS <= q->length;
}

/* The offset of a label, counted from the end of the name: the last is 0. */
static __always_inline __u32 label_from_end(const struct query *q, __u32 n)
{
	__u32 index = q->labels - 1 - n;

	asm volatile("" : "+r"(index));
	return index < QUERY_LABELS ? q->offset[index] : 0;
}

/* The decimal number that a label is, or 0: what is no address is asked of the sentry. */
static __always_inline __u8 label_octet(const struct query *q, __u32 offset)
{
	const __u8 *label = &q->bytes[within(offset)];
	__u32 i, digit, value = 0;

	for (i = 1; i <= 3; i++) {
		if (i > label[0])
			break;
		digit = (label[i] | 0x20) - '0';
		if (digit > 9)
			return 0;
		value = value * 10 + digit;
	}
	return value;
}

/* RFC 1035, 3.5: the last label before in-addr.arpa is the first octet. */
static __always_inline int local_reverse4(struct query *q)
{
	struct prefix4 key = {.prefixlen = 32};
	__u32 i;

	for (i = 0; i < 4; i++)
		q->address[i] = q->labels > 2 + i ? label_octet(q, label_from_end(q, 2 + i)) : 0;
	__builtin_memcpy(&key.addr_be, q->address, sizeof(key.addr_be));
	return bpf_map_lookup_elem(&local4_prefixes, &key) != NULL;
}

/* The hexadecimal digit that a label is; what is none matters to nobody. */
static __always_inline __u8 label_digit(const struct query *q, __u32 offset)
{
	__u8 digit = q->bytes[within(offset) + 1];

	return (digit & 0x0f) + (digit >> 6) * 9; /* 'a' and 'A' are 1 above 0x60 and 0x40 */
}

/* RFC 3596, 2.5: from the end, each label is one digit more of the address. */
static __always_inline int local_reverse6(struct query *q)
{
	struct prefix6 key = {.prefixlen = 128};
	__u32 i, at = label_from_end(q, 1);

	__builtin_memset(q->address, 0, sizeof(q->address));
	for (i = 0; i < sizeof(q->address); i++) {
		at -= 4;
		if (at < DNS_HEADER || at > DNS_MAX_QUERY)
			break;
		q->address[i] = label_digit(q, at + 2) << 4 | label_digit(q, at);
	}
	__builtin_memcpy(key.addr, q->address, sizeof(key.addr));
	return bpf_map_lookup_elem(&local6_prefixes, &key) != NULL;
}

/*
 * Whether the name of an address is that of a LAN's, or of a private one. What else
 * there is below arpa are a few names that mean the network one is in.
 */
static __always_inline int local_reverse(struct query *q)
{
	__u32 label = label_from_end(q, 1);

	switch (name_word(q, label + 1, q->bytes[within(label)])) {
	case WORD('i', 'n', '-', 'a', 'd', 'd', 'r', 0):
		return local_reverse4(q);
	case WORD('i', 'p', '6', 0, 0, 0, 0, 0):
		return local_reverse6(q);
	default:
		return 1;
	}
}

/*
 * Names by which browsers and systems ask the network whether to bypass its resolver
 * (docs/DNS.md): of their length, and beginning like them.
 */
static __always_inline int canary_name(const struct query *q)
{
	__u64 begin = name_word(q, DNS_HEADER, 8);

	switch (q->name_end - DNS_HEADER) {
	case sizeof("\x13use-application-dns\x03net"):
		return begin == (WORD(19, 'u', 's', 'e', '-', 'a', 'p', 'p') | LOWER_CASE);
	case sizeof("\x04mask\x06icloud\x03"
		    "com"):
		return begin == (WORD(4, 'm', 'a', 's', 'k', 6, 'i', 'c') | LOWER_CASE);
	case sizeof("\x07mask-h2\x06icloud\x03"
		    "com"):
		return begin == (WORD(7, 'm', 'a', 's', 'k', '-', 'h', '2') | LOWER_CASE);
	default:
		return 0;
	}
}

/* Names without a dot, and those of domains that are no part of the public DNS. */
static __always_inline int local_name(struct query *q)
{
	__u32 last = label_from_end(q, 0);
	__u32 size = q->bytes[within(last)];
	__u64 more = size > 8 ? name_word(q, last + 9, size - 8) : 0;

	if (q->labels < 2)
		return q->labels;
	switch (name_word(q, last + 1, size)) {
	case WORD('l', 'a', 'n', 0, 0, 0, 0, 0):
	case WORD('h', 'o', 'm', 'e', 0, 0, 0, 0):
	case WORD('l', 'o', 'c', 'a', 'l', 0, 0, 0):
	case WORD('i', 'n', 't', 'e', 'r', 'n', 'a', 'l'):
		return size <= 8;
	case WORD('l', 'o', 'c', 'a', 'l', 'd', 'o', 'm'):
		return more == WORD('a', 'i', 'n', 0, 0, 0, 0, 0);
	case WORD('l', 'o', 'c', 'a', 'l', 'h', 'o', 's'):
		return more == 't';
	case WORD('a', 'r', 'p', 'a', 0, 0, 0, 0):
		return local_reverse(q);
	default:
		return canary_name(q);
	}
}

/*
 * Adds a label of this run's query to the hash of what follows it, letters in lower case.
 * A global function, as read_question(): inlined into a loop it would be checked for each
 * turn of that, which was half of all that the verifier did.
 */
__attribute__((noinline)) __u64 hash_label(__u32 offset, __u64 h)
{
	__u32 first = 0, i, size;
	const struct query *q = bpf_map_lookup_elem(&queries, &first);

	if (!q)
		return 0;
	size = q->bytes[within(offset)];
	for (i = 0; i <= DNS_MAX_LABEL; i++) {
		if (i > size)
			break;
		h = (h ^ (q->bytes[within(offset + i)] | (i ? 0x20 : 0))) * NAME_PRIME;
	}
	return h;
}

static __always_inline int is_excluded_name(__u64 key)
{
	struct rule *r = bpf_map_lookup_elem(&domains, &key);

	return r && in_force(r);
}

/*
 * Whether a name is excluded: itself, or by what it is below. A hash may be met by
 * another name; the sentry, which gets it, compares names.
 */
static __always_inline int excluded_name(const struct query *q)
{
	__u64 h = NAME_SEED;
	__u32 n;

	for (n = 0; n < QUERY_LABELS; n++) {
		if (n >= q->labels)
			break;
		h = hash_label(label_from_end(q, n), h);
		if (is_excluded_name(n + 1 == q->labels ? h : h ^ NAME_BELOW))
			return 1;
	}
	return 0;
}

/*
 * A global function, which the verifier checks once and by itself: inlined it would do
 * so for each way that leads here, and attach would take twice as long.
 */
__attribute__((noinline)) enum question read_question(struct __sk_buff *skb, __u32 l4_offset,
						      __u32 has_domains)
{
	struct query *q = load_query(skb, l4_offset);
	__u32 type;

	if (!q || !walk_name(q) || query_u16(q, q->name_end + 2) != DNS_CLASS_IN)
		return QUESTION_ANY;
	type = query_u16(q, q->name_end);
	if (type == DNS_TYPE_HTTPS || type == DNS_TYPE_SVCB)
		return QUESTION_NO_DATA;
	if (local_name(q))
		return QUESTION_LOCAL;
	return has_domains && excluded_name(q) ? QUESTION_DOMAIN : QUESTION_ANY;
}

/*
 * What is decided of a DNS query by UDP once its question is read. HTTPS and SVCB
 * records would only name addresses and keys that tor cannot use, and browsers wait
 * for them; so there are none. Local names are the sentry's, and so are those by which
 * browsers learn of the network.
 */
static __always_inline struct decision classify_question(struct __sk_buff *skb,
							 const struct packet *p,
							 const struct settings *s,
							 struct decision d)
{
	if (d.verdict != VERDICT_DNS)
		return d;
	switch (read_question(skb, p->l4_offset, s->domains)) {
	case QUESTION_NO_DATA:
		return decide(VERDICT_REFUSED, REASON_DNS_NO_DATA);
	case QUESTION_LOCAL:
		return decide(VERDICT_RESOLVER, REASON_DNS_LOCAL);
	case QUESTION_DOMAIN:
		return decide(VERDICT_RESOLVER, REASON_DNS_DOMAIN);
	default:
		return d;
	}
}

#endif
