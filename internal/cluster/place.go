package cluster

// Load is what a shard has to do, as the node saw it that places a queue.
type Load struct {
	Shard  uint16
	Rate   uint64 // items that it applied in about a minute
	Jobs   uint64 // that have not ended
	Placed int    // queues that are being made there, and are not in the catalog yet
}

// Below these a load of all shards together is noise, and does not outweigh where the queues are.
const (
	placeRateMin = 100 * 60 // 100 items a second
	placeJobsMin = 10_000
)

// Place picks the shard for a new queue: the one with the least of three things together, its shares of what all shards do, of the jobs
// they have, and of their queues; the first among equals. Since the share of queues grows with each one that is placed, a crowd of new
// queues, whose load nobody knows yet, does not go to one shard. 0 when there are no loads.
func (c *Catalog) Place(loads []Load) uint16 {
	rates, jobs, queues := uint64(placeRateMin), uint64(placeJobsMin), 1
	var allRates, allJobs uint64
	for i := range loads {
		l := &loads[i]
		allRates, allJobs, queues = allRates+l.Rate, allJobs+l.Jobs, queues+c.homes[l.Shard]+l.Placed
	}
	rates, jobs = max(rates, allRates), max(jobs, allJobs)
	best, least := uint16(0), 0.0
	for i := range loads {
		l := &loads[i]
		score := float64(l.Rate)/float64(rates) + float64(l.Jobs)/float64(jobs) + float64(c.homes[l.Shard]+l.Placed)/float64(queues)
		if best == 0 || score < least {
			best, least = l.Shard, score
		}
	}
	return best
}
