package main

import (
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// grouped adds the commands by what they are for, in the order in which they are wanted.
func grouped(root *cobra.Command) {
	cobra.EnableCommandSorting = false
	const others = "Others"
	for _, g := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"On Tor, and off", []*cobra.Command{newAttach(), newDetach(), newExec(), newEnable(), newDisable(), newCheckConfig(), newPlan(), newApply()}},
		{"What goes directly", []*cobra.Command{newExclude(), newDevice()}},
		{"What happens", []*cobra.Command{newStatus(), newTop(), newPage(), newEvents(), newExplain(), newTor(), newCheck(), newDoctor()}},
		{others, []*cobra.Command{newRun(), newVersion()}},
	} {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title + ":"})
		for _, cmd := range g.commands {
			cmd.GroupID = g.title
			root.AddCommand(cmd)
		}
	}
	root.SetHelpCommandGroupID(others)
	root.SetCompletionCommandGroupID(others)
	root.AddCommand(newSentry(), newProxy(), newWeb(), newExecStage(), newManual()) // which are hidden
}

// fitHelp has --help break its lines between words.
func fitHelp(root *cobra.Command) {
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		w := cmd.OutOrStdout()
		var text strings.Builder
		cmd.SetOut(&text)
		help(cmd, args)
		cmd.SetOut(w)
		_, _ = io.WriteString(w, fitted(text.String(), cmd.Example, helpColumns())) // help has no error to return
	})
}

// helpColumns is the terminal's width, within what reads well.
func helpColumns() int { return min(max(terminalColumns(), 40), 100) }

// terminalColumns is the terminal's width, and where there is none what COLUMNS says, or 80.
func terminalColumns() int {
	if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && width > 0 {
		return width
	}
	if width, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && width > 0 {
		return width
	}
	return 80
}

var (
	// indented is a line of a list: a name, and what is said of it.
	indented = regexp.MustCompile(`^( +\S+(?: \S+)*  +)(\S.*)$`)
	// joint is between lines of one paragraph, none of which is indented.
	joint = regexp.MustCompile(`(?m)(^[^\s].*)\n([^\s])`)
)

// fitted fills paragraphs, and goes on with what is said of a name below it; examples stay.
func fitted(text, example string, width int) string {
	for joined := ""; joined != text; {
		joined, text = text, joint.ReplaceAllString(text, "$1 $2")
	}
	var out []string
	for _, line := range strings.Split(text, "\n") {
		first, rest := "", line
		if m := indented.FindStringSubmatch(line); m != nil {
			first, rest = m[1], m[2]
		}
		if len([]rune(line)) <= width || strings.Contains(example, line) {
			out = append(out, line)
			continue
		}
		out = append(out, broken(first, rest, width)...)
	}
	return strings.Join(out, "\n")
}

// broken breaks what follows the first words, and indents it as far, or a little where that
// leaves no room.
func broken(first, rest string, width int) []string {
	indent := strings.Repeat(" ", len([]rune(first)))
	var out []string
	if len(indent) > width/2 {
		out, indent = append(out, strings.TrimRight(first, " ")), strings.Repeat(" ", 10)
		first = indent
	}
	line := first
	for i, word := range strings.Fields(rest) {
		switch {
		case i == 0:
			line += word
		case len([]rune(line))+1+len([]rune(word)) > width:
			out, line = append(out, line), indent+word
		default:
			line += " " + word
		}
	}
	return append(out, line)
}
