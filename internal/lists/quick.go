package lists

import (
	"bytes"
	"net/netip"
)

// quick reads what nearly all lines of a list hold, without allocating. What it
// does not take may still be right, and is for config.ParsePrefix to judge;
// what it takes it reads as that does, which FuzzList compares.
func quick(text []byte) (netip.Prefix, bool) {
	address, length, isPrefix := bytes.Cut(text, slash)
	a, ok := quick4(address)
	if !ok {
		a, ok = quick6(address)
	}
	bits := a.BitLen()
	if ok && isPrefix {
		bits, ok = decimal(length)
	}
	if !ok {
		return netip.Prefix{}, false
	}
	p := netip.PrefixFrom(a, bits) // not valid if longer than the address
	return p, p.IsValid() && !a.Is4In6() && p == p.Masked()
}

// quick4 reads four numbers with dots between them.
func quick4(text []byte) (netip.Addr, bool) {
	var a [4]byte
	for i := range a {
		field, rest, more := cut(text, '.')
		n, ok := decimal(field)
		if !ok || n > 255 || more != (i < len(a)-1) {
			return netip.Addr{}, false
		}
		a[i], text = byte(n), rest
	}
	return netip.AddrFrom4(a), true
}

// quick6 reads groups of hexadecimal digits, with one :: or none.
func quick6(text []byte) (netip.Addr, bool) {
	head, tail, shortened := bytes.Cut(text, []byte("::"))
	var a, end [16]byte
	before, ok := groups(head, &a)
	if !ok {
		return netip.Addr{}, false
	}
	after, ok := groups(tail, &end)
	if !ok || shortened != (before+after < len(a)) {
		return netip.Addr{}, false
	}
	copy(a[len(a)-after:], end[:after])
	return netip.AddrFrom16(a), true
}

// groups reads up to eight groups into the front of a and says how many bytes
// that made.
func groups(text []byte, a *[16]byte) (n int, ok bool) {
	for more := len(text) > 0; more; n += 2 {
		var field []byte
		field, text, more = cut(text, ':')
		if len(field) == 0 || len(field) > 4 || n == len(a) {
			return 0, false
		}
		group := 0
		for _, c := range field {
			digit, ok := hexadecimal(c)
			if !ok {
				return 0, false
			}
			group = group<<4 | digit
		}
		a[n], a[n+1] = byte(group>>8), byte(group)
	}
	return n, true
}

// cut is bytes.Cut at one byte, faster for the few that a field has.
func cut(text []byte, at byte) (before, after []byte, found bool) {
	for i, c := range text {
		if c == at {
			return text[:i], text[i+1:], true
		}
	}
	return text, nil, false
}

// decimal reads up to three digits without leading zeros.
func decimal(text []byte) (n int, ok bool) {
	if len(text) == 0 || len(text) > 3 || len(text) > 1 && text[0] == '0' {
		return 0, false
	}
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

func hexadecimal(c byte) (digit int, ok bool) {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0'), true
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10, true
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10, true
	}
	return 0, false
}
