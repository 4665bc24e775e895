package nft

import (
	"fmt"

	"github.com/google/nftables"
)

// Flowtables names the flowtables of all tables: "TABLE NAME".
func Flowtables() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	var names []string
	_, err = readUnchanged(conn, func() error {
		names = nil
		tables, err := conn.ListTables()
		if err != nil {
			return fmt.Errorf("list tables: %w", err)
		}
		for _, t := range tables {
			flowtables, err := conn.ListFlowtables(t)
			if err != nil {
				return fmt.Errorf("list flowtables of %s: %w", t.Name, err)
			}
			for _, f := range flowtables {
				names = append(names, t.Name+" "+f.Name)
			}
		}
		return nil
	})
	return names, err
}
