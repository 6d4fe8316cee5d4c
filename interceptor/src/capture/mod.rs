//! Capture: what it tells, and what it keeps in files, on every system; the work itself is the system's own (sys).
//! Reads no packet and judges nobody.

mod event;
pub(crate) mod notes;

pub use crate::sys::{Capture, Tun, release};
pub use event::{CaptureError, Event, Health};
pub(crate) use notes::{Note, Notes};
