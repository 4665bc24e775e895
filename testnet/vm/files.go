package vm

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// ParseFile reads PATH or PATH:GUEST; without a second one a file is in the same place there.
func ParseFile(text string) (host, guest string, err error) {
	host, guest, found := strings.Cut(text, ":")
	if host, err = filepath.Abs(host); err != nil {
		return "", "", err
	}
	if !found {
		guest = host
	}
	if !path.IsAbs(guest) {
		return "", "", fmt.Errorf("%s: the path in the machine begins with /", text)
	}
	return host, guest, nil
}

// Unpack writes what a guest has left in /out, see Event.Files, below root.
func Unpack(from *tar.Reader, root *os.Root) error {
	for {
		header, err := from.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read what the guest has left: %w", err)
		}
		if err := root.MkdirAll(path.Dir(header.Name), 0o755); err != nil {
			return err
		}
		f, err := root.Create(header.Name)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, from)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}
