package model

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

const (
	// agreePackets are compared, agreeBatch of them under one policy.
	agreePackets = 200_000
	agreeBatch   = 500
	// agreeTime bounds the test on a slow machine.
	agreeTime = 10 * time.Second
)

// TestModelAgrees compares the programs with the model on random packets under
// random policies. The seed is fixed, so a failure comes again.
func TestModelAgrees(t *testing.T) {
	enterNamespace(t)
	loaded := []*objects{load(t, 24), loadTors(t, 5, 3), loadWith(t, 24, plan.Plan{Ports: ports, TProxy: true}, 100)}
	d := newDice(1)
	compared, start := 0, time.Now()
	for batch := 0; compared < agreePackets && time.Since(start) < agreeTime; batch++ {
		o, p := loaded[batch%len(loaded)], d.policy()
		o.trees = d.one(2)
		program := pick(d, "torbpf_lan", "torbpf_lan", "torbpf_lan", "torbpf_lan_l3")
		frames := d.batch(p, program, agreeBatch)
		o.set(p)
		for _, frame := range frames {
			if program == "torbpf_lan" && d.one(2) {
				frame[11] = byte(d.Uint32()) // another device, and so another tor perhaps
			}
			err := o.compare(p, program, frame, d.Uint32())
			if errors.Is(err, errShort) {
				continue
			}
			if err != nil {
				t.Fatalf("%s under %+v on\n% x:\n%v", program, *p, frame, err)
			}
			compared++
		}
	}
	t.Logf("%d packets in %s", compared, time.Since(start).Round(time.Millisecond))
	met := make(map[abi.Reason]bool)
	for _, o := range loaded {
		for key := range o.tally() {
			met[key.reason] = true
		}
	}
	for r := abi.ReasonNone + 1; r < abi.ReasonMax; r++ {
		elsewhere := []abi.Reason{abi.ReasonUplinkGuard, abi.ReasonClientGuard, abi.ReasonClientEnded, abi.ReasonOwnDNS, abi.ReasonDNSGuard, abi.ReasonDeliveryGuard, abi.ReasonForwardGuard, abi.ReasonCutPeer, abi.ReasonDirectInterface, abi.ReasonStranger}
		if !met[r] && !slices.Contains(elsewhere, r) {
			t.Errorf("no packet met the reason %s", r)
		}
	}
}

// batch throws n frames for a program, some of which the policy's flows then know.
func (d dice) batch(p *Policy, program string, n int) [][]byte {
	frames := make([][]byte, n)
	for i := range frames {
		frames[i] = d.frame(p)
		if program == "torbpf_lan_l3" {
			frames[i] = tunnelled(frames[i][14:])
		}
		if d.one(10) {
			p.admit(frames[i], program)
		}
	}
	return frames
}

// tunnelled puts the EtherType where the kernel reads it in a test run, into the
// source address of a packet without an Ethernet header.
func tunnelled(packet []byte) []byte {
	if len(packet) >= 14 {
		etherType := uint16(etherIPv4)
		if packet[0]>>4 == 6 {
			etherType = etherIPv6
		}
		binary.BigEndian.PutUint16(packet[12:], etherType)
	}
	return packet
}

// admit lets the policy have seen a flow from outside that the frame answers.
func (p *Policy) admit(frame []byte, program string) {
	k := Parse(frame, program == "torbpf_lan", Metadata{Protocol: stackProtocol(frame)})
	if k.Layer3 == IPv4 || k.Layer3 == IPv6 {
		p.Flows[InboundFlow{k.Protocol, netip.AddrPortFrom(k.Src, k.SrcPort), netip.AddrPortFrom(k.Dst, k.DstPort)}] = true
	}
}

// fuzzPolicies are the policies that the fuzzer chooses from: filling the maps
// for each frame would take most of its time.
const fuzzPolicies = 8

// FuzzClassifier compares the programs with the model on what the fuzzer
// makes of the packets of the table. Frames for the program without Ethernet
// begin with their IP header.
func FuzzClassifier(f *testing.F) {
	for i, r := range rows() {
		f.Add(r.frame, r.mark, uint8(i), false)
	}
	d := newDice(2)
	for i := range 64 {
		frame := d.frame(home())
		f.Add(frame, uint32(0), uint8(i), false)
		f.Add(ip(peer4, excluded4, d.segment(), d.parts(true)...), uint32(0), uint8(i), true)
		f.Add(ip(peer6, excluded6, d.segment(), d.parts(false)...), uint32(0), uint8(i), true)
	}
	var loaded [fuzzPolicies]*objects
	var policies [fuzzPolicies]*Policy
	for i := range loaded {
		loaded[i], policies[i] = loadWith(f, 24, plan.Plan{Ports: ports, TProxy: i%4 == 3}, 100), newDice(uint64(i)).policy()
		if i == 0 {
			policies[i] = home()
		}
		loaded[i].set(policies[i])
	}
	f.Fuzz(func(t *testing.T, frame []byte, mark uint32, choice uint8, tunnel bool) {
		if len(frame) < 14 || len(frame) > 2048 {
			return // the kernel runs no program on such a frame
		}
		program := "torbpf_lan"
		if tunnel {
			program = "torbpf_lan_l3"
		}
		i := int(choice) % fuzzPolicies
		err := loaded[i].compare(policies[i], program, frame, mark)
		if err != nil && !errors.Is(err, errShort) {
			t.Fatalf("%s under %+v on\n% x:\n%v", program, *policies[i], frame, err)
		}
	})
}
