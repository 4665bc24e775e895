package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/testnet/vm"
)

// reporter sends events, one at a time.
type reporter struct {
	mu     sync.Mutex
	events *json.Encoder
}

func (r *reporter) send(e vm.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events.Encode(e)
}

// run runs a job to its end, and ends whatever it has left running.
func run(number int, job vm.Job, report *reporter) error {
	dir := job.Dir
	if dir == "" {
		dir = "/"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	nothing, err := os.Open("/dev/null")
	if err != nil {
		return err
	}
	defer nothing.Close()
	output, input, err := os.Pipe()
	if err != nil {
		return err
	}
	defer output.Close()
	env := append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"}, job.Env...)
	process, err := os.StartProcess(job.Args[0], job.Args, &os.ProcAttr{Dir: dir, Env: env, Files: []*os.File{nothing, input, input}})
	input.Close()
	if err != nil {
		return err
	}
	var late atomic.Bool
	if job.Timeout > 0 {
		timer := time.AfterFunc(job.Timeout, func() {
			late.Store(true)
			_ = process.Kill()
		})
		defer timer.Stop()
	}
	ended := make(chan int, 1)
	go func() {
		code := reap(process.Pid)
		_ = unix.Kill(-1, unix.SIGKILL) // all but the first process, which this is; before the next job
		ended <- code
	}()
	if err := relay(output, number, report); err != nil {
		return err
	}
	return report.send(vm.Event{Job: number, Ended: true, Code: <-ended, Late: late.Load(), Uptime: uptime()})
}

// reap waits for a process, and buries those whose parents have died, until it has ended.
func reap(pid int) (code int) {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) || err == nil && got != pid {
			continue
		}
		if err != nil {
			return 255
		}
		if status.Signaled() {
			return 128 + int(status.Signal())
		}
		return status.ExitStatus()
	}
}

// relay sends what a job prints until nobody can print any more.
func relay(from io.Reader, number int, report *reporter) error {
	piece := make([]byte, 1<<14)
	for {
		n, err := from.Read(piece)
		if n > 0 {
			if err := report.send(vm.Event{Job: number, Output: piece[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// sendFiles sends what is in /out as an archive.
func sendFiles(report *reporter) error {
	archive := tar.NewWriter(writer(func(piece []byte) error { return report.send(vm.Event{Files: piece}) }))
	err := filepath.WalkDir("/out", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel("/out", path)
		if err != nil {
			return err
		}
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: time.Now()}); err != nil {
			return err
		}
		_, err = archive.Write(data)
		return err
	})
	return errors.Join(err, archive.Close())
}

// writer makes a function an io.Writer.
type writer func([]byte) error

func (w writer) Write(data []byte) (int, error) {
	for piece := range slices.Chunk(data, 1<<14) {
		if err := w(piece); err != nil {
			return 0, err
		}
	}
	return len(data), nil
}
