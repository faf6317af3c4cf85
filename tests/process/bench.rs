//! The bench from outside: time, rate and choice of keys on a real register, the page, and comparisons.

use serde_json::Value;

use crate::support::{Register, folder, hatokuse, run};

/// Exit code, stdout and stderr of a bench.
fn bench(args: &[&str]) -> (i32, String, String) {
    let output = run(hatokuse(&["bench"]).args(args), b"");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
}

fn report(args: &[&str]) -> Value {
    let (code, out, error) = bench(&[args, &["--json"]].concat());
    assert_eq!(code, 0, "{args:?}: {error}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_run_of_every_kind_is_right_and_says_how_it_was_asked_for() {
    let register = Register::start(3, 2);
    let at = ["--addr", register.addr(), "--connections", "4", "--verify"];
    let report = |more: &[&str]| report(&[&at, more].concat());

    let mixed = report(&["--op", "mixed", "--mix", "1:4", "--keys", "60", "--distribution", "zipf", "--count", "500"]);
    let counts: Vec<_> = mixed["results"].as_array().unwrap().iter().map(|result| &result["count"]).collect();
    assert_eq!(counts, [&Value::from(100), &Value::from(400)]);
    assert_eq!((&mixed["verified"], &mixed["settings"]["distribution"]), (&60.into(), &"zipf 0.99".into()));

    let ranged = report(&["--size", "50-400", "--key-prefix", "r-", "--count", "200"]);
    assert_eq!((&ranged["size"], &ranged["settings"]["size_min"]), (&400.into(), &50.into()));
    let message = register.get("r-7");
    assert!((56..=406).contains(&message.len()), "{message}");

    let timed = report(&["--rate", "200", "--duration", "500ms", "--warmup", "100ms", "--key-prefix", "t-"]);
    let result = &timed["results"][0];
    // Requests 20 to 119 are due in the half second that is measured.
    assert_eq!(result["count"].as_u64().unwrap() + timed["unsent"].as_u64().unwrap(), 100, "{timed}");
    assert_eq!((&timed["settings"]["rate"], &timed["settings"]["warmup_s"]), (&200.into(), &0.1.into()));
    assert_eq!(timed["verified"].as_u64().unwrap(), 20 + result["count"].as_u64().unwrap(), "the warm-up wrote 20");
    assert!(timed["machine"]["cores"].as_u64().unwrap() > 0 && timed["version"].is_string());
}

#[test]
fn a_page_is_written_and_runs_are_compared() {
    let home = folder();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let page = path("report.html");
    let local = ["--local-nodes", "3", "--tolerance", "3", "--count", "300", "--html", &page, "--json"];
    let (code, line, error) = bench(&local);
    assert_eq!(code, 0, "{error}");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"), "{html}");
    assert!(html.contains(">node 3<") && html.contains("300") && !html.contains("<script"), "{html}");
    let report: Value = serde_json::from_str(&line).unwrap();
    assert!(report["cpu_per_op"]["servers_us"].is_f64() && report["nodes"]["3"] == 300, "{report}");

    let (a, b) = (path("a.json"), path("b.json"));
    std::fs::write(&a, line.repeat(3)).unwrap();
    std::fs::write(&b, &line).unwrap();
    let (code, table, error) = bench(&["--compare", &a, &b]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(table.contains("medians of 3 runs") && table.contains("SET p99.9"), "{table}");
    assert!(table.lines().filter(|line| line.starts_with("SET")).all(|line| line.ends_with(" 1.00")), "{table}");
    for (bad, wanted) in [("", "empty"), ("{\"protocol\":\"text\"}", "missing field `connections`")] {
        std::fs::write(&b, bad).unwrap();
        let (code, out, error) = bench(&["--compare", &a, &b]);
        assert_eq!((code, out.as_str()), (2, ""), "{error}");
        assert!(error.contains("b.json: ") && error.contains(wanted), "{error}");
    }
    let (code, _, error) = bench(&["--compare", &a, &path("gone.json")]);
    assert!(code == 2 && error.contains("gone.json: No such file"), "{error}");
}

#[test]
fn settings_that_contradict_each_other_are_refused_before_anything_starts() {
    for (wrong, wanted) in [
        (&["--rate", "0"][..], "--rate"),
        (&["--count", "5", "--duration", "1s"], "--duration"),
        (&["--duration", "1s", "--warmup", "2s"], "--warmup 2s is longer than --duration 1s"),
        (&["--duration", "0s"], "longer than nothing"),
        (&["--size", "400-50"], "write 50-400"),
        (&["--mix", "1:2"], "--op mixed"),
        (&["--op", "mixed", "--mix", "0:1"], "SETS:GETS"),
        (&["--keys", "0"], "--keys"),
        (&["--theta", "1"], "--distribution zipf"),
        (&["--distribution", "normal"], "zipf"),
        (&["--wait", "2"], "--protocol resp"),
        (&["--html", "/nowhere/at/all.html"], "folder that exists"),
        (&["--compare", "only-one"], "--compare"),
    ] {
        // Nobody listens there: had it gone on, the code would be 4.
        let (code, out, error) = bench(&[&["--addr", "127.0.0.1:1"], wrong].concat());
        assert_eq!((code, out.as_str()), (2, ""), "{wrong:?}: {error}");
        assert!(error.contains(wanted), "{wrong:?}: {error}");
    }
}
