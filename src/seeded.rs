//! Bugs on purpose, for testing the tests: each breaks one of the rules of `docs/failure-model.md` at the place that
//! keeps it, and `tests/seeded_bugs.rs` holds the suites to finding every one.
//!
//! Without the feature `seeded-bugs`, `active` is a constant `false` and nothing of this is in the program. With
//! it, the environment variable [`VARIABLE`] names the bug that a process has.

macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $rule:literal $bug:ident: $suite:ident $test:literal;)+) => {
        /// One way to break a rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)+
        }

        /// Every bug.
        pub const ALL: &[Sown] = &[$(Sown {
            bug: Bug::$bug,
            rule: $rule,
            what: concat!($($what),+),
            suite: stringify!($suite),
            test: $test,
        },)+];
    };
}

/// A bug, and what has to find it.
#[derive(Debug, Clone, Copy)]
pub struct Sown {
    /// Its name.
    pub bug: Bug,
    /// The rule that it breaks.
    pub rule: u8,
    /// What it does.
    pub what: &'static str,
    /// The test binary that finds it; `hatokuse` has the unit tests.
    pub suite: &'static str,
    /// The test in it; those of `simulation` that are [`CAMPAIGNS`] play seeds until one fails.
    pub test: &'static str,
}

bugs! {
    /// A leader begins its life in the epoch of the one before it.
    1 EpochNotRaised: simulation "campaign";
    /// A leader's epoch is not synced before it serves.
    1 EpochNotSynced: crash_points "leader::no_crash_and_no_error_on_the_journals_path_loses_a_record";
    /// A leader takes writes before enough nodes could have said that its log is an old one.
    1 WriteBeforeGreeting: hatokuse "cluster::tests::inventories::nothing_is_written_before_enough_nodes_could_tell_of_a_later_leader";
    /// Two writes of one epoch get the same version.
    1 VersionGivenTwice: simulation "campaign";
    /// A node obeys every frame, whatever its fence says.
    2 FenceNotChecked: crash_points "identity::only_the_latest_session_of_the_latest_epoch_commands";
    /// A node lets in a leader of a lower epoch than it has seen.
    2 LowerEpochAccepted: crash_points "identity::an_identity_is_whole_and_never_goes_back";
    /// A node lets an earlier session take over from a later one.
    2 LateSessionAccepted: crash_points "identity::only_the_latest_session_of_the_latest_epoch_commands";
    /// A leader speaks from its own knowledge however long its nodes have been silent.
    2 LeaseNotChecked: simulation "leaders::a_leader_that_its_nodes_have_left_says_so";
    /// A write may have fewer copies than messages had, however few members answer.
    2 FewerCopiesAtOnce: simulation "leaders::a_lower_tolerance_does_not_let_a_leader_write_alone";
    /// A node lets in another leader while the one of before may still speak.
    2 LeaderLetInAtOnce: hatokuse "node::promise::tests::another_leader_waits_for_the_end_of_a_promise";
    /// A node that was started again lets in another leader at once.
    2 PromiseForgotten: hatokuse "node::promise::tests::a_node_that_starts_keeps_what_it_may_have_promised";
    /// A node that could not note its leader counts for that leader's lease.
    2 UnnotedCountsForLease: simulation "unnoted::a_node_that_would_forget_its_leader_does_not_count_for_it";
    /// A leader begins with nodes that could not note it.
    2 UnnotedGreets: simulation "unnoted::a_leader_does_not_begin_with_nodes_that_would_forget_it";
    /// What a node holds that could not note its leader is believed as if it could not change any more.
    2 UnnotedInventoryBelieved: simulation "unnoted::a_leader_does_not_begin_with_nodes_that_would_forget_it";
    /// A new member keeps copies before enough others know of it.
    2 NewcomerCountsAtOnce: hatokuse "cluster::newcomers::tests::a_new_member_counts_when_enough_others_know_of_it";
    /// A node does not keep the highest epoch on its disk.
    2 EpochSeenNotKept: crash_points "identity::an_identity_is_whole_and_never_goes_back";
    /// OK is said before the log has the commit.
    3 OkBeforeLog: crash_points "leader::no_crash_and_no_error_on_the_journals_path_loses_a_record";
    /// A log that is rewritten while the leader runs lacks what was appended last.
    3 RewriteLosesEnd: crash_points "leader::no_crash_and_no_error_on_the_journals_path_loses_a_record";
    /// An unbuffered log is not synced.
    3 LogNotSynced: crash_points "leader::no_crash_and_no_error_on_the_journals_path_loses_a_record";
    /// One copy is taken for as many as tolerance asks for.
    3 OneCopyIsEnough: hatokuse "cluster::quorum::tests::answers_are_counted";
    /// Copies are not synced in unbuffered mode.
    3 CopiesNotSynced: hatokuse "node::files::tests::a_failed_sync_or_rename_is_fatal";
    /// The folder is not synced after its names have changed.
    3 NamesNotSynced: hatokuse "node::files::tests::a_failed_sync_or_rename_is_fatal";
    /// A segment goes before what was live in it is synced elsewhere.
    3 MovedCopiesNotSynced: crash_points "node::no_crash_and_no_error_on_a_nodes_path_loses_or_tears_a_copy";
    /// A copy's content is written before its record.
    4 ContentBeforeRecord: hatokuse "node::files::tests::what_a_crash_leaves_is_never_taken_for_a_strangers_file";
    /// A read does not check length and checksum.
    4 ReadsNotChecked: hatokuse "node::files::tests::damage_is_told_and_healed";
    /// A start takes files as whole whatever their checksum is.
    4 TornCopyAccepted: hatokuse "node::files::tests::crashes_at_every_call_lose_nothing";
    /// A copy older than the one that is there is answered "stored".
    5 StaleAnsweredStored: hatokuse "node::files::tests::the_suite_passes_on_every_disk";
    /// Another message of the same version is answered "stored".
    5 ConflictAnsweredStored: hatokuse "node::files::tests::the_suite_passes_on_every_disk";
    /// A late settle publishes an older version over a newer one.
    5 PublishedBackward: crash_points "node::a_late_settle_publishes_nothing_older";
    /// Letting go of a version lets go of newer ones too.
    5 DeletedUnconditionally: simulation "campaign";
    /// What is left of a transaction that was never logged is completed id by id.
    6 TransactionTorn: simulation "a_leader_that_dies_in_a_transaction_leaves_all_of_it_or_nothing";
    /// A rewritten log does not say that a transaction never becomes true.
    6 AbortedNotKept: hatokuse "cluster::tests::state::what_is_made_true_is_what_is_read_again";
    /// A transaction goes over one that is undecided, and stands before it if it fails.
    6 UndecidedOverwritten: hatokuse "cluster::tests::transactions::no_transaction_goes_over_one_that_is_undecided";
    /// A version that is being completed does not hold back the older answer.
    6 UncommittedNotHidden: simulation "campaign";
    /// What a failed write may have left on a node that cannot be asked is taken for nothing.
    6 DoubtIsAbsence: hatokuse "cluster::tests::doubts::what_a_failed_write_may_have_left_is_not_absent_and_is_deleted_with_a_tombstone";
    /// A newer version that an inventory lists is passed over.
    6 UncommittedDropped: simulation "campaign";
    /// The torn end of a log stays where it is.
    7 TornTailKept: hatokuse "durable::record_log::tests::a_log_cut_anywhere_keeps_the_records_before_the_cut";
    /// Damage in the middle of a log is cut off like a torn end.
    7 DamageCutOff: hatokuse "durable::record_log::tests::a_flipped_byte_is_refused_by_offset";
    /// A commit replaces a newer one.
    7 ReplayIgnoresVersions: hatokuse "cluster::mapping::tests::the_highest_version_wins_in_any_order";
    /// A log that says that it is whole is believed before anybody has said what nodes hold.
    7 LogBelievedUnheard: hatokuse "cluster::tests::inventories::a_log_that_says_that_it_is_whole_may_lack_a_commit_older_than_its_newest";
    /// A leader that has waited long enough goes on without the members that stay away.
    7 TimeReplacesMembers: hatokuse "cluster::tests::inventories::no_time_stands_for_members_that_stay_away";
    /// A buffered log is believed to be whole after a power cut.
    7 BufferedLogBelieved: crash_points "leader::no_crash_and_no_error_on_the_journals_path_loses_a_record";
    /// A folder that cannot be listed is taken for an empty one.
    8 ListErrorIsEmpty: hatokuse "node::files::tests::a_start_that_meets_an_error_fails_or_finds_everything";
    /// What a node does not have that could not note its leader is taken for gone.
    8 UnnotedAbsenceBelieved: simulation "unnoted::what_a_node_lacks_that_would_forget_its_leader_is_unknown";
    /// A copy that cannot be read is taken for none.
    8 ReadErrorIsAbsent: hatokuse "node::files::tests::unknown_is_not_absent";
    /// An inventory concludes whatever its count says.
    8 InventoryNotCounted: hatokuse "cluster::tests::inventories::absence_follows_only_from_a_whole_inventory";
    /// An inventory without a copy tells of writes that are younger than it.
    8 AbsenceAboveFloor: hatokuse "cluster::tests::inventories::an_inventory_says_nothing_of_what_is_younger_than_it";
    /// What was deleted everywhere and forgotten is taken for news when an old copy turns up.
    5 HorizonIgnored: hatokuse "cluster::tests::inventories::what_was_deleted_and_forgotten_stays_deleted";
    /// A failed sync of the log is passed over.
    9 FailedLogSyncIgnored: hatokuse "durable::record_log::tests::a_failed_sync_is_final";
    /// A failed sync of copies is passed over.
    9 FailedCopySyncIgnored: hatokuse "node::files::tests::a_failed_sync_or_rename_is_fatal";
    /// A start after a failed sync believes the files that its journal speaks of, if they can be read.
    9 JournalReadBack: crash_points "node::no_crash_and_no_error_on_a_nodes_path_loses_or_tears_a_copy";
    /// A log that is opened after a failed sync believes its end, if it can be read.
    9 LogReadBack: hatokuse "durable::record_log::tests::what_a_failed_sync_left_is_written_again";
    /// Copies whose sync has failed are left for the next start to find.
    9 UnsyncedCopyLeft: crash_points "node::no_crash_and_no_error_on_a_nodes_path_loses_or_tears_a_copy";
    /// Messages use up what a segment store keeps of its disk for what makes room.
    9 LastRoomForMessages: hatokuse "node::segments::tests::the_last_room_is_left_to_what_makes_room";
    /// A segment store on a disk without a byte keeps its reserve to itself.
    9 ReserveKept: hatokuse "node::segments::tests::a_disk_without_a_byte_takes_deletions_and_smaller_messages";
    /// A segment store whose disk is full leaves reclaiming to what happens beside writes.
    9 NothingReclaimedAtOnce: process "disks::a_small_disk_can_be_filled_and_emptied_again_and_again";
    /// A batch that finds no room is refused as a whole, also where parts of it would fit.
    9 BatchAllOrNothing: hatokuse "node::segments::tests::what_fits_of_a_batch_of_deletions_is_kept";
    /// What is left of a disk is counted for each message of a batch by itself.
    9 RoomCountedForEach: hatokuse "node::segments::tests::what_is_left_of_a_disk_is_counted_for_a_batch_as_a_whole";
    /// The register's time begins anew with each leader, whatever the log says.
    11 TimeGoesBack: hatokuse "leader::register_time::tests::it_goes_on_from_the_later_of_mark_and_median";
    /// A leader that is started again in the same boot takes the median for the time, however far ahead it is.
    11 TimeLeapsAtStart: hatokuse "leader::register_time::tests::it_has_run_on_while_nobody_led_in_the_same_boot_whatever_clocks_show";
    /// Deadlines are measured by the leader's wall clock as it is.
    11 WallClockRaw: hatokuse "leader::register_time::tests::it_runs_with_the_monotonic_clock_whatever_one_wall_clock_does";
    /// Readers are told that a message is gone as soon as its time is over, whatever the log says.
    11 GoneBeforeLog: simulation "expiry::what_cannot_be_deleted_is_not_called_gone";
    /// A leader that is started again gives every message the whole time that it had at first.
    11 TimeToLiveAnew: simulation "expiry::a_hundred_restarts_give_nothing_more_time";
    /// A leader that is started again in the same boot does not know how much of it has passed.
    11 ClockForgotten: simulation "expiry::a_hundred_restarts_give_nothing_more_time";
    /// What ends a message deletes whatever is there when its turn comes.
    11 EndsWhatIsThere: simulation "expiry::what_is_written_over_a_message_that_ends_stays";
    /// Nodes delete copies whose deadline has come by their own clocks.
    11 NodeDropsByClock: simulation "expiry::nodes_keep_what_the_register_keeps_whatever_their_clocks_show";
    /// Readers are shown a message until the sweep has come to it.
    11 ShownUntilSwept: simulation "campaign";
    /// A message that is renamed does not end any more.
    11 DeadlineLostByRename: hatokuse "leader::gateway::data::tests::deadlines_go_where_redis_has_them_go";
    /// A leader that does not know yet says "no such message".
    9 NotFoundAtOnce: simulation "campaign";
    /// A leader that does not know yet counts the messages that it knows of.
    9 CountedUnheard: hatokuse "cluster::tests::inventories::what_is_not_known_is_not_counted";
    /// A leader without its log needs to hear only one of its members.
    9 OneReportIsEnough: simulation "campaign";
    /// A node serves the leader of another cluster.
    10 ForeignLeaderServed: crash_points "identity::only_the_latest_session_of_the_latest_epoch_commands";
    /// A deletion is forgotten while an older version may still become true.
    5 ForgottenBeforeOlder: hatokuse "cluster::tests::deletions::a_deletion_is_forgotten_when_all_that_is_older_has_come_to_its_end";
    /// A tombstone goes when one member has confirmed it.
    5 TombstoneForgottenEarly: hatokuse "cluster::tests::deletions::a_tombstone_waits_for_every_member";
    /// Copies too many are given up without a look at those that stay.
    6 TrimmedUnchecked: process "repair::a_copy_too_many_stays_where_those_that_stay_are_bad";
    /// A caller of RegisterNode is believed what it says of epochs and commits before anybody dialled it back.
    10 ClaimsBelieved: process "strangers::what_a_caller_says_of_epochs_and_commits_is_not_believed";
    /// The number of a node is not held to one folder.
    10 UuidNotPinned: process "refusals::a_number_belongs_to_one_folder";
    /// A log that is written anew knows no users.
    12 UsersNotKept: hatokuse "cluster::tests::state::what_is_made_true_is_what_is_read_again";
    /// What was queued is run whatever its user may do meanwhile.
    12 QueuedUnchecked: process "users::what_was_queued_is_looked_at_again_when_it_is_run";
    /// What a script does is not held against the rights of who runs it.
    12 ScriptUnchecked: process "users::rights_hold_in_the_redis_protocol_however_it_is_asked";
    /// A password that was right once is right for good.
    12 PasswordRememberedForGood: hatokuse "leader::users::tests::a_password_that_was_right_is_not_any_more_when_it_has_changed";
    /// Rules that cannot be read make a user who may do everything.
    12 UnreadableIsAlmighty: hatokuse "leader::users::tests::rules_that_cannot_be_read_make_nobody";
    /// The folder of a member that was removed is let in again.
    10 RemovedFolderAdmitted: simulation "a_removed_folder_never_comes_back";
    /// A second process with a copy of a folder is let in beside the first.
    10 CopiedFolderAdmitted: process "refusals::a_copied_folder_must_be_refused";
    /// Whoever answers at the address that a node gave is taken for that node.
    10 DialBackNotCompared: process "nodes::an_address_where_another_folder_of_that_number_answers_is_refused";
    /// What a leader of an ended epoch has appended becomes true.
    13 EndedEpochWrites: hatokuse "leader::ledger::entry::tests::only_the_last_epoch_writes_and_each_begins_once";
    /// An entry of the leaders' log is called flushed before its sync.
    13 PeerFlushedBeforeSync: hatokuse "raft::tests::disks::nothing_is_acknowledged_before_its_sync_has_returned";
    /// A peer believes what it reads at its start without a sync.
    13 PeerReadBack: hatokuse "raft::tests::disks::what_was_written_and_not_synced_is_synced_before_it_is_believed";
    /// A peer does not write down its vote.
    13 PeerVoteNotKept: hatokuse "raft::tests::disks::votes_and_terms_survive_and_a_bad_vote_refuses_the_start";
    /// A peer with an emptied folder takes part as before.
    13 PeerEmptiedVotes: hatokuse "raft::tests::folders::an_emptied_folder_is_refused_and_never_votes";
    /// A group is founded where there is one.
    13 PeerFoundsTwice: hatokuse "raft::tests::folders::a_group_is_founded_once";
    /// A leader whose disk hangs goes on to lead.
    13 PeerHangsAndLeads: hatokuse "raft::tests::disks::a_leader_whose_disk_takes_nothing_steps_down";
    /// A leader that is started again goes on in its old term, whatever its disk has lost.
    13 PeerGoesOnInItsTerm: hatokuse "raft::tests::real::a_leader_that_lost_its_last_entries_does_not_go_on_in_its_term";
    /// An epoch is shown to nodes before the other leaders have agreed on its beginning.
    13 EpochShownUnagreed: simulation "peer_lives::peers_campaign";
    /// A peer says that it has taken a snapshot which it has not.
    13 PeerSnapshotSaidTaken: hatokuse "raft::tests::snapshots::a_snapshot_that_came_in_part_is_not_taken";
    /// A snapshot is taken without a look at whether all of it came.
    13 PeerSnapshotUnchecked: hatokuse "raft::tests::snapshots::a_snapshot_that_came_in_part_is_not_taken";
    /// A write is acknowledged with its copies, before the log has its intent.
    14 ConcludedUnlogged: simulation "intents::nothing_is_acknowledged_with_its_copies_alone";
    /// A write is acknowledged by its intent though other nodes than that names have stored it.
    14 ConcludedElsewhere: simulation "intents::so_it_is_where_another_node_had_to_take_a_copy";
    /// A leader asks nobody about the writes that the one before had under way.
    14 IntentsForgotten: simulation "intents::what_was_acknowledged_in_the_last_moment_is_shown_by_the_next_leader";
    /// A leader takes the writes that the one before had under way for true, unasked.
    14 IntentsBelieved: hatokuse "cluster::tests::intents::what_the_leader_before_had_under_way_is_decided_by_those_who_may_have_it";
    /// A rewritten log does not say which writes are under way.
    14 IntentNotKept: hatokuse "cluster::tests::state::what_is_made_true_is_what_is_read_again";
}

impl Bug {
    /// Its name, as [`VARIABLE`] has it.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// The tests of the simulation that play seeds until one fails: of one leader, and of several.
pub const CAMPAIGNS: [&str; 2] = ["campaign", "peer_lives::peers_campaign"];

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
        let found = ALL.iter().map(|sown| sown.bug).find(|bug| bug.name() == name);
        Some(found.unwrap_or_else(|| panic!("{VARIABLE}={name} names no bug")))
    };
    *ACTIVE.get_or_init(read) == Some(bug)
}
