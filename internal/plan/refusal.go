package plan

import (
	"errors"
	"fmt"
	"strings"
)

// Why Make refuses, as the Kind of a Refusal. What a configuration alone
// gets wrong is a config.ErrInvalid instead.
var (
	ErrNoInterface      = errors.New("no interface given")
	ErrUnknownInterface = errors.New("unknown interface")
	ErrLoopback         = errors.New("loopback interface")
	ErrEnslaved         = errors.New("interface has a master")
	ErrTrunk            = errors.New("interface carries others")
	ErrBridgeNF         = errors.New("bridge with bridge-nf-call on")
	ErrDefaultRoute     = errors.New("interface of the default route")
	ErrNoAddress        = errors.New("interface without an address")
	ErrUnknownUplink    = errors.New("default route by an unknown interface")
	ErrMarkInUse        = errors.New("mark bits in use")
	ErrOnionRouted      = errors.New("virtual range is routed")
	ErrNoOnionRange     = errors.New("no virtual range is free")
)

// Refusal says why a host cannot be torified as wished. errors.Is finds its Kind.
type Refusal struct {
	Kind    error
	subject string   // the interface, mark or prefix refused
	instead []string // what would do, best first: interfaces, a mark shift, a prefix
	message string
}

// Error says what is refused, why, and the next step.
func (r *Refusal) Error() string { return r.message }

// Parts returns why, and what to do about it: what to type comes first.
func (r *Refusal) Parts() (why string, next []string) {
	depth, at := 0, -1
	for i, c := range r.message {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case depth == 0 && strings.HasPrefix(r.message[i:], ": "):
			at = i
		}
	}
	if at < 0 {
		return r.message, nil
	}
	return r.message[:at], strings.Split(r.message[at+2:], "; ")
}

// Unwrap returns the Kind.
func (r *Refusal) Unwrap() error { return r.Kind }

func refuse(kind error, subject string, instead []string, format string, args ...any) error {
	return &Refusal{Kind: kind, subject: subject, instead: instead, message: fmt.Sprintf(format, args...)}
}

func names(links []Link) []string {
	out := make([]string, 0, len(links))
	for _, l := range links {
		out = append(out, l.Name)
	}
	return out
}

// orElse joins names, or says that there are none.
func orElse(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, ", ")
}
