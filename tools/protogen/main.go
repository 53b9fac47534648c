// Command protogen turns the repository's .proto files into Go, without protoc and without a network.
//
// Invariant: the generated files depend on the .proto files and on the versions pinned in tools/go.mod, on nothing
// else of the machine. It compiles the sources in process and hands the descriptors to the pinned plugins
// protoc-gen-go and protoc-gen-connect-go, which write beside the .proto file.
//
//	go -C tools run ./protogen            write
//	go -C tools run ./protogen -check     compare, and fail naming the files that are stale
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// plugins run in this order, each with paths=source_relative.
var plugins = [...]string{"protoc-gen-go", "protoc-gen-connect-go"}

func main() {
	root := flag.String("root", "../api", "directory that import paths of .proto files start from")
	check := flag.Bool("check", false, "change nothing; fail when a generated file is stale")
	flag.Parse()
	if err := run(context.Background(), *root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root string, check bool) error {
	sources, existing, err := list(root)
	if err != nil {
		return err
	}
	if len(sources) == 0 {
		return fmt.Errorf("no .proto file under %s", root)
	}
	request, err := compile(ctx, root, sources)
	if err != nil {
		return err
	}
	wanted := map[string]string{}
	for _, plugin := range plugins {
		if err := generate(ctx, plugin, request, wanted); err != nil {
			return fmt.Errorf("%s: %w", plugin, err)
		}
	}
	if check {
		return compare(root, existing, wanted)
	}
	return write(root, existing, wanted)
}

// list returns the .proto files and the generated Go files under root, as slash-separated paths relative to it.
func list(root string) (sources, generated []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		switch {
		case strings.HasSuffix(name, ".proto"):
			sources = append(sources, name)
		case strings.HasSuffix(name, ".pb.go"), strings.HasSuffix(name, ".connect.go"):
			generated = append(generated, name)
		}
		return nil
	})
	return sources, generated, err
}

func compile(ctx context.Context, root string, sources []string) (*pluginpb.CodeGeneratorRequest, error) {
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(ctx, sources...)
	if err != nil {
		return nil, err
	}
	request := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: sources,
		Parameter:      new("paths=source_relative"),
	}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if seen[file.Path()] {
			return
		}
		seen[file.Path()] = true
		for i := range file.Imports().Len() { // plugins want every import before its importer
			add(file.Imports().Get(i).FileDescriptor)
		}
		request.ProtoFile = append(request.ProtoFile, protoutil.ProtoFromFileDescriptor(file))
	}
	for _, file := range files {
		add(file)
	}
	for _, file := range request.ProtoFile {
		if slices.Contains(sources, file.GetName()) {
			request.SourceFileDescriptors = append(request.SourceFileDescriptors, proto.Clone(file).(*descriptorpb.FileDescriptorProto))
		}
	}
	return request, nil
}

// generate runs one plugin and adds the files it answers with to wanted.
func generate(ctx context.Context, plugin string, request *pluginpb.CodeGeneratorRequest, wanted map[string]string) error {
	input, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	command := exec.CommandContext(ctx, "go", "tool", plugin)
	command.Stdin = bytes.NewReader(input)
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err != nil {
		return err
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(output, &response); err != nil {
		return err
	}
	if response.Error != nil {
		return errors.New(response.GetError())
	}
	for _, file := range response.GetFile() {
		wanted[file.GetName()] = file.GetContent()
	}
	return nil
}

func compare(root string, existing []string, wanted map[string]string) error {
	var stale []string
	for name, content := range wanted {
		have, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err != nil || string(have) != content {
			stale = append(stale, name)
		}
	}
	for _, name := range existing {
		if _, ok := wanted[name]; !ok {
			stale = append(stale, name)
		}
	}
	if len(stale) > 0 {
		slices.Sort(stale)
		return fmt.Errorf("stale generated files, run make gen: %s", strings.Join(stale, ", "))
	}
	return nil
}

func write(root string, existing []string, wanted map[string]string) error {
	for name, content := range wanted {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, name := range existing {
		if _, ok := wanted[name]; !ok {
			if err := os.Remove(filepath.Join(root, filepath.FromSlash(name))); err != nil {
				return err
			}
		}
	}
	return nil
}
