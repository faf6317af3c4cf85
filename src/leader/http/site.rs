//! What is answered under which path, and to whom.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;

use super::super::coordinator::Coordinator;
use super::super::every;
use super::super::gateway;
use super::super::report::Reporter;
use super::super::users::{Context, Reason, Users};
use super::guard::{Guard, asks_who, basic};
use super::page::{self, Look};
use super::reply::{self, Body, HTML, JSON, dressed, full, readiness, reply, text};
use super::{WATCHERS, api, charts, metrics};
use crate::lock::Lock;
use crate::protocol::Command;
use crate::telemetry::Period;
use crate::telemetry::served::{Second, Seconds};
use crate::tls::Renews;
use crate::types::ClusterView;

/// Seconds that charts and `/api/history` go back.
const HISTORY: usize = 600;

/// What the HTTP port shows.
#[derive(Debug)]
pub(in crate::leader) struct Site {
    pub(super) coordinator: Arc<Coordinator>,
    users: Arc<Users>,
    reporter: Lock<Reporter>,
    seconds: Lock<Seconds>,
    /// What readers of `/events` are told once a second.
    frames: watch::Sender<Bytes>,
    watchers: Arc<AtomicUsize>,
    guard: Guard,
    data_dir: PathBuf,
    certificates: Vec<Arc<dyn Renews>>,
}

/// A reader of `/events`; counted out when dropped.
struct Watcher(Arc<AtomicUsize>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Site {
    /// The site of a leader, for those whom `guard` lets in.
    pub(in crate::leader) fn new(
        coordinator: Arc<Coordinator>,
        reporter: Reporter,
        data_dir: PathBuf,
        users: Arc<Users>,
        guard: Guard,
    ) -> Self {
        Self {
            coordinator,
            users,
            reporter: Lock::new(reporter),
            seconds: Lock::new(Seconds::new(HISTORY)),
            frames: watch::Sender::new(Bytes::new()),
            watchers: Arc::default(),
            guard,
            data_dir,
            certificates: Vec::new(),
        }
    }

    /// With certificates whose ends metrics show.
    pub(in crate::leader) fn with_certificates(self, certificates: Vec<Arc<dyn Renews>>) -> Self {
        Self { certificates, ..self }
    }

    /// Ends a second after the other.
    pub(super) async fn sample(self: Arc<Self>) {
        let mut tick = every(Duration::from_secs(1));
        tick.tick().await;
        let mut before = Instant::now();
        loop {
            tick.tick().await;
            let elapsed = before.elapsed();
            before = Instant::now();
            let second = self.coordinator.meters.served.roll(elapsed);
            {
                let mut seconds = self.seconds();
                // A process that was stopped for a while has no history of that time.
                let missed = (elapsed.as_secs_f64().round() as usize).saturating_sub(1).min(HISTORY);
                (0..missed).for_each(|_| seconds.push(Second::default()));
                seconds.push(second);
            }
            if self.frames.receiver_count() > 0 {
                self.frames.send_replace(self.frame());
            }
        }
    }

    pub(super) fn seconds(&self) -> MutexGuard<'_, Seconds> {
        self.seconds.lock()
    }

    /// What the report shows, with the rates of the last moment.
    pub(super) fn view(&self) -> ClusterView {
        let look = Period { elapsed: Duration::ZERO, full: false };
        let view = self.reporter.lock().view(look);
        let Second { writes: sets, reads: gets, not_found } = charts::latest(&self.seconds());
        ClusterView { sets, gets, not_found, ..view }
    }

    /// What readers of `/events` are told.
    fn frame(&self) -> Bytes {
        let status = event("status", &self.coordinator.status(&self.coordinator.cluster()));
        let view = self.view();
        let parts = page::parts(&self.look(&view, &self.seconds()));
        let parts: BTreeMap<_, _> = parts.into_iter().collect();
        Bytes::from(status + &event("page", &serde_json::to_string(&parts).unwrap_or_default()))
    }

    fn look<'a>(&self, view: &'a ClusterView, seconds: &'a Seconds) -> Look<'a> {
        let scripts = self.coordinator.meters.scripts.now();
        Look { view, seconds, not_ready: self.coordinator.not_ready(), scripts }
    }

    /// The page, or the answer to a look-up for it.
    fn page(&self, query: &str) -> Response<Body> {
        let asked = parameter(query, "id");
        let found = asked.as_deref().map(|id| api::look_up(&self.coordinator, api::typed(id)));
        if let (Some(found), Some(b"found")) = (&found, parameter(query, "part").as_deref()) {
            return reply(StatusCode::OK, HTML, page::found(found));
        }
        let nonce = nonce();
        let view = self.view();
        let html = page::page(&self.look(&view, &self.seconds()), &nonce, asked.as_deref().zip(found.as_ref()));
        let mut response = reply(StatusCode::OK, HTML, html);
        let policy = format!(
            "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        );
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        response
    }

    /// Answers one request.
    pub(super) async fn answer<B>(&self, request: &Request<B>, from: IpAddr) -> Response<Body> {
        let response = match self.guard.judge(request) {
            Some(response) => response,
            None => match asked_id(request) {
                None => self.route(request),
                Some(id) => self.look_up(request, &id, from).await.unwrap_or_else(|| self.route(request)),
            },
        };
        dressed(request, response)
    }

    /// Why nobody is told here where a message is: it takes a user who may know that, or the token.
    async fn look_up<B>(&self, request: &Request<B>, id: &[u8], from: IpAddr) -> Option<Response<Body>> {
        if self.guard.asks_for_token() {
            return None;
        }
        let login = match basic(request) {
            Some((name, password)) => {
                let told = self.users.log_in(&name, &password, from).await;
                if told.is_err() {
                    let name = String::from_utf8_lossy(&name);
                    let client = || gateway::line_of(0, &from, "http", &name, (0, 0), "");
                    self.users.denials.note((Reason::Auth, Context::TopLevel), b"AUTH", &name, client);
                }
                told.ok()
            }
            None => self.users.anonymous(),
        };
        let Some(login) = login else {
            return Some(asks_who("where a message is is told to users: give a name and a password\n"));
        };
        // What is no id is refused for that.
        let id = api::typed(id).ok()?;
        let command = Command::Where(id);
        let denied = gateway::check_command(login.user(), &command).err()?;
        let (name, (reason, object)) = (login.name().as_str(), gateway::noted(denied, &command));
        self.users
            .denials
            .note((reason, Context::TopLevel), &object, name, || gateway::line_of(0, &from, "http", name, (0, 0), ""));
        let refusal = gateway::refusal(name, denied, &command);
        let body = serde_json::json!({ "error": refusal.code(), "message": refusal.to_string() }).to_string() + "\n";
        Some(reply(StatusCode::FORBIDDEN, JSON, body))
    }

    fn route<B>(&self, request: &Request<B>) -> Response<Body> {
        match request.uri().path() {
            "/" => self.page(request.uri().query().unwrap_or_default()),
            "/livez" | "/healthz" => text(StatusCode::OK, "ok\n"),
            // Who answers here leads, so that `?leader` asks for nothing more.
            "/readyz" => readiness(self.coordinator.not_ready().as_deref()),
            "/metrics" => {
                let page = metrics::page(
                    &self.view(),
                    &self.coordinator,
                    &self.data_dir,
                    &self.certificates,
                    &self.users.denials,
                );
                reply::metrics(request, page)
            }
            "/api/status" => reply(StatusCode::OK, JSON, self.coordinator.status(&self.coordinator.cluster()) + "\n"),
            "/api/history" => reply(StatusCode::OK, JSON, api::history(&self.seconds())),
            "/events" if request.method() == Method::HEAD => stream_of_events(full("")),
            "/events" => self.events(),
            path => match path.strip_prefix("/api/message/") {
                Some(id) => {
                    let (status, body) = api::message(&self.coordinator, &percent_decode_str(id).collect::<Vec<u8>>());
                    reply(status, JSON, body)
                }
                None => text(
                    StatusCode::NOT_FOUND,
                    "not here; there are / /metrics /healthz /livez /readyz /api/status /api/history /api/message/ID /events\n",
                ),
            },
        }
    }

    /// A stream of server-sent events: the state, now and once a second. A reader that is slow misses some.
    fn events(&self) -> Response<Body> {
        let watcher = Watcher(self.watchers.clone());
        if watcher.0.fetch_add(1, Ordering::Relaxed) >= WATCHERS {
            return text(StatusCode::SERVICE_UNAVAILABLE, "as many readers of /events as are served are there\n");
        }
        let frames = WatchStream::from_changes(self.frames.subscribe()).map(move |frame| {
            let _counted = &watcher;
            Ok(Frame::data(frame))
        });
        let first = self.frame();
        let body = StreamBody::new(futures::stream::once(async { Ok(Frame::data(first)) }).chain(frames));
        stream_of_events(BodyExt::boxed(body))
    }
}

/// The id that a request asks about.
fn asked_id<B>(request: &Request<B>) -> Option<Vec<u8>> {
    let path = request.uri().path();
    match path.strip_prefix("/api/message/") {
        Some(id) => Some(percent_decode_str(id).collect()),
        None if path == "/" => parameter(request.uri().query().unwrap_or_default(), "id"),
        None => None,
    }
}

fn stream_of_events(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // A proxy that gathers what is small would keep a quiet stream back.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A value of a query, as forms write it.
fn parameter(query: &str, name: &str) -> Option<Vec<u8>> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(percent_decode_str(&value.replace('+', " ")).collect())
}

/// What marks the page's own style and script, so that nothing else is run; new for each page.
fn nonce() -> String {
    let mut bytes = [0; 16];
    // With no chance to be had the nonce is known, and the page still has no markup from outside.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One server-sent event.
fn event(name: &str, data: &str) -> String {
    let lines: String = data.lines().map(|line| format!("data: {line}\n")).collect();
    format!("event: {name}\n{lines}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_forms_write_them() {
        let query = "x=1&id=a+b%2Fc%26%C3%BC&part=found&id=2";
        assert_eq!(parameter(query, "id").as_deref(), Some("a b/c&\u{fc}".as_bytes()));
        assert_eq!(parameter(query, "part").as_deref(), Some(&b"found"[..]));
        assert_eq!((parameter("id", "id"), parameter("", "id"), parameter("id=", "id")), (None, None, Some(vec![])));
    }

    #[test]
    fn an_event_is_framed_line_by_line() {
        assert_eq!(event("page", "a\nb"), "event: page\ndata: a\ndata: b\n\n");
    }
}
