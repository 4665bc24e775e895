package doctor

// check is one thing that is looked at.
type check struct {
	id, group string
	means     string // for the docs: what it finds
	todo      string // for the docs: what to do about it
	judge     func(*Facts) []Finding
}

// The groups, in the order in which they are shown.
const (
	groupKernel     = "kernel"
	groupInterfaces = "interfaces"
	groupOthers     = "others"
	groupNetwork    = "network"
	groupTor        = "tor"
	groupTorbpf     = "torbpf"
)

// The checks that internal/router has words for, which attach warns with as well.
const (
	CheckUplink    = "uplink"
	CheckForward   = "forwarding"
	CheckAnswers   = "firewall-answers"
	CheckVPN       = "vpn"
	CheckTime      = "time-server"
	CheckRules     = "rules"
	CheckClient    = "client"
	CheckPage      = "page"
	CheckPorts     = "ports"
	CheckContainer = "containers"
)

// Those that it has to say of that it could not look.
const (
	CheckKernelBPF   = "kernel-bpf"
	CheckKernelNFT   = "kernel-nft"
	CheckPrograms    = "programs"
	CheckFlowtable   = "flowtable"
	CheckFirewall    = "firewall"
	CheckFirewallOut = "firewall-forward"
	CheckMarks       = "marks"
	CheckIPRules     = "ip-rules"
	CheckOpenPorts   = "open-ports"
	CheckResolver    = "resolver"
	CheckRouters     = "other-router"
	CheckClock       = "clock"
	CheckTorVersion  = "tor-version"
	CheckFastPath    = "fast-path"
	CheckLayers      = "layers"
	CheckAlarms      = "alarms"
	CheckTorReady    = "tor-ready"
	CheckBoot        = "boot"
)

var checks = []check{
	{"kernel-version", groupKernel, "the kernel is older than Linux 5.10", "a newer kernel", kernelVersion},
	{CheckKernelBPF, groupKernel, "the kernel does not take torbpf's BPF programs, or lacks one of the layers",
		"a kernel with what it names; of a layer that others stand in for nothing need be done", kernelBPF},
	{CheckKernelNFT, groupKernel, "the kernel does not take torbpf's nftables table, which is tried in a network namespace of its own",
		"the modules that it names (OpenWrt: `kmod-nft-nat`, `kmod-nft-core`)", kernelNFT},
	{"kernel-btf", groupKernel, "the kernel has no BTF, which only the fast path needs", "a kernel with `CONFIG_DEBUG_INFO_BTF`, or `fastpath = \"off\"`", kernelBTF},
	{"bpffs", groupKernel, "the kernel has no bpffs, or the pins of what is attached cannot be reached", "a kernel with `CONFIG_BPF_SYSCALL`; `torbpf attach` again", bpffs},

	{"interface", groupInterfaces, "an interface is not there, or carries only this machine's own traffic", "name the one that your devices are behind", interfaceThere},
	{"bridge-port", groupInterfaces, "an interface is a port of a bridge, a member of a bond, or in a VRF", "attach what it is a part of", bridgePort},
	{"sub-interfaces", groupInterfaces, "an interface carries others (VLANs, macvlans, the ports of a switch, MACsec)", "attach those that it carries", subInterfaces},
	{"bridge-nf-call", groupInterfaces, "packets of a bridge run through nftables on its ports, before torbpf marks them", "the `sysctl` that it names", bridgeNF},
	{"default-route", groupInterfaces, "an interface has a default route, so it is the way to the internet and no LAN", "attach another one", defaultRoute},
	{"address", groupInterfaces, "an interface has no address that devices could be redirected to", "give it one", address},
	{CheckUplink, groupInterfaces, "no uplink is known, so none is guarded; or one that is not to be seen here", "bring it up, or name it with `--uplink`", uplink},
	{CheckForward, groupInterfaces, "something is excluded, and the kernel does not forward it", "`--enable-forwarding`, or the sysctls", advised(CheckForward, Warning)},

	{CheckMarks, groupOthers, "somebody else uses torbpf's bits of the mark, or sets the whole mark between the programs and the redirect",
		"`--mark-shift`; a rule that sets its own bits alone", marks},
	{CheckIPRules, groupOthers, "ip rules of others come before torbpf's, where those are needed", "give theirs a later priority", ipRules},
	{CheckPrograms, groupOthers, "other programs see packets of a LAN before torbpf's, or as well", "look whether it lets them go on", programs},
	{CheckFlowtable, groupOthers, "nftables offloads flows: what is in a flowtable is not seen by what comes after it, and with hardware not at all",
		"take the rule that adds flows to it out, or have torbpf's own ([FASTPATH.md](FASTPATH.md))", flowtable},
	{CheckFirewall, groupOthers, "a firewall drops what is diverted to Tor", "the rules that it names", firewall},
	{CheckFirewallOut, groupOthers, "a firewall, such as Docker's, drops what is excluded on its way to the uplink", "the rules that it names", firewallForward},
	{CheckAnswers, groupOthers, "without NAT: a firewall may drop what tor answers", "the rules that it names", advised(CheckAnswers, Warning)},
	{CheckContainer, groupOthers, "containers or virtual machines are behind a bridge of this machine's that is no LAN: they go direct", "attach that bridge as well", containers},
	{CheckVPN, groupOthers, "wg-quick's firewall drops what Tor answers to this machine, or wipes torbpf's mark from UDP of devices", "`Table` in its configuration ([CLIENT.md](CLIENT.md))", advised(CheckVPN, Warning)},
	{CheckFastPath, groupOthers, "something is in the way of the fast path, or of the flowtable, where there is to be one: VLANs, PPPoE, qdiscs, …", "what it names, or nothing: all goes the slow way ([FASTPATH.md](FASTPATH.md))", fastPath},

	{"onion-range", groupNetwork, "the range for .onion names overlaps a route or an address of this machine", "`--onion4`, `--onion6`, or leave them out", onionRange},
	{CheckPorts, groupNetwork, "somebody else listens on a port that tor or the sentry is to have", "stop it, or choose another port", advised(CheckPorts, Problem)},
	{CheckResolver, groupNetwork, "who answers at port 53 here, and whether this machine itself asks for names in clear", "nothing for devices ([DNS.md](DNS.md)); `torbpf attach --client` for this machine", resolver},
	{CheckRouters, groupNetwork, "somebody else on a LAN acts as a router: devices may go around torbpf by it", "have it announce itself no more, or take it off that LAN", otherRouter},
	{CheckTime, groupNetwork, "no time server runs here, and Tor carries no NTP", "`apt install chrony`, with `allow`", advised(CheckTime, Warning)},
	{CheckOpenPorts, groupNetwork, "services of this machine can be reached from an uplink, and no firewall closes them", "the rules that it names, or have the service listen on the LAN alone", openPorts},

	{"tor", groupTor, "there is no tor to use, or it cannot serve a LAN as it is", "what it names", torThere},
	{CheckTorVersion, groupTor, "tor is older than the fix of a crash by DNS (TROVE-2026-018, fixed in " + fixedDNSPort.String() + ")", "a newer tor", torVersion},
	{CheckTorReady, groupTor, "tor does not answer, or has not bootstrapped: devices are refused", "what it says", torReady},
	{CheckClock, groupTor, "the clock is off: Tor does not work with a wrong one", "set it", clock},

	{CheckLayers, groupTorbpf, "a layer is missing or changed", "`torbpf attach` again, or `torbpf run`", layers},
	{CheckAlarms, groupTorbpf, "packets got as far as the last guards", "`torbpf check` shows them", alarms},
	{CheckBoot, groupTorbpf, "a reboot takes off Tor what is on it now: nothing starts torbpf at boot, or the configuration does not name it", "`torbpf enable`, with `--save`", boot},
	{CheckRules, groupTorbpf, "rules let out what one may not have meant, or have no effect", "take them back, or narrow them", advised(CheckRules, Warning)},
	{CheckClient, groupTorbpf, "what of this machine itself does not work, or not as one may think, while it is on Tor", "what it names", advised(CheckClient, Warning)},
	{CheckPage, groupTorbpf, "the page cannot be served where it is to be, or nobody can sign in", "`torbpf page password`; another `listen`", advised(CheckPage, Warning)},
}

// advised is a check that attach warns of as well: internal/router finds it.
func advised(id string, v Verdict) func(*Facts) []Finding {
	return func(f *Facts) []Finding { return found(v, f.Advice[id]...) }
}

// noPlan is what there is to say of a check that needs a LAN.
func noPlan() []Finding { return about("no interface is fit to be a LAN, so this was not looked at") }
