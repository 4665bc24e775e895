// Command vm runs a program of this host as root in a throw-away virtual machine.
//
//	vm 6.1 -- uname -a                           on Debian's kernel 6.1
//	vm --program nft 5.10 -- ./some.test -test.v        with another program there
//	go test -exec "vm 6.12 --" ./internal/host   a package's tests; run it built
//
// The kernel is a version, "newest", SUITE/PACKAGE of Debian, or a folder with an
// unpacked one. The exit code is the program's; 125 if the machine has not run it.
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/testnet/vm"
)

// notRun is the exit code of a machine that has not done its job.
const notRun = 125

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := &options{code: notRun}
	if err := o.newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
	}
	stop()
	os.Exit(o.code)
}

type options struct {
	cache, arch, out, boot string
	env, files, programs   []string
	hide                   []string
	cpus, memory           int
	timeout                time.Duration
	verbose, prepare       bool
	code                   int
}

func (o *options) newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "vm [flags] KERNEL -- PROGRAM [ARGUMENT…]",
		Short:         "Run a program in a virtual machine with another kernel",
		Args:          cobra.MinimumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args) },
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVar(&o.cache, "cache", "", "where kernels and qemu are unpacked (default: torbpf-vm in the user's cache)")
	f.StringVar(&o.arch, "arch", runtime.GOARCH, "the machine's architecture: amd64 or arm64")
	f.StringVar(&o.out, "out", "", "the folder into which what the program has left in /out is copied")
	f.StringVar(&o.boot, "append", "", "to the kernel's command line, such as ipv6.disable=1")
	f.StringArrayVarP(&o.env, "env", "e", nil, "NAME=VALUE for the program")
	f.StringArrayVarP(&o.files, "file", "f", nil, "PATH[:GUEST], a file or folder that the machine has as well")
	f.StringArrayVarP(&o.programs, "program", "p", nil, "a program of this host that it has as well")
	f.StringArrayVar(&o.hide, "hide", nil, "a folder that is empty in the machine, such as /sys/kernel/btf")
	f.IntVarP(&o.cpus, "cpus", "c", 2, "processors")
	f.IntVarP(&o.memory, "memory", "m", 1024, "memory in MiB")
	f.DurationVarP(&o.timeout, "timeout", "t", 10*time.Minute, "for all of it")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "show what the kernel has logged")
	f.BoolVar(&o.prepare, "prepare", false, "unpack what is needed, and run nothing")
	return cmd
}

func (o *options) run(ctx context.Context, args []string) error {
	cache, err := vm.OpenCache(o.cache)
	if err != nil {
		return err
	}
	cache.Progress = func(format string, args ...any) { fmt.Fprintf(os.Stderr, "vm: "+format+"\n", args...) }
	kernel, err := cache.Kernel(ctx, args[0], o.arch)
	if err != nil {
		return err
	}
	if o.prepare {
		fast, err := kernel.Accelerated(ctx)
		if err == nil {
			o.code = 0
			fmt.Printf("%s of %s is ready, KVM: %v\n", kernel.Release, kernel.Package, fast)
		}
		return err
	}
	command := args[1:]
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		return errors.New("name a program to run, after the kernel")
	}
	machine, err := o.machine(kernel, command)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	var left bytes.Buffer
	err = machine.Run(ctx, func(e vm.Event) {
		_, _ = os.Stdout.Write(e.Output)
		left.Write(e.Files)
		if e.Ended {
			o.code = e.Code
		}
	})
	if err != nil {
		o.code = notRun
		return err
	}
	return o.unpack(&left)
}

// machine is one that runs the program, in this folder and with its testdata.
func (o *options) machine(kernel *vm.Kernel, args []string) (*vm.Machine, error) {
	program, err := exec.LookPath(args[0])
	if err == nil {
		program, err = filepath.Abs(program)
	}
	if err != nil {
		return nil, err
	}
	here, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	m := &vm.Machine{
		Kernel: kernel, CPUs: o.cpus, MemoryMB: o.memory, Append: o.boot, Programs: append(o.programs, program),
		Order: vm.Order{Hide: o.hide, Jobs: []vm.Job{{Args: append([]string{program}, args[1:]...), Env: o.env, Dir: here}}},
	}
	if _, err := os.Stat("testdata"); err == nil {
		m.Files = append(m.Files, vm.File{Host: "testdata", Guest: filepath.Join(here, "testdata")})
	}
	for _, f := range o.files {
		host, guest, err := vm.ParseFile(f)
		if err != nil {
			return nil, err
		}
		m.Files = append(m.Files, vm.File{Host: host, Guest: guest})
	}
	if o.verbose {
		m.Console = os.Stderr
	}
	return m, nil
}

// unpack writes what the program has left.
func (o *options) unpack(from io.Reader) error {
	if o.out == "" {
		return nil
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(o.out)
	if err != nil {
		return err
	}
	defer root.Close()
	return vm.Unpack(tar.NewReader(from), root)
}
