// js-libp2p's relay as the library has it: TCP, Noise, yamux, circuitRelayServer, identify and ping, every limit
// lifted so that what is measured is the relay and not its refusals. Prints one ready line, then relays until it ends.
import './runtime.mjs'
import { circuitRelayServer } from '@libp2p/circuit-relay-v2'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p } from 'libp2p'

const MANY = 1_000_000
const HOUR = 3_600_000

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp({ backlog: 4096 })],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux({ maxInboundStreams: MANY, maxOutboundStreams: MANY, maxEarlyStreams: 4096 })],
  connectionManager: {
    inboundConnectionThreshold: MANY,
    inboundUpgradeTimeout: 60_000,
    maxConnections: MANY,
    maxIncomingPendingConnections: MANY
  },
  // Pinging each connection every 10 s, as it does by itself, takes all of its core at some thousand connections.
  connectionMonitor: { enabled: false },
  services: {
    identify: identify({ maxInboundStreams: 64, maxOutboundStreams: 64 }),
    ping: ping({ maxInboundStreams: 64, maxOutboundStreams: 64 }),
    relay: circuitRelayServer({
      maxInboundHopStreams: MANY,
      maxOutboundHopStreams: MANY,
      maxOutboundStopStreams: MANY,
      reservations: { applyDefaultLimit: false, maxReservations: MANY, reservationTtl: 24 * HOUR }
    })
  }
})

console.log(JSON.stringify({
  event: 'ready',
  peer_id: node.peerId.toString(),
  addresses: node.getMultiaddrs().map(String),
  pid: process.pid
}))

const stop = async () => {
  await node.stop()
  process.exit(0)
}
process.on('SIGTERM', stop)
process.on('SIGINT', stop)
