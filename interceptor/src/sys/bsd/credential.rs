//! net.inet.tcp.getcred: its question, and the xucred that answers it. Total; asks nobody.
//! Must not take a list of groups that may be cut for a whole one.

use super::{address, u16_at, u32_at};
use crate::netstack::FourTuple;
use std::net::{IpAddr, SocketAddr};

/// struct xucred: version, uid, number of groups, sixteen groups, a pointer's room.
pub(crate) const XUCRED: usize = 88;
const VERSION: u32 = 0;
/// XU_NGROUPS: so many fit, the effective one included.
const MOST_GROUPS: usize = 16;

/// Of who made a socket, as they were then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Credential {
    pub(crate) uid: u32,
    /// The effective one first.
    pub(crate) gids: Vec<u32>,
    /// There may be more: the list is full.
    pub(crate) cut: bool,
}

/// The end asked about, then the other one. The wrong way round the kernel knows no such socket.
pub(crate) fn question(four_tuple: &FourTuple) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(56);
    push(&mut bytes, four_tuple.client);
    push(&mut bytes, four_tuple.service);
    bytes
}

fn push(bytes: &mut Vec<u8>, end: SocketAddr) {
    let start = bytes.len();
    let scope = if let SocketAddr::V6(end) = end { end.scope_id() } else { 0 };
    address::push_ip(bytes, end.ip(), scope);
    // the structures themselves, without a routing message's padding
    let length = match end.ip() {
        IpAddr::V4(_) => 16,
        IpAddr::V6(_) => 28,
    };
    bytes.truncate(start + length);
    if let Some(place) = bytes.get_mut(start + 2..start + 4) {
        place.copy_from_slice(&end.port().to_be_bytes());
    }
}

/// `None`: not an answer that we know.
pub(crate) fn read(answer: &[u8]) -> Option<Credential> {
    if answer.len() != XUCRED || u32_at(answer, 0)? != VERSION {
        return None;
    }
    let uid = u32_at(answer, 4)?;
    let count = usize::from(u16_at(answer, 8)?);
    // a socket always has its maker's effective group
    if !(1..=MOST_GROUPS).contains(&count) {
        return None;
    }
    let gids = (0..count).map(|number| u32_at(answer, 12 + 4 * number)).collect::<Option<Vec<_>>>()?;
    Some(Credential { uid, gids, cut: count == MOST_GROUPS })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(uid: u32, gids: &[u32]) -> Vec<u8> {
        let mut bytes = 0_u32.to_ne_bytes().to_vec();
        bytes.extend(uid.to_ne_bytes());
        bytes.extend(u16::try_from(gids.len()).unwrap().to_ne_bytes());
        bytes.extend([0; 2]);
        gids.iter().take(16).for_each(|gid| bytes.extend(gid.to_ne_bytes()));
        bytes.resize(XUCRED, 0);
        bytes
    }

    #[test]
    fn uid_and_groups_are_read_and_a_full_list_counts_as_cut() {
        let whole = Credential { uid: 2001, gids: vec![3001, 5], cut: false };
        assert_eq!(read(&answer(2001, &[3001, 5])), Some(whole));
        let fifteen: Vec<u32> = (1..=15).collect();
        assert!(!read(&answer(1, &fifteen)).unwrap().cut);
        let sixteen: Vec<u32> = (1..=16).collect();
        let found = read(&answer(1, &sixteen)).unwrap();
        assert!(found.cut && found.gids == sixteen);
    }

    #[test]
    fn anything_else_names_nobody() {
        let whole = answer(0, &[0]);
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None, "{length}");
        }
        assert_eq!(read(&answer(0, &[])), None);
        assert_eq!(read(&answer(0, &[7; 17])), None);
        let mut version = answer(0, &[0]);
        version[0] = 1;
        assert_eq!(read(&version), None);
        let mut negative = answer(0, &[0]);
        negative[8..10].copy_from_slice(&(-1_i16).to_ne_bytes());
        assert_eq!(read(&negative), None);
    }

    #[test]
    fn the_clients_end_is_asked_about_and_comes_first() {
        let four_tuple = FourTuple {
            client: "169.254.169.1:40000".parse().unwrap(),
            service: "169.254.169.254:80".parse().unwrap(),
        };
        let bytes = question(&four_tuple);
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[..8], [16, 2, 0x9c, 0x40, 169, 254, 169, 1]);
        assert_eq!(bytes[16..24], [16, 2, 0, 80, 169, 254, 169, 254]);
        let four_tuple = FourTuple {
            client: "[fdc9::1]:40000".parse().unwrap(),
            service: "[fd00:ec2::254]:80".parse().unwrap(),
        };
        let bytes = question(&four_tuple);
        assert_eq!(bytes.len(), 56);
        assert_eq!((bytes[0], bytes[1], bytes[28], bytes[31]), (28, 28, 28, 80));
    }
}
