//! A node's gRPC door: lanes for its leader, reads for anyone, writes for nobody else.

use std::future::ready;
use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::store::INVENTORY_PARTS;
use super::{Node, lane_queue};
use crate::process::door::{Answers, Caller, Holding, Keep};
use crate::types::{CopyRecord, Listed, MessageId, Version};
use crate::wire::family::family_service_server::FamilyService;
use crate::wire::family::{
    ChatMessage, Empty, FromNode, GetRequest, GetResponse, HeartbeatRequest, HeartbeatResponse, NodeInfo,
    RegisterNodeRequest, RegisterNodeResponse, StoreRequest, StoreResponse, ToNode,
};
use crate::wire::{Form, LISTED_AHEAD, Replies, chat_message, requested_id};

/// The service of one node.
#[derive(Debug, Clone)]
pub struct NodeService {
    node: Arc<Node>,
}

impl NodeService {
    /// Serves this node.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

#[tonic::async_trait]
impl FamilyService for NodeService {
    type ListNodesStream = Replies<NodeInfo>;
    type ListMessagesStream = Replies<ChatMessage>;
    type LaneStream = Replies<FromNode>;

    async fn store_message(&self, _: Request<StoreRequest>) -> Result<Response<StoreResponse>, Status> {
        let error =
            "this is a node: only the leader writes, with version and epoch; send the SET to the leader".to_owned();
        Ok(Response::new(StoreResponse { success: false, error, stored_nodes: Vec::new() }))
    }

    async fn get_message(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        // What a user may read its leader knows.
        Caller::of(&request)?.must_be_peer()?;
        let id = requested_id(request.get_ref()).map_err(|bad| Status::invalid_argument(bad.to_string()))?;
        let (form, answers) = (Form::asked_for(request.get_ref()), Answers::of(&request));
        let Some(record) = self.node.store.published(&id) else { return Ok(Response::new(GetResponse::default())) };
        let store = self.node.store.clone();
        let version = record.version;
        let held = Answers::room(answers.as_ref(), record.bytes() as usize)?;
        let (id, read) = self.node.executor.run(move || (id.clone(), store.read(&id, version))).await;
        match read {
            Ok(body) => {
                let chat_message = Some(chat_message(&id, body, form));
                let mut response = Response::new(GetResponse { chat_message, nodes: Vec::new(), found: true });
                response.extensions_mut().insert(Keep::new(held));
                Ok(response)
            }
            Err(fault) => Err(Status::data_loss(format!("the copy of {id} cannot be read: {fault:?}"))),
        }
    }

    async fn register_node(&self, _: Request<RegisterNodeRequest>) -> Result<Response<RegisterNodeResponse>, Status> {
        Err(Status::unimplemented("this is a node: nodes register with the leader"))
    }

    async fn heartbeat(&self, _: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        Err(Status::unimplemented("this is a node: heartbeats go to the leader"))
    }

    async fn list_nodes(&self, _: Request<Empty>) -> Result<Response<Self::ListNodesStream>, Status> {
        let members = self.node.identity.get().members;
        let infos = members
            .into_iter()
            .map(|member| Ok(NodeInfo { node_id: member.id.0 as i32, address: member.address, ..Default::default() }));
        Ok(Response::new(Box::pin(futures::stream::iter(infos.collect::<Vec<_>>()))))
    }

    async fn list_messages(&self, request: Request<Empty>) -> Result<Response<Self::ListMessagesStream>, Status> {
        Caller::of(&request)?.must_be_peer()?;
        let (out, messages) = mpsc::channel(LISTED_AHEAD);
        let (node, answers) = (self.node.clone(), Answers::of(&request));
        tokio::spawn(async move {
            for part in 0..INVENTORY_PARTS {
                for entry in node.store.inventory(part) {
                    let Listed { id, record, staged, damaged } = entry;
                    if staged || damaged || record.is_tombstone() || record.version == Version::FOREIGN {
                        continue;
                    }
                    // It is deleted, and the node has not heard yet that this is true.
                    if node.store.newest(&id).is_some_and(|newest| newest.is_tombstone()) {
                        continue;
                    }
                    if !send_copy(&node, id, record, answers.as_ref(), &out).await {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages).map(|(message, _held)| message))))
    }

    async fn lane(&self, request: Request<Streaming<ToNode>>) -> Result<Response<Self::LaneStream>, Status> {
        Caller::of(&request)?.must_be_peer()?;
        let (reply, replies) = lane_queue();
        let frames = request.into_inner().take_while(|frame| ready(frame.is_ok()));
        let frames = frames.filter_map(|frame| ready(frame.ok())).boxed();
        tokio::spawn(self.node.clone().serve_lane(frames, reply));
        Ok(Response::new(Box::pin(ReceiverStream::new(replies).map(Ok))))
    }
}

/// A message of a list, with the room that it takes until it is taken.
type Answered = (Result<ChatMessage, Status>, Option<Holding>);

/// Reads a copy and sends it; one that vanished or is damaged meanwhile is passed over. `false`: nobody listens any more.
async fn send_copy(
    node: &Node,
    id: MessageId,
    record: CopyRecord,
    answers: Option<&Answers>,
    out: &mpsc::Sender<Answered>,
) -> bool {
    let held = match Answers::room(answers, record.bytes() as usize) {
        Ok(held) => held,
        Err(busy) => {
            let _ = out.send((Err(busy), None)).await;
            return false;
        }
    };
    let store = node.store.clone();
    let (id, read) = node.executor.run(move || (id.clone(), store.read(&id, record.version))).await;
    match read {
        Ok(body) => {
            let form = Form::listed(&id);
            out.send((Ok(chat_message(&id, body, form)), held)).await.is_ok()
        }
        Err(_) => !out.is_closed(),
    }
}
