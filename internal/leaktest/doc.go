// Package leaktest proves that nothing leaks, whatever happens: a table of faults,
// each inflicted on a router of the lab while two clients keep trying everything,
// with the WAN and the resolvers as witnesses.
//
//	kinds, forgeries   what a device could send
//	clients, traffic   how it is sent: once (a battery), or without pause
//	watch              what got out
//	bench              a router with torbpf, and the means to hurt it
//	fault and others   the table
//	recovery           how it is repaired, and when it is
//	table, soak        what is run and printed
//
// The lab has no Tor network: tor never gets ready, and with the gate held open the
// guards do the work.
package leaktest
