package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/bench/report"
)

// readMachine reads what the figures are true for, but for what the driver knows.
func readMachine() (m report.Machine, err error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, fmt.Errorf("read the kernel's name: %w", err)
	}
	load, err := loadAverage()
	if err != nil {
		return m, err
	}
	clang, err := compiler()
	if err != nil {
		return m, err
	}
	cpu, err := cpuModel()
	return report.Machine{
		CPU: cpu, Cores: runtime.NumCPU(), Kernel: unix.ByteSliceToString(name.Release[:]), Compiler: clang,
		Go: runtime.Version(), NIC: "veth", LoadBefore: load,
	}, err
}

// compiler is the version of the clang that made the committed objects.
func compiler() (string, error) {
	text, err := os.ReadFile("internal/abi/generated.txt")
	if err != nil {
		return "", fmt.Errorf("read which clang made the BPF objects (run this in the repository): %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if version, ok := strings.CutPrefix(line, "clang "); ok {
			return strings.TrimSpace(version), nil
		}
	}
	return "", errors.New("internal/abi/generated.txt names no clang")
}

// cpuModel is what the processor calls itself; some name only their parts.
func cpuModel() (string, error) {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	for _, key := range []string{"model name", "Model", "Hardware", "CPU part"} {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
				return strings.TrimSpace(value), nil
			}
		}
	}
	return runtime.GOARCH, nil
}

// loadAverage is that of the last minute.
func loadAverage() (float64, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) == 0 {
		return 0, errors.New("/proc/loadavg is empty")
	}
	return strconv.ParseFloat(fields[0], 64)
}
