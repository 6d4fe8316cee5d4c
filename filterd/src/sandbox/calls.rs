//! Linux: the system calls that serving needs, and those that end the process. Whatever is in neither list does not
//! exist (ENOSYS). Decides nothing else.
//!
//! A new call goes into `ALLOWED` with the reason why a running filterd makes it; if it takes a flag that could open
//! something, into `allowed_with`. Calls of the start alone do not belong here.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use std::collections::BTreeMap;

/// Without a condition on their arguments the kernel answers for them from a table, so they cost nothing.
const ALLOWED: &[libc::c_long] = &[
    // clients, upstream, the channel, the audit line, the service manager: all on descriptors we were given
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_accept4, // the operator, on the control socket
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_getsockopt, // what became of a socket
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    // waiting
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime, // where the clock is not read without the kernel
    // memory
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_getrandom, // keys of hash tables
    // signals that end us, stack overflow, abort, the end
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Older names that only some machines have.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[libc::c_long] = &[];

/// Nothing here tries these by mistake. `connect` is among them because it could turn an upstream connection, whose
/// packets carry the mark, into one to somewhere else; see also `fatal`.
const FATAL: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_bpf,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
];
#[cfg(target_arch = "x86_64")]
const FATAL_OLD: &[libc::c_long] = &[libc::SYS_open, libc::SYS_creat];
#[cfg(not(target_arch = "x86_64"))]
const FATAL_OLD: &[libc::c_long] = &[];

/// Of those that are fatal to filterd.
const FATAL_TO_WATCHER: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_open_by_handle_at,
    libc::SYS_bpf,
    libc::SYS_listen,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// For good. Of two filters that both have an opinion the kernel follows the stricter.
pub(super) fn filter() -> Result<(), seccompiler::Error> {
    let fatal = program(fatal()?, SeccompAction::KillProcess, SeccompAction::Allow)?;
    let no_such_call = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let allowed = program(allowed()?, SeccompAction::Allow, no_such_call)?;
    // in this order: the second forbids to install any more
    for program in [fatal, allowed] {
        apply_filter(&program)?;
    }
    Ok(())
}

/// For the watcher of names: name services open files and connect to unix sockets, and need nothing of this.
pub(super) fn filter_watcher() -> Result<(), seccompiler::Error> {
    let no_network = [(libc::SYS_socket, vec![not_unix()?])].into();
    let refused = SeccompAction::Errno(libc::EAFNOSUPPORT.unsigned_abs());
    let fatal =
        program(always(FATAL_TO_WATCHER).collect(), SeccompAction::KillProcess, SeccompAction::Allow)?;
    for program in [fatal, program(no_network, refused, SeccompAction::Allow)?] {
        apply_filter(&program)?;
    }
    Ok(())
}

fn program(rules: Rules, listed: SeccompAction, others: SeccompAction) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, others, listed, std::env::consts::ARCH.try_into()?)?.try_into()
}

fn always(calls: &[libc::c_long]) -> impl Iterator<Item = (i64, Vec<SeccompRule>)> + '_ {
    calls.iter().map(|call| (*call, Vec::new()))
}

fn allowed() -> Result<Rules, BackendError> {
    let mut rules: Rules = always(ALLOWED).chain(always(ALLOWED_OLD)).collect();
    let not_executable = || argument(2, SeccompCmpOp::MaskedEq(bits(libc::PROT_EXEC)), 0);
    rules.insert(libc::SYS_mmap, vec![not_executable()?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable()?]);
    // sockets that we are given are told not to block
    rules.insert(libc::SYS_ioctl, vec![argument(1, SeccompCmpOp::Eq, libc::FIONBIO)?]);
    let settings = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL];
    let settings = settings.map(|setting| argument(1, SeccompCmpOp::Eq, bits(setting)));
    rules.insert(libc::SYS_fcntl, settings.into_iter().collect::<Result<_, _>>()?);
    // abort(3) sends the signal to itself
    rules.insert(libc::SYS_tgkill, vec![argument(0, SeccompCmpOp::Eq, std::process::id().into())?]);
    Ok(rules)
}

fn fatal() -> Result<Rules, BackendError> {
    let mut rules: Rules = always(FATAL).chain(always(FATAL_OLD)).collect();
    // a unix socket leads nowhere without connect
    rules.insert(libc::SYS_socket, vec![not_unix()?]);
    // such a send connects a socket whose connection failed, or has ended, to wherever it names
    let fast_open = bits(libc::MSG_FASTOPEN);
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2)] {
        rules.insert(call, vec![argument(flags, SeccompCmpOp::MaskedEq(fast_open), fast_open)?]);
    }
    Ok(rules)
}

fn not_unix() -> Result<SeccompRule, BackendError> {
    argument(0, SeccompCmpOp::Ne, bits(libc::AF_UNIX))
}

fn argument(number: u8, compare: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(number, SeccompCmpArgLen::Dword, compare, value)?])
}

/// The kernel looks at the low half of an int argument.
fn bits(constant: libc::c_int) -> u64 {
    constant.unsigned_abs().into()
}
