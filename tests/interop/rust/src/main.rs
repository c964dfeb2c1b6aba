//! A rust-libp2p peer for the relay's interoperability tests: TCP, Noise, yamux, identify, ping and the client half of
//! circuit relay v2, all as the library does them. control.rs says how it is spoken to.
//!
//! Environment: DESCORD_PEER_SEED (64 hex digits, optional) is the Ed25519 seed of its identity.

mod control;
mod peer;
mod traffic;

use std::time::Duration;

use futures::StreamExt;
use libp2p::{SwarmBuilder, dcutr, identify, identity, noise, ping, tcp, yamux};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use control::{Command, Failure, answer, emit};
use peer::{Behaviour, Peer};

const VERSION: &str = env!("LIBP2P_VERSION");
/// Connections stay until a test ends them.
const IDLE: Duration = Duration::from_secs(3600);
/// The library pings on its own time only; the ping command answers with its next one.
const PING_EVERY: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let key = match std::env::var("DESCORD_PEER_SEED") {
        Ok(seed) => identity::Keypair::ed25519_from_bytes(hex::decode(seed)?)?,
        Err(_) => identity::Keypair::generate_ed25519(),
    };
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)?
        .with_relay_client(noise::Config::new, yamux::Config::default)?
        .with_behaviour(|key, relay| Behaviour {
            relay,
            // Off unless a test asks for it: it would tell others where this peer is.
            hole_punching: std::env::var("DESCORD_PEER_HOLE_PUNCHING")
                .is_ok()
                .then(|| dcutr::Behaviour::new(key.public().to_peer_id()))
                .into(),
            identify: identify::Behaviour::new(
                identify::Config::new("/descord-interop/1.0.0".into(), key.public())
                    .with_agent_version(format!("rust-libp2p/{VERSION}")),
            ),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_EVERY)),
            streams: libp2p_stream::Behaviour::new(),
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build();

    let mut peer = Peer::new(swarm)?;
    emit(
        "ready",
        json!({ "peer_id": peer.swarm.local_peer_id().to_string(), "implementation": "rust", "version": VERSION }),
    );

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                None => return Ok(()),
                Some(line) if line.trim().is_empty() => {}
                Some(line) => match Command::parse(&line) {
                    Ok(command) => peer.run(command),
                    Err(error) => answer(&Value::Null, Err(error)),
                },
            },
            event = peer.swarm.select_next_some() => peer.learn(event),
        }
    }
}
