// Package beaver is the Go client of Beaver-Raft, a job queue that never loses a job, and its worker SDK.
//
// # Arguments
//
// A kind of job is a struct with its arguments, stored as JSON, and the name of the kind:
//
//	type Welcome struct {
//		Email string `json:"email"`
//	}
//
//	func (Welcome) Kind() string { return "welcome" }
//
// # Workers
//
// A Mux knows who does which kind of job, and a Worker takes jobs from queues and has them done:
//
//	mux := beaver.NewMux()
//	beaver.Handle(mux, func(ctx context.Context, job *beaver.JobOf[Welcome]) error {
//		return mail.Send(ctx, job.Args.Email, "Welcome!")
//	})
//	worker, err := beaver.NewWorker(client, beaver.WorkerConfig{Queues: []string{"mail"}, Handler: mux, Concurrency: 100})
//	…
//	err = worker.Run(ctx)
//
// When ctx ends the worker takes no more jobs, lets those that run finish within its grace period, and gives the rest back.
// A handler that returns an error, or panics, has its job tried again later, after a delay that grows; see Permanent,
// RetryAfter and ErrRelease for other ends.
//
// A job is delivered at least once: a handler whose worker dies, or whose connection is away for longer than the server
// waits, is run again elsewhere. But only the holder of the newest lease can complete a job, or change it in any way.
//
// # Enqueueing
//
// One Client serves a whole program:
//
//	client, err := beaver.NewClient(beaver.Config{Addr: "http://127.0.0.1:7400"})
//	…
//	id, err := beaver.Enqueue(ctx, client, Welcome{Email: "ada@example.org"}, beaver.Job{Queue: "mail"})
//
// When Enqueue returns, the job is on disk. Calls that happen at once share their round trips by themselves, so there is no
// need to collect jobs into batches; where there are many at hand, EnqueueMany saves goroutines, and EnqueueAtomic stores all
// or none. A call that meets a broken connection or a server that restarts is repeated, and stores its job once. A job that is
// not typed is a Job: any bytes, for workers in any language.
//
// # Clusters
//
// Any node of a cluster serves any request. Name one or more of them, as in "http://10.0.0.1:7400,http://10.0.0.2:7400"; the
// Client learns of the others. Calls about a job go to the node that leads its shard, and a stream begins at one of the nodes known by then, drawn at random: name
// several, and many programs spread over them. When a
// node stops, fails or stands still, its calls and streams go to another, within Config.RetryFor: callers see it as latency, and
// workers keep their jobs.
//
// # More
//
//   - Delays, schedules, priorities, retries and timeouts: the fields of Job.
//   - Jobs that are not to be stored twice: Job.UniqueKey, Client.EnqueueUnique and Client.EnqueueAtomicUnique.
//   - Results: HandleResult, LeasedJob.SetResult, and Client.Job to read them.
//   - Cancellation: Client.Cancel ends the context of the job's handler; the cause is ErrCancelled.
//   - Progress: LeasedJob.Progress. More time: LeasedJob.Extend.
//   - Middleware: Mux.Use.
//   - Dead jobs: Client.Jobs to list them, Client.RetryDead, Client.RetryAllDead and Client.DiscardDead.
//   - Queues: Client.Queues, Client.ConfigureQueue, Client.PauseQueue.
//   - Workers in other shapes: Client.Fetch, Client.Ack, Client.Fail, Client.Release.
//   - Errors: *Error, with sentinels for errors.Is such as ErrNotFound, ErrQueueFull and ErrOutcomeUnknown.
//   - The same Client without a network: package server.
//
// # Invariant
//
// An enqueue that returned an ID is durable, and was stored once. An enqueue that failed was not stored, unless its error
// matches ErrOutcomeUnknown.
package beaver
