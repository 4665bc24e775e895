/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * All that user space sees: verdicts, reasons, keys and values of the maps.
 * Go gets these by bpf2go, so nothing here is typed twice. Byte order and
 * units are part of a name (dport_be, time_ns). Addresses are 16 bytes in
 * network order; an IPv4 address is written ::ffff:a.b.c.d.
 */
#ifndef TORBPF_ABI_H
#define TORBPF_ABI_H

#include <linux/types.h>

/*
 * What becomes of a packet, and at the same time the class that its mark
 * carries on to nftables, to the guard of what is forwarded and to the uplink:
 * the low four of our eight mark bits. Bit 3 says "must not be forwarded", so
 * that one masked comparison holds for every such class.
 */
enum verdict {
	VERDICT_NONE = 0,      /* not judged: another VLAN's frame */
	VERDICT_DIRECT = 1,    /* excluded: forwarded as if torbpf were not here */
	VERDICT_LOCAL = 2,     /* the router itself or a local subnet, never an uplink */
	VERDICT_INBOUND = 3,   /* part of a connection begun outside (set by conntrack) */
	VERDICT_VIA = 4,       /* direct, but by an excluded interface only */
	VERDICT_TOR = 8,       /* TCP to tor */
	VERDICT_ONION = 9,     /* TCP to tor, which no exemption can undo */
	VERDICT_DNS = 10,      /* UDP to DNSPort */
	VERDICT_RESOLVER = 11, /* DNS that DNSPort cannot answer: to the sentry */
	VERDICT_REFUSED = 12,  /* dropped; the sender is told where that helps */
	VERDICT_PENDING = 13,  /* refused unless conntrack or a late mark says otherwise */
	VERDICT_TIME = 14,     /* NTP to the router's own time server */
};

/* Set in every class that must not be forwarded. */
enum verdict_bit {
	VERDICT_BLOCKED_BIT = 8,
	VERDICT_TOR_BITS = 14, /* by which tor and onion are told from all others */
};

/*
 * What is above the class in our bits: of what is Tor's the instance, or else one of these. None of
 * what this machine itself sends takes the fast path, and nothing that is forwarded is tor's own.
 */
enum above_class {
	WAY_SLOW = 0,
	WAY_FLEETING = 1, /* what lets it out may end with no policy changed: for no flowtable */
	WAY_FAST = 15,	  /* of what is forwarded: it has taken the fast path */
	OWN_BESIDE_TOR =
		14,	 /* of what is sent: a program beside tor does, such as its transports */
	OWN_OF_TOR = 15, /* of what is sent: tor does, for others; both are counted apart */
};

/* How many there may be; of LANs nftables has a set of the same size. */
enum limit {
	MAX_LANS = 256,
	MAX_INSTANCES = 16, /* of tor: the high four of our mark bits tell them apart */
	/*
	 * So many rules of one kind that have ended and cover a packet are looked behind.
	 * What is behind them, if anything, counts as "tor"; of a source as "block".
	 */
	MAX_NESTED = 4,
	MAX_LIST_STEPS = 16, /* from a slot of a tree to a node */
	LIST_BRANCHES4 = 17,
	LIST_BRANCHES6 = 33,
	LIST_CODES4 = 7,      /* words of a leaf */
	LIST_NEAR_BITS4 = 20, /* of a code, and three of them are in a word */
	LIST_WIDE_BITS4 = 30, /* two, where ranges lie far apart */
	LIST_LEAF6 = 28,      /* ranges */
	LIST_ENDS = 16,	      /* a power of two */
};

/*
 * What of what the router itself sends to groups gets no further than its links: values and
 * masks of the first 32 bits of a group's address, in host order (RFC 5771; RFC 4291, 2.7:
 * scope 2, whatever the flags), and hop limits.
 */
enum near_group {
	LINK_GROUP4 = 0xe0000000,
	LINK_GROUP4_MASK = 0xffffff00,
	LINK_GROUP6 = 0xff020000,
	LINK_GROUP6_MASK = 0xff0f0000,
	LINK_HOPS = 1,
	ALL_HOPS = 255, /* as many as there are: no router has seen it */
	SSDP_GROUP4 = 0xeffffffa,
	SSDP_HOPS = 4,
};

/* Why. Each reason belongs to one verdict; docs/REASONS.md explains them. */
enum reason {
	REASON_NONE = 0,

	REASON_OTHER_VLAN,     /* none: tagged for a VLAN device, judged there */
	REASON_NON_IP,	       /* local: ARP, LLDP, ...: never forwarded by IP */
	REASON_LINK_LOCAL,     /* local: to a link-local address (ND, DHCPv6) */
	REASON_MULTICAST,      /* local: to a multicast or broadcast address */
	REASON_ROUTER_ADDRESS, /* local: to an address of the router */
	REASON_LOCAL_SUBNET,   /* local: to a subnet that no uplink leads to */

	REASON_DIRECT_SOURCE,	   /* direct: the source is excluded */
	REASON_DIRECT_DESTINATION, /* direct: the destination is excluded */
	REASON_EXEMPT_MARK,	   /* direct: the packet carries an exempt mark */
	REASON_RESERVED_OPEN,	   /* direct: reserved address, let out on request */

	REASON_TCP,	  /* tor */
	REASON_ONION_TCP, /* onion */
	REASON_DNS_UDP,	  /* dns */
	REASON_ONION_DNS, /* dns: UDP 53 to a .onion address */
	REASON_DNS_TCP,	  /* resolver */

	REASON_INBOUND_REPLY, /* pending: answers a flow that came from outside */
	REASON_LATE_MARK,     /* pending: prerouting rules may yet exempt it */

	REASON_BLOCKED_SOURCE,	  /* refused: the source is blocked */
	REASON_ONION_FROM_DIRECT, /* refused: .onion from a source outside Tor */
	REASON_ONION_PROTOCOL,	  /* refused: .onion by anything but TCP and DNS */
	REASON_FRAGMENT,	  /* refused: a fragment hides its ports */
	REASON_PRIVATE,		  /* refused: private address beyond the uplink */
	REASON_TOR_NOT_READY,	  /* refused: Tor is starting, hung or gone */
	REASON_UDP,		  /* refused: UDP that is not DNS */
	REASON_QUIC,		  /* refused: UDP 443, so that browsers use TCP */
	REASON_NTP,		  /* refused: UDP 123 */
	REASON_ICMP,		  /* refused: Tor carries no ICMP */
	REASON_PROTOCOL,	  /* refused: any other protocol */
	REASON_MALFORMED,	  /* refused: headers that cannot be read */

	REASON_UPLINK_GUARD, /* refused at an uplink: it should not have come here */
	REASON_DNS_GUARD,    /* refused: DNS to the router that no redirect takes away */

	REASON_FOREIGN_SOURCE, /* refused: no LAN has this source: the answer would leave */
	REASON_DELIVERY_GUARD, /* refused: to be delivered where it must not be */
	REASON_ROUTER_DNS,     /* refused: DNS for the router's own resolver alone */
	REASON_DNS_NO_DATA,    /* refused: a type of no use through Tor, answered at once */
	REASON_DNS_LOCAL,      /* resolver: a name that no exit is to hear of */

	REASON_NTP_ROUTER, /* time: NTP to whomever, answered by the router */
	REASON_OWN_DNS,	   /* none: DNS that the router itself sends by an uplink */
	REASON_CUT_PEER,   /* refused: from or to the far end of a connection that was cut */

	REASON_DIRECT_PORT,	 /* direct: the destination's port or protocol is excluded */
	REASON_DIRECT_DEVICE,	 /* direct: the device is excluded, by its hardware address */
	REASON_BLOCKED_DEVICE,	 /* refused: the device is blocked */
	REASON_DIRECT_INTERFACE, /* via: its route leads to an excluded interface */
	REASON_DIRECT_DOMAIN,	 /* direct: an excluded name stands for the address */
	REASON_DNS_DOMAIN,	 /* resolver: an excluded name */
	REASON_DIRECT_LIST,	 /* direct: the destination is in a list */

	REASON_CLIENT_GUARD, /* refused: the router's own, and nobody has let it go */
	REASON_CLIENT_ENDED, /* refused: the router's own, and no rule lets its socket out any more
			      */

	REASON_ONION_MOVED,   /* refused: another tor gave out this .onion address */
	REASON_FORWARD_GUARD, /* refused: about to be forwarded, which it must not be */
	REASON_NO_CONNECTION, /* pending: TCP that begins nothing, and tor has no such connection */
	REASON_STRANGER,      /* refused: a socket that is not tor's has this connection */

	REASON_MAX,
};

/* What a rule says of the packets that it matches. */
enum policy {
	POLICY_TOR = 0,
	POLICY_DIRECT = 1,
	POLICY_BLOCK = 2,
};

/* Destinations that no rule names and that lie in private or reserved space. */
enum local_mode {
	LOCAL_CONNECTED = 0, /* local subnets are local, the rest is refused */
	LOCAL_RESERVED = 1,  /* all reserved space goes direct */
	LOCAL_NONE = 2,	     /* local subnets are refused as well */
};

/* What an address of the map local_addrs is. */
enum local_addr {
	LOCAL_ADDR_ROUTER = 1,
	LOCAL_ADDR_BROADCAST = 2,
};

struct prefix4 {
	__u32 prefixlen;
	__be32 addr_be;
};

struct prefix6 {
	__u32 prefixlen;
	__u8 addr[16];
};

/* A prefix at an interface, whose 32 bits count as well. */
struct link_prefix6 {
	__u32 prefixlen;
	__u32 ifindex;
	__u8 addr[16];
};

struct address {
	__u8 addr[16];
};

/* A protocol and port, of destinations under a prefix; prefixlen counts from the protocol on. */
struct service4 {
	__u32 prefixlen;
	__u8 protocol;
	__u8 pad;
	__be16 port_be; /* 0: the protocol has no ports */
	__be32 addr_be;
};

struct service6 {
	__u32 prefixlen;
	__u8 protocol;
	__u8 pad;
	__be16 port_be;
	__u8 addr[16];
};

/* The hardware address of a device. */
struct mac {
	__u8 addr[6];
	__u8 pad[2];
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

/* Who sends: by hardware address, or by address where frames have none. */
struct device_key {
	struct mac mac;
	__u8 addr[16]; /* zero where mac is not */
};

/*
 * That for one device an address stands for an excluded name, as the answer to its
 * question said. The sentry writes them into memory, into one of the slots from the
 * place on that domain_place() gives; until_ns last, and 0 before the rest changes.
 */
struct domain_slot {
	__u64 until_ns; /* CLOCK_BOOTTIME */
	__u64 domain;	/* the key of its rule in the map domains */
	struct device_key device;
	__u8 addr[16];
};

/*
 * How many slots there are, and how far from its place one is looked for; how many
 * seconds a flow may rest: as long as conntrack keeps an established one, or UDP's.
 */
enum domain_limit {
	DOMAIN_SLOTS = 4096,
	DOMAIN_PROBES = 8,
	DOMAIN_TCP_REST_S = 7200,
	DOMAIN_UDP_REST_S = 180,
	ASKER_SLOTS = 1024,
};

/*
 * Who sent the sentry a question for an excluded name, or began a connection to ask by
 * TCP: the address and port that the sentry sees, and the device that the frame was from.
 * The LAN program writes it at asker_place(), over whatever is there. Who reads it goes by
 * the check: two writers at once, or one under the reader, leave what is nobody's.
 */
struct asker {
	__u64 check;   /* asker_check() of all below */
	__u64 time_ns; /* CLOCK_BOOTTIME */
	struct device_key device;
	__u8 addr[16];
	__be16 port_be;
	__be16 id_be; /* of the DNS message; 0 by TCP */
	__u32 protocol;
};

/* A flow that began to an address while that stood for an excluded name, to who began it. */
struct domain_flow {
	__u64 domain;
	__u64 seen_ns; /* CLOCK_BOOTTIME, of the last packet */
	struct mac mac;
};

/* What becomes of a device's traffic, in a few words. */
enum fate {
	FATE_TOR = 0,
	FATE_DIRECT = 1,
	FATE_LOCAL = 2, /* within the LANs, or with the router */
	FATE_REFUSED = 3,
	FATE_MAX,
};

/* How many slots there are for what devices have sent, and how far from its place one is. */
enum device_limit {
	DEVICE_SLOTS = 4096,
	DEVICE_PROBES = 4,
};

/* A slot of the map of that name; on each CPU another device may have it. */
struct device_traffic {
	struct device_key device; /* zero: nobody has it */
	struct counter by_fate[FATE_MAX];
	__u64 seen_ns;	 /* CLOCK_BOOTTIME, of the first packet of the last tick */
	__u64 seen_tick; /* in jiffies, see traffic.h */
	__u64 quiet_at;	 /* in jiffies: when this address had spent what it may be told */
	__u8 quiet_addr[16];
};

/* What the user wants of some packets; the key of its map says of which. */
struct rule {
	__u64 until_ns;	     /* CLOCK_BOOTTIME; 0: for ever */
	__u64 then_until_ns; /* of what is beneath; 0: nothing is; the highest: for ever */
	enum policy policy;
	enum policy then; /* what was beneath it, for the same key: it only closes */
	__u32 prefixlen;  /* of the key, where that is a prefix */
	__u32 id;	  /* its place in the plan */
};

/* A prefix of a list of destinations. There may be millions: nothing else is in it. */
struct listed {
	__u32 until_s; /* CLOCK_BOOTTIME, in seconds; 0: for ever */
};

/*
 * A node of the tree of a long list: of each leaf below it but the last the last address that it is
 * to be asked for. Addresses are in host order; those of IPv6 go without their lower half.
 */
struct list_node4 {
	__u32 last[LIST_BRANCHES4 - 1];
};

struct list_node6 {
	__u64 last[LIST_BRANCHES6 - 1];
};

/*
 * A leaf, of the same size: ranges of addresses that lists have. The code of a range is twice its
 * first address, less the base, and how many addresses it has, which is a power of two. The highest
 * bit of the room for a code is free.
 */
struct list_leaf4 {
	__u64 base;
	__u64 codes[LIST_CODES4];
};

/* Ranges of 1 << bits addresses. */
struct list_leaf6 {
	__u64 first[LIST_LEAF6];
	__u8 bits[LIST_LEAF6];
	__u32 unused;
};

/* What stands in the place of the first node. */
struct list_shape {
	__u64 first;  /* address that lists have */
	__u64 span;   /* from there to the last one */
	__u32 leaves; /* the number of the first one; 0: there is no tree */
	__u32 nodes;  /* likewise, and so on */
	__u32 tops;   /* the first address of each node, so many beside one another as a node has */
	__u32 slots;  /* nodes by the upper bits of an address */
	__u32 slot_bits; /* the lower bits, which do not tell slots apart */
	__u32 wide;	 /* 1: codes are of LIST_WIDE_BITS4 */
	__u32 lives;	 /* 1: struct list_ends tells until when lists have a range; 0: for ever */
	__u32 trie;	 /* 1: there are lists in the trie, too */
	__u32 ranges;
	__u32 unused[3];
};

/* The nodes that may have the addresses of a slot. */
struct list_slot {
	__u16 node; /* the first of them */
	__u16 half; /* of how many there are, in powers of two */
};

/* Until when lists have ranges, in the order of the leaves: of many, since an entry takes no less.
 */
struct list_ends {
	__u32 until_s[LIST_ENDS]; /* CLOCK_BOOTTIME, in seconds; the highest: for ever */
};

/* Whether what the router itself sends is judged; see uplink.h. */
enum client_mode {
	CLIENT_NONE = 0, /* it is not */
	CLIENT_EXEC = 1, /* only what carries a class that must not leave */
	CLIENT_ALL = 2,	 /* all of it */
};

/* An executable file, whatever its name: as the kernel numbers devices (dev_t). */
struct program_key {
	__u64 inode;
	__u32 dev;
	__u32 pad;
};

/* Whom a rule of client mode is about. */
enum identity_kind {
	IDENTITY_NONE = 0,
	IDENTITY_USER = 1,
	IDENTITY_CGROUP = 2,
	IDENTITY_PROGRAM = 3,
};

/* By which rule a socket is direct: its key, in the map of its kind. */
struct identity {
	__u64 number; /* of the user, or the control group; the program's inode */
	__u32 dev;    /* the program's */
	enum identity_kind kind;
};

/* Where a connection was to go that was led to TransPort; port 0: nowhere, it was not. */
struct target {
	__u8 addr[16];
	__be16 port_be;
	__u16 pad;
};

/* A local subnet and the interface it was learned on; 0: reserved space. */
struct local_subnet {
	__u32 ifindex;
	__u32 reserved; /* 1: no public host lives there */
};

/* A mark is exempt when (mark & mask) == value. */
struct exempt_mark {
	__u32 value;
	__u32 mask;
	struct rule rule;
};

/*
 * What spares most packets a look-up: subnets of LANs in which nothing else is, by the first
 * half of their bits with IPv6; and bits, one of which is not set only where the map has
 * nothing to say. Where these say nothing the maps are asked.
 */
enum shortcut_limit {
	SHORTCUT_SUBNETS = 4,
	SHORTCUT_WORDS = 8, /* of 32 bits */
};

struct shortcut4 {
	__be32 addr_be;
	__be32 mask_be; /* an entry that is not in use is one that nothing matches */
};

struct shortcut6 {
	__be32 addr_be[2];
	__be32 mask_be[2];
};

/* Written only when a program is loaded, before it is attached. */
struct settings {
	struct shortcut4 sources4[SHORTCUT_SUBNETS];
	struct shortcut6 sources6[SHORTCUT_SUBNETS];
	__u32 router_bits[SHORTCUT_WORDS]; /* local_addrs, by router_bit() */
	__u32 local_bits[SHORTCUT_WORDS]; /* local4_prefixes and local6_prefixes, by first_byte() */
	__u32 rule_bits[SHORTCUT_WORDS];  /* dst4_prefixes and dst6_prefixes, by the same */
	__be32 onion4_addr_be;
	__be32 onion4_mask_be;
	__u32 onion4_prefixlen;
	__be32 onion6_words_be[4];
	__u32 onion6_prefixlen;
	enum local_mode local_mode;
	__u32 exempt_marks; /* entries in use of the map of that name */
	__u32 late_marks;   /* 1: refused packets go on to the prerouting rules */
	__u32 inbound;	    /* 1: replies to flows begun outside may pass */
	__u32 sources;	    /* 1: the source prefix maps are not empty */
	__u32 devices;	    /* 1: the map of devices is not empty */
	__u32 services;	    /* 1: the port prefix maps are not empty */
	__u32 tor_ports;    /* 1: of TCP and UDP ports some are Tor's, whatever their destination */
	__u32 exits;	    /* 1: the map of exits is not empty */
	__u32 domains;	    /* 1: the map of domains is not empty */
	__u32 lists;	    /* 1: the list prefix maps are in use */
	__u32 time_server;  /* 1: the router answers NTP, to whomever it was sent */
	enum client_mode client;
	__u32 own_marks; /* entries in use of the map of that name */
};

/* A torified interface; the addresses are those its ICMP errors come from. */
struct lan {
	__be32 addr4_be;
	__u8 addr6[16];
};

/* Whether one Tor instance takes connections; written by the sentry. */
struct gate {
	__u32 open;
};

struct counter_key {
	__u32 ifindex;
	enum verdict verdict;
	enum reason reason;
};

/* A flow with somebody outside, seen from this side: a LAN host, or the router for one. */
struct flow {
	__u8 near_addr[16];
	__u8 peer_addr[16];
	__be16 near_port_be;
	__be16 peer_port_be;
	__u32 protocol;
};

struct inbound_seen {
	__u64 time_ns;
};

/* Until when something holds; it ends by itself, whoever is dead by then. */
struct deadline {
	__u64 until_ns; /* CLOCK_BOOTTIME */
};

/* What a device may still be told of its refusals. */
struct allowance {
	__u64 spent_until_ns; /* CLOCK_MONOTONIC; see may_tell() */
};

/* Labels of the longest name that is read: an IPv6 address has 34, a service there 37. */
#define QUERY_LABELS 40

/* What one run of a program reads of a DNS query. */
struct query {
	__u8 bytes[520];	    /* the longest that is read, and room to read on unchecked */
	__u8 address[16];	    /* the one a PTR query asks for; IPv4 in the first four */
	__u32 length;		    /* of the message */
	__u32 name_end;		    /* offset of the type, behind the name */
	__u32 labels;		    /* of the name, without the root */
	__u16 offset[QUERY_LABELS]; /* of each label */
};

/* The programs of the fast path that others go on in; see fast.bpf.c. */
enum fast_program {
	FAST_OUT = 0,	    /* what a LAN sends, and may go direct */
	FAST_PROVE_OUT = 1, /* what leaves by an uplink */
	FAST_PROVE_IN = 2,  /* what leaves to a LAN */
	FAST_PROGRAMS,
};

/* Directions of a flow that a LAN has begun, as conntrack numbers them. */
enum fast_way {
	FAST_WAY_OUT = 0,
	FAST_WAY_IN = 1,
	FAST_WAYS,
};

/* How many flows each CPU knows, and how far from its place one is looked for. */
enum fast_limit {
	FAST_SLOTS = 8192,
	FAST_PROBES = 2,
	FAST_PORTS = 8,
	MAX_FAST_JUDGED = 16384,
};

/* An interface that frames may take without becoming packets of the kernel (XDP). */
struct fast_port {
	__u32 ifindex;	/* 0: none */
	struct mac mac; /* its own */
};

/* Whether there is a fast path now; written by user space, which looks at the host. */
struct fast_permit {
	__u64 since_ns; /* CLOCK_MONOTONIC; what was proven before counts no more */
	__u64 until_ns;
	struct fast_port ports[FAST_PORTS];
};

/* What the slow path did to a packet of one direction of a flow, seen where it left. */
struct fast_flow {
	struct flow came; /* as the packet came in; near: the source */
	__u64 checked_at; /* in jiffies: when all that may change was found to hold */
	__u32 in_ifindex;
	__u32 length; /* of IP; no longer one is proven */
	__u8 hop_limit;
	__u8 traffic_class; /* without the two bits of ECN */
	__u8 in_mac[6];	    /* of the interface that frames come in by */
	struct flow left;   /* the same as it left */
	__u64 proven_ns;    /* CLOCK_MONOTONIC; 0: nobody has the slot */
	__u32 out_ifindex;
	__u8 macs[12]; /* as the Ethernet header begins */
	__u32 priority;
	__u32 frames; /* 1: it goes as frames, and none of it otherwise */
};

/* What the words of __sk_buff.cb say after a test run of a program that explains. */
enum explained {
	EXPLAINED_VERDICT = 0,
	EXPLAINED_REASON = 1,
	EXPLAINED_READY_VERDICT = 2, /* the same with Tor ready */
	EXPLAINED_READY_REASON = 3,
	EXPLAINED_ANSWERED = 4, /* 1: the frame has become the answer to its sender */
};

/* One sampled refusal. */
struct refusal {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u32 ifindex;
	enum verdict verdict;
	enum reason reason;
	__u32 length;
	__u8 saddr[16];
	__u8 daddr[16];
	__be16 sport_be;
	__be16 dport_be;
	__u8 protocol;
	__u8 pad[3];
};

#endif
