// Package e2e holds the end-to-end tests: the real program, run in the router of
// a lab (package testnet), seen from the devices behind it and from the WAN.
//
// Most share one lab with a private Tor network, which takes some 20 seconds to
// come up; each attaches and detaches for itself. What needs no Tor uses a lab of
// its own without one.
package e2e
