//go:build !linux

package main

// napLonger does nothing: see the one for Linux.
func napLonger() {}
