package main

// Bulk: every circuit one way, as fast as it goes. And the same with one reader that has stopped.

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// No byte for this long means that none will come.
const stuckAfter = 60 * time.Second

// flow is one direction of one circuit.
type flow struct {
	from, to *stream
	sent     atomic.Int64
	frame    []byte
}

func newFlow(p pair, pull bool, writeSize int, window uint32) *flow {
	f := &flow{from: p.dialer, to: p.target}
	if pull {
		f.from, f.to = p.target, p.dialer
	}
	f.frame = newFrame(f.from.id, writeSize)
	f.to.count(window)
	return f
}

// send writes until size bytes have left or the deadline (zero: none) has passed, and no part of a write at the end.
func (f *flow) send(size int64, deadline time.Time) error {
	left := size
	for left > 0 {
		frame := f.frame[:min(int64(len(f.frame)), headerSize+left)]
		if err := f.from.sendFrame(frame, false); err != nil {
			return err
		}
		left -= int64(len(frame) - headerSize)
		f.sent.Add(int64(len(frame) - headerSize))
		if !deadline.IsZero() && time.Now().After(deadline) {
			break
		}
	}
	return f.from.session.flushNow()
}

// drained waits until everything that was sent has come, beyond what had come before it was sent.
func (f *flow) drained(before int64) error {
	arrived := f.to.expect(before + f.sent.Load())
	last, since := int64(-1), time.Now()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-arrived:
			if got := f.to.receivedSoFar(); got != before+f.sent.Load() {
				return fmt.Errorf("%d bytes came of %d sent", got-before, f.sent.Load())
			}
			return nil
		case <-ticker.C:
			if err := errors.Join(f.to.failure(), f.to.session.failure()); err != nil {
				return err
			}
			if now := f.to.receivedSoFar(); now != last {
				last, since = now, time.Now()
			} else if time.Since(since) > stuckAfter {
				return fmt.Errorf("stuck at %d of %d bytes", now-before, f.sent.Load())
			}
		}
	}
}

// transfer sends size bytes, or for the time given, over all flows at once and waits until they have come.
func transfer(flows []*flow, size int64, seconds time.Duration) (int64, error) {
	deadline := time.Time{}
	if seconds > 0 {
		deadline = time.Now().Add(seconds)
	}
	if size == 0 {
		size = 1 << 50
	}
	var total atomic.Int64
	err := together(len(flows), func(i int) error {
		f := flows[i]
		before := f.to.receivedSoFar()
		f.sent.Store(0)
		if err := f.send(size/int64(len(flows)), deadline); err != nil {
			return err
		}
		total.Add(f.sent.Load())
		return f.drained(before)
	})
	return total.Load(), err
}

// together runs n functions at once and gives the first error.
func together(n int, do func(i int) error) error {
	var group sync.WaitGroup
	failed := make([]error, n)
	for i := range n {
		group.Go(func() { failed[i] = do(i) })
	}
	group.Wait()
	return errors.Join(failed...)
}

// bulk: phases ready, done (bytes, seconds).
func bulk(w workload) error {
	pairs, err := w.pairs()
	if err != nil {
		return err
	}
	flows := make([]*flow, len(pairs))
	for i, p := range pairs {
		flows[i] = newFlow(p, w.Direction == "pull", w.WriteSize, w.Window)
	}
	if w.WarmUp > 0 {
		if _, err := transfer(flows, w.WarmUp, 0); err != nil {
			return fmt.Errorf("warming up: %w", err)
		}
	}
	if err := phase("ready", nil); err != nil {
		return err
	}
	began := time.Now()
	moved, err := transfer(flows, w.Bytes, w.duration())
	if err != nil {
		return err
	}
	return phase("done", fields{"bytes": moved, "seconds": time.Since(began).Seconds()})
}

// stall: all circuits but the last go on; the last one's target stops reading. Phases ready, before (the rate of the
// others, bytes/s), during (their rate; what the stalled circuit's sender could send), done.
func stall(w workload) error {
	pairs, err := w.pairs()
	if err != nil {
		return err
	}
	last := len(pairs) - 1
	if last < 1 {
		return errors.New("a stalled reader needs at least two circuits")
	}
	flows := make([]*flow, last)
	for i, p := range pairs[:last] {
		flows[i] = newFlow(p, false, w.WriteSize, w.Window)
	}
	stalledFlow := &flow{from: pairs[last].dialer, to: pairs[last].target}
	stalledFlow.frame = newFrame(stalledFlow.from.id, w.WriteSize)
	pairs[last].target.stall()
	if _, err := transfer(flows, w.WarmUp, 0); err != nil {
		return fmt.Errorf("warming up: %w", err)
	}
	if err := phase("ready", nil); err != nil {
		return err
	}
	for _, f := range flows {
		go f.send(1<<50, time.Time{})
	}
	came := func() (sum int64) {
		for _, f := range flows {
			sum += f.to.receivedSoFar()
		}
		return sum
	}
	rate := func() float64 {
		from, began := came(), time.Now()
		time.Sleep(w.duration())
		return float64(came()-from) / time.Since(began).Seconds()
	}
	if err := phase("before", fields{"rate": rate()}); err != nil {
		return err
	}
	// What HOP and STOP took is no part of it.
	opened, arrived := stalledFlow.from.sentSoFar(), stalledFlow.to.receivedSoFar()
	go stalledFlow.send(w.StallBytes, time.Time{})
	// The rate counts from when the stalled circuit has filled whatever will hold it: that is what goes on.
	stalledFlow.settle(w.duration())
	err = phase("during", fields{
		"rate":          rate(),
		"stalled_sent":  stalledFlow.from.sentSoFar() - opened,
		"stalled_came":  stalledFlow.to.receivedSoFar() - arrived,
		"stalled_limit": w.StallBytes,
		"others_failed": failures(flows),
	})
	if err != nil {
		return err
	}
	return phase("done", nil)
}

// settle waits until the flow has not sent for a while, at most for the time given.
func (f *flow) settle(most time.Duration) {
	deadline := time.Now().Add(most)
	for last := int64(-1); time.Now().Before(deadline); {
		now := f.from.sentSoFar()
		if now == last {
			return
		}
		last = now
		time.Sleep(most / 10)
	}
}

func failures(flows []*flow) (failed int) {
	for _, f := range flows {
		if f.from.failure() != nil || f.to.failure() != nil {
			failed++
		}
	}
	return failed
}
