package cell

import (
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/torbpf/torbpf/internal/users"
)

// account is whom a program runs as; the zero value is whoever calls.
type account struct {
	users.Account
	Other  bool // than the caller, perhaps
	Groups []int
	Home   string // "" if nobody knows
}

// findAccount returns the account of a name or number, or, without one, of the user who
// called sudo.
func findAccount(name string, getenv func(string) string) (account, error) {
	if name == "" {
		return sudoAccount(getenv)
	}
	lookup := user.Lookup
	if _, err := strconv.ParseUint(name, 10, 31); err == nil {
		lookup = user.LookupId
	}
	found, err := lookup(name)
	if err != nil {
		return account{}, fmt.Errorf("find --user %s: %w; getent passwd lists them", name, err)
	}
	return accountOf(found)
}

// sudoAccount trusts sudo's variables: only root gets here, who may be whoever it likes.
func sudoAccount(getenv func(string) string) (account, error) {
	uid, gid := getenv("SUDO_UID"), getenv("SUDO_GID")
	if uid == "" || gid == "" {
		return account{}, nil
	}
	found, err := user.LookupId(uid)
	if errors.As(err, new(user.UnknownUserIdError)) {
		// Known to sudo by another way than /etc/passwd, such as LDAP.
		return accountOf(&user.User{Uid: uid, Gid: gid, Username: getenv("SUDO_USER")})
	}
	if err != nil {
		return account{}, fmt.Errorf("find the user who called sudo: %w; name one with --user", err)
	}
	found.Gid = gid
	return accountOf(found)
}

func accountOf(u *user.User) (account, error) {
	numbers, err := users.Of(u)
	if err != nil {
		return account{}, err
	}
	a := account{Account: numbers, Other: true, Home: u.HomeDir}
	names, err := u.GroupIds()
	if err != nil {
		names = nil // an account that /etc/passwd does not have
	}
	for _, name := range append(names, u.Gid) {
		group, err := strconv.Atoi(name)
		if err != nil {
			return account{}, fmt.Errorf("read the groups of user %s: %w", u.Username, err)
		}
		if !slices.Contains(a.Groups, group) {
			a.Groups = append(a.Groups, group)
		}
	}
	return a, nil
}

// environment is the caller's, with the variables that say who one is.
func (a account) environment(of []string) []string {
	if !a.Other {
		return of
	}
	own := map[string]string{"HOME": a.Home, "USER": a.Name, "LOGNAME": a.Name}
	var env []string
	for _, variable := range of {
		name, _, _ := strings.Cut(variable, "=")
		if _, ours := own[name]; !ours {
			env = append(env, variable)
		}
	}
	for name, value := range own {
		if value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// proxies are the variables by which programs are told of proxies, in either case. One of
// this machine may lead past Tor.
var proxies = []string{"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "socks_proxy", "no_proxy"}

func withoutProxies(env []string) []string {
	return slices.DeleteFunc(env, func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(proxies, strings.ToLower(name))
	})
}
