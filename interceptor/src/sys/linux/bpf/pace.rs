//! The part of the program on the tun's way out that bounds how fast one uid sends SYNs: one number a uid in a map, the time at
//! which all that it sent would have been sent at its pace.
//! Must not tell one user from another by what he can choose: a uid of his namespace is no other.

use super::assembler::{Assembler, Call, Label, Reg, When, Width};
use super::walk::STACK;
use super::{Maps, record};
use crate::attribution::Pace;
use Reg::{R0, R1, R2, R3, R4, R8, R9, R10};
use Width::{Bits32, Bits64};

/// Users at once; the kernel forgets who has not been heard of for longest, and he begins anew.
pub(super) const UIDS: u32 = 4096;
/// Of the stack: what a uid begins with.
const FIRST: i16 = STACK - 8;
/// The burst is compared in units of 1,024 ns, which fit in an instruction.
const UNIT: i32 = 10;

/// R8: the record, with the uid and the owner of its namespace. Loses R9. Jumps to `over` if that one is ahead by more
/// than its burst.
pub(super) fn keep_pace(a: &mut Assembler, maps: &Maps, pace: Pace, over: Label) {
    let interval = i32::try_from(pace.interval.as_nanos()).unwrap_or(i32::MAX);
    let burst = i32::try_from(pace.burst.as_nanos() >> UNIT).unwrap_or(i32::MAX);
    let (whose, known, ahead, done) = (a.label(), a.label(), a.label(), a.label());
    a.load(Bits32, R1, R8, record::NAMESPACE_OWNER);
    a.jump_if(R1, When::NotEqual, 0, whose);
    a.load(Bits32, R1, R8, record::UID);
    a.place(whose);
    a.store(Bits32, R10, STACK, R1);
    a.call(Call::Clock);
    a.copy(R9, R0);
    a.map(R1, maps.paces());
    a.copy(R2, R10);
    a.add(R2, STACK.into());
    a.call(Call::MapLookup);
    a.jump_if(R0, When::NotEqual, 0, known);
    a.add(R9, interval);
    a.store(Bits64, R10, FIRST, R9);
    a.map(R1, maps.paces());
    a.copy(R2, R10);
    a.add(R2, STACK.into());
    a.copy(R3, R10);
    a.add(R3, FIRST.into());
    a.set(R4, 0);
    a.call(Call::MapUpdate);
    a.jump(done);
    a.place(known);
    a.load(Bits64, R1, R0, 0);
    a.jump_if_above(R1, R9, ahead);
    a.copy(R1, R9);
    a.place(ahead);
    a.copy(R2, R1);
    a.subtract_register(R2, R9);
    a.shift_right(R2, UNIT);
    a.jump_if(R2, When::Above, burst, over);
    a.add(R1, interval);
    // two processors at once may count one SYN for two
    a.store(Bits64, R0, 0, R1);
    a.place(done);
}
