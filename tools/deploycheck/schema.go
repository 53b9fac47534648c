package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// checkSchema holds the dashboard against Grafana's own types: a field that Grafana does not have, or one that it wants and that is missing, is
// an error. Grafana itself takes nearly anything, and shows something else than was meant.
func checkSchema(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	plugins.RegisterDefaultPlugins()
	var board dashboard.Dashboard //nolint:staticcheck // the newer one describes what only newer Grafana versions read
	err = board.UnmarshalJSONStrict(text)
	if found, ok := errors.AsType[cog.BuildErrors](err); ok && len(found) == 0 {
		err = nil
	}
	if err = errors.Join(err, board.Validate()); err != nil {
		return fmt.Errorf("%s is no dashboard as Grafana describes them: %w", name, err)
	}
	return nil
}
