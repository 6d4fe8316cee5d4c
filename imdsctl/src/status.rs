//! `imdsctl status`: how both daemons are, each in its own words, and whether that is healthy. Changes nothing.

use crate::{Fault, control};
use imds_ipc::control::{Ask, InForce, Mode, Reply};
use imds_ipc::status::{FilterStatus, ForwardedPackets, InterceptorStatus};
use imds_ipc::{FILTER_SOCKET, Identity, MAX_MESSAGE, Utc, channel};
use imds_settings::Settings;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::{Value, json};
use std::fmt::Write;

/// interceptor answers at once.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// What could be found out; of each daemon its own word, or why there is none.
pub(crate) struct Status {
    pub(crate) filterd: Result<FilterStatus, String>,
    pub(crate) interceptor: Result<InterceptorStatus, String>,
}

pub(crate) fn ask(settings: &Settings) -> Result<Status, Fault> {
    let filterd = match control::ask(settings, &Ask::Status) {
        Ok(Reply::Is(status)) => Ok(*status),
        Ok(Reply::InForce(_) | Reply::Unconfirmed(_) | Reply::Refused(_) | Reply::Names { .. }) => {
            Err("imds-filterd is of another version".into())
        }
        Err(fault) if fault.code == imds_settings::exit::PERMISSION => return Err(fault),
        Err(fault) => Err(fault.message.trim_start_matches("imdsctl: ").into()),
    };
    Ok(Status { filterd, interceptor: interceptor(settings) })
}

fn interceptor(settings: &Settings) -> Result<InterceptorStatus, String> {
    let path = settings.runtime_dir.join(FILTER_SOCKET);
    let not_running = |error| format!("imds-interceptor does not run ({}: {error})", path.display());
    let address = SocketAddrUnix::new(&path).map_err(not_running)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(not_running)?;
    connect(&socket, &address).map_err(not_running)?;
    let ready = poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&PATIENCE));
    if ready != Ok(1) {
        return Err("imds-interceptor does not answer".into());
    }
    let mut buffer = [0; MAX_MESSAGE];
    let bytes = channel::receive(&socket, &mut buffer)
        .map_err(|error| format!("imds-interceptor, which takes root to ask: {error}"))?;
    InterceptorStatus::decode(bytes).map_err(|error| format!("imds-interceptor sent {error}"))
}

/// The text, and whether something is to be looked at.
pub(crate) fn run(settings: &Settings, as_json: bool) -> Result<(String, bool), Fault> {
    let status = ask(settings)?;
    let problems = problems(&status);
    let shown = if as_json { format!("{:#}\n", value(&status, &problems)) } else { text(&status, &problems) };
    Ok((shown, !problems.is_empty()))
}

/// What somebody should look at.
pub(crate) fn problems(status: &Status) -> Vec<String> {
    let mut found = Vec::new();
    match &status.filterd {
        Err(why) => found.push(why.clone()),
        Ok(filterd) => {
            if !filterd.fault.is_empty() {
                found.push(format!("the last good rules are in force, for: {}", filterd.fault));
            }
            if filterd.unresolved_count > 0 {
                found.push(format!("{} rules name somebody who does not exist", filterd.unresolved_count));
            }
            if !filterd.names_watched {
                found.push("nobody watches for users and groups that change: reload when they do".into());
            }
            if filterd.lines_lost > 0 {
                found.push(format!("{} audit lines could not be written", filterd.lines_lost));
            }
        }
    }
    match &status.interceptor {
        Err(why) => found.push(why.clone()),
        Ok(interceptor) => {
            if !interceptor.tun {
                found.push("the tun device is gone: restart imds-interceptor".into());
            }
            if !interceptor.guarded {
                found.push("the guard does not stand: the service may be reached past the filter".into());
            }
            if !interceptor.trouble.is_empty() {
                found.push(interceptor.trouble.clone());
            }
            found.extend(interceptor.foreign.iter().cloned());
            if status.filterd.is_ok() && interceptor.filterds == 0 {
                found.push("no imds-filterd is attached to imds-interceptor".into());
            }
        }
    }
    found
}

pub(crate) fn audit(status: &Status) -> bool {
    status.filterd.as_ref().is_ok_and(|filterd| filterd.in_force.mode == Mode::Audit)
}

/// Parts that cannot be told, or that everything can.
pub(crate) fn lacks(identity: Identity) -> Vec<String> {
    let parts = [
        ("groups", identity.groups),
        ("units", identity.unit),
        ("who connects a socket of another", identity.connecting),
    ];
    parts.into_iter().filter_map(|(what, told)| Some(format!("{what}: {}", told.err()?))).collect()
}

fn forwarded(forwarded: ForwardedPackets) -> String {
    match forwarded {
        ForwardedPackets::Refused => "refused".into(),
        ForwardedPackets::Direct => "let through, unjudged".into(),
        ForwardedPackets::Audited(Some(count)) => format!("let alone in audit mode, {count} so far"),
        ForwardedPackets::Audited(None) => "let alone in audit mode, their count cannot be read".into(),
    }
}

pub(crate) fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writing to a String cannot fail.
fn text(status: &Status, problems: &[String]) -> String {
    let mut out = String::new();
    if audit(status) {
        out.push_str("AUDIT: what the rules refuse is let through and logged as would-deny\n");
    }
    out.push_str(if problems.is_empty() { "healthy\n" } else { "unhealthy\n" });
    for problem in problems {
        let _ = writeln!(out, "  ! {}", problem.replace('\n', "\n    "));
    }
    if let Ok(filterd) = &status.filterd {
        filter_text(&mut out, filterd);
    }
    if let Ok(interceptor) = &status.interceptor {
        interceptor_text(&mut out, interceptor);
    }
    out
}

fn filter_text(out: &mut String, filterd: &FilterStatus) {
    let FilterStatus { version, pid, started, in_force, unresolved, verdicts, connections, .. } = filterd;
    let InForce { file, digest, count, since, mode } = in_force;
    let mode = match mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    };
    let started = Utc::of_seconds(*started);
    let _ = writeln!(out, "imds-filterd {version}, pid {pid}, since {started}, mode {mode}");
    let since = Utc::of_seconds(*since);
    let _ = writeln!(out, "  rules        {file}: {count}, sha256 {}, in force since {since}", hex(digest));
    for rule in unresolved {
        let _ = writeln!(out, "  unresolved   {rule}");
    }
    let _ = writeln!(out, "  connections  {connections}");
    let counts: Vec<String> =
        verdicts.named().iter().map(|(verdict, count)| format!("{verdict} {count}")).collect();
    let _ = writeln!(out, "  verdicts     {}", counts.join(", "));
}

fn interceptor_text(out: &mut String, interceptor: &InterceptorStatus) {
    let InterceptorStatus { version, pid, connections, held, crowded, unattributable, .. } = interceptor;
    let _ = writeln!(out, "imds-interceptor {version}, pid {pid}");
    let up = if interceptor.tun { "up" } else { "down" };
    let families = if interceptor.ipv6 { "IPv4 and IPv6" } else { "IPv4; IPv6 is refused" };
    let guarded = if interceptor.guarded { "stands" } else { "DOES NOT STAND" };
    let guard = &interceptor.guard;
    let _ = writeln!(out, "  capture      {up}, {families}; guard {guard} {guarded}");
    let _ = writeln!(out, "  put back     {} parts", interceptor.put_back);
    let _ = writeln!(out, "  forwarded    packets are {}", forwarded(interceptor.forwarded));
    let lacks = lacks(interceptor.identity);
    let identity =
        if lacks.is_empty() { "complete".into() } else { format!("partial ({})", lacks.join("; ")) };
    let _ = writeln!(out, "  identity     {identity}");
    let _ = writeln!(out, "  filterd      {} attached", interceptor.filterds);
    let _ = writeln!(out, "  connections  {connections}, {held} of them held for an imds-filterd");
    let _ = writeln!(out, "  refused      {crowded} over limits, {unattributable} not attributable");
}

fn value(status: &Status, problems: &[String]) -> Value {
    json!({
        "v": 1,
        "healthy": problems.is_empty(),
        "problems": problems,
        "audit": audit(status),
        "filterd": status.filterd.as_ref().map_or(Value::Null, filter_value),
        "interceptor": status.interceptor.as_ref().map_or(Value::Null, interceptor_value),
    })
}

fn filter_value(filterd: &FilterStatus) -> Value {
    let in_force = &filterd.in_force;
    let verdicts: serde_json::Map<String, Value> = filterd
        .verdicts
        .named()
        .iter()
        .map(|(verdict, count)| ((*verdict).into(), (*count).into()))
        .collect();
    json!({
        "version": filterd.version,
        "pid": filterd.pid,
        "started": filterd.started,
        "mode": match in_force.mode { Mode::Enforce => "enforce", Mode::Audit => "audit" },
        "rules": {
            "file": in_force.file,
            "count": in_force.count,
            "sha256": hex(&in_force.digest),
            "since": in_force.since,
            "unresolved": filterd.unresolved,
            "unresolved_count": filterd.unresolved_count,
        },
        "connections": filterd.connections,
        "verdicts": verdicts,
        "lines_lost": filterd.lines_lost,
    })
}

fn interceptor_value(interceptor: &InterceptorStatus) -> Value {
    let (forwarded, count) = match interceptor.forwarded {
        ForwardedPackets::Refused => ("refuse", None),
        ForwardedPackets::Direct => ("direct", None),
        ForwardedPackets::Audited(count) => ("audit", count),
    };
    json!({
        "version": interceptor.version,
        "pid": interceptor.pid,
        "capture": { "up": interceptor.tun, "ipv6": interceptor.ipv6, "put_back": interceptor.put_back },
        "guard": { "kind": interceptor.guard, "stands": interceptor.guarded },
        "forwarded": forwarded,
        "forwarded_packets": count,
        "identity": {
            "groups": interceptor.identity.groups.is_ok(),
            "unit": interceptor.identity.unit.is_ok(),
            "connecting": interceptor.identity.connecting.is_ok(),
        },
        "filterds": interceptor.filterds,
        "connections": interceptor.connections,
        "held": interceptor.held,
        "crowded": interceptor.crowded,
        "unattributable": interceptor.unattributable,
    })
}
