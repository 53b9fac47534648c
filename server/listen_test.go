package server

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// lockedLog is a log that is read while the node writes it.
type lockedLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestOpenPortIsWarnedOf: a node that other machines reach says that it knows no password; one that only this machine reaches does not.
func TestOpenPortIsWarnedOf(t *testing.T) {
	for listen, warns := range map[string]bool{"127.0.0.1:0": false, "localhost:0": false, "0.0.0.0:0": true, ":0": true} {
		var log lockedLog
		newTestNode(t, Options{Listen: listen, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
		if text := log.String(); strings.Contains(text, "not asked who they are") != warns || strings.Contains(text, "127.0.0.1, or let a firewall") != warns {
			t.Errorf("--listen %s: %q; want a warning: %v", listen, text, warns)
		}
	}
}
