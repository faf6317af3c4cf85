//! What must hold for any bytes at all: one function a parser or loader, which panics where it does not.
//!
//! Both `tests/fuzz_corpus.rs` (stable, in every test run) and `fuzz/` (cargo-fuzz) run these. A new one is a line
//! in [`TARGETS`], a file in `fuzz/fuzz_targets` and seeds in `fuzz/corpus`.

mod backup;
mod disk;
mod inventory;
mod resp;
mod text;
mod user;

/// A property of all bytes.
pub(crate) type Target = fn(&[u8]);

/// All of them by name; the name is that of the corpus folder and of the fuzz binary.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("line", text::line),
    ("resp_request", resp::request),
    ("reply", text::reply),
    ("file_name", text::file_name),
    ("tolerance", text::tolerance),
    ("identity", text::identity),
    ("record_log", disk::record_log),
    ("copy_record", disk::copy_record),
    ("journal_event", disk::journal_event),
    ("node_folder", disk::node_folder),
    ("inventory", inventory::inventory),
    ("backup", backup::backup),
    ("backup_list", backup::list),
    ("user", user::user),
];

/// The target of a name.
pub(crate) fn target(name: &str) -> Target {
    TARGETS.iter().find(|(of, _)| *of == name).unwrap_or_else(|| panic!("no target {name}")).1
}

/// Takes bytes off the front of the input, as numbers that steer a target; zeros where it has ended.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn u16(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (some, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        some
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}
