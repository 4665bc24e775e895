package plan

import (
	"cmp"
	"slices"
)

// nearNames returns the names that a slip of the keyboard makes of name,
// closest first: within two edits, and within one for names of up to three letters.
func nearNames(name string, existing []string) []string {
	allowed := 2
	if len(name) <= 3 {
		allowed = 1
	}
	var near []string
	for _, e := range existing {
		if edits(name, e) <= allowed {
			near = append(near, e)
		}
	}
	slices.SortStableFunc(near, func(a, b string) int {
		return cmp.Compare(edits(name, a), edits(name, b))
	})
	return near
}

// edits counts the insertions, deletions and replacements of bytes that lead
// from a to b.
func edits(a, b string) int {
	row := make([]int, len(b)+1) // edits from the part of a read so far to each head of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
