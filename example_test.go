package beaver_test

import (
	"context"
	"os"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/server"
)

// exampleNode returns a node inside this process, and what ends it.
func exampleNode(listen string) (*server.Server, func()) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "beaver-example-")
	if err != nil {
		panic(err)
	}
	node, err := server.Open(ctx, server.Options{DataDir: dir, Listen: listen})
	if err != nil {
		panic(err)
	}
	return node, func() {
		if err := node.Close(ctx); err != nil {
			panic(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			panic(err)
		}
	}
}

// exampleClient returns a client of a node inside this process, and what ends both.
func exampleClient() (*beaver.Client, func()) {
	node, done := exampleNode("-")
	client, err := node.Client()
	if err != nil {
		panic(err)
	}
	return client, func() {
		if err := client.Close(context.Background()); err != nil {
			panic(err)
		}
		done()
	}
}

// run runs a worker until stop is closed.
func run(client *beaver.Client, handler beaver.Handler, stop <-chan struct{}, queues ...string) {
	worker, err := beaver.NewWorker(client, beaver.WorkerConfig{Queues: queues, Handler: handler})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-stop
		cancel()
	}()
	if err := worker.Run(ctx); err != nil {
		panic(err)
	}
}
