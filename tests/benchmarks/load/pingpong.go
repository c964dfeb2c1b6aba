package main

// Ping-pong: a small message each way, over and over, beside circuits that are busy or that do the same.

import (
	"fmt"
	"io"
	"slices"
	"time"
)

const (
	// What busy circuits send at a time.
	busyWrite = 16 * 1024
	warmPings = 100
)

// rally sends messages and waits for each to come back. It gives the round trips' times.
func rally(t *stream, size, count int) ([]time.Duration, error) {
	message, times := make([]byte, size), make([]time.Duration, count)
	for i := range times {
		began := time.Now()
		if _, err := t.Write(message); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(t, message); err != nil {
			return nil, err
		}
		times[i] = time.Since(began)
	}
	return times, nil
}

// echo sends back whatever comes, message by message.
func echo(t *stream, size int) {
	message := make([]byte, size)
	for {
		if _, err := io.ReadFull(t, message); err != nil {
			return
		}
		if _, err := t.Write(message); err != nil {
			return
		}
	}
}

// pace sends at a rate in bytes/s for as long as the stream lives. A write that is late is made up for.
func (f *flow) pace(rate float64, offset time.Duration) {
	every := time.Duration(float64(busyWrite) / rate * float64(time.Second))
	for next := time.Now().Add(offset); ; next = next.Add(every) {
		time.Sleep(time.Until(next))
		if f.from.sendFrame(f.frame, true) != nil {
			return
		}
		f.sent.Add(busyWrite)
	}
}

// pingPong: phases ready, done (round trips in seconds). The first circuit is measured; the others are busy with
// busy_rate bytes/s in all, every second one towards its dialer; or with at_once all play.
func pingPong(w workload) error {
	pairs, err := w.pairs()
	if err != nil {
		return err
	}
	players := pairs[:1]
	if w.AtOnce {
		players = pairs
	}
	for _, p := range players {
		go echo(p.target, w.MessageSize)
	}
	busy := pairs[len(players):]
	rate := float64(w.BusyRate) / float64(max(1, len(busy)))
	var flows []*flow
	for i, p := range busy {
		f := newFlow(p, i%2 == 1, busyWrite, w.Window)
		flows = append(flows, f)
		if w.BusyRate > 0 {
			every := float64(busyWrite) / rate
			go f.pace(rate, time.Duration(every*float64(i)/float64(len(busy))*float64(time.Second)))
		} else {
			go f.send(1<<50, time.Time{})
		}
	}
	all := make([][]time.Duration, len(players))
	play := func(count int) error {
		return together(len(players), func(i int) (err error) {
			all[i], err = rally(players[i].dialer, w.MessageSize, count)
			return err
		})
	}
	if err := play(min(w.Count, warmPings)); err != nil {
		return fmt.Errorf("warming up: %w", err)
	}
	if err := phase("ready", nil); err != nil {
		return err
	}
	came := func() (sum int64) {
		for _, f := range flows {
			sum += f.to.receivedSoFar()
		}
		return sum
	}
	began, from := time.Now(), came()
	if err := play(w.Count); err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	found := summary(slices.Concat(all...))
	found["seconds"], found["messages"] = seconds, 2*w.Count*len(players)
	found["busy_rate"] = float64(came()-from) / seconds
	return phase("done", found)
}

// summary gives percentiles in seconds.
func summary(times []time.Duration) fields {
	slices.Sort(times)
	at := func(part float64) float64 {
		return times[min(len(times)-1, int(part*float64(len(times))))].Seconds()
	}
	return fields{"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1)}
}
