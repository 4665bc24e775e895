package nft

import (
	"encoding/binary"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"github.com/torbpf/torbpf/internal/plan"
)

// TestMatchesOfIptables: those that its common rules have hold or not; others are not known.
func TestMatchesOfIptables(t *testing.T) {
	state := func(mask, inverted uint16) *xt.ConntrackMtinfo3 {
		m := &xt.ConntrackMtinfo3{}
		m.MatchFlags, m.InvertFlags, m.StateMask = uint16(xt.ConntrackState), inverted, mask
		return m
	}
	all := [2]uint16{0, 65535}
	unread := xt.Unknown{1}
	comment := xt.Comment("of mine")
	for name, c := range map[string]struct {
		info         xt.InfoAny
		holds, known bool
	}{
		"established":     {state(1<<1|1<<2, 0), false, true},
		"not established": {state(1<<1|1<<2, uint16(xt.ConntrackState)), true, true},
		"new":             {state(xtStateNew, 0), true, true},
		"another state":   {&xt.ConntrackMtinfo1{ConntrackMtinfoBase: xt.ConntrackMtinfoBase{MatchFlags: uint16(xt.ConntrackStatus)}}, false, false},
		"its port":        {&xt.Tcp{SrcPorts: all, DstPorts: [2]uint16{9000, 9100}}, true, true},
		"another port":    {&xt.Tcp{SrcPorts: all, DstPorts: [2]uint16{22, 22}}, false, true},
		"not that port":   {&xt.Tcp{SrcPorts: all, DstPorts: [2]uint16{22, 22}, InvFlags: xt.TcpInvDestPorts}, true, true},
		"flags":           {&xt.Tcp{SrcPorts: all, DstPorts: all, FlagsMask: 2, FlagsCmp: 2}, false, false},
		"UDP":             {&xt.Udp{SrcPorts: all, DstPorts: all}, false, true},
		"a comment":       {&comment, true, true},
		"another module":  {&unread, false, false},
	} {
		i := toRouter(9040).inspect(&ruleset{})
		if holds, known := i.match(&expr.Match{Name: name, Info: c.info}); known != c.known || known && holds != c.holds {
			t.Errorf("%s: holds %v, known %v", name, holds, known)
		}
	}
	untracked := toRouter(9040)
	untracked.Untracked = true
	if holds, known := untracked.inspect(&ruleset{}).match(&expr.Match{Info: state(xtStateNew, 0)}); holds || !known {
		t.Error("what conntrack knows nothing of is taken for new")
	}
}

// TestTargetsOfIptablesThatWriteTheMark: by the bits that they write.
func TestTargetsOfIptablesThatWriteTheMark(t *testing.T) {
	words := func(of ...uint32) *xt.Unknown {
		var raw xt.Unknown
		for _, w := range of {
			raw = binary.NativeEndian.AppendUint32(raw, w)
		}
		return &raw
	}
	ours := plan.Mark{Shift: 24}.Mask()
	for name, c := range map[string]struct {
		target expr.Target
		wipes  bool
	}{
		"the whole mark":         {expr.Target{Name: "MARK", Info: words(0x100, 0xffffffff)}, true},
		"its own bits":           {expr.Target{Name: "MARK", Info: words(0x100, 0xff00)}, false},
		"that of the connection": {expr.Target{Name: "CONNMARK", Info: words(0, 0xffffffff, 0xffffffff, 2)}, true},
		"saved to it":            {expr.Target{Name: "CONNMARK", Info: words(0, 0xffffffff, 0xffffffff, 1)}, false},
		"a log":                  {expr.Target{Name: "LOG", Info: words(0, 0xffffffff)}, false},
		"too short":              {expr.Target{Name: "MARK", Info: words(0x100)}, false},
	} {
		if got := writtenBy(&c.target)&ours != 0; got != c.wipes {
			t.Errorf("%s: wipes %v", name, got)
		}
	}
}
