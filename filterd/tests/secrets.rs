//! A token that went through the strict reader and the rules is nowhere in this process's memory afterwards.
//! Not about hyper, which keeps copies of its own. Linux only has the file that this reads.
#![cfg(target_os = "linux")]

use imds_filterd::strict::{Collected, Collector};
use imds_rules::{Groups, Names, Permit, Profile, Request, Rules, Subject, Unit, Verdict, decide};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use zeroize::{Zeroize, Zeroizing};

const MASK: u8 = 0x5a;
/// Bytes looked for, the token's last: freeing memory overwrites its first.
const SEEN: usize = 32;
const ZEROS: [u8; 4096] = [0; 4096];

/// A token that is in memory in this disguise only, and what is needed to look for it: made once, for new memory could
/// be just that which a token left.
struct Masked {
    token: Vec<u8>,
    maps: String,
    piece: Zeroizing<Vec<u8>>,
}

impl Masked {
    fn new() -> Self {
        let mut number = std::process::id();
        let letters = std::iter::repeat_with(|| {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            number.to_be_bytes()[0] % 26 + b'A'
        });
        Self {
            token: letters.map(|letter| letter ^ MASK).take(56).collect(),
            maps: String::with_capacity(1 << 16),
            piece: Zeroizing::new(vec![0; 1 << 20]),
        }
    }

    fn bytes(&self) -> impl Iterator<Item = u8> + Clone + use<> {
        self.token.clone().into_iter().map(|byte| byte ^ MASK)
    }

    /// How often it is in the memory of this process.
    fn copies(&mut self) -> usize {
        let memory = File::open("/proc/self/mem").unwrap();
        self.maps.clear();
        File::open("/proc/self/maps").unwrap().read_to_string(&mut self.maps).unwrap();
        let start = self.piece.as_ptr().addr() as u64;
        let end = start + self.piece.len() as u64;
        let mut found = 0;
        for line in self.maps.lines().filter(|line| line.contains(" rw")) {
            let (from, to) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
            let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
            // but for the piece itself
            for (from, to) in [(from, to.min(start.max(from))), (from.max(end.min(to)), to)] {
                found += copies_between(&self.token, &memory, from, to, &mut self.piece);
            }
        }
        // or the next look would find it here
        self.piece.as_mut_slice().zeroize();
        found
    }
}

/// Piece by piece, each beginning with the end of the one before.
fn copies_between(token: &[u8], memory: &File, mut from: u64, to: u64, piece: &mut [u8]) -> usize {
    let mut found = 0;
    while from < to {
        let length = usize::try_from(to - from).unwrap().min(piece.len());
        let Ok(read) = memory.read_at(&mut piece[..length], from) else { break };
        found += copies_in(token, &piece[..read]);
        if read < SEEN || from + read as u64 == to {
            break;
        }
        from += (read - SEEN + 1) as u64;
    }
    found
}

/// Those that end in the same page are counted together; most pages are empty.
fn copies_in(token: &[u8], bytes: &[u8]) -> usize {
    let wanted = &token[token.len() - SEEN..];
    let is = |window: &&[u8]| window.iter().zip(wanted).all(|(byte, masked)| byte ^ MASK == *masked);
    let pages = bytes.chunks(ZEROS.len()).enumerate().filter(|(_, page)| **page != ZEROS[..page.len()]);
    pages
        .map(|(number, page)| {
            let at = number * ZEROS.len();
            bytes[at.saturating_sub(SEEN - 1)..at + page.len()].windows(SEEN).filter(is).count()
        })
        .sum()
}

fn feed(collector: &mut Collector, bytes: impl Iterator<Item = u8>) -> Collected {
    for byte in bytes {
        collector.room().push(byte);
        match collector.next_head() {
            Collected::Incomplete => (),
            other => return other,
        }
    }
    Collected::Incomplete
}

fn permit(head: &imds_filterd::strict::Head) -> Permit {
    let fields = head.fields().unwrap();
    let profile = Profile::ec2(vec!["169.254.169.254".parse().unwrap()], 80, vec![]);
    let head = imds_rules::Head {
        method: fields.method,
        target: fields.target,
        version: fields.version,
        headers: &fields.headers,
    };
    let request = Request::canonicalise(&head, &profile).unwrap();
    let rules = Rules::new(&imds_rules::parse("t", b"Allow \"/\"\n").unwrap(), &Names::default());
    match decide(&rules, &Subject { uid: 1, groups: Groups::Database, unit: Unit::Unknown }, request) {
        Verdict::Allow(permit) => permit,
        Verdict::Deny(denial) => panic!("{denial}"),
    }
}

/// One test: two at once would see each other's tokens.
#[test]
fn a_token_is_wiped_wherever_it_was() {
    let mut token = Masked::new();
    assert_eq!(token.copies(), 0);
    // the line before is so long that the buffer grows behind the token, and the next head begins in the same piece
    let bytes = token.bytes();
    let head = |rest: &'static [u8]| {
        b"GET /latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: "
            .iter()
            .copied()
            .chain(bytes.clone())
            .chain(b"\r\nX-Long: ".iter().copied())
            .chain(std::iter::repeat_n(b'x', 3000))
            .chain(rest.iter().copied())
    };
    let mut collector = Collector::new(16 * 1024);
    let Collected::Head(whole) = feed(&mut collector, head(b"\r\n\r\n")) else { panic!("no head") };
    assert_eq!(token.copies(), 1, "the buffer it grew out of, or a test that sees nothing");
    let permit = permit(&whole);
    assert_eq!(token.copies(), 2);
    drop(whole);
    assert_eq!(token.copies(), 1, "the request has one");
    drop(permit);
    assert_eq!(token.copies(), 0);

    // the beginning of the next head came together with the end of this one
    let pipelined = b"GET / HTTP/1.1\r\n\r\n".iter().copied().chain(head(b""));
    collector.room().extend(pipelined);
    let Collected::Head(first) = collector.next_head() else { panic!("no head") };
    assert_ne!(token.copies(), 0);
    drop((first, collector));
    assert_eq!(token.copies(), 0);

    // a head that is refused
    let mut collector = Collector::new(16 * 1024);
    assert!(matches!(feed(&mut collector, head(b"\n")), Collected::Malformed(_)));
    drop(collector);
    assert_eq!(token.copies(), 0);
}
