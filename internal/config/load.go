package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// DropIns returns the folder whose files, named *.toml, are read after a configuration
// file, in the order of their names: torbpf.d beside torbpf.toml.
func DropIns(path string) string { return strings.TrimSuffix(path, ".toml") + ".d" }

// savedName is sorted behind all that people call their own.
const savedName = "zz-saved.toml"

// SavedFile returns the drop-in in which commands save rules. It is read last, and what it
// says of an entry counts.
func SavedFile(path string) string { return filepath.Join(DropIns(path), savedName) }

// source is a file's text; name is its path, "" for a text without a file.
type source struct {
	name string
	text []byte
}

// isSaved tells whether it is what commands have saved.
func (s source) isSaved() bool { return filepath.Base(s.name) == savedName }

// at names a line of a source.
func (s source) at(line int) string {
	if s.name == "" {
		return fmt.Sprintf("line %d", line)
	}
	return fmt.Sprintf("%s:%d", s.name, line)
}

// Load reads a configuration file and its drop-ins. What they do not mention is as in
// Default; what torbpf does not know is an error, as is all that Validate refuses, and
// the page for a LAN without a password. Its interfaces are waited for. Errors name the file
// and, where one line is at fault, that line; they wrap ErrInvalid, or os.ErrNotExist for a
// file that is not there. Drop-ins alone are no configuration.
func Load(path string) (Config, error) {
	return load(path, func(c Config) error { return errors.Join(c.complete(), c.Web.locked()) })
}

// LoadPart is Load for who needs a part of it alone, such as what is said of tor: nothing has
// to be put on Tor by it.
func LoadPart(path string) (Config, error) { return load(path, Config.Validate) }

func load(path string, judge func(Config) error) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	sources := []source{{path, text}}
	dropIns, err := readDropIns(DropIns(path))
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	return parse(append(sources, dropIns...), judge)
}

func readDropIns(dir string) ([]source, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var sources []source
	for _, e := range entries {
		if e.IsDir() || filepath.Ext(e.Name()) != ".toml" {
			continue
		}
		path := filepath.Join(dir, e.Name())
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		sources = append(sources, source{path, text})
	}
	return sources, nil
}

// Parse reads a configuration from its text; see Load.
func Parse(text []byte) (Config, error) { return parse([]source{{"", text}}, Config.complete) }

func parse(sources []source, judge func(Config) error) (Config, error) {
	var merged file
	var files []file
	where, keys := make(map[string]string), make(map[string]string)
	for _, s := range sources {
		f, err := s.decode()
		if err != nil {
			return Config{}, err
		}
		if err := s.keys(where); err != nil {
			return Config{}, err
		}
		if s.isSaved() {
			merged.unname(f.Devices)
		}
		files, merged = append(files, f), merged.over(f)
	}
	var rules, saved Rules
	for i, s := range sources { // any of them may name a device of another's rule
		of, err := s.rules(files[i], merged.Devices, keys)
		if err != nil {
			return Config{}, placed(err, where, keys)
		}
		if s.isSaved() {
			saved = of
		} else {
			rules = append(rules, of...)
		}
	}
	cfg, err := merged.config()
	if err == nil {
		cfg.Rules = rules.overridden(saved)
		err = errors.Join(rules.contradictions(), saved.contradictions(), judge(cfg))
		cfg.Rules = cfg.Rules.Stacked()
	}
	return cfg, placed(err, where, keys)
}

// complete judges a configuration as a whole.
func (c Config) complete() error {
	problems := []error{c.Validate()}
	if len(c.Interfaces) == 0 && !c.Client.Enable {
		problems = append(problems, &FieldError{Field: "interfaces", Problem: `is missing or empty: name the interfaces your devices are behind, such as interfaces = ["eth1"], or put this machine itself on Tor, by enable = true below [client]`})
	}
	return errors.Join(problems...)
}

func (s source) decode() (file, error) {
	var f file
	decoder := toml.NewDecoder(bytes.NewReader(s.text)).DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return file{}, s.fileError(err)
	}
	return f, nil
}

// placed says of each setting that cannot be used in which line of which file it is, where
// settings are told by their keys, and of each rule by which key, where those are told by
// their lines.
func placed(err error, where, keys map[string]string) error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		var problems []error
		for _, e := range joined.Unwrap() {
			problems = append(problems, placed(e, where, keys))
		}
		return errors.Join(problems...)
	}
	var field *FieldError
	switch {
	case !errors.As(err, &field):
	case where[field.Field] != "":
		return fmt.Errorf("%s: %w", where[field.Field], err)
	case keys[field.Field] != "":
		return &FieldError{field.Field + ", " + keys[field.Field], field.Problem}
	}
	return err
}

// keys notes where a source has its keys, but for those of rules.
func (s source) keys(where map[string]string) error {
	return s.walk(func(table string, e *unstable.Node, line func(*unstable.Node) int) {
		if e.Kind == unstable.KeyValue && table != "rules" {
			key := e.Key()
			key.Next()
			where[strings.TrimPrefix(table+"."+keyOf(e), ".")] = s.at(line(key.Node()))
		}
	})
}

// walk visits the expressions of a source with the table that each is in.
func (s source) walk(visit func(table string, e *unstable.Node, line func(*unstable.Node) int)) error {
	var table string
	p := unstable.Parser{}
	p.Reset(s.text)
	line := func(n *unstable.Node) int { return p.Shape(n.Raw).Start.Line }
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.Table || e.Kind == unstable.ArrayTable {
			table = keyOf(e)
		}
		visit(table, e, line)
	}
	if err := p.Error(); err != nil {
		return Invalid("%s: %w", s.name, err)
	}
	return nil
}

func keyOf(n *unstable.Node) string {
	var words []string
	for key := n.Key(); key.Next(); {
		words = append(words, string(key.Node().Data))
	}
	return strings.Join(words, ".")
}

// savedHeader begins the file of Save.
const savedHeader = `# Rules and names that commands were told to keep (--save). torbpf rewrites this file; what you
# want to keep for good may as well be moved to torbpf.toml.
`

// Saved is what commands may save.
type Saved struct {
	Rules    Rules
	Devices  map[string]MAC
	Resolver netip.Addr // for excluded names; invalid: as another file has it
}

// SavedRules are the rules that a file of SavedFile holds; none without it.
func SavedRules(path string) (Rules, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read saved rules: %w", err)
	}
	s := source{path, text}
	f, err := s.decode()
	if err != nil {
		return nil, err
	}
	return s.rules(f, f.Devices, map[string]string{})
}

// Save changes what a file of SavedFile holds. With nothing left the file goes.
func Save(path string, edit func(*Saved)) error {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read saved rules: %w", err)
	}
	s := source{path, text}
	f, err := s.decode()
	if err != nil {
		return err
	}
	rules, err := s.rules(f, f.Devices, map[string]string{})
	if err != nil {
		return fmt.Errorf("%w; rules that you write yourself belong into another file, this one is for commands", err)
	}
	saved := Saved{Rules: rules.Stacked(), Devices: f.Devices}
	set(&saved.Resolver, f.Exclusions.Resolver)
	if saved.Devices == nil {
		saved.Devices = make(map[string]MAC)
	}
	edit(&saved)
	if len(saved.Rules.Of(KindDomain)) == 0 {
		saved.Resolver = netip.Addr{}
	}
	if len(saved.Rules)+len(saved.Devices) == 0 {
		if err := RemoveFile(path); err != nil {
			return fmt.Errorf("remove saved rules: %w", err)
		}
		return nil
	}
	out := file{Devices: saved.Devices}
	out.setRules(saved.Rules)
	if saved.Resolver.IsValid() {
		out.Exclusions.Resolver = &saved.Resolver
	}
	written, err := toml.Marshal(out)
	if err != nil {
		return fmt.Errorf("write saved rules: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make configuration directory: %w", err)
	}
	if err := ReplaceFile(path, slices.Concat([]byte(savedHeader), written)); err != nil {
		return fmt.Errorf("write saved rules: %w", err)
	}
	return nil
}
