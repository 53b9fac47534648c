package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/server"
)

func newClusterCommand(a *app) *cobra.Command {
	return group("cluster", "Show a cluster, and change its nodes, shards and leaders",
		newClusterStatusCommand(a), newClusterAddCommand(a), newClusterRemoveCommand(a), newClusterReplaceCommand(a),
		newClusterTransferCommand(a), newClusterDrainCommand(a), newClusterShardsCommand(a))
}

func newClusterStatusCommand(a *app) *cobra.Command {
	return a.clientFlags(&cobra.Command{
		Use: "status", Short: "Show the nodes, the shards with their leaders and members, and what is on its way", Args: cobra.NoArgs,
		Long: `Show the nodes, the shards with their leaders and members, and what is on its way between them. Any node answers.

A shard's members are its nodes, the leader first: 2 votes, (4) learns and has no vote, 3! was not heard of lately, and -17 lacks so many
entries of what the leader has.

Nodes tell each other about once a second how they are. HEARD is when the node that was asked heard of the other one last: silent is one of
which nothing came for 5 s, and unknown one that tells nothing of itself, as earlier versions do not. STORED/S and ENDED/S are the jobs stored and the
attempts ended on the shards that the node leads, CPU is the part of its processors that it takes, DATA the size of its data directory, and
WORKERS are those connected to it, with the jobs that they run at once.`,
		Example: "  beaver cluster status\n  beaver cluster status --output json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(cmd.Context(), func(c *beaver.Client) error {
				info, err := c.Cluster(cmd.Context())
				if err != nil {
					return err
				}
				if a.json() {
					return a.printJSON(clusterOutput(info))
				}
				return a.printCluster(info)
			})
		},
	})
}

func (a *app) printCluster(info *beaver.ClusterInfo) error {
	if err := a.print("cluster %s, asked node %d\n\n", info.ClusterID, info.NodeID); err != nil {
		return err
	}
	if err := a.printNodes(info.Nodes); err != nil {
		return err
	}
	if err := a.print("\n"); err != nil {
		return err
	}
	rows := make([]string, len(info.Shards))
	for i, s := range info.Shards {
		leader := "none"
		if s.LeaderNodeID != 0 {
			leader = strconv.FormatUint(s.LeaderNodeID, 10)
		}
		var applied uint64
		for _, m := range s.Members {
			applied = max(applied, m.AppliedIndex)
		}
		note := s.Waiting
		if s.PreferredNodeID != 0 && s.PreferredNodeID != s.LeaderNodeID && note == "" {
			note = fmt.Sprintf("goes to node %d", s.PreferredNodeID)
			draining := func(n beaver.ClusterNode) bool { return n.ID == s.PreferredNodeID && n.State == "draining" }
			if slices.ContainsFunc(info.Nodes, draining) {
				note += " when that is drained no more"
			}
		}
		rows[i] = row(s.ID, leader, s.Term, applied, describeMembers(&s), note)
	}
	if err := a.table("SHARD\tLEADER\tTERM\tAPPLIED\tMEMBERS\tNOTE", rows); err != nil {
		return err
	}
	for _, t := range info.Transfers {
		if err := a.print("shard %d: node %d sends node %d the snapshot at %d, %s so far\n", t.Shard, t.FromNodeID, t.ToNodeID, t.SnapshotIndex, byteSize(t.Bytes)); err != nil {
			return err
		}
	}
	return nil
}

// describeMembers writes the members of a shard as the help says.
func describeMembers(s *beaver.ClusterShard) string {
	members := slices.Clone(s.Members)
	slices.SortStableFunc(members, func(a, b beaver.ClusterMember) int {
		return rank(&a) - rank(&b)
	})
	var last uint64
	for _, m := range members {
		if m.Role == "leader" {
			last = m.LastIndex
		}
	}
	texts := make([]string, len(members))
	for i, m := range members {
		text := strconv.FormatUint(m.NodeID, 10)
		if m.Role != "leader" && m.Role != "follower" {
			text = "(" + text + ")"
		}
		if s.LeaderNodeID != 0 && !m.Reachable {
			text += "!"
		}
		if last > m.MatchIndex && m.Role != "leader" && s.LeaderNodeID != 0 {
			text += fmt.Sprintf("-%d", last-m.MatchIndex)
		}
		texts[i] = text
	}
	return strings.Join(texts, " ")
}

func rank(m *beaver.ClusterMember) int {
	if m.Role == "leader" {
		return 0
	}
	return 1
}

// parseNode reads the id of a node.
func parseNode(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, usage("%q is no node; use its id, as beaver cluster status shows it", text)
	}
	return n, nil
}

func newClusterAddCommand(a *app) *cobra.Command {
	return a.clientFlags(&cobra.Command{
		Use: "add HOST:PORT", Short: "Give an id to a node that will join from a peer address", Args: cobra.ExactArgs(1),
		Long: `Give an id to a node that will join from a peer address, for instance since its certificate has to name it. A node may also join without
that: then it gets its id when it comes.`,
		Example: "  beaver cluster add 10.0.0.4:7401",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(cmd.Context(), func(c *beaver.Client) error { return a.expectNode(cmd, c, args[0], 0) })
		},
	})
}

func newClusterReplaceCommand(a *app) *cobra.Command {
	return a.clientFlags(&cobra.Command{
		Use: "replace NODE HOST:PORT", Short: "Have a new node take the place of one that is lost", Args: cobra.ExactArgs(2),
		Long: `Have a new node, which will join from a peer address, take the place of another one. The other may be down for good, and the address may be
the same. In each shard the vote goes from one to the other in one step, when the new one has caught up.`,
		Example: "  beaver cluster replace 2 10.0.0.2:7401",
		RunE: func(cmd *cobra.Command, args []string) error {
			node, err := parseNode(args[0])
			if err != nil {
				return err
			}
			return a.client(cmd.Context(), func(c *beaver.Client) error { return a.expectNode(cmd, c, args[1], node) })
		},
	})
}

func (a *app) expectNode(cmd *cobra.Command, c *beaver.Client, address string, replaces uint64) error {
	node, err := c.AddNode(cmd.Context(), address, replaces)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(map[string]any{"node": node, "peerAddress": address, "replaces": replaces})
	}
	member := "MEMBER"
	if info, err := c.Cluster(cmd.Context()); err == nil {
		for _, n := range info.Nodes {
			if n.ID == info.NodeID {
				member = n.PeerAddress
			}
		}
	}
	return a.print("node %d is expected. Start it with an empty data directory, an address for its clients (--listen), and what peers know each other by "+
		"on the other nodes (--cluster-secret-file, or --peer-ca, --peer-cert and --peer-key):\n  beaver server --join %s --peer-listen %s --node %d\n", node, member, address, node)
}

func newClusterRemoveCommand(a *app) *cobra.Command {
	return a.clientFlags(&cobra.Command{
		Use: "remove NODE", Short: "Take a node out of every shard, and out of the cluster for good", Args: cobra.ExactArgs(1),
		Long: `Take a node out of every shard, and then out of the cluster for good. It hands over what it leads, and its process ends when all is done.
It is refused when the others would have no quorum.`,
		Example: "  beaver cluster remove 3",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeNode(cmd, args[0], "leaves; beaver cluster status shows how far it is", (*beaver.Client).RemoveNode)
		},
	})
}

func newClusterDrainCommand(a *app) *cobra.Command {
	var undo bool
	cmd := a.clientFlags(&cobra.Command{
		Use: "drain NODE", Short: "Move what a node leads to other nodes", Args: cobra.ExactArgs(1),
		Long: `Move what a node leads to other nodes, for instance before its machine is worked on. It goes on to store and to vote, and leads again when
no other can.`,
		Example: "  beaver cluster drain 3\n  beaver cluster drain --undo 3",
	})
	cmd.Flags().BoolVar(&undo, "undo", false, "let it lead again")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		said := "hands over what it leads"
		if undo {
			said = "takes its share of the leads again"
		}
		return a.changeNode(cmd, args[0], said, func(c *beaver.Client, ctx context.Context, node uint64) error { return c.DrainNode(ctx, node, undo) })
	}
	return cmd
}

// changeNode asks for a change of one node, and says what follows.
func (a *app) changeNode(cmd *cobra.Command, name, said string, f func(*beaver.Client, context.Context, uint64) error) error {
	node, err := parseNode(name)
	if err != nil {
		return err
	}
	return a.client(cmd.Context(), func(c *beaver.Client) error {
		if err := f(c, cmd.Context(), node); err != nil {
			return err
		}
		if a.json() {
			return a.printJSON(map[string]any{"node": node})
		}
		return a.print("node %d %s\n", node, said)
	})
}

func newClusterTransferCommand(a *app) *cobra.Command {
	var undo bool
	cmd := a.clientFlags(&cobra.Command{
		Use: "transfer SHARD NODE | --undo SHARD", Short: "Make a node the leader of a shard, whenever it can be", Args: cobra.RangeArgs(1, 2),
		Long: `Make a node the leader of a shard, now and whenever it can be, until that is undone or the node is removed. Without it the cluster shares the leads
out by itself.`,
		Example: "  beaver cluster transfer 1 3\n  beaver cluster transfer --undo 1",
	})
	cmd.Flags().BoolVar(&undo, "undo", false, "leave it to the cluster again who leads the shard")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if undo == (len(args) == 2) {
			return usage("say which shard goes to which node, or with --undo which one to none in particular")
		}
		shard, err := strconv.ParseUint(args[0], 10, 16)
		if err != nil {
			return usage("%q is no shard; use its number, as beaver cluster status shows it", args[0])
		}
		node, said := uint64(0), "is led by whoever's turn it is"
		if !undo {
			if node, err = parseNode(args[1]); err != nil {
				return err
			}
			said = fmt.Sprintf("goes to node %d", node)
		}
		return a.client(cmd.Context(), func(c *beaver.Client) error {
			if err := c.TransferLead(cmd.Context(), int(shard), node); err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]any{"shard": shard, "node": node})
			}
			return a.print("shard %d %s\n", shard, said)
		})
	}
	return cmd
}

func newClusterShardsCommand(a *app) *cobra.Command {
	var to int
	cmd := a.clientFlags(&cobra.Command{
		Use: "add-shards N | --to TOTAL", Short: "Give the cluster more data shards", Args: cobra.MaximumNArgs(1),
		Long: `Give the cluster N data shards more, or as many more as make a total. Every node gets a replica of each, the leads are shared out, and new
queues come to live on them, since they have the least to do. Queues that are there already stay where they are. Shards are never taken
away again. With --to it may be repeated: scripts should use that, and so should who got no answer.`,
		Example: "  beaver cluster add-shards 4\n  beaver cluster add-shards --to 8",
	})
	cmd.Flags().IntVar(&to, "to", 0, "how many data shards the cluster shall have in all")
	takes(cmd.Flags(), "to", fmt.Sprintf("1 to %d", server.ShardsMax))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		more := 0
		switch total := cmd.Flags().Changed("to"); {
		case total == (len(args) == 1):
			return usage("say how many shards more, or with --to how many in all")
		case total && (to < 1 || to > server.ShardsMax):
			return usage("--to is %d; use 1 to %d", to, server.ShardsMax)
		case !total:
			count, err := strconv.ParseUint(args[0], 10, 16)
			if err != nil || count == 0 || count > server.ShardsMax {
				return usage("%q is no number of shards; use 1 to %d", args[0], server.ShardsMax)
			}
			more = int(count)
		}
		return a.client(cmd.Context(), func(c *beaver.Client) error { return a.addShards(cmd.Context(), c, more, to) })
	}
	return cmd
}

// addShards adds shards, or as many as make a total.
func (a *app) addShards(ctx context.Context, c *beaver.Client, more, total int) error {
	info, err := c.Cluster(ctx)
	if err != nil {
		return err
	}
	have := max(0, len(info.Shards)-1) // the catalog is one of them
	if total == 0 {
		total = have + more
	}
	if have >= total {
		if a.json() {
			return a.printJSON(map[string]any{"shards": have})
		}
		return a.print("the cluster has %d data shards\n", have)
	}
	shards, err := c.AddShards(ctx, total-have, have)
	if errors.Is(err, beaver.ErrOutcomeUnknown) {
		return fmt.Errorf("%w; find out, or do it now, with beaver cluster add-shards --to %d", err, total)
	}
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(map[string]any{"shards": shards})
	}
	return a.print("the cluster gets %d data shards; beaver cluster status shows how far it is\n", shards)
}
