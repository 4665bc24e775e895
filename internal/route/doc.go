// Package route keeps what torbpf adds to policy routing and changes in conntrack.
//
// The ip rules are a guard: were nftables flushed, a packet that should have been
// redirected is still not forwarded. Redirected packets are delivered locally and
// never get here, since the local table has priority 0. For a LAN eth1, in the
// order in which the kernel asks them (class bits at 0x0f000000):
//
//	100  iif eth1 fwmark 0x8000000/0x8000000 blackhole   a class that must not be forwarded
//	101  fwmark 0x100000/0xf100000 goto 103              IPv6 only, for each exempt mark
//	102  iif eth1 fwmark 0x0/0xf000000 blackhole         IPv6 only: never judged
//	102  iif eth1 fwmark 0x4000000/0x4000000 blackhole   IPv6 only: no such class
//	103  nop                                             IPv6 only, with exempt marks
//
// With tcp_mode = "tproxy" there is one more, which is asked first, and a route in a table of
// torbpf's own, local default dev lo:
//
//	99   iif eth1 fwmark 0x8000000/0xe000000 lookup 7630706   handed to tor: delivered here
//
// Where either is missing the packet goes on to the rule that blocks it.
//
// The guard against packets never judged is not for IPv4: with rp_filter on, the
// kernel looks up the way back to the sender of every packet, without its mark and
// as if it came from the interface the packet leaves by, so answers to the LAN
// would be taken for unjudged LAN packets and dropped. IPv6 has no such check. Nor
// are there answers to an interface that is only waited for: that has it in both.
// Exempt packets jump over it rather than to a table, so that what the user's own
// rules say of them still counts. If the jump's end is missing, the kernel goes on
// to the next rule: that blocks.
//
// The action is blackhole, which says nothing: the error that prohibit sends would
// go to whatever source a packet claims, so one from a forged or stale address
// would make the router tell the WAN what a LAN device wanted.
//
// A rule never lets anything out, so a half-applied set blocks too much and
// never too little.
package route
