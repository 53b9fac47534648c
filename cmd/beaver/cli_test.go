package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/beaver-raft/beaver/server"
)

// TestCLI runs the scripts in testdata. Each has a node of its own. The command beaver runs one command line, from its
// input; output shows what it printed, the standard error after "stderr:", and the exit status unless it is 0. Arguments:
// stdin=TEXT; work-until=N stops the command when its standard error has N lines. IDs are masked as <id1>, <id2>, …, times,
// sizes and shares as <time>, <size> and <share>.
func TestCLI(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		script, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		node, err := server.Open(t.Context(), server.Options{DataDir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", Shards: 2})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := node.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		t.Chdir(dir)
		t.Setenv("BEAVER_ADDR", "http://"+node.Addr())
		m := &masker{seen: map[string]string{}, addr: node.Addr()}
		datadriven.RunTest(t, script, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "file":
				var name string
				d.ScanArgs(t, "name", &name)
				if err := os.WriteFile(name, []byte(d.Input+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				return ""
			case "beaver":
				return m.mask(runCLI(t, d, m))
			}
			t.Fatalf("unknown command %s", d.Cmd)
			return ""
		})
	})
}

func runCLI(t *testing.T, d *datadriven.TestData, m *masker) string {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stdin, lines := "", 0
	d.MaybeScanArgs(t, "stdin", &stdin)
	d.MaybeScanArgs(t, "work-until", &lines)
	var stdout bytes.Buffer
	stderr := &lineCounter{left: lines, reached: cancel}
	status := Run(ctx, words(m.unmask(d.Input)), strings.NewReader(strings.ReplaceAll(stdin, `\n`, "\n")), &stdout, stderr)
	var out strings.Builder
	out.WriteString(stdout.String())
	if stderr.Len() > 0 {
		out.WriteString("stderr: " + stderr.String())
	}
	if status != 0 {
		fmt.Fprintf(&out, "exit %d\n", status)
	}
	return out.String()
}

// lineCounter calls reached when so many lines were written.
type lineCounter struct {
	bytes.Buffer
	left    int
	reached func()
}

func (c *lineCounter) Write(b []byte) (int, error) {
	n := bytes.Count(b, []byte("\n"))
	if c.left > 0 && c.left <= n {
		c.reached()
	}
	c.left -= n
	return c.Buffer.Write(b)
}

// words splits a command line at spaces outside of single quotes.
func words(line string) []string {
	var all []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			all = append(all, part)
			continue
		}
		all = append(all, strings.Fields(part)...)
	}
	return all
}

// masker hides what differs from run to run.
type masker struct {
	seen map[string]string
	addr string
}

var (
	idPattern     = regexp.MustCompile(`\b00[0-9a-hjkmnp-tv-z]{14}\b`)
	timePattern   = regexp.MustCompile(`\b20\d\d-\d\d-\d\dT[0-9:.]+Z\b|\b\d+(\.\d+)?(ms|s|µs)\b( ago)?|\b\d+m\d\ds\b( ago)?|\b0s\b`)
	spacePattern  = regexp.MustCompile(`([^\s])   +`)
	sizePattern   = regexp.MustCompile(`\b\d+(\.\d+)? [KMGT]?i?B\b`)
	sharePattern  = regexp.MustCompile(`\b\d+%`)
	clusterIDs    = regexp.MustCompile(`(\bcluster |"clusterId": ")[0-9a-f]{16}\b`) // one in 256 looks like the ID of a job
	hexPattern    = regexp.MustCompile(`\b[0-9a-f]{16}\b`)
	numberPattern = regexp.MustCompile(`"(pid|\w+Index|term|flush\w+|\w+Bytes|entriesReplayed)": \d+`)
	rowPattern    = regexp.MustCompile(`(?m)^(\d+  \d+  \d+)  \d+(  \d+  -)$`) // of a shard, up to which entry it is applied
	stringPattern = regexp.MustCompile(`"(host|clusterId|dataDir|version|duration)": "[^"]*"`)
)

func (m *masker) mask(s string) string {
	s = strings.ReplaceAll(s, m.addr, "<addr>")
	s = clusterIDs.ReplaceAllString(s, "$1<hex>")
	s = idPattern.ReplaceAllStringFunc(s, func(id string) string {
		if m.seen[id] == "" {
			m.seen[id] = fmt.Sprintf("<id%d>", len(m.seen)+1)
		}
		return m.seen[id]
	})
	for _, p := range []struct {
		pattern *regexp.Regexp
		with    string
	}{
		{timePattern, "<time>"},
		{sizePattern, "<size>"},
		{sharePattern, "<share>"},
		{hexPattern, "<hex>"},
		{numberPattern, `"$1": <number>`},
		{stringPattern, `"$1": <text>`},
		{spacePattern, "$1  "},
		{rowPattern, "$1  <number>$2"},
	} {
		s = p.pattern.ReplaceAllString(s, p.with)
	}
	return s
}

// unmask puts the IDs back.
func (m *masker) unmask(s string) string {
	for id, mask := range m.seen {
		s = strings.ReplaceAll(s, mask, id)
	}
	return s
}
