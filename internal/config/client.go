package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Client says what becomes of what this machine itself sends.
type Client struct {
	Enable bool `json:"enable"` // it is Tor's, but for what rules of the client exempt
	// ProxyPort is where a proxy of torbpf's, on loopback only, takes what is to go
	// direct; 0: there is none.
	ProxyPort uint16 `json:"proxy_port,omitempty"`
}

// DefaultProxyPort is that of the clearnet proxy, as networking.tor has it.
const DefaultProxyPort = 3128

// nobodysNumber is what the kernel takes for no user.
const nobodysNumber = "4294967295"

// parseUser reads a user's name or number; whether there is one only the host knows.
func parseUser(s string) (string, error) {
	odd := strings.ContainsFunc(s, func(r rune) bool {
		return r == ':' || r == '/' || r == '"' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	})
	if s == "" || odd || strings.HasPrefix(s, "-") || s == nobodysNumber {
		return "", &ParseError{Input: s, Kind: ErrSyntax, message: "no user: write a name or a number, such as _chrony or 1000"}
	}
	return s, nil
}

// cgroupMount is where the tree of control groups is mounted; in paths of groups it is left out.
const cgroupMount = "/sys/fs/cgroup"

// parseCgroup reads the path of a control group below the root of the tree.
func parseCgroup(s string) (string, error) {
	path, err := parsePath(s, "a control group")
	if below, mounted := strings.CutPrefix(path, cgroupMount); err == nil && mounted && (below == "" || below[0] == '/') {
		below, _ = strings.CutPrefix(below, "/unified") // where the older tree has the root
		return "", &ParseError{Input: s, Kind: ErrSyntax, Suggestion: cmp.Or(below, "/"),
			message: "a path below the root of the control groups, without where they are mounted"}
	}
	return path, err
}

// clientKinds are those that a rule about this machine's own traffic may have.
var clientKinds = []Kind{KindDestination, KindPort, KindMark, KindInterface, KindUser, KindCgroup, KindProgram}

// Of says in words which of a kind an entry is: "destination 51.20.0.0/16", and where it has
// to be said, whose packets it is about.
func (e Entry) Of() string {
	text := fmt.Sprintf("%s %s", e.Kind, e)
	if e.Client && !slices.Contains([]Kind{KindUser, KindCgroup, KindProgram}, e.Kind) {
		text += " of this machine"
	}
	return text
}
