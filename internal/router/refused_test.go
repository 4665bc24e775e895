package router

import (
	"testing"

	"github.com/torbpf/torbpf/internal/plan"
)

func TestWhatIsRefusedMeanwhileIsASentence(t *testing.T) {
	eth1, all, exec := []plan.LAN{{Name: "eth1"}}, &plan.Client{All: true}, &plan.Client{}
	for want, p := range map[string]*plan.Plan{
		"eth1 and what is behind it stay":                             {LANs: eth1},
		"this machine stays":                                          {Client: all},
		"what torbpf exec runs stays":                                 {Client: exec},
		"eth1 and what is behind it, and this machine, stay":          {LANs: eth1, Client: all},
		"eth1 and what is behind it, and what torbpf exec runs, stay": {LANs: eth1, Client: exec},
	} {
		if got := refusedMeanwhile(p); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
