package main

// Bulk: every circuit carries its share of the bytes in one direction. stall: the same, to a target that stops reading.

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

type bulkOptions struct {
	layout
	push     bool
	circuits int
	write    int
	bytes    uint64
}

func (o bulkOptions) run(b *bench) error {
	circuits, err := o.open(o.circuits)
	if err != nil {
		return err
	}
	share := int(o.bytes) / o.circuits
	var arrived sync.WaitGroup
	arrived.Add(len(circuits))
	failures := make(chan error, len(circuits))
	b.begin()
	for _, one := range circuits {
		from, to := one.source, one.target
		if !o.push {
			from, to = to, from
		}
		left := share
		to.deliverTo(func(piece []byte) {
			if left -= len(piece); left == 0 {
				arrived.Done()
			}
		})
		go func() {
			if err := send(from, o.write, share); err != nil {
				failures <- err
			}
		}()
	}
	done := make(chan struct{})
	go func() { arrived.Wait(); close(done) }()
	select {
	case <-done:
	case err := <-failures:
		return err
	case <-time.After(10 * time.Minute):
		return errors.New("bytes are missing after ten minutes")
	}
	messages := o.circuits * ((share + o.write - 1) / o.write)
	b.end(fields{"bytes": share * o.circuits, "messages": messages})
	return nil
}

func send(to *stream, write, total int) error {
	payload := make([]byte, write)
	for total > 0 {
		n, err := to.Write(payload[:min(write, total)])
		if err != nil {
			return err
		}
		total -= n
	}
	return nil
}

type stallOptions struct {
	layout
	write    int
	duration time.Duration
}

// run has three circuits to one target carry what they can, then adds a fourth that the target never reads, and tells
// the rate of the three before and after, and what of the fourth was sent and what of that the relay has given on.
func (o stallOptions) run(b *bench) error {
	o.one = true
	circuits, err := o.open(4)
	if err != nil {
		return err
	}
	var read, pushed atomic.Uint64
	for _, one := range circuits[:3] {
		one.target.deliverTo(func(piece []byte) { read.Add(uint64(len(piece))) })
		go flood(one.source, o.write, nil)
	}
	stalled := circuits[3]
	stalled.target.stall()
	rate := func() float64 {
		before, start := read.Load(), time.Now()
		time.Sleep(o.duration)
		return float64(read.Load()-before) / time.Since(start).Seconds()
	}
	b.begin()
	time.Sleep(o.duration / 4)
	before := rate()
	go flood(stalled.source, o.write, &pushed)
	time.Sleep(o.duration)
	after := rate()
	stalled.target.session.mu.Lock()
	arrived := stalled.target.arrived
	stalled.target.session.mu.Unlock()
	b.end(fields{
		"before_bytes_per_second": before, "after_bytes_per_second": after,
		"stalled_sent": pushed.Load(), "stalled_arrived": arrived,
	})
	b.hold()
	return nil
}

func flood(to *stream, write int, count *atomic.Uint64) {
	payload := make([]byte, write)
	for {
		n, err := to.Write(payload)
		if err != nil {
			return
		}
		if count != nil {
			count.Add(uint64(n))
		}
	}
}
