package tor

import (
	"regexp"
	"strings"
)

// skewLine is how tor's log says that the clock is wrong, or that of a relay.
var skewLine = regexp.MustCompile(`It seems that our clock is (ahead|behind) by ([0-9a-z, ]{1,60}),? or that theirs`)

// ClockSkew is what a managed tor has last said of this machine's clock, such as "behind by
// 3 days, 2 hours"; "" while it has found nothing wrong since. There is no question for it in
// the control protocol, so it is read from the log, whose end a bootstrap that was done marks.
func ClockSkew(dir string) string {
	text, err := tail(logPath(dir))
	if err != nil {
		return "" // a tor that has not written a log has said nothing
	}
	return clockSkew(text)
}

func clockSkew(log string) string {
	if done := strings.LastIndex(log, "Bootstrapped 100%"); done >= 0 {
		log = log[done:]
	}
	all := skewLine.FindAllStringSubmatch(log, -1)
	if len(all) == 0 {
		return ""
	}
	last := all[len(all)-1]
	return last[1] + " by " + strings.TrimRight(last[2], ", ")
}
