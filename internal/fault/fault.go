// Package fault marks the places in the program where its sudden end must lose nothing: between two durable steps, and
// before and after each act on a Pod.
//
// A program as it is shipped has nothing at these places. One built with the tag `faults` ends there by SIGKILL when it
// is told to; test/chaos uses that, place by place.
package fault
