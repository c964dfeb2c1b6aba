//! rust-libp2p's relay as the library has it: TCP, Noise, yamux, relay, identify and ping, every limit lifted so that
//! what is measured is the relay and not its refusals. Prints one ready line, then relays until it is ended.

use std::time::Duration;

use futures::StreamExt;
use libp2p::{
    Multiaddr, SwarmBuilder, identify, noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use serde_json::json;

/// Connections stay until a client ends them.
const IDLE: Duration = Duration::from_secs(24 * 3600);
/// The library allows one receive window's worth of streams in its gigabyte per connection: no more than this.
const STREAMS: usize = 4096;
/// The library panics on more seconds than a u32 holds.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

#[derive(NetworkBehaviour)]
struct Relay {
    relay: relay::Behaviour,
    identify: identify::Behaviour,
    /// Reports a failure and goes on: nothing here ends a connection for it.
    ping: ping::Behaviour,
}

fn lifted() -> relay::Config {
    relay::Config {
        max_reservations: usize::MAX,
        max_reservations_per_peer: usize::MAX,
        reservation_duration: IDLE,
        reservation_rate_limiters: Vec::new(),
        max_circuits: usize::MAX,
        max_circuits_per_peer: usize::MAX,
        max_circuit_duration: FOREVER,
        max_circuit_bytes: u64::MAX,
        circuit_src_rate_limiters: Vec::new(),
    }
}

// The relay has one core, and on one core one thread is what costs least: a round trip takes a third of the time.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, || {
            let mut config = yamux::Config::default();
            config.set_max_num_streams(STREAMS);
            config
        })?
        .with_behaviour(|key| Relay {
            relay: relay::Behaviour::new(key.public().to_peer_id(), lifted()),
            identify: identify::Behaviour::new(identify::Config::new("/ipfs/0.1.0".into(), key.public())),
            ping: ping::Behaviour::new(ping::Config::new()),
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse::<Multiaddr>()?)?;
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            // A reservation names external addresses only.
            swarm.add_external_address(address.clone());
            let peer = swarm.local_peer_id();
            let full = format!("{address}/p2p/{peer}");
            println!(
                "{}",
                json!({ "event": "ready", "peer_id": peer.to_string(), "addresses": [full], "pid": std::process::id() })
            );
        }
    }
}
