//! What /proc says of a process, for the log. Must not decide anything: by then it may run another program, or be gone.

use std::path::Path;

/// The inode of the initial pid namespace (PROC_PID_INIT_INO): the kernel's programs number processes as it does.
const INITIAL: &str = "pid:[4026531836]";

/// Whether /proc here numbers processes as the kernel's programs do.
pub(crate) fn numbers_are_ours() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|name| name == Path::new(INITIAL))
}

/// The path of its program. `None`: gone, of the kernel, without the privilege to look, or longer than `most` bytes.
pub(crate) fn exe(pid: u32, most: usize) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let text = path.to_string_lossy().into_owned();
    (text.len() <= most).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_the_program_it_runs_and_nobody_has_none() {
        let me = std::env::current_exe().unwrap();
        assert_eq!(exe(std::process::id(), 4096).as_deref(), me.to_str());
        assert_eq!(exe(std::process::id(), 3), None);
        assert_eq!(exe(0, 4096), None);
    }
}
