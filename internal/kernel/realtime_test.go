package kernel

import (
	"bytes"
	"compress/gzip"
	"errors"
	"testing"
	"testing/fstest"
)

func TestRealTimeKernelsThatHandleTwoPacketsAtOnceAreRefused(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte("CONFIG_PREEMPT_RT=y\n" + bottomHalfLock + "\n")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	const realtime = "sys/kernel/realtime"
	for name, c := range map[string]struct {
		release string
		files   map[string]string
		refused bool
	}{
		"no real-time kernel":            {"6.18.5+deb13-amd64", nil, false},
		"one before 6.18":                {"6.12.1-rt-amd64", map[string]string{realtime: "1\n"}, false},
		"one that knows it is none":      {"6.18.5", map[string]string{realtime: "0\n"}, false},
		"one of which nothing is known":  {"6.18.5-rt-amd64", map[string]string{realtime: "1\n"}, true},
		"a later one":                    {"7.0.0-rt", map[string]string{realtime: "1\n"}, true},
		"one without the lock":           {"6.18.5-rt", map[string]string{realtime: "1\n", "boot/config-6.18.5-rt": "# CONFIG_PREEMPT_RT_NEEDS_BH_LOCK is not set\n"}, true},
		"one with the lock":              {"6.18.5-rt", map[string]string{realtime: "1\n", "boot/config-6.18.5-rt": "CONFIG_A=y\n" + bottomHalfLock + "\n"}, false},
		"another one has the lock":       {"6.18.5-rt", map[string]string{realtime: "1\n", "boot/config-6.18.4-rt": bottomHalfLock + "\n"}, true},
		"one that has its configuration": {"6.18.5-rt", map[string]string{realtime: "1\n", "proc/config.gz": zipped.String()}, false},
	} {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{}
			for path, text := range c.files {
				root[path] = &fstest.MapFile{Data: []byte(text)}
			}
			if err := serialPackets(root, c.release); errors.Is(err, ErrMissing) != c.refused || err != nil && !c.refused {
				t.Errorf("%s: %v, want it refused: %t", c.release, err, c.refused)
			}
		})
	}
	if err := SerialPackets(); err != nil {
		t.Errorf("this kernel: %v", err)
	}
}
