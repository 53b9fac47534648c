package beaver_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/beaver-raft/beaver"
)

// Cancelling a job that runs ends the context of its handler.
func ExampleClient_Cancel() {
	client, done := exampleClient()
	defer done()
	ctx := context.Background()

	started, stop := make(chan struct{}), make(chan struct{})
	handler := beaver.HandlerFunc(func(ctx context.Context, _ *beaver.LeasedJob) error {
		defer close(stop)
		close(started)
		<-ctx.Done()
		fmt.Println("cancelled:", errors.Is(context.Cause(ctx), beaver.ErrCancelled))
		return ctx.Err()
	})
	id, err := client.Enqueue(ctx, beaver.Job{Queue: "video"})
	if err != nil {
		panic(err)
	}
	go func() {
		<-started
		if _, err := client.Cancel(ctx, id); err != nil {
			panic(err)
		}
	}()
	run(client, handler, stop, "video")

	job, err := client.Job(ctx, id)
	if err != nil {
		panic(err)
	}
	fmt.Println(job.State)
	// Output:
	// cancelled: true
	// cancelled
}
