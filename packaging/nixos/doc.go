// Package nixos holds the test of the NixOS module in this folder.
package nixos
