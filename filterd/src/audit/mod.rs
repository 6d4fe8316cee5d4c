//! The audit trail: one line of JSON for each verdict, written when its exchange ends, however it ends; of refusals that
//! cost their user nothing not more than a bound.
//! Never holds a token, a body or a header value; never waits for whoever reads it.

mod bounded;
mod json;
mod output;

pub use output::Output;

use crate::filter::Client;
use bounded::Bounded;
use imds_ipc::status::Verdicts;
use imds_rules::Request;
use json::Line;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

/// Bytes of a path that are shown: the longest that the service has is half as long, and whoever asks for longer ones
/// must not fill the log with them.
const MAX_TARGET: usize = 512;

/// What was decided, in the words of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Allow,
    Deny,
    /// In audit mode: let through all the same.
    WouldDeny,
    /// The request was malformed, or of no use to the service.
    Refuse,
    /// Over a limit.
    Limit,
    /// Allowed, but no answer could be had.
    Error,
}

impl Word {
    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::WouldDeny => "would-deny",
            Self::Refuse => "refuse",
            Self::Limit => "limit",
            Self::Error => "error",
        }
    }

    /// Whether no limit bounds how many of a user's requests come to this.
    fn is_unbounded(self) -> bool {
        match self {
            Self::Refuse | Self::Limit => true,
            Self::Allow | Self::Deny | Self::WouldDeny | Self::Error => false,
        }
    }
}

/// Where the lines go, and the names they show. A line that cannot be written is counted; the count goes out as
/// `lost` in the next line that can.
pub struct Audit {
    output: RefCell<Output>,
    bounded: RefCell<Bounded>,
    names: RefCell<HashMap<u32, String>>,
    verdicts: Cell<Verdicts>,
}

impl Audit {
    /// `names`: uid and name; name services are out of reach.
    #[must_use]
    pub fn new(output: Output, names: &[(u32, String)]) -> Self {
        let audit = Self {
            output: RefCell::new(output),
            bounded: RefCell::default(),
            names: RefCell::default(),
            verdicts: Cell::default(),
        };
        audit.show(names);
        audit
    }

    /// From now on these names are shown.
    pub fn show(&self, names: &[(u32, String)]) {
        *self.names.borrow_mut() = names.iter().cloned().collect();
    }

    /// Since the start.
    pub fn verdicts(&self) -> Verdicts {
        self.verdicts.get()
    }

    fn count(&self, word: Word) {
        let mut verdicts = self.verdicts.get();
        let count = match word {
            Word::Allow => &mut verdicts.allow,
            Word::Deny => &mut verdicts.deny,
            Word::WouldDeny => &mut verdicts.would_deny,
            Word::Refuse => &mut verdicts.refuse,
            Word::Limit => &mut verdicts.limit,
            Word::Error => &mut verdicts.error,
        };
        *count = count.saturating_add(1);
        self.verdicts.set(verdicts);
    }

    /// Lines not written since the start.
    pub fn ever_lost(&self) -> u64 {
        self.output.borrow().ever_lost()
    }

    /// Lines not written since the last that was.
    pub fn lost(&self) -> u64 {
        self.output.borrow().lost()
    }
}

/// The line of one exchange. Goes out when it is dropped: no way out of an exchange is without one.
pub(crate) struct Entry {
    audit: Rc<Audit>,
    client: Rc<Client>,
    begun: Instant,
    pub(crate) word: Word,
    /// Line of the deciding rule.
    pub(crate) rule: Option<u32>,
    /// Line of the rule by which it is sent with a token of ours.
    pub(crate) translate: Option<u32>,
    pub(crate) why: String,
    /// Whether an IMDSv2 token came with it. Not known of what is malformed, not asked of who asks for one.
    token: Option<bool>,
    method: String,
    path: String,
    /// 0 when nothing was answered.
    pub(crate) status: u16,
    /// Bytes of the body handed to the client.
    pub(crate) bytes: u64,
}

impl Entry {
    pub(crate) fn begin(audit: &Rc<Audit>, client: &Rc<Client>) -> Self {
        Self {
            audit: Rc::clone(audit),
            client: Rc::clone(client),
            begun: Instant::now(),
            word: Word::Error,
            rule: None,
            translate: None,
            token: None,
            why: String::new(),
            method: String::new(),
            path: String::new(),
            status: 0,
            bytes: 0,
        }
    }

    /// What the client sent, as far as it can be told; kept only until there is a canonical request.
    pub(crate) fn quote(&mut self, method: &[u8], target: &[u8]) {
        self.method = latin1(method);
        let shown = target.get(..MAX_TARGET).unwrap_or(target);
        // a query may hold a secret, even in a request that is refused
        let path = shown.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or(b"");
        self.path = latin1(path);
        self.mark_cut(target.len());
    }

    fn mark_cut(&mut self, length: usize) {
        if length > MAX_TARGET {
            self.path.push_str("...");
        }
    }

    pub(crate) fn request(&mut self, request: &Request) {
        self.method.clear();
        self.method.push_str(request.method().as_str());
        let path = request.path();
        self.path.clear();
        // it is ASCII
        self.path.push_str(path.get(..MAX_TARGET).unwrap_or(path));
        self.mark_cut(path.len());
        self.token = (!request.asks_for_token()).then(|| request.has_token());
    }

    fn write(&self) {
        self.audit.count(self.word);
        let uid = self.client.uid();
        let mut bounded = self.audit.bounded.borrow_mut();
        if self.word.is_unbounded() && !bounded.pass(uid, Instant::now()) {
            return;
        }
        let more = bounded.kept_back(uid);
        let mut output = self.audit.output.borrow_mut();
        let lost = output.lost();
        output.line(|bytes| {
            let mut line = Line::begin(bytes);
            line.number("v", 1);
            line.plain("time", &imds_ipc::Utc(SystemTime::now()));
            line.plain("verdict", &self.word.as_str());
            line.number_or_null("rule", self.rule.map(u64::from));
            line.text("why", &self.why);
            line.number_or_null("uid", uid.map(u64::from));
            let names = self.audit.names.borrow();
            line.text_or_null("user", uid.and_then(|uid| names.get(&uid)).map(String::as_str));
            line.text_or_null("unit", self.client.unit());
            let process = self.client.process.as_ref();
            line.number_or_null("pid", process.map(|process| process.pid.into()));
            line.text_or_null("exe", process.and_then(|process| process.exe.as_deref()));
            line.flag_or_null("token", self.token);
            line.number_or_null("translate", self.translate.map(u64::from));
            line.text("method", &self.method);
            line.text("path", &self.path);
            line.number("status", self.status.into());
            line.number("bytes", self.bytes);
            line.number("ms", u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX));
            line.plain("client", &self.client.address);
            line.text("service", &self.client.service.name);
            if more > 0 {
                line.number("more", more);
            }
            if lost > 0 {
                line.number("lost", lost);
            }
            line.end();
        });
        if more > 0 && output.lost() == 0 {
            bounded.told(uid);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.write();
    }
}

/// Each byte as the character of that number: every byte shows, escaped where it must be.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Ending, Service};
    use imds_rules::{Profile, Subject};
    use std::io::{BufRead, BufReader};

    fn client() -> Rc<Client> {
        let address = "169.254.169.254:80".parse().unwrap();
        Rc::new(Client {
            id: 1,
            subject: Ok(Subject::of_uid(1000)),
            process: None,
            address,
            service: Rc::new(Service {
                upstream: 0,
                address,
                name: "ec2".into(),
                profile: Rc::new(Profile::ec2(vec![], 80, vec![])),
                host: hyper::header::HeaderValue::from_static("h"),
            }),
            over: None,
            ending: Cell::new(Ending::Clean),
            used: Cell::new(true),
            end_is_said: Cell::new(false),
            answered: Cell::new(false),
        })
    }

    #[test]
    fn the_first_line_after_lost_ones_says_how_many() {
        let (reader, writer) = std::io::pipe().unwrap();
        let audit = Rc::new(Audit::new(Output::new(writer.into()).unwrap(), &[]));
        let client = client();
        let mut written = 0_usize;
        while audit.lost() < 3 {
            drop(Entry::begin(&audit, &client));
            written += 1;
        }
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        for _ in 0..written - 3 {
            assert!(!lines.next().unwrap().contains("lost"));
        }
        drop(Entry::begin(&audit, &client));
        drop(Entry::begin(&audit, &client));
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        assert_eq!(line["lost"], 3);
        assert!(!lines.next().unwrap().contains("lost"));
    }

    #[test]
    fn who_is_refused_on_end_does_not_fill_the_log_and_his_next_line_says_how_often() {
        // has room for all, however slow the machine is
        let path = std::env::temp_dir().join(format!("imds-audit-{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        let audit = Rc::new(Audit::new(Output::new(file.into()).unwrap(), &[]));
        let client = client();
        let write = |word| {
            let mut entry = Entry::begin(&audit, &client);
            entry.word = word;
        };
        for _ in 0..20_000 {
            write(Word::Limit);
            write(Word::Refuse);
        }
        write(Word::Deny);
        write(Word::Deny);
        let refused = audit.verdicts().limit + audit.verdicts().refuse;
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let number =
            |line: &&str, name| serde_json::from_str::<serde_json::Value>(line).unwrap()[name].as_u64();
        assert!(lines.len() < 2000, "{}", lines.len());
        let told: u64 = lines.iter().filter_map(|line| number(line, "more")).sum();
        assert_eq!(refused, 40_000);
        assert_eq!(u64::try_from(lines.len()).unwrap() + told, 40_002);
        assert_eq!(number(lines.last().unwrap(), "more"), None, "it is told once");
    }
}
