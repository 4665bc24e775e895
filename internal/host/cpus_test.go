package host

import "testing"

func TestCPUsAreCounted(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-3": 4, "0,2-3,8": 4, "0-1,4-63": 62} {
		if n, err := countCPUs(list); err != nil || n != want {
			t.Errorf("%q has %d CPUs (%v), want %d", list, n, err, want)
		}
	}
	for _, list := range []string{"", "a", "3-1", "0-", "0 1"} {
		if n, err := countCPUs(list); err == nil {
			t.Errorf("%q has %d CPUs", list, n)
		}
	}
	if n, err := onlineCPUs(); err != nil || n < 1 {
		t.Errorf("this machine has %d CPUs: %v", n, err)
	}
}
