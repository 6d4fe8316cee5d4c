//! Every target over its corpus, and over changed copies of it: what libFuzzer does, bounded and always the same.
//! Needs no nightly compiler and no libFuzzer.

use imds_fuzz::TARGETS;
use std::path::Path;

/// Changed copies of each file: together with the corpus a few seconds in all.
const COPIES: u32 = 16;

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut folders: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    assert_eq!(folders, TARGETS.map(|(name, _)| name));
    for (name, _) in TARGETS {
        assert!(!corpus(name).is_empty(), "{name}");
    }
}

#[test]
fn no_file_of_a_corpus_breaks_a_promise() {
    for (name, body) in TARGETS {
        for (path, bytes) in corpus(name) {
            tell_if_it_panics(&path, &bytes, body);
        }
    }
}

#[test]
fn no_changed_copy_of_one_does() {
    for (name, body) in TARGETS {
        let files = corpus(name);
        for (number, (path, bytes)) in files.iter().enumerate() {
            let other = &files[(number + 1) % files.len()].1;
            let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ u64::try_from(number).unwrap());
            for _ in 0..COPIES {
                tell_if_it_panics(path, &changed(bytes, other, &mut random), body);
            }
        }
    }
}

/// A panic alone would not say for which bytes.
fn tell_if_it_panics(path: &str, bytes: &[u8], body: fn(&[u8])) {
    if let Err(panic) = std::panic::catch_unwind(|| body(bytes)) {
        eprintln!("{path}, perhaps changed, as: {}", bytes.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

/// xorshift64*: the same copies in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }
}

fn changed(bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(copy.len());
        match random.below(6) {
            0 => copy.truncate(at),
            1 => copy.insert(at.min(copy.len()), random.byte()),
            2 if !copy.is_empty() => drop(copy.remove(at)),
            3 => {
                let from = random.below(other.len());
                let length = random.below(32);
                copy.truncate(at);
                copy.extend(other.iter().skip(from).take(length));
                copy.extend_from_slice(bytes.get(at..).unwrap_or(&[]));
            }
            4 => {
                if let Some(byte) = copy.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            _ => {
                if let Some(byte) = copy.get_mut(at) {
                    *byte = random.byte();
                }
            }
        }
    }
    copy
}
