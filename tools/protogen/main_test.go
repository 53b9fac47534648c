package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const source = `syntax = "proto3";
package t.v1;
import "google/protobuf/timestamp.proto";
option go_package = "example.com/t/v1;tv1";
// S is a service.
service S {
  rpc Do(M) returns (M);
}
// M is a message.
message M {
  google.protobuf.Timestamp at = 1;
}
`

// TestRun follows one .proto file: generated, up to date, changed, and gone.
func TestRun(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "t", "v1")
	file := filepath.Join(dir, "t.proto")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	save := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stale := func(want ...string) {
		t.Helper()
		err := run(t.Context(), root, true)
		if len(want) == 0 && err != nil {
			t.Fatalf("up to date, but: %v", err)
		}
		for _, name := range want {
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Fatalf("%s is stale, but the answer is: %v", name, err)
			}
		}
	}

	save(source)
	stale("t/v1/t.pb.go", "t/v1/tv1connect/t.connect.go")
	if err := run(t.Context(), root, false); err != nil {
		t.Fatal(err)
	}
	stale()
	save(source + "message N {}\n")
	stale("t/v1/t.pb.go")

	// Without its service the file has no Connect stubs: the old ones are stale, and go.
	before, after, _ := strings.Cut(source, "// S is")
	_, after, _ = strings.Cut(after, "}\n")
	save(before + after)
	stale("t/v1/tv1connect/t.connect.go")
	if err := run(t.Context(), root, false); err != nil {
		t.Fatal(err)
	}
	stale()
	if _, err := os.Stat(filepath.Join(dir, "tv1connect", "t.connect.go")); !os.IsNotExist(err) {
		t.Fatalf("stubs of a service that is gone are still there: %v", err)
	}

	save("syntax = \"proto3\";\nmessage {\n")
	if err := run(t.Context(), root, true); err == nil || !strings.Contains(err.Error(), "t.proto:2") {
		t.Fatalf("a syntax error names file and line; got %v", err)
	}
}
