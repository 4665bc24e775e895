package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
)

func newCheckConfig() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check-config",
		Short: "Tell whether a configuration file and its drop-ins can be used",
		Long: `check-config reads a configuration file and the drop-ins beside it, and says what is
wrong in which line of which file; --config names the file. It asks nothing of this host, needs no privilege but to
read them and changes nothing: plan says what the configuration would do here.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			out, ended := cmd.OutOrStdout(), endedRules(cfg.Rules)
			if asJSON {
				return printJSON(out, map[string]any{"schema": 1, "config": cfg, "ended": ended})
			}
			fmt.Fprintf(out, "%s is good: %s, %s\n", file, strings.Join(onTor(cfg), ", "), counted(len(cfg.Rules), "rule", "rules"))
			for _, r := range ended {
				fmt.Fprintf(out, "note: %s: %s has ended\n", r.Origin, r.Words())
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "config", config.DefaultFile, "the configuration file")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

// onTor names what a configuration puts on Tor.
func onTor(cfg config.Config) []string {
	if !cfg.Client.Enable {
		return cfg.Interfaces
	}
	return append(slices.Clone(cfg.Interfaces), "this machine")
}

// endedRules are those that the time of day is past, of which nothing is in force.
func endedRules(rules config.Rules) config.Rules {
	return slices.DeleteFunc(append(config.Rules{}, rules.Layers()...), func(r config.Rule) bool { return r.Until.IsZero() || r.Until.After(time.Now()) })
}

// loadConfig is config.Load that says what to do about a file that is not there.
func loadConfig(file string) (config.Config, error) {
	cfg, err := config.Load(file)
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: torbpf enable writes one of what is attached; or name another with --config FILE", err)
	}
	return cfg, err
}

func newPlan() *cobra.Command {
	var file string
	var reset bool
	cmd := &cobra.Command{Use: "plan", Short: "Show what a configuration file would do to this host, and change nothing",
		Long: `plan shows what apply would do here: all that would be put in place, and at the end what
changes and what commands have added and stays (--reset leaves it out). What apply refuses it refuses.`}
	cmd.Flags().BoolVar(&reset, "reset", false, "without what commands have added, as for apply --reset")
	cmd.Flags().StringVar(&file, "config", config.DefaultFile, "the configuration file")
	return newNoun(cmd, func(ctx context.Context, r *router.Router) (shown, error) {
		if os.Geteuid() != 0 {
			return shown{}, router.ErrPrivilege
		}
		cfg, err := loadConfig(file)
		if err != nil {
			return shown{}, err
		}
		p, err := r.Preview(ctx, cfg, reset)
		if err != nil {
			return shown{}, err
		}
		return shown{
			json: map[string]any{"schema": 1, "plan": p.Plan, "nft": p.NFT, "ip_rules": p.Rules, "torrc": p.Torrc,
				"changes": p.Changes, "kept": append([]string{}, p.Kept...), "notes": append([]string{}, p.Notes...)},
			print: func(w io.Writer) error { return printPlan(w, p) },
		}, nil
	})
}

func printPlan(w io.Writer, p *router.Preview) error {
	var kept strings.Builder
	tellKept(&kept, p.Kept)
	changes := cmp.Or(strings.Join(p.Changes, "\n"), "none of interfaces and rules") + "\n" + kept.String()
	for _, part := range []struct{ title, text string }{
		{"the host, the marks and the maps", p.Plan.String()}, {"nftables", p.NFT}, {"ip rules", p.Rules}, {"torrc", p.Torrc}, {"changes", changes},
	} {
		if part.text == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "# %s\n%s\n", part.title, part.text); err != nil {
			return err
		}
	}
	for _, note := range p.Notes {
		fmt.Fprintf(w, "note: %s\n", note)
	}
	return nil
}

// tellKept says what of commands' apply has left.
func tellKept(w io.Writer, kept []string) {
	for _, what := range kept {
		fmt.Fprintf(w, "kept, since a command has added it: %s (--reset drops it)\n", what)
	}
}

func newApply() *cobra.Command {
	var file string
	var reset, noWait, asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Put a configuration file in force, all of it at once",
		Long: `apply puts a configuration file and its drop-ins in force: every packet is judged wholly
by the policy before or wholly by the new one, and what cannot be applied changes nothing.
What commands have added stays (--reset drops it), what they have taken out of the files comes
back, and lists whose files have changed are read again. It needs no daemon. Where
` + "`torbpf run`" + ` runs, SIGHUP puts files in force that have changed since: while they are the same
it changes nothing, and lists are read by that daemon as soon as they change.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := newRootRouter()
			if err != nil {
				return err
			}
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			bar := newBootstrapBar(noWait || asJSON)
			result, kept, err := r.ApplyConfig(cmd.Context(), cfg, reset, router.AttachOptions{NoWait: noWait, Timeout: timeout, Progress: bar.show})
			bar.finish(err == nil)
			if result != nil {
				warn(result.Warnings)
			}
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return printJSON(out, attachedJSON(result, map[string]any{"kept": append([]string{}, kept...)}))
			}
			fmt.Fprintf(out, "%s is in force: %s, %s\n", file, strings.Join(onTor(cfg), ", "), counted(len(cfg.Rules), "rule", "rules"))
			tellKept(out, kept)
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "config", config.DefaultFile, "the configuration file")
	cmd.Flags().BoolVar(&reset, "reset", false, "drop the rules, names and the resolver that commands have added")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return before Tor is ready")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	timeout = config.Default().Tor.Timeout
	cmd.Flags().Var(life{&timeout}, "timeout", "how long to wait for Tor")
	return cmd
}
