package kernels

import (
	"cmp"
	"runtime"
	"strings"
)

// Target is a kernel, and how it is shown to the tests.
type Target struct {
	Kernel     string
	WithoutBTF bool   // its types are hidden, as if it had been built without
	Arch       string // "": that of this host
}

// What ends a target's name, and what may be typed for it.
const (
	withoutBTF = " without BTF"
	onARM      = " on arm64"
)

var typed = map[string]string{"-nobtf": withoutBTF, "-arm64": onARM}

// String is how the target is called: "5.10", "5.10 without BTF", "6.12 on arm64".
func (t Target) String() string {
	name := t.Kernel
	if t.WithoutBTF {
		name += withoutBTF
	}
	if t.Arch != "" {
		name += " on " + t.Arch
	}
	return name
}

func (t Target) arch() string { return cmp.Or(t.Arch, runtime.GOARCH) }

// Targets are those of `make test-vm`.
var Targets = []Target{
	{Kernel: "5.10"}, {Kernel: "5.10", WithoutBTF: true}, {Kernel: "6.1"}, {Kernel: "6.12"}, {Kernel: "6.12", Arch: "arm64"}, {Kernel: "6.18"}, {Kernel: "newest"},
}

// ParseTarget takes the kernel's name as package vm does, so "6.1-drivers" is one that has PPPoE, and reads what String returns; "5.10-nobtf" is short for "5.10 without BTF", and
// "6.12-arm64" for "6.12 on arm64".
func ParseTarget(text string) Target {
	for short, end := range typed {
		if rest, is := strings.CutSuffix(text, short); is {
			text = rest + end
		}
	}
	var t Target
	if rest, is := strings.CutSuffix(text, onARM); is {
		t.Arch, text = "arm64", rest
	}
	t.Kernel, t.WithoutBTF = strings.CutSuffix(text, withoutBTF)
	return t
}
