package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
)

// digestArgs is the payload of a demo job: a file, relative to the root that the worker was given.
type digestArgs struct {
	Path string `json:"path"`
}

// Kind implements beaver.Args.
func (digestArgs) Kind() string { return demoKind }

// digestResult is the result of a demo job.
type digestResult struct {
	SHA256    string `json:"sha256"`
	Bytes     int64  `json:"bytes"`
	GzipBytes int64  `json:"gzip_bytes"`
}

// digest compresses a file and takes its SHA-256.
func digest(root, path string) (digestResult, error) {
	if !filepath.IsLocal(path) {
		return digestResult{}, beaver.Permanent(fmt.Errorf("the path %q leads out of the root", path))
	}
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return digestResult{}, err
	}
	var compressed countingWriter
	zip := gzip.NewWriter(&compressed)
	if _, err := zip.Write(content); err != nil {
		return digestResult{}, err
	}
	if err := zip.Close(); err != nil {
		return digestResult{}, err
	}
	sum := sha256.Sum256(content)
	return digestResult{SHA256: hex.EncodeToString(sum[:]), Bytes: int64(len(content)), GzipBytes: compressed.bytes}, nil
}

type countingWriter struct{ bytes int64 }

func (w *countingWriter) Write(p []byte) (int, error) {
	w.bytes += int64(len(p))
	return len(p), nil
}

// newDemoDigestCommand makes the command that `beaver work` runs for a demo job: payload on stdin, result on stdout.
func newDemoDigestCommand() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:    "digest",
		Short:  "Do one demo job: the payload comes on stdin, the result goes to stdout",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var args digestArgs
			if err := json.NewDecoder(cmd.InOrStdin()).Decode(&args); err != nil {
				return fmt.Errorf("payload: %w", err)
			}
			result, err := digest(root, args.Path)
			if err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(result)
		},
	}
	cmd.Flags().StringVar(&root, "root", ".", "directory of the files")
	return cmd
}

// goSourceRoot finds the source of the Go toolchain.
func goSourceRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", errors.New("no Go toolchain is at hand whose source could be the input; name a directory with --root")
	}
	return filepath.EvalSymlinks(filepath.Join(strings.TrimSpace(string(out)), "src"))
}

// listFiles returns the regular files below root, at most limit of them if limit is not 0, in lexical order.
func listFiles(root string, limit int) ([]string, error) {
	var files []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case limit > 0 && len(files) == limit:
			return fs.SkipAll
		case !entry.Type().IsRegular():
			return nil
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		files = append(files, relative)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the files below %s: %w", root, err)
	}
	return files, nil
}

// demoVerdict is what the check found.
type demoVerdict struct {
	lost, wrong, duplicates int
	reruns                  []*beaver.JobInfo // jobs that needed more than one attempt
	bytes                   int64
}

// checkResults reads all completed jobs of the queues and computes every result anew.
func checkResults(ctx context.Context, client *beaver.Client, root string, files, queues []string) (demoVerdict, error) {
	var v demoVerdict
	results := make(map[string]digestResult, len(files))
	for _, queue := range queues {
		filter := beaver.JobFilter{Queue: queue, State: beaver.StateCompleted, Full: true}
		for job, err := range client.Jobs(ctx, filter) {
			if err != nil {
				return v, fmt.Errorf("list the completed jobs: %w", err)
			}
			var args digestArgs
			var result digestResult
			if err := json.Unmarshal(job.Payload, &args); err != nil {
				return v, fmt.Errorf("payload of job %s: %w", job.ID, err)
			}
			if err := json.Unmarshal(job.Result, &result); err != nil {
				return v, fmt.Errorf("result of job %s: %w", job.ID, err)
			}
			if _, ok := results[args.Path]; ok {
				v.duplicates++
			}
			if job.Attempt > 1 {
				v.reruns = append(v.reruns, job)
			}
			results[args.Path] = result
		}
	}
	for _, path := range files {
		if result, ok := results[path]; ok {
			v.bytes += result.Bytes
		} else {
			v.lost++
		}
	}
	wrong, err := countWrong(root, files, results)
	v.wrong = wrong
	return v, err
}

// countWrong recomputes the results, on all cores. It streams each file through hash and compressor, unlike the workers.
func countWrong(root string, files []string, results map[string]digestResult) (int, error) {
	var (
		wrong, next atomic.Int64
		wg          sync.WaitGroup
		mu          sync.Mutex
		failed      error
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(files)); i = next.Add(1) - 1 {
				result, ok := results[files[i]]
				if !ok {
					continue
				}
				expected, err := recompute(filepath.Join(root, files[i]))
				if err != nil {
					mu.Lock()
					failed = errors.Join(failed, err)
					mu.Unlock()
					return
				}
				if expected != result {
					wrong.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return int(wrong.Load()), failed
}

func recompute(name string) (digestResult, error) {
	f, err := os.Open(name)
	if err != nil {
		return digestResult{}, err
	}
	defer func() { _ = f.Close() }() // only read
	var compressed bytes.Buffer
	hash, zip := sha256.New(), gzip.NewWriter(&compressed)
	n, err := io.Copy(io.MultiWriter(hash, zip), f)
	if err != nil {
		return digestResult{}, err
	}
	if err := zip.Close(); err != nil {
		return digestResult{}, err
	}
	return digestResult{SHA256: hex.EncodeToString(hash.Sum(nil)), Bytes: n, GzipBytes: int64(compressed.Len())}, nil
}
