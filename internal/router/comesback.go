package router

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/torbpf/torbpf/internal/config"
)

// onDisk are the rules that a configuration file and those beside it hold now; of a file that is
// missing, or cannot be read, those alone that commands have saved beside it.
func onDisk(file string) config.Rules {
	if file == "" {
		return nil
	}
	if cfg, err := config.Load(file); err == nil {
		return cfg.Rules.Layers()
	}
	return savedBeside(file)
}

// savedBeside are the rules that commands have saved beside a configuration file. One that cannot
// be read holds none for whoever asks: what puts it in force says why.
func savedBeside(file string) config.Rules {
	if file == "" {
		return nil
	}
	rules, err := config.SavedRules(config.SavedFile(file))
	if err != nil {
		return nil
	}
	return rules.Layers()
}

// lasting are those of rules that hold still, by the wall clock, as they are for whoever reads
// them from a file.
func lasting(rules config.Rules) config.Rules {
	return slices.DeleteFunc(rules, func(r config.Rule) bool { return !r.Until.IsZero() && !time.Now().Before(r.Until) })
}

// comesBack says of rules that were removed which of them a file brings back.
func comesBack(changes []config.Change, file string, saving bool) []string {
	var out []string
	saved := config.SavedFile(file)
	told := make(map[config.Entry]bool)
	tell := func(rule config.Rule) {
		next := "take it out there as well"
		if strings.HasPrefix(rule.Origin, saved) {
			next = "--save takes it out there, too"
		}
		told[rule.Entry] = true
		out = append(out, fmt.Sprintf("%s is in %s and comes back with the next boot or `torbpf apply`: %s", rule.Of(), rule.Origin, next))
	}
	files := lasting(onDisk(file))
	for _, c := range changes {
		if c.Outcome != config.Removed && c.Outcome != config.Unsaved {
			continue
		}
		for _, rule := range files {
			if rule.Entry == c.Rule.Entry {
				tell(rule)
			}
		}
		for _, rule := range c.Rule.Layers() { // of another file than the one named
			if !rule.Runtime && !told[rule.Entry] && (!saving || !strings.HasPrefix(rule.Origin, saved)) {
				tell(rule)
			}
		}
	}
	return out
}

// staysSaved says of rules that a command has changed, and did not save, what the drop-in for that
// holds of them still.
func staysSaved(changes []config.Change, file string) []string {
	var out []string
	saved := lasting(savedBeside(file))
	for _, c := range changes {
		if c.Outcome != config.Added && c.Outcome != config.Changed {
			continue
		}
		for _, rule := range saved {
			if rule.Entry != c.Rule.Entry || rule.Policy == c.Rule.Policy && rule.Until.Equal(c.Rule.Until) {
				continue
			}
			end := "for good"
			if !rule.Until.IsZero() {
				end = "until " + rule.Until.Local().Format(time.DateTime)
			}
			out = append(out, fmt.Sprintf("%s stays in %s as it was saved, %s %s: --save writes the change there, too", rule.Of(), filepath.Clean(config.SavedFile(file)), rule.Policy, end))
		}
	}
	return out
}

// removeSaved is Remove for who saves it as well: what is not in force may be in the drop-in,
// out of which saving takes it then. Who does not save is told that it is there.
func removeSaved(rs *config.Rules, e config.Entry, o ExcludeOptions) (config.Change, error) {
	c := rs.Remove(e)
	if c.Outcome != config.Absent {
		return c, nil
	}
	saved := savedBeside(o.File)
	i := slices.IndexFunc(saved, func(r config.Rule) bool { return r.Entry == c.Rule.Entry })
	switch {
	case i >= 0 && o.Save:
		saved[i].Origin = config.SavedFile(o.File)
		return config.Change{Rule: saved[i], Outcome: config.Unsaved}, nil
	case i >= 0:
		return c, fmt.Errorf("nothing was changed: %s is not in force, but %s has it: --save takes it out there", c.Rule.Of(), config.SavedFile(o.File))
	}
	return c, fmt.Errorf("nothing was changed: %s", c)
}

// unread says of what was saved beside a file that is not there that it has no effect.
func unread(file string) []string {
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return []string{fmt.Sprintf("saved, but %s does not exist, so nothing reads it yet: sudo torbpf enable", file)}
}
