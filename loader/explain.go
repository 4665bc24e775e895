package loader

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// Explainer says what the LAN programs in force would make of a frame. It runs copies of
// them on the same maps, in which all that acts on a decision is switched off: nothing is
// counted, learned, answered or sent.
type Explainer struct {
	mark     plan.Mark
	maps     map[string]*ebpf.Map // those in force
	programs *ebpf.Collection
}

// Explained is what a LAN program decides of one frame.
type Explained struct {
	Verdict abi.Verdict
	Reason  abi.Reason
	// The same with Tor ready.
	ReadyVerdict abi.Verdict
	ReadyReason  abi.Reason
	Instance     int // of tor, where it goes to one
	// Answer is the IP packet that a refused sender is told; nil: nothing. How often
	// one device is told is limited besides.
	Answer []byte
}

// scratch are the maps that hold what one run of a program reads. The copies have their
// own: a packet that arrives during a run would else overwrite it.
var scratch = []string{abi.DatapathMapPackets, abi.DatapathMapQueries}

// Explainer opens the generation in force for questions; p tells its mark and ports.
// Without one the error is an os.ErrNotExist. The caller closes it.
func (d *Datapath) Explainer(p *plan.Plan) (*Explainer, error) {
	maps, err := d.mapsInForce()
	if err != nil {
		return nil, err
	}
	e, err := NewExplainer(maps, p)
	if err != nil {
		closeMaps(maps)
	}
	return e, err
}

// mapsInForce opens the maps that the LAN program uses. It asks the program for them,
// not the pins: those are exchanged one by one.
func (d *Datapath) mapsInForce() (map[string]*ebpf.Map, error) {
	program, err := ebpf.LoadPinnedProgram(d.programPin(programLAN), nil)
	if err != nil {
		return nil, fmt.Errorf("open pinned program %s: %w", programLAN, err)
	}
	defer program.Close()
	return mapsOf(program, programLAN)
}

// mapsOf opens the maps that a program uses, by their names in bpf/.
func mapsOf(program *ebpf.Program, name string) (map[string]*ebpf.Map, error) {
	info, err := program.Info()
	if err != nil {
		return nil, fmt.Errorf("inspect program %s: %w", name, err)
	}
	ids, _ := info.MapIDs()
	maps := make(map[string]*ebpf.Map)
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			closeMaps(maps)
			return nil, fmt.Errorf("open map %d of %s: %w", id, name, err)
		}
		info, err := m.Info()
		if err != nil {
			m.Close()
			closeMaps(maps)
			return nil, fmt.Errorf("inspect map %d of %s: %w", id, name, err)
		}
		maps[declaredName(info.Name)] = m
	}
	return maps, nil
}

// NewExplainer loads the copies for a LAN program that uses these maps, which from then
// on belong to the Explainer. Nothing is pinned.
func NewExplainer(maps map[string]*ebpf.Map, p *plan.Plan) (*Explainer, error) {
	spec, err := abi.LoadDatapath()
	if err != nil {
		return nil, fmt.Errorf("read BPF objects: %w", err)
	}
	if err := setVariables(spec, p); err != nil {
		return nil, err
	}
	if err := spec.Variables[abi.DatapathVarExplaining].Set(uint32(1)); err != nil {
		return nil, fmt.Errorf("set variable %s: %w", abi.DatapathVarExplaining, err)
	}
	for name := range spec.Programs {
		if name != programLAN && name != programLANL3 {
			delete(spec.Programs, name)
		}
	}
	inForce := make(map[string]*ebpf.Map)
	for name, m := range spec.Maps {
		switch theirs := maps[name]; {
		case constants(name) || slices.Contains(scratch, name):
		case theirs == nil: // a map of another program
			delete(spec.Maps, name)
		case isListMap(name):
			fitList(m, theirs)
			inForce[name] = theirs
		default:
			fitMap(m, theirs)
			inForce[name] = theirs
		}
	}
	programs, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: inForce})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return nil, fmt.Errorf("another version of torbpf has attached, whose maps this one cannot read: run `torbpf attach` once more: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("load the programs that explain: %w", explainLoad(err))
	}
	return &Explainer{mark: p.Mark, maps: maps, programs: programs}, nil
}

// Close releases the programs and the maps.
func (e *Explainer) Close() {
	e.programs.Close()
	closeMaps(e.maps)
}

// testContext is struct __sk_buff as far as a test run takes and returns it.
type testContext struct {
	_       [2]uint32
	Mark    uint32
	_       [7]uint32
	Ifindex uint32
	_       uint32
	Words   [5]uint32 // cb
	_       [31]uint32
}

// Judge says what becomes of a frame that a LAN sends, with the mark that it arrives with.
// It begins with an Ethernet header even where those of the LAN have none.
func (e *Explainer) Judge(lan plan.LAN, frame []byte, mark uint32) (Explained, error) {
	name := programLAN
	if !lan.Ethernet {
		name = programLANL3
	}
	const room = 256 // an answer may be longer than what it answers
	var out testContext
	opts := ebpf.RunOptions{
		Data: frame, DataOut: make([]byte, len(frame)+room),
		Context: testContext{Mark: mark, Ifindex: uint32(lan.Index)}, ContextOut: &out,
	}
	if _, err := e.programs.Programs[name].Run(&opts); err != nil {
		return Explained{}, fmt.Errorf("run %s on a frame: %w", name, kernel.Explain(err, "test runs of programs, Linux 5.10"))
	}
	explained := Explained{
		Verdict:      abi.Verdict(out.Words[abi.ExplainedVerdict]),
		Reason:       abi.Reason(out.Words[abi.ExplainedReason]),
		ReadyVerdict: abi.Verdict(out.Words[abi.ExplainedReadyVerdict]),
		ReadyReason:  abi.Reason(out.Words[abi.ExplainedReadyReason]),
		Instance:     e.mark.InstanceOf(out.Mark),
	}
	if out.Words[abi.ExplainedAnswered] != 0 {
		explained.Answer = opts.DataOut[EthernetHeader:]
	}
	return explained, nil
}

// EthernetHeader is how many bytes come before a packet on a link that has it.
const EthernetHeader = 14
