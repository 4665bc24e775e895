package kernels

import "time"

// Suite is a set of tests of one package.
type Suite struct {
	Name    string
	Package string        // below the module
	Run     string        // which of its tests: a regular expression, as go test takes it
	Short   string        // which of them are run with --short; "": none
	Tor     bool          // it takes a Tor network of real tor processes
	Timeout time.Duration // when it is emulated
}

// suites are run in this order, all in one machine.
var suites = []Suite{
	{
		Name: "programs in test runs, by the table and beside the model", Package: "internal/model", Timeout: 10 * time.Minute,
		Run:   "^(TestEveryVerdictAndReason|TestTagsThatTheKernelTookOff|TestDNSGuardStopsWhatNobodyRedirected|TestTheThirdGuardAgreesWithTheUplinks|TestRefusalsAreReported|TestWhatIsRoutedToAnExitGoesThere)$",
		Short: "^(TestEveryVerdictAndReason|TestWhatIsRoutedToAnExitGoesThere)$",
	},
	{
		Name: "loading, attaching, exchanging, removing; guards; client mode; the fast path; the verifier's budget", Package: "loader", Timeout: 30 * time.Minute,
		Run:   "^(TestVerifierBudget|TestAttachedProgramsMarkAndRefuse|TestApplyingAgainUpdatesInPlace|TestUpgradeIsNeverOpen|TestSwitchingBetweenTCXAndClsactLeavesNothingDoubled|TestRemoveLeavesNothing|TestRecreatedInterface|TestUplinkGuardStopsWhatALANMayNotSend|TestForwardGuardStopsWhatMayNotBeForwarded|TestDNSGuardKeepsALANFromTheRoutersResolver|TestDeliveryGuardStopsDNSByBroadcast|TestSocketsGetTheirMakersClass|TestClientModeIsRefusedWithoutACookie|TestBareProgramsKnowUsersAndControlGroups|TestTCPIsHandedToTorsListener|TestEarlyRefusal|TestFastPathForwards|TestFastPathEndsWithPolicy|TestLANWithoutEthernetHeader)$",
		Short: "^(TestVerifierBudget|TestAttachedProgramsMarkAndRefuse|TestSwitchingBetweenTCXAndClsactLeavesNothingDoubled|TestRemoveLeavesNothing|TestForwardGuardStopsWhatMayNotBeForwarded|TestSocketsGetTheirMakersClass|TestClientModeIsRefusedWithoutACookie|TestTCPIsHandedToTorsListener|TestFastPathForwards)$",
	},
	{
		Name: "nftables: the golden rulesets, what is diverted, forwarded and let in, flowtables", Package: "nft", Timeout: 10 * time.Minute,
		Run:   "^(TestApplyListsAsTheGoldenFile|TestGoldenFileLoadsAndListsAsItself|TestApplyReplacesWhateverIsThere|TestCheckKnowsATableWithoutLookUps|TestEachClassIsDivertedToItsPort|TestOnlyPermittedClassesAreForwarded|TestUnmarkedLANTrafficIsDropped|TestPortForwardAnswersLeaveDirectly|TestThePortsAreClosed|TestFlowtableListsAsTheGoldenFile|TestFlowtableCarriesWhatIsDirect|TestFlowtableEndsWithConntrack)$",
		Short: "^(TestApplyListsAsTheGoldenFile|TestGoldenFileLoadsAndListsAsItself|TestEachClassIsDivertedToItsPort|TestOnlyPermittedClassesAreForwarded|TestFlowtableListsAsTheGoldenFile)$",
	},
	{
		Name: "routes, ip rules, conntrack", Package: "internal/route", Timeout: 5 * time.Minute,
		Run:   "^(TestAppliedRulesAsTheUserSeesThem|TestKernelForwardsPermittedClassesOnly|TestLostJumpTargetBlocks|TestFlowsAreThoseOfTheRouter|TestDeleteDeletesExactlyTheGiven|TestMarksChangeUnderTheirMaskOnly)$",
		Short: "^(TestAppliedRulesAsTheUserSeesThem|TestKernelForwardsPermittedClassesOnly|TestDeleteDeletesExactlyTheGiven)$",
	},
	{
		Name: "the whole program: attach, exclusions, detach; a cold kernel; VLANs, bonds, WireGuard, PPPoE, dummies; a flowtable of the user's", Package: "internal/e2e", Timeout: 30 * time.Minute,
		Run: "^(TestDetachLeavesNothing|TestAColdKernelHasTheSameLayers|TestLANsOfEveryKind|TestUplinksOfEveryKind|TestATunnelOfWgQuickTakesWhatIsExcluded|TestDummyInterfaces|TestForeignFlowtable|TestFastPathWithDelayAndLoss)$",
	},
	{
		Name: "faults, and what leaks", Package: "internal/leaktest", Timeout: 20 * time.Minute,
		Run: "^TestNothingLeaksWhateverHappens$/^(no_fault|nft_flush_ruleset|tcx_programs_of_the_LAN_gone|tc_filter_of_the_LAN_gone|kill_-9_of_tor_and_all_of_torbpf)$",
	},
	{Name: "the main job, with real tor; delay and loss", Package: "internal/e2e", Run: "^(TestMainJob|TestTorWithDelayAndLoss)$", Tor: true, Timeout: 20 * time.Minute},
}

// foreignSuites are for machines of another architecture, in which there is no program but ours.
var foreignSuites = []Suite{
	{
		Name: "programs in test runs, alone", Package: "internal/model", Timeout: 20 * time.Minute,
		Run:   "^(TestEveryVerdictAndReason|TestFramesWithoutEthernet|TestTagsLeftInTheData)$",
		Short: "^TestEveryVerdictAndReason$",
	},
	{
		Name: "loading, attaching, exchanging, alone; the verifier's budget", Package: "loader", Timeout: 20 * time.Minute,
		Run:   "^(TestVerifierBudget|TestAttachedProgramsMarkAndRefuse|TestApplyingAgainUpdatesInPlace)$",
		Short: "^(TestVerifierBudget|TestAttachedProgramsMarkAndRefuse)$",
	},
}

// programs of this host are in each machine.
var programs = []string{
	"ip", "tc", "ss", "nft", "conntrack", "ping", "tcpdump", "bpftool", "sysctl", "nsenter", "unshare", "setpriv", "mount", "umount", "prlimit",
	"sh", "bash", "env", "cat", "ls", "cp", "mkdir", "readlink", "sleep", "kill", "grep", "sed", "pgrep", "pkill", "tor", "wg", "wg-quick", "sort", "stat",
}

// files of this host are in each machine, for the names in them.
var files = []string{"/etc/passwd", "/etc/group", "/etc/protocols", "/etc/services", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/hosts"}

// slower is by how much an emulated machine is slower than those that tests are patient with.
const slower = "8"
