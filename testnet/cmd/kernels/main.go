// Command kernels runs torbpf's tests on other kernels, in virtual machines.
//
//	kernels run                    on all that docs/KERNELS.md speaks of
//	kernels run 5.10 5.10-nobtf    on these
//	kernels run --write            and writes down what came of it in docs/kernels.json
//	kernels page                   writes docs/KERNELS.md anew from that
//	kernels budget                 holds the verifier to its figures from now on
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet/kernels"
	"github.com/torbpf/torbpf/testnet/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		stop()
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{Use: "kernels", Short: "torbpf's tests on other kernels", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(runCommand(), &cobra.Command{
		Use: "page", Short: "Write docs/KERNELS.md from docs/kernels.json", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return kernels.WritePage(".") },
	}, &cobra.Command{
		Use: "budget", Short: "Take over what verifiers went through as loader/testdata/verifier.json", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return kernels.WriteBudget(".") },
	}, &cobra.Command{
		Use: "probe FILE", Short: "Write down what this kernel has; in a virtual machine", Args: cobra.ExactArgs(1), Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error { return kernels.Probe(args[0]) },
	})
	return root
}

func runCommand() *cobra.Command {
	var cache string
	var write bool
	var atOnce int
	m := &kernels.Matrix{Root: ".", Log: os.Stderr}
	cmd := &cobra.Command{
		Use:   "run [KERNEL…]",
		Short: "Run the tests",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if m.Cache, err = vm.OpenCache(cache); err != nil {
				return err
			}
			if write && m.Only != "" {
				return errors.New("what is written down is all of a kernel's: --write and --only do not go together")
			}
			m.Cache.Progress = func(format string, args ...any) { fmt.Fprintf(os.Stderr, "  "+format+"\n", args...) }
			targets := kernels.Targets
			if len(args) > 0 {
				targets = nil
				for _, a := range args {
					targets = append(targets, kernels.ParseTarget(a))
				}
			}
			return runAll(cmd.Context(), m, targets, atOnce, write)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cache, "cache", "", "where kernels and qemu are unpacked (default: torbpf-vm in the user's cache)")
	f.BoolVar(&write, "write", false, "write down what came of it, in docs/kernels.json and docs/KERNELS.md")
	f.IntVar(&atOnce, "at-once", max(1, min(4, runtime.NumCPU())), "how many machines at once; one keeps about one processor busy")
	f.BoolVar(&m.Short, "short", false, "only the shortest of each suite")
	f.StringVar(&m.Only, "only", "", "only suites whose name or package contains this")
	f.StringVar(&m.Kept, "keep", "", "a folder for all that the tests print")
	return cmd
}

// runAll runs the targets, the last of which has the tests with real tor, too, and so begins first.
func runAll(ctx context.Context, m *kernels.Matrix, targets []kernels.Target, atOnce int, write bool) (err error) {
	defer func() { err = errors.Join(err, m.Close()) }()
	begun, empty := time.Now(), m.Cache.Empty()
	whole := kernels.Whole{Day: begun.UTC().Format(time.DateOnly), Kernels: len(targets), AtOnce: atOnce, Processors: runtime.NumCPU()}
	var turn sync.Mutex // to tell and to write down
	var all errgroup.Group
	all.SetLimit(atOnce)
	for i, t := range slices.Backward(targets) {
		all.Go(func() error {
			r, e := m.Run(ctx, t, !m.Short && i == len(targets)-1)
			turn.Lock()
			defer turn.Unlock()
			if e != nil {
				err = errors.Join(err, fmt.Errorf("linux %s: %w", t, e)) // the others go on
				return nil
			}
			fmt.Print(r)
			whole.Add(r)
			if write {
				return record(m.Root, func(all *kernels.Results) { all.Put(*r) })
			}
			return nil
		})
	}
	if err := errors.Join(all.Wait(), err); err != nil {
		return err
	}
	whole.Seconds, whole.Busy = int(time.Since(begun).Seconds()), busy()
	fmt.Printf("%d kernels in %d s, with %d s of processors\n", len(targets), whole.Seconds, whole.Busy)
	if whole.Cache = cacheWas(m, empty); write && whole.Cache != "" && !m.Short && len(targets) == len(kernels.Targets) {
		err = record(m.Root, func(all *kernels.Results) { all.PutWhole(whole) })
	}
	if whole.Failed > 0 {
		err = errors.Join(err, errors.New("not all is as it should be: --keep FOLDER has all that the tests print"))
	}
	return err
}

// cacheWas says how the cache was before the run; "": neither empty nor full.
func cacheWas(m *kernels.Matrix, empty bool) string {
	switch {
	case empty:
		return "empty"
	case m.Cache.Fetched():
		return ""
	default:
		return "full"
	}
}

// busy is what the processes that have ended took of processors, in seconds.
func busy() int {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_CHILDREN, &u) != nil {
		return 0
	}
	return int(u.Utime.Sec + u.Stime.Sec)
}

// record changes the results and the page.
func record(root string, change func(*kernels.Results)) error {
	file := filepath.Join(root, kernels.ResultsFile)
	all, err := kernels.ReadResults(file)
	if err != nil {
		return err
	}
	change(all)
	if err := all.Write(file); err != nil {
		return err
	}
	return kernels.WritePage(root)
}
