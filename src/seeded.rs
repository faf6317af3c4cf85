//! Bugs on purpose, for testing the tests: each breaks one of the ten rules of the failure model at the place that
//! keeps it, and `tests/seeded_bugs.rs` holds the suites to finding every one.
//!
//! Without the feature `seeded-bugs`, `active` is a constant `false` and nothing of this is in the program. With
//! it, the environment variable [`VARIABLE`] names the bug that a process has.

macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $rule:literal $bug:ident;)+) => {
        /// One way to break a rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)+
        }

        /// Every bug, with the rule that it breaks and what it does.
        pub const ALL: &[(Bug, u8, &str)] = &[$((Bug::$bug, $rule, concat!($($what),+)),)+];
    };
}

bugs! {
    /// A leader begins its life in the epoch of the one before it.
    1 EpochNotRaised;
    /// A leader's epoch is not synced before it serves.
    1 EpochNotSynced;
    /// Two writes of one epoch get the same version.
    1 VersionGivenTwice;
    /// A node obeys every frame, whatever its fence says.
    2 FenceNotChecked;
    /// A node lets in a leader of a lower epoch than it has seen.
    2 LowerEpochAccepted;
    /// A node lets an earlier session take over from a later one.
    2 LateSessionAccepted;
    /// A node does not keep the highest epoch on its disk.
    2 EpochSeenNotKept;
    /// OK is said before the log has the commit.
    3 OkBeforeLog;
    /// An unbuffered log is not synced.
    3 LogNotSynced;
    /// One copy is taken for as many as tolerance asks for.
    3 OneCopyIsEnough;
    /// Copies are not synced in unbuffered mode.
    3 CopiesNotSynced;
    /// The folder is not synced after its names have changed.
    3 NamesNotSynced;
    /// A segment goes before what was live in it is synced elsewhere.
    3 MovedCopiesNotSynced;
    /// A copy's content is written before its record.
    4 ContentBeforeRecord;
    /// A read does not check length and checksum.
    4 ReadsNotChecked;
    /// A start takes files as whole whatever their checksum is.
    4 TornCopyAccepted;
    /// A copy older than the one that is there is answered "stored".
    5 StaleAnsweredStored;
    /// Another message of the same version is answered "stored".
    5 ConflictAnsweredStored;
    /// A late settle publishes an older version over a newer one.
    5 PublishedBackward;
    /// Letting go of a version lets go of newer ones too.
    5 DeletedUnconditionally;
    /// What is left of a transaction that was never logged is completed id by id.
    6 TransactionTorn;
    /// A version that is being completed does not hold back the older answer.
    6 UnsettledNotHidden;
    /// A newer version that an inventory lists is passed over.
    6 UnsettledDropped;
    /// The torn end of a log stays where it is.
    7 TornTailKept;
    /// Damage in the middle of a log is cut off like a torn end.
    7 DamageCutOff;
    /// A commit replaces a newer one.
    7 ReplayIgnoresVersions;
    /// A buffered log is believed to be whole after a power cut.
    7 BufferedLogBelieved;
    /// A folder that cannot be listed is taken for an empty one.
    8 ListErrorIsEmpty;
    /// A copy that cannot be read is taken for none.
    8 ReadErrorIsAbsent;
    /// An inventory concludes whatever its count says.
    8 InventoryNotCounted;
    /// An inventory without a copy tells of writes that are younger than it.
    8 AbsenceAboveFloor;
    /// What was deleted everywhere and forgotten is taken for news when an old copy turns up.
    5 HorizonIgnored;
    /// A failed sync of the log is passed over.
    9 FailedLogSyncIgnored;
    /// A failed sync of copies is passed over.
    9 FailedCopySyncIgnored;
    /// A leader that does not know yet says "no such message".
    9 NotFoundAtOnce;
    /// A leader without its log needs to hear only one of its members.
    9 OneReportIsEnough;
    /// A node serves the leader of another cluster.
    10 ForeignLeaderServed;
    /// A tombstone goes when one member has confirmed it.
    5 TombstoneForgottenEarly;
}

impl Bug {
    /// Its name, as [`VARIABLE`] has it.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// Names the bug of a process.
pub const VARIABLE: &str = "HATOKUSE_BUG";

/// Whether this process has the bug.
#[cfg(not(feature = "seeded-bugs"))]
pub(crate) const fn active(_: Bug) -> bool {
    false
}

/// Whether this process has the bug.
#[cfg(feature = "seeded-bugs")]
pub(crate) fn active(bug: Bug) -> bool {
    static ACTIVE: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let read = || {
        let name = std::env::var(VARIABLE).ok()?;
        let found = ALL.iter().map(|(bug, ..)| *bug).find(|bug| bug.name() == name);
        Some(found.unwrap_or_else(|| panic!("{VARIABLE}={name} names no bug")))
    };
    *ACTIVE.get_or_init(read) == Some(bug)
}
