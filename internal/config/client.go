package config

import (
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

// parseUser reads a user's name or number; whether there is one only the host knows.
func parseUser(s string) (string, error) {
	odd := strings.ContainsFunc(s, func(r rune) bool {
		return r == ':' || r == '/' || r == '"' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	})
	if s == "" || odd || strings.HasPrefix(s, "-") {
		return "", &ParseError{Input: s, Kind: ErrSyntax, message: "no user: write a name or a number, such as _chrony or 1000"}
	}
	return s, nil
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
