package kernels

import (
	"fmt"
	"regexp"
	"strings"
)

// A test that leaves something out says of which kernels that is right: "(Linux 6.4)" are
// those that are older, "(CONFIG_MPTCP)" those that were built without it, "(BTF)" those that
// show none.
var (
	sinceLinux = regexp.MustCompile(`\(Linux (\d+\.\d+)\)`)
	option     = regexp.MustCompile(`\((CONFIG_[A-Z0-9_]+)\)`)
)

// judgeSkip returns what is wrong with leaving out a test here for that reason; "" if nothing.
func judgeSkip(s Skip, release string, config map[string]bool, btf bool) string {
	if m := sinceLinux.FindStringSubmatch(s.Reason); m != nil {
		if compareVersions(release, m[1]) < 0 {
			return ""
		}
		if !btf && strings.Contains(s.Reason, "BTF") {
			return ""
		}
		return fmt.Sprintf("%s was left out on %s, which has what it takes: %s", s.Test, release, s.Reason)
	}
	if m := option.FindStringSubmatch(s.Reason); m != nil {
		if !config[m[1]] {
			return ""
		}
		return fmt.Sprintf("%s was left out although the kernel has %s: %s", s.Test, m[1], s.Reason)
	}
	return fmt.Sprintf("%s was left out without saying of which kernels that is right: %q", s.Test, s.Reason)
}

var configured = regexp.MustCompile(`(?m)^(CONFIG_[A-Z0-9_]+)=[ym]$`)

// parseConfig reads which options a kernel was built with.
func parseConfig(text string) map[string]bool {
	config := make(map[string]bool)
	for _, m := range configured.FindAllStringSubmatch(text, -1) {
		config[m[1]] = true
	}
	return config
}
