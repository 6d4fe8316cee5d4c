#!/bin/sh
# Runs imds-filterd on this FreeBSD machine: unit tests, then end to end against a service in a jail of its own.
# Must not leave anything behind, and must not run beside an imds-interceptor that is in use.
#
# As root, on FreeBSD 14 or 15 (vnet jails and if_epair are in GENERIC), with beside it what `sh tests/freebsd/cross.sh
# bundle` puts there: imds-interceptor, imds-filterd, imdsctl, imds-mock, rc.d/, and unit/ with the unit tests.
#
#   sh run.sh            everything
#   sh run.sh unit       the unit tests alone
#   sh run.sh end        the end-to-end cases alone
#
# A line a case, then "N passed, N failed"; the exit status says whether any failed. What the daemons said is shown for
# a case that failed.
set -u
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d /var/tmp/imds-run.XXXXXX)
service4=169.254.169.254
service6=fd00:ec2::254
jail=imdsrun
secret=/latest/meta-data/iam/security-credentials/
name=/latest/meta-data/instance-id
passed=0
failed=0
interceptor=
supervisor=
epair=
fibs=1

[ "$(uname -s)" = FreeBSD ] || { echo "this is not FreeBSD" >&2; exit 64; }
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 77; }

result() { # result STATUS NAME
	if [ "$1" = 0 ]; then
		passed=$((passed + 1))
		echo "ok    $2"
	else
		failed=$((failed + 1))
		echo "FAIL  $2"
		for log in interceptor filterd; do
			[ -e "$work/$log.log" ] && tail -5 "$work/$log.log" | sed "s/^/      $log: /"
		done
	fi
}

check() { # check NAME COMMAND...
	label=$1
	shift
	"$@" >"$work/said" 2>&1
	status=$?
	result $status "$label"
	[ $status = 0 ] || sed 's/^/      /' "$work/said" | tail -8
}

# --- clients: nc(1), as a user with groups, in a FIB -----------------------------------------------------------------

fib=0
# ask UID GID GROUPS ADDRESS PATH: the status of the answer, or "none" when there is no answer, and how long it took
ask() {
	answer=$(printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$5" "$(host "$4")" |
		setfib -F "$fib" chroot -u "$1" -g "$2" -G "$3" / nc -w 5 "$4" 80 2>"$work/nc")
	case $answer in
	HTTP/1.?' '*) answer=${answer#* } && echo "${answer%% *}" ;;
	*) echo none ;;
	esac
}
host() {
	case $1 in *:*) echo "[$1]" ;; *) echo "$1" ;; esac
}
as_root() { ask 0 0 0 "$1" "$2"; }
as_user() { ask 2001 3001 3001 "$1" "$2"; }
is() { # is WANTED FOUND
	[ "$1" = "$2" ] || { echo "wanted $1, found $2"; cat "$work/nc" 2>/dev/null; return 1; }
}
# until_it_is WANTED COMMAND...: tries for ten seconds
until_it_is() {
	wanted=$1
	shift
	for _ in $(jot 100); do
		found=$("$@")
		[ "$found" = "$wanted" ] && return 0
		sleep 0.1
	done
	is "$wanted" "$found"
}
# refused_at_once ADDRESS: no answer, and the kernel said so without waiting
refused_at_once() {
	started=$(date +%s)
	is none "$(as_root "$1" "$name")" || return 1
	# nc would wait for five; a slow machine needs one or two to start it
	[ $(($(date +%s) - started)) -le 3 ] || { echo "it hung"; return 1; }
}

# --- the world: a service behind a router, in a vnet jail ------------------------------------------------------------

make_world() {
	for address in $service4 $service6; do
		route -n get "-$(family "$address")" "$address" 2>/dev/null | grep -q 'interface: imds0' && {
			echo "an imds-interceptor is in use here" >&2
			exit 75
		}
	done
	epair=$(ifconfig epair create) || exit 71
	epair=${epair%a}
	jail -c name=$jail vnet persist path=/ || exit 71
	ifconfig "${epair}b" vnet $jail
	ifconfig "${epair}a" inet 192.0.2.1/24 up
	ifconfig "${epair}a" inet6 fd00:99::1/64 no_dad -ifdisabled up
	jexec $jail ifconfig lo0 up
	jexec $jail ifconfig "${epair}b" inet 192.0.2.2/24 up
	jexec $jail ifconfig "${epair}b" inet6 fd00:99::2/64 no_dad -ifdisabled up
	jexec $jail ifconfig lo0 inet $service4/32 alias
	jexec $jail ifconfig lo0 inet6 $service6/128 no_dad alias
	fibs=$(sysctl -n net.fibs)
	[ "$fibs" -ge 2 ] || { fibs=2; sysctl -q net.fibs=2 >/dev/null || exit 71; }
	for fib in $(jot - 0 $((fibs - 1))); do
		[ "$fib" = 0 ] || ways_out "$fib"
		# two bits longer than what leads to a real service, shorter than what capture makes
		setfib -F "$fib" route -q add -net 169.254.169.0/24 192.0.2.2
		setfib -F "$fib" route -q -6 add -net fd00:ec2::/64 fd00:99::2
	done
	jexec $jail "$here/imds-mock" --listen $service4:80 --listen "[$service6]:80" >"$work/mock.log" 2>&1 &
	echo $! >"$work/mock.pid"
	routes >"$work/routes.before"
}

# ways_out FIB: what leads from a FIB that the system made empty to the router
ways_out() {
	setfib -F "$1" route -q add -net 192.0.2.0/24 -iface "${epair}a"
	setfib -F "$1" route -q -6 add -net fd00:99::/64 -iface "${epair}a"
}

family() {
	case $1 in *:*) echo 6 ;; *) echo 4 ;; esac
}

# every FIB's routes, without what changes by itself
routes() {
	last=$(($(sysctl -n net.fibs) - 1))
	for number in $(jot - 0 $last); do
		netstat -rnW -F "$number" | awk -v fib="$number" 'NF >= 4 && $1 !~ /^(Routing|Internet|Destination)/ { print fib, $1, $2, $3, $NF }'
	done | sort
}

end_world() {
	trap - EXIT INT TERM
	for script in imds_filterd imds_interceptor; do
		[ -e "$work/$script" ] && service $script stop >/dev/null 2>&1
	done
	stop_filterd
	stop_interceptor
	[ -e "$work/settings.toml" ] && "$here/imds-interceptor" --config "$work/settings.toml" release >/dev/null 2>&1
	[ -e "$work/mock.pid" ] && kill "$(cat "$work/mock.pid")" 2>/dev/null
	# what else leads through the epair goes with it
	for fib in $(jot - 0 $((fibs - 1))); do
		setfib -F "$fib" route -q delete -net 169.254.169.0/24 192.0.2.2 >/dev/null 2>&1
		setfib -F "$fib" route -q -6 delete -net fd00:ec2::/64 fd00:99::2 >/dev/null 2>&1
	done
	jail -r $jail >/dev/null 2>&1
	[ -n "$epair" ] && ifconfig "${epair}a" destroy >/dev/null 2>&1
	rm -rf "$work"
}

# --- the daemons -----------------------------------------------------------------------------------------------------

settings() {
	cat >"$work/settings.toml" <<SETTINGS
runtime_dir = "$work/run"
[filter]
user = "nobody"
rules = "$work/imds.conf"
SETTINGS
	cat >"$work/imds.conf" <<'RULES'
Allow "/"
Deny "/*/meta-data/iam/security-credentials"
Allow user root "/"
Allow group 3001 "/latest/meta-data/iam/security-credentials"
Deny group 3999 "/latest/meta-data/hostname"
RULES
	chmod 644 "$work/settings.toml" "$work/imds.conf"
	chmod 755 "$work"
}

start_interceptor() {
	"$here/imds-interceptor" --config "$work/settings.toml" >>"$work/interceptor.log" 2>&1 &
	interceptor=$!
}
start_filterd() {
	"$here/imds-filterd" --supervise --config "$work/settings.toml" >>"$work/filterd.log" 2>&1 &
	supervisor=$!
}
kill_filterd() {
	pkill -9 -P "$supervisor" -x imds-filterd
}
stop_filterd() {
	[ -n "$supervisor" ] || return 0
	kill "$supervisor" 2>/dev/null
	wait "$supervisor" 2>/dev/null
	supervisor=
}
stop_interceptor() {
	[ -n "$interceptor" ] || return 0
	kill "$interceptor" 2>/dev/null
	wait "$interceptor" 2>/dev/null
	interceptor=
}
kill_interceptor() {
	kill -9 "$interceptor" 2>/dev/null
	wait "$interceptor" 2>/dev/null
	interceptor=
}

# --- cases -----------------------------------------------------------------------------------------------------------

unit_tests() {
	# those that play interceptor start it
	export IMDS_TEST_FILTERD="$here/imds-filterd"
	for program in "$here"/unit/*; do
		[ -x "$program" ] || continue
		# one that hangs does not stop the others
		(cd "$work" && timeout -k 5 1200 "$program" --test-threads=1) >"$work/unit.log" 2>&1
		status=$?
		[ $status != 124 ] || echo "took longer than 20 minutes, in: $(grep '^test ' "$work/unit.log" | tail -1)" >>"$work/unit.log"
		result $status "unit tests: $(basename "$program")$(sed -n 's/^test result: [a-zA-Z]*\. \([0-9]*\) passed.*/ (\1)/p' "$work/unit.log" | tail -1)"
		[ $status = 0 ] || tail -20 "$work/unit.log" | sed 's/^/      /'
	done
}

users_and_groups() { # users_and_groups ADDRESS
	check "$1: root reads credentials" is 200 "$(as_root "$1" $secret)"
	check "$1: a user who may not gets 403" is 403 "$(ask 2002 3002 3002 "$1" $secret)"
	check "$1: and 200 where he may" is 200 "$(ask 2002 3002 3002 "$1" $name)"
	check "$1: a group that may, of a user whose uid is another number" is 200 "$(as_user "$1" $secret)"
	check "$1: a gid is not a uid" is 403 "$(ask 3001 2001 2001 "$1" $secret)"
	check "$1: a group beside the first" is 200 "$(ask 2002 3002 3002,5,3001 "$1" $secret)"
	check "$1: a group that may not" is 403 "$(ask 2002 3002 3002,3999 "$1" /latest/meta-data/hostname)"
	many=$(jot -s, 20 4001)
	check "$1: with more than 16 groups a rule that could be missed refuses" \
		is 403 "$(ask 2002 3002 "$many" "$1" /latest/meta-data/hostname)"
	check "$1: and what no group rule is about is allowed" is 200 "$(ask 2002 3002 "$many" "$1" $name)"
}

fibs() {
	sysctl -q net.fibs=$((fibs + 2)) >/dev/null || { result 1 "net.fibs grows"; return; }
	fib=$((fibs + 1))
	for address in $service4 $service6; do
		check "$address: a FIB made after the start is captured" until_it_is 403 ask 2002 3002 3002 "$address" $secret
	done
	# somebody gives it a way out
	ways_out $fib >/dev/null
	check "the new FIB gets a default route" setfib -F $fib route -q add default 192.0.2.2
	check "and one for IPv6" setfib -F $fib route -q -6 add default fd00:99::2
	for address in $service4 $service6; do
		check "$address: also with a default route" is 403 "$(ask 2002 3002 3002 "$address" $secret)"
	done
}

disturbed() {
	route -q delete -host $service4 >/dev/null 2>&1
	check "a client's route that is deleted stays or comes back" until_it_is 403 ask 2002 3002 3002 $service4 $secret
	route -q delete -net 169.254.169.254/31 >/dev/null 2>&1
	check "and so does the one that closes" until_it_is 1 sh -c "netstat -rn4 | grep -c '169.254.169.254/31'"
	route -q add -host $service4 192.0.2.2 >/dev/null 2>&1
	check "a route of others beside ours opens nothing" until_it_is 403 ask 2002 3002 3002 $service4 $secret
	ifconfig imds0 down
	check "an interface that is set down is set up" until_it_is 403 ask 2002 3002 3002 $service4 $secret
	# the router gets another hardware address
	jexec $jail ifconfig "${epair}b" ether 02:00:5e:00:53:01
	arp -d 192.0.2.2 >/dev/null 2>&1
	ndp -d fd00:99::2 >/dev/null 2>&1
	for address in $service4 $service6; do
		check "$address: a router with another hardware address is found" until_it_is 200 as_root "$address" $secret
	done
}

# A client that takes a port which upstream connections had.
reused_four_tuple() {
	as_root $service4 $secret >/dev/null
	ports=$(netstat -an -p tcp | awk '$4 ~ /^192\.0\.2\.1\./ && $5 == "169.254.169.254.80" { sub(/.*\./, "", $4); print $4 }' | sort -u | head -5)
	for port in $ports $(jot 3 20000); do
		found=$(printf 'GET %s HTTP/1.0\r\n\r\n' $secret |
			chroot -u 2002 -g 3002 -G 3002 / nc -w 3 -s 192.0.2.1 -p "$port" $service4 80 2>/dev/null |
			sed -n '1s/^HTTP[^ ]* \([0-9]*\).*/\1/p')
		case $found in
		403 | '') ;;
		*) echo "from port $port: $found"; return 1 ;;
		esac
	done
}

many() {
	printf 'GET %s HTTP/1.0\r\n\r\n' $name >"$work/request"
	# where machines are slow it is the start of clients that takes the time: one program a connection, and no more
	jot 50 | xargs -P 50 -n 1 sh -c "for _ in \$(jot -s ' ' 20); do nc -w 10 $service4 80 <'$work/request'; done" \
		>"$work/many" 2>"$work/nc"
	found=$(grep -o 'HTTP/1.. [0-9]*' "$work/many" | awk '{ n[$2]++ } END { for (status in n) print n[status] " x " status }')
	is "1000 x 200" "$found"
}

without_loss() {
	lost=0
	for number in $(jot 60); do
		case $number in 15 | 30 | 45) kill_filterd ;; esac
		found=$(as_root $service4 $name)
		[ "$found" = 200 ] || lost=$((lost + 1))
	done
	[ $lost = 0 ] || { echo "$lost of 60 requests were lost while filterd was killed three times"; return 1; }
}

# What an upgrade does: the newer filterd gets what comes, the older one finishes and ends, and its parent with it.
taken_over() {
	lost=0
	older=$supervisor
	for number in $(jot 20); do
		[ "$number" != 5 ] || start_filterd
		found=$(as_root $service4 $name)
		[ "$found" = 200 ] || lost=$((lost + 1))
	done
	[ $lost = 0 ] || { echo "$lost of 20 requests were lost while a newer filterd took over"; return 1; }
	until_it_is ended ended_or_not "$older"
}
ended_or_not() {
	kill -0 "$1" 2>/dev/null && echo runs || echo ended
}

filterd_killed_while_it_starts() {
	stop_filterd
	for delay in 0 0.01 0.02 0.05 0.1 0.2 0.5; do
		"$here/imds-filterd" --config "$work/settings.toml" >>"$work/filterd.log" 2>&1 &
		alone=$!
		sleep $delay
		kill -9 $alone
		wait $alone 2>/dev/null
		for address in $service4 $service6; do
			check "$address: after SIGKILL of filterd $delay s into a start" refused_at_once "$address"
		done
	done
	check "what killed filterds started has ended" until_it_is 0 sh -c "pgrep -f '^$here/imds-filterd' | grep -c ."
	start_filterd
	check "filterd starts over what killed ones left" until_it_is 200 as_root $service4 $secret
	for address in $service4 $service6; do
		check "$address: and judges" is 403 "$(ask 2002 3002 3002 "$address" $secret)"
	done
}

killed() {
	kill_interceptor
	for address in $service4 $service6; do
		check "$address: after SIGKILL of interceptor: refused at once" refused_at_once "$address"
		fib=1
		[ "$(sysctl -n net.fibs)" -gt 1 ] && check "$address: in another FIB too" refused_at_once "$address"
		fib=0
	done
	for delay in 0 0.01 0.02 0.05 0.1 0.2 0.5; do
		start_interceptor
		sleep $delay
		kill_interceptor
		for address in $service4 $service6; do
			check "$address: after SIGKILL $delay s into a start" is none "$(as_root "$address" $name)"
		done
	done
	start_interceptor
	check "a start over what killed runs left" until_it_is 200 as_root $service4 $secret
	check "leaves one interface" sh -c "[ \$(ifconfig -l | tr ' ' '\n' | grep -c '^imds0\$') = 1 ]"
}

# service SCRIPT COMMAND: what service(8) does with an installed one
service() {
	imds_filterd_enable=YES imds_filterd_config="$work/settings.toml" sh "$work/$1" "$2"
}
# fails SCRIPT COMMAND
fails() {
	! service "$@"
}

# The scripts of rc.d, under this machine's rc.subr(8); the programs are beside us, not below /usr/local.
services() {
	for script in imds_interceptor imds_filterd; do
		sed -e "s#/usr/local/s*bin#$here#" -e "s#/var/run/$script#$work/$script#" "$here/rc.d/$script" >"$work/$script"
	done
	check "they start between the network and NETWORKING" sh -c "rcorder /etc/rc.d/* '$work'/imds_[if]*[rd] 2>/dev/null |
		sed 's#.*/##' | grep -x -e netif -e routing -e imds_interceptor -e imds_filterd -e NETWORKING |
		tr '\n' ' ' | grep -x '\(netif routing\|routing netif\) imds_interceptor imds_filterd NETWORKING '"
	for script in imds_interceptor imds_filterd; do
		check "service $script start" service $script start
		check "service $script status" service $script status
	done
	check "the services judge" until_it_is 403 ask 2002 3002 3002 $service4 $secret
	sed -i '' -e '/instance-id/d' "$work/imds.conf"
	check "service imds_filterd reload" service imds_filterd reload
	check "the rules that it reloaded are in force" is 200 "$(as_root $service4 $name)"
	echo Nonsense >>"$work/imds.conf"
	check "service imds_filterd reload refuses what is no rule" fails imds_filterd reload
	check "and the rules before are in force" is 200 "$(as_root $service4 $name)"
	sed -i '' -e '/Nonsense/d' "$work/imds.conf"
	for script in imds_filterd imds_interceptor; do
		check "service $script restart" service $script restart
		check "after which a request is answered" until_it_is 200 as_root $service4 $secret
		check "and one is refused" until_it_is 403 ask 2002 3002 3002 $service4 $secret
	done
	for script in imds_filterd imds_interceptor; do
		check "service $script stop" service $script stop
		check "service $script status says so" fails $script status
		check "and it is closed" refused_at_once $service4
	done
	check "nothing of them runs" until_it_is 0 sh -c "pgrep -f '^$here/imds-[if]' | grep -c ."
	check "service imds_interceptor release" service imds_interceptor release
	# from open, as at a boot, and with programs that take a while: whoever comes after a start is captured
	for program in imds-interceptor imds-filterd; do
		printf '#!/bin/sh\nsleep 1\nexec %s "$@"\n' "$here/$program" >"$work/$program"
		chmod 755 "$work/$program"
		sed -i '' "s#$here/$program#$work/$program#" "$work/imds_${program#imds-}"
	done
	check "it is open" is 200 "$(as_root $service4 $name)"
	service imds_interceptor start
	check "when service imds_interceptor start is over, nobody gets past" is none "$(as_root $service4 $name)"
	service imds_filterd start
	check "when service imds_filterd start is over, it judges" is 403 "$(ask 2002 3002 3002 $service4 $secret)"
	service imds_filterd stop
	service imds_interceptor stop
	service imds_interceptor release
}

end_to_end() {
	trap end_world EXIT INT TERM
	settings
	make_world
	for fib in 0 $((fibs - 1)); do
		for address in $service4 $service6; do
			check "$address: the service of the test answers in FIB $fib" until_it_is 200 as_root "$address" $name
		done
	done
	start_interceptor
	start_filterd
	check "both daemons start" until_it_is 403 ask 2002 3002 3002 $service4 $secret
	for address in $service4 $service6; do
		check "$address: a FIB that there was is captured" is 403 "$(ask 2002 3002 3002 "$address" $secret)"
	done
	fib=0
	users_and_groups $service4
	users_and_groups $service6
	fibs
	fib=0
	disturbed
	check "a client on a port that upstream connections had is a client" reused_four_tuple
	check "1,000 connections, 50 at a time" many
	check "filterd is killed three times and no request is lost" without_loss
	check "a newer filterd takes over and no request is lost" taken_over
	filterd_killed_while_it_starts
	printf 'Deny "/latest/meta-data/instance-id"\n' >>"$work/imds.conf"
	check "reload" "$here/imdsctl" reload --config "$work/settings.toml" --allow-unknown
	check "the new rules are in force" is 403 "$(as_root $service4 $name)"
	killed
	stop_filterd
	stop_interceptor
	for address in $service4 $service6; do
		check "$address: stopped, it is closed" refused_at_once "$address"
	done
	check "nothing of the tun is left" sh -c "! ifconfig imds0 >/dev/null 2>&1"
	services
	for address in $service4 $service6; do
		check "$address: released, it is reached directly" is 200 "$(as_root "$address" $secret)"
	done
	# FIBs that were made meanwhile cannot be taken away, and somebody gave one a default route
	routes | awk -v fibs="$fibs" '$1 < fibs' | grep -v ' 192.0.2.2 .*UGH' >"$work/routes.after"
	check "the routes are as they were" diff "$work/routes.before" "$work/routes.after"
}

uname -mrs
case ${1:-all} in
unit) unit_tests ;;
end) end_to_end ;;
all)
	unit_tests
	end_to_end
	;;
*)
	echo "usage: $0 [unit|end]" >&2
	exit 64
	;;
esac
echo "$passed passed, $failed failed"
[ $failed = 0 ]
