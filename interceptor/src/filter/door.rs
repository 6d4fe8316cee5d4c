//! The listening socket by which filterd comes in, and the runtime directory it lies in.
//! Must not let in anybody but the filter's user, nor trust a directory that others can change.

use crate::sys;
use imds_ipc::FILTER_SOCKET;
use imds_settings::{Settings, User, exit};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// filterds that came and were not yet accepted.
const BACKLOG: i32 = 16;

/// Why there is no door.
#[derive(Debug)]
pub enum DoorError {
    /// Not a directory, not root's, or others may write it.
    Directory(PathBuf, &'static str),
    /// Something that is no socket has its name.
    Occupied(PathBuf),
    Os(PathBuf, io::Error),
}

impl fmt::Display for DoorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path, what) => {
                write!(
                    f,
                    "{}: {what}; expected a directory of root's that only root may write",
                    path.display()
                )
            }
            Self::Occupied(path) => write!(f, "{}: exists and is not a socket", path.display()),
            Self::Os(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for DoorError {}

impl DoorError {
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Directory(..) | Self::Occupied(_) => exit::PERMISSION,
            Self::Os(..) => exit::OS,
        }
    }
}

#[derive(Debug)]
pub struct Door {
    socket: OwnedFd,
    path: PathBuf,
    user: User,
}

/// A caller at the door.
#[derive(Debug)]
pub enum Caller {
    Filterd(OwnedFd),
    /// root, who wants to know how we are.
    Operator(OwnedFd),
    /// Somebody else, of this uid.
    Stranger(u32),
}

impl Door {
    /// Replaces the socket that a killed run left. Only for who has capture: its lock keeps a second interceptor out.
    ///
    /// # Errors
    /// See [`DoorError`].
    pub fn open(settings: &Settings, user: &User) -> Result<Self, DoorError> {
        check_directory(&settings.runtime_dir)?;
        let path = settings.runtime_dir.join(FILTER_SOCKET);
        remove_stale(&path)?;
        let os = |errno: Errno| DoorError::Os(path.clone(), errno.into());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(os)?;
        let address = SocketAddrUnix::new(&path).map_err(os)?;
        // nobody may connect before the owner is right
        let old = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = bind(&socket, &address);
        rustix::process::umask(old);
        bound.map_err(os)?;
        std::os::unix::fs::chown(&path, None, Some(user.gid))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o660)))
            .map_err(|error| DoorError::Os(path.clone(), error))?;
        listen(&socket, BACKLOG).map_err(os)?;
        Ok(Self { socket, path, user: user.clone() })
    }

    /// The next who wants in; `None` when nobody does now.
    ///
    /// # Errors
    /// When the OS cannot accept: out of descriptors, most likely.
    pub fn accept(&self) -> io::Result<Option<Caller>> {
        loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(caller) => {
                    let uid = sys::peer_uid(&caller)?;
                    return Ok(Some(match uid {
                        _ if uid == self.user.uid => Caller::Filterd(caller),
                        0 => Caller::Operator(caller),
                        _ => Caller::Stranger(uid),
                    }));
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // whoever comes now finds nobody, and not a queue that nobody empties
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the runtime directory if there is none. To be called before capture, which keeps its notes there.
///
/// # Errors
/// [`DoorError::Directory`] for one that others could change.
pub fn make_directory(path: &Path) -> Result<(), DoorError> {
    let made = fs::DirBuilder::new().mode(0o755).create(path);
    // whatever the umask is: the filter's user has to get to the door
    match made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755))) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(DoorError::Os(path.into(), error)),
    }
    check_directory(path)
}

fn check_directory(path: &Path) -> Result<(), DoorError> {
    let found = fs::symlink_metadata(path).map_err(|error| DoorError::Os(path.into(), error))?;
    let refuse = |what| Err(DoorError::Directory(path.into(), what));
    if !found.is_dir() {
        return refuse("is not a directory");
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return refuse("belongs to another user");
    }
    if found.mode() & 0o022 != 0 {
        return refuse("is writable by others");
    }
    Ok(())
}

fn remove_stale(path: &Path) -> Result<(), DoorError> {
    let os = |error| DoorError::Os(path.into(), error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(os(error)),
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(os),
        Ok(_) => Err(DoorError::Occupied(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::connect;

    /// A directory of this test's own, removed at its end.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("imds-door-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
        fn settings(&self) -> Settings {
            Settings { runtime_dir: self.0.clone(), ..Settings::default() }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn me() -> User {
        User { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    fn knock(door: &Door) -> OwnedFd {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(&door.path).unwrap()).unwrap();
        socket
    }

    #[test]
    fn the_filters_user_is_let_in_and_anybody_else_is_a_stranger() {
        let place = Place::new("callers");
        make_directory(&place.0).unwrap();
        let door = Door::open(&place.settings(), &me()).unwrap();
        assert!(door.accept().unwrap().is_none());
        let _caller = knock(&door);
        assert!(matches!(door.accept().unwrap(), Some(Caller::Filterd(_))));
        drop(door);
        let another = User { uid: me().uid + 1, gid: me().gid };
        let door = Door::open(&place.settings(), &another).unwrap();
        let _caller = knock(&door);
        match door.accept().unwrap() {
            Some(Caller::Stranger(uid)) => assert_eq!(uid, me().uid),
            Some(Caller::Operator(_)) => assert_eq!(me().uid, 0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_socket_is_the_filters_groups_alone_and_a_stale_one_is_replaced() {
        let place = Place::new("stale");
        make_directory(&place.0).unwrap();
        let door = Door::open(&place.settings(), &me()).unwrap();
        let found = fs::symlink_metadata(&door.path).unwrap();
        assert_eq!((found.mode() & 0o7777, found.gid()), (0o660, me().gid));
        std::mem::forget(door); // as a killed run leaves it
        let door = Door::open(&place.settings(), &me()).unwrap();
        let _caller = knock(&door);
        let path = door.path.clone();
        drop(door);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Door::open(&place.settings(), &me()), Err(DoorError::Occupied(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_directory_that_others_can_change_is_refused() {
        let place = Place::new("directory");
        make_directory(&place.0).unwrap();
        assert_eq!(fs::metadata(&place.0).unwrap().mode() & 0o7777, 0o755);
        for mode in [0o775, 0o757] {
            fs::set_permissions(&place.0, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(make_directory(&place.0), Err(DoorError::Directory(..))));
            assert!(matches!(Door::open(&place.settings(), &me()), Err(DoorError::Directory(..))));
        }
        let link = Place::new("link");
        std::os::unix::fs::symlink("/", &link.0).unwrap();
        assert!(matches!(make_directory(&link.0), Err(DoorError::Directory(..))));
        fs::remove_file(&link.0).unwrap();
    }
}
