package beaver_test

import (
	"context"
	"fmt"

	"github.com/beaver-raft/beaver"
)

// However often an account changes, one job waits that synchronises it. While that runs one more may wait, since the account may have
// changed after it began.
func ExampleClient_EnqueueUnique() {
	client, done := exampleClient()
	defer done()
	ctx := context.Background()

	job := beaver.Job{Queue: "sync", UniqueKey: "account-42", UniqueUntil: beaver.UniqueUntilStarted}
	first, existing, err := client.EnqueueUnique(ctx, job)
	if err != nil {
		panic(err)
	}
	fmt.Println("existing:", existing)

	second, existing, err := client.EnqueueUnique(ctx, job)
	if err != nil {
		panic(err)
	}
	fmt.Println("existing:", existing, "the same:", first == second)

	running, err := client.Fetch(ctx, beaver.FetchRequest{Queues: []string{"sync"}})
	if err != nil {
		panic(err)
	}
	_, existing, err = client.EnqueueUnique(ctx, job)
	if err != nil {
		panic(err)
	}
	fmt.Println(len(running), "runs, existing:", existing)
	// Output:
	// existing: false
	// existing: true the same: true
	// 1 runs, existing: false
}

// All that an order needs is stored together, and what is under way already is left as it is.
func ExampleClient_EnqueueAtomicUnique() {
	client, done := exampleClient()
	defer done()
	ctx := context.Background()

	index := beaver.Job{Queue: "orders", Kind: "index", UniqueKey: "customer-7"}
	if _, err := client.Enqueue(ctx, index); err != nil {
		panic(err)
	}
	answers, err := client.EnqueueAtomicUnique(ctx, []beaver.Job{
		{Queue: "orders", Kind: "charge", UniqueKey: "order-42"},
		index,
	})
	if err != nil {
		panic(err)
	}
	for _, a := range answers {
		fmt.Println("existing:", a.Existing)
	}
	// Output:
	// existing: false
	// existing: true
}
