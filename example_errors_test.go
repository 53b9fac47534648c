package beaver_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/beaver-raft/beaver"
)

// A failure that no retry will mend makes the job dead at once. Dead jobs are kept, to be looked at and retried.
func ExamplePermanent() {
	client, done := exampleClient()
	defer done()
	ctx := context.Background()

	stop := make(chan struct{})
	handler := beaver.HandlerFunc(func(context.Context, *beaver.LeasedJob) error {
		defer close(stop)
		return beaver.Permanent(errors.New("no such mailbox"))
	})
	if _, err := client.Enqueue(ctx, beaver.Job{Queue: "mail", Kind: "welcome"}); err != nil {
		panic(err)
	}
	run(client, handler, stop, "mail")

	for job, err := range client.Jobs(ctx, beaver.JobFilter{Queue: "mail", State: beaver.StateDead, Full: true}) {
		if err != nil {
			panic(err)
		}
		fmt.Println(job.Kind, job.State, "because:", job.Errors[0].Message)
	}
	n, err := client.RetryAllDead(ctx, "mail")
	if err != nil {
		panic(err)
	}
	fmt.Println("retried", n)
	// Output:
	// welcome dead because: no such mailbox
	// retried 1
}

// Errors are told apart with errors.Is; their text says what to do.
func ExampleError() {
	client, done := exampleClient()
	defer done()

	_, err := client.Job(context.Background(), "0000000000000001")
	fmt.Println(errors.Is(err, beaver.ErrNotFound))
	var e *beaver.Error
	fmt.Println(errors.As(err, &e), e.Code)
	// Output:
	// true
	// true not_found
}
