// Command fuzz runs every fuzzer of the repository for a while, one after the other.
//
// Invariant: a function FuzzX(*testing.F) in any test file of the module is run; none is listed by hand. It goes on
// after a failure, and fails at the end naming what failed; go test has then written the input under testdata/fuzz.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A target is one fuzzer.
type target struct {
	dir, name string // dir is slash-separated and relative to the root
}

// minimizeTime bounds the search for a smaller form of each new input. By default it is a minute, in which a fuzzer of large
// inputs does nothing else.
const minimizeTime = "100x"

func main() {
	root := flag.String("root", "..", "root of the module")
	length := flag.Duration("time", time.Minute, "how long each fuzzer runs")
	match := flag.String("match", "", "run only the fuzzers whose directory or name contains this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *root, *length, *match)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root string, length time.Duration, match string) error {
	targets, err := find(root)
	if err != nil {
		return err
	}
	targets = slices.DeleteFunc(targets, func(t target) bool {
		return !strings.Contains(t.dir+"/"+t.name, match)
	})
	if len(targets) == 0 {
		return fmt.Errorf("no fuzzer matches %q", match)
	}
	var failed []string
	for i, t := range targets {
		fmt.Printf("==> %d/%d %s in %s, %v\n", i+1, len(targets), t.name, t.dir, length)
		command := exec.CommandContext(ctx, "go", "test", "-run=^$", "-fuzz=^"+t.name+"$", "-fuzztime="+length.String(),
			"-fuzzminimizetime="+minimizeTime, "./"+t.dir)
		command.Dir = root
		command.Stdout, command.Stderr = os.Stdout, os.Stderr
		if err := command.Run(); err != nil {
			failed = append(failed, t.dir+"."+t.name)
		}
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
	}
	fmt.Printf("%d fuzzers, %d failed\n", len(targets), len(failed))
	if len(failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	}
	return nil
}

// find parses every test file below root, other modules excepted.
func find(root string) ([]target, error) {
	var targets []target
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != root && skipped(path, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		names, err := fuzzers(path)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, name := range names {
			targets = append(targets, target{dir: filepath.ToSlash(dir), name: name})
		}
		return nil
	})
	return targets, err
}

// skipped says whether go's own ./... would not enter the directory.
func skipped(path, name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" {
		return true
	}
	_, err := os.Stat(filepath.Join(path, "go.mod"))
	return err == nil
}

// fuzzers returns the names of the fuzzers in one file.
func fuzzers(path string) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, declaration := range file.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		if !ok || function.Recv != nil || !strings.HasPrefix(function.Name.Name, "Fuzz") {
			continue
		}
		if params := function.Type.Params.List; len(params) == 1 && isTestingF(params[0].Type) {
			names = append(names, function.Name.Name)
		}
	}
	return names, nil
}

// isTestingF reports whether the expression is *testing.F.
func isTestingF(expression ast.Expr) bool {
	pointer, ok := expression.(*ast.StarExpr)
	if !ok {
		return false
	}
	selector, ok := pointer.X.(*ast.SelectorExpr)
	return ok && selector.Sel.Name == "F"
}
