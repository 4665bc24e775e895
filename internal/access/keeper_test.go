package access

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const password = "correct horse battery"

// passwordIn writes a password and returns its file.
func passwordIn(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etc", "password")
	if err := WritePassword(path, password); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAPasswordIsKeptAsAHashForRootAlone(t *testing.T) {
	path := passwordIn(t)
	text, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(text), "horse") || !strings.HasPrefix(string(text), "pbkdf2-sha256:600000:") {
		t.Errorf("it has %q, %v", text, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for tried, want := range map[string]bool{password: true, "": false, password + " ": false, "Correct horse battery": false} {
		if right, err := verify(path, tried); right != want || err != nil {
			t.Errorf("%q: %v, %v", tried, right, err)
		}
	}
	if err := WritePassword(path, "short"); err == nil {
		t.Error("a short one was taken")
	}
	if err := WritePassword(path, strings.Repeat("x", maxPassword+1)); err == nil {
		t.Error("a long one was taken")
	}
	if right, err := verify(path, password); !right || err != nil {
		t.Errorf("a bad one has changed it: %v", err)
	}
	for _, broken := range []string{"", "x", "pbkdf2-sha256:0:YQ:YQ", "pbkdf2-sha256:99999999:YQ:YQ", "pbkdf2-sha256:1:YQ:YQ", "plain:1:" + password + ":x"} {
		if err := os.WriteFile(path, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if right, err := verify(path, ""); right || err == nil {
			t.Errorf("%q lets in: %v", broken, err)
		}
	}
	if right, err := verify(path+".gone", ""); right || !errors.Is(err, ErrNoPassword) {
		t.Errorf("without one: %v, %v", right, err)
	}
}

func TestAnInvitationWorksOnceAndForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New()
		word, _ := k.Invite()
		g, err := k.ByInvite(word)
		if err != nil || k.find(g.Cookie, g.Key) == nil {
			t.Errorf("it does not work: %v", err)
		}
		if _, err := k.ByInvite(word); !errors.Is(err, ErrInvite) {
			t.Errorf("it works twice: %v", err)
		}
		old, _ := k.Invite()
		time.Sleep(inviteLife + time.Second)
		if _, err := k.ByInvite(old); !errors.Is(err, ErrInvite) {
			t.Errorf("an old one works: %v", err)
		}
		first, _ := k.Invite()
		for range maxInvites {
			time.Sleep(time.Second)
			k.Invite()
		}
		if _, err := k.ByInvite(first); !errors.Is(err, ErrInvite) {
			t.Errorf("more are kept than ought to be: %v", err)
		}
		for _, word := range []string{"", "x"} {
			if _, err := k.ByInvite(word); err == nil {
				t.Errorf("%q lets in", word)
			}
		}
		k.EndAll()
	})
}

func TestASessionTakesBothHalvesAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New()
		begin := func() Granted {
			word, _ := k.Invite()
			g, err := k.ByInvite(word)
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		g, other := begin(), begin()
		for _, half := range [][2]string{{g.Cookie, ""}, {"", g.Key}, {g.Cookie, other.Key}, {g.Key, g.Cookie}, {g.Cookie, g.Cookie}} {
			if k.find(half[0], half[1]) != nil {
				t.Errorf("%q is a session", half)
			}
		}
		s := k.find(g.Cookie, g.Key)
		if s == nil {
			t.Fatal("there is no session")
		}
		time.Sleep(sessionIdle - time.Second)
		if k.find(g.Cookie, g.Key) == nil {
			t.Error("it ended while it was used")
		}
		time.Sleep(2 * time.Second)
		if k.find(other.Cookie, other.Key) != nil {
			t.Error("one that nobody uses goes on")
		}
		time.Sleep(sessionIdle)
		synctest.Wait()
		if s.alive.Err() == nil {
			t.Error("what an idle session follows goes on")
		}

		g = begin()
		s = k.find(g.Cookie, g.Key)
		for range int(sessionLife/sessionIdle)*2 + 1 {
			time.Sleep(sessionIdle / 2)
			k.find(g.Cookie, g.Key)
		}
		if k.find(g.Cookie, g.Key) != nil || s.alive.Err() == nil {
			t.Error("a session that is used never ends")
		}

		first := begin()
		for range maxSessions {
			time.Sleep(time.Second)
			g = begin()
		}
		if k.find(first.Cookie, first.Key) != nil || k.find(g.Cookie, g.Key) == nil {
			t.Error("the oldest does not make room")
		}
		if n := k.EndAll(); n != maxSessions || k.find(g.Cookie, g.Key) != nil {
			t.Errorf("%d ended", n)
		}
	})
}

func TestThePasswordCannotBeTriedOften(t *testing.T) {
	path := passwordIn(t)
	synctest.Test(t, func(t *testing.T) {
		k := New()
		for i := range attemptBurst {
			if _, err := k.ByPassword(path, fmt.Sprint("guess ", i)); !errors.Is(err, ErrWrong) {
				t.Errorf("attempt %d: %v", i, err)
			}
		}
		var often TooOften
		if _, err := k.ByPassword(path, password); !errors.As(err, &often) || often.Wait > attemptPause {
			t.Errorf("one more: %v", err)
		}
		time.Sleep(attemptPause)
		g, err := k.ByPassword(path, password)
		if err != nil || k.find(g.Cookie, g.Key) == nil {
			t.Errorf("after a pause: %v", err)
		}
		if _, err := k.ByPassword(path, password); !errors.As(err, &often) {
			t.Errorf("the right one is free: %v", err)
		}
		word, _ := k.Invite()
		if _, err := k.ByInvite(word); err != nil {
			t.Errorf("an invitation waits as well: %v", err)
		}
		time.Sleep(time.Hour)
		for i := range attemptBurst + 1 {
			_, err := k.ByPassword(path, strings.Repeat("x", maxPassword+1))
			if often := errors.As(err, &often); often != (i == attemptBurst) {
				t.Errorf("attempt %d after a rest: %v", i, err)
			}
		}
		k.EndAll()
	})
}

// TestWhatIsBeingHashedEndsWithAllSessions: who has an old password does not outlive its end by having
// sent it just before.
func TestWhatIsBeingHashedEndsWithAllSessions(t *testing.T) {
	k := New()
	hashing, goOn := make(chan struct{}), make(chan struct{})
	k.verify = func(string, string) (bool, error) {
		close(hashing)
		<-goOn
		return true, nil
	}
	signedIn := make(chan error)
	go func() {
		_, err := k.ByPassword("/nowhere", password)
		signedIn <- err
	}()
	<-hashing
	k.EndAll()
	close(goOn)
	if err := <-signedIn; !errors.Is(err, errEnded) || len(k.sessions) != 0 {
		t.Errorf("it says %v, and there are %d sessions", err, len(k.sessions))
	}
}
