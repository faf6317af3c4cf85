//! Screens and lines as text.

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::types::{
    Addresses, BlockedView, DiskView, Epoch, GroupView, IoMode, LedView, NodeId, NodeState, NodeView, PeerRole,
    PeerView, RepairView,
};

const CLOCK: &str = "12:41:07 UTC";

const DISK: DiskView = DiskView { free: 44_023_414_784, size: 50_036_748_288, free_files: 1_250_000, files: 3_276_800 };

fn plain() -> Ui {
    Ui::new(false, false)
}

fn event(time: &str, level: &str, text: &str) -> EventLine {
    EventLine { time: time.to_owned(), level: level.to_owned(), text: text.to_owned() }
}

fn member(id: u32, state: NodeState, messages: u64) -> NodeView {
    NodeView {
        id: NodeId(id),
        address: format!("127.0.0.1:{}", 5554 + id),
        state,
        refusing: None,
        messages,
        bytes: messages * 100,
        io_mode: "buffered".to_owned(),
        layout: "text".to_owned(),
        disk: (state == NodeState::Up).then_some(DISK),
        p99_ms: (state == NodeState::Up).then_some(3.9 + f64::from(id) / 10.0),
        seen_s: if state == NodeState::Down { 41.0 } else { 0.4 * f64::from(id) },
    }
}

fn cluster() -> ClusterView {
    ClusterView {
        version: "0.4.1 (3f2a9c1)".to_owned(),
        epoch: Epoch(7),
        tolerance: 2,
        uptime_s: 8050.0,
        every_s: 10.0,
        addresses: Addresses {
            clients: "0.0.0.0:6666".to_owned(),
            nodes: "0.0.0.0:5550".to_owned(),
            http: Some("127.0.0.1:7666".to_owned()),
        },
        messages: 9000,
        is_settled: true,
        bytes: 43_200_000,
        copies_live: 14_680,
        copies_wanted: 18_000,
        under_replicated: 3320,
        lost: 0,
        tombstones: 0,
        expiring: 0,
        expired: 0,
        clock_off_ms: 0,
        repair: RepairView::default(),
        waiting_for: None,
        clients: 12,
        in_flight: (1200, 64 << 20),
        sets: RateView { per_second: 1284.0, p50_ms: 0.9, p99_ms: 4.1, errors: 0 },
        gets: RateView { per_second: 310.0, p50_ms: 0.4, p99_ms: 1.8, errors: 2 },
        not_found: 2,
        set_history: (0..40).map(|n| n * n).collect(),
        get_history: vec![3, 0, 9],
        nodes: vec![
            member(1, NodeState::Up, 4893),
            member(2, NodeState::Up, 4894),
            member(3, NodeState::Down, 3320),
            member(4, NodeState::Up, 4893),
        ],
        group: None,
        events: vec![
            event("12:38:02", "INFO", "node 4 joined (127.0.0.1:5558), 0 messages found on disk"),
            event("12:40:26", "WARN", "node 3 missed 3 heartbeats, marked down"),
            event("12:40:31", "ERROR", "no copy of 7 is intact"),
        ],
    }
}

fn repairing() -> ClusterView {
    let blocked = BlockedView {
        messages: 12,
        ids: vec!["7".parse().unwrap()],
        why: "the only intact copies are on node 3, which cannot be asked".to_owned(),
        help: "start node 3".to_owned(),
    };
    let repair = RepairView {
        pending: 3320,
        done: 1180,
        per_s: 94.0,
        eta_s: Some(36.0),
        rebalancing: false,
        uneven: None,
        blocked: vec![blocked],
    };
    ClusterView { repair, ..cluster() }
}

fn healthy() -> ClusterView {
    let mut view = cluster();
    view.nodes.retain(|node| node.state == NodeState::Up);
    (view.copies_live, view.under_replicated) = (18_000, 0);
    view
}

fn crowd(nodes: u32) -> ClusterView {
    ClusterView { nodes: (1..=nodes).map(|id| member(id, NodeState::Up, 100)).collect(), ..healthy() }
}

fn storage() -> NodeReport {
    NodeReport {
        version: "0.4.1 (3f2a9c1)".to_owned(),
        id: NodeId(1),
        uptime_s: 8050.0,
        every_s: 5.0,
        leader: "127.0.0.1:5550".to_owned(),
        registered: true,
        rtt_ms: Some(0.3),
        listening: "127.0.0.1:5555".to_owned(),
        io_mode: IoMode::Unbuffered,
        layout: "text".to_owned(),
        folder: "storage_node_1".to_owned(),
        messages: 4893,
        bytes: 23_488_102,
        largest: Some((65_536, "8812".to_owned())),
        disk: Some(DISK),
        stores: RateView { per_second: 856.0, p50_ms: 0.7, p99_ms: 3.6, errors: 0 },
        reads: RateView { per_second: 0.0, p50_ms: 0.0, p99_ms: 0.0, errors: 0 },
        store_history: (0..20).collect(),
        read_history: vec![0; 20],
        queue_p99_ms: 0.2,
        write_p99_ms: 0.3,
        sync_p99_ms: Some(2.9),
        write_errors: 0,
        bad_checksums: 0,
        recovered: (4200, 0.21, 1, 0),
        events: vec![event("10:27:04", "INFO", "registered with leader as node 1")],
    }
}

fn screen<V>(look: &Look<V>, view: &V, ui: &Ui, columns: u16, rows: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| (look.frame)(view, CLOCK, ui, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..rows).map(|y| row(y).trim_end().to_owned() + "\n").collect()
}

/// The screen, compared as text; a difference is printed as a screen.
#[track_caller]
fn shows<V>(look: &Look<V>, view: &V, ui: &Ui, (columns, rows): (u16, u16), golden: &str) {
    let got = screen(look, view, ui, columns, rows);
    assert!(got == golden.trim_start_matches('\n'), "{columns}x{rows}:\n{got}<end>");
}

#[test]
fn the_leader_on_a_usual_terminal() {
    shows(
        &LEADER,
        &cluster(),
        &plain(),
        (80, 24),
        "
 hatokuse leader 0.4.1 (3f2a9c1)         up 2h14m    every 10s    12:41:07 UTC
 DEGRADED  node 3 down; 3,320 messages short of a copy
 tolerance 2   nodes 3/4 up   short of a copy 3,320   lost 0
 clients 0.0.0.0:6666   nodes 0.0.0.0:5550   http 127.0.0.1:7666   epoch 7
-- totals ----------------------------------------------------------------------
 MESSAGES 9,000   COPIES 14,680/18,000 live   BYTES 41.2 MiB   CLIENTS 12
-- traffic, last 4m40s ---------------------------------------------------------
 SET/s     1,284  ........::::::::::::::|||||| p50 0.90ms  p99  4.1ms  errors 0
 GET/s       310                           :.| p50 0.40ms  p99  1.8ms  errors 2
 not found 2   in flight 1.2 KiB (max 64.0 MiB)
-- nodes (sort: id) ------------------------------------------------------------
 ID  ADDRESS         STATE    MESSAGES  SHARE            P99   DISK FREE    SEEN
  1  127.0.0.1:5555  up          4,893  ##.....  33%   4.0ms    41.0 GiB    0.4s
  2  127.0.0.1:5556  up          4,894  ##.....  33%   4.1ms    41.0 GiB    0.8s
  3  127.0.0.1:5557  DOWN        3,320  .......   0%       -           -     41s
  4  127.0.0.1:5558  up          4,893  ##.....  33%   4.3ms    41.0 GiB    1.6s
-- last events -----------------------------------------------------------------
 12:38:02 INFO  node 4 joined (127.0.0.1:5558), 0 messages found on disk
 12:40:26 WARN  node 3 missed 3 heartbeats, marked down
 12:40:31 ERROR no copy of 7 is intact



 q quit   s sort   n next page   r refresh   ? help
",
    );
}

#[test]
fn peers_have_a_line_where_there_are_several() {
    let peer = |id, role, matched| PeerView {
        id,
        address: format!("host-{id}.example:5560"),
        role,
        matched: Some(matched),
        silent_ms: Some(9),
        refuses: None,
        applied: None,
        led: None,
    };
    let peers = vec![
        peer(1, PeerRole::Leader, 5000),
        peer(2, PeerRole::Standby, 3500),
        PeerView { refuses: Some("another folder".to_owned()), ..peer(3, PeerRole::Standby, 5000) },
        peer(4, PeerRole::Unreachable, 0),
    ];
    let last = Some(5000);
    let group = GroupView { me: 1, term: 12, leader: Some(1), last, peers, ..GroupView::default() };
    let view = ClusterView { group: Some(group), ..cluster() };
    let led = LedView { leads_since_ms: 41_000, why: "peer 4 did not answer".to_owned() };
    let mut told = view.clone();
    told.group.iter_mut().for_each(|group| group.peers[0].led = Some(led.clone()));
    let why = "  1 host-1.example:5560 leads for 41s (peer 4 did not answer)  2 host-2.example:5560 standby";
    assert!(screen(&LEADER, &told, &plain(), 200, 24).contains(why), "{}", screen(&LEADER, &told, &plain(), 200, 24));
    let narrow = " peers of term 12   1 leads  2 standby -1,500  3 REFUSES  4 UNREACHABLE -5,000\n";
    assert!(screen(&LEADER, &view, &plain(), 80, 24).contains(narrow), "{}", screen(&LEADER, &view, &plain(), 80, 24));
    let wide = " peers of term 12   1 host-1.example:5560 leads  2 host-2.example:5560 standby -1,500  3 ";
    assert!(screen(&LEADER, &view, &plain(), 160, 24).contains(wide));
    let line = leader_line(&view);
    assert!(line.contains("  peers 2/4  nodes 3/4 up"), "{line}");
    assert!(leader_final(&view).ends_with("peer 4  host-4.example:5560  UNREACHABLE -5,000\n"));
    for text in [screen(&LEADER, &cluster(), &plain(), 80, 24), leader_line(&cluster()), leader_final(&cluster())] {
        assert!(!text.contains("peer"), "{text}");
    }
}

#[test]
fn repair_has_its_own_lines_above_the_events() {
    let text = screen(&LEADER, &repairing(), &plain(), 100, 30);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let at = lines.iter().position(|line| line.starts_with("-- repair --")).unwrap();
    assert_eq!(lines[at + 1], " messages 1,180/4,500  #####...............  26%  94/s  eta 36s");
    let blocked = " 12 messages wait: the only intact copies are on node 3, which cannot be asked; start node 3";
    assert_eq!(lines[at + 2], blocked);
    assert!(lines[at + 3].starts_with("-- last events --"), "{text}");
    // Where there is little room, events go first, then repair, and the nodes stay.
    let mut both = 0;
    for rows in 5..40 {
        let text = screen(&LEADER, &repairing(), &plain(), 100, rows);
        let [events, repair, nodes] = ["-- last events --", "-- repair --", ":5558"].map(|part| text.contains(part));
        assert!((!events || repair) && (!repair || nodes), "{text}");
        both += usize::from(repair && !events);
    }
    assert!(both > 0);
}

#[test]
fn a_healthy_leader_in_utf8() {
    shows(
        &LEADER,
        &healthy(),
        &Ui::new(true, true),
        (80, 24),
        "
 hatokuse leader 0.4.1 (3f2a9c1)         up 2h14m    every 10s    12:41:07 UTC
 HEALTHY  every message has all its copies
 tolerance 2   nodes 3/3 up   short of a copy 0   lost 0
 clients 0.0.0.0:6666   nodes 0.0.0.0:5550   http 127.0.0.1:7666   epoch 7
── totals ──────────────────────────────────────────────────────────────────────
 MESSAGES 9,000   COPIES 18,000/18,000 live   BYTES 41.2 MiB   CLIENTS 12
── traffic, last 4m40s ─────────────────────────────────────────────────────────
 SET/s     1,284  ▂▂▂▂▂▂▂▃▃▃▃▃▄▄▄▄▅▅▅▅▆▆▆▇▇▇██ p50 0.90ms  p99  4.1ms  errors 0
 GET/s       310                           ▃▁█ p50 0.40ms  p99  1.8ms  errors 2
 not found 2   in flight 1.2 KiB (max 64.0 MiB)
── nodes (sort: id) ────────────────────────────────────────────────────────────
 ID  ADDRESS         STATE    MESSAGES  SHARE            P99   DISK FREE    SEEN
  1  127.0.0.1:5555  up          4,893  ██░░░░░  33%   4.0ms    41.0 GiB    0.4s
  2  127.0.0.1:5556  up          4,894  ██░░░░░  33%   4.1ms    41.0 GiB    0.8s
  4  127.0.0.1:5558  up          4,893  ██░░░░░  33%   4.3ms    41.0 GiB    1.6s
── last events ─────────────────────────────────────────────────────────────────
 12:38:02 INFO  node 4 joined (127.0.0.1:5558), 0 messages found on disk
 12:40:26 WARN  node 3 missed 3 heartbeats, marked down
 12:40:31 ERROR no copy of 7 is intact




 q quit   s sort   n next page   r refresh   ? help
",
    );
}

#[test]
fn the_leader_on_a_narrow_terminal() {
    shows(
        &LEADER,
        &cluster(),
        &plain(),
        (60, 20),
        "
 hatokuse leader 0.4.1 (3f2a9c1)     up 2h14m  12:41:07 UTC
 DEGRADED  node 3 down; 3,320 messages short of a copy
 tolerance 2   nodes 3/4 up   short of a copy 3,320   lost 0
 clients 0.0.0.0:6666   nodes 0.0.0.0:5550   http 127.0.0.1~
-- totals --------------------------------------------------
 MESSAGES 9,000   COPIES 14,680/18,000 live   BYTES 41.2 Mi~
-- traffic, last 1m20s -------------------------------------
 SET/s     1,284  ::|||||| p50 0.90ms  p99  4.1ms  errors 0
 GET/s       310       :.| p50 0.40ms  p99  1.8ms  errors 2
 not found 2   in flight 1.2 KiB (max 64.0 MiB)
-- nodes (sort: id) ----------------------------------------
 ID  ADDRESS         STATE    MESSAGES     P99    SEEN
  1  127.0.0.1:5555  up          4,893   4.0ms    0.4s
  2  127.0.0.1:5556  up          4,894   4.1ms    0.8s
  3  127.0.0.1:5557  DOWN        3,320       -     41s
  4  127.0.0.1:5558  up          4,893   4.3ms    1.6s
-- last events ---------------------------------------------
 12:40:26 WARN  node 3 missed 3 heartbeats, marked down
 12:40:31 ERROR no copy of 7 is intact
 q quit   s sort   n next page   r refresh   ? help
",
    );
}

#[test]
fn the_leader_on_a_tiny_terminal() {
    shows(
        &LEADER,
        &cluster(),
        &plain(),
        (20, 5),
        "
 hatokuse leader 0.~
 DEGRADED  node 3 d~
 tolerance 2   node~

 q quit   s sort   n
",
    );
}

#[test]
fn fifty_nodes_take_pages() {
    let mut ui = plain();
    let view = crowd(50);
    let mut seen = std::collections::BTreeSet::new();
    for page in 0..20 {
        let text = screen(&LEADER, &view, &ui, 80, 24);
        assert!(text.contains("last events"), "{text}");
        seen.extend(
            text.lines()
                .filter_map(|l| l.split_whitespace().next()?.parse::<u32>().ok().filter(|_| l.contains(" up "))),
        );
        assert!(page > 0 || text.contains("nodes (sort: id), 1 to 7 of 50, page 1 of 8"), "{text}");
        assert_eq!(ui.key(Key::Char('n')), Action::Redraw);
    }
    assert_eq!(seen, (1..=50).collect());
    ui.page = usize::MAX;
    screen(&LEADER, &view, &ui, 80, 24);
    assert!(!screen(&LEADER, &view, &plain(), 120, 80).contains(", page"), "all fit");
}

#[test]
fn a_node_on_a_usual_terminal() {
    shows(
        &NODE,
        &storage(),
        &plain(),
        (80, 24),
        "
 hatokuse node 1 0.4.1 (3f2a9c1)          up 2h14m    every 5s    12:41:07 UTC
 REGISTERED  leader 127.0.0.1:5550 (rtt 0.30ms), listening 127.0.0.1:5555
 io unbuffered (synced before it counts)   layout text   dir storage_node_1
-- stored ----------------------------------------------------------------------
 MESSAGES 4,893   BYTES 22.4 MiB   LARGEST 64.0 KiB (id 8812)
 DISK FREE 41.0 GiB of 46.6 GiB   FILES LEFT 1,250,000
-- traffic, last 1m40s ---------------------------------------------------------
 store/s     856          .....::::::::::||||| p50 0.70ms  p99  3.6ms  errors 0
 read/s        0          .................... p50      -  p99      -  errors 0
-- where a write batch spends its time (p99) -----------------------------------
 queue   0.20ms  ###
 write   0.30ms  ####
 sync     2.9ms  ########################################
-- disk health -----------------------------------------------------------------
 write errors 0   bad checksums 0
 found at start: 4,200 messages in 0.21s, foreign files 1, damaged 0
-- last events -----------------------------------------------------------------
 10:27:04 INFO  registered with leader as node 1





 q quit   r refresh   ? help
",
    );
}

#[test]
fn a_buffered_node_on_a_narrow_terminal() {
    let view = NodeReport { io_mode: IoMode::Buffered, sync_p99_ms: None, registered: false, ..storage() };
    shows(
        &NODE,
        &view,
        &plain(),
        (60, 20),
        "
 hatokuse node 1 0.4.1 (3f2a9c1)     up 2h14m  12:41:07 UTC
 WAITING  for leader 127.0.0.1:5550, still trying, listenin~
 io buffered (page cache)   layout text   dir storage_node_1
-- stored --------------------------------------------------
 MESSAGES 4,893   BYTES 22.4 MiB   LARGEST 64.0 KiB (id 881~
 DISK FREE 41.0 GiB of 46.6 GiB   FILES LEFT 1,250,000
-- traffic, last 40s ---------------------------------------
 store/s     856  :::||||| p50 0.70ms  p99  3.6ms  errors 0
 read/s        0  ........ p50      -  p99      -  errors 0
-- where a write batch spends its time (p99) ---------------
 queue   0.20ms  ###########################
 write   0.30ms  ########################################
-- disk health ---------------------------------------------
 write errors 0   bad checksums 0
 found at start: 4,200 messages in 0.21s, foreign files 1, ~
-- last events ---------------------------------------------
 10:27:04 INFO  registered with leader as node 1


 q quit   r refresh   ? help
",
    );
}

#[test]
fn a_node_on_a_tiny_terminal() {
    shows(
        &NODE,
        &storage(),
        &plain(),
        (20, 5),
        "
 hatokuse node 1 0.~
 REGISTERED  leader~
-- last events -----
 10:27:04 INFO  re~
 q quit   r refresh
",
    );
}

#[test]
fn the_first_line_says_why() {
    type Change = fn(&mut ClusterView);
    let first = |change: Change| {
        let mut view = healthy();
        change(&mut view);
        (screen(&LEADER, &view, &plain(), 120, 24).lines().nth(1).unwrap().to_owned(), leader_line(&view))
    };
    let cases: [(Change, &str, &str); 6] = [
        (|_| (), " HEALTHY  every message has all its copies", "HEALTHY (every message has all its copies)"),
        (
            |v| v.waiting_for = Some("node 9 to say what it has".into()),
            " WAITING  for node 9 to say what it has",
            "WAITING (for",
        ),
        (|v| v.nodes[0].state = NodeState::Suspect, " DEGRADED  node 1 suspect", "DEGRADED (node 1 suspect)"),
        (|v| v.lost = 1, " DEGRADED  1 message lost", "DEGRADED (1 message lost)"),
        (
            |v| v.nodes.iter_mut().take(2).for_each(|n| n.state = NodeState::Down),
            " DEGRADED  nodes 1, 2 down; SET needs 2 nodes up, 1 are",
            "DEGRADED (nodes 1, 2 down;",
        ),
        (|v| v.nodes.clear(), " DEGRADED  SET needs 2 nodes up, 0 are", "DEGRADED (SET needs"),
    ];
    for (change, on_screen, on_line) in cases {
        let (screen, line) = first(change);
        assert_eq!(screen, on_screen);
        assert!(line.starts_with(on_line), "{line}");
    }
}

#[test]
fn lines_and_last_words() {
    assert_eq!(
        leader_line(&cluster()),
        "DEGRADED (node 3 down; 3,320 messages short of a copy)  9,000 messages  nodes 3/4 up  copies 1=4,893 2=4,894 3=3,320 (down) 4=4,893  SET/s 1,284 p99 4.1ms  GET/s 310 p99 1.8ms  errors 2"
    );
    assert_eq!(
        leader_final(&cluster()),
        "hatokuse leader 0.4.1 (3f2a9c1), up 2h14m\nDEGRADED (node 3 down; 3,320 messages short of a copy)\n9,000 messages (41.2 MiB), tolerance 2, copies 14,680/18,000 live, short of a copy 3,320, lost 0\nnode 1  127.0.0.1:5555  up  copies 4,893  share 33%\nnode 2  127.0.0.1:5556  up  copies 4,894  share 33%\nnode 3  127.0.0.1:5557  down  copies 3,320  share 0%\nnode 4  127.0.0.1:5558  up  copies 4,893  share 33%\n"
    );
    assert_eq!(
        node_line(&storage()),
        "REGISTERED (leader 127.0.0.1:5550 (rtt 0.30ms), listening 127.0.0.1:5555)  node 1  4,893 messages (22.4 MiB)  store/s 856 p99 3.6ms  read/s 0 p99 -  errors 0  bad checksums 0  disk free 41.0 GiB"
    );
    assert_eq!(
        node_final(&storage()),
        "hatokuse node 1 0.4.1 (3f2a9c1), up 2h14m\nREGISTERED (leader 127.0.0.1:5550 (rtt 0.30ms), listening 127.0.0.1:5555)\n4,893 messages (22.4 MiB) in storage_node_1, io unbuffered, write errors 0, bad checksums 0\n"
    );
    let faulty = NodeReport { write_errors: 1, bad_checksums: 2, ..storage() };
    assert!(node_line(&faulty).starts_with("DEGRADED (1 write error, 2 bad checksums since start; registered, "));
}

#[test]
fn nothing_hostile_reaches_a_terminal() {
    let evil = "a\x1b[2J\x1b]0;x\x07\r\nfake\u{9b}31m\u{202e}";
    let mut view = cluster();
    view.events.push(event(evil, evil, evil));
    view.nodes[0].address = evil.to_owned();
    (view.addresses.clients, view.version, view.waiting_for) =
        (evil.to_owned(), evil.to_owned(), Some(evil.to_owned()));
    let node = NodeReport {
        leader: evil.to_owned(),
        folder: evil.to_owned(),
        listening: evil.to_owned(),
        layout: evil.to_owned(),
        version: evil.to_owned(),
        largest: Some((1, evil.to_owned())),
        events: view.events.clone(),
        ..storage()
    };
    for utf8 in [false, true] {
        let ui = Ui::new(true, utf8);
        let text = screen(&LEADER, &view, &ui, 200, 40) + &screen(&NODE, &node, &ui, 200, 40);
        assert!(text.contains("a\\u{1b}[2J\\u{1b}]0;x\\u{7}\\r\\nfake\\u{9b}31m"), "{text}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}'), "{text:?}");
        assert!(utf8 || text.is_ascii());
    }
    for line in [leader_line(&view), node_line(&node)] {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    for text in [leader_final(&view), node_final(&node)] {
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
}

#[test]
fn colour_only_where_it_is_wanted() {
    let colours = |ui: &Ui| {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| leader_frame(&cluster(), CLOCK, ui, frame)).unwrap();
        let cells = terminal.backend().buffer().content().to_vec();
        cells.into_iter().map(|cell| cell.fg).filter(|fg| *fg != Color::Reset).collect::<Vec<_>>()
    };
    assert!(colours(&Ui::new(false, true)).is_empty());
    let used = colours(&Ui::new(true, true));
    assert!([Color::Red, Color::Green, Color::Yellow].iter().all(|c| used.contains(c)));
}

#[test]
fn nodes_are_sorted_as_asked() {
    let order = |ui: &Ui| -> Vec<u32> {
        let text = screen(&LEADER, &cluster(), ui, 80, 24);
        text.lines()
            .filter(|l| l.contains("127.0.0.1:"))
            .filter_map(|l| l.split_whitespace().next()?.parse().ok())
            .collect()
    };
    let mut ui = plain();
    for (name, ids) in
        [("id", [1, 2, 3, 4]), ("state", [3, 1, 2, 4]), ("messages", [2, 1, 4, 3]), ("p99", [4, 2, 1, 3])]
    {
        assert_eq!((ui.sort.word(), order(&ui)), (name, ids.to_vec()));
        ui.key(Key::Char('s'));
    }
    assert_eq!(ui.sort, Sort::Id);
}

#[test]
fn keys() {
    let mut ui = plain();
    for (key, action) in [
        (Key::Char('x'), Action::None),
        (Key::Escape, Action::None),
        (Key::Char('r'), Action::Refresh),
        (Key::Char('n'), Action::Redraw),
        (Key::Char('s'), Action::Redraw),
        (Key::Char('?'), Action::Redraw),
        (Key::Char('n'), Action::None),
        (Key::Char('s'), Action::None),
        (Key::Escape, Action::Redraw),
        // Asked first, and anything but a yes is a no.
        (Key::Char('q'), Action::Redraw),
        (Key::Char('n'), Action::Redraw),
        (Key::Char('q'), Action::Redraw),
        (Key::Char('q'), Action::Quit),
        (Key::Interrupt, Action::Quit),
    ] {
        assert_eq!(ui.key(key), action, "{key:?}");
    }
    assert_eq!((ui.sort, ui.page, ui.help), (Sort::State, 0, false), "another order starts at its first page");
    ui.key(Key::Char('?'));
    assert!(screen(&LEADER, &cluster(), &ui, 80, 24).contains("? or Esc back"));
    assert!(screen(&NODE, &storage(), &ui, 80, 24).contains("unbuffered  a power cut"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn no_size_is_too_small(
        columns in 0u16..=200, rows in 0u16..=60, nodes in 0u32..60,
        utf8: bool, help in proptest::bool::weighted(0.1), page: usize,
    ) {
        let ui = Ui { help, page, ..Ui::new(true, utf8) };
        let text = screen(&LEADER, &crowd(nodes), &ui, columns, rows) + &screen(&NODE, &storage(), &ui, columns, rows);
        // Wherever there is room for it, the state is on the screen.
        prop_assert!(help || rows < 3 || columns < 12 || (text.contains("HEALTHY") || text.contains("DEGRADED")) && text.contains("REGISTERED"));
    }
}
