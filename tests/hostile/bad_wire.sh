# shellcheck shell=sh
# Makes the wire between the clients and the tun a bad one, both ways: loses 5 %, doubles 5 %, lets later packets overtake 10 %.
# Sourced in the instance's namespace of a lab. Must run nowhere else.
#
# To us (egress of imds0): nftables drops, doubles and gives packets the slow class of the queue.
# From us (ingress): packets are doubled through lo, sent round by ifb0, whose queue has a slow class, and dropped.
# Not by netem: some kernels these tests run on are built without it, and it does not count what it doubled or delayed,
# which the test wants to know. Needs Linux 5.16 (egress of nftables), ifb, HTB, mirred and cls_bpf, or fails.

# classic BPF: a random number, compared; matches PERCENT of the packets
some() { # PERCENT
    echo "4,32 0 0 4294963256,53 0 1 $(($1 * 42949672)),6 0 0 0,6 0 0 1"
}

slow_queue() { # DEVICE: class 1 at once, class 2 about 5 ms for each small packet
    tc qdisc add dev "$1" root handle 1: htb default 1 r2q 1
    tc class add dev "$1" parent 1: classid 1:1 htb rate 1gbit quantum 60000
    tc class add dev "$1" parent 1: classid 1:2 htb rate 100kbit burst 100 cburst 100 quantum 1500
}

spoil() {
    slow_queue imds0
    ip link add ifb0 type ifb
    ip link set ifb0 up
    slow_queue ifb0
    tc qdisc add dev imds0 clsact
    tc filter add dev imds0 ingress pref 1 protocol all bpf bytecode "$(some 5)" action mirred ingress mirror dev lo
    tc filter add dev imds0 ingress pref 2 protocol all bpf bytecode "$(some 10)" action mirred egress redirect dev ifb0
    tc filter add dev ifb0 parent 1: protocol all u32 match u32 0 0 flowid 1:2
    nft -f - <<END
table netdev bad_wire {
    chain to_us {
        type filter hook egress device imds0 priority 0
        numgen random mod 100 < 5 counter name lost_to_us drop
        numgen random mod 100 < 5 counter name doubled_to_us dup to "imds0"
        numgen random mod 100 < 10 counter name late_to_us meta priority set 1:2
    }
    chain from_us {
        type filter hook ingress device imds0 priority 0
        numgen random mod 100 < 5 counter name lost_from_us drop
    }
    counter lost_to_us { }
    counter doubled_to_us { }
    counter late_to_us { }
    counter lost_from_us { }
}
END
}

# One line for each kind of harm: `harm NAME PACKETS`.
harm_done() {
    nft -j list counters | sed 's/{"counter"/\n&/g' | sed -n 's/.*"name": "\([a-z_]*\)".*"packets": \([0-9]*\).*/harm \1 \2/p'
    tc -s filter show dev imds0 ingress pref 1 | sed -n 's/.*Sent [0-9]* bytes \([0-9]*\) pkt.*/harm doubled_from_us \1/p'
    tc -s filter show dev imds0 ingress pref 2 | sed -n 's/.*Sent [0-9]* bytes \([0-9]*\) pkt.*/harm late_from_us \1/p'
}
