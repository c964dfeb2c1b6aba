// A Kademlia node of the library's own, made when a test asks for it, so that no other test has one.
import { createHash } from 'node:crypto'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { multiaddr } from '@multiformats/multiaddr'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import * as Digest from 'multiformats/hashes/digest'

const SHA2_256 = 0x12
const LOOK_UP_TIME = 20_000

// The key that stands for a name, as go-libp2p's routing discovery makes it.
const keyOf = name => CID.createV1(raw.code, Digest.create(SHA2_256, createHash('sha256').update(name).digest()))

export function dhtCommands (node) {
  let dht
  const joined = () => {
    if (dht === undefined) {
      throw new Error('no DHT: dht_join comes first')
    }
    return dht
  }
  return {
    async dht_join ({ prefix, server, addrs }) {
      // Addresses as they are: the tests' are private ones.
      dht = kadDHT({ protocol: `${prefix}/kad/1.0.0`, clientMode: !server, peerInfoMapper: passthroughMapper })(node.components)
      await dht.start()
      for (const addr of addrs) {
        await node.dial(multiaddr(addr))
      }
      return {}
    },
    async dht_peers () {
      return { peers: [...joined().routingTable.kb.toIterable()].map(({ peerId }) => peerId.toString()) }
    },
    async provide ({ name }) {
      for await (const event of joined().provide(keyOf(name), { signal: AbortSignal.timeout(LOOK_UP_TIME) })) {
        if (event.name === 'QUERY_ERROR') {
          console.error('provide', event.error)
        }
      }
      return {}
    },
    async find ({ name }) {
      const peers = {}
      for await (const event of joined().findProviders(keyOf(name), { signal: AbortSignal.timeout(LOOK_UP_TIME) })) {
        if (event.name === 'PROVIDER') {
          for (const { id, multiaddrs } of event.providers) {
            peers[id.toString()] = multiaddrs.map(String)
          }
        }
      }
      return { peers }
    }
  }
}
