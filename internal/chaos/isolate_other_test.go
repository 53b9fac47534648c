//go:build !linux

package chaos

import (
	"errors"
	"testing"
)

func isolated() bool { return false }

func isolate(*testing.T, ...string) bool { return false }

func mountSmallDisk(string, int64) error { return errors.ErrUnsupported }

func furnish() error { return errors.ErrUnsupported }

func fill(string, int64) error { return errors.ErrUnsupported }

func newFabric(*weather, uint64) (network, error) { return nil, errors.ErrUnsupported }
