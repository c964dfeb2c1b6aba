package main

// Round trips of a small message, one after another, alone or beside circuits that carry a steady stream. Both ends
// answer from the goroutine that reads, so that what the relay adds stands out.

import (
	"errors"
	"slices"
	"time"
)

type pingpongOptions struct {
	layout
	size  int
	count int
	busy  int
	rate  uint64 // bytes per second over all busy circuits
	write int
}

func (o pingpongOptions) run(b *bench) error {
	circuits, err := o.open(1 + o.busy)
	if err != nil {
		return err
	}
	for i, one := range circuits[1:] {
		one.target.deliverTo(func([]byte) {})
		go o.pace(one.source, i)
	}
	source, target := circuits[0].source, circuits[0].target
	payload := make([]byte, o.size)
	echo(target, o.size, func() { target.reply(payload) })
	times := make([]time.Duration, 0, o.count)
	done := make(chan struct{})
	var sent time.Time
	echo(source, o.size, func() {
		now := time.Now()
		if times = append(times, now.Sub(sent)); len(times) == o.count {
			close(done)
			return
		}
		sent = now
		source.reply(payload)
	})
	b.begin()
	sent = time.Now()
	source.reply(payload)
	select {
	case <-done:
	case <-time.After(5 * time.Minute):
		return errors.New("a message is missing after five minutes")
	}
	slices.Sort(times)
	b.end(fields{
		"p50_us": float64(times[len(times)/2].Nanoseconds()) / 1e3,
		"p99_us": float64(times[len(times)*99/100].Nanoseconds()) / 1e3,
		"count":  o.count,
	})
	return nil
}

// echo calls then for each size bytes that arrive.
func echo(s *stream, size int, then func()) {
	have := 0
	s.deliverTo(func(piece []byte) {
		if have += len(piece); have >= size {
			have -= size
			then()
		}
	})
}

// pace writes at this circuit's share of the rate, its beginning shifted so that the circuits do not write together.
func (o pingpongOptions) pace(to *stream, index int) {
	payload := make([]byte, o.write)
	interval := time.Duration(float64(time.Second) * float64(o.write) * float64(o.busy) / float64(o.rate))
	time.Sleep(interval * time.Duration(index) / time.Duration(o.busy))
	for range time.Tick(interval) {
		if _, err := to.Write(payload); err != nil {
			return
		}
	}
}
