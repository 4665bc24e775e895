package config

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// deviceName is what a device may be called: a word that is no address and no
// hardware address, as both have a dot or a colon.
var deviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// CheckDeviceName refuses what a device cannot be called.
func CheckDeviceName(name string) error {
	if _, err := ParseMAC(name); err == nil || !deviceName.MatchString(name) {
		return &ParseError{Input: name, Kind: ErrSyntax, message: "no name for a device: letters, digits, - and _, such as kitchen-tv"}
	}
	return nil
}

func (v *validation) devices(c Config) {
	called, spelled := make(map[MAC]string), make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(c.Devices)) {
		if err := CheckDeviceName(name); err != nil {
			v.add("devices."+name, "%v", err)
		}
		mac := c.Devices[name]
		if other, twice := called[mac]; twice {
			v.add("devices."+name, "%s is called %s as well: which of the two is meant?", mac, other)
		}
		called[mac] = name
		if other, twice := spelled[strings.ToLower(name)]; twice {
			v.add("devices."+name, "%s is the same name to commands, and %s has it: call one of them something else", other, c.Devices[other])
		}
		spelled[strings.ToLower(name)] = name
	}
}

// Named returns the device of a name, whatever letters of it are capital.
func (c Config) Named(name string) (mac MAC, known bool) {
	for n, of := range c.Devices {
		if strings.EqualFold(n, name) {
			return of, true
		}
	}
	return MAC{}, false
}

// DeviceName returns what a device is called, "" for nothing.
func (c Config) DeviceName(mac MAC) string {
	for name, of := range c.Devices {
		if of == mac {
			return name
		}
	}
	return ""
}

// WhoIs reads whom somebody means: a device by its name or its hardware address, or an
// address, which is a device's if the neighbours tell whose.
func (c Config) WhoIs(who string, neighbours map[netip.Addr]MAC) (Entry, error) {
	if mac, named := c.Named(who); named {
		return Entry{Kind: KindDevice, MAC: mac}, nil
	}
	if addr, err := netip.ParseAddr(who); err == nil {
		if mac, known := neighbours[addr.Unmap()]; known {
			return Entry{Kind: KindDevice, MAC: mac}, nil
		}
		return ParseEntry(KindSource, who)
	}
	if entry, err := ParseEntry(KindDevice, who); err == nil {
		return entry, nil
	}
	if deviceName.MatchString(who) {
		return Entry{}, &ParseError{Input: who, Kind: ErrSyntax,
			message: fmt.Sprintf("no device has this name, %s: torbpf device list shows who is there, torbpf device name MAC %s gives it to one", c.namesInWords(), who)}
	}
	return ParseEntry(KindDevice, who)
}

// meanDevice finds the device that a rule of a file calls by a name.
func (r *Rule) meanDevice(devices map[string]MAC) error {
	if r.named == "" {
		return nil
	}
	c, known := Config{Devices: devices}, false
	if r.MAC, known = c.Named(r.named); !known {
		return &FieldError{r.Origin, fmt.Sprintf("%q is no hardware address, and no device has this name in these files, %s: write it below [devices], or type torbpf device name MAC %s --save",
			r.named, c.namesInWords(), r.named)}
	}
	r.named = ""
	return nil
}

// namesInWords lists the names that devices have.
func (c Config) namesInWords() string {
	if len(c.Devices) == 0 {
		return "and none has any"
	}
	return "but there is " + strings.Join(slices.Sorted(maps.Keys(c.Devices)), ", ")
}
