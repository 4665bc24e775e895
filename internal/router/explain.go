package router

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/host"
	"github.com/torbpf/torbpf/internal/plan"
	"github.com/torbpf/torbpf/loader"
)

// explainSchema numbers the shape of an Explanation in JSON.
const explainSchema = 1

// Question is a packet about which Explain is asked.
type Question struct {
	Who      string     // an address, or the name or the hardware address of a device
	To       netip.Addr // zero: the router itself is asked for Name
	Name     string
	Type     string // of the record that a DNS query asks for; "" for A
	Protocol uint8  // ICMP of either family is config.ProtocolICMP
	SrcPort  uint16 // 0: any
	DstPort  uint16
	MAC      config.MAC // zero: what the kernel knows of Who
	Mark     uint32     // that it arrives with
	LAN      string     // "" for the one that Who is of
}

// Explanation says what becomes of a packet, and why.
type Explanation struct {
	Schema int    `json:"schema"`
	Packet Packet `json:"packet"`
	Judgement
	// Ready is what is said once Tor is ready, if that is something else.
	Ready   *Judgement   `json:"ready"`
	Decided string       `json:"decided"` // what decided, in words
	Rule    *config.Rule `json:"rule"`    // which one did, if it was one
	Answer  string       `json:"answer"`  // what a refused sender is told; "" for nothing
	// Instance is the tor that it goes to; nil: there is one alone, or it goes to none.
	Instance *int     `json:"instance"`
	Then     []string `json:"then"`    // what nftables and routing do with it
	Depends  []string `json:"depends"` // what may change that
	Change   []Advice `json:"change"`
	Notes    []string `json:"notes"`
}

// Packet is the one that was judged.
type Packet struct {
	LAN      string `json:"lan"`              // "" for this machine's own
	Sender   string `json:"sender,omitempty"` // who on this machine, in words
	From     string `json:"from"`
	MAC      string `json:"mac,omitempty"`
	To       string `json:"to"`
	Protocol string `json:"protocol"`
	SrcPort  uint16 `json:"sport,omitempty"`
	DstPort  uint16 `json:"dport,omitempty"`
	Mark     uint32 `json:"mark"`
	Query    string `json:"query,omitempty"` // name and type, of a DNS query
}

// Judgement is a verdict and why.
type Judgement struct {
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	Meaning string `json:"meaning"` // of the reason
}

// Advice is a command, and what it would do about the packet.
type Advice struct {
	Command string `json:"command"`
	Effect  string `json:"effect"`
}

// explained is one Explain under way.
type explained struct {
	Question
	router   *Router
	From     netip.Addr // of Who
	state    *State
	plan     *plan.Plan
	facts    plan.Host
	lan      plan.LAN
	explain  *loader.Explainer
	assumed  bool // the hardware address is none that somebody has
	said     loader.Explained
	reason   abi.Reason // of what decides, once Tor is ready
	rules    ruleSearch
	hop      host.Hop // where the kernel forwards it, if it does
	hopError error
}

// Explain asks the LAN program in force what it would do with a packet, and says what
// follows. It changes nothing, is counted nowhere and takes no lock.
func (r *Router) Explain(q Question) (*Explanation, error) {
	s, err := r.attached()
	if err != nil {
		return nil, err
	}
	if s.Blocked {
		return nil, fmt.Errorf("nothing of %s gets anywhere until `torbpf run` attaches it: %w", s.whom(), ErrNotAttached)
	}
	x := &explained{Question: q, router: r, state: s}
	if err := x.look(); err != nil {
		return nil, err
	}
	d, err := r.datapath(s.Config.Clsact)
	if err != nil {
		return nil, err
	}
	x.explain, err = d.Explainer(x.plan)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the programs of torbpf are not to be found below %s: run `torbpf attach` once more: %w", d.Dir(), err)
	}
	if err != nil {
		return nil, err
	}
	defer x.explain.Close()
	if err := x.judge(); err != nil {
		return nil, err
	}
	return x.explanation()
}

// look reads the host and completes the question.
func (x *explained) look() error {
	var err error
	if x.facts, err = host.Read(); err != nil {
		return fmt.Errorf("read the host: %w", err)
	}
	s := x.state.clone()
	s.followRenames(x.facts)
	if x.plan, err = x.router.planFor(s, x.facts); err != nil {
		return fmt.Errorf("the host no longer fits the configuration: %w", err)
	}
	if err = x.findSender(); err != nil {
		return err
	}
	if x.lan, err = x.chooseLAN(); err != nil {
		return err
	}
	return x.complete()
}

// settling is how often a packet is judged anew because a rule ended, or the policy was
// exchanged, between the verdict and the search for the rule behind it.
const settling = 3

// judge asks the program, and finds the rule that decided.
func (x *explained) judge() error {
	frame, err := x.frame()
	if err != nil {
		return err
	}
	for range settling {
		if x.said, err = x.explain.Judge(x.lan, frame, x.Mark); err != nil {
			return err
		}
		x.reason = x.said.ReadyReason
		class := x.plan.Mark.Class(uint32(x.said.ReadyVerdict))
		if x.reason == abi.ReasonExemptMark {
			class = 0
		}
		x.hop, x.hopError = host.Forwarding(x.From, x.To, x.lan.Index, x.Mark&^x.plan.Mark.Mask()|class)
		if x.rules, err = x.search(); err != nil {
			return err
		}
		if x.rules.decided || !ruled[x.reason] {
			break
		}
	}
	return nil
}

// explanation puts all of it into words.
func (x *explained) explanation() (*Explanation, error) {
	decided, err := x.decided()
	if err != nil {
		return nil, err
	}
	e := &Explanation{
		Schema:    explainSchema,
		Packet:    x.packet(),
		Judgement: judgement(x.said.Verdict, x.said.Reason),
		Decided:   decided,
		Rule:      x.rules.rule,
		Answer:    readAnswer(x.said.Answer),
		Then:      x.then(),
		Depends:   append([]string{}, x.depends()...),
		Change:    append([]Advice{}, x.change()...),
		Notes:     append([]string{}, x.notes()...),
	}
	if x.plan.Instances > 1 && slices.Contains(toTor, x.said.ReadyVerdict) {
		e.Instance = &x.said.Instance
	}
	if x.said.Reason != x.said.ReadyReason {
		ready := judgement(x.said.ReadyVerdict, x.said.ReadyReason)
		e.Ready = &ready
	}
	return e, nil
}

// toTor are the verdicts on what goes to a tor, or to the sentry.
var toTor = []abi.Verdict{abi.VerdictTor, abi.VerdictOnion, abi.VerdictDNS, abi.VerdictResolver}

func judgement(v abi.Verdict, r abi.Reason) Judgement {
	return Judgement{Verdict: v.String(), Reason: r.String(), Meaning: r.Explain()}
}
