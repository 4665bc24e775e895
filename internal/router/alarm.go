package router

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/torbpf/torbpf/loader"
)

// Alarm is a packet that one of the last guards stopped, as it was to be forwarded, at an
// uplink or at local delivery: the layers before it did not hold, or were bypassed.
type Alarm struct {
	Time      time.Time `json:"time"`
	Interface string    `json:"interface"` // where the guard is; of what was to be forwarded, where it came in
	Reason    string    `json:"reason"`    // which guard, see docs/REASONS.md
	Protocol  uint8     `json:"protocol"`
	Src       string    `json:"src"` // as it left: at an uplink, masqueraded
	Dst       string    `json:"dst"`
	Length    int       `json:"length"`
}

// alarmsMax bounds the file of alarms, in bytes. The first ones tell what began it.
const alarmsMax = 256 << 10

func (r *Router) alarmsPath() string { return filepath.Join(r.dir, "alarms.jsonl") }

// refusalPoll is how often it is looked whether the ring buffer is still the one
// that is written to.
const refusalPoll = time.Second

// WatchAlarms reads what the programs report until ctx ends, and keeps the alarms
// in a file for root alone: their headers say whom a device wanted. told gets each.
func (r *Router) WatchAlarms(ctx context.Context, told func(Alarm)) error {
	for ctx.Err() == nil {
		if err := r.readAttached(ctx, told); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(refusalPoll): // nothing is attached, or it has just been replaced
		}
	}
	return nil
}

// readAttached reads as long as the programs write to the ring buffer that is there;
// there is none, and nothing to mount, while nothing is attached.
func (r *Router) readAttached(ctx context.Context, told func(Alarm)) error {
	if s, err := r.loadState(); err != nil || s == nil || s.Blocked {
		return nil // an unreadable state is Mend's to tell of
	}
	d, err := r.datapath(false)
	if err != nil {
		return err
	}
	watchers, err := r.openAudience() // before the lock: who reads in our place makes room
	if err != nil {
		r.notify(fmt.Sprintf("warning: nobody can watch refusals: %v", err))
	}
	defer watchers.close()
	lock := r.awaitRefusals(ctx)
	defer lock.Close() // without one alarms are read all the same
	reader, err := d.Refusals()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.readAlarms(ctx, reader, watchers, told)
}

func (r *Router) readAlarms(ctx context.Context, reader *loader.Refusals, watchers *audience, told func(Alarm)) error {
	defer reader.Close()
	checked := time.Now()
	for ctx.Err() == nil {
		refusal, ok, err := reader.Next(refusalPoll)
		if err != nil {
			return err
		}
		if ok {
			watchers.tell(refusal)
			r.keepIfAlarm(refusal, told)
		}
		if time.Since(checked) < refusalPoll {
			continue
		}
		checked = time.Now()
		if !reader.Current() {
			return nil
		}
	}
	return nil
}

// keepIfAlarm tells of a refusal and keeps it, if it is one of the last guards.
func (r *Router) keepIfAlarm(f loader.Refusal, told func(Alarm)) {
	if !slices.Contains(lastGuards, f.Reason) {
		return
	}
	alarm := r.alarm(f)
	told(alarm)
	if err := r.keepAlarm(alarm); err != nil {
		r.notify(fmt.Sprintf("warning: an alarm could not be kept: %v", err))
	}
}

func (r *Router) alarm(f loader.Refusal) Alarm {
	a := Alarm{
		Time: f.Time, Reason: f.Reason.String(), Protocol: f.Protocol,
		Src: f.Src.String(), Dst: f.Dst.String(), Length: f.Length,
	}
	if link, err := net.InterfaceByIndex(f.Ifindex); err == nil {
		a.Interface = link.Name
	}
	return a
}

func (r *Router) keepAlarm(a Alarm) error {
	line, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode alarm: %w", err)
	}
	f, err := os.OpenFile(r.alarmsPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil // detached meanwhile, with all that was there
	}
	if err != nil {
		return fmt.Errorf("keep alarm: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > alarmsMax {
		return err
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("keep alarm: %w", err)
	}
	return nil
}

// forgetAlarms is what attach does about alarms: whoever runs it has seen them.
func (r *Router) forgetAlarms() error {
	if err := os.Remove(r.alarmsPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget alarms: %w", err)
	}
	return nil
}

// Alarms returns the alarms that were kept since attach, the oldest first.
func (r *Router) Alarms() ([]Alarm, error) {
	f, err := os.Open(r.alarmsPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read alarms: %w", err)
	}
	defer f.Close()
	var alarms []Alarm
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var a Alarm
		if json.Unmarshal(lines.Bytes(), &a) == nil { // else a disk was full in the middle of a line
			alarms = append(alarms, a)
		}
	}
	return alarms, lines.Err()
}
