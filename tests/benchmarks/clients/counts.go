package main

// What is counted rather than weighed: connections, reservations, circuits.

import (
	"sync"
	"time"
)

type countOptions struct {
	layout
	count      int
	concurrent int
}

// connects opens connections one after another: identify in both directions where the relay asks too, then close.
func (o countOptions) connects(b *bench) error {
	one := func(wait bool) (bool, error) {
		p, err := dial(o.relay, o.window, 0)
		if err != nil {
			return false, err
		}
		defer p.session.close()
		if err := p.askIdentify(); err != nil {
			return false, err
		}
		if !wait {
			return false, nil
		}
		select {
		case <-p.asked:
			return true, nil
		case <-time.After(time.Second):
			return false, nil
		}
	}
	asks, err := one(true) // a relay that does not ask is not waited for
	if err != nil {
		return err
	}
	b.begin()
	for range o.count {
		if _, err := one(asks); err != nil {
			return err
		}
	}
	b.end(fields{"count": o.count, "relay_identifies": asks})
	return nil
}

// reserve connects count peers from addresses of their own; the workload is that each reserves.
func (o countOptions) reserve(b *bench) error {
	peers := make([]*peer, o.count)
	start := time.Now()
	err := o.each(func(i int) (err error) {
		if peers[i], err = dial(o.relay, o.window, i+1); err == nil {
			err = peers[i].askIdentify()
		}
		return err
	})
	if err != nil {
		return err
	}
	connecting := time.Since(start).Seconds()
	b.begin()
	if err := o.each(func(i int) error { return peers[i].reserve() }); err != nil {
		return err
	}
	b.end(fields{"count": o.count, "connecting_seconds": connecting})
	b.hold()
	for _, p := range peers { // kept to here
		p.session.close()
	}
	return nil
}

func (o countOptions) each(do func(i int) error) error {
	next := make(chan int)
	failures := make(chan error, o.concurrent)
	var working sync.WaitGroup
	for range o.concurrent {
		working.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	var failure error
	for i := range o.count {
		select {
		case next <- i:
			continue
		case failure = <-failures:
		}
		break
	}
	close(next)
	working.Wait()
	if failure == nil && len(failures) > 0 {
		failure = <-failures
	}
	return failure
}

// circuits opens and closes circuits one after another between two connections that stay.
func (o countOptions) circuits(b *bench) error {
	target, err := o.target()
	if err != nil {
		return err
	}
	source, err := o.source(target)
	if err != nil {
		return err
	}
	one := func() error {
		made, err := source.connect(target)
		if err != nil {
			return err
		}
		made.source.finish()
		if err := made.target.waitEnd(); err != nil {
			return err
		}
		made.target.finish()
		return made.source.waitEnd()
	}
	if err := one(); err != nil {
		return err
	}
	b.begin()
	for range o.count {
		if err := one(); err != nil {
			return err
		}
	}
	b.end(fields{"count": o.count})
	return nil
}
