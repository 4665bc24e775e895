package tor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Consensus is for which time the list of relays is that tor works by; zero for none.
type Consensus struct{ ValidAfter, ValidUntil time.Time }

// Consensus asks tor; of one that has none yet the times are zero.
func (c *Control) Consensus(ctx context.Context) (Consensus, error) {
	var out Consensus
	for key, to := range map[string]*time.Time{"consensus/valid-after": &out.ValidAfter, "consensus/valid-until": &out.ValidUntil} {
		value, err := c.GetInfo(ctx, key)
		var says *textproto.Error
		if errors.As(err, &says) {
			return Consensus{}, nil // that it has none
		}
		if err != nil {
			return Consensus{}, err
		}
		if *to, err = time.Parse(time.DateTime, strings.Trim(value, `"`)); err != nil {
			return Consensus{}, fmt.Errorf("read the time of tor's consensus: %w", err)
		}
	}
	return out, nil
}

// consensusHead is more than what stands before the times in it, in lines.
const consensusHead = 20

// CachedConsensus reads the one that tor has kept below a data directory.
func CachedConsensus(dataDir string) (Consensus, error) {
	// tor's account could have replaced it, see tail.
	f, err := os.OpenFile(filepath.Join(dataDir, "cached-microdesc-consensus"), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return Consensus{}, nil
	}
	if err != nil {
		return Consensus{}, fmt.Errorf("read the consensus that tor has kept: %w", err)
	}
	defer f.Close()
	var out Consensus
	lines := bufio.NewScanner(f)
	for n := 0; n < consensusHead && lines.Scan(); n++ {
		key, value, _ := strings.Cut(lines.Text(), " ")
		at, err := time.Parse(time.DateTime, value)
		switch {
		case err != nil:
		case key == "valid-after":
			out.ValidAfter = at
		case key == "valid-until":
			out.ValidUntil = at
		}
	}
	return out, nil
}
