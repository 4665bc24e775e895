// Package users has what a process of this machine runs as.
package users

import (
	"errors"
	"fmt"
	"math"
	"os/user"
	"strconv"
)

// Account is a user with its first group.
type Account struct {
	Name     string
	UID, GID uint32
}

// Of reads the numbers of a user that was looked up. The last of all is no number: to the
// kernel it says that an account stays as it is.
func Of(u *user.User) (Account, error) {
	uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
	err := errors.Join(uidErr, gidErr)
	if err == nil && (uid == math.MaxUint32 || gid == math.MaxUint32) {
		err = errors.New("one of them is -1")
	}
	if err != nil {
		return Account{}, fmt.Errorf("read the numbers of user %s: %w", u.Username, err)
	}
	return Account{Name: u.Username, UID: uint32(uid), GID: uint32(gid)}, nil
}
