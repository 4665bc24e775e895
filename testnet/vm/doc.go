// Package vm runs programs of this host as root in throw-away virtual machines, on
// kernels of Debian's. Nothing of this host changes: kernels and qemu are unpacked in a
// cache and not installed, and the machine has no network but that of its own.
//
//	host                                        guest
//	Run ── qemu -kernel vmlinuz -initrd … ────▶ /init (testnet/cmd/vmguest)
//	        ▲                                    │ mounts, runs the jobs one by one,
//	        ╰── virtio-serial port "torbpf" ◀────╯ reports Events as JSON
//
// The initramfs is two archives: modules of the kernel and /init, which are in the
// cache, and the programs of the jobs with the libraries they need.
//
// With a /dev/kvm that runs guests (a trial tells) a machine is about as fast as this
// one; else it is emulated, ten to twenty times slower.
package vm
