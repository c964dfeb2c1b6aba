package main

// What comes and goes: connections, reservations, circuits.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A relay that has not asked for identify by then never does.
const identifyWait = 500 * time.Millisecond

// many runs n things, at most concurrency of them at once, until one fails.
func many(n, concurrency int, do func(i int) error) error {
	var next atomic.Int64
	return together(max(1, concurrency), func(int) error {
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return nil
			}
			if err := do(i); err != nil {
				next.Store(int64(n))
				return err
			}
		}
	})
}

// source gives client i an address of its own, spread over 127.0.0.0/8 as strangers are over the Internet.
func source(i int) net.IP {
	return net.IPv4(127, byte(1+i%250), byte(i/250%250), byte(1+i/62500))
}

// connects: new connections with identify both ways, closed again. Phases ready, done.
func connects(w workload) error {
	// The first one shows whether this relay asks its clients who they are.
	asks, err := oneConnect(w, true)
	if err != nil {
		return err
	}
	if err := phase("ready", fields{"relay_identifies": asks}); err != nil {
		return err
	}
	times, lock := []time.Duration{}, sync.Mutex{}
	began := time.Now()
	err = many(w.Count, w.Concurrency, func(int) error {
		from := time.Now()
		if _, err := oneConnect(w, asks); err != nil {
			return err
		}
		lock.Lock()
		times = append(times, time.Since(from))
		lock.Unlock()
		return nil
	})
	if err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	found := summary(times)
	found["count"], found["seconds"] = w.Count, seconds
	return phase("done", found)
}

// oneConnect stays until both sides have identified each other, if the relay does so at all.
func oneConnect(w workload, asks bool) (asked bool, err error) {
	c, err := connectPeer(w.Relay, w.options(), false)
	if err != nil {
		return false, err
	}
	defer c.close()
	if asks {
		select {
		case <-c.identified:
			return true, nil
		case <-time.After(identifyWait):
		}
	}
	return false, nil
}

// reserves: reservations on connections that are there. Phases ready, done.
func reserves(w workload) error {
	clients := make([]*client, w.Count)
	err := many(w.Count, w.Concurrency, func(i int) (err error) {
		clients[i], err = connectPeer(w.Relay, clientOptions{source: source(i)}, false)
		return err
	})
	if err != nil {
		return err
	}
	if err := phase("ready", nil); err != nil {
		return err
	}
	began := time.Now()
	if err := many(w.Count, w.Concurrency, func(i int) error { return clients[i].reserve() }); err != nil {
		return err
	}
	return phase("done", fields{"count": w.Count, "seconds": time.Since(began).Seconds()})
}

var errLate = errors.New("the time for this step is over")

// reservations: connections with a reservation each, held open. A step ends early when one is not to be had any more or,
// with seconds, when its time is over. Phases ready, one "held" a step, done.
func reservations(w workload) error {
	var clients []*client
	if err := phase("ready", nil); err != nil {
		return err
	}
	for _, step := range w.Steps {
		have := len(clients)
		fresh := make([]*client, max(0, step-have))
		began := time.Now()
		err := many(len(fresh), w.Concurrency, func(i int) (err error) {
			if w.Seconds > 0 && time.Since(began) > w.duration() {
				return errLate
			}
			fresh[i], err = connectPeer(w.Relay, clientOptions{source: source(have + i)}, true)
			return err
		})
		seconds := time.Since(began).Seconds()
		for _, c := range fresh {
			if c != nil {
				clients = append(clients, c)
			}
		}
		lost := 0
		for _, c := range clients {
			if c.failure() != nil {
				lost++
			}
		}
		found := fields{"held": len(clients) - lost, "lost": lost, "seconds": seconds}
		if err != nil {
			found["stopped"] = err.Error()
		}
		if err := phase("held", found); err != nil {
			return err
		}
	}
	return phase("done", nil)
}

// circuits: opened and closed one after another between two peers. Phases ready, done.
func circuits(w workload) error {
	target, err := connectPeer(w.Relay, w.options(), true)
	if err != nil {
		return err
	}
	dialer, err := connectPeer(w.Relay, w.options(), false)
	if err != nil {
		return err
	}
	if _, err := oneCircuit(dialer, target); err != nil {
		return err
	}
	if err := phase("ready", nil); err != nil {
		return err
	}
	times := make([]time.Duration, w.Count)
	began := time.Now()
	for i := range times {
		if times[i], err = oneCircuit(dialer, target); err != nil {
			return fmt.Errorf("circuit %d: %w", i, err)
		}
	}
	found := summary(times)
	found["count"], found["seconds"] = w.Count, time.Since(began).Seconds()
	return phase("done", found)
}

// oneCircuit opens a circuit and closes it from both ends. It gives the time it took to open.
func oneCircuit(dialer, target *client) (time.Duration, error) {
	began := time.Now()
	p, err := openPair(dialer, target)
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	for _, one := range []struct{ from, to *stream }{{p.dialer, p.target}, {p.target, p.dialer}} {
		if err := one.from.closeWrite(); err != nil {
			return 0, err
		}
		if _, err := one.to.Read(make([]byte, 1)); err != io.EOF {
			return 0, fmt.Errorf("a closed circuit's other end read %v", err)
		}
	}
	return took, nil
}
