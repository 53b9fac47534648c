package beaver_test

import (
	"context"
	"fmt"
	"time"

	"github.com/beaver-raft/beaver"
)

// A program that wants to do everything itself takes jobs one by one.
func ExampleClient_Fetch() {
	client, done := exampleClient()
	defer done()
	ctx := context.Background()

	if _, err := client.Enqueue(ctx, beaver.Job{Queue: "mail", Payload: []byte("hello")}); err != nil {
		panic(err)
	}
	jobs, err := client.Fetch(ctx, beaver.FetchRequest{Queues: []string{"mail"}, Wait: time.Second, Lease: time.Minute})
	if err != nil {
		panic(err)
	}
	for _, job := range jobs {
		fmt.Println(string(job.Payload))
		if err := job.Progress(ctx, 50, "half way"); err != nil {
			panic(err)
		}
		if err := client.Ack(ctx, job.Lease, "text/plain", []byte("sent")); err != nil {
			panic(err)
		}
	}
	// Output: hello
}
