package vm

import "time"

// Port is the name of the virtio-serial port by which a guest reports.
const Port = "torbpf"

// OrderPath is where the guest finds its Order.
const OrderPath = "/torbpf-vm.json"

// ModulesPath is where the guest finds its modules, see index.
const ModulesPath = "/lib/modules/index"

// Order is what a guest is to do.
type Order struct {
	Hide []string // directories that it sees empty, such as /sys/kernel/btf
	Jobs []Job
}

// Job is a program for a guest to run, as root.
type Job struct {
	Args    []string      // the program's path in the guest, and what it is told
	Env     []string      // NAME=VALUE, beside PATH, HOME and LANG
	Dir     string        // where it runs, made if it is not there; "": /
	Timeout time.Duration // after which it is killed; 0: none
}

// Event is what a guest reports, in this order: that it has booted, then for each job
// what it prints and that it has ended, then a tar archive of what is in /out.
type Event struct {
	Booted string        `json:",omitempty"` // the kernel's release
	Uptime time.Duration `json:",omitempty"` // at boot, and when a job ends

	Job    int    // of Output and Ended: its place in the order
	Output []byte `json:",omitempty"`
	Ended  bool   `json:",omitempty"`
	Code   int    `json:",omitempty"` // its exit code; 128 and the signal's number if one ended it
	Late   bool   `json:",omitempty"` // it ran out of time

	Files []byte `json:",omitempty"` // a piece of the archive
	Done  bool   `json:",omitempty"` // that was all
	Error string `json:",omitempty"` // the guest could not do as ordered
}
