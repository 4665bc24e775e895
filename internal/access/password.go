package access

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/torbpf/torbpf/internal/config"
)

// The hash of a password takes a second on a slow router, and no memory. The number of
// rounds is what OWASP's Password Storage Cheat Sheet names for PBKDF2 with HMAC-SHA256.
const (
	hashRounds = 600_000
	hashBytes  = 32
	saltBytes  = 16
)

// The bounds of a password, in characters and in bytes: at the rate of attempts that Keeper
// allows, ten characters are out of reach, and nobody types the other.
const (
	minPassword = 10
	maxPassword = 256
)

// ErrNoPassword says that nobody can sign in by a password.
var ErrNoPassword = errors.New("no password is set: on the router, `torbpf page password` sets one, and `torbpf page login` opens the page without")

// CheckPassword says what is wrong with one that is to be set.
func CheckPassword(password string) error {
	switch {
	case utf8.RuneCountInString(password) < minPassword:
		return config.Invalid("the password is too short: at least %d characters, such as four words", minPassword)
	case len(password) > maxPassword:
		return config.Invalid("the password is too long: at most %d bytes", maxPassword)
	}
	return nil
}

// WritePassword sets the password, of which the file has the hash, for root alone.
func WritePassword(path, password string) error {
	if err := CheckPassword(password); err != nil {
		return err
	}
	salt := make([]byte, saltBytes)
	rand.Read(salt) // never fails
	hash, err := hashOf(password, salt, hashRounds)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the folder of the password: %w", err)
	}
	text := fmt.Sprintf("pbkdf2-sha256:%d:%s:%s\n", hashRounds, encode(salt), encode(hash))
	if err := config.ReplaceFile(path, []byte(text)); err != nil {
		return fmt.Errorf("write the password: %w", err)
	}
	return nil
}

// verify compares a password with the file's, in a time that says nothing of it.
func verify(path, password string) (bool, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, ErrNoPassword
	}
	if err != nil {
		return false, fmt.Errorf("read the password: %w", err)
	}
	var rounds int
	salt, want, err := parseHash(string(bytes.TrimSpace(text)), &rounds)
	if err != nil {
		return false, fmt.Errorf("read the password in %s: %w: set it anew by `torbpf page password`", path, err)
	}
	got, err := hashOf(password, salt, rounds)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

func parseHash(text string, rounds *int) (salt, hash []byte, err error) {
	fields := strings.Split(text, ":")
	if len(fields) != 4 || fields[0] != "pbkdf2-sha256" {
		return nil, nil, errors.New("it is no hash of torbpf's")
	}
	if _, err := fmt.Sscanf(fields[1], "%d", rounds); err != nil || *rounds < 1 || *rounds > 10*hashRounds {
		return nil, nil, fmt.Errorf("%q is no number of rounds", fields[1])
	}
	salt, err = base64.RawURLEncoding.DecodeString(fields[2])
	if err == nil {
		hash, err = base64.RawURLEncoding.DecodeString(fields[3])
	}
	if err == nil && (len(salt) < saltBytes || len(hash) != hashBytes) {
		err = errors.New("it is cut off")
	}
	return salt, hash, err
}

func hashOf(password string, salt []byte, rounds int) ([]byte, error) {
	hash, err := pbkdf2.Key(sha256.New, password, salt, rounds, hashBytes)
	if err != nil {
		return nil, fmt.Errorf("hash the password: %w", err)
	}
	return hash, nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
