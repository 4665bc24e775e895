package users

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The accounts of people have numbers of this range; those of services, and nobody's, have others
// (login.defs).
const (
	firstPerson = 1000
	lastPerson  = 60000
)

// People names the accounts of people on this machine, and who has begun this process by sudo.
// Those that only a directory service knows are not among them, but for the latter.
func People() ([]string, error) {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	defer f.Close()
	names, err := people(f)
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	for _, variable := range []string{"SUDO_USER", "LOGNAME", "USER"} {
		if name := os.Getenv(variable); name != "" && name != "root" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// people reads passwd(5): the names, and what stands for the whole name of whoever it is.
func people(passwd io.Reader) ([]string, error) {
	var names []string
	lines := bufio.NewScanner(passwd)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 5 {
			continue
		}
		number, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil || number < firstPerson || number > lastPerson {
			continue
		}
		names = append(names, fields[0])
		if whole, _, _ := strings.Cut(fields[4], ","); whole != "" {
			names = append(names, whole)
		}
	}
	return names, lines.Err()
}
