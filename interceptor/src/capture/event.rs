//! What capture tells the loop: what was found and put back, why it could not start, how it stands. Logs nothing.

use imds_settings::{Guard, exit};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Something that the log should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A part of capture was missing or changed and stands again.
    PutBack(String),
    /// A part of a former run, or of former settings, was removed.
    Cleared(String),
    /// net.ipv4.conf.LINK.disable_xfrm was 1, which voids the guard; it is 0 again.
    GuardWasOff { link: String },
    /// The uplink's rp_filter was 1, which drops the upstream's answers; it is 2 until release.
    ReversePathLoosened { link: String },
    /// Another's rule is asked before ours and may lead packets past capture; the guard still refuses them.
    ForeignRule(String),
    /// Another's xfrm policy is asked no later than ours and allows packets to the service.
    ForeignPolicy { to: IpAddr, index: u32 },
    /// The probe: a socket without privileges would reach the service by this way.
    Open { way: String },
    /// The way that was open is closed.
    Closed { way: String },
    /// The tun was deleted by another: nothing is captured and everything refused until the next start.
    TunGone,
    /// Nothing tells of writes to disable_xfrm, for this reason; they are looked for.
    Blind(String),
    /// Notifications were lost; everything was compared.
    Overrun,
    /// A comparison or repair failed; it is tried again soon.
    Trouble(String),
}

impl Event {
    /// Whether somebody should look at it: access may have been open, or is refused.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        match self {
            Self::GuardWasOff { .. }
            | Self::ForeignRule(_)
            | Self::ForeignPolicy { .. }
            | Self::Open { .. }
            | Self::TunGone
            | Self::Trouble(_) => true,
            Self::PutBack(_)
            | Self::Cleared(_)
            | Self::ReversePathLoosened { .. }
            | Self::Closed { .. }
            | Self::Blind(_)
            | Self::Overrun => false,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutBack(what) => write!(f, "put back: {what}"),
            Self::Cleared(what) => write!(f, "removed what a former run left: {what}"),
            Self::GuardWasOff { link } => {
                write!(f, "net.ipv4.conf.{link}.disable_xfrm was 1, which switches the guard off: set to 0")
            }
            Self::ReversePathLoosened { link } => {
                write!(
                    f,
                    "net.ipv4.conf.{link}.rp_filter would drop the service's answers: set to 2 until release"
                )
            }
            Self::ForeignRule(rule) => {
                write!(
                    f,
                    "a routing rule of others comes before ours: {rule}; clients it matches are refused"
                )
            }
            Self::ForeignPolicy { to, index } => write!(
                f,
                "an xfrm policy of others (index {index}) at priority 0 allows packets to {to} and may come before \
                 the guard"
            ),
            Self::Open { way } => write!(f, "OPEN: any user reaches the metadata service {way}"),
            Self::Closed { way } => write!(f, "closed again: {way}"),
            Self::TunGone => {
                f.write_str("the tun device was deleted: all access is refused until a new start")
            }
            Self::Blind(why) => {
                write!(
                    f,
                    "disable_xfrm is looked at every five seconds, since nothing tells when it is written: {why}"
                )
            }
            Self::Overrun => f.write_str("change notifications were lost: everything was compared"),
            Self::Trouble(what) => write!(f, "cannot keep capture up: {what}"),
        }
    }
}

/// How capture stands, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The last probe found no way out but ours, and the last comparison could be made.
    pub guarded: bool,
    /// The tun is there.
    pub tun: bool,
    /// IPv6 clients are captured (otherwise they are refused).
    pub ipv6: bool,
    /// Parts put back since the start.
    pub put_back: u64,
    /// Rules and policies of others that come before ours, as they stand.
    pub foreign: Vec<String>,
    /// Why the last comparison failed.
    pub trouble: Option<String>,
}

/// Why capture is not up, or the host not released.
#[derive(Debug)]
pub enum CaptureError {
    /// Another interceptor holds it.
    Held(PathBuf),
    /// The kernel lacks what the chosen guard is made of.
    NoGuard(Guard),
    /// `forwarded = "direct"` cannot be had with the xfrm guard.
    NoDirect,
    Tun {
        device: String,
        error: io::Error,
    },
    /// A file below the runtime directory.
    File {
        path: PathBuf,
        error: io::Error,
    },
    Step {
        tried: String,
        error: io::Error,
    },
}

impl CaptureError {
    pub(crate) fn step(tried: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Step { tried: tried.to_string(), error }
    }

    fn refused(&self) -> bool {
        match self {
            Self::Tun { error, .. } | Self::File { error, .. } | Self::Step { error, .. } => {
                error.kind() == io::ErrorKind::PermissionDenied
            }
            Self::Held(_) | Self::NoGuard(_) | Self::NoDirect => false,
        }
    }

    /// Of sysexits(3).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Held(_) => exit::TEMPORARY,
            Self::NoDirect => exit::CONFIGURATION,
            Self::NoGuard(_) => exit::OS,
            Self::Tun { .. } | Self::File { .. } | Self::Step { .. } if self.refused() => exit::PERMISSION,
            Self::Tun { .. } | Self::File { .. } | Self::Step { .. } => exit::OS,
        }
    }
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(path) => {
                write!(f, "another imds-interceptor runs: it holds {}; stop it first", path.display())
            }
            Self::NoGuard(Guard::Xfrm) => f.write_str(
                "this kernel has no xfrm, so nothing would hold a process that binds to a device; load the module \
                 xfrm_user, use a kernel with CONFIG_XFRM_USER, or set capture.guard = \"nftables\"",
            ),
            Self::NoGuard(Guard::Nftables) => f.write_str(
                "this kernel has no nftables, so nothing would hold a process that binds to a device; load the module \
                 nf_tables, use a kernel with CONFIG_NF_TABLES, or set capture.guard = \"xfrm\"",
            ),
            Self::NoDirect => f.write_str(
                "capture.forwarded = \"direct\" cannot be had with capture.guard = \"xfrm\": the kernel asks the same \
                 policies for forwarded packets; use guard = \"nftables\", or forwarded = \"refuse\" and mark forwarded \
                 packets yourself where some shall pass",
            ),
            Self::Tun { device, error } => {
                write!(f, "making the tun device {device}: {error}")?;
                if error.raw_os_error() == Some(libc::EBUSY) {
                    write!(f, "; a device of that name exists: remove it or choose another capture.device")?;
                } else if error.kind() == io::ErrorKind::NotFound {
                    write!(f, "; {}", crate::sys::NO_TUN)?;
                }
                self.need(f)
            }
            Self::File { path, error } => {
                write!(f, "{}: {error}", path.display())?;
                self.need(f)
            }
            Self::Step { tried, error } => {
                write!(f, "{tried}: {error}")?;
                self.need(f)
            }
        }
    }
}

impl CaptureError {
    fn need(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.refused() { f.write_str("; needs root or CAP_NET_ADMIN and CAP_NET_RAW") } else { Ok(()) }
    }
}

impl std::error::Error for CaptureError {}
