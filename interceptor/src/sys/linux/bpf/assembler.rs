//! A small assembler for BPF, so that the programs can be read here and loaded without a compiler.
//! Must not know what a program is for; what it assembles the kernel's verifier judges.

use std::os::fd::{AsRawFd, BorrowedFd};

/// R0 is what a call or the program gives back, R1 to R5 are arguments and lost in a call, R6 to R9 are kept, R10 is
/// the end of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// Of a load or a store, in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Bits32,
    Bits64,
}

impl Width {
    fn code(self) -> u8 {
        match self {
            Self::Bits32 => 0x00,
            Self::Bits64 => 0x18,
        }
    }
    pub(super) fn bytes(self) -> i32 {
        match self {
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }
}

/// When to jump. All but the last compare 64 bits, unsigned unless said, the number being sign-extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Equal,
    NotEqual,
    Above,
    AtMost,
    /// Less, signed.
    Less,
    AnyBitOf,
    /// Of the low 32 bits.
    NotEqual32,
}

impl When {
    fn code(self) -> u8 {
        match self {
            Self::Equal => 0x15,
            Self::NotEqual => 0x55,
            Self::Above => 0x25,
            Self::AtMost => 0xb5,
            Self::Less => 0xc5,
            Self::AnyBitOf => 0x45,
            Self::NotEqual32 => 0x56,
        }
    }
}

/// The kernel's own functions; numbers of `enum bpf_func_id` in linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Call {
    MapLookup = 1,
    MapUpdate = 2,
    Clock = 5,
    CurrentPid = 14,
    CurrentTask = 35,
    SocketCookie = 46,
    SocketUid = 47,
    SetSocketOption = 49,
    FullSocket = 95,
    SettingName = 101,
    SocketStorage = 107,
    ReadKernel = 113,
    ReadKernelText = 115,
    RingOutput = 130,
    TcpSocket = 137,
}

/// A place in a program, perhaps not yet reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A jump goes to a label that was never placed, or further than a jump can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreachable;

#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<[u8; 8]>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u8, to: Reg, from: Reg, offset: i16, number: i32) {
        let [low, high] = offset.to_ne_bytes();
        let [a, b, c, d] = number.to_ne_bytes();
        // the nibbles stand in this order on little-endian machines, which are all we run on
        self.code.push([code, to as u8 | (from as u8) << 4, low, high, a, b, c, d]);
    }

    pub(super) fn set(&mut self, to: Reg, number: i32) {
        self.push(0xb7, to, Reg::R0, 0, number);
    }

    pub(super) fn copy(&mut self, to: Reg, from: Reg) {
        self.push(0xbf, to, from, 0, 0);
    }

    pub(super) fn add(&mut self, to: Reg, number: i32) {
        self.push(0x07, to, Reg::R0, 0, number);
    }

    pub(super) fn add_register(&mut self, to: Reg, from: Reg) {
        self.push(0x0f, to, from, 0, 0);
    }

    pub(super) fn subtract_register(&mut self, to: Reg, from: Reg) {
        self.push(0x1f, to, from, 0, 0);
    }

    /// Sign-extends `bits`.
    pub(super) fn and(&mut self, to: Reg, bits: i32) {
        self.push(0x57, to, Reg::R0, 0, bits);
    }

    pub(super) fn shift_left(&mut self, to: Reg, by: i32) {
        self.push(0x67, to, Reg::R0, 0, by);
    }

    pub(super) fn shift_right(&mut self, to: Reg, by: i32) {
        self.push(0x77, to, Reg::R0, 0, by);
    }

    pub(super) fn load(&mut self, width: Width, to: Reg, base: Reg, offset: i16) {
        self.push(0x61 | width.code(), to, base, offset, 0);
    }

    pub(super) fn store(&mut self, width: Width, base: Reg, offset: i16, from: Reg) {
        self.push(0x63 | width.code(), base, from, offset, 0);
    }

    pub(super) fn store_number(&mut self, width: Width, base: Reg, offset: i16, number: i32) {
        self.push(0x62 | width.code(), base, Reg::R0, offset, number);
    }

    pub(super) fn call(&mut self, call: Call) {
        self.push(0x85, Reg::R0, Reg::R0, 0, call as i32);
    }

    /// The one instruction that takes two places: the kernel puts the map's address there.
    pub(super) fn map(&mut self, to: Reg, map: BorrowedFd<'_>) {
        const PSEUDO_MAP_FD: Reg = Reg::R1;
        self.push(0x18, to, PSEUDO_MAP_FD, 0, map.as_raw_fd());
        self.push(0, Reg::R0, Reg::R0, 0, 0);
    }

    pub(super) fn end(&mut self) {
        self.push(0x95, Reg::R0, Reg::R0, 0, 0);
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The next instruction is where `label` is.
    pub(super) fn place(&mut self, label: Label) {
        let here = self.code.len();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(here);
        }
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(0x05, Reg::R0, Reg::R0, 0, 0);
    }

    pub(super) fn jump_if(&mut self, register: Reg, when: When, number: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(when.code(), register, Reg::R0, 0, number);
    }

    /// Jumps if `register` is above `other`, both unsigned.
    pub(super) fn jump_if_above(&mut self, register: Reg, other: Reg, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(0x2d, register, other, 0, 0);
    }

    /// The program as the kernel takes it, eight bytes an instruction.
    pub(super) fn finish(mut self) -> Result<Vec<[u8; 8]>, Unreachable> {
        for (from, label) in self.jumps {
            let to = self.labels.get(label.0).copied().flatten().ok_or(Unreachable)?;
            let distance = i64::try_from(to).map_err(|_| Unreachable)?
                - i64::try_from(from).map_err(|_| Unreachable)?
                - 1;
            let [low, high] = i16::try_from(distance).map_err(|_| Unreachable)?.to_ne_bytes();
            if let Some([_, _, a, b, ..]) = self.code.get_mut(from) {
                (*a, *b) = (low, high);
            }
        }
        Ok(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_those_of_the_instruction_set() {
        let mut a = Assembler::default();
        a.set(Reg::R1, -2);
        a.load(Width::Bits64, Reg::R7, Reg::R6, 168);
        a.store(Width::Bits32, Reg::R10, -8, Reg::R2);
        a.store_number(Width::Bits64, Reg::R10, -16, 5);
        a.call(Call::ReadKernel);
        a.end();
        let expected: Vec<[u8; 8]> = vec![
            [0xb7, 0x01, 0, 0, 0xfe, 0xff, 0xff, 0xff],
            [0x79, 0x67, 168, 0, 0, 0, 0, 0],
            [0x63, 0x2a, 0xf8, 0xff, 0, 0, 0, 0],
            [0x7a, 0x0a, 0xf0, 0xff, 5, 0, 0, 0],
            [0x85, 0, 0, 0, 113, 0, 0, 0],
            [0x95, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(a.finish(), Ok(expected));
    }

    #[test]
    fn jumps_count_from_the_instruction_after_them_either_way() {
        let mut a = Assembler::default();
        let (back, ahead) = (a.label(), a.label());
        a.place(back);
        a.jump_if(Reg::R0, When::Equal, 7, ahead);
        a.jump(back);
        a.place(ahead);
        a.end();
        let code = a.finish().unwrap();
        assert_eq!(code[0], [0x15, 0, 1, 0, 7, 0, 0, 0]);
        assert_eq!(code[1], [0x05, 0, 0xfe, 0xff, 0, 0, 0, 0]);
    }

    #[test]
    fn a_label_never_placed_or_too_far_is_an_error() {
        let mut a = Assembler::default();
        let nowhere = a.label();
        a.jump(nowhere);
        assert_eq!(a.finish(), Err(Unreachable));
        let mut a = Assembler::default();
        let far = a.label();
        a.jump(far);
        (0..40_000).for_each(|_| a.end());
        a.place(far);
        assert_eq!(a.finish(), Err(Unreachable));
    }
}
