#!/bin/sh
# Shows users reading the metadata service through imds-filterd: who, what, HTTP status, deciding rule.
# Touches nothing of the machine: it runs itself in a lab. Needs root; the programs must be built.
set -eu

if [ -z "${LAB:-}" ]; then
    cd "$(dirname "$0")/.."
    exec "${CARGO_TARGET_DIR:-target}/debug/imds-lab" run --timeout 60 --rules tests/demo.conf -- \
        sh /run/lab/tests/demo.sh
fi

bad=0
asked=0
granted=0
row() { printf '%-8s %-4s %-45s %-6s %s\n' "$@"; }

# user, path, status and line of the deciding rule that demo.conf should give
ask() {
    for address in 169.254.169.254 '[fd00:ec2::254]'; do
        status=$(imds-lab as "$1" -- curl -gs -m 10 -o /dev/null -w '%{http_code}' "http://$address$2") || true
        asked=$((asked + 1))
        # each verdict has its line, though perhaps written after the answer was
        line=$(timeout 5 tail -n "+$asked" -f "$LAB_AUDIT" | head -n 1)
        rule=$(printf '%s' "$line" | sed -n 's/.*"rule":\([0-9]*\).*/\1/p')
        case $line in *"\"user\":\"$1\""*) ;; *) rule= ;; esac
        family=v4
        [ "$address" = 169.254.169.254 ] || family=v6
        row "$1" $family "$2" "$status" "${rule:-none}: $(sed -n "${rule:-0}p" "$LAB_RULES" 2>/dev/null || true)"
        if [ "$status" != "$3" ] || [ "$rule" != "$4" ]; then
            echo "         expected status $3 by rule $4; audit line: ${line:-none}"
            bad=$((bad + 1))
        fi
        [ "$3" != 200 ] || granted=$((granted + 1))
    done
}

id=/latest/meta-data/instance-id
credentials=/latest/meta-data/iam/security-credentials/
document=/latest/dynamic/instance-identity/document

row USER '' PATH STATUS 'DECIDING RULE'
ask alice $id 200 2
ask alice $credentials 200 5
ask alice $document 403 4
ask bob $id 200 2
ask bob $credentials 403 3
ask bob $document 200 6
ask mallory $id 403 7
ask mallory $credentials 403 7
ask mallory $document 403 7

reached=$(grep -c . "$LAB_RECORD" || true)
echo "asked $asked times; the real metadata service saw $reached requests"
if [ "$reached" != "$granted" ]; then
    echo "expected $granted"
    bad=$((bad + 1))
fi
if [ $bad -ne 0 ]; then
    echo "demo: failed"
    tail -n 20 /run/lab/log/interceptor.log /run/lab/log/filterd.log
    exit 1
fi
echo "demo: ok"
