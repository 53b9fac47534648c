package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"time"
)

// profiled runs a scenario, and has load and servers profiled for as long as it is measured, into files of --profile-dir.
func (b *benchRun) profiled(ctx context.Context, s benchScenario) ([]benchRow, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	profiles := map[string]func(context.Context, io.Writer) error{"load": b.profileLoad}
	for i, p := range b.servers() {
		profiles[fmt.Sprintf("server-%d", i+1)] = func(ctx context.Context, out io.Writer) error { return b.profileServer(ctx, p, out) }
	}
	ended := make(chan error, len(profiles))
	for who, profile := range profiles {
		name := filepath.Join(b.profileDir, fmt.Sprintf("%s-of-%d-%s.pprof", strings.ReplaceAll(spreadName(s.name, b.spreadOver), "/", "-by-"), b.nodes, who))
		go func() {
			ended <- writeProfile(name, func(out io.Writer) error {
				if err := pause(ctx, benchWarmUp); err != nil {
					return err
				}
				return profile(ctx, out)
			})
		}()
	}
	rows, err := s.run(ctx, b)
	if err != nil {
		cancel()
	}
	for range profiles {
		err = errors.Join(err, <-ended)
	}
	return rows, err
}

// profileLoad profiles this process.
func (b *benchRun) profileLoad(ctx context.Context, out io.Writer) error {
	if err := pprof.StartCPUProfile(out); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return pause(ctx, time.Duration(b.seconds)*time.Second)
}

// profileServer asks a server for its profile, which it makes when it was started with --pprof.
func (b *benchRun) profileServer(ctx context.Context, p *serverProcess, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", p.url(), b.seconds), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s", res.Status)
	}
	_, err = io.Copy(out, res.Body)
	return err
}

// writeProfile makes a file of what write writes.
func writeProfile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return fmt.Errorf("profile %s: %w", filepath.Base(name), err)
	}
	return nil
}
