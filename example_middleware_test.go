package beaver_test

import (
	"context"
	"fmt"

	"github.com/beaver-raft/beaver"
)

// Middleware wraps every handler of a Mux.
func ExampleMux_Use() {
	client, done := exampleClient()
	defer done()

	stop := make(chan struct{})
	mux := beaver.NewMux()
	mux.Use(func(next beaver.Handler) beaver.Handler {
		return beaver.HandlerFunc(func(ctx context.Context, job *beaver.LeasedJob) error {
			fmt.Println("begin", job.Kind, job.Metadata["tenant"])
			defer close(stop)
			defer fmt.Println("end", job.Kind)
			return next.Handle(ctx, job)
		})
	})
	beaver.Handle(mux, func(_ context.Context, job *beaver.JobOf[Welcome]) error {
		fmt.Println("greeting", job.Args.Email)
		return nil
	})
	template := beaver.Job{Metadata: map[string]string{"tenant": "42"}}
	if _, err := beaver.Enqueue(context.Background(), client, Welcome{Email: "ada@example.org"}, template); err != nil {
		panic(err)
	}
	run(client, mux, stop, beaver.DefaultQueue)
	// Output:
	// begin welcome 42
	// greeting ada@example.org
	// end welcome
}
