package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/loader"
)

// TestDevicesFitTheTerminal, with all that names them; where there is room it is a line for each.
func TestDevicesFitTheTerminal(t *testing.T) {
	silent, until := 3*time.Hour+4*time.Minute, time.Now().Add(50*time.Hour)
	traffic := map[string]loader.Traffic{
		"tor": {Bytes: 123_456_789_012}, "direct": {Bytes: 999_949_999}, "local": {Bytes: 999}, "refused": {Packets: 123_456_789},
	}
	six := func(s string) netip.Addr { return netip.MustParseAddr("2001:db8:50:1234:5678:9abc:def0:" + s) }
	devices := []router.DeviceStatus{
		{Name: "tv", MAC: "02:00:5e:10:00:01", Policy: config.PolicyTor, Silent: &silent, Addrs: []netip.Addr{netip.MustParseAddr("192.168.50.11")}},
		{Name: "a-very-long-name-that-somebody-gave-to-the-thermostat-upstairs", MAC: "02:00:5e:10:00:02", Policy: config.PolicyDirect, Until: &until, Silent: &silent,
			Traffic: traffic, Addrs: []netip.Addr{netip.MustParseAddr("192.168.50.12"), six("7898"), six("7899"), six("789a")}},
		{MAC: "02:00:5e:10:00:03", Policy: config.PolicyBlock},
		{Policy: config.PolicyTor, Addrs: []netip.Addr{netip.MustParseAddr("10.66.0.7")}},
	}
	for _, c := range []struct{ columns, lines int }{{80, 9}, {100, 9}, {400, 5}} {
		var out strings.Builder
		if err := listDevices(&out, devices, c.columns); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		if !fits(text, c.columns) || strings.Count(text, "\n") != c.lines {
			t.Errorf("%d columns, want %d lines:\n%s", c.columns, c.lines, text)
		}
		for _, want := range []string{"tv ", "a-very-", "upstairs", "02:00:5e:10:00:01", "02:00:5e:10:00:03", "192.168.50.11", "10.66.0.7", six("7898").String(), six("789a").String(), "123.5 GB", "999.9 MB", "123456789", "direct", "never"} {
			if !strings.Contains(text, want) {
				t.Errorf("%d columns have no %s:\n%s", c.columns, want, text)
			}
		}
	}
}
