package tor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/textproto"
	"os"
	"strings"
)

// Update makes the running tor work by other options. Clients and circuits
// stay, unless tor must be restarted for what changed (another account,
// program or directory, or an option that tor never changes) or has died. A
// configuration that tor refuses changes nothing. Afterwards the torrc equals
// the running configuration.
func (d *Daemon) Update(ctx context.Context, o Options) (restarted bool, err error) {
	if o.Dir != d.dir {
		return false, fmt.Errorf("update tor: its state is in %s, not in %s", d.dir, o.Dir)
	}
	if !d.Alive() {
		return true, d.restart(ctx, o)
	}
	if err := o.check(); err != nil {
		return false, err
	}
	acct, err := LookupAccount()
	if err != nil {
		return false, err
	}
	binary, err := findBinary(o.Binary)
	if err != nil {
		return false, err
	}
	if err := o.makeDataDir(acct); err != nil {
		return false, err
	}
	// A torrc that was prepared and not adopted: tor may run with it already.
	_, err = os.Lstat(o.nextPath())
	unsure := err == nil
	text, err := o.prepare(ctx, binary, acct)
	if err != nil {
		return false, errors.Join(err, o.dropNext())
	}
	if d.rec.User != acct.Name || d.rec.Binary != binary || d.rec.DataDir != o.DataDir {
		return true, d.restart(ctx, o)
	}
	return d.change(ctx, o, text, unsure)
}

// change brings the running tor from the torrc it has to text, which is
// prepared. unsure: it may run with text already, or with something between.
func (d *Daemon) change(ctx context.Context, o Options, text string, unsure bool) (restarted bool, err error) {
	running, err := os.ReadFile(o.torrcPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read tor's configuration: %w", err)
	}
	if !unsure && string(running) == text {
		return false, o.dropNext()
	}
	err = d.load(ctx, text)
	if isTransition(err) {
		return true, d.restart(ctx, o)
	}
	if err != nil {
		return false, fmt.Errorf("update tor: %w", d.undoLoad(ctx, o, string(running), err))
	}
	return false, o.adopt()
}

// load gives tor a configuration over the control port. On an error tor goes
// on with the old one, where after a signal to reload it would exit.
func (d *Daemon) load(ctx context.Context, text string) error {
	c, err := d.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.loadConf(ctx, text)
}

// isTransition says whether tor refused because only a restart can change an
// option ("553 Transition not allowed").
func isTransition(err error) bool {
	var reply *textproto.Error
	return errors.As(err, &reply) && strings.Contains(reply.Msg, "Transition not allowed")
}

// undoLoad completes a configuration that tor has refused: if one port of the
// new one is taken, tor keeps the old one but has closed its ports. If there
// was no reply, tor may yet obey, so the prepared torrc stays for the next
// Update to see that nothing is sure.
func (d *Daemon) undoLoad(ctx context.Context, o Options, running string, cause error) error {
	var reply *textproto.Error
	if !errors.As(cause, &reply) {
		return cause
	}
	if strings.Contains(reply.Msg, "Failed to bind") {
		cause = d.explainPort(o, cause)
	}
	if running == "" {
		return errors.Join(cause, fmt.Errorf("return to tor's former configuration: %s is gone; stop and start tor", o.torrcPath()))
	}
	if err := d.load(ctx, running); err != nil {
		return errors.Join(cause, fmt.Errorf("return to tor's former configuration: %w; stop and start it", err))
	}
	return errors.Join(cause, o.dropNext())
}

// explainPort adds which port is taken; that is only in tor's log.
func (d *Daemon) explainPort(o Options, err error) error {
	text, logErr := tail(logPath(d.dir))
	if logErr != nil {
		return errors.Join(err, logErr)
	}
	return o.explainBind(fmt.Errorf("%w; tor's log: %s", err, reason(text)))
}

func (d *Daemon) restart(ctx context.Context, o Options) error {
	if err := d.Stop(ctx); err != nil {
		return err
	}
	fresh, err := Start(ctx, o)
	if err != nil {
		return err
	}
	*d = *fresh
	return nil
}

func (o Options) dropNext() error {
	if err := os.Remove(o.nextPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a torrc that is not used: %w", err)
	}
	return nil
}
