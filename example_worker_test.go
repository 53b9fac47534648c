package beaver_test

import (
	"context"
	"fmt"

	"github.com/beaver-raft/beaver"
)

// Welcome is the arguments of the jobs that greet a new user.
type Welcome struct {
	Email string `json:"email"`
}

// Kind names the kind of job.
func (Welcome) Kind() string { return "welcome" }

// Arguments, a worker, and a job for it.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	client, done := exampleClient() // In your program: beaver.NewClient(beaver.Config{Addr: "http://127.0.0.1:7400"}).
	defer done()

	mux := beaver.NewMux()
	beaver.Handle(mux, func(_ context.Context, job *beaver.JobOf[Welcome]) error {
		fmt.Println("greeting", job.Args.Email, "attempt", job.Attempt)
		cancel() // One job is enough for an example.
		return nil
	})
	worker, err := beaver.NewWorker(client, beaver.WorkerConfig{Queues: []string{"mail"}, Handler: mux})
	if err != nil {
		panic(err)
	}
	if _, err := beaver.Enqueue(ctx, client, Welcome{Email: "ada@example.org"}, beaver.Job{Queue: "mail"}); err != nil {
		panic(err)
	}
	if err := worker.Run(ctx); err != nil {
		panic(err)
	}
	fmt.Println("completed", worker.Stats().Completed)
	// Output:
	// greeting ada@example.org attempt 1
	// completed 1
}
