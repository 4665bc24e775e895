package leaktest

import (
	"fmt"
	"regexp"
	"strconv"
)

// flowtable is a way to attach, and what --fastpath calls it.
const flowtable = "flowtable"

// lacksFlowtable asks nft whether this kernel has flowtables.
func lacksFlowtable(b *Bench) string {
	if err := b.feed(`table inet probe {
		flowtable f { hook ingress priority filter; devices = { lo }; }
		chain forward { flow add @f; }
	}`); err != nil {
		return "it has no flowtables (CONFIG_NFT_FLOW_OFFLOAD)"
	}
	if err := b.run("nft delete table inet probe"); err != nil {
		return err.Error()
	}
	return ""
}

// forwarded counts what the rules see of the excluded flows.
const forwarded = `table inet probe {
	counter seen {}
	chain forward { type filter hook forward priority filter; udp dport %[1]d counter name seen; udp sport %[1]d counter name seen; }
}`

var packetsPattern = regexp.MustCompile(`packets (\d+)`)

// awaitFlowtable waits until the rules see next to nothing of what is sent.
func (a *accelerated) awaitFlowtable() error {
	b := a.bench
	if err := b.feed(fmt.Sprintf(forwarded, excluded[0].Port())); err != nil {
		return err
	}
	const enough = 100
	err := await(b.ctx, "flows to be in the flowtable", func() error {
		seen, err := a.rulesSee(enough)
		if err == nil && seen > enough/10 {
			err = fmt.Errorf("of %d packets of each the rules have seen %d", enough, seen)
		}
		return err
	})
	if err != nil {
		return err
	}
	return b.run("nft delete table inet probe")
}

// rulesSee tells how many packets rules see while each flow sends so many.
func (a *accelerated) rulesSee(packets int64) (int, error) {
	before, err := a.seen()
	if err != nil {
		return 0, err
	}
	goals := make([]int64, len(a.sent))
	for i := range a.sent {
		goals[i] = a.sent[i].Load() + packets
	}
	err = await(a.bench.ctx, "flows to send", func() error {
		for i := range a.sent {
			if sent := a.sent[i].Load(); sent < goals[i] {
				return fmt.Errorf("%d packets are missing", goals[i]-sent)
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	after, err := a.seen()
	return after - before, err
}

func (a *accelerated) seen() (int, error) {
	b := a.bench
	out, err := b.Lab.Router.Run(b.ctx, "nft", "list", "counter", "inet", "probe", "seen")
	if err != nil {
		return 0, err
	}
	found := packetsPattern.FindStringSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("nft lists no counter: %s", out)
	}
	return strconv.Atoi(found[1])
}
