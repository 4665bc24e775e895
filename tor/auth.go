package tor

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// handshakeMax bounds, in bytes, all that is read before a server has shown
// that it is tor: a path of 4096 bytes, each escaped by four, and some lines.
const handshakeMax = 32 << 10

// server is who answers at a control port, as far as the kernel tells. A tor
// that was taken over can put another socket in the place of its own, and any
// user can listen on the TCP port of a tor that has died: nothing that a
// server says is believed where root would act on it.
type server struct {
	known  bool // uid is: the server is behind a Unix socket
	uid    uint32
	cookie string // the only cookie of a tor of ours; "" for any other tor
}

// identify says who is behind a connection to target. A tor of ours must run
// under the account that root gave its run directory to.
func identify(conn net.Conn, target string) (server, error) {
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return server{}, nil
	}
	uid, err := peerUID(local)
	if err != nil {
		return server{}, fmt.Errorf("ask the kernel who listens: %w", err)
	}
	s := server{known: true, uid: uid}
	dir := filepath.Dir(filepath.Dir(target))
	if target != SocketPath(dir) {
		return s, nil
	}
	// Only root can remove this file from the state directory.
	o := Options{Dir: dir}
	if _, err := os.Lstat(o.torrcPath()); errors.Is(err, os.ErrNotExist) {
		return s, nil
	} else if err != nil {
		return server{}, err
	}
	run, err := os.Lstat(o.runDir())
	if err != nil {
		return server{}, err
	}
	if owner(run) != uid {
		return server{}, fmt.Errorf("uid %d listens there, but tor runs as uid %d: somebody poses as tor; stop and start it", uid, owner(run))
	}
	s.cookie = o.cookiePath()
	return s, nil
}

// peerUID returns whose process made the socket that conn is connected to.
func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

func (c *Control) authenticate(ctx context.Context, s server) error {
	err := c.bounded(ctx, handshakeMax, func() error {
		offer, err := c.protocolInfo()
		if err != nil {
			return err
		}
		proof, err := c.prove(ctx, s, offer)
		if err != nil {
			return err
		}
		line := strings.TrimSpace("AUTHENTICATE " + hex.EncodeToString(proof))
		_, err = c.bine.SendRequest("%s", line)
		return err
	})
	if err != nil {
		return fmt.Errorf("authenticate to tor at %s: %w", c.address, err)
	}
	return nil
}

// prove returns what AUTHENTICATE takes. The method COOKIE is not used: it
// sends the file's content to a server that has not shown to know it, which
// could be a key of root's. Every tor since 0.2.3 has SAFECOOKIE.
func (c *Control) prove(ctx context.Context, s server, offer authOffer) ([]byte, error) {
	offers := func(method string) bool { return slices.Contains(offer.methods, method) }
	switch {
	case offers("NULL"):
		return nil, nil
	case offers("SAFECOOKIE"):
		if s.cookie != "" && offer.cookieFile != s.cookie {
			return nil, fmt.Errorf("it names the cookie %.300q, but that of this tor is %s; stop and start it", offer.cookieFile, s.cookie)
		}
		cookie, err := within(ctx, commandTimeout, func() ([]byte, error) { return readCookie(offer.cookieFile, s) })
		if err != nil {
			return nil, fmt.Errorf("read the cookie %.300q that it names: %w", offer.cookieFile, err)
		}
		return c.challenge(cookie)
	case offers("HASHEDPASSWORD"):
		return nil, errors.New("it demands a password; add CookieAuthentication 1 to its torrc and reload it")
	}
	return nil, fmt.Errorf("it offers no method that torbpf knows, only %.50q; add CookieAuthentication 1 to its torrc and reload it", offer.methods)
}

// authOffer is the AUTH line of a reply to PROTOCOLINFO.
type authOffer struct {
	methods    []string
	cookieFile string
}

// protocolInfo asks how to authenticate (control-spec, "PROTOCOLINFO").
func (c *Control) protocolInfo() (authOffer, error) {
	resp, err := c.bine.SendRequest("PROTOCOLINFO")
	if err != nil {
		return authOffer{}, err
	}
	var offer authOffer
	for _, line := range resp.Data {
		kind, rest, _ := strings.Cut(line, " ")
		switch {
		case kind == "PROTOCOLINFO" && rest != "1":
			return authOffer{}, fmt.Errorf("it speaks version %.50q of the control protocol, not 1", rest)
		case kind == "AUTH":
			ws, err := words(rest)
			if err != nil {
				return authOffer{}, err
			}
			for _, w := range ws {
				switch w.key {
				case "METHODS":
					offer.methods = strings.Split(w.value, ",")
				case "COOKIEFILE":
					offer.cookieFile = w.value
				}
			}
		}
	}
	return offer, nil
}

// The keys of SAFECOOKIE (control-spec, "AUTHCHALLENGE").
const (
	serverKey = "Tor safe cookie authentication server-to-controller hash"
	clientKey = "Tor safe cookie authentication controller-to-server hash"
	nonceSize = 32
)

// challenge lets the server show that it knows the cookie and returns what
// shows it the same of us.
func (c *Control) challenge(cookie []byte) ([]byte, error) {
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	resp, err := c.bine.SendRequest("AUTHCHALLENGE SAFECOOKIE %x", nonce)
	if err != nil {
		return nil, err
	}
	ws, err := words(resp.Reply)
	if err != nil {
		return nil, err
	}
	if len(ws) < 3 || ws[0].value != "AUTHCHALLENGE" || ws[1].key != "SERVERHASH" || ws[2].key != "SERVERNONCE" {
		return nil, fmt.Errorf("its reply %.300q is none to a challenge", resp.Reply)
	}
	hash, hashErr := hex.DecodeString(ws[1].value)
	theirs, nonceErr := hex.DecodeString(ws[2].value)
	if err := errors.Join(hashErr, nonceErr); err != nil {
		return nil, fmt.Errorf("read its reply to a challenge: %w", err)
	}
	if !hmac.Equal(hash, cookieHash(serverKey, cookie, nonce, theirs)) {
		return nil, errors.New("it does not know its own cookie: something else listens there in tor's place")
	}
	return cookieHash(clientKey, cookie, nonce, theirs), nil
}

func cookieHash(key string, cookie, ours, theirs []byte) []byte {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(slices.Concat(cookie, ours, theirs))
	return mac.Sum(nil)
}
