//! The wire: generated gRPC code, checked conversions to and from our own
//! types, and the seam behind which a simulated network can stand.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::codegen::{BoxFuture as ServiceFuture, Service, http};
use tonic::transport::{Channel, Endpoint};

use self::family::family_service_client::FamilyServiceClient;
use self::family::{FromNode, HeartbeatRequest, HeartbeatResponse, RegisterNodeRequest, RegisterNodeResponse, ToNode};
use crate::tls::{Callee, Cluster, Stream as Connection};
use crate::types::{
    BadId, CopyRecord, Deadline, Epoch, Fence, Leadership, Listed, Member, MessageId, NodeId, Payload, Removed, Uuid,
    Version,
};

/// Messages and services of `proto/family.proto`.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all)]
pub mod family {
    tonic::include_proto!("family");
    /// For gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/family.bin"));
}

/// The version of lanes and registration that this build speaks.
pub const FORMAT: u32 = 1;

/// The largest gRPC message that is taken, bytes: more than the largest message there may be and what is batched before it.
pub const MAX_FRAME: usize = 128 << 20;

/// Bytes of bodies that a batch is filled up to; it holds at least one item however large.
pub const BATCH_BYTES: usize = 1 << 20;

/// Items that a batch is filled up to: enough to share a sync, few enough for a slow disk to answer in time.
pub const BATCH_ITEMS: usize = 512;

/// Messages of a node that wait for a slow reader of `ListMessages`.
pub const LISTED_AHEAD: usize = 64;

/// What a call gives that is answered many times.
pub type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;

/// Frames that wait between a role and its transport, in each direction.
pub const LANE_FRAMES: usize = 8;

/// HTTP/2 windows, bytes: one stream a connection, so both the same.
pub const WINDOW: u32 = 8 << 20;

/// A dial that takes longer has failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a dead peer goes unnoticed by a quiet connection.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Two ends of a lane: frames out, frames in. The stream of frames in ends when the lane breaks.
#[derive(Debug)]
pub struct Lane {
    /// To the node.
    pub frames_out: mpsc::Sender<ToNode>,
    /// From the node.
    pub frames_in: mpsc::Receiver<FromNode>,
}

/// The network as roles see it. A simulator stands in here.
pub trait Network: Debug + Send + Sync {
    /// Opens a lane to this node at an address.
    fn open_lane(&self, node: NodeId, address: String) -> BoxFuture<'static, io::Result<Lane>>;
    /// Connects to the leader at an address, for registration and beats.
    fn leader(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn LeaderPort>>>;
}

/// A node's connection to its leader.
pub trait LeaderPort: Debug + Send {
    /// Announces the node.
    fn register(&mut self, request: RegisterNodeRequest) -> BoxFuture<'_, io::Result<RegisterNodeResponse>>;
    /// Gives a sign of life.
    fn beat(&mut self, request: HeartbeatRequest) -> BoxFuture<'_, io::Result<HeartbeatResponse>>;
}

/// The real network: gRPC over TCP, encrypted where there are certificates for it.
#[derive(Debug, Clone)]
pub struct Grpc {
    /// What encrypts it.
    pub tls: Option<Arc<Cluster>>,
}

/// Calls for gRPC whom it was made for.
#[derive(Debug, Clone)]
struct Caller {
    tls: Arc<Cluster>,
    address: Arc<str>,
    who: Callee,
}

impl Service<http::Uri> for Caller {
    type Response = TokioIo<Connection>;
    type Error = io::Error;
    type Future = ServiceFuture<TokioIo<Connection>, io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let Self { tls, address, who } = self.clone();
        Box::pin(async move {
            let called = tokio::time::timeout(DIAL_TIMEOUT, tls.call(&address, who)).await;
            called.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(TokioIo::new)
        })
    }
}

impl Grpc {
    /// A connection that dials at its first use, and again after each break, on the runtime that this is called on.
    pub fn lazy(&self, address: &str, who: Callee) -> io::Result<Channel> {
        let endpoint = endpoint(address)?;
        Ok(match &self.tls {
            None => endpoint.connect_lazy(),
            Some(tls) => {
                endpoint.connect_with_connector_lazy(Caller { tls: tls.clone(), address: address.into(), who })
            }
        })
    }

    async fn connect(&self, address: &str, who: Callee) -> io::Result<FamilyServiceClient<Channel>> {
        let endpoint = endpoint(address)?;
        let channel = match &self.tls {
            None => endpoint.connect().await,
            Some(tls) => {
                endpoint.connect_with_connector(Caller { tls: tls.clone(), address: address.into(), who }).await
            }
        };
        let channel = channel.map_err(|error| io_error(&error))?;
        Ok(FamilyServiceClient::new(channel).max_decoding_message_size(MAX_FRAME).max_encoding_message_size(MAX_FRAME))
    }
}

fn endpoint(address: &str) -> io::Result<Endpoint> {
    let bad = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("{address:?} is no HOST:PORT: {error}"));
    Ok(Endpoint::from_shared(format!("http://{address}"))
        .map_err(bad)?
        .connect_timeout(DIAL_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW))
}

impl Network for Grpc {
    fn open_lane(&self, node: NodeId, address: String) -> BoxFuture<'static, io::Result<Lane>> {
        let network = self.clone();
        Box::pin(async move {
            let mut client = network.connect(&address, Callee::Node(node.0)).await?;
            let (frames_out, outgoing) = mpsc::channel(LANE_FRAMES);
            let (to_role, frames_in) = mpsc::channel(LANE_FRAMES);
            let mut incoming =
                client.lane(ReceiverStream::new(outgoing)).await.map_err(|status| io_error(&status))?.into_inner();
            tokio::spawn(async move {
                loop {
                    // Gone when the role lets go of its end, not only with the next frame.
                    let frame = tokio::select! {
                        frame = incoming.message() => frame,
                        () = to_role.closed() => break,
                    };
                    let Ok(Some(frame)) = frame else { break };
                    if to_role.send(frame).await.is_err() {
                        break;
                    }
                }
            });
            Ok(Lane { frames_out, frames_in })
        })
    }

    fn leader(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn LeaderPort>>> {
        let network = self.clone();
        Box::pin(async move {
            let client = network.connect(&address, Callee::Peer).await?;
            Ok(Box::new(client) as Box<dyn LeaderPort>)
        })
    }
}

impl LeaderPort for FamilyServiceClient<Channel> {
    fn register(&mut self, request: RegisterNodeRequest) -> BoxFuture<'_, io::Result<RegisterNodeResponse>> {
        Box::pin(
            async move { Ok(self.register_node(request).await.map_err(|status| no_leader(&status))?.into_inner()) },
        )
    }

    fn beat(&mut self, request: HeartbeatRequest) -> BoxFuture<'_, io::Result<HeartbeatResponse>> {
        Box::pin(async move { Ok(self.heartbeat(request).await.map_err(|status| io_error(&status))?.into_inner()) })
    }
}

/// Why a registration failed: what the system says, or that something else than a leader's port for nodes has answered.
fn no_leader(status: &tonic::Status) -> io::Error {
    let error = io_error(status);
    let is_foreign = matches!(status.code(), Code::Internal | Code::Unknown | Code::Unimplemented);
    if error.kind() != io::ErrorKind::Other || !is_foreign {
        return error;
    }
    let said = status.message();
    io::Error::other(format!(
        "what answers there is no leader's port for nodes ({said}): nodes use the port that the leader prints as nodes=, \
         5550 unless --grpc-port says another, and clients the other one, 6666; or it is one that speaks TLS, which needs \
         --cluster-cert here"
    ))
}

/// The operating system's error inside a gRPC one, if there is one: `ConnectionRefused` says more than "transport error".
fn io_error(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return io::Error::new(io.kind(), io.to_string());
        }
        cause = inner.source();
    }
    io::Error::other(error.to_string())
}

impl From<Fence> for family::Fence {
    fn from(fence: Fence) -> Self {
        Self {
            cluster_id: fence.leadership.cluster_id.0.to_vec().into(),
            epoch: fence.leadership.epoch.0,
            run: fence.run,
            session: fence.session,
        }
    }
}

impl TryFrom<&family::Fence> for Fence {
    type Error = &'static str;

    fn try_from(fence: &family::Fence) -> Result<Self, &'static str> {
        let cluster_id = Uuid::from_bytes(&fence.cluster_id).ok_or("a frame without a cluster id")?;
        Ok(Self {
            leadership: Leadership { cluster_id, epoch: Epoch(fence.epoch) },
            run: fence.run,
            session: fence.session,
        })
    }
}

impl From<&Member> for family::Member {
    fn from(member: &Member) -> Self {
        Self { node_id: member.id.0, uuid: member.uuid.0.to_vec().into(), address: member.address.clone() }
    }
}

impl TryFrom<&family::Member> for Member {
    type Error = &'static str;

    fn try_from(member: &family::Member) -> Result<Self, &'static str> {
        let uuid = Uuid::from_bytes(&member.uuid).ok_or("a member without a uuid")?;
        if member.address.chars().any(char::is_control) {
            // It ends up in files of lines, where it could forge one.
            return Err("a member with a control character in its address");
        }
        Ok(Self { id: NodeId(member.node_id), uuid, address: member.address.clone() })
    }
}

impl From<&Removed> for family::Member {
    fn from(removed: &Removed) -> Self {
        Self { node_id: removed.id.0, uuid: removed.uuid.0.to_vec().into(), address: String::new() }
    }
}

impl TryFrom<&family::Member> for Removed {
    type Error = &'static str;

    fn try_from(member: &family::Member) -> Result<Self, &'static str> {
        let uuid = Uuid::from_bytes(&member.uuid).ok_or("a removed member without a uuid")?;
        Ok(Self { id: NodeId(member.node_id), uuid })
    }
}

/// Who belongs to a cluster, and who did: what its leader tells each node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberList {
    /// The members.
    pub members: Vec<Member>,
    /// Those that were removed.
    pub removed: Vec<Removed>,
}

impl From<&MemberList> for family::Members {
    fn from(member_list: &MemberList) -> Self {
        let members = member_list.members.iter().map(family::Member::from).collect();
        Self { members, removed: member_list.removed.iter().map(family::Member::from).collect() }
    }
}

impl TryFrom<&family::Members> for MemberList {
    type Error = &'static str;

    fn try_from(member_list: &family::Members) -> Result<Self, &'static str> {
        let members = member_list.members.iter().map(Member::try_from).collect::<Result<_, _>>()?;
        Ok(Self { members, removed: member_list.removed.iter().map(Removed::try_from).collect::<Result<_, _>>()? })
    }
}

impl TryFrom<family::InventoryEntry> for Listed {
    type Error = BadId;

    fn try_from(entry: family::InventoryEntry) -> Result<Self, BadId> {
        let record =
            CopyRecord { version: Version(entry.version), length: entry.length, crc: entry.crc, expires: None };
        let record = record.until(Deadline::at(entry.expires));
        Ok(Self { id: MessageId::from_bytes(&entry.id)?, record, staged: entry.staged, damaged: entry.damaged })
    }
}

/// The id of a GET in any form: bytes, text, or the number of the original register.
pub fn requested_id(request: &family::GetRequest) -> Result<MessageId, BadId> {
    if !request.key.is_empty() {
        return MessageId::from_bytes(&request.key);
    }
    if request.id.is_empty() { request.message_id.to_string().parse() } else { request.id.parse() }
}

/// Whether the forms of an id that are filled name different ones. Number 0 is not filled.
pub fn names_several(request: &family::GetRequest) -> bool {
    let number = Some(request.message_id.to_string()).filter(|_| request.message_id != 0);
    let text = Some(request.id.clone()).filter(|id| !id.is_empty());
    let key = MessageId::from_bytes(&request.key).ok().map(|id| id.to_string());
    let mut names = [number, text, key].into_iter().flatten();
    names.next().is_some_and(|first| names.any(|other| other != first))
}

/// A message up to this long goes both as text and as bytes, where it is text: both together are read by clients with
/// gRPC's usual limit of 4 MiB. A longer one goes in one form.
pub const BOTH_FORMS: usize = 1 << 20;

/// Which form of a long message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `message`, for those who speak the original's schema.
    Text,
    /// `body`.
    Bytes,
}

impl Form {
    /// The one that the asker reads: who names a number knows `message`.
    pub fn asked_for(request: &family::GetRequest) -> Self {
        if request.key.is_empty() && request.id.is_empty() { Self::Text } else { Self::Bytes }
    }

    /// That of a message in a list.
    pub fn listed(id: &MessageId) -> Self {
        if number_of(&id.to_string()).is_some() { Self::Text } else { Self::Bytes }
    }
}

/// The number of the original register that an id is, if it is one.
fn number_of(text: &str) -> Option<i32> {
    text.parse::<i32>().ok().filter(|number| number.to_string() == text)
}

/// A message in all forms: the original's number and string where they can say it, and always text and bytes; the message
/// itself in one form where it is long.
pub fn chat_message(id: &MessageId, body: Payload, form: Form) -> family::ChatMessage {
    let text = id.to_string();
    let number = number_of(&text);
    let long = body.len() > BOTH_FORMS;
    let as_text = if long && form == Form::Bytes { None } else { String::from_utf8(body.to_vec()).ok() };
    let as_bytes = if long && as_text.is_some() { Payload::new() } else { body };
    family::ChatMessage {
        message_id: number.unwrap_or_default(),
        message: as_text.unwrap_or_default(),
        id: text,
        body: as_bytes,
        key: id_bytes(id),
    }
}

/// A committed version, told to a node that may hold others of the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// Of which id.
    pub id: MessageId,
    /// The committed version.
    pub version: Version,
    /// Whether this node is one of its holders.
    pub keep: bool,
    /// What has to go is not removed, but put into the trash: nobody asked for its end, the register concluded it.
    pub trash: bool,
    /// What is gone has to stay gone after a power cut, in buffered mode too: a deletion that every member has
    /// confirmed is forgotten, and then nothing tells an old copy from a message.
    pub lasting: bool,
}

impl From<&Settle> for family::Settle {
    fn from(settle: &Settle) -> Self {
        let Settle { id, version, keep, trash, lasting } = settle;
        Self { id: id_bytes(id), version: version.0, keep: *keep, trash: *trash, lasting: *lasting }
    }
}

impl TryFrom<family::Settle> for Settle {
    type Error = BadId;

    fn try_from(settle: family::Settle) -> Result<Self, BadId> {
        let family::Settle { id, version, keep, trash, lasting } = settle;
        Ok(Self { id: MessageId::from_bytes(&id)?, version: Version(version), keep, trash, lasting })
    }
}

/// An id as lanes and `key` fields carry it.
pub fn id_bytes(id: &MessageId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_an_id_name_one_or_are_refused() {
        let request = |message_id, id: &str, key: &'static [u8]| family::GetRequest {
            message_id,
            id: id.to_owned(),
            key: key.into(),
        };
        let fit = [request(0, "", b""), request(7, "", b""), request(7, "7", b"7"), request(0, "x", b"x")];
        fit.iter().for_each(|request| assert!(!names_several(request), "{request:?}"));
        let differ = [request(7, "8", b""), request(7, "", b"8"), request(0, "x", b"y"), request(7, "07", b"")];
        differ.iter().for_each(|request| assert!(names_several(request), "{request:?}"));
        // What a reply names may be asked for as it is.
        for id in [MessageId::from_bytes(b"\xff\x00 ").unwrap(), "7".parse().unwrap(), "word".parse().unwrap()] {
            let reply = chat_message(&id, "x".into(), Form::Bytes);
            let again = family::GetRequest { message_id: reply.message_id, id: reply.id, key: reply.key };
            assert!(!names_several(&again) && requested_id(&again).unwrap() == id, "{again:?}");
        }
    }

    #[test]
    fn a_long_message_goes_in_one_form() {
        let (id, text) = ("7".parse().unwrap(), "x".repeat(BOTH_FORMS + 1));
        let lengths = |body: Vec<u8>, form| {
            let message = chat_message(&id, body.into(), form);
            (message.message.len(), message.body.len())
        };
        let long = text.len();
        assert_eq!(lengths(text[1..].into(), Form::Text), (long - 1, long - 1));
        assert_eq!(lengths(text.clone().into(), Form::Text), (long, 0));
        assert_eq!(lengths(text.into(), Form::Bytes), (0, long));
        // What is no text has only one.
        assert_eq!(lengths(vec![0xff; long], Form::Text), (0, long));
    }
}
