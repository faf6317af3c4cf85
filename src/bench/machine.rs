//! What this machine is, and what CPU time its threads and processes took.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::report::Machine;

/// What the kernel tells; what it does not tell is left out.
pub(super) fn describe() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let memory = memory.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    Machine {
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
        memory_mib: memory.unwrap_or(0) / 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
    }
}

/// CPU time of the calling thread so far.
pub(super) fn cpu_of_this_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec as u32)
}

/// CPU time of these processes so far, user and system, to a hundredth of a second; one that is gone counts nothing.
pub(super) fn cpu_of(pids: &[u32]) -> Duration {
    let ticks = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        ticks_of(&stat)
    };
    Duration::from_millis(pids.iter().filter_map(ticks).sum::<u64>() * 10)
}

/// utime and stime of a line of /proc/PID/stat. The name before them may hold anything, so they are counted from its end.
fn ticks_of(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_a_core() {
        let machine = describe();
        assert!(machine.cores >= 1 && machine.memory_mib > 0 && !machine.kernel.is_empty(), "{machine:?}");
    }

    #[test]
    fn cpu_time_is_read_and_grows() {
        assert_eq!(ticks_of("7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 12 30 0 0 20 0"), Some(42));
        assert_eq!(ticks_of("7 (a"), None);
        let before = cpu_of_this_thread();
        while cpu_of_this_thread() < before + Duration::from_millis(1) {}
        assert_eq!(cpu_of(&[]), Duration::ZERO);
        // Far more than its first hundredth: this test alone may not have one yet.
        while cpu_of(&[std::process::id()]) == Duration::ZERO {}
    }
}
