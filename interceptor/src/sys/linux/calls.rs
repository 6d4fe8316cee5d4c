//! The system calls that serving and the repair of capture need, and those that end the process. Whatever is in neither
//! list does not exist (ENOSYS). Decides nothing else.
//!
//! A new call goes into `ALLOWED` with the reason why a running interceptor makes it; if an argument makes it another
//! call altogether, into `allowed_with`. Calls of the start alone do not belong here, bpf(2) among them: what is loaded
//! then is read from memory later, and detached by closing its descriptor.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use std::collections::BTreeMap;

/// Without a condition on their arguments the kernel answers for them from a table, so they cost nothing.
const ALLOWED: &[libc::c_long] = &[
    // the tun, connections, filterd, netlink, the log
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_close,
    // filterds that come, connections handed over, upstream, the probes
    libc::SYS_accept4,
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    // settings below /proc/sys/net, the notes, the door's path at the end; which files, Landlock says
    libc::SYS_openat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    // waiting
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
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
    libc::SYS_getrandom, // seeds of sequence numbers
    // stack overflow, abort, a panic's backtrace, the end
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getcwd,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Older names that only some machines have.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[libc::c_long] = &[
    libc::SYS_epoll_wait,
    libc::SYS_poll,
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[libc::c_long] = &[];

/// Nothing here tries these by mistake.
const FATAL: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_open_by_handle_at,
];

/// Of sockets: upstream and probes, netlink, the service manager.
const FAMILIES: [libc::c_int; 4] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_UNIX];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// For good. Of two filters that both have an opinion the kernel follows the stricter.
pub(super) fn filter() -> Result<(), seccompiler::Error> {
    let fatal = program(always(FATAL).collect(), SeccompAction::KillProcess, SeccompAction::Allow)?;
    let no_such_call = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let allowed = program(allowed()?, SeccompAction::Allow, no_such_call)?;
    // in this order: the second forbids to install any more
    for program in [fatal, allowed] {
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
    rules.insert(libc::SYS_socket, each(0, &FAMILIES.map(bits))?);
    let not_executable = || argument(2, SeccompCmpOp::MaskedEq(bits(libc::PROT_EXEC)), 0);
    rules.insert(libc::SYS_mmap, vec![not_executable()?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable()?]);
    // the tun's name, sockets told not to block, how much of a dead filterd's answer is still to be read
    rules.insert(libc::SYS_ioctl, each(1, &[libc::TUNGETIFF, libc::FIONBIO, libc::FIONREAD])?);
    let settings = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];
    rules.insert(libc::SYS_fcntl, each(1, &settings.map(bits))?);
    // abort(3) sends the signal to itself
    rules.insert(libc::SYS_tgkill, each(0, &[std::process::id().into()])?);
    Ok(rules)
}

/// One of these, as the argument of this number.
fn each(number: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|value| argument(number, SeccompCmpOp::Eq, *value)).collect()
}

fn argument(number: u8, compare: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(number, SeccompCmpArgLen::Dword, compare, value)?])
}

/// The kernel looks at the low half of an int argument.
fn bits(constant: libc::c_int) -> u64 {
    constant.unsigned_abs().into()
}
