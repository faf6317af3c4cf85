use bytes::{Bytes, BytesMut};

use super::*;
use crate::protocol::resp::{Value, Words};
use crate::protocol::table::{Op, ServerOp, SessionOp};

fn settings(standby: Standby) -> Settings {
    Settings { master_name: "main".to_owned(), advertise: None, standby }
}

/// Peer 1 leads, peer 2 follows, peer 3 is down, and where peer 4 serves clients is not known.
fn status(me: PeerId) -> Status {
    let of = |id, role, matched: Option<u64>, silent: Option<u64>, clients: &str| PeerStatus {
        id,
        address: format!("h{id}:5560"),
        role,
        matched,
        silent_for: silent.map(Duration::from_millis),
        refuses: None,
        clients: (!clients.is_empty()).then(|| clients.to_owned()),
    };
    Status {
        me,
        term: 5,
        last: Some(120),
        committed: Some(120),
        applied: Some(119),
        behind: 0,
        snapshot: None,
        disk_late: Duration::ZERO,
        led: None,
        peers: vec![
            of(3, Role::Unreachable, Some(90), Some(7000), "[::1]:6668"),
            of(1, Role::Leader, Some(120), Some(0), "h1:6666"),
            of(2, Role::Standby, Some(118), Some(40), "h2:6667"),
            of(4, Role::Unreachable, None, None, ""),
        ],
        removed: Default::default(),
    }
}

pub(in crate::leader) fn view(me: PeerId, standby: Standby, tls_port: Option<u16>) -> View {
    View::of_group(&settings(standby), Uuid::from_hex(&"ab".repeat(16)), status(me), 3, (tls_port, None))
}

/// Nobody leads.
pub(in crate::leader) fn leaderless() -> View {
    let mut status = status(2);
    status.peers.iter_mut().filter(|peer| peer.id == 1).for_each(|peer| peer.role = Role::Unreachable);
    View::of_group(&settings(Standby::Redirect), None, status, 3, (None, None))
}

pub(in crate::leader) fn words(line: &str) -> Words {
    line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

/// A reply as it is sent, with blanks for the ends of lines.
fn sent(value: &Value, version: u8) -> String {
    let mut out = BytesMut::new();
    value.encode(version, &mut out);
    String::from_utf8_lossy(&out).replace("\r\n", " ").trim_end().to_owned()
}

fn said(view: &View, line: &str, version: u8) -> String {
    view.sentinel(&words(line)).map_or_else(|why| format!("-{why}"), |value| sent(&value, version))
}

/// The values of a map or a list of names and values.
fn fields(value: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| match value {
        Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => panic!("{other:?}"),
    };
    let Value::Map(pairs) = value else { panic!("{value:?}") };
    pairs.iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn listed(value: Value) -> Vec<Vec<(String, String)>> {
    let Value::Array(values) = value else { panic!("{value:?}") };
    values.iter().map(fields).collect()
}

#[test]
fn who_leads_is_told_in_each_form() {
    let leader = view(1, Standby::Relay, None);
    for version in [2, 3] {
        let address = said(&leader, "SENTINEL get-master-addr-by-name main", version);
        assert_eq!(address, "*2 $2 h1 $4 6666");
    }
    assert_eq!(said(&leader, "SENTINEL GET-MASTER-ADDR-BY-NAME other", 2), "*-1");
    assert_eq!(said(&leader, "SENTINEL GET-MASTER-ADDR-BY-NAME other", 3), "_");
    for word in ["MASTER", "REPLICAS", "SLAVES", "SENTINELS", "CKQUORUM"] {
        assert_eq!(said(&leader, &format!("SENTINEL {word} Main"), 2), "-ERR No such master with that name");
    }
    let master = leader.sentinel(&words("SENTINEL master main")).unwrap();
    let run = format!("{}00000001", "ab".repeat(16));
    let wanted = [
        ("name", "main"),
        ("ip", "h1"),
        ("port", "6666"),
        ("runid", &run),
        ("flags", "master"),
        ("last-ok-ping-reply", "0"),
        ("last-ping-reply", "0"),
        ("down-after-milliseconds", "2000"),
        ("role-reported", "master"),
        ("config-epoch", "5"),
        ("num-slaves", "2"),
        ("num-other-sentinels", "2"),
        ("quorum", "2"),
    ];
    assert_eq!(fields(&master), wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
    // A map in version 3, names and values in version 2; of MASTERS each.
    assert!(sent(&master, 3).starts_with("%13 $4 name $4 main ") && sent(&master, 2).starts_with("*26 $4 name "));
    assert!(said(&leader, "SENTINEL masters", 3).starts_with("*1 %13 "));
    assert!(said(&leader, "SENTINEL masters", 2).starts_with("*1 *26 "));
    assert_eq!(said(&leader, "SENTINEL myid", 2), format!("$40 {run}"));
}

#[test]
fn the_others_are_told_with_what_is_known_of_them() {
    let leader = view(1, Standby::Relay, None);
    let of = |fields: &[(String, String)], name: &str| {
        fields.iter().find(|(own, _)| own == name).map_or_else(String::new, |(_, value)| value.clone())
    };
    let replicas = listed(leader.sentinel(&words("SENTINEL replicas main")).unwrap());
    let told: Vec<_> = replicas
        .iter()
        .map(|one| {
            ["name", "flags", "master-link-status", "slave-repl-offset", "master-host"].map(|name| of(one, name))
        })
        .collect();
    assert_eq!(
        told,
        [["h2:6667", "slave", "ok", "118", "h1"], ["[::1]:6668", "slave,s_down,disconnected", "err", "90", "h1"]]
    );
    assert_eq!(replicas, listed(leader.sentinel(&words("SENTINEL SLAVES main")).unwrap()));
    let sentinels = listed(leader.sentinel(&words("SENTINEL sentinels main")).unwrap());
    let told: Vec<_> =
        sentinels.iter().map(|one| ["ip", "port", "flags", "last-ok-ping-reply"].map(|name| of(one, name))).collect();
    assert_eq!(told, [["h2", "6667", "sentinel", "40"], ["::1", "6668", "sentinel,s_down,disconnected", "7000"]]);
    assert_eq!(of(&sentinels[0], "name"), of(&sentinels[0], "runid"));
    assert_eq!(
        said(&leader, "SENTINEL ckquorum main", 2),
        "+OK 2 usable Sentinels. Quorum and failover authorization can be reached"
    );
    // Standbys that redirect answer no reads.
    let redirecting = view(1, Standby::Redirect, None);
    assert_eq!(said(&redirecting, "SENTINEL replicas main", 2), "*0");
    assert_eq!(listed(redirecting.sentinel(&words("SENTINEL sentinels main")).unwrap()).len(), 2);
    // Who asks with TLS is sent to ports for that.
    let encrypted = view(1, Standby::Relay, Some(6700));
    assert_eq!(said(&encrypted, "SENTINEL get-master-addr-by-name main", 2), "*2 $2 h1 $4 6700");
    // Who asks as a Redis Sentinel is asked finds the others there too, and who leads where it serves.
    let asked = View::of_group(&settings(Standby::Relay), None, status(1), 3, (None, Some(26379)));
    let sentinels = listed(asked.sentinel(&words("SENTINEL sentinels main")).unwrap());
    assert_eq!([of(&sentinels[0], "port"), of(&sentinels[1], "port")], ["26379", "26379"]);
    assert_eq!(said(&asked, "SENTINEL get-master-addr-by-name main", 2), "*2 $2 h1 $4 6666");
    assert_eq!(sent(&asked.sentinel_role(), 2), "*2 $8 sentinel *1 $4 main");
}

#[test]
fn role_and_info_are_those_of_who_answers() {
    let leader = view(1, Standby::Relay, None);
    assert_eq!(sent(&leader.role(), 2), "*3 $6 master :120 *1 *3 $2 h2 $4 6667 $3 118");
    assert_eq!(
        leader.replication(),
        "role:master\r\nconnected_slaves:1\r\nslave0:ip=h2,port=6667,state=online,offset=118,lag=0\r\n\
         master_failover_state:no-failover\r\nmaster_repl_offset:120\r\n"
    );
    assert_eq!(
        leader.sentinel_info(),
        "sentinel_masters:1\r\nmaster0:name=main,status=ok,address=h1:6666,slaves=2,sentinels=3\r\n"
    );
    let standby = view(2, Standby::Redirect, None);
    assert_eq!(sent(&standby.role(), 2), "*5 $5 slave $2 h1 :6666 $9 connected :119");
    assert!(
        standby.replication().starts_with("role:slave\r\nmaster_host:h1\r\nmaster_port:6666\r\nmaster_link_status:up")
    );
    // It hears of the leader only, and calls nobody else down.
    let sentinels = listed(standby.sentinel(&words("SENTINEL sentinels main")).unwrap());
    let flags: Vec<_> = sentinels.iter().flatten().filter(|(name, _)| name == "flags").map(|(_, is)| &**is).collect();
    assert_eq!(flags, ["sentinel", "sentinel"]);
}

#[test]
fn without_a_leader_none_is_named() {
    let view = leaderless();
    assert_eq!(said(&view, "SENTINEL get-master-addr-by-name main", 2), "*-1");
    assert_eq!(said(&view, "SENTINEL masters", 2), "*0");
    assert!(said(&view, "SENTINEL master main", 2).starts_with("-LOADING"));
    assert!(said(&view, "SENTINEL ckquorum main", 2).starts_with("-NOQUORUM "));
    assert_eq!(sent(&view.role(), 2), "*5 $5 slave $0  :0 $7 connect :119");
    assert!(view.replication().contains("master_link_status:down") && !view.replication().contains("master_host"));
    assert_eq!(view.switched_from(1), None);
}

#[test]
fn an_only_leader_is_where_its_client_has_come() {
    let told = |advertise: Option<&str>, own: &str, tls_port| {
        let settings = Settings { advertise: advertise.map(str::to_owned), ..settings(Standby::Relay) };
        let view = View::of_one(&settings, own.parse().unwrap(), (1, 7), tls_port);
        assert_eq!(said(&view, "SENTINEL sentinels main", 2), "*0");
        assert_eq!(sent(&view.role(), 2), "*3 $6 master :0 *0");
        said(&view, "SENTINEL get-master-addr-by-name main", 2)
    };
    assert_eq!(told(None, "10.0.0.7:6666", None), "*2 $8 10.0.0.7 $4 6666");
    assert_eq!(told(None, "[::ffff:10.0.0.7]:6666", None), "*2 $8 10.0.0.7 $4 6666");
    assert_eq!(told(Some("example.org:7000"), "10.0.0.7:6666", None), "*2 $11 example.org $4 7000");
    assert_eq!(told(Some("example.org:7000"), "10.0.0.7:6700", Some(6700)), "*2 $11 example.org $4 6700");
}

#[test]
fn who_has_subscribed_is_told_who_leads_next() {
    let mut own = Subscriptions::default();
    let mut ask = |op, line: &str, version| {
        own.change(op, &words(line)).map_or_else(|why| format!("-{why}"), |value| sent(&value, version))
    };
    assert_eq!(
        ask(SessionOp::Subscribe, "SUBSCRIBE +switch-master +sdown", 3),
        ">3 $9 subscribe $14 +switch-master :1 >3 $9 subscribe $6 +sdown :2"
    );
    assert_eq!(ask(SessionOp::PSubscribe, "PSUBSCRIBE *", 2), "*3 $10 psubscribe $1 * :3");
    // As node-redis asks.
    assert!(ask(SessionOp::PSubscribe, "PSUBSCRIBE switch-master [-+]sdown +slave", 2).ends_with(":6"));
    // Nothing of it is done if one is none.
    assert!(ask(SessionOp::Subscribe, "SUBSCRIBE +odown news", 2).starts_with("-ERR there is no channel 'news'"));
    assert!(ask(SessionOp::PSubscribe, "PSUBSCRIBE __key*", 2).starts_with("-ERR there is no channel '__key*'"));
    let said = view(2, Standby::Redirect, None).switched_from(3).unwrap();
    assert_eq!(said, "main ::1 6668 h1 6666");
    let told: Vec<String> = own.switched(&said).iter().map(|value| sent(value, 2)).collect();
    assert_eq!(
        told,
        [
            "*3 $7 message $14 +switch-master $21 main ::1 6668 h1 6666",
            "*4 $8 pmessage $1 * $14 +switch-master $21 main ::1 6668 h1 6666"
        ]
    );
    assert!(!own.admits(Op::Server(ServerOp::Info)) && own.admits(Op::Session(SessionOp::Ping)));
    let mut ask = |op, line: &str| own.change(op, &words(line)).map(|value| sent(&value, 2)).unwrap();
    assert_eq!(
        ask(SessionOp::Unsubscribe, "UNSUBSCRIBE"),
        "*3 $11 unsubscribe $6 +sdown :5 *3 $11 unsubscribe $14 +switch-master :4"
    );
    assert_eq!(ask(SessionOp::Unsubscribe, "UNSUBSCRIBE"), "*3 $11 unsubscribe $-1 :4");
    assert_eq!(
        ask(SessionOp::PUnsubscribe, "PUNSUBSCRIBE x *"),
        "*3 $12 punsubscribe $1 x :4 *3 $12 punsubscribe $1 * :3"
    );
    ask(SessionOp::PUnsubscribe, "PUNSUBSCRIBE");
    assert!(own.is_empty() && own.admits(Op::Server(ServerOp::Info)));
}

#[test]
fn what_one_connection_subscribes_to_is_bounded() {
    let mut own = Subscriptions::default();
    let many: String = (0..70).map(|n| format!(" {}", "*".repeat(n + 1))).collect();
    assert!(own.change(SessionOp::PSubscribe, &words(&format!("PSUBSCRIBE{many}"))).is_err());
    assert!(own.change(SessionOp::PSubscribe, &words(&format!("PSUBSCRIBE {}", "*".repeat(200)))).is_err());
    assert!(own.is_empty());
}
