// Package sentry is the one process of torbpf that stays: small, without any
// privilege, and dispensable. attach starts it; it watches tor and answers the
// DNS queries that tor's DNSPort cannot take: by TCP, and for local names, which it
// asks of the router's own resolver.
//
//	 LAN device                     sentry (nobody)                      tor
//	─────────────┐            ┌──────────────────────────┐          ┌────────────
//	 TCP 53, and │ redirect   │ peers → judge ─┬─ answer  │          │
//	 DNS that    ├──────────▶ │                └─ ask ────┼────────▶ │ DNSPort
//	 DNSPort     │ :resolver  │                  from     │ UDP, one │ (circuits
//	 cannot take │            │                │ 127.h.h.h│ source a │ per device)
//	─────────────┘            │                └─ local ──┼─▶ 127.0.0.1:53, if it
//	                          │                   names   │   asks nobody else
//	                          │ Watch ────────────────────┼────────▶ │ ControlPort
//	 BPF array `gates` ◀──────┼─ mmap, no bpf(2)          │ polls    │
//	                          └──────────────────────────┘          └────────────
//
// What happens without it: the gate is a convenience, never a guard. While it
// is shut, devices are refused at once; while it is open, they are redirected to
// tor's TransPort, which either serves them or is gone. Neither way leads
// around tor. So a killed sentry leaves the gate as it was, and so does one told
// to stop: its successor judges anew, and closing the gate in between would only
// cut off devices that are well served. DNS by TCP and local names are refused
// while there is no sentry, because nothing listens on its port.
//
// Names that devices ask for are never logged.
package sentry
