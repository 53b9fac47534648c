//go:build !invariants && !race

package invariant

// Expensive reports whether dear checks (whole-structure walks) run: under -race and with -tags invariants.
const Expensive = false
