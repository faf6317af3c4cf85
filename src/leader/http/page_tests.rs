use std::time::Duration;

use super::*;
use crate::leader::http::api::Holder;
use crate::telemetry::served::{Operation, Protocol, Served};
use crate::types::{
    Addresses, BlockedView, DiskView, Epoch, EventLine, GroupView, LedView, NodeView, PeerRole, PeerView, RateView,
    RepairView,
};

fn node(id: u32, state: NodeState, messages: u64) -> NodeView {
    NodeView {
        id: NodeId(id),
        address: format!("127.0.0.1:{}", 5554 + id),
        state,
        refusing: None,
        messages,
        bytes: messages * 100,
        io_mode: "buffered".to_owned(),
        layout: "text".to_owned(),
        disk: Some(DiskView { free: 1 << 30, ..DiskView::default() }),
        p99_ms: None,
        seen_s: if state == NodeState::Up { 0.2 } else { 41.0 },
    }
}

/// 9,000 messages with three copies each, on these nodes.
fn view(nodes: Vec<NodeView>) -> ClusterView {
    ClusterView {
        version: "1.0.0 (abc)".to_owned(),
        epoch: Epoch(7),
        tolerance: 3,
        uptime_s: 61.0,
        every_s: 10.0,
        addresses: Addresses {
            clients: "127.0.0.1:6666".to_owned(),
            nodes: "127.0.0.1:5550".to_owned(),
            http: Some("127.0.0.1:7666".to_owned()),
        },
        messages: 9000,
        is_settled: true,
        bytes: 900_000,
        copies_live: 27_000,
        copies_wanted: 27_000,
        under_replicated: 0,
        lost: 0,
        tombstones: 0,
        expiring: 0,
        expired: 0,
        clock_off_ms: 0,
        repair: RepairView::default(),
        waiting_for: None,
        clients: 2,
        in_flight: (0, 1),
        sets: RateView { per_second: 1204.0, ..RateView::default() },
        gets: RateView::default(),
        not_found: 0,
        set_history: Vec::new(),
        get_history: Vec::new(),
        nodes,
        group: None,
        events: Vec::new(),
    }
}

fn four() -> Vec<NodeView> {
    (1..=4).map(|id| node(id, NodeState::Up, 6750)).collect()
}

fn three_and_one_down() -> Vec<NodeView> {
    let mut nodes = four();
    nodes[2] = node(3, NodeState::Down, 6750);
    nodes
}

#[test]
fn the_sentence_says_how_it_is() {
    let blocked = BlockedView {
        messages: 20,
        ids: vec!["a<b".parse().unwrap()],
        why: "3 copies are wanted and 2 nodes take any".to_owned(),
        help: "start a node that is down".to_owned(),
    };
    let under = |repair| ClusterView { under_replicated: 6750, repair, ..view(three_and_one_down()) };
    let going = RepairView { pending: 400, done: 800, per_s: 200.0, eta_s: Some(2.0), ..RepairView::default() };
    let stuck = RepairView { blocked: vec![blocked], ..RepairView::default() };
    let one = |nodes| ClusterView { messages: 1, tolerance: 1, ..view(nodes) };
    for (view, level, sentence, notes) in [
        (view(four()), Level::Good, "All 9,000 messages have 3 copies on 4 nodes.", vec![]),
        (one(four()), Level::Good, "The 1 message has 1 copy on 4 nodes.", vec![]),
        (
            ClusterView { messages: 0, ..view(four()) },
            Level::Good,
            "No messages yet. 4 nodes are ready to keep them, each on 3.",
            vec![],
        ),
        (view(three_and_one_down()), Level::Fair, "All 9,000 messages have 3 copies, but node 3 is down.", vec![]),
        (
            under(RepairView::default()),
            Level::Fair,
            "6,750 of 9,000 messages have fewer than 3 copies.",
            vec!["Node 3 is down, last heard 41s ago.", "The copies are made again on other nodes if it stays away."],
        ),
        (
            under(going),
            Level::Fair,
            "6,750 of 9,000 messages have fewer than 3 copies.",
            vec![
                "Node 3 is down, last heard 41s ago.",
                "Being put right: 800 done, 400 to go, 200 a second, about 2s left.",
            ],
        ),
        (
            under(stuck),
            Level::Fair,
            "6,750 of 9,000 messages have fewer than 3 copies.",
            vec![
                "Node 3 is down, last heard 41s ago.",
                "20 messages wait: 3 copies are wanted and 2 nodes take any. Start a node that is down.",
            ],
        ),
        (ClusterView { lost: 1, ..view(four()) }, Level::Bad, "1 message is lost: no node has an intact copy.", vec![]),
        (
            ClusterView { waiting_for: Some("no node has reported yet".to_owned()), ..view(vec![]) },
            Level::Bad,
            "Answers are held back: no node has reported yet.",
            vec![],
        ),
    ] {
        let seen = health(&view, None);
        let wanted =
            Health { level, sentence: sentence.to_owned(), notes: notes.into_iter().map(str::to_owned).collect() };
        assert_eq!(seen, wanted);
    }
    let seen = health(&view(four()), Some("need 3 live nodes, have 2"));
    assert_eq!(seen.sentence, "Messages cannot be written: need 3 live nodes, have 2.");
    let mut nodes = four();
    nodes[0] = node(1, NodeState::Draining, 12);
    nodes[1] = node(2, NodeState::Suspect, 12);
    let seen = health(&view(nodes), None);
    assert_eq!(seen.notes, ["Node 1 is being emptied: 12 copies to go.", "Node 2 answers late."]);
}

#[test]
fn shares_are_of_all_copies_and_bars_of_the_fullest_node() {
    let mut view = view(vec![node(1, NodeState::Up, 300), node(2, NodeState::Up, 100), node(10, NodeState::Down, 0)]);
    let html = nodes(&view);
    for part in ["75.0&thinsp;%", "25.0&thinsp;%", "0.0&thinsp;%", "width=\"100.0\"", "width=\"33.3\"", "width=\"0.0\""]
    {
        assert_eq!(html.matches(part).count(), 1, "{part} in {html}");
    }
    assert!(html.contains("41s ago") && html.contains("now"), "{html}");
    view.nodes.iter_mut().for_each(|node| node.messages = 0);
    assert_eq!(nodes(&view).matches("0.0&thinsp;%").count(), 3, "no copies, no shares");
}

fn group() -> GroupView {
    let peer = |id, role, matched, silent_ms| PeerView {
        id,
        address: format!("h{id}:5560"),
        role,
        matched,
        silent_ms,
        refuses: None,
        applied: None,
        led: None,
    };
    let led = Some(LedView { leads_since_ms: 41_000, why: "peer <2> did not answer".to_owned() });
    let peers = vec![
        PeerView { led, ..peer(1, PeerRole::Leader, Some(5000), Some(0)) },
        peer(2, PeerRole::Standby, Some(3500), Some(90)),
        peer(3, PeerRole::Unreachable, None, Some(41_000)),
        peer(4, PeerRole::Learner, Some(5000), None),
    ];
    let last = Some(5000);
    GroupView { me: 1, term: 12, leader: Some(1), last, committed: last, applied: last, peers, ..GroupView::default() }
}

#[test]
fn leaders_are_shown_where_there_are_several() {
    let seconds = Seconds::new(10);
    let shown = |group| {
        let view = ClusterView { group, ..view(four()) };
        page(&Look { view: &view, seconds: &seconds, not_ready: None, scripts: ScriptsNow::default() }, "n", None)
    };
    let html = shown(Some(group()));
    for part in [
        "Leaders <small>term 12: peer 1 has led for 41s, as peer &lt;2&gt; did not answer</small>",
        "<b>1</b> <small>h1:5560</small></td><td><span class=\"state\">leads</span>",
        "standby</span></td><td class=\"n\">1,500</td><td class=\"n wide\">now</td>",
        "unreachable</span></td><td class=\"n\">5,001</td><td class=\"n wide\">41s ago</td>",
        "no vote yet</span></td><td class=\"n\">0</td><td class=\"n wide\">never</td>",
    ] {
        assert!(html.contains(part), "{part} in {html}");
    }
    assert!(shown(None).contains("<div id=\"peers\"></div>"));
}

#[test]
fn what_ends_and_what_scripts_do_is_shown_where_there_is_any() {
    let seconds = Seconds::new(10);
    let shown =
        |view: &ClusterView, scripts| page(&Look { view, seconds: &seconds, not_ready: None, scripts }, "n", None);
    let html = shown(&view(four()), ScriptsNow::default());
    for part in ["themselves", " known", "takes a core"] {
        assert!(!html.contains(part), "{part}");
    }
    let ends = ClusterView { expiring: 1200, expired: 1, ..view(four()) };
    let html = shown(&ends, ScriptsNow { running: 2, stuck: 1, known: 3 });
    for part in [
        "9,000 <small>1,200 end by themselves</small>",
        "1 message ended by themselves",
        "3 scripts known, 2 at work",
        "1 script has not come to an end since it was given up, and takes a core.",
    ] {
        assert!(html.contains(part), "{part} in {html}");
    }
}

#[test]
fn nothing_from_outside_becomes_markup() {
    let evil = "<script>alert(1)</script>\"'&{{events}}\u{202e}\u{1b}";
    let mut view = view(four());
    view.nodes[0].address = evil.to_owned();
    view.nodes[0].io_mode = evil.to_owned();
    let mut peers = group();
    peers.peers[0].address = evil.to_owned();
    peers.peers[1].refuses = Some(evil.to_owned());
    view.group = Some(peers);
    view.waiting_for = Some(evil.to_owned());
    view.events = vec![EventLine { time: evil.to_owned(), level: evil.to_owned(), text: evil.to_owned() }];
    view.repair.pending = 1;
    view.repair.blocked = vec![BlockedView {
        messages: 1,
        ids: vec!["<b>".parse().unwrap()],
        why: evil.to_owned(),
        help: evil.to_owned(),
    }];
    let seconds = Seconds::new(10);
    let look = Look { view: &view, seconds: &seconds, not_ready: None, scripts: ScriptsNow::default() };
    let html = page(&look, "NONCE", Some((evil.as_bytes(), &Found::Unknown(evil.to_owned()))));
    assert_eq!(html.matches("<script").count(), 1, "the page's own");
    assert_eq!(html.matches("nonce=\"NONCE\"").count(), 2);
    for bad in ["<b>\"", "alert(1)</script>", "\u{202e}", "\u{1b}", "{{"] {
        assert!(!html.contains(bad), "{bad:?} is in the page");
    }
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;&#123;&#123;events}}"));
}

#[test]
fn the_page_is_whole_without_a_script() {
    let served = Served::default();
    served.note(Protocol::Text, Operation::Write, Duration::from_millis(2), [None]);
    let mut seconds = Seconds::new(600);
    seconds.push(served.roll(Duration::from_secs(1)));
    let view = view(four());
    let look = Look { view: &view, seconds: &seconds, not_ready: None, scripts: ScriptsNow::default() };
    let message = Message {
        id: "x".parse().unwrap(),
        version: "7.41".to_owned(),
        bytes: 1,
        expires: Some("2026-11-30T12:00:00.000Z".to_owned()),
        tolerance: 3,
        holders: vec![
            Holder { node: NodeId(1), state: Some(NodeState::Up), intact: true },
            Holder { node: NodeId(2), state: Some(NodeState::Down), intact: true },
            Holder { node: NodeId(3), state: None, intact: false },
        ],
    };
    let html = page(&look, "n", Some((b"x", &Found::Here(message))));
    for part in [
        "All 9,000 messages have 3 copies on 4 nodes.",
        "value=\"x\"",
        "7.41",
        "1 of 3",
        "<dt>Ends</dt><dd>2026-11-30T12:00:00.000Z</dd>",
        "Node <b>3</b> <span class=\"state\">gone</span>, its copy is missing or damaged",
        "p50 <b>2.0 ms</b>",
        "1,204 <small>/s</small>",
        "epoch 7",
        "Nothing to repair.",
    ] {
        assert!(html.contains(part), "{part} in {html}");
    }
    assert!(!html.contains(" style="), "the policy of the page forbids it");
    assert!(!html.contains("http://") || html.matches("http://").count() == html.matches("http://www.w3.org/").count());
}
