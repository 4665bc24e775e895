package config

import (
	"errors"
	"os"
	"path/filepath"
)

// ReplaceFile replaces a file of root's, so that a reader finds the old one or the new one
// whole, and so does a boot after the power has failed: an empty file would be read as one
// without rules.
func ReplaceFile(path string, text []byte) error {
	aside := path + ".new"
	if err := writeSynced(aside, text); err != nil {
		return err
	}
	if err := os.Rename(aside, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// RemoveFile removes a file for good; one that is not there is no error.
func RemoveFile(path string) error {
	err := os.Remove(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// syncFolder has what was renamed or removed in a folder outlive the power.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
