// Package rig measures what a router costs a packet: a device, a router and a
// receiver in network namespaces, one such path for each configuration of the router,
// which take turns on one CPU.
//
//	device ─ eth0 ────── eth1 ─ router ─ eth0 ────── eth0 ─ far
//	192.168.50.11   192.168.50.1   62.10.0.2     62.10.0.1
//	  │                                            │
//	  frames of an XDP program, sent               XDP program: counts and
//	  by BPF_PROG_TEST_RUN as live frames          drops what arrives
//
// The time of a packet is that of the whole path, sender and receiver included: the
// system call that sends the frames returns when all of them have been forwarded, since
// each batch is handled in softirq before the next is made. So only ratios between
// configurations say something, and those understate what lies between them.
package rig
