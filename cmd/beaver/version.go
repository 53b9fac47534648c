package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

type versionJSON struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (v versionJSON) String() string {
	return fmt.Sprintf("beaver %s (%s, %s)", v.Version, v.Go, v.Platform)
}

func buildInfo() versionJSON {
	v := versionJSON{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func newVersionCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version of this binary", Args: cobra.NoArgs,
		Example: "  beaver version\n  beaver version --output json",
		RunE: func(*cobra.Command, []string) error {
			v := buildInfo()
			if a.json() {
				return a.printJSON(v)
			}
			return a.print("%s\n", v)
		},
	}
	a.outputFlag(cmd)
	return cmd
}
