package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/torbpf/torbpf/testnet"
)

// tab is a page in a headless Chromium on a node of the lab. It is driven by the DevTools
// protocol through a pair of pipes: messages of JSON, each ended by a zero byte.
type tab struct {
	t       *testing.T
	out     *os.File
	session string

	mu       sync.Mutex
	last     int
	waiting  map[int]chan reply
	requests []string // addresses of all that was asked for
	errors   []string // what the page has complained of, a broken policy for instance
}

// reply is an answer of Chromium's, or an event.
type reply struct {
	ID     int
	Method string
	Result json.RawMessage
	Params json.RawMessage
	Error  *struct{ Message string }
}

// browsers are the names that Chromium goes by.
var browsers = []string{"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"}

func findBrowser(t *testing.T) string {
	t.Helper()
	for _, name := range browsers {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatalf("there is none of %v: sudo packaging/deps.sh test installs one", browsers)
	return ""
}

// openTab starts a Chromium on a node, with a page that is empty yet. It ends with the test.
func openTab(t *testing.T, lab *testnet.Lab, n *testnet.Node) *tab {
	t.Helper()
	theirIn, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	in, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.MkdirTemp(lab.Dir(), "chromium")
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(home, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := n.Command(t.Context(), findBrowser(t), "--headless", "--no-sandbox", "--remote-debugging-pipe", "--user-data-dir="+home,
		"--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--no-first-run", "--hide-scrollbars", "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+home)
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // descriptors 3 and 4
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirIn.Close()
	theirOut.Close()
	b := &tab{t: t, out: out, waiting: make(map[int]chan reply)}
	read := make(chan struct{})
	go func() { defer close(read); b.read(in) }()
	t.Cleanup(func() {
		if t.Failed() {
			text, err := os.ReadFile(log.Name())
			t.Logf("chromium: %s, %v", text, err)
		}
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		_ = cmd.Wait()                           // it was killed
		_ = errors.Join(out.Close(), in.Close()) // its children may still have the other ends
		<-read
		log.Close()
	})
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Network", "Log"} {
		b.call(domain+".enable", map[string]any{}, nil)
	}
	b.look(1280, 900, "light")
	return b
}

// read takes in what Chromium says until it ends.
func (b *tab) read(in *os.File) {
	messages := bufio.NewReader(in)
	for {
		text, err := messages.ReadBytes(0)
		if err != nil {
			return
		}
		var r reply
		if err := json.Unmarshal(text[:len(text)-1], &r); err != nil {
			b.t.Errorf("chromium says %s: %v", text, err)
			continue
		}
		b.mu.Lock()
		if answered := b.waiting[r.ID]; answered != nil {
			answered <- r
			delete(b.waiting, r.ID)
		}
		b.note(r)
		b.mu.Unlock()
	}
}

// note keeps what an event tells of the page.
func (b *tab) note(r reply) {
	var p struct {
		Request          struct{ URL string }
		Entry            struct{ Level, Text, URL string }
		ExceptionDetails struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	switch r.Method {
	case "Network.requestWillBeSent", "Log.entryAdded", "Runtime.exceptionThrown":
	default:
		return
	}
	if err := json.Unmarshal(r.Params, &p); err != nil {
		b.errors = append(b.errors, err.Error())
		return
	}
	switch r.Method {
	case "Network.requestWillBeSent":
		b.requests = append(b.requests, p.Request.URL)
	case "Log.entryAdded":
		if p.Entry.Level == "error" {
			b.errors = append(b.errors, p.Entry.Text+" "+p.Entry.URL)
		}
	case "Runtime.exceptionThrown":
		b.errors = append(b.errors, p.ExceptionDetails.Text+" "+p.ExceptionDetails.Exception.Description)
	}
}

// call asks Chromium for something and reads what comes into result.
func (b *tab) call(method string, params map[string]any, result any) {
	b.t.Helper()
	answered := make(chan reply, 1)
	b.mu.Lock()
	b.last++
	id := b.last
	b.waiting[id] = answered
	b.mu.Unlock()
	message := map[string]any{"id": id, "method": method, "params": params}
	if b.session != "" {
		message["sessionId"] = b.session
	}
	text, err := json.Marshal(message)
	if err == nil {
		_, err = b.out.Write(append(text, 0))
	}
	if err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	select {
	case r := <-answered:
		if r.Error != nil {
			b.t.Fatalf("%s: %s", method, r.Error.Message)
		}
		if result == nil {
			return
		}
		if err := json.Unmarshal(r.Result, result); err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
	case <-time.After(2 * patience):
		b.t.Fatalf("%s: chromium does not answer", method)
	}
}

// eval runs a script in the page, waits for its promise, and reads its value into out.
func (b *tab) eval(script string, out any) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	b.call("Runtime.evaluate", map[string]any{"expression": script, "awaitPromise": true, "returnByValue": true}, &r)
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", script, r.ExceptionDetails.Exception.Description)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(r.Result.Value, out); err != nil {
		b.t.Fatalf("%s: %v: %s", script, err, r.Result.Value)
	}
}

// text is what an element shows; "" where there is none, or it is hidden.
func (b *tab) text(selector string) string {
	b.t.Helper()
	var text string
	b.eval(fmt.Sprintf(`(() => { const e = document.querySelector(%q); return e?.checkVisibility() ? e.innerText : ""; })()`, selector), &text)
	return text
}

// shows waits until an element shows a text.
func (b *tab) shows(selector, text string) {
	b.t.Helper()
	eventually(b.t, 2*patience, fmt.Sprintf("%q in %s", text, selector), func() error {
		if got := b.text(selector); !strings.Contains(got, text) {
			return fmt.Errorf("it shows %q", got)
		}
		return nil
	})
}

// visit opens an address.
func (b *tab) visit(url string) {
	b.t.Helper()
	var to struct{ ErrorText string }
	b.call("Page.navigate", map[string]any{"url": url}, &to)
	if to.ErrorText != "" {
		b.t.Fatalf("%s: %s", url, to.ErrorText)
	}
}

// look sets the size of the window, and the colours of the system.
func (b *tab) look(width, height int, scheme string) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// click presses the mouse in the middle of an element, as somebody who sees it would.
func (b *tab) click(selector string) {
	b.t.Helper()
	var at struct{ X, Y float64 }
	b.eval(fmt.Sprintf(`(() => { const e = document.querySelector(%q); e.scrollIntoView({ block: "center" });
		const r = e.getBoundingClientRect(); return { X: r.x + r.width / 2, Y: r.y + r.height / 2 }; })()`, selector), &at)
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		b.call("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": at.X, "y": at.Y, "button": "left", "clickCount": 1}, nil)
	}
}

// keyCodes are those of the keys that press knows beside letters.
var keyCodes = map[string]int{"Tab": 9, "Enter": 13, " ": 32, "End": 35, "Home": 36, "ArrowDown": 40}

// press presses keys, one after the other.
func (b *tab) press(keys ...string) {
	b.t.Helper()
	for _, key := range keys {
		down := map[string]any{"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": keyCodes[key]}
		switch key {
		case "Enter":
			down["text"] = "\r"
		case " ":
			down["text"], down["code"] = " ", "Space"
		}
		b.call("Input.dispatchKeyEvent", down, nil)
		b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key, "windowsVirtualKeyCode": keyCodes[key]}, nil)
	}
}

// write types a text.
func (b *tab) write(text string) {
	b.t.Helper()
	b.call("Input.insertText", map[string]any{"text": text}, nil)
}

// tabTo presses Tab until an element has the focus, and fails if it never has.
func (b *tab) tabTo(selector string) {
	b.t.Helper()
	const most = 200
	for range most {
		var there bool
		b.eval(fmt.Sprintf(`document.activeElement.matches(%q)`, selector), &there)
		if there {
			return
		}
		b.press("Tab")
	}
	b.t.Fatalf("%d times Tab do not lead to %s", most, selector)
}

// picture is the window as a PNG.
func (b *tab) picture() []byte {
	b.t.Helper()
	var shot struct{ Data []byte }
	b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	return shot.Data
}

// checkOrigins wants nothing asked for but below one address, and the page content with that.
func (b *tab) checkOrigins(origin string, known ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.requests) == 0 {
		b.t.Error("nothing was asked for")
	}
	for _, url := range b.requests {
		if !strings.HasPrefix(url, origin+"/") && url != "about:blank" {
			b.t.Errorf("the page has asked for %s", url)
		}
	}
next:
	for _, e := range b.errors {
		for _, k := range known {
			if strings.Contains(e, k) {
				continue next
			}
		}
		b.t.Errorf("the page complains: %s", e)
	}
}
