//! sysctl(3): numbers, listings, questions. Knows no name's meaning.

use std::ffi::CStr;
use std::io;

/// Listings grow between the question for their size and the one for their bytes.
const TRIES: usize = 8;
const SPARE: usize = 4096;

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(super) fn number(name: &CStr) -> io::Result<u32> {
    let mut bytes = [0; 4];
    match ask(name, &[], &mut bytes)? {
        4 => Ok(u32::from_ne_bytes(bytes)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Asks with `question` and returns the length of the answer.
pub(super) fn ask(name: &CStr, question: &[u8], answer: &mut [u8]) -> io::Result<usize> {
    let mut length = answer.len();
    let new = if question.is_empty() { std::ptr::null() } else { question.as_ptr() };
    // SAFETY: reads `name` up to its NUL and `question.len()` bytes at `new`, writes at most `length` bytes to `answer`
    // and then `length`; keeps nothing.
    let result = unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            answer.as_mut_ptr().cast(),
            &raw mut length,
            new.cast(),
            question.len(),
        )
    };
    checked(result)?;
    Ok(length)
}

/// All that a list of numbers names.
pub(super) fn listing(name: &[libc::c_int]) -> io::Result<Vec<u8>> {
    for _ in 0..TRIES {
        let mut length = 0;
        list(name, std::ptr::null_mut(), &mut length)?;
        length += SPARE;
        let mut bytes = vec![0_u8; length];
        match list(name, bytes.as_mut_ptr(), &mut length) {
            Ok(()) => {
                bytes.truncate(length);
                return Ok(bytes);
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::OutOfMemory.into())
}

/// `place` has room for `length` bytes, or is null.
fn list(name: &[libc::c_int], place: *mut u8, length: &mut usize) -> io::Result<()> {
    let count = libc::c_uint::try_from(name.len()).unwrap_or(0);
    // SAFETY: reads `count` numbers of `name`; writes at most `length` bytes to `place`, which both callers own, and
    // then `length`; keeps nothing.
    let result = unsafe { libc::sysctl(name.as_ptr(), count, place.cast(), length, std::ptr::null(), 0) };
    checked(result)
}
