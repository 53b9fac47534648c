package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver/internal/vfs"
)

const (
	pagesCount = 1000
	pageBytes  = 4 << 10
)

// pages is a preallocated file of which one page after the other is written and synced, again and again: what no durable answer is faster than.
type pages struct {
	disk vfs.FS
	name string
	file vfs.File
	next int64
	page [pageBytes]byte
}

func newPages(name string) (*pages, error) {
	p := &pages{disk: vfs.OS(), name: name}
	var err error
	if p.file, err = p.disk.Create(name); err != nil {
		return nil, err
	}
	if err := p.file.Preallocate(pagesCount * pageBytes); err != nil {
		return nil, errors.Join(err, p.remove())
	}
	return p, nil
}

// sync writes and syncs the next page, and returns from when to when that took.
func (p *pages) sync() (s span, err error) {
	s.from = time.Now()
	if _, err := p.file.WriteAt(p.page[:], p.next*pageBytes); err != nil {
		return s, err
	}
	if err := p.file.SyncData(); err != nil {
		return s, err
	}
	s.to = time.Now()
	p.next = (p.next + 1) % pagesCount
	return s, nil
}

func (p *pages) remove() error { return errors.Join(p.file.Close(), p.disk.Remove(p.name)) }

// measureSync returns the median time of a 4 KiB write and fdatasync in a preallocated file of dir. Between two of them it
// rests for the given time: a disk and a processor that are asleep when a job comes take longer than those kept busy.
func measureSync(ctx context.Context, dir string, rest time.Duration) (_ time.Duration, err error) {
	pages, err := newPages(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, pages.remove()) }()
	durations := make([]time.Duration, pagesCount)
	for i := range durations {
		if rest > 0 {
			if err := pause(ctx, rest); err != nil {
				return 0, err
			}
		}
		s, err := pages.sync()
		if err != nil {
			return 0, err
		}
		durations[i] = s.length()
	}
	return quantile(durations, 0.5), nil
}

// newBenchEchoCommand is the other end of measureRoundTrip, in a process of its own.
func newBenchEchoCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "echo",
		Short:  "Answer each message of one connection (used by beaver bench)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			defer func() { _ = l.Close() }() // one connection is all
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), l.Addr()); err != nil {
				return err
			}
			conn, err := l.Accept()
			if err != nil {
				return err
			}
			return errors.Join(echo(conn), conn.Close())
		},
	}
}

const echoBytes = 1024

// echo sends every message of echoBytes back until the other end closes.
func echo(conn net.Conn) error {
	message := make([]byte, echoBytes)
	for {
		if _, err := io.ReadFull(conn, message); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := conn.Write(message); err != nil {
			return err
		}
	}
}

// measureRoundTrip returns the median time in which 1 KiB goes over loopback to another Go process and back: with the disk's
// sync, what no durable call can be faster than. Between two trips both rest for the given time, in which a processor may fall
// asleep: waking it is a large part of what a lone message costs on a virtual machine.
func measureRoundTrip(ctx context.Context, rest time.Duration) (_ time.Duration, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find our own binary: %w", err)
	}
	cmd := exec.CommandContext(ctx, exe, "bench", "echo")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the echo process: %w", err)
	}
	defer func() { err = errors.Join(err, cmd.Wait()) }()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return 0, errors.Join(fmt.Errorf("start the echo process: %w", err), cmd.Process.Kill())
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimSpace(addr))
	if err != nil {
		return 0, errors.Join(err, cmd.Process.Kill())
	}
	defer func() { err = errors.Join(err, conn.Close()) }() // which ends the other process
	durations := make([]time.Duration, 500)
	message := make([]byte, echoBytes)
	for i := range durations {
		if rest > 0 {
			if err := pause(ctx, rest); err != nil {
				return 0, err
			}
		}
		began := time.Now()
		if _, err := conn.Write(message); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(conn, message); err != nil {
			return 0, err
		}
		durations[i] = time.Since(began)
	}
	return quantile(durations, 0.5), nil
}
