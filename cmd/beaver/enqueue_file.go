package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/beaver-raft/beaver"
)

const (
	// lineBytesMax bounds a line of a file of jobs: a payload of 1 MiB in base64 or with escapes, and more.
	lineBytesMax = 8 << 20
	// fileBatch is how many lines are stored at a time.
	fileBatch = 1000
	// progressEvery is how often the progress is printed.
	progressEvery = time.Second
)

// fileRun is the storing of a file of jobs.
type fileRun struct {
	app      *app
	client   *beaver.Client
	base     *beaver.Job
	ids      bool
	jobs     []beaver.Job
	lines    []int // of jobs
	stored   int
	existing int // not stored, since other jobs hold their unique keys
	refused  int
	first    error // of those refused
	reported time.Time
}

// enqueueFile stores a job for each line of a file. It stops at a line that is not a job: those before it are stored.
func (a *app) enqueueFile(ctx context.Context, c *beaver.Client, base *beaver.Job, f *enqueueFlags, args []string) error {
	if len(args) > 1 {
		return usage("with --file there is no payload argument")
	}
	in := a.stdin
	if f.file != "-" {
		file, err := os.Open(f.file)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }() // It was only read.
		in = file
	}
	run := &fileRun{app: a, client: c, base: base, ids: f.ids, reported: a.now()}
	err := errors.Join(run.read(ctx, in), run.flush(ctx))
	switch {
	case err != nil && run.first != nil:
		return fmt.Errorf("%w; stored before that: %s%s, and %s refused, the first: %w", err, plural(run.stored, "job"), run.others(), plural(run.refused, "job"), run.first)
	case err != nil:
		return fmt.Errorf("%w; stored before that: %s%s", err, plural(run.stored, "job"), run.others())
	case run.first != nil:
		return fmt.Errorf("%s refused, %d stored%s; the first: %w", plural(run.refused, "job"), run.stored, run.others(), run.first)
	case a.json():
		return a.printJSON(fileJSON{run.stored, run.existing})
	}
	a.note("%s stored%s\n", plural(run.stored, "job"), run.others())
	return nil
}

// fileJSON tells how many jobs of a file were stored, and how many were not since others hold their unique keys.
type fileJSON struct {
	Count    int `json:"count"`
	Existing int `json:"existing,omitempty"`
}

// others tells of the jobs that were there already, behind those that were stored.
func (r *fileRun) others() string {
	if r.existing == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %d not, whose unique keys are held)", r.existing)
}

func (r *fileRun) read(ctx context.Context, in io.Reader) error {
	scanner := bufio.NewScanner(in)
	scanner.Buffer(make([]byte, 0, 64<<10), lineBytesMax)
	number := 0
	for scanner.Scan() {
		number++
		line := bytes.TrimSpace(scanner.Bytes())
		if len(line) == 0 {
			continue
		}
		job, err := parseLine(line, r.base)
		if err != nil {
			return usage("line %d is not a job: %w", number, err)
		}
		r.jobs, r.lines = append(r.jobs, job), append(r.lines, number)
		if len(r.jobs) == fileBatch {
			if err := r.flush(ctx); err != nil {
				return err
			}
		}
	}
	if err := scanner.Err(); errors.Is(err, bufio.ErrTooLong) {
		return usage("line %d has more than %d MiB; a job's payload has at most 1 MiB", number+1, lineBytesMax>>20)
	} else if err != nil {
		return fmt.Errorf("line %d: %w", number+1, err)
	}
	return nil
}

func parseLine(line []byte, base *beaver.Job) (beaver.Job, error) {
	if !utf8.Valid(line) {
		return beaver.Job{}, errors.New("it is not UTF-8; give bytes as base64 in payloadBase64")
	}
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	var parsed fileJob
	if err := decoder.Decode(&parsed); err != nil {
		return beaver.Job{}, lineError(err)
	}
	if decoder.More() {
		return beaver.Job{}, fmt.Errorf("there is more than one JSON value")
	}
	job, err := parsed.job(base)
	if err == nil && job.Queue == "" {
		err = fmt.Errorf("it names no queue; add one, or give QUEUE as the argument")
	}
	return job, err
}

// lineError says in a user's words why a line does not decode.
func lineError(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		want := map[reflect.Kind]string{
			reflect.String: "a string", reflect.Int: "a whole number", reflect.Bool: "true or false", reflect.Slice: "a list or base64",
			reflect.Map: `an object such as {"tenant": "42"}`, reflect.Struct: "an object",
		}[wrong.Type.Kind()]
		if wrong.Field == "" {
			return fmt.Errorf(`it is a JSON %s; write an object such as {"queue": "mail", "payload": 1}`, wrong.Value)
		}
		if _, number, ok := strings.Cut(wrong.Value, "number "); ok && wrong.Type.Kind() == reflect.Int {
			return fmt.Errorf("%s is %s; use %s that is not too large", wrong.Field, number, want)
		}
		return fmt.Errorf("%s is a %s; use %s", wrong.Field, wrong.Value, want)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends in the middle of its JSON; a job is one whole line")
	}
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("it is not JSON: %w", err)
	}
	if _, ok := errors.AsType[base64.CorruptInputError](err); ok {
		return fmt.Errorf("payloadBase64 is not base64: %w", err)
	}
	text := strings.TrimPrefix(err.Error(), "json: ")
	if strings.HasPrefix(text, "unknown field") {
		text += "; there are queue, kind, payload, payloadBase64, contentType, priority, runAt, delay, expiresAt, maxAttempts, retry, timeout, orderingKey, uniqueKey, uniqueUntil, uniqueFor and metadata"
	}
	return errors.New(text)
}

// flush stores the jobs gathered.
func (r *fileRun) flush(ctx context.Context) error {
	if len(r.jobs) == 0 {
		return nil
	}
	answers, err := r.client.EnqueueMany(ctx, r.jobs)
	for i, answer := range answers {
		switch {
		case answer.Err == nil:
			if err := r.answered(&answer); err != nil {
				return err
			}
		case err == nil:
			r.refused++
			if r.first == nil {
				r.first = fmt.Errorf("line %d: %w", r.lines[i], answer.Err)
			}
		}
	}
	r.jobs, r.lines = r.jobs[:0], r.lines[:0]
	if now := r.app.now(); now.Sub(r.reported) >= progressEvery {
		r.reported = now
		r.app.note("%s stored so far\n", plural(r.stored, "job"))
	}
	return err
}

// answered counts a job that is there now, and prints its ID if asked to.
func (r *fileRun) answered(answer *beaver.Enqueued) error {
	note := ""
	if answer.Existing {
		r.existing++
		note = " existing"
	} else {
		r.stored++
	}
	if !r.ids {
		return nil
	}
	return r.app.print("%s%s\n", answer.ID, note)
}
