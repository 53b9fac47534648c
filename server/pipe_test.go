package server

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/engine"
)

func TestPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPipe()
		want := bytes.Repeat([]byte("0123456789"), pipeBytes/3) // more than the buffer holds
		go func() {
			for rest := want; len(rest) > 0; {
				n, err := a.Write(rest[:min(len(rest), 70_001)])
				if err != nil {
					t.Error(err)
				}
				rest = rest[n:]
			}
			_ = a.Close()
		}()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes of %d, err %v", len(got), len(want), err)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("write to the closed side: %v", err)
		}
	})
}

func TestPipeDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPipe()
		start := time.Now()
		_ = a.SetReadDeadline(start.Add(time.Second))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("read: %v after %v", err, time.Since(start))
		}
		_ = a.SetDeadline(time.Time{})
		_ = b.SetWriteDeadline(start.Add(2 * time.Second))
		n, err := b.Write(make([]byte, pipeBytes+1))
		if n != pipeBytes || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 2*time.Second {
			t.Errorf("write: %d, %v after %v", n, err, time.Since(start))
		}
		_, _ = a.Close(), b.Close()
	})
}

func TestPipeListenerClose(t *testing.T) {
	l := newPipeListener(engine.NewWatch(nil))
	_ = l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	if _, err := l.dial(t.Context(), "", ""); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial: %v", err)
	}
}
