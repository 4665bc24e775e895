package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/lists"
	"github.com/torbpf/torbpf/loader"
	"github.com/torbpf/torbpf/testnet"
)

// BenchmarkListMaps fills the maps of a list of both families in no order, and reports how
// many entries are left when it is merged, and what each takes of the kernel's memory.
func BenchmarkListMaps(b *testing.B) {
	for _, n := range sizes {
		list := readList(b, n)
		before := memoryAtRest(b)
		maps := fillLists(b, list)
		defer maps.Close()
		taken := float64(memoryAtRest(b) - before)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if err := fillLists(b, list).Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(list.Prefixes)), "entries")
			b.ReportMetric(taken/float64(len(list.Prefixes)), "B/entry")
		})
	}
}

// BenchmarkListPacket runs the LAN program over packets to addresses of a list, and to any,
// ten times each: the first finds little of the list in the processor's caches.
func BenchmarkListPacket(b *testing.B) {
	for _, n := range append([]int{0}, sizes...) {
		var maps *loader.Lists
		packets := map[string][][]byte{}
		if n > 0 {
			list := readList(b, n)
			maps = fillLists(b, list)
			defer maps.Close()
			for range packetsOfEach {
				packets["listed"] = append(packets["listed"], tcpTo(pick4(list)))
			}
		}
		for range packetsOfEach {
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], 1<<30|rand.Uint32()>>4) // 64.0.0.0/4
			packets["any"] = append(packets["any"], tcpTo(netip.AddrFrom4(a)))
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			program := lanProgram(b, maps)
			for _, kind := range []string{"listed", "any"} {
				if len(packets[kind]) > 0 {
					b.Run(kind, func(b *testing.B) { timePackets(b, program, packets[kind]) })
				}
			}
		})
	}
}

// packetsOfEach kind: each is run one time in so many of the repetitions.
const packetsOfEach = 1000

// pick4 returns an IPv4 address of a list.
func pick4(l *lists.List) netip.Addr {
	for {
		if p := l.Prefixes[rand.IntN(len(l.Prefixes))]; p.Addr().Is4() {
			return p.Addr()
		}
	}
}

func tcpTo(a netip.Addr) []byte {
	return testnet.TCPSegment(from(40000), to(a, 443), testnet.FlagACK, 1, 1, nil)
}

func readList(b *testing.B, n int) *lists.List {
	b.Helper()
	list, err := lists.Read(writeList(b, n))
	if err != nil {
		b.Fatal(err)
	}
	return list
}

func fillLists(b *testing.B, list *lists.List) *loader.Lists {
	b.Helper()
	maps, err := loader.NewLists(list.Digest, []loader.ListGroup{{Prefixes: list.Prefixes}})
	if err != nil {
		b.Fatal(err)
	}
	return maps
}

// memoryAtRest is what the kernel of the whole machine holds of its own, in bytes, once it
// has freed what it was told to.
func memoryAtRest(b *testing.B) int64 {
	b.Helper()
	const rest, tries = 256 << 10, 40
	last := int64(0)
	for range tries {
		time.Sleep(250 * time.Millisecond)
		now := memoryUsed(b)
		if max(now, last)-min(now, last) < rest {
			return now
		}
		last = now
	}
	b.Log("the machine does not come to rest: what is said of memory is not right")
	return last
}

// memoryUsed is what the kernel of the whole machine holds of its own, in bytes.
func memoryUsed(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		b.Fatal(err)
	}
	match := regexp.MustCompile(`SUnreclaim:\s+(\d+) kB`).FindSubmatch(text)
	if match == nil {
		b.Fatal("no SUnreclaim in /proc/meminfo")
	}
	kib, err := strconv.ParseInt(string(match[1]), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib << 10
}
