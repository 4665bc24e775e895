package redact

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write words.txt anew")

// saidWords are the words of the texts in the source of what writes logs.
func saidWords(t *testing.T) []string {
	t.Helper()
	words := make(map[string]bool)
	for _, folder := range []string{"../../internal", "../../loader", "../../nft", "../../tor"} {
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && slices.Contains([]string{"e2e", "leaktest", "manual", "redact", "top"}, d.Name()):
				return fs.SkipDir // no logs come from there
			case filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					if text, err := strconv.Unquote(literal.Value); err == nil {
						for _, w := range telltale.FindAllString(text, -1) {
							words[lower(w)] = true
						}
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return slices.Sorted(maps.Keys(words))
}

// TestLogsCanBeRead: of the words that logs have, nearly all are known. One that is not yet is
// hidden, and no harm.
func TestLogsCanBeRead(t *testing.T) {
	said := saidWords(t)
	if *update {
		if err := os.WriteFile("words.txt", []byte(strings.Join(said, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	var missing []string
	for _, w := range said {
		if !plainWords[w] {
			missing = append(missing, w)
		}
	}
	if len(missing)*50 > len(said) {
		t.Errorf("%d of %d words that logs may have would be hidden (go test ./internal/redact -update): %v", len(missing), len(said), missing)
	}
}
