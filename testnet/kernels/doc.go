// Package kernels runs torbpf's tests on the kernels that people have, in virtual machines
// (package vm), and writes down what came of it.
//
//	suites    which tests are run, and what they take along
//	matrix    one machine for each kernel, with all its suites
//	skips     whether a test was right to leave something out
//	probe     what a kernel has; runs in the machine
//	results   docs/kernels.json
//	page      docs/KERNELS.md, which is generated from that
package kernels
