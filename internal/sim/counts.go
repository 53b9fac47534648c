package sim

// Counts is how much happened in a run.
type Counts struct {
	Events        uint64 // of the schedule
	Messages      uint64 // of Raft
	Entries       uint64 // committed
	Jobs          uint64 // stored
	Deduplicated  uint64 // jobs that were answered with the one that held their unique key
	KeptDead      uint64 // dead jobs that were not retried since another one held their unique key
	Operations    uint64 // calls of clients
	Retries       uint64 // calls that were repeats
	Reads         uint64
	Starts        uint64 // of nodes
	Snapshots     uint64 // stored
	Elections     uint64
	Refused       uint64 // batches that Raft did not take
	Joint         uint64 // changes of two voters at once that were proposed
	Stops         uint64 // processes that were told to stop, and did
	Rumours       uint64 // times that a node heard that another's process has ended
	Mends         uint64 // messages about damaged entries
	Lost          uint64 // replicas that may have lost what they promised, or had no state to go on from
	Outages       uint64 // times that a replica left its group since entries of its log were damaged
	Abandoned     uint64 // installations of snapshots that were undone since the disk had damaged them
	Rebuilt       uint64 // segments whose index a start made out of their records
	Kept          uint64 // entries that were live when their file retired and stayed in place, in the last lives of nodes
	Copied        uint64 // likewise those that were copied
	Transfers     uint64 // snapshots that were brought to other members
	Needless      uint64 // of these, to members that could have been brought up from the log
	TransferBytes uint64
	FullBytes     uint64 // what the same transfers would have had with all live jobs
	TooOld        uint64 // nodes that stopped at an entry of a newer format than they read
	Hoards        uint64 // nodes that kept more files of the log's tail at rest than they should need
	Undecidable   uint64 // runs that ended with a wrong leader that no majority could outvote
	Steps         uint64 // of the model, to judge the history
	Histories     uint64 // of jobs, as clients saw them
	Undecided     uint64 // jobs whose history was too dear to judge
}

// Count is one of the Counts with its name.
type Count struct {
	Name  string
	Value uint64
}

// Rows returns the counts for a table.
func (c *Counts) Rows() []Count {
	return []Count{
		{"events", c.Events},
		{"messages between members", c.Messages},
		{"entries committed", c.Entries},
		{"jobs", c.Jobs},
		{"jobs whose unique key was held", c.Deduplicated},
		{"dead jobs whose unique key was held", c.KeptDead},
		{"operations", c.Operations},
		{"retries", c.Retries},
		{"reads", c.Reads},
		{"starts of nodes", c.Starts},
		{"elections won", c.Elections},
		{"batches that Raft did not take", c.Refused},
		{"changes by joint consensus", c.Joint},
		{"processes that stopped when told", c.Stops},
		{"news of processes' ends", c.Rumours},
		{"snapshots stored", c.Snapshots},
		{"messages to mend damage", c.Mends},
		{"replicas out of their groups", c.Outages},
		{"replicas that never speak again", c.Lost},
		{"installations abandoned for damage", c.Abandoned},
		{"indexes of segments made anew", c.Rebuilt},
		{"entries that stayed in place", c.Kept},
		{"entries that were copied", c.Copied},
		{"snapshots sent", c.Transfers},
		{"snapshots sent needlessly", c.Needless},
		{"bytes of these, with repeats", c.TransferBytes},
		{"bytes of full ones, once", c.FullBytes},
		{"stops at a newer format", c.TooOld},
		{"logs that keep many files", c.Hoards},
		{"runs that wait for a person", c.Undecidable},
		{"steps of the job model", c.Steps},
		{"histories of jobs judged", c.Histories},
		{"jobs left undecided", c.Undecided},
	}
}

// Add adds the counts of another run.
func (c *Counts) Add(o *Counts) {
	c.Events += o.Events
	c.Messages += o.Messages
	c.Entries += o.Entries
	c.Jobs += o.Jobs
	c.Deduplicated += o.Deduplicated
	c.KeptDead += o.KeptDead
	c.Operations += o.Operations
	c.Retries += o.Retries
	c.Reads += o.Reads
	c.Starts += o.Starts
	c.Snapshots += o.Snapshots
	c.Elections += o.Elections
	c.Refused += o.Refused
	c.Joint += o.Joint
	c.Stops += o.Stops
	c.Rumours += o.Rumours
	c.Mends += o.Mends
	c.Outages += o.Outages
	c.Lost += o.Lost
	c.Abandoned += o.Abandoned
	c.Rebuilt += o.Rebuilt
	c.Kept += o.Kept
	c.Copied += o.Copied
	c.Transfers += o.Transfers
	c.Needless += o.Needless
	c.TransferBytes += o.TransferBytes
	c.FullBytes += o.FullBytes
	c.TooOld += o.TooOld
	c.Hoards += o.Hoards
	c.Undecidable += o.Undecidable
	c.Steps += o.Steps
	c.Histories += o.Histories
	c.Undecided += o.Undecided
}

// undecidedPercent bounds how many histories may be too dear to judge. What nobody judged is not right.
const (
	undecidedPercent = 1
	// undecidedFew is how many may always be: a run has some sixty histories, and the few with the most calls that nobody answered, in
	// one and the same outage, are together. Their cost doubles with each such call, so that a greater bound decides none of them. In
	// twenty thousand runs four was the most, and all of them together left one history of a hundred thousand.
	undecidedFew = 8
)

// Judged reports whether enough of the histories were judged.
func (c *Counts) Judged() bool {
	return c.Undecided <= undecidedFew || c.Undecided*100 < c.Histories*undecidedPercent
}
