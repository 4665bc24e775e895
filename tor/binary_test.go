package tor

import (
	"strings"
	"testing"
)

// TestAMissingProgramIsNamed, whether it was looked for or given with its path.
func TestAMissingProgramIsNamed(t *testing.T) {
	for _, name := range []string{"nosuchtor", "/nonexistent/tor"} {
		if path, err := findBinary(name); err == nil || !strings.Contains(err.Error(), "there is no program "+name+"; install it") {
			t.Errorf("%s is found at %q: %v", name, path, err)
		}
	}
}
