//! What the daemons do while nobody wants anything of them: nothing. Counts context switches, as the kernel has them.
//! Must not be fooled by a timer that is merely longer than the measure: see `CALM`.

use imds_tests::Lab;

const RULES: &str = "Allow \"/\"\n";
/// Longer than the longest of the daemons' periods: those five seconds at which everything is compared while there is
/// traffic.
const CALM: u32 = 7;

/// Waits, `LIMIT` seconds at most, until no task of the three processes (the watcher of names is filterd's child) has
/// run for `CALM` seconds.
const WAIT_FOR_CALM: &str = r#"
switches() {
    for pid in $LAB_INTERCEPTOR_PID $LAB_FILTERD_PID $(cat /proc/$LAB_FILTERD_PID/task/*/children); do
        cat /proc/$pid/comm
        grep ctxt_switches /proc/$pid/task/*/status
    done
}
calm=0
for second in $(seq $LIMIT); do
    before=$(switches)
    sleep 1
    if [ "$(switches)" = "$before" ]; then calm=$((calm + 1)); else calm=0; fi
    [ $calm -lt $CALM ] || break
done
[ "$(switches | grep -c ^imds-)" = 3 ]
[ $calm -ge $CALM ] || { echo "never calm for $CALM seconds:"; switches; exit 1; } >&2
"#;

/// Clients, and an operator.
const TRAFFIC: &str =
    "for n in 1 2 3; do curl -sS -o /dev/null --max-time 5 http://169.254.169.254/latest/meta-data/; done
imdsctl status --config $LAB_CONFIG >/dev/null";

/// The guard's switch, written by others; set back before any timer would make somebody look.
const SWITCH_SET_BACK: &str = "echo 1 >/proc/sys/net/ipv4/conf/eth0/disable_xfrm
began=$(date +%s%N)
until [ $(cat /proc/sys/net/ipv4/conf/eth0/disable_xfrm) = 0 ]; do
    [ $(($(date +%s%N) - began)) -lt 2000000000 ]
done";

/// Nothing runs, until `then` is run.
fn expect_calm(guard: &str, then: &str) {
    let script = format!("CALM={CALM} LIMIT=30\n{TRAFFIC}\n{WAIT_FOR_CALM}\n{then}");
    let lab = Lab::new().rules(RULES).config(&format!("[capture]\nguard = \"{guard}\"\n"));
    let _ = lab.script(&script).expect_success();
}

#[test]
fn in_silence_none_of_the_processes_runs_until_the_guards_switch_is_written() {
    expect_calm("xfrm", SWITCH_SET_BACK);
}

#[test]
fn in_silence_none_of_the_processes_runs_with_the_other_guard() {
    expect_calm("nftables", "");
}

#[test]
fn where_nothing_tells_of_the_guards_switch_it_is_looked_at_all_the_same() {
    let script = "[ $(cat /proc/sys/net/ipv4/conf/eth0/disable_xfrm) = 0 ]
        echo 1 >/proc/sys/net/ipv4/conf/eth0/disable_xfrm
        began=$(date +%s)
        until [ $(cat /proc/sys/net/ipv4/conf/eth0/disable_xfrm) = 0 ]; do [ $(($(date +%s) - began)) -lt 8 ]; done";
    let _ = Lab::new().rules(RULES).config("[capture]\ncgroup = \"none\"\n").script(script).expect_success();
}
