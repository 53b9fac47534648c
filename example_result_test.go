package beaver_test

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/beaver-raft/beaver"
)

// Digest is the arguments of the jobs that count letters.
type Digest struct {
	Text string `json:"text"`
}

// Kind names the kind of job.
func (Digest) Kind() string { return "digest" }

// A result is kept with the job until its queue has forgotten the job.
func ExampleHandleResult() {
	client, done := exampleClient()
	defer done()
	ctx := context.Background()

	stop := make(chan struct{})
	mux := beaver.NewMux()
	beaver.HandleResult(mux, func(_ context.Context, job *beaver.JobOf[Digest]) (map[string]int, error) {
		defer close(stop)
		return map[string]int{"letters": len(job.Args.Text)}, nil
	})
	id, err := beaver.Enqueue(ctx, client, Digest{Text: "beaver"})
	if err != nil {
		panic(err)
	}
	run(client, mux, stop, beaver.DefaultQueue)

	job, err := client.Job(ctx, id)
	if err != nil {
		panic(err)
	}
	var result struct{ Letters int }
	if err := json.Unmarshal(job.Result, &result); err != nil {
		panic(err)
	}
	fmt.Println(job.State, result.Letters)
	// Output: completed 6
}
