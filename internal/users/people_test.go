package users

import (
	"slices"
	"strings"
	"testing"
)

// TestPeopleAreToldFromServices: with their whole names, and who has used sudo.
func TestPeopleAreToldFromServices(t *testing.T) {
	got, err := people(strings.NewReader("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000:Alice Doe,,,:/home/alice:/bin/sh\nnobody:x:65534:65534:nobody:/:\nbob:x:1001:1001::/home/bob:/bin/sh\nodd\n"))
	if want := []string{"alice", "Alice Doe", "bob"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	t.Setenv("SUDO_USER", "carol-of-ldap")
	if got, err := People(); err != nil || !slices.Contains(got, "carol-of-ldap") {
		t.Errorf("%q, %v", got, err)
	}
}
