//! What a report says, in text and in JSON.

use super::*;

pub(super) fn samples(errors: u64) -> Samples {
    let mut samples = Samples::new();
    for ms in 1..=1000 {
        samples.record(Duration::from_millis(ms) / 100, Duration::from_millis(ms * 2));
    }
    samples.errors = errors;
    samples
}

pub(super) fn report(results: Vec<OpResult>) -> Report {
    Report {
        addr: "127.0.0.1:6666".to_owned(),
        protocol: "text",
        connections: 16,
        pipeline: 1,
        size: 1 << 20,
        results,
        verified: Some(1000),
        nodes: [(1, 501), (2, 500), (3, 499), (10, 500)].into(),
        first_error: None,
        settings: Asked { op: "set", count: Some(1000), size_min: 1 << 20, seed: 1, ..Asked::default() },
        unsent: 0,
        cpu_per_op: Cpu { bench_us: 2.5, servers_us: None },
        machine: Machine::default(),
        version: "VERSION",
        date: "2026-11-29T01:02:03Z".to_owned(),
        to_verify: 1000,
        register: Some(Register {
            tolerance: 2,
            messages: 1000,
            io_modes: vec!["buffered".to_owned()],
            layouts: vec!["text".to_owned()],
        }),
        left: Some(Left { ids: 1000, prefix: "bench-".to_owned(), remove: Some("hatokuse bench --clean".to_owned()) }),
    }
}

#[test]
fn a_clean_report_as_text() {
    let report = report(vec![samples(0).result("set", Duration::from_millis(2500))]);
    assert!(report.is_clean());
    let text = report.text();
    assert_eq!(text, include_str!("golden/clean.txt"), "\n{text}");
}

#[test]
fn a_report_of_trouble_as_text() {
    let mut report = report(vec![
        samples(12_345).result("set", Duration::from_secs(1)),
        Samples::new().result("get", Duration::ZERO),
    ]);
    report.settings.rate = Some(5000);
    report.settings.size_min = 512;
    report.settings.keys = Some(1000);
    report.settings.distribution = Some("zipf 0.99".to_owned());
    report.settings.warmup_s = 2.0;
    report.unsent = 1234;
    report.cpu_per_op.servers_us = Some(31.25);
    report.first_error = Some("SET bench-7: ERROR BUSY too much".to_owned());
    report.verified = Some(999);
    report.nodes.clear();
    report.register = None;
    report.left.as_mut().unwrap().remove = None;
    assert!(!report.is_clean());
    let text = report.text();
    assert_eq!(text, include_str!("golden/trouble.txt"), "\n{text}");
}

#[test]
fn messages_with_a_time_are_not_said_to_stay() {
    let mut report = report(vec![samples(0).result("set", Duration::from_secs(1))]);
    report.settings.ttl_ms = Some(600_000);
    let text = report.text();
    let left = "left      1,000 messages, bench-0 to bench-999, end by themselves; this removes them now:\n";
    assert!(text.contains(left) && text.contains("each for 10m") && !text.contains("stay"), "{text}");
}

#[test]
fn errors_and_wrong_values_are_not_clean() {
    let mut report = report(vec![samples(1).result("set", Duration::from_secs(1))]);
    assert!(!report.is_clean());
    report.results[0].errors = 0;
    assert!(report.is_clean());
    report.verified = Some(999);
    assert!(!report.is_clean());
    report.verified = None;
    assert!(report.is_clean());
}

#[test]
fn json_is_as_promised() {
    let mut report = report(vec![samples(0).result("set", Duration::from_micros(1_234_567))]);
    report.verified = None;
    assert_eq!(
        report.json(),
        concat!(
            r#"{"addr":"127.0.0.1:6666","protocol":"text","connections":16,"pipeline":1,"size":1048576,"#,
            r#""results":[{"op":"set","count":1000,"errors":0,"elapsed_s":1.235,"ops_per_s":810.001,"#,
            r#""latency_ms":{"p50":5.001,"p90":9.003,"p99":9.904,"p999":9.994,"max":10.002},"per_second":[499,500,1]}],"#,
            r#""verified":null,"nodes":{"1":501,"2":500,"3":499,"10":500},"#,
            r#""settings":{"op":"set","count":1000,"duration_s":null,"warmup_s":0.0,"rate":null,"keys":null,"#,
            r#""distribution":null,"mix":null,"size_min":1048576,"seed":1,"wait":0},"unsent":0,"#,
            r#""cpu_per_op":{"bench_us":2.5,"servers_us":null},"#,
            r#""machine":{"cores":0,"cpu":"","memory_mib":0,"kernel":""},"version":"VERSION","date":"2026-11-29T01:02:03Z"}"#
        )
    );
    report.verified = Some(9);
    report.first_error = Some("it \"broke\"".to_owned());
    let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(value["verified"], 9);
    assert_eq!(value["first_error"], "it \"broke\"");
}

#[test]
fn numbers_are_short() {
    let times = [0, 99_000, 100_000, 3_449_000, 9_960_000, 31_000_000, 999_600_000, 12_300_000_000];
    let shown: Vec<_> = times.iter().map(|ns| short_time(Duration::from_nanos(*ns))).collect();
    assert_eq!(shown, ["0us", "99us", "100us", "3.4ms", "10ms", "31ms", "1.0s", "12.3s"]);
    assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
}
