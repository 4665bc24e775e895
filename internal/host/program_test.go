package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNoProgramSaysWhy(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, want := range map[string]string{
		file("elf", "\x7fELF", 0o755):             "",
		file("empty", "", 0o755):                  "",
		file("script", "#!/bin/sh\n", 0o755):      "is a script",
		file("text", "#!/bin/sh\n", 0o644):        "is no executable file",
		filepath.Join(dir, "nowhere"):             "is not there now",
		filepath.Join(dir, "elf", "below-a-file"): "is not there now",
		dir:         "is a directory",
		"/dev/null": "is no executable file",
	} {
		if got := NoProgram(path); (got == "") != (want == "") || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
