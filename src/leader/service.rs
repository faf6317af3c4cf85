//! The leader's gRPC door: nodes register and beat here, and programs of the original register SET and GET.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::coordinator::Coordinator;
use super::membership::Membership;
use crate::cluster::mapping::SHARDS;
use crate::error::Refusal;
use crate::protocol::{Command, Reply};
use crate::telemetry::served::Protocol;
use crate::types::{MessageId, NodeId, Payload};
use crate::wire::family::family_service_server::FamilyService;
use crate::wire::family::{
    ChatMessage, Empty, FromNode, GetRequest, GetResponse, HeartbeatRequest, HeartbeatResponse, NodeInfo,
    RegisterNodeRequest, RegisterNodeResponse, StoreRequest, StoreResponse, ToNode,
};
use crate::wire::{LISTED_AHEAD, Replies, chat_message, requested_id};

/// The service of the leader.
#[derive(Debug, Clone)]
pub struct LeaderService {
    coordinator: Arc<Coordinator>,
    membership: Arc<Membership>,
    max_message: usize,
}

impl LeaderService {
    /// Serves this leader.
    pub fn new(coordinator: Arc<Coordinator>, membership: Arc<Membership>, max_message: usize) -> Self {
        Self { coordinator, membership, max_message }
    }

    async fn ask(&self, command: Command) -> Reply {
        let mut queue = VecDeque::from([Ok(command)]);
        let (mut replies, _room) = self.coordinator.execute(&mut queue, Protocol::Grpc).await;
        replies.pop().unwrap_or(Reply::Refused(Refusal::NotFound))
    }

    fn info(&self, nodes: &[NodeId]) -> Vec<NodeInfo> {
        let cluster = self.coordinator.cluster();
        let info = |id: &NodeId| {
            let node = cluster.registry.get(*id)?;
            Some(NodeInfo {
                node_id: id.0 as i32,
                address: node.member.address.clone(),
                messages: node.committed,
                state: node.state.to_string(),
                ..Default::default()
            })
        };
        nodes.iter().filter_map(info).collect()
    }

    /// The messages of a slice of a part of the index; nothing behind its end.
    fn ids(&self, part: usize, slice: usize) -> Option<Vec<MessageId>> {
        let cluster = self.coordinator.cluster();
        let mapping = Some(cluster.mapping()).filter(|mapping| slice < mapping.slices(part))?;
        Some(mapping.slice(part, slice).filter(|(_, found)| !found.set.deleted).map(|(key, _)| key.id()).collect())
    }

    /// Reads a message and sends it, if it is still there. `false`: nobody listens any more.
    async fn send_message(&self, id: MessageId, out: &mpsc::Sender<Result<ChatMessage, Status>>) -> bool {
        let message = match self.ask(Command::Get(id.clone())).await {
            Reply::Value(body) => Ok(chat_message(&id, body)),
            Reply::Refused(refusal) if refusal != Refusal::NotFound => Err(Status::unavailable(shown(&refusal))),
            _ => return !out.is_closed(),
        };
        out.send(message).await.is_ok()
    }

    fn holders(&self, id: &MessageId) -> Vec<NodeInfo> {
        let holders = self.coordinator.cluster().holders(id).unwrap_or_default();
        self.info(&holders)
    }
}

fn failed(error: String) -> Response<StoreResponse> {
    Response::new(StoreResponse { success: false, error, stored_nodes: Vec::new() })
}

fn shown(refusal: &Refusal) -> String {
    format!("{} {refusal}", refusal.code())
}

/// Where a node that listens on all addresses of its machine is reached: at the one that it calls from.
fn reachable(announced: &str, seen: IpAddr) -> String {
    match announced.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            SocketAddr::new(seen.to_canonical(), address.port()).to_string()
        }
        _ => announced.to_owned(),
    }
}

#[tonic::async_trait]
impl FamilyService for LeaderService {
    type ListNodesStream = Replies<NodeInfo>;
    type ListMessagesStream = Replies<ChatMessage>;
    type LaneStream = Replies<FromNode>;

    async fn store_message(&self, request: Request<StoreRequest>) -> Result<Response<StoreResponse>, Status> {
        let Some(message) = request.into_inner().chat_message else {
            return Ok(failed("BAD_COMMAND the request has no chat_message".to_owned()));
        };
        let id = GetRequest { message_id: message.message_id, id: message.id, key: message.key };
        let id = match requested_id(&id) {
            Ok(id) => id,
            Err(bad) => return Ok(failed(format!("BAD_COMMAND {bad}"))),
        };
        let payload = if message.body.is_empty() { Payload::from(message.message) } else { message.body };
        if payload.len() > self.max_message {
            return Ok(failed(shown(&Refusal::TooLarge { limit: self.max_message })));
        }
        match self.ask(Command::Set { id: id.clone(), payload }).await {
            Reply::Done => {
                let stored_nodes = self.holders(&id);
                Ok(Response::new(StoreResponse { success: true, error: String::new(), stored_nodes }))
            }
            Reply::Refused(refusal) => Ok(failed(shown(&refusal))),
            other => Err(Status::internal(format!("an answer that fits no SET: {other:?}"))),
        }
    }

    async fn get_message(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let id = requested_id(request.get_ref()).map_err(|bad| Status::invalid_argument(bad.to_string()))?;
        match self.ask(Command::Get(id.clone())).await {
            Reply::Value(body) => {
                let (chat_message, nodes) = (Some(chat_message(&id, body)), self.holders(&id));
                Ok(Response::new(GetResponse { chat_message, nodes, found: true }))
            }
            Reply::Refused(Refusal::NotFound) => Ok(Response::new(GetResponse::default())),
            Reply::Refused(refusal) => Err(Status::unavailable(shown(&refusal))),
            other => Err(Status::internal(format!("an answer that fits no GET: {other:?}"))),
        }
    }

    async fn register_node(
        &self,
        request: Request<RegisterNodeRequest>,
    ) -> Result<Response<RegisterNodeResponse>, Status> {
        let seen = request.remote_addr();
        let mut request = request.into_inner();
        if let (Some(seen), Some(info)) = (seen, request.node_info.as_mut()) {
            info.address = reachable(&info.address, seen.ip());
        }
        Ok(Response::new(self.membership.register(request).await))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        Ok(Response::new(self.membership.beat(request.get_ref())))
    }

    async fn list_nodes(&self, _: Request<Empty>) -> Result<Response<Self::ListNodesStream>, Status> {
        let ids: Vec<NodeId> = self.coordinator.cluster().registry.nodes().iter().map(|node| node.member.id).collect();
        let nodes = self.info(&ids).into_iter().map(Ok);
        Ok(Response::new(Box::pin(futures::stream::iter(nodes.collect::<Vec<_>>()))))
    }

    async fn list_messages(&self, _: Request<Empty>) -> Result<Response<Self::ListMessagesStream>, Status> {
        let (out, messages) = mpsc::channel(LISTED_AHEAD);
        let service = self.clone();
        tokio::spawn(async move {
            for part in 0..SHARDS {
                let mut slice = 0;
                // The lock is let go between two slices, so that no request waits for a whole part.
                while let Some(ids) = service.ids(part, slice) {
                    for id in ids {
                        if !service.send_message(id, &out).await {
                            return;
                        }
                    }
                    slice += 1;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn lane(&self, _: Request<Streaming<ToNode>>) -> Result<Response<Self::LaneStream>, Status> {
        Err(Status::unimplemented("this is the leader: lanes lead to nodes"))
    }
}
