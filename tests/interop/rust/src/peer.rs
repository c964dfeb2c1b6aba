//! The commands of the control protocol, in terms of a rust-libp2p swarm.
//!
//! A command that the swarm answers later leaves a note of what it waits for; the event that ends the wait answers it.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::relay::client::Event as RelayEvent;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, NetworkBehaviour, SwarmEvent};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, Swarm, dcutr, identify, ping, relay};
use serde_json::{Value, json};

use crate::control::{Command, Failure, Outcome, answer, describe, emit};
use crate::traffic;

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub relay: relay::client::Behaviour,
    pub hole_punching: Toggle<dcutr::Behaviour>,
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub streams: libp2p_stream::Behaviour,
}

struct Connection {
    peer: PeerId,
    address: Multiaddr,
    relayed: bool,
    dialer: bool,
}

/// A reservation that was asked for. The library tells its limit and its addresses in two events, in no fixed order,
/// and neither the time it ends nor whether a voucher came.
struct Wanted {
    command: Value,
    relay: PeerId,
    limit: Option<Value>,
    addresses: Vec<String>,
}

pub struct Peer {
    pub swarm: Swarm<Behaviour>,
    control: libp2p_stream::Control,
    connections: HashMap<ConnectionId, Connection>,
    identified: HashMap<PeerId, Value>,
    reserving: HashMap<ListenerId, Wanted>,
    listening: HashMap<ListenerId, Value>,
    dialing: HashMap<ConnectionId, Value>,
    identifying: Vec<(PeerId, Value)>,
    pinging: Vec<(PeerId, Value)>,
}

impl Peer {
    pub fn new(swarm: Swarm<Behaviour>) -> Result<Self, Failure> {
        let mut control = swarm.behaviour().streams.new_control();
        serve(&mut control, traffic::PUSH, traffic::answer_push)?;
        serve(&mut control, traffic::PULL, traffic::answer_pull)?;
        serve(&mut control, traffic::HALF_CLOSE, traffic::answer_half_close)?;
        serve(&mut control, traffic::STALL, async |stream| {
            // Held unread until the process ends.
            std::future::pending::<()>().await;
            drop(stream);
            Ok(())
        })?;
        Ok(Self {
            swarm,
            control,
            connections: HashMap::new(),
            identified: HashMap::new(),
            reserving: HashMap::new(),
            listening: HashMap::new(),
            dialing: HashMap::new(),
            identifying: Vec::new(),
            pinging: Vec::new(),
        })
    }

    /// Starts a command. It is answered now, by a later event, or by the task of its stream.
    pub fn run(&mut self, command: Command) {
        let id = command.id.clone();
        match self.start(command) {
            Ok(Some(fields)) => answer(&id, Ok(fields)),
            Ok(None) => {}
            Err(error) => answer(&id, Err(error)),
        }
    }

    fn start(&mut self, command: Command) -> Result<Option<Value>, Failure> {
        match command.name.as_str() {
            "reserve" | "refresh" => self.reserve(&command)?,
            "connect" => self.connect(&command)?,
            "listen" => {
                let listener = self.swarm.listen_on(command.text("addr")?.parse()?)?;
                self.listening.insert(listener, command.id);
            }
            "identify" => {
                let peer = command.text("peer")?.parse()?;
                if let Some(known) = self.identified.get(&peer) {
                    return Ok(Some(known.clone()));
                }
                self.identifying.push((peer, command.id));
            }
            "disconnect" => {
                let peer: PeerId = command.text("peer")?.parse()?;
                self.swarm.disconnect_peer_id(peer).map_err(|()| format!("no connection to {peer}"))?;
                return Ok(Some(json!({})));
            }
            "connections" => return Ok(Some(self.list_connections())),
            "ping" => {
                let peer: PeerId = command.text("peer")?.parse()?;
                if !self.swarm.is_connected(&peer) {
                    return Err(format!("no connection to {peer}").into());
                }
                self.pinging.push((peer, command.id));
            }
            "send" => self.on_stream(command, traffic::PUSH, async |stream, command| {
                traffic::push(stream, command.number("bytes"), command.number("seed")).await
            })?,
            "fetch" => self.on_stream(command, traffic::PULL, async |stream, command| {
                traffic::pull(stream, command.number("bytes")).await
            })?,
            "echo_half_close" => self.on_stream(command, traffic::HALF_CLOSE, async |stream, command| {
                traffic::echo_half_close(stream, command.number("bytes")).await
            })?,
            "ask" => {
                let protocol = StreamProtocol::try_from_owned(command.text("protocol")?.to_owned())?;
                let data = hex::decode(command.text("data")?)?;
                self.on_stream(command, protocol, async move |stream, _| traffic::ask(stream, &data).await)?;
            }
            "flood" => self.on_stream(command, traffic::PUSH, async |stream, _| traffic::flood(stream).await)?,
            "stall" => self.on_stream(command, traffic::STALL, async |stream, command| {
                let quiet = Duration::from_secs_f64(command.seconds("quiet").unwrap_or(2.0));
                let (outcome, stream) = traffic::stall(stream, command.number("bytes"), quiet).await;
                // Dropping it would reset it; it is to stay as it is until the connection ends.
                std::mem::forget(stream);
                outcome
            })?,
            unknown => return Err(format!("unknown command {unknown:?}").into()),
        }
        Ok(None)
    }

    /// Listens through the relay: the library reserves, and reserves again before the reservation ends. A second time on
    /// the same connection is a second reservation that takes the place of the first.
    fn reserve(&mut self, command: &Command) -> Result<(), Failure> {
        let address: Multiaddr = command.text("relay")?.parse()?;
        let relay = last_peer(&address).ok_or_else(|| format!("no /p2p/ id in {address}"))?;
        let listener = self.swarm.listen_on(address.with(Protocol::P2pCircuit))?;
        let wanted = Wanted { command: command.id.clone(), relay, limit: None, addresses: Vec::new() };
        self.reserving.insert(listener, wanted);
        Ok(())
    }

    fn connect(&mut self, command: &Command) -> Result<(), Failure> {
        let address: Multiaddr = command.text("addr")?.parse()?;
        let peer = last_peer(&address).ok_or_else(|| format!("no /p2p/ id in {address}"))?;
        let dial = DialOpts::peer_id(peer).addresses(vec![address]).condition(PeerCondition::Always).build();
        let connection = dial.connection_id();
        self.swarm.dial(dial)?;
        self.dialing.insert(connection, command.id.clone());
        Ok(())
    }

    /// Runs `using` in a task of its own with a new stream to the command's peer, and answers with what it gives.
    fn on_stream<F>(
        &self,
        command: Command,
        protocol: StreamProtocol,
        using: impl FnOnce(Stream, Command) -> F + Send + 'static,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let peer: PeerId = command.text("peer")?.parse()?;
        if !self.swarm.is_connected(&peer) {
            return Err(format!("no connection to {peer}").into());
        }
        let mut control = self.control.clone();
        tokio::spawn(async move {
            let id = command.id.clone();
            let outcome = match control.open_stream(peer, protocol).await {
                Ok(stream) => using(stream, command).await,
                Err(libp2p_stream::OpenStreamError::UnsupportedProtocol(_)) if command.name == "ask" => {
                    Ok(json!({ "spoken": false, "said": "" }))
                }
                Err(error) => Err(error.into()),
            };
            answer(&id, outcome);
        });
        Ok(())
    }

    fn list_connections(&self) -> Value {
        let list: Vec<Value> = self
            .connections
            .values()
            .map(|one| {
                json!({
                    "peer": one.peer.to_string(),
                    "addr": one.address.to_string(),
                    "relayed": one.relayed,
                    "direction": direction(one.dialer),
                })
            })
            .collect();
        json!({ "connections": list })
    }

    /// Takes in one event of the swarm: answers the command that waited for it, and tells connections on stdout.
    pub fn learn(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                let relayed = endpoint.is_relayed();
                let dialer = endpoint.is_dialer();
                let address = endpoint.get_remote_address().clone();
                self.connections.insert(connection_id, Connection { peer: peer_id, address, relayed, dialer });
                emit(
                    "connection",
                    json!({ "peer": peer_id.to_string(), "relayed": relayed, "direction": direction(dialer) }),
                );
                if let Some(command) = self.dialing.remove(&connection_id) {
                    answer(&command, Ok(json!({ "relayed": relayed, "peer": peer_id.to_string() })));
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, endpoint, cause, .. } => {
                self.connections.remove(&connection_id);
                let cause = cause.map(|error| describe(&error));
                for (_, command) in self.pinging.extract_if(.., |(asked, _)| *asked == peer_id) {
                    answer(&command, Err("the connection was closed".into()));
                }
                emit(
                    "disconnection",
                    json!({ "peer": peer_id.to_string(), "relayed": endpoint.is_relayed(), "error": cause }),
                );
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error, .. } => {
                let told = describe(&error);
                if let Some(command) = self.dialing.remove(&connection_id) {
                    answer(&command, Err(told.clone().into()));
                }
                for (_, wanted) in self.reserving.extract_if(|_, wanted| Some(wanted.relay) == peer_id) {
                    answer(&wanted.command, Err(told.clone().into()));
                }
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                if let Some(wanted) = self.reserving.get_mut(&listener_id) {
                    wanted.addresses.push(address.to_string());
                    self.answer_reservation(listener_id);
                } else if let Some(command) = self.listening.remove(&listener_id) {
                    let own = address.with(Protocol::P2p(*self.swarm.local_peer_id()));
                    answer(&command, Ok(json!({ "addrs": [own.to_string()] })));
                }
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some(wanted) = self.reserving.remove(&listener_id) {
                    let told =
                        reason.err().map_or("the reservation's listener was closed".into(), |error| describe(&error));
                    answer(&wanted.command, Err(told.into()));
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Relay(RelayEvent::ReservationReqAccepted {
                relay_peer_id,
                limit,
                ..
            })) => {
                let limit = json!({
                    "data": limit.as_ref().and_then(|limit| limit.data_in_bytes()).unwrap_or(0),
                    "duration": limit.and_then(|limit| limit.duration()).map_or(0, |duration| duration.as_secs()),
                });
                let waiting =
                    self.reserving.iter_mut().find(|(_, one)| one.relay == relay_peer_id && one.limit.is_none());
                if let Some((&listener, wanted)) = waiting {
                    wanted.limit = Some(limit);
                    self.answer_reservation(listener);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { peer, result, .. })) => {
                let told = result.map(|rtt| rtt.as_secs_f64() * 1000.0).map_err(|error| describe(&error));
                for (_, command) in self.pinging.extract_if(.., |(asked, _)| *asked == peer) {
                    answer(&command, told.clone().map(|rtt| json!({ "rtt_ms": rtt })).map_err(Failure::from));
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                let known = identified(&info);
                for (_, command) in self.identifying.extract_if(.., |(peer, _)| *peer == peer_id) {
                    answer(&command, Ok(known.clone()));
                }
                self.identified.insert(peer_id, known);
            }
            _ => {}
        }
    }

    fn answer_reservation(&mut self, listener: ListenerId) {
        let complete =
            self.reserving.get(&listener).is_some_and(|one| one.limit.is_some() && !one.addresses.is_empty());
        if !complete {
            return;
        }
        if let Some(Wanted { command, limit: Some(limit), addresses, .. }) = self.reserving.remove(&listener) {
            let fields = json!({
                "expires": null,
                "addrs": addresses,
                "limit_data": limit["data"],
                "limit_duration": limit["duration"],
                "voucher": null,
            });
            answer(&command, Ok(fields));
        }
    }
}

/// Gives every inbound stream of one protocol to `handle`, each in a task of its own.
fn serve<F>(
    control: &mut libp2p_stream::Control,
    protocol: StreamProtocol,
    handle: impl Fn(Stream) -> F + Send + 'static,
) -> Result<(), Failure>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut incoming = control.accept(protocol.clone()).map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        while let Some((_, stream)) = incoming.next().await {
            let protocol = protocol.clone();
            let handling = handle(stream);
            tokio::spawn(async move {
                if let Err(error) = handling.await {
                    eprintln!("{protocol}: {error}");
                }
            });
        }
    });
    Ok(())
}

fn last_peer(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

fn direction(dialer: bool) -> &'static str {
    if dialer { "outbound" } else { "inbound" }
}

fn identified(info: &identify::Info) -> Value {
    json!({
        "agent": info.agent_version,
        "protocol_version": info.protocol_version,
        "protocols": info.protocols.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "listen_addrs": info.listen_addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "observed": info.observed_addr.to_string(),
        "signed_record": info.signed_peer_record.is_some(),
    })
}
