package host

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Names returns what this host and others are called here: its own name, those of /etc/hosts,
// the domains in which names are looked up, and who has an address by DHCP of a server of this
// machine.
func Names() ([]string, error) {
	names, err := namesIn(os.DirFS("/"))
	if err != nil {
		return nil, err
	}
	own, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("ask for this host's name: %w", err)
	}
	if !slices.Contains(names, own) {
		names = append(names, own)
	}
	return slices.DeleteFunc(names, everybodys), nil
}

// shared are domains that many a network has, as routers come with them.
var shared = []string{"", "*", ".", "localdomain", "lan", "local", "home", "internal", "home.arpa"}

// everybodys tells names that say nothing of whose they are.
func everybodys(name string) bool {
	return slices.Contains(shared, name) || strings.HasPrefix(name, "localhost") || strings.HasPrefix(name, "ip6-")
}

// namesIn reads the files that have any. Of a line with words, those that are names are chosen.
func namesIn(root fs.FS) ([]string, error) {
	rest := func(from int) func([]string) []string {
		return func(words []string) []string { return words[min(from, len(words)):] }
	}
	var names []string
	for path, choose := range map[string]func([]string) []string{
		"etc/hostname": rest(0),
		"etc/hosts":    rest(1),
		"etc/resolv.conf": func(words []string) []string {
			if words[0] != "search" && words[0] != "domain" {
				return nil
			}
			return words[1:]
		},
		"var/lib/misc/dnsmasq.leases": leased, "tmp/dhcp.leases": leased, "var/lib/dnsmasq/dnsmasq.leases": leased,
	} {
		f, err := root.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read names: %w", err)
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			text, _, _ := strings.Cut(lines.Text(), "#")
			if words := strings.Fields(text); len(words) > 0 {
				names = append(names, choose(words)...)
			}
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return nil, fmt.Errorf("read names of %s: %w", path, err)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// leased is who has a lease of dnsmasq's: time, hardware address, address, name, client.
func leased(words []string) []string {
	const name = 3
	if len(words) <= name {
		return nil
	}
	return words[name : name+1]
}
