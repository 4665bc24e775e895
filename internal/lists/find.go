package lists

import (
	"fmt"
	"net/netip"
	"os"
)

// Place is where a list has an address.
type Place struct {
	Line   int
	Prefix netip.Prefix // the narrowest that covers it, as it stands there
}

// Find looks an address up in the file at path; ok is false where the list lacks it. It takes
// the time that reading the file takes, but no memory. Errors are those of Read.
func Find(path string, addr netip.Addr) (place Place, ok bool, err error) {
	_, err = stable(path, func(f *os.File, _ int64) error {
		place, ok = Place{}, false
		err := each(f, func(line int, p netip.Prefix) error {
			if p.Contains(addr) && (!ok || p.Bits() > place.Prefix.Bits()) {
				place, ok = Place{line, p}, true
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
	return place, ok && err == nil, err
}
