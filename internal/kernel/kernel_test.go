package kernel

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestExplainTellsALackFromAFailure(t *testing.T) {
	for _, c := range []struct {
		err  error
		says string // "" for none of our business
	}{
		{unix.EPERM, "as root"},
		{unix.EOPNOTSUPP, "torbpf needs nf_tables"},
		{unix.EAFNOSUPPORT, "torbpf needs nf_tables"},
		{unix.EPROTONOSUPPORT, "torbpf needs nf_tables"},
		{unix.EINVAL, "torbpf needs nf_tables"}, // of this question alone
		{unix.EEXIST, ""},
		{unix.EACCES, ""},
		{errors.New("other"), ""},
	} {
		wrapped := fmt.Errorf("ask the kernel: %w", c.err)
		err := Explain(wrapped, "nf_tables", unix.EINVAL)
		if !errors.Is(err, c.err) || errors.Is(err, ErrMissing) != (c.says != "") || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v is explained as %v", c.err, err)
		}
		if again := Explain(err, "something else"); c.says != "" && again.Error() != err.Error() {
			t.Errorf("%v is explained twice: %v", c.err, again)
		}
	}
	if err := Explain(nil, "nf_tables"); err != nil {
		t.Errorf("nothing is explained as %v", err)
	}
}

func TestWholeReadsATornListingAnewButNotForEver(t *testing.T) {
	tries := 0
	got, err := Whole(func() ([]int, error) {
		if tries++; tries < 3 {
			return []int{1}, netlink.ErrDumpInterrupted
		}
		return []int{1, 2}, nil
	})
	if err != nil || len(got) != 2 || tries != 3 {
		t.Errorf("listed %v after %d tries: %v", got, tries, err)
	}
	tries = 0
	half, err := Whole(func() ([]int, error) { tries++; return []int{1}, netlink.ErrDumpInterrupted })
	if !errors.Is(err, netlink.ErrDumpInterrupted) || half != nil || tries != attempts {
		t.Errorf("listed %v after %d tries: %v", half, tries, err)
	}
	tries = 0
	_, err = Whole(func() ([]int, error) { tries++; return nil, unix.EPERM })
	if !errors.Is(err, unix.EPERM) || tries != 1 {
		t.Errorf("another error is met %d times: %v", tries, err)
	}
}
