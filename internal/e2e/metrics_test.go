package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/router"
	"github.com/torbpf/torbpf/testnet"
)

const metricsAddr = "127.0.0.1:9959" // by default

// asks makes requests to the router from within.
func asks(t *testing.T, lab *testnet.Lab, network, address string) *http.Client {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (c net.Conn, err error) {
		return c, lab.Router.Do(func() error {
			c, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
	}
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
}

// demand makes one request and returns the status and what came.
func demand(t *testing.T, client *http.Client, method, url, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// metric is the value of one series, -1 for none.
func metric(t *testing.T, text, series string) float64 {
	t.Helper()
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return -1
}

// TestMetrics: they are those of status and of the devices to the packet, as Prometheus likes
// them, from a process without privileges, and for this machine alone.
func TestMetrics(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	d := startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`, "[exclusions]", `destinations = ["`+other4+`"]`))
	d.await(t, "metrics are served")
	eventually(t, patience, "the attach", func() error { return sound(t, lab, lan) })
	for i := range 7 {
		if err := testnet.SendRaw(lab.Client1, testnet.UDPDatagram(at(lab.Client1.IPv4, uint16(40000+i)), at(testnet.Web4, 443), []byte("x"))); err != nil {
			t.Fatal(err)
		}
	}
	client := asks(t, lab, "tcp", metricsAddr)
	scrape := func() string {
		code, text := demand(t, client, "GET", "http://"+metricsAddr+"/metrics", "")
		if code != http.StatusOK {
			t.Fatalf("%d %s", code, text)
		}
		return text
	}
	mac := lab.Client1.MAC.String()
	eventually(t, patience, "the packets", func() error {
		text := scrape()
		if got := metric(t, text, `torbpf_packets_total{interface="eth1",reason="quic",verdict="refused"}`); got != 7 {
			return fmt.Errorf("7 were refused, and it says %v: %s", got, text)
		}
		return nil
	})
	var status router.Status
	if err := json.Unmarshal([]byte(mustTorbpf(t, lab, "status", "--json").stdout), &status); err != nil {
		t.Fatal(err)
	}
	text := scrape()
	for _, c := range status.Counters {
		if c.Interface != lan || c.Verdict == "local" { // of which more come by themselves
			continue
		}
		labels := fmt.Sprintf("{interface=%q,reason=%q,verdict=%q}", c.Interface, c.Reason, c.Verdict)
		if got := metric(t, text, "torbpf_packets_total"+labels); got != float64(c.Packets) {
			t.Errorf("%s: status has %d packets, the metrics %v", labels, c.Packets, got)
		}
		if got := metric(t, text, "torbpf_bytes_total"+labels); got != float64(c.Bytes) {
			t.Errorf("%s: status has %d bytes, the metrics %v", labels, c.Bytes, got)
		}
	}
	for series, want := range map[string]float64{
		"torbpf_attached": 1, "torbpf_ready": 0, "torbpf_sentry_up": 1, "torbpf_tor_up": 1, "torbpf_problems": 0, "torbpf_leak_monitor_stopped_packets": 0,
		`torbpf_interface_attached{interface="eth1",role="lan"}`: 1, `torbpf_interface_attached{interface="eth0",role="uplink"}`: 1,
		`torbpf_rules{kind="destination",policy="direct"}`:                        1,
		fmt.Sprintf(`torbpf_device_packets_total{device=%q,fate="refused"}`, mac): 7,
	} {
		if got := metric(t, text, series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	if problems, err := promlint.New(bytes.NewReader([]byte(text))).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}

	for _, host := range []string{"rebound.example", "rebound.example:9959", "192.0.2.example"} {
		if code, text := demandAs(t, client, host); code != http.StatusMisdirectedRequest {
			t.Errorf("for %s: %d %s", host, code, text)
		}
	}
	if code, _ := demandAs(t, client, "localhost:9959"); code != http.StatusOK {
		t.Errorf("as localhost: %d", code)
	}
	for _, what := range []string{"/v1/status", "/v1/devices", "/v1/doctor", "/v1/events", "/v1/devices/" + mac + "/policy", "//v1/status", "/metrics/../v1/status"} {
		for _, method := range []string{"GET", "PUT", "POST"} {
			if code, text := demand(t, client, method, "http://"+metricsAddr+what, `{"policy":"direct"}`); code == http.StatusOK {
				t.Errorf("by TCP anybody may %s %s: %s", method, what, text)
			}
		}
	}
	web := pidsNamed(t, lab, "torbpf-web")
	if len(web) != 1 {
		t.Fatalf("there are %d processes", len(web))
	}
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", web[0])); err != nil || !strings.Contains(string(status), "CapBnd:\t0000000000000000") || strings.Contains(string(status), "Uid:\t0") {
		t.Errorf("the process has privileges: %v\n%s", err, status)
	}

	// What has died comes back; what is configured anew is served anew.
	kill(t, unix.SIGKILL, web...)
	eventually(t, patience, "another process", func() error {
		if code, text := demand(t, client, "GET", "http://"+metricsAddr+"/metrics", ""); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	d.stop(t)
	eventually(t, patience, "the end of the process", func() error {
		if code, _ := demand(t, client, "GET", "http://"+metricsAddr+"/metrics", ""); code != 0 {
			return fmt.Errorf("it serves without `torbpf run`")
		}
		return nil
	})
}

// demandAs asks for the metrics by another name.
func demandAs(t *testing.T, client *http.Client, host string) (int, string) {
	t.Helper()
	return demand(t, client, "GET", "http://"+host+"/metrics", "")
}

// TestTheAPI does what commands do, for root, and refuses what they refuse.
func TestTheAPI(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	detachLater(t, lab)
	d := startRun(t, lab, writeConfig(t, lab, `interfaces = ["eth1"]`, "[web]", "listen = []"))
	eventually(t, patience, "the attach", func() error { return sound(t, lab, lan) })
	socket := filepath.Join("/run/torbpf", namespaceName(t, lab)+".sock")
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the socket: %v, %v", info, err)
	}
	client := asks(t, lab, "unix", socket)
	get := func(what string) string {
		t.Helper()
		code, text := demand(t, client, "GET", "http://api"+what, "")
		if code != http.StatusOK {
			t.Fatalf("%s: %d %s", what, code, text)
		}
		return text
	}
	checkFields(t, "status", documentedJSON(t)["status"], get("/v1/status"))
	checkFields(t, "device list", documentedJSON(t)["device list"], get("/v1/devices"))
	checkFields(t, "tor status", documentedJSON(t)["tor status"], get("/v1/tor"))
	checkFields(t, "tor circuits", documentedJSON(t)["tor circuits"], get("/v1/tor/circuits?targets=1"))
	checkFields(t, "doctor", documentedJSON(t)["doctor"], get("/v1/doctor?interface=eth0"))
	mac := lab.Client1.MAC.String()
	for body, want := range map[string]int{`{"device":"` + mac + `"}`: http.StatusOK, `{"device":"nobody"}`: http.StatusBadRequest, `{"circuit":3}`: http.StatusBadRequest} {
		code, text := demand(t, client, "POST", "http://api/v1/tor/newnym", body)
		if code != want {
			t.Errorf("newnym %s: %d %s", body, code, text)
		} else if code == http.StatusOK {
			checkFields(t, "tor newnym", documentedJSON(t)["tor newnym"], text)
		}
	}
	put := func(device, body string) (int, string) {
		t.Helper()
		return demand(t, client, "PUT", "http://api/v1/devices/"+device+"/policy", body)
	}
	if code, text := put(mac, `{"policy":"direct","seconds":600,"comment":"the bank"}`); code != http.StatusOK || !strings.Contains(text, `"added"`) {
		t.Errorf("%d %s", code, text)
	}
	rules := mustTorbpf(t, lab, "exclude", "list").stdout
	if !strings.Contains(rules, mac) || !strings.Contains(rules, "the bank") {
		t.Errorf("the rules are %s", rules)
	}
	for device, body := range map[string]string{
		"nobody": `{"policy":"direct"}`, mac: `{"policy":"fast"}`, lab.Client2.MAC.String(): `{"policy":"tor","seconds":5}`,
		"192.168.50.12": `{"policy":"block","minutes":5}`, "192.168.50.13": `nonsense`, "02:00:5e:10:00:01": `{"policy":"direct","comment":"` + strings.Repeat("x", 8<<10) + `"}`,
	} {
		if code, text := put(device, body); code != http.StatusBadRequest || !strings.Contains(text, `"error"`) {
			t.Errorf("%s %.40s: %d %s", device, body, code, text)
		}
	}
	if now := mustTorbpf(t, lab, "exclude", "list").stdout; now != rules {
		t.Errorf("bad input changed %s into %s", rules, now)
	}
	if events := get("/v1/events?kind=policy&device=" + mac); strings.Count(events, "\n") != 1 || !strings.Contains(events, "by the API") {
		t.Errorf("events: %s", events)
	}
	if code, text := put(mac, `{"policy":"tor"}`); code != http.StatusOK || !strings.Contains(text, `"removed"`) {
		t.Errorf("%d %s", code, text)
	}
	if code, text := demand(t, asks(t, lab, "tcp", metricsAddr), "GET", "http://"+metricsAddr+"/metrics", ""); code != 0 {
		t.Errorf("metrics are served, and ought not to be: %d %s", code, text)
	}
	mustTorbpf(t, lab, "detach", "--all")
	if code, text := demand(t, client, "GET", "http://api/v1/status", ""); code != http.StatusConflict || !strings.Contains(text, "not attached") {
		t.Errorf("behind detach: %d %s", code, text)
	}
	d.stop(t)
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
}
