//! What a process takes of its machine, of a leader and of a standby alike.

use std::fmt;
use std::path::Path;

use super::Page;
use crate::durable::Space;

/// This process, as the system sees it; what cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process {
    cpu_s: f64,
    resident: Option<u64>,
    open_files: Option<u64>,
    most_files: Option<u64>,
}

impl Process {
    /// As it is now.
    pub(super) fn look() -> Self {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        Self {
            cpu_s: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            resident: kib.map(|kib| kib << 10),
            open_files: std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64),
            most_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        }
    }
}

/// The disk that a log is on; nothing where that cannot be told.
pub(super) fn space(data_dir: &Path) -> Option<Space> {
    rustix::fs::statvfs(data_dir).ok().map(Space::from)
}

impl Page<'_> {
    /// Of this process, and of the disk of its log.
    pub(super) fn machine(&mut self, disk: Option<&Space>, process: &Process) -> fmt::Result {
        if let Some(disk) = disk {
            self.gauge("hatokuse_disk_free_bytes", "Free bytes of the disk of the leader's log", disk.free as f64)?;
            self.gauge("hatokuse_disk_size_bytes", "Size of that disk", disk.size as f64)?;
            self.gauge("hatokuse_disk_free_inodes", "Files that can still be made there", disk.free_files as f64)?;
            self.gauge(
                "hatokuse_disk_inodes",
                "Files that it can hold; 0 where there is no such limit",
                disk.files as f64,
            )?;
        }
        self.counter("process_cpu_seconds", "Processor time of the leader", process.cpu_s)?;
        if let Some(resident) = process.resident {
            self.gauge("process_resident_memory_bytes", "Memory of the leader", resident as f64)?;
        }
        if let Some(open) = process.open_files {
            self.gauge("process_open_fds", "Open files and connections of the leader", open as f64)?;
        }
        if let Some(most) = process.most_files {
            self.gauge("process_max_fds", "The most that there may be", most as f64)?;
        }
        Ok(())
    }
}
