package beaver_test

import (
	"context"
	"fmt"

	"github.com/beaver-raft/beaver"
)

// Settings of a queue hold for all its jobs that do not say otherwise.
func ExampleClient_ConfigureQueue() {
	client, done := exampleClient()
	defer done()
	ctx := context.Background()

	queue, err := client.ConfigureQueue(ctx, "mail", beaver.QueueSettings{MaxAttempts: new(5), Paused: new(true)})
	if err != nil {
		panic(err)
	}
	fmt.Println(queue.Name, *queue.Settings.MaxAttempts, *queue.Settings.Paused)
	if err := client.ResumeQueue(ctx, "mail"); err != nil {
		panic(err)
	}
	// Output: mail 5 true
}
