package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// install gets Debian's prometheus when it is not there.
func install(ctx context.Context, out io.Writer) error {
	_, missing := exec.LookPath("prometheus")
	_, missingTool := exec.LookPath("promtool")
	if missing == nil && missingTool == nil {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return errors.New("prometheus and promtool are not installed: install Debian's prometheus, or run this as root")
	}
	for _, args := range [][]string{{"update"}, {"install", "--yes", "--no-install-recommends", "prometheus"}} {
		fmt.Fprintln(out, "apt-get", strings.Join(args, " "))
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %v: %w\n%s", args, err, text)
		}
	}
	return nil
}

// prometheus is a running one.
type prometheus struct {
	url    string
	client http.Client
}

// startPrometheus runs Prometheus with the shipped files, but other targets, and waits until it is ready.
func startPrometheus(ctx context.Context, all *processes, dir, shipped string, targets []string) (*prometheus, error) {
	conf := filepath.Join(dir, "prometheus")
	if err := os.Mkdir(conf, 0o700); err != nil {
		return nil, err
	}
	for _, name := range []string{"prometheus.yml", "alerts.yml"} {
		text, err := os.ReadFile(filepath.Join(shipped, name))
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(conf, name), text, 0o600); err != nil {
			return nil, err
		}
	}
	list, err := json.Marshal([]map[string][]string{{"targets": targets}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(conf, "targets.json"), list, 0o600); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	_, err = all.start(dir, "prometheus", "prometheus", "--config.file="+filepath.Join(conf, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(conf, "data"), "--web.listen-address="+address)
	if err != nil {
		return nil, err
	}
	p := &prometheus{url: "http://" + address}
	return p, awaitOK(ctx, p.url+"/-/ready")
}

// get asks Prometheus's API and decodes what is under data.
func (p *prometheus) get(ctx context.Context, path string, data any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	if err != nil {
		return err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %s: %w", path, resp.Status, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return nil
}

// samples counts what an expression returns. What is no number does not count: a quantile of nothing, or nothing by nothing.
func (p *prometheus) samples(ctx context.Context, promQL string) (count int, err error) {
	var data struct {
		Result []struct{ Value [2]any }
	}
	if err := p.get(ctx, "/api/v1/query?query="+url.QueryEscape(promQL), &data); err != nil {
		return 0, fmt.Errorf("%s: %w", promQL, err)
	}
	for _, r := range data.Result {
		if r.Value[1] != "NaN" {
			count++
		}
	}
	return count, nil
}

// alert is a rule as Prometheus understood it.
type alert struct {
	Name, Query string
	Annotations map[string]string
}

func (p *prometheus) alerts(ctx context.Context) (all []alert, err error) {
	var data struct {
		Groups []struct{ Rules []alert }
	}
	if err := p.get(ctx, "/api/v1/rules?type=alert", &data); err != nil {
		return nil, err
	}
	for _, g := range data.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		return nil, errors.New("there are no alerts")
	}
	return all, nil
}
