//! Audit mode: everything is let through and told, malformed requests and over-limit ones aside; and the status.

use imds_tests::Lab;

const RULES: &str = "Allow user alice \"/\"\nDeny user bob \"/latest/meta-data\"\n";
const ASK: &str = r#"
status() { imds-lab as "$1" -- curl -s --max-time 5 -o /dev/null -w '%{http_code}' "http://169.254.169.254$2" || true; }
is() {
    found=$(status "$1" "$2")
    [ "$found" = "$3" ] || { echo "$1 $2: $found instead of $3"; cat "$LAB"/log/*d.log; exit 1; }
}
mode() { sed -i '/^mode/d' "$LAB_CONFIG"; sed -i "s/^\[filter\]/[filter]\nmode = \"$1\"/" "$LAB_CONFIG"; }
"#;

fn expect(lab: &Lab, script: &str) -> String {
    lab.script(&format!("{ASK}{script}")).expect_success()
}

fn lines(text: &str) -> Vec<serde_json::Value> {
    text.lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn what_would_be_refused_is_let_through_and_told_until_a_reload_says_enforce() {
    let text = expect(
        &Lab::new().rules(RULES).config("[filter]\nmode = \"audit\"\n"),
        r#"is alice /latest/meta-data/hostname 200
        is bob /latest/meta-data/hostname 200
        is mallory /latest/dynamic/ 200
        is mallory /latest/%00 400
        cat "$LAB_AUDIT"
        imdsctl status --config "$LAB_CONFIG"
        imdsctl status --config "$LAB_CONFIG" --json | python3 -c 'import json,sys; s=json.load(sys.stdin); print("JSON", s["audit"], s["healthy"], s["filterd"]["verdicts"]["would-deny"])'
        grep AUDIT "$LAB/log/filterd.log" | sed 's/^/LOG /'
        mode enforce
        imdsctl reload --config "$LAB_CONFIG"
        is bob /latest/meta-data/hostname 403
        imdsctl status --config "$LAB_CONFIG" | head -n 1
        mode audit
        imdsctl reload --config "$LAB_CONFIG" | head -n 1
        is bob /latest/meta-data/hostname 200"#,
    );
    let told: Vec<(String, Option<u64>, u64)> = lines(&text)
        .iter()
        .map(|line| {
            let status = line["status"].as_u64().unwrap();
            (line["verdict"].as_str().unwrap().to_owned(), line["rule"].as_u64(), status)
        })
        .collect();
    let wanted = [
        ("allow", Some(1), 200),
        ("would-deny", Some(2), 200),
        ("would-deny", None, 200),
        ("refuse", None, 400),
    ];
    assert_eq!(told, wanted.map(|(verdict, rule, status)| (verdict.to_owned(), rule, status)), "{text}");
    assert!(lines(&text)[1]["why"].as_str().unwrap().contains("denied by rule line 2"), "{text}");
    let shown: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).collect();
    assert!(shown[0].starts_with("AUDIT"), "{text}");
    assert_eq!(shown[1], "healthy", "{text}");
    for said in ["JSON True True 2", "LOG ", "verdicts     allow 1, deny 0, would-deny 2, refuse 1"] {
        assert!(text.contains(said), "{text} lacks {said}");
    }
    let last: Vec<&str> = shown.iter().rev().take(2).rev().copied().collect();
    assert_eq!(last[0], "healthy", "{text}");
    assert!(last[1].starts_with("AUDIT"), "{text}");
}

/// root makes the socket and alice connects it: nobody can say whose it is.
const NOBODYS: &str = r#"cat >"$LAB/nobodys.py" <<'EOF'
import os, socket
s = socket.socket()
os.setresuid(2001, 2001, 2001)
s.settimeout(5)
try:
    s.connect(("169.254.169.254", 80))
    s.sendall(b"GET /latest/meta-data/hostname HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
    print(s.recv(100).split(b" ")[1].decode())
except OSError as error:
    print(type(error).__name__)
EOF
"#;

#[test]
fn a_client_whom_nobody_can_tell_is_let_through_in_audit_mode_only() {
    let text = expect(
        &Lab::new().rules("Allow \"/\"\n"),
        &format!(
            r#"{NOBODYS}
        python3 "$LAB/nobodys.py"
        mode audit; imdsctl reload --config "$LAB_CONFIG" >/dev/null
        python3 "$LAB/nobodys.py"
        tail -n 1 "$LAB_AUDIT"
        mode enforce; imdsctl reload --config "$LAB_CONFIG" >/dev/null
        python3 "$LAB/nobodys.py"
        # a filterd that is gone takes its word with it
        mode audit; imdsctl reload --config "$LAB_CONFIG" >/dev/null
        imds-lab kill filterd
        python3 "$LAB/nobodys.py"
        imdsctl status --config "$LAB_CONFIG" || echo "code $?""#
        ),
    );
    let told: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).take(4).collect();
    assert_eq!(
        told,
        ["ConnectionRefusedError", "200", "ConnectionRefusedError", "ConnectionRefusedError"],
        "{text}"
    );
    let line = &lines(&text)[0];
    assert_eq!(line["verdict"], "would-deny", "{line}");
    assert!(line["uid"].is_null() && line["user"].is_null(), "{line}");
    assert!(
        line["why"].as_str().unwrap().contains("uid 0 made its socket and uid 2001 connects it"),
        "{line}"
    );
    assert!(text.contains("unhealthy") && text.contains("imds-filterd does not run"), "{text}");
    assert!(text.contains("guard xfrm stands") && text.ends_with("code 1\n"), "{text}");
}

#[test]
fn containers_are_let_alone_and_counted_with_the_nftables_guard_and_a_reload_refuses_them() {
    let config = "[capture]\nguard = \"nftables\"\n[filter]\nmode = \"audit\"\n";
    let text = expect(
        &Lab::new().container("bridge").rules(RULES).config(config),
        r#"inside() { imds-lab in container -- curl -s --max-time 2 -o /dev/null -w '%{http_code}\n' http://169.254.169.254/latest/meta-data/ || true; }
        inside
        imdsctl status --config "$LAB_CONFIG" --json | python3 -c 'import json,sys; s=json.load(sys.stdin)["interceptor"]; print(s["forwarded"], s["forwarded_packets"] > 3, s["capture"]["put_back"])'
        mode enforce; imdsctl reload --config "$LAB_CONFIG" >/dev/null
        inside
        imdsctl status --config "$LAB_CONFIG" | grep forwarded
        # a reload is over when interceptor has obeyed
        for turn in 1 2 3; do
            mode audit; imdsctl reload --config "$LAB_CONFIG" >/dev/null
            inside
            mode enforce; imdsctl reload --config "$LAB_CONFIG" >/dev/null
            inside
        done
        # and so is a start of filterd
        for mode in audit enforce audit; do
            mode $mode; imds-lab stop filterd; imds-lab start filterd
            inside
        done"#,
    );
    let said: Vec<&str> = text.lines().map(str::trim).collect();
    let (first, turns) = said.split_at(4);
    assert_eq!(first, ["200", "audit True 0", "000", "forwarded    packets are refused"], "{text}");
    let wanted = ["200", "000"].repeat(3).into_iter().chain(["200", "000", "200"]);
    assert_eq!(turns, wanted.collect::<Vec<_>>(), "{text}");
}

#[test]
fn a_reload_alone_does_not_let_containers_pass_and_the_xfrm_guard_never_does() {
    let text = expect(
        &Lab::new().container("bridge").rules(RULES).config("[capture]\nguard = \"nftables\"\n"),
        r#"inside() { imds-lab in container -- curl -s --max-time 2 -o /dev/null -w '%{http_code}\n' http://169.254.169.254/latest/meta-data/ || true; }
        mode audit; printf '[filter]\nmode = "audit"\nrules = "%s"\n' "$LAB_RULES" >"$LAB_CONFIG"
        imdsctl reload --config "$LAB_CONFIG" >/dev/null
        is bob /latest/meta-data/ 200
        inside"#,
    );
    assert_eq!(text, "000\n");
    let text = expect(
        &Lab::new().container("bridge").rules(RULES).config("[filter]\nmode = \"audit\"\n"),
        r#"imds-lab in container -- curl -s --max-time 2 -o /dev/null -w '%{http_code}\n' http://169.254.169.254/latest/meta-data/ || true
        grep AUDIT "$LAB/log/interceptor.log""#,
    );
    assert!(text.starts_with("000\n") && text.contains("refused all the same"), "{text}");
}
