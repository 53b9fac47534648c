package cluster

// Load is what a shard has to do, as the node saw it that places a queue.
type Load struct {
	Shard  uint16
	Leader uint64 // the node that leads it; 0: none, or it is not known
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
	if picked := c.PlaceSeveral(loads, 1); len(picked) > 0 {
		return picked[0]
	}
	return 0
}

// PlaceSeveral picks the shards for the partitions of a queue, each another one, or all that there are: one after the other like Place, but
// from among those whose leader has the fewest of them, so that they are led by as many nodes as can be. A shard that nobody leads comes last.
func (c *Catalog) PlaceSeveral(loads []Load, count int) []uint16 {
	rates, jobs, queues := uint64(placeRateMin), uint64(placeJobsMin), 1
	var allRates, allJobs uint64
	for i := range loads {
		l := &loads[i]
		allRates, allJobs, queues = allRates+l.Rate, allJobs+l.Jobs, queues+c.homes[l.Shard]+l.Placed
	}
	rates, jobs = max(rates, allRates), max(jobs, allJobs)
	score := func(l *Load) float64 {
		return float64(l.Rate)/float64(rates) + float64(l.Jobs)/float64(jobs) + float64(c.homes[l.Shard]+l.Placed)/float64(queues)
	}
	picked := make([]uint16, 0, min(count, len(loads)))
	taken := make([]bool, len(loads))
	led := make(map[uint64]int) // partitions, by the node that leads their shards; only looked up
	for len(picked) < cap(picked) {
		best := -1
		for i := range loads {
			if taken[i] {
				continue
			}
			if best < 0 || betterHome(&loads[i], &loads[best], led, score) {
				best = i
			}
		}
		taken[best] = true
		led[loads[best].Leader]++
		picked = append(picked, loads[best].Shard)
	}
	return picked
}

func betterHome(a, b *Load, led map[uint64]int, score func(*Load) float64) bool {
	switch {
	case (a.Leader == 0) != (b.Leader == 0):
		return a.Leader != 0
	case led[a.Leader] != led[b.Leader]:
		return led[a.Leader] < led[b.Leader]
	}
	return score(a) < score(b)
}
