//! The leader's gRPC door: nodes register and beat here, and programs of the original register SET and GET.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::coordinator::Coordinator;
use super::gateway;
use super::membership::Membership;
use super::shares::Room;
use super::users::{Context, Login, NotLetIn, Reason, Users, basic};
use crate::acl::DEFAULT;
use crate::cluster::mapping::SHARDS;
use crate::error::Refusal;
use crate::process::door::{Answers, Caller, Holding, Keep};
use crate::protocol::table;
use crate::protocol::{Command, Reply};
use crate::telemetry::served::{CANCELLED, Operation, Protocol};
use crate::types::{MessageId, NodeId, Payload};
use crate::wire::family::family_service_server::FamilyService;
use crate::wire::family::{
    ChatMessage, Empty, FromNode, GetRequest, GetResponse, HeartbeatRequest, HeartbeatResponse, NodeInfo,
    RegisterNodeRequest, RegisterNodeResponse, StoreRequest, StoreResponse, ToNode,
};
use crate::wire::{Form, Replies, chat_message, names_several, requested_id};

/// The service of the leader.
#[derive(Debug, Clone)]
pub struct LeaderService {
    coordinator: Arc<Coordinator>,
    membership: Arc<Membership>,
    max_message: usize,
    /// Clients say with each call who they are; nodes do not.
    users: Arc<Users>,
    /// For pages of lists that are read now.
    listing: Arc<Semaphore>,
}

/// Pages of lists that are read at once, so that lists which nobody takes leave room for what is asked for.
const LISTING: usize = 4;

/// Messages that were read together for a list, with the room that they take.
struct Page {
    messages: Vec<Result<ChatMessage, Status>>,
    held: (Option<Room>, Option<Holding>),
}

/// A call under way. Dropped where it stands, its client has given it up.
struct UnderWay<'a> {
    coordinator: &'a Coordinator,
    answered: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let served = &self.coordinator.meters.served;
            served.note(Protocol::Grpc, Operation::Other, Duration::ZERO, [Some(CANCELLED)]);
        }
    }
}

impl LeaderService {
    /// Serves this leader.
    pub fn new(
        coordinator: Arc<Coordinator>,
        membership: Arc<Membership>,
        users: Arc<Users>,
        clients: &gateway::Settings,
    ) -> Self {
        let listing = Arc::new(Semaphore::new(LISTING));
        Self { coordinator, membership, max_message: clients.max_message, users, listing }
    }

    /// Who asks: the user whose name and password the call gives, or else that of the caller's certificate, or else the
    /// one that is there from the start, where that takes no password.
    async fn login<T>(&self, request: &Request<T>) -> Result<Login, Status> {
        const HOW: &str = "send them as metadata, `authorization: Basic <base64 of user:password>`, or `user: <user>` (left \
             away: default) with `authorization: Bearer <password>` or `password: <password>`; nothing was done";
        let Some((user, password)) = given(request.metadata()) else {
            let login = match Caller::of(request)?.client() {
                Some(name) => self.users.of_certificate(name),
                None => self.users.anonymous(),
            };
            let nobody = || {
                self.count(&Refusal::NoAuth);
                Status::unauthenticated(format!("NOAUTH a user and a password are needed: {HOW}"))
            };
            return login.ok_or_else(nobody);
        };
        let from = Caller::of(request)?.addr.map_or(IpAddr::from([0, 0, 0, 0]), |addr| addr.ip());
        self.users.log_in(&user, &password, from).await.map_err(|why| match why {
            NotLetIn::Wrong => {
                self.note(Reason::Auth, b"AUTH", &String::from_utf8_lossy(&user), from);
                Status::unauthenticated(format!("WRONGPASS {why} {HOW}"))
            }
            NotLetIn::TooMany => Status::resource_exhausted(format!("BUSY {why}")),
        })
    }

    /// A call that its user may not make was refused.
    fn count(&self, refusal: &Refusal) {
        let served = &self.coordinator.meters.served;
        served.note(Protocol::Grpc, Operation::Other, Duration::ZERO, [Some(refusal.code())]);
    }

    fn note(&self, reason: Reason, object: &[u8], user: &str, from: impl std::fmt::Display) {
        let refusal = if reason == Reason::Auth { Refusal::WrongPassword } else { Refusal::Denied(String::new()) };
        self.count(&refusal);
        let client = || gateway::line_of(0, &from, "grpc", user, (0, 0), "");
        self.users.denials.note((reason, Context::TopLevel), object, user, client);
    }

    /// Refuses what the caller's user may not have done; gives who that is.
    async fn allow<T>(&self, request: &Request<T>, command: &Command) -> Result<Login, Status> {
        let login = self.login(request).await?;
        gateway::check_command(login.user(), command).map(|()| login.clone()).map_err(|denied| {
            let (name, refusal) = (login.name().as_str(), gateway::refusal(login.name().as_str(), denied, command));
            let (reason, object) = gateway::noted(denied, command);
            let from = Caller::of(request).ok().and_then(|caller| caller.addr);
            self.note(reason, &object, name, from.map(|addr| addr.to_string()).unwrap_or_default());
            Status::permission_denied(shown(&refusal))
        })
    }

    /// Asks for the client. It goes on, and what it takes is taken, until it is decided, even if the client gives up.
    async fn ask(&self, command: Command) -> (Reply, Option<Room>) {
        if self.coordinator.stop.is_requested() {
            let why = "the leader stops; surely nothing was done, ask the next one".to_owned();
            return (Reply::Refused(Refusal::Unavailable(why)), None);
        }
        let mut under_way = UnderWay { coordinator: &self.coordinator, answered: false };
        let leader = self.coordinator.clone();
        let work = self.coordinator.tasks.spawn(async move {
            let mut queue = VecDeque::from([Ok(command)]);
            leader.execute(&mut queue, Protocol::Grpc).await
        });
        let worked = work.await;
        under_way.answered = true;
        let failed = || Reply::Refused(Refusal::Unknown("the leader failed while it worked on it".to_owned()));
        match worked {
            Ok((mut replies, room)) => (replies.pop().unwrap_or_else(failed), room),
            Err(_) => (failed(), None),
        }
    }

    /// Lists are for those who may go through all ids, and read; of what they hold each sees what it may read.
    fn may_list<T>(&self, login: &Login, request: &Request<T>) -> Result<(), Status> {
        for name in ["KEYS", "GET"] {
            if table::find(name.as_bytes()).is_none_or(|spec| !login.user().may_run(spec, None)) {
                let from = Caller::of(request).ok().and_then(|caller| caller.addr);
                let from = from.map(|addr| addr.to_string()).unwrap_or_default();
                self.note(Reason::Command, name.to_lowercase().as_bytes(), login.name().as_str(), from);
                let why = format!("DENIED user {} may not run {name}; nothing was done", login.name());
                return Err(Status::permission_denied(why));
            }
        }
        Ok(())
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

    /// Why nothing can be said of all messages now.
    fn unsure(&self) -> Option<Status> {
        let reason = self.coordinator.cluster().unsure_of_all()?;
        Some(Status::unavailable(format!("UNAVAILABLE {reason}; try again in a moment")))
    }

    /// The messages of a slice of a part of the index; nothing behind its end.
    fn ids(&self, part: usize, slice: usize) -> Option<Vec<MessageId>> {
        let cluster = self.coordinator.cluster();
        let mapping = Some(cluster.mapping()).filter(|mapping| slice < mapping.slices(part))?;
        Some(mapping.slice(part, slice).filter(|(_, found)| !found.set.deleted).map(|(key, _)| key.id()).collect())
    }

    /// Reads messages together and sends those that are still there, as fast as they are taken. `false`: nobody listens any
    /// more, or an error ended the list.
    async fn send_messages(&self, ids: Vec<MessageId>, answers: Option<&Answers>, out: &mpsc::Sender<Page>) -> bool {
        let mut queue: VecDeque<_> = ids.iter().map(|id| Ok(Command::Get(id.clone()))).collect();
        let mut ids = ids.into_iter();
        while !queue.is_empty() {
            let Ok(turn) = self.listing.acquire().await else { return false };
            let (replies, room) = self.coordinator.execute(&mut queue, Protocol::Grpc).await;
            let (mut failed, mut bytes) = (false, 0);
            let read = ids.by_ref().zip(replies).filter_map(|(id, reply)| match reply {
                Reply::Value(body) => {
                    bytes += body.len();
                    Some(Ok(chat_message(&id, body, Form::listed(&id))))
                }
                Reply::Refused(refusal) if refusal != Refusal::NotFound => {
                    failed = true;
                    Some(Err(Status::unavailable(shown(&refusal))))
                }
                _ => None,
            });
            let mut messages: Vec<_> = read.collect();
            let held = match Answers::room(answers, bytes) {
                Ok(held) => (room, held),
                Err(busy) => {
                    (failed, messages) = (true, vec![Err(busy)]);
                    (None, None)
                }
            };
            let page = Page { messages, held };
            drop(turn);
            if out.send(page).await.is_err() || failed {
                return false;
            }
        }
        true
    }

    fn holders(&self, id: &MessageId) -> Vec<NodeInfo> {
        let holders = self.coordinator.cluster().holders(id).unwrap_or_default();
        self.info(&holders)
    }
}

/// The name and the password that a call gives.
fn given(metadata: &MetadataMap) -> Option<(Vec<u8>, Vec<u8>)> {
    let header = metadata.get("authorization").map(|given| given.as_bytes());
    let scheme = |name: &str| {
        let (scheme, value) = header?.split_at_checked(name.len())?;
        scheme.eq_ignore_ascii_case(name.as_bytes()).then_some(value)
    };
    if let Some(pair) = scheme("Basic ") {
        return basic(pair);
    }
    let plain = metadata.get("password").map(|given| given.as_bytes().to_vec());
    let bytes = || metadata.get_bin("password-bin").and_then(|given| given.to_bytes().ok()).map(|given| given.to_vec());
    let password = scheme("Bearer ").map(<[u8]>::to_vec).or(plain).or_else(bytes)?;
    let user = metadata.get("user").map_or(DEFAULT.as_bytes(), |user| user.as_bytes());
    Some((user.to_vec(), password))
}

/// The forms of an id have to name the same one.
fn one_id(request: &GetRequest) -> Result<(), Status> {
    if names_several(request) {
        return Err(Status::invalid_argument(
            "`message_id`, `id` and `key` name different ids: fill one of them; nothing was done",
        ));
    }
    Ok(())
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
        let (metadata, extensions, StoreRequest { chat_message, ttl_ms }) = request.into_parts();
        let caller = Request::from_parts(metadata, extensions, ());
        let Some(message) = chat_message else {
            return Ok(failed("BAD_COMMAND the request has no chat_message".to_owned()));
        };
        let id = GetRequest { message_id: message.message_id, id: message.id, key: message.key };
        one_id(&id)?;
        let id = match requested_id(&id) {
            Ok(id) => id,
            Err(bad) => return Ok(failed(format!("BAD_COMMAND {bad}"))),
        };
        let both = !message.body.is_empty() && !message.message.is_empty();
        if both && message.body != message.message.as_bytes() {
            return Err(Status::invalid_argument("`message` and `body` differ: fill one of them; nothing was written"));
        }
        let payload = if message.body.is_empty() { Payload::from(message.message) } else { message.body };
        if payload.len() > self.max_message {
            return Ok(failed(shown(&Refusal::TooLarge { limit: self.max_message })));
        }
        let command = match ttl_ms {
            0 => Command::Set { id: id.clone(), payload },
            ms => Command::SetFor { id: id.clone(), time: Duration::from_millis(ms), payload },
        };
        self.allow(&caller, &command).await?;
        match self.ask(command).await.0 {
            Reply::Done => {
                let stored_nodes = self.holders(&id);
                Ok(Response::new(StoreResponse { success: true, error: String::new(), stored_nodes }))
            }
            Reply::Refused(refusal) => Ok(failed(shown(&refusal))),
            other => Err(Status::internal(format!("an answer that fits no SET: {other:?}"))),
        }
    }

    async fn get_message(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        one_id(request.get_ref())?;
        let id = requested_id(request.get_ref()).map_err(|bad| Status::invalid_argument(bad.to_string()))?;
        let (form, answers) = (Form::asked_for(request.get_ref()), Answers::of(&request));
        let command = Command::Get(id.clone());
        self.allow(&request, &command).await?;
        let (reply, room) = self.ask(command).await;
        match reply {
            Reply::Value(body) => {
                // To a program of the original it would look like an empty message.
                if form == Form::Text && std::str::from_utf8(&body).is_err() {
                    return Err(Status::failed_precondition(format!(
                        "message {id} is no UTF-8 text, which `message` could say: ask for it by `id` or `key`, and read `body`"
                    )));
                }
                let held = Answers::room(answers.as_ref(), body.len())?;
                let (chat_message, nodes) = (Some(chat_message(&id, body, form)), self.holders(&id));
                let mut response = Response::new(GetResponse { chat_message, nodes, found: true });
                response.extensions_mut().insert(Keep::new((room, held)));
                Ok(response)
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
        let nobody = || Status::internal("the connection has no address");
        let who = Caller::of(&request)?.clone();
        let caller = who.addr.ok_or_else(nobody)?.ip();
        let mut request = request.into_inner();
        if let Some(info) = request.node_info.as_mut() {
            who.must_be_node(info.node_id as u32)?;
            info.address = reachable(&info.address, caller);
        }
        Ok(Response::new(self.membership.register(request, caller).await))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        Caller::of(&request)?.must_be_node(request.get_ref().node_id)?;
        Ok(Response::new(self.membership.beat(request.get_ref())))
    }

    async fn list_nodes(&self, request: Request<Empty>) -> Result<Response<Self::ListNodesStream>, Status> {
        self.allow(&request, &Command::Status).await?;
        let ids: Vec<NodeId> = self.coordinator.cluster().registry.nodes().iter().map(|node| node.member.id).collect();
        let nodes = self.info(&ids).into_iter().map(Ok);
        Ok(Response::new(Box::pin(futures::stream::iter(nodes.collect::<Vec<_>>()))))
    }

    async fn list_messages(&self, request: Request<Empty>) -> Result<Response<Self::ListMessagesStream>, Status> {
        let mut login = self.login(&request).await?;
        self.may_list(&login, &request)?;
        // One page waits while another is sent. What is ready together leaves in few frames: of those a client that is
        // slow bears only so many.
        let (out, pages) = mpsc::channel(1);
        let (service, answers) = (self.clone(), Answers::of(&request));
        tokio::spawn(async move {
            for part in 0..SHARDS {
                let mut slice = 0;
                // The lock is let go between two slices, so that no request waits for a whole part.
                while let Some(mut ids) = service.ids(part, slice) {
                    // Nobody is told that this is all while it is not.
                    if let Some(unsure) = service.unsure() {
                        let _ = out.send(Page { messages: vec![Err(unsure)], held: (None, None) }).await;
                        return;
                    }
                    if !login.refresh(&service.users) {
                        let gone = Status::unauthenticated("NOAUTH the user of this call was deleted");
                        let _ = out.send(Page { messages: vec![Err(gone)], held: (None, None) }).await;
                        return;
                    }
                    login.retain_readable(&mut ids);
                    if !service.send_messages(ids, answers.as_ref(), &out).await {
                        return;
                    }
                    slice += 1;
                }
            }
        });
        let messages = ReceiverStream::new(pages).flat_map(|Page { messages, held }| {
            futures::stream::iter(messages).map(move |message| {
                // Until the last of them is taken.
                let _held = &held;
                message
            })
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn lane(&self, _: Request<Streaming<ToNode>>) -> Result<Response<Self::LaneStream>, Status> {
        Err(Status::unimplemented("this is the leader: lanes lead to nodes"))
    }
}
