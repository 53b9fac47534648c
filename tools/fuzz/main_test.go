package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestFind shows that fuzzers are found wherever go test would find them, and nowhere else.
func TestFind(t *testing.T) {
	root := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":               "module m\n",
		"a/a_test.go":          "package a\nimport \"testing\"\nfunc FuzzOne(f *testing.F) {}\nfunc FuzzHelper(b []byte) {}\nfunc TestX(t *testing.T) {}\n",
		"a/b/b_test.go":        "package b\nimport \"testing\"\nfunc FuzzTwo(f *testing.F) {}\n",
		"a/a.go":               "package a\nfunc FuzzNot() {}\n",
		"other/go.mod":         "module other\n",
		"other/o_test.go":      "package o\nimport \"testing\"\nfunc FuzzThree(f *testing.F) {}\n",
		"a/testdata/t_test.go": "package t\nimport \"testing\"\nfunc FuzzFour(f *testing.F) {}\n",
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := find(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []target{{"a", "FuzzOne"}, {"a/b", "FuzzTwo"}}
	if !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}
