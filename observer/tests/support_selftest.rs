//! The support library's own tests, of the parts that need neither root nor a kernel.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{cell::Cell, time::Duration};

use support::{
    cgroup::root_in,
    daemon::ready_address,
    http,
    metrics::{Expected, Metrics, wait_for, wait_until},
    poll::poll,
};

const SCRAPE: &str = r#"# HELP active Open connections, with a \\ in the help.
# TYPE active gauge
active{pod="a",port="80"} 3
active{pod="a",port="81"} 4
active{pod="b",port="80",} 5 1700000000000
# TYPE opened_total counter
opened_total 12
# TYPE seconds histogram
seconds_bucket{le="0.5"} 1e3
seconds_bucket{le="+Inf"} +Inf
odd{text="quote \" backslash \\ newline \n brace } comma , equals ="} NaN
empty{} -0.25
# EOF
"#;

fn scrape() -> Metrics {
    Metrics::parse(SCRAPE).expect("a well-formed scrape")
}

#[test]
fn samples_are_read_with_names_labels_and_values() {
    let metrics = scrape();
    assert_eq!(metrics.samples.len(), 8);
    assert_eq!(metrics.types["active"], "gauge");
    assert_eq!(metrics.types["seconds"], "histogram");
    let close = |name, labels: &[_], value: f64| {
        let read = metrics.value(name, labels);
        assert!((read - value).abs() < 1e-9, "{name}: {read}");
    };
    close("active", &[("pod", "b")], 5.0);
    close("opened_total", &[], 12.0);
    close("seconds_bucket", &[("le", "0.5")], 1000.0);
    close("empty", &[], -0.25);
    assert!(metrics.value("seconds_bucket", &[("le", "+Inf")]).is_infinite());
    assert!(metrics.value("odd", &[]).is_nan());
}

#[test]
fn escapes_are_undone() {
    let metrics = scrape();
    let text = &metrics.select("odd", &[])[0].labels["text"];
    assert_eq!(text, "quote \" backslash \\ newline \n brace } comma , equals =");
}

#[test]
fn sums_run_over_the_labels_that_are_left_open() {
    let metrics = scrape();
    let expect =
        |labels: &[_], sum| assert_eq!(metrics.sum("active", labels).to_bits(), f64::to_bits(sum));
    expect(&[("pod", "a")], 7.0);
    expect(&[("port", "80")], 8.0);
    expect(&[("pod", "a"), ("port", "80")], 3.0);
    expect(&[("pod", "c")], 0.0);
    expect(&[("node", "")], 0.0);
    expect(&[], 12.0);
}

#[test]
#[should_panic(expected = "ambiguous")]
fn a_value_must_be_unambiguous() {
    scrape().value("active", &[("pod", "a")]);
}

#[test]
#[should_panic(expected = "no active with")]
fn a_value_must_be_there() {
    scrape().value("active", &[("pod", "c")]);
}

#[test]
fn malformed_scrapes_are_refused() {
    for text in [
        "name",
        "name ",
        "name x",
        "1name 1",
        "{} 1",
        "name{a=\"b\" 1",
        "name{a=\"b} 1",
        "name{a=b} 1",
        "name{a=\"b\"c=\"d\"} 1",
        "name{a=\"b\",a=\"c\"} 1",
        "name{a=\"\\t\"} 1",
        "name 1 soon",
        "name 1 2 3",
        "# TYPE name",
        "# TYPE name gauge\n# TYPE name gauge",
        "name{a=\"1\",b=\"2\"} 1\nname{b=\"2\",a=\"1\"} 1",
    ] {
        assert!(Metrics::parse(text).is_err(), "accepted: {text}");
    }
}

#[test]
fn a_difference_shows_what_came_went_and_changed() {
    let before = Metrics::parse("same 1\nchanged 1\ngone{a=\"b\"} 1").expect("well-formed");
    let after = Metrics::parse("same 1\nchanged 2\nnew 1").expect("well-formed");
    assert_eq!(after.diff(&before), "- changed 1\n+ changed 2\n- gone{a=\"b\"} 1\n+ new 1\n");
}

#[test]
fn waiting_ends_when_the_expectation_holds() {
    let scrapes = Cell::new(0);
    let next = || {
        scrapes.set(scrapes.get() + 1);
        Metrics::parse(&format!("count {}", scrapes.get())).expect("well-formed")
    };
    wait_for(Duration::from_mins(1), next, &[Expected::sum("count", &[], 3)]);
    assert_eq!(scrapes.get(), 3);
    wait_until(Duration::from_mins(1), next, |metrics| metrics.sum("count", &[]) > 4.0);
    assert_eq!(scrapes.get(), 5);
}

#[test]
#[should_panic(expected = "active [(\"pod\", \"a\")]\n- expected 8\n+ got      7")]
fn waiting_in_vain_tells_what_was_expected() {
    wait_for(Duration::ZERO, scrape, &[Expected::sum("active", &[("pod", "a")], 8)]);
}

#[test]
#[should_panic(expected = "+ opened_total 12")]
fn waiting_in_vain_shows_the_scrape() {
    wait_until(Duration::ZERO, scrape, |_| false);
}

#[test]
fn polling_asks_at_least_once() {
    assert_eq!(poll(Duration::ZERO, || Some(1)), Some(1));
    assert_eq!(poll(Duration::from_millis(30), || None::<u8>), None);
}

#[test]
fn the_cgroup_root_is_found_on_hybrid_and_unified_hosts() {
    let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                  32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                  38 31 0:35 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
    assert_eq!(root_in(hybrid), Some("/sys/fs/cgroup/unified".into()));
    let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    assert_eq!(root_in(unified), Some("/sys/fs/cgroup".into()));
    assert_eq!(root_in("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
}

#[test]
fn the_ready_line_is_told_from_the_others() {
    let line = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","fields":{"message":"ready","listen":"127.0.0.1:9400"},"target":"observer"}"#;
    assert_eq!(ready_address(line), "127.0.0.1:9400".parse().ok());
    assert_eq!(ready_address(&line.replace("ready", "starting")), None);
    assert_eq!(ready_address("not JSON"), None);
}

#[test]
fn an_http_answer_is_taken_apart() {
    let answer = "HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\nContent-Length: 4\r\n\r\na\r\nb";
    let response = http::parse(answer).expect("a well-formed answer");
    assert_eq!((response.status, response.content_type.as_str()), (200, "text/plain"));
    assert_eq!(response.body, "a\r\nb");
    assert!(http::parse(&answer.replace(": 4", ": 5")).is_err(), "a body cut short");
    assert!(http::parse("220 smtp\r\n\r\n").is_err());
}
