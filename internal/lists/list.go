// Package lists reads exclusion lists as countries and CDNs publish them: one
// prefix or address a line, both families mixed.
//
//	# comment                        also ;
//	104.16.0.0/13                    a prefix, as config.ParsePrefix takes it
//	192.0.2.7     ; SBL1234          an address is a host; a comment may follow
//	2001:db8::/32
//
// Blank lines, blanks around an entry, CRLF and a UTF-8 byte order mark are
// nothing. All else is refused, and with one broken line the whole list: a
// part of it would change what passes Tor without anybody having asked for it.
// The caller keeps what it read before.
//
// A list should be replaced by rename. One that is written in place is read
// again when it changes meanwhile, but a writer that pauses leaves half a list
// that looks whole until it goes on.
package lists

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/torbpf/torbpf/internal/config"
)

// Limits of one list. They bound what reading takes in time and memory,
// whatever the file turns out to be: an entry takes 32 bytes.
const (
	MaxEntries = 1_000_000 // lines with a prefix
	MaxLine    = 4096      // bytes of one line, without its ending
	MaxBytes   = 128 << 20 // of the file
)

// List is one file, read whole.
type List struct {
	Path string

	// Prefixes is the smallest set with the same addresses, as Merge returns
	// it. It is not empty and has no prefix of length 0. Not to be changed.
	Prefixes []netip.Prefix

	// Entries is how many lines hold a prefix or an address.
	Entries int

	// Digest is the SHA-256 of Prefixes in hexadecimal, over the length (one
	// byte) and then the address (4 or 16 bytes) of each, and a byte 0 before
	// the first of IPv6. Lists that hold the same addresses have the same,
	// however they are written down.
	Digest string

	// Stamp is of the file whose text this is.
	Stamp Stamp
}

// Read reads the list at path; symbolic links are followed. It may wait some
// milliseconds for a file that was written just now.
//
// Errors name the file and, where one line is at fault, that line. They wrap
// config.ErrInvalid if it is the list that has to be changed: a line that is
// none, no entry at all, a prefix or a set of them that covers a whole family,
// a limit exceeded, no regular file. Else they wrap what the system said, such
// as fs.ErrNotExist, or say that the file does not come to rest.
func Read(path string) (*List, error) {
	l := &List{Path: path}
	var err error
	l.Stamp, err = stable(path, func(f *os.File, size int64) error { return l.fill(f, size) })
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Changed says whether the file is another than that which was read, or has
// been written to since, so that it has to be read again. It looks at the
// file's inode, not at its text, so a new owner or mode is a change, too; the
// Digest tells whether the addresses are others. A file that is gone is an
// error that wraps fs.ErrNotExist.
func (l *List) Changed() (bool, error) {
	now, err := StampAt(l.Path)
	if err != nil {
		return false, err
	}
	return now != l.Stamp, nil
}

// Merge returns the smallest set of prefixes that covers the addresses of all
// lists, sorted by family (IPv4 first) and address. It is the caller's own, has
// 32 bytes an entry and may have more than MaxEntries of them. No lists give
// an empty set.
//
// Lists that cover a whole family together are an error that wraps
// config.ErrInvalid: they would let everything past Tor.
func Merge(lists ...*List) ([]netip.Prefix, error) {
	entries := 0
	for _, l := range lists {
		entries += len(l.Prefixes)
	}
	all := make([]netip.Prefix, 0, entries)
	for _, l := range lists {
		all = append(all, l.Prefixes...)
	}
	all = minimal(all)
	if family := wholeFamily(all); family != "" {
		return nil, invalid("merge %d lists: together they cover all of %s and would let everything past Tor: leave one of them out",
			len(lists), family)
	}
	return all, nil
}

// digest is what List.Digest says.
func digest(prefixes []netip.Prefix) string {
	hash := sha256.New()
	var buffer [4096]byte
	packed := buffer[:0]
	for i, p := range prefixes {
		if len(packed)+18 > len(buffer) {
			hash.Write(packed)
			packed = buffer[:0]
		}
		if p.Addr().Is6() && (i == 0 || prefixes[i-1].Addr().Is4()) {
			packed = append(packed, 0) // no length: none is 0
		}
		packed = append(packed, byte(p.Bits()))
		if p.Addr().Is4() {
			a := p.Addr().As4()
			packed = append(packed, a[:]...)
		} else {
			a := p.Addr().As16()
			packed = append(packed, a[:]...)
		}
	}
	hash.Write(packed)
	return hex.EncodeToString(hash.Sum(nil))
}

// wholeFamily names the family that the minimal set leaves nothing of, or "".
func wholeFamily(set []netip.Prefix) string {
	i := slices.IndexFunc(set, func(p netip.Prefix) bool { return p.Bits() == 0 })
	switch {
	case i < 0:
		return ""
	case set[i].Addr().Is4():
		return "IPv4"
	default:
		return "IPv6"
	}
}

// problem is what a list has to be changed for. errors.Is finds config.ErrInvalid.
type problem string

func (p problem) Error() string { return string(p) }
func (p problem) Unwrap() error { return config.ErrInvalid }

func invalid(format string, args ...any) error { return problem(fmt.Sprintf(format, args...)) }
