package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestPlainRequestsReachTheirOrigin(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	start(t, config())
	client := browser(t)
	for _, host := range []string{origin4.String(), "[" + origin6.String() + "]", "origin.example", "four.example", "six.example", "SIX.example."} {
		if status, body := get(t, client, "http://"+host+"/"); status != http.StatusOK || body != "origin" {
			t.Errorf("%s: %d %q", host, status, body)
		}
	}
	w.handler = func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(rw, "%s %s %s %s %v", r.Method, r.Host, r.URL, body, err)
	}
	resp, err := client.Post("http://origin.example/a?b=c", "text/plain", strings.NewReader("sent"))
	must(t, err)
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "POST origin.example /a?b=c sent <nil>" {
		t.Errorf("the origin got %q (%v)", got, err)
	}
}

func TestConnectionsAreKeptOnBothSides(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	start(t, config())
	conn := dialProxy(t)
	read := bufio.NewReader(conn)
	for range 3 {
		_, err := fmt.Fprintf(conn, "GET http://%v/ HTTP/1.1\r\nHost: %v\r\n\r\n", origin4, origin4)
		must(t, err)
		resp, err := http.ReadResponse(read, nil)
		must(t, err)
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "origin" {
			t.Fatalf("got %q (%v)", body, err)
		}
	}
	for range 2 { // what a client does with its own connection is not the origin's business
		if got := ask(t, fmt.Sprintf("GET http://%v/ HTTP/1.1\r\nHost: %v\r\nConnection: close\r\n\r\n", origin4, origin4)); got != http.StatusOK {
			t.Fatalf("got %d", got)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns != 1 {
		t.Errorf("%d connections to the origin, want 1", w.conns)
	}
}

// TestHeadersAreTheClients: what is for the next hop alone ends here, and nothing tells
// of the proxy.
func TestHeadersAreTheClients(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	got := make(chan http.Header, 1)
	w.handler = func(rw http.ResponseWriter, r *http.Request) {
		got <- r.Header.Clone()
		for name, value := range map[string]string{
			"Connection": "X-Hop", "X-Hop": "1", "Keep-Alive": "timeout=5", "Proxy-Authenticate": "Basic", "X-End": "2",
		} {
			rw.Header().Set(name, value)
		}
	}
	start(t, config())
	conn := dialProxy(t)
	_, err := fmt.Fprintf(conn, "GET http://%v/ HTTP/1.1\r\nHost: %v\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 3\r\n"+
		"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: trailers\r\nUpgrade: h2c\r\nX-Theirs: 2\r\n\r\n", origin4, origin4)
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	if sent := <-got; len(sent) != 1 || sent.Get("X-Theirs") != "2" {
		t.Errorf("the origin got %v, want X-Theirs alone", sent)
	}
	var names []string
	for name := range resp.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	if want := []string{"Content-Length", "Date", "X-End"}; !slices.Equal(names, want) {
		t.Errorf("the client got %v, want %v", names, want)
	}
}

// TestAnswersAreNotHeldBack: a page that comes bit by bit is passed on so.
func TestAnswersAreNotHeldBack(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	more := make(chan struct{})
	w.handler = func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "one")
		_ = http.NewResponseController(rw).Flush()
		<-more
		_, _ = io.WriteString(rw, "two")
	}
	start(t, config())
	resp, err := browser(t).Get("http://origin.example/")
	must(t, err)
	defer resp.Body.Close()
	first := make([]byte, 3)
	_, err = io.ReadFull(resp.Body, first) // would wait for ever
	must(t, err)
	close(more)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(first)+string(rest) != "onetwo" {
		t.Errorf("got %q and %q (%v)", first, rest, err)
	}
}

func TestTunnelsCarryBytesBothWays(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newWorld(t)
	t.Setenv("HTTPS_PROXY", "http://192.0.2.1:8080") // of no interest to a proxy
	start(t, config())
	for _, host := range []string{origin4.String(), "[" + origin6.String() + "]", "origin.example"} {
		conn := dialProxy(t)
		read, resp := connect(t, conn, fmt.Sprintf("%s:%d", host, echoPort), "early ")
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", host, resp.Status)
		}
		_, err := io.WriteString(conn, "late")
		must(t, err)
		must(t, conn.CloseWrite()) // one direction only
		if got, err := io.ReadAll(read); err != nil || string(got) != "early late" {
			t.Errorf("%s: got %q (%v)", host, got, err)
		}
	}
}

// TestWebSocketsPass: after the change of protocol bytes go both ways, and the end of the
// origin is the client's.
func TestWebSocketsPass(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	w.handler = func(rw http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		line, err := buffered.ReadString('\n')
		fmt.Fprintf(conn, "%s%v", line, err)
	}
	start(t, config())
	conn := dialProxy(t)
	_, err := fmt.Fprintf(conn, "GET http://%v/ HTTP/1.1\r\nHost: %v\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", origin4, origin4)
	must(t, err)
	read := bufio.NewReader(conn)
	resp, err := http.ReadResponse(read, nil)
	must(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("got %s, %v", resp.Status, resp.Header)
	}
	_, err = io.WriteString(conn, "frame\n")
	must(t, err)
	if got, err := io.ReadAll(read); err != nil || string(got) != "frame\n<nil>" {
		t.Errorf("got %q (%v)", got, err)
	}
}

// TestTheChosenResolverAloneIsAsked: neither the system's resolver nor its search list
// plays a part.
func TestTheChosenResolverAloneIsAsked(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	if _, err := net.LookupHost("nobody"); err == nil || len(w.asked[systems]) == 0 {
		t.Fatalf("the system's resolver is not asked by others (%v): this test shows nothing", err)
	}
	w.asked = make(map[netip.Addr][]string)
	start(t, config())
	client := browser(t)
	get(t, client, "http://four.example/")
	if status, _ := get(t, client, "http://nobody/"); status != http.StatusBadGateway {
		t.Errorf("a name that does not exist: %d", status)
	}
	get(t, client, "http://a.example.onion/")
	get(t, client, "http://b.localhost/")
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.asked[resolver])
	if asked, want := slices.Compact(w.asked[resolver]), []string{"four.example.", "nobody."}; !slices.Equal(asked, want) {
		t.Errorf("the chosen resolver was asked for %v, want %v", asked, want)
	}
	if asked := w.asked[systems]; len(asked) > 0 {
		t.Errorf("the system's resolver was asked for %v", asked)
	}
}

func TestWithoutAResolverOnlyAddressesAreReached(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	cfg := config()
	cfg.Resolver = netip.Addr{}
	start(t, cfg)
	client := browser(t)
	if status, body := get(t, client, "http://four.example/"); status != http.StatusForbidden || !strings.Contains(body, "--resolver") {
		t.Errorf("a name: %d %q", status, body)
	}
	if _, resp := connect(t, dialProxy(t), "four.example:80", ""); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a tunnel to a name: %s", resp.Status)
	}
	if status, _ := get(t, client, "http://"+origin4.String()+"/"); status != http.StatusOK {
		t.Errorf("an address: %d", status)
	}
	if len(w.asked) > 0 {
		t.Errorf("somebody was asked: %v", w.asked)
	}
}
