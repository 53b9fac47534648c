package rpc

import (
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// addServices registers every procedure.
func (h *Handler) addServices() {
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
	reading(h, beaverv1connect.JobServiceGetJobProcedure, h.getJob)
	reading(h, beaverv1connect.JobServiceListJobsProcedure, h.listJobs)
	unary(h, beaverv1connect.JobServiceCancelJobProcedure, h.cancelJob)
	unary(h, beaverv1connect.JobServiceRetryDeadProcedure, h.retryDead)
	unary(h, beaverv1connect.JobServiceDiscardDeadProcedure, h.discardDead)

	reading(h, beaverv1connect.QueueServiceListQueuesProcedure, h.listQueues)
	reading(h, beaverv1connect.QueueServiceGetQueueProcedure, h.getQueue)
	unary(h, beaverv1connect.QueueServiceConfigureQueueProcedure, h.configureQueue)
	unary(h, beaverv1connect.QueueServiceMoveQueueProcedure, h.moveQueue)

	unary(h, beaverv1connect.WorkerServiceRegisterProcedure, h.register)
	unary(h, beaverv1connect.WorkerServiceHeartbeatProcedure, h.heartbeat)
	unary(h, beaverv1connect.WorkerServiceDeregisterProcedure, h.deregister)
	reading(h, beaverv1connect.WorkerServiceListWorkersProcedure, h.listWorkers)
	unary(h, beaverv1connect.WorkerServiceSignalWorkerProcedure, h.signalWorker)

	reading(h, beaverv1connect.NodeServiceGetStatusProcedure, h.getStatus)

	reading(h, beaverv1connect.ClusterServiceGetClusterProcedure, h.getCluster)
	unary(h, beaverv1connect.ClusterServiceAddNodeProcedure, h.addNode)
	unary(h, beaverv1connect.ClusterServiceRemoveNodeProcedure, h.removeNode)
	unary(h, beaverv1connect.ClusterServiceDrainNodeProcedure, h.drainNode)
	unary(h, beaverv1connect.ClusterServiceTransferLeadProcedure, h.transferLead)
	unary(h, beaverv1connect.ClusterServiceAddShardsProcedure, h.addShards)
}

// exampleProcedure is the call that everybody needs.
const exampleProcedure = beaverv1connect.JobServiceEnqueueProcedure

// examples are requests as a person would send them, one of each unary procedure.
var examples = map[string]string{
	beaverv1connect.JobServiceEnqueueProcedure:     `{"queue": "mail", "payload": {"to": "ada"}}`,
	beaverv1connect.JobServiceFetchProcedure:       `{"queues": ["mail"], "wait": "10s"}`,
	beaverv1connect.JobServiceAckProcedure:         `{"id": "000g000000000g00", "token": 1, "result": {"sent": true}}`,
	beaverv1connect.JobServiceFailProcedure:        `{"id": "000g000000000g00", "token": 1, "failure": {"message": "no route"}}`,
	beaverv1connect.JobServiceReleaseProcedure:     `{"id": "000g000000000g00", "token": 1}`,
	beaverv1connect.JobServiceFinishProcedure:      `{"outcomes": [{"id": "000g000000000g00", "token": 1}]}`,
	beaverv1connect.JobServiceExtendProcedure:      `{"id": "000g000000000g00", "token": 1, "lease": "60s"}`,
	beaverv1connect.JobServiceProgressProcedure:    `{"id": "000g000000000g00", "token": 1, "percent": 50}`,
	beaverv1connect.JobServiceGetJobProcedure:      `{"id": "000g000000000g00"}`,
	beaverv1connect.JobServiceListJobsProcedure:    `{"queue": "mail", "state": "dead"}`,
	beaverv1connect.JobServiceCancelJobProcedure:   `{"id": "000g000000000g00"}`,
	beaverv1connect.JobServiceRetryDeadProcedure:   `{"queue": "mail"}`,
	beaverv1connect.JobServiceDiscardDeadProcedure: `{"queue": "mail"}`,

	beaverv1connect.QueueServiceListQueuesProcedure:     `{}`,
	beaverv1connect.QueueServiceGetQueueProcedure:       `{"name": "mail"}`,
	beaverv1connect.QueueServiceConfigureQueueProcedure: `{"name": "mail", "settings": {"maxAttempts": 5}}`,
	beaverv1connect.QueueServiceMoveQueueProcedure:      `{"name": "mail", "shard": 2}`,

	beaverv1connect.WorkerServiceRegisterProcedure:     `{"info": {"queues": ["mail"]}}`,
	beaverv1connect.WorkerServiceHeartbeatProcedure:    `{"workerId": 1}`,
	beaverv1connect.WorkerServiceDeregisterProcedure:   `{"workerId": 1}`,
	beaverv1connect.WorkerServiceListWorkersProcedure:  `{}`,
	beaverv1connect.WorkerServiceSignalWorkerProcedure: `{"workerId": 1, "state": "quiet"}`,

	beaverv1connect.NodeServiceGetStatusProcedure: `{}`,

	beaverv1connect.ClusterServiceGetClusterProcedure:   `{}`,
	beaverv1connect.ClusterServiceAddNodeProcedure:      `{"peerAddress": "10.0.0.4:7401"}`,
	beaverv1connect.ClusterServiceRemoveNodeProcedure:   `{"nodeId": 4}`,
	beaverv1connect.ClusterServiceDrainNodeProcedure:    `{"nodeId": 4}`,
	beaverv1connect.ClusterServiceTransferLeadProcedure: `{"shard": 1, "nodeId": 2}`,
	beaverv1connect.ClusterServiceAddShardsProcedure:    `{"count": 4}`,
}
