package tor

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWordsOfAReply(t *testing.T) {
	tests := map[string]struct {
		in   string
		want []word
	}{
		"empty":          {"", nil},
		"bare":           {"NOTICE BOOTSTRAP", []word{{"", "NOTICE"}, {"", "BOOTSTRAP"}}},
		"assigned":       {"PROGRESS=80 TAG=conn_or", []word{{"PROGRESS", "80"}, {"TAG", "conn_or"}}},
		"quoted":         {`SUMMARY="Handshaking with a relay" X=1`, []word{{"SUMMARY", "Handshaking with a relay"}, {"X", "1"}}},
		"bare quoted":    {`"0.0.0.0:9040" "[::]:9040"`, []word{{"", "0.0.0.0:9040"}, {"", "[::]:9040"}}},
		"escapes":        {`W="a \"b\" \\ \n\r\t\'\303\244\07x"`, []word{{"W", "a \"b\" \\ \n\r\t'ä\ax"}}},
		"octal overflow": {`W="\777"`, []word{{"W", "?7"}}},
		"equals inside":  {`HOST=a=b "c=d"`, []word{{"HOST", "a=b"}, {"", "c=d"}}},
		"empty values":   {`A= B="" C`, []word{{"A", ""}, {"B", ""}, {"", "C"}}},
		"many spaces":    {"  a   b ", []word{{"", "a"}, {"", "b"}}},
		"quote within":   {`a"b c`, []word{{"", `a"b`}, {"", "c"}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := words(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(word{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBrokenQuotesAreRefused(t *testing.T) {
	for in, want := range map[string]string{
		`A="x`:    "not closed",
		`A="x\`:   "escape without",
		`A="x\"`:  "not closed",
		`A="x"y`:  "text right behind a quote",
		`A="x""y`: "text right behind a quote",
	} {
		_, err := words(in)
		wantError(t, err, want)
	}
}

// quote writes what words must read back.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

func FuzzWords(f *testing.F) {
	for _, s := range []string{``, `a=b`, `NOTICE BOOTSTRAP PROGRESS=5 TAG=conn SUMMARY="C \"x\""`, `"`, `\`, `a="\`, `="`, `""=`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = words(s) // must neither panic nor loop
		for _, w := range []word{{"KEY", s}, {"", s}} {
			line := quote(s)
			if w.key != "" {
				line = w.key + "=" + line
			}
			got, err := words("NOTICE " + line + " END=1")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]word{{"", "NOTICE"}, w, {"END", "1"}}, got, cmp.AllowUnexported(word{})); diff != "" {
				t.Error(diff)
			}
		}
		if p, err := parseBootstrap(s); err == nil && (p.Percent < 0 || p.Percent > 100) {
			t.Errorf("%q: %d%%", s, p.Percent)
		}
	})
}

func TestBootstrapPhases(t *testing.T) {
	tests := map[string]struct {
		in   string
		want Progress
		err  string
	}{
		"start": {in: `NOTICE BOOTSTRAP PROGRESS=0 TAG=starting SUMMARY="Starting"`, want: Progress{0, "starting", "Starting", "", false}},
		"done":  {in: `NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"`, want: Progress{100, "done", "Done", "", false}},
		"stuck": {
			in: `WARN BOOTSTRAP PROGRESS=10 TAG=conn_done SUMMARY="Connected to a relay" WARNING="TLS_ERROR \"x\"" ` +
				`REASON=TLS_ERROR COUNT=3 RECOMMENDATION=warn HOSTID="A" HOSTADDR="192.0.2.1:443"`,
			want: Progress{10, "conn_done", "Connected to a relay", `TLS_ERROR "x"`, false},
		},
		"the clock": {
			in:   `WARN BOOTSTRAP PROGRESS=14 TAG=handshake SUMMARY="Handshaking" WARNING="Clock skew -86400 in NETINFO cell from OR" REASON=CLOCK_SKEW COUNT=1 RECOMMENDATION=warn`,
			want: Progress{14, "handshake", "Handshaking", "Clock skew -86400 in NETINFO cell from OR", true},
		},
		"other":       {in: `NOTICE CIRCUIT_ESTABLISHED X=1`, err: "is not one"},
		"empty":       {in: ``, err: "is not one"},
		"no progress": {in: `NOTICE BOOTSTRAP TAG=x`, err: "no percentage"},
		"too much":    {in: `NOTICE BOOTSTRAP PROGRESS=101 TAG=x`, err: "no percentage"},
		"no number":   {in: `NOTICE BOOTSTRAP PROGRESS=ten TAG=x`, err: "invalid syntax"},
		"broken":      {in: `NOTICE BOOTSTRAP PROGRESS=10 SUMMARY="x`, err: "not closed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseBootstrap(tt.in)
			if tt.err != "" {
				wantError(t, err, tt.err)
			} else if err != nil || got != tt.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}
