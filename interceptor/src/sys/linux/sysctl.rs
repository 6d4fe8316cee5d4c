//! Settings of network links below /proc/sys/net. Numbers only; decides nothing.

use std::io;
use std::path::PathBuf;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// `link` is an interface's name, or "all" or "default".
fn path(family: Family, link: &str, key: &str) -> io::Result<PathBuf> {
    // the kernel lets no interface have such a name; nothing else may reach a path
    if link.is_empty() || link.contains('/') || matches!(link, "." | "..") {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let family = match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    Ok(["/proc/sys/net", family, "conf", link, key].iter().collect())
}

pub(crate) fn read(family: Family, link: &str, key: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(path(family, link, key)?)?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

pub(crate) fn write(family: Family, link: &str, key: &str, value: u32) -> io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().write(true).open(path(family, link, key)?)?;
    file.write_all(value.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_a_path_reaches_nothing() {
        for link in ["", ".", "..", "../../kernel", "a/b"] {
            assert_eq!(read(Family::V4, link, "rp_filter").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert!(read(Family::V4, "lo", "rp_filter").is_ok());
    }
}
