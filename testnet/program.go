package testnet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// ProgramDir makes a temporary folder for BuildProgram that everyone may enter,
// since torbpf's unprivileged parts run from it. The caller removes it.
func ProgramDir() (string, error) {
	dir, err := os.MkdirTemp("", "torbpf-built-")
	if err != nil {
		return "", fmt.Errorf("make a folder for torbpf: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", errors.Join(fmt.Errorf("open the folder of torbpf: %w", err), os.RemoveAll(dir))
	}
	return dir, nil
}

// builtVariable names a torbpf that is there already, where tests run without Go, as in a
// virtual machine (package kernels).
const builtVariable = "TORBPF_TEST_PROGRAM"

// BuildProgram builds torbpf without cgo, with these flags of go build, at path,
// for everyone to run.
func BuildProgram(path string, flags ...string) error {
	if built := os.Getenv(builtVariable); built != "" && len(flags) == 0 {
		text, err := os.ReadFile(built)
		if err != nil {
			return fmt.Errorf("take the torbpf that %s names: %w", builtVariable, err)
		}
		return os.WriteFile(path, text, 0o755)
	}
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", path, "github.com/torbpf/torbpf/cmd/torbpf")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build torbpf: %w: %s", err, out)
	}
	return os.Chmod(path, 0o755)
}

// slowVariable says by how much a machine is slower than those that durations are meant for,
// such as an emulated one (package kernels).
const slowVariable = "TORBPF_TEST_SLOW"

// Patience is how long a test waits for what takes at most d elsewhere.
func Patience(d time.Duration) time.Duration {
	text := os.Getenv(slowVariable)
	if text == "" {
		return d
	}
	factor, err := strconv.Atoi(text)
	if err != nil || factor < 1 {
		panic(slowVariable + " is a number, not " + text)
	}
	return time.Duration(factor) * d
}
