package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// Web configures what `torbpf run` serves by TCP: metrics, and the page.
type Web struct {
	Listen []netip.AddrPort `json:"listen"` // none: nothing is served
	Page   bool             `json:"page"`
	// Metrics says where they are served, who needs no session for them.
	Metrics MetricsAt `json:"metrics"`
	// PasswordFile has the hash of the page's password: an absolute path. Without the file
	// nobody signs in by a password.
	PasswordFile string `json:"password_file"`
}

// MetricsAt says at which of the addresses metrics are served. They name devices, and say who sends how much.
type MetricsAt string

// Addresses at which metrics are served.
const (
	MetricsLoopback   MetricsAt = "loopback"   // those for this machine alone
	MetricsEverywhere MetricsAt = "everywhere" // all, for whoever reaches one
)

// fileWeb is about what is served by TCP.
type fileWeb struct {
	Listen       *[]string `toml:"listen,omitempty"`
	Page         *bool     `toml:"page,omitempty"`
	PasswordFile *string   `toml:"password_file,omitempty"`
	Metrics      *string   `toml:"metrics,omitempty"`
}

func (f fileWeb) apply(w *Web) error {
	set(&w.Page, f.Page)
	set(&w.PasswordFile, f.PasswordFile)
	if f.Metrics != nil {
		w.Metrics = MetricsAt(*f.Metrics)
	}
	if f.Listen == nil {
		return nil
	}
	w.Listen = []netip.AddrPort{}
	for _, s := range *f.Listen {
		addr, err := netip.ParseAddrPort(s)
		if err != nil || addr.Port() == 0 {
			return &FieldError{Field: "web.listen", Problem: fmt.Sprintf("%q is no address with a port, such as 127.0.0.1:9959 or [::1]:9959", s)}
		}
		w.Listen = append(w.Listen, addr)
	}
	return nil
}

// over lets what a later file says count.
func (f *fileWeb) over(earlier fileWeb) {
	keep(&f.Listen, earlier.Listen)
	keep(&f.Page, earlier.Page)
	keep(&f.PasswordFile, earlier.PasswordFile)
	keep(&f.Metrics, earlier.Metrics)
}

// file is how a file says it, without what is as by default.
func (w Web) file() fileWeb {
	d := Default().Web
	f := fileWeb{Page: differing(w.Page, d.Page), PasswordFile: differing(w.PasswordFile, d.PasswordFile), Metrics: differing(string(w.Metrics), string(d.Metrics))}
	if slices.Equal(w.Listen, d.Listen) {
		return f
	}
	f.Listen = &[]string{}
	for _, addr := range w.Listen {
		*f.Listen = append(*f.Listen, addr.String())
	}
	return f
}

// web refuses to serve the page to everybody, and nothing at all.
func (v *validation) web(w Web) {
	if w.Page && !filepath.IsAbs(w.PasswordFile) {
		v.add("web.password_file", "%q is no absolute path: write one such as %s", w.PasswordFile, Default().Web.PasswordFile)
	}
	if w.Metrics != MetricsLoopback && w.Metrics != MetricsEverywhere {
		v.add("web.metrics", "%q is neither %s nor %s", w.Metrics, MetricsLoopback, MetricsEverywhere)
	}
	for _, addr := range w.Listen {
		switch {
		case w.Page && addr.Addr().IsUnspecified():
			v.add("web.listen", "%s is every address of this machine, those that the internet reaches among them: name the router's address on the LAN, or "+metricsAlone, addr)
		case !w.Page && w.Metrics == MetricsLoopback && !addr.Addr().IsLoopback():
			v.add("web.listen", "nothing would be served at %s: the page is off, and metrics are for this machine alone. metrics = \"everywhere\" has everybody who reaches it read them", addr)
		}
	}
}

// metricsAlone is what to write for no page.
const metricsAlone = `write page = false and metrics = "everywhere" for metrics alone`

// locked refuses to serve the page to a LAN without a password. It looks for the file alone,
// which root alone can read.
func (w Web) locked() error {
	beyond := slices.IndexFunc(w.Listen, func(a netip.AddrPort) bool { return !a.Addr().IsLoopback() })
	if !w.Page || beyond < 0 {
		return nil
	}
	_, err := os.Stat(w.PasswordFile)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return &FieldError{Field: "web.listen", Problem: fmt.Sprintf("%s is for the LAN, and the page has no password (%s): set one by `torbpf page password`, or "+metricsAlone, w.Listen[beyond], w.PasswordFile)}
	case err != nil:
		return &FieldError{Field: "web.password_file", Problem: fmt.Sprintf("cannot be looked for: %v", err)}
	}
	return nil
}
