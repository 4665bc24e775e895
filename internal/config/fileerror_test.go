package config

import (
	"errors"
	"strings"
	"testing"
)

// TestFileErrorsAreInTheWordsOfTheFile: they name the line, what is there and what belongs
// there, and no type of Go.
func TestFileErrorsAreInTheWordsOfTheFile(t *testing.T) {
	const begin = "interfaces = [\"eth1\"]\n"
	for text, want := range map[string]string{
		`interfaces = "eth1"`:                                            `line 1, interfaces: a string stands where a list such as ["..."] belongs`,
		begin + `mark_shift = "x"`:                                       "line 2, mark_shift: a string stands where a number from 0 to 255 belongs",
		begin + "mark_shift = 300":                                       "line 2, mark_shift: 300 is too large or too small: write a number from 0 to 255",
		begin + "local = 3":                                              `line 2, local: an integer stands where a text such as "..." belongs`,
		begin + `clsact = "yes"`:                                         "line 2, clsact: a string stands where true or false belongs",
		begin + "tor = 3":                                                "line 2, tor: an integer stands where a table of keys belongs",
		begin + "[exclusions]\ndestinations = \"x\"":                     `line 3, exclusions.destinations: a string stands where a list such as ["..."] belongs`,
		begin + "[exclusions]\nresolver = \"x\"":                         `line 3, exclusions.resolver: "x" is no address: write one such as 192.0.2.53`,
		begin + "[[rules]]\ndestination = \"9.9.9.9\"\nuntil = \"soon\"": `line 4, rules.until: "soon" is no time: write one such as 2030-01-31T18:00:00+01:00`,
	} {
		_, err := Parse([]byte(text))
		if err == nil || err.Error() != want || !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
		if strings.Contains(err.Error(), ErrInvalid.Error()) {
			t.Errorf("%q: %v: it says twice that it is wrong", text, err)
		}
	}
}

// TestNamesOfDevicesDifferByMoreThanCapitals, and none is a hardware address.
func TestNamesOfDevicesDifferByMoreThanCapitals(t *testing.T) {
	cfg := Default()
	tv, other := MAC{2, 0, 0, 0, 0, 1}, MAC{2, 0, 0, 0, 0, 2}
	cfg.Devices = map[string]MAC{"Kitchen-TV": tv, "kitchen-tv": other}
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "is the same name") {
		t.Errorf("two devices are called the same: %v", err)
	}
	delete(cfg.Devices, "kitchen-tv")
	for _, who := range []string{"kitchen-tv", "KITCHEN-TV", tv.String(), "02-00-00-00-00-01", "0200.0000.0001"} {
		if e, err := cfg.WhoIs(who, nil); err != nil || e.MAC != tv {
			t.Errorf("%s is %v, %v", who, e, err)
		}
	}
	if err := CheckDeviceName("02-00-00-00-00-01"); err == nil {
		t.Error("a hardware address is taken for a name")
	}
}
