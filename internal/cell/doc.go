// Package cell runs one program, and all that it starts, by a policy of its own: outside
// Tor while the rest of the machine is on it (direct), or on Tor while the rest is not
// (tor). A cell is
//
//   - a control group, by which BPF knows the sockets that are made in it:
//     /torbpf/<network namespace>/exec-<pid>
//   - a mount namespace, in which those services are out of sight that would ask for names
//     on the program's behalf, outside of the group
//   - with policy tor, the lack of every capability that would lead around the policy
//
// Run is the part that stays outside; it waits for the program and clears up:
//
//	Run ── Router.Begin ── clone3 into the group ── Stage ── exec ── the program
//	 └─ waits, forwards signals ─ ends what is left in the group ─ Router.End
//
// Stage is this program once more, as the first process in the cell: Go has no hook between
// fork and exec. If Run is killed, the kernel kills the program; what that has left running
// stays in the group, by its policy, until Sweep. A lock that Run holds on the group's
// folder tells whether it still runs, whatever became of its pid.
//
// # What a cell does not hold
//
// A program that has others do things for it (over D-Bus, a container engine's socket, cron)
// is out of reach: those run outside of the cell. As root it can ask almost anybody. A
// service that answers for names and makes its folder anew while the program runs comes
// into sight again.
package cell
