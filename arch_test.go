package beaver_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// These tests hold the shape of the tree: who may import whom, how a package introduces itself, how long a file may be.
// They read the source as text, so they need no network and no build. arch_docs_test.go does the same for documents.

const (
	modulePath       = "github.com/beaver-raft/beaver"
	fileLinesMax     = 600
	functionLinesMax = 80
)

// layer is what one package may import besides the standard library. Own packages are named from the module's root,
// outside modules by the prefix of their import path.
type layer struct {
	own     []string
	outside []string
	// withoutStd are the packages of the standard library that would break the package's promise.
	withoutStd []string
}

const (
	btreeModule      = "github.com/tidwall/btree"
	roaringModule    = "github.com/RoaringBitmap/roaring/v2"
	connectModule    = "connectrpc.com/connect"
	protobufModule   = "google.golang.org/protobuf"
	etcdRaftModule   = "go.etcd.io/raft/v3"
	prometheusModule = "github.com/prometheus/"
	cobraModule      = "github.com/spf13/"
	sysModule        = "golang.org/x/sys"
	porcupineModule  = "github.com/anishathalye/porcupine"
)

// impure is what a deterministic machine must not see: clocks, chance, the outside and other goroutines.
var impure = []string{
	"context", "crypto/rand", "log", "log/slog", "math/rand", "math/rand/v2", "net", "net/http", "os", "os/exec",
	"os/signal", "runtime", "sync", "sync/atomic", "syscall", "time", "unsafe",
}

// layers is the table of ARCHITECTURE.md. An arrow that is not here is a decision: argue for it where the table is.
var layers = map[string]layer{
	"":                              {own: []string{"api/beaver/v1", "api/beaver/v1/beaverv1connect"}, outside: []string{connectModule, protobufModule}},
	"api/beaver/v1":                 {outside: []string{protobufModule}},
	"api/beaver/v1/beaverv1connect": {own: []string{"api/beaver/v1"}, outside: []string{connectModule}},

	"internal/invariant": {},
	"internal/queue":     {own: []string{"internal/invariant"}, outside: []string{btreeModule, roaringModule}, withoutStd: impure},
	"internal/vfs":       {outside: []string{sysModule}},
	"internal/wal":       {own: []string{"internal/vfs", "internal/invariant"}, outside: []string{roaringModule}},
	"internal/snapshot":  {own: []string{"internal/vfs", "internal/invariant"}},
	// transfer moves what the log and the snapshots hold from one node to another; it knows nothing of Raft.
	"internal/transfer": {
		own:     []string{"internal/wal", "internal/snapshot", "internal/vfs", "internal/invariant"},
		outside: []string{roaringModule},
	},
	"internal/shard": {
		own:     []string{"internal/wal", "internal/vfs", "internal/snapshot", "internal/invariant"},
		outside: []string{etcdRaftModule, protobufModule, roaringModule},
	},
	// replica is a step machine: it is told the time.
	"internal/replica": {
		own: []string{
			"internal/shard", "internal/wal", "internal/transfer", "internal/vfs", "internal/snapshot", "internal/invariant",
		},
		outside:    []string{etcdRaftModule},
		withoutStd: []string{"context", "sync", "sync/atomic", "math/rand", "math/rand/v2", "crypto/rand", "net", "os", "runtime"},
	},
	"internal/host": {
		own: []string{
			"internal/replica", "internal/transfer", "internal/shard", "internal/wal", "internal/vfs", "internal/snapshot",
			"internal/invariant",
		},
		outside: []string{etcdRaftModule},
	},
	// transport carries Raft's messages and opaque bytes; host and engine declare what they need of it.
	"internal/transport": {own: []string{"internal/invariant"}, outside: []string{etcdRaftModule}},
	// cluster holds the catalog machine: it is replicated like a queue, and names queues as the queue machine does.
	"internal/cluster": {
		own:     []string{"internal/host", "internal/shard", "internal/queue", "internal/invariant"},
		outside: []string{btreeModule, roaringModule},
	},
	// founding keeps what a data directory knows of its membership; it moves no bytes between nodes.
	"internal/founding": {own: []string{"internal/cluster", "internal/vfs"}},
	// engine turns the log's errors into codes for callers, and passes the disk through its options.
	"internal/engine": {
		own: []string{
			"internal/cluster", "internal/host", "internal/shard", "internal/queue", "internal/wal", "internal/vfs",
			"internal/invariant",
		},
		outside: []string{roaringModule},
	},
	// The front doors know the engine and the vocabulary of jobs, never each other.
	"internal/rpc": {
		own:     []string{"internal/engine", "internal/queue", "api/beaver/v1", "api/beaver/v1/beaverv1connect"},
		outside: []string{connectModule, protobufModule},
	},
	"internal/metrics": {own: []string{"internal/engine", "internal/queue", "internal/host", "internal/wal"}, outside: []string{prometheusModule}},

	// server is the only place that wires. The system tells it whether connections wait to be accepted.
	"server": {own: []string{
		"", "internal/engine", "internal/rpc", "internal/metrics", "internal/founding", "internal/cluster", "internal/transport", "internal/host", "internal/shard", "internal/vfs",
		"internal/wal", "internal/queue", "internal/snapshot", "api/beaver/v1", "api/beaver/v1/beaverv1connect",
	}, outside: []string{connectModule, protobufModule, etcdRaftModule, sysModule}},
	// The binary uses the client like any user; bench also measures plain calls and the disk itself. inspect reads the
	// files of a stopped node, so it knows the formats.
	"cmd/beaver": {
		own: []string{
			"", "server", "api/beaver/v1", "api/beaver/v1/beaverv1connect", "internal/vfs", "internal/wal",
			"internal/snapshot", "internal/shard", "internal/host", "internal/queue", "internal/founding",
		},
		outside: []string{cobraModule, protobufModule, connectModule, sysModule},
	},

	// history is shared with the tests of chaos: what may be told of a job is one question, whoever asks.
	"internal/history": {own: []string{"internal/queue"}, outside: []string{porcupineModule}, withoutStd: []string{
		"context", "math/rand", "math/rand/v2", "net", "os", "sync", "sync/atomic",
	}},
	// sim owns what host owns, without goroutines: everything below the front doors that is a step machine. Nothing that is
	// shipped imports it, so porcupine, by which history judges what clients were told in every run, is no part of the binary.
	"internal/sim": {
		own: []string{
			"internal/history",
			"internal/replica", "internal/transfer", "internal/queue", "internal/shard", "internal/wal", "internal/snapshot",
			"internal/vfs", "internal/invariant",
		},
		outside: []string{etcdRaftModule, roaringModule},
	},
	"cmd/sim": {own: []string{"internal/sim"}},

	"internal/chaos":    {own: []string{"", "internal/queue"}},
	"internal/freeport": {},
}

// testOutside may be imported by any test: scripts, properties, histories. There is no assertion library.
var testOutside = []string{"github.com/cockroachdb/datadriven", "pgregory.net/rapid", porcupineModule}

func TestImports(t *testing.T) {
	for _, file := range sourceFiles(t) {
		allowed, ok := layers[file.dir]
		if !ok {
			t.Errorf("%s: package %q is not in the table; add it to layers in arch_test.go with the imports it may have, and to the tree in ARCHITECTURE.md", file.name, file.dir)
			continue
		}
		for _, spec := range file.syntax.Imports {
			imported := strings.Trim(spec.Path.Value, `"`)
			if reason := forbidden(file, allowed, imported); reason != "" {
				t.Errorf("%s imports %s: %s", file.name, imported, reason)
			}
		}
	}
}

// forbidden returns why the file must not import the package, or nothing.
func forbidden(file sourceFile, allowed layer, imported string) string {
	first, _, _ := strings.Cut(imported, "/")
	switch {
	case imported == modulePath || strings.HasPrefix(imported, modulePath+"/"):
		own := strings.TrimPrefix(strings.TrimPrefix(imported, modulePath), "/")
		if file.test || own == file.dir || slices.Contains(allowed.own, own) {
			return ""
		}
		return "the arrow is not in the table (layers in arch_test.go); declare an interface where it is used, or move the code to the package that may know both"
	case !strings.Contains(first, "."):
		if !file.test && slices.Contains(allowed.withoutStd, imported) {
			return "this package is deterministic: pass the value in from above instead"
		}
		return ""
	}
	outside := allowed.outside
	if file.test {
		outside = slices.Concat(outside, testOutside, []string{connectModule, protobufModule, etcdRaftModule, roaringModule, prometheusModule, cobraModule, sysModule})
	}
	for _, prefix := range outside {
		if strings.HasPrefix(imported, prefix) {
			return ""
		}
	}
	return "a new dependency here is a decision: do without, or add it to layers in arch_test.go and say why in ARCHITECTURE.md"
}

func TestPackageDocs(t *testing.T) {
	type found struct {
		files, docs []string
		text, name  string
	}
	packages := map[string]*found{}
	for _, file := range sourceFiles(t) {
		if file.generated {
			continue
		}
		p := packages[file.dir]
		if p == nil {
			p = &found{}
			packages[file.dir] = p
		}
		p.files = append(p.files, file.name)
		if !strings.HasSuffix(file.syntax.Name.Name, "_test") {
			p.name = file.syntax.Name.Name
		}
		if doc := file.syntax.Doc; doc != nil {
			p.docs = append(p.docs, file.name)
			p.text = doc.Text()
		}
	}
	for dir, p := range packages {
		if len(p.docs) != 1 {
			t.Errorf("%q has %d package docs %v, want exactly one: keep it in doc.go or in the file of the package's name", dir, len(p.docs), p.docs)
			continue
		}
		opening := "Package " + p.name + " "
		if p.name == "main" {
			opening = "Command " + path.Base(dir) + " "
		}
		if !strings.HasPrefix(p.text, opening) {
			t.Errorf("%s: the package doc must begin %q and say what the package does in one sentence", p.docs[0], opening)
		}
		if strings.HasPrefix(dir, "internal/") && !strings.Contains(strings.ToLower(p.text), "invariant") {
			t.Errorf("%s: the package doc must name the invariant that the package owns", p.docs[0])
		}
	}
}

func TestFilesFitTheEye(t *testing.T) {
	for _, file := range sourceFiles(t) {
		if file.generated {
			continue
		}
		if lines := file.set.File(file.syntax.Pos()).LineCount(); lines > fileLinesMax {
			t.Errorf("%s has %d lines, at most %d fit: split it by noun", file.name, lines, fileLinesMax)
		}
		if file.test {
			continue
		}
		for _, declaration := range file.syntax.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			if !ok {
				continue
			}
			from, to := file.set.Position(function.Pos()).Line, file.set.Position(function.End()).Line
			if lines := to - from + 1; lines > functionLinesMax {
				t.Errorf("%s:%d: %s has %d lines, at most %d fit a screen: name its parts", file.name, from, function.Name.Name, lines, functionLinesMax)
			}
		}
	}
}

func TestModule(t *testing.T) {
	for _, name := range []string{"go.mod", "tools/go.mod"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`(?m)^\s*replace\b`).Match(text) {
			t.Errorf("%s has a replace directive: users of the module would not get it; require a released version", name)
		}
		if !regexp.MustCompile(`(?m)^toolchain go`).Match(text) {
			t.Errorf("%s pins no toolchain: add a toolchain line", name)
		}
	}
}

// sourceFile is one parsed Go file of the module.
type sourceFile struct {
	name      string // slash-separated, from the root
	dir       string // "" is the root
	test      bool
	generated bool
	set       *token.FileSet
	syntax    *ast.File
}

// sourceFiles parses every Go file of the module, whatever its build constraints.
func sourceFiles(t *testing.T) []sourceFile {
	t.Helper()
	var files []sourceFile
	walk(t, func(name string) {
		if !strings.HasSuffix(name, ".go") || strings.HasPrefix(name, "tools/") || strings.Contains(name, "testdata/") {
			return
		}
		set := token.NewFileSet()
		syntax, err := parser.ParseFile(set, filepath.FromSlash(name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, sourceFile{
			name:      name,
			dir:       strings.TrimPrefix(path.Dir(name), "."),
			test:      strings.HasSuffix(name, "_test.go"),
			generated: ast.IsGenerated(syntax),
			set:       set,
			syntax:    syntax,
		})
	})
	if len(files) == 0 {
		t.Fatal("no Go files found")
	}
	return files
}

// walk calls visit with every file that belongs to the repository, slash-separated and relative to the root.
func walk(t *testing.T, visit func(name string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if d.IsDir() {
			switch name {
			case ".git", "bin", "beaver-data", "bench":
				return filepath.SkipDir
			}
			return nil
		}
		if name != ".git" { // a file in a linked work tree
			visit(name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
