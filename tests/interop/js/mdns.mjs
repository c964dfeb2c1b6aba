// Multicast DNS as the library does it: this peer is announced, and those that it hears of are events.
import { mdns } from '@libp2p/mdns'
import { emit } from './control.mjs'

export function mdnsCommands (node) {
  return {
    async mdns () {
      const service = mdns({ interval: 1000 })(node.components)
      service.addEventListener('peer', ({ detail }) => emit('mdns_peer', {
        peer: detail.id.toString(), addrs: detail.multiaddrs.map(String)
      }))
      await service.start()
      return {}
    }
  }
}
