package beaver_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/beaver-raft/beaver"
)

// A job of any shape, with all that can be said of it.
func ExampleClient_Enqueue() {
	client, done := exampleClient()
	defer done()
	ctx := context.Background()

	id, err := client.Enqueue(ctx, beaver.Job{
		Queue:       "reports",
		Kind:        "monthly",
		JSON:        map[string]int{"year": 2026, "month": 7},
		Priority:    new(2),
		Delay:       time.Hour,
		MaxAttempts: 3,
		Retry:       &beaver.RetryPolicy{Kind: beaver.RetryFixed, Base: time.Minute},
		Timeout:     10 * time.Minute,
		Metadata:    map[string]string{"tenant": "42"},
	})
	if err != nil {
		panic(err)
	}
	job, err := client.Job(ctx, id)
	if err != nil {
		panic(err)
	}
	fmt.Println(job.Queue, job.Kind, job.State, job.Priority, string(job.Payload), job.Metadata["tenant"])
	// Output: reports monthly scheduled 2 {"month":7,"year":2026} 42
}

// Many jobs in one call; each is stored or refused for itself.
func ExampleClient_EnqueueMany() {
	client, done := exampleClient()
	defer done()

	answers, err := client.EnqueueMany(context.Background(), []beaver.Job{
		{Queue: "thumbnails", Payload: []byte("cat.jpg")},
		{Queue: "a name with spaces", Payload: []byte("dog.jpg")},
	})
	if err != nil {
		panic(err) // Some answers are missing.
	}
	for _, a := range answers {
		if a.Err != nil {
			fmt.Println("refused:", a.Err.Field, errors.Is(a.Err, beaver.ErrInvalidArgument))
			continue
		}
		fmt.Println("stored, id of", len(a.ID), "characters")
	}
	// Output:
	// stored, id of 16 characters
	// refused: queue true
}

// All jobs or none.
func ExampleClient_EnqueueAtomic() {
	client, done := exampleClient()
	defer done()

	ids, err := client.EnqueueAtomic(context.Background(), []beaver.Job{
		{Queue: "ledger", Kind: "debit", JSON: 100},
		{Queue: "ledger", Kind: "credit", JSON: 100},
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(len(ids), "jobs")
	// Output: 2 jobs
}
