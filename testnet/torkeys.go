package testnet

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// relayKeys are the keys that the network's configuration must name before any tor
// runs; tor makes all others itself.
type relayKeys struct {
	identity    *rsa.PrivateKey // 1024 bits: the directory protocol fixes the size
	fingerprint string          // of identity, as DirAuthority lines want it

	// Authorities only (dir-spec, "Creating key certificates").
	signing     *rsa.PrivateKey
	certificate string
	v3Ident     string
}

func newRelayKeys(authority bool) (*relayKeys, error) {
	identity, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		return nil, fmt.Errorf("generate identity key: %w", err)
	}
	k := &relayKeys{identity: identity, fingerprint: keyDigestHex(&identity.PublicKey)}
	if !authority {
		return k, nil
	}
	// 2048 bits where tor-gencert has 3072: the lab must be up soon.
	authorityKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("generate authority key: %w", err)
	}
	if k.signing, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, fmt.Errorf("generate authority signing key: %w", err)
	}
	k.v3Ident = keyDigestHex(&authorityKey.PublicKey)
	k.certificate, err = keyCertificate(authorityKey, k.signing)
	return k, err
}

func keyDigestHex(key *rsa.PublicKey) string {
	return fmt.Sprintf("%X", sha1.Sum(x509.MarshalPKCS1PublicKey(key)))
}

// keyCertificate is what tor-gencert makes: the authority's long-lived key vouches
// for its signing key.
func keyCertificate(authority, signing *rsa.PrivateKey) (string, error) {
	digest := sha1.Sum(x509.MarshalPKCS1PublicKey(&authority.PublicKey))
	cross, err := signDigest(signing, digest[:])
	if err != nil {
		return "", err
	}
	const layout = "2006-01-02 15:04:05"
	now := time.Now().UTC()
	text := "dir-key-certificate-version 3\n" +
		"fingerprint " + keyDigestHex(&authority.PublicKey) + "\n" +
		"dir-key-published " + now.Add(-time.Hour).Format(layout) + "\n" +
		"dir-key-expires " + now.AddDate(0, 6, 0).Format(layout) + "\n" +
		"dir-identity-key\n" + publicPEM(authority) +
		"dir-signing-key\n" + publicPEM(signing) +
		"dir-key-crosscert\n" + signatureBlock("ID SIGNATURE", cross) +
		"dir-key-certification\n"
	digest = sha1.Sum([]byte(text))
	signature, err := signDigest(authority, digest[:])
	if err != nil {
		return "", err
	}
	return text + signatureBlock("SIGNATURE", signature), nil
}

// signDigest pads the bare digest, without naming the hash: tor's way.
func signDigest(key *rsa.PrivateKey, digest []byte) ([]byte, error) {
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.Hash(0), digest)
	if err != nil {
		return nil, fmt.Errorf("sign key certificate: %w", err)
	}
	return signature, nil
}

func publicPEM(key *rsa.PrivateKey) string {
	der := x509.MarshalPKCS1PublicKey(&key.PublicKey)
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: der}))
}

func signatureBlock(kind string, signature []byte) string {
	text := base64.StdEncoding.EncodeToString(signature)
	var b strings.Builder
	fmt.Fprintf(&b, "-----BEGIN %s-----\n", kind)
	for len(text) > 0 {
		n := min(64, len(text))
		b.WriteString(text[:n] + "\n")
		text = text[n:]
	}
	fmt.Fprintf(&b, "-----END %s-----\n", kind)
	return b.String()
}

// write puts the keys where a tor with this data directory finds them.
func (k *relayKeys) write(dataDir string) error {
	dir := filepath.Join(dataDir, "keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create key directory: %w", err)
	}
	files := map[string]string{"secret_id_key": privatePEM(k.identity)}
	if k.signing != nil {
		files["authority_signing_key"] = privatePEM(k.signing)
		files["authority_certificate"] = k.certificate
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return fmt.Errorf("write key: %w", err)
		}
	}
	return nil
}

func privatePEM(key *rsa.PrivateKey) string {
	der := x509.MarshalPKCS1PrivateKey(key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: der}))
}

// eachRelay runs fn for all relays at once.
func eachRelay(relays []*relay, fn func(*relay) error) error {
	errs := make([]error, len(relays))
	var wg sync.WaitGroup
	for i, r := range relays {
		wg.Go(func() { errs[i] = fn(r) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
