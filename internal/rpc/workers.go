package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/queue"
)

func (h *Handler) register(ctx context.Context, e Engine, in *beaverv1.RegisterRequest) (*beaverv1.RegisterResponse, error) {
	info, bad := workerInfoOf("info", in.GetInfo())
	if bad != nil {
		return nil, bad
	}
	worker, ttl, err := e.RegisterWorker(ctx, info)
	if err != nil {
		return nil, err
	}
	return &beaverv1.RegisterResponse{WorkerId: uint64(worker), Ttl: durationpb.New(ttl)}, nil
}

func workerOf(id uint64) (engine.WorkerID, *engine.Error) {
	if id == 0 {
		return 0, invalid("worker_id", "missing: want the id that Register gave")
	}
	return engine.WorkerID(id), nil
}

func (h *Handler) heartbeat(ctx context.Context, e Engine, in *beaverv1.HeartbeatRequest) (*beaverv1.HeartbeatResponse, error) {
	worker, bad := workerOf(in.GetWorkerId())
	if bad != nil {
		return nil, bad
	}
	held, bad := leasesOf("held", in.GetHeld())
	if bad != nil {
		return nil, bad
	}
	reply, err := e.Heartbeat(ctx, worker, held)
	if err != nil {
		return nil, err
	}
	return &beaverv1.HeartbeatResponse{
		State: pbWorkerState(reply.State), Ttl: durationpb.New(reply.TTL),
		Cancel: pbLeases(reply.Cancel), Lost: pbLeases(reply.Lost),
	}, nil
}

func leasesOf(field string, refs []*beaverv1.LeaseRef) ([]engine.LeaseRef, *engine.Error) {
	if len(refs) > HeldMax {
		return nil, tooLarge(field, "has %d leases: want at most %d", len(refs), HeldMax)
	}
	leases := make([]engine.LeaseRef, len(refs))
	for i, ref := range refs {
		id, err := parseID("id", ref.GetId())
		if err != nil {
			return nil, inside(indexed(field, i), err)
		}
		leases[i] = engine.LeaseRef{ID: id, Token: engine.Token(ref.GetToken())}
	}
	return leases, nil
}

func pbLeases(leases []engine.LeaseRef) []*beaverv1.LeaseRef {
	refs := make([]*beaverv1.LeaseRef, len(leases))
	for i, l := range leases {
		refs[i] = &beaverv1.LeaseRef{Id: l.ID.String(), Token: uint64(l.Token)}
	}
	return refs
}

func (h *Handler) deregister(ctx context.Context, e Engine, in *beaverv1.DeregisterRequest) (*beaverv1.DeregisterResponse, error) {
	worker, bad := workerOf(in.GetWorkerId())
	if bad != nil {
		return nil, bad
	}
	return new(beaverv1.DeregisterResponse), e.DeregisterWorker(ctx, worker)
}

func (h *Handler) listWorkers(ctx context.Context, e Engine, _ *beaverv1.ListWorkersRequest) (*beaverv1.ListWorkersResponse, error) {
	workers, err := e.Workers(ctx)
	if err != nil {
		return nil, err
	}
	out := &beaverv1.ListWorkersResponse{Workers: make([]*beaverv1.Worker, len(workers))}
	for i := range workers {
		w := &workers[i]
		out.Workers[i] = &beaverv1.Worker{
			Id: uint64(w.ID), State: pbWorkerState(w.State), Running: uint32(w.Running),
			RegisteredAt: pbInstant(w.RegisteredAt), LastSeenAt: pbInstant(w.LastBeat), NodeId: w.Node,
			Info: &beaverv1.WorkerInfo{
				Name: w.Info.Name, Host: w.Info.Host, Pid: uint32(w.Info.PID), Version: w.Info.Version,
				Labels: w.Info.Labels, Queues: w.Info.Queues, Concurrency: uint32(w.Info.Concurrency),
			},
		}
	}
	return out, nil
}

func (h *Handler) signalWorker(
	ctx context.Context, e Engine, in *beaverv1.SignalWorkerRequest,
) (*beaverv1.SignalWorkerResponse, error) {
	worker, bad := workerOf(in.GetWorkerId())
	if bad != nil {
		return nil, bad
	}
	state, bad := workerStateOf(in.GetState())
	if bad != nil {
		return nil, bad
	}
	return new(beaverv1.SignalWorkerResponse), e.SignalWorker(ctx, worker, state)
}

// workerInfoOf checks what a worker says of itself. path is where it says so.
func workerInfoOf(path string, in *beaverv1.WorkerInfo) (engine.WorkerInfo, *engine.Error) {
	if in == nil {
		return engine.WorkerInfo{}, invalid(path, "missing: want at least the worker's queues")
	}
	info := engine.WorkerInfo{
		Name: in.GetName(), Host: in.GetHost(), PID: int(in.GetPid()), Version: in.GetVersion(),
		Labels: in.GetLabels(), Queues: in.GetQueues(), Concurrency: int(in.GetConcurrency()),
	}
	texts := map[string]string{"name": info.Name, "host": info.Host, "version": info.Version}
	for _, field := range []string{"name", "host", "version"} {
		if n := len(texts[field]); n > WorkerTextBytesMax {
			return info, tooLarge(path+"."+field, "has %d bytes: want at most %d", n, WorkerTextBytesMax)
		}
	}
	if n := len(info.Labels); n > WorkerLabelsMax {
		return info, tooLarge(path+".labels", "has %d: want at most %d", n, WorkerLabelsMax)
	}
	for _, label := range info.Labels {
		if len(label) > WorkerTextBytesMax {
			return info, tooLarge(path+".labels", "one has %d bytes: want at most %d", len(label), WorkerTextBytesMax)
		}
	}
	if n := len(info.Queues); n > queue.FetchQueuesMax {
		return info, tooLarge(path+".queues", "has %d names: want at most %d", n, queue.FetchQueuesMax)
	}
	if info.Concurrency > WorkerConcurrencyMax {
		return info, invalid(path+".concurrency", "is %d: want at most %d", info.Concurrency, WorkerConcurrencyMax)
	}
	return info, nil
}
