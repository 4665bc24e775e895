// Package packaging holds the tests of what this folder has: packages for the distributions,
// their scripts, and those of service managers. None of it is Go.
package packaging
