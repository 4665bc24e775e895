//go:build !race

package sentry

// raceDetector says that memory is not to be measured.
const raceDetector = false
