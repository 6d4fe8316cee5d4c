//! What both programs do: read the kernel's memory at an offset known only now, and give up if that fails.
//! Must never leave a value that was not read: the kernel zeroes what it could not read, and 0 is root.

use super::assembler::{Assembler, Call, Label, Reg, When, Width};

/// Of the stack, for what was just read.
const SLOT: i16 = -8;
/// The first of the stack that the programs use for themselves.
pub(super) const STACK: i16 = -16;

/// `to = *(base + offset)`. Loses R0 to R5.
pub(super) fn read(a: &mut Assembler, width: Width, to: Reg, base: Reg, offset: i32, failed: Label) {
    // first, since it may be one of the registers that arguments go into
    a.copy(Reg::R3, base);
    a.add(Reg::R3, offset);
    a.copy(Reg::R1, Reg::R10);
    a.add(Reg::R1, SLOT.into());
    a.set(Reg::R2, width.bytes());
    a.call(Call::ReadKernel);
    a.jump_if(Reg::R0, When::NotEqual, 0, failed);
    a.load(width, to, Reg::R10, SLOT);
}

/// As [`read`], of a pointer; none is a failure.
pub(super) fn follow(a: &mut Assembler, to: Reg, base: Reg, offset: i32, failed: Label) {
    read(a, Width::Bits64, to, base, offset, failed);
    a.jump_if(to, When::Equal, 0, failed);
}

/// As [`read`], of a number into `(at_base + at)`. Loses `through`, too.
pub(super) fn keep(a: &mut Assembler, (at_base, at): (Reg, i16), base: Reg, offset: i32, failed: Label) {
    read(a, Width::Bits32, Reg::R0, base, offset, failed);
    a.store(Width::Bits32, at_base, at, Reg::R0);
}
