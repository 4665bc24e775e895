package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/torbpf/torbpf/internal/config"
)

// flagError says what a flag takes instead of what a parser of Go has against its value.
func flagError(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		flag := invalid.GetFlag()
		if takes := wanted[flag.Value.Type()]; takes != "" {
			err = fmt.Errorf("invalid argument %q for %q: %s", invalid.GetValue(), "--"+flag.Name, takes)
		}
	}
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		if near := nearFlags(cmd, unknown.GetSpecifiedName()); len(near) > 0 {
			err = fmt.Errorf("%w: did you mean %s?", err, strings.Join(near, " or "))
		}
	}
	return usageError{err: err, command: cmd.CommandPath()}
}

// nearFlags are those that a name may stand for: the same letters but for dashes, one that
// begins so, or a name with two letters mistyped.
func nearFlags(cmd *cobra.Command, name string) []string {
	letters := strings.NewReplacer("-", "", "_", "")
	asked := letters.Replace(strings.ToLower(name))
	names := &cobra.Command{} // cobra knows what is near of commands
	names.SuggestionsMinimumDistance = min(2, len(asked)/3)
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names.AddCommand(&cobra.Command{Use: letters.Replace(f.Name), Short: f.Name, Run: func(*cobra.Command, []string) {}})
		}
	})
	var out []string
	for _, near := range names.SuggestionsFor(asked) {
		for _, c := range names.Commands() {
			if c.Use == near && len(asked) > 2 {
				out = append(out, "--"+c.Short)
			}
		}
	}
	return out
}

// wanted says by the type of a flag what to write.
var wanted = map[string]string{
	"bool":   "write true or false",
	"uint8":  "write a number from 0 to 255",
	"uint16": "write a number from 0 to 65535",
	lifeType: "write a number and its unit, such as 30m, 12h or 7d",
}

// life is a flag for a time, in days as well.
type life struct{ time *time.Duration }

const lifeType = "time"

// days are those that a time begins with.
var days = regexp.MustCompile(`^([0-9]{1,5})d(.*)$`)

// Set reads 7d, 1d12h, 30m.
func (l life) Set(s string) error {
	var whole time.Duration
	if m := days.FindStringSubmatch(s); m != nil {
		count, err := strconv.Atoi(m[1])
		if err != nil {
			return err
		}
		whole, s = time.Duration(count)*24*time.Hour, m[2]
	}
	if s != "" || whole == 0 {
		rest, err := time.ParseDuration(s)
		if err != nil {
			return err
		}
		whole += rest
	}
	*l.time = whole
	return nil
}

// String writes what Set reads.
func (l life) String() string {
	if l.time == nil || *l.time == 0 {
		return "" // there is no default to tell
	}
	return shortTime(*l.time)
}

// Type is what --help calls the value.
func (l life) Type() string { return lifeType }

// shortTime writes a time as people do: in days where there are some, and without a zero
// at its end.
func shortTime(d time.Duration) string {
	var text string
	if whole := d / (24 * time.Hour); whole > 0 {
		text, d = fmt.Sprintf("%dd", whole), d%(24*time.Hour)
	}
	if d != 0 || text == "" {
		text += d.String()
	}
	return zeroEnd.ReplaceAllString(text, "$1")
}

// zeroEnd are the units of Go's durations that say nothing: 2m0s, 12h0m0s.
var zeroEnd = regexp.MustCompile(`([hm])(?:0m)?0s$`)

// noArgs is for commands that take flags alone.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("%s takes no arguments, and got %s", cmd.CommandPath(), strings.Join(args, " "))
	if cmd.Flags().Lookup("config") != nil {
		err = fmt.Errorf("%w: name a configuration file with --config", err)
	}
	return usageError{err: err, command: cmd.CommandPath()}
}

// apartArgs refuses interfaces in one word, as some programs take them.
func apartArgs(cmd *cobra.Command, args []string) error {
	for _, arg := range args {
		if strings.Contains(arg, ",") {
			err := fmt.Errorf("%s: write interfaces apart: %s %s", arg, cmd.CommandPath(), strings.ReplaceAll(arg, ",", " "))
			return usageError{err: err, command: cmd.CommandPath()}
		}
	}
	return nil
}

// meant adds to what is wrong with a destination what kind of thing it looks like.
func meant(err error, arg string) error {
	kind, ok := config.LooksLike(arg)
	if !ok {
		return err
	}
	return fmt.Errorf("%w; did you mean --%s %s?", err, kind, arg)
}

// strictHelp has `help` and `completion` refuse what they know nothing of.
func strictHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Run, cmd.RunE = nil, func(_ *cobra.Command, args []string) error {
				topic, left, err := root.Find(args)
				if err != nil || len(left) > 0 {
					return knownCommand(root, args)
				}
				return topic.Help()
			}
		case "completion":
			cmd.Args = knownCommand
			cmd.RunE = func(cmd *cobra.Command, _ []string) error {
				return usageError{err: errors.New("bash, zsh or fish?"), command: cmd.CommandPath()}
			}
		}
	}
}
