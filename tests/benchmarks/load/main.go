// The load: clients of a relay that cost so little that the relay is what is measured.
//
// It reads one JSON object, a workload, from standard input, sets it up and prints {"phase": "ready"}. Each line on
// standard input after that lets it go on to its next phase, of which it prints one JSON object: so whoever measures
// the relay knows when to look. README.md beside this folder lists the workloads.
//
// The clients speak what libp2p's do (multistream-select, Noise XX, yamux, identify, ping, HOP and STOP) and nothing
// above it: inside a circuit they send plain bytes, which a relay cannot tell from Noise messages.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// workload is what was asked for. Sizes are bytes, times are seconds.
type workload struct {
	Workload string `json:"workload"`
	// Relay is the relay's full multiaddr; with Direct the two ends of each circuit are joined by TCP instead.
	Relay  string `json:"relay"`
	Direct bool   `json:"direct"`
	// TargetRelay: where the targets connect, if not at Relay: at another forwarder of the same relay.
	TargetRelay string `json:"target_relay"`
	// Shared: all circuits between one dialer and one target, not each between two peers of its own.
	Shared   bool   `json:"shared"`
	Circuits int    `json:"circuits"`
	Window   uint32 `json:"window"`
	// EachFrame: one TCP write per yamux frame, not one per 64 KiB.
	EachFrame bool `json:"each_frame"`

	Direction string  `json:"direction"`
	WriteSize int     `json:"write_size"`
	Bytes     int64   `json:"bytes"`
	Seconds   float64 `json:"seconds"`
	WarmUp    int64   `json:"warm_up"`

	MessageSize int   `json:"message_size"`
	Count       int   `json:"count"`
	BusyRate    int64 `json:"busy_rate"`
	AtOnce      bool  `json:"at_once"`

	Steps       []int `json:"steps"`
	Concurrency int   `json:"concurrency"`

	StallBytes int64 `json:"stall_bytes"`
}

type fields map[string]any

var workloads = map[string]func(workload) error{
	"bulk":         bulk,
	"pingpong":     pingPong,
	"connects":     connects,
	"reserves":     reserves,
	"reservations": reservations,
	"circuits":     circuits,
	"stall":        stall,
}

var stdin = bufio.NewReader(os.Stdin)

var errEnded = errors.New("standard input ended")

// phase prints what a phase found and waits for the word to go on.
func phase(name string, found fields) error {
	out := fields{"phase": name}
	for key, value := range found {
		out[key] = value
	}
	line, err := json.Marshal(out)
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	if _, err := stdin.ReadString('\n'); err != nil {
		return errEnded
	}
	return nil
}

func run() error {
	line, err := stdin.ReadBytes('\n')
	if err != nil {
		return err
	}
	w := workload{
		Circuits: 1, Window: 1 << 20, Direction: "push", WriteSize: 65536, MessageSize: 64, Count: 1000, Concurrency: 1,
	}
	if err := json.Unmarshal(line, &w); err != nil {
		return err
	}
	start := workloads[w.Workload]
	if start == nil {
		return fmt.Errorf("no workload %q", w.Workload)
	}
	return start(w)
}

func main() {
	if err := run(); err != nil && !errors.Is(err, errEnded) {
		line, _ := json.Marshal(fields{"error": err.Error()})
		fmt.Println(string(line))
		os.Exit(1)
	}
}

func (w workload) options() clientOptions {
	return clientOptions{eachFrame: w.EachFrame}
}

func (w workload) pairs() ([]pair, error) {
	if w.Direct {
		return openDirect(w.Circuits, w.Shared, w.options())
	}
	return openPairs(w.Relay, w.targetRelay(), w.Circuits, w.Shared, w.options())
}

func (w workload) targetRelay() string {
	if w.TargetRelay == "" {
		return w.Relay
	}
	return w.TargetRelay
}

func (w workload) duration() time.Duration {
	return time.Duration(w.Seconds * float64(time.Second))
}
