package users

import (
	"os/user"
	"testing"
)

func TestAnAccountHasNumbersThatTheKernelTakes(t *testing.T) {
	for numbers, good := range map[[2]string]bool{
		{"0", "0"}: true, {"1000", "4294967294"}: true,
		{"4294967295", "1"}: false, {"1", "4294967295"}: false, {"-1", "1"}: false, {"x", "1"}: false, {"4294967296", "1"}: false, {"1", ""}: false,
	} {
		a, err := Of(&user.User{Username: "somebody", Uid: numbers[0], Gid: numbers[1]})
		if (err == nil) != good || good && a.Name != "somebody" {
			t.Errorf("%v: %+v, %v", numbers, a, err)
		}
	}
}
