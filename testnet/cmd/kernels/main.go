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
	"syscall"
	"time"

	"github.com/spf13/cobra"

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
	m := &kernels.Matrix{Root: ".", Log: os.Stderr}
	cmd := &cobra.Command{
		Use:   "run [KERNEL…]",
		Short: "Run the tests",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if m.Cache, err = vm.OpenCache(cache); err != nil {
				return err
			}
			m.Cache.Progress = func(format string, args ...any) { fmt.Fprintf(os.Stderr, "  "+format+"\n", args...) }
			targets := kernels.Targets
			if len(args) > 0 {
				targets = nil
				for _, a := range args {
					targets = append(targets, kernels.ParseTarget(a))
				}
			}
			return runAll(cmd.Context(), m, targets, write)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cache, "cache", "", "where kernels and qemu are unpacked (default: torbpf-vm in the user's cache)")
	f.BoolVar(&write, "write", false, "write down what came of it, in docs/kernels.json and docs/KERNELS.md")
	f.BoolVar(&m.Short, "short", false, "only the shortest of each suite")
	f.StringVar(&m.Only, "only", "", "only suites whose name or package contains this")
	f.StringVar(&m.Kept, "keep", "", "a folder for all that the tests print")
	return cmd
}

// runAll runs the targets one by one. The last one has the tests with real tor, too.
func runAll(ctx context.Context, m *kernels.Matrix, targets []kernels.Target, write bool) (err error) {
	begun := time.Now()
	defer func() { err = errors.Join(err, m.Close()) }()
	file := filepath.Join(m.Root, kernels.ResultsFile)
	fine := true
	for i, t := range targets {
		m.Tor = !m.Short && i == len(targets)-1
		fmt.Fprintf(os.Stderr, "Linux %s\n", t)
		r, err := m.Run(ctx, t)
		if err != nil {
			return fmt.Errorf("linux %s: %w", t, err)
		}
		fmt.Print(r)
		fine = fine && r.OK()
		if write {
			if err := record(m.Root, file, *r); err != nil {
				return err
			}
		}
	}
	fmt.Printf("%d kernels in %s\n", len(targets), time.Since(begun).Round(time.Second))
	if !fine {
		return errors.New("not all is as it should be: --keep FOLDER has all that the tests print")
	}
	return nil
}

func record(root, file string, r kernels.Result) error {
	all, err := kernels.ReadResults(file)
	if err != nil {
		return err
	}
	all.Put(r)
	if err := all.Write(file); err != nil {
		return err
	}
	return kernels.WritePage(root)
}
