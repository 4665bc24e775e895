/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * DNS answers made of the query itself: a failure while Tor is not there, and "no
 * such record" for the types that nobody gets through Tor.
 */
#ifndef TORBPF_DNS_ANSWER_H
#define TORBPF_DNS_ANSWER_H

#include <linux/udp.h>

#include "maps.h"
#include "parse.h"

/* RFC 1035, 4.1.1. */
#define DNS_HEADER	   12
#define DNS_FLAG_RESPONSE  0x8000
#define DNS_FLAGS_OPCODE   0x7800
#define DNS_FLAG_RECURSION 0x0080 /* available */
#define DNS_FLAGS_KEPT	   0x7900 /* opcode and RD of the query */
#define DNS_RCODE_SERVFAIL 2

#define DNS_TYPE_CLASS 4 /* bytes behind the name of a question */

/* The longest query that is read, and as a mask what no offset in it exceeds. */
#define DNS_MAX_QUERY 511

struct dns_header {
	__be16 id_be;
	__be16 flags_be;
	__be16 questions_be;
	__be16 records_be[3]; /* answers, authorities, additionals */
};

/*
 * An offset that the verifier sees to be below the size; without the barrier clang
 * would take the mask away where it knows better.
 */
static __always_inline __u32 within(__u32 offset)
{
	asm volatile("" : "+r"(offset));
	return offset & DNS_MAX_QUERY;
}

/* Swaps addresses and ports, which leaves both checksums as they are. */
static __always_inline int turn_around(struct __sk_buff *skb, const struct packet *p)
{
	struct ports ports = {.source_be = p->dport_be, .destination_be = p->sport_be};

	if (p->layer3 == LAYER3_IPV4) {
		__be32 addrs_be[2] = {p->daddr.word_be[3], p->saddr.word_be[3]};
		__u32 offset = p->l3_offset + offsetof(struct iphdr, saddr);

		if (bpf_skb_store_bytes(skb, offset, addrs_be, sizeof(addrs_be), 0))
			return 0;
	} else {
		union inet_address addrs[2] = {p->daddr, p->saddr};
		__u32 offset = p->l3_offset + offsetof(struct ipv6hdr, saddr);

		if (bpf_skb_store_bytes(skb, offset, addrs, sizeof(addrs), 0))
			return 0;
	}
	return !bpf_skb_store_bytes(skb, p->l4_offset, &ports, sizeof(ports), 0);
}

/* The query comes back as its own answer: SERVFAIL, with nothing in it. */
static __always_inline int answer_failure(struct __sk_buff *skb, const struct packet *p)
{
	__u32 header = p->l4_offset + sizeof(struct udphdr);
	__be16 flags_be, failed_be;

	if (skb->len < header + DNS_HEADER || bpf_skb_load_bytes(skb, header + 2, &flags_be, 2))
		return 0;
	if (flags_be & bpf_htons(DNS_FLAG_RESPONSE)) /* answering answers would never end */
		return 0;
	failed_be = flags_be & bpf_htons(DNS_FLAGS_KEPT);
	failed_be |= bpf_htons(DNS_FLAG_RESPONSE | DNS_RCODE_SERVFAIL);
	if (bpf_l4_csum_replace(skb, p->l4_offset + offsetof(struct udphdr, check), flags_be,
				failed_be, BPF_F_MARK_MANGLED_0 | sizeof(flags_be)))
		return 0;
	if (bpf_skb_store_bytes(skb, header + 2, &failed_be, sizeof(failed_be), 0))
		return 0;
	return turn_around(skb, p);
}

/* States the length of the packet anew in its network header. */
static __always_inline int resize_network(struct __sk_buff *skb, const struct packet *p,
					  __u32 length)
{
	__be16 before_be = bpf_htons(p->length);
	__be16 stated_be = bpf_htons(length);
	__u32 offset = p->l3_offset + offsetof(struct iphdr, tot_len);

	if (p->layer3 == LAYER3_IPV6) {
		stated_be = bpf_htons(length - sizeof(struct ipv6hdr));
		offset = p->l3_offset + offsetof(struct ipv6hdr, payload_len);
	} else if (bpf_l3_csum_replace(skb, p->l3_offset + offsetof(struct iphdr, check), before_be,
				       stated_be, sizeof(stated_be))) {
		return 0;
	}
	return !bpf_skb_store_bytes(skb, offset, &stated_be, sizeof(stated_be), 0);
}

/*
 * Makes the message in q its own answer, cut off behind the question, and returns by
 * how much its checksum changes. What is summed is filled up with zeros to a
 * multiple of four bytes.
 */
static __always_inline __s64 cut_to_question(struct query *q, __u32 length, __u32 end)
{
	struct dns_header *header = (struct dns_header *)q->bytes;
	__be16 kept_be = header->flags_be & bpf_htons(DNS_FLAGS_KEPT);
	__s64 sum;

	__builtin_memset(&q->bytes[length], 0, 3);
	sum = bpf_csum_diff((__be32 *)q->bytes, (length + 3) & ~3U, NULL, 0, 0);
	header->flags_be = kept_be | bpf_htons(DNS_FLAG_RESPONSE | DNS_FLAG_RECURSION);
	__builtin_memset(header->records_be, 0, sizeof(header->records_be));
	__builtin_memset(&q->bytes[end], 0, 3);
	return bpf_csum_diff(NULL, 0, (__be32 *)q->bytes, (end + 3) & ~3U, sum);
}

/*
 * The query comes back as its own answer: NOERROR, its question, and nothing else.
 * Checksums are changed, not made: that is right whether the sender's is whole, left
 * to its network card, or missing.
 */
static __always_inline int answer_no_data(struct __sk_buff *skb, const struct packet *p)
{
	__u32 first = 0, message = p->l4_offset + sizeof(struct udphdr);
	__u32 check = p->l4_offset + offsetof(struct udphdr, check);
	struct query *q = bpf_map_lookup_elem(&queries, &first);
	__be16 before_be, after_be;
	__u32 length, end;
	__s64 sum;

	if (!q)
		return 0;
	length = within(q->length);
	end = within(q->name_end) + DNS_TYPE_CLASS;
	before_be = bpf_htons(sizeof(struct udphdr) + length);
	after_be = bpf_htons(sizeof(struct udphdr) + end);
	sum = cut_to_question(q, length, end);
	if (bpf_skb_change_tail(skb, message + end, 0) ||
	    bpf_l4_csum_replace(skb, check, 0, sum, BPF_F_MARK_MANGLED_0) ||
	    bpf_l4_csum_replace(skb, check, before_be, after_be,
				BPF_F_MARK_MANGLED_0 | sizeof(after_be)) ||
	    bpf_l4_csum_replace(skb, check, before_be, after_be,
				BPF_F_MARK_MANGLED_0 | BPF_F_PSEUDO_HDR | sizeof(after_be)))
		return 0;
	if (bpf_skb_store_bytes(skb, message, q->bytes, DNS_HEADER, 0) ||
	    bpf_skb_store_bytes(skb, p->l4_offset + offsetof(struct udphdr, len), &after_be,
				sizeof(after_be), 0))
		return 0;
	return resize_network(skb, p, message + end - p->l3_offset) && turn_around(skb, p);
}

#endif
