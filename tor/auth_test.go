package tor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cookieTor plays a tor with a cookie: it knows secret and names path.
type cookieTor struct {
	secret, path string
	corrupt      func(reply string) string // of AUTHCHALLENGE; nil for an honest one
	asked, told  atomic.Int32              // challenges and authentications that came
	theirs       []byte                    // the client's nonce
}

// serverNonce is any: a fake needs no secret one.
var serverNonce = []byte(strings.Repeat("n", nonceSize))

func (f *cookieTor) answer(conn io.Writer, line string) bool {
	reply := "510 Unrecognized command\r\n"
	switch words := strings.Fields(line); words[0] {
	case "PROTOCOLINFO":
		reply = fmt.Sprintf("250-PROTOCOLINFO 1\r\n250-AUTH METHODS=COOKIE,SAFECOOKIE COOKIEFILE=\"%s\"\r\n250 OK\r\n", f.path)
	case "AUTHCHALLENGE":
		f.asked.Add(1)
		f.theirs, _ = hex.DecodeString(words[2])
		reply = fmt.Sprintf("250 AUTHCHALLENGE SERVERHASH=%X SERVERNONCE=%X\r\n",
			cookieHash(serverKey, []byte(f.secret), f.theirs, serverNonce), serverNonce)
		if f.corrupt != nil {
			reply = f.corrupt(reply)
		}
	case "AUTHENTICATE":
		f.told.Add(1)
		if reply = ok; words[1] != hex.EncodeToString(cookieHash(clientKey, []byte(f.secret), f.theirs, serverNonce)) {
			reply = "515 Authentication failed: Safe cookie response did not match expected value.\r\n"
		}
	}
	_, err := io.WriteString(conn, reply)
	return err == nil
}

const secret = "0123456789abcdef0123456789abcdef"

// wantRefused checks that a server is refused at once, for little memory.
func wantRefused(t *testing.T, address string, parts ...string) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	c, err := Dial(deadline(t, 5*time.Second), address)
	if err == nil {
		c.Close()
	}
	wantError(t, err, parts...)
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 2<<20 {
		t.Errorf("it took %d bytes of memory", used)
	}
}

// What a server names is opened by root: a file without an end, one that
// waits for a writer, or a secret would be at its choice.
func TestOnlyACookieIsRead(t *testing.T) {
	tests := map[string]struct {
		path, script, want string
	}{
		"without an end":   {"/dev/zero", "", "not a file"},
		"fifo":             {"x", "mkfifo x", "not a file"},
		"link to a cookie": {"x", "ln -s cookie x", "symbolic link"},
		"link to a device": {"x", "ln -s /dev/zero x", "symbolic link"},
		"directory":        {"x", "mkdir x", "not a file"},
		"one byte more":    {"x", "(cat cookie; echo -n x) > x", "33 bytes"},
		"one byte less":    {"x", "head -c 31 cookie > x", "31 bytes"},
		"enormous":         {"x", "truncate -s 1T x", "1099511627776 bytes"},
		"none":             {"x", "", "no such file"},
		"none of its own":  {"", "", "no absolute path"},
		"relative":         {"../../../../../../../../dev/zero", "", "no absolute path"},
		"name with a zero": {`/dev/zero\000`, "", "invalid argument"},
		"says many, has 0": {"/proc/kmsg", "", "0 bytes"},
		"name without end": {"/" + strings.Repeat("x", handshakeMax), "", errReplyTooLong.Error()},
	}
	for name, tt := range tests {
		for _, network := range []string{"unix", "tcp"} {
			t.Run(name+" by "+network, func(t *testing.T) {
				dir := place(t)
				sh(t, "cd "+dir+"; echo -n "+secret+" > cookie; "+tt.script)
				f := &cookieTor{secret: secret, path: tt.path}
				if tt.path == "x" {
					f.path = filepath.Join(dir, "x")
				}
				address := dir + "/control"
				if network == "tcp" {
					address = "127.0.0.1:0"
				}
				address = listenFake(t, address, f.answer)
				wantRefused(t, address, tt.want, "authenticate to tor at "+address)
				if f.asked.Load()+f.told.Load() != 0 {
					t.Error("the exchange went on")
				}
			})
		}
	}
}

// A device can act when it is opened, so what is refused must not have been.
func TestWhatIsRefusedIsNotOpened(t *testing.T) {
	dir := place(t)
	sh(t, "mkfifo "+dir+"/x")
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, dir+"/x", unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	f := &cookieTor{secret: secret, path: dir + "/x"}
	wantRefused(t, listenFake(t, dir+"/control", f.answer), "not a file")
	if n, err := unix.Read(watch, make([]byte, 4096)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("it was opened: %d bytes of events, %v", n, err)
	}
}

func TestAServerMustKnowItsCookie(t *testing.T) {
	replace := func(old, by string) func(string) string {
		return func(reply string) string { return strings.Replace(reply, old, by, 1) }
	}
	whole := func(reply string) func(string) string { return func(string) string { return reply } }
	tests := map[string]struct {
		secret  string
		corrupt func(string) string
		want    string
	}{
		"honest":          {secret, nil, ""},
		"another secret":  {strings.Repeat("x", cookieSize), nil, "does not know its own cookie"},
		"no hash":         {secret, replace("SERVERHASH=", "X="), "none to a challenge"},
		"empty hash":      {secret, whole("250 AUTHCHALLENGE SERVERHASH= SERVERNONCE=\r\n"), "does not know"},
		"short nonce":     {secret, func(r string) string { return strings.TrimSuffix(r, "6E\r\n") + "\r\n" }, "does not know"},
		"no hexadecimals": {secret, replace("SERVERHASH=", "SERVERHASH=xy"), "invalid byte"},
		"nothing":         {secret, whole(ok), "none to a challenge"},
		"open quote":      {secret, whole("250 AUTHCHALLENGE SERVERHASH=\"\r\n"), "a quote that is not closed"},
		"refusal":         {secret, whole("513 No\r\n"), "513"},
		"silence":         {secret, whole(""), "deadline exceeded"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := place(t)
			sh(t, "echo -n "+secret+" > "+dir+"/cookie")
			f := &cookieTor{secret: tt.secret, path: dir + "/cookie", corrupt: tt.corrupt}
			c, err := Dial(deadline(t, soon), listenFake(t, dir+"/control", f.answer))
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
				return
			}
			wantError(t, err, tt.want)
			if f.told.Load() != 0 {
				t.Error("it was told what the cookie makes")
			}
		})
	}
}

// The content of the file would go to whoever asks for it.
func TestTheCookieItselfIsNeverSent(t *testing.T) {
	dir := place(t)
	sh(t, "echo -n "+secret+" > "+dir+"/cookie")
	address := fakeTor(t, map[string]string{"AUTHENTICATE": ok,
		"PROTOCOLINFO": "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=COOKIE COOKIEFILE=\"" + dir + "/cookie\"\r\n250 OK\r\n"})
	wantRefused(t, address, `only ["COOKIE"]`)
}

// nobody is an account with no right to anything.
const nobody = 65534

// asUser runs f on a thread with another effective uid, which the kernel notes
// with a socket that listens.
func asUser(t *testing.T, uid int, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	set := func(uid int) {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			panic(errno) // the thread is of no use to anybody
		}
	}
	set(uid)
	defer set(0)
	f()
}

func TestACookieIsThatOfWhoListens(t *testing.T) {
	for _, tt := range []struct {
		listener, owner int
		want            string
	}{
		{nobody, nobody, ""},
		{0, nobody, ""}, // a tor can make its socket before it leaves root
		{nobody, 0, "belongs to uid 0, but uid 65534 listens"},
		{nobody, 1, "belongs to uid 1, but uid 65534 listens"},
	} {
		dir := place(t)
		sh(t, fmt.Sprintf("cd %s; chown nobody .; echo -n %s > cookie; chown %d cookie", dir, secret, tt.owner))
		f := &cookieTor{secret: secret, path: dir + "/cookie"}
		var address string
		asUser(t, tt.listener, func() { address = listenFake(t, dir+"/control", f.answer) })
		if tt.want != "" {
			wantRefused(t, address, tt.want)
			continue
		}
		c, err := Dial(deadline(t, 5*time.Second), address)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

// managed lays out the state directory of a tor of ours whose account is uid.
func managed(t *testing.T, uid int) (o Options) {
	o.Dir = filepath.Join(place(t), "state")
	sh(t, fmt.Sprintf("mkdir -p %s; cd %s; touch torrc; mkdir run; echo -n %s | tee run/control.cookie > run/other; chown -R %d run",
		o.Dir, o.Dir, secret, uid))
	return o
}

func TestATorOfOursHasOneCookie(t *testing.T) {
	for path, want := range map[string]string{
		"control.cookie":           "",
		"other":                    "but that of this tor is",
		"../run/control.cookie":    "but that of this tor is",
		"control.cookie/../other":  "but that of this tor is",
		"./control.cookie":         "but that of this tor is",
		"../../../../../dev/zero":  "but that of this tor is",
		"/control.cookie":          "but that of this tor is",
		"control.cookie/":          "but that of this tor is",
		"control.cookie\\n\\033[2": `\n\x1b[2`,
	} {
		o := managed(t, nobody)
		f := &cookieTor{secret: secret, path: o.runDir() + "/" + path}
		asUser(t, nobody, func() { listenFake(t, SocketPath(o.Dir), f.answer) })
		if want != "" {
			wantRefused(t, SocketPath(o.Dir), want)
			continue
		}
		c, err := Dial(deadline(t, 5*time.Second), "unix:"+SocketPath(o.Dir))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

// A tor that was taken over can put links into its directory.
func TestTheCookieOfATorOfOursIsAFileOfItsOwn(t *testing.T) {
	for script, want := range map[string]string{
		"mkfifo":                     "not a file",
		"ln -s /dev/zero":            "symbolic link",
		"ln -s other":                "symbolic link",
		"mkdir":                      "not a file",
		"cp --no-preserve=all other": "belongs to uid 0",
	} {
		o := managed(t, nobody)
		sh(t, "cd "+o.runDir()+"; rm control.cookie; "+script+" control.cookie")
		f := &cookieTor{secret: secret, path: o.cookiePath()}
		asUser(t, nobody, func() { listenFake(t, SocketPath(o.Dir), f.answer) })
		wantRefused(t, SocketPath(o.Dir), want)
	}
}

func TestNobodyElsePosesAsOurTor(t *testing.T) {
	acct, err := LookupAccount()
	if err != nil {
		t.Fatal(err)
	}
	o := managed(t, int(acct.UID))
	sh(t, "chmod 777 "+o.runDir())
	var asked atomic.Int32
	answer := func(io.Writer, string) bool { asked.Add(1); return false }
	asUser(t, nobody, func() { listenFake(t, SocketPath(o.Dir), answer) })
	wantRefused(t, SocketPath(o.Dir), "uid 65534 listens there", "somebody poses as tor")
	if asked.Load() != 0 {
		t.Error("it was spoken to")
	}
}

// endless repeats a text for as long as somebody reads.
func endless(conn io.Writer, text string) bool {
	for block := []byte(strings.Repeat(text, 4096)); ; {
		if _, err := conn.Write(block); err != nil {
			return false
		}
	}
}

func TestAnEndlessReplyEnds(t *testing.T) {
	dir := place(t)
	sh(t, "echo -n "+secret+" > "+dir+"/cookie")
	for name, text := range map[string]string{
		"a line": "2", "lines": "250-AUTH METHODS=NULL\r\n", "empty lines": "\n", "events": "650 NOTICE x\r\n", "a text": "250+AUTH\r\nx\r\n", "zeros": "\x00",
	} {
		for _, at := range []string{"PROTOCOLINFO", "AUTHCHALLENGE", "AUTHENTICATE"} {
			t.Run(name+" at "+at, func(t *testing.T) {
				f := &cookieTor{secret: secret, path: dir + "/cookie"}
				address := listenFake(t, filepath.Join(shortDir(t), "control"), func(conn io.Writer, line string) bool {
					if strings.HasPrefix(line, at) {
						return endless(conn, text)
					}
					return f.answer(conn, line)
				})
				wantRefused(t, address, "authenticate to tor at "+address)
			})
		}
	}
}

// One drop at a time keeps a connection alive that a deadline per read would not end.
func TestASlowReplyEndsWithTheContext(t *testing.T) {
	address := listenFake(t, filepath.Join(shortDir(t), "control"), func(conn io.Writer, _ string) bool {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := io.WriteString(conn, "650 x\r\n"); err != nil {
				break
			}
		}
		return false
	})
	begin := time.Now()
	_, err := Dial(deadline(t, soon), address)
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*soon {
		t.Errorf("it took %v", took)
	}
}

// A file system can keep a system call for ever, where no deadline reaches.
func TestAFileSystemThatHangsIsLeft(t *testing.T) {
	free := make(chan struct{})
	defer close(free)
	hang := func() ([]byte, error) { <-free; return nil, nil }
	if _, err := within(deadline(t, soon), time.Hour, hang); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := within(context.Background(), soon, hang); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestTheKernelNamesWhoListens(t *testing.T) {
	path := filepath.Join(place(t), "control")
	sh(t, "chown nobody "+filepath.Dir(path))
	asUser(t, nobody, func() { listenFake(t, path, func(io.Writer, string) bool { return true }) })
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if s, err := identify(conn, path); err != nil || s != (server{known: true, uid: nobody}) {
		t.Errorf("%+v, %v", s, err)
	}
}
