package rpc

import (
	"connectrpc.com/connect"

	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// addServices registers every procedure.
func (h *Handler) addServices() {
	read := connect.WithIdempotency(connect.IdempotencyNoSideEffects)

	hot(h, beaverv1connect.JobServiceEnqueueProcedure, compressHot, h.enqueue)
	stream[streamRequest, streamResponse](h, beaverv1connect.JobServiceEnqueueStreamProcedure, &h.streams.enqueue, h.enqueueStream)
	hot(h, beaverv1connect.JobServiceFetchProcedure, compressHot, h.fetch)
	stream[workRequest, workResponse](h, beaverv1connect.JobServiceWorkProcedure, &h.streams.work, h.work)
	unary(h, beaverv1connect.JobServiceAckProcedure, h.ack)
	unary(h, beaverv1connect.JobServiceFailProcedure, h.fail)
	unary(h, beaverv1connect.JobServiceReleaseProcedure, h.release)
	hot(h, beaverv1connect.JobServiceFinishProcedure, compressHot, h.finish)
	unary(h, beaverv1connect.JobServiceExtendProcedure, h.extend)
	unary(h, beaverv1connect.JobServiceProgressProcedure, h.progress)
	unary(h, beaverv1connect.JobServiceGetJobProcedure, h.getJob, read)
	unary(h, beaverv1connect.JobServiceListJobsProcedure, h.listJobs, read)
	unary(h, beaverv1connect.JobServiceCancelJobProcedure, h.cancelJob)
	unary(h, beaverv1connect.JobServiceRetryDeadProcedure, h.retryDead)
	unary(h, beaverv1connect.JobServiceDiscardDeadProcedure, h.discardDead)

	unary(h, beaverv1connect.QueueServiceListQueuesProcedure, h.listQueues, read)
	unary(h, beaverv1connect.QueueServiceGetQueueProcedure, h.getQueue, read)
	unary(h, beaverv1connect.QueueServiceConfigureQueueProcedure, h.configureQueue)

	unary(h, beaverv1connect.WorkerServiceRegisterProcedure, h.register)
	unary(h, beaverv1connect.WorkerServiceHeartbeatProcedure, h.heartbeat)
	unary(h, beaverv1connect.WorkerServiceDeregisterProcedure, h.deregister)
	unary(h, beaverv1connect.WorkerServiceListWorkersProcedure, h.listWorkers, read)
	unary(h, beaverv1connect.WorkerServiceSignalWorkerProcedure, h.signalWorker)

	unary(h, beaverv1connect.NodeServiceGetStatusProcedure, h.getStatus, read)
}
