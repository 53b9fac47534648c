package rpc

import (
	"slices"
	"strings"
)

// nearest is the name that the user probably meant, or empty. Ties go to the first in order.
func nearest(text string, names []string) string {
	slices.Sort(names)
	best, bestCost := "", max(1, len(text)/4)+1
	for _, name := range names {
		if strings.EqualFold(text, name) {
			return name
		}
		if cost := distance(text, name, bestCost); cost < bestCost {
			best, bestCost = name, cost
		}
	}
	return best
}

// distance is the number of letters to insert, delete or replace to turn a into b, or limit when it is that or more.
func distance(a, b string, limit int) int {
	const longest = 128
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit || len(a) > longest || len(b) > longest {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return min(row[len(b)], limit)
}
