package model

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
)

// explainer is a copy of the LAN programs that explains, on the same maps.
func (o *objects) explainer() *loader.Explainer {
	o.tb.Helper()
	shared := make(map[string]*ebpf.Map)
	for name, m := range o.maps {
		clone, err := m.Clone()
		if err != nil {
			o.tb.Fatal(err)
		}
		shared[name] = clone
	}
	e, err := loader.NewExplainer(shared, &plan.Plan{Mark: o.mark, Ports: ports, Instances: o.tors})
	if err != nil {
		o.tb.Fatal(err)
	}
	o.tb.Cleanup(e.Close)
	return e
}

// lanOf is the LAN of the program.
func lanOf(program string) plan.LAN {
	return plan.LAN{Index: lanIndex, Ethernet: program == "torbpf_lan"}
}

// explains checks that a copy which explains says what the program has just done.
func (o *objects) explains(e *loader.Explainer, program string, frame []byte, mark uint32, did outcome, verdict abi.Verdict, reason abi.Reason) error {
	asked := frame
	if program != "torbpf_lan" {
		etherType := []byte{0x08, 0x00}
		if frame[0]>>4 == 6 {
			etherType = []byte{0x86, 0xdd}
		}
		asked = slices.Concat(routerMAC[:], hostMAC[:], etherType, frame)
	}
	said, err := e.Judge(lanOf(program), asked, mark)
	if err != nil {
		return err
	}
	if said.Verdict != verdict || said.Reason != reason {
		return fmt.Errorf("explained as %s, %s; the program says %s, %s", said.Verdict, said.Reason, verdict, reason)
	}
	if toTor(verdict) && said.Instance != o.mark.InstanceOf(did.mark) {
		return fmt.Errorf("explained as of tor %d; the program says %d", said.Instance, o.mark.InstanceOf(did.mark))
	}
	if did.action != actRedirect { // rate-limited, or never answered
		return nil
	}
	if said.Answer == nil {
		return fmt.Errorf("explained without an answer; the program sent % x", did.frame)
	}
	// Without an Ethernet header a test run makes room at the wrong place.
	if sent := did.frame[14:]; program == "torbpf_lan" && !bytes.Equal(said.Answer, sent) {
		return fmt.Errorf("explained with the answer % x; the program sent % x", said.Answer, sent)
	}
	return nil
}

// TestExplainingSaysWhatTheProgramDoes runs both over the whole table.
func TestExplainingSaysWhatTheProgramDoes(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	e := o.explainer()
	for _, r := range rows() {
		t.Run(r.name, func(t *testing.T) {
			p := home()
			if r.home != nil {
				r.home(p)
			}
			o.set(p)
			o.forget()
			out := o.watch(t, "torbpf_lan", r.frame, skBuff{Ifindex: lanIndex, Mark: r.mark | forged})
			if err := o.explains(e, "torbpf_lan", r.frame, r.mark|forged, out, r.reason.Verdict(), r.reason); err != nil {
				t.Error(err)
			}
			if said, err := e.Judge(lanOf("torbpf_lan"), r.frame, r.mark|forged); err != nil || (said.Answer != nil) != (out.action == actRedirect) {
				t.Errorf("explained with the answer % x: %v; the program returns %#x", said.Answer, err, out.action)
			}
		})
	}
}

// TestExplainingAgrees does the same with random packets under random policies.
func TestExplainingAgrees(t *testing.T) {
	enterNamespace(t)
	const packets, batch, limit = 100_000, 500, 20 * time.Second
	o := loadTors(t, 24, 5)
	e := o.explainer()
	d := newDice(3)
	compared, start := 0, time.Now()
	for compared < packets && time.Since(start) < limit {
		p := d.policy()
		program := pick(d, "torbpf_lan", "torbpf_lan", "torbpf_lan", "torbpf_lan_l3")
		frames := d.batch(p, program, batch)
		o.set(p)
		for _, frame := range frames {
			mark := d.Uint32()
			verdict, reason := p.Judge(Parse(frame, program == "torbpf_lan", Metadata{Protocol: stackProtocol(frame), Mark: mark}))
			out, err := o.run(program, frame, skBuff{Ifindex: lanIndex, Mark: mark})
			if errors.Is(err, errShort) || program == "torbpf_lan_l3" && len(frame) < 40 {
				continue
			}
			if err == nil {
				err = o.explains(e, program, frame, mark, out, verdict, reason)
			}
			if err != nil {
				t.Fatalf("%s under %+v on\n% x:\n%v", program, *p, frame, err)
			}
			compared++
		}
	}
	t.Logf("%d packets in %s", compared, time.Since(start).Round(time.Millisecond))
}

// TestExplainingMovesNothing compares every map before and after: counters, allowances,
// refusals, learned flows and devices, and what the programs keep of a packet.
func TestExplainingMovesNothing(t *testing.T) {
	enterNamespace(t)
	o := load(t, 24)
	e := o.explainer()
	refusals, err := ringbuf.NewReader(o.maps["refusals"])
	if err != nil {
		t.Fatal(err)
	}
	defer refusals.Close()
	for _, r := range rows() { // so that there is something to move
		if _, err := o.run("torbpf_lan", r.frame, skBuff{Ifindex: lanIndex, Mark: r.mark}); err != nil {
			t.Fatal(err)
		}
	}
	reported := refusals.AvailableBytes()
	if reported == 0 {
		t.Fatal("no refusal was reported, so the test would see none")
	}
	for asked := 0; asked < 1000; {
		for _, r := range rows() {
			p := home()
			if r.home != nil {
				r.home(p)
			}
			o.set(p)
			before := o.contents()
			if _, err := e.Judge(lanOf("torbpf_lan"), r.frame, r.mark); err != nil {
				t.Fatal(err)
			}
			asked++
			after := o.contents()
			for name, text := range before {
				if after[name] != text {
					t.Fatalf("%s: an explanation changed map %s from %q to %q", r.name, name, text, after[name])
				}
			}
		}
	}
	if now := refusals.AvailableBytes(); now != reported {
		t.Errorf("explanations were reported: %d bytes of refusals have become %d", reported, now)
	}
}

// contents are all maps but the ring buffer as text; of the slots of devices those of the
// host that sends.
func (o *objects) contents() map[string]string {
	o.tb.Helper()
	out := make(map[string]string)
	for name, m := range o.maps {
		if m.Type() == ebpf.RingBuf || m.Type() == ebpf.SkStorage { // the latter is in sockets: a test run's has none
			continue
		}
		if name == abi.DatapathMapTransTargets { // 131,072 of connections of the machine itself: no LAN program has it
			continue
		}
		if name == abi.DatapathMapDeviceTraffic {
			out[name] = o.hostTraffic()
			continue
		}
		if memory, err := m.Memory(); err == nil { // a look-up for each of its entries would take long
			raw := make([]byte, memory.Size())
			if _, err := memory.ReadAt(raw, 0); err != nil {
				o.tb.Fatalf("read map %s: %v", name, err)
			}
			out[name] = string(raw)
			continue
		}
		var key, value []byte
		var values [][]byte // one for each CPU
		entries := make(map[string]string)
		it := m.Iterate()
		if perCPU := []ebpf.MapType{ebpf.PerCPUHash, ebpf.LRUCPUHash, ebpf.PerCPUArray}; slices.Contains(perCPU, m.Type()) {
			for it.Next(&key, &values) {
				entries[string(key)] = fmt.Sprintf("%x", values)
			}
		} else {
			for it.Next(&key, &value) {
				entries[string(key)] = fmt.Sprintf("%x", value)
			}
		}
		if err := it.Err(); err != nil {
			o.tb.Fatalf("list map %s: %v", name, err)
		}
		var lines []string
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			lines = append(lines, fmt.Sprintf("%x=%s", key, entries[key]))
		}
		out[name] = fmt.Sprint(lines)
	}
	return out
}

func (o *objects) hostTraffic() string {
	o.tb.Helper()
	var text strings.Builder
	for _, slot := range o.hostSlots() {
		var perCPU []abi.DatapathDeviceTraffic
		if err := o.maps["device_traffic"].Lookup(slot, &perCPU); err != nil {
			o.tb.Fatalf("look up slot %d: %v", slot, err)
		}
		fmt.Fprintf(&text, "%+v\n", perCPU)
	}
	return text.String()
}
