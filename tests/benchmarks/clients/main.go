// The clients of a relay under load: it plays the peers on both sides of a relay, with so little of libp2p that the
// relay is what is measured. On the wire it is a libp2p peer: multistream-select, Noise XX with an Ed25519 identity,
// yamux with windows of 256 KiB that grow to --window and are given back by halves, identify, hop and stop. Inside a
// circuit are raw bytes, which a relay cannot tell from anything else. Each application write is one yamux frame, each
// frame its own Noise messages.
//
// A workload prints one JSON line when it is done. With --wait it first prints {"event": "ready"} when its connections
// stand and goes on at a line on standard input, so that who started it can read the relay's counters at both ends.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

type fields map[string]any

// A bench is the frame around one workload: when it begins, what it cost the clients, what it found.
type bench struct {
	name  string
	wait  bool
	stdin *bufio.Reader
	start time.Time
	spent time.Duration
}

func processTime() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func (b *bench) begin() {
	if b.wait {
		emit(fields{"event": "ready"})
		_, _ = b.stdin.ReadString('\n')
	}
	b.start, b.spent = time.Now(), processTime()
}

func (b *bench) end(found fields) {
	found["seconds"] = time.Since(b.start).Seconds()
	found["client_cpu_seconds"] = (processTime() - b.spent).Seconds()
	found["event"], found["workload"] = "result", b.name
	emit(found)
	if b.wait { // its connections stay until the counters have been read
		_, _ = b.stdin.ReadString('\n')
	}
}

// hold keeps everything as it is until standard input ends.
func (b *bench) hold() { _, _ = io.Copy(io.Discard, b.stdin) }

func emit(f fields) {
	encoded, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(encoded))
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "relay-clients:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: relay-clients bulk|pingpong|connects|reserve|circuits|stall --relay MULTIADDR ...")
	}
	f := flag.NewFlagSet(args[0], flag.ExitOnError)
	relay := f.String("relay", "", "the relay, /ip4/ADDRESS/tcp/PORT/p2p/ID")
	window := f.Uint("window", 1<<20, "what a receiver raises a stream's window to, bytes")
	wait := f.Bool("wait", false, "say when ready, begin at a line on standard input, end at another")
	count := f.Int("count", 100, "how many connections, reservations, circuits or round trips")
	write := f.Int("write", 16384, "bytes of one application write")
	shared := f.Bool("shared-connections", false, "bulk: all circuits between one pair of connections")
	direction := f.String("direction", "push", "bulk: push (to the target) or pull")
	circuits := f.Int("circuits", 1, "bulk: how many")
	total := f.Uint64("bytes", 64<<20, "bulk: over all circuits")
	size := f.Int("size", 64, "pingpong: bytes of a message")
	busy := f.Int("busy", 0, "pingpong: circuits beside it that carry data")
	rate := f.Uint64("busy-rate", 16<<20, "pingpong: bytes per second over all busy circuits")
	straight := f.Bool("direct", false, "pingpong: without a relay, from peer to peer")
	concurrent := f.Int("concurrent", 32, "reserve: peers at a time")
	duration := f.Duration("duration", 2*time.Second, "stall: of each measurement")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	l := layout{window: uint32(*window), shared: *shared}
	if !*straight {
		var err error
		if l.relay, err = relayAddress(*relay); err != nil {
			return err
		}
	}
	if *direction != "push" && *direction != "pull" {
		return fmt.Errorf("--direction is push or pull, not %q", *direction)
	}
	if *circuits < 1 || *count < 1 || *write < 1 || *write > firstWindow || *size < 1 {
		return fmt.Errorf("--circuits, --count, --size and --write are at least 1, --write at most %d", firstWindow)
	}
	b := &bench{name: args[0], wait: *wait, stdin: bufio.NewReader(os.Stdin)}
	counted := countOptions{l, *count, *concurrent}
	switch args[0] {
	case "bulk":
		return bulkOptions{l, *direction == "push", *circuits, *write, *total}.run(b)
	case "pingpong":
		return pingpongOptions{l, *size, *count, *busy, *rate, *write}.run(b)
	case "connects":
		return counted.connects(b)
	case "reserve":
		return counted.reserve(b)
	case "circuits":
		return counted.circuits(b)
	case "stall":
		return stallOptions{l, *write, *duration}.run(b)
	}
	return fmt.Errorf("no workload %q", args[0])
}
