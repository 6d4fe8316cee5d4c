//! The table tests/cases/mock.txt, row by row, against the running program: status, headers in order, body.
//! Whatever is one rule of an answer belongs into the table, not here.

mod mock;

use mock::{Answer, Mock, Scratch};
use std::collections::HashMap;

const TABLE: &str = include_str!("../../tests/cases/mock.txt");
const TTL: &str = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds";
const ENDING: [&str; 4] = ["Content-Length", "Date", "Server", "Connection"];

struct Row<'a> {
    line: usize,
    instance: &'a str,
    request: &'a str,
    headers: &'a str,
    status: &'a str,
    shape: &'a str,
    body: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let lines = TABLE.lines().enumerate().filter(|(_, text)| !text.is_empty() && !text.starts_with('#'));
    lines
        .map(|(at, text)| {
            let columns: Vec<&str> = text.splitn(6, '|').map(str::trim).collect();
            let [instance, request, headers, status, shape, body] = columns.as_slice() else {
                panic!("line {}: expected six columns", at + 1)
            };
            Row { line: at + 1, instance, request, headers, status, shape, body }
        })
        .collect()
}

/// Asks, and says what differs from the row.
fn differences(row: &Row, mock: &Mock) -> Vec<String> {
    let token = row.headers.contains("TOKEN").then(|| mock.token(600));
    let mut request = format!("{}\r\n", row.request);
    for header in row.headers.split(';').map(str::trim_start).filter(|header| !header.is_empty()) {
        match (header, &token) {
            ("TOKEN", Some(token)) => request.push_str(&format!("X-aws-ec2-metadata-token: {token}")),
            (header, _) => request.push_str(header),
        }
        request.push_str("\r\n");
    }
    let answer = mock.exchange(format!("{request}\r\n").as_bytes());
    let mut wrong = Vec::new();
    let mut expect = |what: &str, found: &str, wanted: &str| {
        if found != wanted {
            wrong.push(format!("line {}: {what}: {found:?}, expected {wanted:?}", row.line));
        }
    };
    expect("status", &answer.status, row.status);
    let (names, values) = shape(row.shape);
    let found: Vec<&str> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
    expect("headers", &found.join(","), &names.join(","));
    for (name, value) in values {
        expect(name, answer.header(name).unwrap_or("absent"), value);
    }
    expect("Server", answer.header("Server").unwrap_or("absent"), "EC2ws");
    expect("Connection", answer.header("Connection").unwrap_or("absent"), "close");
    if row.shape.ends_with("+ttl") {
        expect("TTL", answer.header(TTL).unwrap_or("absent"), "600");
    }
    if let ("token", Some((_, ttl))) = (row.shape, row.headers.split_once(':')) {
        expect("TTL", answer.header(TTL).unwrap_or("absent"), ttl.trim());
    }
    if !row.request.starts_with("HEAD ") {
        let length = answer.body.len().to_string();
        expect("Content-Length", answer.header("Content-Length").unwrap_or("absent"), &length);
    }
    wrong.extend(wrong_body(row, &answer));
    wrong
}

fn shape(text: &str) -> (Vec<&'static str>, Vec<(&'static str, &str)>) {
    let (kind, ttl) = text.strip_suffix("+ttl").map_or((text, false), |kind| (kind, true));
    let (kind, allow) = kind.split_once(' ').unwrap_or((kind, ""));
    let mut names = if ttl { vec![TTL] } else { Vec::new() };
    let mut values = Vec::new();
    match kind {
        "data" | "octets" => {
            names.extend(["Content-Type", "Accept-Ranges", "Last-Modified"]);
            names.extend(ENDING);
            let kind = if kind == "data" { "text/plain" } else { "application/octet-stream" };
            values.extend([("Content-Type", kind), ("Accept-Ranges", "none")]);
        }
        "page" => {
            names.push("Content-Type");
            names.extend(ENDING);
            values.push(("Content-Type", "text/html"));
        }
        "token" | "empty" | "allow" => {
            names.extend(match kind {
                "token" => vec![TTL],
                "allow" => vec!["Allow"],
                _ => Vec::new(),
            });
            names.extend(ENDING);
            names.push("Content-Type");
            values.push(("Content-Type", "text/plain"));
            match kind {
                "token" => values.push(("Content-Length", "56")),
                _ => values.push(("Content-Length", "0")),
            }
            if kind == "allow" {
                values.push(("Allow", allow));
            }
        }
        other => panic!("unknown shape {other:?}"),
    }
    (names, values)
}

fn wrong_body(row: &Row, answer: &Answer) -> Option<String> {
    let body = String::from_utf8_lossy(&answer.body);
    let (kind, wanted) = row.body.split_at(row.body.len().min(1));
    let wanted = wanted.replace("\\n", "\n");
    let good = match (kind, row.body) {
        (_, "none") => body.is_empty(),
        (_, "token") => {
            let letters = body.trim_end_matches('=');
            body.starts_with("AQAEA")
                && body.ends_with("==")
                && letters.len() == 54
                && letters.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        }
        ("=", _) => body == wanted,
        ("~", _) => body.contains(&wanted),
        ("^", _) => body.starts_with(&wanted),
        ("#", _) => body.len().to_string() == wanted,
        // a page shows its status twice
        ("", _) => {
            body.matches(&row.status.replacen(' ', " - ", 1)).count() == 2 && body.starts_with("<?xml")
        }
        _ => panic!("line {}: unknown body {:?}", row.line, row.body),
    };
    (!good).then(|| format!("line {}: body {body:?}, expected {:?}", row.line, row.body))
}

#[test]
fn every_row_of_the_table_is_answered_so() {
    let user_data = Scratch::new("user-data");
    std::fs::write(user_data.path(), "#!/bin/sh\necho \"secret\"\n").unwrap();
    let instances = HashMap::from([
        // a connection wrongly kept is then over soon
        ("optional", Mock::start(&["--head-time", "1000"])),
        ("required", Mock::start(&["--imdsv2-only"])),
        ("bare", Mock::start(&["--no-role"])),
        (
            "user-data",
            Mock::start(&["--user-data", user_data.text(), "--body-size", "meta-data/big=1048576"]),
        ),
    ]);
    let rows = rows();
    assert!(rows.len() > 80, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        if wrong.len() > 20 {
            break;
        }
        let on = if row.instance == "each" { vec!["optional", "required"] } else { vec![row.instance] };
        for instance in on {
            let found = differences(row, &instances[instance]);
            wrong.extend(found.into_iter().map(|difference| format!("{instance}: {difference}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
