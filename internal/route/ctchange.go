package route

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// ends is what a flow is found by: the original direction. Its reply and mark
// may have changed since it was listed.
type ends struct {
	protocol uint8
	src, dst netip.AddrPort
}

func endsOf(f *plan.Flow) ends { return ends{f.Protocol, f.Src, f.Dst} }

// Delete deletes exactly the entries with the protocol and the original tuple of
// the given flows, in whatever zone, and returns how many. Entries that ended
// meanwhile are no error. All are tried.
func Delete(flows []plan.Flow) (int, error) {
	return change("delete", among(flows), deletion)
}

// SetMarks replaces the bits under mask in the ct mark of the given flows' entries
// by those of value, leaves the other bits as they are, and returns how many
// entries it wrote. They are found as by Delete.
func SetMarks(flows []plan.Flow, value, mask uint32) (int, error) {
	return change("mark", among(flows), setMark(value, mask))
}

// ClearMarks sets the bits under mask to 0 in the ct mark of all entries where
// they equal value, and returns how many those were.
func ClearMarks(value, mask uint32) (int, error) {
	carries := func(e *entry) bool { return e.Mark&mask == value }
	return change("unmark", carries, setMark(0, mask))
}

// among selects the entries of given flows; nil if there are none.
func among(flows []plan.Flow) func(*entry) bool {
	if len(flows) == 0 {
		return nil
	}
	chosen := make(map[ends]bool, len(flows))
	for i := range flows {
		chosen[endsOf(&flows[i])] = true
	}
	return func(e *entry) bool { return chosen[endsOf(&e.Flow)] }
}

func deletion(ct *conntrack, e *entry) *nl.NetlinkRequest {
	return ct.request(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, e.family)
}

func setMark(value, mask uint32) func(*conntrack, *entry) *nl.NetlinkRequest {
	return func(ct *conntrack, e *entry) *nl.NetlinkRequest {
		// Without NLM_F_CREATE this changes an entry and never makes one. The
		// kernel toggles value bits that lie outside of the mask.
		req := ct.request(nl.IPCTNL_MSG_CT_NEW, unix.NLM_F_ACK, e.family)
		req.AddData(nl.NewRtAttr(nl.CTA_MARK, nl.BEUint32Attr(value&mask)))
		req.AddData(nl.NewRtAttr(ctaMarkMask, nl.BEUint32Attr(mask)))
		return req
	}
}

// change lists all entries once and sends a request, completed with what names
// the entry, for each that is selected.
func change(verb string, selected func(*entry) bool, request func(*conntrack, *entry) *nl.NetlinkRequest) (int, error) {
	if selected == nil {
		return 0, nil
	}
	changed := 0
	err := withConntrack(func(ct *conntrack) error {
		var entries []entry
		err := ct.each(func(e *entry) {
			if selected(e) {
				entries = append(entries, *e)
			}
		})
		if err != nil {
			return err
		}
		var failed int
		var first error
		for i := range entries {
			err := ct.execute(request(ct, &entries[i]), &entries[i])
			switch {
			case err == nil:
				changed++
			case !errors.Is(err, unix.ENOENT):
				failed++
				if first == nil {
					first = fmt.Errorf("%s conntrack entry %s: %w", verb, describe(&entries[i].Flow), kernel.Explain(err, conntrackNetlink))
				}
			}
		}
		if failed > 1 {
			return fmt.Errorf("%w (and %d more)", first, failed-1)
		}
		return first
	})
	return changed, err
}

// execute sends a request about one entry.
func (ct *conntrack) execute(req *nl.NetlinkRequest, e *entry) error {
	req.AddData(nl.NewRtAttr(nl.CTA_TUPLE_ORIG|int(nl.NLA_F_NESTED), e.tuple))
	if e.zone != nil {
		req.AddData(nl.NewRtAttr(nl.CTA_ZONE, e.zone))
	}
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}

func describe(f *plan.Flow) string {
	return fmt.Sprintf("%s → %s (protocol %d)", f.Src, f.Dst, f.Protocol)
}
