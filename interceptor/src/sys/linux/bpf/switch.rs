//! The program that cgroups run before a setting of the kernel is read or written: it tells of writes to disable_xfrm, of
//! whatever link and by whichever mount of /proc. Nothing else does: the kernel sends no notification.
//! Must never refuse or change what is written: what it means stands with capture.

use super::assembler::{Assembler, Call, Reg, Unreachable, When, Width};
use super::memory::Ring;
use super::syscall::{self, Hook, MapKind, MapPlan, ProgramKind};
use super::walk::STACK;
use super::{ProgramError, cgroup, make_map, raise_memory_limit, refused};
use Reg::{R0, R1, R2, R3, R4, R10};
use Width::{Bits32, Bits64};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Of `struct bpf_sysctl` in linux/bpf.h.
const IS_WRITE: i16 = 0;
/// Without the directories.
const BASE_NAME: i32 = 1;
const NAME: &[u8; 12] = b"disable_xfrm";
/// The kernel goes on with what it was about to do.
const GO_ON: i32 = 1;
/// Only who has read all there was.
const WAKE: i32 = 0;
/// The least that every machine takes: one page of the largest there are. A write takes sixteen bytes of it.
const RING: u32 = 64 << 10;

/// Tells that somebody is about to write disable_xfrm, until it is dropped.
pub(crate) struct Switch {
    _attached: OwnedFd,
    descriptor: OwnedFd,
    ring: Ring,
}

impl Switch {
    /// Watches the processes of `cgroup` and all below it, or those of the whole host.
    ///
    /// # Errors
    /// Why the kernel does not tell.
    pub(crate) fn watch(cgroup: Option<&Path>) -> Result<Self, ProgramError> {
        let cgroup = cgroup::open(cgroup)?;
        raise_memory_limit();
        let descriptor = make_map(&MapPlan {
            kind: MapKind::Ring,
            name: "imds_switch",
            key: 0,
            value: 0,
            entries: RING,
            flags: 0,
            types: None,
        })?;
        let size = usize::try_from(RING).map_err(|_| ProgramError::OtherTypes("a large ring".into()))?;
        let ring = Ring::map(descriptor.as_fd(), size).map_err(refused("mapping the ring"))?;
        let code = program(descriptor.as_fd())?;
        let program = syscall::load_program(ProgramKind::Setting, "imds_switch", &code, Hook::Setting)
            .map_err(refused("loading the program on settings"))?;
        let attached = syscall::attach_to_cgroup(program.as_fd(), cgroup.as_fd(), Hook::Setting)
            .map_err(refused("attaching to the cgroup"))?;
        Ok(Self { _attached: attached, descriptor, ring })
    }

    /// Whether there was a write since the last time. It may not be done yet: the program runs before. Until this is
    /// asked, further ones make the descriptor readable no more often.
    pub(crate) fn was_written(&self) -> bool {
        let mut written = false;
        self.ring.each(|_| written = true);
        written
    }
}

/// Readable when there was a write.
impl AsFd for Switch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn program(ring: BorrowedFd<'_>) -> Result<Vec<[u8; 8]>, Unreachable> {
    let a = &mut Assembler::default();
    let go_on = a.label();
    a.load(Bits32, R0, R1, IS_WRITE);
    a.jump_if(R0, When::Equal, 0, go_on);
    a.store_number(Bits64, R10, STACK, 0);
    a.store_number(Bits64, R10, STACK + 8, 0);
    a.copy(R2, R10);
    a.add(R2, STACK.into());
    a.set(R3, 16);
    a.set(R4, BASE_NAME);
    a.call(Call::SettingName);
    // its length: a longer name's beginning is not taken for it
    a.jump_if(R0, When::NotEqual, 12, go_on);
    for (at, word) in (STACK..).step_by(4).zip(NAME.as_chunks::<4>().0) {
        a.load(Bits32, R1, R10, at);
        a.jump_if(R1, When::NotEqual32, i32::from_ne_bytes(*word), go_on);
    }
    a.map(R1, ring);
    a.copy(R2, R10);
    a.add(R2, STACK.into());
    a.set(R3, 8);
    a.set(R4, WAKE);
    a.call(Call::RingOutput);
    a.place(go_on);
    a.set(R0, GO_ON);
    a.end();
    std::mem::take(a).finish()
}
