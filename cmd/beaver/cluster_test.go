package main

import "testing"

// TestClusterCommands: a number of shards in all can be asked for again and again; what is missing is named, and what comes next.
func TestClusterCommands(t *testing.T) {
	t.Parallel()
	founder := newStation(t, secretFile(t, "s"))
	one := launch(t, founder.args("--shards", "1")...)
	one.says("is ready")
	ask := func(more ...string) (string, int) {
		t.Helper()
		return run(t, append([]string{"cluster", "add-shards", "--addr", "http://" + founder.public}, more...)...)
	}
	for _, tt := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"--to", "3"}, exitOK, "gets 3 data shards"},
		{[]string{"--to", "3"}, exitOK, "has 3 data shards"},
		{[]string{"--to", "2"}, exitOK, "has 3 data shards"},
		{[]string{"1"}, exitOK, "gets 4 data shards"},
		{[]string{"--to", "4", "--output", "json"}, exitOK, `"shards": 4`},
		{[]string{}, exitUsage, "how many in all"},
		{[]string{"1", "--to", "4"}, exitUsage, "how many in all"},
		{[]string{"--to", "0"}, exitUsage, "use 1 to 256"},
		{[]string{"--to", "257"}, exitUsage, "use 1 to 256"},
		{[]string{"0"}, exitUsage, "use 1 to 256"},
		{[]string{"253"}, exitPrecondition, "256 is the limit"},
	} {
		text, status := ask(tt.args...)
		wants(t, text, status, tt.status, tt.says)
	}
	for _, tt := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"transfer", "1", "1"}, exitOK, "goes to node 1"},
		{[]string{"transfer", "--undo", "1"}, exitOK, "led by whoever's turn it is"},
		{[]string{"transfer", "--undo", "1"}, exitOK, "led by whoever's turn it is"},
		{[]string{"transfer", "--undo", "9"}, exitNotFound, "there is no shard 9"},
		{[]string{"transfer", "1"}, exitUsage, "with --undo"},
		{[]string{"transfer", "--undo", "1", "1"}, exitUsage, "with --undo"},
		{[]string{"drain", "--undo", "1"}, exitOK, "takes its share"},
		{[]string{"drain", "1"}, exitPrecondition, "no other active node"},
	} {
		text, status := run(t, append([]string{"cluster", "--addr", "http://" + founder.public}, tt.args...)...)
		wants(t, text, status, tt.status, tt.says)
	}
	text, status := run(t, "queues", "move", "mail", "--addr", "http://"+founder.public)
	wants(t, text, status, exitUsage, "say with --to which data shard")
	for _, address := range []string{"nonsense", ":7401", "127.0.0.1:", "127.0.0.1:99999"} {
		text, status = run(t, "cluster", "add", address, "--addr", "http://"+founder.public)
		wants(t, text, status, exitUsage, "want host:port", address)
	}
	text, status = run(t, "status", "--addr", founder.peer)
	wants(t, text, status, exitUnavailable, "is a beaver server at "+founder.peer, "--listen", "not to peers")
	for _, address := range []string{"0.0.0.0:7401", "[::]:7401"} {
		text, status = run(t, "cluster", "add", address, "--addr", "http://"+founder.public)
		wants(t, text, status, exitUsage, "which no other node can dial", address)
	}
	second := newStation(t, secretFile(t, "s"))
	for range 2 { // an answer that got lost is asked for again
		text, status = run(t, "cluster", "add", second.peer, "--addr", "http://"+founder.public)
		wants(t, text, status, exitOK, "node 2 is expected", "--cluster-secret-file", "--join "+founder.peer)
	}
	text, status = run(t, "cluster", "replace", "1", second.peer, "--addr", "http://"+founder.public)
	wants(t, text, status, exitPrecondition, "node 2 is expected at "+second.peer, "start it, or take it back")
	text, status = run(t, second.args("--join", founder.peer, "--node", "7")...)
	wants(t, text, status, exitFailure, "node 2 is expected at "+second.peer, "give --node 2, or none")
	one.stop()
}
