package beaver

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

const (
	// describeMax is how long a node may take to describe the cluster, for which it asks the others.
	describeMax = 5 * time.Second
	// probeAnswerMax is how long a node may take to answer a probe.
	probeAnswerMax = 3 * time.Second
)

// learnLocked begins to learn, if it is time to.
//
// REQUIRES: s.mu.
func (s *nodes) learnLocked() {
	if s.learning || s.ctx.Err() != nil || time.Now().Before(s.next) {
		return
	}
	if s.fixed && len(s.all) == 1 {
		return // there is nothing to choose from
	}
	s.learning = true
	s.group.Go(s.learn)
}

// learn asks a node for the cluster, and each node whether it serves.
//
// A node that was not named is used only once it has answered, from where the client is, as the node and the cluster that it
// is said to be: what is an address for the nodes may be nobody's here, or a stranger's.
func (s *nodes) learn() {
	cluster, asked := s.askForCluster()
	found := s.newcomers(cluster, asked)
	s.mu.Lock()
	known := slices.Clone(s.all)
	s.mu.Unlock()

	answers := make([]*beaverv1.GetStatusResponse, len(known)+len(found))
	var probes sync.WaitGroup
	for i, n := range append(slices.Clip(known), found...) {
		probes.Go(func() {
			ctx, cancel := context.WithTimeout(s.ctx, probeAnswerMax)
			defer cancel()
			if status, err := s.probe(ctx, n); err == nil {
				answers[i] = status
			}
		})
	}
	probes.Wait()

	s.mu.Lock()
	defer s.mu.Unlock()
	s.learning = false
	if s.ctx.Err() != nil {
		return
	}
	for i, n := range known {
		s.judgeLocked(n, answers[i])
	}
	if cluster != nil {
		s.mergeLocked(cluster, found, answers[len(known):])
	}
	s.scheduleLocked()
}

// askForCluster asks a node that is up. The answer is nil when there is none, or the client keeps to the nodes it was told of.
func (s *nodes) askForCluster() (*beaverv1.GetClusterResponse, *node) {
	if s.fixed {
		return nil, nil
	}
	s.mu.Lock()
	n := s.anyLocked(false)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.ctx, describeMax)
	defer cancel()
	res, err := s.describe(ctx, n)
	if err != nil {
		s.logger.Debug("the cluster is not known yet", "addr", n.url, "error", err)
		return nil, nil
	}
	return res, n
}

// newcomers are the nodes of the cluster that are not known yet and may be of use.
func (s *nodes) newcomers(cluster *beaverv1.GetClusterResponse, asked *node) (found []*node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, member := range cluster.GetNodes() {
		n := newNode(member.GetPublicAddress(), asked.url.Scheme)
		if !serves(member) || n == nil || s.find(n.url) != nil || len(s.all)+len(found) >= nodesMax {
			continue
		}
		if addr, err := netip.ParseAddr(n.url.Hostname()); err == nil && addr.IsUnspecified() {
			continue // it listens everywhere, and was not told which address clients reach
		}
		n.id = member.GetId()
		found = append(found, n)
	}
	return found
}

func serves(member *beaverv1.ClusterNode) bool {
	return member.GetState() == "active" || retires(member)
}

func retires(member *beaverv1.ClusterNode) bool {
	return member.GetState() == "draining" || member.GetState() == "leaving"
}

// judgeLocked takes note of a node's answer to a probe; nil: it gave none.
//
// REQUIRES: s.mu.
func (s *nodes) judgeLocked(n *node, status *beaverv1.GetStatusResponse) {
	if down := !status.GetReady(); down != n.down {
		n.down = down
		s.logger.Info("node", "addr", n.url, "up", !down)
	}
	if status != nil && n.named {
		n.id = status.GetNodeId()
	}
}

// mergeLocked takes in the cluster as a node described it, with the newcomers' answers to probes.
//
// REQUIRES: s.mu.
func (s *nodes) mergeLocked(cluster *beaverv1.GetClusterResponse, found []*node, answers []*beaverv1.GetStatusResponse) {
	for i, n := range found {
		a := answers[i]
		alias := slices.ContainsFunc(s.all, func(k *node) bool { return k.named && k.id == n.id && !k.down })
		if a.GetReady() && a.GetNodeId() == n.id && a.GetClusterId() == cluster.GetClusterId() && !alias {
			s.adopt(n)
			s.all = append(s.all, n)
			s.logger.Info("node learned", "addr", n.url, "node", n.id)
		}
	}
	members := make(map[uint64]*beaverv1.ClusterNode)
	for _, member := range cluster.GetNodes() {
		members[member.GetId()] = member
	}
	s.all = slices.DeleteFunc(s.all, func(n *node) bool {
		member := members[n.id]
		n.retires = member != nil && retires(member)
		return !n.named && (member == nil || !serves(member))
	})
	if !slices.Contains(s.all, s.home) {
		s.home = nil
	}
	s.leaders = make(map[uint16]uint64)
	for _, shard := range cluster.GetShards() {
		s.leaders[uint16(shard.GetId())] = shard.GetLeaderNodeId()
	}
}

// scheduleLocked says when to learn again: soon, if a node is down.
//
// REQUIRES: s.mu.
func (s *nodes) scheduleLocked() {
	wait := learnEvery
	if slices.ContainsFunc(s.all, func(n *node) bool { return n.down }) {
		wait = s.again
		s.again = min(2*s.again, learnEvery)
	}
	s.next = time.Now().Add(wait*3/4 + rand.N(wait/2)) // so that clients that began together do not ask together
}
