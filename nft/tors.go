package nft

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/torbpf/torbpf/internal/plan"
)

// The maps from the instance in a mark to the ports of its tor, where there are several.
const (
	mapTrans = "trans_ports"
	mapDNS   = "dns_ports"
)

func (b *builder) severalTors() bool { return len(b.Tors()) > 1 }

// transPort loads the TransPort of the tor that tc has chosen.
func (b *builder) transPort(register uint32) []expr.Any {
	if !b.severalTors() {
		return thePort(b.Ports.Trans, register)
	}
	return portByMark(b.Mark.InstanceMask(), mapTrans, register)
}

// dnsPort is transPort for DNSPort. What has no class has no instance either, and is the
// first tor's.
func (b *builder) dnsPort(register uint32) []expr.Any {
	if !b.severalTors() {
		return thePort(b.Ports.DNS, register)
	}
	return portByMark(b.Mark.InstanceMask(), mapDNS, register)
}

// torMaps lead from instances to ports; none where there is one tor. An instance that no tor
// has leads nowhere: what carries it is not redirected, and its class is not forwarded.
func (b *builder) torMaps() []set {
	if !b.severalTors() {
		return nil
	}
	return []set{
		b.portMap(mapTrans, "TransPort by tor", func(t plan.Tor) uint16 { return t.Trans }),
		b.portMap(mapDNS, "DNSPort by tor", func(t plan.Tor) uint16 { return t.DNS }),
	}
}

func (b *builder) portMap(name, comment string, port func(plan.Tor) uint16) set {
	s := set{Set: &nftables.Set{
		Name: name, IsMap: true, KeyType: nftables.TypeMark, DataType: nftables.TypeInetService,
		KeyByteOrder: binaryutil.NativeEndian, Size: classes, Comment: comment,
	}}
	for i, t := range b.Tors() {
		s.elements = append(s.elements, nftables.SetElement{
			Key: native(b.Mark.Instance(i)), Val: binary.BigEndian.AppendUint16(nil, port(t)),
		})
	}
	return s
}
