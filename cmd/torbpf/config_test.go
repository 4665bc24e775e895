package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/internal/config"
)

func TestWhatAConfigurationPutsOnTor(t *testing.T) {
	cfg := config.Config{Interfaces: []string{"eth1"}}
	if got := onTor(cfg); !slices.Equal(got, []string{"eth1"}) {
		t.Error(got)
	}
	cfg.Client.Enable = true
	if got := onTor(cfg); !slices.Equal(got, []string{"eth1", "this machine"}) {
		t.Error(got)
	}
}

func TestAFileWithoutAFlagIsAnswered(t *testing.T) {
	if err := noArgs(newCheckConfig(), []string{"torbpf.toml"}); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Error(err)
	}
	if err := noArgs(newStatus(), []string{"eth1"}); err == nil || strings.Contains(err.Error(), "--config") {
		t.Error(err)
	}
}
