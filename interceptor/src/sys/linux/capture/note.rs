//! A setting of a link that capture changed, with its original: a line of the notes. Changes nothing.

use crate::capture::Note;

/// Link index, link name ("all" and "default" have index 0), setting, original value, our value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinkNote {
    pub(super) index: u32,
    pub(super) link: String,
    pub(super) setting: Setting,
    pub(super) original: u32,
    pub(super) ours: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    RpFilter,
    DisableXfrm,
}

impl Setting {
    /// Its name below net.ipv4.conf.LINK.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::RpFilter => "rp_filter",
            Self::DisableXfrm => "disable_xfrm",
        }
    }
}

impl Note for LinkNote {
    const EXPECTED: &str = "a link's index, its name, a setting and two numbers";

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut next = || words.next();
        let note = Self {
            index: next()?.parse().ok()?,
            link: next()?.to_owned(),
            setting: match next()? {
                "rp_filter" => Setting::RpFilter,
                "disable_xfrm" => Setting::DisableXfrm,
                _ => return None,
            },
            original: next()?.parse().ok()?,
            ours: next()?.parse().ok()?,
        };
        words.next().is_none().then_some(note)
    }

    fn line(&self) -> String {
        format!("{} {} {} {} {}", self.index, self.link, self.setting.key(), self.original, self.ours)
    }

    /// "all" and "default" share index 0 and are told apart by name; links may be renamed.
    fn same(&self, new: &Self) -> bool {
        (self.index, self.setting) == (new.index, new.setting) && (self.index != 0 || self.link == new.link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Notes;

    #[test]
    fn notes_are_read_as_written_and_the_original_is_kept() {
        let directory = std::env::temp_dir().join(format!("imds-link-notes-{}", std::process::id()));
        let note = |index, link: &str, original| LinkNote {
            index,
            link: link.into(),
            setting: Setting::RpFilter,
            original,
            ours: 2,
        };
        let mut notes = Notes::open(&directory).unwrap();
        notes.write(note(2, "eth0", 1)).unwrap();
        notes.write(note(2, "renamed", 2)).unwrap();
        notes.write(note(0, "all", 1)).unwrap();
        notes.write(note(0, "default", 0)).unwrap();
        drop(notes);
        let notes: Notes<LinkNote> = Notes::open(&directory).unwrap();
        assert_eq!(notes.all(), [note(2, "eth0", 1), note(0, "all", 1), note(0, "default", 0)]);
        notes.forget().unwrap();
        std::fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn a_spoilt_note_is_none() {
        for line in
            ["", "2 eth0 rp_filter 1", "2 eth0 rp_filter 1 2 3", "x eth0 rp_filter 1 2", "2 eth0 other 1 2"]
        {
            assert_eq!(LinkNote::parse(line), None, "{line:?}");
        }
    }
}
