//! Runs a path once for every disk call that it makes, with that call as the last one, or as one that fails.

use std::fmt::Debug;

use hatokuse::durable::sim::{Fault, MemDisk, Survives};

/// EIO, ENOSPC, EROFS, EMFILE, EINTR, EACCES, a short write, and a sync after which what it did not write can still be read.
const ERRORS: [Fault; 8] = [
    Fault::Fail(5),
    Fault::Fail(28),
    Fault::Fail(30),
    Fault::Fail(24),
    Fault::Fail(4),
    Fault::Fail(13),
    Fault::Short(28),
    Fault::Unwritten(5),
];

/// Whether the fault is a full disk.
pub(crate) fn is_full(fault: Fault) -> bool {
    matches!(fault, Fault::Fail(28) | Fault::Short(28))
}

/// How a run ended, before what it left is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The process was killed: everything that it did is there.
    Kill,
    /// The power failed, and of what was not synced a first part is there.
    PowerCut,
    /// The power failed, and one thing that was not synced is missing, torn or zeros; all others are there.
    OneLost,
}

/// What was tried.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) crash_points: u64,
    pub(crate) power_cuts: u64,
    pub(crate) errors: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.crash_points += other.crash_points;
        self.power_cuts += other.power_cuts;
        self.errors += other.errors;
    }

    #[allow(clippy::print_stdout, reason = "the counts of what was tried are part of the result")]
    pub(crate) fn say(&self, of: &str) {
        let Self { crash_points, power_cuts, errors } = self;
        println!("crash points: {crash_points} of {of}; {power_cuts} power cuts, {errors} errors");
        assert!(*crash_points > 0 && *power_cuts > 0 && *errors > 0, "{of} makes no disk call");
    }
}

/// The disks as they are, with nothing left to sync.
pub(crate) fn synced(disk: &MemDisk) -> MemDisk {
    disk.after_power_cut_with(|_| Survives::Whole)
}

/// Ends `act` before and after each of its disk calls, and shows `check` every disk that this may leave.
pub(crate) fn crashes<T>(
    before: &MemDisk,
    act: impl Fn(&MemDisk) -> T,
    check: impl Fn(&MemDisk, &T, Ending, &str),
) -> Counts {
    let mut counts = Counts::default();
    for call in 0.. {
        let mut over = false;
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let disk = before.after_kill();
            disk.fault_at(call, fault);
            let told = act(&disk);
            over |= !disk.crashed();
            counts.crash_points += u64::from(disk.crashed());
            let what = format!("{fault:?} of call {call}");
            check(&disk.after_kill(), &told, Ending::Kill, &what);
            let unsynced = disk.unsynced();
            for kept in 0..=unsynced {
                let after = disk.after_power_cut_with(|n| if n < kept { Survives::Whole } else { Survives::Nothing });
                check(&after, &told, Ending::PowerCut, &format!("{what}, {kept} of {unsynced} survive"));
                counts.power_cuts += 1;
            }
            for lost in 0..unsynced {
                for fate in [Survives::Nothing, Survives::Part(100), Survives::Zeros] {
                    let after = disk.after_power_cut_with(|n| if n == lost { fate } else { Survives::Whole });
                    check(&after, &told, Ending::OneLost, &format!("{what}, number {lost} of {unsynced} is {fate:?}"));
                    counts.power_cuts += 1;
                }
            }
        }
        if over {
            return counts;
        }
    }
    unreachable!("a path has an end")
}

/// Lets each disk call of `act` fail in each way; `act` itself looks at how it went on.
pub(crate) fn errors<T>(
    before: &MemDisk,
    act: impl Fn(&MemDisk, Fault, &str) -> T,
    check: impl Fn(&MemDisk, &T, Ending, &str),
) -> Counts {
    let mut counts = Counts::default();
    for fault in ERRORS {
        for call in 0.. {
            let disk = before.after_kill();
            disk.fault_at(call, fault);
            let what = format!("{fault:?} at call {call}");
            let told = act(&disk, fault, &what);
            if disk.calls() <= call {
                break;
            }
            check(&disk.after_kill(), &told, Ending::Kill, &what);
            counts.errors += 1;
        }
    }
    counts
}
