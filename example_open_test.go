package beaver_test

import (
	"context"
	"fmt"

	"github.com/beaver-raft/beaver"
)

// A program that cannot do without the server finds out at its start: Open returns once the server has answered.
func ExampleOpen() {
	ctx := context.Background()
	node, done := exampleNode("127.0.0.1:0") // in your program, a server elsewhere
	defer done()

	client, err := beaver.Open(ctx, node.Addr())
	if err != nil {
		panic(err)
	}
	defer func() {
		if err := client.Close(ctx); err != nil {
			panic(err)
		}
	}()
	_, err = client.Enqueue(ctx, beaver.Job{Queue: "mail", Kind: "welcome"})
	fmt.Println(err)
	// Output:
	// <nil>
}
