package kernels

import "strings"

// feature is something that torbpf uses where a kernel has it, and what it does elsewhere.
type feature struct {
	title   string
	probe   string // see probes; or
	program string // what the kernel's verifier has to take
	since   string // the first version that can have it; "": of no version, or older than 5.10
	without string // what torbpf does without it
}

// features are the rows of docs/KERNELS.md.
var features = []feature{
	{title: "types of the kernel (BTF)", probe: "btf", since: "5.10", without: "none of what reads them: the guards at netfilter's hooks, the fast path, exemptions by program; each says so below"},
	{title: "tcx", probe: "tcx", since: "6.6", without: "clsact and a tc filter; the same programs"},
	{title: "the interface of a look-up of sockets", program: "torbpf_dns", since: "5.17", without: "the DNS guard goes by the source address (`torbpf_dns_src`)"},
	{title: "guard of what is forwarded, at netfilter", program: "torbpf_forward", since: "6.4", without: "ip rules, which `attach` says"},
	{title: "last guard of local delivery, at netfilter", program: "torbpf_delivery", since: "6.4", without: "two layers before it are all that there is; `attach` says so"},
	{title: "third guard of what this machine sends", program: "torbpf_departure", since: "6.4", without: "two layers before it are all that there is; `attach` says so"},
	{title: "the fast path", program: "torbpf_fast_out", since: "5.18", without: "everything goes the slow way; `status` says so"},
	{title: "UDP as frames (XDP) on the fast path", probe: "frames", since: "6.3", without: "UDP goes by tc like TCP"},
	{title: "client mode (cookies of network namespaces)", probe: "cookie", since: "5.14", without: "`attach --client` is refused, with exit code 5"},
	{title: "marks on accepted connections; the short way to Tor", probe: "sockops", since: "5.15", without: "marks last as long as torbpf's nftables table, and TCP of this machine's to Tor is redirected by it; `attach` says so"},
	{title: "exemptions by program, and of older sockets", program: "torbpf_sock", since: "5.14", without: "users and control groups are exempt, programs are not; `attach` says so"},
	{title: "MPTCP (CONFIG_MPTCP)", probe: "mptcp", without: "nothing to do"},
	{title: "nftables: tables with an owner", probe: "owner", since: "5.12", without: "not used: they end with their process"},
	{title: "nftables: flowtables of the user's own", probe: "flowtable", without: "nothing to notice"},
	{title: "VLAN interfaces", probe: "vlan", without: "none can be a LAN"},
	{title: "WireGuard", probe: "wireguard", without: "wireguard-go makes a tun device, which is as good"},
	{title: "bonds", probe: "bond", without: "none can be a LAN"},
	{title: "dummy interfaces", probe: "dummy", without: "none can be a LAN"},
}

// of tells whether a kernel has it.
func (f feature) of(r Result) bool {
	if f.program != "" {
		return r.Verifier[f.program] > 0
	}
	return r.Features[f.probe].Has
}

// missed tells whether a kernel that is new enough lacks it, without being made to.
func (f feature) missed(r Result) bool {
	return !f.of(r) && !r.Features[f.probe].Unknown && f.since != "" && compareVersions(r.Release, f.since) >= 0 && !strings.Contains(r.Kernel, withoutBTF)
}
